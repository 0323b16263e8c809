/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as
 * 1, 2, 3", SC 2011). A number is a pure function of (seed, stream, index), so nothing has a hidden
 * position: any element of any tensor at any step can be drawn again, in any order, by any thread.
 *
 * `stream` names what the numbers are for; build it with lt_rng_stream so that purposes, tensors
 * and steps never share one. */
#ifndef LT_BASE_RNG_H
#define LT_BASE_RNG_H

#include <stdint.h>

typedef enum lt_rng_purpose {
    LT_RNG_INIT = 1,     /* weight initialisation: a = tensor number */
    LT_RNG_SHUFFLE = 2,  /* data order: a = epoch */
    LT_RNG_SPLIT = 3,    /* held-out split */
    LT_RNG_DROPOUT = 4,  /* a = step and micro-batch, b = site in the model */
    LT_RNG_SAMPLE = 5,   /* sampling of tokens: a = sequence */
    LT_RNG_HASH = 6,     /* MinHash permutations */
    LT_RNG_ROUNDING = 7, /* stochastic rounding of optimizer state: a = step */
} lt_rng_purpose;

static inline uint64_t lt_rng_stream(lt_rng_purpose purpose, uint64_t a, uint64_t b)
{
    /* splitmix64 finaliser over the fields: distinct inputs give unrelated streams */
    uint64_t x = (uint64_t)purpose * 0x9E3779B97F4A7C15u;
    const uint64_t parts[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        x += parts[i] + 0x9E3779B97F4A7C15u;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
        x ^= x >> 31;
    }
    return x;
}

/* Four independent 32-bit words for block `index` of the stream. */
void lt_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);

uint64_t lt_random_u64(uint64_t seed, uint64_t stream, uint64_t index);
double lt_random_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* in [0, 1) */
double lt_random_normal(uint64_t seed, uint64_t stream, uint64_t index);  /* mean 0, variance 1 */

/* A number in [0, bound), bound >= 1, without modulo bias worth speaking of (64-bit multiply). */
uint64_t lt_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound);

#endif
