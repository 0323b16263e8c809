/* Qwen3 (Yang et al., 2025), as transformers' Qwen3ForCausalLM: Qwen2 without its biases, with a
 * head size of its own and an RMS norm over each head of q and k. */
#include "model/families/families.h"

static const lt_config_key keys[] = {
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
    LT_FAMILY_KEY("attention_bias", LT_KEY_BOOL, attention_bias),
    LT_FAMILY_KEY("attention_bias", LT_KEY_BOOL, attention_out_bias),
};

const lt_family lt_family_qwen3 = {
    .name = "qwen3",
    .architecture = "Qwen3ForCausalLM",
    .base_class = "Qwen3Model",
    .prefix = "model.",
    .rows = lt_llama_rows,
    .row_count = LT_LLAMA_ROW_COUNT,
    .ignored = lt_llama_ignored,
    .keys = keys,
    .key_count = LT_COUNT_OF(keys),
    .defaults =
        {
            .norm = LT_NORM_RMS,
            .norm_eps = 1e-6,
            .activation = LT_ACTIVATION_SILU,
            .gated_mlp = true,
            .qk_norm = true,
            .num_key_value_heads = 32, /* Qwen3Config's */
            .head_dim = 128,
            .max_position_embeddings = 32768,
            .sliding_window = 4096,
            .sliding_window_from_layer = 28,
            .initializer_range = 0.02,
            .rope_type = LT_ROPE_DEFAULT,
            .rope_theta = 10000,
            .bos_token_id = -1,
            .pad_token_id = -1,
        },
    .theta_key = "rope_theta",
    .partial_default = 1,
    .sliding = LT_SLIDING_UPPER,
    .preset = "qwen3-0.6b",
};
