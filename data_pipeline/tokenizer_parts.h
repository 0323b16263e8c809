/* A tokenizer taken apart, and put together again: for files of other formats (GGUF) that hold its
 * vocabulary, merges and rules in their own ways. */
#ifndef LT_DATA_PIPELINE_TOKENIZER_PARTS_H
#define LT_DATA_PIPELINE_TOKENIZER_PARTS_H

#include <jansson.h>

#include "data_pipeline/tokenizer.h"

/* Longer tokens are not looked at when merges are found by cutting tokens in two. */
#define LT_MAX_MERGED_BYTES 512

/* How a text is cut into the words that are merged. */
typedef enum lt_tokenizer_kind {
    LT_TOKENIZER_GPT2,          /* byte-level, by GPT-2's regular expression; also GPT-NeoX */
    LT_TOKENIZER_LLAMA3,        /* byte-level, numbers of up to three digits */
    LT_TOKENIZER_QWEN2,         /* byte-level, single digits */
    LT_TOKENIZER_SENTENCEPIECE, /* "▁" for spaces, <0xNN> for what is unknown: Llama-2 */
    LT_TOKENIZER_OTHER,
} lt_tokenizer_kind;

typedef enum lt_token_role {
    LT_TOKEN_NONE, /* no token has this id */
    LT_TOKEN_NORMAL,
    LT_TOKEN_BYTE,    /* <0xNN> of a SentencePiece vocabulary */
    LT_TOKEN_UNKNOWN, /* what stands for text that can not be spelled */
    LT_TOKEN_SPECIAL, /* added, and special */
    LT_TOKEN_ADDED,   /* added, not special: always recognised in a text */
} lt_token_role;

lt_token_role lt_tokenizer_role(const lt_tokenizer *tokenizer, int32_t id);
/* Does an added token take spaces with it, or want to stand alone (lstrip, rstrip, single_word)? */
bool lt_tokenizer_is_particular(const lt_tokenizer *tokenizer, int32_t id);

typedef struct lt_token_merge {
    int32_t left, right, joined;
} lt_token_merge;

typedef struct lt_tokenizer_parts {
    lt_tokenizer_kind kind;
    bool prefix_space;             /* a space, or "▁", comes in front of a text */
    bool spares_spaces;            /* ... but not where a text begins with one (Metaspace) */
    bool every_byte;               /* no text is unknown: each byte of UTF-8 has a token */
    int32_t unk_id;                /* -1: none */
    const lt_ids *prefix, *suffix; /* what is put around a text (BOS, EOS); borrowed */
    lt_token_merge *merges;        /* by rank; owned */
    size_t merge_count;
    bool joins_any_pair; /* SentencePiece: neighbours are merged whenever they make a token, all
                            merges to one token having ranks side by side */
    json_t *rules; /* tokenizer.json without vocabulary and merges, and the size of the model's
                      vocabulary as "vocab_size"; owned */
} lt_tokenizer_parts;

lt_status lt_tokenizer_take_apart(const lt_tokenizer *tokenizer, lt_tokenizer_parts *out,
                                  lt_err *err);
void lt_tokenizer_parts_free(lt_tokenizer_parts *parts);

/* What `rules` of an ordinary tokenizer of this kind are, without added tokens. `nfc`: text is
 * brought to that form first. *out: caller owns. LT_TOKENIZER_OTHER has none. */
typedef struct lt_standard_rules {
    lt_tokenizer_kind kind;
    bool nfc, prefix_space;
    const char *bos, *eos; /* put around every text; or NULL */
    int32_t bos_id, eos_id;
    const char *unknown; /* or NULL */
} lt_standard_rules;

lt_status lt_tokenizer_standard_rules(const lt_standard_rules *standard, json_t **out, lt_err *err);

/* The tokenizer of `rules` with vocabulary ({spelling: id}), merges (an array of pairs) and
 * tokenizer_config.json. Takes over all four references, also when it fails. Everything is checked
 * as if it were read from a file; `where` starts every message. */
lt_status lt_tokenizer_assemble(json_t *rules, json_t *vocabulary, json_t *merges, json_t *config,
                                const char *where, lt_tokenizer **out, lt_err *err);

#endif
