/* The metrics of evaluation: what each is called, how one sample's value is made from text, how
 * samples become one number with a standard error, and how two runs are compared.
 *
 * A sample's value is a short row of numbers (one, a numerator and a denominator, BLEU's counts),
 * so that every result, error and comparison is a function of the samples' rows alone. */
#ifndef LT_TRAIN_EVALUATION_METRICS_H
#define LT_TRAIN_EVALUATION_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

typedef enum lt_metric {
    LT_METRIC_ACC,       /* the likeliest choice is a right one; cloze: every token is argmax */
    LT_METRIC_ACC_NORM,  /* the same by log p per character of the choice */
    LT_METRIC_ACC_BYTES, /* ... per UTF-8 byte */
    LT_METRIC_ACC_MUTUAL_INFO, /* ... by log p(choice | context) - log p(choice) */
    LT_METRIC_MC2, /* share of probability on the right choices: TruthfulQA's second "acc" */
    LT_METRIC_EXACT_MATCH,
    LT_METRIC_F1,     /* of words, as SQuAD */
    LT_METRIC_ROUGE1, /* F-measures of google-research's rouge_score, best over references */
    LT_METRIC_ROUGE2,
    LT_METRIC_ROUGEL,
    LT_METRIC_ROUGELSUM,
    LT_METRIC_BLEU,            /* sacrebleu's corpus BLEU, 13a, exp smoothing */
    LT_METRIC_PERPLEXITY,      /* exp(-mean log-likelihood of the continuation) */
    LT_METRIC_WORD_PERPLEXITY, /* exp(-sum log-likelihood / words) */
    LT_METRIC_BYTE_PERPLEXITY,
    LT_METRIC_BITS_PER_BYTE,
    LT_METRIC_LOSS,             /* nats per trained token */
    LT_METRIC_TOKEN_PERPLEXITY, /* its exponential */
    LT_METRIC_TOKEN_ACCURACY,   /* trained tokens that are argmax */
    LT_METRIC_REPETITION, /* share of an answer's 4-word sequences that occurred in it before */
    LT_METRIC_LENGTH,     /* words of an answer */
    LT_METRIC_STOPPED,    /* 1: the answer ended by itself */
    LT_METRIC_GROUNDED,   /* share of an answer's content words that are in the context */
    LT_METRIC_JUDGE,      /* a judge's probability that the answer is good */
    LT_METRIC_COUNT,
} lt_metric;

typedef enum lt_aggregation {
    LT_AGGREGATE_MEAN,            /* width 1 */
    LT_AGGREGATE_EXP_MINUS_MEAN,  /* width 1 */
    LT_AGGREGATE_RATIO,           /* [a, b]: sum a / sum b */
    LT_AGGREGATE_EXP_RATIO,       /* [a, b]: exp(sum a / sum b) */
    LT_AGGREGATE_EXP_MINUS_RATIO, /* [a, b]: exp(-sum a / sum b) */
    LT_AGGREGATE_BITS,            /* [a, b]: -sum a / sum b / ln 2 */
    LT_AGGREGATE_BLEU,            /* [4 matches, 4 totals, hypothesis length, reference length] */
} lt_aggregation;

#define LT_METRIC_MAX_WIDTH 10

typedef struct lt_metric_facts {
    const char *name; /* as lm-evaluation-harness spells it, where it has it: "acc_norm" */
    lt_aggregation aggregation;
    int width; /* numbers in a sample's value */
    bool higher_is_better;
    bool percent; /* shown times 100 on the console: shares */
    bool neutral; /* more is not better, only more: LENGTH. `higher_is_better` is true. */
} lt_metric_facts;

const lt_metric_facts *lt_metric_of(lt_metric metric);

/* --- From texts ------------------------------------------------------------------------------- */

/* All best over the references (max), but BLEU, which counts against all at once. Texts are UTF-8.
 */

/* SQuAD's F1 (huggingface/evaluate, metrics/squad): in [0, 1]. */
lt_status lt_f1(const char *answer, const char *const *references, size_t count, double *out,
                lt_err *err);
/* squad: answers normalised as SQuAD does (case, punctuation, articles, white space). Else: equal
 * but for white space at both ends, as everywhere in Lathe (train/answer_text.h). */
lt_status lt_exact_match(const char *answer, const char *const *references, size_t count,
                         bool squad, double *out, lt_err *err);

typedef struct lt_rouge {
    double rouge1, rouge2, rougeL, rougeLsum; /* F-measures */
} lt_rouge;
/* rouge_score.RougeScorer, without stemmer. */
lt_status lt_rouge_scores(const char *answer, const char *const *references, size_t count,
                          lt_rouge *out, lt_err *err);
/* A sample's row for LT_AGGREGATE_BLEU. */
lt_status lt_bleu_counts(const char *answer, const char *const *references, size_t count,
                         double out[LT_METRIC_MAX_WIDTH], lt_err *err);

/* Checks that need no reference. */
lt_status lt_repetition(const char *answer, double *out, lt_err *err);
double lt_word_count(const char *text); /* runs of what is not white space */
/* Content words: lower-cased words of letters and digits that are no common English function word;
 * numbers count. An answer without any is grounded: 1. */
lt_status lt_groundedness(const char *answer, const char *context, double *out, lt_err *err);

/* --- From samples ----------------------------------------------------------------------------- */

/* Samples of one metric: `values` [count, width], row after row. */
typedef struct lt_metric_samples {
    const double *values;
    int64_t count;
    int width;
    lt_aggregation aggregation;
} lt_metric_samples;

double lt_aggregate(const lt_metric_samples *samples); /* NaN without samples */
/* MEAN: sample standard deviation / sqrt(n), as lm-eval. EXP_MINUS_MEAN and BLEU: the standard
 * deviation over `resamples` bootstrap resamples drawn as lm-eval's bootstrap_stderr does (chunks
 * of 1000, chunk i seeded with i). The others: of our own bootstrap with the same draws. NaN below
 * two samples, with 0 resamples, or when one of them has no defined value. A value that is not
 * finite is LT_ERR_NUMERIC. */
lt_status lt_aggregate_stderr(const lt_metric_samples *samples, int64_t resamples, double *out,
                              lt_err *err);

/* Two runs over the same items, in the same order. difference = aggregate(b) - aggregate(a); the
 * interval is the 2.5th to 97.5th percentile over paired bootstrap resamples (Efron and Tibshirani,
 * 1993), `p` twice the smaller share of resamples on either side of 0, at most 1. */
typedef struct lt_paired_result {
    double a, b, difference, low, high, p;
    int64_t count, better, worse,
        equal; /* items, by b against a, in the metric's sense of better */
} lt_paired_result;

lt_status lt_paired_bootstrap(const lt_metric_samples *a, const lt_metric_samples *b,
                              bool higher_is_better, int64_t resamples, uint64_t seed,
                              lt_paired_result *out, lt_err *err);

/* What item `index` gained from a to b, each aggregated alone: above 0 is better, 0 is equal or not
 * to be told (no tokens). */
double lt_sample_gain(const lt_metric_samples *a, const lt_metric_samples *b, int64_t index,
                      bool higher_is_better);

#endif
