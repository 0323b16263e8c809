/* The dropout mask, many elements at a time: the same words as lt_philox, several blocks in the
 * lanes of a vector. */
#ifndef LT_KERNELS_CPU_DROPOUT_H
#define LT_KERNELS_CPU_DROPOUT_H

#include "kernels/cpu/vec.h"
#include "kernels/internal.h"

#define DROPOUT_BLOCKS (LANES / 2)          /* Philox blocks in the 64-bit lanes of a vector */
#define DROPOUT_WORDS  (4 * DROPOUT_BLOCKS) /* elements they decide over */
#define DROPOUT_BATCH  256                  /* factors that one call may ask for */

/* Blocks index .. index + DROPOUT_BLOCKS - 1. A lane holds 32 bits; what multiplication leaves
 * above them is ignored by the next one. */
INLINE void dropout_words(const lt_dropout_mask *mask, uint64_t index, uint32_t *out)
{
    const vec_u64 low = vec_u64_set(0xFFFFFFFFu);
    vec_u64 block = vec_u64_count() + vec_u64_set(index);
    vec_u64 c0 = block & low, c1 = block >> 32;
    vec_u64 c2 = vec_u64_set(mask->stream & 0xFFFFFFFFu), c3 = vec_u64_set(mask->stream >> 32);
    uint32_t k0 = (uint32_t)mask->seed, k1 = (uint32_t)(mask->seed >> 32);
    for (int round = 0; round < 10; round++) {
        vec_u64 p0 = vec_multiply_u32(vec_u64_set(0xD2511F53u), c0);
        vec_u64 p1 = vec_multiply_u32(vec_u64_set(0xCD9E8D57u), c2);
        c0 = (p1 >> 32) ^ c1 ^ vec_u64_set(k0);
        c1 = p1 & low;
        c2 = (p0 >> 32) ^ c3 ^ vec_u64_set(k1);
        c3 = p0 & low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    vec_u64 first = (c0 & low) | c1 << 32, second = (c2 & low) | c3 << 32;
    for (int b = 0; b < DROPOUT_BLOCKS; b++) {
        uint64_t pair[2] = {first[b], second[b]};
        __builtin_memcpy(out + 4 * b, pair, sizeof pair);
    }
}

/* factors[i] = 0 or 1 / (1 - rate) for element first + i; count <= DROPOUT_BATCH, rate > 0. */
INLINE void dropout_factors(const lt_dropout_mask *mask, uint64_t first, int64_t count,
                            float *factors)
{
    uint32_t words[DROPOUT_BATCH + 2 * DROPOUT_WORDS];
    int64_t skip = (int64_t)(first % 4);
    for (int64_t i = 0; i < skip + count; i += DROPOUT_WORDS)
        dropout_words(mask, first / 4 + (uint64_t)i / 4, words + i);
    /* word >= threshold, written so that a threshold of 2^32 (nothing is kept) fits in 32 bits */
    uint32_t below = (uint32_t)(lt_dropout_threshold(mask) - 1);
    float scale = (float)(1 / (1 - mask->rate));
    for (int64_t i = 0; i < count; i++)
        factors[i] = words[skip + i] > below ? scale : 0;
}

#endif
