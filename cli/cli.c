#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>

bool lt_cli_parse(const lt_option_table *table, int argc, char **argv, void *settings,
                  lt_option_result *result, int *exit_code)
{
    lt_err err = {0};
    lt_status status = lt_options_parse(table, argc, argv, settings, result, &err);
    if (status != LT_OK) {
        *exit_code = lt_cli_fail(status, &err);
        fprintf(stderr, "Try '%s --help'.\n", table->command);
        return false;
    }
    if (!result->help) return true;
    char *help = NULL;
    status = lt_options_help(table, &help, &err);
    if (status == LT_OK) fputs(help, stdout);
    *exit_code = status == LT_OK ? LT_EXIT_OK : lt_cli_fail(status, &err);
    free(help);
    return false;
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
    if (status == LT_ERR_USAGE) return LT_EXIT_USAGE;
    return status == LT_ERR_INTERRUPTED ? LT_EXIT_INTERRUPTED : LT_EXIT_FAILURE;
}
