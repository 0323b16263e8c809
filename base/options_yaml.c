/* Options from and to YAML and JSON. The YAML taken is a flat mapping of plain values and lists;
 * anchors, aliases, tags, nested mappings and second documents are refused, since no setting needs
 * them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/buffer.h"
#include "base/options_internal.h"

typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    bool has_event;
    const lt_option_table *table;
    const char *path;
    const unsigned char *locked;
    unsigned char *seen; /* [count]: a key given twice is an error */
    void *settings;
    lt_option_result *result;
} reader;

static lt_status fail_here(reader *r, lt_err *err, const char *what)
{
    return lt_fail(err, LT_ERR_USAGE, "%s:%zu: %s", r->path, r->event.start_mark.line + 1, what);
}

/* Moves to the next event. What no setting needs is refused here, once for all places. */
static lt_status advance(reader *r, lt_err *err)
{
    if (r->has_event) yaml_event_delete(&r->event);
    r->has_event = yaml_parser_parse(&r->parser, &r->event) != 0;
    if (!r->has_event)
        return lt_fail(err, LT_ERR_USAGE, "%s:%zu: not valid YAML: %s", r->path,
                       r->parser.problem_mark.line + 1,
                       r->parser.problem ? r->parser.problem : "unknown reason");
    const yaml_event_t *e = &r->event;
    if (e->type == YAML_ALIAS_EVENT) return fail_here(r, err, "aliases are not supported");
    bool anchored = (e->type == YAML_SCALAR_EVENT && e->data.scalar.anchor) ||
                    (e->type == YAML_SEQUENCE_START_EVENT && e->data.sequence_start.anchor) ||
                    (e->type == YAML_MAPPING_START_EVENT && e->data.mapping_start.anchor);
    bool tagged = (e->type == YAML_SCALAR_EVENT && e->data.scalar.tag) ||
                  (e->type == YAML_SEQUENCE_START_EVENT && e->data.sequence_start.tag) ||
                  (e->type == YAML_MAPPING_START_EVENT && e->data.mapping_start.tag);
    if (anchored) return fail_here(r, err, "anchors are not supported");
    if (tagged) return fail_here(r, err, "tags are not supported");
    return LT_OK;
}

static const char *scalar(const reader *r)
{
    return (const char *)r->event.data.scalar.value;
}

static bool scalar_has_nul(const reader *r)
{
    return strlen(scalar(r)) != r->event.data.scalar.length;
}

/* Plain `null`, `~` and nothing at all leave the option as it is. */
static bool is_null(const reader *r)
{
    const char *text = scalar(r);
    return r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (*text == '\0' || strcmp(text, "null") == 0 || strcmp(text, "~") == 0);
}

static lt_status assign_scalar(reader *r, const lt_option *option, bool locked, lt_err *err)
{
    char where[512];
    snprintf(where, sizeof where, "%s:%zu: %s", r->path, r->event.start_mark.line + 1,
             option->name);
    if (scalar_has_nul(r)) return lt_fail(err, LT_ERR_USAGE, "%s: holds a NUL character", where);
    return locked ? LT_OK : lt_option_assign(option, scalar(r), where, r->settings, err);
}

static lt_status read_list(reader *r, const lt_option *option, bool locked, lt_err *err)
{
    if (option->type != LT_OPTION_LIST)
        return fail_here(r, err, "a list is given where one value is wanted");
    for (;;) {
        LT_TRY(advance(r, err));
        if (r->event.type == YAML_SEQUENCE_END_EVENT) return LT_OK;
        if (r->event.type != YAML_SCALAR_EVENT)
            return fail_here(r, err, "a list may hold plain values only");
        LT_TRY(assign_scalar(r, option, locked, err));
    }
}

/* The value of the key that was just read. */
static lt_status read_value(reader *r, const lt_option *option, lt_err *err)
{
    size_t index = (size_t)(option - r->table->options);
    bool locked = r->locked && r->locked[index];
    LT_TRY(advance(r, err));
    if (r->event.type != YAML_SCALAR_EVENT && r->event.type != YAML_SEQUENCE_START_EVENT)
        return fail_here(r, err,
                         "nested mappings are not supported; settings are `name: value` lines");
    if (r->event.type == YAML_SCALAR_EVENT && is_null(r)) return LT_OK;
    if (!locked) {
        if (option->type == LT_OPTION_LIST) lt_option_clear_list(option, r->settings);
        r->result->was_set[index] = 1;
    }
    if (r->event.type == YAML_SEQUENCE_START_EVENT) return read_list(r, option, locked, err);
    return assign_scalar(r, option, locked, err);
}

static lt_status read_key(reader *r, const lt_option **out, lt_err *err)
{
    if (r->event.type != YAML_SCALAR_EVENT)
        return fail_here(r, err, "a setting's name must be plain text");
    char where[512];
    snprintf(where, sizeof where, "%s:%zu: ", r->path, r->event.start_mark.line + 1);
    const lt_option *option = lt_option_find(r->table, scalar(r), r->event.data.scalar.length);
    if (!option) return lt_option_unknown(r->table, scalar(r), where, err);
    if (option->command_line_only)
        return lt_fail(err, LT_ERR_USAGE, "%s'%s' can only be given on the command line", where,
                       option->name);
    unsigned char *seen = &r->seen[option - r->table->options];
    if (*seen) return lt_fail(err, LT_ERR_USAGE, "%s'%s' is given twice", where, option->name);
    *seen = 1;
    *out = option;
    return LT_OK;
}

static lt_status read_document(reader *r, lt_err *err)
{
    LT_TRY(advance(r, err)); /* stream start */
    LT_TRY(advance(r, err));
    if (r->event.type == YAML_STREAM_END_EVENT) return LT_OK; /* an empty file sets nothing */
    LT_TRY(advance(r, err));
    if (r->event.type == YAML_SCALAR_EVENT && is_null(r)) return LT_OK;
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return fail_here(r, err, "expected `name: value` lines at the top level");
    for (;;) {
        LT_TRY(advance(r, err));
        if (r->event.type == YAML_MAPPING_END_EVENT) break;
        const lt_option *option = NULL;
        LT_TRY(read_key(r, &option, err));
        LT_TRY(read_value(r, option, err));
    }
    LT_TRY(advance(r, err)); /* document end */
    LT_TRY(advance(r, err));
    if (r->event.type != YAML_STREAM_END_EVENT) return fail_here(r, err, "more than one document");
    return LT_OK;
}

lt_status lt_options_apply_yaml(const lt_option_table *table, const char *text, size_t size,
                                const char *path, const unsigned char *locked, void *settings,
                                lt_option_result *result, lt_err *err)
{
    reader r = {
        .table = table, .path = path, .locked = locked, .settings = settings, .result = result};
    r.seen = calloc(table->count + 1, 1);
    if (!r.seen) return lt_fail_nomem(err, table->count, "the options");
    if (!yaml_parser_initialize(&r.parser)) {
        free(r.seen);
        return lt_fail_nomem(err, sizeof r.parser, "the YAML parser");
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, size);
    lt_status status = read_document(&r, err);
    if (r.has_event) yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    free(r.seen);
    return status;
}

/* --- Resolved settings
 * ------------------------------------------------------------------------------- */

static json_t *list_to_json(const lt_string_list *list)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < list->count; i++)
        json_array_append_new(array, json_string(list->items[i]));
    return array;
}

static json_t *value_to_json(const lt_option *option, const void *settings)
{
    const void *value = (const char *)settings + option->offset;
    switch (option->type) {
    case LT_OPTION_FLAG:
        return json_boolean(*(const bool *)value);
    case LT_OPTION_INT:
        return json_integer(*(const int64_t *)value);
    case LT_OPTION_NUMBER:
        return json_real(*(const double *)value);
    case LT_OPTION_LIST:
        return list_to_json(value);
    case LT_OPTION_STRING:
    case LT_OPTION_CHOICE:
        break;
    }
    const char *text = *(char *const *)value;
    return text ? json_string(text) : json_null();
}

static void underscored(const char *name, char out[80])
{
    snprintf(out, 80, "%s", name);
    for (char *c = out; *c; c++) {
        if (*c == '-') *c = '_';
    }
}

lt_status lt_options_to_json(const lt_option_table *table, const void *settings, json_t **out,
                             lt_err *err)
{
    json_t *object = json_object();
    for (size_t i = 0; object && i < table->count; i++) {
        char key[80];
        if (table->options[i].command_line_only) continue;
        underscored(table->options[i].name, key);
        json_t *value = value_to_json(&table->options[i], settings);
        if (!value || json_object_set_new(object, key, value) != 0) {
            json_decref(object);
            return lt_fail(err, LT_ERR_FORMAT,
                           "setting %s can not be written: it is not valid UTF-8", key);
        }
    }
    *out = object;
    return object ? LT_OK : lt_fail_nomem(err, 1024, "the settings");
}

/* JSON text is YAML, but for characters that YAML takes for line breaks or does not let stand for
 * themselves. They can only occur inside quotes, where both know \u. */
static lt_status append_escaped(lt_buffer *text, const char *json, lt_err *err)
{
    static const struct {
        const char *bytes, *escape;
    } special[] = {{"\x7F", "\\u007f"},         {"\xE2\x80\xA8", "\\u2028"},
                   {"\xE2\x80\xA9", "\\u2029"}, {"\xEF\xBB\xBF", "\\ufeff"},
                   {"\xEF\xBF\xBE", "\\ufffe"}, {"\xEF\xBF\xBF", "\\uffff"}};
    for (const char *at = json; *at;) {
        size_t used = 0;
        if ((unsigned char)at[0] == 0xC2 && (unsigned char)at[1] < 0xA0) { /* U+0080 to U+009F */
            LT_TRY(lt_buffer_printf(text, err, "\\u%04x", (unsigned char)at[1]));
            used = 2;
        }
        for (size_t i = 0; i < sizeof special / sizeof *special && !used; i++) {
            if (strncmp(at, special[i].bytes, strlen(special[i].bytes)) != 0) continue;
            LT_TRY(lt_buffer_append_text(text, special[i].escape, err));
            used = strlen(special[i].bytes);
        }
        if (!used) LT_TRY(lt_buffer_append(text, at, 1, err));
        at += used ? used : 1;
    }
    return LT_OK;
}

static lt_status append_value(lt_buffer *text, const json_t *value, lt_err *err)
{
    if (json_is_real(value)) return lt_buffer_append_number(text, json_real_value(value), err);
    char *dumped = json_dumps(value, JSON_ENCODE_ANY);
    if (!dumped) return lt_fail_nomem(err, 1024, "the settings");
    lt_status status = append_escaped(text, dumped, err);
    free(dumped);
    return status;
}

/* Each value in JSON's spelling, one `key: value` line each. */
lt_status lt_options_to_yaml(const lt_option_table *table, const void *settings, char **out,
                             lt_err *err)
{
    json_t *object = NULL, *value;
    lt_buffer text = {0};
    const char *key;
    lt_status status;
    LT_TRY_GOTO(status, lt_options_to_json(table, settings, &object, err), done);
    json_object_foreach(object, key, value)
    {
        LT_TRY_GOTO(status, lt_buffer_printf(&text, err, "%s: ", key), done);
        LT_TRY_GOTO(status, append_value(&text, value, err), done);
        LT_TRY_GOTO(status, lt_buffer_append_text(&text, "\n", err), done);
    }
    *out = text.data;
    text = (lt_buffer){0};
done:
    json_decref(object);
    lt_buffer_free(&text);
    return status;
}
