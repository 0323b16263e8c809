/* The tasks of a prepared dataset: its held-out loss, and answers to its held-out records. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "train/evaluation/engine_internal.h"

/* --- Tasks ------------------------------------------------------------------------------------ */

static lt_status copy_text(const char *text, char **out, lt_err *err)
{
    *out = strdup(text);
    return *out ? LT_OK : lt_fail_nomem(err, strlen(text) + 1, "a task");
}

static lt_status start_task(const lt_dataset *dataset, const char *path, const char *name,
                            int64_t limit, lt_task *out, lt_err *err)
{
    int64_t count = lt_dataset_count(dataset, LT_SPLIT_VALIDATION);
    *out = (lt_task){.format = name, .original_count = count};
    if (count == 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "%s has no held-out documents to evaluate on; prepare it with --validation",
                       path);
    if (limit > 0) count = lt_min_i64(limit, count);
    LT_TRY(copy_text(name, &out->name, err));
    LT_TRY(copy_text(path, &out->path, err));
    out->docs = calloc((size_t)count, sizeof *out->docs);
    if (!out->docs) return lt_fail_nomem(err, (size_t)count * sizeof *out->docs, "a task");
    return LT_OK;
}

static lt_status add_doc(lt_task *task, const lt_dataset *dataset, int64_t record, lt_err *err)
{
    lt_document document = lt_dataset_document(dataset, LT_SPLIT_VALIDATION, record);
    lt_task_doc *doc = &task->docs[task->doc_count++];
    *doc = (lt_task_doc){.record = record};
    snprintf(doc->where, sizeof doc->where, "%s, held-out document %lld", task->path,
             (long long)record);
    return document.category ? copy_text(document.category, &doc->category, err) : LT_OK;
}

/* The dataset's hash stands for all its documents. */
static void set_hash(lt_task *task, const lt_dataset *dataset)
{
    char all[256];
    int size = snprintf(all, sizeof all, "%s %s %lld %lld", task->name, lt_dataset_hash(dataset),
                        (long long)task->doc_count, (long long)task->max_new_tokens);
    lt_hash_bytes(all, (size_t)size, task->hash);
}

static void set_metrics(lt_task *task, const lt_metric *metrics, size_t count)
{
    memcpy(task->metrics, metrics, count * sizeof *metrics);
    task->metric_count = (int)count;
}

lt_status lt_task_from_dataset(const lt_dataset *dataset, const char *path, int64_t limit,
                               lt_task *out, lt_err *err)
{
    static const lt_metric metrics[] = {LT_METRIC_LOSS, LT_METRIC_TOKEN_PERPLEXITY,
                                        LT_METRIC_TOKEN_ACCURACY};
    lt_status status;
    LT_TRY_GOTO(status, start_task(dataset, path, "dataset", limit, out, err), done);
    out->output = LT_TASK_DATASET;
    set_metrics(out, metrics, sizeof metrics / sizeof *metrics);
    int64_t count = limit > 0 ? lt_min_i64(limit, out->original_count) : out->original_count;
    for (int64_t i = 0; i < count; i++)
        LT_TRY_GOTO(status, add_doc(out, dataset, i, err), done);
    set_hash(out, dataset);
done:
    if (status != LT_OK) lt_task_free(out);
    return status;
}

static lt_status fill_answer(lt_task_doc *doc, const lt_record *record, lt_err *err)
{
    doc->references = calloc(1, sizeof *doc->references);
    if (!doc->references) return lt_fail_nomem(err, sizeof *doc->references, "a reference");
    doc->reference_count = 1;
    doc->source = json_incref(record->json);
    LT_TRY(copy_text(lt_record_answer(record), &doc->references[0], err));
    if (record->context && *record->context) LT_TRY(copy_text(record->context, &doc->context, err));
    return LT_OK;
}

/* Records without an answer of their own have nothing to be compared with. */
static lt_status add_record(lt_task *task, const lt_dataset *dataset, int64_t index, lt_err *err)
{
    lt_record record = {0};
    LT_TRY(lt_dataset_record(dataset, LT_SPLIT_VALIDATION, index, &record, err));
    lt_status status = LT_OK;
    if (lt_record_answer(&record)) {
        status = add_doc(task, dataset, index, err);
        if (status == LT_OK) status = fill_answer(&task->docs[task->doc_count - 1], &record, err);
    }
    lt_record_free(&record);
    return status;
}

lt_status lt_task_of_answers(const lt_dataset *dataset, const char *path, int64_t limit,
                             int64_t max_new_tokens, lt_task *out, bool *has_answers, lt_err *err)
{
    static const lt_metric metrics[] = {
        LT_METRIC_EXACT_MATCH, LT_METRIC_F1,      LT_METRIC_ROUGE1,  LT_METRIC_ROUGE2,
        LT_METRIC_ROUGEL,      LT_METRIC_BLEU,    LT_METRIC_STOPPED, LT_METRIC_LENGTH,
        LT_METRIC_REPETITION,  LT_METRIC_GROUNDED};
    lt_status status;
    *has_answers = false;
    *out = (lt_task){0};
    if (lt_dataset_format(dataset) == LT_FORMAT_TEXT) return LT_OK;
    LT_TRY_GOTO(status, start_task(dataset, path, "answers", limit, out, err), done);
    out->output = LT_TASK_GENERATE;
    out->max_new_tokens = max_new_tokens;
    out->filters[out->filter_count++] = (lt_task_filter){.name = "none"};
    set_metrics(out, metrics, sizeof metrics / sizeof *metrics);
    int64_t wanted = limit > 0 ? lt_min_i64(limit, out->original_count) : out->original_count;
    for (int64_t i = 0; i < out->original_count && out->doc_count < wanted; i++)
        LT_TRY_GOTO(status, add_record(out, dataset, i, err), done);
    *has_answers = out->doc_count > 0;
    set_hash(out, dataset);
done:
    if (status != LT_OK || !*has_answers) lt_task_free(out);
    return status;
}

/* --- The held-out loss ------------------------------------------------------------------------ */

typedef struct dataset_window {
    lt_engine *engine;
    const int64_t *docs;
} dataset_window;

static lt_status take_loss(void *context, int64_t index, const lt_score *score, lt_err *err)
{
    const dataset_window *w = context;
    const lt_task *task = w->engine->task;
    const double loss[] = {-score->log_likelihood, (double)score->tokens};
    const double correct[] = {(double)score->correct, (double)score->tokens};
    lt_sample sample = lt_sample_begin(w->engine, w->docs[index], "none");
    (void)err; /* the engine's own */
    lt_sample_add_rolling(&sample, NULL, score);
    for (int i = 0; i < task->metric_count; i++)
        lt_sample_add_metric(&sample, task->metrics[i],
                             task->metrics[i] == LT_METRIC_TOKEN_ACCURACY ? correct : loss);
    lt_engine_progress(w->engine, 1);
    return lt_sample_end(&sample, w->engine, score->cut);
}

lt_status lt_engine_score_dataset(lt_engine *e, const int64_t *docs, int64_t count)
{
    dataset_window window = {.engine = e, .docs = docs};
    lt_score_ids *requests = calloc((size_t)count + 1, sizeof *requests);
    if (!requests) return lt_fail_nomem(e->err, (size_t)count * sizeof *requests, "requests");
    for (int64_t i = 0; i < count; i++) {
        const lt_task_doc *doc = &e->task->docs[docs[i]];
        lt_document document =
            lt_dataset_document(e->settings->dataset, LT_SPLIT_VALIDATION, doc->record);
        requests[i] = (lt_score_ids){.tokens = document.tokens,
                                     .mask = document.mask,
                                     .count = document.length,
                                     .where = doc->where};
    }
    lt_status status = lt_scorer_run_ids(e->scorer, requests, count, take_loss, &window, e->err);
    free(requests);
    return status;
}
