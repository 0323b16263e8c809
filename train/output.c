/* The output directory:
 *
 *   checkpoint-STEP/  train_config.yaml  log.jsonl  events.out.tfevents.*  report.html
 *   best/  final/     plain model directories
 *   logs/             of several processes, one each
 *
 * Rank 0 looks after it; all processes write the files of models. A run starts in a directory that
 * is not there or empty, goes on in one that holds a checkpoint of its own, and touches nothing
 * else unless it is told to. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/json.h"
#include "train/trainer.h"

#define SLOWEST_DISK        1e7 /* bytes/s, written, hashed and verified */
#define BYTES_PER_PARAMETER 16  /* of a checkpoint, at most: weight, master weight, two moments */

/* A process may wait for the disk of another much longer than for a step. */
static void allow_for_disks(const lt_trainer *t, const char *phase)
{
    double bytes = (double)t->plan.model.parameters * BYTES_PER_PARAMETER;
    lt_comm_heartbeat(t->comm, t->state.step, phase);
    lt_comm_allow(t->comm, bytes / SLOWEST_DISK);
}

/* --- May the run start there? ------------------------------------------------------------------
 */

/* Anything but what killed processes left? */
static lt_status is_empty(const char *path, bool *empty, lt_err *err)
{
    lt_name_list names = {0};
    LT_TRY(lt_list_directory(path, &names, err));
    *empty = true;
    for (size_t i = 0; i < names.count; i++)
        *empty = *empty && lt_is_temporary_name(names.names[i]);
    lt_name_list_free(&names);
    return LT_OK;
}

static bool holds(const char *directory, const char *name)
{
    lt_buffer path = {0};
    bool found = lt_path_join(&path, directory, name, NULL) == LT_OK && lt_path_exists(path.data);
    lt_buffer_free(&path);
    return found;
}

static bool holds_rank_logs(const char *path)
{
    lt_name_list names = {0};
    bool ours = lt_list_directory(path, &names, NULL) == LT_OK;
    for (size_t i = 0; i < names.count; i++) {
        int rank, used = 0;
        ours = ours && sscanf(names.names[i], "rank-%9d.log%n", &rank, &used) == 1 && used > 0 &&
               names.names[i][used] == '\0';
    }
    lt_name_list_free(&names);
    return ours;
}

/* What a run writes beside models and checkpoints, from its start on. */
static bool is_record(const char *output, const char *name)
{
    static const char *const files[] = {"log.jsonl", "report.html", LT_TRAIN_CONFIG_FILE};
    lt_buffer path = {0};
    if (strncmp(name, "events.out.tfevents.", 20) == 0) return true;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (strcmp(name, files[i]) == 0) return true;
    if (strcmp(name, "logs") != 0) return false;
    bool ours = lt_path_join(&path, output, name, NULL) == LT_OK && holds_rank_logs(path.data);
    lt_buffer_free(&path);
    return ours;
}

static bool is_of_a_run(const char *output, const char *name)
{
    lt_buffer path = {0};
    bool model = strcmp(name, "best") == 0 || strcmp(name, "final") == 0;
    if (is_record(output, name)) return true;
    if (lt_path_join(&path, output, name, NULL) != LT_OK) return false;
    bool ours = model ? holds(path.data, LT_TRAINER_STATE_FILE)
                      : strncmp(name, "checkpoint-", 11) == 0 && lt_is_checkpoint(path.data);
    lt_buffer_free(&path);
    return ours;
}

static bool holds_only_records(const char *output)
{
    lt_name_list names = {0};
    bool only = lt_list_directory(output, &names, NULL) == LT_OK;
    for (size_t i = 0; i < names.count; i++)
        only = only && (lt_is_temporary_name(names.names[i]) || is_record(output, names.names[i]));
    lt_name_list_free(&names);
    return only;
}

static bool has_same_settings(const lt_trainer *t)
{
    lt_buffer path = {0}, differences = {0};
    bool same = lt_path_join(&path, t->settings.output, LT_TRAIN_CONFIG_FILE, NULL) == LT_OK &&
                lt_settings_differences(t->resolved, path.data, &differences, NULL) == LT_OK &&
                differences.size == 0;
    lt_buffer_free(&path);
    lt_buffer_free(&differences);
    return same;
}

/* Left by a run that ended before its first checkpoint: nothing of it is worth keeping, and the
 * same command should simply work, on more or fewer processes too. A best model is something, but
 * the same settings make it again. */
static bool is_false_start(const lt_trainer *t)
{
    const char *output = t->settings.output;
    return holds(output, LT_TRAIN_CONFIG_FILE) && !holds(output, "final") &&
           (holds_only_records(output) || has_same_settings(t));
}

static lt_status note_problems(lt_trainer *t, const lt_buffer *problems, lt_err *err)
{
    const char *at = lt_buffer_text(problems);
    while (*at) {
        int length = (int)strcspn(at, "\n");
        LT_TRY(lt_notice(t, err, "warning: checkpoint passed over: %.*s", length, at));
        at += length + (at[length] == '\n');
    }
    return LT_OK;
}

static lt_status inspect_existing(lt_trainer *t, const lt_buffer *problems, lt_err *err)
{
    const char *output = t->settings.output;
    bool automatic = strcmp(t->settings.resume, "auto") == 0, empty;
    if (!lt_path_exists(output)) return LT_OK;
    LT_TRY(is_empty(output, &empty, err));
    if (empty || t->settings.force) return LT_OK;
    if (problems->size > 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s holds no whole checkpoint (%.*s); choose another --output, or start "
                       "anew with --force",
                       output, (int)strcspn(problems->data, "\n"), problems->data);
    if (automatic && is_false_start(t))
        return lt_notice(t, err,
                         "an earlier run in %s ended before its first checkpoint: starting again",
                         output);
    return lt_fail(err, LT_ERR_USAGE,
                   "--output %s is not empty%s; choose another directory, or start there with "
                   "--force",
                   output, automatic ? " and holds no checkpoint to go on from" : "");
}

/* --resume DIR. */
static lt_status take_checkpoint(lt_trainer *t, lt_err *err)
{
    const char *path = t->settings.resume;
    lt_manifest manifest;
    lt_status status = LT_OK;
    if (!lt_is_directory(path))
        status = lt_fail(
            err, LT_ERR_USAGE,
            "--resume %s: there is no such checkpoint directory (or say auto or never)", path);
    LT_TRY(lt_together_agree(t, status, err));
    if (lt_checkpoint_verify(path, &t->readers, &manifest, err) != LT_OK)
        return lt_fail_context(err, "--resume %s", path);
    return lt_together_agree(t, lt_buffer_append_text(&t->checkpoint, path, err), err);
}

static lt_status find_checkpoint(lt_trainer *t, lt_err *err)
{
    lt_buffer problems = {0};
    lt_status status = LT_OK;
    if (strcmp(t->settings.resume, "auto") == 0)
        LT_TRY_GOTO(
            status,
            lt_checkpoint_latest(t->settings.output, &t->readers, &t->checkpoint, &problems, err),
            done);
    if (t->is_main)
        status = t->checkpoint.size > 0 ? note_problems(t, &problems, err)
                                        : inspect_existing(t, &problems, err);
    status = lt_together_agree(t, status, err);
done:
    lt_buffer_free(&problems);
    return status;
}

lt_status lt_output_inspect(lt_trainer *t, lt_err *err)
{
    const char *output = t->settings.output, *resume = t->settings.resume;
    lt_status status = LT_OK;
    if (t->is_main && lt_path_exists(output) && !lt_is_directory(output))
        status = lt_fail(err, LT_ERR_USAGE, "--output %s is not a directory", output);
    LT_TRY(lt_together_agree(t, status, err));
    allow_for_disks(t, "reading a checkpoint");
    bool chosen = strcmp(resume, "auto") != 0 && strcmp(resume, "never") != 0;
    status = chosen ? take_checkpoint(t, err) : find_checkpoint(t, err);
    lt_comm_heartbeat(t->comm, t->state.step, "preparing");
    return status;
}

/* --- Making it ready ---------------------------------------------------------------------------
 */

/* Two runs in one directory would take each other's checkpoints away. The lock goes with the
 * process. */
static lt_status lock_output(lt_trainer *t, lt_err *err)
{
    const char *output = t->settings.output;
    bool busy;
    LT_TRY(lt_lock_directory(output, &t->output_lock, &busy, err));
    if (!busy) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "another lathe train is at work in %s", output);
}

/* A fresh start: what an earlier run left goes; files of anybody else stay. */
static lt_status clear_earlier_run(const char *output, lt_err *err)
{
    lt_name_list names = {0};
    lt_buffer path = {0};
    lt_status status = lt_list_directory(output, &names, err);
    for (size_t i = 0; i < names.count && status == LT_OK; i++) {
        if (!is_of_a_run(output, names.names[i])) continue;
        status = lt_path_join(&path, output, names.names[i], err);
        if (status == LT_OK) status = lt_remove_tree(path.data, err);
    }
    lt_buffer_free(&path);
    lt_name_list_free(&names);
    return status;
}

static lt_status make_ready(lt_trainer *t, lt_err *err)
{
    const char *output = t->settings.output;
    lt_buffer path = {0};
    LT_TRY(lt_make_directories(output, err));
    LT_TRY(lock_output(t, err));
    LT_TRY(lt_remove_stale_temporaries(output, err));
    if (t->checkpoint.size == 0) LT_TRY(clear_earlier_run(output, err));
    lt_status status = lt_path_join(&path, output, LT_TRAIN_CONFIG_FILE, err);
    if (status == LT_OK)
        status = lt_write_file(path.data, t->resolved_yaml, strlen(t->resolved_yaml), err);
    lt_buffer_free(&path);
    return status;
}

static lt_status look_for(const lt_trainer *t, const char *mine, lt_err *err)
{
    char *name = NULL;
    lt_status status = lt_comm_share_text(t->comm, mine, &name, err);
    if (status == LT_OK && !lt_path_exists(name))
        status = lt_fail(err, LT_ERR_USAGE,
                         "--output %s is not the directory that rank 0 has under that name: give "
                         "one on a disk that all processes share, by its full path",
                         t->settings.output);
    free(name);
    return lt_group_agree(t->group, status, err);
}

/* All processes write their parts of checkpoints there. A file tells whether it is one directory,
 * under a name that never was, so that no host knows it from before. */
static lt_status check_is_shared(const lt_trainer *t, lt_err *err)
{
    lt_buffer path = {0};
    lt_new_file probe = {0};
    lt_status status = LT_OK;
    if (t->is_main) status = lt_path_join(&path, t->settings.output, "shared", err);
    if (t->is_main && status == LT_OK) status = lt_new_file_begin(&probe, path.data, err);
    status = lt_group_agree(t->group, status, err);
    if (status == LT_OK) status = look_for(t, probe.temporary, err);
    lt_new_file_abort(&probe);
    lt_buffer_free(&path);
    return status;
}

lt_status lt_output_prepare(lt_trainer *t, lt_err *err)
{
    lt_status status = t->is_main ? make_ready(t, err) : LT_OK;
    LT_TRY(lt_group_agree(t->group, status, err));
    return t->group ? check_is_shared(t, err) : LT_OK;
}

/* --- Models ------------------------------------------------------------------------------------
 */

static lt_status write_weights(const lt_trainer *t, const char *directory, lt_dtype dtype,
                               bool state, lt_err *err)
{
    if (t->adapter)
        return t->is_main ? lt_adapter_save(t->model, t->adapter, directory, dtype, state, err)
                          : LT_OK;
    lt_status status = lt_sharder_finish_weights(t->sharder, err);
    LT_TRY(lt_group_agree(t->group, status, err));
    return lt_model_save_together(t->model, directory, dtype, t->group, err);
}

lt_status lt_write_model_files(const lt_trainer *t, const char *directory, lt_dtype dtype,
                               bool state, lt_err *err)
{
    lt_status status = write_weights(t, directory, dtype, state, err);
    if (status == LT_OK && t->is_main)
        status = lt_tokenizer_save(lt_dataset_tokenizer(t->dataset), directory, err);
    if (status == LT_OK && t->is_main) status = lt_model_notes_save(&t->notes, directory, err);
    return lt_group_agree(t->group, status, err);
}

static lt_status fill_together(const lt_trainer *t, const char *temporary, lt_fill_directory fill,
                               lt_err *err)
{
    char *directory = NULL;
    lt_status status = lt_comm_share_text(t->comm, temporary, &directory, err);
    status = lt_group_agree(t->group, status, err);
    if (status == LT_OK) status = fill(t, directory, err);
    free(directory);
    return status;
}

lt_status lt_output_make_directory(const lt_trainer *t, const char *path, lt_fill_directory fill,
                                   lt_err *err)
{
    lt_new_directory directory = {0};
    allow_for_disks(t, "saving");
    lt_status status = t->is_main ? lt_new_directory_begin(&directory, path, err) : LT_OK;
    status = lt_group_agree(t->group, status, err);
    if (status == LT_OK) status = fill_together(t, directory.temporary, fill, err);
    /* it is seen when all have done their part, and not before */
    status = lt_group_agree(t->group, status, err);
    if (status == LT_OK && t->is_main) status = lt_new_directory_commit(&directory, true, err);
    lt_new_directory_abort(&directory);
    return lt_group_agree(t->group, status, err);
}

static json_t *path_or_null(const lt_trainer *t, bool known)
{
    return known ? json_sprintf("%s/best", t->settings.output) : json_null();
}

/* The keys that Hugging Face's Trainer writes, in its order, and ours under "lathe". */
lt_status lt_write_trainer_state(const lt_trainer *t, const char *directory, lt_err *err)
{
    const lt_train_state *s = &t->state;
    const lt_train_settings *settings = &t->settings;
    json_t *own = NULL;
    lt_buffer path = {0};
    bool has_best = isfinite(s->best_loss);
    LT_TRY(lt_train_state_to_json(s, &own, err));
    json_t *all = json_pack(
        "{s:I, s:o, s:o, s:o, s:I, s:I, s:b, s:b, s:b, s:o, s:O, s:I, s:I, s:I, s:I, s:I, s:{}, "
        "s:o, s:I, s:n, s:n}",
        "best_global_step", (json_int_t)s->best_step, "best_metric",
        has_best ? json_real(s->best_loss) : json_null(), "best_model_checkpoint",
        path_or_null(t, has_best), "epoch", json_real((double)s->step / (double)t->steps_per_epoch),
        "eval_steps", (json_int_t)t->eval_steps, "global_step", (json_int_t)s->step,
        "is_hyper_param_search", 0, "is_local_process_zero", 1, "is_world_process_zero", 1, "lathe",
        own, "log_history", t->log_history, "logging_steps", (json_int_t)settings->logging_steps,
        "max_steps", (json_int_t)s->total_steps, "num_input_tokens_seen",
        (json_int_t)s->input_tokens, "num_train_epochs",
        (json_int_t)((s->total_steps - 1) / t->steps_per_epoch + 1), "save_steps",
        (json_int_t)t->save_steps, "stateful_callbacks", "total_flos", json_real(s->flops),
        "train_batch_size", (json_int_t)settings->micro_batch_size, "trial_name", "trial_params");
    lt_status status = all ? lt_path_join(&path, directory, LT_TRAINER_STATE_FILE, err)
                           : lt_fail_nomem(err, 4096, "the training state");
    if (status == LT_OK) status = lt_json_write_file(path.data, all, err);
    json_decref(all);
    lt_buffer_free(&path);
    return status;
}

static lt_status fill_model(const lt_trainer *t, const char *directory, lt_err *err)
{
    LT_TRY(lt_write_model_files(t, directory, lt_file_dtype(t->settings.save_dtype), false, err));
    return t->is_main ? lt_write_trainer_state(t, directory, err) : LT_OK;
}

lt_status lt_output_save_model(lt_trainer *t, const char *name, lt_err *err)
{
    lt_buffer path = {0};
    lt_status status = lt_path_join(&path, t->settings.output, name, err);
    status = lt_group_agree(t->group, status, err);
    if (status == LT_OK) status = lt_output_make_directory(t, path.data, fill_model, err);
    lt_buffer_free(&path);
    return status;
}
