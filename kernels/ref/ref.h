/* The reference operations: what each operation means, in plain C.
 *
 * Every file here is compiled twice, with `real` = float and `real` = double (LT_REAL_DOUBLE).
 * Tensors hold `real`; the arithmetic is double, sums run in index order, there are no threads and
 * no scratch memory. Arguments have been checked by the caller. */
#ifndef LT_KERNELS_REF_H
#define LT_KERNELS_REF_H

#include <string.h>

#include "kernels/internal.h"

#ifdef LT_REAL_DOUBLE
typedef double real;
#define REF(name) lt_ref_f64_##name
#else
typedef float real;
#define REF(name) lt_ref_f32_##name
#endif

#define LT_DECLARE(name, args) \
    lt_status REF(name)(const lt_backend *backend, const args *a, lt_err *err);
LT_OPERATIONS(LT_DECLARE)
#undef LT_DECLARE

/* The head of an operation: REFERENCE(add, lt_add_args) { ... return LT_OK; } */
#define REFERENCE(name, args)                                                             \
    lt_status REF(name)(const lt_backend *backend __attribute__((unused)), const args *a, \
                        lt_err *err __attribute__((unused)))

/* Row r, and the values of a whole one-dimensional tensor (NULL when absent). */
static inline real *row(const lt_tensor *t, int64_t r)
{
    return (real *)t->data + lt_row_offset(t, r);
}

static inline real *values(const lt_tensor *t)
{
    return t->data;
}

/* Element i of weights, which may be bf16 where `real` is expected: the upper half of an f32. */
static inline double weight_at(const lt_tensor *t, int64_t i)
{
    if (t->dtype != LT_BF16) return values(t)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)t->data)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline const int32_t *integers(const lt_tensor *t)
{
    return t->data;
}

/* What dropout multiplies element `index` by: 0, or 1 / (1 - rate). */
static inline double dropout_factor(const lt_dropout_mask *mask, uint64_t index)
{
    uint32_t words[4];
    if (mask->rate == 0) return 1;
    lt_philox(mask->seed, mask->stream, index / 4, words);
    return words[index % 4] >= lt_dropout_threshold(mask) ? 1 / (1 - mask->rate) : 0;
}

double REF(activate)(lt_activation activation, double x);
double REF(activate_derivative)(lt_activation activation, double x);

#endif
