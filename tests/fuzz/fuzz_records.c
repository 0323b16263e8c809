/* libFuzzer: record files. The input is a file as `lathe prepare --input` would get it, compressed
 * or not; its first byte chooses the format that is asked for. Every record that is read must come
 * back the same from its stored JSON. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/json.h"
#include "data_pipeline/dedup.h"
#include "data_pipeline/record_fields.h"

static void check_round_trip(const lt_record *record)
{
    lt_buffer text = {0};
    json_t *json = NULL;
    lt_record again;
    if (lt_record_to_json(record, NULL, &text, NULL) != LT_OK ||
        lt_json_parse(text.data, text.size, "again", &json, NULL) != LT_OK ||
        lt_record_from_json(json, record->format, "again", &again, NULL) != LT_OK)
        abort();
    const char *a = lt_record_answer(record), *b = lt_record_answer(&again);
    if (!a != !b || (a && strcmp(a, b) != 0)) abort();
    lt_record_free(&again);
    json_decref(json);
    lt_buffer_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    char path[64];
    int fd = memfd_create("records", 0);
    if (fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)size - 1) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    lt_record_reader *reader = NULL;
    lt_err err = {0};
    bool more = lt_record_reader_open(path, (lt_record_format)(data[0] % (LT_FORMAT_TEXT + 1)),
                                      NULL, &reader, &err) == LT_OK;
    while (more) {
        lt_record record;
        if (lt_record_reader_next(reader, &record, &more, &err) != LT_OK) break;
        if (!more) break;
        check_round_trip(&record);
        lt_fingerprint fingerprint;
        if (lt_fingerprint_make(&record, &fingerprint, &err) == LT_OK)
            lt_fingerprint_free(&fingerprint);
        lt_record_free(&record);
    }
    lt_record_reader_close(reader);
    close(fd);
    return 0;
}
