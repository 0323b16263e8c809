/* Activation functions and their derivatives on the device: the formulas of
 * kernels/ref/activation.c in f32, rearranged where f32 would cancel or overflow. SWIGLU is a pair
 * of values: its callers take the SILU of the gate. */
#ifndef LT_CUDA_ACTIVATION_CUH
#define LT_CUDA_ACTIVATION_CUH

#include "kernels/cuda/device.cuh"

#define SQRT_1_2     0.70710678118654752440f
#define SQRT_2_PI    0.79788456080286535588f /* sqrt(2 / pi) */
#define ONE_SQRT_2PI 0.39894228040143267794f /* 1 / sqrt(2 pi): the normal density at 0 */
#define GELU_CUBIC   0.044715f

LT_DEVICE float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

LT_DEVICE float silu(float x)
{
    return x / (1 + expf(-x));
}

LT_DEVICE float silu_derivative(float x)
{
    float s = sigmoid(x);
    return s * (1 + x * (1 - s));
}

/* 0.5 (1 + tanh(u)) is sigmoid(2u). */
LT_DEVICE float gelu_tanh(float x)
{
    return x / (1 + expf(-2 * SQRT_2_PI * (x + GELU_CUBIC * x * x * x)));
}

/* s + 0.5 x (1 - tanh^2 u) u' with s = sigmoid(2u), so that 1 - tanh^2 u = 4 s (1 - s). Far out it
 * is 0 or 1, where u' may overflow. */
LT_DEVICE float gelu_tanh_derivative(float x)
{
    if (fabsf(x) > 16) return x > 0;
    float s = sigmoid(2 * SQRT_2_PI * (x + GELU_CUBIC * x * x * x));
    float du = SQRT_2_PI * (1 + 3 * GELU_CUBIC * x * x);
    return s * (1 + 2 * x * (1 - s) * du);
}

LT_DEVICE float activate(lt_activation activation, float x)
{
    switch (activation) {
    case LT_ACTIVATION_GELU:
        return 0.5f * x * (1 + erff(SQRT_1_2 * x));
    case LT_ACTIVATION_GELU_TANH:
        return gelu_tanh(x);
    case LT_ACTIVATION_SILU:
        return silu(x);
    case LT_ACTIVATION_RELU:
        return x < 0 ? 0 : x; /* NaN stays NaN */
    case LT_ACTIVATION_TANH:
        return tanhf(x);
    case LT_ACTIVATION_NONE:
    case LT_ACTIVATION_SWIGLU:
        break;
    }
    return x;
}

LT_DEVICE float activation_derivative(lt_activation activation, float x)
{
    switch (activation) {
    case LT_ACTIVATION_GELU: /* Phi(x) + x phi(x) */
        return 0.5f * (1 + erff(SQRT_1_2 * x)) + x * ONE_SQRT_2PI * expf(-0.5f * x * x);
    case LT_ACTIVATION_GELU_TANH:
        return gelu_tanh_derivative(x);
    case LT_ACTIVATION_SILU:
        return silu_derivative(x);
    case LT_ACTIVATION_RELU:
        return x > 0;
    case LT_ACTIVATION_TANH: { /* 1 - tanh^2, which cancels */
        float c = coshf(x);
        return 1 / (c * c);
    }
    case LT_ACTIVATION_NONE:
    case LT_ACTIVATION_SWIGLU:
        break;
    }
    return 1;
}

#endif
