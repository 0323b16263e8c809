/* `is` tests. */
#include "data_pipeline/jinja/string_methods.h"

#define TEST(name, condition)                                                                \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_value *const *args, \
                          jinja_value *out)                                                  \
    {                                                                                        \
        (void)r;                                                                             \
        (void)args;                                                                          \
        *out = lt_jinja_bool(condition);                                                     \
        return LT_OK;                                                                        \
    }

static bool is_sequence(jinja_value value)
{
    switch ((jinja_kind)value.kind) {
    case JINJA_UNDEFINED:
    case JINJA_STRING:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
    case JINJA_RANGE:
        return true;
    default:
        return false;
    }
}

static bool is_callable(jinja_value value)
{
    switch ((jinja_kind)value.kind) {
    case JINJA_UNDEFINED:
    case JINJA_LOOP:
    case JINJA_MACRO:
    case JINJA_FUNCTION:
    case JINJA_METHOD:
        return true;
    default:
        return false;
    }
}

static bool is_number(jinja_value value)
{
    long double unused;
    return lt_jinja_is_number(value, &unused);
}

/* Python's `is`, with the small integers that it keeps. */
static bool is_same(jinja_value a, jinja_value b)
{
    if (a.kind != b.kind) return false;
    switch ((jinja_kind)a.kind) {
    case JINJA_NONE:
        return true;
    case JINJA_BOOL:
        return a.boolean == b.boolean;
    case JINJA_INT:
        return a.integer == b.integer && a.integer >= -5 && a.integer <= 256;
    case JINJA_STRING:
        return a.string->bytes == b.string->bytes && a.string->size == b.string->size;
    default:
        return a.list == b.list;
    }
}

TEST(defined_, self.kind != JINJA_UNDEFINED)
TEST(undefined_, self.kind == JINJA_UNDEFINED)
TEST(none_, self.kind == JINJA_NONE)
TEST(boolean_, self.kind == JINJA_BOOL)
TEST(true_, self.kind == JINJA_BOOL && self.boolean)
TEST(false_, self.kind == JINJA_BOOL && !self.boolean)
TEST(integer_, self.kind == JINJA_INT)
TEST(float_, self.kind == JINJA_FLOAT)
TEST(number_, is_number(self))
TEST(string_, self.kind == JINJA_STRING)
TEST(mapping_, self.kind == JINJA_DICT)
TEST(sequence_, is_sequence(self))
TEST(iterable_, lt_jinja_is_iterable(self))
TEST(callable_, is_callable(self))
TEST(escaped_, self.kind == JINJA_STRING && self.string->safe)
TEST(sameas_, is_same(self, *args[0]))

static lt_status rest_is(jinja_render *r, jinja_value self, jinja_value divisor, int64_t rest,
                         jinja_value *out)
{
    bool equal;
    LT_TRY(lt_jinja_arithmetic(r, JINJA_MODULO, self, divisor, out));
    LT_TRY(lt_jinja_equal(r, *out, lt_jinja_int(rest), &equal));
    *out = lt_jinja_bool(equal);
    return LT_OK;
}

#define TEST_FUNCTION(name)                                                                  \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_value *const *args, \
                          jinja_value *out)

TEST_FUNCTION(odd_)
{
    (void)args;
    return rest_is(r, self, lt_jinja_int(2), 1, out);
}

TEST_FUNCTION(even_)
{
    (void)args;
    return rest_is(r, self, lt_jinja_int(2), 0, out);
}

TEST_FUNCTION(divisibleby_)
{
    return rest_is(r, self, *args[0], 0, out);
}

static lt_status has_case(jinja_render *r, jinja_value self, bool upper, jinja_value *out)
{
    LT_TRY(lt_jinja_str(r, self, out));
    LT_TRY(lt_jinja_spend(r, out->string->size / 64));
    *out = lt_jinja_bool(lt_jinja_has_case(out->string, upper));
    return LT_OK;
}

TEST_FUNCTION(lower_)
{
    (void)args;
    return has_case(r, self, false, out);
}

TEST_FUNCTION(upper_)
{
    (void)args;
    return has_case(r, self, true, out);
}

TEST_FUNCTION(filter_)
{
    (void)r;
    (void)args;
    *out = lt_jinja_bool(self.kind == JINJA_STRING &&
                         lt_jinja_find_filter(self.string->bytes, self.string->size));
    return LT_OK;
}

TEST_FUNCTION(test_)
{
    (void)r;
    (void)args;
    *out = lt_jinja_bool(self.kind == JINJA_STRING &&
                         lt_jinja_find_test(self.string->bytes, self.string->size));
    return LT_OK;
}

#define COMPARISON(name, operator_)                                   \
    TEST_FUNCTION(name)                                               \
    {                                                                 \
        bool yes;                                                     \
        LT_TRY(lt_jinja_compare(r, operator_, self, *args[0], &yes)); \
        *out = lt_jinja_bool(yes);                                    \
        return LT_OK;                                                 \
    }

COMPARISON(in_, JINJA_IN)
COMPARISON(eq_, JINJA_EQUAL)
COMPARISON(ne_, JINJA_NOT_EQUAL)
COMPARISON(lt_, JINJA_LESS)
COMPARISON(le_, JINJA_LESS_EQUAL)
COMPARISON(gt_, JINJA_GREATER)
COMPARISON(ge_, JINJA_GREATER_EQUAL)

static const jinja_builtin tests[] = {
    {"defined", "", 0, defined_, NULL},
    {"undefined", "", 0, undefined_, NULL},
    {"none", "", 0, none_, NULL},
    {"boolean", "", 0, boolean_, NULL},
    {"true", "", 0, true_, NULL},
    {"false", "", 0, false_, NULL},
    {"integer", "", 0, integer_, NULL},
    {"float", "", 0, float_, NULL},
    {"number", "", 0, number_, NULL},
    {"string", "", 0, string_, NULL},
    {"mapping", "", 0, mapping_, NULL},
    {"sequence", "", 0, sequence_, NULL},
    {"iterable", "", 0, iterable_, NULL},
    {"callable", "", 0, callable_, NULL},
    {"escaped", "", 0, escaped_, NULL},
    {"sameas", "other", 1, sameas_, NULL},
    {"odd", "", 0, odd_, NULL},
    {"even", "", 0, even_, NULL},
    {"divisibleby", "num", 1, divisibleby_, NULL},
    {"lower", "", 0, lower_, NULL},
    {"upper", "", 0, upper_, NULL},
    {"filter", "", 0, filter_, NULL},
    {"test", "", 0, test_, NULL},
    {"in", "seq", 1, in_, NULL},
    {"eq", "other /", 1, eq_, NULL},
    {"==", "other /", 1, eq_, NULL},
    {"equalto", "other /", 1, eq_, NULL},
    {"ne", "other /", 1, ne_, NULL},
    {"!=", "other /", 1, ne_, NULL},
    {"lt", "other /", 1, lt_, NULL},
    {"<", "other /", 1, lt_, NULL},
    {"lessthan", "other /", 1, lt_, NULL},
    {"le", "other /", 1, le_, NULL},
    {"<=", "other /", 1, le_, NULL},
    {"gt", "other /", 1, gt_, NULL},
    {">", "other /", 1, gt_, NULL},
    {"greaterthan", "other /", 1, gt_, NULL},
    {"ge", "other /", 1, ge_, NULL},
    {">=", "other /", 1, ge_, NULL},
};
const jinja_builtins lt_jinja_tests = {tests, sizeof tests / sizeof *tests};
