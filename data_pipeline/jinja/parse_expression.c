/* Expressions, by recursive descent with the precedences of Jinja2:
 * if-else, or, and, not, comparisons, + -, ~, * / // %, **, sign, then filters and tests. */
#include "data_pipeline/jinja/syntax.h"

#include <string.h>

typedef lt_status parse_function(jinja_parser *p, jinja_node **out);

static lt_status parse_or(jinja_parser *p, jinja_node **out);
static lt_status parse_unary(jinja_parser *p, bool with_filters, jinja_node **out);

static int line_of(const jinja_parser *p)
{
    return lt_jinja_token(p)->line;
}

/* --- Operators --- */

static lt_status parse_signed(jinja_parser *p, jinja_node **out)
{
    bool minus = lt_jinja_at_operator(p, "-");
    if (!minus && !lt_jinja_at_operator(p, "+")) return lt_jinja_parse_primary(p, out);
    LT_TRY(lt_jinja_new_node(p, minus ? NODE_NEGATE : NODE_POSITIVE, line_of(p), out));
    p->at++;
    return parse_unary(p, false, &(*out)->operand);
}

static lt_status parse_unary(jinja_parser *p, bool with_filters, jinja_node **out)
{
    jinja_node *node;
    LT_TRY(lt_jinja_deeper(p));
    LT_TRY(parse_signed(p, &node));
    LT_TRY(lt_jinja_parse_postfix(p, node, &node));
    if (with_filters) LT_TRY(lt_jinja_parse_applied(p, node, &node));
    p->depth--;
    *out = node;
    return LT_OK;
}

static lt_status parse_filtered(jinja_parser *p, jinja_node **out)
{
    return parse_unary(p, true, out);
}

typedef struct spelling {
    const char *text;
    jinja_operator operator_;
} spelling;

static bool skip_any(jinja_parser *p, const spelling *spellings, jinja_operator *out)
{
    for (; spellings->text; spellings++) {
        if (!lt_jinja_skip_operator(p, spellings->text)) continue;
        *out = spellings->operator_;
        return true;
    }
    return false;
}

static bool skip_comparison(jinja_parser *p, const spelling *spellings, jinja_operator *out)
{
    const jinja_token *next = lt_jinja_look(p);
    if (skip_any(p, spellings, out)) return true;
    *out = JINJA_IN;
    if (lt_jinja_skip_name(p, "in")) return true;
    *out = JINJA_NOT_IN;
    bool not_in = lt_jinja_at_name(p, "not") && next->kind == TOKEN_NAME && next->size == 2 &&
                  memcmp(next->text, "in", 2) == 0;
    p->at += not_in ? 2 : 0;
    return not_in;
}

/* item, operator, item, ...: one node, so that a long row is not deep. */
static lt_status parse_chain(jinja_parser *p, jinja_node_kind kind, parse_function *parse_item,
                             bool (*skip)(jinja_parser *, const spelling *, jinja_operator *),
                             const spelling *spellings, jinja_node **out)
{
    jinja_node *item, *chain = NULL;
    jinja_operator operator_;
    size_t capacity = 0;
    int line = line_of(p);
    LT_TRY(parse_item(p, &item));
    while (skip(p, spellings, &operator_)) {
        if (!chain) {
            LT_TRY(lt_jinja_new_node(p, kind, line, &chain));
            LT_TRY(lt_jinja_add_node(p, &chain->chain.nodes, item));
        }
        size_t count = chain->chain.nodes.count - 1;
        if (count == capacity) {
            uint8_t *operators;
            capacity = capacity ? capacity * 2 : 8;
            LT_TRY(lt_jinja_region_alloc(&p->template_->region, capacity, 1, &operators, p->err));
            if (count) memcpy(operators, chain->chain.operators, count);
            chain->chain.operators = operators;
        }
        chain->chain.operators[count] = (uint8_t)operator_;
        LT_TRY(parse_item(p, &item));
        LT_TRY(lt_jinja_add_node(p, &chain->chain.nodes, item));
    }
    *out = chain ? chain : item;
    return LT_OK;
}

static lt_status parse_power(jinja_parser *p, jinja_node **out)
{
    static const spelling powers[] = {{"**", JINJA_POWER}, {0}};
    return parse_chain(p, NODE_ARITHMETIC, parse_filtered, skip_any, powers, out);
}

static lt_status parse_product(jinja_parser *p, jinja_node **out)
{
    static const spelling products[] = {{"*", JINJA_MULTIPLY},
                                        {"/", JINJA_DIVIDE},
                                        {"//", JINJA_FLOOR_DIVIDE},
                                        {"%", JINJA_MODULO},
                                        {0}};
    return parse_chain(p, NODE_ARITHMETIC, parse_power, skip_any, products, out);
}

/* item, separator, item, ... without operators to tell apart */
static lt_status parse_row(jinja_parser *p, jinja_node_kind kind, parse_function *parse_item,
                           bool (*skip)(jinja_parser *, const char *), const char *separator,
                           jinja_node **out)
{
    jinja_node *item, *row = NULL;
    int line = line_of(p);
    LT_TRY(parse_item(p, &item));
    while (skip(p, separator)) {
        if (!row) {
            LT_TRY(lt_jinja_new_node(p, kind, line, &row));
            LT_TRY(lt_jinja_add_node(p, &row->nodes, item));
        }
        LT_TRY(parse_item(p, &item));
        LT_TRY(lt_jinja_add_node(p, &row->nodes, item));
    }
    *out = row ? row : item;
    return LT_OK;
}

static lt_status parse_concat(jinja_parser *p, jinja_node **out)
{
    return parse_row(p, NODE_CONCAT, parse_product, lt_jinja_skip_operator, "~", out);
}

static lt_status parse_sum(jinja_parser *p, jinja_node **out)
{
    static const spelling sums[] = {{"+", JINJA_ADD}, {"-", JINJA_SUBTRACT}, {0}};
    return parse_chain(p, NODE_ARITHMETIC, parse_concat, skip_any, sums, out);
}

static lt_status parse_compare(jinja_parser *p, jinja_node **out)
{
    static const spelling comparisons[] = {{"==", JINJA_EQUAL},
                                           {"!=", JINJA_NOT_EQUAL},
                                           {"<", JINJA_LESS},
                                           {"<=", JINJA_LESS_EQUAL},
                                           {">", JINJA_GREATER},
                                           {">=", JINJA_GREATER_EQUAL},
                                           {0}};
    return parse_chain(p, NODE_COMPARE, parse_sum, skip_comparison, comparisons, out);
}

static lt_status parse_not(jinja_parser *p, jinja_node **out)
{
    int line = line_of(p);
    if (!lt_jinja_skip_name(p, "not")) return parse_compare(p, out);
    LT_TRY(lt_jinja_deeper(p));
    LT_TRY(lt_jinja_new_node(p, NODE_NOT, line, out));
    LT_TRY(parse_not(p, &(*out)->operand));
    p->depth--;
    return LT_OK;
}

static lt_status parse_and(jinja_parser *p, jinja_node **out)
{
    return parse_row(p, NODE_AND, parse_not, lt_jinja_skip_name, "and", out);
}

static lt_status parse_or(jinja_parser *p, jinja_node **out)
{
    return parse_row(p, NODE_OR, parse_and, lt_jinja_skip_name, "or", out);
}

/* a if b else c */
lt_status lt_jinja_parse_expression(jinja_parser *p, jinja_node **out)
{
    jinja_node *node, *conditional;
    LT_TRY(lt_jinja_deeper(p));
    LT_TRY(parse_or(p, &node));
    for (int row = 0; lt_jinja_at_name(p, "if"); row++) {
        if (row > JINJA_MAX_ROW) return lt_jinja_row_too_long(p);
        LT_TRY(lt_jinja_new_node(p, NODE_CONDITIONAL, line_of(p), &conditional));
        p->at++;
        conditional->conditional.then = node;
        LT_TRY(parse_or(p, &conditional->conditional.condition));
        if (lt_jinja_skip_name(p, "else"))
            LT_TRY(lt_jinja_parse_expression(p, &conditional->conditional.otherwise));
        node = conditional;
    }
    p->depth--;
    *out = node;
    return LT_OK;
}

/* --- Tuples and what can be assigned to --- */

static bool at_tuple_end(const jinja_parser *p, const char *stop)
{
    jinja_token_kind kind = lt_jinja_token(p)->kind;
    return kind == TOKEN_BLOCK_END || kind == TOKEN_OUTPUT_END || lt_jinja_at_operator(p, ")") ||
           (stop && lt_jinja_at_name(p, stop));
}

lt_status lt_jinja_parse_elements(jinja_parser *p, bool in_brackets, bool with_conditional,
                                  const char *stop, jinja_node **out)
{
    jinja_node *tuple, *item = NULL;
    bool is_tuple = false;
    LT_TRY(lt_jinja_new_node(p, NODE_TUPLE, line_of(p), &tuple));
    while (true) {
        if (tuple->nodes.count) LT_TRY(lt_jinja_expect_operator(p, ","));
        if (at_tuple_end(p, stop)) break;
        LT_TRY(with_conditional ? lt_jinja_parse_expression(p, &item) : parse_or(p, &item));
        LT_TRY(lt_jinja_add_node(p, &tuple->nodes, item));
        if (!lt_jinja_at_operator(p, ",")) break;
        is_tuple = true;
    }
    if (!is_tuple && tuple->nodes.count == 0 && !in_brackets)
        return lt_jinja_unexpected(p, "an expression");
    *out = !is_tuple && tuple->nodes.count ? item : tuple;
    return LT_OK;
}

lt_status lt_jinja_parse_tuple(jinja_parser *p, bool with_conditional, const char *stop,
                               jinja_node **out)
{
    return lt_jinja_parse_elements(p, false, with_conditional, stop, out);
}

static lt_status check_target(jinja_parser *p, const jinja_node *node)
{
    if (node->kind == NODE_TUPLE) {
        for (size_t i = 0; i < node->nodes.count; i++)
            LT_TRY(check_target(p, node->nodes.items[i]));
        return LT_OK;
    }
    if (node->kind != NODE_NAME && node->kind != NODE_NAMESPACE_TARGET)
        return lt_jinja_syntax_error(p, LT_ERR_FORMAT, node->line, "can't assign to this");
    if (node->kind == NODE_NAME && p->loops && node->name == NAME_LOOP)
        return lt_jinja_syntax_error(p, LT_ERR_FORMAT, node->line,
                                     "can't assign to 'loop' inside a for loop");
    return LT_OK;
}

static lt_status parse_simple_target(jinja_parser *p, bool with_namespace, jinja_node **out)
{
    jinja_node *name;
    LT_TRY(lt_jinja_parse_primary(p, &name));
    if (!with_namespace || name->kind != NODE_NAME || !lt_jinja_at_operator(p, ".")) {
        *out = name;
        return LT_OK;
    }
    LT_TRY(lt_jinja_new_node(p, NODE_NAMESPACE_TARGET, name->line, out));
    p->at++;
    (*out)->attribute.object = name;
    return lt_jinja_expect_name(p, &(*out)->attribute.name);
}

lt_status lt_jinja_parse_target(jinja_parser *p, bool with_namespace, const char *stop,
                                jinja_node **out)
{
    jinja_node *tuple, *item = NULL;
    bool is_tuple = false;
    LT_TRY(lt_jinja_new_node(p, NODE_TUPLE, line_of(p), &tuple));
    while (true) {
        if (tuple->nodes.count) LT_TRY(lt_jinja_expect_operator(p, ","));
        if (at_tuple_end(p, stop)) break;
        LT_TRY(parse_simple_target(p, with_namespace, &item));
        LT_TRY(lt_jinja_add_node(p, &tuple->nodes, item));
        if (!lt_jinja_at_operator(p, ",")) break;
        is_tuple = true;
    }
    if (!is_tuple && tuple->nodes.count == 0) return lt_jinja_unexpected(p, "a name");
    *out = is_tuple ? tuple : item;
    return check_target(p, *out);
}
