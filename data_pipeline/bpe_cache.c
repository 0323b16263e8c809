/* Memory for the cache of words already encoded, and the look-up itself.
 *
 * A word of up to 15 bytes is its own key, so that the common case is one load and two compares; a
 * longer one has its hash as key and its text beside. When the cache is full it is emptied: natural
 * text fills it again with what is common now. */
#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/checked.h"
#include "data_pipeline/tokenizer_internal.h"

#define SLOTS          (1u << 17)
#define LONGEST_WORD   512
#define MAX_TEXT_BYTES (16u << 20)
#define MAX_IDS        (4u << 20)
#define LONG_WORD_TAG  0xFFu /* in the key's last byte, where short words have their length */

lt_status lt_bpe_cache_create(lt_bpe_cache *cache, lt_err *err)
{
    *cache = (lt_bpe_cache){.slot_mask = SLOTS - 1};
    cache->slots = calloc(SLOTS, sizeof *cache->slots);
    return cache->slots ? LT_OK
                        : lt_fail_nomem(err, SLOTS * sizeof *cache->slots, "the word cache");
}

void lt_bpe_cache_free(lt_bpe_cache *cache)
{
    free(cache->slots);
    lt_ids_free(&cache->ids);
    lt_buffer_free(&cache->words);
    *cache = (lt_bpe_cache){0};
}

static void empty(lt_bpe_cache *cache)
{
    memset(cache->slots, 0, (cache->slot_mask + 1) * sizeof *cache->slots);
    cache->used = 0;
    cache->ids.count = 0;
    lt_buffer_clear(&cache->words);
}

static uint64_t load64(const char *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
    return le64toh(value);
}

static uint64_t load32(const char *p)
{
    uint32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* Packs 1 to 15 bytes and their count, by overlapping loads instead of a loop; different words have
 * different keys. With 8 bytes or more the first of the last eight is in key[0] already, which
 * makes room for the count. */
static void short_key(const char *word, size_t size, uint64_t key[2])
{
    const unsigned char *p = (const unsigned char *)word;
    key[1] = (uint64_t)size << 56;
    if (size >= 8) {
        key[0] = load64(word);
        key[1] |= load64(word + size - 8) >> 8;
    } else if (size >= 4) {
        key[0] = load32(word) << 32 | load32(word + size - 4);
    } else {
        key[0] = (uint64_t)p[0] << 16 | (uint64_t)p[size / 2] << 8 | p[size - 1];
    }
}

static size_t slot_of(const lt_bpe_cache *cache, const uint64_t key[2])
{
    uint64_t mixed = (key[0] ^ (key[1] * 0xBF58476D1CE4E5B9u)) * 0x9E3779B97F4A7C15u;
    return (size_t)(mixed >> 40) & cache->slot_mask;
}

static lt_cache_slot *find_short(const lt_bpe_cache *cache, const uint64_t key[2])
{
    for (size_t i = slot_of(cache, key);; i = (i + 1) & cache->slot_mask) {
        lt_cache_slot *slot = &cache->slots[i];
        if ((slot->key[0] == key[0] && slot->key[1] == key[1]) || slot->key[1] == 0) return slot;
    }
}

/* A long word's key[1]: tag, size in 16 bits, and in the low 32 bits where its text is. */
static lt_cache_slot *find_long(const lt_bpe_cache *cache, const char *word, size_t size,
                                uint64_t key[2])
{
    key[0] = XXH3_64bits(word, size);
    key[1] = (uint64_t)LONG_WORD_TAG << 56 | (uint64_t)size << 32;
    for (size_t i = slot_of(cache, key);; i = (i + 1) & cache->slot_mask) {
        lt_cache_slot *slot = &cache->slots[i];
        if (slot->key[1] == 0) return slot;
        if (slot->key[0] == key[0] && slot->key[1] >> 32 == key[1] >> 32 &&
            memcmp(cache->words.data + (slot->key[1] & UINT32_MAX), word, size) == 0)
            return slot;
    }
}

static lt_status remember(lt_bpe_cache *cache, lt_cache_slot *slot, const uint64_t key[2],
                          const char *word, size_t size, const lt_ids *ids, lt_err *err)
{
    if (cache->used * 2 > cache->slot_mask || cache->words.size > MAX_TEXT_BYTES ||
        cache->ids.count > MAX_IDS) {
        empty(cache); /* the word comes in at its next appearance: the slot is not its place now */
        return LT_OK;
    }
    uint64_t place = 0;
    if (size > 15) {
        place = cache->words.size;
        LT_TRY(lt_buffer_append(&cache->words, word, size, err));
    }
    uint32_t first = (uint32_t)cache->ids.count;
    if (ids->count == 1)
        first = (uint32_t)ids->data[0];
    else
        LT_TRY(lt_ids_append(&cache->ids, ids->data, ids->count, err));
    *slot = (lt_cache_slot){{key[0], key[1] | place}, first, (uint32_t)ids->count};
    cache->used++;
    return LT_OK;
}

lt_status lt_bpe_cached_word(lt_bpe_cache *cache, const lt_bpe *bpe, lt_bpe_scratch *scratch,
                             const char *word, size_t size, lt_ids *out, lt_err *err)
{
    if (size == 0) return LT_OK;
    if (size > LONGEST_WORD) {
        LT_TRY(lt_bpe_encode_word(bpe, scratch, word, size, err));
        return lt_ids_append(out, scratch->symbols.data, scratch->symbols.count, err);
    }
    uint64_t key[2];
    lt_cache_slot *slot;
    if (size <= 15) {
        short_key(word, size, key);
        slot = find_short(cache, key);
    } else {
        slot = find_long(cache, word, size, key);
    }
    if (slot->key[1] != 0) {
        if (slot->count != 1)
            return lt_ids_append(out, cache->ids.data + slot->first, slot->count, err);
        if (out->count < out->capacity) {
            out->data[out->count++] = (int32_t)slot->first;
            return LT_OK;
        }
        return lt_ids_push(out, (int32_t)slot->first, err);
    }
    LT_TRY(lt_bpe_encode_word(bpe, scratch, word, size, err));
    LT_TRY(remember(cache, slot, key, word, size, &scratch->symbols, err));
    return lt_ids_append(out, scratch->symbols.data, scratch->symbols.count, err);
}
