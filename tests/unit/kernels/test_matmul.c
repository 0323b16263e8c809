#include "tests/unit/kernels/kernel_test.h"

typedef struct matmul_case {
    lt_matmul_layout layout;
    int64_t m, n, k;
    lt_activation activation;
    bool bias, residual, residual_is_c, preactivation, accumulate;
    int64_t gap; /* elements between rows */
    int64_t k_extra;
    bool bf16;
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
    args.b = test_weight(t, p->bf16, b_rows, b_columns, gap);
    float *c = p->accumulate || p->residual_is_c ? test_inout(t, c_size) : test_output(t, c_size);
    args.c = strided(c, p->m, p->n, gap);
    if (p->bias) args.bias = lt_tensor_1d(test_input(t, p->n), LT_F32, p->n);
    if (p->residual) args.residual = strided(test_input(t, c_size), p->m, p->n, gap);
    if (p->residual_is_c) args.residual = args.c;
    if (p->preactivation) args.preactivation = strided(test_output(t, c_size), p->m, p->n, gap);
    if (p->k_extra) {
        args.a_extra = test_weight(t, false, p->m, p->k_extra, gap);
        args.b_extra =
            test_weight(t, false, b_turned ? p->n : p->k_extra, b_turned ? p->k_extra : p->n, gap);
    }
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
        for (int activation = LT_ACTIVATION_NONE; activation <= LT_ACTIVATION_TANH; activation++)
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

/* The extra pair and bf16, around the border between the pairs: inside a block and at its end, with
 * more of k behind it than before, with few rows. */
static void test_extra_and_bf16(void **state)
{
    static const int64_t shapes[][4] = {
        {0, 5, 7, 3},     {5, 0, 7, 3},     {5, 7, 0, 3},     {15, 33, 0, 9},   {1, 1, 1, 1},
        {1, 33, 17, 16},  {2, 9, 16, 8},    {3, 7, 48, 17},   {4, 40, 100, 31}, {5, 17, 15, 500},
        {6, 16, 31, 1},   {7, 32, 384, 8},  {8, 9, 385, 64},  {9, 33, 401, 15}, {13, 65, 3, 400},
        {14, 32, 384, 8}, {15, 31, 64, 17}, {29, 97, 768, 1}, {64, 1, 64, 64},  {130, 70, 31, 7},
        {17, 65, 20, 900}};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int flags = 0; flags < 16; flags++) { /* 1 NN, 2 bf16, 4 no extra, 8 gaps */
            matmul_case c = {.layout = flags & 1 ? LT_MATMUL_NN : LT_MATMUL_NT,
                             .m = shapes[i][0],
                             .n = shapes[i][1],
                             .k = shapes[i][2],
                             .k_extra = flags & 4 ? 0 : shapes[i][3],
                             .bf16 = flags & 2,
                             .gap = flags & 8 ? 3 : 0};
            char what[80];
            snprintf(what, sizeof what, "matmul %lld %lld %lld + %lld, %d", (long long)c.m,
                     (long long)c.n, (long long)c.k, (long long)c.k_extra, flags);
            test_all_backends(run_matmul, &c, what);
        }
}

/* What the end of a product does stands behind the extra pair. */
static void test_extra_epilogues(void **state)
{
    static const int64_t shapes[][4] = {
        {3, 35, 20, 9}, {31, 45, 20, 9}, {31, 45, 384, 8}, {31, 45, 800, 500}, {20, 33, 0, 5}};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int flags = 0; flags < 32; flags++) {
            matmul_case c = {.layout = flags & 16 ? LT_MATMUL_NN : LT_MATMUL_NT,
                             .m = shapes[i][0],
                             .n = shapes[i][1],
                             .k = shapes[i][2],
                             .k_extra = shapes[i][3],
                             .activation = flags & 1 ? LT_ACTIVATION_TANH : LT_ACTIVATION_NONE,
                             .bias = flags & 1,
                             .accumulate = flags & 2,
                             .residual = flags & 4,
                             .preactivation = flags & 8,
                             .bf16 = flags & 4,
                             .gap = 1};
            char what[64];
            if (c.activation && (c.accumulate || c.residual) && !c.preactivation) continue;
            snprintf(what, sizeof what, "matmul extra epilogue %d, shape %zu", flags, i);
            test_all_backends(run_matmul, &c, what);
        }
}

/* On a new backend, whose scratch memory is just what one call asks for. */
static void test_fresh_scratch(void **state)
{
    static const matmul_case cases[] = {{.m = 3, .n = 20, .k = 20, .k_extra = 500},
                                        {.m = 20, .n = 40, .k = 20, .k_extra = 500},
                                        {.m = 40, .n = 20, .k = 384, .k_extra = 64}};
    static const char *const names[] = {"avx2", "avx512"};
    (void)state;
    for (int i = 0; i < 6; i++) {
        test_run run;
        lt_backend *backend = test_backend(names[i % 2], 2);
        if (!backend) continue;
        test_start(&run, backend, &cases[i / 2], run_matmul);
        test_end(&run);
        lt_backend_free(backend);
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

/* With small integers, which bf16 holds, a product in one piece, one cut in two along k, and either
 * with weights in bf16 agree to the bit. */
static void test_cut_exact(void **state)
{
    static const int64_t shapes[][3] = {{1, 50, 900}, {8, 33, 77}, {61, 130, 1000}, {40, 20, 50}};
    (void)state;
    for (int i = 0; i < 4 * 3 * 2; i++) {
        const int64_t *s = shapes[i / 6], m = s[0], n = s[1], k = s[2];
        const lt_backend *backend = test_backend_kept(i / 2 % 3, 2);
        bool turned = i % 2 == 0;
        if (!backend) continue;
        test_run run = {.backend = backend}, *t = &run;
        float *a = test_input(t, m * k), *b = test_input(t, n * k);
        float *want = test_output(t, m * n), *have = test_output(t, m * n);
        uint16_t *half = (uint16_t *)test_output(t, (n * k + 1) / 2);
        for (int64_t j = 0; j < m * k; j++)
            a[j] = rintf(8 * a[j]);
        for (int64_t j = 0; j < n * k; j++)
            b[j] = rintf(8 * b[j]);
        lt_convert_args convert = {lt_tensor_1d(b, LT_F32, n * k),
                                   lt_tensor_1d(half, LT_BF16, n * k)};
        TEST_CALL(t, convert, convert);
        lt_matmul_args args = {.layout = turned ? LT_MATMUL_NT : LT_MATMUL_NN,
                               .c = lt_tensor_2d(want, LT_F32, m, n),
                               .a = lt_tensor_2d(a, LT_F32, m, k),
                               .b = lt_tensor_2d(b, LT_F32, turned ? n : k, turned ? k : n)};
        lt_tensor in_half = lt_tensor_2d(half, LT_BF16, turned ? n : k, turned ? k : n);
        TEST_CALL(t, matmul, args);
        for (int64_t cut = k; cut >= 0; cut -= k / 2 - 3)
            for (int bf16 = 0; bf16 < 2; bf16++) {
                lt_matmul_args x = args;
                x.c.data = have;
                x.a = lt_tensor_slice(args.a, 1, 0, cut);
                x.b = lt_tensor_slice(bf16 ? in_half : args.b, turned, 0, cut);
                if (cut < k) {
                    x.a_extra = lt_tensor_slice(args.a, 1, cut, k - cut);
                    x.b_extra = lt_tensor_slice(args.b, turned, cut, k - cut);
                }
                TEST_CALL(t, matmul, x);
                assert_memory_equal(want, have, (size_t)(m * n) * sizeof *have);
            }
        test_end(t);
    }
}

/* Weights in bf16 stand for doubles too. */
static void test_bf16_double(void **state)
{
    uint16_t weight[2] = {0x3FC0, 0xC000}; /* 1.5 and -2 */
    double a[2] = {3, 0.1}, c = 0;
    lt_backend *backend = NULL;
    (void)state;
    test_ok(lt_backend_create_double(&backend, NULL), NULL);
    lt_matmul_args args = {.c = lt_tensor_2d(&c, LT_F64, 1, 1),
                           .a = lt_tensor_2d(a, LT_F64, 1, 2),
                           .b = lt_tensor_2d(weight, LT_BF16, 1, 2)};
    test_ok(lt_matmul(backend, &args, NULL), NULL);
    assert_true(c == 4.5 - 0.2);
    lt_backend_free(backend);
}

/* Large enough for several blocks of the shared operand and for thread splits. */
static void test_large(void **state)
{
    static const int64_t shapes[][3] = {{3000, 20, 1600}, {20, 3000, 1600}, {9, 20, 9000}};
    (void)state;
    for (size_t s = 0; s < 3; s++)
        for (int i = 0; i < 5; i++) { /* the three layouts, then two with an extra pair */
            matmul_case c = {.layout = (lt_matmul_layout)(i % 3),
                             .m = shapes[s][0],
                             .n = shapes[s][1],
                             .k = shapes[s][2],
                             .k_extra = i < 3 ? 0 : 40,
                             .bf16 = i >= 3,
                             .bias = true};
            test_all_backends(run_matmul, &c, "large matmul");
        }
}

/* Bits of a row do not depend on the rows around it, nor on the number of threads. */
static void test_rows_independent(void **state)
{
    enum { M = 45, N = 70, K = 500, BEFORE = 390 };
    (void)state;
    for (int i = 0; i < 4; i++) {
        int isa = 1 + i / 2;
        bool cut = i % 2;
        const lt_backend *one = test_backend_kept(isa, 1), *three = test_backend_kept(isa, 3);
        if (!one) continue;
        test_run run = {.backend = one}, *t = &run;
        float *a = test_input(t, M * K), *b = test_input(t, N * K);
        float *all = test_output(t, M * N), *few = test_output(t, 20 * N);
        lt_matmul_args args = {.c = lt_tensor_2d(all, LT_F32, M, N),
                               .a = lt_tensor_2d(a, LT_F32, M, K),
                               .b = lt_tensor_2d(b, LT_F32, N, K)};
        if (cut) {
            args.a_extra = lt_tensor_slice(args.a, 1, BEFORE, K - BEFORE);
            args.b_extra = lt_tensor_slice(args.b, 1, BEFORE, K - BEFORE);
            args.a = lt_tensor_slice(args.a, 1, 0, BEFORE);
            args.b = lt_tensor_slice(args.b, 1, 0, BEFORE);
        }
        TEST_CALL(t, matmul, args);
        t->backend = three;
        args.a = lt_tensor_slice(args.a, 0, 21, 20);
        if (cut) args.a_extra = lt_tensor_slice(args.a_extra, 0, 21, 20);
        args.c = lt_tensor_2d(few, LT_F32, 20, N);
        TEST_CALL(t, matmul, args);
        assert_memory_equal(few, all + 21 * N, 20 * N * sizeof(float));
        test_end(t);
    }
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

static void refused(const lt_matmul_args *args, const char *message)
{
    lt_err err = {0};
    assert_int_equal(lt_matmul(test_backend_kept(0, 1), args, &err), LT_ERR_USAGE);
    assert_string_equal(err.message, message);
}

static void test_extra_refusals(void **state)
{
    float x[64] = {0};
    lt_matmul_args args = {.c = lt_tensor_2d(x, LT_F32, 2, 3),
                           .a = lt_tensor_2d(x, LT_F32, 2, 4),
                           .b = lt_tensor_2d(x, LT_F32, 3, 4),
                           .a_extra = lt_tensor_2d(x, LT_F32, 2, 5)};
    lt_tensor b_extra = lt_tensor_2d(x, LT_F32, 3, 5);
    (void)state;
    refused(&args, "matmul: b_extra is absent f32 [], expected f32 [3, 5] with the last stride 1");
    args.b_extra = lt_tensor_2d(x, LT_BF16, 3, 5);
    refused(&args, "matmul: b_extra is bf16 [3, 5], expected f32 [3, 5] with the last stride 1");
    args.b_extra = b_extra;
    args.activation = LT_ACTIVATION_RELU;
    args.accumulate = true;
    refused(&args, "matmul: a_extra with an activation and a residual or accumulate needs "
                   "preactivation");
    args.accumulate = false;
    args.residual = args.c;
    refused(&args, "matmul: a_extra with an activation and a residual or accumulate needs "
                   "preactivation");
    args.preactivation = lt_tensor_2d(x + 32, LT_F32, 2, 3);
    test_ok(lt_matmul(test_backend_kept(0, 1), &args, NULL), NULL);
    args.a_extra = (lt_tensor){0};
    refused(&args, "matmul: a_extra is absent f32 [], expected f32 [2, *] with the last stride 1");
    args.layout = LT_MATMUL_TN;
    args.a = lt_tensor_2d(x, LT_F32, 4, 2);
    args.b = lt_tensor_2d(x, LT_F32, 4, 3);
    refused(&args, "matmul: a_extra and b_extra are not for TN");
    args.b_extra = (lt_tensor){0};
    args.b.dtype = LT_BF16;
    refused(&args, "matmul: b is bf16 [4, 3], expected f32 [4, 3] with the last stride 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),         cmocka_unit_test(test_epilogues),
        cmocka_unit_test(test_extra_and_bf16), cmocka_unit_test(test_extra_epilogues),
        cmocka_unit_test(test_fresh_scratch),  cmocka_unit_test(test_integers_exact),
        cmocka_unit_test(test_cut_exact),      cmocka_unit_test(test_bf16_double),
        cmocka_unit_test(test_large),          cmocka_unit_test(test_rows_independent),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_extra_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
