/* One evaluation at work. Private to train/evaluation/run*.c. */
#ifndef LT_TRAIN_EVALUATION_RUN_INTERNAL_H
#define LT_TRAIN_EVALUATION_RUN_INTERNAL_H

#include "train/evaluation.h"
#include "train/evaluation/engine.h"
#include "train/evaluation/results.h"
#include "train/evaluation/sample_store.h"

/* A model that answers, and what has become of it. Everything is owned. */
typedef struct lt_side {
    lt_evaluated_model named; /* as the user wrote it; borrowed */
    lt_buffer model;          /* its directory */
    lt_buffer label;          /* "base", "base + lora/final" */
    lt_buffer directory;      /* of its files; empty without an output */
    lt_sample_store *stores;  /* [task_count] */
    lt_task_results *results; /* [task_count] */
    double *seconds;          /* [task_count] */
    int64_t max_length;
    lt_buffer end_token;
} lt_side;

enum { MODEL, BASELINE };

typedef struct lt_evaluation {
    const lt_evaluation_settings *settings;
    const lt_evaluation_observer *observer;
    lt_device_opened device;
    lt_dataset *dataset;
    lt_task *tasks; /* [task_count]: the dataset's first */
    int64_t task_count, dataset_tasks;
    lt_assistant judging; /* the judge's model; zeroed without one */
    lt_buffer rubric;
    lt_judge judge;
    char judge_identity[33], rubric_hash[33];
    lt_side sides[2]; /* MODEL, BASELINE */
    int side_count;
    int64_t room;                    /* tokens that every model can be shown */
    lt_task_comparison *comparisons; /* [task_count]: a the baseline, b the model; NULL: none */
    int lock;                        /* the output directory, open and locked; -1: none */
    char now[LT_DATE_SIZE], date[LT_DATE_SIZE]; /* this process's start, the evaluation's */
    double begin, seconds;                      /* lt_seconds() when scoring began; what it took */
    int64_t done, total, resumed;               /* documents of all tasks and sides */
    lt_err *err;
} lt_evaluation;

void lt_evaluation_say(const lt_evaluation *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* --- What is asked, and who (run_setup.c) ----------------------------------------------------- */

lt_status lt_evaluation_check(const lt_evaluation_settings *settings, lt_err *err);
lt_status lt_evaluation_name_sides(lt_evaluation *run);
lt_status lt_evaluation_load_tasks(lt_evaluation *run); /* of models that are named */
lt_status lt_evaluation_open_judge(lt_evaluation *run);
/* A side's model, for the dataset's tasks or for the others: a dataset may bring tokens and a
 * template of its own, which must not change what the other tasks measure. */
lt_status lt_evaluation_open_model(lt_evaluation *run, int side, bool for_dataset,
                                   lt_assistant *out);

/* --- What is kept (run_output.c) -------------------------------------------------------------- */

/* Locks the output directory, and reads what earlier runs have left there. */
lt_status lt_evaluation_open_output(lt_evaluation *run);
lt_status lt_evaluation_write_output(lt_evaluation *run, lt_evaluation_result *result);
lt_status lt_evaluation_to_json(lt_evaluation *run, json_t **out);

#endif
