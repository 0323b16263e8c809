#include "model/recordings.h"

#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/checked.h"

enum { KEYS_ROUNDED_TO = 256 }; /* attention passes over at most so many keys in vain */

static void round_keys(lt_kv_cache *cache, const lt_pass *pass)
{
    for (int64_t g = 0; g < pass->group_count; g++) {
        lt_group *group = &cache->groups[g];
        int64_t rounded = (int64_t)lt_align_up((size_t)group->kv_length, KEYS_ROUNDED_TO);
        group->kv_length = lt_min_i64(rounded, cache->capacity);
    }
}

/* Structs go in field by field: padding between them has no defined value. */
static lt_status write_key(const lt_pass *pass, const lt_sampling *s, lt_buffer *key)
{
    const lt_workspace *workspace = pass->workspace;
    const void *memory = workspace->arena.base; /* another workspace may get the same address */
    double numbers[] = {s->temperature, s->top_p, s->min_p, s->repetition_penalty};
    int64_t integers[] = {s->top_k,          (int64_t)s->seed,  pass->tokens,
                          workspace->tokens, pass->group_count, pass->span_count};
    LT_TRY(lt_buffer_append(key, &workspace, sizeof workspace, NULL));
    LT_TRY(lt_buffer_append(key, &memory, sizeof memory, NULL));
    LT_TRY(lt_buffer_append(key, numbers, sizeof numbers, NULL));
    LT_TRY(lt_buffer_append(key, integers, sizeof integers, NULL));
    for (int64_t g = 0; g < pass->group_count; g++)
        LT_TRY(lt_buffer_append(key, &pass->groups[g], sizeof pass->groups[g], NULL));
    for (int64_t i = 0; i < pass->span_count; i++)
        LT_TRY(lt_buffer_append(key, &pass->spans[i], sizeof pass->spans[i], NULL));
    return LT_OK;
}

static void forget(lt_kv_cache *cache, lt_recorded_step *step)
{
    const lt_backend *backend = cache->model->backend;
    if (step->recording) backend->recording_free(backend, step->recording);
    free(step->key);
    *step = (lt_recorded_step){0};
}

lt_recorded_step *lt_recordings_find(lt_kv_cache *cache, const lt_pass *pass,
                                     const lt_sampling *sampling)
{
    lt_buffer key = {0};
    round_keys(cache, pass);
    if (write_key(pass, sampling, &key) != LT_OK) {
        lt_buffer_free(&key);
        return NULL;
    }
    if (!cache->recorded) cache->recorded = calloc(LT_RECORDED_STEPS, sizeof *cache->recorded);
    lt_recorded_step *oldest = cache->recorded, *found = NULL;
    for (int i = 0; cache->recorded && i < LT_RECORDED_STEPS && !found; i++) {
        lt_recorded_step *step = &cache->recorded[i];
        bool same = step->key_size == key.size && memcmp(step->key, key.data, key.size) == 0;
        if (same) found = step;
        if (step->last_used < oldest->last_used) oldest = step;
    }
    if (!found && oldest) {
        forget(cache, oldest);
        found = oldest;
        found->key = key.data;
        found->key_size = key.size;
        key = (lt_buffer){0};
    }
    if (found) found->last_used = ++cache->clock;
    lt_buffer_free(&key);
    return found;
}

void lt_recordings_free(lt_kv_cache *cache)
{
    for (int i = 0; cache->recorded && i < LT_RECORDED_STEPS; i++)
        forget(cache, &cache->recorded[i]);
    free(cache->recorded);
    cache->recorded = NULL;
}
