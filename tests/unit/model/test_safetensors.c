/* The safetensors reader and writer: golden bytes, the hostile corpus, number types. */
#include "../folder.h"

#include <math.h>

#include "model/formats/numbers.h"
#include "model/formats/safetensors.h"
#include "tests/hostile/safetensors_corpus.h"
#include "tests/hostile/corpus_tests.h"

/* --- Reading -----------------------------------------------------------------------------------
 */

static lt_status read_hostile(const unsigned char *bytes, size_t size, lt_err *err)
{
    lt_safetensors file;
    LT_TRY(lt_safetensors_parse(bytes, size, "hostile.safetensors", &file, err));
    lt_safetensors_close(&file);
    return LT_OK;
}

static void hostile_headers_cost_nothing(void **state)
{
    (void)state;
    lt_safetensors file;
    lt_err err = {0};
    unsigned char huge[16];
    memset(huge, 0xff, sizeof huge);
    assert_int_equal(lt_safetensors_parse(huge, sizeof huge, "f", &file, &err), LT_ERR_FORMAT);

    /* depth: a recursive parser without a bound would overrun its stack */
    size_t depth = 20000000;
    char *header = malloc(depth + 16);
    strcpy(header, "{\"a\":{\"zz\":");
    memset(header + 11, '[', depth);
    corpus_file deep = {"deep", false, header, 11 + depth, 0};
    size_t size;
    unsigned char *bytes = corpus_bytes(&deep, &size);
    assert_int_equal(lt_safetensors_parse(bytes, size, "f", &file, &err), LT_ERR_FORMAT);
    free(bytes);
    free(header);
}

static void names_have_at_most_512_bytes(void **state)
{
    (void)state;
    for (size_t length = 512; length <= 513; length++) {
        char header[1024], name[600];
        memset(name, 'n', length);
        name[length] = '\0';
        snprintf(header, sizeof header, "{\"%s\":{" U8_16 "}}", name);
        corpus_file named = {"named", true, header, 0, 16};
        size_t size;
        unsigned char *bytes = corpus_bytes(&named, &size);
        lt_safetensors file;
        lt_err err = {0};
        lt_status status = lt_safetensors_parse(bytes, size, "f", &file, &err);
        assert_int_equal(status, length == 512 ? LT_OK : LT_ERR_FORMAT);
        if (status == LT_OK) lt_safetensors_close(&file);
        free(bytes);
    }
}

/* --- Writing -----------------------------------------------------------------------------------
 */

static lt_status give(void *context, const char *name, void *out, lt_err *err)
{
    (void)context;
    (void)err;
    if (strcmp(name, "a") == 0) memcpy(out, (float[]){1, 2}, 8);
    if (strcmp(name, "b") == 0) memcpy(out, (uint16_t[]){0x4200, 0x4400}, 4);
    return LT_OK;
}

/* The bytes that the reference writer makes of a = F32 [1, 2] and b = F16 [[3, 4]]. */
static void written_file_is_golden(void **state)
{
    (void)state;
    static const char golden[] =
        "\x90\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\","
        "\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F16\",\"shape\":[1,2],"
        "\"data_offsets\":[8,12]}}   \0\0\x80\x3f\0\0\0\x40\0\x42\0\x44";
    lt_safetensors_declaration tensors[] = {{"b", LT_F16, 2, {1, 2}}, {"a", LT_F32, 1, {2}}};
    const char *path = at("golden.safetensors");
    lt_err err = {0};
    assert_int_equal(lt_safetensors_write(path, tensors, 2, NULL, give, NULL, &err), LT_OK);

    lt_buffer bytes = {0};
    assert_int_equal(lt_read_file(path, 1000, &bytes, &err), LT_OK);
    assert_int_equal(bytes.size, 164);
    assert_memory_equal(bytes.data, golden, 164);
    lt_buffer_free(&bytes);

    lt_safetensors file;
    assert_int_equal(lt_safetensors_open(path, &file, &err), LT_OK);
    assert_string_equal(lt_safetensors_metadata(&file, "format"), "pt");
    assert_null(lt_safetensors_find(&file, "c"));
    float values[2];
    const lt_safetensors_entry *b = lt_safetensors_find(&file, "b");
    assert_int_equal(lt_safetensors_read_f32(&file, b, 0, 2, values, &err), LT_OK);
    assert_true(values[0] == 3 && values[1] == 4);
    assert_int_equal(lt_safetensors_read_f32(&file, b, 1, 2, values, &err), LT_ERR_USAGE);
    lt_safetensors_close(&file);
}

static lt_status give_nothing(void *context, const char *name, void *out, lt_err *err)
{
    (void)context;
    (void)out;
    return lt_fail(err, LT_ERR_NUMERIC, "no data for %s", name);
}

static void failed_write_leaves_no_file(void **state)
{
    (void)state;
    lt_safetensors_declaration tensors[] = {{"a", LT_F32, 1, {2}}, {"a", LT_F32, 1, {2}}};
    const char *path = at("failed.safetensors");
    lt_err err = {0};
    assert_int_equal(lt_safetensors_write(path, tensors, 1, NULL, give_nothing, NULL, &err),
                     LT_ERR_NUMERIC);
    assert_int_equal(lt_safetensors_write(path, tensors, 2, NULL, give, NULL, &err), LT_ERR_USAGE);
    lt_name_list names = {0};
    assert_int_equal(lt_list_directory(folder, &names, &err), LT_OK);
    for (size_t i = 0; i < names.count; i++)
        assert_null(strstr(names.names[i], "failed"));
    lt_name_list_free(&names);
}

/* --- Numbers -----------------------------------------------------------------------------------
 */

static void every_half_survives(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        float f16 = lt_f16_to_f32((uint16_t)bits), bf16 = lt_bf16_to_f32((uint16_t)bits);
        if (!isnan(f16)) assert_int_equal(lt_f32_to_f16(f16), bits);
        if (isnan(f16)) assert_true(isnan(lt_f16_to_f32(lt_f32_to_f16(f16))));
        if (!isnan(bf16)) assert_int_equal(lt_f32_to_bf16(bf16), bits);
        if (isnan(bf16)) assert_true(isnan(lt_bf16_to_f32(lt_f32_to_bf16(bf16))));
    }
    assert_true(lt_f16_to_f32(0x3555) == 0.333251953125f);
    assert_true(lt_f16_to_f32(0x0001) == 0x1p-24f);
    assert_true(lt_bf16_to_f32(0x3f80) == 1);
}

/* Between two neighbours: the nearer, and in the middle the even one. */
static void rounding_is_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t low = 0; low < 0x7bff; low++) {
        double a = lt_f16_to_f32((uint16_t)low), b = lt_f16_to_f32((uint16_t)(low + 1));
        float middle = (float)((a + b) / 2);
        uint32_t even = low % 2 == 0 ? low : low + 1;
        assert_int_equal(lt_f32_to_f16(middle), even);
        assert_int_equal(lt_f32_to_f16(nextafterf(middle, 0)), low);
        assert_int_equal(lt_f32_to_f16(nextafterf(middle, INFINITY)), low + 1);
        assert_int_equal(lt_f32_to_f16(-middle), even | 0x8000);
    }
    for (uint32_t low = 0; low < 0x7f7f; low += 7) {
        float middle = lt_f32_from_bits(low << 16 | 0x8000);
        assert_int_equal(lt_f32_to_bf16(middle), low % 2 == 0 ? low : low + 1);
        assert_int_equal(lt_f32_to_bf16(lt_f32_from_bits(low << 16 | 0x7fff)), low);
        assert_int_equal(lt_f32_to_bf16(lt_f32_from_bits(low << 16 | 0x8001)), low + 1);
    }
    assert_int_equal(lt_f32_to_f16(65519.9f), 0x7bff);
    assert_int_equal(lt_f32_to_f16(65520), 0x7c00);
    assert_int_equal(lt_f32_to_f16(1e-30f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(corpus_is_judged_right),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(hostile_headers_cost_nothing),
        cmocka_unit_test(names_have_at_most_512_bytes),
        cmocka_unit_test(written_file_is_golden),
        cmocka_unit_test(failed_write_leaves_no_file),
        cmocka_unit_test(every_half_survives),
        cmocka_unit_test(rounding_is_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
