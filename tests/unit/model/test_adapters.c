/* What an adapter must not change: a fresh one the model's answers, the level of recompute the
 * gradient (not one bit), a base in bf16 more than its rounding, the run its memory plan. */
#include "adapters.h"
#include "model/formats/numbers.h"
#include "training.h"

/* --- Fresh adapters --------------------------------------------------------------------------- */

/* B is 0: the longer product adds exact zeros to what is there already. DoRA's lengths divide
 * themselves to 1, but its sum takes another way. */
static void check_fresh(const char *base, const adapter_case *c, const lt_backend *backend)
{
    lt_model *model = load_golden(base, NULL, backend);
    test_batch b = packed_batch(model, ROWS, 4);
    int64_t n = ROWS * LENGTH * model->config.vocab_size;
    float *before = logits_of(model, &b.batch);
    fresh_adapter(model, c, "fresh", 1);
    float *after = logits_of(model, &b.batch);
    double off = largest_difference(before, after, n);
    if (!(off <= (c->dora ? 2e-6 : 0)))
        fail_msg("%s, %s, %s: a fresh adapter changes a logit by %g", base, c->name, backend->name,
                 off);
    free(before);
    free(after);
    free_batch(&b);
    lt_model_free(model);
}

static void test_fresh(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", NULL};
    for (int k = 0; k < 2; k++) {
        lt_backend *backend = make_backend(isas[k]);
        for (int m = 0; m < ADAPTER_BASES; m++)
            for (int i = 0; i < ADAPTER_CASES; i++)
                if (!has_virtual_tokens(&adapter_cases[i]))
                    check_fresh(adapter_bases[m], &adapter_cases[i], backend);
        lt_backend_free(backend);
    }
}

/* What PEFT starts from; `other`: the same row of another seed. */
static void check_start(const lt_param *row, const lt_param *other)
{
    bool drawn = row->init == LT_INIT_UNIFORM || row->init == LT_INIT_NORMAL;
    double largest = largest_element(row->weight), lowest = 0, bound = row->init_scale;
    int64_t n = lt_tensor_count(row->weight);
    for (int64_t k = 0; k < n; k++)
        lowest = fmin(lowest, element(row->weight, k));
    if (row->init == LT_INIT_UNIFORM) assert_true(largest <= bound);
    if (row->init == LT_INIT_UNIFORM && n >= 48)
        assert_true(largest > 0.8 * bound && lowest < -0.8 * bound);
    if (strstr(row->name, "lora_A")) assert_true(bound == 1 / sqrt((double)row->shape[1]));
    if (strstr(row->name, "lora_B")) assert_true(largest == 0);
    if (drawn) assert_true(element(row->weight, 0) != element(other->weight, 0));
}

/* A function of the seed. */
static void test_initial_values(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    for (int i = 0; i < ADAPTER_CASES; i++) {
        lt_model *a = load_golden("llama", NULL, backend), *b = load_golden("llama", NULL, backend);
        const lt_adapter *x = fresh_adapter(a, &adapter_cases[i], "x", 7);
        const lt_adapter *y = fresh_adapter(b, &adapter_cases[i], "y", 7);
        check_same_rows(a, x, b, y);
        lt_model_free(b);
        b = load_golden("llama", NULL, backend);
        y = fresh_adapter(b, &adapter_cases[i], "y", 8);
        for (int p = 0; p < x->param_count; p++)
            check_start(&a->params[x->first_param + p], &b->params[y->first_param + p]);
        lt_model_free(a);
        lt_model_free(b);
    }
    lt_backend_free(backend);
}

/* A prompt may start from embeddings: of a text, again and again, or of tokens drawn at random. */
static void check_prompt_start(lt_prompt_init init, const lt_backend *backend)
{
    lt_model *model = load_golden("gpt2", NULL, backend);
    lt_adapter_config config = config_of(model, case_named("prompt"));
    lt_adapter *adapter = NULL;
    const int32_t text[] = {7, 2, 11};
    config.prompt_init = init;
    OK(lt_ids_append(&config.prompt_init_ids, text, 3, err));
    OK(lt_adapter_create(model, &config, "prompt", 1, &adapter, err));
    lt_tensor table = model->params[adapter->first_param].weight;
    lt_tensor embedding = lt_model_param(model, "embed_tokens.weight")->weight;
    size_t width = (size_t)model->config.hidden_size;
    int first = -1;
    bool differ = false;
    for (int64_t t = 0; t < VIRTUAL; t++) {
        const float *row = (const float *)table.data + (size_t)t * width;
        int found = -1;
        for (int64_t id = 0; id < embedding.shape[0] && found < 0; id++)
            if (memcmp(row, (float *)embedding.data + (size_t)id * width, width * 4) == 0)
                found = (int)id;
        if (init == LT_PROMPT_TEXT) assert_int_equal(found, text[t % 3]);
        if (init == LT_PROMPT_VOCAB) assert_true(found >= 0);
        if (init == LT_PROMPT_RANDOM) assert_int_equal(found, -1);
        if (t == 0) first = found;
        differ = differ || found != first;
    }
    assert_int_equal(differ, init != LT_PROMPT_RANDOM);
    lt_adapter_config_free(&config);
    lt_model_free(model);
}

static void test_prompt_starts(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    check_prompt_start(LT_PROMPT_RANDOM, backend);
    check_prompt_start(LT_PROMPT_VOCAB, backend);
    check_prompt_start(LT_PROMPT_TEXT, backend);
    lt_backend_free(backend);
}

/* --- Recompute -------------------------------------------------------------------------------- */

static void check_recompute(const char *base, const adapter_case *c, double dropout,
                            const lt_backend *backend)
{
    lt_model *model = load_golden(base, NULL, backend);
    random_adapter(model, c, "tried", 2);
    test_batch b = packed_batch(model, ROWS, 4);
    lt_workspace_settings settings = training(dropout, LT_RECOMPUTE_NONE);
    OK(lt_model_allocate_gradients(model, err));
    double loss = run_backward(model, &settings, &b.batch, dropout_key);
    void *kept = copy_of(all_gradients(model));
    size_t bytes = (size_t)model->gradient_count * lt_dtype_size(backend->real);
    for (int level = LT_RECOMPUTE_SELECTIVE; level <= LT_RECOMPUTE_BLOCK; level++) {
        settings.recompute = (lt_recompute)level;
        double again = run_backward(model, &settings, &b.batch, dropout_key);
        assert_memory_equal(&again, &loss, sizeof loss);
        if (memcmp(kept, model->gradients.base, bytes) != 0)
            fail_msg("%s, %s, %s: recompute level %d changes the gradient", base, c->name,
                     backend->name, level);
    }
    free(kept);
    free_batch(&b);
    lt_model_free(model);
}

static void test_recompute(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", NULL};
    for (int k = 0; k < 2; k++) {
        lt_backend *backend = make_backend(isas[k]);
        for (int m = 0; m < ADAPTER_BASES; m++)
            for (int i = 0; i < ADAPTER_CASES; i++) {
                check_recompute(adapter_bases[m], &adapter_cases[i], 0.3, backend);
                if (k) check_recompute(adapter_bases[m], &adapter_cases[i], 0, backend);
            }
        lt_backend_free(backend);
    }
}

/* LoRA drops in training and nowhere else, by masks that the key chooses. */
static void test_dropout(void **state)
{
    (void)state;
    static const char *const cases[] = {"lora, dropout", "dora, some, dropout"};
    lt_backend *backend = make_backend(NULL);
    for (int i = 0; i < 2; i++) {
        lt_model *model = load_golden("llama", NULL, backend);
        lt_adapter *adapter = random_adapter(model, case_named(cases[i]), "tried", 2);
        test_batch b = packed_batch(model, ROWS, 4);
        lt_workspace_settings settings = training(0, LT_RECOMPUTE_NONE);
        OK(lt_model_allocate_gradients(model, err));
        adapter->config.lora_dropout = 0;
        double plain = run_backward(model, &settings, &b.batch, dropout_key);
        adapter->config.lora_dropout = 0.3;
        check_dropout(model, &settings, &b.batch, plain);
        free_batch(&b);
        lt_model_free(model);
    }
    lt_backend_free(backend);
}

/* The streams of the masks that a pass draws from. */
enum { MOST_STREAMS = 64 };
static uint64_t streams[MOST_STREAMS];
static int stream_count;
static lt_status (*true_dropout)(const lt_backend *, const lt_dropout_args *, lt_err *);
static lt_status (*true_attention)(const lt_backend *, const lt_attention_args *, lt_err *);

static void note_stream(uint64_t stream)
{
    for (int i = 0; i < stream_count; i++)
        if (streams[i] == stream) return;
    assert_true(stream_count < MOST_STREAMS);
    streams[stream_count++] = stream;
}

static lt_status watch_dropout(const lt_backend *backend, const lt_dropout_args *a, lt_err *err)
{
    note_stream(a->dropout.stream);
    return true_dropout(backend, a, err);
}

static lt_status watch_attention(const lt_backend *backend, const lt_attention_args *a, lt_err *err)
{
    note_stream(a->dropout.stream);
    return true_attention(backend, a, err);
}

/* Every linear module of every block has masks of its own, apart from those of the base. */
static void test_dropout_streams(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL), watched = *backend;
    true_dropout = backend->ops.dropout;
    true_attention = backend->ops.attention_forward;
    watched.ops.dropout = watch_dropout;
    watched.ops.attention_forward = watch_attention;
    static const char *const cases[] = {"lora", "lora, dropout", "dora, dropout"};
    for (int m = 0; m < ADAPTER_BASES; m++)
        for (int i = 0; i < 3; i++) {
            lt_model *model = load_golden(adapter_bases[m], NULL, &watched);
            random_adapter(model, case_named(cases[i]), "watched", 2);
            test_batch b = packed_batch(model, ROWS, 4);
            lt_workspace_settings settings = training(0.2, LT_RECOMPUTE_BLOCK);
            OK(lt_model_allocate_gradients(model, err));
            stream_count = 0;
            run_backward(model, &settings, &b.batch, dropout_key);
            int base = 1 + 2 * 3; /* embedding; attention and both branches of two blocks */
            assert_int_equal(stream_count, i == 0 ? base : base + 2 * LT_LINEAR_COUNT);
            free_batch(&b);
            lt_model_free(model);
        }
    lt_backend_free(backend);
}

/* --- A base in bf16 --------------------------------------------------------------------------- */

static lt_model *load_half(const char *base, const lt_backend *backend)
{
    lt_model *model = NULL;
    OK(lt_model_load_as(golden_path(base, NULL), backend, LT_BF16, &model, err));
    return model;
}

/* In f32, but with the numbers that bf16 has. */
static lt_model *load_rounded(const char *base, const lt_backend *backend)
{
    lt_model *model = load_golden(base, NULL, backend);
    for (int p = 0; p < model->param_count; p++) {
        const lt_param *row = &model->params[p];
        int64_t n = lt_tensor_count(row->weight);
        if (row->ndim == 1 || strcmp(row->name, "embed_positions.weight") == 0) continue;
        void *half = malloc((size_t)n * 2);
        lt_numbers_from_f32(row->weight.data, n, LT_BF16, half);
        lt_numbers_to_f32(half, n, LT_BF16, row->weight.data);
        free(half);
    }
    return model;
}

static void check_close(const char *what, const float *a, const float *b, int64_t n)
{
    double largest = 0, off = largest_difference(a, b, n);
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)b[i]));
    if (!(off <= 1e-5 * largest)) fail_msg("%s: %g off, the largest is %g", what, off, largest);
}

/* Everything over a base in bf16 is what it is over the rounded base in f32. */
static void check_half(const char *base, const adapter_case *c, const lt_backend *backend)
{
    lt_model *half = load_half(base, backend), *rounded = load_rounded(base, backend);
    test_batch b = packed_batch(half, ROWS, 4);
    int64_t n = ROWS * LENGTH * half->config.vocab_size;
    lt_workspace_settings settings = training(0.1, LT_RECOMPUTE_BLOCK);
    char what[128];
    snprintf(what, sizeof what, "%s in bf16, %s", base, c ? c->name : "no adapter");
    if (c) random_adapter(half, c, "tried", 2);
    if (c) random_adapter(rounded, c, "tried", 2);
    float *x = logits_of(half, &b.batch), *y = logits_of(rounded, &b.batch);
    check_close(what, x, y, n);
    if (c) {
        OK(lt_model_allocate_gradients(half, err));
        OK(lt_model_allocate_gradients(rounded, err));
        run_backward(half, &settings, &b.batch, dropout_key);
        run_backward(rounded, &settings, &b.batch, dropout_key);
        assert_int_equal(half->gradient_count, rounded->gradient_count);
        for (int p = half->own_param_count; p < half->param_count; p++)
            check_close(half->params[p].name, half->params[p].gradient.data,
                        rounded->params[p].gradient.data,
                        lt_tensor_count(half->params[p].gradient));
    }
    free(x);
    free(y);
    free_batch(&b);
    lt_model_free(half);
    lt_model_free(rounded);
}

static void test_half_base(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", NULL};
    for (int k = 0; k < 2; k++) {
        lt_backend *backend = make_backend(isas[k]);
        for (int m = 0; m < ADAPTER_BASES; m++) {
            check_half(adapter_bases[m], NULL, backend);
            for (int i = 0; i < ADAPTER_CASES; i++)
                check_half(adapter_bases[m], &adapter_cases[i], backend);
        }
        check_half("llama_linear_bf16", NULL, backend);
        check_half("llama_linear_bf16", case_named("lora"), backend);
        lt_backend_free(backend);
    }
}

/* Nothing of a base in bf16 can be trained, and no adapter be merged into it. */
static void test_half_refusals(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_half("llama_linear_bf16", backend);
    lt_err err = {0};
    assert_int_equal(lt_model_parameter_count(model, true), 0);
    assert_int_equal(lt_model_set_trainable(model, &(lt_trainable){0}, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "bf16 and can only be frozen"));
    lt_adapter *adapter = random_adapter(model, case_named("lora"), "tried", 2);
    assert_int_equal(lt_adapter_merge(model, adapter, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "f32"));
    lt_model_free(model);
    lt_backend_free(backend);
}

/* --- Memory plan ------------------------------------------------------------------------------ */

static void check_plan(const char *base, const adapter_case *c, bool half,
                       const lt_workspace_settings *settings, const lt_backend *backend)
{
    lt_model *model = half ? load_half(base, backend) : load_golden(base, NULL, backend);
    lt_adapter_config config = config_of(model, c);
    lt_memory_plan plan, whole;
    lt_plan_settings what = {.workspace = *settings, .adapter = &config, .half_base = half};
    OK(lt_model_plan(&model->config, backend, &what, &plan, err));
    what.half_base = false;
    OK(lt_model_plan(&model->config, backend, &what, &whole, err));
    const lt_adapter *adapter = random_adapter(model, c, "tried", 2);
    OK(lt_model_allocate_gradients(model, err));
    lt_workspace *w = new_workspace(model, settings);
    assert_int_equal(plan.weights, model->weights.capacity);
    assert_true(half ? plan.weights < whole.weights : plan.weights == whole.weights);
    assert_int_equal(plan.adapter, adapter->weights.capacity);
    assert_int_equal(plan.gradients, settings->training ? model->gradients.capacity : 0);
    assert_int_equal(plan.activations, w->arena.used + w->host.used);
    assert_int_equal(plan.gradient_count, model->gradient_count);
    assert_int_equal(plan.parameters, lt_model_parameter_count(model, false));
    assert_int_equal(plan.trainable_parameters, lt_model_parameter_count(model, true));
    lt_workspace_free(w);
    lt_adapter_config_free(&config);
    lt_model_free(model);
}

static void test_plan(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    for (int m = 0; m < ADAPTER_BASES; m++)
        for (int i = 0; i < ADAPTER_CASES; i++)
            for (int level = LT_RECOMPUTE_NONE; level <= LT_RECOMPUTE_BLOCK; level++) {
                lt_workspace_settings settings = training(0.1, (lt_recompute)level);
                check_plan(adapter_bases[m], &adapter_cases[i], false, &settings, backend);
                settings.training = false;
                check_plan(adapter_bases[m], &adapter_cases[i], true, &settings, backend);
            }
    lt_backend_free(backend);
}

/* A workspace has room for every adapter of its model, in whatever order they came. */
static void test_room(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_workspace_settings settings = training(0.1, LT_RECOMPUTE_NONE);
    for (int i = 0; i < ADAPTER_CASES; i++)
        for (int k = 0; k < ADAPTER_CASES; k++) {
            lt_model *model = load_golden("gpt_neox", NULL, backend);
            const lt_adapter *both[] = {fresh_adapter(model, &adapter_cases[i], "one", 1),
                                        fresh_adapter(model, &adapter_cases[k], "two", 1)};
            lt_workspace *w = new_workspace(model, &settings);
            const lt_adapter_room *room = &w->room;
            for (int a = 0; a < 2; a++) {
                bool network = both[a]->encoder.stages > 0;
                int64_t virtual_tokens = both[a]->virtual_tokens;
                int64_t runs = both[a]->method->runs_tokens ? virtual_tokens : 0;
                assert_true(room->low.shape[1] >= both[a]->rank);
                assert_true(room->d_low.shape[1] >= both[a]->rank);
                assert_true(room->input.shape[1] >= both[a]->input_width);
                assert_true(room->output.shape[1] >= both[a]->dora_width);
                assert_true(w->tokens >= w->batch_tokens + runs);
                if (virtual_tokens > 0)
                    assert_true(room->d_keys.shape[0] >= ROWS * (LENGTH + virtual_tokens));
                if (!network) continue;
                assert_true(room->table.shape[1] >= both[a]->table_width);
                assert_true(room->d_table.shape[1] >= both[a]->table_width);
                assert_true(room->stage[0].shape[1] >= both[a]->encoder.widest);
            }
            lt_workspace_free(w);
            lt_model_free(model);
        }
    lt_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fresh),         cmocka_unit_test(test_initial_values),
        cmocka_unit_test(test_prompt_starts), cmocka_unit_test(test_recompute),
        cmocka_unit_test(test_dropout),       cmocka_unit_test(test_dropout_streams),
        cmocka_unit_test(test_half_base),     cmocka_unit_test(test_half_refusals),
        cmocka_unit_test(test_plan),          cmocka_unit_test(test_room)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
