/* Statements. */
#include <string.h>

#include "data_pipeline/jinja/syntax.h"

/* --- Assignment --- */

static lt_status assign_member(jinja_render *r, const jinja_node *target, jinja_value value)
{
    const jinja_string *name = &r->template_->names[target->attribute.name];
    jinja_value object;
    LT_TRY(lt_jinja_lookup(r, target->attribute.object->name, &object));
    if (object.kind != JINJA_NAMESPACE)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "cannot assign attribute on non-namespace object");
    if (name->size && name->bytes[0] == '_')
        return lt_jinja_fail(r, LT_ERR_FORMAT,
                             "Chat templates cannot store underscore-prefixed attributes on a "
                             "namespace, but got '%s'",
                             name->bytes);
    return lt_jinja_dict_set(r, object.dict, lt_jinja_string(name), value);
}

static lt_status assign_tuple(jinja_render *r, const jinja_nodes *targets, jinja_value value)
{
    jinja_value list;
    if (value.kind == JINJA_UNDEFINED || !lt_jinja_is_iterable(value))
        LT_TRY(value.kind == JINJA_UNDEFINED
                   ? LT_OK
                   : lt_jinja_fail(r, LT_ERR_FORMAT, "cannot unpack non-iterable %s object",
                                   lt_jinja_type_name(value)));
    LT_TRY(lt_jinja_to_list(r, value, &list));
    size_t count = list.list->count;
    if (count > targets->count)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "too many values to unpack (expected %zu)",
                             targets->count);
    if (count < targets->count)
        return lt_jinja_fail(r, LT_ERR_FORMAT,
                             "not enough values to unpack (expected %zu, got %zu)", targets->count,
                             count);
    for (size_t i = 0; i < count; i++)
        LT_TRY(lt_jinja_assign(r, targets->items[i], list.list->items[i]));
    return LT_OK;
}

lt_status lt_jinja_assign(jinja_render *r, const jinja_node *target, jinja_value value)
{
    if (target->kind == NODE_NAME) return lt_jinja_bind(r, target->name, value);
    if (target->kind == NODE_TUPLE) return assign_tuple(r, &target->nodes, value);
    return assign_member(r, target, value);
}

static lt_status execute_set(jinja_render *r, const jinja_node *node)
{
    jinja_value value;
    LT_TRY(lt_jinja_evaluate(r, node->set.value, &value));
    return lt_jinja_assign(r, node->set.target, value);
}

/* --- Blocks whose text is taken --- */

/* The text of a body with names of its own. */
static lt_status capture(jinja_render *r, const jinja_nodes *body, const jinja_node *filter,
                         jinja_value *out)
{
    jinja_scope *scope = r->scope;
    LT_TRY(lt_jinja_push_scope(r, scope));
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_execute(r, body));
    LT_TRY(lt_jinja_end(r, pad, out));
    if (filter && r->flow == JINJA_ON) {
        r->filtered = *out;
        LT_TRY(lt_jinja_evaluate(r, filter, out));
    }
    r->scope = scope;
    return LT_OK;
}

/* Left by break or continue, the text is dropped. */
static lt_status execute_set_block(jinja_render *r, const jinja_node *node)
{
    jinja_value text;
    LT_TRY(capture(r, &node->set.body, node->set.value, &text));
    return r->flow == JINJA_ON ? lt_jinja_assign(r, node->set.target, text) : LT_OK;
}

static lt_status execute_filter_block(jinja_render *r, const jinja_node *node)
{
    jinja_value text;
    LT_TRY(capture(r, &node->block.body, node->block.filter, &text));
    return r->flow == JINJA_ON ? lt_jinja_put_str(r, text) : LT_OK;
}

static lt_status execute_call_block(jinja_render *r, const jinja_node *node)
{
    jinja_value caller, text;
    LT_TRY(lt_jinja_make_macro(r, node, &caller));
    LT_TRY(lt_jinja_evaluate_call(r, node->macro.call, &caller, &text));
    return lt_jinja_put_str(r, text);
}

/* Every byte that comes out of it is flagged. */
static lt_status execute_generation(jinja_render *r, const jinja_node *node)
{
    jinja_scope *scope = r->scope;
    size_t start = r->origin.size;
    LT_TRY(lt_jinja_push_scope(r, scope));
    LT_TRY(lt_jinja_execute(r, &node->block.body));
    r->scope = scope;
    for (size_t i = start; i < r->origin.size; i++)
        r->origin.data[i] |= LT_JINJA_GENERATION;
    return LT_OK;
}

/* --- The others --- */

static lt_status execute_output(jinja_render *r, const jinja_node *node)
{
    for (size_t i = 0; i < node->nodes.count; i++) {
        jinja_value value;
        LT_TRY(lt_jinja_evaluate(r, node->nodes.items[i], &value));
        LT_TRY(lt_jinja_put_str(r, value));
    }
    return LT_OK;
}

static lt_status execute_if(jinja_render *r, const jinja_node *node)
{
    const jinja_nodes *conditions = &node->branch.conditions;
    for (size_t i = 0; i < conditions->count; i++) {
        jinja_value condition;
        LT_TRY(lt_jinja_evaluate(r, conditions->items[i], &condition));
        if (lt_jinja_truth(condition)) return lt_jinja_execute(r, &node->branch.bodies[i]);
    }
    return lt_jinja_execute(r, &node->branch.otherwise);
}

static lt_status execute_with(jinja_render *r, const jinja_node *node)
{
    jinja_scope *outer = r->scope, *inner;
    LT_TRY(lt_jinja_push_scope(r, outer));
    inner = r->scope;
    for (size_t i = 0; i < node->block.names.count; i++) {
        jinja_value value;
        r->scope = outer;
        LT_TRY(lt_jinja_evaluate(r, node->block.values.items[i], &value));
        r->scope = inner;
        LT_TRY(lt_jinja_assign(r, node->block.names.items[i], value));
    }
    LT_TRY(lt_jinja_execute(r, &node->block.body));
    r->scope = outer;
    return LT_OK;
}

static lt_status define_macro(jinja_render *r, const jinja_node *node)
{
    jinja_value macro;
    LT_TRY(lt_jinja_make_macro(r, node, &macro));
    return lt_jinja_bind(r, node->macro.name, macro);
}

static lt_status execute_any(jinja_render *r, const jinja_node *node)
{
    switch (node->kind) {
    case NODE_OUTPUT:
        return execute_output(r, node);
    case NODE_SET:
        return execute_set(r, node);
    case NODE_SET_BLOCK:
        return execute_set_block(r, node);
    case NODE_IF:
        return execute_if(r, node);
    case NODE_FOR:
        return lt_jinja_execute_for(r, node);
    case NODE_MACRO:
        return define_macro(r, node);
    case NODE_CALL_BLOCK:
        return execute_call_block(r, node);
    case NODE_FILTER_BLOCK:
        return execute_filter_block(r, node);
    case NODE_GENERATION:
        return execute_generation(r, node);
    case NODE_WITH:
        return execute_with(r, node);
    default:
        r->flow = node->kind == NODE_BREAK ? JINJA_BREAK : JINJA_CONTINUE;
        return LT_OK;
    }
}

lt_status lt_jinja_execute(jinja_render *r, const jinja_nodes *nodes)
{
    LT_TRY(lt_jinja_enter(r));
    for (size_t i = 0; i < nodes->count && r->flow == JINJA_ON; i++) {
        r->line = nodes->items[i]->line;
        LT_TRY(lt_jinja_spend(r, 1));
        LT_TRY(execute_any(r, nodes->items[i]));
    }
    lt_jinja_leave(r);
    return LT_OK;
}
