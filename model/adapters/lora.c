/* LoRA (Hu et al., 2021), rsLoRA and DoRA: rows, initial values, configuration, merging. Its part
 * in the passes is in lora_linear.c.
 *
 * A part of a block's matrix that is a Hugging Face module of its own has an A [r, in] and a B
 * [out, r]. The parts' A lie under each other without gaps, whatever their names in files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "model/adapters/internal.h"
#include "model/adapters/lora.h"
#include "model/formats/layout.h"

/* --- Rows ------------------------------------------------------------------------------------- */

typedef struct row_list {
    lt_param *rows;
    int count;
} row_list;

static lt_param *add_row(row_list *list, int layer, const char *module, const char *end)
{
    lt_param *row = &list->rows[list->count++];
    *row = (lt_param){.layer = layer};
    snprintf(row->name, sizeof row->name, "%s%s", module, end);
    return row;
}

/* The block's matrix that a linear module is, as a row of the model's own. */
static const lt_param *matrix_of(const lt_model *model, int64_t layer, lt_linear which)
{
    char name[LT_MODULE_SIZE];
    lt_family_expand(lt_linear_row(model->config.gated_mlp, which), (int)layer, name, sizeof name);
    return lt_model_param(model, name);
}

typedef struct building {
    const lt_model *model;
    lt_adapter *adapter;
    row_list list;
    int first; /* the table's rows before the adapter's */
    int layer;
    lt_linear which;
    bool per_head;
} building;

static void module_path(const building *b, int part, char *out, size_t size)
{
    char pattern[LT_MODULE_SIZE] = "";
    lt_module_pattern(b->model->config.family, b->model->config.gated_mlp, b->which, part, pattern,
                      sizeof pattern);
    lt_family_expand(pattern, b->layer, out, size);
}

/* Whether and how the part is adapted; A's rows at once, B's when all of A are there. */
static lt_status plan_part(building *b, lt_lora_linear *linear, int part, int64_t columns,
                           lt_err *err)
{
    const lt_adapter_config *config = &b->adapter->config;
    lt_lora_part *p = &linear->parts[part];
    char module[LT_MODULE_SIZE];
    bool matches;
    int64_t rank;
    double alpha;
    p->a = p->b = p->magnitude = -1;
    module_path(b, part, module, sizeof module);
    LT_TRY(lt_target_matches(config, module, b->layer, &matches, err));
    if (!matches) return LT_OK;
    LT_TRY(lt_target_rank(config, module, &rank, &alpha, err));
    if (rank > lt_min_i64(p->rows, columns))
        return lt_fail(err, LT_ERR_USAGE,
                       "rank %lld is larger than the matrix of %s, which is %lld x %lld; %s",
                       (long long)rank, module, (long long)p->rows, (long long)columns,
                       config->trained ? "the adapter is for another base"
                                       : "take a smaller --lora-r");
    p->rank = rank;
    p->first_rank = linear->rank;
    p->scaling = alpha / (config->use_rslora ? sqrt((double)rank) : (double)rank);
    linear->rank += rank;
    p->a = b->first + b->list.count;
    lt_param *a = add_row(&b->list, b->layer, module, ".lora_A.weight");
    a->ndim = 2;
    a->shape[0] = rank;
    a->shape[1] = columns;
    a->init = LT_INIT_UNIFORM; /* Kaiming with a = sqrt 5 comes to this */
    a->init_scale = 1 / sqrt((double)columns);
    a->joined = true; /* but for the last */
    return LT_OK;
}

static void finish_part(building *b, lt_lora_part *p, int part)
{
    char module[LT_MODULE_SIZE];
    module_path(b, part, module, sizeof module);
    p->b = b->first + b->list.count;
    lt_param *row = add_row(&b->list, b->layer, module, ".lora_B.weight");
    row->ndim = 2;
    row->shape[0] = p->rows;
    row->shape[1] = p->rank;
    row->per_head = b->per_head;
}

/* Vectors follow all matrices of the block. */
static void add_magnitudes(building *b)
{
    for (int which = 0; which < LT_LINEAR_COUNT; which++) {
        lt_lora_linear *linear = &b->adapter->linears[b->layer * LT_LINEAR_COUNT + which];
        b->which = (lt_linear)which;
        for (int part = 0; part < linear->part_count; part++) {
            lt_lora_part *p = &linear->parts[part];
            char module[LT_MODULE_SIZE];
            if (p->rank == 0) continue;
            module_path(b, part, module, sizeof module);
            p->magnitude = b->first + b->list.count;
            lt_param *row = add_row(&b->list, b->layer, module, ".lora_magnitude_vector");
            row->ndim = 1;
            row->shape[0] = p->rows;
            row->shape[1] = 1;
            row->summed = true;
            row->per_head = b->list.rows[p->b - b->first].per_head;
        }
    }
}

static lt_status add_linear(building *b, lt_err *err)
{
    lt_adapter *adapter = b->adapter;
    lt_lora_linear *linear = &adapter->linears[b->layer * LT_LINEAR_COUNT + b->which];
    const lt_param *matrix = matrix_of(b->model, b->layer, b->which);
    lt_param_layout layout = lt_param_layout_of(&b->model->config, matrix);
    int64_t columns = matrix->shape[1], first_row = 0;
    b->per_head = layout.row->layout == LT_LAYOUT_PER_HEAD;
    linear->part_count = layout.parts;
    for (int part = 0; part < layout.parts; part++) {
        linear->parts[part].first_row = first_row;
        linear->parts[part].rows = layout.part_rows[part];
        first_row += layout.part_rows[part];
        LT_TRY(plan_part(b, linear, part, columns, err));
    }
    if (linear->rank == 0) return LT_OK;
    b->list.rows[b->list.count - 1].joined = false;
    for (int part = 0; part < layout.parts; part++)
        if (linear->parts[part].rank > 0) finish_part(b, &linear->parts[part], part);
    adapter->rank = lt_max_i64(adapter->rank, linear->rank);
    if (adapter->config.use_dora)
        adapter->dora_width = lt_max_i64(adapter->dora_width, matrix->shape[0]);
    if (adapter->config.lora_dropout > 0)
        adapter->input_width = lt_max_i64(adapter->input_width, columns);
    return LT_OK;
}

/* The adapter's own copy of the embedding or the head. */
static lt_status add_saved(building *b, const char *saved, lt_err *err)
{
    const lt_model_config *c = &b->model->config;
    lt_saved_module modules[2];
    lt_saved_modules(c->family, modules);
    for (int i = 0; i < 2; i++) {
        int *place = i == 0 ? &b->adapter->embed : &b->adapter->head;
        if (!lt_saved_module_is(&modules[i], saved)) continue;
        if (*place >= 0) return LT_OK; /* named twice */
        *place = b->first + b->list.count;
        lt_param *row = add_row(&b->list, i == 0 ? -1 : (int)c->num_hidden_layers, "", "");
        snprintf(row->name, sizeof row->name, "modules_to_save.%.60s.weight", modules[i].path);
        row->ndim = 2;
        row->shape[0] = c->vocab_size;
        row->shape[1] = c->hidden_size;
        row->summed = i == 0; /* the head's is one product */
        return LT_OK;
    }
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "modules_to_save names \"%.80s\": only embedding and head can be trained whole "
                   "beside LoRA",
                   saved);
}

static lt_status attach(lt_model *model, lt_adapter *adapter, lt_err *err)
{
    const lt_model_config *c = &model->config;
    int64_t layers = c->num_hidden_layers;
    size_t linears = (size_t)(layers * LT_LINEAR_COUNT);
    size_t most = linears * LT_MAX_PARTS * 3 + adapter->config.modules_to_save.count;
    building b = {.model = model, .adapter = adapter, .first = model->param_count};
    adapter->linears = calloc(linears, sizeof *adapter->linears);
    b.list.rows = calloc(most, sizeof *b.list.rows);
    lt_status status = LT_OK;
    if (!adapter->linears || !b.list.rows) {
        status = lt_fail_nomem(err, most * sizeof *b.list.rows, "an adapter");
        goto done;
    }
    for (b.layer = 0; b.layer < layers; b.layer++) {
        for (int which = 0; which < LT_LINEAR_COUNT; which++) {
            b.which = (lt_linear)which;
            LT_TRY_GOTO(status, add_linear(&b, err), done);
        }
        if (adapter->config.use_dora) add_magnitudes(&b);
    }
    if (b.list.count == 0) {
        status = lt_fail(err, LT_ERR_USAGE,
                         "LoRA's targets match no module of this model (%s, %lld layers)",
                         c->family->name, (long long)layers);
        goto done;
    }
    for (size_t i = 0; i < adapter->config.modules_to_save.count; i++)
        LT_TRY_GOTO(status, add_saved(&b, adapter->config.modules_to_save.items[i], err), done);
    status = lt_adapter_add_rows(model, adapter, b.list.rows, b.list.count, err);
done:
    free(b.list.rows);
    return status;
}

/* --- Memory and initial values ---------------------------------------------------------------- */

static void carve(lt_model *model, lt_adapter *adapter, lt_arena *arena)
{
    lt_dtype statistics = model->backend->statistics;
    int64_t linears = model->config.num_hidden_layers * LT_LINEAR_COUNT;
    for (int64_t i = 0; adapter->config.use_dora && i < linears; i++) {
        for (int k = 0; k < adapter->linears[i].part_count; k++) {
            lt_lora_part *p = &adapter->linears[i].parts[k];
            if (p->rank == 0) continue;
            size_t rows = (size_t)p->rows;
            void *norm = lt_arena_alloc(arena, rows, lt_dtype_size(statistics));
            void *scale = lt_arena_alloc(arena, rows, lt_dtype_size(statistics));
            p->norm = lt_tensor_1d(norm, statistics, p->rows);
            p->scale = lt_tensor_1d(scale, statistics, p->rows);
        }
    }
}

/* A magnitude starts as the length of its row, so that nothing changes while B is 0. */
static lt_status initialise(lt_model *model, lt_adapter *adapter, uint64_t seed, lt_err *err)
{
    (void)seed;
    lt_ends_view ends = lt_ends_weights(model, NULL);
    const struct {
        int row;
        lt_tensor from;
    } copies[] = {{adapter->embed, ends.embed_tokens}, {adapter->head, ends.lm_head}};
    for (int i = 0; i < 2; i++) {
        if (copies[i].row < 0) continue;
        bool head = i == 1 && !model->config.tie_word_embeddings;
        LT_TRY(lt_model_need_unit(model, head ? (int)model->config.num_hidden_layers : -1, err));
        lt_convert_args copy = {.x = copies[i].from, .y = model->params[copies[i].row].weight};
        LT_TRY(lt_convert(model->backend, &copy, err));
    }
    return lt_dora_refresh(model, adapter, true, err);
}

static lt_status loaded(lt_model *model, lt_adapter *adapter, lt_err *err)
{
    return lt_dora_refresh(model, adapter, false, err);
}

/* --- Merging ---------------------------------------------------------------------------------- */

/* One row of the matrix: w + s b A, and with DoRA that at length `magnitude`. */
static void merge_row(float *w, int64_t columns, const float *b, const float *a, int64_t rank,
                      double scaling, const float *magnitude)
{
    for (int64_t k = 0; k < rank; k++) {
        float factor = (float)(scaling * (double)b[k]);
        for (int64_t i = 0; i < columns; i++)
            w[i] += factor * a[k * columns + i];
    }
    if (!magnitude) return;
    double squares = 0;
    for (int64_t i = 0; i < columns; i++)
        squares += (double)w[i] * (double)w[i];
    float scale = squares > 0 ? (float)((double)*magnitude / sqrt(squares)) : 0; /* 0 stays 0 */
    for (int64_t i = 0; i < columns; i++)
        w[i] *= scale;
}

static lt_status download(const lt_backend *backend, lt_tensor from, float **out, lt_err *err)
{
    size_t bytes = (size_t)lt_tensor_count(from) * sizeof **out;
    *out = malloc(bytes);
    if (!*out) return lt_fail_nomem(err, bytes, "merging");
    return backend->download(backend, *out, from.data, bytes, err);
}

static lt_status merge_part(lt_model *model, const lt_param *matrix, const lt_lora_part *p,
                            lt_err *err)
{
    const lt_backend *backend = model->backend;
    lt_tensor rows = lt_tensor_slice(matrix->weight, 0, p->first_row, p->rows);
    int64_t columns = rows.shape[1];
    float *w = NULL, *a = NULL, *b = NULL, *m = NULL;
    lt_status status;
    LT_TRY_GOTO(status, download(backend, rows, &w, err), done);
    LT_TRY_GOTO(status, download(backend, model->params[p->a].weight, &a, err), done);
    LT_TRY_GOTO(status, download(backend, model->params[p->b].weight, &b, err), done);
    if (p->magnitude >= 0)
        LT_TRY_GOTO(status, download(backend, model->params[p->magnitude].weight, &m, err), done);
#pragma omp parallel for schedule(static) num_threads(backend->threads > 0 ? backend->threads : 1)
    for (int64_t i = 0; i < p->rows; i++)
        merge_row(w + i * columns, columns, b + i * p->rank, a, p->rank, p->scaling,
                  m ? m + i : NULL);
    status = backend->upload(backend, rows.data, w, (size_t)(p->rows * columns) * sizeof *w, err);
done:
    free(w);
    free(a);
    free(b);
    free(m);
    return status;
}

static lt_status merge(lt_model *model, const lt_adapter *adapter, lt_err *err)
{
    for (int64_t i = 0; i < model->config.num_hidden_layers * LT_LINEAR_COUNT; i++) {
        const lt_lora_linear *linear = &adapter->linears[i];
        const lt_param *matrix =
            matrix_of(model, i / LT_LINEAR_COUNT, (lt_linear)(i % LT_LINEAR_COUNT));
        for (int k = 0; k < linear->part_count; k++)
            if (linear->parts[k].rank > 0)
                LT_TRY(merge_part(model, matrix, &linear->parts[k], err));
    }
    return LT_OK;
}

/* --- Configuration ---------------------------------------------------------------------------- */

/* Features that change what the adapter computes and that are not here: refused when they are on.
 */
static lt_status refuse_features(const json_t *json, const char *where, lt_err *err)
{
    static const char *const keys[] = {"layer_replication",
                                       "megatron_config",
                                       "trainable_token_indices",
                                       "target_parameters",
                                       "alora_invocation_tokens",
                                       "arrow_config",
                                       "lora_bias",
                                       "use_qalora",
                                       "use_bdlora",
                                       "monteclora_config"};
    const char *bias = "none";
    LT_TRY(lt_json_get_string(json, "bias", where, &bias, err));
    if (strcmp(bias, "none") != 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: \"bias\": \"%.40s\" is not supported", where,
                       bias);
    for (size_t i = 0; i < LT_COUNT_OF(keys); i++) {
        const json_t *value = json_object_get(json, keys[i]);
        bool off = !value || json_is_null(value) || json_is_false(value) ||
                   (json_is_array(value) && json_array_size(value) == 0) ||
                   (json_is_object(value) && json_object_size(value) == 0);
        if (!off)
            return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: \"%s\" is not supported", where, keys[i]);
    }
    return LT_OK;
}

static lt_status read_targets(const json_t *json, const char *where, lt_adapter_config *out,
                              lt_err *err)
{
    const json_t *targets = json_object_get(json, "target_modules");
    const json_t *excluded = json_object_get(json, "exclude_modules");
    if (json_is_string(excluded))
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: \"exclude_modules\" as a pattern is not supported; a list is", where);
    LT_TRY(lt_read_string_list(json, "exclude_modules", where, &out->exclude_modules, err));
    LT_TRY(lt_read_string_list(json, "modules_to_save", where, &out->modules_to_save, err));
    if (json_is_string(targets))
        return lt_copy_string(json_string_value(targets), &out->target_pattern, err);
    LT_TRY(lt_read_string_list(json, "target_modules", where, &out->target_modules, err));
    if (out->target_modules.count == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"target_modules\" names nothing", where);
    return LT_OK;
}

static lt_status read_layers(const json_t *json, const char *where, lt_adapter_config *out,
                             lt_err *err)
{
    const json_t *layers = json_object_get(json, "layers_to_transform");
    if (!layers || json_is_null(layers)) return LT_OK;
    size_t count = json_is_array(layers) ? json_array_size(layers) : 1;
    out->layers_to_transform = calloc(count + 1, sizeof *out->layers_to_transform);
    if (!out->layers_to_transform) return lt_fail_nomem(err, count * 8, "a list of layers");
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(layers) ? json_array_get(layers, i) : layers;
        if (!json_is_integer(item))
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: \"layers_to_transform\" is not a number or a list of them", where);
        out->layers_to_transform[out->layers_to_transform_count++] = json_integer_value(item);
    }
    return LT_OK;
}

static lt_status read_pattern(const json_t *json, const char *key, const char *where, json_t **out,
                              lt_err *err)
{
    json_t *pattern = json_object_get(json, key), *value;
    const char *name;
    if (!pattern || json_is_null(pattern)) return LT_OK;
    if (!json_is_object(pattern))
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" is not an object", where, key);
    json_object_foreach(pattern, name, value)
    {
        bool good =
            strcmp(key, "rank_pattern") == 0 ? json_is_integer(value) : json_is_number(value);
        if (!good)
            return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" holds what is not a number", where, key);
    }
    *out = json_incref(pattern);
    return LT_OK;
}

static lt_status read_config(const json_t *json, const char *where, lt_adapter_config *out,
                             lt_err *err)
{
    enum { MAX_RANK = 65536 };
    LT_TRY(refuse_features(json, where, err));
    out->r = 8;
    out->lora_alpha = 8;
    LT_TRY(lt_json_get_int(json, "r", 1, MAX_RANK, where, &out->r, err));
    LT_TRY(lt_json_get_number(json, "lora_alpha", where, &out->lora_alpha, err));
    LT_TRY(lt_json_get_number(json, "lora_dropout", where, &out->lora_dropout, err));
    if (!(out->lora_dropout >= 0 && out->lora_dropout < 1))
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"lora_dropout\" is not in [0, 1)", where);
    LT_TRY(lt_json_get_bool(json, "use_rslora", where, &out->use_rslora, err));
    LT_TRY(lt_json_get_bool(json, "use_dora", where, &out->use_dora, err));
    LT_TRY(read_targets(json, where, out, err));
    LT_TRY(read_layers(json, where, out, err));
    LT_TRY(read_pattern(json, "rank_pattern", where, &out->rank_pattern, err));
    return read_pattern(json, "alpha_pattern", where, &out->alpha_pattern, err);
}

static json_t *list_to_json(const lt_string_list *list)
{
    if (list->count == 0) return json_null();
    json_t *out = json_array();
    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(out, json_string(list->items[i]));
    return out;
}

static json_t *layers_to_json(const lt_adapter_config *c)
{
    if (c->layers_to_transform_count == 0) return json_null();
    json_t *out = json_array();
    for (size_t i = 0; i < c->layers_to_transform_count; i++)
        json_array_append_new(out, json_integer((json_int_t)c->layers_to_transform[i]));
    return out;
}

static json_t *pattern_to_json(json_t *pattern)
{
    return pattern ? json_incref(pattern) : json_object();
}

/* A whole number as one: PEFT writes 16, not 16.0. */
static json_t *number_to_json(double value)
{
    bool whole = value == floor(value) && fabs(value) < 1e15;
    return whole ? json_integer((json_int_t)value) : json_real(value);
}

/* The classic keys, which every PEFT reads, and no newer ones. */
static lt_status write_config(const lt_model *model, const lt_adapter *adapter, json_t *out,
                              lt_err *err)
{
    const lt_adapter_config *c = &adapter->config;
    /* GPT-2's Conv1D weights are [in, out] */
    const lt_family_row *qkv =
        lt_family_find_row(model->config.family, "layers.0.attention.qkv.weight");
    bool transposed = qkv->layout == LT_LAYOUT_TRANSPOSED;
    json_t *more = json_pack(
        "{s:o, s:n, s:s, s:b, s:b, s:n, s:n, s:o, s:{}, s:o, s:b, s:o, s:n, s:s, s:o, s:I, s:o, "
        "s:o, s:b, s:b}",
        "alpha_pattern", pattern_to_json(c->alpha_pattern), "auto_mapping", "bias", "none",
        "fan_in_fan_out", transposed, "init_lora_weights", 1, "layer_replication", "layers_pattern",
        "layers_to_transform", layers_to_json(c), "loftq_config", "lora_alpha",
        number_to_json(c->lora_alpha), "lora_bias", 0, "lora_dropout",
        number_to_json(c->lora_dropout), "megatron_config", "megatron_core", "megatron.core",
        "modules_to_save", list_to_json(&c->modules_to_save), "r", (json_int_t)c->r, "rank_pattern",
        pattern_to_json(c->rank_pattern), "target_modules",
        c->target_pattern ? json_string(c->target_pattern) : list_to_json(&c->target_modules),
        "use_dora", c->use_dora, "use_rslora", c->use_rslora);
    if (!more || json_object_update(out, more) != 0) {
        json_decref(more);
        return lt_fail_nomem(err, 2048, "the adapter's configuration");
    }
    if (c->exclude_modules.count > 0)
        json_object_set_new(out, "exclude_modules", list_to_json(&c->exclude_modules));
    json_decref(more);
    return LT_OK;
}

const lt_adapter_method lt_method_lora = {.kind = LT_ADAPTER_LORA,
                                          .name = "lora",
                                          .peft_type = "LORA",
                                          .attach = attach,
                                          .initialise = initialise,
                                          .loaded = loaded,
                                          .carve = carve,
                                          .begin = lt_lora_begin,
                                          .linear_forward = lt_lora_forward,
                                          .linear_backward = lt_lora_backward,
                                          .merge = merge,
                                          .read_config = read_config,
                                          .write_config = write_config};
