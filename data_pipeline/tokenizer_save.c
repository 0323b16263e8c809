/* Writing a tokenizer back, and adding special tokens to it. */
#include <stdio.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "data_pipeline/tokenizer_internal.h"

/* --- tokenizer_config.json --------------------------------------------------------------------
 */

static lt_status set(json_t *object, const char *key, json_t *value, lt_err *err)
{
    if (!value || json_object_set_new(object, key, value) != 0)
        return lt_fail_nomem(err, 256, "a tokenizer's config");
    return LT_OK;
}

/* What `added_tokens_decoder` says of a token; with_id: as in tokenizer.json's `added_tokens`. */
static json_t *describe(const lt_added_token *token, bool with_id)
{
    json_t *entry = json_object();
    if (with_id) json_object_set_new(entry, "id", json_integer(token->id));
    json_object_set_new(entry, "content", json_string(token->content));
    json_object_set_new(entry, "single_word", json_boolean(token->single_word));
    json_object_set_new(entry, "lstrip", json_boolean(token->lstrip));
    json_object_set_new(entry, "rstrip", json_boolean(token->rstrip));
    json_object_set_new(entry, "normalized", json_boolean(token->normalized));
    json_object_set_new(entry, "special", json_boolean(token->special));
    return entry;
}

/* Every added token that the config's `added_tokens_decoder` lacks; what is there stays. */
static lt_status complete_decoder(const lt_tokenizer *tokenizer, json_t *config, lt_err *err)
{
    json_t *decoder = json_object_get(config, "added_tokens_decoder");
    if (!json_is_object(decoder)) {
        decoder = json_object();
        LT_TRY(set(config, "added_tokens_decoder", decoder, err));
    }
    for (size_t i = 0; i < tokenizer->added.count; i++) {
        const lt_added_token *token = &tokenizer->added.tokens[i];
        char key[16];
        snprintf(key, sizeof key, "%d", token->id);
        const json_t *known = json_object_get(decoder, key);
        if (known && json_is_true(json_object_get(known, "special")) == token->special) continue;
        LT_TRY(set(decoder, key, describe(token, false), err));
    }
    return LT_OK;
}

static lt_status set_named(const lt_tokenizer *tokenizer, json_t *config, const char *key,
                           int32_t id, lt_err *err)
{
    if (id < 0 || json_object_get(config, key)) return LT_OK;
    return set(config, key, json_string(lt_tokenizer_token(tokenizer, id)), err);
}

/* The config as it is written: what was read, completed. *out: caller owns. */
static lt_status make_config(const lt_tokenizer *tokenizer, json_t **out, lt_err *err)
{
    *out = tokenizer->config ? json_deep_copy(tokenizer->config) : json_object();
    if (!*out) return lt_fail_nomem(err, 1024, "a tokenizer's config");
    lt_status status = LT_OK;
    if (!json_object_get(*out, "tokenizer_class"))
        LT_TRY_GOTO(status,
                    set(*out, "tokenizer_class", json_string("PreTrainedTokenizerFast"), err),
                    done);
    LT_TRY_GOTO(status, set_named(tokenizer, *out, "bos_token", tokenizer->bos_id, err), done);
    LT_TRY_GOTO(status, set_named(tokenizer, *out, "eos_token", tokenizer->eos_id, err), done);
    LT_TRY_GOTO(status, set_named(tokenizer, *out, "pad_token", tokenizer->pad_id, err), done);
    status = complete_decoder(tokenizer, *out, err);
done:
    if (status != LT_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return status;
}

/* What is in files of its own otherwise. */
static lt_status take_in_other_files(const lt_tokenizer *tokenizer, json_t *config, lt_err *err)
{
    static const char *const keys[] = {"unk_token", "sep_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *token = lt_tokenizer_named_token(tokenizer, keys[i]);
        if (token && !lt_special_token_content(json_object_get(config, keys[i])))
            LT_TRY(set(config, keys[i], json_string(token), err));
    }
    if (!tokenizer->chat_template) return LT_OK;
    return set(config, "chat_template", json_string(tokenizer->chat_template), err);
}

lt_status lt_tokenizer_to_json(const lt_tokenizer *tokenizer, lt_buffer *tokenizer_json,
                               lt_buffer *tokenizer_config_json, lt_err *err)
{
    json_t *config;
    LT_TRY(lt_json_dump(tokenizer->json, 2, tokenizer_json, err));
    LT_TRY(make_config(tokenizer, &config, err));
    lt_status status = take_in_other_files(tokenizer, config, err);
    if (status == LT_OK) status = lt_json_dump(config, 2, tokenizer_config_json, err);
    json_decref(config);
    return status;
}

/* --- special_tokens_map.json ------------------------------------------------------------------
 */

/* The named tokens of the config over what the file had. NULL in *out: there are none. */
static lt_status make_special_map(const lt_tokenizer *tokenizer, const json_t *config, json_t **out,
                                  lt_err *err)
{
    static const char *const keys[] = {
        "bos_token", "eos_token", "unk_token",  "sep_token",
        "pad_token", "cls_token", "mask_token", "additional_special_tokens"};
    *out = tokenizer->special_map ? json_deep_copy(tokenizer->special_map) : json_object();
    if (!*out) return lt_fail_nomem(err, 256, "the special tokens");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *value = json_object_get(config, keys[i]);
        if (!value || json_is_null(value)) continue;
        if (i + 1 < sizeof keys / sizeof *keys && json_object_get(*out, keys[i])) continue;
        if (json_object_set(*out, keys[i], value) != 0) {
            json_decref(*out);
            *out = NULL;
            return lt_fail_nomem(err, 256, "the special tokens");
        }
    }
    if (json_object_size(*out) == 0) {
        json_decref(*out);
        *out = NULL;
    }
    return LT_OK;
}

static lt_status write_json(const char *directory, const char *name, const json_t *value,
                            lt_buffer *path, lt_err *err)
{
    LT_TRY(lt_path_join(path, directory, name, err));
    return lt_json_write_file(path->data, value, err);
}

lt_status lt_tokenizer_save(const lt_tokenizer *tokenizer, const char *directory, lt_err *err)
{
    json_t *config = NULL, *special_map = NULL;
    lt_buffer path = {0};
    lt_status status = make_config(tokenizer, &config, err);
    if (status != LT_OK) return status;
    LT_TRY_GOTO(status, make_special_map(tokenizer, config, &special_map, err), done);
    LT_TRY_GOTO(status, write_json(directory, "tokenizer.json", tokenizer->json, &path, err), done);
    LT_TRY_GOTO(status, write_json(directory, "tokenizer_config.json", config, &path, err), done);
    if (special_map)
        LT_TRY_GOTO(status,
                    write_json(directory, "special_tokens_map.json", special_map, &path, err),
                    done);
    if (tokenizer->chat_template) {
        LT_TRY_GOTO(status, lt_path_join(&path, directory, "chat_template.jinja", err), done);
        status = lt_write_file(path.data, tokenizer->chat_template,
                               strlen(tokenizer->chat_template), err);
    }
done:
    json_decref(config);
    json_decref(special_map);
    lt_buffer_free(&path);
    return status;
}

/* --- Adding special tokens --------------------------------------------------------------------
 */

/* Puts the token into the `added_tokens` copy: a new entry, or `special` on the one that is there.
 * *next_id goes up when the token is new to the whole vocabulary. */
static lt_status add_special(const lt_tokenizer *tokenizer, const char *content, json_t *array,
                             int64_t *next_id, lt_err *err)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        json_t *entry = json_array_get(array, i);
        const char *known = json_string_value(json_object_get(entry, "content"));
        if (known && strcmp(known, content) == 0) return set(entry, "special", json_true(), err);
    }
    size_t size = strlen(content);
    int32_t id = lt_vocabulary_find(&tokenizer->bpe.vocabulary, content, size);
    if (id < 0 && *next_id > LT_MAX_TOKEN_ID)
        return lt_fail(err, LT_ERR_LIMIT, "%s: there is no id left for token \"%.100s\"",
                       tokenizer->where, content);
    lt_added_token token = {.content = (char *)content, .special = true};
    token.id = id >= 0 ? id : (int32_t)(*next_id)++;
    if (json_array_append_new(array, describe(&token, true)) != 0)
        return lt_fail_nomem(err, size, "an added token");
    return LT_OK;
}

/* The same names in the config's additional_special_tokens. */
static lt_status name_special(json_t *config, const char *content, lt_err *err)
{
    json_t *list = json_object_get(config, "additional_special_tokens");
    if (!json_is_array(list)) {
        list = json_array();
        LT_TRY(set(config, "additional_special_tokens", list, err));
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *known = lt_special_token_content(json_array_get(list, i));
        if (known && strcmp(known, content) == 0) return LT_OK;
    }
    if (json_array_append_new(list, json_string(content)) != 0)
        return lt_fail_nomem(err, strlen(content), "a tokenizer's config");
    return LT_OK;
}

/* The id after all others, counted as the reference library counts. */
static int64_t next_free_id(const lt_tokenizer *tokenizer)
{
    const lt_added_tokens *added = &tokenizer->added;
    int64_t count = tokenizer->bpe.vocabulary.count;
    int64_t last = added->count ? added->tokens[added->count - 1].id : -1;
    return last >= count ? last + 1 : count;
}

lt_status lt_tokenizer_add_special_tokens(lt_tokenizer *tokenizer, const char *const *contents,
                                          size_t count, size_t *added, lt_err *err)
{
    if (added) *added = 0;
    const json_t *present = json_object_get(tokenizer->json, "added_tokens");
    json_t *array = json_is_array(present) ? json_deep_copy(present) : json_array();
    json_t *config = NULL;
    lt_added_tokens built = {0};
    int64_t first_id = next_free_id(tokenizer), next_id = first_id;
    lt_status status =
        array ? make_config(tokenizer, &config, err) : lt_fail_nomem(err, 1024, "the added tokens");
    for (size_t i = 0; status == LT_OK && i < count; i++) {
        size_t size = strlen(contents[i]);
        if (size == 0 || lt_utf8_valid_prefix(contents[i], size) != size)
            status = lt_fail(err, LT_ERR_USAGE, "special token %zu is empty or not UTF-8", i + 1);
        if (status == LT_OK) status = add_special(tokenizer, contents[i], array, &next_id, err);
        if (status == LT_OK) status = name_special(config, contents[i], err);
    }
    if (status == LT_OK)
        status = lt_added_tokens_build(&built, array, &tokenizer->bpe.vocabulary,
                                       &tokenizer->normalizer, tokenizer->where, err);
    if (status == LT_OK) status = set(tokenizer->json, "added_tokens", json_incref(array), err);
    if (status != LT_OK) {
        lt_added_tokens_free(&built);
        json_decref(config);
        json_decref(array);
        return status;
    }
    lt_added_tokens_free(&tokenizer->added);
    tokenizer->added = built;
    json_decref(tokenizer->config);
    tokenizer->config = config;
    json_decref(array);
    if (added) *added = (size_t)(next_id - first_id);
    return lt_tokenizer_refresh(tokenizer, err);
}
