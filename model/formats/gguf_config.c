/* A model's configuration as GGUF key-values, both ways. Reading makes the config.json that a
 * Hugging Face directory of the same model would have, so that there is one parser, and saving the
 * model as such a directory works.
 *
 * What llama.cpp's keys can not say, but it computes nevertheless, is kept under "lathe.", which it
 * does not look at. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/config.h"
#include "model/formats/gguf_layout.h"
#include "model/formats/quants.h"

enum { MAX_LAYERS = 512, KEY_SIZE = 96 };

static bool is_fused(const lt_family *family) /* q, k and v in one tensor */
{
    return family == &lt_family_gpt2 || family == &lt_family_gpt_neox;
}

static bool is_llama(const lt_family *family)
{
    return strcmp(lt_gguf_architecture(family), "llama") == 0;
}

/* --- What llama.cpp computes -------------------------------------------------------------------
 */

/* What the configuration asks for beyond that; NULL: nothing. */
static const char *unsupported(const lt_model_config *c)
{
    bool gelu = c->activation == LT_ACTIVATION_GELU || c->activation == LT_ACTIVATION_GELU_TANH;
    if (c->scale_by_inverse_layer) return "scale_attn_by_inverse_layer_idx";
    if (fabs(c->attention_scale * sqrt((double)c->head_dim) - 1) > 1e-6)
        return "attention scores that are not divided by the root of the head size";
    if (!c->gated_mlp && !gelu) return "an activation other than gelu";
    if (c->family == &lt_family_gpt_neox && !(c->attention_bias && c->attention_out_bias))
        return "attention without biases";
    if (!is_fused(c->family) && !is_llama(c->family) && c->attention_out_bias)
        return "a bias on the attention's output";
    if (c->family == &lt_family_qwen2 && c->head_dim * c->num_attention_heads != c->hidden_size)
        return "a head_dim that is not the hidden size divided by the heads";
    if (c->rope_type == LT_ROPE_LLAMA3 && !is_llama(c->family)) return "llama3 rope scaling";
    if (c->num_hidden_layers > MAX_LAYERS) return "more than 512 layers";
    return NULL;
}

/* With a sliding window no context longer than it is offered: up to there all is the same. */
static int64_t context_length(const lt_model_config *c)
{
    return c->sliding_window > 0 ? lt_min_i64(c->sliding_window, c->max_position_embeddings)
                                 : c->max_position_embeddings;
}

lt_status lt_gguf_check_supported(const lt_model_config *config, lt_buffer *notes, lt_err *err)
{
    const char *what = unsupported(config);
    if (what)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "llama.cpp's architecture %s does not have %s, which this model has; export "
                       "it as hf instead",
                       lt_gguf_architecture(config->family), what);
    if (!notes) return LT_OK;
    if (context_length(config) < config->max_position_embeddings)
        LT_TRY(lt_buffer_printf(notes, err,
                                "sliding_window: llama.cpp has none here; the context is given as "
                                "%lld tokens, within which nothing differs\n",
                                (long long)context_length(config)));
    if (config->activation == LT_ACTIVATION_GELU)
        LT_TRY(lt_buffer_append_text(
            notes, "gelu: llama.cpp computes it by the tanh formula: logits differ slightly\n",
            err));
    return LT_OK;
}

/* --- Writing -----------------------------------------------------------------------------------
 */

/* Keys below the architecture's name. */
typedef struct key_writer {
    lt_gguf_keys *keys;
    const char *architecture;
    lt_err *err;
} key_writer;

static lt_status add_int(const key_writer *w, const char *name, int64_t value)
{
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.%s", w->architecture, name);
    return lt_gguf_add_u32(w->keys, key, (uint32_t)value, w->err);
}

static lt_status add_number(const key_writer *w, const char *name, double value)
{
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.%s", w->architecture, name);
    return lt_gguf_add_f32(w->keys, key, (float)value, w->err);
}

static lt_status add_text(lt_gguf_keys *keys, const char *key, const char *text, lt_err *err)
{
    return lt_gguf_add_string(keys, key, text, strlen(text), err);
}

static lt_status add_sizes(const key_writer *w, const lt_model_config *c)
{
    LT_TRY(add_int(w, "context_length", context_length(c)));
    LT_TRY(add_int(w, "embedding_length", c->hidden_size));
    LT_TRY(add_int(w, "block_count", c->num_hidden_layers));
    LT_TRY(add_int(w, "feed_forward_length", c->intermediate_size));
    LT_TRY(add_int(w, "attention.head_count", c->num_attention_heads));
    LT_TRY(add_int(w, "vocab_size", c->vocab_size));
    if (is_fused(c->family)) return LT_OK;
    LT_TRY(add_int(w, "attention.head_count_kv", c->num_key_value_heads));
    LT_TRY(add_int(w, "attention.key_length", c->head_dim));
    return add_int(w, "attention.value_length", c->head_dim);
}

/* What llama.cpp has no keys for, but a model that is read back should have. */
static lt_status add_own(const lt_model_config *c, lt_gguf_keys *keys, lt_err *err)
{
    const lt_family *family = c->family;
    if (lt_gguf_family(lt_gguf_architecture(family)) != family)
        LT_TRY(add_text(keys, "lathe.model_type", family->name, err));
    if (c->activation != family->defaults.activation)
        LT_TRY(add_text(keys, "lathe.hidden_act", lt_activation_config_name(c->activation), err));
    if (c->sliding_window == 0) return LT_OK;
    LT_TRY(
        lt_gguf_add_u32(keys, "lathe.context_length", (uint32_t)c->max_position_embeddings, err));
    LT_TRY(lt_gguf_add_u32(keys, "lathe.sliding_window", (uint32_t)c->sliding_window, err));
    return lt_gguf_add_u32(keys, "lathe.sliding_window_from_layer",
                           (uint32_t)c->sliding_window_from_layer, err);
}

static lt_status add_rope(const key_writer *w, const lt_model_config *c)
{
    if (c->rope_type == LT_ROPE_NONE) return LT_OK;
    LT_TRY(add_int(w, "rope.dimension_count", c->rotary_dim));
    LT_TRY(add_number(w, "rope.freq_base", c->rope_theta));
    if (c->rope_type == LT_ROPE_LINEAR) {
        char key[KEY_SIZE];
        snprintf(key, sizeof key, "%s.rope.scaling.type", w->architecture);
        LT_TRY(add_text(w->keys, key, "linear", w->err));
        return add_number(w, "rope.scaling.factor", c->rope_factor);
    }
    if (c->rope_type != LT_ROPE_LLAMA3) return LT_OK;
    /* llama.cpp has the frequencies' divisors as a tensor; from those nobody can tell these */
    LT_TRY(lt_gguf_add_f32(w->keys, "lathe.rope.factor", (float)c->rope_factor, w->err));
    LT_TRY(lt_gguf_add_f32(w->keys, "lathe.rope.low_freq_factor", (float)c->rope_low_freq_factor,
                           w->err));
    LT_TRY(lt_gguf_add_f32(w->keys, "lathe.rope.high_freq_factor", (float)c->rope_high_freq_factor,
                           w->err));
    return lt_gguf_add_u32(w->keys, "lathe.rope.original_context_length",
                           (uint32_t)c->rope_original_max_position, w->err);
}

lt_status lt_gguf_add_config(const lt_model_config *config, lt_gguf_keys *keys, lt_err *err)
{
    const key_writer w = {keys, lt_gguf_architecture(config->family), err};
    bool rms = config->norm == LT_NORM_RMS;
    LT_TRY(add_sizes(&w, config));
    LT_TRY(add_number(&w, rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
                      config->norm_eps));
    LT_TRY(add_rope(&w, config));
    if (config->family == &lt_family_gpt_neox)
        LT_TRY(lt_gguf_add_bool(keys, "gptneox.use_parallel_residual", config->parallel_residual,
                                err));
    return add_own(config, keys, err);
}

double lt_gguf_rope_divisor(const lt_model_config *c, int64_t i)
{
    double exponent = (double)(2 * i) / (double)c->rotary_dim;
    double wavelength = 2 * M_PI * pow(c->rope_theta, exponent);
    double original = (double)c->rope_original_max_position;
    double low = c->rope_low_freq_factor, high = c->rope_high_freq_factor;
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return c->rope_factor;
    double smooth = (original / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / c->rope_factor + smooth);
}

/* --- Reading -----------------------------------------------------------------------------------
 */

typedef struct key_reader {
    const lt_gguf *file;
    const char *architecture;
    lt_err *err;
} key_reader;

static lt_status get_int(const key_reader *r, const char *name, int64_t min, int64_t *out)
{
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.%s", r->architecture, name);
    return lt_gguf_get_int(r->file, key, min, INT32_MAX, out, r->err);
}

static lt_status need_int(const key_reader *r, const char *name, int64_t *out)
{
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.%s", r->architecture, name);
    if (!lt_gguf_value_of(r->file, key))
        return lt_fail(r->err, LT_ERR_FORMAT, "%s: key \"%s\" is missing", r->file->path, key);
    return lt_gguf_get_int(r->file, key, 1, INT32_MAX, out, r->err);
}

/* The shortest decimal number that the f32 is nearest to: 1e-5, not 9.99999975e-06. */
static double shortest(double value)
{
    char text[32];
    for (int digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtof(text, NULL) == (float)value) return strtod(text, NULL);
    }
    return value;
}

static lt_status get_number(const lt_gguf *file, const char *key, double *out, lt_err *err)
{
    bool present = lt_gguf_value_of(file, key) != NULL;
    LT_TRY(lt_gguf_get_number(file, key, out, err));
    if (!isfinite(*out))
        return lt_fail(err, LT_ERR_FORMAT, "%s: key \"%s\" is not finite", file->path, key);
    if (present && (double)(float)*out == *out) *out = shortest(*out);
    return LT_OK;
}

static lt_status get_own_number(const key_reader *r, const char *name, double *out)
{
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.%s", r->architecture, name);
    return get_number(r->file, key, out, r->err);
}

static bool has_tensor(const lt_gguf *file, const char *name)
{
    return lt_gguf_find(file, name) != NULL;
}

static lt_status read_family(const lt_gguf *file, const lt_family **out, lt_err *err)
{
    const char *name = "", *type = "model";
    size_t size = 0, type_size = 5;
    LT_TRY(lt_gguf_get_string(file, "general.architecture", &name, &size, err));
    LT_TRY(lt_gguf_get_string(file, "general.type", &type, &type_size, err));
    if (type_size != 5 || memcmp(type, "model", 5) != 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: a GGUF file of type \"%.*s\" is not a model",
                       file->path, (int)lt_min_i64((int64_t)type_size, 40), type);
    char architecture[32];
    snprintf(architecture, sizeof architecture, "%.*s", (int)lt_min_i64((int64_t)size, 31), name);
    *out = lt_gguf_family(architecture);
    if (!*out)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: architecture \"%s\" is not supported (gpt2, gptneox, llama, qwen2 "
                       "and qwen3 are)",
                       file->path, architecture);
    LT_TRY(lt_gguf_get_string(file, "lathe.model_type", &name, &size, err));
    bool mistral = size == 7 && memcmp(name, "mistral", 7) == 0;
    if (*out == &lt_family_llama && mistral) *out = &lt_family_mistral;
    return LT_OK;
}

static lt_status read_sizes(const key_reader *r, lt_model_config *c)
{
    const lt_gguf_tensor *tokens = lt_gguf_find(r->file, "token_embd.weight");
    if (!tokens || tokens->ndim != 2)
        return lt_fail(r->err, LT_ERR_FORMAT, "%s: there is no matrix \"token_embd.weight\"",
                       r->file->path);
    c->vocab_size = tokens->shape[0];
    LT_TRY(need_int(r, "context_length", &c->max_position_embeddings));
    LT_TRY(need_int(r, "embedding_length", &c->hidden_size));
    LT_TRY(need_int(r, "block_count", &c->num_hidden_layers));
    LT_TRY(need_int(r, "feed_forward_length", &c->intermediate_size));
    LT_TRY(need_int(r, "attention.head_count", &c->num_attention_heads));
    c->num_key_value_heads = c->num_attention_heads;
    LT_TRY(get_int(r, "attention.head_count_kv", 1, &c->num_key_value_heads));
    c->head_dim = c->hidden_size / c->num_attention_heads;
    int64_t value_length = c->head_dim, experts = 0;
    LT_TRY(get_int(r, "attention.key_length", 1, &c->head_dim));
    LT_TRY(get_int(r, "attention.value_length", 1, &value_length));
    LT_TRY(get_int(r, "expert_count", 0, &experts));
    bool own_heads = c->num_key_value_heads == c->num_attention_heads;
    if (c->head_dim < 1)
        return lt_fail(r->err, LT_ERR_FORMAT, "%s: more attention heads than hidden dimensions",
                       r->file->path);
    if (value_length != c->head_dim || experts > 0 || (is_fused(c->family) && !own_heads))
        return lt_fail(
            r->err, LT_ERR_UNSUPPORTED, "%s: %s is not supported in architecture %s", r->file->path,
            experts > 0 ? "a mixture of experts" : "this shape of attention", r->architecture);
    return LT_OK;
}

static lt_status read_window(const lt_gguf *file, lt_model_config *c, lt_err *err)
{
    c->sliding_window = c->sliding_window_from_layer = 0;
    if (c->family->sliding == LT_SLIDING_NONE) return LT_OK;
    LT_TRY(lt_gguf_get_int(file, "lathe.context_length", 1, INT32_MAX, &c->max_position_embeddings,
                           err));
    LT_TRY(lt_gguf_get_int(file, "lathe.sliding_window", 1, INT32_MAX, &c->sliding_window, err));
    return lt_gguf_get_int(file, "lathe.sliding_window_from_layer", 0, INT32_MAX,
                           &c->sliding_window_from_layer, err);
}

/* Llama 3's divisors: those of our own keys, or of the published models. */
static lt_status read_rope_freqs(const key_reader *r, lt_model_config *c)
{
    const lt_gguf *file = r->file;
    const lt_gguf_tensor *freqs = lt_gguf_find(file, LT_GGUF_ROPE_FREQS);
    int64_t half = c->head_dim / 2;
    if (!freqs) return LT_OK;
    if (!is_llama(c->family) || c->rope_type != LT_ROPE_DEFAULT || freqs->type != LT_GGUF_F32 ||
        freqs->ndim != 1 || freqs->shape[0] != half)
        return lt_fail(r->err, LT_ERR_UNSUPPORTED,
                       "%s: this tensor \"" LT_GGUF_ROPE_FREQS "\" is not supported", file->path);
    float last;
    lt_gguf_decode(LT_GGUF_F32, freqs->data + freqs->size - sizeof last, 1, &last);
    c->rope_type = LT_ROPE_LLAMA3;
    c->rotary_dim = c->head_dim;
    c->rope_factor = (double)last;
    c->rope_low_freq_factor = 1;
    c->rope_high_freq_factor = 4;
    c->rope_original_max_position = 8192;
    LT_TRY(get_number(file, "lathe.rope.factor", &c->rope_factor, r->err));
    LT_TRY(get_number(file, "lathe.rope.low_freq_factor", &c->rope_low_freq_factor, r->err));
    LT_TRY(get_number(file, "lathe.rope.high_freq_factor", &c->rope_high_freq_factor, r->err));
    LT_TRY(lt_gguf_get_int(file, "lathe.rope.original_context_length", 1, INT32_MAX,
                           &c->rope_original_max_position, r->err));
    for (int64_t i = 0; i < half; i++) {
        float divisor;
        double wanted = lt_gguf_rope_divisor(c, i);
        lt_gguf_decode(LT_GGUF_F32, freqs->data + (size_t)i * sizeof divisor, 1, &divisor);
        if (!(fabs((double)divisor - wanted) <= 1e-4 * fabs(wanted)))
            return lt_fail(r->err, LT_ERR_UNSUPPORTED,
                           "%s: \"" LT_GGUF_ROPE_FREQS "\" is not the rope scaling of Llama 3",
                           file->path);
    }
    return LT_OK;
}

static lt_status read_rope(const key_reader *r, lt_model_config *c)
{
    if (c->family->defaults.rope_type == LT_ROPE_NONE) return LT_OK;
    char key[KEY_SIZE];
    const char *type = "linear"; /* without a factor that is none */
    size_t size = 6;
    c->rotary_dim = c->head_dim;
    c->rope_theta = 10000;
    c->rope_factor = 1;
    LT_TRY(get_int(r, "rope.dimension_count", 1, &c->rotary_dim));
    LT_TRY(get_own_number(r, "rope.freq_base", &c->rope_theta));
    LT_TRY(get_own_number(r, "rope.scale_linear", &c->rope_factor)); /* the older name */
    LT_TRY(get_own_number(r, "rope.scaling.factor", &c->rope_factor));
    snprintf(key, sizeof key, "%s.rope.scaling.type", r->architecture);
    LT_TRY(lt_gguf_get_string(r->file, key, &type, &size, r->err));
    bool none = size == 4 && memcmp(type, "none", 4) == 0;
    if (!none && !(size == 6 && memcmp(type, "linear", 6) == 0))
        return lt_fail(r->err, LT_ERR_UNSUPPORTED,
                       "%s: rope scaling \"%.*s\" is not supported (linear is)", r->file->path,
                       (int)lt_min_i64((int64_t)size, 40), type);
    if (c->rotary_dim > c->head_dim || (!c->family->partial_key && c->rotary_dim != c->head_dim))
        return lt_fail(r->err, LT_ERR_UNSUPPORTED,
                       "%s: rotary embedding of %lld of %lld dimensions is not supported in "
                       "architecture %s",
                       r->file->path, (long long)c->rotary_dim, (long long)c->head_dim,
                       r->architecture);
    c->rope_type = !none && c->rope_factor != 1 ? LT_ROPE_LINEAR : LT_ROPE_DEFAULT;
    return read_rope_freqs(r, c);
}

/* Everything of the file that has a field of its own. */
static lt_status read_fields(const lt_gguf *file, lt_model_config *c, lt_err *err)
{
    const key_reader r = {file, lt_gguf_architecture(c->family), err};
    bool rms = c->norm == LT_NORM_RMS;
    LT_TRY(read_sizes(&r, c));
    LT_TRY(read_window(file, c, err));
    LT_TRY(get_own_number(&r,
                          rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
                          &c->norm_eps));
    LT_TRY(read_rope(&r, c));
    LT_TRY(lt_gguf_get_bool(file, "gptneox.use_parallel_residual", &c->parallel_residual, err));
    c->tie_word_embeddings = !has_tensor(file, "output.weight");
    if (is_llama(c->family)) {
        c->attention_bias = c->attention_out_bias = has_tensor(file, "blk.0.attn_q.bias");
        c->mlp_bias = has_tensor(file, "blk.0.ffn_up.bias");
    } else if (c->family == &lt_family_qwen3) {
        c->attention_bias = c->attention_out_bias = has_tensor(file, "blk.0.attn_q.bias");
    }
    return LT_OK;
}

/* --- To JSON -----------------------------------------------------------------------------------
 */

static bool set(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

/* The part of a head that turns, such that the product with the head's size is cut to it. */
static double rotary_part(const lt_model_config *c)
{
    double part = (double)c->rotary_dim / (double)c->head_dim;
    return (int64_t)((double)c->head_dim * part) < c->rotary_dim ? nextafter(part, 1) : part;
}

static bool write_rope(const lt_model_config *c, json_t *object)
{
    const lt_family *family = c->family;
    if (family->defaults.rope_type == LT_ROPE_NONE) return true;
    json_t *scaling = c->rope_type == LT_ROPE_DEFAULT ? json_null() : json_object();
    bool ok = set(object, family->theta_key, json_real(c->rope_theta));
    if (family->partial_key) ok = ok && set(object, family->partial_key, json_real(rotary_part(c)));
    bool linear = c->rope_type == LT_ROPE_LINEAR, llama3 = c->rope_type == LT_ROPE_LLAMA3;
    if (linear || llama3)
        ok = ok && set(scaling, "rope_type", json_string(linear ? "linear" : "llama3")) &&
             set(scaling, "factor", json_real(c->rope_factor));
    if (llama3)
        ok = ok && set(scaling, "low_freq_factor", json_real(c->rope_low_freq_factor)) &&
             set(scaling, "high_freq_factor", json_real(c->rope_high_freq_factor)) &&
             set(scaling, "original_max_position_embeddings",
                 json_integer(c->rope_original_max_position));
    return set(object, "rope_scaling", scaling) && ok;
}

static bool write_window(const lt_model_config *c, json_t *object)
{
    lt_sliding_rule rule = c->family->sliding;
    bool slides = c->sliding_window > 0, ok = true;
    if (rule == LT_SLIDING_NONE) return true;
    if (rule == LT_SLIDING_UPPER)
        ok = set(object, "use_sliding_window", json_boolean(slides)) &&
             set(object, "max_window_layers", json_integer(c->sliding_window_from_layer));
    return ok &&
           set(object, "sliding_window", slides ? json_integer(c->sliding_window) : json_null());
}

static lt_status read_id(const lt_gguf *file, const char *key, int64_t *out, lt_err *err)
{
    *out = -1;
    LT_TRY(lt_gguf_get_int(file, key, INT32_MIN, UINT32_MAX, out, err));
    if (*out > INT32_MAX) *out = -1; /* 2^32 - 1 says "none" */
    return LT_OK;
}

static json_t *id_json(int64_t id)
{
    return id >= 0 ? json_integer(id) : json_null();
}

/* The end of a text, of a turn and of a message: generation stops at each. */
static lt_status read_eos(const lt_gguf *file, json_t **out, lt_err *err)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int64_t ids[LT_COUNT_OF(keys)];
    json_t *list = json_array();
    bool ok = list != NULL;
    for (size_t i = 0; i < LT_COUNT_OF(keys); i++) {
        lt_status status = read_id(file, keys[i], &ids[i], err);
        if (status != LT_OK) {
            json_decref(list);
            return status;
        }
        bool seen = ids[i] < 0;
        for (size_t k = 0; k < i; k++)
            seen = seen || ids[k] == ids[i];
        if (!seen) ok = ok && json_array_append_new(list, json_integer(ids[i])) == 0;
    }
    size_t count = ok ? json_array_size(list) : 0;
    *out = count > 1    ? json_incref(list)
           : count == 1 ? json_incref(json_array_get(list, 0))
                        : json_null();
    json_decref(list);
    return ok ? LT_OK : lt_fail_nomem(err, 0, "the model's configuration");
}

static lt_status write_ids(const lt_gguf *file, json_t *object, lt_err *err)
{
    int64_t bos, pad;
    json_t *eos = NULL;
    LT_TRY(read_id(file, "tokenizer.ggml.bos_token_id", &bos, err));
    LT_TRY(read_id(file, "tokenizer.ggml.padding_token_id", &pad, err));
    LT_TRY(read_eos(file, &eos, err));
    if (set(object, "eos_token_id", eos) && set(object, "bos_token_id", id_json(bos)) &&
        set(object, "pad_token_id", id_json(pad)))
        return LT_OK;
    return lt_fail_nomem(err, 0, "the model's configuration");
}

/* A name that is not ours is refused by the parser. */
static lt_status write_activation(const lt_gguf *file, const lt_family *family, json_t *object,
                                  lt_err *err)
{
    const char *name = NULL;
    size_t size = 0;
    LT_TRY(lt_gguf_get_string(file, "lathe.hidden_act", &name, &size, err));
    for (size_t i = 0; name && i < family->key_count; i++) {
        if (family->keys[i].kind != LT_KEY_ACTIVATION) continue;
        json_t *text = json_stringn(name, size); /* NULL when it is not UTF-8 */
        if (!text || !set(object, family->keys[i].key, text))
            return lt_fail(err, LT_ERR_FORMAT, "%s: key \"lathe.hidden_act\" is not a name",
                           file->path);
    }
    return LT_OK;
}

static lt_status make_json(const lt_gguf *file, const lt_model_config *c, json_t *object,
                           lt_err *err)
{
    const lt_family *family = c->family;
    json_t *classes = json_array();
    bool ok = classes && json_array_append_new(classes, json_string(family->architecture)) == 0 &&
              json_object_set(object, "architectures", classes) == 0 &&
              set(object, "model_type", json_string(family->name));
    json_decref(classes);
    for (size_t i = 0; ok && i < family->key_count; i++)
        ok = set(object, family->keys[i].key, lt_config_key_json(c, &family->keys[i]));
    if (!ok || !write_window(c, object) || !write_rope(c, object))
        return lt_fail_nomem(err, 0, "the model's configuration");
    LT_TRY(write_activation(file, family, object, err));
    return write_ids(file, object, err);
}

lt_status lt_gguf_read_config(const lt_gguf *file, lt_model_config *out, lt_err *err)
{
    memset(out, 0, sizeof *out);
    const lt_family *family = NULL;
    LT_TRY(read_family(file, &family, err));
    lt_model_config fields = family->defaults;
    fields.family = family;
    LT_TRY(read_fields(file, &fields, err));
    json_t *object = json_object();
    lt_status status = object ? make_json(file, &fields, object, err)
                              : lt_fail_nomem(err, 0, "the model's configuration");
    if (status == LT_OK) status = lt_model_config_parse(object, file->path, out, err);
    json_decref(object);
    return status;
}

lt_status lt_gguf_config_load(const char *path, lt_model_config *out, lt_err *err)
{
    lt_gguf file;
    memset(out, 0, sizeof *out);
    LT_TRY(lt_gguf_open(path, &file, err));
    lt_status status = lt_gguf_read_config(&file, out, err);
    lt_gguf_close(&file);
    return status;
}
