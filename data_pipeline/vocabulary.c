/* Spelling <-> id, as the `vocab` object of a tokenizer file gives it. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/checked.h"
#include "data_pipeline/tokenizer_internal.h"

void lt_vocabulary_free(lt_vocabulary *vocabulary)
{
    lt_buffer_free(&vocabulary->text);
    free(vocabulary->offset);
    free(vocabulary->length);
    free(vocabulary->slots);
    *vocabulary = (lt_vocabulary){0};
}

const char *lt_vocabulary_spelling(const lt_vocabulary *vocabulary, int32_t id, size_t *size)
{
    if (id < 0 || id >= vocabulary->size || vocabulary->offset[id] == LT_NO_SPELLING) return NULL;
    if (size) *size = vocabulary->length[id];
    return vocabulary->text.data + vocabulary->offset[id];
}

/* The slot of the spelling, or the free one where it belongs. */
static size_t find_slot(const lt_vocabulary *vocabulary, const char *spelling, size_t size)
{
    size_t i = (size_t)XXH3_64bits(spelling, size) & vocabulary->slot_mask;
    for (;; i = (i + 1) & vocabulary->slot_mask) {
        int32_t id = vocabulary->slots[i];
        if (id < 0) return i;
        if (vocabulary->length[id] == size &&
            memcmp(vocabulary->text.data + vocabulary->offset[id], spelling, size) == 0)
            return i;
    }
}

int32_t lt_vocabulary_find(const lt_vocabulary *vocabulary, const char *spelling, size_t size)
{
    if (vocabulary->size == 0) return -1;
    return vocabulary->slots[find_slot(vocabulary, spelling, size)];
}

/* Sets `size` to the highest id + 1, having checked every value. */
static lt_status measure(lt_vocabulary *vocabulary, json_t *object, const char *where, lt_err *err)
{
    const char *spelling;
    json_t *value;
    json_object_foreach(object, spelling, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0)
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: the id of token \"%.100s\" is not a non-negative integer", where,
                           spelling);
        if (id > LT_MAX_TOKEN_ID)
            return lt_fail(err, LT_ERR_LIMIT,
                           "%s: token \"%.100s\" has id %lld; at most %d is possible", where,
                           spelling, (long long)id, LT_MAX_TOKEN_ID);
        if (id >= vocabulary->size) vocabulary->size = id + 1;
    }
    return LT_OK;
}

static lt_status allocate(lt_vocabulary *vocabulary, size_t count, lt_err *err)
{
    size_t size = (size_t)vocabulary->size, slots = 16;
    while (slots < count * 2)
        slots *= 2;
    vocabulary->slot_mask = slots - 1;
    vocabulary->offset = malloc(size * sizeof *vocabulary->offset);
    vocabulary->length = calloc(size, sizeof *vocabulary->length);
    vocabulary->slots = malloc(slots * sizeof *vocabulary->slots);
    if (!vocabulary->offset || !vocabulary->length || !vocabulary->slots)
        return lt_fail_nomem(err, size * 8 + slots * 4, "a vocabulary");
    memset(vocabulary->offset, 0xFF, size * sizeof *vocabulary->offset);
    memset(vocabulary->slots, 0xFF, slots * sizeof *vocabulary->slots);
    return LT_OK;
}

static lt_status insert(lt_vocabulary *vocabulary, const char *spelling, size_t size, int32_t id,
                        const char *where, lt_err *err)
{
    if (vocabulary->offset[id] != LT_NO_SPELLING)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: id %d is given to two tokens, \"%.100s\" and \"%.100s\"", where, id,
                       vocabulary->text.data + vocabulary->offset[id], spelling);
    if (vocabulary->text.size + size >= LT_NO_SPELLING)
        return lt_fail(err, LT_ERR_LIMIT, "%s: the vocabulary's text is larger than 4 GiB", where);
    vocabulary->offset[id] = (uint32_t)vocabulary->text.size;
    vocabulary->length[id] = (uint32_t)size;
    LT_TRY(lt_buffer_append(&vocabulary->text, spelling, size + 1, err)); /* with its NUL */
    vocabulary->slots[find_slot(vocabulary, spelling, size)] = id;
    vocabulary->count++;
    return LT_OK;
}

lt_status lt_vocabulary_build(lt_vocabulary *vocabulary, const json_t *object, const char *where,
                              lt_err *err)
{
    *vocabulary = (lt_vocabulary){0};
    json_t *readable = (json_t *)object; /* jansson's iteration wants it so, and only reads */
    if (!json_is_object(object))
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"vocab\" is not an object", where);
    if (json_object_size(object) == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"vocab\" is empty", where);
    LT_TRY(measure(vocabulary, readable, where, err));
    LT_TRY(allocate(vocabulary, json_object_size(object), err));
    const char *spelling;
    json_t *value;
    json_object_foreach(readable, spelling, value)
    {
        LT_TRY(insert(vocabulary, spelling, strlen(spelling), (int32_t)json_integer_value(value),
                      where, err));
    }
    return LT_OK;
}
