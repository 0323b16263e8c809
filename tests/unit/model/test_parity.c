/* Every golden model computes what Hugging Face and torch computed: logits, loss, the gradient of
 * every parameter, and ten AdamW steps. With the reference operations and with the machine's best.
 */
#include "expected.h"

static golden open_model(const char *name)
{
    return open_golden(name, golden_path(name, "expected.safetensors"));
}

static void check_model(const char *name, const char *isa)
{
    golden g = open_model(name);
    lt_backend *backend = make_backend(isa);
    lt_model *model = load_golden(name, NULL, backend);
    lt_model *expected = load_golden(name, "gradients", backend);
    lt_workspace_settings settings = golden_training(&g);
    settings.head_chunk = 7;
    printf("%s, %s:", name, backend->name);
    check_logits(&g, model);
    OK(lt_model_allocate_gradients(model, err));
    check_loss(&g, run_backward(model, &settings, &g.batch.batch, (lt_dropout_mask){0}));
    check_gradients(&g, model, expected, 0);
    lt_model_free(expected);
    lt_model_free(model);
    lt_backend_free(backend);
    close_golden(&g);
}

static void test_reference(void **state)
{
    (void)state;
    for (int i = 0; i < GOLDEN_COUNT; i++)
        check_model(golden_names[i], "ref");
}

static void test_best(void **state)
{
    (void)state;
    for (int i = 0; i < GOLDEN_COUNT; i++)
        check_model(golden_names[i], NULL);
}

/* A bias of k shifts all scores of a query alike: its true gradient is zero, and what AdamW makes
 * of the rounding that is left differs from one program to the next. */
static bool is_k_bias(const lt_model *model, const lt_param *p, int64_t i)
{
    int64_t q_width = model->config.num_attention_heads * model->config.head_dim;
    int64_t k_width = model->config.num_key_value_heads * model->config.head_dim;
    return strstr(p->name, "qkv.bias") && i >= q_width && i < q_width + k_width;
}

static void check_adamw(const char *isa)
{
    golden g = open_model("gpt2");
    lt_backend *backend = make_backend(isa);
    lt_model *model = load_golden("gpt2", NULL, backend);
    lt_model *expected = load_golden("gpt2", "after_adamw", backend);
    OK(lt_model_allocate_gradients(model, err));
    train_golden(&g, model);
    double worst = 0;
    for (int p = 0; p < model->param_count; p++)
        for (int64_t i = 0; i < lt_tensor_count(model->params[p].weight); i++) {
            if (is_k_bias(model, &model->params[p], i)) continue;
            worst = fmax(worst, fabs(element(model->params[p].weight, i) -
                                     element(expected->params[p].weight, i)));
        }
    printf("%s: weights after ten steps within %.1e\n", backend->name, worst);
    assert_true(worst <= 1e-5);
    lt_model_free(expected);
    lt_model_free(model);
    lt_backend_free(backend);
    close_golden(&g);
}

static void test_adamw(void **state)
{
    (void)state;
    check_adamw("ref");
    check_adamw(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference),
                                       cmocka_unit_test(test_best), cmocka_unit_test(test_adamw)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
