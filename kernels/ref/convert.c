/* Conversion between number types: through double, which holds every f32, bf16 and f16 exactly, and
 * from there to the target in one rounding, to nearest, ties to even. */
#include <string.h>

#include "kernels/ref/ref.h"

#define BF16_FRACTION_BITS 7
#define F16_FRACTION_BITS  10

/* An IEEE number of 16 bits: sign, exponent, `fraction_bits` of fraction. */
static double widen(uint16_t bits, int fraction_bits)
{
    int exponent_bits = 15 - fraction_bits, bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    int fraction = bits & ((1 << fraction_bits) - 1);
    double magnitude;
    if (exponent == (1 << exponent_bits) - 1)
        magnitude = fraction ? NAN : INFINITY;
    else if (exponent == 0) /* subnormal */
        magnitude = ldexp(fraction, 1 - bias - fraction_bits);
    else
        magnitude = ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static uint16_t narrow(double x, int fraction_bits)
{
    int exponent_bits = 15 - fraction_bits, bias = (1 << (exponent_bits - 1)) - 1, exponent;
    unsigned infinity = (unsigned)((1 << exponent_bits) - 1) << fraction_bits, magnitude;
    unsigned sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x)) return (uint16_t)(sign | infinity | 1u << (fraction_bits - 1));
    if (isinf(x)) return (uint16_t)(sign | infinity);
    if (x == 0) return (uint16_t)sign;
    frexp(x, &exponent);                          /* |x| = f * 2^exponent with f in [0.5, 1) */
    if (exponent < 2 - bias) exponent = 2 - bias; /* subnormal: the spacing stays */
    /* In units of the spacing the fraction is an integer, rounded by nearbyint. A carry out of the
     * fraction raises the exponent, up to infinity, as it should. */
    double units = nearbyint(ldexp(fabs(x), fraction_bits + 1 - exponent));
    if (exponent > bias + 1) return (uint16_t)(sign | infinity);
    magnitude = ((unsigned)(exponent + bias - 2) << fraction_bits) + (unsigned)units;
    return (uint16_t)(sign | magnitude);
}

static double load(const void *data, lt_dtype dtype, int64_t i)
{
    switch (dtype) {
    case LT_F64:
        return ((const double *)data)[i];
    case LT_BF16:
        return widen(((const uint16_t *)data)[i], BF16_FRACTION_BITS);
    case LT_F16:
        return widen(((const uint16_t *)data)[i], F16_FRACTION_BITS);
    default:
        return ((const float *)data)[i];
    }
}

static void store(void *data, lt_dtype dtype, int64_t i, double x)
{
    switch (dtype) {
    case LT_F64:
        ((double *)data)[i] = x;
        break;
    case LT_BF16:
        ((uint16_t *)data)[i] = narrow(x, BF16_FRACTION_BITS);
        break;
    case LT_F16:
        ((uint16_t *)data)[i] = narrow(x, F16_FRACTION_BITS);
        break;
    default:
        ((float *)data)[i] = (float)x;
    }
}

REFERENCE(convert, lt_convert_args)
{
    int64_t count = lt_tensor_count(a->x);
    if (a->x.dtype == a->y.dtype) { /* bit for bit, NaN payloads too */
        if (count) memmove(a->y.data, a->x.data, (size_t)count * lt_dtype_size(a->x.dtype));
        return LT_OK;
    }
    for (int64_t i = 0; i < count; i++)
        store(a->y.data, a->y.dtype, i, load(a->x.data, a->x.dtype, i));
    return LT_OK;
}
