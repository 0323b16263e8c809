/* F16, BF16, and blocks of 32 values with one scale: Q8_0, Q5_0, Q4_0. Compiled several times
 * (quants_internal.h). */
#include <math.h>

#include "model/formats/quants_internal.h"

enum { HALF_BLOCK = LT_BLOCK / 2 };
enum { BYTES8 = 2 + LT_BLOCK, BYTES5 = 2 + 4 + HALF_BLOCK, BYTES4 = 2 + HALF_BLOCK };

/* --- Plain numbers -----------------------------------------------------------------------------
 */

static void encode_f16(const float *x, int64_t count, unsigned char *restrict out)
{
    for (int64_t i = 0; i < count; i++)
        lt_put_f16(out + 2 * i, x[i]);
}

static void decode_f16(const unsigned char *restrict in, int64_t count, float *restrict out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = lt_get_f16(in + 2 * i);
}

static void encode_bf16(const float *x, int64_t count, unsigned char *restrict out)
{
    for (int64_t i = 0; i < count; i++)
        lt_put_u16(out + 2 * i, lt_f32_to_bf16(x[i]));
}

static void decode_bf16(const unsigned char *restrict in, int64_t count, float *restrict out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = lt_bf16_to_f32(lt_get_u16(in + 2 * i));
}

/* --- Scales ------------------------------------------------------------------------------------
 */

/* Largest magnitude of a block. Magnitudes are in the order of their bits, and the maximum of
 * integers, unlike that of floats, may be taken in any order. */
static int32_t magnitude_bits(const float *x)
{
    int32_t largest = 0;
    for (int i = 0; i < LT_BLOCK; i++) {
        int32_t bits = (int32_t)(lt_f32_bits(x[i]) & 0x7fffffff);
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* The value of largest magnitude, with its sign; the first of several. */
static float signed_largest(const float *x)
{
    int32_t largest = magnitude_bits(x);
    int first = LT_BLOCK;
    for (int i = 0; i < LT_BLOCK; i++) {
        int place = (int32_t)(lt_f32_bits(x[i]) & 0x7fffffff) == largest ? i : LT_BLOCK;
        first = place < first ? place : first;
    }
    return largest ? x[first] : 0;
}

static float inverse(float d)
{
    return d != 0 ? 1.0f / d : 0.0f;
}

/* --- Q8_0: f16 scale, 32 signed bytes ----------------------------------------------------------
 */

/* As roundf, halves away from zero; |x| < 2^31. */
static inline int round_away(float x)
{
    int whole = (int)x;
    float rest = x - (float)whole;
    return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

/* Where the scale is so small that its inverse is infinite, ggml has what x86 makes of infinite
 * values and NaN: the smallest int, whose low byte is 0. */
static void encode_q8_0(const float *x, int64_t blocks, unsigned char *out)
{
    for (; blocks > 0; blocks--, x += LT_BLOCK, out += BYTES8) {
        int8_t levels[LT_BLOCK];
        float d = lt_f32_from_bits((uint32_t)magnitude_bits(x)) / 127, id = inverse(d);
        if (isinf(id)) id = 0;
        for (int i = 0; i < LT_BLOCK; i++)
            levels[i] = (int8_t)round_away(x[i] * id);
        lt_put_f16(out, d);
        memcpy(out + 2, levels, sizeof levels);
    }
}

static void decode_q8_0(const unsigned char *in, int64_t blocks, float *restrict out)
{
    for (; blocks > 0; blocks--, in += BYTES8, out += LT_BLOCK) {
        float d = lt_get_f16(in);
        for (int i = 0; i < LT_BLOCK; i++)
            out[i] = (float)(int8_t)in[2 + i] * d;
    }
}

/* --- Q4_0, Q5_0 --------------------------------------------------------------------------------
 */

/* Levels 0 to 2 half - 1 stand for -half to half - 1 scales; the largest magnitude has level 0.
 * Returns the scale. An infinite inverse makes all levels 0, as in Q8_0. */
static float levels_of(const float *x, int half, uint8_t *restrict levels)
{
    float d = signed_largest(x) / (float)-half, id = inverse(d), middle = (float)half + 0.5f;
    if (isinf(id)) id = middle = 0;
    for (int i = 0; i < LT_BLOCK; i++) {
        int level = (int)(x[i] * id + middle);
        levels[i] = (uint8_t)(level < 2 * half ? level : 2 * half - 1);
    }
    return d;
}

/* The first 16 values in low halves of bytes and the others in high ones. */
static void pack_halves(const uint8_t *levels, unsigned char *restrict out)
{
    LT_SIMD for (int i = 0; i < HALF_BLOCK; i++) out[i] =
        (unsigned char)((levels[i] & 15) | (levels[i + HALF_BLOCK] & 15) << 4);
}

/* f16 scale, halves of bytes. */
static void encode_q4_0(const float *x, int64_t blocks, unsigned char *out)
{
    for (; blocks > 0; blocks--, x += LT_BLOCK, out += BYTES4) {
        uint8_t levels[LT_BLOCK];
        lt_put_f16(out, levels_of(x, 8, levels));
        pack_halves(levels, out + 2);
    }
}

static void decode_q4_0(const unsigned char *in, int64_t blocks, float *restrict out)
{
    for (; blocks > 0; blocks--, in += BYTES4, out += LT_BLOCK) {
        float d = lt_get_f16(in);
        LT_SIMD for (int i = 0; i < HALF_BLOCK; i++) out[i] = (float)((in[2 + i] & 15) - 8) * d;
        LT_SIMD for (int i = 0; i < HALF_BLOCK; i++) out[i + HALF_BLOCK] =
            (float)((in[2 + i] >> 4) - 8) * d;
    }
}

/* As Q4_0, with the fifth bits of all values in four bytes between. */
static void encode_q5_0(const float *x, int64_t blocks, unsigned char *out)
{
    for (; blocks > 0; blocks--, x += LT_BLOCK, out += BYTES5) {
        uint8_t levels[LT_BLOCK];
        uint32_t fifth = 0;
        lt_put_f16(out, levels_of(x, 16, levels));
        for (int i = 0; i < LT_BLOCK; i++)
            fifth |= (uint32_t)(levels[i] >> 4) << i;
        memcpy(out + 2, &fifth, sizeof fifth);
        pack_halves(levels, out + 6);
    }
}

static void decode_q5_0(const unsigned char *in, int64_t blocks, float *restrict out)
{
    for (; blocks > 0; blocks--, in += BYTES5, out += LT_BLOCK) {
        float d = lt_get_f16(in);
        uint32_t fifth;
        memcpy(&fifth, in + 2, sizeof fifth);
        LT_SIMD for (int i = 0; i < HALF_BLOCK; i++) out[i] =
            (float)((in[6 + i] & 15) + (int)(fifth >> i & 1) * 16 - 16) * d;
        LT_SIMD for (int i = 0; i < HALF_BLOCK; i++) out[i + HALF_BLOCK] =
            (float)((in[6 + i] >> 4) + (int)(fifth >> (i + HALF_BLOCK) & 1) * 16 - 16) * d;
    }
}

const lt_coder LT_ISA(f16) = {encode_f16, decode_f16};
const lt_coder LT_ISA(bf16) = {encode_bf16, decode_bf16};
const lt_coder LT_ISA(q8_0) = {encode_q8_0, decode_q8_0};
const lt_coder LT_ISA(q5_0) = {encode_q5_0, decode_q5_0};
const lt_coder LT_ISA(q4_0) = {encode_q4_0, decode_q4_0};
