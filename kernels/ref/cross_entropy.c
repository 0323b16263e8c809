#include "base/batch.h"
#include "kernels/ref/ref.h"

/* loss = log(sum exp(x_j)) - x_target;  d loss / d x_j = exp(x_j - log sum exp) - [j == target].
 * The maximum is taken out before exp, so that nothing overflows. */
REFERENCE(cross_entropy, lt_cross_entropy_args)
{
    int64_t vocab = a->logits.shape[1];
    for (int64_t r = 0; r < a->logits.shape[0]; r++) {
        real *x = row(&a->logits, r);
        int32_t target = integers(&a->targets)[r];
        bool ignored = target == LT_IGNORE;
        int64_t largest = 0;
        double sum = 0;
        for (int64_t j = 1; j < vocab; j++)
            if (x[j] > x[largest]) largest = j;
        double maximum = x[largest];
        for (int64_t j = 0; j < vocab; j++)
            sum += exp(x[j] - maximum);
        double log_sum = maximum + log(sum);
        values(&a->loss)[r] = (real)(ignored ? 0 : log_sum - x[target]);
        if (a->correct.data) ((int32_t *)a->correct.data)[r] = !ignored && target == largest;
        for (int64_t j = 0; a->gradient && j < vocab; j++)
            x[j] = (real)(ignored ? 0 : exp(x[j] - log_sum) - (j == target));
    }
    return LT_OK;
}
