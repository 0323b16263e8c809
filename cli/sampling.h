/* How an answer's tokens are chosen: the options for every command that answers. */
#ifndef LT_CLI_SAMPLING_H
#define LT_CLI_SAMPLING_H

#include "base/options.h"
#include "kernels/kernels.h"

typedef struct lt_cli_sampling {
    bool greedy;
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k, seed;
} lt_cli_sampling;

/* LT_ERR_USAGE for --greedy beside a sampling option. Without any option: greedy. */
lt_status lt_cli_choose_sampling(const lt_option_table *table, const lt_option_result *given,
                                 const lt_cli_sampling *options, lt_sampling *out, lt_err *err);

/* Rows for option tables, over the lt_cli_sampling `field` of a settings struct. */
#define LT_SAMPLING_OPTIONS(settings, field)                                                 \
    {.name = "greedy",                                                                       \
     .type = LT_OPTION_FLAG,                                                                 \
     .offset = offsetof(settings, field.greedy),                                             \
     .help = "Always take the likeliest token."},                                            \
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
    {                                                                                        \
        .name = "seed", .type = LT_OPTION_INT, .offset = offsetof(settings, field.seed),     \
        .max = 1e12, .default_text = "42", .help = "The same seed samples the same answers." \
    }

#endif
