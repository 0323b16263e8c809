#include "data_pipeline/json_lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "data_pipeline/record_stream.h"

struct lt_json_lines {
    char *path;
    lt_record_stream *stream;
    lt_buffer text; /* of the current object */
    uint64_t bytes;
};

lt_status lt_json_lines_open(const char *path, lt_json_lines **out, lt_err *err)
{
    lt_json_lines *lines = calloc(1, sizeof *lines);
    if (!lines) return lt_fail_nomem(err, sizeof *lines, "a reader");
    lt_status status = LT_OK;
    if (!(lines->path = strdup(path))) status = lt_fail_nomem(err, strlen(path), "a path");
    if (status == LT_OK) status = lt_record_stream_open(path, &lines->stream, err);
    if (status != LT_OK) {
        lt_json_lines_close(lines);
        return status;
    }
    *out = lines;
    return LT_OK;
}

void lt_json_lines_close(lt_json_lines *lines)
{
    if (!lines) return;
    lt_record_stream_close(lines->stream);
    lt_buffer_free(&lines->text);
    free(lines->path);
    free(lines);
}

static lt_status parse(lt_json_lines *lines, int64_t line, json_t **out, lt_err *err)
{
    lt_buffer where = {0};
    lt_status status = lt_buffer_printf(&where, err, "%s:%lld", lines->path, (long long)line);
    if (status == LT_OK)
        status = lt_json_parse(lt_buffer_text(&lines->text), lines->text.size,
                               lt_buffer_text(&where), out, err);
    if (status == LT_OK && !json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        status = lt_fail(err, LT_ERR_FORMAT, "%s: a record must be a JSON object", where.data);
    }
    lt_buffer_free(&where);
    return status;
}

lt_status lt_json_lines_next(lt_json_lines *lines, json_t **out, int64_t *line, lt_err *err)
{
    bool more = false;
    *out = NULL;
    LT_TRY(lt_record_stream_next(lines->stream, &lines->text, line, &more, err));
    if (!more) return LT_OK;
    lines->bytes += lines->text.size;
    lt_status status = parse(lines, *line, out, err);
    /* That a byte is no UTF-8 says more than what JSON made of it. */
    if (status == LT_ERR_FORMAT)
        LT_TRY(lt_check_record_text(lines->path, *line, &lines->text, err));
    return status;
}

uint64_t lt_json_lines_bytes(const lt_json_lines *lines)
{
    return lines->bytes;
}

lt_status lt_read_text_file(const char *path, lt_buffer *text, lt_err *err)
{
    lt_record_stream *stream = NULL;
    LT_TRY(lt_record_stream_open(path, &stream, err));
    lt_status status = lt_record_stream_read_all(stream, text, err);
    if (status == LT_OK) status = lt_check_record_text(path, 1, text, err);
    lt_record_stream_close(stream);
    return status;
}
