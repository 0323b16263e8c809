/* What runs over all parameters once a step: limited by memory. */
#include "base/checked.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/dropout.h"
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

/* --- AdamW -----------------------------------------------------------------------------------
 *
 * Blocks of BLOCK elements. What is not f32 in memory is f32 in a buffer of a block, which never
 * leaves the first-level cache; what is f32 is worked on where it lies. */

#define BLOCK LT_QUANTISED_BLOCK

/* The numbers of a step, the same in every lane. */
typedef struct step_numbers {
    vec scale, decay, one_beta1, beta2, one_beta2, epsilon, step, correction;
} step_numbers;

static step_numbers step_numbers_of(const lt_adamw_args *a, float scale)
{
    return (step_numbers){
        .scale = vec_set(scale),
        .decay = vec_set((float)(1 - a->learning_rate * a->weight_decay)),
        .one_beta1 = vec_set((float)(1 - a->beta1)),
        .beta2 = vec_set((float)a->beta2),
        .one_beta2 = vec_set((float)(1 - a->beta2)),
        .epsilon = vec_set((float)a->epsilon),
        .step = vec_set((float)(a->learning_rate / (1 - pow(a->beta1, (double)a->step)))),
        .correction = vec_set((float)(1 / sqrt(1 - pow(a->beta2, (double)a->step)))),
    };
}

INLINE void update(const step_numbers *s, int64_t n, const float *gradient, float *w, float *m,
                   float *v)
{
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t left = n - i;
        vec g = vec_load_first(gradient + i, left) * s->scale;
        vec mean = vec_load_first(m + i, left);
        mean = vec_fma(s->one_beta1, g - mean, mean);
        vec square = vec_fma(s->one_beta2 * g, g, s->beta2 * vec_load_first(v + i, left));
        vec weight = vec_load_first(w + i, left) * s->decay;
        weight -= s->step * mean / vec_fma(vec_sqrt(square), s->correction, s->epsilon);
        vec_store_first(w + i, weight, left);
        vec_store_first(m + i, mean, left);
        vec_store_first(v + i, square, left);
    }
}

static void narrow(const float *x, int64_t n, uint16_t *out)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vec_to_bf16(out + i, vec_load(x + i));
    if (i == n) return;
    uint16_t last[LANES];
    vec_to_bf16(last, vec_load_first(x + i, n - i));
    __builtin_memcpy(out + i, last, (size_t)(n - i) * sizeof *out);
}

/* Elements start .. start + n as f32: where they lie, or in `buffer`. */
static float *widened(const lt_tensor *t, int64_t start, int64_t n, float *buffer)
{
    if (t->dtype != LT_BF16) return (float *)t->data + start;
    for (int64_t i = 0; i < n; i += LANES) /* a buffer is a whole number of vectors */
        vec_store(buffer + i, vec_from_bf16_first((const uint16_t *)t->data + start + i, n - i));
    return buffer;
}

/* `words`: of the Philox blocks from that of the first element on, which is its word `skip`. */
static void rounding_words(const lt_adamw_args *a, int64_t start, int64_t n, uint32_t *words,
                           int64_t *skip)
{
    const lt_dropout_mask source = {.seed = a->seed, .stream = a->stream};
    uint64_t first = (uint64_t)(a->first_element + start);
    *skip = (int64_t)(first % 4);
    for (int64_t i = 0; i < *skip + n; i += DROPOUT_WORDS)
        dropout_words(&source, first / 4 + (uint64_t)i / 4, words + i);
}

/* To bf16, stochastically: with the bits of `words` from `shift` on. */
INLINE void round_moment(const float *x, int64_t n, const uint32_t *words, int shift, uint16_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        __builtin_memcpy(&bits, x + i, sizeof bits);
        out[i] = (uint16_t)((bits + (words[i] >> shift & 0xFFFF)) >> 16);
    }
}

static float largest_magnitude(const float *x, int64_t n)
{
    vec largest = vec_zero();
    for (int64_t i = 0; i < n; i += LANES)
        largest = vec_max(vec_abs(vec_load_first(x + i, n - i)), largest);
    return vec_largest(largest);
}

static void dequantise_m(const uint8_t *codes, float scale, int64_t n, float *m)
{
    for (int64_t i = 0; i < n; i++) {
        float root = (float)(codes[i] - 128) * (1 / 127.0f);
        m[i] = scale * root * fabsf(root);
    }
}

static void dequantise_v(const uint8_t *codes, float scale, int64_t n, float *v)
{
    for (int64_t i = 0; i < n; i++) {
        float root = (float)codes[i] * (1 / 255.0f), square = root * root;
        v[i] = scale * square * square;
    }
}

/* The roots are left in the buffers, then become bytes. */
static void quantise_m(float *m, int64_t n, uint8_t *codes, float *scale)
{
    float largest = *scale = largest_magnitude(m, n);
    vec divisor = vec_set(largest > 0 ? largest : 1), one = vec_set(1), steps = vec_set(127);
    for (int64_t i = 0; i < n; i += LANES) {
        vec x = vec_load_first(m + i, n - i);
        vec q = vec_round(vec_sqrt(vec_min(vec_abs(x) / divisor, one)) * steps);
        vec_store_first(m + i, vec_select(vec_greater(vec_zero(), x), -q, q), n - i);
    }
    for (int64_t i = 0; i < n; i++)
        codes[i] = (uint8_t)((int)m[i] + 128);
}

static void quantise_v(float *v, int64_t n, uint8_t *codes, float *scale)
{
    float largest = *scale = largest_magnitude(v, n);
    vec divisor = vec_set(largest > 0 ? largest : 1), one = vec_set(1), steps = vec_set(255);
    for (int64_t i = 0; i < n; i += LANES) {
        vec x = vec_load_first(v + i, n - i);
        vec q = vec_round(vec_sqrt(vec_sqrt(vec_min(x / divisor, one))) * steps);
        q = vec_select(vec_greater(x, vec_zero()), vec_max(q, one), q);
        vec_store_first(v + i, q, n - i);
    }
    for (int64_t i = 0; i < n; i++)
        codes[i] = (uint8_t)(int)v[i];
}

/* A block with moments of 8 bits: n <= BLOCK elements from `start` on. */
static void adamw_quantised(const lt_adamw_args *a, const step_numbers *s, int64_t start, int64_t n)
{
    float g_buffer[BLOCK], m[BLOCK], v[BLOCK];
    uint8_t *m_codes = (uint8_t *)a->m.data + start, *v_codes = (uint8_t *)a->v.data + start;
    float *m_scale = (float *)a->m_scale.data + start / BLOCK;
    float *v_scale = (float *)a->v_scale.data + start / BLOCK;
    dequantise_m(m_codes, *m_scale, n, m);
    dequantise_v(v_codes, *v_scale, n, v);
    update(s, n, widened(&a->gradient, start, n, g_buffer), (float *)a->weight.data + start, m, v);
    quantise_m(m, n, m_codes, m_scale);
    quantise_v(v, n, v_codes, v_scale);
}

/* A block with moments of f32 or bf16; of any length when nothing has to be buffered. */
static void adamw_block(const lt_adamw_args *a, const step_numbers *s, int64_t start, int64_t n)
{
    float g_buffer[BLOCK], m_buffer[BLOCK], v_buffer[BLOCK];
    uint32_t words[BLOCK + 2 * DROPOUT_WORDS];
    int64_t skip;
    float *m = widened(&a->m, start, n, m_buffer), *v = widened(&a->v, start, n, v_buffer);
    update(s, n, widened(&a->gradient, start, n, g_buffer), (float *)a->weight.data + start, m, v);
    if (m != m_buffer && v != v_buffer) return;
    rounding_words(a, start, n, words, &skip);
    if (m == m_buffer) round_moment(m, n, words + skip, 0, (uint16_t *)a->m.data + start);
    if (v == v_buffer) round_moment(v, n, words + skip, 16, (uint16_t *)a->v.data + start);
}

lt_status CPU(adamw)(const lt_backend *backend, const lt_adamw_args *a,
                     lt_err *err __attribute__((unused)))
{
    int64_t n = a->weight.shape[0];
    float scale = *(float *)a->scale.data;
    bool quantised = a->m.dtype == LT_U8;
    bool buffered = quantised || a->m.dtype == LT_BF16 || a->gradient.dtype == LT_BF16;
    int64_t length = buffered ? BLOCK : CHUNK, blocks = (n + length - 1) / length;
    if (!isfinite(scale)) return LT_OK;
    const step_numbers numbers = step_numbers_of(a, scale);
#pragma omp parallel for schedule(static) num_threads(threads_for(backend, n))
    for (int64_t b = 0; b < blocks; b++) {
        int64_t start = b * length, count = lt_min_i64(length, n - start);
        if (quantised)
            adamw_quantised(a, &numbers, start, count);
        else
            adamw_block(a, &numbers, start, count);
        if (a->rounded.data)
            narrow((float *)a->weight.data + start, count, (uint16_t *)a->rounded.data + start);
    }
    return LT_OK;
}
