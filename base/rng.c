#include "base/rng.h"

#include <math.h>

void lt_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t lt_random_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t words[4];
    lt_philox(seed, stream, index, words);
    return (uint64_t)words[1] << 32 | words[0];
}

double lt_random_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return (double)(lt_random_u64(seed, stream, index) >> 11) * 0x1p-53;
}

double lt_random_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    /* Box-Muller; u1 is in (0, 1] so that its logarithm is finite */
    uint32_t words[4];
    lt_philox(seed, stream, index, words);
    double u1 = ((double)words[0] + 1.0) * 0x1p-32;
    double u2 = (double)words[1] * 0x1p-32;
    return sqrt(-2.0 * log(u1)) * cos(6.283185307179586476925 * u2);
}

uint64_t lt_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)lt_random_u64(seed, stream, index) * bound) >> 64);
}
