/* Text to ids: cuts out added tokens, normalises, cuts into words, and looks the words up. */
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/tokenizer_internal.h"

struct lt_encoder {
    const lt_tokenizer *tokenizer;
    lt_bpe_cache cache;
    lt_bpe_scratch scratch;
    lt_buffer normalized[2];
    lt_buffer step_text[LT_MAX_PRETOKENIZER_STEPS]; /* pieces that a step had to rewrite */
    lt_encoder_guest guest;
    lt_text_place place; /* of the call in progress, as are these */
    bool bare;           /* the words in work get nothing put in front of them */
    lt_ids *out;
    lt_err *err;
};

lt_status lt_encoder_create(const lt_tokenizer *tokenizer, lt_encoder **out, lt_err *err)
{
    *out = NULL;
    lt_encoder *encoder = calloc(1, sizeof *encoder);
    if (!encoder) return lt_fail_nomem(err, sizeof *encoder, "an encoder");
    encoder->tokenizer = tokenizer;
    lt_status status = lt_bpe_cache_create(&encoder->cache, err);
    if (status != LT_OK) {
        lt_encoder_free(encoder);
        return status;
    }
    *out = encoder;
    return LT_OK;
}

void lt_encoder_free(lt_encoder *encoder)
{
    if (!encoder) return;
    if (encoder->guest.value) encoder->guest.free(encoder->guest.value);
    lt_bpe_cache_free(&encoder->cache);
    lt_bpe_scratch_free(&encoder->scratch);
    for (int i = 0; i < 2; i++)
        lt_buffer_free(&encoder->normalized[i]);
    for (int i = 0; i < LT_MAX_PRETOKENIZER_STEPS; i++)
        lt_buffer_free(&encoder->step_text[i]);
    free(encoder);
}

lt_encoder_guest *lt_encoder_guest_of(lt_encoder *encoder)
{
    return &encoder->guest;
}

const lt_tokenizer *lt_encoder_tokenizer(const lt_encoder *encoder)
{
    return encoder->tokenizer;
}

static lt_status encode_word(lt_encoder *encoder, const char *word, size_t size)
{
    return lt_bpe_cached_word(&encoder->cache, &encoder->tokenizer->bpe, &encoder->scratch, word,
                              size, encoder->out, encoder->err);
}

/* A word of SentencePiece text, in parts that no merge can join. */
static lt_status encode_parts(lt_encoder *encoder, const char *text, size_t size)
{
    const char *separator = encoder->tokenizer->bpe.separator;
    size_t width = strlen(separator), begin = 0;
    if (width == 0) return encode_word(encoder, text, size);
    for (size_t i = 0; i < size;) {
        const char *found = memmem(text + i, size - i, separator, width);
        if (!found) break;
        size_t at = (size_t)(found - text);
        bool follows_another =
            at > begin && !(at >= begin + width && memcmp(found - width, separator, width) == 0);
        if (follows_another) {
            LT_TRY(encode_word(encoder, text + begin, at - begin));
            begin = at;
        }
        i = at + width;
    }
    return encode_word(encoder, text + begin, size - begin);
}

/* --- Pre-tokenizer steps ----------------------------------------------------------------------
 */

/* A piece of text between added tokens. at_start: nothing of the original text is before it. */
static lt_status pretokenize(lt_encoder *encoder, size_t index, const char *text, size_t size,
                             bool at_start);

static lt_status prefix_space(lt_encoder *encoder, size_t index, const char *text, size_t size,
                              bool at_start)
{
    if (text[0] == ' ' || encoder->bare)
        return pretokenize(encoder, index + 1, text, size, at_start);
    lt_buffer *piece = &encoder->step_text[index];
    lt_buffer_clear(piece);
    LT_TRY(lt_buffer_append(piece, " ", 1, encoder->err));
    LT_TRY(lt_buffer_append(piece, text, size, encoder->err));
    return pretokenize(encoder, index + 1, piece->data, piece->size, at_start);
}

/* Each mark begins a piece. */
static lt_status split_metaspace(lt_encoder *encoder, size_t index, const char *text, size_t size,
                                 bool at_start)
{
    const char *mark = encoder->tokenizer->pretokenizer.steps[index].replacement;
    size_t width = strlen(mark);
    for (size_t begin = 0, end; begin < size; begin = end) {
        bool marked = size - begin >= width && memcmp(text + begin, mark, width) == 0;
        size_t from = begin + (marked ? width : 0);
        const char *next = memmem(text + from, size - from, mark, width);
        end = next ? (size_t)(next - text) : size;
        LT_TRY(pretokenize(encoder, index + 1, text + begin, end - begin, at_start && begin == 0));
    }
    return LT_OK;
}

static lt_status metaspace(lt_encoder *encoder, size_t index, const char *text, size_t size,
                           bool at_start)
{
    const lt_pretokenizer_step *step = &encoder->tokenizer->pretokenizer.steps[index];
    size_t width = strlen(step->replacement);
    lt_buffer *piece = &encoder->step_text[index];
    lt_buffer_clear(piece);
    bool prepend =
        step->scheme == LT_PREPEND_ALWAYS || (step->scheme == LT_PREPEND_FIRST && at_start);
    bool marked = text[0] == ' ' || (size >= width && memcmp(text, step->replacement, width) == 0);
    if (prepend && !marked && !encoder->bare)
        LT_TRY(lt_buffer_append(piece, step->replacement, width, encoder->err));
    LT_TRY(lt_replace_all(text, size, " ", 1, step->replacement, width, piece, encoder->err));
    if (step->split) return split_metaspace(encoder, index, piece->data, piece->size, at_start);
    return pretokenize(encoder, index + 1, piece->data, piece->size, at_start);
}

static lt_status split_words(lt_encoder *encoder, size_t index, const char *text, size_t size,
                             bool at_start)
{
    const lt_pretokenizer *pretokenizer = &encoder->tokenizer->pretokenizer;
    lt_pretokenizer_kind kind = pretokenizer->steps[index].kind;
    bool last = index + 1 == pretokenizer->count && encoder->tokenizer->bpe.separator[0] == '\0';
    for (size_t i = 0; i < size;) {
        size_t length = lt_split_next(kind, text + i, size - i);
        LT_TRY(last ? encode_word(encoder, text + i, length)
                    : pretokenize(encoder, index + 1, text + i, length, at_start && i == 0));
        i += length;
    }
    return LT_OK;
}

static lt_status pretokenize(lt_encoder *encoder, size_t index, const char *text, size_t size,
                             bool at_start)
{
    const lt_pretokenizer *pretokenizer = &encoder->tokenizer->pretokenizer;
    if (size == 0) return LT_OK;
    if (index == pretokenizer->count) return encode_parts(encoder, text, size);
    switch (pretokenizer->steps[index].kind) {
    case LT_PRETOKENIZER_PREFIX_SPACE:
        return prefix_space(encoder, index, text, size, at_start);
    case LT_PRETOKENIZER_METASPACE:
        return metaspace(encoder, index, text, size, at_start);
    case LT_SPLIT_GPT2:
    case LT_SPLIT_LLAMA3:
    case LT_SPLIT_QWEN2:
        break;
    }
    return split_words(encoder, index, text, size, at_start);
}

/* --- Added tokens -----------------------------------------------------------------------------
 */

/* Text between raw added tokens: normalised, then searched for the others. */
static lt_status encode_piece(lt_encoder *encoder, const char *text, size_t size, bool at_start,
                              bool skip_special)
{
    const lt_tokenizer *tokenizer = encoder->tokenizer;
    LT_TRY(lt_normalize(&tokenizer->normalizer, text, size, encoder->normalized, &text, &size,
                        encoder->err));
    size_t prepended = lt_normalizer_prepended(&tokenizer->normalizer);
    if (encoder->bare && size >= prepended) {
        text += prepended;
        size -= prepended;
    }
    lt_token_scan scan = {.added = &tokenizer->added,
                          .matcher = &tokenizer->added.normalized,
                          .text = text,
                          .size = size,
                          .skip_special = skip_special};
    for (;;) {
        size_t begin, end;
        const lt_added_token *token = lt_token_scan_next(&scan, &begin, &end);
        LT_TRY(pretokenize(encoder, 0, text + begin, end - begin, at_start && begin <= prepended));
        encoder->bare = false;
        if (!token) return LT_OK;
        LT_TRY(lt_ids_push(encoder->out, token->id, encoder->err));
    }
}

static lt_status encode_text(lt_encoder *encoder, const char *text, size_t size, bool skip_special)
{
    const lt_added_tokens *added = &encoder->tokenizer->added;
    lt_token_scan scan = {.added = added,
                          .matcher = &added->raw,
                          .text = text,
                          .size = size,
                          .skip_special = skip_special};
    for (;;) {
        size_t begin, end;
        const lt_added_token *token = lt_token_scan_next(&scan, &begin, &end);
        bool at_start = begin == 0 && encoder->place == LT_TEXT_FIRST;
        encoder->bare = begin == 0 && encoder->place == LT_TEXT_CONTINUED;
        if (end > begin)
            LT_TRY(encode_piece(encoder, text + begin, end - begin, at_start, skip_special));
        if (!token) return LT_OK;
        LT_TRY(lt_ids_push(encoder->out, token->id, encoder->err));
    }
}

static lt_status encode(lt_encoder *encoder, const char *text, size_t size, unsigned flags,
                        lt_ids *out, lt_err *err)
{
    const lt_tokenizer *tokenizer = encoder->tokenizer;
    size_t valid = lt_utf8_valid_prefix(text, size), before = out->count;
    if (valid != size)
        return lt_fail(err, LT_ERR_FORMAT, "the text is not UTF-8 at byte %zu (0x%02X)", valid,
                       (unsigned char)text[valid]);
    encoder->out = out;
    encoder->err = err;
    bool around = flags & LT_ENCODE_ADD_SPECIAL;
    lt_status status;
    if (around)
        LT_TRY_GOTO(status,
                    lt_ids_append(out, tokenizer->prefix.data, tokenizer->prefix.count, err), done);
    LT_TRY_GOTO(status, encode_text(encoder, text, size, !(flags & LT_ENCODE_PARSE_SPECIAL)), done);
    if (around) status = lt_ids_append(out, tokenizer->suffix.data, tokenizer->suffix.count, err);
done:
    if (status != LT_OK) out->count = before;
    return status;
}

lt_status lt_encode(lt_encoder *encoder, const char *text, size_t size, unsigned flags, lt_ids *out,
                    lt_err *err)
{
    encoder->place = LT_TEXT_FIRST;
    return encode(encoder, text, size, flags, out, err);
}

lt_status lt_encode_part(lt_encoder *encoder, const char *text, size_t size, lt_text_place place,
                         lt_ids *out, lt_err *err)
{
    encoder->place = place;
    return encode(encoder, text, size, LT_ENCODE_PLAIN, out, err);
}

/* --- Special tokens of a text whose parts are from different hands ---------------------------- */

typedef struct places {
    lt_special_place **items;
    size_t *count, capacity;
} places;

static lt_status add_place(places *list, const lt_special_place *place, lt_err *err)
{
    if (*list->count == list->capacity) {
        size_t larger = list->capacity ? 2 * list->capacity : 32;
        lt_special_place *moved = realloc(*list->items, larger * sizeof *moved);
        if (!moved) return lt_fail_nomem(err, larger * sizeof *moved, "the special tokens");
        *list->items = moved;
        list->capacity = larger;
    }
    (*list->items)[(*list->count)++] = *place;
    return LT_OK;
}

/* Adds the special tokens that the matcher knows of text[from..to); between them go those of
 * `inner`, when there is one. */
static lt_status scan_special(const lt_added_tokens *added, const lt_token_matcher *matcher,
                              const lt_token_matcher *inner, const char *text, size_t from,
                              size_t to, const unsigned char *barred, places *list, lt_err *err)
{
    lt_token_scan scan = {.added = added,
                          .matcher = matcher,
                          .text = text + from,
                          .size = to - from,
                          .barred = barred + from};
    for (;;) {
        size_t begin, end;
        const lt_added_token *token = lt_token_scan_next(&scan, &begin, &end);
        if (inner)
            LT_TRY(scan_special(added, inner, NULL, text, from + begin, from + end, barred, list,
                                err));
        if (!token) return LT_OK;
        lt_special_place place = {.begin = from + scan.position - token->pattern_size,
                                  .end = from + scan.position,
                                  .outer_begin = from + end,
                                  .outer_end = from + scan.consumed,
                                  .id = token->id};
        if (token->special) LT_TRY(add_place(list, &place, err));
    }
}

lt_status lt_find_special(const lt_tokenizer *tokenizer, const char *text, size_t size,
                          const unsigned char *barred, lt_special_place **out, size_t *count,
                          lt_err *err)
{
    const lt_added_tokens *added = &tokenizer->added;
    places list = {.items = out, .count = count};
    *out = NULL;
    *count = 0;
    return scan_special(added, &added->raw, &added->normalized, text, 0, size, barred, &list, err);
}
