/* The drawn parts of the evaluation report: bars by category, differences with their intervals. All
 * is HTML with widths in percent, so that it stretches with the page. */
#include <math.h>
#include <string.h>

#include "train/evaluation/report_parts.h"
#include "train/evaluation/results_internal.h"

const char lt_evaluation_css[] =
    ".wrap{overflow-x:auto}main>h3{margin:22px 0 8px}h3+.sub{margin:-4px 0 10px}.tile "
    "small{font-size:15px;font-weight:400;color:var(--soft)}.tile b{white-space:normal}"
    ".tile i{font-style:normal;white-space:nowrap}\n"
    "td.num,th.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\n"
    ".sub-row td:first-child{padding-left:30px}.group td{color:var(--soft);font-weight:600}\n"
    ".bars{padding:14px 18px}.bars .row{display:grid;grid-template-columns:minmax(90px,22%) 1fr "
    "150px;gap:12px;align-items:center;padding:5px 0;font-size:13.5px}\n"
    ".bars .name{overflow-wrap:anywhere}.bars .value{color:var(--soft);text-align:right;"
    "font-variant-numeric:tabular-nums;white-space:nowrap}\n"
    ".track{position:relative;height:12px;background:var(--tint);border-radius:3px;margin:2px 0}\n"
    ".track i{position:absolute;left:0;top:0;bottom:0;border-radius:3px;background:var(--raw)}"
    ".track i.second{background:var(--eval)}\n"
    ".track u{position:absolute;top:5px;height:2px;background:var(--ink);opacity:.55}\n"
    ".interval{position:relative;height:18px;min-width:150px;border-radius:3px;"
    "background:var(--tint)}\n"
    ".interval s{position:absolute;left:50%;top:0;bottom:0;width:1px;background:var(--soft)}\n"
    ".interval i{position:absolute;top:7px;height:4px;border-radius:2px;background:currentColor}\n"
    ".interval b{position:absolute;top:4px;width:10px;height:10px;margin-left:-5px;"
    "border-radius:50%;background:currentColor}\n"
    ".soft{color:var(--soft)}\n"
    ".answers{table-layout:fixed;min-width:640px}.answers th:first-child{width:30%}\n"
    ".marks{color:var(--soft);font-size:12px;margin-top:4px;overflow-wrap:anywhere}\n"
    ".choice{display:grid;grid-template-columns:18px 1fr auto;gap:6px;padding:2px 0}\n"
    ".choice span:last-child{white-space:nowrap;font-variant-numeric:tabular-nums;"
    "color:var(--soft);font-size:12.5px}.choice.right{font-weight:600}\n"
    ".choices td:first-child{width:42%}\n";

/* --- Bars by category ------------------------------------------------------------------------- */

/* The row of the second model that belongs to this one; NULL when there is none. */
static const lt_result_row *same_row(const lt_task_results *results, const lt_result_row *row)
{
    for (int64_t i = 0; i < results->row_count; i++) {
        const lt_result_row *other = &results->rows[i];
        if (other->metric == row->metric && lt_same_text(other->filter, row->filter) &&
            lt_same_text(other->category, row->category))
            return other;
    }
    return NULL;
}

/* Of the first metric; whether a row belongs to this chart. */
static bool is_charted(const lt_task_results *results, const lt_result_row *row)
{
    return row->category && row->metric == results->rows[0].metric &&
           lt_same_text(row->filter, results->rows[0].filter);
}

static double greatest_value(const lt_task_results *results)
{
    double most = 0;
    for (int64_t i = 0; i < results->row_count; i++)
        if (is_charted(results, &results->rows[i]) && isfinite(results->rows[i].value))
            most = fmax(most, results->rows[i].value);
    return most;
}

static double percent_of(double value, double full)
{
    double share = full > 0 && isfinite(value) ? 100 * value / full : 0;
    return share < 0 ? 0 : share > 100 ? 100 : share;
}

/* A bar with a line one standard error to either side of its end. */
static void write_bar(lt_page *page, const lt_result_row *row, double full, const char *style)
{
    double value = percent_of(row->value, full), low = value, high = value;
    if (isfinite(row->stderr_)) {
        low = percent_of(row->value - row->stderr_, full);
        high = percent_of(row->value + row->stderr_, full);
    }
    lt_page_printf(page,
                   "<div class=\"track\"><i class=\"%s\" style=\"width:%.2f%%\"></i>"
                   "<u style=\"left:%.2f%%;width:%.2f%%\"></u></div>",
                   style, value, low, high - low);
}

static void write_bar_row(lt_page *page, const lt_result_row *row, const lt_result_row *second,
                          double full)
{
    char value[48], other[48] = "";
    lt_format_metric(row->metric, row->value, value, sizeof value);
    if (second) lt_format_metric(row->metric, second->value, other, sizeof other);
    lt_page_raw(page, "<div class=\"row\"><div class=\"name\">");
    lt_page_text(page, row->category);
    lt_page_raw(page, "</div><div>");
    write_bar(page, row, full, "first");
    if (second) write_bar(page, second, full, "second");
    lt_page_printf(page, "</div><div class=\"value\">%s%s%s &middot; %lld</div></div>\n", value,
                   second ? " / " : "", other, (long long)row->count);
}

void lt_report_bars(lt_page *page, const lt_task_results *results,
                    const lt_task_comparison *comparison)
{
    bool any = false;
    double full = results->row_count ? greatest_value(results) : 0;
    if (comparison) full = fmax(full, greatest_value(comparison->b));
    if (results->row_count && lt_metric_of(results->rows[0].metric)->percent) full = 1;
    for (int64_t i = 0; i < results->row_count; i++) {
        const lt_result_row *row = &results->rows[i];
        if (!is_charted(results, row)) continue;
        if (!any) {
            lt_page_printf(page, "<h3>By category: %s</h3><div class=\"card bars\">\n",
                           lt_metric_of(row->metric)->name);
            if (comparison)
                lt_page_raw(page, "<span class=\"legend\"><span><i class=\"raw\"></i>a</span>"
                                  "<span><i class=\"eval\"></i>b</span></span>\n");
        }
        any = true;
        write_bar_row(page, row, comparison ? same_row(comparison->b, row) : NULL, full);
    }
    if (any) lt_page_raw(page, "</div>\n");
}

/* --- Comparison ------------------------------------------------------------------------------- */

/* Shares of all tasks have one scale; another metric has its own. */
static double scale_of(const lt_task_comparison *comparisons, int64_t count,
                       const lt_comparison_row *row)
{
    bool percent = lt_metric_of(row->metric)->percent;
    double most = fmax(fabs(row->result.low), fabs(row->result.high));
    for (int64_t t = 0; t < count && percent; t++) {
        for (int64_t i = 0; i < comparisons[t].row_count; i++) {
            const lt_comparison_row *other = &comparisons[t].rows[i];
            if (!lt_metric_of(other->metric)->percent || !isfinite(other->result.low)) continue;
            most = fmax(most, fmax(fabs(other->result.low), fabs(other->result.high)));
        }
    }
    return most > 0 ? most : 1;
}

static const char *verdict_style(const char *verdict)
{
    if (strcmp(verdict, "better") == 0) return "good";
    return strcmp(verdict, "worse") == 0 ? "bad" : "soft";
}

/* The interval on a line whose middle is "no difference". */
static void write_interval(lt_page *page, const lt_paired_result *result, double scale,
                           const char *style)
{
    lt_page_printf(page, "<div class=\"interval %s\"><s></s>", style);
    if (isfinite(result->low)) {
        double low = 50 + 48 * result->low / scale, high = 50 + 48 * result->high / scale;
        lt_page_printf(page,
                       "<i style=\"left:%.2f%%;width:%.2f%%\"></i>"
                       "<b style=\"left:%.2f%%\"></b>",
                       low, high - low, 50 + 48 * result->difference / scale);
    }
    lt_page_raw(page, "</div>");
}

static void write_comparison_row(lt_page *page, const lt_comparison_row *row, double scale)
{
    const lt_paired_result *result = &row->result;
    const char *verdict = lt_verdict(row->metric, result), *style = verdict_style(verdict);
    char a[48], b[48], difference[48], low[48], high[48];
    lt_format_metric(row->metric, result->a, a, sizeof a);
    lt_format_metric(row->metric, result->b, b, sizeof b);
    lt_format_difference(row->metric, result->difference, difference, sizeof difference);
    lt_format_difference(row->metric, result->low, low, sizeof low);
    lt_format_difference(row->metric, result->high, high, sizeof high);
    lt_page_printf(page, "<tr%s><td>%s %s", row->category ? " class=\"sub-row\"" : "",
                   lt_metric_of(row->metric)->name, lt_metric_arrow(row->metric));
    if (strcmp(row->filter, "none") != 0) {
        lt_page_raw(page, " <span class=\"tag\">");
        lt_page_text(page, row->filter);
        lt_page_raw(page, "</span>");
    }
    lt_page_printf(page,
                   "</td><td class=\"num\">%s</td><td class=\"num\">%s</td>"
                   "<td class=\"num\">%s</td><td>",
                   a, b, difference);
    write_interval(page, result, scale, style);
    bool known = isfinite(result->low);
    lt_page_printf(page, "<div class=\"marks\">%s%s%s</div>", low, known ? " to " : "",
                   known ? high : "");
    lt_page_printf(page,
                   "</td><td class=\"num\">%lld / %lld / %lld</td>"
                   "<td><b class=\"%s\">%s</b></td></tr>\n",
                   (long long)result->better, (long long)result->worse, (long long)result->equal,
                   style, verdict);
}

static void write_group(lt_page *page, const char *name, bool category)
{
    lt_page_printf(page, "<tr class=\"group%s\"><td colspan=\"7\">", category ? " sub-row" : "");
    lt_page_text(page, name);
    lt_page_raw(page, "</td></tr>\n");
}

void lt_report_comparison(lt_page *page, const lt_task_comparison *comparisons, int64_t count)
{
    lt_page_raw(page, "<div class=\"card wrap\"><table><thead><tr><th>Metric</th>"
                      "<th class=\"num\">a</th><th class=\"num\">b</th>"
                      "<th class=\"num\">b &minus; a</th><th>95&#8239;% interval</th>"
                      "<th class=\"num\">better / worse / equal</th><th></th></tr></thead>"
                      "<tbody>\n");
    for (int64_t t = 0; t < count; t++) {
        const char *category = NULL;
        write_group(page, comparisons[t].a->task->name, false);
        for (int64_t i = 0; i < comparisons[t].row_count; i++) {
            const lt_comparison_row *row = &comparisons[t].rows[i];
            if (row->category && !lt_same_text(row->category, category))
                write_group(page, row->category, true);
            category = row->category;
            write_comparison_row(page, row, scale_of(comparisons, count, row));
        }
    }
    lt_page_raw(page, "</tbody></table></div>\n");
}
