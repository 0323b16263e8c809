/* Texts to ids, by the rules of lm_eval/api/model.py (_encode_pair, loglikelihood) and
 * lm_eval/models/huggingface.py (tok_encode). */
#include <string.h>

#include "train/evaluation/scorer_internal.h"
#include "train/evaluation/words.h"

lt_status lt_text_reader_init(lt_text_reader *reader, const lt_assistant *assistant, lt_err *err)
{
    const lt_model_config *config = &assistant->model->config;
    int32_t prefix = lt_tokenizer_bos_id(assistant->tokenizer);
    if (prefix < 0) prefix = lt_tokenizer_eos_id(assistant->tokenizer);
    if (prefix < 0) prefix = config->bos_token_id;
    if (prefix < 0 && config->eos_token_count > 0) prefix = config->eos_token_ids[0];
    *reader = (lt_text_reader){
        .tokenizer = assistant->tokenizer, .encoder = assistant->encoder, .prefix = prefix};
    if (prefix < 0 || prefix >= lt_tokenizer_vocab_size(assistant->tokenizer)) return LT_OK;
    return lt_decode(assistant->tokenizer, &prefix, 1, false, &reader->spelling, err);
}

void lt_text_reader_free(lt_text_reader *reader)
{
    lt_buffer_free(&reader->spelling);
    lt_buffer_free(&reader->last_text);
    lt_ids_free(&reader->last_ids);
}

lt_status lt_read_text(lt_text_reader *reader, const char *text, size_t size, lt_ids *out,
                       lt_err *err)
{
    const lt_buffer *bos = &reader->spelling;
    bool has_bos = bos->size > 0 && size >= bos->size && memcmp(text, bos->data, bos->size) == 0;
    unsigned flags = LT_ENCODE_PARSE_SPECIAL | (has_bos ? 0 : LT_ENCODE_ADD_SPECIAL);
    return lt_encode(reader->encoder, text, size, flags, out, err);
}

static lt_status read_without_context(lt_text_reader *reader, const char *continuation, lt_ids *out,
                                      int64_t *scored, lt_err *err)
{
    size_t first = out->count;
    if (reader->prefix < 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "a text without a context needs a token to stand in front, and the "
                       "tokenizer names neither bos_token nor eos_token");
    LT_TRY(lt_ids_push(out, reader->prefix, err));
    LT_TRY(lt_encode(reader->encoder, continuation, strlen(continuation), LT_ENCODE_PARSE_SPECIAL,
                     out, err));
    /* the prefix token that the text has itself will do */
    if (out->count > first + 1 && out->data[first + 1] == reader->prefix)
        memmove(out->data + first, out->data + first + 1,
                (--out->count - first) * sizeof *out->data);
    *scored = (int64_t)(out->count - first) - 1;
    return LT_OK;
}

/* The same context comes with each of its choices. */
static lt_status read_context(lt_text_reader *reader, const char *context, size_t size, lt_err *err)
{
    if (reader->last_ids.count > 0 && reader->last_text.size == size &&
        memcmp(reader->last_text.data, context, size) == 0)
        return LT_OK;
    reader->last_ids.count = 0;
    lt_buffer_clear(&reader->last_text);
    LT_TRY(lt_buffer_append(&reader->last_text, context, size, err));
    return lt_read_text(reader, context, size, &reader->last_ids, err);
}

/* Dolly's "### Response:\n" is one token: its white space can not go to the continuation. */
static lt_status ends_in_special(lt_text_reader *reader, const char *context, bool *out,
                                 lt_err *err)
{
    const lt_tokenizer *tokenizer = reader->tokenizer;
    LT_TRY(read_context(reader, context, strlen(context), err));
    const lt_ids *ids = &reader->last_ids;
    int32_t last = ids->count > 0 ? ids->data[ids->count - 1] : -1;
    *out = false;
    if (last < 0 || !lt_tokenizer_is_special(tokenizer, last)) return LT_OK;
    const char *token = lt_tokenizer_token(tokenizer, last);
    *out = lt_size_without_trailing_space(token, strlen(token)) < strlen(token);
    return LT_OK;
}

/* How much of it is the context's own: white space at its end belongs to the continuation. */
static lt_status size_of_context(lt_text_reader *reader, const char *context, size_t *size,
                                 lt_err *err)
{
    size_t all = strlen(context);
    bool special = false;
    *size = lt_size_without_trailing_space(context, all);
    if (*size > 0 && *size < all) LT_TRY(ends_in_special(reader, context, &special, err));
    if (special) *size = all;
    return LT_OK;
}

lt_status lt_read_pair(lt_text_reader *reader, const char *context, const char *continuation,
                       lt_ids *out, int64_t *scored, lt_err *err)
{
    lt_buffer whole = {0};
    size_t size, first = out->count;
    lt_status status;
    LT_TRY(size_of_context(reader, context, &size, err));
    LT_TRY_GOTO(status, lt_buffer_append_text(&whole, context, err), done);
    LT_TRY_GOTO(status, lt_buffer_append_text(&whole, continuation, err), done);
    LT_TRY_GOTO(status, read_context(reader, context, size, err), done);
    if (size == 0 || reader->last_ids.count == 0) {
        status = read_without_context(reader, lt_buffer_text(&whole), out, scored, err);
        goto done;
    }
    LT_TRY_GOTO(status, lt_read_text(reader, whole.data, whole.size, out, err), done);
    *scored = (int64_t)(out->count - first) - (int64_t)reader->last_ids.count;
    /* the model reads the context's own ids, also where the whole text is cut elsewhere */
    for (size_t i = 0; *scored > 0 && i < reader->last_ids.count; i++)
        out->data[first + i] = reader->last_ids.data[i];
done:
    lt_buffer_free(&whole);
    return status;
}
