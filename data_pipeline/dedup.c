/* Exact duplicates by a hash of the normalised text (NFC, case folded, white space collapsed); near
 * ones by MinHash with locality-sensitive hashing, then the true Jaccard similarity of their word
 * shingles, so that what is dropped does not depend on luck.
 *
 * 20 bands of 6 rows find a pair of similarity 0.8 with probability 0.998, one of 0.5 with 0.27.
 * Candidates are compared in full. */
#include "data_pipeline/dedup.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

#include "base/buffer.h"
#include "base/rng.h"

/* Words in a shingle. */
enum { SHINGLE = 3 };
/* Records at least this similar are near duplicates. */
static const double threshold = 0.8;
/* Fixed, so that what is a duplicate does not depend on the seed of the shuffle. */
static const uint64_t minhash_seed = 0x6C61746865; /* "lathe" */

/* --- Words --- */

/* Hashes of words, in order. */
typedef struct word_list {
    uint64_t *hashes;
    size_t count, capacity;
} word_list;

static lt_status push_word(word_list *words, const char *text, size_t size, lt_err *err)
{
    if (words->count == words->capacity) {
        size_t larger = words->capacity ? words->capacity * 2 : 256;
        uint64_t *moved = realloc(words->hashes, larger * sizeof *moved);
        if (!moved) return lt_fail_nomem(err, larger * sizeof *moved, "words");
        words->hashes = moved;
        words->capacity = larger;
    }
    words->hashes[words->count++] = XXH3_64bits(text, size);
    return LT_OK;
}

static bool is_space(utf8proc_int32_t code)
{
    if (code <= ' ') return true;
    if (code < 0x80) return false;
    utf8proc_category_t category = utf8proc_category(code);
    return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
           category == UTF8PROC_CATEGORY_ZP;
}

/* Appends the words of `text`, normalised; adds them to the exact hash too. */
static lt_status add_words(const char *text, word_list *words, XXH3_state_t *exact, lt_err *err)
{
    utf8proc_uint8_t *normal = NULL;
    utf8proc_ssize_t size =
        utf8proc_map((const utf8proc_uint8_t *)text, 0, &normal,
                     UTF8PROC_NULLTERM | UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD);
    if (size < 0)
        return lt_fail(err, LT_ERR_FORMAT, "can not normalise a text: %s", utf8proc_errmsg(size));
    lt_status status = LT_OK;
    utf8proc_ssize_t begin = 0, at = 0;
    while (at <= size && status == LT_OK) {
        utf8proc_int32_t code = ' '; /* the end closes the last word */
        utf8proc_ssize_t length = 1;
        if (at < size) length = utf8proc_iterate(normal + at, size - at, &code);
        if (is_space(code)) {
            size_t word = (size_t)(at - begin);
            if (word > 0) {
                XXH3_128bits_update(exact, normal + begin, word);
                XXH3_128bits_update(exact, " ", 1);
                status = push_word(words, (const char *)normal + begin, word, err);
            }
            begin = at + length;
        }
        at += length;
    }
    XXH3_128bits_update(exact, "\n", 1); /* where one text ends and the next begins matters */
    free(normal);
    return status;
}

/* --- Shingles --- */

static int compare_hashes(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static lt_status make_shingles(const word_list *words, lt_shingles *out, lt_err *err)
{
    if (words->count == 0) return LT_OK;
    size_t width = words->count < SHINGLE ? words->count : SHINGLE;
    size_t count = words->count - width + 1;
    out->hashes = malloc(count * sizeof *out->hashes);
    if (!out->hashes) return lt_fail_nomem(err, count * sizeof *out->hashes, "shingles");
    for (size_t i = 0; i < count; i++)
        out->hashes[i] = XXH3_64bits(words->hashes + i, width * sizeof *words->hashes);
    qsort(out->hashes, count, sizeof *out->hashes, compare_hashes);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || out->hashes[i] != out->hashes[i - 1])
            out->hashes[out->count++] = out->hashes[i];
    }
    return LT_OK;
}

/* Each of the hash functions is multiply-and-shift with its own odd factor and offset. */
static void make_minhash(const lt_shingles *shingles, uint32_t out[LT_MINHASH_SIZE])
{
    uint64_t factor[LT_MINHASH_SIZE], offset[LT_MINHASH_SIZE];
    const uint64_t stream = lt_rng_stream(LT_RNG_HASH, 0, 0);
    for (uint64_t k = 0; k < LT_MINHASH_SIZE; k++) {
        factor[k] = lt_random_u64(minhash_seed, stream, 2 * k) | 1;
        offset[k] = lt_random_u64(minhash_seed, stream, 2 * k + 1);
        out[k] = UINT32_MAX;
    }
    for (size_t i = 0; i < shingles->count; i++) {
        for (int k = 0; k < LT_MINHASH_SIZE; k++) {
            uint32_t hash = (uint32_t)((shingles->hashes[i] * factor[k] + offset[k]) >> 32);
            if (hash < out[k]) out[k] = hash;
        }
    }
}

static double jaccard(const lt_shingles *a, const lt_shingles *b)
{
    if (a->count == 0 && b->count == 0) return 1.0;
    size_t i = 0, j = 0, common = 0;
    while (i < a->count && j < b->count) {
        uint64_t x = a->hashes[i], y = b->hashes[j];
        common += x == y;
        i += x <= y;
        j += y <= x;
    }
    return (double)common / (double)(a->count + b->count - common);
}

/* --- Fingerprints --- */

static lt_status add_said(const lt_record *record, word_list *words, XXH3_state_t *exact,
                          lt_err *err)
{
    const char *const texts[] = {record->system, record->instruction, record->response,
                                 record->text};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i]) LT_TRY(add_words(texts[i], words, exact, err));
    for (size_t i = 0; i < record->message_count; i++)
        LT_TRY(add_words(record->messages[i].content, words, exact, err));
    return LT_OK;
}

lt_status lt_fingerprint_make(const lt_record *record, lt_fingerprint *out, lt_err *err)
{
    *out = (lt_fingerprint){0};
    word_list said = {0}, context = {0};
    XXH3_state_t *exact = XXH3_createState();
    lt_status status = LT_OK;
    if (!exact) return lt_fail_nomem(err, 0, "a hash");
    XXH3_128bits_reset(exact);
    LT_TRY_GOTO(status, add_said(record, &said, exact, err), done);
    if (record->context)
        LT_TRY_GOTO(status, add_words(record->context, &context, exact, err), done);
    LT_TRY_GOTO(status, make_shingles(&said, &out->said, err), done);
    LT_TRY_GOTO(status, make_shingles(&context, &out->context, err), done);
    make_minhash(&out->said, out->minhash);
    XXH128_hash_t hash = XXH3_128bits_digest(exact);
    out->exact[0] = hash.low64;
    out->exact[1] = hash.high64;
done:
    if (status != LT_OK) lt_fingerprint_free(out);
    free(context.hashes);
    free(said.hashes);
    XXH3_freeState(exact);
    return status;
}

void lt_fingerprint_free(lt_fingerprint *fingerprint)
{
    free(fingerprint->said.hashes);
    free(fingerprint->context.hashes);
    *fingerprint = (lt_fingerprint){0};
}

/* --- The index --- */

/* A table from 64-bit keys to lists of records. Slot -1 is free. Keys are hashes, and two with the
 * same value share a list: records are compared before anything is concluded. */
typedef struct key_table {
    uint64_t *keys;
    int64_t *heads; /* newest entry with the key, or -1 */
    size_t size, used;
} key_table;

/* Each record has an entry for its exact hash and one per band. */
enum { ENTRIES = 1 + LT_MINHASH_BANDS };

struct lt_dedup {
    lt_fingerprint *records;
    int64_t *next; /* [capacity * ENTRIES]: the entry before with the same key, or -1 */
    int64_t *seen; /* [capacity]: the last question this record was compared in, to do it once */
    int64_t count, capacity;
    int64_t questions;
    key_table table;
};

static size_t find_slot(const key_table *table, uint64_t key)
{
    size_t slot = (size_t)(key * 0x9E3779B97F4A7C15u) & (table->size - 1);
    while (table->heads[slot] >= 0 && table->keys[slot] != key)
        slot = (slot + 1) & (table->size - 1);
    return slot;
}

static lt_status table_reserve(key_table *table, size_t extra, lt_err *err)
{
    if ((table->used + extra) * 2 <= table->size) return LT_OK;
    key_table larger = {.size = table->size ? table->size * 2 : 1 << 16, .used = table->used};
    larger.keys = malloc(larger.size * sizeof *larger.keys);
    larger.heads = malloc(larger.size * sizeof *larger.heads);
    if (!larger.keys || !larger.heads) {
        free(larger.keys);
        free(larger.heads);
        return lt_fail_nomem(err, larger.size * 16, "the index of duplicates");
    }
    for (size_t i = 0; i < larger.size; i++)
        larger.heads[i] = -1;
    for (size_t i = 0; i < table->size; i++) {
        if (table->heads[i] < 0) continue;
        size_t slot = find_slot(&larger, table->keys[i]);
        larger.keys[slot] = table->keys[i];
        larger.heads[slot] = table->heads[i];
    }
    free(table->keys);
    free(table->heads);
    *table = larger;
    return LT_OK;
}

static lt_status reserve_record(lt_dedup *dedup, lt_err *err)
{
    LT_TRY(table_reserve(&dedup->table, ENTRIES, err));
    if (dedup->count < dedup->capacity) return LT_OK;
    size_t larger = dedup->capacity ? (size_t)dedup->capacity * 2 : 1024;
    void *records = realloc(dedup->records, larger * sizeof *dedup->records);
    if (records) dedup->records = records;
    void *next = realloc(dedup->next, larger * ENTRIES * sizeof *dedup->next);
    if (next) dedup->next = next;
    void *seen = realloc(dedup->seen, larger * sizeof *dedup->seen);
    if (seen) dedup->seen = seen;
    if (!records || !next || !seen)
        return lt_fail_nomem(err, larger * sizeof *dedup->records, "the index of duplicates");
    dedup->capacity = (int64_t)larger;
    return LT_OK;
}

static uint64_t entry_key(const lt_fingerprint *f, int entry)
{
    if (entry == 0) return f->exact[0];
    uint32_t band[1 + LT_MINHASH_ROWS] = {(uint32_t)entry};
    memcpy(band + 1, f->minhash + (entry - 1) * LT_MINHASH_ROWS, sizeof band - sizeof *band);
    return XXH3_64bits(band, sizeof band);
}

static lt_novelty compare(const lt_fingerprint *a, const lt_fingerprint *b)
{
    if (a->exact[0] == b->exact[0] && a->exact[1] == b->exact[1]) return LT_DUPLICATE;
    bool near =
        jaccard(&a->said, &b->said) >= threshold && jaccard(&a->context, &b->context) >= threshold;
    return near ? LT_NEAR_DUPLICATE : LT_NEW;
}

lt_status lt_dedup_create(lt_dedup **out, lt_err *err)
{
    lt_dedup *dedup = calloc(1, sizeof *dedup);
    if (!dedup) return lt_fail_nomem(err, sizeof *dedup, "the index of duplicates");
    *out = dedup;
    return LT_OK;
}

void lt_dedup_free(lt_dedup *dedup)
{
    if (!dedup) return;
    for (int64_t i = 0; i < dedup->count; i++)
        lt_fingerprint_free(&dedup->records[i]);
    free(dedup->records);
    free(dedup->next);
    free(dedup->seen);
    free(dedup->table.keys);
    free(dedup->table.heads);
    free(dedup);
}

/* The exact hash is looked up first, so an exact duplicate is never called a near one. */
static lt_novelty look_up(lt_dedup *dedup, const lt_fingerprint *f, const uint64_t keys[ENTRIES])
{
    for (int e = 0; e < ENTRIES; e++) {
        int64_t at = dedup->table.heads[find_slot(&dedup->table, keys[e])];
        for (; at >= 0; at = dedup->next[at]) {
            int64_t record = at / ENTRIES;
            if (dedup->seen[record] == dedup->questions) continue;
            dedup->seen[record] = dedup->questions;
            lt_novelty novelty = compare(f, &dedup->records[record]);
            if (novelty != LT_NEW) return novelty;
        }
    }
    return LT_NEW;
}

lt_status lt_dedup_add(lt_dedup *dedup, lt_fingerprint *fingerprint, lt_novelty *out, lt_err *err)
{
    uint64_t keys[ENTRIES];
    LT_TRY(reserve_record(dedup, err));
    for (int e = 0; e < ENTRIES; e++)
        keys[e] = entry_key(fingerprint, e);
    dedup->questions++;
    *out = look_up(dedup, fingerprint, keys);
    if (*out != LT_NEW) return LT_OK;
    key_table *table = &dedup->table;
    for (int e = 0; e < ENTRIES; e++) {
        size_t slot = find_slot(table, keys[e]);
        int64_t entry = dedup->count * ENTRIES + e;
        table->used += table->heads[slot] < 0;
        dedup->next[entry] = table->heads[slot];
        table->keys[slot] = keys[e];
        table->heads[slot] = entry;
    }
    dedup->seen[dedup->count] = 0;
    dedup->records[dedup->count++] = *fingerprint;
    *fingerprint = (lt_fingerprint){0};
    return LT_OK;
}
