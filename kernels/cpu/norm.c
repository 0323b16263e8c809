/* Layer norm and RMS norm. A row is read from memory once; the later passes find it in L1. The
 * gradients of weight and bias are summed in two stages: over fixed parts of the rows, then over
 * the parts in order, so that neither the number of threads nor chance decides their bits. */
#include <string.h>

#include "base/checked.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#define PART_ROWS 16 /* at least, for one part of the weight gradient */
#define PARTS_MAX 64

static float *row(const lt_tensor *t, int64_t r)
{
    return (float *)t->data + lt_row_offset(t, r);
}

/* --- Forward --------------------------------------------------------------------------------- */

/* z = x + residual, if there is one. */
static const float *residual_row(const lt_norm_args *a, int64_t r, int64_t dim)
{
    if (!a->residual.data) return row(&a->x, r);
    const float *x = row(&a->x, r), *residual = row(&a->residual, r);
    float *z = row(&a->sum, r);
    for (int64_t i = 0; i < dim; i += LANES)
        vec_store_first(
            z + i, vec_load_first(x + i, dim - i) + vec_load_first(residual + i, dim - i), dim - i);
    return z;
}

static float row_mean(const float *z, int64_t dim)
{
    vec sum = vec_zero();
    for (int64_t i = 0; i < dim; i += LANES)
        sum += vec_load_first(z + i, dim - i);
    return vec_sum(sum) / (float)dim;
}

/* mean of (z - mean)^2; lanes past the end must not count -mean. */
static float row_variance(const float *z, int64_t dim, float mean)
{
    vec sum = vec_zero();
    for (int64_t i = 0; i < dim; i += LANES) {
        vec d = vec_load_first(z + i, dim - i) - vec_set(mean);
        d = vec_select(vec_first(dim - i), d, vec_zero());
        sum = vec_fma(d, d, sum);
    }
    return vec_sum(sum) / (float)dim;
}

static void normalise_row(const lt_norm_args *a, int64_t r, int64_t dim, bool layer)
{
    const float *z = residual_row(a, r, dim), *weight = a->weight.data, *bias = a->bias.data;
    float *y = row(&a->y, r), mean = layer ? row_mean(z, dim) : 0;
    float rstd = 1 / sqrtf(row_variance(z, dim, mean) + (float)a->eps);
    for (int64_t i = 0; i < dim; i += LANES) {
        int64_t n = dim - i;
        vec v = (vec_load_first(z + i, n) - vec_set(mean)) * vec_set(rstd);
        v = v * vec_load_first(weight + i, n);
        if (bias) v += vec_load_first(bias + i, n);
        vec_store_first(y + i, v, n);
    }
    if (a->mean.data) ((float *)a->mean.data)[r] = mean;
    if (a->rstd.data) ((float *)a->rstd.data)[r] = rstd;
}

static void norm_forward(const lt_backend *backend, const lt_norm_args *a, bool layer)
{
    int64_t rows = lt_row_count(&a->x), dim = lt_row_length(&a->x);
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *dim))
    for (int64_t r = 0; r < rows; r++)
        normalise_row(a, r, dim, layer);
}

lt_status CPU(layer_norm_forward)(const lt_backend *backend, const lt_norm_args *a,
                                  lt_err *err __attribute__((unused)))
{
    norm_forward(backend, a, true);
    return LT_OK;
}

lt_status CPU(rms_norm_forward)(const lt_backend *backend, const lt_norm_args *a,
                                lt_err *err __attribute__((unused)))
{
    norm_forward(backend, a, false);
    return LT_OK;
}

/* --- Backward -------------------------------------------------------------------------------- */

/* With n = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - n mean(g n)), without
 * mean(g) for RMS norm. Adds dy n to dweight and dy to dbias. */
static void backward_row(const lt_norm_backward_args *a, int64_t r, int64_t dim, bool layer,
                         float *dweight, float *dbias)
{
    const float *x = row(&a->x, r), *dy = row(&a->dy, r), *weight = a->weight.data;
    float *dx = row(&a->dx, r), rstd = ((const float *)a->rstd.data)[r];
    float mean = layer ? ((const float *)a->mean.data)[r] : 0;
    vec sum_g = vec_zero(), sum_gn = vec_zero();
    for (int64_t i = 0; i < dim; i += LANES) {
        vec g = vec_load_first(dy + i, dim - i) * vec_load_first(weight + i, dim - i);
        vec n = (vec_load_first(x + i, dim - i) - vec_set(mean)) * vec_set(rstd);
        sum_g += g;
        sum_gn = vec_fma(g, n, sum_gn); /* g is 0 past the end */
    }
    vec mean_g = vec_set(layer ? vec_sum(sum_g) / (float)dim : 0);
    vec mean_gn = vec_set(vec_sum(sum_gn) / (float)dim);
    for (int64_t i = 0; i < dim; i += LANES) {
        int64_t left = dim - i;
        vec d = vec_load_first(dy + i, left), g = d * vec_load_first(weight + i, left);
        vec n = (vec_load_first(x + i, left) - vec_set(mean)) * vec_set(rstd);
        vec dz = vec_set(rstd) * vec_fnma(n, mean_gn, g - mean_g);
        if (a->accumulate) dz += vec_load_first(dx + i, left);
        vec_store_first(dx + i, dz, left);
        if (dweight)
            vec_store_first(dweight + i, vec_fma(d, n, vec_load_first(dweight + i, left)), left);
        if (dbias) vec_store_first(dbias + i, vec_load_first(dbias + i, left) + d, left);
    }
}

/* d[i] += the sum over parts of partial[part][i]. */
static void add_parts(float *d, const float *partial, int64_t parts, int64_t stride, int64_t dim)
{
    for (int64_t i = 0; d && i < dim; i += LANES) {
        vec sum = vec_zero();
        for (int64_t p = 0; p < parts; p++)
            sum += vec_load_first(partial + p * stride + i, dim - i);
        vec_store_first(d + i, vec_load_first(d + i, dim - i) + sum, dim - i);
    }
}

static lt_status norm_backward(const lt_backend *backend, const lt_norm_backward_args *a,
                               bool layer, lt_err *err)
{
    int64_t rows = lt_row_count(&a->x), dim = lt_row_length(&a->x);
    int64_t parts = lt_max_i64(lt_min_i64(rows / PART_ROWS, PARTS_MAX), 1);
    float *partial;
    LT_TRY(lt_scratch_get(backend, LT_SCRATCH_SHARED, (size_t)(parts * 2 * dim) * sizeof *partial,
                          (void **)&partial, err));
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *dim))
    for (int64_t p = 0; p < parts; p++) {
        float *dweight = partial + p * 2 * dim, *dbias = dweight + dim;
        memset(dweight, 0, (size_t)(2 * dim) * sizeof *dweight);
        for (int64_t r = rows * p / parts; r < rows * (p + 1) / parts; r++)
            backward_row(a, r, dim, layer, a->dweight.data ? dweight : NULL,
                         a->dbias.data ? dbias : NULL);
    }
    add_parts(a->dweight.data, partial, parts, 2 * dim, dim);
    add_parts(a->dbias.data, partial + dim, parts, 2 * dim, dim);
    return LT_OK;
}

lt_status CPU(layer_norm_backward)(const lt_backend *backend, const lt_norm_backward_args *a,
                                   lt_err *err)
{
    return norm_backward(backend, a, true, err);
}

lt_status CPU(rms_norm_backward)(const lt_backend *backend, const lt_norm_backward_args *a,
                                 lt_err *err)
{
    return norm_backward(backend, a, false, err);
}
