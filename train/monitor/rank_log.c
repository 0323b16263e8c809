/* logs/rank-N.log: what one of several processes went through, for a person who looks for the one
 * that failed. Every line has the time; a run that starts again goes on in the same file. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fsio.h"
#include "train/monitor/append_file.h"
#include "train/train.h"

typedef struct rank_log {
    lt_append_file file;
    char title[160]; /* "rank 1 of 4 on HOST" */
} rank_log;

static void write_line(rank_log *log, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void write_line(rank_log *log, const char *format, ...)
{
    char when[32] = "", text[2200];
    time_t now = time(NULL);
    struct tm utc;
    lt_buffer line = {0};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (gmtime_r(&now, &utc)) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    if (lt_buffer_printf(&line, NULL, "%s %s\n", when, text) == LT_OK)
        lt_append_file_write(&log->file, line.data, line.size);
    lt_buffer_free(&line);
}

static void on_start(void *context, const lt_run_info *info)
{
    rank_log *log = context;
    write_line(log, "%s: lathe %s starts, step %" PRId64 " of %" PRId64, log->title, LATHE_VERSION,
               info->first_step, info->total_steps);
    lt_append_file_write(&log->file, info->setup, strlen(info->setup));
}

static void on_message(void *context, const char *text)
{
    write_line(context, "%s", text);
}

static void on_step(void *context, const lt_step_info *info)
{
    write_line(context, "step %" PRId64 "  loss %.6f  norm %.4f  %.0f ms%s", info->step, info->loss,
               info->gradient_norm, 1e3 * info->seconds, info->taken ? "" : "  NOT TAKEN");
}

static void on_evaluation(void *context, const lt_eval_info *info)
{
    write_line(context, "held out, step %" PRId64 ": loss %.6f  %.1f s", info->step, info->loss,
               info->seconds);
}

static void on_save(void *context, const lt_save_info *info)
{
    write_line(context, "%s %s%s%s", info->error ? "not saved:" : "saved", info->path,
               info->error ? ": " : "", info->error ? info->error : "");
}

static void on_end(void *context, const lt_train_result *result)
{
    write_line(context, "%s after %" PRId64 " steps, %.1f s",
               result->interrupted ? "stopped" : "ended", result->steps, result->seconds);
}

static lt_status open_file(rank_log *log, const char *path, lt_err *err)
{
    LT_TRY(lt_make_parent_directories(path, err));
    return lt_append_file_open(&log->file, path, false, err);
}

lt_status lt_rank_log_open(const char *path, const char *title, lt_train_observer *out, lt_err *err)
{
    *out = (lt_train_observer){0};
    rank_log *log = calloc(1, sizeof *log);
    if (!log) return lt_fail_nomem(err, sizeof *log, "a log");
    snprintf(log->title, sizeof log->title, "%s", title);
    lt_status status = open_file(log, path, err);
    if (status != LT_OK) {
        free(log);
        return status;
    }
    *out = (lt_train_observer){.context = log,
                               .start = on_start,
                               .message = on_message,
                               .step = on_step,
                               .evaluation = on_evaluation,
                               .save = on_save,
                               .end = on_end};
    return LT_OK;
}

void lt_rank_log_close(lt_train_observer *observer)
{
    rank_log *log = observer->context;
    if (!log) return;
    lt_append_file_close(&log->file, NULL);
    free(log);
    *observer = (lt_train_observer){0};
}
