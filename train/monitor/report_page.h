/* Writing the report of a training run: its charts, its sections. */
#ifndef LT_TRAIN_MONITOR_REPORT_PAGE_H
#define LT_TRAIN_MONITOR_REPORT_PAGE_H

#include <stdbool.h>

#include "train/monitor/page.h"
#include "train/monitor/report_data.h"

/* --- Charts (report_chart.c) --- */

typedef enum lt_value_style {
    LT_VALUE_PLAIN,   /* 2.314 */
    LT_VALUE_RATE,    /* 12.3k */
    LT_VALUE_SMALL,   /* 3e-4 */
    LT_VALUE_PERCENT, /* 51 % of 0.51 */
} lt_value_style;

typedef struct lt_chart_series {
    const char *name;
    const char *style; /* CSS class: "raw", "main", "eval" */
    const lt_series *series;
    bool smooth; /* a centred moving mean instead of the values */
    bool dots;   /* a dot at each value */
} lt_chart_series;

typedef struct lt_chart {
    const char *title;
    lt_value_style style;
    bool from_zero; /* the y axis starts at 0 */
    bool wide;
    double last_x; /* right end of the x axis: the last step of the run */
    lt_chart_series series[4];
    int series_count;
    const lt_series *marks; /* dashed vertical lines at these x, or NULL */
} lt_chart;

/* Nothing when none of the series has two values. */
void lt_page_chart(lt_page *page, const lt_chart *chart);

/* A value as the chart's labels show it. */
void lt_format_value(lt_value_style style, double value, char *out, size_t size);

/* --- The page (report_page.c) --- */

/* The whole document. */
lt_status lt_report_render(const lt_report_data *data, lt_buffer *out, lt_err *err);

extern const char lt_report_script[]; /* report_assets.c */

#endif
