#include "kernels/ref/ref.h"

/* sum over p of a(i,p) b(p,j). The layouts differ only in which stride goes with which index. */
static double product(lt_matmul_layout layout, const lt_tensor *a, const lt_tensor *b, int64_t i,
                      int64_t j)
{
    bool a_transposed = layout == LT_MATMUL_TN, b_transposed = layout == LT_MATMUL_NT;
    int64_t k = a->shape[a_transposed ? 0 : 1];
    int64_t a_i = a_transposed ? 1 : a->stride[0], a_p = a_transposed ? a->stride[0] : 1;
    int64_t b_p = b_transposed ? 1 : b->stride[0], b_j = b_transposed ? b->stride[0] : 1;
    double sum = 0;
    for (int64_t p = 0; p < k; p++)
        sum += (double)values(a)[i * a_i + p * a_p] * weight_at(b, j * b_j + p * b_p);
    return sum;
}

/* v to preactivation, then silu(gate) * up of it. */
static lt_status swiglu_product(const lt_backend *backend, const lt_matmul_args *a, lt_err *err)
{
    lt_matmul_args product = *a;
    product.c = a->preactivation;
    product.preactivation = (lt_tensor){0};
    product.activation = LT_ACTIVATION_NONE;
    LT_TRY(REF(matmul)(backend, &product, err));
    lt_swiglu_args swiglu = {.gate_up = a->preactivation, .y = a->c};
    return REF(swiglu_forward)(backend, &swiglu, err);
}

REFERENCE(matmul, lt_matmul_args)
{
    if (a->activation == LT_ACTIVATION_SWIGLU) return swiglu_product(backend, a, err);
    for (int64_t i = 0; i < a->c.shape[0]; i++) {
        for (int64_t j = 0; j < a->c.shape[1]; j++) {
            double v = product(a->layout, &a->a, &a->b, i, j);
            if (a->a_extra.data) v += product(a->layout, &a->a_extra, &a->b_extra, i, j);
            if (a->bias.data) v += values(&a->bias)[j];
            if (a->preactivation.data) row(&a->preactivation, i)[j] = (real)v;
            if (a->activation != LT_ACTIVATION_NONE) v = (real)v;
            v = REF(activate)(a->activation, v);
            if (a->residual.data) v += row(&a->residual, i)[j];
            if (a->accumulate) v += row(&a->c, i)[j];
            row(&a->c, i)[j] = (real)v;
        }
    }
    return LT_OK;
}

/* dbias[j] += sum over i of dy[i,j] */
REFERENCE(bias_backward, lt_bias_backward_args)
{
    for (int64_t j = 0; j < a->dy.shape[1]; j++) {
        double sum = 0;
        for (int64_t i = 0; i < a->dy.shape[0]; i++)
            sum += row(&a->dy, i)[j];
        values(&a->dbias)[j] += (real)sum;
    }
    return LT_OK;
}
