/* A product of lt_matmul as the tests of cuBLAS ask for it, on the emulated GPU and on a real one.
 */
#ifndef LT_TEST_PRODUCT_CASE_H
#define LT_TEST_PRODUCT_CASE_H

#include "tests/emulator/emulated_test.h"

struct product_case {
    lt_matmul_layout layout;
    int64_t m, n, k, k_extra;
    bool bias, residual, in_place, accumulate, longer; /* longer: c is f32 */
    int64_t gap;                                       /* unused columns of every row */
    int products; /* that the emulated cuBLAS is to be asked for */
};

static inline lt_tensor product_factor(test_run *t, int64_t rows, int64_t columns, bool turned,
                                       int64_t gap)
{
    return turned ? test_tensor(t, INPUT, t->real, {columns, rows}, gap)
                  : test_tensor(t, INPUT, t->real, {rows, columns}, gap);
}

/* Everything but c, and a residual that is c. */
static inline lt_matmul_args product_args(test_run *t, const product_case *p)
{
    bool a_turned = p->layout == LT_MATMUL_TN, b_turned = p->layout == LT_MATMUL_NT;
    lt_matmul_args args = {};
    args.layout = p->layout;
    args.accumulate = p->accumulate;
    args.a = product_factor(t, p->m, p->k, a_turned, p->gap);
    args.b = product_factor(t, p->k, p->n, b_turned, p->gap);
    if (p->k_extra) {
        args.a_extra = product_factor(t, p->m, p->k_extra, a_turned, p->gap);
        args.b_extra = product_factor(t, p->k_extra, p->n, b_turned, p->gap);
    }
    if (p->bias) args.bias = test_tensor(t, INPUT, t->real, {p->n});
    if (p->residual) args.residual = test_tensor(t, INPUT, t->real, {p->m, p->n}, 2 * p->gap);
    return args;
}

#endif
