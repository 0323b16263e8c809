/* The operations at sizes of real models, which are cheap on a GPU alone (LATHE_GPU_LARGE): many
 * tiles, many blocks, many splits, and arrays of more than 2^31 elements. Without the variable the
 * same cases run small, so that they can be tried anywhere.
 *
 * The reference is the CPU's fastest: kernels/ref would take minutes. */
#include "tests/emulator/emulated_test.h"

static bool large;

static int64_t size(int64_t small_one, int64_t large_one)
{
    return large ? large_one : small_one;
}

/* f32 sums err by about sqrt(terms) 2^-24 times the sum of magnitudes, on both sides. */
static void sum_bound(test_run *t, double terms, double each)
{
    bool half = t->real == LT_BF16 && t->arrays.back().absolute == 0x1p-8;
    test_tolerance(t, each * sqrt(terms) * (0x1p-21 + sqrt(terms) * 0x1p-24 + (half ? 0x1p-9 : 0)),
                   half ? 0x1p-8 : 0x1p-20);
}

/* --- Products --------------------------------------------------------------------------------- */

struct product_case {
    lt_matmul_layout layout;
    int64_t m, n, k;
    bool bias, swiglu;
};

static void product(test_run *t)
{
    const product_case *c = (const product_case *)t->parameters;
    bool a_turned = c->layout == LT_MATMUL_TN, b_turned = c->layout == LT_MATMUL_NT;
    int64_t width = c->swiglu ? 2 * c->n : c->n;
    lt_matmul_args a = {};
    a.layout = c->layout;
    a.a = a_turned ? test_tensor(t, INPUT, t->real, {c->k, c->m})
                   : test_tensor(t, INPUT, t->real, {c->m, c->k});
    a.b = b_turned ? test_tensor(t, INPUT, t->real, {width, c->k})
                   : test_tensor(t, INPUT, t->real, {c->k, width});
    if (c->bias) a.bias = test_tensor(t, INPUT, t->real, {width});
    if (c->swiglu) {
        a.activation = LT_ACTIVATION_SWIGLU;
        a.preactivation = test_tensor(t, OUTPUT, t->real, {c->m, width});
        sum_bound(t, (double)c->k, 2);
    }
    a.c = test_tensor(t, OUTPUT, c->layout == LT_MATMUL_TN ? gradient_dtype(t) : t->real,
                      {c->m, c->n});
    /* SwiGLU of a v that the reference does not round; each factor is a few times sqrt(k) */
    sum_bound(t, (double)c->k, c->swiglu ? 8 * sqrt((double)c->k) : 2);
    TEST_CALL(t, matmul, a);
}

static void run_products()
{
    const product_case cases[] = {
        {LT_MATMUL_NT, size(70, 1024), size(90, 3072), size(40, 768), true, false},
        {LT_MATMUL_NT, size(70, 1000), size(33, 1001), size(45, 3001), true, false},
        {LT_MATMUL_NT, size(60, 777), size(40, 1376), size(40, 1024), false, true},
        {LT_MATMUL_NN, size(70, 1024), size(40, 768), size(96, 3072), false, false},
        {LT_MATMUL_TN, size(48, 768), size(40, 768), size(300, 8192), false, false},
        {LT_MATMUL_TN, size(96, 3072), size(40, 1600), size(64, 1024), false, false},
        {LT_MATMUL_NT, size(3, 8), size(300, 50257), size(64, 1600), false, false},
    };
    for (const product_case &c : cases) {
        char name[120];
        static const char *const layouts[] = {"NT", "NN", "TN"};
        snprintf(name, sizeof name, "large matmul %s %lldx%lldx%lld%s", layouts[c.layout],
                 (long long)c.m, (long long)c.n, (long long)c.k, c.swiglu ? " swiglu" : "");
        test_case(name, product, &c);
    }
}

/* --- Attention -------------------------------------------------------------------------------- */

struct attention_case {
    int64_t batch, length, heads, kv_heads, head_dim;
    bool documents;
};

/* Columns of packed [q | k | v] rows as heads. */
static lt_tensor part(lt_tensor packed, const attention_case *c, int64_t first, int64_t heads)
{
    lt_tensor columns = lt_tensor_slice(packed, 1, first * c->head_dim, heads * c->head_dim);
    return lt_tensor_as_heads(columns, c->batch, heads, c->head_dim);
}

static lt_tensor document_starts(test_run *t, const attention_case *c)
{
    int64_t each = c->length / 3 + 1;
    return test_tensor_of(t, INPUT, LT_I32, {c->batch, c->length}, 0,
                          [=](int64_t, int64_t i) { return (double)(i / each * each); });
}

/* Forward, then backward from what it left: what backward reads is its own device's. */
static void attention(test_run *t)
{
    const attention_case *c = (const attention_case *)t->parameters;
    int64_t rows = c->batch * c->length, all = c->heads + 2 * c->kv_heads;
    lt_attention_backward_args b = {};
    lt_attention_args *a = &b.forward;
    lt_tensor packed = test_tensor(t, INPUT, t->real, {rows, all * c->head_dim});
    a->q = part(packed, c, 0, c->heads);
    a->k = part(packed, c, c->heads, c->kv_heads);
    a->v = part(packed, c, c->heads + c->kv_heads, c->kv_heads);
    a->out = lt_tensor_as_heads(test_tensor(t, OUTPUT, t->real, {rows, c->heads * c->head_dim}),
                                c->batch, c->heads, c->head_dim);
    test_tolerance(t, t->real == LT_BF16 ? 0x1p-7 : 2e-5, t->real == LT_BF16 ? 0x1p-6 : 1e-5);
    a->lse = test_tensor(t, OUTPUT, LT_F32, {c->batch, c->heads, c->length});
    test_tolerance(t, 1e-4, 1e-5);
    if (c->documents) a->first_key = document_starts(t, c);
    a->scale = 1 / sqrt((double)c->head_dim);
    TEST_CALL(t, attention_forward, *a);
    b.dout = lt_tensor_as_heads(test_tensor(t, INPUT, t->real, {rows, c->heads * c->head_dim}),
                                c->batch, c->heads, c->head_dim);
    lt_tensor gradients = test_tensor(t, OUTPUT, t->real, {rows, all * c->head_dim});
    /* the gradient of the first keys and values sums over all queries, with rounded weights */
    double bound = t->real == LT_BF16 ? 0x1p-8 * sqrt((double)c->length) : 1e-4;
    test_tolerance(t, bound, t->real == LT_BF16 ? 0x1p-5 : 1e-4);
    b.dq = part(gradients, c, 0, c->heads);
    b.dk = part(gradients, c, c->heads, c->kv_heads);
    b.dv = part(gradients, c, c->heads + c->kv_heads, c->kv_heads);
    TEST_CALL(t, attention_backward, b);
}

static void run_attention()
{
    const attention_case cases[] = {
        {size(1, 4), size(70, 1024), 2, 2, 64, false}, {size(1, 2), size(70, 1000), 4, 2, 64, true},
        {1, size(70, 2048), 4, 1, 128, false},         {1, size(70, 1023), 2, 2, 80, true},
        {1, size(70, 777), 2, 1, 256, false},
    };
    for (const attention_case &c : cases) {
        char name[120];
        snprintf(name, sizeof name, "large attention %lldx%lld heads %lld/%lld of %lld%s",
                 (long long)c.batch, (long long)c.length, (long long)c.heads, (long long)c.kv_heads,
                 (long long)c.head_dim, c.documents ? " documents" : "");
        test_case(name, attention, &c);
    }
}

/* --- Rows ------------------------------------------------------------------------------------- */

static void cross_entropy(test_run *t)
{
    int64_t rows = size(5, 700), vocab = size(300, 50257);
    lt_cross_entropy_args a = {};
    a.logits = test_tensor(t, INPUT, LT_F32, {rows, vocab});
    a.targets = test_integers(t, rows, vocab);
    a.loss = test_tensor(t, OUTPUT, LT_F32, {rows});
    test_tolerance(t, 1e-4, 1e-5);
    a.correct = test_tensor(t, OUTPUT, LT_I32, {rows});
    a.gradient = test_tensor(t, OUTPUT, t->real, {rows, vocab});
    TEST_CALL(t, cross_entropy, a);
}

static void norm(test_run *t)
{
    int64_t rows = size(7, 3000), dim = size(100, 4096);
    lt_norm_args a = {};
    a.x = test_tensor(t, INPUT, t->real, {rows, dim});
    a.y = test_tensor(t, OUTPUT, t->real, {rows, dim});
    test_tolerance(t, t->real == LT_BF16 ? 0x1p-6 : 1e-5, t->real == LT_BF16 ? 0x1p-7 : 1e-5);
    a.weight = test_tensor(t, INPUT, t->real, {dim});
    a.rstd = test_tensor(t, OUTPUT, LT_F32, {rows});
    a.eps = 1e-5;
    TEST_CALL(t, rms_norm_forward, a);
    lt_norm_backward_args b = {};
    b.x = a.x;
    b.weight = a.weight;
    b.rstd = a.rstd;
    b.dy = test_tensor(t, INPUT, t->real, {rows, dim});
    b.dx = test_tensor(t, OUTPUT, t->real, {rows, dim});
    test_tolerance(t, t->real == LT_BF16 ? 0x1p-6 : 1e-5, t->real == LT_BF16 ? 0x1p-7 : 1e-5);
    b.dweight = test_tensor(t, INOUT, gradient_dtype(t), {dim});
    sum_bound(t, (double)rows, 8);
    TEST_CALL(t, rms_norm_backward, b);
}

/* Each id many times, as in a batch of text. */
static void embedding(test_run *t)
{
    int64_t rows = size(60, 16384), vocab = size(7, 1000), dim = size(40, 768);
    lt_embedding_backward_args a = {};
    a.dy = test_tensor(t, INPUT, t->real, {rows, dim});
    a.ids = test_integers(t, rows, vocab);
    a.dtoken_table = test_tensor(t, INOUT, gradient_dtype(t), {vocab, dim});
    sum_bound(t, (double)rows / (double)vocab + 8, 16);
    TEST_CALL(t, embedding_backward, a);
}

static void sum_squares(test_run *t)
{
    lt_sum_squares_args a = {};
    a.x = test_tensor(t, INPUT, gradient_dtype(t), {size(1000, 5000011)});
    a.result = test_tensor(t, INOUT, LT_F64, {1});
    test_tolerance(t, 1e-9, 1e-10);
    TEST_CALL(t, sum_squares, a);
}

/* --- More than 2^31 elements ------------------------------------------------------------------ */

#define MUST(call)                                                    \
    do {                                                              \
        lt_err must_ = {}, *err = &must_;                             \
        if ((call) != LT_OK) {                                        \
            fprintf(stderr, "FAILED %s: %s\n", #call, must_.message); \
            test_state.failures++;                                    \
        }                                                             \
    } while (0)

/* Converts f32 to bf16, and takes the cross-entropy of logits that end behind element 2^31; the
 * last elements are looked at. */
static void run_huge()
{
    const int64_t vocab = 50257, rows = ((int64_t)1 << 31) / vocab + 9, n = rows * vocab;
    const size_t bytes = (size_t)n * 6 + (size_t)rows * 8;
    size_t available = 0, total = 0;
    float *logits = nullptr;
    uint16_t *rounded = nullptr;
    cudaMemGetInfo(&available, &total);
    if (!large || available < bytes + ((size_t)1 << 30)) {
        fprintf(stderr, "more than 2^31 elements: left out%s\n",
                large ? ", too little memory" : "");
        return;
    }
    const lt_backend *backend = test_emulated_backend(LT_BF16);
    test_state.cases++;
    cudaMalloc((void **)&logits, (size_t)n * 4 + (size_t)rows * 8);
    cudaMalloc((void **)&rounded, (size_t)n * 2);
    cudaMemset(logits, 0, (size_t)n * 4 + (size_t)rows * 8); /* targets too: token 0 */
    cudaMemset(rounded, 0xff, (size_t)n * 2);
    std::vector<float> last((size_t)vocab);
    for (int64_t i = 0; i < vocab; i++)
        last[(size_t)i] = (float)test_random(7, i);
    cudaMemcpy(logits + n - vocab, last.data(), last.size() * 4, cudaMemcpyDefault);

    lt_convert_args convert = {lt_tensor_1d(logits, LT_F32, n), lt_tensor_1d(rounded, LT_BF16, n)};
    MUST(lt_convert(backend, &convert, err));
    lt_cross_entropy_args a = {};
    a.logits = lt_tensor_2d(logits, LT_F32, rows, vocab);
    a.loss = lt_tensor_1d(logits + n, LT_F32, rows);
    a.targets = lt_tensor_1d(logits + n + rows, LT_I32, rows);
    MUST(lt_cross_entropy(backend, &a, err));

    double sum = 0;
    int wrong = 0;
    std::vector<uint16_t> bits((size_t)vocab);
    float losses[2] = {};
    cudaMemcpy(bits.data(), rounded + n - vocab, bits.size() * 2, cudaMemcpyDefault);
    cudaMemcpy(losses, logits + n + rows - 2, sizeof losses, cudaMemcpyDefault);
    for (int64_t i = 0; i < vocab; i++) {
        wrong += bits[(size_t)i] != test_bf16(last[(size_t)i]);
        sum += exp((double)last[(size_t)i]);
    }
    double want[2] = {log((double)vocab), log(sum) - (double)last[0]};
    for (int i = 0; i < 2; i++)
        wrong += !(fabs(losses[i] - want[i]) <= 1e-4);
    if (wrong || cudaDeviceSynchronize() != cudaSuccess) {
        fprintf(stderr, "FAILED more than 2^31 elements: %d are wrong\n", wrong);
        test_state.failures++;
    }
    cudaFree(logits);
    cudaFree(rounded);
}

int main(int argc, char **argv)
{
    lt_backend *cpu = nullptr;
    lt_err err = {};
    test_begin(argc, argv);
    large = getenv("LATHE_GPU_LARGE") != nullptr;
    if (lt_backend_create(nullptr, &cpu, &err) != LT_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    test_state.reference = cpu;
    run_products();
    run_attention();
    test_case("large cross_entropy", cross_entropy, nullptr);
    test_case("large rms_norm", norm, nullptr);
    test_case("large embedding_backward", embedding, nullptr);
    test_case("large sum_squares", sum_squares, nullptr);
    if (!test_state.only) run_huge();
    lt_backend_free(cpu);
    return test_end();
}
