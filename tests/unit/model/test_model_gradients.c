/* The backward pass of whole models: against finite differences in double, and what must not change
 * it: the level of recompute (not one bit), the split into micro-batches, frozen layers. */
#include "model/workspace.h"
#include "training.h"

/* --- Finite differences ---------------------------------------------------------------------- */

static double loss_of(lt_model *model, lt_workspace *workspace, const lt_batch *batch)
{
    lt_loss loss = {0};
    OK(lt_model_forward_backward(model, workspace, batch, dropout_key, false, &loss, err));
    return loss.sum;
}

/* Some elements of every parameter, the first and last among them. */
static double check_differences(lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                                const lt_param *p, const double *gradient)
{
    double worst = 0, *weight = p->weight.data, step = 1e-5;
    int64_t n = lt_tensor_count(p->weight);
    for (int k = 0; k < 5; k++) {
        int64_t i = k == 0 ? 0 : k == 1 ? n - 1 : (int64_t)lt_random_below(9, 1, k, (uint64_t)n);
        double kept = weight[i];
        weight[i] = kept + step;
        double up = loss_of(model, workspace, batch);
        weight[i] = kept - step;
        double down = loss_of(model, workspace, batch);
        weight[i] = kept;
        double difference = (up - down) / (2 * step);
        double off = fabs(difference - gradient[i]) / (1e-3 + fabs(gradient[i]));
        if (!(off <= 1e-5))
            fail_msg("%s[%lld]: gradient %.10g, difference %.10g", p->name, (long long)i,
                     gradient[i], difference);
        worst = fmax(worst, off);
    }
    return worst;
}

static void test_finite_differences(void **state)
{
    (void)state;
    lt_backend *backend = make_backend("double");
    for (int m = 0; m < GOLDEN_COUNT; m++) {
        lt_model *model = load_golden(golden_names[m], NULL, backend);
        test_batch b = random_batch(ROWS, LENGTH, model->config.vocab_size, 3);
        lt_workspace_settings settings = training(0.2, LT_RECOMPUTE_NONE);
        double worst = 0;
        split_rows(&b, 6);
        OK(lt_model_allocate_gradients(model, err));
        run_backward(model, &settings, &b.batch, dropout_key);
        double *gradients = copy_of(all_gradients(model));
        lt_workspace *workspace = new_workspace(model, &settings);
        for (int p = 0; p < model->param_count; p++)
            worst = fmax(worst, check_differences(model, workspace, &b.batch, &model->params[p],
                                                  gradients + model->params[p].gradient_offset));
        printf("%s: finite differences within %.1e\n", golden_names[m], worst);
        lt_workspace_free(workspace);
        free(gradients);
        free_batch(&b);
        lt_model_free(model);
    }
    lt_backend_free(backend);
}

/* --- Recompute ------------------------------------------------------------------------------- */

static void check_recompute(const char *name, const char *isa, double dropout)
{
    lt_backend *backend = make_backend(isa);
    lt_model *model = load_golden(name, NULL, backend);
    test_batch b = random_batch(ROWS, LENGTH, model->config.vocab_size, 4);
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
            fail_msg("%s, %s: recompute level %d changes the gradient", name, backend->name, level);
    }
    free(kept);
    free_batch(&b);
    lt_model_free(model);
    lt_backend_free(backend);
}

static void test_recompute(void **state)
{
    (void)state;
    for (int m = 0; m < GOLDEN_COUNT; m++) {
        check_recompute(golden_names[m], NULL, 0);
        check_recompute(golden_names[m], NULL, 0.3);
        check_recompute(golden_names[m], "ref", 0.3);
    }
}

/* --- Dropout --------------------------------------------------------------------------------- */

static void test_dropout_streams(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_golden("gpt2", NULL, backend);
    test_batch b = random_batch(ROWS, LENGTH, model->config.vocab_size, 4);
    lt_workspace_settings with = training(0.3, LT_RECOMPUTE_NONE),
                          without = training(0, LT_RECOMPUTE_NONE);
    OK(lt_model_allocate_gradients(model, err));
    double plain = run_backward(model, &without, &b.batch, dropout_key);
    check_dropout(model, &with, &b.batch, plain);
    free_batch(&b);
    lt_model_free(model);
    lt_backend_free(backend);
}

/* No two places share a mask, and evaluation has none. */
static void test_dropout_sites(void **state)
{
    (void)state;
    lt_dropout_mask masks[3 * LT_SITES];
    lt_pass pass = {.dropout = true, .key = dropout_key};
    for (int i = 0; i < 3 * LT_SITES; i++) {
        masks[i] = lt_pass_mask(&pass, 0.5, i / LT_SITES, i % LT_SITES);
        assert_true(masks[i].rate == 0.5 && masks[i].seed == dropout_key.seed);
        for (int j = 0; j < i; j++)
            assert_true(masks[i].stream != masks[j].stream);
    }
    pass.dropout = false;
    assert_true(lt_pass_mask(&pass, 0.5, 0, LT_SITE_MLP_OUT).rate == 0);
}

/* --- Accumulation ---------------------------------------------------------------------------- */

static double difference_of(const float *a, const float *b, int64_t n)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)a[i] * a[i];
    }
    return sqrt(difference / norm);
}

static void test_accumulation(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    for (int m = 0; m < GOLDEN_COUNT; m++) {
        lt_model *model = load_golden(golden_names[m], NULL, backend);
        test_batch b = random_batch(8, LENGTH, model->config.vocab_size, 8);
        lt_workspace_settings settings = training(0, LT_RECOMPUTE_NONE);
        lt_loss loss = {0};
        settings.rows = 8;
        OK(lt_model_allocate_gradients(model, err));
        double sum = run_backward(model, &settings, &b.batch, dropout_key);
        float *whole = copy_of(all_gradients(model));
        lt_workspace *workspace = new_workspace(model, &settings);
        for (int64_t r = 0; r < 8; r++) {
            int64_t at = r * LENGTH;
            lt_batch row = {.rows = 1,
                            .length = LENGTH,
                            .input_ids = b.ids + at,
                            .targets = b.targets + at,
                            .positions = b.positions + at,
                            .first_key = b.first_key + at};
            OK(lt_model_forward_backward(model, workspace, &row, dropout_key, r > 0, &loss, err));
        }
        double off =
            difference_of(whole, (const float *)all_gradients(model).data, model->gradient_count);
        if (!(off <= 1e-5)) fail_msg("%s: 8x1 differs from 1x8 by %g", golden_names[m], off);
        assert_true(fabs(loss.sum - sum) <= 1e-5 * sum);
        assert_int_equal(loss.tokens, b.batch.trained_tokens);
        lt_workspace_free(workspace);
        free(whole);
        free_batch(&b);
        lt_model_free(model);
    }
    lt_backend_free(backend);
}

/* --- Frozen layers --------------------------------------------------------------------------- */

static void check_frozen(const char *name, int64_t layers, lt_recompute recompute)
{
    lt_backend *backend = make_backend(NULL);
    lt_model *full = load_golden(name, NULL, backend), *frozen = load_golden(name, NULL, backend);
    test_batch b = random_batch(ROWS, LENGTH, full->config.vocab_size, 12);
    lt_workspace_settings settings = training(0.1, LT_RECOMPUTE_NONE);
    size_t planned;
    settings.recompute = recompute;
    OK(freeze_layers(frozen, layers, err));
    OK(lt_model_allocate_gradients(full, err));
    OK(lt_model_allocate_gradients(frozen, err));
    double loss = run_backward(full, &settings, &b.batch, dropout_key);
    double frozen_loss = run_backward(frozen, &settings, &b.batch, dropout_key);
    assert_memory_equal(&loss, &frozen_loss, sizeof loss);
    for (int p = 0; p < full->param_count; p++) {
        const lt_param *a = &full->params[p], *f = &frozen->params[p];
        bool tied_head = a->layer < 0;
        if (f->layer < layers || tied_head) {
            assert_null(f->gradient.data);
            continue;
        }
        assert_non_null(f->gradient.data);
        size_t bytes = (size_t)lt_tensor_count(a->gradient) * lt_dtype_size(backend->real);
        if (memcmp(a->gradient.data, f->gradient.data, bytes) != 0)
            fail_msg("%s: freezing %lld layers changes the gradient of %s", name, (long long)layers,
                     f->name);
    }
    lt_memory_plan plan;
    plan = plan_of(&frozen->config, backend, &settings, layers);
    planned = plan.activations;
    plan = plan_of(&frozen->config, backend, &settings, 0);
    if (recompute == LT_RECOMPUTE_NONE) assert_true(planned < plan.activations);
    free_batch(&b);
    lt_model_free(full);
    lt_model_free(frozen);
    lt_backend_free(backend);
}

static void test_frozen_layers(void **state)
{
    (void)state;
    for (int m = 0; m < GOLDEN_COUNT; m++)
        for (int level = LT_RECOMPUTE_NONE; level <= LT_RECOMPUTE_BLOCK; level++) {
            check_frozen(golden_names[m], 1, (lt_recompute)level);
            check_frozen(golden_names[m], 2, (lt_recompute)level);
        }
}

/* --- Memory plan ----------------------------------------------------------------------------- */

static void check_plan(const char *name, const lt_workspace_settings *settings, int64_t frozen)
{
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_golden(name, NULL, backend);
    size_t planned = 0;
    OK(freeze_layers(model, frozen, err));
    OK(lt_workspace_plan(model, settings, &planned, err));
    lt_workspace *w = new_workspace(model, settings);
    assert_int_equal(planned, w->arena.used + w->host.used);
    assert_true(w->arena.used <= w->arena.capacity);
    lt_workspace_free(w);
    lt_model_free(model);
    lt_backend_free(backend);
}

/* The plan is what is taken, to the byte; and each level of recompute takes less. */
static void test_plan(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    for (int m = 0; m < GOLDEN_COUNT; m++) {
        lt_model *model = load_golden(golden_names[m], NULL, backend);
        lt_workspace_settings settings = training(0.1, LT_RECOMPUTE_NONE);
        size_t last = SIZE_MAX, bytes;
        for (int level = LT_RECOMPUTE_NONE; level <= LT_RECOMPUTE_BLOCK; level++) {
            settings.recompute = (lt_recompute)level;
            for (int64_t frozen = 0; frozen <= 2; frozen++)
                check_plan(golden_names[m], &settings, frozen);
            OK(lt_workspace_plan(model, &settings, &bytes, err));
            assert_true(bytes < last);
            last = bytes;
        }
        settings.training = false;
        check_plan(golden_names[m], &settings, 0);
        lt_model_free(model);
    }
    lt_backend_free(backend);
}

/* --- Bad batches ----------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_golden("gpt2", NULL, backend);
    lt_workspace_settings settings = training(0, LT_RECOMPUTE_NONE);
    lt_workspace *w = new_workspace(model, &settings);
    test_batch b = random_batch(ROWS, LENGTH, model->config.vocab_size, 1);
    test_batch large = random_batch(ROWS + 1, LENGTH, model->config.vocab_size, 1);
    lt_loss loss = {0};
    lt_err err;
#define REFUSED(code, batch_) \
    assert_int_equal(         \
        lt_model_forward_backward(model, w, (batch_), dropout_key, false, &loss, &err), code)
    REFUSED(LT_ERR_USAGE, &b.batch); /* no gradients yet */
    OK(lt_model_allocate_gradients(model, err));
    REFUSED(LT_ERR_LIMIT, &large.batch);
    b.ids[3] = (int32_t)model->config.vocab_size;
    REFUSED(LT_ERR_USAGE, &b.batch);
    b.ids[3] = -1;
    REFUSED(LT_ERR_USAGE, &b.batch);
    b.ids[3] = 0;
    int32_t target = b.targets[4];
    b.targets[4] = -7;
    REFUSED(LT_ERR_USAGE, &b.batch);
    b.targets[4] = target;
    b.positions[9] = (int32_t)model->config.max_position_embeddings;
    REFUSED(LT_ERR_LIMIT, &b.batch);
    b.positions[9] = 9;
    b.first_key[2] = 3;
    REFUSED(LT_ERR_USAGE, &b.batch);
    b.first_key[2] = 0;
    assert_true(loss.tokens == 0 && loss.sum == 0);
    /* a batch with nothing to learn is fine and changes nothing */
    for (int64_t i = 0; i < ROWS * LENGTH; i++)
        b.targets[i] = LT_IGNORE;
    REFUSED(LT_OK, &b.batch);
    assert_true(loss.tokens == 0 && loss.sum == 0);
    assert_true(largest_element(all_gradients(model)) == 0);
    lt_workspace_free(w);
    settings.training = false;
    w = new_workspace(model, &settings);
    REFUSED(LT_ERR_USAGE, &b.batch);
    lt_workspace_free(w);
    settings.rows = (int64_t)1 << 40;
    assert_int_equal(lt_workspace_create(model, &settings, &w, &err), LT_ERR_LIMIT);
    free_batch(&b);
    free_batch(&large);
    lt_model_free(model);
    lt_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_finite_differences),
                                       cmocka_unit_test(test_recompute),
                                       cmocka_unit_test(test_dropout_streams),
                                       cmocka_unit_test(test_dropout_sites),
                                       cmocka_unit_test(test_accumulation),
                                       cmocka_unit_test(test_frozen_layers),
                                       cmocka_unit_test(test_plan),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
