/* The loss, and its sums over a batch. */
#include "base/batch.h"
#include "kernels/ref/ref.h"

#define CHUNK 4096

/* loss = log(sum exp(x_j)) - x_target;  d loss / d x_j = exp(x_j - log sum exp) - [j == target].
 * The maximum is taken out before exp, so that nothing overflows. The gradient `d` may lie on the
 * logits: an element is written after it has been read for the last time. */
static real row_loss(const real *x, int64_t vocab, int32_t target, real *d, bool *correct)
{
    int64_t largest = 0;
    double sum = 0;
    for (int64_t j = 1; j < vocab; j++)
        if (x[j] > x[largest]) largest = j;
    double maximum = x[largest];
    for (int64_t j = 0; j < vocab; j++)
        sum += exp(x[j] - maximum);
    double log_sum = maximum + log(sum), loss = log_sum - x[target];
    for (int64_t j = 0; d && j < vocab; j++)
        d[j] = (real)(exp(x[j] - log_sum) - (j == target));
    *correct = target == largest;
    return (real)loss;
}

REFERENCE(cross_entropy, lt_cross_entropy_args)
{
    int64_t vocab = a->logits.shape[1];
    for (int64_t r = 0; r < a->logits.shape[0]; r++) {
        real *d = a->gradient.data ? row(&a->gradient, r) : NULL, *loss = values(&a->loss) + r;
        int32_t target = integers(&a->targets)[r];
        bool correct = false;
        *loss = 0;
        if (target != LT_IGNORE)
            *loss = row_loss(row(&a->logits, r), vocab, target, d, &correct);
        else if (d)
            memset(d, 0, (size_t)vocab * sizeof *d);
        if (a->correct.data) ((int32_t *)a->correct.data)[r] = correct;
    }
    return LT_OK;
}

REFERENCE(sum_losses, lt_sum_losses_args)
{
    int64_t rows = a->loss.shape[0];
    const int32_t *targets = integers(&a->targets), *correct = integers(&a->correct);
    double *totals = a->totals.data;
    for (int64_t start = 0; start < rows; start += CHUNK) {
        double sums[3] = {0};
        for (int64_t r = start; r < rows && r < start + CHUNK; r++) {
            sums[0] += values(&a->loss)[r];
            sums[1] += targets[r] != LT_IGNORE;
            sums[2] += correct[r];
        }
        for (int i = 0; i < 3; i++)
            totals[i] += sums[i];
    }
    return LT_OK;
}
