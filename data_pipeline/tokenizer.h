/* The tokenizer: text to token ids and back, exactly as Hugging Face's `tokenizers` library does
 * it.
 *
 * Reads `tokenizer.json` (byte-level BPE with the GPT-2, GPT-NeoX, Llama-3 and Qwen2
 * pre-tokenizers, and the SentencePiece-style BPE of Llama-2 files), or a `vocab.json` +
 * `merges.txt` pair. A pre-tokenizer, normaliser, decoder or model type that is not supported is
 * LT_ERR_UNSUPPORTED and names it: ids are right or refused. After loading, a tokenizer is
 * immutable and may be used by several threads at once, each with its own lt_encoder. */
#ifndef LT_DATA_PIPELINE_TOKENIZER_H
#define LT_DATA_PIPELINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

typedef struct lt_tokenizer lt_tokenizer;

/* --- Loading and saving
 * ---------------------------------------------------------------------------- */

/* `path`: a directory with tokenizer.json (or vocab.json and merges.txt), or such a file itself.
 * The tokenizer_config.json, special_tokens_map.json and chat_template.jinja beside it are kept for
 * saving. */
lt_status lt_tokenizer_load(const char *path, lt_tokenizer **out, lt_err *err);

/* Does the directory have a tokenizer's files? */
bool lt_has_tokenizer(const char *directory);

/* From memory: the texts of tokenizer.json and tokenizer_config.json (the latter may be NULL).
 * `where` names the source in messages. This is how a dataset's stored tokenizer is opened. */
lt_status lt_tokenizer_parse(const char *tokenizer_json, size_t tokenizer_json_size,
                             const char *tokenizer_config_json, size_t tokenizer_config_json_size,
                             const char *where, lt_tokenizer **out, lt_err *err);
void lt_tokenizer_free(lt_tokenizer *tokenizer); /* NULL is fine */

/* Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json (when there are special
 * tokens) and what was carried along into an existing directory: files that Hugging Face loads to
 * the same ids. Tokens that were added are in all of them. Unknown keys are written back unchanged.
 */
lt_status lt_tokenizer_save(const lt_tokenizer *tokenizer, const char *directory, lt_err *err);

/* The same two texts as lt_tokenizer_save writes, for lt_tokenizer_parse. What other files say is
 * taken into the second: a chat_template.jinja, and named tokens of special_tokens_map.json. */
lt_status lt_tokenizer_to_json(const lt_tokenizer *tokenizer, lt_buffer *tokenizer_json,
                               lt_buffer *tokenizer_config_json, lt_err *err);

/* XXH3-128 over vocabulary, merges, added tokens and rules, in hexadecimal: equal hashes give equal
 * ids, however the files are formatted. Borrowed from the tokenizer. */
const char *lt_tokenizer_hash(const lt_tokenizer *tokenizer);

/* --- Facts
 * ------------------------------------------------------------------------------------------- */

int64_t
lt_tokenizer_vocab_size(const lt_tokenizer *tokenizer); /* highest id + 1, added tokens included */
/* The id of a token by its content ("<|endoftext|>"; for ordinary tokens the byte-mapped spelling),
 * or -1. */
int32_t lt_tokenizer_token_id(const lt_tokenizer *tokenizer, const char *content);
/* The spelling of a token in the file, NULL for an id that is not used. Borrowed. */
const char *lt_tokenizer_token(const lt_tokenizer *tokenizer, int32_t id);
bool lt_tokenizer_is_special(const lt_tokenizer *tokenizer, int32_t id);
/* From tokenizer_config.json (bos_token, eos_token, pad_token, unk_token), -1 where absent. Without
 * a config, eos is the id of "<|endoftext|>" or "</s>" when there is one. */
int32_t lt_tokenizer_bos_id(const lt_tokenizer *tokenizer);
int32_t lt_tokenizer_eos_id(const lt_tokenizer *tokenizer);
int32_t lt_tokenizer_pad_id(const lt_tokenizer *tokenizer);
/* The Jinja source of its chat template: chat_template.jinja, else "chat_template" of
 * tokenizer_config.json (of several named ones "default"); NULL: it has none. Borrowed. */
const char *lt_tokenizer_chat_template(const lt_tokenizer *tokenizer);

/* Adds special tokens (special, not normalised, no stripping) that the vocabulary lacks, with the
 * next free ids in the order given, and records them as additional_special_tokens. *added: how many
 * were new. Not while in use. */
lt_status lt_tokenizer_add_special_tokens(lt_tokenizer *tokenizer, const char *const *contents,
                                          size_t count, size_t *added, lt_err *err);

/* --- Encoding
 * ----------------------------------------------------------------------------------------- */

typedef enum lt_encode_flags {
    LT_ENCODE_PLAIN = 0,
    /* added tokens found in the text become their ids (Hugging Face's behaviour for whole texts);
     * without this flag special tokens in the text stay ordinary characters, so user text can never
     * become one. Added tokens that are not special (runs of spaces in GPT-NeoX) are always
     * recognised. */
    LT_ENCODE_PARSE_SPECIAL = 1,
    /* apply the post-processor: BOS and the like (add_special_tokens=True) */
    LT_ENCODE_ADD_SPECIAL = 2,
} lt_encode_flags;

/* Working memory and the cache of words already encoded; one per thread. The tokenizer outlives it.
 */
typedef struct lt_encoder lt_encoder;
lt_status lt_encoder_create(const lt_tokenizer *tokenizer, lt_encoder **out, lt_err *err);
void lt_encoder_free(lt_encoder *encoder);

/* Appends the ids of text[0..size) to `out`. LT_ERR_FORMAT when the text is not UTF-8 (with the
 * byte offset). */
lt_status lt_encode(lt_encoder *encoder, const char *text, size_t size, unsigned flags, lt_ids *out,
                    lt_err *err);

/* --- Decoding
 * ----------------------------------------------------------------------------------------- */

/* Appends the text of the ids. Bytes that are not UTF-8 become U+FFFD, as Hugging Face does.
 * LT_ERR_FORMAT for an id outside the vocabulary; ids of the vocabulary's range that no token uses
 * decode to nothing. */
lt_status lt_decode(const lt_tokenizer *tokenizer, const int32_t *ids, size_t count,
                    bool skip_special, lt_buffer *out, lt_err *err);

/* Streaming: text comes out as soon as its characters are certain, never half a character. The
 * pieces joined equal lt_decode of all ids. (With byte fallback a run of byte tokens is one thing
 * to Hugging Face: all characters, or all U+FFFD. It comes out when it ends.) */
#define LT_MAX_DECODER_STEPS 8
typedef struct lt_stream_decoder {
    const lt_tokenizer *tokenizer;
    bool skip_special;
    bool started;                              /* the first token may be treated differently */
    bool strip_done;                           /* text has come that is not to be stripped */
    size_t stripped;                           /* characters taken off the beginning so far */
    lt_buffer pending;                         /* bytes of a character or run still incomplete */
    lt_buffer step_text[LT_MAX_DECODER_STEPS]; /* working memory of the decoder's steps */
} lt_stream_decoder;

void lt_stream_decoder_init(lt_stream_decoder *decoder, const lt_tokenizer *tokenizer,
                            bool skip_special);
lt_status lt_stream_decoder_push(lt_stream_decoder *decoder, int32_t id, lt_buffer *out,
                                 lt_err *err);
/* The end: what is incomplete comes out as U+FFFD. Frees the decoder's memory, also on failure. */
lt_status lt_stream_decoder_finish(lt_stream_decoder *decoder, lt_buffer *out, lt_err *err);

/* --- Training
 * ------------------------------------------------------------------------------------------ */

typedef struct lt_bpe_train_settings {
    int64_t
        vocab_size; /* total, special tokens and the 256 bytes included; at least 256 + specials */
    int64_t min_frequency;             /* pairs seen less often are not merged (2) */
    const char *const *special_tokens; /* ids 0.. in this order; usually just "<|endoftext|>" */
    size_t special_token_count;
    int threads; /* 0: all; the result does not depend on it */
} lt_bpe_train_settings;

/* Trains a byte-level BPE with the GPT-2 pre-tokenizer on whole text files (`.jsonl` files: every
 * string of every record, each on a line of its own). Ties go to the pair with the lower ids, so
 * that the result depends on the text alone, and is what Hugging Face's trainer makes of it. The
 * first special token becomes bos, eos and unk. */
lt_status lt_tokenizer_train(const char *const *files, size_t file_count,
                             const lt_bpe_train_settings *settings, lt_tokenizer **out,
                             lt_err *err);

#endif
