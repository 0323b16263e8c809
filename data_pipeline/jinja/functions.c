/* The functions that every chat template can call. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "data_pipeline/jinja/values.h"

#define FUNCTION(name)                                                                       \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_value *const *args, \
                          jinja_value *out)

enum { MAX_RANGE = 100000, MAX_DATE = 4096, MAX_DATE_FORMAT = 1024 };

FUNCTION(range_)
{
    (void)self;
    int64_t first = 0, second = 0, step = 1;
    LT_TRY(lt_jinja_arg_int(r, args[0], &first));
    LT_TRY(lt_jinja_arg_int(r, args[1], &second));
    LT_TRY(lt_jinja_arg_int(r, args[2], &step));
    if (step == 0) return lt_jinja_fail(r, LT_ERR_FORMAT, "range() arg 3 must not be zero");
    int64_t start = args[1] ? first : 0, stop = args[1] ? second : first;
    uint64_t count = 0, stride = step < 0 ? -(uint64_t)step : (uint64_t)step;
    if (step > 0 && start < stop) count = ((uint64_t)stop - (uint64_t)start - 1) / stride + 1;
    if (step < 0 && start > stop) count = ((uint64_t)start - (uint64_t)stop - 1) / stride + 1;
    if (count > MAX_RANGE)
        return lt_jinja_fail(r, LT_ERR_LIMIT, "a range of more than %d numbers", MAX_RANGE);
    jinja_range *range;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *range, &range));
    *range = (jinja_range){start, stop, step, (size_t)count};
    *out = (jinja_value){.kind = JINJA_RANGE, .range = range};
    return LT_OK;
}

/* --- dict(), namespace() --- */

static lt_status add_pair(jinja_render *r, jinja_dict *dict, jinja_value pair)
{
    jinja_value list;
    LT_TRY(lt_jinja_to_list(r, pair, &list));
    if (list.list->count != 2)
        return lt_jinja_fail(r, LT_ERR_FORMAT,
                             "dictionary update sequence element has length %zu; 2 is required",
                             list.list->count);
    return lt_jinja_dict_set(r, dict, list.list->items[0], list.list->items[1]);
}

static lt_status add_all(jinja_render *r, jinja_dict *dict, jinja_value from)
{
    jinja_value list;
    if (from.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, from);
    if (from.kind == JINJA_DICT) {
        LT_TRY(lt_jinja_spend(r, from.dict->count));
        for (size_t i = 0; i < from.dict->count; i++)
            LT_TRY(
                lt_jinja_dict_set(r, dict, from.dict->entries[i].key, from.dict->entries[i].value));
        return LT_OK;
    }
    LT_TRY(lt_jinja_to_list(r, from, &list));
    for (size_t i = 0; i < list.list->count; i++)
        LT_TRY(add_pair(r, dict, list.list->items[i]));
    return LT_OK;
}

static lt_status make_dict(jinja_render *r, jinja_kind kind, const jinja_call *call,
                           jinja_value *out)
{
    LT_TRY(lt_jinja_dict_new(r, kind, 0, out));
    jinja_dict *dict = out->dict;
    if (call->count > 1)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "dict expected at most 1 argument, got %zu",
                             call->count);
    if (call->count) LT_TRY(add_all(r, dict, call->positional[0]));
    for (size_t i = 0; i < call->named_count; i++)
        LT_TRY(lt_jinja_dict_set(r, dict, call->named[i].key, call->named[i].value));
    return LT_OK;
}

static lt_status dict_(jinja_render *r, jinja_value self, const jinja_call *call, jinja_value *out)
{
    (void)self;
    return make_dict(r, JINJA_DICT, call, out);
}

static lt_status namespace_(jinja_render *r, jinja_value self, const jinja_call *call,
                            jinja_value *out)
{
    (void)self;
    LT_TRY(make_dict(r, JINJA_NAMESPACE, call, out));
    for (size_t i = 0; i < out->dict->count; i++) {
        jinja_value key = out->dict->entries[i].key;
        if (key.kind == JINJA_STRING && key.string->size && key.string->bytes[0] == '_')
            return lt_jinja_fail(r, LT_ERR_FORMAT,
                                 "Chat templates cannot store underscore-prefixed attributes on a "
                                 "namespace, but got '%.*s'",
                                 key.string->size > 60 ? 60 : (int)key.string->size,
                                 key.string->bytes);
    }
    return LT_OK;
}

/* --- raise_exception(), strftime_now() --- */

FUNCTION(raise_exception_)
{
    (void)self;
    LT_TRY(lt_jinja_str(r, *args[0], out));
    size_t shown = out->string->size > 800 ? 800 : out->string->size;
    return lt_jinja_fail(r, LT_ERR_FORMAT, "%.*s", (int)shown, out->string->bytes);
}

/* Python's datetime has no time zone here: %Z and %z are empty; %f, the microseconds, C has not. */
static lt_status adapt_format(jinja_render *r, const jinja_string *format, double now,
                              char out[MAX_DATE_FORMAT * 4])
{
    size_t used = 0;
    if (format->size > MAX_DATE_FORMAT)
        return lt_jinja_fail(r, LT_ERR_LIMIT, "a date format of more than %d bytes",
                             MAX_DATE_FORMAT);
    for (size_t i = 0; i < format->size; i++) {
        char c = format->bytes[i], next = i + 1 < format->size ? format->bytes[i + 1] : '\0';
        if (c == '\0') return lt_jinja_fail(r, LT_ERR_FORMAT, "embedded null character");
        if (c != '%') {
            out[used++] = c;
            continue;
        }
        i++;
        if (next == 'f') {
            double fraction = now - (double)(int64_t)now;
            used += (size_t)sprintf(out + used, "%06d", (int)(fraction * 1e6));
        } else if (next != 'z' && next != 'Z') {
            out[used++] = '%';
            if (next) out[used++] = next;
        }
    }
    out[used++] = ' '; /* so that an empty date is told from one that has no room */
    out[used] = '\0';
    return LT_OK;
}

FUNCTION(strftime_now_)
{
    char format[MAX_DATE_FORMAT * 4], text[MAX_DATE];
    const jinja_string *given = NULL;
    struct timespec clock = {0};
    struct tm parts;
    double now = r->limits.now;
    (void)self;
    LT_TRY(lt_jinja_arg_string(r, args[0], &given));
    bool is_fixed = now != 0;
    if (!is_fixed) {
        clock_gettime(CLOCK_REALTIME, &clock);
        now = (double)clock.tv_sec + (double)clock.tv_nsec * 1e-9;
    }
    if (!(now > -1e11 && now < 1e11))
        return lt_jinja_fail(r, LT_ERR_LIMIT, "the time is out of range");
    time_t seconds = (time_t)now;
    LT_TRY(adapt_format(r, given, now, format));
    if (!(is_fixed ? gmtime_r(&seconds, &parts) : localtime_r(&seconds, &parts)))
        return lt_jinja_fail(r, LT_ERR_LIMIT, "the time is out of range");
    size_t size = strftime(text, sizeof text, format, &parts);
    if (size == 0) return lt_jinja_fail(r, LT_ERR_LIMIT, "a date of more than %d bytes", MAX_DATE);
    return lt_jinja_new_string(r, text, size - 1, out);
}

static const jinja_builtin functions[] = {
    {"range", "start stop step /", 1, range_, NULL},
    {"dict", "", 0, NULL, dict_},
    {"namespace", "", 0, NULL, namespace_},
    {"raise_exception", "message", 1, raise_exception_, NULL},
    {"strftime_now", "format", 1, strftime_now_, NULL},
    {"lipsum", "", 0, NULL, NULL},
    {"cycler", "", 0, NULL, NULL},
    {"joiner", "", 0, NULL, NULL},
};
const jinja_builtins lt_jinja_functions = {functions, sizeof functions / sizeof *functions};
