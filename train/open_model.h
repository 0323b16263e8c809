/* A model directory, or GGUF file, and adapters for it, opened together with the tokenizer that
 * fits both. */
#ifndef LT_TRAIN_OPEN_MODEL_H
#define LT_TRAIN_OPEN_MODEL_H

#include "data_pipeline/data_pipeline.h"
#include "model/adapter.h"
#include "train/assistant.h"

typedef struct lt_opened_model {
    lt_model *model;         /* owned; the first adapter is the active one */
    lt_tokenizer *tokenizer; /* owned; NULL when none was found and none is needed */
    lt_model_notes notes;
} lt_opened_model;

/* `directory`: or a GGUF file, which has its tokenizer inside; of its chat template the notes know.
 * Tokenizer and notes are an adapter's own where its directory has them: special tokens may have
 * been added for it, and the model grows rows for them. Adapters that disagree about either are
 * LT_ERR_USAGE, and so is a tokenizer with more tokens than the model has rows. */
lt_status lt_open_model(const char *directory, const lt_adapter_source *adapters,
                        int64_t adapter_count, bool need_tokenizer, const lt_backend *backend,
                        lt_opened_model *out, lt_err *err);
void lt_close_model(lt_opened_model *opened);

/* LT_ERR_USAGE, beginning with `where`, when the tokenizer has more tokens than the model rows. */
lt_status lt_check_token_rows(const lt_tokenizer *tokenizer, const lt_model *model,
                              const char *where, lt_err *err);

#endif
