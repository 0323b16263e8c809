#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/rng.h"

enum {
    CHUNK = 1 << 20,         /* elements */
    ZERO_CODE = 128,         /* what m = 0 is in 8 bits */
    FILLED_AT_ONCE = 1 << 20 /* bytes */
};

static const struct {
    const char *name;
    lt_dtype moments;
} kinds[LT_OPTIMIZER_KINDS] = {[LT_ADAMW] = {"adamw", LT_F32},
                               [LT_ADAMW_BF16] = {"adamw-bf16", LT_BF16},
                               [LT_ADAMW_8BIT] = {"adamw-8bit", LT_U8}};

const char *lt_optimizer_name(lt_optimizer_kind kind)
{
    return kinds[kind].name;
}

bool lt_optimizer_by_name(const char *name, lt_optimizer_kind *out)
{
    for (int i = 0; i < LT_OPTIMIZER_KINDS; i++) {
        if (strcmp(name, kinds[i].name) != 0) continue;
        *out = (lt_optimizer_kind)i;
        return true;
    }
    return false;
}

/* --- Memory ------------------------------------------------------------------------------------
 */

static lt_tensor carve(lt_arena *arena, lt_dtype dtype, int64_t count)
{
    return lt_tensor_1d(lt_arena_alloc(arena, (size_t)count, lt_dtype_size(dtype)), dtype, count);
}

/* Weights that are stepped elsewhere than in the model's memory. */
static bool has_master(const lt_optimizer *o)
{
    return o->settings.offload || o->device->real != o->device->statistics;
}

static void carve_master(lt_optimizer *o, int64_t count)
{
    if (has_master(o)) o->master = carve(&o->state, LT_F32, count);
}

static void carve_moments(lt_optimizer *o, int64_t count)
{
    bool quantised = o->settings.kind == LT_ADAMW_8BIT;
    int64_t blocks = quantised ? (count - 1) / LT_QUANTISED_BLOCK + 1 : 0;
    o->m = carve(&o->state, kinds[o->settings.kind].moments, count);
    o->v = carve(&o->state, kinds[o->settings.kind].moments, count);
    if (!quantised) return;
    o->m_scale = carve(&o->state, LT_F32, blocks);
    o->v_scale = carve(&o->state, LT_F32, blocks);
}

static void carve_scratch(lt_optimizer *o)
{
    o->squares = carve(&o->scratch, LT_F64, 1);
    o->scale = carve(&o->scratch, LT_F32, 1);
}

static void carve_staging(lt_optimizer *o, lt_dtype gradient)
{
    if (!o->settings.offload) return;
    o->staged_gradient = carve(&o->staging, gradient, o->settings.chunk);
    o->staged_weight = carve(&o->staging, o->device->real, o->settings.chunk);
}

/* Everything but the memory. */
static lt_optimizer describe(const lt_optimizer_settings *settings, const lt_backend *device,
                             int64_t count)
{
    lt_optimizer o = {.settings = *settings, .device = device, .backend = device};
    if (o.settings.chunk <= 0) o.settings.chunk = CHUNK;
    o.settings.chunk = lt_min_i64(o.settings.chunk, count);
    lt_arena_measure(&o.state, "optimizer");
    lt_arena_measure(&o.scratch, "clipping");
    lt_arena_measure(&o.staging, "optimizer staging");
    return o;
}

lt_optimizer_memory lt_optimizer_plan(const lt_optimizer_settings *settings,
                                      const lt_backend *device, lt_dtype gradient,
                                      int64_t gradient_count)
{
    lt_optimizer measured = describe(settings, device, gradient_count);
    lt_optimizer_memory memory = {0};
    carve_master(&measured, gradient_count);
    memory.master = measured.state.used;
    carve_moments(&measured, gradient_count);
    memory.moments = measured.state.used - memory.master;
    carve_scratch(&measured);
    carve_staging(&measured, gradient);
    uint64_t state = measured.state.used;
    memory.device = measured.scratch.used + (settings->offload ? 0 : state);
    memory.host = measured.staging.used + (settings->offload ? state : 0);
    return memory;
}

static lt_status reserve(lt_arena *arena, lt_memory memory, lt_err *err)
{
    size_t bytes = arena->used;
    return bytes ? lt_arena_reserve(arena, arena->name, bytes, memory, err) : LT_OK;
}

static lt_status allocate(lt_optimizer *o, const lt_model *model, lt_err *err)
{
    int64_t count = lt_model_own_count(model);
    for (int real = 0; real < 2; real++) { /* once to measure */
        if (real) {
            LT_TRY(reserve(&o->state, o->backend->memory, err));
            LT_TRY(reserve(&o->scratch, o->device->memory, err));
            LT_TRY(reserve(&o->staging, (lt_memory){0}, err));
        }
        carve_master(o, count);
        carve_moments(o, count);
        carve_scratch(o);
        carve_staging(o, model->gradient_dtype);
    }
    return LT_OK;
}

/* No row fills its last block: what lies behind it must be 0 too, also where a file brings a scale
 * for its block. */
static lt_status fill_with_zero_codes(const lt_optimizer *o, lt_err *err)
{
    size_t bytes = (size_t)o->m.shape[0];
    unsigned char *codes = malloc(FILLED_AT_ONCE);
    lt_status status = codes ? LT_OK : lt_fail_nomem(err, FILLED_AT_ONCE, "the optimizer");
    if (codes) memset(codes, ZERO_CODE, FILLED_AT_ONCE);
    for (size_t at = 0; at < bytes && status == LT_OK; at += FILLED_AT_ONCE) {
        size_t left = bytes - at < FILLED_AT_ONCE ? bytes - at : FILLED_AT_ONCE;
        status = o->backend->upload(o->backend, (unsigned char *)o->m.data + at, codes, left, err);
    }
    free(codes);
    return status;
}

static lt_status fill_master(const lt_optimizer *o, const lt_own_piece *piece, lt_err *err)
{
    int64_t most = o->cpu ? o->settings.chunk : piece->count;
    for (int64_t first = 0; first < piece->count; first += most) {
        int64_t count = lt_min_i64(most, piece->count - first);
        lt_convert_args convert = {
            .x = lt_tensor_slice(piece->weights, 0, first, count),
            .y = lt_tensor_slice(o->master, 0, piece->state_offset + first, count)};
        if (o->cpu) {
            size_t bytes = (size_t)count * lt_dtype_size(piece->weights.dtype);
            LT_TRY(
                o->device->download(o->device, o->staged_weight.data, convert.x.data, bytes, err));
            convert.x = lt_tensor_slice(o->staged_weight, 0, 0, count);
        }
        LT_TRY(lt_convert(o->backend, &convert, err));
    }
    return LT_OK;
}

lt_status lt_optimizer_create(const lt_model *model, const lt_optimizer_settings *settings,
                              lt_optimizer *out, lt_err *err)
{
    lt_status status = LT_OK;
    *out = (lt_optimizer){0};
    if (model->gradient_count == 0)
        return lt_fail(err, LT_ERR_USAGE, "the model has no trainable parameters");
    *out = describe(settings, model->backend, lt_model_own_count(model));
    LT_TRY(lt_model_own_pieces(model, &out->pieces, &out->piece_count, err));
    if (settings->offload) {
        const lt_backend_settings cpu = {.threads = settings->threads};
        LT_TRY_GOTO(status, lt_backend_create(&cpu, &out->cpu, err), done);
        out->backend = out->cpu;
    }
    LT_TRY_GOTO(status, allocate(out, model, err), done);
    if (settings->kind == LT_ADAMW_8BIT) LT_TRY_GOTO(status, fill_with_zero_codes(out, err), done);
    for (int i = 0; i < out->piece_count && has_master(out); i++)
        LT_TRY_GOTO(status, fill_master(out, &out->pieces[i], err), done);
done:
    if (status != LT_OK) lt_optimizer_free(out);
    return status;
}

void lt_optimizer_free(lt_optimizer *optimizer)
{
    lt_arena_release(&optimizer->state);
    lt_arena_release(&optimizer->scratch);
    lt_arena_release(&optimizer->staging);
    lt_backend_free(optimizer->cpu);
    free(optimizer->pieces);
    *optimizer = (lt_optimizer){0};
}

/* --- The step ----------------------------------------------------------------------------------
 */

/* Gradients that are whole lie together, gaps and all; of divided ones, what is not this process's,
 * and what is not trained, may hold anything. */
lt_status lt_optimizer_sum_squares(lt_optimizer *o, const lt_model *model, lt_err *err)
{
    const lt_backend *device = o->device;
    lt_sum_squares_args sum = {
        .x = lt_tensor_1d(model->gradients.base, model->gradient_dtype, model->gradient_count),
        .result = o->squares};
    LT_TRY(lt_zero(device, &(lt_zero_args){.y = o->squares}, err));
    if (o->m.shape[0] == model->gradient_count) return lt_sum_squares(device, &sum, err);
    for (int i = 0; i < o->piece_count; i++) {
        sum.x = o->pieces[i].gradient;
        LT_TRY(lt_sum_squares(device, &sum, err));
    }
    return LT_OK;
}

static lt_status clip(const lt_optimizer *o, const lt_optimizer_step *step, lt_err *err)
{
    const lt_clip_scale_args scale = {.sum_squares = o->squares,
                                      .norm = step->norm,
                                      .scale = o->scale,
                                      .loss = step->loss,
                                      .tokens = step->tokens,
                                      .max_norm = step->max_grad_norm};
    return lt_clip_scale(o->device, &scale, err);
}

static lt_tensor block_scales(lt_tensor scales, int64_t offset, int64_t count)
{
    if (!scales.data) return scales;
    return lt_tensor_slice(scales, 0, offset / LT_QUANTISED_BLOCK,
                           (count - 1) / LT_QUANTISED_BLOCK + 1);
}

/* Elements `first` .. `first` + `count` of the piece; weights and gradient are the caller's. */
static lt_adamw_args adamw_args(const lt_optimizer *o, const lt_optimizer_step *step,
                                const lt_own_piece *piece, int64_t first, int64_t count)
{
    int64_t offset = piece->state_offset + first;
    return (lt_adamw_args){.m = lt_tensor_slice(o->m, 0, offset, count),
                           .v = lt_tensor_slice(o->v, 0, offset, count),
                           .m_scale = block_scales(o->m_scale, offset, count),
                           .v_scale = block_scales(o->v_scale, offset, count),
                           .learning_rate = step->learning_rate,
                           .beta1 = step->beta1,
                           .beta2 = step->beta2,
                           .epsilon = step->epsilon,
                           .weight_decay = piece->decay ? step->weight_decay : 0,
                           .step = step->number,
                           .seed = o->settings.seed,
                           .stream = lt_rng_stream(LT_RNG_ROUNDING, (uint64_t)step->number, 0),
                           .first_element = piece->element + first};
}

static lt_status step_here(const lt_optimizer *o, const lt_own_piece *piece,
                           const lt_optimizer_step *step, lt_err *err)
{
    lt_adamw_args args = adamw_args(o, step, piece, 0, piece->count);
    args.weight = piece->weights;
    if (o->master.data) {
        args.weight = lt_tensor_slice(o->master, 0, piece->state_offset, piece->count);
        args.rounded = piece->weights;
    }
    args.gradient = piece->gradient;
    args.scale = o->scale;
    return lt_adamw(o->device, &args, err);
}

/* Elements `first` .. `first` + `count` of the piece. */
static lt_status step_chunk(const lt_optimizer *o, const lt_own_piece *piece, int64_t first,
                            int64_t count, float *scale, const lt_optimizer_step *step, lt_err *err)
{
    lt_tensor gradient = lt_tensor_slice(piece->gradient, 0, first, count);
    lt_tensor weights = lt_tensor_slice(piece->weights, 0, first, count);
    lt_adamw_args args = adamw_args(o, step, piece, first, count);
    LT_TRY(o->device->download(o->device, o->staged_gradient.data, gradient.data,
                               (size_t)count * lt_dtype_size(gradient.dtype), err));
    args.gradient = lt_tensor_slice(o->staged_gradient, 0, 0, count);
    args.weight = lt_tensor_slice(o->master, 0, piece->state_offset + first, count);
    if (weights.dtype != args.weight.dtype)
        args.rounded = lt_tensor_slice(o->staged_weight, 0, 0, count);
    args.scale = lt_tensor_1d(scale, LT_F32, 1);
    LT_TRY(lt_adamw(o->cpu, &args, err));
    const void *stepped = args.rounded.data ? args.rounded.data : args.weight.data;
    return o->device->upload(o->device, weights.data, stepped,
                             (size_t)count * lt_dtype_size(weights.dtype), err);
}

static lt_status step_on_the_host(const lt_optimizer *o, const lt_optimizer_step *step, lt_err *err)
{
    float scale;
    LT_TRY(o->device->download(o->device, &scale, o->scale.data, sizeof scale, err));
    if (!isfinite(scale)) return LT_OK;
    for (int i = 0; i < o->piece_count; i++) {
        const lt_own_piece *piece = &o->pieces[i];
        for (int64_t first = 0; first < piece->count; first += o->settings.chunk) {
            int64_t count = lt_min_i64(o->settings.chunk, piece->count - first);
            LT_TRY(step_chunk(o, piece, first, count, &scale, step, err));
        }
    }
    return LT_OK;
}

lt_status lt_optimizer_apply(lt_optimizer *o, const lt_optimizer_step *step, lt_err *err)
{
    LT_TRY(clip(o, step, err));
    if (o->cpu) return step_on_the_host(o, step, err);
    for (int i = 0; i < o->piece_count; i++)
        LT_TRY(step_here(o, &o->pieces[i], step, err));
    return LT_OK;
}
