/* optimizer.safetensors: the optimizer's state in a checkpoint. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/formats/safetensors.h"
#include "train/optimizer.h"

enum {
    NAME_SIZE = 112, /* "master." and a row's name */
    MAX_PARTS = 5,
};

/* A part of the state, of which every row has its own tensor, or that is one tensor for all. */
typedef struct part {
    const char *name;
    const lt_tensor *state;
    bool by_row;
} part;

typedef struct contents {
    const lt_optimizer *optimizer;
    const lt_model *model;
    part parts[MAX_PARTS];
    int part_count;
    lt_safetensors_declaration *tensors; /* owned, as the names */
    char (*names)[NAME_SIZE];
    size_t count;
} contents;

static void add_part(contents *c, const char *name, const lt_tensor *state, bool by_row)
{
    if (state->data) c->parts[c->part_count++] = (part){name, state, by_row};
}

/* Master weights that are the model's own, bit by bit, are in the model's file. */
static void list_parts(contents *c)
{
    const lt_optimizer *o = c->optimizer;
    add_part(c, "m", &o->m, true);
    add_part(c, "v", &o->v, true);
    add_part(c, "m_scale", &o->m_scale, false);
    add_part(c, "v_scale", &o->v_scale, false);
    if (o->device->real != LT_F32) add_part(c, "master", &o->master, true);
}

static void declare_part(contents *c, const part *p)
{
    if (!p->by_row) {
        snprintf(c->names[c->count], NAME_SIZE, "%s", p->name);
        c->tensors[c->count] = (lt_safetensors_declaration){.name = c->names[c->count],
                                                            .dtype = p->state->dtype,
                                                            .ndim = 1,
                                                            .shape = {p->state->shape[0]}};
        c->count++;
        return;
    }
    for (int i = 0; i < c->model->param_count; i++) {
        const lt_param *param = &c->model->params[i];
        if (!param->trainable) continue;
        snprintf(c->names[c->count], NAME_SIZE, "%s.%s", p->name, param->name);
        c->tensors[c->count] =
            (lt_safetensors_declaration){.name = c->names[c->count],
                                         .dtype = p->state->dtype,
                                         .ndim = param->ndim,
                                         .shape = {param->shape[0], param->shape[1]}};
        c->count++;
    }
}

/* Names and shapes of everything in the file. */
static lt_status declare(contents *c, lt_err *err)
{
    size_t most = MAX_PARTS * ((size_t)c->model->param_count + 1);
    list_parts(c);
    c->tensors = calloc(most, sizeof *c->tensors);
    c->names = calloc(most, sizeof *c->names);
    if (!c->tensors || !c->names)
        return lt_fail_nomem(err, most * (sizeof *c->tensors + sizeof *c->names),
                             "optimizer names");
    for (int i = 0; i < c->part_count; i++)
        declare_part(c, &c->parts[i]);
    return LT_OK;
}

static void release(contents *c)
{
    free(c->tensors);
    free(c->names);
}

/* Where the tensor of that name lies in the state, and how many bytes it has. */
static void *find(const contents *c, const char *name, size_t *bytes)
{
    size_t length = strcspn(name, ".");
    const part *p = c->parts;
    while (strlen(p->name) != length || strncmp(p->name, name, length) != 0)
        p++;
    size_t size = lt_dtype_size(p->state->dtype);
    *bytes = (size_t)p->state->shape[0] * size;
    if (!p->by_row) return p->state->data;
    const lt_param *param = lt_model_param(c->model, name + length + 1);
    *bytes = (size_t)(param->shape[0] * (param->ndim == 2 ? param->shape[1] : 1)) * size;
    return (char *)p->state->data + (size_t)param->gradient_offset * size;
}

/* --- Writing -----------------------------------------------------------------------------------
 */

static lt_status copy_out(void *context, const char *name, void *out, lt_err *err)
{
    const contents *c = context;
    const lt_backend *backend = c->optimizer->backend;
    size_t bytes;
    const void *data = find(c, name, &bytes);
    return backend->download(backend, out, data, bytes, err);
}

lt_status lt_optimizer_save(const lt_optimizer *optimizer, const lt_model *model, const char *path,
                            lt_err *err)
{
    contents c = {.optimizer = optimizer, .model = model};
    lt_status status = declare(&c, err);
    if (status == LT_OK)
        status = lt_safetensors_write(path, c.tensors, c.count, NULL, copy_out, &c, err);
    release(&c);
    return status;
}

/* --- Reading -----------------------------------------------------------------------------------
 */

static const char *file_dtype(lt_dtype dtype)
{
    return dtype == LT_U8 ? "U8" : dtype == LT_BF16 ? "BF16" : "F32";
}

/* What --optimizer must have been for moments of that type. */
static const char *kind_of(const char *dtype)
{
    if (strcmp(dtype, "U8") == 0) return lt_optimizer_name(LT_ADAMW_8BIT);
    return lt_optimizer_name(strcmp(dtype, "BF16") == 0 ? LT_ADAMW_BF16 : LT_ADAMW);
}

/* Says it when the file is another optimizer's, rather than that some tensor is missing. */
static lt_status check_kind(const contents *c, const lt_safetensors *file, lt_err *err)
{
    const lt_optimizer *o = c->optimizer;
    bool has_master = false, wants_master = o->device->real != LT_F32;
    for (size_t i = 0; i < file->count; i++) {
        const lt_safetensors_entry *entry = &file->entries[i];
        has_master = has_master || strncmp(entry->name, "master.", 7) == 0;
        bool moment = strncmp(entry->name, "m.", 2) == 0 || strncmp(entry->name, "v.", 2) == 0;
        if (!moment || strcmp(entry->dtype, file_dtype(o->m.dtype)) == 0) continue;
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s is the state of --optimizer %s (\"%s\" is %s); this run has "
                       "--optimizer %s",
                       file->path, kind_of(entry->dtype), entry->name, entry->dtype,
                       lt_optimizer_name(o->settings.kind));
    }
    if (has_master == wants_master) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT,
                   "%s %s master weights: it is of a run with --dtype %s, and this one has "
                   "--dtype %s",
                   file->path, has_master ? "holds" : "holds no",
                   has_master ? "bfloat16" : "float32", wants_master ? "bfloat16" : "float32");
}

static lt_status copy_in(const contents *c, const lt_safetensors *file,
                         const lt_safetensors_declaration *expected, lt_err *err)
{
    const lt_safetensors_entry *entry = lt_safetensors_find(file, expected->name);
    const lt_backend *backend = c->optimizer->backend;
    if (!entry || strcmp(entry->dtype, file_dtype(expected->dtype)) != 0 ||
        entry->ndim != expected->ndim ||
        memcmp(entry->shape, expected->shape, (size_t)entry->ndim * sizeof *entry->shape) != 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: \"%s\" is missing or of another shape: it does not belong to this "
                       "model and these frozen layers",
                       file->path, expected->name);
    size_t bytes;
    void *to = find(c, expected->name, &bytes);
    return backend->upload(backend, to, entry->data, bytes, err);
}

lt_status lt_optimizer_load(lt_optimizer *optimizer, const lt_model *model, const char *path,
                            lt_err *err)
{
    contents c = {.optimizer = optimizer, .model = model};
    lt_safetensors file = {0};
    lt_status status;
    LT_TRY_GOTO(status, declare(&c, err), done);
    LT_TRY_GOTO(status, lt_safetensors_open(path, &file, err), done);
    LT_TRY_GOTO(status, check_kind(&c, &file, err), done);
    if (file.count != c.count)
        status = lt_fail(err, LT_ERR_FORMAT, "%s has %zu tensors; %zu are expected", path,
                         file.count, c.count);
    for (size_t i = 0; i < c.count && status == LT_OK; i++)
        status = copy_in(&c, &file, &c.tensors[i], err);
done:
    lt_safetensors_close(&file);
    release(&c);
    return status;
}
