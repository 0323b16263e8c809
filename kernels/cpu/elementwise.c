/* Operations in which every element stands alone. */
#include <string.h>

#include "base/checked.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/dropout.h"
#include "kernels/cpu/vec_math.h"

#define UNUSED_ERR lt_err *err __attribute__((unused))

static float *row(const lt_tensor *t, int64_t r)
{
    return (float *)t->data + lt_row_offset(t, r);
}

/* The activation is a constant in each loop, so that its switch is decided outside. */
INLINE void activate_piece(lt_activation activation, const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        vec_store_first(y + i, vec_activate(activation, vec_load_first(x + i, n - i)), n - i);
}

INLINE void derive_piece(lt_activation activation, const float *x, const float *dy, float *dx,
                         int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        vec slope = vec_activate_derivative(activation, vec_load_first(x + i, n - i));
        vec_store_first(dx + i, slope * vec_load_first(dy + i, n - i), n - i);
    }
}

#define FOR_ACTIVATION(activation, call) \
    switch (activation) {                \
    case LT_ACTIVATION_GELU:             \
        call(LT_ACTIVATION_GELU);        \
        break;                           \
    case LT_ACTIVATION_GELU_TANH:        \
        call(LT_ACTIVATION_GELU_TANH);   \
        break;                           \
    case LT_ACTIVATION_SILU:             \
        call(LT_ACTIVATION_SILU);        \
        break;                           \
    case LT_ACTIVATION_RELU:             \
        call(LT_ACTIVATION_RELU);        \
        break;                           \
    case LT_ACTIVATION_TANH:             \
        call(LT_ACTIVATION_TANH);        \
        break;                           \
    case LT_ACTIVATION_NONE:             \
    case LT_ACTIVATION_SWIGLU:           \
        call(LT_ACTIVATION_NONE);        \
        break;                           \
    }

lt_status CPU(activation_forward)(const lt_backend *backend, const lt_activation_args *a,
                                  UNUSED_ERR)
{
    pieces all = pieces_of(&a->x);
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, all.count *all.length))
    for (int64_t i = 0; i < all.count; i++) {
        const float *x = piece_of(&a->x, &all, i);
        float *y = piece_of(&a->y, &all, i);
        int64_t n = piece_length(&all, i);
#define ACTIVATE(which) activate_piece(which, x, y, n)
        FOR_ACTIVATION(a->activation, ACTIVATE)
    }
    return LT_OK;
}

lt_status CPU(activation_backward)(const lt_backend *backend, const lt_activation_backward_args *a,
                                   UNUSED_ERR)
{
    pieces all = pieces_of(&a->x);
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, all.count *all.length))
    for (int64_t i = 0; i < all.count; i++) {
        const float *x = piece_of(&a->x, &all, i), *dy = piece_of(&a->dy, &all, i);
        float *dx = piece_of(&a->dx, &all, i);
        int64_t n = piece_length(&all, i);
#define DERIVE(which) derive_piece(which, x, dy, dx, n)
        FOR_ACTIVATION(a->activation, DERIVE)
    }
    return LT_OK;
}

lt_status CPU(swiglu_forward)(const lt_backend *backend, const lt_swiglu_args *a, UNUSED_ERR)
{
    int64_t rows = a->y.shape[0], dim = a->y.shape[1];
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *dim))
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = row(&a->gate_up, r), *up = gate + dim;
        float *y = row(&a->y, r);
        for (int64_t i = 0; i < dim; i += LANES) {
            vec g = vec_load_first(gate + i, dim - i), u = vec_load_first(up + i, dim - i);
            vec_store_first(y + i, g * vec_sigmoid(g) * u, dim - i);
        }
    }
    return LT_OK;
}

/* dgate = dy up s (1 + gate (1 - s)), dup = dy gate s, with s = sigmoid(gate) */
lt_status CPU(swiglu_backward)(const lt_backend *backend, const lt_swiglu_backward_args *a,
                               UNUSED_ERR)
{
    int64_t rows = a->dy.shape[0], dim = a->dy.shape[1];
    vec one = vec_set(1);
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *dim))
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = row(&a->gate_up, r), *up = gate + dim, *dy = row(&a->dy, r);
        float *dgate = row(&a->dgate_up, r), *dup = dgate + dim;
        for (int64_t i = 0; i < dim; i += LANES) {
            int64_t n = dim - i;
            vec g = vec_load_first(gate + i, n), u = vec_load_first(up + i, n);
            vec d = vec_load_first(dy + i, n), s = vec_sigmoid(g);
            vec_store_first(dgate + i, d * u * s * vec_fma(g, one - s, one), n);
            vec_store_first(dup + i, d * g * s, n);
        }
    }
    return LT_OK;
}

lt_status CPU(add)(const lt_backend *backend, const lt_add_args *a, UNUSED_ERR)
{
    pieces all = pieces_of(&a->y);
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, all.count *all.length))
    for (int64_t p = 0; p < all.count; p++) {
        const float *left = piece_of(&a->a, &all, p), *right = piece_of(&a->b, &all, p);
        float *y = piece_of(&a->y, &all, p);
        int64_t n = piece_length(&all, p);
        for (int64_t i = 0; i < n; i += LANES)
            vec_store_first(
                y + i, vec_load_first(left + i, n - i) + vec_load_first(right + i, n - i), n - i);
    }
    return LT_OK;
}

/* y[i,j] = (scale[j] + shift) x[i,j] + bias[j] + residual[i,j], or += that */
lt_status CPU(scale_columns)(const lt_backend *backend, const lt_scale_columns_args *a, UNUSED_ERR)
{
    int64_t rows = a->y.shape[0], dim = a->y.shape[1];
    const float *scale = a->scale.data, *bias = a->bias.data;
    vec shift = vec_set((float)a->shift);
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *dim))
    for (int64_t r = 0; r < rows; r++) {
        const float *x = row(&a->x, r), *residual = a->residual.data ? row(&a->residual, r) : NULL;
        float *y = row(&a->y, r);
        for (int64_t j = 0; j < dim; j += LANES) {
            int64_t n = dim - j;
            vec v = (vec_load_first(scale + j, n) + shift) * vec_load_first(x + j, n);
            if (bias) v += vec_load_first(bias + j, n);
            if (residual) v += vec_load_first(residual + j, n);
            if (a->accumulate) v += vec_load_first(y + j, n);
            vec_store_first(y + j, v, n);
        }
    }
    return LT_OK;
}

lt_status CPU(dropout)(const lt_backend *backend, const lt_dropout_args *a, UNUSED_ERR)
{
    int64_t count = lt_tensor_count(a->x);
    const float *x = a->x.data;
    float *y = a->y.data;
    if (a->dropout.rate == 0) {
        if (count) memmove(y, x, (size_t)count * sizeof *y);
        return LT_OK;
    }
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, count))
    for (int64_t start = 0; start < count; start += DROPOUT_BATCH) {
        float factors[DROPOUT_BATCH];
        int64_t n = lt_min_i64(DROPOUT_BATCH, count - start);
        dropout_factors(&a->dropout, (uint64_t)start, DROPOUT_BATCH, factors);
        for (int64_t i = 0; i < n; i += LANES) {
            vec factor = vec_load(factors + i), v = vec_load_first(x + start + i, n - i) * factor;
            v = vec_select(vec_greater(factor, vec_zero()), v, vec_zero()); /* not inf * 0 */
            vec_store_first(y + start + i, v, n - i);
        }
    }
    return LT_OK;
}

lt_status CPU(zero)(const lt_backend *backend, const lt_zero_args *a, UNUSED_ERR)
{
    int64_t bytes = lt_tensor_count(a->y) * (int64_t)lt_dtype_size(a->y.dtype);
    int64_t threads = bytes < (1 << 20) ? 1 : backend->threads;
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t t = 0; t < threads; t++) {
        int64_t begin = bytes * t / threads, end = bytes * (t + 1) / threads;
        if (begin < end) memset((char *)a->y.data + begin, 0, (size_t)(end - begin));
    }
    return LT_OK;
}

/* (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) */
lt_status CPU(rotary)(const lt_backend *backend, const lt_rotary_args *a, UNUSED_ERR)
{
    int64_t half = a->cos.shape[1], heads = a->x.shape[2], rows = a->x.shape[0] * a->x.shape[1];
    vec sign = vec_set(a->inverse ? -1 : 1);
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, rows *heads *half))
    for (int64_t r = 0; r < rows * heads; r++) {
        int64_t position = ((const int32_t *)a->positions.data)[r / heads];
        const float *cosine = row(&a->cos, position), *sine = row(&a->sin, position);
        float *x1 = row(&a->x, r), *x2 = x1 + half;
        for (int64_t i = 0; i < half; i += LANES) {
            int64_t n = half - i;
            vec c = vec_load_first(cosine + i, n), s = sign * vec_load_first(sine + i, n);
            vec v1 = vec_load_first(x1 + i, n), v2 = vec_load_first(x2 + i, n);
            vec_store_first(x1 + i, vec_fnma(v2, s, v1 * c), n);
            vec_store_first(x2 + i, vec_fma(v1, s, v2 * c), n);
        }
    }
    return LT_OK;
}

/* --- Conversion ------------------------------------------------------------------------------ */

INLINE vec load_as(lt_dtype dtype, const void *data, int64_t i)
{
    if (dtype == LT_F16) return vec_from_f16((const uint16_t *)data + i);
    if (dtype == LT_BF16) return vec_from_bf16((const uint16_t *)data + i);
    return vec_load((const float *)data + i);
}

INLINE void store_as(lt_dtype dtype, void *data, int64_t i, vec v)
{
    if (dtype == LT_F16)
        vec_to_f16((uint16_t *)data + i, v);
    else if (dtype == LT_BF16)
        vec_to_bf16((uint16_t *)data + i, v);
    else
        vec_store((float *)data + i, v);
}

/* f32, f16 and bf16 in whole vectors; what is left, and f64, as the reference does it. */
lt_status CPU(convert)(const lt_backend *backend, const lt_convert_args *a, lt_err *err)
{
    lt_dtype from = a->x.dtype, to = a->y.dtype;
    int64_t count = lt_tensor_count(a->x), whole = count / LANES * LANES;
    if (from == LT_F64 || to == LT_F64 || (from != LT_F32 && to != LT_F32) || from == to) whole = 0;
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, whole))
    for (int64_t i = 0; i < whole; i += LANES)
        store_as(to, a->y.data, i, load_as(from, a->x.data, i));
    char *x = a->x.data, *y = a->y.data;
    lt_convert_args rest = {lt_tensor_1d(x, from, count - whole),
                            lt_tensor_1d(y, to, count - whole)};
    if (count == whole) return LT_OK;
    rest.x.data = x + whole * (int64_t)lt_dtype_size(from);
    rest.y.data = y + whole * (int64_t)lt_dtype_size(to);
    return lt_ref_f32_convert(backend, &rest, err);
}
