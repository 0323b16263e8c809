/* Attention, forward: online softmax over tiles of keys (Milakov and Gimelshein, 2018; Dao, 2023).
 * A task is one block of queries of one head. The running maximum m and sum l of a row, and its
 * unfinished output, are rescaled when a tile brings a larger score. */
#include <omp.h>
#include <string.h>

#include "kernels/cpu/attention.h"

#define FEW_QUERIES 4 /* below: dot products along head_dim, nothing is packed */
#define AHEAD       8 /* keys to fetch ahead: one head's keys lie too far apart for the hardware */

typedef struct forward_buffers {
    float *queries, *keys, *values, *scores, *out;
} forward_buffers;

static int64_t buffer_floats(const attention_shape *s)
{
    return attention_rows_floats(s) + ATTENTION_KEYS * (s->head_dim + s->padded) +
           ATTENTION_ROWS * (ATTENTION_KEYS + s->padded) + 4 * LANES;
}

/* One part per thread, each piece on whole vectors (its size is a multiple of LANES or is last). */
static forward_buffers buffers_at(const attention_shape *s, float *base)
{
    forward_buffers f;
    f.scores = base;
    f.out = f.scores + ATTENTION_ROWS * ATTENTION_KEYS;
    f.values = f.out + ATTENTION_ROWS * s->padded;
    f.keys = f.values + ATTENTION_KEYS * s->padded;
    f.queries = f.keys + ATTENTION_KEYS * s->head_dim;
    return f;
}

/* Turns the scores of one row and tile into exp(scale s - m), 0 outside `range`, times the dropout
 * factors if any. Updates m and l; returns what earlier sums must be multiplied by. */
static float soften_row(float *row, key_range range, float scale, float *m, float *l,
                        const float *factors)
{
    int64_t begin = range.first / LANES * LANES;
    int64_t end = range.first < range.last ? range.last : begin;
    vec largest = vec_set(-INFINITY), sum = vec_zero();
    for (int64_t j = begin; j < end; j += LANES) {
        vec x = vec_outside(vec_load(row + j) * vec_set(scale), range, j, -INFINITY);
        vec_store(row + j, x);
        largest = vec_max(largest, x);
    }
    float top = fmaxf(*m, vec_largest(largest)), correction = 1;
    if (top == -INFINITY) end = begin; /* nothing seen so far */
    int64_t j = begin;
    memset(row, 0, (size_t)begin * sizeof *row);
    for (; j < end; j += LANES) {
        vec p = vec_exp(vec_load(row + j) - vec_set(top));
        sum += p;
        if (factors) p *= vec_load(factors + j);
        vec_store(row + j, p);
    }
    if (j < ATTENTION_KEYS) memset(row + j, 0, (size_t)(ATTENTION_KEYS - j) * sizeof *row);
    if (top != *m) correction = expf(*m - top);
    *m = top;
    *l = *l * correction + vec_sum(sum);
    return correction;
}

static void scale_row(float *x, int64_t n, float factor)
{
    for (int64_t d = 0; factor != 1 && d < n; d += LANES)
        vec_store(x + d, vec_load(x + d) * vec_set(factor));
}

/* Row i of head h, tile at key j. */
static void soften(const lt_attention_args *a, const attention_shape *s, const forward_buffers *f,
                   key_part part, int64_t b, int64_t h, int64_t i, int64_t r, int64_t j, float *m,
                   float *l)
{
    float factors[ATTENTION_KEYS];
    bool dropout = a->dropout.rate > 0;
    if (dropout)
        dropout_factors(&a->dropout, dropout_row(s, b, h, i) + (uint64_t)j, ATTENTION_KEYS,
                        factors);
    float correction =
        soften_row(f->scores + r * ATTENTION_KEYS, keys_in_tile(keys_of(a, part, b, i), j),
                   (float)a->scale, &m[r], &l[r], dropout ? factors : NULL);
    scale_row(f->out + r * s->padded, s->padded, correction);
}

static void fetch_row(const float *x, int64_t n)
{
    for (int64_t d = 0; d < n; d += 16)
        __builtin_prefetch(x + d);
}

/* Dot products of a few rows with the keys of a tile, and the sum of values: keys and values are
 * read where they lie. */
static void few_scores(const lt_attention_args *a, const attention_shape *s, float *scores,
                       int64_t b, int64_t h, int64_t i, int64_t j, int64_t keys)
{
    int64_t g = h / (s->heads / s->kv_heads), n = s->head_dim;
    const float *q = head_row(&a->q, b, i, h);
    const float *k = head_row(&a->k, b, j, g);
    for (int64_t key = 0; key < keys; key++, k += a->k.stride[1]) {
        vec sum = vec_zero();
        if (key + AHEAD < keys) fetch_row(k + AHEAD * a->k.stride[1], n);
        for (int64_t d = 0; d < n; d += LANES)
            sum = vec_fma(vec_load_first(q + d, n - d), vec_load_first(k + d, n - d), sum);
        scores[key] = vec_sum(sum);
    }
}

static void few_values(const lt_attention_args *a, const attention_shape *s, float *out,
                       const float *p, int64_t b, int64_t h, int64_t j, int64_t keys)
{
    int64_t g = h / (s->heads / s->kv_heads);
    for (int64_t d = 0; d < s->head_dim; d += 4 * LANES) {
        vec sum[4];
        for (int v = 0; v < 4; v++)
            sum[v] = vec_load_first(out + d + v * LANES, s->padded - d - v * LANES);
        const float *x = head_row(&a->v, b, j, g) + d;
        for (int64_t key = 0; key < keys; key++, x += a->v.stride[1]) {
            if (key + AHEAD < keys)
                fetch_row(x + AHEAD * a->v.stride[1], lt_min_i64(4 * LANES, s->head_dim - d));
            for (int v = 0; v < 4; v++)
                sum[v] =
                    vec_fma(vec_set(p[key]),
                            vec_load_first(x + v * LANES, s->head_dim - d - v * LANES), sum[v]);
        }
        for (int v = 0; v < 4; v++)
            vec_store_first(out + d + v * LANES, sum[v], s->padded - d - v * LANES);
    }
}

/* One tile of keys for all rows of the block. Keys that no row sees are not read: a cache may hold
 * anything there. */
static void forward_tile(const lt_attention_args *a, const attention_shape *s,
                         const forward_buffers *f, key_part part, int64_t b, int64_t h, int64_t i,
                         int64_t rows, int64_t j, int64_t keys, float *m, float *l)
{
    int64_t g = h / (s->heads / s->kv_heads);
    bool few = s->q_len < FEW_QUERIES;
    if (few) {
        for (int64_t r = 0; r < rows; r++)
            few_scores(a, s, f->scores + r * ATTENTION_KEYS, b, h, i + r, j, keys);
    } else {
        pack_keys_turned(s, f->keys, head_row(&a->k, b, j, g), a->k.stride[1], keys);
        pack_straight(s, f->values, head_row(&a->v, b, j, g), a->v.stride[1], keys);
        multiply_scores(s, f->scores, f->queries, rows, f->keys, keys);
    }
    for (int64_t r = 0; r < rows; r++)
        soften(a, s, f, part, b, h, i + r, r, j, m, l);
    if (!few) multiply_values(s, f->out, f->scores, rows, f->values, keys);
    for (int64_t r = 0; few && r < rows; r++)
        few_values(a, s, f->out + r * s->padded, f->scores + r * ATTENTION_KEYS, b, h, j, keys);
}

static void forward_block(const lt_attention_args *a, const attention_shape *s,
                          const forward_buffers *f, int64_t b, int64_t h, int64_t i)
{
    int64_t rows = lt_min_i64(ATTENTION_ROWS, s->q_len - i);
    float m[ATTENTION_ROWS], l[ATTENTION_ROWS];
    for (int64_t r = 0; r < ATTENTION_ROWS; r++) {
        m[r] = -INFINITY;
        l[r] = 0;
    }
    memset(f->out, 0, lt_align_up((size_t)rows, PANEL_ROWS) * (size_t)s->padded * sizeof(float));
    if (s->q_len >= FEW_QUERIES)
        pack_rows(s, f->queries, head_row(&a->q, b, i, h), a->q.stride[1], rows);
    for (key_part part = first_part(a); part < KEY_PARTS; part++) {
        key_range all = keys_of_block(a, part, b, i, rows);
        for (int64_t j = all.first; j < all.last; j += ATTENTION_KEYS)
            forward_tile(a, s, f, part, b, h, i, rows, j, lt_min_i64(ATTENTION_KEYS, all.last - j),
                         m, l);
    }
    for (int64_t r = 0; r < rows; r++) {
        store_scaled(head_row(&a->out, b, i + r, h), f->out + r * s->padded, s->head_dim,
                     l[r] == 0 ? 0 : 1 / l[r]);
        if (a->lse.data)
            ((float *)a->lse.data)[(b * s->heads + h) * s->q_len + i + r] = m[r] + logf(l[r]);
    }
}

lt_status CPU(attention_forward)(const lt_backend *backend, const lt_attention_args *a, lt_err *err)
{
    attention_shape s = attention_shape_of(a);
    int64_t blocks = (s.q_len + ATTENTION_ROWS - 1) / ATTENTION_ROWS;
    int64_t tasks = s.batch * s.heads * blocks;
    int64_t floats = (int64_t)lt_align_up((size_t)buffer_floats(&s), LANES);
    float *base;
    LT_TRY(lt_scratch_get(backend, LT_SCRATCH_THREADS,
                          (size_t)(floats * backend->threads) * sizeof(float), (void **)&base,
                          err));
    /* Later blocks see more keys; dynamic scheduling evens that out. */
#pragma omp parallel for schedule(dynamic) num_threads(backend->threads)
    for (int64_t t = 0; t < tasks; t++) {
        forward_buffers f = buffers_at(&s, base + omp_get_thread_num() * floats);
        int64_t head = t / blocks, block = t % blocks;
        forward_block(a, &s, &f, head / s.heads, head % s.heads, block * ATTENTION_ROWS);
    }
    return LT_OK;
}
