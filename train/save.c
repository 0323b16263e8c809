/* Checkpoints of a run in progress, by all its processes together. A full disk must not cost the
 * run: what one of them can not save none has saved, that is told, the old checkpoint stays, and
 * the next time is tried again. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "train/trainer.h"

#define SPACE_FOR_SMALL_FILES ((uint64_t)4 << 20)

/* Of a whole checkpoint, whoever writes it. */
static uint64_t checkpoint_bytes(const lt_trainer *t)
{
    const lt_memory_plan *model = &t->plan.model;
    lt_optimizer_memory state = lt_optimizer_plan(&t->optimizer_settings, t->backend,
                                                  t->model->gradient_dtype, model->gradient_count);
    uint64_t weights =
        t->adapter ? model->adapter : (uint64_t)model->parameters * lt_dtype_size(t->backend->real);
    uint64_t master = t->backend->real == LT_F32 ? 0 : state.master;
    return weights + state.moments + master + SPACE_FOR_SMALL_FILES;
}

/* Better no attempt than one that fills the disk to the brim for everybody. */
static lt_status check_space(const lt_trainer *t, lt_err *err)
{
    uint64_t free_bytes, needed = checkpoint_bytes(t);
    if (lt_free_space(t->settings.output, &free_bytes, NULL) != LT_OK) return LT_OK;
    if (free_bytes >= needed) return LT_OK;
    return lt_fail(err, LT_ERR_IO,
                   "no room in %s: a checkpoint takes %.1f MB, and %.1f MB are free",
                   t->settings.output, (double)needed / 1e6, (double)free_bytes / 1e6);
}

static lt_status write_optimizer(const lt_trainer *t, const char *directory, lt_err *err)
{
    lt_buffer path = {0};
    lt_status status = lt_path_join(&path, directory, LT_OPTIMIZER_FILE, err);
    status = lt_group_agree(t->group, status, err);
    if (status == LT_OK)
        status = lt_optimizer_save(&t->optimizer, t->model, path.data, t->group, err);
    lt_buffer_free(&path);
    return status;
}

static lt_status write_small_files(const lt_trainer *t, const char *directory, lt_err *err)
{
    lt_buffer path = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_write_trainer_state(t, directory, err), done);
    LT_TRY_GOTO(status, lt_path_join(&path, directory, LT_TRAIN_CONFIG_FILE, err), done);
    status = lt_write_file(path.data, t->resolved_yaml, strlen(t->resolved_yaml), err);
done:
    lt_buffer_free(&path);
    return status;
}

static lt_status write_manifest(const lt_trainer *t, const char *directory, lt_err *err)
{
    lt_manifest manifest = {
        .step = t->state.step, .threads = t->state.threads, .world_size = t->state.world_size};
    snprintf(manifest.backend, sizeof manifest.backend, "%s", t->state.backend);
    snprintf(manifest.lathe_version, sizeof manifest.lathe_version, "%s", LATHE_VERSION);
    return lt_manifest_write(directory, &manifest, &t->readers, err);
}

static lt_status fill_checkpoint(const lt_trainer *t, const char *directory, lt_err *err)
{
    LT_TRY(lt_write_model_files(t, directory, t->backend->real, true, err));
    LT_TRY(write_optimizer(t, directory, err));
    lt_status status = t->is_main ? write_small_files(t, directory, err) : LT_OK;
    LT_TRY(lt_group_agree(t->group, status, err));
    return write_manifest(t, directory, err);
}

static lt_status write_checkpoint(const lt_trainer *t, const char *path, lt_err *err)
{
    lt_manifest manifest;
    lt_status status = t->is_main ? check_space(t, err) : LT_OK;
    LT_TRY(lt_group_agree(t->group, status, err));
    LT_TRY(lt_output_make_directory(t, path, fill_checkpoint, err));
    return lt_checkpoint_verify(path, &t->readers, &manifest, err);
}

/* Only now that the new one is known to be good. */
static void prune(const lt_trainer *t)
{
    lt_err why = {0};
    if (lt_checkpoint_prune(t->settings.output, t->state.step, t->state.best_step,
                            t->settings.save_total_limit, &why) != LT_OK)
        lt_tell(t, "warning: old checkpoints stay: %s", why.message);
}

void lt_trainer_save(lt_trainer *t)
{
    lt_buffer path = {0};
    lt_err err = {0};
    lt_status status = lt_checkpoint_path(t->settings.output, t->state.step, &path, &err);
    status = lt_group_agree(t->group, status, &err);
    if (status == LT_OK) status = write_checkpoint(t, path.data, &err);
    if (status == LT_OK) t->saved_step = t->state.step;
    if (status == LT_OK && t->is_main) prune(t);
    t->save_failed = status != LT_OK;
    const lt_save_info info = {.step = t->state.step,
                               .path = lt_buffer_text(&path),
                               .error = status == LT_OK ? NULL : err.message};
    lt_tell_save(t, &info);
    lt_buffer_free(&path);
}
