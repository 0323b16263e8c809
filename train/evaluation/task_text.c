#include "train/evaluation/task_text.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "train/evaluation/words.h"

const char *lt_python_lstrip(const char *text)
{
    return text + lt_leading_space(text, strlen(text));
}

const char *lt_python_strip(const char *text, size_t *size)
{
    text = lt_python_lstrip(text);
    *size = lt_size_without_trailing_space(text, strlen(text));
    return text;
}

size_t lt_python_word_count(const char *text)
{
    size_t words = 1, size;
    bool in_space = false;
    for (; *text; text += size) {
        bool space = lt_is_space(lt_character_at(text, &size));
        words += space && !in_space;
        in_space = space;
    }
    return words;
}

lt_status lt_python_capitalize(const char *text, lt_buffer *out, lt_err *err)
{
    utf8proc_uint8_t bytes[4];
    size_t size;
    if (!*text) return LT_OK;
    utf8proc_int32_t title = utf8proc_totitle((utf8proc_int32_t)lt_character_at(text, &size));
    LT_TRY(lt_buffer_append(out, bytes, (size_t)utf8proc_encode_char(title, bytes), err));
    return lt_append_lower_behind(out, text, size, err);
}

/* --- Buffers --- */

lt_status lt_python_replace(lt_buffer *text, const char *what, const char *by, lt_err *err)
{
    lt_buffer out = {0};
    lt_status status = LT_OK;
    const char *from = lt_buffer_text(text);
    for (const char *found; status == LT_OK && (found = strstr(from, what));) {
        status = lt_buffer_append(&out, from, (size_t)(found - from), err);
        if (status == LT_OK) status = lt_buffer_append_text(&out, by, err);
        from = found + strlen(what);
    }
    if (status == LT_OK) status = lt_buffer_append_text(&out, from, err);
    if (status == LT_OK) {
        lt_buffer swap = *text;
        *text = out;
        out = swap;
    }
    lt_buffer_free(&out);
    return status;
}

lt_status lt_copy_text(const char *text, char **out, lt_err *err)
{
    *out = strdup(text);
    return *out ? LT_OK : lt_fail_nomem(err, strlen(text), "a task's text");
}

lt_status lt_text_printf(char **out, lt_err *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int size = vasprintf(out, format, args);
    va_end(args);
    if (size >= 0) return LT_OK;
    *out = NULL;
    return lt_fail_nomem(err, 0, "a task's text");
}

lt_status lt_take_text(lt_buffer *buffer, char **out, lt_err *err)
{
    LT_TRY(lt_buffer_append_text(buffer, "", err)); /* an empty one has no memory yet */
    char *exact = realloc(buffer->data, buffer->size + 1);
    *out = exact ? exact : buffer->data;
    *buffer = (lt_buffer){0};
    return LT_OK;
}
