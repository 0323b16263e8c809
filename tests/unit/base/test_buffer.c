#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/buffer.h"

static void text_grows_and_stays_terminated(void **state)
{
    (void)state;
    lt_buffer buffer = {0};
    assert_string_equal(lt_buffer_text(&buffer), "");
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(lt_buffer_printf(&buffer, NULL, "%d,", i), LT_OK);
        assert_int_equal(strlen(buffer.data), buffer.size);
    }
    assert_int_equal(buffer.size, 10 * 2 + 90 * 3 + 900 * 4);
    lt_buffer_clear(&buffer);
    assert_string_equal(lt_buffer_text(&buffer), "");
    assert_int_equal(lt_buffer_append(&buffer, "a\0b", 3, NULL), LT_OK);
    assert_memory_equal(buffer.data, "a\0b\0", 4);
    assert_int_equal(lt_buffer_append(&buffer, NULL, 0, NULL), LT_OK);
    lt_buffer_free(&buffer);
    assert_null(buffer.data);
}

static void numbers_have_as_few_digits_as_they_need(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0.1, "0.1"},
                 {0.005, "0.005"},
                 {0.1 + 0.2, "0.30000000000000004"},
                 {1.0 / 3, "0.3333333333333333"},
                 {3, "3"},
                 {-1e-5, "-1e-05"},
                 {0.7 + 0.1, "0.7999999999999999"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_buffer buffer = {0};
        assert_int_equal(lt_buffer_append_number(&buffer, cases[i].value, NULL), LT_OK);
        assert_string_equal(buffer.data, cases[i].text);
        lt_buffer_free(&buffer);
    }
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_buffer buffer = {0};
    assert_int_equal(lt_buffer_append_text(&buffer, "kept", &err), LT_OK);
    assert_int_equal(lt_buffer_reserve(&buffer, SIZE_MAX - 2, &err), LT_ERR_NOMEM);
    assert_int_equal(lt_buffer_reserve(&buffer, SIZE_MAX / 2, &err), LT_ERR_NOMEM);
    assert_string_equal(buffer.data, "kept");
    lt_buffer_free(&buffer);

    lt_ids ids = {0};
    assert_int_equal(lt_ids_push(&ids, 5, &err), LT_OK);
    assert_int_equal(lt_ids_reserve(&ids, SIZE_MAX, &err), LT_ERR_NOMEM);
    assert_int_equal(lt_ids_reserve(&ids, SIZE_MAX / 4, &err), LT_ERR_NOMEM);
    assert_int_equal(ids.data[0], 5);
    lt_ids_free(&ids);
}

static void ids_append(void **state)
{
    (void)state;
    lt_ids ids = {0};
    for (int32_t i = 0; i < 300; i++)
        assert_int_equal(lt_ids_push(&ids, i, NULL), LT_OK);
    assert_int_equal(lt_ids_append(&ids, (int32_t[]){-1, -2}, 2, NULL), LT_OK);
    assert_int_equal(lt_ids_append(&ids, NULL, 0, NULL), LT_OK);
    assert_int_equal(ids.count, 302);
    assert_int_equal(ids.data[299], 299);
    assert_int_equal(ids.data[301], -2);
    lt_ids_free(&ids);
    assert_int_equal(ids.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_grows_and_stays_terminated),
        cmocka_unit_test(numbers_have_as_few_digits_as_they_need),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(ids_append),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
