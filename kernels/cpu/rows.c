/* Sums over rows, the norms of DoRA, embedding, cache, cross-entropy. */
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

/* The sums over all rows, in order, of the block of columns from j on: of dy, or of dy z. */
INLINE void sum_columns(const lt_tensor *dy, const lt_tensor *z, int64_t j, vec sum[4])
{
    int64_t left = dy->shape[1] - j;
    for (int v = 0; v < 4; v++)
        sum[v] = vec_zero();
    for (int64_t i = 0; i < dy->shape[0]; i++)
        for (int v = 0; v < 4; v++) {
            vec d = vec_load_first(row(dy, i) + j + v * LANES, left - v * LANES);
            if (z) d *= vec_load_first(row(z, i) + j + v * LANES, left - v * LANES);
            sum[v] += d;
        }
}

lt_status CPU(bias_backward)(const lt_backend *backend, const lt_bias_backward_args *a, UNUSED_ERR)
{
    int64_t rows = a->dy.shape[0], n = a->dy.shape[1];
    float *dbias = a->dbias.data;
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *n))
    for (int64_t j = 0; j < n; j += COLUMNS) {
        vec sum[4];
        sum_columns(&a->dy, NULL, j, sum);
        for (int v = 0; v < 4; v++) {
            int64_t at = j + v * LANES;
            vec_store_first(dbias + at, vec_load_first(dbias + at, n - at) + sum[v], n - at);
        }
    }
    return LT_OK;
}

lt_status CPU(dora_backward)(const lt_backend *backend, const lt_dora_backward_args *a, UNUSED_ERR)
{
    int64_t rows = a->dy.shape[0], n = a->dy.shape[1];
    const float *norm = a->norm.data;
    float *d = a->dmagnitude.data;
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *n))
    for (int64_t j = 0; j < n; j += COLUMNS) {
        vec sum[4];
        sum_columns(&a->dy, &a->z, j, sum);
        for (int v = 0; v < 4; v++) {
            int64_t at = j + v * LANES;
            vec length = vec_load_first(norm + at, n - at), slope = sum[v] / length;
            slope = vec_select(vec_greater_equal(vec_zero(), length), vec_zero(), slope);
            vec_store_first(d + at, vec_load_first(d + at, n - at) + slope, n - at);
        }
    }
    return LT_OK;
}

/* --- The norms of DoRA ----------------------------------------------------------------------- */

#define NORM_ROWS    4 /* rows of the weight that share each load of a */
#define NORM_VECTORS 2

/* |W[j] + scaling B[j] A| for rows j .. j + rows. */
INLINE void direction_norms(const lt_dora_norm_args *a, int64_t j, int rows, float *norm)
{
    int64_t in = a->weight.shape[1], rank = a->b.shape[1];
    int64_t a_line = a->a.stride[0], b_line = a->b.stride[0], line = a->weight.stride[0];
    const float *left = (const float *)a->b.data + j * b_line;
    bool bf16 = a->weight.dtype == LT_BF16;
    vec squares[NORM_ROWS], update[NORM_ROWS][NORM_VECTORS], right;
    for (int r = 0; r < rows; r++)
        squares[r] = vec_zero();
    for (int64_t i = 0; i < in; i += NORM_VECTORS * LANES) {
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < NORM_VECTORS; v++)
                update[r][v] = vec_zero();
        for (int64_t p = 0; p < rank; p++)
            for (int v = 0; v < NORM_VECTORS; v++) {
                int64_t at = i + v * LANES;
                right = vec_load_first((const float *)a->a.data + p * a_line + at, in - at);
                for (int r = 0; r < rows; r++)
                    update[r][v] = vec_fma(vec_set(left[r * b_line + p]), right, update[r][v]);
            }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < NORM_VECTORS; v++) {
                int64_t at = i + v * LANES;
                vec w = vec_load_weight(a->weight.data, bf16, (j + r) * line + at, in - at);
                w = vec_fma(update[r][v], vec_set((float)a->scaling), w);
                squares[r] = vec_fma(w, w, squares[r]);
            }
    }
    for (int r = 0; r < rows; r++)
        norm[r] = sqrtf(vec_sum(squares[r]));
}

lt_status CPU(dora_norm)(const lt_backend *backend, const lt_dora_norm_args *a, UNUSED_ERR)
{
    int64_t out = a->weight.shape[0], in = a->weight.shape[1];
    const float *magnitude = a->magnitude.data;
    float *norm = a->norm.data, *scale = a->scale.data;
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, out *in))
    for (int64_t j = 0; j < out; j += NORM_ROWS) {
        int64_t end = lt_min_i64(j + NORM_ROWS, out);
        if (end - j == NORM_ROWS)
            direction_norms(a, j, NORM_ROWS, norm + j);
        else
            for (int64_t r = j; r < end; r++)
                direction_norms(a, r, 1, norm + r);
        for (int64_t r = j; magnitude && r < end; r++)
            scale[r] = norm[r] == 0 ? 0 : magnitude[r] / norm[r];
    }
    return LT_OK;
}

/* --- Rows by index --------------------------------------------------------------------------- */

lt_status CPU(embedding_forward)(const lt_backend *backend, const lt_embedding_args *a, UNUSED_ERR)
{
    const int32_t *ids = a->ids.data, *positions = a->positions.data;
    int64_t rows = a->y.shape[0], dim = a->y.shape[1];
    bool bf16 = a->token_table.dtype == LT_BF16;
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *dim))
    for (int64_t r = 0; r < rows; r++) {
        int64_t token = lt_row_offset(&a->token_table, ids[r]);
        const float *position = NULL;
        float *y = row(&a->y, r);
        if (a->position_table.data) position = row(&a->position_table, positions[r]);
        for (int64_t i = 0; i < dim; i += LANES) {
            vec v = vec_load_weight(a->token_table.data, bf16, token + i, dim - i);
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

/* Rows whose heads lie side by side are copied whole. */
static void append(const lt_backend *backend, const lt_tensor *kv, const lt_tensor *cache,
                   const int32_t *offset)
{
    int64_t length = kv->shape[1], heads = kv->shape[2], width = kv->shape[3];
    int64_t rows = kv->shape[0] * length, elements = rows * heads * width;
    if (kv->stride[2] == width && cache->stride[2] == width) {
        width *= heads;
        heads = 1;
    }
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, elements))
    for (int64_t r = 0; r < rows; r++) {
        int64_t b = r / length, i = r % length;
        const float *from = (float *)kv->data + b * kv->stride[0] + i * kv->stride[1];
        float *to = (float *)cache->data + b * cache->stride[0];
        to += (offset[b] + i) * cache->stride[1];
        for (int64_t h = 0; elements && h < heads; h++)
            memcpy(to + h * cache->stride[2], from + h * kv->stride[2], (size_t)width * sizeof *to);
    }
}

lt_status CPU(cache_append)(const lt_backend *backend, const lt_cache_append_args *a, UNUSED_ERR)
{
    append(backend, &a->k, &a->k_cache, a->offset.data);
    append(backend, &a->v, &a->v_cache, a->offset.data);
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

/* Sum of exp(x - top), which are written to `kept` unless it is NULL; that may be x. Pieces are
 * added in double: a vocabulary is long. */
static double sum_exp(const float *x, int64_t n, float top, float *kept)
{
    double total = 0;
    for (int64_t start = 0; start < n; start += PIECE) {
        int64_t end = lt_min_i64(start + PIECE, n);
        vec sum = vec_zero();
        for (int64_t i = start; i < end; i += LANES) {
            vec e = vec_exp(vec_load_first(x + i, end - i) - vec_set(top));
            sum += vec_select(vec_first(end - i), e, vec_zero());
            if (kept) vec_store_first(kept + i, e, end - i);
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
    const float *x = row(&a->logits, r);
    float *d = a->gradient.data ? row(&a->gradient, r) : NULL, *loss = (float *)a->loss.data + r;
    int32_t target = ((const int32_t *)a->targets.data)[r];
    int32_t *correct = a->correct.data ? (int32_t *)a->correct.data + r : NULL;
    if (target == LT_IGNORE) {
        *loss = 0;
        if (correct) *correct = 0;
        if (d) memset(d, 0, (size_t)vocab * sizeof *d);
        return;
    }
    float top = largest_of(x, vocab), logit = x[target];
    if (correct) *correct = is_first_largest(x, target, top);
    double sum = sum_exp(x, vocab, top, d);
    *loss = (float)((double)top + log(sum) - (double)logit);
    if (!d) return;
    vec scale = vec_set((float)(1 / sum));
    for (int64_t i = 0; i < vocab; i += LANES)
        vec_store_first(d + i, vec_load_first(d + i, vocab - i) * scale, vocab - i);
    d[target] -= 1;
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
