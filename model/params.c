/* The parameter table: rows, their places in memory, freezing, and the views of the passes.
 *
 * Weights are one block of memory. A row starts at a multiple of ROW_ALIGNMENT elements and the gap
 * before the next is zero; gradients lie in the same order with the same gaps, without the frozen
 * rows. So a run of rows is one segment for the optimizer, gaps included. */
#include "model/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "model/families/families.h"
#include "model/memory.h"

enum {
    ROW_ALIGNMENT = 64, /* elements: 256 bytes of f32 */
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

static double init_std(const lt_model_config *config, const row *r)
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

static int64_t padded(int64_t count)
{
    return (count + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
}

static void append_rows(lt_model *model, const row_list *list, int layer)
{
    bool in_block = layer >= 0 && layer < model->config.num_hidden_layers;
    for (int i = 0; i < list->count; i++) {
        const row *r = &list->rows[i];
        lt_param *param = &model->params[model->param_count++];
        *param = (lt_param){
            .ndim = r->columns > 0 ? 2 : 1,
            .shape = {r->rows, r->columns > 0 ? r->columns : 1},
            .layer = layer,
            .init = r->init,
            .init_std = init_std(&model->config, r),
            .decay = r->columns > 0,
            .trainable = true,
            .offset = model->weight_count,
        };
        if (in_block)
            snprintf(param->name, sizeof param->name, "layers.%d.%s", layer, r->name);
        else
            snprintf(param->name, sizeof param->name, "%s", r->name);
        model->weight_count += padded(row_elements(param));
    }
}

lt_status lt_params_build(lt_model *model, lt_err *err)
{
    const lt_model_config *config = &model->config;
    int layers = (int)config->num_hidden_layers;
    size_t capacity = (size_t)layers * MAX_BLOCK_ROWS + 2 * MAX_END_ROWS;
    free(model->params);
    model->params = calloc(capacity, sizeof *model->params);
    free(model->segments);
    model->segments = calloc(capacity, sizeof *model->segments);
    model->param_count = 0;
    model->weight_count = 0;
    if (!model->params || !model->segments)
        return lt_fail_nomem(err, capacity * sizeof *model->params, "the table of parameters");

    row_list first = end_rows(config, true), block = block_rows(config),
             last = end_rows(config, false);
    append_rows(model, &first, -1);
    for (int layer = 0; layer < layers; layer++)
        append_rows(model, &block, layer);
    append_rows(model, &last, layers);
    return lt_params_freeze(model, 0, err);
}

/* --- Freezing and segments ---------------------------------------------------------------------
 */

static void add_segment(lt_model *model, const lt_param *param)
{
    int64_t count = padded(row_elements(param));
    lt_segment *last = model->segment_count > 0 ? &model->segments[model->segment_count - 1] : NULL;
    bool continues = last && last->layer == param->layer && last->decay == param->decay &&
                     last->offset + last->count == param->offset;
    if (continues) {
        last->count += count;
        return;
    }
    model->segments[model->segment_count++] =
        (lt_segment){.offset = param->offset,
                     .gradient_offset = param->gradient_offset,
                     .count = count,
                     .layer = param->layer,
                     .decay = param->decay};
}

lt_status lt_params_freeze(lt_model *model, int64_t layers, lt_err *err)
{
    if (layers < 0 || layers > model->config.num_hidden_layers)
        return lt_fail(err, LT_ERR_USAGE,
                       "%lld layers can not be frozen: the model has %lld of them",
                       (long long)layers, (long long)model->config.num_hidden_layers);
    model->gradient_count = 0;
    model->segment_count = 0;
    for (int i = 0; i < model->param_count; i++) {
        lt_param *param = &model->params[i];
        /* embeddings are layer -1: below every frozen block */
        param->trainable = layers == 0 || param->layer >= layers;
        param->gradient_offset = param->trainable ? model->gradient_count : -1;
        if (!param->trainable) continue;
        model->gradient_count += padded(row_elements(param));
        add_segment(model, param);
    }
    return LT_OK;
}

/* --- Memory ------------------------------------------------------------------------------------
 */

static lt_tensor param_view(const lt_param *param, void *base, int64_t offset, lt_dtype real)
{
    void *data = (char *)base + (size_t)offset * lt_dtype_size(real);
    return param->ndim == 2 ? lt_tensor_2d(data, real, param->shape[0], param->shape[1])
                            : lt_tensor_1d(data, real, param->shape[0]);
}

void lt_params_carve_weights(lt_model *model, lt_arena *arena)
{
    lt_dtype real = model->backend->real;
    void *base = lt_arena_alloc(arena, (size_t)model->weight_count, lt_dtype_size(real));
    for (int i = 0; i < model->param_count && base; i++)
        model->params[i].weight =
            param_view(&model->params[i], base, model->params[i].offset, real);

    if (model->config.rope_type == LT_ROPE_NONE) return;
    int64_t positions = model->config.max_position_embeddings;
    int64_t half = model->config.rotary_dim / 2;
    size_t count = (size_t)(positions * half);
    void *cosines = lt_arena_alloc(arena, count, lt_dtype_size(real));
    void *sines = lt_arena_alloc(arena, count, lt_dtype_size(real));
    if (!cosines || !sines) return;
    model->rope_cos = lt_tensor_2d(cosines, real, positions, half);
    model->rope_sin = lt_tensor_2d(sines, real, positions, half);
}

void lt_params_carve_gradients(lt_model *model, lt_arena *arena)
{
    lt_dtype real = model->backend->real;
    void *base = lt_arena_alloc(arena, (size_t)model->gradient_count, lt_dtype_size(real));
    for (int i = 0; i < model->param_count && base; i++) {
        lt_param *param = &model->params[i];
        if (param->trainable)
            param->gradient = param_view(param, base, param->gradient_offset, real);
    }
}

lt_status lt_model_freeze_layers(lt_model *model, int64_t layers, lt_err *err)
{
    if (model->gradients.base)
        return lt_fail(err, LT_ERR_USAGE,
                       "layers can only be frozen before memory for gradients is allocated");
    return lt_params_freeze(model, layers, err);
}

lt_status lt_model_allocate_gradients(lt_model *model, lt_err *err)
{
    if (model->gradients.base) return LT_OK;
    lt_arena plan;
    lt_arena_measure(&plan, "gradients");
    lt_params_carve_gradients(model, &plan);
    LT_TRY(lt_check_memory(model->backend, plan.peak, "gradients", err));
    LT_TRY(
        lt_arena_reserve(&model->gradients, "gradients", plan.peak, model->backend->memory, err));
    lt_params_carve_gradients(model, &model->gradients);
    return LT_OK;
}

static lt_status zero(const lt_model *model, void *data, int64_t count, lt_err *err)
{
    lt_zero_args args = {.y = lt_tensor_1d(data, model->backend->real, count)};
    return lt_zero(model->backend, &args, err);
}

lt_status lt_params_zero_gradients(const lt_model *model, lt_err *err)
{
    return model->gradients.base ? zero(model, model->gradients.base, model->gradient_count, err)
                                 : LT_OK;
}

lt_status lt_params_zero_summed_gradients(const lt_model *model, lt_err *err)
{
    lt_ends_view ends = lt_ends_gradients(model);
    for (int i = 0; i < model->param_count; i++) {
        const lt_param *param = &model->params[i];
        bool table = param->layer < 0 && param->gradient.data != ends.lm_head.data;
        if (param->gradient.data && (param->ndim == 1 || table))
            LT_TRY(zero(model, param->gradient.data, lt_tensor_count(param->gradient), err));
    }
    return LT_OK;
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

static lt_ends_view ends_view(const lt_model *model, bool gradients)
{
    lt_ends_view view = {0};
    row_list first = end_rows(&model->config, true), last = end_rows(&model->config, false);
    fill_view(model, &first, 0, gradients, &view);
    fill_view(model, &last, model->param_count - last.count, gradients, &view);
    if (model->config.tie_word_embeddings) view.lm_head = view.embed_tokens;
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

lt_ends_view lt_ends_weights(const lt_model *model)
{
    return ends_view(model, false);
}

lt_ends_view lt_ends_gradients(const lt_model *model)
{
    return ends_view(model, true);
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

lt_status lt_model_plan(const lt_model_config *config, const lt_backend *backend,
                        const lt_workspace_settings *settings, int64_t freeze_layers,
                        lt_memory_plan *out, lt_err *err)
{
    memset(out, 0, sizeof *out);
    /* a model without memory: the layout code runs on arenas that only measure */
    lt_model model = {.config = *config, .backend = backend};
    lt_arena weights, gradients;
    lt_status status;
    LT_TRY_GOTO(status, lt_params_build(&model, err), done);
    LT_TRY_GOTO(status, lt_params_freeze(&model, freeze_layers, err), done);
    lt_arena_measure(&weights, "weights");
    lt_params_carve_weights(&model, &weights);
    lt_arena_measure(&gradients, "gradients");
    if (settings->training) lt_params_carve_gradients(&model, &gradients);
    out->weights = weights.peak;
    out->gradients = gradients.peak;
    out->parameters = lt_model_parameter_count(&model, false);
    out->trainable_parameters = lt_model_parameter_count(&model, true);
    status = lt_workspace_plan(config, backend, settings, freeze_layers, &out->activations, err);

done:
    free(model.params);
    free(model.segments);
    return status;
}

void lt_model_free(lt_model *model)
{
    if (!model) return;
    lt_arena_release(&model->weights);
    lt_arena_release(&model->gradients);
    lt_model_config_free(&model->config);
    free(model->params);
    free(model->segments);
    free(model);
}
