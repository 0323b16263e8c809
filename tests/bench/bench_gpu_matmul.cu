/* Matrix products of GPT-2 124M and 1.5B and of a 7B Llama, ours against cuBLAS, and the lines of
 * kernels/cuda/matmul_table.h that follow from that. */
#include "tests/bench/bench_gpu.cuh"

/* A weight [out, in] and how many tokens pass it at a time. */
struct weight_shape {
    const char *name;
    int64_t tokens, out, in;
};

static const weight_shape trained[] = {
    {"124M qkv", 32768, 2304, 768},    {"124M out", 32768, 768, 768},
    {"124M up", 32768, 3072, 768},     {"124M down", 32768, 768, 3072},
    {"124M head", 8192, 50257, 768},   {"1.5B qkv", 8192, 4800, 1600},
    {"1.5B out", 8192, 1600, 1600},    {"1.5B up", 8192, 6400, 1600},
    {"1.5B down", 8192, 1600, 6400},   {"1.5B head", 4096, 50257, 1600},
    {"7B qkv", 4096, 12288, 4096},     {"7B out", 4096, 4096, 4096},
    {"7B gate_up", 4096, 22016, 4096}, {"7B down", 4096, 4096, 11008},
    {"7B head", 4096, 32000, 4096},    {"small", 512, 768, 768},
    {"medium", 2048, 1024, 1024},
};

static const weight_shape decoded[] = {
    {"124M up, 1 row", 1, 3072, 768},   {"124M head, 1 row", 1, 50257, 768},
    {"1.5B up, 1 row", 1, 6400, 1600},  {"7B qkv, 1 row", 1, 12288, 4096},
    {"7B down, 1 row", 1, 4096, 11008}, {"7B qkv, 4 rows", 4, 12288, 4096},
    {"7B qkv, 8 rows", 8, 12288, 4096}, {"7B qkv, 32 rows", 32, 12288, 4096},
};

static const char *const layout_names[] = {"NT", "NN", "TN"};

struct measured {
    lt_matmul_layout layout;
    double multiply_adds, native, cublas; /* seconds */
};
static std::vector<measured> measurements;

static lt_matmul_args arguments(lt_matmul_layout layout, int64_t m, int64_t n, int64_t k)
{
    lt_matmul_args a = {};
    m = bench_size(m), n = bench_size(n), k = bench_size(k);
    a.layout = layout;
    a.a = layout == LT_MATMUL_TN ? bench_tensor(LT_BF16, k, m) : bench_tensor(LT_BF16, m, k);
    a.b = layout == LT_MATMUL_NT ? bench_tensor(LT_BF16, n, k) : bench_tensor(LT_BF16, k, n);
    a.c = bench_tensor(layout == LT_MATMUL_TN ? LT_F32 : LT_BF16, m, n); /* TN: a gradient */
    return a;
}

static double seconds_of(const lt_backend *backend, const lt_matmul_args *a)
{
    return bench_seconds(backend, [&] { BENCH_MUST(lt_matmul(backend, a, err)); });
}

/* In TFLOP/s, or, where reading b is what takes the time, GB/s of it. */
static void measure(bench_gpu *b, const char *what, lt_matmul_layout layout, int64_t m, int64_t n,
                    int64_t k, bool by_bytes)
{
    lt_matmul_args a = arguments(layout, m, n, k);
    measured times = {layout, (double)m * (double)n * (double)k, seconds_of(b->native, &a), 0};
    double work = by_bytes ? 2e-9 * (double)n * (double)k : 2e-12 * times.multiply_adds;
    const char *unit = by_bytes ? "GB/s" : "TFLOP/s";
    char name[128];
    snprintf(name, sizeof name, "%s %s %lldx%lldx%lld", what, layout_names[layout], (long long)m,
             (long long)n, (long long)k);
    bench_row("matmul", name, "lathe", work / times.native, unit);
    if (b->cublas) {
        times.cublas = seconds_of(b->cublas, &a);
        bench_row("matmul", name, "cublas", work / times.cublas, unit);
        measurements.push_back(times);
    }
    if (by_bytes) bench_row("matmul", name, "copy ceiling", b->copy / 1e9, unit);
    bench_release();
}

/* --- The table -------------------------------------------------------------------------------- */

/* Products of a layout of at least `least` multiply-adds go to cuBLAS: seconds of all together. */
static double seconds_with(lt_matmul_layout layout, double least)
{
    double seconds = 0;
    for (const measured &x : measurements)
        if (x.layout == layout) seconds += x.multiply_adds >= least ? x.cublas : x.native;
    return seconds;
}

/* The line for the limit that costs least time; none where native is within 3 % beyond it. */
static void print_rule(const bench_gpu *b, lt_matmul_layout layout)
{
    const double never = 1e300;
    double best = never, ratio = 0, count = 0;
    for (const measured &x : measurements)
        if (x.layout == layout &&
            seconds_with(layout, x.multiply_adds) < seconds_with(layout, best) * (1 - 1e-9))
            best = x.multiply_adds;
    for (const measured &x : measurements) {
        if (x.layout != layout || x.multiply_adds < best) continue;
        ratio += log(x.native / x.cublas);
        count++;
    }
    ratio = count > 0 ? exp(ratio / count) : 0;
    if (ratio <= 1.03) return;
    printf("table\t{%d, LT_MATMUL_%s, %.3e, LT_MATMUL_CUBLAS, %.2f, \"measured\"},\n",
           10 * b->card.major + b->card.minor, layout_names[layout], 0.999 * best, ratio);
}

void bench_matmul(bench_gpu *b)
{
    const lt_matmul_layout layouts[] = {LT_MATMUL_NT, LT_MATMUL_NN, LT_MATMUL_TN};
    for (lt_matmul_layout layout : layouts)
        measure(b, "square", layout, 8192, 8192, 8192, false);
    for (const weight_shape &w : trained) {
        measure(b, w.name, LT_MATMUL_NT, w.tokens, w.out, w.in, false);
        measure(b, w.name, LT_MATMUL_NN, w.tokens, w.in, w.out, false);
        measure(b, w.name, LT_MATMUL_TN, w.out, w.in, w.tokens, false);
    }
    std::vector<measured> large = measurements;
    for (const weight_shape &w : decoded)
        measure(b, w.name, LT_MATMUL_NT, w.tokens, w.out, w.in, true);
    measurements = large; /* decoding is not what the table is about */
    for (lt_matmul_layout layout : layouts)
        if (b->cublas) print_rule(b, layout);
}
