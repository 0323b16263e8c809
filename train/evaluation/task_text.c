#include "train/evaluation/task_text.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* The code point at `text` and its length; what is no UTF-8 counts as one byte. */
static size_t next_char(const char *text, utf8proc_int32_t *out)
{
    utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, out);
    if (size > 0) return (size_t)size;
    *out = (unsigned char)*text;
    return 1;
}

size_t lt_python_space(const char *text)
{
    static const utf8proc_int32_t others[] = {0x20,   0x85,   0xA0,   0x1680, 0x2028,
                                              0x2029, 0x202F, 0x205F, 0x3000};
    utf8proc_int32_t c;
    if (!*text) return 0;
    size_t size = next_char(text, &c);
    if ((c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F) || (c >= 0x2000 && c <= 0x200A))
        return size;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (c == others[i]) return size;
    return 0;
}

const char *lt_python_lstrip(const char *text)
{
    for (size_t size; (size = lt_python_space(text)) > 0;)
        text += size;
    return text;
}

const char *lt_python_strip(const char *text, size_t *size)
{
    utf8proc_int32_t c;
    text = lt_python_lstrip(text);
    *size = 0;
    for (const char *at = text; *at;) {
        size_t space = lt_python_space(at);
        at += space ? space : next_char(at, &c);
        if (!space) *size = (size_t)(at - text);
    }
    return text;
}

size_t lt_python_word_count(const char *text)
{
    utf8proc_int32_t c;
    size_t words = 1;
    bool in_space = false;
    while (*text) {
        size_t space = lt_python_space(text);
        words += space && !in_space;
        in_space = space > 0;
        text += space ? space : next_char(text, &c);
    }
    return words;
}

/* --- Case --- */

static bool is_cased(utf8proc_int32_t c)
{
    utf8proc_category_t category = utf8proc_category(c);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
           category == UTF8PROC_CATEGORY_LT;
}

/* Between letters of a word, as an accent or an apostrophe is (Unicode's Case_Ignorable). */
static bool is_case_ignorable(utf8proc_int32_t c)
{
    utf8proc_category_t category = utf8proc_category(c);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME ||
           category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_LM ||
           category == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xB7 ||
           c == 0x2019;
}

/* Whether the letters that follow go on with the word. */
static bool word_goes_on(const char *text)
{
    utf8proc_int32_t c;
    while (*text) {
        text += next_char(text, &c);
        if (!is_case_ignorable(c)) return is_cased(c);
    }
    return false;
}

static lt_status append_char(lt_buffer *out, utf8proc_int32_t c, lt_err *err)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t size = utf8proc_encode_char(c, bytes);
    return lt_buffer_append(out, bytes, (size_t)size, err);
}

lt_status lt_python_capitalize(const char *text, lt_buffer *out, lt_err *err)
{
    enum { CAPITAL_SIGMA = 0x3A3, FINAL_SIGMA = 0x3C2, DOTTED_I = 0x130 };
    utf8proc_int32_t c;
    bool after_letter = false; /* but for what is ignorable */
    for (bool first = true; *text; first = false) {
        text += next_char(text, &c);
        utf8proc_int32_t changed = first ? utf8proc_totitle(c) : utf8proc_tolower(c);
        if (!first && c == CAPITAL_SIGMA && after_letter && !word_goes_on(text))
            changed = FINAL_SIGMA;
        LT_TRY(append_char(out, changed, err));
        if (!first && c == DOTTED_I) LT_TRY(append_char(out, 0x307, err)); /* keeps its dot */
        if (!is_case_ignorable(c)) after_letter = is_cased(c);
    }
    return LT_OK;
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
