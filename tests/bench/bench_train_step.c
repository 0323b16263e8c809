/* Seconds of one training step of a model with random weights, and where they go.
 *
 *     bench_train_step [--cuda] [PRESET [ROWS [LENGTH [STEPS [METHOD ...]]]]]
 *                                                                     (gpt2-124m 4 64 5 full)
 *
 * METHOD: full, lora, dora (rank 8, all linear modules), prefix, prompt (20 virtual tokens), or one
 * of them with -bf16 behind it, for a frozen base in bf16. Prints for each the median of STEPS:
 * forward, backward, update, floating-point operations and tokens a second, memory, and, when there
 * are several, the time as a share of the first's; then the share of each operation. The operations
 * counted are products only: 6 for each parameter in matrices and token, 4 when the base is frozen,
 * plus attention.
 *
 * --cuda: on the GPU in bf16, with f32 master weights. Steps follow each other without waiting, so
 * there are no parts: tokens a second, device memory, and operations a token as MFU counts them
 * (6 N + 12 L T d; 4 N where the base is frozen), as lines of bench_gpu for scripts/gpu_bench.sh.
 */
#include <math.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "model/adapter.h"
#include "tests/bench/bench.h"
#include "tests/bench/bench_gpu_model.h"
#include "train/optimizer.h"

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
    bool cuda;
    lt_backend *backend;
    lt_model *model;
    lt_workspace *workspace;
    lt_batch batch;
    int32_t *arrays;
    lt_optimizer optimizer;
    lt_arena arena;
    lt_tensor tokens, norm;
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

/* A model with random weights; on the CPU in bf16 by way of a file: there is no other use for one.
 */
static void make_model(bench *b, lt_model_config *config)
{
    lt_err err = {0};
    if (b->cuda) {
        b->model = bench_random_model(config, b->backend);
        return;
    }
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
                            .vocab_size = bench_vocabulary(preset),
                            .bos_token_id = -1,
                            .eos_token_id = -1,
                            .pad_token_id = -1};
    lt_workspace_settings settings = {.rows = rows, .length = length, .training = true};
    lt_backend_settings machine = {.device = b->cuda ? LT_DEVICE_CUDA : LT_DEVICE_CPU,
                                   .half = b->cuda};
    MUST(lt_backend_create(&machine, &b->backend, &err));
    if (!b->cuda) time_operations(b->backend);
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
    b->batch = (lt_batch){.rows = rows,
                          .length = length,
                          .input_ids = b->arrays,
                          .targets = b->arrays + n,
                          .positions = b->arrays + 2 * n,
                          .first_key = b->arrays + 3 * n,
                          .trained_tokens = n};

    MUST(lt_optimizer_create(b->model, &(lt_optimizer_settings){0}, &b->optimizer, &err));
    MUST(lt_arena_reserve(&b->arena, "norm", 2 * LT_ARENA_ALIGNMENT, b->backend->memory, &err));
    b->norm = lt_tensor_1d(lt_arena_alloc(&b->arena, 1, 4), LT_F32, 1);
    b->tokens = lt_tensor_1d(lt_arena_alloc(&b->arena, 1, 8), LT_F64, 1);
    const double tokens = (double)n;
    MUST(b->backend->upload(b->backend, b->tokens.data, &tokens, sizeof tokens, &err));
}

static void update(bench *b, int64_t step)
{
    lt_err err = {0};
    const lt_optimizer_step settings = {.tokens = b->tokens,
                                        .learning_rate = 1e-4,
                                        .beta1 = 0.9,
                                        .beta2 = 0.95,
                                        .epsilon = 1e-8,
                                        .weight_decay = 0.1,
                                        .max_grad_norm = 1,
                                        .number = step,
                                        .norm = b->norm};
    MUST(lt_optimizer_sum_squares(&b->optimizer, b->model, &err));
    MUST(lt_optimizer_apply(&b->optimizer, &settings, &err));
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
           (double)b->optimizer.state.used;
}

static void tear_down(bench *b)
{
    lt_workspace_free(b->workspace);
    lt_optimizer_free(&b->optimizer);
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

/* --- On a GPU -----------------------------------------------------------------------------------
 */

/* Operations a token: as papers count them, with the parameters of all tables and full attention.
 */
static double operations_per_token(const bench *b)
{
    const lt_model_config *c = &b->model->config;
    double parameters = 0;
    for (int p = 0; p < b->model->own_param_count; p++)
        parameters += (double)lt_tensor_count(b->model->params[p].weight);
    return (b->model->adapter_count ? 4 : 6) * parameters +
           12 * (double)c->num_hidden_layers * (double)b->batch.length * (double)c->hidden_size;
}

/* Seconds a step, of `steps` that follow each other. */
static double time_steps(bench *b, int64_t steps, int64_t *number)
{
    lt_err err = {0};
    MUST(b->backend->synchronize(b->backend, &err));
    double start = bench_now();
    for (int64_t i = 0; i < steps; i++) {
        MUST(lt_model_forward_backward(b->model, b->workspace, &b->batch, (lt_dropout_mask){0},
                                       false, NULL, &err));
        update(b, (*number)++);
    }
    MUST(b->backend->synchronize(b->backend, &err));
    return (bench_now() - start) / (double)steps;
}

static void measure_cuda(const char *method, const char *preset, int64_t rows, int64_t length,
                         int64_t steps)
{
    enum { SAMPLES = 3 };
    lt_err err = {0};
    lt_loss loss = {0};
    lt_backend *empty = NULL;
    bench b = {.method = method, .cuda = true};
    MUST(lt_backend_create(&(lt_backend_settings){.device = LT_DEVICE_CUDA}, &empty, &err));
    double before = (double)empty->available_memory(empty), seconds[SAMPLES];
    set_up(&b, preset, rows, length);
    int64_t number = 1;
    time_steps(&b, 3, &number);
    for (int i = 0; i < SAMPLES; i++)
        seconds[i] = time_steps(&b, steps, &number);
    double low = fmin(seconds[0], seconds[1]), high = fmax(seconds[0], seconds[1]);
    double median = fmax(low, fmin(high, seconds[2]));
    double memory = before - (double)b.backend->available_memory(b.backend);
    MUST(lt_workspace_take_loss(b.workspace, &loss, &err));
    if (!isfinite(loss.sum)) {
        fprintf(stderr, "%s: the loss is not finite\n", preset);
        exit(1);
    }
    char name[128];
    snprintf(name, sizeof name, "%s %s %lldx%lld", preset, method, (long long)rows,
             (long long)length);
    printf("train\t%s\tlathe\t%.6g\ttokens/s\n", name, (double)(rows * length) / median);
    printf("train\t%s\tlathe\t%.6g\tGB\n", name, 1e-9 * memory);
    printf("train\t%s\twork\t%.6g\tGFLOP/token\n", name, 1e-9 * operations_per_token(&b));
    tear_down(&b);
    lt_backend_free(empty);
}

int main(int argc, char **argv)
{
    bool cuda = argc > 1 && strcmp(argv[1], "--cuda") == 0;
    argv += cuda;
    argc -= cuda;
    const char *preset = argc > 1 ? argv[1] : "gpt2-124m";
    int64_t rows = argc > 2 ? atoll(argv[2]) : 4, length = argc > 3 ? atoll(argv[3]) : 64;
    int64_t steps = lt_max_i64(1, lt_min_i64(argc > 4 ? atoll(argv[4]) : 5, MOST_STEPS));
    for (int i = 5; cuda && i < lt_max_i64(argc, 6); i++)
        measure_cuda(i < argc ? argv[i] : "full", preset, rows, length, steps);
    if (cuda) return 0;
    double first = measure(argc > 5 ? argv[5] : "full", preset, rows, length, steps, 0);
    for (int i = 6; i < argc; i++)
        measure(argv[i], preset, rows, length, steps, first);
    return 0;
}
