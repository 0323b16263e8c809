/* When a run that failed is started again, from where, and when it is given up. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"
#include "train/restarts.h"

static char output[] = "/tmp/lathe-restarts-XXXXXX";
static lt_restarts restarts;

static int make_output(void **state)
{
    (void)state;
    strcpy(strrchr(output, '-') + 1, "XXXXXX");
    return mkdtemp(output) ? 0 : -1;
}

static int remove_output(void **state)
{
    (void)state;
    return lt_remove_tree(output, NULL) == LT_OK ? 0 : -1;
}

static void make_checkpoint(int step)
{
    char path[128];
    snprintf(path, sizeof path, "%s/checkpoint-%d", output, step);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void remove_checkpoint(int step)
{
    char path[128];
    snprintf(path, sizeof path, "%s/checkpoint-%d", output, step);
    assert_int_equal(rmdir(path), 0);
}

static lt_train_settings settings(int64_t max_restarts, const char *resume, bool force)
{
    return (lt_train_settings){.output = output,
                               .max_restarts = max_restarts,
                               .resume = (char *)(uintptr_t)resume,
                               .force = force};
}

static lt_restart next(void)
{
    lt_restart again;
    lt_err err = {0};
    if (lt_restarts_next(&restarts, &again, &err) != LT_OK) fail_msg("%s", err.message);
    return again;
}

static void begin(const lt_train_settings *s, double backoff)
{
    lt_err err = {0};
    if (lt_restarts_begin(&restarts, s, backoff, &err) != LT_OK) fail_msg("%s", err.message);
}

static void given_up_without_progress(void **state)
{
    (void)state;
    const lt_train_settings s = settings(8, "auto", false);
    static const double delays[] = {1, 2, 4, 8, 16, 32, 60, 60};
    begin(&s, 1);
    for (int i = 0; i < 8; i++) {
        lt_restart again = next();
        assert_true(again.wanted);
        assert_true(again.delay == delays[i]);
        assert_int_equal(again.step, -1);
        assert_null(again.resume);
        assert_false(again.no_force);
        assert_int_equal(restarts.count, i + 1);
    }
    assert_false(next().wanted);
    assert_int_equal(restarts.total, 8);
}

static void a_new_checkpoint_starts_the_count_anew(void **state)
{
    (void)state;
    const lt_train_settings s = settings(2, "auto", false);
    make_checkpoint(4);
    begin(&s, 0.5);
    assert_int_equal(next().step, 4); /* not its own, and no progress */
    assert_int_equal(next().step, 4);
    make_checkpoint(6);
    lt_restart again = next();
    assert_true(again.wanted);
    assert_true(again.delay == 0.5);
    assert_int_equal(again.step, 6);
    assert_string_equal(again.resume, "auto");
    assert_true(again.no_force);
    assert_int_equal(restarts.count, 1);
    assert_true(next().wanted);
    assert_false(next().wanted);
    assert_int_equal(restarts.total, 4);
}

/* What --force is to remove is not gone on from; what the run has made since is. */
static void force_is_for_the_first_start(void **state)
{
    (void)state;
    const lt_train_settings s = settings(5, "never", true);
    make_checkpoint(8);
    begin(&s, 0);
    lt_restart again = next(); /* it failed before it removed anything */
    assert_null(again.resume);
    assert_false(again.no_force);
    assert_int_equal(again.step, -1);
    remove_checkpoint(8);
    again = next(); /* it failed before its first checkpoint */
    assert_null(again.resume);
    assert_false(again.no_force);
    make_checkpoint(2);
    again = next();
    assert_string_equal(again.resume, "auto");
    assert_true(again.no_force);
    assert_int_equal(again.step, 2);
}

/* The same step made again is not the one of before. */
static void a_checkpoint_is_more_than_its_step(void **state)
{
    (void)state;
    const lt_train_settings s = settings(1, "auto", true);
    make_checkpoint(2);
    begin(&s, 0);
    remove_checkpoint(2);
    usleep(20000); /* the clock of a file system ticks in steps */
    make_checkpoint(2);
    lt_restart again = next();
    assert_true(again.no_force);
    assert_int_equal(again.step, 2);
}

/* --resume never wants an empty directory, which it is not any more. */
static void a_false_start_of_a_new_run_is_no_hindrance(void **state)
{
    (void)state;
    const lt_train_settings s = settings(1, "never", false);
    begin(&s, 0);
    lt_restart again = next();
    assert_string_equal(again.resume, "auto");
    assert_false(again.no_force);
}

static void a_checkpoint_from_elsewhere_is_taken_again(void **state)
{
    (void)state;
    const lt_train_settings s = settings(2, "elsewhere/checkpoint-9", false);
    begin(&s, 0);
    assert_null(next().resume);
    make_checkpoint(10);
    assert_string_equal(next().resume, "auto");
}

static void an_output_that_is_not_there(void **state)
{
    (void)state;
    lt_train_settings s = settings(1, "auto", false);
    s.output = "/no/such/directory";
    begin(&s, 0);
    assert_true(next().wanted);
    s.output = NULL;
    begin(&s, 0);
    assert_true(next().wanted);
}

#define WITH_OUTPUT(test) cmocka_unit_test_setup_teardown(test, make_output, remove_output)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_OUTPUT(given_up_without_progress),
        WITH_OUTPUT(a_new_checkpoint_starts_the_count_anew),
        WITH_OUTPUT(force_is_for_the_first_start),
        WITH_OUTPUT(a_checkpoint_is_more_than_its_step),
        WITH_OUTPUT(a_false_start_of_a_new_run_is_no_hindrance),
        WITH_OUTPUT(a_checkpoint_from_elsewhere_is_taken_again),
        WITH_OUTPUT(an_output_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
