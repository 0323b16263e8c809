/* What the tokenizer's source files share. Text inside is always valid UTF-8: lt_encode checks it
 * once at the door.
 *
 * The way of a text: raw added tokens are cut out (added_tokens.c), the pieces between are
 * normalised (normalizer.c), normalised added tokens are cut out, the pieces between are cut into
 * words (pretokenizer.c), and each word becomes ids by merging (bpe.c), mostly out of the cache
 * (bpe_cache.c). */
#ifndef LT_DATA_PIPELINE_TOKENIZER_INTERNAL_H
#define LT_DATA_PIPELINE_TOKENIZER_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"
#include "data_pipeline/tokenizer.h"

/* Ids are array indices here, and vocabularies are far smaller: a file that asks for more is
 * broken. */
#define LT_MAX_TOKEN_ID ((1 << 24) - 1)

/* --- unicode_classes.c ------------------------------------------------------------------------ */

enum {
    LT_CLASS_LETTER = 1,      /* \p{L} */
    LT_CLASS_NUMBER = 2,      /* \p{N} */
    LT_CLASS_SPACE = 4,       /* \s */
    LT_CLASS_WORD = 8,        /* \w, for single_word */
    LT_CLASS_NFC_ACTIVE = 16, /* NFC may change it, move it, or join it to what is before it */
    LT_CLASS_NFC_FIRST = 32,  /* NFC may join what comes after to it */
};

#define LT_CODE_POINTS 0x110000
extern unsigned char lt_unicode_class[LT_CODE_POINTS];

void lt_unicode_init(void); /* fills the table once; any thread, any number of times */

/* Length of the longest prefix that is valid UTF-8 (no surrogates, no overlong forms). */
size_t lt_utf8_valid_prefix(const char *text, size_t size);
/* Where text[0..size) goes on after a bad byte at its beginning: the length of the part that one
 * U+FFFD replaces (maximal subpart), or 0 when more bytes could still complete the character. */
size_t lt_utf8_bad_length(const char *text, size_t size);

/* The code point at `p`, which must begin a valid one; *length: its bytes. */
static inline uint32_t lt_utf8_decode(const unsigned char *p, size_t *length)
{
    if (p[0] < 0x80) return *length = 1, p[0];
    if (p[0] < 0xE0) return *length = 2, (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    if (p[0] < 0xF0)
        return *length = 3, (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    *length = 4;
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

/* Class of the character at `p` and its length in bytes. */
static inline unsigned lt_class_at(const unsigned char *p, size_t *length)
{
    return lt_unicode_class[lt_utf8_decode(p, length)];
}

/* The character that ends before `p`, going back from it; `begin` bounds the text. */
static inline const unsigned char *lt_utf8_previous(const unsigned char *begin,
                                                    const unsigned char *p)
{
    do {
        p--;
    } while (p > begin && (*p & 0xC0) == 0x80);
    return p;
}

size_t lt_utf8_encode(uint32_t code_point, char out[4]);

/* --- vocabulary.c ----------------------------------------------------------------------------- */

/* Spelling <-> id. Owns everything. */
typedef struct lt_vocabulary {
    lt_buffer text;   /* all spellings, each followed by NUL */
    uint32_t *offset; /* [size] into text; LT_NO_SPELLING for an id without a token */
    uint32_t *length; /* [size] bytes */
    int64_t size;     /* highest id + 1 */
    int64_t count;    /* tokens */
    int32_t *slots;   /* [slot_mask + 1] open addressing: id, or -1 */
    size_t slot_mask;
} lt_vocabulary;

#define LT_NO_SPELLING UINT32_MAX

/* From a JSON object of spelling: id. */
lt_status lt_vocabulary_build(lt_vocabulary *vocabulary, const json_t *object, const char *where,
                              lt_err *err);
void lt_vocabulary_free(lt_vocabulary *vocabulary);
int32_t lt_vocabulary_find(const lt_vocabulary *vocabulary, const char *spelling, size_t size);
/* NULL for an id without a token. */
const char *lt_vocabulary_spelling(const lt_vocabulary *vocabulary, int32_t id, size_t *size);

/* --- normalizer.c ----------------------------------------------------------------------------- */

typedef enum lt_normalizer_kind {
    LT_NORMALIZER_NFC,
    LT_NORMALIZER_PREPEND, /* `content` in front of what is not empty */
    LT_NORMALIZER_REPLACE, /* every `pattern` by `content` */
} lt_normalizer_kind;

typedef struct lt_normalizer_step {
    lt_normalizer_kind kind;
    char *pattern, *content; /* owned */
    size_t pattern_size, content_size;
} lt_normalizer_step;

typedef struct lt_normalizer {
    lt_normalizer_step *steps;
    size_t count;
} lt_normalizer;

void lt_normalizer_free(lt_normalizer *normalizer);
/* *out: the normalised text, either text[0..size) itself or in one of the two buffers. */
lt_status lt_normalize(const lt_normalizer *normalizer, const char *text, size_t size,
                       lt_buffer buffers[2], const char **out, size_t *out_size, lt_err *err);
/* Bytes that LT_NORMALIZER_PREPEND steps put in front. */
size_t lt_normalizer_prepended(const lt_normalizer *normalizer);
/* Appends text with every `pattern` (not empty) replaced by `content`. */
lt_status lt_replace_all(const char *text, size_t size, const char *pattern, size_t pattern_size,
                         const char *content, size_t content_size, lt_buffer *out, lt_err *err);

/* --- pretokenizer.c --------------------------------------------------------------------------- */

typedef enum lt_pretokenizer_kind {
    LT_SPLIT_GPT2,                /* also GPT-NeoX */
    LT_SPLIT_LLAMA3,              /* numbers of up to three digits */
    LT_SPLIT_QWEN2,               /* single digits */
    LT_PRETOKENIZER_PREFIX_SPACE, /* ByteLevel's add_prefix_space */
    LT_PRETOKENIZER_METASPACE,
} lt_pretokenizer_kind;

typedef enum lt_prepend_scheme {
    LT_PREPEND_ALWAYS,
    LT_PREPEND_FIRST,
    LT_PREPEND_NEVER
} lt_prepend_scheme;

/* ByteLevel's map of bytes to characters is no step: bpe.c works on the bytes. */
typedef struct lt_pretokenizer_step {
    lt_pretokenizer_kind kind;
    char replacement[5]; /* LT_PRETOKENIZER_METASPACE: one character, UTF-8 */
    lt_prepend_scheme scheme;
    bool split;
} lt_pretokenizer_step;

#define LT_MAX_PRETOKENIZER_STEPS 8

typedef struct lt_pretokenizer {
    lt_pretokenizer_step steps[LT_MAX_PRETOKENIZER_STEPS];
    size_t count;
    bool byte_level; /* words are mapped byte by byte to the vocabulary's alphabet */
} lt_pretokenizer;

/* The splitter whose regular expression is spelled `pattern`. */
bool lt_split_kind_of_regex(const char *pattern, lt_pretokenizer_kind *out);
const char *lt_split_regex(lt_pretokenizer_kind kind); /* NULL: it is no splitter */
/* Length of the first word of text[0..size), size >= 1. */
size_t lt_split_next(lt_pretokenizer_kind kind, const char *text, size_t size);

/* --- added_tokens.c --------------------------------------------------------------------------- */

typedef struct lt_added_token {
    char *content; /* as in the file; owned */
    size_t content_size;
    char *pattern; /* what is looked for, and what it decodes to: normalised when `normalized`;
                      owned */
    size_t pattern_size;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
    bool skipped; /* decoding with skip_special leaves it out */
} lt_added_token;

/* Trie over patterns for the leftmost-longest match. */
typedef struct lt_token_matcher {
    int32_t root[256]; /* node for the first byte, or -1 */
    int32_t *terminal; /* [node_count] index of the added token that ends here, or -1 */
    size_t node_count, node_capacity;
    uint64_t *edge_keys; /* [edge_mask + 1] (node << 8 | byte) + 1, 0: free */
    int32_t *edge_nodes;
    size_t edge_mask, edge_count;
    bool any;
} lt_token_matcher;

typedef struct lt_added_tokens {
    lt_added_token *tokens; /* ordered by id */
    size_t count;
    lt_token_matcher raw;        /* normalized: false */
    lt_token_matcher normalized; /* normalized: true */
    int32_t *slots;              /* content -> index, open addressing, -1: free */
    size_t slot_mask;
} lt_added_tokens;

lt_status lt_added_tokens_build(lt_added_tokens *added, const json_t *array,
                                const lt_vocabulary *vocabulary, const lt_normalizer *normalizer,
                                const char *where, lt_err *err);
void lt_added_tokens_free(lt_added_tokens *added);
const lt_added_token *lt_added_tokens_find(const lt_added_tokens *added, const char *content,
                                           size_t size);
const lt_added_token *lt_added_tokens_by_id(const lt_added_tokens *added, int32_t id);

/* Walks over text[0..size): each call gives the text before the next token, [*begin, *end), and
 * the token, or NULL after the last. */
typedef struct lt_token_scan {
    const lt_added_tokens *added;
    const lt_token_matcher *matcher;
    const char *text;
    size_t size;
    size_t position; /* where the search goes on */
    size_t consumed; /* end of the last token, swallowed spaces included */
    bool skip_special;
    /* [size], or NULL: only where every byte is 0 is there a token */
    const unsigned char *barred;
} lt_token_scan;

const lt_added_token *lt_token_scan_next(lt_token_scan *scan, size_t *begin, size_t *end);

/* --- bpe.c, bpe_cache.c ----------------------------------------------------------------------- */

typedef struct lt_merge_slot {
    uint64_t pair; /* left id << 32 | right id; LT_NO_PAIR: free */
    uint32_t rank;
    int32_t id; /* of the two together */
} lt_merge_slot;

#define LT_NO_PAIR UINT64_MAX
#define LT_NO_RANK UINT32_MAX

typedef struct lt_bpe {
    lt_vocabulary vocabulary;
    lt_merge_slot *merges; /* [merge_mask + 1] open addressing */
    size_t merge_mask, merge_count;
    bool byte_level; /* words are bytes, looked up by byte_ids */
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t unk_id;            /* -1: none */
    int32_t byte_ids[256];     /* of the byte's character in the byte-level alphabet, or -1 */
    int32_t fallback_ids[256]; /* of <0xNN>, or -1 */
    /* Words may be cut before each separator that follows another character without changing the
     * ids: no merge reaches over such a place. Empty: they may not. */
    char separator[5];
} lt_bpe;

lt_status lt_bpe_build(lt_bpe *bpe, const json_t *model, bool byte_level, const char *where,
                       lt_err *err);
void lt_bpe_free(lt_bpe *bpe);

static inline size_t lt_merge_hash(uint64_t pair)
{
    return (size_t)((pair * 0x9E3779B97F4A7C15u) >> 24);
}

static inline const lt_merge_slot *lt_merge_find(const lt_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (size_t i = lt_merge_hash(pair) & bpe->merge_mask;; i = (i + 1) & bpe->merge_mask) {
        if (bpe->merges[i].pair == pair) return &bpe->merges[i];
        if (bpe->merges[i].pair == LT_NO_PAIR) return NULL;
    }
}

/* Working memory for merging one word. */
typedef struct lt_bpe_scratch {
    lt_ids symbols; /* the word as ids, then merged */
    int32_t *links; /* previous and next of each symbol: long words */
    size_t links_capacity;
    uint64_t *heap; /* rank << 32 | position */
    size_t heap_capacity;
    lt_buffer spelled; /* the word in the vocabulary's alphabet */
} lt_bpe_scratch;

/* Sets scratch->symbols to the ids of one word. */
lt_status lt_bpe_encode_word(const lt_bpe *bpe, lt_bpe_scratch *scratch, const char *word,
                             size_t size, lt_err *err);
void lt_bpe_scratch_free(lt_bpe_scratch *scratch);

/* The byte-level alphabet: the character that stands for a byte, and back (-1: none). */
uint32_t lt_byte_to_char(unsigned char byte);
int lt_char_to_byte(uint32_t code_point);

/* Words already encoded. */
typedef struct lt_cache_slot {
    uint64_t key[2]; /* key[1] is 0: free */
    uint32_t first;  /* the id when count is 1, else where the ids begin in `ids` */
    uint32_t count;
} lt_cache_slot;

typedef struct lt_bpe_cache {
    lt_cache_slot *slots; /* [slot_mask + 1] */
    size_t slot_mask, used;
    lt_ids ids;
    lt_buffer words; /* words too long for the key itself */
} lt_bpe_cache;

lt_status lt_bpe_cache_create(lt_bpe_cache *cache, lt_err *err);
void lt_bpe_cache_free(lt_bpe_cache *cache);
/* Appends the ids of one word to `out`. */
lt_status lt_bpe_cached_word(lt_bpe_cache *cache, const lt_bpe *bpe, lt_bpe_scratch *scratch,
                             const char *word, size_t size, lt_ids *out, lt_err *err);

/* --- the whole -------------------------------------------------------------------------------- */

typedef enum lt_decoder_kind {
    LT_DECODER_BYTE_LEVEL,
    LT_DECODER_REPLACE,       /* in each token */
    LT_DECODER_BYTE_FALLBACK, /* runs of <0xNN> tokens become characters */
    LT_DECODER_FUSE,          /* what follows sees one token */
    LT_DECODER_STRIP,         /* up to strip_count `content` characters at the beginning */
    LT_DECODER_METASPACE,
} lt_decoder_kind;

typedef struct lt_decoder_step {
    lt_decoder_kind kind;
    char *pattern, *content; /* owned */
    size_t pattern_size, content_size;
    size_t strip_count;
    bool drop_first; /* LT_DECODER_METASPACE: the first token's replacements vanish */
} lt_decoder_step;

typedef struct lt_decoder {
    lt_decoder_step *steps;
    size_t count;
    bool joined_by_space; /* no decoder at all: tokens are shown with spaces between */
} lt_decoder;

void lt_decoder_free(lt_decoder *decoder);

struct lt_tokenizer {
    char *where;         /* for messages */
    json_t *json;        /* tokenizer.json */
    json_t *config;      /* tokenizer_config.json or NULL */
    json_t *special_map; /* special_tokens_map.json or NULL */
    char *chat_template; /* chat_template.jinja or NULL */
    lt_bpe bpe;
    lt_added_tokens added;
    lt_normalizer normalizer;
    lt_pretokenizer pretokenizer;
    lt_decoder decoder;
    lt_ids prefix, suffix; /* what the post-processor puts around a text */
    int64_t vocab_size;
    int32_t bos_id, eos_id, pad_id;
    char hash[33];
};

/* tokenizer_rules.c: sections of tokenizer.json; each accepts JSON null. */
lt_status lt_parse_normalizer(const json_t *json, const char *where, lt_normalizer *out,
                              lt_err *err);
lt_status lt_parse_pretokenizer(const json_t *json, const char *where, lt_pretokenizer *out,
                                lt_err *err);
lt_status lt_parse_decoder(const json_t *json, const char *where, lt_decoder *out, lt_err *err);
lt_status lt_parse_post_processor(const json_t *json, const char *where, lt_ids *prefix,
                                  lt_ids *suffix, lt_err *err);

/* tokenizer_parse.c. Takes over the references (config and special_map may be NULL). */
lt_status lt_tokenizer_from_json(json_t *json, json_t *config, json_t *special_map,
                                 const char *where, lt_tokenizer **out, lt_err *err);
/* After added tokens or config have changed: ids of bos, eos, pad; vocab_size; hash. */
lt_status lt_tokenizer_refresh(lt_tokenizer *tokenizer, lt_err *err);
/* "bos_token" and the like: tokenizer_config.json first, then special_tokens_map.json; or NULL. */
const char *lt_tokenizer_named_token(const lt_tokenizer *tokenizer, const char *key);
/* The content of a special token entry (a string, or an object with `content`), or NULL. */
const char *lt_special_token_content(const json_t *entry);

/* tokenizer_encode.c. Special tokens of text[0..size) where no byte of them is barred ([size]), the
 * leftmost and longest, as the reference library finds them in a whole text. */
typedef struct lt_special_place {
    size_t begin, end;             /* the token itself */
    size_t outer_begin, outer_end; /* with the white space that it swallows */
    int32_t id;
} lt_special_place;
/* Appends to *places [*count], which the caller frees. */
lt_status lt_find_special(const lt_tokenizer *tokenizer, const char *text, size_t size,
                          const unsigned char *barred, lt_special_place **places, size_t *count,
                          lt_err *err);

/* One thing that lives as long as the encoder: what others keep for each thread. */
typedef struct lt_encoder_guest {
    void *value; /* or NULL */
    void (*free)(void *value);
} lt_encoder_guest;
lt_encoder_guest *lt_encoder_guest_of(lt_encoder *encoder);
const lt_tokenizer *lt_encoder_tokenizer(const lt_encoder *encoder);

/* Where a text that is encoded in pieces stands in the whole. */
typedef enum lt_text_place {
    LT_TEXT_FIRST,       /* at its beginning */
    LT_TEXT_AFTER_TOKEN, /* after a token: as encoding the whole would treat it */
    LT_TEXT_CONTINUED,   /* in the middle of a text: nothing is put in front */
} lt_text_place;
/* lt_encode, plain, of a part of a text. */
lt_status lt_encode_part(lt_encoder *encoder, const char *text, size_t size, lt_text_place place,
                         lt_ids *out, lt_err *err);

/* tokenizer_load.c. The tokenizer.json of a GPT-2 vocabulary; takes over the three references. NULL
 * when there is no memory. */
json_t *lt_gpt2_tokenizer_json(json_t *vocab, json_t *merges, json_t *added, bool prefix_space);

/* tokenizer_hash.c */
lt_status lt_tokenizer_compute_hash(lt_tokenizer *tokenizer, lt_err *err);

#endif
