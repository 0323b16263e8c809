/* What reading and writing of tokenizers in GGUF files share. Private to train/export/. */
#ifndef LT_TRAIN_EXPORT_GGUF_TOKENIZER_H
#define LT_TRAIN_EXPORT_GGUF_TOKENIZER_H

#include "train/export.h"

/* llama.cpp's numbers in tokenizer.ggml.token_type. */
typedef enum lt_gguf_token_type {
    LT_GGUF_TOKEN_NORMAL = 1,
    LT_GGUF_TOKEN_UNKNOWN = 2,
    LT_GGUF_TOKEN_CONTROL = 3,
    LT_GGUF_TOKEN_USER_DEFINED = 4,
    LT_GGUF_TOKEN_UNUSED = 5,
    LT_GGUF_TOKEN_BYTE = 6,
} lt_gguf_token_type;

/* tokenizer.json without vocabulary and merges, in files that Lathe wrote: normalisation, what
 * added tokens do with spaces, and what else llama.cpp knows by the architecture or not at all. */
#define LT_GGUF_RULES_KEY "lathe.tokenizer.rules"

#endif
