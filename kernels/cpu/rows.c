/* Embedding, bias gradient, cross-entropy. */
#include <string.h>

#include "base/batch.h"
#include "base/checked.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec_math.h"

#define UNUSED_ERR lt_err *err __attribute__((unused))
#define COLUMNS    (4 * LANES) /* a block of columns that one thread sums over all rows */

static float *row(const lt_tensor *t, int64_t r)
{
    return (float *)t->data + lt_row_offset(t, r);
}

lt_status CPU(bias_backward)(const lt_backend *backend, const lt_bias_backward_args *a, UNUSED_ERR)
{
    int64_t rows = a->dy.shape[0], n = a->dy.shape[1];
    float *dbias = a->dbias.data;
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *n))
    for (int64_t j = 0; j < n; j += COLUMNS) {
        vec sum[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
        for (int64_t i = 0; i < rows; i++)
            for (int v = 0; v < 4; v++)
                sum[v] += vec_load_first(row(&a->dy, i) + j + v * LANES, n - j - v * LANES);
        for (int v = 0; v < 4; v++) {
            int64_t at = j + v * LANES;
            vec_store_first(dbias + at, vec_load_first(dbias + at, n - at) + sum[v], n - at);
        }
    }
    return LT_OK;
}

lt_status CPU(embedding_forward)(const lt_backend *backend, const lt_embedding_args *a, UNUSED_ERR)
{
    const int32_t *ids = a->ids.data, *positions = a->positions.data;
    int64_t rows = a->y.shape[0], dim = a->y.shape[1];
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *dim))
    for (int64_t r = 0; r < rows; r++) {
        const float *token = row(&a->token_table, ids[r]), *position = NULL;
        float *y = row(&a->y, r);
        if (a->position_table.data) position = row(&a->position_table, positions[r]);
        for (int64_t i = 0; i < dim; i += LANES) {
            vec v = vec_load_first(token + i, dim - i);
            if (position) v += vec_load_first(position + i, dim - i);
            vec_store_first(y + i, v, dim - i);
        }
    }
    return LT_OK;
}

/* Columns [begin, end) of all rows, in row order. */
static void add_rows(const lt_tensor *table, const int32_t *index, const lt_tensor *dy,
                     int64_t begin, int64_t end)
{
    for (int64_t r = 0; table->data && r < dy->shape[0]; r++) {
        float *d = row(table, index[r]);
        const float *from = row(dy, r);
        for (int64_t i = begin; i < end; i += LANES)
            vec_store_first(
                d + i, vec_load_first(d + i, end - i) + vec_load_first(from + i, end - i), end - i);
    }
}

/* Rows of a table can come up several times; a thread owns columns, so that it adds them in order
 * without asking the others. */
lt_status CPU(embedding_backward)(const lt_backend *backend, const lt_embedding_backward_args *a,
                                  UNUSED_ERR)
{
    int64_t dim = a->dy.shape[1];
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, a->dy.shape[0] * dim))
    for (int64_t i = 0; i < dim; i += COLUMNS) {
        int64_t end = lt_min_i64(i + COLUMNS, dim);
        add_rows(&a->dtoken_table, a->ids.data, &a->dy, i, end);
        add_rows(&a->dposition_table, a->positions.data, &a->dy, i, end);
    }
    return LT_OK;
}

/* --- Cross-entropy --------------------------------------------------------------------------- */

static float largest_of(const float *x, int64_t n)
{
    vec largest = vec_set(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        largest = vec_max(largest, vec_load(x + i));
    if (i < n)
        largest = vec_max(largest, vec_select(vec_first(n - i), vec_load_first(x + i, n - i),
                                              vec_set(-INFINITY)));
    return vec_largest(largest);
}

/* Sum of exp(x - top), which are stored over x with `keep`. Pieces are added in double: a
 * vocabulary is long. */
static double sum_exp(float *x, int64_t n, float top, bool keep)
{
    double total = 0;
    for (int64_t start = 0; start < n; start += PIECE) {
        int64_t end = lt_min_i64(start + PIECE, n);
        vec sum = vec_zero();
        for (int64_t i = start; i < end; i += LANES) {
            vec e = vec_exp(vec_load_first(x + i, end - i) - vec_set(top));
            sum += vec_select(vec_first(end - i), e, vec_zero());
            if (keep) vec_store_first(x + i, e, end - i);
        }
        total += (double)vec_sum(sum);
    }
    return total;
}

static bool is_first_largest(const float *x, int64_t target, float top)
{
    if (x[target] != top) return false;
    for (int64_t j = 0; j < target; j++)
        if (x[j] == top) return false;
    return true;
}

static void cross_entropy_row(const lt_cross_entropy_args *a, int64_t r)
{
    int64_t vocab = a->logits.shape[1];
    float *x = row(&a->logits, r), *loss = (float *)a->loss.data + r;
    int32_t target = ((const int32_t *)a->targets.data)[r];
    int32_t *correct = a->correct.data ? (int32_t *)a->correct.data + r : NULL;
    if (target == LT_IGNORE) {
        *loss = 0;
        if (correct) *correct = 0;
        if (a->gradient) memset(x, 0, (size_t)vocab * sizeof *x);
        return;
    }
    float top = largest_of(x, vocab), logit = x[target];
    if (correct) *correct = is_first_largest(x, target, top);
    double sum = sum_exp(x, vocab, top, a->gradient);
    *loss = (float)((double)top + log(sum) - (double)logit);
    if (!a->gradient) return;
    vec scale = vec_set((float)(1 / sum));
    for (int64_t i = 0; i < vocab; i += LANES)
        vec_store_first(x + i, vec_load_first(x + i, vocab - i) * scale, vocab - i);
    x[target] -= 1;
}

lt_status CPU(cross_entropy)(const lt_backend *backend, const lt_cross_entropy_args *a, UNUSED_ERR)
{
    int64_t rows = a->logits.shape[0];
#pragma omp parallel for schedule(dynamic) \
    num_threads(threads_for(backend, rows * a->logits.shape[1]))
    for (int64_t r = 0; r < rows; r++)
        cross_entropy_row(a, r);
    return LT_OK;
}
