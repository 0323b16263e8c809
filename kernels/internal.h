/* What the files of kernels/ share: filling the table, argument checks, walking over rows, the
 * dropout mask, scratch memory. Nothing outside kernels/ includes this. */
#ifndef LT_KERNELS_INTERNAL_H
#define LT_KERNELS_INTERNAL_H

#include <math.h>

#include "base/rng.h"
#include "kernels/kernels.h"

/* --- Filling the table ---------------------------------------------------------------------- */

void lt_ref_f32_fill(lt_ops *ops); /* every slot */
void lt_ref_f64_fill(lt_ops *ops); /* every slot, real = double */
void lt_avx2_fill(lt_ops *ops);    /* the slots where it wins */
void lt_avx512_fill(lt_ops *ops);

/* --- Argument checks (check.c): LT_ERR_USAGE naming operation and tensor ------------------------
 */

#define LT_CHECK(name, args) \
    lt_status lt_check_##name(const lt_backend *backend, const args *a, lt_err *err);
LT_OPERATIONS(LT_CHECK)
#undef LT_CHECK

/* --- Rows ------------------------------------------------------------------------------------ */

/* A tensor of any rank seen as rows: its last dimension is a row, the others count them in order.
 */
static inline int64_t lt_row_length(const lt_tensor *t)
{
    return t->ndim ? t->shape[t->ndim - 1] : 0;
}

static inline int64_t lt_row_count(const lt_tensor *t)
{
    int64_t rows = 1;
    for (int d = 0; d < t->ndim - 1; d++)
        rows *= t->shape[d];
    return rows;
}

static inline int64_t lt_row_offset(const lt_tensor *t, int64_t row)
{
    if (t->ndim == 2) return row * t->stride[0];
    int64_t offset = 0;
    for (int d = t->ndim - 2; d >= 0; d--) {
        offset += row % t->shape[d] * t->stride[d];
        row /= t->shape[d];
    }
    return offset;
}

/* --- Dropout --------------------------------------------------------------------------------- */

/* An element is kept when its 32-bit word is at least this. In 64 bits: a rate just below 1 gives
 * 2^32, which keeps none. */
static inline uint64_t lt_dropout_threshold(const lt_dropout_mask *mask)
{
    return (uint64_t)ceil(mask->rate * 0x1p32);
}

/* --- Scratch memory of a CPU backend -----------------------------------------------------------
 */

typedef enum lt_scratch {
    LT_SCRATCH_SHARED,  /* shared by all threads */
    LT_SCRATCH_THREADS, /* one equal part per thread */
    LT_SCRATCH_COUNT,
} lt_scratch;

/* At least `bytes`, 64-byte aligned, contents undefined; valid until the next call with this slot.
 * Grows when it must and never shrinks, so that a steady state allocates nothing. */
lt_status lt_scratch_get(const lt_backend *backend, lt_scratch slot, size_t bytes, void **out,
                         lt_err *err);

#endif
