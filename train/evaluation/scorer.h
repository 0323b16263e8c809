/* Log-likelihoods of many texts: the primitives of lm-evaluation-harness over a model, batched by
 * length; what several texts begin with is read once.
 *
 * log p(continuation | context) is taken as lm_eval/api/model.py does: white space at the context's
 * end belongs to the continuation; ids are those of the whole text, cut where the context's ids
 * end; without a context the BOS (else EOS) token stands in front; too long a text loses its
 * beginning, which is counted. Beyond lm-eval, which stops at them or loses tokens: white space
 * that a special token ends with stays the context's, a context of white space alone counts as
 * none, and a continuation longer than the model sees is scored as far as it fits. */
#ifndef LT_TRAIN_EVALUATION_SCORER_H
#define LT_TRAIN_EVALUATION_SCORER_H

#include <signal.h>

#include "train/assistant.h"

typedef struct lt_score_request {
    const char *context;      /* may be "" */
    const char *continuation; /* not empty, but in rolling ones */
    const char *where;        /* for messages: "arc.jsonl:17"; NULL: the request's number */
    bool rolling; /* the continuation is a whole text, read in windows in which each token is
                     predicted once (lm_eval/utils.py, get_rolling_token_windows and
                     make_disjoint_window) */
} lt_score_request;

/* Ids instead, for what is tokenised elsewhere: the tokens with mask 1 are scored. */
typedef struct lt_score_ids {
    const int32_t *tokens;
    const uint8_t *mask; /* NULL: all. The first token never is: nothing stands before it */
    int64_t count;
    const char *where; /* as above */
} lt_score_ids;

typedef struct lt_score {
    double log_likelihood; /* natural logarithm, summed */
    int64_t tokens;        /* scored */
    int64_t correct;       /* of them, argmax */
    int64_t cut;           /* tokens lost at the beginning */
} lt_score;                /* is_greedy: correct == tokens */

/* The windows of a rolling text of `count` tokens: window `index` reads tokens begin .. end and
 * predicts the last `predicted` of them. begin -1: the prefix token stands before token 0. */
typedef struct lt_rolling_window {
    int64_t begin, end, predicted;
} lt_rolling_window;
int64_t lt_rolling_window_count(int64_t count, int64_t max_length);
lt_rolling_window lt_rolling_window_at(int64_t count, int64_t max_length, int64_t index);

typedef struct lt_scorer lt_scorer;

typedef struct lt_scorer_settings {
    int64_t batch_size; /* sequences of a batch; 0: chosen from the lengths */
    int64_t max_length; /* tokens the model sees; 0: its max_position_embeddings, less the adapter's
                           virtual tokens */
    const volatile sig_atomic_t *cancelled; /* may be NULL */
} lt_scorer_settings;

/* Uses the assistant's model with its active adapter. The assistant outlives it. */
lt_status lt_scorer_create(const lt_assistant *assistant, const lt_scorer_settings *settings,
                           lt_scorer **out, lt_err *err);
void lt_scorer_free(lt_scorer *scorer);

/* Request `index` is done. Requests end in an order of the scorer's choosing. */
typedef lt_status (*lt_on_score)(void *context, int64_t index, const lt_score *score, lt_err *err);

/* Requests that differ in their last token alone are one sequence, and equal ones are scored once.
 * Sequences of a batch that begin alike (a context, several endings) share a row in which the
 * beginning stands once (lt_batch.shared), where that saves an eighth of their tokens. A batch
 * holds rows of about one length, long ones first. LT_ERR_INTERRUPTED between batches when
 * cancelled. The result of a request does not depend on `batch_size` or its neighbours beyond
 * rounding. LT_ERR_FORMAT for a continuation that adds no token to its context, LT_ERR_NUMERIC for
 * a log-likelihood that is not finite: the message names the request. */
lt_status lt_scorer_run(lt_scorer *scorer, const lt_score_request *requests, int64_t count,
                        lt_on_score on_score, void *context, lt_err *err);
lt_status lt_scorer_run_ids(lt_scorer *scorer, const lt_score_ids *requests, int64_t count,
                            lt_on_score on_score, void *context, lt_err *err);

#endif
