/* Q4_K and Q6_K: 256 values whose groups of 32 or 16 have scales that are quantised themselves.
 * Each group's scale is searched for: rounding is tried with slightly different steps, and a
 * weighted least squares fit of the values to what was rounded gives the scale that is kept.
 *
 * Expressions keep ggml's order of operations in f32: another order is another file. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "model/formats/quants_internal.h"

/* Nearest integer, ties to even, of |x| < 2^22: adding 1.5 * 2^23 leaves it in the low bits. Of
 * other values something well-defined, the same that ggml has. */
static int nearest(float x)
{
    return (int)(lt_f32_bits(x + 12582912.0f) & 0x007fffff) - 0x00400000;
}

static int clamp(int x, int low, int high)
{
    return x < low ? low : x > high ? high : x;
}

/* --- Q4_K: value = scale * level - minimum, levels 0 to 15 -------------------------------------
 *
 * f16 d, f16 dmin, 8 scales and 8 minimums of 6 bits in 12 bytes, 128 bytes of levels. */

enum { GROUPS4 = LT_SUPER_BLOCK / LT_BLOCK, TOP4 = 15, STEPS4 = 20 };

/* A group of values, how much each counts, and the sums that every fit needs. */
typedef struct fit_group {
    const float *x;
    float weights[LT_BLOCK], sum_w, sum_x;
} fit_group;

/* Large values count for more. */
static fit_group make_group(const float *x)
{
    fit_group g = {.x = x};
    float squares = 0;
    for (int i = 0; i < LT_BLOCK; i++)
        squares += x[i] * x[i];
    float typical = sqrtf(squares / LT_BLOCK);
    for (int i = 0; i < LT_BLOCK; i++) {
        g.weights[i] = typical + fabsf(x[i]);
        g.sum_w += g.weights[i];
        g.sum_x += g.weights[i] * x[i];
    }
    return g;
}

static float fit_error(const fit_group *g, const uint8_t *levels, float scale, float low)
{
    float error = 0;
    for (int i = 0; i < LT_BLOCK; i++) {
        float difference = scale * (float)levels[i] + low - g->x[i];
        error += g->weights[i] * (difference * difference);
    }
    return error;
}

/* Levels for a step of 1 / inverse, and the scale and lower end that fit them best. False when
 * they are all the same. */
static bool try_step(const fit_group *g, float inverse, float low, uint8_t *levels, float *scale,
                     float *new_low)
{
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int i = 0; i < LT_BLOCK; i++) {
        levels[i] = (uint8_t)clamp(nearest(inverse * (g->x[i] - low)), 0, TOP4);
        float l = (float)levels[i], w = g->weights[i];
        sum_l += w * l;
        sum_l2 += w * l * l;
        sum_xl += w * l * g->x[i];
    }
    float determinant = g->sum_w * sum_l2 - sum_l * sum_l;
    if (!(determinant > 0)) return false;
    *scale = (g->sum_w * sum_xl - g->sum_x * sum_l) / determinant;
    *new_low = (sum_l2 * g->sum_x - sum_l * sum_xl) / determinant;
    if (*new_low > 0) {
        *new_low = 0;
        *scale = sum_xl / sum_l2;
    }
    return true;
}

/* The best scale, levels and minimum (not negative) of a group. */
static float fit_scale_and_minimum(const float *x, uint8_t *levels, float *minimum)
{
    fit_group g = make_group(x);
    float low = x[0], high = x[0];
    for (int i = 1; i < LT_BLOCK; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
    }
    if (low > 0) low = 0; /* minimums have no sign */
    memset(levels, 0, LT_BLOCK);
    *minimum = -low;
    if (high == low) return 0;

    float range = high - low, inverse = TOP4 / range, scale = 1 / inverse;
    for (int i = 0; i < LT_BLOCK; i++)
        levels[i] = (uint8_t)clamp(nearest(inverse * (x[i] - low)), 0, TOP4);
    float least = fit_error(&g, levels, scale, low);
    for (int step = 0; step <= STEPS4; step++) {
        uint8_t tried[LT_BLOCK];
        float new_scale, new_low;
        inverse = (-1.0f + 0.1f * (float)step + TOP4) / (high - low);
        if (!try_step(&g, inverse, low, tried, &new_scale, &new_low)) continue;
        float error = fit_error(&g, tried, new_scale, new_low);
        if (!(error < least)) continue;
        memcpy(levels, tried, LT_BLOCK);
        least = error;
        scale = new_scale;
        low = new_low;
    }
    *minimum = -low;
    return scale;
}

/* Six bits each: scales and minimums 0 to 3 in bytes 0 to 7, the others' low four bits in bytes 8
 * to 11 and their high two on top of bytes 0 to 7. */
static void pack_scale(unsigned char *packed, int group, unsigned scale, unsigned minimum)
{
    if (group < 4) {
        packed[group] = (unsigned char)scale;
        packed[group + 4] = (unsigned char)minimum;
        return;
    }
    packed[group + 4] = (unsigned char)((scale & 15) | (minimum & 15) << 4);
    packed[group - 4] |= (unsigned char)(scale >> 4 << 6);
    packed[group] |= (unsigned char)(minimum >> 4 << 6);
}

static void unpack_scale(const unsigned char *packed, int group, float *scale, float *minimum)
{
    if (group < 4) {
        *scale = (float)(packed[group] & 63);
        *minimum = (float)(packed[group + 4] & 63);
        return;
    }
    *scale = (float)((packed[group + 4] & 15) | packed[group - 4] >> 6 << 4);
    *minimum = (float)(packed[group + 4] >> 4 | packed[group] >> 6 << 4);
}

static unsigned six_bits(float x)
{
    uint8_t rounded = (uint8_t)nearest(x);
    return rounded < 63 ? rounded : 63;
}

void lt_encode_q4_k(const float *x, unsigned char *out)
{
    unsigned char *packed = out + 4, *bytes = out + 16;
    uint8_t levels[LT_SUPER_BLOCK];
    float scales[GROUPS4], minimums[GROUPS4], max_scale = 0, max_minimum = 0;
    for (int j = 0; j < GROUPS4; j++) {
        scales[j] = fit_scale_and_minimum(x + LT_BLOCK * j, levels + LT_BLOCK * j, &minimums[j]);
        if (scales[j] > max_scale) max_scale = scales[j];
        if (minimums[j] > max_minimum) max_minimum = minimums[j];
    }
    float inverse_scale = max_scale > 0 ? 63.0f / max_scale : 0;
    float inverse_minimum = max_minimum > 0 ? 63.0f / max_minimum : 0;
    lt_put_f16(out, max_scale / 63.0f);
    lt_put_f16(out + 2, max_minimum / 63.0f);
    for (int j = 0; j < GROUPS4; j++)
        pack_scale(packed, j, six_bits(inverse_scale * scales[j]),
                   six_bits(inverse_minimum * minimums[j]));

    /* once more, with the scales that were stored */
    for (int j = 0; j < GROUPS4; j++) {
        float scale, minimum;
        unpack_scale(packed, j, &scale, &minimum);
        float d = lt_get_f16(out) * scale, low = lt_get_f16(out + 2) * minimum;
        if (d == 0) continue;
        for (int i = LT_BLOCK * j; i < LT_BLOCK * (j + 1); i++)
            levels[i] = (uint8_t)clamp(nearest((x[i] + low) / d), 0, TOP4);
    }
    for (int i = 0; i < LT_SUPER_BLOCK / 2; i++) {
        const uint8_t *pair = levels + i / LT_BLOCK * 2 * LT_BLOCK + i % LT_BLOCK;
        bytes[i] = (unsigned char)(pair[0] | pair[LT_BLOCK] << 4);
    }
}

void lt_decode_q4_k(const unsigned char *in, float *out)
{
    const unsigned char *packed = in + 4, *bytes = in + 16;
    for (int j = 0; j < GROUPS4; j++) {
        float scale, minimum;
        unpack_scale(packed, j, &scale, &minimum);
        float d = lt_get_f16(in) * scale, low = lt_get_f16(in + 2) * minimum;
        for (int i = 0; i < LT_BLOCK; i++) {
            int byte = bytes[j / 2 * LT_BLOCK + i];
            out[j * LT_BLOCK + i] = d * (float)(j % 2 ? byte >> 4 : byte & 15) - low;
        }
    }
}

/* --- Q6_K: value = scale * level, levels -32 to 31 ---------------------------------------------
 *
 * 128 bytes of low four bits, 64 bytes of high two, 16 signed scales, f16 d. */

enum { GROUP6 = 16, GROUPS6 = LT_SUPER_BLOCK / GROUP6, HALF6 = 32, TRIES6 = 9 };
enum { HIGH6 = 128, SCALES6 = 192, D6 = 208 }; /* places in the block */

#define SMALLEST_GROUP 1e-15f /* less counts as zero */

/* Levels for a step of 1 / inverse, and the sums of the fit, where values count by their square. */
static void round_group(const float *x, float inverse, int8_t *levels, float *sum_xl, float *sum_l2)
{
    *sum_xl = *sum_l2 = 0;
    for (int i = 0; i < GROUP6; i++) {
        levels[i] = (int8_t)clamp(nearest(inverse * x[i]), -HALF6, HALF6 - 1);
        float l = (float)levels[i], w = x[i] * x[i];
        *sum_xl += w * x[i] * l;
        *sum_l2 += w * l * l;
    }
}

/* The best scale and levels of a group. */
static float fit_scale(const float *x, int8_t *levels)
{
    float magnitude = 0, largest = 0, sum_xl, sum_l2;
    for (int i = 0; i < GROUP6; i++) {
        if (fabsf(x[i]) <= magnitude) continue;
        magnitude = fabsf(x[i]);
        largest = x[i];
    }
    memset(levels, -HALF6, GROUP6);
    if (magnitude < SMALLEST_GROUP) return 0;

    round_group(x, -HALF6 / largest, levels, &sum_xl, &sum_l2);
    float scale = sum_l2 != 0 ? sum_xl / sum_l2 : 0, best = scale * sum_xl;
    for (int step = -TRIES6; step <= TRIES6; step++) {
        int8_t tried[GROUP6];
        if (step == 0) continue;
        round_group(x, -(HALF6 + 0.1f * (float)step) / largest, tried, &sum_xl, &sum_l2);
        if (!(sum_l2 > 0 && sum_xl * sum_xl > best * sum_l2)) continue;
        memcpy(levels, tried, GROUP6);
        scale = sum_xl / sum_l2;
        best = scale * sum_xl;
    }
    return scale;
}

/* Where value i has its low four bits and its high two: each byte of a half of the block serves 2
 * or 4 values that are 64 or 32 apart. */
static void pack_level(unsigned char *out, int i, unsigned level)
{
    int half = i / 128, quarter = i % 128 / 32, place = i % 32;
    out[half * 64 + quarter % 2 * 32 + place] |= (unsigned char)((level & 15) << quarter / 2 * 4);
    out[HIGH6 + half * 32 + place] |= (unsigned char)(level >> 4 << quarter * 2);
}

static int unpack_level(const unsigned char *in, int i)
{
    int half = i / 128, quarter = i % 128 / 32, place = i % 32;
    int low = in[half * 64 + quarter % 2 * 32 + place] >> quarter / 2 * 4 & 15;
    int high = in[HIGH6 + half * 32 + place] >> quarter * 2 & 3;
    return (low | high << 4) - HALF6;
}

void lt_encode_q6_k(const float *x, unsigned char *out)
{
    int8_t levels[LT_SUPER_BLOCK];
    float scales[GROUPS6], max_scale = 0;
    memset(out, 0, D6 + 2);
    for (int j = 0; j < GROUPS6; j++) {
        scales[j] = fit_scale(x + GROUP6 * j, levels + GROUP6 * j);
        if (fabsf(scales[j]) > fabsf(max_scale)) max_scale = scales[j];
    }
    if (fabsf(max_scale) < SMALLEST_GROUP) return;

    float inverse = -128.0f / max_scale;
    lt_put_f16(out + D6, 1 / inverse);
    for (int j = 0; j < GROUPS6; j++) {
        int8_t stored = (int8_t)lt_min_i64(127, nearest(inverse * scales[j]));
        out[SCALES6 + j] = (unsigned char)stored;
        /* once more, with the scale that was stored */
        float d = lt_get_f16(out + D6) * (float)stored;
        if (d == 0) continue;
        for (int i = GROUP6 * j; i < GROUP6 * (j + 1); i++)
            levels[i] = (int8_t)clamp(nearest(x[i] / d), -HALF6, HALF6 - 1);
    }
    for (int i = 0; i < LT_SUPER_BLOCK; i++)
        pack_level(out, i, (unsigned)(levels[i] + HALF6));
}

void lt_decode_q6_k(const unsigned char *in, float *out)
{
    float d = lt_get_f16(in + D6);
    for (int i = 0; i < LT_SUPER_BLOCK; i++)
        out[i] = d * (float)(int8_t)in[SCALES6 + i / GROUP6] * (float)unpack_level(in, i);
}
