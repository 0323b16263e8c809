/* The tokenizer in a GGUF file: vocabulary and merges from its arrays; the rules from
 * lathe.tokenizer.rules, or, in files of others, those that llama.cpp has for tokenizer.ggml.pre.
 *
 * Files come from anywhere: numbers and types of elements are checked here, and what is put
 * together goes through the same checks as a tokenizer.json. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/json.h"
#include "data_pipeline/tokenizer_parts.h"
#include "train/export/gguf_tokenizer.h"

#define MAX_TOKENS ((uint64_t)1 << 24)

typedef struct reader {
    const lt_gguf *file;
    lt_tokenizer_kind kind;
    const char *pre; /* of a byte-level one, for messages */
    int64_t count;
    const char **text; /* [count] in the map, not NUL-terminated; UTF-8 without NUL */
    size_t *size;
    int32_t *type;                                /* [count] */
    float *score;                                 /* [count] or NULL */
    json_t *rules, *vocabulary, *merges, *config; /* owned */
    lt_err *err;
} reader;

static lt_status fail(const reader *r, const char *what)
{
    return lt_fail(r->err, LT_ERR_FORMAT, "%s: %s", r->file->path, what);
}

/* --- What kind it is -------------------------------------------------------------------------- */

static lt_status string_of(const reader *r, const char *key, const char **text, size_t *size)
{
    *text = NULL;
    *size = 0;
    return lt_gguf_get_string(r->file, key, text, size, r->err);
}

static bool equals(const char *text, size_t size, const char *word)
{
    return text && size == strlen(word) && memcmp(text, word, size) == 0;
}

static lt_status unsupported(const reader *r, const char *key, const char *text, size_t size)
{
    return lt_fail(r->err, LT_ERR_UNSUPPORTED, "%s: %s \"%.*s\" is not supported", r->file->path,
                   key, (int)(size < 60 ? size : 60), text ? text : "");
}

/* llama.cpp's names for the pre-tokenizers that Lathe has. */
static lt_status read_pre(reader *r)
{
    static const struct {
        const char *name;
        lt_tokenizer_kind kind;
    } known[] = {{"gpt-2", LT_TOKENIZER_GPT2},    {"llama-bpe", LT_TOKENIZER_LLAMA3},
                 {"llama3", LT_TOKENIZER_LLAMA3}, {"llama-v3", LT_TOKENIZER_LLAMA3},
                 {"qwen2", LT_TOKENIZER_QWEN2},   {"deepseek-r1-qwen", LT_TOKENIZER_QWEN2}};
    const char *text;
    size_t size;
    LT_TRY(string_of(r, "tokenizer.ggml.pre", &text, &size));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!equals(text, size, known[i].name)) continue;
        r->kind = known[i].kind;
        return LT_OK;
    }
    return unsupported(r, "tokenizer.ggml.pre", text, size);
}

/* *there: the file has a tokenizer. */
static lt_status read_kind(reader *r, bool *there)
{
    const char *text;
    size_t size;
    LT_TRY(string_of(r, "tokenizer.ggml.model", &text, &size));
    *there = text && !equals(text, size, "none") && !equals(text, size, "no_vocab");
    if (!*there) return LT_OK;
    if (equals(text, size, "gpt2")) return read_pre(r);
    r->kind = LT_TOKENIZER_SENTENCEPIECE;
    return equals(text, size, "llama") ? LT_OK : unsupported(r, "tokenizer.ggml.model", text, size);
}

/* --- Arrays ----------------------------------------------------------------------------------- */

static lt_status array_of(const reader *r, const char *key, lt_gguf_value_type element, bool needed,
                          const lt_gguf_value **out)
{
    const lt_gguf_value *value = *out = lt_gguf_value_of(r->file, key);
    if (!value && !needed) return LT_OK;
    if (!value) return lt_fail(r->err, LT_ERR_FORMAT, "%s: has no %s", r->file->path, key);
    if (value->type == LT_GGUF_ARRAY && value->element_type == element) return LT_OK;
    return lt_fail(r->err, LT_ERR_FORMAT, "%s: %s is not an array of %s", r->file->path, key,
                   element == LT_GGUF_STRING ? "strings" : "numbers of 32 bits");
}

/* What JSON, and a C string in it, can hold. */
static bool is_text(const char *text, size_t size)
{
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)text;
    for (size_t i = 0; i < size;) {
        utf8proc_int32_t code_point;
        utf8proc_ssize_t n = utf8proc_iterate(at + i, (utf8proc_ssize_t)(size - i), &code_point);
        if (n <= 0 || code_point == 0) return false;
        i += (size_t)n;
    }
    return true;
}

static lt_status check_text(const reader *r, const char *text, size_t size, int64_t id)
{
    if (size > 0 && is_text(text, size)) return LT_OK;
    return lt_fail(r->err, LT_ERR_FORMAT, "%s: token %lld is empty or not UTF-8", r->file->path,
                   (long long)id);
}

static lt_status read_tokens(reader *r)
{
    const lt_gguf_value *tokens;
    LT_TRY(array_of(r, "tokenizer.ggml.tokens", LT_GGUF_STRING, true, &tokens));
    if (tokens->count == 0 || tokens->count > MAX_TOKENS)
        return lt_fail(r->err, LT_ERR_LIMIT, "%s: %llu tokens: 1 to %llu are possible",
                       r->file->path, (unsigned long long)tokens->count,
                       (unsigned long long)MAX_TOKENS);
    r->count = (int64_t)tokens->count;
    r->text = calloc((size_t)r->count, sizeof *r->text);
    r->size = calloc((size_t)r->count, sizeof *r->size);
    r->type = calloc((size_t)r->count, sizeof *r->type);
    if (!r->text || !r->size || !r->type)
        return lt_fail_nomem(r->err, (size_t)r->count * sizeof *r->text, "the tokens");
    const unsigned char *at = tokens->data;
    for (int64_t id = 0; id < r->count; id++) {
        if (!lt_gguf_next_string(tokens, &at, &r->text[id], &r->size[id]))
            return fail(r, "tokenizer.ggml.tokens is cut short");
        LT_TRY(check_text(r, r->text[id], r->size[id], id));
    }
    return LT_OK;
}

/* One 32-bit number for each token, or no such array: *out is left alone. */
static lt_status read_numbers(reader *r, const char *key, lt_gguf_value_type element, void *out)
{
    const lt_gguf_value *value;
    LT_TRY(array_of(r, key, element, false, &value));
    if (!value) return LT_OK;
    if (value->count != (uint64_t)r->count)
        return lt_fail(r->err, LT_ERR_FORMAT, "%s: %s has %llu entries for %lld tokens",
                       r->file->path, key, (unsigned long long)value->count, (long long)r->count);
    memcpy(out, value->data, (size_t)r->count * sizeof(int32_t));
    return LT_OK;
}

static lt_status read_types(reader *r)
{
    const char *key = "tokenizer.ggml.token_type";
    const lt_gguf_value *value = lt_gguf_value_of(r->file, key);
    bool is_unsigned = value && value->element_type == LT_GGUF_U32;
    for (int64_t id = 0; id < r->count; id++)
        r->type[id] = LT_GGUF_TOKEN_NORMAL;
    LT_TRY(read_numbers(r, key, is_unsigned ? LT_GGUF_U32 : LT_GGUF_I32, r->type));
    for (int64_t id = 0; id < r->count; id++)
        if (r->type[id] < LT_GGUF_TOKEN_NORMAL || r->type[id] > LT_GGUF_TOKEN_BYTE)
            return lt_fail(r->err, LT_ERR_FORMAT,
                           "%s: token %lld is of type %d, which there is not", r->file->path,
                           (long long)id, r->type[id]);
    return LT_OK;
}

static lt_status read_scores(reader *r)
{
    if (!lt_gguf_value_of(r->file, "tokenizer.ggml.scores")) return LT_OK;
    r->score = calloc((size_t)r->count, sizeof *r->score);
    if (!r->score) return lt_fail_nomem(r->err, (size_t)r->count * sizeof *r->score, "scores");
    return read_numbers(r, "tokenizer.ggml.scores", LT_GGUF_FLOAT32, r->score);
}

/* --- Vocabulary ------------------------------------------------------------------------------- */

static bool is_added(const reader *r, int64_t id)
{
    int32_t type = r->type[id];
    return type == LT_GGUF_TOKEN_CONTROL || type == LT_GGUF_TOKEN_USER_DEFINED ||
           type == LT_GGUF_TOKEN_UNKNOWN;
}

/* Added tokens of lower ids are in the vocabulary too: that is how the files that GGUFs are made
 * from have them. */
static lt_status vocabulary_size(const reader *r, int64_t *out)
{
    *out = 0;
    LT_TRY(lt_json_get_int(r->rules, "vocab_size", 0, r->count, LT_GGUF_RULES_KEY, out, r->err));
    if (*out > 0) return LT_OK;
    for (int64_t id = 0; id < r->count; id++)
        if (r->type[id] == LT_GGUF_TOKEN_NORMAL || r->type[id] == LT_GGUF_TOKEN_BYTE) *out = id + 1;
    return LT_OK;
}

static lt_status make_vocabulary(reader *r)
{
    int64_t size;
    LT_TRY(vocabulary_size(r, &size));
    r->vocabulary = json_object();
    for (int64_t id = 0; id < size; id++) {
        if (r->type[id] == LT_GGUF_TOKEN_UNUSED) continue;
        const json_t *other = json_object_getn(r->vocabulary, r->text[id], r->size[id]);
        if (other)
            return lt_fail(r->err, LT_ERR_FORMAT, "%s: tokens %lld and %lld are both \"%.*s\"",
                           r->file->path, (long long)json_integer_value(other), (long long)id,
                           (int)(r->size[id] < 60 ? r->size[id] : 60), r->text[id]);
        if (json_object_setn_new(r->vocabulary, r->text[id], r->size[id], json_integer(id)) != 0)
            return lt_fail_nomem(r->err, r->size[id], "the vocabulary");
    }
    return LT_OK;
}

static json_t *describe_added(const reader *r, int64_t id)
{
    return json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
                     r->text[id], r->size[id], "single_word", 0, "lstrip", 0, "rstrip", 0,
                     "normalized", 0, "special", r->type[id] != LT_GGUF_TOKEN_USER_DEFINED);
}

static lt_status make_added(reader *r, json_t *array)
{
    for (int64_t id = 0; id < r->count; id++)
        if (is_added(r, id) && json_array_append_new(array, describe_added(r, id)) != 0)
            return lt_fail_nomem(r->err, r->size[id], "the added tokens");
    return LT_OK;
}

/* --- Merges ----------------------------------------------------------------------------------- */

/* A pair, which no word of the format can be mistaken for. */
static lt_status append_merge(reader *r, const char *left, size_t left_size, const char *right,
                              size_t right_size)
{
    json_t *pair = json_pack("[s%, s%]", left, left_size, right, right_size);
    if (pair && json_array_append_new(r->merges, pair) == 0) return LT_OK;
    return lt_fail_nomem(r->err, left_size + right_size, "the merges");
}

static lt_status read_merges(reader *r, const lt_gguf_value *merges)
{
    const unsigned char *at = merges->data;
    const char *text;
    size_t size;
    for (uint64_t i = 0; lt_gguf_next_string(merges, &at, &text, &size); i++) {
        const char *space = size > 1 ? memchr(text + 1, ' ', size - 1) : NULL;
        if (!space || space + 1 == text + size || !is_text(text, size))
            return lt_fail(r->err, LT_ERR_FORMAT, "%s: merge %llu is not two tokens", r->file->path,
                           (unsigned long long)i + 1);
        LT_TRY(append_merge(r, text, (size_t)(space - text), space + 1,
                            size - (size_t)(space + 1 - text)));
    }
    return LT_OK;
}

/* A way to cut a token in two tokens. */
typedef struct cut {
    float score;
    int32_t id, left, right;
} cut;

/* As transformers makes merges of a SentencePiece model: by score, then the order of ids. */
static int by_score(const void *a, const void *b)
{
    const cut *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return x->right < y->right ? -1 : x->right > y->right;
}

static int32_t find(const reader *r, const char *text, size_t size)
{
    const json_t *id = json_object_getn(r->vocabulary, text, size);
    return id ? (int32_t)json_integer_value(id) : -1;
}

static lt_status cut_token(const reader *r, int32_t id, lt_buffer *cuts)
{
    const char *text = r->text[id];
    size_t size = r->size[id];
    if (size > LT_MAX_MERGED_BYTES)
        return lt_fail(r->err, LT_ERR_LIMIT, "%s: token %d has %zu bytes: %d at most",
                       r->file->path, id, size, LT_MAX_MERGED_BYTES);
    for (size_t i = 1; i < size; i++) {
        cut c = {.score = r->score[id], .id = id, .left = find(r, text, i)};
        if (c.left < 0) continue;
        c.right = find(r, text + i, size - i);
        if (c.right >= 0) LT_TRY(lt_buffer_append(cuts, &c, sizeof c, r->err));
    }
    return LT_OK;
}

static lt_status derive_merges(reader *r)
{
    lt_buffer cuts = {0};
    lt_status status = LT_OK;
    if (!r->score) return fail(r, "has neither tokenizer.ggml.merges nor tokenizer.ggml.scores");
    for (int32_t id = 0; id < r->count && status == LT_OK; id++) {
        if (r->score[id] != r->score[id]) status = fail(r, "a token's score is not a number");
        if (status == LT_OK && r->type[id] == LT_GGUF_TOKEN_NORMAL)
            status = cut_token(r, id, &cuts);
    }
    cut *sorted = (cut *)(void *)cuts.data;
    size_t count = cuts.size / sizeof *sorted;
    if (status == LT_OK && count > 0) qsort(sorted, count, sizeof *sorted, by_score);
    for (size_t i = 0; i < count && status == LT_OK; i++) {
        int32_t left = sorted[i].left, right = sorted[i].right;
        status = append_merge(r, r->text[left], r->size[left], r->text[right], r->size[right]);
    }
    lt_buffer_free(&cuts);
    return status;
}

static lt_status make_merges(reader *r)
{
    const lt_gguf_value *merges;
    bool needed = r->kind != LT_TOKENIZER_SENTENCEPIECE;
    r->merges = json_array();
    LT_TRY(array_of(r, "tokenizer.ggml.merges", LT_GGUF_STRING, needed, &merges));
    return merges ? read_merges(r, merges) : derive_merges(r);
}

/* --- Special tokens and rules ----------------------------------------------------------------- */

static lt_status id_of(const reader *r, const char *key, int64_t *id)
{
    *id = -1;
    return lt_gguf_get_int(r->file, key, 0, r->count - 1, id, r->err);
}

static lt_status name_token(reader *r, const char *key, const char *name, int64_t *id)
{
    LT_TRY(id_of(r, key, id));
    if (*id < 0) return LT_OK;
    json_t *content = json_stringn(r->text[*id], r->size[*id]);
    return json_object_set_new(r->config, name, content) == 0
               ? LT_OK
               : lt_fail_nomem(r->err, r->size[*id], "a tokenizer's config");
}

static lt_status make_config(reader *r, int64_t *bos, int64_t *eos)
{
    int64_t other;
    const char *text;
    size_t size;
    r->config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                          "clean_up_tokenization_spaces", 0);
    LT_TRY(name_token(r, "tokenizer.ggml.bos_token_id", "bos_token", bos));
    LT_TRY(name_token(r, "tokenizer.ggml.eos_token_id", "eos_token", eos));
    LT_TRY(name_token(r, "tokenizer.ggml.padding_token_id", "pad_token", &other));
    LT_TRY(name_token(r, "tokenizer.ggml.unknown_token_id", "unk_token", &other));
    LT_TRY(string_of(r, "tokenizer.chat_template", &text, &size));
    if (!text) return LT_OK;
    if (!is_text(text, size)) return fail(r, "tokenizer.chat_template is not UTF-8");
    return json_object_set_new(r->config, "chat_template", json_stringn(text, size)) == 0
               ? LT_OK
               : lt_fail_nomem(r->err, size, "a tokenizer's config");
}

/* Text is brought to NFC where the model's Hugging Face tokenizers do so, which llama.cpp does not.
 */
static lt_status uses_nfc(const reader *r, bool *out)
{
    const char *text;
    size_t size;
    LT_TRY(string_of(r, "general.architecture", &text, &size));
    *out = r->kind == LT_TOKENIZER_QWEN2 || equals(text, size, "gptneox");
    return LT_OK;
}

static const char *content_of(const reader *r, const char *name)
{
    return json_string_value(json_object_get(r->config, name));
}

/* What llama.cpp does for the kind, unless the file says otherwise. */
static lt_status make_standard_rules(reader *r, int64_t bos, int64_t eos)
{
    bool marks = r->kind == LT_TOKENIZER_SENTENCEPIECE, begin = marks, end = false;
    lt_standard_rules standard = {.kind = r->kind, .prefix_space = marks};
    if (r->kind == LT_TOKENIZER_LLAMA3) begin = true;
    LT_TRY(uses_nfc(r, &standard.nfc));
    LT_TRY(lt_gguf_get_bool(r->file, "tokenizer.ggml.add_bos_token", &begin, r->err));
    LT_TRY(lt_gguf_get_bool(r->file, "tokenizer.ggml.add_eos_token", &end, r->err));
    LT_TRY(lt_gguf_get_bool(r->file, "tokenizer.ggml.add_space_prefix", &standard.prefix_space,
                            r->err));
    if (begin && bos >= 0) standard.bos = content_of(r, "bos_token");
    if (end && eos >= 0) standard.eos = content_of(r, "eos_token");
    standard.bos_id = (int32_t)bos;
    standard.eos_id = (int32_t)eos;
    if (marks) standard.unknown = content_of(r, "unk_token");
    LT_TRY(lt_tokenizer_standard_rules(&standard, &r->rules, r->err));
    return make_added(r, json_object_get(r->rules, "added_tokens"));
}

static lt_status make_rules(reader *r, int64_t bos, int64_t eos)
{
    const char *text;
    size_t size;
    LT_TRY(string_of(r, LT_GGUF_RULES_KEY, &text, &size));
    if (!text) return make_standard_rules(r, bos, eos);
    return lt_json_parse(text, size, LT_GGUF_RULES_KEY, &r->rules, r->err);
}

/* --- The whole -------------------------------------------------------------------------------- */

static lt_status read_all(reader *r, lt_tokenizer **out)
{
    int64_t bos, eos;
    bool there;
    LT_TRY(read_kind(r, &there));
    if (!there) return LT_OK;
    LT_TRY(read_tokens(r));
    LT_TRY(read_types(r));
    LT_TRY(read_scores(r));
    LT_TRY(make_config(r, &bos, &eos));
    LT_TRY(make_rules(r, bos, eos));
    LT_TRY(make_vocabulary(r));
    LT_TRY(make_merges(r));
    lt_status status = lt_tokenizer_assemble(r->rules, r->vocabulary, r->merges, r->config,
                                             r->file->path, out, r->err);
    r->rules = r->vocabulary = r->merges = r->config = NULL; /* taken over */
    return status;
}

lt_status lt_tokenizer_from_gguf(const lt_gguf *file, lt_tokenizer **out, lt_err *err)
{
    reader r = {.file = file, .err = err};
    *out = NULL;
    lt_status status = read_all(&r, out);
    free(r.text);
    free(r.size);
    free(r.type);
    free(r.score);
    json_decref(r.rules);
    json_decref(r.vocabulary);
    json_decref(r.merges);
    json_decref(r.config);
    return status;
}
