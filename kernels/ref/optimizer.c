#include "kernels/ref/ref.h"

#define CHUNK 4096

REFERENCE(sum_squares, lt_sum_squares_args)
{
    int64_t n = a->x.shape[0];
    const real *x = values(&a->x);
    for (int64_t start = 0; start < n; start += CHUNK) {
        double sum = 0;
        for (int64_t i = start; i < n && i < start + CHUNK; i++)
            sum += (double)x[i] * (double)x[i];
        *(double *)a->result.data += sum;
    }
    return LT_OK;
}

REFERENCE(clip_scale, lt_clip_scale_args)
{
    float norm = (float)(sqrt(*(const double *)a->sum_squares.data) * a->gradient_scale);
    double scale = a->gradient_scale;
    if (a->max_norm > 0 && norm > a->max_norm) scale *= a->max_norm / norm;
    *(float *)a->norm.data = norm;
    *(float *)a->scale.data = isfinite(norm) ? (float)scale : NAN;
    return LT_OK;
}

/* Arithmetic as torch.optim.AdamW: decay of the weight first, then the bias-corrected step. */
REFERENCE(adamw, lt_adamw_args)
{
    real *w = values(&a->weight), *m = values(&a->m), *v = values(&a->v);
    const real *gradient = values(&a->gradient);
    double scale = *(const float *)a->scale.data;
    double step_size = a->learning_rate / (1 - pow(a->beta1, (double)a->step));
    double sqrt_correction = sqrt(1 - pow(a->beta2, (double)a->step));
    if (!isfinite(scale)) return LT_OK;
    for (int64_t i = 0; i < a->weight.shape[0]; i++) {
        double g = scale * gradient[i];
        double mean = a->beta1 * m[i] + (1 - a->beta1) * g;
        double square = a->beta2 * v[i] + (1 - a->beta2) * g * g;
        double decayed = w[i] * (1 - a->learning_rate * a->weight_decay);
        w[i] = (real)(decayed - step_size * mean / (sqrt(square) / sqrt_correction + a->epsilon));
        m[i] = (real)mean;
        v[i] = (real)square;
    }
    return LT_OK;
}
