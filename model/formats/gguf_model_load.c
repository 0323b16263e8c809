/* Weights from a GGUF file: every row of the parameter table is found under llama.cpp's name for
 * it, checked, decoded and converted to the backend's real. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/formats/gguf_layout.h"
#include "model/formats/layout.h"
#include "model/formats/numbers.h"
#include "model/formats/quants.h"
#include "model/formats/safetensors.h"
#include "model/weights.h"

/* A row of the table, with the tensors it comes from. */
typedef struct source {
    const lt_param *param;
    int count;
    lt_gguf_part parts[LT_MAX_PARTS];
    const lt_gguf_tensor *tensors[LT_MAX_PARTS];
} source;

/* --- Finding -----------------------------------------------------------------------------------
 */

static lt_status check_tensor(const lt_gguf *file, const source *s, int part, lt_err *err)
{
    const lt_gguf_tensor *tensor = s->tensors[part];
    const int64_t wanted[] = {s->parts[part].rows, s->parts[part].columns};
    int ndim = s->param->ndim;
    if (!lt_gguf_type_name(tensor->type))
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: tensor \"%s\" is of type %u of ggml, which is not supported (F32, F16, "
                       "BF16, Q8_0, Q6_K, Q5_0, Q4_K and Q4_0 are)",
                       file->path, tensor->name, (unsigned)tensor->type);
    if (tensor->ndim != ndim || memcmp(tensor->shape, wanted, (size_t)ndim * sizeof *wanted) != 0) {
        char have[100], want[64];
        lt_shape_text(tensor->ndim, tensor->shape, have, sizeof have);
        lt_shape_text(ndim, wanted, want, sizeof want);
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: tensor \"%s\" has shape %s, but its key-values ask for %s", file->path,
                       tensor->name, have, want);
    }
    if (ndim == 1 && lt_gguf_block_values(tensor->type) != 1)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: tensor \"%s\" is a quantised vector",
                       file->path, tensor->name);
    return LT_OK;
}

static lt_status find_source(const lt_gguf *file, const lt_model *model, const lt_param *param,
                             int64_t vocab, bool *used, source *out, lt_err *err)
{
    lt_param stored = lt_param_in_file(param, vocab);
    *out = (source){.param = param};
    out->count = lt_gguf_parts_of(&model->config, &stored, out->parts);
    for (int part = 0; part < out->count; part++) {
        out->tensors[part] = lt_gguf_find(file, out->parts[part].name);
        if (!out->tensors[part])
            return lt_fail(err, LT_ERR_FORMAT, "%s: tensor \"%s\" is missing", file->path,
                           out->parts[part].name);
        used[out->tensors[part] - file->tensors] = true;
        LT_TRY(check_tensor(file, out, part, err));
    }
    return LT_OK;
}

/* Nothing is dropped silently. */
static lt_status check_leftovers(const lt_gguf *file, const lt_model *model, const bool *used,
                                 lt_err *err)
{
    for (size_t i = 0; i < file->tensor_count; i++) {
        const char *name = file->tensors[i].name;
        bool is_rope =
            model->config.rope_type == LT_ROPE_LLAMA3 && strcmp(name, LT_GGUF_ROPE_FREQS) == 0;
        if (!used[i] && !is_rope)
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: tensor \"%s\" does not belong to a model of family %s with these "
                           "key-values",
                           file->path, name, model->config.family->name);
    }
    return LT_OK;
}

static lt_status find_all(const lt_gguf *file, const lt_model *model, int64_t vocab, source **out,
                          lt_err *err)
{
    lt_status status = LT_OK;
    size_t rows = (size_t)model->param_count;
    bool *used = calloc(file->tensor_count + 1, sizeof *used);
    *out = calloc(rows + 1, sizeof **out);
    if (!used || !*out) {
        status = lt_fail_nomem(err, rows * sizeof **out, "the loading plan");
        goto done;
    }
    for (size_t i = 0; i < rows; i++)
        LT_TRY_GOTO(status,
                    find_source(file, model, &model->params[i], vocab, used, &(*out)[i], err),
                    done);
    status = check_leftovers(file, model, used, err);

done:
    free(used);
    return status;
}

/* --- Converting --------------------------------------------------------------------------------
 */

/* Canonical rows [first, first + count) of one part; a row at a time where the file has another
 * order. */
static void decode_rows(const source *s, int part, int64_t first, int64_t count, float *out)
{
    const lt_gguf_tensor *tensor = s->tensors[part];
    const lt_gguf_part *p = &s->parts[part];
    size_t row_bytes = lt_gguf_row_bytes(tensor->type, p->columns);
    int64_t run = p->turned > 0 ? 1 : count;
    for (int64_t i = 0; i < count; i += run) {
        size_t place = (size_t)lt_gguf_file_row(p, first + i) * row_bytes;
        lt_gguf_decode(tensor->type, tensor->data + place, run * p->columns, out + i * p->columns);
    }
}

/* Row `first` and those after it, where the file has the very bytes that memory will have. */
static const void *stored_rows(const source *s, int part, int64_t first, lt_dtype dtype)
{
    const lt_gguf_tensor *tensor = s->tensors[part];
    const lt_gguf_part *p = &s->parts[part];
    bool same = (dtype == LT_F32 && tensor->type == LT_GGUF_F32) ||
                (dtype == LT_BF16 && tensor->type == LT_GGUF_BF16);
    size_t place = (size_t)first * lt_gguf_row_bytes(tensor->type, p->columns);
    return same && p->turned == 0 ? tensor->data + place : NULL;
}

/* Some rows of a part, all the way to the device. */
static lt_status convert_rows(const lt_backend *backend, const source *s, int part, int64_t first,
                              int64_t count, lt_err *err)
{
    lt_status status;
    lt_dtype dtype = s->param->dtype;
    int64_t columns = s->parts[part].columns, elements = count * columns;
    size_t size = lt_dtype_size(dtype);
    char *to = (char *)s->param->weight.data +
               (size_t)((s->parts[part].first_row + first) * columns) * size;
    const void *stored = stored_rows(s, part, first, dtype);
    if (stored) return backend->upload(backend, to, stored, (size_t)elements * size, err);
    float *values = malloc((size_t)elements * sizeof *values);
    void *converted = dtype == LT_F32 ? values : malloc((size_t)elements * size);
    if (!values || !converted) {
        status = lt_fail_nomem(err, (unsigned long long)elements * (sizeof *values + size),
                               "converting weights");
        goto done;
    }
    decode_rows(s, part, first, count, values);
    if (converted != values) lt_numbers_from_f32(values, elements, dtype, converted);
    status = backend->upload(backend, to, converted, (size_t)elements * size, err);

done:
    if (converted != values) free(converted);
    free(values);
    return status;
}

static lt_status convert_part(const lt_backend *backend, const source *s, int part, lt_err *err)
{
    enum { CHUNK_VALUES = 1 << 18 };
    int64_t rows = s->parts[part].rows;
    int64_t step = lt_max_i64(1, CHUNK_VALUES / s->parts[part].columns);
    int threads = backend->threads > 0 ? backend->threads : 1;
    lt_status status = LT_OK;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t first = 0; first < rows; first += step) {
        lt_err own = {0};
        lt_status result =
            convert_rows(backend, s, part, first, lt_min_i64(step, rows - first), &own);
        if (result == LT_OK) continue;
#pragma omp critical
        {
            status = result;
            if (err) *err = own;
        }
    }
    return status;
}

/* --- Models ------------------------------------------------------------------------------------
 */

/* A model without memory, and where in the file each of its rows is. */
typedef struct loading {
    lt_model *model;
    source *sources;
    int64_t vocab; /* of the file */
} loading;

static void loading_free(loading *l)
{
    free(l->sources);
    lt_model_free(l->model);
}

/* Everything that can be found wrong without memory for the weights. */
static lt_status begin(const lt_gguf *file, const lt_backend *backend,
                       const lt_model_load_settings *settings, loading *out, lt_err *err)
{
    lt_model_config config = {0};
    *out = (loading){0};
    LT_TRY(lt_gguf_read_config(file, &config, err));
    out->vocab = config.vocab_size;
    LT_TRY(lt_model_new(&config, backend, settings, &out->model, err));
    return find_all(file, out->model, out->vocab, &out->sources, err);
}

lt_status lt_gguf_check_model(const lt_gguf *file, lt_model_config *config, int64_t *parameters,
                              lt_err *err)
{
    loading l;
    memset(config, 0, sizeof *config);
    lt_status status = begin(file, NULL, &(lt_model_load_settings){.matrices = LT_F32}, &l, err);
    if (status == LT_OK) {
        *parameters = lt_model_parameter_count(l.model, false);
        *config = l.model->config;
        memset(&l.model->config, 0, sizeof l.model->config);
    }
    loading_free(&l);
    return status;
}

static lt_status read_rows(const void *context, int first, int count, lt_err *err)
{
    const loading *l = context;
    for (int i = first; i < first + count; i++)
        for (int part = 0; part < l->sources[i].count; part++)
            LT_TRY(convert_part(l->model->backend, &l->sources[i], part, err));
    return LT_OK;
}

lt_status lt_model_load_gguf(const char *path, const lt_backend *backend,
                             const lt_model_load_settings *settings, lt_model **out, lt_err *err)
{
    lt_status status;
    lt_gguf file = {0};
    loading l = {0};
    *out = NULL;
    LT_TRY(lt_gguf_open(path, &file, err));
    LT_TRY_GOTO(status, begin(&file, backend, settings, &l, err), done);
    LT_TRY_GOTO(status, lt_model_read_weights(l.model, l.vocab, read_rows, &l, err), done);
    *out = l.model;
    l.model = NULL;

done:
    loading_free(&l);
    lt_gguf_close(&file);
    return status;
}
