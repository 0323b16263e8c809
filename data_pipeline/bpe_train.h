/* Private to BPE training: the count of every word of the training text. */
#ifndef LT_DATA_PIPELINE_BPE_TRAIN_H
#define LT_DATA_PIPELINE_BPE_TRAIN_H

#include "data_pipeline/tokenizer_internal.h"

typedef struct lt_word_count {
    size_t begin; /* in lt_word_counts.text */
    uint32_t size;
    int64_t count;
} lt_word_count;

typedef struct lt_word_counts {
    lt_buffer text;
    lt_word_count *words; /* [used] in the order of their first appearance */
    size_t used, capacity;
    uint32_t *slots; /* [slot_mask + 1] index + 1 into words, 0: free */
    size_t slot_mask;
} lt_word_counts;

/* Counts the GPT-2 words of whole files. The counts do not depend on the number of threads; the
 * order of the words does. */
lt_status lt_count_words(const char *const *files, size_t file_count, int threads,
                         lt_word_counts *out, lt_err *err);
void lt_word_counts_free(lt_word_counts *counts);

#endif
