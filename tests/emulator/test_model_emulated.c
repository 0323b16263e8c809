/* Whole models on the emulated GPU: losses and gradients of every golden model, every kind of
 * adapter, and generated text are those of the CPU; a step neither waits nor allocates.
 *
 * In f32 both sum the same numbers in another order. In bf16 the GPU has to be as near to the exact
 * numbers as rounding allows: the CPU computes once exactly, from the same rounded weights, and
 * once rounding all that a GPU stores (rounding_backend.h). What that is off by, the GPU may be 2.5
 * times: it also rounds the probabilities and their gradients inside of attention, on which the
 * gradients of q and k hang most. */
#include "tests/emulator/emulator.h"
#include "tests/emulator/rounding_backend.h"
#include "tests/unit/model/adapters.h"
#include "tests/unit/model/training.h"

#define F32_BOUND   1e-4
#define BF16_FACTOR 2.5
#define BF16_SLACK  0x1p-8

static lt_backend *emulated(bool half)
{
    lt_backend *backend = NULL;
    OK(lt_backend_create(&(lt_backend_settings){.device = LT_DEVICE_CUDA, .half = half}, &backend,
                         err));
    return backend;
}

/* A tensor of either device as doubles; the caller frees them. */
static double *values_of(const lt_backend *backend, lt_tensor t)
{
    int64_t n = lt_tensor_count(t);
    size_t size = lt_dtype_size(t.dtype);
    void *raw = malloc((size_t)n * size + 1);
    double *values = malloc((size_t)n * sizeof *values + 1);
    OK(backend->download(backend, raw, t.data, (size_t)n * size, err));
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = t.dtype == LT_BF16 ? (uint32_t)((uint16_t *)raw)[i] << 16 : 0;
        float x;
        memcpy(&x, t.dtype == LT_BF16 ? &bits : &((uint32_t *)raw)[i], sizeof x);
        values[i] = (double)x;
    }
    free(raw);
    return values;
}

/* The norm of the difference over the norm of `expected`. */
static double difference(const double *expected, const double *values, int64_t n)
{
    double apart = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        apart += (expected[i] - values[i]) * (expected[i] - values[i]);
        size += expected[i] * expected[i];
    }
    return size > 0 ? sqrt(apart / size) : sqrt(apart);
}

/* Host weights to the nearest bf16, so that both devices start from the same numbers. */
static void round_rows(lt_model *model)
{
    for (int i = 0; i < model->param_count; i++) {
        lt_tensor w = model->params[i].weight;
        for (int64_t k = 0; k < lt_tensor_count(w); k++) {
            uint32_t bits;
            memcpy(&bits, (float *)w.data + k, sizeof bits);
            bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
            memcpy((float *)w.data + k, &bits, sizeof bits);
        }
    }
}

/* A model on the CPU, on the GPU, and for bf16 on the CPU with all that rounding. */
typedef struct twins {
    lt_backend *host, *device, *rounding_host;
    lt_model *cpu, *gpu, *rounding;
} twins;

static twins make_twins(const char *name, bool half)
{
    twins t = {.host = make_backend(NULL), .device = emulated(half)};
    t.cpu = load_golden(name, NULL, t.host);
    t.gpu = load_golden(name, NULL, t.device);
    if (!half) return t;
    t.rounding_host = make_backend(NULL);
    make_rounding(t.rounding_host);
    t.rounding = load_golden(name, NULL, t.rounding_host);
    round_rows(t.cpu);
    round_rows(t.rounding);
    return t;
}

static void free_twins(twins *t)
{
    lt_model_free(t->cpu);
    lt_model_free(t->gpu);
    lt_model_free(t->rounding);
    lt_backend_free(t->host);
    lt_backend_free(t->device);
    lt_backend_free(t->rounding_host);
}

static double off_by(const twins *t, const lt_model *model, int row)
{
    lt_tensor exact = t->cpu->params[row].gradient;
    double *expected = values_of(t->host, exact);
    double *values = values_of(model->backend, model->params[row].gradient);
    double apart = difference(expected, values, lt_tensor_count(exact));
    free(expected);
    free(values);
    return apart;
}

static double bound_of(double rounding_off_by)
{
    return BF16_FACTOR * rounding_off_by + BF16_SLACK;
}

static void compare_gradients(const twins *t, const char *what)
{
    double worst = 0, worst_bound = 0;
    for (int i = 0; i < t->cpu->param_count; i++) {
        if (!t->cpu->params[i].gradient.data) continue;
        double apart = off_by(t, t->gpu, i);
        double bound = t->rounding ? bound_of(off_by(t, t->rounding, i)) : F32_BOUND;
        if (!(apart <= bound))
            fail_msg("%s: gradient of %s is %.2g off, more than %.2g", what, t->cpu->params[i].name,
                     apart, bound);
        if (apart / bound > worst / fmax(worst_bound, 1e-30)) worst = apart, worst_bound = bound;
    }
    printf("%-40s gradients: at worst %.1e off, where %.1e is allowed\n", what, worst, worst_bound);
}

/* One forward and backward on each. */
static void compare_training(twins *t, const lt_workspace_settings *settings, const lt_batch *batch,
                             const char *what)
{
    double exact = run_backward(t->cpu, settings, batch, dropout_key);
    double loss = run_backward(t->gpu, settings, batch, dropout_key), bound = F32_BOUND;
    if (t->rounding) {
        double rounded = run_backward(t->rounding, settings, batch, dropout_key);
        bound = bound_of(fabs(rounded / exact - 1));
    }
    if (!(fabs(loss / exact - 1) <= bound))
        fail_msg("%s: loss %.8g on the GPU, %.8g on the CPU", what, loss, exact);
    compare_gradients(t, what);
}

static void allocate_gradients(twins *t)
{
    OK(lt_model_allocate_gradients(t->cpu, err));
    OK(lt_model_allocate_gradients(t->gpu, err));
    if (t->rounding) OK(lt_model_allocate_gradients(t->rounding, err));
}

static void test_families(void **state)
{
    (void)state;
    for (int m = 0; m < GOLDEN_COUNT; m++)
        for (int half = 0; half < 2; half++) {
            char what[96];
            twins t = make_twins(golden_names[m], half);
            test_batch b = random_batch(ROWS, LENGTH, t.cpu->config.vocab_size, 3);
            lt_workspace_settings settings = training(m % 2 ? 0 : 0.2, (lt_recompute)(m % 3));
            snprintf(what, sizeof what, "%s, %s", golden_names[m], t.device->name);
            split_rows(&b, 6);
            allocate_gradients(&t);
            compare_training(&t, &settings, &b.batch, what);
            free_batch(&b);
            free_twins(&t);
        }
}

/* The values of the adapter's rows, to another device. */
static void copy_rows(const twins *t, const lt_model *model)
{
    const lt_backend *backend = model->backend;
    for (int i = t->cpu->own_param_count; i < t->cpu->param_count; i++) {
        lt_tensor from = t->cpu->params[i].weight, to = model->params[i].weight;
        int64_t n = lt_tensor_count(from);
        void *staged = malloc((size_t)n * lt_dtype_size(to.dtype));
        const lt_convert_args convert = {.x = lt_tensor_1d(from.data, LT_F32, n),
                                         .y = lt_tensor_1d(staged, to.dtype, n)};
        OK(lt_convert(t->host, &convert, err));
        OK(backend->upload(backend, to.data, staged, (size_t)n * lt_dtype_size(to.dtype), err));
        free(staged);
    }
}

static lt_adapter *add_adapter(lt_model *model, const adapter_case *c)
{
    lt_adapter *adapter = NULL;
    lt_adapter_config config = config_of(model, c);
    OK(lt_adapter_create(model, &config, "tested", 7, &adapter, err));
    lt_adapter_config_free(&config);
    return adapter;
}

static void check_adapter(const char *base, const adapter_case *c, bool half)
{
    char what[128];
    twins t = make_twins(base, half);
    disturb(t.cpu, add_adapter(t.cpu, c), 11);
    add_adapter(t.gpu, c);
    if (half) {
        round_rows(t.cpu);
        add_adapter(t.rounding, c);
        copy_rows(&t, t.rounding);
    }
    copy_rows(&t, t.gpu);
    allocate_gradients(&t);
    test_batch b = random_batch(ROWS, LENGTH, t.cpu->config.vocab_size, 3);
    split_rows(&b, 6);
    lt_workspace_settings settings = training(0, LT_RECOMPUTE_SELECTIVE);
    snprintf(what, sizeof what, "%s, %s, %s", base, c->name, t.device->name);
    compare_training(&t, &settings, &b.batch, what);
    free_batch(&b);
    free_twins(&t);
}

static void test_adapters(void **state)
{
    static const char *const bases[] = {"gpt2", "gpt_neox", "llama"};
    (void)state;
    for (int i = 0; i < ADAPTER_CASES; i++) {
        check_adapter(bases[i % 3], &adapter_cases[i], false);
        check_adapter(bases[i % 3], &adapter_cases[i], true);
    }
}

/* --- Text ------------------------------------------------------------------------------------ */

enum { PROMPTS = 3, MOST = 12 };

typedef struct answers {
    int32_t ids[PROMPTS][MOST];
    int count[PROMPTS];
} answers;

static bool take(void *context, int64_t sequence, int32_t id, bool is_stop)
{
    answers *a = context;
    (void)is_stop;
    a->ids[sequence][a->count[sequence]++] = id;
    return true;
}

static answers answer(const lt_model *model, lt_sampling sampling)
{
    answers a = {0};
    lt_ids prompts[PROMPTS] = {{0}};
    for (int p = 0; p < PROMPTS; p++)
        for (int i = 0; i < 2 + 3 * p; i++)
            OK(lt_ids_push(&prompts[p], (int32_t)((7 * p + i) % model->config.vocab_size), err));
    lt_generate_settings settings = {
        .max_new_tokens = MOST, .sampling = sampling, .max_rows = PROMPTS};
    OK(lt_model_generate(model, prompts, PROMPTS, &settings, take, &a, err));
    for (int p = 0; p < PROMPTS; p++)
        lt_ids_free(&prompts[p]);
    return a;
}

/* Most steps are replayed from a recording. */
static void test_generation(void **state)
{
    const lt_sampling samplings[] = {{0},
                                     {.repetition_penalty = 1.3},
                                     {.temperature = 0.8, .top_k = 20, .top_p = 0.9, .seed = 3}};
    (void)state;
    for (size_t i = 0; i < sizeof samplings / sizeof *samplings; i++) {
        twins t = make_twins(i == 1 ? "llama" : "gpt2", false);
        emulator_counts before = emulator_counters();
        answers expected = answer(t.cpu, samplings[i]), found = answer(t.gpu, samplings[i]);
        assert_memory_equal(&expected, &found, sizeof found);
        assert_true(emulator_counters().graph_launches > before.graph_launches + MOST / 2);
        free_twins(&t);
    }
}

/* --- Scores of chosen ids -------------------------------------------------------------------- */

enum { TARGETS = 30 }; /* more than tokens: places repeat */

static void score(const lt_model *model, const lt_batch *batch, double scores[TARGETS],
                  uint8_t likeliest[TARGETS])
{
    const uint64_t tokens = ROWS * LENGTH, vocab = (uint64_t)model->config.vocab_size;
    int32_t places[TARGETS], ids[TARGETS];
    lt_workspace *workspace =
        new_workspace(model, &(lt_workspace_settings){.rows = ROWS, .length = 2 * LENGTH});
    for (uint64_t i = 0; i < TARGETS; i++) {
        places[i] = (int32_t)lt_random_below(9, 1, i, tokens);
        ids[i] = (int32_t)lt_random_below(9, 2, i, vocab);
    }
    OK(lt_model_score(model, workspace, batch, &(lt_targets){places, ids, TARGETS}, scores,
                      likeliest, err));
    lt_workspace_free(workspace);
}

static void check_scores(bool sharing)
{
    static const int32_t shared[ROWS] = {4, 5};
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        double expected[TARGETS], scores[TARGETS];
        uint8_t likeliest[TARGETS], on_gpu[TARGETS];
        twins t = make_twins(golden_names[i], false);
        test_batch b = random_batch(ROWS, LENGTH, t.gpu->config.vocab_size, 3);
        if (sharing) share_rows(&b, shared, 8);
        score(t.cpu, &b.batch, expected, likeliest);
        score(t.gpu, &b.batch, scores, on_gpu);
        for (int k = 0; k < TARGETS; k++)
            if (!(fabs(scores[k] - expected[k]) <= F32_BOUND))
                fail_msg("%s, target %d: %g instead of %g", golden_names[i], k, scores[k],
                         expected[k]);
        assert_memory_equal(on_gpu, likeliest, sizeof likeliest);
        free_batch(&b);
        free_twins(&t);
    }
}

static void test_scores(void **state)
{
    (void)state;
    check_scores(false);
}

static void test_scores_of_shared(void **state)
{
    (void)state;
    check_scores(true);
}

/* --- What a step may not do ------------------------------------------------------------------ */

static void test_no_waiting(void **state)
{
    (void)state;
    twins t = make_twins("llama", true);
    test_batch b = random_batch(ROWS, LENGTH, t.gpu->config.vocab_size, 3);
    lt_workspace_settings settings = training(0.1, LT_RECOMPUTE_NONE);
    OK(lt_model_allocate_gradients(t.gpu, err));
    lt_workspace *workspace = new_workspace(t.gpu, &settings);
    emulator_counts before = {0};
    for (int i = 0; i < 3; i++) {
        if (i == 1) before = emulator_counters();
        OK(lt_model_forward_backward(t.gpu, workspace, &b.batch, dropout_key, i > 0, NULL, err));
    }
    emulator_counts after = emulator_counters();
    assert_int_equal(after.synchronisations, before.synchronisations);
    assert_int_equal(after.allocations, before.allocations);
    lt_loss loss = {0}, once = {0};
    OK(lt_workspace_take_loss(workspace, &loss, err));
    assert_int_equal(loss.tokens, 3 * b.batch.trained_tokens);
    OK(lt_workspace_take_loss(workspace, &once, err));
    assert_int_equal(once.tokens, 0);
    lt_workspace_free(workspace);
    free_batch(&b);
    free_twins(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),         cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_generation),       cmocka_unit_test(test_scores),
        cmocka_unit_test(test_scores_of_shared), cmocka_unit_test(test_no_waiting)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
