/* The operations on rows and elements, on every backend. */
#include "tests/unit/kernels/kernel_test.h"

/* Sizes around the vector widths 8 and 16, the pieces of 4096, and none at all. */
typedef struct size_case {
    int64_t rows, dim, gap; /* gap: elements between rows */
    int flag;
} size_case;

static const int64_t sizes[][3] = {
    {0, 5, 0},   {3, 1, 0},    {1, 7, 2},   {5, 8, 1},   {17, 15, 0},  {4, 16, 3},  {33, 17, 0},
    {50, 31, 1}, {130, 64, 0}, {7, 100, 5}, {2, 768, 0}, {300, 97, 0}, {3, 4097, 1}};
#define SIZES (sizeof sizes / sizeof *sizes)

static void on_all_sizes(test_function *function, int flags, const char *what)
{
    for (size_t i = 0; i < SIZES; i++)
        for (int flag = 0; flag < flags; flag++) {
            size_case c = {sizes[i][0], sizes[i][1], sizes[i][2], flag};
            char text[96];
            snprintf(text, sizeof text, "%s %lld x %lld, %d", what, (long long)c.rows,
                     (long long)c.dim, flag);
            test_all_backends(function, &c, text);
        }
}

static lt_tensor rows_of(const size_case *p, float *data)
{
    lt_tensor t = lt_tensor_2d(data, LT_F32, p->rows, p->dim);
    t.stride[0] = p->dim + p->gap;
    return t;
}

static int64_t room(const size_case *p)
{
    return p->rows * (p->dim + p->gap);
}

static lt_tensor vector_of(float *data, int64_t n)
{
    return lt_tensor_1d(data, LT_F32, n);
}

static void stretch(float *x, int64_t n, float factor, float shift)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] * factor + shift;
}

/* --- Norms ----------------------------------------------------------------------------------- */

static lt_norm_args norm_arguments(test_run *t, const size_case *p, bool layer, bool residual)
{
    lt_norm_args a = {.eps = 1e-5};
    float *x = test_input(t, room(p));
    stretch(x, room(p), 2, 3);
    a.x = rows_of(p, x);
    a.y = rows_of(p, test_output(t, room(p)));
    if (residual) {
        a.residual = rows_of(p, test_input(t, room(p)));
        a.sum = rows_of(p, test_output(t, room(p)));
    }
    a.weight = vector_of(test_input(t, p->dim), p->dim);
    a.rstd = vector_of(test_output(t, p->rows), p->rows);
    if (!layer) return a;
    a.bias = vector_of(test_input(t, p->dim), p->dim);
    a.mean = vector_of(test_output(t, p->rows), p->rows);
    return a;
}

/* flags: 1 RMS norm, 2 residual, 4 no statistics kept */
static void run_norm_forward(test_run *t)
{
    const size_case *p = t->parameters;
    lt_norm_args a = norm_arguments(t, p, !(p->flag & 1), p->flag & 2);
    if (p->flag & 4) {
        for (int64_t r = 0; r < p->rows; r++) {
            ((float *)a.rstd.data)[r] = 0;
            if (a.mean.data) ((float *)a.mean.data)[r] = 0;
        }
        a.rstd.data = a.mean.data = NULL;
    }
    if (p->flag & 1)
        TEST_CALL(t, rms_norm_forward, a);
    else
        TEST_CALL(t, layer_norm_forward, a);
}

/* flags: 1 RMS norm, 2 accumulate, 4 frozen weights, 8 dx in place of dy */
static void run_norm_backward(test_run *t)
{
    const size_case *p = t->parameters;
    bool layer = !(p->flag & 1);
    if ((p->flag & 10) == 10) return; /* accumulate in place has no meaning */
    lt_norm_args f = norm_arguments(t, p, layer, false);
    lt_norm_backward_args a = {.x = f.x, .weight = f.weight, .mean = f.mean, .rstd = f.rstd};
    a.accumulate = p->flag & 2;
    a.dx = rows_of(p, p->flag & 10 ? test_inout(t, room(p)) : test_output(t, room(p)));
    a.dy = p->flag & 8 ? a.dx : rows_of(p, test_input(t, room(p)));
    if (!(p->flag & 4)) {
        a.dweight = vector_of(test_inout(t, p->dim), p->dim);
        if (layer) a.dbias = vector_of(test_inout(t, p->dim), p->dim);
    }
    if (layer) {
        TEST_CALL(t, layer_norm_forward, f);
        TEST_CALL(t, layer_norm_backward, a);
    } else {
        TEST_CALL(t, rms_norm_forward, f);
        TEST_CALL(t, rms_norm_backward, a);
    }
}

static void test_norms(void **state)
{
    (void)state;
    on_all_sizes(run_norm_forward, 8, "norm forward");
    on_all_sizes(run_norm_backward, 16, "norm backward");
}

/* [rows, groups, dim] inside wider rows: the norm of queries and keys. */
static void run_grouped_norm(test_run *t)
{
    enum { ROWS = 5, GROUPS = 3, DIM = 20, WIDTH = 100 };
    float *x = test_inout(t, ROWS * WIDTH), *weight = test_input(t, DIM);
    lt_tensor view = lt_tensor_3d(x + 7, LT_F32, ROWS, GROUPS, DIM);
    view.stride[0] = WIDTH;
    lt_norm_args a = {.x = view, .y = view, .weight = vector_of(weight, DIM), .eps = 1e-6};
    a.rstd = vector_of(test_output(t, ROWS * GROUPS), ROWS * GROUPS);
    TEST_CALL(t, rms_norm_forward, a);
}

static void test_grouped_norm(void **state)
{
    (void)state;
    test_all_backends(run_grouped_norm, NULL, "norm of heads in place");
}

/* --- Elementwise ----------------------------------------------------------------------------- */

static void run_activation(test_run *t)
{
    const size_case *p = t->parameters;
    lt_activation activation = (lt_activation)(p->flag >> 1);
    float *x = test_input(t, room(p));
    stretch(x, room(p), 6, 0);
    lt_activation_args a = {activation, rows_of(p, x), rows_of(p, test_output(t, room(p)))};
    lt_activation_backward_args b = {activation, a.x, rows_of(p, test_input(t, room(p))), {0}};
    b.dx = rows_of(p, test_output(t, room(p)));
    if (p->flag & 1) { /* in place */
        memcpy(a.y.data, x, (size_t)room(p) * sizeof *x);
        memcpy(b.dx.data, b.dy.data, (size_t)room(p) * sizeof *x);
        a.x = a.y;
        b.dy = b.dx;
    }
    TEST_CALL(t, activation_forward, a);
    TEST_CALL(t, activation_backward, b);
}

static void test_activations(void **state)
{
    (void)state;
    on_all_sizes(run_activation, 12, "activation");
}

/* Far out nothing overflows, and the tails have their values. */
static void test_activation_tails(void **state)
{
    static const float x[] = {-1e30f, -200,  -100, -30, -12, -5,   -1e-6f,
                              0,      1e-6f, 5,    12,  100, 1e18f};
    enum { N = sizeof x / sizeof *x };
    (void)state;
    for (int isa = 1; isa < 3; isa++)
        for (int which = 0; which <= LT_ACTIVATION_TANH; which++) {
            const lt_backend *backend = test_backend_kept(isa, 1), *ref = test_backend_kept(0, 1);
            if (!backend) continue;
            float want[N], have[N];
            lt_activation_args a = {(lt_activation)which, vector_of((float *)x, N),
                                    vector_of(want, N)};
            test_ok(lt_activation_forward(ref, &a, NULL), NULL);
            a.y.data = have;
            test_ok(lt_activation_forward(backend, &a, NULL), NULL);
            for (int i = 0; i < N; i++)
                if (!(fabsf(want[i] - have[i]) <= 4e-6f * fabsf(want[i]) + 1e-14f))
                    fail_msg("%s: activation %d of %g is %g, expected %g", backend->name, which,
                             (double)x[i], (double)have[i], (double)want[i]);
        }
}

static void run_swiglu(test_run *t)
{
    const size_case *p = t->parameters;
    size_case wide = {p->rows, 2 * p->dim, p->gap, 0};
    float *gate_up = test_input(t, room(&wide));
    stretch(gate_up, room(&wide), 5, 0);
    lt_swiglu_args a = {rows_of(&wide, gate_up), rows_of(p, test_output(t, room(p)))};
    lt_swiglu_backward_args b = {a.gate_up, rows_of(p, test_input(t, room(p))),
                                 rows_of(&wide, test_output(t, room(&wide)))};
    if (p->flag) { /* in place */
        memcpy(b.dgate_up.data, gate_up, (size_t)room(&wide) * sizeof *gate_up);
        b.gate_up = b.dgate_up;
    }
    TEST_CALL(t, swiglu_forward, a);
    TEST_CALL(t, swiglu_backward, b);
}

static void run_add(test_run *t)
{
    const size_case *p = t->parameters;
    lt_add_args a = {rows_of(p, test_input(t, room(p))), rows_of(p, test_input(t, room(p))), {0}};
    a.y = rows_of(p, p->flag ? test_inout(t, room(p)) : test_output(t, room(p)));
    if (p->flag) a.b = a.y;
    TEST_CALL(t, add, a);
}

static void run_scale(test_run *t)
{
    const size_case *p = t->parameters;
    lt_scale_args a = {.factor = -1.7};
    a.y = rows_of(p, p->flag ? test_inout(t, room(p)) : test_output(t, room(p)));
    a.x = p->flag ? a.y : rows_of(p, test_input(t, room(p)));
    TEST_CALL(t, scale, a);
}

/* flags: 1 bias, 2 shift, 4 accumulate, 8 residual, 16 residual in y, 32 x in y */
static void run_scale_columns(test_run *t)
{
    const size_case *p = t->parameters;
    if ((p->flag & 24) == 24) return;
    lt_scale_columns_args a = {.shift = p->flag & 2 ? 1 : 0, .accumulate = p->flag & 4};
    a.y = rows_of(p, p->flag & 52 ? test_inout(t, room(p)) : test_output(t, room(p)));
    a.x = p->flag & 32 ? a.y : rows_of(p, test_input(t, room(p)));
    a.scale = vector_of(test_input(t, p->dim), p->dim);
    if (p->flag & 1) a.bias = vector_of(test_input(t, p->dim), p->dim);
    if (p->flag & 8) a.residual = rows_of(p, test_input(t, room(p)));
    if (p->flag & 16) a.residual = a.y;
    TEST_CALL(t, scale_columns, a);
}

static void run_zero(test_run *t)
{
    const size_case *p = t->parameters;
    lt_zero_args a = {lt_tensor_2d(test_output(t, p->rows * p->dim), LT_F32, p->rows, p->dim)};
    TEST_CALL(t, zero, a);
}

static void test_simple(void **state)
{
    (void)state;
    on_all_sizes(run_swiglu, 2, "swiglu");
    on_all_sizes(run_add, 2, "add");
    on_all_sizes(run_scale, 2, "scale");
    on_all_sizes(run_scale_columns, 64, "scale_columns");
    on_all_sizes(run_zero, 1, "zero");
}

/* The masks are those of base/rng.h to the element, also when x is infinite. */
static void run_dropout(test_run *t)
{
    static const double rates[] = {0, 0.1, 0.5, 0.999, 1 - 1e-12};
    const size_case *p = t->parameters;
    float *x = test_input(t, p->rows * p->dim);
    if (p->rows * p->dim > 40) x[40] = INFINITY;
    lt_dropout_args a = {.x = lt_tensor_2d(x, LT_F32, p->rows, p->dim)};
    a.y = a.x;
    a.y.data = test_output(t, p->rows * p->dim);
    a.dropout = (lt_dropout_mask){rates[p->flag], 0x123456789abcdefu, 0xfedcba987654321u};
    TEST_CALL(t, dropout, a);
}

static void test_dropout(void **state)
{
    (void)state;
    on_all_sizes(run_dropout, 5, "dropout");
    float x[1000], y[1000];
    lt_dropout_args a = {vector_of(x, 1000), vector_of(y, 1000), {0.25, 5, 6}};
    int kept = 0;
    for (int i = 0; i < 1000; i++)
        x[i] = 1;
    test_ok(lt_dropout(test_backend_kept(0, 1), &a, NULL), NULL);
    for (int i = 0; i < 1000; i++) {
        uint32_t words[4];
        lt_philox(5, 6, (uint64_t)i / 4, words);
        bool keep = words[i % 4] >= 0x40000000u;
        assert_true(y[i] == (keep ? (float)(1 / 0.75) : 0));
        kept += keep;
    }
    assert_in_range(kept, 700, 800);
}

/* At the very threshold: a word that equals rate 2^32 is kept, one below is not. */
static void test_dropout_threshold(void **state)
{
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (uint64_t i = 0; i < 30; i++) {
            float x[30], y[30];
            uint32_t words[4];
            if (!test_backend_kept(isa, 1)) continue;
            for (int j = 0; j < 30; j++)
                x[j] = 1;
            lt_philox(5, 6, i / 4, words);
            lt_dropout_args a = {
                vector_of(x, 30), vector_of(y, 30), {words[i % 4] * 0x1p-32, 5, 6}};
            test_ok(lt_dropout(test_backend_kept(isa, 1), &a, NULL), NULL);
            assert_true(y[i] != 0);
            a.dropout.rate = (words[i % 4] + 1.0) * 0x1p-32;
            test_ok(lt_dropout(test_backend_kept(isa, 1), &a, NULL), NULL);
            assert_true(y[i] == 0);
        }
}

/* flags: 1 inverse, 2 partial */
static void run_rotary(test_run *t)
{
    const size_case *p = t->parameters;
    enum { BATCH = 2, LENGTH = 9, HEADS = 3, POSITIONS = 40 };
    int64_t head_dim = p->dim * 2, half = p->flag & 2 ? p->dim / 2 : p->dim;
    int64_t width = HEADS * head_dim + p->gap;
    float *x = test_inout(t, BATCH * LENGTH * width);
    float *cosine = test_input(t, POSITIONS * half), *sine = test_input(t, POSITIONS * half);
    int32_t *positions = test_integers(t, BATCH * LENGTH, POSITIONS);
    lt_tensor view = lt_tensor_4d(x, LT_F32, BATCH, LENGTH, HEADS, head_dim);
    view.stride[1] = width;
    view.stride[0] = LENGTH * width;
    lt_rotary_args a = {.x = view,
                        .positions = lt_tensor_1d(positions, LT_I32, BATCH * LENGTH),
                        .cos = lt_tensor_2d(cosine, LT_F32, POSITIONS, half),
                        .sin = lt_tensor_2d(sine, LT_F32, POSITIONS, half),
                        .inverse = p->flag & 1};
    TEST_CALL(t, rotary, a);
}

static void test_rotary(void **state)
{
    (void)state;
    on_all_sizes(run_rotary, 4, "rotary");
}

/* --- Sums over rows and views ----------------------------------------------------------------- */

static void run_bias_backward(test_run *t)
{
    const size_case *p = t->parameters;
    lt_bias_backward_args a = {vector_of(test_inout(t, p->dim), p->dim),
                               rows_of(p, test_input(t, room(p)))};
    TEST_CALL(t, bias_backward, a);
}

static void run_dora_backward(test_run *t)
{
    const size_case *p = t->parameters;
    size_case wider = {p->rows, p->dim, p->gap + 3, 0};
    lt_dora_backward_args a = {.dy = rows_of(p, test_input(t, room(p))),
                               .z = rows_of(&wider, test_input(t, room(&wider)))};
    float *norm = test_input(t, p->dim);
    stretch(norm, p->dim, 0.5f, 2);
    a.norm = vector_of(norm, p->dim);
    a.dmagnitude = vector_of(test_inout(t, p->dim), p->dim);
    TEST_CALL(t, dora_backward, a);
}

/* rows x dim is the weight. flags: 1 magnitude, 2 bf16, 4 rank 0 */
static void run_dora_norm(test_run *t)
{
    const size_case *p = t->parameters;
    int64_t rank = p->flag & 4 ? 0 : 5, out = p->rows;
    lt_dora_norm_args a = {.weight = test_weight(t, p->flag & 2, out, p->dim, p->gap),
                           .a = test_weight(t, false, rank, p->dim, p->gap),
                           .b = test_weight(t, false, out, rank, p->gap),
                           .norm = vector_of(test_output(t, out), out),
                           .scaling = 0.75};
    if (p->flag & 1) {
        a.magnitude = vector_of(test_input(t, out), out);
        a.scale = vector_of(test_output(t, out), out);
    }
    TEST_CALL(t, dora_norm, a);
}

static void test_sums(void **state)
{
    (void)state;
    on_all_sizes(run_bias_backward, 1, "bias_backward");
    on_all_sizes(run_dora_backward, 1, "dora_backward");
    on_all_sizes(run_dora_norm, 8, "dora_norm");
}

/* Column blocks of wider matrices, each with a row stride of its own, as parts of a fused
 * projection and its gradient are. */
static void run_views(test_run *t)
{
    const size_case *p = t->parameters;
    lt_tensor part[6];
    for (int64_t i = 0; i < 6; i++) {
        size_case wide = {p->rows, (3 + i) * p->dim, p->gap, 0};
        float *x = i < 3 ? test_input(t, room(&wide)) : test_inout(t, room(&wide));
        part[i] = lt_tensor_slice(rows_of(&wide, x), 1, i % 3 * p->dim, p->dim);
    }
    int32_t *index = test_integers(t, p->rows, p->rows);
    lt_add_args add = {part[0], part[1], part[3]};
    lt_rows_args gather = {part[2], part[4], lt_tensor_1d(index, LT_I32, p->rows)};
    lt_bias_backward_args bias = {vector_of(test_inout(t, p->dim), p->dim), part[0]};
    lt_scale_columns_args scale = {.x = part[1], .y = part[5], .residual = part[2]};
    scale.scale = vector_of(test_input(t, p->dim), p->dim);
    TEST_CALL(t, add, add);
    TEST_CALL(t, gather_rows, gather);
    TEST_CALL(t, bias_backward, bias);
    TEST_CALL(t, scale_columns, scale);
    for (int64_t i = 0; i < p->rows; i++) {
        const float *from = (float *)part[2].data + index[i] * part[2].stride[0];
        assert_memory_equal((float *)part[4].data + i * part[4].stride[0], from,
                            (size_t)p->dim * sizeof *from);
    }
}

static void test_views(void **state)
{
    (void)state;
    on_all_sizes(run_views, 1, "views");
}

/* Small enough to be computed by hand. */
static void test_known(void **state)
{
    (void)state;
    for (int isa = 0; isa < 3; isa++) {
        const lt_backend *backend = test_backend_kept(isa, 1);
        float weight[] = {3, 4, 1, 0}, down[] = {1, 2}, up[] = {0, 2}, magnitude[] = {10, 4};
        float norm[2], scale[2], x[] = {3, 1}, bias[] = {1, -1}, y[] = {2, 5};
        if (!backend) continue;
        lt_dora_norm_args dora = {.weight = lt_tensor_2d(weight, LT_F32, 2, 2),
                                  .a = lt_tensor_2d(down, LT_F32, 1, 2),
                                  .b = lt_tensor_2d(up, LT_F32, 2, 1),
                                  .magnitude = vector_of(magnitude, 2),
                                  .norm = vector_of(norm, 2),
                                  .scale = vector_of(scale, 2),
                                  .scaling = 1.5}; /* the second row is 1 + 3, 0 + 6 */
        test_ok(lt_dora_norm(backend, &dora, NULL), NULL);
        assert_true(norm[0] == 5 && norm[1] == sqrtf(52));
        assert_true(scale[0] == 2 && scale[1] == 4 / sqrtf(52));
        scale[1] = 3;
        lt_scale_columns_args columns = {.x = lt_tensor_2d(x, LT_F32, 1, 2),
                                         .y = lt_tensor_2d(y, LT_F32, 1, 2),
                                         .scale = vector_of(scale, 2),
                                         .bias = vector_of(bias, 2),
                                         .shift = 1,
                                         .accumulate = true};
        test_ok(lt_scale_columns(backend, &columns, NULL), NULL);
        assert_true(y[0] == (2 + 1) * 3 + 1 + 2 && y[1] == (3 + 1) * 1 - 1 + 5);
        lt_scale_args half = {vector_of(x, 2), vector_of(x, 2), -0.5};
        test_ok(lt_scale(backend, &half, NULL), NULL);
        assert_true(x[0] == -1.5f && x[1] == -0.5f);
    }
}

/* A row of length 0 has no direction: no NaN, no gradient. */
static void test_dora_of_nothing(void **state)
{
    (void)state;
    for (int isa = 0; isa < 3; isa++) {
        const lt_backend *backend = test_backend_kept(isa, 1);
        float weight[] = {3, 4, 0, 0}, down[] = {1, 2}, up[] = {0, 0}, magnitude[] = {10, 4};
        float norm[2], scale[2], dy[] = {1, 1}, z[] = {5, 0}, d[] = {0, 0};
        if (!backend) continue;
        lt_dora_norm_args dora = {.weight = lt_tensor_2d(weight, LT_F32, 2, 2),
                                  .a = lt_tensor_2d(down, LT_F32, 1, 2),
                                  .b = lt_tensor_2d(up, LT_F32, 2, 1),
                                  .magnitude = vector_of(magnitude, 2),
                                  .norm = vector_of(norm, 2),
                                  .scale = vector_of(scale, 2),
                                  .scaling = 1};
        lt_dora_backward_args backward = {.dy = lt_tensor_2d(dy, LT_F32, 1, 2),
                                          .z = lt_tensor_2d(z, LT_F32, 1, 2),
                                          .norm = vector_of(norm, 2),
                                          .dmagnitude = vector_of(d, 2)};
        test_ok(lt_dora_norm(backend, &dora, NULL), NULL);
        test_ok(lt_dora_backward(backend, &backward, NULL), NULL);
        assert_true(norm[1] == 0 && scale[0] == 2 && scale[1] == 0);
        assert_true(d[0] == 1 && d[1] == 0);
    }
}

static void test_dora_refusals(void **state)
{
    float x[64] = {1};
    lt_err err = {0};
    lt_dora_norm_args a = {.weight = lt_tensor_2d(x, LT_F32, 4, 6),
                           .a = lt_tensor_2d(x, LT_F32, 2, 6),
                           .b = lt_tensor_2d(x, LT_F32, 4, 3),
                           .norm = vector_of(x + 40, 4)};
    (void)state;
    assert_int_equal(lt_dora_norm(test_backend_kept(0, 1), &a, &err), LT_ERR_USAGE);
    assert_string_equal(err.message,
                        "dora_norm: b is f32 [4, 3], expected f32 [4, 2] with the last stride 1");
    a.b = lt_tensor_2d(x, LT_F32, 4, 2);
    a.magnitude = vector_of(x, 4);
    assert_int_equal(lt_dora_norm(test_backend_kept(0, 1), &a, &err), LT_ERR_USAGE);
    assert_string_equal(err.message, "dora_norm: magnitude and scale come together");
    a.scale = vector_of(x + 50, 4);
    assert_int_equal(lt_dora_norm(test_backend_kept(0, 1), &a, &err), LT_OK);
}

/* --- Rows by index --------------------------------------------------------------------------- */

/* flags: 1 no positions, 2 tokens in bf16 */
static void run_embedding(test_run *t)
{
    const size_case *p = t->parameters;
    enum { VOCAB = 11, POSITIONS = 7 };
    int64_t tokens = VOCAB * p->dim, places = POSITIONS * p->dim;
    lt_tensor ids = lt_tensor_1d(test_integers(t, p->rows, VOCAB), LT_I32, p->rows);
    lt_tensor positions = lt_tensor_1d(test_integers(t, p->rows, POSITIONS), LT_I32, p->rows);
    lt_embedding_args a = {.y = rows_of(p, test_output(t, room(p))), .ids = ids};
    a.token_table = test_weight(t, p->flag & 2, VOCAB, p->dim, p->gap);
    lt_embedding_backward_args b = {.dy = rows_of(p, test_input(t, room(p))), .ids = ids};
    b.dtoken_table = lt_tensor_2d(test_inout(t, tokens), LT_F32, VOCAB, p->dim);
    if (!(p->flag & 1)) {
        a.positions = b.positions = positions;
        a.position_table = lt_tensor_2d(test_input(t, places), LT_F32, POSITIONS, p->dim);
        b.dposition_table = lt_tensor_2d(test_inout(t, places), LT_F32, POSITIONS, p->dim);
    }
    TEST_CALL(t, embedding_forward, a);
    TEST_CALL(t, embedding_backward, b);
}

static void run_gather_scatter(test_run *t)
{
    const size_case *p = t->parameters;
    size_case half = {p->rows / 2, p->dim, p->gap, 0};
    int32_t *index = test_integers(t, half.rows, 1);
    for (int64_t i = 0; i < half.rows; i++)
        index[i] = (int32_t)(p->rows - 1 - 2 * i); /* distinct */
    lt_rows_args gather = {.x = rows_of(p, test_input(t, room(p))),
                           .y = rows_of(&half, test_output(t, room(&half))),
                           .index = lt_tensor_1d(index, LT_I32, half.rows)};
    lt_rows_args scatter = {.x = gather.y, .index = gather.index};
    scatter.y = rows_of(p, test_output(t, room(p)));
    TEST_CALL(t, gather_rows, gather);
    TEST_CALL(t, scatter_rows, scatter);
    const float *x = gather.x.data, *y = gather.y.data, *z = scatter.y.data;
    int64_t stride = p->dim + p->gap;
    for (int64_t i = 0; i < half.rows; i++) {
        size_t bytes = (size_t)p->dim * sizeof *x;
        assert_memory_equal(y + i * stride, x + index[i] * stride, bytes);
        assert_memory_equal(z + index[i] * stride, x + index[i] * stride, bytes);
    }
    if (p->rows > 1 && p->rows % 2 == 0) assert_true(z[0] == 0);
}

/* flags: 0 k and v side by side, 1 one and the same k and v for every sequence, 2 head by head */
static void run_cache_append(test_run *t)
{
    enum { BATCH = 3, LENGTH = 2, CAPACITY = 10, HEADS = 2 };
    const size_case *p = t->parameters;
    int64_t width = HEADS * p->dim, count = BATCH * CAPACITY * width;
    float *kv = test_input(t, BATCH * LENGTH * 2 * width), *caches[2];
    lt_tensor both = lt_tensor_2d(kv, LT_F32, BATCH * LENGTH, 2 * width);
    lt_cache_append_args a = {0};
    a.k = lt_tensor_as_heads(lt_tensor_slice(both, 1, 0, width), BATCH, HEADS, p->dim);
    a.v = lt_tensor_as_heads(lt_tensor_slice(both, 1, width, width), BATCH, HEADS, p->dim);
    if (p->flag == 1) a.k.stride[0] = a.v.stride[0] = 0;
    if (p->flag == 2) {
        a.k.stride[2] = a.v.stride[2] = 2 * p->dim;
        a.v.data = kv + p->dim;
    }
    for (int i = 0; i < 2; i++)
        caches[i] = test_output(t, count);
    a.k_cache = lt_tensor_4d(caches[0], LT_F32, BATCH, CAPACITY, HEADS, p->dim);
    a.v_cache = lt_tensor_4d(caches[1], LT_F32, BATCH, CAPACITY, HEADS, p->dim);
    int32_t *offset = test_integers(t, BATCH, CAPACITY - LENGTH + 1);
    a.offset = lt_tensor_1d(offset, LT_I32, BATCH);
    TEST_CALL(t, cache_append, a);
    for (int64_t h = 0; h < HEADS; h++) { /* the second sequence, its second row */
        int64_t to = (1 * CAPACITY + offset[1] + 1) * width + h * p->dim;
        int64_t from = (p->flag == 1 ? 1 : LENGTH + 1) * 2 * width + h * a.k.stride[2];
        size_t bytes = (size_t)p->dim * sizeof *kv;
        assert_memory_equal(caches[0] + to, kv + from, bytes);
        assert_memory_equal(caches[1] + to, (float *)a.v.data + from, bytes);
    }
}

static void test_indexed(void **state)
{
    (void)state;
    on_all_sizes(run_embedding, 4, "embedding");
    on_all_sizes(run_gather_scatter, 1, "gather and scatter");
    on_all_sizes(run_cache_append, 3, "cache append");
    size_case large = {0, 700, 0, 0}; /* for several threads */
    for (; large.flag < 3; large.flag++)
        test_all_backends(run_cache_append, &large, "cache append, large");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_grouped_norm),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_activation_tails),
        cmocka_unit_test(test_simple),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_dropout_threshold),
        cmocka_unit_test(test_rotary),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_dora_of_nothing),
        cmocka_unit_test(test_dora_refusals),
        cmocka_unit_test(test_indexed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
