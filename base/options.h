/* One table of options drives flags, YAML files, defaults, ranges, --help and the resolved settings
 * that are saved beside a checkpoint. A sub-command declares a plain settings struct and a table
 * over it:
 *
 *     typedef struct settings { char *model; int64_t epochs; double learning_rate; bool dry_run; }
 * settings; static const lt_option options[] = {
 *         {"model", LT_OPTION_STRING, offsetof(settings, model), .required = true, .metavar =
 * "DIR", .help = "..."},
 *         {"epochs", LT_OPTION_INT, offsetof(settings, epochs), .default_text = "3", .min = 0, .max
 * = 1e6, .aliases = "num-train-epochs", .help = "..."},
 *     };
 *
 * `--learning-rate 1e-4`, `--learning-rate=1e-4` and `--learning_rate 1e-4` are the same; YAML keys
 * take both spellings too. Flags win over the file, the file over defaults, whatever their order.
 */
#ifndef LT_BASE_OPTIONS_H
#define LT_BASE_OPTIONS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum lt_option_type {
    LT_OPTION_FLAG,   /* bool: --name, --no-name, --name=true|false|on|off|1|0; "--name on" too in
                         tables without a positional option */
    LT_OPTION_INT,    /* int64_t */
    LT_OPTION_NUMBER, /* double, finite */
    LT_OPTION_STRING, /* char *, owned by the settings; NULL when not given and no default */
    LT_OPTION_CHOICE, /* char *, one of `choices` */
    LT_OPTION_LIST,   /* lt_string_list: every following word up to the next flag, repeatable */
} lt_option_type;

typedef struct lt_string_list {
    char **items;
    size_t count;
} lt_string_list;

typedef struct lt_option {
    const char *name; /* with hyphens, without the leading ones */
    lt_option_type type;
    size_t offset;            /* of the field in the settings struct */
    const char *default_text; /* parsed as if it were typed; NULL: zero, false, NULL, empty */
    double min, max;          /* inclusive range of a number; both 0: any */
    const char *choices;      /* "cosine|linear|constant" */
    const char *aliases;      /* other accepted names, separated by spaces */
    const char *metavar;      /* "DIR", "N"; NULL: from the type */
    const char *help;         /* one sentence; the default and range are added by lt_options_help */
    const char *group;        /* heading in --help; NULL: the one before */
    bool required;
    bool command_line_only; /* not accepted in YAML, not part of the resolved settings (--config,
                               --help) */
} lt_option;

typedef struct lt_option_table {
    const char *command;  /* "lathe train" */
    const char *synopsis; /* what --help shows after "usage: " */
    const char
        *description; /* a sentence or two, and examples after the options if it has a "\n\n" */
    const lt_option *options;
    size_t count;
    const lt_option
        *positional; /* the LIST one of `options` that takes words without a flag, or NULL */
} lt_option_table;

/* What the user asked for besides settings. */
typedef struct lt_option_result {
    bool help; /* --help or -h was given; nothing else was checked */
    unsigned char
        *was_set; /* [count]: 1 where a flag or the file set it; owned, free with lt_options_free */
} lt_option_result;

/* Fills `settings` (zeroed by the caller) from defaults, then the YAML file of --config when the
 * table has an option of that name and it is given, then argv[0..argc) (after the command's name).
 * Errors are LT_ERR_USAGE with the flag or file:line, the reason, and a did-you-mean for unknown
 * names. */
lt_status lt_options_parse(const lt_option_table *table, int argc, char **argv, void *settings,
                           lt_option_result *result, lt_err *err);
void lt_options_free(const lt_option_table *table, void *settings, lt_option_result *result);

bool lt_option_was_set(const lt_option_table *table, const lt_option_result *result,
                       const char *name);

/* The --help text, wrapped at 100 columns. *out: caller frees with free(). */
lt_status lt_options_help(const lt_option_table *table, char **out, lt_err *err);

/* The settings as a JSON object with underscored keys, in table order, and as YAML text (readable
 * by
 * --config again). `*out`: caller owns (json_decref, free). */
lt_status lt_options_to_json(const lt_option_table *table, const void *settings, json_t **out,
                             lt_err *err);
lt_status lt_options_to_yaml(const lt_option_table *table, const void *settings, char **out,
                             lt_err *err);

/* The nearest of `names` to `word` by edit distance, or NULL when none is near: for did-you-mean.
 */
const char *lt_nearest_name(const char *word, const char *const *names, size_t count);

#endif
