/* Fresh weights, and tables that are rebuilt: more rows for an embedding, a head of its own. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/rng.h"
#include "model/formats/numbers.h"
#include "model/init.h"
#include "model/params.h"
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
    LT_TRY_GOTO(status, lt_model_new(config, backend, backend->real, &model, err), done);
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

/* Copies all of `from` and adds each of its rows of `columns` to sums. */
static lt_status copy_rows(const lt_backend *backend, const lt_tensor *from, const lt_tensor *to,
                           double *sums, lt_err *err)
{
    size_t size = lt_dtype_size(from->dtype);
    int64_t columns = from->ndim == 2 ? from->shape[1] : 1, rows = from->shape[0];
    int64_t step = lt_max_i64(1, CHUNK / columns);
    void *staged = malloc((size_t)(step * columns) * size);
    float *values = malloc((size_t)(step * columns) * sizeof *values);
    lt_status status = LT_OK;
    if (!staged || !values) {
        status = lt_fail_nomem(err, (unsigned long long)(step * columns) * size, "copying weights");
        goto done;
    }
    for (int64_t first = 0; first < rows; first += step) {
        int64_t count = lt_min_i64(step, rows - first) * columns;
        size_t offset = (size_t)(first * columns) * size, bytes = (size_t)count * size;
        LT_TRY_GOTO(status,
                    backend->download(backend, staged, (char *)from->data + offset, bytes, err),
                    done);
        LT_TRY_GOTO(status, backend->upload(backend, (char *)to->data + offset, staged, bytes, err),
                    done);
        if (!sums) continue;
        lt_numbers_to_f32(staged, count, from->dtype, values);
        for (int64_t i = 0; i < count; i++)
            sums[i % columns] += values[i];
    }

done:
    free(staged);
    free(values);
    return status;
}

/* The new rows of a grown matrix: the mean of the old ones, the least surprising token. */
static lt_status grow_matrix(const lt_backend *backend, const lt_tensor *from, const lt_tensor *to,
                             lt_err *err)
{
    int64_t columns = from->shape[1];
    size_t size = lt_dtype_size(from->dtype), row_bytes = (size_t)columns * size;
    lt_status status = LT_OK;
    double *sums = calloc((size_t)columns, sizeof *sums);
    float *mean = calloc((size_t)columns, sizeof *mean);
    void *staged = malloc(row_bytes);
    if (!sums || !mean || !staged) {
        status = lt_fail_nomem(err, row_bytes, "new embedding rows");
        goto done;
    }
    LT_TRY_GOTO(status, copy_rows(backend, from, to, sums, err), done);
    for (int64_t i = 0; i < columns; i++)
        mean[i] = (float)(sums[i] / (double)from->shape[0]);
    lt_numbers_from_f32(mean, columns, from->dtype, staged);
    for (int64_t row = from->shape[0]; row < to->shape[0]; row++) {
        char *place = (char *)to->data + (size_t)row * row_bytes;
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
                      .gradient_dtype = model->gradient_dtype};
    lt_status status;
    LT_TRY_GOTO(status, lt_params_build(&grown, err), done);
    for (int i = 0; i < grown.param_count; i++)
        grown.params[i].trainable = source_of(model, &grown.params[i])->trainable;
    LT_TRY_GOTO(status, lt_params_lay_out_gradients(&grown, err), done);
    LT_TRY_GOTO(status, lt_model_allocate_weights(&grown, err), done);
    for (int i = 0; i < grown.param_count; i++) {
        const lt_tensor *from = &source_of(model, &grown.params[i])->weight;
        const lt_tensor *to = &grown.params[i].weight;
        status = to->shape[0] > from->shape[0] ? grow_matrix(model->backend, from, to, err)
                                               : copy_rows(model->backend, from, to, NULL, err);
        if (status != LT_OK) goto done;
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
    return status;
}

lt_status lt_model_grow_vocab(lt_model *model, int64_t vocab_size, lt_err *err)
{
    enum { MAX_VOCAB = 1 << 22 }; /* as config.c accepts it when it is read back */
    int64_t old = model->config.vocab_size;
    if (vocab_size == old) return LT_OK;
    if (vocab_size < old)
        return lt_fail(err, LT_ERR_USAGE,
                       "the vocabulary can not shrink from %lld to %lld: ids would lose their rows",
                       (long long)old, (long long)vocab_size);
    if (vocab_size > MAX_VOCAB)
        return lt_fail(err, LT_ERR_LIMIT, "a vocabulary of %lld; at most %d is supported",
                       (long long)vocab_size, MAX_VOCAB);
    if (model->gradients.base || model->param_count > model->own_param_count)
        return lt_fail(err, LT_ERR_USAGE,
                       "the vocabulary can only grow before adapters are added and memory for "
                       "gradients is allocated");
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
    lt_model_config config = model->config;
    config.tie_word_embeddings = false;
    return rebuild(model, &config, err);
}
