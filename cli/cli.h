/* The sub-commands. Each parses its own flags (argv[0] is the first word after its name), prints,
 * and returns the process's exit code. Nothing below cli/ prints or exits. */
#ifndef LT_CLI_H
#define LT_CLI_H

#include <stdio.h>

#include "base/options.h"
#include "base/status.h"

enum { LT_EXIT_OK = 0, LT_EXIT_FAILURE = 1, LT_EXIT_USAGE = 2, LT_EXIT_INTERRUPTED = 130 };

int lt_cmd_tokenizer(int argc, char **argv);
int lt_cmd_prepare(int argc, char **argv);
int lt_cmd_inspect(int argc, char **argv);
int lt_cmd_devices(int argc, char **argv);
int lt_cmd_init(int argc, char **argv);
int lt_cmd_train(int argc, char **argv);
int lt_cmd_generate(int argc, char **argv);
int lt_cmd_chat(int argc, char **argv);
int lt_cmd_score(int argc, char **argv);
int lt_cmd_eval(int argc, char **argv);
int lt_cmd_merge(int argc, char **argv);
int lt_cmd_export(int argc, char **argv);

/* A whole command: parses argv by the table into `settings` (zeroed; the command's own struct),
 * runs it, tells what went wrong and frees what the settings own. Returns the exit code. */
int lt_cli_run(const lt_option_table *table, int argc, char **argv, void *settings,
               lt_status (*run)(const void *settings, lt_err *err));

/* Its beginning. Parses argv by the table. Returns true when the command should go on; else
 * *exit_code is set: help was printed (0), or an error was (2). */
bool lt_cli_parse(const lt_option_table *table, int argc, char **argv, void *settings,
                  lt_option_result *result, int *exit_code);

/* The two ends of that, for a command that parses by itself: each prints and returns the exit code.
 */
int lt_cli_refuse_options(const lt_option_table *table, lt_status status, const lt_err *err);
int lt_cli_print_help(const lt_option_table *table);

/* Prints "lathe: error: message" on stderr and returns the exit code for the status. */
int lt_cli_fail(lt_status status, const lt_err *err);
int lt_cli_exit_code(lt_status status);

/* A line that may quote a file, whose control characters are not for the terminal. */
void lt_cli_print_safely(FILE *out, const char *text);
/* Each line of the text, with `before` in front; control characters as above. */
void lt_cli_print_lines(FILE *out, const char *before, const char *text);

#endif
