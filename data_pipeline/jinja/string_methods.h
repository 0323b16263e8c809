/* Methods of str that filters use too. */
#ifndef LT_DATA_PIPELINE_JINJA_STRING_METHODS_H
#define LT_DATA_PIPELINE_JINJA_STRING_METHODS_H

#include "data_pipeline/jinja/values.h"

typedef enum jinja_case {
    JINJA_UPPER,
    JINJA_LOWER,
    JINJA_CAPITALIZE,
    JINJA_TITLE,
    JINJA_SWAP_CASE,
} jinja_case;

lt_status lt_jinja_change_case(jinja_render *r, const jinja_string *text, jinja_case how,
                               jinja_value *out);
/* `chars` NULL: white space. */
lt_status lt_jinja_strip(jinja_render *r, const jinja_string *text, const jinja_string *chars,
                         bool left, bool right, jinja_value *out);
/* At most `count` times; negative: all. */
lt_status lt_jinja_replace(jinja_render *r, const jinja_string *text, const jinja_string *old,
                           const jinja_string *new_, int64_t count, jinja_value *out);
/* *end: where the line that begins at `from` ends; *next: where the next begins. */
void lt_jinja_line(const jinja_string *text, size_t from, size_t *end, size_t *next);
/* `text` with `fill` around it, `width` characters wide. */
lt_status lt_jinja_pad_text(jinja_render *r, const jinja_string *text, int64_t left, int64_t right,
                            const jinja_string *fill, jinja_value *out);
lt_status lt_jinja_center(jinja_render *r, const jinja_string *text, int64_t width,
                          const jinja_string *fill, jinja_value *out);
/* str.format */
lt_status lt_jinja_format(jinja_render *r, jinja_value self, const jinja_call *call,
                          jinja_value *out);
bool lt_jinja_has_case(const jinja_string *text, bool upper); /* islower(), isupper() */
bool lt_jinja_is_alphanumeric(uint32_t code_point);

#endif
