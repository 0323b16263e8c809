/* What finished steps come to: the run's state, its history, what observers are told, and when it
 * is no use going on. */
#include <inttypes.h>
#include <math.h>

#include "train/trainer.h"

/* What the step changes in the state, but for the step's number and the position in the data. */
static void account(lt_trainer *t, lt_step_info *info)
{
    lt_train_state *state = &t->state;
    state->updates += info->taken;
    state->skipped_steps += !info->taken;
    state->skipped_in_a_row = info->taken ? 0 : state->skipped_in_a_row + 1;
    state->input_tokens += info->input_tokens;
    state->trained_tokens += info->trained_tokens;
    state->flops += info->flops;
    state->seconds += info->seconds;
    state->window_loss += info->loss;
    state->window_steps++;
    info->skipped_steps = state->skipped_steps;
    info->total_input_tokens = state->input_tokens;
    info->elapsed_seconds = lt_seconds() - t->started;
}

/* A logging step ends the window: its mean is what log_history and the run's result hold. */
static lt_status close_window(lt_trainer *t, const lt_step_info *info, lt_err *err)
{
    lt_train_state *state = &t->state;
    if (!info->logging) return LT_OK;
    state->train_loss = state->window_loss / (double)state->window_steps;
    state->window_loss = 0;
    state->window_steps = 0;
    json_t *entry = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:I}", "epoch", lt_number_to_json(info->epoch), "grad_norm",
        lt_number_to_json(info->gradient_norm), "learning_rate",
        lt_number_to_json(info->learning_rate), "loss", lt_number_to_json(state->train_loss),
        "mean_token_accuracy", lt_number_to_json(info->accuracy), "step", (json_int_t)info->step);
    if (!entry || json_array_append_new(t->log_history, entry) != 0)
        return lt_fail_nomem(err, 256, "the log");
    return LT_OK;
}

/* Names the checkpoint that holds the last weights known to be good. */
static lt_status give_up(const lt_trainer *t, int64_t step, lt_err *err)
{
    lt_buffer path = {0};
    const char *advice = "there is no checkpoint yet";
    int64_t saved = t->saved_step;
    if (saved >= 0 && lt_checkpoint_path(t->settings.output, saved, &path, NULL) == LT_OK)
        advice = lt_buffer_text(&path);
    lt_fail(err, LT_ERR_NUMERIC,
            "loss or gradient was not finite %" PRId64 " steps in a row, the last of them step "
            "%" PRId64
            "; none was taken. Last good checkpoint: %s. To go on from its weights, give "
            "it as --model, with a lower --learning-rate and another --output",
            t->state.skipped_in_a_row, step, advice);
    lt_buffer_free(&path);
    return LT_ERR_NUMERIC;
}

lt_status lt_trainer_account(lt_trainer *t, lt_err *err)
{
    int count;
    bool stop = lt_stop_requested();
    LT_TRY(lt_results_read(&t->results, &count, &stop, err));
    t->stop_agreed = t->stop_agreed || (count > 0 && stop);
    for (int i = 0; i < count; i++) {
        lt_step_info *info = &t->results.steps[i];
        account(t, info);
        LT_TRY(close_window(t, info, err));
        lt_tell_step(t, info);
        /* what came after it, before anybody could know, was not taken either or is lost */
        if (t->state.skipped_in_a_row >= LT_MAX_SKIPPED_IN_A_ROW)
            return give_up(t, info->step, err);
    }
    return LT_OK;
}
