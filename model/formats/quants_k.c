/* Q4_K and Q6_K: 256 values whose groups of 32 or 16 have scales that are quantised themselves.
 * Each group's scale is searched for: rounding is tried with slightly different steps, and a
 * weighted least squares fit of the values to what was rounded gives the scale that is kept.
 *
 * The sums of a fit have ggml's order, so that SIMD is over groups: LANES of them are searched side
 * by side, value i of all of them together. Compiled several times (quants_internal.h). */
#include <math.h>

#include "base/checked.h"
#include "model/formats/quants_internal.h"

enum { LANES = 16 };
typedef float lanes[LANES]; /* a number of each group */

#define EACH_LANE LT_SIMD for (int k = 0; k < LANES; k++)

/* Nearest integer, ties to even, of |x| < 2^22: adding 1.5 * 2^23 leaves it in the low bits. Of
 * other values something well-defined, the same that ggml has. */
static inline int nearest(float x)
{
    return (int)(lt_f32_bits(x + 12582912.0f) & 0x007fffff) - 0x00400000;
}

static inline int clamp(int x, int low, int high)
{
    return x < low ? low : x > high ? high : x;
}

/* Values of groups of `size` that follow each other, turned. Where there are fewer than LANES
 * groups they repeat. */
static void turn_groups(const float *x, int size, int groups, lanes *out)
{
    for (int k = 0; k < LANES; k++)
        for (int i = 0; i < size; i++)
            out[i][k] = x[k % groups * size + i];
}

/* --- Q4_K: value = scale * level - minimum, levels 0 to 15 -------------------------------------
 *
 * f16 d, f16 dmin, 8 scales and 8 minimums of 6 bits in 12 bytes, 128 bytes of levels. */

enum { GROUPS4 = LT_SUPER_BLOCK / LT_BLOCK, TOP4 = 15, STEPS4 = 20 };
enum { SCALES4 = 4, LEVELS4 = 16, BYTES4 = 144 }; /* places in the block, and its size */

/* Groups of values, how much each counts, and the sums that every fit needs. */
typedef struct weighted {
    lanes x[LT_BLOCK], weights[LT_BLOCK], sum_w, sum_x;
} weighted;

/* Rounded with step 1 / inverse from `from` on, and what fits that best; error: of the fit. */
typedef struct fit4 {
    lanes inverse, from, scale, low, error;
} fit4;

/* Large values count for more. */
static void weigh(weighted *g)
{
    lanes typical = {0}, sum_w = {0}, sum_x = {0};
    for (int i = 0; i < LT_BLOCK; i++)
        EACH_LANE typical[k] += g->x[i][k] * g->x[i][k];
    EACH_LANE typical[k] = sqrtf(typical[k] / LT_BLOCK);
    for (int i = 0; i < LT_BLOCK; i++)
        EACH_LANE
        {
            float w = typical[k] + fabsf(g->x[i][k]);
            g->weights[i][k] = w;
            sum_w[k] += w;
            sum_x[k] += w * g->x[i][k];
        }
    memcpy(g->sum_w, sum_w, sizeof sum_w);
    memcpy(g->sum_x, sum_x, sizeof sum_x);
}

static inline float level4(float x, float inverse, float from)
{
    return (float)clamp(nearest(inverse * (x - from)), 0, TOP4);
}

static void measure(const weighted *g, fit4 *fit, const lanes *levels)
{
    lanes error = {0};
    for (int i = 0; i < LT_BLOCK; i++)
        EACH_LANE
        {
            float difference = fit->scale[k] * levels[i][k] + fit->low[k] - g->x[i][k];
            error[k] += g->weights[i][k] * (difference * difference);
        }
    memcpy(fit->error, error, sizeof error);
}

/* The first fit: the step as it is. */
static void measure_unfitted(const weighted *g, fit4 *fit)
{
    lanes levels[LT_BLOCK];
    for (int i = 0; i < LT_BLOCK; i++)
        EACH_LANE levels[i][k] = level4(g->x[i][k], fit->inverse[k], fit->from[k]);
    EACH_LANE fit->scale[k] = 1 / fit->inverse[k];
    memcpy(fit->low, fit->from, sizeof fit->low);
    measure(g, fit, levels);
}

/* The scale and the lower end (not positive) that fit the levels of a step best. The error is
 * infinite where all levels are the same. */
static void fit_step(const weighted *g, fit4 *fit)
{
    lanes levels[LT_BLOCK], sum_l = {0}, sum_l2 = {0}, sum_xl = {0}, determinant;
    for (int i = 0; i < LT_BLOCK; i++)
        EACH_LANE
        {
            float l = level4(g->x[i][k], fit->inverse[k], fit->from[k]);
            float wl = g->weights[i][k] * l;
            levels[i][k] = l;
            sum_l[k] += wl;
            sum_l2[k] += wl * l;
            sum_xl[k] += wl * g->x[i][k];
        }
    EACH_LANE
    {
        determinant[k] = g->sum_w[k] * sum_l2[k] - sum_l[k] * sum_l[k];
        float scale = (g->sum_w[k] * sum_xl[k] - g->sum_x[k] * sum_l[k]) / determinant[k];
        float low = (sum_l2[k] * g->sum_x[k] - sum_l[k] * sum_xl[k]) / determinant[k];
        float alone = sum_xl[k] / sum_l2[k];
        fit->scale[k] = low > 0 ? alone : scale;
        fit->low[k] = low > 0 ? 0 : low;
    }
    measure(g, fit, levels);
    EACH_LANE fit->error[k] = determinant[k] > 0 ? fit->error[k] : INFINITY;
}

static void keep_better(fit4 *best, const fit4 *tried)
{
    EACH_LANE
    {
        bool better = tried->error[k] < best->error[k];
        best->inverse[k] = better ? tried->inverse[k] : best->inverse[k];
        best->from[k] = better ? tried->from[k] : best->from[k];
        best->scale[k] = better ? tried->scale[k] : best->scale[k];
        best->low[k] = better ? tried->low[k] : best->low[k];
        best->error[k] = better ? tried->error[k] : best->error[k];
    }
}

/* The best scale and lower end of groups. Where all values are the same the step is 0, its inverse
 * infinite, and `nearest` makes level 0 of NaN. */
static void search4(const float *x, int groups, fit4 *best)
{
    weighted g;
    fit4 tried;
    lanes low, high;
    turn_groups(x, LT_BLOCK, groups, g.x);
    weigh(&g);
    memcpy(low, g.x[0], sizeof low);
    memcpy(high, g.x[0], sizeof high);
    for (int i = 1; i < LT_BLOCK; i++)
        EACH_LANE
        {
            low[k] = g.x[i][k] < low[k] ? g.x[i][k] : low[k];
            high[k] = g.x[i][k] > high[k] ? g.x[i][k] : high[k];
        }
    EACH_LANE
    {
        best->from[k] = low[k] > 0 ? 0 : low[k]; /* minimums have no sign */
        best->inverse[k] = TOP4 / (high[k] - best->from[k]);
    }
    measure_unfitted(&g, best);
    for (int step = 0; step <= STEPS4; step++) {
        memcpy(tried.from, best->low, sizeof tried.from);
        EACH_LANE tried.inverse[k] =
            (-1.0f + 0.1f * (float)step + TOP4) / (high[k] - tried.from[k]);
        fit_step(&g, &tried);
        keep_better(best, &tried);
    }
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

/* The header of a block, from the fit of its groups, the first of which is `first`. */
static void put_scales4(const fit4 *fit, int first, unsigned char *out)
{
    float max_scale = 0, max_minimum = 0;
    for (int k = first; k < first + GROUPS4; k++) {
        if (fit->scale[k] > max_scale) max_scale = fit->scale[k];
        if (-fit->low[k] > max_minimum) max_minimum = -fit->low[k];
    }
    float inverse_scale = max_scale > 0 ? 63.0f / max_scale : 0;
    float inverse_minimum = max_minimum > 0 ? 63.0f / max_minimum : 0;
    lt_put_f16(out, max_scale / 63.0f);
    lt_put_f16(out + 2, max_minimum / 63.0f);
    for (int j = 0; j < GROUPS4; j++)
        pack_scale(out + SCALES4, j, six_bits(inverse_scale * fit->scale[first + j]),
                   six_bits(inverse_minimum * -fit->low[first + j]));
}

/* Of the scales that were stored; those of the search where the stored scale is 0. */
static void round_again4(const float *x, const fit4 *fit, int first, const unsigned char *out,
                         uint8_t *levels)
{
    for (int j = 0; j < GROUPS4; j++, x += LT_BLOCK, levels += LT_BLOCK) {
        float scale, minimum, inverse = fit->inverse[first + j], from = fit->from[first + j];
        unpack_scale(out + SCALES4, j, &scale, &minimum);
        float d = lt_get_f16(out) * scale, low = lt_get_f16(out + 2) * minimum;
        for (int i = 0; i < LT_BLOCK; i++) {
            float level = d != 0 ? (x[i] + low) / d : inverse * (x[i] - from);
            levels[i] = (uint8_t)clamp(nearest(level), 0, TOP4);
        }
    }
}

static void put_levels4(const uint8_t *levels, unsigned char *restrict out)
{
    for (int j = 0; j < GROUPS4 / 2; j++, levels += 2 * LT_BLOCK, out += LT_BLOCK)
        for (int i = 0; i < LT_BLOCK; i++)
            out[i] = (unsigned char)(levels[i] | levels[i + LT_BLOCK] << 4);
}

static void encode_q4_k(const float *x, int64_t blocks, unsigned char *out)
{
    enum { TOGETHER = LANES / GROUPS4 };
    for (; blocks > 0; blocks -= TOGETHER) {
        fit4 fit;
        int groups = (int)lt_min_i64(blocks, TOGETHER) * GROUPS4;
        search4(x, groups, &fit);
        for (int first = 0; first < groups; first += GROUPS4) {
            uint8_t levels[LT_SUPER_BLOCK];
            put_scales4(&fit, first, out);
            round_again4(x, &fit, first, out, levels);
            put_levels4(levels, out + LEVELS4);
            x += LT_SUPER_BLOCK;
            out += BYTES4;
        }
    }
}

static void decode_q4_k(const unsigned char *in, int64_t blocks, float *restrict out)
{
    for (; blocks > 0; blocks--, in += BYTES4)
        for (int j = 0; j < GROUPS4; j++, out += LT_BLOCK) {
            const unsigned char *levels = in + LEVELS4 + j / 2 * LT_BLOCK;
            float scale, minimum;
            unpack_scale(in + SCALES4, j, &scale, &minimum);
            float d = lt_get_f16(in) * scale, low = lt_get_f16(in + 2) * minimum;
            int shift = j % 2 * 4;
            for (int i = 0; i < LT_BLOCK; i++)
                out[i] = d * (float)(levels[i] >> shift & 15) - low;
        }
}

/* --- Q6_K: value = scale * level, levels -32 to 31 ---------------------------------------------
 *
 * 128 bytes of low four bits, 64 bytes of high two, 16 signed scales, f16 d. */

enum { GROUP6 = 16, GROUPS6 = LT_SUPER_BLOCK / GROUP6, HALF6 = 32, TRIES6 = 9 };
enum { HIGH6 = 128, SCALES6 = 192, D6 = 208, BYTES6 = 210 }; /* places in the block, its size */

#define SMALLEST_GROUP 1e-15f /* less counts as zero */

_Static_assert((int)GROUPS6 == (int)LANES, "a block is searched at once");

/* The scale that fits the levels of a step of 1 / inverse best, and that times sum_xl. */
typedef struct fit6 {
    lanes inverse, scale, best;
} fit6;

/* Sums of the fit of a step, where values count by their square. */
static void round_groups(const lanes *x, const float *inverse, float *sum_xl, float *sum_l2)
{
    lanes xl = {0}, l2 = {0};
    for (int i = 0; i < GROUP6; i++)
        EACH_LANE
        {
            float l = (float)clamp(nearest(inverse[k] * x[i][k]), -HALF6, HALF6 - 1);
            float w = x[i][k] * x[i][k];
            xl[k] += w * x[i][k] * l;
            l2[k] += w * l * l;
        }
    memcpy(sum_xl, xl, sizeof xl);
    memcpy(sum_l2, l2, sizeof l2);
}

/* The best scales of a block's groups; 0 and no inverse where there is nothing but zeros. */
static void search6(const float *values, fit6 *fit)
{
    lanes x[GROUP6], largest = {0}, sum_xl, sum_l2, inverse;
    turn_groups(values, GROUP6, GROUPS6, x);
    for (int i = 0; i < GROUP6; i++)
        EACH_LANE largest[k] = fabsf(x[i][k]) > fabsf(largest[k]) ? x[i][k] : largest[k];
    EACH_LANE fit->inverse[k] = -HALF6 / largest[k];
    round_groups(x, fit->inverse, sum_xl, sum_l2);
    EACH_LANE
    {
        float scale = sum_xl[k] / sum_l2[k];
        fit->scale[k] = sum_l2[k] != 0 ? scale : 0;
        fit->best[k] = fit->scale[k] * sum_xl[k];
    }
    for (int step = -TRIES6; step <= TRIES6; step++) {
        if (step == 0) continue;
        EACH_LANE inverse[k] = -(HALF6 + 0.1f * (float)step) / largest[k];
        round_groups(x, inverse, sum_xl, sum_l2);
        EACH_LANE
        {
            float scale = sum_xl[k] / sum_l2[k], product = fit->best[k] * sum_l2[k];
            bool better = (sum_l2[k] > 0) & (sum_xl[k] * sum_xl[k] > product);
            fit->inverse[k] = better ? inverse[k] : fit->inverse[k];
            fit->scale[k] = better ? scale : fit->scale[k];
            fit->best[k] = better ? scale * sum_xl[k] : fit->best[k];
        }
    }
    EACH_LANE
    {
        bool zero = fabsf(largest[k]) < SMALLEST_GROUP;
        fit->scale[k] = zero ? 0 : fit->scale[k];
        fit->inverse[k] = zero ? 0 : fit->inverse[k];
    }
}

/* Of the scales that were stored; those of the search where the stored scale is 0. */
static void round_again6(const float *x, const fit6 *fit, const unsigned char *out, uint8_t *levels)
{
    for (int j = 0; j < GROUPS6; j++, x += GROUP6, levels += GROUP6) {
        float d = lt_get_f16(out + D6) * (float)(int8_t)out[SCALES6 + j];
        float inverse = fit->inverse[j];
        LT_SIMD for (int i = 0; i < GROUP6; i++)
        {
            float level = d != 0 ? x[i] / d : inverse * x[i];
            levels[i] = (uint8_t)(clamp(nearest(level), -HALF6, HALF6 - 1) + HALF6);
        }
        if (d == 0 && inverse == 0) memset(levels, 0, GROUP6);
    }
}

/* Each byte of a half of the block serves 2 or 4 values that are 64 or 32 apart: first those of
 * the low four bits, then those of the high two. */
static void put_levels6(const uint8_t *levels, unsigned char *restrict out)
{
    enum { QUARTER = 32 };
    for (int half = 0; half < 2; half++, levels += 4 * QUARTER) {
        const uint8_t *a = levels, *b = a + QUARTER, *c = b + QUARTER, *d = c + QUARTER;
        unsigned char *low = out + half * 2 * QUARTER, *high = out + HIGH6 + half * QUARTER;
        for (int i = 0; i < QUARTER; i++) {
            low[i] = (unsigned char)((a[i] & 15) | (c[i] & 15) << 4);
            low[i + QUARTER] = (unsigned char)((b[i] & 15) | (d[i] & 15) << 4);
            high[i] = (unsigned char)(a[i] >> 4 | b[i] >> 4 << 2 | c[i] >> 4 << 4 | d[i] >> 4 << 6);
        }
    }
}

static void encode_q6_k(const float *x, int64_t blocks, unsigned char *out)
{
    for (; blocks > 0; blocks--, x += LT_SUPER_BLOCK, out += BYTES6) {
        fit6 fit;
        uint8_t levels[LT_SUPER_BLOCK];
        float max_scale = 0;
        search6(x, &fit);
        for (int j = 0; j < GROUPS6; j++)
            if (fabsf(fit.scale[j]) > fabsf(max_scale)) max_scale = fit.scale[j];
        memset(out, 0, BYTES6);
        if (fabsf(max_scale) < SMALLEST_GROUP) continue;
        float inverse = -128.0f / max_scale;
        lt_put_f16(out + D6, 1 / inverse);
        for (int j = 0; j < GROUPS6; j++)
            out[SCALES6 + j] = (unsigned char)lt_min_i64(127, nearest(inverse * fit.scale[j]));
        round_again6(x, &fit, out, levels);
        put_levels6(levels, out);
    }
}

static void decode_q6_k(const unsigned char *in, int64_t blocks, float *restrict out)
{
    for (; blocks > 0; blocks--, in += BYTES6)
        for (int j = 0; j < GROUPS6; j++, out += GROUP6) {
            int half = j / 8, quarter = j % 8 / 2, place = j % 2 * GROUP6;
            const unsigned char *low = in + half * 64 + quarter % 2 * 32 + place;
            const unsigned char *high = in + HIGH6 + half * 32 + place;
            int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
            float d = lt_get_f16(in + D6) * (float)(int8_t)in[SCALES6 + j];
            LT_SIMD for (int i = 0; i < GROUP6; i++)
            {
                int level = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
                out[i] = d * (float)(level - HALF6);
            }
        }
}

const lt_coder LT_ISA(q4_k) = {encode_q4_k, decode_q4_k};
const lt_coder LT_ISA(q6_k) = {encode_q6_k, decode_q6_k};
