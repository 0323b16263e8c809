#include "tests/unit/kernels/kernel_test.h"

typedef struct attention_case {
    const char *what;
    int64_t batch, q_len, kv_len, heads, kv_heads, head_dim, window;
    double scale, rate;
    enum {
        NO_OFFSET,
        BEHIND_CACHE,
        BEFORE_ALL
    } offset;      /* keys seen: j <= i, + kv - q, none at first */
    int documents; /* first_key from so many documents; -1: anywhere, even behind the query */
    bool packed;   /* q, k, v side by side in one row */
    int64_t prefix;
} attention_case;

static int64_t position_of(const attention_case *p, int64_t b, int64_t i)
{
    if (p->offset == BEHIND_CACHE) return p->kv_len - p->q_len - b % 2 + i;
    return p->offset == BEFORE_ALL ? i - 3 : i;
}

/* q, k, v as views of the rows of one buffer, or apart. */
static void set_qkv(const attention_case *p, float *buffer, lt_tensor *q, lt_tensor *k,
                    lt_tensor *v)
{
    int64_t q_width = p->heads * p->head_dim, kv_width = p->kv_heads * p->head_dim;
    if (p->packed) {
        int64_t width = q_width + 2 * kv_width;
        lt_tensor all = lt_tensor_2d(buffer, LT_F32, p->batch * p->kv_len, width);
        *q = lt_tensor_as_heads(lt_tensor_slice(all, 1, 0, q_width), p->batch, p->heads,
                                p->head_dim);
        *q = lt_tensor_slice(*q, 1, 0, p->q_len);
        *k = lt_tensor_as_heads(lt_tensor_slice(all, 1, q_width, kv_width), p->batch, p->kv_heads,
                                p->head_dim);
        *v = lt_tensor_as_heads(lt_tensor_slice(all, 1, q_width + kv_width, kv_width), p->batch,
                                p->kv_heads, p->head_dim);
        return;
    }
    int64_t q_count = p->batch * p->q_len * q_width, kv_count = p->batch * p->kv_len * kv_width;
    *q = lt_tensor_4d(buffer, LT_F32, p->batch, p->q_len, p->heads, p->head_dim);
    *k = lt_tensor_4d(buffer + q_count, LT_F32, p->batch, p->kv_len, p->kv_heads, p->head_dim);
    *v = *k;
    v->data = buffer + q_count + kv_count;
}

static int64_t qkv_count(const attention_case *p)
{
    int64_t q_rows = p->packed ? p->kv_len : p->q_len;
    return p->batch * p->head_dim * (q_rows * p->heads + 2 * p->kv_len * p->kv_heads);
}

static int64_t first_key_of(const attention_case *p, int64_t b, int64_t i)
{
    int64_t place = position_of(p, b, i) - p->prefix;
    int64_t length = (p->kv_len - p->prefix) / p->documents + 1;
    if (p->documents < 0) return p->prefix + i * 7 % (p->kv_len - p->prefix);
    return p->prefix + (place < 0 ? 0 : place / length * length);
}

static lt_attention_args arguments(test_run *t, const attention_case *p)
{
    lt_attention_args a = {.window = p->window, .prefix = p->prefix, .scale = p->scale};
    a.dropout = (lt_dropout_mask){.rate = p->rate, .seed = 3, .stream = 4};
    set_qkv(p, test_input(t, qkv_count(p)), &a.q, &a.k, &a.v);
    int64_t out = p->batch * p->q_len * p->heads * p->head_dim;
    a.out = lt_tensor_4d(test_output(t, out), LT_F32, p->batch, p->q_len, p->heads, p->head_dim);
    int64_t lse = p->batch * p->heads * p->q_len;
    a.lse = lt_tensor_3d(test_output(t, lse), LT_F32, p->batch, p->heads, p->q_len);
    if (p->offset != NO_OFFSET) {
        int32_t *offset = test_integers(t, p->batch, 1);
        for (int64_t b = 0; b < p->batch; b++)
            offset[b] = (int32_t)position_of(p, b, 0);
        a.offset = lt_tensor_1d(offset, LT_I32, p->batch);
    }
    if (p->documents) {
        int32_t *first = test_integers(t, p->batch * p->q_len, 1);
        for (int64_t i = 0; i < p->batch * p->q_len; i++)
            first[i] = (int32_t)first_key_of(p, i / p->q_len, i % p->q_len);
        a.first_key = lt_tensor_2d(first, LT_I32, p->batch, p->q_len);
    }
    return a;
}

static void run_forward(test_run *t)
{
    lt_attention_args a = arguments(t, t->parameters);
    TEST_CALL(t, attention_forward, a);
}

static void run_backward(test_run *t)
{
    const attention_case *p = t->parameters;
    lt_attention_args a = arguments(t, p);
    lt_attention_backward_args x = {.forward = a};
    x.dout = a.out;
    x.dout.data = test_input(t, lt_tensor_count(a.out));
    set_qkv(p, test_output(t, qkv_count(p)), &x.dq, &x.dk, &x.dv);
    TEST_CALL(t, attention_forward, a);
    TEST_CALL(t, attention_backward, x);
}

static const attention_case cases[] = {
    {"one of each", 1, 1, 1, 1, 1, 1, 0, 1, 0, NO_OFFSET, 0, false, 0},
    {"gpt2 head", 2, 64, 64, 2, 2, 64, 0, 0.125, 0, NO_OFFSET, 0, true, 0},
    {"tile + 1", 1, 65, 65, 1, 1, 16, 0, 0.25, 0, NO_OFFSET, 0, true, 0},
    {"tile - 1", 1, 63, 63, 2, 1, 33, 0, 0.2, 0, NO_OFFSET, 0, true, 0},
    {"several tiles", 1, 200, 200, 1, 1, 40, 0, 0.2, 0, NO_OFFSET, 0, false, 0},
    {"grouped", 2, 37, 37, 6, 2, 24, 0, 0.2, 0, NO_OFFSET, 0, true, 0},
    {"multi-query", 1, 70, 70, 5, 1, 80, 0, 0.1, 0, NO_OFFSET, 0, false, 0},
    {"decode", 3, 1, 130, 4, 2, 64, 0, 0.125, 0, BEHIND_CACHE, 0, false, 0},
    {"three queries", 2, 3, 77, 4, 4, 20, 0, 0.2, 0, BEHIND_CACHE, 0, false, 0},
    {"behind a cache", 2, 40, 47, 2, 2, 32, 0, 0.2, 0, BEHIND_CACHE, 0, false, 0},
    {"sees nothing at first", 2, 20, 30, 2, 1, 16, 0, 0.2, 0, BEFORE_ALL, 0, false, 0},
    {"decode sees nothing", 2, 2, 30, 2, 1, 16, 0, 0.2, 0, BEFORE_ALL, 0, false, 0},
    {"more queries than keys", 1, 90, 33, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 0, false, 0},
    {"window 1", 1, 70, 70, 1, 1, 16, 1, 0.2, 0, NO_OFFSET, 0, true, 0},
    {"window 17", 1, 150, 150, 2, 1, 16, 17, 0.2, 0, NO_OFFSET, 0, true, 0},
    {"window beyond all", 1, 66, 66, 1, 1, 16, 1000, 0.2, 0, NO_OFFSET, 0, true, 0},
    {"documents", 2, 150, 150, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 4, true, 0},
    {"documents of one token", 1, 70, 70, 1, 1, 16, 0, 0.2, 0, NO_OFFSET, 70, true, 0},
    {"documents, window, cache", 2, 100, 120, 2, 1, 16, 9, 0.2, 0, BEHIND_CACHE, 3, false, 0},
    {"large logits", 1, 70, 70, 2, 2, 32, 0, 20, 0, NO_OFFSET, 0, true, 0},
    {"dropout", 2, 70, 70, 2, 1, 16, 0, 0.2, 0.3, NO_OFFSET, 2, true, 0},
    {"dropout, decode", 2, 2, 75, 4, 1, 16, 0, 0.2, 0.6, BEHIND_CACHE, 0, false, 0},
    {"no queries", 2, 0, 5, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, false, 0},
    {"no batch", 0, 4, 5, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, false, 0},
    {"no keys", 1, 4, 0, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, false, 0},
    {"prefix", 2, 70, 86, 2, 2, 32, 0, 0.2, 0, BEHIND_CACHE, 0, false, 16},
    {"prefix, documents", 2, 150, 160, 2, 2, 16, 0, 0.2, 0, BEHIND_CACHE, 4, false, 10},
    {"prefix, long documents", 1, 300, 316, 2, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 2, false, 16},
    {"prefix, documents of one token", 1, 70, 73, 1, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 73, false, 3},
    {"prefix of several tiles", 1, 140, 290, 2, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 3, false, 150},
    {"prefix of a tile", 1, 100, 164, 1, 1, 16, 0, 0.2, 0, BEHIND_CACHE, 3, false, 64},
    {"prefix, window", 2, 100, 130, 2, 1, 16, 9, 0.2, 0, BEHIND_CACHE, 0, false, 30},
    {"prefix, window, documents", 2, 100, 130, 2, 1, 16, 9, 0.2, 0, BEHIND_CACHE, 3, false, 30},
    {"prefix, wide window", 2, 200, 212, 2, 1, 16, 40, 0.2, 0, BEHIND_CACHE, 5, false, 12},
    {"prefix, window 1", 1, 70, 75, 1, 1, 16, 1, 0.2, 0, BEHIND_CACHE, 3, false, 5},
    {"prefix, grouped", 2, 40, 47, 6, 2, 24, 0, 0.2, 0, BEHIND_CACHE, 3, false, 7},
    {"prefix, dropout", 2, 70, 80, 2, 1, 16, 0, 0.2, 0.3, BEHIND_CACHE, 3, false, 10},
    {"prefix, decode", 3, 1, 130, 4, 2, 64, 0, 0.125, 0, BEHIND_CACHE, 0, false, 20},
    {"prefix, decode in documents", 3, 3, 200, 4, 2, 20, 0, 0.2, 0, BEHIND_CACHE, 4, false, 20},
    {"prefix, decode, window", 3, 2, 200, 4, 2, 20, 30, 0.2, 0, BEHIND_CACHE, 9, false, 20},
    {"queries in the prefix", 2, 90, 90, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 4, true, 40},
    {"prefix before all", 2, 20, 30, 2, 1, 16, 0, 0.2, 0, BEFORE_ALL, 3, false, 6},
    {"prefix is all", 1, 20, 33, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 2, false, 33},
    {"first keys anywhere", 2, 90, 90, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, -1, true, 0},
    {"prefix, first keys anywhere", 2, 90, 100, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, -1, false, 20},
    {"prefix, window, anywhere", 2, 90, 100, 2, 2, 16, 8, 0.2, 0, NO_OFFSET, -1, false, 20},
    {"prefix, no queries", 2, 0, 5, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, false, 5},
};

static void test_forward(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        test_all_backends(run_forward, &cases[i], cases[i].what);
}

static void test_backward(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        test_all_backends(run_backward, &cases[i], cases[i].what);
}

/* Keys that no query sees may be anything: a cache beyond what is written. */
static void test_unseen_keys_not_read(void **state)
{
    enum { KV = 100, SEEN = 20, D = 24 };
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (int64_t q_len = 1; q_len <= 9; q_len += 8) {
            const lt_backend *backend = test_backend_kept(isa, 1);
            if (!backend) continue;
            test_run run = {.backend = backend}, *t = &run;
            float *k = test_input(t, KV * D), *v = test_input(t, KV * D);
            for (int64_t i = SEEN * D; i < KV * D; i++)
                k[i] = v[i] = NAN;
            int32_t *offset = test_integers(t, 1, 1);
            float *out = test_output(t, q_len * D);
            *offset = (int32_t)(SEEN - q_len);
            lt_attention_args a = {
                .q = lt_tensor_4d(test_input(t, q_len * D), LT_F32, 1, q_len, 1, D),
                .k = lt_tensor_4d(k, LT_F32, 1, KV, 1, D),
                .v = lt_tensor_4d(v, LT_F32, 1, KV, 1, D),
                .out = lt_tensor_4d(out, LT_F32, 1, q_len, 1, D),
                .offset = lt_tensor_1d(offset, LT_I32, 1),
                .scale = 1};
            TEST_CALL(t, attention_forward, a);
            for (int64_t i = 0; i < q_len * D; i++)
                assert_true(isfinite(out[i]));
            test_end(t);
        }
}

/* The same for the keys between the prefix and a document, forward and backward: whole tiles of
 * them are left out. */
static void test_keys_between_not_read(void **state)
{
    enum { KV = 300, PREFIX = 10, FIRST = 200, D = 24 };
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (int64_t q_len = 1; q_len <= 9; q_len += 8) {
            const lt_backend *backend = test_backend_kept(isa, 1);
            if (!backend) continue;
            test_run run = {.backend = backend}, *t = &run;
            float *k = test_input(t, KV * D), *v = test_input(t, KV * D),
                  *q = test_input(t, q_len * D);
            for (int64_t i = PREFIX * D; i < (FIRST - 64) * D; i++)
                k[i] = v[i] = NAN;
            int32_t *offset = test_integers(t, 1, 1), *first = test_integers(t, q_len, 1);
            *offset = (int32_t)(KV - q_len);
            for (int64_t i = 0; i < q_len; i++)
                first[i] = FIRST;
            float *out = test_output(t, q_len * D),
                  *gradients = test_output(t, (q_len + 2 * KV) * D);
            lt_attention_args a = {.q = lt_tensor_4d(q, LT_F32, 1, q_len, 1, D),
                                   .k = lt_tensor_4d(k, LT_F32, 1, KV, 1, D),
                                   .v = lt_tensor_4d(v, LT_F32, 1, KV, 1, D),
                                   .out = lt_tensor_4d(out, LT_F32, 1, q_len, 1, D),
                                   .lse = lt_tensor_3d(test_output(t, q_len), LT_F32, 1, 1, q_len),
                                   .offset = lt_tensor_1d(offset, LT_I32, 1),
                                   .first_key = lt_tensor_2d(first, LT_I32, 1, q_len),
                                   .prefix = PREFIX,
                                   .scale = 1};
            lt_attention_backward_args b = {
                .forward = a, .dout = a.q, .dq = a.q, .dk = a.k, .dv = a.v};
            b.dq.data = gradients;
            b.dk.data = gradients + q_len * D;
            b.dv.data = gradients + (q_len + KV) * D;
            TEST_CALL(t, attention_forward, a);
            TEST_CALL(t, attention_backward, b);
            for (int64_t i = 0; i < q_len * D; i++)
                assert_true(isfinite(out[i]));
            for (int64_t i = 0; i < (q_len + 2 * KV) * D; i++)
                assert_true(isfinite(gradients[i]));
            test_end(t);
        }
}

/* --- A prefix is nothing but keys in front of each document ------------------------------------
 */

enum { DOCUMENTS = 4, PREFIX = 10, TOKENS = 133, ROWS = PREFIX + TOKENS, WIDTH = 2 * 16 };
static const int64_t lengths[DOCUMENTS] = {30, 1, 77, 25};

/* One sequence of 2 heads and one key/value head of 16: rows of q and out, of k and v. */
typedef struct sequence {
    float *q, *dout, *out, *lse, *dq, *k, *v, *dk, *dv;
} sequence;

static sequence new_sequence(test_run *t, int64_t tokens, int64_t keys)
{
    sequence s = {test_input(t, tokens * WIDTH),   test_input(t, tokens * WIDTH),
                  test_output(t, tokens * WIDTH),  test_output(t, tokens * 2),
                  test_output(t, tokens * WIDTH),  test_input(t, keys * WIDTH / 2),
                  test_input(t, keys * WIDTH / 2), test_output(t, keys * WIDTH / 2),
                  test_output(t, keys * WIDTH / 2)};
    return s;
}

static void attend(test_run *t, const sequence *s, lt_attention_args a, int64_t tokens,
                   int64_t keys)
{
    int32_t offset = PREFIX;
    a.q = lt_tensor_4d(s->q, LT_F32, 1, tokens, 2, WIDTH / 2);
    a.k = lt_tensor_4d(s->k, LT_F32, 1, keys, 1, WIDTH / 2);
    a.out = a.q;
    a.out.data = s->out;
    a.v = a.k;
    a.v.data = s->v;
    a.lse = lt_tensor_3d(s->lse, LT_F32, 1, 2, tokens);
    a.offset = lt_tensor_1d(&offset, LT_I32, 1);
    a.scale = 0.4;
    lt_attention_backward_args b = {.forward = a, .dout = a.q, .dq = a.q, .dk = a.k, .dv = a.k};
    b.dout.data = s->dout;
    b.dq.data = s->dq;
    b.dk.data = s->dk;
    b.dv.data = s->dv;
    TEST_CALL(t, attention_forward, a);
    TEST_CALL(t, attention_backward, b);
}

static void assert_near(const float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i] - y[i]) <= 2e-5f)) fail_msg("%g and %g", (double)x[i], (double)y[i]);
}

static void add_to(float *sum, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        sum[i] += x[i];
}

/* Document `d` of `all`, which starts at token `start`, alone behind the prefix. Adds the gradients
 * of the prefix to dk and dv. */
static void check_alone(test_run *t, const sequence *all, lt_attention_args plain, int d,
                        int64_t start, float *dk, float *dv)
{
    int64_t n = lengths[d], width = WIDTH / 2, prefix = PREFIX * width;
    sequence one = new_sequence(t, n, PREFIX + n);
    memcpy(one.q, all->q + start * WIDTH, (size_t)(n * WIDTH) * sizeof *one.q);
    memcpy(one.dout, all->dout + start * WIDTH, (size_t)(n * WIDTH) * sizeof *one.q);
    for (int i = 0; i < 2; i++) {
        float *to = i ? one.v : one.k, *from = i ? all->v : all->k;
        memcpy(to, from, (size_t)prefix * sizeof *to);
        memcpy(to + prefix, from + prefix + start * width, (size_t)(n * width) * sizeof *to);
    }
    attend(t, &one, plain, n, PREFIX + n);
    assert_near(one.out, all->out + start * WIDTH, n * WIDTH);
    assert_near(one.dq, all->dq + start * WIDTH, n * WIDTH);
    assert_near(one.dk + prefix, all->dk + prefix + start * width, n * width);
    assert_near(one.dv + prefix, all->dv + prefix + start * width, n * width);
    add_to(dk, one.dk, prefix);
    add_to(dv, one.dv, prefix);
}

static void check_packed(const lt_backend *backend, int64_t window)
{
    float dk[PREFIX * WIDTH / 2] = {0}, dv[PREFIX * WIDTH / 2] = {0};
    int32_t first[TOKENS];
    lt_attention_args plain = {.window = window}, packed = plain;
    test_run run = {.backend = backend}, *t = &run;
    for (int64_t i = 0, d = 0, start = 0; i < TOKENS; i++) {
        if (i == start + lengths[d]) start += lengths[d++];
        first[i] = (int32_t)(PREFIX + start);
    }
    packed.prefix = PREFIX;
    packed.first_key = lt_tensor_2d(first, LT_I32, 1, TOKENS);
    sequence all = new_sequence(t, TOKENS, ROWS);
    attend(t, &all, packed, TOKENS, ROWS);
    int64_t start = 0;
    for (int d = 0; d < DOCUMENTS; start += lengths[d++]) {
        test_run alone = {.backend = backend};
        check_alone(&alone, &all, plain, d, start, dk, dv);
        test_end(&alone);
    }
    assert_near(all.dk, dk, PREFIX * WIDTH / 2);
    assert_near(all.dv, dv, PREFIX * WIDTH / 2);
    test_end(t);
}

static void test_prefix_as_if_alone(void **state)
{
    static const int64_t windows[] = {0, 1, 9, 40, 1000};
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (size_t w = 0; w < sizeof windows / sizeof *windows; w++)
            if (test_backend_kept(isa, 1)) check_packed(test_backend_kept(isa, 1), windows[w]);
}

/* With one document a prefix is the first of its keys. */
static void test_prefix_of_one_document(void **state)
{
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (int64_t window = 0; window <= 20; window += 20) {
            const lt_backend *backend = test_backend_kept(isa, 1);
            if (!backend) continue;
            test_run plain = {.backend = backend}, prefix = plain;
            sequence x = new_sequence(&plain, TOKENS, ROWS),
                     y = new_sequence(&prefix, TOKENS, ROWS);
            lt_attention_args a = {.window = window};
            attend(&plain, &x, a, TOKENS, ROWS);
            a.prefix = PREFIX;
            attend(&prefix, &y, a, TOKENS, ROWS);
            test_compare(&plain, &prefix, "prefix of one document");
            test_end(&plain);
            test_end(&prefix);
        }
}

static void test_prefix_refusals(void **state)
{
    float x[64] = {0};
    lt_err err = {0};
    lt_tensor t = lt_tensor_4d(x, LT_F32, 1, 3, 1, 2);
    lt_attention_args a = {.q = t, .k = t, .v = t, .out = t, .prefix = 4};
    (void)state;
    assert_int_equal(lt_attention_forward(test_backend_kept(0, 1), &a, &err), LT_ERR_USAGE);
    assert_string_equal(err.message, "attention_forward: prefix must be in [0, kv_len]");
    a.prefix = -1;
    assert_int_equal(lt_attention_forward(test_backend_kept(0, 1), &a, &err), LT_ERR_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_unseen_keys_not_read),
        cmocka_unit_test(test_keys_between_not_read),
        cmocka_unit_test(test_prefix_as_if_alone),
        cmocka_unit_test(test_prefix_of_one_document),
        cmocka_unit_test(test_prefix_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
