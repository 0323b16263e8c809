/* Export: a tuned model to what others serve: Hugging Face directories (transformers, vLLM), PEFT
 * adapters, GGUF (llama.cpp). */
#ifndef LT_TRAIN_EXPORT_H
#define LT_TRAIN_EXPORT_H

#include "train/open_model.h"
#include "model/gguf_model.h"

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
    const char *model_directory,
        *adapter_directory; /* for the card, and what is copied unchanged; adapter or NULL */
} lt_export_settings;

typedef struct lt_export_report {
    lt_buffer notes; /* lines for the user: fall-backs, what could not be carried; owned */
    uint64_t bytes;  /* written */
    int64_t files;
    bool verified;
    double logits_worst, logits_largest, logits_relative, bound; /* with `verify` */
} lt_export_report;

/* With an adapter: hf and gguf of a LoRA are merged (f32, one rounding) unless the target is peft
 * or an adapter GGUF. Written aside and renamed; nothing is left when it fails. `opened` may be
 * changed by it (merging). */
lt_status lt_export(lt_opened_model *opened, const lt_backend *backend,
                    const lt_export_settings *settings, lt_export_report *report, lt_err *err);
void lt_export_report_free(lt_export_report *report);

/* The tokenizer in a GGUF's key-values, both ways (tokenizer.ggml.*, tokenizer.chat_template).
 * Reading makes the tokenizer.json that gives the same ids. */
lt_status lt_tokenizer_to_gguf(const lt_tokenizer *tokenizer, int64_t vocab_rows,
                               const char *chat_template, lt_gguf_keys *keys, lt_err *err);
lt_status lt_tokenizer_from_gguf(const lt_gguf *file, lt_tokenizer **out, lt_err *err);

/* README.md of an exported directory: a model card with the facts of the training that the model's
 * directory knows. */
lt_status lt_model_card(const lt_opened_model *opened, const lt_export_settings *settings,
                        lt_buffer *out, lt_err *err);

#endif
