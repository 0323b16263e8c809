/* The choice of the next id from its logits (kernels/ref/sample.c has the rules). One block takes
 * one row.
 *
 * Logits become weights exp((logit - largest) / temperature), in place. Wherever weights are added
 * they are integers in units of 2^-40: such sums are the same in any order, so parallel sums repeat
 * bit by bit, and what is below half a unit would hardly ever be drawn. The thresholds of top_k and
 * top_p come from a descent over the bits of the weights, 2 bits in a pass, without atomics and
 * without sorting. Compared with the reference, whose weights and sums are longer, a draw comes out
 * differently only when it falls within about 1e-6 of the edge between two ids.
 *
 * Warp w owns a stretch of the vocabulary, its lanes side by side: a thread only reads again what
 * it has written itself, and what lies in front of a stretch is a sum over warps. */
extern "C" {
#include "base/checked.h"
}
#include "kernels/cuda/rows.cuh"

enum { THREADS = 1024, WARPS = THREADS / WARP, CANDIDATES = 3 };

typedef unsigned long long wide;

struct sample_params {
    float *logits;
    const int32_t *history; /* or NULL */
    const int32_t *history_count, *sequence;
    int32_t *ids;
    float *penalised; /* scratch: [rows, capacity] */
    int64_t logits_stride, history_stride, vocab, capacity, first_row, top_k;
    double penalty, top_p; /* 0: off */
    float temperature, min_p;
    uint64_t seed;
};

/* What the threads of a block say to each other. */
struct sample_shared {
    wide sums[WARPS], before[WARPS];
    int64_t index;
};

/* This thread's ids: from `begin`, every WARP-th, up to `end`. `base`: of its warp's first lane. */
struct stretch {
    int64_t base, begin, end;
};

LT_DEVICE stretch stretch_of(int64_t vocab)
{
    int64_t length = (vocab + THREADS - 1) / THREADS * WARP;
    int64_t base = threadIdx.x / WARP * length, end = base + length;
    return stretch{base, base + threadIdx.x % WARP, end < vocab ? end : vocab};
}

LT_DEVICE wide units_of(float weight)
{
    return __float2ull_rn(weight * 0x1p40f);
}

/* --- Greedy ---------------------------------------------------------------------------------- */

/* In the order of the numbers, of equal ones the lower id first; 0 for NaN. */
LT_DEVICE wide rank_of(float logit, int64_t id)
{
    if (isnan(logit)) return 0;
    uint32_t bits = bits_of_float(logit == 0 ? 0 : logit); /* -0 equals 0 */
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (wide)bits << 32 | (0xffffffffu - (uint32_t)id);
}

/* The id of the first largest logit; the last id when all are NaN. */
LT_DEVICE int64_t argmax(const float *logits, stretch own, int64_t vocab, sample_shared *shared)
{
    wide best = 0;
    for (int64_t i = own.begin; i < own.end; i += WARP)
        best = max(best, rank_of(logits[i], i));
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        best = max(best, __shfl_xor_sync(FULL_MASK, best, offset));
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared->sums[threadIdx.x / WARP] = best;
    __syncthreads();
    for (int w = 0; w < WARPS; w++)
        best = max(best, shared->sums[w]);
    return best ? (int64_t)(0xffffffffu - (uint32_t)best) : vocab - 1;
}

/* Each id that occurred is made less likely once: all new values are worked out before the first
 * is written, so that an id which occurs again is written the same value again. */
LT_DEVICE void penalise(const sample_params &p, int64_t row, float *logits)
{
    const int32_t *history = p.history + row * p.history_stride;
    float *penalised = p.penalised + (int64_t)blockIdx.x * p.capacity;
    int64_t count = p.history_count[row] < p.capacity ? p.history_count[row] : p.capacity;
    for (int64_t i = threadIdx.x; i < count; i += THREADS) {
        int32_t id = history[i];
        if (id < 0 || id >= p.vocab) continue;
        double x = logits[id];
        penalised[i] = (float)(x < 0 ? x * p.penalty : x / p.penalty);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += THREADS)
        if (history[i] >= 0 && history[i] < p.vocab) logits[history[i]] = penalised[i];
    __syncthreads();
}

/* --- Sums ------------------------------------------------------------------------------------ */

/* Of the units of all weights. */
LT_DEVICE wide total_of(const float *weights, stretch own, sample_shared *shared)
{
    wide sum = 0;
    for (int64_t i = own.begin; i < own.end; i += WARP)
        sum += units_of(weights[i]);
    return block_sum(sum, shared->sums);
}

/* The bits of the largest weight such that it and everything larger reach `target` (> 0): in number
 * with COUNT, else in units. *above: what is larger. Weights are at most 1, so 30 bits do. */
template <bool COUNT>
LT_DEVICE uint32_t key_at(const float *weights, stretch own, wide target, wide *above,
                          sample_shared *shared)
{
    uint32_t key = 0;
    *above = 0;
    for (int shift = 28; shift >= 0; shift -= 2) {
        wide sums[CANDIDATES] = {0, 0, 0}; /* from key + (1, 2, 3 << shift) on */
        for (int64_t i = own.begin; i < own.end; i += WARP) {
            float weight = weights[i];
            uint32_t bits = bits_of_float(weight);
            wide amount = COUNT ? 1 : units_of(weight);
            LT_UNROLL
            for (uint32_t c = 0; c < CANDIDATES; c++)
                if (bits >= (key | (c + 1) << shift)) sums[c] += amount;
        }
        uint32_t digit = 0;
        LT_UNROLL
        for (int c = 0; c < CANDIDATES; c++) {
            sums[c] = block_sum(sums[c], shared->sums);
            if (sums[c] >= target) digit++;
        }
        if (digit < CANDIDATES) *above = digit == 0 ? sums[0] : digit == 1 ? sums[1] : sums[2];
        key |= digit << shift;
    }
    return key;
}

/* What an id counts for: its units, or with a `tie` 1 where its weight has these bits. */
LT_DEVICE wide amount_of(float weight, uint32_t tie)
{
    return tie ? bits_of_float(weight) == tie : units_of(weight);
}

/* The id at which the sum of amounts, in the order of ids, passes `target`, which is less than the
 * whole sum. The warp in whose stretch that happens walks over it. */
LT_DEVICE int64_t index_at(const float *weights, stretch own, uint32_t tie, wide target,
                           sample_shared *shared)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    wide mine = 0, before = 0;
    for (int64_t i = own.begin; i < own.end; i += WARP)
        mine += amount_of(weights[i], tie);
    mine = warp_sum(mine);
    __syncthreads();
    if (lane == 0) shared->before[warp] = mine;
    __syncthreads();
    for (int w = 0; w < warp; w++)
        before += shared->before[w];
    bool here = before <= target && target < before + mine;
    for (int64_t base = own.base; here; base += WARP) {
        wide sum = base + lane < own.end ? amount_of(weights[base + lane], tie) : 0;
        for (int offset = 1; offset < WARP; offset *= 2) {
            wide left = __shfl_up_sync(FULL_MASK, sum, offset);
            if (lane >= offset) sum += left;
        }
        unsigned passed = __ballot_sync(FULL_MASK, before + sum > target);
        before += __shfl_sync(FULL_MASK, sum, WARP - 1);
        here = passed == 0;
        if (passed && lane == 0) shared->index = base + __ffs((int)passed) - 1;
    }
    __syncthreads();
    return shared->index;
}

/* --- Filters and the draw -------------------------------------------------------------------- */

/* Weights below the bits `key` become 0; of those equal to it, the ones behind `last`. */
LT_DEVICE void keep_from(float *weights, stretch own, uint32_t key, int64_t last)
{
    for (int64_t i = own.begin; i < own.end; i += WARP) {
        uint32_t bits = bits_of_float(weights[i]);
        if (bits < key || (bits == key && i > last)) weights[i] = 0;
    }
}

/* The smallest set of likeliest ids whose probability reaches p; of equal ones at its edge the
 * lower ids. */
LT_DEVICE void keep_top_p(float *weights, stretch own, double p, sample_shared *shared)
{
    wide above, total = total_of(weights, own, shared);
    wide target = max((wide)ceil(p * (double)total), (wide)1);
    uint32_t key = key_at<false>(weights, own, target, &above, shared);
    wide each = units_of(float_of_bits(key)), needed = (target - above + each - 1) / each;
    keep_from(weights, own, key, index_at(weights, own, key, needed - 1, shared));
}

/* lt_rng_stream of base/rng.h, on the device, for the purpose of sampling. */
LT_DEVICE uint64_t sample_stream(uint64_t sequence)
{
    uint64_t x = (uint64_t)LT_RNG_SAMPLE * 0x9E3779B97F4A7C15u;
    for (int i = 0; i < 2; i++) {
        x += (i == 0 ? sequence : 0) + 0x9E3779B97F4A7C15u;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
        x ^= x >> 31;
    }
    return x;
}

/* As lt_random_uniform. */
LT_DEVICE double uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t words[4];
    philox(seed, stream, index, words);
    return (double)(((uint64_t)words[1] << 32 | words[0]) >> 11) * 0x1p-53;
}

LT_DEVICE int64_t draw(const sample_params &p, int64_t row, const float *weights, stretch own,
                       sample_shared *shared)
{
    wide total = total_of(weights, own, shared);
    if (total == 0) return 0;
    uint64_t stream = sample_stream((uint64_t)p.sequence[row]);
    double u = uniform(p.seed, stream, (uint64_t)p.history_count[row]);
    wide target = (wide)(u * (double)total);
    return index_at(weights, own, 0, min(target, total - 1), shared);
}

static __global__ void __launch_bounds__(THREADS) sample_tokens_kernel(sample_params p)
{
    sample_shared *shared = shared_memory<sample_shared>();
    int64_t row = p.first_row + blockIdx.x;
    float *logits = p.logits + row * p.logits_stride, *weights = logits;
    stretch own = stretch_of(p.vocab);
    if (p.penalty > 0) penalise(p, row, logits);
    int64_t id = argmax(logits, own, p.vocab, shared);
    float largest = logits[id];
    if (p.temperature > 0 && isfinite(largest)) {
        __syncthreads(); /* all have read `largest` */
        for (int64_t i = own.begin; i < own.end; i += WARP) {
            float x = (logits[i] - largest) / p.temperature;
            weights[i] = isnan(x) ? 0 : expf(x);
        }
        if (p.top_k > 0 && p.top_k < p.vocab) {
            wide above;
            uint32_t key = key_at<true>(weights, own, (wide)p.top_k, &above, shared);
            keep_from(weights, own, key, p.vocab);
        }
        if (p.top_p > 0) keep_top_p(weights, own, p.top_p, shared);
        if (p.min_p > 0)
            for (int64_t i = own.begin; i < own.end; i += WARP)
                if (weights[i] < p.min_p) weights[i] = 0;
        id = draw(p, row, weights, own, shared);
    }
    if (threadIdx.x == 0) p.ids[row] = (int32_t)id;
}

/* The smallest f32 that is not below x. */
static float not_below(double x)
{
    float nearest = (float)x;
    return (double)nearest < x ? nextafterf(nearest, INFINITY) : nearest;
}

static sample_params params_of(const lt_backend *backend, const lt_sample_tokens_args *a)
{
    const lt_sampling *s = &a->sampling;
    sample_params p = {};
    p.logits = static_cast<float *>(a->logits.data);
    p.history = static_cast<const int32_t *>(a->history.data);
    p.history_count = static_cast<const int32_t *>(a->history_count.data);
    p.sequence = static_cast<const int32_t *>(a->sequence.data);
    p.ids = static_cast<int32_t *>(a->ids.data);
    p.penalised = static_cast<float *>(cuda_of(backend)->scratch);
    p.logits_stride = a->logits.stride[0];
    p.history_stride = a->history.stride[0];
    p.vocab = a->logits.shape[1];
    p.capacity = a->history.data ? a->history.shape[1] : 0;
    p.top_k = s->top_k;
    p.top_p = s->top_p < 1 ? s->top_p : 0;
    p.min_p = s->min_p > 0 ? not_below(s->min_p) : 0;
    /* with a smaller one, 0 / temperature would no longer be 0 in f32; nothing but ties for the
     * largest logit is left long before */
    p.temperature = s->temperature > 0 ? (float)fmax(s->temperature, 1e-30) : 0;
    p.penalty = s->repetition_penalty != 1 && p.capacity > 0 ? s->repetition_penalty : 0;
    p.seed = s->seed;
    return p;
}

extern "C" lt_status lt_cuda_sample_tokens(const lt_backend *backend,
                                           const lt_sample_tokens_args *a, lt_err *err)
{
    sample_params p = params_of(backend, a);
    int64_t rows = a->logits.shape[0], at_once = rows;
    if (p.penalty > 0) at_once = (int64_t)(LT_CUDA_SCRATCH / sizeof(float)) / p.capacity;
    if (rows > 0 && at_once == 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "sample_tokens: a history of %lld ids is too long",
                       (long long)p.capacity);
    for (; p.first_row < rows; p.first_row += at_once)
        LT_TRY(lt_launch(backend, "sample_tokens", err, sample_tokens_kernel,
                         (unsigned)lt_min_i64(rows - p.first_row, at_once), THREADS,
                         sizeof(sample_shared), p));
    return LT_OK;
}
