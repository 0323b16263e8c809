#include "train/evaluation/output_names.h"

#include <stdbool.h>
#include <string.h>

#include "base/fsio.h"

/* File systems take 255 bytes; a date and an ending have to fit too. */
enum { MAX_NAME = 160 };

static bool is_unfit(unsigned char c)
{
    return c < 0x20 || c == 0x7F || strchr("\"<>:/|\\?*[]", c);
}

/* Appends the text with "__" for each run of unfit characters. */
static lt_status append_fit(lt_buffer *out, const char *text, lt_err *err)
{
    size_t size = strlen(text);
    while (size > 1 && text[size - 1] == '/')
        size--;
    for (size_t i = 0; i < size; i++) {
        bool unfit = is_unfit((unsigned char)text[i]);
        if (unfit && i > 0 && is_unfit((unsigned char)text[i - 1])) continue;
        LT_TRY(lt_buffer_append(out, unfit ? "__" : text + i, unfit ? 2 : 1, err));
    }
    return LT_OK;
}

/* Of a name that is too long the end is kept, which says more, behind a hash of all of it. */
static lt_status shorten(lt_buffer *name, lt_err *err)
{
    char hash[LT_HASH_TEXT_SIZE];
    if (name->size <= MAX_NAME) return LT_OK;
    lt_hash_bytes(name->data, name->size, hash);
    size_t from = name->size - (MAX_NAME - 34);
    while (((unsigned char)name->data[from] & 0xC0) == 0x80)
        from++; /* not inside a character */
    lt_buffer out = {0};
    lt_status status = lt_buffer_printf(&out, err, "%s_%s", hash, name->data + from);
    lt_buffer_free(name);
    *name = out;
    return status;
}

lt_status lt_evaluation_task_path(const char *directory, const char *beginning, const char *task,
                                  const char *ending, lt_buffer *out, lt_err *err)
{
    lt_buffer name = {0};
    lt_status status = append_fit(&name, task, err);
    if (status == LT_OK) status = shorten(&name, err);
    lt_buffer_clear(out);
    if (status == LT_OK)
        status = lt_buffer_printf(out, err, "%s/%s%s%s", directory, beginning,
                                  lt_buffer_text(&name), ending);
    lt_buffer_free(&name);
    return status;
}

void lt_evaluation_date_name(const char *date, char *out)
{
    do
        *out++ = *date == ':' ? '-' : *date;
    while (*date++);
}

/* Without "./" and "../" in front. */
static const char *without_dots(const char *path)
{
    size_t dots = strspn(path, "."), slashes = strspn(path + dots, "/");
    bool here_or_above = (dots == 1 || dots == 2) && slashes > 0;
    return here_or_above && path[dots + slashes] ? without_dots(path + dots + slashes) : path;
}

lt_status lt_evaluation_model_directory(const char *output, const char *model, const char *adapter,
                                        lt_buffer *out, lt_err *err)
{
    lt_buffer name = {0};
    lt_status status;
    LT_TRY_GOTO(status, append_fit(&name, without_dots(model), err), done);
    if (adapter) {
        LT_TRY_GOTO(status, lt_buffer_append(&name, "+", 1, err), done);
        LT_TRY_GOTO(status, append_fit(&name, without_dots(adapter), err), done);
    }
    if (!lt_is_plain_file_name(lt_buffer_text(&name))) /* ".", ".." */
        LT_TRY_GOTO(status, lt_buffer_append(&name, "_", 1, err), done);
    LT_TRY_GOTO(status, shorten(&name, err), done);
    status = lt_path_join(out, output, lt_buffer_text(&name), err);
done:
    lt_buffer_free(&name);
    return status;
}
