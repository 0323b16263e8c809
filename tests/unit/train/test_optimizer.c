/* The optimizer of the trainer against torch's: ten AdamW steps on the golden gpt2 model, and its
 * state on file. (tests/golden/make_model_golden.py made the expected values.) */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/formats/safetensors.h"
#include "train/optimizer.h"

#define GOLDEN LATHE_TEST_DIR "/golden/models/gpt2"

static void must(lt_status status, const lt_err *err)
{
    if (status != LT_OK) fail_msg("%s", err->message);
}

typedef struct fixture {
    lt_backend *backend;
    lt_model *model;
    lt_optimizer optimizer;
    lt_workspace *workspace;
    lt_safetensors expected;
    int32_t *targets, *positions, *first_key;
    lt_batch batch;
} fixture;

/* Labels on file are not shifted: position i predicts label i + 1. */
static void open_batch(fixture *f)
{
    const lt_safetensors_entry *ids = lt_safetensors_find(&f->expected, "input_ids");
    const lt_safetensors_entry *labels = lt_safetensors_find(&f->expected, "labels");
    int64_t rows = ids->shape[0], length = ids->shape[1];
    size_t cells = (size_t)(rows * length);
    f->targets = malloc(cells * sizeof(int32_t));
    f->positions = malloc(cells * sizeof(int32_t));
    f->first_key = calloc(cells, sizeof(int32_t));
    f->batch = (lt_batch){.rows = rows,
                          .length = length,
                          .input_ids = (const int32_t *)(const void *)ids->data,
                          .targets = f->targets,
                          .positions = f->positions,
                          .first_key = f->first_key};
    for (int64_t i = 0; i < rows * length; i++) {
        f->positions[i] = (int32_t)(i % length);
        f->targets[i] = LT_IGNORE;
        if (i % length + 1 < length) memcpy(&f->targets[i], labels->data + 4 * (i + 1), 4);
        f->batch.trained_tokens += f->targets[i] != LT_IGNORE;
    }
}

static fixture open_fixture(void)
{
    fixture f = {0};
    lt_err err = {0};
    const lt_backend_settings settings = {.threads = 1};
    must(lt_backend_create(&settings, &f.backend, &err), &err);
    must(lt_model_load(GOLDEN, f.backend, &f.model, &err), &err);
    must(lt_model_allocate_gradients(f.model, &err), &err);
    must(lt_optimizer_create(f.model, &f.optimizer, &err), &err);
    must(lt_safetensors_open(GOLDEN "/expected.safetensors", &f.expected, &err), &err);
    open_batch(&f);
    const lt_workspace_settings workspace = {
        .rows = f.batch.rows, .length = f.batch.length, .training = true};
    must(lt_workspace_create(f.model, &workspace, &f.workspace, &err), &err);
    return f;
}

static void close_fixture(fixture *f)
{
    free(f->targets);
    free(f->positions);
    free(f->first_key);
    lt_safetensors_close(&f->expected);
    lt_workspace_free(f->workspace);
    lt_optimizer_free(&f->optimizer);
    lt_model_free(f->model);
    lt_backend_free(f->backend);
}

static double step(fixture *f, int64_t update, double *norm)
{
    lt_err err = {0};
    lt_loss loss = {0};
    const lt_dropout_mask none = {0};
    must(lt_model_forward_backward(f->model, f->workspace, &f->batch, none, false, &loss, &err),
         &err);
    const lt_optimizer_step settings = {.gradient_scale = 1.0 / (double)loss.tokens,
                                        .learning_rate = 1e-3,
                                        .beta1 = 0.9,
                                        .beta2 = 0.95,
                                        .epsilon = 1e-8,
                                        .weight_decay = 0.1,
                                        .max_grad_norm = 1,
                                        .update = update};
    must(lt_optimizer_apply(&f->optimizer, f->model, &settings, norm, &err), &err);
    return loss.sum / (double)loss.tokens;
}

static double expected_value(const fixture *f, const char *name, int64_t index)
{
    float value;
    lt_err err = {0};
    const lt_safetensors_entry *entry = lt_safetensors_find(&f->expected, name);
    assert_non_null(entry);
    must(lt_safetensors_read_f32(&f->expected, entry, index, 1, &value, &err), &err);
    return value;
}

/* The bias of k shifts all scores of a query alike: its true gradient is zero, and what AdamW makes
 * of the rounding that is left is nobody's to compare. */
static double largest_difference(const lt_model *model, const lt_param *ours,
                                 const lt_param *theirs)
{
    const float *x = ours->weight.data, *y = theirs->weight.data;
    int64_t count = lt_tensor_count(ours->weight), hidden = model->config.hidden_size;
    bool is_qkv_bias = strstr(ours->name, "qkv.bias") != NULL;
    double worst = 0;
    for (int64_t i = 0; i < count; i++) {
        if (is_qkv_bias && i >= hidden && i < 2 * hidden) continue;
        worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
    }
    return worst;
}

static void ten_steps_match_torch(void **state)
{
    (void)state;
    fixture f = open_fixture();
    lt_err err = {0};
    lt_model *after = NULL;
    must(lt_model_load(GOLDEN "/after_adamw", f.backend, &after, &err), &err);
    for (int64_t i = 0; i < 10; i++) {
        double norm, loss = step(&f, i + 1, &norm);
        assert_true(fabs(loss - expected_value(&f, "adamw_losses", i)) < 1e-5);
        assert_true(fabs(norm / expected_value(&f, "adamw_norms", i) - 1) < 1e-5);
    }
    double worst = 0;
    for (int p = 0; p < f.model->param_count; p++)
        worst = fmax(worst, largest_difference(f.model, &f.model->params[p], &after->params[p]));
    if (!(worst < 1e-5)) fail_msg("a weight is off by %g", worst);
    lt_model_free(after);
    close_fixture(&f);
}

static void state_comes_back_from_file(void **state)
{
    (void)state;
    char path[] = "/tmp/lathe-optimizer-XXXXXX";
    fixture f = open_fixture();
    lt_err err = {0};
    lt_optimizer copy;
    double norm;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    step(&f, 1, &norm);
    must(lt_optimizer_save(&f.optimizer, f.model, path, &err), &err);
    must(lt_optimizer_create(f.model, &copy, &err), &err);
    must(lt_optimizer_load(&copy, f.model, path, &err), &err);
    size_t bytes = (size_t)f.model->gradient_count * sizeof(float);
    assert_memory_equal(f.optimizer.m.data, copy.m.data, bytes);
    assert_memory_equal(f.optimizer.v.data, copy.v.data, bytes);
    /* of other frozen layers, or of another model */
    lt_model *frozen = NULL;
    must(lt_model_load(GOLDEN, f.backend, &frozen, &err), &err);
    must(lt_model_set_trainable(frozen, &(lt_trainable){.freeze_layers = 1}, &err), &err);
    assert_int_equal(lt_optimizer_load(&copy, frozen, path, &err), LT_ERR_FORMAT);
    lt_model_free(frozen);
    must(lt_model_load(LATHE_TEST_DIR "/golden/models/gpt2_odd", f.backend, &frozen, &err), &err);
    assert_int_equal(lt_optimizer_load(&copy, frozen, path, &err), LT_ERR_FORMAT);
    lt_model_free(frozen);
    lt_optimizer_free(&copy);
    close_fixture(&f);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_steps_match_torch),
        cmocka_unit_test(state_comes_back_from_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
