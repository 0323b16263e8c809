/* The parts of the engine. Private to train/evaluation/. */
#ifndef LT_TRAIN_EVALUATION_ENGINE_INTERNAL_H
#define LT_TRAIN_EVALUATION_ENGINE_INTERNAL_H

#include "data_pipeline/chat_template.h"
#include "train/evaluation/engine.h"
#include "train/evaluation/scorer_internal.h"

typedef struct lt_engine {
    lt_assistant *assistant; /* borrowed, as all but what is said to be owned */
    const lt_task *task;
    const lt_engine_settings *settings;
    lt_on_sample on_sample;
    lt_on_progress on_progress;
    void *context;
    lt_scorer *scorer;      /* owned; NULL for GENERATE */
    lt_text_reader reader;  /* owned */
    lt_chat_template *chat; /* owned; NULL until it is needed */
    lt_scorer *judge;       /* owned; NULL: there is none */
    int64_t done, total;
    lt_err *err;
} lt_engine;

/* A window of documents, each in its own file. */
lt_status lt_engine_score(lt_engine *engine, const int64_t *docs, int64_t count);
lt_status lt_engine_score_dataset(lt_engine *engine, const int64_t *docs, int64_t count);
lt_status lt_engine_generate(lt_engine *engine, const int64_t *docs, int64_t count);

/* Requests that a document takes. */
int64_t lt_engine_requests_of(const lt_task *task, const lt_task_doc *doc);
bool lt_engine_wants(const lt_task *task, lt_metric metric);
void lt_engine_progress(lt_engine *engine, int64_t requests);

/* --- Conversations (engine_chat.c) ------------------------------------------------------------ */

/* A conversation up to where the model takes over, by the template that the model was trained with,
 * else by the tokenizer's own. Appends. */
lt_status lt_engine_render(lt_engine *engine, const json_t *messages, const char *where,
                           lt_buffer *out);
/* The same of a user's message behind the document's turns. */
lt_status lt_engine_render_user(lt_engine *engine, const lt_task_doc *doc, const char *message,
                                lt_buffer *out);
/* The token that ends an answer by that template, or -1. */
int32_t lt_engine_stop_of_template(const lt_engine *engine);

/* --- Samples (engine_sample.c) ---------------------------------------------------------------- */

/* A sample in the making. Failures are kept until it is handed out. */
typedef struct lt_sample {
    json_t *json, *arguments, *resps, *filtered, *names;
    int64_t doc;
    bool failed;
} lt_sample;

lt_sample lt_sample_begin(const lt_engine *engine, int64_t doc, const char *filter);
void lt_sample_set(lt_sample *sample, const char *key, json_t *value); /* takes the reference */
/* One request's: ("context", "continuation") and [["log p", "is greedy"]]. */
void lt_sample_add_pair(lt_sample *sample, const char *context, const char *continuation,
                        const lt_score *score);
void lt_sample_add_rolling(lt_sample *sample, const char *text, const lt_score *score);
void lt_sample_add_answer(lt_sample *sample, const char *prompt, json_t *settings,
                          const char *answer, const char *filtered);
/* `values` has the metric's width. */
void lt_sample_add_metric(lt_sample *sample, lt_metric metric, const double *values);
/* Hands it out, or fails. */
lt_status lt_sample_end(lt_sample *sample, const lt_engine *engine, int64_t cut);
void lt_sample_drop(lt_sample *sample);

/* --- Answers (engine_filter.c) ---------------------------------------------------------------- */

/* What a filter makes of an answer, and how answers are compared. Compiled once a task. */
typedef struct lt_answer_rules lt_answer_rules;

lt_status lt_answer_rules_create(const lt_task *task, lt_answer_rules **out, lt_err *err);
void lt_answer_rules_free(lt_answer_rules *rules);
/* lm_eval/filters/extraction.py, RegexFilter: "[invalid]" where nothing matches. Appends. */
lt_status lt_answer_filter(const lt_answer_rules *rules, int filter, const char *answer,
                           lt_buffer *out, lt_err *err);
/* lm_eval/api/metrics.py, exact_match_hf_evaluate, in its order: patterns, case, punctuation; then
 * lt_exact_match. */
lt_status lt_answer_matches(const lt_answer_rules *rules, const char *answer,
                            const char *const *references, size_t count, double *out, lt_err *err);

/* --- The judge (judge.c) ---------------------------------------------------------------------- */

typedef struct lt_judged {
    const char *instruction, *context, *answer, *reference, *where; /* NULL: none */
} lt_judged;

/* p(good) / (p(good) + p(bad)) of each. */
lt_status lt_judge_answers(const lt_judge *judge, lt_scorer *scorer, const lt_judged *answers,
                           int64_t count, double *out, lt_err *err);

#endif
