/* Export: a tuned model to what others serve: Hugging Face directories (transformers, vLLM), PEFT
 * adapters, GGUF (llama.cpp). */
#ifndef LT_TRAIN_EXPORT_H
#define LT_TRAIN_EXPORT_H

#include <signal.h>

#include "model/gguf_model.h"
#include "train/open_model.h"

typedef enum lt_export_format { LT_EXPORT_HF, LT_EXPORT_PEFT, LT_EXPORT_GGUF } lt_export_format;

typedef struct lt_export_settings {
    lt_export_format format;
    const char *output; /* a directory, or a .gguf file */
    lt_dtype dtype;     /* hf, peft, and gguf that is not quantised */
    bool quantised;
    lt_gguf_format quantisation;
    uint64_t max_shard_bytes;
    bool merge; /* hf, gguf: the adapter goes into the weights; gguf without: an adapter file */
    bool verify, force;
    /* where `opened` came from, for the card and what is copied unchanged: a directory or a GGUF
     * file; adapter or NULL */
    const char *model_directory, *adapter_directory;
    const char *model_name; /* as the user wrote it ("org/name"); NULL: unknown */
    const char *evaluation; /* results_*.json of an evaluation for the card; NULL: the newest beside
                               the model */
    const volatile sig_atomic_t *cancelled; /* may be NULL; not 0: LT_ERR_INTERRUPTED, and nothing
                                               is left, at the end of the file being written */
} lt_export_settings;

typedef struct lt_export_report {
    lt_buffer notes; /* lines for the user: fall-backs, what could not be carried; owned */
    uint64_t bytes;  /* written */
    int64_t files;
    bool verified;
    double logits_worst, logits_largest, logits_relative, bound; /* with `verify`; all 0 where
                                                    tensors were compared instead: they are equal */
} lt_export_report;

/* Refuses at once what would be refused later: a target that is there (without `force`), or whose
 * name does not suit the format, settings that do not go together. LT_ERR_USAGE. */
lt_status lt_export_check(const lt_export_settings *settings, lt_err *err);

/* With an adapter: hf and gguf of a LoRA are merged (f32, one rounding) unless the target is peft
 * or an adapter GGUF. Written aside and renamed; nothing is left when it fails, nor when the copy
 * that is read back computes something else. `opened` may be changed by it (merging). LT_ERR_IO
 * with both numbers when there is not enough room. */
lt_status lt_export(lt_opened_model *opened, const lt_backend *backend,
                    const lt_export_settings *settings, lt_export_report *report, lt_err *err);
void lt_export_report_free(lt_export_report *report);

/* "5GB", "500MB", "5GiB", "1000000": decimal and binary units of bytes, as max_shard_size of
 * transformers; at least 1 MB's thousandth. LT_ERR_USAGE naming --max-shard-size. */
lt_status lt_parse_shard_size(const char *text, uint64_t *bytes, lt_err *err);

/* The number type that config.json says the weights are stored as: what is written when nothing is
 * asked for. */
lt_dtype lt_stored_dtype(const lt_model_config *config);

/* An answer of the model ends as its template's do: the token becomes the model's only eos. */
void lt_take_stop_token(lt_opened_model *opened);

/* --- Verifying -------------------------------------------------------------------------------- */

/* Logits of two rows of ids drawn at random, always the same, before and after. */
typedef struct lt_logit_probe {
    float *logits; /* owned */
    int64_t count;
} lt_logit_probe;

typedef struct lt_logit_difference {
    double worst, largest; /* of one logit: difference, size */
    double relative;       /* root of squares: differences to logits */
} lt_logit_difference;

lt_status lt_probe_logits(const lt_model *model, lt_logit_probe *out, lt_err *err);
void lt_logit_probe_free(lt_logit_probe *probe);
/* LT_ERR_NUMERIC when `after`, called `what` in the message, differs by more than `bound` of the
 * logits' size. */
lt_status lt_compare_logits(const lt_logit_probe *before, const lt_logit_probe *after, double bound,
                            const char *what, lt_logit_difference *out, lt_err *err);
/* The bound for f32 is what reordered sums differ by; for 16 bits, what rounding the weights does.
 */
double lt_logit_bound(lt_dtype dtype);

/* --- Tokenizers in GGUF ----------------------------------------------------------------------- */

/* The tokenizer as key-values (tokenizer.ggml.*, tokenizer.chat_template), as llama.cpp's
 * convert_hf_to_gguf.py writes them; the rules that GGUF has no words for as JSON in
 * lathe.tokenizer.rules, so that Lathe reads back the very tokenizer. Ids up to `vocab_rows` that
 * no token has are filled with unused ones. `stop_id`: the token that ends an answer, -1: the
 * tokenizer's eos. `notes` (or NULL): lines about texts that llama.cpp makes other ids of.
 * LT_ERR_UNSUPPORTED for a tokenizer that llama.cpp has no counterpart of. */
lt_status lt_tokenizer_to_gguf(const lt_tokenizer *tokenizer, int64_t vocab_rows,
                               const char *chat_template, int32_t stop_id, lt_gguf_keys *keys,
                               lt_buffer *notes, lt_err *err);
/* Reading makes the tokenizer.json that gives the same ids. A file without a tokenizer
 * (tokenizer.ggml.model missing or "none") gives NULL. */
lt_status lt_tokenizer_from_gguf(const lt_gguf *file, lt_tokenizer **out, lt_err *err);

/* --- The model card --------------------------------------------------------------------------- */

/* lathe.json's contents in a GGUF's key-values. Reading: what the file does not say is zero. */
lt_status lt_model_notes_to_gguf(const lt_model_notes *notes, lt_gguf_keys *keys, lt_err *err);
lt_status lt_model_notes_from_gguf(const lt_gguf *file, lt_model_notes *out, lt_err *err);

/* README.md of an exported directory: a model card with the facts of the training that the model's
 * directory, and the run around it, know. `notes`, or NULL: a line where the given evaluation is of
 * another name. */
lt_status lt_model_card(const lt_opened_model *opened, const lt_export_settings *settings,
                        lt_buffer *notes, lt_buffer *out, lt_err *err);

#endif
