/* JSON files on top of jansson, strict (duplicate keys, bad UTF-8, trailing text and depth beyond
 * 2048 are errors), with two real-world allowances: integers beyond 64 bits (model_max_length:
 * 1000000000000000019884624838656) and the bare words NaN and Infinity that Python writes. Both
 * come back byte for byte from lt_json_dump: in memory they are strings with the prefix
 * LT_JSON_LITERAL_PREFIX. */
#ifndef LT_BASE_JSON_H
#define LT_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

/* U+F8FF, private use, then the word "literal:". No real config string begins so; input that does
 * is refused. */
#define LT_JSON_LITERAL_PREFIX "\xEF\xA3\xBFliteral:"

/* Parses `size` bytes. `where` (a file name, "file:line") starts every message. *out: caller owns a
 * reference (json_decref). */
lt_status lt_json_parse(const char *text, size_t size, const char *where, json_t **out,
                        lt_err *err);
lt_status lt_json_load(const char *path, json_t **out, lt_err *err); /* at most 1 GiB */

/* Indent 2, key order kept, non-ASCII as UTF-8, one final newline (indent 0: one line, no newline).
 */
lt_status lt_json_dump(const json_t *value, int indent, lt_buffer *out, lt_err *err);
lt_status lt_json_write_file(const char *path, const json_t *value, lt_err *err); /* atomic */

/* Typed look-up. A missing key or a null leaves *out alone (so preset it with the default); a value
 * of the wrong type or out of range is LT_ERR_FORMAT naming `where` and the key. */
lt_status lt_json_get_int(const json_t *object, const char *key, int64_t min, int64_t max,
                          const char *where, int64_t *out, lt_err *err);
lt_status lt_json_get_number(const json_t *object, const char *key, const char *where, double *out,
                             lt_err *err);
lt_status lt_json_get_bool(const json_t *object, const char *key, const char *where, bool *out,
                           lt_err *err);
/* *out is borrowed from the object. */
lt_status lt_json_get_string(const json_t *object, const char *key, const char *where,
                             const char **out, lt_err *err);

#endif
