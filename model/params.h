/* The parameter table, and the views that the passes work with. Private to model/.
 *
 * Names of rows (the same for every family; model/families/ maps them to the files' names):
 *   embed_tokens.weight [vocab, hidden]      embed_positions.weight [max_position, hidden] (learned
 * positions only) layers.N.attention.qkv.weight [(heads + 2 kv_heads) head_dim, hidden]   .bias
 *   layers.N.attention.out.weight [hidden, heads head_dim]                  .bias
 *   layers.N.mlp.up.weight [intermediate, hidden]  .bias  or, gated,  layers.N.mlp.gate_up.weight
 * [2 intermediate, hidden] layers.N.mlp.down.weight [hidden, intermediate] .bias
 *   layers.N.attention_norm.weight .bias    layers.N.mlp_norm.weight .bias
 * layers.N.attention.q_norm.weight  .k_norm.weight final_norm.weight .bias lm_head.weight [vocab,
 * hidden] (untied only) A block's rows lie together: matrices first, then vectors, so that `decay`
 * changes once per block. */
#ifndef LT_MODEL_PARAMS_H
#define LT_MODEL_PARAMS_H

#include "model/model.h"

/* Rows that a model lacks are absent tensors. */
typedef struct lt_block_view {
    lt_tensor qkv_weight, qkv_bias;
    lt_tensor out_weight, out_bias;
    lt_tensor up_weight, up_bias; /* gate_up when gated */
    lt_tensor down_weight, down_bias;
    lt_tensor attention_norm_weight, attention_norm_bias;
    lt_tensor mlp_norm_weight, mlp_norm_bias;
    lt_tensor q_norm_weight, k_norm_weight;
} lt_block_view;

typedef struct lt_ends_view {
    lt_tensor embed_tokens, embed_positions;
    lt_tensor final_norm_weight, final_norm_bias;
    lt_tensor lm_head; /* embed_tokens when tied */
} lt_ends_view;

lt_block_view lt_block_weights(const lt_model *model, int64_t layer);
lt_block_view lt_block_gradients(const lt_model *model, int64_t layer); /* absent where frozen */
/* The adapter's copies of embedding and head, where it has its own. */
lt_ends_view lt_ends_weights(const lt_model *model, const lt_adapter *adapter);
lt_ends_view lt_ends_gradients(const lt_model *model, const lt_adapter *adapter);

/* Fills model->params, units, offsets, segments and counts from model->config and model->sharding
 * (no memory for weights yet). */
lt_status lt_params_build(lt_model *model, lt_err *err);
/* Appends rows of an adapter, whose `offset` counts from the adapter's own start. Returns the
 * elements they take, padding included, in *count. */
lt_status lt_params_append(lt_model *model, const lt_param *rows, int row_count, int64_t *count,
                           lt_err *err);
/* Lays out gradients and segments of the rows that are marked trainable, without memory. */
lt_status lt_params_lay_out_gradients(lt_model *model, lt_err *err);
/* The lowest block with a trained row; the number of blocks when none has. Rows below block 0 count
 * as block 0's. */
int64_t lt_params_lowest_trained(const lt_model *model);
/* False for a base that is held in bf16 where the backend's real is longer. */
bool lt_model_is_trainable(const lt_model *model);

/* The activations' side of lt_model_plan: bytes a workspace of these settings takes. Blocks below
 * the lowest trained one keep nothing for backward. (model/workspace.c) */
lt_status lt_workspace_plan(const lt_model *model, const lt_workspace_settings *settings,
                            size_t *bytes, lt_err *err);

/* --- Places in memory (model/placement.c) ------------------------------------------------------
 */

lt_tensor lt_param_view(const lt_param *param, void *base, int64_t offset, lt_dtype dtype);
/* Lays the weights (and rotary tables) out in `arena`; while it measures, only counts. */
void lt_params_carve_weights(lt_model *model, lt_arena *arena);
void lt_params_carve_gradients(lt_model *model, lt_arena *arena);

/* Gradients of one unit, or of the adapters: `all` of them to 0; else only what backward does not
 * write whole: `summed` rows, gaps, and places of frozen rows. */
lt_status lt_zero_unit_gradients(const lt_model *model, const lt_unit *unit, bool all, lt_err *err);
lt_status lt_zero_adapter_gradients(const lt_model *model, bool all, lt_err *err);

#endif
