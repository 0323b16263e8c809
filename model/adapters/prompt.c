/* Prompt tuning (Lester et al., 2021) and p-tuning (Liu et al., 2021): embeddings of virtual tokens
 * in front of the text. They run through the blocks once for a whole batch, as a sequence of their
 * own, and every document sees their keys and values: the same numbers as if each had them in
 * front, since tokens do not see what follows them. */
#include <string.h>

#include "base/json.h"
#include "base/rng.h"
#include "model/adapters/internal.h"

/* --- Prompt tuning ---------------------------------------------------------------------------- */

static lt_status attach_prompt(lt_model *model, lt_adapter *adapter, lt_err *err)
{
    static const char *const table[] = {LT_PROMPT_TENSOR};
    return lt_prompt_rows(model, adapter, 0, &model->config.hidden_size, table, LT_ACTIVATION_NONE,
                          err);
}

static int32_t initial_id(const lt_model *model, const lt_adapter *adapter, uint64_t seed,
                          int64_t token)
{
    const lt_adapter_config *c = &adapter->config;
    if (c->prompt_init == LT_PROMPT_TEXT)
        return c->prompt_init_ids.data[(size_t)token % c->prompt_init_ids.count];
    uint64_t stream = lt_rng_stream(LT_RNG_INIT, (uint64_t)adapter->encoder.embedding, 1);
    return (int32_t)lt_random_below(seed, stream, (uint64_t)token,
                                    (uint64_t)model->config.vocab_size);
}

/* Rows of the embedding, one at a time: an init needs no speed, and the embedding may be bf16. */
static lt_status initialise_prompt(lt_model *model, lt_adapter *adapter, uint64_t seed, lt_err *err)
{
    const lt_adapter_config *c = &adapter->config;
    lt_tensor table = model->params[adapter->encoder.embedding].weight;
    lt_tensor embedding = lt_ends_weights(model, NULL).embed_tokens;
    if (c->prompt_init == LT_PROMPT_RANDOM) return LT_OK;
    if (c->prompt_init == LT_PROMPT_TEXT && c->prompt_init_ids.count == 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "the text that the prompt should start from has no tokens: give "
                       "--prompt-tuning-init-text, or --prompt-tuning-init vocab");
    LT_TRY(lt_model_need_unit(model, -1, err));
    for (int64_t i = 0; i < table.shape[0]; i++) {
        int32_t id = initial_id(model, adapter, seed, i);
        if (id < 0 || id >= model->config.vocab_size)
            return lt_fail(err, LT_ERR_USAGE,
                           "token id %d of the prompt's initial text is outside the model's "
                           "vocabulary of %lld",
                           id, (long long)model->config.vocab_size);
        lt_convert_args copy = {.x = lt_tensor_slice(embedding, 0, id, 1),
                                .y = lt_tensor_slice(table, 0, i, 1)};
        LT_TRY(lt_convert(model->backend, &copy, err));
    }
    return LT_OK;
}

static const char *const init_names[] = {"RANDOM", "SAMPLE_VOCAB", "TEXT"};

static lt_status read_prompt(const json_t *json, const char *where, lt_adapter_config *out,
                             lt_err *err)
{
    const char *init = NULL, *text = NULL, *tokenizer = NULL;
    LT_TRY(lt_prompt_read_config(json, where, out, err));
    /* how it began is for the record */
    LT_TRY(lt_json_get_string(json, "prompt_tuning_init", where, &init, err));
    LT_TRY(lt_json_get_string(json, "prompt_tuning_init_text", where, &text, err));
    LT_TRY(lt_json_get_string(json, "tokenizer_name_or_path", where, &tokenizer, err));
    LT_TRY(lt_copy_string(text, &out->prompt_init_text, err));
    LT_TRY(lt_copy_string(tokenizer, &out->tokenizer_name, err));
    for (int i = 0; i < 3; i++)
        if (init && strcmp(init, init_names[i]) == 0) out->prompt_init = (lt_prompt_init)i;
    return LT_OK;
}

static lt_status write_prompt(const lt_model *model, const lt_adapter *adapter, json_t *out,
                              lt_err *err)
{
    const lt_adapter_config *c = &adapter->config;
    LT_TRY(lt_prompt_write_config(model, adapter, out, err));
    json_object_set_new(out, "prompt_tuning_init", json_string(init_names[c->prompt_init]));
    json_object_set_new(out, "prompt_tuning_init_text",
                        c->prompt_init_text ? json_string(c->prompt_init_text) : json_null());
    json_object_set_new(out, "tokenizer_kwargs", json_null());
    json_object_set_new(out, "tokenizer_name_or_path",
                        c->tokenizer_name ? json_string(c->tokenizer_name) : json_null());
    return LT_OK;
}

/* --- P-tuning --------------------------------------------------------------------------------- */

static lt_status attach_p_tuning(lt_model *model, lt_adapter *adapter, lt_err *err)
{
    static const char *const names[] = {
        "embedding.weight", "mlp_head.0.weight", "mlp_head.0.bias", "mlp_head.2.weight",
        "mlp_head.2.bias",  "mlp_head.4.weight", "mlp_head.4.bias"};
    lt_adapter_config *config = &adapter->config;
    int64_t width = model->config.hidden_size;
    if (config->trained) return attach_prompt(model, adapter, err);
    if (config->encoder_hidden_size == 0) config->encoder_hidden_size = width;
    int64_t inner = config->encoder_hidden_size;
    const int64_t widths[] = {width, inner, inner, width};
    return lt_prompt_rows(model, adapter, 3, widths, names, LT_ACTIVATION_RELU, err);
}

static lt_status write_p_tuning(const lt_model *model, const lt_adapter *adapter, json_t *out,
                                lt_err *err)
{
    LT_TRY(lt_prompt_write_config(model, adapter, out, err));
    json_object_set_new(out, "encoder_dropout", json_real(0));
    json_object_set_new(out, "encoder_hidden_size",
                        json_integer(adapter->config.encoder_hidden_size));
    json_object_set_new(out, "encoder_num_layers", json_integer(2));
    json_object_set_new(out, "encoder_reparameterization_type", json_string("MLP"));
    return LT_OK;
}

const lt_adapter_method lt_method_prompt = {.kind = LT_ADAPTER_PROMPT,
                                            .name = "prompt",
                                            .peft_type = "PROMPT_TUNING",
                                            .runs_tokens = true,
                                            .attach = attach_prompt,
                                            .initialise = initialise_prompt,
                                            .begin = lt_prompt_begin,
                                            .end = lt_prompt_end,
                                            .read_config = read_prompt,
                                            .write_config = write_prompt};

const lt_adapter_method lt_method_p_tuning = {.kind = LT_ADAPTER_P_TUNING,
                                              .name = "p-tuning",
                                              .peft_type = "P_TUNING",
                                              .runs_tokens = true,
                                              .attach = attach_p_tuning,
                                              .begin = lt_prompt_begin,
                                              .end = lt_prompt_end,
                                              .read_config = lt_prompt_read_config,
                                              .write_config = write_p_tuning};
