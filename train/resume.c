/* Going on from a checkpoint: does it belong to this run, and how its state comes back.
 *
 * Going on must give the very bits that a run without a break would have given. So everything that
 * decides them is compared: the model that training started from and the dataset by hash, the
 * settings by value, the number of steps. What only watches, saves or trades memory for time may
 * change. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "train/trainer.h"

/* Settings that do not decide the weights, or are compared in another way (model and data by hash,
 * epochs and max_steps by the number of steps, and the machine (device, matmul, offload_optimizer,
 * threads) with the backend's name, of which a change is only warned of). */
static const char *const free_settings[] = {
    "model",
    "data",
    "output",
    "resume",
    "force",
    "epochs",
    "max_steps",
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
    char *old = json_dumps(was, JSON_ENCODE_ANY), *new = json_dumps(is, JSON_ENCODE_ANY);
    lt_status status =
        lt_buffer_printf(differences, err, "%s%s was %s, is %s", differences->size ? "; " : "",
                         name, old ? old : "nothing", new ? new : "nothing");
    free(old);
    free(new);
    return status;
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

lt_status lt_settings_differences(const json_t *resolved, const char *yaml_path,
                                  lt_buffer *differences, lt_err *err)
{
    lt_train_settings settings = {0};
    lt_option_result result = {0};
    json_t *old = NULL, *value;
    const char *name;
    char *arguments[] = {"--config", (char *)(uintptr_t)yaml_path};
    lt_status status;
    LT_TRY_GOTO(status, lt_options_parse(&lt_train_options, 2, arguments, &settings, &result, err),
                done);
    LT_TRY_GOTO(status, settle_dtype(&settings, err), done);
    LT_TRY_GOTO(status, lt_options_to_json(&lt_train_options, &settings, &old, err), done);
    json_object_foreach((json_t *)(uintptr_t)resolved, name, value)
    {
        const json_t *was = json_object_get(old, name);
        if (is_free(name) || json_equal(was, value)) continue;
        LT_TRY_GOTO(status, add_difference(name, was, value, differences, err), done);
    }
done:
    json_decref(old);
    lt_options_free(&lt_train_options, &settings, &result);
    return status;
}

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

static lt_status refuse_changes(const lt_trainer *t, const lt_train_state *saved, lt_err *err)
{
    const char *checkpoint = lt_buffer_text(&t->checkpoint);
    lt_buffer path = {0}, differences = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, checkpoint, LT_TRAIN_CONFIG_FILE, err), done);
    LT_TRY_GOTO(status, compare_identity(t, saved, &differences, err), done);
    LT_TRY_GOTO(status, lt_settings_differences(t->resolved, path.data, &differences, err), done);
    if (differences.size > 0)
        status = lt_fail(err, LT_ERR_USAGE,
                         "%s can not be resumed, because this is another run: %s. Give the same "
                         "settings, choose another --output, or start anew with --resume never "
                         "--force",
                         checkpoint, differences.data);
done:
    lt_buffer_free(&path);
    lt_buffer_free(&differences);
    return status;
}

static lt_status warn_of_machine(lt_trainer *t, const lt_train_state *saved, lt_err *err)
{
    const lt_train_state *now = &t->state;
    if (strcmp(saved->backend, now->backend) == 0 && saved->threads == now->threads &&
        saved->world_size == now->world_size)
        return LT_OK;
    return lt_notice(t, err,
                     "warning: the checkpoint was made by %s with %" PRId64 " threads, this is %s "
                     "with %" PRId64 ": the run goes on, but not to the very same bits",
                     saved->backend, saved->threads, now->backend, now->threads);
}

/* The state as saved, on the machine of now. */
static void adopt(lt_trainer *t, const lt_train_state *saved)
{
    lt_train_state now = t->state;
    t->state = *saved;
    memcpy(t->state.backend, now.backend, sizeof now.backend);
    memcpy(t->state.lathe_version, now.lathe_version, sizeof now.lathe_version);
    t->state.threads = now.threads;
    t->state.world_size = now.world_size;
}

lt_status lt_resume_check(lt_trainer *t, lt_err *err)
{
    const char *checkpoint = lt_buffer_text(&t->checkpoint);
    lt_buffer path = {0};
    json_t *document = NULL;
    lt_train_state saved;
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, checkpoint, LT_TRAINER_STATE_FILE, err), done);
    LT_TRY_GOTO(status, lt_json_load(path.data, &document, err), done);
    LT_TRY_GOTO(
        status,
        lt_train_state_from_json(json_object_get(document, "lathe"), path.data, &saved, err), done);
    LT_TRY_GOTO(status, refuse_changes(t, &saved, err), done);
    LT_TRY_GOTO(status, warn_of_machine(t, &saved, err), done);
    json_t *history = json_object_get(document, "log_history");
    if (json_is_array(history)) {
        json_decref(t->log_history);
        t->log_history = json_incref(history);
    }
    adopt(t, &saved);
    /* one from elsewhere is not a checkpoint of this output directory yet */
    LT_TRY_GOTO(status, lt_checkpoint_path(t->settings.output, saved.step, &path, err), done);
    if (strcmp(path.data, checkpoint) == 0) t->saved_step = saved.step;
    if (saved.step >= saved.total_steps)
        status = lt_notice(t, err, "all %" PRId64 " steps are done", saved.total_steps);
done:
    json_decref(document);
    lt_buffer_free(&path);
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
