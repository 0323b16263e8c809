/* The passes over a batch: training, evaluation, logits. */
#include <string.h>

#include "base/checked.h"
#include "model/adapters/internal.h"
#include "model/sharding.h"

/* The pass's virtual tokens: rows of the adapter's table, and positions from 0 on. */
static lt_status embed_virtual(const lt_pass *pass, lt_tensor stream, lt_err *err)
{
    int64_t count = pass->virtual_tokens;
    lt_ends_view w = lt_ends_weights(pass->model, NULL);
    lt_tensor table = lt_prompt_table(pass, pass->adapter);
    lt_tensor y = lt_tensor_slice(stream, 0, 0, count);
    if (!pass->model->config.learned_positions)
        return lt_convert(pass->backend, &(lt_convert_args){.x = table, .y = y}, err);
    lt_add_args add = {.a = table, .b = lt_tensor_slice(w.embed_positions, 0, 0, count), .y = y};
    return lt_add(pass->backend, &add, err);
}

/* A span's tokens that have ids. */
static lt_status embed_span(const lt_pass *pass, const lt_span *span, lt_tensor stream, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    lt_ends_view w = lt_ends_weights(pass->model, span->adapter);
    int64_t first = lt_max_i64(span->first, pass->virtual_tokens);
    int64_t count = span->first + span->count - first;
    lt_embedding_args args = {.y = lt_tensor_slice(stream, 0, first, count),
                              .ids =
                                  lt_tensor_slice(ws->ids, 0, first - pass->virtual_tokens, count),
                              .token_table = w.embed_tokens};
    if (count == 0) return LT_OK;
    if (pass->model->config.learned_positions) {
        args.positions = lt_tensor_slice(ws->positions, 0, first, count);
        args.position_table = w.embed_positions;
    }
    return lt_embedding_forward(pass->backend, &args, err);
}

static lt_dropout_mask embedding_mask(const lt_pass *pass)
{
    return lt_pass_mask(pass, pass->workspace->settings.embd_pdrop,
                        pass->model->config.num_hidden_layers, LT_SITE_EMBEDDING);
}

static lt_status embed(const lt_pass *pass, lt_err *err)
{
    lt_tensor y = lt_workspace_block(pass->workspace, 0, pass->tokens).input;
    if (pass->virtual_tokens > 0) LT_TRY(embed_virtual(pass, y, err));
    for (int64_t i = 0; i < pass->span_count; i++)
        LT_TRY(embed_span(pass, &pass->spans[i], y, err));
    lt_dropout_mask mask = embedding_mask(pass);
    if (mask.rate == 0) return LT_OK;
    return lt_dropout(pass->backend, &(lt_dropout_args){.x = y, .y = y, .dropout = mask}, err);
}

/* What each adapter of the pass does before the embedding, and before each block. */
static lt_status begin_adapters(const lt_pass *pass, int64_t layer, lt_err *err)
{
    const lt_model *model = pass->model;
    for (int i = 0; i < model->adapter_count; i++) {
        const lt_adapter *adapter = model->adapters[i];
        bool used = adapter == pass->adapter;
        for (int64_t k = 0; k < pass->span_count; k++)
            used = used || pass->spans[k].adapter == adapter;
        if (used && adapter->method->begin)
            LT_TRY(adapter->method->begin(pass, adapter, layer, err));
    }
    return LT_OK;
}

static lt_status run_forward(const lt_pass *pass, int64_t layer, lt_err *err)
{
    LT_TRY(begin_adapters(pass, layer, err));
    return layer < 0 ? embed(pass, err) : lt_block_forward(pass, layer, err);
}

lt_status lt_stack_forward(const lt_pass *pass, lt_err *err)
{
    for (int64_t layer = -1; layer < pass->model->config.num_hidden_layers; layer++) {
        LT_TRY(lt_tell_unit(pass->model, layer, LT_BEFORE_FORWARD, err));
        if (!pass->empty) LT_TRY(run_forward(pass, layer, err));
        LT_TRY(lt_tell_unit(pass->model, layer, LT_AFTER_FORWARD, err));
    }
    return LT_OK;
}

static lt_status embed_backward_virtual(const lt_pass *pass, lt_tensor d_stream, lt_err *err)
{
    lt_tensor d_table = lt_prompt_table_gradient(pass, pass->adapter);
    if (!d_table.data) return LT_OK;
    int64_t count = pass->virtual_tokens;
    lt_embedding_backward_args add = {.dy = lt_tensor_slice(d_stream, 0, 0, count),
                                      .ids =
                                          lt_tensor_slice(pass->workspace->room.order, 0, 0, count),
                                      .dtoken_table = d_table};
    return lt_embedding_backward(pass->backend, &add, err);
}

/* d_stream is the gradient of the embeddings' sum. */
static lt_status embed_backward(const lt_pass *pass, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    lt_ends_view g = lt_ends_gradients(pass->model, pass->adapter);
    lt_tensor dy = lt_workspace_rows(ws, ws->d_stream, pass->tokens);
    lt_dropout_mask mask = embedding_mask(pass);
    if (!g.embed_tokens.data && !g.embed_positions.data && pass->virtual_tokens == 0) return LT_OK;
    if (mask.rate > 0)
        LT_TRY(
            lt_dropout(pass->backend, &(lt_dropout_args){.x = dy, .y = dy, .dropout = mask}, err));
    if (pass->virtual_tokens > 0) return embed_backward_virtual(pass, dy, err);
    lt_embedding_backward_args args = {.dy = dy,
                                       .ids = lt_workspace_rows(ws, ws->ids, pass->tokens),
                                       .positions =
                                           lt_workspace_rows(ws, ws->positions, pass->tokens),
                                       .dtoken_table = g.embed_tokens,
                                       .dposition_table = g.embed_positions};
    return lt_embedding_backward(pass->backend, &args, err);
}

/* A pass over a batch, with what it points to. */
typedef struct batch_pass {
    lt_pass pass;
    lt_group groups[2];
    lt_span span, head_span;
} batch_pass;

static void fill(int32_t *to, int64_t count, int32_t value)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = value;
}

static lt_status upload(const lt_workspace *ws, lt_tensor to, const int32_t *from, int64_t count,
                        lt_err *err)
{
    return ws->backend->upload(ws->backend, to.data, from, (size_t)count * sizeof(int32_t), err);
}

/* Batch positions and first keys, moved on by the virtual tokens in front. */
static lt_status upload_shifted(const lt_workspace *ws, lt_tensor to, const int32_t *from,
                                int64_t count, int64_t virtual_tokens, bool with_virtual,
                                lt_err *err)
{
    int32_t *staged = ws->host_positions;
    int64_t n = 0;
    if (virtual_tokens == 0) return upload(ws, to, from, count, err);
    for (int64_t i = 0; with_virtual && i < virtual_tokens; i++)
        staged[n++] = (int32_t)i;
    for (int64_t i = 0; i < count; i++)
        staged[n++] = from[i] + (int32_t)virtual_tokens;
    return upload(ws, to, staged, n, err);
}

/* Columns [from, to) of some rows, one row behind the other. Returns where the next goes. */
static int32_t *put_columns(int32_t *staged, const int32_t *rows, int64_t count, int64_t length,
                            int64_t from, int64_t to, int64_t in_front)
{
    for (int64_t row = 0; row < count; row++)
        for (int64_t i = from; i < to; i++)
            *staged++ = rows[row * length + i] + (int32_t)in_front;
    return staged;
}

/* First keys in the order in which attention takes them (attend_shared in block_forward.c), and
 * how many keys stand in front of the documents that share them. */
static lt_status upload_shared(lt_workspace *ws, const lt_batch *batch, int64_t in_front,
                               lt_err *err)
{
    int32_t *staged = ws->host_positions, *next = staged;
    for (int64_t row = 0, rows; row < batch->rows; row += rows) {
        const int32_t *first_key = batch->first_key + row * batch->length;
        int64_t shared = batch->shared[row], length = batch->length;
        rows = lt_rows_alike(batch->shared, row, batch->rows);
        next = put_columns(next, first_key, rows, length, 0, shared, in_front);
        next = put_columns(next, first_key, rows, length, shared, length, in_front);
    }
    LT_TRY(upload(ws, ws->first_key, staged, batch->rows * batch->length, err));
    for (int64_t row = 0; row < batch->rows; row++)
        ws->host_offset[row] = (int32_t)in_front + batch->shared[row];
    return upload(ws, ws->offset, ws->host_offset, batch->rows, err);
}

/* Where each row's own keys begin, when the adapter's `count` stand in front. */
static lt_status upload_key_places(const lt_workspace *ws, const lt_batch *batch, int64_t count,
                                   lt_err *err)
{
    int32_t *staged = ws->host_positions;
    fill(staged, batch->rows, 0);
    LT_TRY(upload(ws, ws->room.zeros, staged, batch->rows, err));
    fill(staged, batch->rows, (int32_t)count);
    LT_TRY(upload(ws, ws->room.offsets, staged, batch->rows, err));
    if (!ws->settings.training) return LT_OK;
    for (int64_t i = 0; i < count; i++)
        staged[i] = (int32_t)i;
    LT_TRY(upload(ws, ws->room.order, staged, count, err));
    int64_t tokens = batch->rows * batch->length;
    for (int64_t i = 0; i < tokens; i++) {
        int64_t row = i / batch->length;
        staged[i] = (int32_t)(i + (row + 1) * count);
    }
    return upload(ws, ws->room.own, staged, tokens, err);
}

/* Checks the batch and puts it on the device. */
static lt_status begin(const lt_model *model, lt_workspace *ws, const lt_batch *batch,
                       batch_pass *out, lt_err *err)
{
    const lt_adapter *adapter = model->active;
    int64_t count = batch->rows * batch->length, in_front = lt_adapter_virtual_tokens(adapter);
    LT_TRY(lt_batch_check(model, ws, batch, err));
    int64_t run = in_front > 0 && adapter->method->runs_tokens ? in_front : 0;
    int groups = 0;
    if (run > 0) out->groups[groups++] = (lt_group){.rows = 1, .length = run};
    out->groups[groups++] =
        (lt_group){.rows = batch->rows, .length = batch->length, .first_token = run};
    out->span = (lt_span){.count = run + count, .adapter = lt_adapter_in_products(adapter)};
    out->head_span = out->span;
    out->pass = (lt_pass){.model = model,
                          .backend = model->backend,
                          .workspace = ws,
                          .tokens = run + count,
                          .virtual_tokens = run,
                          .adapter = adapter,
                          .groups = out->groups,
                          .group_count = groups,
                          .spans = &out->span,
                          .head_spans = &out->head_span,
                          .span_count = 1,
                          .head_span_count = 1,
                          .shared = batch->shared};
    LT_TRY(upload(ws, ws->ids, batch->input_ids, count, err));
    LT_TRY(upload_shifted(ws, ws->positions, batch->positions, count, in_front, run > 0, err));
    if (batch->shared)
        LT_TRY(upload_shared(ws, batch, in_front, err));
    else
        LT_TRY(upload_shifted(ws, ws->first_key, batch->first_key, count, in_front, false, err));
    return in_front > 0 ? upload_key_places(ws, batch, in_front, err) : LT_OK;
}

/* Lists the positions that are trained on, with their targets. Returns how many. */
static int64_t list_targets(const lt_pass *pass, lt_workspace *ws, const lt_batch *batch)
{
    int64_t count = 0;
    for (int64_t i = 0; i < batch->rows * batch->length; i++) {
        if (batch->targets[i] == LT_IGNORE) continue;
        ws->host_index[count] = (int32_t)(pass->virtual_tokens + i);
        ws->host_targets[count++] = batch->targets[i];
    }
    return count;
}

/* For a batch whose targets are wanted. Without rows, or a target, nothing is computed. */
static lt_status begin_targets(const lt_model *model, lt_workspace *ws, const lt_batch *batch,
                               batch_pass *out, int64_t *count, lt_err *err)
{
    *count = 0;
    out->pass = (lt_pass){.model = model,
                          .backend = model->backend,
                          .workspace = ws,
                          .adapter = model->active,
                          .empty = true};
    if (batch->rows == 0) return LT_OK;
    if (!batch->targets) return lt_fail(err, LT_ERR_USAGE, "the batch has no targets");
    LT_TRY(begin(model, ws, batch, out, err));
    *count = list_targets(&out->pass, ws, batch);
    out->pass.empty = *count == 0;
    return LT_OK;
}

lt_status lt_workspace_take_loss(lt_workspace *ws, lt_loss *loss, lt_err *err)
{
    double totals[3];
    LT_TRY(ws->backend->download(ws->backend, totals, ws->totals.data, sizeof totals, err));
    loss->sum += totals[0];
    loss->tokens += (int64_t)totals[1];
    loss->correct += (int64_t)totals[2];
    return lt_zero(ws->backend, &(lt_zero_args){.y = ws->totals}, err);
}

lt_status lt_workspace_move_loss(lt_workspace *ws, lt_tensor totals, lt_err *err)
{
    LT_TRY(lt_convert(ws->backend, &(lt_convert_args){.x = ws->totals, .y = totals}, err));
    return lt_zero(ws->backend, &(lt_zero_args){.y = ws->totals}, err);
}

static double host_loss_at(const lt_workspace *ws, int64_t i)
{
    if (ws->backend->statistics == LT_F64) return ((const double *)ws->host_loss)[i];
    return (double)((const float *)ws->host_loss)[i];
}

static lt_status download_losses(const lt_workspace *ws, int64_t count, lt_err *err)
{
    size_t size = lt_dtype_size(ws->backend->statistics);
    return ws->backend->download(ws->backend, ws->host_loss, ws->loss.data, (size_t)count * size,
                                 err);
}

/* The loss of each listed target, where it stands in the batch. */
static lt_status take_token_losses(const batch_pass *b, const lt_workspace *ws, int64_t count,
                                   double *token_loss, lt_err *err)
{
    LT_TRY(download_losses(ws, count, err));
    for (int64_t i = 0; i < count; i++)
        token_loss[ws->host_index[i] - b->pass.virtual_tokens] = host_loss_at(ws, i);
    return LT_OK;
}

lt_status lt_begin_gradients(const lt_pass *pass, int64_t layer, lt_err *err)
{
    const lt_model *model = pass->model;
    LT_TRY(lt_tell_unit(model, layer, LT_BEFORE_BACKWARD, err));
    if (pass->accumulate) return LT_OK;
    return lt_zero_unit_gradients(model, lt_unit_of(model, (int)layer), pass->empty, err);
}

static lt_status unit_backward(const lt_pass *pass, int64_t layer, lt_err *err)
{
    LT_TRY(lt_begin_gradients(pass, layer, err));
    if (!pass->empty)
        LT_TRY(layer < 0 ? embed_backward(pass, err) : lt_block_backward(pass, layer, err));
    return lt_tell_unit(pass->model, layer, LT_AFTER_BACKWARD, err);
}

static lt_status backward(const lt_pass *pass, lt_err *err)
{
    int64_t layers = pass->model->config.num_hidden_layers;
    for (int64_t i = layers - 1; i >= pass->workspace->first_kept_layer; i--)
        LT_TRY(unit_backward(pass, i, err));
    if (pass->workspace->first_kept_layer == 0) LT_TRY(unit_backward(pass, -1, err));
    const lt_adapter *adapter = pass->adapter;
    bool ends = adapter && adapter->method->end && !pass->empty;
    return ends ? adapter->method->end(pass, adapter, err) : LT_OK;
}

lt_status lt_model_forward_backward(lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                                    lt_dropout_mask dropout, bool accumulate, lt_loss *loss,
                                    lt_err *err)
{
    batch_pass b;
    int64_t count;
    if (!workspace->settings.training)
        return lt_fail(err, LT_ERR_USAGE, "the workspace was made without room for training");
    if (batch->shared)
        return lt_fail(err, LT_ERR_USAGE,
                       "documents that share their beginning can not be trained");
    if (model->gradient_count > 0 && !model->gradients.base)
        return lt_fail(err, LT_ERR_USAGE, "the model's gradients have not been allocated");
    if (accumulate && lt_has_gradient_rooms(model))
        return lt_fail(err, LT_ERR_USAGE, "gradients that are kept in parts are added up there");
    LT_TRY(begin_targets(model, workspace, batch, &b, &count, err));
    if (!accumulate) LT_TRY(lt_zero_adapter_gradients(model, b.pass.empty, err));
    b.pass.accumulate = accumulate;
    b.pass.dropout = true;
    b.pass.key = dropout;
    LT_TRY(lt_stack_forward(&b.pass, err));
    LT_TRY(lt_head_loss(&b.pass, count, true, err));
    LT_TRY(backward(&b.pass, err));
    return loss && count > 0 ? lt_workspace_take_loss(workspace, loss, err) : LT_OK;
}

lt_status lt_model_evaluate(const lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                            lt_loss *loss, double *token_loss, lt_err *err)
{
    batch_pass b;
    int64_t count;
    LT_TRY(begin_targets(model, workspace, batch, &b, &count, err));
    size_t tokens = (size_t)(batch->rows * batch->length);
    if (token_loss && tokens > 0) memset(token_loss, 0, tokens * sizeof *token_loss);
    LT_TRY(lt_stack_forward(&b.pass, err));
    LT_TRY(lt_head_loss(&b.pass, count, false, err));
    if (count == 0) return LT_OK;
    if (token_loss) LT_TRY(take_token_losses(&b, workspace, count, token_loss, err));
    return lt_workspace_take_loss(workspace, loss, err);
}

static lt_status list_wanted(const lt_pass *pass, lt_workspace *ws, const lt_batch *batch,
                             const lt_targets *targets, lt_err *err)
{
    if (targets->count > ws->batch_tokens)
        return lt_fail(err, LT_ERR_LIMIT, "%lld targets do not fit a workspace for %lld tokens",
                       (long long)targets->count, (long long)ws->batch_tokens);
    for (int64_t i = 0; i < targets->count; i++) {
        int32_t place = targets->places[i], id = targets->ids[i];
        if (place < 0 || place >= batch->rows * batch->length)
            return lt_fail(err, LT_ERR_USAGE, "target %lld is at place %d, outside the batch",
                           (long long)i, place);
        if (id < 0 || id >= ws->config->vocab_size)
            return lt_fail(err, LT_ERR_USAGE,
                           "target %lld: token id %d is outside the model's vocabulary of %lld",
                           (long long)i, id, (long long)ws->config->vocab_size);
        ws->host_index[i] = (int32_t)(pass->virtual_tokens + place);
        ws->host_targets[i] = id;
    }
    return LT_OK;
}

lt_status lt_model_score(const lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                         const lt_targets *targets, double *log_probability, uint8_t *is_likeliest,
                         lt_err *err)
{
    batch_pass b;
    lt_loss loss = {0};
    int64_t count = targets->count;
    int32_t *likeliest = workspace->host_positions; /* staging: the batch's are on the device */
    LT_TRY(begin(model, workspace, batch, &b, err));
    LT_TRY(list_wanted(&b.pass, workspace, batch, targets, err));
    if (count == 0) return LT_OK;
    b.head_span.count = count; /* there may be more targets than tokens */
    LT_TRY(lt_stack_forward(&b.pass, err));
    LT_TRY(lt_head_loss(&b.pass, count, false, err));
    LT_TRY(download_losses(workspace, count, err));
    LT_TRY(model->backend->download(model->backend, likeliest, workspace->correct.data,
                                    (size_t)count * sizeof *likeliest, err));
    for (int64_t i = 0; i < count; i++) {
        log_probability[i] = -host_loss_at(workspace, i);
        is_likeliest[i] = likeliest[i] != 0;
    }
    return lt_workspace_take_loss(workspace, &loss, err); /* the sum is not of interest */
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
    batch_pass b;
    LT_TRY(begin(model, workspace, batch, &b, err));
    int64_t tokens = batch->rows * batch->length;
    for (int64_t i = 0; i < tokens; i++)
        workspace->host_index[i] = (int32_t)(b.pass.virtual_tokens + i);
    LT_TRY(lt_stack_forward(&b.pass, err));
    LT_TRY(lt_head_choose(workspace, tokens, err));
    logits_sink sink = {model->backend, logits, model->config.vocab_size};
    return lt_head_logits(&b.pass, tokens, store_logits, &sink, err);
}
