/* Tensor views, choosing a backend, and conversion between number types. */
#include "tests/unit/kernels/kernel_test.h"

static void test_views(void **state)
{
    float x[60];
    lt_tensor t = lt_tensor_2d(x, LT_F32, 6, 10);
    (void)state;
    assert_int_equal(lt_tensor_count(t), 60);
    assert_true(lt_tensor_is_contiguous(t));
    lt_tensor rows = lt_tensor_slice(t, 0, 2, 3);
    assert_ptr_equal(rows.data, x + 20);
    assert_int_equal(rows.shape[0], 3);
    assert_true(lt_tensor_is_contiguous(rows));
    lt_tensor columns = lt_tensor_slice(t, 1, 4, 6);
    assert_ptr_equal(columns.data, x + 4);
    assert_false(lt_tensor_is_contiguous(columns));
    assert_int_equal(lt_tensor_count(columns), 36);
    lt_tensor heads = lt_tensor_as_heads(columns, 2, 3, 2);
    assert_int_equal(heads.ndim, 4);
    for (int d = 0; d < 4; d++) {
        assert_int_equal(heads.shape[d], ((int64_t[]){2, 3, 3, 2})[d]);
        assert_int_equal(heads.stride[d], ((int64_t[]){30, 10, 2, 1})[d]);
    }
    assert_int_equal(lt_tensor_count((lt_tensor){0}), 0);
    assert_int_equal(lt_tensor_count(lt_tensor_1d(NULL, LT_F32, 5)), 0);
    assert_null(lt_tensor_slice(lt_tensor_1d(NULL, LT_F32, 5), 0, 2, 2).data);
    assert_int_equal(lt_dtype_size(LT_BF16), 2);
    assert_string_equal(lt_dtype_name(LT_F64), "f64");
}

static void test_choice(void **state)
{
    lt_backend *backend = NULL;
    lt_err err = {0};
    (void)state;
    lt_backend_settings settings = {.isa = "sse9"};
    assert_int_equal(lt_backend_create(&settings, &backend, &err), LT_ERR_USAGE);
    assert_null(backend);
    assert_non_null(strstr(err.message, "sse9"));
    settings = (lt_backend_settings){.threads = -1};
    assert_int_equal(lt_backend_create(&settings, &backend, &err), LT_ERR_USAGE);
    settings = (lt_backend_settings){.device = LT_DEVICE_CUDA};
    assert_int_not_equal(lt_backend_create(&settings, &backend, &err), LT_ERR_USAGE);
    lt_backend_free(backend);
    assert_int_equal(setenv("LATHE_ISA", "ref", 1), 0);
    settings = (lt_backend_settings){.threads = 3};
    assert_int_equal(lt_backend_create(&settings, &backend, &err), LT_OK);
    assert_string_equal(backend->name, "cpu-ref");
    assert_int_equal(backend->threads, 3);
    backend->ops.add = NULL;
    assert_int_equal(lt_add(backend, &(lt_add_args){0}, &err), LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "add"));
    lt_backend_free(backend);
    assert_int_equal(setenv("LATHE_ISA", "nonsense", 1), 0);
    assert_int_equal(lt_backend_create(NULL, &backend, &err), LT_ERR_USAGE);
    assert_int_equal(lt_cpu_isa(), LT_ISA_REF);
    assert_int_equal(unsetenv("LATHE_ISA"), 0);
    assert_int_equal(lt_backend_create(NULL, &backend, &err), LT_OK);
    assert_true(backend->threads >= 1);
    float x[2] = {1, 2}, y[2] = {0};
    assert_int_equal(backend->upload(backend, y, x, sizeof x, &err), LT_OK);
    assert_memory_equal(x, y, sizeof x);
    lt_backend_free(backend);
    lt_backend_free(NULL);
}

static void convert(const lt_backend *backend, const void *x, lt_dtype from, void *y, lt_dtype to,
                    int64_t n)
{
    lt_err err = {0};
    lt_convert_args a = {lt_tensor_1d((void *)x, from, n), lt_tensor_1d(y, to, n)};
    test_ok(lt_convert(backend, &a, &err), &err);
}

/* Known values, by bits. */
static void test_convert_known(void **state)
{
    static const struct {
        float x;
        uint16_t f16, bf16;
    } known[] = {
        {0, 0x0000, 0x0000},
        {-0.0f, 0x8000, 0x8000},
        {1, 0x3C00, 0x3F80},
        {-2, 0xC000, 0xC000},
        {65504, 0x7BFF, 0x4780}, /* the largest f16 */
        {65519, 0x7BFF, 0x4780}, /* still rounds down to it */
        {65520, 0x7C00, 0x4780}, /* the tie goes to infinity */
        {6.103515625e-5f, 0x0400, 0x3880},
        {5.9604644775390625e-8f, 0x0001, 0x3380},  /* the smallest f16 */
        {2.98023223876953125e-8f, 0x0000, 0x3300}, /* tie to even */
        {4.4703483581542969e-8f, 0x0001, 0x3340},
        {1.00390625f, 0x3C04, 0x3F80}, /* bf16: tie to even, down */
        {1.01171875f, 0x3C0C, 0x3F82}, /* tie to even, up */
        {3.3961775292304600e38f, 0x7C00, 0x7F80},
        {INFINITY, 0x7C00, 0x7F80},
        {NAN, 0x7E00, 0x7FC0},
    };
    enum { N = sizeof known / sizeof *known };
    (void)state;
    for (int isa = 0; isa < 3; isa++) {
        const lt_backend *backend = test_backend_kept(isa, 1);
        float x[N];
        double wide[N];
        uint16_t y[N];
        if (!backend) continue;
        for (int i = 0; i < N; i++)
            wide[i] = x[i] = known[i].x;
        for (int from_double = 0; from_double < 2; from_double++) {
            const void *from = from_double ? (const void *)wide : x;
            convert(backend, from, from_double ? LT_F64 : LT_F32, y, LT_F16, N);
            for (int i = 0; i < N; i++)
                assert_int_equal(y[i], known[i].f16);
            convert(backend, from, from_double ? LT_F64 : LT_F32, y, LT_BF16, N);
            for (int i = 0; i < N; i++)
                assert_int_equal(y[i], known[i].bf16);
        }
    }
}

/* All 65536 numbers of 16 bits, there and back, and the halves between them. */
static void test_convert_all(void **state)
{
    static uint16_t all[65536], back[65536], want[65536];
    static float wide[65536], other[65536];
    const lt_backend *ref = test_backend_kept(0, 1);
    (void)state;
    for (int i = 0; i < 65536; i++)
        all[i] = (uint16_t)i;
    for (int isa = 0; isa < 3; isa++)
        for (int dtype = LT_BF16; dtype <= LT_F16; dtype++) {
            const lt_backend *backend = test_backend_kept(isa, 2);
            int n = isa ? 65535 : 65536; /* odd: something is left after whole vectors */
            if (!backend) continue;
            convert(backend, all, (lt_dtype)dtype, wide, LT_F32, n);
            convert(ref, all, (lt_dtype)dtype, other, LT_F32, n);
            convert(backend, wide, LT_F32, back, (lt_dtype)dtype, n);
            for (int i = 0; i < n; i++) {
                assert_true(wide[i] == other[i] || (isnan(wide[i]) && isnan(other[i])));
                assert_true(back[i] == all[i] || isnan(wide[i]));
            }
            for (int i = 0; i + 1 < n; i++) /* ties, where rounding is decided */
                wide[i] = 0.5f * (wide[i] + wide[i + 1]);
            convert(backend, wide, LT_F32, back, (lt_dtype)dtype, n);
            convert(ref, wide, LT_F32, want, (lt_dtype)dtype, n);
            for (int i = 0; i < n; i++)
                assert_true(back[i] == want[i] || isnan(wide[i]));
        }
}

/* Numbers that would be rounded twice by way of f32. */
static void test_convert_double(void **state)
{
    double x[3] = {1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-8 + 0x1p-40, 1e300};
    uint16_t y[3];
    float z[3];
    (void)state;
    convert(test_backend_kept(0, 1), x, LT_F64, y, LT_F16, 3);
    assert_int_equal(y[0], 0x3C01);
    convert(test_backend_kept(0, 1), x, LT_F64, y, LT_BF16, 3);
    assert_int_equal(y[1], 0x3F81);
    assert_int_equal(y[2], 0x7F80);
    convert(test_backend_kept(0, 1), x, LT_F64, z, LT_F32, 3);
    assert_true(z[0] == 1 + 0x1p-11f && isinf(z[2]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views),          cmocka_unit_test(test_choice),
        cmocka_unit_test(test_convert_known),  cmocka_unit_test(test_convert_all),
        cmocka_unit_test(test_convert_double),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
