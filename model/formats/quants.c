/* Block-quantised numbers: the types, the plain ones (F32, F16, BF16) and those of 32 values with
 * one scale. Q4_K and Q6_K are in quants_k.c.
 *
 * Expressions keep ggml's order of operations in f32: another order is another file. */
#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "model/formats/quants_internal.h"

/* --- Plain numbers -----------------------------------------------------------------------------
 */

static void encode_f32(const float *x, unsigned char *out)
{
    uint32_t bits = lt_f32_bits(*x);
    lt_put_u16(out, (uint16_t)bits);
    lt_put_u16(out + 2, (uint16_t)(bits >> 16));
}

static void decode_f32(const unsigned char *in, float *out)
{
    *out = lt_f32_from_bits(lt_get_u16(in) | (uint32_t)lt_get_u16(in + 2) << 16);
}

static void encode_f16(const float *x, unsigned char *out)
{
    lt_put_f16(out, *x);
}

static void decode_f16(const unsigned char *in, float *out)
{
    *out = lt_get_f16(in);
}

static void encode_bf16(const float *x, unsigned char *out)
{
    lt_put_u16(out, lt_f32_to_bf16(*x));
}

static void decode_bf16(const unsigned char *in, float *out)
{
    *out = lt_bf16_to_f32(lt_get_u16(in));
}

/* --- Blocks of 32 ------------------------------------------------------------------------------
 */

/* A scale so small that its inverse is infinite makes values that no integer can hold. There ggml
 * has what x86 answers: the smallest int, whose low byte is 0. */
static int8_t to_byte(float value)
{
    return (int8_t)(value >= -0x1p31f && value < 0x1p31f ? (int)value : 0);
}

/* The value of largest magnitude, with its sign; the first of several. */
static float signed_largest(const float *x)
{
    float magnitude = 0, largest = 0;
    for (int i = 0; i < LT_BLOCK; i++) {
        if (fabsf(x[i]) <= magnitude) continue;
        magnitude = fabsf(x[i]);
        largest = x[i];
    }
    return largest;
}

static float inverse(float d)
{
    return d != 0 ? 1.0f / d : 0.0f;
}

/* f16 scale, then 32 signed bytes. */
static void encode_q8_0(const float *x, unsigned char *out)
{
    float d = fabsf(signed_largest(x)) / 127, id = inverse(d);
    lt_put_f16(out, d);
    for (int i = 0; i < LT_BLOCK; i++)
        out[2 + i] = (unsigned char)to_byte(roundf(x[i] * id));
}

static void decode_q8_0(const unsigned char *in, float *out)
{
    float d = lt_get_f16(in);
    for (int i = 0; i < LT_BLOCK; i++)
        out[i] = (float)(int8_t)in[2 + i] * d;
}

/* Levels 0 to 2 half - 1 stand for -half to half - 1 scales; the largest magnitude has level 0. */
static unsigned level(float x, float id, int half)
{
    uint8_t rounded = (uint8_t)to_byte(x * id + ((float)half + 0.5f));
    return rounded < 2 * half ? rounded : 2u * (unsigned)half - 1;
}

/* f16 scale, then the first 16 values in low halves of bytes and the others in high ones. */
static void encode_q4_0(const float *x, unsigned char *out)
{
    enum { HALF = LT_BLOCK / 2 };
    float d = signed_largest(x) / -8, id = inverse(d);
    lt_put_f16(out, d);
    for (int i = 0; i < HALF; i++)
        out[2 + i] = (unsigned char)(level(x[i], id, 8) | level(x[i + HALF], id, 8) << 4);
}

static void decode_q4_0(const unsigned char *in, float *out)
{
    enum { HALF = LT_BLOCK / 2 };
    float d = lt_get_f16(in);
    for (int i = 0; i < HALF; i++) {
        out[i] = (float)((in[2 + i] & 15) - 8) * d;
        out[i + HALF] = (float)((in[2 + i] >> 4) - 8) * d;
    }
}

/* As Q4_0, with the fifth bits of all values in four bytes between. */
static void encode_q5_0(const float *x, unsigned char *out)
{
    enum { HALF = LT_BLOCK / 2 };
    float d = signed_largest(x) / -16, id = inverse(d);
    uint32_t fifth = 0;
    lt_put_f16(out, d);
    for (int i = 0; i < HALF; i++) {
        unsigned low = level(x[i], id, 16), high = level(x[i + HALF], id, 16);
        out[6 + i] = (unsigned char)((low & 15) | (high & 15) << 4);
        fifth |= (uint32_t)(low >> 4) << i | (uint32_t)(high >> 4) << (i + HALF);
    }
    lt_put_u16(out + 2, (uint16_t)fifth);
    lt_put_u16(out + 4, (uint16_t)(fifth >> 16));
}

static void decode_q5_0(const unsigned char *in, float *out)
{
    enum { HALF = LT_BLOCK / 2 };
    float d = lt_get_f16(in);
    uint32_t fifth = lt_get_u16(in + 2) | (uint32_t)lt_get_u16(in + 4) << 16;
    for (int i = 0; i < HALF; i++) {
        int low = (in[6 + i] & 15) | (int)(fifth >> i & 1) << 4;
        int high = in[6 + i] >> 4 | (int)(fifth >> (i + HALF) & 1) << 4;
        out[i] = (float)(low - 16) * d;
        out[i + HALF] = (float)(high - 16) * d;
    }
}

/* --- Types -------------------------------------------------------------------------------------
 */

typedef struct block_type {
    lt_gguf_type type;
    const char *name;
    int64_t values;
    size_t bytes;
    void (*encode)(const float *x, unsigned char *out);
    void (*decode)(const unsigned char *in, float *out);
    int scales[2]; /* places of its f16 scales; -1: none */
} block_type;

static const block_type block_types[] = {
    {LT_GGUF_F32, "F32", 1, 4, encode_f32, decode_f32, {-1, -1}},
    {LT_GGUF_F16, "F16", 1, 2, encode_f16, decode_f16, {0, -1}},
    {LT_GGUF_BF16, "BF16", 1, 2, encode_bf16, decode_bf16, {-1, -1}},
    {LT_GGUF_Q8_0, "Q8_0", LT_BLOCK, 34, encode_q8_0, decode_q8_0, {0, -1}},
    {LT_GGUF_Q5_0, "Q5_0", LT_BLOCK, 22, encode_q5_0, decode_q5_0, {0, -1}},
    {LT_GGUF_Q4_0, "Q4_0", LT_BLOCK, 18, encode_q4_0, decode_q4_0, {0, -1}},
    {LT_GGUF_Q4_K, "Q4_K", LT_SUPER_BLOCK, 144, lt_encode_q4_k, lt_decode_q4_k, {0, 2}},
    {LT_GGUF_Q6_K, "Q6_K", LT_SUPER_BLOCK, 210, lt_encode_q6_k, lt_decode_q6_k, {208, -1}},
};

static const block_type *find_type(uint32_t type)
{
    for (size_t i = 0; i < sizeof block_types / sizeof *block_types; i++)
        if ((uint32_t)block_types[i].type == type) return &block_types[i];
    return NULL;
}

const char *lt_gguf_type_name(uint32_t type)
{
    const block_type *found = find_type(type);
    return found ? found->name : NULL;
}

int64_t lt_gguf_block_values(lt_gguf_type type)
{
    return find_type(type)->values;
}

size_t lt_gguf_block_bytes(lt_gguf_type type)
{
    return find_type(type)->bytes;
}

size_t lt_gguf_row_bytes(lt_gguf_type type, int64_t columns)
{
    const block_type *found = find_type(type);
    return (size_t)(columns / found->values) * found->bytes;
}

/* --- Rows --------------------------------------------------------------------------------------
 */

/* A type whose scales are f16 takes no more than this; and up to here squares are finite. */
#define LARGEST 1e9f

/* The f16 scales hold less than f32 values may ask for. */
static bool fits(const block_type *type, const unsigned char *block)
{
    if (type->type == LT_GGUF_BF16) return isfinite(lt_bf16_to_f32(lt_get_u16(block)));
    for (int i = 0; i < 2; i++)
        if (type->scales[i] >= 0 && !isfinite(lt_get_f16(block + type->scales[i]))) return false;
    return true;
}

static lt_status out_of_range(const block_type *type, float value, lt_err *err)
{
    return lt_fail(err, LT_ERR_NUMERIC, "values like %g can not be stored as %s", (double)value,
                   type->name);
}

lt_status lt_gguf_encode(lt_gguf_type type, const float *values, int64_t count, void *out,
                         lt_err *err)
{
    const block_type *t = find_type(type);
    unsigned char *block = out;
    float largest = t->scales[0] >= 0 ? LARGEST : FLT_MAX;
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(values[i]) <= largest)) return out_of_range(t, values[i], err);
    for (int64_t i = 0; i < count; i += t->values, block += t->bytes) {
        t->encode(values + i, block);
        if (!fits(t, block)) return out_of_range(t, values[i], err);
    }
    return LT_OK;
}

void lt_gguf_decode(lt_gguf_type type, const void *blocks, int64_t count, float *out)
{
    const block_type *t = find_type(type);
    const unsigned char *block = blocks;
    for (int64_t i = 0; i < count; i += t->values, block += t->bytes)
        t->decode(block, out + i);
}
