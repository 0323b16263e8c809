/* cross_entropy and sum_losses against their definitions in double, on every backend. */
#include "base/batch.h"
#include "tests/unit/kernels/kernel_test.h"

enum { GRADIENT_NONE, GRADIENT_IN_PLACE, GRADIENT_APART };

typedef struct loss_case {
    int64_t rows, vocab, gap;
    int gradient;
    bool large; /* logits far beyond what exp takes */
    bool ties;  /* for the largest */
} loss_case;

static const int64_t sizes[][3] = {
    {0, 5, 0},   {3, 1, 0},    {1, 7, 2},   {5, 8, 1},    {17, 15, 0}, {4, 16, 3},  {33, 17, 0},
    {50, 31, 1}, {130, 64, 0}, {7, 100, 5}, {300, 97, 0}, {2, 768, 0}, {3, 4097, 1}};

static lt_tensor rows_of(float *data, int64_t rows, int64_t columns, int64_t gap)
{
    lt_tensor t = lt_tensor_2d(data, LT_F32, rows, columns);
    t.stride[0] = columns + gap;
    return t;
}

static void near(double have, double want, double scale)
{
    if (have != want && !(fabs(have - want) <= 2e-6 * scale))
        fail_msg("%.9g, expected %.9g", have, want);
}

/* One row as the formulas say. */
static void check_row(const double *x, int64_t vocab, int32_t target, double loss, int32_t correct,
                      const float *gradient)
{
    double sum = 0, largest = -INFINITY;
    int64_t first = -1;
    for (int64_t j = 0; j < vocab; j++) {
        if (first < 0 || x[j] > largest) first = j;
        largest = x[first];
    }
    for (int64_t j = 0; j < vocab; j++)
        sum += exp(x[j] - largest);
    bool ignored = target == LT_IGNORE;
    near(loss, ignored ? 0 : largest - x[target] + log(sum), 1 + fabs(largest));
    assert_int_equal(correct, !ignored && target == first);
    for (int64_t j = 0; gradient && j < vocab; j++)
        near((double)gradient[j], ignored ? 0 : exp(x[j] - largest) / sum - (double)(j == target),
             1);
}

static void run_cross_entropy(test_run *t)
{
    const loss_case *p = t->parameters;
    int64_t stride = p->vocab + p->gap, room = p->rows * stride;
    bool in_place = p->gradient == GRADIENT_IN_PLACE;
    float *logits = in_place ? test_inout(t, room) : test_input(t, room), *gradient = NULL;
    int32_t *targets = test_integers(t, p->rows, p->vocab);
    double *kept = malloc((size_t)(room + 1) * sizeof *kept);
    for (int64_t i = 0; i < room; i++)
        logits[i] *= p->large ? 200 : 3;
    for (int64_t r = 0; r < p->rows; r++) {
        float *x = logits + r * stride;
        if (r % 3 == 1) x[targets[r]] = 400;
        if (p->ties) x[p->vocab - 1] = x[p->vocab / 2] = 400;
        if (r % 5 == 4) targets[r] = LT_IGNORE;
    }
    for (int64_t i = 0; i < room; i++)
        kept[i] = (double)logits[i];
    lt_cross_entropy_args a = {.logits = rows_of(logits, p->rows, p->vocab, p->gap),
                               .targets = lt_tensor_1d(targets, LT_I32, p->rows),
                               .loss = lt_tensor_1d(test_output(t, p->rows), LT_F32, p->rows)};
    if (in_place) gradient = logits;
    if (p->gradient == GRADIENT_APART) gradient = test_output(t, room + 2 * p->rows);
    if (gradient) a.gradient = rows_of(gradient, p->rows, p->vocab, p->gap + (in_place ? 0 : 2));
    float *correct = test_output(t, p->rows); /* integers 0 and 1: as floats 0 and a denormal */
    a.correct = lt_tensor_1d(correct, LT_I32, p->rows);
    TEST_CALL(t, cross_entropy, a);
    for (int64_t r = 0; r < p->rows; r++) {
        int32_t is_correct = ((int32_t *)correct)[r];
        check_row(kept + r * stride, p->vocab, targets[r], (double)((float *)a.loss.data)[r],
                  is_correct, gradient ? gradient + r * a.gradient.stride[0] : NULL);
        correct[r] = (float)is_correct;
    }
    free(kept);
}

static void test_cross_entropy(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int flags = 0; flags < 12; flags++) {
            loss_case c = {.rows = sizes[i][0],
                           .vocab = sizes[i][1],
                           .gap = sizes[i][2],
                           .gradient = flags / 4,
                           .large = flags & 1,
                           .ties = flags & 2};
            char text[96];
            snprintf(text, sizeof text, "cross_entropy %lld x %lld, %d", (long long)c.rows,
                     (long long)c.vocab, flags);
            test_all_backends(run_cross_entropy, &c, text);
        }
}

/* An absent `correct` is left out. */
static void test_loss_alone(void **state)
{
    (void)state;
    float logits[4] = {0, 0, 0, 0}, loss = 7;
    int32_t target = 2;
    for (int isa = 0; isa < 3; isa++) {
        const lt_backend *backend = test_backend_kept(isa, 1);
        if (!backend) continue;
        lt_cross_entropy_args a = {.logits = lt_tensor_2d(logits, LT_F32, 1, 4),
                                   .targets = lt_tensor_1d(&target, LT_I32, 1),
                                   .loss = lt_tensor_1d(&loss, LT_F32, 1)};
        test_ok(lt_cross_entropy(backend, &a, NULL), NULL);
        near((double)loss, log(4), 1);
        for (int j = 0; j < 4; j++)
            assert_true(logits[j] == 0);
    }
}

static void test_sum_losses(void **state)
{
    static const int64_t counts[] = {0, 1, 2, 4095, 4096, 4097, 20000};
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            if (!test_backend_kept(isa, 1)) continue;
            int64_t n = counts[c];
            test_run run = {.backend = test_backend_kept(isa, 1)}, *t = &run;
            float *loss = test_input(t, n);
            int32_t *targets = test_integers(t, n, 5), *correct = test_integers(t, n, 2);
            double totals[3] = {1, 2, 3}, expected[3] = {1, 2, 3};
            for (int64_t i = 0; i < n; i++) {
                if (targets[i] == 3) targets[i] = LT_IGNORE;
                if (targets[i] == LT_IGNORE) loss[i] = 0;
                expected[0] += (double)loss[i];
                expected[1] += targets[i] != LT_IGNORE;
                expected[2] += correct[i];
            }
            lt_sum_losses_args a = {lt_tensor_1d(loss, LT_F32, n), lt_tensor_1d(targets, LT_I32, n),
                                    lt_tensor_1d(correct, LT_I32, n),
                                    lt_tensor_1d(totals, LT_F64, 3)};
            TEST_CALL(t, sum_losses, a);
            assert_true(fabs(totals[0] - expected[0]) <= 1e-9);
            assert_true(totals[1] == expected[1] && totals[2] == expected[2]);
            test_end(t);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cross_entropy),
        cmocka_unit_test(test_loss_alone),
        cmocka_unit_test(test_sum_losses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
