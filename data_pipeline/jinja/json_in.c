/* Variables, which are JSON, as values. Their text is not copied. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "data_pipeline/jinja/values.h"
#include "data_pipeline/tokenizer_internal.h"

static lt_status convert(jinja_render *r, const json_t *json, uint8_t origin, const char *variable,
                         jinja_value *out);

static lt_status make_string(jinja_render *r, const char *bytes, size_t size, uint8_t origin,
                             const char *variable, jinja_value *out)
{
    jinja_string *string;
    if (lt_utf8_valid_prefix(bytes, size) != size)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "the variable '%s' holds text that is not UTF-8",
                             variable);
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *string, &string));
    *string = (jinja_string){
        .bytes = bytes, .size = size, .length = lt_jinja_length(bytes, size), .uniform = origin};
    *out = lt_jinja_string(string);
    return LT_OK;
}

/* Numbers that JSON files have and jansson has not: base/json.h keeps their spelling. */
static lt_status convert_literal(jinja_render *r, const char *literal, const char *variable,
                                 jinja_value *out)
{
    if (strcmp(literal, "NaN") == 0)
        *out = lt_jinja_float(NAN);
    else if (strcmp(literal, "Infinity") == 0 || strcmp(literal, "-Infinity") == 0)
        *out = lt_jinja_float(*literal == '-' ? -INFINITY : INFINITY);
    else
        return lt_jinja_fail(r, LT_ERR_LIMIT, "the variable '%s' holds %.40s, beyond 64 bits",
                             variable, literal);
    return LT_OK;
}

static lt_status convert_array(jinja_render *r, const json_t *json, uint8_t origin,
                               const char *variable, jinja_value *out)
{
    jinja_value *items;
    jinja_list *list;
    size_t count = json_array_size(json);
    LT_TRY(lt_jinja_alloc(r, count, sizeof *items, &items));
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *list, &list));
    for (size_t i = 0; i < count; i++)
        LT_TRY(convert(r, json_array_get(json, i), origin, variable, &items[i]));
    *list = (jinja_list){items, count};
    *out = (jinja_value){.kind = JINJA_LIST, .list = list};
    return LT_OK;
}

static lt_status convert_object(jinja_render *r, const json_t *json, uint8_t origin,
                                const char *variable, jinja_value *out)
{
    const char *name;
    json_t *member;
    LT_TRY(lt_jinja_dict_new(r, JINJA_DICT, json_object_size(json), out));
    json_object_foreach((json_t *)json, name, member)
    {
        jinja_value key, value;
        LT_TRY(make_string(r, name, strlen(name), origin, variable, &key));
        LT_TRY(convert(r, member, origin, variable, &value));
        LT_TRY(lt_jinja_dict_set(r, out->dict, key, value));
    }
    return LT_OK;
}

static lt_status convert_any(jinja_render *r, const json_t *json, uint8_t origin,
                             const char *variable, jinja_value *out)
{
    const char *text;
    size_t prefix = strlen(LT_JSON_LITERAL_PREFIX);
    switch (json_typeof(json)) {
    case JSON_NULL:
        *out = lt_jinja_none();
        return LT_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = lt_jinja_bool(json_is_true(json));
        return LT_OK;
    case JSON_INTEGER:
        *out = lt_jinja_int(json_integer_value(json));
        return LT_OK;
    case JSON_REAL:
        *out = lt_jinja_float(json_real_value(json));
        return LT_OK;
    case JSON_STRING:
        text = json_string_value(json);
        if (strncmp(text, LT_JSON_LITERAL_PREFIX, prefix) == 0)
            return convert_literal(r, text + prefix, variable, out);
        return make_string(r, text, json_string_length(json), origin, variable, out);
    case JSON_ARRAY:
        return convert_array(r, json, origin, variable, out);
    default:
        return convert_object(r, json, origin, variable, out);
    }
}

static lt_status convert(jinja_render *r, const json_t *json, uint8_t origin, const char *variable,
                         jinja_value *out)
{
    LT_TRY(lt_jinja_enter(r));
    lt_status status = convert_any(r, json, origin, variable, out);
    lt_jinja_leave(r);
    return status;
}

/* A known word under the mark's key belongs to nobody. */
static lt_status unmark_word(jinja_render *r, const json_t *element, const lt_jinja_mark *mark,
                             jinja_value *item)
{
    const json_t *member = mark->key ? json_object_get(element, mark->key) : NULL;
    const char *word = json_string_value(member);
    for (size_t i = 0; word && mark->words[i]; i++) {
        jinja_value key, value;
        if (strcmp(word, mark->words[i]) != 0 || strlen(word) != json_string_length(member))
            continue;
        LT_TRY(
            make_string(r, mark->key, strlen(mark->key), LT_JINJA_TEMPLATE, mark->variable, &key));
        LT_TRY(make_string(r, word, strlen(word), LT_JINJA_TEMPLATE, mark->variable, &value));
        return lt_jinja_dict_set(r, item->dict, key, value);
    }
    return LT_OK;
}

/* Each element has the number that its source is told by. */
static lt_status convert_marked(jinja_render *r, const json_t *json, const lt_jinja_mark *mark,
                                jinja_value *out)
{
    jinja_growing list = {0};
    for (size_t i = 0; i < json_array_size(json); i++) {
        int source = mark->source(mark->context, i);
        jinja_value item;
        if (source < 0 || source >= LT_JINJA_MAX_SOURCES)
            return lt_jinja_fail(r, LT_ERR_LIMIT,
                                 "element %zu of '%s' is of source %d, not 0 to %d", i,
                                 mark->variable, source, LT_JINJA_MAX_SOURCES - 1);
        LT_TRY(convert(r, json_array_get(json, i), (uint8_t)(LT_JINJA_INPUT + source),
                       mark->variable, &item));
        LT_TRY(unmark_word(r, json_array_get(json, i), mark, &item));
        LT_TRY(lt_jinja_push(r, &list, item));
    }
    return lt_jinja_grown(r, &list, JINJA_LIST, out);
}

lt_status lt_jinja_load_variable(jinja_render *r, const char *name, const json_t *json,
                                 jinja_value *out)
{
    for (size_t i = 0; i < r->mark_count; i++) {
        if (strcmp(r->marks[i].variable, name) != 0) continue;
        if (r->marks[i].source && json_is_array(json))
            return convert_marked(r, json, &r->marks[i], out);
        return convert(r, json, LT_JINJA_INPUT, name, out);
    }
    return convert(r, json, LT_JINJA_TEMPLATE, name, out);
}
