#include "train/optimizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/formats/safetensors.h"

enum { NAME_SIZE = 112 }; /* "m." and a row's name */

/* --- Memory ------------------------------------------------------------------------------------
 */

static void carve(lt_optimizer *o, int64_t count, lt_dtype real)
{
    size_t elements = (size_t)count, size = lt_dtype_size(real);
    o->m = lt_tensor_1d(lt_arena_alloc(&o->arena, elements, size), real, count);
    o->v = lt_tensor_1d(lt_arena_alloc(&o->arena, elements, size), real, count);
    o->sum_squares = lt_tensor_1d(lt_arena_alloc(&o->arena, 1, sizeof(double)), LT_F64, 1);
    o->norm = lt_tensor_1d(lt_arena_alloc(&o->arena, 1, sizeof(float)), LT_F32, 1);
    o->scale = lt_tensor_1d(lt_arena_alloc(&o->arena, 1, sizeof(float)), LT_F32, 1);
}

size_t lt_optimizer_plan(int64_t gradient_count, lt_dtype real)
{
    lt_optimizer measured = {0};
    lt_arena_measure(&measured.arena, "optimizer");
    carve(&measured, gradient_count, real);
    return measured.arena.peak;
}

lt_status lt_optimizer_create(const lt_model *model, lt_optimizer *out, lt_err *err)
{
    lt_dtype real = model->backend->real;
    *out = (lt_optimizer){.backend = model->backend};
    LT_TRY(lt_arena_reserve(&out->arena, "optimizer",
                            lt_optimizer_plan(model->gradient_count, real), model->backend->memory,
                            err));
    carve(out, model->gradient_count, real);
    return LT_OK;
}

void lt_optimizer_free(lt_optimizer *optimizer)
{
    lt_arena_release(&optimizer->arena);
    *optimizer = (lt_optimizer){0};
}

/* --- The step ----------------------------------------------------------------------------------
 */

static lt_status clip(lt_optimizer *o, lt_tensor gradients, const lt_optimizer_step *step,
                      lt_err *err)
{
    const lt_zero_args zero = {.y = o->sum_squares};
    LT_TRY(lt_zero(o->backend, &zero, err));
    const lt_sum_squares_args sum = {.x = gradients, .result = o->sum_squares};
    LT_TRY(lt_sum_squares(o->backend, &sum, err));
    const lt_clip_scale_args scale = {.sum_squares = o->sum_squares,
                                      .norm = o->norm,
                                      .scale = o->scale,
                                      .gradient_scale = step->gradient_scale,
                                      .max_norm = step->max_grad_norm};
    return lt_clip_scale(o->backend, &scale, err);
}

lt_status lt_optimizer_apply(lt_optimizer *o, lt_model *model, const lt_optimizer_step *step,
                             double *norm, lt_err *err)
{
    lt_dtype real = o->backend->real;
    if (model->gradient_count == 0)
        return lt_fail(err, LT_ERR_USAGE, "the model has no trainable parameters");
    LT_TRY(clip(o, lt_tensor_1d(model->gradients.base, real, model->gradient_count), step, err));
    for (int i = 0; i < model->segment_count; i++) {
        const lt_segment *s = &model->segments[i];
        const lt_param *first = &model->params[s->first_param]; /* the others lie behind it */
        const lt_adamw_args args = {.weight = lt_tensor_1d(first->weight.data, real, s->count),
                                    .gradient = lt_tensor_1d(first->gradient.data, real, s->count),
                                    .m = lt_tensor_slice(o->m, 0, s->gradient_offset, s->count),
                                    .v = lt_tensor_slice(o->v, 0, s->gradient_offset, s->count),
                                    .scale = o->scale,
                                    .learning_rate = step->learning_rate,
                                    .beta1 = step->beta1,
                                    .beta2 = step->beta2,
                                    .epsilon = step->epsilon,
                                    .weight_decay = s->decay ? step->weight_decay : 0,
                                    .step = step->update};
        LT_TRY(lt_adamw(o->backend, &args, err));
    }
    float result;
    LT_TRY(o->backend->download(o->backend, &result, o->norm.data, sizeof result, err));
    *norm = result;
    return LT_OK;
}

/* --- The file ----------------------------------------------------------------------------------
 */

typedef struct moments {
    const lt_optimizer *optimizer;
    const lt_model *model;
} moments;

/* Where "m.NAME" or "v.NAME" lies. */
static const void *moment_data(const moments *m, const char *name, const lt_param **param)
{
    *param = lt_model_param(m->model, name + 2);
    const lt_tensor *all = name[0] == 'm' ? &m->optimizer->m : &m->optimizer->v;
    return (const float *)all->data + (*param)->gradient_offset;
}

static size_t row_elements(const lt_param *param)
{
    return (size_t)param->shape[0] * (param->ndim == 2 ? (size_t)param->shape[1] : 1);
}

static lt_status copy_moment(void *context, const char *name, void *out, lt_err *err)
{
    const lt_param *param;
    const moments *m = context;
    const void *data = moment_data(m, name, &param);
    return m->optimizer->backend->download(m->optimizer->backend, out, data,
                                           row_elements(param) * sizeof(float), err);
}

/* Names and shapes of everything in the file, two for each trainable row. Caller frees both. */
static lt_status declare(const lt_model *model, lt_safetensors_declaration **out,
                         char (**names)[NAME_SIZE], size_t *count, lt_err *err)
{
    size_t most = 2 * (size_t)model->param_count;
    *out = calloc(most, sizeof **out);
    *names = calloc(most, sizeof **names);
    if (!*out || !*names)
        return lt_fail_nomem(err, most * (sizeof **out + sizeof **names), "optimizer names");
    *count = 0;
    for (int i = 0; i < model->param_count; i++) {
        const lt_param *param = &model->params[i];
        for (int which = 0; which < 2 && param->trainable; which++) {
            char *name = (*names)[*count];
            snprintf(name, NAME_SIZE, "%c.%s", "mv"[which], param -> name);
            (*out)[(*count)++] =
                (lt_safetensors_declaration){.name = name,
                                             .dtype = LT_F32,
                                             .ndim = param->ndim,
                                             .shape = {param->shape[0], param->shape[1]}};
        }
    }
    return LT_OK;
}

lt_status lt_optimizer_save(const lt_optimizer *optimizer, const lt_model *model, const char *path,
                            lt_err *err)
{
    moments source = {optimizer, model};
    lt_safetensors_declaration *tensors = NULL;
    char(*names)[NAME_SIZE] = NULL;
    size_t count;
    lt_status status;
    LT_TRY_GOTO(status, declare(model, &tensors, &names, &count, err), done);
    status = lt_safetensors_write(path, tensors, count, NULL, copy_moment, &source, err);
done:
    free(names);
    free(tensors);
    return status;
}

static lt_status load_moment(const moments *m, const lt_safetensors *file,
                             const lt_safetensors_declaration *expected, lt_err *err)
{
    const lt_safetensors_entry *entry = lt_safetensors_find(file, expected->name);
    if (!entry || strcmp(entry->dtype, "F32") != 0 || entry->ndim != expected->ndim ||
        memcmp(entry->shape, expected->shape, (size_t)entry->ndim * sizeof *entry->shape) != 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: \"%s\" is missing or of another shape: it does not belong to this "
                       "model and these frozen layers",
                       file->path, expected->name);
    const lt_param *param;
    void *to = (void *)(uintptr_t)moment_data(m, expected->name, &param);
    const lt_backend *backend = m->optimizer->backend;
    return backend->upload(backend, to, entry->data, entry->size, err);
}

lt_status lt_optimizer_load(lt_optimizer *optimizer, const lt_model *model, const char *path,
                            lt_err *err)
{
    const moments target = {optimizer, model};
    lt_safetensors_declaration *tensors = NULL;
    char(*names)[NAME_SIZE] = NULL;
    lt_safetensors file = {0};
    size_t count;
    lt_status status;
    LT_TRY_GOTO(status, declare(model, &tensors, &names, &count, err), done);
    LT_TRY_GOTO(status, lt_safetensors_open(path, &file, err), done);
    if (file.count != count)
        status = lt_fail(err, LT_ERR_FORMAT, "%s has %zu tensors; %zu are expected", path,
                         file.count, count);
    for (size_t i = 0; i < count && status == LT_OK; i++)
        status = load_moment(&target, &file, &tensors[i], err);
done:
    lt_safetensors_close(&file);
    free(names);
    free(tensors);
    return status;
}
