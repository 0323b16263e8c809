/* The matrix products of kernels/cuda on the emulated GPU: every layout, tile, number type and
 * epilogue at ragged sizes and strides, against kernels/ref.
 *
 * The number of multiprocessors steers the choice of tile and splits: one makes large tiles cheap,
 * many make small tiles and splits of k cheap. */
#include "tests/emulator/emulated_test.h"

#include "kernels/cuda/matmul.cuh"

extern "C" double lt_ref_f32_activate(lt_activation activation, double x);

struct matmul_case {
    lt_matmul_layout layout;
    int m, n, k, k_extra;
    lt_activation activation;
    bool bias, residual, preactivation, accumulate;
    bool c_f32;       /* where real is bf16 */
    bool b_bf16;      /* where real is f32 */
    bool in_place;    /* c is the residual */
    int gap;          /* unused columns behind every row */
    int offset;       /* and before it: moves the addresses */
    int processors;   /* multiprocessors of the GPU */
    int shared_bytes; /* shared memory of a block; 0: plenty */
};

/* --- Tensors -----------------------------------------------------------------------------------
 */

static lt_tensor matrix(test_run *t, array_use use, lt_dtype dtype, int rows, int columns,
                        const matmul_case *c, bool exact = false)
{
    uint64_t stream = t->arrays.size();
    lt_tensor whole = test_tensor_of(
        t, use, dtype, {rows, columns + c->offset}, c->gap,
        [=](int64_t row, int64_t column) { return test_random(stream, row * 65537 + column); },
        exact);
    return lt_tensor_slice(whole, 1, c->offset, columns);
}

/* Of the matrix made last. f32 sums err by about sqrt(k) 2^-24 times the sum of magnitudes (their
 * mean is 1/4 with numbers in [-1, 1)), bf16 by half a unit in the last place. */
static void set_bound(test_run *t, const matmul_case *c, bool of_activation)
{
    double k = c->k + c->k_extra + 4, sums = sqrt(k) * 0x1p-24 * (k / 2 + 4);
    double relative = t->arrays.back().dtype == LT_BF16 ? 0x1.02p-8 : 0x1p-22;
    /* the activation of a rounded v, and no activation is steeper than 1.2; |v| < 2 sqrt(k) */
    double rounded = 0, steep = 1.2, size = 2 * sqrt(k);
    if (c->activation == LT_ACTIVATION_SWIGLU) steep *= size;
    bool active = of_activation && c->activation != LT_ACTIVATION_NONE;
    if (active && t->real == LT_BF16) rounded = size * 0x1p-8;
    test_tolerance(t, steep * (sums + rounded), relative);
}

/* What the call leaves in a tensor. */
static std::vector<double> numbers(const lt_tensor *tensor)
{
    std::vector<double> all;
    std::vector<unsigned char> row((size_t)tensor->shape[1] * lt_dtype_size(tensor->dtype));
    for (int64_t r = 0; r < tensor->shape[0] && !row.empty(); r++) {
        const char *from = (const char *)tensor->data;
        from += (size_t)(r * tensor->stride[0]) * lt_dtype_size(tensor->dtype);
        cudaMemcpy(row.data(), from, row.size(), cudaMemcpyDefault);
        for (int64_t i = 0; i < tensor->shape[1]; i++)
            all.push_back(test_get(row.data(), tensor->dtype, i));
    }
    return all;
}

/* --- The activation is that of v as it is, or would be, stored ---------------------------------
 */

static void check_from_preactivation(test_run *t, const lt_matmul_args *a,
                                     const std::vector<double> &residual,
                                     const std::vector<double> &before)
{
    bool swiglu = a->activation == LT_ACTIVATION_SWIGLU;
    int64_t n = a->c.shape[1], v_width = a->preactivation.shape[1];
    std::vector<double> v = numbers(&a->preactivation), c = numbers(&a->c);
    double relative = a->c.dtype == LT_BF16 ? 0x1.02p-8 : 0x1p-22;
    for (size_t i = 0; i < c.size(); i++) {
        int64_t at = (int64_t)i / n * v_width + (int64_t)i % n;
        double x = v[at],
               want = lt_ref_f32_activate(swiglu ? LT_ACTIVATION_SILU : a->activation, x);
        if (swiglu) want *= v[at + n];
        double size = fabs(want) + fabs(x) + 1;
        if (a->residual.data) want += residual[i];
        if (a->accumulate) want += before[i];
        if (fabs(c[i] - want) <= relative * fabs(want) + 0x1p-21 * size) continue;
        TEST_FAIL(t, "element %zu is %.9g, but the stored preactivation gives %.9g", i, c[i], want);
        return;
    }
}

/* The bits of c do not depend on whether v is wanted too. */
static void check_without_preactivation(test_run *t, const lt_matmul_args *a,
                                        const std::vector<double> &residual)
{
    lt_matmul_args with = *a;
    lt_err err = {};
    void *memory = nullptr;
    int64_t m = a->c.shape[0], n = a->c.shape[1];
    cudaMalloc(&memory, (size_t)(2 * m * n + 8) * sizeof(float));
    with.c = lt_tensor_2d(memory, t->real, m, n);
    with.preactivation = lt_tensor_2d((float *)memory + (m * n + 3) / 4 * 4, t->real, m, n);
    if (lt_cuda_matmul_native(t->backend, &with, &err) != LT_OK) TEST_FAIL(t, "%s", err.message);
    if (cudaDeviceSynchronize() != cudaSuccess) TEST_FAIL(t, "asynchronous error");
    check_from_preactivation(t, &with, residual, {});
    if (numbers(&with.c) != numbers(&a->c)) TEST_FAIL(t, "other bits with a preactivation");
    cudaFree(memory);
}

/* --- One case ----------------------------------------------------------------------------------
 */

static lt_matmul_args arguments(test_run *t, const matmul_case *c)
{
    bool a_transposed = c->layout == LT_MATMUL_TN, b_transposed = c->layout == LT_MATMUL_NT;
    bool half_b = c->b_bf16 && !a_transposed;
    int v_width = c->activation == LT_ACTIVATION_SWIGLU ? 2 * c->n : c->n;
    lt_matmul_args a = {};
    a.layout = c->layout;
    a.activation = c->activation;
    a.accumulate = c->accumulate;
    a.a = matrix(t, INPUT, t->real, a_transposed ? c->k : c->m, a_transposed ? c->m : c->k, c);
    a.b = matrix(t, INPUT, half_b ? LT_BF16 : t->real, b_transposed ? v_width : c->k,
                 b_transposed ? c->k : v_width, c, half_b);
    if (c->k_extra > 0) {
        a.a_extra = matrix(t, INPUT, t->real, c->m, c->k_extra, c);
        a.b_extra = matrix(t, INPUT, t->real, b_transposed ? v_width : c->k_extra,
                           b_transposed ? c->k_extra : v_width, c);
    }
    if (c->bias) {
        lt_tensor row = matrix(t, INPUT, t->real, 1, v_width, c);
        a.bias = lt_tensor_1d(row.data, row.dtype, v_width);
    }
    if (c->preactivation) {
        a.preactivation = matrix(t, OUTPUT, t->real, c->m, v_width, c);
        set_bound(t, c, false);
    }
    if (c->residual && !c->in_place) a.residual = matrix(t, INPUT, t->real, c->m, c->n, c);
    bool c_is_read = c->accumulate || (c->residual && c->in_place);
    a.c = matrix(t, c_is_read ? INOUT : OUTPUT, c->c_f32 ? LT_F32 : t->real, c->m, c->n, c);
    set_bound(t, c, true);
    if (c->residual && c->in_place) a.residual = a.c;
    return a;
}

static void matmul(test_run *t)
{
    const matmul_case *c = (const matmul_case *)t->parameters;
    lt_matmul_args a = arguments(t, c);
    lt_err err = {};
    if (lt_check_matmul(t->backend, &a, &err) != LT_OK) TEST_FAIL(t, "%s", err.message);
    if (t->reference) {
        t->backend->ops.matmul(t->backend, &a, &err);
        return;
    }
    std::vector<double> residual, before;
    if (a.residual.data) residual = numbers(&a.residual);
    if (a.accumulate) before = numbers(&a.c);
    cuda_of(t->backend)->multiprocessors = c->processors;
    if (c->shared_bytes) cuda_of(t->backend)->shared_per_block = (size_t)c->shared_bytes;
    if (lt_cuda_matmul_native(t->backend, &a, &err) != LT_OK) TEST_FAIL(t, "%s", err.message);
    if (cudaDeviceSynchronize() != cudaSuccess) TEST_FAIL(t, "asynchronous error");
    if (t->failed || a.activation == LT_ACTIVATION_NONE) return;
    bool changed = a.accumulate || a.residual.data == a.c.data; /* c was an input */
    if (a.preactivation.data)
        check_from_preactivation(t, &a, residual, before);
    else if (!changed)
        check_without_preactivation(t, &a, residual);
}

static void run(const matmul_case &c)
{
    static const char *const layouts[] = {"NT", "NN", "TN"};
    static const char *const activations[] = {"none", "gelu", "gelu_tanh", "silu",
                                              "relu", "tanh", "swiglu"};
    char name[256];
    snprintf(name, sizeof name, "%s %dx%dx%d+%d %s%s%s%s%s%s%s%s gap %d offset %d processors %d",
             layouts[c.layout], c.m, c.n, c.k, c.k_extra, activations[c.activation],
             c.bias ? " bias" : "", c.residual ? " residual" : "",
             c.preactivation ? " preactivation" : "", c.accumulate ? " accumulate" : "",
             c.c_f32 ? " c_f32" : "", c.b_bf16 ? " b_bf16" : "", c.in_place ? " in_place" : "",
             c.gap, c.offset, c.processors);
    test_case(name, matmul, &c);
}

/* --- The cases ---------------------------------------------------------------------------------
 */

static matmul_case plain(lt_matmul_layout layout, int m, int n, int k, int processors)
{
    matmul_case c = {};
    c.layout = layout;
    c.m = m;
    c.n = n;
    c.k = k;
    c.processors = processors;
    return c;
}

/* Every tile of every layout, whole and ragged, with room for vectors and without. */
static void run_tiles()
{
    for (lt_matmul_layout layout : {LT_MATMUL_NT, LT_MATMUL_NN, LT_MATMUL_TN}) {
        run(plain(layout, 128, 256, 96, 1)); /* 128 x 256 */
        run(plain(layout, 120, 248, 40, 1));
        run(plain(layout, 128, 128, 160, 1)); /* 128 x 128 */
        run(plain(layout, 248, 120, 72, 1));
        run(plain(layout, 64, 64, 64, 132)); /* 64 x 64 */
        run(plain(layout, 67, 35, 45, 132));
        run(plain(layout, 9, 129, 31, 4));
        run(plain(layout, 1, 1, 1, 4));
        run(plain(layout, 600, 72, 24, 132)); /* more rows of tiles than a group has */
        matmul_case odd = plain(layout, 77, 90, 56, 132);
        odd.gap = 1;
        run(odd);
        odd.gap = 7;
        odd.offset = 1;
        run(odd);
        odd.gap = 0;
        odd.offset = 8;
        run(odd);
        matmul_case small_memory = plain(layout, 128, 256, 40, 1);
        small_memory.shared_bytes = 65536 + 1024;
        run(small_memory);
    }
    matmul_case c = plain(LT_MATMUL_NN, 70, 68, 40, 4);
    c.b_bf16 = true;
    run(c);
    c.n = 67;
    c.layout = LT_MATMUL_NT;
    run(c);
    c.n = 124;
    c.m = 124;
    c.processors = 1;
    run(c);
    c.layout = LT_MATMUL_NN;
    run(c);
}

static void run_empty()
{
    for (lt_matmul_layout layout : {LT_MATMUL_NT, LT_MATMUL_NN, LT_MATMUL_TN}) {
        run(plain(layout, 0, 5, 3, 4));
        run(plain(layout, 5, 0, 3, 4));
        for (int m : {3, 20}) {
            matmul_case c = plain(layout, m, 5, 0, 4);
            run(c);
            c.bias = c.residual = true;
            c.activation = LT_ACTIVATION_SILU;
            run(c);
        }
        matmul_case only_extra = plain(layout, 20, 24, 0, 4);
        only_extra.k_extra = layout == LT_MATMUL_TN ? 0 : 16;
        run(only_extra);
    }
}

/* k in pieces: each with its epilogue in the second kernel. */
static void run_splits()
{
    for (lt_matmul_layout layout : {LT_MATMUL_NT, LT_MATMUL_NN, LT_MATMUL_TN}) {
        matmul_case c = plain(layout, 24, 40, 1504, 132);
        run(c);
        c.n = 35;
        c.k = 1201;
        c.accumulate = c.bias = c.c_f32 = true;
        run(c);
        c.c_f32 = false;
        c.residual = c.preactivation = true;
        c.activation = LT_ACTIVATION_GELU;
        c.k_extra = layout == LT_MATMUL_TN ? 0 : 300;
        run(c);
    }
    run(plain(LT_MATMUL_TN, 128, 128, 4000, 2)); /* of large tiles */
    matmul_case c = plain(LT_MATMUL_NT, 24, 20, 1504, 132);
    c.b_bf16 = true;
    run(c);
    c.activation = LT_ACTIVATION_SWIGLU;
    c.preactivation = c.bias = true;
    c.k_extra = 8;
    run(c);
    c.n = 21;
    run(c);
}

static void run_skinny()
{
    for (int m : {1, 2, 3, 8}) {
        matmul_case c = plain(LT_MATMUL_NT, m, 37, 1096, 4);
        run(c);
        c.processors = 1; /* four columns to a block */
        run(c);
        c.k = 1101; /* rows of 1104 */
        c.gap = 3;
        c.k_extra = 0;
        c.b_bf16 = true;
        c.n = 66;
        c.bias = c.residual = true;
        c.activation = LT_ACTIVATION_RELU;
        run(c);
        c.residual = false;
        c.preactivation = true;
        c.gap = 0;
        c.k = 1040;
        c.k_extra = 16;
        c.activation = LT_ACTIVATION_SWIGLU;
        run(c);
        c.processors = 132;
        c.n = 7;
        run(c);
    }
    matmul_case logits = plain(LT_MATMUL_NT, 4, 61, 264, 4);
    logits.c_f32 = logits.accumulate = true;
    run(logits);
}

/* Everything the epilogue can do, in each tier's tiles. */
static void run_epilogues()
{
    for (int activation = 0; activation <= LT_ACTIVATION_SWIGLU; activation++) {
        for (int flags = 0; flags < 16; flags++) {
            matmul_case c = plain(LT_MATMUL_NT, 66, 40, 40, flags % 3 == 0 ? 1 : 132);
            c.activation = (lt_activation)activation;
            c.bias = flags & 1;
            c.residual = flags & 2;
            c.accumulate = flags & 4;
            c.preactivation = flags & 8;
            c.in_place = activation % 2;
            c.n += flags % 4; /* vectors every fourth time */
            c.k_extra = c.preactivation ? 24 : 0;
            bool swiglu = activation == LT_ACTIVATION_SWIGLU;
            if (swiglu && (c.residual || c.accumulate || !c.preactivation)) continue;
            if (flags % 2 && activation % 3 && !swiglu) continue; /* not all: time */
            if (!swiglu) c.layout = (lt_matmul_layout)((flags + activation) % (c.k_extra ? 2 : 3));
            run(c);
        }
    }
    matmul_case swiglu = plain(LT_MATMUL_NT, 128, 128, 40, 1); /* in the largest tile */
    swiglu.activation = LT_ACTIVATION_SWIGLU;
    swiglu.preactivation = true;
    swiglu.k_extra = 8;
    run(swiglu);
    swiglu.n = 61;
    swiglu.gap = 2;
    run(swiglu);
}

/* Sizes, strides and options at random. */
static void run_random(int cases)
{
    static const int processors[] = {1, 4, 20, 132};
    for (int i = 0; i < cases; i++) {
        auto pick = [i, draw = 0](int below) mutable {
            return (int)((test_random(1000 + (uint64_t)i, draw++) + 1) / 2 * below);
        };
        matmul_case c =
            plain((lt_matmul_layout)pick(3), 1 + pick(pick(3) ? 90 : 300),
                  1 + pick(pick(3) ? 90 : 300), 1 + pick(pick(4) ? 100 : 300), processors[pick(4)]);
        c.bias = pick(2);
        c.accumulate = pick(2);
        c.gap = pick(2) ? pick(9) : 0;
        c.offset = pick(3) ? 0 : pick(9);
        c.c_f32 = pick(4) == 0;
        c.b_bf16 = pick(3) == 0;
        if (!c.c_f32) {
            c.residual = pick(2);
            c.in_place = pick(2);
            c.preactivation = pick(2);
            c.activation = (lt_activation)pick(6);
        }
        bool extra = c.layout != LT_MATMUL_TN && (c.activation == LT_ACTIVATION_NONE ||
                                                  c.preactivation || !(c.residual || c.accumulate));
        if (extra && pick(2)) c.k_extra = 1 + pick(40);
        if (pick(2)) { /* rows on 16 bytes, most of the time */
            c.m = (c.m + 7) / 8 * 8;
            c.n = (c.n + 7) / 8 * 8;
            c.k = (c.k + 7) / 8 * 8;
            c.k_extra = (c.k_extra + 7) / 8 * 8;
            c.gap = pick(2) * 8;
            c.offset = 0;
        }
        run(c);
    }
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    run_tiles();
    run_empty();
    run_splits();
    run_skinny();
    run_epilogues();
    run_random(40);
    return test_end();
}
