/* How to answer: the options of every command that does. */
#ifndef LT_CLI_ANSWERING_H
#define LT_CLI_ANSWERING_H

#include "base/options.h"
#include "train/assistant.h"

typedef struct lt_cli_answering {
    int64_t max_new_tokens, top_k, seed;
    bool greedy;
    double temperature, top_p, min_p, repetition_penalty;
    lt_string_list stop;
} lt_cli_answering;

/* Until a signal (cli/interrupt.h). *out borrows the stop texts. LT_ERR_USAGE for --greedy beside a
 * sampling option. Without any of them: greedy. */
lt_status lt_cli_choose_answering(const lt_option_table *table, const lt_option_result *given,
                                  const lt_cli_answering *options, lt_answer_settings *out,
                                  lt_err *err);

/* Rows for option tables, over the lt_cli_answering `field` of a settings struct. */
#define LT_ANSWERING_OPTIONS(settings, field, longest)                                       \
    {.name = "max-new-tokens",                                                               \
     .type = LT_OPTION_INT,                                                                  \
     .offset = offsetof(settings, field.max_new_tokens),                                     \
     .max = 1e9,                                                                             \
     .default_text = longest,                                                                \
     .help = "Longest answer; 0: as long as the model can see.",                             \
     .group = "How to answer (without any of these: greedy)"},                               \
        {.name = "greedy",                                                                   \
         .type = LT_OPTION_FLAG,                                                             \
         .offset = offsetof(settings, field.greedy),                                         \
         .help = "Always take the likeliest token."},                                        \
        {.name = "temperature",                                                              \
         .type = LT_OPTION_NUMBER,                                                           \
         .offset = offsetof(settings, field.temperature),                                    \
         .max = 100,                                                                         \
         .help = "Sample; below 1 likelier tokens gain, 0 is greedy. 1 when another of the " \
                 "sampling options is given."},                                              \
        {.name = "top-k",                                                                    \
         .type = LT_OPTION_INT,                                                              \
         .offset = offsetof(settings, field.top_k),                                          \
         .max = 1e9,                                                                         \
         .help = "Sample from the so many likeliest tokens."},                               \
        {.name = "top-p",                                                                    \
         .type = LT_OPTION_NUMBER,                                                           \
         .offset = offsetof(settings, field.top_p),                                          \
         .max = 1,                                                                           \
         .help = "Sample from the fewest tokens that together have this probability."},      \
        {.name = "min-p",                                                                    \
         .type = LT_OPTION_NUMBER,                                                           \
         .offset = offsetof(settings, field.min_p),                                          \
         .max = 1,                                                                           \
         .help = "Leave out tokens less likely than this share of the likeliest."},          \
        {.name = "repetition-penalty",                                                       \
         .type = LT_OPTION_NUMBER,                                                           \
         .offset = offsetof(settings, field.repetition_penalty),                             \
         .min = 0.01,                                                                        \
         .max = 100,                                                                         \
         .default_text = "1",                                                                \
         .help = "Above 1, tokens that occurred become less likely."},                       \
        {.name = "seed",                                                                     \
         .type = LT_OPTION_INT,                                                              \
         .offset = offsetof(settings, field.seed),                                           \
         .max = 1e12,                                                                        \
         .default_text = "42",                                                               \
         .help = "The same seed samples the same answers."},                                 \
    {                                                                                        \
        .name = "stop", .type = LT_OPTION_LIST, .offset = offsetof(settings, field.stop),    \
        .metavar = "TEXT", .help = "End the answer before any of these texts."               \
    }

#endif
