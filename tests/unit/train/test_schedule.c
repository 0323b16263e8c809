/* The learning rate: values worked out by hand, and what every schedule must keep. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "train/train.h"

static void expect(const lt_schedule *schedule, int64_t step, double expected)
{
    double actual = lt_schedule_learning_rate(schedule, step);
    if (fabs(actual - expected) > 1e-12)
        fail_msg("kind %d, step %d: %.15g, expected %.15g", (int)schedule->kind, (int)step, actual,
                 expected);
}

static void warm_up_is_linear_from_zero(void **state)
{
    (void)state;
    for (int kind = LT_SCHEDULER_COSINE; kind <= LT_SCHEDULER_WSD; kind++) {
        lt_schedule s = {.kind = (lt_scheduler)kind,
                         .learning_rate = 1e-3,
                         .warmup_steps = 4,
                         .total_steps = 20};
        expect(&s, 0, 0.25e-3);
        expect(&s, 1, 0.5e-3);
        expect(&s, 3, 1e-3);
        expect(&s, 4, 1e-3);
    }
}

static void cosine_follows_its_curve(void **state)
{
    (void)state;
    lt_schedule s = {
        .kind = LT_SCHEDULER_COSINE, .learning_rate = 1, .warmup_steps = 10, .total_steps = 110};
    expect(&s, 35, 0.5 * (1 + sqrt(0.5))); /* a quarter of the way */
    expect(&s, 60, 0.5);
    expect(&s, 85, 0.5 * (1 - sqrt(0.5)));
    s.min_lr_ratio = 0.1;
    expect(&s, 60, 0.55);
    expect(&s, 110, 0.1);
}

static void linear_goes_straight_down(void **state)
{
    (void)state;
    lt_schedule s = {.kind = LT_SCHEDULER_LINEAR,
                     .learning_rate = 2,
                     .min_lr_ratio = 0.5,
                     .warmup_steps = 0,
                     .total_steps = 4};
    expect(&s, 0, 2);
    expect(&s, 1, 1.75);
    expect(&s, 3, 1.25);
}

static void constant_stays(void **state)
{
    (void)state;
    lt_schedule s = {.kind = LT_SCHEDULER_CONSTANT, .learning_rate = 3, .total_steps = 7};
    for (int64_t step = 0; step < 7; step++)
        expect(&s, step, 3);
}

static void wsd_stays_and_goes_down_at_the_end(void **state)
{
    (void)state;
    lt_schedule s = {.kind = LT_SCHEDULER_WSD,
                     .learning_rate = 1,
                     .decay_ratio = 0.2,
                     .warmup_steps = 5,
                     .total_steps = 100};
    expect(&s, 5, 1);
    expect(&s, 80, 1);
    expect(&s, 85, 0.75);
    expect(&s, 99, 0.05);
    s.decay_ratio = 1; /* never before the warm-up has ended */
    expect(&s, 5, 1);
    expect(&s, 52, 1 - 47.0 / 95);
}

/* Whatever the sizes: finite, never above the peak, never below the floor once warm. */
static void bounds_hold_everywhere(void **state)
{
    (void)state;
    for (int kind = LT_SCHEDULER_COSINE; kind <= LT_SCHEDULER_WSD; kind++) {
        for (int64_t total = 1; total < 40; total++) {
            for (int64_t warmup = 0; warmup <= total; warmup++) {
                lt_schedule s = {(lt_scheduler)kind, 0.7, 0.1, 0.3, warmup, total};
                for (int64_t step = 0; step < total; step++) {
                    double rate = lt_schedule_learning_rate(&s, step);
                    assert_true(rate > 0 && rate <= 0.7 * (1 + 1e-12));
                    if (step >= warmup) assert_true(rate >= 0.07 * (1 - 1e-12));
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_is_linear_from_zero),
        cmocka_unit_test(cosine_follows_its_curve),
        cmocka_unit_test(linear_goes_straight_down),
        cmocka_unit_test(constant_stays),
        cmocka_unit_test(wsd_stays_and_goes_down_at_the_end),
        cmocka_unit_test(bounds_hold_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
