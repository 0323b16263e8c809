#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

int lt_cli_refuse_options(const lt_option_table *table, lt_status status, const lt_err *err)
{
    int code = lt_cli_fail(status, err);
    fprintf(stderr, "Try '%s --help'.\n", table->command);
    return code;
}

int lt_cli_print_help(const lt_option_table *table)
{
    lt_err err = {0};
    char *help = NULL;
    lt_status status = lt_options_help(table, &help, &err);
    if (status == LT_OK) fputs(help, stdout);
    free(help);
    return status == LT_OK ? LT_EXIT_OK : lt_cli_fail(status, &err);
}

bool lt_cli_parse(const lt_option_table *table, int argc, char **argv, void *settings,
                  lt_option_result *result, int *exit_code)
{
    lt_err err = {0};
    lt_status status = lt_options_parse(table, argc, argv, settings, result, &err);
    if (status != LT_OK)
        *exit_code = lt_cli_refuse_options(table, status, &err);
    else if (result->help)
        *exit_code = lt_cli_print_help(table);
    return status == LT_OK && !result->help;
}

int lt_cli_run(const lt_option_table *table, int argc, char **argv, void *settings,
               lt_status (*run)(const void *settings, lt_err *err))
{
    lt_option_result given = {0};
    lt_err err = {0};
    int exit_code = LT_EXIT_OK;
    if (lt_cli_parse(table, argc, argv, settings, &given, &exit_code)) {
        lt_status status = run(settings, &err);
        if (status != LT_OK) exit_code = lt_cli_fail(status, &err);
    }
    lt_options_free(table, settings, &given);
    return exit_code;
}

int lt_cli_exit_code(lt_status status)
{
    if (status == LT_ERR_USAGE) return LT_EXIT_USAGE;
    return status == LT_ERR_INTERRUPTED ? LT_EXIT_INTERRUPTED : LT_EXIT_FAILURE;
}

int lt_cli_fail(lt_status status, const lt_err *err)
{
    const char *message = err->message[0] ? err->message : "failed, with no reason given";
    fflush(stdout);
    fputs("lathe: error: ", stderr);
    lt_cli_print_safely(stderr, message);
    return lt_cli_exit_code(status);
}

static void put_safely(FILE *out, char c)
{
    fputc((unsigned char)c < ' ' || c == 0x7f ? '?' : c, out);
}

void lt_cli_print_safely(FILE *out, const char *text)
{
    for (; *text; text++)
        put_safely(out, *text);
    fputc('\n', out);
}

void lt_cli_print_lines(FILE *out, const char *before, const char *text)
{
    while (*text) {
        fputs(before, out);
        for (; *text && *text != '\n'; text++)
            put_safely(out, *text);
        fputc('\n', out);
        text += *text == '\n';
    }
}
