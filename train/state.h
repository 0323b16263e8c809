/* Everything a run must remember, in one table, so that nothing can be left out of a checkpoint:
 * the struct, what is written and what is read come from the same lines. Private to train/. */
#ifndef LT_TRAIN_STATE_H
#define LT_TRAIN_STATE_H

#include <jansson.h>
#include <math.h>
#include <stdint.h>

#include "base/status.h"

#define LT_STATE_TEXT_SIZE 96

/* INTEGER(name, start value), NUMBER(name, start value), TEXT(name) */
#define LT_TRAIN_STATE(INTEGER, NUMBER, TEXT)                                                   \
    INTEGER(step, 0) /* steps done, skipped ones included */                                    \
    INTEGER(total_steps, 0)                                                                     \
    INTEGER(updates, 0)     /* steps that changed the weights: AdamW's own count */             \
    INTEGER(epoch, 0)       /* position in the data: the next micro-batch */                    \
    INTEGER(epoch_batch, 0) /* micro-batches of the epoch already used */                       \
    INTEGER(input_tokens, 0)                                                                    \
    INTEGER(trained_tokens, 0)                                                                  \
    INTEGER(skipped_steps, 0) /* loss or gradient not finite: weights left alone */             \
    INTEGER(skipped_in_a_row, 0)                                                                \
    INTEGER(evaluated_step, -1) /* the last step whose held-out loss is known */                \
    NUMBER(eval_loss, NAN)      /* that loss */                                                 \
    NUMBER(best_loss, INFINITY) /* the lowest so far, and where */                              \
    INTEGER(best_step, 0)                                                                       \
    NUMBER(best_saved_loss, INFINITY) /* of the model in best/, which may lag on a full disk */ \
    INTEGER(evaluations_without_best, 0)                                                        \
    NUMBER(window_loss, 0) /* since the last logging step: sum of step losses */                \
    INTEGER(window_steps, 0)                                                                    \
    NUMBER(train_loss, NAN) /* mean of the last whole window */                                 \
    NUMBER(flops, 0)                                                                            \
    NUMBER(seconds, 0) /* spent in steps, over all resumes */                                   \
    TEXT(model_hash)   /* of the model that training started from */                            \
    TEXT(dataset_hash)                                                                          \
    TEXT(backend)                                                                               \
    INTEGER(threads, 0)                                                                         \
    INTEGER(world_size, 1)                                                                      \
    TEXT(lathe_version)

typedef struct lt_train_state {
#define LT_STATE_INTEGER(name, start) int64_t name;
#define LT_STATE_NUMBER(name, start)  double name;
#define LT_STATE_TEXT(name)           char name[LT_STATE_TEXT_SIZE];
    LT_TRAIN_STATE(LT_STATE_INTEGER, LT_STATE_NUMBER, LT_STATE_TEXT)
#undef LT_STATE_INTEGER
#undef LT_STATE_NUMBER
#undef LT_STATE_TEXT
} lt_train_state;

/* A run that has not begun. */
void lt_train_state_init(lt_train_state *state);

/* Exact both ways, numbers that are not finite included. *out: caller owns. */
lt_status lt_train_state_to_json(const lt_train_state *state, json_t **out, lt_err *err);
/* Every field must be there; `where` starts the message. */
lt_status lt_train_state_from_json(const json_t *object, const char *where, lt_train_state *out,
                                   lt_err *err);

/* A number as JSON; what is not finite in Python's spelling (NaN, Infinity), as Hugging Face
 * writes it. */
json_t *lt_number_to_json(double value);

#endif
