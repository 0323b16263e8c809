/* Weights from a Hugging Face directory: every row of the parameter table is found under the
 * family's name for it, checked, and converted from the memory map to the backend's real. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/formats/gguf.h"
#include "model/formats/hf_directory.h"
#include "model/formats/layout.h"
#include "model/formats/numbers.h"
#include "model/formats/weight_files.h"
#include "model/gguf_model.h"
#include "model/weights.h"

/* A row of the table, with the tensors it comes from. */
typedef struct source {
    const lt_param *param;
    lt_param_layout layout;
    const lt_safetensors *files[LT_MAX_PARTS];
    const lt_safetensors_entry *entries[LT_MAX_PARTS];
} source;

/* --- Finding -----------------------------------------------------------------------------------
 */

/* By its full name, or without the family's prefix: files of a base model, and the original GPT-2,
 * lack it. */
static bool take_tensor(lt_weight_files *files, const lt_family *family, const char *name,
                        const lt_safetensors **file, const lt_safetensors_entry **entry)
{
    if (lt_weight_files_take(files, name, file, entry)) return true;
    size_t prefix = strlen(family->prefix);
    return strncmp(name, family->prefix, prefix) == 0 &&
           lt_weight_files_take(files, name + prefix, file, entry);
}

static lt_status check_shape(const source *s, int part, const char *directory, lt_err *err)
{
    int64_t expected[2];
    int ndim = lt_layout_file_shape(&s->layout, s->param, part, expected);
    const lt_safetensors_entry *entry = s->entries[part];
    if (entry->ndim == ndim && memcmp(entry->shape, expected, (size_t)ndim * sizeof *expected) == 0)
        return LT_OK;
    char have[200], want[64];
    lt_shape_text(entry->ndim, entry->shape, have, sizeof have);
    lt_shape_text(ndim, expected, want, sizeof want);
    return lt_fail(err, LT_ERR_FORMAT,
                   "%s: tensor \"%.200s\" has shape %s, but %s/config.json asks for %s",
                   s->files[part]->path, entry->name, have, directory, want);
}

/* `vocab`: of the files. */
static lt_status find_source(lt_weight_files *files, const lt_model *model, int64_t vocab,
                             const char *directory, const lt_param *param, source *out, lt_err *err)
{
    const lt_family *family = model->config.family;
    lt_param stored = lt_param_in_file(param, vocab);
    *out = (source){.param = param, .layout = lt_param_layout_of(&model->config, &stored)};
    for (int part = 0; part < out->layout.parts; part++) {
        char name[LT_FILE_NAME_SIZE];
        lt_layout_file_name(&out->layout, part, name);
        bool found = take_tensor(files, family, name, &out->files[part], &out->entries[part]);
        if (!found && model->config.tie_word_embeddings &&
            strcmp(param->name, "embed_tokens.weight") == 0) {
            /* tied weights may be stored under either name */
            const char *head = lt_family_find_row(family, "lm_head.weight")->files[0];
            found = take_tensor(files, family, head, &out->files[part], &out->entries[part]);
        }
        if (!found)
            return lt_fail(err, LT_ERR_FORMAT, "%s: tensor \"%s\" is missing",
                           files->count == 1 ? files->files[0].path : directory, name);
        LT_TRY(check_shape(out, part, directory, err));
        /* reading nothing checks the type */
        LT_TRY(lt_safetensors_read_f32(out->files[part], out->entries[part], 0, 0, NULL, err));
    }
    return LT_OK;
}

/* A tied model's file may repeat the embedding as the head, but not hold another one. */
static lt_status check_tied_head(lt_weight_files *files, const lt_model *model,
                                 const source *embedding, lt_err *err)
{
    if (!model->config.tie_word_embeddings) return LT_OK;
    const lt_family *family = model->config.family;
    const char *name = lt_family_find_row(family, "lm_head.weight")->files[0];
    const lt_safetensors *file;
    const lt_safetensors_entry *head, *tokens = embedding->entries[0];
    if (!take_tensor(files, family, name, &file, &head) || head == tokens) return LT_OK;
    if (strcmp(head->dtype, tokens->dtype) == 0 && head->size == tokens->size &&
        memcmp(head->data, tokens->data, head->size) == 0)
        return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT,
                   "%s: tensor \"%s\" differs from \"%s\", but config.json says they are tied; set "
                   "tie_word_embeddings to false there to use both",
                   file->path, head->name, tokens->name);
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* Whatever was not asked for must be a known buffer: nothing is dropped silently. */
static lt_status check_leftovers(const lt_weight_files *files, const lt_family *family, lt_err *err)
{
    for (size_t i = 0; i < files->count; i++) {
        for (size_t k = 0; k < files->files[i].count; k++) {
            if (files->used[i][k]) continue;
            const char *name = files->files[i].entries[k].name;
            bool ignored = false;
            for (const char *const *end = family->ignored; *end; end++)
                ignored |= ends_with(name, *end);
            if (!ignored)
                return lt_fail(err, LT_ERR_FORMAT,
                               "%s: tensor \"%.200s\" does not belong to a model of family %s with "
                               "this config.json",
                               files->files[i].path, name, family->name);
        }
    }
    return LT_OK;
}

static lt_status find_all(lt_weight_files *files, const lt_model *model, int64_t vocab,
                          const char *directory, source *sources, lt_err *err)
{
    for (int i = 0; i < model->param_count; i++)
        LT_TRY(find_source(files, model, vocab, directory, &model->params[i], &sources[i], err));
    LT_TRY(check_tied_head(files, model, &sources[0], err));
    return check_leftovers(files, model->config.family, err);
}

/* --- Converting --------------------------------------------------------------------------------
 */

/* Some rows of a source: the unit of parallel work. */
typedef struct chunk {
    const source *source;
    int64_t first, count;
} chunk;

static lt_status list_chunks(const source *sources, int source_count, chunk **out, size_t *count,
                             lt_err *err)
{
    size_t total = 0;
    for (int i = 0; i < source_count; i++) {
        int64_t rows = lt_layout_chunk_rows(&sources[i].layout);
        total += (size_t)((sources[i].layout.rows + rows - 1) / rows);
    }
    *count = 0;
    *out = calloc(total + 1, sizeof **out);
    if (!*out) return lt_fail_nomem(err, total * sizeof **out, "the loading plan");
    for (int i = 0; i < source_count; i++) {
        int64_t rows = lt_layout_chunk_rows(&sources[i].layout);
        for (int64_t first = 0; first < sources[i].layout.rows; first += rows)
            (*out)[(*count)++] =
                (chunk){&sources[i], first, lt_min_i64(rows, sources[i].layout.rows - first)};
    }
    return LT_OK;
}

/* Straight from the memory map, as far as the file has them as they are wanted. *done: rows. */
static lt_status copy_chunk(const lt_backend *backend, const chunk *c, int64_t *done, lt_err *err)
{
    const source *s = c->source;
    lt_dtype dtype = s->param->dtype;
    size_t row_bytes = (size_t)s->layout.columns * lt_dtype_size(dtype);
    int64_t run;
    for (*done = 0; *done < c->count; *done += run) {
        int64_t first = c->first + *done;
        const void *from =
            lt_layout_in_place(&s->layout, s->entries, dtype, first, c->count - *done, &run);
        if (!from) return LT_OK;
        char *to = (char *)s->param->weight.data + (size_t)first * row_bytes;
        LT_TRY(backend->upload(backend, to, from, (size_t)run * row_bytes, err));
    }
    return LT_OK;
}

static lt_status convert_chunk(const lt_backend *backend, const chunk *whole, lt_err *err)
{
    int64_t done;
    LT_TRY(copy_chunk(backend, whole, &done, err));
    if (done == whole->count) return LT_OK;
    const chunk rest = {whole->source, whole->first + done, whole->count - done}, *c = &rest;
    const source *s = c->source;
    int64_t count = c->count * s->layout.columns;
    lt_dtype dtype = s->param->dtype;
    size_t size = lt_dtype_size(dtype);
    char *to = (char *)s->param->weight.data + (size_t)(c->first * s->layout.columns) * size;
    lt_status status;
    float *values = malloc((size_t)count * sizeof *values);
    void *staged = dtype == LT_F32 ? values : malloc((size_t)count * size);
    if (!values || !staged) {
        status = lt_fail_nomem(err, (unsigned long long)count * size, "converting weights");
        goto done;
    }
    LT_TRY_GOTO(status,
                lt_layout_read(&s->layout, s->files, s->entries, c->first, c->count, values, err),
                done);
    if (staged != values) lt_numbers_from_f32(values, count, dtype, staged);
    status = backend->upload(backend, to, staged, (size_t)count * size, err);

done:
    if (staged != values) free(staged);
    free(values);
    return status;
}

static lt_status convert_all(const lt_backend *backend, const source *sources, int source_count,
                             lt_err *err)
{
    chunk *chunks = NULL;
    size_t count = 0;
    lt_status status = list_chunks(sources, source_count, &chunks, &count, err);
    if (status != LT_OK) return status;
#pragma omp parallel for schedule(dynamic) num_threads(backend->threads > 0 ? backend->threads : 1)
    for (size_t i = 0; i < count; i++) {
        lt_err own = {0};
        lt_status result = convert_chunk(backend, &chunks[i], &own);
        if (result == LT_OK) continue;
#pragma omp critical
        {
            status = result;
            if (err) *err = own;
        }
    }
    free(chunks);
    return status;
}

/* A model without memory, the opened files, and where in them each of its rows is. */
typedef struct loading {
    lt_model *model;
    lt_weight_files files;
    source *sources;
    int64_t vocab; /* of the files */
} loading;

static void loading_free(loading *l)
{
    free(l->sources);
    lt_weight_files_close(&l->files);
    lt_model_free(l->model);
}

/* Everything that can be found wrong without memory for the weights. */
static lt_status loading_begin(const char *directory, const lt_backend *backend,
                               const lt_model_load_settings *settings, loading *out, lt_err *err)
{
    *out = (loading){0};
    lt_model_config config = {0};
    LT_TRY(lt_model_config_load(directory, &config, err));
    out->vocab = config.vocab_size;
    LT_TRY(lt_model_new(&config, backend, settings, &out->model, err));
    lt_status status;
    LT_TRY_GOTO(status, lt_weight_files_open(directory, &out->files, err), done);
    out->sources = calloc((size_t)out->model->param_count, sizeof *out->sources);
    if (!out->sources) {
        status = lt_fail_nomem(err, (size_t)out->model->param_count * sizeof *out->sources,
                               "the loading plan");
        goto done;
    }
    status = find_all(&out->files, out->model, out->vocab, directory, out->sources, err);

done:
    if (status != LT_OK) loading_free(out);
    return status;
}

lt_status lt_model_check_directory(const char *directory, int64_t *parameters, lt_err *err)
{
    loading l;
    LT_TRY(loading_begin(directory, NULL, &(lt_model_load_settings){.matrices = LT_F32}, &l, err));
    *parameters = lt_model_parameter_count(l.model, false);
    loading_free(&l);
    return LT_OK;
}

lt_status lt_model_load(const char *directory, const lt_backend *backend, lt_model **out,
                        lt_err *err)
{
    return lt_model_load_as(directory, backend, backend->real, out, err);
}

lt_status lt_model_load_as(const char *directory, const lt_backend *backend, lt_dtype matrices,
                           lt_model **out, lt_err *err)
{
    const lt_model_load_settings settings = {.matrices = matrices};
    return lt_model_load_with(directory, backend, &settings, out, err);
}

/* The sources point to the model's rows, which have memory when this is called. */
static lt_status read_rows(const void *context, int first, int count, lt_err *err)
{
    const loading *l = context;
    return convert_all(l->model->backend, l->sources + first, count, err);
}

lt_status lt_model_load_with(const char *directory, const lt_backend *backend,
                             const lt_model_load_settings *settings, lt_model **out, lt_err *err)
{
    *out = NULL;
    if (lt_is_gguf_file(directory))
        return lt_model_load_gguf(directory, backend, settings, out, err);
    loading l;
    LT_TRY(loading_begin(directory, backend, settings, &l, err));
    lt_status status = lt_model_read_weights(l.model, l.vocab, read_rows, &l, err);
    if (status == LT_OK) {
        *out = l.model;
        l.model = NULL;
    }
    loading_free(&l);
    return status;
}
