/* Speed of the matrix product in the shapes of GPT-2 124M (batch 4 x 64 tokens and 4 x 256),
 * decoding and square, for the three layouts: GFLOP/s and the share of the measured peak; for
 * decoding GB/s of weights and the share of the measured copy bandwidth. Every shape is first
 * compared with the definition on sampled elements.
 *
 *   bench_matmul [--isa NAME] [--threads N] [--quick] */
#include <math.h>

#include "tests/bench/bench.h"

typedef struct shape {
    const char *what;
    int64_t m, n, k;
} shape;

static const shape shapes[] = {
    {"qkv", 256, 2304, 768},           {"attention out", 256, 768, 768},
    {"mlp up", 256, 3072, 768},        {"mlp down", 256, 768, 3072},
    {"head", 256, 50257, 768},         {"qkv, 1024 tokens", 1024, 2304, 768},
    {"mlp up, 1024", 1024, 3072, 768}, {"square", 1024, 1024, 1024},
    {"square, small", 128, 128, 128},  {"square, tiny", 32, 32, 32},
    {"16 rows", 16, 3072, 768},        {"32 rows", 32, 3072, 768},
    {"lora A", 256, 8, 768},           {"lora B", 256, 768, 8},
    {"decode 1", 1, 3072, 768},        {"decode 4", 4, 3072, 768},
    {"decode 8", 8, 3072, 768},        {"decode head 1", 1, 50257, 768},
};

static const char *const layout_names[] = {"NT", "NN", "TN"};

static lt_matmul_args arguments(lt_matmul_layout layout, const shape *s, float *c, float *a,
                                float *b)
{
    bool a_turned = layout == LT_MATMUL_TN, b_turned = layout == LT_MATMUL_NT;
    return (lt_matmul_args){
        .layout = layout,
        .c = lt_tensor_2d(c, LT_F32, s->m, s->n),
        .a = lt_tensor_2d(a, LT_F32, a_turned ? s->k : s->m, a_turned ? s->m : s->k),
        .b = lt_tensor_2d(b, LT_F32, b_turned ? s->n : s->k, b_turned ? s->k : s->n)};
}

/* Largest error on 64 elements, in units of sqrt(k). */
static double sampled_error(const lt_matmul_args *x, const shape *s)
{
    const float *a = x->a.data, *b = x->b.data, *c = x->c.data;
    double worst = 0;
    for (uint64_t t = 0; t < 64; t++) {
        int64_t i = (int64_t)lt_random_below(2, 1, t, (uint64_t)s->m);
        int64_t j = (int64_t)lt_random_below(2, 2, t, (uint64_t)s->n);
        double sum = 0;
        for (int64_t p = 0; p < s->k; p++)
            sum += (double)(x->layout == LT_MATMUL_TN ? a[p * s->m + i] : a[i * s->k + p]) *
                   (double)(x->layout == LT_MATMUL_NT ? b[j * s->k + p] : b[p * s->n + j]);
        worst = fmax(worst, fabs(sum - (double)c[i * s->n + j]) / sqrt((double)s->k));
    }
    return worst;
}

static void measure(const lt_backend *backend, const shape *s, lt_matmul_layout layout,
                    double seconds, double peak, double bandwidth)
{
    float *a = bench_random(s->m * s->k, 1), *b = bench_random(s->n * s->k, 2);
    float *c = bench_random(s->m * s->n, 3);
    lt_matmul_args x = arguments(layout, s, c, a, b);
    lt_err err = {0};
    double best;
    bench_check(lt_matmul(backend, &x, &err), &err);
    double error = sampled_error(&x, s);
    BENCH_BEST(best, seconds, bench_check(lt_matmul(backend, &x, &err), &err));
    double gflops = 2e-9 * (double)s->m * (double)s->n * (double)s->k / best;
    double gbytes = 4e-9 * (double)s->n * (double)s->k / best;
    printf("%-18s %s %5lld %6lld %5lld %9.3f ms %7.1f GFLOP/s", s->what, layout_names[layout],
           (long long)s->m, (long long)s->n, (long long)s->k, 1e3 * best, gflops);
    if (peak > 0) printf(" %5.1f %%", 100 * gflops / peak);
    if (s->m <= 8) printf(" %6.1f GB/s %5.1f %% of copy", gbytes, 100 * gbytes / bandwidth);
    printf("%s\n", error < 1e-5 ? "" : "  WRONG");
    free(a);
    free(b);
    free(c);
}

int main(int argc, char **argv)
{
    lt_backend_settings settings = {0};
    lt_backend *backend = NULL;
    lt_err err = {0};
    double seconds = 0.4;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc)
            settings.isa = argv[++i];
        else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
            settings.threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "--quick") == 0)
            seconds = 0.05;
        else
            return fprintf(stderr, "usage: bench_matmul [--isa NAME] [--threads N] [--quick]\n"), 2;
    }
    bench_check(lt_backend_create(&settings, &backend, &err), &err);
    double peak = bench_peak_gflops(backend->threads);
    double bandwidth = bench_copy_gbytes(backend->threads);
    printf("%s, %d threads: peak %.1f GFLOP/s f32, copy %.1f GB/s\n", backend->name,
           backend->threads, peak, bandwidth);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int layout = LT_MATMUL_NT; layout <= LT_MATMUL_TN; layout++)
            measure(backend, &shapes[i], (lt_matmul_layout)layout, seconds, peak, bandwidth);
    lt_backend_free(backend);
    return 0;
}
