/* config.json to lt_model_config: read by the family's table of keys, then checked.
 *
 * Everything in the file is untrusted. After the checks here every size is positive, bounded and
 * consistent with the others, so that products of them fit in 63 bits everywhere below. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "model/config.h"
#include "model/adapter.h"
#include "model/families/families.h"
#include "model/formats/gguf.h"
#include "model/gguf_model.h"

enum {
    MAX_LAYERS = 1024,
    MAX_HEADS = 1 << 16,
    MAX_VOCAB = 1 << 22,
    MAX_WIDTH = 1 << 20,
    MAX_INTERMEDIATE = 1 << 24,
    MAX_POSITIONS = 1 << 24,
};

/* --- Enumerations as the file spells them ------------------------------------------------------
 */

static const struct activation_name {
    const char *name;
    lt_activation activation;
} activation_names[] = {
    /* the first name of each is the one that is written */
    {"gelu", LT_ACTIVATION_GELU},
    {"gelu_python", LT_ACTIVATION_GELU},
    {"gelu_new", LT_ACTIVATION_GELU_TANH},
    {"gelu_pytorch_tanh", LT_ACTIVATION_GELU_TANH},
    {"gelu_python_tanh", LT_ACTIVATION_GELU_TANH},
    {"gelu_accurate", LT_ACTIVATION_GELU_TANH},
    {"gelu_fast", LT_ACTIVATION_GELU_TANH},
    {"silu", LT_ACTIVATION_SILU},
    {"swish", LT_ACTIVATION_SILU},
    {"relu", LT_ACTIVATION_RELU},
};

static lt_status read_activation(const json_t *config, const char *key, const char *where,
                                 lt_activation *out, lt_err *err)
{
    const char *name = NULL;
    LT_TRY(lt_json_get_string(config, key, where, &name, err));
    if (!name) return LT_OK;
    for (size_t i = 0; i < LT_COUNT_OF(activation_names); i++) {
        if (strcmp(activation_names[i].name, name) != 0) continue;
        *out = activation_names[i].activation;
        return LT_OK;
    }
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "%s: %s \"%.60s\" is not supported (gelu, gelu_new, gelu_pytorch_tanh, silu and "
                   "relu are)",
                   where, key, name);
}

const char *lt_activation_config_name(lt_activation activation)
{
    for (size_t i = 0; i < LT_COUNT_OF(activation_names); i++)
        if (activation_names[i].activation == activation) return activation_names[i].name;
    return NULL;
}

/* --- The family's keys -------------------------------------------------------------------------
 */

static lt_status read_key(const json_t *config, const lt_config_key *key, const char *where,
                          lt_model_config *out, lt_err *err)
{
    void *field = (char *)out + key->offset;
    const json_t *value = json_object_get(config, key->key);
    if (key->required && (!value || json_is_null(value)))
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" is missing", where, key->key);
    switch (key->kind) {
    case LT_KEY_INT:
        /* null means "derive it", whatever the family's default is */
        if (json_is_null(value)) *(int64_t *)field = 0;
        return lt_json_get_int(config, key->key, 1, INT32_MAX, where, field, err);
    case LT_KEY_NUMBER:
        return lt_json_get_number(config, key->key, where, field, err);
    case LT_KEY_BOOL:
        return lt_json_get_bool(config, key->key, where, field, err);
    case LT_KEY_ACTIVATION:
        return read_activation(config, key->key, where, field, err);
    case LT_KEY_UNIT_SCALE: {
        bool scaled = true;
        LT_TRY(lt_json_get_bool(config, key->key, where, &scaled, err));
        if (!scaled) *(double *)field = 1;
        return LT_OK;
    }
    }
    return LT_OK;
}

/* --- Rotary embedding --------------------------------------------------------------------------
 */

static lt_status rope_object(const json_t *config, const char *where, const json_t **out,
                             lt_err *err)
{
    /* v4 says rope_scaling, v5 rope_parameters; transformers lets the first win */
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    *out = NULL;
    for (size_t i = 0; i < LT_COUNT_OF(keys); i++) {
        const json_t *value = json_object_get(config, keys[i]);
        if (!value || json_is_null(value)) continue;
        if (!json_is_object(value))
            return lt_fail(err, LT_ERR_FORMAT, "%s: %s is not an object", where, keys[i]);
        if (json_object_size(value) == 0) continue;
        *out = value;
        return LT_OK;
    }
    return LT_OK;
}

static lt_status read_rope_type(const json_t *rope, const char *where, lt_rope_type *out,
                                lt_err *err)
{
    const char *name = NULL;
    LT_TRY(lt_json_get_string(rope, "rope_type", where, &name, err));
    if (!name) LT_TRY(lt_json_get_string(rope, "type", where, &name, err));
    if (!name || strcmp(name, "default") == 0)
        *out = LT_ROPE_DEFAULT;
    else if (strcmp(name, "linear") == 0)
        *out = LT_ROPE_LINEAR;
    else if (strcmp(name, "llama3") == 0)
        *out = LT_ROPE_LLAMA3;
    else
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: rotary embedding of type \"%.60s\" is not supported (default, linear "
                       "and llama3 are)",
                       where, name);
    if (json_object_get(rope, "full_attention") || json_object_get(rope, "sliding_attention"))
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: rope_parameters that differ between layers are not supported", where);
    return LT_OK;
}

static lt_status read_rope_scaling(const json_t *rope, const json_t *config, const char *where,
                                   lt_model_config *out, lt_err *err)
{
    if (out->rope_type == LT_ROPE_DEFAULT) return LT_OK;
    LT_TRY(lt_json_get_number(rope, "factor", where, &out->rope_factor, err));
    if (!(out->rope_factor > 0))
        return lt_fail(err, LT_ERR_FORMAT, "%s: the rope scaling's \"factor\" must be above 0",
                       where);
    if (out->rope_type != LT_ROPE_LLAMA3) return LT_OK;

    int64_t original = out->max_position_embeddings;
    LT_TRY(lt_json_get_number(rope, "low_freq_factor", where, &out->rope_low_freq_factor, err));
    LT_TRY(lt_json_get_number(rope, "high_freq_factor", where, &out->rope_high_freq_factor, err));
    LT_TRY(lt_json_get_int(rope, "original_max_position_embeddings", 1, MAX_POSITIONS, where,
                           &original, err));
    /* some files keep it outside; transformers lets that one win */
    LT_TRY(lt_json_get_int(config, "original_max_position_embeddings", 1, MAX_POSITIONS, where,
                           &original, err));
    out->rope_original_max_position = original;
    if (!(out->rope_low_freq_factor > 0 && out->rope_high_freq_factor > out->rope_low_freq_factor))
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: llama3 rope scaling wants 0 < low_freq_factor < high_freq_factor",
                       where);
    return LT_OK;
}

static lt_status read_rope(const json_t *config, const char *where, lt_model_config *out,
                           lt_err *err)
{
    const lt_family *family = out->family;
    if (family->defaults.rope_type == LT_ROPE_NONE) return LT_OK;
    const json_t *rope = NULL;
    LT_TRY(rope_object(config, where, &rope, err));

    double partial = family->partial_default;
    LT_TRY(lt_json_get_number(config, family->theta_key, where, &out->rope_theta, err));
    const char *partial_key = family->partial_key ? family->partial_key : "partial_rotary_factor";
    LT_TRY(lt_json_get_number(config, partial_key, where, &partial, err));
    if (rope) {
        LT_TRY(read_rope_type(rope, where, &out->rope_type, err));
        LT_TRY(lt_json_get_number(rope, "rope_theta", where, &out->rope_theta, err));
        LT_TRY(lt_json_get_number(rope, "partial_rotary_factor", where, &partial, err));
        LT_TRY(read_rope_scaling(rope, config, where, out, err));
    }
    if (!(out->rope_theta > 0))
        return lt_fail(err, LT_ERR_FORMAT, "%s: rope_theta must be above 0", where);
    if (!(partial > 0 && partial <= 1))
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: the rotary part of a head must be above 0 and at most 1", where);
    if (!family->partial_key && partial != 1)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: partial_rotary_factor %g is not supported in family %s", where, partial,
                       family->name);

    out->rotary_dim = (int64_t)((double)out->head_dim * partial);
    if (out->rotary_dim < 2 || out->rotary_dim % 2 != 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: rotary embedding over %lld dimensions of a head of %lld; an even "
                       "number of at least 2 is needed",
                       where, (long long)out->rotary_dim, (long long)out->head_dim);
    return LT_OK;
}

/* --- Sliding window ----------------------------------------------------------------------------
 */

/* layer_types may spell out what max_window_layers says: some full layers, then sliding ones. */
static lt_status read_layer_types(const json_t *config, const char *where, lt_model_config *out,
                                  lt_err *err)
{
    const json_t *types = json_object_get(config, "layer_types");
    if (!types || json_is_null(types)) return LT_OK;
    if (!json_is_array(types) || (int64_t)json_array_size(types) != out->num_hidden_layers)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: layer_types is not a list with one entry for each layer", where);
    int64_t full = 0;
    for (int64_t i = 0; i < out->num_hidden_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        bool is_full = type && strcmp(type, "full_attention") == 0;
        if (!is_full && !(type && strcmp(type, "sliding_attention") == 0))
            return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: layer_types[%lld] \"%.60s\" is not known",
                           where, (long long)i, type ? type : "");
        if (is_full && full < i)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "%s: layer_types: a layer of full attention (%lld) above one with a "
                           "sliding window is not supported",
                           where, (long long)i);
        full += is_full;
    }
    if (full < out->num_hidden_layers && out->sliding_window == 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: layer_types has sliding_attention, but no sliding_window is in use",
                       where);
    out->sliding_window_from_layer = full;
    return LT_OK;
}

static lt_status read_sliding_window(const json_t *config, const char *where, lt_model_config *out,
                                     lt_err *err)
{
    if (out->family->sliding == LT_SLIDING_NONE) return LT_OK;
    bool on = out->family->sliding == LT_SLIDING_ALL;
    if (!on) LT_TRY(lt_json_get_bool(config, "use_sliding_window", where, &on, err));
    if (json_is_null(json_object_get(config, "sliding_window"))) on = false;
    LT_TRY(
        lt_json_get_int(config, "sliding_window", 1, INT32_MAX, where, &out->sliding_window, err));
    if (!on) out->sliding_window = 0;
    if (out->family->sliding == LT_SLIDING_UPPER)
        LT_TRY(lt_json_get_int(config, "max_window_layers", 0, INT32_MAX, where,
                               &out->sliding_window_from_layer, err));
    LT_TRY(read_layer_types(config, where, out, err));
    if (out->sliding_window_from_layer >= out->num_hidden_layers) out->sliding_window = 0;
    if (out->sliding_window == 0) out->sliding_window_from_layer = 0;
    return LT_OK;
}

/* --- Token ids ---------------------------------------------------------------------------------
 */

/* One id: a number, null or a negative number (none). A missing key leaves *out alone. */
static lt_status read_token_id(const json_t *object, const char *key, const char *where,
                               int32_t *out, lt_err *err)
{
    const json_t *value = json_object_get(object, key);
    if (!value) return LT_OK;
    int64_t id = -1;
    LT_TRY(lt_json_get_int(object, key, INT32_MIN, INT32_MAX, where, &id, err));
    *out = id < 0 ? -1 : (int32_t)id;
    return LT_OK;
}

static lt_status read_eos_ids(const json_t *object, const char *where, lt_model_config *out,
                              lt_err *err)
{
    const json_t *value = json_object_get(object, "eos_token_id");
    if (!value) return LT_OK;
    if (!json_is_array(value)) {
        int32_t id = -1;
        LT_TRY(read_token_id(object, "eos_token_id", where, &id, err));
        out->eos_token_ids[0] = id;
        out->eos_token_count = id >= 0;
        return LT_OK;
    }
    size_t count = json_array_size(value);
    if (count > LT_MAX_EOS)
        return lt_fail(err, LT_ERR_LIMIT,
                       "%s: eos_token_id lists %zu ids; at most %d are supported", where, count,
                       LT_MAX_EOS);
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(value, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return lt_fail(err, LT_ERR_FORMAT, "%s: eos_token_id[%zu] is not a token id", where, i);
        out->eos_token_ids[i] = (int32_t)json_integer_value(id);
    }
    out->eos_token_count = (int)count;
    return LT_OK;
}

lt_status lt_config_read_token_ids(const json_t *object, const char *where, lt_model_config *out,
                                   lt_err *err)
{
    LT_TRY(read_token_id(object, "bos_token_id", where, &out->bos_token_id, err));
    LT_TRY(read_token_id(object, "pad_token_id", where, &out->pad_token_id, err));
    return read_eos_ids(object, where, out, err);
}

/* --- Which family ------------------------------------------------------------------------------
 */

static lt_status refuse_quantised(const json_t *config, const char *where, lt_err *err)
{
    const json_t *quantisation = json_object_get(config, "quantization_config");
    if (!quantisation || json_is_null(quantisation)) return LT_OK;
    const char *method = json_string_value(json_object_get(quantisation, "quant_method"));
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "%s: quantised weights (quantization_config, method \"%.60s\") are not "
                   "supported; use the original f32, f16 or bf16 model",
                   where, method ? method : "unknown");
}

static lt_status choose_family(const json_t *config, const char *where, const lt_family **out,
                               lt_err *err)
{
    const char *type = NULL, *architecture = NULL;
    LT_TRY(lt_json_get_string(config, "model_type", where, &type, err));
    const json_t *list = json_object_get(config, "architectures");
    if (list && !json_is_null(list)) {
        if (!json_is_array(list))
            return lt_fail(err, LT_ERR_FORMAT, "%s: architectures is not a list", where);
        const json_t *first = json_array_get(list, 0);
        architecture = json_string_value(first);
        if (first && !architecture)
            return lt_fail(err, LT_ERR_FORMAT, "%s: architectures[0] is not a string", where);
    }
    if (!type && !architecture)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: neither model_type nor architectures says which model this is", where);

    const lt_family *by_type = type ? lt_family_by_name(type) : NULL;
    const lt_family *by_class = architecture ? lt_family_by_architecture(architecture) : NULL;
    if (architecture ? !by_class : !by_type)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: %s \"%.80s\" is not supported (GPT2LMHeadModel, GPTNeoXForCausalLM, "
                       "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and "
                       "Qwen3ForCausalLM are)",
                       where, architecture ? "architecture" : "model_type",
                       architecture ? architecture : type);
    if (type && by_class && by_type != by_class)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: model_type \"%.60s\" does not go with architecture \"%.80s\"", where,
                       type, architecture);
    *out = by_class ? by_class : by_type;
    return LT_OK;
}

/* --- Checks ------------------------------------------------------------------------------------
 */

static lt_status check_bound(int64_t value, int64_t max, const char *name, const char *where,
                             lt_err *err)
{
    if (value < 1) return lt_fail(err, LT_ERR_FORMAT, "%s: the %s is missing or 0", where, name);
    if (value > max)
        return lt_fail(err, LT_ERR_LIMIT, "%s: %lld as the %s is impossible; at most %lld", where,
                       (long long)value, name, (long long)max);
    return LT_OK;
}

static lt_status check_bounds(const lt_model_config *config, const char *where, lt_err *err)
{
    const struct {
        int64_t value, max;
        const char *name;
    } bounds[] = {
        {config->vocab_size, MAX_VOCAB, "vocabulary size"},
        {config->hidden_size, MAX_WIDTH, "hidden size"},
        {config->num_hidden_layers, MAX_LAYERS, "number of layers"},
        {config->num_attention_heads, MAX_HEADS, "number of attention heads"},
        {config->max_position_embeddings, MAX_POSITIONS, "largest position"},
    };
    for (size_t i = 0; i < LT_COUNT_OF(bounds); i++)
        LT_TRY(check_bound(bounds[i].value, bounds[i].max, bounds[i].name, where, err));
    return LT_OK;
}

/* What follows from other sizes when the file is silent. */
static lt_status derive_sizes(lt_model_config *config, const char *where, lt_err *err)
{
    long long hidden = config->hidden_size, heads = config->num_attention_heads;
    if (config->num_key_value_heads == 0) config->num_key_value_heads = heads;
    long long kv_heads = config->num_key_value_heads;
    if (heads % kv_heads != 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: %lld key/value heads do not divide %lld attention heads", where,
                       kv_heads, heads);
    if (config->head_dim == 0) {
        if (hidden % heads != 0)
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: the hidden size %lld is not divisible by %lld attention heads",
                           where, hidden, heads);
        config->head_dim = hidden / heads;
    }
    if (config->intermediate_size == 0) config->intermediate_size = 4 * hidden;
    LT_TRY(
        check_bound(config->intermediate_size, MAX_INTERMEDIATE, "intermediate size", where, err));
    LT_TRY(check_bound(heads * lt_min_i64(config->head_dim, INT32_MAX), MAX_WIDTH,
                       "width of all heads together", where, err));
    if (config->attention_scale == 0) config->attention_scale = 1 / sqrt((double)config->head_dim);
    return LT_OK;
}

static lt_status check_numbers(const lt_model_config *config, const char *where, lt_err *err)
{
    const double rates[] = {config->embd_pdrop, config->resid_pdrop, config->attn_pdrop};
    for (size_t i = 0; i < LT_COUNT_OF(rates); i++)
        if (!(rates[i] >= 0 && rates[i] < 1))
            return lt_fail(err, LT_ERR_FORMAT, "%s: a dropout rate of %g is not in [0, 1)", where,
                           rates[i]);
    if (!(config->norm_eps >= 0 && config->norm_eps < 1))
        return lt_fail(err, LT_ERR_FORMAT, "%s: a norm epsilon of %g is not in [0, 1)", where,
                       config->norm_eps);
    if (!(config->initializer_range >= 0 && config->initializer_range <= 100))
        return lt_fail(err, LT_ERR_FORMAT, "%s: an initializer_range of %g is not in [0, 100]",
                       where, config->initializer_range);
    if (config->gated_mlp && config->activation != LT_ACTIVATION_SILU)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: hidden_act \"%s\" is not supported in family %s, only silu is", where,
                       lt_activation_config_name(config->activation), config->family->name);
    return LT_OK;
}

static lt_status refuse_variants(const json_t *config, const char *where, lt_err *err)
{
    bool cross_attention = false;
    LT_TRY(lt_json_get_bool(config, "add_cross_attention", where, &cross_attention, err));
    if (cross_attention)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: add_cross_attention is not supported", where);
    return LT_OK;
}

/* --- Entry points ------------------------------------------------------------------------------
 */

static lt_status parse(const json_t *json, const char *where, lt_model_config *out, lt_err *err)
{
    if (!json_is_object(json)) return lt_fail(err, LT_ERR_FORMAT, "%s: not a JSON object", where);
    const lt_family *family = NULL;
    LT_TRY(choose_family(json, where, &family, err));
    LT_TRY(refuse_quantised(json, where, err));
    LT_TRY(refuse_variants(json, where, err));

    *out = family->defaults;
    out->family = family;
    for (size_t i = 0; i < family->key_count; i++)
        LT_TRY(read_key(json, &family->keys[i], where, out, err));
    LT_TRY(check_bounds(out, where, err));
    LT_TRY(derive_sizes(out, where, err));
    LT_TRY(check_numbers(out, where, err));
    LT_TRY(read_rope(json, where, out, err));
    LT_TRY(read_sliding_window(json, where, out, err));
    return lt_config_read_token_ids(json, where, out, err);
}

lt_status lt_model_config_parse(const json_t *config, const char *where, lt_model_config *out,
                                lt_err *err)
{
    lt_status status = parse(config, where, out, err);
    if (status == LT_OK) {
        /* a copy of its own: the caller's may change later */
        out->source = json_deep_copy(config);
        if (!out->source) status = lt_fail_nomem(err, 0, "the model's configuration");
    }
    if (status != LT_OK) memset(out, 0, sizeof *out);
    return status;
}

/* An adapter taken for a model: says what it stands beside. */
static lt_status refuse_adapter(const char *directory, lt_err *err)
{
    lt_adapter_config adapter;
    if (lt_adapter_config_load(directory, &adapter, NULL) != LT_OK)
        adapter = (lt_adapter_config){0};
    lt_fail(
        err, LT_ERR_USAGE,
        "%s is an adapter, not a model: give its base (%.200s) as --model, and this as --adapter",
        directory, adapter.base_model ? adapter.base_model : "a model directory");
    lt_adapter_config_free(&adapter);
    return LT_ERR_USAGE;
}

lt_status lt_model_config_load(const char *directory, lt_model_config *out, lt_err *err)
{
    memset(out, 0, sizeof *out);
    if (lt_is_gguf_file(directory)) return lt_gguf_config_load(directory, out, err);
    lt_status status;
    lt_buffer path = {0};
    json_t *json = NULL;
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "config.json", err), done);
    if (!lt_path_exists(path.data) && lt_is_adapter_directory(directory)) {
        status = refuse_adapter(directory, err);
        goto done;
    }
    LT_TRY_GOTO(status, lt_json_load(path.data, &json, err), done);
    LT_TRY_GOTO(status, lt_model_config_parse(json, path.data, out, err), done);

    LT_TRY_GOTO(status, lt_path_join(&path, directory, "generation_config.json", err), done);
    if (!lt_path_exists(path.data)) goto done;
    LT_TRY_GOTO(status, lt_json_load(path.data, &out->generation_source, err), done);
    if (!json_is_object(out->generation_source)) {
        status = lt_fail(err, LT_ERR_FORMAT, "%s: not a JSON object", path.data);
        goto done;
    }
    status = lt_config_read_token_ids(out->generation_source, path.data, out, err);

done:
    if (status != LT_OK) lt_model_config_free(out);
    json_decref(json);
    lt_buffer_free(&path);
    return status;
}

void lt_model_config_free(lt_model_config *config)
{
    json_decref(config->source);
    json_decref(config->generation_source);
    memset(config, 0, sizeof *config);
}
