#include "kernels/ref/ref.h"

/* z = x + residual, stored to `sum`; returns the row that is to be normalised. */
static const real *add_residual(const lt_norm_args *a, int64_t r, int64_t dim)
{
    if (!a->residual.data) return row(&a->x, r);
    const real *x = row(&a->x, r), *residual = row(&a->residual, r);
    real *z = row(&a->sum, r);
    for (int64_t i = 0; i < dim; i++)
        z[i] = x[i] + residual[i];
    return z;
}

/* y = (z - mean) rstd weight + bias,  rstd = 1 / sqrt(mean((z - mean)^2) + eps) */
REFERENCE(layer_norm_forward, lt_norm_args)
{
    int64_t dim = lt_row_length(&a->x);
    const real *weight = values(&a->weight), *bias = values(&a->bias);
    for (int64_t r = 0; r < lt_row_count(&a->x); r++) {
        const real *z = add_residual(a, r, dim);
        real *y = row(&a->y, r);
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < dim; i++)
            mean += z[i];
        mean /= (double)dim;
        for (int64_t i = 0; i < dim; i++)
            variance += (z[i] - mean) * (z[i] - mean);
        double rstd = 1 / sqrt(variance / (double)dim + a->eps);
        for (int64_t i = 0; i < dim; i++)
            y[i] = (real)((z[i] - mean) * rstd * weight[i] + (bias ? bias[i] : 0));
        if (a->mean.data) values(&a->mean)[r] = (real)mean;
        if (a->rstd.data) values(&a->rstd)[r] = (real)rstd;
    }
    return LT_OK;
}

/* y = z rstd weight,  rstd = 1 / sqrt(mean(z^2) + eps) */
REFERENCE(rms_norm_forward, lt_norm_args)
{
    int64_t dim = lt_row_length(&a->x);
    const real *weight = values(&a->weight);
    for (int64_t r = 0; r < lt_row_count(&a->x); r++) {
        const real *z = add_residual(a, r, dim);
        real *y = row(&a->y, r);
        double squares = 0;
        for (int64_t i = 0; i < dim; i++)
            squares += (double)z[i] * (double)z[i];
        double rstd = 1 / sqrt(squares / (double)dim + a->eps);
        for (int64_t i = 0; i < dim; i++)
            y[i] = (real)(z[i] * rstd * weight[i]);
        if (a->rstd.data) values(&a->rstd)[r] = (real)rstd;
    }
    return LT_OK;
}

/* With n = (x - mean) rstd and g = dy weight:
 *   layer norm: dx = rstd (g - mean(g) - n mean(g n))
 *   RMS norm:   dx = rstd (g - n mean(g n)), and mean is 0 in n
 *   dweight += dy n,  dbias += dy */
static void norm_backward(const lt_norm_backward_args *a, bool layer)
{
    int64_t dim = lt_row_length(&a->x);
    const real *weight = values(&a->weight);
    real *dweight = values(&a->dweight), *dbias = values(&a->dbias);
    for (int64_t r = 0; r < lt_row_count(&a->x); r++) {
        const real *x = row(&a->x, r), *dy = row(&a->dy, r);
        real *dx = row(&a->dx, r);
        double rstd = values(&a->rstd)[r], mean = layer ? values(&a->mean)[r] : 0;
        double mean_g = 0, mean_gn = 0;
        for (int64_t i = 0; i < dim; i++) {
            double n = (x[i] - mean) * rstd, g = (double)dy[i] * weight[i];
            mean_g += g / (double)dim;
            mean_gn += g * n / (double)dim;
        }
        if (!layer) mean_g = 0;
        for (int64_t i = 0; i < dim; i++) {
            double n = (x[i] - mean) * rstd, d = dy[i], g = d * weight[i];
            double dz = rstd * (g - mean_g - n * mean_gn);
            if (dweight) dweight[i] += (real)(d * n);
            if (dbias) dbias[i] += (real)d;
            dx[i] = (real)(a->accumulate ? dx[i] + dz : dz);
        }
    }
}

REFERENCE(layer_norm_backward, lt_norm_backward_args)
{
    norm_backward(a, true);
    return LT_OK;
}

REFERENCE(rms_norm_backward, lt_norm_backward_args)
{
    norm_backward(a, false);
    return LT_OK;
}
