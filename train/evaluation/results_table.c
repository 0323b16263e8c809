/* Results and comparisons as aligned tables for the console.
 *
 *     arc_easy  25-shot       value       ±     n
 *       acc ↑                68.4 %   1.0 %  2376
 *       physics
 *         acc ↑              61.0 %   4.9 %   100
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "train/evaluation/results_internal.h"
#include "train/evaluation/words.h"

enum { MAX_CELLS = 8, CELL_BYTES = 48, GAP = 2 };

/* --- Tables ----------------------------------------------------------------------------------- */

/* A label on the left, cells on the right of it. A line without cells may be as long as it likes.
 */
typedef struct table_line {
    lt_buffer label;
    char cells[MAX_CELLS][CELL_BYTES];
    int cell_count;
} table_line;

/* Lines on their way. The first failure stays; what comes after it is dropped. */
typedef struct table {
    table_line *lines;
    size_t count;
    lt_status status;
    lt_err *err;
} table;

static void free_table(table *t)
{
    for (size_t i = 0; i < t->count; i++)
        lt_buffer_free(&t->lines[i].label);
    free(t->lines);
}

/* Appends to the last line's label. Names come from files: a line break or an escape sequence must
 * not reach the terminal. */
static void add_label(table *t, const char *text)
{
    for (; *text && t->status == LT_OK; text++) {
        bool control = (unsigned char)*text < 0x20 || *text == 0x7F;
        t->status =
            lt_buffer_append(&t->lines[t->count - 1].label, control ? " " : text, 1, t->err);
    }
}

static void add_line(table *t, int indent, const char *label)
{
    if (t->status != LT_OK) return;
    size_t bytes = (t->count + 1) * sizeof *t->lines;
    table_line *lines = realloc(t->lines, bytes);
    if (!lines) {
        t->status = lt_fail_nomem(t->err, bytes, "a table");
        return;
    }
    t->lines = lines;
    t->lines[t->count++] = (table_line){0};
    for (int i = 0; i < indent; i++)
        add_label(t, " ");
    add_label(t, label);
}

static void add_cell(table *t, const char *text)
{
    if (t->status != LT_OK) return;
    table_line *line = &t->lines[t->count - 1];
    snprintf(line->cells[line->cell_count++], CELL_BYTES, "%s", text);
}

static void add_count(table *t, int64_t count)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)count);
    add_cell(t, text);
}

/* Columns of a terminal that the text takes. */
static int display_width(const char *text)
{
    int width = 0;
    for (size_t size; *text; text += size) {
        uint32_t character = lt_character_at(text, &size);
        width += character == UINT32_MAX ? 1 : utf8proc_charwidth((utf8proc_int32_t)character);
    }
    return width;
}

/* The widest of each column: widths[0] of the labels, then of the cells. */
static void measure(const table *t, int widths[MAX_CELLS + 1])
{
    memset(widths, 0, (MAX_CELLS + 1) * sizeof *widths);
    for (size_t i = 0; i < t->count; i++) {
        const table_line *line = &t->lines[i];
        for (int c = 0; c <= line->cell_count && line->cell_count > 0; c++) {
            int width = display_width(c ? line->cells[c - 1] : lt_buffer_text(&line->label));
            if (width > widths[c]) widths[c] = width;
        }
    }
}

static void append_padding(table *t, int width, lt_buffer *out)
{
    if (t->status == LT_OK && width > 0)
        t->status = lt_buffer_printf(out, t->err, "%*s", width, "");
}

static void append_text(table *t, const char *text, lt_buffer *out)
{
    if (t->status == LT_OK) t->status = lt_buffer_append_text(out, text, t->err);
}

/* Numbers end their columns; the last column of MAX_CELLS is of words, which begin theirs. */
static void append_line(table *t, const table_line *line, const int *widths, lt_buffer *out)
{
    const char *label = lt_buffer_text(&line->label);
    append_text(t, label, out);
    if (line->cell_count > 0) append_padding(t, widths[0] - display_width(label), out);
    for (int c = 0; c < line->cell_count; c++) {
        bool word = c == MAX_CELLS - 1;
        append_padding(t, GAP + (word ? 0 : widths[c + 1] - display_width(line->cells[c])), out);
        append_text(t, line->cells[c], out);
    }
    append_text(t, "\n", out);
}

/* Appends the whole table and frees it. */
static lt_status finish(table *t, lt_buffer *out)
{
    int widths[MAX_CELLS + 1];
    measure(t, widths);
    for (size_t i = 0; i < t->count && t->status == LT_OK; i++)
        append_line(t, &t->lines[i], widths, out);
    free_table(t);
    return t->status;
}

/* --- What both tables have in common ---------------------------------------------------------- */

/* The task's name above its columns, an empty line above that. */
static void add_task(table *t, const lt_task *task)
{
    char shots[48];
    if (t->count > 0) add_line(t, 0, "");
    add_line(t, 0, task->name);
    if (task->num_fewshot <= 0) return;
    snprintf(shots, sizeof shots, "  %lld-shot", (long long)task->num_fewshot);
    add_label(t, shots);
}

/* "acc ↑", "exact_match, strict-match ↑"; under the name of its category when that is a new one. */
static void add_metric(table *t, lt_metric metric, const char *filter, const char *category,
                       const char *category_before)
{
    if (category && !lt_same_text(category, category_before)) add_line(t, 2, category);
    add_line(t, category ? 4 : 2, lt_metric_of(metric)->name);
    if (strcmp(filter, "none") != 0) {
        add_label(t, ", ");
        add_label(t, filter);
    }
    add_label(t, " ");
    add_label(t, lt_metric_arrow(metric));
}

/* --- Results ---------------------------------------------------------------------------------- */

static void add_result(table *t, const lt_result_row *row, const char *category_before)
{
    char text[CELL_BYTES];
    add_metric(t, row->metric, row->filter, row->category, category_before);
    lt_format_metric(row->metric, row->value, text, sizeof text);
    add_cell(t, text);
    lt_format_error(row->metric, row->stderr_, text, sizeof text);
    add_cell(t, text);
    add_count(t, row->count);
}

static void add_results(table *t, const lt_task_results *results)
{
    char text[128];
    add_task(t, results->task);
    add_cell(t, "value");
    add_cell(t, "\xC2\xB1");
    add_cell(t, "n");
    for (int64_t i = 0; i < results->row_count; i++)
        add_result(t, &results->rows[i], i ? results->rows[i - 1].category : NULL);
    if (results->row_count == 0) add_line(t, 2, "no samples");
    if (results->cut_documents == 0) return;
    snprintf(text, sizeof text, "%lld longer than the model's context: the beginning was left out",
             (long long)results->cut_documents);
    add_line(t, 2, text);
}

lt_status lt_results_table(const lt_task_results *results, int64_t count, lt_buffer *out,
                           lt_err *err)
{
    table t = {.err = err};
    for (int64_t i = 0; i < count; i++)
        add_results(&t, &results[i]);
    return finish(&t, out);
}

/* --- Comparison ------------------------------------------------------------------------------- */

static void add_interval(table *t, const lt_comparison_row *row)
{
    char low[CELL_BYTES], both[2 * CELL_BYTES];
    lt_format_difference(row->metric, row->result.low, low, sizeof low);
    snprintf(both, sizeof both, "%s to ", low);
    lt_format_difference(row->metric, row->result.high, low, sizeof low);
    strcat(both, low);
    add_cell(t, isfinite(row->result.low) ? both : "N/A");
}

static void add_comparison_row(table *t, const lt_comparison_row *row, const char *category_before)
{
    const lt_paired_result *result = &row->result;
    char text[CELL_BYTES];
    add_metric(t, row->metric, row->filter, row->category, category_before);
    lt_format_metric(row->metric, result->a, text, sizeof text);
    add_cell(t, text);
    lt_format_metric(row->metric, result->b, text, sizeof text);
    add_cell(t, text);
    lt_format_difference(row->metric, result->difference, text, sizeof text);
    add_cell(t, text);
    add_interval(t, row);
    add_count(t, result->better);
    add_count(t, result->worse);
    add_count(t, result->equal);
    add_cell(t, lt_verdict(row->metric, result));
}

static void add_comparison(table *t, const lt_task_comparison *comparison)
{
    static const char *const titles[] = {"a",      "b",     "b - a", "95 % interval",
                                         "better", "worse", "equal"};
    add_task(t, comparison->a->task);
    for (size_t i = 0; i < sizeof titles / sizeof *titles; i++)
        add_cell(t, titles[i]);
    for (int64_t i = 0; i < comparison->row_count; i++)
        add_comparison_row(t, &comparison->rows[i], i ? comparison->rows[i - 1].category : NULL);
    if (comparison->row_count == 0) add_line(t, 2, "no samples");
}

lt_status lt_comparison_table(const lt_task_comparison *comparisons, int64_t count, lt_buffer *out,
                              lt_err *err)
{
    table t = {.err = err};
    for (int64_t i = 0; i < count; i++)
        add_comparison(&t, &comparisons[i]);
    return finish(&t, out);
}
