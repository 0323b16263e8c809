/* The filter tojson: Python's json.dumps. Characters keep their origin, what is added has the
 * template's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/jinja/values.h"

static lt_status put_value(jinja_render *r, jinja_value value, const jinja_json_style *style,
                           int level);

static lt_status put(jinja_render *r, const char *text)
{
    return lt_jinja_put_bytes(r, text, strlen(text), LT_JINJA_TEMPLATE);
}

/* Bytes of the escape that stands for the character, 0: it stands for itself. */
static size_t escape(uint32_t c, bool ascii, char out[16])
{
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *found = c && c < 128 ? strchr(plain, (int)c) : NULL;
    if (found) return (size_t)snprintf(out, 16, "\\%c", letters[found - plain]);
    if (c >= 32 && (!ascii || c < 127)) return 0;
    if (c < 0x10000) return (size_t)snprintf(out, 16, "\\u%04x", c);
    return (size_t)snprintf(out, 16, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10),
                            0xDC00 + ((c - 0x10000) & 0x3FF));
}

static lt_status put_part(jinja_render *r, const jinja_string *string, size_t from, size_t to)
{
    jinja_string part = *string;
    part.bytes += from;
    if (part.origin) part.origin += from;
    part.size = to - from;
    return lt_jinja_put(r, &part);
}

static lt_status put_string(jinja_render *r, const jinja_string *string,
                            const jinja_json_style *style)
{
    char escaped[16];
    size_t from = 0;
    LT_TRY(put(r, "\""));
    for (size_t at = 0, size; at < string->size; at += size) {
        size_t length = escape(lt_jinja_character(string, at, &size), style->ascii, escaped);
        if (length == 0) continue;
        LT_TRY(put_part(r, string, from, at));
        LT_TRY(lt_jinja_put_bytes(r, escaped, length, lt_jinja_origin(string, at)));
        from = at + size;
    }
    LT_TRY(put_part(r, string, from, string->size));
    return put(r, "\"");
}

static lt_status put_float(jinja_render *r, double number)
{
    char text[32];
    if (isnan(number)) return put(r, "NaN");
    if (isinf(number)) return put(r, number < 0 ? "-Infinity" : "Infinity");
    lt_jinja_print_float(number, text);
    return put(r, text);
}

static lt_status put_scalar(jinja_render *r, jinja_value value)
{
    char text[32];
    switch ((jinja_kind)value.kind) {
    case JINJA_NONE:
        return put(r, "null");
    case JINJA_BOOL:
        return put(r, value.boolean ? "true" : "false");
    case JINJA_FLOAT:
        return put_float(r, value.number);
    default:
        snprintf(text, sizeof text, "%lld", (long long)value.integer);
        return put(r, text);
    }
}

/* --- Containers --- */

static lt_status put_line(jinja_render *r, const jinja_json_style *style, int level)
{
    if (!style->indented) return LT_OK;
    LT_TRY(put(r, "\n"));
    for (int i = 0; i < level; i++)
        LT_TRY(lt_jinja_put(r, style->indent));
    return LT_OK;
}

static lt_status put_list(jinja_render *r, const jinja_list *list, const jinja_json_style *style,
                          int level)
{
    if (list->count == 0) return put(r, "[]");
    LT_TRY(put(r, "["));
    for (size_t i = 0; i < list->count; i++) {
        if (i) LT_TRY(lt_jinja_put(r, style->item_separator));
        LT_TRY(put_line(r, style, level + 1));
        LT_TRY(put_value(r, list->items[i], style, level + 1));
    }
    LT_TRY(put_line(r, style, level));
    return put(r, "]");
}

static lt_status put_key(jinja_render *r, jinja_value key, const jinja_json_style *style)
{
    if (key.kind == JINJA_STRING) return put_string(r, key.string, style);
    if (key.kind == JINJA_TUPLE || key.kind < JINJA_NONE || key.kind > JINJA_STRING)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "keys must be str, int, float, bool or None, not %s",
                             lt_jinja_type_name(key));
    LT_TRY(put(r, "\""));
    LT_TRY(put_scalar(r, key));
    return put(r, "\"");
}

/* A stable order of the entries by key. */
static lt_status sorted(jinja_render *r, const jinja_dict *dict, const jinja_entry **out)
{
    jinja_entry *entries;
    LT_TRY(lt_jinja_alloc(r, dict->count, sizeof *entries, &entries));
    for (size_t i = 0; i < dict->count; i++) {
        size_t at = i;
        for (; at > 0; at--) {
            bool less;
            LT_TRY(lt_jinja_less(r, dict->entries[i].key, entries[at - 1].key, "<", &less));
            if (!less) break;
            entries[at] = entries[at - 1];
        }
        entries[at] = dict->entries[i];
    }
    *out = entries;
    return LT_OK;
}

static lt_status put_dict(jinja_render *r, const jinja_dict *dict, const jinja_json_style *style,
                          int level)
{
    const jinja_entry *entries = dict->entries;
    if (dict->count == 0) return put(r, "{}");
    if (style->sorted) LT_TRY(sorted(r, dict, &entries));
    LT_TRY(put(r, "{"));
    for (size_t i = 0; i < dict->count; i++) {
        if (i) LT_TRY(lt_jinja_put(r, style->item_separator));
        LT_TRY(put_line(r, style, level + 1));
        LT_TRY(put_key(r, entries[i].key, style));
        LT_TRY(lt_jinja_put(r, style->key_separator));
        LT_TRY(put_value(r, entries[i].value, style, level + 1));
    }
    LT_TRY(put_line(r, style, level));
    return put(r, "}");
}

static lt_status put_any(jinja_render *r, jinja_value value, const jinja_json_style *style,
                         int level)
{
    switch ((jinja_kind)value.kind) {
    case JINJA_NONE:
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_FLOAT:
        return put_scalar(r, value);
    case JINJA_STRING:
        return put_string(r, value.string, style);
    case JINJA_LIST:
    case JINJA_TUPLE:
        return put_list(r, value.list, style, level);
    case JINJA_DICT:
        return put_dict(r, value.dict, style, level);
    default:
        return lt_jinja_fail(r, LT_ERR_FORMAT, "Object of type %s is not JSON serializable",
                             lt_jinja_type_name(value));
    }
}

static lt_status put_value(jinja_render *r, jinja_value value, const jinja_json_style *style,
                           int level)
{
    LT_TRY(lt_jinja_enter(r));
    lt_status status = put_any(r, value, style, level);
    lt_jinja_leave(r);
    return status;
}

lt_status lt_jinja_put_json(jinja_render *r, jinja_value value, const jinja_json_style *style)
{
    return put_value(r, value, style, 0);
}
