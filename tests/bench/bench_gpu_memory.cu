/* Operations that are bound by memory, as a share of what copying reaches. Bytes are those that
 * have to be moved: every input read once, every output written once. */
#include "tests/bench/bench_gpu.cuh"

/* MEASURE(backend, name, bytes, operation, arguments) */
#define MEASURE(b, name, bytes, operation, a)                                          \
    do {                                                                               \
        double seconds_ = bench_seconds(                                               \
            (b)->native, [&] { BENCH_MUST(lt_##operation((b)->native, &(a), err)); }); \
        bench_row("memory", name, "lathe", 1e-9 * (bytes) / seconds_, "GB/s");         \
        bench_row("memory", name, "copy ceiling", 1e-9 * (b)->copy, "GB/s");           \
    } while (0)

static void norms(bench_gpu *b, int64_t rows, int64_t dim)
{
    double tensor = 2.0 * (double)rows * (double)dim, statistics = 4.0 * (double)rows;
    char name[96];
    lt_norm_args a = {};
    a.x = bench_tensor(LT_BF16, rows, dim);
    a.y = bench_tensor(LT_BF16, rows, dim);
    a.weight = bench_vector(LT_BF16, dim);
    a.bias = bench_vector(LT_BF16, dim);
    a.mean = bench_vector(LT_F32, rows);
    a.rstd = bench_vector(LT_F32, rows);
    a.eps = 1e-5;
    snprintf(name, sizeof name, "layer norm forward %lldx%lld", (long long)rows, (long long)dim);
    MEASURE(b, name, 2 * tensor + 2 * statistics, layer_norm_forward, a);
    a.residual = bench_tensor(LT_BF16, rows, dim);
    a.sum = a.residual;
    snprintf(name, sizeof name, "layer norm + residual forward %lldx%lld", (long long)rows,
             (long long)dim);
    MEASURE(b, name, 4 * tensor + 2 * statistics, layer_norm_forward, a);

    lt_norm_backward_args g = {};
    g.x = a.x;
    g.weight = a.weight;
    g.mean = a.mean;
    g.rstd = a.rstd;
    g.dy = a.y;
    g.dx = bench_tensor(LT_BF16, rows, dim);
    g.dweight = bench_vector(LT_F32, dim);
    g.dbias = bench_vector(LT_F32, dim);
    snprintf(name, sizeof name, "layer norm backward %lldx%lld", (long long)rows, (long long)dim);
    MEASURE(b, name, 3 * tensor + 2 * statistics, layer_norm_backward, g);

    a.bias = a.mean = a.residual = a.sum = lt_tensor{};
    g.mean = g.dbias = lt_tensor{};
    snprintf(name, sizeof name, "RMS norm forward %lldx%lld", (long long)rows, (long long)dim);
    MEASURE(b, name, 2 * tensor + statistics, rms_norm_forward, a);
    snprintf(name, sizeof name, "RMS norm backward %lldx%lld", (long long)rows, (long long)dim);
    MEASURE(b, name, 3 * tensor + statistics, rms_norm_backward, g);
    bench_release();
}

static void activations(bench_gpu *b, int64_t rows, int64_t dim)
{
    double tensor = 2.0 * (double)rows * (double)dim;
    char name[96];
    lt_swiglu_args s = {bench_tensor(LT_BF16, rows, 2 * dim), bench_tensor(LT_BF16, rows, dim)};
    lt_swiglu_backward_args g = {s.gate_up, s.y, bench_tensor(LT_BF16, rows, 2 * dim)};
    snprintf(name, sizeof name, "SwiGLU forward %lldx%lld", (long long)rows, (long long)dim);
    MEASURE(b, name, 3 * tensor, swiglu_forward, s);
    snprintf(name, sizeof name, "SwiGLU backward %lldx%lld", (long long)rows, (long long)dim);
    MEASURE(b, name, 5 * tensor, swiglu_backward, g);
    lt_activation_backward_args a = {LT_ACTIVATION_GELU_TANH, s.gate_up, g.dgate_up, g.dgate_up};
    snprintf(name, sizeof name, "GELU backward %lldx%lld", (long long)rows, (long long)(2 * dim));
    MEASURE(b, name, 6 * tensor, activation_backward, a);
    bench_release();
}

/* The gradient is written over the logits, as in training. */
static void cross_entropy(bench_gpu *b, int64_t rows, int64_t vocab)
{
    char name[96];
    lt_cross_entropy_args a = {};
    a.logits = bench_tensor(LT_F32, rows, vocab);
    a.targets = bench_integers(rows, vocab);
    a.loss = bench_vector(LT_F32, rows);
    a.correct = bench_vector(LT_I32, rows);
    snprintf(name, sizeof name, "cross-entropy %lldx%lld", (long long)rows, (long long)vocab);
    MEASURE(b, name, 4.0 * (double)rows * (double)vocab, cross_entropy, a);
    a.gradient = bench_tensor(LT_BF16, rows, vocab);
    snprintf(name, sizeof name, "cross-entropy + gradient %lldx%lld", (long long)rows,
             (long long)vocab);
    MEASURE(b, name, 6.0 * (double)rows * (double)vocab, cross_entropy, a);
    bench_release();
}

/* Master weights and gradient in f32, rounded weights in bf16. Bytes an element: 4 + 4 of the
 * master weight, 4 of the gradient, 2 of the rounded one, and the moments, read and written. */
static void adamw(bench_gpu *b, int64_t n, lt_dtype moments, const char *what)
{
    char name[96];
    lt_adamw_args a = {};
    a.weight = bench_vector(LT_F32, n, 0.02);
    a.rounded = bench_vector(LT_BF16, n);
    a.gradient = bench_vector(LT_F32, n, 1e-3);
    a.m = bench_vector(moments, n, 1e-3);
    a.v = bench_vector(moments, n, 0);
    if (moments == LT_U8) {
        int64_t blocks = (n + LT_QUANTISED_BLOCK - 1) / LT_QUANTISED_BLOCK;
        a.m_scale = bench_vector(LT_F32, blocks, 0);
        a.v_scale = bench_vector(LT_F32, blocks, 0);
    }
    const float one = 1;
    a.scale = bench_vector(LT_F32, 1);
    bench_must(cudaMemcpy(a.scale.data, &one, sizeof one, cudaMemcpyHostToDevice), "memory");
    a.learning_rate = 1e-5;
    a.beta1 = 0.9;
    a.beta2 = 0.95;
    a.epsilon = 1e-8;
    a.weight_decay = 0.1;
    a.step = 10;
    snprintf(name, sizeof name, "AdamW, %s, %lldM", what, (long long)(n / 1000000));
    MEASURE(b, name, (14.0 + 4.0 * (double)lt_dtype_size(moments)) * (double)n, adamw, a);
    lt_sum_squares_args s = {a.gradient, bench_vector(LT_F64, 1)};
    if (moments == LT_F32) MEASURE(b, "norm of the gradient", 4.0 * (double)n, sum_squares, s);
    bench_release();
}

/* Many tokens more than once, as in text. */
static void embeddings(bench_gpu *b, int64_t rows, int64_t vocab, int64_t dim)
{
    double tensor = 2.0 * (double)rows * (double)dim;
    char name[96];
    lt_embedding_args a = {};
    a.y = bench_tensor(LT_BF16, rows, dim);
    a.ids = bench_integers(rows, vocab);
    a.token_table = bench_tensor(LT_BF16, vocab, dim);
    snprintf(name, sizeof name, "embedding forward %lldx%lld", (long long)rows, (long long)dim);
    MEASURE(b, name, 2 * tensor, embedding_forward, a);
    lt_embedding_backward_args g = {};
    g.dy = a.y;
    g.ids = a.ids;
    g.dtoken_table = bench_tensor(LT_F32, vocab, dim);
    /* each row of the table that occurs: read and written in f32 */
    double touched = fmin((double)rows, (double)vocab) * (double)dim * 8;
    snprintf(name, sizeof name, "embedding backward %lldx%lld", (long long)rows, (long long)dim);
    MEASURE(b, name, tensor + touched, embedding_backward, g);
    bench_release();
}

static void rotary(bench_gpu *b, int64_t batch, int64_t length, int64_t heads, int64_t head_dim)
{
    int64_t rows = batch * length;
    char name[96];
    std::vector<int32_t> positions((size_t)rows);
    for (int64_t i = 0; i < rows; i++)
        positions[(size_t)i] = (int32_t)(i % length);
    lt_rotary_args a = {};
    a.x = lt_tensor_as_heads(bench_tensor(LT_BF16, rows, heads * head_dim), batch, heads, head_dim);
    a.positions = bench_vector(LT_I32, rows);
    bench_must(cudaMemcpy(a.positions.data, positions.data(), positions.size() * 4,
                          cudaMemcpyHostToDevice),
               "memory");
    a.cos = bench_tensor(LT_F32, length, head_dim / 2, 0.5);
    a.sin = bench_tensor(LT_F32, length, head_dim / 2, 0.5);
    snprintf(name, sizeof name, "rotary %lldx%lldx%lld", (long long)rows, (long long)heads,
             (long long)head_dim);
    MEASURE(b, name, 4.0 * (double)(rows * heads * head_dim), rotary, a);
    bench_release();
}

void bench_memory(bench_gpu *b)
{
    norms(b, bench_size(65536), bench_size(768));
    norms(b, bench_size(32768), bench_size(1600));
    norms(b, bench_size(16384), bench_size(4096));
    activations(b, bench_size(8192), bench_size(11008));
    cross_entropy(b, bench_size(4096), bench_size(50257));
    adamw(b, bench_size(200000000), LT_F32, "f32 moments");
    adamw(b, bench_size(200000000), LT_BF16, "bf16 moments");
    adamw(b, bench_size(200000000), LT_U8, "8-bit moments");
    embeddings(b, bench_size(65536), bench_size(50257), bench_size(1600));
    rotary(b, 8, bench_size(4096), 32, 128);
}
