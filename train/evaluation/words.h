/* Characters, words and letters as Python has them, which is what lm-evaluation-harness and the
 * metrics' references are written in; and words as numbers, so that sequences of words are compared
 * as sequences of numbers. */
#ifndef LT_TRAIN_EVALUATION_WORDS_H
#define LT_TRAIN_EVALUATION_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

/* One character of UTF-8. A byte that belongs to none is a character of its own, which is no
 * letter and no space. *size: bytes of it. */
uint32_t lt_character_at(const char *text, size_t *size);
bool lt_is_space(uint32_t character);        /* str.isspace(), and \s */
bool lt_is_alphanumeric(uint32_t character); /* str.isalnum() */

/* Of text[0..size), which a NUL ends somewhere: the bytes that str.lstrip() takes off, and those
 * that str.rstrip() leaves. */
size_t lt_leading_space(const char *text, size_t size);
size_t lt_size_without_trailing_space(const char *text, size_t size);

/* Takes out string.punctuation. */
void lt_remove_punctuation(lt_buffer *text);

/* The next run of characters that are no space, as str.split() cuts. Moves *at behind it; false at
 * the end of the text. */
bool lt_next_word(const char **at, const char **word, size_t *size);

/* Appends the text as str.lower() makes it. */
lt_status lt_append_lower(lt_buffer *out, const char *text, lt_err *err);
/* The same of what is behind the first bytes; letters at their end are seen as neighbours. */
lt_status lt_append_lower_behind(lt_buffer *out, const char *text, size_t first, lt_err *err);

/* Numbers of words: 0, 1, ... in the order of their first look-up. Owns all; a zeroed one is
 * empty. */
typedef struct lt_word_table {
    lt_buffer bytes;   /* the words, one after the other */
    size_t *ends;      /* [count] of each in `bytes` */
    int32_t *slots;    /* [slot_count] numbers by hash, -1: free */
    size_t slot_count; /* a power of two, or 0 */
    size_t count;
} lt_word_table;

void lt_word_table_free(lt_word_table *table);
lt_status lt_word_number(lt_word_table *table, const void *word, size_t size, int32_t *out,
                         lt_err *err);
/* Appends the numbers of the text's words. */
lt_status lt_number_words(lt_word_table *table, const char *text, lt_ids *out, lt_err *err);
/* Appends the numbers of all sequences of n words, in order. One table is for one n. */
lt_status lt_number_ngrams(lt_word_table *table, const lt_ids *words, size_t n, lt_ids *out,
                           lt_err *err);

/* How often each number below `limit` occurs: [limit], caller frees. */
lt_status lt_count_numbers(const lt_ids *numbers, size_t limit, int64_t **out, lt_err *err);
/* The size of the intersection of two multisets of numbers below `limit`. */
lt_status lt_count_common(const lt_ids *a, const lt_ids *b, size_t limit, int64_t *out,
                          lt_err *err);

#endif
