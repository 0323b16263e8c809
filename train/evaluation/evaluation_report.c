/* The document of an evaluation's report.html: how good, compared with what, where, and what was
 * said. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/evaluation/report_parts.h"
#include "train/evaluation/results_internal.h"

enum { RESULT_TILES = 6 };

/* --- Head ------------------------------------------------------------------------------------- */

static void write_model(lt_page *page, const char *model, const char *adapter)
{
    lt_page_raw(page, "<b>");
    lt_page_text(page, model ? model : "?");
    lt_page_raw(page, "</b>");
    if (!adapter) return;
    lt_page_raw(page, " with adapter <b>");
    lt_page_text(page, adapter);
    lt_page_raw(page, "</b>");
}

/* Of a comparison the second model: it is the one that is asked about. */
static const char *title_of(const lt_evaluation_facts *facts)
{
    const char *path = facts->adapter ? facts->adapter : facts->model;
    if (facts->compared_model) path = facts->compared_model;
    if (facts->compared_adapter) path = facts->compared_adapter;
    return path ? lt_last_part(path) : "Evaluation";
}

static void write_header(lt_page *page, const lt_evaluation_facts *facts, bool compared)
{
    lt_page_raw(page, "<p class=\"kicker\">Lathe evaluation report</p><h1>");
    lt_page_text(page, title_of(facts));
    lt_page_raw(page, "</h1><p class=\"sub\">");
    if (compared) lt_page_raw(page, "a: ");
    write_model(page, facts->model, facts->adapter);
    if (compared) {
        lt_page_raw(page, "<br>b: ");
        write_model(page, facts->compared_model, facts->compared_adapter);
    }
    if (facts->date) {
        lt_page_raw(page, compared ? "<br>" : " &middot; ");
        lt_page_time(page, facts->date);
    }
    lt_page_raw(page, "</p>\n");
}

/* The first result of a task, of the second model where there is one. The task's name is from
 * outside, so this is no lt_page_tile. */
static void write_result_tile(lt_page *page, const lt_task_results *results,
                              const lt_task_comparison *comparison)
{
    if (results->row_count == 0) return;
    const lt_result_row *row = &results->rows[0];
    char value[48], detail[96];
    lt_format_metric(row->metric, row->value, value, sizeof value);
    lt_format_error(row->metric, row->stderr_, detail, sizeof detail);
    lt_page_raw(page, "<div class=\"tile\"><b>");
    if (comparison) {
        lt_page_printf(page, "<small>%s &rarr;</small> ", value);
        lt_format_metric(row->metric, comparison->rows[0].result.b, value, sizeof value);
        snprintf(detail, sizeof detail, "%s", lt_verdict(row->metric, &comparison->rows[0].result));
    }
    lt_page_printf(page, "<i>%s</i></b><span>", value);
    lt_page_text(page, results->task->name);
    lt_page_printf(page, "</span><span>%s%s%s</span></div>\n", lt_metric_of(row->metric)->name,
                   comparison ? ": " : " &plusmn; ", detail);
}

static void write_tiles(lt_page *page, const lt_task_results *results, int64_t count,
                        const lt_task_comparison *comparisons, const lt_evaluation_facts *facts)
{
    char value[64], detail[64];
    int64_t samples = 0;
    lt_page_raw(page, "<div class=\"tiles\">\n");
    for (int64_t i = 0; i < count; i++) {
        if (i < RESULT_TILES)
            write_result_tile(page, &results[i], comparisons ? &comparisons[i] : NULL);
        samples += results[i].sample_count;
    }
    lt_format_count((double)samples, value, sizeof value);
    snprintf(detail, sizeof detail, "of %lld task%s", (long long)count, count == 1 ? "" : "s");
    lt_page_tile(page, value, "samples", detail);
    lt_format_duration(facts->seconds, value, sizeof value);
    lt_page_tile(page, value, "wall time", "");
    lt_page_raw(page, "</div>\n");
}

/* --- Table ------------------------------------------------------------------------------------ */

static void write_result_row(lt_page *page, const lt_task_results *results,
                             const lt_result_row *row, bool first)
{
    char value[48], error[48];
    lt_format_metric(row->metric, row->value, value, sizeof value);
    lt_format_error(row->metric, row->stderr_, error, sizeof error);
    lt_page_raw(page, "<tr><td>");
    if (first) {
        lt_page_raw(page, "<b>");
        lt_page_text(page, results->task->name);
        lt_page_raw(page, "</b>");
        if (results->task->num_fewshot > 0)
            lt_page_printf(page, " <span class=\"tag\">%lld-shot</span>",
                           (long long)results->task->num_fewshot);
    }
    lt_page_printf(page, "</td><td>%s %s", lt_metric_of(row->metric)->name,
                   lt_metric_arrow(row->metric));
    if (strcmp(row->filter, "none") != 0) {
        lt_page_raw(page, " <span class=\"tag\">");
        lt_page_text(page, row->filter);
        lt_page_raw(page, "</span>");
    }
    lt_page_printf(page,
                   "</td><td class=\"num\"><b>%s</b></td><td class=\"num\">%s</td>"
                   "<td class=\"num\">%lld</td></tr>\n",
                   value, error, (long long)row->count);
}

static void write_table(lt_page *page, const lt_task_results *results, int64_t count, bool compared)
{
    lt_page_printf(page, "<h2>Results%s</h2>\n", compared ? " of a" : "");
    lt_page_raw(page, "<div class=\"card wrap\"><table><thead><tr><th>Task</th>"
                      "<th>Metric</th><th class=\"num\">Value</th>"
                      "<th class=\"num\">&plusmn; standard error</th>"
                      "<th class=\"num\">Samples</th></tr></thead><tbody>\n");
    for (int64_t t = 0; t < count; t++)
        for (int64_t i = 0; i < results[t].row_count && !results[t].rows[i].category; i++)
            write_result_row(page, &results[t], &results[t].rows[i], i == 0);
    lt_page_raw(page, "</tbody></table></div>\n");
    for (int64_t t = 0; t < count; t++) {
        if (results[t].cut_documents == 0) continue;
        lt_page_raw(page, "<p class=\"sub warn\">");
        lt_page_text(page, results[t].task->name);
        lt_page_printf(page,
                       ": %lld of its documents are longer than the model's context; their "
                       "beginning was left out.</p>\n",
                       (long long)results[t].cut_documents);
    }
}

/* --- Tasks and settings ----------------------------------------------------------------------- */

static bool has_categories(const lt_task_results *results)
{
    return results->row_count > 0 && results->rows[results->row_count - 1].category;
}

static bool has_samples(const lt_task_results *results)
{
    return results->sample_count > 0 && results->task->output != LT_TASK_ROLLING &&
           results->task->output != LT_TASK_DATASET;
}

static void write_task(lt_page *page, const lt_task_results *results,
                       const lt_task_comparison *comparison)
{
    if (!has_categories(results) && !has_samples(results)) return;
    lt_page_raw(page, "<h2>");
    lt_page_text(page, results->task->name);
    lt_page_raw(page, "</h2>\n");
    lt_report_bars(page, results, comparison);
    lt_report_samples(page, results, comparison);
}

static void write_setting(lt_page *page, const char *name, const char *value)
{
    if (!value || !*value) return;
    lt_page_printf(page, "<div><dt>%s</dt><dd>", name);
    lt_page_text(page, value);
    lt_page_raw(page, "</dd></div>\n");
}

static void write_number(lt_page *page, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    if (value > 0) write_setting(page, name, text);
}

static void write_settings(lt_page *page, const lt_task_results *results, int64_t count,
                           const lt_evaluation_facts *facts)
{
    lt_page_raw(page, "<h2>Settings</h2><div class=\"card\"><dl class=\"settings\">\n");
    write_setting(page, "model", facts->model);
    write_setting(page, "adapter", facts->adapter);
    write_setting(page, "compared model", facts->compared_model);
    write_setting(page, "compared adapter", facts->compared_adapter);
    write_setting(page, "device", facts->device);
    write_setting(page, "dtype", facts->dtype);
    write_number(page, "batch size", facts->batch_size);
    write_number(page, "longest text in tokens", facts->max_length);
    write_number(page, "limit", facts->limit);
    if (facts->chat) write_setting(page, "chat template", "the model's");
    for (int64_t i = 0; i < count; i++)
        write_setting(page, "task file", results[i].task->path);
    lt_page_raw(page, "</dl></div>\n");
}

lt_status lt_evaluation_report(const lt_task_results *results, int64_t count,
                               const lt_task_comparison *comparisons,
                               const lt_evaluation_facts *facts, lt_buffer *out, lt_err *err)
{
    lt_page page = {out, LT_OK, err};
    lt_page_begin(&page, title_of(facts), "Lathe evaluation report", lt_evaluation_css);
    write_header(&page, facts, comparisons);
    write_tiles(&page, results, count, comparisons, facts);
    if (comparisons) {
        lt_page_raw(&page, "<h2>Comparison</h2><p class=\"sub\">b against a over the same "
                           "documents. Where the interval holds 0, the difference may be "
                           "chance.</p>\n");
        lt_report_comparison(&page, comparisons, count);
    }
    write_table(&page, results, count, comparisons);
    for (int64_t i = 0; i < count; i++)
        write_task(&page, &results[i], comparisons ? &comparisons[i] : NULL);
    write_settings(&page, results, count, facts);
    lt_page_raw(&page, "<footer>Made by lathe " LATHE_VERSION
                       " from the samples files, which hold every value in full.</footer>\n"
                       "</main></body></html>\n");
    return page.status;
}
