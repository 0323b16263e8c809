/* Macros, and the callers of call blocks, which are macros too. */
#include <stdio.h>
#include <string.h>

#include "data_pipeline/jinja/syntax.h"

lt_status lt_jinja_make_macro(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    jinja_macro *macro;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *macro, &macro));
    *macro = (jinja_macro){node, r->scope};
    *out = (jinja_value){.kind = JINJA_MACRO, .macro = macro};
    return LT_OK;
}

lt_status lt_jinja_begin_call(jinja_render *r)
{
    if (r->calls < r->limits.depth) {
        r->calls++;
        return LT_OK;
    }
    return lt_jinja_fail(r, LT_ERR_LIMIT, "macros call each other deeper than %lld",
                         (long long)r->limits.depth);
}

static const char *macro_name(const jinja_render *r, const jinja_node *node)
{
    return node->macro.name < 0 ? "caller" : r->template_->names[node->macro.name].bytes;
}

/* The named argument `name`, marked as used. */
static const jinja_value *take_named(const jinja_call *call, bool *used, const jinja_string *name)
{
    for (size_t i = 0; i < call->named_count; i++) {
        if (used[i] || !lt_jinja_same(call->named[i].key.string, name)) continue;
        used[i] = true;
        return &call->named[i].value;
    }
    return NULL;
}

/* A parameter that is not given: its default, or undefined. */
static lt_status default_of(jinja_render *r, const jinja_node *node, size_t parameter,
                            jinja_value *out)
{
    size_t first = node->macro.parameter_count - node->macro.values.count;
    if (parameter >= first)
        return lt_jinja_evaluate(r, node->macro.values.items[parameter - first], out);
    const jinja_string *name = &r->template_->names[node->macro.parameters[parameter]];
    char *hint;
    size_t size = name->size + 40;
    LT_TRY(lt_jinja_alloc(r, size, 1, &hint));
    snprintf(hint, size, "parameter '%s' was not provided", name->bytes);
    return lt_jinja_undefined(r, hint, out);
}

static lt_status bind_parameters(jinja_render *r, const jinja_node *node, const jinja_call *call,
                                 bool *used)
{
    size_t count = node->macro.parameter_count;
    bool *given;
    LT_TRY(lt_jinja_alloc(r, count, 1, &given));
    for (size_t i = 0; i < count; i++) {
        int name = node->macro.parameters[i];
        const jinja_value *value = i < call->count
                                       ? &call->positional[i]
                                       : take_named(call, used, &r->template_->names[name]);
        given[i] = value != NULL;
        if (value) LT_TRY(lt_jinja_bind(r, name, *value));
    }
    for (size_t i = 0; i < count; i++) {
        jinja_value value;
        if (given[i]) continue;
        LT_TRY(default_of(r, node, i, &value));
        LT_TRY(lt_jinja_bind(r, node->macro.parameters[i], value));
    }
    return LT_OK;
}

static lt_status bind_caller(jinja_render *r, const jinja_call *call, bool *used)
{
    static const jinja_string name = {.bytes = "caller", .size = 6, .length = 6};
    const jinja_value *given = take_named(call, used, &name);
    jinja_value caller;
    if (given && given->kind != JINJA_NONE) return lt_jinja_bind(r, NAME_CALLER, *given);
    LT_TRY(lt_jinja_undefined(r, "No caller defined", &caller));
    return lt_jinja_bind(r, NAME_CALLER, caller);
}

/* Arguments beyond the parameters: varargs and kwargs, where the macro uses them. */
static lt_status bind_rest(jinja_render *r, const jinja_node *node, const jinja_call *call,
                           const bool *used)
{
    jinja_value rest, named;
    size_t count = node->macro.parameter_count;
    LT_TRY(lt_jinja_dict_new(r, JINJA_DICT, 0, &named));
    for (size_t i = 0; i < call->named_count; i++) {
        if (used[i]) continue;
        const jinja_string *name = call->named[i].key.string;
        if (!node->macro.takes_named_rest)
            return lt_jinja_fail(r, LT_ERR_FORMAT, "macro '%s' takes no keyword argument '%.*s'",
                                 macro_name(r, node), name->size > 60 ? 60 : (int)name->size,
                                 name->bytes);
        LT_TRY(lt_jinja_dict_set(r, named.dict, call->named[i].key, call->named[i].value));
    }
    if (node->macro.takes_named_rest) LT_TRY(lt_jinja_bind(r, NAME_NAMED_REST, named));
    size_t more = call->count > count ? call->count - count : 0;
    if (more && !node->macro.takes_rest)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "macro '%s' takes not more than %zu argument(s)",
                             macro_name(r, node), count);
    if (!node->macro.takes_rest) return LT_OK;
    LT_TRY(lt_jinja_make_list(r, JINJA_TUPLE, more ? call->positional + count : NULL, more, &rest));
    return lt_jinja_bind(r, NAME_REST, rest);
}

static lt_status bind_arguments(jinja_render *r, const jinja_node *node, const jinja_call *call)
{
    bool *used;
    LT_TRY(lt_jinja_alloc(r, call->named_count, 1, &used));
    LT_TRY(bind_parameters(r, node, call, used));
    if (node->macro.takes_caller) LT_TRY(bind_caller(r, call, used));
    return bind_rest(r, node, call, used);
}

lt_status lt_jinja_call_macro(jinja_render *r, const jinja_macro *macro, const jinja_call *call,
                              jinja_value *out)
{
    jinja_scope *scope = r->scope;
    LT_TRY(lt_jinja_begin_call(r));
    LT_TRY(lt_jinja_push_scope(r, macro->scope));
    LT_TRY(bind_arguments(r, macro->node, call));
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_execute(r, &macro->node->macro.body));
    LT_TRY(lt_jinja_end(r, pad, out));
    r->scope = scope;
    r->calls--;
    return LT_OK;
}
