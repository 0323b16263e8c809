/* Metrics of texts and statistics of samples, against the libraries that define them
 * (tests/golden/make_metrics_golden.py), and where none does against what can be counted by hand.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "train/evaluation/bleu.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/python_random.h"
#include "train/evaluation/words.h"

#define CHECK(expr)                                                  \
    do {                                                             \
        lt_err err = {0};                                            \
        if ((expr) != LT_OK) fail_msg("%s: %s", #expr, err.message); \
    } while (0)

/* --- Golden files ----------------------------------------------------------------------------- */

static json_t *texts, *statistics;

static int load_golden(void **state)
{
    (void)state;
    CHECK(lt_json_load(LATHE_TEST_DIR "/golden/metrics/texts.json", &texts, &err));
    CHECK(lt_json_load(LATHE_TEST_DIR "/golden/metrics/statistics.json", &statistics, &err));
    return 0;
}

static int free_golden(void **state)
{
    (void)state;
    json_decref(texts);
    json_decref(statistics);
    return 0;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static double element(const json_t *array, size_t index)
{
    return json_number_value(json_array_get(array, index));
}

/* What is compared: an answer with its references. */
typedef struct text_pair {
    const char *answer, *references[8];
    size_t count;
} text_pair;

static text_pair pair_of(const json_t *value)
{
    const json_t *references = json_object_get(value, "references");
    text_pair pair = {.answer = json_string_value(json_object_get(value, "answer")),
                      .count = json_array_size(references)};
    assert_in_range(pair.count, 1, 8);
    for (size_t i = 0; i < pair.count; i++)
        pair.references[i] = json_string_value(json_array_get(references, i));
    return pair;
}

static void assert_near(double value, double wanted, double tolerance, const char *what)
{
    if (!(fabs(value - wanted) <= tolerance)) fail_msg("%s: %.17g, not %.17g", what, value, wanted);
}

static bool near(double value, double wanted)
{
    return fabs(value - wanted) <= 1e-12 * fmax(1, fabs(wanted));
}

/* --- Texts ------------------------------------------------------------------------------------ */

static void squad_metrics_are_those_of_squad(void **state)
{
    (void)state;
    const json_t *pairs = json_object_get(texts, "pairs");
    assert_true(json_array_size(pairs) >= 100);
    for (size_t i = 0; i < json_array_size(pairs); i++) {
        const json_t *value = json_array_get(pairs, i);
        text_pair pair = pair_of(value);
        double f1, exact;
        CHECK(lt_f1(pair.answer, pair.references, pair.count, &f1, &err));
        CHECK(lt_exact_match(pair.answer, pair.references, pair.count, true, &exact, &err));
        assert_near(f1, number(value, "f1"), 1e-12, pair.answer);
        assert_near(exact, number(value, "exact"), 0, pair.answer);
    }
}

static void plain_exact_match_minds_case(void **state)
{
    (void)state;
    static const char *const references[] = {"Four.", " 4\n"};
    static const struct {
        const char *answer;
        double equal;
    } cases[] = {{"4", 1}, {"\t4 ", 1}, {"Four.", 1}, {"four.", 0}, {"Four", 0}, {"", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value;
        CHECK(lt_exact_match(cases[i].answer, references, 2, false, &value, &err));
        assert_near(value, cases[i].equal, 0, cases[i].answer);
    }
}

static void rouge_is_that_of_rouge_score(void **state)
{
    (void)state;
    const json_t *pairs = json_object_get(texts, "pairs");
    for (size_t i = 0; i < json_array_size(pairs); i++) {
        const json_t *value = json_array_get(pairs, i), *wanted = json_object_get(value, "rouge");
        text_pair pair = pair_of(value);
        lt_rouge rouge;
        CHECK(lt_rouge_scores(pair.answer, pair.references, pair.count, &rouge, &err));
        assert_near(rouge.rouge1, element(wanted, 0), 1e-12, pair.answer);
        assert_near(rouge.rouge2, element(wanted, 1), 1e-12, pair.answer);
        assert_near(rouge.rougeL, element(wanted, 2), 1e-12, pair.answer);
        assert_near(rouge.rougeLsum, element(wanted, 3), 1e-12, pair.answer);
    }
}

static void tokens_are_those_of_13a(void **state)
{
    (void)state;
    const json_t *cases = json_object_get(texts, "tokens");
    assert_true(json_array_size(cases) > 100);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const char *text = json_string_value(json_array_get(json_array_get(cases, i), 0));
        const char *wanted = json_string_value(json_array_get(json_array_get(cases, i), 1));
        lt_buffer padded = {0}, tokens = {0};
        CHECK(lt_bleu_tokenize(text, &padded, &err));
        const char *at = lt_buffer_text(&padded), *word;
        for (size_t size; lt_next_word(&at, &word, &size);) {
            CHECK(lt_buffer_append_text(&tokens, tokens.size ? " " : "", &err));
            CHECK(lt_buffer_append(&tokens, word, size, &err));
        }
        assert_string_equal(lt_buffer_text(&tokens), wanted);
        lt_buffer_free(&padded);
        lt_buffer_free(&tokens);
    }
}

static void small_letters_are_those_of_python(void **state)
{
    (void)state;
    const json_t *cases = json_object_get(texts, "lower");
    assert_true(json_array_size(cases) > 10);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *of = json_array_get(cases, i);
        lt_buffer lower = {0};
        CHECK(lt_append_lower(&lower, json_string_value(json_array_get(of, 0)), &err));
        assert_string_equal(lt_buffer_text(&lower), json_string_value(json_array_get(of, 1)));
        lt_buffer_free(&lower);
    }
}

static void bleu_counts_are_those_of_sacrebleu(void **state)
{
    (void)state;
    const json_t *pairs = json_object_get(texts, "pairs");
    for (size_t i = 0; i < json_array_size(pairs); i++) {
        const json_t *value = json_array_get(pairs, i), *wanted = json_object_get(value, "bleu");
        text_pair pair = pair_of(value);
        double row[LT_METRIC_MAX_WIDTH];
        CHECK(lt_bleu_counts(pair.answer, pair.references, pair.count, row, &err));
        for (size_t k = 0; k < LT_METRIC_MAX_WIDTH; k++)
            assert_near(row[k], element(wanted, k), 0, pair.answer);
    }
}

/* Rows of the pairs [from, to). Caller frees. */
static double *bleu_rows(const json_t *pairs, size_t from, size_t to)
{
    double *rows = calloc((to - from) * LT_METRIC_MAX_WIDTH, sizeof *rows);
    assert_non_null(rows);
    for (size_t i = from; i < to; i++) {
        text_pair pair = pair_of(json_array_get(pairs, i));
        CHECK(lt_bleu_counts(pair.answer, pair.references, pair.count,
                             rows + (i - from) * LT_METRIC_MAX_WIDTH, &err));
    }
    return rows;
}

static void bleu_of_a_corpus_is_that_of_sacrebleu(void **state)
{
    (void)state;
    const json_t *pairs = json_object_get(texts, "pairs"),
                 *corpora = json_object_get(texts, "corpora");
    assert_true(json_array_size(corpora) > 5);
    for (size_t i = 0; i < json_array_size(corpora); i++) {
        const json_t *corpus = json_array_get(corpora, i);
        size_t from = (size_t)number(corpus, "from"), to = (size_t)number(corpus, "to");
        double *rows = bleu_rows(pairs, from, to);
        lt_metric_samples samples = {rows, (int64_t)(to - from), LT_METRIC_MAX_WIDTH,
                                     LT_AGGREGATE_BLEU};
        assert_near(lt_aggregate(&samples), number(corpus, "bleu"), 1e-9, "corpus");
        free(rows);
    }
}

static void an_answer_needs_a_reference(void **state)
{
    (void)state;
    double value, row[LT_METRIC_MAX_WIDTH];
    lt_rouge rouge;
    lt_err err = {0};
    assert_int_equal(lt_f1("a", NULL, 0, &value, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_exact_match("a", NULL, 0, false, &value, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_exact_match("a", NULL, 0, true, &value, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_rouge_scores("a", NULL, 0, &rouge, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_bleu_counts("a", NULL, 0, row, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "reference"));
}

/* Bytes that are no UTF-8 are characters like any other. */
static void broken_utf8_is_no_danger(void **state)
{
    (void)state;
    static const char *const references[] = {"caf\xC3 \xF0\x9F\x99 x", "\xFF\xFE\xE2\x82"};
    double value, row[LT_METRIC_MAX_WIDTH];
    lt_rouge rouge;
    CHECK(lt_f1("caf\xC3 \xF0\x9F\x99 x", references, 2, &value, &err));
    assert_near(value, 1, 0, "f1");
    CHECK(lt_rouge_scores("\xE2\x82", references, 2, &rouge, &err));
    CHECK(lt_bleu_counts("\xFF", references, 2, row, &err));
    CHECK(lt_repetition("\xFF \xC3 \xC3", &value, &err));
    assert_near(lt_word_count("\xFF\xC2\xA0\xFE"), 2, 0, "words");
}

static void repetition_counts_what_was_said_before(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        double share;
    } cases[] = {
        {"", 0},
        {"one two three", 0},
        {"one two three four five six", 0},
        {"a b c d a b c d", 1.0 / 5},
        {"no no no no no no no no", 4.0 / 5},
        {"go on  and\non go on and on", 1.0 / 5},
        {"A b c d a b c d", 0}, /* case counts */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value;
        CHECK(lt_repetition(cases[i].answer, &value, &err));
        assert_near(value, cases[i].share, 1e-15, cases[i].answer);
    }
}

static void words_are_counted(void **state)
{
    (void)state;
    assert_near(lt_word_count(""), 0, 0, "empty");
    assert_near(lt_word_count(" \n\t"), 0, 0, "space");
    assert_near(lt_word_count(" one  two,three\n4 \xC2\xA0 five "), 4, 0, "words");
}

static void answers_are_grounded_in_their_context(void **state)
{
    (void)state;
    static const char context[] = "The tower of Brackenford, built in 1911, is 41 metres tall.";
    static const struct {
        const char *answer;
        double share;
    } cases[] = {
        {"", 1},
        {"It is what it was.", 1}, /* no content words */
        {"41 METRES", 1},
        {"It is 42 metres.", 1.0 / 2},
        {"Built 1911 by Romans; tall", 3.0 / 4},
        {"Rome, Paris", 0},
        {"tower tower tower church", 3.0 / 4},
        {"tow", 0}, /* whole words */
        {"tall_tower", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value;
        CHECK(lt_groundedness(cases[i].answer, context, &value, &err));
        assert_near(value, cases[i].share, 1e-15, cases[i].answer);
    }
}

static void names_and_metrics_belong_together(void **state)
{
    (void)state;
    for (int m = 0; m < LT_METRIC_COUNT; m++) {
        const lt_metric_facts *facts = lt_metric_of((lt_metric)m);
        assert_non_null(facts->name);
        for (int other = 0; other < m; other++) { /* they are keys of a task's samples */
            bool same = strcmp(facts->name, lt_metric_of((lt_metric)other)->name) == 0;
            assert_int_equal(same, other == LT_METRIC_ACC && m == LT_METRIC_MC2);
        }
        bool single = facts->aggregation == LT_AGGREGATE_MEAN ||
                      facts->aggregation == LT_AGGREGATE_EXP_MINUS_MEAN;
        assert_int_equal(facts->width, single                                    ? 1
                                       : facts->aggregation == LT_AGGREGATE_BLEU ? 10
                                                                                 : 2);
    }
}

/* --- Statistics ------------------------------------------------------------------------------- */

/* Values of a golden entry. Caller frees. */
static lt_metric_samples golden_samples(const json_t *entry, lt_aggregation aggregation)
{
    const json_t *values = json_object_get(entry, "values");
    size_t count = json_array_size(values);
    double *numbers = calloc(count, sizeof *numbers);
    assert_non_null(numbers);
    for (size_t i = 0; i < count; i++)
        numbers[i] = element(values, i);
    return (lt_metric_samples){numbers, (int64_t)count, 1, aggregation};
}

static void check_bootstrap(const lt_metric_samples *samples, const json_t *entry)
{
    const char *resamples;
    json_t *wanted;
    assert_true(near(lt_aggregate(samples), number(entry, "value")));
    json_object_foreach(json_object_get(entry, "stderr"), resamples, wanted)
    {
        double value;
        CHECK(lt_aggregate_stderr(samples, atoll(resamples), &value, &err));
        assert_near(value, json_number_value(wanted), 1e-10, resamples);
    }
}

static void errors_are_those_of_lm_eval(void **state)
{
    (void)state;
    const json_t *mean = json_object_get(statistics, "mean");
    lt_metric_samples samples = golden_samples(mean, LT_AGGREGATE_MEAN);
    double value;
    assert_true(near(lt_aggregate(&samples), number(mean, "value")));
    CHECK(lt_aggregate_stderr(&samples, 0, &value, &err));
    assert_near(value, number(mean, "stderr"), 1e-15, "stderr of a mean");
    free((double *)samples.values);

    const json_t *perplexity = json_object_get(statistics, "perplexity");
    samples = golden_samples(perplexity, LT_AGGREGATE_EXP_MINUS_MEAN);
    check_bootstrap(&samples, perplexity);
    free((double *)samples.values);

    const json_t *bleu = json_object_get(statistics, "bleu"),
                 *pairs = json_object_get(bleu, "pairs");
    size_t count = json_array_size(pairs);
    double *rows = bleu_rows(pairs, 0, count);
    samples = (lt_metric_samples){rows, (int64_t)count, LT_METRIC_MAX_WIDTH, LT_AGGREGATE_BLEU};
    check_bootstrap(&samples, bleu);
    free(rows);
}

static void ratios_are_of_sums(void **state)
{
    (void)state;
    static const double rows[] = {-6, 3, -2, 1, -4, 4};
    static const struct {
        lt_aggregation aggregation;
        double value;
    } cases[] = {
        {LT_AGGREGATE_RATIO, -1.5},
        {LT_AGGREGATE_EXP_RATIO, 0.22313016014842982},
        {LT_AGGREGATE_EXP_MINUS_RATIO, 4.4816890703380645},
        {LT_AGGREGATE_BITS, 2.1640425613334453},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_metric_samples samples = {rows, 3, 2, cases[i].aggregation};
        assert_near(lt_aggregate(&samples), cases[i].value, 1e-14, "ratio");
    }
}

/* The bootstrap of a ratio agrees with the linear approximation of its error (the delta method). */
static void error_of_a_ratio_is_right(void **state)
{
    (void)state;
    enum { COUNT = 400 };
    double rows[2 * COUNT], residuals = 0, total = 0, value;
    lt_python_random rng;
    lt_python_random_seed(&rng, 3);
    for (int i = 0; i < COUNT; i++) {
        rows[2 * i + 1] = 5 + (double)lt_python_random_below(&rng, 20);
        rows[2 * i] = rows[2 * i + 1] * (2 + lt_python_random_next(&rng));
    }
    lt_metric_samples samples = {rows, COUNT, 2, LT_AGGREGATE_RATIO};
    double ratio = lt_aggregate(&samples);
    for (int i = 0; i < COUNT; i++) {
        double residual = rows[2 * i] - ratio * rows[2 * i + 1];
        residuals += residual * residual;
        total += rows[2 * i + 1];
    }
    CHECK(lt_aggregate_stderr(&samples, 2000, &value, &err));
    double wanted = sqrt(residuals) / total;
    assert_near(value, wanted, 0.06 * wanted, "standard error of a ratio");
}

static void few_or_equal_samples_have_no_surprise(void **state)
{
    (void)state;
    static const double equal[] = {2, 2, 2, 2}, zeros[] = {1, 0, 2, 0};
    lt_metric_samples samples = {equal, 0, 1, LT_AGGREGATE_MEAN};
    double value = 0;
    assert_true(isnan(lt_aggregate(&samples)));
    CHECK(lt_aggregate_stderr(&samples, 100, &value, &err));
    assert_true(isnan(value));
    samples.count = 1;
    assert_near(lt_aggregate(&samples), 2, 0, "one sample");
    CHECK(lt_aggregate_stderr(&samples, 100, &value, &err));
    assert_true(isnan(value));
    samples.aggregation = LT_AGGREGATE_EXP_MINUS_MEAN;
    CHECK(lt_aggregate_stderr(&samples, 100, &value, &err));
    assert_true(isnan(value));
    samples.count = 4;
    samples.aggregation = LT_AGGREGATE_MEAN;
    CHECK(lt_aggregate_stderr(&samples, 100, &value, &err));
    assert_near(value, 0, 0, "equal samples");
    samples.aggregation = LT_AGGREGATE_EXP_MINUS_MEAN;
    CHECK(lt_aggregate_stderr(&samples, 100, &value, &err));
    assert_near(value, 0, 1e-15, "equal samples");
    CHECK(lt_aggregate_stderr(&samples, 0, &value, &err)); /* no bootstrap is wanted */
    assert_true(isnan(value));
    samples = (lt_metric_samples){zeros, 2, 2, LT_AGGREGATE_RATIO}; /* nothing was counted */
    CHECK(lt_aggregate_stderr(&samples, 100, &value, &err));
    assert_true(isnan(value));
}

static void numbers_that_are_none_are_refused(void **state)
{
    (void)state;
    static const double bad[] = {1, NAN, 2}, good[] = {1, 2, 3};
    lt_metric_samples samples = {bad, 3, 1, LT_AGGREGATE_MEAN}, others = {good, 3, 1, 0};
    lt_paired_result result;
    lt_err err = {0};
    double value;
    assert_int_equal(lt_aggregate_stderr(&samples, 100, &value, &err), LT_ERR_NUMERIC);
    assert_non_null(strstr(err.message, "sample 1"));
    assert_int_equal(lt_paired_bootstrap(&samples, &others, true, 100, 1, &result, &err),
                     LT_ERR_NUMERIC);
    assert_int_equal(lt_paired_bootstrap(&others, &samples, true, 100, 1, &result, &err),
                     LT_ERR_NUMERIC);
    assert_int_equal(lt_paired_bootstrap(&others, &others, true, 1, 1, &result, &err),
                     LT_ERR_USAGE);
    samples.count = 2;
    assert_int_equal(lt_paired_bootstrap(&others, &samples, true, 100, 1, &result, &err),
                     LT_ERR_USAGE);
}

/* --- Two runs --------------------------------------------------------------------------------- */

static void items_are_compared_one_by_one(void **state)
{
    (void)state;
    static const double a[] = {0, 1, 1, 0, 0.5}, b[] = {1, 1, 0, 1, 0.75};
    lt_metric_samples of_a = {a, 5, 1, LT_AGGREGATE_MEAN}, of_b = {b, 5, 1, LT_AGGREGATE_MEAN};
    lt_paired_result up, down;
    CHECK(lt_paired_bootstrap(&of_a, &of_b, true, 500, 7, &up, &err));
    assert_near(up.a, 0.5, 0, "a");
    assert_near(up.b, 0.75, 0, "b");
    assert_near(up.difference, 0.25, 0, "difference");
    assert_int_equal(up.count, 5);
    assert_int_equal(up.better, 3);
    assert_int_equal(up.worse, 1);
    assert_int_equal(up.equal, 1);
    assert_true(up.low < 0.25 && up.high > 0.25);
    CHECK(lt_paired_bootstrap(&of_a, &of_b, false, 500, 7, &down, &err));
    assert_int_equal(down.better, 1);
    assert_int_equal(down.worse, 3);
    assert_true(down.low == up.low && down.high == up.high && down.p == up.p);
    /* the same resamples the other way round */
    CHECK(lt_paired_bootstrap(&of_b, &of_a, true, 500, 7, &down, &err));
    assert_true(near(down.low, -up.high) && near(down.high, -up.low) && down.p == up.p);
}

/* Items that differ by 3 and -1: a quarter of all resamples holds the second one only. */
static void p_is_of_both_sides(void **state)
{
    (void)state;
    static const double a[] = {0, 0}, b[] = {3, -1};
    lt_metric_samples of_a = {a, 2, 1, LT_AGGREGATE_MEAN}, of_b = {b, 2, 1, LT_AGGREGATE_MEAN};
    lt_paired_result result;
    CHECK(lt_paired_bootstrap(&of_a, &of_b, true, 4000, 7, &result, &err));
    assert_near(result.p, 0.5, 0.05, "p");
    assert_true(result.low == -1 && result.high == 3);
}

/* Of log-likelihoods more is better, of the perplexity that is made of them less. */
static void better_is_meant_of_the_result(void **state)
{
    (void)state;
    static const double a[] = {-3, -2, -1}, b[] = {-1, -2, -2};
    static const double rows_a[] = {6, 3, 0, 0, 9, 3}, rows_b[] = {5, 3, 0, 0, 9, 4};
    lt_metric_samples of_a = {a, 3, 1, LT_AGGREGATE_EXP_MINUS_MEAN},
                      of_b = {b, 3, 1, LT_AGGREGATE_EXP_MINUS_MEAN};
    lt_paired_result result;
    CHECK(lt_paired_bootstrap(&of_a, &of_b, false, 50, 7, &result, &err));
    assert_int_equal(result.better, 1);
    assert_int_equal(result.worse, 1);
    assert_int_equal(result.equal, 1);
    assert_true(lt_sample_gain(&of_a, &of_b, 0, false) > 0);
    assert_true(lt_sample_gain(&of_a, &of_b, 2, false) < 0);
    of_a = (lt_metric_samples){rows_a, 3, 2, LT_AGGREGATE_RATIO};
    of_b = (lt_metric_samples){rows_b, 3, 2, LT_AGGREGATE_RATIO};
    CHECK(lt_paired_bootstrap(&of_a, &of_b, false, 50, 7, &result, &err));
    assert_int_equal(result.better, 2);
    assert_int_equal(result.equal, 1); /* 0 / 0 against 0 / 0 */
}

static void equal_runs_do_not_differ(void **state)
{
    (void)state;
    static const double values[] = {0, 1, 1, 0};
    lt_metric_samples samples = {values, 4, 1, LT_AGGREGATE_MEAN};
    lt_paired_result result;
    CHECK(lt_paired_bootstrap(&samples, &samples, true, 100, 1, &result, &err));
    assert_true(result.difference == 0 && result.low == 0 && result.high == 0 && result.p == 1);
    samples.count = 1;
    CHECK(lt_paired_bootstrap(&samples, &samples, true, 100, 1, &result, &err));
    assert_true(isnan(result.low) && isnan(result.high) && isnan(result.p));
    assert_int_equal(result.equal, 1);
    samples.count = 0;
    CHECK(lt_paired_bootstrap(&samples, &samples, true, 100, 1, &result, &err));
    assert_true(isnan(result.difference));
}

/* Of many experiments the interval holds the true difference in about 95 of 100. */
static void intervals_cover_the_truth(void **state)
{
    (void)state;
    enum { EXPERIMENTS = 400, COUNT = 80 };
    const double truth = 0.15; /* b is right where a is, and in 0.3 of the other half */
    double a[COUNT], b[COUNT];
    lt_python_random rng;
    lt_python_random_seed(&rng, 11);
    int covered = 0, significant = 0;
    for (int e = 0; e < EXPERIMENTS; e++) {
        for (int i = 0; i < COUNT; i++) {
            a[i] = lt_python_random_next(&rng) < 0.5;
            b[i] = a[i] > 0 || lt_python_random_next(&rng) < 0.3;
        }
        lt_metric_samples of_a = {a, COUNT, 1, LT_AGGREGATE_MEAN},
                          of_b = {b, COUNT, 1, LT_AGGREGATE_MEAN};
        lt_paired_result result;
        CHECK(lt_paired_bootstrap(&of_a, &of_b, true, 300, (uint64_t)e * 100, &result, &err));
        covered += result.low <= truth && truth <= result.high;
        significant += result.p < 0.05;
    }
    assert_in_range(covered, EXPERIMENTS * 91 / 100, EXPERIMENTS * 98 / 100);
    assert_true(significant > EXPERIMENTS * 9 / 10);
}

/* Without a difference one in twenty comparisons is called one. */
static void chance_is_rarely_taken_for_a_difference(void **state)
{
    (void)state;
    enum { EXPERIMENTS = 400, COUNT = 80 };
    double a[COUNT], b[COUNT];
    lt_python_random rng;
    lt_python_random_seed(&rng, 12);
    int significant = 0;
    for (int e = 0; e < EXPERIMENTS; e++) {
        for (int i = 0; i < COUNT; i++) {
            a[i] = lt_python_random_next(&rng);
            b[i] = lt_python_random_next(&rng);
        }
        lt_metric_samples of_a = {a, COUNT, 1, LT_AGGREGATE_MEAN},
                          of_b = {b, COUNT, 1, LT_AGGREGATE_MEAN};
        lt_paired_result result;
        CHECK(lt_paired_bootstrap(&of_a, &of_b, true, 300, (uint64_t)e * 100, &result, &err));
        significant += result.low > 0 || result.high < 0;
    }
    assert_in_range(significant, EXPERIMENTS * 2 / 100, EXPERIMENTS * 9 / 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(squad_metrics_are_those_of_squad),
        cmocka_unit_test(plain_exact_match_minds_case),
        cmocka_unit_test(rouge_is_that_of_rouge_score),
        cmocka_unit_test(tokens_are_those_of_13a),
        cmocka_unit_test(small_letters_are_those_of_python),
        cmocka_unit_test(bleu_counts_are_those_of_sacrebleu),
        cmocka_unit_test(bleu_of_a_corpus_is_that_of_sacrebleu),
        cmocka_unit_test(an_answer_needs_a_reference),
        cmocka_unit_test(broken_utf8_is_no_danger),
        cmocka_unit_test(repetition_counts_what_was_said_before),
        cmocka_unit_test(words_are_counted),
        cmocka_unit_test(answers_are_grounded_in_their_context),
        cmocka_unit_test(names_and_metrics_belong_together),
        cmocka_unit_test(errors_are_those_of_lm_eval),
        cmocka_unit_test(ratios_are_of_sums),
        cmocka_unit_test(error_of_a_ratio_is_right),
        cmocka_unit_test(few_or_equal_samples_have_no_surprise),
        cmocka_unit_test(numbers_that_are_none_are_refused),
        cmocka_unit_test(items_are_compared_one_by_one),
        cmocka_unit_test(p_is_of_both_sides),
        cmocka_unit_test(better_is_meant_of_the_result),
        cmocka_unit_test(equal_runs_do_not_differ),
        cmocka_unit_test(intervals_cover_the_truth),
        cmocka_unit_test(chance_is_rarely_taken_for_a_difference),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
