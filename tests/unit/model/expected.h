/* What Hugging Face, PEFT and torch computed for a golden model or adapter: expected.safetensors
 * and what is compared with it, shared by the two tests of parity. */
#ifndef LT_TEST_EXPECTED_H
#define LT_TEST_EXPECTED_H

#include "golden.h"

typedef struct golden {
    const char *name;
    lt_safetensors expected;
    test_batch batch;
} golden;

static UNUSED float *read_f32(const golden *g, const char *name, int64_t *count)
{
    const lt_safetensors_entry *entry = lt_safetensors_find(&g->expected, name);
    if (!entry) fail_msg("%s: expected.safetensors has no %s", g->name, name);
    *count = (int64_t)(entry->size / sizeof(float));
    float *out = malloc(entry->size);
    OK(lt_safetensors_read_f32(&g->expected, entry, 0, *count, out, err));
    return out;
}

/* `path`: the golden's expected.safetensors. Labels of Hugging Face are not shifted: position i
 * predicts label i + 1. */
static UNUSED golden open_golden(const char *name, const char *path)
{
    golden g = {.name = name};
    OK(lt_safetensors_open(path, &g.expected, err));
    const lt_safetensors_entry *ids = lt_safetensors_find(&g.expected, "input_ids");
    const lt_safetensors_entry *labels = lt_safetensors_find(&g.expected, "labels");
    assert_non_null(ids);
    assert_non_null(labels);
    int64_t rows = ids->shape[0], length = ids->shape[1];
    g.batch = new_batch(rows, length);
    memcpy(g.batch.ids, ids->data, ids->size);
    for (int64_t r = 0; r < rows; r++) {
        size_t bytes = (size_t)(length - 1) * sizeof(int32_t);
        memcpy(g.batch.targets + r * length, labels->data + 4 * (r * length + 1), bytes);
    }
    for (int64_t i = 0; i < rows * length; i++)
        g.batch.batch.trained_tokens += g.batch.targets[i] != LT_IGNORE;
    assert_true(g.batch.batch.trained_tokens > 0);
    return g;
}

static UNUSED void close_golden(golden *g)
{
    lt_safetensors_close(&g->expected);
    free_batch(&g->batch);
}

static UNUSED lt_workspace_settings golden_training(const golden *g)
{
    return (lt_workspace_settings){
        .rows = g->batch.batch.rows, .length = g->batch.batch.length, .training = true};
}

/* --- Comparing ------------------------------------------------------------------------------- */

static UNUSED void check_logits(const golden *g, const lt_model *model)
{
    const lt_batch *batch = &g->batch.batch;
    int64_t count, n = batch->rows * batch->length * model->config.vocab_size;
    float *expected = read_f32(g, "logits", &count), *logits = malloc((size_t)n * sizeof *logits);
    double worst = 0;
    assert_int_equal(count, n);
    lt_workspace *w = new_workspace(
        model,
        &(lt_workspace_settings){.rows = batch->rows, .length = batch->length, .head_chunk = 5});
    OK(lt_model_logits(model, w, batch, logits, err));
    for (int64_t i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)logits[i] - (double)expected[i]));
    if (!(worst <= 1e-4)) fail_msg("%s: a logit is off by %g", g->name, worst);
    printf("  logits within %.1e", worst);
    lt_workspace_free(w);
    free(logits);
    free(expected);
}

/* `sum`: of the losses of the batch. */
static UNUSED void check_loss(const golden *g, double sum)
{
    int64_t count;
    float *expected = read_f32(g, "loss", &count);
    double mean = sum / (double)g->batch.batch.trained_tokens;
    if (!(fabs(mean - (double)expected[0]) <= 1e-5))
        fail_msg("%s: loss %.7f, expected %.7f", g->name, mean, (double)expected[0]);
    printf(", loss within %.1e", fabs(mean - (double)expected[0]));
    free(expected);
}

/* Of the rows from `first` on: |ours - theirs| / tokens within 1e-4 of the largest element; a K
 * bias has a true gradient of zero, hence the floor. */
static UNUSED void check_gradients(const golden *g, const lt_model *model, const lt_model *expected,
                                   int first)
{
    double worst = 0, tokens = (double)g->batch.batch.trained_tokens;
    assert_int_equal(model->param_count, expected->param_count);
    for (int p = first; p < model->param_count; p++) {
        const lt_param *ours = &model->params[p], *theirs = &expected->params[p];
        double largest = largest_element(theirs->weight), bound = 1e-4 * largest + 2e-7;
        assert_string_equal(ours->name, theirs->name);
        assert_non_null(ours->gradient.data);
        for (int64_t i = 0; i < lt_tensor_count(ours->gradient); i++) {
            double off = fabs(element(ours->gradient, i) / tokens - element(theirs->weight, i));
            worst = fmax(worst, off / bound);
            if (!(off <= bound))
                fail_msg("%s: gradient of %s[%lld] is off by %g, largest element %g", g->name,
                         ours->name, (long long)i, off, largest);
        }
    }
    printf(", gradients use %.1f%% of their tolerance\n", 100 * worst);
}

/* --- AdamW ----------------------------------------------------------------------------------- */

typedef struct optimizer {
    lt_arena arena;
    lt_tensor m, v, sum_squares, norm, scale;
} optimizer;

static UNUSED optimizer new_optimizer(const lt_model *model)
{
    optimizer o = {0};
    size_t n = (size_t)model->gradient_count;
    OK(lt_arena_reserve(&o.arena, "optimizer", 2 * n * 4 + 16384, (lt_memory){0}, err));
    o.m = lt_tensor_1d(lt_arena_alloc(&o.arena, n, 4), LT_F32, (int64_t)n);
    o.v = lt_tensor_1d(lt_arena_alloc(&o.arena, n, 4), LT_F32, (int64_t)n);
    o.sum_squares = lt_tensor_1d(lt_arena_alloc(&o.arena, 1, 8), LT_F64, 1);
    o.norm = lt_tensor_1d(lt_arena_alloc(&o.arena, 1, 4), LT_F32, 1);
    o.scale = lt_tensor_1d(lt_arena_alloc(&o.arena, 1, 4), LT_F32, 1);
    return o;
}

static UNUSED void adamw_step(lt_model *model, optimizer *o, int64_t tokens, int64_t step)
{
    const lt_backend *backend = model->backend;
    *(double *)o->sum_squares.data = 0;
    OK(lt_sum_squares(backend, &(lt_sum_squares_args){all_gradients(model), o->sum_squares}, err));
    lt_clip_scale_args clip = {.sum_squares = o->sum_squares,
                               .norm = o->norm,
                               .scale = o->scale,
                               .gradient_scale = 1.0 / (double)tokens,
                               .max_norm = 1.0};
    OK(lt_clip_scale(backend, &clip, err));
    for (int s = 0; s < model->segment_count; s++) {
        const lt_segment *segment = &model->segments[s];
        int64_t at = segment->gradient_offset, n = segment->count;
        lt_adamw_args adamw = {
            .weight = lt_tensor_1d(model->params[segment->first_param].weight.data, LT_F32, n),
            .gradient = lt_tensor_slice(all_gradients(model), 0, at, n),
            .m = lt_tensor_slice(o->m, 0, at, n),
            .v = lt_tensor_slice(o->v, 0, at, n),
            .scale = o->scale,
            .learning_rate = 1e-3,
            .beta1 = 0.9,
            .beta2 = 0.95,
            .epsilon = 1e-8,
            .weight_decay = segment->decay ? 0.1 : 0,
            .step = step};
        OK(lt_adamw(backend, &adamw, err));
    }
}

/* The golden's steps with adamw_losses and adamw_norms; leaves the model trained. */
static UNUSED void train_golden(const golden *g, lt_model *model)
{
    int64_t steps, count, tokens = g->batch.batch.trained_tokens;
    float *losses = read_f32(g, "adamw_losses", &steps);
    float *norms = read_f32(g, "adamw_norms", &count);
    lt_workspace_settings settings = golden_training(g);
    optimizer o = new_optimizer(model);
    assert_true(steps >= 5 && count == steps);
    for (int64_t i = 0; i < steps; i++) {
        double sum = run_backward(model, &settings, &g->batch.batch, (lt_dropout_mask){0});
        double norm = (double)norms[i];
        adamw_step(model, &o, tokens, i + 1);
        assert_true(fabs(sum / (double)tokens - (double)losses[i]) <= 1e-5);
        assert_true(fabs((double)*(float *)o.norm.data - norm) <= 1e-4 * fmax(1, norm));
    }
    lt_arena_release(&o.arena);
    free(losses);
    free(norms);
}

#endif
