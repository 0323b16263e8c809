#include "kernels/ref/ref.h"

/* |W[j] + scaling B[j] A| */
static double direction_norm(const lt_dora_norm_args *a, int64_t j)
{
    int64_t weight = lt_row_offset(&a->weight, j), rank = a->b.shape[1];
    double sum = 0;
    for (int64_t i = 0; i < a->weight.shape[1]; i++) {
        double update = 0;
        for (int64_t p = 0; p < rank; p++)
            update += (double)row(&a->b, j)[p] * (double)row(&a->a, p)[i];
        double v = weight_at(&a->weight, weight + i) + a->scaling * update;
        sum += v * v;
    }
    return sqrt(sum);
}

REFERENCE(dora_norm, lt_dora_norm_args)
{
    for (int64_t j = 0; j < a->weight.shape[0]; j++) {
        double norm = direction_norm(a, j);
        values(&a->norm)[j] = (real)norm;
        if (a->magnitude.data)
            values(&a->scale)[j] = (real)(norm == 0 ? 0 : values(&a->magnitude)[j] / norm);
    }
    return LT_OK;
}

/* dmagnitude[j] += sum over i of dy[i,j] z[i,j] / norm[j] */
REFERENCE(dora_backward, lt_dora_backward_args)
{
    for (int64_t j = 0; j < a->dy.shape[1]; j++) {
        double sum = 0;
        for (int64_t i = 0; i < a->dy.shape[0]; i++)
            sum += (double)row(&a->dy, i)[j] * (double)row(&a->z, i)[j];
        if (values(&a->norm)[j] != 0)
            values(&a->dmagnitude)[j] += (real)(sum / values(&a->norm)[j]);
    }
    return LT_OK;
}
