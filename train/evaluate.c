/* The loss on held-out documents, what follows from it, and sample answers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/trainer.h"

enum { SAMPLE_TOKENS = 96 };

/* --- Samples -----------------------------------------------------------------------------------
 */

/* A held-out record as a question: formats of one turn only. */
static bool as_prompt(const lt_record *record, lt_prompt *out)
{
    *out = (lt_prompt){0};
    if (record->instruction) {
        out->instruction = record->instruction;
        out->context = record->context && *record->context ? record->context : NULL;
    } else if (record->message_count == 2 && record->messages[0].role == LT_ROLE_USER) {
        out->instruction = record->messages[0].content;
    }
    return out->instruction && lt_record_answer(record);
}

static void tell_sample(const lt_trainer *t, const lt_record *record, const lt_prompt *prompt,
                        const lt_answer *answer)
{
    lt_buffer text = {0};
    lt_status status = lt_buffer_append_text(&text, prompt->instruction, NULL);
    if (status == LT_OK && prompt->context)
        status = lt_buffer_printf(&text, NULL, "\n\n%s", prompt->context);
    const lt_sample_info info = {.step = t->state.step,
                                 .prompt = lt_buffer_text(&text),
                                 .reference = lt_record_answer(record),
                                 .answer = lt_buffer_text(&answer->text),
                                 .category = record->category};
    if (status == LT_OK) lt_tell_sample(t, &info);
    lt_buffer_free(&text);
}

/* Prompts, answers and their records side by side: [wanted] each. */
typedef struct samples {
    lt_record *records;
    lt_prompt *prompts;
    lt_answer *answers;
    int64_t count;
} samples;

static lt_status choose(const lt_trainer *t, int64_t wanted, samples *out, lt_err *err)
{
    out->records = calloc((size_t)wanted, sizeof *out->records);
    out->prompts = calloc((size_t)wanted, sizeof *out->prompts);
    out->answers = calloc((size_t)wanted, sizeof *out->answers);
    if (!out->records || !out->prompts || !out->answers)
        return lt_fail_nomem(err, (unsigned long long)wanted * 1024, "samples");
    int64_t documents = lt_dataset_count(t->dataset, LT_SPLIT_VALIDATION);
    for (int64_t i = 0; i < documents && out->count < wanted; i++) {
        if (lt_dataset_document(t->dataset, LT_SPLIT_VALIDATION, i).length > t->settings.max_length)
            continue;
        lt_record *record = &out->records[out->count];
        LT_TRY(lt_dataset_record(t->dataset, LT_SPLIT_VALIDATION, i, record, err));
        if (as_prompt(record, &out->prompts[out->count]))
            out->prompts[out->count++].adapter = t->adapter;
        else
            lt_record_free(record);
    }
    return LT_OK;
}

static lt_status answer_samples(lt_trainer *t, lt_err *err)
{
    samples s = {0};
    lt_assistant assistant = {0};
    /* the assistant only reads the tokenizer */
    lt_tokenizer *tokenizer = (lt_tokenizer *)(uintptr_t)lt_dataset_tokenizer(t->dataset);
    const lt_answer_settings settings = {.max_new_tokens = SAMPLE_TOKENS};
    lt_status status;
    LT_TRY_GOTO(status, choose(t, t->settings.eval_samples, &s, err), done);
    if (s.count == 0) goto done;
    LT_TRY_GOTO(status, lt_assistant_wrap(t->model, tokenizer, &t->notes, &assistant, err), done);
    status =
        lt_assistant_answer(&assistant, s.prompts, s.count, &settings, NULL, NULL, s.answers, err);
    for (int64_t i = 0; i < s.count && status == LT_OK; i++)
        tell_sample(t, &s.records[i], &s.prompts[i], &s.answers[i]);
done:
    lt_assistant_close(&assistant);
    for (int64_t i = 0; i < s.count; i++) {
        lt_answer_free(&s.answers[i]);
        lt_record_free(&s.records[i]);
    }
    free(s.records);
    free(s.prompts);
    free(s.answers);
    return status;
}

/* Plain text has no prompts, and a model without a stop token no end: samples are an extra, and
 * their failing is only told. All processes write the same answers, since the weights may be
 * divided among them; the first one tells. */
static void show_samples(lt_trainer *t)
{
    lt_err err = {0};
    if (t->settings.eval_samples == 0 || lt_dataset_format(t->dataset) == LT_FORMAT_TEXT) return;
    if (answer_samples(t, &err) != LT_OK) lt_tell(t, "warning: no samples: %s", err.message);
}

/* --- Held-out loss -----------------------------------------------------------------------------
 */

/* Adds one batch of this process; without rows it has the weights of others to hand on. */
static lt_status evaluate_batch(lt_trainer *t, lt_loss *loss, lt_err *err)
{
    lt_batch batch;
    LT_TRY(lt_loader_next(t->eval_loader, &batch, err));
    return lt_model_evaluate(t->model, t->workspace, &batch, loss, NULL, err);
}

/* Whether nobody wants to stop. */
static lt_status agree_to_go_on(lt_trainer *t, bool *go_on, lt_err *err)
{
    double wishes = lt_stop_requested() ? 1 : 0;
    LT_TRY(lt_comm_sum(t->comm, &wishes, 1, err));
    *go_on = wishes == 0;
    return LT_OK;
}

static lt_status add_up_processes(lt_trainer *t, lt_loss *loss, lt_err *err)
{
    double all[3] = {loss->sum, (double)loss->tokens, (double)loss->correct};
    LT_TRY(lt_comm_sum(t->comm, all, 3, err));
    *loss = (lt_loss){.sum = all[0], .tokens = (int64_t)all[1], .correct = (int64_t)all[2]};
    return LT_OK;
}

/* Each process evaluates its rows; all have the same number of batches. */
static lt_status held_out_loss(lt_trainer *t, lt_loss *loss, bool *finished, lt_err *err)
{
    const lt_loader_position start = {0, 0};
    int64_t batches = lt_loader_batches_per_epoch(t->eval_loader);
    LT_TRY(lt_loader_seek(t->eval_loader, start, err));
    for (int64_t i = 0; i < batches && *finished; i++) {
        lt_comm_heartbeat(t->comm, t->state.step, "evaluation");
        LT_TRY(evaluate_batch(t, loss, err));
        LT_TRY(agree_to_go_on(t, finished, err));
    }
    return *finished ? add_up_processes(t, loss, err) : LT_OK;
}

/* best/ holds the model of the lowest held-out loss that could be saved. */
static void save_best(lt_trainer *t, double loss)
{
    lt_err err = {0};
    if (loss >= t->state.best_saved_loss) return;
    double before = t->state.best_saved_loss;
    t->state.best_saved_loss = loss;
    t->best_failed = lt_output_save_model(t, "best", &err) != LT_OK;
    if (!t->best_failed) return;
    t->state.best_saved_loss = before;
    lt_tell(t, "warning: the best model was not saved, the one before it stays: %s", err.message);
}

/* The loss before the first step is for comparison: it is never the best of the training. */
static void judge(lt_trainer *t, lt_eval_info *info)
{
    lt_train_state *state = &t->state;
    if (state->step == 0) return;
    info->is_best = info->loss < state->best_loss;
    state->evaluations_without_best = info->is_best ? 0 : state->evaluations_without_best + 1;
    if (!info->is_best) return;
    state->best_loss = info->loss;
    state->best_step = state->step;
}

static lt_status add_to_history(lt_trainer *t, const lt_eval_info *info, lt_err *err)
{
    double seconds = info->seconds > 0 ? info->seconds : 1e-9;
    double rows = (double)lt_loader_rows_per_epoch(t->eval_loader);
    double steps = (double)lt_loader_batches_per_epoch(t->eval_loader);
    json_t *entry = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "epoch", lt_number_to_json(info->epoch), "eval_loss",
        lt_number_to_json(info->loss), "eval_mean_token_accuracy",
        lt_number_to_json(info->accuracy), "eval_runtime", lt_number_to_json(info->seconds),
        "eval_samples_per_second", lt_number_to_json(rows / seconds), "eval_steps_per_second",
        lt_number_to_json(steps / seconds), "step", (json_int_t)info->step);
    if (!entry || json_array_append_new(t->log_history, entry) != 0)
        return lt_fail_nomem(err, 256, "the log");
    return LT_OK;
}

lt_status lt_trainer_evaluate(lt_trainer *t, bool *finished, lt_err *err)
{
    lt_train_state *state = &t->state;
    lt_loss loss = {0};
    double begin = lt_seconds();
    *finished = true;
    LT_TRY(lt_sharder_finish_weights(t->sharder, err));
    LT_TRY(held_out_loss(t, &loss, finished, err));
    if (!*finished) return LT_OK;
    double mean = loss.sum / (double)loss.tokens;
    lt_eval_info info = {.step = state->step,
                         .epoch = (double)state->step / (double)t->steps_per_epoch,
                         .loss = mean,
                         .perplexity = exp(mean),
                         .accuracy = (double)loss.correct / (double)loss.tokens,
                         .tokens = loss.tokens,
                         .seconds = lt_seconds() - begin};
    state->evaluated_step = state->step;
    state->eval_loss = mean;
    judge(t, &info);
    LT_TRY(add_to_history(t, &info, err));
    show_samples(t);
    lt_tell_evaluation(t, &info);
    if (info.step > 0) save_best(t, mean);
    return LT_OK;
}
