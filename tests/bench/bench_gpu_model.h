/* Models of the true shapes with random weights, on a GPU, in seconds. */
#ifndef LT_TESTS_BENCH_GPU_MODEL_H
#define LT_TESTS_BENCH_GPU_MODEL_H

#include "base/checked.h"
#include "model/formats/numbers.h"
#include "model/weights.h"
#include "tests/bench/bench.h"

enum { BENCH_ROUND = 1 << 20 /* elements */ };

static inline int64_t bench_vocabulary(const char *preset)
{
    return strncmp(preset, "llama-2-", 8) == 0 ? 32000 : 50257;
}

/* `value` where `random` is NULL, else the random numbers times it, over and over. */
static inline void bench_fill_row(const lt_backend *backend, const lt_param *row,
                                  const float *random, float value, float *values, char *staged)
{
    lt_err err = {0};
    size_t size = lt_dtype_size(backend->real);
    int64_t total = lt_tensor_count(row->weight);
    for (int64_t i = 0; i < BENCH_ROUND; i++)
        values[i] = random ? value * random[i] : value;
    lt_numbers_from_f32(values, BENCH_ROUND, backend->real, staged);
    for (int64_t at = 0; at < total; at += BENCH_ROUND)
        bench_check(backend->upload(backend, (char *)row->weight.data + (size_t)at * size, staged,
                                    (size_t)lt_min_i64(BENCH_ROUND, total - at) * size, &err),
                    &err);
}

/* Not by lt_model_create: drawing 7 billion numbers on the host would take minutes. Takes over
 * `config`. */
static inline lt_model *bench_random_model(lt_model_config *config, const lt_backend *backend)
{
    lt_err err = {0};
    lt_model *model = NULL;
    float *random = bench_random(BENCH_ROUND, 5), *values = bench_random(BENCH_ROUND, 5);
    char *staged = malloc(BENCH_ROUND * sizeof(float));
    if (!staged) exit(1);
    const lt_model_load_settings settings = {.matrices = backend->real};
    bench_check(lt_model_new(config, backend, &settings, &model, &err), &err);
    bench_check(lt_model_allocate_weights(model, &err), &err);
    for (int p = 0; p < model->param_count; p++) {
        const lt_param *row = &model->params[p];
        bool constant = row->init == LT_INIT_ONE || row->init == LT_INIT_ZERO;
        float value = row->init == LT_INIT_ONE ? 1 : (float)row->init_scale;
        if (row->init == LT_INIT_ZERO) value = 0;
        bench_fill_row(backend, row, constant ? NULL : random, value, values, staged);
    }
    free(staged);
    free(values);
    free(random);
    return model;
}

#endif
