/* What the two passes of attention share. Queries go in blocks of ATTENTION_ROWS, keys in tiles of
 * ATTENTION_KEYS; the scores of a block and a tile are all that ever exists of the score matrix. */
#ifndef LT_KERNELS_CPU_ATTENTION_H
#define LT_KERNELS_CPU_ATTENTION_H

#include "base/checked.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/dropout.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vec_math.h"

#define ATTENTION_ROWS 64
#define ATTENTION_KEYS 64
#define PANEL_ROWS     (LANES / 2) /* rows of a product tile: divides both of the above */

/* Sizes of one call. */
typedef struct attention_shape {
    int64_t batch, q_len, kv_len, heads, kv_heads, head_dim;
    int64_t padded;   /* head_dim in whole tiles */
    int64_t row_slot; /* floats of a packed panel of PANEL_ROWS rows, with its spill */
} attention_shape;

/* Keys [first, last) are seen by a query. */
typedef struct key_range {
    int64_t first, last;
} key_range;

static inline attention_shape attention_shape_of(const lt_attention_args *a)
{
    attention_shape s = {a->q.shape[0],
                         a->q.shape[1],
                         a->k.shape[1],
                         a->q.shape[2],
                         a->k.shape[2],
                         a->q.shape[3],
                         0,
                         0};
    s.padded = (int64_t)lt_align_up((size_t)s.head_dim, TILE_COLUMNS);
    s.row_slot = PANEL_ROWS * s.head_dim + LANES;
    return s;
}

/* Floats of a packed block of rows. */
static inline int64_t attention_rows_floats(const attention_shape *s)
{
    return ATTENTION_ROWS / PANEL_ROWS * s->row_slot;
}

static inline float *head_row(const lt_tensor *t, int64_t b, int64_t i, int64_t h)
{
    return (float *)t->data + b * t->stride[0] + i * t->stride[1] + h * t->stride[2];
}

/* The keys in two parts: the prefix, and all others. What a query sees is a range of each, and no
 * tile holds keys of both. */
typedef enum key_part { PREFIX_KEYS, OWN_KEYS, KEY_PARTS } key_part;

static inline key_part first_part(const lt_attention_args *a)
{
    return a->prefix > 0 ? PREFIX_KEYS : OWN_KEYS;
}

static inline key_range keys_of_part(const lt_attention_args *a, key_part part)
{
    key_range range = {0, a->prefix};
    if (part == OWN_KEYS) range = (key_range){a->prefix, a->k.shape[1]};
    return range;
}

static inline key_range keys_of(const lt_attention_args *a, key_part part, int64_t b, int64_t i)
{
    key_range range = keys_of_part(a, part);
    int64_t position = i + (a->offset.data ? ((const int32_t *)a->offset.data)[b] : 0);
    int64_t first_key = 0;
    if (a->first_key.data) first_key = ((const int32_t *)a->first_key.data)[b * a->q.shape[1] + i];
    int64_t apart = lt_max_i64(first_key - a->prefix, 0); /* keys between prefix and document */
    if (part == OWN_KEYS)
        range.first += apart;
    else
        position -= apart; /* as if the document followed directly */
    if (a->window > 0) range.first = lt_max_i64(range.first, position - a->window + 1);
    range.last = lt_max_i64(lt_min_i64(range.last, position + 1), range.first); /* maybe empty */
    return range;
}

/* The keys that any of `rows` queries sees. */
static inline key_range keys_of_block(const lt_attention_args *a, key_part part, int64_t b,
                                      int64_t i, int64_t rows)
{
    key_range all = {INT64_MAX, 0};
    for (int64_t r = 0; r < rows; r++) {
        key_range range = keys_of(a, part, b, i + r);
        if (range.first == range.last) continue;
        all.first = lt_min_i64(all.first, range.first);
        all.last = lt_max_i64(all.last, range.last);
    }
    if (all.last == 0) all.first = 0;
    return all;
}

/* A range as positions inside the tile that starts at key j. */
static inline key_range keys_in_tile(key_range range, int64_t j)
{
    key_range inside = {lt_min_i64(lt_max_i64(range.first - j, 0), ATTENTION_KEYS),
                        lt_min_i64(lt_max_i64(range.last - j, 0), ATTENTION_KEYS)};
    return inside;
}

/* Number of the first dropout element of a query's row. */
static inline uint64_t dropout_row(const attention_shape *s, int64_t b, int64_t h, int64_t i)
{
    return (uint64_t)(((b * s->heads + h) * s->q_len + i) * s->kv_len);
}

/* Lanes of the vector at `position` of a tile that lie outside `range` become `value`. */
INLINE vec vec_outside(vec v, key_range range, int64_t position, float value)
{
    v = vec_select(vec_first(range.last - position), v, vec_set(value));
    return vec_select(vec_first(range.first - position), vec_set(value), v);
}

/* Rows i .. i + rows of one head as panels for the left side of a product; missing rows are 0. */
static inline void pack_rows(const attention_shape *s, float *dst, const float *src, int64_t stride,
                             int64_t rows)
{
    operand x = {src, stride, 1, false};
    for (int64_t r = 0; r < rows; r += PANEL_ROWS)
        pack_panel(dst + r / PANEL_ROWS * s->row_slot, PANEL_ROWS, &x, r,
                   lt_min_i64(PANEL_ROWS, rows - r), 0, s->head_dim);
}

/* `keys` rows of one head, turned, as panels [head_dim][TILE_COLUMNS keys] for the right side: for
 * products over head_dim. Missing keys are 0. */
static inline void pack_keys_turned(const attention_shape *s, float *dst, const float *src,
                                    int64_t stride, int64_t keys)
{
    operand x = {src, stride, 1, false};
    for (int64_t j = 0; j < keys; j += TILE_COLUMNS, dst += s->head_dim * TILE_COLUMNS)
        pack_panel(dst, TILE_COLUMNS, &x, j, lt_min_i64(TILE_COLUMNS, keys - j), 0, s->head_dim);
}

/* `rows` rows of one head as panels [rows][TILE_COLUMNS of head_dim] for the right side: for
 * products over the rows. A panel takes 64 rows of room. */
static inline void pack_straight(const attention_shape *s, float *dst, const float *src,
                                 int64_t stride, int64_t rows)
{
    operand x = {src, 1, stride, false};
    for (int64_t d = 0; d < s->padded; d += TILE_COLUMNS, dst += ATTENTION_KEYS * TILE_COLUMNS)
        pack_panel(dst, TILE_COLUMNS, &x, d, lt_min_i64(TILE_COLUMNS, s->head_dim - d), 0, rows);
}

/* scores[r][j] = row r . key j, for all rows of a block and the keys of a tile, in whole panels.
 */
static inline void multiply_scores(const attention_shape *s, float *scores, const float *rows,
                                   int64_t row_count, const float *keys, int64_t key_count)
{
    for (int64_t r = 0; r < row_count; r += PANEL_ROWS)
        for (int64_t j = 0; j < key_count; j += TILE_COLUMNS)
            tile_product(PANEL_ROWS, 2, s->head_dim, rows + r / PANEL_ROWS * s->row_slot, 1,
                         PANEL_ROWS, keys + j * s->head_dim, TILE_COLUMNS,
                         scores + r * ATTENTION_KEYS + j, ATTENTION_KEYS, false);
}

/* out[r][:] += sum over keys of p[r][key] x[key][:], out in rows of `padded`. */
static inline void multiply_values(const attention_shape *s, float *out, const float *p,
                                   int64_t row_count, const float *x, int64_t keys)
{
    for (int64_t d = 0; d < s->padded; d += TILE_COLUMNS)
        for (int64_t r = 0; r < row_count; r += PANEL_ROWS)
            tile_product(PANEL_ROWS, 2, keys, p + r * ATTENTION_KEYS, ATTENTION_KEYS, 1,
                         x + d * ATTENTION_KEYS, TILE_COLUMNS, out + r * s->padded + d, s->padded,
                         true);
}

/* out[key][:] += sum over rows of p[r][key] x[r][:], for the keys of a tile, in whole panels. */
static inline void multiply_turned(const attention_shape *s, float *out, const float *p,
                                   const float *x, int64_t rows, int64_t keys)
{
    for (int64_t d = 0; d < s->padded; d += TILE_COLUMNS)
        for (int64_t j = 0; j < keys; j += PANEL_ROWS)
            tile_product(PANEL_ROWS, 2, rows, p + j, 1, ATTENTION_KEYS, x + d * ATTENTION_KEYS,
                         TILE_COLUMNS, out + j * s->padded + d, s->padded, true);
}

/* dst = x scale, one row of head_dim. */
static inline void store_scaled(float *dst, const float *x, int64_t n, float scale)
{
    for (int64_t d = 0; d < n; d += LANES)
        vec_store_first(dst + d, vec_load(x + d) * vec_set(scale), n - d);
}

#endif
