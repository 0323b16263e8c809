/* What lathe.json says, in a GGUF file. The chat template beside it says the same to others, but a
 * conversation has no place for the context of a question, and ours has. */
#include <string.h>

#include "train/export.h"

#define TEMPLATE_KEY   "lathe.template"
#define MAX_LENGTH_KEY "lathe.max_length"

enum { MAX_NAME = 32 };

lt_status lt_model_notes_to_gguf(const lt_model_notes *notes, lt_gguf_keys *keys, lt_err *err)
{
    if (notes->has_template) {
        const char *name = lt_template_name(notes->template_);
        LT_TRY(lt_gguf_add_string(keys, TEMPLATE_KEY, name, strlen(name), err));
    }
    if (notes->max_length <= 0 || notes->max_length > UINT32_MAX) return LT_OK;
    return lt_gguf_add_u32(keys, MAX_LENGTH_KEY, (uint32_t)notes->max_length, err);
}

lt_status lt_model_notes_from_gguf(const lt_gguf *file, lt_model_notes *out, lt_err *err)
{
    const char *text = NULL;
    char name[MAX_NAME + 1];
    size_t size = 0;
    *out = (lt_model_notes){0};
    LT_TRY(lt_gguf_get_int(file, MAX_LENGTH_KEY, 0, UINT32_MAX, &out->max_length, err));
    LT_TRY(lt_gguf_get_string(file, TEMPLATE_KEY, &text, &size, err));
    if (!text) return LT_OK;
    if (size > MAX_NAME) size = MAX_NAME;
    memcpy(name, text, size);
    name[size] = '\0';
    if (lt_template_parse(name, &out->template_, err) != LT_OK)
        return lt_fail_context(err, "%s: " TEMPLATE_KEY, file->path);
    out->has_template = true;
    return LT_OK;
}
