/* The parameter table: rows, their places, units, freezing, and the views of the passes.
 *
 * A row starts at a multiple of ROW_ALIGNMENT elements and the gap before the next is zero;
 * gradients lie in the same order with the same gaps, without the frozen rows. So a run of rows is
 * one segment for the optimizer, gaps included. Where processes divide units among themselves,
 * those end at multiples of what can be divided, and gradients of a unit lie just as its weights
 * do.
 */
#include "model/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/adapters/internal.h"
#include "model/families/families.h"
#include "model/sharding.h"

enum {
    ROW_ALIGNMENT = LT_QUANTISED_BLOCK, /* elements */
    MAX_BLOCK_ROWS = 16,
    MAX_END_ROWS = 5,
};

/* What a row is, before it has a place. */
typedef struct row {
    const char *name;      /* within its block, or whole */
    size_t view;           /* offset of its lt_tensor in lt_block_view or lt_ends_view */
    int64_t rows, columns; /* columns 0: a vector */
    lt_init_kind init;
    bool residual; /* its output goes onto the residual stream: see scaled_residual_init */
} row;

typedef struct row_list {
    row rows[MAX_BLOCK_ROWS];
    int count;
} row_list;

static void add(row_list *list, bool present, row r)
{
    if (present) list->rows[list->count++] = r;
}

#define BLOCK(field) offsetof(lt_block_view, field)
#define ENDS(field)  offsetof(lt_ends_view, field)

/* A block's rows: matrices first, then vectors. */
static row_list block_rows(const lt_model_config *c)
{
    int64_t hidden = c->hidden_size, inner = c->intermediate_size;
    int64_t heads_width = c->num_attention_heads * c->head_dim;
    int64_t qkv = heads_width + 2 * c->num_key_value_heads * c->head_dim;
    int64_t up = c->gated_mlp ? 2 * inner : inner;
    bool layer_norm = c->norm == LT_NORM_LAYER;
    row_list l = {.count = 0};
    /* clang-format off */
    add(&l, true, (row){"attention.qkv.weight", BLOCK(qkv_weight), qkv, hidden, LT_INIT_NORMAL, false});
    add(&l, true, (row){"attention.out.weight", BLOCK(out_weight), hidden, heads_width, LT_INIT_NORMAL, true});
    add(&l, true, (row){c->gated_mlp ? "mlp.gate_up.weight" : "mlp.up.weight", BLOCK(up_weight), up, hidden, LT_INIT_NORMAL, false});
    add(&l, true, (row){"mlp.down.weight", BLOCK(down_weight), hidden, inner, LT_INIT_NORMAL, true});
    add(&l, c->attention_bias, (row){"attention.qkv.bias", BLOCK(qkv_bias), qkv, 0, LT_INIT_ZERO, false});
    add(&l, c->attention_out_bias, (row){"attention.out.bias", BLOCK(out_bias), hidden, 0, LT_INIT_ZERO, false});
    add(&l, c->mlp_bias, (row){c->gated_mlp ? "mlp.gate_up.bias" : "mlp.up.bias", BLOCK(up_bias), up, 0, LT_INIT_ZERO, false});
    add(&l, c->mlp_bias, (row){"mlp.down.bias", BLOCK(down_bias), hidden, 0, LT_INIT_ZERO, false});
    add(&l, true, (row){"attention_norm.weight", BLOCK(attention_norm_weight), hidden, 0, LT_INIT_ONE, false});
    add(&l, layer_norm, (row){"attention_norm.bias", BLOCK(attention_norm_bias), hidden, 0, LT_INIT_ZERO, false});
    add(&l, true, (row){"mlp_norm.weight", BLOCK(mlp_norm_weight), hidden, 0, LT_INIT_ONE, false});
    add(&l, layer_norm, (row){"mlp_norm.bias", BLOCK(mlp_norm_bias), hidden, 0, LT_INIT_ZERO, false});
    add(&l, c->qk_norm, (row){"attention.q_norm.weight", BLOCK(q_norm_weight), c->head_dim, 0, LT_INIT_ONE, false});
    add(&l, c->qk_norm, (row){"attention.k_norm.weight", BLOCK(k_norm_weight), c->head_dim, 0, LT_INIT_ONE, false});
    /* clang-format on */
    return l;
}

/* The rows before the blocks (first) or after them. */
static row_list end_rows(const lt_model_config *c, bool first)
{
    int64_t hidden = c->hidden_size;
    row_list l = {.count = 0};
    /* clang-format off */
    add(&l, first, (row){"embed_tokens.weight", ENDS(embed_tokens), c->vocab_size, hidden, LT_INIT_NORMAL, false});
    add(&l, first && c->learned_positions, (row){"embed_positions.weight", ENDS(embed_positions), c->max_position_embeddings, hidden, LT_INIT_NORMAL, false});
    add(&l, !first && !c->tie_word_embeddings, (row){"lm_head.weight", ENDS(lm_head), c->vocab_size, hidden, LT_INIT_NORMAL, false});
    add(&l, !first, (row){"final_norm.weight", ENDS(final_norm_weight), hidden, 0, LT_INIT_ONE, false});
    add(&l, !first && c->norm == LT_NORM_LAYER, (row){"final_norm.bias", ENDS(final_norm_bias), hidden, 0, LT_INIT_ZERO, false});
    /* clang-format on */
    return l;
}

/* --- Building ----------------------------------------------------------------------------------
 */

static double init_scale(const lt_model_config *config, const row *r)
{
    if (r->init != LT_INIT_NORMAL) return 0;
    double std = config->initializer_range;
    /* "We scale the weights of residual layers at initialization by a factor of 1/sqrt(N)" (GPT-2)
     */
    if (r->residual && config->family->scaled_residual_init)
        std /= sqrt(2.0 * (double)config->num_hidden_layers);
    return std;
}

static int64_t row_elements(const lt_param *param)
{
    return param->ndim == 2 ? param->shape[0] * param->shape[1] : param->shape[0];
}

/* What a row takes, with the gap behind it. */
static int64_t padded(const lt_param *param)
{
    int64_t count = row_elements(param);
    return param->joined ? count : (count + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
}

/* A model that is only looked at has no backend. */
static lt_dtype real_of(const lt_model *model)
{
    return model->backend ? model->backend->real : LT_F32;
}

bool lt_model_is_trainable(const lt_model *model)
{
    return model->matrix_dtype == real_of(model);
}

/* Matrices of a frozen base may be held in half; the position table is added, not multiplied with,
 * and stays. */
static lt_dtype row_dtype(const lt_model *model, const row *r)
{
    bool multiplied = r->columns > 0 && r->view != ENDS(embed_positions);
    return multiplied ? model->matrix_dtype : real_of(model);
}

/* A unit's rows. */
static void append_rows(lt_model *model, const row_list *list, int layer)
{
    bool in_block = layer >= 0 && layer < model->config.num_hidden_layers;
    lt_unit *unit = &model->units[layer + 1];
    *unit = (lt_unit){.layer = layer,
                      .first_param = model->param_count,
                      .param_count = list->count,
                      .weight_offset = model->weight_count,
                      .half_offset = model->half_count};
    for (int i = 0; i < list->count; i++) {
        const row *r = &list->rows[i];
        lt_param *param = &model->params[model->param_count++];
        /* a tied embedding is written by the head first */
        bool table = layer < 0 && !(r->view == ENDS(embed_tokens) && !in_block &&
                                    model->config.tie_word_embeddings);
        *param = (lt_param){
            .adapter = -1,
            .dtype = row_dtype(model, r),
            .ndim = r->columns > 0 ? 2 : 1,
            .shape = {r->rows, r->columns > 0 ? r->columns : 1},
            .layer = layer,
            .init = r->init,
            .init_scale = init_scale(&model->config, r),
            .decay = r->columns > 0,
            .trainable = lt_model_is_trainable(model),
            .summed = r->columns == 0 || table,
        };
        if (in_block)
            snprintf(param->name, sizeof param->name, "layers.%d.%s", layer, r->name);
        else
            snprintf(param->name, sizeof param->name, "%s", r->name);
        int64_t *total = param->dtype != real_of(model) ? &model->half_count : &model->weight_count;
        param->offset = *total;
        *total += padded(param);
    }
    unit->weight_count = lt_unit_padded(model, model->weight_count - unit->weight_offset);
    unit->half_count = lt_unit_padded(model, model->half_count - unit->half_offset);
    model->weight_count = unit->weight_offset + unit->weight_count;
    model->half_count = unit->half_offset + unit->half_count;
}

static lt_status make_room(lt_model *model, size_t rows, lt_err *err)
{
    lt_param *params = realloc(model->params, rows * sizeof *params);
    if (params) model->params = params;
    lt_segment *segments = realloc(model->segments, rows * sizeof *segments);
    if (segments) model->segments = segments;
    return params && segments
               ? LT_OK
               : lt_fail_nomem(err, rows * sizeof *params, "the table of parameters");
}

static lt_status make_units(lt_model *model, size_t count, lt_err *err)
{
    lt_unit *units = realloc(model->units, count * sizeof *units);
    if (!units) return lt_fail_nomem(err, count * sizeof *units, "the table of parameters");
    model->units = units;
    return LT_OK;
}

lt_status lt_params_build(lt_model *model, lt_err *err)
{
    const lt_model_config *config = &model->config;
    int layers = (int)config->num_hidden_layers;
    model->param_count = 0;
    model->weight_count = 0;
    model->half_count = 0;
    LT_TRY(lt_sharding_check(&model->sharding, err));
    LT_TRY(make_room(model, (size_t)layers * MAX_BLOCK_ROWS + 2 * MAX_END_ROWS, err));
    LT_TRY(make_units(model, (size_t)layers + 2, err));
    row_list first = end_rows(config, true), block = block_rows(config),
             last = end_rows(config, false);
    append_rows(model, &first, -1);
    for (int layer = 0; layer < layers; layer++)
        append_rows(model, &block, layer);
    append_rows(model, &last, layers);
    model->own_param_count = model->param_count;
    return lt_params_lay_out_gradients(model, err);
}

lt_status lt_params_append(lt_model *model, const lt_param *rows, int row_count, int64_t *count,
                           lt_err *err)
{
    LT_TRY(make_room(model, (size_t)(model->param_count + row_count), err));
    *count = 0;
    for (int i = 0; i < row_count; i++) {
        lt_param *param = &model->params[model->param_count++];
        *param = rows[i];
        param->offset = *count;
        *count += padded(param);
    }
    return lt_params_lay_out_gradients(model, err);
}

/* --- Gradients and segments --------------------------------------------------------------------
 */

static void add_segment(lt_model *model, int index)
{
    const lt_param *param = &model->params[index];
    int64_t count = padded(param);
    lt_segment *last = model->segment_count > 0 ? &model->segments[model->segment_count - 1] : NULL;
    bool continues = last && last->layer == param->layer && last->decay == param->decay &&
                     model->params[last->first_param].adapter == param->adapter &&
                     last->offset + last->count == param->offset;
    if (continues) {
        last->count += count;
        return;
    }
    model->segments[model->segment_count++] =
        (lt_segment){.first_param = index,
                     .offset = param->offset,
                     .gradient_offset = param->gradient_offset,
                     .count = count,
                     .layer = param->layer,
                     .decay = param->decay};
}

/* Gives a trained row its place: `place`, or the next one where that is -1. */
static lt_status lay_out_row(lt_model *model, int index, int64_t place, lt_err *err)
{
    lt_param *param = &model->params[index];
    param->gradient_offset = -1;
    if (!param->trainable) return LT_OK;
    if (model->backend && param->dtype != model->backend->real)
        return lt_fail(err, LT_ERR_USAGE, "%s is held in %s and can only be frozen", param->name,
                       lt_dtype_name(param->dtype));
    param->gradient_offset = place >= 0 ? place : model->gradient_count;
    if (place < 0) model->gradient_count += padded(param);
    add_segment(model, index);
    return LT_OK;
}

static lt_status lay_out_unit(lt_model *model, lt_unit *unit, lt_err *err)
{
    bool divided = lt_is_divided(model), trained = false;
    unit->gradient_offset = model->gradient_count;
    for (int i = unit->first_param; i < unit->first_param + unit->param_count; i++) {
        int64_t in_unit = model->params[i].offset - unit->weight_offset;
        int64_t place = divided ? unit->gradient_offset + in_unit : -1;
        LT_TRY(lay_out_row(model, i, place, err));
        trained = trained || model->params[i].trainable;
    }
    if (divided && trained) model->gradient_count += unit->weight_count;
    unit->gradient_count = model->gradient_count - unit->gradient_offset;
    return LT_OK;
}

lt_status lt_params_lay_out_gradients(lt_model *model, lt_err *err)
{
    model->gradient_count = 0;
    model->segment_count = 0;
    for (int i = 0; i < model->config.num_hidden_layers + 2; i++)
        LT_TRY(lay_out_unit(model, &model->units[i], err));
    for (int i = model->own_param_count; i < model->param_count; i++)
        LT_TRY(lay_out_row(model, i, -1, err));
    return LT_OK;
}

int64_t lt_params_lowest_trained(const lt_model *model)
{
    int64_t lowest = model->config.num_hidden_layers;
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].trainable) lowest = lt_min_i64(lowest, model->params[i].layer);
    return lt_max_i64(lowest, 0);
}

/* --- Views -------------------------------------------------------------------------------------
 */

/* Fills a view struct from `list`, whose rows start at params[first]. */
static void fill_view(const lt_model *model, const row_list *list, int first, bool gradients,
                      void *view)
{
    for (int i = 0; i < list->count; i++) {
        const lt_param *param = &model->params[first + i];
        const lt_tensor *tensor = gradients ? &param->gradient : &param->weight;
        memcpy((char *)view + list->rows[i].view, tensor, sizeof *tensor);
    }
}

static lt_block_view block_view(const lt_model *model, int64_t layer, bool gradients)
{
    lt_block_view view = {0};
    row_list first = end_rows(&model->config, true), block = block_rows(&model->config);
    fill_view(model, &block, first.count + (int)layer * block.count, gradients, &view);
    return view;
}

static lt_ends_view ends_view(const lt_model *model, const lt_adapter *adapter, bool gradients)
{
    lt_ends_view view = {0};
    row_list first = end_rows(&model->config, true), last = end_rows(&model->config, false);
    fill_view(model, &first, 0, gradients, &view);
    fill_view(model, &last, model->own_param_count - last.count, gradients, &view);
    if (model->config.tie_word_embeddings) view.lm_head = view.embed_tokens;
    if (!adapter) return view;
    const struct {
        int row;
        lt_tensor *tensor;
    } copies[] = {{adapter->embed, &view.embed_tokens}, {adapter->head, &view.lm_head}};
    for (int i = 0; i < 2; i++) {
        if (copies[i].row < 0) continue;
        const lt_param *param = &model->params[copies[i].row];
        *copies[i].tensor = gradients ? param->gradient : param->weight;
    }
    return view;
}

lt_block_view lt_block_weights(const lt_model *model, int64_t layer)
{
    return block_view(model, layer, false);
}

lt_block_view lt_block_gradients(const lt_model *model, int64_t layer)
{
    return block_view(model, layer, true);
}

lt_ends_view lt_ends_weights(const lt_model *model, const lt_adapter *adapter)
{
    return ends_view(model, adapter, false);
}

lt_ends_view lt_ends_gradients(const lt_model *model, const lt_adapter *adapter)
{
    return ends_view(model, adapter, true);
}

/* --- Facts -------------------------------------------------------------------------------------
 */

const lt_param *lt_model_param(const lt_model *model, const char *name)
{
    for (int i = 0; i < model->param_count; i++)
        if (strcmp(model->params[i].name, name) == 0) return &model->params[i];
    return NULL;
}

int64_t lt_model_parameter_count(const lt_model *model, bool trainable_only)
{
    int64_t total = 0;
    for (int i = 0; i < model->param_count; i++)
        if (!trainable_only || model->params[i].trainable) total += row_elements(&model->params[i]);
    return total;
}

static int64_t unit_elements(const lt_model *model, int layer)
{
    const lt_unit *unit = lt_unit_of(model, layer);
    return unit->weight_count + unit->half_count;
}

static size_t largest_gradient_part(const lt_model *model)
{
    int64_t largest = 0, world = lt_max_i64(model->sharding.world_size, 1);
    for (int i = 0; i < model->config.num_hidden_layers + 2; i++)
        largest = lt_max_i64(largest, model->units[i].gradient_count);
    return (size_t)(largest / world) * lt_dtype_size(model->gradient_dtype);
}

lt_status lt_model_plan(const lt_model_config *config, const lt_backend *backend,
                        const lt_plan_settings *settings, lt_memory_plan *out, lt_err *err)
{
    memset(out, 0, sizeof *out);
    /* a model without memory: the layout code runs on arenas that only measure */
    lt_model model = {.config = *config,
                      .backend = backend,
                      .matrix_dtype = settings->half_base ? LT_BF16 : backend->real,
                      .gradient_dtype =
                          settings->half_gradients ? backend->real : backend->statistics,
                      .sharding = settings->sharding};
    lt_arena weights, adapter, gradients;
    lt_arena_measure(&weights, "weights");
    lt_arena_measure(&adapter, "adapter");
    lt_arena_measure(&gradients, "gradients");
    lt_status status;
    LT_TRY_GOTO(status, lt_params_build(&model, err), done);
    if (settings->adapter) {
        LT_TRY_GOTO(status, lt_adapter_attach(&model, settings->adapter, "planned", err), done);
        LT_TRY_GOTO(status, lt_adapter_train(&model, model.adapters[0], err), done);
        lt_adapter_carve(&model, model.adapters[0], &adapter);
    } else {
        LT_TRY_GOTO(status, lt_model_set_trainable(&model, &settings->trainable, err), done);
    }
    lt_params_carve_weights(&model, &weights);
    if (settings->workspace.training) lt_params_carve_gradients(&model, &gradients);
    out->weights = weights.peak;
    out->adapter = adapter.peak;
    out->gradients = gradients.peak;
    out->parameters = lt_model_parameter_count(&model, false);
    out->trainable_parameters = lt_model_parameter_count(&model, true);
    out->gradient_count = model.gradient_count;
    out->own_count = lt_model_own_count(&model);
    out->largest_gradient_part = largest_gradient_part(&model);
    out->block_elements = unit_elements(&model, 0);
    out->ends_elements =
        unit_elements(&model, -1) + unit_elements(&model, (int)config->num_hidden_layers);
    if (settings->inventory)
        LT_TRY_GOTO(status, lt_model_describe_trainable(&model, settings->inventory, err), done);
    status = lt_workspace_plan(&model, &settings->workspace, &out->activations, err);

done:
    lt_adapters_free(&model);
    free(model.params);
    free(model.segments);
    free(model.units);
    return status;
}

void lt_model_free(lt_model *model)
{
    if (!model) return;
    lt_adapters_free(model);
    lt_arena_release(&model->weights);
    lt_arena_release(&model->gradients);
    lt_model_config_free(&model->config);
    free(model->params);
    free(model->segments);
    free(model->units);
    free(model);
}
