#include "data_pipeline/jinja/region.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#if defined(__SANITIZE_ADDRESS__)
#define ONE_BLOCK_EACH 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ONE_BLOCK_EACH 1
#endif
#endif
#ifndef ONE_BLOCK_EACH
#define ONE_BLOCK_EACH 0
#endif

enum { ALIGNMENT = 16, FIRST_CHUNK = 16 << 10, LARGEST_CHUNK = 1 << 20 };

typedef struct jinja_chunk {
    struct jinja_chunk *before;
    _Alignas(ALIGNMENT) unsigned char bytes[];
} jinja_chunk;

static lt_status add_chunk(jinja_region *region, size_t bytes, lt_err *err)
{
    size_t capacity = bytes;
    if (!ONE_BLOCK_EACH) {
        size_t usual = region->capacity ? region->capacity * 2 : FIRST_CHUNK;
        if (usual > LARGEST_CHUNK) usual = LARGEST_CHUNK;
        if (capacity < usual) capacity = usual;
    }
    jinja_chunk *chunk = malloc(sizeof *chunk + capacity);
    if (!chunk) return lt_fail_nomem(err, capacity, "a template");
    chunk->before = region->chunks;
    region->chunks = chunk;
    region->capacity = capacity;
    region->used = 0;
    return LT_OK;
}

lt_status lt_jinja_region_alloc(jinja_region *region, size_t count, size_t size, void *out,
                                lt_err *err)
{
    size_t bytes;
    if (!lt_mul_size(count, size, &bytes) || bytes > region->limit ||
        region->limit - bytes < region->total)
        return lt_fail(err, LT_ERR_LIMIT, "more than %zu MiB of memory would be needed",
                       region->limit >> 20);
    size_t rounded = lt_align_up(bytes ? bytes : 1, ALIGNMENT);
    if (ONE_BLOCK_EACH || rounded > region->capacity - region->used)
        LT_TRY(add_chunk(region, ONE_BLOCK_EACH ? bytes : rounded, err));
    void *block = region->chunks->bytes + region->used;
    region->used += rounded;
    region->total += rounded;
    memset(block, 0, bytes);
    memcpy(out, &block, sizeof block);
    return LT_OK;
}

void lt_jinja_region_free(jinja_region *region)
{
    while (region->chunks) {
        jinja_chunk *before = region->chunks->before;
        free(region->chunks);
        region->chunks = before;
    }
    *region = (jinja_region){.limit = region->limit};
}
