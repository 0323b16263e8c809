/* One decoder block, forward: the same code for every family and for training, evaluation, prefill
 * and decoding.
 *
 *   sequential:  middle = input + attention(norm1(input));  output = middle + mlp(norm2(middle))
 *   parallel:    middle = input + attention(norm1(input));  output = middle + mlp(norm2(input))
 *
 * So GPT-NeoX's parallel residual differs only in what norm2 reads. Blocks that keep nothing for
 * backward have input, middle and output in the same memory, hence norm2 comes first there. */
#include "model/adapters/internal.h"

lt_status lt_norm_pass(const lt_pass *pass, lt_tensor x, lt_tensor weight, lt_tensor bias,
                       lt_tensor y, lt_tensor mean, lt_tensor rstd, lt_err *err)
{
    const lt_model_config *c = &pass->model->config;
    lt_norm_args args = {.x = x,
                         .y = y,
                         .weight = weight,
                         .bias = bias,
                         .mean = mean,
                         .rstd = rstd,
                         .eps = c->norm_eps};
    return c->norm == LT_NORM_LAYER ? lt_layer_norm_forward(pass->backend, &args, err)
                                    : lt_rms_norm_forward(pass->backend, &args, err);
}

static lt_status norm1(const lt_pass *pass, const lt_block_view *w, const lt_block_activations *a,
                       lt_err *err)
{
    return lt_norm_pass(pass, a->input, w->attention_norm_weight, w->attention_norm_bias, a->norm1,
                        a->mean1, a->rstd1, err);
}

static lt_status norm2(const lt_pass *pass, const lt_block_view *w, const lt_block_activations *a,
                       lt_err *err)
{
    lt_tensor x = pass->model->config.parallel_residual ? a->input : a->middle;
    return lt_norm_pass(pass, x, w->mlp_norm_weight, w->mlp_norm_bias, a->norm2, a->mean2, a->rstd2,
                        err);
}

/* [tokens, width] to [tokens, heads, head_dim], from `first_head` on. */
lt_tensor lt_split_heads(lt_tensor t, int64_t first_head, int64_t heads, int64_t head_dim)
{
    if (!t.data) return t;
    t = lt_tensor_slice(t, 1, first_head * head_dim, heads * head_dim);
    return (lt_tensor){.data = t.data,
                       .dtype = t.dtype,
                       .ndim = 3,
                       .shape = {t.shape[0], heads, head_dim},
                       .stride = {t.stride[0], head_dim, 1}};
}

/* Turns q and k, wherever they are in the batch, by their tokens' positions. They lie side by side,
 * so one call takes both. */
lt_status lt_rotate(const lt_pass *pass, lt_tensor qkv, bool inverse, lt_err *err)
{
    const lt_model_config *c = &pass->model->config;
    if (c->rope_type == LT_ROPE_NONE || c->rotary_dim == 0) return LT_OK;
    int64_t heads = c->num_attention_heads + c->num_key_value_heads;
    lt_tensor qk = lt_tensor_slice(qkv, 1, 0, heads * c->head_dim);
    lt_rotary_args args = {
        .x = lt_tensor_as_heads(qk, 1, heads, c->head_dim),
        .positions = lt_workspace_rows(pass->workspace, pass->workspace->positions, pass->tokens),
        .cos = pass->model->rope_cos,
        .sin = pass->model->rope_sin,
        .inverse = inverse};
    return lt_rotary(pass->backend, &args, err);
}

static lt_status project(const lt_pass *pass, int64_t layer, lt_linear which, lt_tensor x,
                         lt_tensor weight, lt_tensor bias, lt_tensor y, lt_err *err)
{
    const lt_linear_args args = {
        .layer = layer, .which = which, .x = x, .weight = weight, .bias = bias, .y = y};
    return lt_linear_forward(pass, &args, err);
}

/* Rows [first, first + count) of q, k and v to a place of their own. */
static lt_status project_some(const lt_pass *pass, const lt_block_view *w,
                              const lt_block_activations *a, int64_t layer, int64_t first,
                              int64_t count, lt_tensor y, lt_err *err)
{
    lt_linear_args args = {.layer = layer,
                           .which = LT_LINEAR_QKV,
                           .first_row = first,
                           .x = a->norm1,
                           .weight = lt_tensor_slice(w->qkv_weight, 0, first, count),
                           .y = y};
    if (w->qkv_bias.data) args.bias = lt_tensor_slice(w->qkv_bias, 0, first, count);
    return lt_linear_forward(pass, &args, err);
}

/* Qwen3: q and k are projected aside, since backward needs them as they were before their norm. */
static lt_status project_with_qk_norm(const lt_pass *pass, const lt_block_view *w,
                                      const lt_block_activations *a, int64_t layer, lt_err *err)
{
    const lt_model_config *c = &pass->model->config;
    int64_t heads = c->num_attention_heads, kv_heads = c->num_key_value_heads, d = c->head_dim;
    int64_t qk_width = (heads + kv_heads) * d, v_width = kv_heads * d;
    LT_TRY(project_some(pass, w, a, layer, 0, qk_width, a->qk, err));
    LT_TRY(project_some(pass, w, a, layer, qk_width, v_width,
                        lt_tensor_slice(a->qkv, 1, qk_width, v_width), err));
    lt_norm_args q = {.x = lt_split_heads(a->qk, 0, heads, d),
                      .y = lt_split_heads(a->qkv, 0, heads, d),
                      .weight = w->q_norm_weight,
                      .rstd = a->q_rstd,
                      .eps = c->norm_eps};
    lt_norm_args k = {.x = lt_split_heads(a->qk, heads, kv_heads, d),
                      .y = lt_split_heads(a->qkv, heads, kv_heads, d),
                      .weight = w->k_norm_weight,
                      .rstd = a->k_rstd,
                      .eps = c->norm_eps};
    LT_TRY(lt_rms_norm_forward(pass->backend, &q, err));
    return lt_rms_norm_forward(pass->backend, &k, err);
}

/* The arguments of attention for one group, which sees its own keys only. */
static lt_attention_args attention_of_own(const lt_pass *pass, const lt_block_activations *a,
                                          int64_t layer, const lt_group *group)
{
    const lt_model_config *c = &pass->model->config;
    const lt_workspace *ws = pass->workspace;
    int64_t heads = c->num_attention_heads, kv_heads = c->num_key_value_heads, d = c->head_dim;
    int64_t first = group->first_token, count = group->rows * group->length;
    lt_tensor qkv = lt_tensor_slice(a->qkv, 0, first, count);
    lt_tensor q = lt_tensor_slice(qkv, 1, 0, heads * d);
    lt_tensor k = lt_tensor_slice(qkv, 1, heads * d, kv_heads * d);
    lt_tensor v = lt_tensor_slice(qkv, 1, (heads + kv_heads) * d, kv_heads * d);
    lt_tensor out = lt_tensor_slice(a->attention, 0, first, count);
    lt_attention_args args = {
        .q = lt_tensor_as_heads(q, group->rows, heads, d),
        .k = lt_tensor_as_heads(k, group->rows, kv_heads, d),
        .v = lt_tensor_as_heads(v, group->rows, kv_heads, d),
        .out = lt_tensor_as_heads(out, group->rows, heads, d),
        .scale = c->attention_scale / (c->scale_by_inverse_layer ? (double)(layer + 1) : 1.0),
        .dropout = lt_pass_mask(pass, ws->settings.attn_pdrop, layer, LT_SITE_ATTENTION)};
    if (layer >= c->sliding_window_from_layer) args.window = c->sliding_window;
    if (a->lse.data) {
        lt_tensor lse = lt_tensor_slice(a->lse, 0, first * heads, count * heads);
        args.lse = lt_tensor_3d(lse.data, lse.dtype, group->rows, heads, group->length);
    }
    return args;
}

/* Puts the group's new keys and values behind what the cache has, and attends to all of them. */
static lt_status attend_cached(const lt_pass *pass, lt_attention_args *args, int64_t layer,
                               const lt_group *group, lt_err *err)
{
    const lt_kv_cache *cache = pass->cache;
    args->offset = lt_tensor_slice(pass->workspace->offset, 0, group->first_row, group->rows);
    lt_cache_append_args append = {
        .k = args->k,
        .v = args->v,
        .k_cache = lt_tensor_slice(cache->k[layer], 0, group->first_row, group->rows),
        .v_cache = lt_tensor_slice(cache->v[layer], 0, group->first_row, group->rows),
        .offset = args->offset};
    LT_TRY(lt_cache_append(pass->backend, &append, err));
    args->k = lt_tensor_slice(append.k_cache, 1, 0, group->kv_length);
    args->v = lt_tensor_slice(append.v_cache, 1, 0, group->kv_length);
    return lt_attention_forward(pass->backend, args, err);
}

lt_tensor lt_for_all_rows(lt_tensor t, int64_t rows)
{
    return (lt_tensor){.data = t.data,
                       .dtype = t.dtype,
                       .ndim = 4,
                       .shape = {rows, t.shape[0], t.shape[1], t.shape[2]},
                       .stride = {0, t.stride[0], t.stride[1], 1}};
}

/* The batch's keys and values, with those of the virtual tokens in front of every row. */
static lt_status put_in_front(const lt_pass *pass, const lt_group *group, lt_tensor prefix_k,
                              lt_tensor prefix_v, lt_attention_args *args, lt_err *err)
{
    const lt_adapter_room *room = &pass->workspace->room;
    const lt_model_config *c = &pass->model->config;
    int64_t rows = group->rows, length = prefix_k.shape[0] + group->length;
    lt_tensor keys = lt_tensor_slice(room->keys, 0, 0, rows * length);
    lt_tensor values = lt_tensor_slice(room->values, 0, 0, rows * length);
    keys = lt_tensor_as_heads(keys, rows, c->num_key_value_heads, c->head_dim);
    values = lt_tensor_as_heads(values, rows, c->num_key_value_heads, c->head_dim);
    lt_cache_append_args front = {.k = lt_for_all_rows(prefix_k, rows),
                                  .v = lt_for_all_rows(prefix_v, rows),
                                  .k_cache = keys,
                                  .v_cache = values,
                                  .offset = lt_tensor_slice(room->zeros, 0, 0, rows)};
    lt_cache_append_args own = {.k = args->k,
                                .v = args->v,
                                .k_cache = keys,
                                .v_cache = values,
                                .offset = lt_tensor_slice(room->offsets, 0, 0, rows)};
    LT_TRY(lt_cache_append(pass->backend, &front, err));
    LT_TRY(lt_cache_append(pass->backend, &own, err));
    args->k = keys;
    args->v = values;
    args->offset = own.offset;
    args->prefix = prefix_k.shape[0];
    return LT_OK;
}

bool lt_prefix_of(const lt_pass *pass, const lt_block_activations *a, int64_t layer,
                  const lt_group *group, lt_tensor *keys, lt_tensor *values)
{
    const lt_model_config *c = &pass->model->config;
    const lt_adapter *adapter = pass->adapter;
    int64_t count = lt_adapter_virtual_tokens(adapter), d = c->head_dim;
    int64_t heads = c->num_attention_heads, kv_heads = c->num_key_value_heads;
    if (count == 0 || group != &pass->groups[pass->group_count - 1]) return false;
    if (pass->virtual_tokens > 0) {
        lt_tensor qkv = lt_tensor_slice(a->qkv, 0, 0, count);
        *keys = lt_split_heads(qkv, heads, kv_heads, d);
        *values = lt_split_heads(qkv, heads + kv_heads, kv_heads, d);
    } else {
        lt_tensor table = lt_prompt_table(pass, adapter);
        *keys = lt_split_heads(table, 2 * layer * kv_heads, kv_heads, d);
        *values = lt_split_heads(table, (2 * layer + 1) * kv_heads, kv_heads, d);
    }
    return true;
}

lt_status lt_attention_of(const lt_pass *pass, const lt_block_activations *a, int64_t layer,
                          const lt_group *group, lt_attention_args *out, lt_err *err)
{
    lt_tensor prefix_k, prefix_v;
    *out = attention_of_own(pass, a, layer, group);
    if (group == &pass->groups[pass->group_count - 1])
        out->first_key =
            lt_tensor_2d(pass->workspace->first_key.data, LT_I32, group->rows, group->length);
    if (!lt_prefix_of(pass, a, layer, group, &prefix_k, &prefix_v)) return LT_OK;
    return put_in_front(pass, group, prefix_k, prefix_v, out, err);
}

static lt_tensor slice_rows(lt_tensor t, int64_t row, int64_t rows, int64_t from, int64_t to)
{
    return lt_tensor_slice(lt_tensor_slice(t, 0, row, rows), 1, from, to - from);
}

/* Columns [from, to) of some rows of a batch, behind all keys before `from`. */
static lt_status attend_columns(const lt_pass *pass, const lt_attention_args *batch, int64_t row,
                                int64_t rows, int64_t from, int64_t to, lt_err *err)
{
    int64_t length = batch->q.shape[1], in_front = batch->k.shape[1] - length;
    lt_tensor offset = from > 0 ? pass->workspace->offset : batch->offset;
    lt_tensor first_key = lt_tensor_1d(batch->first_key.data, LT_I32, pass->tokens);
    lt_attention_args args = *batch;
    if (from == to) return LT_OK;
    first_key = lt_tensor_slice(first_key, 0, row * length + rows * from, rows * (to - from));
    args.first_key = lt_tensor_2d(first_key.data, LT_I32, rows, to - from);
    args.q = slice_rows(batch->q, row, rows, from, to);
    args.out = slice_rows(batch->out, row, rows, from, to);
    args.k = slice_rows(batch->k, row, rows, 0, in_front + to);
    args.v = slice_rows(batch->v, row, rows, 0, in_front + to);
    args.lse = (lt_tensor){0}; /* for backward, which does not follow */
    args.offset = offset.data ? lt_tensor_slice(offset, 0, row, rows) : offset;
    args.prefix = in_front + from;
    return lt_attention_forward(pass->backend, &args, err);
}

/* Documents that share their row's beginning: first the beginning, then what stands behind it. Rows
 * that share as much go together. */
static lt_status attend_shared(const lt_pass *pass, const lt_attention_args *batch, lt_err *err)
{
    int64_t all = batch->q.shape[0], length = batch->q.shape[1];
    for (int64_t row = 0, rows; row < all; row += rows) {
        int64_t shared = pass->shared[row];
        rows = lt_rows_alike(pass->shared, row, all);
        LT_TRY(attend_columns(pass, batch, row, rows, 0, shared, err));
        LT_TRY(attend_columns(pass, batch, row, rows, shared, length, err));
    }
    return LT_OK;
}

static lt_status attend(const lt_pass *pass, const lt_block_activations *a, int64_t layer,
                        const lt_group *group, lt_err *err)
{
    lt_attention_args args;
    if (pass->cache) {
        args = attention_of_own(pass, a, layer, group);
        return attend_cached(pass, &args, layer, group, err);
    }
    LT_TRY(lt_attention_of(pass, a, layer, group, &args, err));
    bool shares = pass->shared && args.first_key.data; /* not so the virtual tokens */
    return shares ? attend_shared(pass, &args, err)
                  : lt_attention_forward(pass->backend, &args, err);
}

static lt_status attention(const lt_pass *pass, const lt_block_view *w,
                           const lt_block_activations *a, int64_t layer, lt_err *err)
{
    if (pass->model->config.qk_norm)
        LT_TRY(project_with_qk_norm(pass, w, a, layer, err));
    else
        LT_TRY(
            project(pass, layer, LT_LINEAR_QKV, a->norm1, w->qkv_weight, w->qkv_bias, a->qkv, err));
    LT_TRY(lt_rotate(pass, a->qkv, false, err));
    for (int64_t g = 0; g < pass->group_count; g++)
        LT_TRY(attend(pass, a, layer, &pass->groups[g], err));
    return LT_OK;
}

/* y = residual + dropout(x weight^T + bias) */
static lt_status add_branch(const lt_pass *pass, const lt_linear_args *args, int site, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    lt_dropout_mask mask = lt_pass_mask(pass, ws->settings.resid_pdrop, args->layer, site);
    if (mask.rate == 0) return lt_linear_forward(pass, args, err);
    lt_linear_args product = *args;
    lt_tensor branch = lt_workspace_rows(ws, ws->branch, pass->tokens);
    product.y = branch;
    product.residual = (lt_tensor){0};
    LT_TRY(lt_linear_forward(pass, &product, err));
    LT_TRY(lt_dropout(pass->backend, &(lt_dropout_args){.x = branch, .y = branch, .dropout = mask},
                      err));
    return lt_add(pass->backend, &(lt_add_args){.a = args->residual, .b = branch, .y = args->y},
                  err);
}

static lt_activation activation_of(const lt_pass *pass)
{
    const lt_model_config *c = &pass->model->config;
    return c->gated_mlp ? LT_ACTIVATION_SWIGLU : c->activation;
}

/* All but the last product, which backward has no use for. */
static lt_status forward_to_activated(const lt_pass *pass, const lt_block_view *w,
                                      const lt_block_activations *a, int64_t layer, lt_err *err)
{
    bool parallel = pass->model->config.parallel_residual;
    if (parallel) LT_TRY(norm2(pass, w, a, err));
    LT_TRY(norm1(pass, w, a, err));
    LT_TRY(attention(pass, w, a, layer, err));
    const lt_linear_args out = {.layer = layer,
                                .which = LT_LINEAR_OUT,
                                .x = a->attention,
                                .weight = w->out_weight,
                                .bias = w->out_bias,
                                .residual = a->input,
                                .y = a->middle};
    LT_TRY(add_branch(pass, &out, LT_SITE_ATTENTION_OUT, err));
    if (!parallel) LT_TRY(norm2(pass, w, a, err));
    const lt_linear_args up = {.layer = layer,
                               .which = LT_LINEAR_UP,
                               .x = a->norm2,
                               .weight = w->up_weight,
                               .bias = w->up_bias,
                               .y = a->up,
                               .activation = activation_of(pass),
                               .activated = a->activated};
    return lt_linear_forward(pass, &up, err);
}

lt_status lt_block_forward(const lt_pass *pass, int64_t layer, lt_err *err)
{
    lt_block_view w = lt_block_weights(pass->model, layer);
    lt_block_activations a = lt_workspace_block(pass->workspace, layer, pass->tokens);
    LT_TRY(forward_to_activated(pass, &w, &a, layer, err));
    const lt_linear_args down = {.layer = layer,
                                 .which = LT_LINEAR_DOWN,
                                 .x = a.activated,
                                 .weight = w.down_weight,
                                 .bias = w.down_bias,
                                 .residual = a.middle,
                                 .y = a.output};
    return add_branch(pass, &down, LT_SITE_MLP_OUT, err);
}

lt_status lt_block_recompute(const lt_pass *pass, int64_t layer, lt_err *err)
{
    lt_block_view w = lt_block_weights(pass->model, layer);
    lt_block_activations a = lt_workspace_block(pass->workspace, layer, pass->tokens);
    switch (pass->workspace->settings.recompute) {
    case LT_RECOMPUTE_NONE:
        return LT_OK;
    case LT_RECOMPUTE_SELECTIVE:
        LT_TRY(norm1(pass, &w, &a, err));
        LT_TRY(norm2(pass, &w, &a, err));
        return lt_activate(pass, activation_of(pass), a.up, a.activated, err);
    case LT_RECOMPUTE_BLOCK:
        return forward_to_activated(pass, &w, &a, layer, err);
    }
    return LT_OK;
}
