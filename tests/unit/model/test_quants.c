/* Block-quantised numbers, bit for bit against ggml's (tests/golden/gguf/quants.gguf). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/fsio.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "model/formats/quants.h"

static const struct golden_type {
    lt_gguf_type type;
    const char *name;
    double worst;     /* error of values between -1 and 1 */
    const char *many; /* XXH3-128 of what ggml's quantize_row_*_ref makes of fill_many's values */
} golden_types[] = {
    {LT_GGUF_F16, "f16", 0x1p-11, "04c469c59f32d0aed145371855cbd020"},
    {LT_GGUF_BF16, "bf16", 0x1p-8, "22b1f676ed3cd88033e43c099d0480a6"},
    {LT_GGUF_Q8_0, "q8_0", 0.0045, "e8c6c21e29028e7eedc0a4d0a44c7583"},
    {LT_GGUF_Q6_K, "q6_k", 0.025, "3cb9285387495a97623a84b020050fc6"},
    {LT_GGUF_Q5_0, "q5_0", 0.0651, "ebdeeaa374080b25361ec8b4cfecaac0"},
    {LT_GGUF_Q4_K, "q4_k", 0.12, "e4ddf987f0f34adb6137445b574f34c9"},
    {LT_GGUF_Q4_0, "q4_0", 0.1260, "59983784c35b120afefe391cdcfaa91c"},
};
enum { TYPE_COUNT = sizeof golden_types / sizeof golden_types[0], PLAIN = 2 };

static lt_gguf golden;

static int open_golden(void **state)
{
    (void)state;
    return lt_gguf_open(LATHE_TEST_DIR "/golden/gguf/quants.gguf", &golden, NULL) == LT_OK ? 0 : 1;
}

static int close_golden(void **state)
{
    (void)state;
    lt_gguf_close(&golden);
    return 0;
}

static const lt_gguf_tensor *tensor_of(const char *name, const char *end)
{
    char full[LT_GGUF_NAME_SIZE];
    snprintf(full, sizeof full, "%s%s", name, end);
    const lt_gguf_tensor *tensor = lt_gguf_find(&golden, full);
    if (!tensor) fail_msg("there is no tensor %s", full);
    return tensor;
}

static int64_t count_of(const lt_gguf_tensor *tensor)
{
    return tensor->shape[0] * tensor->shape[1];
}

static float *values_of(const lt_gguf_tensor *tensor)
{
    float *values = malloc((size_t)count_of(tensor) * sizeof *values);
    lt_gguf_decode(tensor->type, tensor->data, count_of(tensor), values);
    return values;
}

/* Calls `check` with each instruction set that this machine has. */
static void with_every_isa(void (*check)(const char *isa))
{
    static const char *const names[LT_ISA_COUNT] = {"ref", "avx2", "avx512"};
    for (lt_isa isa = 0; isa < LT_ISA_COUNT; isa++) {
        assert_int_equal(setenv("LATHE_ISA", names[isa], 1), 0);
        if (lt_cpu_isa() == isa) check(names[isa]);
    }
    assert_int_equal(unsetenv("LATHE_ISA"), 0);
}

static void check_encoding(const char *isa)
{
    const lt_gguf_tensor *from = tensor_of("values", "");
    float *values = values_of(from);
    for (int i = 0; i < TYPE_COUNT; i++) {
        const lt_gguf_tensor *wanted = tensor_of(golden_types[i].name, ".blocks");
        unsigned char *out = malloc(wanted->size);
        memset(out, 0x5a, wanted->size);
        assert_int_equal(wanted->type, golden_types[i].type);
        assert_int_equal(lt_gguf_encode(wanted->type, values, count_of(from), out, NULL), LT_OK);
        for (int64_t row = 0; row < wanted->shape[0]; row++) {
            size_t bytes = lt_gguf_row_bytes(wanted->type, wanted->shape[1]);
            if (memcmp(out + (size_t)row * bytes, wanted->data + (size_t)row * bytes, bytes) != 0)
                fail_msg("%s: row %d differs with %s", golden_types[i].name, (int)row, isa);
        }
        free(out);
    }
    free(values);
}

/* Values of many magnitudes, and zeros that are negative. */
static void fill_many(float *values, int64_t count)
{
    static const float sizes[] = {1, 1e-3f, 9e-16f, 6e-14f};
    for (int64_t i = 0; i < count; i++) {
        float x = 2 * (float)lt_random_uniform(7, 2, (uint64_t)i) - 1;
        int64_t kind = i / 256 % 4;
        if (kind == 1) x *= x * x;
        if (kind == 2) x *= sizes[2 + i / 16 % 2];
        if (kind == 3) x = i / 32 % 2 ? x * sizes[i / 16 % 4] : -0.0f;
        values[i] = x;
    }
}

static void check_many(const char *isa)
{
    enum { COUNT = 256 * 101 };
    static float values[COUNT];
    static unsigned char blocks[2 * COUNT];
    fill_many(values, COUNT);
    for (int t = 0; t < TYPE_COUNT; t++) {
        const struct golden_type *type = &golden_types[t];
        char hash[LT_HASH_TEXT_SIZE];
        assert_int_equal(lt_gguf_encode(type->type, values, COUNT, blocks, NULL), LT_OK);
        lt_hash_bytes(blocks, lt_gguf_row_bytes(type->type, COUNT), hash);
        if (strcmp(hash, type->many) != 0) fail_msg("%s: %s with %s", type->name, hash, isa);
    }
}

static void encoding_is_ggmls(void **state)
{
    (void)state;
    with_every_isa(check_encoding);
    with_every_isa(check_many);
}

static void check_decoding(const char *isa)
{
    for (int i = PLAIN; i < TYPE_COUNT; i++) {
        const lt_gguf_tensor *blocks = tensor_of(golden_types[i].name, ".random");
        const lt_gguf_tensor *wanted = tensor_of(golden_types[i].name, ".decoded");
        float *values = values_of(blocks);
        assert_int_equal(wanted->size, (size_t)count_of(blocks) * sizeof *values);
        if (memcmp(values, wanted->data, wanted->size) != 0)
            fail_msg("%s: decoded otherwise with %s", golden_types[i].name, isa);
        free(values);
    }
}

static void decoding_is_ggmls(void **state)
{
    (void)state;
    with_every_isa(check_decoding);
}

/* Whatever the values: how far off a type may be. */
static void errors_are_bounded(void **state)
{
    (void)state;
    enum { COUNT = 256 * 40 };
    static float values[COUNT], back[COUNT];
    static unsigned char blocks[COUNT * 4];
    for (int i = 0; i < COUNT; i++)
        values[i] = 2 * (float)lt_random_uniform(7, 1, (uint64_t)i) - 1;
    for (int t = 0; t < TYPE_COUNT; t++) {
        const struct golden_type *type = &golden_types[t];
        double worst = 0;
        assert_int_equal(lt_gguf_encode(type->type, values, COUNT, blocks, NULL), LT_OK);
        lt_gguf_decode(type->type, blocks, COUNT, back);
        for (int i = 0; i < COUNT; i++)
            worst = fmax(worst, fabs((double)back[i] - (double)values[i]));
        if (!(worst <= type->worst && worst > type->worst / 4))
            fail_msg("%s: an error of %g", type->name, worst);
    }
}

static void sizes_are_ggmls(void **state)
{
    (void)state;
    assert_int_equal(lt_gguf_row_bytes(LT_GGUF_F32, 7), 28);
    assert_int_equal(lt_gguf_row_bytes(LT_GGUF_BF16, 7), 14);
    assert_int_equal(lt_gguf_row_bytes(LT_GGUF_Q8_0, 64), 68);
    assert_int_equal(lt_gguf_row_bytes(LT_GGUF_Q4_K, 512), 288);
    assert_int_equal(lt_gguf_row_bytes(LT_GGUF_Q6_K, 256), 210);
    assert_int_equal(lt_gguf_block_bytes(LT_GGUF_Q5_0), 22);
    assert_int_equal(lt_gguf_block_values(LT_GGUF_Q4_0), 32);
    assert_string_equal(lt_gguf_type_name(LT_GGUF_Q4_K), "Q4_K");
    assert_null(lt_gguf_type_name(3)); /* Q4_1 */
    assert_null(lt_gguf_type_name(UINT32_MAX));
}

/* Not finite, or too large for the scale's f16. */
static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    float values[256] = {0};
    unsigned char out[1024];
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int t = 0; t < TYPE_COUNT; t++) {
        lt_gguf_type type = golden_types[t].type;
        for (int i = 0; i < 3; i++) {
            lt_err err = {0};
            values[200] = bad[i];
            assert_int_equal(lt_gguf_encode(type, values, 256, out, &err), LT_ERR_NUMERIC);
            assert_non_null(strstr(err.message, lt_gguf_type_name(type)));
        }
        values[200] = 3.4e38f;
        assert_int_equal(lt_gguf_encode(type, values, 256, out, NULL), LT_ERR_NUMERIC);
        values[200] = 9e8f; /* a scale that f16 does not hold */
        assert_int_equal(lt_gguf_encode(type, values, 256, out, NULL),
                         type == LT_GGUF_BF16 ? LT_OK : LT_ERR_NUMERIC);
        values[200] = 65519; /* rounds to the largest f16 */
        assert_int_equal(lt_gguf_encode(type, values, 256, out, NULL), LT_OK);
        values[200] = -60000;
        assert_int_equal(lt_gguf_encode(type, values, 256, out, NULL), LT_OK);
    }
    values[200] = NAN;
    assert_int_equal(lt_gguf_encode(LT_GGUF_F32, values, 256, out, NULL), LT_ERR_NUMERIC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoding_is_ggmls),
        cmocka_unit_test(decoding_is_ggmls),
        cmocka_unit_test(errors_are_bounded),
        cmocka_unit_test(sizes_are_ggmls),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
