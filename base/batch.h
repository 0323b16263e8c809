/* A batch of token rows: what data_pipeline/ makes and model/ consumes. Host memory; the arrays are
 * views, valid until the loader that made them is asked for the next one. */
#ifndef LT_BASE_BATCH_H
#define LT_BASE_BATCH_H

#include <stdint.h>

/* Target of a position that is not trained on: padding, prompt, last token of a document. (Hugging
 * Face's ignore_index.) */
#define LT_IGNORE (-100)

typedef struct lt_batch {
    int64_t rows;             /* sequences side by side */
    int64_t length;           /* tokens in each, padding included */
    const int32_t *input_ids; /* [rows, length] */
    const int32_t *targets;   /* [rows, length]: the next token, or LT_IGNORE. NULL when only logits
                                 are wanted */
    const int32_t *positions; /* [rows, length]: position inside its own document */
    const int32_t *first_key; /* [rows, length]: where its document starts in the row: it sees
                                 nothing before */
    int64_t trained_tokens;   /* targets that are not LT_IGNORE */
    const int32_t *shared;    /* [rows]: so many tokens at a row's start are the beginning of every
                                 document behind them, which sees them as if it followed directly (a
                                 context and its endings). NULL: none. Forward passes only */
} lt_batch;

#endif
