/* Passes over a model that is divided: not one bit other than over the whole, and for an observer
 * the same way whatever is in the batch. */
#include "adapters.h"
#include "ranks.h"

enum { ROWS = 2, LENGTH = 9 };

static const lt_dropout_mask mask_key = {.seed = 3, .stream = 5};

static lt_workspace_settings training(lt_recompute recompute)
{
    return (lt_workspace_settings){.rows = ROWS,
                                   .length = LENGTH,
                                   .training = true,
                                   .recompute = recompute,
                                   .embd_pdrop = 0.1,
                                   .resid_pdrop = 0.1,
                                   .attn_pdrop = 0.1,
                                   .head_chunk = 5};
}

static const lt_trainable subsets[] = {
    {0, NULL, NULL},
    {2, NULL, NULL},
    {0, NULL, "layers.1|mlp.*bias|norm"},
    {0, "embed|lm_head", NULL},
};
enum { SUBSETS = sizeof subsets / sizeof *subsets };

/* The acting rank of a divided model, and the whole one, with the same rows trained. */
typedef struct pair {
    ranks ranks;
    lt_model *model, *whole;
    lt_workspace *of_model, *of_whole;
    test_batch batch;
} pair;

static void make_workspaces(pair *p, const lt_workspace_settings *settings)
{
    p->of_model = new_workspace(p->model, settings);
    p->of_whole = new_workspace(p->whole, settings);
}

static void open_pair(pair *p, const char *family, lt_shard level, int world)
{
    *p = (pair){.whole = load_whole(family, 0)};
    load_ranks(&p->ranks, family, level, world);
    p->model = p->ranks.models[p->ranks.acting];
    p->batch = random_batch(ROWS, LENGTH, p->whole->config.vocab_size, 17);
    split_rows(&p->batch, 4);
}

static void set_trainable(pair *p, const lt_trainable *what)
{
    OK(lt_model_set_trainable(p->whole, what, err));
    OK(lt_model_allocate_gradients(p->whole, err));
    for (int i = 0; i < p->ranks.world; i++) {
        OK(lt_model_set_trainable(p->ranks.models[i], what, err));
        OK(lt_model_allocate_gradients(p->ranks.models[i], err));
    }
    p->ranks.gradients = calloc((size_t)p->whole->gradient_count, sizeof(float));
}

static void close_pair(pair *p)
{
    lt_workspace_free(p->of_model);
    lt_workspace_free(p->of_whole);
    free_batch(&p->batch);
    free_ranks(&p->ranks);
    lt_model_free(p->whole);
}

/* --- Training --------------------------------------------------------------------------------- */

static void check_step(pair *p, bool accumulate)
{
    lt_loss loss = {0}, expected = {0};
    p->ranks.point_count = 0;
    OK(lt_model_forward_backward(p->model, p->of_model, &p->batch.batch, mask_key, accumulate,
                                 &loss, err));
    OK(lt_model_forward_backward(p->whole, p->of_whole, &p->batch.batch, mask_key, accumulate,
                                 &expected, err));
    assert_true(loss.sum == expected.sum && loss.tokens == expected.tokens);
    size_t bytes = (size_t)p->whole->gradient_count * sizeof(float);
    assert_memory_equal(p->ranks.gradients, p->whole->gradients.base, bytes);
}

/* All the pieces together are the gradient, wherever they are. */
static void check_scattered(const pair *p)
{
    const float *expected = (const float *)p->whole->gradients.base;
    int64_t total = 0;
    for (int i = 0; i < p->ranks.world; i++) {
        lt_own_piece *pieces;
        int count;
        OK(lt_model_own_pieces(p->ranks.models[i], &pieces, &count, err));
        for (int k = 0; k < count; k++) {
            assert_memory_equal(pieces[k].gradient.data, expected + pieces[k].element,
                                (size_t)pieces[k].count * sizeof(float));
            total += pieces[k].count;
        }
        free(pieces);
    }
    assert_int_equal(total, p->whole->gradient_count);
}

static void check_training(const char *family, lt_shard level, int world,
                           const lt_trainable *subset, lt_recompute recompute)
{
    pair p;
    lt_err err = {0};
    open_pair(&p, family, level, world);
    set_trainable(&p, subset);
    lt_workspace_settings settings = training(recompute);
    make_workspaces(&p, &settings);
    check_step(&p, false);
    p.batch.targets[1] = LT_IGNORE; /* rooms have been left with what is no number */
    p.batch.targets[5] = 3;
    check_step(&p, false);
    if (world > 1 && level >= LT_SHARD_GRADIENTS) {
        check_scattered(&p);
        assert_int_equal(lt_model_forward_backward(p.model, p.of_model, &p.batch.batch, mask_key,
                                                   true, NULL, &err),
                         LT_ERR_USAGE);
    } else {
        check_step(&p, true);
    }
    close_pair(&p);
}

static void test_training(void **state)
{
    (void)state;
    for (int f = 0; f < SHARDED_FAMILIES; f++)
        for (int w = 0; w < WORLDS; w++)
            for (lt_shard level = 0; level < LT_SHARD_LEVELS; level++)
                for (int s = 0; s < SUBSETS; s++)
                    if (is_tried(f + w + (int)level + s))
                        check_training(sharded_families[f], level, worlds[w], &subsets[s],
                                       (lt_recompute)((w + s) % 3));
}

/* --- The way of the observer ------------------------------------------------------------------ */

static int expect(point *points, int count, int layer, lt_unit_point at)
{
    points[count] = (point){layer, at};
    return count + 1;
}

/* Up through all, down to the lowest trained block, and to the embeddings from block 0. */
static int expected_points(bool backward, int lowest, point *points)
{
    int n = 0;
    for (int layer = -1; layer < LAYERS; layer++) {
        n = expect(points, n, layer, LT_BEFORE_FORWARD);
        n = expect(points, n, layer, LT_AFTER_FORWARD);
    }
    n = expect(points, n, LAYERS, LT_BEFORE_FORWARD);
    if (backward) n = expect(points, n, LAYERS, LT_BEFORE_BACKWARD);
    n = expect(points, n, LAYERS, LT_AFTER_FORWARD);
    if (backward) n = expect(points, n, LAYERS, LT_AFTER_BACKWARD);
    for (int layer = LAYERS - 1; backward && layer >= (lowest == 0 ? -1 : lowest); layer--) {
        n = expect(points, n, layer, LT_BEFORE_BACKWARD);
        n = expect(points, n, layer, LT_AFTER_BACKWARD);
    }
    return n;
}

static void check_points(ranks *r, const point *expected, int count)
{
    assert_int_equal(r->point_count, count);
    for (int i = 0; i < count; i++) {
        assert_int_equal(r->points[i].layer, expected[i].layer);
        assert_int_equal(r->points[i].at, expected[i].at);
    }
    r->point_count = 0;
}

static void check_way(const char *family, lt_shard level, int64_t frozen)
{
    pair p;
    point expected[MAX_POINTS];
    const lt_batch none = {.length = LENGTH};
    open_pair(&p, family, level, 3);
    set_trainable(&p, &(lt_trainable){.freeze_layers = frozen});
    lt_workspace_settings settings = training(LT_RECOMPUTE_NONE);
    make_workspaces(&p, &settings);
    int count = expected_points(true, (int)frozen, expected);
    check_step(&p, false);
    check_points(&p.ranks, expected, count);
    assert_false(p.ranks.all_zero);

    test_batch untrained = new_batch(ROWS, LENGTH);
    const lt_batch *empty[] = {&none, &untrained.batch};
    for (int i = 0; i < 2; i++) {
        lt_loss loss = {0};
        p.ranks.all_zero = true;
        OK(lt_model_forward_backward(p.model, p.of_model, empty[i], mask_key, false, &loss, err));
        check_points(&p.ranks, expected, count);
        assert_true(p.ranks.all_zero && loss.tokens == 0 && loss.sum == 0);
    }
    if (level < LT_SHARD_GRADIENTS) { /* nothing is added to what is there */
        check_step(&p, false);
        p.ranks.point_count = 0;
        OK(lt_model_forward_backward(p.model, p.of_model, &none, mask_key, true, NULL, err));
        check_points(&p.ranks, expected, count);
        assert_memory_equal(p.ranks.gradients, p.whole->gradients.base,
                            (size_t)p.whole->gradient_count * sizeof(float));
    }
    count = expected_points(false, 0, expected);
    const lt_batch *batches[] = {&p.batch.batch, &none, &untrained.batch};
    for (int i = 0; i < 3; i++) {
        lt_loss loss = {0};
        p.ranks.point_count = 0;
        OK(lt_model_evaluate(p.model, p.of_model, batches[i], &loss, NULL, err));
        check_points(&p.ranks, expected, count);
    }
    free_batch(&untrained);
    close_pair(&p);
}

static void test_way(void **state)
{
    (void)state;
    for (int f = 0; f < SHARDED_FAMILIES; f++)
        for (lt_shard level = 0; level < LT_SHARD_LEVELS; level++)
            for (int64_t frozen = 0; frozen <= 3; frozen++)
                check_way(sharded_families[f], level, frozen);
}

/* What an observer fails with ends the pass. */
static lt_status refuse(void *context, const lt_unit *unit, lt_unit_point at, lt_err *err)
{
    const point *where = context;
    if (unit->layer != where->layer || at != where->at) return LT_OK;
    return lt_fail(err, LT_ERR_IO, "lost");
}

static void test_failing(void **state)
{
    (void)state;
    pair p;
    point points[MAX_POINTS];
    lt_err err = {0};
    lt_loss loss = {0};
    open_pair(&p, "gpt2", LT_SHARD_NONE, 1);
    set_trainable(&p, &subsets[0]);
    lt_workspace_settings settings = training(LT_RECOMPUTE_NONE);
    make_workspaces(&p, &settings);
    int count = expected_points(true, 0, points);
    for (int i = 0; i < count; i++) {
        p.model->observer = (lt_unit_observer){&points[i], refuse};
        assert_int_equal(lt_model_forward_backward(p.model, p.of_model, &p.batch.batch, mask_key,
                                                   false, &loss, &err),
                         LT_ERR_IO);
    }
    close_pair(&p);
}

/* --- Reading ---------------------------------------------------------------------------------- */

static void check_evaluation(pair *p)
{
    lt_loss loss = {0}, expected = {0};
    double losses[2][ROWS * LENGTH];
    OK(lt_model_evaluate(p->model, p->of_model, &p->batch.batch, &loss, losses[0], err));
    OK(lt_model_evaluate(p->whole, p->of_whole, &p->batch.batch, &expected, losses[1], err));
    assert_true(loss.sum == expected.sum && loss.correct == expected.correct);
    assert_memory_equal(losses[0], losses[1], sizeof losses[0]);
}

static void check_scores(pair *p)
{
    static const int32_t places[] = {0, 3, 11}, ids[] = {7, 0, 50};
    double scores[2][3];
    uint8_t likeliest[2][3];
    const lt_targets targets = {places, ids, 3};
    OK(lt_model_score(p->model, p->of_model, &p->batch.batch, &targets, scores[0], likeliest[0],
                      err));
    OK(lt_model_score(p->whole, p->of_whole, &p->batch.batch, &targets, scores[1], likeliest[1],
                      err));
    assert_memory_equal(scores[0], scores[1], sizeof scores[0]);
}

static void check_logits(pair *p)
{
    p->ranks.point_count = 0;
    float *logits = logits_of(p->model, &p->batch.batch);
    float *expected = logits_of(p->whole, &p->batch.batch);
    size_t count = (size_t)(ROWS * LENGTH * p->whole->config.vocab_size);
    assert_memory_equal(logits, expected, count * sizeof *logits);
    free(logits);
    free(expected);
}

/* A prompt, then some steps. */
static void decode(const lt_model *model, lt_workspace *workspace, const test_batch *b, ranks *r,
                   float *logits, int32_t *next)
{
    lt_kv_cache *cache = NULL;
    int64_t counts[ROWS] = {5, 3};
    const lt_sampling greedy = {.temperature = 0};
    OK(lt_kv_cache_create(model, ROWS, LENGTH, &cache, err));
    OK(lt_model_decode(model, workspace, cache, b->ids, counts, LENGTH, logits, err));
    for (int step = 0; step < 3; step++) {
        const int64_t one[ROWS] = {1, 1};
        const int32_t ids[ROWS] = {b->ids[step], b->ids[step + 1]};
        const lt_decode_row rows[ROWS] = {{.history = ids, .history_count = 1},
                                          {.history = ids, .history_count = 1}};
        r->point_count = 0;
        OK(lt_model_decode_next(model, workspace, cache, ids, one, 1, rows, &greedy,
                                next + step * ROWS, err));
    }
    lt_kv_cache_free(cache);
}

static void check_decoding(pair *p)
{
    size_t count = (size_t)(ROWS * p->whole->config.vocab_size);
    float *logits = calloc(2 * count, sizeof *logits);
    int32_t next[2][3 * ROWS];
    p->ranks.point_count = 0;
    decode(p->model, p->of_model, &p->batch, &p->ranks, logits, next[0]);
    decode(p->whole, p->of_whole, &p->batch, &p->ranks, logits + count, next[1]);
    assert_memory_equal(logits, logits + count, count * sizeof *logits);
    assert_memory_equal(next[0], next[1], sizeof next[0]);
    free(logits);
}

static void test_reading(void **state)
{
    (void)state;
    for (int f = 0; f < SHARDED_FAMILIES; f++) {
        for (int w = 0; w < WORLDS; w++) {
            pair p;
            open_pair(&p, sharded_families[f], LT_SHARD_PARAMETERS, worlds[w]);
            make_workspaces(&p, &(lt_workspace_settings){.rows = ROWS, .length = LENGTH});
            check_evaluation(&p);
            p.ranks.point_count = 0;
            check_scores(&p);
            check_logits(&p);
            check_decoding(&p);
            close_pair(&p);
        }
    }
}

/* --- Adapters --------------------------------------------------------------------------------- */

static void check_no_merge(lt_model *model, lt_adapter *adapter)
{
    lt_err err = {0};
    assert_int_equal(lt_adapter_merge(model, adapter, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "divided"));
}

/* Each pass takes the lengths of DoRA's rows anew, block by block, as the rows are stepped. */
static void check_lengths(pair *p, lt_adapter *adapter)
{
    lt_loss stepped = {0}, refreshed = {0};
    for (int i = 0; i < adapter->param_count; i++) {
        lt_tensor row = p->model->params[adapter->first_param + i].weight;
        for (int64_t k = 0; k < lt_tensor_count(row); k++)
            ((float *)row.data)[k] *= 1.5f;
    }
    p->ranks.point_count = 0;
    OK(lt_model_evaluate(p->model, p->of_model, &p->batch.batch, &stepped, NULL, err));
    OK(adapter->method->loaded(p->model, adapter, err));
    p->ranks.point_count = 0;
    OK(lt_model_evaluate(p->model, p->of_model, &p->batch.batch, &refreshed, NULL, err));
    assert_true(stepped.sum == refreshed.sum);
}

/* The base in parts; rows of the adapter, and their gradients, whole. */
static void check_adapter(const char *family, const adapter_case *c)
{
    pair p;
    lt_loss loss = {0}, expected = {0};
    open_pair(&p, family, LT_SHARD_PARAMETERS, 3);
    lt_adapter *adapter = random_adapter(p.model, c, "a", 7);
    lt_adapter *other = random_adapter(p.whole, c, "a", 7);
    check_same_rows(p.model, adapter, p.whole, other);
    if (adapter->method->merge) check_no_merge(p.model, adapter);
    OK(lt_model_allocate_gradients(p.model, err));
    OK(lt_model_allocate_gradients(p.whole, err));
    assert_null(p.model->gradient_parts.data);
    assert_int_equal(p.model->gradient_count, p.whole->gradient_count);
    assert_int_equal(lt_model_own_count(p.model), p.whole->gradient_count);
    lt_workspace_settings settings = training(LT_RECOMPUTE_SELECTIVE);
    make_workspaces(&p, &settings);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        p.ranks.point_count = 0;
        OK(lt_model_forward_backward(p.model, p.of_model, &p.batch.batch, mask_key, accumulate,
                                     &loss, err));
        OK(lt_model_forward_backward(p.whole, p.of_whole, &p.batch.batch, mask_key, accumulate,
                                     &expected, err));
        assert_true(loss.sum == expected.sum);
        assert_memory_equal(p.model->gradients.base, p.whole->gradients.base,
                            (size_t)p.whole->gradient_count * sizeof(float));
    }
    if (c->dora) check_lengths(&p, adapter);
    const lt_batch none = {.length = LENGTH};
    p.ranks.point_count = 0;
    OK(lt_model_forward_backward(p.model, p.of_model, &none, mask_key, false, NULL, err));
    for (int64_t i = 0; i < p.model->gradient_count; i++)
        assert_true(((float *)p.model->gradients.base)[i] == 0);
    close_pair(&p);
}

static void test_adapters(void **state)
{
    (void)state;
    for (int f = 0; f < SHARDED_FAMILIES; f++)
        for (int i = 0; i < ADAPTER_CASES; i++)
            check_adapter(sharded_families[f], &adapter_cases[i]);
}

/* A fresh adapter reads the base: embeddings of its virtual tokens, lengths of rows. */
static void test_fresh_adapters(void **state)
{
    (void)state;
    static const char *const names[] = {"dora", "saved both", "saved lm_head", "prompt"};
    for (int f = 0; f < SHARDED_FAMILIES; f++) {
        for (int i = 0; i < 4; i++) {
            pair p;
            open_pair(&p, sharded_families[f], LT_SHARD_PARAMETERS, 2);
            const adapter_case *c = case_named(names[i]);
            lt_adapter_config config = config_of(p.whole, c);
            config.prompt_init = LT_PROMPT_VOCAB;
            lt_adapter *adapter = NULL, *other = NULL;
            OK(lt_adapter_create(p.model, &config, "a", 3, &adapter, err));
            OK(lt_adapter_create(p.whole, &config, "a", 3, &other, err));
            check_same_rows(p.model, adapter, p.whole, other);
            lt_adapter_config_free(&config);
            close_pair(&p);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_training), cmocka_unit_test(test_way),
        cmocka_unit_test(test_failing),  cmocka_unit_test(test_reading),
        cmocka_unit_test(test_adapters), cmocka_unit_test(test_fresh_adapters),
    };
    return cmocka_run_group_tests(tests, set_up_ranks, tear_down_files);
}
