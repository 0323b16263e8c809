/* Where weights and gradients lie. As wholes: one block of memory each. Or in parts (sharding.c):
 * this process's part of every unit side by side, and rooms in which units are whole by turns. */
#include "model/memory.h"
#include "model/params.h"
#include "model/sharding.h"

/* --- Rooms ------------------------------------------------------------------------------------ */

/* Blocks by turns, then the ends: one for both when untied; a tied embedding stays where it is,
 * since the head reads it too. */
enum { BLOCK_ROOMS = 2, ROOMS = BLOCK_ROOMS + 2 };

/* What can lie in rooms. */
typedef enum content { REAL_WEIGHTS, HALF_WEIGHTS, GRADIENTS } content;

static int64_t count_of(const lt_unit *unit, content what)
{
    return what == REAL_WEIGHTS   ? unit->weight_count
           : what == HALF_WEIGHTS ? unit->half_count
                                  : unit->gradient_count;
}

static int room_of(const lt_model *model, const lt_unit *unit)
{
    int layers = (int)model->config.num_hidden_layers;
    if (unit->layer >= 0 && unit->layer < layers) return unit->layer % BLOCK_ROOMS;
    bool own_place = unit->layer == layers && model->config.tie_word_embeddings;
    return own_place ? BLOCK_ROOMS + 1 : BLOCK_ROOMS;
}

int lt_unit_room(const lt_model *model, const lt_unit *unit)
{
    int room = room_of(model, unit);
    bool shared = room < BLOCK_ROOMS || !model->config.tie_word_embeddings;
    bool rooms = lt_has_weight_rooms(model) || lt_has_gradient_rooms(model);
    return rooms && shared ? room : -1;
}

/* Each room has space for the largest unit that comes into it. */
static void carve_rooms(const lt_model *model, content what, lt_dtype dtype, lt_arena *arena,
                        void *rooms[ROOMS])
{
    int64_t counts[ROOMS] = {0};
    for (int i = 0; i < model->config.num_hidden_layers + 2; i++) {
        const lt_unit *unit = &model->units[i];
        int64_t *largest = &counts[room_of(model, unit)], count = count_of(unit, what);
        if (count > *largest) *largest = count;
    }
    for (int i = 0; i < ROOMS; i++)
        rooms[i] =
            counts[i] == 0 ? NULL : lt_arena_alloc(arena, (size_t)counts[i], lt_dtype_size(dtype));
}

/* This process's parts of `total` elements; absent while the arena measures. */
static lt_tensor carve_parts(const lt_model *model, int64_t total, lt_dtype dtype, lt_arena *arena)
{
    int64_t count = total / model->sharding.world_size;
    if (count == 0) return (lt_tensor){0};
    void *data = lt_arena_alloc(arena, (size_t)count, lt_dtype_size(dtype));
    return data ? lt_tensor_1d(data, dtype, count) : (lt_tensor){0};
}

/* --- Weights ---------------------------------------------------------------------------------- */

lt_tensor lt_param_view(const lt_param *param, void *base, int64_t offset, lt_dtype dtype)
{
    void *data = (char *)base + (size_t)offset * lt_dtype_size(dtype);
    return param->ndim == 2 ? lt_tensor_2d(data, dtype, param->shape[0], param->shape[1])
                            : lt_tensor_1d(data, dtype, param->shape[0]);
}

static void carve_whole_weights(lt_model *model, lt_arena *arena)
{
    lt_dtype real = model->backend->real;
    void *base = lt_arena_alloc(arena, (size_t)model->weight_count, lt_dtype_size(real));
    void *half = NULL;
    if (model->half_count > 0)
        half = lt_arena_alloc(arena, (size_t)model->half_count, lt_dtype_size(LT_BF16));
    for (int i = 0; i < model->own_param_count && base; i++) {
        lt_param *param = &model->params[i];
        void *block = param->dtype != real ? half : base;
        param->weight = lt_param_view(param, block, param->offset, param->dtype);
    }
}

static void carve_weight_rooms(lt_model *model, lt_arena *arena)
{
    lt_dtype real = model->backend->real;
    void *rooms[ROOMS], *half_rooms[ROOMS];
    model->weight_parts = carve_parts(model, model->weight_count, real, arena);
    model->half_parts = carve_parts(model, model->half_count, LT_BF16, arena);
    carve_rooms(model, REAL_WEIGHTS, real, arena, rooms);
    carve_rooms(model, HALF_WEIGHTS, LT_BF16, arena, half_rooms);
    for (int i = 0; i < model->own_param_count && model->weight_parts.data; i++) {
        lt_param *param = &model->params[i];
        const lt_unit *unit = lt_unit_of(model, param->layer);
        bool half = param->dtype != real;
        void *room = (half ? half_rooms : rooms)[room_of(model, unit)];
        int64_t start = half ? unit->half_offset : unit->weight_offset;
        param->weight = lt_param_view(param, room, param->offset - start, param->dtype);
    }
}

static void carve_rotary_tables(lt_model *model, lt_arena *arena)
{
    if (model->config.rope_type == LT_ROPE_NONE) return;
    int64_t positions = model->config.max_position_embeddings;
    int64_t half_dim = model->config.rotary_dim / 2;
    size_t count = (size_t)(positions * half_dim);
    lt_dtype dtype = model->backend->statistics;
    void *cosines = lt_arena_alloc(arena, count, lt_dtype_size(dtype));
    void *sines = lt_arena_alloc(arena, count, lt_dtype_size(dtype));
    if (!cosines || !sines) return;
    model->rope_cos = lt_tensor_2d(cosines, dtype, positions, half_dim);
    model->rope_sin = lt_tensor_2d(sines, dtype, positions, half_dim);
}

void lt_params_carve_weights(lt_model *model, lt_arena *arena)
{
    if (lt_has_weight_rooms(model))
        carve_weight_rooms(model, arena);
    else
        carve_whole_weights(model, arena);
    carve_rotary_tables(model, arena);
}

/* --- Gradients -------------------------------------------------------------------------------- */

/* Rows of adapters are behind all units, and have a place of their own where those are in rooms. */
void lt_params_carve_gradients(lt_model *model, lt_arena *arena)
{
    lt_dtype dtype = model->gradient_dtype;
    int64_t in_rooms = lt_has_gradient_rooms(model) ? lt_units_gradient_count(model) : 0;
    int64_t elsewhere = model->gradient_count - in_rooms;
    void *rooms[ROOMS] = {0}, *base = NULL;
    if (in_rooms > 0) {
        model->gradient_parts = carve_parts(model, in_rooms, dtype, arena);
        carve_rooms(model, GRADIENTS, dtype, arena, rooms);
    }
    if (elsewhere > 0 || in_rooms == 0)
        base = lt_arena_alloc(arena, (size_t)elsewhere, lt_dtype_size(dtype));
    for (int i = 0; i < model->param_count; i++) {
        lt_param *param = &model->params[i];
        const lt_unit *unit = param->adapter < 0 ? lt_unit_of(model, param->layer) : NULL;
        bool in_room = in_rooms > 0 && unit;
        void *place = in_room && param->trainable ? rooms[room_of(model, unit)] : base;
        int64_t start = in_room ? unit->gradient_offset : in_rooms;
        if (param->trainable && place)
            param->gradient = lt_param_view(param, place, param->gradient_offset - start, dtype);
    }
}

lt_status lt_model_allocate_gradients(lt_model *model, lt_err *err)
{
    if (model->gradients.base) return LT_OK;
    lt_arena plan;
    lt_arena_measure(&plan, "gradients");
    lt_params_carve_gradients(model, &plan);
    LT_TRY(lt_check_memory(model->backend, plan.peak, "gradients", err));
    LT_TRY(
        lt_arena_reserve(&model->gradients, "gradients", plan.peak, model->backend->memory, err));
    lt_params_carve_gradients(model, &model->gradients);
    return LT_OK;
}

/* --- Clearing gradients ----------------------------------------------------------------------- */

static lt_status zero(const lt_model *model, lt_tensor gradients, int64_t first, int64_t end,
                      lt_err *err)
{
    if (first >= end || !gradients.data) return LT_OK;
    lt_zero_args args = {.y = lt_tensor_slice(gradients, 0, first, end - first)};
    return lt_zero(model->backend, &args, err);
}

lt_status lt_zero_unit_gradients(const lt_model *model, const lt_unit *unit, bool all, lt_err *err)
{
    lt_tensor gradients = lt_unit_gradients(model, unit);
    int64_t from = 0; /* all before it is written, or zero */
    for (int i = 0; i < unit->param_count && !all; i++) {
        const lt_param *param = &model->params[unit->first_param + i];
        if (!param->gradient.data || param->summed) continue;
        int64_t start = param->gradient_offset - unit->gradient_offset;
        LT_TRY(zero(model, gradients, from, start, err));
        from = start + lt_tensor_count(param->gradient);
    }
    return zero(model, gradients, from, unit->gradient_count, err);
}

lt_status lt_zero_adapter_gradients(const lt_model *model, bool all, lt_err *err)
{
    for (int i = model->own_param_count; i < model->param_count; i++) {
        const lt_param *param = &model->params[i];
        lt_zero_args args = {.y = param->gradient};
        if (!param->gradient.data || !(all || param->summed)) continue;
        args.y = lt_tensor_1d(args.y.data, args.y.dtype, lt_tensor_count(args.y));
        LT_TRY(lt_zero(model->backend, &args, err));
    }
    return LT_OK;
}
