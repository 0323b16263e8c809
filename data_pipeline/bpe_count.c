/* Counting the words of the training text, in parallel: the text is cut where a word must end, each
 * thread counts its parts in a table of its own, and the tables are added up. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "base/json.h"
#include "data_pipeline/bpe_train.h"

#define PART_BYTES    ((size_t)1 << 20)
#define RECORDS_BYTES ((size_t)64 << 20) /* text of JSONL records that is counted at once */

void lt_word_counts_free(lt_word_counts *counts)
{
    lt_buffer_free(&counts->text);
    free(counts->words);
    free(counts->slots);
    *counts = (lt_word_counts){0};
}

static lt_status grow_slots(lt_word_counts *counts, lt_err *err)
{
    size_t size = counts->slots ? (counts->slot_mask + 1) * 2 : 4096;
    uint32_t *slots = calloc(size, sizeof *slots);
    if (!slots) return lt_fail_nomem(err, size * sizeof *slots, "the word counts");
    for (size_t i = 0; i < counts->used; i++) {
        const lt_word_count *word = &counts->words[i];
        size_t at = (size_t)XXH3_64bits(counts->text.data + word->begin, word->size) & (size - 1);
        while (slots[at])
            at = (at + 1) & (size - 1);
        slots[at] = (uint32_t)i + 1;
    }
    free(counts->slots);
    counts->slots = slots;
    counts->slot_mask = size - 1;
    return LT_OK;
}

static lt_status append_word(lt_word_counts *counts, const char *text, size_t size, int64_t count,
                             lt_err *err)
{
    if (counts->used == counts->capacity) {
        size_t capacity = counts->capacity ? counts->capacity * 2 : 2048;
        lt_word_count *words = realloc(counts->words, capacity * sizeof *words);
        if (!words) return lt_fail_nomem(err, capacity * sizeof *words, "the word counts");
        counts->words = words;
        counts->capacity = capacity;
    }
    if (size > UINT32_MAX || counts->used >= UINT32_MAX - 1)
        return lt_fail(err, LT_ERR_LIMIT, "the training text has too many or too long words");
    counts->words[counts->used++] = (lt_word_count){counts->text.size, (uint32_t)size, count};
    return lt_buffer_append(&counts->text, text, size, err);
}

static lt_status count_word(lt_word_counts *counts, const char *text, size_t size, int64_t count,
                            lt_err *err)
{
    if (!counts->slots || counts->used * 2 > counts->slot_mask) LT_TRY(grow_slots(counts, err));
    size_t at = (size_t)XXH3_64bits(text, size) & counts->slot_mask;
    for (; counts->slots[at]; at = (at + 1) & counts->slot_mask) {
        lt_word_count *word = &counts->words[counts->slots[at] - 1];
        if (word->size == size && memcmp(counts->text.data + word->begin, text, size) == 0) {
            word->count += count;
            return LT_OK;
        }
    }
    counts->slots[at] = (uint32_t)counts->used + 1;
    return append_word(counts, text, size, count, err);
}

static lt_status add_counts(lt_word_counts *total, const lt_word_counts *part, lt_err *err)
{
    for (size_t i = 0; i < part->used; i++) {
        const lt_word_count *word = &part->words[i];
        LT_TRY(count_word(total, part->text.data + word->begin, word->size, word->count, err));
    }
    return LT_OK;
}

static lt_status count_part(lt_word_counts *counts, const char *text, size_t size, lt_err *err)
{
    for (size_t i = 0; i < size;) {
        size_t length = lt_split_next(LT_SPLIT_GPT2, text + i, size - i);
        LT_TRY(count_word(counts, text + i, length, 1, err));
        i += length;
    }
    return LT_OK;
}

/* The first place at or after `from` where a word ends whatever stands around: between a visible
 * ASCII character and a space. */
static size_t find_cut(const char *text, size_t from, size_t size)
{
    for (size_t i = from ? from : 1; i < size; i++) {
        unsigned char before = (unsigned char)text[i - 1];
        if ((text[i] == ' ' || text[i] == '\n') && before > ' ' && before < 0x7F) return i;
    }
    return size;
}

/* Ends of the parts; *parts: caller frees. */
static lt_status cut_text(const char *text, size_t size, size_t **ends, size_t *count, lt_err *err)
{
    *count = 0;
    *ends = malloc((size / PART_BYTES + 1) * sizeof **ends);
    if (!*ends) return lt_fail_nomem(err, size / PART_BYTES * 8, "the parts of a text");
    for (size_t at = 0; at < size;) {
        at = size - at > PART_BYTES ? find_cut(text, at + PART_BYTES, size) : size;
        (*ends)[(*count)++] = at;
    }
    return LT_OK;
}

/* `tables`: one for each thread. */
static lt_status count_text(const char *text, size_t size, int threads, lt_word_counts *tables,
                            lt_err *err)
{
    size_t *ends, parts;
    LT_TRY(cut_text(text, size, &ends, &parts, err));
    lt_status status = LT_OK;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t i = 0; i < parts; i++) {
        size_t begin = i ? ends[i - 1] : 0;
        lt_err part_err = {0};
        lt_status part =
            count_part(&tables[omp_get_thread_num()], text + begin, ends[i] - begin, &part_err);
        if (part == LT_OK) continue;
#pragma omp critical
        {
            status = part;
            if (err) *err = part_err;
        }
    }
    free(ends);
    return status;
}

/* --- Files ------------------------------------------------------------------------------------
 */

static lt_status count_plain(const char *path, const lt_mapped_file *file, int threads,
                             lt_word_counts *tables, lt_err *err)
{
    const char *text = (const char *)file->data;
    size_t valid = lt_utf8_valid_prefix(text, file->size);
    if (valid != file->size)
        return lt_fail(err, LT_ERR_FORMAT, "%s: not UTF-8 at byte %zu", path, valid);
    return count_text(text, file->size, threads, tables, err);
}

/* Every string in the record, each on a line of its own. */
static lt_status append_strings(const json_t *value, lt_buffer *out, lt_err *err)
{
    if (json_is_string(value)) {
        LT_TRY(lt_buffer_append(out, json_string_value(value), json_string_length(value), err));
        return lt_buffer_append(out, "\n", 1, err);
    }
    for (size_t i = 0; i < json_array_size(value); i++)
        LT_TRY(append_strings(json_array_get(value, i), out, err));
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)value, key, member)
    {
        LT_TRY(append_strings(member, out, err));
    }
    return LT_OK;
}

static bool is_blank(const char *line, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (!strchr(" \t\r\n", line[i])) return false;
    }
    return true;
}

static lt_status append_record(const char *line, size_t size, const char *path, size_t number,
                               lt_buffer *out, lt_err *err)
{
    if (is_blank(line, size)) return LT_OK;
    lt_buffer where = {0};
    json_t *record = NULL;
    lt_status status = lt_buffer_printf(&where, err, "%s:%zu", path, number);
    if (status == LT_OK) status = lt_json_parse(line, size, where.data, &record, err);
    if (status == LT_OK) status = append_strings(record, out, err);
    json_decref(record);
    lt_buffer_free(&where);
    return status;
}

static lt_status count_records(const char *path, const lt_mapped_file *file, int threads,
                               lt_word_counts *tables, lt_err *err)
{
    const char *line = (const char *)file->data, *end = line + file->size;
    lt_buffer text = {0};
    lt_status status = LT_OK;
    for (size_t number = 1; status == LT_OK && line < end; number++) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t size = (size_t)((newline ? newline : end) - line);
        status = append_record(line, size, path, number, &text, err);
        line += size + (newline != NULL);
        if (status == LT_OK && (text.size >= RECORDS_BYTES || line >= end)) {
            status = count_text(lt_buffer_text(&text), text.size, threads, tables, err);
            lt_buffer_clear(&text);
        }
    }
    lt_buffer_free(&text);
    return status;
}

static lt_status count_file(const char *path, int threads, lt_word_counts *tables, lt_err *err)
{
    lt_mapped_file file = {0};
    LT_TRY(lt_map_file(path, &file, err));
    size_t length = strlen(path);
    bool records = length >= 6 && strcmp(path + length - 6, ".jsonl") == 0;
    lt_status status = LT_OK;
    if (file.size > 0)
        status = records ? count_records(path, &file, threads, tables, err)
                         : count_plain(path, &file, threads, tables, err);
    lt_unmap_file(&file);
    return status;
}

lt_status lt_count_words(const char *const *files, size_t file_count, int threads,
                         lt_word_counts *out, lt_err *err)
{
    *out = (lt_word_counts){0};
    lt_unicode_init();
    if (threads <= 0) threads = omp_get_max_threads();
    lt_word_counts *tables = calloc((size_t)threads, sizeof *tables);
    if (!tables) return lt_fail_nomem(err, (size_t)threads * sizeof *tables, "the word counts");
    lt_status status = LT_OK;
    for (size_t i = 0; status == LT_OK && i < file_count; i++)
        status = count_file(files[i], threads, tables, err);
    for (int i = 0; status == LT_OK && i < threads; i++)
        status = add_counts(out, &tables[i], err);
    for (int i = 0; i < threads; i++)
        lt_word_counts_free(&tables[i]);
    free(tables);
    if (status != LT_OK) lt_word_counts_free(out);
    return status;
}
