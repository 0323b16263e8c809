/* Filters that make or change text. */
#include <string.h>

#include "data_pipeline/jinja/string_methods.h"

#define FILTER(name)                                                                         \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_value *const *args, \
                          jinja_value *out)

static const jinja_string space = {.bytes = " ", .size = 1, .length = 1};

FILTER(string_)
{
    (void)args;
    return lt_jinja_str(r, self, out);
}

FILTER(trim_)
{
    const jinja_string *chars = NULL;
    if (args[0] && args[0]->kind != JINJA_NONE) LT_TRY(lt_jinja_arg_string(r, args[0], &chars));
    LT_TRY(lt_jinja_str(r, self, out));
    return lt_jinja_strip(r, out->string, chars, true, true, out);
}

#define CASE_FILTER(name, how)                                 \
    FILTER(name)                                               \
    {                                                          \
        (void)args;                                            \
        LT_TRY(lt_jinja_str(r, self, out));                    \
        return lt_jinja_change_case(r, out->string, how, out); \
    }

CASE_FILTER(upper_, JINJA_UPPER)
CASE_FILTER(lower_, JINJA_LOWER)
CASE_FILTER(capitalize_, JINJA_CAPITALIZE)

/* Where a run of what begins words, or of what does not, ends. */
static size_t word_run(const jinja_string *text, size_t at, bool breaks)
{
    size_t size;
    for (; at < text->size; at += size) {
        uint32_t c = lt_jinja_character(text, at, &size);
        bool is_break = lt_jinja_is_space(c) || (c < 128 && c && strchr("-({[<", (int)c));
        if (is_break != breaks) break;
    }
    return at;
}

static lt_status put_title_word(jinja_render *r, const jinja_string *text, size_t from, size_t to)
{
    jinja_value part;
    size_t size;
    lt_jinja_character(text, from, &size);
    LT_TRY(lt_jinja_cut(r, text, from, from + size, &part));
    LT_TRY(lt_jinja_change_case(r, part.string, JINJA_UPPER, &part));
    LT_TRY(lt_jinja_put(r, part.string));
    LT_TRY(lt_jinja_cut(r, text, from + size, to, &part));
    LT_TRY(lt_jinja_change_case(r, part.string, JINJA_LOWER, &part));
    return lt_jinja_put(r, part.string);
}

FILTER(title_)
{
    (void)args;
    LT_TRY(lt_jinja_str(r, self, out));
    const jinja_string *text = out->string;
    jinja_pad pad = lt_jinja_begin(r);
    for (size_t at = 0, end; at < text->size; at = end) {
        bool breaks = word_run(text, at, true) > at;
        end = word_run(text, at, breaks);
        LT_TRY(put_title_word(r, text, at, end));
    }
    return lt_jinja_end(r, pad, out);
}

FILTER(replace_)
{
    jinja_value text, old, new_;
    int64_t count = -1;
    LT_TRY(lt_jinja_str(r, self, &text));
    LT_TRY(lt_jinja_str(r, *args[0], &old));
    LT_TRY(lt_jinja_str(r, *args[1], &new_));
    if (args[2] && args[2]->kind != JINJA_NONE) LT_TRY(lt_jinja_arg_int(r, args[2], &count));
    return lt_jinja_replace(r, text.string, old.string, new_.string, count, out);
}

FILTER(escape_)
{
    (void)args;
    LT_TRY(lt_jinja_str(r, self, out));
    return out->string->safe ? LT_OK : lt_jinja_escape(r, out->string, out);
}

FILTER(safe_)
{
    (void)args;
    jinja_string *marked;
    LT_TRY(lt_jinja_str(r, self, out));
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *marked, &marked));
    *marked = *out->string;
    marked->safe = true;
    *out = lt_jinja_string(marked);
    return LT_OK;
}

FILTER(center_)
{
    int64_t width = 80;
    LT_TRY(lt_jinja_arg_int(r, args[0], &width));
    LT_TRY(lt_jinja_str(r, self, out));
    return lt_jinja_center(r, out->string, width, &space, out);
}

/* --- indent --- */

/* `width`: spaces or a text. */
static lt_status indentation(jinja_render *r, const jinja_value *width, jinja_value *out)
{
    int64_t count = 4;
    if (width && width->kind == JINJA_STRING) {
        *out = *width;
        return LT_OK;
    }
    LT_TRY(lt_jinja_arg_int(r, width, &count));
    jinja_string empty = {.bytes = ""};
    return lt_jinja_pad_text(r, &empty, count, 0, &space, out);
}

static lt_status put_cut(jinja_render *r, const jinja_string *text, size_t from, size_t to)
{
    jinja_value part;
    LT_TRY(lt_jinja_cut(r, text, from, to, &part));
    return lt_jinja_put(r, part.string);
}

/* Lines joined by \n, however they ended. */
FILTER(indent_)
{
    jinja_value indent;
    bool first = lt_jinja_arg_truth(args[1], false), blank = lt_jinja_arg_truth(args[2], false);
    if (self.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, self);
    if (self.kind != JINJA_STRING)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "indent() needs a string, not %s",
                             lt_jinja_type_name(self));
    const jinja_string *text = self.string;
    size_t end, next;
    LT_TRY(indentation(r, args[0], &indent));
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_spend(r, text->size / 64));
    for (size_t at = 0; at <= text->size; at = next) {
        lt_jinja_line(text, at, &end, &next);
        bool shifted = at == 0 ? first : blank || end > at;
        if (shifted) LT_TRY(lt_jinja_put(r, indent.string));
        LT_TRY(put_cut(r, text, at, end));
        /* the line feed that Jinja2 adds makes one line end with a \r before it */
        if (next == text->size && (end == next || text->bytes[end] == '\r')) break;
        LT_TRY(lt_jinja_put_bytes(r, "\n", 1, lt_jinja_origin(text, end)));
    }
    return lt_jinja_end(r, pad, out);
}

/* --- wordcount --- */

static bool is_word(const jinja_string *text, size_t at, size_t *size)
{
    uint32_t c = lt_jinja_character(text, at, size);
    return c == '_' || lt_jinja_is_alphanumeric(c);
}

FILTER(wordcount_)
{
    (void)args;
    int64_t count = 0;
    bool inside = false;
    LT_TRY(lt_jinja_str(r, self, out));
    const jinja_string *text = out->string;
    LT_TRY(lt_jinja_spend(r, text->size / 4));
    for (size_t at = 0, size; at < text->size; at += size) {
        bool word = is_word(text, at, &size);
        count += word && !inside;
        inside = word;
    }
    *out = lt_jinja_int(count);
    return LT_OK;
}

/* --- tojson --- */

static lt_status read_separators(jinja_render *r, const jinja_value *value, jinja_json_style *style)
{
    if (value->kind == JINJA_NONE) return LT_OK;
    if ((value->kind != JINJA_LIST && value->kind != JINJA_TUPLE) || value->list->count != 2)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "separators must be a pair of strings");
    LT_TRY(lt_jinja_arg_string(r, &value->list->items[0], &style->item_separator));
    return lt_jinja_arg_string(r, &value->list->items[1], &style->key_separator);
}

FILTER(tojson_)
{
    static const jinja_string comma = {.bytes = ",", .size = 1, .length = 1};
    static const jinja_string comma_space = {.bytes = ", ", .size = 2, .length = 2};
    static const jinja_string colon_space = {.bytes = ": ", .size = 2, .length = 2};
    jinja_value indent;
    jinja_json_style style = {.ascii = lt_jinja_arg_truth(args[0], false),
                              .indented = args[1] && args[1]->kind != JINJA_NONE,
                              .sorted = lt_jinja_arg_truth(args[3], false),
                              .item_separator = &comma_space,
                              .key_separator = &colon_space};
    if (style.indented) {
        LT_TRY(indentation(r, args[1], &indent));
        style.indent = indent.string;
        style.item_separator = &comma;
    }
    if (args[2]) LT_TRY(read_separators(r, args[2], &style));
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_put_json(r, self, &style));
    return lt_jinja_end(r, pad, out);
}

static const jinja_builtin filters[] = {
    {"string", "", 0, string_, NULL},
    {"trim", "chars", 0, trim_, NULL},
    {"upper", "", 0, upper_, NULL},
    {"lower", "", 0, lower_, NULL},
    {"capitalize", "", 0, capitalize_, NULL},
    {"title", "", 0, title_, NULL},
    {"replace", "old new count", 2, replace_, NULL},
    {"escape", "", 0, escape_, NULL},
    {"e", "", 0, escape_, NULL},
    {"safe", "", 0, safe_, NULL},
    {"center", "width", 0, center_, NULL},
    {"indent", "width first blank", 0, indent_, NULL},
    {"wordcount", "", 0, wordcount_, NULL},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, tojson_, NULL},
    {"filesizeformat", "", 0, NULL, NULL},
    {"forceescape", "", 0, NULL, NULL},
    {"format", "", 0, NULL, NULL},
    {"pprint", "", 0, NULL, NULL},
    {"striptags", "", 0, NULL, NULL},
    {"truncate", "", 0, NULL, NULL},
    {"urlencode", "", 0, NULL, NULL},
    {"urlize", "", 0, NULL, NULL},
    {"wordwrap", "", 0, NULL, NULL},
    {"xmlattr", "", 0, NULL, NULL},
};
const jinja_builtins lt_jinja_text_filters = {filters, sizeof filters / sizeof *filters};
