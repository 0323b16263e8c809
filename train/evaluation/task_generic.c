/* Lathe's own task files, which say prompts and answers directly, and the perplexity of texts. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "train/evaluation/task_format.h"
#include "train/evaluation/task_text.h"

/* --- {"query", "choices", "gold", "delimiter"?} --- */

static lt_status read_gold_list(const lt_task_record *record, const json_t *list, lt_task_doc *doc,
                                lt_err *err)
{
    size_t count = json_array_size(list);
    if (count == 0 || count > doc->choice_count)
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"gold\" has %zu entries for %zu choices",
                       record->where, count, doc->choice_count);
    int64_t gold[LT_TASK_MAX_CHOICES];
    for (size_t i = 0; i < count; i++) {
        LT_TRY(lt_task_index_of(record, "gold", json_array_get(list, i), doc->choice_count,
                                &gold[i], err));
        for (size_t j = 0; j < i; j++)
            if (gold[j] == gold[i])
                return lt_fail(err, LT_ERR_FORMAT, "%s: \"gold\" has %lld twice", record->where,
                               (long long)gold[i]);
    }
    return lt_task_set_gold(doc, gold, count, err);
}

lt_status lt_read_multiple_choice(const lt_task_record *record, lt_task_question *out, lt_err *err)
{
    json_t *gold;
    int64_t index = 0;
    LT_TRY(lt_task_text_copy(record, "query", &out->text, err));
    LT_TRY(
        lt_task_filled_texts(record, "choices", 2, &out->doc.choices, &out->doc.choice_count, err));
    LT_TRY(lt_task_optional_text(record, "delimiter", &out->delimiter, err));
    LT_TRY(lt_task_need(record, "gold", &gold, err));
    if (json_is_array(gold)) return read_gold_list(record, gold, &out->doc, err);
    LT_TRY(lt_task_index(record, "gold", out->doc.choice_count, &index, err));
    return lt_task_set_gold(&out->doc, &index, 1, err);
}

/* --- {"context", "continuation"} --- */

lt_status lt_read_loglikelihood(const lt_task_record *record, lt_task_question *out, lt_err *err)
{
    LT_TRY(lt_task_text_copy(record, "context", &out->text, err));
    LT_TRY(lt_task_text_copy(record, "continuation", &out->target, err));
    if (*out->target) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT, "%s: \"continuation\" is empty: there is nothing to score",
                   record->where);
}

/* --- {"text"} --- */

lt_status lt_read_perplexity(const lt_task_record *record, lt_task_question *out, lt_err *err)
{
    LT_TRY(lt_task_text_copy(record, "text", &out->target, err));
    out->doc.words = (double)lt_python_word_count(out->target);
    out->doc.bytes = (double)strlen(out->target);
    return LT_OK;
}

/* --- {"prompt" | "messages", "references" | "reference", "context"?, ...} --- */

static bool is_role(const char *role)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role, roles[i]) == 0) return true;
    return false;
}

static lt_status read_messages(const lt_task_record *record, json_t *messages, lt_task_doc *doc,
                               lt_err *err)
{
    size_t count = json_array_size(messages);
    const char *role = NULL, *content = NULL;
    if (count == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"messages\" must be an array of messages",
                       record->where);
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(messages, i);
        role = content = NULL;
        LT_TRY(lt_json_get_string(message, "role", record->where, &role, err));
        LT_TRY(lt_json_get_string(message, "content", record->where, &content, err));
        if (!role || !content || !is_role(role))
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: message %zu needs a \"role\" (system, user, assistant or tool) and "
                           "a \"content\"",
                           record->where, i + 1);
    }
    if (strcmp(role, "assistant") == 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: the last message is the assistant's, but it is the model's turn: move "
                       "that answer to \"references\"",
                       record->where);
    doc->messages = json_incref(messages);
    return LT_OK;
}

static lt_status read_references(const lt_task_record *record, lt_task_doc *doc, lt_err *err)
{
    bool many = lt_task_find(record->json, "references"),
         one = lt_task_find(record->json, "reference");
    if (many && one)
        return lt_fail(err, LT_ERR_FORMAT, "%s: has both \"references\" and \"reference\"",
                       record->where);
    if (many)
        return lt_task_filled_texts(record, "references", 1, &doc->references,
                                    &doc->reference_count, err);
    if (!one) return LT_OK;
    doc->references = calloc(1, sizeof *doc->references);
    if (!doc->references) return lt_fail_nomem(err, sizeof *doc->references, "a reference");
    doc->reference_count = 1;
    return lt_task_text_copy(record, "reference", &doc->references[0], err);
}

lt_status lt_read_generation(const lt_task_record *record, lt_task_question *out, lt_err *err)
{
    json_t *messages = lt_task_find(record->json, "messages");
    if (messages && lt_task_find(record->json, "prompt"))
        return lt_fail(err, LT_ERR_FORMAT, "%s: has both \"prompt\" and \"messages\"",
                       record->where);
    if (messages)
        LT_TRY(read_messages(record, messages, &out->doc, err));
    else
        LT_TRY(lt_task_text_copy(record, "prompt", &out->text, err));
    LT_TRY(lt_task_optional_text(record, "context", &out->doc.context, err));
    LT_TRY(read_references(record, &out->doc, err));
    if (out->doc.reference_count == 0) return LT_OK;
    return lt_copy_text(out->doc.references[0], &out->target, err);
}

/* --- What a file of them says of its task --- */

/* The first record speaks for the file; a later one may only say the same. */
static lt_status same_in_all(const lt_task_questions *questions, const char *key, lt_err *err)
{
    const json_t *said = lt_task_find(questions->items[0].doc.source, key);
    for (int64_t i = 1; i < questions->count; i++) {
        const lt_task_doc *doc = &questions->items[i].doc;
        const json_t *value = lt_task_find(doc->source, key);
        if (value && !json_equal(value, said))
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: \"%s\" is not what the first record has; it holds for a whole "
                           "file, so make this a file of its own",
                           doc->where, key);
    }
    return LT_OK;
}

static lt_status same_shape(const lt_task_questions *questions, lt_err *err)
{
    const lt_task_doc *first = &questions->items[0].doc;
    for (int64_t i = 1; i < questions->count; i++) {
        const lt_task_doc *doc = &questions->items[i].doc;
        bool messages = !doc->messages == !first->messages,
             references = !doc->reference_count == !first->reference_count;
        if (messages && references) continue;
        return lt_fail(err, LT_ERR_FORMAT, "%s: the first record has %s, this one has not",
                       doc->where,
                       messages ? (first->reference_count ? "references" : "no references")
                                : (first->messages ? "messages" : "a prompt"));
    }
    return LT_OK;
}

static lt_status read_stops(const lt_task_doc *first, lt_task *task, lt_err *err)
{
    lt_task_record record = {.json = first->source,
                             .where = first->where,
                             .format = lt_task_format_by_name("generation")};
    if (!lt_task_find(first->source, "stop")) return LT_OK;
    return lt_task_filled_texts(&record, "stop", 0, &task->stop_texts, &task->stop_text_count, err);
}

static bool any_context(const lt_task_questions *questions)
{
    for (int64_t i = 0; i < questions->count; i++)
        if (questions->items[i].doc.context) return true;
    return false;
}

/* Leaves metrics out that the file gives nothing to compare with. */
static void choose_metrics(const lt_task_questions *questions, lt_task *task)
{
    bool references = questions->items[0].doc.reference_count > 0, context = any_context(questions);
    int kept = 0;
    for (int i = 0; i < task->metric_count; i++) {
        lt_metric metric = task->metrics[i];
        bool needs_reference = metric >= LT_METRIC_EXACT_MATCH && metric <= LT_METRIC_BLEU;
        if (metric == LT_METRIC_GROUNDED ? context : references || !needs_reference)
            task->metrics[kept++] = metric;
    }
    task->metric_count = kept;
}

lt_status lt_settle_generation(const lt_task_questions *questions, lt_task *task, lt_err *err)
{
    const lt_task_doc *first = &questions->items[0].doc;
    LT_TRY(same_shape(questions, err));
    LT_TRY(same_in_all(questions, "stop", err));
    LT_TRY(same_in_all(questions, "max_new_tokens", err));
    LT_TRY(lt_json_get_int(first->source, "max_new_tokens", 1, INT32_MAX, first->where,
                           &task->max_new_tokens, err));
    choose_metrics(questions, task);
    return read_stops(first, task, err);
}
