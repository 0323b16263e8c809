/* Results: made from samples alone, so that a resumed run, a run at once and a comparison can not
 * disagree. */
#ifndef LT_TRAIN_EVALUATION_RESULTS_H
#define LT_TRAIN_EVALUATION_RESULTS_H

#include <jansson.h>

#include "train/evaluation/task.h"

/* One number of a result's table. */
typedef struct lt_result_row {
    lt_metric metric;
    const char *filter;   /* "none" */
    const char *category; /* NULL: all documents; borrowed from the task */
    int64_t count;        /* samples */
    double value, stderr_;
} lt_result_row;

/* A task's samples and what they come to. */
typedef struct lt_task_results {
    const lt_task *task; /* borrowed */
    json_t **samples;    /* [sample_count], by document, then filter; owned references */
    int64_t sample_count;
    lt_result_row *rows; /* owned */
    int64_t row_count;
    double seconds;
    int64_t cut_documents; /* did not fit the context whole */
} lt_task_results;

/* Takes references of `samples`, in any order. Every metric over all documents, then by category
 * where documents have one; rows only of what samples have. A sample that does not fit the task, a
 * value that its "metrics" list but that is missing or no number, two samples of one document and
 * filter are LT_ERR_FORMAT. `resamples` is lm-eval's bootstrap_iters: 0 leaves out standard errors
 * that need a bootstrap, BLEU takes at most 100 of them, as there, and ratios at most 1000. */
lt_status lt_results_make(const lt_task *task, json_t *const *samples, int64_t count,
                          int64_t resamples, lt_task_results *out, lt_err *err);
void lt_results_free_task(lt_task_results *results);

typedef struct lt_comparison_row {
    lt_metric metric;
    const char *filter, *category;
    lt_paired_result result;
} lt_comparison_row;

/* Two models on one task. `worst`, `best`: documents where the second lost and gained most on the
 * task's first metric; numbers of documents. */
typedef struct lt_task_comparison {
    const lt_task_results *a, *b; /* borrowed */
    lt_comparison_row *rows;      /* owned */
    int64_t row_count;
    int64_t worst[5], best[5];
    int worst_count, best_count;
} lt_task_comparison;

/* LT_ERR_USAGE when the two are not of the same task, documents and metrics. */
lt_status lt_results_compare(const lt_task_results *a, const lt_task_results *b, int64_t resamples,
                             uint64_t seed, lt_task_comparison *out, lt_err *err);
void lt_comparison_free(lt_task_comparison *comparison);

/* Facts of the run for files and page. Strings borrowed; may be NULL. `date`:
 * "2026-05-01T10:20:30.5", UTC; with a comparison, `model` is a and `compared_model` b. */
typedef struct lt_evaluation_facts {
    const char *model, *adapter, *compared_model, *compared_adapter, *date, *device, *dtype;
    int64_t batch_size, limit, max_length;
    const char *eot_token;
    double seconds;
    bool chat; /* questions, and examples as turns before them, in the model's chat template */
} lt_evaluation_facts;

/* An aligned table for the console, UTF-8: tasks, metrics, values with standard errors, by category
 * below. */
lt_status lt_results_table(const lt_task_results *results, int64_t count, lt_buffer *out,
                           lt_err *err);
lt_status lt_comparison_table(const lt_task_comparison *comparisons, int64_t count, lt_buffer *out,
                              lt_err *err);
/* results_*.json of lm-evaluation-harness: results {task: {"alias", "acc,none",
 * "acc_stderr,none"}}, configs, versions, n-shot, higher_is_better, n-samples, config, date,
 * max_length, eot_token, model_name, fewshot_as_multiturn (true only in a chat template). A
 * category is a subtask "task/category" of its task. A comparison adds "compared" (the results of
 * b, in the same shape) and "comparison". Numbers that are not finite are literals of base/json.h:
 * write it with lt_json_dump. Two tasks of one name are LT_ERR_USAGE. Caller owns a reference. */
lt_status lt_results_to_json(const lt_task_results *results, int64_t count,
                             const lt_task_comparison *comparisons,
                             const lt_evaluation_facts *facts, json_t **out, lt_err *err);
/* report.html: one page, nothing fetched: the table, bars by category, comparison with intervals,
 * samples side by side (those that were lost first). `comparisons` [count] or NULL. */
lt_status lt_evaluation_report(const lt_task_results *results, int64_t count,
                               const lt_task_comparison *comparisons,
                               const lt_evaluation_facts *facts, lt_buffer *out, lt_err *err);

#endif
