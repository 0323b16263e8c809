#include "data_pipeline/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

#include "data_pipeline/tokenizer_internal.h"

#define SPACE_MARK "\xE2\x96\x81" /* U+2581 */

/* --- Single tokens ---------------------------------------------------------------------------- */

static bool is_byte_token(const lt_bpe *bpe, int32_t id)
{
    if (!bpe->byte_fallback) return false;
    for (int byte = 0; byte < 256; byte++)
        if (bpe->fallback_ids[byte] == id) return true;
    return false;
}

lt_token_role lt_tokenizer_role(const lt_tokenizer *tokenizer, int32_t id)
{
    const lt_added_token *added = lt_added_tokens_by_id(&tokenizer->added, id);
    if (id >= 0 && id == tokenizer->bpe.unk_id) return LT_TOKEN_UNKNOWN;
    if (added) return added->special ? LT_TOKEN_SPECIAL : LT_TOKEN_ADDED;
    if (!lt_vocabulary_spelling(&tokenizer->bpe.vocabulary, id, NULL)) return LT_TOKEN_NONE;
    return is_byte_token(&tokenizer->bpe, id) ? LT_TOKEN_BYTE : LT_TOKEN_NORMAL;
}

bool lt_tokenizer_is_particular(const lt_tokenizer *tokenizer, int32_t id)
{
    const lt_added_token *added = lt_added_tokens_by_id(&tokenizer->added, id);
    return added && (added->lstrip || added->rstrip || added->single_word);
}

/* --- Taking apart ----------------------------------------------------------------------------- */

/* Spaces become "▁", by the normaliser or the pre-tokenizer, and nothing else is done. *prefix: one
 * is put in front. */
static bool is_sentencepiece(const lt_tokenizer *tokenizer, bool *prefix)
{
    const lt_normalizer *normalizer = &tokenizer->normalizer;
    const lt_pretokenizer *pretokenizer = &tokenizer->pretokenizer;
    bool replaced = false;
    *prefix = false;
    for (size_t i = 0; i < normalizer->count; i++) {
        const lt_normalizer_step *step = &normalizer->steps[i];
        bool mark = step->content && strcmp(step->content, SPACE_MARK) == 0;
        if (!mark || step->kind == LT_NORMALIZER_NFC) return false;
        if (step->kind == LT_NORMALIZER_PREPEND)
            *prefix = true;
        else if (strcmp(step->pattern, " ") != 0)
            return false;
        else
            replaced = true;
    }
    for (size_t i = 0; i < pretokenizer->count; i++) {
        const lt_pretokenizer_step *step = &pretokenizer->steps[i];
        if (step->kind != LT_PRETOKENIZER_METASPACE || strcmp(step->replacement, SPACE_MARK) != 0)
            return false;
        *prefix = *prefix || step->scheme != LT_PREPEND_NEVER;
        replaced = true;
    }
    return replaced && tokenizer->bpe.byte_fallback;
}

static bool has_metaspace(const lt_pretokenizer *pretokenizer)
{
    for (size_t i = 0; i < pretokenizer->count; i++)
        if (pretokenizer->steps[i].kind == LT_PRETOKENIZER_METASPACE) return true;
    return false;
}

static lt_tokenizer_kind kind_of(const lt_tokenizer *tokenizer, bool *prefix_space)
{
    const lt_pretokenizer *pretokenizer = &tokenizer->pretokenizer;
    const lt_normalizer *normalizer = &tokenizer->normalizer;
    lt_tokenizer_kind kind = LT_TOKENIZER_OTHER;
    if (!pretokenizer->byte_level)
        return is_sentencepiece(tokenizer, prefix_space) ? LT_TOKENIZER_SENTENCEPIECE : kind;
    *prefix_space = false;
    for (size_t i = 0; i < normalizer->count; i++)
        if (normalizer->steps[i].kind != LT_NORMALIZER_NFC) return LT_TOKENIZER_OTHER;
    for (size_t i = 0; i < pretokenizer->count; i++) {
        lt_pretokenizer_kind step = pretokenizer->steps[i].kind;
        bool splits = step == LT_SPLIT_GPT2 || step == LT_SPLIT_LLAMA3 || step == LT_SPLIT_QWEN2;
        if (step == LT_PRETOKENIZER_PREFIX_SPACE)
            *prefix_space = true;
        else if (!splits || kind != LT_TOKENIZER_OTHER)
            return LT_TOKENIZER_OTHER;
        if (step == LT_SPLIT_GPT2) kind = LT_TOKENIZER_GPT2;
        if (step == LT_SPLIT_LLAMA3) kind = LT_TOKENIZER_LLAMA3;
        if (step == LT_SPLIT_QWEN2) kind = LT_TOKENIZER_QWEN2;
    }
    return kind;
}

/* GPT-NeoX's vocabulary has no more than these. */
static bool occurs_in_utf8(int byte)
{
    return byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
}

static bool has_every_byte(const lt_bpe *bpe)
{
    const int32_t *ids = bpe->byte_level ? bpe->byte_ids : bpe->fallback_ids;
    for (int byte = 0; byte < 256; byte++)
        if (occurs_in_utf8(byte) && ids[byte] < 0) return false;
    return true;
}

typedef struct ranked_merge {
    uint32_t rank;
    lt_token_merge merge;
} ranked_merge;

static int by_rank(const void *a, const void *b)
{
    uint32_t x = ((const ranked_merge *)a)->rank, y = ((const ranked_merge *)b)->rank;
    return x < y ? -1 : x > y;
}

static lt_status take_merges(const lt_bpe *bpe, lt_tokenizer_parts *out, lt_err *err)
{
    size_t count = 0, room = bpe->merge_count ? bpe->merge_count : 1;
    ranked_merge *ranked = malloc(room * sizeof *ranked);
    out->merges = malloc(room * sizeof *out->merges);
    if (!ranked || !out->merges) {
        free(ranked);
        return lt_fail_nomem(err, room * sizeof *ranked, "the merges");
    }
    for (size_t i = 0; i <= bpe->merge_mask; i++) {
        const lt_merge_slot *slot = &bpe->merges[i];
        if (slot->pair == LT_NO_PAIR) continue;
        ranked[count++] = (ranked_merge){.rank = slot->rank,
                                         .merge = {.left = (int32_t)(slot->pair >> 32),
                                                   .right = (int32_t)(uint32_t)slot->pair,
                                                   .joined = slot->id}};
    }
    qsort(ranked, count, sizeof *ranked, by_rank);
    for (size_t i = 0; i < count; i++)
        out->merges[i] = ranked[i].merge;
    out->merge_count = count;
    free(ranked);
    return LT_OK;
}

/* Ways to cut a token in two tokens; of a very long one, which no tokenizer has, none. */
static size_t count_splits(const lt_vocabulary *vocabulary, const char *spelling, size_t size)
{
    size_t count = 0;
    for (size_t cut = 1; cut < size && size <= LT_MAX_MERGED_BYTES; cut++)
        count += lt_vocabulary_find(vocabulary, spelling, cut) >= 0 &&
                 lt_vocabulary_find(vocabulary, spelling + cut, size - cut) >= 0;
    return count;
}

/* Every merge is a split of its token, so equal numbers are equal sets. */
static lt_status find_joining(const lt_tokenizer *tokenizer, lt_tokenizer_parts *out, lt_err *err)
{
    const lt_vocabulary *vocabulary = &tokenizer->bpe.vocabulary;
    size_t splits = 0, size;
    bool *seen = calloc((size_t)vocabulary->size + 1, sizeof *seen);
    if (!seen) return lt_fail_nomem(err, (size_t)vocabulary->size, "the merges");
    out->joins_any_pair = true;
    for (size_t i = 0; i < out->merge_count; i++) {
        int32_t joined = out->merges[i].joined;
        bool again = i > 0 && joined == out->merges[i - 1].joined;
        if (seen[joined] && !again) out->joins_any_pair = false;
        seen[joined] = true;
    }
    free(seen);
    for (int32_t id = 0; id < vocabulary->size; id++) {
        const char *spelling = lt_vocabulary_spelling(vocabulary, id, &size);
        if (spelling && lt_tokenizer_role(tokenizer, id) == LT_TOKEN_NORMAL)
            splits += count_splits(vocabulary, spelling, size);
    }
    if (splits != out->merge_count) out->joins_any_pair = false;
    return LT_OK;
}

/* Shallow copies: vocabulary and merges are never copied. */
static lt_status take_rules(const lt_tokenizer *tokenizer, lt_tokenizer_parts *out, lt_err *err)
{
    json_t *model = json_copy(json_object_get(tokenizer->json, "model"));
    out->rules = json_copy(tokenizer->json);
    json_object_del(model, "vocab");
    json_object_del(model, "merges");
    bool ok = out->rules && model && json_object_set(out->rules, "model", model) == 0 &&
              json_object_set_new(out->rules, "vocab_size",
                                  json_integer(tokenizer->bpe.vocabulary.size)) == 0;
    json_decref(model);
    return ok ? LT_OK : lt_fail_nomem(err, 1024, "a tokenizer's rules");
}

static int32_t unknown_id(const lt_tokenizer *tokenizer)
{
    if (tokenizer->bpe.unk_id >= 0) return tokenizer->bpe.unk_id;
    const char *name = lt_tokenizer_named_token(tokenizer, "unk_token");
    return name ? lt_tokenizer_token_id(tokenizer, name) : -1;
}

lt_status lt_tokenizer_take_apart(const lt_tokenizer *tokenizer, lt_tokenizer_parts *out,
                                  lt_err *err)
{
    *out = (lt_tokenizer_parts){.unk_id = unknown_id(tokenizer),
                                .every_byte = has_every_byte(&tokenizer->bpe),
                                .prefix = &tokenizer->prefix,
                                .suffix = &tokenizer->suffix};
    out->kind = kind_of(tokenizer, &out->prefix_space);
    out->spares_spaces = out->prefix_space && has_metaspace(&tokenizer->pretokenizer);
    lt_status status = take_merges(&tokenizer->bpe, out, err);
    if (status == LT_OK && out->kind == LT_TOKENIZER_SENTENCEPIECE)
        status = find_joining(tokenizer, out, err);
    if (status == LT_OK) status = take_rules(tokenizer, out, err);
    if (status != LT_OK) lt_tokenizer_parts_free(out);
    return status;
}

void lt_tokenizer_parts_free(lt_tokenizer_parts *parts)
{
    free(parts->merges);
    json_decref(parts->rules);
    *parts = (lt_tokenizer_parts){0};
}

/* --- Putting together ------------------------------------------------------------------------- */

static json_t *byte_level(bool use_regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", use_regex);
}

static json_t *byte_level_pretokenizer(lt_tokenizer_kind kind)
{
    if (kind == LT_TOKENIZER_GPT2) return byte_level(true);
    lt_pretokenizer_kind split = kind == LT_TOKENIZER_LLAMA3 ? LT_SPLIT_LLAMA3 : LT_SPLIT_QWEN2;
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers",
                     "type", "Split", "pattern", "Regex", lt_split_regex(split), "behavior",
                     "Isolated", "invert", 0, byte_level(false));
}

static json_t *mark_normalizer(bool prefix)
{
    json_t *replace = json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ",
                                "content", SPACE_MARK);
    if (!prefix) return replace;
    return json_pack("{s:s, s:[{s:s, s:s}, o]}", "type", "Sequence", "normalizers", "type",
                     "Prepend", "prepend", SPACE_MARK, replace);
}

static json_t *mark_decoder(bool prefix)
{
    json_t *decoder = json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]}", "type", "Sequence",
                                "decoders", "type", "Replace", "pattern", "String", SPACE_MARK,
                                "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (prefix)
        json_array_append_new(json_object_get(decoder, "decoders"),
                              json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ",
                                        "start", 1, "stop", 0));
    return decoder;
}

static void append_special(json_t *single, json_t *specials, const char *content, int32_t id)
{
    if (!content) return;
    json_array_append_new(single,
                          json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", content, "type_id", 0));
    json_object_set_new(
        specials, content,
        json_pack("{s:s, s:[i], s:[s]}", "id", content, "ids", (int)id, "tokens", content));
}

/* The pair is as the first text, then the second: nobody here encodes pairs. */
static json_t *post_processor(const lt_standard_rules *standard)
{
    if (!standard->bos && !standard->eos) return json_null();
    json_t *single = json_array(), *specials = json_object();
    append_special(single, specials, standard->bos, standard->bos_id);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    append_special(single, specials, standard->eos, standard->eos_id);
    return json_pack("{s:s, s:o, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:o}", "type",
                     "TemplateProcessing", "single", single, "pair", "Sequence", "id", "A",
                     "type_id", 0, "Sequence", "id", "B", "type_id", 1, "special_tokens", specials);
}

lt_status lt_tokenizer_standard_rules(const lt_standard_rules *standard, json_t **out, lt_err *err)
{
    bool marks = standard->kind == LT_TOKENIZER_SENTENCEPIECE, prefix = standard->prefix_space;
    json_t *normalizer = marks ? mark_normalizer(prefix) : json_null();
    if (!marks && standard->nfc) normalizer = json_pack("{s:s}", "type", "NFC");
    *out = json_pack(
        "{s:s, s:n, s:n, s:[], s:o, s:o, s:o, s:o, s:{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b}}",
        "version", "1.0", "truncation", "padding", "added_tokens", "normalizer", normalizer,
        "pre_tokenizer", marks ? json_null() : byte_level_pretokenizer(standard->kind),
        "post_processor", post_processor(standard), "decoder",
        marks ? mark_decoder(prefix) : byte_level(true), "model", "type", "BPE", "dropout",
        "unk_token", standard->unknown, "continuing_subword_prefix", "end_of_word_suffix",
        "fuse_unk", marks, "byte_fallback", marks, "ignore_merges",
        standard->kind == LT_TOKENIZER_LLAMA3);
    return *out ? LT_OK : lt_fail_nomem(err, 1024, "a tokenizer's rules");
}

lt_status lt_tokenizer_assemble(json_t *rules, json_t *vocabulary, json_t *merges, json_t *config,
                                const char *where, lt_tokenizer **out, lt_err *err)
{
    json_t *model = json_object_get(rules, "model");
    *out = NULL;
    if (!json_is_object(model)) {
        json_decref(rules);
        json_decref(vocabulary);
        json_decref(merges);
        json_decref(config);
        return lt_fail(err, LT_ERR_FORMAT, "%s: the tokenizer's rules have no \"model\"", where);
    }
    json_object_del(rules, "vocab_size");
    json_object_set_new(model, "vocab", vocabulary);
    json_object_set_new(model, "merges", merges);
    return lt_tokenizer_from_json(rules, config, NULL, where, out, err);
}
