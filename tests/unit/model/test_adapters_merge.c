/* A merged model computes what base and adapter did, for every module and family; what can not be
 * merged is said. */
#include "adapters.h"
#include "files.h"
#include "model/params.h"

enum { ROWS = 2, LENGTH = 9 };

static test_batch some_batch(const lt_model *model)
{
    return random_batch(ROWS, LENGTH, model->config.vocab_size, 6);
}

static double off_after_merging(lt_model *model, lt_adapter *adapter)
{
    test_batch b = some_batch(model);
    int64_t n = ROWS * LENGTH * model->config.vocab_size;
    float *before = logits_of(model, &b.batch);
    OK(lt_adapter_merge(model, adapter, err));
    assert_true(model->gradient_count == 0 && model->segment_count == 0); /* all is frozen */
    float *after = logits_of(model, &b.batch);
    double off = largest_difference(before, after, n);
    free(before);
    free(after);
    free_batch(&b);
    return off;
}

/* --- Modules ---------------------------------------------------------------------------------- */

static void check_targets(const char *base, const char *targets)
{
    static const struct {
        const char *name;
        bool rslora, dora;
    } kinds[] = {{"lora", false, false}, {"rslora", true, false}, {"dora", false, true}};
    for (int i = 0; i < 3; i++) {
        const adapter_case c = {.name = kinds[i].name,
                                .kind = LT_ADAPTER_LORA,
                                .targets = targets,
                                .saved = "",
                                .rslora = kinds[i].rslora,
                                .dora = kinds[i].dora};
        lt_model *model = load_golden(base, NULL, backend);
        double off = off_after_merging(model, random_adapter(model, &c, "merged", 3));
        if (!(off <= 1e-4))
            fail_msg("%s, %s of %s: merging changes a logit by %g", base, c.name, targets, off);
        lt_model_free(model);
    }
}

static void test_every_module(void **state)
{
    (void)state;
    for (int m = 0; m < ADAPTER_BASES; m++) {
        lt_model *model = load_golden(adapter_bases[m], NULL, backend);
        lt_adapter_config all = config_of(model, case_named("lora"));
        for (size_t i = 0; i < all.target_modules.count; i++)
            check_targets(adapter_bases[m], all.target_modules.items[i]);
        check_targets(adapter_bases[m], "all-linear");
        check_targets(adapter_bases[m], "attention");
        check_targets(adapter_bases[m], "some");
        lt_adapter_config_free(&all);
        lt_model_free(model);
    }
}

/* PEFT's own: with patterns of ranks and alphas, single layers, GPT-NeoX's order of rows. */
static void test_golden_adapters(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"gpt2_lora", "gpt2"},
                                           {"gpt2_dora", "gpt2"},
                                           {"gpt_neox_rslora", "gpt_neox"},
                                           {"gpt_neox_dora", "gpt_neox"},
                                           {"llama_lora_patterns", "llama"},
                                           {"llama_dora", "llama"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lt_model *model = load_golden(names[i][1], NULL, backend);
        double off = off_after_merging(model, load_adapter(model, names[i][0], "merged"));
        if (!(off <= 1e-4)) fail_msg("%s: merging changes a logit by %g", names[i][0], off);
        lt_model_free(model);
    }
}

/* --- Embedding and head ----------------------------------------------------------------------- */

/* The merged model is one like any other: it can be saved, loaded and trained. */
static void check_saved(const char *base, const adapter_case *c)
{
    lt_model *model = load_golden(base, NULL, backend), *again = NULL;
    int rows = model->param_count;
    bool tied = model->config.tie_word_embeddings;
    double off = off_after_merging(model, random_adapter(model, c, "merged", 3));
    if (!(off <= 1e-4)) fail_msg("%s, %s: merging changes a logit by %g", base, c->name, off);
    assert_int_equal(model->param_count, rows + tied);
    assert_int_equal(model->own_param_count, model->param_count);
    assert_false(model->config.tie_word_embeddings);
    assert_true(model->adapter_count == 0 && !model->active);

    test_batch b = some_batch(model);
    size_t bytes = (size_t)(ROWS * LENGTH * model->config.vocab_size) * sizeof(float);
    OK(lt_model_save(model, new_directory("merged"), LT_F32, err));
    OK(lt_model_load(scratch_path("merged", NULL), backend, &again, err));
    assert_false(again->config.tie_word_embeddings);
    float *x = logits_of(model, &b.batch), *y = logits_of(again, &b.batch);
    assert_memory_equal(x, y, bytes);
    free(x);
    free(y);

    lt_workspace_settings settings = {.rows = ROWS, .length = LENGTH, .training = true};
    OK(lt_model_set_trainable(model, &(lt_trainable){0}, err));
    OK(lt_model_allocate_gradients(model, err));
    OK(lt_model_allocate_gradients(again, err));
    assert_int_equal(model->gradient_count, again->gradient_count);
    run_backward(model, &settings, &b.batch, (lt_dropout_mask){0});
    run_backward(again, &settings, &b.batch, (lt_dropout_mask){0});
    assert_memory_equal(model->gradients.base, again->gradients.base,
                        (size_t)model->gradient_count * sizeof(float));
    free_batch(&b);
    lt_model_free(model);
    lt_model_free(again);
}

static void test_saved_modules(void **state)
{
    (void)state;
    static const char *const cases[] = {"saved embed", "saved lm_head", "saved both"};
    for (int m = 0; m < ADAPTER_BASES; m++)
        for (int i = 0; i < 3; i++)
            check_saved(adapter_bases[m], case_named(cases[i]));
}

/* Untying alone changes nothing, and nothing at all on a model that is untied. */
static void test_untie(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2", "llama"};
    for (int i = 0; i < 2; i++) {
        lt_model *model = load_golden(names[i], NULL, backend);
        test_batch b = some_batch(model);
        size_t bytes = (size_t)(ROWS * LENGTH * model->config.vocab_size) * sizeof(float);
        float *before = logits_of(model, &b.batch);
        OK(lt_model_untie(model, err));
        assert_false(model->config.tie_word_embeddings);
        float *after = logits_of(model, &b.batch);
        assert_memory_equal(before, after, bytes);
        lt_ends_view ends = lt_ends_weights(model, NULL);
        assert_ptr_not_equal(ends.lm_head.data, ends.embed_tokens.data);
        free(before);
        free(after);
        free_batch(&b);
        lt_model_free(model);
    }
}

/* --- What can not be -------------------------------------------------------------------------- */

static void check_refused(lt_model *model, lt_adapter *adapter, lt_status expected,
                          const char *word)
{
    lt_err err = {0};
    test_batch b = some_batch(model);
    size_t bytes = (size_t)(ROWS * LENGTH * model->config.vocab_size) * sizeof(float);
    float *before = logits_of(model, &b.batch);
    lt_status status = lt_adapter_merge(model, adapter, &err);
    if (status != expected || !strstr(err.message, word))
        fail_msg("status %d, message '%s' should say '%s'", status, err.message, word);
    assert_true(lt_adapter_find(model, lt_adapter_name(adapter)) == adapter);
    float *after = logits_of(model, &b.batch);
    assert_memory_equal(before, after, bytes);
    free(before);
    free(after);
    free_batch(&b);
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const prompts[] = {"prefix", "prefix, projection", "prompt", "p-tuning"};
    for (int i = 0; i < 4; i++) {
        lt_model *model = load_golden("gpt2", NULL, backend);
        lt_adapter *adapter = random_adapter(model, case_named(prompts[i]), "prompt", 3);
        check_refused(model, adapter, LT_ERR_UNSUPPORTED, "can not be merged");
        check_refused(model, adapter, LT_ERR_UNSUPPORTED, "--adapter DIR");
        lt_model_free(model);
    }
    lt_model *model = load_golden("gpt2", NULL, backend);
    random_adapter(model, case_named("lora"), "first", 3);
    lt_adapter *second = random_adapter(model, case_named("lora"), "second", 4);
    check_refused(model, second, LT_ERR_USAGE, "no other adapter");
    lt_model_free(model);
    model = load_golden("gpt2", NULL, backend);
    lt_adapter *trained = random_adapter(model, case_named("saved both"), "trained", 4);
    OK(lt_model_allocate_gradients(model, err));
    check_refused(model, trained, LT_ERR_USAGE, "no memory for gradients");
    lt_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_module), cmocka_unit_test(test_golden_adapters),
        cmocka_unit_test(test_saved_modules), cmocka_unit_test(test_untie),
        cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, set_up_files, tear_down_files);
}
