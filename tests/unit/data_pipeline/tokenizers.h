/* The tokenizers of tests/golden/tokenizer. */
#ifndef LT_TEST_TOKENIZERS_H
#define LT_TEST_TOKENIZERS_H

#include "../message.h"
#include "base/json.h"
#include "data_pipeline/tokenizer.h"

#define GOLDEN LATHE_TEST_DIR "/golden/tokenizer/"

static UNUSED lt_tokenizer *load(const char *path)
{
    lt_tokenizer *tokenizer = NULL;
    ok(lt_tokenizer_load(path, &tokenizer, &err));
    return tokenizer;
}

static UNUSED lt_tokenizer *load_golden(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, GOLDEN "%s", name);
    return load(path);
}

/* A golden text: a string, or a list of strings with NUL between. */
static UNUSED void append_text(const json_t *value, lt_buffer *out)
{
    lt_buffer_clear(out);
    if (json_is_string(value)) {
        ok(lt_buffer_append(out, json_string_value(value), json_string_length(value), &err));
        return;
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (i > 0) ok(lt_buffer_append(out, "", 1, &err));
        ok(lt_buffer_append_text(out, json_string_value(json_array_get(value, i)), &err));
    }
}

#endif
