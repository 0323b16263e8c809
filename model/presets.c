/* Shapes of fresh models. A shape is written out as a config.json and read back, so that a fresh
 * model and a loaded one can not mean different things. */
#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "model/config.h"
#include "model/families/families.h"

typedef struct preset {
    const char *name, *family;
    int64_t layers, hidden_size, heads, kv_heads, head_dim, intermediate_size, max_position;
    bool tied;
    double rope_theta, norm_eps; /* 0: the family's */
    int64_t vocab_size;          /* of the published model; a fresh one takes its tokenizer's */
} preset;

/* clang-format off */
static const preset presets[] = {
    /* name            family    layers hidden heads kv  head  inner  positions tied  theta norm_eps  vocabulary */
    {"gpt2-tiny",      "gpt2",      4,   128,   4,  4,   32,   512,    512, true,    0, 0,     50257},
    {"gpt2-small-cpu", "gpt2",      6,   256,   8,  8,   32,  1024,    512, true,    0, 0,     50257},
    {"gpt2-124m",      "gpt2",     12,   768,  12, 12,   64,  3072,   1024, true,    0, 0,     50257},
    {"gpt2-medium",    "gpt2",     24,  1024,  16, 16,   64,  4096,   1024, true,    0, 0,     50257},
    {"gpt2-large",     "gpt2",     36,  1280,  20, 20,   64,  5120,   1024, true,    0, 0,     50257},
    {"gpt2-xl",        "gpt2",     48,  1600,  25, 25,   64,  6400,   1024, true,    0, 0,     50257},
    {"pythia-14m",     "gpt_neox",  6,   128,   4,  4,   32,   512,   2048, false,   0, 0,     50304},
    {"pythia-31m",     "gpt_neox",  6,   256,   8,  8,   32,  1024,   2048, false,   0, 0,     50304},
    {"pythia-70m",     "gpt_neox",  6,   512,   8,  8,   64,  2048,   2048, false,   0, 0,     50304},
    {"pythia-160m",    "gpt_neox", 12,   768,  12, 12,   64,  3072,   2048, false,   0, 0,     50304},
    {"pythia-410m",    "gpt_neox", 24,  1024,  16, 16,   64,  4096,   2048, false,   0, 0,     50304},
    {"pythia-1b",      "gpt_neox", 16,  2048,   8,  8,  256,  8192,   2048, false,   0, 0,     50304},
    {"pythia-1.4b",    "gpt_neox", 24,  2048,  16, 16,  128,  8192,   2048, false,   0, 0,     50304},
    {"pythia-2.8b",    "gpt_neox", 32,  2560,  32, 32,   80, 10240,   2048, false,   0, 0,     50304},
    {"pythia-6.9b",    "gpt_neox", 32,  4096,  32, 32,  128, 16384,   2048, false,   0, 0,     50432},
    {"pythia-12b",     "gpt_neox", 36,  5120,  40, 40,  128, 20480,   2048, false,   0, 0,     50688},
    {"dolly-v2-3b",    "gpt_neox", 32,  2560,  32, 32,   80, 10240,   2048, false,   0, 0,     50280},
    {"dolly-v2-7b",    "gpt_neox", 32,  4096,  32, 32,  128, 16384,   2048, false,   0, 0,     50280},
    {"dolly-v2-12b",   "gpt_neox", 36,  5120,  40, 40,  128, 20480,   2048, false,   0, 0,     50280},
    {"llama-tiny",     "llama",     4,   128,   4,  2,   32,   352,    512, true,    0, 1e-5,  32000},
    {"llama-15m",      "llama",     6,   288,   6,  6,   48,   768,    256, true,    0, 1e-5,  32000},
    {"llama-42m",      "llama",     8,   512,   8,  8,   64,  1376,   1024, true,    0, 1e-5,  32000},
    {"llama-110m",     "llama",    12,   768,  12, 12,   64,  2048,   1024, true,    0, 1e-5,  32000},
    {"llama-1.1b",     "llama",    22,  2048,  32,  4,   64,  5632,   2048, false,   0, 1e-5,  32000},
    {"llama-2-7b",     "llama",    32,  4096,  32, 32,  128, 11008,   4096, false,   0, 1e-5,  32000},
    {"llama-2-13b",    "llama",    40,  5120,  40, 40,  128, 13824,   4096, false,   0, 1e-5,  32000},
    {"llama-2-70b",    "llama",    80,  8192,  64,  8,  128, 28672,   4096, false,   0, 1e-5,  32000},
    {"llama-3-8b",     "llama",    32,  4096,  32,  8,  128, 14336,   8192, false, 5e5, 1e-5, 128256},
    {"llama-3-70b",    "llama",    80,  8192,  64,  8,  128, 28672,   8192, false, 5e5, 1e-5, 128256},
    {"mistral-110m",   "mistral",  12,   768,  12,  4,   64,  2048,   1024, true,    0, 1e-5,  32000},
    {"mistral-7b",     "mistral",  32,  4096,  32,  8,  128, 14336,  32768, false, 1e6, 1e-5,  32768},
    {"qwen2-tiny",     "qwen2",     4,   128,   4,  2,   32,   352,    512, true,  1e6, 0,    151936},
    {"qwen2-0.5b",     "qwen2",    24,   896,  14,  2,   64,  4864,  32768, true,  1e6, 0,    151936},
    {"qwen2-1.5b",     "qwen2",    28,  1536,  12,  2,  128,  8960,  32768, true,  1e6, 0,    151936},
    {"qwen2.5-3b",     "qwen2",    36,  2048,  16,  2,  128, 11008,  32768, true,  1e6, 0,    151936},
    {"qwen2.5-7b",     "qwen2",    28,  3584,  28,  4,  128, 18944, 131072, false, 1e6, 0,    152064},
    {"qwen2.5-14b",    "qwen2",    48,  5120,  40,  8,  128, 13824, 131072, false, 1e6, 1e-5, 152064},
    {"qwen3-tiny",     "qwen3",     4,   128,   4,  2,   32,   352,    512, true,  1e6, 0,    151936},
    {"qwen3-0.6b",     "qwen3",    28,  1024,  16,  8,  128,  3072,  40960, true,  1e6, 0,    151936},
    {"qwen3-1.7b",     "qwen3",    28,  2048,  16,  8,  128,  6144,  40960, true,  1e6, 0,    151936},
    {"qwen3-4b",       "qwen3",    36,  2560,  32,  8,  128,  9728,  40960, true,  1e6, 0,    151936},
    {"qwen3-8b",       "qwen3",    36,  4096,  32,  8,  128, 12288,  40960, false, 1e6, 0,    151936},
};

static const char *const preset_names[] = {
    "gpt2", "gpt2-1.5b", "gpt2-tiny", "gpt2-small-cpu", "gpt2-124m", "gpt2-medium", "gpt2-large",
    "gpt2-xl", "pythia-14m", "pythia-31m", "pythia-70m", "pythia-160m", "pythia-410m", "pythia-1b",
    "pythia-1.4b", "pythia-2.8b", "pythia-6.9b", "pythia-12b", "dolly-v2-3b", "dolly-v2-7b",
    "dolly-v2-12b", "llama-tiny", "llama-15m", "llama-42m", "llama-110m", "llama-1.1b",
    "llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3-8b", "llama-3-70b", "mistral-110m",
    "mistral-7b", "qwen2-tiny", "qwen2-0.5b", "qwen2-1.5b", "qwen2.5-3b", "qwen2.5-7b",
    "qwen2.5-14b", "qwen3-tiny", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", NULL,
};
/* clang-format on */

const char *const *lt_model_presets(void)
{
    return preset_names;
}

static const preset *find_preset(const char *name)
{
    if (strcmp(name, "gpt2") == 0) name = "gpt2-124m"; /* the name on the Hub */
    if (strcmp(name, "gpt2-1.5b") == 0) name = "gpt2-xl";
    for (size_t i = 0; i < LT_COUNT_OF(presets); i++)
        if (strcmp(presets[i].name, name) == 0) return &presets[i];
    return NULL;
}

int64_t lt_model_preset_vocab(const char *name)
{
    const preset *found = find_preset(name);
    return found ? found->vocab_size : 0;
}

static lt_status unknown_name(const char *what, const char *name, const char *const *names,
                              lt_err *err)
{
    size_t count = 0;
    char list[768] = "";
    for (size_t used = 0; names[count]; count++)
        used += (size_t)snprintf(list + used, used < sizeof list ? sizeof list - used : 0, "%s%s",
                                 count ? ", " : "", names[count]);
    const char *nearest = lt_nearest_name(name, names, count);
    return lt_fail(err, LT_ERR_USAGE, "unknown %s '%.60s'%s%s%s; there are %s", what, name,
                   nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "",
                   list);
}

/* --- From what was asked for to a full shape ---------------------------------------------------
 */

static lt_status choose_preset(const lt_model_shape *shape, const lt_family **family,
                               const preset **out, lt_err *err)
{
    *family = shape->family ? lt_family_by_name(shape->family) : NULL;
    if (shape->family && !*family)
        return unknown_name("family", shape->family, lt_model_families(), err);
    if (!shape->family && !shape->preset)
        return lt_fail(err, LT_ERR_USAGE, "a new model needs a family or a preset");
    *out = find_preset(shape->preset ? shape->preset : (*family)->preset);
    if (!*out) return unknown_name("preset", shape->preset, preset_names, err);
    if (!*family) *family = lt_family_by_name((*out)->family);
    if (strcmp((*family)->name, (*out)->family) != 0)
        return lt_fail(err, LT_ERR_USAGE, "preset %s is of family %s, not %s", (*out)->name,
                       (*out)->family, (*family)->name);
    return LT_OK;
}

static int64_t given_or(int64_t given, int64_t otherwise)
{
    return given > 0 ? given : otherwise;
}

/* A width of one's own makes the sizes that depend on it follow, unless they are given too. */
static lt_status merge_shape(const lt_model_shape *shape, const preset *base,
                             lt_model_config *config, lt_err *err)
{
    bool own_width = shape->hidden_size > 0 && shape->hidden_size != base->hidden_size;
    int64_t hidden = given_or(shape->hidden_size, base->hidden_size);
    /* heads of 64, as nearly all models have; of a divisor below when that does not fit */
    int64_t head = 64;
    while (hidden % head != 0 || hidden / head < 2)
        if ((head /= 2) < 8) break;
    if (own_width && shape->heads <= 0 && head < 8)
        return lt_fail(err, LT_ERR_USAGE,
                       "a hidden size of %lld suggests no number of heads: say --heads too",
                       (long long)hidden);
    int64_t heads = given_or(shape->heads, own_width ? hidden / head : base->heads);
    int64_t default_inner =
        config->gated_mlp ? (8 * hidden / 3 + 31) / 32 * 32 : 4 * hidden; /* the usual ratios */

    config->num_hidden_layers = given_or(shape->layers, base->layers);
    config->hidden_size = hidden;
    config->num_attention_heads = heads;
    config->num_key_value_heads =
        given_or(shape->kv_heads, heads == base->heads ? base->kv_heads : heads);
    config->intermediate_size =
        given_or(shape->intermediate_size, own_width ? default_inner : base->intermediate_size);
    config->max_position_embeddings = given_or(shape->max_position, base->max_position);
    if (shape->initializer_range > 0) config->initializer_range = shape->initializer_range;
    config->head_dim = !own_width && heads == base->heads ? base->head_dim : 0;
    if (config->head_dim == 0) {
        if (hidden % heads != 0)
            return lt_fail(err, LT_ERR_USAGE,
                           "a hidden size of %lld is not divisible by %lld heads",
                           (long long)hidden, (long long)heads);
        config->head_dim = hidden / heads;
    }
    return LT_OK;
}

/* --- To JSON, in the names of transformers v4, which every reader knows ------------------------
 */

json_t *lt_config_key_json(const lt_model_config *config, const lt_config_key *key)
{
    const void *field = (const char *)config + key->offset;
    switch (key->kind) {
    case LT_KEY_INT:
        return json_integer(*(const int64_t *)field);
    case LT_KEY_NUMBER:
        return json_real(*(const double *)field);
    case LT_KEY_BOOL:
        return json_boolean(*(const bool *)field);
    case LT_KEY_ACTIVATION:
        return json_string(lt_activation_config_name(*(const lt_activation *)field));
    case LT_KEY_UNIT_SCALE:
        return json_true(); /* fresh models scale as usual */
    }
    return NULL;
}

static json_t *id_or_null(int32_t id)
{
    return id >= 0 ? json_integer(id) : json_null();
}

static bool write_rope(const lt_model_config *config, json_t *object)
{
    const lt_family *family = config->family;
    if (config->rope_type == LT_ROPE_NONE) return true;
    bool ok = json_object_set_new(object, family->theta_key, json_real(config->rope_theta)) == 0 &&
              json_object_set_new(object, "rope_scaling", json_null()) == 0;
    if (family->partial_key)
        ok = ok && json_object_set_new(object, family->partial_key,
                                       json_real(family->partial_default)) == 0;
    return ok;
}

static json_t *config_json(const lt_model_config *config, const lt_model_shape *shape)
{
    const lt_family *family = config->family;
    json_t *object = json_object(), *classes = json_array();
    bool ok = object && classes &&
              json_array_append_new(classes, json_string(family->architecture)) == 0 &&
              json_object_set(object, "architectures", classes) == 0 &&
              json_object_set_new(object, "model_type", json_string(family->name)) == 0;
    for (size_t i = 0; ok && i < family->key_count; i++)
        ok = json_object_set_new(object, family->keys[i].key,
                                 lt_config_key_json(config, &family->keys[i])) == 0;
    ok = ok && write_rope(config, object);
    if (family->sliding != LT_SLIDING_NONE)
        ok = ok && json_object_set_new(object, "sliding_window", json_null()) == 0;
    if (family->sliding == LT_SLIDING_UPPER)
        ok = ok && json_object_set_new(object, "use_sliding_window", json_false()) == 0;
    ok = ok && json_object_set_new(object, "bos_token_id", id_or_null(shape->bos_token_id)) == 0 &&
         json_object_set_new(object, "eos_token_id", id_or_null(shape->eos_token_id)) == 0 &&
         json_object_set_new(object, "pad_token_id", id_or_null(shape->pad_token_id)) == 0 &&
         json_object_set_new(object, "torch_dtype", json_string("float32")) == 0 &&
         json_object_set_new(object, "use_cache", json_true()) == 0;
    json_decref(classes);
    if (ok) return object;
    json_decref(object);
    return NULL;
}

lt_status lt_model_config_make(const lt_model_shape *shape, lt_model_config *out, lt_err *err)
{
    memset(out, 0, sizeof *out);
    const lt_family *family = NULL;
    const preset *base = NULL;
    LT_TRY(choose_preset(shape, &family, &base, err));
    if (shape->vocab_size < 1)
        return lt_fail(err, LT_ERR_USAGE, "a new model needs the size of its vocabulary");

    lt_model_config config = family->defaults;
    config.family = family;
    config.vocab_size = shape->vocab_size;
    config.tie_word_embeddings = base->tied;
    if (base->rope_theta > 0) config.rope_theta = base->rope_theta;
    if (base->norm_eps > 0) config.norm_eps = base->norm_eps;
    LT_TRY(merge_shape(shape, base, &config, err));

    json_t *json = config_json(&config, shape);
    if (!json) return lt_fail_nomem(err, 0, "the model's configuration");
    lt_status status = lt_model_config_parse(json, "the new model's configuration", out, err);
    json_decref(json);
    /* it was the caller who asked for this, not a file */
    if (status == LT_ERR_FORMAT || status == LT_ERR_LIMIT || status == LT_ERR_UNSUPPORTED) {
        status = LT_ERR_USAGE;
        if (err) err->code = status;
    }
    return status;
}
