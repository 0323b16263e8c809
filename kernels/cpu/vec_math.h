/* exp and the activations on vectors, within a few units in the last place of f32. */
#ifndef LT_KERNELS_VEC_MATH_H
#define LT_KERNELS_VEC_MATH_H

#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"

/* e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2) / 2. ln 2 is subtracted in two parts, the
 * first with so few bits that n times it is exact. -inf gives 0, NaN stays NaN. */
INLINE vec vec_exp(vec x)
{
    x = vec_max(vec_set(-104.0f), vec_min(vec_set(89.0f), x)); /* beyond: 0 and infinity */
    vec n = vec_round(x * vec_set(1.44269504088896341f));
    vec r = vec_fnma(n, vec_set(0.693359375f), x);
    r = vec_fnma(n, vec_set(-2.12194440e-4f), r);
    vec p = vec_set(1.0f / 5040);
    p = vec_fma(p, r, vec_set(1.0f / 720));
    p = vec_fma(p, r, vec_set(1.0f / 120));
    p = vec_fma(p, r, vec_set(1.0f / 24));
    p = vec_fma(p, r, vec_set(1.0f / 6));
    p = vec_fma(p, r, vec_set(0.5f));
    p = vec_fma(p, r, vec_set(1.0f));
    p = vec_fma(p, r, vec_set(1.0f));
    return vec_scale(p, n);
}

/* 1 / (1 + e^-x) */
INLINE vec vec_sigmoid(vec x)
{
    return vec_set(1.0f) / (vec_set(1.0f) + vec_exp(-x));
}

/* Phi(x) = erfc(-x / sqrt 2) / 2, the normal distribution. With z = |x| / sqrt 2 and
 * t = 1 / (1 + z / 2): erfc(z) = t exp(-z^2 + g(t)); g is a polynomial fitted over 0 <= z <= 18,
 * error 8e-8. `square` = e^(-x^2 / 2), which the derivative needs too. */
INLINE vec vec_normal_cdf(vec x, vec *square)
{
    static const float g[] = {-1.265508816e+00f, 9.999546114e-01f,  3.745955657e-01f,
                              9.518049910e-02f,  -1.847902048e-01f, 2.832252533e-01f,
                              -1.149987616e+00f, 1.507097614e+00f,  -8.332668577e-01f,
                              1.735000272e-01f};
    vec t = vec_set(1.0f) / vec_fma(vec_abs(x), vec_set(0.35355339059327376f), vec_set(1.0f));
    vec p = vec_set(g[9]);
#pragma GCC unroll 9
    for (int i = 8; i >= 0; i--)
        p = vec_fma(p, t, vec_set(g[i]));
    *square = vec_exp(x * x * vec_set(-0.5f));
    vec tail = vec_set(0.5f) * t * vec_exp(p) * *square;
    return vec_select(vec_greater(x, vec_zero()), vec_set(1.0f) - tail, tail);
}

/* gelu_tanh(x) = 0.5 x (1 + tanh u) = x sigmoid(2u), which does not cancel for negative u. */
#define LT_GELU_2U      1.5957691216057308f /* 2 sqrt(2 / pi) */
#define LT_GELU_CUBIC   0.044715f
#define LT_INV_SQRT_2PI 0.3989422804014327f

INLINE vec vec_gelu_gate(vec x)
{
    vec cubic = vec_fma(x * x, vec_set(LT_GELU_CUBIC), vec_set(1.0f));
    return vec_sigmoid(vec_set(LT_GELU_2U) * x * cubic);
}

/* Near 0 an odd polynomial (Cephes), beyond it (1 - e) / (1 + e) with e = e^(-2 |x|). */
INLINE vec vec_tanh(vec x)
{
    static const float c[] = {-3.33332819422e-1f, 1.33314422036e-1f, -5.37397155531e-2f,
                              2.06390887954e-2f, -5.70498872745e-3f};
    vec one = vec_set(1.0f), size = vec_abs(x), square = x * x, e = vec_exp(vec_set(-2.0f) * size);
    vec p = vec_set(c[4]), far = (one - e) / (one + e);
#pragma GCC unroll 4
    for (int i = 3; i >= 0; i--)
        p = vec_fma(p, square, vec_set(c[i]));
    far = vec_select(vec_greater(x, vec_zero()), far, -far);
    return vec_select(vec_greater(size, vec_set(0.625f)), far, vec_fma(x * square, p, x));
}

INLINE vec vec_activate(lt_activation activation, vec x)
{
    vec square;
    switch (activation) {
    case LT_ACTIVATION_GELU:
        return x * vec_normal_cdf(x, &square);
    case LT_ACTIVATION_GELU_TANH:
        return x * vec_gelu_gate(x);
    case LT_ACTIVATION_SILU:
        return x * vec_sigmoid(x);
    case LT_ACTIVATION_RELU:
        return vec_max(vec_zero(), x);
    case LT_ACTIVATION_TANH:
        return vec_tanh(x);
    case LT_ACTIVATION_NONE:
    case LT_ACTIVATION_SWIGLU: /* of two values: see matmul */
        break;
    }
    return x;
}

INLINE vec vec_activate_derivative(lt_activation activation, vec x)
{
    vec one = vec_set(1.0f), square;
    switch (activation) {
    case LT_ACTIVATION_GELU: { /* Phi(x) + x phi(x) */
        vec cdf = vec_normal_cdf(x, &square);
        return vec_fma(x * vec_set(LT_INV_SQRT_2PI), square, cdf);
    }
    case LT_ACTIVATION_GELU_TANH: { /* s + x s (1 - s) (2u)' */
        vec s = vec_gelu_gate(x);
        vec slope = vec_fma(x * x, vec_set(3 * LT_GELU_CUBIC), one) * vec_set(LT_GELU_2U);
        return vec_fma(x * s * (one - s), slope, s);
    }
    case LT_ACTIVATION_SILU: { /* s (1 + x (1 - s)) */
        vec s = vec_sigmoid(x);
        return s * vec_fma(x, one - s, one);
    }
    case LT_ACTIVATION_RELU:
        return vec_select(vec_greater(x, vec_zero()), one, vec_zero());
    case LT_ACTIVATION_TANH: { /* 1 - tanh^2 = 4 e / (1 + e)^2, which does not cancel */
        vec e = vec_exp(vec_set(-2.0f) * vec_abs(x));
        return vec_set(4.0f) * e / ((one + e) * (one + e));
    }
    case LT_ACTIVATION_NONE:
    case LT_ACTIVATION_SWIGLU: /* of two values: see matmul */
        break;
    }
    return one;
}

#endif
