/* The number types of files, one value at a time. Round to nearest, ties to even; NaN stays NaN. */
#ifndef LT_MODEL_FORMATS_NUMBERS_H
#define LT_MODEL_FORMATS_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

/* `count` numbers of f32, f64, bf16 or f16, from and to f32. */
void lt_numbers_from_f32(const float *from, int64_t count, lt_dtype dtype, void *to);
void lt_numbers_to_f32(const void *from, int64_t count, lt_dtype dtype, float *to);

static inline float lt_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t lt_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float lt_bf16_to_f32(uint16_t half)
{
    return lt_f32_from_bits((uint32_t)half << 16);
}

/* The conversions below have no branches, so that loops over values become SIMD code. */

static inline uint16_t lt_f32_to_bf16(float value)
{
    uint32_t bits = lt_f32_bits(value), rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return (uint16_t)(is_nan ? bits >> 16 | 0x40 : rounded); /* a quiet NaN */
}

static inline float lt_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;
    /* the exponents' biases differ by 112; those of infinity and NaN by twice that */
    uint32_t bits = (rest << 13) + (rest >= 0x7c00u ? 0x70000000u : 0x38000000u);
    /* numbers below 2^-14 have no implicit leading one: count units of 2^-24 */
    uint32_t units = lt_f32_bits((float)(int32_t)rest * 0x1p-24f);
    uint32_t is_small = 0u - (rest < 0x0400u); /* all bits */
    return lt_f32_from_bits(sign | (units & is_small) | (bits & ~is_small));
}

static inline uint16_t lt_f32_to_f16(float value)
{
    uint32_t bits = lt_f32_bits(value), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    /* below 2^-14: adding 0.5 puts units of 2^-24 in the low bits, rounded by the FPU */
    uint32_t units = lt_f32_bits(lt_f32_from_bits(bits) + 0.5f) - 0x3f000000u;
    uint32_t half = (bits + 0xfffu + (bits >> 13 & 1) - 0x38000000u) >> 13;
    uint32_t is_small = 0u - (bits < 0x38800000u); /* all bits */
    half = bits >= 0x477ff000u ? 0x7c00u : half;   /* 65520 and up round to infinity */
    half = bits > 0x7f800000u ? 0x7e00u : half;
    return (uint16_t)(sign | (units & is_small) | (half & ~is_small));
}

#endif
