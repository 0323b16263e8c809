/* Fresh weights, and tables that are rebuilt: more rows for an embedding, a head of its own. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/rng.h"
#include "model/formats/numbers.h"
#include "model/init.h"
#include "model/params.h"
#include "model/sharding.h"
#include "model/weights.h"

enum { CHUNK = 1 << 16 }; /* elements at a time: 256 KiB of f32; a multiple of 4 */

/* Element 4b + i of a tensor is number i of Philox block b: two Box-Muller pairs. */
static void four_normals(uint64_t seed, uint64_t stream, uint64_t block, double out[4])
{
    uint32_t words[4];
    lt_philox(seed, stream, block, words);
    for (int i = 0; i < 4; i += 2) {
        /* in (0, 1], so that the logarithm is finite */
        double radius = sqrt(-2 * log(((double)words[i] + 1) * 0x1p-32));
        double angle = 2 * M_PI * (double)words[i + 1] * 0x1p-32;
        out[i] = radius * cos(angle);
        out[i + 1] = radius * sin(angle);
    }
}

/* Element 4b + i: word i of block b, in [-bound, bound). */
static void four_uniforms(uint64_t seed, uint64_t stream, uint64_t block, double out[4])
{
    uint32_t words[4];
    lt_philox(seed, stream, block, words);
    for (int i = 0; i < 4; i++)
        out[i] = 2 * (double)words[i] * 0x1p-32 - 1;
}

static void draw(const lt_param *param, uint64_t seed, uint64_t stream, int64_t first,
                 int64_t count, float *out)
{
    bool random = param->init == LT_INIT_NORMAL || param->init == LT_INIT_UNIFORM;
    float constant = param->init == LT_INIT_ONE ? 1 : 0;
    for (int64_t i = 0; i < count && !random; i++)
        out[i] = constant;
    for (int64_t i = 0; i < count && random; i += 4) {
        double values[4];
        uint64_t block = (uint64_t)(first + i) / 4;
        if (param->init == LT_INIT_NORMAL)
            four_normals(seed, stream, block, values);
        else
            four_uniforms(seed, stream, block, values);
        for (int64_t k = 0; k < 4 && i + k < count; k++)
            out[i + k] = (float)(param->init_scale * values[k]);
    }
}

static lt_status fill_chunk(const lt_model *model, int index, uint64_t seed, int64_t first,
                            int64_t count, lt_err *err)
{
    const lt_param *param = &model->params[index];
    const lt_backend *backend = model->backend;
    size_t size = lt_dtype_size(backend->real);
    float *values = malloc(CHUNK * sizeof *values);
    void *staged = malloc(CHUNK * size);
    lt_status status;
    if (!values || !staged) {
        status = lt_fail_nomem(err, CHUNK * (sizeof *values + size), "initialising weights");
    } else {
        draw(param, seed, lt_rng_stream(LT_RNG_INIT, (uint64_t)index, 0), first, count, values);
        lt_numbers_from_f32(values, count, backend->real, staged);
        status = backend->upload(backend, (char *)param->weight.data + (size_t)first * size, staged,
                                 (size_t)count * size, err);
    }
    free(values);
    free(staged);
    return status;
}

lt_status lt_fill_param(const lt_model *model, int index, uint64_t seed, lt_err *err)
{
    int64_t total = lt_tensor_count(model->params[index].weight);
    int threads = model->backend->threads > 0 ? model->backend->threads : 1;
    lt_status status = LT_OK;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t first = 0; first < total; first += CHUNK) {
        lt_err own = {0};
        lt_status result =
            fill_chunk(model, index, seed, first, lt_min_i64(CHUNK, total - first), &own);
        if (result == LT_OK) continue;
#pragma omp critical
        {
            status = result;
            if (err) *err = own;
        }
    }
    return status;
}

lt_status lt_model_create(lt_model_config *config, const lt_backend *backend, uint64_t seed,
                          lt_model **out, lt_err *err)
{
    lt_status status;
    lt_model *model = NULL;
    *out = NULL;
    const lt_model_load_settings settings = {.matrices = backend->real};
    LT_TRY_GOTO(status, lt_model_new(config, backend, &settings, &model, err), done);
    LT_TRY_GOTO(status, lt_model_allocate_weights(model, err), done);
    for (int i = 0; i < model->param_count; i++)
        LT_TRY_GOTO(status, lt_fill_param(model, i, seed, err), done);

done:
    if (status != LT_OK)
        lt_model_free(model);
    else
        *out = model;
    return status;
}

/* --- Growing the vocabulary --------------------------------------------------------------------
 */

/* Rows of a matrix, or elements of a vector, that are staged at a time. */
static int64_t rows_at_once(lt_tensor t)
{
    return lt_max_i64(1, CHUNK / (t.ndim == 2 ? t.shape[1] : 1));
}

/* Copies all of `from` to the start of `to`. */
static lt_status copy_rows(const lt_backend *backend, const lt_tensor *from, const lt_tensor *to,
                           lt_err *err)
{
    size_t row_bytes = (size_t)(from->ndim == 2 ? from->shape[1] : 1) * lt_dtype_size(from->dtype);
    int64_t step = rows_at_once(*from), rows = from->shape[0];
    void *staged = malloc((size_t)step * row_bytes);
    lt_status status = LT_OK;
    if (!staged) return lt_fail_nomem(err, (size_t)step * row_bytes, "copying weights");
    for (int64_t first = 0; first < rows && status == LT_OK; first += step) {
        size_t offset = (size_t)first * row_bytes;
        size_t bytes = (size_t)lt_min_i64(step, rows - first) * row_bytes;
        status = backend->download(backend, staged, (char *)from->data + offset, bytes, err);
        if (status != LT_OK) break;
        status = backend->upload(backend, (char *)to->data + offset, staged, bytes, err);
    }
    free(staged);
    return status;
}

/* Adds each of the first rows of a matrix to `sums`. */
static lt_status sum_rows(const lt_backend *backend, lt_tensor matrix, int64_t rows, double *sums,
                          lt_err *err)
{
    int64_t columns = matrix.shape[1], step = rows_at_once(matrix);
    size_t row_bytes = (size_t)columns * lt_dtype_size(matrix.dtype);
    void *staged = malloc((size_t)step * row_bytes);
    float *values = malloc((size_t)(step * columns) * sizeof *values);
    lt_status status = LT_OK;
    if (!staged || !values) {
        status = lt_fail_nomem(err, (size_t)step * row_bytes, "new embedding rows");
        goto done;
    }
    for (int64_t first = 0; first < rows; first += step) {
        int64_t count = lt_min_i64(step, rows - first);
        const char *from = (char *)matrix.data + (size_t)first * row_bytes;
        LT_TRY_GOTO(status,
                    backend->download(backend, staged, from, (size_t)count * row_bytes, err), done);
        lt_numbers_to_f32(staged, count * columns, matrix.dtype, values);
        for (int64_t i = 0; i < count * columns; i++)
            sums[i % columns] += values[i];
    }

done:
    free(staged);
    free(values);
    return status;
}

/* The mean: the least surprising token. */
lt_status lt_fill_new_rows(const lt_backend *backend, lt_tensor matrix, int64_t old_rows,
                           lt_err *err)
{
    int64_t columns = matrix.shape[1];
    size_t row_bytes = (size_t)columns * lt_dtype_size(matrix.dtype);
    if (matrix.shape[0] <= old_rows) return LT_OK;
    lt_status status = LT_OK;
    double *sums = calloc((size_t)columns, sizeof *sums);
    float *mean = calloc((size_t)columns, sizeof *mean);
    void *staged = malloc(row_bytes);
    if (!sums || !mean || !staged) {
        status = lt_fail_nomem(err, row_bytes, "new embedding rows");
        goto done;
    }
    LT_TRY_GOTO(status, sum_rows(backend, matrix, old_rows, sums, err), done);
    for (int64_t i = 0; i < columns; i++)
        mean[i] = (float)(sums[i] / (double)old_rows);
    lt_numbers_from_f32(mean, columns, matrix.dtype, staged);
    for (int64_t row = old_rows; row < matrix.shape[0]; row++) {
        char *place = (char *)matrix.data + (size_t)row * row_bytes;
        LT_TRY_GOTO(status, backend->upload(backend, place, staged, row_bytes, err), done);
    }

done:
    free(sums);
    free(mean);
    free(staged);
    return status;
}

/* The old row that one of the new table comes from: a head that was tied, from the embedding. */
static const lt_param *source_of(const lt_model *old, const lt_param *row)
{
    const lt_param *same = lt_model_param(old, row->name);
    return same ? same : lt_model_param(old, "embed_tokens.weight");
}

/* A second table and block of weights for `config`, swapped in when all is copied. */
static lt_status rebuild(lt_model *model, const lt_model_config *config, lt_err *err)
{
    lt_model grown = {.config = *config,
                      .backend = model->backend,
                      .matrix_dtype = model->matrix_dtype,
                      .gradient_dtype = model->gradient_dtype,
                      .sharding = model->sharding,
                      .observer = model->observer};
    lt_status status;
    LT_TRY_GOTO(status, lt_params_build(&grown, err), done);
    for (int i = 0; i < grown.param_count; i++)
        grown.params[i].trainable = source_of(model, &grown.params[i])->trainable;
    LT_TRY_GOTO(status, lt_params_lay_out_gradients(&grown, err), done);
    LT_TRY_GOTO(status, lt_model_allocate_weights(&grown, err), done);
    for (int i = 0; i < grown.param_count; i++) {
        const lt_tensor *from = &source_of(model, &grown.params[i])->weight;
        const lt_tensor *to = &grown.params[i].weight;
        LT_TRY_GOTO(status, copy_rows(model->backend, from, to, err), done);
        if (to->ndim == 2)
            LT_TRY_GOTO(status, lt_fill_new_rows(model->backend, *to, from->shape[0], err), done);
    }
    grown.adapters = model->adapters;
    grown.adapter_count = model->adapter_count;
    grown.active = model->active;
    lt_model swap = *model;
    *model = grown;
    grown = swap;

done:
    lt_arena_release(&grown.weights);
    free(grown.params);
    free(grown.segments);
    free(grown.units);
    return status;
}

lt_status lt_check_vocab_growth(int64_t old, int64_t vocab_size, lt_err *err)
{
    enum { MAX_VOCAB = 1 << 22 }; /* as config.c accepts it when it is read back */
    if (vocab_size < old)
        return lt_fail(err, LT_ERR_USAGE,
                       "the vocabulary can not shrink from %lld to %lld: ids would lose their rows",
                       (long long)old, (long long)vocab_size);
    if (vocab_size > MAX_VOCAB)
        return lt_fail(err, LT_ERR_LIMIT, "a vocabulary of %lld; at most %d is supported",
                       (long long)vocab_size, MAX_VOCAB);
    return LT_OK;
}

lt_status lt_model_grow_vocab(lt_model *model, int64_t vocab_size, lt_err *err)
{
    if (vocab_size == model->config.vocab_size) return LT_OK;
    LT_TRY(lt_check_vocab_growth(model->config.vocab_size, vocab_size, err));
    if (model->gradients.base || model->param_count > model->own_param_count)
        return lt_fail(err, LT_ERR_USAGE,
                       "the vocabulary can only grow before adapters are added and memory for "
                       "gradients is allocated");
    LT_TRY(lt_check_whole(model, "its vocabulary grows as it is loaded", err));
    lt_model_config config = model->config;
    config.vocab_size = vocab_size;
    return rebuild(model, &config, err);
}

lt_status lt_model_untie(lt_model *model, lt_err *err)
{
    if (!model->config.tie_word_embeddings) return LT_OK;
    if (model->gradients.base || model->param_count > model->own_param_count)
        return lt_fail(err, LT_ERR_USAGE,
                       "a model can only be untied before adapters are added and memory for "
                       "gradients is allocated");
    LT_TRY(lt_check_whole(model, "it can not be untied", err));
    lt_model_config config = model->config;
    config.tie_word_embeddings = false;
    return rebuild(model, &config, err);
}
