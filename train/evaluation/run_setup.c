/* Before the first document is scored: settings, tasks, judge and models are checked. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "train/evaluation/model_identity.h"
#include "train/evaluation/results_internal.h"
#include "train/evaluation/run_internal.h"
#include "train/open_model.h"

enum { ANSWER_TOKENS = 256, MAX_RUBRIC_BYTES = 1 << 20 };

const char lt_default_rubric[] =
    "Below are a task, what is known about it, a model answer to it, and the answer that somebody "
    "gave. Decide whether the given answer is correct and does what the task asks.\n\n"
    "Task: {instruction}\n"
    "Known: {context}\n"
    "Model answer: {reference}\n"
    "Given answer: {answer}\n\n"
    "Is the given answer good, yes or no? The given answer is good:";

/* --- Settings --------------------------------------------------------------------------------- */

lt_status lt_evaluation_check(const lt_evaluation_settings *s, lt_err *err)
{
    if (!s->data && s->tasks.count == 0 && s->texts.count == 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "there is nothing to evaluate on; give --data, --tasks or --text");
    if (s->fewshot_data && s->tasks.count != 1)
        return lt_fail(
            err, LT_ERR_USAGE,
            "--fewshot-data is for one file of --tasks, not %zu; evaluate them one by one",
            s->tasks.count);
    if (s->rubric && !s->judge)
        return lt_fail(err, LT_ERR_USAGE, "--rubric is a judge's question: --judge is missing");
    if (s->judge && s->no_generate)
        return lt_fail(err, LT_ERR_USAGE,
                       "--judge and --no-generate exclude each other: a judge reads answers");
    return LT_OK;
}

/* --- Tasks ------------------------------------------------------------------------------------ */

static lt_status drop_answers(lt_evaluation *run, lt_task *task)
{
    lt_evaluation_say(run, "%s is left out: it is answered by text (--no-generate)", task->name);
    lt_task_free(task);
    return LT_OK;
}

/* Answers need room behind a prompt; a judge has a metric of its own. */
static lt_status prepare_answers(const lt_evaluation *run, lt_task *task)
{
    if (task->max_new_tokens >= run->room)
        return lt_fail(run->err, LT_ERR_USAGE,
                       "%s: answers of up to %lld tokens leave no room for a question in the %lld "
                       "that the model is shown; ask for fewer with --max-new-tokens",
                       task->name, (long long)task->max_new_tokens, (long long)run->room);
    if (!run->settings->judge) return LT_OK;
    if (task->metric_count == LT_TASK_MAX_METRICS)
        return lt_fail(run->err, LT_ERR_LIMIT, "%s: no room for the judge among its metrics",
                       task->name);
    task->metrics[task->metric_count++] = LT_METRIC_JUDGE;
    return LT_OK;
}

/* Takes the task over. */
static lt_status add_task(lt_evaluation *run, lt_task *task)
{
    lt_status status = LT_OK;
    bool is_answered = task->output == LT_TASK_GENERATE;
    if (is_answered && run->settings->no_generate) return drop_answers(run, task);
    for (int64_t i = 0; i < run->task_count && status == LT_OK; i++)
        if (strcmp(run->tasks[i].name, task->name) == 0)
            status =
                lt_fail(run->err, LT_ERR_USAGE,
                        "%s and %s are both called \"%s\"; rename one of the files, or evaluate "
                        "them one by one",
                        run->tasks[i].path, task->path, task->name);
    if (status == LT_OK && is_answered) status = prepare_answers(run, task);
    if (status == LT_OK)
        run->tasks[run->task_count++] = *task;
    else
        lt_task_free(task);
    return status;
}

static lt_status add_answers(lt_evaluation *run)
{
    const lt_evaluation_settings *s = run->settings;
    int64_t tokens = s->max_new_tokens;
    if (tokens == 0) tokens = lt_max_i64(1, lt_min_i64(ANSWER_TOKENS, run->room / 2));
    lt_task task;
    bool has_answers;
    LT_TRY(
        lt_task_of_answers(run->dataset, s->data, s->limit, tokens, &task, &has_answers, run->err));
    if (!has_answers) {
        lt_evaluation_say(run, "%s has no questions to answer: its loss alone is measured",
                          s->data);
        return LT_OK;
    }
    int64_t wanted = s->limit > 0 ? lt_min_i64(s->limit, task.original_count) : task.original_count;
    if (task.doc_count < wanted)
        lt_evaluation_say(run,
                          "answers: %lld of %lld held-out records have no answer to compare with",
                          (long long)(wanted - task.doc_count), (long long)wanted);
    return add_task(run, &task);
}

static lt_status add_dataset(lt_evaluation *run)
{
    const lt_evaluation_settings *s = run->settings;
    lt_task task;
    LT_TRY(lt_dataset_open(s->data, &run->dataset, run->err));
    LT_TRY(lt_task_from_dataset(run->dataset, s->data, s->limit, &task, run->err));
    LT_TRY(add_task(run, &task));
    if (!s->no_generate) LT_TRY(add_answers(run));
    run->dataset_tasks = run->task_count;
    return LT_OK;
}

static lt_status add_files(lt_evaluation *run)
{
    const lt_evaluation_settings *s = run->settings;
    const lt_task_settings how = {.num_fewshot = s->num_fewshot,
                                  .fewshot_path = s->fewshot_data,
                                  .fewshot_first = s->fewshot_first,
                                  .fewshot_seed = 1234, /* lm-eval's own */
                                  .chat = s->apply_chat_template,
                                  .limit = s->limit,
                                  .max_new_tokens = s->max_new_tokens};
    lt_task task;
    for (size_t i = 0; i < s->tasks.count; i++) {
        LT_TRY(lt_task_load(s->tasks.items[i], &how, &task, run->err));
        LT_TRY(add_task(run, &task));
    }
    for (size_t i = 0; i < s->texts.count; i++) {
        LT_TRY(lt_task_from_text(s->texts.items[i], &task, run->err));
        LT_TRY(add_task(run, &task));
    }
    return LT_OK;
}

lt_status lt_evaluation_load_tasks(lt_evaluation *run)
{
    const lt_evaluation_settings *s = run->settings;
    size_t most = s->tasks.count + s->texts.count + 2;
    run->tasks = calloc(most, sizeof *run->tasks);
    if (!run->tasks) return lt_fail_nomem(run->err, most * sizeof *run->tasks, "the tasks");
    if (s->data) LT_TRY(add_dataset(run));
    LT_TRY(add_files(run));
    if (run->task_count == 0)
        return lt_fail(run->err, LT_ERR_USAGE, "--no-generate leaves no task to evaluate on");
    return LT_OK;
}

/* --- The judge -------------------------------------------------------------------------------- */

static lt_status read_rubric(lt_evaluation *run)
{
    const char *path = run->settings->rubric;
    if (!path) return lt_buffer_append_text(&run->rubric, lt_default_rubric, run->err);
    LT_TRY(lt_read_file(path, MAX_RUBRIC_BYTES, &run->rubric, run->err));
    while (run->rubric.size > 0 && run->rubric.data[run->rubric.size - 1] == '\n')
        run->rubric.data[--run->rubric.size] = '\0'; /* the verdict follows at once */
    const char *text = lt_buffer_text(&run->rubric);
    if (strlen(text) != run->rubric.size)
        return lt_fail(run->err, LT_ERR_FORMAT, "%s: is no text: it has a NUL byte", path);
    if (strstr(text, "{answer}")) return LT_OK;
    return lt_fail(run->err, LT_ERR_FORMAT,
                   "%s: a rubric must have {answer}, where the answer is to be put (and may have "
                   "{instruction}, {context} and {reference})",
                   path);
}

static bool has_answers(const lt_evaluation *run)
{
    for (int64_t i = 0; i < run->task_count; i++)
        if (run->tasks[i].output == LT_TASK_GENERATE) return true;
    return false;
}

lt_status lt_evaluation_open_judge(lt_evaluation *run)
{
    const char *name = run->settings->judge;
    lt_buffer directory = {0};
    lt_status status;
    if (!name) return LT_OK;
    if (!has_answers(run))
        return lt_fail(run->err, LT_ERR_USAGE, "--judge: no task is answered by text");
    LT_TRY(read_rubric(run));
    LT_TRY_GOTO(status, lt_model_resolve(name, &directory, run->err), done);
    LT_TRY_GOTO(
        status,
        lt_assistant_open(directory.data, NULL, 0, run->device.backend, &run->judging, run->err),
        done);
    LT_TRY_GOTO(status, lt_model_identity(directory.data, run->judge_identity, run->err), done);
    lt_hash_bytes(run->rubric.data, run->rubric.size, run->rubric_hash);
    run->judge = (lt_judge){
        .assistant = &run->judging, .rubric = run->rubric.data, .good = " yes", .bad = " no"};
done:
    if (status != LT_OK) lt_fail_context(run->err, "--judge");
    lt_buffer_free(&directory);
    return status;
}

/* --- Models ----------------------------------------------------------------------------------- */

/* Positions that the model has for text: what its files say, before they are loaded. */
static lt_status read_room(lt_evaluation *run, const lt_side *side)
{
    lt_model_config model = {0};
    lt_adapter_config adapter = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_model_config_load(side->model.data, &model, run->err), done);
    if (side->named.adapter)
        LT_TRY_GOTO(status, lt_adapter_config_load(side->named.adapter, &adapter, run->err), done);
    bool is_virtual = side->named.adapter && adapter.kind != LT_ADAPTER_LORA;
    int64_t virtual_tokens = is_virtual ? adapter.num_virtual_tokens : 0;
    run->room = lt_min_i64(run->room, model.max_position_embeddings - virtual_tokens);
done:
    lt_model_config_free(&model);
    lt_adapter_config_free(&adapter);
    return status;
}

static lt_status name_side(lt_evaluation *run, lt_side *side)
{
    const lt_evaluated_model *named = &side->named;
    LT_TRY(lt_model_resolve(named->model, &side->model, run->err));
    LT_TRY(lt_buffer_printf(&side->label, run->err, "%s%s%s", named->model,
                            named->adapter ? " + " : "", named->adapter ? named->adapter : ""));
    return read_room(run, side);
}

lt_status lt_evaluation_name_sides(lt_evaluation *run)
{
    const lt_evaluation_settings *s = run->settings;
    run->sides[MODEL].named = s->model;
    run->sides[BASELINE].named = s->baseline;
    run->side_count = s->baseline.model ? 2 : 1;
    run->room = s->max_length > 0 ? s->max_length : INT64_MAX;
    for (int i = 0; i < run->side_count; i++)
        LT_TRY(name_side(run, &run->sides[i]));
    if (s->baseline.model && strcmp(run->sides[0].model.data, run->sides[1].model.data) == 0 &&
        lt_same_text(s->model.adapter, s->baseline.adapter))
        return lt_fail(run->err, LT_ERR_USAGE, "--compare: %s would be compared with itself",
                       run->sides[MODEL].label.data);
    return LT_OK;
}

/* Training grows rows for special tokens that the dataset's template has added; so does this. */
static lt_status add_special_rows(const lt_evaluation *run, lt_model *model)
{
    const lt_tokenizer *tokenizer = lt_dataset_tokenizer(run->dataset);
    int64_t tokens = lt_tokenizer_vocab_size(tokenizer);
    for (int64_t id = model->config.vocab_size; id < tokens; id++)
        if (!lt_tokenizer_is_special(tokenizer, (int32_t)id) || model->adapter_count > 0)
            return lt_fail(run->err, LT_ERR_USAGE,
                           "tokenizer and model do not match: the tokenizer of %s has %lld tokens, "
                           "the model %lld rows",
                           run->settings->data, (long long)tokens,
                           (long long)model->config.vocab_size);
    return tokens > model->config.vocab_size ? lt_model_grow_vocab(model, tokens, run->err) : LT_OK;
}

/* A dataset brings a tokenizer, so the model needs none of its own. */
static lt_status open_for_dataset(lt_evaluation *run, const char *model,
                                  const lt_adapter_source *adapter, int64_t count,
                                  lt_assistant *out)
{
    lt_opened_model opened;
    lt_status status;
    LT_TRY(lt_open_model(model, adapter, count, false, run->device.backend, &opened, run->err));
    const lt_tokenizer *tokenizer = opened.tokenizer;
    if (!tokenizer) {
        tokenizer = lt_dataset_tokenizer(run->dataset);
        LT_TRY_GOTO(status, add_special_rows(run, opened.model), failed);
    }
    LT_TRY_GOTO(status, lt_assistant_wrap(opened.model, tokenizer, &opened.notes, out, run->err),
                failed);
    out->owns_model = true; /* taken over, both */
    out->owned_tokenizer = opened.tokenizer;
    return lt_assistant_use_dataset(out, run->dataset, run->err);
failed:
    lt_close_model(&opened);
    return status;
}

static lt_status note_limits(lt_evaluation *run, lt_side *side, const lt_assistant *assistant)
{
    const lt_model *model = assistant->model;
    int64_t wanted = run->settings->max_length;
    int64_t room = model->config.max_position_embeddings - lt_adapter_virtual_tokens(model->active);
    int32_t end = lt_tokenizer_eos_id(assistant->tokenizer);
    if (wanted > room)
        return lt_fail(run->err, LT_ERR_USAGE, "--max-length %lld: the model sees %lld tokens",
                       (long long)wanted, (long long)room);
    side->max_length = wanted > 0 ? wanted : room;
    lt_buffer_clear(&side->end_token);
    return end >= 0 ? lt_decode(assistant->tokenizer, &end, 1, false, &side->end_token, run->err)
                    : LT_OK;
}

lt_status lt_evaluation_open_model(lt_evaluation *run, int index, bool for_dataset,
                                   lt_assistant *out)
{
    lt_side *side = &run->sides[index];
    const lt_adapter_source adapter = {.name = "adapter", .directory = side->named.adapter};
    int64_t count = adapter.directory ? 1 : 0;
    *out = (lt_assistant){0};
    lt_status status = for_dataset ? open_for_dataset(run, side->model.data, &adapter, count, out)
                                   : lt_assistant_open(side->model.data, &adapter, count,
                                                       run->device.backend, out, run->err);
    if (status == LT_OK) status = note_limits(run, side, out);
    if (status != LT_OK) {
        lt_assistant_close(out);
        lt_fail_context(run->err, index == MODEL ? "--model %s" : "--compare %s", side->label.data);
    }
    return status;
}
