/* The numbers in samples, read once for all that is made of them. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/results_internal.h"
#include "train/evaluation/words.h"

int64_t lt_sample_document(const json_t *sample)
{
    return json_integer_value(json_object_get(sample, "doc_id"));
}

const char *lt_sample_filter(const json_t *sample)
{
    return json_string_value(json_object_get(sample, "filter"));
}

int lt_task_filter_count(const lt_task *task)
{
    return task->filter_count > 0 ? task->filter_count : 1;
}

const char *lt_task_filter_name(const lt_task *task, int index)
{
    return task->filter_count > 0 ? task->filters[index].name : "none";
}

/* --- A column --------------------------------------------------------------------------------- */

void lt_metric_column_free(lt_metric_column *column)
{
    free(column->values);
    free(column->samples);
    *column = (lt_metric_column){0};
}

lt_metric_samples lt_column_samples(const lt_metric_column *column)
{
    const lt_metric_facts *facts = lt_metric_of(column->metric);
    return (lt_metric_samples){column->values, column->count, facts->width, facts->aggregation};
}

/* Room for `rows`. On failure the column stays empty. */
static lt_status allocate(lt_metric_column *column, int64_t rows, lt_err *err)
{
    size_t row = (size_t)lt_metric_of(column->metric)->width * sizeof *column->values, bytes = 0;
    if (lt_mul_size((size_t)rows + 1, row, &bytes)) {
        column->values = malloc(bytes);
        column->samples = malloc(((size_t)rows + 1) * sizeof *column->samples);
    }
    if (column->values && column->samples) return LT_OK;
    lt_metric_column_free(column);
    return lt_fail_nomem(err, bytes, "the values of samples");
}

static bool lists_metric(const json_t *sample, const char *name)
{
    const json_t *metrics = json_object_get(sample, "metrics");
    for (size_t i = 0; i < json_array_size(metrics); i++)
        if (lt_same_text(json_string_value(json_array_get(metrics, i)), name)) return true;
    return false;
}

/* A number, or the array of a row. */
static lt_status read_value(const lt_task *task, const json_t *sample, const lt_metric_facts *facts,
                            double *out, lt_err *err)
{
    const json_t *value = json_object_get(sample, facts->name);
    bool is_row = facts->width > 1;
    bool fits = !is_row || json_array_size(value) == (size_t)facts->width;
    for (int i = 0; i < facts->width && fits; i++) {
        const json_t *number = is_row ? json_array_get(value, (size_t)i) : value;
        fits = json_is_number(number);
        out[i] = json_number_value(number);
    }
    if (fits) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT,
                   "task %s: the sample of document %lld lists the metric %s, but has no \"%s\" "
                   "of %d finite number%s",
                   task->name, (long long)lt_sample_document(sample), facts->name, facts->name,
                   facts->width, is_row ? "s" : "");
}

static lt_status fill_column(const lt_task_results *results, lt_metric_column *column, lt_err *err)
{
    const lt_metric_facts *facts = lt_metric_of(column->metric);
    LT_TRY(allocate(column, results->sample_count, err));
    for (int64_t i = 0; i < results->sample_count; i++) {
        const json_t *sample = results->samples[i];
        if (!lt_same_text(lt_sample_filter(sample), column->filter) ||
            !lists_metric(sample, facts->name))
            continue;
        double *row = column->values + column->count * facts->width;
        LT_TRY(read_value(results->task, sample, facts, row, err));
        column->samples[column->count++] = i;
    }
    return LT_OK;
}

lt_status lt_metric_column_select(const lt_metric_columns *columns, int index, int32_t category,
                                  lt_metric_column *out, lt_err *err)
{
    const lt_metric_column *all = &columns->columns[index];
    size_t width = (size_t)lt_metric_of(all->metric)->width;
    *out = (lt_metric_column){.metric = all->metric, .filter = all->filter};
    LT_TRY(allocate(out, all->count, err));
    out->category = columns->categories[category];
    for (int64_t i = 0; i < all->count; i++) {
        if (columns->category_of[all->samples[i]] != category) continue;
        memcpy(out->values + (size_t)out->count * width, all->values + (size_t)i * width,
               width * sizeof *out->values);
        out->samples[out->count++] = all->samples[i];
    }
    return LT_OK;
}

/* --- All columns ------------------------------------------------------------------------------ */

/* One category that all samples are of says nothing that the whole does not. */
static bool is_all_one(const lt_metric_columns *columns)
{
    for (int64_t i = 0; i < columns->results->sample_count; i++)
        if (columns->category_of[i] != 0) return false;
    return true;
}

static lt_status find_categories(lt_metric_columns *out, lt_err *err)
{
    const lt_task_results *results = out->results;
    size_t count = (size_t)results->sample_count;
    lt_word_table names = {0};
    lt_status status = LT_OK;
    out->categories = calloc(count + 1, sizeof *out->categories);
    out->category_of = calloc(count + 1, sizeof *out->category_of);
    if (!out->categories || !out->category_of)
        return lt_fail_nomem(err, count * sizeof *out->categories, "the categories of samples");
    for (size_t i = 0; i < count && status == LT_OK; i++) {
        const char *name = results->task->docs[lt_sample_document(results->samples[i])].category;
        out->category_of[i] = -1;
        if (!name) continue;
        status = lt_word_number(&names, name, strlen(name), &out->category_of[i], err);
        if (status != LT_OK || (size_t)out->category_count == names.count) continue;
        out->categories[out->category_count++] = name;
    }
    if (status == LT_OK && is_all_one(out)) out->category_count = 0;
    lt_word_table_free(&names);
    return status;
}

static lt_status read_columns(lt_metric_columns *out, lt_err *err)
{
    const lt_task *task = out->results->task;
    for (int m = 0; m < task->metric_count; m++) {
        for (int f = 0; f < lt_task_filter_count(task); f++) {
            lt_metric_column *column = &out->columns[out->count++];
            *column = (lt_metric_column){.metric = task->metrics[m],
                                         .filter = lt_task_filter_name(task, f)};
            LT_TRY(fill_column(out->results, column, err));
            if (column->count > 0) continue;
            lt_metric_column_free(column);
            out->count--;
        }
    }
    return LT_OK;
}

lt_status lt_metric_columns_read(const lt_task_results *results, lt_metric_columns *out,
                                 lt_err *err)
{
    *out = (lt_metric_columns){.results = results};
    lt_status status = find_categories(out, err);
    if (status == LT_OK) status = read_columns(out, err);
    if (status != LT_OK) lt_metric_columns_free(out);
    return status;
}

void lt_metric_columns_free(lt_metric_columns *columns)
{
    for (int i = 0; i < columns->count; i++)
        lt_metric_column_free(&columns->columns[i]);
    free(columns->categories);
    free(columns->category_of);
    *columns = (lt_metric_columns){0};
}
