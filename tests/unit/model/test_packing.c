/* Documents packed into one row compute what they compute alone, and see nothing of each other. */
#include "golden.h"

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

static void check_packed_is_separate(const char *name, const lt_backend *backend)
{
    lt_model *model = load_golden(name, NULL, backend);
    test_batch b = packed_batch(model->config.vocab_size, 21);
    double packed[LENGTH], separate[LENGTH], worst = 0;
    evaluate(model, &b.batch, packed);
    evaluate_alone(model, &b, 0, FIRST, separate);
    evaluate_alone(model, &b, FIRST, SECOND, separate + FIRST);
    for (int64_t i = 0; i < LENGTH; i++)
        worst = fmax(worst, fabs(packed[i] - separate[i]));
    if (!(worst <= 1e-5)) fail_msg("%s: packing changes a loss by %g", name, worst);
    free_batch(&b);
    lt_model_free(model);
}

static void check_no_leak(const char *name, const lt_backend *backend)
{
    lt_model *model = load_golden(name, NULL, backend);
    int64_t vocab = model->config.vocab_size;
    test_batch b = packed_batch(vocab, 22);
    double before[LENGTH], after[LENGTH];
    evaluate(model, &b.batch, before);
    for (int64_t i = 0; i < FIRST; i++)
        b.ids[i] = (int32_t)((b.ids[i] + 1 + i) % vocab);
    evaluate(model, &b.batch, after);
    assert_true(memcmp(before, after, FIRST * sizeof *before) != 0);
    if (memcmp(before + FIRST, after + FIRST, SECOND * sizeof *before) != 0)
        fail_msg("%s: the first document is seen by the second", name);
    free_batch(&b);
    lt_model_free(model);
}

/* The gradient of two packed documents is that of the two side by side. */
static void check_gradient(const char *name, const lt_backend *backend)
{
    lt_model *model = load_golden(name, NULL, backend);
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
        assert_true(fabs((double)packed[i] - element(all_gradients(model), i)) <= bound);
    free(packed);
    free_batch(&b);
    free_batch(&rows);
    lt_model_free(model);
}

static void test_packing(void **state)
{
    (void)state;
    const char *isas[] = {"ref", NULL};
    for (int i = 0; i < 2; i++) {
        lt_backend *backend = make_backend(isas[i]);
        for (int m = 0; m < GOLDEN_COUNT; m++) {
            check_packed_is_separate(golden_names[m], backend);
            check_no_leak(golden_names[m], backend);
            check_gradient(golden_names[m], backend);
        }
        lt_backend_free(backend);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_packing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
