/* The BPE model: a word becomes its characters' ids, and then the neighbouring pair with the
 * lowest rank (the leftmost of equals) is merged until no pair can be.
 *
 * Short words are searched for the lowest rank again after each merge; long ones keep a heap. Both
 * give the same ids. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "data_pipeline/tokenizer_internal.h"

/* Above this many characters the heap wins. */
#define SHORT_WORD 48

/* --- The byte-level alphabet ------------------------------------------------------------------
 * Printable Latin-1 bytes stand for themselves; the other 68 are moved to U+0100 and up, in order.
 */

static bool is_printable_byte(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

uint32_t lt_byte_to_char(unsigned char byte)
{
    if (is_printable_byte(byte)) return byte;
    if (byte <= 32) return 256u + byte;
    if (byte <= 160) return 256u + 33 + (byte - 127u); /* 127..160 */
    return 256u + 67;                                  /* 173 */
}

int lt_char_to_byte(uint32_t c)
{
    if (c < 256) return is_printable_byte(c) ? (int)c : -1;
    if (c <= 288) return (int)(c - 256);
    if (c < 323) return (int)(c - 289 + 127);
    return c == 323 ? 173 : -1;
}

/* --- Building ---------------------------------------------------------------------------------
 */

void lt_bpe_free(lt_bpe *bpe)
{
    lt_vocabulary_free(&bpe->vocabulary);
    free(bpe->merges);
    *bpe = (lt_bpe){0};
}

/* The two parts of one entry of `merges`: "left right" (not NUL-terminated) or ["left", "right"].
 * False: neither of the spellings. */
static bool merge_parts(const json_t *entry, const char *part[2], size_t size[2])
{
    if (json_is_string(entry)) {
        const char *text = json_string_value(entry);
        const char *space = strchr(text, ' ');
        if (!space || strchr(space + 1, ' ')) return false;
        part[0] = text;
        size[0] = (size_t)(space - text);
        part[1] = space + 1;
        size[1] = strlen(space + 1);
        return true;
    }
    if (json_array_size(entry) != 2) return false;
    for (size_t i = 0; i < 2; i++) {
        part[i] = json_string_value(json_array_get(entry, i));
        if (!part[i]) return false;
        size[i] = strlen(part[i]);
    }
    return true;
}

static void insert_merge(lt_bpe *bpe, uint64_t pair, uint32_t rank, int32_t id)
{
    size_t i = lt_merge_hash(pair) & bpe->merge_mask;
    while (bpe->merges[i].pair != LT_NO_PAIR && bpe->merges[i].pair != pair)
        i = (i + 1) & bpe->merge_mask;
    if (bpe->merges[i].pair == LT_NO_PAIR) bpe->merge_count++;
    bpe->merges[i] = (lt_merge_slot){pair, rank, id}; /* a pair said twice: the last one counts */
}

static lt_status add_merge(lt_bpe *bpe, const json_t *entry, uint32_t rank, lt_buffer *joined,
                           const char *where, lt_err *err)
{
    const char *part[2];
    size_t size[2];
    int32_t id[2];
    if (!merge_parts(entry, part, size))
        return lt_fail(err, LT_ERR_FORMAT, "%s: merge %u is not two tokens", where, rank + 1);
    lt_buffer_clear(joined);
    for (int i = 0; i < 2; i++) {
        id[i] = lt_vocabulary_find(&bpe->vocabulary, part[i], size[i]);
        if (id[i] < 0)
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: merge %u: token \"%.*s\" is not in the vocabulary", where, rank + 1,
                           (int)(size[i] < 100 ? size[i] : 100), part[i]);
        LT_TRY(lt_buffer_append(joined, part[i], size[i], err));
    }
    int32_t together = lt_vocabulary_find(&bpe->vocabulary, joined->data, joined->size);
    if (together < 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: merge %u: token \"%.100s\" is not in the vocabulary", where, rank + 1,
                       joined->data);
    insert_merge(bpe, (uint64_t)(uint32_t)id[0] << 32 | (uint32_t)id[1], rank, together);
    return LT_OK;
}

static bool is_version_line(const json_t *entry)
{
    const char *text = json_string_value(entry);
    return text && strncmp(text, "#version", 8) == 0;
}

static lt_status build_merges(lt_bpe *bpe, const json_t *array, const char *where, lt_err *err)
{
    if (!json_is_array(array))
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"merges\" is not an array", where);
    size_t count = json_array_size(array), slots = 16;
    if (count > INT32_MAX / 4)
        return lt_fail(err, LT_ERR_LIMIT, "%s: %zu merges are too many", where, count);
    while (slots < count * 2)
        slots *= 2;
    bpe->merge_mask = slots - 1;
    bpe->merges = malloc(slots * sizeof *bpe->merges);
    if (!bpe->merges) return lt_fail_nomem(err, slots * sizeof *bpe->merges, "the merges");
    memset(bpe->merges, 0xFF, slots * sizeof *bpe->merges);
    lt_buffer joined = {0};
    lt_status status = lt_buffer_reserve(&joined, 64, err);
    uint32_t rank = 0;
    for (size_t i = 0; status == LT_OK && i < count; i++) {
        const json_t *entry = json_array_get(array, i);
        if (is_version_line(entry)) continue;
        status = add_merge(bpe, entry, rank++, &joined, where, err);
    }
    lt_buffer_free(&joined);
    return status;
}

/* Ids of single bytes: their characters in a byte-level vocabulary, and <0xNN> for byte fallback.
 */
static void set_byte_ids(lt_bpe *bpe)
{
    for (int byte = 0; byte < 256; byte++) {
        char spelling[8];
        size_t size = lt_utf8_encode(lt_byte_to_char((unsigned char)byte), spelling);
        bpe->byte_ids[byte] = lt_vocabulary_find(&bpe->vocabulary, spelling, size);
        size = (size_t)snprintf(spelling, sizeof spelling, "<0x%02X>", (unsigned)byte);
        bpe->fallback_ids[byte] = lt_vocabulary_find(&bpe->vocabulary, spelling, size);
    }
}

static bool begins_with(const char *text, size_t size, const char *part, size_t part_size)
{
    return size >= part_size && memcmp(text, part, part_size) == 0;
}

static bool ends_with(const char *text, size_t size, const char *part, size_t part_size)
{
    return size >= part_size && memcmp(text + size - part_size, part, part_size) == 0;
}

/* SentencePiece files have no pre-tokenizer: the whole text is one word. It may be cut before each
 * U+2581 that follows another character if no merge could ever join the two sides, which then also
 * makes the cache of words work for them. */
static void find_separator(lt_bpe *bpe)
{
    static const char separator[] = "\xE2\x96\x81"; /* U+2581 */
    const size_t width = sizeof separator - 1;
    const lt_vocabulary *vocabulary = &bpe->vocabulary;
    if (bpe->byte_level || bpe->ignore_merges) return;
    if (lt_vocabulary_find(vocabulary, separator, width) < 0) return;
    for (size_t i = 0; i <= bpe->merge_mask; i++) {
        if (bpe->merges[i].pair == LT_NO_PAIR) continue;
        size_t left_size, right_size;
        const char *left =
            lt_vocabulary_spelling(vocabulary, (int32_t)(bpe->merges[i].pair >> 32), &left_size);
        const char *right = lt_vocabulary_spelling(
            vocabulary, (int32_t)(bpe->merges[i].pair & UINT32_MAX), &right_size);
        if (begins_with(right, right_size, separator, width) &&
            !ends_with(left, left_size, separator, width))
            return;
    }
    /* an unknown character's token is spelled unlike the character it stands for */
    size_t unk_size;
    const char *unk = lt_vocabulary_spelling(vocabulary, bpe->unk_id, &unk_size);
    if (unk && ends_with(unk, unk_size, separator, width)) return;
    memcpy(bpe->separator, separator, sizeof separator);
}

/* Settings that change ids and that Lathe does not have. */
static lt_status refuse_unsupported(const json_t *model, const char *where, lt_err *err)
{
    const char *type = NULL, *affix = NULL;
    double dropout = 0;
    LT_TRY(lt_json_get_string(model, "type", where, &type, err));
    if (type && strcmp(type, "BPE") != 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: tokenizer model \"%.60s\" is not supported (BPE is)", where, type);
    LT_TRY(lt_json_get_number(model, "dropout", where, &dropout, err));
    if (dropout != 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: BPE dropout %g is not supported", where,
                       dropout);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        affix = NULL;
        LT_TRY(lt_json_get_string(model, affixes[i], where, &affix, err));
        if (affix && *affix)
            return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: %s \"%.60s\" is not supported", where,
                           affixes[i], affix);
    }
    return LT_OK;
}

lt_status lt_bpe_build(lt_bpe *bpe, const json_t *model, bool byte_level, const char *where,
                       lt_err *err)
{
    const char *unk = NULL;
    *bpe = (lt_bpe){.byte_level = byte_level, .unk_id = -1};
    if (!json_is_object(model))
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"model\" is not an object", where);
    LT_TRY(refuse_unsupported(model, where, err));
    LT_TRY(lt_json_get_bool(model, "fuse_unk", where, &bpe->fuse_unk, err));
    LT_TRY(lt_json_get_bool(model, "byte_fallback", where, &bpe->byte_fallback, err));
    LT_TRY(lt_json_get_bool(model, "ignore_merges", where, &bpe->ignore_merges, err));
    LT_TRY(lt_json_get_string(model, "unk_token", where, &unk, err));
    LT_TRY(lt_vocabulary_build(&bpe->vocabulary, json_object_get(model, "vocab"), where, err));
    LT_TRY(build_merges(bpe, json_object_get(model, "merges"), where, err));
    if (unk) {
        bpe->unk_id = lt_vocabulary_find(&bpe->vocabulary, unk, strlen(unk));
        if (bpe->unk_id < 0)
            return lt_fail(err, LT_ERR_FORMAT, "%s: unk_token \"%.100s\" is not in the vocabulary",
                           where, unk);
    }
    set_byte_ids(bpe);
    find_separator(bpe);
    return LT_OK;
}

/* --- A word as single characters --------------------------------------------------------------
 */

static lt_status fail_unknown(const lt_bpe *bpe, const unsigned char *p, lt_err *err)
{
    size_t length;
    uint32_t c = lt_utf8_decode(p, &length);
    int byte = bpe->byte_level ? lt_char_to_byte(c) : -1;
    char what[32];
    snprintf(what, sizeof what, byte >= 0 ? "byte 0x%02X" : "U+%04X",
             byte >= 0 ? (unsigned)byte : c);
    return lt_fail(
        err, LT_ERR_UNSUPPORTED,
        "%s is not in the tokenizer's vocabulary, which has no token for what is unknown "
        "either",
        what);
}

/* True when every byte of the character has a fallback token; then they are appended. */
static bool push_fallback(const lt_bpe *bpe, lt_ids *symbols, const unsigned char *p, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (bpe->fallback_ids[p[i]] < 0) return false;
    }
    for (size_t i = 0; i < length; i++)
        symbols->data[symbols->count++] = bpe->fallback_ids[p[i]];
    return true;
}

/* False when a byte's character is not in the vocabulary. */
static bool bytes_to_symbols(const lt_bpe *bpe, lt_ids *symbols, const unsigned char *word,
                             size_t size)
{
    for (size_t i = 0; i < size; i++) {
        int32_t id = bpe->byte_ids[word[i]];
        if (id < 0) return false;
        symbols->data[i] = id;
    }
    symbols->count = size;
    return true;
}

/* Follows the reference library to the letter: an unknown character is held back until a known one
 * comes, and fallback bytes that come first overtake it. */
static lt_status characters_to_symbols(const lt_bpe *bpe, lt_ids *symbols,
                                       const unsigned char *word, size_t size, lt_err *err)
{
    bool held = false;
    size_t length;
    for (size_t i = 0; i < size; i += length) {
        lt_utf8_decode(word + i, &length);
        int32_t id = lt_vocabulary_find(&bpe->vocabulary, (const char *)word + i, length);
        if (id >= 0) {
            if (held) symbols->data[symbols->count++] = bpe->unk_id;
            held = false;
            symbols->data[symbols->count++] = id;
            continue;
        }
        if (bpe->byte_fallback && push_fallback(bpe, symbols, word + i, length)) continue;
        if (bpe->unk_id < 0) return fail_unknown(bpe, word + i, err);
        if (held && !bpe->fuse_unk) symbols->data[symbols->count++] = bpe->unk_id;
        held = true;
    }
    if (held) symbols->data[symbols->count++] = bpe->unk_id;
    return LT_OK;
}

/* --- Merging ----------------------------------------------------------------------------------
 */

static void merge_short(const lt_bpe *bpe, int32_t *symbols, size_t *count)
{
    uint32_t ranks[SHORT_WORD]; /* of the pair (i, i + 1) */
    int32_t merged[SHORT_WORD];
    size_t n = *count;
    for (size_t i = 0; i + 1 < n; i++) {
        const lt_merge_slot *slot = lt_merge_find(bpe, symbols[i], symbols[i + 1]);
        ranks[i] = slot ? slot->rank : LT_NO_RANK;
        merged[i] = slot ? slot->id : -1;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (ranks[i] < ranks[best]) best = i;
        }
        if (ranks[best] == LT_NO_RANK) break;
        symbols[best] = merged[best];
        n--;
        memmove(symbols + best + 1, symbols + best + 2, (n - best - 1) * sizeof *symbols);
        memmove(ranks + best, ranks + best + 1, (n - best - 1) * sizeof *ranks);
        memmove(merged + best, merged + best + 1, (n - best - 1) * sizeof *merged);
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const lt_merge_slot *slot = lt_merge_find(bpe, symbols[i], symbols[i + 1]);
            ranks[i] = slot ? slot->rank : LT_NO_RANK;
            merged[i] = slot ? slot->id : -1;
        }
    }
    *count = n;
}

/* A binary heap of rank << 32 | position: the smallest is the lowest rank, then the leftmost. */
static void heap_push(uint64_t *heap, size_t *count, uint64_t value)
{
    size_t i = (*count)++;
    for (; i > 0 && heap[(i - 1) / 2] > value; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = value;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count)
{
    uint64_t top = heap[0], value = heap[--*count];
    size_t i = 0, n = *count;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = value;
    return top;
}

static lt_status long_word_memory(lt_bpe_scratch *scratch, size_t count, lt_err *err)
{
    if (count <= scratch->links_capacity) return LT_OK;
    if (count > INT32_MAX / 8)
        return lt_fail(err, LT_ERR_LIMIT, "a word of %zu characters is too long for the tokenizer",
                       count);
    free(scratch->links);
    free(scratch->heap);
    scratch->links_capacity = 0;
    scratch->links = malloc(count * 2 * sizeof *scratch->links);
    scratch->heap = malloc(count * 3 * sizeof *scratch->heap); /* one per pair, two per merge */
    if (!scratch->links || !scratch->heap) return lt_fail_nomem(err, count * 32, "a long word");
    scratch->links_capacity = count;
    return LT_OK;
}

static void push_pair(const lt_bpe *bpe, const int32_t *symbols, int32_t left, int32_t right,
                      uint64_t *heap, size_t *heap_count)
{
    const lt_merge_slot *slot = lt_merge_find(bpe, symbols[left], symbols[right]);
    if (slot) heap_push(heap, heap_count, (uint64_t)slot->rank << 32 | (uint32_t)left);
}

/* A merged-away symbol is -1. An entry of the heap is stale when the pair at its place no longer
 * has its rank: ranks name pairs. */
static lt_status merge_long(const lt_bpe *bpe, lt_bpe_scratch *scratch, lt_err *err)
{
    lt_ids *word = &scratch->symbols;
    LT_TRY(long_word_memory(scratch, word->count, err));
    int32_t *symbols = word->data, n = (int32_t)word->count;
    int32_t *previous = scratch->links, *next = scratch->links + n;
    size_t heap_count = 0;
    for (int32_t i = 0; i < n; i++) {
        previous[i] = i - 1;
        next[i] = i + 1;
        if (i + 1 < n) push_pair(bpe, symbols, i, i + 1, scratch->heap, &heap_count);
    }
    while (heap_count > 0) {
        uint64_t top = heap_pop(scratch->heap, &heap_count);
        int32_t left = (int32_t)(top & UINT32_MAX), right = next[left];
        if (symbols[left] < 0 || right >= n) continue;
        const lt_merge_slot *slot = lt_merge_find(bpe, symbols[left], symbols[right]);
        if (!slot || slot->rank != top >> 32) continue;
        symbols[left] = slot->id;
        symbols[right] = -1;
        next[left] = next[right];
        if (next[left] < n) {
            previous[next[left]] = left;
            push_pair(bpe, symbols, left, next[left], scratch->heap, &heap_count);
        }
        if (previous[left] >= 0)
            push_pair(bpe, symbols, previous[left], left, scratch->heap, &heap_count);
    }
    word->count = 0;
    for (int32_t i = 0; i < n; i = next[i])
        symbols[word->count++] = symbols[i];
    return LT_OK;
}

/* *word becomes its spelling in the byte-level alphabet. */
static lt_status spell_bytes(lt_buffer *spelled, const char **word, size_t *size, lt_err *err)
{
    lt_buffer_clear(spelled);
    LT_TRY(lt_buffer_reserve(spelled, *size * 2, err)); /* the alphabet ends below U+0800 */
    for (size_t i = 0; i < *size; i++)
        spelled->size += lt_utf8_encode(lt_byte_to_char((unsigned char)(*word)[i]),
                                        spelled->data + spelled->size);
    *word = spelled->data;
    *size = spelled->size;
    return LT_OK;
}

lt_status lt_bpe_encode_word(const lt_bpe *bpe, lt_bpe_scratch *scratch, const char *word,
                             size_t size, lt_err *err)
{
    lt_ids *symbols = &scratch->symbols;
    symbols->count = 0;
    LT_TRY(lt_ids_reserve(symbols, size * 2 + 1, err)); /* at most one id for each spelled byte */
    bool known =
        bpe->byte_level && bytes_to_symbols(bpe, symbols, (const unsigned char *)word, size);
    if (bpe->byte_level && (!known || bpe->ignore_merges))
        LT_TRY(spell_bytes(&scratch->spelled, &word, &size, err));
    if (bpe->ignore_merges) { /* a word that is a token as a whole is that token */
        int32_t id = lt_vocabulary_find(&bpe->vocabulary, word, size);
        if (id >= 0) {
            symbols->count = 0;
            return lt_ids_push(symbols, id, err);
        }
    }
    if (!known) LT_TRY(characters_to_symbols(bpe, symbols, (const unsigned char *)word, size, err));
    if (symbols->count > SHORT_WORD) return merge_long(bpe, scratch, err);
    merge_short(bpe, symbols->data, &symbols->count);
    return LT_OK;
}

void lt_bpe_scratch_free(lt_bpe_scratch *scratch)
{
    lt_ids_free(&scratch->symbols);
    lt_buffer_free(&scratch->spelled);
    free(scratch->links);
    free(scratch->heap);
    *scratch = (lt_bpe_scratch){0};
}
