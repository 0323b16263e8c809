#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>

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
    /* a message may quote a file, whose control characters are not for the terminal */
    for (const char *c = message; *c; c++)
        fputc((unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c, stderr);
    fputc('\n', stderr);
    return lt_cli_exit_code(status);
}
