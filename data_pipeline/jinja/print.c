/* str() and repr(), byte for byte as Python's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "data_pipeline/jinja/syntax.h"

static lt_status put(jinja_render *r, const char *text)
{
    return lt_jinja_put_bytes(r, text, strlen(text), LT_JINJA_TEMPLATE);
}

/* The shortest digits that read back as the number, in Python's layout. */
void lt_jinja_print_float(double number, char out[32])
{
    char digits[32];
    if (!isfinite(number)) {
        strcpy(out, isnan(number) ? "nan" : number < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 0;
    do {
        snprintf(digits, sizeof digits, "%.*e", precision, number);
    } while (strtod(digits, NULL) != number && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= 16 || exponent < -4) {
        snprintf(out, 32, "%s", digits); /* C's exponents have two digits too */
        return;
    }
    int decimals = precision - exponent;
    snprintf(out, 32, "%.*f", decimals > 0 ? decimals : 1, number);
}

static lt_status put_number(jinja_render *r, jinja_value value)
{
    char text[32];
    if (value.kind == JINJA_FLOAT)
        lt_jinja_print_float(value.number, text);
    else
        snprintf(text, sizeof text, "%lld", (long long)value.integer);
    return put(r, text);
}

/* --- Strings --- */

/* str.isprintable */
static bool is_printable(uint32_t c)
{
    if (c < 128) return c >= 32 && c != 127;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

/* What stands for a character that is not shown as it is, or an empty string. */
static void escape_character(uint32_t c, char quote, char out[16])
{
    out[0] = '\0';
    if (c == '\\' || c == (unsigned char)quote)
        snprintf(out, 16, "\\%c", (char)c);
    else if (c == '\n' || c == '\r' || c == '\t')
        snprintf(out, 16, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (!is_printable(c))
        snprintf(out, 16, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
}

static lt_status put_string_repr(jinja_render *r, const jinja_string *string)
{
    bool single = memchr(string->bytes, '\'', string->size) != NULL;
    bool both = single && memchr(string->bytes, '"', string->size) != NULL;
    char quote[2] = {single && !both ? '"' : '\'', '\0'}, escaped[16];
    if (string->safe) LT_TRY(put(r, "Markup("));
    LT_TRY(put(r, quote));
    for (size_t at = 0, size; at < string->size; at += size) {
        uint8_t origin = lt_jinja_origin(string, at);
        escape_character(lt_jinja_character(string, at, &size), *quote, escaped);
        if (*escaped)
            LT_TRY(lt_jinja_put_bytes(r, escaped, strlen(escaped), origin));
        else
            LT_TRY(lt_jinja_put_bytes(r, string->bytes + at, size, origin));
    }
    LT_TRY(put(r, quote));
    return string->safe ? put(r, ")") : LT_OK;
}

/* --- Containers --- */

static lt_status put_list(jinja_render *r, const jinja_list *list, bool tuple)
{
    LT_TRY(put(r, tuple ? "(" : "["));
    for (size_t i = 0; i < list->count; i++) {
        if (i) LT_TRY(put(r, ", "));
        LT_TRY(lt_jinja_put_repr(r, list->items[i]));
    }
    if (tuple && list->count == 1) LT_TRY(put(r, ","));
    return put(r, tuple ? ")" : "]");
}

static lt_status put_dict(jinja_render *r, const jinja_dict *dict)
{
    LT_TRY(put(r, "{"));
    for (size_t i = 0; i < dict->count; i++) {
        if (i) LT_TRY(put(r, ", "));
        LT_TRY(lt_jinja_put_repr(r, dict->entries[i].key));
        LT_TRY(put(r, ": "));
        LT_TRY(lt_jinja_put_repr(r, dict->entries[i].value));
    }
    return put(r, "}");
}

static lt_status put_namespace(jinja_render *r, const jinja_dict *dict)
{
    LT_TRY(put(r, "<Namespace "));
    LT_TRY(put_dict(r, dict));
    return put(r, ">");
}

static lt_status put_view(jinja_render *r, const jinja_view *view)
{
    static const char *const names[] = {"dict_keys([", "dict_values([", "dict_items(["};
    LT_TRY(put(r, names[view->part]));
    for (size_t i = 0; i < view->dict->count; i++) {
        const jinja_entry *entry = &view->dict->entries[i];
        if (i) LT_TRY(put(r, ", "));
        if (view->part == JINJA_ITEMS) LT_TRY(put(r, "("));
        if (view->part != JINJA_VALUES) LT_TRY(lt_jinja_put_repr(r, entry->key));
        if (view->part == JINJA_ITEMS) LT_TRY(put(r, ", "));
        if (view->part != JINJA_KEYS) LT_TRY(lt_jinja_put_repr(r, entry->value));
        if (view->part == JINJA_ITEMS) LT_TRY(put(r, ")"));
    }
    return put(r, "])");
}

static lt_status put_range(jinja_render *r, const jinja_range *range)
{
    char text[96];
    int used = snprintf(text, sizeof text, "range(%lld, %lld", (long long)range->start,
                        (long long)range->stop);
    if (range->step != 1)
        used += snprintf(text + used, sizeof text - (size_t)used, ", %lld", (long long)range->step);
    snprintf(text + used, sizeof text - (size_t)used, ")");
    return put(r, text);
}

static lt_status put_macro(jinja_render *r, const jinja_macro *macro)
{
    if (macro->node->macro.name < 0) return put(r, "<Macro anonymous>");
    LT_TRY(put(r, "<Macro "));
    LT_TRY(put_string_repr(r, &r->template_->names[macro->node->macro.name]));
    return put(r, ">");
}

static lt_status put_any(jinja_render *r, jinja_value value)
{
    switch ((jinja_kind)value.kind) {
    case JINJA_UNDEFINED:
        return put(r, "Undefined");
    case JINJA_NONE:
        return put(r, "None");
    case JINJA_BOOL:
        return put(r, value.boolean ? "True" : "False");
    case JINJA_INT:
    case JINJA_FLOAT:
        return put_number(r, value);
    case JINJA_STRING:
        return put_string_repr(r, value.string);
    case JINJA_LIST:
    case JINJA_TUPLE:
        return put_list(r, value.list, value.kind == JINJA_TUPLE);
    case JINJA_DICT:
        return put_dict(r, value.dict);
    case JINJA_NAMESPACE:
        return put_namespace(r, value.dict);
    case JINJA_VIEW:
        return put_view(r, value.view);
    case JINJA_RANGE:
        return put_range(r, value.range);
    case JINJA_LOOP:
        return lt_jinja_put_loop(r, value.loop);
    case JINJA_MACRO:
        return put_macro(r, value.macro);
    default: /* Python prints an address */
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "printing a %s is not supported",
                             lt_jinja_type_name(value));
    }
}

lt_status lt_jinja_put_repr(jinja_render *r, jinja_value value)
{
    LT_TRY(lt_jinja_enter(r));
    lt_status status = put_any(r, value);
    lt_jinja_leave(r);
    return status;
}

lt_status lt_jinja_put_str(jinja_render *r, jinja_value value)
{
    if (value.kind == JINJA_STRING) return lt_jinja_put(r, value.string);
    return value.kind == JINJA_UNDEFINED ? LT_OK : lt_jinja_put_repr(r, value);
}

lt_status lt_jinja_str(jinja_render *r, jinja_value value, jinja_value *out)
{
    if (value.kind == JINJA_STRING) {
        *out = value;
        return LT_OK;
    }
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_put_str(r, value));
    return lt_jinja_end(r, pad, out);
}
