/* Evaluating models: what `lathe eval` does, without the console.
 *
 * One or two models answer the same tasks; every answer is a sample, results are made from samples
 * alone. With an output directory samples are kept as they come, so that the same call goes on
 * where a killed one stopped and ends with the same numbers:
 *
 *   OUTPUT/MODEL/samples_TASK.partial.jsonl   while a task is not finished (sample_store.h)
 *   OUTPUT/MODEL/samples_TASK_DATE.jsonl      then, by document
 *   OUTPUT/MODEL/results_DATE.json            in the shape of lm-evaluation-harness
 *   OUTPUT/comparison_DATE.json               two models: the baseline's results, the model's, and
 *                                             their differences
 *   OUTPUT/TASK.yaml                          a generic task, for lm-evaluation-harness
 *   OUTPUT/report.html                        all of it on one page
 *
 * DATE is when the evaluation began, in UTC, however often it was resumed. */
#ifndef LT_TRAIN_EVALUATION_H
#define LT_TRAIN_EVALUATION_H

#include <jansson.h>
#include <signal.h>

#include "base/buffer.h"
#include "base/options.h"
#include "train/device.h"

/* A model directory or name and an adapter of it (NULL: none), as the user wrote them. */
typedef struct lt_evaluated_model {
    const char *model, *adapter;
} lt_evaluated_model;

/* Strings are borrowed. At least one of data, tasks and texts. */
typedef struct lt_evaluation_settings {
    lt_evaluated_model model;
    lt_evaluated_model baseline; /* what it is compared with; model NULL: nothing */
    const char *data;            /* DATA.h5 or NULL */
    lt_string_list tasks, texts; /* lt_task_load's words; plain-text files */
    int64_t limit;               /* documents of each task; 0: all */
    int64_t batch_size;          /* 0: chosen from the lengths */
    int64_t max_length;          /* tokens the model is shown; 0: all it can see */
    int64_t num_fewshot;         /* -1: the task's own number */
    const char *fewshot_data;    /* where examples come from; NULL: the task's own file */
    bool fewshot_first; /* the first ones; else drawn as lm-evaluation-harness draws them */
    bool apply_chat_template;
    int64_t max_new_tokens; /* 0: the task's own number; of a dataset's answers 256, or half of what
                               the model sees */
    bool no_generate;       /* leave out what is answered by text */
    const char *judge;      /* model directory; NULL: none */
    const char *rubric;     /* file with the judge's question; NULL: the built-in one */
    int64_t resamples;      /* of bootstraps; 0: no such errors, and none of differences */
    const char *output;     /* directory or NULL: nothing is kept */
    lt_device_choice machine;
    const volatile sig_atomic_t *cancelled; /* may be NULL; not 0: stop after this batch */
} lt_evaluation_settings;

typedef struct lt_evaluation_progress {
    const char *model, *task;
    int64_t done, total;         /* documents of this task and model */
    int64_t resumed;             /* of them, done by an earlier run */
    int64_t all_done, all_total; /* documents of all tasks and models */
    int64_t all_resumed;
    double seconds; /* since scoring began */
} lt_evaluation_progress;

/* Members may be NULL. */
typedef struct lt_evaluation_observer {
    void *context;
    void (*message)(void *context, const char *text); /* one line that the user should see */
    void (*progress)(void *context, const lt_evaluation_progress *progress);
} lt_evaluation_observer;

/* Everything is owned: lt_evaluation_result_free. */
typedef struct lt_evaluation_result {
    lt_buffer tables;    /* for the console, UTF-8 */
    lt_buffer notes;     /* lines on documents that were cut to fit */
    json_t *json;        /* the results, or those of a comparison */
    lt_buffer files;     /* paths written, one a line; the page comes last */
    int64_t done, total; /* documents of all tasks and models; set on failure too */
} lt_evaluation_result;

/* The text that a judge is asked with unless a rubric is given. */
extern const char lt_default_rubric[];

/* Everything that can be wrong with tasks, files and models is found before the first document is
 * scored. LT_ERR_INTERRUPTED when cancelled; LT_ERR_USAGE when another process is at work in the
 * output directory. */
lt_status lt_evaluation_run(const lt_evaluation_settings *settings,
                            const lt_evaluation_observer *observer, lt_evaluation_result *result,
                            lt_err *err);
void lt_evaluation_result_free(lt_evaluation_result *result);

#endif
