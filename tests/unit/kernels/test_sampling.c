/* sample_tokens against its definition, written the slow way with sorting. */
#include "tests/unit/kernels/kernel_test.h"

enum { VOCAB = 40 };

static void random_logits(float *logits, uint64_t seed)
{
    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)(3 * lt_random_normal(seed, 1, (uint64_t)i));
}

static int32_t sample_after(const float *logits, lt_sampling s, const int32_t *history,
                            int32_t count, int32_t sequence)
{
    float scratch[VOCAB];
    int32_t id = -1;
    lt_sample_tokens_args a = {.logits = lt_tensor_2d(scratch, LT_F32, 1, VOCAB),
                               .history = lt_tensor_2d((void *)history, LT_I32, 1, count),
                               .history_count = lt_tensor_1d(&count, LT_I32, 1),
                               .sequence = lt_tensor_1d(&sequence, LT_I32, 1),
                               .ids = lt_tensor_1d(&id, LT_I32, 1),
                               .sampling = s};
    memcpy(scratch, logits, sizeof scratch);
    test_ok(lt_sample_tokens(test_backend_kept(0, 1), &a, NULL), NULL);
    return id;
}

static int32_t sample(const float *logits, lt_sampling s, int32_t sequence)
{
    const int32_t history[] = {1, 2, 3};
    return sample_after(logits, s, history, 3, sequence);
}

/* Which ids come up in many draws, and how often. */
static void count_draws(const float *logits, lt_sampling s, int draws, int counts[VOCAB])
{
    memset(counts, 0, VOCAB * sizeof *counts);
    for (int i = 0; i < draws; i++)
        counts[sample(logits, s, i)]++;
}

static void test_greedy(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    logits[7] = logits[9] = 2;
    assert_int_equal(sample(logits, (lt_sampling){0}, 0), 7); /* the first of equals */
    logits[3] = NAN;
    assert_int_equal(sample(logits, (lt_sampling){0}, 0), 7);
    logits[20] = INFINITY;
    assert_int_equal(sample(logits, (lt_sampling){.temperature = 1}, 0), 20);
    logits[0] = NAN;
    assert_int_equal(sample(logits, (lt_sampling){.temperature = 1e-9}, 0), 20);
}

static void test_temperature(void **state)
{
    (void)state;
    float logits[VOCAB];
    random_logits(logits, 1);
    int best = sample(logits, (lt_sampling){0}, 0), counts[VOCAB], draws = 20000;
    for (int i = 0; i < 100; i++)
        assert_int_equal(sample(logits, (lt_sampling){.temperature = 1e-6}, i), best);
    double temperature = 1.7, total = 0;
    for (int i = 0; i < VOCAB; i++)
        total += exp(logits[i] / temperature);
    count_draws(logits, (lt_sampling){.temperature = temperature}, draws, counts);
    for (int i = 0; i < VOCAB; i++) {
        double p = exp(logits[i] / temperature) / total;
        double deviation = sqrt(draws * p * (1 - p));
        assert_true(fabs(counts[i] - draws * p) <= 5 * deviation + 1);
    }
}

/* The draw is a function of seed, sequence and position, and of nothing else. */
static void test_determinism(void **state)
{
    (void)state;
    float logits[VOCAB];
    const int32_t history[] = {5, 6, 7, 8};
    int changed[3] = {0};
    random_logits(logits, 2);
    for (int32_t i = 0; i < 50; i++) {
        lt_sampling s = {.temperature = 2, .seed = (uint64_t)i}, t = s;
        t.seed += 100;
        int32_t id = sample(logits, s, i);
        assert_int_equal(id, sample(logits, s, i));
        changed[0] += id != sample(logits, t, i);
        changed[1] += id != sample(logits, s, i + 1000);
        changed[2] += id != sample_after(logits, s, history, 4, i);
    }
    assert_true(changed[0] > 10 && changed[1] > 10 && changed[2] > 10);
}

/* Rank of each id by falling logit. */
static void ranks_of(const float *logits, int rank[VOCAB])
{
    for (int i = 0; i < VOCAB; i++) {
        rank[i] = 0;
        for (int j = 0; j < VOCAB; j++)
            rank[i] += logits[j] > logits[i] || (logits[j] == logits[i] && j < i);
    }
}

static void check_kept(const float *logits, lt_sampling s, const bool keep[VOCAB])
{
    int counts[VOCAB];
    s.temperature = 1000; /* nearly uniform: whatever is kept comes up */
    count_draws(logits, s, 4000, counts);
    for (int i = 0; i < VOCAB; i++)
        assert_int_equal(counts[i] > 0, keep[i]);
}

static void test_top_k(void **state)
{
    (void)state;
    float logits[VOCAB];
    int rank[VOCAB];
    bool keep[VOCAB];
    for (uint64_t seed = 3; seed < 8; seed++) {
        int k = (int)(1 + seed * 5 % 11);
        random_logits(logits, seed);
        ranks_of(logits, rank);
        for (int i = 0; i < VOCAB; i++)
            keep[i] = rank[i] < k;
        check_kept(logits, (lt_sampling){.top_k = k}, keep);
    }
    /* ties at the edge are all kept */
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = i < 2 ? 5.0f : i < 6 ? 4.0f : 1.0f;
        keep[i] = i < 6;
    }
    check_kept(logits, (lt_sampling){.top_k = 3}, keep);
}

/* At this temperature all probabilities are nearly 1 / VOCAB. */
static void test_top_p(void **state)
{
    (void)state;
    float logits[VOCAB];
    int rank[VOCAB];
    bool keep[VOCAB];
    random_logits(logits, 9);
    ranks_of(logits, rank);
    for (int kept = 1; kept <= VOCAB; kept += 6) {
        for (int i = 0; i < VOCAB; i++)
            keep[i] = rank[i] < kept;
        check_kept(logits, (lt_sampling){.top_p = (kept - 0.5) / VOCAB}, keep);
    }
    /* equal probabilities: the lower ids first */
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = 1;
        keep[i] = i < 10;
    }
    check_kept(logits, (lt_sampling){.top_p = 10.0 / VOCAB}, keep);
}

/* The smallest set that reaches p, at temperature 1 and with top_k before it. */
static void test_top_p_after_top_k(void **state)
{
    (void)state;
    float logits[VOCAB];
    int rank[VOCAB], counts[VOCAB], order[VOCAB];
    for (uint64_t seed = 30; seed < 36; seed++) {
        int k = 12, kept = 0;
        double total = 0, sum = 0, p = 0.9;
        random_logits(logits, seed);
        ranks_of(logits, rank);
        for (int i = 0; i < VOCAB; i++)
            order[rank[i]] = i;
        for (int r = 0; r < k; r++)
            total += exp(logits[order[r]]);
        while (sum < p * total)
            sum += exp(logits[order[kept++]]);
        count_draws(logits, (lt_sampling){.temperature = 1, .top_k = k, .top_p = p}, 6000, counts);
        for (int i = 0; i < VOCAB; i++) {
            double expected = 6000 * exp(logits[i]) / sum;
            if (rank[i] >= kept)
                assert_int_equal(counts[i], 0);
            else
                assert_true(fabs(counts[i] - expected) <= 5 * sqrt(expected) + 1);
        }
    }
}

static void test_min_p(void **state)
{
    (void)state;
    float logits[VOCAB];
    int counts[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        logits[i] = -(float)i * 0.1f; /* p_i / p_0 = exp(-i / 10) */
    count_draws(logits, (lt_sampling){.temperature = 1, .min_p = exp(-1.05)}, 4000, counts);
    for (int i = 0; i < VOCAB; i++)
        assert_int_equal(counts[i] > 0, i <= 10);
}

static void test_repetition_penalty(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    const int32_t history[] = {4, 4, 4, 5, -1, VOCAB};
    lt_sampling s = {.repetition_penalty = 2};
    logits[4] = 3; /* once halved: 1.5; were it penalised for each time, 0.375 */
    logits[6] = 1;
    assert_int_equal(sample_after(logits, s, history, 6, 0), 4);
    logits[6] = 1.6f;
    assert_int_equal(sample_after(logits, s, history, 6, 0), 6);
    for (int i = 0; i < VOCAB; i++)
        logits[i] = -10;
    logits[5] = -3; /* negative ones grow: -6 */
    logits[6] = -5;
    assert_int_equal(sample_after(logits, s, history, 6, 0), 6);
}

/* Rows do not know of each other, whatever lies between them; on every backend, f64 too. */
static void test_rows(void **state)
{
    enum { ROWS = 5, STRIDE = VOCAB + 3, CAPACITY = 9 };
    lt_sampling s = {.temperature = 1.5, .top_k = 30, .top_p = 0.9, .min_p = 0.01};
    lt_backend *wide = NULL;
    (void)state;
    s.repetition_penalty = 1.7;
    test_ok(lt_backend_create_double(&wide, NULL), NULL);
    for (int isa = 0; isa < 4; isa++)
        for (int with_history = 0; with_history < 2; with_history++) {
            const lt_backend *backend = isa < 3 ? test_backend_kept(isa, 1) : wide;
            if (!backend) continue;
            test_run run = {.backend = backend}, *t = &run;
            float *logits = test_inout(t, ROWS * STRIDE), kept[ROWS * STRIDE];
            int32_t *history = test_integers(t, ROWS * CAPACITY, VOCAB);
            int32_t *count = test_integers(t, ROWS, CAPACITY + 1);
            int32_t *sequence = test_integers(t, ROWS, 1000), ids[ROWS];
            for (int i = 0; i < ROWS * STRIDE; i++)
                kept[i] = logits[i] *= 5;
            lt_sample_tokens_args a = {.logits = lt_tensor_2d(logits, LT_F32, ROWS, VOCAB),
                                       .history_count = lt_tensor_1d(count, LT_I32, ROWS),
                                       .sequence = lt_tensor_1d(sequence, LT_I32, ROWS),
                                       .ids = lt_tensor_1d(ids, LT_I32, ROWS),
                                       .sampling = s};
            a.logits.stride[0] = STRIDE;
            if (with_history) a.history = lt_tensor_2d(history, LT_I32, ROWS, CAPACITY);
            TEST_CALL(t, sample_tokens, a);
            for (int r = 0; r < ROWS; r++) {
                lt_sampling alone = s;
                if (!with_history) alone.repetition_penalty = 0;
                assert_int_equal(ids[r],
                                 sample_after(kept + r * STRIDE, alone, history + r * CAPACITY,
                                              count[r], sequence[r]));
                for (int j = VOCAB; j < STRIDE; j++)
                    assert_true(logits[r * STRIDE + j] == kept[r * STRIDE + j]);
            }
            test_end(t);
        }
    lt_backend_free(wide);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),      cmocka_unit_test(test_temperature),
        cmocka_unit_test(test_determinism), cmocka_unit_test(test_top_k),
        cmocka_unit_test(test_top_p),       cmocka_unit_test(test_top_p_after_top_k),
        cmocka_unit_test(test_min_p),       cmocka_unit_test(test_repetition_penalty),
        cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
