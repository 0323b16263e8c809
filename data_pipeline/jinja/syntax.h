/* A template's source as tokens and as a tree. Both live in the template's region. */
#ifndef LT_DATA_PIPELINE_JINJA_SYNTAX_H
#define LT_DATA_PIPELINE_JINJA_SYNTAX_H

#include "data_pipeline/jinja/values.h"

/* --- lexer.c --- */

typedef enum jinja_token_kind {
    TOKEN_END,
    TOKEN_TEXT,         /* between tags */
    TOKEN_BLOCK_BEGIN,  /* {% */
    TOKEN_BLOCK_END,    /* %} */
    TOKEN_OUTPUT_BEGIN, /* {{ */
    TOKEN_OUTPUT_END,   /* }} */
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR,
} jinja_token_kind;

typedef struct jinja_token {
    jinja_token_kind kind;
    int line;
    const char *text; /* of TEXT, NAME, OPERATOR, and STRING (unescaped) */
    size_t size;
    union {
        int64_t integer;
        double number;
    };
} jinja_token;

typedef struct jinja_tokens {
    jinja_token *items; /* the last is TOKEN_END */
    size_t count, capacity;
} jinja_tokens;

lt_status lt_jinja_tokenize(const char *source, size_t size, const char *where,
                            jinja_region *region, jinja_tokens *out, lt_err *err);

/* --- parser.c, parse_primary.c, parse_expression.c, parse_statement.c --- */

typedef enum jinja_node_kind {
    NODE_CONSTANT,
    NODE_NAME,
    NODE_LIST,
    NODE_TUPLE,
    NODE_DICT,
    NODE_ATTRIBUTE,
    NODE_ITEM,
    NODE_SLICE,
    NODE_CALL,
    NODE_FILTER,
    NODE_TEST,
    NODE_NOT,
    NODE_NEGATE,
    NODE_POSITIVE,
    NODE_AND,
    NODE_OR,
    NODE_ARITHMETIC,
    NODE_COMPARE,
    NODE_CONCAT,
    NODE_CONDITIONAL,
    NODE_NAMESPACE_TARGET, /* ns.name, to be set */

    NODE_OUTPUT,
    NODE_SET,
    NODE_SET_BLOCK,
    NODE_IF,
    NODE_FOR,
    NODE_MACRO,
    NODE_CALL_BLOCK,
    NODE_FILTER_BLOCK,
    NODE_GENERATION,
    NODE_WITH,
    NODE_BREAK,
    NODE_CONTINUE,
} jinja_node_kind;

typedef struct jinja_node jinja_node;

typedef struct jinja_nodes {
    jinja_node **items;
    size_t count, capacity;
} jinja_nodes;

/* As written: f(a, name=b, *c, **d). */
typedef struct jinja_arguments {
    jinja_nodes positional, named;
    int *names; /* of `named` */
    size_t name_capacity;
    jinja_node *rest, *named_rest; /* or NULL */
} jinja_arguments;

struct jinja_node {
    jinja_node_kind kind;
    int line;
    union {
        jinja_value constant;
        int name;          /* NAME */
        jinja_nodes nodes; /* LIST, TUPLE, AND, OR, CONCAT, OUTPUT; DICT: key, value, key, ... */
        struct {
            jinja_nodes nodes;
            uint8_t *operators; /* [count - 1] jinja_operator, from left to right */
        } chain;                /* ARITHMETIC, COMPARE */
        struct {
            jinja_node *object;
            int name;
        } attribute; /* and NAMESPACE_TARGET, whose object is a name */
        struct {
            jinja_node *object, *index;
        } item;
        struct {
            jinja_node *object, *start, *stop, *step; /* the last three or NULL */
        } slice;
        struct {
            jinja_node *callee;
            jinja_arguments arguments;
        } call;
        struct {
            jinja_node *operand;          /* NULL in a filter block: the block's text */
            const jinja_builtin *builtin; /* NULL: there is none, which matters when it is used */
            int name;
            bool negated;
            jinja_arguments arguments;
        } apply;             /* FILTER, TEST */
        jinja_node *operand; /* NOT, NEGATE, POSITIVE */
        struct {
            jinja_node *condition, *then, *otherwise; /* the last or NULL */
        } conditional;
        struct {
            jinja_node *target, *value; /* value: of SET_BLOCK the filter, or NULL */
            jinja_nodes body;           /* of SET_BLOCK */
        } set;
        struct {
            jinja_nodes conditions;
            jinja_nodes *bodies; /* [count of conditions] */
            jinja_nodes otherwise;
        } branch; /* IF */
        struct {
            jinja_node *target, *iterable, *filter; /* the last or NULL */
            jinja_nodes body, otherwise;
            bool recursive;
        } loop; /* FOR */
        struct {
            int name;           /* -1: a call block */
            int *parameters;    /* [parameter_count] */
            jinja_nodes values; /* defaults of the last ones */
            size_t parameter_count;
            jinja_nodes body;
            jinja_node *call; /* CALL_BLOCK */
            bool takes_rest, takes_named_rest, takes_caller;
        } macro; /* MACRO, CALL_BLOCK */
        struct {
            jinja_node *filter;        /* FILTER_BLOCK */
            jinja_nodes names, values; /* WITH */
            jinja_nodes body;
        } block; /* FILTER_BLOCK, GENERATION, WITH */
    };
};

/* The first names of every template. */
enum { NAME_LOOP, NAME_CALLER, NAME_REST, NAME_NAMED_REST };

struct lt_jinja {
    char *where;
    jinja_region region;
    jinja_string *names; /* [name_count] every name that the template uses */
    size_t name_count, name_capacity;
    uint32_t *name_slots; /* [name_slot_count] 1 + index, open addressing */
    size_t name_slot_count;
    jinja_nodes body;
    bool has_generation;
};

/* The whole template; its names and nodes go into *template_. */
lt_status lt_jinja_parse(lt_jinja *template_, const jinja_tokens *tokens, lt_err *err);

/* --- what the parser's files share --- */

typedef struct jinja_parser {
    lt_jinja *template_;
    const jinja_token *tokens;
    size_t at;
    int depth;     /* nesting of what is being parsed */
    int soft;      /* directly inside an if: unknown filters only fail when they are used */
    int loops;     /* for blocks around, through macros too */
    int breakable; /* for blocks around that break may end */
    bool uses_rest, uses_named_rest, uses_caller; /* names seen since a macro began */
    lt_err *err;
} jinja_parser;

lt_status lt_jinja_syntax_error(jinja_parser *p, lt_status code, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
lt_status lt_jinja_unexpected(jinja_parser *p, const char *expected);
const jinja_token *lt_jinja_token(const jinja_parser *p);
const jinja_token *lt_jinja_look(const jinja_parser *p); /* the one after */
bool lt_jinja_at_name(const jinja_parser *p, const char *name);
bool lt_jinja_at_operator(const jinja_parser *p, const char *operator_);
bool lt_jinja_skip_name(jinja_parser *p, const char *name);
bool lt_jinja_skip_operator(jinja_parser *p, const char *operator_);
lt_status lt_jinja_expect(jinja_parser *p, jinja_token_kind kind, const char *what);
lt_status lt_jinja_expect_operator(jinja_parser *p, const char *operator_);
lt_status lt_jinja_expect_name(jinja_parser *p, int *out);
lt_status lt_jinja_intern(jinja_parser *p, const char *text, size_t size, int *out);
lt_status lt_jinja_new_node(jinja_parser *p, jinja_node_kind kind, int line, jinja_node **out);
lt_status lt_jinja_add_node(jinja_parser *p, jinja_nodes *nodes, jinja_node *node);
lt_status lt_jinja_deeper(jinja_parser *p);

/* Filters, calls and look-ups in one row: evaluating them recurses. */
enum { JINJA_MAX_ROW = 150 };
lt_status lt_jinja_row_too_long(jinja_parser *p);

lt_status lt_jinja_parse_primary(jinja_parser *p, jinja_node **out);
/* The look-ups and calls after `node`; then also filters and tests. */
lt_status lt_jinja_parse_postfix(jinja_parser *p, jinja_node *node, jinja_node **out);
lt_status lt_jinja_parse_applied(jinja_parser *p, jinja_node *node, jinja_node **out);
/* One expression, or those of a tuple; in_brackets: there may be none. */
lt_status lt_jinja_parse_elements(jinja_parser *p, bool in_brackets, bool with_conditional,
                                  const char *stop, jinja_node **out);
lt_status lt_jinja_parse_expression(jinja_parser *p, jinja_node **out);
/* `a, b`: a tuple; with_conditional: may be `a if b`. `stop`: a name that ends it, or NULL. */
lt_status lt_jinja_parse_tuple(jinja_parser *p, bool with_conditional, const char *stop,
                               jinja_node **out);
lt_status lt_jinja_parse_target(jinja_parser *p, bool with_namespace, const char *stop,
                                jinja_node **out);
/* After the `|`, or with no `|` before the first. `operand` may be NULL. */
lt_status lt_jinja_parse_filters(jinja_parser *p, jinja_node *operand, bool first_is_bare,
                                 jinja_node **out);

/* --- execute.c --- */

lt_status lt_jinja_execute(jinja_render *r, const jinja_nodes *nodes);
lt_status lt_jinja_assign(jinja_render *r, const jinja_node *target, jinja_value value);

/* --- scope.c --- */

lt_status lt_jinja_lookup(jinja_render *r, int name, jinja_value *out);
lt_status lt_jinja_bind(jinja_render *r, int name, jinja_value value);
/* A new innermost scope around which is `outer`; r->scope is to be put back by the caller. */
lt_status lt_jinja_push_scope(jinja_render *r, jinja_scope *outer);

/* --- macros.c --- */

lt_status lt_jinja_make_macro(jinja_render *r, const jinja_node *node, jinja_value *out);
lt_status lt_jinja_call_macro(jinja_render *r, const jinja_macro *macro, const jinja_call *call,
                              jinja_value *out);
/* Around what nests: LT_ERR_LIMIT when it is too deep. */
lt_status lt_jinja_begin_call(jinja_render *r);

/* --- expressions.c --- */

/* `caller`: one more named argument, or NULL. */
lt_status lt_jinja_evaluate_call(jinja_render *r, const jinja_node *node, const jinja_value *caller,
                                 jinja_value *out);

/* --- loops.c --- */

lt_status lt_jinja_execute_for(jinja_render *r, const jinja_node *node);

#endif
