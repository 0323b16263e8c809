/* Private to train/evaluation/: formats of task files. A format is a row of a table and a function
 * that reads one record; all else (few-shot examples, pairs, metrics, hashes) is done from there.
 */
#ifndef LT_TASK_FORMAT_H
#define LT_TASK_FORMAT_H

#include "train/evaluation/task.h"

typedef struct lt_task_format lt_task_format;

/* A record on its way in. */
typedef struct lt_task_record {
    json_t *json;
    const char *where; /* "tasks/arc.jsonl:17" */
    const lt_task_format *format;
} lt_task_record;

/* A record as lm-eval sees it: doc_to_text, doc_to_choice, doc_to_target. Strings are owned. */
typedef struct lt_task_question {
    lt_task_doc doc;   /* all but `pairs` and `prompt` */
    char *description; /* in front of everything, or NULL */
    char *text;        /* the question; NULL with `contexts` or `doc.messages` */
    char **contexts;   /* each choice makes its own question: one for each, and a NULL; or NULL */
    char *delimiter;   /* between question and answer; NULL: the format's */
    char *target;      /* the answer; NULL: the first right choice */
} lt_task_question;

typedef struct lt_task_questions {
    lt_task_question *items; /* owned */
    int64_t count, capacity;
} lt_task_questions;

/* Fills a zeroed question; what it has filled is freed by the caller, also on failure. */
typedef lt_status (*lt_task_reader)(const lt_task_record *record, lt_task_question *out,
                                    lt_err *err);

/* How answers are made and compared: generation_kwargs, filters and exact_match options. */
typedef struct lt_task_answers {
    const char *stops[4];
    lt_task_filter filters[LT_TASK_MAX_FILTERS];
    bool ignore_case, ignore_punctuation;
    const char *ignored_patterns[8];
} lt_task_answers;

struct lt_task_format {
    const char *name;
    const char *keys;   /* that its records have: "passage question label|answer.value" */
    bool named_only;    /* its keys do not tell it: FORMAT=FILE */
    bool named_by_file; /* the task is called as the file, not as the format */
    lt_task_output output;
    lt_task_reader read;
    lt_metric metrics[LT_TASK_MAX_METRICS];
    int metric_count;
    const char *delimiter; /* between a question and its answer; NULL: a space */
    int64_t num_fewshot;   /* unless the user says otherwise */
    bool fixed_prompt;     /* num_fewshot: 0 in lm-eval, which the user can not change */
    bool fewshot_first;    /* first_n instead of drawn examples, of the document's description */
    bool fewshot_spare;    /* one more is drawn, and the document itself left out, although examples
                              come from another file: lm-eval's rule where neither split is named */
    const lt_task_answers *answers; /* GENERATE */
    /* What a whole file says of its task, or NULL. */
    lt_status (*settle)(const lt_task_questions *questions, lt_task *task, lt_err *err);
};

extern const lt_task_format lt_task_formats[];
extern const int lt_task_format_count;

const lt_task_format *lt_task_format_by_name(const char *name); /* or NULL */
/* LT_ERR_USAGE with the formats there are when the record's keys fit none, or several. */
lt_status lt_task_format_of(const json_t *record, const char *path, const lt_task_format **out,
                            lt_err *err);
/* "a, b, c" of all formats. */
lt_status lt_task_format_names(lt_buffer *out, lt_err *err);

/* --- Fields of a record (task_fields.c) ------------------------------------------------------- */

/* Paths are dotted: "choices.text". Messages name file, line and key. */

json_t *lt_task_find(const json_t *record, const char *path); /* NULL: missing or null */
lt_status lt_task_need(const lt_task_record *record, const char *path, json_t **out, lt_err *err);
lt_status lt_task_text(const lt_task_record *record, const char *path, const char **out,
                       lt_err *err);
lt_status lt_task_text_copy(const lt_task_record *record, const char *path, char **out,
                            lt_err *err);
/* *out stays NULL when it is missing. */
lt_status lt_task_optional_text(const lt_task_record *record, const char *path, char **out,
                                lt_err *err);
/* Copies of an array of `min` to LT_TASK_MAX_CHOICES strings. */
lt_status lt_task_texts(const lt_task_record *record, const char *path, size_t min, char ***out,
                        size_t *count, lt_err *err);
/* The same, none of them empty. */
lt_status lt_task_filled_texts(const lt_task_record *record, const char *path, size_t min,
                               char ***out, size_t *count, lt_err *err);
/* An integer in [0, bound), or one as a string. */
lt_status lt_task_index(const lt_task_record *record, const char *path, size_t bound, int64_t *out,
                        lt_err *err);
lt_status lt_task_index_of(const lt_task_record *record, const char *path, const json_t *value,
                           size_t bound, int64_t *out, lt_err *err);
/* The right choices of a document. */
lt_status lt_task_set_gold(lt_task_doc *doc, const int64_t *gold, size_t count, lt_err *err);

#define LT_TASK_MAX_CHOICES 256

/* --- Readers ---------------------------------------------------------------------------------- */

lt_status lt_read_multiple_choice(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_loglikelihood(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_generation(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_perplexity(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_settle_generation(const lt_task_questions *, lt_task *, lt_err *);

lt_status lt_read_hellaswag(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_arc(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_piqa(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_openbookqa(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_sciq(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_boolq(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_winogrande(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_mmlu(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_truthfulqa_mc1(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_truthfulqa_mc2(const lt_task_record *, lt_task_question *, lt_err *);

lt_status lt_read_lambada(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_gsm8k(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_triviaqa(const lt_task_record *, lt_task_question *, lt_err *);
lt_status lt_read_wikitext(const lt_task_record *, lt_task_question *, lt_err *);

/* --- What is made of questions ---------------------------------------------------------------- */

void lt_task_doc_free(lt_task_doc *doc);
void lt_task_questions_free(lt_task_questions *questions);

/* Where examples come from and how they are chosen. */
typedef struct lt_fewshot {
    const lt_task_questions *pool;
    const lt_task_format *format;
    const char *path;
    int64_t count;
    bool first;   /* the first ones, instead of drawn ones */
    bool exclude; /* never the document itself */
    uint64_t seed;
    bool chat; /* as lt_task_settings */
} lt_fewshot;

/* Makes the pairs and prompts of the first `count` questions. */
lt_status lt_task_ask(lt_task_questions *questions, int64_t count, const lt_fewshot *fewshot,
                      lt_err *err);

/* Fills task->hash. */
lt_status lt_task_hash(lt_task *task, lt_err *err);

#endif
