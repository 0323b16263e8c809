/* Upper and lower case, and kinds of characters, by utf8proc's tables. Case is mapped character by
 * character; of those that become several only the German sharp s is known. */
#include <string.h>
#include <utf8proc.h>

#include "data_pipeline/jinja/string_methods.h"
#include "data_pipeline/tokenizer_internal.h"

enum { SHARP_S = 0xDF, FINAL_SIGMA = 0x3C2, SMALL_SIGMA = 0x3C3, CAPITAL_SIGMA = 0x3A3 };

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

static bool is_upper(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_LU;
}

static bool is_lower(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA;
}

static bool is_cased(uint32_t c)
{
    return is_upper(c) || is_lower(c) || category(c) == UTF8PROC_CATEGORY_LT;
}

static bool is_letter(uint32_t c)
{
    switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return true;
    default:
        return false;
    }
}

static bool is_decimal(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_ND;
}

/* Numeric_Type=Digit: raised, lowered and circled digits. */
static bool is_digit(uint32_t c)
{
    static const struct {
        uint32_t first, last;
    } others[] = {{0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
                  {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
                  {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
                  {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
                  {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (c >= others[i].first && c <= others[i].last) return true;
    }
    return is_decimal(c);
}

bool lt_jinja_is_alphanumeric(uint32_t c)
{
    return is_letter(c) || is_digit(c) || category(c) == UTF8PROC_CATEGORY_NL ||
           category(c) == UTF8PROC_CATEGORY_NO;
}

/* --- Case --- */

static uint32_t lower(const jinja_string *text, uint32_t c, bool after_letter, size_t next)
{
    size_t size;
    if (c != CAPITAL_SIGMA) return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    bool last = next >= text->size || !is_cased(lt_jinja_character(text, next, &size));
    return after_letter && last ? FINAL_SIGMA : SMALL_SIGMA;
}

static lt_status put_character(jinja_render *r, uint32_t c, uint8_t origin)
{
    char bytes[4];
    return lt_jinja_put_bytes(r, bytes, lt_utf8_encode(c, bytes), origin);
}

static lt_status put_upper(jinja_render *r, uint32_t c, bool title, uint8_t origin)
{
    if (c == SHARP_S) return lt_jinja_put_bytes(r, title ? "Ss" : "SS", 2, origin);
    utf8proc_int32_t code = (utf8proc_int32_t)c;
    return put_character(r, (uint32_t)(title ? utf8proc_totitle(code) : utf8proc_toupper(code)),
                         origin);
}

lt_status lt_jinja_change_case(jinja_render *r, const jinja_string *text, jinja_case how,
                               jinja_value *out)
{
    bool after_letter = false; /* the character before has case */
    jinja_pad pad = lt_jinja_begin(r);
    for (size_t at = 0, size; at < text->size; at += size) {
        uint32_t c = lt_jinja_character(text, at, &size);
        uint8_t origin = lt_jinja_origin(text, at);
        bool title = (how == JINJA_CAPITALIZE && at == 0) || (how == JINJA_TITLE && !after_letter);
        if (title || how == JINJA_UPPER || (how == JINJA_SWAP_CASE && is_lower(c)))
            LT_TRY(put_upper(r, c, title, origin));
        else if (how == JINJA_SWAP_CASE && !is_upper(c))
            LT_TRY(put_character(r, c, origin));
        else
            LT_TRY(put_character(r, lower(text, c, after_letter, at + size), origin));
        after_letter = is_cased(c);
    }
    LT_TRY(lt_jinja_spend(r, text->size / 16));
    return lt_jinja_end(r, pad, out);
}

bool lt_jinja_has_case(const jinja_string *text, bool upper)
{
    bool found = false;
    for (size_t at = 0, size; at < text->size; at += size) {
        uint32_t c = lt_jinja_character(text, at, &size);
        bool wrong = upper ? is_lower(c) : is_upper(c);
        if (wrong || category(c) == UTF8PROC_CATEGORY_LT) return false;
        found |= upper ? is_upper(c) : is_lower(c);
    }
    return found;
}

/* --- isalpha() and the like --- */

static lt_status all(jinja_render *r, jinja_value self, bool (*is)(uint32_t), bool when_empty,
                     jinja_value *out)
{
    const jinja_string *text = self.string;
    bool every = true;
    LT_TRY(lt_jinja_spend(r, text->size / 64));
    for (size_t at = 0, size; every && at < text->size; at += size)
        every = is(lt_jinja_character(text, at, &size));
    *out = lt_jinja_bool(text->size ? every : when_empty);
    return LT_OK;
}

#define CHARACTER_TEST(name, is)                                                             \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_value *const *args, \
                          jinja_value *out)                                                  \
    {                                                                                        \
        (void)args;                                                                          \
        return all(r, self, is, false, out);                                                 \
    }

CHARACTER_TEST(isalpha_, is_letter)
CHARACTER_TEST(isdigit_, is_digit)
CHARACTER_TEST(isdecimal_, is_decimal)
CHARACTER_TEST(isalnum_, lt_jinja_is_alphanumeric)
CHARACTER_TEST(isspace_, lt_jinja_is_space)

static lt_status isupper_(jinja_render *r, jinja_value self, const jinja_value *const *args,
                          jinja_value *out)
{
    (void)args;
    *out = lt_jinja_bool(lt_jinja_has_case(self.string, true));
    return lt_jinja_spend(r, self.string->size / 64);
}

static lt_status islower_(jinja_render *r, jinja_value self, const jinja_value *const *args,
                          jinja_value *out)
{
    (void)args;
    *out = lt_jinja_bool(lt_jinja_has_case(self.string, false));
    return lt_jinja_spend(r, self.string->size / 64);
}

static lt_status isascii_(jinja_render *r, jinja_value self, const jinja_value *const *args,
                          jinja_value *out)
{
    (void)r;
    (void)args;
    *out = lt_jinja_bool(self.string->size == self.string->length);
    return LT_OK;
}

static const jinja_builtin tests[] = {
    {"isalpha", "", 0, isalpha_, NULL},     {"isdigit", "", 0, isdigit_, NULL},
    {"isdecimal", "", 0, isdecimal_, NULL}, {"isalnum", "", 0, isalnum_, NULL},
    {"isspace", "", 0, isspace_, NULL},     {"isupper", "", 0, isupper_, NULL},
    {"islower", "", 0, islower_, NULL},     {"isascii", "", 0, isascii_, NULL},
};
const jinja_builtins lt_jinja_string_tests = {tests, sizeof tests / sizeof *tests};
