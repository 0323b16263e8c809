/* jansson does the parsing; this file adds what it lacks. Before parsing, a pass over the text
 * finds the literals that jansson refuses but real files hold (NaN, Infinity, integers beyond 64
 * bits) and turns each into a marked string, in a copy that is only made when there is one. Writing
 * turns the marked strings back, and prints reals in the shortest form that reads back as the same
 * number. */
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"

#define MAX_FILE_BYTES ((size_t)1 << 30)

/* --- The literals -------------------------------------------------------------------------------
 */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Could `c` go on with a number or word? Then what came before is no whole token. */
static bool continues_token(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '+' || c == '-' || c == '_';
}

/* Is text[0..size) an integer as JSON spells it, without "-0" and leading zeros? */
static bool is_integer(const char *text, size_t size)
{
    size_t at = size && text[0] == '-';
    if (at == size || text[at] < '1' || text[at] > '9') return false;
    while (at < size && is_digit(text[at]))
        at++;
    return at == size;
}

static bool is_literal(const char *text, size_t size)
{
    return (size == 3 && memcmp(text, "NaN", 3) == 0) ||
           (size == 8 && memcmp(text, "Infinity", 8) == 0) ||
           (size == 9 && memcmp(text, "-Infinity", 9) == 0) || is_integer(text, size);
}

/* Does the integer text[0..size) fit 64 bits? */
static bool fits_int64(const char *text, size_t size)
{
    char digits[32];
    if (size >= sizeof digits) return false;
    memcpy(digits, text, size);
    digits[size] = '\0';
    errno = 0;
    strtoll(digits, NULL, 10);
    return errno == 0;
}

/* Length of the literal at `at` that jansson would refuse, or 0. A literal before a colon stands
 * where a key belongs: as a string it would become legal there, so it is left for jansson. */
static size_t literal_length(const char *at, const char *end)
{
    const char *stop = at;
    while (stop < end && continues_token(*stop))
        stop++;
    size_t size = (size_t)(stop - at);
    if (!is_literal(at, size)) return 0;
    if (is_integer(at, size) && fits_int64(at, size)) return 0;
    while (stop < end && (*stop == ' ' || *stop == '\t' || *stop == '\n' || *stop == '\r'))
        stop++;
    return stop < end && *stop == ':' ? 0 : size;
}

/* Does the string that starts after a quote at `at` decode to something with our prefix? Each
 * character may be written as itself or as a \u escape. */
static bool starts_with_prefix(const char *at, const char *end)
{
    static const char word[] = "literal:";
    for (int i = -1; i < (int)sizeof word - 1; i++) {
        unsigned wanted = i < 0 ? 0xF8FF : (unsigned char)word[i];
        const char *raw = i < 0 ? "\xEF\xA3\xBF" : &word[i];
        size_t raw_size = i < 0 ? 3 : 1;
        if ((size_t)(end - at) < raw_size) return false;
        if (memcmp(at, raw, raw_size) == 0) {
            at += raw_size;
            continue;
        }
        if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return false;
        char digits[5] = {at[2], at[3], at[4], at[5], '\0'}, *stop;
        if (strtoul(digits, &stop, 16) != wanted || *stop) return false;
        at += 6;
    }
    return true;
}

/* The first byte after the string that starts after a quote at `at`. */
static const char *skip_string(const char *at, const char *end)
{
    while (at < end) {
        const char *quote = memchr(at, '"', (size_t)(end - at));
        if (!quote) return end;
        /* the quote is escaped when an odd number of backslashes stands before it */
        const char *slash = quote;
        while (slash > at && slash[-1] == '\\')
            slash--;
        bool escaped = (quote - slash) % 2 != 0;
        at = quote + 1;
        if (!escaped) return at;
    }
    return end;
}

/* Copies text to `copy` with every literal as a marked string; `copy` stays empty when there is
 * none. */
static lt_status mark_literals(const char *text, size_t size, const char *where, lt_buffer *copy,
                               lt_err *err)
{
    const char *end = text + size, *copied = text, *at = text;
    while (at < end) {
        if (*at == '"') {
            if (starts_with_prefix(at + 1, end))
                return lt_fail(
                    err, LT_ERR_FORMAT,
                    "%s: a string starts with U+F8FF and \"literal:\", which is reserved", where);
            at = skip_string(at + 1, end);
        } else if (continues_token(*at)) {
            size_t literal = literal_length(at, end);
            if (literal) {
                LT_TRY(lt_buffer_append(copy, copied, (size_t)(at - copied), err));
                LT_TRY(lt_buffer_append_text(copy, "\"" LT_JSON_LITERAL_PREFIX, err));
                LT_TRY(lt_buffer_append(copy, at, literal, err));
                LT_TRY(lt_buffer_append(copy, "\"", 1, err));
                copied = at + literal;
            }
            while (at < end && continues_token(*at))
                at++;
        } else {
            at++;
        }
    }
    if (copied == text) return LT_OK;
    return lt_buffer_append(copy, copied, (size_t)(end - copied), err);
}

/* The literal that `value` stands for, or NULL. */
static const char *literal_of(const json_t *value)
{
    const size_t prefix = sizeof LT_JSON_LITERAL_PREFIX - 1;
    if (!json_is_string(value) || json_string_length(value) <= prefix) return NULL;
    const char *text = json_string_value(value);
    if (memcmp(text, LT_JSON_LITERAL_PREFIX, prefix) != 0) return NULL;
    return is_literal(text + prefix, json_string_length(value) - prefix) ? text + prefix : NULL;
}

/* --- Reading ------------------------------------------------------------------------------------
 */

lt_status lt_json_parse(const char *text, size_t size, const char *where, json_t **out, lt_err *err)
{
    *out = NULL;
    lt_buffer copy = {0};
    lt_status status = mark_literals(text, size, where, &copy, err);
    if (status == LT_OK) {
        json_error_t error;
        *out = copy.size ? json_loadb(copy.data, copy.size,
                                      JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error)
                         : json_loadb(text ? text : "", size,
                                      JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
        if (!*out && json_error_code(&error) == json_error_out_of_memory)
            status = lt_fail_nomem(err, size, where);
        else if (!*out)
            status = lt_fail(err, LT_ERR_FORMAT, "%s: not valid JSON: line %d: %s", where,
                             error.line, error.text);
    }
    lt_buffer_free(&copy);
    return status;
}

lt_status lt_json_load(const char *path, json_t **out, lt_err *err)
{
    *out = NULL;
    lt_buffer text = {0};
    lt_status status = lt_read_file(path, MAX_FILE_BYTES, &text, err);
    if (status == LT_OK) status = lt_json_parse(lt_buffer_text(&text), text.size, path, out, err);
    lt_buffer_free(&text);
    return status;
}

/* --- Writing ------------------------------------------------------------------------------------
 */

static lt_status write_string(const char *text, size_t size, lt_buffer *out, lt_err *err)
{
    LT_TRY(lt_buffer_append(out, "\"", 1, err));
    size_t done = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        LT_TRY(lt_buffer_append(out, text + done, i - done, err));
        done = i + 1;
        static const char short_forms[] = "\"\"\\\\\bb\ff\nn\rr\tt";
        const char *form = NULL;
        for (const char *pair = short_forms; *pair; pair += 2)
            if ((unsigned char)*pair == c) form = pair + 1;
        if (form)
            LT_TRY(lt_buffer_printf(out, err, "\\%c", *form));
        else
            LT_TRY(lt_buffer_printf(out, err, "\\u%04x", c));
    }
    LT_TRY(lt_buffer_append(out, text + done, size - done, err));
    return lt_buffer_append(out, "\"", 1, err);
}

/* Always recognisable as a real. */
static lt_status write_real(double value, lt_buffer *out, lt_err *err)
{
    if (isnan(value)) return lt_buffer_append_text(out, "NaN", err);
    if (isinf(value)) return lt_buffer_append_text(out, value < 0 ? "-Infinity" : "Infinity", err);
    size_t start = out->size;
    LT_TRY(lt_buffer_append_number(out, value, err));
    return strpbrk(out->data + start, ".e") ? LT_OK : lt_buffer_append_text(out, ".0", err);
}

static lt_status write_newline(int indent, int depth, lt_buffer *out, lt_err *err)
{
    return indent ? lt_buffer_printf(out, err, "\n%*s", indent * depth, "") : LT_OK;
}

static lt_status write_value(const json_t *value, int indent, int depth, lt_buffer *out,
                             lt_err *err);

static lt_status write_object(const json_t *object, int indent, int depth, lt_buffer *out,
                              lt_err *err)
{
    if (json_object_size(object) == 0) return lt_buffer_append_text(out, "{}", err);
    json_t *members = (json_t *)object; /* jansson's iterators take no const; nothing is changed */
    const char *separator = "{";
    for (void *at = json_object_iter(members); at; at = json_object_iter_next(members, at)) {
        const char *key = json_object_iter_key(at);
        LT_TRY(lt_buffer_append_text(out, separator, err));
        LT_TRY(write_newline(indent, depth + 1, out, err));
        LT_TRY(write_string(key, strlen(key), out, err));
        LT_TRY(lt_buffer_append_text(out, ": ", err));
        LT_TRY(write_value(json_object_iter_value(at), indent, depth + 1, out, err));
        separator = indent ? "," : ", ";
    }
    LT_TRY(write_newline(indent, depth, out, err));
    return lt_buffer_append(out, "}", 1, err);
}

static lt_status write_array(const json_t *array, int indent, int depth, lt_buffer *out,
                             lt_err *err)
{
    if (json_array_size(array) == 0) return lt_buffer_append_text(out, "[]", err);
    const char *separator = "[";
    for (size_t i = 0; i < json_array_size(array); i++) {
        LT_TRY(lt_buffer_append_text(out, separator, err));
        LT_TRY(write_newline(indent, depth + 1, out, err));
        LT_TRY(write_value(json_array_get(array, i), indent, depth + 1, out, err));
        separator = indent ? "," : ", ";
    }
    LT_TRY(write_newline(indent, depth, out, err));
    return lt_buffer_append(out, "]", 1, err);
}

static lt_status write_value(const json_t *value, int indent, int depth, lt_buffer *out,
                             lt_err *err)
{
    /* Recursion: a value from lt_json_parse is at most 2048 deep; this also stops at cycles. */
    if (depth > 4096) return lt_fail(err, LT_ERR_LIMIT, "JSON nested too deeply to write");
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return write_object(value, indent, depth, out, err);
    case JSON_ARRAY:
        return write_array(value, indent, depth, out, err);
    case JSON_STRING: {
        const char *literal = literal_of(value);
        if (literal) return lt_buffer_append_text(out, literal, err);
        return write_string(json_string_value(value), json_string_length(value), out, err);
    }
    case JSON_INTEGER:
        return lt_buffer_printf(out, err, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    case JSON_REAL:
        return write_real(json_real_value(value), out, err);
    case JSON_TRUE:
        return lt_buffer_append_text(out, "true", err);
    case JSON_FALSE:
        return lt_buffer_append_text(out, "false", err);
    case JSON_NULL:
        return lt_buffer_append_text(out, "null", err);
    }
    return lt_fail(err, LT_ERR_FORMAT, "not a JSON value");
}

lt_status lt_json_dump(const json_t *value, int indent, lt_buffer *out, lt_err *err)
{
    if (!value) return lt_fail_nomem(err, 0, "a JSON value");
    LT_TRY(write_value(value, indent, 0, out, err));
    return indent ? lt_buffer_append(out, "\n", 1, err) : LT_OK;
}

lt_status lt_json_write_file(const char *path, const json_t *value, lt_err *err)
{
    lt_buffer text = {0};
    lt_status status = lt_json_dump(value, 2, &text, err);
    if (status == LT_OK) status = lt_write_file(path, text.data, text.size, err);
    lt_buffer_free(&text);
    return status;
}

/* --- Typed look-up ------------------------------------------------------------------------------
 */

static const char *type_name(const json_t *value)
{
    const char *literal = literal_of(value);
    if (literal)
        return is_integer(literal, strlen(literal)) ? "an integer beyond 64 bits" : literal;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        break;
    }
    return "null";
}

static lt_status wrong_type(const json_t *value, const char *key, const char *wanted,
                            const char *where, lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" must be %s, but is %s", where, key, wanted,
                   type_name(value));
}

/* value: what is stored under `key`, NULL when missing or null. */
static lt_status find(const json_t *object, const char *key, const char *where, json_t **value,
                      lt_err *err)
{
    if (!json_is_object(object))
        return lt_fail(err, LT_ERR_FORMAT, "%s: must be a JSON object", where);
    *value = json_object_get(object, key);
    if (json_is_null(*value)) *value = NULL;
    return LT_OK;
}

lt_status lt_json_get_int(const json_t *object, const char *key, int64_t min, int64_t max,
                          const char *where, int64_t *out, lt_err *err)
{
    json_t *value = NULL;
    LT_TRY(find(object, key, where, &value, err));
    if (!value) return LT_OK;
    if (!json_is_integer(value)) return wrong_type(value, key, "an integer", where, err);
    int64_t number = json_integer_value(value);
    if (number < min || number > max)
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" is %lld, but must be from %lld to %lld",
                       where, key, (long long)number, (long long)min, (long long)max);
    *out = number;
    return LT_OK;
}

lt_status lt_json_get_number(const json_t *object, const char *key, const char *where, double *out,
                             lt_err *err)
{
    json_t *value = NULL;
    LT_TRY(find(object, key, where, &value, err));
    if (!value) return LT_OK;
    const char *literal = literal_of(value);
    double number;
    if (json_is_number(value))
        number = json_number_value(value);
    else if (literal)
        number = strtod(literal, NULL);
    else
        return wrong_type(value, key, "a number", where, err);
    if (!isfinite(number)) return wrong_type(value, key, "a finite number", where, err);
    *out = number;
    return LT_OK;
}

lt_status lt_json_get_bool(const json_t *object, const char *key, const char *where, bool *out,
                           lt_err *err)
{
    json_t *value = NULL;
    LT_TRY(find(object, key, where, &value, err));
    if (!value) return LT_OK;
    if (!json_is_boolean(value)) return wrong_type(value, key, "true or false", where, err);
    *out = json_is_true(value);
    return LT_OK;
}

lt_status lt_json_get_string(const json_t *object, const char *key, const char *where,
                             const char **out, lt_err *err)
{
    json_t *value = NULL;
    LT_TRY(find(object, key, where, &value, err));
    if (!value) return LT_OK;
    if (!json_is_string(value) || literal_of(value))
        return wrong_type(value, key, "a string", where, err);
    *out = json_string_value(value);
    return LT_OK;
}
