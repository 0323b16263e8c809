/* Evaluating a task: documents in windows, each window by the kind of its task. */
#include "train/evaluation/engine.h"

#include "base/checked.h"
#include "train/evaluation/engine_internal.h"

/* Documents worked on together: enough to sort by length, few enough that their ids and samples are
 * small beside a model. Judged ones are handed out window by window, so fewer may be lost. */
enum { WINDOW = 512, JUDGED_WINDOW = 64 };

bool lt_engine_wants(const lt_task *task, lt_metric metric)
{
    for (int i = 0; i < task->metric_count; i++)
        if (task->metrics[i] == metric) return true;
    return false;
}

int64_t lt_engine_requests_of(const lt_task *task, const lt_task_doc *doc)
{
    if (task->output != LT_TASK_MULTIPLE_CHOICE) return 1;
    int64_t choices = (int64_t)doc->choice_count;
    return lt_engine_wants(task, LT_METRIC_ACC_MUTUAL_INFO) ? 2 * choices : choices;
}

void lt_engine_progress(lt_engine *e, int64_t requests)
{
    e->done += requests;
    if (e->on_progress) e->on_progress(e->context, e->done, e->total);
}

static lt_status check(const lt_engine *e, const int64_t *docs, int64_t count)
{
    const lt_task *task = e->task;
    for (int64_t i = 0; i < count; i++)
        if (docs[i] < 0 || docs[i] >= task->doc_count)
            return lt_fail(e->err, LT_ERR_USAGE, "%s: there is no document %lld", task->name,
                           (long long)docs[i]);
    bool has_records = task->output == LT_TASK_DATASET || task->output == LT_TASK_GENERATE;
    if (has_records && task->doc_count > 0 && task->docs[0].record >= 0 && !e->settings->dataset)
        return lt_fail(e->err, LT_ERR_USAGE, "%s: the dataset it is about is not open", task->name);
    if (lt_engine_wants(task, LT_METRIC_JUDGE) && !e->settings->judge)
        return lt_fail(e->err, LT_ERR_USAGE, "%s: the metric \"judge\" needs a judge", task->name);
    return LT_OK;
}

static lt_status make_scorers(lt_engine *e)
{
    const lt_engine_settings *s = e->settings;
    const lt_scorer_settings settings = {
        .batch_size = s->batch_size, .max_length = s->max_length, .cancelled = s->cancelled};
    LT_TRY(lt_text_reader_init(&e->reader, e->assistant, e->err));
    if (e->task->output != LT_TASK_GENERATE)
        return lt_scorer_create(e->assistant, &settings, &e->scorer, e->err);
    if (!lt_engine_wants(e->task, LT_METRIC_JUDGE)) return LT_OK;
    const lt_scorer_settings of_judge = {.cancelled = s->cancelled};
    if (lt_scorer_create(s->judge->assistant, &of_judge, &e->judge, e->err) == LT_OK) return LT_OK;
    return lt_fail_context(e->err, "the judge");
}

static lt_status evaluate_window(lt_engine *e, const int64_t *docs, int64_t count)
{
    switch (e->task->output) {
    case LT_TASK_MULTIPLE_CHOICE:
    case LT_TASK_LOGLIKELIHOOD:
    case LT_TASK_ROLLING:
        return lt_engine_score(e, docs, count);
    case LT_TASK_GENERATE:
        return lt_engine_generate(e, docs, count);
    case LT_TASK_DATASET:
        return lt_engine_score_dataset(e, docs, count);
    }
    return lt_fail(e->err, LT_ERR_USAGE, "%s: there is no such kind of task", e->task->name);
}

lt_status lt_evaluate_task(lt_assistant *assistant, const lt_task *task, const int64_t *docs,
                           int64_t count, const lt_engine_settings *settings,
                           lt_on_sample on_sample, lt_on_progress on_progress, void *context,
                           lt_err *err)
{
    lt_engine e = {.assistant = assistant,
                   .task = task,
                   .settings = settings,
                   .on_sample = on_sample,
                   .on_progress = on_progress,
                   .context = context,
                   .err = err};
    lt_status status;
    LT_TRY_GOTO(status, check(&e, docs, count), done);
    LT_TRY_GOTO(status, make_scorers(&e), done);
    for (int64_t i = 0; i < count; i++)
        e.total += lt_engine_requests_of(task, &task->docs[docs[i]]);
    int64_t window = e.judge ? JUDGED_WINDOW : WINDOW;
    for (int64_t i = 0; i < count; i += window)
        LT_TRY_GOTO(status, evaluate_window(&e, docs + i, lt_min_i64(window, count - i)), done);
done:
    lt_scorer_free(e.scorer);
    lt_scorer_free(e.judge);
    lt_chat_template_free(e.chat);
    lt_text_reader_free(&e.reader);
    return status;
}
