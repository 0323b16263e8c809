/* optimizer.safetensors: the optimizer's state in a checkpoint, large ones in several files, as
 * weights are. The files know nothing of processes: each writes and reads what it steps, wherever
 * that is in its own state. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/formats/safetensors.h"
#include "train/optimizer.h"

enum {
    NAME_SIZE = 112, /* "master." and a row's name */
    MAX_PARTS = 5,
    CHUNK = 16 << 20 /* bytes that are fetched at a time */
};
#define ENDING      ".safetensors"
#define SHARD_BYTES 5000000000u /* as weights have it */

/* A part of the state, of which every row has its own tensor, or that is one tensor for all. */
typedef struct part {
    const char *name;
    const lt_tensor *state;
    bool by_row;
} part;

/* A tensor of the file, and what it is made of. */
typedef struct content {
    char name[NAME_SIZE];
    const part *part;
    const lt_param *param; /* NULL: of all rows, an element for each block of theirs */
} content;

/* Elements that this process has: where they are in the tensor, and in the state. */
typedef struct run {
    int64_t first, state, count;
} run;

typedef struct contents {
    const lt_optimizer *optimizer;
    const lt_model *model;
    part parts[MAX_PARTS];
    int part_count;
    content *list; /* owned, as all below */
    lt_safetensors_declaration *tensors;
    size_t count;
    run *runs;
    int run_count;
    unsigned char *chunk; /* only to write */
} contents;

/* --- What is in the file -----------------------------------------------------------------------
 */

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

static int64_t blocks_of(int64_t elements)
{
    return (elements + LT_QUANTISED_BLOCK - 1) / LT_QUANTISED_BLOCK;
}

/* Elements that a row takes where nothing is divided: that is what scales in the file are of. */
static int64_t undivided_count(const lt_param *param)
{
    int64_t count = param->shape[0] * (param->ndim == 2 ? param->shape[1] : 1);
    return param->joined ? count : blocks_of(count) * LT_QUANTISED_BLOCK;
}

static int64_t undivided_total(const lt_model *model)
{
    int64_t total = 0;
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].trainable) total += undivided_count(&model->params[i]);
    return total;
}

static void declare_scales(contents *c, const part *p)
{
    content *content = &c->list[c->count];
    content->part = p;
    snprintf(content->name, NAME_SIZE, "%s", p->name);
    c->tensors[c->count++] =
        (lt_safetensors_declaration){.name = content->name,
                                     .dtype = p->state->dtype,
                                     .ndim = 1,
                                     .shape = {blocks_of(undivided_total(c->model))}};
}

static void declare_rows(contents *c, const part *p)
{
    for (int i = 0; i < c->model->param_count; i++) {
        const lt_param *param = &c->model->params[i];
        if (!param->trainable) continue;
        content *content = &c->list[c->count];
        content->part = p;
        content->param = param;
        snprintf(content->name, NAME_SIZE, "%s.%s", p->name, param->name);
        c->tensors[c->count++] =
            (lt_safetensors_declaration){.name = content->name,
                                         .dtype = p->state->dtype,
                                         .ndim = param->ndim,
                                         .shape = {param->shape[0], param->shape[1]}};
    }
}

/* Names and shapes of everything in the file. */
static lt_status declare(contents *c, lt_err *err)
{
    size_t rows = (size_t)c->model->param_count, most = MAX_PARTS * (rows + 1);
    list_parts(c);
    c->list = calloc(most, sizeof *c->list);
    c->tensors = calloc(most, sizeof *c->tensors);
    c->runs = calloc(rows, sizeof *c->runs);
    if (!c->list || !c->tensors || !c->runs)
        return lt_fail_nomem(err, most * (sizeof *c->tensors + sizeof *c->list), "optimizer names");
    for (int i = 0; i < c->part_count; i++)
        (c->parts[i].by_row ? declare_rows : declare_scales)(c, &c->parts[i]);
    return LT_OK;
}

static void release(contents *c)
{
    free(c->list);
    free(c->tensors);
    free(c->runs);
    free(c->chunk);
}

/* --- In which file -----------------------------------------------------------------------------
 */

static uint64_t bytes_of(const lt_safetensors_declaration *tensor)
{
    uint64_t elements = 1;
    for (int i = 0; i < tensor->ndim; i++)
        elements *= (uint64_t)tensor->shape[i];
    return elements * lt_dtype_size(tensor->dtype);
}

/* The first tensor that is no longer in the file that begins with `first`. One beyond the limit has
 * a file to itself. */
static size_t end_of_file(const contents *c, size_t first, uint64_t shard_bytes)
{
    size_t end = first;
    uint64_t filled = 0;
    while (end < c->count && (end == first || filled + bytes_of(&c->tensors[end]) <= shard_bytes))
        filled += bytes_of(&c->tensors[end++]);
    return end;
}

static unsigned count_files(const contents *c, uint64_t shard_bytes)
{
    unsigned count = 0;
    for (size_t at = 0; at < c->count; at = end_of_file(c, at, shard_bytes))
        count++;
    return count;
}

/* How much of a path its files have in common. */
static int stem_of(const char *path)
{
    size_t length = strlen(path), ending = strlen(ENDING);
    bool ends = length >= ending && strcmp(path + length - ending, ENDING) == 0;
    return (int)(ends ? length - ending : length);
}

/* optimizer.safetensors, or optimizer-00001-of-00003.safetensors. */
static lt_status file_path(const char *path, unsigned number, unsigned count, lt_buffer *out,
                           lt_err *err)
{
    lt_buffer_clear(out);
    if (count == 1) return lt_buffer_append_text(out, path, err);
    return lt_buffer_printf(out, err, "%.*s-%05u-of-%05u" ENDING, stem_of(path), path, number,
                            count);
}

/* --- What this process has of it ---------------------------------------------------------------
 */

/* Together with the one before where both go on from it. */
static void add_run(contents *c, run r)
{
    run *last = c->run_count > 0 ? &c->runs[c->run_count - 1] : NULL;
    if (last && r.first == last->first + last->count && r.state == last->state + last->count)
        last->count += r.count;
    else
        c->runs[c->run_count++] = r;
}

/* Does each process step, and write, its own parts; or do all step everything, so that each writes
 * some of the tensors? Adapters are whole everywhere. */
static bool is_divided(const lt_model *model)
{
    return model->sharding.level != LT_SHARD_NONE && model->sharding.world_size > 1 &&
           model->adapter_count == 0;
}

/* Undivided scales lie in the file as they do here. Rows of a divided model begin with a block,
 * here as there. */
static void list_blocks(contents *c)
{
    int64_t undivided = 0;
    if (!is_divided(c->model)) {
        add_run(c, (run){0, 0, blocks_of(undivided_total(c->model))});
        return;
    }
    for (int i = 0; i < c->model->param_count; i++) {
        const lt_param *param = &c->model->params[i];
        if (!param->trainable) continue;
        int64_t first, count, state;
        lt_model_own_range(c->model, param, &first, &count, &state);
        int64_t block = (undivided + first) / LT_QUANTISED_BLOCK;
        if (count > 0) add_run(c, (run){block, state / LT_QUANTISED_BLOCK, blocks_of(count)});
        undivided += undivided_count(param);
    }
}

static void list_runs(contents *c, const content *content)
{
    run r;
    c->run_count = 0;
    if (!content->param) {
        list_blocks(c);
        return;
    }
    lt_model_own_range(c->model, content->param, &r.first, &r.count, &r.state);
    if (r.count > 0) add_run(c, r);
}

/* --- Writing -----------------------------------------------------------------------------------
 */

static lt_status allocate_chunk(contents *c, lt_err *err)
{
    c->chunk = malloc(CHUNK);
    return c->chunk ? LT_OK : lt_fail_nomem(err, CHUNK, "the optimizer's state to be written");
}

static void write_run(const contents *c, const part *p, const run *r, lt_safetensors_writer *writer,
                      size_t index)
{
    const lt_backend *backend = c->optimizer->backend;
    size_t size = lt_dtype_size(p->state->dtype), bytes = (size_t)r->count * size;
    const char *from = (const char *)p->state->data + (size_t)r->state * size;
    for (size_t at = 0; at < bytes; at += CHUNK) {
        lt_err why = {0};
        size_t some = bytes - at < CHUNK ? bytes - at : CHUNK;
        lt_safetensors_note(writer, backend->download(backend, c->chunk, from + at, some, &why),
                            &why);
        lt_safetensors_put(writer, index, (uint64_t)r->first * size + at, c->chunk, some);
    }
}

static lt_status write_file(contents *c, size_t first, size_t end, const char *path,
                            const lt_file_group *group, lt_err *err)
{
    lt_safetensors_writer writer;
    LT_TRY(lt_safetensors_begin(&writer, path, c->tensors + first, end - first, NULL, group, err));
    for (size_t i = 0; i < writer.count && writer.status == LT_OK; i++) {
        if (group && !is_divided(c->model) && writer.dealt[i] != group->rank) continue;
        const content *content = &c->list[writer.tensors[i] - c->tensors];
        list_runs(c, content);
        for (int k = 0; k < c->run_count; k++)
            write_run(c, content->part, &c->runs[k], &writer, i);
    }
    return lt_safetensors_end(&writer, err);
}

static lt_status write_files(contents *c, const char *path, uint64_t shard_bytes,
                             const lt_file_group *group, lt_err *err)
{
    lt_buffer name = {0};
    lt_status status = LT_OK;
    unsigned count = count_files(c, shard_bytes), number = 1;
    for (size_t first = 0, end; first < c->count; first = end, number++) {
        end = end_of_file(c, first, shard_bytes);
        status = file_path(path, number, count, &name, err);
        LT_TRY_GOTO(status, lt_group_agree(group, status, err), done);
        LT_TRY_GOTO(status, write_file(c, first, end, name.data, group, err), done);
    }
done:
    lt_buffer_free(&name);
    return status;
}

lt_status lt_optimizer_save_sharded(const lt_optimizer *optimizer, const lt_model *model,
                                    const char *path, uint64_t shard_bytes,
                                    const lt_file_group *group, lt_err *err)
{
    contents c = {.optimizer = optimizer, .model = model};
    lt_status status = declare(&c, err);
    if (status == LT_OK) status = allocate_chunk(&c, err);
    status = lt_group_agree(group, status, err);
    if (status == LT_OK) status = write_files(&c, path, shard_bytes, group, err);
    release(&c);
    return status;
}

lt_status lt_optimizer_save(const lt_optimizer *optimizer, const lt_model *model, const char *path,
                            const lt_file_group *group, lt_err *err)
{
    return lt_optimizer_save_sharded(optimizer, model, path, SHARD_BYTES, group, err);
}

/* --- Reading -----------------------------------------------------------------------------------
 */

typedef struct state_files {
    lt_safetensors *items;
    unsigned count;
} state_files;

static void close_files(state_files *files)
{
    for (unsigned f = 0; f < files->count; f++)
        lt_safetensors_close(&files->items[f]);
    free(files->items);
}

/* How many there are by their names; 1 where none says so. */
static lt_status find_count(const char *path, unsigned *count, lt_err *err)
{
    lt_buffer directory = {0};
    lt_name_list names = {0};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    int stem = stem_of(name);
    unsigned number, all;
    *count = 1;
    if (lt_path_exists(path)) return LT_OK;
    lt_status status =
        lt_buffer_printf(&directory, err, "%.*s", (int)(name - path), slash ? path : "");
    if (status == LT_OK) status = lt_list_directory(slash ? directory.data : ".", &names, err);
    for (size_t i = 0; i < names.count; i++)
        if (strncmp(names.names[i], name, (size_t)stem) == 0 &&
            sscanf(names.names[i] + stem, "-%5u-of-%5u" ENDING, &number, &all) == 2 && all > 0)
            *count = all;
    lt_name_list_free(&names);
    lt_buffer_free(&directory);
    return status;
}

static lt_status open_files(const char *path, state_files *out, lt_err *err)
{
    lt_buffer name = {0};
    unsigned count = 1;
    lt_status status = LT_OK;
    LT_TRY_GOTO(status, find_count(path, &count, err), done);
    out->items = calloc(count, sizeof *out->items);
    if (!out->items) {
        status = lt_fail_nomem(err, count * sizeof *out->items, "the optimizer's files");
        goto done;
    }
    while (out->count < count) {
        LT_TRY_GOTO(status, file_path(path, out->count + 1, count, &name, err), done);
        LT_TRY_GOTO(status, lt_safetensors_open(name.data, &out->items[out->count], err), done);
        out->count++;
    }
done:
    lt_buffer_free(&name);
    return status;
}

static const lt_safetensors_entry *find_tensor(const state_files *files, const char *name)
{
    const lt_safetensors_entry *entry = NULL;
    for (unsigned f = 0; f < files->count && !entry; f++)
        entry = lt_safetensors_find(&files->items[f], name);
    return entry;
}

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

/* Says it when the files are another optimizer's, rather than that some tensor is missing. */
static lt_status check_kind(const contents *c, const state_files *files, lt_err *err)
{
    const lt_optimizer *o = c->optimizer;
    const char *path = files->items[0].path;
    bool has_master = false, wants_master = o->device->real != LT_F32;
    for (unsigned f = 0; f < files->count; f++)
        for (size_t i = 0; i < files->items[f].count; i++) {
            const lt_safetensors_entry *entry = &files->items[f].entries[i];
            has_master = has_master || strncmp(entry->name, "master.", 7) == 0;
            bool moment = strncmp(entry->name, "m.", 2) == 0 || strncmp(entry->name, "v.", 2) == 0;
            if (!moment || strcmp(entry->dtype, file_dtype(o->m.dtype)) == 0) continue;
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s is the state of --optimizer %s (\"%s\" is %s); this run has "
                           "--optimizer %s",
                           path, kind_of(entry->dtype), entry->name, entry->dtype,
                           lt_optimizer_name(o->settings.kind));
        }
    if (has_master == wants_master) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT,
                   "%s %s master weights: it is of a run with --dtype %s, and this one has "
                   "--dtype %s",
                   path, has_master ? "holds" : "holds no", has_master ? "bfloat16" : "float32",
                   wants_master ? "bfloat16" : "float32");
}

static lt_status check_count(const contents *c, const state_files *files, lt_err *err)
{
    size_t count = 0;
    for (unsigned f = 0; f < files->count; f++)
        count += files->items[f].count;
    if (count == c->count) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT, "%s has %zu tensors; %zu are expected", files->items[0].path,
                   count, c->count);
}

static lt_status copy_in(contents *c, const state_files *files, size_t index, lt_err *err)
{
    const lt_safetensors_declaration *expected = &c->tensors[index];
    const lt_safetensors_entry *entry = find_tensor(files, expected->name);
    const lt_backend *backend = c->optimizer->backend;
    if (!entry || strcmp(entry->dtype, file_dtype(expected->dtype)) != 0 ||
        entry->ndim != expected->ndim ||
        memcmp(entry->shape, expected->shape, (size_t)entry->ndim * sizeof *entry->shape) != 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: \"%s\" is missing or of another shape: it does not belong to this "
                       "model and these frozen layers",
                       files->items[0].path, expected->name);
    size_t size = lt_dtype_size(expected->dtype);
    char *state = c->list[index].part->state->data;
    list_runs(c, &c->list[index]);
    for (int k = 0; k < c->run_count; k++) {
        const run *r = &c->runs[k];
        LT_TRY(backend->upload(backend, state + (size_t)r->state * size,
                               entry->data + (size_t)r->first * size, (size_t)r->count * size,
                               err));
    }
    return LT_OK;
}

lt_status lt_optimizer_load(lt_optimizer *optimizer, const lt_model *model, const char *path,
                            lt_err *err)
{
    contents c = {.optimizer = optimizer, .model = model};
    state_files files = {0};
    lt_status status;
    LT_TRY_GOTO(status, declare(&c, err), done);
    LT_TRY_GOTO(status, open_files(path, &files, err), done);
    LT_TRY_GOTO(status, check_kind(&c, &files, err), done);
    LT_TRY_GOTO(status, check_count(&c, &files, err), done);
    for (size_t i = 0; i < c.count && status == LT_OK; i++)
        status = copy_in(&c, &files, i, err);
done:
    close_files(&files);
    release(&c);
    return status;
}
