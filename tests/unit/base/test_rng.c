#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/rng.h"

/* Known-answer vectors of Philox4x32-10 from Random123 (kat_vectors): counter, key, output. */
static void philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t *c = cases[i].counter, *k = cases[i].key;
        uint32_t out[4];
        lt_philox((uint64_t)k[1] << 32 | k[0], (uint64_t)c[3] << 32 | c[2],
                  (uint64_t)c[1] << 32 | c[0], out);
        assert_memory_equal(out, cases[i].out, sizeof out);
    }
}

static void uniform_and_normal_have_their_moments(void **state)
{
    (void)state;
    enum { COUNT = 200000 };
    double sum = 0, normal_sum = 0, squares = 0, fourth = 0;
    uint64_t stream = lt_rng_stream(LT_RNG_INIT, 3, 0);
    for (uint64_t i = 0; i < COUNT; i++) {
        double u = lt_random_uniform(1, stream, i), n = lt_random_normal(1, stream, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        normal_sum += n;
        squares += n * n;
        fourth += n * n * n * n;
    }
    /* about five standard errors each */
    assert_true(fabs(sum / COUNT - 0.5) < 0.0035);
    assert_true(fabs(normal_sum / COUNT) < 0.012);
    assert_true(fabs(squares / COUNT - 1) < 0.016);
    assert_true(fabs(fourth / COUNT - 3) < 0.12);
}

static void below_covers_its_range_evenly(void **state)
{
    (void)state;
    int seen[7] = {0};
    for (uint64_t i = 0; i < 70000; i++) {
        uint64_t value = lt_random_below(9, lt_rng_stream(LT_RNG_SHUFFLE, 0, 0), i, 7);
        assert_true(value < 7);
        seen[value]++;
    }
    for (int i = 0; i < 7; i++)
        assert_in_range(seen[i], 9500, 10500);
    assert_int_equal(lt_random_below(9, 0, 5, 1), 0);
    assert_true(lt_random_below(9, 0, 5, UINT64_MAX) < UINT64_MAX);
}

static void streams_differ(void **state)
{
    (void)state;
    enum { SIDE = 12 };
    uint64_t streams[6 * SIDE * SIDE];
    size_t count = 0;
    for (int purpose = LT_RNG_INIT; purpose <= LT_RNG_HASH; purpose++)
        for (uint64_t a = 0; a < SIDE; a++)
            for (uint64_t b = 0; b < SIDE; b++)
                streams[count++] = lt_rng_stream((lt_rng_purpose)purpose, a, b);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(streams[i] != streams[j]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(uniform_and_normal_have_their_moments),
        cmocka_unit_test(below_covers_its_range_evenly),
        cmocka_unit_test(streams_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
