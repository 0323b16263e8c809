/* What the benchmarks share: a clock, the best of several runs, and the machine's own peaks,
 * measured in the same process, so that a figure can be read as a share of what is possible. */
#ifndef LT_TESTS_BENCH_H
#define LT_TESTS_BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <omp.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/rng.h"
#include "kernels/kernels.h"

/* On a busy machine: -DBENCH_CLOCK=CLOCK_PROCESS_CPUTIME_ID and --threads 1. */
#ifndef BENCH_CLOCK
#define BENCH_CLOCK CLOCK_MONOTONIC
#endif

static inline double bench_now(void)
{
    struct timespec t;
    clock_gettime(BENCH_CLOCK, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best time of one call, in seconds: runs for about `seconds`, at least three times. The best,
 * since whatever else the machine does only ever makes a run slower. */
#define BENCH_BEST(best, seconds, statement)                                           \
    do {                                                                               \
        double bench_start_ = bench_now();                                             \
        (best) = 1e30;                                                                 \
        for (int bench_i_ = 0; bench_i_ < 3 || bench_now() - bench_start_ < (seconds); \
             bench_i_++) {                                                             \
            double bench_t_ = bench_now();                                             \
            statement;                                                                 \
            bench_t_ = bench_now() - bench_t_;                                         \
            if (bench_t_ < (best)) (best) = bench_t_;                                  \
        }                                                                              \
    } while (0)

static inline void bench_check(lt_status status, const lt_err *err)
{
    if (status == LT_OK) return;
    fprintf(stderr, "%s\n", err->message);
    exit(1);
}

/* Random floats of variance 1, 64-byte aligned. */
static inline float *bench_random(int64_t count, uint64_t stream)
{
    float *x = aligned_alloc(64, ((size_t)count * sizeof *x + 127) / 64 * 64);
    if (!x) exit(1);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)((lt_random_uniform(1, stream, (uint64_t)i) - 0.5) * 3.46);
    return x;
}

/* --- Peaks ----------------------------------------------------------------------------------- */

#define BENCH_FMA_ROUNDS 2000000
#define BENCH_FMA_CHAINS 12

static volatile float bench_sink; /* a result nobody may leave out */

/* Independent chains of multiply-adds that never leave the registers. */
#define BENCH_FMA(name, isa, type, set, fma)                                \
    __attribute__((target(isa), unused)) static void name(void)             \
    {                                                                       \
        type sum[BENCH_FMA_CHAINS], a = set(1.0f), b = set(1e-9f), all = b; \
        for (int i = 0; i < BENCH_FMA_CHAINS; i++)                          \
            sum[i] = set((float)i);                                         \
        for (int64_t r = 0; r < BENCH_FMA_ROUNDS; r++)                      \
            for (int i = 0; i < BENCH_FMA_CHAINS; i++)                      \
                sum[i] = fma(sum[i], a, b);                                 \
        for (int i = 0; i < BENCH_FMA_CHAINS; i++)                          \
            all += sum[i];                                                  \
        bench_sink = all[0];                                                \
    }

#if defined(__x86_64__)
BENCH_FMA(bench_fma_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps)
BENCH_FMA(bench_fma_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps)
#endif

static inline void bench_fma_all(int lanes, int threads)
{
    (void)lanes;
#pragma omp parallel num_threads(threads)
    {
#if defined(__x86_64__)
        if (lanes == 16)
            bench_fma_avx512();
        else
            bench_fma_avx2();
#endif
    }
}

/* f32 multiply-adds of all threads together; 0 where it is not known how to measure. */
static inline double bench_peak_gflops(int threads)
{
    double best;
    int lanes = 0;
#if defined(__x86_64__)
    lanes = __builtin_cpu_supports("avx512f") ? 16 : __builtin_cpu_supports("avx2") ? 8 : 0;
#endif
    if (!lanes) return 0;
    BENCH_BEST(best, 0.3, bench_fma_all(lanes, threads));
    return 2e-9 * lanes * BENCH_FMA_CHAINS * BENCH_FMA_ROUNDS * threads / best;
}

static inline void bench_copy_all(char *to, const char *from, size_t part, int threads)
{
#pragma omp parallel num_threads(threads)
    {
        size_t start = part * (size_t)omp_get_thread_num();
        memcpy(to + start, from + start, part);
    }
}

/* Bytes read plus bytes written by a copy of 128 MB. */
static inline double bench_copy_gbytes(int threads)
{
    size_t bytes = (size_t)128 << 20, part = bytes / (size_t)threads;
    char *from = malloc(bytes), *to = malloc(bytes);
    double best;
    if (!from || !to) exit(1);
    memset(from, 1, bytes);
    memset(to, 1, bytes);
    BENCH_BEST(best, 0.5, bench_copy_all(to, from, part, threads));
    free(from);
    free(to);
    return 2e-9 * (double)(part * (size_t)threads) / best;
}

#endif
