/* A vector of floats, LANES wide: 16 with AVX-512, 8 with AVX2. The operators + - * / work on it as
 * they are. No other file of kernels/cpu names an instruction set. */
#ifndef LT_KERNELS_VEC_H
#define LT_KERNELS_VEC_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline, unused))

#ifdef __AVX512F__

#define LANES 16
typedef __m512 vec;
typedef __mmask16 vec_mask; /* one truth value per lane */

INLINE vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void vec_store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}
INLINE vec vec_set(float x)
{
    return _mm512_set1_ps(x);
}
/* The first n lanes: none for n <= 0, all for n >= LANES. Loads and stores touch no byte beyond
 * them; a load sets the other lanes to 0. */
INLINE vec_mask vec_first(int64_t n)
{
    return n >= LANES ? 0xFFFF : n <= 0 ? 0 : (vec_mask)((1u << n) - 1);
}
INLINE vec vec_load_first(const float *p, int64_t n)
{
    return n >= LANES ? vec_load(p) : _mm512_maskz_loadu_ps(vec_first(n), p);
}
INLINE void vec_store_first(float *p, vec v, int64_t n)
{
    if (n >= LANES)
        vec_store(p, v);
    else
        _mm512_mask_storeu_ps(p, vec_first(n), v);
}
INLINE vec vec_fma(vec a, vec b, vec c) /* a b + c */
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vec vec_fnma(vec a, vec b, vec c) /* c - a b */
{
    return _mm512_fnmadd_ps(a, b, c);
}
/* When one is NaN, the second. */
INLINE vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}
INLINE vec vec_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}
INLINE vec vec_sqrt(vec v)
{
    return _mm512_sqrt_ps(v);
}
INLINE vec vec_abs(vec v)
{
    return _mm512_abs_ps(v);
}
INLINE vec vec_round(vec v)
{
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vec_mask vec_greater(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
INLINE vec_mask vec_greater_equal(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
INLINE vec vec_select(vec_mask mask, vec yes, vec no)
{
    return _mm512_mask_blend_ps(mask, no, yes);
}
/* v 2^n for integral n, down to denormals and 0, up to infinity */
INLINE vec vec_scale(vec v, vec n)
{
    return _mm512_scalef_ps(v, n);
}
INLINE float vec_sum(vec v)
{
    return _mm512_reduce_add_ps(v);
}
INLINE float vec_largest(vec v)
{
    return _mm512_reduce_max_ps(v);
}
/* The sum in double of v^2, added to the LANES / 2 sums of *sum. */
typedef __m512d vec_double;
INLINE vec_double vec_double_zero(void)
{
    return _mm512_setzero_pd();
}
INLINE vec_double vec_add_squares(vec_double sum, vec v)
{
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    return _mm512_fmadd_pd(high, high, _mm512_fmadd_pd(low, low, sum));
}
INLINE double vec_double_sum(vec_double v)
{
    return _mm512_reduce_add_pd(v);
}
/* 16-bit numbers: widened exactly, narrowed to nearest, ties to even. */
INLINE vec vec_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE void vec_to_f16(uint16_t *p, vec v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vec vec_from_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE vec vec_from_bf16_first(const uint16_t *p, int64_t n)
{
    if (n >= LANES) return vec_from_bf16(p);
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(vec_first(n), p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE void vec_to_bf16(uint16_t *p, vec v)
{
    __m512i x = _mm512_castps_si512(v), top = _mm512_srli_epi32(x, 16), one = _mm512_set1_epi32(1);
    __m512i half = _mm512_add_epi32(_mm512_set1_epi32(0x7FFF), _mm512_and_si512(top, one));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(x, half), 16);
    __m512i nan = _mm512_or_si512(_mm512_and_si512(top, _mm512_set1_epi32(0x8000)),
                                  _mm512_set1_epi32(0x7FC0));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), nan);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(rounded));
}
/* row[i][j] becomes row[j][i] */
INLINE void vec_transpose(vec row[LANES])
{
    vec t[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(row[2 * i], row[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(row[2 * i], row[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* now quarters hold columns 0..3 of four rows */
        __m512d a = _mm512_castps_pd(t[4 * i]), b = _mm512_castps_pd(t[4 * i + 1]);
        __m512d c = _mm512_castps_pd(t[4 * i + 2]), d = _mm512_castps_pd(t[4 * i + 3]);
        row[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        row[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        row[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        row[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* bring the quarters of column group g together */
        vec p = _mm512_shuffle_f32x4(row[i], row[4 + i], 0x88);
        vec q = _mm512_shuffle_f32x4(row[8 + i], row[12 + i], 0x88);
        vec r = _mm512_shuffle_f32x4(row[i], row[4 + i], 0xDD);
        vec s = _mm512_shuffle_f32x4(row[8 + i], row[12 + i], 0xDD);
        t[i] = _mm512_shuffle_f32x4(p, q, 0x88);
        t[4 + i] = _mm512_shuffle_f32x4(r, s, 0x88);
        t[8 + i] = _mm512_shuffle_f32x4(p, q, 0xDD);
        t[12 + i] = _mm512_shuffle_f32x4(r, s, 0xDD);
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        row[i] = t[i];
}

#else

#define LANES 8
typedef __m256 vec;
typedef __m256 vec_mask; /* all bits of a lane set: true */

INLINE vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
INLINE void vec_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}
INLINE vec vec_set(float x)
{
    return _mm256_set1_ps(x);
}
INLINE vec_mask vec_first(int64_t n)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i count = _mm256_set1_epi32(n > LANES ? LANES : n < 0 ? 0 : (int)n);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, lane));
}
INLINE vec vec_load_first(const float *p, int64_t n)
{
    return n >= LANES ? vec_load(p) : _mm256_maskload_ps(p, _mm256_castps_si256(vec_first(n)));
}
INLINE void vec_store_first(float *p, vec v, int64_t n)
{
    if (n >= LANES)
        vec_store(p, v);
    else
        _mm256_maskstore_ps(p, _mm256_castps_si256(vec_first(n)), v);
}
INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}
INLINE vec vec_fnma(vec a, vec b, vec c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
INLINE vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}
INLINE vec vec_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}
INLINE vec vec_sqrt(vec v)
{
    return _mm256_sqrt_ps(v);
}
INLINE vec vec_abs(vec v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}
INLINE vec vec_round(vec v)
{
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vec_mask vec_greater(vec a, vec b)
{
    return _mm256_cmp_ps(a, b, _CMP_GT_OQ);
}
INLINE vec_mask vec_greater_equal(vec a, vec b)
{
    return _mm256_cmp_ps(a, b, _CMP_GE_OQ);
}
INLINE vec vec_select(vec_mask mask, vec yes, vec no)
{
    return _mm256_blendv_ps(no, yes, mask);
}
INLINE vec vec_scale(vec v, vec n)
{
    /* in two halves: 2^n itself may be outside the normal range. |n| <= 252 */
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i second = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    return v * _mm256_castsi256_ps(first) * _mm256_castsi256_ps(second);
}
INLINE float vec_sum(vec v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
INLINE float vec_largest(vec v)
{
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}
typedef __m256d vec_double;
INLINE vec_double vec_double_zero(void)
{
    return _mm256_setzero_pd();
}
INLINE vec_double vec_add_squares(vec_double sum, vec v)
{
    __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    return _mm256_fmadd_pd(high, high, _mm256_fmadd_pd(low, low, sum));
}
INLINE double vec_double_sum(vec_double v)
{
    __m128d h = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}
INLINE vec vec_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
INLINE void vec_to_f16(uint16_t *p, vec v)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vec vec_from_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
INLINE vec vec_from_bf16_first(const uint16_t *p, int64_t n)
{
    if (n >= LANES) return vec_from_bf16(p);
    uint16_t first[LANES] = {0}; /* there is no masked load of 16 bits */
    for (int64_t i = 0; i < n; i++)
        first[i] = p[i];
    return vec_from_bf16(first);
}
INLINE void vec_to_bf16(uint16_t *p, vec v)
{
    __m256i x = _mm256_castps_si256(v), top = _mm256_srli_epi32(x, 16), one = _mm256_set1_epi32(1);
    __m256i half = _mm256_add_epi32(_mm256_set1_epi32(0x7FFF), _mm256_and_si256(top, one));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(x, half), 16);
    __m256i nan = _mm256_or_si256(_mm256_and_si256(top, _mm256_set1_epi32(0x8000)),
                                  _mm256_set1_epi32(0x7FC0));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, nan, is_nan);
    __m256i packed = _mm256_packus_epi32(rounded, rounded); /* by halves of 128 bits */
    packed = _mm256_permute4x64_epi64(packed, 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(packed));
}
INLINE void vec_transpose(vec row[LANES])
{
    vec t[LANES];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(row[2 * i], row[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(row[2 * i], row[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        row[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        row[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
        row[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        row[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(row[i], row[4 + i], 0x20);
        t[4 + i] = _mm256_permute2f128_ps(row[i], row[4 + i], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i++)
        row[i] = t[i];
}

#endif

INLINE vec vec_zero(void)
{
    return vec_set(0);
}

/* The first n lanes from element `at` on of weights, which are f32 or bf16. */
INLINE vec vec_load_weight(const void *weight, bool bf16, int64_t at, int64_t n)
{
    if (bf16) return vec_from_bf16_first((const uint16_t *)weight + at, n);
    return vec_load_first((const float *)weight + at, n);
}

/* 64-bit lanes, half as many; the operators + & | ^ << >> work on them. */
typedef unsigned long long vec_u64 __attribute__((vector_size(4 * LANES)));

INLINE vec_u64 vec_u64_set(uint64_t x)
{
    return (vec_u64){0} + (unsigned long long)x;
}
INLINE vec_u64 vec_u64_count(void) /* 0, 1, 2, ... */
{
    vec_u64 v;
    for (unsigned i = 0; i < LANES / 2; i++)
        v[i] = i;
    return v;
}
/* The 64-bit products of the low 32 bits. */
INLINE vec_u64 vec_multiply_u32(vec_u64 a, vec_u64 b)
{
#if LANES == 16
    return (vec_u64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#else
    return (vec_u64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#endif
}

#endif
