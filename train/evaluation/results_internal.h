/* What the files that make, compare and show results share. */
#ifndef LT_TRAIN_EVALUATION_RESULTS_INTERNAL_H
#define LT_TRAIN_EVALUATION_RESULTS_INTERNAL_H

#include "train/evaluation/results.h"

/* --- Samples as rows of numbers (metric_columns.c) -------------------------------------------- */

/* Of samples that lt_results_make has accepted. */
int64_t lt_sample_document(const json_t *sample);
const char *lt_sample_filter(const json_t *sample);

/* The filters of a task: at least "none". */
int lt_task_filter_count(const lt_task *task);
const char *lt_task_filter_name(const lt_task *task, int index);

/* The values of one metric under one filter: of all samples that have it, or of one category. Owns
 * its arrays; a zeroed one is empty. */
typedef struct lt_metric_column {
    lt_metric metric;
    const char *filter, *category; /* borrowed from the task; category NULL: all */
    double *values;                /* [count, width], row after row */
    int64_t *samples;              /* [count] indices into the results' samples, rising */
    int64_t count;
} lt_metric_column;

void lt_metric_column_free(lt_metric_column *column);
lt_metric_samples lt_column_samples(const lt_metric_column *column); /* borrows the values */

/* All of a task's results: a column for each metric and filter that any sample has, by metric, then
 * filter. Owns all. */
typedef struct lt_metric_columns {
    const lt_task_results *results; /* borrowed */
    lt_metric_column columns[LT_TASK_MAX_METRICS * LT_TASK_MAX_FILTERS];
    int count;
    const char *
        *categories; /* [category_count] in the order of documents; borrowed from the task */
    int32_t category_count;
    int32_t *category_of; /* [sample_count] -1: none */
} lt_metric_columns;

/* A value that is missing or of the wrong shape is LT_ERR_FORMAT. */
lt_status lt_metric_columns_read(const lt_task_results *results, lt_metric_columns *out,
                                 lt_err *err);
void lt_metric_columns_free(lt_metric_columns *columns);
/* The part of columns->columns[index] that is of one category. */
lt_status lt_metric_column_select(const lt_metric_columns *columns, int index, int32_t category,
                                  lt_metric_column *out, lt_err *err);

/* --- Comparison (compare.c) ------------------------------------------------------------------- */

/* What a document gained on the task's first metric, in its sense of better. */
typedef struct lt_document_gain {
    int64_t index, index_b; /* of its samples in the results of a and b */
    double gain;
} lt_document_gain;

/* Every document, the greatest loss first. Caller frees *out. */
lt_status lt_comparison_rank(const lt_task_comparison *comparison, lt_document_gain **out,
                             int64_t *count, lt_err *err);

/* --- Words and numbers for people (results_text.c) -------------------------------------------- */

bool lt_same_text(const char *a, const char *b); /* either may be NULL */

/* "better", "worse" or "no clear difference", as the interval lies; of a metric of which more is
 * not better "more" and "less". */
const char *lt_verdict(lt_metric metric, const lt_paired_result *result);

/* "27.9 %", "12.34"; "N/A" when it is not finite. */
void lt_format_metric(lt_metric metric, double value, char *out, size_t size);
void lt_format_error(lt_metric metric, double value, char *out, size_t size); /* fewer digits */
/* With a sign, and without a unit: differences of shares are in points. */
void lt_format_difference(lt_metric metric, double value, char *out, size_t size);
/* "higher is better" as an arrow up, down or none. */
const char *lt_metric_arrow(lt_metric metric);

#endif
