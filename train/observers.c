/* Telling what happens: to the observers that lt_train was given, then to those that write the
 * output directory's files. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "train/trainer.h"

/* Calls `function` of every observer that has it. */
#define TELL_ALL(trainer, function, info)                            \
    do {                                                             \
        for (int i_ = 0; i_ < (trainer)->observer_count; i_++) {     \
            const lt_train_observer *o_ = &(trainer)->observers[i_]; \
            if (o_->function) o_->function(o_->context, info);       \
        }                                                            \
        for (int i_ = 0; i_ < LT_FILE_OBSERVERS; i_++) {             \
            const lt_train_observer *o_ = &(trainer)->files[i_];     \
            if (o_->function) o_->function(o_->context, info);       \
        }                                                            \
    } while (0)

void lt_tell(const lt_trainer *trainer, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    TELL_ALL(trainer, message, text);
}

void lt_tell_files(const lt_trainer *trainer, const char *text)
{
    for (int i = 0; i < LT_FILE_OBSERVERS; i++)
        if (trainer->files[i].message) trainer->files[i].message(trainer->files[i].context, text);
}

static void tell_notices(const lt_trainer *trainer)
{
    const char *at = lt_buffer_text(&trainer->notices);
    while (*at) {
        int length = (int)strcspn(at, "\n");
        lt_tell(trainer, "%.*s", length, at);
        at += length + (at[length] == '\n');
    }
}

void lt_tell_start(const lt_trainer *trainer)
{
    const lt_run_info info = {.settings = trainer->resolved,
                              .setup = lt_buffer_text(&trainer->setup),
                              .model = lt_buffer_text(&trainer->model_directory),
                              .output = trainer->shape_only ? "" : trainer->settings.output,
                              .is_adapter = trainer->has_adapter,
                              .total_steps = trainer->schedule.total_steps,
                              .first_step = trainer->state.step};
    TELL_ALL(trainer, start, &info);
    tell_notices(trainer);
}

void lt_tell_progress(const lt_trainer *trainer)
{
    const lt_progress_info info = {.step = trainer->state.step,
                                   .total_steps = trainer->schedule.total_steps,
                                   .elapsed_seconds = lt_seconds() - trainer->started};
    TELL_ALL(trainer, progress, &info);
}

void lt_tell_step(const lt_trainer *trainer, const lt_step_info *info)
{
    TELL_ALL(trainer, step, info);
}

void lt_tell_evaluation(const lt_trainer *trainer, const lt_eval_info *info)
{
    TELL_ALL(trainer, evaluation, info);
}

void lt_tell_sample(const lt_trainer *trainer, const lt_sample_info *info)
{
    TELL_ALL(trainer, sample, info);
}

void lt_tell_save(const lt_trainer *trainer, const lt_save_info *info)
{
    TELL_ALL(trainer, save, info);
}

void lt_tell_end(const lt_trainer *trainer, const lt_train_result *result)
{
    TELL_ALL(trainer, end, result);
}

lt_status lt_notice(lt_trainer *trainer, lt_err *err, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return lt_buffer_printf(&trainer->notices, err, "%s\n", text);
}

static void complain(lt_trainer *trainer, lt_status status, const lt_err *err)
{
    if (status != LT_OK) lt_notice(trainer, NULL, "warning: %s; going on without it", err->message);
}

static void open_rank_log(lt_trainer *trainer)
{
    const lt_launch_place *place = &trainer->place;
    char title[160];
    lt_buffer path = {0};
    lt_err err = {0};
    snprintf(title, sizeof title, "rank %d of %d on %s, process %ld", place->rank,
             place->world_size, place->host, (long)getpid());
    lt_status status = lt_together_log_path(trainer, &path, &err);
    if (status == LT_OK)
        status = lt_rank_log_open(path.data, title, &trainer->files[LT_FILE_RANK_LOG], &err);
    complain(trainer, status, &err);
    lt_buffer_free(&path);
}

void lt_open_file_observers(lt_trainer *trainer)
{
    const char *output = trainer->settings.output;
    bool resumed = trainer->checkpoint.size > 0;
    lt_train_observer *files = trainer->files;
    lt_err err = {0};
    if (trainer->place.world_size > 1) open_rank_log(trainer);
    if (!trainer->is_main) return;
    complain(trainer,
             lt_log_jsonl_open(output, resumed, trainer->state.step, &files[LT_FILE_LOG], &err),
             &err);
    complain(trainer, lt_tensorboard_open(output, &files[LT_FILE_EVENTS], &err), &err);
    complain(trainer, lt_report_open(output, &files[LT_FILE_REPORT], &err), &err);
}

void lt_close_file_observers(lt_trainer *trainer)
{
    lt_report_close(&trainer->files[LT_FILE_REPORT]);
    lt_tensorboard_close(&trainer->files[LT_FILE_EVENTS]);
    lt_log_jsonl_close(&trainer->files[LT_FILE_LOG]);
    lt_rank_log_close(&trainer->files[LT_FILE_RANK_LOG]);
}
