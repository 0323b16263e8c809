/* The choice of the next id from its logits.
 *
 * The filters need the k-th largest logit, or the logit at which the likeliest ids together reach
 * some probability. Both come from a radix descent over the logits' bits, four passes over the
 * vocabulary, with no sorting and no memory. Filtered logits become -inf, so that each filter works
 * on what the one before has left. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "model/model.h"

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

/* Bits in the order of the numbers: a larger float has a larger key. */
static uint32_t key_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static double weight_of(float logit, float largest, bool count_only)
{
    return count_only ? 1 : exp((double)logit - (double)largest);
}

/* The key of the logit at which the weights of all larger logits and its own reach `target`. A
 * weight is 1 (count_only) or the unnormalised probability. *above: the weight of what is larger.
 */
static uint32_t key_at_weight(const float *logits, int64_t vocab, float largest, bool count_only,
                              double target, double *above)
{
    uint32_t prefix = 0, mask = 0;
    double sum = 0; /* of everything beyond the current prefix */
    for (int shift = 24; shift >= 0; shift -= 8) {
        double bins[256] = {0};
        for (int64_t i = 0; i < vocab; i++) {
            uint32_t key = key_of(logits[i]);
            if ((key & mask) != prefix) continue;
            bins[key >> shift & 255] += weight_of(logits[i], largest, count_only);
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

/* Ties at the k-th place are all kept. */
static void keep_top_k(float *logits, int64_t vocab, float largest, int64_t k)
{
    double above;
    if (k >= vocab) return;
    uint32_t threshold = key_at_weight(logits, vocab, largest, true, (double)k, &above);
    for (int64_t i = 0; i < vocab; i++)
        if (key_of(logits[i]) < threshold) logits[i] = -INFINITY;
}

/* Keeps the smallest set of likeliest ids whose probability reaches p; of equal ones at its edge
 * the lower ids. */
static void keep_top_p(float *logits, int64_t vocab, float largest, double p)
{
    double above, total = 0;
    for (int64_t i = 0; i < vocab; i++)
        total += weight_of(logits[i], largest, false);
    uint32_t threshold = key_at_weight(logits, vocab, largest, false, p * total, &above);
    for (int64_t i = 0; i < vocab; i++) {
        uint32_t key = key_of(logits[i]);
        bool keep = key > threshold;
        if (key == threshold && above < p * total) {
            keep = true;
            above += weight_of(logits[i], largest, false);
        }
        if (!keep) logits[i] = -INFINITY;
    }
}

static void keep_min_p(float *logits, int64_t vocab, float largest, double p)
{
    for (int64_t i = 0; i < vocab; i++)
        if (weight_of(logits[i], largest, false) < p) logits[i] = -INFINITY;
}

/* The id at which the cumulative probability passes u in [0, 1). */
static int64_t draw(const float *logits, int64_t vocab, float largest, double u)
{
    double total = 0, sum = 0;
    int64_t last = 0;
    for (int64_t i = 0; i < vocab; i++)
        total += weight_of(logits[i], largest, false);
    for (int64_t i = 0; i < vocab; i++) {
        double weight = weight_of(logits[i], largest, false);
        if (weight == 0) continue;
        sum += weight;
        last = i;
        if (sum > u * total) break;
    }
    return last;
}

int32_t lt_sample(float *logits, int64_t vocab, const lt_sampling *sampling, const int32_t *history,
                  int64_t history_count, uint64_t sequence)
{
    double penalty = sampling->repetition_penalty;
    if (penalty > 0 && penalty != 1) penalise(logits, vocab, penalty, history, history_count);
    int64_t best = argmax(logits, vocab);
    if (sampling->temperature <= 0 || !isfinite(logits[best])) return (int32_t)best;

    for (int64_t i = 0; i < vocab; i++) {
        /* relative to the largest, so that a tiny temperature does not overflow */
        double x = ((double)logits[i] - (double)logits[best]) / sampling->temperature;
        if (i != best) logits[i] = isnan(x) ? -INFINITY : (float)x;
    }
    logits[best] = 0;
    float largest = 0;
    if (sampling->top_k > 0) keep_top_k(logits, vocab, largest, sampling->top_k);
    if (sampling->top_p > 0 && sampling->top_p < 1)
        keep_top_p(logits, vocab, largest, sampling->top_p);
    if (sampling->min_p > 0) keep_min_p(logits, vocab, largest, sampling->min_p);
    uint64_t stream = lt_rng_stream(LT_RNG_SAMPLE, sequence, 0);
    double u = lt_random_uniform(sampling->seed, stream, (uint64_t)history_count);
    return (int32_t)draw(logits, vocab, largest, u);
}
