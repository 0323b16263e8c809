/* What runs over all parameters once a step: the norm of the gradients, and AdamW. Limited by
 * memory: 16 bytes of f32 at a time wherever the tensors are aligned. */
#include "kernels/cuda/rows.cuh"

enum { THREADS = 256, FINAL_THREADS = 1024, NORM_CHUNK = 16384 };

/* --- Norms ----------------------------------------------------------------------------------- */

/* Each block to a sum of its own. */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS)
    sum_squares_kernel(const T *x, int64_t n, int64_t chunk, double *sums)
{
    int64_t start = blockIdx.x * chunk, end = start + chunk < n ? start + chunk : n;
    double sum = 0;
    for (int64_t i = start + threadIdx.x * N; i < end; i += THREADS * N) {
        float values[N];
        load(x + i, values);
        LT_UNROLL
        for (int k = 0; k < N; k++)
            sum += (double)values[k] * (double)values[k];
    }
    sum = block_sum(sum, shared_memory<double>());
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(FINAL_THREADS)
    add_sums_kernel(const double *sums, int64_t n, double *result)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += FINAL_THREADS)
        sum += sums[i];
    sum = block_sum(sum, shared_memory<double>());
    if (threadIdx.x == 0) *result += sum;
}

template <typename T>
static lt_status sum_squares(const lt_backend *backend, const lt_sum_squares_args *a, lt_err *err)
{
    int64_t n = a->x.shape[0], chunk = NORM_CHUNK;
    const int64_t most = LT_CUDA_SCRATCH / sizeof(double);
    while (ceil_div(n, chunk) > most)
        chunk *= 2;
    double *sums = static_cast<double *>(cuda_of(backend)->scratch);
    size_t shared = WARP * sizeof(double);
    bool wide = n % VECTOR<T> == 0 && rows_are_aligned(&a->x, VECTOR<T>);
    LT_TRY(lt_launch(backend, "sum_squares", err,
                     wide ? sum_squares_kernel<T, VECTOR<T>> : sum_squares_kernel<T, 1>,
                     ceil_div(n, chunk), THREADS, shared, static_cast<const T *>(a->x.data), n,
                     chunk, sums));
    return lt_launch(backend, "sum_squares", err, add_sums_kernel, n > 0 ? 1 : 0, FINAL_THREADS,
                     shared, sums, (int64_t)ceil_div(n, chunk),
                     static_cast<double *>(a->result.data));
}

extern "C" lt_status lt_cuda_sum_squares(const lt_backend *backend, const lt_sum_squares_args *a,
                                         lt_err *err)
{
    return a->x.dtype == LT_BF16 ? sum_squares<bf16>(backend, a, err)
                                 : sum_squares<float>(backend, a, err);
}

static __global__ void clip_scale_kernel(const double *sum_squares, const double *loss,
                                         const double *tokens, double gradient_scale,
                                         double max_norm, float *norm_out, float *scale_out)
{
    double scale = gradient_scale;
    if (tokens) scale = *tokens > 0 ? 1 / *tokens : NAN;
    float norm = (float)(sqrt(*sum_squares) * scale);
    if (max_norm > 0 && norm > max_norm) scale *= max_norm / norm;
    if (loss && !isfinite(*loss)) norm = NAN;
    *norm_out = norm;
    *scale_out = isfinite(norm) ? (float)scale : NAN;
}

extern "C" lt_status lt_cuda_clip_scale(const lt_backend *backend, const lt_clip_scale_args *a,
                                        lt_err *err)
{
    return lt_launch(backend, "clip_scale", err, clip_scale_kernel, 1, 1, 0,
                     static_cast<const double *>(a->sum_squares.data),
                     static_cast<const double *>(a->loss.data),
                     static_cast<const double *>(a->tokens.data), a->gradient_scale, a->max_norm,
                     static_cast<float *>(a->norm.data), static_cast<float *>(a->scale.data));
}

/* --- AdamW ----------------------------------------------------------------------------------- */

struct adamw_params {
    float *weight;
    bf16 *rounded; /* or NULL */
    const void *gradient;
    void *m, *v;
    float *m_scale, *v_scale;
    const float *scale;
    int64_t n;
    float decay, one_beta1, beta2, one_beta2, epsilon, step, correction;
    uint64_t seed, stream, first_element;
};

static adamw_params params_of(const lt_adamw_args *a)
{
    adamw_params p = {};
    p.weight = static_cast<float *>(a->weight.data);
    p.rounded = static_cast<bf16 *>(a->rounded.data);
    p.gradient = a->gradient.data;
    p.m = a->m.data;
    p.v = a->v.data;
    p.m_scale = static_cast<float *>(a->m_scale.data);
    p.v_scale = static_cast<float *>(a->v_scale.data);
    p.scale = static_cast<const float *>(a->scale.data);
    p.n = a->weight.shape[0];
    p.decay = (float)(a->learning_rate * a->weight_decay);
    p.one_beta1 = (float)(1 - a->beta1);
    p.beta2 = (float)a->beta2;
    p.one_beta2 = (float)(1 - a->beta2);
    p.epsilon = (float)a->epsilon;
    p.step = (float)(a->learning_rate / (1 - pow(a->beta1, (double)a->step)));
    p.correction = (float)(1 / sqrt(1 - pow(a->beta2, (double)a->step)));
    p.seed = a->seed;
    p.stream = a->stream;
    p.first_element = (uint64_t)a->first_element;
    return p;
}

/* One element; the decay and the step go off in one rounding. */
LT_DEVICE void update(const adamw_params &p, float g, float *w, float *m, float *v)
{
    *m = fmaf(p.one_beta1, g - *m, *m);
    *v = fmaf(p.one_beta2 * g, g, p.beta2 * *v);
    float direction = *m / fmaf(sqrtf(*v), p.correction, p.epsilon);
    *w -= fmaf(p.decay, *w, p.step * direction);
}

/* Where the moments of N elements from i on get their rounding from: a word for each, of which m
 * takes the lower half and v the upper. N > 1: they begin a Philox block. */
template <int N> LT_DEVICE void rounding_words(const adamw_params &p, int64_t i, uint32_t (&out)[N])
{
    uint32_t block[4];
    uint64_t element = p.first_element + (uint64_t)i;
    philox(p.seed, p.stream, element / 4, block);
    if constexpr (N == 1) {
        uint32_t even = element & 2 ? block[2] : block[0], odd = element & 2 ? block[3] : block[1];
        out[0] = element & 1 ? odd : even;
    } else {
        LT_UNROLL
        for (int k = 0; k < N; k++)
            out[k] = block[k];
    }
}

template <int N>
LT_DEVICE void store_moment(float *to, const float (&x)[N], const uint32_t (&)[N], int)
{
    store(to, x);
}

/* Rounded stochastically: the bits added carry into the upper half as often as the lower half is
 * large. */
template <int N>
LT_DEVICE void store_moment(bf16 *to, const float (&x)[N], const uint32_t (&random)[N], int shift)
{
    uint32_t bits[N];
    LT_UNROLL
    for (int k = 0; k < N; k++)
        bits[k] = (bits_of_float(x[k]) + (random[k] >> shift & 0xffff)) >> 16;
    if constexpr (N == 1) {
        to->bits = (uint16_t)bits[0];
    } else {
        words<2 * N> raw;
        LT_UNROLL
        for (int k = 0; k < N; k += 2)
            raw.at[k / 2] = bits[k] | bits[k + 1] << 16;
        store_words(to, raw);
    }
}

template <typename G, typename S, int N>
LT_DEVICE void adamw_elements(const adamw_params &p, float scale, int64_t i)
{
    S *moments[2] = {static_cast<S *>(p.m) + i, static_cast<S *>(p.v) + i};
    float w[N], g[N], m[N], v[N];
    load(p.weight + i, w);
    load(static_cast<const G *>(p.gradient) + i, g);
    load(static_cast<const S *>(moments[0]), m);
    load(static_cast<const S *>(moments[1]), v);
    LT_UNROLL
    for (int k = 0; k < N; k++)
        update(p, g[k] * scale, &w[k], &m[k], &v[k]);
    store(p.weight + i, w);
    if (p.rounded) store(p.rounded + i, w);
    uint32_t random[N] = {};
    if constexpr (sizeof(S) == sizeof(bf16)) rounding_words(p, i, random);
    store_moment(moments[0], m, random, 0);
    store_moment(moments[1], v, random, 16);
}

/* G: of the gradient, S: of the moments. 4 blocks on a multiprocessor fill the memory's pipes; told
 * so, the compiler does not spill for the sake of more. A thread takes N neighbours; the last one
 * of the tensor takes what is left one by one. */
template <typename G, typename S, int N>
static __global__ void __launch_bounds__(THREADS, 4) adamw_kernel(adamw_params p)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    float scale = *p.scale;
    if (!isfinite(scale)) return;
    if (i + N <= p.n)
        adamw_elements<G, S, N>(p, scale, i);
    else
        for (; i < p.n; i++)
            adamw_elements<G, S, 1>(p, scale, i);
}

/* --- AdamW with moments of 8 bits: a warp for each block of LT_QUANTISED_BLOCK elements ---------
 */

enum { QUADS = LT_QUANTISED_BLOCK / (4 * WARP), WARPS = THREADS / WARP };

/* The first `count` of the 4 numbers from `from` on; the others are 0. */
template <typename T, bool WIDE>
LT_DEVICE void load_quad(const T *from, int64_t count, float (&x)[4])
{
    if (WIDE && count >= 4) {
        load(from, x);
        return;
    }
    LT_UNROLL
    for (int k = 0; k < 4; k++)
        x[k] = k < count ? to_float(from[k]) : 0;
}

template <typename T, bool WIDE>
LT_DEVICE void store_quad(T *to, int64_t count, const float (&x)[4])
{
    if (WIDE && count >= 4) {
        store(to, x);
        return;
    }
    LT_UNROLL
    for (int k = 0; k < 4; k++)
        if (k < count) store(to + k, x[k]);
}

/* 4 codes, the first in the lowest byte. */
template <bool WIDE> LT_DEVICE uint32_t load_codes(const uint8_t *from, int64_t count)
{
    if (WIDE && count >= 4) return *reinterpret_cast<const uint32_t *>(from);
    uint32_t codes = 0;
    LT_UNROLL
    for (int k = 0; k < 4; k++)
        if (k < count) codes |= (uint32_t)from[k] << 8 * k;
    return codes;
}

template <bool WIDE> LT_DEVICE void store_codes(uint8_t *to, int64_t count, uint32_t codes)
{
    if (WIDE && count >= 4) {
        *reinterpret_cast<uint32_t *>(to) = codes;
        return;
    }
    LT_UNROLL
    for (int k = 0; k < 4; k++)
        if (k < count) to[k] = (uint8_t)(codes >> 8 * k);
}

LT_DEVICE float m_of_code(uint32_t code, float largest)
{
    float root = (float)((int)code - 128) * (1 / 127.0f);
    return largest * root * fabsf(root);
}

LT_DEVICE float v_of_code(uint32_t code, float largest)
{
    float root = (float)code * (1 / 255.0f), square = root * root;
    return largest * square * square;
}

/* `factor`: what makes the root of the largest number the largest code. */
LT_DEVICE uint32_t code_of_m(float m, float factor)
{
    int q = __float2int_rn(fminf(sqrtf(fabsf(m)) * factor, 127));
    return (uint32_t)(128 + (m < 0 ? -q : q));
}

LT_DEVICE uint32_t code_of_v(float v, float factor)
{
    int code = __float2int_rn(fminf(sqrtf(sqrtf(v)) * factor, 255));
    return (uint32_t)(code == 0 && v > 0 ? 1 : code);
}

/* Lane l takes the elements 4 l .. 4 l + 3 of each half of the block. */
template <typename G, bool WIDE>
static __global__ void __launch_bounds__(THREADS, 3) adamw_quantised_kernel(adamw_params p)
{
    int64_t block = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int64_t first = block * LT_QUANTISED_BLOCK + threadIdx.x % WARP * 4;
    uint8_t *m_codes = static_cast<uint8_t *>(p.m), *v_codes = static_cast<uint8_t *>(p.v);
    float m[QUADS][4], v[QUADS][4], scale = *p.scale;
    if (!isfinite(scale) || block * LT_QUANTISED_BLOCK >= p.n) return;
    float m_largest = p.m_scale[block], v_largest = p.v_scale[block];
    float m_next = 0, v_next = 0;
    LT_UNROLL
    for (int h = 0; h < QUADS; h++) {
        float w[4], g[4];
        int64_t i = first + h * 4 * WARP, count = p.n - i;
        if (count < 0) count = 0;
        load_quad<float, WIDE>(p.weight + i, count, w);
        load_quad<G, WIDE>(static_cast<const G *>(p.gradient) + i, count, g);
        uint32_t m_quad = load_codes<WIDE>(m_codes + i, count);
        uint32_t v_quad = load_codes<WIDE>(v_codes + i, count);
        LT_UNROLL
        for (int k = 0; k < 4; k++) {
            m[h][k] = k < count ? m_of_code(m_quad >> 8 * k & 255, m_largest) : 0;
            v[h][k] = v_of_code(v_quad >> 8 * k & 255, v_largest);
            update(p, g[k] * scale, &w[k], &m[h][k], &v[h][k]);
            m_next = fmaxf(m_next, fabsf(m[h][k]));
            v_next = fmaxf(v_next, v[h][k]);
        }
        store_quad<float, WIDE>(p.weight + i, count, w);
        if (p.rounded) store_quad<bf16, WIDE>(p.rounded + i, count, w);
    }
    m_next = warp_max(m_next);
    v_next = warp_max(v_next);
    float m_factor = m_next > 0 ? 127 / sqrtf(m_next) : 0;
    float v_factor = v_next > 0 ? 255 / sqrtf(sqrtf(v_next)) : 0;
    LT_UNROLL
    for (int h = 0; h < QUADS; h++) {
        int64_t i = first + h * 4 * WARP, count = p.n - i;
        uint32_t m_quad = 0, v_quad = 0;
        LT_UNROLL
        for (int k = 0; k < 4; k++) {
            m_quad |= code_of_m(m[h][k], m_factor) << 8 * k;
            v_quad |= code_of_v(v[h][k], v_factor) << 8 * k;
        }
        store_codes<WIDE>(m_codes + i, count, m_quad);
        store_codes<WIDE>(v_codes + i, count, v_quad);
    }
    if (threadIdx.x % WARP == 0) {
        p.m_scale[block] = m_next;
        p.v_scale[block] = v_next;
    }
}

/* --- Launching ---------------------------------------------------------------------------------
 */

/* Can 4 neighbours of each tensor be moved at once? */
static bool quads_are_aligned(const lt_adamw_args *a)
{
    bool aligned = a->first_element % 4 == 0;
    for (const lt_tensor *t : {&a->weight, &a->rounded, &a->gradient, &a->m, &a->v})
        aligned = aligned && (uintptr_t)t->data % (4 * lt_dtype_size(t->dtype)) == 0;
    return aligned;
}

template <typename G, typename S>
static lt_status launch_adamw(const lt_backend *backend, const lt_adamw_args *a, lt_err *err)
{
    bool wide = quads_are_aligned(a);
    return lt_launch(backend, "adamw", err, wide ? adamw_kernel<G, S, 4> : adamw_kernel<G, S, 1>,
                     ceil_div(a->weight.shape[0], THREADS * (wide ? 4 : 1)), THREADS, 0,
                     params_of(a));
}

template <typename G>
static lt_status adamw(const lt_backend *backend, const lt_adamw_args *a, lt_err *err)
{
    if (a->m.dtype == LT_F32) return launch_adamw<G, float>(backend, a, err);
    if (a->m.dtype == LT_BF16) return launch_adamw<G, bf16>(backend, a, err);
    return lt_launch(
        backend, "adamw", err,
        quads_are_aligned(a) ? adamw_quantised_kernel<G, true> : adamw_quantised_kernel<G, false>,
        ceil_div(a->weight.shape[0], WARPS * LT_QUANTISED_BLOCK), THREADS, 0, params_of(a));
}

extern "C" lt_status lt_cuda_adamw(const lt_backend *backend, const lt_adamw_args *a, lt_err *err)
{
    return a->gradient.dtype == LT_BF16 ? adamw<bf16>(backend, a, err)
                                        : adamw<float>(backend, a, err);
}
