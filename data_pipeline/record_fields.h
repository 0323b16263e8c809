/* Private to data_pipeline/: from a JSON object to a record, with keys renamed. */
#ifndef LT_RECORD_FIELDS_H
#define LT_RECORD_FIELDS_H

#include "base/buffer.h"
#include "data_pipeline/records.h"

#define LT_MAX_COLUMNS 16

/* --columns: fields of the format and the keys that the file has for them. */
typedef struct lt_columns {
    char *text; /* owned; the pointers below are into it */
    const char *fields[LT_MAX_COLUMNS], *keys[LT_MAX_COLUMNS];
    int count;
} lt_columns;

lt_status lt_columns_parse(const char *text, lt_columns *out, lt_err *err); /* NULL: none */
void lt_columns_free(lt_columns *columns);
/* LT_ERR_USAGE when a field is not one of the format. */
lt_status lt_columns_check(const lt_columns *columns, lt_record_format format, lt_err *err);

typedef struct lt_field_source {
    json_t *json;
    const char *where;         /* "file.jsonl:17" */
    const lt_columns *columns; /* or NULL */
    bool prompts_allowed;      /* the answer may be missing or empty */
} lt_field_source;

lt_status lt_record_read(const lt_field_source *source, lt_record_format format, lt_record *out,
                         lt_err *err);

/* Appends the record as one line of JSON under the format's own names, for lt_record_from_json. */
lt_status lt_record_to_json(const lt_record *record, const lt_columns *columns, lt_buffer *out,
                            lt_err *err);

struct lt_record_reader;
const lt_columns *lt_record_reader_columns(const struct lt_record_reader *reader);

#endif
