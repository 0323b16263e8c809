/* One decoder block, backward. d_stream holds the gradient of the residual stream: of the block's
 * output on entry, of its input on return. Both residual additions pass it on unchanged, so each
 * branch only adds its part through its norm. Absent gradients belong to frozen rows: the work for
 * them is left out. */
#include "model/adapters/internal.h"

lt_status lt_norm_pass_backward(const lt_pass *pass, const lt_norm_backward_args *args, lt_err *err)
{
    return pass->model->config.norm == LT_NORM_LAYER
               ? lt_layer_norm_backward(pass->backend, args, err)
               : lt_rms_norm_backward(pass->backend, args, err);
}

typedef struct block_backward {
    const lt_pass *pass;
    int64_t layer;
    bool input_wanted; /* something below is trained */
    lt_block_view weight, gradient;
    lt_block_activations a;
    lt_tensor d_stream, d_norm, d_activated, d_attention, d_qkv;
} block_backward;

/* The gradient of a branch: d_stream, through the branch's dropout. */
static lt_status branch_gradient(const block_backward *b, int site, lt_tensor *out, lt_err *err)
{
    const lt_pass *pass = b->pass;
    const lt_workspace *ws = pass->workspace;
    lt_dropout_mask mask = lt_pass_mask(pass, ws->settings.resid_pdrop, b->layer, site);
    *out = b->d_stream;
    if (mask.rate == 0) return LT_OK;
    *out = lt_workspace_rows(ws, ws->d_branch, pass->tokens);
    return lt_dropout(pass->backend,
                      &(lt_dropout_args){.x = b->d_stream, .y = *out, .dropout = mask}, err);
}

/* d_stream to d_norm, the gradient of norm2's result. */
static lt_status mlp_backward(const block_backward *b, lt_err *err)
{
    const lt_backend *backend = b->pass->backend;
    const lt_model_config *c = &b->pass->model->config;
    lt_tensor dy, d_up = c->gated_mlp ? b->a.up : b->d_activated;
    LT_TRY(branch_gradient(b, LT_SITE_MLP_OUT, &dy, err));
    lt_linear_backward_args down = {.layer = b->layer,
                                    .which = LT_LINEAR_DOWN,
                                    .dy = dy,
                                    .x = b->a.activated,
                                    .weight = b->weight.down_weight,
                                    .dweight = b->gradient.down_weight,
                                    .dbias = b->gradient.down_bias,
                                    .dx = b->d_activated};
    LT_TRY(lt_linear_backward(b->pass, &down, err));
    if (c->gated_mlp) {
        /* over gate and up themselves, which nobody reads any more */
        lt_swiglu_backward_args swiglu = {
            .gate_up = b->a.up, .dy = b->d_activated, .dgate_up = d_up};
        LT_TRY(lt_swiglu_backward(backend, &swiglu, err));
    } else {
        lt_activation_backward_args activation = {
            .activation = c->activation, .x = b->a.up, .dy = b->d_activated, .dx = d_up};
        LT_TRY(lt_activation_backward(backend, &activation, err));
    }
    lt_linear_backward_args up = {.layer = b->layer,
                                  .which = LT_LINEAR_UP,
                                  .dy = d_up,
                                  .x = b->a.norm2,
                                  .weight = b->weight.up_weight,
                                  .dweight = b->gradient.up_weight,
                                  .dbias = b->gradient.up_bias,
                                  .dx = b->d_norm};
    return lt_linear_backward(b->pass, &up, err);
}

static lt_status norm2_backward(const block_backward *b, lt_err *err)
{
    lt_norm_backward_args args = {.x = b->pass->model->config.parallel_residual ? b->a.input
                                                                                : b->a.middle,
                                  .weight = b->weight.mlp_norm_weight,
                                  .mean = b->a.mean2,
                                  .rstd = b->a.rstd2,
                                  .dy = b->d_norm,
                                  .dx = b->d_stream,
                                  .dweight = b->gradient.mlp_norm_weight,
                                  .dbias = b->gradient.mlp_norm_bias,
                                  .accumulate = true};
    return lt_norm_pass_backward(b->pass, &args, err);
}

static lt_status norm1_backward(const block_backward *b, lt_err *err)
{
    lt_norm_backward_args args = {.x = b->a.input,
                                  .weight = b->weight.attention_norm_weight,
                                  .mean = b->a.mean1,
                                  .rstd = b->a.rstd1,
                                  .dy = b->d_norm,
                                  .dx = b->d_stream,
                                  .dweight = b->gradient.attention_norm_weight,
                                  .dbias = b->gradient.attention_norm_bias,
                                  .accumulate = true};
    return lt_norm_pass_backward(b->pass, &args, err);
}

/* Through the norms of q's and k's heads, in place in d_qkv. */
static lt_status qk_norm_backward(const block_backward *b, lt_err *err)
{
    const lt_model_config *c = &b->pass->model->config;
    int64_t heads = c->num_attention_heads, kv_heads = c->num_key_value_heads, d = c->head_dim;
    lt_tensor dq = lt_split_heads(b->d_qkv, 0, heads, d);
    lt_tensor dk = lt_split_heads(b->d_qkv, heads, kv_heads, d);
    lt_norm_backward_args q = {.x = lt_split_heads(b->a.qk, 0, heads, d),
                               .weight = b->weight.q_norm_weight,
                               .rstd = b->a.q_rstd,
                               .dy = dq,
                               .dx = dq,
                               .dweight = b->gradient.q_norm_weight};
    lt_norm_backward_args k = {.x = lt_split_heads(b->a.qk, heads, kv_heads, d),
                               .weight = b->weight.k_norm_weight,
                               .rstd = b->a.k_rstd,
                               .dy = dk,
                               .dx = dk,
                               .dweight = b->gradient.k_norm_weight};
    LT_TRY(lt_rms_norm_backward(b->pass->backend, &q, err));
    return lt_rms_norm_backward(b->pass->backend, &k, err);
}

/* The gradient of the virtual tokens' keys (or values) of all rows together, to where they come
 * from. */
static lt_status add_prefix_gradient(const block_backward *b, const lt_group *group,
                                     lt_tensor d_rows, int which, lt_err *err)
{
    const lt_pass *pass = b->pass;
    const lt_model_config *c = &pass->model->config;
    int64_t kv_width = c->num_key_value_heads * c->head_dim;
    int64_t count = lt_adapter_virtual_tokens(pass->adapter);
    lt_tensor each = {.data = d_rows.data, /* the first tokens of a row as one long row */
                      .dtype = d_rows.dtype,
                      .ndim = 2,
                      .shape = {group->rows, count * kv_width},
                      .stride = {(count + group->length) * kv_width, 1}};
    lt_tensor sum = lt_tensor_1d(pass->workspace->room.d_prefix.data, each.dtype, each.shape[1]);
    lt_tensor to;
    if (pass->virtual_tokens > 0) {
        int64_t first = (c->num_attention_heads + which * c->num_key_value_heads) * c->head_dim;
        to = lt_tensor_slice(lt_tensor_slice(b->d_qkv, 0, 0, count), 1, first, kv_width);
    } else {
        to = lt_prompt_table_gradient(pass, pass->adapter);
        if (!to.data) return LT_OK;
        to = lt_tensor_slice(to, 1, (2 * b->layer + which) * kv_width, kv_width);
    }
    LT_TRY(lt_zero(pass->backend, &(lt_zero_args){.y = sum}, err));
    LT_TRY(
        lt_bias_backward(pass->backend, &(lt_bias_backward_args){.dbias = sum, .dy = each}, err));
    lt_embedding_backward_args add = {.dy = lt_tensor_2d(sum.data, sum.dtype, count, kv_width),
                                      .ids =
                                          lt_tensor_slice(pass->workspace->room.order, 0, 0, count),
                                      .dtoken_table = to};
    return lt_embedding_backward(pass->backend, &add, err);
}

/* d_keys and d_values have the virtual tokens in front of every row: takes them apart. */
static lt_status split_key_gradients(const block_backward *b, const lt_group *group, lt_err *err)
{
    const lt_pass *pass = b->pass;
    const lt_model_config *c = &pass->model->config;
    const lt_adapter_room *room = &pass->workspace->room;
    int64_t kv_width = c->num_key_value_heads * c->head_dim, count = group->rows * group->length;
    for (int which = 0; which < 2; which++) {
        int64_t first = (c->num_attention_heads + which * c->num_key_value_heads) * c->head_dim;
        lt_tensor to = lt_tensor_slice(b->d_qkv, 0, group->first_token, count);
        lt_rows_args own = {.x = which ? room->d_values : room->d_keys,
                            .y = lt_tensor_slice(to, 1, first, kv_width),
                            .index = lt_tensor_slice(room->own, 0, 0, count)};
        LT_TRY(lt_gather_rows(pass->backend, &own, err));
        LT_TRY(add_prefix_gradient(b, group, own.x, which, err));
    }
    return LT_OK;
}

/* One group's part of d_attention to its part of d_qkv. The virtual tokens' own group comes first,
 * so that what the batch has for their keys can be added. */
static lt_status group_backward(const block_backward *b, const lt_group *group, lt_err *err)
{
    const lt_pass *pass = b->pass;
    const lt_model_config *c = &pass->model->config;
    const lt_adapter_room *room = &pass->workspace->room;
    int64_t heads = c->num_attention_heads, kv_heads = c->num_key_value_heads, d = c->head_dim;
    int64_t rows = group->rows, count = rows * group->length;
    lt_tensor d_qkv = lt_tensor_slice(b->d_qkv, 0, group->first_token, count);
    lt_tensor dout = lt_tensor_slice(b->d_attention, 0, group->first_token, count);
    lt_tensor dq = lt_tensor_slice(d_qkv, 1, 0, heads * d);
    lt_tensor dk = lt_tensor_slice(d_qkv, 1, heads * d, kv_heads * d);
    lt_tensor dv = lt_tensor_slice(d_qkv, 1, (heads + kv_heads) * d, kv_heads * d);
    lt_attention_backward_args args = {.dout = lt_tensor_as_heads(dout, rows, heads, d),
                                       .dq = lt_tensor_as_heads(dq, rows, heads, d)};
    LT_TRY(lt_attention_of(pass, &b->a, b->layer, group, &args.forward, err));
    if (args.forward.prefix > 0) {
        int64_t keys = rows * (args.forward.prefix + group->length);
        dk = lt_tensor_slice(room->d_keys, 0, 0, keys);
        dv = lt_tensor_slice(room->d_values, 0, 0, keys);
    }
    args.dk = lt_tensor_as_heads(dk, rows, kv_heads, d);
    args.dv = lt_tensor_as_heads(dv, rows, kv_heads, d);
    LT_TRY(lt_attention_backward(pass->backend, &args, err));
    return args.forward.prefix > 0 ? split_key_gradients(b, group, err) : LT_OK;
}

/* d_attention to d_qkv, the gradient of what the projection gave. */
static lt_status attention_backward(const block_backward *b, lt_err *err)
{
    const lt_pass *pass = b->pass;
    for (int64_t g = 0; g < pass->group_count; g++)
        LT_TRY(group_backward(b, &pass->groups[g], err));
    LT_TRY(lt_rotate(pass, b->d_qkv, true, err));
    return pass->model->config.qk_norm ? qk_norm_backward(b, err) : LT_OK;
}

static lt_status attention_out_backward(const block_backward *b, lt_err *err)
{
    lt_tensor dy;
    LT_TRY(branch_gradient(b, LT_SITE_ATTENTION_OUT, &dy, err));
    lt_linear_backward_args out = {.layer = b->layer,
                                   .which = LT_LINEAR_OUT,
                                   .dy = dy,
                                   .x = b->a.attention,
                                   .weight = b->weight.out_weight,
                                   .dweight = b->gradient.out_weight,
                                   .dbias = b->gradient.out_bias,
                                   .dx = b->d_attention};
    return lt_linear_backward(b->pass, &out, err);
}

static lt_status qkv_backward(const block_backward *b, lt_err *err)
{
    lt_linear_backward_args qkv = {.layer = b->layer,
                                   .which = LT_LINEAR_QKV,
                                   .dy = b->d_qkv,
                                   .x = b->a.norm1,
                                   .weight = b->weight.qkv_weight,
                                   .dweight = b->gradient.qkv_weight,
                                   .dbias = b->gradient.qkv_bias};
    if (b->input_wanted) qkv.dx = b->d_norm;
    return lt_linear_backward(b->pass, &qkv, err);
}

/* Is anything trained that the gradient of this block's input is needed for? */
static bool input_wanted(const lt_pass *pass, int64_t layer, const lt_block_view *gradient)
{
    const lt_model *model = pass->model;
    if (layer > pass->workspace->first_kept_layer) return true;
    if (gradient->attention_norm_weight.data || gradient->attention_norm_bias.data) return true;
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].trainable && model->params[i].layer < 0) return true;
    return false;
}

lt_status lt_block_backward(const lt_pass *pass, int64_t layer, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    block_backward b = {.pass = pass,
                        .layer = layer,
                        .weight = lt_block_weights(pass->model, layer),
                        .gradient = lt_block_gradients(pass->model, layer),
                        .a = lt_workspace_block(ws, layer, pass->tokens),
                        .d_stream = lt_workspace_rows(ws, ws->d_stream, pass->tokens),
                        .d_norm = lt_workspace_rows(ws, ws->d_norm, pass->tokens),
                        .d_activated = lt_workspace_rows(ws, ws->d_activated, pass->tokens),
                        .d_attention = lt_workspace_rows(ws, ws->d_attention, pass->tokens),
                        .d_qkv = lt_workspace_rows(ws, ws->d_qkv, pass->tokens)};
    bool parallel = pass->model->config.parallel_residual;
    b.input_wanted = input_wanted(pass, layer, &b.gradient);
    LT_TRY(lt_block_recompute(pass, layer, err));
    LT_TRY(mlp_backward(&b, err));
    /* Sequential: the attention branch sees the gradient of `middle`, which has norm2's part.
     * Parallel: it sees that of `output`, so norm2's part waits until it has been read. */
    if (!parallel) LT_TRY(norm2_backward(&b, err));
    LT_TRY(attention_out_backward(&b, err));
    if (parallel) LT_TRY(norm2_backward(&b, err));
    LT_TRY(attention_backward(&b, err));
    LT_TRY(qkv_backward(&b, err));
    return b.input_wanted ? norm1_backward(&b, err) : LT_OK;
}
