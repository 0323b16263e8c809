/* Speed of the operations other than matmul, in the shapes of GPT-2 124M.
 *
 * For attention: GFLOP/s (the causal half counted) and the share of the measured peak; for the
 * others GB/s (each operand moved once) and the share of the measured copy bandwidth. A result that
 * differs from the reference is marked WRONG.
 *
 *   bench_kernels [--isa NAME] [--threads N] [--quick] */
#include <math.h>

#include "tests/bench/bench.h"

enum { TOKENS = 1024, DIM = 768, HIDDEN = 3072, VOCAB = 50257, HEADS = 12 };

typedef struct bench {
    const lt_backend *backend, *ref;
    double seconds, peak, bandwidth;
} bench;

static lt_tensor matrix(float *x, int64_t rows, int64_t columns)
{
    return lt_tensor_2d(x, LT_F32, rows, columns);
}

static lt_tensor array(float *x, int64_t n)
{
    return lt_tensor_1d(x, LT_F32, n);
}

static bool agree(const float *x, const float *y, int64_t n)
{
    double error = 0, square = 0;
    for (int64_t i = 0; i < n; i++) {
        error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        square += (double)x[i] * (double)x[i];
    }
    return error <= 1e-9 * square + 1e-20;
}

static void report(const bench *b, const char *what, double best, double flop, double bytes,
                   bool right)
{
    printf("%-32s %9.3f ms", what, 1e3 * best);
    if (flop > 0) {
        printf(" %7.1f GFLOP/s", 1e-9 * flop / best);
        if (b->peak > 0) printf(" %5.1f %%", 100e-9 * flop / best / b->peak);
    } else {
        printf(" %7.1f GB/s    %5.1f %% of copy", 1e-9 * bytes / best,
               100e-9 * bytes / best / b->bandwidth);
    }
    printf("%s\n", right ? "" : "  WRONG");
}

/* Runs the operation with the reference and the backend into `out`, compares, and times. */
#define MEASURE(b, what, flop, bytes, out, count, operation, args)                 \
    do {                                                                           \
        lt_err err_ = {0};                                                         \
        double best_;                                                              \
        float *kept_ = malloc((size_t)(count) * sizeof(float));                    \
        if (!kept_) exit(1);                                                       \
        bench_check(lt_##operation((b)->ref, args, &err_), &err_);                 \
        memcpy(kept_, out, (size_t)(count) * sizeof(float));                       \
        bench_check(lt_##operation((b)->backend, args, &err_), &err_);             \
        bool right_ = agree(kept_, out, count);                                    \
        BENCH_BEST(best_, (b)->seconds,                                            \
                   bench_check(lt_##operation((b)->backend, args, &err_), &err_)); \
        report(b, what, best_, flop, bytes, right_);                               \
        free(kept_);                                                               \
    } while (0)

/* Sequences of `length` tokens in documents of equal length, each behind `prefix` keys. */
typedef struct attention_bench {
    const char *what;
    int64_t batch, length, documents, prefix;
} attention_bench;

static void measure_attention(const bench *b, const attention_bench *x)
{
    int64_t keys = x->length + x->prefix, rows = x->batch * keys, head_dim = DIM / HEADS;
    int64_t tokens = x->batch * x->length, out = tokens * DIM, document = x->length / x->documents;
    float *qkv = bench_random(rows * 3 * DIM, 1), *dqkv = bench_random(rows * 3 * DIM, 2);
    float *o = bench_random(out, 3), *dout = bench_random(out, 4);
    float *lse = bench_random(tokens * HEADS, 5);
    int32_t *first = malloc((size_t)tokens * sizeof *first), *offset = malloc(64 * sizeof *offset);
    lt_tensor parts[6];
    if (!first || !offset) exit(1);
    for (int64_t i = 0; i < tokens; i++)
        first[i] = (int32_t)(x->prefix + i % x->length / document * document);
    for (int64_t i = 0; i < x->batch; i++)
        offset[i] = (int32_t)x->prefix;
    for (int i = 0; i < 6; i++) {
        parts[i] = lt_tensor_slice(matrix(i < 3 ? qkv : dqkv, rows, 3 * DIM), 1, i % 3 * DIM, DIM);
        parts[i] = lt_tensor_as_heads(parts[i], x->batch, HEADS, head_dim);
        if (i % 3 == 0) parts[i] = lt_tensor_slice(parts[i], 1, 0, x->length);
    }
    lt_attention_args f = {.q = parts[0], .k = parts[1], .v = parts[2], .scale = 0.125};
    f.prefix = x->prefix;
    f.offset = lt_tensor_1d(offset, LT_I32, x->batch);
    if (x->documents > 1) f.first_key = lt_tensor_2d(first, LT_I32, x->batch, x->length);
    f.out = lt_tensor_4d(o, LT_F32, x->batch, x->length, HEADS, head_dim);
    f.lse = lt_tensor_3d(lse, LT_F32, x->batch, HEADS, x->length);
    lt_attention_backward_args g = {.forward = f, .dq = parts[3], .dk = parts[4], .dv = parts[5]};
    g.dout = f.out;
    g.dout.data = dout;
    /* causal: half of a document, and the prefix; 2 flop with q and 2 with v, 5 in backward */
    double seen = (double)(tokens * HEADS) * ((double)document / 2 + (double)x->prefix);
    double flop = 4.0 * seen * (double)head_dim;
    char what[64];
    snprintf(what, sizeof what, "attention %s", x->what);
    MEASURE(b, what, flop, 0, o, out, attention_forward, &f);
    snprintf(what, sizeof what, "attention backward %s", x->what);
    MEASURE(b, what, 2.5 * flop, 0, dqkv, rows * 3 * DIM, attention_backward, &g);
    free(qkv);
    free(dqkv);
    free(o);
    free(dout);
    free(lse);
    free(first);
    free(offset);
}

/* One query behind a cache: reads the cache once. */
static void measure_decode(const bench *b)
{
    enum { CACHE = 1024, BATCH = 8 };
    int64_t kv = (int64_t)BATCH * CACHE * DIM;
    float *q = bench_random(BATCH * DIM, 1), *k = bench_random(kv, 2), *v = bench_random(kv, 3);
    float *out = bench_random(BATCH * DIM, 4);
    int32_t offset[BATCH];
    for (int i = 0; i < BATCH; i++)
        offset[i] = CACHE - 1;
    lt_attention_args a = {.q = lt_tensor_4d(q, LT_F32, BATCH, 1, HEADS, DIM / HEADS),
                           .k = lt_tensor_4d(k, LT_F32, BATCH, CACHE, HEADS, DIM / HEADS),
                           .v = lt_tensor_4d(v, LT_F32, BATCH, CACHE, HEADS, DIM / HEADS),
                           .out = lt_tensor_4d(out, LT_F32, BATCH, 1, HEADS, DIM / HEADS),
                           .offset = lt_tensor_1d(offset, LT_I32, BATCH),
                           .scale = 0.125};
    MEASURE(b, "attention decode 8 x 1024", 0, 8.0 * (double)kv, out, BATCH * DIM,
            attention_forward, &a);
    free(q);
    free(k);
    free(v);
    free(out);
}

static void measure_rows(const bench *b)
{
    int64_t n = TOKENS * DIM, wide = TOKENS * HIDDEN;
    float *x = bench_random(wide, 1), *y = bench_random(wide, 2), *z = bench_random(wide, 3);
    float *w = bench_random(DIM, 4), *bias = bench_random(DIM, 5), *mean = bench_random(TOKENS, 6);
    float *rstd = bench_random(TOKENS, 7), *dw = bench_random(DIM, 8);
    lt_norm_args f = {.x = matrix(x, TOKENS, DIM), .y = matrix(y, TOKENS, DIM), .eps = 1e-5};
    f.weight = array(w, DIM);
    f.bias = array(bias, DIM);
    f.mean = array(mean, TOKENS);
    f.rstd = array(rstd, TOKENS);
    MEASURE(b, "layer_norm_forward", 0, 8.0 * (double)n, y, n, layer_norm_forward, &f);
    lt_norm_backward_args g = {.x = f.x, .weight = f.weight, .mean = f.mean, .rstd = f.rstd};
    g.dy = f.y;
    g.dx = matrix(z, TOKENS, DIM);
    g.dweight = g.dbias = array(dw, DIM);
    MEASURE(b, "layer_norm_backward", 0, 12.0 * (double)n, z, n, layer_norm_backward, &g);
    for (int which = LT_ACTIVATION_GELU; which <= LT_ACTIVATION_TANH; which++) {
        static const char *const names[] = {"", "gelu", "gelu_tanh", "silu", "relu", "tanh"};
        char what[64];
        lt_activation_args a = {(lt_activation)which, matrix(x, TOKENS, HIDDEN),
                                matrix(y, TOKENS, HIDDEN)};
        MEASURE(b, names[which], 0, 8.0 * (double)wide, y, wide, activation_forward, &a);
        lt_activation_backward_args d = {a.activation, a.x, a.y, matrix(z, TOKENS, HIDDEN)};
        snprintf(what, sizeof what, "%s backward", names[which]);
        MEASURE(b, what, 0, 12.0 * (double)wide, z, wide, activation_backward, &d);
    }
    lt_swiglu_args s = {matrix(x, TOKENS, HIDDEN), matrix(y, TOKENS, HIDDEN / 2)};
    MEASURE(b, "swiglu", 0, 6.0 * (double)wide, y, wide / 2, swiglu_forward, &s);
    lt_dropout_args drop = {matrix(x, TOKENS, HIDDEN), matrix(y, TOKENS, HIDDEN), {0.1, 1, 2}};
    MEASURE(b, "dropout", 0, 8.0 * (double)wide, y, wide, dropout, &drop);
    lt_add_args add = {matrix(x, TOKENS, HIDDEN), matrix(z, TOKENS, HIDDEN),
                       matrix(y, TOKENS, HIDDEN)};
    MEASURE(b, "add", 0, 12.0 * (double)wide, y, wide, add, &add);
    free(x);
    free(y);
    free(z);
    free(w);
    free(bias);
    free(mean);
    free(rstd);
    free(dw);
}

/* What adapters add: norms of 2304 x 768 with a low-rank update, scaled columns, a prefix in front
 * of the keys. */
static void measure_adapters(const bench *b)
{
    enum { OUT = 3 * DIM, BATCH = 4, PREFIX = 16, ROWS = PREFIX + TOKENS / BATCH };
    int64_t n = TOKENS * DIM, kv = (int64_t)BATCH * ROWS * DIM;
    float *weight = bench_random(OUT * DIM, 1), *down = bench_random(64 * DIM, 2);
    float *up = bench_random(OUT * 64, 3), *norm = bench_random(OUT, 4);
    float *x = bench_random(n, 5), *y = bench_random(n, 6), *z = bench_random(n, 7);
    float *k = bench_random(kv, 8), *v = bench_random(kv, 9);
    int32_t offset[BATCH] = {PREFIX, PREFIX, PREFIX, PREFIX};
    for (int64_t rank = 8; rank <= 64; rank *= 8) {
        char what[64];
        lt_dora_norm_args a = {.weight = matrix(weight, OUT, DIM),
                               .a = matrix(down, rank, DIM),
                               .b = matrix(up, OUT, rank),
                               .norm = array(norm, OUT),
                               .scaling = 0.5};
        snprintf(what, sizeof what, "dora_norm 2304 x 768, rank %lld", (long long)rank);
        MEASURE(b, what, 2.0 * (double)(rank + 1) * OUT * DIM, 0, norm, OUT, dora_norm, &a);
    }
    lt_scale_columns_args s = {
        .x = matrix(x, TOKENS, DIM), .y = matrix(y, TOKENS, DIM), .scale = array(norm, DIM)};
    MEASURE(b, "scale_columns", 0, 8.0 * (double)n, y, n, scale_columns, &s);
    lt_dora_backward_args d = {s.x, matrix(z, TOKENS, DIM), array(norm, DIM), array(down, DIM)};
    lt_err err = {0};
    double best; /* adds to its result: not compared */
    BENCH_BEST(best, b->seconds, bench_check(lt_dora_backward(b->backend, &d, &err), &err));
    report(b, "dora_backward", best, 0, 8.0 * (double)n, true);
    lt_cache_append_args c = {.k = lt_tensor_as_heads(s.x, BATCH, HEADS, DIM / HEADS),
                              .v = lt_tensor_as_heads(s.y, BATCH, HEADS, DIM / HEADS),
                              .k_cache = lt_tensor_4d(k, LT_F32, BATCH, ROWS, HEADS, DIM / HEADS),
                              .v_cache = lt_tensor_4d(v, LT_F32, BATCH, ROWS, HEADS, DIM / HEADS),
                              .offset = lt_tensor_1d(offset, LT_I32, BATCH)};
    MEASURE(b, "cache_append 4 x 256", 0, 16.0 * (double)n, v, kv, cache_append, &c);
    BENCH_BEST(best, b->seconds, bench_check(lt_cache_append(b->ref, &c, &err), &err));
    report(b, "cache_append 4 x 256, reference", best, 0, 16.0 * (double)n, true);
    free(weight);
    free(down);
    free(up);
    free(norm);
    free(x);
    free(y);
    free(z);
    free(k);
    free(v);
}

static void measure_vocabulary(const bench *b)
{
    enum { ROWS = 64 };
    int64_t n = (int64_t)ROWS * VOCAB;
    float *logits = bench_random(n, 1), loss[ROWS];
    int32_t targets[ROWS];
    for (int i = 0; i < ROWS; i++)
        targets[i] = i * 700;
    lt_cross_entropy_args a = {.logits = matrix(logits, ROWS, VOCAB),
                               .targets = lt_tensor_1d(targets, LT_I32, ROWS),
                               .loss = array(loss, ROWS)};
    MEASURE(b, "cross_entropy 64 rows", 0, 4.0 * (double)n, loss, ROWS, cross_entropy, &a);
    a.gradient = a.logits; /* works in place: not compared, the tests do that */
    lt_err err = {0};
    double best;
    BENCH_BEST(best, b->seconds, bench_check(lt_cross_entropy(b->backend, &a, &err), &err));
    report(b, "cross_entropy with gradient", best, 0, 8.0 * (double)n, true);
    free(logits);
}

static void measure_optimizer(const bench *b)
{
    int64_t n = 20000000;
    float *w = bench_random(n, 1), *g = bench_random(n, 2), *m = calloc((size_t)n, sizeof *m);
    float *v = calloc((size_t)n, sizeof *v), scale = 1;
    double sum = 0, best;
    lt_err err = {0};
    lt_adamw_args a = {.weight = array(w, n),
                       .gradient = array(g, n),
                       .m = array(m, n),
                       .v = array(v, n),
                       .scale = array(&scale, 1),
                       .learning_rate = 1e-4,
                       .beta1 = 0.9,
                       .beta2 = 0.999,
                       .epsilon = 1e-8,
                       .step = 5};
    lt_sum_squares_args s = {array(g, n), lt_tensor_1d(&sum, LT_F64, 1)};
    BENCH_BEST(best, b->seconds, bench_check(lt_adamw(b->backend, &a, &err), &err));
    report(b, "adamw 20M parameters", best, 0, 28.0 * (double)n, true);
    BENCH_BEST(best, b->seconds, bench_check(lt_sum_squares(b->backend, &s, &err), &err));
    report(b, "sum_squares 20M", best, 0, 4.0 * (double)n, true);
    free(w);
    free(g);
    free(m);
    free(v);
}

int main(int argc, char **argv)
{
    lt_backend_settings settings = {0}, ref_settings = {.isa = "ref"};
    lt_backend *backend = NULL, *ref = NULL;
    lt_err err = {0};
    bench b = {.seconds = 0.4};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc)
            settings.isa = argv[++i];
        else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
            settings.threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "--quick") == 0)
            b.seconds = 0.05;
        else
            return fprintf(stderr, "usage: bench_kernels [--isa NAME] [--threads N] [--quick]\n"),
                   2;
    }
    bench_check(lt_backend_create(&settings, &backend, &err), &err);
    bench_check(lt_backend_create(&ref_settings, &ref, &err), &err);
    b.backend = backend;
    b.ref = ref;
    b.peak = bench_peak_gflops(backend->threads);
    b.bandwidth = bench_copy_gbytes(backend->threads);
    printf("%s, %d threads: peak %.1f GFLOP/s f32, copy %.1f GB/s\n", backend->name,
           backend->threads, b.peak, b.bandwidth);
    static const attention_bench attention[] = {
        {"4 x 64", 4, 64, 1, 0},      {"4 x 64, prefix 16", 4, 64, 1, 16},
        {"4 x 256", 4, 256, 1, 0},    {"4 x 256, prefix 16", 4, 256, 1, 16},
        {"1 x 1024", 1, 1024, 1, 0},  {"1 x 1024, prefix 16", 1, 1024, 1, 16},
        {"4 in 1024", 1, 1024, 4, 0}, {"4 in 1024, prefix 16", 1, 1024, 4, 16}};
    for (size_t i = 0; i < sizeof attention / sizeof *attention; i++)
        measure_attention(&b, &attention[i]);
    measure_decode(&b);
    measure_rows(&b);
    measure_adapters(&b);
    measure_vocabulary(&b);
    measure_optimizer(&b);
    lt_backend_free(backend);
    lt_backend_free(ref);
    return 0;
}
