/* Stands in for kernels/cuda where it is not compiled: the same entry points, which say so. */
#include "kernels/cuda/cuda.h"
#include "kernels/queue.h"

lt_cuda_build lt_cuda_this_build(void)
{
    return (lt_cuda_build){.code = ""};
}

lt_status lt_cuda_backend_create(const lt_backend_settings *settings, lt_backend **out, lt_err *err)
{
    lt_cuda_machine none = {0};
    *out = NULL;
    return lt_cuda_usable(lt_cuda_this_build(), &none, settings->index, err);
}

void lt_cuda_backend_free(lt_backend *backend)
{
    (void)backend;
}

/* Nothing here makes a queue, so that the rest is never called. */
static lt_status no_queue(lt_err *err)
{
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "there is no second queue: this build of lathe has no CUDA kernels");
}

lt_status lt_queue_create(const lt_backend *backend, lt_queue **out, lt_err *err)
{
    (void)backend;
    *out = NULL;
    return no_queue(err);
}

void lt_queue_free(lt_queue *queue)
{
    (void)queue;
}

lt_status lt_queue_wait_for_operations(lt_queue *queue, lt_err *err)
{
    (void)queue;
    return no_queue(err);
}

lt_status lt_queue_mark(lt_queue *queue, uint64_t *mark, lt_err *err)
{
    (void)queue;
    (void)mark;
    return no_queue(err);
}

lt_status lt_operations_wait_for(lt_queue *queue, uint64_t mark, lt_err *err)
{
    (void)queue;
    (void)mark;
    return no_queue(err);
}

lt_status lt_queue_reached(lt_queue *queue, uint64_t mark, bool *reached, lt_err *err)
{
    (void)queue;
    (void)mark;
    *reached = false;
    return no_queue(err);
}

void *lt_queue_native(lt_queue *queue)
{
    (void)queue;
    return NULL;
}
