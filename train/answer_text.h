/* The text side of answering: stop texts in a stream, and when an answer equals its reference.
 * Knows neither tokens nor models. */
#ifndef LT_TRAIN_ANSWER_TEXT_H
#define LT_TRAIN_ANSWER_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

/* Passes text on until a stop text appears. What may yet become one is held back, so that no part
 * of a stop text is ever shown. Whole characters in, whole characters out. */
typedef struct lt_stop_scanner {
    const char *const *stop_texts; /* borrowed; none of them empty */
    int64_t stop_text_count;
    bool trim_end;  /* white space at the end of the answer is left out too */
    bool stopped;   /* a stop text was seen: nothing more comes out */
    lt_buffer held; /* owned */
} lt_stop_scanner;

/* Appends to `out` what is certain to be part of the answer. */
lt_status lt_stop_scanner_feed(lt_stop_scanner *scanner, const char *text, size_t size,
                               lt_buffer *out, lt_err *err);
/* The end of the answer: what was held back comes out. */
lt_status lt_stop_scanner_finish(lt_stop_scanner *scanner, lt_buffer *out, lt_err *err);
void lt_stop_scanner_free(lt_stop_scanner *scanner);

/* Whether two answers are equal but for white space at their ends: "exact match" everywhere. */
bool lt_same_answer(const char *a, const char *b);

#endif
