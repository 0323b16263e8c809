/* Dictionaries in order of insertion. Few keys are searched one by one, many by hash. */
#include <math.h>
#include <string.h>

#include "data_pipeline/jinja/values.h"

enum { SEARCHED = 8 };

bool lt_jinja_hashable(jinja_value value)
{
    if (value.kind == JINJA_LIST || value.kind == JINJA_DICT || value.kind == JINJA_VIEW)
        return false;
    if (value.kind != JINJA_TUPLE) return true;
    for (size_t i = 0; i < value.list->count; i++) {
        jinja_value item = value.list->items[i];
        /* a tuple in a tuple is no key that a template has, and following it would recurse */
        if (item.kind == JINJA_TUPLE || !lt_jinja_hashable(item)) return false;
    }
    return true;
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
    return hash;
}

/* Equal values hash alike: 1, 1.0 and true. Values of a kind that is compared by identity all hash
 * alike, so that nothing depends on addresses. */
static uint64_t hash_value(jinja_value value, uint64_t hash)
{
    long double number;
    if (lt_jinja_is_number(value, &number)) {
        double rounded = (double)number + 0.0;
        if (isnan(rounded)) return hash;
        return mix(hash, &rounded, sizeof rounded);
    }
    if (value.kind == JINJA_STRING) return mix(hash, value.string->bytes, value.string->size);
    if (value.kind != JINJA_TUPLE) return mix(hash, &value.kind, 1);
    for (size_t i = 0; i < value.list->count; i++)
        hash = hash_value(value.list->items[i], hash);
    return hash;
}

/* The slot of the key, or the empty one where it would go. */
static lt_status find_slot(jinja_render *r, const jinja_dict *dict, jinja_value key, size_t *out)
{
    uint64_t hash = hash_value(key, 14695981039346656037u);
    size_t mask = dict->slot_count - 1, at = (size_t)(hash ^ hash >> 32) & mask;
    for (; dict->slots[at]; at = (at + 1) & mask) {
        bool equal;
        LT_TRY(lt_jinja_spend(r, 1)); /* keys may be chosen to collide */
        LT_TRY(lt_jinja_equal(r, dict->entries[dict->slots[at] - 1].key, key, &equal));
        if (equal) break;
    }
    *out = at;
    return LT_OK;
}

lt_status lt_jinja_dict_find(jinja_render *r, const jinja_dict *dict, jinja_value key,
                             const jinja_entry **out)
{
    *out = NULL;
    if (!lt_jinja_hashable(key))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "unhashable type: '%s'", lt_jinja_type_name(key));
    if (dict->slots) {
        size_t slot;
        LT_TRY(find_slot(r, dict, key, &slot));
        if (dict->slots[slot]) *out = &dict->entries[dict->slots[slot] - 1];
        return LT_OK;
    }
    for (size_t i = 0; i < dict->count; i++) {
        bool equal;
        LT_TRY(lt_jinja_equal(r, dict->entries[i].key, key, &equal));
        if (!equal) continue;
        *out = &dict->entries[i];
        break;
    }
    return LT_OK;
}

static lt_status grow(jinja_render *r, jinja_dict *dict, size_t capacity)
{
    jinja_entry *entries;
    LT_TRY(lt_jinja_alloc(r, capacity, sizeof *entries, &entries));
    if (dict->count) memcpy(entries, dict->entries, dict->count * sizeof *entries);
    dict->entries = entries;
    dict->capacity = capacity;
    if (capacity <= SEARCHED) return LT_OK;
    size_t slots = 32;
    while (slots < capacity * 2)
        slots *= 2;
    LT_TRY(lt_jinja_alloc(r, slots, sizeof *dict->slots, &dict->slots));
    dict->slot_count = slots;
    for (size_t i = 0; i < dict->count; i++) {
        size_t slot;
        LT_TRY(find_slot(r, dict, entries[i].key, &slot));
        dict->slots[slot] = (uint32_t)i + 1;
    }
    return LT_OK;
}

lt_status lt_jinja_dict_new(jinja_render *r, jinja_kind kind, size_t capacity, jinja_value *out)
{
    jinja_dict *dict;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *dict, &dict));
    if (capacity) LT_TRY(grow(r, dict, capacity));
    *out = (jinja_value){.kind = (uint8_t)kind, .dict = dict};
    return LT_OK;
}

/* A key that is there keeps its place and its first spelling. */
lt_status lt_jinja_dict_set(jinja_render *r, jinja_dict *dict, jinja_value key, jinja_value value)
{
    const jinja_entry *found;
    LT_TRY(lt_jinja_dict_find(r, dict, key, &found));
    if (found) {
        dict->entries[found - dict->entries].value = value;
        return LT_OK;
    }
    if (dict->count == dict->capacity) LT_TRY(grow(r, dict, dict->count ? dict->count * 2 : 4));
    if (dict->slots) {
        size_t slot;
        LT_TRY(find_slot(r, dict, key, &slot));
        dict->slots[slot] = (uint32_t)dict->count + 1;
    }
    dict->entries[dict->count++] = (jinja_entry){key, value};
    return LT_OK;
}
