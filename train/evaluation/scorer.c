/* Many log-likelihoods in few passes: requests become items (a sequence of tokens of which some are
 * scored), items are sorted by length, and neighbours share batches. */
#include "train/evaluation/scorer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/scorer_internal.h"

/* Tokens of a batch when the user names no number of rows: enough that products are fast, few
 * enough that a batch stays short to interrupt. */
enum { CPU_BATCH_TOKENS = 1024, GPU_BATCH_TOKENS = 32768, LEAST_TARGETS = 1024 };

/* One sequence: all but its last token are read, those with mask 1 (without a mask the last
 * `scored`) are predicted. */
typedef struct item {
    const int32_t *tokens;
    const uint8_t *mask; /* or NULL */
    int64_t count, scored;
    size_t offset; /* of its tokens in the run's ids, until they are all there */
    int64_t request;
    double log_likelihood;
    int64_t correct;
} item;

typedef struct batch_room {
    int64_t rows, tokens; /* capacity */
    lt_workspace *workspace;
    int32_t *arrays; /* five of [tokens], which the next ones are */
    int32_t *ids, *positions, *first_key, *places, *targets;
    double *log_probability; /* [tokens] */
    uint8_t *is_likeliest;   /* [tokens] */
} batch_room;

struct lt_scorer {
    const lt_assistant *assistant;
    lt_scorer_settings settings; /* max_length is never 0 */
    int64_t batch_tokens;
    lt_text_reader reader;
    batch_room room;
};

typedef struct run {
    lt_scorer *scorer;
    lt_ids ids; /* of all items whose tokens are not borrowed */
    item *items;
    int64_t item_count, item_capacity;
    int64_t *first_item, *left; /* [requests + 1], [requests]: items not scored yet */
    int64_t *cut;               /* [requests] */
    item **order;               /* [item_count]: by length, long ones first */
    const char **where;         /* [requests], entries may be NULL */
    lt_on_score on_score;
    void *context;
    lt_err *err;
} run;

/* --- Creating --------------------------------------------------------------------------------- */

/* As many tokens as half of the free memory has room for. */
static lt_status choose_batch_tokens(lt_scorer *scorer, lt_err *err)
{
    const lt_model *model = scorer->assistant->model;
    uint64_t available = model->backend->available_memory(model->backend);
    int64_t longest = scorer->settings.max_length;
    int64_t tokens = model->backend->device == LT_DEVICE_CUDA ? GPU_BATCH_TOKENS : CPU_BATCH_TOKENS;
    for (; tokens > longest; tokens /= 2) {
        lt_memory_plan plan;
        const lt_plan_settings what = {.workspace = {.rows = 1, .length = tokens}};
        LT_TRY(lt_model_plan(&model->config, model->backend, &what, &plan, err));
        if (plan.activations <= available / 2) break;
    }
    scorer->batch_tokens = lt_max_i64(tokens, longest);
    return LT_OK;
}

static lt_status set_max_length(lt_scorer *scorer, lt_err *err)
{
    const lt_model *model = scorer->assistant->model;
    int64_t limit =
        model->config.max_position_embeddings - lt_adapter_virtual_tokens(model->active);
    int64_t *wanted = &scorer->settings.max_length;
    if (*wanted == 0) *wanted = limit;
    if (*wanted >= 1 && *wanted <= limit) return LT_OK;
    return lt_fail(
        err, LT_ERR_USAGE, "a length of %lld tokens is not possible: the model sees %lld%s",
        (long long)*wanted, (long long)limit,
        lt_adapter_virtual_tokens(model->active) > 0 ? " behind the adapter's virtual tokens" : "");
}

lt_status lt_scorer_create(const lt_assistant *assistant, const lt_scorer_settings *settings,
                           lt_scorer **out, lt_err *err)
{
    lt_scorer *scorer = calloc(1, sizeof *scorer);
    lt_status status;
    *out = NULL;
    if (!scorer) return lt_fail_nomem(err, sizeof *scorer, "a scorer");
    scorer->assistant = assistant;
    scorer->settings = *settings;
    LT_TRY_GOTO(status, set_max_length(scorer, err), done);
    LT_TRY_GOTO(status, choose_batch_tokens(scorer, err), done);
    LT_TRY_GOTO(status, lt_text_reader_init(&scorer->reader, assistant, err), done);
    *out = scorer;
    return LT_OK;
done:
    lt_scorer_free(scorer);
    return status;
}

static void free_room(batch_room *room)
{
    lt_workspace_free(room->workspace);
    free(room->arrays);
    free(room->log_probability);
    free(room->is_likeliest);
    *room = (batch_room){0};
}

void lt_scorer_free(lt_scorer *scorer)
{
    if (!scorer) return;
    free_room(&scorer->room);
    lt_text_reader_free(&scorer->reader);
    free(scorer);
}

/* Room for batches of up to so many rows and tokens; what is there is used while it suffices. */
static lt_status reserve(lt_scorer *scorer, int64_t rows, int64_t tokens, lt_err *err)
{
    batch_room *room = &scorer->room;
    if (room->workspace && rows <= room->rows && tokens <= room->tokens) return LT_OK;
    rows = lt_max_i64(rows, room->rows);
    int64_t length = (lt_max_i64(tokens, room->tokens) + rows - 1) / rows;
    free_room(room);
    const lt_workspace_settings settings = {.rows = rows, .length = length};
    LT_TRY(lt_workspace_create(scorer->assistant->model, &settings, &room->workspace, err));
    size_t n = (size_t)(rows * length);
    room->arrays = calloc(n * 5, sizeof *room->arrays);
    room->log_probability = calloc(n, sizeof *room->log_probability);
    room->is_likeliest = calloc(n, sizeof *room->is_likeliest);
    if (!room->arrays || !room->log_probability || !room->is_likeliest)
        return lt_fail_nomem(err, n * 5 * sizeof *room->arrays, "a batch");
    room->ids = room->arrays;
    room->positions = room->ids + n;
    room->first_key = room->positions + n;
    room->places = room->first_key + n;
    room->targets = room->places + n;
    room->rows = rows;
    room->tokens = (int64_t)n;
    return LT_OK;
}

/* --- Items ------------------------------------------------------------------------------------ */

static lt_status name_request(const run *r, int64_t request, lt_err *err)
{
    if (r->where[request]) return lt_fail_context(err, "%s", r->where[request]);
    return lt_fail_context(err, "request %lld", (long long)request + 1);
}

static lt_status begin_run(run *r, int64_t count)
{
    size_t n = (size_t)count;
    r->first_item = calloc(n + 1, sizeof *r->first_item);
    r->left = calloc(n + 1, sizeof *r->left);
    r->cut = calloc(n + 1, sizeof *r->cut);
    r->where = calloc(n + 1, sizeof *r->where);
    if (r->first_item && r->left && r->cut && r->where) return LT_OK;
    return lt_fail_nomem(r->err, (n + 1) * 3 * sizeof *r->left, "requests");
}

static void end_run(run *r)
{
    lt_ids_free(&r->ids);
    free(r->items);
    free(r->first_item);
    free(r->left);
    free(r->cut);
    free((void *)r->where);
    free(r->order);
}

/* Items of one request follow each other. Too long a sequence loses its beginning. */
static lt_status add_item(run *r, item new_item)
{
    int64_t longest = r->scorer->settings.max_length + 1;
    int64_t cut = lt_max_i64(new_item.count - longest, 0);
    new_item.offset += (size_t)cut;
    new_item.count -= cut;
    if (new_item.mask) {
        new_item.mask += cut;
        new_item.scored = 0;
        for (int64_t i = 1; i < new_item.count; i++)
            new_item.scored += new_item.mask[i] != 0;
    }
    if (new_item.tokens) new_item.tokens += cut;
    new_item.scored = lt_min_i64(new_item.scored, new_item.count - 1);
    r->cut[new_item.request] += cut;
    if (new_item.scored < 1) return LT_OK;
    if (r->item_count == r->item_capacity) {
        int64_t capacity = r->item_capacity ? r->item_capacity * 2 : 256;
        item *grown = realloc(r->items, (size_t)capacity * sizeof *grown);
        if (!grown) return lt_fail_nomem(r->err, (size_t)capacity * sizeof *grown, "requests");
        r->items = grown;
        r->item_capacity = capacity;
    }
    r->items[r->item_count++] = new_item;
    r->left[new_item.request]++;
    return LT_OK;
}

static lt_status add_windows(run *r, int64_t request, const char *text)
{
    lt_text_reader *reader = &r->scorer->reader;
    int64_t longest = r->scorer->settings.max_length;
    size_t first = r->ids.count;
    if (reader->prefix < 0)
        return lt_fail(r->err, LT_ERR_USAGE,
                       "a text needs a token to stand in front, and the tokenizer names neither "
                       "bos_token nor eos_token");
    LT_TRY(lt_ids_push(&r->ids, reader->prefix, r->err));
    LT_TRY(lt_read_text(reader, text, strlen(text), &r->ids, r->err));
    int64_t count = (int64_t)(r->ids.count - first) - 1;
    for (int64_t i = 0; i < lt_rolling_window_count(count, longest); i++) {
        lt_rolling_window window = lt_rolling_window_at(count, longest, i);
        LT_TRY(add_item(r, (item){.offset = first + (size_t)(window.begin + 1),
                                  .count = window.end - window.begin,
                                  .scored = window.predicted,
                                  .request = request}));
    }
    return LT_OK;
}

static lt_status add_pair(run *r, int64_t request, const lt_score_request *pair)
{
    size_t first = r->ids.count;
    int64_t scored;
    LT_TRY(lt_read_pair(&r->scorer->reader, pair->context, pair->continuation, &r->ids, &scored,
                        r->err));
    if (scored < 1)
        return lt_fail(r->err, LT_ERR_FORMAT,
                       "the continuation \"%.60s\" adds no token to its context: the tokenizer "
                       "joins it with the end of the context, or it is empty",
                       pair->continuation);
    return add_item(r, (item){.offset = first,
                              .count = (int64_t)(r->ids.count - first),
                              .scored = scored,
                              .request = request});
}

/* --- Order ------------------------------------------------------------------------------------ */

static int compare_ids(const int32_t *a, const int32_t *b, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* 0: the same is asked. */
static int compare_items(const item *a, const item *b)
{
    if (a->count != b->count) return a->count > b->count ? -1 : 1;
    int order = compare_ids(a->tokens, b->tokens, a->count);
    if (order) return order;
    if (a->scored != b->scored) return a->scored < b->scored ? -1 : 1;
    if (!a->mask || !b->mask) return (a->mask != NULL) - (b->mask != NULL);
    return memcmp(a->mask + 1, b->mask + 1, (size_t)a->count - 1);
}

static int by_length(const void *a, const void *b)
{
    const item *x = *(item *const *)a, *y = *(item *const *)b;
    int order = compare_items(x, y);
    return order ? order : (x > y) - (x < y);
}

static bool same_input(const item *a, const item *b)
{
    return a->count == b->count && compare_ids(a->tokens, b->tokens, a->count - 1) == 0;
}

static lt_status sort_items(run *r)
{
    size_t n = (size_t)r->item_count;
    r->order = calloc(n + 1, sizeof *r->order);
    if (!r->order) return lt_fail_nomem(r->err, n * sizeof *r->order, "requests");
    for (size_t i = 0; i < n; i++) {
        item *it = &r->items[i];
        if (!it->tokens) it->tokens = r->ids.data + it->offset;
        r->order[i] = it;
    }
    qsort(r->order, n, sizeof *r->order, by_length);
    return LT_OK;
}

/* --- Batches ---------------------------------------------------------------------------------- */

/* Items order[begin..end) of a run; the first is the longest. */
typedef struct batch_span {
    int64_t begin, end, rows, width, targets;
} batch_span;

static batch_span span_from(const run *r, int64_t begin)
{
    const lt_scorer *scorer = r->scorer;
    batch_span span = {.begin = begin, .end = begin, .width = r->order[begin]->count - 1};
    int64_t most_rows = scorer->settings.batch_size;
    if (most_rows == 0) most_rows = lt_max_i64(scorer->batch_tokens / span.width, 1);
    int64_t most_targets = lt_max_i64(most_rows * span.width, LEAST_TARGETS);
    const item *before = NULL;
    for (; span.end < r->item_count; before = r->order[span.end++]) {
        const item *it = r->order[span.end];
        if (before && compare_items(before, it) == 0) continue;
        bool shares = before && same_input(before, it);
        if (!shares && span.rows == most_rows) break;
        if (span.targets + it->scored > most_targets) break;
        span.rows += !shares;
        span.targets += it->scored;
    }
    return span;
}

static void put_row(batch_room *room, int64_t row, int64_t width, const item *it)
{
    for (int64_t i = 0; i < width; i++) {
        int64_t at = row * width + i;
        bool inside = i < it->count - 1;
        room->ids[at] = inside ? it->tokens[i] : 0;
        room->positions[at] = inside ? (int32_t)i : 0;
        room->first_key[at] = inside ? 0 : (int32_t)i; /* padding sees only itself */
    }
}

static bool is_scored(const item *it, int64_t i)
{
    return it->mask ? it->mask[i] != 0 : i >= it->count - it->scored;
}

static void put_targets(batch_room *room, int64_t row, int64_t width, const item *it,
                        int64_t *targets)
{
    for (int64_t i = 1; i < it->count; i++) {
        if (!is_scored(it, i)) continue;
        room->places[*targets] = (int32_t)(row * width + i - 1);
        room->targets[(*targets)++] = it->tokens[i];
    }
}

/* Rows and targets of a span, in its order. */
static void fill_batch(const run *r, const batch_span *span)
{
    batch_room *room = &r->scorer->room;
    int64_t row = -1, targets = 0;
    for (int64_t k = span->begin; k < span->end; k++) {
        const item *it = r->order[k], *before = k > span->begin ? r->order[k - 1] : NULL;
        if (before && compare_items(before, it) == 0) continue;
        if (!before || !same_input(before, it)) put_row(room, ++row, span->width, it);
        put_targets(room, row, span->width, it, &targets);
    }
}

/* A request's score, summed over its windows in their order. */
static lt_status hand_out(const run *r, int64_t request)
{
    lt_score score = {.cut = r->cut[request]};
    for (int64_t i = r->first_item[request]; i < r->first_item[request + 1]; i++) {
        score.log_likelihood += r->items[i].log_likelihood;
        score.tokens += r->items[i].scored;
        score.correct += r->items[i].correct;
    }
    if (!isfinite(score.log_likelihood)) {
        lt_fail(r->err, LT_ERR_NUMERIC,
                "the log-likelihood is not finite: the model's weights or "
                "activations are broken");
        return name_request(r, request, r->err);
    }
    return r->on_score(r->context, request, &score, r->err);
}

static lt_status take_scores(const run *r, const batch_span *span)
{
    const batch_room *room = &r->scorer->room;
    int64_t target = 0;
    for (int64_t k = span->begin; k < span->end; k++) {
        item *it = r->order[k];
        const item *before = k > span->begin ? r->order[k - 1] : NULL;
        if (before && compare_items(before, it) == 0) {
            it->log_likelihood = before->log_likelihood;
            it->correct = before->correct;
        } else {
            for (int64_t i = 0; i < it->scored; i++, target++) {
                it->log_likelihood += room->log_probability[target];
                it->correct += room->is_likeliest[target];
            }
        }
        if (--r->left[it->request] == 0) LT_TRY(hand_out(r, it->request));
    }
    return LT_OK;
}

static lt_status run_batch(run *r, const batch_span *span)
{
    batch_room *room = &r->scorer->room;
    fill_batch(r, span);
    const lt_batch batch = {.rows = span->rows,
                            .length = span->width,
                            .input_ids = room->ids,
                            .positions = room->positions,
                            .first_key = room->first_key};
    const lt_targets targets = {room->places, room->targets, span->targets};
    LT_TRY(lt_model_score(r->scorer->assistant->model, room->workspace, &batch, &targets,
                          room->log_probability, room->is_likeliest, r->err));
    return take_scores(r, span);
}

/* Memory for the largest batch first, so that none fails half way. */
static lt_status reserve_for_all(run *r)
{
    int64_t rows = 1, tokens = 1;
    for (int64_t k = 0; k < r->item_count;) {
        batch_span span = span_from(r, k);
        rows = lt_max_i64(rows, span.rows);
        tokens = lt_max_i64(tokens, lt_max_i64(span.rows * span.width, span.targets));
        k = span.end;
    }
    return reserve(r->scorer, rows, tokens, r->err);
}

static lt_status run_items(run *r, int64_t requests)
{
    const volatile sig_atomic_t *cancelled = r->scorer->settings.cancelled;
    for (int64_t i = 0; i < requests; i++)
        if (r->left[i] == 0) LT_TRY(hand_out(r, i));
    if (r->item_count == 0) return LT_OK;
    LT_TRY(sort_items(r));
    LT_TRY(reserve_for_all(r));
    for (int64_t k = 0; k < r->item_count;) {
        if (cancelled && *cancelled) return lt_fail(r->err, LT_ERR_INTERRUPTED, "interrupted");
        batch_span span = span_from(r, k);
        LT_TRY(run_batch(r, &span));
        k = span.end;
    }
    return LT_OK;
}

/* --- Running ---------------------------------------------------------------------------------- */

lt_status lt_scorer_run(lt_scorer *scorer, const lt_score_request *requests, int64_t count,
                        lt_on_score on_score, void *context, lt_err *err)
{
    run r = {.scorer = scorer, .on_score = on_score, .context = context, .err = err};
    lt_status status;
    LT_TRY_GOTO(status, begin_run(&r, count), done);
    for (int64_t i = 0; i < count; i++) {
        r.first_item[i] = r.item_count;
        r.where[i] = requests[i].where;
        status = requests[i].rolling ? add_windows(&r, i, requests[i].continuation)
                                     : add_pair(&r, i, &requests[i]);
        if (status != LT_OK) {
            status = name_request(&r, i, err);
            goto done;
        }
    }
    r.first_item[count] = r.item_count;
    status = run_items(&r, count);
done:
    end_run(&r);
    return status;
}

lt_status lt_scorer_run_ids(lt_scorer *scorer, const lt_score_ids *requests, int64_t count,
                            lt_on_score on_score, void *context, lt_err *err)
{
    run r = {.scorer = scorer, .on_score = on_score, .context = context, .err = err};
    lt_status status;
    LT_TRY_GOTO(status, begin_run(&r, count), done);
    for (int64_t i = 0; i < count; i++) {
        r.first_item[i] = r.item_count;
        r.where[i] = requests[i].where;
        LT_TRY_GOTO(status,
                    add_item(&r, (item){.tokens = requests[i].tokens,
                                        .mask = requests[i].mask,
                                        .count = requests[i].count,
                                        .scored = requests[i].count - 1,
                                        .request = i}),
                    done);
    }
    r.first_item[count] = r.item_count;
    status = run_items(&r, count);
done:
    end_run(&r);
    return status;
}
