/* Python's str methods that prompts of lm-evaluation-harness are made with, on UTF-8. */
#ifndef LT_TASK_TEXT_H
#define LT_TASK_TEXT_H

#include <stddef.h>

#include "base/buffer.h"
#include "base/status.h"

/* str.lstrip(): where the rest begins. */
const char *lt_python_lstrip(const char *text);
/* str.strip(): *size bytes from where it begins. */
const char *lt_python_strip(const char *text, size_t *size);

/* Appends str.capitalize(): the first letter in title case, all others in lower case. Letters that
 * become several ones at the beginning (sharp s, ligatures) stay as they are. */
lt_status lt_python_capitalize(const char *text, lt_buffer *out, lt_err *err);

/* str.replace() in place. */
lt_status lt_python_replace(lt_buffer *text, const char *what, const char *by, lt_err *err);

/* len(re.split(r"\s+", text)) */
size_t lt_python_word_count(const char *text);

/* Strings of their own, to free(). */
lt_status lt_copy_text(const char *text, char **out, lt_err *err);
lt_status lt_text_printf(char **out, lt_err *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The buffer's text as a string of its own; the buffer is empty then. */
lt_status lt_take_text(lt_buffer *buffer, char **out, lt_err *err);

#endif
