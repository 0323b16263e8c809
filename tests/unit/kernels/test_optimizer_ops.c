/* sum_squares, clip_scale and adamw, with all number types of its state, against their definitions
 * in double; and what training with short states comes to. */
#include "tests/unit/kernels/kernel_test.h"

enum { BLOCK = LT_QUANTISED_BLOCK, SEED = 11, STREAM = 12 };

static const lt_dtype states[] = {LT_F32, LT_BF16, LT_U8};

static double from_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static uint32_t bits_of(double x)
{
    float value = (float)x;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static uint16_t to_bf16(double x)
{
    uint32_t bits = bits_of(x);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* --- A parameter with its optimizer state ---------------------------------------------------- */

typedef struct parameter {
    int64_t n;
    lt_dtype state, gradient_dtype;
    float *weight, *m_scale, *v_scale;
    void *gradient, *m, *v;
    uint16_t *rounded;
    int64_t first_element;
    float scale;
} parameter;

static void *zeros(int64_t count, size_t size)
{
    void *p = calloc((size_t)count + 1, size);
    assert_non_null(p);
    return p;
}

static parameter parameter_of(int64_t n, lt_dtype state, lt_dtype gradient)
{
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
    return (parameter){.n = n,
                       .state = state,
                       .gradient_dtype = gradient,
                       .weight = zeros(n, sizeof(float)),
                       .gradient = zeros(n, sizeof(float)),
                       .m = zeros(n, sizeof(float)),
                       .v = zeros(n, sizeof(float)),
                       .m_scale = zeros(blocks, sizeof(float)),
                       .v_scale = zeros(blocks, sizeof(float)),
                       .rounded = zeros(n, sizeof(uint16_t)),
                       .scale = 1};
}

static void parameter_free(parameter *p)
{
    void *all[] = {p->weight, p->gradient, p->m, p->v, p->m_scale, p->v_scale, p->rounded};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void set_gradient(parameter *p, int64_t i, double x)
{
    if (p->gradient_dtype == LT_BF16)
        ((uint16_t *)p->gradient)[i] = to_bf16(x);
    else
        ((float *)p->gradient)[i] = (float)x;
}

static double gradient_at(const parameter *p, int64_t i)
{
    return p->gradient_dtype == LT_BF16 ? from_bf16(((uint16_t *)p->gradient)[i])
                                        : (double)((float *)p->gradient)[i];
}

static double moment_at(const parameter *p, bool is_v, int64_t i)
{
    const void *data = is_v ? p->v : p->m;
    if (p->state == LT_F32) return (double)((const float *)data)[i];
    if (p->state == LT_BF16) return from_bf16(((const uint16_t *)data)[i]);
    int code = ((const uint8_t *)data)[i];
    double largest = (double)(is_v ? p->v_scale : p->m_scale)[i / BLOCK], q = code - 128;
    if (is_v) return largest * pow(code / 255.0, 4);
    return largest * (q < 0 ? -1 : 1) * pow(q / 127, 2);
}

static lt_adamw_args arguments(parameter *p, int64_t step)
{
    int64_t blocks = (p->n + BLOCK - 1) / BLOCK;
    lt_adamw_args a = {.weight = lt_tensor_1d(p->weight, LT_F32, p->n),
                       .rounded = lt_tensor_1d(p->rounded, LT_BF16, p->n),
                       .gradient = lt_tensor_1d(p->gradient, p->gradient_dtype, p->n),
                       .m = lt_tensor_1d(p->m, p->state, p->n),
                       .v = lt_tensor_1d(p->v, p->state, p->n),
                       .scale = lt_tensor_1d(&p->scale, LT_F32, 1),
                       .learning_rate = 1e-2,
                       .beta1 = 0.9,
                       .beta2 = 0.95,
                       .epsilon = 1e-8,
                       .weight_decay = 0.1,
                       .step = step,
                       .seed = SEED,
                       .stream = STREAM,
                       .first_element = p->first_element};
    if (p->state == LT_U8) {
        a.m_scale = lt_tensor_1d(p->m_scale, LT_F32, blocks);
        a.v_scale = lt_tensor_1d(p->v_scale, LT_F32, blocks);
    }
    return a;
}

static void adamw(const lt_backend *backend, const lt_adamw_args *a)
{
    lt_err err = {0};
    test_ok(lt_adamw(backend, a, &err), &err);
}

/* --- One step against the definition -----------------------------------------------------------
 */

typedef struct step_result {
    double *weight, *m, *v; /* before the moments are shortened */
} step_result;

static step_result plain_step(const parameter *p, const lt_adamw_args *a)
{
    step_result r = {zeros(p->n, 8), zeros(p->n, 8), zeros(p->n, 8)};
    for (int64_t i = 0; i < p->n; i++) {
        double g = (double)p->scale * gradient_at(p, i);
        r.m[i] = a->beta1 * moment_at(p, false, i) + (1 - a->beta1) * g;
        r.v[i] = a->beta2 * moment_at(p, true, i) + (1 - a->beta2) * g * g;
        double m_hat = r.m[i] / (1 - pow(a->beta1, (double)a->step));
        double v_hat = r.v[i] / (1 - pow(a->beta2, (double)a->step));
        r.weight[i] = (double)p->weight[i] * (1 - a->learning_rate * a->weight_decay) -
                      a->learning_rate * m_hat / (sqrt(v_hat) + a->epsilon);
    }
    return r;
}

/* A last bit of difference before rounding may show as a whole unit after it, but rarely. */
static void check_moment(const parameter *p, bool is_v, const double *exact)
{
    int64_t off = 0;
    for (int64_t i = 0; i < p->n; i++) {
        if (p->state == LT_F32) {
            double error = fabs(moment_at(p, is_v, i) - exact[i]);
            assert_true(error <= 1e-6 * (fabs(exact[i]) + 0.1));
        } else if (p->state == LT_BF16) {
            uint32_t words[4], element = (uint32_t)(p->first_element + i);
            lt_philox(SEED, STREAM, (uint64_t)(p->first_element + i) / 4, words);
            uint32_t word = words[element % 4], added = is_v ? word >> 16 : word & 0xFFFF;
            int want = (int)((bits_of(exact[i]) + added) >> 16);
            int have = ((const uint16_t *)(is_v ? p->v : p->m))[i];
            if (want != have && abs(want - have) != 1 && fabs(exact[i]) > 1e-6)
                fail_msg("element %lld is %x, expected %x", (long long)i, have, want);
            off += want != have;
        } else {
            double largest = 0;
            for (int64_t j = i / BLOCK * BLOCK; j < p->n && j < (i / BLOCK + 1) * BLOCK; j++)
                largest = fmax(largest, fabs(exact[j]));
            double scale = (double)(is_v ? p->v_scale : p->m_scale)[i / BLOCK];
            assert_true(fabs(scale - largest) <= 1e-6 * largest);
            double root = largest > 0 ? sqrt(fabs(exact[i]) / largest) : 0;
            int want = is_v ? (int)nearbyint(255 * sqrt(root)) : (int)nearbyint(127 * root);
            if (is_v && want == 0 && exact[i] > 0) want = 1;
            if (!is_v) want = exact[i] < 0 ? 128 - want : 128 + want;
            int have = ((const uint8_t *)(is_v ? p->v : p->m))[i];
            if (abs(want - have) > 1)
                fail_msg("element %lld is code %d, expected %d", (long long)i, have, want);
            off += want != have;
        }
    }
    assert_true(off <= 1 + p->n / 100);
}

static void check_steps(const lt_backend *backend, parameter *p)
{
    for (int64_t step = 1; step <= 3; step++) {
        for (int64_t i = 0; i < p->n; i++) {
            float x;
            test_fill(&x, 1, (uint64_t)(100 * i + step));
            set_gradient(p, i, (double)x * pow(10, -(double)(i % 7)));
        }
        lt_adamw_args a = arguments(p, step);
        step_result want = plain_step(p, &a);
        adamw(backend, &a);
        for (int64_t i = 0; i < p->n; i++) {
            double error = fabs((double)p->weight[i] - want.weight[i]);
            if (!(error <= 1e-6))
                fail_msg("%s: weight %lld of %lld is off by %g", backend->name, (long long)i,
                         (long long)p->n, error);
            assert_int_equal(p->rounded[i], to_bf16((double)p->weight[i]));
        }
        check_moment(p, false, want.m);
        check_moment(p, true, want.v);
        free(want.weight);
        free(want.m);
        free(want.v);
    }
}

static void test_adamw(void **state)
{
    static const int64_t sizes[] = {0, 1, 4, 17, 255, 256, 257, 1000, 40001};
    static const int64_t firsts[] = {0, 3, ((int64_t)1 << 34) + 1};
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (int kind = 0; kind < 6; kind++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                int threads = s % 2 ? 3 : 1;
                if (!test_backend_kept(isa, threads)) continue;
                parameter p = parameter_of(sizes[s], states[kind / 2], kind % 2 ? LT_BF16 : LT_F32);
                p.first_element = firsts[s % 3];
                p.scale = 0.25f;
                test_fill(p.weight, p.n, 5);
                check_steps(test_backend_kept(isa, threads), &p);
                parameter_free(&p);
            }
}

/* flags: 1 later step, 2 no decay, 4 scale not finite */
static void run_plain(test_run *t)
{
    const int64_t *p = t->parameters;
    int64_t n = p[0], flags = p[1];
    float *w = test_inout(t, n), *g = test_input(t, n), *m = test_inout(t, n);
    float *v = test_inout(t, n), scale = flags & 4 ? NAN : 0.25f;
    for (int64_t i = 0; i < n; i++)
        v[i] *= v[i];
    lt_adamw_args a = {.weight = lt_tensor_1d(w, LT_F32, n),
                       .gradient = lt_tensor_1d(g, LT_F32, n),
                       .m = lt_tensor_1d(m, LT_F32, n),
                       .v = lt_tensor_1d(v, LT_F32, n),
                       .scale = lt_tensor_1d(&scale, LT_F32, 1),
                       .learning_rate = 1e-2,
                       .beta1 = 0.9,
                       .beta2 = 0.95,
                       .epsilon = 1e-8,
                       .weight_decay = flags & 2 ? 0 : 0.1,
                       .step = flags & 1 ? 1000 : 1};
    TEST_CALL(t, adamw, a);
}

static void test_plain_adamw(void **state)
{
    static const int64_t sizes[] = {0, 3, 7, 8, 15, 16, 255, 1536, 4097, 70001};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int64_t flags = 0; flags < 8; flags++)
            test_all_backends(run_plain, (int64_t[]){sizes[i], flags}, "adamw");
}

/* The same bits whatever the number of threads, with every kind of state. */
static void test_threads(void **state)
{
    (void)state;
    for (int isa = 1; isa < 3; isa++)
        for (int kind = 0; kind < 3; kind++) {
            parameter p[2];
            for (int k = 0; k < 2 && test_backend_kept(isa, 1); k++) {
                p[k] = parameter_of(50000, states[kind], LT_F32);
                for (int64_t i = 0; i < p[k].n; i++)
                    set_gradient(&p[k], i, sin((double)i));
                for (int64_t step = 1; step < 4; step++) {
                    lt_adamw_args a = arguments(&p[k], step);
                    adamw(test_backend_kept(isa, 1 + 2 * k), &a);
                }
            }
            if (!test_backend_kept(isa, 1)) continue;
            size_t bytes = (size_t)p[0].n * sizeof(float);
            assert_memory_equal(p[0].weight, p[1].weight, bytes);
            assert_memory_equal(p[0].m, p[1].m, bytes);
            assert_memory_equal(p[0].v, p[1].v, bytes);
            parameter_free(&p[0]);
            parameter_free(&p[1]);
        }
}

static void test_not_finite(void **state)
{
    static const float scales[] = {NAN, INFINITY, -INFINITY};
    enum { N = 300 };
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (int kind = 0; kind < 9 && test_backend_kept(isa, 1); kind++) {
            parameter p = parameter_of(N, states[kind / 3], LT_F32);
            void *all[] = {p.weight, p.m, p.v, p.rounded};
            for (int i = 0; i < 4; i++)
                memset(all[i], 0x3B, (i < 3 ? sizeof(float) : 2) * N);
            p.m_scale[1] = p.v_scale[0] = 0.5f;
            p.scale = scales[kind % 3];
            lt_adamw_args a = arguments(&p, 1);
            adamw(test_backend_kept(isa, 1), &a);
            for (int i = 0; i < 4; i++)
                for (int b = 0; b < (i < 3 ? 4 : 2) * N; b++)
                    assert_int_equal(((unsigned char *)all[i])[b], 0x3B);
            assert_true(p.m_scale[0] == 0 && p.m_scale[1] == 0.5f && p.v_scale[0] == 0.5f);
            parameter_free(&p);
        }
}

/* --- Rounding ------------------------------------------------------------------------------------
 */

/* With both betas 0 the moments are g and g^2. */
static void test_unbiased(void **state)
{
    enum { N = 1 << 16 };
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (int sign = -1; sign <= 1; sign += 2) {
            if (!test_backend_kept(isa, 1)) continue;
            parameter p = parameter_of(N, LT_BF16, LT_F32);
            double g = sign * 1.0023, sums[2] = {0}, both = 0, exact[2];
            for (int64_t i = 0; i < N; i++)
                set_gradient(&p, i, g);
            lt_adamw_args a = arguments(&p, 1);
            a.beta1 = a.beta2 = 0;
            adamw(test_backend_kept(isa, 1), &a);
            exact[0] = gradient_at(&p, 0);
            exact[1] = exact[0] * exact[0];
            for (int64_t i = 0; i < N; i++) {
                double m = moment_at(&p, false, i) - exact[0],
                       v = moment_at(&p, true, i) - exact[1];
                sums[0] += m;
                sums[1] += v;
                both += m * v;
                assert_true(fabs(m) < 0x1p-7 && fabs(v) < 0x1p-7);
            }
            for (int k = 0; k < 2; k++) /* 5 standard deviations of at most half a unit */
                assert_true(fabs(sums[k] / N) <= 5 * 0x1p-8 / sqrt(N));
            assert_true(fabs(both / N) <= 5 * 0x1p-16 / sqrt(N)); /* m and v do not go together */
            parameter_free(&p);
        }
}

static void test_small_v(void **state)
{
    enum { N = BLOCK + 40 };
    (void)state;
    for (int isa = 0; isa < 3; isa++) {
        if (!test_backend_kept(isa, 1)) continue;
        parameter p = parameter_of(N, LT_U8, LT_F32);
        for (int64_t i = 0; i < BLOCK; i++)
            set_gradient(&p, i, i == 7 ? 1 : i % 2 ? 1e-9 : 0);
        lt_adamw_args a = arguments(&p, 1);
        adamw(test_backend_kept(isa, 1), &a);
        for (int64_t i = 0; i < N; i++) {
            int want = i == 7 ? 255 : i < BLOCK && i % 2 ? 1 : 0;
            assert_int_equal(((uint8_t *)p.v)[i], want);
            assert_int_equal(((uint8_t *)p.m)[i], i == 7 ? 255 : 128);
            assert_true(isfinite(p.weight[i]) && fabsf(p.weight[i]) <= 0.011f);
        }
        assert_true(p.m_scale[1] == 0 && p.v_scale[1] == 0);
        parameter_free(&p);
    }
}

/* --- Training ------------------------------------------------------------------------------------
 */

enum { FEATURES = 300, EXAMPLES = 500, STEPS = 150 };

/* Logistic regression; returns the mean loss, writes the sum of gradients. */
static double regression(const float (*x)[FEATURES], const bool *y, parameter *p)
{
    double loss = 0, gradient[FEATURES] = {0};
    for (int e = 0; e < EXAMPLES; e++) {
        double z = 0;
        for (int j = 0; j < FEATURES; j++)
            z += (double)x[e][j] * (double)p->weight[j];
        double probability = 1 / (1 + exp(-z));
        loss -= log(y[e] ? probability : 1 - probability);
        for (int j = 0; j < FEATURES; j++)
            gradient[j] += (probability - y[e]) * (double)x[e][j];
    }
    for (int j = 0; j < FEATURES; j++)
        set_gradient(p, j, gradient[j]);
    return loss / EXAMPLES;
}

static void test_convergence(void **state)
{
    static float x[EXAMPLES][FEATURES];
    static bool y[EXAMPLES];
    (void)state;
    for (int e = 0; e < EXAMPLES; e++) {
        double z = 0;
        test_fill(x[e], FEATURES, (uint64_t)e);
        for (int j = 0; j < FEATURES; j++)
            z += (double)x[e][j] * sin(j);
        y[e] = z + 6 * lt_random_normal(3, 3, (uint64_t)e) > 0;
    }
    for (int isa = 0; isa < 3; isa++) {
        double losses[3] = {0};
        for (int kind = 0; kind < 3 && test_backend_kept(isa, 1); kind++) {
            parameter p = parameter_of(FEATURES, states[kind], LT_F32);
            p.scale = 1.0f / EXAMPLES;
            for (int64_t step = 1; step <= STEPS; step++) {
                double before = regression(x, y, &p);
                if (step == 1) assert_true(fabs(before - log(2)) < 1e-9);
                lt_adamw_args a = arguments(&p, step);
                a.stream = (uint64_t)step;
                a.beta2 = 0.999;
                a.weight_decay = 0;
                adamw(test_backend_kept(isa, 1), &a);
            }
            losses[kind] = regression(x, y, &p);
            parameter_free(&p);
        }
        if (!test_backend_kept(isa, 1)) continue;
        print_message("%s: f32 %.5f, bf16 %.5f, u8 %.5f\n", test_backend_kept(isa, 1)->name,
                      losses[0], losses[1], losses[2]);
        assert_true(losses[0] < 0.4);
        assert_true(fabs(losses[1] / losses[0] - 1) < 0.02);
        assert_true(fabs(losses[2] / losses[0] - 1) < 0.05);
    }
}

/* --- Norms ---------------------------------------------------------------------------------------
 */

static void test_sum_squares(void **state)
{
    static const int64_t sizes[] = {0, 1, 7, 16, 17, 4095, 4096, 4097, 70001};
    (void)state;
    for (int isa = 0; isa < 3; isa++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            int64_t n = sizes[i];
            double sums[3] = {0};
            for (int threads = 1; threads <= 3 && test_backend_kept(isa, threads); threads++) {
                test_run run = {.backend = test_backend_kept(isa, threads)}, *t = &run;
                float *x = test_input(t, n);
                double *sum = &sums[threads - 1], expected = 2;
                *sum = 2;
                lt_sum_squares_args a = {lt_tensor_1d(x, LT_F32, n), lt_tensor_1d(sum, LT_F64, 1)};
                TEST_CALL(t, sum_squares, a);
                for (int64_t j = 0; j < n; j++)
                    expected += (double)x[j] * (double)x[j];
                assert_true(fabs(*sum - expected) <= 1e-12 * expected);
                assert_true(*sum == sums[0]); /* whatever the number of threads */
                test_end(t);
            }
        }
}

static double loss_of_step = 1, tokens_of_step = -1; /* below 0: absent */

static void clip(double squares, double gradient_scale, double max_norm, float *norm, float *scale)
{
    lt_clip_scale_args a = {.sum_squares = lt_tensor_1d(&squares, LT_F64, 1),
                            .norm = lt_tensor_1d(norm, LT_F32, 1),
                            .scale = lt_tensor_1d(scale, LT_F32, 1),
                            .loss = lt_tensor_1d(&loss_of_step, LT_F64, 1),
                            .gradient_scale = gradient_scale,
                            .max_norm = max_norm};
    if (tokens_of_step >= 0) a.tokens = lt_tensor_1d(&tokens_of_step, LT_F64, 1);
    test_ok(lt_clip_scale(test_backend_kept(0, 1), &a, NULL), NULL);
}

static void test_clip_scale(void **state)
{
    float norm, scale;
    (void)state;
    clip(64, 0.5, 1, &norm, &scale); /* norm 4, clipped to 1 */
    assert_true(norm == 4 && scale == 0.125f);
    clip(64, 0.5, 5, &norm, &scale);
    assert_true(norm == 4 && scale == 0.5f);
    clip(64, 0.5, 0, &norm, &scale);
    assert_true(norm == 4 && scale == 0.5f);
    clip(0, 0.5, 1, &norm, &scale);
    assert_true(norm == 0 && scale == 0.5f);
    clip(INFINITY, 0.5, 1, &norm, &scale);
    assert_true(isinf(norm) && isnan(scale));
    clip(NAN, 0.5, 0, &norm, &scale);
    assert_true(isnan(norm) && isnan(scale));
    clip(64, INFINITY, 0, &norm, &scale); /* no trained tokens */
    assert_true(isnan(scale));
    loss_of_step = INFINITY;
    clip(64, 0.5, 1, &norm, &scale);
    assert_true(isnan(norm) && isnan(scale));
    loss_of_step = 1;
}

/* Tokens that the device has counted stand for gradient_scale. */
static void test_clip_scale_by_tokens(void **state)
{
    float norm, scale;
    (void)state;
    tokens_of_step = 2;
    clip(64, 9, 1, &norm, &scale);
    assert_true(norm == 4 && scale == 0.125f);
    clip(64, 9, 0, &norm, &scale);
    assert_true(norm == 4 && scale == 0.5f);
    tokens_of_step = 0;
    for (double squares = 0; squares < 65; squares += 64) {
        clip(squares, 0.5, 1, &norm, &scale);
        assert_true(isnan(norm) && isnan(scale));
    }
    tokens_of_step = -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw),       cmocka_unit_test(test_plain_adamw),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_unbiased),    cmocka_unit_test(test_small_v),
        cmocka_unit_test(test_convergence), cmocka_unit_test(test_sum_squares),
        cmocka_unit_test(test_clip_scale),  cmocka_unit_test(test_clip_scale_by_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
