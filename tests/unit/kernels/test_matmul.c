#include "tests/unit/kernels/kernel_test.h"

typedef struct matmul_case {
    lt_matmul_layout layout;
    int64_t m, n, k;
    lt_activation activation;
    bool bias, residual, residual_is_c, preactivation, accumulate;
    int64_t gap; /* elements between rows */
} matmul_case;

static lt_tensor strided(float *data, int64_t rows, int64_t columns, int64_t gap)
{
    lt_tensor t = lt_tensor_2d(data, LT_F32, rows, columns);
    t.stride[0] = columns + gap;
    return t;
}

static void run_matmul(test_run *t)
{
    const matmul_case *p = t->parameters;
    int64_t gap = p->gap, c_size = p->m * (p->n + gap);
    bool a_turned = p->layout == LT_MATMUL_TN, b_turned = p->layout == LT_MATMUL_NT;
    int64_t a_rows = a_turned ? p->k : p->m, a_columns = a_turned ? p->m : p->k;
    int64_t b_rows = b_turned ? p->n : p->k, b_columns = b_turned ? p->k : p->n;
    lt_matmul_args args = {
        .layout = p->layout, .activation = p->activation, .accumulate = p->accumulate};
    args.a = strided(test_input(t, a_rows * (a_columns + gap)), a_rows, a_columns, gap);
    args.b = strided(test_input(t, b_rows * (b_columns + gap)), b_rows, b_columns, gap);
    float *c = p->accumulate || p->residual_is_c ? test_inout(t, c_size) : test_output(t, c_size);
    args.c = strided(c, p->m, p->n, gap);
    if (p->bias) args.bias = lt_tensor_1d(test_input(t, p->n), LT_F32, p->n);
    if (p->residual) args.residual = strided(test_input(t, c_size), p->m, p->n, gap);
    if (p->residual_is_c) args.residual = args.c;
    if (p->preactivation) args.preactivation = strided(test_output(t, c_size), p->m, p->n, gap);
    TEST_CALL(t, matmul, args);
}

/* Tile sizes are 6 x 16 and 14 x 32, k is cut at 384, dot products end at 8 rows. */
static void test_shapes(void **state)
{
    static const int64_t shapes[][3] = {
        {0, 5, 7},    {5, 0, 7},    {5, 7, 0},     {1, 1, 1},     {1, 33, 17},   {2, 31, 16},
        {3, 7, 48},   {4, 40, 100}, {5, 17, 15},   {6, 16, 32},   {7, 32, 384},  {8, 9, 385},
        {9, 33, 401}, {13, 65, 3},  {14, 32, 64},  {15, 31, 65},  {28, 64, 13},  {29, 97, 53},
        {64, 1, 64},  {97, 3, 11},  {130, 70, 31}, {211, 16, 40}, {17, 257, 800}};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int layout = 0; layout < 3; layout++)
            for (int64_t gap = 0; gap <= 3; gap += 3) {
                matmul_case c = {.layout = (lt_matmul_layout)layout,
                                 .m = shapes[i][0],
                                 .n = shapes[i][1],
                                 .k = shapes[i][2],
                                 .gap = gap};
                char what[64];
                snprintf(what, sizeof what, "matmul layout %d, %lld %lld %lld", layout,
                         (long long)c.m, (long long)c.n, (long long)c.k);
                test_all_backends(run_matmul, &c, what);
            }
}

static void test_epilogues(void **state)
{
    static const int64_t shapes[][3] = {{3, 35, 20}, {31, 45, 20}, {31, 45, 800}, {20, 33, 0}};
    (void)state;
    for (size_t i = 0; i < 4; i++)
        for (int activation = LT_ACTIVATION_NONE; activation <= LT_ACTIVATION_RELU; activation++)
            for (int flags = 0; flags < 16; flags++) {
                int residual = flags >> 1 & 3; /* 0 none, 1 apart, 2 in c */
                if (residual == 3) continue;
                for (int bias = 0; bias < 2; bias++) {
                    matmul_case c = {.m = shapes[i][0],
                                     .n = shapes[i][1],
                                     .k = shapes[i][2],
                                     .activation = (lt_activation)activation,
                                     .accumulate = flags & 1,
                                     .residual = residual == 1,
                                     .residual_is_c = residual == 2,
                                     .preactivation = flags >> 3 & 1,
                                     .bias = bias,
                                     .gap = 1};
                    char what[64];
                    snprintf(what, sizeof what, "matmul epilogue %d %d %d, shape %zu", activation,
                             flags, bias, i);
                    test_all_backends(run_matmul, &c, what);
                }
            }
}

/* Sums of small integers are exact: then every backend must agree to the bit. */
static void test_integers_exact(void **state)
{
    static const int64_t shapes[][3] = {{1, 50, 900}, {8, 33, 77}, {61, 130, 1000}, {300, 20, 50}};
    (void)state;
    for (size_t s = 0; s < 4; s++)
        for (int layout = 0; layout < 3; layout++)
            for (int isa = 0; isa < 3; isa++) {
                int64_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
                const lt_backend *backend = test_backend_kept(isa, 2);
                if (!backend) continue;
                test_run run = {.backend = backend}, *t = &run;
                float *a = test_input(t, m * k), *b = test_input(t, n * k);
                float *c = test_output(t, m * n);
                for (int64_t i = 0; i < m * k; i++)
                    a[i] = rintf(8 * a[i]);
                for (int64_t i = 0; i < n * k; i++)
                    b[i] = rintf(8 * b[i]);
                bool a_turned = layout == LT_MATMUL_TN, b_turned = layout == LT_MATMUL_NT;
                lt_matmul_args args = {
                    .layout = (lt_matmul_layout)layout,
                    .c = lt_tensor_2d(c, LT_F32, m, n),
                    .a = lt_tensor_2d(a, LT_F32, a_turned ? k : m, a_turned ? m : k),
                    .b = lt_tensor_2d(b, LT_F32, b_turned ? n : k, b_turned ? k : n)};
                TEST_CALL(t, matmul, args);
                for (int64_t i = 0; i < m; i++)
                    for (int64_t j = 0; j < n; j++) {
                        int64_t sum = 0;
                        for (int64_t p = 0; p < k; p++)
                            sum += (int64_t)(a_turned ? a[p * m + i] : a[i * k + p]) *
                                   (int64_t)(b_turned ? b[j * k + p] : b[p * n + j]);
                        if ((double)c[i * n + j] != (double)sum)
                            fail_msg("%s: c[%lld,%lld] is %g, not %lld", backend->name,
                                     (long long)i, (long long)j, (double)c[i * n + j],
                                     (long long)sum);
                    }
                test_end(t);
            }
}

/* Large enough for several blocks of the shared operand and for thread splits. */
static void test_large(void **state)
{
    static const int64_t shapes[][3] = {{3000, 20, 1600}, {20, 3000, 1600}, {9, 20, 9000}};
    (void)state;
    for (size_t s = 0; s < 3; s++)
        for (int layout = 0; layout < 3; layout++) {
            matmul_case c = {.layout = (lt_matmul_layout)layout,
                             .m = shapes[s][0],
                             .n = shapes[s][1],
                             .k = shapes[s][2],
                             .bias = true};
            test_all_backends(run_matmul, &c, "large matmul");
        }
}

/* Bits of a row do not depend on the rows around it, nor on the number of threads. */
static void test_rows_independent(void **state)
{
    enum { M = 45, N = 70, K = 500 };
    (void)state;
    for (int isa = 1; isa < 3; isa++) {
        const lt_backend *one = test_backend_kept(isa, 1), *three = test_backend_kept(isa, 3);
        if (!one) continue;
        test_run run = {.backend = one}, *t = &run;
        float *a = test_input(t, M * K), *b = test_input(t, N * K);
        float *all = test_output(t, M * N), *few = test_output(t, 20 * N);
        lt_matmul_args args = {.c = lt_tensor_2d(all, LT_F32, M, N),
                               .a = lt_tensor_2d(a, LT_F32, M, K),
                               .b = lt_tensor_2d(b, LT_F32, N, K)};
        TEST_CALL(t, matmul, args);
        t->backend = three;
        args.a = lt_tensor_slice(args.a, 0, 21, 20);
        args.c = lt_tensor_2d(few, LT_F32, 20, N);
        TEST_CALL(t, matmul, args);
        assert_memory_equal(few, all + 21 * N, 20 * N * sizeof(float));
        test_end(t);
    }
}

static void run_bias_backward(test_run *t)
{
    const int64_t *p = t->parameters;
    lt_bias_backward_args args = {.dbias = lt_tensor_1d(test_inout(t, p[1]), LT_F32, p[1]),
                                  .dy = strided(test_input(t, p[0] * (p[1] + 2)), p[0], p[1], 2)};
    TEST_CALL(t, bias_backward, args);
}

static void test_bias_backward(void **state)
{
    static const int64_t shapes[][2] = {{0, 9}, {1, 1}, {7, 100}, {300, 17}, {65, 1025}};
    (void)state;
    for (size_t i = 0; i < 5; i++)
        test_all_backends(run_bias_backward, shapes[i], "bias_backward");
}

static void test_refusals(void **state)
{
    float x[64] = {0};
    lt_err err = {0};
    const lt_backend *backend = test_backend_kept(0, 1);
    lt_matmul_args args = {.c = lt_tensor_2d(x, LT_F32, 2, 3),
                           .a = lt_tensor_2d(x, LT_F32, 2, 4),
                           .b = lt_tensor_2d(x, LT_F32, 3, 5)};
    (void)state;
    assert_int_equal(lt_matmul(backend, &args, &err), LT_ERR_USAGE);
    assert_string_equal(err.message,
                        "matmul: b is f32 [3, 5], expected f32 [3, 4] with the last stride 1");
    args.b = lt_tensor_2d(x, LT_F64, 3, 4);
    assert_int_equal(lt_matmul(backend, &args, &err), LT_ERR_USAGE);
    args.b = lt_tensor_2d(NULL, LT_F32, 3, 4);
    assert_int_equal(lt_matmul(backend, &args, &err), LT_ERR_USAGE);
    args.b = lt_tensor_2d(x, LT_F32, 3, 4);
    assert_int_equal(lt_matmul(backend, &args, &err), LT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),           cmocka_unit_test(test_epilogues),
        cmocka_unit_test(test_integers_exact),   cmocka_unit_test(test_large),
        cmocka_unit_test(test_rows_independent), cmocka_unit_test(test_bias_backward),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
