/* Block-quantised numbers: the types, what fits into them, and which of the coders of
 * quants_blocks.c and quants_k.c this machine uses. */
#include <float.h>
#include <stdbool.h>

#include "base/checked.h"
#include "model/formats/quants_internal.h"

/* --- Types -------------------------------------------------------------------------------------
 */

#ifdef LT_HAVE_X86
#define CODERS(name)                                       \
    {                                                      \
        &lt_ref_##name, &lt_avx2_##name, &lt_avx512_##name \
    }
#else
#define CODERS(name)   \
    {                  \
        &lt_ref_##name \
    }
#endif

typedef struct block_type {
    lt_gguf_type type;
    const char *name;
    int64_t values;
    size_t bytes;
    const lt_coder *coders[LT_ISA_COUNT]; /* NULL: the file has what memory has */
    float largest;                        /* magnitude that it takes */
    int scales[2];                        /* places of the f16 scales of its blocks; -1: none */
} block_type;

/* What rounds to infinity from the next larger f32 on. */
#define LARGEST_F16  0x1.ffdffep15f
#define LARGEST_BF16 0x1.fefffep127f
/* Up to here the squares that a search adds up are finite. The f16 scales take less. */
#define LARGEST 1e9f

static const block_type block_types[] = {
    {LT_GGUF_F32, "F32", 1, 4, {NULL}, FLT_MAX, {-1, -1}},
    {LT_GGUF_F16, "F16", 1, 2, CODERS(f16), LARGEST_F16, {-1, -1}},
    {LT_GGUF_BF16, "BF16", 1, 2, CODERS(bf16), LARGEST_BF16, {-1, -1}},
    {LT_GGUF_Q8_0, "Q8_0", LT_BLOCK, 34, CODERS(q8_0), LARGEST, {0, -1}},
    {LT_GGUF_Q5_0, "Q5_0", LT_BLOCK, 22, CODERS(q5_0), LARGEST, {0, -1}},
    {LT_GGUF_Q4_0, "Q4_0", LT_BLOCK, 18, CODERS(q4_0), LARGEST, {0, -1}},
    {LT_GGUF_Q4_K, "Q4_K", LT_SUPER_BLOCK, 144, CODERS(q4_k), LARGEST, {0, 2}},
    {LT_GGUF_Q6_K, "Q6_K", LT_SUPER_BLOCK, 210, CODERS(q6_k), LARGEST, {208, -1}},
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

static lt_status out_of_range(const block_type *type, float value, lt_err *err)
{
    return lt_fail(err, LT_ERR_NUMERIC, "values like %g can not be stored as %s", (double)value,
                   type->name);
}

/* Magnitudes are in the order of their bits, and NaN is beyond them. */
static lt_status check_values(const block_type *type, const float *values, int64_t count,
                              lt_err *err)
{
    uint32_t limit = lt_f32_bits(type->largest), all = 0;
    for (int64_t i = 0; i < count; i++)
        all |= (lt_f32_bits(values[i]) & 0x7fffffff) > limit;
    if (!all) return LT_OK;
    int64_t i = 0;
    while ((lt_f32_bits(values[i]) & 0x7fffffff) <= limit)
        i++;
    return out_of_range(type, values[i], err);
}

/* Of what was encoded; `values` are what it was made of. */
static lt_status check_scales(const block_type *type, const float *values, int64_t blocks,
                              const unsigned char *block, lt_err *err)
{
    for (; blocks > 0; blocks--, block += type->bytes, values += type->values)
        for (int i = 0; i < 2 && type->scales[i] >= 0; i++)
            if ((~lt_get_u16(block + type->scales[i]) & 0x7c00) == 0)
                return out_of_range(type, *values, err);
    return LT_OK;
}

lt_status lt_gguf_encode(lt_gguf_type type, const float *values, int64_t count, void *out,
                         lt_err *err)
{
    enum { PIECE = 4096 }; /* stays in the first cache; a multiple of every type's block */
    const block_type *t = find_type(type);
    const lt_coder *coder = t->coders[lt_cpu_isa()];
    unsigned char *block = out;
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t blocks = lt_min_i64(PIECE, count - i) / t->values;
        LT_TRY(check_values(t, values + i, blocks * t->values, err));
        if (coder)
            coder->encode(values + i, blocks, block);
        else
            memcpy(block, values + i, (size_t)blocks * t->bytes);
        LT_TRY(check_scales(t, values + i, blocks, block, err));
        block += (size_t)blocks * t->bytes;
    }
    return LT_OK;
}

void lt_gguf_decode(lt_gguf_type type, const void *blocks, int64_t count, float *out)
{
    const block_type *t = find_type(type);
    const lt_coder *coder = t->coders[lt_cpu_isa()];
    if (coder)
        coder->decode(blocks, count / t->values, out);
    else
        memcpy(out, blocks, (size_t)count * t->bytes);
}
