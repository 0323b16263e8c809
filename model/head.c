/* From the residual stream to logits and losses, and back.
 *
 * Only rows whose target is trained go through: they are gathered, normed, and multiplied with the
 * head some rows at a time. Logits give way to their own gradient in the same memory, so that at no
 * time there are more than workspace->chunk rows of them. */
#include <string.h>

#include "base/checked.h"
#include "model/sharding.h"
#include "model/workspace.h"

lt_status lt_head_choose(const lt_workspace *ws, int64_t count, lt_err *err)
{
    return ws->backend->upload(ws->backend, ws->index.data, ws->host_index,
                               (size_t)count * sizeof(int32_t), err);
}

/* Gathers the chosen rows and takes the final norm of them. */
static lt_status gather(const lt_pass *pass, int64_t count, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    const lt_backend *backend = pass->backend;
    lt_ends_view w = lt_ends_weights(pass->model, NULL);
    lt_tensor input = lt_workspace_rows(ws, ws->head_input, count);
    lt_rows_args chosen = {.x = lt_workspace_rows(ws, ws->stream, pass->tokens),
                           .y = input,
                           .index = lt_workspace_rows(ws, ws->index, count)};
    LT_TRY(lt_gather_rows(backend, &chosen, err));
    return lt_norm_pass(pass, input, w.final_norm_weight, w.final_norm_bias,
                        lt_workspace_rows(ws, ws->head_norm, count),
                        lt_workspace_rows(ws, ws->head_mean, count),
                        lt_workspace_rows(ws, ws->head_rstd, count), err);
}

/* logits[0..count) of the gathered rows from `first` on, each span by its adapter's head. */
static lt_status chunk_logits(const lt_pass *pass, int64_t first, int64_t count, lt_tensor *logits,
                              lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    *logits = lt_tensor_slice(ws->logits, 0, 0, count);
    for (int64_t i = 0; i < pass->head_span_count; i++) {
        const lt_span *span = &pass->head_spans[i];
        int64_t from = lt_max_i64(span->first, first);
        int64_t to = lt_min_i64(span->first + span->count, first + count);
        if (from >= to) continue;
        lt_matmul_args product = {.layout = LT_MATMUL_NT,
                                  .c = lt_tensor_slice(*logits, 0, from - first, to - from),
                                  .a = lt_tensor_slice(ws->head_norm, 0, from, to - from),
                                  .b = lt_ends_weights(pass->model, span->adapter).lm_head};
        LT_TRY(lt_matmul(pass->backend, &product, err));
    }
    return LT_OK;
}

/* The chunk's d_norm, and its part of the head's gradient. */
static lt_status chunk_backward(const lt_pass *pass, int64_t first, int64_t count,
                                lt_tensor d_logits, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    lt_tensor d_head = lt_ends_gradients(pass->model, pass->adapter).lm_head;
    lt_matmul_args dx = {.layout = LT_MATMUL_NN,
                         .c = lt_tensor_slice(ws->d_norm, 0, first, count),
                         .a = d_logits,
                         .b = lt_ends_weights(pass->model, pass->adapter).lm_head};
    lt_matmul_args dw = {.layout = LT_MATMUL_TN,
                         .c = d_head,
                         .a = d_logits,
                         .b = lt_tensor_slice(ws->head_norm, 0, first, count),
                         .accumulate = pass->accumulate || first > 0};
    LT_TRY(lt_matmul(pass->backend, &dx, err));
    return d_head.data ? lt_matmul(pass->backend, &dw, err) : LT_OK;
}

/* d_norm (of the gathered rows) through the final norm to d_stream (of all rows). */
static lt_status final_norm_backward(const lt_pass *pass, int64_t count, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    lt_ends_view w = lt_ends_weights(pass->model, NULL), g = lt_ends_gradients(pass->model, NULL);
    lt_tensor d = lt_workspace_rows(ws, ws->d_norm, count);
    lt_norm_backward_args norm = {.x = lt_workspace_rows(ws, ws->head_input, count),
                                  .weight = w.final_norm_weight,
                                  .mean = lt_workspace_rows(ws, ws->head_mean, count),
                                  .rstd = lt_workspace_rows(ws, ws->head_rstd, count),
                                  .dy = d,
                                  .dx = d,
                                  .dweight = g.final_norm_weight,
                                  .dbias = g.final_norm_bias};
    LT_TRY(lt_norm_pass_backward(pass, &norm, err));
    lt_rows_args scatter = {.x = d,
                            .y = lt_workspace_rows(ws, ws->d_stream, pass->tokens),
                            .index = lt_workspace_rows(ws, ws->index, count)};
    return lt_scatter_rows(pass->backend, &scatter, err);
}

static lt_status losses(const lt_pass *pass, int64_t count, bool gradient, lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    const lt_backend *backend = pass->backend;
    size_t ids_size = (size_t)count * sizeof(int32_t);
    LT_TRY(lt_head_choose(ws, count, err));
    LT_TRY(gather(pass, count, err));
    LT_TRY(backend->upload(backend, ws->targets.data, ws->host_targets, ids_size, err));
    for (int64_t first = 0; first < count; first += ws->chunk) {
        int64_t rows = lt_min_i64(ws->chunk, count - first);
        lt_tensor logits;
        LT_TRY(chunk_logits(pass, first, rows, &logits, err));
        lt_cross_entropy_args loss = {.logits = logits,
                                      .targets = lt_tensor_slice(ws->targets, 0, first, rows),
                                      .loss = lt_tensor_slice(ws->loss, 0, first, rows),
                                      .correct = lt_tensor_slice(ws->correct, 0, first, rows)};
        if (gradient) loss.gradient = lt_tensor_slice(ws->d_logits, 0, 0, rows);
        LT_TRY(lt_cross_entropy(backend, &loss, err));
        if (gradient) LT_TRY(chunk_backward(pass, first, rows, loss.gradient, err));
    }
    if (gradient) LT_TRY(final_norm_backward(pass, count, err));
    lt_sum_losses_args sum = {.loss = lt_workspace_rows(ws, ws->loss, count),
                              .targets = lt_workspace_rows(ws, ws->targets, count),
                              .correct = lt_workspace_rows(ws, ws->correct, count),
                              .totals = ws->totals};
    return lt_sum_losses(backend, &sum, err);
}

lt_status lt_head_loss(const lt_pass *pass, int64_t count, bool gradient, lt_err *err)
{
    const lt_model *model = pass->model;
    int64_t layer = model->config.num_hidden_layers;
    LT_TRY(lt_tell_unit(model, layer, LT_BEFORE_FORWARD, err));
    if (gradient) LT_TRY(lt_begin_gradients(pass, layer, err));
    if (!pass->empty) LT_TRY(losses(pass, count, gradient, err));
    LT_TRY(lt_tell_unit(model, layer, LT_AFTER_FORWARD, err));
    return gradient ? lt_tell_unit(model, layer, LT_AFTER_BACKWARD, err) : LT_OK;
}

lt_status lt_head_logits(const lt_pass *pass, int64_t count, lt_take_logits take, void *context,
                         lt_err *err)
{
    const lt_workspace *ws = pass->workspace;
    int64_t layer = pass->model->config.num_hidden_layers;
    LT_TRY(lt_tell_unit(pass->model, layer, LT_BEFORE_FORWARD, err));
    LT_TRY(gather(pass, count, err));
    for (int64_t first = 0; first < count; first += ws->chunk) {
        int64_t rows = lt_min_i64(ws->chunk, count - first);
        lt_tensor logits;
        LT_TRY(chunk_logits(pass, first, rows, &logits, err));
        if (ws->logits_f32.data) {
            lt_convert_args convert = {.x = logits,
                                       .y = lt_tensor_slice(ws->logits_f32, 0, 0, rows)};
            LT_TRY(lt_convert(pass->backend, &convert, err));
            logits = convert.y;
        }
        LT_TRY(take(context, first, rows, logits, err));
    }
    return lt_tell_unit(pass->model, layer, LT_AFTER_FORWARD, err);
}
