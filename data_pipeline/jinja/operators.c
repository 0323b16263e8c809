/* Arithmetic and comparisons, as in Python, but with integers of 64 bits. */
#include <math.h>
#include <string.h>

#include "data_pipeline/jinja/values.h"

static const char *const spellings[] = {
    [JINJA_ADD] = "+",
    [JINJA_SUBTRACT] = "-",
    [JINJA_MULTIPLY] = "*",
    [JINJA_DIVIDE] = "/",
    [JINJA_FLOOR_DIVIDE] = "//",
    [JINJA_MODULO] = "%",
    [JINJA_POWER] = "**",
    [JINJA_EQUAL] = "==",
    [JINJA_NOT_EQUAL] = "!=",
    [JINJA_LESS] = "<",
    [JINJA_LESS_EQUAL] = "<=",
    [JINJA_GREATER] = ">",
    [JINJA_GREATER_EQUAL] = ">=",
};

static lt_status too_large(jinja_render *r)
{
    return lt_jinja_fail(r, LT_ERR_LIMIT, "an integer beyond 64 bits");
}

static lt_status by_zero(jinja_render *r)
{
    return lt_jinja_fail(r, LT_ERR_FORMAT, "division by zero");
}

/* --- Integers --- */

/* Rounds down; *rest has the sign of b. b is not 0. */
static lt_status divide_down(jinja_render *r, int64_t a, int64_t b, int64_t *quotient,
                             int64_t *rest)
{
    if (a == INT64_MIN && b == -1) return too_large(r);
    *quotient = a / b;
    *rest = a % b;
    if (*rest && (*rest < 0) != (b < 0)) {
        (*quotient)--;
        *rest += b;
    }
    return LT_OK;
}

static lt_status integer_power(jinja_render *r, int64_t base, int64_t exponent, jinja_value *out)
{
    int64_t power = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(power, base, &power)) return too_large(r);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) return too_large(r);
    }
    *out = lt_jinja_int(power);
    return LT_OK;
}

static lt_status float_arithmetic(jinja_render *r, jinja_operator operator_, double a, double b,
                                  jinja_value *out);

static lt_status integer_arithmetic(jinja_render *r, jinja_operator operator_, int64_t a, int64_t b,
                                    jinja_value *out)
{
    int64_t result = 0, other;
    bool overflow = false;
    switch (operator_) {
    case JINJA_ADD:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
    case JINJA_SUBTRACT:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
    case JINJA_MULTIPLY:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
    case JINJA_FLOOR_DIVIDE:
        if (b == 0) return by_zero(r);
        LT_TRY(divide_down(r, a, b, &result, &other));
        break;
    case JINJA_MODULO:
        if (b == 0) return by_zero(r);
        if (b == -1) break; /* the quotient may not fit */
        LT_TRY(divide_down(r, a, b, &other, &result));
        break;
    case JINJA_POWER:
        if (b >= 0) return integer_power(r, a, b, out);
        /* fall through */
    default:
        return float_arithmetic(r, operator_, (double)a, (double)b, out);
    }
    if (overflow) return too_large(r);
    *out = lt_jinja_int(result);
    return LT_OK;
}

/* --- Floats --- */

/* Python's way to a quotient and rest that agree. */
static void float_divide_down(double a, double b, double *quotient, double *rest)
{
    double mod = fmod(a, b), div = (a - mod) / b;
    if (mod != 0) {
        if ((b < 0) != (mod < 0)) {
            mod += b;
            div -= 1;
        }
    } else {
        mod = copysign(0, b);
    }
    *rest = mod;
    if (div == 0) {
        *quotient = copysign(0, a / b);
        return;
    }
    *quotient = floor(div);
    if (div - *quotient > 0.5) *quotient += 1;
}

static lt_status float_power(jinja_render *r, double a, double b, jinja_value *out)
{
    if (a == 0 && b < 0) return by_zero(r);
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "complex numbers are not supported");
    double power = pow(a, b);
    if (isinf(power) && isfinite(a) && isfinite(b))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "the power is out of range");
    *out = lt_jinja_float(power);
    return LT_OK;
}

static lt_status float_arithmetic(jinja_render *r, jinja_operator operator_, double a, double b,
                                  jinja_value *out)
{
    double quotient, rest;
    bool divides =
        operator_ == JINJA_DIVIDE || operator_ == JINJA_FLOOR_DIVIDE || operator_ == JINJA_MODULO;
    if (divides && b == 0) return by_zero(r);
    switch (operator_) {
    case JINJA_ADD:
        *out = lt_jinja_float(a + b);
        return LT_OK;
    case JINJA_SUBTRACT:
        *out = lt_jinja_float(a - b);
        return LT_OK;
    case JINJA_MULTIPLY:
        *out = lt_jinja_float(a * b);
        return LT_OK;
    case JINJA_DIVIDE:
        *out = lt_jinja_float(a / b);
        return LT_OK;
    case JINJA_POWER:
        return float_power(r, a, b, out);
    default:
        float_divide_down(a, b, &quotient, &rest);
        *out = lt_jinja_float(operator_ == JINJA_MODULO ? rest : quotient);
        return LT_OK;
    }
}

/* --- Texts and lists --- */

static lt_status add_texts(jinja_render *r, jinja_value a, jinja_value b, jinja_value *out)
{
    bool safe = a.string->safe || b.string->safe;
    if (safe) {
        LT_TRY(lt_jinja_escape(r, a.string, &a));
        LT_TRY(lt_jinja_escape(r, b.string, &b));
    }
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_put(r, a.string));
    LT_TRY(lt_jinja_put(r, b.string));
    LT_TRY(lt_jinja_end(r, pad, out));
    if (!safe) return LT_OK;
    jinja_string *marked;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *marked, &marked));
    *marked = *out->string;
    marked->safe = true;
    *out = lt_jinja_string(marked);
    return LT_OK;
}

static lt_status repeat_text(jinja_render *r, const jinja_string *text, int64_t count,
                             jinja_value *out)
{
    if (text->size == 0 || count < 0) count = 0;
    if (count > r->limits.output)
        return lt_jinja_fail(r, LT_ERR_LIMIT, "a text would be longer than %lld bytes",
                             (long long)r->limits.output);
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_spend(r, (size_t)count / 16));
    for (int64_t i = 0; i < count; i++)
        LT_TRY(lt_jinja_put(r, text));
    return lt_jinja_end(r, pad, out);
}

static lt_status join_lists(jinja_render *r, jinja_value a, jinja_value b, int64_t times,
                            jinja_value *out)
{
    size_t count;
    jinja_value *items;
    if (times < 0) times = 0;
    if (__builtin_mul_overflow(a.list->count, (size_t)times, &count) ||
        __builtin_add_overflow(count, b.list ? b.list->count : 0, &count))
        return lt_jinja_fail(r, LT_ERR_LIMIT, "a list would be too long");
    LT_TRY(lt_jinja_alloc(r, count, sizeof *items, &items));
    LT_TRY(lt_jinja_spend(r, count / 16));
    jinja_growing list = {.items = items, .capacity = count};
    for (int64_t i = 0; a.list->count && i < times; i++) {
        memcpy(items + list.count, a.list->items, a.list->count * sizeof *items);
        list.count += a.list->count;
    }
    if (b.list && b.list->count) {
        memcpy(items + list.count, b.list->items, b.list->count * sizeof *items);
        list.count += b.list->count;
    }
    return lt_jinja_grown(r, &list, (jinja_kind)a.kind, out);
}

static lt_status not_defined(jinja_render *r, jinja_operator operator_, jinja_value a,
                             jinja_value b)
{
    if (operator_ == JINJA_ADD && a.kind == JINJA_STRING)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "can only concatenate str (not \"%s\") to str",
                             lt_jinja_type_name(b));
    return lt_jinja_fail(r, LT_ERR_FORMAT, "unsupported operand type(s) for %s: '%s' and '%s'",
                         spellings[operator_], lt_jinja_type_name(a), lt_jinja_type_name(b));
}

static bool is_list(jinja_value value)
{
    return value.kind == JINJA_LIST || value.kind == JINJA_TUPLE;
}

static lt_status multiply_sequence(jinja_render *r, jinja_value a, jinja_value b, jinja_value *out)
{
    int64_t count;
    if (lt_jinja_is_integer(a, &count)) {
        jinja_value swap = a;
        a = b;
        b = swap;
    }
    if (!lt_jinja_is_integer(b, &count)) return not_defined(r, JINJA_MULTIPLY, a, b);
    if (a.kind == JINJA_STRING) return repeat_text(r, a.string, count, out);
    jinja_value nothing = {.kind = a.kind, .list = NULL};
    return join_lists(r, a, nothing, count, out);
}

lt_status lt_jinja_arithmetic(jinja_render *r, jinja_operator operator_, jinja_value a,
                              jinja_value b, jinja_value *out)
{
    int64_t i, j;
    long double x, y;
    if (a.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, a);
    if (operator_ == JINJA_MODULO && a.kind == JINJA_STRING)
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "formatting with %% is not supported");
    if (b.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, b);
    if (lt_jinja_is_integer(a, &i) && lt_jinja_is_integer(b, &j))
        return integer_arithmetic(r, operator_, i, j, out);
    if (lt_jinja_is_number(a, &x) && lt_jinja_is_number(b, &y))
        return float_arithmetic(r, operator_, (double)x, (double)y, out);
    if (operator_ == JINJA_ADD && a.kind == b.kind) {
        if (a.kind == JINJA_STRING) return add_texts(r, a, b, out);
        if (is_list(a)) return join_lists(r, a, b, 1, out);
    }
    if (operator_ == JINJA_MULTIPLY &&
        (is_list(a) || is_list(b) || a.kind == JINJA_STRING || b.kind == JINJA_STRING))
        return multiply_sequence(r, a, b, out);
    return not_defined(r, operator_, a, b);
}

lt_status lt_jinja_negate(jinja_render *r, jinja_value value, bool minus, jinja_value *out)
{
    int64_t integer;
    if (value.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, value);
    if (value.kind == JINJA_FLOAT) {
        *out = lt_jinja_float(minus ? -value.number : value.number);
        return LT_OK;
    }
    if (!lt_jinja_is_integer(value, &integer))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "bad operand type for unary %s: '%s'",
                             minus ? "-" : "+", lt_jinja_type_name(value));
    if (minus && integer == INT64_MIN) return too_large(r);
    *out = lt_jinja_int(minus ? -integer : integer);
    return LT_OK;
}

/* a <= b, where numbers may be no numbers. */
static lt_status less_or_equal(jinja_render *r, jinja_operator operator_, jinja_value a,
                               jinja_value b, bool *out)
{
    long double x, y;
    if (lt_jinja_is_number(a, &x) && lt_jinja_is_number(b, &y)) {
        *out = x <= y;
        return LT_OK;
    }
    LT_TRY(lt_jinja_less(r, b, a, spellings[operator_], out));
    *out = !*out;
    return LT_OK;
}

lt_status lt_jinja_compare(jinja_render *r, jinja_operator operator_, jinja_value a, jinja_value b,
                           bool *out)
{
    switch (operator_) {
    case JINJA_LESS:
        return lt_jinja_less(r, a, b, "<", out);
    case JINJA_GREATER:
        return lt_jinja_less(r, b, a, ">", out);
    case JINJA_LESS_EQUAL:
        return less_or_equal(r, operator_, a, b, out);
    case JINJA_GREATER_EQUAL:
        return less_or_equal(r, operator_, b, a, out);
    case JINJA_EQUAL:
        return lt_jinja_equal(r, a, b, out);
    case JINJA_IN:
        return lt_jinja_contains(r, b, a, out);
    case JINJA_NOT_EQUAL:
        LT_TRY(lt_jinja_equal(r, a, b, out));
        break;
    default:
        LT_TRY(lt_jinja_contains(r, b, a, out));
        break;
    }
    *out = !*out;
    return LT_OK;
}
