/* Several processes train a tiny model together and come to what one comes to: at every level of
 * sharding, with micro-batches of which some processes have no rows. The program starts itself
 * under mpirun; each process computes the one-process result too. */
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

#include "base/fsio.h"
#include "base/rng.h"
#include "model/adapter.h"
#include "mpi_run.h"
#include "train/optimizer.h"
#include "train/shard.h"

enum { LENGTH = 12, VOCABULARY = 53, MAX_ROWS = 7, STEPS = 3, LAYERS = 3 };

/* Rows of each micro-batch of a step, over all processes; the second leaves all but one of them
 * without any. */
static const int64_t micro_rows[] = {MAX_ROWS, 1, 4};

static int world, rank;
static lt_comm *comm;
static lt_backend *backend;
static const char *directory;
static char what[256]; /* is being tested */

/* --- Failing: cmocka is the parent's -----------------------------------------------------------
 */

static void __attribute__((noreturn, format(printf, 1, 2))) stop(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "rank %d of %d, %s: ", rank, world, what);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _exit(1);
}

static void must(lt_status status, const lt_err *err)
{
    if (status != LT_OK) stop("%s", err->message);
}

#define OK(call)                           \
    do {                                   \
        lt_err error = {0}, *err = &error; \
        must((call), err);                 \
    } while (0)

static void near(double value, double expected, double tolerance, const char *name)
{
    if (!(fabs(value - expected) <= tolerance * fabs(expected)))
        stop("%s is %.9g, not %.9g", name, value, expected);
}

/* --- One case ----------------------------------------------------------------------------------
 */

typedef struct test_case {
    const char *family, *method; /* full, frozen (the first block is), head, lora, prompt */
    lt_shard level;
    int accumulation;
    lt_optimizer_kind optimizer;
    double max_norm;
    bool half_base, offload;
} test_case;

/* A model with what trains it: on its own, or as one of several processes. */
typedef struct side {
    const test_case *c;
    bool together;
    lt_model *model;
    lt_adapter *adapter;
    lt_sharder *sharder; /* NULL: on its own */
    lt_optimizer optimizer;
    lt_workspace *workspace;
    double totals[3];
    float norm;
} side;

typedef struct rows {
    int32_t ids[MAX_ROWS * LENGTH], targets[MAX_ROWS * LENGTH];
    int32_t positions[MAX_ROWS * LENGTH], first_key[MAX_ROWS * LENGTH];
} rows;

/* The rows of a micro-batch that a side has: all, or every world-th. They are of unlike lengths,
 * and some train nothing. */
static lt_batch batch_of(const side *s, rows *r, int64_t step, int micro)
{
    lt_batch batch = {.length = LENGTH,
                      .input_ids = r->ids,
                      .targets = r->targets,
                      .positions = r->positions,
                      .first_key = r->first_key};
    memset(r, 0, sizeof *r);
    for (int64_t row = 0; row < micro_rows[micro]; row++) {
        if (s->together && row % world != rank) continue;
        int64_t used = 3 + (5 * row + step) % (LENGTH - 2);
        for (int64_t i = 0; i < LENGTH; i++) {
            int64_t cell = batch.rows * LENGTH + i;
            uint64_t counter = (uint64_t)(((step * 3 + micro) * MAX_ROWS + row) * LENGTH + i);
            r->ids[cell] = (int32_t)lt_random_below(1, 2, counter, VOCABULARY);
            r->positions[cell] = (int32_t)(i < used ? i : 0);
            r->first_key[cell] = (int32_t)(i < used ? 0 : i);
            bool trained = i + 1 < used && row != 2;
            r->targets[cell] =
                trained ? (int32_t)lt_random_below(1, 3, counter, VOCABULARY) : LT_IGNORE;
            batch.trained_tokens += trained;
        }
        batch.rows++;
    }
    return batch;
}

static void choose_rows(side *s)
{
    const test_case *c = s->c;
    lt_adapter_config config = {.r = 4, .lora_alpha = 8, .num_virtual_tokens = 3};
    if (strcmp(c->method, "full") == 0) return;
    const lt_trainable trainable = {.freeze_layers = strcmp(c->method, "frozen") == 0,
                                    .train = strcmp(c->method, "head") == 0 ? "lm_head" : NULL};
    if (trainable.freeze_layers || trainable.train) {
        OK(lt_model_set_trainable(s->model, &trainable, err));
        return;
    }
    config.kind = strcmp(c->method, "lora") == 0 ? LT_ADAPTER_LORA : LT_ADAPTER_PROMPT;
    if (config.kind == LT_ADAPTER_LORA)
        OK(lt_adapter_choose_targets(s->model->config.family, "all-linear", &config, err));
    OK(lt_adapter_create(s->model, &config, "trained", 5, &s->adapter, err));
    lt_adapter_config_free(&config);
}

static void open_side(side *s, const test_case *c, bool together)
{
    char path[256];
    const lt_optimizer_settings optimizer = {.kind = c->optimizer,
                                             .offload = c->offload,
                                             .threads = 1,
                                             .seed = 9,
                                             .chunk = 3 * LT_QUANTISED_BLOCK};
    const lt_workspace_settings workspace = {.rows = MAX_ROWS, .length = LENGTH, .training = true};
    lt_model_load_settings load = {.matrices = c->half_base ? LT_BF16 : LT_F32};
    if (together) load.sharding = (lt_sharding){c->level, rank, world};
    *s = (side){.c = c, .together = together};
    snprintf(path, sizeof path, "%s/%s", directory, c->family);
    OK(lt_model_load_with(path, backend, &load, &s->model, err));
    if (together) OK(lt_sharder_create(s->model, comm, &s->sharder, err));
    choose_rows(s);
    OK(lt_model_allocate_gradients(s->model, err));
    OK(lt_sharder_prepare_gradients(s->sharder, err));
    OK(lt_optimizer_create(s->model, &optimizer, &s->optimizer, err));
    OK(lt_workspace_create(s->model, &workspace, &s->workspace, err));
}

static void close_side(side *s)
{
    lt_workspace_free(s->workspace);
    lt_optimizer_free(&s->optimizer);
    lt_sharder_free(s->sharder);
    lt_model_free(s->model);
}

/* --- Steps, as train/step.c takes them ---------------------------------------------------------
 */

static void accumulate(side *s, int64_t step)
{
    const lt_dropout_mask none = {0};
    for (int i = 0; i < s->c->accumulation; i++) {
        rows r;
        const lt_batch batch = batch_of(s, &r, step, i);
        lt_sharder_begin_micro_batch(s->sharder, i == 0, i + 1 == s->c->accumulation);
        OK(lt_model_forward_backward(s->model, s->workspace, &batch, none,
                                     lt_sharder_accumulate(s->sharder, i == 0), NULL, err));
    }
}

static void add_up(side *s)
{
    const lt_tensor totals = lt_tensor_1d(s->totals, LT_F64, 3);
    OK(lt_workspace_move_loss(s->workspace, totals, err));
    OK(lt_sharder_finish_gradients(s->sharder, err));
    OK(lt_optimizer_sum_squares(&s->optimizer, s->model, err));
    OK(lt_sharder_sum(s->sharder, totals, s->optimizer.squares, err));
}

/* Where a gradient is 0 but for rounding, a small epsilon would make steps of that. */
static void update(side *s, int64_t step)
{
    const lt_optimizer_step settings = {.tokens = lt_tensor_1d(&s->totals[1], LT_F64, 1),
                                        .learning_rate = 0.05,
                                        .beta1 = 0.9,
                                        .beta2 = 0.99,
                                        .epsilon = 0.05,
                                        .weight_decay = 0.1,
                                        .max_grad_norm = s->c->max_norm,
                                        .number = step + 1,
                                        .loss = lt_tensor_1d(&s->totals[0], LT_F64, 1),
                                        .norm = lt_tensor_1d(&s->norm, LT_F32, 1)};
    OK(lt_optimizer_apply(&s->optimizer, &settings, err));
    OK(lt_sharder_begin_weights(s->sharder, err));
}

/* What this process steps is what one process has at the same elements. */
static void compare_gradients(const side *one, const side *many)
{
    double difference = 0, squares = 0;
    const float *expected = (const float *)one->model->gradients.base;
    for (int64_t i = 0; i < one->model->gradient_count; i++)
        squares += (double)expected[i] * (double)expected[i];
    for (int p = 0; p < many->optimizer.piece_count; p++) {
        const lt_own_piece *piece = &many->optimizer.pieces[p];
        int64_t row_end = one->model->gradient_count - piece->element;
        for (int64_t i = 0; i < piece->count && i < row_end; i++) {
            double d = (double)((const float *)piece->gradient.data)[i] -
                       (double)expected[piece->element + i];
            difference += d * d;
        }
    }
    if (!(sqrt(difference) <= 1e-5 * sqrt(squares)))
        stop("gradients are off by %.3g of %.3g", sqrt(difference), sqrt(squares));
}

/* Both sides pass over the same rows, of which each process has some. */
static void compare_evaluations(side *one, side *many)
{
    lt_loss alone = {0}, together = {0};
    rows r;
    lt_batch batch = batch_of(one, &r, 100, 0);
    OK(lt_model_evaluate(one->model, one->workspace, &batch, &alone, NULL, err));
    batch = batch_of(many, &r, 100, 1); /* one process has a row */
    OK(lt_model_evaluate(many->model, many->workspace, &batch, &together, NULL, err));
    together = (lt_loss){0};
    batch = batch_of(many, &r, 100, 0);
    OK(lt_model_evaluate(many->model, many->workspace, &batch, &together, NULL, err));
    double sum = together.sum;
    OK(lt_comm_sum(comm, &sum, 1, err));
    near(sum, alone.sum, 1e-5, "held-out loss");
}

/* --- Weights -----------------------------------------------------------------------------------
 */

static size_t trained_elements(const lt_model *model)
{
    size_t count = 0;
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].trainable) count += (size_t)lt_tensor_count(model->params[i].weight);
    return count;
}

/* Trained rows one after the other; those of a unit are asked for as a pass does. */
static float *weights_of(const side *s, size_t count)
{
    float *out = calloc(count, sizeof *out), *at = out;
    int layer = -2;
    if (!out) stop("no memory");
    OK(lt_sharder_finish_weights(s->sharder, err));
    for (int i = 0; i < s->model->param_count; i++) {
        const lt_param *param = &s->model->params[i];
        if (param->adapter < 0 && param->layer != layer)
            OK(lt_model_need_unit(s->model, layer = param->layer, err));
        if (!param->trainable) continue;
        int64_t elements = lt_tensor_count(param->weight);
        memcpy(at, param->weight.data, (size_t)elements * sizeof *at);
        at += elements;
    }
    return out;
}

static void compare_weights(const side *one, const float *weights, size_t count)
{
    float *expected = weights_of(one, count);
    for (size_t i = 0; i < count; i++)
        if (!(fabs((double)weights[i] - (double)expected[i]) <= 2e-5))
            stop("weight %zu is %.9g, not %.9g", i, (double)weights[i], (double)expected[i]);
    free(expected);
}

/* --- Cases -------------------------------------------------------------------------------------
 */

/* The weights that `c` comes to. Rounded moments follow every bit of a gradient, so that only those
 * in f32 are near. */
static float *run(const test_case *c, size_t *count)
{
    static const char *const levels[] = {"none", "optimizer", "gradients", "parameters"};
    side one, many;
    snprintf(what, sizeof what, "%s, %s, shard %s, %d micro-batches, %s", c->family, c->method,
             levels[c->level], c->accumulation, lt_optimizer_name(c->optimizer));
    open_side(&one, c, false);
    open_side(&many, c, true);
    for (int64_t step = 0; step < STEPS; step++) {
        accumulate(&one, step);
        add_up(&one);
        accumulate(&many, step);
        add_up(&many);
        if (c->optimizer == LT_ADAMW) compare_gradients(&one, &many);
        update(&one, step);
        update(&many, step);
        near(many.totals[0], one.totals[0], c->optimizer == LT_ADAMW ? 1e-5 : 1e-2, "loss");
        near(many.totals[1], one.totals[1], 0, "trained tokens");
        near(many.norm, one.norm, c->optimizer == LT_ADAMW ? 1e-5 : 1e-2, "norm");
        if (step == 1) compare_evaluations(&one, &many);
    }
    *count = trained_elements(one.model);
    float *weights = weights_of(&many, *count);
    if (c->optimizer == LT_ADAMW) compare_weights(&one, weights, *count);
    close_side(&one);
    close_side(&many);
    return weights;
}

/* Sums are in the same order at all levels from `first_same` on, so their bits are the same. */
static void run_levels(test_case c, lt_shard first_same)
{
    float *first = NULL;
    for (int level = LT_SHARD_NONE; level < LT_SHARD_LEVELS; level++) {
        size_t count;
        c.level = (lt_shard)level;
        float *weights = run(&c, &count);
        if (first && memcmp(first, weights, count * sizeof *first) != 0)
            stop("the weights are not bit for bit those of level %d", (int)first_same);
        if (level == (int)first_same)
            first = weights;
        else
            free(weights);
    }
    free(first);
}

static const test_case cases[] = {
    {.family = "gpt2", .method = "full", .accumulation = 1},
    {.family = "llama", .method = "full", .accumulation = 1},
    {.family = "gpt2", .method = "full", .accumulation = 3, .max_norm = 0.05},
    {.family = "llama", .method = "full", .accumulation = 3, .max_norm = 0.05},
    {.family = "gpt2", .method = "frozen", .accumulation = 3, .max_norm = 0.05},
    {.family = "llama", .method = "frozen", .accumulation = 3},
    {.family = "llama", .method = "head", .accumulation = 3},
    {.family = "gpt2", .method = "lora", .accumulation = 3, .max_norm = 0.05},
    {.family = "llama", .method = "lora", .accumulation = 3, .half_base = true},
    {.family = "gpt2", .method = "prompt", .accumulation = 1},
    {.family = "llama", .method = "prompt", .accumulation = 3},
    {.family = "llama", .method = "full", .accumulation = 1, .optimizer = LT_ADAMW_BF16},
    {.family = "gpt2",
     .method = "full",
     .accumulation = 1,
     .optimizer = LT_ADAMW_BF16,
     .offload = true},
    {.family = "llama", .method = "full", .accumulation = 1, .optimizer = LT_ADAMW_8BIT},
};

/* An adapter's gradients are all-reduced at every level. Else micro-batches are added up before or
 * after processes are; and all-reduce and reduce-scatter may add more than two numbers in two
 * orders. */
static lt_shard first_of_one_order(const test_case *c)
{
    if (strcmp(c->method, "lora") == 0 || strcmp(c->method, "prompt") == 0) return LT_SHARD_NONE;
    if (c->accumulation > 1) return LT_SHARD_GRADIENTS;
    return world == 2 ? LT_SHARD_NONE : LT_SHARD_OPTIMIZER;
}

static void run_all(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_levels(cases[i], first_of_one_order(&cases[i]));
}

/* --- The processes -----------------------------------------------------------------------------
 */

static int be_a_rank(void)
{
    const lt_backend_settings machine = {.threads = 1};
    OK(lt_backend_create(&machine, &backend, err));
    comm = open_rank(backend, MPI_RUN_LIMIT, "", NULL);
    world = lt_comm_size(comm);
    rank = lt_comm_rank(comm);
    run_all();
    OK(lt_comm_check_sequence(comm, err));
    lt_comm_close(comm);
    lt_backend_free(backend);
    return 0;
}

static void make_model(const char *family)
{
    lt_err err = {0};
    lt_model_config config;
    lt_model *model = NULL;
    char path[256];
    const lt_model_shape shape = {.family = family,
                                  .layers = LAYERS,
                                  .hidden_size = 24,
                                  .heads = 3,
                                  .max_position = 2 * LENGTH,
                                  .vocab_size = VOCABULARY,
                                  .initializer_range = 0.2,
                                  .bos_token_id = -1,
                                  .eos_token_id = -1,
                                  .pad_token_id = -1};
    snprintf(path, sizeof path, "%s/%s", directory, family);
    if (lt_model_config_make(&shape, &config, &err) != LT_OK) fail_msg("%s", err.message);
    config.tie_word_embeddings = strcmp(family, "gpt2") == 0;
    if (lt_model_create(&config, backend, 3, &model, &err) != LT_OK ||
        lt_make_directories(path, &err) != LT_OK ||
        lt_model_save(model, path, LT_F32, &err) != LT_OK)
        fail_msg("%s", err.message);
    lt_model_free(model);
}

static int set_up(void **state)
{
    static char made[64];
    const lt_backend_settings machine = {.threads = 1};
    (void)state;
    snprintf(made, sizeof made, "%s/lathe-shard-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(made) || lt_backend_create(&machine, &backend, NULL) != LT_OK) return -1;
    directory = made;
    make_model("gpt2");
    make_model("llama");
    lt_backend_free(backend);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return lt_remove_tree(directory, NULL) == LT_OK ? 0 : -1;
}

static void two_processes_train_as_one(void **state)
{
    (void)state;
    assert_int_equal(run_part(directory, 2, NULL), 0);
}

static void three_processes_train_as_one(void **state)
{
    (void)state;
    assert_int_equal(run_part(directory, 3, NULL), 0);
}

static void more_processes_train_as_one(void **state)
{
    (void)state;
    if (!getenv("LATHE_LONG_TESTS")) skip();
    assert_int_equal(run_part(directory, 4, NULL), 0);
    assert_int_equal(run_part(directory, 7, NULL), 0);
}

int main(void)
{
    directory = getenv("LATHE_TEST_PART");
    if (directory) return be_a_rank();
    if (mpi_is_missing()) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_processes_train_as_one),
        cmocka_unit_test(three_processes_train_as_one),
        cmocka_unit_test(more_processes_train_as_one),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
