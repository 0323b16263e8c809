/* Llama (Touvron et al., 2023) and Mistral (Jiang et al., 2023), as transformers' LlamaForCausalLM
 * and MistralForCausalLM: RMS norm, rotary on whole heads, SwiGLU, grouped-query attention;
 * separate q, k, v, gate and up projections. Mistral adds a sliding window on every layer. */
#include "model/families/families.h"

#define BLOCK "model.layers.#."

const lt_family_row lt_llama_rows[LT_LLAMA_ROWS] = {
    {"embed_tokens.weight", {"model.embed_tokens.weight"}, LT_LAYOUT_SAME},
    {"layers.#.attention.qkv.weight",
     {BLOCK "self_attn.q_proj.weight", BLOCK "self_attn.k_proj.weight",
      BLOCK "self_attn.v_proj.weight"},
     LT_LAYOUT_PARTS},
    {"layers.#.attention.qkv.bias",
     {BLOCK "self_attn.q_proj.bias", BLOCK "self_attn.k_proj.bias", BLOCK "self_attn.v_proj.bias"},
     LT_LAYOUT_PARTS},
    {"layers.#.attention.out.weight", {BLOCK "self_attn.o_proj.weight"}, LT_LAYOUT_SAME},
    {"layers.#.attention.out.bias", {BLOCK "self_attn.o_proj.bias"}, LT_LAYOUT_SAME},
    {"layers.#.attention.q_norm.weight", {BLOCK "self_attn.q_norm.weight"}, LT_LAYOUT_SAME},
    {"layers.#.attention.k_norm.weight", {BLOCK "self_attn.k_norm.weight"}, LT_LAYOUT_SAME},
    {"layers.#.mlp.gate_up.weight",
     {BLOCK "mlp.gate_proj.weight", BLOCK "mlp.up_proj.weight"},
     LT_LAYOUT_PARTS},
    {"layers.#.mlp.gate_up.bias",
     {BLOCK "mlp.gate_proj.bias", BLOCK "mlp.up_proj.bias"},
     LT_LAYOUT_PARTS},
    {"layers.#.mlp.down.weight", {BLOCK "mlp.down_proj.weight"}, LT_LAYOUT_SAME},
    {"layers.#.mlp.down.bias", {BLOCK "mlp.down_proj.bias"}, LT_LAYOUT_SAME},
    {"layers.#.attention_norm.weight", {BLOCK "input_layernorm.weight"}, LT_LAYOUT_SAME},
    {"layers.#.mlp_norm.weight", {BLOCK "post_attention_layernorm.weight"}, LT_LAYOUT_SAME},
    {"final_norm.weight", {"model.norm.weight"}, LT_LAYOUT_SAME},
    {"lm_head.weight", {"lm_head.weight"}, LT_LAYOUT_SAME},
};

const char *const lt_llama_ignored[] = {"rotary_emb.inv_freq", NULL};

const lt_config_key lt_llama_keys[LT_LLAMA_KEYS_MLP_BIAS] = {
    LT_FAMILY_KEY_REQUIRED("vocab_size", LT_KEY_INT, vocab_size),
    LT_FAMILY_KEY_REQUIRED("hidden_size", LT_KEY_INT, hidden_size),
    LT_FAMILY_KEY_REQUIRED("num_hidden_layers", LT_KEY_INT, num_hidden_layers),
    LT_FAMILY_KEY_REQUIRED("num_attention_heads", LT_KEY_INT, num_attention_heads),
    LT_FAMILY_KEY("num_key_value_heads", LT_KEY_INT, num_key_value_heads),
    LT_FAMILY_KEY("head_dim", LT_KEY_INT, head_dim),
    LT_FAMILY_KEY_REQUIRED("intermediate_size", LT_KEY_INT, intermediate_size),
    LT_FAMILY_KEY("max_position_embeddings", LT_KEY_INT, max_position_embeddings),
    LT_FAMILY_KEY("hidden_act", LT_KEY_ACTIVATION, activation),
    LT_FAMILY_KEY("rms_norm_eps", LT_KEY_NUMBER, norm_eps),
    LT_FAMILY_KEY("initializer_range", LT_KEY_NUMBER, initializer_range),
    LT_FAMILY_KEY("tie_word_embeddings", LT_KEY_BOOL, tie_word_embeddings),
    LT_FAMILY_KEY("attention_dropout", LT_KEY_NUMBER, attn_pdrop),
    /* the families whose biases are no setting, or only some, have the table up to there */
    LT_FAMILY_KEY("attention_bias", LT_KEY_BOOL, attention_bias),
    LT_FAMILY_KEY("attention_bias", LT_KEY_BOOL, attention_out_bias),
    LT_FAMILY_KEY("mlp_bias", LT_KEY_BOOL, mlp_bias),
};

const lt_family lt_family_llama = {
    .name = "llama",
    .architecture = "LlamaForCausalLM",
    .base_class = "LlamaModel",
    LT_LLAMA_FAMILY(LT_LLAMA_KEYS_MLP_BIAS),
    .defaults =
        {
            LT_LLAMA_DEFAULTS,
            .max_position_embeddings = 2048,
            .bos_token_id = 1,
            .eos_token_ids = {2},
            .eos_token_count = 1,
        },
    .sliding = LT_SLIDING_NONE,
    .preset = "llama-110m",
};

const lt_family lt_family_mistral = {
    .name = "mistral",
    .architecture = "MistralForCausalLM",
    .base_class = "MistralModel",
    LT_LLAMA_FAMILY(LT_LLAMA_KEYS),
    .defaults =
        {
            LT_LLAMA_DEFAULTS,
            .num_key_value_heads = 8, /* MistralConfig's, unlike Llama's */
            .max_position_embeddings = 131072,
            .sliding_window = 4096,
            .bos_token_id = 1,
            .eos_token_ids = {2},
            .eos_token_count = 1,
        },
    .sliding = LT_SLIDING_ALL,
    .preset = "mistral-110m",
};
