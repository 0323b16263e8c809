/* Rows from documents.
 *
 * Packing is done once, not anew for each epoch: an epoch then always has the same number of rows,
 * so the learning-rate schedule, the length of a run and a saved position keep their meaning. What
 * the shuffle changes from epoch to epoch is the order of the rows. Which documents share a row
 * does not matter to any of them, since each sees only itself. */
#include "data_pipeline/packing.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/rng.h"

/* Pieces are fitted a window at a time: enough to find good partners for each, and rows still hold
 * documents from all over the file. */
enum { WINDOW = 4096 };

/* The permutation that decides the packing; epochs use 0, 1, 2, ... */
#define PACKING_EPOCH INT64_MAX

void lt_row_plan_free(lt_row_plan *plan)
{
    free(plan->pieces);
    free(plan->order);
    free(plan->row_begin);
    *plan = (lt_row_plan){0};
}

void lt_permutation(uint64_t seed, int64_t epoch, int64_t count, int64_t *order)
{
    uint64_t stream = lt_rng_stream(LT_RNG_SHUFFLE, (uint64_t)epoch, 0);
    for (int64_t i = 0; i < count; i++) {
        /* Fisher and Yates, inside out: element i goes to place j, whose tenant moves to i. */
        int64_t j = (int64_t)lt_random_below(seed, stream, (uint64_t)i, (uint64_t)i + 1);
        order[i] = order[j];
        order[j] = i;
    }
}

/* --- Pieces --- */

static bool has_target(const lt_document *document)
{
    for (int64_t i = 1; i < document->length; i++) {
        if (document->mask[i]) return true;
    }
    return false;
}

/* Pieces that a document becomes: 0 when it is left out. With `out` they are written there. */
static int64_t cut(const lt_document *document, int64_t index, bool text, int64_t max_length,
                   lt_piece *out)
{
    if (!has_target(document)) return 0;
    if (!text) {
        if (document->length > max_length) return 0;
        if (out) *out = (lt_piece){index, 0, document->length};
        return 1;
    }
    /* Windows overlap by one token: the last target of one is the first input of the next. So every
     * token but the first is a target once, and the last token, which predicts nothing, no input.
     */
    int64_t inputs = document->length - 1, count = 0;
    for (int64_t start = 0; start < inputs; start += max_length, count++) {
        if (out) out[count] = (lt_piece){index, start, lt_min_i64(max_length, inputs - start)};
    }
    return count;
}

static lt_status make_pieces(const lt_dataset *dataset, const lt_loader_settings *settings,
                             lt_row_plan *plan, lt_err *err)
{
    int64_t documents = lt_dataset_count(dataset, settings->split);
    bool text = lt_dataset_format(dataset) == LT_FORMAT_TEXT;
    for (int pass = 0; pass < 2; pass++) {
        int64_t count = 0;
        for (int64_t i = 0; i < documents; i++) {
            lt_document document = lt_dataset_document(dataset, settings->split, i);
            int64_t made =
                cut(&document, i, text, settings->max_length, pass ? plan->pieces + count : NULL);
            if (pass && made == 0) plan->left_out++;
            count += made;
        }
        if (pass) break;
        plan->piece_count = count;
        plan->pieces = calloc((size_t)count + 1, sizeof *plan->pieces);
        plan->order = calloc((size_t)count + 1, sizeof *plan->order);
        plan->row_begin = calloc((size_t)count + 1, sizeof *plan->row_begin);
        if (!plan->pieces || !plan->order || !plan->row_begin)
            return lt_fail_nomem(err, (unsigned long long)count * 40, "the plan of an epoch");
    }
    return LT_OK;
}

/* --- Fitting pieces into rows --- */

/* Working memory for one window. `room` is a tournament tree over the rows: leaf WINDOW + r is the
 * room left in row r, an inner node the larger of its two children. */
typedef struct fitting {
    int64_t room[2 * WINDOW];
    int64_t items[WINDOW];  /* pieces of the window, longest first */
    int32_t row_of[WINDOW]; /* by position in `items` */
    int32_t begin[WINDOW + 1];
} fitting;

typedef struct sortable {
    int64_t length, place, piece;
} sortable;

static int longest_first(const void *left, const void *right)
{
    const sortable *a = left, *b = right;
    if (a->length != b->length) return a->length < b->length ? 1 : -1;
    return (a->place > b->place) - (a->place < b->place);
}

/* The first row with room for `length`; there always is one, since a window has a row per piece. */
static int32_t first_fit(fitting *fit, int64_t length)
{
    int32_t node = 1;
    while (node < WINDOW)
        node = fit->room[2 * node] >= length ? 2 * node : 2 * node + 1;
    int32_t row = node - WINDOW;
    fit->room[node] -= length;
    while (node /= 2) {
        int64_t left = fit->room[2 * node], right = fit->room[2 * node + 1];
        fit->room[node] = left > right ? left : right;
    }
    return row;
}

/* Fits plan->order[begin .. begin + count) into new rows, and reorders it so that rows are
 * contiguous. First fit, longest first: rows end up nearly full. */
static void fit_window(lt_row_plan *plan, int64_t begin, int32_t count, int64_t max_length,
                       fitting *fit, sortable *sorted)
{
    for (int32_t i = 0; i < count; i++) {
        int64_t piece = plan->order[begin + i];
        sorted[i] = (sortable){plan->pieces[piece].length, i, piece};
    }
    qsort(sorted, (size_t)count, sizeof *sorted, longest_first);
    for (int32_t i = 0; i < 2 * WINDOW; i++)
        fit->room[i] = max_length;
    int32_t rows = 0;
    memset(fit->begin, 0, sizeof fit->begin);
    for (int32_t i = 0; i < count; i++) {
        fit->row_of[i] = first_fit(fit, sorted[i].length);
        if (fit->row_of[i] >= rows) rows = fit->row_of[i] + 1;
        fit->begin[fit->row_of[i] + 1]++;
    }
    for (int32_t r = 0; r < rows; r++) {
        fit->begin[r + 1] += fit->begin[r];
        plan->row_begin[plan->row_count + r + 1] = begin + fit->begin[r + 1];
    }
    for (int32_t i = 0; i < count; i++)
        plan->order[begin + fit->begin[fit->row_of[i]]++] = sorted[i].piece;
    plan->row_count += rows;
}

static lt_status pack(lt_row_plan *plan, int64_t max_length, lt_err *err)
{
    fitting *fit = malloc(sizeof *fit);
    sortable *sorted = malloc(WINDOW * sizeof *sorted);
    lt_status status = LT_OK;
    if (!fit || !sorted) {
        status = lt_fail_nomem(err, sizeof *fit + WINDOW * sizeof *sorted, "packing");
        goto done;
    }
    for (int64_t begin = 0; begin < plan->piece_count; begin += WINDOW) {
        int32_t count = (int32_t)lt_min_i64(WINDOW, plan->piece_count - begin);
        fit_window(plan, begin, count, max_length, fit, sorted);
    }
done:
    free(sorted);
    free(fit);
    return status;
}

lt_status lt_row_plan_make(const lt_dataset *dataset, const lt_loader_settings *settings,
                           lt_row_plan *out, lt_err *err)
{
    *out = (lt_row_plan){0};
    lt_status status = make_pieces(dataset, settings, out, err);
    if (status == LT_OK && settings->packing) {
        if (settings->shuffle) {
            lt_permutation(settings->seed, PACKING_EPOCH, out->piece_count, out->order);
        } else {
            for (int64_t i = 0; i < out->piece_count; i++)
                out->order[i] = i;
        }
        status = pack(out, settings->max_length, err);
    } else if (status == LT_OK) {
        for (int64_t i = 0; i < out->piece_count; i++) {
            out->order[i] = i;
            out->row_begin[i + 1] = i + 1;
        }
        out->row_count = out->piece_count;
    }
    if (status != LT_OK) lt_row_plan_free(out);
    return status;
}
