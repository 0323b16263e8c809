/* One decoder block, forward: the same code for every family and for training, evaluation, prefill
 * and decoding.
 *
 *   sequential:  middle = input + attention(norm1(input));  output = middle + mlp(norm2(middle))
 *   parallel:    middle = input + attention(norm1(input));  output = middle + mlp(norm2(input))
 *
 * So GPT-NeoX's parallel residual differs only in what norm2 reads. Blocks that keep nothing for
 * backward have input, middle and output in the same memory, hence norm2 comes first there. */
#include "model/workspace.h"

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

static lt_status project(const lt_pass *pass, lt_tensor x, lt_tensor weight, lt_tensor bias,
                         lt_tensor y, lt_err *err)
{
    return lt_matmul(
        pass->backend,
        &(lt_matmul_args){.layout = LT_MATMUL_NT, .c = y, .a = x, .b = weight, .bias = bias}, err);
}

static lt_tensor slice_rows(lt_tensor t, int64_t start, int64_t count)
{
    return t.data ? lt_tensor_slice(t, 0, start, count) : t;
}

/* Qwen3: q and k are projected aside, since backward needs them as they were before their norm. */
static lt_status project_with_qk_norm(const lt_pass *pass, const lt_block_view *w,
                                      const lt_block_activations *a, lt_err *err)
{
    const lt_model_config *c = &pass->model->config;
    int64_t heads = c->num_attention_heads, kv_heads = c->num_key_value_heads, d = c->head_dim;
    int64_t qk_width = (heads + kv_heads) * d, v_width = kv_heads * d;
    LT_TRY(project(pass, a->norm1, slice_rows(w->qkv_weight, 0, qk_width),
                   slice_rows(w->qkv_bias, 0, qk_width), a->qk, err));
    LT_TRY(project(pass, a->norm1, slice_rows(w->qkv_weight, qk_width, v_width),
                   slice_rows(w->qkv_bias, qk_width, v_width),
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

/* The arguments of attention for one group. Without a cache a group's keys are its own. */
lt_attention_args lt_attention_of(const lt_pass *pass, const lt_block_activations *a, int64_t layer,
                                  const lt_group *group)
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
    if (pass->cache) {
        args.offset = lt_tensor_slice(ws->offset, 0, group->first_row, group->rows);
    } else {
        args.first_key = lt_tensor_2d(ws->first_key.data, LT_I32, group->rows, group->length);
        if (a->lse.data)
            args.lse = lt_tensor_3d(a->lse.data, a->lse.dtype, group->rows, heads, group->length);
    }
    return args;
}

/* Puts the group's new keys and values behind what the cache has, and attends to all of them. */
static lt_status attend_cached(const lt_pass *pass, lt_attention_args *args, int64_t layer,
                               const lt_group *group, lt_err *err)
{
    const lt_kv_cache *cache = pass->cache;
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

static lt_status attention(const lt_pass *pass, const lt_block_view *w,
                           const lt_block_activations *a, int64_t layer, lt_err *err)
{
    if (pass->model->config.qk_norm)
        LT_TRY(project_with_qk_norm(pass, w, a, err));
    else
        LT_TRY(project(pass, a->norm1, w->qkv_weight, w->qkv_bias, a->qkv, err));
    LT_TRY(lt_rotate(pass, a->qkv, false, err));
    for (int64_t g = 0; g < pass->group_count; g++) {
        lt_attention_args args = lt_attention_of(pass, a, layer, &pass->groups[g]);
        if (pass->cache)
            LT_TRY(attend_cached(pass, &args, layer, &pass->groups[g], err));
        else
            LT_TRY(lt_attention_forward(pass->backend, &args, err));
    }
    return LT_OK;
}

/* y = residual + dropout(x weight^T + bias) */
static lt_status add_branch(const lt_pass *pass, lt_tensor x, lt_tensor weight, lt_tensor bias,
                            lt_tensor residual, lt_tensor y, int64_t layer, int site, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    lt_matmul_args product = {
        .layout = LT_MATMUL_NT, .c = y, .a = x, .b = weight, .bias = bias, .residual = residual};
    lt_dropout_mask mask = lt_pass_mask(pass, ws->settings.resid_pdrop, layer, site);
    if (mask.rate == 0) return lt_matmul(pass->backend, &product, err);
    lt_tensor branch = lt_workspace_rows(ws, ws->branch, pass->tokens);
    product.c = branch;
    product.residual = (lt_tensor){0};
    LT_TRY(lt_matmul(pass->backend, &product, err));
    LT_TRY(lt_dropout(pass->backend, &(lt_dropout_args){.x = branch, .y = branch, .dropout = mask},
                      err));
    return lt_add(pass->backend, &(lt_add_args){.a = residual, .b = branch, .y = y}, err);
}

/* Activation is a step of its own though the product could do it on the way: backward may have to
 * do it again from `up` alone, and must get the very same bits. */
static lt_status activate(const lt_pass *pass, const lt_block_activations *a, lt_err *err)
{
    const lt_model_config *c = &pass->model->config;
    if (c->gated_mlp)
        return lt_swiglu_forward(pass->backend,
                                 &(lt_swiglu_args){.gate_up = a->up, .y = a->activated}, err);
    return lt_activation_forward(
        pass->backend,
        &(lt_activation_args){.activation = c->activation, .x = a->up, .y = a->activated}, err);
}

/* All but the last product, which backward has no use for. */
static lt_status forward_to_activated(const lt_pass *pass, const lt_block_view *w,
                                      const lt_block_activations *a, int64_t layer, lt_err *err)
{
    bool parallel = pass->model->config.parallel_residual;
    if (parallel) LT_TRY(norm2(pass, w, a, err));
    LT_TRY(norm1(pass, w, a, err));
    LT_TRY(attention(pass, w, a, layer, err));
    LT_TRY(add_branch(pass, a->attention, w->out_weight, w->out_bias, a->input, a->middle, layer,
                      LT_SITE_ATTENTION_OUT, err));
    if (!parallel) LT_TRY(norm2(pass, w, a, err));
    LT_TRY(project(pass, a->norm2, w->up_weight, w->up_bias, a->up, err));
    return activate(pass, a, err);
}

lt_status lt_block_forward(const lt_pass *pass, int64_t layer, lt_err *err)
{
    lt_block_view w = lt_block_weights(pass->model, layer);
    lt_block_activations a = lt_workspace_block(pass->workspace, layer, pass->tokens);
    LT_TRY(forward_to_activated(pass, &w, &a, layer, err));
    return add_branch(pass, a.activated, w.down_weight, w.down_bias, a.middle, a.output, layer,
                      LT_SITE_MLP_OUT, err);
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
        return activate(pass, &a, err);
    case LT_RECOMPUTE_BLOCK:
        return forward_to_activated(pass, &w, &a, layer, err);
    }
    return LT_OK;
}
