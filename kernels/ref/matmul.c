#include "kernels/ref/ref.h"

/* c[i,j] = sum over p of a(i,p) b(p,j). The layouts differ only in which stride goes with which
 * index. */
REFERENCE(matmul, lt_matmul_args)
{
    bool a_transposed = a->layout == LT_MATMUL_TN, b_transposed = a->layout == LT_MATMUL_NT;
    int64_t m = a->c.shape[0], n = a->c.shape[1], k = a->a.shape[a_transposed ? 0 : 1];
    int64_t a_i = a_transposed ? 1 : a->a.stride[0], a_p = a_transposed ? a->a.stride[0] : 1;
    int64_t b_p = b_transposed ? 1 : a->b.stride[0], b_j = b_transposed ? a->b.stride[0] : 1;
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            const real *left = values(&a->a) + i * a_i, *right = values(&a->b) + j * b_j;
            double v = 0;
            for (int64_t p = 0; p < k; p++)
                v += (double)left[p * a_p] * (double)right[p * b_p];
            if (a->bias.data) v += values(&a->bias)[j];
            if (a->preactivation.data) row(&a->preactivation, i)[j] = (real)v;
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
