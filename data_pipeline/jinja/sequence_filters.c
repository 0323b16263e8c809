/* Filters that make, pick from or go through sequences. */
#include <string.h>

#include "data_pipeline/jinja/values.h"

#define FILTER(name)                                                                         \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_value *const *args, \
                          jinja_value *out)
#define FILTER_CALL(name)                                                            \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_call *call, \
                          jinja_value *out)

static const jinja_value no_path = {.kind = JINJA_NONE};

/* --- Sequences as a whole --- */

FILTER(length_)
{
    size_t size;
    (void)args;
    LT_TRY(lt_jinja_size(r, self, &size));
    *out = lt_jinja_int((int64_t)size);
    return LT_OK;
}

FILTER(list_)
{
    (void)args;
    return lt_jinja_to_list(r, self, out);
}

FILTER(items_)
{
    jinja_value list;
    jinja_view view;
    (void)args;
    if (self.kind == JINJA_UNDEFINED) {
        LT_TRY(lt_jinja_make_list(r, JINJA_LIST, NULL, 0, &list));
        return lt_jinja_generator(r, list, false, out);
    }
    if (self.kind != JINJA_DICT)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "Can only get item pairs from a mapping.");
    view = (jinja_view){self.dict, JINJA_ITEMS};
    LT_TRY(lt_jinja_to_list(r, (jinja_value){.kind = JINJA_VIEW, .view = &view}, &list));
    return lt_jinja_generator(r, list, false, out);
}

FILTER(first_)
{
    jinja_iterator iterator;
    bool found;
    (void)args;
    LT_TRY(lt_jinja_iterate(r, self, &iterator));
    LT_TRY(lt_jinja_next(r, &iterator, &found, out));
    if (self.kind == JINJA_ITERATOR) *self.iterator = iterator;
    return found ? LT_OK : lt_jinja_undefined(r, "No first item, sequence was empty.", out);
}

static bool is_reversible(jinja_value value)
{
    switch ((jinja_kind)value.kind) {
    case JINJA_UNDEFINED: /* as an empty sequence */
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
    case JINJA_VIEW:
    case JINJA_RANGE:
    case JINJA_STRING:
        return true;
    default:
        return false;
    }
}

FILTER(last_)
{
    size_t count;
    bool found;
    (void)args;
    if (!is_reversible(self))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "'%s' object is not reversible",
                             lt_jinja_type_name(self));
    LT_TRY(lt_jinja_size(r, self, &count));
    if (count == 0) return lt_jinja_undefined(r, "No last item, sequence was empty.", out);
    if (self.kind == JINJA_STRING) return lt_jinja_item(r, self, lt_jinja_int(-1), out);
    jinja_iterator iterator = {.source = self, .backward = true};
    return lt_jinja_next(r, &iterator, &found, out);
}

FILTER(reverse_)
{
    (void)args;
    if (self.kind == JINJA_STRING) {
        jinja_value step = lt_jinja_int(-1);
        return lt_jinja_slice(r, self, NULL, NULL, &step, out);
    }
    if (is_reversible(self)) return lt_jinja_generator(r, self, true, out);
    jinja_value list, step = lt_jinja_int(-1);
    LT_TRY(lt_jinja_to_list(r, self, &list));
    return lt_jinja_slice(r, list, NULL, NULL, &step, out);
}

FILTER(join_)
{
    jinja_value separator, list, item;
    jinja_value path = args[1] ? *args[1] : no_path;
    separator = (jinja_value){.kind = JINJA_UNDEFINED};
    if (args[0]) separator = *args[0];
    LT_TRY(lt_jinja_to_list(r, self, &list));
    jinja_pad pad = lt_jinja_begin(r);
    for (size_t i = 0; i < list.list->count; i++) {
        LT_TRY(lt_jinja_path(r, list.list->items[i], path, NULL, &item));
        if (i) LT_TRY(lt_jinja_put_str(r, separator));
        LT_TRY(lt_jinja_put_str(r, item));
    }
    return lt_jinja_end(r, pad, out);
}

/* --- Order --- */

/* What items are compared by: the values of one path or several, strings in lower case. */
static lt_status fold_case(jinja_render *r, bool case_sensitive, jinja_value *value)
{
    static const jinja_call no_arguments = {0};
    if (case_sensitive || value->kind != JINJA_STRING) return LT_OK;
    const jinja_builtin *lower = lt_jinja_find_builtin(&lt_jinja_string_methods, "lower", 5);
    return lt_jinja_call_builtin(r, lower, *value, &no_arguments, value);
}

static lt_status key_of(jinja_render *r, jinja_value item, jinja_value path, bool case_sensitive,
                        jinja_value *out)
{
    LT_TRY(lt_jinja_path(r, item, path, NULL, out));
    return fold_case(r, case_sensitive, out);
}

/* "a,b.c": a list of what the paths lead to. (Also for one: equal items of a list need no order.)
 */
static lt_status keys_of(jinja_render *r, jinja_value item, jinja_value paths, bool case_sensitive,
                         jinja_value *out)
{
    jinja_value key, path;
    jinja_growing keys = {0};
    if (paths.kind != JINJA_STRING) {
        LT_TRY(key_of(r, item, paths, case_sensitive, &key));
        return lt_jinja_make_list(r, JINJA_LIST, &key, 1, out);
    }
    const jinja_string *text = paths.string;
    for (size_t from = 0; from <= text->size;) {
        const char *comma = memchr(text->bytes + from, ',', text->size - from);
        size_t to = comma ? (size_t)(comma - text->bytes) : text->size;
        LT_TRY(lt_jinja_cut(r, text, from, to, &path));
        LT_TRY(key_of(r, item, path, case_sensitive, &key));
        LT_TRY(lt_jinja_push(r, &keys, key));
        from = to + 1;
    }
    return lt_jinja_grown(r, &keys, JINJA_LIST, out);
}

typedef struct keyed {
    jinja_value key, item;
} keyed;

/* Merges the sorted halves of from[0..count) into to; equal ones keep their order. */
static lt_status merge(jinja_render *r, const keyed *from, keyed *to, size_t count, bool reverse)
{
    size_t middle = count / 2, left = 0, right = middle;
    for (size_t i = 0; i < count; i++) {
        bool take_right = left == middle;
        if (left < middle && right < count) {
            jinja_value a = from[right].key, b = from[left].key;
            LT_TRY(lt_jinja_less(r, reverse ? b : a, reverse ? a : b, "<", &take_right));
        }
        to[i] = take_right ? from[right++] : from[left++];
    }
    return LT_OK;
}

static lt_status sort_keyed(jinja_render *r, keyed *items, keyed *scratch, size_t count,
                            bool reverse)
{
    if (count < 2) return LT_OK;
    LT_TRY(sort_keyed(r, items, scratch, count / 2, reverse));
    LT_TRY(sort_keyed(r, items + count / 2, scratch, count - count / 2, reverse));
    memcpy(scratch, items, count * sizeof *items);
    return merge(r, scratch, items, count, reverse);
}

/* The items in the order of their keys. */
static lt_status sorted(jinja_render *r, keyed *items, size_t count, bool reverse, jinja_value *out)
{
    keyed *scratch;
    jinja_growing list = {0};
    LT_TRY(lt_jinja_alloc(r, count, sizeof *scratch, &scratch));
    LT_TRY(sort_keyed(r, items, scratch, count, reverse));
    for (size_t i = 0; i < count; i++)
        LT_TRY(lt_jinja_push(r, &list, items[i].item));
    return lt_jinja_grown(r, &list, JINJA_LIST, out);
}

FILTER(sort_)
{
    bool reverse = lt_jinja_arg_truth(args[0], false);
    bool case_sensitive = lt_jinja_arg_truth(args[1], false);
    jinja_value list;
    keyed *items;
    LT_TRY(lt_jinja_to_list(r, self, &list));
    size_t count = list.list->count;
    LT_TRY(lt_jinja_alloc(r, count, sizeof *items, &items));
    for (size_t i = 0; i < count; i++) {
        items[i].item = list.list->items[i];
        LT_TRY(
            keys_of(r, items[i].item, args[2] ? *args[2] : no_path, case_sensitive, &items[i].key));
    }
    return sorted(r, items, count, reverse, out);
}

FILTER(dictsort_)
{
    bool case_sensitive = lt_jinja_arg_truth(args[0], false);
    bool reverse = lt_jinja_arg_truth(args[2], false), by_value = false;
    const jinja_string *by = NULL;
    keyed *items;
    LT_TRY(lt_jinja_arg_string(r, args[1], &by));
    if (by) by_value = lt_jinja_is(by, "value");
    if (by && !by_value && !lt_jinja_is(by, "key"))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "You can only sort by either \"key\" or \"value\"");
    if (self.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, self);
    if (self.kind != JINJA_DICT)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "'%s' object has no attribute 'items'",
                             lt_jinja_type_name(self));
    size_t count = self.dict->count;
    LT_TRY(lt_jinja_spend(r, count));
    LT_TRY(lt_jinja_alloc(r, count, sizeof *items, &items));
    for (size_t i = 0; i < count; i++) {
        jinja_value pair[] = {self.dict->entries[i].key, self.dict->entries[i].value};
        LT_TRY(lt_jinja_make_list(r, JINJA_TUPLE, pair, 2, &items[i].item));
        items[i].key = pair[by_value];
        LT_TRY(fold_case(r, case_sensitive, &items[i].key));
    }
    return sorted(r, items, count, reverse, out);
}

FILTER(unique_)
{
    bool case_sensitive = lt_jinja_arg_truth(args[0], false);
    jinja_value list, seen, key;
    jinja_growing kept = {0};
    LT_TRY(lt_jinja_to_list(r, self, &list));
    LT_TRY(lt_jinja_dict_new(r, JINJA_DICT, 0, &seen));
    for (size_t i = 0; i < list.list->count; i++) {
        const jinja_entry *known;
        LT_TRY(key_of(r, list.list->items[i], args[1] ? *args[1] : no_path, case_sensitive, &key));
        LT_TRY(lt_jinja_dict_find(r, seen.dict, key, &known));
        if (known) continue;
        LT_TRY(lt_jinja_dict_set(r, seen.dict, key, lt_jinja_none()));
        LT_TRY(lt_jinja_push(r, &kept, list.list->items[i]));
    }
    LT_TRY(lt_jinja_grown(r, &kept, JINJA_LIST, &list));
    return lt_jinja_generator(r, list, false, out);
}

static lt_status extreme(jinja_render *r, jinja_value self, const jinja_value *const *args,
                         bool largest, jinja_value *out)
{
    bool case_sensitive = lt_jinja_arg_truth(args[0], false), better;
    jinja_value path = args[1] ? *args[1] : no_path, list, key, best;
    LT_TRY(lt_jinja_to_list(r, self, &list));
    if (list.list->count == 0)
        return lt_jinja_undefined(r, "No aggregated item, sequence was empty.", out);
    *out = list.list->items[0];
    LT_TRY(key_of(r, *out, path, case_sensitive, &best));
    for (size_t i = 1; i < list.list->count; i++) {
        LT_TRY(key_of(r, list.list->items[i], path, case_sensitive, &key));
        LT_TRY(lt_jinja_less(r, largest ? best : key, largest ? key : best, largest ? ">" : "<",
                             &better));
        if (!better) continue;
        best = key;
        *out = list.list->items[i];
    }
    return LT_OK;
}

FILTER(min_)
{
    return extreme(r, self, args, false, out);
}

FILTER(max_)
{
    return extreme(r, self, args, true, out);
}

FILTER(sum_)
{
    jinja_value list, item;
    LT_TRY(lt_jinja_to_list(r, self, &list));
    *out = args[1] ? *args[1] : lt_jinja_int(0);
    if (out->kind == JINJA_STRING)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "sum() can't sum strings");
    for (size_t i = 0; i < list.list->count; i++) {
        LT_TRY(lt_jinja_path(r, list.list->items[i], args[0] ? *args[0] : no_path, NULL, &item));
        LT_TRY(lt_jinja_arithmetic(r, JINJA_ADD, *out, item, out));
    }
    return LT_OK;
}

/* --- map, select, reject --- */

static const jinja_value *find_named(const jinja_call *call, const char *name)
{
    for (size_t i = 0; i < call->named_count; i++) {
        if (lt_jinja_is(call->named[i].key.string, name)) return &call->named[i].value;
    }
    return NULL;
}

/* map(attribute=..., default=...) */
static lt_status map_path(jinja_render *r, const jinja_list *list, const jinja_call *call,
                          jinja_value *out)
{
    const jinja_value *path = find_named(call, "attribute"), *or_else = find_named(call, "default");
    jinja_growing mapped = {0};
    if (call->named_count > (size_t)(1 + (or_else != NULL)))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "map() got an unexpected keyword argument");
    for (size_t i = 0; i < list->count; i++) {
        jinja_value item;
        LT_TRY(lt_jinja_path(r, list->items[i], *path, or_else, &item));
        LT_TRY(lt_jinja_push(r, &mapped, item));
    }
    LT_TRY(lt_jinja_grown(r, &mapped, JINJA_LIST, out));
    return lt_jinja_generator(r, *out, false, out);
}

/* The arguments after the first `skipped`. */
static jinja_call rest_of(const jinja_call *call, size_t skipped)
{
    jinja_call rest = *call;
    rest.positional += skipped;
    rest.count -= skipped;
    return rest;
}

/* A filter or test that an argument names. */
static lt_status named_builtin(jinja_render *r, jinja_value name, bool filter,
                               const jinja_builtin **out)
{
    const char *what = filter ? "filter" : "test";
    *out = NULL;
    if (name.kind == JINJA_STRING)
        *out = filter ? lt_jinja_find_filter(name.string->bytes, name.string->size)
                      : lt_jinja_find_test(name.string->bytes, name.string->size);
    if (*out && lt_jinja_is_supported(*out)) return LT_OK;
    if (*out)
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "the %s '%s' is not supported", what,
                             (*out)->name);
    if (name.kind != JINJA_STRING)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "the name of a %s must be a string", what);
    return lt_jinja_fail(r, LT_ERR_FORMAT, "No %s named '%.*s' found.", what,
                         name.string->size > 60 ? 60 : (int)name.string->size, name.string->bytes);
}

/* An iterable's items; nothing for what is false (none, 0), as Jinja2 has it. */
static lt_status items_of(jinja_render *r, jinja_value self, jinja_value *out)
{
    if (!lt_jinja_truth(self)) return lt_jinja_make_list(r, JINJA_LIST, NULL, 0, out);
    return lt_jinja_to_list(r, self, out);
}

FILTER_CALL(map_)
{
    const jinja_builtin *filter;
    jinja_value list;
    jinja_growing mapped = {0};
    LT_TRY(items_of(r, self, &list));
    if (call->count == 0 && find_named(call, "attribute")) return map_path(r, list.list, call, out);
    if (list.list->count) {
        if (call->count == 0)
            return lt_jinja_fail(r, LT_ERR_FORMAT, "map requires a filter argument");
        LT_TRY(named_builtin(r, call->positional[0], true, &filter));
        jinja_call rest = rest_of(call, 1);
        for (size_t i = 0; i < list.list->count; i++) {
            jinja_value item;
            LT_TRY(lt_jinja_spend(r, 1));
            LT_TRY(lt_jinja_enter(r)); /* map can be the filter that is mapped */
            LT_TRY(lt_jinja_call_builtin(r, filter, list.list->items[i], &rest, &item));
            lt_jinja_leave(r);
            LT_TRY(lt_jinja_push(r, &mapped, item));
        }
    }
    LT_TRY(lt_jinja_grown(r, &mapped, JINJA_LIST, out));
    return lt_jinja_generator(r, *out, false, out);
}

/* Keeps the items (or their attribute, the first argument) of which the test is `wanted`; without
 * a test, of which the truth is. */
static lt_status pick(jinja_render *r, jinja_value self, const jinja_call *call, bool by_attribute,
                      bool wanted, jinja_value *out)
{
    jinja_value list;
    jinja_growing kept = {0};
    const jinja_builtin *test = NULL;
    jinja_call rest = {0};
    LT_TRY(items_of(r, self, &list));
    if (list.list->count && by_attribute && call->count == 0)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "Missing parameter for attribute name");
    if (list.list->count && call->count > by_attribute) {
        LT_TRY(named_builtin(r, call->positional[by_attribute], false, &test));
        rest = rest_of(call, (size_t)by_attribute + 1);
    }
    for (size_t i = 0; i < list.list->count; i++) {
        jinja_value item = list.list->items[i], result;
        LT_TRY(lt_jinja_path(r, item, by_attribute ? call->positional[0] : no_path, NULL, &result));
        if (test) LT_TRY(lt_jinja_call_builtin(r, test, result, &rest, &result));
        LT_TRY(lt_jinja_spend(r, 1));
        if (lt_jinja_truth(result) == wanted) LT_TRY(lt_jinja_push(r, &kept, item));
    }
    LT_TRY(lt_jinja_grown(r, &kept, JINJA_LIST, out));
    return lt_jinja_generator(r, *out, false, out);
}

FILTER_CALL(select_)
{
    return pick(r, self, call, false, true, out);
}

FILTER_CALL(reject_)
{
    return pick(r, self, call, false, false, out);
}

FILTER_CALL(selectattr_)
{
    return pick(r, self, call, true, true, out);
}

FILTER_CALL(rejectattr_)
{
    return pick(r, self, call, true, false, out);
}

static const jinja_builtin filters[] = {
    {"length", "", 0, length_, NULL},
    {"count", "", 0, length_, NULL},
    {"list", "", 0, list_, NULL},
    {"items", "", 0, items_, NULL},
    {"first", "", 0, first_, NULL},
    {"last", "", 0, last_, NULL},
    {"reverse", "", 0, reverse_, NULL},
    {"join", "d attribute", 0, join_, NULL},
    {"sort", "reverse case_sensitive attribute", 0, sort_, NULL},
    {"dictsort", "case_sensitive by reverse", 0, dictsort_, NULL},
    {"unique", "case_sensitive attribute", 0, unique_, NULL},
    {"min", "case_sensitive attribute", 0, min_, NULL},
    {"max", "case_sensitive attribute", 0, max_, NULL},
    {"sum", "attribute start", 0, sum_, NULL},
    {"map", "", 0, NULL, map_},
    {"select", "", 0, NULL, select_},
    {"reject", "", 0, NULL, reject_},
    {"selectattr", "", 0, NULL, selectattr_},
    {"rejectattr", "", 0, NULL, rejectattr_},
    {"batch", "", 0, NULL, NULL},
    {"groupby", "", 0, NULL, NULL},
    {"random", "", 0, NULL, NULL},
    {"slice", "", 0, NULL, NULL},
};
const jinja_builtins lt_jinja_sequence_filters = {filters, sizeof filters / sizeof *filters};
