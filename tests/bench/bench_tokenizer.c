/* How fast text becomes ids, on one thread: every string value of a JSONL file is encoded.
 *
 *   bench_tokenizer TOKENIZER FILE.jsonl [REPEATS]
 *
 * Prints one line: MB/s and tokens/s of the best repeat (a fresh cache each time), and the sum of
 * all ids, by which a peer's run can be checked to have done the same work. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fsio.h"
#include "base/json.h"
#include "data_pipeline/tokenizer.h"

typedef struct text_list {
    lt_buffer bytes;
    size_t *ends; /* [count] where each text ends in bytes */
    size_t count, capacity;
} text_list;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static lt_status add_text(text_list *list, const char *text, size_t size, lt_err *err)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 1024;
        size_t *ends = realloc(list->ends, list->capacity * sizeof *ends);
        if (!ends) return lt_fail_nomem(err, list->capacity * sizeof *ends, "the texts");
        list->ends = ends;
    }
    LT_TRY(lt_buffer_append(&list->bytes, text, size, err));
    list->ends[list->count++] = list->bytes.size;
    return LT_OK;
}

static lt_status read_texts(const char *path, text_list *list, lt_err *err)
{
    lt_buffer file = {0};
    lt_status status = lt_read_file(path, (size_t)4 << 30, &file, err);
    for (char *line = file.data; status == LT_OK && line && *line;) {
        char *end = strchr(line, '\n');
        size_t size = end ? (size_t)(end - line) : strlen(line);
        json_t *record = NULL, *value;
        const char *key;
        status = lt_json_parse(line, size, path, &record, err);
        json_object_foreach(record, key, value)
        {
            if (status == LT_OK && json_is_string(value))
                status = add_text(list, json_string_value(value), json_string_length(value), err);
        }
        json_decref(record);
        line += size + (end != NULL);
    }
    lt_buffer_free(&file);
    return status;
}

static lt_status encode_all(const lt_tokenizer *tokenizer, const text_list *list, double *elapsed,
                            size_t *tokens, unsigned long long *sum, lt_err *err)
{
    lt_encoder *encoder;
    lt_ids ids = {0};
    double begin = seconds();
    lt_status status = lt_encoder_create(tokenizer, &encoder, err);
    *tokens = 0;
    *sum = 0;
    for (size_t i = 0, at = 0; status == LT_OK && i < list->count; at = list->ends[i++]) {
        ids.count = 0;
        status = lt_encode(encoder, list->bytes.data + at, list->ends[i] - at,
                           LT_ENCODE_PARSE_SPECIAL, &ids, err);
        *tokens += ids.count;
        for (size_t k = 0; k < ids.count; k++)
            *sum += (unsigned long long)ids.data[k];
    }
    *elapsed = seconds() - begin;
    lt_encoder_free(encoder);
    lt_ids_free(&ids);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER FILE.jsonl [REPEATS]\n");
        return 2;
    }
    int repeats = argc > 3 ? atoi(argv[3]) : 5;
    lt_err err = {0};
    lt_tokenizer *tokenizer = NULL;
    text_list list = {0};
    double best = 0;
    size_t tokens = 0;
    unsigned long long sum = 0;
    lt_status status = lt_tokenizer_load(argv[1], &tokenizer, &err);
    if (status == LT_OK) status = read_texts(argv[2], &list, &err);
    for (int i = 0; status == LT_OK && i < repeats; i++) {
        double elapsed;
        status = encode_all(tokenizer, &list, &elapsed, &tokens, &sum, &err);
        if (i == 0 || elapsed < best) best = elapsed;
    }
    if (status == LT_OK)
        printf("tokenizer encode: %.1f MB/s, %.2f M tokens/s (%zu texts, %zu bytes, %zu tokens, id "
               "sum %llu)\n",
               (double)list.bytes.size / 1e6 / best, (double)tokens / 1e6 / best, list.count,
               list.bytes.size, tokens, sum);
    else
        fprintf(stderr, "bench_tokenizer: %s\n", err.message);
    lt_tokenizer_free(tokenizer);
    lt_buffer_free(&list.bytes);
    free(list.ends);
    return status == LT_OK ? 0 : 1;
}
