/* From parsed JSON to a tokenizer, and the facts about it. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "data_pipeline/tokenizer_internal.h"

const char *lt_special_token_content(const json_t *entry)
{
    const char *text = json_string_value(entry);
    return text ? text : json_string_value(json_object_get(entry, "content"));
}

void lt_tokenizer_free(lt_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    free(tokenizer->where);
    json_decref(tokenizer->json);
    json_decref(tokenizer->config);
    json_decref(tokenizer->special_map);
    free(tokenizer->chat_template);
    lt_bpe_free(&tokenizer->bpe);
    lt_added_tokens_free(&tokenizer->added);
    lt_normalizer_free(&tokenizer->normalizer);
    lt_decoder_free(&tokenizer->decoder);
    lt_ids_free(&tokenizer->prefix);
    lt_ids_free(&tokenizer->suffix);
    free(tokenizer);
}

/* --- Facts ------------------------------------------------------------------------------------
 */

int64_t lt_tokenizer_vocab_size(const lt_tokenizer *tokenizer)
{
    return tokenizer->vocab_size;
}

int32_t lt_tokenizer_token_id(const lt_tokenizer *tokenizer, const char *content)
{
    const lt_added_token *added = lt_added_tokens_find(&tokenizer->added, content, strlen(content));
    if (added) return added->id;
    return lt_vocabulary_find(&tokenizer->bpe.vocabulary, content, strlen(content));
}

const char *lt_tokenizer_token(const lt_tokenizer *tokenizer, int32_t id)
{
    const lt_added_token *added = lt_added_tokens_by_id(&tokenizer->added, id);
    if (added) return added->content;
    return lt_vocabulary_spelling(&tokenizer->bpe.vocabulary, id, NULL);
}

bool lt_tokenizer_is_special(const lt_tokenizer *tokenizer, int32_t id)
{
    const lt_added_token *added = lt_added_tokens_by_id(&tokenizer->added, id);
    return added && added->special;
}

int32_t lt_tokenizer_bos_id(const lt_tokenizer *tokenizer)
{
    return tokenizer->bos_id;
}

int32_t lt_tokenizer_eos_id(const lt_tokenizer *tokenizer)
{
    return tokenizer->eos_id;
}

int32_t lt_tokenizer_pad_id(const lt_tokenizer *tokenizer)
{
    return tokenizer->pad_id;
}

const char *lt_tokenizer_hash(const lt_tokenizer *tokenizer)
{
    return tokenizer->hash;
}

const char *lt_tokenizer_chat_template(const lt_tokenizer *tokenizer)
{
    if (tokenizer->chat_template) return tokenizer->chat_template;
    const json_t *own = json_object_get(tokenizer->config, "chat_template");
    for (size_t i = 0; i < json_array_size(own); i++) {
        const json_t *entry = json_array_get(own, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(entry, "template"));
    }
    return json_string_value(own);
}

const char *lt_tokenizer_named_token(const lt_tokenizer *tokenizer, const char *key)
{
    const char *content = lt_special_token_content(json_object_get(tokenizer->config, key));
    if (content) return content;
    return lt_special_token_content(json_object_get(tokenizer->special_map, key));
}

static int32_t named_token(const lt_tokenizer *tokenizer, const char *key)
{
    const char *content = lt_tokenizer_named_token(tokenizer, key);
    return content ? lt_tokenizer_token_id(tokenizer, content) : -1;
}

lt_status lt_tokenizer_refresh(lt_tokenizer *tokenizer, lt_err *err)
{
    const lt_added_tokens *added = &tokenizer->added;
    tokenizer->vocab_size = tokenizer->bpe.vocabulary.size;
    if (added->count > 0 && added->tokens[added->count - 1].id >= tokenizer->vocab_size)
        tokenizer->vocab_size = added->tokens[added->count - 1].id + 1;
    tokenizer->bos_id = named_token(tokenizer, "bos_token");
    tokenizer->eos_id = named_token(tokenizer, "eos_token");
    tokenizer->pad_id = named_token(tokenizer, "pad_token");
    if (!tokenizer->config && tokenizer->eos_id < 0) {
        tokenizer->eos_id = lt_tokenizer_token_id(tokenizer, "<|endoftext|>");
        if (tokenizer->eos_id < 0) tokenizer->eos_id = lt_tokenizer_token_id(tokenizer, "</s>");
    }
    return lt_tokenizer_compute_hash(tokenizer, err);
}

/* --- Parsing ----------------------------------------------------------------------------------
 */

/* The ids that the post-processor adds must be tokens. */
static lt_status check_template(const lt_tokenizer *tokenizer, const lt_ids *ids, lt_err *err)
{
    for (size_t i = 0; i < ids->count; i++) {
        if (!lt_tokenizer_token(tokenizer, ids->data[i]))
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: the post_processor adds id %d, which is not a token",
                           tokenizer->where, ids->data[i]);
    }
    return LT_OK;
}

static lt_status parse_sections(lt_tokenizer *tokenizer, lt_err *err)
{
    const json_t *json = tokenizer->json;
    const char *where = tokenizer->where, *version = NULL;
    if (!json_is_object(json)) return lt_fail(err, LT_ERR_FORMAT, "%s: not a JSON object", where);
    LT_TRY(lt_json_get_string(json, "version", where, &version, err));
    if (version && strcmp(version, "1.0") != 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: tokenizer file version \"%.20s\" is not supported (1.0 is)", where,
                       version);
    LT_TRY(lt_parse_normalizer(json_object_get(json, "normalizer"), where, &tokenizer->normalizer,
                               err));
    LT_TRY(lt_parse_pretokenizer(json_object_get(json, "pre_tokenizer"), where,
                                 &tokenizer->pretokenizer, err));
    LT_TRY(lt_parse_decoder(json_object_get(json, "decoder"), where, &tokenizer->decoder, err));
    LT_TRY(lt_parse_post_processor(json_object_get(json, "post_processor"), where,
                                   &tokenizer->prefix, &tokenizer->suffix, err));
    LT_TRY(lt_bpe_build(&tokenizer->bpe, json_object_get(json, "model"),
                        tokenizer->pretokenizer.byte_level, where, err));
    LT_TRY(lt_added_tokens_build(&tokenizer->added, json_object_get(json, "added_tokens"),
                                 &tokenizer->bpe.vocabulary, &tokenizer->normalizer, where, err));
    LT_TRY(check_template(tokenizer, &tokenizer->prefix, err));
    return check_template(tokenizer, &tokenizer->suffix, err);
}

lt_status lt_tokenizer_from_json(json_t *json, json_t *config, json_t *special_map,
                                 const char *where, lt_tokenizer **out, lt_err *err)
{
    *out = NULL;
    lt_unicode_init();
    lt_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        json_decref(json);
        json_decref(config);
        json_decref(special_map);
        return lt_fail_nomem(err, sizeof *tokenizer, "a tokenizer");
    }
    tokenizer->json = json;
    tokenizer->config = config;
    tokenizer->special_map = special_map;
    lt_status status = LT_OK;
    tokenizer->where = strdup(where);
    if (!tokenizer->where) {
        status = lt_fail_nomem(err, strlen(where), "a tokenizer");
        goto done;
    }
    if (config && !json_is_object(config)) {
        status =
            lt_fail(err, LT_ERR_FORMAT, "%s: the tokenizer's config is not a JSON object", where);
        goto done;
    }
    LT_TRY_GOTO(status, parse_sections(tokenizer, err), done);
    LT_TRY_GOTO(status, lt_tokenizer_refresh(tokenizer, err), done);
    *out = tokenizer;
    return LT_OK;
done:
    lt_tokenizer_free(tokenizer);
    return status;
}

lt_status lt_tokenizer_parse(const char *tokenizer_json, size_t tokenizer_json_size,
                             const char *tokenizer_config_json, size_t tokenizer_config_json_size,
                             const char *where, lt_tokenizer **out, lt_err *err)
{
    json_t *json = NULL, *config = NULL;
    *out = NULL;
    LT_TRY(lt_json_parse(tokenizer_json, tokenizer_json_size, where, &json, err));
    if (tokenizer_config_json) {
        lt_status status =
            lt_json_parse(tokenizer_config_json, tokenizer_config_json_size, where, &config, err);
        if (status != LT_OK) {
            json_decref(json);
            return status;
        }
    }
    return lt_tokenizer_from_json(json, config, NULL, where, out, err);
}
