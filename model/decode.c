/* Decoding with a cache of keys and values: the same blocks, fed only what is new.
 *
 * Rows may take different numbers of new ids. Nothing is padded: the new ids of all rows form one
 * flat list, and attention runs once for each run of neighbouring rows with equal counts.
 *
 * On a device that records (a GPU), a step of one new id a row that comes a second time in the same
 * shape is recorded, and replayed with one launch from then on (recordings.c). All that differs
 * between such steps is in tensors that are uploaded before it. What an observer does can not be
 * recorded. */
#include <string.h>

#include "base/checked.h"
#include "model/adapters/internal.h"
#include "model/recordings.h"

/* --- Laying a step out ------------------------------------------------------------------------ */

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

/* --- Running it ------------------------------------------------------------------------------ */

typedef struct decode_step {
    lt_pass pass;
    int64_t ends; /* rows with new ids */
} decode_step;

static lt_status upload(const lt_backend *backend, lt_tensor to, const int32_t *from, int64_t count,
                        lt_err *err)
{
    return backend->upload(backend, to.data, from, (size_t)count * sizeof *from, err);
}

/* Lays the step out and puts what is new on the device. */
static lt_status prepare(const lt_model *model, lt_workspace *ws, lt_kv_cache *cache,
                         const int32_t *ids, const int64_t *counts, int64_t length,
                         decode_step *out, lt_err *err)
{
    const lt_backend *backend = model->backend;
    int64_t tokens = 0, ends = 0;
    if (cache->model != model || ws->model != model || ws->adapter_count != model->adapter_count)
        return lt_fail(err, LT_ERR_USAGE, "cache and workspace belong to another model");
    LT_TRY(list_ids(ws, cache, ids, counts, length, &tokens, &ends, err));
    *out = (decode_step){.ends = ends};
    out->pass = (lt_pass){.model = model,
                          .backend = backend,
                          .workspace = ws,
                          .tokens = tokens,
                          .groups = cache->groups,
                          .group_count = group_rows(cache, counts),
                          .spans = cache->spans,
                          .head_spans = cache->head_spans,
                          .span_count = list_spans(cache, counts),
                          .cache = cache};
    out->pass.head_span_count = out->pass.span_count;
    if (tokens == 0) return LT_OK;
    LT_TRY(upload(backend, ws->ids, ws->host_ids, tokens, err));
    LT_TRY(upload(backend, ws->positions, ws->host_positions, tokens, err));
    LT_TRY(upload(backend, ws->offset, ws->host_offset, cache->rows, err));
    return lt_head_choose(ws, ends, err);
}

static void advance(lt_kv_cache *cache, const int64_t *counts)
{
    for (int64_t row = 0; row < cache->rows; row++)
        cache->lengths[row] += counts[row];
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
    decode_step step;
    LT_TRY(prepare(model, workspace, cache, ids, counts, length, &step, err));
    if (step.ends == 0) return LT_OK;
    LT_TRY(lt_stack_forward(&step.pass, err));
    row_sink sink = {model->backend, counts, logits, model->config.vocab_size, 0};
    LT_TRY(lt_head_logits(&step.pass, step.ends, store_rows, &sink, err));
    advance(cache, counts);
    return LT_OK;
}

/* --- Choosing the next ids on the device ------------------------------------------------------ */

/* For the rows with new ids, side by side: how much they have read, what, and as which sequence. */
static lt_status upload_rows(lt_kv_cache *cache, const int64_t *counts, const lt_decode_row *rows,
                             bool histories, lt_err *err)
{
    const lt_backend *backend = cache->model->backend;
    int64_t ends = 0;
    for (int64_t row = 0; row < cache->rows; row++) {
        if (counts[row] == 0) continue;
        if (rows[row].history_count > cache->capacity)
            return lt_fail(err, LT_ERR_LIMIT, "row %lld: more ids than the cache holds",
                           (long long)row);
        lt_tensor to = lt_tensor_slice(cache->history, 0, ends, 1);
        if (histories) LT_TRY(upload(backend, to, rows[row].history, rows[row].history_count, err));
        cache->host_rows[ends++] = (int32_t)rows[row].history_count;
    }
    LT_TRY(upload(backend, cache->history_count, cache->host_rows, ends, err));
    ends = 0;
    for (int64_t row = 0; row < cache->rows; row++)
        if (counts[row] > 0) cache->host_rows[ends++] = (int32_t)rows[row].sequence;
    return upload(backend, cache->sequence, cache->host_rows, ends, err);
}

typedef struct chooser {
    const lt_kv_cache *cache;
    const lt_sampling *sampling;
    bool histories;
} chooser;

static lt_status choose(void *context, int64_t first, int64_t count, lt_tensor logits, lt_err *err)
{
    const chooser *c = context;
    const lt_kv_cache *cache = c->cache;
    lt_sample_tokens_args args = {.logits = logits,
                                  .history_count =
                                      lt_tensor_slice(cache->history_count, 0, first, count),
                                  .sequence = lt_tensor_slice(cache->sequence, 0, first, count),
                                  .ids = lt_tensor_slice(cache->next, 0, first, count),
                                  .sampling = *c->sampling};
    if (c->histories) args.history = lt_tensor_slice(cache->history, 0, first, count);
    return lt_sample_tokens(cache->model->backend, &args, err);
}

static lt_status run_and_choose(const decode_step *step, chooser *c, lt_err *err)
{
    LT_TRY(lt_stack_forward(&step->pass, err));
    return lt_head_logits(&step->pass, step->ends, choose, c, err);
}

static lt_status run_or_replay(decode_step *step, chooser *c, lt_kv_cache *cache, lt_err *err)
{
    const lt_backend *backend = cache->model->backend;
    lt_recorded_step *recorded = NULL;
    bool records = backend->replay && !cache->model->observer.at;
    if (step->pass.tokens == step->ends && records)
        recorded = lt_recordings_find(cache, &step->pass, c->sampling);
    if (!recorded) return run_and_choose(step, c, err);
    if (!recorded
             ->seen) { /* the first time everything is loaded that must not be while recording */
        recorded->seen = true;
        return run_and_choose(step, c, err);
    }
    if (!recorded->recording) {
        LT_TRY(backend->record_begin(backend, err));
        lt_status status = run_and_choose(step, c, err);
        lt_status ended =
            backend->record_end(backend, &recorded->recording, status == LT_OK ? err : NULL);
        if (status != LT_OK || ended != LT_OK) return status != LT_OK ? status : ended;
    }
    return backend->replay(backend, recorded->recording, err);
}

lt_status lt_model_decode_next(const lt_model *model, lt_workspace *workspace, lt_kv_cache *cache,
                               const int32_t *ids, const int64_t *counts, int64_t length,
                               const lt_decode_row *rows, const lt_sampling *sampling,
                               int32_t *next, lt_err *err)
{
    const lt_backend *backend = model->backend;
    double penalty = sampling->repetition_penalty;
    chooser c = {cache, sampling, penalty != 0 && penalty != 1};
    decode_step step;
    LT_TRY(prepare(model, workspace, cache, ids, counts, length, &step, err));
    if (step.ends == 0) return LT_OK;
    LT_TRY(upload_rows(cache, counts, rows, c.histories, err));
    LT_TRY(run_or_replay(&step, &c, cache, err));
    LT_TRY(backend->download(backend, cache->host_rows, cache->next.data,
                             (size_t)step.ends * sizeof *next, err));
    int64_t end = 0;
    for (int64_t row = 0; row < cache->rows; row++)
        if (counts[row] > 0) next[row] = cache->host_rows[end++];
    advance(cache, counts);
    return LT_OK;
}
