/* GPT-2 (Radford et al., 2019), as transformers' GPT2LMHeadModel: learned positions, layer norm
 * before each half of a block, tied head, Conv1D weights stored [in, out]. */
#include "model/families/families.h"

static const lt_family_row rows[] = {
    {"embed_tokens.weight", {"transformer.wte.weight"}, LT_LAYOUT_SAME},
    {"embed_positions.weight", {"transformer.wpe.weight"}, LT_LAYOUT_SAME},
    {"layers.#.attention.qkv.weight", {"transformer.h.#.attn.c_attn.weight"}, LT_LAYOUT_TRANSPOSED},
    {"layers.#.attention.qkv.bias", {"transformer.h.#.attn.c_attn.bias"}, LT_LAYOUT_SAME},
    {"layers.#.attention.out.weight", {"transformer.h.#.attn.c_proj.weight"}, LT_LAYOUT_TRANSPOSED},
    {"layers.#.attention.out.bias", {"transformer.h.#.attn.c_proj.bias"}, LT_LAYOUT_SAME},
    {"layers.#.mlp.up.weight", {"transformer.h.#.mlp.c_fc.weight"}, LT_LAYOUT_TRANSPOSED},
    {"layers.#.mlp.up.bias", {"transformer.h.#.mlp.c_fc.bias"}, LT_LAYOUT_SAME},
    {"layers.#.mlp.down.weight", {"transformer.h.#.mlp.c_proj.weight"}, LT_LAYOUT_TRANSPOSED},
    {"layers.#.mlp.down.bias", {"transformer.h.#.mlp.c_proj.bias"}, LT_LAYOUT_SAME},
    {"layers.#.attention_norm.weight", {"transformer.h.#.ln_1.weight"}, LT_LAYOUT_SAME},
    {"layers.#.attention_norm.bias", {"transformer.h.#.ln_1.bias"}, LT_LAYOUT_SAME},
    {"layers.#.mlp_norm.weight", {"transformer.h.#.ln_2.weight"}, LT_LAYOUT_SAME},
    {"layers.#.mlp_norm.bias", {"transformer.h.#.ln_2.bias"}, LT_LAYOUT_SAME},
    {"final_norm.weight", {"transformer.ln_f.weight"}, LT_LAYOUT_SAME},
    {"final_norm.bias", {"transformer.ln_f.bias"}, LT_LAYOUT_SAME},
    {"lm_head.weight", {"lm_head.weight"}, LT_LAYOUT_SAME},
};

static const lt_config_key keys[] = {
    LT_FAMILY_KEY_REQUIRED("vocab_size", LT_KEY_INT, vocab_size),
    LT_FAMILY_KEY_REQUIRED("n_embd", LT_KEY_INT, hidden_size),
    LT_FAMILY_KEY_REQUIRED("n_layer", LT_KEY_INT, num_hidden_layers),
    LT_FAMILY_KEY_REQUIRED("n_head", LT_KEY_INT, num_attention_heads),
    LT_FAMILY_KEY_REQUIRED("n_positions", LT_KEY_INT, max_position_embeddings),
    LT_FAMILY_KEY("n_inner", LT_KEY_INT, intermediate_size), /* null: 4 n_embd */
    LT_FAMILY_KEY("activation_function", LT_KEY_ACTIVATION, activation),
    LT_FAMILY_KEY("layer_norm_epsilon", LT_KEY_NUMBER, norm_eps),
    LT_FAMILY_KEY("initializer_range", LT_KEY_NUMBER, initializer_range),
    LT_FAMILY_KEY("tie_word_embeddings", LT_KEY_BOOL, tie_word_embeddings),
    LT_FAMILY_KEY("scale_attn_weights", LT_KEY_UNIT_SCALE, attention_scale),
    LT_FAMILY_KEY("scale_attn_by_inverse_layer_idx", LT_KEY_BOOL, scale_by_inverse_layer),
    LT_FAMILY_KEY("embd_pdrop", LT_KEY_NUMBER, embd_pdrop),
    LT_FAMILY_KEY("resid_pdrop", LT_KEY_NUMBER, resid_pdrop),
    LT_FAMILY_KEY("attn_pdrop", LT_KEY_NUMBER, attn_pdrop),
};

static const char *const ignored[] = {".attn.bias", ".attn.masked_bias", NULL};

const lt_family lt_family_gpt2 = {
    .name = "gpt2",
    .architecture = "GPT2LMHeadModel",
    .base_class = "GPT2Model",
    .prefix = "transformer.",
    .rows = rows,
    .row_count = LT_COUNT_OF(rows),
    .ignored = ignored,
    .keys = keys,
    .key_count = LT_COUNT_OF(keys),
    .defaults =
        {
            .norm = LT_NORM_LAYER,
            .norm_eps = 1e-5,
            .activation = LT_ACTIVATION_GELU_TANH,
            .learned_positions = true,
            .attention_bias = true,
            .attention_out_bias = true,
            .mlp_bias = true,
            .tie_word_embeddings = true,
            .initializer_range = 0.02,
            .embd_pdrop = 0.1,
            .resid_pdrop = 0.1,
            .attn_pdrop = 0.1,
            .rope_type = LT_ROPE_NONE,
            .bos_token_id = 50256,
            .pad_token_id = -1,
            .eos_token_ids = {50256},
            .eos_token_count = 1,
        },
    .sliding = LT_SLIDING_NONE,
    .scaled_residual_init = true,
    .preset = "gpt2-124m",
};
