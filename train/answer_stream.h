/* One answer as it comes: ids in, text out as soon as it is certain. */
#ifndef LT_TRAIN_ANSWER_STREAM_H
#define LT_TRAIN_ANSWER_STREAM_H

#include "train/answer_text.h"
#include "train/assistant.h"

typedef struct lt_answer_stream {
    lt_answer *answer;  /* borrowed; filled */
    lt_on_text on_text; /* or NULL */
    void *context;
    int64_t index; /* what on_text is told */
    lt_stream_decoder decoder;
    lt_stop_scanner scanner;  /* `stopped`: a stop text has come, nothing more is wanted */
    lt_buffer decoded, shown; /* scratch: of one token */
    bool finished;
} lt_answer_stream;

/* The rest of *stream is set by the caller before. `continues`: the answer goes on from a text, so
 * that white space at its ends belongs to it. */
void lt_answer_stream_begin(lt_answer_stream *stream, const lt_tokenizer *tokenizer,
                            const lt_answer_settings *settings, bool continues);
lt_status lt_answer_stream_take(lt_answer_stream *stream, int32_t id, bool is_stop, lt_err *err);
/* The end, for whatever reason. Harmless when a stop id has come. */
lt_status lt_answer_stream_finish(lt_answer_stream *stream, lt_err *err);
void lt_answer_stream_free(lt_answer_stream *stream);

/* LT_ERR_USAGE for a stop text that is empty or not UTF-8. */
lt_status lt_stop_texts_check(const lt_answer_settings *settings, lt_err *err);

#endif
