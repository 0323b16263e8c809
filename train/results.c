#include "train/results.h"

#include <math.h>

#include "train/trainer.h"

static void carve(lt_step_results *r)
{
    enum { STEPS = LT_MAX_UNREAD_STEPS };
    r->totals =
        lt_tensor_1d(lt_arena_alloc(&r->arena, 3 * STEPS, sizeof(double)), LT_F64, 3 * STEPS);
    r->norms = lt_tensor_1d(lt_arena_alloc(&r->arena, STEPS, sizeof(float)), LT_F32, STEPS);
}

uint64_t lt_results_plan(void)
{
    lt_step_results measured = {0};
    lt_arena_measure(&measured.arena, "results of steps");
    carve(&measured);
    return measured.arena.used;
}

lt_status lt_results_create(const lt_backend *backend, lt_step_results *out, lt_err *err)
{
    *out = (lt_step_results){.backend = backend};
    LT_TRY(
        lt_arena_reserve(&out->arena, "results of steps", lt_results_plan(), backend->memory, err));
    carve(out);
    return LT_OK;
}

void lt_results_free(lt_step_results *results)
{
    lt_arena_release(&results->arena);
    results->count = 0;
}

lt_step_info *lt_results_begin_step(lt_step_results *r, lt_step_slot *slot)
{
    if (r->count == 0) r->begin = lt_seconds();
    *slot = (lt_step_slot){.totals = lt_tensor_slice(r->totals, 0, 3 * r->count, 3),
                           .norm = lt_tensor_slice(r->norms, 0, r->count, 1)};
    return &r->steps[r->count];
}

lt_status lt_results_read(lt_step_results *r, int *count, lt_err *err)
{
    double totals[LT_MAX_UNREAD_STEPS][3];
    float norms[LT_MAX_UNREAD_STEPS];
    const lt_backend *backend = r->backend;
    const size_t steps = (size_t)r->count;
    *count = 0;
    if (steps == 0) return LT_OK;
    LT_TRY(backend->download(backend, totals, r->totals.data, steps * sizeof totals[0], err));
    LT_TRY(backend->download(backend, norms, r->norms.data, steps * sizeof norms[0], err));
    /* the device's time, which the host can not divide among them */
    const double seconds = (lt_seconds() - r->begin) / (double)steps;
    for (size_t i = 0; i < steps; i++) {
        lt_step_info *info = &r->steps[i];
        info->loss = totals[i][0] / totals[i][1];
        info->accuracy = totals[i][2] / totals[i][1];
        info->gradient_norm = norms[i];
        info->taken = isfinite(norms[i]);
        info->seconds = seconds;
    }
    *count = r->count;
    r->count = 0;
    return LT_OK;
}
