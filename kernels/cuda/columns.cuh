/* Sums over rows, column by column, in two steps: each block adds some of the rows and leaves a
 * partial sum of every column in scratch memory, then a second kernel adds those in order. So the
 * sums do not depend on which block is done first. Gradients of biases and norms are such sums. */
#ifndef LT_CUDA_COLUMNS_CUH
#define LT_CUDA_COLUMNS_CUH

#include "kernels/cuda/rows.cuh"

/* With n = (z - mean) rstd, row by row (mean absent: 0; rstd absent: 1; both statistics [rows]):
 *   products[j] += sum over rows of dy[row, j] n[row, j] / divisor[j]
 *   sums[j] += sum over rows of dy[row, j]
 * products and sums are gradient [columns]; either may be absent. */
typedef struct column_sums_args {
    lt_tensor dy, z; /* real, strided rows alike; z only for products */
    lt_tensor mean, rstd;
    lt_tensor products, sums;
    lt_tensor divisor; /* statistics [columns] or absent: 1. Where it is 0 nothing is added */
} column_sums_args;

/* (bias.cu) */
lt_status add_column_sums(const lt_backend *backend, const char *operation,
                          const column_sums_args *a, lt_err *err);

/* gradient[j] += (partial[0, j] + partial[1, j] + ...) / divisor[j], over `parts` rows. (bias.cu)
 */
lt_status add_partial_sums(const lt_backend *backend, const char *operation,
                           const lt_tensor *gradient, const float *partial, int64_t parts,
                           const float *divisor, lt_err *err);

#endif
