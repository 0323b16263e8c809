/* The trainer: what the files of a run's life share. Private to train/.
 *
 *   together.c    this process among those that train the model with it
 *   setup.c       settings, data and model made ready for each other; the plan; the setup text
 *   adapter_setup.c what --method and its options ask of an adapter
 *   match_vocabulary.c whether the dataset's tokenizer is the model's
 *   plan.c        the memory a run takes
 *   plan_clusters.c the time of its steps on many GPUs
 *   setup_text.c  what a person is told before the start
 *   plan_text.c   the table of memory
 *   output.c      the output directory: what it holds, final/ and best/
 *   resume.c      which checkpoint to go on from, and whether it belongs to this run
 *   step.c        one optimizer step
 *   results.c     losses and norms that are still on the device
 *   account.c     what they come to once they are read
 *   evaluate.c    held-out loss and sample answers
 *   save.c        writing checkpoints
 *   trainer.c     lt_train: the loop, and the order in which all this happens */
#ifndef LT_TRAIN_TRAINER_H
#define LT_TRAIN_TRAINER_H

#include "base/buffer.h"
#include "model/adapter.h"
#include "train/assistant.h"
#include "train/checkpoint.h"
#include "train/comm/comm.h"
#include "train/device.h"
#include "train/launch.h"
#include "train/optimizer.h"
#include "train/results.h"
#include "train/shard.h"
#include "train/state.h"
#include "train/train.h"

enum { LT_MAX_SKIPPED_IN_A_ROW = 3 };

/* The observers of the output directory's files; the report is made from the log, so it is told
 * last. */
enum { LT_FILE_LOG, LT_FILE_EVENTS, LT_FILE_REPORT, LT_FILE_RANK_LOG, LT_FILE_OBSERVERS };

enum { LT_RECOMPUTE_LEVELS = 3 };

/* Bytes, exact. On the CPU the device's memory is the process's. */
typedef struct lt_train_plan {
    lt_memory_plan model;
    lt_optimizer_memory optimizer;
    uint64_t exchange; /* rooms of collectives, beside the model's own memory */
    uint64_t scratch;  /* of the device's operations, and results of steps */
    uint64_t device, host;
    uint64_t available, host_available;        /* UINT64_MAX: not known */
    uint64_t activations[LT_RECOMPUTE_LEVELS]; /* at each level */
    uint64_t offloaded_device, offloaded_host; /* in all, if the optimizer were offloaded */
} lt_train_plan;

typedef struct lt_trainer {
    lt_train_settings settings;         /* resolved; its strings are borrowed from the caller */
    const lt_train_observer *observers; /* borrowed */
    int observer_count;
    lt_train_observer files[LT_FILE_OBSERVERS]; /* owned; zeroed ones hear nothing */
    lt_buffer notices;                          /* lines that are told once the run has started */

    lt_launch_place place;
    bool is_main;         /* rank 0: tells the user, and looks after the output directory */
    int64_t world_size;   /* processes; in a dry run those that are planned for */
    lt_sharding sharding; /* what they divide, and which of them this is */
    lt_comm *comm;        /* single for one process */
    lt_sharder *sharder;  /* NULL: one process, which has nothing to exchange */
    lt_file_group file_group;
    const lt_file_group *group; /* the same; NULL: one process */
    lt_readers readers;         /* the same, of checkpoints */
    bool stop_agreed;           /* one of several processes was asked to stop, and all know of it */

    lt_backend *backend;
    lt_device_opened device; /* the same, and how it was chosen */
    bool shape_only;         /* a dry run for a preset's shape: no model, no data */
    lt_dataset *dataset;
    lt_loader *loader;
    lt_loader *eval_loader;    /* NULL: nothing is held out */
    lt_buffer model_directory; /* what --model resolves to */
    lt_buffer checkpoint;      /* directory that is resumed; empty: a fresh start */
    lt_model_config config;    /* of the model as it will be trained, vocabulary grown */
    int64_t grown_rows;        /* vocabulary rows that the model directory lacks */
    bool has_adapter;          /* --method is not full */
    lt_adapter_config adapter_config;
    lt_model_notes notes;
    lt_workspace_settings workspace_settings;
    lt_train_plan plan;
    lt_schedule schedule;
    int64_t steps_per_epoch;
    int64_t eval_steps, save_steps; /* resolved: never 0 */
    json_t *resolved;               /* settings as saved; owned */
    char *resolved_yaml;            /* the same as a file for --config; owned */
    lt_buffer inventory;            /* of what is trained */
    lt_buffer setup;                /* text */
    int output_lock;                /* file descriptor, -1: none */

    lt_model *model;
    lt_adapter *adapter; /* the model's; NULL: full tuning */
    lt_workspace *workspace;
    lt_optimizer_settings optimizer_settings;
    lt_optimizer optimizer;
    lt_step_results results;

    lt_train_state state;
    json_t *log_history;
    int64_t saved_step; /* of the newest good checkpoint; -1: none */
    bool save_failed;   /* the last attempt to save something did */
    bool best_failed;   /* likewise best/ */
    double started;     /* lt_seconds() when the loop began */
} lt_trainer;

/* Monotonic clock. */
double lt_seconds(void);
bool lt_stop_requested(void);

/* Adds to an error in mid-run what has been saved and how to go on. Returns `status`. */
lt_status lt_explain_failure(const lt_trainer *trainer, lt_status status, lt_err *err);

/* --- together.c --------------------------------------------------------------------------------
 */

/* First of all: rank and number of processes, from the environment. */
lt_status lt_together_find_place(lt_trainer *trainer, lt_err *err);
/* CPU threads of this process: its share of the machine unless something says otherwise; 0: as
 * OpenMP has it. */
int lt_together_threads(const lt_trainer *trainer);
/* Once the device is open, or has failed to. Collective, as all from here on. Refuses processes
 * that were started with different settings or by different versions. */
lt_status lt_together_open(lt_trainer *trainer, lt_status device, lt_err *err);
/* Between what each does by itself and what needs all: every process gets the same answer. */
lt_status lt_together_agree(lt_trainer *trainer, lt_status mine, lt_err *err);
/* Refuses different models and datasets, whose hashes are known. */
lt_status lt_together_compare_inputs(lt_trainer *trainer, lt_err *err);
/* Whether to stop after this step: the same answer on all. */
bool lt_together_stopping(const lt_trainer *trainer);
/* OUTPUT/logs/rank-N.log. Appended. */
lt_status lt_together_log_path(const lt_trainer *trainer, lt_buffer *out, lt_err *err);

/* --- setup.c -----------------------------------------------------------------------------------
 */

/* Everything short of memory for the model: reads, checks, counts and plans. Writes nothing. */
lt_status lt_trainer_prepare(lt_trainer *trainer, lt_err *err);
/* The plan made real: model, gradients, optimizer, workspace. */
lt_status lt_trainer_allocate(lt_trainer *trainer, lt_err *err);
/* What these two have made, also when they failed, and what came to it in the run. */
void lt_trainer_free(lt_trainer *trainer);
/* XXH3-128 over a model directory's config.json and weights. */
lt_status lt_model_directory_hash(const char *directory, char out[LT_HASH_TEXT_SIZE], lt_err *err);

/* --- plan.c, plan_text.c -----------------------------------------------------------------------
 */

lt_status lt_trainer_plan(lt_trainer *trainer, lt_err *err);
/* The same for any sharding, and of the trainer's own device. Fills what one process takes; what is
 * available stays 0. */
lt_status lt_trainer_plan_for(const lt_trainer *trainer, const lt_sharding *sharding,
                              lt_train_plan *out, lt_err *err);
/* The estimates for clusters that a dry run ends with, where there are any. Appended.
 * (plan_clusters.c) */
lt_status lt_describe_clusters(const lt_trainer *trainer, lt_buffer *out, lt_err *err);
/* LT_ERR_NOMEM with figures and advice when the plan does not fit. */
lt_status lt_trainer_check_memory(const lt_trainer *trainer, lt_err *err);
lt_status lt_describe_memory(const lt_trainer *trainer, lt_buffer *out, lt_err *err);
/* What of the settings decides the layout of a model. */
lt_trainable lt_trainable_of(const lt_train_settings *settings);
bool lt_has_half_base(const lt_train_settings *settings);

/* --- adapter_setup.c ---------------------------------------------------------------------------
 */

/* Fills adapter_config from the settings. LT_ERR_USAGE for options of another method, and for what
 * the method can not do with this model and dataset. */
lt_status lt_adapter_setup(lt_trainer *trainer, lt_err *err);

/* --- match_vocabulary.c ------------------------------------------------------------------------
 */

/* Refuses a model and a dataset of different tokenizers; notes the rows that are to be grown. */
lt_status lt_vocabulary_match(lt_trainer *trainer, lt_err *err);

/* --- setup_text.c ------------------------------------------------------------------------------
 */

lt_status lt_trainer_describe(lt_trainer *trainer, lt_err *err);

/* --- output.c ----------------------------------------------------------------------------------
 */

/* Whether the run may start in the output directory, and from where: fills trainer->checkpoint.
 * Rank 0 decides, and all verify the checkpoint. */
lt_status lt_output_inspect(lt_trainer *trainer, lt_err *err);
/* Makes the directory, locks it against a second run, clears what --force and dead runs leave; on
 * all processes, which have to see the same one. */
lt_status lt_output_prepare(lt_trainer *trainer, lt_err *err);
/* A directory that all processes fill, or none sees: rank 0 makes it, `fill` is called on all, and
 * rank 0 puts it in place of an older one. All get the same answer, as from all that follow. */
typedef lt_status (*lt_fill_directory)(const lt_trainer *trainer, const char *directory,
                                       lt_err *err);
lt_status lt_output_make_directory(const lt_trainer *trainer, const char *path,
                                   lt_fill_directory fill, lt_err *err);
/* A plain model directory OUTPUT/NAME: model, tokenizer, notes, trainer_state.json. */
lt_status lt_output_save_model(lt_trainer *trainer, const char *name, lt_err *err);
/* The files of such a directory, into one that is being made: the model's or the adapter's.
 * `state`: with what only training needs. */
lt_status lt_write_model_files(const lt_trainer *trainer, const char *directory, lt_dtype dtype,
                               bool state, lt_err *err);
lt_status lt_write_trainer_state(const lt_trainer *trainer, const char *directory, lt_err *err);

/* --- resume.c ----------------------------------------------------------------------------------
 */

/* Reads the checkpoint's state and refuses when model, data or settings are not this run's. After
 * lt_trainer_prepare has resolved them. */
lt_status lt_resume_check(lt_trainer *trainer, lt_err *err);
/* Optimizer and data position. The weights have been loaded from the checkpoint already. */
lt_status lt_resume_restore(lt_trainer *trainer, lt_err *err);
/* Appends "name was a, is b" for every setting that decides the weights and differs from those of
 * the YAML file, which as many processes had. */
lt_status lt_settings_differences(const json_t *resolved, const char *yaml_path,
                                  lt_buffer *differences, lt_err *err);

/* --- save.c ------------------------------------------------------------------------------------
 */

/* OUTPUT/checkpoint-STEP, then pruning. Failing is told to the observers and remembered, not
 * returned: training goes on. */
void lt_trainer_save(lt_trainer *trainer);

/* --- step.c, account.c, evaluate.c -------------------------------------------------------------
 */

/* Hands the next step to the device, and waits for nothing. */
lt_status lt_trainer_step(lt_trainer *trainer, lt_err *err);
/* Reads the results of all steps so far, brings the state up to them and tells the observers.
 * LT_ERR_NUMERIC when too many in a row were not taken. */
lt_status lt_trainer_account(lt_trainer *trainer, lt_err *err);
/* *finished is false when a stop was asked for half-way: then nothing has changed. */
lt_status lt_trainer_evaluate(lt_trainer *trainer, bool *finished, lt_err *err);

/* --- observers.c -------------------------------------------------------------------------------
 */

void lt_tell_start(const lt_trainer *trainer);
void lt_tell(const lt_trainer *trainer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void lt_tell_files(const lt_trainer *trainer, const char *text); /* only those that write files */
void lt_tell_progress(const lt_trainer *trainer);
void lt_tell_step(const lt_trainer *trainer, const lt_step_info *info);
void lt_tell_evaluation(const lt_trainer *trainer, const lt_eval_info *info);
void lt_tell_sample(const lt_trainer *trainer, const lt_sample_info *info);
void lt_tell_save(const lt_trainer *trainer, const lt_save_info *info);
void lt_tell_end(const lt_trainer *trainer, const lt_train_result *result);
/* Log, events and report in the output directory, by rank 0; of several processes each has a log of
 * its own too. A file that can not be opened is told of, and the run does without it. */
void lt_open_file_observers(lt_trainer *trainer);
void lt_close_file_observers(lt_trainer *trainer);
/* Adds a line that is told after the start. */
lt_status lt_notice(lt_trainer *trainer, lt_err *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
