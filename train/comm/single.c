/* One process: sums are what they were, the whole is the part. */
#include <stdio.h>
#include <string.h>

#include "train/comm/internal.h"

/* A copy on the device. Only floating-point types convert; others are moved as bits of one. */
static lt_status copy(const lt_backend *backend, const lt_collective *c, lt_err *err)
{
    size_t bytes = (size_t)c->count * lt_dtype_size(c->dtype);
    if (backend->device == LT_DEVICE_CPU)
        return backend->upload(backend, c->to, c->from, bytes, err);
    bool converts = c->dtype <= LT_F16;
    lt_dtype dtype = converts ? c->dtype : LT_F32;
    if (bytes % lt_dtype_size(dtype))
        return lt_fail(err, LT_ERR_UNSUPPORTED, "one process: %lld elements of %s are not copied",
                       (long long)c->count, lt_dtype_name(c->dtype));
    int64_t count = (int64_t)(bytes / lt_dtype_size(dtype));
    const lt_convert_args args = {.x = lt_tensor_1d((void *)(uintptr_t)c->from, dtype, count),
                                  .y = lt_tensor_1d(c->to, dtype, count)};
    return lt_convert(backend, &args, err);
}

static lt_status single_begin(lt_comm *comm, const lt_collective *c, lt_err *err)
{
    lt_comm_ended(comm, c->sequence);
    return c->from == c->to ? LT_OK : copy(comm->backend, c, err);
}

static lt_status single_wait(lt_comm *comm, uint64_t sequence, lt_err *err)
{
    (void)comm;
    (void)sequence;
    (void)err;
    return LT_OK;
}

static lt_status single_host(lt_comm *comm, const lt_collective *c, lt_err *err)
{
    (void)err;
    lt_comm_ended(comm, c->sequence);
    if (c->from != c->to) memmove(c->to, c->from, (size_t)c->count * lt_dtype_size(c->dtype));
    return LT_OK;
}

static void single_abort(lt_comm *comm, int exit_code)
{
    (void)comm;
    (void)exit_code;
}

static void single_close(lt_comm *comm)
{
    (void)comm;
}

lt_status lt_comm_single_open(lt_comm *comm, const lt_comm_settings *settings, lt_err *err)
{
    static const lt_comm_ops ops = {.begin = single_begin,
                                    .wait = single_wait,
                                    .host = single_host,
                                    .abort = single_abort,
                                    .close = single_close};
    (void)settings;
    if (comm->size != 1)
        return lt_fail(err, LT_ERR_USAGE, "%d processes need a communicator between them",
                       comm->size);
    snprintf(comm->name, sizeof comm->name, "single");
    comm->ops = &ops;
    return LT_OK;
}
