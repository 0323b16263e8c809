/* Documents packed into one row compute what they compute alone, and see nothing of each other:
 * without an adapter and with each, whose virtual tokens stand in front of every document. */
#include "adapters.h"

enum { FIRST = 7, SECOND = 6, LENGTH = FIRST + SECOND };

/* Two documents of random ids; each predicts its next id, the last nothing. */
static test_batch packed_batch(int64_t vocab, uint64_t seed)
{
    test_batch b = random_batch(1, LENGTH, vocab, seed);
    split_rows(&b, FIRST);
    b.batch.trained_tokens = 0;
    for (int64_t i = 0; i < LENGTH; i++) {
        bool last = i == FIRST - 1 || i == LENGTH - 1;
        b.targets[i] = last ? LT_IGNORE : b.ids[i + 1];
        b.batch.trained_tokens += !last;
    }
    return b;
}

static void evaluate(const lt_model *model, const lt_batch *batch, double *token_loss)
{
    lt_loss loss = {0};
    lt_workspace *w = new_workspace(
        model, &(lt_workspace_settings){.rows = batch->rows, .length = batch->length});
    OK(lt_model_evaluate(model, w, batch, &loss, token_loss, err));
    lt_workspace_free(w);
}

/* The document at `start` in a batch of its own. */
static void evaluate_alone(const lt_model *model, const test_batch *packed, int64_t start,
                           int64_t length, double *token_loss)
{
    test_batch alone = new_batch(1, length);
    memcpy(alone.ids, packed->ids + start, (size_t)length * 4);
    memcpy(alone.targets, packed->targets + start, (size_t)length * 4);
    evaluate(model, &alone.batch, token_loss);
    free_batch(&alone);
}

static void check_packed_is_separate(const lt_model *model, const char *what)
{
    test_batch b = packed_batch(model->config.vocab_size, 21);
    double packed[LENGTH], separate[LENGTH], worst = 0;
    evaluate(model, &b.batch, packed);
    evaluate_alone(model, &b, 0, FIRST, separate);
    evaluate_alone(model, &b, FIRST, SECOND, separate + FIRST);
    for (int64_t i = 0; i < LENGTH; i++)
        worst = fmax(worst, fabs(packed[i] - separate[i]));
    if (!(worst <= 1e-5)) fail_msg("%s: packing changes a loss by %g", what, worst);
    free_batch(&b);
}

/* Other ids in the document at `start` change its own losses and no bit of the other one's. */
static void check_no_leak(const lt_model *model, int64_t start, int64_t length, const char *what)
{
    int64_t vocab = model->config.vocab_size, other = start ? 0 : length;
    test_batch b = packed_batch(vocab, 22);
    double before[LENGTH], after[LENGTH];
    evaluate(model, &b.batch, before);
    for (int64_t i = start; i < start + length; i++)
        b.ids[i] = (int32_t)((b.ids[i] + 1 + i) % vocab);
    evaluate(model, &b.batch, after);
    assert_true(memcmp(before + start, after + start, (size_t)length * sizeof *before) != 0);
    if (memcmp(before + other, after + other, (size_t)(LENGTH - length) * sizeof *before) != 0)
        fail_msg("%s: the document at %lld is seen by the other", what, (long long)start);
    free_batch(&b);
}

/* The gradient of two packed documents is that of the two side by side. */
static void check_gradient(lt_model *model, const char *what)
{
    test_batch b = packed_batch(model->config.vocab_size, 23), rows = new_batch(2, FIRST);
    memcpy(rows.ids, b.ids, FIRST * 4);
    memcpy(rows.targets, b.targets, FIRST * 4);
    memcpy(rows.ids + FIRST, b.ids + FIRST, SECOND * 4);
    memcpy(rows.targets + FIRST, b.targets + FIRST, SECOND * 4);
    OK(lt_model_allocate_gradients(model, err));
    lt_workspace_settings settings = {.rows = 2, .length = FIRST, .training = true};
    run_backward(model, &settings, &b.batch, (lt_dropout_mask){0});
    float *packed = copy_of(all_gradients(model));
    run_backward(model, &settings, &rows.batch, (lt_dropout_mask){0});
    double bound = 1e-4 * largest_element(all_gradients(model));
    for (int64_t i = 0; i < model->gradient_count; i++)
        if (!(fabs((double)packed[i] - element(all_gradients(model), i)) <= bound))
            fail_msg("%s: packing changes the gradient", what);
    free(packed);
    free_batch(&b);
    free_batch(&rows);
}

/* `adapter`: one of adapter_cases, or NULL. */
static void check_all(const char *name, const char *adapter, const lt_backend *backend)
{
    char what[128];
    lt_model *model = load_golden(name, NULL, backend);
    if (adapter) random_adapter(model, case_named(adapter), "used", 5);
    snprintf(what, sizeof what, "%s, %s", name, adapter ? adapter : "no adapter");
    check_packed_is_separate(model, what);
    check_no_leak(model, 0, FIRST, what);
    check_no_leak(model, FIRST, SECOND, what);
    check_gradient(model, what);
    lt_model_free(model);
}

static void test_packing(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", NULL};
    static const char *const adapters[] = {
        NULL, "lora, some", "dora", "prefix", "prefix, projection", "prompt", "p-tuning"};
    for (int i = 0; i < 2; i++) {
        lt_backend *backend = make_backend(isas[i]);
        for (int m = 0; m < GOLDEN_COUNT; m++)
            for (size_t k = 0; k < sizeof adapters / sizeof *adapters; k++)
                check_all(golden_names[m], adapters[k], backend);
        lt_backend_free(backend);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_packing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
