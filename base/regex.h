/* Regular expressions over names (PCRE2): which parameters a pattern means. Patterns come from
 * flags and files, so matching is bounded; one that runs away is an error, not a hang. */
#ifndef LT_BASE_REGEX_H
#define LT_BASE_REGEX_H

#include <stdbool.h>

#include "base/status.h"

typedef struct lt_regex lt_regex;

/* `whole`: the pattern has to match a name from its first to its last character (re.fullmatch),
 * else it may match anywhere (re.search). `what` starts every message: "--freeze". A pattern that
 * can not be compiled is LT_ERR_USAGE with the place. */
lt_status lt_regex_compile(const char *pattern, bool whole, const char *what, lt_regex **out,
                           lt_err *err);
void lt_regex_free(lt_regex *regex);
lt_status lt_regex_match(const lt_regex *regex, const char *text, bool *matches, lt_err *err);

#endif
