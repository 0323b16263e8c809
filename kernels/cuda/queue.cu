/* The second queue: a stream of its own, with events between it and the stream of operations. */
#include <stdlib.h>

#include "kernels/cuda/device.cuh"
#include "kernels/queue.h"

/* Mark n is recorded in marks[n % LT_QUEUE_MARKS]: a later mark there stands for the older ones,
 * for a stream reaches its events in order. */
struct lt_queue {
    const lt_cuda *cuda;
    cudaStream_t stream;
    cudaEvent_t issued; /* the operations so far */
    cudaEvent_t marks[LT_QUEUE_MARKS];
    uint64_t mark_count; /* also read by other threads: lt_queue_reached */
};

/* Events without time stamps: those that have them make the GPU wait a little. */
static lt_status create_event(cudaEvent_t *event, lt_err *err)
{
    return lt_cuda_check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "making an event",
                         err);
}

/* On a GPU of several priorities the queue has the highest: its kernels are few and others wait for
 * them. */
static lt_status set_up(lt_queue *queue, lt_err *err)
{
    int lowest = 0, highest = 0;
    LT_TRY(lt_cuda_check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "stream priorities",
                         err));
    LT_TRY(
        lt_cuda_check(cudaStreamCreateWithPriority(&queue->stream, cudaStreamNonBlocking, highest),
                      "making a second stream", err));
    LT_TRY(create_event(&queue->issued, err));
    for (cudaEvent_t &mark : queue->marks)
        LT_TRY(create_event(&mark, err));
    return LT_OK;
}

lt_status lt_queue_create(const lt_backend *backend, lt_queue **out, lt_err *err)
{
    *out = NULL;
    if (backend->device != LT_DEVICE_CUDA)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s has no second queue: only a GPU has",
                       backend->name);
    lt_queue *queue = (lt_queue *)calloc(1, sizeof *queue);
    if (!queue) return lt_fail_nomem(err, sizeof *queue, "a queue");
    queue->cuda = cuda_of(backend);
    lt_status status = set_up(queue, err);
    if (status == LT_OK)
        *out = queue;
    else
        lt_queue_free(queue);
    return status;
}

void lt_queue_free(lt_queue *queue)
{
    if (!queue) return;
    if (queue->stream) cudaStreamSynchronize(queue->stream);
    for (cudaEvent_t mark : queue->marks)
        if (mark) cudaEventDestroy(mark);
    if (queue->issued) cudaEventDestroy(queue->issued);
    if (queue->stream) cudaStreamDestroy(queue->stream);
    (void)cudaGetLastError();
    free(queue);
}

lt_status lt_queue_wait_for_operations(lt_queue *queue, lt_err *err)
{
    LT_TRY(lt_cuda_check(cudaEventRecord(queue->issued, queue->cuda->stream), "queue", err));
    return lt_cuda_check(cudaStreamWaitEvent(queue->stream, queue->issued, 0), "queue", err);
}

static cudaEvent_t event_of(const lt_queue *queue, uint64_t mark)
{
    return queue->marks[mark % LT_QUEUE_MARKS];
}

lt_status lt_queue_mark(lt_queue *queue, uint64_t *mark, lt_err *err)
{
    *mark = queue->mark_count + 1;
    LT_TRY(lt_cuda_check(cudaEventRecord(event_of(queue, *mark), queue->stream), "queue", err));
    __atomic_store_n(&queue->mark_count, *mark, __ATOMIC_RELEASE);
    return LT_OK;
}

static lt_status check_mark(const lt_queue *queue, uint64_t mark, lt_err *err)
{
    uint64_t last = __atomic_load_n(&queue->mark_count, __ATOMIC_ACQUIRE);
    if (mark <= last) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "queue: mark %llu is not set; the last is %llu",
                   (unsigned long long)mark, (unsigned long long)last);
}

lt_status lt_operations_wait_for(lt_queue *queue, uint64_t mark, lt_err *err)
{
    LT_TRY(check_mark(queue, mark, err));
    if (mark == 0) return LT_OK;
    return lt_cuda_check(cudaStreamWaitEvent(queue->cuda->stream, event_of(queue, mark), 0),
                         "queue", err);
}

/* A thread's first GPU is GPU 0, and to ask there would make a context on it, of hundreds of MB. */
static lt_status choose_device(const lt_queue *queue, lt_err *err)
{
    static thread_local int chosen = -1;
    if (chosen == queue->cuda->device) return LT_OK;
    LT_TRY(lt_cuda_check(cudaSetDevice(queue->cuda->device), "choosing the GPU", err));
    chosen = queue->cuda->device;
    return LT_OK;
}

lt_status lt_queue_reached(lt_queue *queue, uint64_t mark, bool *reached, lt_err *err)
{
    *reached = mark == 0;
    LT_TRY(check_mark(queue, mark, err));
    if (mark == 0) return LT_OK;
    LT_TRY(choose_device(queue, err));
    cudaError_t error = cudaEventQuery(event_of(queue, mark));
    *reached = error == cudaSuccess;
    if (error != cudaErrorNotReady) return lt_cuda_check(error, "queue", err);
    (void)cudaGetLastError(); /* it counts as an error there */
    return LT_OK;
}

void *lt_queue_native(lt_queue *queue)
{
    return queue->stream;
}
