/* lathe generate: answers one prompt, a file of them, or the held-out records of a dataset. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "cli/adapters.h"
#include "cli/answering.h"
#include "cli/cli.h"
#include "cli/common_options.h"
#include "cli/interrupt.h"
#include "train/answer_text.h"
#include "train/assistant.h"

/* Answers are printed after each so many prompts. */
enum { PROMPTS_AT_ONCE = 64, HEADING_BYTES = 100 };

typedef struct generate_settings {
    char *model, *prompt, *instruction, *context, *input, *data, *template_;
    int64_t limit, threads;
    bool json, quiet;
    lt_cli_answering answering;
    lt_string_list adapter;
    char *device, *dtype, *matmul;
} generate_settings;

#define FIELD(name) offsetof(generate_settings, name)

static const lt_option options[] = {
    LT_MODEL_OPTION(generate_settings,
                    "What to answer (one of --prompt, --instruction, --input, --data)"),
    {.name = "adapter",
     .type = LT_OPTION_LIST,
     .offset = FIELD(adapter),
     .metavar = "DIR|NAME=DIR",
     .help = "PEFT directories of adapters of this model. One is used for every prompt; of several "
             "a record of --input names its own as \"adapter\" (\"base\": none)."},
    {.name = "prompt",
     .type = LT_OPTION_STRING,
     .offset = FIELD(prompt),
     .metavar = "TEXT",
     .help = "Text that the model continues as it is."},
    {.name = "instruction",
     .type = LT_OPTION_STRING,
     .offset = FIELD(instruction),
     .metavar = "TEXT",
     .help = "Instruction, put into the template the model was trained with."},
    {.name = "context",
     .type = LT_OPTION_STRING,
     .offset = FIELD(context),
     .metavar = "TEXT",
     .help = "Text that the instruction is about."},
    {.name = "input",
     .type = LT_OPTION_STRING,
     .offset = FIELD(input),
     .metavar = "FILE",
     .help =
         "JSON Lines with \"prompt\", \"instruction\" and \"context\", or \"messages\"; where a "
         "record has an answer too, exact matches are counted."},
    {.name = "data",
     .type = LT_OPTION_STRING,
     .offset = FIELD(data),
     .metavar = "DATA.h5",
     .help = "Answer the held-out records of a prepared dataset and count exact matches."},
    {.name = "limit",
     .type = LT_OPTION_INT,
     .offset = FIELD(limit),
     .max = 1e12,
     .default_text = "0",
     .help = "Answer only the first so many records of --input or --data; 0: all."},
    {.name = "template",
     .type = LT_OPTION_CHOICE,
     .offset = FIELD(template_),
     .choices = LT_TEMPLATE_CHOICES,
     .help = "Prompt template; by default the one the model was trained with, else its tokenizer's "
             "chat template (chat)."},
    LT_ANSWERING_OPTIONS(generate_settings, answering, "256"),
    {.name = "json",
     .type = LT_OPTION_FLAG,
     .offset = FIELD(json),
     .help = "One JSON object per line and prompt, with the token ids.",
     .group = "Output and machine"},
    {.name = "quiet",
     .type = LT_OPTION_FLAG,
     .offset = FIELD(quiet),
     .help = "No line about speed on stderr."},
    LT_DEVICE_OPTION(generate_settings, "auto"),
    LT_DTYPE_OPTION(generate_settings),
    LT_MATMUL_OPTION(generate_settings),
    LT_THREADS_OPTION(generate_settings, NULL),
};

static const lt_option_table table = {
    .command = "lathe generate",
    .synopsis = "lathe generate --model DIR [--adapter DIR] (--prompt TEXT | --instruction TEXT "
                "[--context TEXT] | "
                "--input FILE | --data DATA.h5) [OPTIONS]",
    .description = "Answers prompts with a model.\n\n"
                   "Examples:\n"
                   "  lathe generate --model run/final --instruction \"Name three rivers.\"\n"
                   "  lathe generate --model gpt2 --prompt \"Once upon a time\" --temperature 0.8 "
                   "--top-p 0.95\n"
                   "  lathe generate --model gpt2 --adapter run/final --instruction \"Hello?\"\n"
                   "  lathe generate --model run/final --data data.h5 --json > answers.jsonl",
    .options = options,
    .count = sizeof options / sizeof *options,
};

/* --- What is asked ---------------------------------------------------------------------------- */

typedef struct question {
    lt_prompt prompt;
    lt_record *record;     /* owned, or NULL; the texts below are borrowed from it */
    const char *shown;     /* what headings and "prompt" show */
    const char *context;   /* or NULL */
    const char *reference; /* or NULL */
    const char *category;  /* or NULL */
    const char *adapter;   /* its name, or NULL: the only one, if there is one */
} question;

typedef struct questions {
    question *items;
    int64_t count, capacity;
} questions;

static lt_status add_question(questions *list, const question *item, lt_err *err)
{
    if (list->count == list->capacity) {
        int64_t capacity = list->capacity ? 2 * list->capacity : 64;
        question *items = realloc(list->items, (size_t)capacity * sizeof *items);
        if (!items) return lt_fail_nomem(err, (size_t)capacity * sizeof *items, "the prompts");
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *item;
    return LT_OK;
}

static void free_questions(questions *list)
{
    for (int64_t i = 0; i < list->count; i++) {
        if (list->items[i].record) lt_record_free(list->items[i].record);
        free(list->items[i].record);
    }
    free(list->items);
}

static const char *last_user_message(const lt_record *record)
{
    const char *content = "";
    for (size_t i = 0; i < record->message_count; i++)
        if (record->messages[i].role == LT_ROLE_USER) content = record->messages[i].content;
    return content;
}

/* Takes over what `record` owns, also when it fails. `raw`: prompt/completion records are continued
 * as they are, not put into the template. */
static lt_status add_record(questions *list, lt_record *record, bool raw, lt_err *err)
{
    question item = {.record = malloc(sizeof *item.record)};
    if (!item.record) {
        lt_record_free(record);
        return lt_fail_nomem(err, sizeof *item.record, "a prompt");
    }
    *item.record = *record;
    record = item.record;
    item.reference = lt_record_answer(record);
    if (item.reference && !*item.reference) item.reference = NULL;
    item.category = record->category;
    const json_t *adapter = json_object_get(record->json, "adapter");
    item.adapter = json_string_value(adapter);
    item.shown = record->instruction ? record->instruction : last_user_message(record);
    if (record->context && *record->context) item.context = record->context;
    if (raw && record->format == LT_FORMAT_COMPLETION)
        item.prompt.text = record->instruction;
    else
        item.prompt.record = record;
    lt_status status = LT_OK;
    if (record->format == LT_FORMAT_TEXT)
        status = lt_fail(err, LT_ERR_USAGE,
                         "%s: is plain text, which asks nothing; a record needs \"prompt\", "
                         "\"instruction\" or \"messages\"",
                         record->where);
    else if (adapter && !item.adapter && !json_is_null(adapter))
        status =
            lt_fail(err, LT_ERR_USAGE, "%s: \"adapter\" is not the name of one", record->where);
    else
        status = add_question(list, &item, err);
    if (status != LT_OK) {
        lt_record_free(record);
        free(record);
    }
    return status;
}

static lt_status read_file(const generate_settings *settings, questions *list, lt_err *err)
{
    lt_record_reader *reader = NULL;
    LT_TRY(lt_record_reader_open(settings->input, LT_FORMAT_AUTO, NULL, &reader, err));
    lt_record_reader_allow_prompts(reader);
    lt_status status = LT_OK;
    while (settings->limit == 0 || list->count < settings->limit) {
        lt_record record = {0};
        bool more = false;
        LT_TRY_GOTO(status, lt_record_reader_next(reader, &record, &more, err), done);
        if (!more) break;
        LT_TRY_GOTO(status, add_record(list, &record, true, err), done);
    }
    if (list->count == 0)
        status = lt_fail(err, LT_ERR_FORMAT, "%s: holds no records", settings->input);
done:
    lt_record_reader_close(reader);
    return status;
}

static lt_status read_held_out(const generate_settings *settings, const lt_dataset *dataset,
                               questions *list, lt_err *err)
{
    int64_t count = lt_dataset_count(dataset, LT_SPLIT_VALIDATION);
    if (count == 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "%s: has no held-out records; prepare it with --validation", settings->data);
    if (settings->limit > 0 && settings->limit < count) count = settings->limit;
    for (int64_t i = 0; i < count; i++) {
        lt_record record = {0};
        LT_TRY(lt_dataset_record(dataset, LT_SPLIT_VALIDATION, i, &record, err));
        LT_TRY(add_record(list, &record, false, err));
    }
    return LT_OK;
}

static lt_status collect_questions(const generate_settings *settings, const lt_dataset *dataset,
                                   questions *list, lt_err *err)
{
    if (settings->input) return read_file(settings, list, err);
    if (dataset) return read_held_out(settings, dataset, list, err);
    question single = {.prompt = {.text = settings->prompt,
                                  .instruction = settings->instruction,
                                  .context = settings->context},
                       .shown = settings->prompt ? settings->prompt : settings->instruction,
                       .context = settings->context};
    return add_question(list, &single, err);
}

/* Which adapter answers. With several there is no telling, unless the record does. */
static lt_status choose_adapter(const lt_model *model, question *q, int64_t index, lt_err *err)
{
    char number[32];
    const char *where = q->record && q->record->where[0] ? q->record->where : number;
    snprintf(number, sizeof number, "prompt %lld", (long long)index + 1);
    if (q->adapter) return lt_cli_find_adapter(model, q->adapter, where, &q->prompt.adapter, err);
    if (model->adapter_count < 2) {
        q->prompt.adapter = model->adapter_count ? model->adapters[0] : NULL;
        return LT_OK;
    }
    return lt_fail(
        err, LT_ERR_USAGE,
        "%s does not say which of the %d adapters is meant: give one --adapter, or a file "
        "(--input) whose records have \"adapter\": NAME",
        where, model->adapter_count);
}

static lt_status choose_adapters(const lt_model *model, questions *list, lt_err *err)
{
    for (int64_t i = 0; i < list->count; i++)
        LT_TRY(choose_adapter(model, &list->items[i], i, err));
    return LT_OK;
}

/* --- Settings --------------------------------------------------------------------------------- */

static lt_status check_settings(const generate_settings *s, lt_err *err)
{
    int sources = !!s->prompt + !!s->instruction + !!s->input + !!s->data;
    if (sources != 1)
        return lt_fail(err, LT_ERR_USAGE,
                       "%s of --prompt, --instruction, --input and --data must be given",
                       sources ? "only one" : "one");
    if (s->context && !s->instruction)
        return lt_fail(err, LT_ERR_USAGE, "--context goes with --instruction");
    if (s->limit > 0 && !s->input && !s->data)
        return lt_fail(err, LT_ERR_USAGE, "--limit goes with --input or --data");
    if (s->template_ && s->data)
        return lt_fail(err, LT_ERR_USAGE, "--template does not go with --data, which has its own");
    if (s->template_ && s->prompt)
        return lt_fail(err, LT_ERR_USAGE,
                       "--template does not go with --prompt, which is continued as it is");
    return LT_OK;
}

/* --- Printing --------------------------------------------------------------------------------- */

static bool is_exact(const question *q, const lt_answer *answer)
{
    return q->reference && lt_same_answer(q->reference, lt_buffer_text(&answer->text));
}

static lt_status print_json(int64_t index, const question *q, const lt_answer *answer, lt_err *err)
{
    json_t *ids = json_array();
    for (size_t i = 0; i < answer->ids.count; i++)
        json_array_append_new(ids, json_integer(answer->ids.data[i]));
    json_t *line =
        json_pack("{s:I, s:s, s:s*, s:s%, s:o, s:I, s:I, s:s, s:s*, s:s*}", "index",
                  (json_int_t)index, "prompt", q->shown, "context", q->context, "text",
                  lt_buffer_text(&answer->text), answer->text.size, "ids", ids, "prompt_tokens",
                  (json_int_t)answer->prompt_tokens, "new_tokens", (json_int_t)answer->ids.count,
                  "finish_reason", answer->finish == LT_FINISH_STOP ? "stop" : "length", "category",
                  q->category, "reference", q->reference);
    if (line && q->prompt.adapter)
        json_object_set_new(line, "adapter", json_string(lt_adapter_name(q->prompt.adapter)));
    if (line && q->reference)
        json_object_set_new(line, "exact_match", json_boolean(is_exact(q, answer)));
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    if (!text)
        return lt_fail(err, LT_ERR_NOMEM, "answer %lld can not be written as JSON",
                       (long long)index);
    puts(text);
    free(text);
    return LT_OK;
}

/* "[3/20] The prompt's first line", then the answer. */
static void print_text(int64_t index, int64_t total, const question *q, const lt_answer *answer)
{
    size_t length = strcspn(q->shown, "\n"), full = strlen(q->shown);
    if (length > HEADING_BYTES) {
        length = HEADING_BYTES;
        while (length > 0 && ((unsigned char)q->shown[length] & 0xC0) == 0x80)
            length--; /* not inside a character */
    }
    printf("%s[%lld/%lld] %.*s%s\n", index ? "\n" : "", (long long)index + 1, (long long)total,
           (int)length, q->shown, length < full ? " ..." : "");
    fwrite(lt_buffer_text(&answer->text), 1, answer->text.size, stdout);
    putchar('\n');
}

static void stream_text(void *context, int64_t index, const char *text, size_t size)
{
    (void)context, (void)index;
    fwrite(text, 1, size, stdout);
    fflush(stdout);
}

/* --- Counting --------------------------------------------------------------------------------- */

typedef struct tally {
    const char *name; /* borrowed from a question */
    int64_t right, count;
} tally;

typedef struct totals {
    int64_t prompt_tokens, new_tokens;
    tally all;
    tally *categories; /* [category_count], in the order met; owned */
    int64_t category_count;
    double seconds;
} totals;

static lt_status find_category(totals *t, const char *name, tally **out, lt_err *err)
{
    for (int64_t i = 0; i < t->category_count; i++) {
        *out = &t->categories[i];
        if (strcmp((*out)->name, name) == 0) return LT_OK;
    }
    size_t bytes = (size_t)(t->category_count + 1) * sizeof *t->categories;
    tally *categories = realloc(t->categories, bytes);
    if (!categories) return lt_fail_nomem(err, bytes, "the counts");
    t->categories = categories;
    *out = &categories[t->category_count++];
    **out = (tally){.name = name};
    return LT_OK;
}

static lt_status count_answer(totals *t, const question *q, const lt_answer *answer, lt_err *err)
{
    t->prompt_tokens += answer->prompt_tokens;
    t->new_tokens += (int64_t)answer->ids.count;
    if (!q->reference) return LT_OK;
    bool right = is_exact(q, answer);
    t->all.count++;
    t->all.right += right;
    if (!q->category) return LT_OK;
    tally *category = NULL;
    LT_TRY(find_category(t, q->category, &category, err));
    category->count++;
    category->right += right;
    return LT_OK;
}

static void print_tally(const char *name, int width, const tally *t)
{
    fprintf(stderr, "%-*s %lld/%lld (%.1f %%)\n", width, name, (long long)t->right,
            (long long)t->count, 100.0 * (double)t->right / (double)t->count);
}

static void print_summary(const totals *t, int64_t prompts, bool quiet)
{
    if (!quiet)
        fprintf(stderr,
                "%lld prompt%s, %lld token%s read, %lld written in %.2f s (%.1f tokens/s)\n",
                (long long)prompts, prompts == 1 ? "" : "s", (long long)t->prompt_tokens,
                t->prompt_tokens == 1 ? "" : "s", (long long)t->new_tokens, t->seconds,
                t->seconds > 0 ? (double)t->new_tokens / t->seconds : 0);
    if (t->all.count == 0) return;
    print_tally("exact match", 0, &t->all);
    int width = 0;
    for (int64_t i = 0; i < t->category_count; i++) {
        int length = (int)strlen(t->categories[i].name);
        if (length > width) width = length;
    }
    for (int64_t i = 0; i < t->category_count; i++) {
        fputs("  ", stderr);
        print_tally(t->categories[i].name, width, &t->categories[i]);
    }
}

/* --- Answering -------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Prints and counts the answers to items [from, from + count). */
static lt_status report_answers(const generate_settings *settings, const questions *list,
                                int64_t from, int64_t count, const lt_answer *answers,
                                totals *total, lt_err *err)
{
    for (int64_t i = 0; i < count; i++) {
        const question *q = &list->items[from + i];
        LT_TRY(count_answer(total, q, &answers[i], err));
        if (settings->json)
            LT_TRY(print_json(from + i, q, &answers[i], err));
        else if (list->count > 1)
            print_text(from + i, list->count, q, &answers[i]);
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        return lt_fail(err, LT_ERR_IO, "the answers can not be written to standard output");
    return LT_OK;
}

static lt_status answer_some(lt_assistant *assistant, const generate_settings *settings,
                             lt_answer_settings *answering, const questions *list, int64_t from,
                             int64_t count, totals *total, lt_err *err)
{
    lt_prompt prompts[PROMPTS_AT_ONCE];
    lt_answer answers[PROMPTS_AT_ONCE] = {{{0}, {0}, 0, LT_FINISH_LENGTH}};
    bool stream = list->count == 1 && !settings->json;
    for (int64_t i = 0; i < count; i++)
        prompts[i] = list->items[from + i].prompt;
    answering->first_index = from;
    double start = now();
    lt_status status = lt_assistant_answer(assistant, prompts, count, answering,
                                           stream ? stream_text : NULL, NULL, answers, err);
    total->seconds += now() - start;
    if (stream && (status == LT_OK || status == LT_ERR_INTERRUPTED)) putchar('\n');
    if (status == LT_OK) status = report_answers(settings, list, from, count, answers, total, err);
    for (int64_t i = 0; i < count; i++)
        lt_answer_free(&answers[i]);
    return status;
}

static lt_status answer_all(lt_assistant *assistant, const generate_settings *settings,
                            lt_answer_settings *answering, const questions *list, lt_err *err)
{
    totals total = {0};
    lt_status status = LT_OK;
    lt_interrupt_once();
    for (int64_t from = 0; from < list->count && status == LT_OK; from += PROMPTS_AT_ONCE) {
        int64_t count = list->count - from < PROMPTS_AT_ONCE ? list->count - from : PROMPTS_AT_ONCE;
        status = answer_some(assistant, settings, answering, list, from, count, &total, err);
    }
    if (status == LT_OK) print_summary(&total, list->count, settings->quiet);
    free(total.categories);
    return status;
}

static lt_status run(const generate_settings *settings, lt_answer_settings *answering, lt_err *err)
{
    lt_dataset *dataset = NULL;
    lt_device_opened device = {0};
    lt_assistant assistant = {0};
    questions list = {0};
    const lt_device_choice machine = LT_DEVICE_CHOICE(settings);
    lt_status status = LT_OK;
    if (settings->data) LT_TRY_GOTO(status, lt_dataset_open(settings->data, &dataset, err), done);
    LT_TRY_GOTO(status, collect_questions(settings, dataset, &list, err), done);
    LT_TRY_GOTO(status, lt_device_open(&machine, &device, err), done);
    LT_TRY_GOTO(status,
                lt_cli_open_assistant(settings->model, &settings->adapter, settings->template_,
                                      device.backend, &assistant, err),
                done);
    if (dataset) LT_TRY_GOTO(status, lt_assistant_use_dataset(&assistant, dataset, err), done);
    LT_TRY_GOTO(status, choose_adapters(assistant.model, &list, err), done);
    status = answer_all(&assistant, settings, answering, &list, err);
done:
    lt_assistant_close(&assistant);
    lt_backend_free(device.backend);
    free_questions(&list);
    lt_dataset_close(dataset);
    return status;
}

int lt_cmd_generate(int argc, char **argv)
{
    generate_settings settings = {0};
    lt_option_result given = {0};
    lt_answer_settings answering;
    lt_err err = {0};
    int exit_code = LT_EXIT_OK;
    if (lt_cli_parse(&table, argc, argv, &settings, &given, &exit_code)) {
        lt_status status = check_settings(&settings, &err);
        if (status == LT_OK)
            status = lt_cli_choose_answering(&table, &given, &settings.answering, &answering, &err);
        if (status == LT_OK) status = run(&settings, &answering, &err);
        if (status != LT_OK) exit_code = lt_cli_fail(status, &err);
    }
    lt_options_free(&table, &settings, &given);
    return exit_code;
}
