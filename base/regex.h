/* Regular expressions over names (PCRE2): which parameters a pattern means. Patterns come from
 * flags and files, so matching is bounded; one that runs away is an error, not a hang. */
#ifndef LT_BASE_REGEX_H
#define LT_BASE_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct lt_regex lt_regex;

/* `whole`: the pattern has to match a name from its first to its last character (re.fullmatch),
 * else it may match anywhere (re.search). `what` starts every message: "--freeze". A pattern that
 * can not be compiled is LT_ERR_USAGE with the place. */
lt_status lt_regex_compile(const char *pattern, bool whole, const char *what, lt_regex **out,
                           lt_err *err);
void lt_regex_free(lt_regex *regex);
lt_status lt_regex_match(const lt_regex *regex, const char *text, bool *matches, lt_err *err);

/* Bytes begin .. end of a text. */
typedef struct lt_text_span {
    size_t begin, end;
    bool found; /* false: the group took no part in the match */
} lt_text_span;

/* Groups in parentheses. */
int lt_regex_group_count(const lt_regex *regex);
/* The first match of text[0..size), UTF-8, at byte `start` or behind it, `start` being at the
 * beginning of a character. `advance`: not an empty one at `start`, so that a search for all
 * matches goes on. groups: [group count + 1], the first one the whole match. */
lt_status lt_regex_search(const lt_regex *regex, const char *text, size_t size, size_t start,
                          bool advance, lt_text_span *groups, bool *found, lt_err *err);

#endif
