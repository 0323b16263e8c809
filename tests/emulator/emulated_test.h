/* Running one operation on the emulated GPU and comparing with the reference.
 *
 * A test is a function that makes tensors and calls operations:
 *
 *     static void add(test_run *t)
 *     {
 *         lt_tensor a = test_tensor(t, INPUT, t->real, {3, 37}, 2);   two unused columns per row
 *         lt_tensor y = test_tensor(t, OUTPUT, t->real, {3, 37}, 0);
 *         TEST_CALL(t, add, lt_add_args{a, a, y});
 *     }
 *     int main(int argc, char **argv)
 *     {
 *         test_begin(argc, argv);               argv[1]: only cases whose name contains it
 *         test_case("add", add, parameters);    what the test finds in t->parameters
 *         return test_end();
 *     }
 *
 * LATHE_TEST_EVERY=N in the environment: one case in N.
 *
 * test_case runs it for real = f32 and bf16, and for f32 and bf16 gradients when it asks for
 * gradient_dtype(t): first with kernels/ref in f32 on inputs rounded to the device's types, then on
 * the emulator in every order of threads. Each result has to be near the reference (absolute +
 * relative, element by element; test_tolerance sets another bound) and the same bits in every
 * order. Elements that the reference does not write must not be written: outputs start as bytes
 * 0xff, which are NaN, and so do the unused columns. Inputs must stay as they were, and so must the
 * guard bands around all arrays. Scratch memory starts as NaN too. */
#ifndef LT_TESTS_EMULATED_TEST_H
#define LT_TESTS_EMULATED_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/device.cuh"
#ifndef LT_EMULATOR
#include "tests/gpu/hardware.h" /* the same tests on a GPU */
#endif

enum { TEST_GUARD = 256 /* bytes before and after */, TEST_SCRATCH_POISON = 1 << 20 };

enum array_use { INPUT, OUTPUT, INOUT };

/* The value of element (row, column). */
typedef std::function<double(int64_t row, int64_t column)> test_value;

struct test_array {
    unsigned char *data; /* on the device, or the host for the reference; guards around it */
    int64_t count;
    lt_dtype dtype;
    array_use use;
    double absolute, relative;
    std::vector<unsigned char> bytes; /* at first what it starts as; in the end what came out */
};

struct test_run {
    const char *name;
    const void *parameters;
    lt_dtype real, gradient; /* of the device, in the reference run too */
    bool reference, uses_gradient, failed;
    const lt_backend *backend;
    std::vector<test_array> arrays;
};

/* --- Numbers --------------------------------------------------------------------------------- */

static inline double test_get(const void *data, lt_dtype dtype, int64_t i)
{
    switch (dtype) {
    case LT_F32:
        return ((const float *)data)[i];
    case LT_F64:
        return ((const double *)data)[i];
    case LT_BF16:
        return to_float(((const bf16 *)data)[i]);
    case LT_I32:
        return ((const int32_t *)data)[i];
    case LT_U8:
        return ((const uint8_t *)data)[i];
    default: /* f16: as its bits */
        return ((const uint16_t *)data)[i];
    }
}

/* The bits of the nearest bf16; of two, the even one. */
static inline uint16_t test_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline void test_set(void *data, lt_dtype dtype, int64_t i, double x)
{
    switch (dtype) {
    case LT_F32:
        ((float *)data)[i] = (float)x;
        break;
    case LT_F64:
        ((double *)data)[i] = x;
        break;
    case LT_BF16:
        ((uint16_t *)data)[i] = test_bf16((float)x);
        break;
    case LT_I32:
        ((int32_t *)data)[i] = (int32_t)x;
        break;
    case LT_U8:
        ((uint8_t *)data)[i] = (uint8_t)x;
        break;
    default:
        ((uint16_t *)data)[i] = (uint16_t)x;
    }
}

/* The number that `dtype` has nearest to x. */
static inline double test_round(lt_dtype dtype, double x)
{
    uint64_t bits[1] = {0};
    test_set(bits, dtype, 0, x);
    return test_get(bits, dtype, 0);
}

/* Random in [-1, 1); each array of a test gets a stream of its own. */
static inline double test_random(uint64_t stream, int64_t i)
{
    uint64_t h = ((uint64_t)i + (stream << 40) + 1) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 29) * 0xBF58476D1CE4E5B9u;
    return (double)(h >> 40) * 0x1p-23 - 1;
}

/* --- Tensors --------------------------------------------------------------------------------- */

/* Contiguous but for `gap` unused columns after each row. In the reference run bf16 becomes f32
 * that holds bf16 numbers, unless `exact`. */
static inline lt_tensor test_tensor_of(test_run *t, array_use use, lt_dtype dtype,
                                       std::vector<int64_t> shape, int64_t gap, test_value value,
                                       bool exact = false)
{
    bool widened = t->reference && dtype == LT_BF16 && !exact;
    bool half = t->real == LT_BF16 && dtype != LT_F64;
    lt_tensor tensor = {};
    test_array array = {};
    tensor.dtype = array.dtype = widened ? LT_F32 : dtype;
    tensor.ndim = (int)shape.size();
    int64_t columns = shape.back(), stride = columns + gap, rows = 1;
    for (int d = tensor.ndim - 1; d >= 0; d--) {
        tensor.shape[d] = shape[d];
        tensor.stride[d] = d == tensor.ndim - 1 ? 1 : stride;
        if (d < tensor.ndim - 1) stride *= shape[d];
    }
    for (int d = 0; d < tensor.ndim - 1; d++)
        rows *= shape[d];
    array.use = use;
    array.count = rows * (columns + gap);
    array.absolute = array.relative = dtype == LT_BF16 ? 0x1p-8 : half ? 5e-5 : 1e-5;
    array.bytes.assign((size_t)array.count * lt_dtype_size(array.dtype), 0xff);
    for (int64_t i = 0; use != OUTPUT && i < rows * columns; i++)
        test_set(array.bytes.data(), array.dtype, i / columns * (columns + gap) + i % columns,
                 test_round(dtype, value(i / columns, i % columns)));

    std::vector<unsigned char> guarded(array.bytes.size() + 2 * TEST_GUARD, 0xa5);
    if (!array.bytes.empty())
        memcpy(guarded.data() + TEST_GUARD, array.bytes.data(), array.bytes.size());
    void *base = nullptr;
    if (t->reference)
        base = malloc(guarded.size());
    else
        cudaMalloc(&base, guarded.size());
    cudaMemcpy(base, guarded.data(), guarded.size(), cudaMemcpyDefault);
    tensor.data = array.data = (unsigned char *)base + TEST_GUARD;
    t->arrays.push_back(array);
    return tensor;
}

static inline lt_tensor test_tensor(test_run *t, array_use use, lt_dtype dtype,
                                    std::vector<int64_t> shape, int64_t gap = 0)
{
    uint64_t stream = t->arrays.size();
    return test_tensor_of(t, use, dtype, shape, gap, [=](int64_t row, int64_t column) {
        return test_random(stream, row * 65537 + column);
    });
}

/* i32 in [0, bound), one dimension. */
static inline lt_tensor test_integers(test_run *t, int64_t count, int64_t bound)
{
    uint64_t stream = t->arrays.size();
    return test_tensor_of(t, INPUT, LT_I32, {count}, 0, [=](int64_t, int64_t column) {
        return floor((test_random(stream, column) + 1) / 2 * (double)bound);
    });
}

/* Of the tensor made last. */
static inline void test_tolerance(test_run *t, double absolute, double relative)
{
    t->arrays.back().absolute = absolute;
    t->arrays.back().relative = relative;
}

static inline lt_dtype gradient_dtype(test_run *t)
{
    t->uses_gradient = true;
    return t->gradient;
}

/* --- Backends -------------------------------------------------------------------------------- */

extern "C" {
/* Operations that a test does not link are NULL in its table. */
#define LT_WEAK(name, args) extern __typeof__(lt_cuda_##name) lt_cuda_##name __attribute__((weak));
LT_OPERATIONS(LT_WEAK)
#undef LT_WEAK
/* Stands in for that of backend.cu where a test does without it. */
__attribute__((weak)) lt_status lt_cuda_check(cudaError_t error, const char *operation, lt_err *err)
{
    if (error == cudaSuccess) return LT_OK;
    return lt_fail(err, LT_ERR_IO, "%s: %s", operation, cudaGetErrorString(error));
}
}

static inline const lt_backend *test_reference_backend()
{
    static lt_backend backend;
    backend.name = "reference";
    backend.real = backend.statistics = LT_F32;
    lt_ref_f32_fill(&backend.ops);
    return &backend;
}

/* A GPU with so few multiprocessors that persistent grids go round more than once. */
static inline const lt_backend *test_emulated_backend(lt_dtype real)
{
    static lt_cuda state;
    static lt_backend backend;
    if (!state.scratch) cudaMalloc(&state.scratch, LT_CUDA_SCRATCH);
    cudaMemset(state.scratch, 0xff, TEST_SCRATCH_POISON);
#ifdef LT_EMULATOR
    state.capability = 80;
    state.multiprocessors = 4;
    state.shared_per_block = 163 << 10;
#else
    hardware_describe(&state);
#endif
    backend.name = "emulated";
    backend.device = LT_DEVICE_CUDA;
    backend.real = real;
    backend.statistics = LT_F32;
    backend.state = &state;
#define LT_SET(name, args) backend.ops.name = lt_cuda_##name;
    LT_OPERATIONS(LT_SET)
#undef LT_SET
    return &backend;
}

static struct {
    const char *only;
    int cases, failures;
    int seen, every;
    const lt_backend *reference; /* NULL: kernels/ref */
} test_state;

#define TEST_FAIL(t, ...)                                                    \
    do {                                                                     \
        if (!(t)->failed)                                                    \
            fprintf(stderr, "FAILED %s (real %s, gradient %s): ", (t)->name, \
                    lt_dtype_name((t)->real), lt_dtype_name((t)->gradient)), \
                fprintf(stderr, __VA_ARGS__), fputc('\n', stderr);           \
        (t)->failed = true;                                                  \
    } while (0)

/* Checks the arguments as lt_<operation> would, and runs it. */
#define TEST_CALL(t, operation, ...)                                                     \
    do {                                                                                 \
        lt_err test_err_ = {};                                                           \
        auto test_args_ = __VA_ARGS__;                                                   \
        if (lt_check_##operation((t)->backend, &test_args_, &test_err_) != LT_OK ||      \
            (t)->backend->ops.operation((t)->backend, &test_args_, &test_err_) != LT_OK) \
            TEST_FAIL(t, "%s", test_err_.message);                                       \
    } while (0)

/* --- Running and comparing ---------------------------------------------------------------------
 */

typedef void test_function(test_run *t);

/* Runs the function, then takes the arrays' memory back and looks at guards and inputs. */
static inline void test_execute(test_run *t, test_function *function)
{
    function(t);
    cudaError_t error = t->reference ? cudaSuccess : cudaDeviceSynchronize();
    if (error != cudaSuccess) {
        TEST_FAIL(t, "%s; the GPU is of no use after this", cudaGetErrorString(error));
        exit(1);
    }
    for (size_t a = 0; a < t->arrays.size(); a++) {
        test_array *array = &t->arrays[a];
        size_t bytes = array->bytes.size();
        std::vector<unsigned char> guarded(bytes + 2 * TEST_GUARD);
        cudaMemcpy(guarded.data(), array->data - TEST_GUARD, guarded.size(), cudaMemcpyDefault);
        for (size_t i = 0; i < TEST_GUARD; i++)
            if (guarded[i] != 0xa5 || guarded[TEST_GUARD + bytes + i] != 0xa5)
                TEST_FAIL(t, "array %zu: written outside", a);
        if (t->reference)
            free(array->data - TEST_GUARD);
        else
            cudaFree(array->data - TEST_GUARD);
        guarded.resize(TEST_GUARD + bytes);
        guarded.erase(guarded.begin(), guarded.begin() + TEST_GUARD);
        if (array->use == INPUT && guarded != array->bytes) TEST_FAIL(t, "input %zu changed", a);
        array->bytes = guarded;
    }
}

static inline bool test_untouched(const test_array *array, int64_t i)
{
    size_t size = lt_dtype_size(array->dtype);
    for (size_t b = 0; b < size; b++)
        if (array->bytes[(size_t)i * size + b] != 0xff) return false;
    return true;
}

static inline void test_compare(const test_run *want, test_run *have)
{
    for (size_t a = 0; a < have->arrays.size(); a++) {
        const test_array *w = &want->arrays[a], *h = &have->arrays[a];
        for (int64_t i = 0; h->use != INPUT && i < h->count; i++) {
            double x = test_get(w->bytes.data(), w->dtype, i);
            double y = test_get(h->bytes.data(), h->dtype, i);
            bool same = x == y || (isnan(x) && isnan(y));
            same = same || fabs(x - y) <= h->absolute + h->relative * fabs(x);
            if (same && (test_untouched(w, i) == test_untouched(h, i) || !isnan(y))) continue;
            TEST_FAIL(have, "array %zu, element %lld of %lld is %.9g, expected %.9g", a,
                      (long long)i, (long long)h->count, y, x);
            return;
        }
    }
}

static inline void test_run_types(const char *name, test_function *function, const void *parameters,
                                  lt_dtype real, lt_dtype gradient, bool *uses_gradient)
{
    static const int orders[] = {EMULATOR_FORWARD, EMULATOR_REVERSE, EMULATOR_RANDOM};
    test_run want = {name, parameters, real, gradient, true, false, false, nullptr, {}};
    test_run first = want;
    first.reference = false;
    want.backend = test_state.reference ? test_state.reference : test_reference_backend();
    test_execute(&want, function);
    test_run fresh = first;
    for (int order : orders) {
        test_run have = fresh;
        emulator_set_order(order);
        have.backend = test_emulated_backend(real);
        test_execute(&have, function);
        if (order == orders[0]) {
            if (!have.failed) test_compare(&want, &have);
            first = have;
        }
        for (size_t a = 0; a < have.arrays.size(); a++)
            if (have.arrays[a].bytes != first.arrays[a].bytes)
                TEST_FAIL(&have, "array %zu: other bits in another order of threads", a);
        test_state.failures += have.failed;
        if (have.failed) break;
    }
    test_state.failures += want.failed;
    *uses_gradient = want.uses_gradient;
}

/* The name says what is called with which parameters. */
static inline void test_case(const char *name, test_function *function, const void *parameters)
{
    bool gradients = false;
    if (test_state.only && !strstr(name, test_state.only)) return;
    if (test_state.every > 1 && test_state.seen++ % test_state.every) return;
    test_state.cases++;
    test_run_types(name, function, parameters, LT_F32, LT_F32, &gradients);
    test_run_types(name, function, parameters, LT_BF16, LT_F32, &gradients);
    if (gradients) test_run_types(name, function, parameters, LT_BF16, LT_BF16, &gradients);
}

/* Operations have their pages mapped in again and again, which is most of the time of small ones;
 * nothing here touches device memory from the host. */
static inline void test_begin(int argc, char **argv)
{
    setenv("EMULATOR_PROTECT", "0", 0);
    const char *every = getenv("LATHE_TEST_EVERY");
    test_state.only = argc > 1 ? argv[1] : nullptr;
    test_state.every = every ? atoi(every) : 1;
}

static inline int test_end()
{
    fprintf(stderr, "%d cases, %d failures\n", test_state.cases, test_state.failures);
    return test_state.failures ? 1 : 0;
}

#endif
