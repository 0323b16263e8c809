/* Qwen2 and Qwen2.5 (Yang et al., 2024), as transformers' Qwen2ForCausalLM: Llama with biases on q,
 * k and v, and a sliding window that may be switched on for the upper layers. */
#include "model/families/families.h"

const lt_family lt_family_qwen2 = {
    .name = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .base_class = "Qwen2Model",
    LT_LLAMA_FAMILY(LT_LLAMA_KEYS),
    .defaults =
        {
            LT_LLAMA_DEFAULTS,
            .attention_bias = true,
            .num_key_value_heads = 32, /* Qwen2Config's */
            .max_position_embeddings = 32768,
            .sliding_window = 4096,
            .sliding_window_from_layer = 28,
            .bos_token_id = -1,
        },
    .sliding = LT_SLIDING_UPPER,
    .preset = "qwen2-0.5b",
};
