/* The output directory of an evaluation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "train/evaluation/model_identity.h"
#include "train/evaluation/output_names.h"
#include "train/evaluation/run_internal.h"

/* --- Going on from an earlier run ------------------------------------------------------------- */

/* Two runs in one directory would write into each other's samples. The lock goes with the process.
 */
static lt_status lock_output(lt_evaluation *run)
{
    const char *output = run->settings->output;
    bool busy;
    LT_TRY(lt_make_directories(output, run->err));
    LT_TRY(lt_lock_directory(output, &run->lock, &busy, run->err));
    if (busy) return lt_fail(run->err, LT_ERR_USAGE, "another lathe eval is at work in %s", output);
    return lt_remove_stale_temporaries(output, run->err);
}

static lt_status choose_directory(lt_evaluation *run, int index)
{
    lt_side *side = &run->sides[index];
    lt_buffer *directory = &side->directory;
    LT_TRY(lt_evaluation_model_directory(run->settings->output, side->named.model,
                                         side->named.adapter, directory, run->err));
    if (index == BASELINE && strcmp(directory->data, run->sides[MODEL].directory.data) == 0)
        LT_TRY(lt_buffer_append_text(directory, "+baseline", run->err));
    LT_TRY(lt_make_directories(directory->data, run->err));
    return lt_remove_stale_temporaries(directory->data, run->err);
}

/* All that samples depend on, but for the task. */
static lt_status describe(lt_evaluation *run, const lt_side *side, json_t **out)
{
    const lt_evaluation_settings *s = run->settings;
    char model[LT_HASH_TEXT_SIZE], adapter[LT_HASH_TEXT_SIZE] = "";
    LT_TRY(lt_model_identity(side->model.data, model, run->err));
    if (side->named.adapter) LT_TRY(lt_model_identity(side->named.adapter, adapter, run->err));
    *out = json_pack("{s:s, s:s, s:s, s:b, s:I, s:I, s:s, s:s, s:s}", "model", model, "adapter",
                     adapter, "machine", run->device.backend->name, "chat template",
                     s->apply_chat_template, "maximum length", (json_int_t)s->max_length,
                     "batch size", (json_int_t)s->batch_size, "judge", run->judge_identity,
                     "rubric", run->rubric_hash, "version", LATHE_VERSION);
    return *out ? LT_OK : lt_fail_nomem(run->err, 512, "the samples' header");
}

static void report_notice(lt_evaluation *run, const char *notice)
{
    while (*notice) {
        size_t length = strcspn(notice, "\n");
        lt_evaluation_say(run, "%.*s", (int)length, notice);
        notice += length + (notice[length] == '\n');
    }
}

static lt_status open_stores(lt_evaluation *run, int index)
{
    lt_side *side = &run->sides[index];
    const char *directory = run->settings->output ? side->directory.data : NULL;
    json_t *identity = NULL;
    lt_buffer notice = {0};
    lt_status status = LT_OK;
    if (directory) LT_TRY(describe(run, side, &identity));
    for (int64_t i = 0; i < run->task_count && status == LT_OK; i++) {
        const lt_task *task = &run->tasks[i];
        if (identity) json_object_set_new(identity, "task", json_string(task->hash));
        status = lt_sample_store_open(task, directory, identity, run->now, &side->stores[i],
                                      &notice, run->err);
        if (status != LT_OK) break;
        const lt_sample_store *store = &side->stores[i];
        if (strcmp(store->date, run->date) < 0) memcpy(run->date, store->date, sizeof run->date);
        if (store->resumed > 0)
            lt_evaluation_say(run, "%s, %s: going on behind %lld of %lld documents",
                              side->label.data, task->name, (long long)store->resumed,
                              (long long)task->doc_count);
        run->total += task->doc_count;
        run->done += store->resumed;
        run->resumed += store->resumed;
    }
    report_notice(run, lt_buffer_text(&notice));
    lt_buffer_free(&notice);
    json_decref(identity);
    return status;
}

static lt_status make_room(lt_evaluation *run, lt_side *side)
{
    size_t count = (size_t)run->task_count;
    side->stores = calloc(count, sizeof *side->stores);
    side->results = calloc(count, sizeof *side->results);
    side->seconds = calloc(count, sizeof *side->seconds);
    if (side->stores && side->results && side->seconds) return LT_OK;
    return lt_fail_nomem(run->err, count * sizeof *side->results, "the results");
}

lt_status lt_evaluation_open_output(lt_evaluation *run)
{
    if (run->settings->output) LT_TRY(lock_output(run));
    for (int i = 0; i < run->side_count; i++) {
        LT_TRY(make_room(run, &run->sides[i]));
        if (run->settings->output) LT_TRY(choose_directory(run, i));
        LT_TRY(open_stores(run, i));
    }
    return LT_OK;
}

/* --- Results ---------------------------------------------------------------------------------- */

static lt_evaluation_facts facts_of(const lt_evaluation *run, const lt_side *side)
{
    return (lt_evaluation_facts){
        .model = side->named.model,
        .adapter = side->named.adapter,
        .date = run->date,
        .device = run->device.backend->name,
        .dtype = run->device.backend->real == LT_BF16 ? "bfloat16" : "float32",
        .batch_size = run->settings->batch_size,
        .limit = run->settings->limit,
        .max_length = side->max_length,
        .eot_token = side->end_token.size > 0 ? side->end_token.data : NULL,
        .seconds = run->seconds,
        .chat = run->settings->apply_chat_template,
    };
}

/* Of a comparison: what was gained is the model's, so the baseline comes first. */
static const lt_side *first_side(const lt_evaluation *run)
{
    return &run->sides[run->comparisons ? BASELINE : MODEL];
}

static lt_evaluation_facts all_facts(const lt_evaluation *run)
{
    lt_evaluation_facts facts = facts_of(run, first_side(run));
    if (!run->comparisons) return facts;
    facts.compared_model = run->settings->model.model;
    facts.compared_adapter = run->settings->model.adapter;
    return facts;
}

lt_status lt_evaluation_to_json(lt_evaluation *run, json_t **out)
{
    lt_evaluation_facts facts = all_facts(run);
    return lt_results_to_json(first_side(run)->results, run->task_count, run->comparisons, &facts,
                              out, run->err);
}

/* --- Files ------------------------------------------------------------------------------------ */

static lt_status note_file(lt_evaluation_result *result, const lt_buffer *path, lt_err *err)
{
    return lt_buffer_printf(&result->files, err, "%s\n", path->data);
}

static lt_status write_samples(lt_evaluation *run, const lt_side *side, int64_t task)
{
    const lt_task_results *results = &side->results[task];
    char ending[LT_DATE_SIZE + 16], date[LT_DATE_SIZE];
    lt_buffer path = {0}, line = {0};
    lt_new_file file = {.fd = -1};
    lt_status status;
    lt_evaluation_date_name(run->date, date);
    snprintf(ending, sizeof ending, "_%s.jsonl", date);
    LT_TRY_GOTO(status,
                lt_evaluation_task_path(side->directory.data, "samples_", results->task->name,
                                        ending, &path, run->err),
                done);
    LT_TRY_GOTO(status, lt_new_file_begin(&file, path.data, run->err), done);
    for (int64_t i = 0; i < results->sample_count; i++) {
        lt_buffer_clear(&line);
        LT_TRY_GOTO(status, lt_json_dump(results->samples[i], 0, &line, run->err), done);
        LT_TRY_GOTO(status, lt_buffer_append(&line, "\n", 1, run->err), done);
        LT_TRY_GOTO(status, lt_new_file_write(&file, line.data, line.size, run->err), done);
    }
    status = lt_new_file_commit(&file, run->err);
done:
    if (status != LT_OK) lt_new_file_abort(&file);
    lt_buffer_free(&path);
    lt_buffer_free(&line);
    return status;
}

/* DIRECTORY/KIND_DATE.json */
static lt_status write_json(lt_evaluation *run, const char *directory, const char *kind,
                            const json_t *json, lt_evaluation_result *result)
{
    char date[LT_DATE_SIZE];
    lt_buffer path = {0};
    lt_evaluation_date_name(run->date, date);
    lt_status status = lt_buffer_printf(&path, run->err, "%s/%s_%s.json", directory, kind, date);
    if (status == LT_OK) status = lt_json_write_file(path.data, json, run->err);
    if (status == LT_OK) status = note_file(result, &path, run->err);
    lt_buffer_free(&path);
    return status;
}

static lt_status write_side(lt_evaluation *run, const lt_side *side, lt_evaluation_result *result)
{
    json_t *json = NULL;
    lt_evaluation_facts facts = facts_of(run, side);
    for (int64_t i = 0; i < run->task_count; i++)
        LT_TRY(write_samples(run, side, i));
    lt_status status =
        lt_results_to_json(side->results, run->task_count, NULL, &facts, &json, run->err);
    if (status == LT_OK) status = write_json(run, side->directory.data, "results", json, result);
    json_decref(json);
    return status;
}

/* OUTPUT/TASK.yaml: a generic task as lm-evaluation-harness is told of it, for whoever wants to see
 * the same numbers there. Published benchmarks it knows already. */
static lt_status write_task(lt_evaluation *run, const lt_task *task, lt_evaluation_result *result)
{
    lt_buffer yaml = {0}, path = {0};
    lt_status status = lt_task_to_lm_eval(task, &yaml, run->err);
    if (status == LT_ERR_UNSUPPORTED) status = LT_OK;
    if (status != LT_OK || yaml.size == 0) goto done;
    LT_TRY_GOTO(
        status,
        lt_evaluation_task_path(run->settings->output, "", task->name, ".yaml", &path, run->err),
        done);
    LT_TRY_GOTO(status, lt_write_file(path.data, yaml.data, yaml.size, run->err), done);
    status = note_file(result, &path, run->err);
done:
    lt_buffer_free(&yaml);
    lt_buffer_free(&path);
    return status;
}

static lt_status write_report(lt_evaluation *run, lt_evaluation_result *result)
{
    lt_buffer page = {0}, path = {0};
    lt_evaluation_facts facts = all_facts(run);
    lt_status status;
    LT_TRY_GOTO(status,
                lt_evaluation_report(first_side(run)->results, run->task_count, run->comparisons,
                                     &facts, &page, run->err),
                done);
    LT_TRY_GOTO(status, lt_path_join(&path, run->settings->output, "report.html", run->err), done);
    LT_TRY_GOTO(status, lt_write_file(path.data, page.data, page.size, run->err), done);
    status = note_file(result, &path, run->err);
done:
    lt_buffer_free(&page);
    lt_buffer_free(&path);
    return status;
}

lt_status lt_evaluation_write_output(lt_evaluation *run, lt_evaluation_result *result)
{
    if (!run->settings->output) return LT_OK;
    for (int i = 0; i < run->side_count; i++)
        LT_TRY(write_side(run, &run->sides[i], result));
    if (run->comparisons)
        LT_TRY(write_json(run, run->settings->output, "comparison", result->json, result));
    for (int64_t i = 0; i < run->task_count; i++)
        LT_TRY(write_task(run, &run->tasks[i], result));
    LT_TRY(write_report(run, result));
    for (int i = 0; i < run->side_count; i++)
        for (int64_t t = 0; t < run->task_count; t++)
            LT_TRY(lt_sample_store_remove(&run->sides[i].stores[t], run->err));
    return LT_OK;
}
