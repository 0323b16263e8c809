/* Every golden model computes what Hugging Face and torch computed: logits, loss, the gradient of
 * every parameter, and ten AdamW steps. With the reference operations and with the machine's best.
 */
#include "golden.h"

typedef struct golden {
    lt_safetensors expected;
    test_batch batch;
} golden;

static float *read_f32(const golden *g, const char *name, int64_t *count)
{
    const lt_safetensors_entry *entry = lt_safetensors_find(&g->expected, name);
    assert_non_null(entry);
    *count = (int64_t)(entry->size / sizeof(float));
    float *out = malloc(entry->size);
    OK(lt_safetensors_read_f32(&g->expected, entry, 0, *count, out, err));
    return out;
}

/* Labels of Hugging Face are not shifted: position i predicts label i + 1. */
static golden open_golden(const char *name)
{
    golden g = {0};
    OK(lt_safetensors_open(golden_path(name, "expected.safetensors"), &g.expected, err));
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

static void close_golden(golden *g)
{
    lt_safetensors_close(&g->expected);
    free_batch(&g->batch);
}

static void check_logits(const golden *g, const lt_model *model, const char *name)
{
    int64_t count, n = g->batch.batch.rows * g->batch.batch.length * model->config.vocab_size;
    float *expected = read_f32(g, "logits", &count), *logits = malloc((size_t)n * sizeof *logits);
    double worst = 0;
    assert_int_equal(count, n);
    lt_workspace *w = new_workspace(model, &(lt_workspace_settings){.rows = g->batch.batch.rows,
                                                                    .length = g->batch.batch.length,
                                                                    .head_chunk = 5});
    OK(lt_model_logits(model, w, &g->batch.batch, logits, err));
    for (int64_t i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)logits[i] - (double)expected[i]));
    if (!(worst <= 1e-4)) fail_msg("%s: a logit is off by %g", name, worst);
    printf("  logits within %.1e", worst);
    lt_workspace_free(w);
    free(logits);
    free(expected);
}

static void check_loss(const golden *g, double mean, const char *name)
{
    int64_t count;
    float *expected = read_f32(g, "loss", &count);
    if (!(fabs(mean - (double)expected[0]) <= 1e-5))
        fail_msg("%s: loss %.7f, expected %.7f", name, mean, (double)expected[0]);
    printf(", loss within %.1e", fabs(mean - (double)expected[0]));
    free(expected);
}

/* |ours - theirs| / tokens within 1e-4 of the largest element; a K bias has a true gradient of
 * zero, hence the floor. */
static double check_gradients(const golden *g, const lt_model *model, const lt_model *expected,
                              const char *name)
{
    double worst = 0, tokens = (double)g->batch.batch.trained_tokens;
    assert_int_equal(model->param_count, expected->param_count);
    for (int p = 0; p < model->param_count; p++) {
        const lt_param *ours = &model->params[p], *theirs = &expected->params[p];
        double largest = largest_element(theirs->weight), bound = 1e-4 * largest + 2e-7;
        assert_string_equal(ours->name, theirs->name);
        assert_non_null(ours->gradient.data);
        for (int64_t i = 0; i < lt_tensor_count(ours->gradient); i++) {
            double off = fabs(element(ours->gradient, i) / tokens - element(theirs->weight, i));
            worst = fmax(worst, off / bound);
            if (!(off <= bound))
                fail_msg("%s: gradient of %s[%lld] is off by %g, largest element %g", name,
                         ours->name, (long long)i, off, largest);
        }
    }
    return worst;
}

static void check_model(const char *name, const char *isa)
{
    golden g = open_golden(name);
    lt_backend *backend = make_backend(isa);
    lt_model *model = load_golden(name, NULL, backend);
    lt_model *expected = load_golden(name, "gradients", backend);
    printf("%s, %s:", name, backend->name);
    check_logits(&g, model, name);
    OK(lt_model_allocate_gradients(model, err));
    lt_workspace_settings settings = {.rows = g.batch.batch.rows,
                                      .length = g.batch.batch.length,
                                      .training = true,
                                      .head_chunk = 7};
    double sum = run_backward(model, &settings, &g.batch.batch, (lt_dropout_mask){0});
    check_loss(&g, sum / (double)g.batch.batch.trained_tokens, name);
    double used = check_gradients(&g, model, expected, name);
    printf(", gradients use %.1f%% of their tolerance\n", 100 * used);
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

/* --- AdamW ----------------------------------------------------------------------------------- */

typedef struct optimizer {
    lt_arena arena;
    lt_tensor m, v, sum_squares, norm, scale;
} optimizer;

static optimizer new_optimizer(const lt_model *model)
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

static void adamw_step(lt_model *model, optimizer *o, int64_t tokens, int64_t step)
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
        lt_tensor weights = lt_tensor_1d(model->weights.base, LT_F32, model->weight_count);
        lt_adamw_args adamw = {.weight = lt_tensor_slice(weights, 0, segment->offset, n),
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
    golden g = open_golden("gpt2");
    int64_t steps, tokens = g.batch.batch.trained_tokens;
    float *losses = read_f32(&g, "adamw_losses", &steps);
    float *norms = read_f32(&g, "adamw_norms", &steps);
    lt_backend *backend = make_backend(isa);
    lt_model *model = load_golden("gpt2", NULL, backend);
    lt_model *expected = load_golden("gpt2", "after_adamw", backend);
    OK(lt_model_allocate_gradients(model, err));
    optimizer o = new_optimizer(model);
    lt_workspace_settings settings = {
        .rows = g.batch.batch.rows, .length = g.batch.batch.length, .training = true};
    for (int64_t i = 0; i < steps; i++) {
        double sum = run_backward(model, &settings, &g.batch.batch, (lt_dropout_mask){0});
        adamw_step(model, &o, tokens, i + 1);
        assert_true(fabs(sum / (double)tokens - (double)losses[i]) <= 1e-5);
        assert_true(fabs((double)*(float *)o.norm.data - (double)norms[i]) <= 1e-4);
    }
    double worst = 0;
    for (int p = 0; p < model->param_count; p++)
        for (int64_t i = 0; i < lt_tensor_count(model->params[p].weight); i++) {
            if (is_k_bias(model, &model->params[p], i)) continue;
            worst = fmax(worst, fabs(element(model->params[p].weight, i) -
                                     element(expected->params[p].weight, i)));
        }
    printf("%s: weights after ten steps within %.1e\n", backend->name, worst);
    assert_true(worst <= 1e-5);
    lt_arena_release(&o.arena);
    lt_model_free(expected);
    lt_model_free(model);
    lt_backend_free(backend);
    free(losses);
    free(norms);
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
