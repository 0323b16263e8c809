#include <string.h>

#include "kernels/ref/ref.h"

REFERENCE(dropout, lt_dropout_args)
{
    const real *x = values(&a->x);
    real *y = values(&a->y);
    for (int64_t i = 0; i < lt_tensor_count(a->x); i++) {
        double factor = dropout_factor(&a->dropout, (uint64_t)i);
        y[i] = factor ? (real)(x[i] * factor) : 0; /* a dropped infinity is 0, not NaN */
    }
    return LT_OK;
}

REFERENCE(add, lt_add_args)
{
    for (int64_t r = 0; r < lt_row_count(&a->y); r++) {
        const real *left = row(&a->a, r), *right = row(&a->b, r);
        real *y = row(&a->y, r);
        for (int64_t i = 0; i < lt_row_length(&a->y); i++)
            y[i] = left[i] + right[i];
    }
    return LT_OK;
}

REFERENCE(scale, lt_scale_args)
{
    for (int64_t r = 0; r < lt_row_count(&a->y); r++) {
        const real *x = row(&a->x, r);
        real *y = row(&a->y, r);
        for (int64_t i = 0; i < lt_row_length(&a->y); i++)
            y[i] = (real)(a->factor * x[i]);
    }
    return LT_OK;
}

/* y[i,j] = (scale[j] + shift) x[i,j] + bias[j] + residual[i,j], or += that */
REFERENCE(scale_columns, lt_scale_columns_args)
{
    for (int64_t i = 0; i < a->y.shape[0]; i++) {
        const real *x = row(&a->x, i);
        real *y = row(&a->y, i);
        for (int64_t j = 0; j < a->y.shape[1]; j++) {
            double v = (values(&a->scale)[j] + a->shift) * x[j];
            if (a->bias.data) v += values(&a->bias)[j];
            if (a->residual.data) v += row(&a->residual, i)[j];
            if (a->accumulate) v += y[j];
            y[j] = (real)v;
        }
    }
    return LT_OK;
}

REFERENCE(zero, lt_zero_args)
{
    size_t bytes = (size_t)lt_tensor_count(a->y) * lt_dtype_size(a->y.dtype);
    if (bytes) memset(a->y.data, 0, bytes);
    return LT_OK;
}
