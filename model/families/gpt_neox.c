/* GPT-NeoX (Black et al., 2022; Pythia, Dolly), as transformers' GPTNeoXForCausalLM: rotary on the
 * first quarter of a head, both halves of a block read the same input, q, k and v of a head stored
 * together. */
#include "model/families/families.h"

static const lt_family_row rows[] = {
    {"embed_tokens.weight", {"gpt_neox.embed_in.weight"}, LT_LAYOUT_SAME},
    {"layers.#.attention.qkv.weight",
     {"gpt_neox.layers.#.attention.query_key_value.weight"},
     LT_LAYOUT_PER_HEAD},
    {"layers.#.attention.qkv.bias",
     {"gpt_neox.layers.#.attention.query_key_value.bias"},
     LT_LAYOUT_PER_HEAD},
    {"layers.#.attention.out.weight", {"gpt_neox.layers.#.attention.dense.weight"}, LT_LAYOUT_SAME},
    {"layers.#.attention.out.bias", {"gpt_neox.layers.#.attention.dense.bias"}, LT_LAYOUT_SAME},
    {"layers.#.mlp.up.weight", {"gpt_neox.layers.#.mlp.dense_h_to_4h.weight"}, LT_LAYOUT_SAME},
    {"layers.#.mlp.up.bias", {"gpt_neox.layers.#.mlp.dense_h_to_4h.bias"}, LT_LAYOUT_SAME},
    {"layers.#.mlp.down.weight", {"gpt_neox.layers.#.mlp.dense_4h_to_h.weight"}, LT_LAYOUT_SAME},
    {"layers.#.mlp.down.bias", {"gpt_neox.layers.#.mlp.dense_4h_to_h.bias"}, LT_LAYOUT_SAME},
    {"layers.#.attention_norm.weight",
     {"gpt_neox.layers.#.input_layernorm.weight"},
     LT_LAYOUT_SAME},
    {"layers.#.attention_norm.bias", {"gpt_neox.layers.#.input_layernorm.bias"}, LT_LAYOUT_SAME},
    {"layers.#.mlp_norm.weight",
     {"gpt_neox.layers.#.post_attention_layernorm.weight"},
     LT_LAYOUT_SAME},
    {"layers.#.mlp_norm.bias", {"gpt_neox.layers.#.post_attention_layernorm.bias"}, LT_LAYOUT_SAME},
    {"final_norm.weight", {"gpt_neox.final_layer_norm.weight"}, LT_LAYOUT_SAME},
    {"final_norm.bias", {"gpt_neox.final_layer_norm.bias"}, LT_LAYOUT_SAME},
    {"lm_head.weight", {"embed_out.weight"}, LT_LAYOUT_SAME},
};

static const lt_config_key keys[] = {
    LT_FAMILY_KEY_REQUIRED("vocab_size", LT_KEY_INT, vocab_size),
    LT_FAMILY_KEY_REQUIRED("hidden_size", LT_KEY_INT, hidden_size),
    LT_FAMILY_KEY_REQUIRED("num_hidden_layers", LT_KEY_INT, num_hidden_layers),
    LT_FAMILY_KEY_REQUIRED("num_attention_heads", LT_KEY_INT, num_attention_heads),
    LT_FAMILY_KEY_REQUIRED("intermediate_size", LT_KEY_INT, intermediate_size),
    LT_FAMILY_KEY("max_position_embeddings", LT_KEY_INT, max_position_embeddings),
    LT_FAMILY_KEY("hidden_act", LT_KEY_ACTIVATION, activation),
    LT_FAMILY_KEY("layer_norm_eps", LT_KEY_NUMBER, norm_eps),
    LT_FAMILY_KEY("initializer_range", LT_KEY_NUMBER, initializer_range),
    LT_FAMILY_KEY("tie_word_embeddings", LT_KEY_BOOL, tie_word_embeddings),
    LT_FAMILY_KEY("use_parallel_residual", LT_KEY_BOOL, parallel_residual),
    LT_FAMILY_KEY("attention_bias", LT_KEY_BOOL, attention_bias),
    LT_FAMILY_KEY("attention_bias", LT_KEY_BOOL, attention_out_bias),
    LT_FAMILY_KEY("hidden_dropout", LT_KEY_NUMBER, embd_pdrop),
    LT_FAMILY_KEY("hidden_dropout", LT_KEY_NUMBER, resid_pdrop),
    LT_FAMILY_KEY("attention_dropout", LT_KEY_NUMBER, attn_pdrop),
};

static const char *const ignored[] = {".attention.bias", ".attention.masked_bias",
                                      ".rotary_emb.inv_freq", NULL};

const lt_family lt_family_gpt_neox = {
    .name = "gpt_neox",
    .architecture = "GPTNeoXForCausalLM",
    .base_class = "GPTNeoXModel",
    .prefix = "gpt_neox.",
    .rows = rows,
    .row_count = LT_COUNT_OF(rows),
    .head_module = "lm_head", /* since transformers 5; the files still say embed_out */
    .ignored = ignored,
    .keys = keys,
    .key_count = LT_COUNT_OF(keys),
    .defaults =
        {
            .norm = LT_NORM_LAYER,
            .norm_eps = 1e-5,
            .activation = LT_ACTIVATION_GELU,
            .parallel_residual = true,
            .attention_bias = true,
            .attention_out_bias = true,
            .mlp_bias = true,
            .max_position_embeddings = 2048,
            .initializer_range = 0.02,
            .rope_type = LT_ROPE_DEFAULT,
            .rope_theta = 10000,
            .bos_token_id = 0,
            .pad_token_id = -1,
            .eos_token_ids = {2},
            .eos_token_count = 1,
        },
    .theta_key = "rotary_emb_base",
    .partial_key = "rotary_pct",
    .partial_default = 0.25,
    .sliding = LT_SLIDING_NONE,
    .preset = "pythia-160m",
};
