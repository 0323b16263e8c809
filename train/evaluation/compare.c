/* Two models on one task, item by item. */
#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "train/evaluation/results_internal.h"

enum { SHOWN_DOCUMENTS = 5 };

static lt_status check_same_task(const lt_task *a, const lt_task *b, lt_err *err)
{
    if (lt_same_text(a->name, b->name) && lt_same_text(a->hash, b->hash)) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "%s and %s do not ask the same: models are compared on one task with the same "
                   "documents, examples and limit",
                   a->name, b->name);
}

/* Whether the two columns are of the same documents. */
static lt_status check_same_items(const lt_metric_columns *a, const lt_metric_columns *b,
                                  const lt_metric_column *of_a, const lt_metric_column *of_b,
                                  lt_err *err)
{
    const char *task = a->results->task->name, *metric = lt_metric_of(of_a->metric)->name;
    for (int64_t i = 0; i < lt_max_i64(of_a->count, of_b->count); i++) {
        int64_t in_a = INT64_MAX, in_b = INT64_MAX;
        if (i < of_a->count) in_a = lt_sample_document(a->results->samples[of_a->samples[i]]);
        if (i < of_b->count) in_b = lt_sample_document(b->results->samples[of_b->samples[i]]);
        if (in_a != in_b)
            return lt_fail(err, LT_ERR_USAGE,
                           "task %s: only one of the two models has %s (filter %s) of document "
                           "%lld; finish both evaluations first",
                           task, metric, of_a->filter, (long long)lt_min_i64(in_a, in_b));
    }
    return LT_OK;
}

static lt_status check_same_columns(const lt_metric_columns *a, const lt_metric_columns *b,
                                    lt_err *err)
{
    if (a->count != b->count)
        return lt_fail(err, LT_ERR_USAGE,
                       "task %s: the two models were not given the same metrics (%d and %d)",
                       a->results->task->name, a->count, b->count);
    for (int i = 0; i < a->count; i++) {
        const lt_metric_column *of_a = &a->columns[i], *of_b = &b->columns[i];
        if (of_a->metric != of_b->metric || !lt_same_text(of_a->filter, of_b->filter))
            return lt_fail(err, LT_ERR_USAGE,
                           "task %s: the two models were not given the same metrics (%s and %s)",
                           a->results->task->name, lt_metric_of(of_a->metric)->name,
                           lt_metric_of(of_b->metric)->name);
        LT_TRY(check_same_items(a, b, of_a, of_b, err));
    }
    return LT_OK;
}

/* --- Rows ------------------------------------------------------------------------------------- */

typedef struct comparing {
    lt_task_comparison *out;
    int64_t resamples;
    uint64_t seed;
} comparing;

static lt_status add_row(const comparing *c, const lt_metric_column *a, const lt_metric_column *b,
                         lt_err *err)
{
    lt_comparison_row *row = &c->out->rows[c->out->row_count++];
    lt_metric_samples of_a = lt_column_samples(a), of_b = lt_column_samples(b);
    *row = (lt_comparison_row){.metric = a->metric, .filter = a->filter, .category = a->category};
    lt_status status = lt_paired_bootstrap(&of_a, &of_b, lt_metric_of(a->metric)->higher_is_better,
                                           c->resamples, c->seed, &row->result, err);
    if (status != LT_OK)
        lt_fail_context(err, "task %s, %s", c->out->a->task->name, lt_metric_of(a->metric)->name);
    return status;
}

static lt_status add_category_row(const comparing *c, const lt_metric_columns *a,
                                  const lt_metric_columns *b, int index, int32_t category,
                                  lt_err *err)
{
    lt_metric_column of_a = {0}, of_b = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_metric_column_select(a, index, category, &of_a, err), done);
    LT_TRY_GOTO(status, lt_metric_column_select(b, index, category, &of_b, err), done);
    if (of_a.count > 0) status = add_row(c, &of_a, &of_b, err);
done:
    lt_metric_column_free(&of_a);
    lt_metric_column_free(&of_b);
    return status;
}

static lt_status add_rows(const comparing *c, const lt_metric_columns *a,
                          const lt_metric_columns *b, lt_err *err)
{
    size_t most = (size_t)a->count * ((size_t)a->category_count + 1);
    c->out->rows = calloc(most + 1, sizeof *c->out->rows);
    if (!c->out->rows) return lt_fail_nomem(err, most * sizeof *c->out->rows, "a comparison");
    for (int i = 0; i < a->count; i++)
        LT_TRY(add_row(c, &a->columns[i], &b->columns[i], err));
    for (int32_t k = 0; k < a->category_count; k++)
        for (int i = 0; i < a->count; i++)
            LT_TRY(add_category_row(c, a, b, i, k, err));
    return LT_OK;
}

/* --- Documents that changed most -------------------------------------------------------------- */

static int compare_gains(const void *a, const void *b)
{
    const lt_document_gain *x = a, *y = b;
    if (x->gain != y->gain) return x->gain < y->gain ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* Gains on the task's first metric, the greatest loss first. Caller frees *out. */
static lt_status rank(const lt_metric_columns *a, const lt_metric_columns *b,
                      lt_document_gain **out, int64_t *count, lt_err *err)
{
    const lt_metric_column *first = &a->columns[0];
    *count = a->count > 0 ? first->count : 0;
    *out = calloc((size_t)*count + 1, sizeof **out);
    if (!*out) return lt_fail_nomem(err, (size_t)*count * sizeof **out, "a comparison");
    if (*count == 0) return LT_OK;
    lt_metric_samples of_a = lt_column_samples(first), of_b = lt_column_samples(&b->columns[0]);
    bool higher = lt_metric_of(first->metric)->higher_is_better;
    for (int64_t i = 0; i < *count; i++)
        (*out)[i] = (lt_document_gain){first->samples[i], b->columns[0].samples[i],
                                       lt_sample_gain(&of_a, &of_b, i, higher)};
    qsort(*out, (size_t)*count, sizeof **out, compare_gains);
    return LT_OK;
}

lt_status lt_comparison_rank(const lt_task_comparison *comparison, lt_document_gain **out,
                             int64_t *count, lt_err *err)
{
    lt_metric_columns a = {0}, b = {0};
    lt_status status;
    *out = NULL;
    LT_TRY_GOTO(status, lt_metric_columns_read(comparison->a, &a, err), done);
    LT_TRY_GOTO(status, lt_metric_columns_read(comparison->b, &b, err), done);
    status = rank(&a, &b, out, count, err);
done:
    lt_metric_columns_free(&a);
    lt_metric_columns_free(&b);
    return status;
}

static lt_status find_extremes(const lt_metric_columns *a, const lt_metric_columns *b,
                               lt_task_comparison *out, lt_err *err)
{
    lt_document_gain *gains;
    int64_t count;
    LT_TRY(rank(a, b, &gains, &count, err));
    for (int64_t i = 0; i < lt_min_i64(count, SHOWN_DOCUMENTS); i++) {
        const lt_document_gain *low = &gains[i], *high = &gains[count - 1 - i];
        if (low->gain < 0)
            out->worst[out->worst_count++] = lt_sample_document(out->a->samples[low->index]);
        if (high->gain > 0)
            out->best[out->best_count++] = lt_sample_document(out->a->samples[high->index]);
    }
    free(gains);
    return LT_OK;
}

lt_status lt_results_compare(const lt_task_results *a, const lt_task_results *b, int64_t resamples,
                             uint64_t seed, lt_task_comparison *out, lt_err *err)
{
    lt_metric_columns of_a = {0}, of_b = {0};
    comparing c = {out, resamples, seed};
    lt_status status;
    *out = (lt_task_comparison){.a = a, .b = b};
    LT_TRY(check_same_task(a->task, b->task, err));
    LT_TRY_GOTO(status, lt_metric_columns_read(a, &of_a, err), done);
    LT_TRY_GOTO(status, lt_metric_columns_read(b, &of_b, err), done);
    LT_TRY_GOTO(status, check_same_columns(&of_a, &of_b, err), done);
    LT_TRY_GOTO(status, add_rows(&c, &of_a, &of_b, err), done);
    status = find_extremes(&of_a, &of_b, out, err);
done:
    lt_metric_columns_free(&of_a);
    lt_metric_columns_free(&of_b);
    if (status != LT_OK) lt_comparison_free(out);
    return status;
}

void lt_comparison_free(lt_task_comparison *comparison)
{
    free(comparison->rows);
    *comparison = (lt_task_comparison){0};
}
