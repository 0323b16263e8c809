/* Finding and calling what is built in: filters, tests, methods and functions. */
#include <string.h>

#include "data_pipeline/jinja/values.h"

const jinja_builtin *lt_jinja_find_builtin(const jinja_builtins *table, const char *name,
                                           size_t size)
{
    for (size_t i = 0; i < table->count; i++) {
        const char *candidate = table->items[i].name;
        if (strlen(candidate) == size && memcmp(candidate, name, size) == 0)
            return &table->items[i];
    }
    return NULL;
}

const jinja_builtin *lt_jinja_find_filter(const char *name, size_t size)
{
    static const jinja_builtins *const tables[] = {
        &lt_jinja_text_filters, &lt_jinja_sequence_filters, &lt_jinja_other_filters};
    const jinja_builtin *found = NULL;
    for (size_t i = 0; !found && i < sizeof tables / sizeof *tables; i++)
        found = lt_jinja_find_builtin(tables[i], name, size);
    return found;
}

const jinja_builtin *lt_jinja_find_test(const char *name, size_t size)
{
    return lt_jinja_find_builtin(&lt_jinja_tests, name, size);
}

bool lt_jinja_is_supported(const jinja_builtin *builtin)
{
    return builtin->native || builtin->call;
}

/* --- Calls --- */

/* The parameters by name: their number, and with `wanted` where that one is (or -1). Those before
 * a "/" have no name to be given by. */
static int read_parameters(const char *parameters, const jinja_string *wanted, int *found)
{
    int count = 0;
    *found = -1;
    while (*parameters) {
        size_t size = strcspn(parameters, " ");
        if (*parameters == '/') {
            *found = -1;
        } else {
            if (wanted && wanted->size == size && memcmp(wanted->bytes, parameters, size) == 0)
                *found = count;
            count++;
        }
        parameters += size;
        parameters += strspn(parameters, " ");
    }
    return count;
}

static lt_status bind_named(jinja_render *r, const jinja_builtin *builtin, const jinja_entry *named,
                            const jinja_value **args)
{
    const jinja_string *name = named->key.string;
    int at;
    read_parameters(builtin->parameters, name, &at);
    if (at < 0)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "%s() got an unexpected keyword argument '%.*s'",
                             builtin->name, name->size > 60 ? 60 : (int)name->size, name->bytes);
    if (args[at])
        return lt_jinja_fail(r, LT_ERR_FORMAT, "%s() got multiple values for argument '%.*s'",
                             builtin->name, (int)name->size, name->bytes);
    args[at] = &named->value;
    return LT_OK;
}

lt_status lt_jinja_call_builtin(jinja_render *r, const jinja_builtin *builtin, jinja_value self,
                                const jinja_call *call, jinja_value *out)
{
    const jinja_value *args[JINJA_MAX_PARAMETERS] = {0};
    int unused, count;
    if (builtin->call) return builtin->call(r, self, call, out);
    if (!builtin->native)
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "'%s' is not supported", builtin->name);
    count = read_parameters(builtin->parameters, NULL, &unused);
    if (call->count > (size_t)count)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "%s() takes at most %d arguments (%zu given)",
                             builtin->name, count, call->count);
    for (size_t i = 0; i < call->count; i++)
        args[i] = &call->positional[i];
    for (size_t i = 0; i < call->named_count; i++)
        LT_TRY(bind_named(r, builtin, &call->named[i], args));
    for (int i = 0; i < builtin->required; i++) {
        if (!args[i])
            return lt_jinja_fail(r, LT_ERR_FORMAT, "%s() lacks its argument %d", builtin->name,
                                 i + 1);
    }
    return builtin->native(r, self, args, out);
}

lt_status lt_jinja_arg_int(jinja_render *r, const jinja_value *arg, int64_t *out)
{
    if (!arg || lt_jinja_is_integer(*arg, out)) return LT_OK;
    if (arg->kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, *arg);
    return lt_jinja_fail(r, LT_ERR_FORMAT, "'%s' object cannot be interpreted as an integer",
                         lt_jinja_type_name(*arg));
}

lt_status lt_jinja_arg_string(jinja_render *r, const jinja_value *arg, const jinja_string **out)
{
    if (!arg) return LT_OK;
    if (arg->kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, *arg);
    if (arg->kind != JINJA_STRING)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "an argument must be str, not %s",
                             lt_jinja_type_name(*arg));
    *out = arg->string;
    return LT_OK;
}

bool lt_jinja_arg_truth(const jinja_value *arg, bool or_else)
{
    return arg ? lt_jinja_truth(*arg) : or_else;
}
