/* A CPU backend that rounds to bf16 whatever a GPU would store as bf16: how far from exact the
 * numbers are that rounding alone makes. Made from another CPU backend, whose operations it calls.
 */
#ifndef LT_TEST_ROUNDING_BACKEND_H
#define LT_TEST_ROUNDING_BACKEND_H

#include <string.h>

#include "kernels/kernels.h"

static inline float rounded_to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* An f32 tensor of up to four dimensions; its rows may be strided. */
static inline void round_tensor(lt_tensor t)
{
    int64_t count = lt_tensor_count(t);
    for (int64_t i = 0; t.data && i < count; i++) {
        int64_t rest = i, offset = 0;
        for (int d = t.ndim - 1; d >= 0; d--) {
            offset += rest % t.shape[d] * t.stride[d];
            rest /= t.shape[d];
        }
        float *x = (float *)t.data + offset;
        *x = rounded_to_bf16(*x);
    }
}

static lt_ops exact_ops; /* of the backend underneath */

#define ROUNDING(operation, args, ...)                                                           \
    static lt_status rounding_##operation(const lt_backend *backend, const args *a, lt_err *err) \
    {                                                                                            \
        LT_TRY(exact_ops.operation(backend, a, err));                                            \
        const lt_tensor stored[] = {__VA_ARGS__};                                                \
        for (size_t i = 0; i < sizeof stored / sizeof *stored; i++)                              \
            round_tensor(stored[i]);                                                             \
        return LT_OK;                                                                            \
    }

#define ROUNDING_OPERATIONS(X)                                             \
    X(attention_forward, lt_attention_args, a->out)                        \
    X(attention_backward, lt_attention_backward_args, a->dq, a->dk, a->dv) \
    X(layer_norm_forward, lt_norm_args, a->y, a->sum)                      \
    X(rms_norm_forward, lt_norm_args, a->y, a->sum)                        \
    X(layer_norm_backward, lt_norm_backward_args, a->dx)                   \
    X(rms_norm_backward, lt_norm_backward_args, a->dx)                     \
    X(rotary, lt_rotary_args, a->x)                                        \
    X(activation_forward, lt_activation_args, a->y)                        \
    X(activation_backward, lt_activation_backward_args, a->dx)             \
    X(swiglu_forward, lt_swiglu_args, a->y)                                \
    X(swiglu_backward, lt_swiglu_backward_args, a->dgate_up)               \
    X(embedding_forward, lt_embedding_args, a->y)                          \
    X(cross_entropy, lt_cross_entropy_args, a->gradient)                   \
    X(dropout, lt_dropout_args, a->y)                                      \
    X(add, lt_add_args, a->y)                                              \
    X(scale, lt_scale_args, a->y)                                          \
    X(scale_columns, lt_scale_columns_args, a->y)

ROUNDING_OPERATIONS(ROUNDING)

/* Products for gradients of weights (TN) stay in f32. */
static lt_status rounding_matmul(const lt_backend *backend, const lt_matmul_args *a, lt_err *err)
{
    LT_TRY(exact_ops.matmul(backend, a, err));
    if (a->layout == LT_MATMUL_TN) return LT_OK;
    round_tensor(a->preactivation);
    round_tensor(a->c);
    return LT_OK;
}

static inline void make_rounding(lt_backend *backend)
{
    exact_ops = backend->ops;
    backend->ops.matmul = rounding_matmul;
#define INSTALL(operation, args, ...) backend->ops.operation = rounding_##operation;
    ROUNDING_OPERATIONS(INSTALL)
#undef INSTALL
}

#endif
