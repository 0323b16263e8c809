/* The passes over a batch: training, evaluation, logits. */
#include <string.h>

#include "model/workspace.h"

static lt_status embed(const lt_pass *pass, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    const lt_model_config *c = &pass->model->config;
    lt_ends_view w = lt_ends_weights(pass->model);
    lt_tensor y = lt_workspace_block(ws, 0, pass->tokens).input;
    lt_embedding_args args = {
        .y = y, .ids = lt_workspace_rows(ws, ws->ids, pass->tokens), .token_table = w.embed_tokens};
    if (c->learned_positions) {
        args.positions = lt_workspace_rows(ws, ws->positions, pass->tokens);
        args.position_table = w.embed_positions;
    }
    LT_TRY(lt_embedding_forward(pass->backend, &args, err));
    lt_dropout_mask mask =
        lt_pass_mask(pass, ws->settings.embd_pdrop, c->num_hidden_layers, LT_SITE_EMBEDDING);
    if (mask.rate == 0) return LT_OK;
    return lt_dropout(pass->backend, &(lt_dropout_args){.x = y, .y = y, .dropout = mask}, err);
}

lt_status lt_stack_forward(const lt_pass *pass, lt_err *err)
{
    LT_TRY(embed(pass, err));
    for (int64_t i = 0; i < pass->model->config.num_hidden_layers; i++)
        LT_TRY(lt_block_forward(pass, i, err));
    return LT_OK;
}

/* d_stream is the gradient of the embeddings' sum. */
static lt_status embed_backward(const lt_pass *pass, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    const lt_model_config *c = &pass->model->config;
    lt_ends_view g = lt_ends_gradients(pass->model);
    lt_tensor dy = lt_workspace_rows(ws, ws->d_stream, pass->tokens);
    lt_dropout_mask mask =
        lt_pass_mask(pass, ws->settings.embd_pdrop, c->num_hidden_layers, LT_SITE_EMBEDDING);
    if (!g.embed_tokens.data && !g.embed_positions.data) return LT_OK;
    if (mask.rate > 0)
        LT_TRY(
            lt_dropout(pass->backend, &(lt_dropout_args){.x = dy, .y = dy, .dropout = mask}, err));
    lt_embedding_backward_args args = {.dy = dy,
                                       .ids = lt_workspace_rows(ws, ws->ids, pass->tokens),
                                       .positions =
                                           lt_workspace_rows(ws, ws->positions, pass->tokens),
                                       .dtoken_table = g.embed_tokens,
                                       .dposition_table = g.embed_positions};
    return lt_embedding_backward(pass->backend, &args, err);
}

/* Checks the batch and puts it on the device. *group: caller's, it must outlive the pass. */
static lt_status begin(const lt_model *model, lt_workspace *ws, const lt_batch *batch,
                       lt_group *group, lt_pass *pass, lt_err *err)
{
    const lt_backend *backend = model->backend;
    LT_TRY(lt_batch_check(model, ws, batch, err));
    *group = (lt_group){.rows = batch->rows, .length = batch->length};
    *pass = (lt_pass){.model = model,
                      .backend = backend,
                      .workspace = ws,
                      .tokens = batch->rows * batch->length,
                      .groups = group,
                      .group_count = 1};
    size_t bytes = (size_t)pass->tokens * sizeof(int32_t);
    LT_TRY(backend->upload(backend, ws->ids.data, batch->input_ids, bytes, err));
    LT_TRY(backend->upload(backend, ws->positions.data, batch->positions, bytes, err));
    return backend->upload(backend, ws->first_key.data, batch->first_key, bytes, err);
}

/* Lists the positions that are trained on, with their targets. Returns how many. */
static int64_t list_targets(lt_workspace *ws, const lt_batch *batch)
{
    int64_t count = 0;
    for (int64_t i = 0; i < batch->rows * batch->length; i++) {
        if (batch->targets[i] == LT_IGNORE) continue;
        ws->host_index[count] = (int32_t)i;
        ws->host_targets[count++] = batch->targets[i];
    }
    return count;
}

static double loss_at(const lt_workspace *ws, int64_t i)
{
    return ws->backend->real == LT_F64 ? ((const double *)ws->host_loss)[i]
                                       : (double)((const float *)ws->host_loss)[i];
}

static void add_losses(const lt_workspace *ws, int64_t count, lt_loss *loss)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += loss_at(ws, i);
        loss->correct += ws->host_correct[i];
    }
    loss->sum += sum;
    loss->tokens += count;
}

static lt_status backward(const lt_pass *pass, lt_err *err)
{
    int64_t layers = pass->model->config.num_hidden_layers;
    for (int64_t i = layers - 1; i >= pass->workspace->first_kept_layer; i--)
        LT_TRY(lt_block_backward(pass, i, err));
    return pass->workspace->first_kept_layer == 0 ? embed_backward(pass, err) : LT_OK;
}

lt_status lt_model_forward_backward(lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                                    lt_dropout_mask dropout, bool accumulate, lt_loss *loss,
                                    lt_err *err)
{
    lt_group group;
    lt_pass pass;
    if (!workspace->settings.training)
        return lt_fail(err, LT_ERR_USAGE, "the workspace was made without room for training");
    if (!batch->targets) return lt_fail(err, LT_ERR_USAGE, "a training batch needs targets");
    if (model->gradient_count > 0 && !model->gradients.base)
        return lt_fail(err, LT_ERR_USAGE, "the model's gradients have not been allocated");
    LT_TRY(begin(model, workspace, batch, &group, &pass, err));
    int64_t count = list_targets(workspace, batch);
    if (count == 0) return accumulate ? LT_OK : lt_params_zero_gradients(model, err);
    if (!accumulate) LT_TRY(lt_params_zero_summed_gradients(model, err));
    pass.accumulate = accumulate;
    pass.dropout = true;
    pass.key = dropout;
    LT_TRY(lt_stack_forward(&pass, err));
    LT_TRY(lt_head_gather(&pass, count, err));
    LT_TRY(lt_head_loss(&pass, count, true, err));
    LT_TRY(backward(&pass, err));
    add_losses(workspace, count, loss);
    return LT_OK;
}

lt_status lt_model_evaluate(const lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                            lt_loss *loss, double *token_loss, lt_err *err)
{
    lt_group group;
    lt_pass pass;
    if (!batch->targets) return lt_fail(err, LT_ERR_USAGE, "evaluation needs targets");
    LT_TRY(begin(model, workspace, batch, &group, &pass, err));
    int64_t count = list_targets(workspace, batch);
    if (token_loss) memset(token_loss, 0, (size_t)pass.tokens * sizeof *token_loss);
    if (count == 0) return LT_OK;
    LT_TRY(lt_stack_forward(&pass, err));
    LT_TRY(lt_head_gather(&pass, count, err));
    LT_TRY(lt_head_loss(&pass, count, false, err));
    for (int64_t i = 0; token_loss && i < count; i++)
        token_loss[workspace->host_index[i]] = loss_at(workspace, i);
    add_losses(workspace, count, loss);
    return LT_OK;
}

typedef struct logits_sink {
    const lt_backend *backend;
    float *out;
    int64_t vocab;
} logits_sink;

static lt_status store_logits(void *context, int64_t first, int64_t count, lt_tensor logits,
                              lt_err *err)
{
    const logits_sink *sink = context;
    return sink->backend->download(sink->backend, sink->out + first * sink->vocab, logits.data,
                                   (size_t)(count * sink->vocab) * sizeof(float), err);
}

lt_status lt_model_logits(const lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                          float *logits, lt_err *err)
{
    lt_group group;
    lt_pass pass;
    LT_TRY(begin(model, workspace, batch, &group, &pass, err));
    for (int64_t i = 0; i < pass.tokens; i++)
        workspace->host_index[i] = (int32_t)i;
    LT_TRY(lt_stack_forward(&pass, err));
    LT_TRY(lt_head_gather(&pass, pass.tokens, err));
    logits_sink sink = {model->backend, logits, model->config.vocab_size};
    return lt_head_logits(&pass, pass.tokens, store_logits, &sink, err);
}
