/* A generic task as lm-evaluation-harness is told of it (docs/new_task_guide.md there): a YAML file
 * over the same JSON Lines. Field names stand bare, so that texts are taken as they are and not as
 * templates. Strings are written as JSON, which is YAML. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "train/evaluation/task_format.h"

static lt_status add_string(lt_buffer *out, const char *before, const char *text, lt_err *err)
{
    json_t *string = json_string(text);
    if (!string) return lt_fail_nomem(err, strlen(text), "a YAML string");
    lt_status status = lt_buffer_append_text(out, before, err);
    if (status == LT_OK) status = lt_json_dump(string, 0, out, err);
    json_decref(string);
    return status == LT_OK ? lt_buffer_append_text(out, "\n", err) : status;
}

static bool has_gold_list(const lt_task_doc *doc)
{
    return json_is_array(json_object_get(doc->source, "gold"));
}

/* Of answers lm-eval has exact match alone; and its acc_mutual_info fails on lists of right
 * choices.
 */
static bool lm_eval_has(const lt_task *task, lt_metric metric)
{
    if (task->output == LT_TASK_GENERATE) return metric == LT_METRIC_EXACT_MATCH;
    return metric != LT_METRIC_ACC_MUTUAL_INFO || !has_gold_list(&task->docs[0]);
}

static lt_status add_metrics(const lt_task *task, lt_buffer *out, lt_err *err)
{
    LT_TRY(lt_buffer_append_text(out, "metric_list:\n", err));
    for (int i = 0; i < task->metric_count; i++)
        if (lm_eval_has(task, task->metrics[i]))
            LT_TRY(lt_buffer_printf(out, err, "  - metric: %s\n",
                                    lt_metric_of(task->metrics[i])->name));
    return LT_OK;
}

static lt_status unsupported(const lt_task_doc *doc, const char *why, lt_err *err)
{
    return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: lm-evaluation-harness has no task for this: %s",
                   doc->where, why);
}

/* --- Each kind of task ------------------------------------------------------------------------ */

static size_t delimiter_size(const lt_task_doc *doc)
{
    return strlen(doc->pairs[0].continuation) - strlen(doc->choices[0]);
}

static bool same_delimiter(const lt_task_doc *a, const lt_task_doc *b)
{
    size_t size = delimiter_size(a);
    return size == delimiter_size(b) &&
           memcmp(a->pairs[0].continuation, b->pairs[0].continuation, size) == 0;
}

static lt_status add_multiple_choice(const lt_task *task, lt_buffer *out, lt_err *err)
{
    const lt_task_doc *first = &task->docs[0];
    for (int64_t i = 1; i < task->doc_count; i++) {
        if (!same_delimiter(first, &task->docs[i]))
            return unsupported(&task->docs[i], "\"delimiter\" differs between records", err);
        if (has_gold_list(first) != has_gold_list(&task->docs[i]))
            return unsupported(&task->docs[i], "\"gold\" is a list in some records only", err);
    }
    char *delimiter = strndup(task->docs[0].pairs[0].continuation, delimiter_size(&task->docs[0]));
    if (!delimiter) return lt_fail_nomem(err, 0, "a YAML string");
    lt_status status = lt_buffer_append_text(out,
                                             "output_type: multiple_choice\n"
                                             "doc_to_text: query\n"
                                             "doc_to_choice: choices\n"
                                             "doc_to_target: gold\n",
                                             err);
    if (status == LT_OK) status = add_string(out, "target_delimiter: ", delimiter, err);
    free(delimiter);
    return status;
}

static lt_status add_loglikelihood(lt_buffer *out, lt_err *err)
{
    return lt_buffer_append_text(out,
                                 "output_type: loglikelihood\n"
                                 "doc_to_text: context\n"
                                 "doc_to_target: continuation\n"
                                 "target_delimiter: \"\"\n",
                                 err);
}

static lt_status add_rolling(lt_buffer *out, lt_err *err)
{
    return lt_buffer_append_text(out,
                                 "output_type: loglikelihood_rolling\n"
                                 "doc_to_text: \"\"\n"
                                 "doc_to_target: text\n",
                                 err);
}

static lt_status add_generation(const lt_task *task, lt_buffer *out, lt_err *err)
{
    const lt_task_doc *first = &task->docs[0];
    if (first->messages) return unsupported(first, "\"messages\"; give it a \"prompt\"", err);
    if (first->reference_count == 0) return unsupported(first, "there are no references", err);
    LT_TRY(lt_buffer_printf(out, err,
                            "output_type: generate_until\n"
                            "doc_to_text: prompt\n"
                            "doc_to_target: %s\n"
                            "generation_kwargs:\n"
                            "  do_sample: false\n"
                            "  temperature: 0.0\n"
                            "  max_gen_toks: %lld\n"
                            "  until:%s\n",
                            lt_task_find(first->source, "references") ? "references" : "reference",
                            (long long)task->max_new_tokens, task->stop_text_count ? "" : " []"));
    for (size_t i = 0; i < task->stop_text_count; i++)
        LT_TRY(add_string(out, "    - ", task->stop_texts[i], err));
    /* as answers are compared here: without white space at their ends */
    return lt_buffer_append_text(out,
                                 "filter_list:\n"
                                 "  - name: none\n"
                                 "    filter:\n"
                                 "      - function: remove_whitespace\n"
                                 "      - function: take_first\n",
                                 err);
}

/* --- The file --------------------------------------------------------------------------------- */

static lt_status add_files(const lt_task *task, lt_buffer *out, lt_err *err)
{
    LT_TRY(add_string(out, "task: ", task->name, err));
    LT_TRY(lt_buffer_append_text(out, "dataset_path: json\ndataset_kwargs:\n  data_files:\n", err));
    LT_TRY(add_string(out, "    test: ", task->path, err));
    if (task->fewshot_path) LT_TRY(add_string(out, "    train: ", task->fewshot_path, err));
    LT_TRY(lt_buffer_append_text(out, "test_split: test\n", err));
    if (task->output == LT_TASK_ROLLING) return LT_OK;
    /* A 0 there could not be overruled on lm-eval's command line. */
    if (task->num_fewshot > 0)
        LT_TRY(lt_buffer_printf(out, err, "num_fewshot: %lld\n", (long long)task->num_fewshot));
    return lt_buffer_printf(out, err, "fewshot_split: %s\nfewshot_config:\n  sampler: %s\n",
                            task->fewshot_path ? "train" : "test",
                            task->fewshot_first ? "first_n" : "default");
}

static lt_status add_kind(const lt_task *task, lt_buffer *out, lt_err *err)
{
    switch (task->output) {
    case LT_TASK_MULTIPLE_CHOICE:
        return add_multiple_choice(task, out, err);
    case LT_TASK_LOGLIKELIHOOD:
        return add_loglikelihood(out, err);
    case LT_TASK_ROLLING:
        return add_rolling(out, err);
    default:
        return add_generation(task, out, err);
    }
}

lt_status lt_task_to_lm_eval(const lt_task *task, lt_buffer *out, lt_err *err)
{
    static const char *const generic[] = {"multiple_choice", "loglikelihood", "generation",
                                          "perplexity"};
    bool known = false;
    for (size_t i = 0; i < sizeof generic / sizeof *generic; i++)
        known |= strcmp(task->format, generic[i]) == 0;
    if (!known)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: lm-evaluation-harness has tasks of its own for %s; only those of "
                       "generic files are written for it",
                       task->path, task->format);
    LT_TRY(add_files(task, out, err));
    LT_TRY(add_kind(task, out, err));
    return add_metrics(task, out, err);
}
