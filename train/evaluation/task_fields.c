/* Fields of a record of a task file. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "train/evaluation/task_format.h"
#include "train/evaluation/task_text.h"

json_t *lt_task_find(const json_t *record, const char *path)
{
    const json_t *value = record;
    while (value) {
        size_t size = strcspn(path, ".");
        value = json_object_getn(value, path, size);
        if (path[size] == '\0') break;
        path += size + 1;
    }
    return json_is_null(value) ? NULL : (json_t *)value;
}

static lt_status wrong(const lt_task_record *record, const char *path, const char *what,
                       lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" must be %s", record->where, path, what);
}

lt_status lt_task_need(const lt_task_record *record, const char *path, json_t **out, lt_err *err)
{
    if ((*out = lt_task_find(record->json, path))) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" is missing: each record of a %s file has %s",
                   record->where, path, record->format->name, record->format->keys);
}

/* NULL: it is no string. */
static const char *string_of(const json_t *value)
{
    const char *text = json_string_value(value);
    bool literal =
        text && strncmp(text, LT_JSON_LITERAL_PREFIX, strlen(LT_JSON_LITERAL_PREFIX)) == 0;
    return literal ? NULL : text;
}

lt_status lt_task_text(const lt_task_record *record, const char *path, const char **out,
                       lt_err *err)
{
    json_t *value;
    LT_TRY(lt_task_need(record, path, &value, err));
    *out = string_of(value);
    return *out ? LT_OK : wrong(record, path, "a string", err);
}

lt_status lt_task_text_copy(const lt_task_record *record, const char *path, char **out, lt_err *err)
{
    const char *text;
    LT_TRY(lt_task_text(record, path, &text, err));
    return lt_copy_text(text, out, err);
}

lt_status lt_task_optional_text(const lt_task_record *record, const char *path, char **out,
                                lt_err *err)
{
    return lt_task_find(record->json, path) ? lt_task_text_copy(record, path, out, err) : LT_OK;
}

static lt_status check_array(const lt_task_record *record, const char *path, const json_t *array,
                             size_t min, lt_err *err)
{
    if (!json_is_array(array)) return wrong(record, path, "an array of strings", err);
    size_t size = json_array_size(array);
    if (size < min)
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" has %zu strings, but needs %zu or more",
                       record->where, path, size, min);
    if (size > LT_TASK_MAX_CHOICES)
        return lt_fail(err, LT_ERR_LIMIT, "%s: \"%s\" has %zu strings; at most %d are supported",
                       record->where, path, size, LT_TASK_MAX_CHOICES);
    return LT_OK;
}

lt_status lt_task_texts(const lt_task_record *record, const char *path, size_t min, char ***out,
                        size_t *count, lt_err *err)
{
    json_t *array;
    LT_TRY(lt_task_need(record, path, &array, err));
    LT_TRY(check_array(record, path, array, min, err));
    size_t size = json_array_size(array);
    *out = calloc(size + 1, sizeof **out);
    if (!*out) return lt_fail_nomem(err, size * sizeof **out, "a task's texts");
    for (*count = 0; *count < size;) {
        const char *text = string_of(json_array_get(array, *count));
        if (!text)
            return lt_fail(err, LT_ERR_FORMAT, "%s: entry %zu of \"%s\" must be a string",
                           record->where, *count + 1, path);
        LT_TRY(lt_copy_text(text, &(*out)[*count], err));
        (*count)++;
    }
    return LT_OK;
}

lt_status lt_task_filled_texts(const lt_task_record *record, const char *path, size_t min,
                               char ***out, size_t *count, lt_err *err)
{
    LT_TRY(lt_task_texts(record, path, min, out, count, err));
    for (size_t i = 0; i < *count; i++)
        if (!*(*out)[i])
            return lt_fail(err, LT_ERR_FORMAT, "%s: entry %zu of \"%s\" is empty", record->where,
                           i + 1, path);
    return LT_OK;
}

/* A string of digits as datasets write class labels: "3". */
static bool to_integer(const json_t *value, json_int_t *out)
{
    const char *text = value ? string_of(value) : NULL;
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    if (!text || !*text || strspn(text, "0123456789") != strlen(text)) return false;
    *out = strtoll(text, NULL, 10); /* too large a number is out of range, too */
    return true;
}

lt_status lt_task_index_of(const lt_task_record *record, const char *path, const json_t *value,
                           size_t bound, int64_t *out, lt_err *err)
{
    json_int_t number;
    if (!to_integer(value, &number)) return wrong(record, path, "the number of a choice", err);
    if (number < 0 || number >= (json_int_t)bound)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: \"%s\" is %lld, but the choices are 0 to %zu; a record without a right "
                       "choice can not be scored",
                       record->where, path, (long long)number, bound - 1);
    *out = number;
    return LT_OK;
}

lt_status lt_task_index(const lt_task_record *record, const char *path, size_t bound, int64_t *out,
                        lt_err *err)
{
    json_t *value;
    LT_TRY(lt_task_need(record, path, &value, err));
    return lt_task_index_of(record, path, value, bound, out, err);
}

lt_status lt_task_set_gold(lt_task_doc *doc, const int64_t *gold, size_t count, lt_err *err)
{
    doc->gold = malloc(count * sizeof *doc->gold);
    if (!doc->gold) return lt_fail_nomem(err, count * sizeof *doc->gold, "right choices");
    memcpy(doc->gold, gold, count * sizeof *gold);
    doc->gold_count = count;
    return LT_OK;
}
