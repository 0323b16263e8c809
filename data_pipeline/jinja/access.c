/* Attributes, items and slices. `a.b` looks for an attribute first, then for an item, `a["b"]` the
 * other way round. What the sandbox does not let out is undefined, and an error when it is used. */
#include <stdio.h>
#include <string.h>

#include "data_pipeline/jinja/values.h"

/* --- Attributes --- */

static const jinja_builtins none = {0};

static const jinja_builtins *methods_of(jinja_value object)
{
    switch ((jinja_kind)object.kind) {
    case JINJA_STRING:
        return &lt_jinja_string_methods;
    case JINJA_LIST:
        return &lt_jinja_list_methods;
    case JINJA_TUPLE:
        return &lt_jinja_tuple_methods;
    case JINJA_DICT:
        return &lt_jinja_dict_methods;
    default:
        return &none;
    }
}

/* Attributes that change a list or dict. */
static bool is_mutator(jinja_value object, const jinja_string *name)
{
    static const char *const of_list[] = {"append", "clear",  "extend",  "insert",
                                          "pop",    "remove", "reverse", "sort"};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    for (size_t i = 0; object.kind == JINJA_LIST && i < sizeof of_list / sizeof *of_list; i++) {
        if (lt_jinja_is(name, of_list[i])) return true;
    }
    for (size_t i = 0; object.kind == JINJA_DICT && i < sizeof of_dict / sizeof *of_dict; i++) {
        if (lt_jinja_is(name, of_dict[i])) return true;
    }
    return false;
}

static const jinja_builtin *find_builtin_method(jinja_value object, const jinja_string *name)
{
    const jinja_builtin *found = lt_jinja_find_builtin(methods_of(object), name->bytes, name->size);
    if (found || object.kind != JINJA_STRING) return found;
    return lt_jinja_find_builtin(&lt_jinja_string_tests, name->bytes, name->size);
}

/* Attributes of other types that Python has and templates do not use. */
static bool is_unsupported(jinja_value object, const jinja_string *name)
{
    static const struct {
        jinja_kind kind;
        const char *name;
    } known[] = {
        {JINJA_INT, "real"},
        {JINJA_INT, "imag"},
        {JINJA_INT, "numerator"},
        {JINJA_INT, "denominator"},
        {JINJA_INT, "conjugate"},
        {JINJA_INT, "bit_length"},
        {JINJA_INT, "bit_count"},
        {JINJA_INT, "to_bytes"},
        {JINJA_INT, "from_bytes"},
        {JINJA_INT, "as_integer_ratio"},
        {JINJA_FLOAT, "real"},
        {JINJA_FLOAT, "imag"},
        {JINJA_FLOAT, "conjugate"},
        {JINJA_FLOAT, "hex"},
        {JINJA_FLOAT, "fromhex"},
        {JINJA_FLOAT, "is_integer"},
        {JINJA_FLOAT, "as_integer_ratio"},
        {JINJA_RANGE, "start"},
        {JINJA_RANGE, "stop"},
        {JINJA_RANGE, "step"},
        {JINJA_RANGE, "count"},
        {JINJA_RANGE, "index"},
        {JINJA_VIEW, "mapping"},
        {JINJA_VIEW, "isdisjoint"},
        {JINJA_MACRO, "name"},
        {JINJA_MACRO, "arguments"},
        {JINJA_MACRO, "caller"},
        {JINJA_MACRO, "catch_kwargs"},
        {JINJA_MACRO, "catch_varargs"},
        {JINJA_MACRO, "explicit_caller"},
        {JINJA_ITERATOR, "send"},
        {JINJA_ITERATOR, "throw"},
        {JINJA_ITERATOR, "close"},
        {JINJA_FUNCTION, "fromkeys"},
    };
    jinja_kind kind = object.kind == JINJA_BOOL ? JINJA_INT : (jinja_kind)object.kind;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].kind == kind && lt_jinja_is(name, known[i].name)) return true;
    }
    return false;
}

static lt_status unsafe(jinja_render *r, jinja_value object, const jinja_string *name,
                        jinja_value *out)
{
    char *hint;
    size_t shown = name->size > 60 ? 60 : name->size, size = shown + 100;
    LT_TRY(lt_jinja_alloc(r, size, 1, &hint));
    snprintf(hint, size, "access to attribute '%.*s' of '%s' object is unsafe.", (int)shown,
             name->bytes, lt_jinja_type_name(object));
    return lt_jinja_undefined(r, hint, out);
}

static lt_status find_method(jinja_render *r, jinja_value object, const jinja_string *name,
                             bool *found, jinja_value *out)
{
    const jinja_builtin *builtin = find_builtin_method(object, name);
    *found = builtin != NULL;
    if (!builtin) return LT_OK;
    if (!lt_jinja_is_supported(builtin))
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "%s.%s is not supported",
                             lt_jinja_type_name(object), builtin->name);
    jinja_method *method;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *method, &method));
    *method = (jinja_method){object, builtin};
    *out = (jinja_value){.kind = JINJA_METHOD, .method = method};
    return LT_OK;
}

static lt_status find_member(jinja_render *r, const jinja_dict *dict, const jinja_string *name,
                             bool *found, jinja_value *out)
{
    const jinja_entry *entry;
    LT_TRY(lt_jinja_dict_find(r, dict, lt_jinja_string(name), &entry));
    *found = entry != NULL;
    if (entry) *out = entry->value;
    return LT_OK;
}

/* Python's getattr. */
static lt_status find_attribute(jinja_render *r, jinja_value object, const jinja_string *name,
                                bool *found, jinja_value *out)
{
    *found = true;
    if (object.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, object);
    if (name->size > 2 && name->bytes[0] == '_' && name->bytes[1] == '_')
        return unsafe(r, object, name, out);
    if (object.kind == JINJA_NAMESPACE) return find_member(r, object.dict, name, found, out);
    if (object.kind == JINJA_LOOP) return lt_jinja_loop_attribute(r, object.loop, name, found, out);
    if (is_mutator(object, name)) return unsafe(r, object, name, out);
    if (is_unsupported(object, name))
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "the attribute '%.*s' of %s is not supported",
                             (int)name->size, name->bytes, lt_jinja_type_name(object));
    return find_method(r, object, name, found, out);
}

lt_status lt_jinja_attribute(jinja_render *r, jinja_value object, const jinja_string *name,
                             jinja_value *out)
{
    bool found;
    LT_TRY(find_attribute(r, object, name, &found, out));
    if (!found && object.kind == JINJA_DICT) LT_TRY(find_member(r, object.dict, name, &found, out));
    return found ? LT_OK : lt_jinja_missing(r, object, lt_jinja_string(name), out);
}

/* --- Items --- */

/* Of a list or the like; out of range is not found. */
static lt_status find_element(jinja_render *r, jinja_value object, int64_t index, bool *found,
                              jinja_value *out)
{
    size_t count, size;
    LT_TRY(lt_jinja_size(r, object, &count));
    if (index < 0) index += (int64_t)count;
    *found = index >= 0 && (uint64_t)index < count;
    if (!*found) return LT_OK;
    if (object.kind == JINJA_RANGE) {
        *out = lt_jinja_range_item(object.range, (size_t)index);
        return LT_OK;
    }
    if (object.kind != JINJA_STRING) {
        *out = object.list->items[index];
        return LT_OK;
    }
    const jinja_string *text = object.string;
    if (text->length != text->size) LT_TRY(lt_jinja_spend(r, text->size / 256));
    size_t at = lt_jinja_offset(text, (size_t)index);
    lt_jinja_character(text, at, &size);
    return lt_jinja_cut(r, text, at, at + size, out);
}

lt_status lt_jinja_item(jinja_render *r, jinja_value object, jinja_value index, jinja_value *out)
{
    const jinja_entry *entry;
    bool found = false;
    int64_t at;
    bool ordered = object.kind == JINJA_STRING || object.kind == JINJA_LIST ||
                   object.kind == JINJA_TUPLE || object.kind == JINJA_RANGE;
    if (object.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, object);
    if (object.kind == JINJA_DICT && lt_jinja_hashable(index)) {
        LT_TRY(lt_jinja_dict_find(r, object.dict, index, &entry));
        found = entry != NULL;
        if (found) *out = entry->value;
    } else if (ordered && lt_jinja_is_integer(index, &at)) {
        LT_TRY(find_element(r, object, at, &found, out));
    }
    if (!found && index.kind == JINJA_STRING)
        LT_TRY(find_attribute(r, object, index.string, &found, out));
    return found ? LT_OK : lt_jinja_missing(r, object, index, out);
}

/* --- Slices --- */

typedef struct bounds {
    int64_t start, stop, step;
    size_t count;
} bounds;

static lt_status read_bound(jinja_render *r, const jinja_value *value, int64_t *out, bool *given)
{
    *given = value && value->kind != JINJA_NONE;
    if (!*given || lt_jinja_is_integer(*value, out)) return LT_OK;
    return lt_jinja_fail(r, LT_ERR_FORMAT, "slice indices must be integers or None, not %s",
                         lt_jinja_type_name(*value));
}

static int64_t clip(int64_t at, int64_t length, bool backward)
{
    if (at < 0) at += length;
    if (at < 0) return backward ? -1 : 0;
    return at >= length ? length - backward : at;
}

static lt_status slice_bounds(jinja_render *r, size_t size, const jinja_value *start,
                              const jinja_value *stop, const jinja_value *step, bounds *out)
{
    int64_t length = (int64_t)size;
    bool given;
    *out = (bounds){.step = 1};
    LT_TRY(read_bound(r, step, &out->step, &given));
    if (out->step == 0) return lt_jinja_fail(r, LT_ERR_FORMAT, "slice step cannot be zero");
    if (out->step < -INT64_MAX) out->step = -INT64_MAX;
    bool backward = out->step < 0;
    LT_TRY(read_bound(r, start, &out->start, &given));
    out->start = given ? clip(out->start, length, backward) : backward ? length - 1 : 0;
    LT_TRY(read_bound(r, stop, &out->stop, &given));
    out->stop = given ? clip(out->stop, length, backward) : backward ? -1 : length;
    if (backward && out->stop < out->start)
        out->count = (size_t)((out->start - out->stop - 1) / -out->step + 1);
    else if (!backward && out->start < out->stop)
        out->count = (size_t)((out->stop - out->start - 1) / out->step + 1);
    return LT_OK;
}

static lt_status slice_list(jinja_render *r, jinja_value object, const bounds *b, jinja_value *out)
{
    jinja_value *items;
    jinja_growing list = {.count = b->count};
    LT_TRY(lt_jinja_spend(r, b->count / 16));
    LT_TRY(lt_jinja_alloc(r, b->count, sizeof *items, &items));
    list.items = items;
    for (size_t i = 0; i < b->count; i++)
        items[i] = object.list->items[b->start + (int64_t)i * b->step];
    return lt_jinja_grown(r, &list, (jinja_kind)object.kind, out);
}

static lt_status slice_range(jinja_render *r, const jinja_range *range, const bounds *b,
                             jinja_value *out)
{
    jinja_range *part;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *part, &part));
    int64_t start = range->start, step;
    if (__builtin_mul_overflow(range->step, b->step, &step) ||
        __builtin_mul_overflow(b->start, range->step, &part->start) ||
        __builtin_add_overflow(part->start, start, &part->start) ||
        __builtin_mul_overflow(b->stop, range->step, &part->stop) ||
        __builtin_add_overflow(part->stop, start, &part->stop))
        return lt_jinja_fail(r, LT_ERR_LIMIT, "an integer beyond 64 bits");
    part->step = step;
    part->count = b->count;
    *out = (jinja_value){.kind = JINJA_RANGE, .range = part};
    return LT_OK;
}

/* One character after the other, from where each begins. */
static lt_status pick_characters(jinja_render *r, const jinja_string *text, const bounds *b,
                                 jinja_value *out)
{
    uint32_t *offsets;
    size_t count = 0, size;
    LT_TRY(lt_jinja_alloc(r, text->length, sizeof *offsets, &offsets));
    for (size_t at = 0; at < text->size; at += size) {
        lt_jinja_character(text, at, &size);
        offsets[count++] = (uint32_t)at;
    }
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_spend(r, (text->size + b->count) / 16));
    for (size_t i = 0; i < b->count; i++) {
        size_t at = offsets[b->start + (int64_t)i * b->step];
        lt_jinja_character(text, at, &size);
        LT_TRY(lt_jinja_put_bytes(r, text->bytes + at, size, lt_jinja_origin(text, at)));
    }
    return lt_jinja_end(r, pad, out);
}

static lt_status slice_text(jinja_render *r, const jinja_string *text, const bounds *b,
                            jinja_value *out)
{
    if (b->step != 1) return pick_characters(r, text, b, out);
    if (b->count == 0) return lt_jinja_cut(r, text, 0, 0, out);
    if (text->length != text->size) LT_TRY(lt_jinja_spend(r, text->size / 256));
    size_t from = lt_jinja_offset(text, (size_t)b->start);
    return lt_jinja_cut(r, text, from, lt_jinja_offset(text, (size_t)b->stop), out);
}

lt_status lt_jinja_slice(jinja_render *r, jinja_value object, const jinja_value *start,
                         const jinja_value *stop, const jinja_value *step, jinja_value *out)
{
    size_t size;
    bounds b;
    if (object.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, object);
    if (object.kind != JINJA_STRING && object.kind != JINJA_LIST && object.kind != JINJA_TUPLE &&
        object.kind != JINJA_RANGE)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "'%s' object can not be sliced",
                             lt_jinja_type_name(object));
    LT_TRY(lt_jinja_size(r, object, &size));
    LT_TRY(slice_bounds(r, size, start, stop, step, &b));
    if (object.kind == JINJA_STRING) return slice_text(r, object.string, &b, out);
    return object.kind == JINJA_RANGE ? slice_range(r, object.range, &b, out)
                                      : slice_list(r, object, &b, out);
}

/* --- Paths --- */

static bool is_index(const char *text, size_t size, int64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9' || size > 18) return false;
        *out = *out * 10 + (text[i] - '0');
    }
    return size > 0;
}

lt_status lt_jinja_path(jinja_render *r, jinja_value object, jinja_value path,
                        const jinja_value *or_else, jinja_value *out)
{
    *out = object;
    if (path.kind == JINJA_NONE) return LT_OK;
    if (path.kind != JINJA_STRING) {
        LT_TRY(lt_jinja_item(r, object, path, out));
        if (or_else && or_else->kind != JINJA_NONE && out->kind == JINJA_UNDEFINED) *out = *or_else;
        return LT_OK;
    }
    const jinja_string *text = path.string;
    for (size_t from = 0; from <= text->size;) {
        const char *dot = memchr(text->bytes + from, '.', text->size - from);
        size_t to = dot ? (size_t)(dot - text->bytes) : text->size;
        int64_t index;
        jinja_value step;
        LT_TRY(lt_jinja_spend(r, 1));
        if (is_index(text->bytes + from, to - from, &index))
            step = lt_jinja_int(index);
        else
            LT_TRY(lt_jinja_cut(r, text, from, to, &step));
        LT_TRY(lt_jinja_item(r, *out, step, out));
        if (or_else && or_else->kind != JINJA_NONE && out->kind == JINJA_UNDEFINED) *out = *or_else;
        from = to + 1;
    }
    return LT_OK;
}
