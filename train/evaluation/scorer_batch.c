/* Rows of about one length to batches, long ones first, and the batches through the model. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/scorer_internal.h"

/* Tokens of a batch when the user names no number of sequences: enough that products are fast, few
 * enough that a batch stays short to interrupt. */
enum { CPU_BATCH_TOKENS = 1024, GPU_BATCH_TOKENS = 32768, LEAST_TARGETS = 1024 };

/* --- How much --------------------------------------------------------------------------------- */

static lt_status has_room(const lt_scorer *scorer, int64_t tokens, bool *has, lt_err *err)
{
    const lt_model *model = scorer->assistant->model;
    const lt_plan_settings what = {.workspace = {.rows = 1, .length = tokens}};
    lt_memory_plan plan;
    LT_TRY(lt_model_plan(&model->config, model->backend, &what, &plan, err));
    *has = plan.activations <= scorer->memory;
    return LT_OK;
}

/* Sequences that share a long context may together be twice as long as the longest one. */
static lt_status choose_tokens(lt_score_run *r, int64_t longest)
{
    const lt_model *model = r->scorer->assistant->model;
    lt_batch_limits *limits = &r->limits;
    bool has = false;
    limits->tokens = model->backend->device == LT_DEVICE_CUDA ? GPU_BATCH_TOKENS : CPU_BATCH_TOKENS;
    for (; limits->tokens > longest; limits->tokens /= 2) {
        LT_TRY(has_room(r->scorer, limits->tokens, &has, r->err));
        if (has) break;
    }
    limits->row_tokens = lt_max_i64(limits->tokens, 2 * longest);
    LT_TRY(has_room(r->scorer, limits->row_tokens, &has, r->err));
    if (!has) limits->row_tokens = limits->tokens;
    return LT_OK;
}

lt_status lt_choose_batch_limits(lt_score_run *r)
{
    lt_batch_limits *limits = &r->limits;
    int64_t longest = 1, rows = lt_min_i64(r->scorer->settings.batch_size, r->item_count);
    for (int64_t i = 0; i < r->item_count; i++)
        longest = lt_max_i64(longest, r->items[i].count - 1);
    limits->sequences = rows > 0 ? rows : INT64_MAX;
    limits->tokens = limits->row_tokens = rows * longest;
    if (rows == 0) LT_TRY(choose_tokens(r, longest));
    limits->targets = lt_max_i64(lt_max_i64(limits->tokens, longest), LEAST_TARGETS);
    return LT_OK;
}

/* --- Memory ----------------------------------------------------------------------------------- */

void lt_batch_room_free(lt_batch_room *room)
{
    lt_workspace_free(room->workspace);
    free(room->arrays);
    free(room->log_probability);
    free(room->is_likeliest);
    *room = (lt_batch_room){0};
}

/* Room for batches of up to so many rows and tokens; what is there is used while it suffices. */
static lt_status reserve(lt_scorer *scorer, int64_t rows, int64_t tokens, lt_err *err)
{
    lt_batch_room *room = &scorer->room;
    if (room->workspace && rows <= room->rows && tokens <= room->tokens) return LT_OK;
    rows = lt_max_i64(rows, room->rows);
    int64_t length = (lt_max_i64(tokens, room->tokens) + rows - 1) / rows;
    lt_batch_room_free(room);
    const lt_workspace_settings settings = {.rows = rows, .length = length};
    LT_TRY(lt_workspace_create(scorer->assistant->model, &settings, &room->workspace, err));
    size_t n = (size_t)(rows * length);
    int32_t **arrays[] = {&room->ids,    &room->positions, &room->first_key,
                          &room->shared, &room->places,    &room->targets};
    size_t count = sizeof arrays / sizeof *arrays;
    room->arrays = calloc(n * count, sizeof *room->arrays);
    room->log_probability = calloc(n, sizeof *room->log_probability);
    room->is_likeliest = calloc(n, sizeof *room->is_likeliest);
    if (!room->arrays || !room->log_probability || !room->is_likeliest)
        return lt_fail_nomem(err, n * count * sizeof *room->arrays, "a batch");
    for (size_t i = 0; i < count; i++)
        *arrays[i] = room->arrays + i * n;
    room->rows = rows;
    room->tokens = (int64_t)n;
    return LT_OK;
}

/* --- Batches ---------------------------------------------------------------------------------- */

/* Rows [begin, end) of a run, padded to `width`. */
typedef struct batch_span {
    int64_t begin, end, width, targets;
} batch_span;

static batch_span span_from(const lt_score_run *r, int64_t begin)
{
    const lt_batch_limits *most = &r->limits;
    batch_span span = {.begin = begin, .end = begin, .width = r->rows[begin].length};
    int64_t sequences = 0;
    for (; span.end < r->row_count; span.end++) {
        const lt_score_row *row = &r->rows[span.end];
        sequences += row->end - row->begin;
        bool fits = (span.end - begin + 1) * span.width <= most->tokens &&
                    span.targets + row->targets <= most->targets && sequences <= most->sequences;
        if (!fits && span.end > begin) break;
        span.targets += row->targets;
    }
    return span;
}

/* Attention takes neighbours together that share as much. */
static int by_shared(const void *a, const void *b)
{
    const lt_score_row *x = a, *y = b;
    if (x->shared != y->shared) return x->shared < y->shared ? -1 : 1;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static bool is_scored(const lt_score_item *it, int64_t i)
{
    return it->mask ? it->mask[i] != 0 : i >= it->count - it->scored;
}

/* Whether item k of a sequence asks what the one before it does. */
static bool is_repeated(const lt_score_run *r, const lt_score_sequence *s, int64_t k)
{
    return k > s->begin && lt_compare_score_items(r->order[k - 1], r->order[k]) == 0;
}

static void put(lt_batch_room *room, int64_t at, int32_t id, int64_t position, int64_t first_key)
{
    room->ids[at] = id;
    room->positions[at] = (int32_t)position;
    room->first_key[at] = (int32_t)first_key;
}

/* The targets of a sequence in the row at `base` that goes on from its `shared` tokens at column
 * `start`. */
static void put_targets(const lt_score_run *r, const lt_score_sequence *s, int64_t base,
                        int64_t shared, int64_t start, int64_t *targets)
{
    lt_batch_room *room = &r->scorer->room;
    for (int64_t k = s->begin; k < s->end; k++) {
        const lt_score_item *it = r->order[k];
        if (is_repeated(r, s, k)) continue;
        for (int64_t i = 1; i < it->count; i++) {
            if (!is_scored(it, i)) continue;
            int64_t column = i - 1 < shared ? i - 1 : start + i - 1 - shared;
            room->places[*targets] = (int32_t)(base + column);
            room->targets[(*targets)++] = it->tokens[i];
        }
    }
}

static void put_row(const lt_score_run *r, const lt_score_row *row, int64_t base, int64_t width,
                    int64_t *targets)
{
    lt_batch_room *room = &r->scorer->room;
    const int32_t *tokens = r->order[r->sequences[row->begin].begin]->tokens;
    int64_t column = 0;
    for (; column < row->shared; column++)
        put(room, base + column, tokens[column], column, 0);
    for (int64_t k = row->begin; k < row->end; k++) {
        const lt_score_sequence *s = &r->sequences[k];
        int64_t start = column;
        tokens = r->order[s->begin]->tokens;
        for (int64_t i = row->shared; i < s->length; i++)
            put(room, base + column++, tokens[i], i, start);
        put_targets(r, s, base, row->shared, start, targets);
    }
    for (; column < width; column++)
        put(room, base + column, 0, 0, column); /* padding sees only itself, and what is shared */
}

static void take_sequence(const lt_score_run *r, const lt_score_sequence *s, int64_t *targets)
{
    const lt_batch_room *room = &r->scorer->room;
    for (int64_t k = s->begin; k < s->end; k++) {
        lt_score_item *it = r->order[k];
        if (is_repeated(r, s, k)) {
            it->log_likelihood = r->order[k - 1]->log_likelihood;
            it->correct = r->order[k - 1]->correct;
            continue;
        }
        for (int64_t i = 0; i < it->scored; i++, ++*targets) {
            it->log_likelihood += room->log_probability[*targets];
            it->correct += room->is_likeliest[*targets];
        }
    }
}

/* The scores, in the order in which their targets were put; requests that are complete go out. */
static lt_status take_row(const lt_score_run *r, const lt_score_row *row, int64_t *targets)
{
    for (int64_t k = row->begin; k < row->end; k++) {
        const lt_score_sequence *s = &r->sequences[k];
        take_sequence(r, s, targets);
        for (int64_t i = s->begin; i < s->end; i++)
            if (--r->left[r->order[i]->request] == 0)
                LT_TRY(lt_hand_out_score(r, r->order[i]->request));
    }
    return LT_OK;
}

static lt_status run_batch(lt_score_run *r, const batch_span *span)
{
    lt_batch_room *room = &r->scorer->room;
    lt_score_row *rows = r->rows + span->begin;
    int64_t count = span->end - span->begin, put_so_far = 0, taken = 0;
    qsort(rows, (size_t)count, sizeof *rows, by_shared);
    for (int64_t i = 0; i < count; i++) {
        put_row(r, &rows[i], i * span->width, span->width, &put_so_far);
        room->shared[i] = (int32_t)rows[i].shared;
    }
    const lt_batch batch = {.rows = count,
                            .length = span->width,
                            .input_ids = room->ids,
                            .positions = room->positions,
                            .first_key = room->first_key,
                            .shared = rows[count - 1].shared > 0 ? room->shared : NULL};
    const lt_targets targets = {room->places, room->targets, span->targets};
    LT_TRY(lt_model_score(r->scorer->assistant->model, room->workspace, &batch, &targets,
                          room->log_probability, room->is_likeliest, r->err));
    for (int64_t i = 0; i < count; i++)
        LT_TRY(take_row(r, &rows[i], &taken));
    return LT_OK;
}

/* Memory for the largest batch first, so that none fails half way. */
static lt_status reserve_for_all(lt_score_run *r)
{
    int64_t rows = 1, tokens = 1;
    for (int64_t k = 0; k < r->row_count;) {
        batch_span span = span_from(r, k);
        int64_t count = span.end - span.begin;
        rows = lt_max_i64(rows, count);
        tokens = lt_max_i64(tokens, lt_max_i64(count * span.width, span.targets));
        k = span.end;
    }
    return reserve(r->scorer, rows, tokens, r->err);
}

lt_status lt_run_score_rows(lt_score_run *r)
{
    const volatile sig_atomic_t *cancelled = r->scorer->settings.cancelled;
    LT_TRY(reserve_for_all(r));
    for (int64_t k = 0; k < r->row_count;) {
        if (cancelled && *cancelled) return lt_fail(r->err, LT_ERR_INTERRUPTED, "interrupted");
        batch_span span = span_from(r, k);
        LT_TRY(run_batch(r, &span));
        k = span.end;
    }
    return LT_OK;
}
