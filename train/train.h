/* Training: from a model directory and a dataset to a tuned model directory.
 *
 * One step = micro-batches of forward and backward with losses and token counts summed, one
 * division by the global number of trained tokens, gradient norm, clip, AdamW, learning rate as a
 * pure function of the step. What happens is told to observers: the console, log.jsonl, TensorBoard
 * events and report.html are all observers, and the trainer itself prints nothing. */
#ifndef LT_TRAIN_H
#define LT_TRAIN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/options.h"
#include "base/status.h"
#include "data_pipeline/data_pipeline.h"
#include "model/model.h"

/* --- Settings
 * ------------------------------------------------------------------------------------------ */

/* Filled by the option table (lt_train_options), which holds names, defaults, ranges and help.
 * Strings are owned. */
typedef struct lt_train_settings {
    char *config; /* YAML file */
    char *model, *data, *output, *method, *resume;
    int64_t freeze_layers;
    char *train, *freeze; /* regular expressions; NULL: none */
    char *base_dtype;
    int64_t lora_r;
    double lora_alpha, lora_dropout;
    char *lora_target, *layers_to_transform, *modules_to_save;
    bool use_rslora, use_dora;
    int64_t num_virtual_tokens;
    bool prefix_projection;
    int64_t encoder_hidden_size;
    char *prompt_tuning_init, *prompt_tuning_init_text;
    double epochs;
    int64_t max_steps; /* 0: by epochs */
    int64_t micro_batch_size, gradient_accumulation_steps, global_batch_size;
    int64_t max_length; /* 0: the longest document, at most what the model can see */
    bool packing;
    double learning_rate, min_lr_ratio, warmup_ratio, weight_decay;
    double adam_beta1, adam_beta2, adam_epsilon, max_grad_norm;
    char *lr_scheduler;
    int64_t warmup_steps;
    double decay_ratio; /* wsd: the share of steps spent going down */
    int64_t seed;
    int64_t logging_steps, eval_steps, save_steps, save_total_limit, early_stopping_patience;
    int64_t eval_samples; /* held-out prompts answered for the report at each evaluation */
    char *recompute;
    double embd_pdrop, resid_pdrop, attn_pdrop;
    char *save_dtype; /* of the final and best model; checkpoints keep the training precision */
    char *optimizer, *gradient_dtype;
    bool offload_optimizer;
    char *device, *dtype, *matmul; /* train/device.h */
    int64_t threads;
    char *gpus;        /* "4" or "0,2,3": a process for each, started by the program; NULL */
    int64_t processes; /* on the CPU, likewise; 0: as it was started */
    char *shard;       /* train/shard.h */
    int64_t max_restarts;
    double watchdog_timeout; /* seconds; 0: never */
    char *cluster; /* named clusters that a dry run estimates for; NULL: all when there are
                      several processes */
    bool dry_run, force;
} lt_train_settings;

extern const lt_option_table lt_train_options;

/* --- Schedule (train/schedule.c)
 * ------------------------------------------------------------------------- */

typedef enum lt_scheduler {
    LT_SCHEDULER_COSINE,
    LT_SCHEDULER_LINEAR,
    LT_SCHEDULER_CONSTANT,
    LT_SCHEDULER_WSD
} lt_scheduler;

typedef struct lt_schedule {
    lt_scheduler kind;
    double learning_rate, min_lr_ratio, decay_ratio;
    int64_t warmup_steps, total_steps;
} lt_schedule;

/* For step 0 .. total_steps - 1. Warm-up is linear from 0 (step s gives (s + 1) / warmup of the
 * peak). */
double lt_schedule_learning_rate(const lt_schedule *schedule, int64_t step);

/* --- Observers
 * --------------------------------------------------------------------------------------------- */

typedef struct lt_step_info {
    int64_t step, total_steps; /* step: 1 for the first */
    double epoch;
    double loss;     /* mean over the trained tokens of the global batch, as it is: NaN stays NaN */
    double accuracy; /* next-token, on trained tokens */
    double gradient_norm, learning_rate;
    int64_t trained_tokens, input_tokens; /* of this step */
    int64_t total_input_tokens;
    double seconds;         /* of this step; the mean where several were read together */
    double elapsed_seconds; /* of this run */
    double flops; /* necessary floating-point operations of this step: 6 per parameter and token,
                     and attention */
    bool taken;   /* false: loss or gradient not finite, weights untouched */
    int64_t skipped_steps; /* so far */
    bool logging;          /* a logging step: others are for progress bars only */
} lt_step_info;

/* A step has been handed to the device; its loss comes later, with `step`. For progress bars. */
typedef struct lt_progress_info {
    int64_t step, total_steps;
    double elapsed_seconds; /* of this run */
} lt_progress_info;

typedef struct lt_eval_info {
    int64_t step;
    double epoch;
    double loss, perplexity, accuracy;
    int64_t tokens;
    double seconds;
    bool is_best;
} lt_eval_info;

/* A held-out prompt with its reference and the model's greedy answer. */
typedef struct lt_sample_info {
    int64_t step;
    const char *prompt, *reference, *answer, *category;
} lt_sample_info;

typedef struct lt_save_info {
    int64_t step;
    const char *path;
    const char *error; /* NULL: saved; else why not: training goes on */
    bool is_final;
} lt_save_info;

typedef struct lt_run_info {
    const json_t *settings; /* resolved, as saved */
    const char *setup;      /* several lines: model, data, batch, schedule, backend, memory table */
    const char *model, *output;      /* paths */
    bool is_adapter;                 /* what is trained stands beside the model */
    int64_t total_steps, first_step; /* first_step > 0 when resumed */
} lt_run_info;

typedef struct lt_train_result {
    int64_t steps;     /* taken, over all resumes */
    double train_loss; /* of the last logging window */
    double eval_loss, best_eval_loss;
    int64_t best_step;
    double seconds;
    uint64_t peak_memory; /* bytes of the process at its largest */
    bool interrupted;     /* a signal ended it, after a checkpoint */
    bool stopped_early;
    bool last_save_failed;
    bool is_main; /* this process tells the user: rank 0, or one whose error rank 0 can not know */
} lt_train_result;

/* Any function may be NULL. Called from the training thread. */
typedef struct lt_train_observer {
    void *context;
    void (*start)(void *context, const lt_run_info *info);
    void (*message)(void *context, const char *text); /* one line: a warning or notice */
    void (*progress)(void *context, const lt_progress_info *info);
    void (*step)(void *context, const lt_step_info *info); /* in order, some steps later */
    void (*evaluation)(void *context, const lt_eval_info *info);
    void (*sample)(void *context, const lt_sample_info *info);
    void (*save)(void *context, const lt_save_info *info);
    void (*end)(void *context, const lt_train_result *result);
} lt_train_observer;

/* The file observers (train/monitor/). `directory` is the run's output directory, which exists. A
 * file that can not be written is told once through `message` of nobody: observers never stop a
 * run. close() frees the observer's memory. */
lt_status lt_log_jsonl_open(const char *directory, bool resumed, int64_t first_step,
                            lt_train_observer *out, lt_err *err);
void lt_log_jsonl_close(lt_train_observer *observer);
lt_status lt_tensorboard_open(const char *directory, lt_train_observer *out, lt_err *err);
void lt_tensorboard_close(lt_train_observer *observer);
/* report.html is made again from log.jsonl at each evaluation and at the end, so a resumed run
 * shows its whole curve. */
lt_status lt_report_open(const char *directory, lt_train_observer *out, lt_err *err);
void lt_report_close(lt_train_observer *observer);
/* Text with times, of one process among several. `title` says which one. Appended to. */
lt_status lt_rank_log_open(const char *path, const char *title, lt_train_observer *out,
                           lt_err *err);
void lt_rank_log_close(lt_train_observer *observer);

/* --- Running
 * -------------------------------------------------------------------------------------------------
 */

/* Trains. With dry_run only `start` is told: the setup with the memory table, and nothing is
 * written. Where mpirun, srun or torchrun have started several processes, each of them calls it
 * with the same settings, and the observers of rank 0 alone are told; a failure in mid-run that the
 * others can not know of ends all of them, and does not return. */
lt_status lt_train(const lt_train_settings *settings, const lt_train_observer *observers,
                   int observer_count, lt_train_result *result, lt_err *err);

/* Asks a running lt_train to save a checkpoint at the next step boundary and return. Safe in a
 * signal handler. */
void lt_train_request_stop(void);

/* --- Model directories and checkpoints (train/checkpoint.h has the rest)
 * --------------------------------------- */

/* `lathe inspect` on a checkpoint: step, loss, files, and whether every hash of the manifest holds.
 */
lt_status lt_inspect_checkpoint(const char *path, FILE *out, lt_err *err);
bool lt_is_checkpoint(const char *path); /* a directory with a manifest.json of ours */

#endif
