/* Units as wholes and parts, and what of the trained elements this process steps. */
#include "model/sharding.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

/* --- Questions -------------------------------------------------------------------------------- */

lt_status lt_sharding_check(const lt_sharding *sharding, lt_err *err)
{
    int world = sharding->world_size;
    bool alone = world == 0 && sharding->rank == 0;
    bool in_range = sharding->level >= LT_SHARD_NONE && sharding->level < LT_SHARD_LEVELS;
    if (in_range && (alone || (world > 0 && sharding->rank >= 0 && sharding->rank < world)))
        return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "process %d of %d, level of sharding %d: there is no such",
                   sharding->rank, world, (int)sharding->level);
}

static bool is_level(const lt_model *model, lt_shard least)
{
    return model->sharding.level >= least && model->sharding.world_size > 1;
}

bool lt_is_divided(const lt_model *model)
{
    return is_level(model, LT_SHARD_OPTIMIZER);
}

bool lt_has_weight_rooms(const lt_model *model)
{
    return is_level(model, LT_SHARD_PARAMETERS);
}

bool lt_has_gradient_rooms(const lt_model *model)
{
    return is_level(model, LT_SHARD_GRADIENTS) && lt_units_gradient_count(model) > 0;
}

lt_status lt_check_whole(const lt_model *model, const char *consequence, lt_err *err)
{
    if (!lt_has_weight_rooms(model)) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "the model's weights are divided among processes: %s",
                   consequence);
}

int64_t lt_unit_padded(const lt_model *model, int64_t count)
{
    if (!lt_is_divided(model)) return count;
    int64_t least = (int64_t)model->sharding.world_size * LT_QUANTISED_BLOCK;
    return (count + least - 1) / least * least;
}

const lt_unit *lt_unit_of(const lt_model *model, int layer)
{
    return &model->units[layer + 1];
}

int64_t lt_units_gradient_count(const lt_model *model)
{
    const lt_unit *last = lt_unit_of(model, (int)model->config.num_hidden_layers);
    return last->gradient_offset + last->gradient_count;
}

/* --- Wholes and parts ------------------------------------------------------------------------- */

/* The memory that begins where the unit's rows of one kind do. */
static lt_tensor whole(const lt_model *model, const lt_unit *unit, lt_dtype dtype, int64_t offset,
                       int64_t count)
{
    for (int i = 0; i < unit->param_count && count > 0; i++) {
        const lt_param *param = &model->params[unit->first_param + i];
        if (param->dtype != dtype || !param->weight.data) continue;
        size_t before = (size_t)(param->offset - offset) * lt_dtype_size(dtype);
        return lt_tensor_1d((char *)param->weight.data - before, dtype, count);
    }
    return (lt_tensor){0};
}

/* This process's part: of the whole, or among its parts of all units. */
static lt_tensor part(const lt_model *model, lt_tensor whole, lt_tensor parts, int64_t offset,
                      int64_t count)
{
    int64_t world = model->sharding.world_size;
    if (count == 0 || !lt_is_divided(model)) return whole;
    if (parts.data) return lt_tensor_slice(parts, 0, offset / world, count / world);
    if (!whole.data) return whole;
    return lt_tensor_slice(whole, 0, model->sharding.rank * (count / world), count / world);
}

lt_tensor lt_unit_weights(const lt_model *model, const lt_unit *unit)
{
    return whole(model, unit, model->backend->real, unit->weight_offset, unit->weight_count);
}

lt_tensor lt_unit_weight_part(const lt_model *model, const lt_unit *unit)
{
    return part(model, lt_unit_weights(model, unit), model->weight_parts, unit->weight_offset,
                unit->weight_count);
}

lt_tensor lt_unit_half_weights(const lt_model *model, const lt_unit *unit)
{
    return whole(model, unit, LT_BF16, unit->half_offset, unit->half_count);
}

lt_tensor lt_unit_half_part(const lt_model *model, const lt_unit *unit)
{
    return part(model, lt_unit_half_weights(model, unit), model->half_parts, unit->half_offset,
                unit->half_count);
}

lt_tensor lt_unit_gradients(const lt_model *model, const lt_unit *unit)
{
    lt_dtype dtype = model->gradient_dtype;
    for (int i = 0; i < unit->param_count; i++) {
        const lt_param *param = &model->params[unit->first_param + i];
        if (!param->gradient.data) continue;
        size_t before =
            (size_t)(param->gradient_offset - unit->gradient_offset) * lt_dtype_size(dtype);
        return lt_tensor_1d((char *)param->gradient.data - before, dtype, unit->gradient_count);
    }
    return (lt_tensor){0};
}

lt_tensor lt_unit_gradient_part(const lt_model *model, const lt_unit *unit)
{
    return part(model, lt_unit_gradients(model, unit), model->gradient_parts, unit->gradient_offset,
                unit->gradient_count);
}

/* --- What this process steps ------------------------------------------------------------------ */

/* Some of the gradient's elements, and where the state of the first of them is. */
typedef struct range {
    int64_t first, count, state_offset;
} range;

/* What of the `count` elements from `offset` on, which belong to rows like `param`, is its own. */
static range own_range(const lt_model *model, const lt_param *param, int64_t offset, int64_t count)
{
    int64_t world = model->sharding.world_size;
    if (!lt_is_divided(model)) return (range){offset, count, offset};
    if (param->adapter >= 0) {
        int64_t divided = lt_units_gradient_count(model);
        return (range){offset, count, offset - divided + divided / world};
    }
    const lt_unit *unit = lt_unit_of(model, param->layer);
    int64_t share = unit->gradient_count / world;
    int64_t begin = unit->gradient_offset + model->sharding.rank * share;
    int64_t first = lt_max_i64(offset, begin), end = lt_min_i64(offset + count, begin + share);
    if (first >= end) return (range){0};
    return (range){first, end - first, unit->gradient_offset / world + first - begin};
}

int64_t lt_model_own_count(const lt_model *model)
{
    int64_t divided = lt_units_gradient_count(model);
    if (!lt_is_divided(model)) return model->gradient_count;
    return divided / model->sharding.world_size + model->gradient_count - divided;
}

void lt_model_own_range(const lt_model *model, const lt_param *param, int64_t *first,
                        int64_t *count, int64_t *state_offset)
{
    range own = {0};
    int64_t elements = param->shape[0] * (param->ndim == 2 ? param->shape[1] : 1);
    if (param->trainable) own = own_range(model, param, param->gradient_offset, elements);
    *first = own.count > 0 ? own.first - param->gradient_offset : 0;
    *count = own.count;
    *state_offset = own.state_offset;
}

/* The row of a segment that holds this element of the gradient. */
static int row_at(const lt_model *model, const lt_segment *segment, int64_t element)
{
    int row = segment->first_param;
    while (row + 1 < model->param_count && model->params[row + 1].trainable &&
           model->params[row + 1].gradient_offset <= element)
        row++;
    return row;
}

static lt_tensor run_from(lt_tensor row, int64_t first, int64_t count)
{
    if (!row.data) return row;
    char *data = (char *)row.data + first * (int64_t)lt_dtype_size(row.dtype);
    return lt_tensor_1d(data, row.dtype, count);
}

/* `element`: of the undivided gradient, where the segment begins. */
static lt_own_piece piece_of(const lt_model *model, const lt_segment *segment, range own,
                             int64_t element)
{
    int row = row_at(model, segment, own.first);
    const lt_param *param = &model->params[row];
    lt_own_piece piece = {
        .param = row,
        .first = own.first - param->gradient_offset,
        .count = own.count,
        .state_offset = own.state_offset,
        .element = element + own.first - segment->gradient_offset,
        .weights = run_from(param->weight, own.first - param->gradient_offset, own.count),
        .gradient = run_from(param->gradient, own.first - param->gradient_offset, own.count),
        .decay = segment->decay};
    if (!lt_is_divided(model) || param->adapter >= 0) return piece;
    const lt_unit *unit = lt_unit_of(model, param->layer);
    int64_t place = own.state_offset - unit->gradient_offset / model->sharding.world_size;
    piece.weights = run_from(lt_unit_weight_part(model, unit), place, own.count);
    piece.gradient = run_from(lt_unit_gradient_part(model, unit), place, own.count);
    return piece;
}

lt_status lt_model_own_pieces(const lt_model *model, lt_own_piece **out, int *count, lt_err *err)
{
    int64_t element = 0;
    size_t bytes = (size_t)(model->segment_count + 1) * sizeof **out;
    *count = 0;
    *out = malloc(bytes);
    if (!*out) return lt_fail_nomem(err, bytes, "the list of what is trained here");
    for (int i = 0; i < model->segment_count; i++) {
        const lt_segment *s = &model->segments[i];
        range own = own_range(model, &model->params[s->first_param], s->gradient_offset, s->count);
        if (own.count > 0) (*out)[(*count)++] = piece_of(model, s, own, element);
        element += s->count;
    }
    return LT_OK;
}

/* --- Telling ---------------------------------------------------------------------------------- */

lt_status lt_tell_unit(const lt_model *model, int64_t layer, lt_unit_point point, lt_err *err)
{
    const lt_unit_observer *observer = &model->observer;
    if (!observer->at) return LT_OK;
    return observer->at(observer->context, lt_unit_of(model, (int)layer), point, err);
}

lt_status lt_model_need_unit(const lt_model *model, int layer, lt_err *err)
{
    return lt_tell_unit(model, layer, LT_BEFORE_FORWARD, err);
}
