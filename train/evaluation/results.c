/* Samples put in order and checked, and the rows made of them. */
#include "train/evaluation/results.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/results_internal.h"

/* --- Samples ---------------------------------------------------------------------------------- */

/* -1: the task has no such filter. */
static int filter_index(const lt_task *task, const char *name)
{
    for (int i = 0; i < lt_task_filter_count(task); i++)
        if (lt_same_text(lt_task_filter_name(task, i), name)) return i;
    return -1;
}

static lt_status check_sample(const lt_task *task, const json_t *sample, lt_err *err)
{
    const json_t *id = json_object_get(sample, "doc_id");
    long long document = json_integer_value(id);
    if (!json_is_integer(id) || document < 0 || document >= task->doc_count)
        return lt_fail(err, LT_ERR_FORMAT,
                       "task %s: the \"doc_id\" of a sample is none of its %lld documents",
                       task->name, (long long)task->doc_count);
    const char *filter = lt_sample_filter(sample);
    if (!filter || filter_index(task, filter) < 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "task %s: the sample of document %lld has no \"filter\" of the task (it "
                       "says \"%s\")",
                       task->name, document, filter ? filter : "");
    if (!json_is_array(json_object_get(sample, "metrics")))
        return lt_fail(err, LT_ERR_FORMAT,
                       "task %s: the sample of document %lld has no list of \"metrics\"",
                       task->name, document);
    return LT_OK;
}

/* A sample and its place: by document, then filter. */
typedef struct placed {
    json_t *sample;
    int64_t document;
    int filter;
} placed;

static int compare_places(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    if (x->document != y->document) return x->document < y->document ? -1 : 1;
    return (x->filter > y->filter) - (x->filter < y->filter);
}

static lt_status place_samples(const lt_task *task, json_t *const *samples, int64_t count,
                               placed *places, lt_err *err)
{
    for (int64_t i = 0; i < count; i++) {
        LT_TRY(check_sample(task, samples[i], err));
        places[i] = (placed){samples[i], lt_sample_document(samples[i]),
                             filter_index(task, lt_sample_filter(samples[i]))};
    }
    qsort(places, (size_t)count, sizeof *places, compare_places);
    for (int64_t i = 1; i < count; i++)
        if (compare_places(&places[i - 1], &places[i]) == 0)
            return lt_fail(err, LT_ERR_FORMAT,
                           "task %s: document %lld has two samples with filter %s", task->name,
                           (long long)places[i].document,
                           lt_task_filter_name(task, places[i].filter));
    return LT_OK;
}

static lt_status take_samples(const lt_task *task, json_t *const *samples, int64_t count,
                              lt_task_results *out, lt_err *err)
{
    placed *places = calloc((size_t)count + 1, sizeof *places);
    lt_status status = LT_OK;
    out->samples = calloc((size_t)count + 1, sizeof *out->samples);
    if (places && out->samples)
        status = place_samples(task, samples, count, places, err);
    else
        status = lt_fail_nomem(err, (unsigned long long)count * sizeof *places, "samples");
    for (int64_t i = 0; i < count && status == LT_OK; i++)
        out->samples[out->sample_count++] = json_incref(places[i].sample);
    free(places);
    return status;
}

/* --- Rows ------------------------------------------------------------------------------------- */

/* BLEU: lm-eval draws at most 100, and its standard error is to be met. For ratios, of which it has
 * none, a thousand tell enough. */
static int64_t enough_resamples(lt_aggregation aggregation, int64_t resamples)
{
    if (aggregation == LT_AGGREGATE_BLEU) return lt_min_i64(resamples, 100);
    if (aggregation == LT_AGGREGATE_EXP_MINUS_MEAN) return resamples;
    return lt_min_i64(resamples, 1000);
}

static lt_status add_row(lt_task_results *results, const lt_metric_column *column,
                         int64_t resamples, lt_err *err)
{
    lt_metric_samples samples = lt_column_samples(column);
    lt_result_row *row = &results->rows[results->row_count++];
    *row = (lt_result_row){.metric = column->metric,
                           .filter = column->filter,
                           .category = column->category,
                           .count = column->count,
                           .value = lt_aggregate(&samples)};
    lt_status status = lt_aggregate_stderr(
        &samples, enough_resamples(samples.aggregation, resamples), &row->stderr_, err);
    if (status != LT_OK)
        lt_fail_context(err, "task %s, %s", results->task->name, lt_metric_of(row->metric)->name);
    return status;
}

static lt_status add_category_rows(lt_task_results *results, const lt_metric_columns *columns,
                                   int32_t category, int64_t resamples, lt_err *err)
{
    for (int i = 0; i < columns->count; i++) {
        lt_metric_column part;
        lt_status status = LT_OK;
        LT_TRY(lt_metric_column_select(columns, i, category, &part, err));
        if (part.count > 0) status = add_row(results, &part, resamples, err);
        lt_metric_column_free(&part);
        if (status != LT_OK) return status;
    }
    return LT_OK;
}

static lt_status make_rows(lt_task_results *results, const lt_metric_columns *columns,
                           int64_t resamples, lt_err *err)
{
    size_t most = (size_t)columns->count * ((size_t)columns->category_count + 1);
    results->rows = calloc(most + 1, sizeof *results->rows);
    if (!results->rows) return lt_fail_nomem(err, most * sizeof *results->rows, "results");
    for (int i = 0; i < columns->count; i++)
        LT_TRY(add_row(results, &columns->columns[i], resamples, err));
    for (int32_t c = 0; c < columns->category_count; c++)
        LT_TRY(add_category_rows(results, columns, c, resamples, err));
    return LT_OK;
}

lt_status lt_results_make(const lt_task *task, json_t *const *samples, int64_t count,
                          int64_t resamples, lt_task_results *out, lt_err *err)
{
    lt_metric_columns columns = {0};
    lt_status status;
    *out = (lt_task_results){.task = task};
    LT_TRY_GOTO(status, take_samples(task, samples, count, out, err), done);
    LT_TRY_GOTO(status, lt_metric_columns_read(out, &columns, err), done);
    status = make_rows(out, &columns, resamples, err);
done:
    lt_metric_columns_free(&columns);
    if (status != LT_OK) lt_results_free_task(out);
    return status;
}

void lt_results_free_task(lt_task_results *results)
{
    for (int64_t i = 0; i < results->sample_count; i++)
        json_decref(results->samples[i]);
    free(results->samples);
    free(results->rows);
    *results = (lt_task_results){0};
}
