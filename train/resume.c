/* Going on from a checkpoint: does it belong to this run, and how its state comes back.
 *
 * Going on must give the very bits that a run without a break would have given. So everything that
 * decides them is compared: the model that training started from and the dataset by hash, the
 * settings by value, the number of steps. What only watches, saves or trades memory for time may
 * change, and so may the machine and the number of processes: that is told, and the run goes on
 * with the same rows in the same steps. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "train/trainer.h"

/* Settings that do not decide the weights, or are compared in another way (model and data by hash,
 * epochs and max_steps by the number of steps, batch sizes by their product, and the machine
 * (device, matmul, offload_optimizer, threads) with the backend's name, of which a change is only
 * warned of). */
static const char *const free_settings[] = {
    "model",
    "data",
    "output",
    "resume",
    "force",
    "epochs",
    "max_steps",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "global_batch_size",
    "logging_steps",
    "eval_steps",
    "eval_samples",
    "save_steps",
    "save_total_limit",
    "early_stopping_patience",
    "save_dtype",
    "recompute",
    "device",
    "matmul",
    "offload_optimizer",
    "threads",
    "gpus",
    "processes",
    "shard",
    "max_restarts",
    "watchdog_timeout",
    "cluster",
};

static bool is_free(const char *name)
{
    for (size_t i = 0; i < sizeof free_settings / sizeof *free_settings; i++)
        if (strcmp(name, free_settings[i]) == 0) return true;
    return false;
}

static lt_status add_difference(const char *name, const json_t *was, const json_t *is,
                                lt_buffer *differences, lt_err *err)
{
    LT_TRY(lt_buffer_printf(differences, err, "%s%s was ", differences->size ? "; " : "", name));
    LT_TRY(was ? lt_json_dump(was, 0, differences, err)
               : lt_buffer_append_text(differences, "nothing", err));
    LT_TRY(lt_buffer_append_text(differences, ", is ", err));
    return lt_json_dump(is, 0, differences, err);
}

/* Runs of before there was a choice do not name their number type. */
static lt_status settle_dtype(lt_train_settings *settings, lt_err *err)
{
    char *float32 = strcmp(settings->dtype, "auto") == 0 ? strdup("float32") : settings->dtype;
    if (!float32) return lt_fail_nomem(err, 8, "an option");
    if (float32 != settings->dtype) free(settings->dtype);
    settings->dtype = float32;
    return LT_OK;
}

/* The settings of a YAML file. *out: caller owns. */
static lt_status load_settings(const char *yaml_path, json_t **out, lt_err *err)
{
    lt_train_settings settings = {0};
    lt_option_result result = {0};
    char *arguments[] = {"--config", (char *)(uintptr_t)yaml_path};
    lt_status status;
    LT_TRY_GOTO(status, lt_options_parse(&lt_train_options, 2, arguments, &settings, &result, err),
                done);
    LT_TRY_GOTO(status, settle_dtype(&settings, err), done);
    status = lt_options_to_json(&lt_train_options, &settings, out, err);
done:
    lt_options_free(&lt_train_options, &settings, &result);
    return status;
}

static lt_status compare_settings(const json_t *old, const json_t *resolved, lt_buffer *differences,
                                  lt_err *err)
{
    json_t *value;
    const char *name;
    json_object_foreach((json_t *)(uintptr_t)resolved, name, value)
    {
        const json_t *was = json_object_get(old, name);
        if (is_free(name) || json_equal(was, value)) continue;
        LT_TRY(add_difference(name, was, value, differences, err));
    }
    return LT_OK;
}

/* --- Batches -----------------------------------------------------------------------------------
 */

/* How the rows of a step are divided. */
typedef struct batch_split {
    int64_t rows, accumulated, processes;
    int64_t global; /* their product: what decides the weights */
} batch_split;

static batch_split split_of(const json_t *settings, int64_t processes)
{
    batch_split split = {
        .rows = json_integer_value(json_object_get(settings, "micro_batch_size")),
        .accumulated = json_integer_value(json_object_get(settings, "gradient_accumulation_steps")),
        .processes = processes};
    if (split.accumulated == 0) /* not said: one */
        split.accumulated = 1;
    if (!lt_mul_i64(split.rows, split.accumulated, &split.global) ||
        !lt_mul_i64(split.global, processes, &split.global))
        split.global = INT64_MAX;
    return split;
}

static lt_status compare_batches(const batch_split *was, const batch_split *is,
                                 lt_buffer *differences, lt_err *err)
{
    if (was->global == is->global) return LT_OK;
    return lt_buffer_printf(
        differences, err,
        "%sthe global batch was %" PRId64 " rows (micro-batch %" PRId64 " x accumulation %" PRId64
        " x processes %" PRId64 "), is %" PRId64 " (%" PRId64 " x %" PRId64 " x %" PRId64
        "); --global-batch-size %" PRId64 " keeps it",
        differences->size ? "; " : "", was->global, was->rows, was->accumulated, was->processes,
        is->global, is->rows, is->accumulated, is->processes, was->global);
}

lt_status lt_settings_differences(const json_t *resolved, const char *yaml_path,
                                  lt_buffer *differences, lt_err *err)
{
    json_t *old = NULL;
    LT_TRY(load_settings(yaml_path, &old, err));
    const batch_split was = split_of(old, 1), is = split_of(resolved, 1);
    lt_status status = compare_settings(old, resolved, differences, err);
    if (status == LT_OK && is.rows > 0) status = compare_batches(&was, &is, differences, err);
    json_decref(old);
    return status;
}

/* The same place among the rows, in batches of another size; a checkpoint lies between two steps,
 * and so between two batches of either. */
static lt_status convert_position(const batch_split *was, const batch_split *is, const char *where,
                                  int64_t *epoch_batch, lt_err *err)
{
    int64_t rows, batch = is->rows * is->processes;
    if (lt_mul_i64(*epoch_batch, was->rows * was->processes, &rows) && rows % batch == 0) {
        *epoch_batch = rows / batch;
        return LT_OK;
    }
    return lt_fail(err, LT_ERR_FORMAT,
                   "%s: batch %" PRId64 " of the epoch is no place between two steps", where,
                   *epoch_batch);
}

/* --- Is it this run? ---------------------------------------------------------------------------
 */

static lt_status compare_identity(const lt_trainer *t, const lt_train_state *saved,
                                  lt_buffer *differences, lt_err *err)
{
    const lt_train_state *now = &t->state;
    if (strcmp(saved->model_hash, now->model_hash) != 0)
        LT_TRY(lt_buffer_printf(differences, err, "%sthe model %s is not the one it started from",
                                differences->size ? "; " : "", t->settings.model));
    if (strcmp(saved->dataset_hash, now->dataset_hash) != 0)
        LT_TRY(lt_buffer_printf(differences, err, "%sthe data %s is not what it was trained on",
                                differences->size ? "; " : "", t->settings.data));
    if (saved->total_steps != now->total_steps)
        LT_TRY(lt_buffer_printf(differences, err,
                                "%sit was to take %" PRId64 " steps, now %" PRId64
                                " (--epochs, --max-steps and batch sizes decide that)",
                                differences->size ? "; " : "", saved->total_steps,
                                now->total_steps));
    return LT_OK;
}

/* What a checkpoint says about the run that made it. */
typedef struct earlier_run {
    const char *checkpoint; /* directory */
    json_t *settings;
    lt_train_state state;
    batch_split split;
} earlier_run;

static lt_status read_earlier_run(const char *checkpoint, earlier_run *out, json_t **history,
                                  lt_err *err)
{
    lt_buffer path = {0};
    json_t *document = NULL;
    lt_status status;
    *out = (earlier_run){.checkpoint = checkpoint};
    LT_TRY_GOTO(status, lt_path_join(&path, checkpoint, LT_TRAINER_STATE_FILE, err), done);
    LT_TRY_GOTO(status, lt_json_load(path.data, &document, err), done);
    LT_TRY_GOTO(
        status,
        lt_train_state_from_json(json_object_get(document, "lathe"), path.data, &out->state, err),
        done);
    json_t *log = json_object_get(document, "log_history");
    *history = json_is_array(log) ? json_incref(log) : NULL;
    LT_TRY_GOTO(status, lt_path_join(&path, checkpoint, LT_TRAIN_CONFIG_FILE, err), done);
    status = load_settings(path.data, &out->settings, err);
    out->split = split_of(out->settings, out->state.world_size);
done:
    json_decref(document);
    lt_buffer_free(&path);
    return status;
}

static lt_status refuse_changes(const lt_trainer *t, const earlier_run *was, lt_err *err)
{
    const batch_split is = split_of(t->resolved, t->world_size);
    lt_buffer differences = {0};
    lt_status status;
    LT_TRY_GOTO(status, compare_identity(t, &was->state, &differences, err), done);
    LT_TRY_GOTO(status, compare_settings(was->settings, t->resolved, &differences, err), done);
    LT_TRY_GOTO(status, compare_batches(&was->split, &is, &differences, err), done);
    if (differences.size > 0)
        status = lt_fail(err, LT_ERR_USAGE,
                         "%s can not be resumed, because this is another run: %s. Give the same "
                         "settings, choose another --output, or start anew with --resume never "
                         "--force",
                         was->checkpoint, differences.data);
done:
    lt_buffer_free(&differences);
    return status;
}

static lt_status describe_machine(const lt_train_state *state, const batch_split *split,
                                  lt_buffer *out, lt_err *err)
{
    LT_TRY(
        lt_buffer_printf(out, err, "%s with %" PRId64 " threads", state->backend, state->threads));
    if (split->processes > 1)
        LT_TRY(lt_buffer_printf(out, err, " in each of %" PRId64 " processes", split->processes));
    return LT_OK;
}

static lt_status warn_of_machine(lt_trainer *t, const earlier_run *was, lt_err *err)
{
    const lt_train_state *saved = &was->state, *now = &t->state;
    const batch_split is = split_of(t->resolved, t->world_size);
    lt_buffer old = {0}, new = {0};
    if (strcmp(saved->backend, now->backend) == 0 && saved->threads == now->threads &&
        saved->world_size == now->world_size && was->split.rows == is.rows)
        return LT_OK;
    lt_status status = describe_machine(saved, &was->split, &old, err);
    if (status == LT_OK) status = describe_machine(now, &is, &new, err);
    if (status == LT_OK && was->split.rows != is.rows)
        status = lt_buffer_printf(&new, err, ", %" PRId64 " rows at a time instead of %" PRId64,
                                  is.rows, was->split.rows);
    if (status == LT_OK)
        status = lt_notice(t, err,
                           "warning: the checkpoint was made by %s, this is %s: the run goes on, "
                           "but not to the very same bits",
                           old.data, new.data);
    lt_buffer_free(&old);
    lt_buffer_free(&new);
    return status;
}

/* --- Its state ---------------------------------------------------------------------------------
 */

/* As saved, on the machine of now. */
static lt_status adopt(lt_trainer *t, const earlier_run *was, lt_err *err)
{
    const batch_split is = split_of(t->resolved, t->world_size);
    const lt_train_state now = t->state;
    t->state = was->state;
    memcpy(t->state.backend, now.backend, sizeof now.backend);
    memcpy(t->state.lathe_version, now.lathe_version, sizeof now.lathe_version);
    t->state.threads = now.threads;
    t->state.world_size = now.world_size;
    return convert_position(&was->split, &is, was->checkpoint, &t->state.epoch_batch, err);
}

lt_status lt_resume_check(lt_trainer *t, lt_err *err)
{
    const char *checkpoint = lt_buffer_text(&t->checkpoint);
    lt_buffer own = {0};
    json_t *history = NULL;
    earlier_run was;
    lt_status status;
    LT_TRY_GOTO(status, read_earlier_run(checkpoint, &was, &history, err), done);
    LT_TRY_GOTO(status, refuse_changes(t, &was, err), done);
    LT_TRY_GOTO(status, warn_of_machine(t, &was, err), done);
    LT_TRY_GOTO(status, adopt(t, &was, err), done);
    if (history) {
        json_decref(t->log_history);
        t->log_history = json_incref(history);
    }
    /* one from elsewhere is not a checkpoint of this output directory yet */
    LT_TRY_GOTO(status, lt_checkpoint_path(t->settings.output, t->state.step, &own, err), done);
    if (strcmp(own.data, checkpoint) == 0) t->saved_step = t->state.step;
    if (t->state.step >= t->state.total_steps)
        status = lt_notice(t, err, "all %" PRId64 " steps are done", t->state.total_steps);
done:
    json_decref(was.settings);
    json_decref(history);
    lt_buffer_free(&own);
    return status;
}

lt_status lt_resume_restore(lt_trainer *t, lt_err *err)
{
    lt_buffer path = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, lt_buffer_text(&t->checkpoint), LT_OPTIMIZER_FILE, err),
                done);
    LT_TRY_GOTO(status, lt_optimizer_load(&t->optimizer, t->model, path.data, err), done);
    const lt_loader_position position = {t->state.epoch, t->state.epoch_batch};
    status = lt_loader_seek(t->loader, position, err);
done:
    lt_buffer_free(&path);
    return status;
}
