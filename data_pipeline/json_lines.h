/* Files of JSON objects, one after another: lines (JSONL) or the elements of one array. Compression
 * (gzip, zstd) is recognised by the first bytes and undone on the fly. */
#ifndef LT_DATA_PIPELINE_JSON_LINES_H
#define LT_DATA_PIPELINE_JSON_LINES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

typedef struct lt_json_lines lt_json_lines;

lt_status lt_json_lines_open(const char *path, lt_json_lines **out, lt_err *err);
void lt_json_lines_close(lt_json_lines *lines);

/* The next object; blank lines are passed over. *out: the caller owns a reference; NULL at the end.
 * *line (from 1) is where it begins. Malformed JSON, what is no object, a NUL, invalid UTF-8 is
 * LT_ERR_FORMAT naming file and line. */
lt_status lt_json_lines_next(lt_json_lines *lines, json_t **out, int64_t *line, lt_err *err);

/* Bytes of JSON text that have been handed out: what a reader who keeps all of it may limit. */
uint64_t lt_json_lines_bytes(const lt_json_lines *lines);

/* Replaces *text by all of a plain-text file, without a byte-order mark. It has to be UTF-8 without
 * NULs. */
lt_status lt_read_text_file(const char *path, lt_buffer *text, lt_err *err);

#endif
