/* Seconds of one training step of a model with random weights, and where they go.
 *
 *     bench_train_step [PRESET [ROWS [LENGTH [STEPS [METHOD ...]]]]]    (gpt2-124m 4 64 5 full)
 *
 * METHOD: full, lora, dora (rank 8, all linear modules), prefix, prompt (20 virtual tokens), or one
 * of them with -bf16 behind it, for a frozen base in bf16. Prints for each the median of STEPS:
 * forward, backward, update, floating-point operations and tokens a second, memory, and, when there
 * are several, the time as a share of the first's; then the share of each operation. The operations
 * counted are products only: 6 for each parameter in matrices and token, 4 when the base is frozen,
 * plus attention. */
#include "base/checked.h"
#include "base/fsio.h"
#include "model/adapter.h"
#include "tests/bench/bench.h"

/* Operations of a backend, timed. The products are told apart by layout: "matmul" is Y = X W^T. */
enum {
#define LT_NAME(name, args) TIMED_##name,
    LT_OPERATIONS(LT_NAME)
#undef LT_NAME
        TIMED_matmul_nn,
    TIMED_matmul_tn,
    TIMED_COUNT
};
static const char *const timed_names[TIMED_COUNT] = {
#define LT_NAME(name, args) #name,
    LT_OPERATIONS(LT_NAME)
#undef LT_NAME
        "matmul dX",
    "matmul dW"};

static lt_ops plain_ops;
static double seconds_of[TIMED_COUNT];

static int slot_of_matmul(const void *args)
{
    switch (((const lt_matmul_args *)args)->layout) {
    case LT_MATMUL_NN:
        return TIMED_matmul_nn;
    case LT_MATMUL_TN:
        return TIMED_matmul_tn;
    default:
        return TIMED_matmul;
    }
}

#define LT_TIMED(name, args)                                                             \
    static lt_status timed_##name(const lt_backend *backend, const args *a, lt_err *err) \
    {                                                                                    \
        int slot = TIMED_##name == TIMED_matmul ? slot_of_matmul(a) : TIMED_##name;      \
        double start = bench_now();                                                      \
        lt_status status = plain_ops.name(backend, a, err);                              \
        seconds_of[slot] += bench_now() - start;                                         \
        return status;                                                                   \
    }
LT_OPERATIONS(LT_TIMED)
#undef LT_TIMED

static void time_operations(lt_backend *backend)
{
    plain_ops = backend->ops;
#define LT_SET(name, args) backend->ops.name = timed_##name;
    LT_OPERATIONS(LT_SET)
#undef LT_SET
}

#define MUST(call) bench_check((call), &err)

typedef struct bench {
    const char *method;
    lt_backend *backend;
    lt_model *model;
    lt_workspace *workspace;
    lt_batch batch;
    int32_t *arrays;
    lt_arena arena;
    lt_tensor m, v, sum_squares, norm, scale;
} bench;

/* What `method` trains, on a model whose rows are all trainable. */
static void add_method(bench *b)
{
    lt_err err = {0};
    lt_adapter *adapter;
    lt_adapter_config config = {.r = 8, .lora_alpha = 16, .num_virtual_tokens = 20};
    if (strncmp(b->method, "full", 4) == 0) return;
    config.use_dora = strncmp(b->method, "dora", 4) == 0;
    config.kind = strncmp(b->method, "prefix", 6) == 0   ? LT_ADAPTER_PREFIX
                  : strncmp(b->method, "prompt", 6) == 0 ? LT_ADAPTER_PROMPT
                                                         : LT_ADAPTER_LORA;
    MUST(lt_adapter_choose_targets(b->model->config.family, "all-linear", &config, &err));
    MUST(lt_adapter_create(b->model, &config, "bench", 1, &adapter, &err));
    lt_adapter_config_free(&config);
}

/* A model with random weights, in bf16 by way of a file: there is no other use for one. */
static void make_model(bench *b, lt_model_config *config)
{
    lt_err err = {0};
    MUST(lt_model_create(config, b->backend, 1, &b->model, &err));
    if (!strstr(b->method, "-bf16")) return;
    char directory[] = "/tmp/bench_train_step.XXXXXX";
    if (!mkdtemp(directory)) exit(1);
    MUST(lt_model_save(b->model, directory, LT_BF16, &err));
    lt_model_free(b->model);
    MUST(lt_model_load_as(directory, b->backend, LT_BF16, &b->model, &err));
    MUST(lt_remove_tree(directory, &err));
}

static void set_up(bench *b, const char *preset, int64_t rows, int64_t length)
{
    lt_err err = {0};
    lt_model_config config = {0};
    lt_model_shape shape = {.preset = preset,
                            .vocab_size = 50257,
                            .bos_token_id = -1,
                            .eos_token_id = -1,
                            .pad_token_id = -1};
    lt_workspace_settings settings = {.rows = rows, .length = length, .training = true};
    MUST(lt_backend_create(&(lt_backend_settings){0}, &b->backend, &err));
    time_operations(b->backend);
    MUST(lt_model_config_make(&shape, &config, &err));
    make_model(b, &config);
    add_method(b);
    MUST(lt_model_allocate_gradients(b->model, &err));
    MUST(lt_workspace_create(b->model, &settings, &b->workspace, &err));

    int64_t n = rows * length;
    uint64_t vocab = (uint64_t)b->model->config.vocab_size;
    b->arrays = calloc((size_t)n * 4, sizeof *b->arrays);
    if (!b->arrays) exit(1);
    for (int64_t i = 0; i < n; i++) {
        b->arrays[i] = (int32_t)lt_random_below(1, 1, (uint64_t)i, vocab);
        b->arrays[n + i] = (int32_t)lt_random_below(1, 2, (uint64_t)i, vocab);
        b->arrays[2 * n + i] = (int32_t)(i % length);
    }
    b->batch =
        (lt_batch){rows, length, b->arrays, b->arrays + n, b->arrays + 2 * n, b->arrays + 3 * n, n};

    int64_t count = b->model->gradient_count;
    MUST(lt_arena_reserve(&b->arena, "optimizer", 8 * (size_t)count + 65536, (lt_memory){0}, &err));
    b->m = lt_tensor_1d(lt_arena_alloc(&b->arena, (size_t)count, 4), LT_F32, count);
    b->v = lt_tensor_1d(lt_arena_alloc(&b->arena, (size_t)count, 4), LT_F32, count);
    b->sum_squares = lt_tensor_1d(lt_arena_alloc(&b->arena, 1, 8), LT_F64, 1);
    b->norm = lt_tensor_1d(lt_arena_alloc(&b->arena, 1, 4), LT_F32, 1);
    b->scale = lt_tensor_1d(lt_arena_alloc(&b->arena, 1, 4), LT_F32, 1);
}

static void update(bench *b, int64_t step)
{
    lt_err err = {0};
    lt_model *model = b->model;
    lt_tensor gradients = lt_tensor_1d(model->gradients.base, LT_F32, model->gradient_count);
    lt_clip_scale_args clip = {.sum_squares = b->sum_squares,
                               .norm = b->norm,
                               .scale = b->scale,
                               .gradient_scale = 1.0 / (double)b->batch.trained_tokens,
                               .max_norm = 1};
    *(double *)b->sum_squares.data = 0;
    MUST(lt_sum_squares(b->backend, &(lt_sum_squares_args){gradients, b->sum_squares}, &err));
    MUST(lt_clip_scale(b->backend, &clip, &err));
    for (int s = 0; s < model->segment_count; s++) {
        const lt_segment *segment = &model->segments[s];
        int64_t at = segment->gradient_offset, n = segment->count;
        void *weights = model->params[segment->first_param].weight.data;
        lt_adamw_args adamw = {.weight = lt_tensor_1d(weights, LT_F32, n),
                               .gradient = lt_tensor_slice(gradients, 0, at, n),
                               .m = lt_tensor_slice(b->m, 0, at, n),
                               .v = lt_tensor_slice(b->v, 0, at, n),
                               .scale = b->scale,
                               .learning_rate = 1e-4,
                               .beta1 = 0.9,
                               .beta2 = 0.95,
                               .epsilon = 1e-8,
                               .weight_decay = segment->decay ? 0.1 : 0,
                               .step = step};
        MUST(lt_adamw(b->backend, &adamw, &err));
    }
}

/* Products of one step: 2 operations for each weight and token forward, 2 backward for the gradient
 * of the tokens and 2 for that of a trained weight; attention 4 and 8 for each pair of query and
 * key that sees it, times the width of the heads. */
static double operations(const bench *b)
{
    const lt_model_config *c = &b->model->config;
    double tokens = (double)(b->batch.rows * b->batch.length), matrices = 0;
    for (int p = 0; p < b->model->param_count; p++) {
        const lt_param *row = &b->model->params[p];
        bool table = row->layer < 0 && !(c->tie_word_embeddings && row == b->model->params);
        double elements = (double)row->shape[0] * (double)row->shape[1];
        if (row->ndim == 2 && !table) matrices += elements * (row->trainable ? 6 : 4);
    }
    double pairs = tokens * (double)(b->batch.length + 1) / 2;
    double width = (double)(c->num_attention_heads * c->head_dim);
    return matrices * tokens + 12 * pairs * width * (double)c->num_hidden_layers;
}

static void print_shares(double total)
{
    for (;;) {
        int largest = 0;
        for (int i = 1; i < TIMED_COUNT; i++)
            if (seconds_of[i] > seconds_of[largest]) largest = i;
        if (seconds_of[largest] <= 0) return;
        printf("  %-24s %8.2f ms %5.1f %%\n", timed_names[largest], 1e3 * seconds_of[largest],
               100 * seconds_of[largest] / total);
        seconds_of[largest] = 0;
    }
}

/* Seconds of one step. */
typedef struct step_time {
    double forward; /* of an evaluation */
    double passes, update, all;
    double shares[TIMED_COUNT];
} step_time;

static int by_total(const void *a, const void *b)
{
    double left = ((const step_time *)a)->all, right = ((const step_time *)b)->all;
    return (left > right) - (left < right);
}

static step_time time_step(bench *b, int64_t step)
{
    lt_err err = {0};
    lt_loss loss = {0};
    step_time t;
    double start = bench_now();
    MUST(lt_model_evaluate(b->model, b->workspace, &b->batch, &loss, NULL, &err));
    t.forward = bench_now() - start;
    memset(seconds_of, 0, sizeof seconds_of);
    start = bench_now();
    MUST(lt_model_forward_backward(b->model, b->workspace, &b->batch, (lt_dropout_mask){0}, false,
                                   &loss, &err));
    t.passes = bench_now() - start;
    update(b, step);
    t.all = bench_now() - start;
    t.update = t.all - t.passes;
    memcpy(t.shares, seconds_of, sizeof t.shares);
    return t;
}

/* Bytes of weights, gradients and optimizer: what a method decides. */
static double state_bytes(const bench *b)
{
    return (double)(b->model->weights.used + b->model->gradients.used) +
           (b->model->adapter_count ? 4.0 * (double)b->model->gradient_count : 0) +
           (double)b->arena.used;
}

static void tear_down(bench *b)
{
    lt_workspace_free(b->workspace);
    lt_model_free(b->model);
    lt_arena_release(&b->arena);
    lt_backend_free(b->backend);
    free(b->arrays);
}

enum { MOST_STEPS = 1000 };

/* Prints the median step; returns its seconds. */
static double measure(const char *method, const char *preset, int64_t rows, int64_t length,
                      int64_t steps, double first)
{
    static step_time times[MOST_STEPS];
    bench b = {.method = method};
    set_up(&b, preset, rows, length);
    time_step(&b, 1); /* touches the memory and does not count */
    for (int64_t i = 0; i < steps; i++)
        times[i] = time_step(&b, i + 2);
    qsort(times, (size_t)steps, sizeof *times, by_total);
    step_time median = times[steps / 2];
    double tokens = (double)(rows * length);
    printf("train step %s %lldx%lld %s, %s, %d threads: %.3f s (forward %.3f, backward %.3f, "
           "update %.3f), %.0f GFLOP/s, %.0f tokens/s, %.0f MB",
           preset, (long long)rows, (long long)length, method, b.backend->name, b.backend->threads,
           median.all, median.forward, median.passes - median.forward, median.update,
           1e-9 * operations(&b) / median.passes, tokens / median.all, 1e-6 * state_bytes(&b));
    if (first > 0) printf(", %.2f of the first's time", median.all / first);
    putchar('\n');
    memcpy(seconds_of, median.shares, sizeof seconds_of);
    print_shares(median.all);
    tear_down(&b);
    return median.all;
}

int main(int argc, char **argv)
{
    const char *preset = argc > 1 ? argv[1] : "gpt2-124m";
    int64_t rows = argc > 2 ? atoll(argv[2]) : 4, length = argc > 3 ? atoll(argv[3]) : 64;
    int64_t steps = lt_max_i64(1, lt_min_i64(argc > 4 ? atoll(argv[4]) : 5, MOST_STEPS));
    double first = measure(argc > 5 ? argv[5] : "full", preset, rows, length, steps, 0);
    for (int i = 6; i < argc; i++)
        measure(argv[i], preset, rows, length, steps, first);
    return 0;
}
