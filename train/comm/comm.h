/* Processes that train one model together, and the collectives between them. Private to train/.
 *
 *   comm.c        opening, the collectives on tensors; calls a backend's table (internal.h)
 *   values.c      values of the host, agreement, comparing what the ranks are about to do
 *   flight.c      the record of the last collectives
 *   single.c      one process: nothing to do
 *   mpi.c         MPI (Open MPI, MPICH) over host memory; device tensors are staged through it
 *   nccl.c        NCCL between GPUs, opened at run time; rendezvous.c brings its id to all by TCP
 *   meet.c        the rendezvous as both use it: of srun's processes each hears of another's death
 *   watchdog.c    a thread that ends a process whose training stands still; lt_comm_abort
 *
 * Tensors lie in the memory of the communicator's device. A collective is begun in the order of the
 * calls, which is the same on all ranks, runs beside the device's operations, sees what these had
 * written before it was begun, and is done for those that come after lt_comm_wait. Sums are in one
 * fixed order, so that the same ranks get the same bits every time. */
#ifndef LT_TRAIN_COMM_H
#define LT_TRAIN_COMM_H

#include "base/buffer.h"
#include "kernels/kernels.h"
#include "train/launch.h"

typedef struct lt_comm lt_comm;

/* Which backend: MPI between CPU processes and where several processes share a GPU; NCCL where each
 * has its own. */
typedef enum lt_comm_kind { LT_COMM_SINGLE, LT_COMM_MPI, LT_COMM_NCCL } lt_comm_kind;

typedef struct lt_comm_settings {
    lt_launch_place place;     /* who this process is, and how it was started */
    lt_comm_kind kind;         /* lt_comm_choose */
    const lt_backend *backend; /* the device; borrowed */
    const char *identity;      /* text that must be the same on all ranks (version, settings): lines
                                  "name: value", each name once; compared while opening, the first
                                  difference told. NULL: nothing */
    bool (*stopped)(void); /* asked while this process waits for the others to come, where nothing
                              else would tell it that they will not; true: LT_ERR_INTERRUPTED */
    double timeout;        /* seconds without progress after which the watchdog ends the process;
                              0: never */
    const char *log_path;  /* file the flight record is appended to; NULL: standard error only */
} lt_comm_settings;

/* MPI or NCCL for this place and device; single for a world of one. LT_ERR_UNSUPPORTED, with what
 * to do: a build without MPI, processes on the CPU that MPI did not start, no NCCL library.
 * LT_ERR_USAGE: more processes on this host than GPUs. */
lt_status lt_comm_choose(const lt_launch_place *place, const lt_backend *backend,
                         lt_comm_kind *kind, lt_err *err);

/* Collective. Fails on every rank when it fails on one. */
lt_status lt_comm_open(const lt_comm_settings *settings, lt_comm **out, lt_err *err);
/* Collective, unless after a failure. NULL is fine. */
void lt_comm_close(lt_comm *comm);

int lt_comm_rank(const lt_comm *comm);
int lt_comm_size(const lt_comm *comm);
const char *lt_comm_name(const lt_comm *comm); /* "single", "mpi", "mpi, staged", "nccl 2.28.9" */

/* --- On tensors of the device: contiguous, 1-d ------------------------------------------------ */

/* One collective under way; wait for each exactly once. A zeroed one is nothing to wait for. */
typedef struct lt_comm_ticket {
    uint64_t sequence;
} lt_comm_ticket;

/* In place. Sums f32, f64 and bf16 (these rounded once per addition). */
lt_status lt_comm_all_reduce(lt_comm *comm, lt_tensor t, lt_comm_ticket *ticket, lt_err *err);
/* part [n] = this rank's n of the sum of whole [size * n]. `part` may be those elements of `whole`;
 * the others are then undefined. */
lt_status lt_comm_reduce_scatter(lt_comm *comm, lt_tensor whole, lt_tensor part,
                                 lt_comm_ticket *ticket, lt_err *err);
/* whole [size * n] = every rank's part [n], by rank. `part` may be this rank's elements of `whole`.
 */
lt_status lt_comm_all_gather(lt_comm *comm, lt_tensor part, lt_tensor whole, lt_comm_ticket *ticket,
                             lt_err *err);
lt_status lt_comm_broadcast(lt_comm *comm, lt_tensor t, int root, lt_comm_ticket *ticket,
                            lt_err *err);
/* Operations from now on see the result, and the ticket is zeroed. On the CPU it waits, on a GPU
 * only the GPU does. */
lt_status lt_comm_wait(lt_comm *comm, lt_comm_ticket *ticket, lt_err *err);

/* --- On values of the host; these wait -------------------------------------------------------- */

lt_status lt_comm_barrier(lt_comm *comm, lt_err *err);
lt_status lt_comm_sum(lt_comm *comm, double *values, int count, lt_err *err); /* in place */
lt_status lt_comm_max(lt_comm *comm, double *values, int count, lt_err *err);
/* `bytes` from every rank: all is [size * bytes], by rank. */
lt_status lt_comm_gather_bytes(lt_comm *comm, const void *mine, size_t bytes, void *all,
                               lt_err *err);
/* Rank 0's text for everybody. *out: caller frees. */
lt_status lt_comm_share_text(lt_comm *comm, const char *text, char **out, lt_err *err);

/* All ranks get the same answer: LT_OK when all have LT_OK, else the status and message of the
 * lowest rank that has not, "rank N (host): " in front when that is not rank 0. Every `mine` that
 * is not LT_OK has its message in `err`. */
lt_status lt_comm_agree(lt_comm *comm, lt_status mine, lt_err *err);

/* Compares the hash of all collectives so far (operation, dtype, count) between the ranks.
 * LT_ERR_INTERNAL naming the ranks that differ from most; each writes its flight record to the log.
 */
lt_status lt_comm_check_sequence(lt_comm *comm, lt_err *err);

/* --- Failing ---------------------------------------------------------------------------------- */

/* For an error that the other ranks do not know of: they are in collectives that this one will
 * never join. Says `message` with rank and host on standard error and in the log, takes the others
 * down (MPI_Abort, ncclCommAbort, closed sockets) and ends this process with `exit_code`. Does not
 * return. */
_Noreturn void lt_comm_abort(lt_comm *comm, const char *message, int exit_code);

/* --- Watchdog --------------------------------------------------------------------------------- */

/* What is being done: "forward" in step 12 (0: before the first). Each call, and each collective
 * begun or ended, is progress; until the second step has begun, three timeouts are fine without
 * any. `phase` is a string literal. */
void lt_comm_heartbeat(lt_comm *comm, int64_t step, const char *phase);
/* Until the next heartbeat, so many seconds without progress are fine beyond the timeout: for work
 * that takes long and is none of the collectives'. */
void lt_comm_allow(lt_comm *comm, double seconds);
/* The last collectives, one line each, newest last: "#381 all_reduce f32 x 1024, begun 3.200 s ago,
 * not ended", or "took 0.812 ms". Appended. */
lt_status lt_comm_flight_record(const lt_comm *comm, lt_buffer *out, lt_err *err);

#endif
