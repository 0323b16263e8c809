/* libFuzzer target: any bytes as a settings file. What is accepted must be saved and read back as
 * the same settings. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/options_internal.h"

typedef struct settings {
    int64_t epochs;
    double learning_rate;
    bool dry_run;
    char *scheduler, *text;
    lt_string_list input;
} settings;

static const lt_option options[] = {
    {"epochs", LT_OPTION_INT, offsetof(settings, epochs), .default_text = "3", .max = 1e6,
     .aliases = "num-train-epochs n"},
    {"learning-rate", LT_OPTION_NUMBER, offsetof(settings, learning_rate), .default_text = "1e-4"},
    {"dry-run", LT_OPTION_FLAG, offsetof(settings, dry_run), .default_text = "false"},
    {"lr-scheduler", LT_OPTION_CHOICE, offsetof(settings, scheduler), .default_text = "cosine",
     .choices = "cosine|linear"},
    {"input", LT_OPTION_LIST, offsetof(settings, input), .aliases = "i"},
    {"text", LT_OPTION_STRING, offsetof(settings, text), .aliases = "t"},
};
static const lt_option_table table = {
    .command = "fuzz", .options = options, .count = sizeof options / sizeof *options};

/* The settings of this text over the defaults, in `saved`; false when it is refused. */
static bool read_settings(const char *text, size_t size, char **saved)
{
    settings set = {0};
    lt_option_result result;
    lt_err err = {0};
    *saved = NULL;
    if (lt_options_parse(&table, 0, NULL, &set, &result, &err) != LT_OK) abort();
    lt_status status =
        lt_options_apply_yaml(&table, text, size, "fuzz.yaml", NULL, &set, &result, &err);
    if (status == LT_OK) status = lt_options_to_yaml(&table, &set, saved, &err);
    if (status != LT_OK && (err.code != status || !err.message[0])) abort();
    lt_options_free(&table, &set, &result);
    return status == LT_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *saved, *again;
    if (read_settings((const char *)data, size, &saved)) {
        if (!read_settings(saved, strlen(saved), &again)) abort();
        if (strcmp(saved, again) != 0) abort();
        free(again);
    }
    free(saved);
    return 0;
}
