#include "model/formats/numbers.h"

void lt_numbers_from_f32(const float *from, int64_t count, lt_dtype dtype, void *to)
{
    switch (dtype) {
    case LT_F64:
        for (int64_t i = 0; i < count; i++)
            ((double *)to)[i] = from[i];
        return;
    case LT_BF16:
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)to)[i] = lt_f32_to_bf16(from[i]);
        return;
    case LT_F16:
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)to)[i] = lt_f32_to_f16(from[i]);
        return;
    default:
        memcpy(to, from, (size_t)count * sizeof *from);
    }
}

void lt_numbers_to_f32(const void *from, int64_t count, lt_dtype dtype, float *to)
{
    switch (dtype) {
    case LT_F64:
        for (int64_t i = 0; i < count; i++)
            to[i] = (float)((const double *)from)[i];
        return;
    case LT_BF16:
        for (int64_t i = 0; i < count; i++)
            to[i] = lt_bf16_to_f32(((const uint16_t *)from)[i]);
        return;
    case LT_F16:
        for (int64_t i = 0; i < count; i++)
            to[i] = lt_f16_to_f32(((const uint16_t *)from)[i]);
        return;
    default:
        memcpy(to, from, (size_t)count * sizeof *to);
    }
}
