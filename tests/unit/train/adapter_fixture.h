/* What tests of adapter training share: a base that has been trained a little, data without special
 * tokens, every method, and how to say a run of one of them. Each test is one program. */
#ifndef LT_ADAPTER_FIXTURE_H
#define LT_ADAPTER_FIXTURE_H

#include "train_watch.h"

typedef struct method_case {
    const char *name, *words;
    bool has_network; /* its table comes from a network while training */
} method_case;

static const method_case methods[] = {
    {"lora", "--method lora --lora-r 4 --lora-alpha 12 --lora-dropout 0.2 --use-rslora", false},
    {"dora", "--method lora --lora-r 4 --use-dora --lora-dropout 0.2", false},
    {"dora-dry", "--method lora --lora-r 3 --use-dora --lora-target attention", false},
    {"saved", "--method lora --lora-r 2 --lora-target c_attn --modules-to-save embed,lm_head",
     false},
    {"blocks", "--method lora --lora-r 2 --lora-target c_fc,c_proj --layers-to-transform 1-2",
     false},
    {"half", "--method lora --lora-r 4 --lora-dropout 0.2 --base-dtype bfloat16", false},
    {"prefix", "--method prefix --num-virtual-tokens 5", false},
    {"projection",
     "--method prefix --num-virtual-tokens 5 --prefix-projection --encoder-hidden-size 10", true},
    {"prompt-text",
     "--method prompt --num-virtual-tokens 6 --prompt-tuning-init text "
     "--prompt-tuning-init-text What.follows?",
     false},
    {"prompt-vocab", "--method prompt --num-virtual-tokens 4", false},
    {"prompt-random", "--method prompt --num-virtual-tokens 4 --prompt-tuning-init random", false},
    {"p-tuning", "--method p-tuning --num-virtual-tokens 4 --encoder-hidden-size 12", true},
};
enum { METHODS = sizeof methods / sizeof *methods };

/* "--model BASE --data ALPACA" and what is wanted; good until called twice more. */
static inline const char *on_base(const char *format, ...)
{
    static char texts[2][1024];
    static int next;
    char *out = texts[next++ % 2];
    int used =
        snprintf(out, sizeof texts[0], "--model %s --data %s ", at("base/final"), at("alpaca.h5"));
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out + used, sizeof texts[0] - (size_t)used, format, arguments);
    va_end(arguments);
    return out;
}

static inline int adapter_setup(void **state)
{
    if (fixture_setup(state) != 0) return -1;
    fixture_data_as("alpaca", FIXTURE_RECORDS, false);
    char words[600];
    snprintf(words, sizeof words, "--data %s --max-steps 40 --learning-rate 1e-2", at("alpaca.h5"));
    train_well("base", words, NULL, NULL);
    return 0;
}

#endif
