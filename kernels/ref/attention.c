/* Attention, one query at a time and three passes over its keys: the largest score, the sum of
 * exponentials, the weighted sum of values. Nothing is stored but the output row. */
#include <string.h>

#include "base/checked.h"
#include "kernels/ref/ref.h"

/* One query: sequence b, row i, head h with key/value head g. It sees the keys
 * [first[0], last[0]) of the prefix and [first[1], last[1]) of its document. */
typedef struct query {
    int64_t b, i, h, g, first[2], last[2];
} query;

static real *vector(const lt_tensor *t, int64_t b, int64_t i, int64_t h)
{
    return (real *)t->data + b * t->stride[0] + i * t->stride[1] + h * t->stride[2];
}

static query query_at(const lt_attention_args *a, int64_t b, int64_t i, int64_t h)
{
    query q = {.b = b, .i = i, .h = h, .g = h / (a->q.shape[2] / a->k.shape[2])};
    int64_t position = i + (a->offset.data ? integers(&a->offset)[b] : 0);
    int64_t first = a->first_key.data ? integers(&a->first_key)[b * a->q.shape[1] + i] : 0;
    q.first[1] = lt_max_i64(first, a->prefix);
    q.last[1] = lt_min_i64(position + 1, a->k.shape[1]);
    /* where the query would be if its document followed the prefix directly */
    int64_t nearer = position - (q.first[1] - a->prefix);
    q.last[0] = lt_min_i64(nearer + 1, a->prefix);
    if (a->window > 0) {
        q.first[0] = lt_max_i64(nearer - a->window + 1, 0);
        q.first[1] = lt_max_i64(position - a->window + 1, q.first[1]);
    }
    return q;
}

/* Every key that a query sees, in order: for (j = next_key(q, -1); j >= 0; j = next_key(q, j)). */
static int64_t next_key(const query *q, int64_t j)
{
    for (int part = 0; part < 2; part++)
        if (lt_max_i64(j + 1, q->first[part]) < q->last[part])
            return lt_max_i64(j + 1, q->first[part]);
    return -1;
}

static double dot(const real *x, const real *y, int64_t n)
{
    double sum = 0;
    for (int64_t d = 0; d < n; d++)
        sum += (double)x[d] * (double)y[d];
    return sum;
}

static double score(const lt_attention_args *a, const query *q, int64_t j)
{
    return a->scale *
           dot(vector(&a->q, q->b, q->i, q->h), vector(&a->k, q->b, j, q->g), a->q.shape[3]);
}

static double attention_dropout(const lt_attention_args *a, const query *q, int64_t j)
{
    int64_t row_index = (q->b * a->q.shape[2] + q->h) * a->q.shape[1] + q->i;
    return dropout_factor(&a->dropout, (uint64_t)(row_index * a->k.shape[1] + j));
}

static real *lse_of(const lt_attention_args *a, const query *q)
{
    return values(&a->lse) + (q->b * a->q.shape[2] + q->h) * a->q.shape[1] + q->i;
}

static void forward_query(const lt_attention_args *a, const query *q)
{
    int64_t head_dim = a->q.shape[3];
    real *out = vector(&a->out, q->b, q->i, q->h);
    double maximum = -INFINITY, sum = 0;
    for (int64_t j = next_key(q, -1); j >= 0; j = next_key(q, j))
        maximum = fmax(maximum, score(a, q, j));
    for (int64_t j = next_key(q, -1); j >= 0; j = next_key(q, j))
        sum += exp(score(a, q, j) - maximum);
    double lse = maximum + log(sum); /* -inf when no key is seen */
    if (a->lse.data) *lse_of(a, q) = (real)(next_key(q, -1) >= 0 ? lse : -INFINITY);
    memset(out, 0, (size_t)head_dim * sizeof *out);
    for (int64_t j = next_key(q, -1); j >= 0; j = next_key(q, j)) {
        double p = attention_dropout(a, q, j) * exp(score(a, q, j) - lse);
        const real *v = vector(&a->v, q->b, j, q->g);
        for (int64_t d = 0; d < head_dim; d++)
            out[d] += (real)(p * v[d]);
    }
}

/* With p = exp(s - lse), f the dropout factor and delta = sum_j p_j dp_j = dout . out:
 *   dp_j = f_j dout . v_j,  ds_j = p_j (dp_j - delta)
 *   dv_j += f_j p_j dout,  dq += scale ds_j k_j,  dk_j += scale ds_j q */
static void backward_query(const lt_attention_backward_args *a, const query *q)
{
    const lt_attention_args *f = &a->forward;
    int64_t head_dim = f->q.shape[3];
    const real *dout = vector(&a->dout, q->b, q->i, q->h), *q_row = vector(&f->q, q->b, q->i, q->h);
    real *dq = vector(&a->dq, q->b, q->i, q->h);
    double delta = dot(dout, vector(&f->out, q->b, q->i, q->h), head_dim), lse = *lse_of(f, q);
    for (int64_t j = next_key(q, -1); j >= 0; j = next_key(q, j)) {
        const real *k = vector(&f->k, q->b, j, q->g), *v = vector(&f->v, q->b, j, q->g);
        real *dk = vector(&a->dk, q->b, j, q->g), *dv = vector(&a->dv, q->b, j, q->g);
        double p = exp(score(f, q, j) - lse), factor = attention_dropout(f, q, j);
        double ds = p * (factor * dot(dout, v, head_dim) - delta) * f->scale;
        for (int64_t d = 0; d < head_dim; d++) {
            dv[d] += (real)(factor * p * dout[d]);
            dq[d] += (real)(ds * k[d]);
            dk[d] += (real)(ds * q_row[d]);
        }
    }
}

static void clear(const lt_tensor *t)
{
    size_t bytes = (size_t)lt_row_length(t) * sizeof(real);
    for (int64_t r = 0; bytes && r < lt_row_count(t); r++)
        memset(row(t, r), 0, bytes);
}

REFERENCE(attention_forward, lt_attention_args)
{
    for (int64_t b = 0; b < a->q.shape[0]; b++)
        for (int64_t h = 0; h < a->q.shape[2]; h++)
            for (int64_t i = 0; i < a->q.shape[1]; i++) {
                query q = query_at(a, b, i, h);
                forward_query(a, &q);
            }
    return LT_OK;
}

REFERENCE(attention_backward, lt_attention_backward_args)
{
    const lt_attention_args *f = &a->forward;
    clear(&a->dq);
    clear(&a->dk);
    clear(&a->dv);
    for (int64_t b = 0; b < f->q.shape[0]; b++)
        for (int64_t h = 0; h < f->q.shape[2]; h++)
            for (int64_t i = 0; i < f->q.shape[1]; i++) {
                query q = query_at(f, b, i, h);
                backward_query(a, &q);
            }
    return LT_OK;
}
