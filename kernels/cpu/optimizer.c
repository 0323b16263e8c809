/* What runs over all parameters once a step: limited by memory. */
#include "base/checked.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#define CHUNK (16 << 10)

/* Every chunk to a sum of its own, in double, then the chunks in order. */
lt_status CPU(sum_squares)(const lt_backend *backend, const lt_sum_squares_args *a, lt_err *err)
{
    int64_t n = a->x.shape[0], chunks = (n + CHUNK - 1) / CHUNK;
    const float *x = a->x.data;
    double *sums;
    LT_TRY(lt_scratch_get(backend, LT_SCRATCH_SHARED, (size_t)(chunks + 1) * sizeof *sums,
                          (void **)&sums, err));
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, n))
    for (int64_t c = 0; c < chunks; c++) {
        int64_t end = lt_min_i64((c + 1) * CHUNK, n);
        vec_double sum = vec_double_zero();
        for (int64_t i = c * CHUNK; i < end; i += LANES)
            sum = vec_add_squares(sum, vec_load_first(x + i, end - i));
        sums[c] = vec_double_sum(sum);
    }
    for (int64_t c = 0; c < chunks; c++)
        *(double *)a->result.data += sums[c];
    return LT_OK;
}

lt_status CPU(adamw)(const lt_backend *backend, const lt_adamw_args *a,
                     lt_err *err __attribute__((unused)))
{
    int64_t n = a->weight.shape[0], chunks = (n + CHUNK - 1) / CHUNK;
    float *w = a->weight.data, *m = a->m.data, *v = a->v.data, scale = *(float *)a->scale.data;
    const float *gradient = a->gradient.data;
    if (!isfinite(scale)) return LT_OK;
    vec decay = vec_set((float)(1 - a->learning_rate * a->weight_decay)), factor = vec_set(scale);
    vec beta1 = vec_set((float)(1 - a->beta1)), beta2 = vec_set((float)a->beta2);
    vec one_beta2 = vec_set((float)(1 - a->beta2)), epsilon = vec_set((float)a->epsilon);
    vec step = vec_set((float)(a->learning_rate / (1 - pow(a->beta1, (double)a->step))));
    vec correction = vec_set((float)(1 / sqrt(1 - pow(a->beta2, (double)a->step))));
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, n))
    for (int64_t c = 0; c < chunks; c++) {
        int64_t end = lt_min_i64((c + 1) * CHUNK, n);
        for (int64_t i = c * CHUNK; i < end; i += LANES) {
            int64_t left = end - i;
            vec g = vec_load_first(gradient + i, left) * factor;
            vec mean = vec_load_first(m + i, left);
            mean = vec_fma(beta1, g - mean, mean);
            vec square = vec_fma(one_beta2 * g, g, beta2 * vec_load_first(v + i, left));
            vec weight = vec_load_first(w + i, left) * decay;
            weight -= step * mean / vec_fma(vec_sqrt(square), correction, epsilon);
            vec_store_first(w + i, weight, left);
            vec_store_first(m + i, mean, left);
            vec_store_first(v + i, square, left);
        }
    }
    return LT_OK;
}
