#include "train/results.h"

#include <math.h>

#include "base/checked.h"
#include "train/trainer.h"

#define SECONDS_UNREAD 1.0

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

lt_status lt_results_create(const lt_backend *backend, lt_comm *comm, lt_step_results *out,
                            lt_err *err)
{
    *out = (lt_step_results){.backend = backend, .comm = comm, .per_second = 1};
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

bool lt_results_are_due(const lt_step_results *r)
{
    if (r->count == 0) return false;
    if (r->count == LT_MAX_UNREAD_STEPS) return true;
    if (lt_comm_size(r->comm) == 1) return lt_seconds() - r->begin >= SECONDS_UNREAD;
    return r->count >= r->per_second;
}

/* One exchange: each step's counts, then the seconds of all steps, then who wants to stop. Whole
 * numbers this small are exact as doubles. */
static lt_status add_up_processes(lt_step_results *r, double *seconds, bool *stop, lt_err *err)
{
    double all[3 * LT_MAX_UNREAD_STEPS + 2], *end = &all[3 * r->count];
    for (int i = 0; i < r->count; i++) {
        all[3 * i] = (double)r->steps[i].input_tokens;
        all[3 * i + 1] = (double)r->steps[i].trained_tokens;
        all[3 * i + 2] = r->steps[i].flops;
    }
    end[0] = *seconds;
    end[1] = *stop ? 1 : 0;
    LT_TRY(lt_comm_sum(r->comm, all, 3 * r->count + 2, err));
    for (int i = 0; i < r->count; i++) {
        r->steps[i].input_tokens = (int64_t)all[3 * i];
        r->steps[i].trained_tokens = (int64_t)all[3 * i + 1];
        r->steps[i].flops = all[3 * i + 2];
    }
    *seconds = end[0] / lt_comm_size(r->comm);
    *stop = end[1] > 0;
    return lt_comm_check_sequence(r->comm, err);
}

lt_status lt_results_read(lt_step_results *r, int *count, bool *stop, lt_err *err)
{
    double totals[LT_MAX_UNREAD_STEPS][3];
    float norms[LT_MAX_UNREAD_STEPS];
    const lt_backend *backend = r->backend;
    const size_t steps = (size_t)r->count;
    *count = 0;
    if (steps == 0) return LT_OK;
    LT_TRY(backend->download(backend, totals, r->totals.data, steps * sizeof totals[0], err));
    LT_TRY(backend->download(backend, norms, r->norms.data, steps * sizeof norms[0], err));
    double seconds = lt_seconds() - r->begin;
    LT_TRY(add_up_processes(r, &seconds, stop, err));
    seconds /= (double)steps; /* the device's time, which the host can not divide among them */
    for (size_t i = 0; i < steps; i++) {
        lt_step_info *info = &r->steps[i];
        info->loss = totals[i][0] / totals[i][1];
        info->accuracy = totals[i][2] / totals[i][1];
        info->gradient_norm = norms[i];
        info->taken = isfinite(norms[i]);
        info->seconds = seconds;
    }
    double per_second = SECONDS_UNREAD / fmax(seconds, SECONDS_UNREAD / LT_MAX_UNREAD_STEPS);
    r->per_second = (int)lt_max_i64((int64_t)per_second, 1);
    *count = r->count;
    r->count = 0;
    return LT_OK;
}
