#include "base/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/checked.h"
#include "base/fsio.h"
#include "base/options_internal.h"

/* libyaml needs quadratic time for odd files; none that a person writes comes near this size. */
#define MAX_CONFIG_BYTES ((size_t)256 << 10)

/* --- Names ---------------------------------------------------------------------------------------
 */

static bool same_name(const char *name, const char *other, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        char a = name[i] == '_' ? '-' : name[i], b = other[i] == '_' ? '-' : other[i];
        if (a != b || a == '\0' || a == ' ') return false;
    }
    return name[length] == '\0' || name[length] == ' ';
}

static bool has_name(const lt_option *option, const char *name, size_t length)
{
    if (same_name(option->name, name, length)) return true;
    for (const char *alias = option->aliases; alias && *alias; alias += strcspn(alias, " ")) {
        alias += strspn(alias, " ");
        if (same_name(alias, name, length)) return true;
    }
    return false;
}

const lt_option *lt_option_find(const lt_option_table *table, const char *name, size_t length)
{
    for (size_t i = 0; i < table->count; i++) {
        if (has_name(&table->options[i], name, length)) return &table->options[i];
    }
    return NULL;
}

/* Levenshtein distance of two short words; a long one is simply far. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t m = strlen(a), n = strlen(b), row[65];
    if (m > 64 || n > 64) return 64;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; i <= m; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
            size_t best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            diagonal = row[j];
            row[j] = substitute < best ? substitute : best;
        }
    }
    return row[n];
}

const char *lt_nearest_name(const char *word, const char *const *names, size_t count)
{
    size_t length = strlen(word), limit = length / 3 > 2 ? length / 3 : 2, best = limit + 1;
    const char *nearest = NULL;
    for (size_t i = 0; i < count; i++) {
        size_t distance = edit_distance(word, names[i]);
        if (distance < best && distance < strlen(names[i])) {
            best = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

lt_status lt_option_unknown(const lt_option_table *table, const char *name, const char *where,
                            lt_err *err)
{
    char word[65];
    snprintf(word, sizeof word, "%s", name);
    for (char *c = word; *c; c++) {
        if (*c == '_') *c = '-';
    }
    /* Every name and alias, one after the other, each ended by a NUL. */
    lt_buffer text = {0};
    const char *names[256];
    size_t count = 0;
    lt_status status = LT_OK;
    for (size_t i = 0; i < table->count && status == LT_OK; i++) {
        const lt_option *option = &table->options[i];
        status = lt_buffer_printf(&text, err, "%s %s ", option->name,
                                  option->aliases ? option->aliases : "");
    }
    for (char *rest = text.data, *at; status == LT_OK && (at = strsep(&rest, " ")) != NULL;) {
        if (*at && count < sizeof names / sizeof *names) names[count++] = at;
    }
    const char *nearest = lt_nearest_name(word, names, count);
    if (status == LT_OK)
        status =
            lt_fail(err, LT_ERR_USAGE, "%sunknown option '%s'%s%s%s", where, name,
                    nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
    lt_buffer_free(&text);
    return status;
}

/* --- Values
 * ---------------------------------------------------------------------------------------- */

static void *field(const lt_option *option, void *settings)
{
    return (char *)settings + option->offset;
}

static lt_status check_range(const lt_option *option, double value, const char *text,
                             const char *where, lt_err *err)
{
    bool any = option->min == 0 && option->max == 0;
    if (any || (value >= option->min && value <= option->max)) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "%s: %s is out of range; allowed is %.15g to %.15g", where,
                   text, option->min, option->max);
}

static lt_status assign_flag(const lt_option *option, const char *text, const char *where,
                             bool *out, lt_err *err)
{
    static const char *const yes[] = {"true", "on", "yes", "1"}, *const no[] = {"false", "off",
                                                                                "no", "0"};
    (void)option;
    for (int i = 0; i < 4; i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *out = strcasecmp(text, yes[i]) == 0;
            return LT_OK;
        }
    }
    return lt_fail(err, LT_ERR_USAGE, "%s: '%s' is neither on nor off", where, text);
}

static lt_status assign_int(const lt_option *option, const char *text, const char *where,
                            int64_t *out, lt_err *err)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || isspace((unsigned char)*text))
        return lt_fail(err, LT_ERR_USAGE, "%s: '%s' is not a whole number", where, text);
    if (errno == ERANGE)
        return lt_fail(err, LT_ERR_USAGE, "%s: %s is too large a number", where, text);
    LT_TRY(check_range(option, (double)value, text, where, err));
    *out = value;
    return LT_OK;
}

static lt_status assign_number(const lt_option *option, const char *text, const char *where,
                               double *out, lt_err *err)
{
    char *end;
    double value = strtod(text, &end);
    bool plain =
        strspn(text, "0123456789+-.eE") == strlen(text); /* no "nan", "inf" or hexadecimal */
    if (end == text || *end || !plain || !isfinite(value))
        return lt_fail(err, LT_ERR_USAGE, "%s: '%s' is not a number", where, text);
    LT_TRY(check_range(option, value, text, where, err));
    *out = value;
    return LT_OK;
}

static lt_status copy_text(const char *text, char **out, lt_err *err)
{
    char *copy = strdup(text);
    if (!copy) return lt_fail_nomem(err, strlen(text) + 1, "an option");
    free(*out);
    *out = copy;
    return LT_OK;
}

static lt_status assign_choice(const lt_option *option, const char *text, const char *where,
                               char **out, lt_err *err)
{
    size_t length = strlen(text);
    for (const char *choice = option->choices; choice; choice = strchr(choice, '|')) {
        if (*choice == '|') choice++;
        if (strcspn(choice, "|") == length && strncmp(choice, text, length) == 0)
            return copy_text(text, out, err);
    }
    return lt_fail(err, LT_ERR_USAGE, "%s: '%s' is not one of %s", where, text, option->choices);
}

static lt_status append_to_list(const char *text, lt_string_list *list, lt_err *err)
{
    /* the room doubles whenever the count is a power of two, so it need not be remembered */
    size_t count = list->count;
    if ((count & (count - 1)) == 0) {
        size_t bytes = (count ? 2 * count : 1) * sizeof *list->items;
        char **items = realloc(list->items, bytes);
        if (!items) return lt_fail_nomem(err, bytes, "an option's list");
        list->items = items;
    }
    list->items[count] = NULL;
    LT_TRY(copy_text(text, &list->items[count], err));
    list->count++;
    return LT_OK;
}

void lt_option_clear_list(const lt_option *option, void *settings)
{
    lt_string_list *list = field(option, settings);
    for (size_t i = 0; i < list->count; i++)
        free(list->items[i]);
    free(list->items);
    *list = (lt_string_list){0};
}

lt_status lt_option_assign(const lt_option *option, const char *text, const char *where,
                           void *settings, lt_err *err)
{
    void *out = field(option, settings);
    switch (option->type) {
    case LT_OPTION_FLAG:
        return assign_flag(option, text, where, out, err);
    case LT_OPTION_INT:
        return assign_int(option, text, where, out, err);
    case LT_OPTION_NUMBER:
        return assign_number(option, text, where, out, err);
    case LT_OPTION_CHOICE:
        return assign_choice(option, text, where, out, err);
    case LT_OPTION_STRING:
        return copy_text(text, out, err);
    case LT_OPTION_LIST:
        return append_to_list(text, out, err);
    }
    return LT_OK;
}

/* --- The command line
 * ---------------------------------------------------------------------------------- */

typedef struct parser {
    const lt_option_table *table;
    void *settings;
    lt_option_result *result;
    bool flags_ended; /* after "--" */
} parser;

static void mark_set(parser *p, const lt_option *option)
{
    size_t index = (size_t)(option - p->table->options);
    if (option->type == LT_OPTION_LIST && !p->result->was_set[index])
        lt_option_clear_list(option, p->settings);
    p->result->was_set[index] = 1;
}

/* "--", "-x" and "--name", with "=value" or without, look like flags; a hyphen alone (standard
 * input), negative numbers and text such as "- one thing" are values. */
static bool is_flag(const char *word)
{
    if (word[0] != '-' || !(word[1] == '-' || isalpha((unsigned char)word[1]))) return false;
    size_t name = strcspn(word, "= \t\n");
    return word[name] == '=' || word[name] == '\0';
}

static lt_status take_word(parser *p, const char *word, lt_err *err)
{
    if (!p->table->positional)
        return lt_fail(err, LT_ERR_USAGE, "unexpected word '%s'; options begin with --", word);
    mark_set(p, p->table->positional);
    return lt_option_assign(p->table->positional, word, p->table->positional->name, p->settings,
                            err);
}

/* The words that belong to a flag: one, or for a LIST all up to the next flag. *used counts them.
 */
static lt_status take_values(parser *p, const lt_option *option, const char *where, int argc,
                             char **argv, int *used, lt_err *err)
{
    int most = option->type == LT_OPTION_LIST ? argc : 1;
    for (*used = 0; *used < most && *used < argc && !is_flag(argv[*used]); ++*used)
        LT_TRY(lt_option_assign(option, argv[*used], where, p->settings, err));
    return *used ? LT_OK : lt_fail(err, LT_ERR_USAGE, "%s needs a value", where);
}

/* "--packing on" is read as "--packing=on" where no word could mean anything else. */
static bool is_switch_word(const char *word)
{
    return strcasecmp(word, "on") == 0 || strcasecmp(word, "off") == 0 ||
           strcasecmp(word, "true") == 0 || strcasecmp(word, "false") == 0;
}

/* argv[0] is "--name", "--name=value" or "--no-name". */
static lt_status take_flag(parser *p, int argc, char **argv, int *used, lt_err *err)
{
    const char *word = argv[0], *name = word + 2, *value = strchr(word, '=');
    if (word[1] != '-')
        return lt_fail(err, LT_ERR_USAGE, "unknown option '%s'; options begin with --", word);
    size_t length = value ? (size_t)(value - name) : strlen(name);
    const lt_option *option = lt_option_find(p->table, name, length);
    bool negated = false;
    if (!option && (strncmp(name, "no-", 3) == 0 || strncmp(name, "no_", 3) == 0)) {
        option = lt_option_find(p->table, name + 3, length - 3);
        negated = option && option->type == LT_OPTION_FLAG && !value;
        if (!negated) option = NULL;
    }
    char where[80];
    snprintf(where, sizeof where, "--%.*s", (int)(length > 70 ? 70 : length), name);
    if (!option) return lt_option_unknown(p->table, where + 2, "", err);
    mark_set(p, option);
    *used = 1;
    if (value) return lt_option_assign(option, value + 1, where, p->settings, err);
    if (option->type == LT_OPTION_FLAG) {
        const char *state = negated ? "false" : "true";
        if (!negated && !p->table->positional && argc > 1 && is_switch_word(argv[1])) {
            state = argv[1];
            *used = 2;
        }
        return lt_option_assign(option, state, where, p->settings, err);
    }
    int words = 0;
    LT_TRY(take_values(p, option, where, argc - 1, argv + 1, &words, err));
    *used += words;
    return LT_OK;
}

static lt_status parse_words(parser *p, int argc, char **argv, lt_err *err)
{
    for (int i = 0; i < argc;) {
        int used = 1;
        if (p->flags_ended || !is_flag(argv[i])) {
            LT_TRY(take_word(p, argv[i], err));
        } else if (strcmp(argv[i], "--") == 0) {
            p->flags_ended = true;
        } else {
            LT_TRY(take_flag(p, argc - i, argv + i, &used, err));
        }
        i += used;
    }
    return LT_OK;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    }
    return false;
}

static lt_status apply_defaults(const lt_option_table *table, void *settings, lt_err *err)
{
    for (size_t i = 0; i < table->count; i++) {
        const lt_option *option = &table->options[i];
        if (option->default_text)
            LT_TRY(lt_option_assign(option, option->default_text, option->name, settings, err));
    }
    return LT_OK;
}

/* The file given by --config, for the options that no flag has set. */
static lt_status apply_config_file(parser *p, lt_err *err)
{
    const lt_option *option = lt_option_find(p->table, "config", 6);
    const char *path = option ? *(char **)field(option, p->settings) : NULL;
    if (!path) return LT_OK;
    lt_buffer text = {0};
    unsigned char *locked = NULL;
    lt_status status;
    LT_TRY_GOTO(status, lt_read_file(path, MAX_CONFIG_BYTES, &text, err), done);
    locked = malloc(p->table->count);
    if (!locked) {
        status = lt_fail_nomem(err, p->table->count, "the options");
        goto done;
    }
    memcpy(locked, p->result->was_set, p->table->count);
    status = lt_options_apply_yaml(p->table, lt_buffer_text(&text), text.size, path, locked,
                                   p->settings, p->result, err);
done:
    free(locked);
    lt_buffer_free(&text);
    return status;
}

static lt_status check_required(const parser *p, lt_err *err)
{
    for (size_t i = 0; i < p->table->count; i++) {
        const lt_option *option = &p->table->options[i];
        if (!option->required || p->result->was_set[i]) continue;
        bool positional = option == p->table->positional;
        return lt_fail(err, LT_ERR_USAGE, "%s%s is required: %s", positional ? "" : "--",
                       positional && option->metavar ? option->metavar : option->name,
                       option->help);
    }
    return LT_OK;
}

lt_status lt_options_parse(const lt_option_table *table, int argc, char **argv, void *settings,
                           lt_option_result *result, lt_err *err)
{
    *result = (lt_option_result){.help = wants_help(argc, argv)};
    if (result->help) return LT_OK;
    result->was_set = calloc(table->count + 1, 1);
    if (!result->was_set) return lt_fail_nomem(err, table->count, "the options");
    parser p = {.table = table, .settings = settings, .result = result};
    lt_status status;
    LT_TRY_GOTO(status, apply_defaults(table, settings, err), failed);
    LT_TRY_GOTO(status, parse_words(&p, argc, argv, err), failed);
    LT_TRY_GOTO(status, apply_config_file(&p, err), failed);
    LT_TRY_GOTO(status, check_required(&p, err), failed);
    return LT_OK;
failed:
    lt_options_free(table, settings, result);
    return status;
}

void lt_options_free(const lt_option_table *table, void *settings, lt_option_result *result)
{
    for (size_t i = 0; i < table->count; i++) {
        const lt_option *option = &table->options[i];
        if (option->type == LT_OPTION_LIST) {
            lt_option_clear_list(option, settings);
        } else if (option->type == LT_OPTION_STRING || option->type == LT_OPTION_CHOICE) {
            char **text = field(option, settings);
            free(*text);
            *text = NULL;
        }
    }
    if (result) {
        free(result->was_set);
        result->was_set = NULL;
    }
}

bool lt_option_was_set(const lt_option_table *table, const lt_option_result *result,
                       const char *name)
{
    const lt_option *option = lt_option_find(table, name, strlen(name));
    return option && result->was_set && result->was_set[option - table->options];
}

/* --- Help
 * ------------------------------------------------------------------------------------------------
 */

enum { HELP_COLUMN = 34, HELP_WIDTH = 100 };

static const char *metavar(const lt_option *option)
{
    if (option->metavar) return option->metavar;
    switch (option->type) {
    case LT_OPTION_INT:
        return "N";
    case LT_OPTION_NUMBER:
        return "X";
    case LT_OPTION_CHOICE:
        return option->choices;
    case LT_OPTION_LIST:
        return "WORD...";
    default:
        return "TEXT";
    }
}

/* Words of `text` from the current column on, wrapped, each further line indented by `indent`. */
static lt_status append_wrapped(lt_buffer *out, const char *text, int column, int indent,
                                lt_err *err)
{
    bool first = true;
    for (const char *word = text; *word;) {
        int length = (int)strcspn(word, " ");
        if (!first && column + 1 + length > HELP_WIDTH) {
            LT_TRY(lt_buffer_printf(out, err, "\n%*s", indent, ""));
            column = indent;
        } else if (!first) {
            LT_TRY(lt_buffer_append_text(out, " ", err));
            column++;
        }
        LT_TRY(lt_buffer_append(out, word, (size_t)length, err));
        column += length;
        word += length;
        word += strspn(word, " ");
        first = false;
    }
    return lt_buffer_append_text(out, "\n", err);
}

/* The sentence, then in brackets what a value may be. */
static lt_status describe(lt_buffer *out, const lt_option *option, lt_err *err)
{
    const char *separator = " (";
    LT_TRY(lt_buffer_append_text(out, option->help ? option->help : "", err));
    if (option->required) {
        LT_TRY(lt_buffer_printf(out, err, "%srequired", separator));
        separator = "; ";
    }
    bool off = option->type == LT_OPTION_FLAG && option->default_text &&
               strcmp(option->default_text, "false") == 0;
    if (option->default_text && !off) {
        LT_TRY(lt_buffer_printf(out, err, "%sdefault %s", separator, option->default_text));
        separator = "; ";
    }
    if (option->min != 0 || option->max != 0) {
        LT_TRY(lt_buffer_printf(out, err, "%s%.15g to %.15g", separator, option->min, option->max));
        separator = "; ";
    }
    /* with a metavar of their own the choices are not on the left */
    if (option->type == LT_OPTION_CHOICE && option->metavar) {
        LT_TRY(lt_buffer_printf(out, err, "%s%s", separator, option->choices));
        separator = "; ";
    }
    return lt_buffer_append_text(out, *separator == ';' ? ")" : "", err);
}

static lt_status append_option_help(lt_buffer *out, const lt_option *option, bool positional,
                                    lt_err *err)
{
    const size_t start = out->size;
    LT_TRY(lt_buffer_append_text(out, positional ? "  " : "  --", err));
    if (!positional) LT_TRY(lt_buffer_append_text(out, option->name, err));
    if (option->type != LT_OPTION_FLAG)
        LT_TRY(lt_buffer_printf(out, err, "%s%s", positional ? "" : " ", metavar(option)));
    int width = (int)(out->size - start);
    if (width + 2 > HELP_COLUMN)
        LT_TRY(lt_buffer_printf(out, err, "\n%*s", HELP_COLUMN, ""));
    else
        LT_TRY(lt_buffer_printf(out, err, "%*s", HELP_COLUMN - width, ""));
    lt_buffer right = {0};
    lt_status status = describe(&right, option, err);
    if (status == LT_OK)
        status = append_wrapped(out, lt_buffer_text(&right), HELP_COLUMN, HELP_COLUMN, err);
    lt_buffer_free(&right);
    return status;
}

static lt_status append_help(const lt_option_table *table, lt_buffer *out, lt_err *err)
{
    const char *examples = table->description ? strstr(table->description, "\n\n") : NULL;
    LT_TRY(lt_buffer_printf(out, err, "usage: %s\n",
                            table->synopsis ? table->synopsis : table->command));
    if (table->description) {
        lt_buffer intro = {0};
        size_t length =
            examples ? (size_t)(examples - table->description) : strlen(table->description);
        lt_status status = lt_buffer_append(&intro, table->description, length, err);
        if (status == LT_OK) status = lt_buffer_append(out, "\n", 1, err);
        if (status == LT_OK) status = append_wrapped(out, lt_buffer_text(&intro), 0, 0, err);
        lt_buffer_free(&intro);
        LT_TRY(status);
    }
    const char *group = NULL;
    for (size_t i = 0; i < table->count; i++) {
        const lt_option *option = &table->options[i];
        if (i == 0 || (option->group && (!group || strcmp(group, option->group) != 0))) {
            group = option->group;
            LT_TRY(lt_buffer_printf(out, err, "\n%s:\n", group ? group : "options"));
        }
        LT_TRY(append_option_help(out, option, option == table->positional, err));
    }
    if (examples) LT_TRY(lt_buffer_printf(out, err, "%s\n", examples + 1));
    return LT_OK;
}

lt_status lt_options_help(const lt_option_table *table, char **out, lt_err *err)
{
    lt_buffer text = {0};
    lt_status status = append_help(table, &text, err);
    if (status != LT_OK) lt_buffer_free(&text);
    *out = text.data;
    return status;
}
