/* From questions to what is asked: examples in front, in the way of lm_eval/api/samplers.py and
 * ConfigurableTask.fewshot_context. */
#include <stdlib.h>
#include <string.h>

#include "train/evaluation/python_random.h"
#include "train/evaluation/task_format.h"
#include "train/evaluation/task_text.h"

#define EXAMPLE_END "\n\n" /* fewshot_delimiter */

/* --- Which examples --------------------------------------------------------------------------- */

typedef struct sampler {
    const lt_fewshot *fewshot;
    lt_python_random random; /* goes on from document to document */
    int64_t *drawn, *pool;   /* [pool->count] */
} sampler;

static lt_status too_few(const lt_fewshot *fewshot, int64_t needed, int64_t there,
                         const char *where, lt_err *err)
{
    return lt_fail(err, LT_ERR_USAGE,
                   "%s: %lld examples were asked for, which takes %lld records, but %s has %lld%s; "
                   "lower the number or give a larger file of examples",
                   where, (long long)fewshot->count, (long long)needed, fewshot->path,
                   (long long)there, fewshot->first ? " to show before this record" : "");
}

static bool is_same(const lt_task_question *a, const lt_task_question *b)
{
    return a == b || json_equal(a->doc.source, b->doc.source);
}

static bool same_description(const lt_task_question *a, const lt_task_question *b)
{
    return !a->description || strcmp(a->description, b->description) == 0;
}

/* sampler first_n: of MMLU's subjects each is a task of its own. */
static lt_status take_first(const sampler *sampler, const lt_task_question *question, lt_err *err)
{
    const lt_fewshot *fewshot = sampler->fewshot;
    int64_t found = 0;
    for (int64_t i = 0; i < fewshot->pool->count && found < fewshot->count; i++) {
        const lt_task_question *example = &fewshot->pool->items[i];
        if (!same_description(example, question)) continue;
        if (!fewshot->exclude || !is_same(example, question)) sampler->drawn[found++] = i;
    }
    if (found == fewshot->count) return LT_OK;
    return too_few(fewshot, fewshot->count, found, question->doc.where, err);
}

static lt_status draw(sampler *sampler, const lt_task_question *question, int64_t population,
                      int64_t count, lt_err *err)
{
    if (count > population)
        return too_few(sampler->fewshot, count, population, question->doc.where, err);
    return lt_python_random_sample(&sampler->random, population, count, sampler->drawn, err);
}

/* Keeps those of drawn[0..count) that are not the question itself. */
static int64_t leave_out(sampler *sampler, const lt_task_question *question, int64_t count)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        const lt_task_question *example = &sampler->fewshot->pool->items[sampler->drawn[i]];
        if (!is_same(example, question)) sampler->drawn[kept++] = sampler->drawn[i];
    }
    return kept;
}

/* The file has the question more than once, and several copies were drawn: once more, without. */
static lt_status draw_again(sampler *sampler, const lt_task_question *question, lt_err *err)
{
    const lt_task_questions *pool = sampler->fewshot->pool;
    int64_t others = 0, count = sampler->fewshot->count;
    for (int64_t i = 0; i < pool->count; i++)
        if (!is_same(&pool->items[i], question)) sampler->pool[others++] = i;
    LT_TRY(draw(sampler, question, others, count, err));
    for (int64_t i = 0; i < count; i++)
        sampler->drawn[i] = sampler->pool[sampler->drawn[i]];
    return LT_OK;
}

/* sampler default: one more is drawn when the question itself may be among them. */
static lt_status draw_examples(sampler *sampler, const lt_task_question *question, lt_err *err)
{
    const lt_fewshot *fewshot = sampler->fewshot;
    int64_t count = fewshot->count + fewshot->exclude;
    LT_TRY(draw(sampler, question, fewshot->pool->count, count, err));
    if (fewshot->exclude && leave_out(sampler, question, count) < fewshot->count)
        return draw_again(sampler, question, err);
    return LT_OK;
}

/* --- Texts ------------------------------------------------------------------------------------ */

static const char *delimiter_of(const lt_task_question *question, const lt_fewshot *fewshot)
{
    if (question->delimiter) return question->delimiter;
    return fewshot->format->delimiter ? fewshot->format->delimiter : " ";
}

/* A question and its answer. */
typedef struct example {
    const char *question, *answer, *delimiter;
} example;

static lt_status example_of(const lt_task_question *record, const lt_fewshot *fewshot, example *out,
                            lt_err *err)
{
    const lt_task_doc *doc = &record->doc;
    out->question = record->contexts ? record->contexts[doc->gold[0]] : record->text;
    out->answer = record->target || !doc->choices ? record->target : doc->choices[doc->gold[0]];
    out->delimiter = delimiter_of(record, fewshot);
    if (out->question && out->answer) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "%s: can not be an example for other records: it has %s; set the number of "
                   "examples to 0",
                   doc->where, out->question ? "no reference" : "messages instead of a prompt");
}

static lt_status append_example(const example *example, lt_buffer *out, lt_err *err)
{
    LT_TRY(lt_buffer_append_text(out, example->question, err));
    if (!*example->answer) return LT_OK; /* lm-eval then ends the example here, too */
    LT_TRY(lt_buffer_append_text(out, example->delimiter, err));
    LT_TRY(lt_buffer_append_text(out, example->answer, err));
    return lt_buffer_append_text(out, EXAMPLE_END, err);
}

static lt_status append_turn(json_t *turns, const char *role, const char *content, lt_err *err)
{
    json_t *turn = json_pack("{s:s, s:s}", "role", role, "content", content);
    if (json_array_append_new(turns, turn) == 0) return LT_OK;
    return lt_fail_nomem(err, strlen(content), "examples");
}

static lt_status append_example_turns(const example *example, json_t *turns, lt_err *err)
{
    LT_TRY(append_turn(turns, "user", example->question, err));
    return *example->answer ? append_turn(turns, "assistant", example->answer, err) : LT_OK;
}

static lt_status choose_examples(sampler *sampler, const lt_task_question *question, lt_err *err)
{
    const lt_fewshot *fewshot = sampler->fewshot;
    if (fewshot->count == 0) return LT_OK;
    if (question->doc.messages)
        return lt_fail(err, LT_ERR_USAGE,
                       "%s: examples can not be put in front of messages; set their number to 0",
                       question->doc.where);
    return fewshot->first ? take_first(sampler, question, err)
                          : draw_examples(sampler, question, err);
}

/* All that stands in front of the question: a text, or turns of a conversation. */
static lt_status build_prefix(sampler *sampler, lt_task_question *question, lt_buffer *text,
                              lt_err *err)
{
    const lt_fewshot *fewshot = sampler->fewshot;
    json_t *turns = fewshot->chat ? question->doc.turns = json_array() : NULL;
    lt_buffer_clear(text);
    if (question->description)
        LT_TRY(fewshot->chat ? append_turn(turns, "system", question->description, err)
                             : lt_buffer_append_text(text, question->description, err));
    LT_TRY(choose_examples(sampler, question, err));
    for (int64_t i = 0; i < fewshot->count; i++) {
        example shown;
        LT_TRY(example_of(&fewshot->pool->items[sampler->drawn[i]], fewshot, &shown, err));
        LT_TRY(fewshot->chat ? append_example_turns(&shown, turns, err)
                             : append_example(&shown, text, err));
    }
    return LT_OK;
}

static lt_status join(const char *a, const char *b, char **out, lt_err *err)
{
    return lt_text_printf(out, err, "%s%s", a, b);
}

static lt_status ask_choices(lt_task_question *question, const char *prefix, const char *delimiter,
                             lt_err *err)
{
    lt_task_doc *doc = &question->doc;
    for (size_t i = 0; i < doc->choice_count; i++) {
        lt_task_pair *pair = &doc->pairs[i];
        const char *text = question->contexts ? question->contexts[i] : question->text;
        if (i > 0 && !question->contexts)
            pair->context = doc->pairs[0].context;
        else
            LT_TRY(join(prefix, text, &pair->context, err));
        const char *answer = question->target ? question->target : doc->choices[i];
        LT_TRY(join(delimiter, answer, &pair->continuation, err));
    }
    return LT_OK;
}

static lt_status ask(lt_task_question *question, const lt_fewshot *fewshot, const char *prefix,
                     lt_err *err)
{
    lt_task_doc *doc = &question->doc;
    lt_task_output output = fewshot->format->output;
    if (output == LT_TASK_GENERATE)
        return doc->messages ? LT_OK : join(prefix, question->text, &doc->prompt, err);
    size_t pairs = output == LT_TASK_MULTIPLE_CHOICE ? doc->choice_count : 1;
    doc->pairs = calloc(pairs, sizeof *doc->pairs);
    if (!doc->pairs) return lt_fail_nomem(err, pairs * sizeof *doc->pairs, "a task's texts");
    if (output == LT_TASK_MULTIPLE_CHOICE)
        return ask_choices(question, prefix, delimiter_of(question, fewshot), err);
    if (output == LT_TASK_ROLLING) prefix = "";
    LT_TRY(join(prefix, question->text ? question->text : "", &doc->pairs[0].context, err));
    return lt_copy_text(question->target, &doc->pairs[0].continuation, err);
}

static lt_status sampler_create(const lt_fewshot *fewshot, sampler *out, lt_err *err)
{
    size_t bytes = ((size_t)fewshot->pool->count + 1) * sizeof *out->drawn;
    *out = (sampler){.fewshot = fewshot, .drawn = malloc(bytes), .pool = malloc(bytes)};
    if (!out->drawn || !out->pool) return lt_fail_nomem(err, bytes, "examples");
    lt_python_random_seed(&out->random, fewshot->seed);
    return LT_OK;
}

lt_status lt_task_ask(lt_task_questions *questions, int64_t count, const lt_fewshot *fewshot,
                      lt_err *err)
{
    sampler sampler = {0};
    lt_buffer prefix = {0};
    lt_status status = sampler_create(fewshot, &sampler, err);
    for (int64_t i = 0; status == LT_OK && i < count; i++) {
        status = build_prefix(&sampler, &questions->items[i], &prefix, err);
        if (status == LT_OK)
            status = ask(&questions->items[i], fewshot, lt_buffer_text(&prefix), err);
    }
    free(sampler.drawn);
    free(sampler.pool);
    lt_buffer_free(&prefix);
    return status;
}
