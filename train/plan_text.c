/* The table of memory that a run prints before it starts. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "train/trainer.h"

typedef struct unit {
    double bytes;
    const char *name;
    int decimals;
} unit;

/* One for the whole table. */
static unit unit_for(uint64_t largest)
{
    if (largest >= 1000000000) return (unit){1e9, "GB", 2};
    return (unit){1e6, "MB", 1};
}

static lt_status row(lt_buffer *out, const char *name, uint64_t bytes, unit u, const char *remark,
                     lt_err *err)
{
    return lt_buffer_printf(out, err, "             %-16s %10.*f %s%s\n", name, u.decimals,
                            (double)bytes / u.bytes, u.name, remark);
}

/* "  (recompute block; none 12.1, selective 3.4)" */
static void other_levels(const lt_trainer *t, unit u, char *text, size_t size)
{
    static const char *const names[LT_RECOMPUTE_LEVELS] = {"none", "selective", "block"};
    int chosen = (int)t->workspace_settings.recompute;
    const char *separator = ";";
    int used = snprintf(text, size, "  (recompute %s", names[chosen]);
    for (int level = 0; level < LT_RECOMPUTE_LEVELS; level++) {
        if (level == chosen) continue;
        used += snprintf(text + used, size - (size_t)used, "%s %s %.*f", separator, names[level],
                         u.decimals, (double)t->plan.activations[level] / u.bytes);
        separator = ",";
    }
    snprintf(text + used, size - (size_t)used, ")");
}

/* "  (a, b, c)" of the notes that are not empty; "" without any. */
static void join(const char *const notes[], int count, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < count && used < size; i++)
        if (*notes[i])
            used +=
                (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "  (", notes[i]);
    if (used > 0 && used < size) snprintf(out + used, size - used, ")");
}

/* "a part of 8" where `what` is divided at this level of sharding; with rooms beside it for the
 * units that are whole just now. */
static void part_of(const lt_trainer *t, lt_shard from, bool rooms, char out[48])
{
    const lt_sharding *s = &t->sharding;
    out[0] = '\0';
    if (s->world_size > 1 && s->level >= from)
        snprintf(out, 48, "a part of %d%s", s->world_size, rooms ? " and rooms" : "");
}

static lt_status describe_weights(const lt_trainer *t, unit u, lt_buffer *out, lt_err *err)
{
    char part[48], remark[96];
    part_of(t, LT_SHARD_PARAMETERS, true, part);
    join((const char *const[]){t->backend->real == LT_BF16 ? "bfloat16" : "", part}, 2, remark,
         sizeof remark);
    return row(out, t->has_adapter ? "frozen base" : "weights", t->plan.model.weights, u, remark,
               err);
}

static lt_status describe_gradients(const lt_trainer *t, unit u, lt_buffer *out, lt_err *err)
{
    char part[48] = "", remark[96];
    if (!t->has_adapter) part_of(t, LT_SHARD_GRADIENTS, true, part);
    join((const char *const[]){part}, 1, remark, sizeof remark);
    return row(out, "gradients", t->plan.model.gradients, u, remark, err);
}

static lt_status describe_optimizer(const lt_trainer *t, unit u, lt_buffer *out, lt_err *err)
{
    const lt_optimizer_memory *o = &t->plan.optimizer;
    const char *where = t->optimizer_settings.offload ? "  in host memory" : "";
    char part[48] = "", notes[96], remark[128];
    if (!t->has_adapter) part_of(t, LT_SHARD_OPTIMIZER, false, part);
    join((const char *const[]){part}, 1, notes, sizeof notes);
    snprintf(remark, sizeof remark, "%s%s", notes, where);
    if (o->master > 0) LT_TRY(row(out, "master weights", o->master, u, remark, err));
    join((const char *const[]){lt_optimizer_name(t->optimizer_settings.kind), part}, 2, notes,
         sizeof notes);
    snprintf(remark, sizeof remark, "%s%s", notes, where);
    return row(out, "optimizer", o->moments, u, remark, err);
}

static lt_status describe_total(const lt_trainer *t, unit u, lt_buffer *out, lt_err *err)
{
    const lt_train_plan *p = &t->plan;
    char remark[96] = "";
    if (p->available != UINT64_MAX)
        snprintf(remark, sizeof remark, " of %.*f %s available", u.decimals,
                 (double)p->available / u.bytes, u.name);
    LT_TRY(row(out, "total", p->device, u, remark, err));
    if (t->backend->device != LT_DEVICE_CUDA) return LT_OK;
    if (t->optimizer_settings.offload) {
        snprintf(remark, sizeof remark, " of %.*f %s available", u.decimals,
                 (double)p->host_available / u.bytes, u.name);
        return row(out, "host memory", p->host, u, remark, err);
    }
    snprintf(remark, sizeof remark, "  and %.*f %s of host memory (--offload-optimizer)",
             u.decimals, (double)p->offloaded_host / u.bytes, u.name);
    return row(out, "if offloaded", p->offloaded_device, u, remark, err);
}

static lt_status describe_place(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    bool gpu = t->backend->device == LT_DEVICE_CUDA;
    const char *what = !gpu                ? "this machine"
                       : t->device.planned ? "a GPU, which is not here"
                                           : "the GPU";
    if (t->world_size == 1) return lt_buffer_printf(out, err, "memory       of %s\n", what);
    return lt_buffer_printf(out, err, "memory       of %s, for each of %" PRId64 " processes\n",
                            what, t->world_size);
}

lt_status lt_describe_memory(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_train_plan *p = &t->plan;
    bool gpu = t->backend->device == LT_DEVICE_CUDA;
    unit u = unit_for(p->device);
    char levels[96];
    other_levels(t, u, levels, sizeof levels);
    LT_TRY(describe_place(t, out, err));
    LT_TRY(describe_weights(t, u, out, err));
    if (t->has_adapter) LT_TRY(row(out, "adapter", p->model.adapter, u, "", err));
    LT_TRY(describe_gradients(t, u, out, err));
    LT_TRY(describe_optimizer(t, u, out, err));
    LT_TRY(row(out, "activations", p->model.activations, u, levels, err));
    bool visible = (double)p->exchange / u.bytes >= 0.5 * pow(10, -u.decimals);
    if (visible) LT_TRY(row(out, "exchange", p->exchange, u, "", err));
    if (gpu) LT_TRY(row(out, "scratch", p->scratch, u, "", err));
    return describe_total(t, u, out, err);
}
