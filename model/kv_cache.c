/* The cache of keys and values: rows, and the virtual tokens of adapters that rows begin with. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/adapters/internal.h"
#include "model/recordings.h"

/* --- Cache ----------------------------------------------------------------------------------- */

static void carve_cache(lt_kv_cache *cache)
{
    const lt_model_config *c = &cache->model->config;
    lt_dtype real = cache->model->backend->real;
    size_t count = (size_t)(cache->rows * cache->capacity * c->num_key_value_heads * c->head_dim);
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        void *k = lt_arena_alloc(&cache->arena, count, lt_dtype_size(real));
        void *v = lt_arena_alloc(&cache->arena, count, lt_dtype_size(real));
        cache->k[i] = lt_tensor_4d(k, real, cache->rows, cache->capacity, c->num_key_value_heads,
                                   c->head_dim);
        cache->v[i] = lt_tensor_4d(v, real, cache->rows, cache->capacity, c->num_key_value_heads,
                                   c->head_dim);
    }
    int64_t rows = cache->rows;
    void *history =
        lt_arena_alloc(&cache->arena, (size_t)(rows * cache->capacity), sizeof(int32_t));
    void *counts = lt_arena_alloc(&cache->arena, (size_t)rows, sizeof(int32_t));
    void *sequences = lt_arena_alloc(&cache->arena, (size_t)rows, sizeof(int32_t));
    void *next = lt_arena_alloc(&cache->arena, (size_t)rows, sizeof(int32_t));
    cache->history = lt_tensor_2d(history, LT_I32, rows, cache->capacity);
    cache->history_count = lt_tensor_1d(counts, LT_I32, rows);
    cache->sequence = lt_tensor_1d(sequences, LT_I32, rows);
    cache->next = lt_tensor_1d(next, LT_I32, rows);
}

lt_status lt_kv_cache_create(const lt_model *model, int64_t rows, int64_t capacity,
                             lt_kv_cache **out, lt_err *err)
{
    lt_status status = LT_OK;
    size_t layers = (size_t)model->config.num_hidden_layers, bytes;
    *out = NULL;
    if (rows < 1 || capacity < 1 || capacity > model->config.max_position_embeddings)
        return lt_fail(err, LT_ERR_LIMIT,
                       "a cache of %lld rows of %lld tokens is not possible: the model sees %lld "
                       "positions",
                       (long long)rows, (long long)capacity,
                       (long long)model->config.max_position_embeddings);
    lt_kv_cache *cache = calloc(1, sizeof *cache);
    if (!cache) return lt_fail_nomem(err, sizeof *cache, "the key/value cache");
    *cache = (lt_kv_cache){
        .model = model, .adapter_count = model->adapter_count, .rows = rows, .capacity = capacity};
    cache->k = calloc(layers, sizeof *cache->k);
    cache->v = calloc(layers, sizeof *cache->v);
    cache->lengths = calloc((size_t)rows, sizeof *cache->lengths);
    cache->adapters = calloc((size_t)rows, sizeof *cache->adapters);
    cache->groups = calloc((size_t)rows, sizeof *cache->groups);
    cache->spans = calloc((size_t)rows, sizeof *cache->spans);
    cache->head_spans = calloc((size_t)rows, sizeof *cache->head_spans);
    cache->prefixes = calloc((size_t)model->adapter_count + 1, sizeof *cache->prefixes);
    cache->host_rows = calloc((size_t)rows, sizeof *cache->host_rows);
    if (!cache->k || !cache->v || !cache->lengths || !cache->adapters || !cache->groups ||
        !cache->spans || !cache->head_spans || !cache->prefixes || !cache->host_rows ||
        !lt_mul_size((size_t)rows, (size_t)capacity, &bytes) || bytes > (size_t)1 << 31) {
        status = lt_fail_nomem(err, (unsigned long long)rows, "the key/value cache's rows");
        goto done;
    }
    lt_arena_measure(&cache->arena, "key/value cache");
    carve_cache(cache);
    bytes = cache->arena.used;
    LT_TRY_GOTO(
        status,
        lt_arena_reserve(&cache->arena, "key/value cache", bytes, model->backend->memory, err),
        done);
    carve_cache(cache);
    *out = cache;
    cache = NULL;
done:
    lt_kv_cache_free(cache);
    return status;
}

void lt_kv_cache_free(lt_kv_cache *cache)
{
    if (!cache) return;
    for (int i = 0; cache->prefixes && i < cache->adapter_count; i++)
        lt_kv_cache_free(cache->prefixes[i]);
    lt_recordings_free(cache);
    lt_arena_release(&cache->arena);
    free(cache->host_rows);
    free(cache->prefixes);
    free(cache->k);
    free(cache->v);
    free(cache->lengths);
    free(cache->adapters);
    free(cache->groups);
    free(cache->spans);
    free(cache->head_spans);
    free(cache);
}

int64_t lt_kv_cache_length(const lt_kv_cache *cache, int64_t row)
{
    return cache->lengths[row];
}

void lt_kv_cache_truncate(lt_kv_cache *cache, int64_t row, int64_t length)
{
    if (length < cache->lengths[row]) cache->lengths[row] = lt_max_i64(length, 0);
}

/* --- Virtual tokens -------------------------------------------------------------------------- */

/* A cache of one row with the virtual tokens of `adapter` in it: the table is copied (a prefix), or
 * run through the blocks (a prompt). */
static lt_status fill_prefix(lt_kv_cache *cache, lt_workspace *ws, const lt_adapter *adapter,
                             lt_err *err)
{
    const lt_model *model = cache->model;
    int64_t count = adapter->virtual_tokens;
    lt_group group = {.rows = 1, .length = count, .kv_length = count};
    lt_span span = {.count = count};
    lt_pass pass = {.model = model,
                    .backend = model->backend,
                    .workspace = ws,
                    .tokens = count,
                    .adapter = adapter,
                    .groups = &group,
                    .group_count = 1,
                    .spans = &span,
                    .span_count = 1,
                    .cache = cache};
    for (int64_t i = 0; i < count; i++)
        ws->host_positions[i] = (int32_t)i;
    ws->host_offset[0] = 0;
    LT_TRY(model->backend->upload(model->backend, ws->positions.data, ws->host_positions,
                                  (size_t)count * sizeof(int32_t), err));
    LT_TRY(model->backend->upload(model->backend, ws->offset.data, ws->host_offset, sizeof(int32_t),
                                  err));
    if (adapter->method->runs_tokens) {
        pass.virtual_tokens = count;
        return lt_stack_forward(&pass, err);
    }
    if (adapter->method->begin) LT_TRY(adapter->method->begin(&pass, adapter, -1, err));
    for (int64_t layer = 0; layer < model->config.num_hidden_layers; layer++) {
        lt_tensor keys, values;
        lt_prefix_of(&pass, NULL, layer, &group, &keys, &values);
        lt_cache_append_args append = {.k = keys,
                                       .v = values,
                                       .k_cache = cache->k[layer],
                                       .v_cache = cache->v[layer],
                                       .offset = lt_tensor_slice(ws->offset, 0, 0, 1)};
        append.k = lt_for_all_rows(keys, 1);
        append.v = lt_for_all_rows(values, 1);
        LT_TRY(lt_cache_append(model->backend, &append, err));
    }
    return LT_OK;
}

/* The adapter's virtual tokens, computed when they are first asked for. */
static lt_status prefix_of(lt_kv_cache *cache, const lt_adapter *adapter, const lt_kv_cache **out,
                           lt_err *err)
{
    lt_kv_cache **made = &cache->prefixes[adapter->index];
    lt_workspace *ws = NULL;
    lt_status status = LT_OK;
    if (!*made) {
        lt_workspace_settings settings = {.rows = 1, .length = adapter->virtual_tokens};
        LT_TRY(lt_workspace_create(cache->model, &settings, &ws, err));
        LT_TRY_GOTO(status, lt_kv_cache_create(cache->model, 1, adapter->virtual_tokens, made, err),
                    done);
        status = fill_prefix(*made, ws, adapter, err);
        if (status != LT_OK) {
            lt_kv_cache_free(*made);
            *made = NULL;
        }
    }
    *out = *made;
done:
    lt_workspace_free(ws);
    return status;
}

/* Rows of a cache are contiguous: the first tokens of one are one piece of memory. */
static lt_status copy_row(const lt_backend *backend, lt_tensor from, lt_tensor to, int64_t row,
                          lt_err *err)
{
    to = lt_tensor_slice(lt_tensor_slice(to, 0, row, 1), 1, 0, from.shape[1]);
    lt_convert_args copy = {.x = lt_tensor_1d(from.data, from.dtype, lt_tensor_count(from)),
                            .y = lt_tensor_1d(to.data, to.dtype, lt_tensor_count(to))};
    return lt_convert(backend, &copy, err);
}

lt_status lt_kv_cache_start(lt_kv_cache *cache, int64_t row, const lt_adapter *adapter, lt_err *err)
{
    const lt_kv_cache *prefix;
    if (adapter && adapter->index >= cache->adapter_count)
        return lt_fail(err, LT_ERR_USAGE, "the key/value cache was made before adapter %s",
                       lt_adapter_name(adapter));
    cache->lengths[row] = 0;
    cache->adapters[row] = adapter;
    int64_t count = lt_adapter_virtual_tokens(adapter);
    if (count == 0) return LT_OK;
    if (count > cache->capacity)
        return lt_fail(err, LT_ERR_LIMIT,
                       "the %lld virtual tokens of adapter %s are more than the cache's %lld",
                       (long long)count, lt_adapter_name(adapter), (long long)cache->capacity);
    LT_TRY(prefix_of(cache, adapter, &prefix, err));
    for (int64_t layer = 0; layer < cache->model->config.num_hidden_layers; layer++) {
        LT_TRY(copy_row(cache->model->backend, prefix->k[layer], cache->k[layer], row, err));
        LT_TRY(copy_row(cache->model->backend, prefix->v[layer], cache->v[layer], row, err));
    }
    cache->lengths[row] = count;
    return LT_OK;
}
