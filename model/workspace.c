/* Activations and scratch of the passes: laid out once, for the largest batch, reused ever after.
 *
 * carve() is the only place that knows how much memory what takes. It runs on measuring arenas for
 * the plan and on reserved ones for the run, so the two can not disagree. */
#include "model/adapters/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/rng.h"

/* Logits of about this size are held at a time: every further chunk reads the head's weights and
 * adds to their gradient once more, so chunks should not be small. */
#define HEAD_CHUNK_BYTES ((int64_t)128 << 20)
#define MAX_TOKENS       ((int64_t)1 << 31)

static lt_tensor carve_matrix(lt_workspace *w, int64_t rows, int64_t width)
{
    lt_dtype real = w->backend->real;
    void *data = lt_arena_alloc(&w->arena, (size_t)(rows * width), lt_dtype_size(real));
    return lt_tensor_2d(data, real, rows, width);
}

static lt_tensor carve_rows(lt_workspace *w, int64_t width)
{
    return carve_matrix(w, w->tokens, width);
}

/* The same memory as shorter numbers: each row starts where it did. */
static lt_tensor shortened(lt_tensor t, lt_dtype dtype)
{
    t.stride[0] *= (int64_t)(lt_dtype_size(t.dtype) / lt_dtype_size(dtype));
    t.dtype = dtype;
    return t;
}

static lt_tensor carve_integers(lt_workspace *w, int64_t count)
{
    void *data = lt_arena_alloc(&w->arena, (size_t)count, sizeof(int32_t));
    return lt_tensor_1d(data, LT_I32, count);
}

static lt_tensor carve_values(lt_workspace *w, lt_dtype dtype, int64_t each)
{
    size_t count = (size_t)(w->tokens * each);
    void *data = lt_arena_alloc(&w->arena, count, lt_dtype_size(dtype));
    return lt_tensor_1d(data, dtype, w->tokens * each);
}

static int32_t *carve_staging(lt_workspace *w)
{
    int64_t count = w->tokens + w->virtual_tokens;
    return lt_arena_alloc(&w->host, (size_t)count, sizeof(int32_t));
}

static int64_t up_width(const lt_model_config *c)
{
    return c->gated_mlp ? 2 * c->intermediate_size : c->intermediate_size;
}

/* What the level LT_RECOMPUTE_SELECTIVE computes again. */
static void carve_cheap(lt_workspace *w, lt_block_activations *b)
{
    b->norm1 = carve_rows(w, w->config->hidden_size);
    b->norm2 = carve_rows(w, w->config->hidden_size);
    b->activated = carve_rows(w, w->config->intermediate_size);
}

/* What only LT_RECOMPUTE_BLOCK computes again. `keep`: for backward; else the statistics of norms
 * and of attention are not wanted. */
static void carve_dear(lt_workspace *w, lt_block_activations *b, bool keep)
{
    const lt_model_config *c = w->config;
    lt_dtype statistics = w->backend->statistics;
    int64_t heads = c->num_attention_heads, kv_heads = c->num_key_value_heads;
    b->qkv = carve_rows(w, (heads + 2 * kv_heads) * c->head_dim);
    if (c->qk_norm) b->qk = carve_rows(w, (heads + kv_heads) * c->head_dim);
    b->attention = carve_rows(w, heads * c->head_dim);
    if (keep || c->gated_mlp)
        b->up = carve_rows(w, up_width(c));
    else
        b->up = b->activated; /* activated in place */
    if (!keep) return;
    b->middle = carve_rows(w, c->hidden_size);
    b->rstd1 = carve_values(w, statistics, 1);
    b->rstd2 = carve_values(w, statistics, 1);
    if (c->norm == LT_NORM_LAYER) {
        b->mean1 = carve_values(w, statistics, 1);
        b->mean2 = carve_values(w, statistics, 1);
    }
    if (c->qk_norm) {
        b->q_rstd = carve_values(w, statistics, heads);
        b->k_rstd = carve_values(w, statistics, kv_heads);
    }
    b->lse = carve_values(w, statistics, heads);
}

static void carve_blocks(lt_workspace *w)
{
    int64_t layers = w->config->num_hidden_layers, first = w->first_kept_layer;
    lt_recompute recompute = w->settings.recompute;
    lt_block_activations shared = {0};
    /* One set serves every block that keeps nothing (all of them in inference), and lends kept
     * blocks what they compute again. */
    if (first > 0 || recompute != LT_RECOMPUTE_NONE) carve_cheap(w, &shared);
    if (first > 0 || recompute == LT_RECOMPUTE_BLOCK)
        carve_dear(w, &shared, first < layers && recompute == LT_RECOMPUTE_BLOCK);

    lt_tensor stream = carve_rows(w, w->config->hidden_size);
    for (int64_t i = 0; i < layers; i++) {
        lt_block_activations b = shared;
        bool keep = i >= first;
        if (keep && recompute != LT_RECOMPUTE_BLOCK) carve_dear(w, &b, true);
        if (keep && recompute == LT_RECOMPUTE_NONE) carve_cheap(w, &b);
        b.input = stream;
        if (keep)
            stream = carve_rows(w, w->config->hidden_size);
        else
            b.middle = stream;
        b.output = stream;
        if (w->blocks) w->blocks[i] = b;
    }
    w->stream = stream;
}

static void carve_backward(lt_workspace *w)
{
    const lt_model_config *c = w->config;
    int64_t attention_width = c->num_attention_heads * c->head_dim;
    w->d_stream = carve_rows(w, c->hidden_size);
    w->d_norm = carve_rows(w, c->hidden_size);
    if (w->settings.resid_pdrop > 0) w->d_branch = carve_rows(w, c->hidden_size);
    lt_tensor inner = carve_rows(w, lt_max_i64(c->intermediate_size, attention_width));
    lt_dtype real = w->backend->real;
    w->d_activated = lt_tensor_2d(inner.data, real, w->tokens, c->intermediate_size);
    w->d_attention = lt_tensor_2d(inner.data, real, w->tokens, attention_width);
    w->d_qkv = carve_rows(w, (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim);
}

static void carve_logits(lt_workspace *w)
{
    int64_t vocab = w->config->vocab_size;
    lt_dtype statistics = w->backend->statistics;
    size_t count = (size_t)(w->chunk * vocab);
    void *data = lt_arena_alloc(&w->arena, count, lt_dtype_size(statistics));
    w->logits = lt_tensor_2d(data, statistics, w->chunk, vocab);
    w->d_logits = shortened(w->logits, w->backend->real);
    if (statistics == LT_F32) return;
    data = lt_arena_alloc(&w->arena, count, sizeof(float));
    w->logits_f32 = lt_tensor_2d(data, LT_F32, w->chunk, vocab);
}

/* The most that any adapter of the model asks for. */
typedef struct room_sizes {
    int64_t rank, input, output, virtual_tokens, running_tokens, table, encoder;
} room_sizes;

static room_sizes measure_room(const lt_model *model)
{
    room_sizes s = {0};
    for (int i = 0; i < model->adapter_count; i++) {
        const lt_adapter *a = model->adapters[i];
        s.rank = lt_max_i64(s.rank, a->rank);
        s.input = lt_max_i64(s.input, a->input_width);
        s.output = lt_max_i64(s.output, a->dora_width);
        s.virtual_tokens = lt_max_i64(s.virtual_tokens, a->virtual_tokens);
        if (a->method->runs_tokens)
            s.running_tokens = lt_max_i64(s.running_tokens, a->virtual_tokens);
        if (a->encoder.stages == 0) continue;
        s.table = lt_max_i64(s.table, a->table_width);
        s.encoder = lt_max_i64(s.encoder, a->encoder.widest);
    }
    return s;
}

static void carve_low_rank(lt_workspace *w, const room_sizes *s)
{
    if (s->rank == 0) return;
    w->room.low = carve_rows(w, s->rank);
    if (w->settings.training) w->room.d_low = carve_rows(w, s->rank);
    if (w->settings.training && s->input > 0) w->room.input = carve_rows(w, s->input);
    if (s->output > 0) w->room.output = carve_rows(w, s->output);
}

static void carve_prefix(lt_workspace *w, const room_sizes *s)
{
    const lt_model_config *c = w->config;
    lt_adapter_room *room = &w->room;
    int64_t rows = w->settings.rows, kv_width = c->num_key_value_heads * c->head_dim;
    int64_t keys = w->batch_tokens + rows * s->virtual_tokens;
    if (s->virtual_tokens == 0) return;
    room->keys = carve_matrix(w, keys, kv_width);
    room->values = carve_matrix(w, keys, kv_width);
    room->zeros = carve_integers(w, rows);
    room->offsets = carve_integers(w, rows);
    if (!w->settings.training) return;
    room->d_keys = carve_matrix(w, keys, kv_width);
    room->d_values = carve_matrix(w, keys, kv_width);
    room->d_prefix = carve_matrix(w, s->virtual_tokens, kv_width);
    room->own = carve_integers(w, w->batch_tokens);
    room->order = carve_integers(w, s->virtual_tokens);
}

static void carve_encoder(lt_workspace *w, const room_sizes *s)
{
    lt_adapter_room *room = &w->room;
    if (s->table == 0) return;
    room->table = carve_matrix(w, s->virtual_tokens, s->table);
    for (int i = 0; i < LT_ROOM_STAGES; i++) {
        room->stage[i] = carve_matrix(w, s->virtual_tokens, s->encoder);
        room->activated[i] = carve_matrix(w, s->virtual_tokens, s->encoder);
    }
    if (!w->settings.training) return;
    room->d_table = carve_matrix(w, s->virtual_tokens, s->table);
    for (int i = 0; i < 2; i++)
        room->d_stage[i] = carve_matrix(w, s->virtual_tokens, s->encoder);
}

static void carve_room(lt_workspace *w)
{
    room_sizes s = measure_room(w->model);
    carve_low_rank(w, &s);
    carve_prefix(w, &s);
    carve_encoder(w, &s);
}

static void carve(lt_workspace *w)
{
    lt_dtype statistics = w->backend->statistics;
    int64_t hidden = w->config->hidden_size;
    lt_tensor *integers[] = {&w->ids,   &w->positions, &w->first_key, &w->offset,
                             &w->index, &w->targets,   &w->correct};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++)
        *integers[i] = carve_values(w, LT_I32, 1);
    w->loss = carve_values(w, statistics, 1);
    w->totals = lt_tensor_1d(lt_arena_alloc(&w->arena, 3, sizeof(double)), LT_F64, 3);
    carve_blocks(w);
    if (w->settings.resid_pdrop > 0) w->branch = carve_rows(w, hidden);
    w->head_input = carve_rows(w, hidden);
    w->head_norm = carve_rows(w, hidden);
    if (w->config->norm == LT_NORM_LAYER) w->head_mean = carve_values(w, statistics, 1);
    w->head_rstd = carve_values(w, statistics, 1);
    carve_logits(w);
    if (w->settings.training) carve_backward(w);
    carve_room(w);

    int32_t **staging[] = {&w->host_index, &w->host_targets, &w->host_ids, &w->host_positions,
                           &w->host_offset};
    for (size_t i = 0; i < sizeof staging / sizeof staging[0]; i++)
        *staging[i] = carve_staging(w);
    w->host_loss = lt_arena_alloc(&w->host, (size_t)w->tokens, lt_dtype_size(statistics));
}

/* Everything but the memory. */
static lt_status describe(lt_workspace *w, const lt_model *model,
                          const lt_workspace_settings *settings, lt_err *err)
{
    const lt_model_config *config = &model->config;
    const lt_backend *backend = model->backend;
    int64_t tokens, logit_bytes = config->vocab_size * (int64_t)lt_dtype_size(backend->statistics);
    if (settings->rows < 1 || settings->length < 1 || settings->head_chunk < 0)
        return lt_fail(err, LT_ERR_USAGE, "a batch of %lld rows of %lld tokens is not possible",
                       (long long)settings->rows, (long long)settings->length);
    room_sizes room = measure_room(model);
    int64_t longest = settings->length + room.virtual_tokens;
    if (!lt_mul_i64(settings->rows, longest, &tokens) || tokens > MAX_TOKENS)
        return lt_fail(err, LT_ERR_LIMIT,
                       "a batch of %lld rows of %lld tokens is too large: %lld tokens at most",
                       (long long)settings->rows, (long long)longest, (long long)MAX_TOKENS);
    tokens = settings->rows * settings->length;
    *w = (lt_workspace){.settings = *settings,
                        .model = model,
                        .config = config,
                        .backend = backend,
                        .adapter_count = model->adapter_count,
                        .batch_tokens = tokens,
                        .virtual_tokens = room.virtual_tokens,
                        .tokens = tokens + room.running_tokens};
    int64_t chunk = settings->head_chunk;
    if (!chunk) chunk = lt_max_i64(HEAD_CHUNK_BYTES / lt_max_i64(logit_bytes, 1), 16);
    w->chunk = lt_min_i64(chunk, tokens);
    int64_t layers = config->num_hidden_layers;
    w->first_kept_layer = settings->training ? lt_params_lowest_trained(model) : layers;
    if (!settings->training) w->settings.recompute = LT_RECOMPUTE_NONE;
    return LT_OK;
}

lt_status lt_workspace_plan(const lt_model *model, const lt_workspace_settings *settings,
                            size_t *bytes, lt_err *err)
{
    lt_workspace w;
    LT_TRY(describe(&w, model, settings, err));
    lt_arena_measure(&w.arena, "activations");
    lt_arena_measure(&w.host, "staging");
    carve(&w);
    if (!lt_add_size(w.arena.used, w.host.used, bytes)) *bytes = SIZE_MAX;
    return LT_OK;
}

lt_status lt_workspace_create(const lt_model *model, const lt_workspace_settings *settings,
                              lt_workspace **out, lt_err *err)
{
    lt_status status = LT_OK;
    lt_workspace *w = calloc(1, sizeof *w), measured;
    size_t blocks = (size_t)model->config.num_hidden_layers;
    *out = NULL;
    if (!w) return lt_fail_nomem(err, sizeof *w, "a workspace");
    LT_TRY_GOTO(status, describe(w, model, settings, err), done);
    measured = *w;
    lt_arena_measure(&measured.arena, "activations");
    lt_arena_measure(&measured.host, "staging");
    carve(&measured);

    w->blocks = calloc(blocks ? blocks : 1, sizeof *w->blocks);
    if (!w->blocks) {
        status = lt_fail_nomem(err, blocks * sizeof *w->blocks, "a workspace");
        goto done;
    }
    LT_TRY_GOTO(status,
                lt_arena_reserve(&w->arena, "activations", measured.arena.used,
                                 model->backend->memory, err),
                done);
    LT_TRY_GOTO(status,
                lt_arena_reserve(&w->host, "staging", measured.host.used, (lt_memory){0}, err),
                done);
    carve(w);
    LT_TRY_GOTO(status, lt_zero(w->backend, &(lt_zero_args){.y = w->totals}, err), done);
    *out = w;
    w = NULL;
done:
    lt_workspace_free(w);
    return status;
}

void lt_workspace_free(lt_workspace *workspace)
{
    if (!workspace) return;
    lt_arena_release(&workspace->arena);
    lt_arena_release(&workspace->host);
    free(workspace->blocks);
    free(workspace);
}

lt_tensor lt_workspace_rows(const lt_workspace *workspace, lt_tensor t, int64_t tokens)
{
    if (!t.data) return t;
    t.shape[0] = t.shape[0] / workspace->tokens * tokens; /* some hold several values a token */
    return t;
}

lt_block_activations lt_workspace_block(const lt_workspace *workspace, int64_t layer,
                                        int64_t tokens)
{
    lt_block_activations b = workspace->blocks[layer];
    lt_tensor *all[] = {&b.input, &b.norm1,  &b.norm2, &b.mean1,     &b.rstd1,  &b.mean2,
                        &b.rstd2, &b.qkv,    &b.qk,    &b.q_rstd,    &b.k_rstd, &b.attention,
                        &b.lse,   &b.middle, &b.up,    &b.activated, &b.output};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        *all[i] = lt_workspace_rows(workspace, *all[i], tokens);
    return b;
}

lt_dropout_mask lt_pass_mask(const lt_pass *pass, double rate, int64_t layer, int site)
{
    uint64_t place = (uint64_t)(layer * LT_SITES + site);
    return (lt_dropout_mask){.rate = pass->dropout ? rate : 0,
                             .seed = pass->key.seed,
                             .stream = lt_rng_stream(LT_RNG_DROPOUT, pass->key.stream, place)};
}

/* --- Checks ---------------------------------------------------------------------------------- */

static lt_status check_token(const lt_model *model, const lt_batch *batch, int64_t row, int64_t i,
                             lt_err *err)
{
    const lt_model_config *c = &model->config;
    int64_t at = row * batch->length + i;
    int32_t id = batch->input_ids[at], position = batch->positions[at];
    if (id < 0 || id >= c->vocab_size)
        return lt_fail(err, LT_ERR_USAGE,
                       "token id %d (row %lld, token %lld) is outside the model's vocabulary of "
                       "%lld; the text was tokenised for another model",
                       id, (long long)row, (long long)i, (long long)c->vocab_size);
    int64_t in_front = lt_adapter_virtual_tokens(model->active);
    if (position < 0 || position >= c->max_position_embeddings - in_front)
        return lt_fail(err, LT_ERR_LIMIT,
                       "row %lld is too long: token %lld is at position %d, and the model sees "
                       "%lld positions at most%s",
                       (long long)row, (long long)i, position,
                       (long long)(c->max_position_embeddings - in_front),
                       in_front > 0 ? " behind the adapter's virtual tokens" : "");
    int64_t shared = batch->shared ? batch->shared[row] : 0;
    if (batch->first_key[at] < (i >= shared ? shared : 0) || batch->first_key[at] > i)
        return lt_fail(err, LT_ERR_USAGE,
                       "first key %d of row %lld, token %lld is not at or before the token%s",
                       batch->first_key[at], (long long)row, (long long)i,
                       i >= shared && shared > 0 ? ", behind what its row shares" : "");
    if (!batch->targets || batch->targets[at] == LT_IGNORE) return LT_OK;
    if (batch->targets[at] < 0 || batch->targets[at] >= c->vocab_size)
        return lt_fail(err, LT_ERR_USAGE,
                       "target %d (row %lld, token %lld) is outside the model's vocabulary of "
                       "%lld",
                       batch->targets[at], (long long)row, (long long)i, (long long)c->vocab_size);
    return LT_OK;
}

lt_status lt_batch_check(const lt_model *model, const lt_workspace *workspace,
                         const lt_batch *batch, lt_err *err)
{
    int64_t tokens;
    if (batch->rows < 1 || batch->length < 1 || !batch->input_ids || !batch->positions ||
        !batch->first_key)
        return lt_fail(err, LT_ERR_USAGE, "the batch is empty or incomplete");
    if (!lt_mul_i64(batch->rows, batch->length, &tokens) || tokens > workspace->batch_tokens)
        return lt_fail(err, LT_ERR_LIMIT,
                       "a batch of %lld rows of %lld tokens does not fit a workspace for %lld "
                       "tokens",
                       (long long)batch->rows, (long long)batch->length,
                       (long long)workspace->batch_tokens);
    if (workspace->model != model || workspace->adapter_count != model->adapter_count)
        return lt_fail(err, LT_ERR_USAGE,
                       "the workspace was made for another model, or before its adapters");
    /* each row has keys of its own for them */
    if (lt_adapter_virtual_tokens(model->active) > 0 && batch->rows > workspace->settings.rows)
        return lt_fail(err, LT_ERR_LIMIT,
                       "a batch of %lld rows with virtual tokens in front does not fit a workspace "
                       "for %lld rows",
                       (long long)batch->rows, (long long)workspace->settings.rows);
    if (workspace->config->vocab_size != workspace->logits.shape[1])
        return lt_fail(err, LT_ERR_USAGE, "the vocabulary has grown since the workspace was made");
    for (int64_t row = 0; row < batch->rows; row++) {
        if (batch->shared && (batch->shared[row] < 0 || batch->shared[row] > batch->length))
            return lt_fail(err, LT_ERR_USAGE, "row %lld of %lld tokens can not share %d of them",
                           (long long)row, (long long)batch->length, batch->shared[row]);
        for (int64_t i = 0; i < batch->length; i++)
            LT_TRY(check_token(model, batch, row, i, err));
    }
    return LT_OK;
}

int64_t lt_rows_alike(const int32_t *shared, int64_t row, int64_t rows)
{
    int64_t end = row + 1;
    while (end < rows && shared[end] == shared[row])
        end++;
    return end - row;
}
