/* --adapter DIR and --adapter NAME=DIR, for every command that takes them. */
#ifndef LT_CLI_ADAPTERS_H
#define LT_CLI_ADAPTERS_H

#include "train/assistant.h"

enum { LT_CLI_MAX_ADAPTERS = 64 };

typedef struct lt_cli_adapters {
    lt_adapter_source sources[LT_CLI_MAX_ADAPTERS];
    char *names[LT_CLI_MAX_ADAPTERS]; /* owned */
    int64_t count;
} lt_cli_adapters;

/* Without a name an adapter is called as its directory. Two of one name are LT_ERR_USAGE. The words
 * outlive the result. */
lt_status lt_cli_read_adapters(const lt_string_list *words, lt_cli_adapters *out, lt_err *err);
void lt_cli_free_adapters(lt_cli_adapters *adapters);
/* The model of --model with the adapters of --adapter, to be asked in the template of --template
 * (NULL: the one it has). */
lt_status lt_cli_open_assistant(const char *model, const lt_string_list *adapters,
                                const char *template_, const lt_backend *backend, lt_assistant *out,
                                lt_err *err);
/* The adapter of that name, or NULL for "base"; else LT_ERR_USAGE with the names there are. */
lt_status lt_cli_find_adapter(const lt_model *model, const char *name, const char *where,
                              const lt_adapter **out, lt_err *err);

#endif
