#include "kernels/ref/ref.h"

#define SQRT_1_2     0.70710678118654752440
#define SQRT_2_PI    0.79788456080286535588 /* sqrt(2 / pi) */
#define ONE_SQRT_2PI 0.39894228040143267794 /* 1 / sqrt(2 pi): the normal density at 0 */
#define GELU_CUBIC   0.044715

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

double REF(activate)(lt_activation activation, double x)
{
    switch (activation) {
    case LT_ACTIVATION_GELU:
        return 0.5 * x * (1 + erf(SQRT_1_2 * x));
    case LT_ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(SQRT_2_PI * (x + GELU_CUBIC * x * x * x)));
    case LT_ACTIVATION_SILU:
        return x * sigmoid(x);
    case LT_ACTIVATION_RELU:
        return x < 0 ? 0 : x; /* NaN stays NaN */
    case LT_ACTIVATION_TANH:
        return tanh(x);
    case LT_ACTIVATION_NONE:
    case LT_ACTIVATION_SWIGLU: /* of two values: see matmul */
        break;
    }
    return x;
}

double REF(activate_derivative)(lt_activation activation, double x)
{
    switch (activation) {
    case LT_ACTIVATION_GELU: /* Phi(x) + x phi(x) */
        return 0.5 * (1 + erf(SQRT_1_2 * x)) + x * ONE_SQRT_2PI * exp(-0.5 * x * x);
    case LT_ACTIVATION_GELU_TANH: { /* with t = tanh(u): 0.5 (1 + t) + 0.5 x (1 - t^2) u' */
        double t = tanh(SQRT_2_PI * (x + GELU_CUBIC * x * x * x));
        double du = SQRT_2_PI * (1 + 3 * GELU_CUBIC * x * x);
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du;
    }
    case LT_ACTIVATION_SILU: { /* s + x s (1 - s) */
        double s = sigmoid(x);
        return s * (1 + x * (1 - s));
    }
    case LT_ACTIVATION_RELU:
        return x > 0;
    case LT_ACTIVATION_TANH:
        return 1 / (cosh(x) * cosh(x)); /* 1 - tanh^2, which cancels */
    case LT_ACTIVATION_NONE:
    case LT_ACTIVATION_SWIGLU: /* of two values: see matmul */
        break;
    }
    return 1;
}

REFERENCE(activation_forward, lt_activation_args)
{
    for (int64_t r = 0; r < lt_row_count(&a->x); r++) {
        const real *x = row(&a->x, r);
        real *y = row(&a->y, r);
        for (int64_t i = 0; i < lt_row_length(&a->x); i++)
            y[i] = (real)REF(activate)(a->activation, x[i]);
    }
    return LT_OK;
}

REFERENCE(activation_backward, lt_activation_backward_args)
{
    for (int64_t r = 0; r < lt_row_count(&a->x); r++) {
        const real *x = row(&a->x, r), *dy = row(&a->dy, r);
        real *dx = row(&a->dx, r);
        for (int64_t i = 0; i < lt_row_length(&a->x); i++)
            dx[i] = (real)(dy[i] * REF(activate_derivative)(a->activation, x[i]));
    }
    return LT_OK;
}

/* y = silu(gate) up */
REFERENCE(swiglu_forward, lt_swiglu_args)
{
    int64_t dim = a->y.shape[1];
    for (int64_t r = 0; r < a->y.shape[0]; r++) {
        const real *gate = row(&a->gate_up, r), *up = gate + dim;
        real *y = row(&a->y, r);
        for (int64_t i = 0; i < dim; i++)
            y[i] = (real)(REF(activate)(LT_ACTIVATION_SILU, gate[i]) * up[i]);
    }
    return LT_OK;
}

/* dgate = dy up silu'(gate);  dup = dy silu(gate) */
REFERENCE(swiglu_backward, lt_swiglu_backward_args)
{
    int64_t dim = a->dy.shape[1];
    for (int64_t r = 0; r < a->dy.shape[0]; r++) {
        const real *gate_up = row(&a->gate_up, r), *dy = row(&a->dy, r);
        real *dgate_up = row(&a->dgate_up, r);
        for (int64_t i = 0; i < dim; i++) {
            double gate = gate_up[i], up = gate_up[dim + i];
            dgate_up[i] = (real)(dy[i] * up * REF(activate_derivative)(LT_ACTIVATION_SILU, gate));
            dgate_up[dim + i] = (real)(dy[i] * REF(activate)(LT_ACTIVATION_SILU, gate));
        }
    }
    return LT_OK;
}
