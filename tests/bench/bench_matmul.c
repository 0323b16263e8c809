/* Speed of the matrix product in the shapes of GPT-2 124M (batch 4 x 64 tokens and 4 x 256),
 * decoding and square, for the three layouts: GFLOP/s and the share of the measured peak; for
 * decoding GB/s of weights and the share of the measured copy bandwidth. Then, for NT and NN, with
 * the extra pair (its flop counted, so that the share tells what it costs) and with weights in
 * bf16. Every shape is first compared with the definition on sampled elements.
 *
 *   bench_matmul [--isa NAME] [--threads N] [--quick] */
#include <math.h>

#include "tests/bench/bench.h"

typedef struct shape {
    const char *what;
    int64_t m, n, k, k_extra;
    bool bf16;
} shape;

static const shape shapes[] = {
    {"qkv", 256, 2304, 768, 0, false},
    {"attention out", 256, 768, 768, 0, false},
    {"mlp up", 256, 3072, 768, 0, false},
    {"mlp down", 256, 768, 3072, 0, false},
    {"head", 256, 50257, 768, 0, false},
    {"qkv, 1024 tokens", 1024, 2304, 768, 0, false},
    {"mlp up, 1024", 1024, 3072, 768, 0, false},
    {"square", 1024, 1024, 1024, 0, false},
    {"square, small", 128, 128, 128, 0, false},
    {"square, tiny", 32, 32, 32, 0, false},
    {"16 rows", 16, 3072, 768, 0, false},
    {"32 rows", 32, 3072, 768, 0, false},
    {"lora A", 256, 8, 768, 0, false},
    {"lora B", 256, 768, 8, 0, false},
    {"decode 1", 1, 3072, 768, 0, false},
    {"decode 4", 4, 3072, 768, 0, false},
    {"decode 8", 8, 3072, 768, 0, false},
    {"decode head 1", 1, 50257, 768, 0, false},
    {"decode head 4", 4, 50257, 768, 0, false},
    {"decode head 8", 8, 50257, 768, 0, false},
    {"qkv + 8", 256, 2304, 768, 8, false},
    {"qkv + 16", 256, 2304, 768, 16, false},
    {"qkv + 64", 256, 2304, 768, 64, false},
    {"mlp down + 8", 256, 768, 3072, 8, false},
    {"mlp down + 16", 256, 768, 3072, 16, false},
    {"decode head 1 + 8", 1, 50257, 768, 8, false},
    {"qkv, bf16", 256, 2304, 768, 0, true},
    {"mlp down, bf16", 256, 768, 3072, 0, true},
    {"qkv + 8, bf16", 256, 2304, 768, 8, true},
    {"decode 1, bf16", 1, 3072, 768, 0, true},
    {"decode 4, bf16", 4, 3072, 768, 0, true},
    {"decode 8, bf16", 8, 3072, 768, 0, true},
    {"decode head, bf16", 1, 50257, 768, 0, true},
    {"head 4, bf16", 4, 50257, 768, 0, true},
    {"head 8, bf16", 8, 50257, 768, 0, true},
};

static const char *const layout_names[] = {"NT", "NN", "TN"};

/* [rows, columns], or the other way round. */
static lt_tensor matrix(bool turned, int64_t rows, int64_t columns, uint64_t stream)
{
    int64_t count = rows * columns;
    return lt_tensor_2d(bench_random(count, stream), LT_F32, turned ? columns : rows,
                        turned ? rows : columns);
}

/* The upper halves of f32, in a tensor of its own; frees x. */
static lt_tensor to_bf16(const lt_backend *backend, lt_tensor x)
{
    lt_err err = {0};
    lt_tensor y = lt_tensor_2d(aligned_alloc(64, ((size_t)lt_tensor_count(x) * 2 + 127) / 64 * 64),
                               LT_BF16, x.shape[0], x.shape[1]);
    lt_convert_args convert = {x, y};
    if (!y.data) exit(1);
    bench_check(lt_convert(backend, &convert, &err), &err);
    free(x.data);
    return y;
}

static lt_matmul_args arguments(const lt_backend *backend, lt_matmul_layout layout, const shape *s)
{
    bool a_turned = layout == LT_MATMUL_TN, b_turned = layout == LT_MATMUL_NT;
    lt_matmul_args x = {.layout = layout,
                        .c = matrix(false, s->m, s->n, 3),
                        .a = matrix(a_turned, s->m, s->k, 1),
                        .b = matrix(b_turned, s->k, s->n, 2)};
    if (s->bf16) x.b = to_bf16(backend, x.b);
    if (s->k_extra == 0) return x;
    x.a_extra = matrix(a_turned, s->m, s->k_extra, 4);
    x.b_extra = matrix(b_turned, s->k_extra, s->n, 5);
    return x;
}

static double weight_at(const lt_tensor *t, int64_t i)
{
    if (t->dtype == LT_F32) return (double)((const float *)t->data)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)t->data)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

/* Element (i, j) of one product as it is defined. */
static double defined(lt_matmul_layout layout, const lt_tensor *a, const lt_tensor *b, int64_t k,
                      int64_t i, int64_t j)
{
    bool a_turned = layout == LT_MATMUL_TN, b_turned = layout == LT_MATMUL_NT;
    double sum = 0;
    for (int64_t p = 0; p < k; p++)
        sum += weight_at(a, a_turned ? p * a->stride[0] + i : i * a->stride[0] + p) *
               weight_at(b, b_turned ? j * b->stride[0] + p : p * b->stride[0] + j);
    return sum;
}

/* Largest error on 64 elements, in units of sqrt(k). */
static double sampled_error(const lt_matmul_args *x, const shape *s)
{
    const float *c = x->c.data;
    double worst = 0;
    for (uint64_t t = 0; t < 64; t++) {
        int64_t i = (int64_t)lt_random_below(2, 1, t, (uint64_t)s->m);
        int64_t j = (int64_t)lt_random_below(2, 2, t, (uint64_t)s->n);
        double sum = defined(x->layout, &x->a, &x->b, s->k, i, j) +
                     defined(x->layout, &x->a_extra, &x->b_extra, s->k_extra, i, j);
        worst = fmax(worst, fabs(sum - (double)c[i * s->n + j]) / sqrt((double)s->k));
    }
    return worst;
}

static void measure(const lt_backend *backend, const shape *s, lt_matmul_layout layout,
                    double seconds, double peak, double bandwidth)
{
    lt_matmul_args x = arguments(backend, layout, s);
    lt_tensor *tensors[] = {&x.a, &x.b, &x.c, &x.a_extra, &x.b_extra};
    lt_err err = {0};
    double best, k = (double)(s->k + s->k_extra);
    bench_check(lt_matmul(backend, &x, &err), &err);
    double error = sampled_error(&x, s);
    BENCH_BEST(best, seconds, bench_check(lt_matmul(backend, &x, &err), &err));
    double gflops = 2e-9 * (double)s->m * (double)s->n * k / best;
    double gbytes = 1e-9 * (double)lt_dtype_size(x.b.dtype) * (double)s->n * (double)s->k / best;
    printf("%-18s %s %5lld %6lld %5.0f %9.3f ms %7.1f GFLOP/s", s->what, layout_names[layout],
           (long long)s->m, (long long)s->n, k, 1e3 * best, gflops);
    if (peak > 0) printf(" %5.1f %%", 100 * gflops / peak);
    if (s->m <= 8) printf(" %6.1f GB/s %5.1f %% of copy", gbytes, 100 * gbytes / bandwidth);
    printf("%s\n", error < 1e-5 ? "" : "  WRONG");
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        free(tensors[i]->data);
}

/* The extra pair and bf16 are for NT and NN alone. */
static lt_matmul_layout last_layout(const shape *s)
{
    return s->k_extra || s->bf16 ? LT_MATMUL_NN : LT_MATMUL_TN;
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
        for (int layout = LT_MATMUL_NT; layout <= (int)last_layout(&shapes[i]); layout++)
            measure(backend, &shapes[i], (lt_matmul_layout)layout, seconds, peak, bandwidth);
    lt_backend_free(backend);
    return 0;
}
