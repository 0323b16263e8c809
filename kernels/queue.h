/* A second queue on a GPU: for what runs beside the operations, such as a collective between GPUs.
 *
 * Operations go into a queue of the backend, in the order of the calls. What is put into this one
 * runs at the same time, except where the two are told to wait for each other:
 *
 *     lt_queue_wait_for_operations(queue)     the queue now sees what was computed so far
 *     ...                                     a library puts its work into lt_queue_native(queue)
 *     lt_queue_mark(queue, &mark)
 *     lt_forward(backend, ...)                runs beside it
 *     lt_operations_wait_for(queue, mark)     operations from now on see what it did
 *
 * None of these makes the host wait. Used by the thread that made the backend, and not while it
 * records. */
#ifndef LT_KERNELS_QUEUE_H
#define LT_KERNELS_QUEUE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lt_queue lt_queue;

/* LT_ERR_UNSUPPORTED on a CPU. The backend is borrowed and outlives the queue. */
lt_status lt_queue_create(const lt_backend *backend, lt_queue **out, lt_err *err);
/* Waits for what is in the queue. NULL is fine. */
void lt_queue_free(lt_queue *queue);

/* What is put into the queue from now on begins after all operations that were issued so far. */
lt_status lt_queue_wait_for_operations(lt_queue *queue, lt_err *err);

/* A place in the queue: behind all that is in it. Marks count from 1; 0 is one that was reached
 * before anything. The queue tells the newest LT_QUEUE_MARKS apart: to wait for an older one is to
 * wait for one of those, which comes after it. */
enum { LT_QUEUE_MARKS = 64 };
lt_status lt_queue_mark(lt_queue *queue, uint64_t *mark, lt_err *err);
/* Operations from now on begin after the mark. */
lt_status lt_operations_wait_for(lt_queue *queue, uint64_t mark, lt_err *err);
/* From any thread. Also reports what went wrong on the GPU. */
lt_status lt_queue_reached(lt_queue *queue, uint64_t mark, bool *reached, lt_err *err);

/* The cudaStream_t, for libraries. */
void *lt_queue_native(lt_queue *queue);

#ifdef __cplusplus
}
#endif

#endif
