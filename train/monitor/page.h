/* Pages as files of their own: HTML on its way, and what every page of Lathe looks like. */
#ifndef LT_TRAIN_MONITOR_PAGE_H
#define LT_TRAIN_MONITOR_PAGE_H

#include "base/buffer.h"
#include "base/status.h"

/* HTML on its way. The first failure stays; what is written after it is ignored, so that the code
 * that lays out the page reads like the page. */
typedef struct lt_page {
    lt_buffer *out;
    lt_status status;
    lt_err *err;
} lt_page;

void lt_page_raw(lt_page *page, const char *html);
/* Text from outside: every character that means something to HTML is escaped. */
void lt_page_text(lt_page *page, const char *text);
/* Only for constant formats and numbers: nothing is escaped. */
void lt_page_printf(lt_page *page, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Up to and with <main>. `name` is text from outside, `kind` is not: "Lathe training report".
 * `css`: what the page needs besides the common style sheet, or "". */
void lt_page_begin(lt_page *page, const char *name, const char *kind, const char *css);
/* `value`, `label`, `detail` are HTML made here, never text from outside. */
void lt_page_tile(lt_page *page, const char *value, const char *label, const char *detail);
/* "2026-05-01T10:20:30Z", also with a fraction, as "2026-05-01 10:20 UTC"; nothing of a shorter
 * text. */
void lt_page_time(lt_page *page, const char *time);

void lt_format_duration(double seconds, char *out, size_t size);
/* Whole numbers with thin spaces, as HTML, between thousands. */
void lt_format_count(double value, char *out, size_t size);
const char *lt_last_part(const char *path); /* behind the last slash that is not the end */

extern const char lt_page_css[]; /* report_assets.c */

#endif
