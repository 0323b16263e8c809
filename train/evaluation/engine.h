/* From a task's documents to samples: everything that asks the model.
 *
 * A sample is one JSON object in the shape of lm-evaluation-harness's samples_*.jsonl:
 *
 *     doc_id, doc, target, arguments, resps, filtered_resps, filter, metrics [names], category?,
 *     and each metric's value under its name: a number, or the array of its row
 *     (train/evaluation/metrics.h)
 *
 * Numbers in resps are text, as there. A metric that can not be told of a document (exact match
 * without references, groundedness without a context) is not among its metrics. Contexts and
 * prompts that are too long lose their beginning; answers to a dataset's records lose white space
 * at their end, which is the template's.
 *
 * A generation task with two filters makes two samples of a document, told apart by "filter".
 * Samples of answers also have "answer", "references", "context"?, "finish_reason". All results are
 * made from samples alone. */
#ifndef LT_TRAIN_EVALUATION_ENGINE_H
#define LT_TRAIN_EVALUATION_ENGINE_H

#include "train/evaluation/scorer.h"
#include "train/evaluation/task.h"

/* A judge: another model that reads a rubric with the question and the answer in it, and whose
 * probabilities of two verdicts are compared. */
typedef struct lt_judge {
    lt_assistant *assistant;
    const char *rubric;     /* text with {instruction}, {context}, {answer}, {reference} */
    const char *good, *bad; /* verdicts that may follow it: " yes", " no" */
} lt_judge;

typedef struct lt_engine_settings {
    int64_t batch_size, max_length; /* as lt_scorer_settings */
    bool apply_chat_template;       /* contexts become a user's message behind the document's turns,
                                       in the model's template */
    const lt_dataset *dataset;      /* of DATASET and record tasks */
    const lt_judge *judge;          /* or NULL */
    const volatile sig_atomic_t *cancelled;
} lt_engine_settings;

/* `sample` is owned by the caller of it (borrowed here). Called when a document is done, in an
 * order of the engine's choosing. `cut`: tokens that did not fit and were left out. */
typedef lt_status (*lt_on_sample)(void *context, int64_t doc, json_t *sample, int64_t cut,
                                  lt_err *err);
/* Parts of the work done so far, of how many: for a progress bar. May be NULL. */
typedef void (*lt_on_progress)(void *context, int64_t done, int64_t total);

/* Samples of the documents `docs` [count] of the task. LT_ERR_INTERRUPTED when cancelled: what is
 * done has been handed out. */
lt_status lt_evaluate_task(lt_assistant *assistant, const lt_task *task, const int64_t *docs,
                           int64_t count, const lt_engine_settings *settings,
                           lt_on_sample on_sample, lt_on_progress on_progress, void *context,
                           lt_err *err);

/* The two tasks of a prepared dataset: the loss on its held-out documents, and answers to its
 * held-out records with the trained template (none when they are plain text: *has_answers is
 * false). */
lt_status lt_task_from_dataset(const lt_dataset *dataset, const char *path, int64_t limit,
                               lt_task *out, lt_err *err);
lt_status lt_task_of_answers(const lt_dataset *dataset, const char *path, int64_t limit,
                             int64_t max_new_tokens, lt_task *out, bool *has_answers, lt_err *err);

#endif
