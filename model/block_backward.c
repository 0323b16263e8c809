/* One decoder block, backward. d_stream holds the gradient of the residual stream: of the block's
 * output on entry, of its input on return. Both residual additions pass it on unchanged, so each
 * branch only adds its part through its norm. Absent gradients belong to frozen rows: the work for
 * them is left out. */
#include "model/workspace.h"

/* Gradients of y = x weight^T + bias. dx absent: not wanted. */
typedef struct linear_backward_args {
    lt_tensor dy, x, weight, dweight, dbias, dx;
} linear_backward_args;

static lt_status linear_backward(const lt_pass *pass, const linear_backward_args *l, lt_err *err)
{
    const lt_backend *backend = pass->backend;
    lt_matmul_args dw = {.layout = LT_MATMUL_TN,
                         .c = l->dweight,
                         .a = l->dy,
                         .b = l->x,
                         .accumulate = pass->accumulate};
    lt_matmul_args dx = {.layout = LT_MATMUL_NN, .c = l->dx, .a = l->dy, .b = l->weight};
    lt_bias_backward_args db = {.dbias = l->dbias, .dy = l->dy};
    if (l->dx.data) LT_TRY(lt_matmul(backend, &dx, err));
    if (l->dweight.data) LT_TRY(lt_matmul(backend, &dw, err));
    if (l->dbias.data) LT_TRY(lt_bias_backward(backend, &db, err));
    return LT_OK;
}

lt_status lt_norm_pass_backward(const lt_pass *pass, const lt_norm_backward_args *args, lt_err *err)
{
    return pass->model->config.norm == LT_NORM_LAYER
               ? lt_layer_norm_backward(pass->backend, args, err)
               : lt_rms_norm_backward(pass->backend, args, err);
}

typedef struct block_backward {
    const lt_pass *pass;
    int64_t layer;
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
    linear_backward_args down = {.dy = dy,
                                 .x = b->a.activated,
                                 .weight = b->weight.down_weight,
                                 .dweight = b->gradient.down_weight,
                                 .dbias = b->gradient.down_bias,
                                 .dx = b->d_activated};
    LT_TRY(linear_backward(b->pass, &down, err));
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
    linear_backward_args up = {.dy = d_up,
                               .x = b->a.norm2,
                               .weight = b->weight.up_weight,
                               .dweight = b->gradient.up_weight,
                               .dbias = b->gradient.up_bias,
                               .dx = b->d_norm};
    return linear_backward(b->pass, &up, err);
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

/* d_attention to d_qkv, the gradient of what the projection gave. */
static lt_status attention_backward(const block_backward *b, lt_err *err)
{
    const lt_pass *pass = b->pass;
    const lt_model_config *c = &pass->model->config;
    int64_t heads = c->num_attention_heads, kv_heads = c->num_key_value_heads, d = c->head_dim;
    const lt_group *group = &pass->groups[0];
    lt_tensor dq = lt_tensor_slice(b->d_qkv, 1, 0, heads * d);
    lt_tensor dk = lt_tensor_slice(b->d_qkv, 1, heads * d, kv_heads * d);
    lt_tensor dv = lt_tensor_slice(b->d_qkv, 1, (heads + kv_heads) * d, kv_heads * d);
    lt_attention_backward_args args = {
        .forward = lt_attention_of(pass, &b->a, b->layer, group),
        .dout = lt_tensor_as_heads(b->d_attention, group->rows, heads, d),
        .dq = lt_tensor_as_heads(dq, group->rows, heads, d),
        .dk = lt_tensor_as_heads(dk, group->rows, kv_heads, d),
        .dv = lt_tensor_as_heads(dv, group->rows, kv_heads, d)};
    LT_TRY(lt_attention_backward(pass->backend, &args, err));
    LT_TRY(lt_rotate(pass, b->d_qkv, true, err));
    return c->qk_norm ? qk_norm_backward(b, err) : LT_OK;
}

static lt_status attention_out_backward(const block_backward *b, lt_err *err)
{
    lt_tensor dy;
    LT_TRY(branch_gradient(b, LT_SITE_ATTENTION_OUT, &dy, err));
    linear_backward_args out = {.dy = dy,
                                .x = b->a.attention,
                                .weight = b->weight.out_weight,
                                .dweight = b->gradient.out_weight,
                                .dbias = b->gradient.out_bias,
                                .dx = b->d_attention};
    return linear_backward(b->pass, &out, err);
}

static lt_status qkv_backward(const block_backward *b, lt_err *err)
{
    linear_backward_args qkv = {.dy = b->d_qkv,
                                .x = b->a.norm1,
                                .weight = b->weight.qkv_weight,
                                .dweight = b->gradient.qkv_weight,
                                .dbias = b->gradient.qkv_bias,
                                .dx = b->d_norm};
    return linear_backward(b->pass, &qkv, err);
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
    LT_TRY(lt_block_recompute(pass, layer, err));
    LT_TRY(mlp_backward(&b, err));
    /* Sequential: the attention branch sees the gradient of `middle`, which has norm2's part.
     * Parallel: it sees that of `output`, so norm2's part waits until it has been read. */
    if (!parallel) LT_TRY(norm2_backward(&b, err));
    LT_TRY(attention_out_backward(&b, err));
    if (parallel) LT_TRY(norm2_backward(&b, err));
    LT_TRY(attention_backward(&b, err));
    LT_TRY(qkv_backward(&b, err));
    return norm1_backward(&b, err);
}
