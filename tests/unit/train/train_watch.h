/* Whole runs with everything that observers are told, and the tensors they leave. Included by tests
 * of the trainer, each of which is one program. */
#ifndef LT_TRAIN_WATCH_H
#define LT_TRAIN_WATCH_H

#include "train_fixture.h"

#include <math.h>

#include "model/formats/safetensors.h"

enum { MAX_STEPS = 64 };

typedef struct record_of_run {
    lt_step_info steps[MAX_STEPS];
    int step_count;
    lt_eval_info evaluations[MAX_STEPS];
    int evaluation_count;
    char setup[8192], messages[8192];
    int progress, samples, starts, ends, saves, failed_saves;
    char prompt[512], answer[512]; /* of the last sample */
} record_of_run;

static record_of_run seen;

static inline void on_start(void *context, const lt_run_info *info)
{
    (void)context;
    seen.starts++;
    snprintf(seen.setup, sizeof seen.setup, "%s", info->setup);
    assert_true(json_is_object(info->settings));
}

static inline void on_message(void *context, const char *text)
{
    (void)context;
    size_t used = strlen(seen.messages);
    snprintf(seen.messages + used, sizeof seen.messages - used, "%s\n", text);
}

static inline void on_progress(void *context, const lt_progress_info *info)
{
    (void)context;
    assert_true(info->step <= info->total_steps);
    seen.progress++;
}

static inline void on_step(void *context, const lt_step_info *info)
{
    (void)context;
    if (seen.step_count < MAX_STEPS) seen.steps[seen.step_count++] = *info;
}

static inline void on_evaluation(void *context, const lt_eval_info *info)
{
    (void)context;
    if (seen.evaluation_count < MAX_STEPS) seen.evaluations[seen.evaluation_count++] = *info;
}

static inline void on_sample(void *context, const lt_sample_info *info)
{
    (void)context;
    assert_true(strlen(info->prompt) > 0 && strlen(info->reference) > 0);
    assert_string_equal(info->category, "open_qa");
    seen.samples++;
    snprintf(seen.prompt, sizeof seen.prompt, "%s", info->prompt);
    snprintf(seen.answer, sizeof seen.answer, "%s", info->answer);
}

static inline void on_save(void *context, const lt_save_info *info)
{
    (void)context;
    seen.saves += info->error == NULL;
    seen.failed_saves += info->error != NULL;
}

static inline void on_end(void *context, const lt_train_result *result)
{
    (void)context;
    (void)result;
    seen.ends++;
}

static const lt_train_observer watcher = {.start = on_start,
                                          .message = on_message,
                                          .progress = on_progress,
                                          .step = on_step,
                                          .evaluation = on_evaluation,
                                          .sample = on_sample,
                                          .save = on_save,
                                          .end = on_end};

static inline lt_train_result watch(const char *output, const char *words)
{
    lt_train_result result;
    memset(&seen, 0, sizeof seen);
    train_well(output, words, &watcher, &result);
    return result;
}

static inline void refuse(const char *output, const char *words, lt_status code, const char *reason)
{
    lt_err err = {0};
    memset(&seen, 0, sizeof seen);
    lt_status status = train(output, words, &watcher, NULL, &err);
    if (status != code) fail_msg("%s: status %d, %s", words, (int)status, err.message);
    assert_message(&err, reason);
}

/* The f32 tensors of a file, one after the other. Caller frees. */
static inline float *tensors_of(const char *path, const char *prefix, size_t *count)
{
    lt_safetensors file;
    lt_err err = {0};
    must(lt_safetensors_open(path, &file, &err), &err);
    float *values = NULL;
    *count = 0;
    for (size_t i = 0; i < file.count; i++) {
        const lt_safetensors_entry *entry = &file.entries[i];
        if (strncmp(entry->name, prefix, strlen(prefix)) != 0) continue;
        size_t n = entry->size / sizeof(float);
        values = realloc(values, (*count + n) * sizeof *values);
        memcpy(values + *count, entry->data, entry->size);
        *count += n;
    }
    lt_safetensors_close(&file);
    return values;
}

/* |a - b| / |a| over all tensors whose name starts so. */
static inline double distance(const char *a, const char *b, const char *prefix)
{
    size_t count, other;
    float *x = tensors_of(a, prefix, &count), *y = tensors_of(b, prefix, &other);
    assert_true(count > 0);
    assert_int_equal(count, other);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += pow((double)x[i] - (double)y[i], 2);
        norm += pow(x[i], 2);
    }
    free(x);
    free(y);
    return sqrt(difference / norm);
}

#endif
