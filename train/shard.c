/* When which collective begins and is waited for. A collective sees what the device's operations
 * had written before it was begun, and operations see it once it has been waited for: so memory may
 * be written again by what comes after the wait, and gathered into as soon as its last reader has
 * been issued. */
#include "train/shard.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

static const char *const names[LT_SHARD_LEVELS] = {"none", "optimizer", "gradients", "parameters"};

const char *lt_shard_name(lt_shard level)
{
    return names[level];
}

lt_shard lt_shard_by_name(const char *name)
{
    int level = LT_SHARD_PARAMETERS;
    while (level > LT_SHARD_NONE && strcmp(name, names[level]) != 0)
        level--;
    return (lt_shard)level;
}

/* What is under way of one unit. */
typedef struct unit_traffic {
    lt_comm_ticket gradients, weights, half;
    bool has_weights; /* where these are in parts: the whole is in its room, or on its way there */
} unit_traffic;

struct lt_sharder {
    lt_model *model;
    lt_comm *comm;
    unit_traffic *traffic; /* [unit_count] */
    int unit_count, head;  /* head: the last of them */
    int lowest;            /* the last block, or the head, that backward comes to */
    bool first, last;      /* the micro-batch, within its step */
    lt_arena arena, gradient_arena;
    lt_tensor sums;           /* f64 [SUMS] */
    lt_tensor coming;         /* a part of a later micro-batch, to be added to those before */
    const lt_unit *coming_of; /* whose part that is; NULL: nobody's */
};

enum {
    EMBEDDINGS = 0, /* places among the units */
    FIRST_BLOCK = 1,
    SUMS = 4, /* loss, trained tokens, correct ones, squares */
    SUMS_SIZE = SUMS * sizeof(double)
};

static unit_traffic *traffic_of(const lt_sharder *s, const lt_unit *unit)
{
    return &s->traffic[unit->layer + 1];
}

static bool has_weight_parts(const lt_sharder *s)
{
    return s->model->weight_parts.data || s->model->half_parts.data;
}

/* Whether other processes step a part of what is trained. */
static bool is_divided(const lt_sharder *s)
{
    const lt_unit *head = &s->model->units[s->head];
    bool of_units = head->gradient_offset + head->gradient_count > 0;
    return s->model->sharding.level >= LT_SHARD_OPTIMIZER && of_units;
}

static bool share_room(const lt_sharder *s, const lt_unit *a, const lt_unit *b)
{
    int room = lt_unit_room(s->model, a);
    return a != b && room >= 0 && room == lt_unit_room(s->model, b);
}

/* --- Weights -----------------------------------------------------------------------------------
 */

static lt_status wait_for_weights(const lt_sharder *s, const lt_unit *unit, lt_err *err)
{
    unit_traffic *t = traffic_of(s, unit);
    LT_TRY(lt_comm_wait(s->comm, &t->weights, err));
    return lt_comm_wait(s->comm, &t->half, err);
}

static lt_status gather(const lt_sharder *s, lt_tensor part, lt_tensor whole,
                        lt_comm_ticket *ticket, lt_err *err)
{
    return whole.data ? lt_comm_all_gather(s->comm, part, whole, ticket, err) : LT_OK;
}

static lt_status gather_unit(const lt_sharder *s, const lt_unit *unit, lt_err *err)
{
    const lt_model *model = s->model;
    unit_traffic *t = traffic_of(s, unit);
    LT_TRY(gather(s, lt_unit_weight_part(model, unit), lt_unit_weights(model, unit), &t->weights,
                  err));
    return gather(s, lt_unit_half_part(model, unit), lt_unit_half_weights(model, unit), &t->half,
                  err);
}

/* Into its room, whose other units are gone then. */
static lt_status fetch(const lt_sharder *s, const lt_unit *unit, lt_err *err)
{
    if (!has_weight_parts(s) || traffic_of(s, unit)->has_weights) return LT_OK;
    for (int i = 0; i < s->unit_count; i++) {
        const lt_unit *other = &s->model->units[i];
        if (!share_room(s, unit, other)) continue;
        LT_TRY(wait_for_weights(s, other, err));
        s->traffic[i].has_weights = false;
    }
    traffic_of(s, unit)->has_weights = true;
    return gather_unit(s, unit, err);
}

/* The unit's weights now, and meanwhile those of the one that comes next (or NULL). */
static lt_status need_weights(const lt_sharder *s, const lt_unit *unit, const lt_unit *next,
                              lt_err *err)
{
    LT_TRY(fetch(s, unit, err));
    LT_TRY(wait_for_weights(s, unit, err));
    return next && !share_room(s, unit, next) ? fetch(s, next, err) : LT_OK;
}

static const lt_unit *next_forward(const lt_sharder *s, const lt_unit *unit)
{
    return unit == &s->model->units[s->head] ? NULL : unit + 1;
}

/* After the lowest the next micro-batch begins, if there is one; else the step will change them. */
static const lt_unit *next_backward(const lt_sharder *s, const lt_unit *unit)
{
    if (unit > &s->model->units[s->lowest]) return unit - 1;
    return s->last ? NULL : &s->model->units[EMBEDDINGS];
}

lt_status lt_sharder_begin_weights(lt_sharder *s, lt_err *err)
{
    if (!s) return LT_OK;
    for (int i = 0; i < s->unit_count; i++) {
        const lt_unit *unit = &s->model->units[i];
        bool stepped = is_divided(s) && unit->gradient_count > 0;
        if (!stepped) continue;
        LT_TRY(wait_for_weights(s, unit, err));
        s->traffic[i].has_weights = false; /* what is in its room is the old ones */
        if (!has_weight_parts(s)) LT_TRY(gather_unit(s, unit, err));
    }
    return fetch(s, &s->model->units[EMBEDDINGS], err);
}

lt_status lt_sharder_finish_weights(lt_sharder *s, lt_err *err)
{
    for (int i = 0; s && i < s->unit_count; i++)
        LT_TRY(wait_for_weights(s, &s->model->units[i], err));
    return LT_OK;
}

/* --- Gradients ---------------------------------------------------------------------------------
 */

void lt_sharder_begin_micro_batch(lt_sharder *s, bool first, bool last)
{
    if (!s) return;
    s->first = first;
    s->last = last;
}

bool lt_sharder_accumulate(const lt_sharder *s, bool first)
{
    bool in_parts = s && s->model->gradient_parts.data;
    return !first && !in_parts;
}

/* Waits for the unit's sums and, where they are those of a later micro-batch, adds them. */
static lt_status settle(lt_sharder *s, const lt_unit *unit, lt_err *err)
{
    LT_TRY(lt_comm_wait(s->comm, &traffic_of(s, unit)->gradients, err));
    if (s->coming_of != unit) return LT_OK;
    s->coming_of = NULL;
    lt_tensor part = lt_unit_gradient_part(s->model, unit);
    lt_add_args add = {.a = part, .b = lt_tensor_slice(s->coming, 0, 0, part.shape[0]), .y = part};
    return lt_add(s->model->backend, &add, err);
}

/* Before gradients of the unit are written where others may still be on their way from. The head
 * writes those of a tied embedding. */
static lt_status make_room(lt_sharder *s, const lt_unit *unit, lt_err *err)
{
    const lt_model *model = s->model;
    bool ties = unit == &model->units[s->head] && model->config.tie_word_embeddings;
    for (int i = 0; i < s->unit_count; i++) {
        const lt_unit *other = &model->units[i];
        bool written = other == unit || share_room(s, other, unit) || (ties && i == EMBEDDINGS);
        if (written) LT_TRY(settle(s, other, err));
    }
    return LT_OK;
}

/* Every micro-batch's go to their parts: the first one's straight there. */
static lt_status scatter(lt_sharder *s, const lt_unit *unit, lt_tensor whole, lt_err *err)
{
    lt_tensor part = lt_unit_gradient_part(s->model, unit);
    lt_comm_ticket *ticket = &traffic_of(s, unit)->gradients;
    if (s->first) return lt_comm_reduce_scatter(s->comm, whole, part, ticket, err);
    if (s->coming_of) LT_TRY(settle(s, s->coming_of, err));
    s->coming_of = unit;
    return lt_comm_reduce_scatter(s->comm, whole, lt_tensor_slice(s->coming, 0, 0, part.shape[0]),
                                  ticket, err);
}

/* The unit's gradients of this micro-batch are complete. */
static lt_status send_gradients(lt_sharder *s, const lt_unit *unit, lt_err *err)
{
    const lt_model *model = s->model;
    lt_comm_ticket *ticket = &traffic_of(s, unit)->gradients;
    lt_tensor whole = lt_unit_gradients(model, unit);
    if (!whole.data) return LT_OK;
    if (model->gradient_parts.data) return scatter(s, unit, whole, err);
    if (!s->last) return LT_OK;
    if (!is_divided(s)) return lt_comm_all_reduce(s->comm, whole, ticket, err);
    return lt_comm_reduce_scatter(s->comm, whole, lt_unit_gradient_part(model, unit), ticket, err);
}

/* Rows of adapters lie behind all units'. */
static lt_tensor adapter_gradients(const lt_model *model)
{
    for (int i = model->own_param_count; i < model->param_count; i++) {
        const lt_param *first = &model->params[i];
        if (!first->gradient.data) continue;
        return lt_tensor_1d(first->gradient.data, model->gradient_dtype,
                            model->gradient_count - first->gradient_offset);
    }
    return (lt_tensor){0};
}

lt_status lt_sharder_finish_gradients(lt_sharder *s, lt_err *err)
{
    if (!s) return LT_OK;
    lt_comm_ticket ticket = {0};
    lt_tensor of_adapters = adapter_gradients(s->model);
    for (int i = s->head; i >= 0; i--)
        LT_TRY(settle(s, &s->model->units[i], err));
    if (of_adapters.data) LT_TRY(lt_comm_all_reduce(s->comm, of_adapters, &ticket, err));
    return lt_comm_wait(s->comm, &ticket, err);
}

static lt_status copy(const lt_sharder *s, lt_tensor from, lt_tensor to, lt_err *err)
{
    return lt_convert(s->model->backend, &(lt_convert_args){.x = from, .y = to}, err);
}

lt_status lt_sharder_sum(lt_sharder *s, lt_tensor totals, lt_tensor squares, lt_err *err)
{
    lt_comm_ticket ticket = {0};
    if (!s) return LT_OK;
    int64_t count = totals.shape[0];
    lt_tensor mine = lt_tensor_slice(s->sums, 0, 0, count + is_divided(s));
    LT_TRY(copy(s, totals, lt_tensor_slice(mine, 0, 0, count), err));
    if (is_divided(s)) LT_TRY(copy(s, squares, lt_tensor_slice(mine, 0, count, 1), err));
    LT_TRY(lt_comm_all_reduce(s->comm, mine, &ticket, err));
    LT_TRY(lt_comm_wait(s->comm, &ticket, err));
    if (is_divided(s)) LT_TRY(copy(s, lt_tensor_slice(mine, 0, count, 1), squares, err));
    return copy(s, lt_tensor_slice(mine, 0, 0, count), totals, err);
}

/* --- The observer, and memory ------------------------------------------------------------------
 */

/* Backward of an embedding reads no weights. */
static lt_status at(void *context, const lt_unit *unit, lt_unit_point point, lt_err *err)
{
    lt_sharder *s = context;
    switch (point) {
    case LT_BEFORE_FORWARD:
        return need_weights(s, unit, next_forward(s, unit), err);
    case LT_BEFORE_BACKWARD:
        LT_TRY(make_room(s, unit, err));
        return unit->layer < 0 ? LT_OK : need_weights(s, unit, next_backward(s, unit), err);
    case LT_AFTER_BACKWARD:
        return send_gradients(s, unit, err);
    default:
        return LT_OK;
    }
}

/* One block of memory, in an arena of its own. */
static lt_status allocate(lt_arena *arena, const char *name, size_t bytes, lt_memory memory,
                          void **out, lt_err *err)
{
    lt_arena_measure(arena, name);
    lt_arena_alloc(arena, bytes, 1);
    LT_TRY(lt_arena_reserve(arena, name, arena->used, memory, err));
    *out = lt_arena_alloc(arena, bytes, 1);
    return LT_OK;
}

lt_status lt_sharder_create(lt_model *model, lt_comm *comm, lt_sharder **out, lt_err *err)
{
    *out = NULL;
    if (lt_comm_size(comm) == 1) return LT_OK;
    lt_status status = LT_OK;
    int units = (int)model->config.num_hidden_layers + 2;
    void *sums;
    lt_sharder *s = calloc(1, sizeof *s);
    if (!s) return lt_fail_nomem(err, sizeof *s, "the exchange of weights");
    *s = (lt_sharder){.model = model,
                      .comm = comm,
                      .traffic = calloc((size_t)units, sizeof *s->traffic),
                      .unit_count = units,
                      .head = units - 1,
                      .lowest = FIRST_BLOCK,
                      .last = true};
    if (!s->traffic) status = lt_fail_nomem(err, sizeof *s, "the exchange of weights");
    if (status == LT_OK)
        status =
            allocate(&s->arena, "sums of steps", SUMS_SIZE, model->backend->memory, &sums, err);
    if (status != LT_OK) {
        free(s->traffic);
        free(s);
        return status;
    }
    s->sums = lt_tensor_1d(sums, LT_F64, SUMS);
    model->observer = (lt_unit_observer){.context = s, .at = at};
    *out = s;
    return LT_OK;
}

/* Room for a part of any unit. */
static lt_status allocate_coming(lt_sharder *s, lt_err *err)
{
    const lt_model *model = s->model;
    int64_t largest = 0;
    void *data;
    for (int i = 0; i < s->unit_count; i++)
        largest = lt_max_i64(largest, model->units[i].gradient_count);
    largest /= model->sharding.world_size;
    size_t bytes = (size_t)largest * lt_dtype_size(model->gradient_dtype);
    LT_TRY(allocate(&s->gradient_arena, "gradients on their way", bytes, model->backend->memory,
                    &data, err));
    s->coming = lt_tensor_1d(data, model->gradient_dtype, largest);
    return LT_OK;
}

lt_status lt_sharder_prepare_gradients(lt_sharder *s, lt_err *err)
{
    if (!s) return LT_OK;
    const lt_model *model = s->model;
    int64_t lowest = model->config.num_hidden_layers;
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].trainable) lowest = lt_min_i64(lowest, model->params[i].layer);
    s->lowest = (int)lt_max_i64(lowest, 0) + FIRST_BLOCK;
    return model->gradient_parts.data ? allocate_coming(s, err) : LT_OK;
}

void lt_sharder_free(lt_sharder *s)
{
    if (!s) return;
    for (int i = 0; i < s->unit_count; i++) {
        wait_for_weights(s, &s->model->units[i], NULL);
        lt_comm_wait(s->comm, &s->traffic[i].gradients, NULL);
    }
    s->model->observer = (lt_unit_observer){0};
    lt_arena_release(&s->arena);
    lt_arena_release(&s->gradient_arena);
    free(s->traffic);
    free(s);
}

uint64_t lt_sharder_plan(const lt_memory_plan *model, const lt_sharding *sharding)
{
    lt_arena measured;
    size_t part = sharding->level >= LT_SHARD_GRADIENTS ? model->largest_gradient_part : 0;
    if (sharding->world_size <= 1) return 0;
    lt_arena_measure(&measured, "exchanges");
    lt_arena_alloc(&measured, SUMS_SIZE, 1);
    if (part > 0) lt_arena_alloc(&measured, part, 1);
    return measured.used;
}
