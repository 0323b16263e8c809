#include "train/monitor/report_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"

#define LOG_SIZE_LIMIT ((size_t)4 << 30)

lt_status lt_series_push(lt_series *series, double x, double y, lt_err *err)
{
    if (series->count == series->capacity) {
        size_t capacity = series->capacity ? 2 * series->capacity : 256;
        lt_point *points = realloc(series->points, capacity * sizeof *points);
        if (!points) return lt_fail_nomem(err, capacity * sizeof *points, "a curve of the report");
        series->points = points;
        series->capacity = capacity;
    }
    series->points[series->count++] = (lt_point){x, y};
    return LT_OK;
}

void lt_series_free(lt_series *series)
{
    free(series->points);
    *series = (lt_series){0};
}

double lt_logged_number(const json_t *event, const char *key)
{
    const json_t *value = json_object_get(event, key);
    const char *word = json_string_value(value);
    if (word && strcmp(word, "Infinity") == 0) return INFINITY;
    if (word && strcmp(word, "-Infinity") == 0) return -INFINITY;
    return json_is_number(value) ? json_number_value(value) : NAN;
}

const char *lt_logged_text(const json_t *event, const char *key)
{
    const char *text = json_string_value(json_object_get(event, key));
    return text ? text : "";
}

/* Keeps a reference in a slot that holds one event. */
static void keep(json_t **slot, json_t *event)
{
    json_decref(*slot);
    *slot = json_incref(event);
}

/* Infinity has no place on a curve either. */
static lt_status push_logged(lt_series *series, const json_t *event, const char *key, lt_err *err)
{
    if (!json_object_get(event, key)) return LT_OK;
    double value = lt_logged_number(event, key);
    return lt_series_push(series, lt_logged_number(event, "step"), isfinite(value) ? value : NAN,
                          err);
}

static lt_status add_step(lt_report_data *data, json_t *event, lt_err *err)
{
    LT_TRY(push_logged(&data->loss, event, "loss", err));
    LT_TRY(push_logged(&data->grad_norm, event, "grad_norm", err));
    LT_TRY(push_logged(&data->learning_rate, event, "learning_rate", err));
    LT_TRY(push_logged(&data->tokens_per_second, event, "tokens_per_second", err));
    LT_TRY(push_logged(&data->accuracy, event, "mean_token_accuracy", err));
    double tokens = lt_logged_number(event, "input_tokens");
    double seconds = lt_logged_number(event, "step_time");
    if (isfinite(tokens) && isfinite(seconds)) {
        data->step_tokens += tokens;
        data->step_seconds += seconds;
    }
    keep(&data->last_step, event);
    return LT_OK;
}

static lt_status add_eval(lt_report_data *data, json_t *event, lt_err *err)
{
    LT_TRY(push_logged(&data->eval_loss, event, "eval_loss", err));
    LT_TRY(push_logged(&data->eval_accuracy, event, "eval_accuracy", err));
    keep(&data->last_eval, event);
    if (!data->best_eval || json_is_true(json_object_get(event, "is_best")))
        keep(&data->best_eval, event);
    return LT_OK;
}

static lt_status add_start(lt_report_data *data, json_t *event, double *run_seconds, lt_err *err)
{
    double step = lt_logged_number(event, "step");
    if (data->start && step > 0) LT_TRY(lt_series_push(&data->resumes, step, 0, err));
    data->seconds += *run_seconds;
    *run_seconds = 0;
    keep(&data->start, event);
    json_decref(data->end); /* an earlier run's end is not this one's */
    data->end = NULL;
    return LT_OK;
}

/* `run_seconds`: how far the clock of the run that is being read has come. */
static lt_status add_event(lt_report_data *data, json_t *event, double *run_seconds, lt_err *err)
{
    const char *name = lt_logged_text(event, "event");
    if (strcmp(name, "start") == 0) return add_start(data, event, run_seconds, err);
    if (strcmp(name, "eval") == 0) return add_eval(data, event, err);
    if (strcmp(name, "step") == 0) {
        double elapsed = lt_logged_number(event, "elapsed_time");
        if (isfinite(elapsed)) *run_seconds = elapsed;
        return add_step(data, event, err);
    }
    if (strcmp(name, "end") == 0) {
        double elapsed = lt_logged_number(event, "train_runtime");
        if (isfinite(elapsed) && elapsed > *run_seconds) *run_seconds = elapsed;
        keep(&data->end, event);
    }
    json_t *list = strcmp(name, "message") == 0  ? data->messages
                   : strcmp(name, "save") == 0   ? data->saves
                   : strcmp(name, "sample") == 0 ? data->samples
                                                 : NULL;
    if (list && json_array_append(list, event) != 0)
        return lt_fail_nomem(err, sizeof *event, "the report");
    return LT_OK;
}

static lt_status read_lines(lt_report_data *data, const char *text, size_t size, lt_err *err)
{
    double run_seconds = 0;
    for (size_t at = 0; at < size;) {
        const char *newline = memchr(text + at, '\n', size - at);
        size_t length = newline ? (size_t)(newline - (text + at)) : size - at;
        json_t *event = json_loadb(text + at, length, 0, NULL);
        lt_status status = event ? add_event(data, event, &run_seconds, err) : LT_OK;
        json_decref(event);
        LT_TRY(status);
        at += length + 1;
    }
    data->seconds += run_seconds;
    return LT_OK;
}

lt_status lt_report_data_load(const char *log_path, lt_report_data *out, lt_err *err)
{
    *out =
        (lt_report_data){.messages = json_array(), .saves = json_array(), .samples = json_array()};
    lt_buffer text = {0};
    lt_status status = LT_OK;
    if (!out->messages || !out->saves || !out->samples)
        status = lt_fail_nomem(err, sizeof *out, "the report");
    if (status == LT_OK) status = lt_read_file(log_path, LOG_SIZE_LIMIT, &text, err);
    if (status == LT_OK) status = read_lines(out, lt_buffer_text(&text), text.size, err);
    lt_buffer_free(&text);
    if (status != LT_OK) lt_report_data_free(out);
    return status;
}

void lt_report_data_free(lt_report_data *data)
{
    lt_series *series[] = {&data->loss,          &data->grad_norm, &data->learning_rate,
                           &data->accuracy,      &data->eval_loss, &data->tokens_per_second,
                           &data->eval_accuracy, &data->resumes};
    for (size_t i = 0; i < sizeof series / sizeof *series; i++)
        lt_series_free(series[i]);
    json_t *events[] = {data->start,     data->end,      data->last_step, data->best_eval,
                        data->last_eval, data->messages, data->saves,     data->samples};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        json_decref(events[i]);
    *data = (lt_report_data){0};
}
