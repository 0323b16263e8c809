/* log.jsonl: one JSON object per line and event, each written as it happens.
 *
 * A resumed run goes on in the same file. What the dead run logged after the checkpoint that is
 * resumed happens again, so those lines are taken out first, by writing the lines that stay aside
 * and renaming: the log is a history without doubles at every moment. Numbers that are not finite
 * are written as the strings "NaN", "Infinity" and "-Infinity", so that every line stays JSON. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "base/fsio.h"
#include "train/monitor/append_file.h"
#include "train/train.h"

/* Digits kept of a number: more than any curve needs, fewer than would make lines hard to read. */
#define LOG_PRECISION  JSON_REAL_PRECISION(9)
#define LOG_SIZE_LIMIT ((size_t)4 << 30)

typedef struct log_jsonl {
    lt_append_file file;
    int64_t step; /* last one heard of: dates messages */
    int64_t first_step, total_steps;
    int64_t unreadable_lines; /* torn by a killed run, removed when resuming */
} log_jsonl;

/* --- Values ----------------------------------------------------------------------------------- */

static json_t *number(double value)
{
    if (isnan(value)) return json_string("NaN");
    if (isinf(value)) return json_string(value > 0 ? "Infinity" : "-Infinity");
    return json_real(value);
}

/* A string for any bytes: what is not UTF-8 becomes U+FFFD, since a line must stay JSON. */
static json_t *text_value(const char *text)
{
    if (!text) return json_null();
    json_t *value = json_string(text);
    if (value) return value;
    lt_buffer clean = {0};
    const char *at = text;
    size_t left = strlen(text);
    while (left > 0) {
        utf8proc_int32_t codepoint;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)at, (utf8proc_ssize_t)left, &codepoint);
        lt_status status = n > 0 ? lt_buffer_append(&clean, at, (size_t)n, NULL)
                                 : lt_buffer_append_text(&clean, "\xEF\xBF\xBD", NULL);
        if (status != LT_OK) break;
        size_t step = n > 0 ? (size_t)n : 1;
        at += step;
        left -= step;
    }
    value = json_string(lt_buffer_text(&clean));
    lt_buffer_free(&clean);
    return value;
}

static json_t *event(const char *name, int64_t step)
{
    char when[32] = "";
    time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc)) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return json_pack("{s:s, s:I, s:s}", "event", name, "step", (json_int_t)step, "time", when);
}

/* Setting a key of a NULL object, or to a NULL value, fails quietly inside jansson, which is what
 * is wanted when memory is short: the line is then left out by write_event. */
static void set(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value);
}

static void set_int(json_t *object, const char *key, int64_t value)
{
    set(object, key, json_integer((json_int_t)value));
}

static void write_event(log_jsonl *log, json_t *object)
{
    char *line = object ? json_dumps(object, JSON_COMPACT | LOG_PRECISION) : NULL;
    json_decref(object);
    if (!line) return;
    lt_buffer record = {0};
    if (lt_buffer_append_text(&record, line, NULL) == LT_OK &&
        lt_buffer_append(&record, "\n", 1, NULL) == LT_OK)
        lt_append_file_write(&log->file, record.data, record.size);
    lt_buffer_free(&record);
    free(line);
}

/* --- Events ----------------------------------------------------------------------------------- */

static void on_message(void *context, const char *text)
{
    log_jsonl *log = context;
    json_t *line = event("message", log->step);
    set(line, "text", text_value(text));
    write_event(log, line);
}

static void on_start(void *context, const lt_run_info *info)
{
    log_jsonl *log = context;
    log->step = log->first_step = info->first_step;
    log->total_steps = info->total_steps;
    json_t *line = event("start", info->first_step);
    set_int(line, "total_steps", info->total_steps);
    set(line, "version", json_string(LATHE_VERSION));
    set(line, "model", text_value(info->model));
    set(line, "output", text_value(info->output));
    set(line, "settings", info->settings ? json_deep_copy(info->settings) : json_null());
    set(line, "setup", text_value(info->setup));
    write_event(log, line);
    if (log->unreadable_lines > 0) {
        char text[128];
        snprintf(text, sizeof text,
                 "log.jsonl: %lld unreadable line(s) of an earlier run were removed",
                 (long long)log->unreadable_lines);
        log->unreadable_lines = 0;
        on_message(log, text);
    }
}

static double per_second(double count, double seconds)
{
    return seconds > 0 ? count / seconds : 0;
}

/* Seconds left if the steps to come take as long as those of this run did. */
static double remaining_seconds(const log_jsonl *log, const lt_step_info *info)
{
    int64_t done = info->step - log->first_step;
    if (done <= 0) return 0;
    return info->elapsed_seconds / (double)done * (double)(info->total_steps - info->step);
}

static void on_step(void *context, const lt_step_info *info)
{
    log_jsonl *log = context;
    log->step = info->step;
    if (!info->logging && info->taken) return;
    json_t *line = event("step", info->step);
    set_int(line, "total_steps", info->total_steps);
    set(line, "epoch", number(info->epoch));
    set(line, "loss", number(info->loss));
    set(line, "mean_token_accuracy", number(info->accuracy));
    set(line, "grad_norm", number(info->gradient_norm));
    set(line, "learning_rate", number(info->learning_rate));
    set(line, "tokens_per_second", number(per_second((double)info->input_tokens, info->seconds)));
    set_int(line, "trained_tokens", info->trained_tokens);
    set_int(line, "input_tokens", info->input_tokens);
    set_int(line, "num_input_tokens_seen", info->total_input_tokens);
    set(line, "step_time", number(info->seconds));
    set(line, "elapsed_time", number(info->elapsed_seconds));
    set(line, "remaining_time", number(remaining_seconds(log, info)));
    set(line, "flops_per_second", number(per_second(info->flops, info->seconds)));
    set(line, "taken", json_boolean(info->taken));
    set_int(line, "skipped_steps", info->skipped_steps);
    write_event(log, line);
}

static void on_evaluation(void *context, const lt_eval_info *info)
{
    log_jsonl *log = context;
    log->step = info->step;
    json_t *line = event("eval", info->step);
    set(line, "epoch", number(info->epoch));
    set(line, "eval_loss", number(info->loss));
    set(line, "eval_perplexity", number(info->perplexity));
    set(line, "eval_accuracy", number(info->accuracy));
    set_int(line, "eval_tokens", info->tokens);
    set(line, "eval_runtime", number(info->seconds));
    set(line, "is_best", json_boolean(info->is_best));
    write_event(log, line);
}

static void on_sample(void *context, const lt_sample_info *info)
{
    json_t *line = event("sample", info->step);
    set(line, "prompt", text_value(info->prompt));
    set(line, "reference", text_value(info->reference));
    set(line, "answer", text_value(info->answer));
    set(line, "category", text_value(info->category));
    write_event(context, line);
}

static void on_save(void *context, const lt_save_info *info)
{
    json_t *line = event("save", info->step);
    set(line, "path", text_value(info->path));
    set(line, "final", json_boolean(info->is_final));
    set(line, "error", text_value(info->error));
    write_event(context, line);
}

static void on_end(void *context, const lt_train_result *result)
{
    log_jsonl *log = context;
    json_t *line = event("end", log->step);
    set_int(line, "steps", result->steps);
    set(line, "train_loss", number(result->train_loss));
    set(line, "eval_loss", number(result->eval_loss));
    set(line, "best_eval_loss", number(result->best_eval_loss));
    set_int(line, "best_step", result->best_step);
    set(line, "train_runtime", number(result->seconds));
    set(line, "interrupted", json_boolean(result->interrupted));
    set(line, "stopped_early", json_boolean(result->stopped_early));
    set(line, "last_save_failed", json_boolean(result->last_save_failed));
    write_event(log, line);
}

/* --- Resuming --------------------------------------------------------------------------------- */

/* Copies to `kept` the lines of the history that leads to step `first_step`. A run that started at
 * or after it is undone altogether, whatever it said before its first step. */
static lt_status keep_history(const char *text, size_t size, int64_t first_step, lt_buffer *kept,
                              int64_t *unreadable, lt_err *err)
{
    size_t at = 0;
    while (at < size) {
        const char *newline = memchr(text + at, '\n', size - at);
        size_t length = newline ? (size_t)(newline - (text + at)) : size - at;
        json_t *line = newline ? json_loadb(text + at, length, 0, NULL) : NULL;
        const char *name = json_string_value(json_object_get(line, "event"));
        int64_t step = json_integer_value(json_object_get(line, "step"));
        bool undone_run = name && strcmp(name, "start") == 0 && step >= first_step;
        bool keep = name && step <= first_step;
        if (!name) *unreadable += 1;
        json_decref(line);
        if (undone_run) break;
        if (keep) LT_TRY(lt_buffer_append(kept, text + at, length + 1, err));
        at += length + 1;
    }
    return LT_OK;
}

static lt_status cut_back(const char *path, int64_t first_step, int64_t *unreadable, lt_err *err)
{
    if (!lt_path_exists(path)) return LT_OK;
    lt_buffer text = {0}, kept = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_read_file(path, LOG_SIZE_LIMIT, &text, err), done);
    LT_TRY_GOTO(status,
                keep_history(lt_buffer_text(&text), text.size, first_step, &kept, unreadable, err),
                done);
    if (kept.size != text.size) status = lt_write_file(path, lt_buffer_text(&kept), kept.size, err);
done:
    lt_buffer_free(&text);
    lt_buffer_free(&kept);
    return status;
}

lt_status lt_log_jsonl_open(const char *directory, bool resumed, int64_t first_step,
                            lt_train_observer *out, lt_err *err)
{
    *out = (lt_train_observer){0};
    lt_buffer path = {0};
    log_jsonl *log = calloc(1, sizeof *log);
    lt_status status = log ? LT_OK : lt_fail_nomem(err, sizeof *log, "the training log");
    if (status != LT_OK) return status;
    log->file.fd = -1;
    log->step = log->first_step = first_step;
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "log.jsonl", err), done);
    if (resumed)
        LT_TRY_GOTO(status,
                    cut_back(lt_buffer_text(&path), first_step, &log->unreadable_lines, err), done);
    LT_TRY_GOTO(status, lt_append_file_open(&log->file, lt_buffer_text(&path), !resumed, err),
                done);
    *out = (lt_train_observer){.context = log,
                               .start = on_start,
                               .message = on_message,
                               .step = on_step,
                               .evaluation = on_evaluation,
                               .sample = on_sample,
                               .save = on_save,
                               .end = on_end};
done:
    if (status != LT_OK) free(log);
    lt_buffer_free(&path);
    return status;
}

void lt_log_jsonl_close(lt_train_observer *observer)
{
    log_jsonl *log = observer->context;
    if (!log) return;
    lt_append_file_close(&log->file, NULL);
    free(log);
    *observer = (lt_train_observer){0};
}
