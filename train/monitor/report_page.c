/* The document of report.html, section by section, in the order a reader wants them: how good it
 * is, how it got there, what it answers, what went wrong, how it was set up. */
#include "train/monitor/report_page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/answer_text.h"

enum { EARLIER_ANSWERS = 4 }; /* evaluations whose answers stay in the page, besides the last */

/* --- Head ------------------------------------------------------------------------------------- */

static bool is_true(const json_t *event, const char *key)
{
    return json_is_true(json_object_get(event, key));
}

static void write_state(lt_page *page, const lt_report_data *data)
{
    const char *word = "running", *style = "run";
    if (data->end) {
        word = "finished";
        style = "good";
        if (is_true(data->end, "stopped_early")) word = "stopped early";
        if (is_true(data->end, "interrupted")) {
            word = "interrupted";
            style = "warn";
        }
        if (is_true(data->end, "last_save_failed")) {
            word = "last save failed";
            style = "bad";
        }
    }
    lt_page_printf(page, "<span class=\"pill %s\">%s</span>", style, word);
}

static void write_header(lt_page *page, const lt_report_data *data)
{
    const char *output = lt_logged_text(data->start, "output");
    const json_t *latest = data->end ? data->end : data->last_step ? data->last_step : data->start;
    lt_page_raw(page, "<p class=\"kicker\">Lathe training report</p><h1>");
    lt_page_text(page, *output ? lt_last_part(output) : "Training");
    lt_page_raw(page, "</h1><p class=\"sub\">");
    write_state(page, data);
    lt_page_raw(page, "from <b>");
    lt_page_text(page, lt_logged_text(data->start, "model"));
    lt_page_raw(page, "</b> to <b>");
    lt_page_text(page, output);
    lt_page_raw(page, "</b> &middot; ");
    lt_page_time(page, lt_logged_text(latest, "time"));
    lt_page_raw(page, "</p>\n");
}

static void write_loss_tiles(lt_page *page, const lt_report_data *data)
{
    char value[64], detail[96];
    if (data->best_eval) {
        lt_format_value(LT_VALUE_PLAIN, lt_logged_number(data->best_eval, "eval_loss"), value,
                        sizeof value);
        snprintf(detail, sizeof detail, "at step %.0f", lt_logged_number(data->best_eval, "step"));
        lt_page_tile(page, value, "best held-out loss", detail);
    }
    if (data->last_eval) {
        lt_format_value(LT_VALUE_PLAIN, lt_logged_number(data->last_eval, "eval_loss"), value,
                        sizeof value);
        snprintf(detail, sizeof detail, "perplexity %.4g",
                 lt_logged_number(data->last_eval, "eval_perplexity"));
        lt_page_tile(page, value, data->end ? "final held-out loss" : "last held-out loss", detail);
    }
    if (!data->last_step) return;
    const json_t *from = data->end ? data->end : data->last_step;
    lt_format_value(LT_VALUE_PLAIN, lt_logged_number(from, data->end ? "train_loss" : "loss"),
                    value, sizeof value);
    snprintf(detail, sizeof detail, "next token right: %.1f %%",
             100 * lt_logged_number(data->last_step, "mean_token_accuracy"));
    lt_page_tile(page, value, "training loss", detail);
}

static void write_progress_tiles(lt_page *page, const lt_report_data *data)
{
    char value[64], detail[160], count[64];
    double done = data->last_step ? lt_logged_number(data->last_step, "step") : 0;
    double total = lt_logged_number(data->start, "total_steps");
    lt_format_count(done, value, sizeof value);
    lt_format_count(total, count, sizeof count);
    double skipped = data->last_step ? lt_logged_number(data->last_step, "skipped_steps") : 0;
    int length = snprintf(detail, sizeof detail, "of %s", count);
    if (data->last_step)
        length += snprintf(detail + length, sizeof detail - (size_t)length, ", %.3g epochs",
                           lt_logged_number(data->last_step, "epoch"));
    if (skipped > 0)
        snprintf(detail + length, sizeof detail - (size_t)length, ", %.0f skipped", skipped);
    lt_page_tile(page, value, "steps", detail);
    if (data->step_seconds > 0) {
        lt_format_count(data->step_tokens / data->step_seconds, value, sizeof value);
        lt_format_count(lt_logged_number(data->last_step, "num_input_tokens_seen"), count,
                        sizeof count);
        snprintf(detail, sizeof detail, "%s in all", count);
        lt_page_tile(page, value, "tokens per second", detail);
    }
    lt_format_duration(data->seconds, value, sizeof value);
    snprintf(detail, sizeof detail, "%zu run%s", data->resumes.count + 1,
             data->resumes.count ? "s, resumed" : "");
    lt_page_tile(page, value, "wall time", detail);
}

/* --- Charts ----------------------------------------------------------------------------------- */

static void write_charts(lt_page *page, const lt_report_data *data)
{
    double last_x = data->last_step ? lt_logged_number(data->last_step, "step") : 0;
    if (data->last_eval) last_x = fmax(last_x, lt_logged_number(data->last_eval, "step"));
    const lt_series *marks = data->resumes.count ? &data->resumes : NULL;
    lt_chart charts[] = {
        {.title = "Loss",
         .wide = true,
         .series =
             {{.name = "training", .style = "raw", .series = &data->loss},
              {.name = "training, smoothed",
               .style = "main",
               .series = &data->loss,
               .smooth = true},
              {.name = "held out", .style = "eval", .series = &data->eval_loss, .dots = true}},
         .series_count = 3},
        {.title = "Next token right",
         .style = LT_VALUE_PERCENT,
         .from_zero = true,
         .series =
             {{.name = "training, smoothed",
               .style = "main",
               .series = &data->accuracy,
               .smooth = true},
              {.name = "held out", .style = "eval", .series = &data->eval_accuracy, .dots = true}},
         .series_count = 2},
        {.title = "Learning rate",
         .style = LT_VALUE_SMALL,
         .from_zero = true,
         .series = {{.name = "learning rate", .style = "main", .series = &data->learning_rate}},
         .series_count = 1},
        {.title = "Gradient norm, before clipping",
         .from_zero = true,
         .series =
             {{.name = "each step", .style = "raw", .series = &data->grad_norm},
              {.name = "smoothed", .style = "main", .series = &data->grad_norm, .smooth = true}},
         .series_count = 2},
        {.title = "Tokens per second",
         .style = LT_VALUE_RATE,
         .from_zero = true,
         .series = {{.name = "each step", .style = "raw", .series = &data->tokens_per_second},
                    {.name = "smoothed",
                     .style = "main",
                     .series = &data->tokens_per_second,
                     .smooth = true}},
         .series_count = 2},
    };
    lt_page_raw(page, "<div class=\"charts\">\n");
    for (size_t i = 0; i < sizeof charts / sizeof *charts; i++) {
        charts[i].last_x = last_x;
        charts[i].marks = marks;
        lt_page_chart(page, &charts[i]);
    }
    lt_page_raw(page, "</div>\n");
    if (marks) lt_page_raw(page, "<p class=\"sub\">Dashed lines: the run was resumed there.</p>\n");
}

/* --- Samples ---------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static double sample_step(const lt_report_data *data, size_t index)
{
    return lt_logged_number(json_array_get(data->samples, index), "step");
}

static void write_cell(lt_page *page, const char *label, const json_t *sample, const char *key)
{
    const char *text = lt_logged_text(sample, key);
    lt_page_printf(page, "<td data-label=\"%s\">", label);
    const char *category = lt_logged_text(sample, "category");
    if (strcmp(key, "prompt") == 0 && *category) {
        lt_page_raw(page, "<span class=\"tag\">");
        lt_page_text(page, category);
        lt_page_raw(page, "</span>");
    }
    lt_page_raw(page, "<div class=\"cell\">");
    while (is_space(*text))
        text++;
    lt_page_text(page, text);
    lt_page_raw(page, "</div></td>");
}

/* The samples [from, to), which are of one evaluation. */
static void write_sample_table(lt_page *page, const lt_report_data *data, size_t from, size_t to)
{
    lt_page_raw(page, "<div class=\"card\"><table class=\"samples\"><thead><tr><th>Prompt</th>"
                      "<th>Reference</th><th>Answer</th><th>Exact</th></tr></thead><tbody>\n");
    for (size_t i = from; i < to; i++) {
        const json_t *sample = json_array_get(data->samples, i);
        bool same =
            lt_same_answer(lt_logged_text(sample, "reference"), lt_logged_text(sample, "answer"));
        lt_page_raw(page, "<tr>");
        write_cell(page, "Prompt", sample, "prompt");
        write_cell(page, "Reference", sample, "reference");
        write_cell(page, "Answer", sample, "answer");
        lt_page_printf(page, "<td data-label=\"Exact\"><span class=\"%s\">%s</span></td></tr>\n",
                       same ? "yes" : "no", same ? "&#10003; match" : "&#10007; differs");
    }
    lt_page_raw(page, "</tbody></table></div>\n");
}

static size_t count_matches(const lt_report_data *data, size_t from, size_t to)
{
    size_t matches = 0;
    for (size_t i = from; i < to; i++) {
        const json_t *sample = json_array_get(data->samples, i);
        matches +=
            lt_same_answer(lt_logged_text(sample, "reference"), lt_logged_text(sample, "answer"));
    }
    return matches;
}

/* Where the evaluation's samples begin that end before `to`. */
static size_t group_start(const lt_report_data *data, size_t to)
{
    size_t from = to - 1;
    while (from > 0 && sample_step(data, from - 1) == sample_step(data, to - 1))
        from--;
    return from;
}

static void write_samples(lt_page *page, const lt_report_data *data)
{
    size_t to = json_array_size(data->samples);
    if (to == 0) return;
    size_t from = group_start(data, to);
    lt_page_printf(page,
                   "<h2>Held-out answers</h2><p class=\"sub\">Greedy, at step %.0f: %zu of %zu "
                   "equal the reference.</p>\n",
                   sample_step(data, from), count_matches(data, from, to), to - from);
    write_sample_table(page, data, from, to);
    for (int earlier = 0; from > 0; earlier++) {
        to = from;
        from = group_start(data, to);
        if (earlier >= EARLIER_ANSWERS && from > 0) continue; /* the first stays, to compare with */
        lt_page_printf(page,
                       "<details><summary>Answers at step %.0f: %zu of %zu equal the "
                       "reference</summary>\n",
                       sample_step(data, from), count_matches(data, from, to), to - from);
        write_sample_table(page, data, from, to);
        lt_page_raw(page, "</details>\n");
    }
}

/* --- Messages, set-up, settings --------------------------------------------------------------- */

static void write_list_item(lt_page *page, const json_t *event, const char *text)
{
    lt_page_printf(page, "<li><small>step %.0f</small> ", lt_logged_number(event, "step"));
    lt_page_text(page, text);
    lt_page_raw(page, "</li>\n");
}

static void write_messages(lt_page *page, const lt_report_data *data)
{
    if (json_array_size(data->messages) == 0) return;
    lt_page_raw(page, "<h2>Warnings and notices</h2><div class=\"card\"><ul class=\"list\">\n");
    for (size_t i = 0; i < json_array_size(data->messages); i++) {
        const json_t *event = json_array_get(data->messages, i);
        write_list_item(page, event, lt_logged_text(event, "text"));
    }
    lt_page_raw(page, "</ul></div>\n");
}

static void write_saves(lt_page *page, const lt_report_data *data)
{
    if (json_array_size(data->saves) == 0) return;
    lt_page_raw(page, "<h2>Saved</h2><div class=\"card\"><ul class=\"list\">\n");
    for (size_t i = 0; i < json_array_size(data->saves); i++) {
        const json_t *event = json_array_get(data->saves, i);
        const char *error = lt_logged_text(event, "error");
        lt_page_printf(page, "<li><small>step %.0f</small> ", lt_logged_number(event, "step"));
        lt_page_text(page, lt_logged_text(event, "path"));
        if (*error) {
            lt_page_raw(page, " <span class=\"bad\">failed: ");
            lt_page_text(page, error);
            lt_page_raw(page, "</span>");
        }
        lt_page_raw(page, is_true(event, "final") ? " (final)</li>\n" : "</li>\n");
    }
    lt_page_raw(page, "</ul></div>\n");
}

static void write_setup(lt_page *page, const lt_report_data *data)
{
    const char *setup = lt_logged_text(data->start, "setup");
    if (!*setup) return;
    lt_page_raw(page, "<h2>Set-up</h2><div class=\"card\"><pre>");
    lt_page_text(page, setup);
    lt_page_raw(page, "</pre></div>\n");
}

static void write_setting(lt_page *page, const char *key, const json_t *value)
{
    lt_page_raw(page, "<div><dt>");
    lt_page_text(page, key);
    lt_page_raw(page, "</dt><dd>");
    if (json_is_string(value)) {
        lt_page_text(page, json_string_value(value));
    } else if (json_is_null(value)) {
        lt_page_raw(page, "&ndash;");
    } else {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        if (text) lt_page_text(page, text);
        free(text);
    }
    lt_page_raw(page, "</dd></div>\n");
}

static void write_settings(lt_page *page, const lt_report_data *data)
{
    json_t *settings = json_object_get(data->start, "settings");
    if (json_object_size(settings) == 0) return;
    lt_page_raw(page, "<h2>Settings</h2><div class=\"card\"><dl class=\"settings\">\n");
    const char *key;
    json_t *value;
    json_object_foreach(settings, key, value) write_setting(page, key, value);
    lt_page_raw(page, "</dl></div>\n");
}

lt_status lt_report_render(const lt_report_data *data, lt_buffer *out, lt_err *err)
{
    lt_page page = {out, LT_OK, err};
    lt_page_begin(&page, lt_last_part(lt_logged_text(data->start, "output")),
                  "Lathe training report", "");
    write_header(&page, data);
    lt_page_raw(&page, "<div class=\"tiles\">\n");
    write_loss_tiles(&page, data);
    write_progress_tiles(&page, data);
    lt_page_raw(&page, "</div>\n");
    write_charts(&page, data);
    write_samples(&page, data);
    write_messages(&page, data);
    write_saves(&page, data);
    write_setup(&page, data);
    write_settings(&page, data);
    lt_page_raw(&page, "<footer>Made by lathe ");
    lt_page_text(&page, lt_logged_text(data->start, "version"));
    lt_page_raw(&page, " from log.jsonl, which holds every value in full.</footer>\n</main>\n"
                       "<script>\n");
    lt_page_raw(&page, lt_report_script);
    lt_page_raw(&page, "</script></body></html>\n");
    return page.status;
}
