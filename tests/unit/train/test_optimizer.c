/* The optimizer of the trainer against torch's: ten AdamW steps on the golden gpt2 model; shorter
 * state, bf16 weights, the host's memory; its state on file. (tests/golden/make_model_golden.py
 * made the expected values.) */
#include "../check.h"

#include <math.h>

#include "model/formats/safetensors.h"
#include "train/optimizer.h"

#define GOLDEN LATHE_TEST_DIR "/golden/models/gpt2"

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

static const lt_optimizer_settings plain = {0};

static fixture open_fixture(const lt_optimizer_settings *settings)
{
    fixture f = {0};
    lt_err err = {0};
    const lt_backend_settings machine = {.threads = 1};
    must(lt_backend_create(&machine, &f.backend, &err), &err);
    must(lt_model_load(GOLDEN, f.backend, &f.model, &err), &err);
    must(lt_model_allocate_gradients(f.model, &err), &err);
    must(lt_optimizer_create(f.model, settings, &f.optimizer, &err), &err);
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

/* Passes over the batch and steps `optimizer`. Returns the loss. */
static double step(fixture *f, int64_t number, double *norm)
{
    lt_err err = {0};
    lt_loss loss = {0};
    const lt_dropout_mask none = {0};
    must(lt_model_forward_backward(f->model, f->workspace, &f->batch, none, false, &loss, &err),
         &err);
    float result;
    double tokens = (double)loss.tokens;
    const lt_optimizer_step settings = {.tokens = lt_tensor_1d(&tokens, LT_F64, 1),
                                        .learning_rate = 1e-3,
                                        .beta1 = 0.9,
                                        .beta2 = 0.95,
                                        .epsilon = 1e-8,
                                        .weight_decay = 0.1,
                                        .max_grad_norm = 1,
                                        .number = number,
                                        .norm = lt_tensor_1d(&result, LT_F32, 1)};
    must(lt_optimizer_sum_squares(&f->optimizer, f->model, &err), &err);
    must(lt_optimizer_apply(&f->optimizer, &settings, &err), &err);
    *norm = result;
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
    fixture f = open_fixture(&plain);
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

/* --- Kinds of state ----------------------------------------------------------------------------
 */

static const lt_optimizer_settings kinds[] = {
    {.kind = LT_ADAMW}, {.kind = LT_ADAMW_BF16, .seed = 7}, {.kind = LT_ADAMW_8BIT}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static size_t state_bytes(const lt_tensor *t)
{
    return (size_t)lt_tensor_count(*t) * lt_dtype_size(t->dtype);
}

static void assert_same_tensor(const lt_tensor *a, const lt_tensor *b)
{
    assert_int_equal(a->dtype, b->dtype);
    assert_int_equal(state_bytes(a), state_bytes(b));
    if (a->data) assert_memory_equal(a->data, b->data, state_bytes(a));
}

static void assert_same_state(const lt_optimizer *a, const lt_optimizer *b)
{
    assert_same_tensor(&a->m, &b->m);
    assert_same_tensor(&a->v, &b->v);
    assert_same_tensor(&a->m_scale, &b->m_scale);
    assert_same_tensor(&a->v_scale, &b->v_scale);
}

static void assert_same_weights(const lt_model *a, const lt_model *b)
{
    assert_memory_equal(a->params[0].weight.data, b->params[0].weight.data,
                        (size_t)a->weight_count * sizeof(float));
}

/* Short state costs little: the losses of ten steps stay near those of f32. */
static void every_kind_learns_alike(void **state)
{
    (void)state;
    double losses[KINDS][10], norm;
    for (int k = 0; k < KINDS; k++) {
        fixture f = open_fixture(&kinds[k]);
        for (int i = 0; i < 10; i++)
            losses[k][i] = step(&f, i + 1, &norm);
        close_fixture(&f);
    }
    double fallen = losses[0][0] - losses[0][9];
    assert_true(fallen > 0.1);
    for (int k = 1; k < KINDS; k++) {
        assert_true(losses[k][0] == losses[0][0]);
        if (fabs(losses[k][9] - losses[0][9]) > 0.05 * fallen)
            fail_msg("%s: %g after ten steps, %g in f32, from %g", lt_optimizer_name(kinds[k].kind),
                     losses[k][9], losses[0][9], losses[0][0]);
        assert_true(losses[k][9] != losses[0][9]); /* it is another kind */
    }
}

/* Another seed rounds otherwise, another step too. */
static void rounding_follows_the_seed(void **state)
{
    (void)state;
    double norm;
    lt_optimizer_settings other = kinds[1];
    other.seed = 8;
    fixture a = open_fixture(&kinds[1]), b = open_fixture(&kinds[1]), c = open_fixture(&other);
    step(&a, 1, &norm);
    step(&b, 1, &norm);
    step(&c, 1, &norm);
    assert_same_state(&a.optimizer, &b.optimizer);
    assert_memory_not_equal(a.optimizer.m.data, c.optimizer.m.data, state_bytes(&a.optimizer.m));
    fixture d = open_fixture(&kinds[1]);
    step(&d, 2, &norm);
    assert_memory_not_equal(a.optimizer.m.data, d.optimizer.m.data, state_bytes(&a.optimizer.m));
    close_fixture(&a);
    close_fixture(&b);
    close_fixture(&c);
    close_fixture(&d);
}

/* The host steps the same, in whatever pieces. */
static void offloading_changes_no_bit(void **state)
{
    (void)state;
    static const int64_t chunks[] = {0, LT_QUANTISED_BLOCK, 5 * LT_QUANTISED_BLOCK};
    double norm;
    for (int k = 0; k < KINDS; k++) {
        fixture here = open_fixture(&kinds[k]);
        for (int i = 0; i < 3; i++)
            step(&here, i + 1, &norm);
        for (int c = 0; c < 3; c++) {
            lt_optimizer_settings offloaded = kinds[k];
            offloaded.offload = true;
            offloaded.threads = 1;
            offloaded.chunk = chunks[c];
            fixture f = open_fixture(&offloaded);
            assert_non_null(f.optimizer.master.data);
            for (int i = 0; i < 3; i++)
                step(&f, i + 1, &norm);
            assert_same_state(&here.optimizer, &f.optimizer);
            assert_same_weights(here.model, f.model);
            close_fixture(&f);
        }
        close_fixture(&here);
    }
}

/* --- bf16 weights ------------------------------------------------------------------------------
 */

static float from_bf16(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static uint16_t to_bf16(float value)
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return (uint16_t)((word + 0x7FFF + (word >> 16 & 1)) >> 16);
}

/* The CPU's operations on a model that is held in bf16, as a GPU holds it: those of the optimizer
 * do not depend on the number type of the weights. */
typedef struct half_fixture {
    lt_backend *cpu;
    lt_backend pretended;
    lt_model *model;
    lt_optimizer optimizer;
} half_fixture;

/* The CPU's is for f32. */
static lt_status sum_squares_of_any(const lt_backend *backend, const lt_sum_squares_args *a,
                                    lt_err *err)
{
    (void)backend;
    (void)err;
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        double x = a->x.dtype == LT_BF16 ? (double)from_bf16(((const uint16_t *)a->x.data)[i])
                                         : (double)((const float *)a->x.data)[i];
        *(double *)a->result.data += x * x;
    }
    return LT_OK;
}

static void open_half(half_fixture *f, const lt_optimizer_settings *settings, lt_dtype gradient)
{
    lt_err err = {0};
    must(lt_backend_create(&(lt_backend_settings){.threads = 1}, &f->cpu, &err), &err);
    f->pretended = *f->cpu;
    f->pretended.real = LT_BF16;
    f->pretended.ops.sum_squares = sum_squares_of_any;
    must(lt_model_load(GOLDEN, &f->pretended, &f->model, &err), &err);
    f->model->gradient_dtype = gradient;
    must(lt_model_allocate_gradients(f->model, &err), &err);
    must(lt_optimizer_create(f->model, settings, &f->optimizer, &err), &err);
}

static void close_half(half_fixture *f)
{
    lt_optimizer_free(&f->optimizer);
    lt_model_free(f->model);
    lt_backend_free(f->cpu);
}

/* The same gradient for every fixture; 0 in the gaps between rows. */
static void make_gradient(const lt_model *model, int64_t number)
{
    for (int p = 0; p < model->param_count; p++) {
        const lt_param *param = &model->params[p];
        for (int64_t i = 0; i < lt_tensor_count(param->gradient); i++) {
            float value = from_bf16(to_bf16(1e-3F * (float)sin((double)(17 * i + 3 * p + number))));
            if (model->gradient_dtype == LT_BF16)
                ((uint16_t *)param->gradient.data)[i] = to_bf16(value);
            else
                ((float *)param->gradient.data)[i] = value;
        }
    }
}

static void step_half_by(half_fixture *f, int64_t number, double tokens)
{
    lt_err err = {0};
    float norm;
    const lt_optimizer_step step = {.tokens = lt_tensor_1d(&tokens, LT_F64, 1),
                                    .learning_rate = 1e-3,
                                    .beta1 = 0.9,
                                    .beta2 = 0.95,
                                    .epsilon = 1e-8,
                                    .weight_decay = 0.1,
                                    .number = number,
                                    .norm = lt_tensor_1d(&norm, LT_F32, 1)};
    make_gradient(f->model, number);
    must(lt_optimizer_sum_squares(&f->optimizer, f->model, &err), &err);
    must(lt_optimizer_apply(&f->optimizer, &step, &err), &err);
}

static void step_half(half_fixture *f, int64_t number)
{
    step_half_by(f, number, 1);
}

/* The master weights start as the model's and move by less than bf16 can show; the model's are
 * those, rounded. */
static void master_weights_lead(void **state)
{
    (void)state;
    half_fixture f = {0};
    open_half(&f, &plain, LT_F32);
    const lt_param *param = lt_model_param(f.model, "layers.0.mlp.up.weight");
    const float *master = (const float *)f.optimizer.master.data + param->gradient_offset;
    const uint16_t *weights = param->weight.data;
    int64_t count = lt_tensor_count(param->weight), between = 0;
    for (int64_t i = 0; i < count; i++)
        assert_true(master[i] == from_bf16(weights[i]));
    for (int i = 0; i < 5; i++)
        step_half(&f, i + 1);
    for (int64_t i = 0; i < count; i++) {
        assert_int_equal(weights[i], to_bf16(master[i]));
        between += master[i] != from_bf16(weights[i]);
    }
    assert_true(between > count / 2);
    close_half(&f);
}

static void half_weights_can_be_stepped_on_the_host(void **state)
{
    (void)state;
    for (int g = 0; g < 2; g++) {
        lt_dtype gradient = g ? LT_BF16 : LT_F32;
        half_fixture here = {0};
        open_half(&here, &kinds[2], LT_F32);
        for (int i = 0; i < 3; i++)
            step_half(&here, i + 1);
        lt_optimizer_settings settings = kinds[2];
        settings.offload = true;
        settings.chunk = 3 * LT_QUANTISED_BLOCK;
        half_fixture there = {0};
        open_half(&there, &settings, gradient);
        for (int i = 0; i < 3; i++)
            step_half(&there, i + 1);
        step_half_by(&there, 4, 0); /* changes nothing */
        assert_same_state(&here.optimizer, &there.optimizer);
        assert_same_tensor(&here.optimizer.master, &there.optimizer.master);
        assert_memory_equal(here.model->params[0].weight.data, there.model->params[0].weight.data,
                            (size_t)here.model->weight_count * sizeof(uint16_t));
        close_half(&here);
        close_half(&there);
    }
}

/* --- What is not finite ------------------------------------------------------------------------
 */

/* A loss that is not finite is no step, though the gradient may look well. */
static void a_bad_loss_is_no_step(void **state)
{
    (void)state;
    static const double losses[] = {1e30, INFINITY, NAN};
    for (int k = 0; k < 2 * KINDS; k++) {
        lt_optimizer_settings settings = kinds[k / 2];
        settings.offload = k % 2;
        settings.threads = 1;
        fixture f = open_fixture(&settings), untouched = open_fixture(&settings);
        lt_err err = {0};
        double loss, before, tokens = 1000;
        float norm, first_norm = 0;
        step(&f, 1, &before);
        step(&untouched, 1, &before);
        for (int i = 2; i >= 0; i--) { /* the finite one last */
            loss = losses[i];
            const lt_optimizer_step bad = {.tokens = lt_tensor_1d(&tokens, LT_F64, 1),
                                           .learning_rate = 1e-3,
                                           .epsilon = 1e-8,
                                           .number = 2,
                                           .loss = lt_tensor_1d(&loss, LT_F64, 1),
                                           .norm = lt_tensor_1d(&norm, LT_F32, 1)};
            must(lt_optimizer_sum_squares(&f.optimizer, f.model, &err), &err);
            must(lt_optimizer_apply(&f.optimizer, &bad, &err), &err);
            if (i == 0) break;
            assert_false(isfinite(norm));
            assert_same_state(&f.optimizer, &untouched.optimizer);
            assert_same_weights(f.model, untouched.model);
        }
        assert_true(isfinite(norm));
        lt_optimizer_step same = {.tokens = lt_tensor_1d(&tokens, LT_F64, 1),
                                  .learning_rate = 1e-3,
                                  .epsilon = 1e-8,
                                  .number = 2,
                                  .norm = lt_tensor_1d(&first_norm, LT_F32, 1)};
        must(lt_optimizer_sum_squares(&untouched.optimizer, untouched.model, &err), &err);
        must(lt_optimizer_apply(&untouched.optimizer, &same, &err), &err);
        assert_true(norm == first_norm); /* a good loss adds nothing */
        assert_same_weights(f.model, untouched.model);
        close_fixture(&f);
        close_fixture(&untouched);
    }
}

/* --- The file ----------------------------------------------------------------------------------
 */

static const char *temporary(void)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/lathe-optimizer-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return path;
}

/* A step after reading the state is the step there would have been. */
static void state_comes_back_from_file(void **state)
{
    (void)state;
    double norm;
    lt_err err = {0};
    for (int k = 0; k < KINDS; k++) {
        const char *path = temporary();
        fixture f = open_fixture(&kinds[k]);
        step(&f, 1, &norm);
        must(lt_optimizer_save(&f.optimizer, f.model, path, NULL, &err), &err);
        lt_optimizer_free(&f.optimizer);
        must(lt_optimizer_create(f.model, &kinds[k], &f.optimizer, &err), &err);
        must(lt_optimizer_load(&f.optimizer, f.model, path, &err), &err);
        step(&f, 2, &norm);

        fixture whole = open_fixture(&kinds[k]);
        step(&whole, 1, &norm);
        step(&whole, 2, &norm);
        assert_same_state(&whole.optimizer, &f.optimizer);
        assert_same_weights(whole.model, f.model);
        close_fixture(&whole);
        close_fixture(&f);
        unlink(path);
    }
}

static void master_weights_come_back_from_file(void **state)
{
    (void)state;
    lt_err err = {0};
    for (int offload = 0; offload < 2; offload++) {
        const char *path = temporary();
        lt_optimizer_settings settings = kinds[1];
        settings.offload = offload;
        half_fixture f = {0}, again = {0};
        open_half(&f, &settings, LT_F32);
        step_half(&f, 1);
        must(lt_optimizer_save(&f.optimizer, f.model, path, NULL, &err), &err);
        open_half(&again, &kinds[1], LT_F32); /* offloaded or not */
        must(lt_optimizer_load(&again.optimizer, again.model, path, &err), &err);
        assert_same_tensor(&f.optimizer.master, &again.optimizer.master);
        assert_same_state(&f.optimizer, &again.optimizer);
        /* what is f32 has none of its own, and says so */
        fixture plain_weights = open_fixture(&kinds[1]);
        assert_int_equal(
            lt_optimizer_load(&plain_weights.optimizer, plain_weights.model, path, &err),
            LT_ERR_FORMAT);
        assert_non_null(strstr(err.message, "holds master weights"));
        must(lt_optimizer_save(&plain_weights.optimizer, plain_weights.model, path, NULL, &err),
             &err);
        assert_int_equal(lt_optimizer_load(&again.optimizer, again.model, path, &err),
                         LT_ERR_FORMAT);
        assert_non_null(strstr(err.message, "holds no master weights"));
        close_fixture(&plain_weights);
        close_half(&f);
        close_half(&again);
        unlink(path);
    }
}

static void a_file_of_something_else_is_refused(void **state)
{
    (void)state;
    const char *path = temporary();
    fixture f = open_fixture(&plain);
    lt_err err = {0};
    lt_optimizer copy;
    must(lt_optimizer_save(&f.optimizer, f.model, path, NULL, &err), &err);
    for (int k = 1; k < KINDS; k++) {
        must(lt_optimizer_create(f.model, &kinds[k], &copy, &err), &err);
        assert_int_equal(lt_optimizer_load(&copy, f.model, path, &err), LT_ERR_FORMAT);
        assert_non_null(strstr(err.message, "the state of --optimizer adamw ("));
        assert_non_null(strstr(err.message, lt_optimizer_name(kinds[k].kind)));
        lt_optimizer_free(&copy);
    }
    /* of other frozen layers, or of another model */
    lt_model *frozen = NULL;
    must(lt_optimizer_create(f.model, &plain, &copy, &err), &err);
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

/* --- The plan ----------------------------------------------------------------------------------
 */

static void the_plan_is_what_is_taken(void **state)
{
    (void)state;
    static const size_t bytes[KINDS] = {8, 4, 2};
    for (int k = 0; k < KINDS; k++) {
        for (int offload = 0; offload < 2; offload++) {
            lt_optimizer_settings settings = kinds[k];
            settings.offload = offload;
            fixture f = open_fixture(&settings);
            const lt_optimizer *o = &f.optimizer;
            int64_t count = f.model->gradient_count;
            lt_optimizer_memory plan = lt_optimizer_plan(&settings, f.backend, LT_F32, count);
            size_t on_device = o->scratch.used, on_host = o->staging.used;
            *(offload ? &on_host : &on_device) += o->state.used;
            assert_int_equal(plan.device, on_device);
            assert_int_equal(plan.host, on_host);
            assert_true(plan.moments >= bytes[k] * (size_t)count);
            assert_true(plan.moments < bytes[k] * (size_t)count + (size_t)count / 16 + 4096);
            assert_true(offload ? plan.master >= 4 * (size_t)count : plan.master == 0);
            close_fixture(&f);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_steps_match_torch),
        cmocka_unit_test(every_kind_learns_alike),
        cmocka_unit_test(rounding_follows_the_seed),
        cmocka_unit_test(offloading_changes_no_bit),
        cmocka_unit_test(master_weights_lead),
        cmocka_unit_test(half_weights_can_be_stepped_on_the_host),
        cmocka_unit_test(a_bad_loss_is_no_step),
        cmocka_unit_test(state_comes_back_from_file),
        cmocka_unit_test(master_weights_come_back_from_file),
        cmocka_unit_test(a_file_of_something_else_is_refused),
        cmocka_unit_test(the_plan_is_what_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
