/* What the parser's files share: the stream of tokens, names, nodes and messages. */
#include "data_pipeline/jinja/syntax.h"

#include <stdio.h>
#include <string.h>

/* Of expressions in brackets, and of blocks. */
enum { MAX_DEPTH = 150 };

lt_status lt_jinja_syntax_error(jinja_parser *p, lt_status code, int line, const char *format, ...)
{
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return lt_fail(p->err, code, "%s, line %d: %s", p->template_->where, line, message);
}

const jinja_token *lt_jinja_token(const jinja_parser *p)
{
    return &p->tokens[p->at];
}

const jinja_token *lt_jinja_look(const jinja_parser *p)
{
    const jinja_token *token = &p->tokens[p->at];
    return token->kind == TOKEN_END ? token : token + 1;
}

static void describe(const jinja_token *token, char out[64])
{
    static const char *const names[] = {[TOKEN_END] = "the end of the template",
                                        [TOKEN_TEXT] = "text",
                                        [TOKEN_BLOCK_BEGIN] = "{%",
                                        [TOKEN_BLOCK_END] = "%}",
                                        [TOKEN_OUTPUT_BEGIN] = "{{",
                                        [TOKEN_OUTPUT_END] = "}}",
                                        [TOKEN_STRING] = "a string",
                                        [TOKEN_INTEGER] = "an integer",
                                        [TOKEN_FLOAT] = "a number"};
    if (token->kind == TOKEN_NAME || token->kind == TOKEN_OPERATOR)
        snprintf(out, 64, "'%.*s'", token->size > 40 ? 40 : (int)token->size, token->text);
    else
        snprintf(out, 64, "%s", names[token->kind]);
}

lt_status lt_jinja_unexpected(jinja_parser *p, const char *expected)
{
    char got[64];
    describe(lt_jinja_token(p), got);
    return lt_jinja_syntax_error(p, LT_ERR_FORMAT, lt_jinja_token(p)->line, "expected %s, got %s",
                                 expected, got);
}

static bool is(const jinja_token *token, jinja_token_kind kind, const char *text)
{
    return token->kind == kind && token->size == strlen(text) &&
           memcmp(token->text, text, token->size) == 0;
}

bool lt_jinja_at_name(const jinja_parser *p, const char *name)
{
    return is(lt_jinja_token(p), TOKEN_NAME, name);
}

bool lt_jinja_at_operator(const jinja_parser *p, const char *operator_)
{
    return is(lt_jinja_token(p), TOKEN_OPERATOR, operator_);
}

bool lt_jinja_skip_name(jinja_parser *p, const char *name)
{
    bool here = lt_jinja_at_name(p, name);
    p->at += here;
    return here;
}

bool lt_jinja_skip_operator(jinja_parser *p, const char *operator_)
{
    bool here = lt_jinja_at_operator(p, operator_);
    p->at += here;
    return here;
}

lt_status lt_jinja_expect(jinja_parser *p, jinja_token_kind kind, const char *what)
{
    if (lt_jinja_token(p)->kind != kind) return lt_jinja_unexpected(p, what);
    p->at++;
    return LT_OK;
}

lt_status lt_jinja_expect_operator(jinja_parser *p, const char *operator_)
{
    char quoted[8];
    if (lt_jinja_skip_operator(p, operator_)) return LT_OK;
    snprintf(quoted, sizeof quoted, "'%s'", operator_);
    return lt_jinja_unexpected(p, quoted);
}

lt_status lt_jinja_expect_name(jinja_parser *p, int *out)
{
    const jinja_token *token = lt_jinja_token(p);
    LT_TRY(lt_jinja_expect(p, TOKEN_NAME, "a name"));
    return lt_jinja_intern(p, token->text, token->size, out);
}

/* --- Names --- */

static size_t hash_name(const char *text, size_t size)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)text[i]) * 1099511628211u;
    return (size_t)(hash ^ hash >> 32);
}

static uint32_t *name_slot(lt_jinja *t, const char *text, size_t size)
{
    size_t mask = t->name_slot_count - 1, at = hash_name(text, size) & mask;
    for (; t->name_slots[at]; at = (at + 1) & mask) {
        const jinja_string *name = &t->names[t->name_slots[at] - 1];
        if (name->size == size && memcmp(name->bytes, text, size) == 0) break;
    }
    return &t->name_slots[at];
}

static lt_status grow_names(jinja_parser *p)
{
    lt_jinja *t = p->template_;
    size_t capacity = t->name_capacity ? t->name_capacity * 2 : 32;
    jinja_string *names;
    LT_TRY(lt_jinja_region_alloc(&t->region, capacity, sizeof *names, &names, p->err));
    if (t->name_count) memcpy(names, t->names, t->name_count * sizeof *names);
    t->name_slot_count = capacity * 2;
    LT_TRY(lt_jinja_region_alloc(&t->region, t->name_slot_count, sizeof *t->name_slots,
                                 &t->name_slots, p->err));
    t->names = names;
    t->name_capacity = capacity;
    for (size_t i = 0; i < t->name_count; i++)
        *name_slot(t, names[i].bytes, names[i].size) = (uint32_t)i + 1;
    return LT_OK;
}

lt_status lt_jinja_intern(jinja_parser *p, const char *text, size_t size, int *out)
{
    lt_jinja *t = p->template_;
    if (t->name_count == t->name_capacity) LT_TRY(grow_names(p));
    uint32_t *slot = name_slot(t, text, size);
    if (*slot == 0) {
        /* NUL-terminated, for messages and look-ups by C string */
        char *copy;
        LT_TRY(lt_jinja_region_alloc(&t->region, size + 1, 1, &copy, p->err));
        memcpy(copy, text, size);
        t->names[t->name_count] =
            (jinja_string){.bytes = copy, .size = size, .length = lt_jinja_length(text, size)};
        *slot = (uint32_t)++t->name_count;
    }
    *out = (int)(*slot - 1);
    return LT_OK;
}

/* --- Nodes --- */

lt_status lt_jinja_new_node(jinja_parser *p, jinja_node_kind kind, int line, jinja_node **out)
{
    LT_TRY(lt_jinja_region_alloc(&p->template_->region, 1, sizeof **out, out, p->err));
    (*out)->kind = kind;
    (*out)->line = line;
    return LT_OK;
}

lt_status lt_jinja_add_node(jinja_parser *p, jinja_nodes *nodes, jinja_node *node)
{
    if (nodes->count == nodes->capacity) {
        size_t capacity = nodes->capacity ? nodes->capacity * 2 : 4;
        jinja_node **items;
        LT_TRY(
            lt_jinja_region_alloc(&p->template_->region, capacity, sizeof *items, &items, p->err));
        if (nodes->count) memcpy(items, nodes->items, nodes->count * sizeof *items);
        nodes->items = items;
        nodes->capacity = capacity;
    }
    nodes->items[nodes->count++] = node;
    return LT_OK;
}

lt_status lt_jinja_deeper(jinja_parser *p)
{
    if (++p->depth <= MAX_DEPTH) return LT_OK;
    return lt_jinja_syntax_error(p, LT_ERR_LIMIT, lt_jinja_token(p)->line,
                                 "blocks or brackets nested deeper than %d", MAX_DEPTH);
}
