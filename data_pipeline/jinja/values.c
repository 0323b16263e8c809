/* Truth, equality, order, length and membership, as in Python. */
#include "data_pipeline/jinja/values.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

lt_status lt_jinja_undefined(jinja_render *r, const char *hint, jinja_value *out)
{
    jinja_undefined *story;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *story, &story));
    story->hint = hint;
    *out = (jinja_value){.kind = JINJA_UNDEFINED, .undefined = story};
    return LT_OK;
}

lt_status lt_jinja_missing(jinja_render *r, jinja_value owner, jinja_value name, jinja_value *out)
{
    jinja_undefined *story;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *story, &story));
    *story = (jinja_undefined){.has_owner = true, .owner = owner, .name = name};
    *out = (jinja_value){.kind = JINJA_UNDEFINED, .undefined = story};
    return LT_OK;
}

/* What an error message shows of a name or key. */
static void show(jinja_value value, char *out, size_t size)
{
    if (value.kind == JINJA_STRING) {
        size_t shown = value.string->size > 60 ? 60 : value.string->size;
        snprintf(out, size, "'%.*s'", (int)shown, value.string->bytes);
    } else if (value.kind == JINJA_INT) {
        snprintf(out, size, "%lld", (long long)value.integer);
    } else {
        snprintf(out, size, "of type %s", lt_jinja_type_name(value));
    }
}

lt_status lt_jinja_fail_undefined(jinja_render *r, jinja_value value)
{
    const jinja_undefined *story = value.undefined;
    char name[80];
    if (!story) return lt_jinja_fail(r, LT_ERR_FORMAT, "the value is undefined");
    if (story->hint) return lt_jinja_fail(r, LT_ERR_FORMAT, "%s", story->hint);
    show(story->name, name, sizeof name);
    if (!story->has_owner) return lt_jinja_fail(r, LT_ERR_FORMAT, "%s is undefined", name);
    const char *owner = lt_jinja_type_name(story->owner);
    bool none = story->owner.kind == JINJA_NONE;
    return lt_jinja_fail(r, LT_ERR_FORMAT, "'%s%s' has no %s %s", none ? "None" : owner,
                         none ? "" : " object",
                         story->name.kind == JINJA_STRING ? "attribute" : "element", name);
}

const char *lt_jinja_type_name(jinja_value value)
{
    static const char *const names[] = {
        [JINJA_UNDEFINED] = "Undefined", [JINJA_NONE] = "NoneType",
        [JINJA_BOOL] = "bool",           [JINJA_INT] = "int",
        [JINJA_FLOAT] = "float",         [JINJA_STRING] = "str",
        [JINJA_LIST] = "list",           [JINJA_TUPLE] = "tuple",
        [JINJA_DICT] = "dict",           [JINJA_VIEW] = "dict view",
        [JINJA_RANGE] = "range",         [JINJA_ITERATOR] = "generator",
        [JINJA_NAMESPACE] = "Namespace", [JINJA_LOOP] = "LoopContext",
        [JINJA_MACRO] = "Macro",         [JINJA_FUNCTION] = "function",
        [JINJA_METHOD] = "method",
    };
    return names[value.kind];
}

bool lt_jinja_truth(jinja_value value)
{
    switch ((jinja_kind)value.kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return value.boolean;
    case JINJA_INT:
        return value.integer != 0;
    case JINJA_FLOAT:
        return value.number != 0;
    case JINJA_STRING:
        return value.string->size != 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return value.list->count != 0;
    case JINJA_DICT:
        return value.dict->count != 0;
    case JINJA_VIEW:
        return value.view->dict->count != 0;
    case JINJA_RANGE:
        return value.range->count != 0;
    default:
        return true;
    }
}

bool lt_jinja_is_integer(jinja_value value, int64_t *out)
{
    if (value.kind == JINJA_BOOL)
        *out = value.boolean;
    else if (value.kind == JINJA_INT)
        *out = value.integer;
    else
        return false;
    return true;
}

/* long double holds every 64-bit integer. */
bool lt_jinja_is_number(jinja_value value, long double *out)
{
    int64_t integer;
    if (value.kind == JINJA_FLOAT)
        *out = value.number;
    else if (lt_jinja_is_integer(value, &integer))
        *out = integer;
    else
        return false;
    return true;
}

/* --- Equality --- */

static lt_status equal_lists(jinja_render *r, const jinja_list *a, const jinja_list *b, bool *out)
{
    *out = a->count == b->count;
    for (size_t i = 0; *out && a != b && i < a->count; i++) {
        LT_TRY(lt_jinja_spend(r, 1)); /* shared lists may be nested to any number of items */
        LT_TRY(lt_jinja_equal(r, a->items[i], b->items[i], out));
    }
    return LT_OK;
}

static lt_status equal_dicts(jinja_render *r, const jinja_dict *a, const jinja_dict *b, bool *out)
{
    *out = a->count == b->count;
    for (size_t i = 0; *out && a != b && i < a->count; i++) {
        const jinja_entry *other;
        LT_TRY(lt_jinja_spend(r, 1));
        LT_TRY(lt_jinja_dict_find(r, b, a->entries[i].key, &other));
        *out = other != NULL;
        if (other) LT_TRY(lt_jinja_equal(r, a->entries[i].value, other->value, out));
    }
    return LT_OK;
}

static bool equal_ranges(const jinja_range *a, const jinja_range *b)
{
    return a->count == b->count && (a->count == 0 || a->start == b->start) &&
           (a->count < 2 || a->step == b->step);
}

static lt_status equal_views(jinja_render *r, const jinja_view *a, const jinja_view *b, bool *out)
{
    if (a->part != b->part || a->part == JINJA_VALUES) {
        *out = a == b;
        return LT_OK;
    }
    if (a->part == JINJA_ITEMS) return equal_dicts(r, a->dict, b->dict, out);
    *out = a->dict->count == b->dict->count;
    for (size_t i = 0; *out && i < a->dict->count; i++) {
        const jinja_entry *other;
        LT_TRY(lt_jinja_dict_find(r, b->dict, a->dict->entries[i].key, &other));
        *out = other != NULL;
    }
    return LT_OK;
}

static bool equal_methods(const jinja_method *a, const jinja_method *b)
{
    return a->builtin == b->builtin && a->self.kind == b->self.kind &&
           a->self.string == b->self.string;
}

lt_status lt_jinja_equal(jinja_render *r, jinja_value a, jinja_value b, bool *out)
{
    long double x, y;
    lt_status status = LT_OK;
    if (lt_jinja_is_number(a, &x) && lt_jinja_is_number(b, &y)) {
        *out = x == y;
        return LT_OK;
    }
    *out = a.kind == b.kind;
    if (!*out) return LT_OK;
    LT_TRY(lt_jinja_enter(r));
    switch ((jinja_kind)a.kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        break;
    case JINJA_STRING:
        *out = lt_jinja_same(a.string, b.string);
        if (a.string->size == b.string->size) status = lt_jinja_spend(r, a.string->size / 1024);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        status = equal_lists(r, a.list, b.list, out);
        break;
    case JINJA_DICT:
        status = equal_dicts(r, a.dict, b.dict, out);
        break;
    case JINJA_RANGE:
        *out = equal_ranges(a.range, b.range);
        break;
    case JINJA_VIEW:
        status = equal_views(r, a.view, b.view, out);
        break;
    case JINJA_METHOD:
        *out = equal_methods(a.method, b.method);
        break;
    default: /* by identity; any of the pointers will do */
        *out = a.macro == b.macro;
    }
    lt_jinja_leave(r);
    return status;
}

/* --- Order --- */

static lt_status not_ordered(jinja_render *r, jinja_value a, jinja_value b, const char *operator_)
{
    return lt_jinja_fail(r, LT_ERR_FORMAT, "'%s' not supported between instances of '%s' and '%s'",
                         operator_, lt_jinja_type_name(a), lt_jinja_type_name(b));
}

/* The first items that differ decide, else the length. */
static lt_status less_lists(jinja_render *r, const jinja_list *a, const jinja_list *b,
                            const char *operator_, bool *out)
{
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        bool equal;
        LT_TRY(lt_jinja_spend(r, 1));
        LT_TRY(lt_jinja_equal(r, a->items[i], b->items[i], &equal));
        if (!equal) return lt_jinja_less(r, a->items[i], b->items[i], operator_, out);
    }
    *out = a->count < b->count;
    return LT_OK;
}

/* UTF-8 has the order of the code points. */
static bool less_strings(const jinja_string *a, const jinja_string *b)
{
    int order = memcmp(a->bytes, b->bytes, a->size < b->size ? a->size : b->size);
    return order ? order < 0 : a->size < b->size;
}

lt_status lt_jinja_less(jinja_render *r, jinja_value a, jinja_value b, const char *operator_,
                        bool *out)
{
    long double x, y;
    LT_TRY(lt_jinja_spend(r, 1));
    if (a.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, a);
    if (b.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, b);
    if (lt_jinja_is_number(a, &x) && lt_jinja_is_number(b, &y)) {
        *out = x < y;
        return LT_OK;
    }
    if (a.kind != b.kind) return not_ordered(r, a, b, operator_);
    if (a.kind == JINJA_STRING) {
        *out = less_strings(a.string, b.string);
        return lt_jinja_spend(r, a.string->size / 1024);
    }
    if (a.kind != JINJA_LIST && a.kind != JINJA_TUPLE) return not_ordered(r, a, b, operator_);
    LT_TRY(lt_jinja_enter(r));
    lt_status status = less_lists(r, a.list, b.list, operator_, out);
    lt_jinja_leave(r);
    return status;
}

/* --- Length and membership --- */

lt_status lt_jinja_size(jinja_render *r, jinja_value value, size_t *out)
{
    switch ((jinja_kind)value.kind) {
    case JINJA_UNDEFINED:
        *out = 0;
        return LT_OK;
    case JINJA_STRING:
        *out = value.string->length;
        return LT_OK;
    case JINJA_LIST:
    case JINJA_TUPLE:
        *out = value.list->count;
        return LT_OK;
    case JINJA_DICT:
        *out = value.dict->count;
        return LT_OK;
    case JINJA_VIEW:
        *out = value.view->dict->count;
        return LT_OK;
    case JINJA_RANGE:
        *out = value.range->count;
        return LT_OK;
    case JINJA_LOOP:
        return lt_jinja_loop_size(r, value.loop, out);
    default:
        return lt_jinja_fail(r, LT_ERR_FORMAT, "object of type '%s' has no len()",
                             lt_jinja_type_name(value));
    }
}

static lt_status contains_text(jinja_render *r, const jinja_string *text, jinja_value item,
                               bool *out)
{
    if (item.kind != JINJA_STRING)
        return lt_jinja_fail(r, LT_ERR_FORMAT,
                             "'in <string>' requires string as left operand, not %s",
                             lt_jinja_type_name(item));
    LT_TRY(lt_jinja_spend(r, text->size / 256));
    *out = lt_jinja_find(text, item.string, 0, text->size, false) != SIZE_MAX;
    return LT_OK;
}

lt_status lt_jinja_contains(jinja_render *r, jinja_value container, jinja_value item, bool *out)
{
    const jinja_entry *entry;
    jinja_iterator iterator;
    bool found;
    *out = false;
    if (container.kind == JINJA_STRING) return contains_text(r, container.string, item, out);
    if (container.kind == JINJA_DICT) {
        LT_TRY(lt_jinja_dict_find(r, container.dict, item, &entry));
        *out = entry != NULL;
        return LT_OK;
    }
    if (!lt_jinja_is_iterable(container))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "argument of type '%s' is not iterable",
                             lt_jinja_type_name(container));
    LT_TRY(lt_jinja_iterate(r, container, &iterator));
    while (!*out) {
        jinja_value other;
        LT_TRY(lt_jinja_next(r, &iterator, &found, &other));
        if (!found) break;
        LT_TRY(lt_jinja_spend(r, 1));
        LT_TRY(lt_jinja_equal(r, other, item, out));
    }
    /* what a generator gave is gone */
    if (container.kind == JINJA_ITERATOR) *container.iterator = iterator;
    return LT_OK;
}

/* --- Lists --- */

lt_status lt_jinja_make_list(jinja_render *r, jinja_kind kind, const jinja_value *items,
                             size_t count, jinja_value *out)
{
    jinja_list *list;
    jinja_value *copy;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *list, &list));
    LT_TRY(lt_jinja_alloc(r, count, sizeof *copy, &copy));
    if (count) memcpy(copy, items, count * sizeof *copy);
    *list = (jinja_list){copy, count};
    *out = (jinja_value){.kind = (uint8_t)kind, .list = list};
    return LT_OK;
}

lt_status lt_jinja_push(jinja_render *r, jinja_growing *list, jinja_value item)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 8;
        jinja_value *items;
        LT_TRY(lt_jinja_alloc(r, capacity, sizeof *items, &items));
        if (list->count) memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
    return LT_OK;
}

lt_status lt_jinja_grown(jinja_render *r, const jinja_growing *list, jinja_kind kind,
                         jinja_value *out)
{
    jinja_list *made;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *made, &made));
    *made = (jinja_list){list->items, list->count};
    *out = (jinja_value){.kind = (uint8_t)kind, .list = made};
    return LT_OK;
}
