/* Names of files that an evaluation makes from names of tasks and models. */
#ifndef LT_TRAIN_EVALUATION_OUTPUT_NAMES_H
#define LT_TRAIN_EVALUATION_OUTPUT_NAMES_H

#include "base/buffer.h"

/* Names of models and tasks are paths, or come from files. What no file name should have becomes
 * "__", as in lm-evaluation-harness; very long ones are cut. Both replace *out. */

/* "DIRECTORY/", the beginning ("samples_"), the task, and the ending (".jsonl"). */
lt_status lt_evaluation_task_path(const char *directory, const char *beginning, const char *task,
                                  const char *ending, lt_buffer *out, lt_err *err);
/* A date that file names can have: "2026-05-01T10-20-30.123456". `out` has the date's size. */
void lt_evaluation_date_name(const char *date, char *out);
/* "OUTPUT/run__final", "OUTPUT/run__final+lora__final" with an adapter (else NULL). "../run" is
 * called as "run": dots in front would hide the directory. */
lt_status lt_evaluation_model_directory(const char *output, const char *model, const char *adapter,
                                        lt_buffer *out, lt_err *err);

#endif
