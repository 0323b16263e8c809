/* Adapters in the files of PEFT: adapter_config.json and adapter_model.safetensors.
 *
 * A row's name is its key there without "base_model.model."; copies of whole modules lose their
 * "modules_to_save." too. Prefixes and prompts have one tensor, the table; the network it came from
 * is kept beside it in a checkpoint, under PEFT's names for its modules. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "base/json.h"
#include "model/adapters/internal.h"
#include "model/formats/layout.h"
#include "model/formats/numbers.h"
#include "model/formats/safetensors.h"

#define KEY_PREFIX     "base_model.model."
#define SAVED_PREFIX   "modules_to_save."
#define ENCODER_PREFIX "prompt_encoder."
enum { KEY_SIZE = 160 };

static bool is_prompt(const lt_adapter *adapter)
{
    return adapter->virtual_tokens > 0;
}

static const char *without(const char *name, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(name, prefix, length) == 0 ? name + length : name;
}

/* Rows of B and of magnitudes lie in files as the rows of their matrix do. */
static lt_param_layout layout_of(const lt_model *model, const lt_param *param)
{
    static const lt_family_row same = {.row = "", .layout = LT_LAYOUT_SAME};
    static const lt_family_row per_head = {.row = "", .layout = LT_LAYOUT_PER_HEAD};
    return (lt_param_layout){.row = param->per_head ? &per_head : &same,
                             .layer = param->layer,
                             .rows = param->shape[0],
                             .columns = param->ndim == 2 ? param->shape[1] : 1,
                             .parts = 1,
                             .part_rows = {param->shape[0]},
                             .heads = model->config.num_attention_heads,
                             .head_dim = model->config.head_dim};
}

/* --- Reading ---------------------------------------------------------------------------------- */

typedef struct reader {
    lt_model *model;
    lt_adapter *adapter;
    const lt_safetensors *file;
    bool *used; /* [file->count] */
    float *values;
    void *staged;
    size_t elements; /* room in both */
} reader;

static const lt_safetensors_entry *take(reader *r, const char *key)
{
    const lt_safetensors_entry *entry = lt_safetensors_find(r->file, key);
    if (entry) r->used[entry - r->file->entries] = true;
    return entry;
}

/* "x.lora_A.weight" as "x.lora_A.default.weight": how some tools write what is in memory. */
static const lt_safetensors_entry *take_with_adapter_name(reader *r, const char *key)
{
    char spelled[KEY_SIZE + 16];
    size_t length = strlen(key), end = strlen(".weight");
    if (length < end || strcmp(key + length - end, ".weight") != 0) return NULL;
    snprintf(spelled, sizeof spelled, "%.*s.default.weight", (int)(length - end), key);
    return take(r, spelled);
}

/* "x.weight", or as "x.modules_to_save.default.weight" or "x.modules_to_save.weight". */
static const lt_safetensors_entry *take_module(reader *r, const char *module)
{
    static const char *const ends[] = {".weight", ".modules_to_save.default.weight",
                                       ".modules_to_save.weight"};
    char spelled[KEY_SIZE];
    const lt_safetensors_entry *entry = NULL;
    for (int i = 0; i < 3 && !entry; i++) {
        snprintf(spelled, sizeof spelled, KEY_PREFIX "%s%s", module, ends[i]);
        entry = take(r, spelled);
    }
    return entry;
}

/* Under the name of today's class, or of older ones. */
static const lt_safetensors_entry *take_saved(reader *r, const lt_param *param)
{
    lt_saved_module modules[2];
    lt_saved_modules(r->model->config.family, modules);
    const lt_saved_module *module = &modules[param->layer < 0 ? 0 : 1];
    const lt_safetensors_entry *entry = take_module(r, module->path);
    return entry ? entry : take_module(r, module->file);
}

static const lt_safetensors_entry *find_row(reader *r, const lt_param *param, char *key)
{
    const lt_safetensors_entry *entry;
    if (is_prompt(r->adapter)) {
        snprintf(key, KEY_SIZE, "%s", without(param->name, ENCODER_PREFIX));
        return take(r, key);
    }
    snprintf(key, KEY_SIZE, KEY_PREFIX "%s", without(param->name, SAVED_PREFIX));
    if (without(param->name, SAVED_PREFIX) != param->name) return take_saved(r, param);
    if ((entry = take(r, key))) return entry;
    if ((entry = take_with_adapter_name(r, key))) return entry;
    char vector[KEY_SIZE + 16]; /* DoRA's magnitude, in newer memory */
    snprintf(vector, sizeof vector, "%s.weight", key);
    if ((entry = take(r, vector))) return entry;
    return take_with_adapter_name(r, vector);
}

static lt_status check_shape(const reader *r, const lt_param *param,
                             const lt_safetensors_entry *entry, lt_err *err)
{
    const char *base = r->adapter->config.base_model;
    if (entry->ndim == param->ndim &&
        memcmp(entry->shape, param->shape, (size_t)param->ndim * sizeof *param->shape) == 0)
        return LT_OK;
    char have[200], want[64];
    lt_shape_text(entry->ndim, entry->shape, have, sizeof have);
    lt_shape_text(param->ndim, param->shape, want, sizeof want);
    return lt_fail(err, LT_ERR_FORMAT,
                   "%s: tensor \"%.200s\" has shape %s, but this model (%s, hidden size %" PRId64
                   ", %" PRId64 " layers) with this " LT_ADAPTER_CONFIG
                   " asks for %s: the adapter is for another base%s%.200s",
                   r->file->path, entry->name, have, r->model->config.family->name,
                   r->model->config.hidden_size, r->model->config.num_hidden_layers, want,
                   base ? ", " : "", base ? base : "");
}

static lt_status read_row(reader *r, const lt_param *param, lt_err *err)
{
    char key[KEY_SIZE];
    const lt_safetensors_entry *entry = find_row(r, param, key);
    if (!entry)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: tensor \"%s\" is missing; the adapter is incomplete, or for another "
                       "base than this %s model of %" PRId64 " layers",
                       r->file->path, key, r->model->config.family->name,
                       r->model->config.num_hidden_layers);
    LT_TRY(check_shape(r, param, entry, err));
    const lt_backend *backend = r->model->backend;
    lt_param_layout layout = layout_of(r->model, param);
    int64_t step = lt_layout_chunk_rows(&layout);
    size_t size = lt_dtype_size(backend->real);
    for (int64_t first = 0; first < layout.rows; first += step) {
        int64_t count = lt_min_i64(step, layout.rows - first), elements = count * layout.columns;
        LT_TRY(lt_layout_read(&layout, &r->file, &entry, first, count, r->values, err));
        lt_numbers_from_f32(r->values, elements, backend->real, r->staged);
        LT_TRY(backend->upload(backend,
                               (char *)param->weight.data + (size_t)(first * layout.columns) * size,
                               r->staged, (size_t)elements * size, err));
    }
    return LT_OK;
}

/* Nothing is dropped silently. */
static lt_status check_leftovers(const reader *r, lt_err *err)
{
    for (size_t i = 0; i < r->file->count; i++)
        if (!r->used[i])
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: tensor \"%.200s\" does not belong to a %s adapter of this %s model "
                           "of %" PRId64 " layers with this " LT_ADAPTER_CONFIG,
                           r->file->path, r->file->entries[i].name, r->adapter->method->name,
                           r->model->config.family->name, r->model->config.num_hidden_layers);
    return LT_OK;
}

/* The type that most of the tensors have. */
static lt_dtype dtype_of(const lt_safetensors *file)
{
    static const struct {
        const char *name;
        lt_dtype dtype;
    } types[] = {{"F32", LT_F32}, {"BF16", LT_BF16}, {"F16", LT_F16}, {"F64", LT_F64}};
    size_t most = 0, best = 0;
    for (size_t t = 0; t < LT_COUNT_OF(types); t++) {
        size_t count = 0;
        for (size_t i = 0; i < file->count; i++)
            count += strcmp(file->entries[i].dtype, types[t].name) == 0;
        if (count > most) best = t;
        most = count > most ? count : most;
    }
    return types[best].dtype;
}

static lt_status read_rows(reader *r, lt_err *err)
{
    const lt_param *rows = &r->model->params[r->adapter->first_param];
    for (int i = 0; i < r->adapter->param_count; i++) {
        lt_param_layout layout = layout_of(r->model, &rows[i]);
        int64_t count = lt_min_i64(lt_layout_chunk_rows(&layout), layout.rows) * layout.columns;
        r->elements = (size_t)lt_max_i64((int64_t)r->elements, count);
    }
    r->values = malloc(r->elements * sizeof *r->values);
    r->staged = malloc(r->elements * sizeof(double));
    r->used = calloc(r->file->count + 1, sizeof *r->used);
    if (!r->values || !r->staged || !r->used)
        return lt_fail_nomem(err, r->elements * 12, "reading an adapter");
    for (int i = 0; i < r->adapter->param_count; i++)
        LT_TRY(read_row(r, &rows[i], err));
    return check_leftovers(r, err);
}

lt_status lt_adapter_restore(lt_model *model, lt_adapter *adapter, const char *directory,
                             lt_err *err)
{
    bool network = adapter->encoder.stages > 0;
    lt_buffer path = {0};
    lt_safetensors file = {0};
    lt_status status;
    LT_TRY_GOTO(status,
                lt_path_join(&path, directory, network ? LT_ENCODER_FILE : LT_ADAPTER_FILE, err),
                done);
    LT_TRY_GOTO(status, lt_safetensors_open(path.data, &file, err), done);
    reader r = {.model = model, .adapter = adapter, .file = &file};
    status = read_rows(&r, err);
    adapter->file_dtype = dtype_of(&file);
    free(r.values);
    free(r.staged);
    free(r.used);
    if (status == LT_OK && adapter->method->loaded)
        status = adapter->method->loaded(model, adapter, err);
    lt_safetensors_close(&file);
done:
    lt_buffer_free(&path);
    return status;
}

/* --- Writing ---------------------------------------------------------------------------------- */

typedef struct writer {
    const lt_model *model;
    const lt_adapter *adapter;
    lt_dtype dtype;
    bool encoder;    /* the network's rows, not PEFT's file */
    lt_tensor table; /* of a prompt or prefix */
    lt_safetensors_declaration *tensors;
    char (*keys)[KEY_SIZE];
    const lt_param **rows;
    size_t count;
} writer;

static lt_status download_values(const lt_backend *backend, lt_tensor from, float *out, lt_err *err)
{
    size_t count = (size_t)lt_tensor_count(from), size = lt_dtype_size(from.dtype);
    if (from.dtype == LT_F32) return backend->download(backend, out, from.data, count * size, err);
    void *staged = malloc(count * size);
    if (!staged) return lt_fail_nomem(err, count * size, "writing an adapter");
    lt_status status = backend->download(backend, staged, from.data, count * size, err);
    lt_numbers_to_f32(staged, (int64_t)count, from.dtype, out);
    free(staged);
    return status;
}

static lt_status fill_tensor(void *context, const char *name, void *out, lt_err *err)
{
    const writer *w = context;
    size_t i = 0;
    while (strcmp(w->keys[i], name) != 0)
        i++;
    const lt_param *row = w->rows[i];
    lt_tensor from = row ? row->weight : w->table;
    int64_t count = lt_tensor_count(from);
    float *values = malloc((size_t)count * sizeof *values);
    if (!values) return lt_fail_nomem(err, (size_t)count * sizeof *values, "writing an adapter");
    lt_status status = download_values(w->model->backend, from, values, err);
    if (status == LT_OK && row) {
        lt_param_layout layout = layout_of(w->model, row);
        lt_layout_write(&layout, 0, layout.rows, values, w->dtype, out);
    } else if (status == LT_OK) {
        lt_numbers_from_f32(values, count, w->dtype, out);
    }
    free(values);
    return status;
}

static void declare(writer *w, const char *key, int ndim, const int64_t *shape, const lt_param *row)
{
    snprintf(w->keys[w->count], KEY_SIZE, "%s", key);
    w->rows[w->count] = row;
    w->tensors[w->count] = (lt_safetensors_declaration){
        .name = w->keys[w->count], .dtype = w->dtype, .ndim = ndim, .shape = {shape[0], shape[1]}};
    w->count++;
}

static lt_status declare_all(writer *w, lt_err *err)
{
    const lt_param *rows = &w->model->params[w->adapter->first_param];
    size_t most = (size_t)w->adapter->param_count + 1;
    char key[KEY_SIZE];
    w->tensors = calloc(most, sizeof *w->tensors);
    w->keys = calloc(most, sizeof *w->keys);
    w->rows = calloc(most, sizeof *w->rows);
    if (!w->tensors || !w->keys || !w->rows)
        return lt_fail_nomem(err, most * (sizeof *w->tensors + KEY_SIZE), "writing an adapter");
    if (is_prompt(w->adapter) && !w->encoder) {
        declare(w, LT_PROMPT_TENSOR, 2, w->table.shape, NULL);
        return LT_OK;
    }
    for (int i = 0; i < w->adapter->param_count; i++) {
        if (w->encoder)
            snprintf(key, sizeof key, "%s", without(rows[i].name, ENCODER_PREFIX));
        else
            snprintf(key, sizeof key, KEY_PREFIX "%s", without(rows[i].name, SAVED_PREFIX));
        declare(w, key, rows[i].ndim, rows[i].shape, &rows[i]);
    }
    return LT_OK;
}

static lt_status write_tensors(writer *w, const char *directory, const char *name, lt_err *err)
{
    lt_buffer path = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, directory, name, err), done);
    LT_TRY_GOTO(status, declare_all(w, err), done);
    status = lt_safetensors_write(path.data, w->tensors, w->count, NULL, fill_tensor, w, err);
done:
    free(w->tensors);
    free(w->keys);
    free(w->rows);
    lt_buffer_free(&path);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* As PEFT writes them: keys in order. */
static json_t *sorted(json_t *object)
{
    size_t count = json_object_size(object), i = 0;
    const char **names = calloc(count + 1, sizeof *names), *name;
    json_t *out = json_object(), *value;
    if (names && out) {
        json_object_foreach(object, name, value) names[i++] = name;
        qsort(names, count, sizeof *names, by_name);
        for (i = 0; i < count; i++)
            json_object_set(out, names[i], json_object_get(object, names[i]));
    }
    free(names);
    return out;
}

static lt_status write_config(const lt_model *model, const lt_adapter *adapter,
                              const char *directory, lt_err *err)
{
    lt_buffer path = {0};
    const char *base = adapter->config.base_model;
    json_t *config =
        json_pack("{s:o, s:b, s:s, s:n, s:s}", "base_model_name_or_path",
                  base ? json_string(base) : json_null(), "inference_mode", 1, "peft_type",
                  adapter->method->peft_type, "revision", "task_type", "CAUSAL_LM");
    json_t *in_order = NULL;
    lt_status status = config ? LT_OK : lt_fail_nomem(err, 512, "the adapter's configuration");
    LT_TRY_GOTO(status, status, done);
    LT_TRY_GOTO(status, adapter->method->write_config(model, adapter, config, err), done);
    LT_TRY_GOTO(status, lt_path_join(&path, directory, LT_ADAPTER_CONFIG, err), done);
    in_order = sorted(config);
    status = lt_json_write_file(path.data, in_order, err);
done:
    json_decref(config);
    json_decref(in_order);
    lt_buffer_free(&path);
    return status;
}

/* What the network makes, into a workspace that the caller frees. */
static lt_status make_table(const lt_model *model, const lt_adapter *adapter, lt_workspace **ws,
                            lt_tensor *table, lt_err *err)
{
    const lt_workspace_settings smallest = {.rows = 1, .length = 1};
    LT_TRY(lt_workspace_create(model, &smallest, ws, err));
    const lt_pass pass = {.model = model, .backend = model->backend, .workspace = *ws};
    LT_TRY(adapter->method->begin(&pass, adapter, -1, err));
    *table = lt_prompt_table(&pass, adapter);
    return LT_OK;
}

lt_status lt_adapter_save(const lt_model *model, const lt_adapter *adapter, const char *directory,
                          lt_dtype dtype, bool state, lt_err *err)
{
    writer w = {.model = model, .adapter = adapter, .dtype = dtype};
    lt_workspace *ws = NULL;
    lt_status status = LT_OK;
    if (is_prompt(adapter))
        LT_TRY_GOTO(status, make_table(model, adapter, &ws, &w.table, err), done);
    LT_TRY_GOTO(status, write_config(model, adapter, directory, err), done);
    LT_TRY_GOTO(status, write_tensors(&w, directory, LT_ADAPTER_FILE, err), done);
    if (state && adapter->encoder.stages > 0) {
        writer network = {.model = model, .adapter = adapter, .dtype = LT_F32, .encoder = true};
        status = write_tensors(&network, directory, LT_ENCODER_FILE, err);
    }
done:
    lt_workspace_free(ws);
    return status;
}
