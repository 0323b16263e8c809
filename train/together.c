/* This process among those that train one model together: where it stands, what connects them, and
 * whether they all mean the same run. For one process all of it comes to nothing. */
#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "train/trainer.h"

/* --- Place -------------------------------------------------------------------------------------
 */

/* A dry run plans for processes, of which rank 0 does the planning and is the only one. */
static lt_status find_planned_place(lt_trainer *t, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    int indices[LT_LAUNCH_MAX_GPUS], count = 0;
    if (s->gpus) LT_TRY(lt_launch_parse_gpus(s->gpus, indices, &count, err));
    if (t->world_size == 1) t->world_size = lt_max_i64(s->gpus ? count : s->processes, 1);
    t->place.world_size = 1;
    t->place.rank = t->place.local_rank = t->place.local_size = 0;
    return LT_OK;
}

lt_status lt_together_find_place(lt_trainer *t, lt_err *err)
{
    LT_TRY(lt_launch_find_place(&t->place, err));
    t->is_main = t->place.rank == 0;
    t->world_size = t->place.world_size;
    return t->settings.dry_run ? find_planned_place(t, err) : LT_OK;
}

int lt_together_threads(const lt_trainer *t)
{
    const lt_launch_place *place = &t->place;
    if (t->settings.threads > 0) return (int)t->settings.threads;
    if (place->world_size == 1 || getenv("OMP_NUM_THREADS")) return 0;
    int sharing = place->local_size > 0 ? place->local_size : place->world_size;
    int threads = omp_get_num_procs() / sharing;
    return threads > 0 ? threads : 1;
}

/* --- What has to be the same -------------------------------------------------------------------
 */

/* Of the settings, those about one process's own machine. */
static bool may_differ(const char *name)
{
    return strcmp(name, "device") == 0 || strcmp(name, "threads") == 0;
}

static lt_status add_setting(const char *name, const json_t *value, lt_buffer *out, lt_err *err)
{
    size_t start = out->size;
    LT_TRY(lt_buffer_printf(out, err, "--%s: ", name));
    for (char *c = out->data + start; *c; c++)
        if (*c == '_') *c = '-';
    LT_TRY(lt_json_dump(value, 0, out, err));
    return lt_buffer_append_text(out, "\n", err);
}

static lt_status describe_identity(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    json_t *settings = NULL, *value;
    const char *name;
    LT_TRY(lt_buffer_printf(out, err,
                            "version of lathe: %s\nnumber of processes: %" PRId64 "\nbackend: %s\n",
                            LATHE_VERSION, t->world_size, t->backend->name));
    LT_TRY(lt_options_to_json(&lt_train_options, &t->settings, &settings, err));
    lt_status status = LT_OK;
    json_object_foreach(settings, name, value)
    {
        if (may_differ(name)) continue;
        LT_TRY_GOTO(status, add_setting(name, value, out, err), done);
    }
done:
    json_decref(settings);
    return status;
}

/* --- The communicator --------------------------------------------------------------------------
 */

static lt_status agree(void *context, lt_status mine, lt_err *err)
{
    return lt_comm_agree(context, mine, err);
}

/* An adapter's gradients and state are small, and whole everywhere. */
static lt_status choose_sharding(lt_trainer *t, lt_err *err)
{
    bool of_adapter = strcmp(t->settings.method, "full") != 0;
    if (t->world_size == 1) return LT_OK;
    t->sharding = (lt_sharding){.level = lt_shard_by_name(t->settings.shard),
                                .rank = t->place.rank,
                                .world_size = (int)t->world_size};
    if (!of_adapter || t->sharding.level == LT_SHARD_PARAMETERS) return LT_OK;
    if (t->sharding.level == LT_SHARD_GRADIENTS)
        LT_TRY(lt_notice(t, err,
                         "--shard gradients has nothing to divide: those of an adapter are small, "
                         "and every process has them whole; --shard parameters divides the frozen "
                         "model"));
    t->sharding.level = LT_SHARD_NONE;
    return LT_OK;
}

lt_status lt_together_log_path(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    return lt_buffer_printf(out, err, "%s/logs/rank-%d.log", t->settings.output, t->place.rank);
}

/* Where the flight record goes; a dry run writes nothing. */
static lt_status find_log(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    if (t->settings.dry_run || !t->settings.output) return LT_OK;
    return lt_together_log_path(t, out, err);
}

/* Where the processes do not hear of each other, each tells its own failure. */
static lt_status fail_alone(lt_trainer *t, lt_status status, lt_err *err)
{
    if (t->is_main) return status;
    t->is_main = true;
    return lt_fail_context(err, "rank %d (%s)", t->place.rank, t->place.host);
}

static lt_status open_comm(lt_trainer *t, const lt_comm_settings *settings, lt_err *err)
{
    lt_status status = lt_comm_open(settings, &t->comm, err);
    /* all ranks have the same answer, unless they do not reach each other */
    return status == LT_ERR_IO ? fail_alone(t, status, err) : status;
}

lt_status lt_together_open(lt_trainer *t, lt_status device, lt_err *err)
{
    if (device != LT_OK) return fail_alone(t, device, err);
    lt_buffer identity = {0}, log = {0};
    lt_comm_settings settings = {.place = t->place,
                                 .backend = t->backend,
                                 .stopped = lt_stop_requested,
                                 .timeout = t->settings.watchdog_timeout};
    lt_status status = lt_comm_choose(&t->place, t->backend, &settings.kind, err);
    if (status != LT_OK) return fail_alone(t, status, err);
    LT_TRY_GOTO(status, describe_identity(t, &identity, err), done);
    LT_TRY_GOTO(status, find_log(t, &log, err), done);
    settings.identity = lt_buffer_text(&identity);
    settings.log_path = log.data;
    LT_TRY_GOTO(status, open_comm(t, &settings, err), done);
    t->file_group = (lt_file_group){.rank = t->place.rank,
                                    .world_size = t->place.world_size,
                                    .context = t->comm,
                                    .agree = agree};
    if (t->place.world_size > 1) t->group = &t->file_group;
    int threads = lt_together_threads(t);
    t->readers = (lt_readers){t->comm, threads > 0 ? threads : omp_get_max_threads()};
    status = choose_sharding(t, err);
done:
    lt_buffer_free(&identity);
    lt_buffer_free(&log);
    return status;
}

lt_status lt_together_agree(lt_trainer *t, lt_status mine, lt_err *err)
{
    return t->comm ? lt_comm_agree(t->comm, mine, err) : mine;
}

bool lt_together_stopping(const lt_trainer *t)
{
    return t->place.world_size > 1 ? t->stop_agreed : lt_stop_requested();
}

/* --- Model and data ----------------------------------------------------------------------------
 */

/* Texts alone, so that no byte of it is left to chance. */
typedef struct inputs {
    char host[64];
    char model[LT_STATE_TEXT_SIZE], dataset[LT_STATE_TEXT_SIZE];
} inputs;

static lt_status differ(const char *what, const char *path, const char *first, int rank,
                        const inputs *other, const char *value, lt_err *err)
{
    return lt_fail(err, LT_ERR_USAGE,
                   "the processes have different %s: %s has the hash %s on rank 0, and %s on rank "
                   "%d (%s); give all of them the same files",
                   what, path, first, value, rank, other->host);
}

static lt_status compare(const lt_trainer *t, const inputs *all, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    for (int r = 1; r < t->place.world_size; r++) {
        if (strcmp(all[r].model, all->model) != 0)
            return differ("models", s->model, all->model, r, &all[r], all[r].model, err);
        if (strcmp(all[r].dataset, all->dataset) != 0)
            return differ("data", s->data, all->dataset, r, &all[r], all[r].dataset, err);
    }
    return LT_OK;
}

lt_status lt_together_compare_inputs(lt_trainer *t, lt_err *err)
{
    inputs mine = {0};
    if (t->place.world_size == 1) return LT_OK;
    inputs *all = calloc((size_t)t->place.world_size, sizeof *all);
    lt_status status = all ? LT_OK : lt_fail_nomem(err, sizeof *all, "the processes' inputs");
    LT_TRY_GOTO(status, lt_comm_agree(t->comm, status, err), done);
    snprintf(mine.host, sizeof mine.host, "%s", t->place.host);
    snprintf(mine.model, sizeof mine.model, "%s", t->state.model_hash);
    snprintf(mine.dataset, sizeof mine.dataset, "%s", t->state.dataset_hash);
    LT_TRY_GOTO(status, lt_comm_gather_bytes(t->comm, &mine, sizeof mine, all, err), done);
    status = compare(t, all, err);
done:
    free(all);
    return status;
}
