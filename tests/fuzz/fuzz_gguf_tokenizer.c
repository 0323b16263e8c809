/* The tokenizer in a GGUF file: refused with a reason, or it reads and writes text, and goes into a
 * GGUF again, or says why not. */
#include <stdint.h>
#include <stdlib.h>

#include "train/export.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const lt_tokenizer *tokenizer)
{
    static const char text[] = "ab <s>a\n\xC3\xA9 7";
    lt_encoder *encoder = NULL;
    lt_ids ids = {0};
    lt_buffer decoded = {0};
    lt_err err = {0};
    if (lt_encoder_create(tokenizer, &encoder, &err) != LT_OK) abort();
    if (lt_encode(encoder, text, sizeof text - 1, LT_ENCODE_PARSE_SPECIAL | LT_ENCODE_ADD_SPECIAL,
                  &ids, &err) == LT_OK &&
        lt_decode(tokenizer, ids.data, ids.count, false, &decoded, &err) != LT_OK)
        abort();
    lt_buffer_free(&decoded);
    lt_ids_free(&ids);
    lt_encoder_free(encoder);
}

static void write_again(const lt_tokenizer *tokenizer)
{
    lt_gguf_keys keys = {0};
    lt_buffer notes = {0};
    lt_err err = {0};
    int64_t rows = lt_tokenizer_vocab_size(tokenizer);
    if (lt_tokenizer_to_gguf(tokenizer, rows, NULL, -1, &keys, &notes, &err) != LT_OK &&
        !err.message[0])
        abort();
    lt_buffer_free(&notes);
    lt_gguf_keys_free(&keys);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lt_gguf file;
    lt_tokenizer *tokenizer = NULL;
    lt_err err = {0};
    if (lt_gguf_parse(data, size, "fuzz", &file, &err) != LT_OK) return 0;
    if (lt_tokenizer_from_gguf(&file, &tokenizer, &err) != LT_OK) {
        if (!err.message[0] || tokenizer) abort(); /* a refusal says why */
    } else if (tokenizer) {
        use(tokenizer);
        write_again(tokenizer);
    }
    lt_tokenizer_free(tokenizer);
    lt_gguf_close(&file);
    return 0;
}
