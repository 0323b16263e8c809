/* What operators stand between: literals, names, calls and look-ups, and the filters and tests that
 * follow them. */
#include "data_pipeline/jinja/syntax.h"

#include <string.h>

static int line_of(const jinja_parser *p)
{
    return lt_jinja_token(p)->line;
}

lt_status lt_jinja_row_too_long(jinja_parser *p)
{
    return lt_jinja_syntax_error(p, LT_ERR_LIMIT, line_of(p),
                                 "more than %d filters, calls or look-ups in a row", JINJA_MAX_ROW);
}

/* --- Primaries --- */

static lt_status new_constant(jinja_parser *p, jinja_value value, int line, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_CONSTANT, line, out));
    (*out)->constant = value;
    return LT_OK;
}

static lt_status new_string(jinja_parser *p, const char *bytes, size_t size, int line,
                            jinja_node **out)
{
    jinja_string *string;
    LT_TRY(lt_jinja_region_alloc(&p->template_->region, 1, sizeof *string, &string, p->err));
    *string = (jinja_string){.bytes = bytes, .size = size, .length = lt_jinja_length(bytes, size)};
    return new_constant(p, lt_jinja_string(string), line, out);
}

/* "a" "b": one string. */
static lt_status parse_strings(jinja_parser *p, jinja_node **out)
{
    const jinja_token *first = lt_jinja_token(p);
    size_t size = 0, count = 0;
    for (; first[count].kind == TOKEN_STRING; count++)
        size += first[count].size;
    p->at += count;
    if (count == 1) return new_string(p, first->text, size, first->line, out);
    char *joined;
    LT_TRY(lt_jinja_region_alloc(&p->template_->region, size + 1, 1, &joined, p->err));
    size = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(joined + size, first[i].text, first[i].size);
        size += first[i].size;
    }
    return new_string(p, joined, size, first->line, out);
}

/* Macros take arguments that they were not declared with when their bodies name these. */
static void note_special(jinja_parser *p, int name)
{
    p->uses_rest |= name == NAME_REST;
    p->uses_named_rest |= name == NAME_NAMED_REST;
    p->uses_caller |= name == NAME_CALLER;
}

static lt_status parse_name(jinja_parser *p, jinja_node **out)
{
    static const struct {
        const char *name;
        jinja_value value;
    } words[] = {{"true", {.kind = JINJA_BOOL, .boolean = true}},
                 {"True", {.kind = JINJA_BOOL, .boolean = true}},
                 {"false", {.kind = JINJA_BOOL}},
                 {"False", {.kind = JINJA_BOOL}},
                 {"none", {.kind = JINJA_NONE}},
                 {"None", {.kind = JINJA_NONE}}};
    int line = line_of(p);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (lt_jinja_skip_name(p, words[i].name)) return new_constant(p, words[i].value, line, out);
    }
    int name;
    LT_TRY(lt_jinja_expect_name(p, &name));
    note_special(p, name);
    LT_TRY(lt_jinja_new_node(p, NODE_NAME, line, out));
    (*out)->name = name;
    return LT_OK;
}

static lt_status parse_list(jinja_parser *p, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_LIST, line_of(p), out));
    LT_TRY(lt_jinja_expect_operator(p, "["));
    while (!lt_jinja_at_operator(p, "]")) {
        jinja_node *item;
        if ((*out)->nodes.count) LT_TRY(lt_jinja_expect_operator(p, ","));
        if (lt_jinja_at_operator(p, "]")) break;
        LT_TRY(lt_jinja_parse_expression(p, &item));
        LT_TRY(lt_jinja_add_node(p, &(*out)->nodes, item));
    }
    return lt_jinja_expect_operator(p, "]");
}

static lt_status parse_dict(jinja_parser *p, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_DICT, line_of(p), out));
    LT_TRY(lt_jinja_expect_operator(p, "{"));
    while (!lt_jinja_at_operator(p, "}")) {
        jinja_node *key, *value;
        if ((*out)->nodes.count) LT_TRY(lt_jinja_expect_operator(p, ","));
        if (lt_jinja_at_operator(p, "}")) break;
        LT_TRY(lt_jinja_parse_expression(p, &key));
        LT_TRY(lt_jinja_expect_operator(p, ":"));
        LT_TRY(lt_jinja_parse_expression(p, &value));
        LT_TRY(lt_jinja_add_node(p, &(*out)->nodes, key));
        LT_TRY(lt_jinja_add_node(p, &(*out)->nodes, value));
    }
    return lt_jinja_expect_operator(p, "}");
}

lt_status lt_jinja_parse_primary(jinja_parser *p, jinja_node **out)
{
    const jinja_token *token = lt_jinja_token(p);
    switch (token->kind) {
    case TOKEN_NAME:
        return parse_name(p, out);
    case TOKEN_STRING:
        return parse_strings(p, out);
    case TOKEN_INTEGER:
        p->at++;
        return new_constant(p, lt_jinja_int(token->integer), token->line, out);
    case TOKEN_FLOAT:
        p->at++;
        return new_constant(p, lt_jinja_float(token->number), token->line, out);
    default:
        break;
    }
    if (lt_jinja_skip_operator(p, "(")) {
        LT_TRY(lt_jinja_parse_elements(p, true, true, NULL, out));
        return lt_jinja_expect_operator(p, ")");
    }
    if (lt_jinja_at_operator(p, "[")) return parse_list(p, out);
    if (lt_jinja_at_operator(p, "{")) return parse_dict(p, out);
    return lt_jinja_unexpected(p, "an expression");
}

/* --- Calls and look-ups --- */

static lt_status add_named(jinja_parser *p, jinja_arguments *arguments, int name, jinja_node *value)
{
    size_t count = arguments->named.count;
    for (size_t i = 0; i < count; i++) {
        if (arguments->names[i] == name)
            return lt_jinja_syntax_error(p, LT_ERR_FORMAT, value->line,
                                         "the argument '%s' is given twice",
                                         p->template_->names[name].bytes);
    }
    if (count == arguments->name_capacity) {
        size_t capacity = count ? count * 2 : 4;
        int *names;
        LT_TRY(
            lt_jinja_region_alloc(&p->template_->region, capacity, sizeof *names, &names, p->err));
        if (count) memcpy(names, arguments->names, count * sizeof *names);
        arguments->names = names;
        arguments->name_capacity = capacity;
    }
    arguments->names[count] = name;
    return lt_jinja_add_node(p, &arguments->named, value);
}

static bool at_named_argument(const jinja_parser *p)
{
    const jinja_token *next = lt_jinja_look(p);
    return lt_jinja_token(p)->kind == TOKEN_NAME && next->kind == TOKEN_OPERATOR &&
           next->size == 1 && *next->text == '=';
}

static lt_status parse_argument(jinja_parser *p, jinja_arguments *arguments)
{
    jinja_node *value;
    int name, line = line_of(p);
    bool valid;
    if (lt_jinja_skip_operator(p, "*")) {
        valid = !arguments->rest && !arguments->named_rest;
        if (valid) LT_TRY(lt_jinja_parse_expression(p, &arguments->rest));
    } else if (lt_jinja_skip_operator(p, "**")) {
        valid = !arguments->named_rest;
        if (valid) LT_TRY(lt_jinja_parse_expression(p, &arguments->named_rest));
    } else if (at_named_argument(p)) {
        LT_TRY(lt_jinja_expect_name(p, &name));
        p->at++;
        valid = !arguments->named_rest;
        LT_TRY(lt_jinja_parse_expression(p, &value));
        LT_TRY(add_named(p, arguments, name, value));
    } else {
        valid = !arguments->rest && !arguments->named_rest && !arguments->named.count;
        LT_TRY(lt_jinja_parse_expression(p, &value));
        LT_TRY(lt_jinja_add_node(p, &arguments->positional, value));
    }
    if (valid) return LT_OK;
    return lt_jinja_syntax_error(p, LT_ERR_FORMAT, line, "the arguments are in a wrong order");
}

static lt_status parse_arguments(jinja_parser *p, jinja_arguments *arguments)
{
    bool first = true;
    LT_TRY(lt_jinja_expect_operator(p, "("));
    while (!lt_jinja_at_operator(p, ")")) {
        if (!first) {
            LT_TRY(lt_jinja_expect_operator(p, ","));
            if (lt_jinja_at_operator(p, ")")) break;
        }
        LT_TRY(parse_argument(p, arguments));
        first = false;
    }
    return lt_jinja_expect_operator(p, ")");
}

static lt_status parse_call(jinja_parser *p, jinja_node *callee, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_CALL, line_of(p), out));
    (*out)->call.callee = callee;
    return parse_arguments(p, &(*out)->call.arguments);
}

static bool at_bound_end(const jinja_parser *p)
{
    return lt_jinja_at_operator(p, ":") || lt_jinja_at_operator(p, "]") ||
           lt_jinja_at_operator(p, ",");
}

/* One subscript, with the bounds of a slice in *slice (a SLICE node, whose object is set later) or
 * an expression in *index. */
static lt_status parse_subscript(jinja_parser *p, jinja_node **index, jinja_node **slice)
{
    jinja_node *start = NULL, *stop = NULL, *step = NULL;
    int line = line_of(p);
    *index = *slice = NULL;
    if (!lt_jinja_at_operator(p, ":")) LT_TRY(lt_jinja_parse_expression(p, &start));
    if (!lt_jinja_skip_operator(p, ":")) {
        *index = start;
        return LT_OK;
    }
    if (!at_bound_end(p)) LT_TRY(lt_jinja_parse_expression(p, &stop));
    if (lt_jinja_skip_operator(p, ":") && !at_bound_end(p))
        LT_TRY(lt_jinja_parse_expression(p, &step));
    LT_TRY(lt_jinja_new_node(p, NODE_SLICE, line, slice));
    (*slice)->slice.start = start;
    (*slice)->slice.stop = stop;
    (*slice)->slice.step = step;
    return LT_OK;
}

/* [a], [a:b:c], or [a, b], which looks for a tuple. */
static lt_status parse_brackets(jinja_parser *p, jinja_node *object, jinja_node **out)
{
    jinja_node *index = NULL, *slice = NULL, *tuple = NULL;
    int line = line_of(p);
    p->at++;
    if (lt_jinja_at_operator(p, "]")) return lt_jinja_unexpected(p, "an index");
    LT_TRY(parse_subscript(p, &index, &slice));
    if (lt_jinja_at_operator(p, ",")) {
        LT_TRY(lt_jinja_new_node(p, NODE_TUPLE, line, &tuple));
        while (true) {
            if (slice)
                return lt_jinja_syntax_error(p, LT_ERR_UNSUPPORTED, line,
                                             "a slice among several subscripts is not supported");
            LT_TRY(lt_jinja_add_node(p, &tuple->nodes, index));
            if (lt_jinja_at_operator(p, "]")) break;
            LT_TRY(lt_jinja_expect_operator(p, ","));
            if (lt_jinja_at_operator(p, "]")) break;
            LT_TRY(parse_subscript(p, &index, &slice));
        }
        index = tuple;
    }
    LT_TRY(lt_jinja_expect_operator(p, "]"));
    if (slice) {
        slice->slice.object = object;
        *out = slice;
        return LT_OK;
    }
    LT_TRY(lt_jinja_new_node(p, NODE_ITEM, line, out));
    (*out)->item.object = object;
    (*out)->item.index = index;
    return LT_OK;
}

/* .name or .0 */
static lt_status parse_dot(jinja_parser *p, jinja_node *object, jinja_node **out)
{
    int line = line_of(p);
    p->at++;
    const jinja_token *token = lt_jinja_token(p);
    if (token->kind == TOKEN_NAME) {
        LT_TRY(lt_jinja_new_node(p, NODE_ATTRIBUTE, line, out));
        (*out)->attribute.object = object;
        return lt_jinja_expect_name(p, &(*out)->attribute.name);
    }
    if (token->kind != TOKEN_INTEGER) return lt_jinja_unexpected(p, "a name or a number");
    p->at++;
    LT_TRY(lt_jinja_new_node(p, NODE_ITEM, line, out));
    (*out)->item.object = object;
    return new_constant(p, lt_jinja_int(token->integer), line, &(*out)->item.index);
}

lt_status lt_jinja_parse_postfix(jinja_parser *p, jinja_node *node, jinja_node **out)
{
    for (int row = 0;; row++) {
        if (row > JINJA_MAX_ROW) return lt_jinja_row_too_long(p);
        if (lt_jinja_at_operator(p, "."))
            LT_TRY(parse_dot(p, node, &node));
        else if (lt_jinja_at_operator(p, "["))
            LT_TRY(parse_brackets(p, node, &node));
        else if (lt_jinja_at_operator(p, "("))
            LT_TRY(parse_call(p, node, &node));
        else
            break;
    }
    *out = node;
    return LT_OK;
}

/* --- Filters and tests --- */

/* `a.b`: also a name. */
static lt_status parse_dotted_name(jinja_parser *p, int *out)
{
    LT_TRY(lt_jinja_expect_name(p, out));
    if (!lt_jinja_at_operator(p, ".")) return LT_OK;
    return lt_jinja_syntax_error(p, LT_ERR_FORMAT, line_of(p), "No filter or test named '%s.'",
                                 p->template_->names[*out].bytes);
}

/* A name that Jinja2 does not have is an error now, or inside an if when it is used; one that is
 * not supported is one now. */
static lt_status resolve(jinja_parser *p, jinja_node *node, const char *what)
{
    const jinja_string *name = &p->template_->names[node->apply.name];
    node->apply.builtin = node->kind == NODE_FILTER ? lt_jinja_find_filter(name->bytes, name->size)
                                                    : lt_jinja_find_test(name->bytes, name->size);
    if (!node->apply.builtin) {
        if (p->soft) return LT_OK;
        return lt_jinja_syntax_error(p, LT_ERR_FORMAT, node->line, "No %s named '%s'", what,
                                     name->bytes);
    }
    if (lt_jinja_is_supported(node->apply.builtin)) return LT_OK;
    return lt_jinja_syntax_error(p, LT_ERR_UNSUPPORTED, node->line, "the %s '%s' is not supported",
                                 what, name->bytes);
}

lt_status lt_jinja_parse_filters(jinja_parser *p, jinja_node *operand, bool first_is_bare,
                                 jinja_node **out)
{
    for (int row = 0; first_is_bare || lt_jinja_at_operator(p, "|"); row++) {
        jinja_node *node;
        if (row > JINJA_MAX_ROW) return lt_jinja_row_too_long(p);
        if (!first_is_bare) p->at++;
        first_is_bare = false;
        LT_TRY(lt_jinja_new_node(p, NODE_FILTER, line_of(p), &node));
        LT_TRY(parse_dotted_name(p, &node->apply.name));
        node->apply.operand = operand;
        if (lt_jinja_at_operator(p, "(")) LT_TRY(parse_arguments(p, &node->apply.arguments));
        LT_TRY(resolve(p, node, "filter"));
        operand = node;
    }
    *out = operand;
    return LT_OK;
}

/* `x is divisibleby 3`: an argument without brackets. */
static bool at_bare_argument(const jinja_parser *p)
{
    switch (lt_jinja_token(p)->kind) {
    case TOKEN_NAME:
        return !lt_jinja_at_name(p, "else") && !lt_jinja_at_name(p, "or") &&
               !lt_jinja_at_name(p, "and");
    case TOKEN_STRING:
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return true;
    default:
        return lt_jinja_at_operator(p, "[") || lt_jinja_at_operator(p, "{");
    }
}

static lt_status parse_test(jinja_parser *p, jinja_node *operand, jinja_node **out)
{
    jinja_node *node, *argument;
    LT_TRY(lt_jinja_new_node(p, NODE_TEST, line_of(p), &node));
    p->at++;
    node->apply.operand = operand;
    node->apply.negated = lt_jinja_skip_name(p, "not");
    LT_TRY(parse_dotted_name(p, &node->apply.name));
    if (lt_jinja_at_operator(p, "(")) {
        LT_TRY(parse_arguments(p, &node->apply.arguments));
    } else if (at_bare_argument(p)) {
        if (lt_jinja_at_name(p, "is"))
            return lt_jinja_syntax_error(p, LT_ERR_FORMAT, line_of(p),
                                         "You cannot chain multiple tests with is");
        LT_TRY(lt_jinja_parse_primary(p, &argument));
        LT_TRY(lt_jinja_parse_postfix(p, argument, &argument));
        LT_TRY(lt_jinja_add_node(p, &node->apply.arguments.positional, argument));
    }
    *out = node;
    return resolve(p, node, "test");
}

lt_status lt_jinja_parse_applied(jinja_parser *p, jinja_node *node, jinja_node **out)
{
    for (int row = 0;; row++) {
        if (row > JINJA_MAX_ROW) return lt_jinja_row_too_long(p);
        if (lt_jinja_at_operator(p, "|"))
            LT_TRY(lt_jinja_parse_filters(p, node, false, &node));
        else if (lt_jinja_at_name(p, "is"))
            LT_TRY(parse_test(p, node, &node));
        else if (lt_jinja_at_operator(p, "("))
            LT_TRY(parse_call(p, node, &node));
        else
            break;
    }
    *out = node;
    return LT_OK;
}
