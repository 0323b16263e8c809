/* A model to a GGUF file: every row of the parameter table as llama.cpp's tensors, in the types
 * that the format of the file asks for. */
#include <stdlib.h>
#include <string.h>

#include "model/formats/gguf_layout.h"
#include "model/formats/quants.h"

enum { QUANTIZATION_VERSION = 2 };

/* What lt_gguf_write's tensors are made of; a part without a row is rope_freqs.weight. */
typedef struct saver {
    const lt_model *model;
    lt_gguf_part *parts;
    lt_gguf_declaration *tensors;
    size_t count;
} saver;

/* --- Tensors -----------------------------------------------------------------------------------
 */

static void declare(saver *s, const lt_gguf_part *part, lt_gguf_type type, int ndim)
{
    lt_gguf_declaration *t = &s->tensors[s->count];
    *t = (lt_gguf_declaration){.type = type, .ndim = ndim, .shape = {part->rows, part->columns}};
    memcpy(t->name, part->name, sizeof t->name);
    s->parts[s->count++] = *part;
}

static void declare_rope_freqs(saver *s)
{
    const lt_model_config *config = &s->model->config;
    lt_gguf_part part = {.name = LT_GGUF_ROPE_FREQS, .rows = config->rotary_dim / 2, .columns = 1};
    if (config->rope_type == LT_ROPE_LLAMA3) declare(s, &part, LT_GGUF_F32, 1);
}

/* GPT-NeoX's architecture has an output of its own in any case. */
static bool repeats_embedding(const lt_model_config *config)
{
    return config->tie_word_embeddings && config->family == &lt_family_gpt_neox;
}

static lt_status declare_row(saver *s, const lt_param *param, lt_gguf_format format,
                             lt_buffer *notes, lt_err *err)
{
    const lt_model_config *config = &s->model->config;
    bool tied = config->tie_word_embeddings && !repeats_embedding(config);
    lt_gguf_part parts[LT_MAX_PARTS];
    int count = lt_gguf_parts_of(config, param, parts);
    for (int i = 0; i < count; i++) {
        lt_gguf_type type;
        LT_TRY(lt_gguf_choose_type(config, format, &parts[i], tied, &type, notes, err));
        declare(s, &parts[i], type, param->ndim);
    }
    return LT_OK;
}

static lt_status declare_head_again(saver *s, lt_gguf_format format, lt_buffer *notes, lt_err *err)
{
    lt_gguf_part part = s->parts[0]; /* the embedding is the table's first row */
    lt_gguf_type type;
    memcpy(part.name, "output.weight", sizeof "output.weight");
    LT_TRY(lt_gguf_choose_type(&s->model->config, format, &part, false, &type, notes, err));
    declare(s, &part, type, 2);
    return LT_OK;
}

static lt_status declare_all(saver *s, lt_gguf_format format, lt_buffer *notes, lt_err *err)
{
    size_t capacity = (size_t)s->model->own_param_count * LT_MAX_PARTS + 2;
    s->parts = calloc(capacity, sizeof *s->parts);
    s->tensors = calloc(capacity, sizeof *s->tensors);
    if (!s->parts || !s->tensors)
        return lt_fail_nomem(err, capacity * sizeof *s->tensors, "the list of tensors");
    for (int i = 0; i < s->model->own_param_count; i++)
        LT_TRY(declare_row(s, &s->model->params[i], format, notes, err));
    if (repeats_embedding(&s->model->config)) LT_TRY(declare_head_again(s, format, notes, err));
    declare_rope_freqs(s);
    return LT_OK;
}

/* lt_gguf_source. A vector is one row there, and a column here. */
static lt_status fill(void *context, size_t index, int64_t first, int64_t count, float *out,
                      lt_err *err)
{
    const saver *s = context;
    const lt_gguf_part *part = &s->parts[index];
    if (s->tensors[index].ndim > 1)
        return lt_gguf_gather(s->model->backend, part, first, count, out, err);
    if (part->param) return lt_gguf_gather(s->model->backend, part, 0, part->rows, out, err);
    for (int64_t i = 0; i < part->rows; i++)
        out[i] = (float)lt_gguf_rope_divisor(&s->model->config, i);
    return LT_OK;
}

/* --- Key-values --------------------------------------------------------------------------------
 */

static lt_status add_text(lt_gguf_keys *keys, const char *key, const char *text, lt_err *err)
{
    return lt_gguf_add_string(keys, key, text, strlen(text), err);
}

static lt_status append_keys(lt_gguf_keys *keys, const lt_gguf_keys *more, lt_err *err)
{
    if (!more || more->count == 0) return LT_OK;
    keys->count += more->count;
    return lt_buffer_append(&keys->bytes, more->bytes.data, more->bytes.size, err);
}

lt_status lt_gguf_add_general(const lt_model_config *config, const char *type,
                              const lt_gguf_export *export_, lt_gguf_keys *keys, lt_err *err)
{
    LT_TRY(add_text(keys, "general.architecture", lt_gguf_architecture(config->family), err));
    LT_TRY(add_text(keys, "general.type", type, err));
    if (export_->name) LT_TRY(add_text(keys, "general.name", export_->name, err));
    LT_TRY(lt_gguf_add_u32(keys, "general.file_type", lt_gguf_file_type(export_->format), err));
    LT_TRY(lt_gguf_add_u32(keys, "general.quantization_version", QUANTIZATION_VERSION, err));
    return append_keys(keys, export_->more, err);
}

/* --- Files -------------------------------------------------------------------------------------
 */

lt_status lt_model_save_gguf(const lt_model *model, const char *path, const lt_gguf_export *export_,
                             lt_err *err)
{
    lt_status status;
    lt_gguf_keys keys = {0};
    saver s = {.model = model};
    if (model->adapter_count > 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "a model with an adapter can not be saved as GGUF: merge it first");
    LT_TRY(lt_gguf_check_supported(&model->config, export_->notes, err));
    LT_TRY_GOTO(status, declare_all(&s, export_->format, export_->notes, err), done);
    LT_TRY_GOTO(status, lt_gguf_add_general(&model->config, "model", export_, &keys, err), done);
    LT_TRY_GOTO(status, lt_gguf_add_config(&model->config, &keys, err), done);
    status = lt_gguf_write(path, &keys, s.tensors, s.count, fill, &s, model->backend->threads, err);

done:
    lt_gguf_keys_free(&keys);
    free(s.parts);
    free(s.tensors);
    return status;
}
