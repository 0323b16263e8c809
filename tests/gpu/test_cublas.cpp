/* --matmul cublas against kernels/ref: NVIDIA's library itself, in all layouts, odd sizes and
 * strides, with what is done around it (bias, residual, extra pair). Skipped where it is not found.
 */
#include "tests/emulator/emulated_test.h"

#include "kernels/cuda/matmul_dispatch.cuh"

struct parameters {
    lt_matmul_layout layout;
    int64_t m, n, k, k_extra, gap;
    bool bias, residual, accumulate, longer;
};

static void use_cublas(test_run *t)
{
    lt_cuda *cuda = cuda_of(t->backend);
    lt_err err = {};
    cuda->matmul = LT_MATMUL_CUBLAS;
    if (cuda->cublas || cublas_create(cuda, &err) == LT_OK) return;
    fprintf(stderr, "%s\n", err.message);
    exit(err.code == LT_ERR_UNSUPPORTED ? 77 : 1);
}

static lt_tensor factor(test_run *t, int64_t rows, int64_t columns, bool turned, int64_t gap)
{
    return turned ? test_tensor(t, INPUT, t->real, {columns, rows}, gap)
                  : test_tensor(t, INPUT, t->real, {rows, columns}, gap);
}

/* c is rounded once for each thing that is added to it, and what is in it is at most a few times
 * sqrt(k). */
static void set_bound(test_run *t, const parameters *p, lt_dtype dtype)
{
    double k = (double)(p->k + p->k_extra) + 4, sums = sqrt(k) * 0x1p-24 * (k / 2 + 4);
    double rounding = dtype == LT_BF16 ? 0x1p-8 : 0x1p-22;
    test_tolerance(t, sums + 2 * rounding * sqrt(k), 2 * rounding);
}

static void product(test_run *t)
{
    const parameters *p = (const parameters *)t->parameters;
    bool a_turned = p->layout == LT_MATMUL_TN, b_turned = p->layout == LT_MATMUL_NT;
    lt_matmul_args args = {};
    if (!t->reference) use_cublas(t);
    args.layout = p->layout;
    args.accumulate = p->accumulate;
    args.a = factor(t, p->m, p->k, a_turned, p->gap);
    args.b = factor(t, p->k, p->n, b_turned, p->gap);
    if (p->k_extra) {
        args.a_extra = factor(t, p->m, p->k_extra, a_turned, p->gap);
        args.b_extra = factor(t, p->k_extra, p->n, b_turned, p->gap);
    }
    if (p->bias) args.bias = test_tensor(t, INPUT, t->real, {p->n});
    if (p->residual) args.residual = test_tensor(t, INPUT, t->real, {p->m, p->n}, p->gap);
    lt_dtype dtype = p->longer ? LT_F32 : t->real;
    args.c = test_tensor(t, p->accumulate ? INOUT : OUTPUT, dtype, {p->m, p->n}, p->gap);
    set_bound(t, p, dtype);
    TEST_CALL(t, matmul, args);
}

static void run(parameters p)
{
    static const char *const layouts[] = {"NT", "NN", "TN"};
    char name[160];
    snprintf(name, sizeof name, "cublas %s %lldx%lldx%lld+%lld gap %lld%s%s%s%s", layouts[p.layout],
             (long long)p.m, (long long)p.n, (long long)p.k, (long long)p.k_extra, (long long)p.gap,
             p.bias ? " bias" : "", p.residual ? " residual" : "",
             p.accumulate ? " accumulate" : "", p.longer ? " c_f32" : "");
    test_case(name, product, &p);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    for (lt_matmul_layout layout : {LT_MATMUL_NT, LT_MATMUL_NN, LT_MATMUL_TN}) {
        int64_t extra = layout == LT_MATMUL_TN ? 0 : 8;
        run({layout, 64, 48, 80, 0, 0, false, false, false, false});
        run({layout, 37, 29, 53, 0, 3, false, false, false, false});
        run({layout, 40, 24, 56, extra, 8, true, false, false, false});
        run({layout, 33, 40, 16, extra, 1, true, true, false, false});
        run({layout, 56, 40, 72, 0, 8, false, false, true, true});
        run({layout, 1, 40, 72, 0, 0, true, false, false, true});
        if (getenv("LATHE_GPU_LARGE"))
            run({layout, 1024, 768, 1600, extra, 0, true, true, false, false});
    }
    return test_end();
}
