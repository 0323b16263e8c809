/* What the parts of the scorer share, and what the engine reads texts with. Private to
 * train/evaluation/.
 *
 * Requests become items (scorer.c), items that read the same become one sequence, sequences that
 * begin alike become one row (scorer_rows.c), rows of about one length a batch (scorer_batch.c). */
#ifndef LT_TRAIN_EVALUATION_SCORER_INTERNAL_H
#define LT_TRAIN_EVALUATION_SCORER_INTERNAL_H

#include "train/evaluation/scorer.h"

/* --- Texts (scorer_text.c) -------------------------------------------------------------------- */

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

/* --- Scorer ----------------------------------------------------------------------------------- */

/* All but its last token are read, those with mask 1 (without a mask the last `scored`) are
 * predicted. */
typedef struct lt_score_item {
    const int32_t *tokens;
    const uint8_t *mask; /* or NULL */
    int64_t count, scored;
    size_t offset; /* of its tokens in the run's ids, until they are all there */
    int64_t request;
    double log_likelihood;
    int64_t correct;
} lt_score_item;

typedef struct lt_batch_room {
    int64_t rows, tokens; /* capacity */
    lt_workspace *workspace;
    int32_t *arrays; /* six of [tokens], which the next ones are */
    int32_t *ids, *positions, *first_key, *shared, *places, *targets;
    double *log_probability; /* [tokens] */
    uint8_t *is_likeliest;   /* [tokens] */
} lt_batch_room;

struct lt_scorer {
    const lt_assistant *assistant;
    lt_scorer_settings settings; /* max_length is never 0 */
    uint64_t memory;             /* that a batch may take */
    lt_text_reader reader;
    lt_batch_room room;
};

/* Items that read the same tokens: order[begin..end) of a run. */
typedef struct lt_score_sequence {
    int64_t begin, end;
    int64_t length;  /* tokens read */
    int64_t common;  /* of them, those that the sequence before begins with too */
    int64_t targets; /* scored tokens of its items, equal items counted once */
} lt_score_sequence;

/* Sequences [begin, end) side by side: their first `shared` tokens once, then the rest of each. */
typedef struct lt_score_row {
    int64_t begin, end;
    int64_t shared; /* 0 for a sequence alone */
    int64_t length; /* tokens */
    int64_t targets;
} lt_score_row;

/* What a batch may hold. One row may be longer than `tokens`, up to `row_tokens`. */
typedef struct lt_batch_limits {
    int64_t tokens, row_tokens, sequences, targets;
} lt_batch_limits;

typedef struct lt_score_run {
    lt_scorer *scorer;
    lt_ids ids; /* of all items whose tokens are not borrowed */
    lt_score_item *items;
    int64_t item_count, item_capacity;
    int64_t *first_item, *left; /* [requests + 1], [requests]: items not scored yet */
    int64_t *cut;               /* [requests] */
    const char **where;         /* [requests], entries may be NULL */
    lt_score_item **order;      /* [item_count]: what begins alike side by side */
    lt_score_sequence *sequences;
    lt_score_row *rows; /* long ones first */
    int64_t sequence_count, row_count;
    lt_batch_limits limits;
    lt_on_score on_score;
    void *context;
    lt_err *err;
} lt_score_run;

/* 0: the same is asked. */
int lt_compare_score_items(const lt_score_item *a, const lt_score_item *b);

/* A request that has no item left goes to the caller. */
lt_status lt_hand_out_score(const lt_score_run *run, int64_t request);

/* In this order: */
lt_status lt_choose_batch_limits(lt_score_run *run);
lt_status lt_make_score_rows(lt_score_run *run); /* with order and sequences */
lt_status lt_run_score_rows(lt_score_run *run);

void lt_batch_room_free(lt_batch_room *room);

#endif
