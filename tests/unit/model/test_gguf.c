/* The GGUF reader and writer: a file of the reference's writer, the hostile corpus, and what we
 * write ourselves. */
#include "../check.h"

#include <math.h>

#include "base/rng.h"
#include "model/formats/quants.h"
#include "tests/hostile/gguf_corpus.h"
#include "tests/hostile/corpus_tests.h"

#define GOLDEN LATHE_TEST_DIR "/golden/gguf/quants.gguf"

/* --- Reading -----------------------------------------------------------------------------------
 */

static lt_status read_hostile(const unsigned char *bytes, size_t size, lt_err *err)
{
    lt_gguf file;
    LT_TRY(lt_gguf_parse(bytes, size, "hostile.gguf", &file, err));
    lt_gguf_close(&file);
    return LT_OK;
}

static int64_t int_of(const lt_gguf *file, const char *key)
{
    int64_t value = 77;
    OK(lt_gguf_get_int(file, key, INT64_MIN, INT64_MAX, &value, err));
    return value;
}

static double number_of(const lt_gguf *file, const char *key)
{
    double value = 77;
    OK(lt_gguf_get_number(file, key, &value, err));
    return value;
}

static void the_reference_writer_is_read(void **state)
{
    (void)state;
    lt_gguf file;
    bool flag = false;
    const char *text = NULL;
    size_t size = 0;
    assert_true(lt_is_gguf_file(GOLDEN));
    OK(lt_gguf_open(GOLDEN, &file, err));
    assert_int_equal(int_of(&file, "test.uint8"), 200);
    assert_int_equal(int_of(&file, "test.int8"), -100);
    assert_int_equal(int_of(&file, "test.uint16"), 60000);
    assert_int_equal(int_of(&file, "test.int16"), -30000);
    assert_int_equal(int_of(&file, "test.uint32"), 4000000000);
    assert_int_equal(int_of(&file, "test.int32"), -2000000000);
    assert_int_equal(int_of(&file, "test.uint64"), (int64_t)1 << 40);
    assert_int_equal(int_of(&file, "test.int64"), -((int64_t)1 << 40));
    assert_int_equal(int_of(&file, "test.missing"), 77);
    assert_true(number_of(&file, "test.float32") == (double)0.1f);
    assert_true(number_of(&file, "test.float64") == 0.1);
    OK(lt_gguf_get_bool(&file, "test.bool", &flag, err));
    assert_true(flag);
    OK(lt_gguf_get_string(&file, "test.string", &text, &size, err));
    assert_int_equal(size, 7);
    assert_memory_equal(text, "na\xc3\xafve\n", 7);

    const lt_gguf_value *strings = lt_gguf_value_of(&file, "test.strings");
    const unsigned char *at = strings->data;
    static const char *const wanted[] = {"", "a", "\xe6\x97\xa5\xe6\x9c\xac"};
    assert_int_equal(strings->count, 3);
    for (int i = 0; i < 3; i++) {
        assert_true(lt_gguf_next_string(strings, &at, &text, &size));
        assert_int_equal(size, strlen(wanted[i]));
        assert_memory_equal(text, wanted[i], size);
    }
    assert_false(lt_gguf_next_string(strings, &at, &text, &size));

    const lt_gguf_tensor *blocks = lt_gguf_find(&file, "q6_k.blocks");
    assert_int_equal(blocks->shape[0], 11);
    assert_int_equal(blocks->shape[1], 256);
    assert_int_equal(blocks->size, 11 * 210);
    assert_null(lt_gguf_find(&file, "q6_k.block"));
    lt_gguf_close(&file);
}

static void wrong_types_are_named(void **state)
{
    (void)state;
    lt_gguf file;
    lt_err err = {0};
    int64_t integer;
    double number;
    bool flag;
    const char *text;
    size_t size;
    OK(lt_gguf_open(GOLDEN, &file, err));
    assert_int_equal(lt_gguf_get_int(&file, "test.float32", 0, 1, &integer, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "test.float32"));
    assert_int_equal(lt_gguf_get_int(&file, "test.uint8", 0, 199, &integer, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "0 to 199"));
    assert_int_equal(lt_gguf_get_int(&file, "test.numbers", 0, 9, &integer, NULL), LT_ERR_FORMAT);
    assert_int_equal(lt_gguf_get_number(&file, "test.int8", &number, NULL), LT_ERR_FORMAT);
    assert_int_equal(lt_gguf_get_bool(&file, "test.uint8", &flag, NULL), LT_ERR_FORMAT);
    assert_int_equal(lt_gguf_get_string(&file, "test.strings", &text, &size, NULL), LT_ERR_FORMAT);
    lt_gguf_close(&file);
}

/* --- Writing -----------------------------------------------------------------------------------
 */

static const lt_gguf_declaration declared[] = {
    {"blk.0.ffn_up.weight", LT_GGUF_Q4_K, 2, {37, 512}},
    {"a", LT_GGUF_F32, 1, {5}},
    {"experts", LT_GGUF_BF16, 3, {2, 3, 7}},
    {"halves", LT_GGUF_F16, 2, {700, 192}},
};
enum { DECLARED = sizeof declared / sizeof declared[0] };

static float value_at(size_t index, int64_t row, int64_t column)
{
    return (float)lt_random_normal(index, (uint64_t)row, (uint64_t)column);
}

/* Fails at the row that *context says. */
static lt_status give_values(void *context, size_t index, int64_t first, int64_t count, float *out,
                             lt_err *err)
{
    const int64_t *bad_row = context;
    int64_t columns = declared[index].shape[declared[index].ndim - 1];
    for (int64_t i = 0; i < count; i++) {
        if (bad_row && first + i == *bad_row) return lt_fail(err, LT_ERR_IO, "no row here");
        for (int64_t j = 0; j < columns; j++)
            out[i * columns + j] = value_at(index, first + i, j);
    }
    return LT_OK;
}

static char path[] = "/tmp/lathe_gguf_XXXXXX";

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? 1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void add_keys(lt_gguf_keys *keys)
{
    OK(lt_gguf_add_u32(keys, "k.u32", 7, err));
    OK(lt_gguf_add_f32(keys, "k.f32", -1.5f, err));
    OK(lt_gguf_add_bool(keys, "k.bool", true, err));
    OK(lt_gguf_add_string(keys, "k.string", "a\0b", 3, err));
    OK(lt_gguf_add_i32s(keys, "k.i32s", (int32_t[]){-1, 5}, 2, err));
    OK(lt_gguf_add_f32s(keys, "k.f32s", (float[]){0.5f}, 1, err));
    OK(lt_gguf_begin_strings(keys, "k.strings", 2, err));
    OK(lt_gguf_push_string(keys, "", 0, err));
    OK(lt_gguf_push_string(keys, "xyz", 3, err));
}

static void check_tensor(const lt_gguf *file, size_t index)
{
    const lt_gguf_declaration *d = &declared[index];
    const lt_gguf_tensor *tensor = &file->tensors[index];
    int64_t columns = d->shape[d->ndim - 1];
    size_t row_bytes = lt_gguf_row_bytes(d->type, columns);
    float row[512];
    unsigned char bytes[2048];
    assert_string_equal(tensor->name, d->name);
    assert_int_equal(tensor->ndim, d->ndim);
    assert_memory_equal(tensor->shape, d->shape, (size_t)d->ndim * sizeof *d->shape);
    assert_int_equal((tensor->data - file->map.data) % 32, 0);
    for (size_t r = 0; r < tensor->size / row_bytes; r++) {
        for (int64_t j = 0; j < columns; j++)
            row[j] = value_at(index, (int64_t)r, j);
        OK(lt_gguf_encode(d->type, row, columns, bytes, err));
        assert_memory_equal(bytes, tensor->data + r * row_bytes, row_bytes);
    }
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    lt_gguf file;
    lt_gguf_keys keys = {0};
    const char *text;
    size_t size;
    add_keys(&keys);
    OK(lt_gguf_write(path, &keys, declared, DECLARED, give_values, NULL, 3, err));
    OK(lt_gguf_open(path, &file, err));
    assert_int_equal(file.tensor_count, DECLARED);
    assert_int_equal(file.value_count, 7);
    for (size_t i = 0; i < DECLARED; i++)
        check_tensor(&file, i);
    assert_int_equal(int_of(&file, "k.u32"), 7);
    assert_true(number_of(&file, "k.f32") == -1.5);
    OK(lt_gguf_get_string(&file, "k.string", &text, &size, err));
    assert_int_equal(size, 3);
    assert_memory_equal(text, "a\0b", 3);
    assert_int_equal(lt_gguf_value_of(&file, "k.i32s")->count, 2);
    assert_memory_equal(lt_gguf_value_of(&file, "k.i32s")->data, "\xff\xff\xff\xff\5\0\0\0", 8);
    assert_int_equal(lt_gguf_value_of(&file, "k.f32s")->element_type, LT_GGUF_FLOAT32);
    assert_int_equal(lt_gguf_value_of(&file, "k.strings")->count, 2);
    lt_gguf_close(&file);
    lt_gguf_keys_free(&keys);
}

static void threads_change_no_byte(void **state)
{
    (void)state;
    char hashes[2][LT_HASH_TEXT_SIZE];
    lt_gguf_keys keys = {0};
    for (int i = 0; i < 2; i++) {
        OK(lt_gguf_write(path, &keys, declared, DECLARED, give_values, NULL, 1 + 4 * i, err));
        OK(lt_hash_file(path, 0, hashes[i], err));
    }
    assert_string_equal(hashes[0], hashes[1]);
}

/* The old file stays, and nothing beside it. */
static void a_failed_write_leaves_no_trace(void **state)
{
    (void)state;
    char before[LT_HASH_TEXT_SIZE], after[LT_HASH_TEXT_SIZE];
    int64_t bad_row = 650;
    lt_err err = {0};
    lt_gguf_keys keys = {0};
    OK(lt_hash_file(path, 0, before, err));
    assert_int_equal(lt_gguf_write(path, &keys, declared, DECLARED, give_values, &bad_row, 2, &err),
                     LT_ERR_IO);
    assert_string_equal(err.message, "no row here");
    OK(lt_hash_file(path, 0, after, err));
    assert_string_equal(before, after);
}

static lt_status give_nan(void *context, size_t index, int64_t first, int64_t count, float *out,
                          lt_err *err)
{
    (void)context, (void)first, (void)err;
    for (int64_t i = 0; i < count * declared[index].shape[declared[index].ndim - 1]; i++)
        out[i] = index == 2 ? NAN : 1;
    return LT_OK;
}

static void a_bad_value_names_its_tensor(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_gguf_keys keys = {0};
    assert_int_equal(lt_gguf_write(path, &keys, declared, DECLARED, give_nan, NULL, 1, &err),
                     LT_ERR_NUMERIC);
    assert_non_null(strstr(err.message, "experts"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(corpus_is_judged_right),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(the_reference_writer_is_read),
        cmocka_unit_test(wrong_types_are_named),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(threads_change_no_byte),
        cmocka_unit_test(a_failed_write_leaves_no_trace),
        cmocka_unit_test(a_bad_value_names_its_tensor),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
