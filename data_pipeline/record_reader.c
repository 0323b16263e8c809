/* Files as streams of records. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "data_pipeline/record_fields.h"
#include "data_pipeline/record_stream.h"

struct lt_record_reader {
    char *path;
    lt_record_stream *stream;
    lt_record_format format;
    lt_columns columns;
    lt_buffer text; /* of the current record */
    bool whole_file, ended, prompts_allowed;
};

/* Whether the name, without .gz or .zst, ends in one of the endings. */
static bool name_ends_in(const char *path, const char *const endings[2])
{
    size_t length = strlen(path);
    if (length > 3 && strcasecmp(path + length - 3, ".gz") == 0)
        length -= 3;
    else if (length > 4 && strcasecmp(path + length - 4, ".zst") == 0)
        length -= 4;
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(endings[i]);
        if (length > n && strncasecmp(path + length - n, endings[i], n) == 0) return true;
    }
    return false;
}

static bool is_plain_text(const char *path, lt_record_format format)
{
    static const char *const text[2] = {".txt", ".md"}, *const json[2] = {".json", ".jsonl"};
    if (format == LT_FORMAT_AUTO) return name_ends_in(path, text);
    return format == LT_FORMAT_TEXT && !name_ends_in(path, json);
}

lt_status lt_record_reader_open(const char *path, lt_record_format format, const char *columns,
                                lt_record_reader **out, lt_err *err)
{
    lt_record_reader *reader = calloc(1, sizeof *reader);
    if (!reader) return lt_fail_nomem(err, sizeof *reader, "a record reader");
    reader->format = format;
    reader->whole_file = is_plain_text(path, format);
    if (reader->whole_file) reader->format = LT_FORMAT_TEXT;
    lt_status status = LT_OK;
    if (!(reader->path = strdup(path))) status = lt_fail_nomem(err, strlen(path), "a path");
    if (status == LT_OK) status = lt_columns_parse(columns, &reader->columns, err);
    if (status == LT_OK && format != LT_FORMAT_AUTO)
        status = lt_columns_check(&reader->columns, format, err);
    if (status == LT_OK) status = lt_record_stream_open(path, &reader->stream, err);
    if (status != LT_OK) {
        lt_record_reader_close(reader);
        return status;
    }
    *out = reader;
    return LT_OK;
}

void lt_record_reader_close(lt_record_reader *reader)
{
    if (!reader) return;
    lt_record_stream_close(reader->stream);
    lt_columns_free(&reader->columns);
    lt_buffer_free(&reader->text);
    free(reader->path);
    free(reader);
}

lt_record_format lt_record_reader_format(const lt_record_reader *reader)
{
    return reader->format;
}

void lt_record_reader_allow_prompts(lt_record_reader *reader)
{
    reader->prompts_allowed = true;
}

const lt_columns *lt_record_reader_columns(const lt_record_reader *reader)
{
    return &reader->columns;
}

static lt_status read_whole_file(lt_record_reader *reader, lt_record *out, bool *more, lt_err *err)
{
    *more = !reader->ended;
    if (reader->ended) return LT_OK;
    reader->ended = true;
    LT_TRY(lt_record_stream_read_all(reader->stream, &reader->text, err));
    LT_TRY(lt_check_record_text(reader->path, 1, &reader->text, err));
    json_t *json = json_object();
    json_t *text = json_stringn_nocheck(lt_buffer_text(&reader->text), reader->text.size);
    lt_buffer_free(&reader->text);
    if (!json || json_object_set_new(json, "text", text) != 0) {
        json_decref(json);
        return lt_fail_nomem(err, 0, "a text file");
    }
    lt_field_source source = {.json = json, .where = reader->path};
    lt_status status = lt_record_read(&source, LT_FORMAT_TEXT, out, err);
    if (status == LT_OK) out->whole_file = true;
    json_decref(json);
    return status;
}

static lt_status read_record(lt_record_reader *reader, int64_t line, lt_record *out, lt_err *err)
{
    char where[sizeof out->where];
    json_t *json = NULL;
    snprintf(where, sizeof where, "%s:%lld", reader->path, (long long)line);
    lt_status status =
        lt_json_parse(lt_buffer_text(&reader->text), reader->text.size, where, &json, err);
    if (status == LT_ERR_FORMAT)
        LT_TRY(lt_check_record_text(reader->path, line, &reader->text, err));
    if (status != LT_OK) return status;
    lt_field_source source = {.json = json,
                              .where = where,
                              .columns = &reader->columns,
                              .prompts_allowed = reader->prompts_allowed};
    lt_record_format before = reader->format;
    status = lt_record_read(&source, before, out, err);
    json_decref(json);
    if (status != LT_OK) return status;
    reader->format = out->format;
    if (before == LT_FORMAT_AUTO) status = lt_columns_check(&reader->columns, out->format, err);
    if (status != LT_OK) lt_record_free(out);
    return status;
}

lt_status lt_record_reader_next(lt_record_reader *reader, lt_record *out, bool *more, lt_err *err)
{
    int64_t line = 0;
    *out = (lt_record){0};
    *more = false;
    if (reader->whole_file) return read_whole_file(reader, out, more, err);
    LT_TRY(lt_record_stream_next(reader->stream, &reader->text, &line, more, err));
    return *more ? read_record(reader, line, out, err) : LT_OK;
}
