/* Steps whose loss and norm nobody has seen yet. Private to train/.
 *
 * A step leaves both on the device, in a slot of its own, and the host goes on to the next. They
 * are read together when a step is to be logged, before an evaluation or a checkpoint, when a
 * second has gone by, or when the slots are full. Whenever that is, what is made of them is the
 * same: each step is accounted for by itself, in order.
 *
 * Several processes read at the same step, since they tell each other what only the host counts;
 * so that not the clock of each decides when, but how many steps of the last reading make a second,
 * which all know alike. */
#ifndef LT_TRAIN_RESULTS_H
#define LT_TRAIN_RESULTS_H

#include "model/model.h"
#include "train/comm/comm.h"
#include "train/train.h"

enum { LT_MAX_UNREAD_STEPS = 64 };

typedef struct lt_step_results {
    const lt_backend *backend; /* borrowed */
    lt_comm *comm;             /* borrowed */
    lt_arena arena;
    lt_tensor totals; /* f64 [steps * 3]: losses, trained tokens, correct ones */
    lt_tensor norms;  /* f32 [steps] */
    lt_step_info steps[LT_MAX_UNREAD_STEPS];
    int count;
    double begin;   /* lt_seconds() before the first of them */
    int per_second; /* steps, as of the last reading: the same on all processes */
} lt_step_results;

/* Where one step's results go. */
typedef struct lt_step_slot {
    lt_tensor totals; /* f64 [3] */
    lt_tensor norm;   /* f32 [1] */
} lt_step_slot;

uint64_t lt_results_plan(void); /* bytes on the device */
lt_status lt_results_create(const lt_backend *backend, lt_comm *comm, lt_step_results *out,
                            lt_err *err);
void lt_results_free(lt_step_results *results);

/* The next slot, for a step that is unread once `count` is raised. There is one as long as that is
 * below LT_MAX_UNREAD_STEPS. */
lt_step_info *lt_results_begin_step(lt_step_results *results, lt_step_slot *slot);
/* There is an unread step, and no slot for another or a second of them: on all processes. */
bool lt_results_are_due(const lt_step_results *results);
/* Fills in loss, accuracy, norm, `taken` and seconds of all unread steps, makes their counts those
 * of all processes, and sets *count to their number: they are read now. *stop: whether one of the
 * processes calls with it true. Waits for the device. Collective. */
lt_status lt_results_read(lt_step_results *results, int *count, bool *stop, lt_err *err);

#endif
