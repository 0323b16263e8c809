/* Filters of single values: default, numbers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/jinja/values.h"

#define FILTER(name)                                                                         \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_value *const *args, \
                          jinja_value *out)

enum { MAX_NUMBER = 400 }; /* characters of a number in a text */

FILTER(default_)
{
    bool boolean = lt_jinja_arg_truth(args[1], false);
    *out = self;
    if (self.kind != JINJA_UNDEFINED && !(boolean && !lt_jinja_truth(self))) return LT_OK;
    if (!args[0]) return lt_jinja_new_string(r, "", 0, out);
    *out = *args[0];
    return LT_OK;
}

FILTER(abs_)
{
    (void)args;
    bool negative = false;
    int64_t integer;
    if (lt_jinja_is_integer(self, &integer))
        negative = integer < 0;
    else if (self.kind == JINJA_FLOAT)
        negative = signbit(self.number);
    else if (self.kind == JINJA_UNDEFINED)
        return lt_jinja_fail_undefined(r, self);
    else
        return lt_jinja_fail(r, LT_ERR_FORMAT, "bad operand type for abs(): '%s'",
                             lt_jinja_type_name(self));
    return lt_jinja_negate(r, self, negative, out);
}

/* --- Numbers in texts --- */

/* The text without white space around it and without single underscores between digits, false when
 * it can be no number. */
static lt_status plain_number(jinja_render *r, const jinja_string *text, char out[MAX_NUMBER + 1],
                              bool *valid)
{
    static const jinja_call no_arguments = {0};
    jinja_value stripped;
    const jinja_builtin *strip = lt_jinja_find_builtin(&lt_jinja_string_methods, "strip", 5);
    size_t used = 0;
    LT_TRY(lt_jinja_call_builtin(r, strip, lt_jinja_string(text), &no_arguments, &stripped));
    text = stripped.string;
    *valid = text->size > 0 && text->size <= MAX_NUMBER;
    for (size_t i = 0; *valid && i < text->size; i++) {
        char c = text->bytes[i];
        bool between = i > 0 && i + 1 < text->size && text->bytes[i - 1] != '_';
        if (c == '_' && !between) *valid = false;
        if (c == '\0') *valid = false;
        if (c != '_') out[used++] = c;
    }
    out[used] = '\0';
    return LT_OK;
}

/* int(text, base); *found false: it is none. */
static lt_status text_to_integer(jinja_render *r, const jinja_string *text, int64_t base,
                                 bool *found, int64_t *out)
{
    char plain[MAX_NUMBER + 1], *digits = plain;
    LT_TRY(plain_number(r, text, plain, found));
    if (!*found) return LT_OK;
    bool negative = *digits == '-';
    if (*digits == '-' || *digits == '+') digits++;
    char kind = *digits == '0' ? (char)(digits[1] | 32) : 0;
    int64_t named = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
    if (named && (base == named || base == 0)) {
        digits += 2;
        base = named;
    }
    if (base == 0) base = 10;
    *found = *digits != '\0';
    *out = 0;
    for (; *found && *digits; digits++) {
        char c = (char)(*digits | 32);
        int64_t digit = *digits >= '0' && *digits <= '9' ? *digits - '0'
                        : c >= 'a' && c <= 'z'           ? c - 'a' + 10
                                                         : 99;
        *found = digit < base;
        if (!*found) break;
        if (__builtin_mul_overflow(*out, base, out) ||
            (negative ? __builtin_sub_overflow(*out, digit, out)
                      : __builtin_add_overflow(*out, digit, out)))
            return lt_jinja_fail(r, LT_ERR_LIMIT, "an integer beyond 64 bits");
    }
    return LT_OK;
}

/* float(text) */
static lt_status text_to_float(jinja_render *r, const jinja_string *text, bool *found, double *out)
{
    char plain[MAX_NUMBER + 1], *end;
    LT_TRY(plain_number(r, text, plain, found));
    /* what only C reads: hexadecimal and nan(...) */
    if (!*found || strpbrk(plain, "xXpP(")) {
        *found = false;
        return LT_OK;
    }
    *out = strtod(plain, &end);
    *found = *end == '\0' && end != plain;
    return LT_OK;
}

/* int(number), which rounds towards 0. */
static lt_status truncated(jinja_render *r, double number, jinja_value *out)
{
    if (isinf(number))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "cannot convert float infinity to integer");
    if (!(number > -0x1p63 && number < 0x1p63))
        return lt_jinja_fail(r, LT_ERR_LIMIT, "an integer beyond 64 bits");
    *out = lt_jinja_int((int64_t)number);
    return LT_OK;
}

FILTER(int_)
{
    int64_t integer, base = 10;
    double number;
    bool found;
    LT_TRY(lt_jinja_arg_int(r, args[1], &base));
    *out = args[0] ? *args[0] : lt_jinja_int(0);
    if (self.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, self);
    if (lt_jinja_is_integer(self, &integer)) {
        *out = lt_jinja_int(integer);
        return LT_OK;
    }
    if (self.kind == JINJA_FLOAT)
        return isnan(self.number) ? LT_OK : truncated(r, self.number, out);
    if (self.kind != JINJA_STRING) return LT_OK;
    if (base < 0 || base == 1 || base > 36) return LT_OK;
    LT_TRY(text_to_integer(r, self.string, base, &found, &integer));
    if (found) {
        *out = lt_jinja_int(integer);
        return LT_OK;
    }
    LT_TRY(text_to_float(r, self.string, &found, &number));
    if (!found || !isfinite(number)) return LT_OK;
    return truncated(r, number, out);
}

FILTER(float_)
{
    long double number;
    double parsed;
    bool found;
    *out = args[0] ? *args[0] : lt_jinja_float(0);
    if (self.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, self);
    if (lt_jinja_is_number(self, &number)) {
        *out = lt_jinja_float((double)number);
    } else if (self.kind == JINJA_STRING) {
        LT_TRY(text_to_float(r, self.string, &found, &parsed));
        if (found) *out = lt_jinja_float(parsed);
    }
    return LT_OK;
}

/* --- round --- */

/* Half to even on what the binary number is exactly, as printf does too. */
static lt_status round_common(jinja_render *r, jinja_value self, int64_t precision,
                              jinja_value *out)
{
    char text[MAX_NUMBER + 400];
    int64_t integer;
    if (lt_jinja_is_integer(self, &integer)) {
        if (precision < 0)
            return lt_jinja_fail(r, LT_ERR_UNSUPPORTED,
                                 "rounding an integer to tens is not supported");
        *out = lt_jinja_int(integer);
        return LT_OK;
    }
    if (precision < 0)
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "rounding to tens is not supported");
    *out = self;
    if (!isfinite(self.number) || precision > 323) return LT_OK;
    snprintf(text, sizeof text, "%.*f", (int)precision, self.number);
    *out = lt_jinja_float(strtod(text, NULL));
    return LT_OK;
}

FILTER(round_)
{
    const jinja_string *method = NULL;
    long double number;
    int64_t precision = 0;
    LT_TRY(lt_jinja_arg_int(r, args[0], &precision));
    LT_TRY(lt_jinja_arg_string(r, args[1], &method));
    bool up = method && lt_jinja_is(method, "ceil"), down = method && lt_jinja_is(method, "floor");
    if (method && !up && !down && !lt_jinja_is(method, "common"))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "method must be common, ceil or floor");
    if (self.kind == JINJA_UNDEFINED) return lt_jinja_fail_undefined(r, self);
    if (!lt_jinja_is_number(self, &number))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "type %s doesn't define __round__ method",
                             lt_jinja_type_name(self));
    if (!up && !down) return round_common(r, self, precision, out);
    double scale = pow(10, (double)precision), scaled = (double)number * scale;
    if (!isfinite(scaled))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "cannot convert float infinity or NaN to integer");
    *out = lt_jinja_float((up ? ceil(scaled) : floor(scaled)) / scale);
    return LT_OK;
}

static const jinja_builtin filters[] = {
    {"default", "default_value boolean", 0, default_, NULL},
    {"d", "default_value boolean", 0, default_, NULL},
    {"abs", "", 0, abs_, NULL},
    {"int", "default base", 0, int_, NULL},
    {"float", "default", 0, float_, NULL},
    {"round", "precision method", 0, round_, NULL},
    {"attr", "", 0, NULL, NULL},
};
const jinja_builtins lt_jinja_other_filters = {filters, sizeof filters / sizeof *filters};
