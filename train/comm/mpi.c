/* The backend over MPI. One thread makes all its calls, in the order in which collectives begin, so
 * that they go on beside the computing. On the CPU they work in place; from a GPU the tensor is
 * copied to the host first, and the result back when it is waited for. */
#include "train/comm/internal.h"

#define NO_MPI                                                             \
    "this build has no MPI; install libopenmpi-dev (or libmpich-dev) and " \
    "build again"

#ifndef LT_HAVE_MPI

lt_status lt_comm_mpi_available(lt_err *err)
{
    return lt_fail(err, LT_ERR_UNSUPPORTED, NO_MPI);
}

lt_status lt_comm_mpi_open(lt_comm *comm, const lt_comm_settings *settings, lt_err *err)
{
    (void)comm;
    (void)settings;
    return lt_comm_mpi_available(err);
}

#else

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/thread.h"
#include "train/comm/mpi_collectives.h"

#define TIMER_SLACK 1000UL /* nanoseconds */

lt_status lt_comm_mpi_available(lt_err *err)
{
    (void)err;
    return LT_OK;
}

/* --- The queue ---------------------------------------------------------------------------------
 */

/* A collective from its beginning to its wait. `work` is on memory of the host: for a GPU that is
 * `staging`, from where `result_bytes` go to `result`. */
typedef struct job {
    struct job *next;
    lt_collective work;
    void *staging, *result;
    size_t staging_bytes, result_bytes;
} job;

typedef struct mpi_state {
    lt_comm *comm;
    lt_rendezvous *rendezvous; /* NULL: mpirun tells of deaths */
    lt_mpi mpi;
    int thread_level;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows, but for `spare` */
    pthread_cond_t asked, answered;
    bool opened, stop, finalize;
    job *first, *todo; /* in order: those not yet waited for, and of them the first not yet done */
    uint64_t done;     /* sequence of the last one done */
    lt_err failure;    /* the first; those after it are not tried */
    uint64_t failed_from;
    job *spare; /* to be used again, with their staging memory */
} mpi_state;

static lt_status new_job(mpi_state *s, size_t staging_bytes, job **out, lt_err *err)
{
    job *j = s->spare ? s->spare : calloc(1, sizeof *j);
    if (!j) return lt_fail_nomem(err, sizeof *j, "a collective");
    s->spare = j->next;
    j->next = NULL;
    j->result = NULL;
    j->result_bytes = 0;
    *out = j;
    if (staging_bytes <= j->staging_bytes) return LT_OK;
    free(j->staging);
    j->staging = malloc(staging_bytes);
    j->staging_bytes = j->staging ? staging_bytes : 0;
    if (j->staging) return LT_OK;
    j->next = s->spare;
    s->spare = j;
    return lt_fail_nomem(err, staging_bytes, "a tensor on its way through MPI");
}

static void submit(mpi_state *s, job *j)
{
    pthread_mutex_lock(&s->lock);
    job **end = &s->first;
    while (*end)
        end = &(*end)->next;
    *end = j;
    if (!s->todo) s->todo = j;
    pthread_cond_signal(&s->asked);
    pthread_mutex_unlock(&s->lock);
}

/* Waits until `sequence` is done, and takes its job off the list. */
static lt_status await(mpi_state *s, uint64_t sequence, job **out, lt_err *err)
{
    lt_status status = LT_OK;
    pthread_mutex_lock(&s->lock);
    while (s->done < sequence)
        pthread_cond_wait(&s->answered, &s->lock);
    job **at = &s->first;
    while ((*at)->work.sequence != sequence)
        at = &(*at)->next;
    *out = *at;
    *at = (*at)->next;
    if (s->failure.code != LT_OK && sequence >= s->failed_from)
        status = lt_fail(err, s->failure.code, "%s", s->failure.message);
    pthread_mutex_unlock(&s->lock);
    return status;
}

static void reuse(mpi_state *s, job *j)
{
    j->next = s->spare;
    s->spare = j;
}

static void free_jobs(job *j)
{
    while (j) {
        job *next = j->next;
        free(j->staging);
        free(j);
        j = next;
    }
}

/* --- The thread --------------------------------------------------------------------------------
 */

static lt_status start_mpi(mpi_state *s, lt_err *err)
{
    int again = 0;
    MPI_Initialized(&again);
    if (again)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "MPI can be opened once in a process, not again");
    /* more than one thread, since the watchdog aborts from its own */
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &s->thread_level) != MPI_SUCCESS)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "MPI_Init_thread failed");
    s->finalize = true;
    return lt_mpi_prepare(&s->mpi, err);
}

/* Called and returns with the lock; without it while MPI works. */
static void do_next(mpi_state *s)
{
    const lt_collective work = s->todo->work;
    lt_err err = {0};
    if (s->failure.code == LT_OK) {
        pthread_mutex_unlock(&s->lock);
        lt_status status = lt_mpi_collective(&s->mpi, &work, s->comm->piece_bytes, &err);
        if (status == LT_OK) lt_comm_ended(s->comm, work.sequence);
        pthread_mutex_lock(&s->lock);
        if (status != LT_OK) {
            s->failure = err;
            s->failed_from = work.sequence;
        }
    }
    s->done = work.sequence;
    s->todo = s->todo->next;
    pthread_cond_broadcast(&s->answered);
}

static void *serve(void *argument)
{
    mpi_state *s = argument;
    lt_err err = {0};
    /* the kernel makes pauses longer by 50 us, which is more than those between two questions */
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK);
    start_mpi(s, &err);
    pthread_mutex_lock(&s->lock);
    s->failure = err;
    s->opened = true;
    pthread_cond_broadcast(&s->answered);
    for (;;) {
        while (!s->todo && !s->stop)
            pthread_cond_wait(&s->asked, &s->lock);
        if (!s->todo) break;
        do_next(s);
    }
    bool finalize = s->finalize;
    pthread_mutex_unlock(&s->lock);
    lt_mpi_clear(&s->mpi);
    if (finalize) MPI_Finalize();
    return NULL;
}

/* --- The table ---------------------------------------------------------------------------------
 */

/* From the device to `staging`, and where in it what lies. */
static lt_status stage(lt_comm *comm, const lt_collective *c, job *j, lt_err *err)
{
    size_t part = (size_t)c->count * lt_dtype_size(c->dtype), bytes = part;
    char *at = j->staging;
    j->work.from = j->work.to = at;
    j->result = c->to;
    j->result_bytes = part;
    switch (c->operation) {
    case LT_COMM_REDUCE_SCATTER:
        bytes = part * (size_t)comm->size;
        break;
    case LT_COMM_ALL_GATHER:
        at += (size_t)comm->rank * part;
        j->work.from = at;
        j->result_bytes = part * (size_t)comm->size;
        break;
    case LT_COMM_BROADCAST:
        if (c->root != comm->rank) return LT_OK;
        j->result_bytes = 0;
        break;
    default:
        break;
    }
    return comm->backend->download(comm->backend, at, c->from, bytes, err);
}

static bool is_staged(const lt_comm *comm)
{
    return comm->backend->device != LT_DEVICE_CPU;
}

static lt_status mpi_begin(lt_comm *comm, const lt_collective *c, lt_err *err)
{
    mpi_state *s = comm->state;
    size_t staging = 0;
    job *j = NULL;
    if (is_staged(comm)) {
        bool parts = c->operation == LT_COMM_REDUCE_SCATTER || c->operation == LT_COMM_ALL_GATHER;
        staging = (size_t)c->count * lt_dtype_size(c->dtype) * (parts ? (size_t)comm->size : 1);
    }
    LT_TRY(new_job(s, staging, &j, err));
    j->work = *c;
    if (staging) {
        lt_status status = stage(comm, c, j, err);
        if (status != LT_OK) {
            reuse(s, j);
            return status;
        }
    }
    submit(s, j);
    return LT_OK;
}

static lt_status mpi_wait(lt_comm *comm, uint64_t sequence, lt_err *err)
{
    mpi_state *s = comm->state;
    job *j = NULL;
    lt_status status = await(s, sequence, &j, err);
    if (status == LT_OK && j->result_bytes)
        status = comm->backend->upload(comm->backend, j->result, j->staging, j->result_bytes, err);
    reuse(s, j);
    return status;
}

static lt_status mpi_host(lt_comm *comm, const lt_collective *c, lt_err *err)
{
    mpi_state *s = comm->state;
    job *j = NULL;
    LT_TRY(new_job(s, 0, &j, err));
    j->work = *c;
    submit(s, j);
    lt_status status = await(s, c->sequence, &j, err);
    reuse(s, j);
    return status;
}

static void mpi_abort(lt_comm *comm, int exit_code)
{
    const mpi_state *s = comm->state;
    lt_comm_tell_end(comm, s->rendezvous, exit_code);
    /* without leave to call from here, mpirun sees this process end, and ends the others */
    if (s->thread_level == MPI_THREAD_MULTIPLE) MPI_Abort(MPI_COMM_WORLD, exit_code);
}

static void free_state(mpi_state *s)
{
    free_jobs(s->first);
    free_jobs(s->spare);
    lt_rendezvous_close(s->rendezvous);
    pthread_cond_destroy(&s->asked);
    pthread_cond_destroy(&s->answered);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void mpi_close(lt_comm *comm)
{
    mpi_state *s = comm->state;
    if (comm->failed) lt_comm_tell_leaving(s->rendezvous);
    pthread_mutex_lock(&s->lock);
    bool stuck = comm->failed && s->todo;
    s->stop = true;
    s->finalize = s->finalize && !comm->failed;
    pthread_cond_signal(&s->asked);
    pthread_mutex_unlock(&s->lock);
    if (stuck) {
        lt_rendezvous_close(s->rendezvous);
        pthread_detach(s->thread); /* in a collective that may never end, and has the state */
        return;
    }
    pthread_join(s->thread, NULL);
    free_state(s);
}

/* --- Opening -----------------------------------------------------------------------------------
 */

/* What Open MPI should know and the user has not said. */
static void set_defaults(void)
{
    char from = 1, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    /* cores are shared with what computes */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    /* containers may forbid to copy between processes; Open MPI finds out with warnings */
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != 1)
        setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

/* srun does not end the others when a process has died, or only after long. */
static lt_status meet(mpi_state *s, const lt_comm_settings *settings, lt_err *err)
{
    const lt_launch_place *place = &s->comm->place;
    char nothing = 0;
    bool by_mpirun = place->launcher != LT_LAUNCHER_SLURM;
    if (by_mpirun || !place->master_address[0] || place->master_port == 0) return LT_OK;
    return lt_comm_meet(s->comm, settings, &nothing, 0, &s->rendezvous, err);
}

static lt_status start_thread(mpi_state *s, lt_err *err)
{
    LT_TRY(lt_thread_start(&s->thread, serve, s, "the thread for MPI", err));
    pthread_mutex_lock(&s->lock);
    while (!s->opened)
        pthread_cond_wait(&s->answered, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return LT_OK;
}

static lt_status check_world(const lt_comm *comm, const mpi_state *s, lt_err *err)
{
    if (s->failure.code != LT_OK) return lt_fail(err, s->failure.code, "%s", s->failure.message);
    if (s->mpi.size == comm->size && s->mpi.rank == comm->rank) return LT_OK;
    return lt_fail(
        err, LT_ERR_UNSUPPORTED,
        "this process is rank %d of %d (%s), but for MPI it is rank %d of %d: another MPI "
        "than the one of this build started it; start the processes with its \"mpirun -n "
        "%d lathe train ...\" or \"lathe train --processes %d\"%s",
        comm->rank, comm->size, lt_launcher_name(comm->place.launcher), s->mpi.rank, s->mpi.size,
        comm->size, comm->size,
        comm->place.launcher == LT_LAUNCHER_SLURM ? ", or with \"srun --mpi=pmix\"" : "");
}

/* Open MPI would say so in many lines, on every rank, and end the process. */
static lt_status check_launcher(const lt_launch_place *place, lt_err *err)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    if (place->launcher != LT_LAUNCHER_SLURM || getenv("PMIX_RANK") || getenv("PMI_RANK"))
        return LT_OK;
    MPI_Get_library_version(version, &length);
    if (strncmp(version, "Open MPI", strlen("Open MPI")) != 0) return LT_OK;
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "srun has started these %d processes without PMIx, by which Open MPI would find "
                   "the others: start them with \"srun --mpi=pmix lathe train ...\" (srun "
                   "--mpi=list shows what it has), or in the job with \"mpirun lathe train ...\"; "
                   "for GPUs, MASTER_ADDR and MASTER_PORT do as well",
                   place->world_size);
}

lt_status lt_comm_mpi_open(lt_comm *comm, const lt_comm_settings *settings, lt_err *err)
{
    static const lt_comm_ops ops = {.begin = mpi_begin,
                                    .wait = mpi_wait,
                                    .host = mpi_host,
                                    .abort = mpi_abort,
                                    .close = mpi_close};
    LT_TRY(check_launcher(&comm->place, err));
    mpi_state *s = calloc(1, sizeof *s);
    if (!s) return lt_fail_nomem(err, sizeof *s, "MPI");
    s->comm = comm;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->asked, NULL);
    pthread_cond_init(&s->answered, NULL);
    set_defaults();
    lt_status status = meet(s, settings, err);
    if (status == LT_OK) status = start_thread(s, err);
    if (status != LT_OK) {
        free_state(s);
        return status;
    }
    comm->state = s;
    comm->piece_bytes = (size_t)comm->size * LT_MPI_PIECE_BYTES;
    status = check_world(comm, s, err);
    if (status != LT_OK) {
        mpi_close(comm);
        return status;
    }
    snprintf(comm->name, sizeof comm->name, is_staged(comm) ? "mpi, staged" : "mpi");
    comm->ops = &ops;
    return LT_OK;
}

#endif
