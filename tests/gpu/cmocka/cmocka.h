/* As much of cmocka as the tests that run on a GPU use, for machines that lack it. */
#ifndef LT_TESTS_GPU_CMOCKA_H
#define LT_TESTS_GPU_CMOCKA_H

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*function)(void **state);
};

#define cmocka_unit_test(f) \
    {                       \
#f, f               \
    }
#define cmocka_run_group_tests(tests, set_up, tear_down) \
    cmocka_run((tests), sizeof(tests) / sizeof *(tests))
#define print_message printf

enum { CMOCKA_FAILED = 1, CMOCKA_SKIPPED = 2 };
static jmp_buf cmocka_leave;

#define cmocka_end(result, ...)                            \
    do {                                                   \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);    \
        fprintf(stderr, __VA_ARGS__), fputc('\n', stderr); \
        longjmp(cmocka_leave, result);                     \
    } while (0)
#define fail_msg(...) cmocka_end(CMOCKA_FAILED, __VA_ARGS__)
#define skip()        cmocka_end(CMOCKA_SKIPPED, "skipped")
#define cmocka_check(condition, text)           \
    do {                                        \
        if (!(condition)) fail_msg("%s", text); \
    } while (0)

#define assert_true(x)               cmocka_check(x, #x " is false")
#define assert_false(x)              cmocka_check(!(x), #x " is true")
#define assert_null(x)               cmocka_check(!(x), #x " is not NULL")
#define assert_non_null(x)           cmocka_check(x, #x " is NULL")
#define assert_int_equal(a, b)       cmocka_check((a) == (b), #a " is not " #b)
#define assert_int_not_equal(a, b)   cmocka_check((a) != (b), #a " is " #b)
#define assert_string_equal(a, b)    cmocka_check(!strcmp(a, b), #a " is not " #b)
#define assert_memory_equal(a, b, n) cmocka_check(!memcmp(a, b, n), #a " is not " #b)

static inline int cmocka_run(const struct CMUnitTest *tests, size_t count)
{
    volatile int failed = 0;
    for (volatile size_t i = 0; i < count; i++) {
        void *state = NULL;
        int result = setjmp(cmocka_leave);
        if (result == 0) tests[i].function(&state);
        printf("%s %s\n",
               result == 0   ? "ok     "
               : result == 1 ? "FAILED "
                             : "skipped",
               tests[i].name);
        failed += result == CMOCKA_FAILED;
    }
    return failed;
}

#endif
