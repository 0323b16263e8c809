/* --matmul cublas against kernels/ref: NVIDIA's library itself, in all layouts, odd sizes and
 * strides, with what is done around it (bias, residual, extra pair). Skipped where it is not found.
 */
#include "tests/emulator/product_case.h"

#include "kernels/cuda/matmul_dispatch.cuh"

static void use_cublas(test_run *t)
{
    lt_cuda *cuda = cuda_of(t->backend);
    lt_err err = {};
    cuda->matmul = LT_MATMUL_CUBLAS;
    if (cuda->cublas || cublas_create(cuda, &err) == LT_OK) return;
    fprintf(stderr, "%s\n", err.message);
    exit(err.code == LT_ERR_UNSUPPORTED ? 77 : 1);
}

/* c is rounded once for each thing that is added to it, and what is in it is at most a few times
 * sqrt(k). */
static void set_bound(test_run *t, const product_case *p, lt_dtype dtype)
{
    double k = (double)(p->k + p->k_extra) + 4, sums = sqrt(k) * 0x1p-24 * (k / 2 + 4);
    double rounding = dtype == LT_BF16 ? 0x1p-8 : 0x1p-22;
    test_tolerance(t, sums + 2 * rounding * sqrt(k), 2 * rounding);
}

static void product(test_run *t)
{
    const product_case *p = (const product_case *)t->parameters;
    if (!t->reference) use_cublas(t);
    lt_matmul_args args = product_args(t, p);
    lt_dtype dtype = p->longer ? LT_F32 : t->real;
    args.c = test_tensor(t, p->accumulate ? INOUT : OUTPUT, dtype, {p->m, p->n}, p->gap);
    set_bound(t, p, dtype);
    TEST_CALL(t, matmul, args);
}

static void run(product_case p)
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
        run({layout, 64, 48, 80, 0, false, false, false, false, false, 0, 0});
        run({layout, 37, 29, 53, 0, false, false, false, false, false, 3, 0});
        run({layout, 40, 24, 56, extra, true, false, false, false, false, 8, 0});
        run({layout, 33, 40, 16, extra, true, true, false, false, false, 1, 0});
        run({layout, 56, 40, 72, 0, false, false, false, true, true, 8, 0});
        run({layout, 1, 40, 72, 0, true, false, false, false, true, 0, 0});
        if (getenv("LATHE_GPU_LARGE"))
            run({layout, 1024, 768, 1600, extra, true, true, false, false, false, 0, 0});
    }
    return test_end();
}
