/* f16 and the roundings that the hardware's bf16 conversion does not give: by their bits, so that
 * they are the same on a GPU and in the emulator. All to nearest, ties to even. */
#ifndef LT_CUDA_CONVERT_CUH
#define LT_CUDA_CONVERT_CUH

#include "kernels/cuda/rows.cuh"

struct f16 {
    uint16_t bits;
};

#define F16_OF_F32_EXPONENT 112u /* the bias of f32 is larger by this */

LT_DEVICE float to_float(f16 x)
{
    uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
    if (magnitude > 0x7c00) return float_of_bits(sign | 0x7fc00000u);
    if (magnitude == 0x7c00) return float_of_bits(sign | 0x7f800000u);
    /* subnormals come out right too: the f32 with these bits, times 2^112 */
    return float_of_bits(sign | magnitude << 13) * 0x1p112f;
}

LT_DEVICE void store(f16 *to, float x)
{
    uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        magnitude = 0x7e00;
    } else if (magnitude >= 0x477ff000u) { /* 65520, half way to what would be next, and more */
        magnitude = 0x7c00;
    } else if (magnitude >= 0x38800000u) { /* 2^-14: normal */
        magnitude -= F16_OF_F32_EXPONENT << 23;
        magnitude = (magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13;
    } else { /* units of 2^-24 */
        magnitude = (uint32_t)rintf(float_of_bits(magnitude) * 0x1p24f);
    }
    to->bits = (uint16_t)(sign | magnitude);
}

/* f64 to f32 such that rounding once more, to fewer bits, gives what one rounding of x would: cut
 * off, and the last bit set when that lost something ("round to odd"). */
LT_DEVICE float to_float_odd(double x)
{
    float y = (float)x;
    if (isnan(x) || (double)y == x) return y;
    uint32_t bits = bits_of_float(y);
    if (fabs((double)y) > fabs(x)) bits--;
    return float_of_bits(bits | 1);
}

/* --- One number from one type to another -------------------------------------------------------
 */

template <typename To, typename From> LT_DEVICE void convert_number(To *to, From from)
{
    if constexpr (sizeof(To) == 8 && sizeof(From) == 8)
        *to = from;
    else if constexpr (sizeof(To) == 8)
        *to = to_float(from);
    else if constexpr (sizeof(From) < 8)
        store(to, to_float(from));
    else if constexpr (sizeof(To) == 4)
        *to = (float)from;
    else
        store(to, to_float_odd(from));
}

#endif
