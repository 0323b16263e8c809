/* Attention, backward: the scores are computed again, tile by tile, from q, k and the saved
 * log-sum-exp. A task is one key/value head of one sequence with all query heads that read it, so
 * that its dk and dv are summed by one thread in one order, and so is every dq.
 *
 * With p = exp(scale s - lse), f the dropout factor, delta = dout . out:
 *   ds = scale p (f dp - delta) where dp = dout v^T
 *   dv += (f p)^T dout,  dk += ds^T q,  dq += ds k */
#include <omp.h>
#include <string.h>

#include "kernels/cpu/attention.h"

/* Of one thread. Arrays over keys have room for whole tiles, those of the prefix first. */
typedef struct backward_buffers {
    float *scores, *dscores; /* [ATTENTION_ROWS][ATTENTION_KEYS]: s, then f p; dp, then ds */
    float *keys_turned, *values_turned, *keys; /* packed, all tiles of this head */
    float *dk, *dv;                            /* [keys][padded] */
    float *dq;                                 /* [ATTENTION_ROWS][padded] */
    float *q_straight, *dout_straight;         /* the block as right sides */
    float *q, *dout;                           /* and as left sides */
    int64_t tiles, prefix_tiles;
} backward_buffers;

static int64_t tiles_of(int64_t keys)
{
    return (keys + ATTENTION_KEYS - 1) / ATTENTION_KEYS;
}

/* Lays the buffers out from `base` (which may be NULL); returns the floats used. */
static int64_t lay_out(const lt_attention_args *a, const attention_shape *s, float *base,
                       backward_buffers *f)
{
    f->prefix_tiles = tiles_of(a->prefix);
    f->tiles = f->prefix_tiles + tiles_of(s->kv_len - a->prefix);
    int64_t turned = f->tiles * ATTENTION_KEYS * s->head_dim, used = 0;
    int64_t all_keys = f->tiles * ATTENTION_KEYS * s->padded, block = ATTENTION_ROWS * s->padded;
    int64_t left = (int64_t)lt_align_up((size_t)attention_rows_floats(s), LANES);
    struct {
        float **to;
        int64_t floats;
    } parts[] = {{&f->scores, ATTENTION_ROWS * ATTENTION_KEYS},
                 {&f->dscores, ATTENTION_ROWS * ATTENTION_KEYS},
                 {&f->keys_turned, turned},
                 {&f->values_turned, turned},
                 {&f->keys, all_keys},
                 {&f->dk, all_keys},
                 {&f->dv, all_keys},
                 {&f->dq, block},
                 {&f->q_straight, block},
                 {&f->dout_straight, block},
                 {&f->q, left},
                 {&f->dout, left}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].to = base ? base + used : NULL;
        used += parts[i].floats;
    }
    return used;
}

/* Where key j of a part stands in the arrays over keys. */
static int64_t slot_of(const lt_attention_args *a, const backward_buffers *f, key_part part,
                       int64_t j)
{
    return part == PREFIX_KEYS ? j : j - a->prefix + f->prefix_tiles * ATTENTION_KEYS;
}

static float dot(const float *x, const float *y, int64_t n)
{
    vec sum = vec_zero();
    for (int64_t d = 0; d < n; d += LANES)
        sum = vec_fma(vec_load_first(x + d, n - d), vec_load_first(y + d, n - d), sum);
    return vec_sum(sum);
}

/* Row by row: s becomes f p and dp becomes ds; both are 0 where the query does not see the key. */
static void differentiate_row(float *s, float *ds, key_range range, float scale, float lse,
                              float delta, const float *factors)
{
    bool none = range.first >= range.last;
    for (int64_t j = 0; j < ATTENTION_KEYS; j += LANES) {
        if (none || j + LANES <= range.first || j >= range.last) {
            vec_store(s + j, vec_zero());
            vec_store(ds + j, vec_zero());
            continue;
        }
        vec p = vec_exp(vec_fma(vec_load(s + j), vec_set(scale), vec_set(-lse)));
        vec dp = vec_load(ds + j), kept = p;
        if (factors) {
            kept = p * vec_load(factors + j);
            dp = dp * vec_load(factors + j);
        }
        dp = p * (dp - vec_set(delta)) * vec_set(scale);
        vec_store(s + j, vec_outside(kept, range, j, 0));
        vec_store(ds + j, vec_outside(dp, range, j, 0));
    }
}

static void backward_tile(const lt_attention_args *a, const attention_shape *s,
                          const backward_buffers *f, key_part part, int64_t b, int64_t h, int64_t i,
                          int64_t rows, int64_t j, const float *delta)
{
    const float *lse = (const float *)a->lse.data + (b * s->heads + h) * s->q_len + i;
    int64_t keys = lt_min_i64(ATTENTION_KEYS, keys_of_part(a, part).last - j);
    int64_t slot = slot_of(a, f, part, j);
    float factors[ATTENTION_KEYS];
    bool dropout = a->dropout.rate > 0;
    multiply_scores(s, f->scores, f->q, rows, f->keys_turned + slot * s->head_dim, keys);
    multiply_scores(s, f->dscores, f->dout, rows, f->values_turned + slot * s->head_dim, keys);
    for (int64_t r = 0; r < rows; r++) {
        if (dropout)
            dropout_factors(&a->dropout, dropout_row(s, b, h, i + r) + (uint64_t)j, ATTENTION_KEYS,
                            factors);
        differentiate_row(f->scores + r * ATTENTION_KEYS, f->dscores + r * ATTENTION_KEYS,
                          keys_in_tile(keys_of(a, part, b, i + r), j), (float)a->scale, lse[r],
                          delta[r], dropout ? factors : NULL);
    }
    multiply_turned(s, f->dv + slot * s->padded, f->scores, f->dout_straight, rows, keys);
    multiply_turned(s, f->dk + slot * s->padded, f->dscores, f->q_straight, rows, keys);
    multiply_values(s, f->dq, f->dscores, rows, f->keys + slot * s->padded, keys);
}

static void backward_block(const lt_attention_backward_args *x, const attention_shape *s,
                           const backward_buffers *f, int64_t b, int64_t h, int64_t i)
{
    const lt_attention_args *a = &x->forward;
    int64_t rows = lt_min_i64(ATTENTION_ROWS, s->q_len - i);
    const float *q = head_row(&a->q, b, i, h), *dout = head_row(&x->dout, b, i, h);
    float delta[ATTENTION_ROWS];
    pack_rows(s, f->q, q, a->q.stride[1], rows);
    pack_rows(s, f->dout, dout, x->dout.stride[1], rows);
    pack_straight(s, f->q_straight, q, a->q.stride[1], rows);
    pack_straight(s, f->dout_straight, dout, x->dout.stride[1], rows);
    for (int64_t r = 0; r < rows; r++)
        delta[r] =
            dot(head_row(&x->dout, b, i + r, h), head_row(&a->out, b, i + r, h), s->head_dim);
    memset(f->dq, 0, (size_t)(ATTENTION_ROWS * s->padded) * sizeof(float));
    for (key_part part = first_part(a); part < KEY_PARTS; part++) {
        key_range all = keys_of_block(a, part, b, i, rows);
        int64_t start = keys_of_part(a, part).first; /* of the first tile */
        int64_t j = start + (all.first - start) / ATTENTION_KEYS * ATTENTION_KEYS;
        for (; j < all.last; j += ATTENTION_KEYS)
            backward_tile(a, s, f, part, b, h, i, rows, j, delta);
    }
    for (int64_t r = 0; r < rows; r++)
        store_scaled(head_row(&x->dq, b, i + r, h), f->dq + r * s->padded, s->head_dim, 1);
}

static void pack_part(const lt_attention_args *a, const attention_shape *s,
                      const backward_buffers *f, key_part part, int64_t b, int64_t g)
{
    key_range all = keys_of_part(a, part);
    for (int64_t j = all.first; j < all.last; j += ATTENTION_KEYS) {
        int64_t keys = lt_min_i64(ATTENTION_KEYS, all.last - j), slot = slot_of(a, f, part, j);
        const float *k = head_row(&a->k, b, j, g), *v = head_row(&a->v, b, j, g);
        pack_keys_turned(s, f->keys_turned + slot * s->head_dim, k, a->k.stride[1], keys);
        pack_keys_turned(s, f->values_turned + slot * s->head_dim, v, a->v.stride[1], keys);
        pack_straight(s, f->keys + slot * s->padded, k, a->k.stride[1], keys);
    }
}

static void store_part(const lt_attention_backward_args *x, const attention_shape *s,
                       const backward_buffers *f, key_part part, int64_t b, int64_t g)
{
    key_range all = keys_of_part(&x->forward, part);
    for (int64_t j = all.first; j < all.last; j++) {
        int64_t slot = slot_of(&x->forward, f, part, j);
        store_scaled(head_row(&x->dk, b, j, g), f->dk + slot * s->padded, s->head_dim, 1);
        store_scaled(head_row(&x->dv, b, j, g), f->dv + slot * s->padded, s->head_dim, 1);
    }
}

static void backward_head(const lt_attention_backward_args *x, const attention_shape *s,
                          const backward_buffers *f, int64_t b, int64_t g)
{
    int64_t group = s->heads / s->kv_heads;
    size_t bytes = (size_t)(f->tiles * ATTENTION_KEYS * s->padded) * sizeof(float);
    for (key_part part = PREFIX_KEYS; part < KEY_PARTS; part++)
        pack_part(&x->forward, s, f, part, b, g);
    memset(f->dk, 0, bytes);
    memset(f->dv, 0, bytes);
    for (int64_t h = g * group; h < (g + 1) * group; h++)
        for (int64_t i = 0; i < s->q_len; i += ATTENTION_ROWS)
            backward_block(x, s, f, b, h, i);
    for (key_part part = PREFIX_KEYS; part < KEY_PARTS; part++)
        store_part(x, s, f, part, b, g);
}

lt_status CPU(attention_backward)(const lt_backend *backend, const lt_attention_backward_args *a,
                                  lt_err *err)
{
    attention_shape s = attention_shape_of(&a->forward);
    backward_buffers plan;
    int64_t floats = lay_out(&a->forward, &s, NULL, &plan);
    float *base;
    LT_TRY(lt_scratch_get(backend, LT_SCRATCH_THREADS,
                          (size_t)(floats * backend->threads) * sizeof(float), (void **)&base,
                          err));
#pragma omp parallel for schedule(dynamic) num_threads(backend->threads)
    for (int64_t t = 0; t < s.batch * s.kv_heads; t++) {
        backward_buffers f;
        lay_out(&a->forward, &s, base + omp_get_thread_num() * floats, &f);
        backward_head(a, &s, &f, t / s.kv_heads, t % s.kv_heads);
    }
    return LT_OK;
}
