#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "base/json.h"
#include "train/trainer.h"

#define TIMES_PER_RUN 10 /* evaluations and checkpoints when no interval is given */

/* --- Batch and length --------------------------------------------------------------------------
 */

/* " times 4 processes": what a global batch is divided by too. */
static const char *times_processes(const lt_trainer *t, char text[48])
{
    snprintf(text, 48, " times %lld processes", (long long)t->world_size);
    return t->world_size > 1 ? text : "";
}

static lt_status resolve_batch(lt_trainer *t, lt_err *err)
{
    char processes[48];
    lt_train_settings *s = &t->settings;
    int64_t rows = s->micro_batch_size * t->world_size, global = s->global_batch_size;
    if (s->gradient_accumulation_steps == 0) {
        if (global % rows != 0)
            return lt_fail(err, LT_ERR_USAGE,
                           "--global-batch-size %lld is not a multiple of --micro-batch-size "
                           "%lld%s",
                           (long long)global, (long long)s->micro_batch_size,
                           times_processes(t, processes));
        s->gradient_accumulation_steps = global ? global / rows : 1;
    }
    if (global && rows * s->gradient_accumulation_steps != global)
        return lt_fail(err, LT_ERR_USAGE,
                       "--global-batch-size %lld is not --micro-batch-size %lld times "
                       "--gradient-accumulation-steps %lld%s; give two of them",
                       (long long)global, (long long)s->micro_batch_size,
                       (long long)s->gradient_accumulation_steps, times_processes(t, processes));
    return LT_OK;
}

static int64_t virtual_tokens(const lt_trainer *t)
{
    bool has = t->has_adapter && t->adapter_config.kind != LT_ADAPTER_LORA;
    return has ? t->adapter_config.num_virtual_tokens : 0;
}

static lt_status resolve_length(lt_trainer *t, lt_err *err)
{
    lt_train_settings *s = &t->settings;
    int64_t in_front = virtual_tokens(t);
    int64_t visible = t->config.max_position_embeddings - in_front;
    if (in_front > 0 && visible < 2)
        return lt_fail(err, LT_ERR_USAGE,
                       "--num-virtual-tokens %lld leaves no room for text: the model has %lld "
                       "positions",
                       (long long)in_front, (long long)t->config.max_position_embeddings);
    if (s->max_length > visible)
        return lt_fail(err, LT_ERR_USAGE,
                       "--max-length %lld is more than the %lld positions that the model has%s",
                       (long long)s->max_length, (long long)visible,
                       in_front > 0 ? " behind the virtual tokens" : "");
    if (s->max_length == 0 && !t->dataset)
        return lt_fail(err, LT_ERR_USAGE,
                       "%s is a known shape and no model here: to plan for it, say how long rows "
                       "are (--max-length)",
                       s->model);
    if (s->max_length == 0)
        s->max_length =
            lt_min_i64(visible, lt_max_i64(lt_dataset_longest(t->dataset, LT_SPLIT_TRAIN),
                                           lt_dataset_longest(t->dataset, LT_SPLIT_VALIDATION)));
    return LT_OK;
}

/* --- Data --------------------------------------------------------------------------------------
 */

static lt_status open_loaders(lt_trainer *t, lt_err *err)
{
    lt_loader_settings settings = {.split = LT_SPLIT_TRAIN,
                                   .rows = t->settings.micro_batch_size,
                                   .max_length = t->settings.max_length,
                                   .packing = t->settings.packing,
                                   .shuffle = true,
                                   .seed = (uint64_t)t->settings.seed,
                                   .rank = t->place.rank,
                                   .world_size = t->world_size};
    LT_TRY(lt_loader_create(t->dataset, &settings, &t->loader, err));
    if (lt_dataset_count(t->dataset, LT_SPLIT_VALIDATION) == 0) return LT_OK;
    settings.split = LT_SPLIT_VALIDATION;
    settings.shuffle = false;
    lt_err why = {0};
    if (lt_loader_create(t->dataset, &settings, &t->eval_loader, &why) == LT_OK) return LT_OK;
    /* held-out documents that are all too long are no reason not to train */
    return lt_notice(t, err, "warning: no held-out loss: %s", why.message);
}

static lt_scheduler scheduler_kind(const char *name)
{
    static const char *const names[] = {"cosine", "linear", "constant", "wsd"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) return (lt_scheduler)i;
    return LT_SCHEDULER_COSINE;
}

static int64_t round_up(double x)
{
    return (int64_t)ceil(x - 1e-9); /* 0.1 * 30 is a hair above 3 */
}

/* A step never reaches over the end of an epoch, so that any split of the same global batch into
 * micro-batches gives the same steps. */
static void resolve_steps(lt_trainer *t)
{
    const lt_train_settings *s = &t->settings;
    int64_t batches = lt_loader_batches_per_epoch(t->loader);
    t->steps_per_epoch = (batches - 1) / s->gradient_accumulation_steps + 1;
    int64_t total =
        s->max_steps > 0 ? s->max_steps : round_up(s->epochs * (double)t->steps_per_epoch);
    total = lt_max_i64(total, 1);
    int64_t warmup =
        s->warmup_steps > 0 ? s->warmup_steps : round_up(s->warmup_ratio * (double)total);
    t->schedule = (lt_schedule){.kind = scheduler_kind(s->lr_scheduler),
                                .learning_rate = s->learning_rate,
                                .min_lr_ratio = s->min_lr_ratio,
                                .decay_ratio = s->decay_ratio,
                                .warmup_steps = lt_min_i64(warmup, total),
                                .total_steps = total};
    int64_t share = (total - 1) / TIMES_PER_RUN + 1;
    t->eval_steps = s->eval_steps ? s->eval_steps : share;
    t->save_steps = s->save_steps ? s->save_steps : share;
}

/* --- Memory ------------------------------------------------------------------------------------
 */

static int32_t stop_id(const lt_trainer *t)
{
    return lt_template_stop_id(lt_dataset_template(t->dataset), lt_dataset_tokenizer(t->dataset));
}

/* The frozen model and an adapter beside it: fresh, or as the checkpoint has it. */
static lt_status allocate_adapter(lt_trainer *t, lt_err *err)
{
    LT_TRY(lt_adapter_create(t->model, &t->adapter_config, "trained", (uint64_t)t->settings.seed,
                             &t->adapter, err));
    if (t->checkpoint.size == 0) return LT_OK;
    return lt_adapter_restore(t->model, t->adapter, lt_buffer_text(&t->checkpoint), err);
}

static lt_status load_model(lt_trainer *t, lt_err *err)
{
    bool own = t->checkpoint.size > 0 && !t->has_adapter; /* its weights are the checkpoint's */
    const char *directory = lt_buffer_text(own ? &t->checkpoint : &t->model_directory);
    const lt_model_load_settings settings = {
        .matrices = lt_has_half_base(&t->settings) ? LT_BF16 : t->backend->real,
        .vocab_size = t->config.vocab_size,
        .sharding = t->sharding};
    LT_TRY(lt_model_load_with(directory, t->backend, &settings, &t->model, err));
    int32_t stop = stop_id(t);
    if (stop >= 0) {
        t->model->config.eos_token_ids[0] = stop;
        t->model->config.eos_token_count = 1;
    }
    return LT_OK;
}

static lt_status allocate_the_rest(lt_trainer *t, lt_err *err)
{
    const lt_trainable trainable = lt_trainable_of(&t->settings);
    LT_TRY(lt_sharder_create(t->model, t->comm, &t->sharder, err));
    if (t->has_adapter)
        LT_TRY(allocate_adapter(t, err));
    else
        LT_TRY(lt_model_set_trainable(t->model, &trainable, err));
    if (strcmp(t->settings.gradient_dtype, "bfloat16") == 0) t->model->gradient_dtype = LT_BF16;
    LT_TRY(lt_model_allocate_gradients(t->model, err));
    LT_TRY(lt_sharder_prepare_gradients(t->sharder, err));
    LT_TRY(lt_optimizer_create(t->model, &t->optimizer_settings, &t->optimizer, err));
    LT_TRY(lt_results_create(t->backend, t->comm, &t->results, err));
    return lt_workspace_create(t->model, &t->workspace_settings, &t->workspace, err);
}

lt_status lt_trainer_allocate(lt_trainer *t, lt_err *err)
{
    /* an adapter that starts from the model's weights gathers them, so all have to be here */
    LT_TRY(lt_together_agree(t, load_model(t, err), err));
    return lt_together_agree(t, allocate_the_rest(t, err), err);
}

/* --- Identity ----------------------------------------------------------------------------------
 */

static bool decides_the_model(const char *name)
{
    size_t length = strlen(name);
    const char suffix[] = ".safetensors";
    return strcmp(name, "config.json") == 0 ||
           (length >= sizeof suffix && strcmp(name + length - (sizeof suffix - 1), suffix) == 0);
}

lt_status lt_model_directory_hash(const char *directory, char out[LT_HASH_TEXT_SIZE], lt_err *err)
{
    lt_name_list names = {0};
    lt_buffer path = {0}, all = {0};
    char hash[LT_HASH_TEXT_SIZE];
    lt_status status;
    LT_TRY_GOTO(status, lt_list_directory(directory, &names, err), done);
    for (size_t i = 0; i < names.count; i++) {
        if (!decides_the_model(names.names[i])) continue;
        LT_TRY_GOTO(status, lt_path_join(&path, directory, names.names[i], err), done);
        LT_TRY_GOTO(status, lt_hash_file(path.data, 0, hash, err), done);
        LT_TRY_GOTO(status, lt_buffer_printf(&all, err, "%s %s\n", names.names[i], hash), done);
    }
    lt_hash_bytes(lt_buffer_text(&all), all.size, out);
done:
    lt_buffer_free(&path);
    lt_buffer_free(&all);
    lt_name_list_free(&names);
    return status;
}

static bool is_chosen(const char *matmul)
{
    return strcmp(matmul, "auto") != 0;
}

static lt_status note_identity(lt_trainer *t, lt_err *err)
{
    lt_train_state *state = &t->state;
    char hash[LT_HASH_TEXT_SIZE];
    LT_TRY(lt_model_directory_hash(lt_buffer_text(&t->model_directory), hash, err));
    snprintf(state->model_hash, sizeof state->model_hash, "%s", hash);
    snprintf(state->dataset_hash, sizeof state->dataset_hash, "%s", lt_dataset_hash(t->dataset));
    /* whose arithmetic the bits are */
    snprintf(state->backend, sizeof state->backend, "%s%s%s%s", t->backend->name,
             t->optimizer_settings.offload ? "+offload" : "",
             is_chosen(t->settings.matmul) ? "+" : "",
             is_chosen(t->settings.matmul) ? t->settings.matmul : "");
    snprintf(state->lathe_version, sizeof state->lathe_version, "%s", LATHE_VERSION);
    state->threads = t->backend->threads;
    state->world_size = t->world_size;
    state->total_steps = t->schedule.total_steps;
    return LT_OK;
}

/* --- All of it ---------------------------------------------------------------------------------
 */

static bool is_preset(const char *name)
{
    return lt_model_preset_vocab(name) > 0;
}

static lt_status require(const char *value, const char *option, const char *what, lt_err *err)
{
    return value ? LT_OK : lt_fail(err, LT_ERR_USAGE, "--%s is required: %s", option, what);
}

/* Only a plan can do without a model: a known shape has a name. */
static lt_status find_model(lt_trainer *t, lt_err *err)
{
    const char *name = t->settings.model;
    lt_status status = lt_model_resolve(name, &t->model_directory, err);
    if (status == LT_OK || !t->settings.dry_run || !is_preset(name)) return status;
    const lt_model_shape shape = {.preset = name,
                                  .vocab_size = lt_model_preset_vocab(name),
                                  .bos_token_id = -1,
                                  .eos_token_id = -1,
                                  .pad_token_id = -1};
    if (err) *err = (lt_err){0};
    t->shape_only = true;
    return lt_model_config_make(&shape, &t->config, err);
}

/* A dry run for so many GPUs, or for a cluster of them, is about GPUs though none is here. */
static const char *device_meant(const lt_train_settings *s)
{
    bool for_gpus = s->dry_run && (s->gpus || s->cluster);
    return for_gpus && strcmp(s->device, "auto") == 0 ? "cuda" : s->device;
}

static lt_status open_device(lt_trainer *t, lt_err *err)
{
    lt_train_settings *s = &t->settings;
    const lt_device_choice choice = {.device = device_meant(s),
                                     .dtype = s->dtype,
                                     .matmul = s->matmul,
                                     .threads = lt_together_threads(t),
                                     .local_rank = t->place.local_rank,
                                     .plan_only = s->dry_run};
    LT_TRY(lt_device_open(&choice, &t->device, err));
    t->backend = t->device.backend;
    s->dtype = t->backend->real == LT_BF16 ? "bfloat16" : "float32"; /* auto no more */
    return LT_OK;
}

static lt_status choose_optimizer(lt_trainer *t, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    lt_optimizer_settings *o = &t->optimizer_settings;
    *o = (lt_optimizer_settings){.offload = s->offload_optimizer,
                                 .threads = lt_together_threads(t),
                                 .seed = (uint64_t)s->seed};
    if (!lt_optimizer_by_name(s->optimizer, &o->kind))
        return lt_fail(err, LT_ERR_USAGE, "--optimizer %s: there is no such optimizer",
                       s->optimizer);
    if (o->offload && t->backend->device == LT_DEVICE_CPU)
        return lt_fail(err, LT_ERR_USAGE,
                       "--offload-optimizer moves the optimizer from a GPU's memory to the "
                       "host's, and this run is on the CPU%s%s",
                       *t->device.note ? ": " : "", t->device.note);
    if (strcmp(s->gradient_dtype, "bfloat16") == 0 && t->backend->real != LT_BF16)
        return lt_fail(err, LT_ERR_USAGE,
                       "--gradient-dtype bfloat16 goes with --dtype bfloat16, on a GPU; this run "
                       "has float32 weights");
    return LT_OK;
}

static lt_status open_inputs(lt_trainer *t, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    LT_TRY(choose_optimizer(t, err));
    LT_TRY(find_model(t, err));
    if (!t->shape_only) {
        LT_TRY(require(s->data, "data", "a dataset made by lathe prepare", err));
        LT_TRY(require(s->output, "output", "a directory for what is trained", err));
        LT_TRY(lt_model_config_load(lt_buffer_text(&t->model_directory), &t->config, err));
    }
    return s->data ? lt_dataset_open(s->data, &t->dataset, err) : LT_OK;
}

/* How a run was started is not part of what it is. */
static lt_status note_settings(lt_trainer *t, lt_err *err)
{
    lt_train_settings saved = t->settings;
    saved.resume = "auto";
    saved.force = false;
    LT_TRY(lt_options_to_json(&lt_train_options, &saved, &t->resolved, err));
    return lt_options_to_yaml(&lt_train_options, &saved, &t->resolved_yaml, err);
}

/* A plan for a shape: nothing but its memory. */
static lt_status prepare_shape(lt_trainer *t, lt_err *err)
{
    LT_TRY(lt_adapter_setup(t, err));
    LT_TRY(resolve_batch(t, err));
    LT_TRY(resolve_length(t, err));
    LT_TRY(lt_trainer_plan(t, err));
    LT_TRY(note_settings(t, err));
    return lt_trainer_describe(t, err);
}

/* Model and data, and what follows from them. */
static lt_status prepare_inputs(lt_trainer *t, lt_err *err)
{
    LT_TRY(open_inputs(t, err));
    if (t->shape_only) return prepare_shape(t, err);
    LT_TRY(lt_vocabulary_match(t, err));
    LT_TRY(lt_adapter_setup(t, err));
    LT_TRY(resolve_batch(t, err));
    LT_TRY(resolve_length(t, err));
    LT_TRY(lt_trainer_plan(t, err));
    LT_TRY(open_loaders(t, err));
    resolve_steps(t);
    t->notes = (lt_model_notes){.has_template = true,
                                .template_ = lt_dataset_template(t->dataset),
                                .max_length = t->settings.max_length};
    LT_TRY(note_identity(t, err));
    return note_settings(t, err);
}

static lt_status take_up_checkpoint(lt_trainer *t, lt_err *err)
{
    if (t->checkpoint.size > 0) LT_TRY(lt_resume_check(t, err));
    return lt_trainer_describe(t, err);
}

lt_status lt_trainer_prepare(lt_trainer *t, lt_err *err)
{
    LT_TRY(lt_together_open(t, open_device(t, err), err));
    LT_TRY(lt_together_agree(t, prepare_inputs(t, err), err));
    if (t->shape_only) return LT_OK;
    LT_TRY(lt_together_compare_inputs(t, err));
    LT_TRY(lt_output_inspect(t, err));
    return lt_together_agree(t, take_up_checkpoint(t, err), err);
}
