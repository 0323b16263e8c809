/* The golden models on the GPU compute what Hugging Face computed: logits and loss, in f32 within
 * the CPU's bounds; in bf16 within what rounding weights and activations to 8 bits explains: each
 * is off by at most 2^-9 of itself, and so, by a modest factor for depth, are logits. */
#include "tests/unit/model/expected.h"

#define BF16_BOUND (12 * 0x1p-9)

static lt_backend *gpu(bool half)
{
    lt_backend *backend = NULL;
    OK(lt_backend_create(&(lt_backend_settings){.device = LT_DEVICE_CUDA, .half = half}, &backend,
                         err));
    return backend;
}

static void test_f32(void **state)
{
    (void)state;
    lt_backend *backend = gpu(false);
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        golden g =
            open_golden(golden_names[i], golden_path(golden_names[i], "expected.safetensors"));
        lt_model *model = load_golden(golden_names[i], NULL, backend);
        lt_workspace_settings settings = golden_training(&g);
        printf("%s, %s:", golden_names[i], backend->name);
        check_logits(&g, model);
        OK(lt_model_allocate_gradients(model, err));
        check_loss(&g, run_backward(model, &settings, &g.batch.batch, (lt_dropout_mask){0}));
        putchar('\n');
        lt_model_free(model);
        close_golden(&g);
    }
    lt_backend_free(backend);
}

/* The norm of the difference over the norm of what is expected, which is centred first: a constant
 * added to all logits means nothing. */
static double difference(const float *expected, const float *found, int64_t n)
{
    double mean = 0, apart = 0, size = 0;
    for (int64_t i = 0; i < n; i++)
        mean += (double)expected[i] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double off = (double)found[i] - (double)expected[i], x = (double)expected[i] - mean;
        apart += off * off;
        size += x * x;
    }
    return sqrt(apart / size);
}

static void test_bf16(void **state)
{
    (void)state;
    lt_backend *backend = gpu(true);
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        golden g =
            open_golden(golden_names[i], golden_path(golden_names[i], "expected.safetensors"));
        lt_model *model = load_golden(golden_names[i], NULL, backend);
        int64_t count = 0;
        float *expected = read_f32(&g, "logits", &count),
              *logits = logits_of(model, &g.batch.batch);
        double off = difference(expected, logits, count);
        printf("%s, %s: logits within %.1e (bound %.1e)\n", golden_names[i], backend->name, off,
               BF16_BOUND);
        if (!(off <= BF16_BOUND)) fail_msg("%s: logits are %.2g off", golden_names[i], off);
        free(expected);
        free(logits);
        lt_model_free(model);
        close_golden(&g);
    }
    lt_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
