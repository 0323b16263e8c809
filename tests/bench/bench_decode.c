/* Tokens a second of decoding with a cache, against what reading the weights once for each token
 * allows.
 *
 *     bench_decode [PRESET [ROWS [TOKENS]]]        (gpt2-124m 1 64)
 *
 * Decoding one row reads every weight once per token, so bytes a second close to the measured read
 * bandwidth is all that can be had; more rows share the reading. */
#include "base/checked.h"
#include "model/model.h"
#include "tests/bench/bench.h"

#define MUST(call) bench_check((call), &err)

/* Bytes a second of summing `count` numbers with all threads; the best of some passes. */
static double read_bandwidth(const float *data, int64_t count)
{
    double best = 1e30;
    volatile float sink;
    for (int pass = 0; pass < 5; pass++) {
        double start = bench_now();
        float total = 0;
#pragma omp parallel for reduction(+ : total) schedule(static)
        for (int64_t block = 0; block < count / 4096; block++) {
            float sums[64] = {0}; /* independent chains, so that memory is what limits */
            for (int64_t i = 0; i < 4096; i += 64)
                for (int64_t k = 0; k < 64; k++)
                    sums[k] += data[block * 4096 + i + k];
            for (int64_t k = 0; k < 64; k++)
                total += sums[k];
        }
        sink = total;
        (void)sink;
        if (bench_now() - start < best) best = bench_now() - start;
    }
    return (double)(count / 4096 * 4096) * sizeof(float) / best;
}

/* Bytes of weights that one step reads: every matrix but tables that are only looked up. */
static double bytes_per_step(const lt_model *model)
{
    double bytes = 0;
    for (int p = 0; p < model->param_count; p++) {
        const lt_param *row = &model->params[p];
        bool table = row->layer < 0 && !(model->config.tie_word_embeddings && p == 0);
        if (!table) bytes += (double)lt_tensor_count(row->weight) * sizeof(float);
    }
    return bytes;
}

int main(int argc, char **argv)
{
    lt_err err = {0};
    lt_backend *backend = NULL;
    lt_model *model = NULL;
    lt_workspace *workspace = NULL;
    lt_kv_cache *cache = NULL;
    lt_model_config config = {0};
    lt_model_shape shape = {.preset = argc > 1 ? argv[1] : "gpt2-124m",
                            .vocab_size = 50257,
                            .bos_token_id = -1,
                            .eos_token_id = -1,
                            .pad_token_id = -1};
    int64_t rows = argc > 2 ? atoll(argv[2]) : 1, steps = argc > 3 ? atoll(argv[3]) : 64;
    int64_t prompt = 32;
    MUST(lt_backend_create(&(lt_backend_settings){0}, &backend, &err));
    MUST(lt_model_config_make(&shape, &config, &err));
    MUST(lt_model_create(&config, backend, 1, &model, &err));
    lt_workspace_settings settings = {.rows = rows, .length = prompt, .head_chunk = rows};
    MUST(lt_workspace_create(model, &settings, &workspace, &err));
    MUST(lt_kv_cache_create(model, rows, prompt + steps, &cache, &err));

    int64_t vocab = model->config.vocab_size;
    int32_t *ids = calloc((size_t)(rows * prompt), sizeof *ids);
    int64_t *counts = calloc((size_t)rows, sizeof *counts);
    float *logits = calloc((size_t)(rows * vocab), sizeof *logits);
    if (!ids || !counts || !logits) return 1;
    for (int64_t i = 0; i < rows * prompt; i++)
        ids[i] = (int32_t)lt_random_below(1, 1, (uint64_t)i, (uint64_t)vocab);
    for (int64_t r = 0; r < rows; r++)
        counts[r] = prompt;
    MUST(lt_model_decode(model, workspace, cache, ids, counts, prompt, logits, &err)); /* warm up */
    for (int64_t r = 0; r < rows; r++)
        lt_kv_cache_truncate(cache, r, 0);
    double start = bench_now();
    MUST(lt_model_decode(model, workspace, cache, ids, counts, prompt, logits, &err));
    double prefill = bench_now() - start;
    for (int64_t r = 0; r < rows; r++)
        counts[r] = 1;
    start = bench_now();
    for (int64_t i = 0; i < steps; i++)
        MUST(lt_model_decode(model, workspace, cache, ids, counts, 1, logits, &err));
    double each = (bench_now() - start) / (double)steps;
    double bandwidth = read_bandwidth((const float *)model->weights.base, model->weight_count);
    double bytes = bytes_per_step(model) / each;
    printf("decode %s, %lld rows, %s, %d threads: %.1f tokens/s, weights read at %.1f of %.1f GB/s "
           "(%.0f %%), prefill %.0f tokens/s\n",
           shape.preset, (long long)rows, backend->name, backend->threads, (double)rows / each,
           1e-9 * bytes, 1e-9 * bandwidth, 100 * bytes / bandwidth,
           (double)(rows * prompt) / prefill);
    free(ids);
    free(counts);
    free(logits);
    lt_kv_cache_free(cache);
    lt_workspace_free(workspace);
    lt_model_free(model);
    lt_backend_free(backend);
    return 0;
}
