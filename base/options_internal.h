/* What base/options.c and base/options_yaml.c share. */
#ifndef LT_BASE_OPTIONS_INTERNAL_H
#define LT_BASE_OPTIONS_INTERNAL_H

#include "base/options.h"

/* The option of that name or alias, hyphens and underscores alike; NULL when there is none. */
const lt_option *lt_option_find(const lt_option_table *table, const char *name, size_t length);

/* Parses `text` into the option's field: the one place where a value gets its type and range. A
 * LIST appends. `where` starts the message: "--learning-rate" or "file.yaml:3: learning_rate". */
lt_status lt_option_assign(const lt_option *option, const char *text, const char *where,
                           void *settings, lt_err *err);

/* Empties a LIST field (a file or a flag replaces what the default or the file had). */
void lt_option_clear_list(const lt_option *option, void *settings);

/* LT_ERR_USAGE for a name that no option has, with a did-you-mean. `where` as above. */
lt_status lt_option_unknown(const lt_option_table *table, const char *name, const char *where,
                            lt_err *err);

/* Applies YAML text to the options whose `locked` flag is 0, and sets was_set. */
lt_status lt_options_apply_yaml(const lt_option_table *table, const char *text, size_t size,
                                const char *path, const unsigned char *locked, void *settings,
                                lt_option_result *result, lt_err *err);

#endif
