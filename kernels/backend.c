/* Backends of the CPU: choosing the instruction set, the table, threads, scratch memory; and the
 * lt_<operation> calls. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/memory.h"
#include "kernels/cuda/cuda.h"
#include "kernels/internal.h"

#define HUGE_PAGE ((size_t)2 << 20)

typedef struct cpu_state {
    struct {
        void *data;
        size_t bytes;
    } scratch[LT_SCRATCH_COUNT];
} cpu_state;

/* --- Instruction sets ------------------------------------------------------------------------ */

typedef struct isa {
    const char *name, *backend_name;
    bool (*available)(void);
    void (*fill)(lt_ops *ops); /* NULL: the reference operations are all there is */
} isa;

static bool always(void)
{
    return true;
}

#ifdef LT_HAVE_X86
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static const isa isas[] = {
    [LT_ISA_REF] = {"ref", "cpu-ref", always, NULL},
#ifdef LT_HAVE_X86
    [LT_ISA_AVX2] = {"avx2", "cpu-avx2", has_avx2, lt_avx2_fill},
    [LT_ISA_AVX512] = {"avx512", "cpu-avx512", has_avx512, lt_avx512_fill},
#endif
};
#define ISA_COUNT (sizeof isas / sizeof isas[0])

/* The one asked for by `name`, by LATHE_ISA, or the last (best) that this machine has. */
static lt_status choose_isa(const char *name, const isa **out, lt_err *err)
{
    const char *source = "the backend settings";
    if (!name) {
        name = getenv("LATHE_ISA");
        source = "LATHE_ISA";
    }
    for (size_t i = ISA_COUNT; i-- > 0;) {
        bool wanted = name && *name ? strcmp(name, isas[i].name) == 0 : isas[i].available();
        if (!wanted) continue;
        if (!isas[i].available())
            return lt_fail(err, LT_ERR_USAGE, "%s asks for \"%s\", which this machine lacks",
                           source, name);
        *out = &isas[i];
        return LT_OK;
    }
    return lt_fail(err, LT_ERR_USAGE,
                   "%s: unknown instruction set \"%s\"; known: ref, avx2, avx512", source, name);
}

lt_isa lt_cpu_isa(void)
{
    const isa *chosen = NULL;
    return choose_isa(NULL, &chosen, NULL) == LT_OK ? (lt_isa)(chosen - isas) : LT_ISA_REF;
}

/* --- Creation -------------------------------------------------------------------------------- */

static lt_status copy_bytes(const lt_backend *backend, void *to, const void *from, size_t bytes,
                            lt_err *err)
{
    (void)backend;
    (void)err;
    if (bytes) memmove(to, from, bytes);
    return LT_OK;
}

static uint64_t available_memory(const lt_backend *backend)
{
    (void)backend;
    return lt_available_memory();
}

static lt_status nothing_to_wait_for(const lt_backend *backend, lt_err *err)
{
    (void)backend;
    (void)err;
    return LT_OK;
}

static lt_status create(const char *name, lt_dtype real, int threads, lt_backend **out, lt_err *err)
{
    lt_backend *backend = calloc(1, sizeof *backend);
    cpu_state *state = calloc(1, sizeof *state);
    if (!backend || !state) {
        free(backend);
        free(state);
        return lt_fail_nomem(err, sizeof *backend + sizeof *state, "a backend");
    }
    backend->name = name;
    backend->device = LT_DEVICE_CPU;
    backend->real = real;
    backend->statistics = real;
    backend->threads = threads;
    backend->available_memory = available_memory;
    backend->upload = backend->download = copy_bytes;
    backend->synchronize = nothing_to_wait_for;
    backend->state = state;
    *out = backend;
    return LT_OK;
}

static lt_status create_cpu(const lt_backend_settings *settings, lt_backend **out, lt_err *err)
{
    const isa *chosen = NULL;
    if (settings->half)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "bfloat16 activations need a GPU; on the CPU everything is float32");
    if (settings->threads < 0)
        return lt_fail(err, LT_ERR_USAGE, "threads is %d; it must be 0 (all cores) or more",
                       settings->threads);
    LT_TRY(choose_isa(settings->isa, &chosen, err));
    int threads = settings->threads ? settings->threads : omp_get_max_threads();
    LT_TRY(create(chosen->backend_name, LT_F32, threads, out, err));
    lt_ref_f32_fill(&(*out)->ops);
    if (chosen->fill) chosen->fill(&(*out)->ops);
    return LT_OK;
}

/* No operation, no memory: what a plan needs to know about a GPU. */
static lt_status create_cuda_plan(const lt_backend_settings *settings, lt_backend **out,
                                  lt_err *err)
{
    LT_TRY(create(settings->half ? "cuda-bf16" : "cuda-f32", settings->half ? LT_BF16 : LT_F32, 1,
                  out, err));
    (*out)->device = LT_DEVICE_CUDA;
    (*out)->statistics = LT_F32;
    (*out)->own_memory = LT_CUDA_SCRATCH;
    return LT_OK;
}

lt_status lt_backend_create(const lt_backend_settings *settings, lt_backend **out, lt_err *err)
{
    const lt_backend_settings defaults = {0};
    if (!settings) settings = &defaults;
    *out = NULL;
    if (settings->device == LT_DEVICE_CPU) return create_cpu(settings, out, err);
    if (settings->plan_only) return create_cuda_plan(settings, out, err);
    return lt_cuda_backend_create(settings, out, err);
}

lt_status lt_backend_create_double(lt_backend **out, lt_err *err)
{
    *out = NULL;
    LT_TRY(create("cpu-ref-f64", LT_F64, 1, out, err));
    lt_ref_f64_fill(&(*out)->ops);
    return LT_OK;
}

void lt_backend_free(lt_backend *backend)
{
    if (!backend) return;
    if (backend->device == LT_DEVICE_CUDA && backend->memory.allocate) {
        lt_cuda_backend_free(backend);
        return;
    }
    cpu_state *state = backend->state;
    for (int i = 0; i < LT_SCRATCH_COUNT; i++)
        free(state->scratch[i].data);
    free(state);
    free(backend);
}

/* --- Scratch memory -------------------------------------------------------------------------- */

lt_status lt_scratch_get(const lt_backend *backend, lt_scratch slot, size_t bytes, void **out,
                         lt_err *err)
{
    cpu_state *state = backend->state;
    if (bytes > state->scratch[slot].bytes) {
        /* whole huge pages once it is large: packing walks over many pages at once */
        size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
        size_t rounded = lt_align_up(bytes, alignment);
        void *data = aligned_alloc(alignment, rounded);
        if (!data) return lt_fail_nomem(err, rounded, "packing buffers");
        if (alignment == HUGE_PAGE) madvise(data, rounded, MADV_HUGEPAGE);
        free(state->scratch[slot].data);
        state->scratch[slot].data = data;
        state->scratch[slot].bytes = rounded;
    }
    *out = state->scratch[slot].data;
    return LT_OK;
}

/* --- The calls ------------------------------------------------------------------------------- */

#define LT_CALL_SLOT(operation, args)                                                           \
    lt_status lt_##operation(const lt_backend *backend, const args *a, lt_err *err)             \
    {                                                                                           \
        if (!backend->ops.operation)                                                            \
            return lt_fail(err, LT_ERR_UNSUPPORTED, "%s lacks the operation %s", backend->name, \
                           #operation);                                                         \
        LT_TRY(lt_check_##operation(backend, a, err));                                          \
        return backend->ops.operation(backend, a, err);                                         \
    }
LT_OPERATIONS(LT_CALL_SLOT)
