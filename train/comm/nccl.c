/* The backend over NCCL: collectives between GPUs, in a queue beside the operations. NCCL runs in
 * non-blocking mode: a call that would wait for other ranks returns at once and is asked after,
 * so that a rank that never comes is an error and not a hang. Its id reaches the ranks over TCP
 * (rendezvous.h), or over MPI where mpirun started them. */
#include "train/comm/internal.h"

#ifndef LT_HAVE_NCCL

lt_status lt_comm_nccl_available(lt_err *err)
{
    return lt_fail(
        err, LT_ERR_UNSUPPORTED,
        "this build of lathe has no NCCL; build it where nccl.h is (package "
        "libnccl-dev), or start with mpirun, so that MPI carries what the GPUs exchange");
}

lt_status lt_comm_nccl_open(lt_comm *comm, const lt_comm_settings *settings, lt_err *err)
{
    (void)comm;
    (void)settings;
    return lt_comm_nccl_available(err);
}

#else

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/queue.h"
#include "train/comm/nccl_library.h"

/* Seconds. NCCL notices a dead rank in its own words; the rendezvous, a little later, by name. */
#define OPENING_LIMIT 600.0
#define CLOSING_LIMIT 10.0
#define WORD_OF_DEATH 1.0

enum { MIN_SCRATCH = 64 << 10 }; /* bytes on the device: values of the host pass through them */

typedef struct nccl_state {
    const lt_nccl *nccl;
    ncclComm_t comm;
    lt_queue *queue;
    double limit; /* seconds for any one call; 0: none */
    void *scratch;
    size_t scratch_bytes;
    lt_rendezvous *rendezvous; /* one of the two brought the id, */
    lt_comm *bootstrap;        /* and ends the others when this process fails */
    _Atomic uint64_t last_mark;
    _Atomic uint64_t sequences[LT_QUEUE_MARKS]; /* of mark % LT_QUEUE_MARKS */
    uint64_t reached;                           /* the last mark that poll has seen reached */
} nccl_state;

/* poll is called by the watchdog, also while the communicator is being closed. */
static pthread_mutex_t polling = PTHREAD_MUTEX_INITIALIZER;

lt_status lt_comm_nccl_available(lt_err *err)
{
    const lt_nccl *nccl = NULL;
    return lt_nccl_load(&nccl, err);
}

/* --- NCCL's answers --------------------------------------------------------------------------- */

static void pause_for(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds};
    t.tv_nsec = (long)(1e9 * (seconds - (double)t.tv_sec));
    nanosleep(&t, NULL);
}

/* Often at first: what is waited for mostly takes microseconds. */
static void pause_between(int attempt)
{
    if (attempt < 1000)
        sched_yield();
    else
        pause_for(50e-6);
}

static double seconds_since(int64_t start)
{
    return 1e-9 * (double)(lt_comm_clock() - start);
}

static lt_status failed(const nccl_state *s, const char *call, ncclResult_t result, lt_err *err)
{
    const char *more = s->comm ? s->nccl->get_last_error(s->comm) : NULL;
    /* another rank's death: its name comes over the rendezvous, and ends this process */
    if (s->rendezvous && (result == ncclRemoteError || result == ncclSystemError))
        pause_for(WORD_OF_DEATH);
    return lt_fail(err, LT_ERR_IO, "NCCL: %s: %s%s%s", call, s->nccl->get_error_string(result),
                   more && *more ? ": " : "", more ? more : "");
}

/* What the call came to, after the time it takes; `limit` in seconds, 0: none. */
static lt_status settle(const nccl_state *s, const char *call, ncclResult_t result, double limit,
                        lt_err *err)
{
    int64_t start = lt_comm_clock();
    for (int attempt = 0; result == ncclInProgress; attempt++) {
        if (limit > 0 && seconds_since(start) > limit)
            return lt_fail(err, LT_ERR_IO, "NCCL: %s: the other ranks did not join in %.0f seconds",
                           call, limit);
        pause_between(attempt);
        ncclResult_t asked = s->nccl->get_async_error(s->comm, &result);
        if (asked != ncclSuccess) result = asked;
    }
    return result == ncclSuccess ? LT_OK : failed(s, call, result, err);
}

/* --- Collectives ------------------------------------------------------------------------------ */

/* Sums need the type; other things are moved as bytes. */
static ncclDataType_t summed_type(lt_dtype dtype)
{
    return dtype == LT_F64 ? ncclDouble : dtype == LT_BF16 ? ncclBfloat16 : ncclFloat;
}

static lt_status enqueue(nccl_state *s, const lt_collective *c, lt_err *err)
{
    static const char *const names[LT_COMM_OPERATION_COUNT] = {
        "ncclAllReduce", "ncclAllReduce", "ncclReduceScatter", "ncclAllGather", "ncclBroadcast"};
    const lt_nccl *nccl = s->nccl;
    cudaStream_t stream = lt_queue_native(s->queue);
    ncclDataType_t type = summed_type(c->dtype);
    size_t count = (size_t)c->count, bytes = count * lt_dtype_size(c->dtype);
    ncclResult_t result = ncclInternalError;
    switch (c->operation) {
    case LT_COMM_ALL_REDUCE:
        result = nccl->all_reduce(c->from, c->to, count, type, ncclSum, s->comm, stream);
        break;
    case LT_COMM_MAX:
        result = nccl->all_reduce(c->from, c->to, count, type, ncclMax, s->comm, stream);
        break;
    case LT_COMM_REDUCE_SCATTER:
        result = nccl->reduce_scatter(c->from, c->to, count, type, ncclSum, s->comm, stream);
        break;
    case LT_COMM_ALL_GATHER:
        result = nccl->all_gather(c->from, c->to, bytes, ncclUint8, s->comm, stream);
        break;
    case LT_COMM_BROADCAST:
        result = nccl->broadcast(c->from, c->to, bytes, ncclUint8, c->root, s->comm, stream);
        break;
    case LT_COMM_OPERATION_COUNT:
        break;
    }
    return settle(s, names[c->operation], result, s->limit, err);
}

/* After what the operations have written; *mark is behind it. */
static lt_status start(nccl_state *s, const lt_collective *c, uint64_t *mark, lt_err *err)
{
    LT_TRY(lt_queue_wait_for_operations(s->queue, err));
    LT_TRY(enqueue(s, c, err));
    LT_TRY(lt_queue_mark(s->queue, mark, err));
    atomic_store(&s->sequences[*mark % LT_QUEUE_MARKS], c->sequence);
    atomic_store(&s->last_mark, *mark);
    return LT_OK;
}

static lt_status nccl_begin(lt_comm *comm, const lt_collective *collective, lt_err *err)
{
    uint64_t mark = 0;
    return start(comm->state, collective, &mark, err);
}

/* One that is not known any more ended before the oldest that is. */
static lt_status nccl_wait(lt_comm *comm, uint64_t sequence, lt_err *err)
{
    nccl_state *s = comm->state;
    uint64_t mark = atomic_load(&s->last_mark);
    uint64_t oldest = mark >= LT_QUEUE_MARKS ? mark - LT_QUEUE_MARKS + 1 : 1;
    while (mark > oldest && atomic_load(&s->sequences[mark % LT_QUEUE_MARKS]) != sequence)
        mark--;
    return lt_operations_wait_for(s->queue, mark, err);
}

/* Called by the watchdog's thread. */
static lt_status poll_state(lt_comm *comm, nccl_state *s, lt_err *err)
{
    ncclResult_t result = ncclSuccess;
    if (s->nccl->get_async_error(s->comm, &result) != ncclSuccess ||
        (result != ncclSuccess && result != ncclInProgress))
        return failed(s, "a collective", result, err);
    uint64_t last = atomic_load(&s->last_mark), ended = 0;
    if (last > s->reached + LT_QUEUE_MARKS) s->reached = last - LT_QUEUE_MARKS;
    for (bool reached = true; reached && s->reached < last;) {
        uint64_t sequence = atomic_load(&s->sequences[(s->reached + 1) % LT_QUEUE_MARKS]);
        LT_TRY(lt_queue_reached(s->queue, s->reached + 1, &reached, err));
        if (!reached) break;
        s->reached++;
        ended = sequence;
    }
    if (ended > 0) lt_comm_ended(comm, ended);
    return LT_OK;
}

static lt_status nccl_poll(lt_comm *comm, lt_err *err)
{
    pthread_mutex_lock(&polling);
    nccl_state *s = comm->state;
    lt_status status = s ? poll_state(comm, s, err) : LT_OK;
    pthread_mutex_unlock(&polling);
    return status;
}

/* --- Values of the host ----------------------------------------------------------------------- */

/* The host waits too, and hears of errors, which it would not inside a download. */
static lt_status wait_on_host(nccl_state *s, uint64_t mark, lt_err *err)
{
    bool reached = false;
    for (int attempt = 0;; attempt++) {
        ncclResult_t result = ncclSuccess;
        LT_TRY(lt_queue_reached(s->queue, mark, &reached, err));
        if (reached) return lt_operations_wait_for(s->queue, mark, err);
        if (s->nccl->get_async_error(s->comm, &result) != ncclSuccess ||
            (result != ncclSuccess && result != ncclInProgress))
            return failed(s, "a collective", result, err);
        pause_between(attempt);
    }
}

/* Up to `bytes` of each rank's data, through the scratch: `from` goes to `at` in it, and what
 * `parts` of that size hold afterwards comes back to `to`, `stride` bytes apart. */
typedef struct passage {
    size_t at, bytes;
    int parts;
    const char *from;
    char *to;
    size_t stride;
} passage;

static lt_status pass(lt_comm *comm, const lt_collective *whole, const passage *p, lt_err *err)
{
    nccl_state *s = comm->state;
    const lt_backend *backend = comm->backend;
    char *scratch = s->scratch;
    uint64_t mark = 0;
    lt_collective c = *whole;
    c.count = (int64_t)(p->bytes / lt_dtype_size(whole->dtype));
    c.from = scratch + p->at;
    c.to = scratch;
    LT_TRY(backend->upload(backend, scratch + p->at, p->from, p->bytes, err));
    LT_TRY(start(s, &c, &mark, err));
    LT_TRY(wait_on_host(s, mark, err));
    for (int i = 0; i < p->parts; i++)
        LT_TRY(backend->download(backend, p->to + (size_t)i * p->stride,
                                 scratch + (size_t)i * p->bytes, p->bytes, err));
    return LT_OK;
}

static lt_status nccl_host(lt_comm *comm, const lt_collective *collective, lt_err *err)
{
    const nccl_state *s = comm->state;
    bool gather = collective->operation == LT_COMM_ALL_GATHER;
    int parts = gather ? comm->size : 1;
    size_t total = (size_t)collective->count * lt_dtype_size(collective->dtype);
    size_t most = s->scratch_bytes / (size_t)parts / 8 * 8;
    for (size_t done = 0; done < total;) {
        size_t bytes = total - done < most ? total - done : most;
        const passage p = {.at = gather ? (size_t)comm->rank * bytes : 0,
                           .bytes = bytes,
                           .parts = parts,
                           .from = (const char *)collective->from + done,
                           .to = (char *)collective->to + done,
                           .stride = total};
        LT_TRY(pass(comm, collective, &p, err));
        done += bytes;
    }
    lt_comm_ended(comm, collective->sequence);
    return LT_OK;
}

/* --- Ending ----------------------------------------------------------------------------------- */

static void nccl_abort(lt_comm *comm, int exit_code)
{
    nccl_state *s = comm->state;
    if (!s) return;
    lt_comm_tell_end(comm, s->rendezvous, exit_code);
    if (s->bootstrap && s->bootstrap->ops) s->bootstrap->ops->abort(s->bootstrap, exit_code);
    if (s->comm) (void)s->nccl->abort(s->comm);
}

static void close_bootstrap(lt_comm *bootstrap)
{
    if (bootstrap && bootstrap->ops) bootstrap->ops->close(bootstrap);
    free(bootstrap);
}

/* Closes what there is. After a failure the other ranks may be stuck inside a collective, and so
 * may the GPU: what it uses is left to the end of the process. */
static void tear_down(lt_comm *comm, nccl_state *s)
{
    const lt_memory *memory = &comm->backend->memory;
    if (comm->failed) lt_comm_tell_leaving(s->rendezvous);
    if (s->bootstrap) s->bootstrap->failed = comm->failed;
    if (!comm->failed && s->comm &&
        settle(s, "ncclCommFinalize", s->nccl->finalize(s->comm), CLOSING_LIMIT, NULL) == LT_OK)
        (void)s->nccl->destroy(s->comm);
    if (!comm->failed || !s->comm) {
        lt_queue_free(s->queue);
        if (s->scratch) memory->release(memory->context, s->scratch, s->scratch_bytes);
    }
    close_bootstrap(s->bootstrap);
    lt_rendezvous_close(s->rendezvous);
    free(s);
}

static void nccl_close(lt_comm *comm)
{
    pthread_mutex_lock(&polling);
    nccl_state *s = comm->state;
    comm->state = NULL;
    pthread_mutex_unlock(&polling);
    if (s) tear_down(comm, s);
}

/* --- Opening ---------------------------------------------------------------------------------- */

static lt_status share_id_by_mpi(lt_comm *comm, const lt_comm_settings *settings, ncclUniqueId *id,
                                 lt_err *err)
{
    nccl_state *s = comm->state;
    lt_collective share = {
        .operation = LT_COMM_BROADCAST, .dtype = LT_U8, .count = sizeof *id, .from = id, .to = id};
    s->bootstrap = calloc(1, sizeof *s->bootstrap);
    if (!s->bootstrap) return lt_fail_nomem(err, sizeof *s->bootstrap, "a communicator");
    s->bootstrap->kind = LT_COMM_MPI;
    s->bootstrap->rank = comm->rank;
    s->bootstrap->size = comm->size;
    s->bootstrap->place = comm->place;
    s->bootstrap->backend = comm->backend;
    LT_TRY(lt_comm_mpi_open(s->bootstrap, settings, err));
    lt_flight_begin(&s->bootstrap->flight, &share, true);
    return s->bootstrap->ops->host(s->bootstrap, &share, err);
}

/* mpirun's processes have MPI; srun's perhaps, and those with MASTER_ADDR need none. */
static bool use_mpi(const lt_launch_place *place)
{
    if (lt_comm_mpi_available(NULL) != LT_OK) return false;
    return place->launcher == LT_LAUNCHER_MPI ||
           (place->launcher == LT_LAUNCHER_SLURM && !place->master_address[0]);
}

/* What this process needs by itself. */
static lt_status prepare(lt_comm *comm, ncclUniqueId *id, lt_err *err)
{
    nccl_state *s = comm->state;
    const lt_memory *memory = &comm->backend->memory;
    LT_TRY(lt_nccl_load(&s->nccl, err));
    snprintf(comm->name, sizeof comm->name, "nccl %d.%d.%d", s->nccl->version / 10000,
             s->nccl->version / 100 % 100, s->nccl->version % 100);
    LT_TRY(lt_queue_create(comm->backend, &s->queue, err));
    s->scratch_bytes = MIN_SCRATCH;
    if ((size_t)comm->size * 8 > s->scratch_bytes) s->scratch_bytes = (size_t)comm->size * 8;
    s->scratch = memory->allocate(memory->context, s->scratch_bytes);
    if (!s->scratch) return lt_fail_nomem(err, s->scratch_bytes, "NCCL's scratch on the GPU");
    if (comm->rank != 0) return LT_OK;
    return settle(s, "ncclGetUniqueId", s->nccl->get_unique_id(id), 0, err);
}

/* A rank that can not go on comes to the rendezvous all the same: so that the others hear of it. */
static lt_status connect_ranks(lt_comm *comm, const lt_comm_settings *settings, lt_err *err)
{
    nccl_state *s = comm->state;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id = {0};
    lt_status ready = prepare(comm, &id, err);
    lt_err *second = ready == LT_OK ? err : NULL;
    lt_status shared = use_mpi(&comm->place)
                           ? share_id_by_mpi(comm, settings, &id, second)
                           : lt_comm_meet(comm, settings, &id, sizeof id, &s->rendezvous, second);
    LT_TRY(ready);
    LT_TRY(shared);
    s->limit = settings->timeout;
    config.blocking = 0;
    return settle(s, "ncclCommInitRankConfig",
                  s->nccl->init_rank_config(&s->comm, comm->size, id, comm->rank, &config),
                  s->limit > 0 ? s->limit : OPENING_LIMIT, err);
}

static void tell_failure(lt_comm *comm, const char *why)
{
    const nccl_state *s = comm->state;
    char who[96], message[1200];
    lt_comm_rank_text(comm, comm->rank, who, sizeof who);
    snprintf(message, sizeof message, "%s: %s", who, why);
    lt_rendezvous_fail(s->rendezvous, message);
}

lt_status lt_comm_nccl_open(lt_comm *comm, const lt_comm_settings *settings, lt_err *err)
{
    static const lt_comm_ops ops = {.begin = nccl_begin,
                                    .wait = nccl_wait,
                                    .host = nccl_host,
                                    .poll = nccl_poll,
                                    .abort = nccl_abort,
                                    .close = nccl_close};
    comm->state = calloc(1, sizeof(nccl_state));
    if (!comm->state) return lt_fail_nomem(err, sizeof(nccl_state), "an NCCL communicator");
    comm->ops = &ops; /* a rank that is lost from now on ends this one */
    lt_err own = {0};
    lt_status status = connect_ranks(comm, settings, &own);
    if (status == LT_OK) return LT_OK;
    tell_failure(comm, own.message);
    comm->failed = true; /* no rank is waited for */
    nccl_close(comm);
    comm->ops = NULL;
    if (err) *err = own;
    return status;
}

#endif
