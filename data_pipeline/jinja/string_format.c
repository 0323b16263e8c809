/* str.format with plain fields: {}, {0} and {name}. */
#include <string.h>

#include "data_pipeline/jinja/string_methods.h"

typedef struct formatter {
    const jinja_string *text;
    const jinja_call *call;
    size_t at;
    size_t next;         /* of the fields without a number */
    bool numbered, bare; /* fields of both kinds may not be mixed */
} formatter;

static lt_status bad(jinja_render *r, const char *what)
{
    return lt_jinja_fail(r, LT_ERR_FORMAT, "format(): %s", what);
}

static lt_status positional(jinja_render *r, formatter *f, size_t index, const jinja_value **out)
{
    if (f->numbered && f->bare) return bad(r, "automatic and manual field numbers are mixed");
    if (index >= f->call->count) return bad(r, "an index is out of range for the arguments");
    *out = &f->call->positional[index];
    return LT_OK;
}

static lt_status named(jinja_render *r, const formatter *f, const jinja_string *name,
                       const jinja_value **out)
{
    for (size_t i = 0; i < f->call->named_count; i++) {
        if (!lt_jinja_same(f->call->named[i].key.string, name)) continue;
        *out = &f->call->named[i].value;
        return LT_OK;
    }
    return bad(r, "a named argument is missing");
}

/* The argument of the field whose name is `field`. */
static lt_status argument(jinja_render *r, formatter *f, const jinja_string *field,
                          const jinja_value **out)
{
    size_t index = 0, digits = 0;
    if (field->size == 0) {
        f->bare = true;
        return positional(r, f, f->next++, out);
    }
    for (; digits < field->size && digits < 9; digits++) {
        char c = field->bytes[digits];
        if (c < '0' || c > '9') break;
        index = index * 10 + (size_t)(c - '0');
    }
    if (digits < field->size) return named(r, f, field, out);
    f->numbered = true;
    return positional(r, f, index, out);
}

/* After a single "{". */
static lt_status put_field(jinja_render *r, formatter *f)
{
    const char *from = f->text->bytes + f->at;
    const char *end = memchr(from, '}', f->text->size - f->at);
    const jinja_value *value = NULL;
    if (!end) return bad(r, "expected '}' before end of string");
    jinja_string field = {.bytes = from, .size = (size_t)(end - from)};
    for (size_t i = 0; i < field.size; i++) {
        if (strchr("{.[:!", field.bytes[i]) && field.bytes[i])
            return lt_jinja_fail(r, LT_ERR_UNSUPPORTED,
                                 "format() with more than {}, {0} or {name} is not supported");
    }
    f->at += field.size + 1;
    LT_TRY(argument(r, f, &field, &value));
    return lt_jinja_put_str(r, *value);
}

lt_status lt_jinja_format(jinja_render *r, jinja_value self, const jinja_call *call,
                          jinja_value *out)
{
    formatter f = {.text = self.string, .call = call};
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_spend(r, f.text->size / 16));
    while (f.at < f.text->size) {
        const char *text = f.text->bytes + f.at;
        size_t origin = f.at++;
        bool brace = *text == '{' || *text == '}';
        bool doubled = brace && f.at < f.text->size && text[1] == *text;
        if (!brace || doubled) {
            f.at += doubled;
            LT_TRY(lt_jinja_put_bytes(r, text, 1, lt_jinja_origin(f.text, origin)));
        } else if (*text == '}') {
            return bad(r, "Single '}' encountered in format string");
        } else {
            LT_TRY(put_field(r, &f));
        }
    }
    return lt_jinja_end(r, pad, out);
}
