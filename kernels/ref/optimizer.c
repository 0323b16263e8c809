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
    const double *tokens = a->tokens.data;
    double scale = a->gradient_scale;
    if (tokens) scale = *tokens > 0 ? 1 / *tokens : NAN;
    float norm = (float)(sqrt(*(const double *)a->sum_squares.data) * scale);
    if (a->max_norm > 0 && norm > a->max_norm) scale *= a->max_norm / norm;
    if (a->loss.data && !isfinite(*(const double *)a->loss.data)) norm = NAN;
    *(float *)a->norm.data = norm;
    *(float *)a->scale.data = isfinite(norm) ? (float)scale : NAN;
    return LT_OK;
}

/* --- AdamW ------------------------------------------------------------------------------------ */

#define BLOCK LT_QUANTISED_BLOCK

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Elements start .. start + count of a moment in any of its number types. */
static void load_moment(const lt_tensor *t, const lt_tensor *scales, bool is_signed, int64_t start,
                        int64_t count, double *out)
{
    const uint8_t *codes = (const uint8_t *)t->data + start;
    for (int64_t i = 0; i < count; i++) {
        if (t->dtype != LT_U8) {
            out[i] = weight_at(t, start + i);
            continue;
        }
        double largest = ((const float *)scales->data)[start / BLOCK];
        double root = is_signed ? (codes[i] - 128) / 127.0 : codes[i] / 255.0;
        out[i] = largest * (is_signed ? root * fabs(root) : root * root * root * root);
    }
}

/* What falls off the lower half of the f32's bits carries into the upper half in proportion. */
static void store_rounded(uint16_t *to, const lt_adamw_args *a, bool is_v, int64_t start,
                          int64_t count, const double *x)
{
    for (int64_t i = start; i < start + count; i++) {
        uint64_t element = (uint64_t)(a->first_element + i);
        uint32_t words[4];
        lt_philox(a->seed, a->stream, element / 4, words);
        uint32_t word = words[element % 4], added = is_v ? word >> 16 : word & 0xFFFF;
        to[i] = (uint16_t)((bits_of((float)x[i - start]) + added) >> 16);
    }
}

static void store_quantised(uint8_t *codes, float *scale, bool is_signed, int64_t count,
                            const double *x)
{
    float largest = 0;
    for (int64_t i = 0; i < count; i++)
        if (fabs(x[i]) > (double)largest) largest = (float)fabs(x[i]);
    *scale = largest;
    for (int64_t i = 0; i < count; i++) {
        double root = largest > 0 ? sqrt(fabs(x[i]) / (double)largest) : 0;
        if (is_signed) {
            int q = (int)nearbyint(127 * fmin(root, 1));
            codes[i] = (uint8_t)(128 + (x[i] < 0 ? -q : q));
        } else {
            int q = (int)nearbyint(255 * sqrt(fmin(root, 1)));
            codes[i] = (uint8_t)(q == 0 && x[i] > 0 ? 1 : q);
        }
    }
}

static void store_moment(const lt_adamw_args *a, bool is_v, int64_t start, int64_t count,
                         const double *x)
{
    const lt_tensor *t = is_v ? &a->v : &a->m, *scales = is_v ? &a->v_scale : &a->m_scale;
    if (t->dtype == LT_BF16)
        store_rounded(t->data, a, is_v, start, count, x);
    else if (t->dtype == LT_U8)
        store_quantised((uint8_t *)t->data + start, (float *)scales->data + start / BLOCK, !is_v,
                        count, x);
    else
        for (int64_t i = 0; i < count; i++)
            values(t)[start + i] = (real)x[i];
}

/* Arithmetic as torch.optim.AdamW: decay of the weight first, then the bias-corrected step. The
 * step is taken with the moments as they are before they are stored. */
REFERENCE(adamw, lt_adamw_args)
{
    int64_t n = a->weight.shape[0];
    real *w = values(&a->weight);
    double scale = *(const float *)a->scale.data, m[BLOCK], v[BLOCK];
    double step_size = a->learning_rate / (1 - pow(a->beta1, (double)a->step));
    double sqrt_correction = sqrt(1 - pow(a->beta2, (double)a->step));
    if (!isfinite(scale)) return LT_OK;
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t count = n - start < BLOCK ? n - start : BLOCK;
        load_moment(&a->m, &a->m_scale, true, start, count, m);
        load_moment(&a->v, &a->v_scale, false, start, count, v);
        for (int64_t i = 0; i < count; i++) {
            double g = scale * weight_at(&a->gradient, start + i);
            m[i] = a->beta1 * m[i] + (1 - a->beta1) * g;
            v[i] = a->beta2 * v[i] + (1 - a->beta2) * g * g;
            double decayed = w[start + i] * (1 - a->learning_rate * a->weight_decay);
            double denominator = sqrt(v[i]) / sqrt_correction + a->epsilon;
            w[start + i] = (real)(decayed - step_size * m[i] / denominator);
        }
        store_moment(a, false, start, count, m);
        store_moment(a, true, start, count, v);
    }
    if (!a->rounded.data) return LT_OK;
    return REF(convert)(backend, &(lt_convert_args){.x = a->weight, .y = a->rounded}, err);
}
