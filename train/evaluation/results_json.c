/* results_*.json as lm-evaluation-harness 0.4.13 writes it, so that what reads its files reads
 * ours. A category of a task is a subtask "task/category". */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "train/evaluation/results_internal.h"

#define NOT_JSON "results: \"%s\" can not be written as JSON: it is not UTF-8, or memory is short"

/* --- Writing ---------------------------------------------------------------------------------- */

/* JSON on its way. The first failure stays; what comes after it is dropped. */
typedef struct writer {
    lt_status status;
    lt_err *err;
} writer;

/* Takes the reference of `value`. A key that is there already is an error: two tasks of one name
 * must not overwrite each other. */
static void set(writer *w, json_t *object, const char *key, json_t *value)
{
    if (w->status == LT_OK && json_object_get(object, key))
        w->status =
            lt_fail(w->err, LT_ERR_USAGE,
                    "results: \"%s\" is there twice; give one of the files another name", key);
    else if (w->status == LT_OK && (!value || json_object_set(object, key, value) != 0))
        w->status = lt_fail(w->err, LT_ERR_FORMAT, NOT_JSON, key);
    json_decref(value);
}

/* Takes the reference of `value`. `what` is for the message. */
static void push(writer *w, json_t *array, const char *what, json_t *value)
{
    if (w->status == LT_OK && (!value || json_array_append(array, value) != 0))
        w->status = lt_fail(w->err, LT_ERR_FORMAT, NOT_JSON, what);
    json_decref(value);
}

/* A new object under the key; borrowed. */
static json_t *set_object(writer *w, json_t *parent, const char *key)
{
    json_t *object = json_object();
    set(w, parent, key, object);
    return w->status == LT_OK ? json_object_get(parent, key) : NULL;
}

static json_t *text_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

/* As Python's json module has numbers that JSON has not. */
static json_t *number(double value)
{
    if (isfinite(value)) return json_real(value);
    return json_string(isnan(value) ? LT_JSON_LITERAL_PREFIX "NaN"
                       : value > 0  ? LT_JSON_LITERAL_PREFIX "Infinity"
                                    : LT_JSON_LITERAL_PREFIX "-Infinity");
}

/* "acc,none", "acc_stderr,none". */
static void metric_key(const char *metric, const char *suffix, const char *filter, char *out,
                       size_t size)
{
    snprintf(out, size, "%s%s,%s", metric, suffix, filter);
}

/* "task" or "task/category". Caller frees; NULL without memory. */
static char *subtask_name(const lt_task *task, const char *category)
{
    char *name = NULL;
    if (!category) return strdup(task->name);
    return asprintf(&name, "%s/%s", task->name, category) < 0 ? NULL : name;
}

/* --- One task --------------------------------------------------------------------------------- */

static const char *output_type(lt_task_output output)
{
    switch (output) {
    case LT_TASK_MULTIPLE_CHOICE:
        return "multiple_choice";
    case LT_TASK_GENERATE:
        return "generate_until";
    case LT_TASK_ROLLING:
        return "loglikelihood_rolling";
    case LT_TASK_LOGLIKELIHOOD:
    case LT_TASK_DATASET:
        break;
    }
    return "loglikelihood";
}

static void add_metric_list(writer *w, json_t *config, const lt_task *task)
{
    json_t *list = json_array();
    for (int i = 0; i < task->metric_count; i++) {
        const lt_metric_facts *facts = lt_metric_of(task->metrics[i]);
        push(w, list, "metric_list",
             json_pack("{s:s, s:o}", "metric", facts->name, "higher_is_better",
                       facts->neutral ? json_null() : json_boolean(facts->higher_is_better)));
    }
    set(w, config, "metric_list", list);
}

static void add_generation(writer *w, json_t *config, const lt_task *task)
{
    if (task->output != LT_TASK_GENERATE) return;
    json_t *generation = set_object(w, config, "generation_kwargs");
    json_t *until = json_array();
    for (size_t i = 0; i < task->stop_text_count; i++)
        push(w, until, "until", json_string(task->stop_texts[i]));
    set(w, generation, "until", until);
    set(w, generation, "max_gen_toks", json_integer(task->max_new_tokens));
    set(w, generation, "do_sample", json_false());
}

static void add_config(writer *w, json_t *configs, const lt_task *task)
{
    json_t *config = set_object(w, configs, task->name);
    set(w, config, "task", text_or_null(task->name));
    set(w, config, "dataset_path", text_or_null(task->path));
    set(w, config, "format", text_or_null(task->format));
    set(w, config, "output_type", json_string(output_type(task->output)));
    set(w, config, "num_fewshot", json_integer(task->num_fewshot));
    add_metric_list(w, config, task);
    add_generation(w, config, task);
}

static int64_t most_samples(const lt_task_results *results, const char *category)
{
    int64_t most = 0;
    for (int64_t i = 0; i < results->row_count; i++)
        if (lt_same_text(results->rows[i].category, category) && results->rows[i].count > most)
            most = results->rows[i].count;
    return most;
}

/* The values of one task or category. */
static void add_values(writer *w, json_t *all, const lt_task_results *results, const char *category)
{
    char *name = subtask_name(results->task, category), key[128];
    json_t *values = set_object(w, all, name ? name : "");
    set(w, values, "name", text_or_null(name));
    set(w, values, "alias", text_or_null(category ? category : results->task->name));
    set(w, values, "sample_len", json_integer(most_samples(results, category)));
    for (int64_t i = 0; i < results->row_count; i++) {
        const lt_result_row *row = &results->rows[i];
        const char *metric = lt_metric_of(row->metric)->name;
        if (!lt_same_text(row->category, category)) continue;
        metric_key(metric, "", row->filter, key, sizeof key);
        set(w, values, key, number(row->value));
        metric_key(metric, "_stderr", row->filter, key, sizeof key);
        set(w, values, key, isfinite(row->stderr_) ? number(row->stderr_) : json_string("N/A"));
    }
    free(name);
}

/* The objects of the file that have an entry for each task and category. */
typedef struct by_task {
    json_t *results, *subtasks, *configs, *versions, *shots, *higher_is_better, *counts;
} by_task;

static void add_facts(writer *w, const by_task *out, const lt_task_results *results,
                      const char *category)
{
    const lt_task *task = results->task;
    char *name = subtask_name(task, category);
    const char *key = name ? name : "";
    json_t *higher = set_object(w, out->higher_is_better, key);
    for (int i = 0; i < task->metric_count; i++) {
        const lt_metric_facts *facts = lt_metric_of(task->metrics[i]);
        set(w, higher, facts->name,
            facts->neutral ? json_null() : json_boolean(facts->higher_is_better));
    }
    set(w, out->versions, key, json_null());
    set(w, out->shots, key, json_integer(task->num_fewshot));
    json_t *counts = set_object(w, out->counts, key);
    int64_t effective = most_samples(results, category);
    set(w, counts, "original", json_integer(category ? effective : task->original_count));
    set(w, counts, "effective", json_integer(effective));
    add_values(w, out->results, results, category);
    free(name);
}

static void add_task(writer *w, const by_task *out, const lt_task_results *results)
{
    const char *before = NULL;
    json_t *subtasks = json_array();
    add_config(w, out->configs, results->task);
    add_facts(w, out, results, NULL);
    for (int64_t i = 0; i < results->row_count && w->status == LT_OK; i++) {
        const char *category = results->rows[i].category;
        if (!category || lt_same_text(category, before)) continue;
        char *name = subtask_name(results->task, category);
        push(w, subtasks, "group_subtasks", text_or_null(name));
        free(name);
        add_facts(w, out, results, category);
        before = category;
    }
    set(w, out->subtasks, results->task->name, subtasks);
}

/* --- The run ---------------------------------------------------------------------------------- */

/* A date as "2026-05-01T10:20:30.5" (UTC) in seconds since 1970; otherwise it stays text. */
static json_t *date_of(const char *text)
{
    struct tm time = {0};
    const char *end = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &time) : NULL;
    if (!end) return text_or_null(text);
    return json_real((double)timegm(&time) + (*end == '.' ? strtod(end, NULL) : 0));
}

/* Characters that no file system likes become "__", as lm-eval does it. */
static json_t *sanitized(const char *name)
{
    static const char unwanted[] = "\"<>:/|\\?*[]";
    lt_buffer out = {0};
    lt_status status = LT_OK;
    for (const char *at = name ? name : ""; *at && status == LT_OK;) {
        size_t bad = strspn(at, unwanted), good = strcspn(at, unwanted);
        status =
            bad ? lt_buffer_append_text(&out, "__", NULL) : lt_buffer_append(&out, at, good, NULL);
        at += bad ? bad : good;
    }
    json_t *text = status == LT_OK ? json_string(lt_buffer_text(&out)) : NULL;
    lt_buffer_free(&out);
    return text;
}

static void add_run(writer *w, json_t *root, const lt_evaluation_facts *facts)
{
    char seconds[32];
    json_t *config = set_object(w, root, "config");
    set(w, config, "model", json_string("lathe"));
    json_t *arguments = set_object(w, config, "model_args");
    set(w, arguments, "pretrained", text_or_null(facts->model));
    if (facts->adapter) set(w, arguments, "peft", json_string(facts->adapter));
    set(w, config, "model_dtype", text_or_null(facts->dtype));
    set(w, config, "batch_size",
        facts->batch_size > 0 ? json_integer(facts->batch_size) : json_string("auto"));
    set(w, config, "device", text_or_null(facts->device));
    set(w, config, "limit", facts->limit > 0 ? json_integer(facts->limit) : json_null());
    set(w, root, "date", date_of(facts->date));
    set(w, root, "lathe_version", json_string(LATHE_VERSION));
    set(w, root, "max_length", json_integer(facts->max_length));
    set(w, root, "fewshot_as_multiturn", json_boolean(facts->chat));
    set(w, root, "eot_token", text_or_null(facts->eot_token));
    set(w, root, "model_source", json_string("lathe"));
    set(w, root, "model_name", text_or_null(facts->model));
    set(w, root, "model_name_sanitized", sanitized(facts->model));
    snprintf(seconds, sizeof seconds, "%.3f", facts->seconds);
    set(w, root, "total_evaluation_time_seconds", json_string(seconds));
}

/* --- Comparison ------------------------------------------------------------------------------- */

static void add_comparison_row(writer *w, json_t *task, const lt_comparison_row *row)
{
    const lt_paired_result *result = &row->result;
    char key[128];
    metric_key(lt_metric_of(row->metric)->name, "", row->filter, key, sizeof key);
    json_t *values = set_object(w, task, key);
    set(w, values, "a", number(result->a));
    set(w, values, "b", number(result->b));
    set(w, values, "difference", number(result->difference));
    set(w, values, "low", number(result->low));
    set(w, values, "high", number(result->high));
    set(w, values, "p", number(result->p));
    set(w, values, "samples", json_integer(result->count));
    set(w, values, "better", json_integer(result->better));
    set(w, values, "worse", json_integer(result->worse));
    set(w, values, "equal", json_integer(result->equal));
    set(w, values, "verdict", json_string(lt_verdict(row->metric, result)));
}

static void add_comparison(writer *w, json_t *all, const lt_task_comparison *comparison)
{
    json_t *task = NULL;
    for (int64_t i = 0; i < comparison->row_count && w->status == LT_OK; i++) {
        const lt_comparison_row *row = &comparison->rows[i];
        if (i == 0 || !lt_same_text(row->category, comparison->rows[i - 1].category)) {
            char *name = subtask_name(comparison->a->task, row->category);
            task = set_object(w, all, name ? name : "");
            free(name);
        }
        add_comparison_row(w, task, row);
    }
}

/* The second model's results in the shape of the first one's, then the two side by side. */
static void add_compared(writer *w, json_t *root, const lt_task_comparison *comparisons,
                         int64_t count, const lt_evaluation_facts *facts)
{
    json_t *compared = set_object(w, root, "compared");
    set(w, compared, "model_name", text_or_null(facts->compared_model));
    set(w, compared, "adapter", text_or_null(facts->compared_adapter));
    json_t *results = set_object(w, compared, "results");
    json_t *differences = set_object(w, root, "comparison");
    for (int64_t i = 0; i < count && w->status == LT_OK; i++) {
        const lt_task_results *b = comparisons[i].b;
        add_values(w, results, b, NULL);
        for (int64_t r = 0; r < b->row_count && w->status == LT_OK; r++)
            if (b->rows[r].category &&
                !lt_same_text(b->rows[r].category, r ? b->rows[r - 1].category : NULL))
                add_values(w, results, b, b->rows[r].category);
        add_comparison(w, differences, &comparisons[i]);
    }
}

lt_status lt_results_to_json(const lt_task_results *results, int64_t count,
                             const lt_task_comparison *comparisons,
                             const lt_evaluation_facts *facts, json_t **out, lt_err *err)
{
    writer w = {LT_OK, err};
    json_t *root = json_object();
    by_task all = {
        .results = set_object(&w, root, "results"),
        .subtasks = set_object(&w, root, "group_subtasks"),
        .configs = set_object(&w, root, "configs"),
        .versions = set_object(&w, root, "versions"),
        .shots = set_object(&w, root, "n-shot"),
        .higher_is_better = set_object(&w, root, "higher_is_better"),
        .counts = set_object(&w, root, "n-samples"),
    };
    for (int64_t i = 0; i < count && w.status == LT_OK; i++)
        add_task(&w, &all, &results[i]);
    add_run(&w, root, facts);
    if (comparisons) add_compared(&w, root, comparisons, count, facts);
    *out = w.status == LT_OK ? root : NULL;
    if (!*out) json_decref(root);
    return w.status;
}
