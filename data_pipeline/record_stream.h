/* Private to data_pipeline/: a file as a stream of JSON texts (lines, or elements of one array), or
 * as one text. Compression (gzip, zstd) is recognised by the first bytes and undone on the fly. */
#ifndef LT_RECORD_STREAM_H
#define LT_RECORD_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"

typedef struct lt_record_stream lt_record_stream;

lt_status lt_record_stream_open(const char *path, lt_record_stream **out, lt_err *err);
void lt_record_stream_close(lt_record_stream *stream);

/* Replaces *text by the next JSON text of the file; *line (from 1) is where it begins. Blank lines
 * are passed over. *more is false at the end. The text itself is not looked into any further than
 * to find its end. */
lt_status lt_record_stream_next(lt_record_stream *stream, lt_buffer *text, int64_t *line,
                                bool *more, lt_err *err);

/* Replaces *text by all of the file, without a byte-order mark. */
lt_status lt_record_stream_read_all(lt_record_stream *stream, lt_buffer *text, lt_err *err);

/* LT_ERR_FORMAT naming the line when `text`, which begins at `line`, is not UTF-8 or has a NUL. */
lt_status lt_check_record_text(const char *path, int64_t line, const lt_buffer *text, lt_err *err);

#endif
