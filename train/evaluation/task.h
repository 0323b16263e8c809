/* Tasks: what a model is asked, read from local JSON Lines files.
 *
 * A file of a published dataset (HellaSwag, ARC, ...) becomes the prompts and choices that
 * lm-evaluation-harness (0.4.13) makes of it; files of our own generic format say theirs directly.
 * When a task is loaded everything that can be wrong with it has been found, few-shot examples are
 * in place, and what remains is text. */
#ifndef LT_TRAIN_EVALUATION_TASK_H
#define LT_TRAIN_EVALUATION_TASK_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "train/evaluation/metrics.h"

typedef enum lt_task_output {
    LT_TASK_MULTIPLE_CHOICE, /* which of several continuations is likeliest */
    LT_TASK_LOGLIKELIHOOD, /* how likely one continuation is, and whether it is argmax throughout */
    LT_TASK_ROLLING,       /* how likely a whole text is, in windows */
    LT_TASK_GENERATE,      /* an answer to a prompt, compared with references */
    LT_TASK_DATASET,       /* the loss on a prepared dataset's held-out documents */
} lt_task_output;

/* One scored text: log p(continuation | context). The delimiter between them is part of the
 * continuation. */
typedef struct lt_task_pair {
    char *context, *continuation; /* owned; context may be "" */
} lt_task_pair;

typedef struct lt_task_doc {
    json_t *source;      /* the record as it was read; owned. NULL: whole text files */
    char where[256];     /* "tasks/arc.jsonl:17" */
    char *category;      /* results are also given by it; owned, or NULL */
    lt_task_pair *pairs; /* MULTIPLE_CHOICE: [choice_count], one for each choice, which may share
                            the context of the first; LOGLIKELIHOOD: [1]; ROLLING: [1], the text as
                            its continuation */
    char **choices;      /* MULTIPLE_CHOICE: [choice_count], as acc_norm measures their lengths */
    size_t choice_count;
    int64_t *gold; /* right choices; the first one is the target */
    size_t gold_count;
    char *prompt;  /* GENERATE with raw text */
    json_t *turns; /* messages before the question, which is the context of `pairs` or `prompt`; of
                      a task for a chat template; owned, or NULL */
    json_t *messages; /* or a conversation for the model's template; owned, or NULL */
    int64_t record;   /* DATASET, and GENERATE from one: index of the held-out document; else -1 */
    char *context;    /* what an answer should be grounded in; or NULL */
    char **references;
    size_t reference_count;
    double words, bytes; /* ROLLING: of the original text */
} lt_task_doc;

/* How an answer is made comparable before exact match: filters of lm-eval. */
typedef struct lt_task_filter {
    const char *name;    /* "none", "strict-match", "flexible-extract" */
    const char *pattern; /* PCRE2; group 1 (or the first group that took part) is the answer; NULL:
                            all of it */
    bool last;           /* the last match instead of the first */
} lt_task_filter;

#define LT_TASK_MAX_METRICS 16
#define LT_TASK_MAX_FILTERS 2

typedef struct lt_task {
    char *name;         /* "hellaswag"; the file's name for generic ones */
    const char *format; /* which reader: "hellaswag", "multiple_choice", "dataset", ... */
    char *path;
    lt_task_output output;
    lt_task_doc *docs;
    int64_t doc_count;      /* after --limit */
    int64_t original_count; /* before */
    lt_metric metrics[LT_TASK_MAX_METRICS];
    int metric_count;
    lt_task_filter filters[LT_TASK_MAX_FILTERS]; /* GENERATE; at least "none" */
    int filter_count;
    bool squad_normalise; /* exact match as SQuAD and TriviaQA compare */
    bool ignore_case,
        ignore_punctuation; /* lm-eval's exact_match options, applied to answer and reference */
    const char
        *ignored_patterns[8]; /* removed from both before comparing; NULL-terminated (GSM8K) */
    char **stop_texts;
    size_t stop_text_count;
    int64_t max_new_tokens; /* GENERATE */
    int64_t num_fewshot;
    char *fewshot_path; /* where examples come from; NULL: the file itself */
    bool fewshot_first; /* the first ones, not drawn ones */
    char hash[33]; /* XXH3-128 of everything that is asked: samples of another hash are of another
                      task */
} lt_task;

typedef struct lt_task_settings {
    const char *format;       /* NULL: by the file's keys */
    int64_t num_fewshot;      /* -1: the task's own number */
    const char *fewshot_path; /* where examples come from; NULL: the file itself, then never the
                                 document itself */
    bool fewshot_first;       /* the first ones; else drawn as lm-eval draws them (seed 1234) */
    uint64_t fewshot_seed;
    bool chat; /* for a chat template: a description is a system message, each example a question
                  and its answer, as lm-eval's fewshot_as_multiturn; else all is one text */
    int64_t limit;          /* documents; 0: all */
    int64_t max_new_tokens; /* 0: the task's own */
} lt_task_settings;

/* "FILE.jsonl" or "FORMAT=FILE.jsonl" (also .gz, .zst, one JSON array). A line of the wrong shape,
 * gold out of range, ... is LT_ERR_FORMAT naming file and line; a format that can not be told is
 * LT_ERR_USAGE with the formats there are, as is a file with too few examples. Tasks that lm-eval
 * asks without examples only (TruthfulQA, perplexities) ignore `num_fewshot` as it does. */
lt_status lt_task_load(const char *word, const lt_task_settings *settings, lt_task *out,
                       lt_err *err);
/* The rolling perplexity of one plain-text file. */
lt_status lt_task_from_text(const char *path, lt_task *out, lt_err *err);
void lt_task_free(lt_task *task);

/* The task as lm-eval would be told of it (YAML), for generic files; LT_ERR_UNSUPPORTED for others.
 */
lt_status lt_task_to_lm_eval(const lt_task *task, lt_buffer *out, lt_err *err);

#endif
