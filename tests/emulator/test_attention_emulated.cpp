/* Attention of kernels/cuda on the emulated GPU, against kernels/ref: every way to limit what a
 * query sees, head sizes with and without padding, strides with and without vector loads, dropout,
 * NaNs in and behind what is seen; forward, backward and decoding. */
#include "tests/emulator/emulated_test.h"

enum offsets {
    NO_OFFSET,
    BEHIND_CACHE,
    BEFORE_ALL
};                                      /* keys seen: j <= i; + kv - q; none at first */
enum layout { APART, PACKED, SHIFTED }; /* q, k, v in one row each; one row; that, unaligned */
enum special {
    NOTHING,
    UNSEEN_NAN, /* keys and values that no query sees are NaN */
    NAN_Q,      /* one of the last query, which sees all keys */
    NAN_K,      /* one of the first key, which every query sees */
    NAN_V,
    SHARED_KEYS,  /* one batch of keys and values for all: batch stride 0; forward only */
    FORWARD_ONLY, /* for long decoding */
    NO_LSE,       /* forward only */
};

struct attention_case {
    const char *what;
    int64_t batch, q_len, kv_len, heads, kv_heads, head_dim, window;
    double scale, rate;
    offsets offset;
    int documents; /* first_key from so many documents; -1: anywhere, even behind the query */
    layout how;
    int64_t prefix;
    special extra;
};

static int64_t position_of(const attention_case *p, int64_t b, int64_t i)
{
    if (p->offset == BEHIND_CACHE) return p->kv_len - p->q_len - b % 2 + i;
    return p->offset == BEFORE_ALL ? i - 3 : i;
}

static int64_t first_key_of_case(const attention_case *p, int64_t b, int64_t i)
{
    int64_t place = position_of(p, b, i) - p->prefix;
    if (p->documents == 0) return p->prefix;
    if (p->documents < 0) return p->prefix + i * 7 % (p->kv_len - p->prefix);
    int64_t length = (p->kv_len - p->prefix) / p->documents + 1;
    return p->prefix + (place < 0 ? 0 : place / length * length);
}

static bool is_seen(const attention_case *p, int64_t b, int64_t j)
{
    for (int64_t i = 0; i < p->q_len; i++) {
        int64_t at = position_of(p, b, i), first = first_key_of_case(p, b, i);
        int64_t key = j < p->prefix ? j + first - p->prefix : j; /* as if right before document */
        bool below = key <= at && (p->window == 0 || key > at - p->window);
        if (below && (j < p->prefix || j >= first)) return true;
    }
    return false;
}

/* --- Tensors -----------------------------------------------------------------------------------
 */

enum part { Q, K, V };

/* Random, but for what the case wants to be NaN. */
static double element(const attention_case *p, uint64_t stream, part of, int64_t b, int64_t row,
                      int64_t column)
{
    bool key = of != Q;
    if (p->extra == UNSEEN_NAN && key && !is_seen(p, b, row)) return NAN;
    if (p->extra == NAN_Q && of == Q && row == p->q_len - 1 && column == 2) return NAN;
    if (p->extra == NAN_K && of == K && row == 0 && column == 2) return NAN;
    if (p->extra == NAN_V && of == V && row == 0 && column == 2) return NAN;
    return test_random(stream, (b * 4096 + row) * 65537 + 4099 * of + column);
}

/* [batch, len, heads, d] of `width` columns from `first` on of a matrix. */
static lt_tensor heads_of(lt_tensor all, int64_t first, int64_t batch, int64_t heads, int64_t d,
                          int64_t len)
{
    lt_tensor t = lt_tensor_as_heads(lt_tensor_slice(all, 1, first, heads * d), batch, heads, d);
    return lt_tensor_slice(t, 1, 0, len);
}

static lt_tensor alone(test_run *t, array_use use, part of, int64_t batch, int64_t len,
                       int64_t heads)
{
    const attention_case *p = (const attention_case *)t->parameters;
    uint64_t stream = t->arrays.size();
    lt_tensor x = test_tensor_of(t, use, t->real, {batch * len, heads * p->head_dim}, 0,
                                 [=](int64_t row, int64_t column) {
                                     return element(p, stream, of, row / len, row % len, column);
                                 });
    return heads_of(x, 0, batch, heads, p->head_dim, len);
}

static void tolerances(test_run *t, double absolute)
{
    if (t->real == LT_BF16) test_tolerance(t, absolute, 0x1p-8);
}

/* q, k, v; or gradients of them, each with its tolerance. Returns nothing more than views. */
static void make_qkv(test_run *t, array_use use, lt_tensor *q, lt_tensor *k, lt_tensor *v,
                     double dq_error, double dk_error, double dv_error)
{
    const attention_case *p = (const attention_case *)t->parameters;
    int64_t d = p->head_dim, q_width = p->heads * d, kv_width = p->kv_heads * d;
    if (p->how == APART) {
        int64_t batch = p->extra == SHARED_KEYS ? 1 : p->batch;
        *q = alone(t, use, Q, p->batch, p->q_len, p->heads);
        tolerances(t, dq_error);
        *k = alone(t, use, K, batch, p->kv_len, p->kv_heads);
        tolerances(t, dk_error);
        *v = alone(t, use, V, batch, p->kv_len, p->kv_heads);
        tolerances(t, dv_error);
        if (p->extra != SHARED_KEYS) return;
        k->shape[0] = v->shape[0] = p->batch;
        k->stride[0] = v->stride[0] = 0;
        return;
    }
    int64_t shift = p->how == SHIFTED, width = q_width + 2 * kv_width;
    int64_t rows = p->q_len > p->kv_len ? p->q_len : p->kv_len;
    uint64_t stream = t->arrays.size();
    lt_tensor all = test_tensor_of(
        t, use, t->real, {p->batch * rows, width + shift}, p->how == SHIFTED ? 3 : 8,
        [=](int64_t row, int64_t column) {
            part of = column < shift + q_width ? Q : column < shift + q_width + kv_width ? K : V;
            int64_t first = shift + (of == Q ? 0 : of == K ? q_width : q_width + kv_width);
            return element(p, stream, of, row / rows, row % rows, column - first);
        });
    tolerances(t, fmax(dq_error, fmax(dk_error, dv_error)));
    *q = heads_of(all, shift, p->batch, p->heads, d, p->q_len);
    *k = heads_of(all, shift + q_width, p->batch, p->kv_heads, d, p->kv_len);
    *v = heads_of(all, shift + q_width + kv_width, p->batch, p->kv_heads, d, p->kv_len);
}

/* bf16: weights of the values are rounded, each by up to 2^-8 of it, and so is the result; where
 * few queries are decoded, only the result. */
static lt_attention_args arguments(test_run *t)
{
    const attention_case *p = (const attention_case *)t->parameters;
    lt_attention_args a = {};
    a.window = p->window;
    a.prefix = p->prefix;
    a.scale = p->scale;
    a.dropout = {p->rate, 3, 4};
    make_qkv(t, INPUT, &a.q, &a.k, &a.v, 0, 0, 0);
    a.out = test_tensor(t, OUTPUT, t->real, {p->batch, p->q_len, p->heads, p->head_dim},
                        p->how == PACKED ? 8 : 0);
    bool decoding = p->q_len <= 8 && p->rate == 0;
    tolerances(t, decoding ? 1e-5 : 0x1p-8 / (1 - p->rate));
    if (p->extra != NO_LSE) a.lse = test_tensor(t, OUTPUT, LT_F32, {p->batch, p->heads, p->q_len});
    if (p->extra != NO_LSE) test_tolerance(t, 1e-5, 2e-6);
    if (p->offset != NO_OFFSET)
        a.offset = test_tensor_of(t, INPUT, LT_I32, {p->batch}, 0,
                                  [=](int64_t, int64_t b) { return position_of(p, b, 0); });
    if (p->documents)
        a.first_key =
            test_tensor_of(t, INPUT, LT_I32, {p->batch, p->q_len}, 0,
                           [=](int64_t b, int64_t i) { return first_key_of_case(p, b, i); });
    return a;
}

static void forward(test_run *t)
{
    lt_attention_args a = arguments(t);
    TEST_CALL(t, attention_forward, a);
}

/* Errors in bf16 are relative to what is summed: p |dout| <= sum of p, which over the queries of a
 * key is about log(q_len) per head; ds of size p sqrt(head_dim). */
static void backward(test_run *t)
{
    const attention_case *p = (const attention_case *)t->parameters;
    double unit = 0x1p-9 / (1 - p->rate);
    double keys = (double)(p->heads / p->kv_heads) * (1 + log((double)p->q_len + 1));
    double slope = p->scale * sqrt((double)p->head_dim);
    lt_attention_args a = arguments(t);
    lt_attention_backward_args x = {};
    x.forward = a;
    x.dout = test_tensor(t, INPUT, t->real, {p->batch, p->q_len, p->heads, p->head_dim},
                         p->how == PACKED ? 8 : 0);
    make_qkv(t, OUTPUT, &x.dq, &x.dk, &x.dv, unit * slope, unit * slope * keys, unit * keys);
    TEST_CALL(t, attention_forward, a);
    TEST_CALL(t, attention_backward, x);
}

static const attention_case cases[] = {
    {"one of each", 1, 1, 1, 1, 1, 1, 0, 1, 0, NO_OFFSET, 0, APART, 0, NOTHING},
    {"head 8", 2, 40, 40, 2, 2, 8, 0, 0.3, 0, NO_OFFSET, 0, PACKED, 0, NOTHING},
    {"head 16, grouped", 1, 150, 150, 4, 2, 16, 0, 0.25, 0, NO_OFFSET, 0, PACKED, 0, NOTHING},
    {"head 20, unaligned", 1, 70, 75, 2, 1, 20, 0, 0.2, 0, BEHIND_CACHE, 2, SHIFTED, 0, NOTHING},
    {"head 40", 1, 70, 70, 1, 1, 40, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, NOTHING},
    {"head 64", 2, 140, 140, 2, 2, 64, 0, 0.125, 0, NO_OFFSET, 0, PACKED, 0, NOTHING},
    {"head 64, unaligned", 1, 65, 65, 1, 1, 64, 0, 0.125, 0, NO_OFFSET, 0, SHIFTED, 0, NOTHING},
    {"head 80, multi-query", 1, 70, 70, 3, 1, 80, 0, 0.1, 0, NO_OFFSET, 0, APART, 0, NOTHING},
    {"head 96", 1, 135, 140, 1, 1, 96, 0, 0.1, 0, BEHIND_CACHE, 0, PACKED, 0, NOTHING},
    {"head 128", 1, 135, 150, 2, 1, 128, 0, 0.09, 0, BEHIND_CACHE, 0, PACKED, 0, NOTHING},
    {"head 160", 1, 40, 50, 1, 1, 160, 0, 0.08, 0, BEHIND_CACHE, 0, APART, 0, NOTHING},
    {"head 256", 1, 70, 75, 1, 1, 256, 0, 0.06, 0, BEHIND_CACHE, 2, APART, 0, NOTHING},
    {"negative scale", 1, 20, 20, 1, 1, 16, 0, -0.3, 0, NO_OFFSET, 0, APART, 0, FORWARD_ONLY},
    {"scale 0", 1, 20, 20, 1, 1, 16, 0, 0, 0, NO_OFFSET, 0, APART, 0, FORWARD_ONLY},
    {"no lse", 1, 20, 20, 1, 1, 16, 0, 0.3, 0, NO_OFFSET, 0, APART, 0, NO_LSE},
    {"sees nothing at first", 2, 20, 30, 2, 1, 16, 0, 0.2, 0, BEFORE_ALL, 0, APART, 0, UNSEEN_NAN},
    {"more queries than keys", 1, 90, 33, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, NOTHING},
    {"fewer queries than keys", 2, 20, 150, 2, 1, 16, 0, 0.2, 0, NO_OFFSET, 0, APART, 0,
     UNSEEN_NAN},
    {"window 1", 1, 70, 70, 1, 1, 16, 1, 0.2, 0, NO_OFFSET, 0, PACKED, 0, NOTHING},
    {"window 17", 1, 150, 150, 2, 1, 16, 17, 0.2, 0, NO_OFFSET, 0, PACKED, 0, NOTHING},
    {"window beyond all", 1, 66, 66, 1, 1, 16, (int64_t)1 << 40, 0.2, 0, NO_OFFSET, 0, PACKED, 0,
     NOTHING},
    {"documents", 2, 150, 150, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 4, PACKED, 0, NOTHING},
    {"documents of one token", 1, 70, 70, 1, 1, 16, 0, 0.2, 0, NO_OFFSET, 70, PACKED, 0, NOTHING},
    {"documents, window, cache", 2, 100, 120, 2, 1, 16, 9, 0.2, 0, BEHIND_CACHE, 3, APART, 0,
     UNSEEN_NAN},
    {"dropout", 2, 70, 71, 2, 1, 16, 0, 0.2, 0.3, BEHIND_CACHE, 2, PACKED, 0, NOTHING},
    {"dropout, head 64", 1, 130, 132, 2, 2, 64, 0, 0.1, 0.5, BEHIND_CACHE, 0, APART, 0, NOTHING},
    {"dropout, head 256", 1, 30, 35, 1, 1, 256, 0, 0.06, 0.5, BEHIND_CACHE, 0, APART, 0, NOTHING},
    {"dropout, few queries", 2, 2, 75, 4, 1, 16, 0, 0.2, 0.6, BEHIND_CACHE, 0, APART, 0, NOTHING},
    {"prefix, documents", 2, 150, 160, 2, 2, 16, 0, 0.2, 0, BEHIND_CACHE, 4, APART, 10, NOTHING},
    {"prefix of several tiles", 1, 140, 290, 2, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 3, APART, 150,
     NOTHING},
    {"prefix of a tile", 1, 80, 144, 1, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 3, APART, 64, NOTHING},
    {"prefix, window", 2, 60, 100, 2, 1, 16, 9, 0.2, 0, BEHIND_CACHE, 0, APART, 40, UNSEEN_NAN},
    {"prefix, window, documents", 2, 100, 130, 2, 1, 16, 9, 0.2, 0, BEHIND_CACHE, 3, APART, 30,
     NOTHING},
    {"prefix, grouped, dropout", 1, 40, 47, 6, 2, 24, 0, 0.2, 0.2, BEHIND_CACHE, 3, APART, 7,
     NOTHING},
    {"queries in the prefix", 2, 90, 90, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 4, PACKED, 40, NOTHING},
    {"prefix is all", 1, 20, 33, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 2, APART, 33, NOTHING},
    {"first keys anywhere", 2, 90, 90, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, -1, PACKED, 0, NOTHING},
    {"prefix, window, anywhere", 2, 90, 100, 2, 2, 16, 8, 0.2, 0, NO_OFFSET, -1, APART, 20,
     NOTHING},
    {"NaN in q", 1, 40, 40, 1, 1, 16, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, NAN_Q},
    {"NaN in k", 1, 40, 40, 1, 1, 16, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, NAN_K},
    {"NaN in v", 1, 40, 40, 1, 1, 16, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, NAN_V},
    {"several pieces", 3, 150, 150, 4, 2, 16, 0, 0.2, 0, NO_OFFSET, 2, PACKED, 0, NOTHING},
    {"shared keys", 3, 30, 40, 2, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 0, APART, 0, SHARED_KEYS},
    {"decode", 3, 1, 130, 4, 2, 64, 0, 0.125, 0, BEHIND_CACHE, 0, APART, 0, NOTHING},
    {"decode, many chunks", 1, 1, 1100, 2, 2, 64, 0, 0.125, 0, BEHIND_CACHE, 0, APART, 0,
     FORWARD_ONLY},
    {"decode, head 128, grouped", 1, 2, 300, 6, 2, 128, 0, 0.1, 0, BEHIND_CACHE, 0, PACKED, 0,
     FORWARD_ONLY},
    {"decode, head 256", 1, 1, 300, 2, 1, 256, 0, 0.06, 0, BEHIND_CACHE, 0, APART, 0, FORWARD_ONLY},
    {"decode, head 80, 8 queries", 1, 8, 200, 3, 1, 80, 0, 0.1, 0, BEHIND_CACHE, 0, APART, 0,
     FORWARD_ONLY},
    {"decode, unaligned", 2, 3, 177, 4, 4, 20, 0, 0.2, 0, BEHIND_CACHE, 0, SHIFTED, 0, NOTHING},
    {"decode, unwritten cache", 2, 2, 400, 2, 1, 24, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, UNSEEN_NAN},
    {"decode, sees nothing", 2, 2, 30, 2, 1, 16, 0, 0.2, 0, BEFORE_ALL, 0, APART, 0, UNSEEN_NAN},
    {"decode, window", 1, 3, 500, 2, 1, 16, 140, 0.2, 0, BEHIND_CACHE, 0, APART, 0, UNSEEN_NAN},
    {"decode, prefix, documents", 3, 3, 300, 4, 2, 20, 0, 0.2, 0, BEHIND_CACHE, 4, APART, 20,
     UNSEEN_NAN},
    {"decode, prefix, window", 3, 2, 400, 4, 2, 20, 30, 0.2, 0, BEHIND_CACHE, 9, APART, 20,
     NOTHING},
    {"decode, NaN in q", 1, 1, 200, 1, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 0, APART, 0, NAN_Q},
    {"decode, NaN in k", 1, 2, 200, 1, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 0, APART, 0, NAN_K},
    {"decode, NaN in v", 1, 2, 200, 1, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 0, APART, 0, NAN_V},
    {"decode, shared keys", 3, 1, 40, 2, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 0, APART, 0, SHARED_KEYS},
    {"no queries", 2, 0, 5, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, NOTHING},
    {"no batch", 0, 4, 5, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, NOTHING},
    {"no keys", 1, 4, 0, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, NOTHING},
    {"no keys, many queries", 1, 20, 0, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, APART, 0, NOTHING},
};

/* --- Views of a cache ---------------------------------------------------------------------------
 */

enum { SHORT_VIEW = 150, LONG_VIEW = 700 };

/* The same queries with a short and a long view of the same cache. */
static void two_views(test_run *t)
{
    enum { HEADS = 4, KV_HEADS = 2, D = 64, QUERIES = 2 };
    lt_attention_args a = {};
    a.scale = 0.2;
    a.q = test_tensor(t, INPUT, t->real, {1, QUERIES, HEADS, D});
    lt_tensor k = test_tensor(t, INPUT, t->real, {1, LONG_VIEW, KV_HEADS, D});
    lt_tensor v = test_tensor(t, INPUT, t->real, {1, LONG_VIEW, KV_HEADS, D});
    a.offset = test_tensor_of(t, INPUT, LT_I32, {1}, 0,
                              [](int64_t, int64_t) { return SHORT_VIEW - QUERIES - 3; });
    for (int64_t length : {SHORT_VIEW, LONG_VIEW}) {
        a.k = lt_tensor_slice(k, 1, 0, length);
        a.v = lt_tensor_slice(v, 1, 0, length);
        a.out = test_tensor(t, OUTPUT, t->real, {1, QUERIES, HEADS, D});
        TEST_CALL(t, attention_forward, a);
    }
}

static void check_views(lt_dtype real)
{
    test_run t = {"views of a cache", nullptr, real, LT_F32, false, false, false, nullptr, {}};
    t.backend = test_emulated_backend(real);
    test_execute(&t, two_views);
    size_t arrays = t.arrays.size();
    if (t.arrays[arrays - 1].bytes != t.arrays[arrays - 2].bytes)
        TEST_FAIL(&t, "a longer view of the cache changes the result");
    test_state.cases++;
    test_state.failures += t.failed;
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    for (const attention_case &c : cases) {
        bool only_forward = c.extra == SHARED_KEYS || c.extra == FORWARD_ONLY || c.extra == NO_LSE;
        test_case(c.what, only_forward ? forward : backward, &c);
    }
    check_views(LT_F32);
    check_views(LT_BF16);
    return test_end();
}
