/* What every page of Lathe has in common: escaping, head and foot, tiles, numbers. */
#include "train/monitor/page.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* --- Writing ---------------------------------------------------------------------------------- */

void lt_page_raw(lt_page *page, const char *html)
{
    if (page->status == LT_OK) page->status = lt_buffer_append_text(page->out, html, page->err);
}

void lt_page_printf(lt_page *page, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    lt_page_raw(page, text);
}

static const char *escaped(unsigned char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default: /* control characters are not allowed in HTML at all */
        return c < 0x20 && c != '\n' && c != '\t' ? "\xEF\xBF\xBD" : NULL;
    }
}

void lt_page_text(lt_page *page, const char *text)
{
    const char *from = text;
    for (const char *at = text; *at && page->status == LT_OK; at++) {
        const char *instead = escaped((unsigned char)*at);
        if (!instead) continue;
        page->status = lt_buffer_append(page->out, from, (size_t)(at - from), page->err);
        lt_page_raw(page, instead);
        from = at + 1;
    }
    lt_page_raw(page, from);
}

/* --- Frame ------------------------------------------------------------------------------------ */

void lt_page_begin(lt_page *page, const char *name, const char *kind, const char *css)
{
    lt_page_raw(page,
                "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>");
    lt_page_text(page, name);
    lt_page_printf(page, " - %s</title>\n<style>\n", kind);
    lt_page_raw(page, lt_page_css);
    lt_page_raw(page, css);
    lt_page_raw(page, "</style></head>\n<body><main>\n");
}

void lt_page_tile(lt_page *page, const char *value, const char *label, const char *detail)
{
    lt_page_printf(page, "<div class=\"tile\"><b>%s</b><span>%s</span><span>%s</span></div>\n",
                   value, label, detail);
}

void lt_page_time(lt_page *page, const char *time)
{
    char text[32] = "";
    if (strlen(time) >= 20) snprintf(text, sizeof text, "%.10s %.5s UTC", time, time + 11);
    lt_page_text(page, text);
}

/* --- Numbers and names ------------------------------------------------------------------------ */

void lt_format_duration(double seconds, char *out, size_t size)
{
    if (!(seconds >= 0)) seconds = 0;
    if (seconds < 60) {
        snprintf(out, size, "%.1fs", seconds);
        return;
    }
    long long whole = (long long)(seconds + 0.5);
    long long hours = whole / 3600, minutes = whole / 60 % 60;
    if (hours > 0)
        snprintf(out, size, "%lldh %02lldm", hours, minutes);
    else
        snprintf(out, size, "%lldm %02llds", minutes, whole % 60);
}

void lt_format_count(double value, char *out, size_t size)
{
    char digits[32];
    if (!isfinite(value)) {
        snprintf(out, size, "?");
        return;
    }
    snprintf(digits, sizeof digits, "%.0f", value);
    size_t length = strlen(digits), at = 0;
    for (size_t i = 0; i < length && at + 8 < size; i++) {
        if (i > 0 && (length - i) % 3 == 0 && length > 4)
            at += (size_t)snprintf(out + at, size - at, "&#8239;");
        out[at++] = digits[i];
    }
    out[at] = '\0';
}

const char *lt_last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}
