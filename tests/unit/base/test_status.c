#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/checked.h"
#include "base/status.h"

static void fail_sets_code_and_message(void **state)
{
    (void)state;
    lt_err err = {0};
    assert_int_equal(lt_fail(&err, LT_ERR_FORMAT, "%s:%d: bad", "x.json", 3), LT_ERR_FORMAT);
    assert_int_equal(err.code, LT_ERR_FORMAT);
    assert_string_equal(err.message, "x.json:3: bad");
    assert_int_equal(lt_fail(NULL, LT_ERR_IO, "nobody listens"), LT_ERR_IO);
}

static void context_goes_in_front(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_fail(&err, LT_ERR_LIMIT, "too large");
    assert_int_equal(lt_fail_context(&err, "tensor %d", 7), LT_ERR_LIMIT);
    assert_string_equal(err.message, "tensor 7: too large");
    assert_int_not_equal(lt_fail_context(NULL, "nobody listens"), LT_OK);
}

static void long_messages_are_cut_not_overrun(void **state)
{
    (void)state;
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    lt_err err = {0};
    lt_fail(&err, LT_ERR_IO, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    for (int i = 0; i < 3; i++)
        lt_fail_context(&err, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
}

static lt_status tried(lt_status inner)
{
    LT_TRY(inner);
    return LT_OK;
}

static void try_returns_the_failure(void **state)
{
    (void)state;
    assert_int_equal(tried(LT_OK), LT_OK);
    assert_int_equal(tried(LT_ERR_NUMERIC), LT_ERR_NUMERIC);
}

static void checked_arithmetic_refuses_overflow(void **state)
{
    (void)state;
    size_t size = 42;
    int64_t number = 42;
    assert_false(lt_add_size(SIZE_MAX, 1, &size));
    assert_false(lt_mul_size(SIZE_MAX / 2, 3, &size));
    assert_false(lt_mul_i64(INT64_MIN, -1, &number));
    assert_int_equal(size, 42);
    assert_int_equal(number, 42);
    assert_true(lt_add_size(SIZE_MAX - 1, 1, &size) && size == SIZE_MAX);
    assert_true(lt_mul_size(1u << 20, 1u << 20, &size) && size == (size_t)1 << 40);
    assert_true(lt_mul_i64(-3, 5, &number) && number == -15);
    assert_int_equal(lt_align_up(257, 256), 512);
    assert_int_equal(lt_align_up(256, 256), 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fail_sets_code_and_message),
        cmocka_unit_test(context_goes_in_front),
        cmocka_unit_test(long_messages_are_cut_not_overrun),
        cmocka_unit_test(try_returns_the_failure),
        cmocka_unit_test(checked_arithmetic_refuses_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
