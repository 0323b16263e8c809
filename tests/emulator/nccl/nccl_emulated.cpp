/* Stands in for NVIDIA's libnccl where the GPU is emulated: the functions that train/comm uses,
 * written after NCCL's documentation, so that a test sees whether they are called rightly. Ranks
 * are processes that share a file; a collective is a kernel of one thread, so it is asynchronous,
 * as there. Runtime functions are those of the program that loads it.
 *
 * As in non-blocking NCCL, calls are under way when they return: what they do happens when the
 * caller asks after them, and one who does not ask gets an error from the next call.
 * NCCL_EMULATED_FAIL=N: the Nth collective of the process fails as if another rank had died. */
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <functional>

#include <cuda_runtime.h>

enum result {
    SUCCESS,
    CUDA_ERROR,
    SYSTEM_ERROR,
    INTERNAL_ERROR,
    INVALID_ARGUMENT,
    INVALID_USAGE,
    REMOTE_ERROR,
    IN_PROGRESS
};
enum { TYPE_U8 = 1, TYPE_F32 = 7, TYPE_F64 = 8, TYPE_BF16 = 9 };
enum { OPERATION_SUM = 0, OPERATION_MAX = 2 };
enum { MAX_RANKS = 8, PIECE = 1 << 16 /* bytes that a rank shows the others at a time */ };

/* --- What the ranks share --------------------------------------------------------------------- */

/* What a rank says it is doing: real ranks that do different things hang, or worse. */
struct call {
    int kind, type, operation, root;
    uint64_t count;
};

struct shared {
    std::atomic<int> come; /* ranks that have opened the communicator */
    std::atomic<int> waiting, round;
    std::atomic<int> failed; /* nobody waits any more */
    call calls[MAX_RANKS];
    alignas(16) unsigned char pieces[MAX_RANKS][PIECE];
};

struct unique_id {
    char text[128]; /* the file's name */
};

struct ncclComm {
    shared *all;
    int rank, size;
    bool came;
    std::function<void()> pending; /* what the last call has begun */
    int asked;                     /* how often since */
    std::atomic<int> error;
    std::atomic<bool> aborted;
};

/* False: it failed, or was aborted. */
static bool meet(ncclComm *comm)
{
    shared *all = comm->all;
    int round = all->round;
    if (++all->waiting == comm->size) {
        all->waiting = 0;
        all->round++;
    }
    for (int spins = 0; all->round == round; spins++) {
        if (comm->aborted || all->failed) return false;
        if (spins < 100)
            sched_yield();
        else
            usleep(50);
    }
    return !comm->aborted && !all->failed;
}

/* --- Numbers ---------------------------------------------------------------------------------- */

static size_t size_of(int type)
{
    return type == TYPE_F64 ? 8 : type == TYPE_F32 ? 4 : type == TYPE_BF16 ? 2 : 1;
}

static double get(const unsigned char *data, int type, size_t i)
{
    if (type == TYPE_F64) {
        double value;
        memcpy(&value, data + 8 * i, sizeof value);
        return value;
    }
    uint32_t bits = 0;
    float value;
    if (type == TYPE_F32)
        memcpy(&bits, data + 4 * i, sizeof bits);
    else
        memcpy(reinterpret_cast<char *>(&bits) + 2, data + 2 * i, 2);
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void set(unsigned char *data, int type, size_t i, double number)
{
    if (type == TYPE_F64) {
        memcpy(data + 8 * i, &number, sizeof number);
        return;
    }
    float value = (float)number;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (type == TYPE_F32) {
        memcpy(data + 4 * i, &bits, sizeof bits);
        return;
    }
    bits += 0x7fff + (bits >> 16 & 1); /* to nearest even */
    memcpy(data + 2 * i, reinterpret_cast<char *>(&bits) + 2, 2);
}

/* In the order of the ranks, rounded once per addition. */
static void combine(const ncclComm *comm, const call &c, unsigned char *out, size_t offset,
                    size_t n)
{
    for (size_t i = 0; i < n; i++) {
        set(out, c.type, i, get(comm->all->pieces[0] + offset, c.type, i));
        for (int rank = 1; rank < comm->size; rank++) {
            double a = get(out, c.type, i), b = get(comm->all->pieces[rank] + offset, c.type, i);
            set(out, c.type, i, c.operation == OPERATION_MAX ? (a > b ? a : b) : a + b);
        }
    }
}

/* --- Collectives ------------------------------------------------------------------------------ */

enum { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST };

/* Elements [at, at + n) of each rank's part (of the tensor, where there are no parts). */
static bool move_piece(ncclComm *comm, const call &c, const unsigned char *from, unsigned char *to,
                       size_t at, size_t n)
{
    size_t size = size_of(c.type), bytes = n * size, whole = c.count * size;
    unsigned char *mine = comm->all->pieces[comm->rank];
    int parts = c.kind == REDUCE_SCATTER ? comm->size : 1;
    for (int part = 0; part < parts; part++)
        memcpy(mine + part * bytes, from + part * whole + at * size, bytes);
    comm->all->calls[comm->rank] = c;
    if (!meet(comm)) return false;
    for (int rank = 0; rank < comm->size; rank++)
        if (memcmp(&comm->all->calls[rank], &c, sizeof c) != 0) return false;
    if (c.kind == ALL_REDUCE) combine(comm, c, to + at * size, 0, n);
    if (c.kind == REDUCE_SCATTER) combine(comm, c, to + at * size, comm->rank * bytes, n);
    if (c.kind == BROADCAST) memcpy(to + at * size, comm->all->pieces[c.root], bytes);
    for (int rank = 0; c.kind == ALL_GATHER && rank < comm->size; rank++)
        memcpy(to + rank * whole + at * size, comm->all->pieces[rank], bytes);
    return meet(comm);
}

static void move_all(ncclComm *comm, const call &c, const void *from, void *to)
{
    size_t most = PIECE / size_of(c.type) / (c.kind == REDUCE_SCATTER ? comm->size : 1);
    for (size_t at = 0; at < c.count; at += most) {
        size_t n = c.count - at < most ? c.count - at : most;
        if (move_piece(comm, c, static_cast<const unsigned char *>(from),
                       static_cast<unsigned char *>(to), at, n))
            continue;
        comm->error = REMOTE_ERROR;
        comm->all->failed = 1;
        return;
    }
}

static int begin(ncclComm *comm, call c, const void *from, void *to, cudaStream_t stream)
{
    static int collectives;
    const char *fails = getenv("NCCL_EMULATED_FAIL");
    if (comm->pending || !comm->came) return INVALID_USAGE; /* the call before is still under way */
    if (comm->error) return comm->error;
    if (c.type != TYPE_U8 && c.type != TYPE_F32 && c.type != TYPE_F64 && c.type != TYPE_BF16)
        return INVALID_ARGUMENT;
    bool fail = fails && ++collectives == atoi(fails);
    comm->asked = 0;
    comm->pending = [=] {
        if (fail) {
            comm->error = REMOTE_ERROR;
            comm->all->failed = 1;
            return;
        }
        emulator_launch(dim3(1), dim3(1), 0, stream, "nccl", [=] { move_all(comm, c, from, to); });
    };
    return IN_PROGRESS;
}

/* --- Communicators ---------------------------------------------------------------------------- */

static shared *open_shared(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return nullptr;
    void *memory = MAP_FAILED;
    if (ftruncate(fd, sizeof(shared)) == 0)
        memory = mmap(nullptr, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return memory == MAP_FAILED ? nullptr : static_cast<shared *>(memory);
}

/* The head of ncclConfig_t. */
struct config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

extern "C" {

int ncclGetVersion(int *version)
{
    *version = 29900;
    return SUCCESS;
}

int ncclGetUniqueId(unique_id *id)
{
    const char *folder = getenv("TMPDIR");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(id, 0, sizeof *id);
    snprintf(id->text, sizeof id->text, "%.80s/nccl_emulated_%d_%lld_%ld", folder ? folder : "/tmp",
             (int)getpid(), (long long)now.tv_sec, now.tv_nsec);
    return SUCCESS;
}

int ncclCommInitRankConfig(ncclComm **out, int size, unique_id id, int rank, const config *config)
{
    if (config->magic != 0xcafebeef || config->blocking != 0) return INVALID_ARGUMENT;
    if (size < 1 || size > MAX_RANKS || rank < 0 || rank >= size) return INVALID_ARGUMENT;
    shared *all = open_shared(id.text);
    if (!all) return SYSTEM_ERROR;
    auto comm = new ncclComm{};
    comm->all = all;
    comm->rank = rank;
    comm->size = size;
    comm->pending = [=] { comm->came = true; };
    if (++all->come == size) unlink(id.text);
    *out = comm;
    return IN_PROGRESS;
}

/* The program's thread gets on with the work; others look. */
int ncclCommGetAsyncError(ncclComm *comm, int *error)
{
    if (gettid() != getpid()) {
        *error = comm->error;
        return SUCCESS;
    }
    if (comm->pending && comm->asked++ > 0 && comm->all->come == comm->size) {
        comm->pending();
        comm->pending = nullptr;
    }
    *error = comm->pending ? (int)IN_PROGRESS : comm->error.load();
    return SUCCESS;
}

const char *ncclGetErrorString(int result)
{
    return result == REMOTE_ERROR ? "remote process exited or there was a network error"
                                  : "invalid usage or argument";
}

const char *ncclGetLastError(ncclComm *)
{
    return "";
}

int ncclCommFinalize(ncclComm *comm)
{
    if (comm->pending) return INVALID_USAGE;
    comm->asked = 0;
    comm->pending = [] {};
    return IN_PROGRESS;
}

int ncclCommDestroy(ncclComm *comm)
{
    if (comm->pending) return INVALID_USAGE;
    munmap(comm->all, sizeof *comm->all);
    delete comm;
    return SUCCESS;
}

/* The memory stays: a kernel may still be at work in it. */
int ncclCommAbort(ncclComm *comm)
{
    comm->aborted = true;
    comm->all->failed = 1;
    return SUCCESS;
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int operation, ncclComm *comm,
                  cudaStream_t stream)
{
    return begin(comm, {ALL_REDUCE, type, operation, 0, count}, from, to, stream);
}

/* A part that lies in the whole is the rank's own there. */
static bool overlap_badly(const ncclComm *comm, const void *part, const void *whole, size_t count,
                          int type)
{
    auto p = reinterpret_cast<uintptr_t>(part), w = reinterpret_cast<uintptr_t>(whole);
    size_t bytes = count * size_of(type);
    bool apart = p + bytes <= w || p >= w + comm->size * bytes;
    return !apart && p != w + comm->rank * bytes;
}

int ncclReduceScatter(const void *from, void *to, size_t count, int type, int operation,
                      ncclComm *comm, cudaStream_t stream)
{
    if (overlap_badly(comm, to, from, count, type)) return INVALID_ARGUMENT;
    return begin(comm, {REDUCE_SCATTER, type, operation, 0, count}, from, to, stream);
}

int ncclAllGather(const void *from, void *to, size_t count, int type, ncclComm *comm,
                  cudaStream_t stream)
{
    if (overlap_badly(comm, from, to, count, type)) return INVALID_ARGUMENT;
    return begin(comm, {ALL_GATHER, type, 0, 0, count}, from, to, stream);
}

int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, ncclComm *comm,
                  cudaStream_t stream)
{
    return begin(comm, {BROADCAST, type, 0, root, count}, from, to, stream);
}
}
