/* What the block types share. Private to model/formats/quants*.c. */
#ifndef LT_MODEL_FORMATS_QUANTS_INTERNAL_H
#define LT_MODEL_FORMATS_QUANTS_INTERNAL_H

#include "model/formats/numbers.h"
#include "model/formats/quants.h"

enum {
    LT_BLOCK = 32,        /* values with one scale */
    LT_SUPER_BLOCK = 256, /* values of a K block */
};

/* Fields of blocks: little-endian, at any address. */
static inline uint16_t lt_get_u16(const unsigned char *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static inline void lt_put_u16(unsigned char *at, uint16_t value)
{
    at[0] = (unsigned char)value;
    at[1] = (unsigned char)(value >> 8);
}

static inline float lt_get_f16(const unsigned char *at)
{
    return lt_f16_to_f32(lt_get_u16(at));
}

static inline void lt_put_f16(unsigned char *at, float value)
{
    lt_put_u16(at, lt_f32_to_f16(value));
}

void lt_encode_q4_k(const float *x, unsigned char *out);
void lt_decode_q4_k(const unsigned char *in, float *out);
void lt_encode_q6_k(const float *x, unsigned char *out);
void lt_decode_q6_k(const unsigned char *in, float *out);

#endif
