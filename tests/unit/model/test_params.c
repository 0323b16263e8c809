/* The parameter table: places, segments, freezing, plan against run, initialisation, growth. */
#include "base/fsio.h"
#include "golden.h"
#include "base/memory.h"
#include "model/memory.h"
#include "model/params.h"

static lt_model *create(const char *family, int64_t layers, uint64_t seed, const lt_backend *on)
{
    lt_model_shape shape = {.family = family,
                            .layers = layers,
                            .hidden_size = 64,
                            .kv_heads = strcmp(family, "llama") == 0 ? 1 : 0,
                            .max_position = 33,
                            .vocab_size = 101,
                            .bos_token_id = 0,
                            .eos_token_id = 0,
                            .pad_token_id = -1};
    return new_model(&shape, seed, on);
}

/* Rows follow each other without overlap; segments cover the trainable ones, gaps included. */
static void check_places(const lt_model *model)
{
    int64_t weight_end = 0, gradient_end = 0;
    for (int i = 0; i < model->param_count; i++) {
        const lt_param *p = &model->params[i];
        assert_int_equal(p->offset % LT_QUANTISED_BLOCK, 0);
        assert_true(p->offset >= weight_end && p->offset < weight_end + LT_QUANTISED_BLOCK);
        weight_end = p->offset + lt_tensor_count(p->weight);
        assert_int_equal(p->decay, p->ndim == 2);
        assert_ptr_equal(p->weight.data, (float *)model->weights.base + p->offset);
        if (!p->trainable) {
            assert_int_equal(p->gradient_offset, -1);
            assert_null(p->gradient.data);
            continue;
        }
        assert_true(p->gradient_offset >= gradient_end &&
                    p->gradient_offset < gradient_end + LT_QUANTISED_BLOCK);
        gradient_end = p->gradient_offset + lt_tensor_count(p->weight);
    }
    assert_true(model->weight_count >= weight_end && model->gradient_count >= gradient_end);

    int64_t covered = 0;
    for (int s = 0; s < model->segment_count; s++) {
        const lt_segment *segment = &model->segments[s];
        assert_int_equal(segment->gradient_offset, covered);
        covered += segment->count;
        for (int i = 0; i < model->param_count; i++) {
            const lt_param *p = &model->params[i];
            bool inside =
                p->offset >= segment->offset && p->offset < segment->offset + segment->count;
            if (!inside) continue;
            assert_true(p->trainable && p->decay == segment->decay && p->layer == segment->layer);
            assert_int_equal(p->offset - segment->offset,
                             p->gradient_offset - segment->gradient_offset);
        }
    }
    assert_int_equal(covered, model->gradient_count);
}

static void test_places(void **state)
{
    (void)state;
    for (const char *const *family = lt_model_families(); *family; family++) {
        lt_model *model = create(*family, 3, 1, backend);
        check_places(model);
        /* one segment for the embeddings, two for each block, two for the end (one when tied) */
        int ends = model->config.tie_word_embeddings ? 1 : 2;
        assert_int_equal(model->segment_count, 1 + 2 * 3 + ends);
        OK(lt_model_allocate_gradients(model, err));
        assert_ptr_equal(lt_block_gradients(model, 2).down_weight.data,
                         lt_model_param(model, "layers.2.mlp.down.weight")->gradient.data);
        lt_model_free(model);
    }
}

static void test_freezing(void **state)
{
    (void)state;
    lt_err err = {0};
    for (int64_t frozen = 1; frozen <= 3; frozen++) {
        lt_model *model = create("gpt2", 3, 1, backend);
        OK(freeze_layers(model, frozen, err));
        check_places(model);
        int64_t total = 0;
        for (int i = 0; i < model->param_count; i++) {
            const lt_param *p = &model->params[i];
            assert_int_equal(p->trainable, p->layer >= frozen);
            if (p->trainable) total += lt_tensor_count(p->weight);
        }
        assert_int_equal(lt_model_parameter_count(model, true), total);
        OK(lt_model_allocate_gradients(model, err));
        assert_null(lt_ends_gradients(model, NULL).embed_tokens.data);
        assert_null(lt_ends_gradients(model, NULL).lm_head.data); /* tied to a frozen embedding */
        assert_null(lt_block_gradients(model, frozen - 1).qkv_weight.data);
        assert_int_equal(freeze_layers(model, 0, &err), LT_ERR_USAGE);
        lt_model_free(model);
    }
    lt_model *model = create("gpt2", 3, 1, backend);
    assert_int_equal(freeze_layers(model, 4, &err), LT_ERR_USAGE);
    assert_int_equal(freeze_layers(model, -1, &err), LT_ERR_USAGE);
    lt_model_free(model);
}

/* The plan's bytes are the run's. */
static void test_plan(void **state)
{
    (void)state;
    for (const char *const *family = lt_model_families(); *family; family++) {
        lt_model *model = create(*family, 3, 1, backend);
        OK(freeze_layers(model, 1, err));
        OK(lt_model_allocate_gradients(model, err));
        lt_memory_plan plan;
        lt_workspace_settings settings = {.rows = 1, .length = 8, .training = true};
        plan = plan_of(&model->config, backend, &settings, 1);
        assert_int_equal(plan.weights, model->weights.capacity);
        assert_int_equal(plan.gradients, model->gradients.capacity);
        assert_int_equal(plan.parameters, lt_model_parameter_count(model, false));
        assert_int_equal(plan.trainable_parameters, lt_model_parameter_count(model, true));
        lt_model_free(model);
    }
}

/* --- Initialisation ----------------------------------------------------------------------------
 */

static void moments(lt_tensor t, double *mean, double *deviation)
{
    int64_t count = lt_tensor_count(t);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += element(t, i);
        squares += element(t, i) * element(t, i);
    }
    *mean = sum / (double)count;
    *deviation = sqrt(squares / (double)count - *mean * *mean);
}

static void test_initialisation(void **state)
{
    (void)state;
    for (const char *const *family = lt_model_families(); *family; family++) {
        lt_model *model = create(*family, 2, 7, backend);
        for (int i = 0; i < model->param_count; i++) {
            const lt_param *p = &model->params[i];
            double mean, deviation, expected = 0.02;
            moments(p->weight, &mean, &deviation);
            bool norm = strstr(p->name, "norm.weight") != NULL;
            bool residual = strstr(p->name, "attention.out.w") || strstr(p->name, "mlp.down.w");
            if (strcmp(*family, "gpt2") == 0 && residual) expected = 0.02 / 2; /* sqrt(2 * 2) */
            if (p->ndim == 1) {
                assert_true(mean == (norm ? 1 : 0) && deviation == 0);
                continue;
            }
            double n = (double)lt_tensor_count(p->weight);
            assert_true(fabs(mean) < 5 * expected / sqrt(n));
            assert_true(fabs(deviation / expected - 1) < 5 / sqrt(2 * n));
        }
        lt_model_free(model);
    }
}

/* A function of the seed: not of the number of threads, the backend or the run. */
static void test_seed(void **state)
{
    (void)state;
    lt_backend *single = NULL, *wide = make_backend("double");
    OK(lt_backend_create(&(lt_backend_settings){.isa = "ref", .threads = 1}, &single, err));
    lt_model *a = create("qwen3", 2, 7, backend), *b = create("qwen3", 2, 7, single);
    lt_model *other = create("qwen3", 2, 8, backend), *d = create("qwen3", 2, 7, wide);
    assert_memory_equal(a->weights.base, b->weights.base, (size_t)a->weight_count * 4);
    for (int i = 0; i < a->param_count; i++) {
        int64_t count = lt_tensor_count(a->params[i].weight), same = 0;
        for (int64_t k = 0; k < count; k++) {
            assert_true(element(a->params[i].weight, k) == element(d->params[i].weight, k));
            same += element(a->params[i].weight, k) == element(other->params[i].weight, k);
        }
        if (a->params[i].init == LT_INIT_NORMAL) assert_true(same * 100 < count);
    }
    lt_model_free(a);
    lt_model_free(b);
    lt_model_free(other);
    lt_model_free(d);
    lt_backend_free(single);
    lt_backend_free(wide);
}

/* --- Growing -----------------------------------------------------------------------------------
 */

static void test_growth(void **state)
{
    (void)state;
    lt_err err = {0};
    static const char *const families[] = {"gpt2", "gpt_neox"}; /* tied, untied */
    for (int f = 0; f < 2; f++) {
        lt_model *model = create(families[f], 2, 3, backend),
                 *old = create(families[f], 2, 3, backend);
        OK(freeze_layers(model, 1, err));
        assert_int_equal(lt_model_grow_vocab(model, 100, &err), LT_ERR_USAGE);
        assert_int_equal(lt_model_grow_vocab(model, 1 << 23, &err), LT_ERR_LIMIT);
        OK(lt_model_grow_vocab(model, 101, err));
        OK(lt_model_grow_vocab(model, 104, err));
        assert_int_equal(model->config.vocab_size, 104);
        assert_int_equal(model->params[0].trainable, false);
        check_places(model);
        for (int i = 0; i < model->param_count; i++) {
            const lt_tensor *now = &model->params[i].weight, *before = &old->params[i].weight;
            size_t bytes = (size_t)lt_tensor_count(*before) * 4;
            assert_memory_equal(now->data, before->data, bytes);
            if (now->shape[0] == before->shape[0]) continue;
            for (int64_t c = 0; c < 64; c++) {
                double mean = 0;
                for (int64_t r = 0; r < 101; r++)
                    mean += element(*before, r * 64 + c) / 101;
                for (int64_t r = 101; r < 104; r++)
                    assert_true(fabs(element(*now, r * 64 + c) - mean) < 1e-7);
            }
        }
        assert_int_equal(lt_ends_weights(model, NULL).lm_head.shape[0], 104);
        OK(lt_model_allocate_gradients(model, err));
        assert_int_equal(lt_model_grow_vocab(model, 105, &err), LT_ERR_USAGE);
        lt_model_free(model);
        lt_model_free(old);
    }
}

/* --- Memory ------------------------------------------------------------------------------------
 */

static void test_memory_is_checked_first(void **state)
{
    (void)state;
    lt_err err = {0};
    assert_true(lt_available_memory() > 0);
    assert_int_equal(lt_check_memory(backend, (uint64_t)1 << 60, "a test", &err), LT_ERR_NOMEM);
    assert_non_null(strstr(err.message, "a test"));
    assert_non_null(strstr(err.message, "available"));

    /* 1024 layers of width 65536: about 200 TB */
    lt_model_shape shape = {.family = "gpt2",
                            .layers = 1024,
                            .hidden_size = 65536,
                            .vocab_size = 50257,
                            .bos_token_id = -1,
                            .eos_token_id = -1,
                            .pad_token_id = -1};
    lt_model_config config;
    lt_model *model = NULL;
    OK(lt_model_config_make(&shape, &config, err));
    assert_int_equal(lt_model_create(&config, backend, 1, &model, &err), LT_ERR_NOMEM);
    assert_null(model);
}

static void write_number(const char *mount, const char *file, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", mount, file);
    OK(lt_write_file(path, text, strlen(text), err));
}

/* The tightest limit of the groups above counts, as batch systems set them. */
static void test_control_groups(void **state)
{
    (void)state;
    char mount[] = "/tmp/lathe_groups_XXXXXX", membership[64];
    assert_non_null(mkdtemp(mount));
    snprintf(membership, sizeof membership, "%s/self", mount);
    assert_true(lt_group_memory(membership, mount) == UINT64_MAX);
    char job[64];
    snprintf(job, sizeof job, "%s/jobs/job_7", mount);
    OK(lt_make_directories(job, err));
    write_number(mount, "self", "0::/jobs/job_7\n");
    write_number(mount, "jobs/job_7/memory.max", "max\n");
    write_number(mount, "jobs/memory.max", "1000000\n");
    write_number(mount, "jobs/memory.current", "300000\n");
    write_number(mount, "jobs/memory.stat", "anon 5\ninactive_file 100000\n");
    assert_int_equal(lt_group_memory(membership, mount), 800000);
    write_number(mount, "jobs/job_7/memory.max", "500000\n");
    write_number(mount, "jobs/job_7/memory.current", "600000\n");
    assert_int_equal(lt_group_memory(membership, mount), 0);

    snprintf(job, sizeof job, "%s/memory/old", mount);
    OK(lt_make_directories(job, err));
    write_number(mount, "self", "9:memory:/old\n");
    write_number(mount, "memory/old/memory.limit_in_bytes", "70000\n");
    write_number(mount, "memory/old/memory.usage_in_bytes", "20000\n");
    assert_int_equal(lt_group_memory(membership, mount), 50000);
    OK(lt_remove_tree(mount, err));
}

static int set_up(void **state)
{
    (void)state;
    backend = make_backend("ref");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_freezing),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_initialisation),
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_memory_is_checked_first),
        cmocka_unit_test(test_control_groups),
    };
    return cmocka_run_group_tests(tests, set_up, free_backend);
}
