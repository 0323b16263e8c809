/* The hash that says whether two tokenizers give equal ids: over what was understood of the files,
 * not over their bytes. */
#include <string.h>

#include "base/fsio.h"
#include "data_pipeline/tokenizer_internal.h"

/* Every field goes in with its length or in a fixed width, so that no two different tokenizers can
 * give the same bytes. */
static lt_status put_number(lt_buffer *bytes, int64_t value, lt_err *err)
{
    unsigned char little[8];
    for (int i = 0; i < 8; i++)
        little[i] = (unsigned char)((uint64_t)value >> (8 * i));
    return lt_buffer_append(bytes, little, sizeof little, err);
}

static lt_status put_text(lt_buffer *bytes, const char *text, size_t size, lt_err *err)
{
    LT_TRY(put_number(bytes, (int64_t)size, err));
    return lt_buffer_append(bytes, text, size, err);
}

static lt_status put_vocabulary(lt_buffer *bytes, const lt_vocabulary *vocabulary, lt_err *err)
{
    LT_TRY(put_number(bytes, vocabulary->size, err));
    for (int32_t id = 0; id < vocabulary->size; id++) {
        size_t size = 0;
        const char *spelling = lt_vocabulary_spelling(vocabulary, id, &size);
        if (!spelling) continue;
        LT_TRY(put_number(bytes, id, err));
        LT_TRY(put_text(bytes, spelling, size, err));
    }
    return LT_OK;
}

/* Merges in the order of their ranks; the table has them in the order of their hashes. */
static lt_status put_merges(lt_buffer *bytes, const lt_bpe *bpe, lt_err *err)
{
    LT_TRY(put_number(bytes, (int64_t)bpe->merge_count, err));
    size_t at = bytes->size, record = 8;
    uint32_t highest = 0;
    for (size_t i = 0; i <= bpe->merge_mask; i++) {
        if (bpe->merges[i].pair != LT_NO_PAIR && bpe->merges[i].rank > highest)
            highest = bpe->merges[i].rank;
    }
    size_t room = ((size_t)highest + 1) * record;
    LT_TRY(lt_buffer_reserve(bytes, room, err));
    memset(bytes->data + at, 0xFF, room); /* ranks that a repeated pair has left empty */
    bytes->size += room;
    for (size_t i = 0; i <= bpe->merge_mask; i++) {
        const lt_merge_slot *slot = &bpe->merges[i];
        if (slot->pair == LT_NO_PAIR) continue;
        for (size_t k = 0; k < record; k++)
            bytes->data[at + slot->rank * record + k] = (char)(slot->pair >> (8 * k));
    }
    bytes->data[bytes->size] = '\0';
    return LT_OK;
}

static lt_status put_added(lt_buffer *bytes, const lt_added_tokens *added, lt_err *err)
{
    LT_TRY(put_number(bytes, (int64_t)added->count, err));
    for (size_t i = 0; i < added->count; i++) {
        const lt_added_token *token = &added->tokens[i];
        LT_TRY(put_number(bytes, token->id, err));
        LT_TRY(put_text(bytes, token->content, token->content_size, err));
        LT_TRY(put_number(bytes,
                          token->single_word | token->lstrip << 1 | token->rstrip << 2 |
                              token->normalized << 3 | token->special << 4,
                          err));
    }
    return LT_OK;
}

static lt_status put_rules(lt_buffer *bytes, const lt_tokenizer *tokenizer, lt_err *err)
{
    const lt_normalizer *normalizer = &tokenizer->normalizer;
    LT_TRY(put_number(bytes, (int64_t)normalizer->count, err));
    for (size_t i = 0; i < normalizer->count; i++) {
        const lt_normalizer_step *step = &normalizer->steps[i];
        LT_TRY(put_number(bytes, step->kind, err));
        LT_TRY(put_text(bytes, step->pattern, step->pattern_size, err));
        LT_TRY(put_text(bytes, step->content, step->content_size, err));
    }
    const lt_pretokenizer *pretokenizer = &tokenizer->pretokenizer;
    LT_TRY(put_number(bytes, (int64_t)pretokenizer->count << 1 | pretokenizer->byte_level, err));
    for (size_t i = 0; i < pretokenizer->count; i++) {
        const lt_pretokenizer_step *step = &pretokenizer->steps[i];
        LT_TRY(put_number(bytes, step->kind << 4 | (int)step->scheme << 1 | step->split, err));
        LT_TRY(put_text(bytes, step->replacement, strlen(step->replacement), err));
    }
    const lt_decoder *decoder = &tokenizer->decoder;
    LT_TRY(put_number(bytes, (int64_t)decoder->count << 1 | decoder->joined_by_space, err));
    for (size_t i = 0; i < decoder->count; i++) {
        const lt_decoder_step *step = &decoder->steps[i];
        LT_TRY(put_number(bytes, step->kind << 1 | step->drop_first, err));
        LT_TRY(put_text(bytes, step->pattern, step->pattern_size, err));
        LT_TRY(put_text(bytes, step->content, step->content_size, err));
        LT_TRY(put_number(bytes, (int64_t)step->strip_count, err));
    }
    return LT_OK;
}

static lt_status put_ids(lt_buffer *bytes, const lt_ids *ids, lt_err *err)
{
    LT_TRY(put_number(bytes, (int64_t)ids->count, err));
    for (size_t i = 0; i < ids->count; i++)
        LT_TRY(put_number(bytes, ids->data[i], err));
    return LT_OK;
}

static lt_status put_all(lt_buffer *bytes, const lt_tokenizer *tokenizer, lt_err *err)
{
    const lt_bpe *bpe = &tokenizer->bpe;
    LT_TRY(put_vocabulary(bytes, &bpe->vocabulary, err));
    LT_TRY(put_merges(bytes, bpe, err));
    LT_TRY(
        put_number(bytes, bpe->byte_fallback | bpe->fuse_unk << 1 | bpe->ignore_merges << 2, err));
    LT_TRY(put_number(bytes, bpe->unk_id, err));
    LT_TRY(put_added(bytes, &tokenizer->added, err));
    LT_TRY(put_rules(bytes, tokenizer, err));
    LT_TRY(put_ids(bytes, &tokenizer->prefix, err));
    return put_ids(bytes, &tokenizer->suffix, err);
}

lt_status lt_tokenizer_compute_hash(lt_tokenizer *tokenizer, lt_err *err)
{
    lt_buffer bytes = {0};
    lt_status status = put_all(&bytes, tokenizer, err);
    if (status == LT_OK) lt_hash_bytes(bytes.data, bytes.size, tokenizer->hash);
    lt_buffer_free(&bytes);
    return status;
}
