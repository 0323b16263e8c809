/* Opening a communicator, and the collectives on tensors: arguments are checked, numbered and
 * recorded here, and done by the backend. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/devices.h"
#include "train/comm/internal.h"

/* --- Which backend -----------------------------------------------------------------------------
 */

/* mpirun also where RANK and WORLD_SIZE stand beside its own variables. srun may or may not have
 * brought MPI with it: that shows when MPI opens. */
static bool may_have_mpi(const lt_launch_place *place)
{
    return place->launcher == LT_LAUNCHER_MPI || place->launcher == LT_LAUNCHER_SLURM ||
           getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMI_SIZE");
}

static lt_status choose_on_cpu(const lt_launch_place *place, lt_comm_kind *kind, lt_err *err)
{
    LT_TRY(lt_comm_mpi_available(err));
    if (!may_have_mpi(place))
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%d processes on the CPU, and MPI did not start them: RANK and WORLD_SIZE, "
                       "as torchrun sets them, are enough for GPUs only (lathe devices shows those "
                       "it finds); start them with \"mpirun -n %d lathe train ...\" or \"lathe "
                       "train --processes %d\"",
                       place->world_size, place->world_size, place->world_size);
    *kind = LT_COMM_MPI;
    return LT_OK;
}

/* srun shows each task its own GPU alone, if asked to: then one is enough for all. */
static bool share_gpus(const lt_launch_place *place, int gpu_count)
{
    if (place->launcher == LT_LAUNCHER_SLURM && gpu_count == 1) return false;
    /* "--gpus 0,0": lathe's own launcher takes mpirun for GPUs only where they are shared */
    if (place->supervised && place->launcher == LT_LAUNCHER_MPI) return true;
    return place->local_size > gpu_count;
}

static lt_status choose_on_gpu(const lt_launch_place *place, lt_comm_kind *kind, lt_err *err)
{
    lt_cuda_machine machine;
    LT_TRY(lt_cuda_probe(&machine, err));
    bool mpi = may_have_mpi(place) && lt_comm_mpi_available(NULL) == LT_OK;
    if (share_gpus(place, machine.gpu_count)) {
        if (!mpi)
            return lt_fail(err, LT_ERR_USAGE,
                           "%s has %d processes and %d GPU%s; start one process for each GPU, or "
                           "with mpirun, where processes can share one (slowly, for tests)",
                           place->host, place->local_size, machine.gpu_count,
                           machine.gpu_count == 1 ? "" : "s");
        *kind = LT_COMM_MPI;
        return LT_OK;
    }
    *kind = LT_COMM_NCCL;
    return lt_comm_nccl_available(err);
}

lt_status lt_comm_choose(const lt_launch_place *place, const lt_backend *backend,
                         lt_comm_kind *kind, lt_err *err)
{
    *kind = LT_COMM_SINGLE;
    if (place->world_size <= 1) return LT_OK;
    return backend->device == LT_DEVICE_CUDA ? choose_on_gpu(place, kind, err)
                                             : choose_on_cpu(place, kind, err);
}

/* --- Opening and closing -----------------------------------------------------------------------
 */

static lt_status create(const lt_comm_settings *settings, lt_comm **out, lt_err *err)
{
    const lt_launch_place *place = &settings->place;
    int size = place->world_size > 0 ? place->world_size : 1;
    lt_comm *comm = calloc(1, sizeof *comm);
    if (!comm) return lt_fail_nomem(err, sizeof *comm, "a communicator");
    comm->hosts = calloc((size_t)size, sizeof *comm->hosts);
    comm->votes = calloc((size_t)size, sizeof *comm->votes);
    comm->log_path = settings->log_path ? strdup(settings->log_path) : NULL;
    comm->kind = settings->kind;
    comm->rank = place->rank;
    comm->size = size;
    comm->place = *place;
    comm->backend = settings->backend;
    *out = comm;
    if (!comm->hosts || !comm->votes || (settings->log_path && !comm->log_path))
        return lt_fail_nomem(err, (size_t)size * sizeof *comm->hosts, "a communicator");
    return LT_OK;
}

static lt_status open_backend(lt_comm *comm, const lt_comm_settings *settings, lt_err *err)
{
    switch (settings->kind) {
    case LT_COMM_MPI:
        return lt_comm_mpi_open(comm, settings, err);
    case LT_COMM_NCCL:
        return lt_comm_nccl_open(comm, settings, err);
    default:
        return lt_comm_single_open(comm, settings, err);
    }
}

/* The ranks get to know each other: hosts, and whether they are about to do the same. */
static lt_status introduce(lt_comm *comm, const lt_comm_settings *settings, lt_status watched,
                           lt_err *err)
{
    LT_TRY(lt_comm_gather_bytes(comm, comm->place.host, sizeof comm->place.host, comm->hosts,
                                watched == LT_OK ? err : NULL));
    LT_TRY(lt_comm_agree(comm, watched, err));
    return lt_comm_compare_identity(comm, settings->identity ? settings->identity : "", err);
}

lt_status lt_comm_open(const lt_comm_settings *settings, lt_comm **out, lt_err *err)
{
    lt_comm *comm = NULL;
    lt_status status;
    *out = NULL;
    LT_TRY_GOTO(status, create(settings, &comm, err), done);
    /* before the backend: a process may be stopped while the others wait for it there. That it can
     * not be started is for all to know, once they can be told */
    lt_err why = {0};
    lt_status watched = lt_watchdog_start(comm, settings->timeout, &why);
    LT_TRY_GOTO(status, open_backend(comm, settings, err), done);
    atomic_store(&comm->opened, true);
    if (watched != LT_OK && err) *err = why;
    LT_TRY_GOTO(status, introduce(comm, settings, watched, err), done);
    *out = comm;
    return LT_OK;
done:
    lt_comm_close(comm);
    return status;
}

void lt_comm_close(lt_comm *comm)
{
    if (!comm) return;
    if (comm->ops) comm->ops->close(comm);
    lt_watchdog_stop(comm); /* it also watches over opening and closing */
    free(comm->hosts);
    free(comm->votes);
    free(comm->log_path);
    free(comm);
}

int lt_comm_rank(const lt_comm *comm)
{
    return comm->rank;
}

int lt_comm_size(const lt_comm *comm)
{
    return comm->size;
}

const char *lt_comm_name(const lt_comm *comm)
{
    return comm->name;
}

void lt_comm_rank_text(const lt_comm *comm, int rank, char *out, size_t size)
{
    const char *host = rank == comm->rank ? comm->place.host : comm->hosts[rank];
    snprintf(out, size, *host ? "rank %d (%.63s)" : "rank %d", rank, host);
}

/* --- Collectives on tensors --------------------------------------------------------------------
 */

static lt_status check_sum(lt_tensor t, const char *operation, lt_err *err)
{
    if (t.dtype == LT_F32 || t.dtype == LT_F64 || t.dtype == LT_BF16) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "%s: %s can not be summed", operation,
                   lt_dtype_name(t.dtype));
}

static lt_status check_memory(lt_tensor t, const char *operation, lt_err *err)
{
    if (lt_tensor_is_contiguous(t)) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "%s: the tensor is not contiguous", operation);
}

static lt_status check_parts(const lt_comm *comm, lt_tensor part, lt_tensor whole,
                             const char *operation, lt_err *err)
{
    LT_TRY(check_memory(part, operation, err));
    LT_TRY(check_memory(whole, operation, err));
    int64_t elements;
    if (part.dtype == whole.dtype && lt_mul_i64(lt_tensor_count(part), comm->size, &elements) &&
        elements == lt_tensor_count(whole))
        return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "%s: %lld %s are not %d parts of %lld %s", operation,
                   (long long)lt_tensor_count(whole), lt_dtype_name(whole.dtype), comm->size,
                   (long long)lt_tensor_count(part), lt_dtype_name(part.dtype));
}

static lt_status begin(lt_comm *comm, lt_collective collective, lt_comm_ticket *ticket, lt_err *err)
{
    ticket->sequence = 0;
    if (collective.count == 0) return LT_OK;
    lt_flight_begin(&comm->flight, &collective, false);
    lt_status status = comm->ops->begin(comm, &collective, err);
    if (status == LT_OK)
        ticket->sequence = collective.sequence;
    else
        comm->failed = true;
    return status;
}

lt_status lt_comm_all_reduce(lt_comm *comm, lt_tensor t, lt_comm_ticket *ticket, lt_err *err)
{
    LT_TRY(check_sum(t, "all_reduce", err));
    LT_TRY(check_memory(t, "all_reduce", err));
    const lt_collective collective = {.operation = LT_COMM_ALL_REDUCE,
                                      .dtype = t.dtype,
                                      .count = lt_tensor_count(t),
                                      .from = t.data,
                                      .to = t.data};
    return begin(comm, collective, ticket, err);
}

lt_status lt_comm_reduce_scatter(lt_comm *comm, lt_tensor whole, lt_tensor part,
                                 lt_comm_ticket *ticket, lt_err *err)
{
    LT_TRY(check_sum(whole, "reduce_scatter", err));
    LT_TRY(check_parts(comm, part, whole, "reduce_scatter", err));
    const lt_collective collective = {.operation = LT_COMM_REDUCE_SCATTER,
                                      .dtype = part.dtype,
                                      .count = lt_tensor_count(part),
                                      .from = whole.data,
                                      .to = part.data};
    return begin(comm, collective, ticket, err);
}

lt_status lt_comm_all_gather(lt_comm *comm, lt_tensor part, lt_tensor whole, lt_comm_ticket *ticket,
                             lt_err *err)
{
    LT_TRY(check_parts(comm, part, whole, "all_gather", err));
    const lt_collective collective = {.operation = LT_COMM_ALL_GATHER,
                                      .dtype = part.dtype,
                                      .count = lt_tensor_count(part),
                                      .from = part.data,
                                      .to = whole.data};
    return begin(comm, collective, ticket, err);
}

lt_status lt_comm_broadcast(lt_comm *comm, lt_tensor t, int root, lt_comm_ticket *ticket,
                            lt_err *err)
{
    LT_TRY(check_memory(t, "broadcast", err));
    if (root < 0 || root >= comm->size)
        return lt_fail(err, LT_ERR_USAGE, "broadcast: there is no rank %d of %d", root, comm->size);
    const lt_collective collective = {.operation = LT_COMM_BROADCAST,
                                      .dtype = t.dtype,
                                      .root = root,
                                      .count = lt_tensor_count(t),
                                      .from = t.data,
                                      .to = t.data};
    return begin(comm, collective, ticket, err);
}

lt_status lt_comm_wait(lt_comm *comm, lt_comm_ticket *ticket, lt_err *err)
{
    uint64_t sequence = ticket->sequence;
    ticket->sequence = 0;
    if (!sequence) return LT_OK;
    lt_status status = comm->ops->wait(comm, sequence, err);
    if (status != LT_OK) comm->failed = true;
    return status;
}
