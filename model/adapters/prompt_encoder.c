/* The table of virtual tokens that prefix, prompt and p-tuning train, and the network it may come
 * from while training: embedding -> linear -> activation -> ... -> linear. The network is small: a
 * few rows through a few matrices, once in each pass. */
#include <math.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/json.h"
#include "model/adapters/internal.h"

lt_status lt_prompt_rows(lt_model *model, lt_adapter *adapter, int stages, const int64_t *widths,
                         const char *const *names, lt_activation activation, lt_err *err)
{
    lt_param rows[1 + 2 * LT_ENCODER_STAGES];
    lt_prompt_encoder *encoder = &adapter->encoder;
    int count = 0, first = model->param_count;
    int layer = adapter->method->runs_tokens ? -1 : 0; /* the lowest block that needs a gradient */
    LT_TRY(lt_prompt_check(model, adapter, err));
    *encoder = (lt_prompt_encoder){.embedding = first, .stages = stages, .activation = activation};
    adapter->virtual_tokens = adapter->config.num_virtual_tokens;
    adapter->table_width = widths[stages];
    rows[count++] = (lt_param){.layer = layer,
                               .ndim = 2,
                               .shape = {adapter->virtual_tokens, widths[0]},
                               .init = LT_INIT_NORMAL,
                               .init_scale = 1,
                               .summed = stages == 0};
    for (int i = 0; i < stages; i++) {
        /* torch's nn.Linear: weight and bias uniform within 1 / sqrt(in) */
        const double bound = 1 / sqrt((double)widths[i]);
        encoder->weight[i] = first + count;
        rows[count++] = (lt_param){.layer = layer,
                                   .ndim = 2,
                                   .shape = {widths[i + 1], widths[i]},
                                   .init = LT_INIT_UNIFORM,
                                   .init_scale = bound};
        encoder->bias[i] = first + count;
        rows[count++] = (lt_param){.layer = layer,
                                   .ndim = 1,
                                   .shape = {widths[i + 1], 1},
                                   .init = LT_INIT_UNIFORM,
                                   .init_scale = bound,
                                   .summed = true};
        if (i > 0) encoder->widest = lt_max_i64(encoder->widest, widths[i]);
    }
    for (int i = 0; i < count; i++)
        snprintf(rows[i].name, sizeof rows[i].name, "%s%s", stages ? "prompt_encoder." : "",
                 names[i]);
    return lt_adapter_add_rows(model, adapter, rows, count, err);
}

lt_status lt_prompt_check(const lt_model *model, const lt_adapter *adapter, lt_err *err)
{
    int64_t count = adapter->config.num_virtual_tokens;
    int64_t visible = model->config.max_position_embeddings;
    if (count < 1)
        return lt_fail(err, LT_ERR_USAGE,
                       "a %s adapter of %lld virtual tokens trains nothing; --num-virtual-tokens "
                       "must be at least 1",
                       adapter->method->name, (long long)count);
    if (count >= visible)
        return lt_fail(err, LT_ERR_LIMIT,
                       "%lld virtual tokens leave no room for text: the model sees %lld positions",
                       (long long)count, (long long)visible);
    return LT_OK;
}

/* --- The table -------------------------------------------------------------------------------- */

static lt_tensor scratch(lt_tensor room, const lt_adapter *adapter, int64_t width)
{
    return lt_tensor_2d(room.data, room.dtype, adapter->virtual_tokens, width);
}

lt_tensor lt_prompt_table(const lt_pass *pass, const lt_adapter *adapter)
{
    if (adapter->encoder.stages == 0) return pass->model->params[adapter->encoder.embedding].weight;
    return scratch(pass->workspace->room.table, adapter, adapter->table_width);
}

lt_tensor lt_prompt_table_gradient(const lt_pass *pass, const lt_adapter *adapter)
{
    const lt_param *row = &pass->model->params[adapter->encoder.embedding];
    if (adapter->encoder.stages == 0 || !row->gradient.data) return row->gradient;
    return scratch(pass->workspace->room.d_table, adapter, adapter->table_width);
}

/* What stage i reads. */
static lt_tensor stage_input(const lt_pass *pass, const lt_adapter *adapter, int i)
{
    const lt_prompt_encoder *e = &adapter->encoder;
    const lt_param *params = pass->model->params;
    if (i == 0) return params[e->embedding].weight;
    return scratch(pass->workspace->room.activated[i - 1], adapter, params[e->weight[i]].shape[1]);
}

lt_status lt_prompt_begin(const lt_pass *pass, const lt_adapter *adapter, int64_t layer,
                          lt_err *err)
{
    const lt_prompt_encoder *e = &adapter->encoder;
    const lt_param *params = pass->model->params;
    if (layer >= 0) return LT_OK;
    for (int i = 0; i < e->stages; i++) {
        bool last = i + 1 == e->stages;
        int64_t width = params[e->weight[i]].shape[0];
        lt_matmul_args product = {
            .layout = LT_MATMUL_NT,
            .c = last ? lt_prompt_table(pass, adapter)
                      : scratch(pass->workspace->room.stage[i], adapter, width),
            .a = stage_input(pass, adapter, i),
            .b = params[e->weight[i]].weight,
            .bias = params[e->bias[i]].weight};
        LT_TRY(lt_matmul(pass->backend, &product, err));
        if (last) break;
        lt_activation_args activation = {
            .activation = e->activation, .x = product.c, .y = stage_input(pass, adapter, i + 1)};
        LT_TRY(lt_activation_forward(pass->backend, &activation, err));
    }
    lt_tensor gradient = lt_prompt_table_gradient(pass, adapter);
    if (e->stages == 0 || !pass->dropout || !gradient.data) return LT_OK;
    gradient = lt_tensor_1d(gradient.data, gradient.dtype, lt_tensor_count(gradient));
    return lt_zero(pass->backend, &(lt_zero_args){.y = gradient}, err);
}

/* The gradients of stage i, given that of its result. */
static lt_status stage_backward(const lt_pass *pass, const lt_adapter *adapter, int i, lt_tensor dy,
                                lt_tensor dx, lt_err *err)
{
    const lt_prompt_encoder *e = &adapter->encoder;
    const lt_param *weight = &pass->model->params[e->weight[i]];
    lt_matmul_args dw = {.layout = LT_MATMUL_TN,
                         .c = weight->gradient,
                         .a = dy,
                         .b = stage_input(pass, adapter, i),
                         .accumulate = pass->accumulate};
    lt_matmul_args dinput = {.layout = LT_MATMUL_NN,
                             .c = dx,
                             .a = dy,
                             .b = weight->weight,
                             .accumulate = i == 0 && pass->accumulate};
    lt_bias_backward_args db = {.dbias = pass->model->params[e->bias[i]].gradient, .dy = dy};
    LT_TRY(lt_matmul(pass->backend, &dw, err));
    LT_TRY(lt_bias_backward(pass->backend, &db, err));
    return lt_matmul(pass->backend, &dinput, err);
}

lt_status lt_prompt_end(const lt_pass *pass, const lt_adapter *adapter, lt_err *err)
{
    const lt_prompt_encoder *e = &adapter->encoder;
    const lt_param *params = pass->model->params;
    const lt_adapter_room *room = &pass->workspace->room;
    lt_tensor dy = lt_prompt_table_gradient(pass, adapter);
    if (e->stages == 0 || !dy.data) return LT_OK;
    for (int i = e->stages - 1; i >= 0; i--) {
        int64_t width = params[e->weight[i]].shape[1];
        lt_tensor dx =
            i == 0 ? params[e->embedding].gradient : scratch(room->d_stage[i % 2], adapter, width);
        LT_TRY(stage_backward(pass, adapter, i, dy, dx, err));
        if (i == 0) break;
        lt_activation_backward_args activation = {.activation = e->activation,
                                                  .x = scratch(room->stage[i - 1], adapter, width),
                                                  .dy = dx,
                                                  .dx = dx};
        LT_TRY(lt_activation_backward(pass->backend, &activation, err));
        dy = dx;
    }
    return LT_OK;
}

/* --- Configuration ---------------------------------------------------------------------------- */

lt_status lt_prompt_read_config(const json_t *json, const char *where, lt_adapter_config *out,
                                lt_err *err)
{
    enum { MOST = 1 << 20 };
    int64_t submodules = 1;
    LT_TRY(
        lt_json_get_int(json, "num_virtual_tokens", 1, MOST, where, &out->num_virtual_tokens, err));
    LT_TRY(lt_json_get_int(json, "encoder_hidden_size", 0, MOST, where, &out->encoder_hidden_size,
                           err));
    LT_TRY(lt_json_get_int(json, "num_transformer_submodules", 1, 2, where, &submodules, err));
    LT_TRY(lt_read_string_list(json, "modules_to_save", where, &out->modules_to_save, err));
    if (out->num_virtual_tokens == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"num_virtual_tokens\" is missing", where);
    if (submodules != 1)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: \"num_transformer_submodules\" is %lld: adapters of encoder-decoder "
                       "models are not supported",
                       where, (long long)submodules);
    if (out->modules_to_save.count > 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: \"modules_to_save\" beside virtual tokens is not supported", where);
    return LT_OK;
}

lt_status lt_prompt_write_config(const lt_model *model, const lt_adapter *adapter, json_t *out,
                                 lt_err *err)
{
    const lt_model_config *c = &model->config;
    bool keys = !adapter->method->runs_tokens;
    /* with grouped heads PEFT counts those that keys have */
    int64_t heads = keys ? c->num_key_value_heads : c->num_attention_heads;
    int64_t width = keys ? heads * c->head_dim : c->hidden_size;
    json_t *more =
        json_pack("{s:n, s:I, s:I, s:I, s:I, s:I}", "modules_to_save", "num_attention_heads",
                  (json_int_t)heads, "num_layers", (json_int_t)c->num_hidden_layers,
                  "num_transformer_submodules", (json_int_t)1, "num_virtual_tokens",
                  (json_int_t)adapter->virtual_tokens, "token_dim", (json_int_t)width);
    bool good = more && json_object_update(out, more) == 0;
    json_decref(more);
    return good ? LT_OK : lt_fail_nomem(err, 512, "the adapter's configuration");
}
