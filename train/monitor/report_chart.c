/* Line charts as inline SVG.
 *
 * The SVG stretches with the page (its coordinates run from 0 to 1000 both ways, strokes do not
 * scale), while labels are HTML placed by percent: so text has the same size on a telephone as on a
 * wide screen. Long series are drawn as the band of their least and greatest values per column,
 * which looks just like drawing every point. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/monitor/report_page.h"

enum { COLUMNS = 500, HOVER_POINTS = 240, MAX_TICKS = 12 };

/* --- Values ----------------------------------------------------------------------------------- */

void lt_format_value(lt_value_style style, double value, char *out, size_t size)
{
    double magnitude = fabs(value);
    if (!isfinite(value)) {
        snprintf(out, size, isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
    } else if (style == LT_VALUE_PERCENT) {
        snprintf(out, size, "%.3g %%", 100 * value);
    } else if (style == LT_VALUE_RATE && magnitude >= 999.5) {
        bool mega = magnitude >= 999500;
        snprintf(out, size, "%.3g%s", value / (mega ? 1e6 : 1e3), mega ? "M" : "k");
    } else if (value != 0 && (magnitude < 1e-3 || magnitude >= 1e5)) {
        /* 3e-4, not 3.00e-04 */
        int exponent = (int)floor(log10(magnitude));
        double mantissa = value / pow(10, exponent);
        if (fabs(mantissa) > 9.995) {
            mantissa /= 10;
            exponent++;
        }
        snprintf(out, size, "%.3ge%d", mantissa, exponent);
    } else {
        snprintf(out, size, "%.4g", value);
    }
}

/* --- Axes ------------------------------------------------------------------------------------- */

typedef struct axis {
    double low, high, step; /* of the ticks */
} axis;

/* 1, 2 or 5 times a power of ten: the smallest that cuts `span` into at most `parts`. */
static double nice_step(double span, int parts)
{
    double rough = span / parts;
    double power = pow(10, floor(log10(rough)));
    double unit = rough / power;
    return power * (unit <= 1.0000001 ? 1 : unit <= 2.0000001 ? 2 : unit <= 5.0000001 ? 5 : 10);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Whether curve `s` is another view of the values before it. */
static bool repeats(const lt_chart *chart, int s)
{
    return s > 0 && chart->series[s].series == chart->series[s - 1].series;
}

/* The finite y values of all series, sorted. Caller frees. NULL with *count 0 when there are none.
 */
static double *sorted_values(const lt_chart *chart, size_t *count)
{
    size_t total = 0;
    *count = 0;
    for (int s = 0; s < chart->series_count; s++)
        if (!repeats(chart, s)) total += chart->series[s].series->count;
    double *values = total ? malloc(total * sizeof *values) : NULL;
    if (!values) return NULL;
    for (int s = 0; s < chart->series_count; s++) {
        const lt_series *series = chart->series[s].series;
        for (size_t i = 0; i < series->count && !repeats(chart, s); i++)
            if (isfinite(series->points[i].y)) values[(*count)++] = series->points[i].y;
    }
    qsort(values, *count, sizeof *values, compare_doubles);
    return values;
}

/* From the least to the greatest value, unless a few outliers would press all others flat: then
 * they are cut off and counted in *beyond. */
static axis fit_y_axis(const lt_chart *chart, size_t *beyond)
{
    axis y = {0, 1, 0.2};
    size_t count = 0;
    *beyond = 0;
    double *values = sorted_values(chart, &count);
    if (count > 0) {
        double low = values[0], high = values[count - 1];
        double usual = values[(size_t)(0.95 * (double)(count - 1))];
        double limit = usual + 2 * (usual - low);
        if (count >= 20 && high > limit && limit > low) {
            high = limit;
            while (*beyond < count && values[count - 1 - *beyond] > high)
                *beyond += 1;
        }
        if (chart->from_zero && low > 0) low = 0;
        if (!(high - low > 1e-12 * fabs(high))) { /* one value only */
            high += fabs(high) > 0 ? 0.1 * fabs(high) : 1;
            if (!chart->from_zero) low -= fabs(low) > 0 ? 0.1 * fabs(low) : 1;
        }
        y.step = nice_step(high - low, chart->wide ? 6 : 5);
        y.low = floor(low / y.step + 1e-9) * y.step;
        y.high = ceil(high / y.step - 1e-9) * y.step;
    }
    free(values);
    return y;
}

static double x_place(const lt_chart *chart, double x)
{
    return chart->last_x > 0 ? 1000 * x / chart->last_x : 0;
}

static double y_place(const axis *y, double value)
{
    double place = 1000 * (y->high - value) / (y->high - y->low);
    return place < 0 ? 0 : place > 1000 ? 1000 : place; /* outliers lie on the edge */
}

static void draw_axes(lt_page *page, const lt_chart *chart, const axis *y)
{
    for (int i = 0; i <= MAX_TICKS && y->low + i * y->step <= y->high + 1e-9 * y->step; i++)
        lt_page_printf(page, "<path class=\"%s\" d=\"M0 %.1fH1000\"/>", i ? "grid" : "axis",
                       y_place(y, y->low + i * y->step));
    for (size_t i = 0; chart->marks && i < chart->marks->count; i++)
        lt_page_printf(page, "<path class=\"mark\" d=\"M%.1f 0V1000\"/>",
                       x_place(chart, chart->marks->points[i].x));
}

static void draw_labels(lt_page *page, const lt_chart *chart, const axis *y)
{
    char text[48];
    for (int i = 0; i <= MAX_TICKS && y->low + i * y->step <= y->high + 1e-9 * y->step; i++) {
        double value = y->low + i * y->step;
        if (fabs(value) < 1e-9 * y->step) value = 0;
        lt_format_value(chart->style, value, text, sizeof text);
        lt_page_printf(page, "<span class=\"y\" style=\"bottom:%.2f%%\">%s</span>",
                       100 - y_place(y, value) / 10, text);
    }
    double step = nice_step(chart->last_x, chart->wide ? 8 : 4);
    if (step < 1) step = 1;
    for (double x = 0; x <= chart->last_x * 1.000001; x += step) {
        double place = x_place(chart, x) / 10;
        lt_page_printf(page, "<span class=\"x%s\" style=\"left:%.2f%%\">%s%.0f</span>",
                       x == 0       ? " first"
                       : place > 96 ? " last"
                                    : "",
                       place, x == 0 ? "step " : "", x);
    }
}

/* --- Curves ----------------------------------------------------------------------------------- */

/* Mean over the neighbours, both sides alike: does not lag behind as an exponential mean does.
 * Values that are not finite are left out, and one beyond the axis counts as its end, so that a
 * single spike does not become a plateau. */
static lt_status smooth(const lt_series *series, double limit, lt_series *out, lt_err *err)
{
    size_t half = series->count / 50 + 1;
    double sum = 0;
    size_t inside = 0, from = 0, to = 0; /* [from, to) is summed */
    for (size_t i = 0; i < series->count; i++) {
        /* near the ends the window shrinks, so that it stays centred */
        size_t reach = half;
        if (i < reach) reach = i;
        if (series->count - 1 - i < reach) reach = series->count - 1 - i;
        for (; to < i + reach + 1; to++) {
            if (!isfinite(series->points[to].y)) continue;
            sum += fmin(series->points[to].y, limit);
            inside++;
        }
        for (; from < i - reach; from++) {
            if (!isfinite(series->points[from].y)) continue;
            sum -= fmin(series->points[from].y, limit);
            inside--;
        }
        LT_TRY(lt_series_push(out, series->points[i].x, inside ? sum / (double)inside : NAN, err));
    }
    return LT_OK;
}

/* One point to a path. `*pen_down` is false after a gap. */
static void draw_point(lt_page *page, const lt_chart *chart, const axis *y, lt_point point,
                       bool *pen_down)
{
    if (!isfinite(point.y)) {
        *pen_down = false;
        return;
    }
    lt_page_printf(page, "%s%.1f %.1f", *pen_down ? "L" : "M", x_place(chart, point.x),
                   y_place(y, point.y));
    *pen_down = true;
}

/* First, least, greatest and last of a run of points, in the order they come. */
static void draw_column(lt_page *page, const lt_chart *chart, const axis *y, const lt_point *points,
                        size_t count, bool *pen_down)
{
    size_t least = 0, greatest = 0;
    for (size_t i = 1; i < count; i++) {
        if (!(points[i].y >= points[least].y)) least = i;
        if (!(points[i].y <= points[greatest].y)) greatest = i;
    }
    size_t order[4] = {0, least < greatest ? least : greatest, least < greatest ? greatest : least,
                       count - 1};
    for (int i = 0; i < 4; i++)
        if (i == 0 || order[i] != order[i - 1])
            draw_point(page, chart, y, points[order[i]], pen_down);
}

static void draw_curve(lt_page *page, const lt_chart *chart, const axis *y,
                       const lt_chart_series *curve, const lt_series *series)
{
    size_t columns = series->count < COLUMNS ? series->count : COLUMNS;
    bool pen_down = false;
    lt_page_printf(page, "<path class=\"%s\" d=\"", curve->style);
    for (size_t c = 0; c < columns; c++) {
        size_t from = c * series->count / columns, to = (c + 1) * series->count / columns;
        draw_column(page, chart, y, series->points + from, to - from, &pen_down);
    }
    lt_page_raw(page, "\"/>");
    if (!curve->dots) return;
    /* A line of no length with round ends stays a round dot, however the SVG is stretched. */
    lt_page_printf(page, "<path class=\"%s dots\" d=\"", curve->style);
    for (size_t i = 0; i < series->count; i++)
        if (isfinite(series->points[i].y))
            lt_page_printf(page, "M%.1f %.1fh0", x_place(chart, series->points[i].x),
                           y_place(y, series->points[i].y));
    lt_page_raw(page, "\"/>");
}

/* The values that the cross-hair shows, thinned out: [step, value, text]. */
static void write_hover_points(lt_page *page, const lt_chart *chart, const lt_series *series)
{
    size_t stride = series->count / HOVER_POINTS + 1;
    bool first = true;
    for (size_t i = 0; i < series->count; i += stride) {
        char text[48];
        if (!isfinite(series->points[i].y)) continue;
        lt_format_value(chart->style, series->points[i].y, text, sizeof text);
        lt_page_printf(page, "%s[%.0f,%.6g,&quot;%s&quot;]", first ? "" : ",", series->points[i].x,
                       series->points[i].y, text);
        first = false;
    }
}

static void write_legend(lt_page *page, const lt_chart *chart)
{
    lt_page_raw(page, "<span class=\"legend\">");
    for (int s = 0; s < chart->series_count && chart->series_count > 1; s++) {
        const lt_chart_series *curve = &chart->series[s];
        if (curve->series->count == 0) continue;
        lt_page_printf(page, "<span><i class=\"%s%s\"></i>%s</span>", curve->style,
                       curve->dots ? " dot" : "", curve->name);
    }
    lt_page_raw(page, "</span>");
}

static bool has_curve(const lt_chart *chart)
{
    for (int s = 0; s < chart->series_count; s++)
        if (chart->series[s].series->count >= 2) return true;
    return false;
}

void lt_page_chart(lt_page *page, const lt_chart *chart)
{
    if (!has_curve(chart) || !(chart->last_x > 0)) return;
    lt_series shown[4] = {{0}};
    size_t beyond = 0;
    axis y = fit_y_axis(chart, &beyond);
    for (int s = 0; s < chart->series_count && page->status == LT_OK; s++)
        if (chart->series[s].smooth)
            page->status = smooth(chart->series[s].series, y.high, &shown[s], page->err);

    lt_page_printf(page, "<div class=\"card chart%s\"><div class=\"head\"><h3>%s</h3>",
                   chart->wide ? " wide" : "", chart->title);
    write_legend(page, chart);
    lt_page_printf(page, "</div><div class=\"plot\" data-last=\"%.0f\" data-series=\"[",
                   chart->last_x);
    for (int s = 0; s < chart->series_count; s++) {
        const lt_chart_series *curve = &chart->series[s];
        lt_page_printf(page,
                       "%s{&quot;name&quot;:&quot;%s&quot;,&quot;style&quot;:&quot;%s&quot;,"
                       "&quot;points&quot;:[",
                       s ? "," : "", curve->name, curve->style);
        write_hover_points(page, chart, curve->smooth ? &shown[s] : curve->series);
        lt_page_raw(page, "]}");
    }
    lt_page_printf(page,
                   "]\"><svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" "
                   "aria-label=\"%s\">",
                   chart->title);
    draw_axes(page, chart, &y);
    for (int s = 0; s < chart->series_count; s++)
        draw_curve(page, chart, &y, &chart->series[s],
                   chart->series[s].smooth ? &shown[s] : chart->series[s].series);
    lt_page_raw(page, "</svg>");
    draw_labels(page, chart, &y);
    lt_page_raw(page, "</div>");
    if (beyond > 0)
        lt_page_printf(page, "<p class=\"note\">%zu value%s above this range</p>", beyond,
                       beyond == 1 ? "" : "s");
    lt_page_raw(page, "</div>\n");
    for (int s = 0; s < chart->series_count; s++)
        lt_series_free(&shown[s]);
}
