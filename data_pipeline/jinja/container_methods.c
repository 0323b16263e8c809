/* Methods of lists, tuples and dictionaries that change nothing. */
#include "data_pipeline/jinja/values.h"

#define METHOD(name)                                                                         \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_value *const *args, \
                          jinja_value *out)

METHOD(list_count)
{
    int64_t count = 0;
    LT_TRY(lt_jinja_spend(r, self.list->count));
    for (size_t i = 0; i < self.list->count; i++) {
        bool equal;
        LT_TRY(lt_jinja_equal(r, self.list->items[i], *args[0], &equal));
        count += equal;
    }
    *out = lt_jinja_int(count);
    return LT_OK;
}

METHOD(list_index)
{
    int64_t length = (int64_t)self.list->count, from = 0, to = length;
    LT_TRY(lt_jinja_arg_int(r, args[1], &from));
    LT_TRY(lt_jinja_arg_int(r, args[2], &to));
    if (from < 0) from = from + length < 0 ? 0 : from + length;
    if (to < 0) to += length;
    for (int64_t i = from; i < to && i < length; i++) {
        bool equal;
        LT_TRY(lt_jinja_spend(r, 1));
        LT_TRY(lt_jinja_equal(r, self.list->items[i], *args[0], &equal));
        if (!equal) continue;
        *out = lt_jinja_int(i);
        return LT_OK;
    }
    return lt_jinja_fail(r, LT_ERR_FORMAT, "the value is not in the %s", lt_jinja_type_name(self));
}

METHOD(list_copy)
{
    (void)args;
    return lt_jinja_make_list(r, JINJA_LIST, self.list->items, self.list->count, out);
}

METHOD(dict_get)
{
    const jinja_entry *entry;
    LT_TRY(lt_jinja_dict_find(r, self.dict, *args[0], &entry));
    *out = entry ? entry->value : args[1] ? *args[1] : lt_jinja_none();
    return LT_OK;
}

static lt_status view(jinja_render *r, jinja_value self, jinja_part part, jinja_value *out)
{
    jinja_view *made;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *made, &made));
    *made = (jinja_view){self.dict, part};
    *out = (jinja_value){.kind = JINJA_VIEW, .view = made};
    return LT_OK;
}

METHOD(dict_keys)
{
    (void)args;
    return view(r, self, JINJA_KEYS, out);
}

METHOD(dict_values)
{
    (void)args;
    return view(r, self, JINJA_VALUES, out);
}

METHOD(dict_items)
{
    (void)args;
    return view(r, self, JINJA_ITEMS, out);
}

METHOD(dict_copy)
{
    (void)r;
    (void)args;
    *out = self; /* nothing can change it */
    return LT_OK;
}

static const jinja_builtin list_methods[] = {
    {"count", "value /", 1, list_count, NULL},
    {"index", "value start stop /", 1, list_index, NULL},
    {"copy", "", 0, list_copy, NULL},
};
const jinja_builtins lt_jinja_list_methods = {list_methods,
                                              sizeof list_methods / sizeof *list_methods};
/* without copy */
const jinja_builtins lt_jinja_tuple_methods = {list_methods, 2};

static const jinja_builtin dict_methods[] = {
    {"get", "key default /", 1, dict_get, NULL},
    {"keys", "", 0, dict_keys, NULL},
    {"values", "", 0, dict_values, NULL},
    {"items", "", 0, dict_items, NULL},
    {"copy", "", 0, dict_copy, NULL},
    {"fromkeys", "", 0, NULL, NULL},
};
const jinja_builtins lt_jinja_dict_methods = {dict_methods,
                                              sizeof dict_methods / sizeof *dict_methods};
