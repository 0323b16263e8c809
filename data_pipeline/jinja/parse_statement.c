/* Statements: what stands in {% %}, and the text and output between. */
#include "data_pipeline/jinja/syntax.h"

#include <string.h>

static lt_status parse_body(jinja_parser *p, const char *const *ends, jinja_nodes *out);

static int line_of(const jinja_parser *p)
{
    return lt_jinja_token(p)->line;
}

static lt_status block_end(jinja_parser *p)
{
    return lt_jinja_expect(p, TOKEN_BLOCK_END, "%}");
}

/* The body after a tag whose %} is next, up to one of `ends`, which is left as the next token. */
static lt_status parse_block(jinja_parser *p, const char *const *ends, jinja_nodes *out)
{
    lt_jinja_skip_operator(p, ":");
    LT_TRY(block_end(p));
    LT_TRY(lt_jinja_deeper(p));
    LT_TRY(parse_body(p, ends, out));
    p->depth--;
    return LT_OK;
}

/* The same with only one end, which is skipped. */
static lt_status parse_whole_block(jinja_parser *p, const char *end, jinja_nodes *out)
{
    const char *ends[] = {end, NULL};
    LT_TRY(parse_block(p, ends, out));
    p->at++;
    return LT_OK;
}

/* A body that is Python's function: break does not reach out of it, and names are checked anew. */
static lt_status parse_function_body(jinja_parser *p, const char *end, jinja_nodes *out)
{
    int soft = p->soft, breakable = p->breakable;
    p->soft = p->breakable = 0;
    LT_TRY(parse_whole_block(p, end, out));
    p->soft = soft;
    p->breakable = breakable;
    return LT_OK;
}

/* A body with names of its own. */
static lt_status parse_scoped_body(jinja_parser *p, const char *end, jinja_nodes *out)
{
    int soft = p->soft;
    p->soft = 0;
    LT_TRY(parse_whole_block(p, end, out));
    p->soft = soft;
    return LT_OK;
}

static lt_status parse_set(jinja_parser *p, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_SET, line_of(p), out));
    p->at++;
    LT_TRY(lt_jinja_parse_target(p, true, NULL, &(*out)->set.target));
    if (lt_jinja_skip_operator(p, "="))
        return lt_jinja_parse_tuple(p, true, NULL, &(*out)->set.value);
    (*out)->kind = NODE_SET_BLOCK;
    LT_TRY(lt_jinja_parse_filters(p, NULL, false, &(*out)->set.value));
    return parse_scoped_body(p, "endset", &(*out)->set.body);
}

static lt_status parse_for(jinja_parser *p, jinja_node **out)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    LT_TRY(lt_jinja_new_node(p, NODE_FOR, line_of(p), out));
    jinja_node *node = *out;
    int soft = p->soft;
    p->at++;
    p->loops++;
    LT_TRY(lt_jinja_parse_target(p, false, "in", &node->loop.target));
    if (!lt_jinja_skip_name(p, "in")) return lt_jinja_unexpected(p, "'in'");
    LT_TRY(lt_jinja_parse_tuple(p, false, "recursive", &node->loop.iterable));
    if (lt_jinja_skip_name(p, "if")) LT_TRY(lt_jinja_parse_expression(p, &node->loop.filter));
    node->loop.recursive = lt_jinja_skip_name(p, "recursive");
    p->soft = 0;
    p->breakable++;
    LT_TRY(parse_block(p, ends, &node->loop.body));
    p->breakable--;
    if (lt_jinja_skip_name(p, "else"))
        LT_TRY(parse_whole_block(p, "endfor", &node->loop.otherwise));
    else
        p->at++;
    p->loops--;
    p->soft = soft;
    return LT_OK;
}

static lt_status add_branch(jinja_parser *p, jinja_node *node, jinja_node *condition,
                            jinja_nodes body)
{
    size_t count = node->branch.conditions.count, capacity = node->branch.conditions.capacity;
    LT_TRY(lt_jinja_add_node(p, &node->branch.conditions, condition));
    if (node->branch.conditions.capacity != capacity) {
        jinja_nodes *bodies;
        LT_TRY(lt_jinja_region_alloc(&p->template_->region, node->branch.conditions.capacity,
                                     sizeof *bodies, &bodies, p->err));
        if (count) memcpy(bodies, node->branch.bodies, count * sizeof *bodies);
        node->branch.bodies = bodies;
    }
    node->branch.bodies[count] = body;
    return LT_OK;
}

static lt_status parse_if(jinja_parser *p, jinja_node **out)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    LT_TRY(lt_jinja_new_node(p, NODE_IF, line_of(p), out));
    p->soft++;
    do {
        jinja_node *condition;
        jinja_nodes body = {0};
        p->at++;
        LT_TRY(lt_jinja_parse_tuple(p, false, NULL, &condition));
        LT_TRY(parse_block(p, ends, &body));
        LT_TRY(add_branch(p, *out, condition, body));
    } while (lt_jinja_at_name(p, "elif"));
    if (lt_jinja_skip_name(p, "else"))
        LT_TRY(parse_whole_block(p, "endif", &(*out)->branch.otherwise));
    else
        p->at++;
    p->soft--;
    return LT_OK;
}

static lt_status parse_with(jinja_parser *p, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_WITH, line_of(p), out));
    jinja_node *node = *out, *target, *value;
    p->at++;
    while (lt_jinja_token(p)->kind != TOKEN_BLOCK_END) {
        if (node->block.names.count) LT_TRY(lt_jinja_expect_operator(p, ","));
        LT_TRY(lt_jinja_parse_target(p, false, NULL, &target));
        LT_TRY(lt_jinja_expect_operator(p, "="));
        LT_TRY(lt_jinja_parse_expression(p, &value));
        LT_TRY(lt_jinja_add_node(p, &node->block.names, target));
        LT_TRY(lt_jinja_add_node(p, &node->block.values, value));
    }
    return parse_scoped_body(p, "endwith", &node->block.body);
}

static lt_status parse_filter_block(jinja_parser *p, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_FILTER_BLOCK, line_of(p), out));
    p->at++;
    LT_TRY(lt_jinja_parse_filters(p, NULL, true, &(*out)->block.filter));
    return parse_scoped_body(p, "endfilter", &(*out)->block.body);
}

static lt_status parse_generation(jinja_parser *p, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_GENERATION, line_of(p), out));
    p->at++;
    p->template_->has_generation = true;
    return parse_function_body(p, "endgeneration", &(*out)->block.body);
}

/* --- Macros --- */

static lt_status add_parameter(jinja_parser *p, jinja_node *node, size_t *capacity)
{
    size_t count = node->macro.parameter_count;
    int line = line_of(p), name;
    LT_TRY(lt_jinja_expect_name(p, &name));
    for (size_t i = 0; i < count; i++) {
        if (node->macro.parameters[i] == name)
            return lt_jinja_syntax_error(p, LT_ERR_FORMAT, line,
                                         "the parameter '%s' is there twice",
                                         p->template_->names[name].bytes);
    }
    if (count == *capacity) {
        int *names;
        *capacity = count ? count * 2 : 4;
        LT_TRY(
            lt_jinja_region_alloc(&p->template_->region, *capacity, sizeof *names, &names, p->err));
        if (count) memcpy(names, node->macro.parameters, count * sizeof *names);
        node->macro.parameters = names;
    }
    node->macro.parameters[node->macro.parameter_count++] = name;
    return LT_OK;
}

static lt_status parse_signature(jinja_parser *p, jinja_node *node)
{
    size_t capacity = 0;
    LT_TRY(lt_jinja_expect_operator(p, "("));
    while (!lt_jinja_at_operator(p, ")")) {
        jinja_node *value;
        if (node->macro.parameter_count) LT_TRY(lt_jinja_expect_operator(p, ","));
        int line = line_of(p);
        LT_TRY(add_parameter(p, node, &capacity));
        if (lt_jinja_skip_operator(p, "=")) {
            LT_TRY(lt_jinja_parse_expression(p, &value));
            LT_TRY(lt_jinja_add_node(p, &node->macro.values, value));
        } else if (node->macro.values.count) {
            return lt_jinja_syntax_error(p, LT_ERR_FORMAT, line,
                                         "non-default argument follows default argument");
        }
    }
    return lt_jinja_expect_operator(p, ")");
}

static bool has_parameter(const jinja_node *node, int name)
{
    for (size_t i = 0; i < node->macro.parameter_count; i++) {
        if (node->macro.parameters[i] == name) return true;
    }
    return false;
}

/* The body, and which special names it uses. */
static lt_status parse_macro_body(jinja_parser *p, jinja_node *node, const char *end)
{
    bool rest = p->uses_rest, named_rest = p->uses_named_rest, caller = p->uses_caller;
    p->uses_rest = p->uses_named_rest = p->uses_caller = false;
    LT_TRY(parse_function_body(p, end, &node->macro.body));
    node->macro.takes_rest = p->uses_rest && !has_parameter(node, NAME_REST);
    node->macro.takes_named_rest = p->uses_named_rest && !has_parameter(node, NAME_NAMED_REST);
    node->macro.takes_caller = p->uses_caller && !has_parameter(node, NAME_CALLER);
    p->uses_rest |= rest;
    p->uses_named_rest |= named_rest;
    p->uses_caller |= caller;
    return LT_OK;
}

static lt_status parse_macro(jinja_parser *p, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_MACRO, line_of(p), out));
    p->at++;
    LT_TRY(lt_jinja_expect_name(p, &(*out)->macro.name));
    LT_TRY(parse_signature(p, *out));
    return parse_macro_body(p, *out, "endmacro");
}

static lt_status parse_call_block(jinja_parser *p, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_CALL_BLOCK, line_of(p), out));
    jinja_node *node = *out;
    p->at++;
    node->macro.name = -1;
    if (lt_jinja_at_operator(p, "(")) LT_TRY(parse_signature(p, node));
    LT_TRY(lt_jinja_parse_expression(p, &node->macro.call));
    if (node->macro.call->kind != NODE_CALL)
        return lt_jinja_syntax_error(p, LT_ERR_FORMAT, node->line, "expected a call");
    return parse_macro_body(p, node, "endcall");
}

/* --- All statements --- */

static lt_status parse_jump(jinja_parser *p, jinja_node **out)
{
    bool is_break = lt_jinja_at_name(p, "break");
    LT_TRY(lt_jinja_new_node(p, is_break ? NODE_BREAK : NODE_CONTINUE, line_of(p), out));
    p->at++;
    if (p->breakable) return LT_OK;
    return lt_jinja_syntax_error(p, LT_ERR_FORMAT, (*out)->line, "'%s' outside of a for loop",
                                 is_break ? "break" : "continue");
}

static lt_status parse_print(jinja_parser *p, jinja_node **out)
{
    LT_TRY(lt_jinja_new_node(p, NODE_OUTPUT, line_of(p), out));
    p->at++;
    while (lt_jinja_token(p)->kind != TOKEN_BLOCK_END) {
        jinja_node *value;
        if ((*out)->nodes.count) LT_TRY(lt_jinja_expect_operator(p, ","));
        LT_TRY(lt_jinja_parse_expression(p, &value));
        LT_TRY(lt_jinja_add_node(p, &(*out)->nodes, value));
    }
    return LT_OK;
}

static lt_status unsupported(jinja_parser *p, jinja_node **out)
{
    const jinja_token *token = lt_jinja_token(p);
    *out = NULL;
    return lt_jinja_syntax_error(p, LT_ERR_UNSUPPORTED, token->line,
                                 "{%% %.*s %%} is not supported", (int)token->size, token->text);
}

static lt_status parse_statement(jinja_parser *p, jinja_node **out)
{
    static const struct {
        const char *tag;
        lt_status (*parse)(jinja_parser *p, jinja_node **out);
    } statements[] = {
        {"set", parse_set},          {"if", parse_if},
        {"for", parse_for},          {"macro", parse_macro},
        {"call", parse_call_block},  {"filter", parse_filter_block},
        {"with", parse_with},        {"generation", parse_generation},
        {"break", parse_jump},       {"continue", parse_jump},
        {"print", parse_print},      {"block", unsupported},
        {"extends", unsupported},    {"include", unsupported},
        {"import", unsupported},     {"from", unsupported},
        {"autoescape", unsupported},
    };
    const jinja_token *token = lt_jinja_token(p);
    if (token->kind != TOKEN_NAME) return lt_jinja_unexpected(p, "a tag's name");
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (lt_jinja_at_name(p, statements[i].tag)) return statements[i].parse(p, out);
    }
    return lt_jinja_syntax_error(p, LT_ERR_FORMAT, token->line, "unknown tag '%.*s'",
                                 token->size > 40 ? 40 : (int)token->size, token->text);
}

static lt_status add_text(jinja_parser *p, const jinja_token *token, jinja_nodes *out)
{
    jinja_node *node, *constant;
    jinja_string *string;
    LT_TRY(lt_jinja_new_node(p, NODE_OUTPUT, token->line, &node));
    LT_TRY(lt_jinja_new_node(p, NODE_CONSTANT, token->line, &constant));
    LT_TRY(lt_jinja_region_alloc(&p->template_->region, 1, sizeof *string, &string, p->err));
    *string = (jinja_string){.bytes = token->text,
                             .size = token->size,
                             .length = lt_jinja_length(token->text, token->size)};
    constant->constant = lt_jinja_string(string);
    LT_TRY(lt_jinja_add_node(p, &node->nodes, constant));
    return lt_jinja_add_node(p, out, node);
}

static lt_status add_output(jinja_parser *p, jinja_nodes *out)
{
    jinja_node *node, *value;
    LT_TRY(lt_jinja_new_node(p, NODE_OUTPUT, line_of(p), &node));
    LT_TRY(lt_jinja_parse_tuple(p, true, NULL, &value));
    LT_TRY(lt_jinja_expect(p, TOKEN_OUTPUT_END, "}}"));
    LT_TRY(lt_jinja_add_node(p, &node->nodes, value));
    return lt_jinja_add_node(p, out, node);
}

static bool at_end(const jinja_parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++) {
        if (lt_jinja_at_name(p, *ends)) return true;
    }
    return false;
}

/* `ends` NULL: to the end of the template. */
static lt_status parse_body(jinja_parser *p, const char *const *ends, jinja_nodes *out)
{
    int opened = line_of(p);
    while (lt_jinja_token(p)->kind != TOKEN_END) {
        const jinja_token *token = lt_jinja_token(p);
        jinja_node *statement;
        p->at++;
        if (token->kind == TOKEN_TEXT) {
            LT_TRY(add_text(p, token, out));
        } else if (token->kind == TOKEN_OUTPUT_BEGIN) {
            LT_TRY(add_output(p, out));
        } else {
            if (at_end(p, ends)) return LT_OK;
            LT_TRY(parse_statement(p, &statement));
            LT_TRY(block_end(p));
            LT_TRY(lt_jinja_add_node(p, out, statement));
        }
    }
    if (!ends) return LT_OK;
    while (ends[1])
        ends++;
    return lt_jinja_syntax_error(p, LT_ERR_FORMAT, line_of(p),
                                 "the template ends, but the block of line %d has no {%% %s %%}",
                                 opened, *ends);
}

lt_status lt_jinja_parse(lt_jinja *template_, const jinja_tokens *tokens, lt_err *err)
{
    static const char *const known[] = {[NAME_LOOP] = "loop",
                                        [NAME_CALLER] = "caller",
                                        [NAME_REST] = "varargs",
                                        [NAME_NAMED_REST] = "kwargs"};
    jinja_parser p = {.template_ = template_, .tokens = tokens->items, .err = err};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int name;
        LT_TRY(lt_jinja_intern(&p, known[i], strlen(known[i]), &name));
    }
    return parse_body(&p, NULL, &template_->body);
}
