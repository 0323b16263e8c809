/* Samples in the evaluation report: what was asked, what would have been right, what the models
 * said. Texts come from files and models, so all of them are escaped. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/evaluation/report_parts.h"
#include "train/evaluation/results_internal.h"

enum { SHOWN = 50, QUESTION_BYTES = 4000 };

/* A document's samples in both results; `b` NULL without a comparison. */
typedef struct shown_sample {
    const lt_task_doc *doc;
    const json_t *a, *b;
    double gain;
} shown_sample;

/* --- Questions -------------------------------------------------------------------------------- */

static const char *last_user_message(const json_t *messages)
{
    for (size_t i = json_array_size(messages); i > 0; i--) {
        const json_t *message = json_array_get(messages, i - 1);
        const char *role = json_string_value(json_object_get(message, "role"));
        if (lt_same_text(role, "user"))
            return json_string_value(json_object_get(message, "content"));
    }
    return NULL;
}

/* What the model was given is the first text among a sample's arguments. */
static const char *first_text(const json_t *value)
{
    const char *found = json_string_value(value), *key;
    size_t index;
    json_t *part;
    if (found) return found;
    json_array_foreach(value, index, part) if ((found = first_text(part))) return found;
    json_object_foreach((json_t *)value, key, part) if ((found = first_text(part))) return found;
    return NULL;
}

static const char *question_of(const shown_sample *sample)
{
    const lt_task_doc *doc = sample->doc;
    const char *text = doc->prompt;
    if (!text) text = last_user_message(doc->messages);
    if (!text && doc->pairs) text = doc->pairs[0].context;
    if (!text) text = first_text(json_object_get(sample->a, "arguments"));
    return text ? text : "";
}

/* Few-shot examples stand before the question, an empty line between them. */
static const char *without_examples(const char *text, const lt_task *task)
{
    const char *last = text;
    if (task->num_fewshot <= 0) return text;
    for (const char *at = text; (at = strstr(at, "\n\n")); at += 2)
        if (at[2]) last = at + 2;
    return last;
}

/* The end of a long text: the question is there. Cuts between characters. */
static const char *end_of(const char *text, size_t most)
{
    size_t length = strlen(text);
    if (length <= most) return text;
    text += length - most;
    while ((*text & 0xC0) == 0x80)
        text++;
    return text;
}

static void write_cell_text(lt_page *page, const char *text)
{
    lt_page_raw(page, "<div class=\"cell\">");
    lt_page_text(page, text + strspn(text, " \t\r\n"));
    lt_page_raw(page, "</div>");
}

static void write_question(lt_page *page, const shown_sample *sample, const lt_task *task)
{
    const char *whole = question_of(sample);
    const char *asked = sample->doc->turns ? whole : without_examples(whole, task);
    const char *question = end_of(asked, QUESTION_BYTES);
    lt_page_printf(page, "<td><span class=\"tag\">%lld</span> ",
                   (long long)lt_sample_document(sample->a));
    if (sample->doc->category) {
        lt_page_raw(page, "<span class=\"tag\">");
        lt_page_text(page, sample->doc->category);
        lt_page_raw(page, "</span> ");
    }
    if (sample->gain != 0)
        lt_page_printf(page, "<b class=\"%s\">%s</b>", sample->gain > 0 ? "good" : "bad",
                       sample->gain > 0 ? "better" : "worse");
    write_cell_text(page, question);
    if (question > whole)
        lt_page_printf(page, "<div class=\"marks\">%zu bytes before it are not shown</div>",
                       (size_t)(question - whole));
    lt_page_raw(page, "</td>");
}

/* --- Answers ---------------------------------------------------------------------------------- */

/* "exact_match 0 · f1 0.4"; `whose` in front of it. */
static void write_marks(lt_page *page, const json_t *sample, const char *whose)
{
    const json_t *metrics = json_object_get(sample, "metrics");
    const char *between = "";
    lt_page_printf(page, "<div class=\"marks\">%s", whose);
    for (size_t i = 0; i < json_array_size(metrics); i++) {
        const char *name = json_string_value(json_array_get(metrics, i));
        const json_t *value = name ? json_object_get(sample, name) : NULL;
        if (!json_is_number(value)) continue; /* BLEU's counts say nothing of one answer */
        lt_page_raw(page, between);
        lt_page_text(page, name);
        lt_page_printf(page, " %.3g", json_number_value(value));
        between = " &middot; ";
    }
    lt_page_raw(page, "</div>");
}

static void write_answer(lt_page *page, const json_t *sample)
{
    const char *answer = json_string_value(json_object_get(sample, "answer"));
    const char *filtered = first_text(json_object_get(sample, "filtered_resps"));
    if (!answer) answer = filtered ? filtered : "";
    lt_page_raw(page, "<td>");
    write_cell_text(page, answer);
    if (filtered && strcmp(filtered, answer) != 0) {
        lt_page_raw(page, "<div class=\"marks\">compared: ");
        lt_page_text(page, filtered);
        lt_page_raw(page, "</div>");
    }
    write_marks(page, sample, "");
    lt_page_raw(page, "</td>");
}

static void write_references(lt_page *page, const shown_sample *sample)
{
    lt_page_raw(page, "<td>");
    for (size_t i = 0; i < sample->doc->reference_count; i++)
        write_cell_text(page, sample->doc->references[i]);
    if (sample->doc->reference_count == 0) {
        const char *target = first_text(json_object_get(sample->a, "target"));
        write_cell_text(page, target ? target : "");
    }
    lt_page_raw(page, "</td>");
}

static void write_answers(lt_page *page, const shown_sample *samples, int64_t count,
                          const lt_task *task)
{
    bool both = count > 0 && samples[0].b;
    lt_page_raw(page, "<div class=\"card wrap\"><table class=\"answers\"><thead><tr>"
                      "<th>Question</th><th>Reference</th>");
    lt_page_raw(page, both ? "<th>Answer of a</th><th>Answer of b</th>" : "<th>Answer</th>");
    lt_page_raw(page, "</tr></thead><tbody>\n");
    for (int64_t i = 0; i < count; i++) {
        lt_page_raw(page, "<tr>");
        write_question(page, &samples[i], task);
        write_references(page, &samples[i]);
        write_answer(page, samples[i].a);
        if (both) write_answer(page, samples[i].b);
        lt_page_raw(page, "</tr>\n");
    }
    lt_page_raw(page, "</tbody></table></div>\n");
}

/* --- Choices ---------------------------------------------------------------------------------- */

/* The log-likelihood of choice `index`: lm-eval writes [number, is greedy], some versions as texts.
 * NaN when it is not there. */
static double choice_score(const json_t *sample, size_t index)
{
    const json_t *value = json_array_get(json_object_get(sample, "filtered_resps"), index);
    while (json_is_array(value))
        value = json_array_get(value, 0);
    if (json_is_string(value)) return strtod(json_string_value(value), NULL);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static size_t likeliest(const json_t *sample, size_t count)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (choice_score(sample, i) > choice_score(sample, best)) best = i;
    return best;
}

static void write_score(lt_page *page, const json_t *sample, size_t index, size_t chosen)
{
    double score = choice_score(sample, index);
    if (!isfinite(score)) return;
    lt_page_printf(page, index == chosen ? " <b class=\"run\">%.2f</b>" : " %.2f", score);
}

static bool is_right(const lt_task_doc *doc, size_t index)
{
    for (size_t i = 0; i < doc->gold_count; i++)
        if (doc->gold[i] == (int64_t)index) return true;
    return false;
}

static void write_choice(lt_page *page, const shown_sample *sample, size_t index, size_t chosen_a,
                         size_t chosen_b)
{
    bool right = is_right(sample->doc, index);
    lt_page_printf(page, "<div class=\"choice%s\"><span class=\"yes\">%s</span><span>",
                   right ? " right" : "", right ? "&#10003;" : "");
    lt_page_text(page, sample->doc->choices[index]);
    lt_page_raw(page, "</span><span>");
    write_score(page, sample->a, index, chosen_a);
    if (sample->b) {
        lt_page_raw(page, " /");
        write_score(page, sample->b, index, chosen_b);
    }
    lt_page_raw(page, "</span></div>");
}

static void write_choices(lt_page *page, const shown_sample *samples, int64_t count,
                          const lt_task *task)
{
    bool both = count > 0 && samples[0].b;
    lt_page_printf(page,
                   "<div class=\"card wrap\"><table class=\"choices\"><thead><tr><th>Question</th>"
                   "<th>Choices, with log-likelihoods%s; the likeliest is coloured</th></tr>"
                   "</thead><tbody>\n",
                   both ? " of a / b" : "");
    for (int64_t i = 0; i < count; i++) {
        const shown_sample *sample = &samples[i];
        size_t choices = sample->doc->choice_count;
        size_t chosen_a = likeliest(sample->a, choices);
        size_t chosen_b = sample->b ? likeliest(sample->b, choices) : 0;
        lt_page_raw(page, "<tr>");
        write_question(page, sample, task);
        lt_page_raw(page, "<td>");
        for (size_t c = 0; c < choices; c++)
            write_choice(page, sample, c, chosen_a, chosen_b);
        write_marks(page, sample->a, both ? "a: " : "");
        if (both) write_marks(page, sample->b, "b: ");
        lt_page_raw(page, "</td></tr>\n");
    }
    lt_page_raw(page, "</tbody></table></div>\n");
}

/* One continuation instead of choices. */
static void write_continuations(lt_page *page, const shown_sample *samples, int64_t count,
                                const lt_task *task)
{
    bool both = count > 0 && samples[0].b;
    lt_page_printf(page,
                   "<div class=\"card wrap\"><table class=\"choices\"><thead><tr><th>Context</th>"
                   "<th>Continuation</th><th class=\"num\">Log-likelihood%s</th></tr></thead>"
                   "<tbody>\n",
                   both ? " of a / b" : "");
    for (int64_t i = 0; i < count; i++) {
        const shown_sample *sample = &samples[i];
        lt_page_raw(page, "<tr>");
        write_question(page, sample, task);
        lt_page_raw(page, "<td>");
        write_cell_text(page, sample->doc->pairs ? sample->doc->pairs[0].continuation : "");
        lt_page_raw(page, "</td><td class=\"num\">");
        write_score(page, sample->a, 0, 1);
        if (both) lt_page_raw(page, " /");
        if (both) write_score(page, sample->b, 0, 1);
        lt_page_raw(page, "</td></tr>\n");
    }
    lt_page_raw(page, "</tbody></table></div>\n");
}

/* --- Which ------------------------------------------------------------------------------------ */

/* What became worse, then what became better, then the rest; great changes first. */
static int compare_interest(const void *a, const void *b)
{
    const lt_document_gain *x = a, *y = b;
    int class_x = x->gain < 0 ? 0 : x->gain > 0 ? 1 : 2;
    int class_y = y->gain < 0 ? 0 : y->gain > 0 ? 1 : 2;
    if (class_x != class_y) return class_x - class_y;
    double size_x = fabs(x->gain), size_y = fabs(y->gain);
    if (size_x != size_y) return size_x > size_y ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static shown_sample shown(const lt_task_results *results, const json_t *a, const json_t *b,
                          double gain)
{
    return (shown_sample){&results->task->docs[lt_sample_document(a)], a, b, gain};
}

static lt_status pick_compared(const lt_task_comparison *comparison, shown_sample *out,
                               int64_t *shown_count, int64_t *total, lt_err *err)
{
    lt_document_gain *gains;
    LT_TRY(lt_comparison_rank(comparison, &gains, total, err));
    qsort(gains, (size_t)*total, sizeof *gains, compare_interest);
    for (int64_t i = 0; i < *total && i < SHOWN; i++)
        out[(*shown_count)++] = shown(comparison->a, comparison->a->samples[gains[i].index],
                                      comparison->b->samples[gains[i].index_b], gains[i].gain);
    free(gains);
    return LT_OK;
}

/* The first ones, of the first filter. */
static void pick_first(const lt_task_results *results, shown_sample *out, int64_t *shown_count,
                       int64_t *total)
{
    const char *filter = lt_task_filter_name(results->task, 0);
    for (int64_t i = 0; i < results->sample_count; i++) {
        if (!lt_same_text(lt_sample_filter(results->samples[i]), filter)) continue;
        if (*shown_count < SHOWN)
            out[(*shown_count)++] = shown(results, results->samples[i], NULL, 0);
        *total += 1;
    }
}

static void write_samples(lt_page *page, const shown_sample *samples, int64_t count, int64_t total,
                          const lt_task *task)
{
    bool both = samples[0].b;
    lt_page_printf(page, "<h3>Samples</h3><p class=\"sub\">%lld of %lld documents%s",
                   (long long)count, (long long)total,
                   both ? ", those that became worse first, then those that became better" : "");
    if (total > count)
        lt_page_printf(page, "; %lld are not shown, the samples file has all",
                       (long long)(total - count));
    lt_page_raw(page, ".</p>\n");
    if (task->output == LT_TASK_GENERATE)
        write_answers(page, samples, count, task);
    else if (task->output == LT_TASK_MULTIPLE_CHOICE)
        write_choices(page, samples, count, task);
    else
        write_continuations(page, samples, count, task);
}

void lt_report_samples(lt_page *page, const lt_task_results *results,
                       const lt_task_comparison *comparison)
{
    shown_sample samples[SHOWN];
    int64_t count = 0, total = 0;
    lt_task_output output = results->task->output;
    if (output == LT_TASK_ROLLING || output == LT_TASK_DATASET || page->status != LT_OK) return;
    if (comparison)
        page->status = pick_compared(comparison, samples, &count, &total, page->err);
    else
        pick_first(results, samples, &count, &total);
    if (count > 0) write_samples(page, samples, count, total, results->task);
}
