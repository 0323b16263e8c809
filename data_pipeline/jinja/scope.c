/* Names and their values. A block's scope is searched first, then those around it, then the
 * template's own names, the variables it was given, and the functions that every template has. */
#include <string.h>

#include "data_pipeline/jinja/syntax.h"

enum { UNKNOWN, SET, MISSING };

/* What no block has set: looked for once. */
static lt_status load_global(jinja_render *r, int name)
{
    const jinja_string *text = &r->template_->names[name];
    const json_t *variable = NULL;
    if (!memchr(text->bytes, '\0', text->size))
        variable = json_object_get(r->variables, text->bytes);
    r->global_state[name] = SET;
    if (variable) return lt_jinja_load_variable(r, text->bytes, variable, &r->globals[name]);
    const jinja_builtin *function =
        lt_jinja_find_builtin(&lt_jinja_functions, text->bytes, text->size);
    if (!function) {
        r->global_state[name] = MISSING;
        return LT_OK;
    }
    if (!lt_jinja_is_supported(function))
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "the function '%s' is not supported",
                             function->name);
    r->globals[name] = (jinja_value){.kind = JINJA_FUNCTION, .function = function};
    return LT_OK;
}

static lt_status missing(jinja_render *r, int name, jinja_value *out)
{
    jinja_undefined *story;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *story, &story));
    story->name = lt_jinja_string(&r->template_->names[name]);
    *out = (jinja_value){.kind = JINJA_UNDEFINED, .undefined = story};
    return LT_OK;
}

lt_status lt_jinja_lookup(jinja_render *r, int name, jinja_value *out)
{
    for (const jinja_scope *scope = r->scope; scope; scope = scope->outer) {
        LT_TRY(lt_jinja_spend(r, scope->count / 64));
        for (size_t i = 0; i < scope->count; i++) {
            if (scope->bindings[i].name != name) continue;
            *out = scope->bindings[i].value;
            return LT_OK;
        }
    }
    if (r->global_state[name] == UNKNOWN) LT_TRY(load_global(r, name));
    if (r->global_state[name] == MISSING) return missing(r, name, out);
    *out = r->globals[name];
    return LT_OK;
}

lt_status lt_jinja_bind(jinja_render *r, int name, jinja_value value)
{
    jinja_scope *scope = r->scope;
    if (!scope) {
        r->globals[name] = value;
        r->global_state[name] = SET;
        return LT_OK;
    }
    LT_TRY(lt_jinja_spend(r, scope->count / 64));
    for (size_t i = 0; i < scope->count; i++) {
        if (scope->bindings[i].name != name) continue;
        scope->bindings[i].value = value;
        return LT_OK;
    }
    if (scope->count == scope->capacity) {
        size_t capacity = scope->capacity ? scope->capacity * 2 : 4;
        struct jinja_binding *bindings;
        LT_TRY(lt_jinja_alloc(r, capacity, sizeof *bindings, &bindings));
        if (scope->count) memcpy(bindings, scope->bindings, scope->count * sizeof *bindings);
        scope->bindings = bindings;
        scope->capacity = capacity;
    }
    scope->bindings[scope->count++] = (struct jinja_binding){name, value};
    return LT_OK;
}

lt_status lt_jinja_push_scope(jinja_render *r, jinja_scope *outer)
{
    jinja_scope *scope;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *scope, &scope));
    scope->outer = outer;
    r->scope = scope;
    return LT_OK;
}
