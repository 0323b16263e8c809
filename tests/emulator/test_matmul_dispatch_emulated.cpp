/* lt_matmul by cuBLAS: is it called rightly (layouts, strides, number types), and is what it does
 * not do (bias, residual, extra pair) done around it? cublas/cublas_emulated.cpp stands in for the
 * library. */
#include "tests/emulator/product_case.h"

#include "kernels/cuda/matmul_dispatch.cuh"

extern "C" {
int cublas_emulated_products;
}

/* The emulated backend of the test, with cuBLAS. */
static void use_cublas(test_run *t)
{
    lt_cuda *cuda = cuda_of(t->backend);
    lt_err err = {};
    cuda->matmul = LT_MATMUL_CUBLAS;
    if (!cuda->cublas && matmul_set_up(cuda, t->real, &err) != LT_OK)
        TEST_FAIL(t, "%s", err.message);
}

static void product(test_run *t)
{
    const product_case *p = (const product_case *)t->parameters;
    if (!t->reference) use_cublas(t);
    lt_matmul_args args = product_args(t, p);
    args.c = test_tensor(t, p->accumulate || p->in_place ? INOUT : OUTPUT,
                         p->longer ? LT_F32 : t->real, {p->m, p->n}, p->gap);
    /* before cuBLAS adds, c may have been rounded twice: bias and residual, and the first product
     */
    bool rounded = t->real == LT_BF16 && !p->longer;
    test_tolerance(t, rounded ? 0x1p-5 : 1e-5, rounded ? 0x1p-7 : 1e-5);
    if (p->in_place) args.residual = args.c;
    int before = cublas_emulated_products;
    TEST_CALL(t, matmul, args);
    if (!t->reference && cublas_emulated_products - before != p->products)
        TEST_FAIL(t, "cuBLAS was asked for %d products, not %d", cublas_emulated_products - before,
                  p->products);
}

/* What cuBLAS can not do goes to our own. */
static void activated(test_run *t)
{
    lt_matmul_args args = {};
    if (!t->reference) use_cublas(t);
    args.a = test_tensor(t, INPUT, t->real, {5, 24});
    args.b = test_tensor(t, INPUT, t->real, {7, 24});
    args.activation = LT_ACTIVATION_GELU;
    args.c = test_tensor(t, OUTPUT, t->real, {5, 7});
    int before = cublas_emulated_products;
    TEST_CALL(t, matmul, args);
    if (cublas_emulated_products != before) TEST_FAIL(t, "cuBLAS was asked");
}

static void describes(const char *words, lt_matmul_choice choice, int capability, lt_dtype real)
{
    const lt_backend *backend = test_emulated_backend(real);
    lt_cuda *cuda = cuda_of(backend);
    lt_cuda before = *cuda;
    cuda->matmul = choice;
    cuda->capability = capability;
    matmul_describe(cuda, real);
    test_state.cases++;
    if (!strstr(cuda->products, words)) {
        fprintf(stderr, "FAILED: '%s' is not in '%s'\n", words, cuda->products);
        test_state.failures++;
    }
    *cuda = before;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        product_case p;
    } cases[] = {
        {"NT", {LT_MATMUL_NT, 5, 7, 9, 0, false, false, false, false, false, 0, 1}},
        {"NN", {LT_MATMUL_NN, 5, 7, 9, 0, false, false, false, false, false, 0, 1}},
        {"TN", {LT_MATMUL_TN, 5, 7, 9, 0, false, false, false, false, false, 0, 1}},
        {"NT strided", {LT_MATMUL_NT, 6, 4, 11, 0, false, false, false, false, false, 3, 1}},
        {"NN strided", {LT_MATMUL_NN, 6, 4, 11, 0, false, false, false, false, false, 3, 1}},
        {"TN strided", {LT_MATMUL_TN, 6, 4, 11, 0, false, false, false, false, false, 3, 1}},
        {"one row", {LT_MATMUL_NT, 1, 8, 16, 0, true, false, false, false, false, 8, 1}},
        {"bias", {LT_MATMUL_NT, 6, 13, 8, 0, true, false, false, false, false, 0, 1}},
        {"bias, four at a time",
         {LT_MATMUL_NT, 70, 16, 8, 0, true, true, false, false, false, 4, 1}},
        {"residual", {LT_MATMUL_NT, 6, 13, 8, 0, false, true, false, false, false, 1, 1}},
        {"residual and bias", {LT_MATMUL_NT, 6, 13, 8, 0, true, true, false, false, false, 1, 1}},
        {"residual in place", {LT_MATMUL_NN, 6, 13, 8, 0, false, false, true, false, false, 1, 1}},
        {"in place and bias", {LT_MATMUL_NN, 6, 13, 8, 0, true, false, true, false, false, 1, 1}},
        {"accumulate", {LT_MATMUL_TN, 6, 13, 8, 0, false, false, false, true, false, 0, 1}},
        {"accumulate and bias", {LT_MATMUL_NT, 6, 13, 8, 0, true, false, false, true, false, 2, 1}},
        {"f32 c", {LT_MATMUL_TN, 6, 13, 8, 0, false, false, false, true, true, 0, 1}},
        {"f32 c, bias", {LT_MATMUL_NT, 6, 12, 8, 0, true, false, false, false, true, 4, 1}},
        {"extra", {LT_MATMUL_NT, 6, 13, 8, 3, false, false, false, false, false, 1, 2}},
        {"extra and all", {LT_MATMUL_NN, 6, 13, 8, 3, true, true, false, false, false, 1, 2}},
        {"k of 0", {LT_MATMUL_NT, 3, 4, 0, 0, true, false, false, false, false, 0, 0}},
        {"no rows", {LT_MATMUL_NT, 0, 4, 8, 0, true, false, false, false, false, 0, 0}},
    };
    test_begin(argc, argv);
    describes("auto: native; cuBLAS, likely 2.0 times", LT_MATMUL_AUTO, 90, LT_BF16);
    describes("auto: native", LT_MATMUL_AUTO, 90, LT_F32);
    for (const auto &c : cases)
        test_case(c.name, product, &c.p);
    test_case("activation", activated, nullptr);
    describes("auto: native", LT_MATMUL_AUTO, 80, LT_BF16);
    describes("native", LT_MATMUL_NATIVE, 90, LT_BF16);
    describes("published (not measured)", LT_MATMUL_AUTO, 90, LT_BF16);
    describes("cublas (libcublas_emulated.so)", LT_MATMUL_CUBLAS, 80, LT_BF16);
    return test_end();
}
