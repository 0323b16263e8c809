/* Running one operation on every backend and comparing.
 *
 * A test writes one function that sets up an operation and calls it: inputs come from test_input
 * (random, the same for every backend), outputs from test_output (filled with NaN, so that an
 * element that is not written shows, and so does a gap of a strided tensor that is) and test_inout
 * (random, then updated). All stand between guard bands. test_all_backends runs that function with
 * the reference, then with every instruction set of this machine and 1, 2 and 3 threads, compares
 * what came out, and runs each twice to see identical bits. */
#ifndef LT_TESTS_KERNEL_TEST_H
#define LT_TESTS_KERNEL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernels.h"

/* Under AddressSanitizer the guards can not even be read. */
#if defined(__SANITIZE_ADDRESS__)
#define TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_ASAN 1
#endif
#endif
#ifdef TEST_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, size)   ((void)(p), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(p, size) ((void)(p), (void)(size))
#endif

#define TEST_GUARD      64 /* elements before and after */
#define TEST_ARRAYS     24
#define TEST_NMSE       1e-10
#define TEST_FLOOR      3e-7 /* absolute: inputs are of order 1, and some results cancel to nothing */
#define TEST_GUARD_BITS 0x7fc0beefu /* a NaN that no arithmetic makes */

typedef struct test_array {
    float *data; /* between the guards */
    int64_t count;
    bool compared;
} test_array;

typedef struct test_run {
    const lt_backend *backend;
    const void *parameters;
    test_array arrays[TEST_ARRAYS];
    int count;
} test_run;

static inline float test_guard_value(void)
{
    uint32_t bits = TEST_GUARD_BITS;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float *test_array_add(test_run *t, int64_t count, bool compared)
{
    float *base = malloc((size_t)(count + 2 * TEST_GUARD) * sizeof *base);
    assert_non_null(base);
    assert_true(t->count < TEST_ARRAYS);
    for (int64_t i = 0; i < count + 2 * TEST_GUARD; i++)
        base[i] = test_guard_value();
    ASAN_POISON_MEMORY_REGION(base, TEST_GUARD * sizeof *base);
    ASAN_POISON_MEMORY_REGION(base + TEST_GUARD + count, TEST_GUARD * sizeof *base);
    t->arrays[t->count++] =
        (test_array){.data = base + TEST_GUARD, .count = count, .compared = compared};
    return base + TEST_GUARD;
}

/* Values in [-1, 1): a multiplicative hash of the index, since tests draw very many. */
static inline void test_fill(float *x, int64_t count, uint64_t stream)
{
    for (int64_t i = 0; i < count; i++) {
        uint64_t h = ((uint64_t)i + (stream << 40) + 1) * 0x9E3779B97F4A7C15u;
        h = (h ^ h >> 29) * 0xBF58476D1CE4E5B9u;
        x[i] = (float)((double)(h >> 40) * 0x1p-23 - 1);
    }
}

static inline float *test_input(test_run *t, int64_t count)
{
    float *x = test_array_add(t, count, false);
    test_fill(x, count, (uint64_t)t->count);
    return x;
}

/* The upper halves of such values: bf16. */
static inline uint16_t *test_bf16(test_run *t, int64_t count)
{
    uint16_t *y = (uint16_t *)test_array_add(t, (count + 1) / 2, false);
    for (int64_t i = 0; i < count; i++) {
        float x;
        uint32_t bits;
        test_fill(&x, 1, (uint64_t)(t->count + 100 * i));
        memcpy(&bits, &x, sizeof bits);
        y[i] = (uint16_t)(bits >> 16);
    }
    return y;
}

/* A matrix of weights, with `gap` elements between its rows. */
static inline lt_tensor test_weight(test_run *t, bool bf16, int64_t rows, int64_t columns,
                                    int64_t gap)
{
    int64_t room = rows * (columns + gap);
    void *data = bf16 ? (void *)test_bf16(t, room) : test_input(t, room);
    lt_tensor weight = lt_tensor_2d(data, bf16 ? LT_BF16 : LT_F32, rows, columns);
    weight.stride[0] = columns + gap;
    return weight;
}

static inline float *test_output(test_run *t, int64_t count)
{
    return test_array_add(t, count, true);
}

static inline float *test_inout(test_run *t, int64_t count)
{
    float *x = test_array_add(t, count, true);
    test_fill(x, count, (uint64_t)t->count);
    return x;
}

/* int32 values below `bound`, from the same kind of array. */
static inline int32_t *test_integers(test_run *t, int64_t count, int64_t bound)
{
    int32_t *x = (int32_t *)test_array_add(t, count, false);
    for (int64_t i = 0; i < count; i++)
        x[i] = (int32_t)lt_random_below(8, (uint64_t)t->count, (uint64_t)i, (uint64_t)bound);
    return x;
}

static inline bool test_is_guard(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits == TEST_GUARD_BITS;
}

static inline void test_ok(lt_status status, const lt_err *err)
{
    if (status != LT_OK) fail_msg("%s", err->message);
}

#define TEST_CALL(t, operation, ...)                                                 \
    do {                                                                             \
        lt_err test_err_ = {0};                                                      \
        test_ok(lt_##operation((t)->backend, &__VA_ARGS__, &test_err_), &test_err_); \
    } while (0)

static inline void test_unguard(const test_array *array)
{
    size_t bytes = (size_t)(array->count + 2 * TEST_GUARD) * sizeof(float);
    ASAN_UNPOISON_MEMORY_REGION(array->data - TEST_GUARD, bytes);
}

typedef void test_function(test_run *t);

static inline void test_start(test_run *t, const lt_backend *backend, const void *parameters,
                              test_function *function)
{
    *t = (test_run){.backend = backend, .parameters = parameters};
    function(t);
    for (int a = 0; a < t->count; a++) {
        const test_array *array = &t->arrays[a];
        test_unguard(array);
        for (int64_t g = 0; g < TEST_GUARD; g++)
            if (!test_is_guard(array->data[-1 - g]) ||
                !test_is_guard(array->data[array->count + g]))
                fail_msg("%s: array %d was written outside its %lld elements", backend->name, a,
                         (long long)array->count);
    }
}

static inline void test_end(test_run *t)
{
    for (int a = 0; a < t->count; a++) {
        test_unguard(&t->arrays[a]);
        free(t->arrays[a].data - TEST_GUARD);
    }
}

/* Normalised mean square error over the array, and every element near the reference. */
static inline void test_compare(const test_run *want, const test_run *have, const char *what)
{
    for (int a = 0; a < want->count; a++) {
        const float *w = want->arrays[a].data, *h = have->arrays[a].data;
        int64_t n = want->arrays[a].count;
        double error = 0, square = 0;
        if (!want->arrays[a].compared) {
            if (memcmp(w, h, (size_t)n * sizeof *w) != 0)
                fail_msg("%s: input %d was changed", what, a);
            continue;
        }
        for (int64_t i = 0; i < n; i++)
            if (isfinite(w[i])) square += (double)w[i] * w[i];
        double rms = sqrt(square / (double)(n ? n : 1));
        for (int64_t i = 0; i < n; i++) {
            bool same = w[i] == h[i] ||
                        (isnan(w[i]) && isnan(h[i]) && test_is_guard(w[i]) == test_is_guard(h[i]));
            if (same) continue;
            double d = (double)w[i] - h[i];
            if (!(fabs(d) <= 2e-4 * (fabs((double)w[i]) + rms) + 3 * TEST_FLOOR))
                fail_msg("%s (%s): array %d, element %lld of %lld is %g, expected %g", what,
                         have->backend->name, a, (long long)i, (long long)n, (double)h[i],
                         (double)w[i]);
            error += d * d;
        }
        if (error > TEST_NMSE * square + (double)n * TEST_FLOOR * TEST_FLOOR)
            fail_msg("%s (%s): array %d: NMSE %g", what, have->backend->name, a, error / square);
    }
}

static inline void test_same_bits(const test_run *x, const test_run *y, const char *what)
{
    for (int a = 0; a < x->count; a++)
        if (memcmp(x->arrays[a].data, y->arrays[a].data,
                   (size_t)x->arrays[a].count * sizeof(float)) != 0)
            fail_msg("%s (%s): array %d differs between 1 and %d threads", what, x->backend->name,
                     a, y->backend->threads);
}

static inline lt_backend *test_backend(const char *isa, int threads)
{
    lt_backend_settings settings = {.isa = isa, .threads = threads};
    lt_backend *backend = NULL;
    return lt_backend_create(&settings, &backend, NULL) == LT_OK ? backend : NULL;
}

/* The backends live for the whole program: creating them anew would hide stale scratch memory. */
static inline const lt_backend *test_backend_kept(int isa, int threads)
{
    static const char *const names[] = {"ref", "avx2", "avx512"};
    static lt_backend *backends[3][4];
    static bool tried[3][4];
    if (!tried[isa][threads]) {
        tried[isa][threads] = true;
        backends[isa][threads] = test_backend(names[isa], threads);
        if (!backends[isa][threads])
            print_message("[  SKIPPED ] %s: this machine lacks it\n", names[isa]);
    }
    return backends[isa][threads];
}

static inline void test_all_backends(test_function *function, const void *parameters,
                                     const char *what)
{
    test_run want, one, have;
    test_start(&want, test_backend_kept(0, 1), parameters, function);
    for (int isa = 1; isa < 3; isa++) {
        const lt_backend *backend = test_backend_kept(isa, 1);
        if (!backend) continue;
        test_start(&one, backend, parameters, function);
        test_compare(&want, &one, what);
        for (int threads = 1; threads <= 3; threads++) {
            test_start(&have, test_backend_kept(isa, threads), parameters, function);
            test_same_bits(&one, &have, what);
            test_end(&have);
        }
        test_end(&one);
    }
    test_end(&want);
}

#endif
