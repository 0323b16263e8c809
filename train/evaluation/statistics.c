/* From samples to one number, its standard error, and the comparison of two runs.
 *
 * All sums go over the samples in their order, and all resamples are drawn by a generator seeded
 * with the number of their chunk of 1000: results depend neither on threads nor on the machine. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/bleu.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/python_random.h"

enum { CHUNK = 1000 };

/* The result that belongs to the summed rows of `count` samples. */
static double from_sums(lt_aggregation aggregation, const double *sums, int64_t count)
{
    switch (aggregation) {
    case LT_AGGREGATE_MEAN:
        return sums[0] / (double)count;
    case LT_AGGREGATE_EXP_MINUS_MEAN:
        return exp(-(sums[0] / (double)count));
    case LT_AGGREGATE_RATIO:
        return sums[0] / sums[1];
    case LT_AGGREGATE_EXP_RATIO:
        return exp(sums[0] / sums[1]);
    case LT_AGGREGATE_EXP_MINUS_RATIO:
        return exp(-(sums[0] / sums[1]));
    case LT_AGGREGATE_BITS:
        return -(sums[0] / sums[1]) / M_LN2;
    case LT_AGGREGATE_BLEU:
        return lt_bleu_score(sums);
    }
    return NAN;
}

static void add_row(double *sums, const double *row, int width)
{
    for (int i = 0; i < width; i++)
        sums[i] += row[i];
}

double lt_aggregate(const lt_metric_samples *samples)
{
    double sums[LT_METRIC_MAX_WIDTH] = {0};
    if (samples->count == 0) return NAN;
    for (int64_t i = 0; i < samples->count; i++)
        add_row(sums, samples->values + i * samples->width, samples->width);
    return from_sums(samples->aggregation, sums, samples->count);
}

static lt_status check_samples(const lt_metric_samples *samples, lt_err *err)
{
    if (samples->width < 1 || samples->width > LT_METRIC_MAX_WIDTH)
        return lt_fail(err, LT_ERR_USAGE, "samples can not be %d numbers wide", samples->width);
    for (int64_t i = 0; i < samples->count * samples->width; i++)
        if (!isfinite(samples->values[i]))
            return lt_fail(err, LT_ERR_NUMERIC, "the value of sample %lld is not a finite number",
                           (long long)(i / samples->width));
    return LT_OK;
}

/* Mean and sample standard deviation, summed as lm-eval sums them. */
static double sample_deviation(const double *values, int64_t count)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++)
        sum += values[i];
    double mean = sum / (double)count;
    for (int64_t i = 0; i < count; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    return sqrt(squares / (double)(count - 1));
}

/* --- Bootstrap -------------------------------------------------------------------------------- */

/* One resample: as many samples as there are, with repetition, as random.choices() draws them. With
 * `b`, the same of both. */
static void resample(lt_python_random *random, const lt_metric_samples *a,
                     const lt_metric_samples *b, double *out_a, double *out_b)
{
    double sums_a[LT_METRIC_MAX_WIDTH] = {0}, sums_b[LT_METRIC_MAX_WIDTH] = {0};
    double count = (double)a->count;
    for (int64_t i = 0; i < a->count; i++) {
        int64_t at = (int64_t)(lt_python_random_next(random) * count);
        add_row(sums_a, a->values + at * a->width, a->width);
        if (b) add_row(sums_b, b->values + at * b->width, b->width);
    }
    *out_a = from_sums(a->aggregation, sums_a, a->count);
    if (b) *out_b = from_sums(b->aggregation, sums_b, b->count);
}

/* Resamples of `a`, or with `b` the differences b - a, in the chunks of lm-eval: *count is
 * `resamples` without the rest that fills no chunk. Caller frees *out. */
static lt_status draw_resamples(const lt_metric_samples *a, const lt_metric_samples *b,
                                int64_t resamples, uint64_t seed, double **out, int64_t *count,
                                lt_err *err)
{
    if (resamples < 2)
        return lt_fail(err, LT_ERR_USAGE, "a bootstrap needs at least 2 resamples, not %lld",
                       (long long)resamples);
    int64_t size = lt_min_i64(CHUNK, resamples), chunks = resamples / size;
    size_t bytes = 0;
    *out = NULL;
    *count = chunks * size;
    if (lt_mul_size((size_t)*count, sizeof **out, &bytes)) *out = malloc(bytes);
    if (!*out) return lt_fail_nomem(err, bytes, "the resamples of a bootstrap");
    double *results = *out;
#pragma omp parallel for schedule(dynamic)
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        lt_python_random random;
        lt_python_random_seed(&random, seed + (uint64_t)chunk);
        for (int64_t i = chunk * size; i < (chunk + 1) * size; i++) {
            double of_a, of_b = 0;
            resample(&random, a, b, &of_a, &of_b);
            results[i] = b ? of_b - of_a : of_a;
        }
    }
    return LT_OK;
}

static lt_status bootstrap_deviation(const lt_metric_samples *samples, int64_t resamples,
                                     double *out, lt_err *err)
{
    double *results = NULL;
    int64_t count = 0;
    LT_TRY(draw_resamples(samples, NULL, resamples, 0, &results, &count, err));
    *out = sample_deviation(results, count);
    if (!isfinite(*out)) *out = NAN;
    free(results);
    return LT_OK;
}

lt_status lt_aggregate_stderr(const lt_metric_samples *samples, int64_t resamples, double *out,
                              lt_err *err)
{
    *out = NAN;
    LT_TRY(check_samples(samples, err));
    if (samples->count < 2) return LT_OK;
    if (samples->aggregation != LT_AGGREGATE_MEAN)
        return resamples > 0 ? bootstrap_deviation(samples, resamples, out, err) : LT_OK;
    *out = sample_deviation(samples->values, samples->count) / sqrt((double)samples->count);
    return LT_OK;
}

/* --- Two runs --------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, with straight lines between them. */
static double quantile(const double *sorted, int64_t count, double share)
{
    double place = share * (double)(count - 1);
    int64_t below = (int64_t)place;
    if (below + 1 >= count) return sorted[count - 1];
    return sorted[below] + (place - (double)below) * (sorted[below + 1] - sorted[below]);
}

/* Leaves NaN when a resample has no defined difference (no tokens in any of its samples, say). */
static void read_interval(double *differences, int64_t count, lt_paired_result *out)
{
    int64_t not_above = 0, not_below = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(differences[i])) return;
        not_above += differences[i] <= 0;
        not_below += differences[i] >= 0;
    }
    qsort(differences, (size_t)count, sizeof *differences, compare_doubles);
    out->low = quantile(differences, count, 0.025);
    out->high = quantile(differences, count, 0.975);
    out->p = fmin(1, 2 * (double)lt_min_i64(not_above, not_below) / (double)count);
}

double lt_sample_gain(const lt_metric_samples *a, const lt_metric_samples *b, int64_t index,
                      bool higher_is_better)
{
    double before = from_sums(a->aggregation, a->values + index * a->width, 1);
    double after = from_sums(b->aggregation, b->values + index * b->width, 1);
    if (before == after || isnan(before) || isnan(after)) return 0;
    return higher_is_better ? after - before : before - after;
}

static void count_items(const lt_metric_samples *a, const lt_metric_samples *b,
                        bool higher_is_better, lt_paired_result *out)
{
    for (int64_t i = 0; i < a->count; i++) {
        double gain = lt_sample_gain(a, b, i, higher_is_better);
        out->better += gain > 0;
        out->worse += gain < 0;
        out->equal += gain == 0;
    }
}

lt_status lt_paired_bootstrap(const lt_metric_samples *a, const lt_metric_samples *b,
                              bool higher_is_better, int64_t resamples, uint64_t seed,
                              lt_paired_result *out, lt_err *err)
{
    double *differences = NULL;
    int64_t count = 0;
    *out = (lt_paired_result){.low = NAN, .high = NAN, .p = NAN, .count = a->count};
    if (a->count != b->count || a->width != b->width || a->aggregation != b->aggregation)
        return lt_fail(err, LT_ERR_USAGE,
                       "two runs can only be compared over the same items: %lld and %lld samples",
                       (long long)a->count, (long long)b->count);
    LT_TRY(check_samples(a, err));
    LT_TRY(check_samples(b, err));
    out->a = lt_aggregate(a);
    out->b = lt_aggregate(b);
    out->difference = out->b - out->a;
    count_items(a, b, higher_is_better, out);
    if (a->count < 2) return LT_OK;
    LT_TRY(draw_resamples(a, b, resamples, seed, &differences, &count, err));
    read_interval(differences, count, out);
    free(differences);
    return LT_OK;
}
