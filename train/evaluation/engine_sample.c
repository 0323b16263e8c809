/* Samples in the shape of lm-evaluation-harness's samples_*.jsonl. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/evaluation/engine_internal.h"

static void append(lt_sample *sample, json_t *array, json_t *value)
{
    if (!array || !value) {
        json_decref(value);
        sample->failed = true;
    } else if (json_array_append_new(array, value) != 0) {
        sample->failed = true;
    }
}

void lt_sample_set(lt_sample *sample, const char *key, json_t *value)
{
    if (!value || json_object_set_new(sample->json, key, value) != 0) sample->failed = true;
}

/* str(target) of lm-eval: an index, several of them, or the text. */
static json_t *target_of(const lt_task *task, const lt_task_doc *doc)
{
    char text[512];
    size_t size = 0;
    if (doc->reference_count == 1) return json_string(doc->references[0]);
    if (doc->reference_count > 1) {
        json_t *all = json_array();
        for (size_t i = 0; all && i < doc->reference_count; i++)
            json_array_append_new(all, json_string(doc->references[i]));
        char *dump = json_dumps(all, 0);
        json_t *target = dump ? json_string(dump) : NULL;
        free(dump);
        json_decref(all);
        return target;
    }
    if (task->output == LT_TASK_LOGLIKELIHOOD) return json_string(doc->pairs[0].continuation);
    for (size_t i = 0; i < doc->gold_count && size < sizeof text - 32; i++)
        size += (size_t)snprintf(text + size, sizeof text - size, "%s%lld",
                                 i > 0 ? ", " : (doc->gold_count > 1 ? "[" : ""),
                                 (long long)doc->gold[i]);
    text[size] = '\0';
    if (doc->gold_count > 1) snprintf(text + size, sizeof text - size, "]");
    return json_string(text);
}

lt_sample lt_sample_begin(const lt_engine *e, int64_t doc, const char *filter)
{
    const lt_task_doc *d = &e->task->docs[doc];
    lt_sample s = {.json = json_object(),
                   .arguments = json_object(),
                   .resps = json_array(),
                   .filtered = json_array(),
                   .names = json_array(),
                   .doc = doc};
    lt_sample_set(&s, "doc_id", json_integer((json_int_t)doc));
    lt_sample_set(&s, "doc",
                  d->source ? json_incref(d->source) : json_pack("{s:s}", "where", d->where));
    lt_sample_set(&s, "target", target_of(e->task, d));
    lt_sample_set(&s, "arguments", json_incref(s.arguments));
    lt_sample_set(&s, "resps", json_incref(s.resps));
    lt_sample_set(&s, "filtered_resps", json_incref(s.filtered));
    lt_sample_set(&s, "filter", json_string(filter));
    lt_sample_set(&s, "metrics", json_incref(s.names));
    if (d->category) lt_sample_set(&s, "category", json_string(d->category));
    return s;
}

/* lm-eval writes responses as strings: the shortest that reads back as the same number. */
static json_t *number_text(double value)
{
    char text[40];
    for (int digits = 9; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return json_string(text);
}

static void add_arguments(lt_sample *sample, json_t *arguments)
{
    char key[32];
    snprintf(key, sizeof key, "gen_args_%zu", json_object_size(sample->arguments));
    if (!arguments || json_object_set_new(sample->arguments, key, arguments) != 0)
        sample->failed = true;
}

void lt_sample_add_pair(lt_sample *sample, const char *context, const char *continuation,
                        const lt_score *score)
{
    json_t *answer = json_pack("[o, s]", number_text(score->log_likelihood),
                               score->correct == score->tokens ? "True" : "False");
    add_arguments(sample, json_pack("{s:s, s:s}", "arg_0", context, "arg_1", continuation));
    append(sample, sample->resps, json_pack("[O]", answer));
    append(sample, sample->filtered, answer);
}

void lt_sample_add_rolling(lt_sample *sample, const char *text, const lt_score *score)
{
    json_t *answer = number_text(score->log_likelihood);
    if (text) add_arguments(sample, json_pack("{s:s}", "arg_0", text));
    append(sample, sample->resps, json_pack("[O]", answer));
    append(sample, sample->filtered, answer);
}

void lt_sample_add_answer(lt_sample *sample, const char *prompt, json_t *settings,
                          const char *answer, const char *filtered)
{
    add_arguments(sample, json_pack("{s:s, s:O}", "arg_0", prompt, "arg_1", settings));
    append(sample, sample->resps, json_pack("[s]", answer));
    append(sample, sample->filtered, json_string(filtered));
}

void lt_sample_add_metric(lt_sample *sample, lt_metric metric, const double *values)
{
    const lt_metric_facts *facts = lt_metric_of(metric);
    append(sample, sample->names, json_string(facts->name));
    if (facts->width == 1) {
        lt_sample_set(sample, facts->name, json_real(values[0]));
        return;
    }
    json_t *row = json_array();
    for (int i = 0; i < facts->width; i++)
        append(sample, row, json_real(values[i]));
    lt_sample_set(sample, facts->name, row);
}

void lt_sample_drop(lt_sample *sample)
{
    json_decref(sample->arguments);
    json_decref(sample->resps);
    json_decref(sample->filtered);
    json_decref(sample->names);
    json_decref(sample->json);
    *sample = (lt_sample){0};
}

lt_status lt_sample_end(lt_sample *sample, const lt_engine *e, int64_t cut)
{
    lt_status status =
        sample->failed
            ? lt_fail(e->err, LT_ERR_NOMEM,
                      "%s: its sample could not be made: no memory, or a number is not finite",
                      e->task->docs[sample->doc].where)
            : e->on_sample(e->context, sample->doc, sample->json, cut, e->err);
    lt_sample_drop(sample);
    return status;
}
