/* Several processes' shares of one model in a single process: their collectives are copies between
 * them. Shared by the tests of sharding. */
#ifndef LT_TEST_RANKS_H
#define LT_TEST_RANKS_H

#include "files.h"
#include "model/sharding.h"

enum { MAX_WORLD = 7, LAYERS = 4, MAX_POINTS = 64 };

static const int worlds[] UNUSED = {1, 2, 3, 4, 7};
enum { WORLDS = sizeof worlds / sizeof *worlds };

/* Tied and untied (the larger unit being the head, or the embeddings), with and without biases and
 * norms of heads. */
static const char *const sharded_families[] UNUSED = {"gpt2", "llama", "qwen3", "gpt2 untied"};
enum { SHARDED_FAMILIES = sizeof sharded_families / sizeof *sharded_families };

typedef struct point {
    int layer;
    lt_unit_point at;
} point;

typedef struct ranks {
    lt_shard level;
    int world, acting; /* the rank whose observer this is */
    lt_model *models[MAX_WORLD];
    float *gradients; /* of the acting rank, as undivided ones lie, when a unit's are complete */
    bool all_zero;    /* no gradient that was told of was other than 0 */
    point points[MAX_POINTS];
    int point_count;
} ranks;

/* One thread: the models are small, and there are hundreds of them. */
static UNUSED int set_up_ranks(void **state)
{
    OK(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, err));
    return make_folder(state);
}

/* Of all combinations every third is tried; in a long run, all. */
static UNUSED bool is_tried(int number)
{
    return number % 3 == 0 || getenv("LATHE_LONG_TESTS");
}

/* A model of the family, as files. One of four static buffers. */
static UNUSED const char *sharded_directory(const char *family)
{
    bool is_gpt2 = strncmp(family, "gpt2", 4) == 0;
    lt_model_shape shape = {.family = is_gpt2 ? "gpt2" : family,
                            .layers = LAYERS,
                            .hidden_size = 24,
                            .heads = 3,
                            .kv_heads = is_gpt2 ? 0 : 1,
                            .max_position = 33,
                            .vocab_size = 51,
                            .initializer_range = 0.2,
                            .bos_token_id = 0,
                            .eos_token_id = 0,
                            .pad_token_id = -1};
    const char *path = scratch_path(family, NULL);
    if (lt_path_exists(path)) return path;
    lt_model_config config;
    lt_model *model = NULL;
    OK(lt_model_config_make(&shape, &config, err));
    config.tie_word_embeddings = strcmp(family, "llama") != 0 && !strstr(family, "untied");
    OK(lt_model_create(&config, backend, 11, &model, err));
    path = new_directory(family);
    OK(lt_model_save(model, path, LT_F32, err));
    lt_model_free(model);
    return path;
}

static UNUSED lt_model *load_rank(const char *family, lt_shard level, int rank, int world,
                                  lt_dtype matrices, int64_t vocab)
{
    lt_model *model = NULL;
    const lt_model_load_settings settings = {
        .matrices = matrices, .vocab_size = vocab, .sharding = {level, rank, world}};
    OK(lt_model_load_with(sharded_directory(family), backend, &settings, &model, err));
    return model;
}

static UNUSED lt_model *load_whole(const char *family, int64_t vocab)
{
    return load_rank(family, LT_SHARD_NONE, 0, 1, LT_F32, vocab);
}

/* --- Collectives ------------------------------------------------------------------------------ */

typedef lt_tensor (*part_of)(const lt_model *model, const lt_unit *unit);

static UNUSED void gather(const ranks *r, const lt_unit *unit, lt_tensor whole, part_of part)
{
    for (int i = 0; i < r->world && whole.data; i++) {
        lt_tensor from = part(r->models[i], &r->models[i]->units[unit->layer + 1]);
        size_t bytes = (size_t)from.shape[0] * lt_dtype_size(from.dtype);
        assert_int_equal(from.shape[0] * r->world, whole.shape[0]);
        assert_int_equal(from.dtype, whole.dtype);
        memcpy((char *)whole.data + (size_t)i * bytes, from.data, bytes);
    }
}

/* Not a number, in any type: whoever reads it is found out. */
static UNUSED void poison(lt_tensor t)
{
    if (t.data) memset(t.data, 0xff, (size_t)t.shape[0] * lt_dtype_size(t.dtype));
}

static void poison_weights(const lt_model *model, const lt_unit *unit)
{
    if (!model->weight_parts.data || lt_unit_room(model, unit) < 0) return;
    poison(lt_unit_weights(model, unit));
    poison(lt_unit_half_weights(model, unit));
}

/* The unit's gradients as one process on its own has them: trained rows one after the other. */
static void note_gradients(ranks *r, const lt_model *model, const lt_unit *unit)
{
    lt_tensor all = lt_unit_gradients(model, unit);
    const float *values = all.data;
    int64_t place = 0;
    for (int64_t i = 0; all.data && i < all.shape[0]; i++)
        r->all_zero = r->all_zero && values[i] == 0;
    for (int i = 0; i < unit->first_param; i++)
        if (model->params[i].trainable)
            place += (lt_tensor_count(model->params[i].weight) + 255) / 256 * 256;
    for (int i = unit->first_param; i < unit->first_param + unit->param_count; i++) {
        const lt_param *p = &model->params[i];
        int64_t padded = (lt_tensor_count(p->weight) + 255) / 256 * 256;
        if (!p->trainable) continue;
        if (r->gradients)
            memcpy(r->gradients + place, p->gradient.data, (size_t)padded * sizeof(float));
        place += padded;
    }
}

/* Sums over one process: the acting one's gradients, to everybody's parts. */
static void scatter_gradients(const ranks *r, const lt_unit *unit)
{
    lt_tensor whole = lt_unit_gradients(r->models[r->acting], unit);
    if (!whole.data) return;
    for (int i = 0; i < r->world; i++) {
        lt_tensor to = lt_unit_gradient_part(r->models[i], &r->models[i]->units[unit->layer + 1]);
        size_t bytes = (size_t)to.shape[0] * sizeof(float);
        assert_int_equal(to.shape[0] * r->world, whole.shape[0]);
        memmove(to.data, (const char *)whole.data + (size_t)i * bytes, bytes);
    }
}

static lt_status observe(void *context, const lt_unit *unit, lt_unit_point at, lt_err *err)
{
    ranks *r = context;
    const lt_model *model = r->models[r->acting];
    (void)err;
    assert_ptr_equal(unit, &model->units[unit->layer + 1]);
    assert_true(r->point_count < MAX_POINTS);
    r->points[r->point_count++] = (point){unit->layer, at};
    switch (at) {
    case LT_BEFORE_FORWARD:
    case LT_BEFORE_BACKWARD:
        if (!model->weight_parts.data || (unit->layer < 0 && at == LT_BEFORE_BACKWARD)) break;
        gather(r, unit, lt_unit_weights(model, unit), lt_unit_weight_part);
        gather(r, unit, lt_unit_half_weights(model, unit), lt_unit_half_part);
        break;
    case LT_AFTER_FORWARD:
        poison_weights(model, unit);
        break;
    case LT_AFTER_BACKWARD:
        poison_weights(model, unit);
        note_gradients(r, model, unit);
        if (!model->gradient_parts.data) break;
        scatter_gradients(r, unit);
        poison(lt_unit_gradients(model, unit));
    }
    return LT_OK;
}

/* --- Life ------------------------------------------------------------------------------------- */

static UNUSED void load_ranks(ranks *r, const char *family, lt_shard level, int world)
{
    *r = (ranks){.level = level, .world = world, .acting = world / 2, .all_zero = true};
    for (int i = 0; i < world; i++)
        r->models[i] = load_rank(family, level, i, world, LT_F32, 0);
    const lt_model *acting = r->models[r->acting];
    for (int u = 0; u < LAYERS + 2 && acting->weight_parts.data; u++)
        poison(lt_unit_weights(acting, &acting->units[u]));
    r->models[r->acting]->observer = (lt_unit_observer){r, observe};
}

static UNUSED void free_ranks(ranks *r)
{
    for (int i = 0; i < r->world; i++)
        lt_model_free(r->models[i]);
    free(r->gradients);
}

static UNUSED bool is_divided(const ranks *r)
{
    return r->world > 1 && r->level >= LT_SHARD_OPTIMIZER;
}

#endif
