#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

double lt_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* --- Stopping ----------------------------------------------------------------------------------
 */

static volatile sig_atomic_t stop_requested;

void lt_train_request_stop(void)
{
    stop_requested = 1;
}

bool lt_stop_requested(void)
{
    return stop_requested != 0;
}

/* --- The loop ----------------------------------------------------------------------------------
 */

static bool evaluation_due(const lt_trainer *t)
{
    int64_t step = t->state.step;
    return t->eval_loader && t->state.evaluated_step != step &&
           (step % t->eval_steps == 0 || step == t->state.total_steps);
}

static bool save_due(const lt_trainer *t)
{
    int64_t step = t->state.step;
    return step > 0 && t->saved_step != step && step % t->save_steps == 0;
}

static bool patience_is_over(const lt_trainer *t)
{
    int64_t patience = t->settings.early_stopping_patience;
    return patience > 0 && t->state.evaluations_without_best >= patience;
}

/* A logged step should be seen at once, and the others not much later. */
static bool results_due(const lt_trainer *t)
{
    const lt_step_results *r = &t->results;
    return r->steps[r->count - 1].logging || evaluation_due(t) || save_due(t) ||
           lt_results_are_due(r);
}

static lt_status save_checkpoint(lt_trainer *t, lt_err *err)
{
    LT_TRY(lt_sharder_finish_weights(t->sharder, err));
    lt_comm_heartbeat(t->comm, t->state.step, "saving");
    lt_trainer_save(t);
    return LT_OK;
}

/* Until the last step, the end of patience, or a signal: then *complete stays false. All processes
 * take the same turns: what decides is what all of them know. */
static lt_status run(lt_trainer *t, bool *complete, lt_err *err)
{
    bool finished = true;
    while (!lt_together_stopping(t)) {
        if (evaluation_due(t)) LT_TRY(lt_trainer_evaluate(t, &finished, err));
        if (!finished) return LT_OK;
        *complete = patience_is_over(t) || t->state.step >= t->state.total_steps;
        if (*complete) return LT_OK; /* the last checkpoint is the caller's */
        if (save_due(t)) LT_TRY(save_checkpoint(t, err));
        LT_TRY(lt_trainer_step(t, err));
        lt_tell_progress(t);
        if (results_due(t)) LT_TRY(lt_trainer_account(t, err));
    }
    return lt_trainer_account(t, err);
}

lt_status lt_explain_failure(const lt_trainer *t, lt_status status, lt_err *err)
{
    lt_buffer path = {0};
    /* the numbers went bad: that message says all of this already */
    if (!err || status == LT_OK || status == LT_ERR_NUMERIC) return status;
    size_t used = strlen(err->message), room = sizeof err->message - used;
    if (t->saved_step >= 0 &&
        lt_checkpoint_path(t->settings.output, t->saved_step, &path, NULL) == LT_OK)
        snprintf(err->message + used, room,
                 ". Training ended in step %" PRId64
                 "; %s is whole, and the same command goes on from it",
                 t->state.step + 1, lt_buffer_text(&path));
    else
        snprintf(err->message + used, room,
                 ". Training ended in step %" PRId64
                 ", before its first checkpoint; the same command starts again",
                 t->state.step + 1);
    lt_buffer_free(&path);
    return status;
}

/* The trained model as it is delivered; a failure ends the run as failed, after telling. */
static void save_final(lt_trainer *t)
{
    lt_err err = {0};
    lt_buffer path = {0};
    t->save_failed = lt_output_save_model(t, "final", &err) != LT_OK || t->save_failed;
    if (lt_path_join(&path, t->settings.output, "final", NULL) != LT_OK) return;
    const lt_save_info info = {.step = t->state.step,
                               .path = lt_buffer_text(&path),
                               .error = err.message[0] ? err.message : NULL,
                               .is_final = true};
    lt_tell_save(t, &info);
    lt_buffer_free(&path);
}

/* In several processes the others may be waiting for this one, in a collective that it will never
 * join: then all of them end here. Numbers that went bad are bad on all of them. */
static lt_status end_all(lt_trainer *t, lt_status status, lt_err *err)
{
    if (status == LT_OK || status == LT_ERR_NUMERIC || t->place.world_size == 1) return status;
    lt_tell_files(t, err->message);
    lt_comm_abort(t->comm, err->message, EXIT_FAILURE);
}

static lt_status carry_out(lt_trainer *t, lt_train_result *result, lt_err *err)
{
    bool complete = false;
    lt_status status = run(t, &complete, err);
    if (status == LT_OK) status = lt_sharder_finish_weights(t->sharder, err);
    LT_TRY(end_all(t, lt_explain_failure(t, status, err), err));
    result->interrupted = !complete;
    result->stopped_early = complete && t->state.step < t->state.total_steps;
    /* nothing to save before the first step: the next run starts from the same place */
    if (t->saved_step != t->state.step && t->state.step > 0) lt_trainer_save(t);
    if (complete) save_final(t);
    return LT_OK;
}

static void fill_result(const lt_trainer *t, lt_train_result *result)
{
    const lt_train_state *state = &t->state;
    result->steps = state->updates;
    result->train_loss = state->train_loss;
    result->eval_loss = state->eval_loss;
    result->best_eval_loss = state->best_loss;
    result->best_step = state->best_step;
    result->seconds = lt_seconds() - t->started;
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0) result->peak_memory = (uint64_t)usage.ru_maxrss * 1024;
    result->last_save_failed = t->save_failed || t->best_failed;
}

/* --- From settings to a result -----------------------------------------------------------------
 */

void lt_trainer_free(lt_trainer *t)
{
    lt_close_file_observers(t);
    lt_workspace_free(t->workspace);
    lt_results_free(&t->results);
    lt_optimizer_free(&t->optimizer);
    lt_sharder_free(t->sharder);
    lt_model_free(t->model);
    lt_loader_free(t->eval_loader);
    lt_loader_free(t->loader);
    lt_adapter_config_free(&t->adapter_config);
    lt_model_config_free(&t->config);
    lt_dataset_close(t->dataset);
    lt_comm_close(t->comm);
    lt_backend_free(t->backend);
    json_decref(t->resolved);
    json_decref(t->log_history);
    free(t->resolved_yaml);
    lt_buffer_free(&t->inventory);
    lt_buffer_free(&t->setup);
    lt_buffer_free(&t->notices);
    lt_buffer_free(&t->model_directory);
    lt_buffer_free(&t->checkpoint);
    if (t->output_lock >= 0) close(t->output_lock);
}

static lt_status train(lt_trainer *t, lt_train_result *result, lt_err *err)
{
    LT_TRY(lt_output_prepare(t, err));
    LT_TRY(lt_trainer_allocate(t, err));
    if (t->checkpoint.size > 0) LT_TRY(lt_together_agree(t, lt_resume_restore(t, err), err));
    lt_open_file_observers(t);
    lt_tell_start(t);
    t->started = lt_seconds();
    lt_status status = carry_out(t, result, err);
    fill_result(t, result);
    /* the caller gets the error; log and report should have it too */
    if (status != LT_OK && err) lt_tell_files(t, err->message);
    lt_tell_end(t, result);
    return status;
}

static lt_status prepare_and_train(lt_trainer *t, lt_train_result *result, lt_err *err)
{
    LT_TRY(lt_together_find_place(t, err));
    if (!t->is_main) t->observer_count = 0;
    if (t->settings.dry_run && !t->is_main) return LT_OK;
    LT_TRY(lt_trainer_prepare(t, err));
    if (t->settings.dry_run) lt_tell_start(t);
    LT_TRY(lt_together_agree(t, lt_trainer_check_memory(t, err), err));
    return t->settings.dry_run ? LT_OK : train(t, result, err);
}

lt_status lt_train(const lt_train_settings *settings, const lt_train_observer *observers,
                   int observer_count, lt_train_result *result, lt_err *err)
{
    lt_err own = {0};
    lt_trainer t = {.settings = *settings,
                    .observers = observers,
                    .observer_count = observer_count,
                    .output_lock = -1,
                    .saved_step = -1,
                    .is_main = true,
                    .world_size = 1,
                    .log_history = json_array()};
    *result = (lt_train_result){
        .train_loss = NAN, .eval_loss = NAN, .best_eval_loss = INFINITY, .is_main = true};
    lt_train_state_init(&t.state);
    if (!err) err = &own; /* messages go between processes, and into logs */
    lt_status status =
        t.log_history ? prepare_and_train(&t, result, err) : lt_fail_nomem(err, 64, "the log");
    result->is_main = t.is_main;
    lt_trainer_free(&t);
    stop_requested = 0;
    return status;
}
