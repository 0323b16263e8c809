#include "base/regex.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Names have at most a few hundred characters: an honest pattern needs a fraction of this. */
enum { MATCH_LIMIT = 100000, HEAP_KIB = 1024 };

struct lt_regex {
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *limits;
    const char *what; /* borrowed */
};

lt_status lt_regex_compile(const char *pattern, bool whole, const char *what, lt_regex **out,
                           lt_err *err)
{
    int number;
    PCRE2_SIZE place;
    uint32_t options = whole ? PCRE2_ANCHORED | PCRE2_ENDANCHORED : 0;
    *out = NULL;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      options | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &number, &place, NULL);
    if (!code) {
        PCRE2_UCHAR reason[128] = "it is not valid";
        pcre2_get_error_message(number, reason, sizeof reason);
        return lt_fail(err, LT_ERR_USAGE,
                       "%s: the regular expression \"%.200s\" is wrong at character %zu: %s", what,
                       pattern, place + 1, (const char *)reason);
    }
    lt_regex *regex = calloc(1, sizeof *regex);
    if (regex)
        *regex = (lt_regex){.code = code,
                            .data = pcre2_match_data_create_from_pattern(code, NULL),
                            .limits = pcre2_match_context_create(NULL),
                            .what = what};
    if (!regex || !regex->data || !regex->limits) {
        if (!regex) pcre2_code_free(code);
        lt_regex_free(regex);
        return lt_fail_nomem(err, sizeof *regex, "a regular expression");
    }
    pcre2_set_match_limit(regex->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(regex->limits, HEAP_KIB);
    *out = regex;
    return LT_OK;
}

void lt_regex_free(lt_regex *regex)
{
    if (!regex) return;
    pcre2_match_data_free(regex->data);
    pcre2_match_context_free(regex->limits);
    pcre2_code_free(regex->code);
    free(regex);
}

static lt_status match_failed(const lt_regex *regex, const char *text, size_t size, int result,
                              lt_err *err)
{
    PCRE2_UCHAR reason[128] = "it can not be matched";
    pcre2_get_error_message(result, reason, sizeof reason);
    return lt_fail(err, LT_ERR_LIMIT, "%s: matching \"%.*s\" failed: %s", regex->what,
                   (int)(size < 200 ? size : 200), text, (const char *)reason);
}

lt_status lt_regex_match(const lt_regex *regex, const char *text, bool *matches, lt_err *err)
{
    size_t size = strlen(text);
    int result = pcre2_match(regex->code, (PCRE2_SPTR)text, size, 0, 0, regex->data, regex->limits);
    *matches = result >= 0;
    if (result >= 0 || result == PCRE2_ERROR_NOMATCH) return LT_OK;
    return match_failed(regex, text, size, result, err);
}

int lt_regex_group_count(const lt_regex *regex)
{
    uint32_t count = 0;
    pcre2_pattern_info(regex->code, PCRE2_INFO_CAPTURECOUNT, &count);
    return (int)count;
}

lt_status lt_regex_search(const lt_regex *regex, const char *text, size_t size, size_t start,
                          bool advance, lt_text_span *groups, bool *found, lt_err *err)
{
    uint32_t options = advance ? PCRE2_NOTEMPTY_ATSTART : 0;
    int result = pcre2_match(regex->code, (PCRE2_SPTR)text, size, start, options, regex->data,
                             regex->limits);
    *found = result >= 0;
    if (result < 0 && result != PCRE2_ERROR_NOMATCH)
        return match_failed(regex, text, size, result, err);
    if (result < 0) return LT_OK;
    const PCRE2_SIZE *places = pcre2_get_ovector_pointer(regex->data);
    for (int i = 0; i <= lt_regex_group_count(regex); i++) {
        bool took_part =
            i < result && places[2 * i] != PCRE2_UNSET && places[2 * i] <= places[2 * i + 1];
        groups[i] = (lt_text_span){.found = took_part};
        if (!took_part) continue;
        groups[i].begin = places[2 * i];
        groups[i].end = places[2 * i + 1];
    }
    return LT_OK;
}
