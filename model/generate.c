/* Answering many prompts at once. Up to max_rows sequences share each decoding step; one that ends
 * hands its row of the cache to the next prompt that waits. A prompt is read in pieces, beside the
 * other rows' single ids, so that long prompts do not hold up short answers. */
#include <stdlib.h>

#include "base/checked.h"
#include "model/adapter.h"
#include "model/workspace.h"

/* New ids that one step takes at most, when prompts are being read. */
#define STEP_TOKENS 256

typedef struct row_state {
    bool busy;
    int64_t sequence; /* index of the prompt */
    int64_t fed;      /* ids of `history` that the cache holds */
    lt_ids history;   /* prompt and answer */
} row_state;

typedef struct generator {
    const lt_model *model;
    const lt_ids *prompts;
    const lt_generate_settings *settings;
    lt_on_token on_token;
    void *context;
    int64_t prompt_count, next_prompt, row_count, step_tokens;
    row_state *rows;
    lt_workspace *workspace;
    lt_kv_cache *cache;
    int32_t *ids;               /* [row_count, step_tokens] */
    int64_t *counts;            /* [row_count] */
    lt_decode_row *decode_rows; /* [row_count], as is next */
    int32_t *next;
} generator;

static const lt_adapter *adapter_of(const generator *g, int64_t prompt)
{
    return g->settings->adapters ? g->settings->adapters[prompt] : NULL;
}

static lt_status check(const generator *g, int64_t *longest, lt_err *err)
{
    *longest = 1;
    if (g->settings->max_new_tokens < 1)
        return lt_fail(err, LT_ERR_USAGE, "at least one new token must be asked for");
    for (int64_t i = 0; i < g->prompt_count; i++) {
        int64_t in_front = lt_adapter_virtual_tokens(adapter_of(g, i));
        int64_t limit = g->model->config.max_position_embeddings - in_front;
        int64_t count = (int64_t)g->prompts[i].count;
        if (count == 0) return lt_fail(err, LT_ERR_USAGE, "prompt %lld is empty", (long long)i + 1);
        if (count >= limit)
            return lt_fail(err, LT_ERR_LIMIT,
                           "prompt %lld has %lld tokens, which leaves no room for an answer: the "
                           "model sees %lld positions%s",
                           (long long)i + 1, (long long)count, (long long)limit,
                           in_front > 0 ? " behind the adapter's virtual tokens" : "");
        for (int64_t j = 0; j < count; j++) {
            int32_t id = g->prompts[i].data[j];
            if (id < 0 || id >= g->model->config.vocab_size)
                return lt_fail(err, LT_ERR_USAGE,
                               "prompt %lld: token id %d is outside the model's vocabulary of "
                               "%lld",
                               (long long)i + 1, id, (long long)g->model->config.vocab_size);
        }
        /* the last new id is never read back */
        int64_t read = lt_min_i64(limit, count + g->settings->max_new_tokens - 1);
        *longest = lt_max_i64(*longest, in_front + read);
    }
    return LT_OK;
}

static lt_status start(generator *g, lt_err *err)
{
    int64_t capacity, prompt_tokens = 0;
    LT_TRY(check(g, &capacity, err));
    for (int64_t i = 0; i < g->prompt_count; i++)
        prompt_tokens += (int64_t)g->prompts[i].count;
    g->row_count = lt_min_i64(lt_max_i64(g->settings->max_rows, 1), g->prompt_count);
    g->step_tokens = lt_max_i64(lt_min_i64(STEP_TOKENS, prompt_tokens), g->row_count);
    size_t rows = (size_t)g->row_count;
    g->rows = calloc(rows, sizeof *g->rows);
    g->ids = calloc(rows * (size_t)g->step_tokens, sizeof *g->ids);
    g->counts = calloc(rows, sizeof *g->counts);
    g->decode_rows = calloc(rows, sizeof *g->decode_rows);
    g->next = calloc(rows, sizeof *g->next);
    if (!g->rows || !g->ids || !g->counts || !g->decode_rows || !g->next)
        return lt_fail_nomem(err, rows * (size_t)g->step_tokens * sizeof *g->ids, "generation");
    lt_workspace_settings settings = {
        .rows = 1, .length = g->step_tokens, .head_chunk = g->row_count};
    LT_TRY(lt_workspace_create(g->model, &settings, &g->workspace, err));
    return lt_kv_cache_create(g->model, g->row_count, capacity, &g->cache, err);
}

/* Free rows take the prompts that wait. Returns whether any row is busy. */
static lt_status assign(generator *g, bool *any, lt_err *err)
{
    *any = false;
    for (int64_t r = 0; r < g->row_count; r++) {
        row_state *row = &g->rows[r];
        if (!row->busy && g->next_prompt < g->prompt_count) {
            const lt_ids *prompt = &g->prompts[g->next_prompt];
            row->sequence = g->next_prompt++;
            row->fed = 0;
            row->history.count = 0;
            row->busy = true;
            LT_TRY(lt_ids_append(&row->history, prompt->data, prompt->count, err));
            LT_TRY(lt_kv_cache_start(g->cache, r, adapter_of(g, row->sequence), err));
        }
        *any = *any || row->busy;
    }
    return LT_OK;
}

/* What each row reads in this step: an answering row its one new id, the others pieces of their
 * prompts as far as there is room. Returns the longest count, the width of `ids`. */
static int64_t choose_counts(generator *g)
{
    int64_t room = g->step_tokens - g->row_count, longest = 0;
    for (int64_t r = 0; r < g->row_count; r++) {
        const row_state *row = &g->rows[r];
        int64_t waiting = row->busy ? (int64_t)row->history.count - row->fed : 0;
        g->counts[r] = lt_min_i64(waiting, 1 + room);
        if (waiting > 0) room -= g->counts[r] - 1;
        longest = lt_max_i64(longest, g->counts[r]);
    }
    for (int64_t r = 0; r < g->row_count; r++)
        for (int64_t i = 0; i < g->counts[r]; i++)
            g->ids[r * longest + i] = g->rows[r].history.data[g->rows[r].fed + i];
    return longest;
}

static bool is_stop_id(const generator *g, int32_t id)
{
    for (int64_t i = 0; i < g->settings->stop_id_count; i++)
        if (g->settings->stop_ids[i] == id) return true;
    return false;
}

/* Tells a row's next id, and sees whether the answer ends with it. */
static lt_status extend(generator *g, int64_t r, lt_err *err)
{
    row_state *row = &g->rows[r];
    const lt_generate_settings *s = g->settings;
    int32_t id = g->next[r];
    bool stop = is_stop_id(g, id);
    LT_TRY(lt_ids_push(&row->history, id, err));
    bool wanted = g->on_token(g->context, row->sequence, id, stop);
    int64_t count = (int64_t)row->history.count;
    int64_t answered = count - (int64_t)g->prompts[row->sequence].count;
    int64_t in_front = lt_adapter_virtual_tokens(adapter_of(g, row->sequence));
    row->busy = wanted && !stop && answered < s->max_new_tokens &&
                in_front + count < g->model->config.max_position_embeddings;
    return LT_OK;
}

static lt_status step(generator *g, lt_err *err)
{
    int64_t length = choose_counts(g);
    for (int64_t r = 0; r < g->row_count; r++)
        g->decode_rows[r] = (lt_decode_row){.history = g->rows[r].history.data,
                                            .history_count = g->rows[r].fed + g->counts[r],
                                            .sequence = g->rows[r].sequence};
    LT_TRY(lt_model_decode_next(g->model, g->workspace, g->cache, g->ids, g->counts, length,
                                g->decode_rows, &g->settings->sampling, g->next, err));
    for (int64_t r = 0; r < g->row_count; r++) {
        row_state *row = &g->rows[r];
        if (!row->busy) continue;
        row->fed += g->counts[r];
        if (row->fed == (int64_t)row->history.count) LT_TRY(extend(g, r, err));
    }
    return LT_OK;
}

lt_status lt_model_generate(const lt_model *model, const lt_ids *prompts, int64_t prompt_count,
                            const lt_generate_settings *settings, lt_on_token on_token,
                            void *context, lt_err *err)
{
    lt_status status = LT_OK;
    bool any = true;
    generator g = {.model = model,
                   .prompts = prompts,
                   .settings = settings,
                   .on_token = on_token,
                   .context = context,
                   .prompt_count = prompt_count};
    if (prompt_count < 1) return LT_OK;
    LT_TRY_GOTO(status, start(&g, err), done);
    for (;;) {
        LT_TRY_GOTO(status, assign(&g, &any, err), done);
        if (!any) break;
        if (settings->cancelled && *settings->cancelled) {
            status = lt_fail(err, LT_ERR_INTERRUPTED, "interrupted");
            goto done;
        }
        LT_TRY_GOTO(status, step(&g, err), done);
    }
done:
    for (int64_t r = 0; g.rows && r < g.row_count; r++)
        lt_ids_free(&g.rows[r].history);
    lt_kv_cache_free(g.cache);
    lt_workspace_free(g.workspace);
    free(g.rows);
    free(g.ids);
    free(g.counts);
    free(g.decode_rows);
    free(g.next);
    return status;
}
