/* Tokens a second of generating text on the GPU, in bf16 with random weights, greedily.
 *
 *     bench_gpu_decode [PRESET [ROWS [TOKENS]]]        (gpt2-124m 1 256)
 *
 * Every step reads every weight once, whatever the number of rows: so bandwidth bounds it. Prints
 * lines of bench_gpu for scripts/gpu_bench.sh: tokens a second, and the bytes of weights that are
 * read for a token. */
#include "tests/bench/bench.h"
#include "tests/bench/bench_gpu_model.h"

#define MUST(call) bench_check((call), &err)

enum { PROMPT = 32, FIRST_TIMED = 16 };

/* Of the matrices that one step reads: all but tables that are only looked up. */
static double bytes_per_step(const lt_model *model)
{
    double bytes = 0;
    for (int p = 0; p < model->param_count; p++) {
        const lt_param *row = &model->params[p];
        bool table = row->layer < 0 && !(model->config.tie_word_embeddings && p == 0);
        double size = (double)lt_dtype_size(row->weight.dtype);
        if (!table) bytes += (double)lt_tensor_count(row->weight) * size;
    }
    return bytes;
}

typedef struct progress {
    int64_t taken, rows;
    double start, end; /* of what is timed: prefill and recording are over */
} progress;

static bool take(void *context, int64_t sequence, int32_t id, bool is_stop)
{
    progress *p = context;
    (void)sequence, (void)id, (void)is_stop;
    p->taken++;
    if (p->taken == FIRST_TIMED * p->rows) p->start = bench_now();
    p->end = bench_now();
    return true;
}

int main(int argc, char **argv)
{
    lt_err err = {0};
    lt_backend *backend = NULL;
    lt_model *model = NULL;
    lt_model_config config = {0};
    const char *preset = argc > 1 ? argv[1] : "gpt2-124m";
    int64_t rows = argc > 2 ? atoll(argv[2]) : 1, tokens = argc > 3 ? atoll(argv[3]) : 256;
    lt_model_shape shape = {.preset = preset,
                            .vocab_size = bench_vocabulary(preset),
                            .bos_token_id = -1,
                            .eos_token_id = -1,
                            .pad_token_id = -1};
    lt_backend_settings machine = {.device = LT_DEVICE_CUDA, .half = true};
    MUST(lt_backend_create(&machine, &backend, &err));
    MUST(lt_model_config_make(&shape, &config, &err));
    model = bench_random_model(&config, backend);

    lt_ids *prompts = calloc((size_t)rows, sizeof *prompts);
    if (!prompts) return 1;
    for (int64_t i = 0; i < rows * PROMPT; i++)
        MUST(lt_ids_push(&prompts[i / PROMPT],
                         (int32_t)lt_random_below(1, 1, (uint64_t)i, (uint64_t)shape.vocab_size),
                         &err));
    lt_generate_settings settings = {.max_new_tokens = tokens, .max_rows = rows};
    progress p = {.rows = rows};
    MUST(lt_model_generate(model, prompts, rows, &settings, take, &p, &err));
    double each = (p.end - p.start) / (double)(p.taken - FIRST_TIMED * rows);
    printf("decode\t%s, rows: %lld\tlathe\t%.6g\ttokens/s\n", preset, (long long)rows, 1 / each);
    printf("decode\t%s, rows: %lld\twork\t%.6g\tGB/token\n", preset, (long long)rows,
           1e-9 * bytes_per_step(model) / (double)rows);
    for (int64_t r = 0; r < rows; r++)
        lt_ids_free(&prompts[r]);
    free(prompts);
    lt_model_free(model);
    lt_backend_free(backend);
    return 0;
}
