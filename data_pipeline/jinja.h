/* The part of Jinja2 (https://jinja.palletsprojects.com, 3.1) that chat templates are written in,
 * as an interpreter with bounds: templates come with models, from anywhere, and must not hang,
 * crash or reach anything but the values they are given.
 *
 * Behaves as transformers' environment does: trim_blocks, lstrip_blocks, no autoescape, one final
 * newline of the source dropped, loop controls (break, continue), {% generation %} blocks, the
 * filter tojson without ASCII escapes, the functions raise_exception and strftime_now. Python's
 * exceptions are LT_ERR_FORMAT with their text, as far as it can be. A construct that is not here
 * is LT_ERR_UNSUPPORTED and named, with its line: template inheritance and imports, formatting with
 * %, and rare filters. Other than in Python, integers have 64 bits (beyond: LT_ERR_LIMIT), and
 * letters change case one by one (but for the German sharp s).
 *
 * Beside the text comes where each byte of it is from. So what a user wrote can not become a
 * special token, and what the assistant wrote is known without searching for it. */
#ifndef LT_DATA_PIPELINE_JINJA_H
#define LT_DATA_PIPELINE_JINJA_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

typedef struct lt_jinja lt_jinja;

/* `where` ("tokenizer_config.json: chat_template") starts every message, followed by the line. Any
 * number of threads may render one template. LT_ERR_FORMAT: not Jinja. */
lt_status lt_jinja_compile(const char *source, size_t size, const char *where, lt_jinja **out,
                           lt_err *err);
void lt_jinja_free(lt_jinja *template_);

/* Zero: the default. Reaching one is LT_ERR_LIMIT, and so are brackets and blocks nested 150 deep,
 * a source of more than 1 MiB, and memory of more than 16 MiB + 16 * output. */
typedef struct lt_jinja_limits {
    int64_t
        steps; /* nodes evaluated, and bytes of text made on the way (in units of 64); 1 million */
    int64_t depth;  /* of calls, and of nesting in units of 16; 64, at most 256 */
    int64_t output; /* bytes, of the result and of each string on the way; 4 MiB */
    double now;     /* what strftime_now calls now, in seconds since 1970, and shows as UTC; 0: the
                       clock, in local time as Python does */
} lt_jinja_limits;

/* Where a byte of the result is from. */
enum {
    LT_JINJA_TEMPLATE = 0,    /* the template's own text, and variables that were not marked */
    LT_JINJA_INPUT = 1,       /* a marked variable: text from outside */
    LT_JINJA_GENERATION = 64, /* flag: inside {% generation %} */
};
/* Texts of a marked variable may be told apart: a source is INPUT + its number below. */
#define LT_JINJA_MAX_SOURCES 62

/* A variable whose strings, and those inside it, are from outside. With `source`, if the variable
 * is an array, `source(context, i)` says the number (0 to LT_JINJA_MAX_SOURCES - 1) of element i's
 * strings; without, it is 0. Strings keep their origin byte by byte through every filter, method,
 * slice and concatenation that keeps their characters; what is computed anew from one (tojson,
 * replace's inserted text, upper, ...) has the origin of what it was made from. */
typedef struct lt_jinja_mark {
    const char *variable;
    int (*source)(void *context, size_t element);
    void *context;
    /* With a source: one of these words (NULL at the end) under this key of an element is nobody's
     * text, and stays unmarked: templates make special tokens of roles. Or NULL. */
    const char *key;
    const char *const *words;
} lt_jinja_mark;

typedef struct lt_jinja_text {
    lt_buffer text;      /* owned */
    lt_buffer origin;    /* owned: one byte for each of text */
    bool has_generation; /* the template has {% generation %} blocks */
} lt_jinja_text;

/* `variables`: a JSON object. raise_exception's message is LT_ERR_FORMAT. `limits`, `marks` may be
 * NULL. */
lt_status lt_jinja_render(const lt_jinja *template_, const json_t *variables,
                          const lt_jinja_mark *marks, size_t mark_count,
                          const lt_jinja_limits *limits, lt_jinja_text *out, lt_err *err);
void lt_jinja_text_free(lt_jinja_text *text);

#endif
