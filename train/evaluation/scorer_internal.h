/* What the scorer and the engine share about reading texts as lm-eval does. Private to
 * train/evaluation/. */
#ifndef LT_TRAIN_EVALUATION_SCORER_INTERNAL_H
#define LT_TRAIN_EVALUATION_SCORER_INTERNAL_H

#include "train/evaluation/scorer.h"

/* How texts become ids: the tokenizer, and the token that stands in front of what has no context.
 */
typedef struct lt_text_reader {
    const lt_tokenizer *tokenizer; /* borrowed, as is the encoder */
    lt_encoder *encoder;
    int32_t prefix;      /* BOS, else EOS; -1: there is neither */
    lt_buffer spelling;  /* of the prefix token: a text that begins with it gets no other; owned */
    lt_buffer last_text; /* the context that was read last, and its ids; owned */
    lt_ids last_ids;
} lt_text_reader;

lt_status lt_text_reader_init(lt_text_reader *reader, const lt_assistant *assistant, lt_err *err);
void lt_text_reader_free(lt_text_reader *reader);

/* HFLM.tok_encode: the tokenizer's special tokens, but no second BOS. Appends. */
lt_status lt_read_text(lt_text_reader *reader, const char *text, size_t size, lt_ids *out,
                       lt_err *err);
/* TemplateLM._encode_pair: appends the ids of both, and says how many are the continuation's. White
 * space at the context's end belongs to the continuation, but (other than there) not when a special
 * token ends with it. */
lt_status lt_read_pair(lt_text_reader *reader, const char *context, const char *continuation,
                       lt_ids *out, int64_t *scored, lt_err *err);

#endif
