/* Every backward operation of the reference against central differences, in double: the loss is the
 * sum of the outputs, each times a fixed random weight. Also that every output is an output:
 * forward is called anew for each difference. */
#include "tests/unit/kernels/kernel_test.h"

#define INPUTS 6
#define STEP   1e-5

/* One operation under test: inputs, their gradients, one output, the gradient that flows in. */
typedef struct gradient_case {
    const lt_backend *backend;
    const char *what;
    int inputs;
    int64_t count[INPUTS], out_count;
    double *input[INPUTS], *gradient[INPUTS], *out, *dout;
    void (*forward)(struct gradient_case *c);
    void (*backward)(struct gradient_case *c);
    int flag;
    double *saved[3]; /* statistics that forward leaves for backward */
} gradient_case;

static double *doubles(int64_t count, uint64_t stream)
{
    double *x = malloc((size_t)(count ? count : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < count; i++)
        x[i] = 2 * lt_random_uniform(9, stream, (uint64_t)i) - 1;
    return x;
}

static double loss(gradient_case *c)
{
    double sum = 0;
    c->forward(c);
    for (int64_t i = 0; i < c->out_count; i++)
        sum += c->out[i] * c->dout[i];
    return sum;
}

/* `kept` is what the gradients held before: parameters' gradients are added to. */
static void check_input(gradient_case *c, int k, double kept)
{
    double largest = 0;
    for (int64_t i = 0; i < c->count[k]; i++)
        largest = fmax(largest, fabs(c->gradient[k][i] - kept));
    for (int64_t i = 0; i < c->count[k]; i++) {
        double x = c->input[k][i];
        c->input[k][i] = x + STEP;
        double up = loss(c);
        c->input[k][i] = x - STEP;
        double down = loss(c);
        c->input[k][i] = x;
        double numeric = (up - down) / (2 * STEP), analytic = c->gradient[k][i] - kept;
        if (!(fabs(numeric - analytic) <= 1e-6 * fmax(largest, 1e-2)))
            fail_msg("%s: gradient of input %d, element %lld is %.9g, differences give %.9g",
                     c->what, k, (long long)i, analytic, numeric);
    }
}

/* added: bit k is set when gradient k is added to what is there. */
static void check(gradient_case *c, unsigned added)
{
    lt_backend *backend = NULL;
    test_ok(lt_backend_create_double(&backend, NULL), NULL);
    c->backend = backend;
    for (int k = 0; k < c->inputs; k++) {
        c->input[k] = doubles(c->count[k], (uint64_t)(10 + k));
        c->gradient[k] = doubles(c->count[k], 0);
        for (int64_t i = 0; i < c->count[k]; i++)
            c->gradient[k][i] = added >> k & 1 ? 0.5 : NAN;
    }
    for (int s = 0; s < 3; s++)
        c->saved[s] = doubles(1000, 1);
    c->out = doubles(c->out_count, 2);
    c->dout = doubles(c->out_count, 3);
    c->forward(c);
    c->backward(c);
    for (int k = 0; k < c->inputs; k++)
        check_input(c, k, added >> k & 1 ? 0.5 : 0);
    for (int k = 0; k < c->inputs; k++) {
        free(c->input[k]);
        free(c->gradient[k]);
    }
    for (int s = 0; s < 3; s++)
        free(c->saved[s]);
    free(c->out);
    free(c->dout);
    lt_backend_free(backend);
}

#define CALL(c, operation, ...)                                                      \
    do {                                                                             \
        lt_err call_err_ = {0};                                                      \
        test_ok(lt_##operation((c)->backend, &__VA_ARGS__, &call_err_), &call_err_); \
    } while (0)

static lt_tensor matrix(double *data, int64_t rows, int64_t columns)
{
    return lt_tensor_2d(data, LT_F64, rows, columns);
}

static lt_tensor array(double *data, int64_t n)
{
    return lt_tensor_1d(data, LT_F64, n);
}

/* --- Linear layer: all three layouts and the bias, with an activation in the epilogue -----------
 */

enum { M = 4, N = 5, K = 3 };

static void linear_forward(gradient_case *c)
{
    lt_matmul_args a = {.layout = LT_MATMUL_NT,
                        .c = matrix(c->out, M, N),
                        .a = matrix(c->input[0], M, K),
                        .b = matrix(c->input[1], N, K),
                        .bias = array(c->input[2], N),
                        .residual = matrix(c->input[3], M, N),
                        .preactivation = matrix(c->saved[0], M, N),
                        .activation = (lt_activation)c->flag};
    CALL(c, matmul, a);
}

static void linear_backward(gradient_case *c)
{
    double *dv = c->saved[1];
    memcpy(c->gradient[3], c->dout, M * N * sizeof *dv);
    lt_activation_backward_args d = {(lt_activation)c->flag, matrix(c->saved[0], M, N),
                                     matrix(c->dout, M, N), matrix(dv, M, N)};
    CALL(c, activation_backward, d);
    lt_matmul_args dx = {.layout = LT_MATMUL_NN,
                         .c = matrix(c->gradient[0], M, K),
                         .a = matrix(dv, M, N),
                         .b = matrix(c->input[1], N, K)};
    lt_matmul_args dw = {.layout = LT_MATMUL_TN,
                         .c = matrix(c->gradient[1], N, K),
                         .a = matrix(dv, M, N),
                         .b = matrix(c->input[0], M, K),
                         .accumulate = true};
    lt_bias_backward_args db = {array(c->gradient[2], N), matrix(dv, M, N)};
    CALL(c, matmul, dx);
    CALL(c, matmul, dw);
    CALL(c, bias_backward, db);
}

static void test_linear(void **state)
{
    (void)state;
    for (int activation = LT_ACTIVATION_NONE; activation <= LT_ACTIVATION_TANH; activation++) {
        gradient_case c = {.what = "linear",
                           .inputs = 4,
                           .count = {M * K, N * K, N, M * N},
                           .out_count = M * N,
                           .forward = linear_forward,
                           .backward = linear_backward,
                           .flag = activation};
        check(&c, 2 | 4);
    }
}

/* --- Low-rank update: y = [x | h] [W | B]^T with h = x A^T; dx = [dy | dh] [W ; A]
 * -----------------
 */

enum { RANK = 2 };

static lt_matmul_args down_projection(gradient_case *c)
{
    return (lt_matmul_args){.layout = LT_MATMUL_NT,
                            .c = matrix(c->saved[0], M, RANK),
                            .a = matrix(c->input[0], M, K),
                            .b = matrix(c->input[2], RANK, K)};
}

static void low_rank_forward(gradient_case *c)
{
    lt_matmul_args h = down_projection(c);
    lt_matmul_args y = {.layout = LT_MATMUL_NT,
                        .c = matrix(c->out, M, N),
                        .a = matrix(c->input[0], M, K),
                        .b = matrix(c->input[1], N, K),
                        .a_extra = h.c,
                        .b_extra = matrix(c->input[3], N, RANK)};
    CALL(c, matmul, h);
    CALL(c, matmul, y);
}

/* d += dy^T x */
static void add_weight_gradient(gradient_case *c, lt_tensor d, lt_tensor dy, lt_tensor x)
{
    lt_matmul_args a = {.layout = LT_MATMUL_TN, .c = d, .a = dy, .b = x, .accumulate = true};
    CALL(c, matmul, a);
}

static void low_rank_backward(gradient_case *c)
{
    lt_tensor dy = matrix(c->dout, M, N), dh = matrix(c->saved[1], M, RANK);
    lt_tensor x = matrix(c->input[0], M, K), h = matrix(c->saved[0], M, RANK);
    lt_matmul_args back = {
        .layout = LT_MATMUL_NN, .c = dh, .a = dy, .b = matrix(c->input[3], N, RANK)};
    lt_matmul_args dx = {.layout = LT_MATMUL_NN,
                         .c = matrix(c->gradient[0], M, K),
                         .a = dy,
                         .b = matrix(c->input[1], N, K),
                         .a_extra = dh,
                         .b_extra = matrix(c->input[2], RANK, K)};
    CALL(c, matmul, back);
    CALL(c, matmul, dx);
    add_weight_gradient(c, matrix(c->gradient[1], N, K), dy, x);
    add_weight_gradient(c, matrix(c->gradient[2], RANK, K), dh, x);
    add_weight_gradient(c, matrix(c->gradient[3], N, RANK), dy, h);
}

static void test_low_rank(void **state)
{
    gradient_case c = {.what = "low-rank update",
                       .inputs = 4,
                       .count = {M * K, N * K, RANK * K, N * RANK},
                       .out_count = M * N,
                       .forward = low_rank_forward,
                       .backward = low_rank_backward};
    (void)state;
    check(&c, 2 | 4 | 8);
}

/* --- Norms ----------------------------------------------------------------------------------- */

enum { ROWS = 3, DIM = 7 };

static void norm_forward(gradient_case *c)
{
    lt_norm_args a = {.x = matrix(c->input[0], ROWS, DIM),
                      .y = matrix(c->out, ROWS, DIM),
                      .weight = array(c->input[1], DIM),
                      .rstd = array(c->saved[0], ROWS),
                      .eps = 1e-5};
    if (c->inputs == 2) {
        CALL(c, rms_norm_forward, a);
        return;
    }
    a.bias = array(c->input[2], DIM);
    a.mean = array(c->saved[1], ROWS);
    CALL(c, layer_norm_forward, a);
}

static void norm_backward(gradient_case *c)
{
    lt_norm_backward_args a = {.x = matrix(c->input[0], ROWS, DIM),
                               .weight = array(c->input[1], DIM),
                               .rstd = array(c->saved[0], ROWS),
                               .dy = matrix(c->dout, ROWS, DIM),
                               .dx = matrix(c->gradient[0], ROWS, DIM),
                               .dweight = array(c->gradient[1], DIM),
                               .accumulate = c->flag};
    if (c->inputs == 2) {
        CALL(c, rms_norm_backward, a);
        return;
    }
    a.mean = array(c->saved[1], ROWS);
    a.dbias = array(c->gradient[2], DIM);
    CALL(c, layer_norm_backward, a);
}

static void test_norms(void **state)
{
    (void)state;
    for (int inputs = 2; inputs <= 3; inputs++)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            gradient_case c = {.what = inputs == 2 ? "RMS norm" : "layer norm",
                               .inputs = inputs,
                               .count = {ROWS * DIM, DIM, DIM},
                               .out_count = ROWS * DIM,
                               .forward = norm_forward,
                               .backward = norm_backward,
                               .flag = accumulate};
            check(&c, accumulate ? 7 : 6);
        }
}

/* --- Attention ------------------------------------------------------------------------------- */

enum { BATCH = 2, Q_LEN = 5, KV_LEN = 7, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 3 };

/* flags: 1 offset, 2 documents, 4 window, 8 dropout, 16 prefix */
static lt_attention_args attention_arguments(gradient_case *c)
{
    static int32_t offset[BATCH] = {2, -1};
    static int32_t first_key[BATCH * Q_LEN] = {0, 0, 3, 3, 3, 0, 1, 2, 2, 2};
    static int32_t behind_prefix[BATCH * Q_LEN] = {2, 2, 4, 4, 6, 2, 2, 3, 3, 3};
    lt_attention_args a = {
        .q = lt_tensor_4d(c->input[0], LT_F64, BATCH, Q_LEN, HEADS, HEAD_DIM),
        .k = lt_tensor_4d(c->input[1], LT_F64, BATCH, KV_LEN, KV_HEADS, HEAD_DIM),
        .v = lt_tensor_4d(c->input[2], LT_F64, BATCH, KV_LEN, KV_HEADS, HEAD_DIM),
        .out = lt_tensor_4d(c->out, LT_F64, BATCH, Q_LEN, HEADS, HEAD_DIM),
        .lse = lt_tensor_3d(c->saved[0], LT_F64, BATCH, HEADS, Q_LEN),
        .scale = 0.7};
    if (c->flag & 1) a.offset = lt_tensor_1d(offset, LT_I32, BATCH);
    if (c->flag & 2) a.first_key = lt_tensor_2d(first_key, LT_I32, BATCH, Q_LEN);
    if ((c->flag & 18) == 18) a.first_key.data = behind_prefix;
    if (c->flag & 16) a.prefix = 2;
    if (c->flag & 4) a.window = 3;
    if (c->flag & 8) a.dropout = (lt_dropout_mask){0.4, 1, 2};
    return a;
}

static void attention_forward(gradient_case *c)
{
    lt_attention_args a = attention_arguments(c);
    CALL(c, attention_forward, a);
}

static void attention_backward(gradient_case *c)
{
    lt_attention_backward_args a = {.forward = attention_arguments(c)};
    a.dout = a.forward.out;
    a.dout.data = c->dout;
    a.dq = a.forward.q;
    a.dk = a.forward.k;
    a.dv = a.forward.v;
    a.dq.data = c->gradient[0];
    a.dk.data = c->gradient[1];
    a.dv.data = c->gradient[2];
    CALL(c, attention_backward, a);
}

static void test_attention(void **state)
{
    (void)state;
    for (int flag = 0; flag < 32; flag++) {
        int64_t q = BATCH * Q_LEN * HEADS * HEAD_DIM, kv = BATCH * KV_LEN * KV_HEADS * HEAD_DIM;
        gradient_case c = {.what = "attention",
                           .inputs = 3,
                           .count = {q, kv, kv},
                           .out_count = q,
                           .forward = attention_forward,
                           .backward = attention_backward,
                           .flag = flag};
        check(&c, 0);
    }
}

/* --- The others ------------------------------------------------------------------------------ */

static void swiglu_forward(gradient_case *c)
{
    lt_swiglu_args a = {matrix(c->input[0], ROWS, 2 * DIM), matrix(c->out, ROWS, DIM)};
    CALL(c, swiglu_forward, a);
}

static void swiglu_backward(gradient_case *c)
{
    lt_swiglu_backward_args a = {matrix(c->input[0], ROWS, 2 * DIM), matrix(c->dout, ROWS, DIM),
                                 matrix(c->gradient[0], ROWS, 2 * DIM)};
    CALL(c, swiglu_backward, a);
}

/* y = (scale + 1) x + bias + residual; the gradient of the scale is that of a magnitude with norms
 * of 1. */
static void scale_columns_forward(gradient_case *c)
{
    lt_scale_columns_args a = {.x = matrix(c->input[0], ROWS, DIM),
                               .y = matrix(c->out, ROWS, DIM),
                               .scale = array(c->input[1], DIM),
                               .bias = array(c->input[2], DIM),
                               .residual = matrix(c->input[3], ROWS, DIM),
                               .shift = 1};
    CALL(c, scale_columns, a);
}

static void scale_columns_backward(gradient_case *c)
{
    lt_tensor dy = matrix(c->dout, ROWS, DIM);
    lt_scale_columns_args dx = {.x = dy,
                                .y = matrix(c->gradient[0], ROWS, DIM),
                                .scale = array(c->input[1], DIM),
                                .shift = 1};
    lt_dora_backward_args dscale = {dy, matrix(c->input[0], ROWS, DIM), array(c->saved[0], DIM),
                                    array(c->gradient[1], DIM)};
    lt_bias_backward_args dbias = {array(c->gradient[2], DIM), dy};
    lt_scale_args dresidual = {dy, matrix(c->gradient[3], ROWS, DIM), 1};
    for (int j = 0; j < DIM; j++)
        c->saved[0][j] = 1;
    CALL(c, scale_columns, dx);
    CALL(c, dora_backward, dscale);
    CALL(c, bias_backward, dbias);
    CALL(c, scale, dresidual);
}

/* y = magnitude / norm z; the norm is a constant in backward, so the weights are no inputs here. */
static void dora_forward(gradient_case *c)
{
    static double weight[DIM * 3], down[RANK * 3], up[DIM * RANK];
    for (int i = 0; i < DIM * 3; i++)
        weight[i] = cos(i);
    for (int i = 0; i < DIM * RANK; i++)
        up[i] = sin(i);
    for (int i = 0; i < RANK * 3; i++)
        down[i] = 1 + cos(2 * i);
    lt_dora_norm_args norm = {.weight = matrix(weight, DIM, 3),
                              .a = matrix(down, RANK, 3),
                              .b = matrix(up, DIM, RANK),
                              .magnitude = array(c->input[1], DIM),
                              .norm = array(c->saved[0], DIM),
                              .scale = array(c->saved[1], DIM),
                              .scaling = 0.5};
    lt_scale_columns_args y = {
        .x = matrix(c->input[0], ROWS, DIM), .y = matrix(c->out, ROWS, DIM), .scale = norm.scale};
    CALL(c, dora_norm, norm);
    CALL(c, scale_columns, y);
}

static void dora_backward(gradient_case *c)
{
    lt_tensor dy = matrix(c->dout, ROWS, DIM);
    lt_scale_columns_args dz = {
        .x = dy, .y = matrix(c->gradient[0], ROWS, DIM), .scale = array(c->saved[1], DIM)};
    lt_dora_backward_args d = {dy, matrix(c->input[0], ROWS, DIM), array(c->saved[0], DIM),
                               array(c->gradient[1], DIM)};
    CALL(c, scale_columns, dz);
    CALL(c, dora_backward, d);
}

/* Backward is the inverse turn of the gradient. */
static void rotate(gradient_case *c, double *x, bool inverse)
{
    static int32_t positions[6] = {0, 1, 2, 0, 3, 1};
    static double angles[2][4 * 2];
    for (int i = 0; i < 8; i++) {
        angles[0][i] = cos(0.3 * i + 0.1);
        angles[1][i] = sin(0.3 * i + 0.1);
    }
    lt_rotary_args a = {.x = lt_tensor_4d(x, LT_F64, 2, 3, 2, 5),
                        .positions = lt_tensor_1d(positions, LT_I32, 6),
                        .cos = matrix(angles[0], 4, 2),
                        .sin = matrix(angles[1], 4, 2),
                        .inverse = inverse};
    CALL(c, rotary, a);
}

static void rotary_forward(gradient_case *c)
{
    memcpy(c->out, c->input[0], 60 * sizeof *c->out);
    rotate(c, c->out, false);
}

static void rotary_backward(gradient_case *c)
{
    memcpy(c->gradient[0], c->dout, 60 * sizeof *c->out);
    rotate(c, c->gradient[0], true);
}

static int32_t ids[5] = {2, 0, 2, 3, 2}, places[5] = {1, 1, 0, 2, 1};

static void embedding_forward(gradient_case *c)
{
    lt_embedding_args a = {matrix(c->out, 5, DIM), lt_tensor_1d(ids, LT_I32, 5),
                           matrix(c->input[0], 4, DIM), lt_tensor_1d(places, LT_I32, 5),
                           matrix(c->input[1], 3, DIM)};
    CALL(c, embedding_forward, a);
}

static void embedding_backward(gradient_case *c)
{
    lt_embedding_backward_args a = {matrix(c->dout, 5, DIM), lt_tensor_1d(ids, LT_I32, 5),
                                    lt_tensor_1d(places, LT_I32, 5), matrix(c->gradient[0], 4, DIM),
                                    matrix(c->gradient[1], 3, DIM)};
    CALL(c, embedding_backward, a);
}

/* The loss of each row is an output; its gradient comes from the call itself. dout is 1. */
static void cross_entropy(gradient_case *c, double *logits, double *gradient)
{
    static int32_t targets[4] = {1, -100, 6, 0};
    lt_cross_entropy_args a = {.logits = matrix(logits, 4, DIM),
                               .targets = lt_tensor_1d(targets, LT_I32, 4),
                               .loss = array(c->out, 4)};
    if (gradient) a.gradient = matrix(gradient, 4, DIM);
    CALL(c, cross_entropy, a);
}

static void cross_entropy_forward(gradient_case *c)
{
    for (int i = 0; i < 4; i++)
        c->dout[i] = 1;
    cross_entropy(c, c->input[0], NULL);
}

static void cross_entropy_backward(gradient_case *c)
{
    memcpy(c->gradient[0], c->input[0], 4 * DIM * sizeof(double));
    cross_entropy(c, c->gradient[0], c->gradient[0]);
}

static void drop(gradient_case *c, double *x, double *y)
{
    lt_dropout_args a = {array(x, 50), array(y, 50), {0.3, 1, 2}};
    CALL(c, dropout, a);
}

static void dropout_forward(gradient_case *c)
{
    drop(c, c->input[0], c->out);
}

static void dropout_backward(gradient_case *c)
{
    drop(c, c->dout, c->gradient[0]);
}

static void test_others(void **state)
{
    gradient_case cases[] = {
        {.what = "swiglu",
         .inputs = 1,
         .count = {ROWS * 2 * DIM},
         .out_count = ROWS * DIM,
         .forward = swiglu_forward,
         .backward = swiglu_backward},
        {.what = "scale_columns",
         .inputs = 4,
         .count = {ROWS * DIM, DIM, DIM, ROWS * DIM},
         .out_count = ROWS * DIM,
         .forward = scale_columns_forward,
         .backward = scale_columns_backward,
         .flag = 6},
        {.what = "dora",
         .inputs = 2,
         .count = {ROWS * DIM, DIM},
         .out_count = ROWS * DIM,
         .forward = dora_forward,
         .backward = dora_backward,
         .flag = 2},
        {.what = "rotary",
         .inputs = 1,
         .count = {60},
         .out_count = 60,
         .forward = rotary_forward,
         .backward = rotary_backward},
        {.what = "embedding",
         .inputs = 2,
         .count = {4 * DIM, 3 * DIM},
         .out_count = 5 * DIM,
         .forward = embedding_forward,
         .backward = embedding_backward,
         .flag = 3},
        {.what = "cross_entropy",
         .inputs = 1,
         .count = {4 * DIM},
         .out_count = 4,
         .forward = cross_entropy_forward,
         .backward = cross_entropy_backward},
        {.what = "dropout",
         .inputs = 1,
         .count = {50},
         .out_count = 50,
         .forward = dropout_forward,
         .backward = dropout_backward},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check(&cases[i], (unsigned)cases[i].flag);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear), cmocka_unit_test(test_low_rank),
        cmocka_unit_test(test_norms),  cmocka_unit_test(test_attention),
        cmocka_unit_test(test_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
