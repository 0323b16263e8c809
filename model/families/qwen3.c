/* Qwen3 (Yang et al., 2025), as transformers' Qwen3ForCausalLM: Qwen2 without its biases, with a
 * head size of its own and an RMS norm over each head of q and k. */
#include "model/families/families.h"

const lt_family lt_family_qwen3 = {
    .name = "qwen3",
    .architecture = "Qwen3ForCausalLM",
    .base_class = "Qwen3Model",
    LT_LLAMA_FAMILY(LT_LLAMA_KEYS_ATTENTION_BIAS),
    .defaults =
        {
            LT_LLAMA_DEFAULTS,
            .qk_norm = true,
            .num_key_value_heads = 32, /* Qwen3Config's */
            .head_dim = 128,
            .max_position_embeddings = 32768,
            .sliding_window = 4096,
            .sliding_window_from_layer = 28,
            .bos_token_id = -1,
        },
    .sliding = LT_SLIDING_UPPER,
    .preset = "qwen3-0.6b",
};
