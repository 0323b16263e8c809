/* Records: one JSON object in any of the known formats, read into one form. */
#include "data_pipeline/records.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "data_pipeline/record_fields.h"

/* --- Formats --- */

/* `answer`: the field that a file of prompts may lack. */
typedef struct format_info {
    const char *name;
    const char *required[3];
    const char *optional[4];
    const char *answer;
} format_info;

static const format_info formats[] = {
    [LT_FORMAT_AUTO] = {"auto", {0}, {0}, NULL},
    [LT_FORMAT_DOLLY] = {"dolly",
                         {"instruction", "response"},
                         {"context", "category", "system"},
                         "response"},
    [LT_FORMAT_ALPACA] = {"alpaca",
                          {"instruction", "output"},
                          {"input", "system", "category"},
                          "output"},
    [LT_FORMAT_MESSAGES] = {"messages", {"messages"}, {"category", "tools"}, NULL},
    [LT_FORMAT_SHAREGPT] = {"sharegpt", {"conversations"}, {"system", "category"}, NULL},
    [LT_FORMAT_COMPLETION] = {"completion", {"prompt", "completion"}, {"category"}, "completion"},
    [LT_FORMAT_TEXT] = {"text", {"text"}, {"category"}, NULL},
};
enum { FORMAT_COUNT = sizeof formats / sizeof *formats };

const char *lt_record_format_name(lt_record_format format)
{
    return formats[format].name;
}

lt_status lt_record_format_parse(const char *name, lt_record_format *out, lt_err *err)
{
    for (int i = 0; i < FORMAT_COUNT; i++) {
        if (strcmp(name, formats[i].name) == 0) {
            *out = (lt_record_format)i;
            return LT_OK;
        }
    }
    return lt_fail(err, LT_ERR_USAGE,
                   "'%s' is no record format; there are auto, dolly, alpaca, messages, sharegpt, "
                   "completion, text",
                   name);
}

static bool format_has_field(lt_record_format format, const char *field)
{
    const format_info *info = &formats[format];
    for (int i = 0; i < 3 && info->required[i]; i++)
        if (strcmp(field, info->required[i]) == 0) return true;
    for (int i = 0; i < 4 && info->optional[i]; i++)
        if (strcmp(field, info->optional[i]) == 0) return true;
    return false;
}

static bool any_format_has_field(const char *field)
{
    for (int i = 1; i < FORMAT_COUNT; i++)
        if (format_has_field((lt_record_format)i, field)) return true;
    return false;
}

/* --- Columns --- */

void lt_columns_free(lt_columns *columns)
{
    free(columns->text);
    *columns = (lt_columns){0};
}

static lt_status add_column(lt_columns *columns, char *pair, lt_err *err)
{
    char *key = strchr(pair, '=');
    if (!key || key == pair || key[1] == '\0')
        return lt_fail(err, LT_ERR_USAGE,
                       "--columns: '%s' is not of the form field=key, as in "
                       "instruction=question",
                       pair);
    *key++ = '\0';
    if (!any_format_has_field(pair))
        return lt_fail(err, LT_ERR_USAGE,
                       "--columns: '%s' is a field of no format; fields are "
                       "instruction, context, response, category (dolly), input, output, system "
                       "(alpaca), messages, conversations, prompt, completion, text",
                       pair);
    for (int i = 0; i < columns->count; i++) {
        if (strcmp(columns->fields[i], pair) == 0)
            return lt_fail(err, LT_ERR_USAGE, "--columns names '%s' twice", pair);
    }
    if (columns->count == LT_MAX_COLUMNS)
        return lt_fail(err, LT_ERR_USAGE, "--columns names more than %d fields", LT_MAX_COLUMNS);
    columns->fields[columns->count] = pair;
    columns->keys[columns->count++] = key;
    return LT_OK;
}

lt_status lt_columns_parse(const char *text, lt_columns *out, lt_err *err)
{
    *out = (lt_columns){0};
    if (!text) return LT_OK;
    if (!(out->text = strdup(text))) return lt_fail_nomem(err, strlen(text), "--columns");
    lt_status status = LT_OK;
    for (char *pair = out->text; pair && status == LT_OK;) {
        char *comma = strchr(pair, ',');
        if (comma) *comma = '\0';
        status = add_column(out, pair, err);
        pair = comma ? comma + 1 : NULL;
    }
    if (status != LT_OK) lt_columns_free(out);
    return status;
}

/* The file's key for a field of the format. */
static const char *key_of(const lt_columns *columns, const char *field)
{
    for (int i = 0; columns && i < columns->count; i++)
        if (strcmp(columns->fields[i], field) == 0) return columns->keys[i];
    return field;
}

/* --- Which format --- */

/* "instruction, output, id" for messages. */
static void list_keys(const json_t *json, char *out, size_t size)
{
    const char *key;
    json_t *value;
    size_t used = 0;
    out[0] = '\0';
    json_object_foreach((json_t *)json, key, value)
    {
        int n = snprintf(out + used, size - used, "%s%s", used ? ", " : "", key);
        if (n < 0 || (size_t)n >= size - used) {
            strcpy(out + size - 4, "...");
            return;
        }
        used += (size_t)n;
    }
    if (!used) snprintf(out, size, "none");
}

static bool has_required(const lt_field_source *source, lt_record_format format)
{
    const format_info *info = &formats[format];
    for (int i = 0; i < 3 && info->required[i]; i++) {
        if (source->prompts_allowed && info->answer && strcmp(info->required[i], info->answer) == 0)
            continue;
        if (!json_object_get(source->json, key_of(source->columns, info->required[i])))
            return false;
    }
    return true;
}

static lt_status detect_format(const lt_field_source *source, lt_record_format *out, lt_err *err)
{
    /* The full formats first: a file of prompts is one of them without its answers. */
    lt_field_source strict = *source;
    strict.prompts_allowed = false;
    for (int pass = 0; pass <= source->prompts_allowed; pass++) {
        for (int i = 1; i < FORMAT_COUNT; i++) {
            if (!has_required(pass ? source : &strict, (lt_record_format)i)) continue;
            *out = (lt_record_format)i;
            return LT_OK;
        }
    }
    char keys[300];
    list_keys(source->json, keys, sizeof keys);
    return lt_fail(
        err, LT_ERR_FORMAT,
        "%s: no known record format has these keys: %s. Known are instruction + response "
        "(dolly), instruction + output (alpaca), messages, conversations (sharegpt), "
        "prompt + completion, text; --columns instruction=KEY,... renames",
        source->where, keys);
}

lt_status lt_columns_check(const lt_columns *columns, lt_record_format format, lt_err *err)
{
    for (int i = 0; i < columns->count; i++) {
        if (!format_has_field(format, columns->fields[i]))
            return lt_fail(err, LT_ERR_USAGE,
                           "--columns names '%s', which records of the format %s "
                           "do not have",
                           columns->fields[i], formats[format].name);
    }
    return LT_OK;
}

/* --- Fields --- */

static bool is_blank(const char *text)
{
    while (*text && isspace((unsigned char)*text))
        text++;
    return *text == '\0';
}

/* A number too large for JSON's integers is a string too, with a mark (base/json.h). */
static bool is_text(const json_t *value)
{
    const size_t mark = strlen(LT_JSON_LITERAL_PREFIX);
    return json_is_string(value) &&
           strncmp(json_string_value(value), LT_JSON_LITERAL_PREFIX, mark) != 0;
}

static lt_status missing_field(const lt_field_source *source, lt_record_format format,
                               const char *key, lt_err *err)
{
    char keys[300];
    list_keys(source->json, keys, sizeof keys);
    return lt_fail(
        err, LT_ERR_FORMAT,
        "%s: the field '%s' of the format %s is missing; the record has: %s. Give another "
        "--format, or --columns to rename keys",
        source->where, key, formats[format].name, keys);
}

static bool column_was_named(const lt_columns *columns, const char *field)
{
    return key_of(columns, field) != field;
}

/* A text field. Optional ones may be missing or null (then *out is NULL), unless --columns names
 * them; required ones may not even be blank. */
static lt_status text_field(const lt_field_source *source, lt_record_format format,
                            const char *field, bool required, const char **out, lt_err *err)
{
    const char *key = key_of(source->columns, field);
    const json_t *value = json_object_get(source->json, key);
    *out = NULL;
    if (!value) {
        if (required || column_was_named(source->columns, field))
            return missing_field(source, format, key, err);
        return LT_OK;
    }
    if (!required && json_is_null(value)) return LT_OK;
    if (json_is_array(value) && format == LT_FORMAT_COMPLETION)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: '%s' is a list of messages; put all of them into one list under "
                       "'messages'",
                       source->where, key);
    if (!is_text(value))
        return lt_fail(err, LT_ERR_FORMAT, "%s: '%s' must be a text", source->where, key);
    *out = json_string_value(value);
    if (required && is_blank(*out))
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: '%s' is empty, so there is nothing to learn; fill it in or remove the "
                       "record",
                       source->where, key);
    return LT_OK;
}

/* instruction, context, response from the fields of those names in the format. */
static lt_status single_turn(const lt_field_source *source, const char *instruction,
                             const char *context, const char *response, lt_record *out, lt_err *err)
{
    bool needs_answer = !source->prompts_allowed;
    LT_TRY(text_field(source, out->format, instruction, true, &out->instruction, err));
    if (context) LT_TRY(text_field(source, out->format, context, false, &out->context, err));
    if (!out->context) out->context = "";
    LT_TRY(text_field(source, out->format, response, needs_answer, &out->response, err));
    if (!out->response) out->response = "";
    return LT_OK;
}

/* --- Messages --- */

static bool parse_role(const char *name, lt_role *out)
{
    static const struct {
        const char *name;
        lt_role role;
    } roles[] = {
        {"system", LT_ROLE_SYSTEM},       {"developer", LT_ROLE_SYSTEM},
        {"user", LT_ROLE_USER},           {"human", LT_ROLE_USER},
        {"assistant", LT_ROLE_ASSISTANT}, {"gpt", LT_ROLE_ASSISTANT},
        {"model", LT_ROLE_ASSISTANT},     {"function_call", LT_ROLE_ASSISTANT},
        {"tool", LT_ROLE_TOOL},           {"observation", LT_ROLE_TOOL},
        {"function", LT_ROLE_TOOL},
    };
    for (size_t i = 0; name && i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(name, roles[i].name) == 0) {
            *out = roles[i].role;
            return true;
        }
    }
    return false;
}

static lt_status read_message(const char *where, size_t index, const json_t *json,
                              const char *role_key, const char *content_key, lt_message *out,
                              lt_err *err)
{
    const json_t *role = json_object_get(json, role_key);
    const json_t *content = json_object_get(json, content_key);
    if (!json_is_object(json) || !role || !content)
        return lt_fail(err, LT_ERR_FORMAT, "%s: message %zu must be an object with '%s' and '%s'",
                       where, index + 1, role_key, content_key);
    if (!json_is_string(role) || !parse_role(json_string_value(role), &out->role))
        return lt_fail(
            err, LT_ERR_FORMAT,
            "%s: message %zu: the '%s' must be system, user, assistant or tool (or human, "
            "gpt, function_call, observation)",
            where, index + 1, role_key);
    if (!is_text(content))
        return lt_fail(
            err, LT_ERR_UNSUPPORTED,
            "%s: message %zu: the '%s' must be a text; lists of parts, and tool calls in "
            "place of a text, are not supported",
            where, index + 1, content_key);
    out->content = json_string_value(content);
    out->json = json;
    bool may_be_empty = out->role == LT_ROLE_SYSTEM || out->role == LT_ROLE_TOOL;
    if (!may_be_empty && is_blank(out->content))
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: message %zu: the '%s' is empty; fill it in or remove the record", where,
                       index + 1, content_key);
    return LT_OK;
}

static lt_status multi_turn(const lt_field_source *source, const char *field, const char *role_key,
                            const char *content_key, lt_record *out, lt_err *err)
{
    const char *key = key_of(source->columns, field);
    const json_t *list = json_object_get(source->json, key);
    if (!list) return missing_field(source, out->format, key, err);
    if (!json_is_array(list) || json_array_size(list) == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: '%s' must be a list of at least one message",
                       source->where, key);
    size_t count = json_array_size(list);
    out->messages = calloc(count, sizeof *out->messages);
    if (!out->messages) return lt_fail_nomem(err, count * sizeof *out->messages, "messages");
    out->message_count = count;
    bool has_answer = false;
    for (size_t i = 0; i < count; i++) {
        LT_TRY(read_message(source->where, i, json_array_get(list, i), role_key, content_key,
                            &out->messages[i], err));
        has_answer = has_answer || out->messages[i].role == LT_ROLE_ASSISTANT;
    }
    if (!has_answer && !source->prompts_allowed)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: no message is from the assistant, so no token would be trained; remove "
                       "the record",
                       source->where);
    return LT_OK;
}

/* --- The record --- */

static lt_status read_fields(const lt_field_source *source, lt_record *out, lt_err *err)
{
    switch (out->format) {
    case LT_FORMAT_DOLLY:
        LT_TRY(single_turn(source, "instruction", "context", "response", out, err));
        break;
    case LT_FORMAT_ALPACA:
        LT_TRY(single_turn(source, "instruction", "input", "output", out, err));
        /* The earlier turns would be lost without a word. */
        if (json_array_size(json_object_get(source->json, "history")) > 0)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "%s: 'history' is not supported; write the turns as 'messages'",
                           source->where);
        break;
    case LT_FORMAT_COMPLETION:
        LT_TRY(single_turn(source, "prompt", NULL, "completion", out, err));
        break;
    case LT_FORMAT_MESSAGES:
        LT_TRY(multi_turn(source, "messages", "role", "content", out, err));
        out->tools = json_object_get(source->json, key_of(source->columns, "tools"));
        if (json_is_null(out->tools)) out->tools = NULL;
        break;
    case LT_FORMAT_SHAREGPT:
        LT_TRY(multi_turn(source, "conversations", "from", "value", out, err));
        break;
    default:
        LT_TRY(text_field(source, out->format, "text", true, &out->text, err));
        break;
    }
    if (format_has_field(out->format, "system"))
        LT_TRY(text_field(source, out->format, "system", false, &out->system, err));
    if (out->system && is_blank(out->system)) out->system = NULL;
    if (out->system && out->messages && out->messages[0].role == LT_ROLE_SYSTEM)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: there is a system text beside the messages and another among them",
                       source->where);
    /* Only Dolly's format says what a category is; elsewhere a number may be anything. */
    const json_t *category = json_object_get(source->json, key_of(source->columns, "category"));
    if (out->format != LT_FORMAT_DOLLY && category && !is_text(category)) return LT_OK;
    return text_field(source, out->format, "category", false, &out->category, err);
}

lt_status lt_record_read(const lt_field_source *source, lt_record_format format, lt_record *out,
                         lt_err *err)
{
    *out = (lt_record){0};
    snprintf(out->where, sizeof out->where, "%s", source->where);
    if (!json_is_object(source->json))
        return lt_fail(err, LT_ERR_FORMAT, "%s: a record must be a JSON object", source->where);
    if (format == LT_FORMAT_AUTO) LT_TRY(detect_format(source, &format, err));
    out->format = format;
    out->json = json_incref(source->json);
    lt_status status = read_fields(source, out, err);
    if (status != LT_OK) lt_record_free(out);
    return status;
}

lt_status lt_record_from_json(json_t *json, lt_record_format format, const char *where,
                              lt_record *out, lt_err *err)
{
    lt_field_source source = {.json = json, .where = where};
    return lt_record_read(&source, format, out, err);
}

void lt_record_free(lt_record *record)
{
    free(record->messages);
    json_decref(record->json);
    *record = (lt_record){0};
}

const char *lt_record_answer(const lt_record *record)
{
    if (record->text) return NULL;
    if (!record->messages) return record->response;
    const lt_message *last = &record->messages[record->message_count - 1];
    return last->role == LT_ROLE_ASSISTANT ? last->content : NULL;
}

/* The inverse of reading, with the format's own names: what a dataset keeps of a held-out record.
 */
lt_status lt_record_to_json(const lt_record *record, const lt_columns *columns, lt_buffer *out,
                            lt_err *err)
{
    const format_info *info = &formats[record->format];
    json_t *json = json_object();
    for (int i = 0; i < 7 && json; i++) {
        const char *field = i < 3 ? info->required[i] : info->optional[i - 3];
        json_t *value = field ? json_object_get(record->json, key_of(columns, field)) : NULL;
        if (value) json_object_set(json, field, value);
    }
    lt_status status =
        json ? lt_json_dump(json, 0, out, err) : lt_fail_nomem(err, 0, "a record's text");
    json_decref(json);
    return status;
}
