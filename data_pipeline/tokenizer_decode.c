/* Ids to text. There is one decoder, the streaming one: a chain of steps through which each token
 * passes, some of which hold bytes back until they are certain. */
#include <string.h>

#include "data_pipeline/tokenizer_internal.h"

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */
enum { REPLACEMENT_SIZE = sizeof replacement - 1 };

void lt_stream_decoder_init(lt_stream_decoder *decoder, const lt_tokenizer *tokenizer,
                            bool skip_special)
{
    *decoder = (lt_stream_decoder){.tokenizer = tokenizer, .skip_special = skip_special};
}

/* Hands one token's text to step `index` and those after it; the last one writes to `out`. */
static lt_status feed(lt_stream_decoder *decoder, size_t index, const char *text, size_t size,
                      lt_buffer *out, lt_err *err);

/* --- ByteLevel --------------------------------------------------------------------------------
 */

/* The bytes that a token stands for; a token with a character outside the alphabet (an added token
 * with a space in it) is taken as it is. */
static lt_status append_alphabet_bytes(lt_buffer *out, const char *text, size_t size, lt_err *err)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t before = out->size;
    LT_TRY(lt_buffer_reserve(out, size, err));
    for (size_t i = 0, length; i < size; i += length) {
        int byte = lt_char_to_byte(lt_utf8_decode(p + i, &length));
        if (byte < 0) {
            out->size = before;
            return lt_buffer_append(out, text, size, err);
        }
        out->data[out->size++] = (char)byte;
    }
    out->data[out->size] = '\0';
    return LT_OK;
}

/* Sends on the characters of `pending` that are complete; at the end also what never will be. */
static lt_status drain_characters(lt_stream_decoder *decoder, size_t index, bool at_end,
                                  lt_buffer *out, lt_err *err)
{
    lt_buffer *pending = &decoder->pending;
    size_t done = 0;
    while (done < pending->size) {
        const char *rest = pending->data + done;
        size_t size = pending->size - done;
        size_t valid = lt_utf8_valid_prefix(rest, size);
        if (valid > 0) {
            LT_TRY(feed(decoder, index + 1, rest, valid, out, err));
            done += valid;
            continue;
        }
        size_t bad = lt_utf8_bad_length(rest, size);
        if (bad == 0 && !at_end) break;
        LT_TRY(feed(decoder, index + 1, replacement, REPLACEMENT_SIZE, out, err));
        done += bad ? bad : size;
    }
    if (done > 0) {
        memmove(pending->data, pending->data + done, pending->size - done);
        pending->size -= done;
    }
    return LT_OK;
}

/* --- ByteFallback -----------------------------------------------------------------------------
 */

static int hexadecimal(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that <0xNN> stands for, or -1. The reference library also reads <0x+N>. */
static int fallback_byte(const char *text, size_t size)
{
    if (size != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = text[3] == '+' ? 0 : hexadecimal(text[3]), low = hexadecimal(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of byte tokens is text when all of it is UTF-8; else each byte becomes U+FFFD. */
static lt_status flush_run(lt_stream_decoder *decoder, size_t index, lt_buffer *out, lt_err *err)
{
    lt_buffer *run = &decoder->pending;
    if (run->size == 0) return LT_OK;
    lt_status status = LT_OK;
    if (lt_utf8_valid_prefix(run->data, run->size) == run->size) {
        status = feed(decoder, index + 1, run->data, run->size, out, err);
    } else {
        for (size_t i = 0; status == LT_OK && i < run->size; i++)
            status = feed(decoder, index + 1, replacement, REPLACEMENT_SIZE, out, err);
    }
    lt_buffer_clear(run);
    return status;
}

static lt_status byte_fallback(lt_stream_decoder *decoder, size_t index, const char *text,
                               size_t size, lt_buffer *out, lt_err *err)
{
    int byte = fallback_byte(text, size);
    if (byte >= 0) {
        char value = (char)byte;
        return lt_buffer_append(&decoder->pending, &value, 1, err);
    }
    LT_TRY(flush_run(decoder, index, out, err));
    return feed(decoder, index + 1, text, size, out, err);
}

/* --- Strip, Replace, Metaspace ----------------------------------------------------------------
 */

static bool is_fused_before(const lt_decoder *chain, size_t index)
{
    for (size_t i = 0; i < index; i++) {
        if (chain->steps[i].kind == LT_DECODER_FUSE ||
            chain->steps[i].kind == LT_DECODER_BYTE_LEVEL)
            return true;
    }
    return false;
}

static lt_status strip(lt_stream_decoder *decoder, size_t index, const char *text, size_t size,
                       lt_buffer *out, lt_err *err)
{
    const lt_decoder *chain = &decoder->tokenizer->decoder;
    const lt_decoder_step *step = &chain->steps[index];
    if (!is_fused_before(chain, index)) { /* each token anew */
        decoder->stripped = 0;
        decoder->strip_done = false;
    }
    while (!decoder->strip_done && decoder->stripped < step->strip_count &&
           size >= step->content_size && memcmp(text, step->content, step->content_size) == 0) {
        text += step->content_size;
        size -= step->content_size;
        decoder->stripped++;
    }
    if (size > 0) decoder->strip_done = true;
    return feed(decoder, index + 1, text, size, out, err);
}

static lt_status replace(lt_stream_decoder *decoder, size_t index, const char *text, size_t size,
                         bool by_nothing, lt_buffer *out, lt_err *err)
{
    const lt_decoder_step *step = &decoder->tokenizer->decoder.steps[index];
    lt_buffer *result = &decoder->step_text[index];
    lt_buffer_clear(result);
    LT_TRY(lt_replace_all(text, size, step->pattern, step->pattern_size, step->content,
                          by_nothing ? 0 : step->content_size, result, err));
    return feed(decoder, index + 1, lt_buffer_text(result), result->size, out, err);
}

/* --- The chain --------------------------------------------------------------------------------
 */

static lt_status feed(lt_stream_decoder *decoder, size_t index, const char *text, size_t size,
                      lt_buffer *out, lt_err *err)
{
    const lt_decoder *chain = &decoder->tokenizer->decoder;
    if (index == chain->count) return lt_buffer_append(out, text, size, err);
    const lt_decoder_step *step = &chain->steps[index];
    switch (step->kind) {
    case LT_DECODER_BYTE_LEVEL:
        LT_TRY(append_alphabet_bytes(&decoder->pending, text, size, err));
        return drain_characters(decoder, index, false, out, err);
    case LT_DECODER_BYTE_FALLBACK:
        return byte_fallback(decoder, index, text, size, out, err);
    case LT_DECODER_REPLACE:
        return replace(decoder, index, text, size, false, out, err);
    case LT_DECODER_METASPACE: {
        bool first = !decoder->started;
        decoder->started = true;
        return replace(decoder, index, text, size, first && step->drop_first, out, err);
    }
    case LT_DECODER_STRIP:
        return strip(decoder, index, text, size, out, err);
    case LT_DECODER_FUSE:
        break;
    }
    return feed(decoder, index + 1, text, size, out, err);
}

/* *text is NULL for an id that is not used or is left out. */
static lt_status token_text(const lt_stream_decoder *decoder, int32_t id, const char **text,
                            size_t *size, lt_err *err)
{
    const lt_tokenizer *tokenizer = decoder->tokenizer;
    *text = NULL;
    if (id < 0 || id >= tokenizer->vocab_size)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: token id %d is not in the vocabulary of %lld tokens", tokenizer->where,
                       id, (long long)tokenizer->vocab_size);
    const lt_added_token *added = lt_added_tokens_by_id(&tokenizer->added, id);
    if (!added) {
        *text = lt_vocabulary_spelling(&tokenizer->bpe.vocabulary, id, size);
        return LT_OK;
    }
    if (decoder->skip_special && added->skipped) return LT_OK;
    *text = added->pattern;
    *size = added->pattern_size;
    return LT_OK;
}

lt_status lt_stream_decoder_push(lt_stream_decoder *decoder, int32_t id, lt_buffer *out,
                                 lt_err *err)
{
    const char *text;
    size_t size;
    LT_TRY(token_text(decoder, id, &text, &size, err));
    if (!text) return LT_OK;
    if (decoder->tokenizer->decoder.joined_by_space) {
        if (decoder->started) LT_TRY(lt_buffer_append(out, " ", 1, err));
        decoder->started = true;
    }
    return feed(decoder, 0, text, size, out, err);
}

lt_status lt_stream_decoder_finish(lt_stream_decoder *decoder, lt_buffer *out, lt_err *err)
{
    const lt_decoder *chain = &decoder->tokenizer->decoder;
    lt_status status = LT_OK;
    for (size_t i = 0; status == LT_OK && i < chain->count; i++) {
        if (chain->steps[i].kind == LT_DECODER_BYTE_LEVEL)
            status = drain_characters(decoder, i, true, out, err);
        else if (chain->steps[i].kind == LT_DECODER_BYTE_FALLBACK)
            status = flush_run(decoder, i, out, err);
    }
    lt_buffer_free(&decoder->pending);
    for (size_t i = 0; i < LT_MAX_DECODER_STEPS; i++)
        lt_buffer_free(&decoder->step_text[i]);
    return status;
}

lt_status lt_decode(const lt_tokenizer *tokenizer, const int32_t *ids, size_t count,
                    bool skip_special, lt_buffer *out, lt_err *err)
{
    lt_stream_decoder decoder;
    lt_stream_decoder_init(&decoder, tokenizer, skip_special);
    lt_status status = LT_OK;
    for (size_t i = 0; status == LT_OK && i < count; i++)
        status = lt_stream_decoder_push(&decoder, ids[i], out, err);
    lt_status end = lt_stream_decoder_finish(&decoder, out, status == LT_OK ? err : NULL);
    return status != LT_OK ? status : end;
}
