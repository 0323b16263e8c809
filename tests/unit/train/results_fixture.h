/* A task of six documents, one of answers, and samples of both. */
#ifndef LT_TEST_RESULTS_FIXTURE_H
#define LT_TEST_RESULTS_FIXTURE_H

#include <math.h>

#include "base/json.h"
#include "../check.h"
#include "train/evaluation/results.h"

enum { DOCUMENTS = 6 };

static char *const choices[] = {"yes", "no <b>way</b>"};
static int64_t gold[] = {1};
static char pair_context[] = "Is the earth flat?", pair_continuation[] = " no";
static lt_task_pair pairs[] = {{pair_context, pair_continuation}};
static char earth[] = "earth", sky[] = "sky & moon";

static UNUSED lt_task_doc *make_docs(void)
{
    static lt_task_doc docs[DOCUMENTS];
    for (int i = 0; i < DOCUMENTS; i++)
        docs[i] = (lt_task_doc){.category = i % 3 == 2 ? NULL
                                            : i % 3    ? sky
                                                       : earth,
                                .pairs = pairs,
                                .choices = (char **)choices,
                                .choice_count = 2,
                                .gold = gold,
                                .gold_count = 1,
                                .record = -1};
    return docs;
}

static UNUSED lt_task choice_task(void)
{
    static char name[] = "quiz", path[] = "tasks/quiz.jsonl";
    return (lt_task){.name = name,
                     .format = "multiple_choice",
                     .path = path,
                     .output = LT_TASK_MULTIPLE_CHOICE,
                     .docs = make_docs(),
                     .doc_count = DOCUMENTS,
                     .original_count = 10,
                     .metrics = {LT_METRIC_ACC, LT_METRIC_BITS_PER_BYTE},
                     .metric_count = 2,
                     .hash = "1"};
}

/* A sample with acc, and when `bytes` is not 0 with bits_per_byte. */
static UNUSED json_t *choice_sample(int document, double acc, double bytes)
{
    json_t *sample = json_pack("{s:i, s:s, s:[s], s:f, s:[[f, b], [f, b]]}", "doc_id", document,
                               "filter", "none", "metrics", "acc", "acc", acc, "filtered_resps",
                               -1.5, 0, acc > 0 ? -0.5 : -2.5, 0);
    if (bytes > 0) {
        json_array_append_new(json_object_get(sample, "metrics"), json_string("bits_per_byte"));
        json_object_set_new(sample, "bits_per_byte", json_pack("[f, f]", -3.0, bytes));
    }
    return sample;
}

/* Six samples; acc[i] of document i; 1, 3 and 5 have bits_per_byte. Caller frees. */
static UNUSED void make_samples(const double *acc, json_t **out)
{
    for (int i = 0; i < DOCUMENTS; i++)
        out[i] = choice_sample(i, acc[i], i % 2 ? 2.0 + i / 2 : 0);
}

static UNUSED void free_samples(json_t **samples, int count)
{
    for (int i = 0; i < count; i++)
        json_decref(samples[i]);
}

static UNUSED lt_task_results make_results(const lt_task *task, const double *acc)
{
    json_t *samples[DOCUMENTS];
    lt_task_results results;
    make_samples(acc, samples);
    OK(lt_results_make(task, samples, DOCUMENTS, 100, &results, err));
    free_samples(samples, DOCUMENTS); /* the results hold references of their own */
    return results;
}

static const double acc_a[] = {1, 0, 1, 1, 0, 0}, acc_b[] = {1, 1, 1, 0, 1, 1};

/* A task of answers, in two filters. */
static UNUSED lt_task answer_task(lt_task_doc *docs, int count)
{
    static char name[] = "answers", path[] = "tasks/answers.jsonl";
    return (lt_task){.name = name,
                     .format = "generate",
                     .path = path,
                     .output = LT_TASK_GENERATE,
                     .docs = docs,
                     .doc_count = count,
                     .original_count = count,
                     .metrics = {LT_METRIC_EXACT_MATCH, LT_METRIC_LENGTH},
                     .metric_count = 2,
                     .filters = {{.name = "strict-match"}, {.name = "flexible-extract"}},
                     .filter_count = 2,
                     .max_new_tokens = 16,
                     .num_fewshot = 2};
}

static UNUSED json_t *answer_sample(int document, const char *filter, double exact,
                                    const char *answer)
{
    return json_pack("{s:i, s:s, s:[s, s], s:f, s:f, s:s}", "doc_id", document, "filter", filter,
                     "metrics", "exact_match", "length", "exact_match", exact, "length", 2.0,
                     "answer", answer);
}

#endif
