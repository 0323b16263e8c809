/* A tokenizer as key-values of a GGUF file, as llama.cpp's convert_hf_to_gguf.py writes them. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "data_pipeline/tokenizer_parts.h"
#include "train/export/gguf_tokenizer.h"

typedef struct writer {
    const lt_tokenizer *tokenizer;
    const lt_tokenizer_parts *parts;
    int64_t rows;
    lt_gguf_keys *keys;
    lt_buffer *notes;
    lt_err *err;
} writer;

static bool is_sentencepiece(const writer *w)
{
    return w->parts->kind == LT_TOKENIZER_SENTENCEPIECE;
}

/* --- What llama.cpp can not do ---------------------------------------------------------------- */

static lt_status check_kind(const writer *w)
{
    const lt_tokenizer_parts *parts = w->parts;
    if (parts->kind == LT_TOKENIZER_OTHER)
        return lt_fail(w->err, LT_ERR_UNSUPPORTED,
                       "GGUF has no name for the way this tokenizer cuts text into words; export "
                       "with --format hf");
    if (!is_sentencepiece(w) && parts->prefix_space)
        return lt_fail(w->err, LT_ERR_UNSUPPORTED,
                       "the tokenizer puts a space in front of every text (add_prefix_space), "
                       "which llama.cpp does not do with a byte-level vocabulary; export with "
                       "--format hf");
    if (!parts->every_byte)
        return lt_fail(w->err, LT_ERR_UNSUPPORTED,
                       "the tokenizer has no token for some bytes, which llama.cpp "
                       "asks for; export with --format hf");
    return LT_OK;
}

static lt_status note(const writer *w, const char *line)
{
    return w->notes ? lt_buffer_printf(w->notes, w->err, "llama.cpp: %s\n", line) : LT_OK;
}

static bool is_just(const lt_ids *ids, int32_t id)
{
    return ids->count == 0 || (ids->count == 1 && ids->data[0] == id);
}

static lt_status note_differences(const writer *w, int32_t bos, int32_t eos)
{
    const lt_tokenizer_parts *parts = w->parts;
    bool particular = false;
    for (int32_t id = 0; id < lt_tokenizer_vocab_size(w->tokenizer); id++)
        particular = particular || lt_tokenizer_is_particular(w->tokenizer, id);
    if (particular)
        LT_TRY(note(w, "it finds added tokens anywhere and takes no spaces with them; the "
                       "tokenizer says otherwise of some (lstrip, rstrip, single_word)"));
    if (is_sentencepiece(w) && parts->spares_spaces)
        LT_TRY(note(w, "it puts a space in front of every text, and the tokenizer only of those "
                       "that do not begin with one"));
    if (is_sentencepiece(w) && !parts->joins_any_pair)
        LT_TRY(note(w, "it joins tokens by scores, whatever the tokenizer's merges are, so some "
                       "texts get other ids there"));
    if (!is_just(parts->prefix, bos) || !is_just(parts->suffix, eos))
        LT_TRY(note(w, "it puts at most the beginning- and end-of-text token around a text, and "
                       "the tokenizer puts others"));
    return LT_OK;
}

/* --- Tokens ----------------------------------------------------------------------------------- */

static lt_status push_tokens(const writer *w)
{
    char unused[32];
    LT_TRY(lt_gguf_begin_strings(w->keys, "tokenizer.ggml.tokens", (uint64_t)w->rows, w->err));
    for (int64_t id = 0; id < w->rows; id++) {
        const char *token = lt_tokenizer_token(w->tokenizer, (int32_t)id);
        if (!token) {
            snprintf(unused, sizeof unused, "[PAD%lld]", (long long)id);
            token = unused;
        }
        LT_TRY(lt_gguf_push_string(w->keys, token, strlen(token), w->err));
    }
    return LT_OK;
}

static int32_t type_of(lt_token_role role)
{
    switch (role) {
    case LT_TOKEN_NORMAL:
        return LT_GGUF_TOKEN_NORMAL;
    case LT_TOKEN_BYTE:
        return LT_GGUF_TOKEN_BYTE;
    case LT_TOKEN_UNKNOWN:
        return LT_GGUF_TOKEN_UNKNOWN;
    case LT_TOKEN_SPECIAL:
        return LT_GGUF_TOKEN_CONTROL;
    case LT_TOKEN_ADDED:
        return LT_GGUF_TOKEN_USER_DEFINED;
    default:
        return LT_GGUF_TOKEN_UNUSED;
    }
}

static lt_status add_types(const writer *w)
{
    int32_t *types = malloc((size_t)w->rows * sizeof *types);
    if (!types) return lt_fail_nomem(w->err, (size_t)w->rows * sizeof *types, "the tokens' types");
    for (int64_t id = 0; id < w->rows; id++)
        types[id] = type_of(lt_tokenizer_role(w->tokenizer, (int32_t)id));
    lt_status status =
        lt_gguf_add_i32s(w->keys, "tokenizer.ggml.token_type", types, (size_t)w->rows, w->err);
    free(types);
    return status;
}

/* llama.cpp joins the neighbours whose token has the highest score: minus the rank of the first
 * merge that makes it. What no merge makes is below all others. */
static lt_status add_scores(const writer *w)
{
    const lt_tokenizer_parts *parts = w->parts;
    float *scores = calloc((size_t)w->rows, sizeof *scores);
    if (!scores) return lt_fail_nomem(w->err, (size_t)w->rows * sizeof *scores, "scores");
    for (int64_t id = 0; id < w->rows; id++)
        if (lt_tokenizer_role(w->tokenizer, (int32_t)id) == LT_TOKEN_NORMAL)
            scores[id] = -(float)(parts->merge_count + 1);
    for (size_t i = parts->merge_count; i > 0; i--)
        scores[parts->merges[i - 1].joined] = -(float)i;
    lt_status status =
        lt_gguf_add_f32s(w->keys, "tokenizer.ggml.scores", scores, (size_t)w->rows, w->err);
    free(scores);
    return status;
}

static lt_status add_merges(const writer *w)
{
    const lt_tokenizer_parts *parts = w->parts;
    lt_buffer text = {0};
    lt_status status =
        lt_gguf_begin_strings(w->keys, "tokenizer.ggml.merges", parts->merge_count, w->err);
    for (size_t i = 0; i < parts->merge_count && status == LT_OK; i++) {
        lt_buffer_clear(&text);
        status = lt_buffer_printf(&text, w->err, "%s %s",
                                  lt_tokenizer_token(w->tokenizer, parts->merges[i].left),
                                  lt_tokenizer_token(w->tokenizer, parts->merges[i].right));
        if (status == LT_OK) status = lt_gguf_push_string(w->keys, text.data, text.size, w->err);
    }
    lt_buffer_free(&text);
    return status;
}

static lt_status add_vocabulary(const writer *w)
{
    static const char *const pre[] = {[LT_TOKENIZER_GPT2] = "gpt-2",
                                      [LT_TOKENIZER_LLAMA3] = "llama-bpe",
                                      [LT_TOKENIZER_QWEN2] = "qwen2",
                                      [LT_TOKENIZER_SENTENCEPIECE] = "default"};
    const char *model = is_sentencepiece(w) ? "llama" : "gpt2", *name = pre[w->parts->kind];
    LT_TRY(lt_gguf_add_string(w->keys, "tokenizer.ggml.model", model, strlen(model), w->err));
    LT_TRY(lt_gguf_add_string(w->keys, "tokenizer.ggml.pre", name, strlen(name), w->err));
    LT_TRY(push_tokens(w));
    if (is_sentencepiece(w)) LT_TRY(add_scores(w));
    LT_TRY(add_types(w));
    return add_merges(w);
}

/* --- The rest --------------------------------------------------------------------------------- */

static lt_status add_id(const writer *w, const char *key, int32_t id)
{
    return id < 0 ? LT_OK : lt_gguf_add_u32(w->keys, key, (uint32_t)id, w->err);
}

static lt_status add_special_ids(const writer *w, int32_t bos, int32_t eos, int32_t stop_id)
{
    const lt_tokenizer_parts *parts = w->parts;
    LT_TRY(add_id(w, "tokenizer.ggml.bos_token_id", bos));
    LT_TRY(add_id(w, "tokenizer.ggml.eos_token_id", eos));
    if (stop_id != eos) LT_TRY(add_id(w, "tokenizer.ggml.eot_token_id", stop_id));
    LT_TRY(add_id(w, "tokenizer.ggml.unknown_token_id", parts->unk_id));
    LT_TRY(add_id(w, "tokenizer.ggml.padding_token_id", lt_tokenizer_pad_id(w->tokenizer)));
    bool begins = parts->prefix->count > 0 && parts->prefix->data[0] == bos;
    bool ends = parts->suffix->count > 0 && parts->suffix->data[parts->suffix->count - 1] == eos;
    LT_TRY(lt_gguf_add_bool(w->keys, "tokenizer.ggml.add_bos_token", begins, w->err));
    LT_TRY(lt_gguf_add_bool(w->keys, "tokenizer.ggml.add_eos_token", ends, w->err));
    if (!is_sentencepiece(w)) return LT_OK;
    return lt_gguf_add_bool(w->keys, "tokenizer.ggml.add_space_prefix", parts->prefix_space,
                            w->err);
}

static lt_status add_rules(const writer *w)
{
    lt_buffer text = {0};
    lt_status status = lt_json_dump(w->parts->rules, 0, &text, w->err);
    if (status == LT_OK)
        status = lt_gguf_add_string(w->keys, LT_GGUF_RULES_KEY, text.data, text.size, w->err);
    lt_buffer_free(&text);
    return status;
}

static lt_status write_all(const writer *w, const char *chat_template, int32_t stop_id)
{
    const lt_ids *prefix = w->parts->prefix, *suffix = w->parts->suffix;
    int32_t bos = lt_tokenizer_bos_id(w->tokenizer), eos = lt_tokenizer_eos_id(w->tokenizer);
    if (bos < 0 && prefix->count > 0) bos = prefix->data[0];
    if (eos < 0) eos = suffix->count > 0 ? suffix->data[suffix->count - 1] : stop_id;
    LT_TRY(check_kind(w));
    LT_TRY(note_differences(w, bos, eos));
    LT_TRY(add_vocabulary(w));
    LT_TRY(add_special_ids(w, bos, eos, stop_id));
    LT_TRY(add_rules(w));
    if (!chat_template) return LT_OK;
    return lt_gguf_add_string(w->keys, "tokenizer.chat_template", chat_template,
                              strlen(chat_template), w->err);
}

lt_status lt_tokenizer_to_gguf(const lt_tokenizer *tokenizer, int64_t vocab_rows,
                               const char *chat_template, int32_t stop_id, lt_gguf_keys *keys,
                               lt_buffer *notes, lt_err *err)
{
    lt_tokenizer_parts parts;
    const writer w = {.tokenizer = tokenizer,
                      .parts = &parts,
                      .rows = vocab_rows,
                      .keys = keys,
                      .notes = notes,
                      .err = err};
    if (vocab_rows < lt_tokenizer_vocab_size(tokenizer) || vocab_rows > INT32_MAX)
        return lt_fail(err, LT_ERR_USAGE, "the tokenizer has %lld tokens, the model %lld rows",
                       (long long)lt_tokenizer_vocab_size(tokenizer), (long long)vocab_rows);
    LT_TRY(lt_tokenizer_take_apart(tokenizer, &parts, err));
    lt_status status = write_all(&w, chat_template, stop_id);
    lt_tokenizer_parts_free(&parts);
    return status;
}
