/* Hostile tokenizer.json: parsing it, and then working with what came out, must never crash.
 *
 * The input is the file; what follows a NUL byte in it is the text to encode (else a fixed one). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/tokenizer.h"

static const char torture[] =
    "The mill's  \xE2\x96\x81 a\xCC\xA3\xCC\x82 \xEA\xB0\x80\xE1\x86\xA8 ab<s>ab </s>  "
    "\xF0\x9F\x99\x82\r\n\n 12345 abab aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

static void use(lt_tokenizer *tokenizer, const char *text, size_t size)
{
    lt_encoder *encoder = NULL;
    lt_ids ids = {0};
    lt_buffer whole = {0}, streamed = {0};
    lt_err err = {0};
    if (lt_encoder_create(tokenizer, &encoder, &err) == LT_OK) {
        for (unsigned flags = 0; flags < 4; flags++)
            lt_encode(encoder, text, size, flags, &ids, &err);
        lt_encode(encoder, torture, sizeof torture - 1, LT_ENCODE_PARSE_SPECIAL, &ids, &err);
    }
    for (int32_t id = 0; id < 300; id++)
        lt_ids_push(&ids, id * 7 % 300, &err);
    for (int skip = 0; skip < 2; skip++) {
        lt_stream_decoder decoder;
        lt_buffer_clear(&whole);
        lt_buffer_clear(&streamed);
        size_t known = 0; /* ids beyond the vocabulary end both ways of decoding */
        while (known < ids.count && ids.data[known] < lt_tokenizer_vocab_size(tokenizer))
            known++;
        lt_status status = lt_decode(tokenizer, ids.data, known, skip, &whole, &err);
        lt_stream_decoder_init(&decoder, tokenizer, skip);
        for (size_t i = 0; i < known; i++)
            lt_stream_decoder_push(&decoder, ids.data[i], &streamed, &err);
        lt_stream_decoder_finish(&decoder, &streamed, &err);
        if (status != LT_OK || whole.size != streamed.size ||
            memcmp(lt_buffer_text(&whole), lt_buffer_text(&streamed), whole.size) != 0)
            abort();
    }
    lt_buffer_free(&whole);
    lt_buffer_free(&streamed);
    lt_ids_free(&ids);
    lt_encoder_free(encoder);
}

/* What is written must be read again as the same tokenizer. */
static void check_writing(lt_tokenizer *tokenizer)
{
    static const char *const special[] = {"### End", "ab", "<s>"};
    lt_buffer json = {0}, config = {0};
    lt_tokenizer *again = NULL;
    lt_err err = {0};
    size_t added;
    lt_tokenizer_add_special_tokens(tokenizer, special, 3, &added, &err);
    if (lt_tokenizer_to_json(tokenizer, &json, &config, &err) != LT_OK ||
        lt_tokenizer_parse(json.data, json.size, config.data, config.size, "again", &again, &err) !=
            LT_OK ||
        strcmp(lt_tokenizer_hash(tokenizer), lt_tokenizer_hash(again)) != 0)
        abort();
    lt_tokenizer_free(again);
    lt_buffer_free(&json);
    lt_buffer_free(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *json = (const char *)data;
    const char *nul = size ? memchr(json, '\0', size) : NULL;
    size_t json_size = nul ? (size_t)(nul - json) : size;
    const char *text = nul ? nul + 1 : torture;
    size_t text_size = nul ? size - json_size - 1 : sizeof torture - 1;
    lt_tokenizer *tokenizer = NULL;
    lt_err err = {0};
    if (lt_tokenizer_parse(json, json_size, NULL, 0, "fuzz", &tokenizer, &err) == LT_OK) {
        use(tokenizer, text, text_size);
        check_writing(tokenizer);
        use(tokenizer, text, text_size);
    }
    lt_tokenizer_free(tokenizer);
    return 0;
}
