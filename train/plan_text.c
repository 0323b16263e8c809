/* The table of memory that a run prints before it starts. */
#include <inttypes.h>
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

static lt_status describe_optimizer(const lt_trainer *t, unit u, lt_buffer *out, lt_err *err)
{
    const lt_optimizer_memory *o = &t->plan.optimizer;
    const char *where = t->optimizer_settings.offload ? "  in host memory" : "";
    char remark[64];
    if (o->master > 0) LT_TRY(row(out, "master weights", o->master, u, where, err));
    snprintf(remark, sizeof remark, "  (%s)%s", lt_optimizer_name(t->optimizer_settings.kind),
             where);
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

lt_status lt_describe_memory(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_train_plan *p = &t->plan;
    bool gpu = t->backend->device == LT_DEVICE_CUDA;
    unit u = unit_for(p->device);
    char levels[96];
    other_levels(t, u, levels, sizeof levels);
    LT_TRY(lt_buffer_printf(out, err, "memory       of %s\n",
                            !gpu                ? "this machine"
                            : t->device.planned ? "a GPU, which is not here"
                                                : "the GPU"));
    LT_TRY(row(out, t->has_adapter ? "frozen base" : "weights", p->model.weights, u,
               t->backend->real == LT_BF16 ? "  (bfloat16)" : "", err));
    if (t->has_adapter) LT_TRY(row(out, "adapter", p->model.adapter, u, "", err));
    LT_TRY(row(out, "gradients", p->model.gradients, u, "", err));
    LT_TRY(describe_optimizer(t, u, out, err));
    LT_TRY(row(out, "activations", p->model.activations, u, levels, err));
    if (gpu) LT_TRY(row(out, "scratch", p->scratch, u, "", err));
    return describe_total(t, u, out, err);
}
