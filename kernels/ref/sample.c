/* The choice of the next id from its logits.
 *
 * Logits become weights, exp((logit - largest) / temperature), in place. The filters need the k-th
 * largest weight, or the weight at which the likeliest ids together reach some probability. Both
 * come from a radix descent over the weights' bits, four passes over the vocabulary, with no
 * sorting and no memory. What a filter drops gets weight 0, so that each works on what the one
 * before left. Logits are f32, whatever `real` is. */
#include "kernels/ref/ref.h"

static int64_t argmax(const float *logits, int64_t vocab)
{
    int64_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best] || isnan(logits[best])) best = i;
    return best;
}

/* Each id that occurred is made less likely once, however often it occurred (Keskar et al., "CTRL",
 * 2019; as Hugging Face applies it). */
static void penalise(float *logits, int64_t vocab, double penalty, const int32_t *history,
                     int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        int32_t id = history[i];
        int64_t earlier = i - 1;
        while (earlier >= 0 && history[earlier] != id)
            earlier--;
        if (earlier >= 0 || id < 0 || id >= vocab) continue;
        double x = logits[id];
        logits[id] = (float)(x < 0 ? x * penalty : x / penalty);
    }
}

/* A weight is not negative, so its bits are in the order of the numbers. */
static uint32_t key_of(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits;
}

/* The key of the weight at which everything larger and its own reach `target`: in number with
 * `count`, else in sum. *above: what is larger. Target > 0. */
static uint32_t key_at(const float *weights, int64_t vocab, bool count, double target,
                       double *above)
{
    uint32_t prefix = 0, mask = 0;
    double sum = 0; /* of everything beyond the current prefix */
    for (int shift = 24; shift >= 0; shift -= 8) {
        double bins[256] = {0};
        for (int64_t i = 0; i < vocab; i++) {
            uint32_t key = key_of(weights[i]);
            if ((key & mask) == prefix) bins[key >> shift & 255] += count ? 1 : (double)weights[i];
        }
        int lowest = 0, bin = 255;
        while (lowest < 255 && bins[lowest] == 0)
            lowest++;
        /* rounding may leave the target just out of reach: then the lowest weight ends it */
        while (bin > lowest && sum + bins[bin] < target)
            sum += bins[bin--];
        prefix |= (uint32_t)bin << shift;
        mask |= (uint32_t)255 << shift;
    }
    *above = sum;
    return prefix;
}

static double sum_of(const float *weights, int64_t vocab)
{
    double sum = 0;
    for (int64_t i = 0; i < vocab; i++)
        sum += (double)weights[i];
    return sum;
}

/* Ties at the k-th place are all kept. */
static void keep_top_k(float *weights, int64_t vocab, int64_t k)
{
    double above;
    if (k >= vocab) return;
    uint32_t threshold = key_at(weights, vocab, true, (double)k, &above);
    for (int64_t i = 0; i < vocab; i++)
        if (key_of(weights[i]) < threshold) weights[i] = 0;
}

/* Keeps the smallest set of likeliest ids whose probability reaches p; of equal ones at its edge
 * the lower ids. */
static void keep_top_p(float *weights, int64_t vocab, double p)
{
    double above, target = p * sum_of(weights, vocab);
    uint32_t threshold = key_at(weights, vocab, false, target, &above);
    for (int64_t i = 0; i < vocab; i++) {
        uint32_t key = key_of(weights[i]);
        if (key > threshold) continue;
        if (key == threshold && above < target)
            above += (double)weights[i];
        else
            weights[i] = 0;
    }
}

/* The largest weight is 1. */
static void keep_min_p(float *weights, int64_t vocab, double p)
{
    for (int64_t i = 0; i < vocab; i++)
        if ((double)weights[i] < p) weights[i] = 0;
}

/* The id at which the cumulative probability passes u in [0, 1). */
static int64_t draw(const float *weights, int64_t vocab, double u)
{
    double target = u * sum_of(weights, vocab), sum = 0;
    int64_t last = 0;
    for (int64_t i = 0; i < vocab; i++) {
        if (weights[i] == 0) continue;
        sum += (double)weights[i];
        last = i;
        if (sum > target) break;
    }
    return last;
}

static int32_t sample(float *logits, int64_t vocab, const lt_sampling *sampling,
                      const int32_t *history, int64_t history_count, uint64_t sequence)
{
    double penalty = sampling->repetition_penalty;
    if (history && penalty > 0 && penalty != 1)
        penalise(logits, vocab, penalty, history, history_count);
    int64_t best = argmax(logits, vocab);
    if (sampling->temperature <= 0 || !isfinite(logits[best])) return (int32_t)best;

    float *weights = logits, largest = logits[best];
    for (int64_t i = 0; i < vocab; i++) {
        /* relative to the largest, so that a tiny temperature does not overflow */
        double x = ((double)logits[i] - (double)largest) / sampling->temperature;
        weights[i] = isnan(x) ? 0 : (float)exp(x);
    }
    if (sampling->top_k > 0) keep_top_k(weights, vocab, sampling->top_k);
    if (sampling->top_p > 0 && sampling->top_p < 1) keep_top_p(weights, vocab, sampling->top_p);
    if (sampling->min_p > 0) keep_min_p(weights, vocab, sampling->min_p);
    uint64_t stream = lt_rng_stream(LT_RNG_SAMPLE, sequence, 0);
    double u = lt_random_uniform(sampling->seed, stream, (uint64_t)history_count);
    return (int32_t)draw(weights, vocab, u);
}

REFERENCE(sample_tokens, lt_sample_tokens_args)
{
    int64_t vocab = a->logits.shape[1];
    for (int64_t r = 0; vocab > 0 && r < a->logits.shape[0]; r++) {
        float *logits = (float *)a->logits.data + r * a->logits.stride[0];
        const int32_t *history = a->history.data;
        if (history) history += r * a->history.stride[0];
        ((int32_t *)a->ids.data)[r] =
            sample(logits, vocab, &a->sampling, history, integers(&a->history_count)[r],
                   (uint64_t)integers(&a->sequence)[r]);
    }
    return LT_OK;
}
