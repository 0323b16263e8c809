/* lt_sample against its definition, written the slow way with sorting. */
#include "golden.h"

enum { VOCAB = 40 };

static void random_logits(float *logits, uint64_t seed)
{
    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)(3 * lt_random_normal(seed, 1, (uint64_t)i));
}

static int32_t sample(const float *logits, lt_sampling s, uint64_t sequence)
{
    float scratch[VOCAB];
    const int32_t history[] = {1, 2, 3};
    memcpy(scratch, logits, sizeof scratch);
    return lt_sample(scratch, VOCAB, &s, history, 3, sequence);
}

/* Which ids come up in many draws, and how often. */
static void count_draws(const float *logits, lt_sampling s, int draws, int counts[VOCAB])
{
    memset(counts, 0, VOCAB * sizeof *counts);
    for (int i = 0; i < draws; i++)
        counts[sample(logits, s, (uint64_t)i)]++;
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
    for (uint64_t i = 0; i < 100; i++)
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
    float logits[VOCAB], scratch[VOCAB];
    const int32_t history[] = {5, 6, 7, 8};
    int changed[3] = {0};
    random_logits(logits, 2);
    for (uint64_t i = 0; i < 50; i++) {
        lt_sampling s = {.temperature = 2, .seed = i}, t = {.temperature = 2, .seed = i + 100};
        int32_t id = sample(logits, s, i);
        assert_int_equal(id, sample(logits, s, i));
        changed[0] += id != sample(logits, t, i);
        changed[1] += id != sample(logits, s, i + 1000);
        memcpy(scratch, logits, sizeof scratch);
        changed[2] += id != lt_sample(scratch, VOCAB, &s, history, 4, i);
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
    float logits[VOCAB] = {0}, scratch[VOCAB];
    const int32_t history[] = {4, 4, 4, 5, -1, VOCAB};
    lt_sampling s = {.repetition_penalty = 2};
    logits[4] = 3; /* once halved: 1.5; were it penalised for each time, 0.375 */
    logits[6] = 1;
    memcpy(scratch, logits, sizeof scratch);
    assert_int_equal(lt_sample(scratch, VOCAB, &s, history, 6, 0), 4);
    logits[6] = 1.6f;
    memcpy(scratch, logits, sizeof scratch);
    assert_int_equal(lt_sample(scratch, VOCAB, &s, history, 6, 0), 6);
    for (int i = 0; i < VOCAB; i++)
        logits[i] = -10;
    logits[5] = -3; /* negative ones grow: -6 */
    logits[6] = -5;
    memcpy(scratch, logits, sizeof scratch);
    assert_int_equal(lt_sample(scratch, VOCAB, &s, history, 6, 0), 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),      cmocka_unit_test(test_temperature),
        cmocka_unit_test(test_determinism), cmocka_unit_test(test_top_k),
        cmocka_unit_test(test_top_p),       cmocka_unit_test(test_top_p_after_top_k),
        cmocka_unit_test(test_min_p),       cmocka_unit_test(test_repetition_penalty)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
