/* Source to tokens. Which white space goes is decided here, as trim_blocks and lstrip_blocks do it:
 * the line feed after a block or comment, and what is between the beginning of a line and one. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "data_pipeline/jinja/syntax.h"
#include "data_pipeline/tokenizer_internal.h"

enum { MAX_BRACKETS = 1000, MAX_NUMBER = 400 };

typedef struct lexer {
    const char *source; /* line feeds only */
    size_t size, at;
    int line;
    bool line_starting; /* what was read last ended with a line feed */
    char brackets[MAX_BRACKETS];
    int open;
    const char *where;
    jinja_region *region;
    jinja_tokens *tokens;
    lt_err *err;
} lexer;

#define FAIL(x, ...) fail_at((x), LT_ERR_FORMAT, __VA_ARGS__)

static lt_status __attribute__((format(printf, 3, 4)))
fail_at(lexer *x, lt_status code, const char *format, ...)
{
    char message[256];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return lt_fail(x->err, code, "%s, line %d: %s", x->where, x->line, message);
}

static lt_status add(lexer *x, jinja_token token)
{
    jinja_tokens *tokens = x->tokens;
    if (tokens->count == tokens->capacity) {
        size_t capacity = tokens->capacity ? tokens->capacity * 2 : 64;
        jinja_token *items;
        LT_TRY(lt_jinja_region_alloc(x->region, capacity, sizeof *items, &items, x->err));
        if (tokens->count) memcpy(items, tokens->items, tokens->count * sizeof *items);
        tokens->items = items;
        tokens->capacity = capacity;
    }
    token.line = x->line;
    tokens->items[tokens->count++] = token;
    return LT_OK;
}

/* Moves on by `size` bytes, counting lines. */
static void advance(lexer *x, size_t size)
{
    for (size_t i = 0; i < size; i++)
        x->line += x->source[x->at + i] == '\n';
    x->at += size;
    if (size) x->line_starting = x->source[x->at - 1] == '\n';
}

static bool at_text(const lexer *x, size_t at, const char *text)
{
    size_t size = strlen(text);
    return x->size - at >= size && memcmp(x->source + at, text, size) == 0;
}

/* Length of the white space that begins at `at`. */
static size_t space(const lexer *x, size_t at)
{
    size_t start = at, size;
    while (at < x->size) {
        uint32_t c = lt_utf8_decode((const unsigned char *)x->source + at, &size);
        if (!lt_jinja_is_space(c)) break;
        at += size;
    }
    return at - start;
}

/* Where the white space that ends source[start..end) begins. */
static size_t space_before(const lexer *x, size_t start, size_t end)
{
    const unsigned char *bytes = (const unsigned char *)x->source;
    while (end > start) {
        size_t size, before = (size_t)(lt_utf8_previous(bytes + start, bytes + end) - bytes);
        if (!lt_jinja_is_space(lt_utf8_decode(bytes + before, &size))) break;
        end = before;
    }
    return end;
}

/* --- Text and the tags around it --- */

/* Adds source[start..end), less what the tag that follows takes away. */
static lt_status add_text(lexer *x, size_t start, size_t end, char sign, bool strips_line)
{
    size_t kept = end;
    if (sign == '-') {
        kept = space_before(x, start, end);
    } else if (sign != '+' && strips_line) {
        size_t line = end;
        while (line > start && x->source[line - 1] != '\n')
            line--;
        if ((line > start || x->line_starting) && space_before(x, line, end) == line) kept = line;
    }
    lt_status status = LT_OK;
    if (kept > start)
        status = add(
            x, (jinja_token){.kind = TOKEN_TEXT, .text = x->source + start, .size = kept - start});
    advance(x, end - start);
    return status;
}

/* Length of the end of a tag at `at`, with the white space that goes with it, or 0: not here.
 * `trims`: a line feed after it goes too. */
static size_t tag_end(const lexer *x, size_t at, const char *end, bool trims, bool plus)
{
    bool minus = at < x->size && x->source[at] == '-' && at_text(x, at + 1, end);
    if (minus) return 3 + space(x, at + 3);
    if (plus && at < x->size && x->source[at] == '+' && at_text(x, at + 1, end)) return 3;
    if (!at_text(x, at, end)) return 0;
    return 2 + (trims && at + 2 < x->size && x->source[at + 2] == '\n');
}

static lt_status skip_comment(lexer *x)
{
    for (size_t at = x->at; at < x->size; at++) {
        size_t end = tag_end(x, at, "#}", true, true);
        if (end == 0) continue;
        advance(x, at - x->at + end);
        return LT_OK;
    }
    return FAIL(x, "a comment has no end: {# without #}");
}

/* Length of `{% word %}` at `at`, or 0; *sign: after the {%. */
static size_t word_tag(const lexer *x, size_t at, const char *word, bool is_end, char *sign)
{
    size_t start = at;
    if (!at_text(x, at, "{%")) return 0;
    at += 2;
    *sign = at < x->size && (x->source[at] == '-' || x->source[at] == '+') ? x->source[at] : 0;
    at += *sign != 0;
    at += space(x, at);
    if (!at_text(x, at, word)) return 0;
    at += strlen(word);
    at += space(x, at);
    size_t end = tag_end(x, at, "%}", is_end, is_end);
    return end ? at - start + end : 0;
}

/* After {% raw %}: everything up to {% endraw %} is text. */
static lt_status read_raw(lexer *x)
{
    for (size_t at = x->at; at < x->size; at++) {
        char sign = 0;
        size_t end = x->source[at] == '{' ? word_tag(x, at, "endraw", true, &sign) : 0;
        if (end == 0) continue;
        LT_TRY(add_text(x, x->at, at, sign, true));
        advance(x, end);
        return LT_OK;
    }
    return FAIL(x, "{%% raw %%} has no end");
}

/* --- Inside tags --- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Length of digits with single underscores between them. */
static size_t digits(const lexer *x, size_t at)
{
    size_t start = at;
    while (at < x->size && (is_digit(x->source[at]) ||
                            (x->source[at] == '_' && at > start && x->source[at - 1] != '_' &&
                             at + 1 < x->size && is_digit(x->source[at + 1]))))
        at++;
    return at - start;
}

/* Length of a number with a fraction or exponent at x->at, or 0. */
static size_t float_length(const lexer *x)
{
    if (x->at > 0 && x->source[x->at - 1] == '.') return 0;
    size_t at = x->at + digits(x, x->at), fraction = 0;
    if (at == x->at) return 0;
    if (at < x->size && x->source[at] == '.') fraction = digits(x, at + 1);
    if (fraction) at += 1 + fraction;
    size_t exponent = at;
    if (exponent < x->size && (x->source[exponent] | 32) == 'e') {
        exponent++;
        if (exponent < x->size && (x->source[exponent] == '+' || x->source[exponent] == '-'))
            exponent++;
        size_t length = digits(x, exponent);
        if (length) return exponent + length - x->at;
    }
    return fraction ? at - x->at : 0;
}

static int digit_value(char c)
{
    if (is_digit(c)) return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

/* Length of an integer at x->at (at least 1); *base, and *prefix bytes before its digits. */
static size_t integer_length(const lexer *x, int *base, size_t *prefix)
{
    size_t at = x->at;
    char kind = at + 1 < x->size && x->source[at] == '0' ? (char)(x->source[at + 1] | 32) : 0;
    *base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
    *prefix = *base == 10 ? 0 : 2;
    size_t digit = at + *prefix;
    if (*base != 10) {
        if (digit < x->size && x->source[digit] == '_') digit++;
        if (digit >= x->size || digit_value(x->source[digit]) >= *base) *base = 10, *prefix = 0;
    }
    bool zero = *base == 10 && x->source[at] == '0'; /* 007 is 00 and 7 */
    size_t end = at + *prefix;
    while (end < x->size) {
        size_t next = end + (x->source[end] == '_' && end > at);
        if (next >= x->size || digit_value(x->source[next]) >= *base) break;
        if (zero && x->source[next] != '0') break;
        end = next + 1;
    }
    return end - at;
}

static lt_status read_number(lexer *x)
{
    char plain[MAX_NUMBER + 1];
    size_t prefix = 0, used = 0, length = float_length(x);
    bool is_float = length > 0;
    int base = 10;
    if (!is_float) length = integer_length(x, &base, &prefix);
    if (length > MAX_NUMBER) return fail_at(x, LT_ERR_LIMIT, "a number of %zu digits", length);
    for (size_t i = prefix; i < length; i++) {
        if (x->source[x->at + i] != '_') plain[used++] = x->source[x->at + i];
    }
    plain[used] = '\0';
    jinja_token token = {.kind = is_float ? TOKEN_FLOAT : TOKEN_INTEGER};
    if (is_float) {
        token.number = strtod(plain, NULL);
    } else {
        for (size_t i = 0; i < used; i++) {
            if (__builtin_mul_overflow(token.integer, base, &token.integer) ||
                __builtin_add_overflow(token.integer, digit_value(plain[i]), &token.integer))
                return fail_at(x, LT_ERR_LIMIT, "the number %s is beyond 64 bits", plain);
        }
    }
    LT_TRY(add(x, token));
    advance(x, length);
    return LT_OK;
}

static bool is_name_character(uint32_t c)
{
    if (c < 128) return c == '_' || is_digit((char)c) || ((c | 32) >= 'a' && (c | 32) <= 'z');
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

static size_t name_length(const lexer *x)
{
    size_t at = x->at, size;
    while (at < x->size &&
           is_name_character(lt_utf8_decode((const unsigned char *)x->source + at, &size)))
        at += size;
    return at - x->at;
}

static lt_status read_operator(lexer *x)
{
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                            "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    const char *found = NULL;
    for (size_t i = 0; !found && i < sizeof operators / sizeof *operators; i++) {
        if (at_text(x, x->at, operators[i])) found = operators[i];
    }
    if (!found) {
        size_t size;
        uint32_t c = lt_utf8_decode((const unsigned char *)x->source + x->at, &size);
        return FAIL(x, "unexpected character '%.*s' (U+%04X)", c < 32 ? 0 : (int)size,
                    x->source + x->at, c);
    }
    const char *opening = "([{", *closing = ")]}", *is;
    if ((is = strchr(opening, *found)) != NULL) {
        if (x->open == MAX_BRACKETS)
            return fail_at(x, LT_ERR_LIMIT, "brackets nested deeper than %d", MAX_BRACKETS);
        x->brackets[x->open++] = closing[is - opening];
    } else if (strchr(closing, *found)) {
        if (x->open == 0) return FAIL(x, "unexpected '%s'", found);
        char expected = x->brackets[--x->open];
        if (expected != *found) return FAIL(x, "unexpected '%s', expected '%c'", found, expected);
    }
    LT_TRY(add(x, (jinja_token){.kind = TOKEN_OPERATOR, .text = found, .size = strlen(found)}));
    advance(x, strlen(found));
    return LT_OK;
}

/* --- String literals --- */

typedef struct unescaped {
    char *bytes;
    size_t size;
} unescaped;

static void put_code_point(unescaped *out, uint32_t c)
{
    out->size += lt_utf8_encode(c, out->bytes + out->size);
}

/* \xNN, \uNNNN, \UNNNNNNNN after the letter at text[1]. */
static lt_status read_hex(lexer *x, const char *text, size_t left, size_t *used, unescaped *out)
{
    size_t wanted = text[1] == 'x' ? 2 : text[1] == 'u' ? 4 : 8;
    uint32_t c = 0;
    for (size_t i = 0; i < wanted; i++) {
        int digit = 2 + i < left ? digit_value(text[2 + i]) : 99;
        if (digit > 15) return FAIL(x, "a \\%c escape needs %zu digits", text[1], wanted);
        c = c << 4 | (uint32_t)digit;
    }
    if (c > 0x10FFFF) return FAIL(x, "illegal Unicode character in a string");
    if (c >= 0xD800 && c <= 0xDFFF)
        return fail_at(x, LT_ERR_UNSUPPORTED, "half a surrogate pair (\\u%04x) is not supported",
                       c);
    put_code_point(out, c);
    *used = 2 + wanted;
    return LT_OK;
}

/* One escape at text[0] == '\\' of `left` bytes. */
static lt_status read_escape(lexer *x, const char *text, size_t left, size_t *used, unescaped *out)
{
    static const char letters[] = "abfnrtv\\'\"\n", meanings[] = "\a\b\f\n\r\t\v\\'\"";
    unsigned char c = (unsigned char)text[1];
    const char *letter = c ? strchr(letters, c) : NULL;
    *used = 2;
    if (letter) {
        if (c != '\n') put_code_point(out, (unsigned char)meanings[letter - letters]);
        return LT_OK;
    }
    if (c == 'x' || c == 'u' || c == 'U') return read_hex(x, text, left, used, out);
    if (c == 'N')
        return fail_at(x, LT_ERR_UNSUPPORTED, "characters by name (\\N{...}) are not supported");
    if (c >= '0' && c <= '7') {
        uint32_t value = 0;
        size_t i = 1;
        for (; i < 4 && i < left && text[i] >= '0' && text[i] <= '7'; i++)
            value = value * 8 + (uint32_t)(text[i] - '0');
        put_code_point(out, value);
        *used = i;
        return LT_OK;
    }
    out->bytes[out->size++] = '\\';
    if (c < 0x80) {
        out->bytes[out->size++] = (char)c;
        return LT_OK;
    }
    /* Jinja2 spells what is not ASCII as an escape first, which then loses its backslash. */
    uint32_t point = lt_utf8_decode((const unsigned char *)text + 1, used);
    const char *format = point < 0x100 ? "x%02x" : point < 0x10000 ? "u%04x" : "U%08x";
    out->size += (size_t)sprintf(out->bytes + out->size, format, point);
    *used += 1;
    return LT_OK;
}

static lt_status read_string(lexer *x)
{
    const char *text = x->source + x->at;
    size_t end = 1, left = x->size - x->at;
    while (end < left && text[end] != text[0])
        end += text[end] == '\\' ? 2 : 1;
    if (end >= left) return FAIL(x, "a string has no end");
    unescaped out = {0};
    /* the most that it grows: a backslash and four bytes of UTF-8 become ten */
    LT_TRY(lt_jinja_region_alloc(x->region, end * 2 + 16, 1, &out.bytes, x->err));
    for (size_t i = 1; i < end;) {
        size_t used = 1;
        if (text[i] == '\\')
            LT_TRY(read_escape(x, text + i, end - i, &used, &out));
        else
            out.bytes[out.size++] = text[i];
        i += used;
    }
    LT_TRY(add(x, (jinja_token){.kind = TOKEN_STRING, .text = out.bytes, .size = out.size}));
    advance(x, end + 1);
    return LT_OK;
}

/* --- The whole --- */

/* The tokens of a tag up to its end. */
static lt_status read_tag(lexer *x, bool is_block)
{
    int line = x->line;
    while (x->at < x->size) {
        size_t end = 0;
        if (x->open == 0) end = tag_end(x, x->at, is_block ? "%}" : "}}", is_block, is_block);
        if (end) {
            LT_TRY(add(x, (jinja_token){.kind = is_block ? TOKEN_BLOCK_END : TOKEN_OUTPUT_END}));
            advance(x, end);
            return LT_OK;
        }
        char c = x->source[x->at];
        size_t blank = space(x, x->at), name;
        if (blank) {
            advance(x, blank);
        } else if (is_digit(c)) {
            LT_TRY(read_number(x));
        } else if ((name = name_length(x)) > 0) {
            LT_TRY(
                add(x, (jinja_token){.kind = TOKEN_NAME, .text = x->source + x->at, .size = name}));
            advance(x, name);
        } else if (c == '"' || c == '\'') {
            LT_TRY(read_string(x));
        } else {
            LT_TRY(read_operator(x));
        }
    }
    x->line = line;
    return FAIL(x, "%s",
                is_block ? "{% has no end: %} is missing" : "{{ has no end: }} is missing");
}

/* Text up to the next tag, and that tag. */
static lt_status read_part(lexer *x)
{
    size_t at = x->at;
    while (at < x->size && !(x->source[at] == '{' && at + 1 < x->size &&
                             strchr("%{#", x->source[at + 1]) && x->source[at + 1]))
        at++;
    if (at == x->size) return add_text(x, x->at, at, '+', false);
    char kind = x->source[at + 1], sign = 0;
    size_t raw = kind == '%' ? word_tag(x, at, "raw", false, &sign) : 0;
    if (!raw) {
        sign = at + 2 < x->size ? x->source[at + 2] : 0;
        if (sign != '-' && sign != '+') sign = 0;
    }
    LT_TRY(add_text(x, x->at, at, sign, kind != '{'));
    if (raw) {
        advance(x, raw);
        return read_raw(x);
    }
    if (kind != '#')
        LT_TRY(add(x, (jinja_token){.kind = kind == '%' ? TOKEN_BLOCK_BEGIN : TOKEN_OUTPUT_BEGIN}));
    advance(x, 2 + (sign != 0));
    return kind == '#' ? skip_comment(x) : read_tag(x, kind == '%');
}

/* \r\n and \r become \n; one at the very end goes. */
static lt_status normalize_newlines(lexer *x, const char *source, size_t size)
{
    char *copy;
    LT_TRY(lt_jinja_region_alloc(x->region, size + 1, 1, &copy, x->err));
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        if (source[i] == '\r' && i + 1 < size && source[i + 1] == '\n') continue;
        copy[used++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (used && copy[used - 1] == '\n') used--;
    x->source = copy;
    x->size = used;
    return LT_OK;
}

lt_status lt_jinja_tokenize(const char *source, size_t size, const char *where,
                            jinja_region *region, jinja_tokens *out, lt_err *err)
{
    lexer x = {.line = 1,
               .line_starting = true,
               .where = where,
               .region = region,
               .tokens = out,
               .err = err};
    LT_TRY(normalize_newlines(&x, source, size));
    while (x.at < x.size)
        LT_TRY(read_part(&x));
    return add(&x, (jinja_token){.kind = TOKEN_END});
}
