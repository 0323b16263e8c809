/* A LoRA adapter to a GGUF file, as llama.cpp's convert_lora_to_gguf.py makes it: for each adapted
 * tensor its name with ".lora_a" [rank, in] and ".lora_b" [out, rank]. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapters/internal.h"
#include "model/formats/gguf_layout.h"
#include "model/formats/quants.h"

typedef struct lora_tensor {
    lt_gguf_part part;
    float factor; /* what its values are multiplied by */
} lora_tensor;

typedef struct saver {
    const lt_model *model;
    const lt_adapter *adapter;
    lt_gguf_type type;
    double alpha;
    lora_tensor *sources;
    lt_gguf_declaration *tensors;
    size_t count;
} saver;

/* --- Scale -------------------------------------------------------------------------------------
 *
 * llama.cpp scales each product by alpha / rank, with one alpha for the file, where 0 stands for no
 * scaling. Where ranks or alphas of modules differ from that, B takes the rest. */

static double alpha_of(const lt_lora_part *part)
{
    return part->scaling * (double)part->rank;
}

/* The first module's. */
static double choose_alpha(const lt_model *model, const lt_adapter *adapter)
{
    int64_t linears = model->config.num_hidden_layers * LT_LINEAR_COUNT;
    for (int64_t i = 0; i < linears; i++)
        for (int k = 0; k < adapter->linears[i].part_count; k++)
            if (adapter->linears[i].parts[k].rank > 0 &&
                alpha_of(&adapter->linears[i].parts[k]) > 0)
                return (double)(float)alpha_of(&adapter->linears[i].parts[k]);
    return 1;
}

static float rest_of_scale(const saver *s, const lt_lora_part *part)
{
    double rest = alpha_of(part) / s->alpha;
    return fabs(rest - 1) < 1e-6 ? 1 : (float)rest; /* alpha itself is rounded to f32 */
}

/* --- Tensors -----------------------------------------------------------------------------------
 */

static lt_status declare(saver *s, const lt_gguf_part *matrix, const char *end, int row,
                         float factor, lt_err *err)
{
    const lt_param *param = &s->model->params[row];
    lora_tensor *source = &s->sources[s->count];
    lt_gguf_declaration *t = &s->tensors[s->count++];
    *source =
        (lora_tensor){.part = {.param = param, .rows = param->shape[0], .columns = param->shape[1]},
                      .factor = factor};
    *t = (lt_gguf_declaration){
        .type = s->type, .ndim = 2, .shape = {param->shape[0], param->shape[1]}};
    int length = snprintf(t->name, sizeof t->name, "%s%s", matrix->name, end);
    return length > 0 && (size_t)length < sizeof t->name
               ? LT_OK
               : lt_fail(err, LT_ERR_LIMIT, "the name of %s is too long for GGUF", param->name);
}

/* One matrix of a block: its parts are those of the model's tensors. */
static lt_status declare_linear(saver *s, int layer, lt_linear which, lt_err *err)
{
    const lt_model_config *config = &s->model->config;
    const lt_lora_linear *linear = &s->adapter->linears[layer * LT_LINEAR_COUNT + (int)which];
    char name[LT_MODULE_SIZE];
    lt_gguf_part parts[LT_MAX_PARTS];
    if (linear->rank == 0) return LT_OK;
    lt_family_expand(lt_linear_row(config->gated_mlp, which), layer, name, sizeof name);
    lt_gguf_parts_of(config, lt_model_param(s->model, name), parts);
    for (int k = 0; k < linear->part_count; k++) {
        const lt_lora_part *p = &linear->parts[k];
        if (p->rank == 0) continue;
        LT_TRY(declare(s, &parts[k], ".lora_a", p->a, 1, err));
        LT_TRY(declare(s, &parts[k], ".lora_b", p->b, rest_of_scale(s, p), err));
        s->sources[s->count - 1].part.turned = parts[k].turned;
    }
    return LT_OK;
}

static lt_status declare_all(saver *s, lt_err *err)
{
    size_t capacity = (size_t)s->adapter->param_count + 1;
    s->sources = calloc(capacity, sizeof *s->sources);
    s->tensors = calloc(capacity, sizeof *s->tensors);
    if (!s->sources || !s->tensors)
        return lt_fail_nomem(err, capacity * sizeof *s->tensors, "the list of tensors");
    for (int layer = 0; layer < (int)s->model->config.num_hidden_layers; layer++)
        for (int which = 0; which < LT_LINEAR_COUNT; which++)
            LT_TRY(declare_linear(s, layer, (lt_linear)which, err));
    return LT_OK;
}

/* lt_gguf_source */
static lt_status fill(void *context, size_t index, int64_t first, int64_t count, float *out,
                      lt_err *err)
{
    const saver *s = context;
    const lora_tensor *source = &s->sources[index];
    LT_TRY(lt_gguf_gather(s->model->backend, &source->part, first, count, out, err));
    if (source->factor == 1) return LT_OK;
    for (int64_t i = 0; i < count * source->part.columns; i++)
        out[i] *= source->factor;
    return LT_OK;
}

/* --- Files -------------------------------------------------------------------------------------
 */

static lt_status check_adapter(const lt_adapter *adapter, lt_gguf_format format, lt_gguf_type *type,
                               lt_err *err)
{
    if (adapter->method->kind != LT_ADAPTER_LORA)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "llama.cpp takes LoRA adapters only: one of kind %s can not be exported as "
                       "GGUF",
                       lt_adapter_kind_name(adapter->method->kind));
    if (adapter->config.use_dora || adapter->embed >= 0 || adapter->head >= 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "llama.cpp takes no LoRA adapters with %s: merge this one into its model, "
                       "and export that",
                       adapter->config.use_dora ? "DoRA" : "modules_to_save");
    if (format != LT_GGUF_FILE_F32 && format != LT_GGUF_FILE_F16 && format != LT_GGUF_FILE_BF16)
        return lt_fail(err, LT_ERR_USAGE, "an adapter is not quantised: f32, f16 or bf16, not %s",
                       lt_gguf_format_name(format));
    *type = format == LT_GGUF_FILE_F32   ? LT_GGUF_F32
            : format == LT_GGUF_FILE_F16 ? LT_GGUF_F16
                                         : LT_GGUF_BF16;
    return LT_OK;
}

lt_status lt_adapter_save_gguf(const lt_model *model, const lt_adapter *adapter, const char *path,
                               const lt_gguf_export *export_, lt_err *err)
{
    lt_status status;
    lt_gguf_keys keys = {0};
    saver s = {.model = model, .adapter = adapter};
    LT_TRY(check_adapter(adapter, export_->format, &s.type, err));
    LT_TRY(lt_gguf_check_supported(&model->config, NULL, err));
    s.alpha = choose_alpha(model, adapter);
    LT_TRY_GOTO(status, declare_all(&s, err), done);
    LT_TRY_GOTO(status, lt_gguf_add_general(&model->config, "adapter", export_, &keys, err), done);
    LT_TRY_GOTO(status, lt_gguf_add_string(&keys, "adapter.type", "lora", 4, err), done);
    LT_TRY_GOTO(status, lt_gguf_add_f32(&keys, "adapter.lora.alpha", (float)s.alpha, err), done);
    status = lt_gguf_write(path, &keys, s.tensors, s.count, fill, &s, model->backend->threads, err);

done:
    lt_gguf_keys_free(&keys);
    free(s.sources);
    free(s.tensors);
    return status;
}
