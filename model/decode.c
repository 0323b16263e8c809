/* Decoding with a cache of keys and values: the same blocks, fed only what is new.
 *
 * Rows may take different numbers of new ids. Nothing is padded: the new ids of all rows form one
 * flat list, and attention runs once for each run of neighbouring rows with equal counts. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/adapters/internal.h"

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
    if (!cache->k || !cache->v || !cache->lengths || !cache->adapters || !cache->groups ||
        !cache->spans || !cache->head_spans || !cache->prefixes ||
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
    lt_arena_release(&cache->arena);
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
    if (adapter->method->begin) LT_TRY(adapter->method->begin(&pass, adapter, err));
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

/* --- One step -------------------------------------------------------------------------------- */

static lt_status check_row(const lt_kv_cache *cache, const int32_t *ids, int64_t row, int64_t count,
                           int64_t length, lt_err *err)
{
    int64_t vocab = cache->model->config.vocab_size;
    if (count < 0 || count > length)
        return lt_fail(err, LT_ERR_USAGE, "row %lld: %lld new ids, where 0 to %lld were announced",
                       (long long)row, (long long)count, (long long)length);
    if (cache->lengths[row] + count > cache->capacity)
        return lt_fail(err, LT_ERR_LIMIT,
                       "row %lld: %lld tokens and %lld new ones are more than the cache's %lld",
                       (long long)row, (long long)cache->lengths[row], (long long)count,
                       (long long)cache->capacity);
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return lt_fail(err, LT_ERR_USAGE,
                           "token id %d (row %lld) is outside the model's vocabulary of %lld",
                           ids[i], (long long)row, (long long)vocab);
    return LT_OK;
}

/* Lists the new ids, their positions, and the place of each row's last one (host_index). Returns
 * the number of ids; *ends: rows that have any. */
static lt_status list_ids(lt_workspace *ws, const lt_kv_cache *cache, const int32_t *ids,
                          const int64_t *counts, int64_t length, int64_t *tokens, int64_t *ends,
                          lt_err *err)
{
    int64_t n = 0, last = 0;
    for (int64_t row = 0; row < cache->rows; row++) {
        LT_TRY(check_row(cache, ids + row * length, row, counts[row], length, err));
        if (n + counts[row] > ws->batch_tokens || row >= ws->batch_tokens)
            return lt_fail(err, LT_ERR_LIMIT,
                           "%lld rows of up to %lld new ids do not fit a workspace for %lld tokens",
                           (long long)cache->rows, (long long)length, (long long)ws->batch_tokens);
        ws->host_offset[row] = (int32_t)cache->lengths[row];
        for (int64_t i = 0; i < counts[row]; i++, n++) {
            ws->host_ids[n] = ids[row * length + i];
            ws->host_positions[n] = (int32_t)(cache->lengths[row] + i);
        }
        if (counts[row] > 0) ws->host_index[last++] = (int32_t)(n - 1);
    }
    *tokens = n;
    *ends = last;
    return LT_OK;
}

/* Runs of neighbouring rows with as many new ids; rows with none are left out. */
static int64_t group_rows(const lt_kv_cache *cache, const int64_t *counts)
{
    int64_t groups = 0, token = 0;
    for (int64_t row = 0; row < cache->rows; row++) {
        int64_t total = cache->lengths[row] + counts[row];
        lt_group *g = groups ? &cache->groups[groups - 1] : NULL;
        if (counts[row] == 0) continue;
        if (g && g->first_row + g->rows == row && g->length == counts[row]) {
            g->rows++;
            g->kv_length = lt_max_i64(g->kv_length, total);
        } else {
            cache->groups[groups++] = (lt_group){.first_row = row,
                                                 .rows = 1,
                                                 .length = counts[row],
                                                 .first_token = token,
                                                 .kv_length = total};
        }
        token += counts[row];
    }
    return groups;
}

/* Neighbours with the same adapter in their products: tokens, and rows of the head (one for each
 * row with new ids). */
static int64_t list_spans(const lt_kv_cache *cache, const int64_t *counts)
{
    int64_t spans = 0, token = 0, end = 0;
    for (int64_t row = 0; row < cache->rows; row++) {
        if (counts[row] == 0) continue;
        const lt_adapter *adapter = lt_adapter_in_products(cache->adapters[row]);
        if (spans == 0 || cache->spans[spans - 1].adapter != adapter) {
            cache->spans[spans] = (lt_span){.first = token, .adapter = adapter};
            cache->head_spans[spans++] = (lt_span){.first = end, .adapter = adapter};
        }
        cache->spans[spans - 1].count += counts[row];
        cache->head_spans[spans - 1].count++;
        token += counts[row];
        end++;
    }
    return spans;
}

typedef struct row_sink {
    const lt_backend *backend;
    const int64_t *counts;
    float *logits;
    int64_t vocab, row; /* row: the next one to look at */
} row_sink;

/* Gathered rows are the rows with new ids, in order. */
static lt_status store_rows(void *context, int64_t first, int64_t count, lt_tensor logits,
                            lt_err *err)
{
    row_sink *sink = context;
    const float *from = logits.data;
    (void)first;
    for (int64_t i = 0; i < count; i++, sink->row++) {
        while (sink->counts[sink->row] == 0)
            sink->row++;
        LT_TRY(sink->backend->download(sink->backend, sink->logits + sink->row * sink->vocab,
                                       from + i * sink->vocab, (size_t)sink->vocab * sizeof(float),
                                       err));
    }
    return LT_OK;
}

lt_status lt_model_decode(const lt_model *model, lt_workspace *workspace, lt_kv_cache *cache,
                          const int32_t *ids, const int64_t *counts, int64_t length, float *logits,
                          lt_err *err)
{
    const lt_backend *backend = model->backend;
    int64_t tokens = 0, ends = 0;
    if (cache->model != model || workspace->model != model ||
        workspace->adapter_count != model->adapter_count)
        return lt_fail(err, LT_ERR_USAGE, "cache and workspace belong to another model");
    LT_TRY(list_ids(workspace, cache, ids, counts, length, &tokens, &ends, err));
    if (tokens == 0) return LT_OK;
    lt_pass pass = {.model = model,
                    .backend = backend,
                    .workspace = workspace,
                    .tokens = tokens,
                    .groups = cache->groups,
                    .group_count = group_rows(cache, counts),
                    .spans = cache->spans,
                    .head_spans = cache->head_spans,
                    .span_count = list_spans(cache, counts),
                    .cache = cache};
    pass.head_span_count = pass.span_count;
    size_t bytes = (size_t)tokens * sizeof(int32_t);
    LT_TRY(backend->upload(backend, workspace->ids.data, workspace->host_ids, bytes, err));
    LT_TRY(
        backend->upload(backend, workspace->positions.data, workspace->host_positions, bytes, err));
    LT_TRY(backend->upload(backend, workspace->offset.data, workspace->host_offset,
                           (size_t)cache->rows * sizeof(int32_t), err));
    LT_TRY(lt_stack_forward(&pass, err));
    LT_TRY(lt_head_gather(&pass, ends, err));
    row_sink sink = {backend, counts, logits, model->config.vocab_size, 0};
    LT_TRY(lt_head_logits(&pass, ends, store_rows, &sink, err));
    for (int64_t row = 0; row < cache->rows; row++)
        cache->lengths[row] += counts[row];
    return LT_OK;
}
