/* Tasks that are answered by log-likelihoods: multiple choice, cloze, rolling texts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/engine_internal.h"

/* The documents of a window and their requests, each document's side by side. */
typedef struct scoring {
    lt_engine *engine;
    const int64_t *docs;   /* [count] */
    int64_t *first, *left; /* [count + 1], [count] */
    int64_t *owner;        /* [requests]: whose it is, in docs */
    lt_score_request *requests;
    lt_score *scores;
    char **rendered; /* [requests]: contexts by the chat template; a repeated one is NULL */
    int64_t count, request_count;
} scoring;

static const lt_task_doc *doc_of(const scoring *s, int64_t i)
{
    return &s->engine->task->docs[s->docs[i]];
}

/* --- Metrics ---------------------------------------------------------------------------------- */

static double characters(const char *text)
{
    double count = 0;
    for (; *text; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

static bool is_gold(const lt_task_doc *doc, size_t choice)
{
    for (size_t i = 0; i < doc->gold_count; i++)
        if (doc->gold[i] == (int64_t)choice) return true;
    return false;
}

/* What the choices are compared by. For mutual information the scores of the choices alone follow.
 */
static double weight_of(const lt_task_doc *doc, lt_metric metric, size_t choice,
                        const lt_score *scores)
{
    double value = scores[choice].log_likelihood;
    switch (metric) {
    case LT_METRIC_ACC_NORM:
        return value / characters(doc->choices[choice]);
    case LT_METRIC_ACC_BYTES:
        return value / (double)strlen(doc->choices[choice]);
    case LT_METRIC_ACC_MUTUAL_INFO:
        return value - scores[doc->choice_count + choice].log_likelihood;
    default:
        return value;
    }
}

/* 1 when the likeliest choice, the first of equals, is a right one. */
static double accuracy(const lt_task_doc *doc, lt_metric metric, const lt_score *scores)
{
    size_t best = 0;
    double highest = -INFINITY;
    for (size_t i = 0; i < doc->choice_count; i++) {
        double weight = weight_of(doc, metric, i, scores);
        if (!(weight > highest)) continue;
        highest = weight;
        best = i;
    }
    return is_gold(doc, best) ? 1 : 0;
}

static double share_of_right_choices(const lt_task_doc *doc, const lt_score *scores)
{
    double highest = -INFINITY, right = 0, all = 0;
    for (size_t i = 0; i < doc->choice_count; i++)
        highest = fmax(highest, scores[i].log_likelihood);
    for (size_t i = 0; i < doc->choice_count; i++) {
        double p = exp(scores[i].log_likelihood - highest);
        all += p;
        if (is_gold(doc, i)) right += p;
    }
    return right / all;
}

static bool value_of(const lt_task *task, const lt_task_doc *doc, lt_metric metric,
                     const lt_score *scores, double out[2])
{
    double value = scores[0].log_likelihood;
    bool choice = task->output == LT_TASK_MULTIPLE_CHOICE,
         rolling = task->output == LT_TASK_ROLLING;
    switch (metric) {
    case LT_METRIC_ACC:
        out[0] = choice ? accuracy(doc, metric, scores) : scores[0].correct == scores[0].tokens;
        return !rolling;
    case LT_METRIC_ACC_NORM:
    case LT_METRIC_ACC_BYTES:
    case LT_METRIC_ACC_MUTUAL_INFO:
        if (choice) out[0] = accuracy(doc, metric, scores);
        return choice;
    case LT_METRIC_MC2:
        if (choice) out[0] = share_of_right_choices(doc, scores);
        return choice;
    case LT_METRIC_PERPLEXITY:
        out[0] = value;
        return !choice && !rolling;
    case LT_METRIC_WORD_PERPLEXITY:
        out[0] = value, out[1] = doc->words;
        return rolling;
    case LT_METRIC_BYTE_PERPLEXITY:
    case LT_METRIC_BITS_PER_BYTE:
        out[0] = value, out[1] = doc->bytes;
        return rolling;
    default:
        return false;
    }
}

static lt_status add_metrics(const scoring *s, lt_sample *sample, const lt_task_doc *doc,
                             const lt_score *scores)
{
    const lt_task *task = s->engine->task;
    for (int i = 0; i < task->metric_count; i++) {
        double values[2] = {0};
        if (!value_of(task, doc, task->metrics[i], scores, values))
            return lt_fail(s->engine->err, LT_ERR_USAGE,
                           "%s: the metric \"%s\" does not suit this kind of task", task->name,
                           lt_metric_of(task->metrics[i])->name);
        lt_sample_add_metric(sample, task->metrics[i], values);
    }
    return LT_OK;
}

static lt_status hand_out(const scoring *s, int64_t i)
{
    const lt_task_doc *doc = doc_of(s, i);
    const lt_score *scores = s->scores + s->first[i];
    lt_sample sample = lt_sample_begin(s->engine, s->docs[i], "none");
    int64_t cut = 0;
    for (int64_t k = s->first[i]; k < s->first[i + 1]; k++) {
        const lt_score_request *request = &s->requests[k];
        cut = lt_max_i64(cut, s->scores[k].cut);
        if (request->rolling)
            lt_sample_add_rolling(&sample, doc->source ? request->continuation : NULL,
                                  &s->scores[k]);
        else
            lt_sample_add_pair(&sample, request->context, request->continuation, &s->scores[k]);
    }
    lt_status status = add_metrics(s, &sample, doc, scores);
    if (status == LT_OK) return lt_sample_end(&sample, s->engine, cut);
    lt_sample_drop(&sample);
    return status;
}

static lt_status take_score(void *context, int64_t request, const lt_score *score, lt_err *err)
{
    scoring *s = context;
    int64_t owner = s->owner[request];
    (void)err; /* the engine's own */
    s->scores[request] = *score;
    lt_engine_progress(s->engine, 1);
    return --s->left[owner] == 0 ? hand_out(s, owner) : LT_OK;
}

/* --- Requests --------------------------------------------------------------------------------- */

/* A context as a user's message; that of the request before will do when it is the same. */
static lt_status render(scoring *s, int64_t request, const lt_task_doc *doc, size_t pair)
{
    lt_buffer text = {0};
    lt_score_request *to = &s->requests[request];
    if (pair > 0 && strcmp(doc->pairs[pair].context, doc->pairs[pair - 1].context) == 0) {
        to->context = s->requests[request - 1].context;
        return LT_OK;
    }
    lt_status status = lt_engine_render_user(s->engine, doc, to->context, &text);
    if (status == LT_OK) status = lt_buffer_append(&text, "", 0, s->engine->err);
    s->rendered[request] = text.data;
    to->context = lt_buffer_text(&text);
    return status;
}

/* lm-eval puts no delimiter between a chat's context and its choices. */
static const char *without_delimiter(const lt_task_doc *doc, size_t pair)
{
    const char *continuation = doc->pairs[pair].continuation, *choice = doc->choices[pair];
    size_t size = strlen(continuation), tail = strlen(choice);
    if (size >= tail && strcmp(continuation + size - tail, choice) == 0)
        return continuation + size - tail;
    return continuation + (*continuation == ' ');
}

static lt_status add_requests(scoring *s, int64_t i)
{
    const lt_task *task = s->engine->task;
    const lt_task_doc *doc = doc_of(s, i);
    bool choice = task->output == LT_TASK_MULTIPLE_CHOICE,
         rolling = task->output == LT_TASK_ROLLING;
    bool chat = s->engine->settings->apply_chat_template && !rolling;
    size_t pairs = choice ? doc->choice_count : 1;
    s->first[i] = s->request_count;
    s->left[i] = lt_engine_requests_of(task, doc);
    for (int64_t k = 0; k < s->left[i]; k++) {
        size_t pair = (size_t)k % pairs;
        lt_score_request *request = &s->requests[s->request_count];
        bool unconditional = (size_t)k >= pairs;
        *request =
            (lt_score_request){.context = unconditional ? "" : doc->pairs[pair].context,
                               .continuation = chat && choice ? without_delimiter(doc, pair)
                                                              : doc->pairs[pair].continuation,
                               .rolling = rolling,
                               .where = doc->where};
        s->owner[s->request_count] = i;
        if (chat && !unconditional) LT_TRY(render(s, s->request_count, doc, pair));
        s->request_count++;
    }
    return LT_OK;
}

static lt_status make_requests(scoring *s)
{
    size_t total = 0, n = (size_t)s->count;
    for (int64_t i = 0; i < s->count; i++)
        total += (size_t)lt_engine_requests_of(s->engine->task, doc_of(s, i));
    s->first = calloc(n + 1, sizeof *s->first);
    s->left = calloc(n + 1, sizeof *s->left);
    s->owner = calloc(total + 1, sizeof *s->owner);
    s->requests = calloc(total + 1, sizeof *s->requests);
    s->scores = calloc(total + 1, sizeof *s->scores);
    s->rendered = calloc(total + 1, sizeof *s->rendered);
    if (!s->first || !s->left || !s->owner || !s->requests || !s->scores || !s->rendered)
        return lt_fail_nomem(s->engine->err, (total + n) * sizeof *s->requests, "requests");
    for (int64_t i = 0; i < s->count; i++)
        LT_TRY(add_requests(s, i));
    s->first[s->count] = s->request_count;
    return LT_OK;
}

lt_status lt_engine_score(lt_engine *e, const int64_t *docs, int64_t count)
{
    scoring s = {.engine = e, .docs = docs, .count = count};
    lt_status status = make_requests(&s);
    if (status == LT_OK)
        status = lt_scorer_run(e->scorer, s.requests, s.request_count, take_score, &s, e->err);
    for (int64_t i = 0; s.rendered && i <= s.request_count; i++) /* one may be half made */
        free(s.rendered[i]);
    free(s.first);
    free(s.left);
    free(s.owner);
    free(s.requests);
    free(s.scores);
    free(s.rendered);
    return status;
}
