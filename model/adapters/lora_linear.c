/* LoRA in the passes. With u = s dropout(x) A^T:
 *
 *   forward    y = [x | u] [W | B]^T + b                 one product of a longer k
 *   backward   dB += dy^T u,  du = s dy B,  dA += du^T dropout(x)
 *              dx = [dy | du] [W ; A]                    likewise, without dropout
 *              dx = dy W + mask(du A)                    with it
 *
 * u is computed again in backward: only rank-sized values exist beside what the plain product has,
 * and W has no gradient. All parts of a block's matrix read the same x, so dropout is drawn once
 * for them.
 *
 * DoRA scales the columns of the sum, g = magnitude / |W + s B A| by rows, with z = x' (W + s B
 * A)^T and x' = dropout(x):
 *
 *   y = x W^T + b + (g - 1) x' W^T + g u B^T             without dropout: y = g z + b
 *   dmagnitude += sum dy z / |...|,  dB += (g dy)^T u,  du = s (g dy) B,  dA += du^T x'
 *   dx = dy W + mask([(g - 1) dy | du] [W ; A])          without dropout: [g dy | du] [W ; A] */
#include "model/adapters/lora.h"

#include "base/checked.h"

/* --- DoRA's lengths --------------------------------------------------------------------------- */

static lt_tensor matrix_of(const lt_block_view *w, lt_linear which)
{
    switch (which) {
    case LT_LINEAR_QKV:
        return w->qkv_weight;
    case LT_LINEAR_OUT:
        return w->out_weight;
    case LT_LINEAR_UP:
        return w->up_weight;
    default:
        return w->down_weight;
    }
}

static lt_status refresh_part(const lt_model *model, const lt_lora_part *p, lt_tensor matrix,
                              bool into_magnitudes, lt_err *err)
{
    lt_dora_norm_args norm = {.weight = lt_tensor_slice(matrix, 0, p->first_row, p->rows),
                              .a = model->params[p->a].weight,
                              .b = model->params[p->b].weight,
                              .norm = p->norm,
                              .scaling = p->scaling};
    if (into_magnitudes) {
        lt_convert_args copy = {.x = p->norm, .y = model->params[p->magnitude].weight};
        LT_TRY(lt_dora_norm(model->backend, &norm, err));
        LT_TRY(lt_convert(model->backend, &copy, err));
    }
    norm.magnitude = model->params[p->magnitude].weight;
    norm.scale = p->scale;
    return lt_dora_norm(model->backend, &norm, err);
}

static lt_status refresh_block(const lt_model *model, const lt_adapter *adapter, int64_t layer,
                               bool into_magnitudes, lt_err *err)
{
    lt_block_view w = lt_block_weights(model, layer);
    for (int which = 0; which < LT_LINEAR_COUNT; which++) {
        const lt_lora_linear *linear = &adapter->linears[layer * LT_LINEAR_COUNT + which];
        for (int k = 0; k < linear->part_count; k++)
            if (linear->parts[k].rank > 0)
                LT_TRY(refresh_part(model, &linear->parts[k], matrix_of(&w, (lt_linear)which),
                                    into_magnitudes, err));
    }
    return LT_OK;
}

lt_status lt_dora_refresh(const lt_model *model, const lt_adapter *adapter, bool into_magnitudes,
                          lt_err *err)
{
    if (!adapter->config.use_dora) return LT_OK;
    for (int layer = 0; layer < model->config.num_hidden_layers; layer++) {
        LT_TRY(lt_model_need_unit(model, layer, err));
        LT_TRY(refresh_block(model, adapter, layer, into_magnitudes, err));
    }
    return LT_OK;
}

/* Lengths change with every step; those of a frozen adapter were taken when it was read. */
lt_status lt_lora_begin(const lt_pass *pass, const lt_adapter *adapter, int64_t layer, lt_err *err)
{
    const lt_param *first = &pass->model->params[adapter->first_param];
    if (layer < 0 || !first->trainable || !adapter->config.use_dora) return LT_OK;
    return refresh_block(pass->model, adapter, layer, false, err);
}

/* --- What both passes share ------------------------------------------------------------------- */

static const lt_lora_linear *linear_of(const lt_adapter *adapter, int64_t layer, lt_linear which)
{
    return &adapter->linears[layer * LT_LINEAR_COUNT + which];
}

/* Room for [rows, width], contiguous. */
static lt_tensor scratch(lt_tensor room, int64_t rows, int64_t width)
{
    return lt_tensor_2d(room.data, room.dtype, rows, width);
}

static lt_dropout_mask mask_of(const lt_pass *pass, const lt_adapter *adapter, int64_t layer,
                               lt_linear which)
{
    return lt_pass_mask(pass, adapter->config.lora_dropout, layer, LT_SITE_ADAPTER + (int)which);
}

/* x, or in training with dropout what it leaves of it. */
static lt_status dropped_input(const lt_pass *pass, const lt_adapter *adapter, int64_t layer,
                               lt_linear which, lt_tensor x, lt_tensor *out, lt_err *err)
{
    lt_dropout_mask mask = mask_of(pass, adapter, layer, which);
    *out = x;
    if (mask.rate == 0) return LT_OK;
    *out = scratch(pass->workspace->room.input, x.shape[0], x.shape[1]);
    return lt_dropout(pass->backend, &(lt_dropout_args){.x = x, .y = *out, .dropout = mask}, err);
}

/* Parts [first, last) of a linear module. */
typedef struct part_range {
    int first, last;
    int64_t first_rank, rank; /* of their stacked A */
} part_range;

static part_range parts_within(const lt_lora_linear *linear, int64_t first_row, int64_t rows)
{
    part_range range = {-1, 0, 0, 0};
    for (int k = 0; k < linear->part_count; k++) {
        const lt_lora_part *p = &linear->parts[k];
        if (p->first_row < first_row || p->first_row >= first_row + rows) continue;
        if (range.first < 0) range.first = k;
        if (p->rank > 0 && range.rank == 0) range.first_rank = p->first_rank;
        range.rank += p->rank;
        range.last = k + 1;
    }
    return range;
}

/* Rows [first, first + count) of the parts' A, which lie under each other. */
static lt_tensor stacked_a(const lt_model *model, const lt_lora_linear *linear, int64_t first,
                           int64_t count)
{
    for (int k = 0; k < linear->part_count; k++) {
        const lt_lora_part *p = &linear->parts[k];
        if (p->rank == 0 || p->first_rank != first) continue;
        lt_tensor a = model->params[p->a].weight;
        return lt_tensor_2d(a.data, a.dtype, count, a.shape[1]);
    }
    return (lt_tensor){0};
}

static lt_tensor stacked_da(const lt_model *model, const lt_lora_linear *linear)
{
    for (int k = 0; k < linear->part_count; k++) {
        if (linear->parts[k].rank == 0) continue;
        lt_tensor da = model->params[linear->parts[k].a].gradient;
        return da.data ? lt_tensor_2d(da.data, da.dtype, linear->rank, da.shape[1]) : da;
    }
    return (lt_tensor){0};
}

static lt_status scale(const lt_pass *pass, lt_tensor x, double factor, lt_err *err)
{
    return lt_scale(pass->backend, &(lt_scale_args){.x = x, .y = x, .factor = factor}, err);
}

static lt_tensor columns(lt_tensor t, int64_t first, int64_t count)
{
    return t.data ? lt_tensor_slice(t, 1, first, count) : t;
}

/* The columns of the low-rank values that belong to a part. */
static lt_tensor part_columns(lt_tensor low, const lt_lora_part *p, const part_range *range)
{
    return columns(low, p->first_rank - range->first_rank, p->rank);
}

/* u = s x A^T of the parts of a range. */
static lt_status low_rank(const lt_pass *pass, const lt_lora_linear *linear,
                          const part_range *range, lt_tensor x, lt_tensor *u, lt_err *err)
{
    *u = scratch(pass->workspace->room.low, x.shape[0], range->rank);
    lt_matmul_args product = {.layout = LT_MATMUL_NT,
                              .c = *u,
                              .a = x,
                              .b = stacked_a(pass->model, linear, range->first_rank, range->rank)};
    LT_TRY(lt_matmul(pass->backend, &product, err));
    for (int k = range->first; k < range->last; k++) {
        const lt_lora_part *p = &linear->parts[k];
        if (p->rank > 0) LT_TRY(scale(pass, part_columns(*u, p, range), p->scaling, err));
    }
    return LT_OK;
}

/* --- Forward ---------------------------------------------------------------------------------- */

/* One part of a forward product: its rows of W and columns of y. `u` is absent when it is not
 * adapted. */
typedef struct part_forward {
    const lt_lora_part *part;
    lt_tensor x, dropped, weight, bias, residual, y, u, b;
} part_forward;

static lt_status plain_part(const lt_pass *pass, const part_forward *f, lt_tensor u, lt_err *err)
{
    lt_matmul_args product = {.layout = LT_MATMUL_NT,
                              .c = f->y,
                              .a = f->x,
                              .b = f->weight,
                              .bias = f->bias,
                              .residual = f->residual};
    if (u.data) {
        product.a_extra = u;
        product.b_extra = f->b;
    }
    return lt_matmul(pass->backend, &product, err);
}

/* y += (g + shift) z */
static lt_status add_scaled(const lt_pass *pass, const part_forward *f, lt_tensor z, double shift,
                            lt_err *err)
{
    lt_scale_columns_args add = {
        .x = z, .y = f->y, .scale = f->part->scale, .shift = shift, .accumulate = true};
    return lt_scale_columns(pass->backend, &add, err);
}

static lt_status dora_part_dropped(const lt_pass *pass, const part_forward *f, lt_tensor z,
                                   lt_err *err)
{
    lt_matmul_args product = {.layout = LT_MATMUL_NT, .c = z, .a = f->dropped, .b = f->weight};
    lt_matmul_args update = {.layout = LT_MATMUL_NT, .c = z, .a = f->u, .b = f->b};
    LT_TRY(plain_part(pass, f, (lt_tensor){0}, err));
    LT_TRY(lt_matmul(pass->backend, &product, err));
    LT_TRY(add_scaled(pass, f, z, -1, err));
    LT_TRY(lt_matmul(pass->backend, &update, err));
    return add_scaled(pass, f, z, 0, err);
}

static lt_status dora_part(const lt_pass *pass, const part_forward *f, lt_err *err)
{
    lt_tensor z = scratch(pass->workspace->room.output, f->y.shape[0], f->part->rows);
    if (f->dropped.data != f->x.data) return dora_part_dropped(pass, f, z, err);
    lt_matmul_args product = {.layout = LT_MATMUL_NT,
                              .c = z,
                              .a = f->x,
                              .b = f->weight,
                              .a_extra = f->u,
                              .b_extra = f->b};
    lt_scale_columns_args scale_columns = {
        .x = z, .y = f->y, .scale = f->part->scale, .bias = f->bias, .residual = f->residual};
    LT_TRY(lt_matmul(pass->backend, &product, err));
    return lt_scale_columns(pass->backend, &scale_columns, err);
}

lt_status lt_lora_forward(const lt_pass *pass, const lt_adapter *adapter,
                          const lt_linear_args *args, bool *done, lt_err *err)
{
    const lt_lora_linear *linear = linear_of(adapter, args->layer, args->which);
    part_range range = parts_within(linear, args->first_row, args->weight.shape[0]);
    lt_tensor dropped, u;
    *done = range.rank > 0;
    if (!*done) return LT_OK;
    LT_TRY(dropped_input(pass, adapter, args->layer, args->which, args->x, &dropped, err));
    LT_TRY(low_rank(pass, linear, &range, dropped, &u, err));
    for (int k = range.first; k < range.last; k++) {
        const lt_lora_part *p = &linear->parts[k];
        int64_t first = p->first_row - args->first_row;
        part_forward f = {.part = p,
                          .x = args->x,
                          .dropped = dropped,
                          .weight = lt_tensor_slice(args->weight, 0, first, p->rows),
                          .residual = columns(args->residual, first, p->rows),
                          .y = columns(args->y, first, p->rows)};
        if (args->bias.data) f.bias = lt_tensor_slice(args->bias, 0, first, p->rows);
        if (p->rank > 0) {
            f.u = part_columns(u, p, &range);
            f.b = pass->model->params[p->b].weight;
        }
        LT_TRY(p->magnitude >= 0 ? dora_part(pass, &f, err) : plain_part(pass, &f, f.u, err));
    }
    return LT_OK;
}

/* --- Backward --------------------------------------------------------------------------------- */

typedef struct lora_backward {
    const lt_pass *pass;
    const lt_lora_linear *linear;
    const lt_linear_backward_args *args;
    part_range range; /* all parts */
    lt_dropout_mask mask;
    lt_tensor dropped, u, du;
} lora_backward;

/* dB += dy^T u and du = s dy B, where dy is the gradient of the part's sum. */
static lt_status part_gradients(const lora_backward *l, const lt_lora_part *p, lt_tensor dy,
                                lt_err *err)
{
    const lt_backend *backend = l->pass->backend;
    const lt_param *b = &l->pass->model->params[p->b];
    lt_tensor du = part_columns(l->du, p, &l->range);
    lt_matmul_args db = {.layout = LT_MATMUL_TN,
                         .c = b->gradient,
                         .a = dy,
                         .b = part_columns(l->u, p, &l->range),
                         .accumulate = l->pass->accumulate};
    lt_matmul_args down = {.layout = LT_MATMUL_NN, .c = du, .a = dy, .b = b->weight};
    if (b->gradient.data) LT_TRY(lt_matmul(backend, &db, err));
    LT_TRY(lt_matmul(backend, &down, err));
    return scale(l->pass, du, p->scaling, err);
}

static lt_status a_gradient(const lora_backward *l, lt_err *err)
{
    lt_matmul_args da = {.layout = LT_MATMUL_TN,
                         .c = stacked_da(l->pass->model, l->linear),
                         .a = l->du,
                         .b = l->dropped,
                         .accumulate = l->pass->accumulate};
    return da.c.data ? lt_matmul(l->pass->backend, &da, err) : LT_OK;
}

static lt_status mask_in_place(const lora_backward *l, lt_tensor x, lt_err *err)
{
    return lt_dropout(l->pass->backend, &(lt_dropout_args){.x = x, .y = x, .dropout = l->mask},
                      err);
}

static lt_status plain_backward(const lora_backward *l, lt_err *err)
{
    const lt_linear_backward_args *a = l->args;
    const lt_backend *backend = l->pass->backend;
    lt_tensor stacked = stacked_a(l->pass->model, l->linear, 0, l->linear->rank);
    for (int k = 0; k < l->linear->part_count; k++) {
        const lt_lora_part *p = &l->linear->parts[k];
        if (p->rank > 0) LT_TRY(part_gradients(l, p, columns(a->dy, p->first_row, p->rows), err));
    }
    LT_TRY(a_gradient(l, err));
    if (!a->dx.data) return LT_OK;
    lt_matmul_args dx = {.layout = LT_MATMUL_NN, .c = a->dx, .a = a->dy, .b = a->weight};
    if (l->mask.rate > 0) {
        lt_matmul_args up = {.layout = LT_MATMUL_NN, .c = a->dx, .a = l->du, .b = stacked};
        LT_TRY(lt_matmul(backend, &up, err));
        LT_TRY(mask_in_place(l, a->dx, err));
        dx.accumulate = true;
    } else {
        dx.a_extra = l->du;
        dx.b_extra = stacked;
    }
    return lt_matmul(backend, &dx, err);
}

/* y = scale x by columns of a part. */
static lt_status scale_part(const lora_backward *l, const lt_lora_part *p, lt_tensor x, lt_tensor y,
                            double shift, lt_err *err)
{
    lt_scale_columns_args args = {.x = x, .y = y, .scale = p->scale, .shift = shift};
    return lt_scale_columns(l->pass->backend, &args, err);
}

/* Adds a part's [g dy | du] [W ; A] to dx, or writes it when it is the first; with dropout g - 1
 * stands for g. */
static lt_status dora_part_backward(const lora_backward *l, const lt_lora_part *p, bool first,
                                    lt_err *err)
{
    const lt_linear_backward_args *a = l->args;
    const lt_model *model = l->pass->model;
    const lt_backend *backend = l->pass->backend;
    lt_tensor dy = columns(a->dy, p->first_row, p->rows);
    lt_tensor z = scratch(l->pass->workspace->room.output, dy.shape[0], p->rows);
    lt_tensor weight = lt_tensor_slice(a->weight, 0, p->first_row, p->rows);
    lt_matmul_args product = {.layout = LT_MATMUL_NT,
                              .c = z,
                              .a = l->dropped,
                              .b = weight,
                              .a_extra = part_columns(l->u, p, &l->range),
                              .b_extra = model->params[p->b].weight};
    lt_dora_backward_args magnitude = {
        .dy = dy, .z = z, .norm = p->norm, .dmagnitude = model->params[p->magnitude].gradient};
    if (magnitude.dmagnitude.data) {
        LT_TRY(lt_matmul(backend, &product, err));
        LT_TRY(lt_dora_backward(backend, &magnitude, err));
    }
    LT_TRY(scale_part(l, p, dy, z, 0, err));
    LT_TRY(part_gradients(l, p, z, err));
    if (!a->dx.data) return LT_OK;
    if (l->mask.rate > 0) LT_TRY(scale_part(l, p, dy, z, -1, err));
    lt_matmul_args dx = {.layout = LT_MATMUL_NN,
                         .c = a->dx,
                         .a = z,
                         .b = weight,
                         .a_extra = part_columns(l->du, p, &l->range),
                         .b_extra = model->params[p->a].weight,
                         .accumulate = !first};
    return lt_matmul(backend, &dx, err);
}

/* dx += dy W for rows [first, first + count) of W. */
static lt_status add_plain(const lora_backward *l, int64_t first, int64_t count, lt_err *err)
{
    const lt_linear_backward_args *a = l->args;
    lt_matmul_args dx = {.layout = LT_MATMUL_NN,
                         .c = a->dx,
                         .a = columns(a->dy, first, count),
                         .b = lt_tensor_slice(a->weight, 0, first, count),
                         .accumulate = true};
    return lt_matmul(l->pass->backend, &dx, err);
}

static lt_status dora_backward(const lora_backward *l, lt_err *err)
{
    const lt_linear_backward_args *a = l->args;
    bool first = true;
    for (int k = 0; k < l->linear->part_count; k++) {
        if (l->linear->parts[k].rank == 0) continue;
        LT_TRY(dora_part_backward(l, &l->linear->parts[k], first, err));
        first = false;
    }
    LT_TRY(a_gradient(l, err));
    if (!a->dx.data) return LT_OK;
    if (l->mask.rate > 0) {
        LT_TRY(mask_in_place(l, a->dx, err));
        return add_plain(l, 0, a->weight.shape[0], err);
    }
    for (int k = 0; k < l->linear->part_count; k++) {
        const lt_lora_part *p = &l->linear->parts[k];
        if (p->rank == 0) LT_TRY(add_plain(l, p->first_row, p->rows, err));
    }
    return LT_OK;
}

lt_status lt_lora_backward(const lt_pass *pass, const lt_adapter *adapter,
                           const lt_linear_backward_args *args, bool *done, lt_err *err)
{
    const lt_lora_linear *linear = linear_of(adapter, args->layer, args->which);
    *done = linear->rank > 0;
    if (!*done) return LT_OK;
    lora_backward l = {.pass = pass,
                       .linear = linear,
                       .args = args,
                       .range = parts_within(linear, 0, args->weight.shape[0]),
                       .mask = mask_of(pass, adapter, args->layer, args->which),
                       .du = scratch(pass->workspace->room.d_low, args->dy.shape[0], linear->rank)};
    LT_TRY(dropped_input(pass, adapter, args->layer, args->which, args->x, &l.dropped, err));
    LT_TRY(low_rank(pass, linear, &l.range, l.dropped, &l.u, err));
    return adapter->config.use_dora ? dora_backward(&l, err) : plain_backward(&l, err);
}
