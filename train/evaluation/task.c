/* Loading a task: which format, its records, its settings. */
#include "train/evaluation/task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fsio.h"
#include "data_pipeline/json_lines.h"
#include "train/evaluation/task_format.h"
#include "train/evaluation/task_text.h"

enum { MAX_DOCS = 1000000 };
/* Records are kept in memory, with what is made of them. */
static const uint64_t max_bytes = (uint64_t)1 << 30;

/* --- Life ------------------------------------------------------------------------------------- */

static void free_texts(char **texts, size_t count)
{
    for (size_t i = 0; texts && i < count; i++)
        free(texts[i]);
    free(texts);
}

static void free_pairs(lt_task_pair *pairs, size_t count)
{
    for (size_t i = 0; pairs && i < count; i++) {
        if (i == 0 || pairs[i].context != pairs[0].context) free(pairs[i].context);
        free(pairs[i].continuation);
    }
    free(pairs);
}

void lt_task_doc_free(lt_task_doc *doc)
{
    free_pairs(doc->pairs, doc->choice_count ? doc->choice_count : 1);
    free_texts(doc->choices, doc->choice_count);
    free_texts(doc->references, doc->reference_count);
    free(doc->category);
    free(doc->gold);
    free(doc->prompt);
    free(doc->context);
    json_decref(doc->messages);
    json_decref(doc->turns);
    json_decref(doc->source);
    *doc = (lt_task_doc){0};
}

static void free_question(lt_task_question *question)
{
    for (char **context = question->contexts; context && *context; context++)
        free(*context);
    free(question->contexts);
    free(question->description);
    free(question->text);
    free(question->delimiter);
    free(question->target);
    lt_task_doc_free(&question->doc);
}

void lt_task_questions_free(lt_task_questions *questions)
{
    for (int64_t i = 0; i < questions->count; i++)
        free_question(&questions->items[i]);
    free(questions->items);
    *questions = (lt_task_questions){0};
}

void lt_task_free(lt_task *task)
{
    if (!task) return;
    for (int64_t i = 0; task->docs && i < task->doc_count; i++)
        lt_task_doc_free(&task->docs[i]);
    free(task->docs);
    free_texts(task->stop_texts, task->stop_text_count);
    free(task->name);
    free(task->path);
    free(task->fewshot_path);
    *task = (lt_task){0};
}

/* --- Records ---------------------------------------------------------------------------------- */

/* "PATH:LINE"; of a path that is too long the end is kept. */
static void write_where(const char *path, int64_t line, char *out, size_t size)
{
    char number[32];
    int digits = snprintf(number, sizeof number, ":%lld", (long long)line);
    size_t room = size - 1 - (size_t)digits, length = strlen(path);
    snprintf(out, size, "%s%s", path + (length > room ? length - room : 0), number);
}

static lt_status add_question(lt_task_questions *questions, const char *path,
                              lt_task_question **out, lt_err *err)
{
    if (questions->count == MAX_DOCS)
        return lt_fail(err, LT_ERR_LIMIT, "%s: has more than %d records; split it", path, MAX_DOCS);
    if (questions->count == questions->capacity) {
        int64_t larger = questions->capacity ? 2 * questions->capacity : 64;
        size_t bytes = (size_t)larger * sizeof *questions->items;
        lt_task_question *moved = realloc(questions->items, bytes);
        if (!moved) return lt_fail_nomem(err, bytes, "a task's records");
        questions->items = moved;
        questions->capacity = larger;
    }
    *out = &questions->items[questions->count++];
    **out = (lt_task_question){.doc.record = -1};
    return LT_OK;
}

/* Takes over `json`, also on failure. */
static lt_status read_question(json_t *json, const char *path, int64_t line,
                               const lt_task_format *format, lt_task_questions *questions,
                               lt_err *err)
{
    lt_task_question *question = NULL;
    lt_status status = add_question(questions, path, &question, err);
    if (status != LT_OK) {
        json_decref(json);
        return status;
    }
    question->doc.source = json;
    write_where(path, line, question->doc.where, sizeof question->doc.where);
    lt_task_record record = {.json = json, .where = question->doc.where, .format = format};
    const json_t *category = lt_task_find(json, "category");
    if (!json_is_string(category) || json_string_length(category) > 0)
        LT_TRY(lt_task_optional_text(&record, "category", &question->doc.category, err));
    return format->read(&record, question, err);
}

static lt_status read_all(lt_json_lines *lines, const char *path, const lt_task_format **format,
                          lt_task_questions *questions, lt_err *err)
{
    for (;;) {
        json_t *json;
        int64_t line;
        LT_TRY(lt_json_lines_next(lines, &json, &line, err));
        if (!json) break;
        lt_status status = *format ? LT_OK : lt_task_format_of(json, path, format, err);
        if (status == LT_OK && lt_json_lines_bytes(lines) > max_bytes)
            status = lt_fail(err, LT_ERR_LIMIT, "%s: has more than %llu MiB of records; split it",
                             path, (unsigned long long)(max_bytes >> 20));
        if (status != LT_OK) {
            json_decref(json);
            return status;
        }
        LT_TRY(read_question(json, path, line, *format, questions, err));
    }
    if (questions->count > 0) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT, "%s: has no records", path);
}

static lt_status load_questions(const char *path, const lt_task_format **format,
                                lt_task_questions *questions, lt_err *err)
{
    lt_json_lines *lines = NULL;
    LT_TRY(lt_json_lines_open(path, &lines, err));
    lt_status status = read_all(lines, path, format, questions, err);
    lt_json_lines_close(lines);
    return status;
}

/* --- Which format, which name ----------------------------------------------------------------- */

/* Splits "FORMAT=FILE". A file's own name may have a '=' too. */
static lt_status parse_word(const char *word, const char *asked, const lt_task_format **format,
                            const char **path, lt_err *err)
{
    char name[64];
    size_t size = strcspn(word, "=");
    *path = word;
    *format = NULL;
    if (word[size] == '=' && !lt_path_exists(word)) {
        snprintf(name, sizeof name, "%.*s", (int)(size < sizeof name ? size : sizeof name - 1),
                 word);
        *path = word + size + 1;
        if (asked && strcmp(asked, name) != 0)
            return lt_fail(err, LT_ERR_USAGE, "%s: the format is to be %s, but the word says %s",
                           word, asked, name);
        asked = name;
    }
    if (!asked || (*format = lt_task_format_by_name(asked))) return LT_OK;
    lt_buffer names = {0};
    lt_status status = lt_task_format_names(&names, err);
    if (status == LT_OK)
        status =
            lt_fail(err, LT_ERR_USAGE, "%s: there is no format \"%s\" of task files; there are %s",
                    word, asked, names.data);
    lt_buffer_free(&names);
    return status;
}

/* "tasks/arc.jsonl.gz" is called "arc". */
static lt_status name_of_file(const char *path, char **out, lt_err *err)
{
    static const char *const endings[] = {".gz", ".zst", ".jsonl", ".json", ".txt", ".md"};
    const char *slash = strrchr(path, '/');
    LT_TRY(lt_copy_text(slash ? slash + 1 : path, out, err));
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t length = strlen(*out), ending = strlen(endings[i]);
        if (length > ending && strcmp(*out + length - ending, endings[i]) == 0)
            (*out)[length - ending] = '\0';
    }
    return LT_OK;
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat one, other;
    return stat(a, &one) == 0 && stat(b, &other) == 0 && one.st_dev == other.st_dev &&
           one.st_ino == other.st_ino;
}

/* --- The task --------------------------------------------------------------------------------- */

static lt_status set_stops(lt_task *task, const char *const *stops, size_t count, lt_err *err)
{
    task->stop_texts = calloc(count, sizeof *task->stop_texts);
    if (!task->stop_texts) return lt_fail_nomem(err, count * sizeof *stops, "stop texts");
    for (; task->stop_text_count < count && stops[task->stop_text_count]; task->stop_text_count++)
        LT_TRY(lt_copy_text(stops[task->stop_text_count], &task->stop_texts[task->stop_text_count],
                            err));
    return LT_OK;
}

static lt_status set_answers(lt_task *task, const lt_task_answers *answers, lt_err *err)
{
    enum { DEFAULT_NEW_TOKENS = 256 }; /* lm-eval's max_gen_toks */
    task->max_new_tokens = DEFAULT_NEW_TOKENS;
    task->ignore_case = answers->ignore_case;
    task->ignore_punctuation = answers->ignore_punctuation;
    memcpy(task->ignored_patterns, answers->ignored_patterns, sizeof task->ignored_patterns);
    memcpy(task->filters, answers->filters, sizeof task->filters);
    while (task->filter_count < LT_TASK_MAX_FILTERS && task->filters[task->filter_count].name)
        task->filter_count++;
    if (!answers->stops[0]) return LT_OK;
    return set_stops(task, answers->stops, sizeof answers->stops / sizeof *answers->stops, err);
}

/* Without a stop a model that has seen examples goes on with further ones: lm-eval then ends an
 * answer where an example would end. */
static lt_status stop_at_example_end(lt_task *task, const json_t *first, lt_err *err)
{
    static const char *const end[] = {"\n\n"};
    bool said = task->stop_text_count > 0 || lt_task_find(first, "stop");
    return said || task->num_fewshot == 0 ? LT_OK : set_stops(task, end, 1, err);
}

static lt_status set_task(const lt_task_format *format, const char *path,
                          const lt_task_settings *settings, const lt_task_questions *questions,
                          lt_task *task, lt_err *err)
{
    task->format = format->name;
    task->output = format->output;
    memcpy(task->metrics, format->metrics, sizeof task->metrics);
    task->metric_count = format->metric_count;
    task->original_count = questions->count;
    if (!format->fixed_prompt)
        task->num_fewshot = settings->num_fewshot < 0 ? format->num_fewshot : settings->num_fewshot;
    task->fewshot_first = format->fewshot_first || settings->fewshot_first;
    LT_TRY(lt_copy_text(path, &task->path, err));
    LT_TRY(format->named_by_file ? name_of_file(path, &task->name, err)
                                 : lt_copy_text(format->name, &task->name, err));
    if (format->answers) LT_TRY(set_answers(task, format->answers, err));
    if (format->settle) LT_TRY(format->settle(questions, task, err));
    if (task->output != LT_TASK_GENERATE) return LT_OK;
    if (settings->max_new_tokens > 0) task->max_new_tokens = settings->max_new_tokens;
    return stop_at_example_end(task, questions->items[0].doc.source, err);
}

/* Examples that nobody would see are a mistake. */
static lt_status check_examples(const lt_task_settings *settings, const lt_task *task, lt_err *err)
{
    if (!settings->fewshot_path || settings->num_fewshot >= 0 || task->num_fewshot > 0)
        return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "%s: is asked without examples, so none of %s would be shown; give their number "
                   "with --num-fewshot",
                   task->path, settings->fewshot_path);
}

static lt_status move_docs(lt_task_questions *questions, int64_t count, lt_task *task, lt_err *err)
{
    task->docs = calloc((size_t)count, sizeof *task->docs);
    if (!task->docs) return lt_fail_nomem(err, (size_t)count * sizeof *task->docs, "a task");
    task->doc_count = count;
    for (int64_t i = 0; i < count; i++) {
        task->docs[i] = questions->items[i].doc;
        questions->items[i].doc = (lt_task_doc){0};
    }
    return LT_OK;
}

static lt_status ask_all(const lt_task_format *format, const lt_task_settings *settings,
                         lt_task_questions *questions, lt_task *task, lt_err *err)
{
    int64_t count = questions->count;
    if (settings->limit > 0 && settings->limit < count) count = settings->limit;
    const char *path = task->num_fewshot > 0 ? settings->fewshot_path : NULL;
    bool itself = !path || is_same_file(path, task->path);
    lt_task_questions others = {0};
    lt_fewshot fewshot = {.pool = itself ? questions : &others,
                          .format = format,
                          .path = itself ? task->path : path,
                          .count = task->num_fewshot,
                          .first = task->fewshot_first,
                          .exclude = itself || format->fewshot_spare,
                          .seed = settings->fewshot_seed,
                          .chat = settings->chat};
    lt_status status = LT_OK;
    if (!itself) status = load_questions(path, &format, &others, err);
    if (status == LT_OK && !itself) status = lt_copy_text(path, &task->fewshot_path, err);
    if (status == LT_OK) status = lt_task_ask(questions, count, &fewshot, err);
    lt_task_questions_free(&others);
    return status == LT_OK ? move_docs(questions, count, task, err) : status;
}

lt_status lt_task_load(const char *word, const lt_task_settings *settings, lt_task *out,
                       lt_err *err)
{
    const lt_task_format *format;
    const char *path;
    lt_task_questions questions = {0};
    *out = (lt_task){0};
    LT_TRY(parse_word(word, settings->format, &format, &path, err));
    lt_status status = load_questions(path, &format, &questions, err);
    if (status == LT_OK) status = set_task(format, path, settings, &questions, out, err);
    if (status == LT_OK) status = check_examples(settings, out, err);
    if (status == LT_OK) status = ask_all(format, settings, &questions, out, err);
    if (status == LT_OK) status = lt_task_hash(out, err);
    lt_task_questions_free(&questions);
    if (status != LT_OK) lt_task_free(out);
    return status;
}

/* --- Plain text ------------------------------------------------------------------------------- */

static lt_status set_text(const char *path, lt_buffer *text, lt_task *task, lt_err *err)
{
    static const lt_metric metrics[] = {LT_METRIC_WORD_PERPLEXITY, LT_METRIC_BYTE_PERPLEXITY,
                                        LT_METRIC_BITS_PER_BYTE};
    lt_task_doc *doc = task->docs;
    doc->record = -1;
    doc->words = (double)lt_python_word_count(lt_buffer_text(text));
    doc->bytes = (double)text->size;
    write_where(path, 1, doc->where, sizeof doc->where);
    task->format = "text";
    task->output = LT_TASK_ROLLING;
    task->metric_count = sizeof metrics / sizeof *metrics;
    memcpy(task->metrics, metrics, sizeof metrics);
    LT_TRY(name_of_file(path, &task->name, err));
    LT_TRY(lt_copy_text(path, &task->path, err));
    doc->pairs = calloc(1, sizeof *doc->pairs);
    if (!doc->pairs) return lt_fail_nomem(err, sizeof *doc->pairs, "a task");
    LT_TRY(lt_copy_text("", &doc->pairs->context, err));
    LT_TRY(lt_take_text(text, &doc->pairs->continuation, err));
    return lt_task_hash(task, err);
}

lt_status lt_task_from_text(const char *path, lt_task *out, lt_err *err)
{
    lt_buffer text = {0};
    *out = (lt_task){0};
    lt_status status = lt_read_text_file(path, &text, err);
    if (status == LT_OK && text.size == 0)
        status = lt_fail(err, LT_ERR_FORMAT, "%s: is empty", path);
    if (status == LT_OK && !(out->docs = calloc(1, sizeof *out->docs)))
        status = lt_fail_nomem(err, sizeof *out->docs, "a task");
    if (status == LT_OK) {
        out->doc_count = out->original_count = 1;
        status = set_text(path, &text, out, err);
    }
    lt_buffer_free(&text);
    if (status != LT_OK) lt_task_free(out);
    return status;
}
