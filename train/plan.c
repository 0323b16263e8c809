/* The memory a run takes, before any of it is taken: on the device, and, where the optimizer is
 * offloaded, on the host. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "train/trainer.h"

static lt_recompute recompute_level(const char *name)
{
    if (strcmp(name, "block") == 0) return LT_RECOMPUTE_BLOCK;
    return strcmp(name, "selective") == 0 ? LT_RECOMPUTE_SELECTIVE : LT_RECOMPUTE_NONE;
}

bool lt_has_half_base(const lt_train_settings *s)
{
    return strcmp(s->base_dtype, "bfloat16") == 0;
}

lt_trainable lt_trainable_of(const lt_train_settings *s)
{
    return (lt_trainable){
        .freeze_layers = s->freeze_layers, .train = s->train, .freeze = s->freeze};
}

/* --- The plan ----------------------------------------------------------------------------------
 */

static uint64_t sum(int count, ...)
{
    va_list parts;
    uint64_t total = 0;
    va_start(parts, count);
    for (int i = 0; i < count; i++)
        if (__builtin_add_overflow(total, va_arg(parts, uint64_t), &total)) total = UINT64_MAX;
    va_end(parts);
    return total;
}

static lt_plan_settings model_plan(const lt_trainer *t, const lt_sharding *sharding)
{
    const lt_train_settings *s = &t->settings;
    return (lt_plan_settings){.workspace = t->workspace_settings,
                              .trainable = lt_trainable_of(s),
                              .adapter = t->has_adapter ? &t->adapter_config : NULL,
                              .half_base = lt_has_half_base(s),
                              .half_gradients = strcmp(s->gradient_dtype, "bfloat16") == 0,
                              .sharding = *sharding};
}

static lt_optimizer_memory plan_optimizer(const lt_trainer *t, const lt_memory_plan *model,
                                          bool offload)
{
    lt_optimizer_settings settings = t->optimizer_settings;
    bool half = strcmp(t->settings.gradient_dtype, "bfloat16") == 0;
    settings.offload = offload;
    return lt_optimizer_plan(&settings, t->backend, half ? LT_BF16 : t->backend->statistics,
                             model->own_count);
}

static void add_up(const lt_trainer *t, lt_train_plan *p)
{
    const lt_memory_plan *m = &p->model;
    uint64_t without = sum(6, (uint64_t)m->weights, (uint64_t)m->adapter, (uint64_t)m->gradients,
                           (uint64_t)m->activations, p->exchange, p->scratch);
    lt_optimizer_memory offloaded = plan_optimizer(t, m, true);
    p->optimizer = plan_optimizer(t, m, t->optimizer_settings.offload);
    p->device = sum(2, without, p->optimizer.device);
    p->host = p->optimizer.host;
    p->offloaded_device = sum(2, without, offloaded.device);
    p->offloaded_host = offloaded.host;
}

lt_status lt_trainer_plan_for(const lt_trainer *t, const lt_sharding *sharding, lt_train_plan *out,
                              lt_err *err)
{
    const lt_plan_settings what = model_plan(t, sharding);
    *out = (lt_train_plan){0};
    LT_TRY(lt_model_plan(&t->config, t->backend, &what, &out->model, err));
    out->exchange = lt_sharder_plan(&out->model, sharding);
    out->scratch = lt_results_plan() + (uint64_t)t->backend->own_memory;
    add_up(t, out);
    return LT_OK;
}

/* Activations at every level, and the inventory. */
static lt_status plan_levels(lt_trainer *t, lt_err *err)
{
    lt_plan_settings what = model_plan(t, &t->sharding);
    for (int level = 0; level < LT_RECOMPUTE_LEVELS; level++) {
        lt_memory_plan other;
        bool chosen = level == (int)t->workspace_settings.recompute;
        what.workspace.recompute = (lt_recompute)level;
        what.inventory = chosen ? &t->inventory : NULL;
        LT_TRY(lt_model_plan(&t->config, t->backend, &what, &other, err));
        t->plan.activations[level] = other.activations;
    }
    return LT_OK;
}

/* Processes that share the host's memory with this one, and itself. */
static uint64_t processes_here(const lt_trainer *t)
{
    int64_t here = t->place.local_size > 0 ? t->place.local_size : t->world_size;
    return here > 0 ? (uint64_t)here : 1;
}

static uint64_t share_of(uint64_t available, uint64_t processes)
{
    return available == UINT64_MAX ? available : available / processes;
}

lt_status lt_trainer_plan(lt_trainer *t, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    lt_train_plan *p = &t->plan;
    bool on_host = t->backend->device == LT_DEVICE_CPU;
    t->workspace_settings = (lt_workspace_settings){.rows = s->micro_batch_size,
                                                    .length = s->max_length,
                                                    .training = true,
                                                    .recompute = recompute_level(s->recompute),
                                                    .embd_pdrop = s->embd_pdrop,
                                                    .resid_pdrop = s->resid_pdrop,
                                                    .attn_pdrop = s->attn_pdrop};
    LT_TRY(lt_trainer_plan_for(t, &t->sharding, p, err));
    LT_TRY(plan_levels(t, err));
    p->host_available = share_of(lt_available_memory(), processes_here(t));
    p->available = t->device.planned ? UINT64_MAX : t->backend->available_memory(t->backend);
    if (on_host) p->available = share_of(p->available, processes_here(t));
    return LT_OK;
}

/* --- Does it fit? ------------------------------------------------------------------------------
 */

/* Levels at which the processes that there are would take less, and what one takes; a GPU alone is
 * told of eight. */
static void advise_sharding(const lt_trainer *t, lt_buffer *out)
{
    bool alone = t->world_size == 1, gpu = t->backend->device == LT_DEVICE_CUDA;
    lt_train_plan other;
    if (alone && !gpu) return;
    for (int level = LT_SHARD_OPTIMIZER; level < LT_SHARD_LEVELS; level++) {
        const lt_sharding sharding = {.level = (lt_shard)level,
                                      .world_size = alone ? 8 : (int)t->world_size};
        if (alone && level != LT_SHARD_PARAMETERS) continue;
        if (lt_trainer_plan_for(t, &sharding, &other, NULL) != LT_OK) return;
        if (other.device >= t->plan.device) continue;
        lt_buffer_printf(out, NULL, ", %s--shard %s (%.2f GB%s)", alone ? "--gpus 8 " : "",
                         lt_shard_name((lt_shard)level), (double)other.device / 1e9,
                         alone ? " on each" : "");
    }
    if (!alone && gpu && t->sharding.level != LT_SHARD_NONE)
        lt_buffer_append_text(out, ", more GPUs", NULL);
}

/* What would make it smaller and has not been asked for yet. */
static void advise(const lt_trainer *t, lt_buffer *out)
{
    const lt_train_settings *s = &t->settings;
    bool gpu = t->backend->device == LT_DEVICE_CUDA, half = t->backend->real == LT_BF16;
    const struct {
        bool applies;
        const char *what;
    } more[] = {
        {strcmp(s->recompute, "block") != 0, "--recompute block"},
        {!t->has_adapter && t->optimizer_settings.kind != LT_ADAMW_8BIT, "--optimizer adamw-8bit"},
        {!t->has_adapter && half && strcmp(s->gradient_dtype, "float32") == 0,
         "--gradient-dtype bfloat16"},
        {gpu && !half, "--dtype bfloat16"},
        {gpu && !t->has_adapter && !s->offload_optimizer, "--offload-optimizer"},
        {!t->has_adapter && s->freeze_layers == 0, "--freeze-layers"},
        {!t->has_adapter, "--method lora"},
        {t->has_adapter && !half && !lt_has_half_base(s), "--base-dtype bfloat16"},
    };
    lt_buffer_printf(out, NULL,
                     "a smaller --micro-batch-size (now %lld) with more "
                     "--gradient-accumulation-steps, a shorter --max-length (now %lld)",
                     (long long)s->micro_batch_size, (long long)s->max_length);
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        if (more[i].applies) lt_buffer_printf(out, NULL, ", %s", more[i].what);
    advise_sharding(t, out);
}

static lt_status refuse_device(const lt_trainer *t, lt_err *err)
{
    const lt_train_plan *p = &t->plan;
    lt_buffer advice = {0};
    advise(t, &advice);
    lt_fail(err, LT_ERR_NOMEM,
            "not enough memory%s%s: %.2f GB are needed (weights %.2f, gradients %.2f, optimizer "
            "%.2f, activations %.2f) and %.2f GB are available; what helps: %s",
            t->backend->device == LT_DEVICE_CUDA ? " on the GPU" : "",
            t->world_size > 1 ? " for each process" : "", (double)p->device / 1e9,
            (double)(p->model.weights + p->model.adapter) / 1e9, (double)p->model.gradients / 1e9,
            (double)p->optimizer.device / 1e9, (double)p->model.activations / 1e9,
            (double)p->available / 1e9, lt_buffer_text(&advice));
    lt_buffer_free(&advice);
    return LT_ERR_NOMEM;
}

lt_status lt_trainer_check_memory(const lt_trainer *t, lt_err *err)
{
    const lt_train_plan *p = &t->plan;
    if (p->device > p->available) return refuse_device(t, err);
    if (p->host <= p->host_available || t->device.planned) return LT_OK;
    return lt_fail(err, LT_ERR_NOMEM,
                   "not enough memory for the offloaded optimizer: %.2f GB of the host's are "
                   "needed and %.2f GB are available; what helps: --optimizer adamw-8bit, or "
                   "training less (--freeze-layers, --method lora)",
                   (double)p->host / 1e9, (double)p->host_available / 1e9);
}
