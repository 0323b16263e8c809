/* lt_model_config back to JSON: the text it came from, with only those keys changed that no longer
 * hold. */
#include <string.h>

#include "base/json.h"
#include "model/config.h"
#include "model/families/families.h"
#include "model/formats/hf_save.h"

static const char *torch_name(lt_dtype dtype)
{
    switch (dtype) {
    case LT_F32:
        return "float32";
    case LT_BF16:
        return "bfloat16";
    case LT_F16:
        return "float16";
    default:
        return NULL;
    }
}

lt_dtype lt_file_dtype(const char *name)
{
    static const lt_dtype halves[] = {LT_BF16, LT_F16};
    for (int i = 0; i < 2 && name; i++)
        if (strcmp(name, torch_name(halves[i])) == 0 || strcmp(name, lt_dtype_name(halves[i])) == 0)
            return halves[i];
    return LT_F32;
}

static json_t *id_json(int32_t id)
{
    return id >= 0 ? json_integer(id) : json_null();
}

static json_t *eos_json(const lt_model_config *config)
{
    if (config->eos_token_count <= 1)
        return id_json(config->eos_token_count == 1 ? config->eos_token_ids[0] : -1);
    json_t *list = json_array();
    for (int i = 0; list && i < config->eos_token_count; i++) {
        if (json_array_append_new(list, json_integer(config->eos_token_ids[i])) == 0) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}

static bool same_eos(const lt_model_config *a, const lt_model_config *b)
{
    return a->eos_token_count == b->eos_token_count &&
           memcmp(a->eos_token_ids, b->eos_token_ids,
                  (size_t)a->eos_token_count * sizeof *a->eos_token_ids) == 0;
}

/* Both files agree afterwards on an id that has changed since they were read. */
static bool update_token_ids(const lt_model_config *now, const lt_model_config *before,
                             json_t *object)
{
    bool ok = true;
    if (now->bos_token_id != before->bos_token_id)
        ok = json_object_set_new(object, "bos_token_id", id_json(now->bos_token_id)) == 0;
    if (!same_eos(now, before))
        ok = json_object_set_new(object, "eos_token_id", eos_json(now)) == 0 && ok;
    if (now->pad_token_id != before->pad_token_id)
        ok = json_object_set_new(object, "pad_token_id", id_json(now->pad_token_id)) == 0 && ok;
    return ok;
}

/* dtype is v5's key, torch_dtype v4's: the one that is there is kept; v4's when there is none. */
static bool update_dtype(json_t *object, lt_dtype dtype)
{
    static const char *const keys[] = {"dtype", "torch_dtype"};
    bool found = false, ok = true;
    for (size_t i = 0; i < LT_COUNT_OF(keys); i++) {
        if (!json_object_get(object, keys[i])) continue;
        found = true;
        ok = json_object_set_new(object, keys[i], json_string(torch_name(dtype))) == 0 && ok;
    }
    return found ? ok
                 : json_object_set_new(object, "torch_dtype", json_string(torch_name(dtype))) == 0;
}

/* A base model's class (or none) would be loaded without its head. */
static bool update_architecture(json_t *object, const lt_family *family)
{
    const json_t *first = json_array_get(json_object_get(object, "architectures"), 0);
    const char *name = json_string_value(first);
    if (name && strcmp(name, family->architecture) == 0) return true;
    json_t *list = json_array();
    if (!list || json_array_append_new(list, json_string(family->architecture)) != 0) {
        json_decref(list);
        return false;
    }
    return json_object_set_new(object, "architectures", list) == 0;
}

static bool update_config(const lt_model_config *now, const lt_model_config *before, lt_dtype dtype,
                          json_t *object)
{
    bool ok = update_architecture(object, now->family) && update_dtype(object, dtype) &&
              update_token_ids(now, before, object);
    if (!json_object_get(object, "model_type"))
        ok = json_object_set_new(object, "model_type", json_string(now->family->name)) == 0 && ok;
    if (now->vocab_size != before->vocab_size)
        ok = json_object_set_new(object, "vocab_size", json_integer(now->vocab_size)) == 0 && ok;
    if (now->tie_word_embeddings != before->tie_word_embeddings) {
        json_t *tied = json_boolean(now->tie_word_embeddings);
        ok = json_object_set_new(object, "tie_word_embeddings", tied) == 0 && ok;
    }
    return ok;
}

static json_t *new_generation_config(const lt_model_config *config)
{
    json_t *object = json_object();
    if (object && json_object_set_new(object, "_from_model_config", json_true()) == 0 &&
        json_object_set_new(object, "bos_token_id", id_json(config->bos_token_id)) == 0 &&
        json_object_set_new(object, "eos_token_id", eos_json(config)) == 0 &&
        json_object_set_new(object, "pad_token_id", id_json(config->pad_token_id)) == 0)
        return object;
    json_decref(object);
    return NULL;
}

lt_status lt_config_to_json(const lt_model_config *config, lt_dtype dtype, json_t **out_config,
                            json_t **out_generation, lt_err *err)
{
    *out_config = *out_generation = NULL;
    if (!torch_name(dtype))
        return lt_fail(err, LT_ERR_USAGE, "models are saved as f32, bf16 or f16, not as %s",
                       lt_dtype_name(dtype));
    /* what the two files say together, as when they were read */
    lt_model_config before = {0};
    LT_TRY(lt_model_config_parse(config->source, "config.json", &before, err));
    lt_status status = LT_OK;
    if (config->generation_source)
        LT_TRY_GOTO(status,
                    lt_config_read_token_ids(config->generation_source, "generation_config.json",
                                             &before, err),
                    done);

    *out_config = json_deep_copy(config->source);
    bool ok = *out_config && update_config(config, &before, dtype, *out_config);
    if (config->generation_source) {
        *out_generation = json_deep_copy(config->generation_source);
        ok = ok && *out_generation && update_token_ids(config, &before, *out_generation);
    } else {
        *out_generation = new_generation_config(config);
        ok = ok && *out_generation;
    }
    if (!ok) status = lt_fail_nomem(err, 0, "the model's configuration");

done:
    lt_model_config_free(&before);
    if (status != LT_OK) {
        json_decref(*out_config);
        json_decref(*out_generation);
        *out_config = *out_generation = NULL;
    }
    return status;
}
