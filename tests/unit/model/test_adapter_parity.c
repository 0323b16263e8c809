/* Every golden adapter computes what PEFT and torch computed: logits with the adapter as it is
 * loaded, the loss, the gradient of each of its tensors, and five AdamW steps. With the reference
 * operations and with the machine's best. */
#include "adapters.h"
#include "expected.h"

/* clang-format off */
static const char *const names[] = {
    "gpt2_lora",
    "gpt2_lora_rslora",
    "gpt2_dora",
    "gpt2_lora_saved",
    "gpt2_prefix",
    "gpt2_prefix_projection",
    "gpt2_prompt",
    "gpt2_p_tuning",
    "gpt_neox_lora",
    "gpt_neox_rslora",
    "gpt_neox_dora",
    "gpt_neox_prefix",
    "gpt_neox_prefix_projection",
    "gpt_neox_prompt",
    "gpt_neox_p_tuning",
    "llama_lora",
    "llama_lora_patterns",
    "llama_rslora",
    "llama_dora",
    "llama_lora_saved",
    "llama_prefix",
    "llama_prefix_projection",
    "llama_prompt",
    "llama_p_tuning",
};
/* clang-format on */

static golden open_adapter(const char *name)
{
    return open_golden(name, adapter_path(name, "expected.safetensors"));
}

static lt_model *load_base(const golden *g, const lt_backend *backend)
{
    static const char *const bases[] = {"gpt2", "gpt_neox", "llama"};
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(bases[i]);
        bool is = strncmp(g->name, bases[i], length) == 0 && g->name[length] == '_';
        if (is) return load_golden(bases[i], NULL, backend);
    }
    fail_msg("%s has no base", g->name);
    return NULL;
}

/* The adapter as a fresh one in training, with the tensors of `file` (a folder of the golden one,
 * or NULL) in it. */
static lt_model *in_training(const golden *g, const char *file, const lt_backend *backend)
{
    lt_model *model = load_base(g, backend);
    lt_adapter_config config = {0};
    lt_adapter *adapter = NULL;
    OK(lt_adapter_config_load(adapter_path(g->name, NULL), &config, err));
    config.trained = false;
    OK(lt_adapter_create(model, &config, "tuned", 1, &adapter, err));
    OK(lt_adapter_restore(model, adapter, adapter_path(g->name, file), err));
    lt_adapter_config_free(&config);
    return model;
}

static void check_loaded(const golden *g, const lt_backend *backend)
{
    lt_model *model = load_base(g, backend);
    load_adapter(model, g->name, "loaded");
    check_logits(g, model);
    lt_model_free(model);
}

static void check_training(const golden *g, const lt_backend *backend, lt_recompute recompute)
{
    lt_model *model = in_training(g, NULL, backend);
    lt_model *expected = in_training(g, "gradients", backend);
    lt_workspace_settings settings = golden_training(g);
    settings.recompute = recompute;
    settings.head_chunk = 7;
    OK(lt_model_allocate_gradients(model, err));
    for (int p = 0; p < model->own_param_count; p++)
        assert_null(model->params[p].gradient.data);
    for (int p = expected->own_param_count; p < expected->param_count; p++)
        assert_true(largest_element(expected->params[p].weight) > 0);
    check_loss(g, run_backward(model, &settings, &g->batch.batch, (lt_dropout_mask){0}));
    check_gradients(g, model, expected, model->own_param_count);
    lt_model_free(expected);
    lt_model_free(model);
}

static void check_all(const char *isa)
{
    lt_backend *backend = make_backend(isa);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        golden g = open_adapter(names[i]);
        printf("%s, %s:", names[i], backend->name);
        check_loaded(&g, backend);
        check_training(&g, backend, (lt_recompute)(i % 3));
        close_golden(&g);
    }
    lt_backend_free(backend);
}

static void test_reference(void **state)
{
    (void)state;
    check_all("ref");
}

static void test_best(void **state)
{
    (void)state;
    check_all(NULL);
}

/* --- AdamW ----------------------------------------------------------------------------------- */

static void check_adamw(const char *name, const lt_backend *backend)
{
    golden g = open_adapter(name);
    lt_model *model = in_training(&g, NULL, backend);
    lt_model *expected = in_training(&g, "after_adamw", backend);
    OK(lt_model_allocate_gradients(model, err));
    size_t own = (size_t)model->weight_count * sizeof(float);
    void *before = malloc(own);
    memcpy(before, model->weights.base, own);
    train_golden(&g, model);
    double worst = 0;
    for (int p = model->own_param_count; p < model->param_count; p++)
        for (int64_t i = 0; i < lt_tensor_count(model->params[p].weight); i++)
            worst = fmax(worst, fabs(element(model->params[p].weight, i) -
                                     element(expected->params[p].weight, i)));
    printf("%s, %s: weights after five steps within %.1e\n", name, backend->name, worst);
    assert_true(worst <= 1e-5);
    /* training moves the adapter and nothing else */
    assert_memory_equal(before, model->weights.base, own);
    free(before);
    lt_model_free(expected);
    lt_model_free(model);
    close_golden(&g);
}

static void test_adamw(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", NULL};
    for (int k = 0; k < 2; k++) {
        lt_backend *backend = make_backend(isas[k]);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            check_adamw(names[i], backend);
        lt_backend_free(backend);
    }
}

/* --- Spellings -------------------------------------------------------------------------------- */

/* An adapter_config.json of the first PEFT versions means the same. */
static void test_old_spelling(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *now = load_golden("gpt2", NULL, backend), *then = load_golden("gpt2", NULL, backend);
    lt_adapter *a = load_adapter(now, "gpt2_lora", "now");
    lt_adapter *b = load_adapter(then, "gpt2_lora_old", "then");
    check_same_rows(now, a, then, b);
    lt_model_free(now);
    lt_model_free(then);
    lt_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference),
                                       cmocka_unit_test(test_best), cmocka_unit_test(test_adamw),
                                       cmocka_unit_test(test_old_spelling)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
