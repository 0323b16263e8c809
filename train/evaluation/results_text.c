/* The numbers of results as people read them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/evaluation/results_internal.h"

bool lt_same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

const char *lt_verdict(lt_metric metric, const lt_paired_result *result)
{
    const lt_metric_facts *facts = lt_metric_of(metric);
    bool rose = result->low > 0, fell = result->high < 0; /* false for NaN */
    if (!rose && !fell) return "no clear difference";
    if (facts->neutral) return rose ? "more" : "less";
    return rose == facts->higher_is_better ? "better" : "worse";
}

/* Not 1.235e+04, as %g would have it. */
static void format_number(double value, int digits, bool sign, char *out, size_t size)
{
    double magnitude = fabs(value);
    if (magnitude >= 1000 && magnitude < 1e9)
        snprintf(out, size, sign ? "%+.0f" : "%.0f", value);
    else
        snprintf(out, size, sign ? "%+.*g" : "%.*g", digits, value);
}

/* Shares to a tenth of a point, others to so many digits. */
static void format(lt_metric metric, double value, int digits, bool sign, char *out, size_t size)
{
    if (!isfinite(value))
        snprintf(out, size, "N/A");
    else if (!lt_metric_of(metric)->percent)
        format_number(value, digits, sign, out, size);
    else
        snprintf(out, size, sign ? "%+.1f" : "%.1f %%", 100 * value);
}

void lt_format_metric(lt_metric metric, double value, char *out, size_t size)
{
    format(metric, value, 4, false, out, size);
}

void lt_format_error(lt_metric metric, double value, char *out, size_t size)
{
    format(metric, value, 2, false, out, size);
}

void lt_format_difference(lt_metric metric, double value, char *out, size_t size)
{
    format(metric, value, 3, true, out, size);
}

const char *lt_metric_arrow(lt_metric metric)
{
    const lt_metric_facts *facts = lt_metric_of(metric);
    if (facts->neutral) return "";
    return facts->higher_is_better ? "\xE2\x86\x91" : "\xE2\x86\x93";
}
