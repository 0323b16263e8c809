/* Units, their parts, and what each process steps: what is divided makes up the whole again, not a
 * number more or less. */
#include "adapters.h"
#include "model/gguf_model.h"
#include "model/params.h"
#include "ranks.h"

/* Subsets of rows that are trained. */
static const lt_trainable subsets[] = {
    {0, NULL, NULL},
    {2, NULL, NULL},
    {0, "attention|norm", NULL},
    {0, NULL, "embed|mlp.*weight|layers.1"},
};
enum { SUBSETS = sizeof subsets / sizeof *subsets };

typedef void (*check_ranks)(ranks *r, const lt_model *whole, const char *family);

/* Every family, world and level, with every row trained. */
static void for_all(check_ranks check)
{
    for (int f = 0; f < SHARDED_FAMILIES; f++) {
        lt_model *whole = load_whole(sharded_families[f], 0);
        for (int w = 0; w < WORLDS; w++) {
            for (lt_shard level = 0; level < LT_SHARD_LEVELS; level++) {
                ranks r;
                load_ranks(&r, sharded_families[f], level, worlds[w]);
                check(&r, whole, sharded_families[f]);
                free_ranks(&r);
            }
        }
        lt_model_free(whole);
    }
}

/* --- Weights ---------------------------------------------------------------------------------- */

/* The rows of a unit, given its whole range of numbers; between them and behind is nothing. */
static void check_rows(const lt_model *model, const lt_unit *unit, const float *values,
                       const lt_model *whole)
{
    int64_t at = 0;
    for (int i = unit->first_param; i < unit->first_param + unit->param_count; i++) {
        int64_t start = model->params[i].offset - unit->weight_offset;
        const lt_tensor *expected = &whole->params[i].weight;
        for (; at < start; at++)
            assert_true(values[at] == 0);
        size_t bytes = (size_t)lt_tensor_count(*expected) * sizeof(float);
        assert_memory_equal(values + at, expected->data, bytes);
        at += lt_tensor_count(*expected);
    }
    for (; at < unit->weight_count; at++)
        assert_true(values[at] == 0);
}

static void check_parts(ranks *r, const lt_model *whole, const char *family)
{
    (void)family;
    const lt_model *model = r->models[r->acting];
    bool rooms = is_divided(r) && r->level == LT_SHARD_PARAMETERS;
    assert_int_equal(model->weight_parts.data != NULL, rooms);
    int64_t end = 0;
    for (int u = 0; u < LAYERS + 2; u++) {
        const lt_unit *unit = &model->units[u];
        assert_int_equal(unit->layer, u - 1);
        assert_int_equal(unit->weight_offset, end);
        end += unit->weight_count;
        float *joined = malloc((size_t)unit->weight_count * sizeof *joined);
        lt_tensor to = lt_tensor_1d(joined, LT_F32, unit->weight_count);
        if (is_divided(r)) {
            assert_int_equal(unit->weight_count % (r->world * LT_QUANTISED_BLOCK), 0);
            gather(r, unit, to, lt_unit_weight_part);
        } else {
            assert_ptr_equal(lt_unit_weight_part(model, unit).data,
                             lt_unit_weights(model, unit).data);
            memcpy(joined, lt_unit_weights(model, unit).data,
                   (size_t)unit->weight_count * sizeof(float));
        }
        check_rows(model, unit, joined, whole);
        if (!rooms)
            assert_memory_equal(joined, lt_unit_weights(model, unit).data,
                                (size_t)unit->weight_count * sizeof(float));
        assert_null(lt_unit_half_weights(model, unit).data);
        assert_null(lt_unit_half_part(model, unit).data);
        free(joined);
    }
    assert_int_equal(end, model->weight_count);
}

/* What one process loads is the others' too; parts of all of them are the file's weights. */
static void test_parts(void **state)
{
    (void)state;
    for_all(check_parts);
}

/* In a room a unit is whole as soon as it has been asked for, whatever was there before. */
static void check_rooms(ranks *r, const lt_model *whole, const char *family)
{
    (void)family;
    const lt_model *model = r->models[r->acting];
    static const int order[] = {-1, LAYERS, 1, 0, 3, -1, 2, LAYERS};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const lt_unit *unit = lt_unit_of(model, order[i]);
        OK(lt_model_need_unit(model, order[i], err));
        check_rows(model, unit, lt_unit_weights(model, unit).data, whole);
        for (int p = unit->first_param; p < unit->first_param + unit->param_count; p++)
            assert_memory_equal(model->params[p].weight.data, whole->params[p].weight.data,
                                (size_t)lt_tensor_count(whole->params[p].weight) * sizeof(float));
    }
    assert_int_equal(r->point_count, sizeof order / sizeof *order);
    bool tied = model->config.tie_word_embeddings;
    bool rooms = is_divided(r) && r->level >= LT_SHARD_PARAMETERS;
    for (int u = 0; u < LAYERS + 2 && rooms; u++) {
        bool end = u == 0 || u == LAYERS + 1;
        assert_int_equal(lt_unit_room(model, &model->units[u]), end ? tied ? -1 : 2 : (u - 1) % 2);
    }
    if (!is_divided(r)) assert_int_equal(lt_unit_room(model, &model->units[1]), -1);
}

static void test_rooms(void **state)
{
    (void)state;
    for_all(check_rooms);
}

/* Matrices in bf16 have parts and rooms of their own. */
static void test_half_weights(void **state)
{
    (void)state;
    for (int f = 0; f < SHARDED_FAMILIES; f++) {
        const char *family = sharded_families[f];
        lt_model *whole = load_rank(family, LT_SHARD_NONE, 0, 1, LT_BF16, 0);
        ranks r = {.level = LT_SHARD_PARAMETERS, .world = 3, .acting = 2};
        for (int i = 0; i < r.world; i++)
            r.models[i] = load_rank(family, r.level, i, r.world, LT_BF16, 0);
        const lt_model *model = r.models[r.acting];
        r.models[r.acting]->observer = (lt_unit_observer){&r, observe};
        assert_int_equal(model->half_parts.shape[0] * r.world, model->half_count);
        for (int u = 0; u < LAYERS + 2; u++) {
            const lt_unit *unit = &model->units[u];
            OK(lt_model_need_unit(model, unit->layer, err));
            for (int p = unit->first_param; p < unit->first_param + unit->param_count; p++) {
                const lt_tensor *expected = &whole->params[p].weight;
                assert_memory_equal(model->params[p].weight.data, expected->data,
                                    (size_t)lt_tensor_count(*expected) *
                                        lt_dtype_size(expected->dtype));
            }
        }
        free_ranks(&r);
        lt_model_free(whole);
    }
}

/* --- What a process steps --------------------------------------------------------------------- */

/* Weights, or gradients, as one process on its own has them: by element of its gradient. */
static float *undivided(const lt_model *whole, bool gradients)
{
    lt_own_piece *pieces;
    int count;
    float *out = calloc((size_t)whole->gradient_count, sizeof *out);
    OK(lt_model_own_pieces(whole, &pieces, &count, err));
    assert_int_equal(count, whole->segment_count);
    for (int i = 0; i < count; i++) {
        const lt_own_piece *p = &pieces[i];
        assert_int_equal(p->element, p->state_offset);
        assert_int_equal(p->element, whole->segments[i].gradient_offset);
        memcpy(out + p->element, gradients ? p->gradient.data : p->weights.data,
               (size_t)p->count * sizeof *out);
    }
    free(pieces);
    return out;
}

static void give_values(lt_model *whole)
{
    OK(lt_model_allocate_gradients(whole, err));
    for (int i = 0; i < whole->param_count; i++) {
        lt_tensor g = whole->params[i].gradient;
        for (int64_t k = 0; g.data && k < lt_tensor_count(g); k++)
            ((float *)g.data)[k] = (float)(i + 1) + (float)k / 4096;
    }
}

/* The acting rank's rooms as if backward had just left the unit, then scattered. */
static void give_ranks_values(ranks *r, const lt_model *whole)
{
    const lt_model *model = r->models[r->acting];
    for (int u = 0; u < LAYERS + 2; u++) {
        const lt_unit *unit = &model->units[u];
        OK(lt_zero_unit_gradients(model, unit, true, err));
        for (int i = unit->first_param; i < unit->first_param + unit->param_count; i++) {
            lt_tensor to = model->params[i].gradient, from = whole->params[i].gradient;
            assert_int_equal(to.data != NULL, from.data != NULL);
            if (to.data) memcpy(to.data, from.data, (size_t)lt_tensor_count(to) * sizeof(float));
        }
        if (is_divided(r)) scatter_gradients(r, unit);
    }
}

/* Each row's range is where the pieces have it. */
static int64_t check_ranges(const lt_model *model, const lt_own_piece *pieces, int count)
{
    int64_t total = 0;
    for (int i = 0; i < model->param_count; i++) {
        int64_t first, own, state, seen = 0;
        const lt_param *param = &model->params[i];
        lt_model_own_range(model, param, &first, &own, &state);
        total += own;
        for (int k = 0; k < count && own > 0; k++) {
            int64_t in_piece = state - pieces[k].state_offset;
            if (in_piece < 0 || in_piece >= pieces[k].count) continue;
            seen++;
            assert_true(in_piece + own <= pieces[k].count);
            const float *values = pieces[k].gradient.data;
            assert_true(values[in_piece] == (float)(i + 1) + (float)first / 4096);
            if (pieces[k].param == i) assert_int_equal(first, pieces[k].first);
        }
        assert_int_equal(seen, own > 0);
        assert_true(own == 0 || (first >= 0 && first + own <= lt_tensor_count(param->weight)));
    }
    return total;
}

static void check_pieces_of(const lt_model *model, const lt_model *whole, const float *weights,
                            const float *gradients, int *covered, int64_t *ranged)
{
    lt_own_piece *pieces;
    int count;
    int64_t end = 0;
    OK(lt_model_own_pieces(model, &pieces, &count, err));
    for (int i = 0; i < count; i++) {
        const lt_own_piece *p = &pieces[i];
        size_t bytes = (size_t)p->count * sizeof(float);
        assert_true(p->state_offset >= end && p->count > 0);
        bool own = model->params[p->param].adapter < 0;
        assert_true(!own || p->state_offset % LT_QUANTISED_BLOCK == 0); /* 8 bits: whole blocks */
        assert_true(!own || p->element % LT_QUANTISED_BLOCK == 0);
        end = p->state_offset + p->count;
        assert_int_equal(p->weights.shape[0], p->count);
        assert_int_equal(p->gradient.shape[0], p->count);
        assert_int_equal(p->decay, model->params[p->param].decay);
        assert_memory_equal(p->weights.data, weights + p->element, bytes);
        assert_memory_equal(p->gradient.data, gradients + p->element, bytes);
        assert_true(whole->params[p->param].gradient_offset + p->first == p->element);
        for (int64_t k = 0; k < p->count; k++)
            covered[p->element + k]++;
    }
    assert_true(end <= lt_model_own_count(model));
    *ranged += check_ranges(model, pieces, count);
    free(pieces);
}

/* NULL: every row, and with it those of an adapter. */
static void choose_trained(lt_model *model, const lt_trainable *subset)
{
    if (subset) {
        OK(lt_model_set_trainable(model, subset, err));
        return;
    }
    fresh_adapter(model, case_named("saved both"), "a", 5);
    for (int i = 0; i < model->param_count; i++)
        model->params[i].trainable = true;
    OK(lt_params_lay_out_gradients(model, err));
}

/* Rows of adapters are everybody's. */
static void give_adapter_values(lt_model *model, const lt_model *whole)
{
    for (int i = model->own_param_count; i < model->param_count; i++) {
        lt_tensor to = model->params[i].gradient;
        memcpy(to.data, whole->params[i].gradient.data,
               (size_t)lt_tensor_count(to) * sizeof(float));
    }
}

static void check_subset(const char *family, lt_shard level, int world, const lt_trainable *subset)
{
    ranks r;
    lt_model *whole = load_whole(family, 0);
    int64_t ranged = 0;
    load_ranks(&r, family, level, world);
    choose_trained(whole, subset);
    give_values(whole);
    int64_t of_units = 0, of_adapters = 0;
    for (int i = 0; i < whole->param_count; i++)
        *(i < whole->own_param_count ? &of_units : &of_adapters) +=
            whole->params[i].trainable ? lt_tensor_count(whole->params[i].weight) : 0;
    for (int i = world - 1; i >= 0; i--) {
        r.models[i]->observer = (lt_unit_observer){&r, observe};
        r.acting = i; /* of undivided gradients each has its own */
        choose_trained(r.models[i], subset);
        OK(lt_model_allocate_gradients(r.models[i], err));
        give_adapter_values(r.models[i], whole);
        if (!is_divided(&r)) give_ranks_values(&r, whole);
    }
    if (is_divided(&r)) give_ranks_values(&r, whole);
    float *weights = undivided(whole, false), *gradients = undivided(whole, true);
    int *covered = calloc((size_t)whole->gradient_count, sizeof *covered);
    for (int i = 0; i < world; i++)
        check_pieces_of(r.models[i], whole, weights, gradients, covered, &ranged);
    int times = is_divided(&r) ? 1 : world;
    int64_t adapter_start = lt_units_gradient_count(whole);
    for (int64_t k = 0; k < whole->gradient_count; k++)
        assert_int_equal(covered[k], k < adapter_start ? times : world);
    assert_int_equal(ranged, times * of_units + world * of_adapters);
    int64_t divided = is_divided(&r) ? lt_units_gradient_count(r.models[0]) : 0;
    assert_int_equal(lt_model_own_count(r.models[0]),
                     divided / world + r.models[0]->gradient_count - divided);
    free(covered);
    free(weights);
    free(gradients);
    free_ranks(&r);
    lt_model_free(whole);
}

/* Every trained element is stepped by one process, where its state, weight and gradient are. */
static void test_own_pieces(void **state)
{
    (void)state;
    for (int f = 0; f < SHARDED_FAMILIES; f++)
        for (int w = 0; w < WORLDS; w++)
            for (lt_shard level = 0; level < LT_SHARD_LEVELS; level++)
                for (int s = 0; s <= SUBSETS; s++)
                    if (is_tried(f + w + (int)level + s))
                        check_subset(sharded_families[f], level, worlds[w],
                                     s < SUBSETS ? &subsets[s] : NULL);
}

/* --- Memory ----------------------------------------------------------------------------------- */

static void check_plan(ranks *r, const lt_model *whole, const char *family)
{
    for (int s = 0; s < SUBSETS; s++) {
        lt_model *model = load_rank(family, r->level, r->acting, r->world, LT_F32, 0);
        lt_plan_settings settings = {.workspace = {.rows = 1, .length = 4, .training = true},
                                     .trainable = subsets[s],
                                     .sharding = {r->level, 0, r->world}};
        lt_memory_plan plan;
        OK(lt_model_set_trainable(model, &subsets[s], err));
        OK(lt_model_allocate_gradients(model, err));
        OK(lt_model_plan(&whole->config, backend, &settings, &plan, err));
        assert_int_equal(plan.weights, model->weights.capacity);
        assert_int_equal(plan.gradients, model->gradients.capacity);
        assert_int_equal(plan.own_count, lt_model_own_count(model));
        int64_t largest = 0;
        for (int u = 0; u < LAYERS + 2; u++)
            largest =
                model->units[u].gradient_count > largest ? model->units[u].gradient_count : largest;
        assert_int_equal(plan.largest_gradient_part, largest / r->world * 4);
        assert_int_equal(plan.gradient_count, model->gradient_count);
        assert_int_equal(plan.block_elements, model->units[2].weight_count);
        assert_int_equal(plan.ends_elements,
                         model->units[0].weight_count + model->units[LAYERS + 1].weight_count);
        lt_model_free(model);
    }
}

static void test_plan(void **state)
{
    (void)state;
    for_all(check_plan);
}

/* Many processes: what each holds of a large model is its part and the rooms. */
static void test_plan_of_many(void **state)
{
    (void)state;
    lt_model_shape shape = {.family = "llama",
                            .layers = 30,
                            .hidden_size = 1024,
                            .heads = 8,
                            .vocab_size = 32000,
                            .bos_token_id = -1,
                            .eos_token_id = -1,
                            .pad_token_id = -1};
    lt_model_config config;
    OK(lt_model_config_make(&shape, &config, err));
    lt_plan_settings settings = {.workspace = {.rows = 1, .length = 4, .training = true}};
    lt_memory_plan one, many;
    OK(lt_model_plan(&config, backend, &settings, &one, err));
    settings.sharding = (lt_sharding){LT_SHARD_PARAMETERS, 0, 64};
    OK(lt_model_plan(&config, backend, &settings, &many, err));
    double part = (double)one.gradient_count / 64;
    double ends = (double)many.ends_elements / (config.tie_word_embeddings ? 1 : 2);
    double rooms = 2 * (double)many.block_elements + ends;
    assert_true(fabs((double)many.gradients / 4 / (part + rooms) - 1) < 0.02);
    assert_true(many.weights < one.weights / 4);
    assert_true(fabs((double)many.own_count / part - 1) < 0.02);
    lt_model_config_free(&config);
}

/* --- Loading ---------------------------------------------------------------------------------- */

/* A vocabulary that grows as it is loaded is the one that grows afterwards. */
static void test_growth(void **state)
{
    (void)state;
    for (int f = 0; f < SHARDED_FAMILIES; f++) {
        const char *family = sharded_families[f];
        lt_model *grown = load_whole(family, 0), *loaded = load_whole(family, 61);
        lt_model *divided = load_rank(family, LT_SHARD_OPTIMIZER, 1, 3, LT_F32, 0);
        OK(lt_model_grow_vocab(grown, 61, err));
        assert_int_equal(loaded->config.vocab_size, 61);
        assert_memory_equal(loaded->weights.base, grown->weights.base,
                            (size_t)grown->weight_count * sizeof(float));
        OK(lt_model_grow_vocab(divided, 61, err));
        for (int u = 0; u < LAYERS + 2; u++) {
            const lt_unit *unit = &divided->units[u];
            assert_int_equal(unit->weight_count % (3 * LT_QUANTISED_BLOCK), 0);
            check_rows(divided, unit, lt_unit_weights(divided, unit).data, grown);
        }
        ranks r = {.level = LT_SHARD_PARAMETERS, .world = 2, .acting = 1};
        for (int i = 0; i < 2; i++)
            r.models[i] = load_rank(family, r.level, i, 2, LT_F32, 61);
        r.models[1]->observer = (lt_unit_observer){&r, observe};
        for (int u = 0; u < LAYERS + 2; u++) {
            const lt_unit *unit = &r.models[1]->units[u];
            OK(lt_model_need_unit(r.models[1], unit->layer, err));
            check_rows(r.models[1], unit, lt_unit_weights(r.models[1], unit).data, grown);
        }
        free_ranks(&r);
        lt_model_free(grown);
        lt_model_free(loaded);
        lt_model_free(divided);
    }
}

/* GGUF files are read through the rooms just the same. */
static void test_gguf(void **state)
{
    (void)state;
    for (int f = 0; f < SHARDED_FAMILIES; f++) {
        const char *path = scratch_path("model.gguf", NULL);
        lt_model *whole = load_whole(sharded_families[f], 0);
        ranks r = {.level = LT_SHARD_PARAMETERS, .world = 3, .acting = 1};
        lt_model_load_settings settings = {.vocab_size = 61, .sharding = {r.level, 0, r.world}};
        OK(lt_model_save_gguf(whole, path, &(lt_gguf_export){.format = LT_GGUF_FILE_F32}, err));
        OK(lt_model_grow_vocab(whole, 61, err));
        for (int i = 0; i < r.world; i++) {
            settings.sharding.rank = i;
            OK(lt_model_load_with(path, backend, &settings, &r.models[i], err));
        }
        r.models[1]->observer = (lt_unit_observer){&r, observe};
        for (int u = 0; u < LAYERS + 2; u++) {
            const lt_unit *unit = &r.models[1]->units[u];
            OK(lt_model_need_unit(r.models[1], unit->layer, err));
            check_rows(r.models[1], unit, lt_unit_weights(r.models[1], unit).data, whole);
        }
        free_ranks(&r);
        lt_model_free(whole);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    lt_err err = {0};
    static const struct {
        lt_model_load_settings settings;
        lt_status status;
    } bad[] = {
        {{.sharding = {LT_SHARD_PARAMETERS, 2, 2}}, LT_ERR_USAGE},
        {{.sharding = {LT_SHARD_PARAMETERS, -1, 2}}, LT_ERR_USAGE},
        {{.sharding = {LT_SHARD_LEVELS, 0, 2}}, LT_ERR_USAGE},
        {{.sharding = {LT_SHARD_NONE, 1, 0}}, LT_ERR_USAGE},
        {{.vocab_size = 50}, LT_ERR_USAGE},
        {{.vocab_size = 1 << 23}, LT_ERR_LIMIT},
    };
    lt_model *model = NULL;
    const char *directory = sharded_directory("gpt2");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(lt_model_load_with(directory, backend, &bad[i].settings, &model, &err),
                         bad[i].status);
        assert_null(model);
    }
    model = load_rank("gpt2", LT_SHARD_PARAMETERS, 0, 2, LT_F32, 0);
    assert_int_equal(lt_model_grow_vocab(model, 61, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "divided"));
    assert_int_equal(lt_model_untie(model, &err), LT_ERR_USAGE);
    lt_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),        cmocka_unit_test(test_rooms),
        cmocka_unit_test(test_half_weights), cmocka_unit_test(test_own_pieces),
        cmocka_unit_test(test_plan),         cmocka_unit_test(test_plan_of_many),
        cmocka_unit_test(test_growth),       cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, set_up_ranks, tear_down_files);
}
