/* cross_entropy, sum_losses, sample_tokens, sum_squares, clip_scale and adamw on the emulated GPU.
 */
#include "tests/emulator/emulated_test.h"

extern "C" {
#include "base/batch.h"
}

template <typename T> static const T *parameters_of(const test_run *t)
{
    return static_cast<const T *>(t->parameters);
}

/* --- Cross-entropy --------------------------------------------------------------------------- */

enum gradient_place { NO_GRADIENT, IN_PLACE, APART };

struct loss_case {
    int64_t rows, vocab, gap, shift; /* shift: elements by which everything is misaligned */
    gradient_place place;
    bool special; /* ties, infinities, NaN */
};

static double special_logit(int64_t row, int64_t column, int64_t vocab, double x)
{
    bool first = column == 0, last = column == vocab - 1, middle = column == vocab / 2;
    switch (row % 8) {
    case 0: /* first and target are largest: the first wins */
        return first || middle ? 50 : x;
    case 1: /* target and last are largest */
        return middle || last ? 50 : x;
    case 2: /* NaN in front: for the reference it stays the largest */
        return first ? NAN : x;
    case 3: /* NaN elsewhere */
        return last ? NAN : middle ? 50 : x;
    case 4: /* the target is NaN */
        return middle ? NAN : x;
    case 5:
        return -INFINITY;
    case 6:
        return last ? INFINITY : x;
    default: /* as good as certain, and most of the row is -inf */
        return middle ? 300 : column % 3 ? -INFINITY : x;
    }
}

/* The gradient in the memory of the logits, which is neither input nor output of the harness. */
static lt_tensor in_place(test_run *t, lt_cross_entropy_args *a, std::vector<float> *host)
{
    const loss_case *c = parameters_of<loss_case>(t);
    int64_t stride = c->vocab + c->gap;
    size_t bytes = host->size() * sizeof(float);
    if (t->reference) {
        a->logits.data = host->data() + c->shift;
        return a->gradient = a->logits;
    }
    void *memory = nullptr;
    cudaMalloc(&memory, bytes);
    cudaMemcpy(memory, host->data(), bytes, cudaMemcpyDefault);
    a->logits.data = (float *)memory + c->shift;
    a->gradient = a->logits;
    a->gradient.dtype = t->real;
    if (t->real == LT_BF16) a->gradient.stride[0] = 2 * stride;
    return a->gradient;
}

static void cross_entropy(test_run *t)
{
    const loss_case *c = parameters_of<loss_case>(t);
    int64_t rows = c->rows, vocab = c->vocab, stride = vocab + c->gap;
    auto logit = [=](int64_t row, int64_t column) {
        double x = 8 * test_random(1, row * 65537 + column);
        return c->special ? special_logit(row, column, vocab, x) : x;
    };
    lt_cross_entropy_args a = {};
    a.targets = test_tensor_of(t, INPUT, LT_I32, {rows}, 0, [=](int64_t, int64_t row) {
        if (row % 9 == 8) return (double)LT_IGNORE;
        if (row % 8 == 2) return 0.0;
        return (double)(c->special ? vocab / 2 : row * 7919 % vocab);
    });
    a.loss = test_tensor(t, OUTPUT, LT_F32, {rows});
    if (c->vocab != 40) a.correct = test_tensor(t, OUTPUT, LT_I32, {rows});
    if (c->place != IN_PLACE) {
        lt_tensor logits = test_tensor_of(t, INPUT, LT_F32, {rows * stride + c->shift}, 0,
                                          [=](int64_t, int64_t i) {
                                              i -= c->shift;
                                              return i < 0 ? 0 : logit(i / stride, i % stride);
                                          });
        a.logits = lt_tensor_2d((float *)logits.data + c->shift, LT_F32, rows, vocab);
        a.logits.stride[0] = stride;
        if (c->place == APART) {
            a.gradient = test_tensor(t, OUTPUT, t->real, {rows, vocab}, c->gap);
            test_tolerance(t, 2e-6, t->real == LT_BF16 ? 0x1p-8 : 5e-6);
        }
        TEST_CALL(t, cross_entropy, a);
        return;
    }
    std::vector<float> host((size_t)(rows * stride + c->shift), 77);
    for (int64_t i = 0; i < rows * vocab; i++)
        host[(size_t)(i / vocab * stride + i % vocab + c->shift)] =
            (float)logit(i / vocab, i % vocab);
    a.logits = lt_tensor_2d(host.data(), LT_F32, rows, vocab);
    a.logits.stride[0] = stride;
    lt_tensor d = in_place(t, &a, &host);
    TEST_CALL(t, cross_entropy, a);
    lt_tensor out = test_tensor(t, OUTPUT, t->real, {rows, vocab});
    test_tolerance(t, 2e-6, t->real == LT_BF16 ? 0x1p-8 : 5e-6);
    size_t size = lt_dtype_size(d.dtype);
    for (int64_t r = 0; r < rows; r++)
        cudaMemcpy((char *)out.data + (size_t)(r * vocab) * size,
                   (char *)d.data + (size_t)(r * d.stride[0]) * size, (size_t)vocab * size,
                   cudaMemcpyDefault);
    if (t->reference) return;
    float gap = 0; /* behind each row nothing was written */
    for (int64_t r = 0; c->gap > 0 && r < rows; r++) {
        cudaMemcpy(&gap, (float *)a.logits.data + r * stride + vocab, sizeof gap,
                   cudaMemcpyDefault);
        if (gap != 77) TEST_FAIL(t, "row %lld was written beyond its end", (long long)r);
    }
    cudaFree((float *)a.logits.data - c->shift);
}

static void test_cross_entropy()
{
    static const loss_case cases[] = {
        {0, 8, 0, 0, APART, false},        {3, 1, 0, 0, IN_PLACE, false},
        {9, 40, 0, 0, NO_GRADIENT, false}, {9, 40, 8, 0, APART, false},
        {9, 40, 8, 0, IN_PLACE, false},    {4, 37, 3, 1, IN_PLACE, false},
        {3, 4096, 0, 0, IN_PLACE, false},  {3, 4104, 0, 0, IN_PLACE, false},
        {2, 9001, 7, 0, IN_PLACE, false},  {2, 9001, 7, 0, APART, false},
        {2, 1500, 4, 3, APART, false},     {3, 12292, 4, 0, IN_PLACE, false},
        {18, 48, 0, 0, APART, true},       {18, 51, 0, 0, IN_PLACE, true},
        {8, 5000, 0, 0, IN_PLACE, true},
    };
    for (const loss_case &c : cases) {
        char name[96];
        snprintf(name, sizeof name, "cross_entropy %lld x %lld + %lld, place %d, special %d",
                 (long long)c.rows, (long long)c.vocab, (long long)c.gap, c.place, c.special);
        test_case(name, cross_entropy, &c);
    }
}

static void sum_losses(test_run *t)
{
    int64_t rows = *parameters_of<int64_t>(t);
    lt_sum_losses_args a = {};
    a.loss = test_tensor(t, INPUT, LT_F32, {rows});
    a.targets = test_tensor_of(t, INPUT, LT_I32, {rows}, 0, [](int64_t, int64_t i) {
        return i % 3 == 1 ? (double)LT_IGNORE : (double)(i % 5);
    });
    a.correct = test_integers(t, rows, 2);
    a.totals = test_tensor(t, INOUT, LT_F64, {3});
    test_tolerance(t, 1e-10, 1e-12);
    TEST_CALL(t, sum_losses, a);
}

/* --- Sampling ----------------------------------------------------------------------------------
 */

struct sample_case {
    int64_t rows, vocab, gap, capacity;
    lt_sampling sampling;
    int kind; /* of the logits */
};

enum { ORDINARY, WITH_TIES, WITH_NAN, ALL_NAN, WITH_INFINITY };

static void sample_tokens(test_run *t)
{
    const sample_case *c = parameters_of<sample_case>(t);
    int64_t rows = c->rows, kept = c->capacity < 40 ? c->capacity : 40;
    lt_sample_tokens_args a = {};
    a.sampling = c->sampling;
    a.logits = test_tensor_of(t, INOUT, LT_F32, {rows, c->vocab}, c->gap,
                              [=](int64_t row, int64_t column) {
                                  double x = 6 * test_random(3, row * 65537 + column);
                                  if (c->kind == WITH_TIES) x = fmin(floor(x / 2), 0);
                                  if (c->kind == WITH_TIES && x == 0)
                                      x = column % 4 < 2 ? -0.0 : 0.0; /* equal */
                                  if (c->kind == WITH_NAN && column % 5 == row % 5) x = NAN;
                                  if (c->kind == WITH_INFINITY && column > c->vocab / 2)
                                      x = INFINITY;
                                  if (c->kind == WITH_INFINITY && row == 1) x = -INFINITY;
                                  return c->kind == ALL_NAN ? NAN : x;
                              });
    test_tolerance(t, INFINITY, 0); /* used up */
    if (kept > 0) {
        a.history = test_tensor_of(t, INPUT, LT_I32, {rows, kept}, 0, [=](int64_t r, int64_t i) {
            if (i % 11 == 5) return (double)(i % 2 ? -1 : c->vocab);
            return (double)((r * 31 + i / 2 * 17) % c->vocab); /* each twice */
        });
        a.history.shape[1] = c->capacity; /* what is counted does not go so far */
    }
    a.history_count = test_integers(t, rows, kept + 1);
    a.sequence = test_integers(t, rows, 100000);
    a.ids = test_tensor(t, OUTPUT, LT_I32, {rows});
    test_tolerance(t, 0, 0);
    TEST_CALL(t, sample_tokens, a);
}

static void test_sampling()
{
    static const lt_sampling settings[] = {
        {0, 0, 0, 0, 0, 1},           {1, 0, 0, 0, 0, 2},        {0.7, 5, 0, 0, 0, 3},
        {1.3, 0, 0.9, 0, 0, 4},       {1, 0, 0.2, 0, 0, 5},      {2, 0, 0, 0.1, 0, 6},
        {1.5, 20, 0.8, 0.02, 1.4, 7}, {0, 0, 0, 0, 2, 8},        {50, 7, 0, 0, 0, 9},
        {50, 0, 0.5, 0, 0, 10},       {1e-45, 0, 0, 0, 0, 11},   {1e-9, 3, 0.5, 0, 0, 12},
        {1, 0, 1e-12, 0, 0, 13},      {1, 1000000, 1, 1, 1, 14}, {3, 40, 0.99, 0, 0.8, 15},
        {1, 0, 0, 1.5, 0, 16},
    };
    static const int64_t shapes[][4] = {
        {4, 50, 3, 20}, {3, 1000, 0, 40}, {3, 1, 0, 0}, {2, 3111, 1, 40}};
    for (const lt_sampling &s : settings) /* one shape for each; the others for some */
        for (int kind = ORDINARY; kind <= WITH_INFINITY; kind++)
            for (int64_t i = 0; i < 4; i++) {
                bool mixed = s.seed == 7, one = i == (int64_t)s.seed % 2;
                const int64_t *shape = shapes[i];
                sample_case c = {shape[0], shape[1], shape[2], shape[3], s, kind};
                if (kind == ORDINARY ? !one && !mixed : i > 0 || (!mixed && s.seed % 4 != 1))
                    continue;
                char name[128];
                snprintf(name, sizeof name, "sample_tokens %lld x %lld, setting %d, logits %d",
                         (long long)c.rows, (long long)c.vocab, (int)s.seed, kind);
                test_case(name, sample_tokens, &c);
            }
    /* histories so long that the scratch memory is enough for two rows only */
    sample_case split = {5, 50, 0, 7000000, {1, 0, 0, 0, 1.9, 3}, ORDINARY};
    test_case("sample_tokens, a launch for each two rows", sample_tokens, &split);
}

/* --- Norms ---------------------------------------------------------------------------------------
 */

struct norm_case {
    int64_t n, shift;
};

static void sum_squares(test_run *t)
{
    const norm_case *c = parameters_of<norm_case>(t);
    lt_tensor x = test_tensor(t, INPUT, gradient_dtype(t), {c->n + c->shift});
    lt_sum_squares_args a = {lt_tensor_slice(x, 0, c->shift, c->n),
                             test_tensor(t, INOUT, LT_F64, {1})};
    test_tolerance(t, 1e-12, 1e-12);
    TEST_CALL(t, sum_squares, a);
}

struct clip_case {
    double squares, gradient_scale, max_norm, loss, tokens; /* tokens -1: absent */
};

static void clip_scale(test_run *t)
{
    const clip_case *c = parameters_of<clip_case>(t);
    lt_clip_scale_args a = {};
    a.sum_squares =
        test_tensor_of(t, INPUT, LT_F64, {1}, 0, [=](int64_t, int64_t) { return c->squares; });
    a.norm = test_tensor(t, OUTPUT, LT_F32, {1});
    test_tolerance(t, 0, 1e-7);
    a.scale = test_tensor(t, OUTPUT, LT_F32, {1});
    test_tolerance(t, 0, 1e-7);
    if (c->loss != 0)
        a.loss =
            test_tensor_of(t, INPUT, LT_F64, {1}, 0, [=](int64_t, int64_t) { return c->loss; });
    if (c->tokens >= 0)
        a.tokens =
            test_tensor_of(t, INPUT, LT_F64, {1}, 0, [=](int64_t, int64_t) { return c->tokens; });
    a.gradient_scale = c->gradient_scale;
    a.max_norm = c->max_norm;
    TEST_CALL(t, clip_scale, a);
}

static void test_norms()
{
    static const norm_case norms[] = {{0, 0},     {1, 0},     {8, 0},     {8, 3},    {1000, 0},
                                      {16384, 0}, {16392, 0}, {50001, 0}, {40000, 1}};
    static const clip_case clips[] = {
        {64, 0.5, 1, 0, -1},    {64, 0.5, 5, 7, -1},       {64, 0.5, 0, 0, -1},
        {0, 0.5, 1, 0, -1},     {INFINITY, 0.5, 1, 0, -1}, {NAN, 0.5, 0, 0, -1},
        {3, 0.125, 0.1, 0, -1}, {64, INFINITY, 0, 0, -1},  {64, 0.5, 1, NAN, -1},
        {64, 9, 1, 0, 2},       {64, 9, 5, 7, 8},          {64, 0.5, 1, 0, 0},
        {0, 0.5, 0, 0, 0}};
    for (const norm_case &c : norms)
        test_case(("sum_squares " + std::to_string(c.n)).c_str(), sum_squares, &c);
    for (const clip_case &c : clips)
        test_case(("clip_scale " + std::to_string(c.squares)).c_str(), clip_scale, &c);
}

/* --- AdamW ---------------------------------------------------------------------------------------
 */

struct adamw_case {
    int64_t n, shift, first_element;
    lt_dtype state;
    bool with_rounded;
    double scale;
};

/* The bits of both moments after the reference's run, which comes first. */
static std::vector<unsigned char> expected_moments;

/* The last bit of an f32 shows in few roundings: the others must be the reference's. */
static void check_moments(test_run *t, const lt_tensor *m, const lt_tensor *v)
{
    size_t size = lt_dtype_size(m->dtype), count = (size_t)m->shape[0], off = 0;
    std::vector<unsigned char> bytes(2 * count * size);
    if (count == 0 || m->dtype == LT_F32) return;
    if (!t->reference) cudaDeviceSynchronize();
    cudaMemcpy(bytes.data(), m->data, count * size, cudaMemcpyDefault);
    cudaMemcpy(bytes.data() + count * size, v->data, count * size, cudaMemcpyDefault);
    if (t->reference) expected_moments = bytes;
    for (size_t i = 0; i < 2 * count; i++)
        off += memcmp(&bytes[i * size], &expected_moments[i * size], size) != 0;
    if (off > 1 + count / 50) TEST_FAIL(t, "%zu of %zu moments differ", off, 2 * count);
}

static lt_tensor moment(test_run *t, const adamw_case *c, bool is_v)
{
    lt_tensor all = test_tensor_of(
        t, INOUT, c->state, {c->n + c->shift}, 0,
        [=](int64_t, int64_t i) {
            double x = test_random(is_v ? 21 : 22, i);
            if (c->state == LT_U8) return is_v ? floor(128 + 127 * x) : floor(129 + 127 * x);
            return is_v ? x * x * 0.01 : x * 0.1;
        },
        true);
    if (c->state == LT_BF16) test_tolerance(t, 1e-30, 0x1p-7);
    if (c->state == LT_U8) test_tolerance(t, 1, 0);
    return lt_tensor_slice(all, 0, c->shift, c->n);
}

static lt_tensor moment_scale(test_run *t, const adamw_case *c, double size)
{
    int64_t blocks = (c->n + LT_QUANTISED_BLOCK - 1) / LT_QUANTISED_BLOCK;
    lt_tensor scales = test_tensor_of(t, INOUT, LT_F32, {blocks}, 0, [=](int64_t, int64_t i) {
        return i == 1 ? 0 : size * (double)(i + 1);
    });
    test_tolerance(t, 0, 1e-5);
    return scales;
}

static void adamw(test_run *t)
{
    const adamw_case *c = parameters_of<adamw_case>(t);
    lt_adamw_args a = {};
    int64_t all = c->n + c->shift;
    lt_tensor weight = test_tensor(t, INOUT, LT_F32, {all});
    test_tolerance(t, 5e-7, 5e-7);
    lt_tensor gradient =
        test_tensor_of(t, INPUT, gradient_dtype(t), {all}, 0, [](int64_t, int64_t i) {
            return i % 97 == 5 ? 0 : test_random(23, i) * pow(10, -(double)(i % 6));
        });
    a.weight = lt_tensor_slice(weight, 0, c->shift, c->n);
    a.gradient = lt_tensor_slice(gradient, 0, c->shift, c->n);
    a.m = moment(t, c, false);
    a.v = moment(t, c, true);
    if (c->state == LT_U8) {
        a.m_scale = moment_scale(t, c, 0.1);
        a.v_scale = moment_scale(t, c, 0.01);
    }
    if (c->with_rounded) {
        lt_tensor rounded = test_tensor_of(
            t, INOUT, LT_BF16, {all}, 0, [](int64_t, int64_t i) { return (double)i; }, true);
        test_tolerance(t, 1e-6, 0x1.1p-8);
        a.rounded = lt_tensor_slice(rounded, 0, c->shift, c->n);
    }
    a.scale = test_tensor_of(t, INPUT, LT_F32, {1}, 0, [=](int64_t, int64_t) { return c->scale; });
    a.learning_rate = 1e-2;
    a.beta1 = 0.9;
    a.beta2 = 0.95;
    a.epsilon = 1e-8;
    a.weight_decay = 0.1;
    a.step = 3;
    a.seed = 0x123456789abcull;
    a.stream = 0xfedcba987654ull;
    a.first_element = c->first_element;
    TEST_CALL(t, adamw, a);
    check_moments(t, &a.m, &a.v);
}

static void test_adamw()
{
    static const lt_dtype states[] = {LT_F32, LT_BF16, LT_U8};
    static const int64_t sizes[][3] = {{0, 0, 0},
                                       {1, 0, 0},
                                       {4, 0, 4},
                                       {255, 0, 0},
                                       {256, 0, 0},
                                       {257, 0, 1},
                                       {1030, 0, (int64_t)1 << 35},
                                       {3000, 0, 0},
                                       {700, 1, 0},
                                       {514, 2, 6},
                                       {2051, 3, ((int64_t)1 << 35) + 3}};
    for (lt_dtype state : states)
        for (const auto &size : sizes)
            for (int flags = 0; flags < 3; flags++) {
                adamw_case c = {size[0], size[1],   size[2],
                                state,   flags > 0, flags < 2 ? 0.25 : size[1] ? NAN : INFINITY};
                if (flags == 2 ? size[0] != 257 && size[0] != 700 : size[0] % 2 != flags) continue;
                char name[96];
                snprintf(name, sizeof name, "adamw %s, %lld + %lld elements, %d",
                         lt_dtype_name(state), (long long)c.n, (long long)c.shift, flags);
                test_case(name, adamw, &c);
            }
}

/* A square above 0 keeps the lowest code, whatever the largest of its block; 0 stays 0. */
static void small_squares(test_run *t)
{
    enum { N = 300 };
    auto zero = [](int64_t, int64_t) { return 0.0; };
    lt_adamw_args a = {};
    a.weight = test_tensor(t, INOUT, LT_F32, {N});
    a.gradient = test_tensor_of(t, INPUT, gradient_dtype(t), {N}, 0, [](int64_t, int64_t i) {
        return i == 7 ? 1 : i < 256 && i % 2 ? 1e-9 : 0;
    });
    a.m = test_tensor_of(t, INOUT, LT_U8, {N}, 0, zero);
    a.v = test_tensor_of(t, INOUT, LT_U8, {N}, 0, zero);
    test_tolerance(t, 0, 0);
    a.m_scale = test_tensor_of(t, INOUT, LT_F32, {2}, 0, zero);
    a.v_scale = test_tensor_of(t, INOUT, LT_F32, {2}, 0, zero);
    a.scale = test_tensor_of(t, INPUT, LT_F32, {1}, 0, [](int64_t, int64_t) { return 1.0; });
    a.learning_rate = 1e-3;
    a.beta1 = 0.9;
    a.beta2 = 0.999;
    a.epsilon = 1e-8;
    a.step = 1;
    TEST_CALL(t, adamw, a);
}

int main(int argc, char **argv)
{
    static const int64_t rows[] = {0, 1, 1024, 3001};
    test_begin(argc, argv);
    test_cross_entropy();
    for (int64_t n : rows)
        test_case(("sum_losses " + std::to_string(n)).c_str(), sum_losses, &n);
    test_sampling();
    test_norms();
    test_adamw();
    test_case("adamw, small squares", small_squares, nullptr);
    return test_end();
}
