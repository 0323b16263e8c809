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
    int documents; /* first_key from so many documents */
    bool packed;   /* q, k, v side by side in one row */
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

static lt_attention_args arguments(test_run *t, const attention_case *p)
{
    lt_attention_args a = {.window = p->window, .scale = p->scale};
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
        int64_t length = p->kv_len / p->documents + 1;
        for (int64_t i = 0; i < p->batch * p->q_len; i++) {
            int64_t position = position_of(p, i / p->q_len, i % p->q_len);
            first[i] = (int32_t)(position < 0 ? 0 : position / length * length);
        }
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
    {"one of each", 1, 1, 1, 1, 1, 1, 0, 1, 0, NO_OFFSET, 0, false},
    {"gpt2 head", 2, 64, 64, 2, 2, 64, 0, 0.125, 0, NO_OFFSET, 0, true},
    {"tile + 1", 1, 65, 65, 1, 1, 16, 0, 0.25, 0, NO_OFFSET, 0, true},
    {"tile - 1", 1, 63, 63, 2, 1, 33, 0, 0.2, 0, NO_OFFSET, 0, true},
    {"several tiles", 1, 200, 200, 1, 1, 40, 0, 0.2, 0, NO_OFFSET, 0, false},
    {"grouped", 2, 37, 37, 6, 2, 24, 0, 0.2, 0, NO_OFFSET, 0, true},
    {"multi-query", 1, 70, 70, 5, 1, 80, 0, 0.1, 0, NO_OFFSET, 0, false},
    {"decode", 3, 1, 130, 4, 2, 64, 0, 0.125, 0, BEHIND_CACHE, 0, false},
    {"three queries", 2, 3, 77, 4, 4, 20, 0, 0.2, 0, BEHIND_CACHE, 0, false},
    {"prefix", 2, 40, 47, 2, 2, 32, 0, 0.2, 0, BEHIND_CACHE, 0, false},
    {"sees nothing at first", 2, 20, 30, 2, 1, 16, 0, 0.2, 0, BEFORE_ALL, 0, false},
    {"decode sees nothing", 2, 2, 30, 2, 1, 16, 0, 0.2, 0, BEFORE_ALL, 0, false},
    {"more queries than keys", 1, 90, 33, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 0, false},
    {"window 1", 1, 70, 70, 1, 1, 16, 1, 0.2, 0, NO_OFFSET, 0, true},
    {"window 17", 1, 150, 150, 2, 1, 16, 17, 0.2, 0, NO_OFFSET, 0, true},
    {"window beyond all", 1, 66, 66, 1, 1, 16, 1000, 0.2, 0, NO_OFFSET, 0, true},
    {"documents", 2, 150, 150, 2, 2, 16, 0, 0.2, 0, NO_OFFSET, 4, true},
    {"documents of one token", 1, 70, 70, 1, 1, 16, 0, 0.2, 0, NO_OFFSET, 70, true},
    {"documents, window, prefix", 2, 100, 120, 2, 1, 16, 9, 0.2, 0, BEHIND_CACHE, 3, false},
    {"large logits", 1, 70, 70, 2, 2, 32, 0, 20, 0, NO_OFFSET, 0, true},
    {"dropout", 2, 70, 70, 2, 1, 16, 0, 0.2, 0.3, NO_OFFSET, 2, true},
    {"dropout, decode", 2, 2, 75, 4, 1, 16, 0, 0.2, 0.6, BEHIND_CACHE, 0, false},
    {"no queries", 2, 0, 5, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, false},
    {"no batch", 0, 4, 5, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, false},
    {"no keys", 1, 4, 0, 2, 2, 8, 0, 0.2, 0, NO_OFFSET, 0, false},
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_unseen_keys_not_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
