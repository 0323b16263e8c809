/* An evaluation from its settings to its results. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "train/evaluation/run_internal.h"
#include "train/trainer.h"

/* A difference's interval does not gain from more resamples, and costs one for each metric and
 * category. */
enum { MAX_PAIRED_RESAMPLES = 10000, PAIRED_SEED = 1234 };

void lt_evaluation_say(const lt_evaluation *run, const char *format, ...)
{
    char text[1024];
    if (!run->observer || !run->observer->message) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    run->observer->message(run->observer->context, text);
}

/* To the microsecond, as lm-evaluation-harness names its files, so that no two runs share one. */
static void note_time(lt_evaluation *run)
{
    struct timespec now;
    struct tm utc;
    char text[24];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(run->now, sizeof run->now, "%s.%06d", text, (int)(now.tv_nsec / 1000 % 1000000));
    memcpy(run->date, run->now, sizeof run->date);
}

/* --- Scoring ---------------------------------------------------------------------------------- */

typedef struct scoring {
    lt_evaluation *run;
    lt_side *side;
    lt_sample_store *store;
    int64_t block; /* documents of the one being scored */
} scoring;

static lt_status on_sample(void *context, int64_t doc, json_t *sample, int64_t cut, lt_err *err)
{
    scoring *s = context;
    return lt_sample_store_add(s->store, doc, sample, cut, err);
}

static void report_progress(const scoring *s, int64_t of_block)
{
    const lt_evaluation *run = s->run;
    if (!run->observer || !run->observer->progress) return;
    const lt_evaluation_progress progress = {.model = s->side->label.data,
                                             .task = s->store->task->name,
                                             .done = s->store->done + of_block,
                                             .total = s->store->task->doc_count,
                                             .resumed = s->store->resumed,
                                             .all_done = run->done + of_block,
                                             .all_total = run->total,
                                             .all_resumed = run->resumed,
                                             .seconds = lt_seconds() - run->begin};
    run->observer->progress(run->observer->context, &progress);
}

/* The engine counts requests; people count documents. */
static void on_progress(void *context, int64_t done, int64_t total)
{
    const scoring *s = context;
    report_progress(s, total > 0 ? (int64_t)((double)done / (double)total * (double)s->block) : 0);
}

static lt_status score_blocks(scoring *s, lt_assistant *assistant, const int64_t *docs)
{
    lt_evaluation *run = s->run;
    const lt_task *task = s->store->task;
    const lt_engine_settings settings = {.batch_size = run->settings->batch_size,
                                         .max_length = run->settings->max_length,
                                         .apply_chat_template = run->settings->apply_chat_template,
                                         .dataset = run->dataset,
                                         .judge = run->judge.assistant ? &run->judge : NULL,
                                         .cancelled = run->settings->cancelled};
    while (s->store->done < task->doc_count) {
        int64_t begin = s->store->done;
        s->block = lt_task_block_end(task, begin) - begin;
        LT_TRY(lt_evaluate_task(assistant, task, docs + begin, s->block, &settings, on_sample,
                                on_progress, s, run->err));
        LT_TRY(lt_sample_store_end_block(s->store, run->err));
        run->done += s->block;
        report_progress(s, 0);
    }
    return LT_OK;
}

static lt_status score_task(lt_evaluation *run, int side, int64_t task, lt_assistant *assistant)
{
    scoring s = {.run = run, .side = &run->sides[side], .store = &run->sides[side].stores[task]};
    int64_t count = s.store->task->doc_count;
    double begin = lt_seconds();
    int64_t *docs = calloc((size_t)count + 1, sizeof *docs);
    if (!docs) return lt_fail_nomem(run->err, (size_t)count * sizeof *docs, "document numbers");
    for (int64_t i = 0; i < count; i++)
        docs[i] = i;
    lt_status status = score_blocks(&s, assistant, docs);
    s.side->seconds[task] = lt_seconds() - begin;
    free(docs);
    if (status != LT_OK && status != LT_ERR_INTERRUPTED)
        lt_fail_context(run->err, "%s, task %s", s.side->label.data, s.store->task->name);
    return status;
}

/* --- Models one after the other --------------------------------------------------------------- */

/* A model opened once, for the dataset's tasks or for the others. */
typedef struct session {
    int side;
    bool for_dataset;
    int64_t begin, end; /* tasks */
} session;

static int list_sessions(const lt_evaluation *run, session out[4])
{
    int count = 0;
    for (int side = 0; side < run->side_count; side++) {
        if (run->dataset_tasks > 0) out[count++] = (session){side, true, 0, run->dataset_tasks};
        if (run->dataset_tasks < run->task_count)
            out[count++] = (session){side, false, run->dataset_tasks, run->task_count};
    }
    return count;
}

/* Of several, one is open at a time; whether the later ones can be is asked before the work of the
 * first. */
static lt_status try_sessions(lt_evaluation *run, const session *sessions, int count)
{
    lt_assistant assistant;
    for (int i = 1; i < count; i++) {
        LT_TRY(
            lt_evaluation_open_model(run, sessions[i].side, sessions[i].for_dataset, &assistant));
        lt_assistant_close(&assistant);
    }
    return LT_OK;
}

static lt_status score_all(lt_evaluation *run)
{
    session sessions[4];
    int count = list_sessions(run, sessions);
    LT_TRY(try_sessions(run, sessions, count));
    run->begin = lt_seconds();
    for (int i = 0; i < count; i++) {
        const session *s = &sessions[i];
        lt_assistant assistant;
        LT_TRY(lt_evaluation_open_model(run, s->side, s->for_dataset, &assistant));
        lt_status status = LT_OK;
        for (int64_t task = s->begin; task < s->end && status == LT_OK; task++)
            status = score_task(run, s->side, task, &assistant);
        lt_assistant_close(&assistant);
        LT_TRY(status);
    }
    run->seconds = lt_seconds() - run->begin;
    return LT_OK;
}

/* --- Results ---------------------------------------------------------------------------------- */

static lt_status note_cut(lt_evaluation *run, const lt_side *side, const lt_task_results *results,
                          lt_buffer *notes)
{
    if (results->cut_documents == 0) return LT_OK;
    return lt_buffer_printf(notes, run->err,
                            "%s, %s: %lld of %lld documents did not fit the %lld tokens that the "
                            "model is shown: their beginning was left out\n",
                            side->label.data, results->task->name,
                            (long long)results->cut_documents, (long long)results->task->doc_count,
                            (long long)side->max_length);
}

static lt_status make_results(lt_evaluation *run, lt_side *side, lt_buffer *notes)
{
    for (int64_t i = 0; i < run->task_count; i++) {
        const lt_sample_store *store = &side->stores[i];
        lt_task_results *results = &side->results[i];
        LT_TRY(lt_results_make(store->task, store->samples, store->task->doc_count * store->filters,
                               run->settings->resamples, results, run->err));
        results->seconds = side->seconds[i];
        results->cut_documents = lt_sample_store_cut_documents(store);
        LT_TRY(note_cut(run, side, results, notes));
    }
    return LT_OK;
}

static lt_status compare(lt_evaluation *run)
{
    int64_t resamples = lt_min_i64(run->settings->resamples, MAX_PAIRED_RESAMPLES);
    size_t count = (size_t)run->task_count;
    run->comparisons = calloc(count, sizeof *run->comparisons);
    if (!run->comparisons)
        return lt_fail_nomem(run->err, count * sizeof *run->comparisons, "the comparison");
    for (size_t i = 0; i < count; i++)
        LT_TRY(lt_results_compare(&run->sides[BASELINE].results[i], &run->sides[MODEL].results[i],
                                  resamples, PAIRED_SEED, &run->comparisons[i], run->err));
    return LT_OK;
}

static lt_status make_tables(lt_evaluation *run, lt_buffer *out)
{
    const lt_side *model = &run->sides[MODEL], *baseline = &run->sides[BASELINE];
    if (!run->comparisons) {
        LT_TRY(lt_buffer_printf(out, run->err, "%s\n\n", model->label.data));
        return lt_results_table(model->results, run->task_count, out, run->err);
    }
    LT_TRY(lt_buffer_printf(out, run->err, "a: %s\nb: %s\n\n", baseline->label.data,
                            model->label.data));
    return lt_comparison_table(run->comparisons, run->task_count, out, run->err);
}

/* --- All of it -------------------------------------------------------------------------------- */

static lt_status evaluate(lt_evaluation *run, lt_evaluation_result *result)
{
    LT_TRY(lt_evaluation_check(run->settings, run->err));
    LT_TRY(lt_evaluation_name_sides(run));
    LT_TRY(lt_evaluation_load_tasks(run));
    LT_TRY(lt_device_open(&run->settings->machine, &run->device, run->err));
    LT_TRY(lt_evaluation_open_judge(run));
    LT_TRY(lt_evaluation_open_output(run));
    LT_TRY(score_all(run));
    for (int i = 0; i < run->side_count; i++)
        LT_TRY(make_results(run, &run->sides[i], &result->notes));
    if (run->side_count == 2) LT_TRY(compare(run));
    LT_TRY(make_tables(run, &result->tables));
    LT_TRY(lt_evaluation_to_json(run, &result->json));
    return lt_evaluation_write_output(run, result);
}

static void free_side(lt_side *side, int64_t task_count)
{
    for (int64_t i = 0; i < task_count; i++) {
        if (side->stores) lt_sample_store_close(&side->stores[i]);
        if (side->results) lt_results_free_task(&side->results[i]);
    }
    free(side->stores);
    free(side->results);
    free(side->seconds);
    lt_buffer_free(&side->model);
    lt_buffer_free(&side->label);
    lt_buffer_free(&side->directory);
    lt_buffer_free(&side->end_token);
}

static void free_run(lt_evaluation *run)
{
    for (int64_t i = 0; run->comparisons && i < run->task_count; i++)
        lt_comparison_free(&run->comparisons[i]);
    free(run->comparisons);
    for (int i = 0; i < 2; i++)
        free_side(&run->sides[i], run->task_count);
    for (int64_t i = 0; i < run->task_count; i++)
        lt_task_free(&run->tasks[i]);
    free(run->tasks);
    lt_assistant_close(&run->judging);
    lt_buffer_free(&run->rubric);
    lt_backend_free(run->device.backend);
    lt_dataset_close(run->dataset);
    if (run->lock >= 0) close(run->lock);
}

lt_status lt_evaluation_run(const lt_evaluation_settings *settings,
                            const lt_evaluation_observer *observer, lt_evaluation_result *result,
                            lt_err *err)
{
    lt_evaluation run = {.settings = settings, .observer = observer, .lock = -1, .err = err};
    *result = (lt_evaluation_result){0};
    note_time(&run);
    lt_status status = evaluate(&run, result);
    result->done = run.done;
    result->total = run.total;
    free_run(&run);
    return status;
}

void lt_evaluation_result_free(lt_evaluation_result *result)
{
    lt_buffer_free(&result->tables);
    lt_buffer_free(&result->notes);
    lt_buffer_free(&result->files);
    json_decref(result->json);
    *result = (lt_evaluation_result){0};
}
