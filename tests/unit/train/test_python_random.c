/* Python's random numbers, against numbers that Python drew (tests/golden/make_metrics_golden.py).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdlib.h>

#include "base/json.h"
#include "train/evaluation/python_random.h"

static uint64_t integer(const json_t *text)
{
    return strtoull(json_string_value(text), NULL, 10);
}

static void check_numbers(lt_python_random *random, const json_t *wanted)
{
    for (size_t i = 0; i < json_array_size(wanted); i++)
        assert_true(lt_python_random_next(random) == json_real_value(json_array_get(wanted, i)));
}

static void check_below(lt_python_random *random, const json_t *cases)
{
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *pair = json_array_get(cases, i);
        uint64_t bound = integer(json_array_get(pair, 0));
        assert_int_equal(lt_python_random_below(random, bound), integer(json_array_get(pair, 1)));
    }
}

static void check_samples(lt_python_random *random, const json_t *cases)
{
    int64_t drawn[128];
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *of = json_array_get(cases, i), *wanted = json_array_get(of, 2);
        int64_t population = json_integer_value(json_array_get(of, 0));
        int64_t count = json_integer_value(json_array_get(of, 1));
        assert_int_equal(lt_python_random_sample(random, population, count, drawn, NULL), LT_OK);
        assert_int_equal(json_array_size(wanted), count);
        for (size_t k = 0; k < (size_t)count; k++)
            assert_int_equal(drawn[k], json_integer_value(json_array_get(wanted, k)));
    }
}

static void draws_are_those_of_python(void **state)
{
    (void)state;
    json_t *golden = NULL;
    lt_err err = {0};
    if (lt_json_load(LATHE_TEST_DIR "/golden/metrics/random.json", &golden, &err) != LT_OK)
        fail_msg("%s", err.message);
    const json_t *cases = json_object_get(golden, "cases");
    assert_true(json_array_size(cases) > 5);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *of = json_array_get(cases, i);
        lt_python_random random;
        lt_python_random_seed(&random, integer(json_object_get(of, "seed")));
        check_numbers(&random, json_object_get(of, "first"));
        for (int skipped = 0; skipped < 700; skipped++)
            lt_python_random_next(&random);
        check_numbers(&random, json_object_get(of, "later"));
        check_below(&random, json_object_get(of, "below"));
        check_samples(&random, json_object_get(of, "samples"));
    }
    json_decref(golden);
}

static void more_than_there_are_can_not_be_drawn(void **state)
{
    (void)state;
    lt_python_random random;
    int64_t drawn[4];
    lt_err err = {0};
    lt_python_random_seed(&random, 1);
    assert_int_equal(lt_python_random_sample(&random, 3, 4, drawn, &err), LT_ERR_USAGE);
    assert_int_equal(lt_python_random_sample(&random, 3, -1, drawn, &err), LT_ERR_USAGE);
    assert_int_equal(lt_python_random_below(&random, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_are_those_of_python),
        cmocka_unit_test(more_than_there_are_can_not_be_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
