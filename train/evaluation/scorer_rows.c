/* Which sequences share a row.
 *
 * In the order of their ids, sequences that begin alike (an example's choices, a task's questions
 * behind the same examples) are neighbours. A row of several costs what they all begin with once,
 * and the rest of each; the rows chosen cost least together. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/scorer_internal.h"

enum { LEAST_SAVED = 8 }; /* a row of several saves 1/8 of its tokens, or is none */

/* --- Order ------------------------------------------------------------------------------------ */

static int64_t common_ids(const lt_score_item *a, const lt_score_item *b)
{
    int64_t count = lt_min_i64(a->count, b->count) - 1, i = 0;
    while (i < count && a->tokens[i] == b->tokens[i])
        i++;
    return i;
}

/* By what is read. */
static int compare_inputs(const lt_score_item *a, const lt_score_item *b)
{
    int64_t common = common_ids(a, b);
    bool a_ends = common == a->count - 1, b_ends = common == b->count - 1;
    if (a_ends || b_ends) return b_ends - a_ends;
    return a->tokens[common] < b->tokens[common] ? -1 : 1;
}

int lt_compare_score_items(const lt_score_item *a, const lt_score_item *b)
{
    int order = compare_inputs(a, b);
    int32_t last_a = a->tokens[a->count - 1], last_b = b->tokens[b->count - 1];
    if (order) return order;
    if (last_a != last_b) return last_a < last_b ? -1 : 1;
    if (a->scored != b->scored) return a->scored < b->scored ? -1 : 1;
    if (!a->mask || !b->mask) return (a->mask != NULL) - (b->mask != NULL);
    return memcmp(a->mask + 1, b->mask + 1, (size_t)a->count - 1);
}

static int by_ids(const void *a, const void *b)
{
    const lt_score_item *x = *(lt_score_item *const *)a, *y = *(lt_score_item *const *)b;
    int order = lt_compare_score_items(x, y);
    return order ? order : (x > y) - (x < y);
}

static lt_status sort_items(lt_score_run *r)
{
    size_t n = (size_t)r->item_count;
    r->order = calloc(n, sizeof *r->order);
    if (!r->order) return lt_fail_nomem(r->err, n * sizeof *r->order, "requests");
    for (size_t i = 0; i < n; i++)
        r->order[i] = &r->items[i];
    qsort(r->order, n, sizeof *r->order, by_ids);
    return LT_OK;
}

/* --- Sequences -------------------------------------------------------------------------------- */

/* A sequence of more targets than a batch may have goes on as another one. */
static lt_status make_sequences(lt_score_run *r)
{
    size_t n = (size_t)r->item_count;
    r->sequences = calloc(n, sizeof *r->sequences);
    if (!r->sequences) return lt_fail_nomem(r->err, n * sizeof *r->sequences, "requests");
    const lt_score_item *before = NULL;
    lt_score_sequence *s = NULL;
    for (int64_t k = 0; k < r->item_count; before = r->order[k++]) {
        const lt_score_item *it = r->order[k];
        int64_t length = it->count - 1, common = before ? common_ids(before, it) : 0;
        bool same = before && length == s->length && common == length;
        int64_t scored = same && lt_compare_score_items(before, it) == 0 ? 0 : it->scored;
        if (!same || s->targets + scored > r->limits.targets) {
            s = &r->sequences[r->sequence_count++];
            *s = (lt_score_sequence){.begin = k, .length = length, .common = common};
            scored = it->scored;
        }
        s->end = k + 1;
        s->targets += scored;
    }
    return LT_OK;
}

/* --- Rows ------------------------------------------------------------------------------------- */

/* The last row of the sequences before `end`, so that all of them cost least: cost[i] is that of
 * the sequences before i. */
static lt_score_row choose_row(const lt_score_run *r, int64_t end, int64_t *cost)
{
    const lt_score_sequence *s = r->sequences;
    const lt_batch_limits *most = &r->limits;
    lt_score_row row = {.end = end, .shared = s[end - 1].length}, best = {0};
    int64_t whole = 0;
    cost[end] = INT64_MAX;
    for (row.begin = end - 1; row.begin >= 0; row.begin--) {
        int64_t others = end - 1 - row.begin;
        if (others > 0) row.shared = lt_min_i64(row.shared, s[row.begin + 1].common);
        whole += s[row.begin].length;
        row.targets += s[row.begin].targets;
        row.length = whole - others * row.shared;
        if (others > 0) {
            if (row.shared == 0 || row.length > most->row_tokens || row.targets > most->targets ||
                others >= most->sequences)
                break;
            if (others * row.shared < whole / LEAST_SAVED) continue;
        }
        if (cost[row.begin] + row.length >= cost[end]) continue;
        cost[end] = cost[row.begin] + row.length;
        best = row;
    }
    if (best.end - best.begin == 1) best.shared = 0;
    return best;
}

/* Long ones first: memory and time are known from the beginning. */
static int by_length(const void *a, const void *b)
{
    const lt_score_row *x = a, *y = b;
    if (x->length != y->length) return x->length > y->length ? -1 : 1;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

lt_status lt_make_score_rows(lt_score_run *r)
{
    LT_TRY(sort_items(r));
    LT_TRY(make_sequences(r));
    size_t n = (size_t)r->sequence_count;
    lt_score_row *last = calloc(n + 1, sizeof *last); /* of the sequences before each */
    int64_t *cost = calloc(n + 1, sizeof *cost);
    r->rows = calloc(n, sizeof *r->rows);
    if (last && cost && r->rows) {
        for (int64_t end = 1; end <= r->sequence_count; end++)
            last[end] = choose_row(r, end, cost);
        for (int64_t end = r->sequence_count; end > 0; end = last[end].begin)
            r->rows[r->row_count++] = last[end];
        qsort(r->rows, (size_t)r->row_count, sizeof *r->rows, by_length);
    }
    free(last);
    free(cost);
    return r->row_count > 0 ? LT_OK
                            : lt_fail_nomem(r->err, n * sizeof *last, "the rows of a batch");
}
