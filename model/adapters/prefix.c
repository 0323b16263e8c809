/* Prefix tuning (Li and Liang, 2021): keys and values of virtual tokens for every layer, never
 * rotated, with the text at the positions behind them. PEFT's table is [virtual tokens,
 * 2 layers kv_heads head_dim]: key, then value of layer 0, then of layer 1, ... */
#include "base/json.h"
#include "model/adapters/internal.h"

static lt_status attach(lt_model *model, lt_adapter *adapter, lt_err *err)
{
    static const char *const table[] = {LT_PROMPT_TENSOR};
    static const char *const projected[] = {"embedding.weight", "transform.0.weight",
                                            "transform.0.bias", "transform.2.weight",
                                            "transform.2.bias"};
    const lt_model_config *c = &model->config;
    lt_adapter_config *config = &adapter->config;
    int64_t width = c->num_key_value_heads * c->head_dim;
    int64_t all = 2 * c->num_hidden_layers * width;
    if (config->encoder_hidden_size == 0) config->encoder_hidden_size = width;
    const int64_t through[] = {width, config->encoder_hidden_size, all};
    if (config->prefix_projection && !config->trained)
        return lt_prompt_rows(model, adapter, 2, through, projected, LT_ACTIVATION_TANH, err);
    return lt_prompt_rows(model, adapter, 0, &all, table, LT_ACTIVATION_NONE, err);
}

static lt_status read_config(const json_t *json, const char *where, lt_adapter_config *out,
                             lt_err *err)
{
    LT_TRY(lt_prompt_read_config(json, where, out, err));
    return lt_json_get_bool(json, "prefix_projection", where, &out->prefix_projection, err);
}

static lt_status write_config(const lt_model *model, const lt_adapter *adapter, json_t *out,
                              lt_err *err)
{
    const lt_adapter_config *c = &adapter->config;
    LT_TRY(lt_prompt_write_config(model, adapter, out, err));
    json_object_set_new(out, "encoder_hidden_size", json_integer(c->encoder_hidden_size));
    json_object_set_new(out, "prefix_projection", json_boolean(c->prefix_projection));
    return LT_OK;
}

const lt_adapter_method lt_method_prefix = {.kind = LT_ADAPTER_PREFIX,
                                            .name = "prefix",
                                            .peft_type = "PREFIX_TUNING",
                                            .attach = attach,
                                            .begin = lt_prompt_begin,
                                            .end = lt_prompt_end,
                                            .read_config = read_config,
                                            .write_config = write_config};
