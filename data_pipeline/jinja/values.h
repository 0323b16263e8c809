/* What a template computes with: Python's values, as far as templates need them, and the state of
 * one rendering. Values can not be changed (the sandbox forbids it), only namespaces can, so that
 * copying one is copying 16 bytes. All memory is the render's region.
 *
 * Errors are Python's or Jinja2's exceptions: LT_ERR_FORMAT with their text. */
#ifndef LT_DATA_PIPELINE_JINJA_VALUES_H
#define LT_DATA_PIPELINE_JINJA_VALUES_H

#include <stdbool.h>
#include <stdint.h>

#include "data_pipeline/jinja.h"
#include "data_pipeline/jinja/region.h"

typedef enum jinja_kind {
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_VIEW, /* dict.items() and the like */
    JINJA_RANGE,
    JINJA_ITERATOR, /* generators and reversed(): once through */
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_FUNCTION, /* a global one */
    JINJA_METHOD,   /* of a value, with that value */
} jinja_kind;

/* Text with the origin of each byte. Slices share the bytes of what they are cut from. */
typedef struct jinja_string {
    const char *bytes;     /* valid UTF-8, not NUL-terminated */
    const uint8_t *origin; /* one per byte; NULL: all are from `uniform` */
    size_t size;           /* bytes */
    size_t length;         /* code points */
    uint8_t uniform;
    bool safe; /* Markup: what is added to it is escaped */
} jinja_string;

typedef struct jinja_value {
    uint8_t kind; /* jinja_kind */
    union {
        bool boolean;
        int64_t integer;
        double number;
        const jinja_string *string;
        const struct jinja_undefined *undefined; /* NULL: without a story */
        const struct jinja_list *list;           /* and tuples */
        struct jinja_dict *dict;                 /* and namespaces */
        const struct jinja_view *view;
        const struct jinja_range *range;
        struct jinja_iterator *iterator;
        struct jinja_loop *loop;
        const struct jinja_macro *macro;
        const struct jinja_builtin *function;
        const struct jinja_method *method;
    };
} jinja_value;

/* Why a value is undefined, for the message when it is used. */
typedef struct jinja_undefined {
    const char *hint; /* the whole story, or NULL */
    bool has_owner;   /* what was looked into, and for what */
    jinja_value owner, name;
} jinja_undefined;

typedef struct jinja_list {
    const jinja_value *items;
    size_t count;
} jinja_list;

typedef struct jinja_entry {
    jinja_value key, value;
} jinja_entry;

/* In order of insertion. */
typedef struct jinja_dict {
    jinja_entry *entries;
    size_t count, capacity;
    uint32_t *slots; /* [slot_count] 1 + index of an entry, open addressing; NULL while small */
    size_t slot_count;
} jinja_dict;

typedef enum jinja_part { JINJA_KEYS, JINJA_VALUES, JINJA_ITEMS } jinja_part;

typedef struct jinja_view {
    jinja_dict *dict;
    jinja_part part;
} jinja_view;

typedef struct jinja_range {
    int64_t start, stop, step;
    size_t count;
} jinja_range;

/* Goes through any iterable; each reading moves it on. */
typedef struct jinja_iterator {
    jinja_value source;
    size_t at;     /* index, of a string the byte */
    bool backward; /* over a list, tuple, range, dict or view */
} jinja_iterator;

/* A name's value in one scope: the body of a loop, macro, ... */
typedef struct jinja_scope {
    struct jinja_scope *outer;
    struct jinja_binding {
        int name;
        jinja_value value;
    } * bindings;
    size_t count, capacity;
} jinja_scope;

typedef struct jinja_macro {
    const struct jinja_node *node; /* of the macro, or of the call block that is its caller */
    jinja_scope *scope;            /* where it was defined */
} jinja_macro;

typedef struct jinja_method {
    jinja_value self;
    const struct jinja_builtin *builtin;
} jinja_method;

/* The arguments of one call, evaluated. */
typedef struct jinja_call {
    jinja_value *positional;
    size_t count;
    jinja_entry *named; /* keys are strings */
    size_t named_count;
} jinja_call;

typedef enum jinja_flow { JINJA_ON, JINJA_BREAK, JINJA_CONTINUE } jinja_flow;

/* One rendering. `text` and `origin` are the output, and above it the pad on which every string is
 * put together: the newest is on top. */
typedef struct jinja_render {
    const lt_jinja *template_;
    const json_t *variables;
    const lt_jinja_mark *marks;
    size_t mark_count;
    lt_jinja_limits limits;
    jinja_region region;
    lt_buffer text, origin;
    size_t string_start; /* of the string that is being made, in `text` */
    int64_t steps;       /* still allowed */
    int64_t calls;       /* macros and the like that are running */
    int64_t nesting;     /* C calls that may recurse */
    int line;            /* of the node that is being evaluated */
    jinja_flow flow;
    jinja_value *globals; /* [names] outermost scope */
    uint8_t *global_state;
    jinja_scope *scope;   /* innermost, NULL: only the globals */
    jinja_value filtered; /* what the filter of a filter or set block is applied to */
    lt_err *err;
} jinja_render;

/* --- render.c: errors and bounds --- */

/* Puts where the template and the line are in front of the message. */
lt_status lt_jinja_fail(jinja_render *r, lt_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
lt_status lt_jinja_spend(jinja_render *r, size_t steps);
lt_status lt_jinja_alloc(jinja_render *r, size_t count, size_t size, void *out);
/* Around everything that may recurse. */
lt_status lt_jinja_enter(jinja_render *r);
void lt_jinja_leave(jinja_render *r);

/* --- text.c: strings --- */

/* A string on the pad: what was there before stays below. */
typedef struct jinja_pad {
    size_t start, outer;
} jinja_pad;

jinja_pad lt_jinja_begin(jinja_render *r);
lt_status lt_jinja_put(jinja_render *r, const jinja_string *string);
lt_status lt_jinja_put_bytes(jinja_render *r, const char *bytes, size_t size, uint8_t origin);
/* Takes the string off the pad. */
lt_status lt_jinja_end(jinja_render *r, jinja_pad pad, jinja_value *out);

lt_status lt_jinja_new_string(jinja_render *r, const char *bytes, size_t size, jinja_value *out);
/* Bytes [from, to) of a string, on character boundaries. */
lt_status lt_jinja_cut(jinja_render *r, const jinja_string *string, size_t from, size_t to,
                       jinja_value *out);
/* Where character `index` (at most length) begins. */
size_t lt_jinja_offset(const jinja_string *string, size_t index);
size_t lt_jinja_length(const char *bytes, size_t size);
uint32_t lt_jinja_character(const jinja_string *string, size_t at, size_t *size);
uint8_t lt_jinja_origin(const jinja_string *string, size_t at);
bool lt_jinja_same(const jinja_string *a, const jinja_string *b);
bool lt_jinja_is(const jinja_string *string, const char *text);
bool lt_jinja_is_space(uint32_t code_point);
/* First byte of `needle` in [from, to) of the string, or SIZE_MAX; `last`: its last place. */
size_t lt_jinja_find(const jinja_string *string, const jinja_string *needle, size_t from, size_t to,
                     bool last);
/* Escapes & < > " ' for HTML. */
lt_status lt_jinja_escape(jinja_render *r, const jinja_string *string, jinja_value *out);

/* --- values.c --- */

static inline jinja_value lt_jinja_none(void)
{
    return (jinja_value){.kind = JINJA_NONE};
}
static inline jinja_value lt_jinja_bool(bool value)
{
    return (jinja_value){.kind = JINJA_BOOL, .boolean = value};
}
static inline jinja_value lt_jinja_int(int64_t value)
{
    return (jinja_value){.kind = JINJA_INT, .integer = value};
}
static inline jinja_value lt_jinja_float(double value)
{
    return (jinja_value){.kind = JINJA_FLOAT, .number = value};
}
static inline jinja_value lt_jinja_string(const jinja_string *value)
{
    return (jinja_value){.kind = JINJA_STRING, .string = value};
}

lt_status lt_jinja_undefined(jinja_render *r, const char *hint, jinja_value *out);
/* `name` is not in `owner`. */
lt_status lt_jinja_missing(jinja_render *r, jinja_value owner, jinja_value name, jinja_value *out);
/* Fails with the value's story. */
lt_status lt_jinja_fail_undefined(jinja_render *r, jinja_value value);
const char *lt_jinja_type_name(jinja_value value); /* Python's */
bool lt_jinja_truth(jinja_value value);
bool lt_jinja_is_integer(jinja_value value, int64_t *out); /* also of a bool */
bool lt_jinja_is_number(jinja_value value, long double *out);
lt_status lt_jinja_equal(jinja_render *r, jinja_value a, jinja_value b, bool *out);
lt_status lt_jinja_less(jinja_render *r, jinja_value a, jinja_value b, const char *operator_,
                        bool *out);
lt_status lt_jinja_size(jinja_render *r, jinja_value value, size_t *out); /* len() */
lt_status lt_jinja_contains(jinja_render *r, jinja_value container, jinja_value item, bool *out);

/* Items are copied. */
lt_status lt_jinja_make_list(jinja_render *r, jinja_kind kind, const jinja_value *items,
                             size_t count, jinja_value *out);
/* A list that grows. */
typedef struct jinja_growing {
    jinja_value *items;
    size_t count, capacity;
} jinja_growing;
lt_status lt_jinja_push(jinja_render *r, jinja_growing *list, jinja_value item);
lt_status lt_jinja_grown(jinja_render *r, const jinja_growing *list, jinja_kind kind,
                         jinja_value *out);

/* --- dict.c --- */

lt_status lt_jinja_dict_new(jinja_render *r, jinja_kind kind, size_t capacity, jinja_value *out);
lt_status lt_jinja_dict_set(jinja_render *r, jinja_dict *dict, jinja_value key, jinja_value value);
/* *out: NULL when there is none. LT_ERR_FORMAT: a key that can not be hashed. */
lt_status lt_jinja_dict_find(jinja_render *r, const jinja_dict *dict, jinja_value key,
                             const jinja_entry **out);
bool lt_jinja_hashable(jinja_value value);

/* --- iterate.c --- */

bool lt_jinja_is_iterable(jinja_value value);
lt_status lt_jinja_iterate(jinja_render *r, jinja_value value, jinja_iterator *out);
lt_status lt_jinja_next(jinja_render *r, jinja_iterator *iterator, bool *found, jinja_value *out);
lt_status lt_jinja_to_list(jinja_render *r, jinja_value value, jinja_value *out);
/* A value that is read once: over the items of `list`. */
lt_status lt_jinja_generator(jinja_render *r, jinja_value list, bool backward, jinja_value *out);
jinja_value lt_jinja_range_item(const jinja_range *range, size_t at); /* at < count */

/* --- print.c --- */

/* str() and repr(), put on the pad. */
lt_status lt_jinja_put_str(jinja_render *r, jinja_value value);
lt_status lt_jinja_put_repr(jinja_render *r, jinja_value value);
lt_status lt_jinja_str(jinja_render *r, jinja_value value, jinja_value *out);
void lt_jinja_print_float(double number, char out[32]);

/* --- json_out.c --- */

typedef struct jinja_json_style {
    bool ascii, sorted, indented;
    const jinja_string *indent; /* when indented */
    const jinja_string *item_separator, *key_separator;
} jinja_json_style;
lt_status lt_jinja_put_json(jinja_render *r, jinja_value value, const jinja_json_style *style);

/* --- json_in.c --- */

/* The variable of that name, with the origin that its mark says. */
lt_status lt_jinja_load_variable(jinja_render *r, const char *name, const json_t *json,
                                 jinja_value *out);

/* --- operators.c --- */

typedef enum jinja_operator {
    JINJA_ADD,
    JINJA_SUBTRACT,
    JINJA_MULTIPLY,
    JINJA_DIVIDE,
    JINJA_FLOOR_DIVIDE,
    JINJA_MODULO,
    JINJA_POWER,
    JINJA_EQUAL,
    JINJA_NOT_EQUAL,
    JINJA_LESS,
    JINJA_LESS_EQUAL,
    JINJA_GREATER,
    JINJA_GREATER_EQUAL,
    JINJA_IN,
    JINJA_NOT_IN,
} jinja_operator;

lt_status lt_jinja_arithmetic(jinja_render *r, jinja_operator operator_, jinja_value a,
                              jinja_value b, jinja_value *out);
lt_status lt_jinja_negate(jinja_render *r, jinja_value value, bool minus, jinja_value *out);
lt_status lt_jinja_compare(jinja_render *r, jinja_operator operator_, jinja_value a, jinja_value b,
                           bool *out);

/* --- access.c --- */

lt_status lt_jinja_attribute(jinja_render *r, jinja_value object, const jinja_string *name,
                             jinja_value *out);
lt_status lt_jinja_item(jinja_render *r, jinja_value object, jinja_value index, jinja_value *out);
/* Any of the three may be NULL: not given. */
lt_status lt_jinja_slice(jinja_render *r, jinja_value object, const jinja_value *start,
                         const jinja_value *stop, const jinja_value *step, jinja_value *out);
/* Looks along "a.b.0", as filters' attribute arguments do; an undefined step is `or_else`. */
lt_status lt_jinja_path(jinja_render *r, jinja_value object, jinja_value path,
                        const jinja_value *or_else, jinja_value *out);

/* --- builtins.c: filters, tests, methods and functions are tables of these --- */

enum { JINJA_MAX_PARAMETERS = 6 };

/* args[i]: parameter i, or NULL when it is not given. */
typedef lt_status jinja_native(jinja_render *r, jinja_value self, const jinja_value *const *args,
                               jinja_value *out);
typedef lt_status jinja_native_call(jinja_render *r, jinja_value self, const jinja_call *call,
                                    jinja_value *out);

typedef struct jinja_builtin {
    const char *name;
    const char *parameters; /* "width first blank"; those before "/" can not be named */
    int required;
    jinja_native *native;    /* or, for any arguments: */
    jinja_native_call *call; /* both NULL: known, but not supported */
} jinja_builtin;

typedef struct jinja_builtins {
    const jinja_builtin *items;
    size_t count;
} jinja_builtins;

extern const jinja_builtins lt_jinja_text_filters, lt_jinja_sequence_filters,
    lt_jinja_other_filters, lt_jinja_tests, lt_jinja_functions, lt_jinja_string_methods,
    lt_jinja_string_tests, lt_jinja_list_methods, lt_jinja_tuple_methods, lt_jinja_dict_methods;

const jinja_builtin *lt_jinja_find_filter(const char *name, size_t size);
const jinja_builtin *lt_jinja_find_test(const char *name, size_t size);
const jinja_builtin *lt_jinja_find_builtin(const jinja_builtins *table, const char *name,
                                           size_t size);
bool lt_jinja_is_supported(const jinja_builtin *builtin);
lt_status lt_jinja_call_builtin(jinja_render *r, const jinja_builtin *builtin, jinja_value self,
                                const jinja_call *call, jinja_value *out);
/* Typed arguments: the default where it is not given, an error where it is of another type. */
lt_status lt_jinja_arg_int(jinja_render *r, const jinja_value *arg, int64_t *out);
lt_status lt_jinja_arg_string(jinja_render *r, const jinja_value *arg, const jinja_string **out);
bool lt_jinja_arg_truth(const jinja_value *arg, bool or_else);

/* --- expressions.c --- */

lt_status lt_jinja_evaluate(jinja_render *r, const struct jinja_node *node, jinja_value *out);
lt_status lt_jinja_call_value(jinja_render *r, jinja_value callee, const jinja_call *call,
                              jinja_value *out);

/* --- loops.c: the variable `loop` --- */

lt_status lt_jinja_loop_attribute(jinja_render *r, struct jinja_loop *loop,
                                  const jinja_string *name, bool *found, jinja_value *out);
lt_status lt_jinja_loop_size(jinja_render *r, struct jinja_loop *loop, size_t *out);
lt_status lt_jinja_put_loop(jinja_render *r, struct jinja_loop *loop);
lt_status lt_jinja_call_loop(jinja_render *r, struct jinja_loop *loop, const jinja_call *call,
                             jinja_value *out);

#endif
