/* Expressions. */
#include <string.h>

#include "data_pipeline/jinja/syntax.h"

/* --- Calls --- */

lt_status lt_jinja_call_value(jinja_render *r, jinja_value callee, const jinja_call *call,
                              jinja_value *out)
{
    switch ((jinja_kind)callee.kind) {
    case JINJA_UNDEFINED:
        return lt_jinja_fail_undefined(r, callee);
    case JINJA_FUNCTION:
        return lt_jinja_call_builtin(r, callee.function, lt_jinja_none(), call, out);
    case JINJA_METHOD:
        return lt_jinja_call_builtin(r, callee.method->builtin, callee.method->self, call, out);
    case JINJA_MACRO:
        return lt_jinja_call_macro(r, callee.macro, call, out);
    case JINJA_LOOP:
        return lt_jinja_call_loop(r, callee.loop, call, out);
    default:
        return lt_jinja_fail(r, LT_ERR_FORMAT, "'%s' object is not callable",
                             lt_jinja_type_name(callee));
    }
}

static lt_status add_positional(jinja_render *r, const jinja_arguments *arguments, jinja_call *call)
{
    jinja_value rest = {0};
    size_t count = arguments->positional.count, more = 0;
    if (arguments->rest) {
        LT_TRY(lt_jinja_evaluate(r, arguments->rest, &rest));
        LT_TRY(lt_jinja_to_list(r, rest, &rest));
        more = rest.list->count;
    }
    if (count + more == 0) return LT_OK;
    LT_TRY(lt_jinja_alloc(r, count + more, sizeof *call->positional, &call->positional));
    for (size_t i = 0; i < count; i++)
        LT_TRY(lt_jinja_evaluate(r, arguments->positional.items[i], &call->positional[i]));
    if (more) memcpy(call->positional + count, rest.list->items, more * sizeof *call->positional);
    call->count = count + more;
    return LT_OK;
}

static lt_status add_named(jinja_render *r, jinja_call *call, jinja_value key, jinja_value value)
{
    if (key.kind != JINJA_STRING)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "keywords must be strings");
    LT_TRY(lt_jinja_spend(r, 1 + call->named_count / 4));
    for (size_t i = 0; i < call->named_count; i++) {
        if (lt_jinja_same(call->named[i].key.string, key.string))
            return lt_jinja_fail(
                r, LT_ERR_FORMAT, "got multiple values for keyword argument '%.*s'",
                key.string->size > 60 ? 60 : (int)key.string->size, key.string->bytes);
    }
    call->named[call->named_count++] = (jinja_entry){key, value};
    return LT_OK;
}

static lt_status add_all_named(jinja_render *r, const jinja_arguments *arguments,
                               const jinja_value *caller, jinja_call *call)
{
    static const jinja_string caller_name = {.bytes = "caller", .size = 6, .length = 6};
    jinja_value rest = {0}, value;
    size_t more = 0;
    if (arguments->named_rest) {
        LT_TRY(lt_jinja_evaluate(r, arguments->named_rest, &rest));
        if (rest.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, rest);
        if (rest.kind != JINJA_DICT)
            return lt_jinja_fail(r, LT_ERR_FORMAT, "argument after ** must be a mapping, not %s",
                                 lt_jinja_type_name(rest));
        more = rest.dict->count;
    }
    size_t most = arguments->named.count + more + (caller != NULL);
    if (most == 0) return LT_OK;
    LT_TRY(lt_jinja_alloc(r, most, sizeof *call->named, &call->named));
    for (size_t i = 0; i < arguments->named.count; i++) {
        LT_TRY(lt_jinja_evaluate(r, arguments->named.items[i], &value));
        const jinja_string *name = &r->template_->names[arguments->names[i]];
        LT_TRY(add_named(r, call, lt_jinja_string(name), value));
    }
    for (size_t i = 0; i < more; i++)
        LT_TRY(add_named(r, call, rest.dict->entries[i].key, rest.dict->entries[i].value));
    return caller ? add_named(r, call, lt_jinja_string(&caller_name), *caller) : LT_OK;
}

lt_status lt_jinja_evaluate_call(jinja_render *r, const jinja_node *node, const jinja_value *caller,
                                 jinja_value *out)
{
    jinja_value callee;
    jinja_call call = {0};
    LT_TRY(lt_jinja_evaluate(r, node->call.callee, &callee));
    LT_TRY(add_positional(r, &node->call.arguments, &call));
    LT_TRY(add_all_named(r, &node->call.arguments, caller, &call));
    r->line = node->line;
    return lt_jinja_call_value(r, callee, &call, out);
}

static lt_status evaluate_applied(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    jinja_value operand = r->filtered;
    jinja_call call = {0};
    if (node->apply.operand) LT_TRY(lt_jinja_evaluate(r, node->apply.operand, &operand));
    if (!node->apply.builtin)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "No %s named '%s' found.",
                             node->kind == NODE_FILTER ? "filter" : "test",
                             r->template_->names[node->apply.name].bytes);
    LT_TRY(add_positional(r, &node->apply.arguments, &call));
    LT_TRY(add_all_named(r, &node->apply.arguments, NULL, &call));
    r->line = node->line;
    LT_TRY(lt_jinja_call_builtin(r, node->apply.builtin, operand, &call, out));
    if (node->kind == NODE_TEST) *out = lt_jinja_bool(lt_jinja_truth(*out) != node->apply.negated);
    return LT_OK;
}

/* --- Operators --- */

static lt_status evaluate_arithmetic(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    const jinja_nodes *nodes = &node->chain.nodes;
    LT_TRY(lt_jinja_evaluate(r, nodes->items[0], out));
    for (size_t i = 1; i < nodes->count; i++) {
        jinja_value right;
        LT_TRY(lt_jinja_evaluate(r, nodes->items[i], &right));
        LT_TRY(
            lt_jinja_arithmetic(r, (jinja_operator)node->chain.operators[i - 1], *out, right, out));
    }
    return LT_OK;
}

static lt_status evaluate_compare(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    const jinja_nodes *nodes = &node->chain.nodes;
    jinja_value left, right;
    bool yes = true;
    LT_TRY(lt_jinja_evaluate(r, nodes->items[0], &left));
    for (size_t i = 1; yes && i < nodes->count; i++) {
        LT_TRY(lt_jinja_evaluate(r, nodes->items[i], &right));
        LT_TRY(
            lt_jinja_compare(r, (jinja_operator)node->chain.operators[i - 1], left, right, &yes));
        left = right;
    }
    *out = lt_jinja_bool(yes);
    return LT_OK;
}

/* The first value that decides. */
static lt_status evaluate_logic(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    bool stop = node->kind == NODE_OR;
    for (size_t i = 0; i < node->nodes.count; i++) {
        LT_TRY(lt_jinja_evaluate(r, node->nodes.items[i], out));
        if (lt_jinja_truth(*out) == stop) break;
    }
    return LT_OK;
}

static lt_status evaluate_concat(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    jinja_pad pad = lt_jinja_begin(r);
    for (size_t i = 0; i < node->nodes.count; i++) {
        jinja_value value;
        LT_TRY(lt_jinja_evaluate(r, node->nodes.items[i], &value));
        LT_TRY(lt_jinja_put_str(r, value));
    }
    return lt_jinja_end(r, pad, out);
}

static lt_status evaluate_conditional(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    jinja_value condition;
    LT_TRY(lt_jinja_evaluate(r, node->conditional.condition, &condition));
    if (lt_jinja_truth(condition)) return lt_jinja_evaluate(r, node->conditional.then, out);
    if (node->conditional.otherwise) return lt_jinja_evaluate(r, node->conditional.otherwise, out);
    return lt_jinja_undefined(
        r, "the inline if-expression evaluated to false and no else section was defined.", out);
}

/* --- Containers and look-ups --- */

static lt_status evaluate_list(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    jinja_value *items;
    jinja_list *list;
    size_t count = node->nodes.count;
    LT_TRY(lt_jinja_alloc(r, count, sizeof *items, &items));
    for (size_t i = 0; i < count; i++)
        LT_TRY(lt_jinja_evaluate(r, node->nodes.items[i], &items[i]));
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *list, &list));
    *list = (jinja_list){items, count};
    *out = (jinja_value){.kind = node->kind == NODE_LIST ? JINJA_LIST : JINJA_TUPLE, .list = list};
    return LT_OK;
}

static lt_status evaluate_dict(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    jinja_value dict;
    LT_TRY(lt_jinja_dict_new(r, JINJA_DICT, node->nodes.count / 2, &dict));
    for (size_t i = 0; i < node->nodes.count; i += 2) {
        jinja_value key, value;
        LT_TRY(lt_jinja_evaluate(r, node->nodes.items[i], &key));
        LT_TRY(lt_jinja_evaluate(r, node->nodes.items[i + 1], &value));
        LT_TRY(lt_jinja_dict_set(r, dict.dict, key, value));
    }
    *out = dict;
    return LT_OK;
}

static lt_status evaluate_attribute(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    jinja_value object;
    LT_TRY(lt_jinja_evaluate(r, node->attribute.object, &object));
    r->line = node->line;
    return lt_jinja_attribute(r, object, &r->template_->names[node->attribute.name], out);
}

static lt_status evaluate_item(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    jinja_value object, index;
    LT_TRY(lt_jinja_evaluate(r, node->item.object, &object));
    LT_TRY(lt_jinja_evaluate(r, node->item.index, &index));
    r->line = node->line;
    return lt_jinja_item(r, object, index, out);
}

static lt_status evaluate_slice(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    const jinja_node *parts[] = {node->slice.start, node->slice.stop, node->slice.step};
    jinja_value object, values[3], *given[3] = {0};
    LT_TRY(lt_jinja_evaluate(r, node->slice.object, &object));
    for (int i = 0; i < 3; i++) {
        if (!parts[i]) continue;
        LT_TRY(lt_jinja_evaluate(r, parts[i], &values[i]));
        given[i] = &values[i];
    }
    return lt_jinja_slice(r, object, given[0], given[1], given[2], out);
}

static lt_status evaluate_unary(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    jinja_value operand;
    LT_TRY(lt_jinja_evaluate(r, node->operand, &operand));
    if (node->kind != NODE_NOT) return lt_jinja_negate(r, operand, node->kind == NODE_NEGATE, out);
    *out = lt_jinja_bool(!lt_jinja_truth(operand));
    return LT_OK;
}

static lt_status evaluate_any(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    switch (node->kind) {
    case NODE_NAME:
        return lt_jinja_lookup(r, node->name, out);
    case NODE_LIST:
    case NODE_TUPLE:
        return evaluate_list(r, node, out);
    case NODE_DICT:
        return evaluate_dict(r, node, out);
    case NODE_ATTRIBUTE:
        return evaluate_attribute(r, node, out);
    case NODE_ITEM:
        return evaluate_item(r, node, out);
    case NODE_SLICE:
        return evaluate_slice(r, node, out);
    case NODE_CALL:
        return lt_jinja_evaluate_call(r, node, NULL, out);
    case NODE_FILTER:
    case NODE_TEST:
        return evaluate_applied(r, node, out);
    case NODE_AND:
    case NODE_OR:
        return evaluate_logic(r, node, out);
    case NODE_ARITHMETIC:
        return evaluate_arithmetic(r, node, out);
    case NODE_COMPARE:
        return evaluate_compare(r, node, out);
    case NODE_CONCAT:
        return evaluate_concat(r, node, out);
    case NODE_CONDITIONAL:
        return evaluate_conditional(r, node, out);
    default:
        return evaluate_unary(r, node, out);
    }
}

lt_status lt_jinja_evaluate(jinja_render *r, const jinja_node *node, jinja_value *out)
{
    r->line = node->line;
    LT_TRY(lt_jinja_spend(r, 1));
    if (node->kind == NODE_CONSTANT) {
        *out = node->constant;
        return LT_OK;
    }
    LT_TRY(lt_jinja_enter(r));
    lt_status status = evaluate_any(r, node, out);
    lt_jinja_leave(r);
    return status;
}
