/* What encodes and decodes rows of one number type: private to model/formats/quants*.c.
 *
 * quants_blocks.c and quants_k.c are compiled for any machine, and again for each instruction set
 * that kernels/cpu is compiled for. They name none: the compiler makes SIMD code of loops over
 * values, or over groups of values side by side. Within a group, sums keep ggml's order of
 * operations in f32 on every machine: another order is another file. */
#ifndef LT_MODEL_FORMATS_QUANTS_INTERNAL_H
#define LT_MODEL_FORMATS_QUANTS_INTERNAL_H

#include "model/formats/numbers.h"
#include "model/formats/quants.h"

#if defined __AVX512F__
#define LT_ISA(name) lt_avx512_##name
#elif defined __AVX2__
#define LT_ISA(name) lt_avx2_##name
#else
#define LT_ISA(name) lt_ref_##name
#endif

enum {
    LT_BLOCK = 32,        /* values with one scale */
    LT_SUPER_BLOCK = 256, /* values of a K block */
};

/* Whole blocks. Values are finite, and at most 1e9 where a scale is f16. */
typedef struct lt_coder {
    void (*encode)(const float *x, int64_t blocks, unsigned char *out);
    void (*decode)(const unsigned char *in, int64_t blocks, float *out);
} lt_coder;

#define LT_DECLARE_CODERS(isa)                                                               \
    extern const lt_coder lt_##isa##_f16, lt_##isa##_bf16, lt_##isa##_q8_0, lt_##isa##_q5_0, \
        lt_##isa##_q4_0, lt_##isa##_q4_k, lt_##isa##_q6_k;
LT_DECLARE_CODERS(ref)
LT_DECLARE_CODERS(avx2)
LT_DECLARE_CODERS(avx512)

/* For loops so short that GCC would unroll them instead. Clang would not, and takes a hint that it
 * can not follow, as with sanitizers, for an error. */
#ifdef __clang__
#define LT_SIMD
#else
#define LT_SIMD _Pragma("omp simd")
#endif

/* Fields of blocks: little-endian, as the machine, at any address. */
static inline uint16_t lt_get_u16(const unsigned char *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline void lt_put_u16(unsigned char *at, uint16_t value)
{
    memcpy(at, &value, sizeof value);
}

static inline float lt_get_f16(const unsigned char *at)
{
    return lt_f16_to_f32(lt_get_u16(at));
}

static inline void lt_put_f16(unsigned char *at, float value)
{
    lt_put_u16(at, lt_f32_to_f16(value));
}

#endif
