/* The hash of a task: of every text that is asked and every setting that decides what an answer is
 * worth, so that samples can be told from those of another task. Names and paths are no part. */
#include <stdio.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "train/evaluation/task_format.h"

/* Lengths stand in front, so that "ab","c" is not "a","bc". */
static lt_status add_text(lt_buffer *out, const char *text, lt_err *err)
{
    if (!text) return lt_buffer_append_text(out, "-\n", err);
    return lt_buffer_printf(out, err, "%zu:%s\n", strlen(text), text);
}

static lt_status add_texts(lt_buffer *out, char *const *texts, size_t count, lt_err *err)
{
    LT_TRY(lt_buffer_printf(out, err, "%zu texts\n", count));
    for (size_t i = 0; i < count; i++)
        LT_TRY(add_text(out, texts[i], err));
    return LT_OK;
}

static lt_status add_pairs(lt_buffer *out, const lt_task_doc *doc, lt_err *err)
{
    size_t count = !doc->pairs ? 0 : doc->choice_count ? doc->choice_count : 1;
    LT_TRY(lt_buffer_printf(out, err, "%zu pairs\n", count));
    for (size_t i = 0; i < count; i++) {
        LT_TRY(add_text(out, doc->pairs[i].context, err));
        LT_TRY(add_text(out, doc->pairs[i].continuation, err));
    }
    return LT_OK;
}

static lt_status add_doc(lt_buffer *out, const lt_task_doc *doc, lt_err *err)
{
    LT_TRY(add_pairs(out, doc, err));
    LT_TRY(add_texts(out, doc->choices, doc->choice_count, err));
    for (size_t i = 0; i < doc->gold_count; i++)
        LT_TRY(lt_buffer_printf(out, err, "gold %lld\n", (long long)doc->gold[i]));
    LT_TRY(add_text(out, doc->prompt, err));
    if (doc->messages) LT_TRY(lt_json_dump(doc->messages, 0, out, err));
    if (doc->turns) LT_TRY(lt_json_dump(doc->turns, 0, out, err));
    LT_TRY(add_text(out, doc->context, err));
    LT_TRY(add_texts(out, doc->references, doc->reference_count, err));
    LT_TRY(add_text(out, doc->category, err));
    return lt_buffer_printf(out, err, "%lld %.17g %.17g\n", (long long)doc->record, doc->words,
                            doc->bytes);
}

static lt_status add_comparison(lt_buffer *out, const lt_task *task, lt_err *err)
{
    for (int i = 0; i < task->filter_count; i++) {
        LT_TRY(add_text(out, task->filters[i].name, err));
        LT_TRY(add_text(out, task->filters[i].pattern, err));
        LT_TRY(add_text(out, task->filters[i].last ? "last" : "first", err));
    }
    for (size_t i = 0; i < sizeof task->ignored_patterns / sizeof *task->ignored_patterns; i++)
        LT_TRY(add_text(out, task->ignored_patterns[i], err));
    return lt_buffer_printf(out, err, "%d %d %d\n", task->squad_normalise, task->ignore_case,
                            task->ignore_punctuation);
}

static lt_status add_settings(lt_buffer *out, const lt_task *task, lt_err *err)
{
    LT_TRY(lt_buffer_printf(out, err, "%s %d %lld\n", task->format, task->output,
                            (long long)task->doc_count));
    for (int i = 0; i < task->metric_count; i++)
        LT_TRY(add_text(out, lt_metric_of(task->metrics[i])->name, err));
    LT_TRY(add_comparison(out, task, err));
    LT_TRY(add_texts(out, task->stop_texts, task->stop_text_count, err));
    return lt_buffer_printf(out, err, "%lld %lld\n", (long long)task->max_new_tokens,
                            (long long)task->num_fewshot);
}

/* Documents are hashed one by one, and then their hashes: a task may be large. */
lt_status lt_task_hash(lt_task *task, lt_err *err)
{
    char hash[LT_HASH_TEXT_SIZE];
    lt_buffer all = {0}, doc = {0};
    lt_status status = add_settings(&all, task, err);
    for (int64_t i = 0; status == LT_OK && i < task->doc_count; i++) {
        lt_buffer_clear(&doc);
        status = add_doc(&doc, &task->docs[i], err);
        if (status != LT_OK) break;
        lt_hash_bytes(doc.data, doc.size, hash);
        status = lt_buffer_append_text(&all, hash, err);
    }
    if (status == LT_OK) lt_hash_bytes(all.data, all.size, task->hash);
    lt_buffer_free(&all);
    lt_buffer_free(&doc);
    return status;
}
