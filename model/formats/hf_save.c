/* A model to a Hugging Face directory: config.json, generation_config.json and the weights in the
 * family's names and layouts, in one file or in shards with an index; by one process or several. */
#include "model/formats/hf_save.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "base/json.h"
#include "model/formats/layout.h"
#include "model/formats/numbers.h"

#define DEFAULT_SHARD_BYTES 5000000000u /* transformers' max_shard_size of "5GB" */

/* One tensor of the files, and the rows of the table it is filled from. */
typedef struct target {
    char name[LT_FILE_NAME_SIZE];
    lt_param_layout layout;
    const lt_param *param;
    int part;
    int64_t first_row; /* canonical */
    int ndim;
    int64_t shape[2];
    uint64_t bytes;
    size_t shard;
} target;

typedef struct saver {
    const lt_model *model;
    const lt_file_group *group; /* NULL: one process */
    lt_dtype dtype;
    target *targets;
    size_t target_count, shard_count;
    lt_safetensors_declaration *tensors; /* of the shard that is written */
} saver;

/* --- What goes where ---------------------------------------------------------------------------
 */

static void add_targets(saver *s, const lt_param *param)
{
    lt_param_layout layout = lt_param_layout_of(&s->model->config, param);
    int64_t first_row = 0;
    for (int part = 0; part < layout.parts; part++) {
        target *t = &s->targets[s->target_count++];
        *t = (target){.layout = layout, .param = param, .part = part, .first_row = first_row};
        lt_layout_file_name(&layout, part, t->name);
        t->ndim = lt_layout_file_shape(&layout, param, part, t->shape);
        t->bytes = (uint64_t)(layout.part_rows[part] * layout.columns) * lt_dtype_size(s->dtype);
        first_row += layout.part_rows[part];
    }
}

static lt_status plan_targets(saver *s, uint64_t shard_bytes, lt_err *err)
{
    size_t capacity = (size_t)s->model->own_param_count * LT_MAX_PARTS;
    s->targets = calloc(capacity, sizeof *s->targets);
    s->tensors = calloc(capacity, sizeof *s->tensors);
    if (!s->targets || !s->tensors)
        return lt_fail_nomem(err, capacity * (sizeof *s->targets + sizeof *s->tensors), "saving");
    for (int i = 0; i < s->model->own_param_count; i++)
        add_targets(s, &s->model->params[i]);

    /* greedy, in the table's order; a tensor beyond the limit has a shard to itself */
    uint64_t filled = 0;
    s->shard_count = 1;
    for (size_t i = 0; i < s->target_count; i++) {
        if (filled > 0 && filled + s->targets[i].bytes > shard_bytes) {
            s->shard_count++;
            filled = 0;
        }
        s->targets[i].shard = s->shard_count - 1;
        filled += s->targets[i].bytes;
    }
    return LT_OK;
}

static lt_status shard_name(const saver *s, size_t shard, lt_buffer *out, lt_err *err)
{
    lt_buffer_clear(out);
    if (s->shard_count == 1) return lt_buffer_append_text(out, "model.safetensors", err);
    return lt_buffer_printf(out, err, "model-%05zu-of-%05zu.safetensors", shard + 1,
                            s->shard_count);
}

/* --- Filling one tensor ------------------------------------------------------------------------
 */

/* A number that f16 would make infinite. What is not finite in memory is written as it is. */
static lt_status check_range(const target *t, const float *values, int64_t count, lt_err *err)
{
    for (int64_t i = 0; i < count; i++)
        if (isfinite(values[i]) && fabsf(values[i]) >= 65520)
            return lt_fail(err, LT_ERR_NUMERIC,
                           "%s has the value %g, and f16 ends at 65504: save as bf16 or f32",
                           t->name, (double)values[i]);
    return LT_OK;
}

static lt_status write_rows(const saver *s, const target *t, int64_t first, int64_t count,
                            void *out, lt_err *err)
{
    const lt_backend *backend = s->model->backend;
    lt_dtype dtype = t->param->dtype;
    size_t size = lt_dtype_size(dtype);
    int64_t columns = t->layout.columns, elements = count * columns;
    const char *from = (const char *)t->param->weight.data + (size_t)(first * columns) * size;
    lt_status status = LT_OK;
    float *values = malloc((size_t)elements * sizeof *values);
    void *staged = dtype == LT_F32 ? values : malloc((size_t)elements * size);
    if (!values || !staged) {
        status = lt_fail_nomem(err, (unsigned long long)elements * size, "converting weights");
        goto done;
    }
    LT_TRY_GOTO(status, backend->download(backend, staged, from, (size_t)elements * size, err),
                done);
    if (staged != values) lt_numbers_to_f32(staged, elements, dtype, values);
    if (s->dtype == LT_F16) LT_TRY_GOTO(status, check_range(t, values, elements, err), done);
    lt_layout_write(&t->layout, first, count, values, s->dtype, out);

done:
    if (staged != values) free(staged);
    free(values);
    return status;
}

static lt_status fill_rows(const saver *s, const target *t, void *out, lt_err *err)
{
    int64_t rows = t->layout.part_rows[t->part], step = lt_layout_chunk_rows(&t->layout);
    int threads = s->model->backend->threads > 0 ? s->model->backend->threads : 1;
    lt_status status = LT_OK;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t first = 0; first < rows; first += step) {
        lt_err own = {0};
        lt_status result =
            write_rows(s, t, t->first_row + first, lt_min_i64(step, rows - first), out, &own);
        if (result == LT_OK) continue;
#pragma omp critical
        {
            status = result;
            if (err) *err = own;
        }
    }
    return status;
}

/* lt_safetensors_source: finds the target by its name and fills it in parallel. Other processes may
 * have parts of the row, and then all have to be here, whoever writes it. */
static lt_status fill_tensor(void *context, const char *name, void *out, lt_err *err)
{
    const saver *s = context;
    const target *t = s->targets;
    while (strcmp(t->name, name) != 0)
        t++;
    if (s->model->sharding.level == LT_SHARD_PARAMETERS)
        LT_TRY(lt_model_need_unit(s->model, t->param->layer, err));
    return out ? fill_rows(s, t, out, err) : LT_OK;
}

/* --- Files -------------------------------------------------------------------------------------
 */

static lt_status write_shard(saver *s, size_t shard, const char *path, lt_err *err)
{
    size_t count = 0;
    for (size_t i = 0; i < s->target_count; i++) {
        const target *t = &s->targets[i];
        if (t->shard != shard) continue;
        s->tensors[count++] = (lt_safetensors_declaration){.name = t->name,
                                                           .dtype = s->dtype,
                                                           .ndim = t->ndim,
                                                           .shape = {t->shape[0], t->shape[1]}};
    }
    return lt_safetensors_write_together(path, s->tensors, count, NULL, fill_tensor, s, s->group,
                                         err);
}

static lt_status write_index(const saver *s, const char *path, lt_err *err)
{
    uint64_t bytes = 0;
    lt_status status = LT_OK;
    lt_buffer file = {0};
    json_t *index = json_object(), *metadata = json_object(), *map = json_object();
    bool ok = index && metadata && map;
    for (size_t i = 0; ok && i < s->target_count; i++) {
        LT_TRY_GOTO(status, shard_name(s, s->targets[i].shard, &file, err), done);
        ok = json_object_set_new(map, s->targets[i].name, json_string(file.data)) == 0;
        bytes += s->targets[i].bytes;
    }
    int64_t parameters = lt_model_parameter_count(s->model, false);
    ok = ok && json_object_set_new(metadata, "total_parameters", json_integer(parameters)) == 0 &&
         json_object_set_new(metadata, "total_size", json_integer((json_int_t)bytes)) == 0 &&
         json_object_set(index, "metadata", metadata) == 0 &&
         json_object_set(index, "weight_map", map) == 0;
    status = ok ? lt_json_write_file(path, index, err)
                : lt_fail_nomem(err, 0, "the index of the weight files");

done:
    json_decref(index);
    json_decref(metadata);
    json_decref(map);
    lt_buffer_free(&file);
    return status;
}

/* model.safetensors, model-00001-of-00003.safetensors, model.safetensors.index.json */
static bool is_weight_file(const char *name)
{
    static const char *const ends[] = {".safetensors", ".safetensors.index.json"};
    if (strncmp(name, "model", 5) != 0) return false;
    const char *rest = name + 5;
    unsigned a, b;
    int used = 0;
    if (sscanf(rest, "-%5u-of-%5u%n", &a, &b, &used) == 2 && used == 15) rest += used;
    return strcmp(rest, ends[0]) == 0 || strcmp(rest, ends[1]) == 0;
}

/* Weights of an earlier save would win over, or mix with, the new ones. */
static lt_status remove_old_weights(const char *directory, lt_err *err)
{
    lt_name_list names = {0};
    lt_buffer path = {0};
    lt_status status = lt_list_directory(directory, &names, err);
    for (size_t i = 0; status == LT_OK && i < names.count; i++) {
        if (!is_weight_file(names.names[i])) continue;
        status = lt_path_join(&path, directory, names.names[i], err);
        if (status == LT_OK) status = lt_remove_tree(path.data, err);
    }
    lt_name_list_free(&names);
    lt_buffer_free(&path);
    return status;
}

static lt_status shard_path(const saver *s, const char *directory, size_t shard, lt_buffer *path,
                            lt_err *err)
{
    lt_buffer name = {0};
    lt_status status = shard_name(s, shard, &name, err);
    if (status == LT_OK) status = lt_path_join(path, directory, name.data, err);
    lt_buffer_free(&name);
    return status;
}

static lt_status write_weights(saver *s, const char *directory, lt_err *err)
{
    lt_status status = LT_OK;
    lt_buffer path = {0};
    for (size_t shard = 0; shard < s->shard_count; shard++) {
        status = shard_path(s, directory, shard, &path, err);
        LT_TRY_GOTO(status, lt_group_agree(s->group, status, err), done);
        LT_TRY_GOTO(status, write_shard(s, shard, path.data, err), done);
    }
    if (s->shard_count == 1) goto done;
    status = lt_path_join(&path, directory, "model.safetensors.index.json", err);
    if (status == LT_OK && lt_group_leads(s->group)) status = write_index(s, path.data, err);
    status = lt_group_agree(s->group, status, err);

done:
    lt_buffer_free(&path);
    return status;
}

static lt_status write_configs(const lt_model *model, const char *directory, lt_dtype dtype,
                               lt_err *err)
{
    lt_status status;
    json_t *config = NULL, *generation = NULL;
    lt_buffer path = {0};
    LT_TRY_GOTO(status, lt_config_to_json(&model->config, dtype, &config, &generation, err), done);
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "config.json", err), done);
    LT_TRY_GOTO(status, lt_json_write_file(path.data, config, err), done);
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "generation_config.json", err), done);
    status = lt_json_write_file(path.data, generation, err);

done:
    json_decref(config);
    json_decref(generation);
    lt_buffer_free(&path);
    return status;
}

/* What one process does before the weights. */
static lt_status begin(const saver *s, const char *directory, lt_err *err)
{
    LT_TRY(write_configs(s->model, directory, s->dtype, err));
    return remove_old_weights(directory, err);
}

lt_status lt_model_save_sharded(const lt_model *model, const char *directory, lt_dtype dtype,
                                uint64_t shard_bytes, const lt_file_group *group, lt_err *err)
{
    saver s = {.model = model, .group = group, .dtype = dtype};
    lt_status status = plan_targets(&s, shard_bytes, err);
    if (status == LT_OK && lt_group_leads(group)) status = begin(&s, directory, err);
    status = lt_group_agree(group, status, err);
    if (status == LT_OK) status = write_weights(&s, directory, err);
    free(s.targets);
    free(s.tensors);
    return status;
}

lt_status lt_model_save_together(const lt_model *model, const char *directory, lt_dtype dtype,
                                 const lt_file_group *group, lt_err *err)
{
    return lt_model_save_sharded(model, directory, dtype, DEFAULT_SHARD_BYTES, group, err);
}

lt_status lt_model_save(const lt_model *model, const char *directory, lt_dtype dtype, lt_err *err)
{
    return lt_model_save_together(model, directory, dtype, NULL, err);
}
