/* The host's side of the emulator: device and pinned memory, copies. */
#include "tests/emulator/runtime.h"

#include <map>
#include <memory>
#include <vector>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/emulator/sanitizer.h"

/* --- Device memory: not for the host ---------------------------------------------------- */

/* Its end lies at a page that nobody may touch, but for rounding up to 256 bytes. */
struct allocation {
    size_t bytes;
    char *mapping; /* guard page, memory, guard page */
    size_t mapping_bytes;
};

static std::map<uintptr_t, allocation> device_memory; /* by address */
static std::map<uintptr_t, size_t> pinned_memory;

static size_t page_bytes()
{
    static const size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    return bytes;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

uint64_t emulator_total_memory()
{
    return emulator_setting("EMULATOR_MEMORY", (uint64_t)8 << 30);
}

static bool protects()
{
    static const bool protects = emulator_setting("EMULATOR_PROTECT", 1) != 0;
    return protects;
}

static void set_access(const allocation &a, int access)
{
    if (a.mapping_bytes > 2 * page_bytes() &&
        mprotect(a.mapping + page_bytes(), a.mapping_bytes - 2 * page_bytes(), access)) {
        perror("emulator: mprotect");
        abort();
    }
}

static int device_work_depth;
static bool open_to_host;

void emulator_device_work_begin()
{
    if (device_work_depth++ || open_to_host || !protects()) return;
    for (const auto &entry : device_memory)
        set_access(entry.second, PROT_READ | PROT_WRITE);
    open_to_host = true;
}

void emulator_device_work_end()
{
    device_work_depth--;
}

void emulator_protect()
{
    if (device_work_depth || !open_to_host) return;
    for (const auto &entry : device_memory)
        set_access(entry.second, PROT_NONE);
    open_to_host = false;
}

static bool in_range(uintptr_t p, size_t bytes, uintptr_t start, size_t size)
{
    return p >= start && p - start <= size && bytes <= size - (p - start);
}

static bool is_device(const void *pointer, size_t bytes)
{
    auto next = device_memory.upper_bound((uintptr_t)pointer);
    if (next == device_memory.begin()) return false;
    --next;
    return in_range((uintptr_t)pointer, bytes, next->first, next->second.bytes);
}

static bool is_pinned(const void *pointer, size_t bytes)
{
    auto next = pinned_memory.upper_bound((uintptr_t)pointer);
    if (next == pinned_memory.begin()) return false;
    --next;
    return in_range((uintptr_t)pointer, bytes, next->first, next->second);
}

bool emulator_is_global(const void *p, size_t bytes)
{
    return is_device(p, bytes) || is_pinned(p, bytes);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *total = (size_t)emulator_total_memory();
    *available =
        *total > emulator_count.live_bytes ? *total - (size_t)emulator_count.live_bytes : 0;
    return emulator_result(cudaSuccess);
}

/* --- Allocating -------------------------------------------------------------------------- */

static void guard_slack(char *end_of_use, size_t slack, bool poison)
{
#if EMULATOR_ASAN
    if (poison)
        __asan_poison_memory_region(end_of_use, slack);
    else
        __asan_unpoison_memory_region(end_of_use, slack);
#else
    (void)end_of_use, (void)slack, (void)poison;
#endif
}

static bool slack_is_intact(uintptr_t p, const allocation &a)
{
    if (EMULATOR_ASAN) return true; /* it would have said so */
    for (size_t i = a.bytes; i < round_up(a.bytes, 256); i++)
        if (reinterpret_cast<const unsigned char *>(p)[i] != 0xff) return false;
    return true;
}

/* Large pieces that were freed, kept because touching new memory takes long. Nobody may touch them
 * meanwhile. */
static std::vector<allocation> spare;
static const size_t SPARE_LARGEST = 256 << 20, SPARE_COUNT = 4;

static bool map_memory(allocation *a)
{
    for (size_t i = 0; i < spare.size(); i++)
        if (spare[i].mapping_bytes == a->mapping_bytes) {
            a->mapping = spare[i].mapping;
            spare.erase(spare.begin() + (ptrdiff_t)i);
            return true;
        }
    void *mapping = mmap(nullptr, a->mapping_bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return false;
    a->mapping = static_cast<char *>(mapping);
    madvise(mapping, a->mapping_bytes, MADV_HUGEPAGE); /* protecting goes page by page */
    return true;
}

static void unmap_memory(const allocation &a)
{
    if (spare.size() < SPARE_COUNT && a.mapping_bytes >= 1 << 20 &&
        a.mapping_bytes <= SPARE_LARGEST) {
        set_access(a, PROT_NONE);
        spare.push_back(a);
    } else {
        munmap(a.mapping, a.mapping_bytes);
    }
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    *out = nullptr;
    if (cudaError_t error = emulator_result(cudaSuccess)) return error;
    if (emulator_captures_anywhere()) return emulator_refuse_in_capture();
    if (bytes == 0) return emulator_result(cudaSuccess);
    if (bytes > emulator_total_memory() ||
        emulator_count.live_bytes > emulator_total_memory() - bytes)
        return emulator_result(cudaErrorMemoryAllocation);
    size_t used = round_up(bytes, 256), page = page_bytes();
    allocation a = {bytes, nullptr, round_up(used, page) + 2 * page};
    if (!map_memory(&a)) return emulator_result(cudaErrorMemoryAllocation);
    set_access(a, PROT_READ | PROT_WRITE);
    char *p = a.mapping + a.mapping_bytes - page - used;
    memset(p, 0xff, used);
    guard_slack(p + bytes, used - bytes, true);
    if (protects() && !open_to_host) set_access(a, PROT_NONE);
    device_memory[(uintptr_t)p] = a;
    emulator_count.allocations++;
    emulator_count.live_bytes += bytes;
    *out = p;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaFree(void *p)
{
    if (!p) return emulator_result(cudaSuccess);
    if (emulator_captures_anywhere()) return emulator_refuse_in_capture();
    auto entry = device_memory.find((uintptr_t)p);
    if (entry == device_memory.end()) return emulator_result(cudaErrorInvalidValue);
    emulator_count.synchronisations++;
    emulator_count.frees++;
    emulator_run_everything();
    allocation a = entry->second;
    emulator_device_work_begin();
    bool intact = slack_is_intact(entry->first, a);
    emulator_device_work_end();
    guard_slack(static_cast<char *>(p) + a.bytes, round_up(a.bytes, 256) - a.bytes, false);
    device_memory.erase(entry);
    unmap_memory(a);
    emulator_count.live_bytes -= a.bytes;
    if (!intact) {
        emulator_break(cudaErrorIllegalAddress);
        emulator_report("some kernel wrote behind " + std::to_string(a.bytes) +
                        " bytes of device memory, found when they were freed");
    }
    return emulator_result(cudaSuccess);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    *out = nullptr;
    if (emulator_captures_anywhere()) return emulator_refuse_in_capture();
    if (bytes == 0) return emulator_result(cudaSuccess);
    if (posix_memalign(out, 256, bytes)) return emulator_result(cudaErrorMemoryAllocation);
    memset(*out, 0xff, bytes);
    pinned_memory[(uintptr_t)*out] = bytes;
    emulator_count.allocations++;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *p)
{
    if (!p) return emulator_result(cudaSuccess);
    if (emulator_captures_anywhere()) return emulator_refuse_in_capture();
    if (!pinned_memory.count((uintptr_t)p)) return emulator_result(cudaErrorInvalidValue);
    emulator_count.synchronisations++;
    emulator_count.frees++;
    emulator_run_everything();
    pinned_memory.erase((uintptr_t)p);
    free(p);
    return emulator_result(cudaSuccess);
}

/* --- Copies ------------------------------------------------------------------------------ */

static cudaError_t check_copy(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    bool to_device = is_device(to, 0), from_device = is_device(from, 0);
    if ((unsigned)kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
    if (kind != cudaMemcpyDefault) {
        bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
        bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
        if (wants_to != to_device || wants_from != from_device) return cudaErrorInvalidValue;
    }
    if (to_device && !is_device(to, bytes)) return cudaErrorInvalidValue;
    if (from_device && !is_device(from, bytes)) return cudaErrorInvalidValue;
    return cudaSuccess;
}

/* From pageable memory the bytes are taken at once, to pageable memory the copy is waited for. */
static cudaError_t copy(void *to, const void *from, size_t bytes, cudaStream_t stream)
{
    bool pageable_from = !emulator_is_global(from, bytes);
    bool pageable_to = !emulator_is_global(to, bytes);
    bool captures = emulator_captures(stream);
    if (captures && (pageable_from || pageable_to)) return emulator_refuse_in_capture();
    emulator_count.copies++;
    if (pageable_from) {
        const char *start = static_cast<const char *>(from);
        auto bytes_now = std::make_shared<std::vector<char>>(start, start + bytes);
        return emulator_enqueue(stream, [=] {
            memcpy(to, bytes_now->data(), bytes);
            return true;
        });
    }
    cudaError_t error = emulator_enqueue(stream, [=] {
        memmove(to, from, bytes);
        return true;
    });
    if (error || !pageable_to) return error;
    emulator_count.synchronisations++;
    emulator_run_stream(stream);
    return emulator_result(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    cudaError_t error = emulator_result(cudaSuccess);
    if (error || bytes == 0) return error;
    error = check_copy(to, from, bytes, kind);
    return error ? emulator_result(error) : copy(to, from, bytes, stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    if (emulator_captures_anywhere()) return emulator_refuse_in_capture();
    uint64_t synchronisations = emulator_count.synchronisations + 1;
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    emulator_count.synchronisations = synchronisations; /* one, to pageable memory too */
    emulator_run_stream(nullptr);
    return emulator_result(error);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream)
{
    if (bytes == 0) return emulator_result(cudaSuccess);
    if (!is_device(p, bytes)) return emulator_result(cudaErrorInvalidValue);
    emulator_count.fills++;
    return emulator_enqueue(stream, [=] {
        memset(p, value, bytes);
        return true;
    });
}

cudaError_t cudaMemset(void *p, int value, size_t bytes)
{
    return cudaMemsetAsync(p, value, bytes, nullptr);
}
