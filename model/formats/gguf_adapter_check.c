/* Reads an adapter's GGUF file back: is every product of the adapter in it, at its place, with its
 * scale, and nothing else? */
#include <math.h>
#include <stdlib.h>

#include "model/adapters/internal.h"
#include "model/formats/gguf_layout.h"
#include "model/formats/quants.h"

/* Of a value's own size: the file's f32 alpha and the type's mantissa. */
static double rounding_of(lt_gguf_type type)
{
    return type == LT_GGUF_F32 ? 1e-6 : type == LT_GGUF_F16 ? 1e-3 : 8e-3;
}

static lt_status compare_row(const lt_gguf *file, const lt_gguf_tensor *t, const float *expected,
                             const float *got, int64_t count, double factor, lt_err *err)
{
    double slack = rounding_of(t->type), tiny = t->type == LT_GGUF_F16 ? 6e-8 : 0; /* subnormals */
    for (int64_t i = 0; i < count; i++) {
        double want = (double)expected[i] * factor;
        if (fabs((double)got[i] - want) <= fabs(want) * slack + tiny) continue;
        return lt_fail(err, LT_ERR_NUMERIC,
                       "%s: tensor \"%s\" was read back with %g where the adapter has %g",
                       file->path, t->name, (double)got[i], want);
    }
    return LT_OK;
}

static lt_status compare_tensor(const lt_gguf *file, const lt_backend *backend,
                                const lt_gguf_part *part, double factor, lt_err *err)
{
    const lt_gguf_tensor *t = lt_gguf_find(file, part->name);
    lt_status status = LT_OK;
    if (!t || t->ndim != 2 || t->shape[0] != part->rows || t->shape[1] != part->columns)
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor \"%s\" is missing or has another shape",
                       file->path, part->name);
    size_t row_bytes = lt_gguf_row_bytes(t->type, part->columns);
    float *expected = malloc((size_t)part->columns * sizeof *expected);
    float *got = malloc((size_t)part->columns * sizeof *got);
    if (!expected || !got)
        status = lt_fail_nomem(err, (size_t)part->columns * sizeof *got, "a row of an adapter");
    for (int64_t row = 0; row < part->rows && status == LT_OK; row++) {
        LT_TRY_GOTO(status, lt_gguf_gather(backend, part, row, 1, expected, err), done);
        lt_gguf_decode(t->type, t->data + (size_t)row * row_bytes, part->columns, got);
        status = compare_row(file, t, expected, got, part->columns, factor, err);
    }
done:
    free(expected);
    free(got);
    return status;
}

/* The file's product is B A alpha / rank. */
static lt_status compare_product(const lt_gguf *file, const lt_model *model,
                                 const lt_gguf_part *matrix, const lt_lora_part *lora, double alpha,
                                 lt_err *err)
{
    const int rows[] = {lora->a, lora->b};
    const double factors[] = {1, lora->scaling * (double)lora->rank / alpha};
    for (int k = 0; k < 2; k++) {
        const lt_param *param = &model->params[rows[k]];
        lt_gguf_part part = {.param = param,
                             .rows = param->shape[0],
                             .columns = param->shape[1],
                             .turned = k == 1 ? matrix->turned : 0};
        int length = snprintf(part.name, sizeof part.name, "%s.lora_%c", matrix->name, "ab"[k]);
        if (length < 0 || (size_t)length >= sizeof part.name)
            return lt_fail(err, LT_ERR_LIMIT, "the name of %s is too long for GGUF", param->name);
        LT_TRY(compare_tensor(file, model->backend, &part, factors[k], err));
    }
    return LT_OK;
}

static lt_status compare_all(const lt_gguf *file, const lt_model *model, const lt_adapter *adapter,
                             lt_err *err)
{
    const lt_model_config *config = &model->config;
    double alpha = 0;
    size_t count = 0;
    LT_TRY(lt_gguf_get_number(file, "adapter.lora.alpha", &alpha, err));
    if (!(alpha > 0))
        return lt_fail(err, LT_ERR_FORMAT, "%s: has no adapter.lora.alpha", file->path);
    for (int64_t i = 0; i < config->num_hidden_layers * LT_LINEAR_COUNT; i++) {
        const lt_lora_linear *linear = &adapter->linears[i];
        char name[LT_MODULE_SIZE];
        lt_gguf_part parts[LT_MAX_PARTS];
        const char *row = lt_linear_row(config->gated_mlp, (lt_linear)(i % LT_LINEAR_COUNT));
        if (linear->rank == 0) continue;
        lt_family_expand(row, (int)(i / LT_LINEAR_COUNT), name, sizeof name);
        lt_gguf_parts_of(config, lt_model_param(model, name), parts);
        for (int k = 0; k < linear->part_count; k++) {
            if (linear->parts[k].rank == 0) continue;
            LT_TRY(compare_product(file, model, &parts[k], &linear->parts[k], alpha, err));
            count += 2;
        }
    }
    if (count == file->tensor_count) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT, "%s: has %zu tensors, and the adapter %zu", file->path,
                   file->tensor_count, count);
}

lt_status lt_adapter_check_gguf(const lt_model *model, const lt_adapter *adapter, const char *path,
                                lt_err *err)
{
    lt_gguf file;
    LT_TRY(lt_gguf_open(path, &file, err));
    lt_status status = compare_all(&file, model, adapter, err);
    lt_gguf_close(&file);
    return status;
}
