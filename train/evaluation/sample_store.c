#include "train/evaluation/sample_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "base/json.h"
#include "train/evaluation/output_names.h"

/* A block is what a killed run may have to do again: at most so many documents, and so much text as
 * about fills one batch of a GPU. */
enum { BLOCK_DOCUMENTS = 256, BLOCK_ANSWERS = 32, BLOCK_BYTES = 1 << 17 };

#define HEADER_FORMAT "lathe samples"

/* --- Blocks ----------------------------------------------------------------------------------- */

static size_t text_bytes(const lt_task *task, const lt_task_doc *doc)
{
    size_t bytes = 0;
    size_t pairs = task->output == LT_TASK_MULTIPLE_CHOICE ? doc->choice_count : 1;
    for (size_t i = 0; doc->pairs && i < pairs; i++) {
        if (doc->pairs[i].context) bytes += strlen(doc->pairs[i].context);
        if (doc->pairs[i].continuation) bytes += strlen(doc->pairs[i].continuation);
    }
    return bytes;
}

int64_t lt_task_block_end(const lt_task *task, int64_t begin)
{
    int64_t most = task->output == LT_TASK_GENERATE ? BLOCK_ANSWERS : BLOCK_DOCUMENTS;
    int64_t limit = lt_min_i64(begin + most, task->doc_count), end = begin;
    size_t bytes = 0;
    while (end < limit && (end == begin || bytes < BLOCK_BYTES))
        bytes += text_bytes(task, &task->docs[end++]);
    return end;
}

/* --- Samples in memory ------------------------------------------------------------------------ */

static int64_t filter_count(const lt_task *task)
{
    return task->output == LT_TASK_GENERATE && task->filter_count > 0 ? task->filter_count : 1;
}

/* The place of a sample, or -1: it has no such document or filter. */
static int64_t place_of(const lt_sample_store *store, const json_t *sample)
{
    const json_t *id = json_object_get(sample, "doc_id");
    const char *filter = json_string_value(json_object_get(sample, "filter"));
    int64_t doc = json_is_integer(id) ? (int64_t)json_integer_value(id) : -1;
    if (doc < 0 || doc >= store->task->doc_count || !filter) return -1;
    if (store->task->output != LT_TASK_GENERATE || store->task->filter_count == 0)
        return strcmp(filter, "none") == 0 ? doc : -1;
    for (int64_t i = 0; i < store->filters; i++)
        if (strcmp(store->task->filters[i].name, filter) == 0) return doc * store->filters + i;
    return -1;
}

/* Takes a reference. False: the sample does not belong into the block, or is there already. */
static bool put(lt_sample_store *store, json_t *sample, int64_t cut)
{
    int64_t place = place_of(store, sample);
    int64_t end = lt_task_block_end(store->task, store->done) * store->filters;
    if (place < store->done * store->filters || place >= end || store->samples[place]) return false;
    store->samples[place] = json_incref(sample);
    if (cut > 0) store->cut[place / store->filters] = true;
    return true;
}

static bool block_is_whole(const lt_sample_store *store)
{
    int64_t end = lt_task_block_end(store->task, store->done) * store->filters;
    for (int64_t i = store->done * store->filters; i < end; i++)
        if (!store->samples[i]) return false;
    return true;
}

/* Forgets the samples of a block that was not finished. */
static void drop_block(lt_sample_store *store)
{
    int64_t end = lt_task_block_end(store->task, store->done);
    for (int64_t i = store->done * store->filters; i < end * store->filters; i++) {
        json_decref(store->samples[i]);
        store->samples[i] = NULL;
        store->cut[i / store->filters] = false;
    }
}

static lt_status allocate(const lt_task *task, lt_sample_store *out, lt_err *err)
{
    *out = (lt_sample_store){.task = task, .filters = filter_count(task), .fd = -1};
    size_t docs = (size_t)task->doc_count;
    out->samples = calloc(docs * (size_t)out->filters + 1, sizeof(json_t *));
    out->cut = calloc(docs + 1, sizeof *out->cut);
    if (out->samples && out->cut) return LT_OK;
    return lt_fail_nomem(err, docs * (size_t)out->filters * sizeof(json_t *), "samples");
}

/* --- The header ------------------------------------------------------------------------------- */

static lt_status make_header(const json_t *identity, const char *date, lt_buffer *out, lt_err *err)
{
    json_t *header = json_pack("{s:s, s:i, s:s, s:O}", "format", HEADER_FORMAT, "version", 1,
                               "date", date, "of", (json_t *)identity);
    lt_status status =
        header ? lt_json_dump(header, 0, out, err) : lt_fail_nomem(err, 256, "a header");
    if (status == LT_OK) status = lt_buffer_append(out, "\n", 1, err);
    json_decref(header);
    return status;
}

/* What the header says otherwise, in words; nothing when it is of this very evaluation. */
static lt_status compare_header(const json_t *header, const json_t *identity,
                                lt_buffer *differences, lt_err *err)
{
    const char *format = json_string_value(json_object_get(header, "format"));
    const char *date = json_string_value(json_object_get(header, "date")), *key;
    const json_t *of = json_object_get(header, "of");
    json_t *value;
    bool known = format && strcmp(format, HEADER_FORMAT) == 0 && date && *date &&
                 strlen(date) < LT_DATE_SIZE && !strchr(date, '/');
    if (!known) return lt_buffer_append_text(differences, "the first line is no header", err);
    json_object_foreach((json_t *)identity, key, value)
    {
        if (json_equal(value, json_object_get(of, key))) continue;
        LT_TRY(lt_buffer_printf(differences, err, "%s %s",
                                differences->size ? ", another" : "another", key));
    }
    return LT_OK;
}

/* The first line. A file of this evaluation goes on under its date. */
static lt_status read_header(lt_sample_store *store, const char *text, size_t size,
                             const json_t *identity, lt_buffer *differences, lt_err *err)
{
    json_t *header = NULL;
    lt_err ignored;
    if (lt_json_parse(text, size, store->path, &header, &ignored) != LT_OK) header = NULL;
    lt_status status = compare_header(header, identity, differences, err);
    if (status == LT_OK && differences->size == 0)
        snprintf(store->date, sizeof store->date, "%s",
                 json_string_value(json_object_get(header, "date")));
    json_decref(header);
    return status;
}

/* --- Reading ---------------------------------------------------------------------------------- */

/* One line behind the header. False: it is torn, damaged or not of the block that comes next. */
static bool read_line(lt_sample_store *store, const char *text, size_t size)
{
    json_t *line = NULL;
    lt_err ignored;
    if (lt_json_parse(text, size, store->path, &line, &ignored) != LT_OK) return false;
    const json_t *cut = json_object_get(line, "cut");
    json_t *sample = json_object_get(line, "sample");
    bool good = json_is_integer(cut) && json_is_object(sample) &&
                put(store, sample, (int64_t)json_integer_value(cut));
    json_decref(line);
    return good;
}

/* Whole blocks of text[at..size); returns where the last one ends. Anything behind it is done
 * again.
 */
static size_t read_blocks(lt_sample_store *store, const char *text, size_t size, size_t at)
{
    size_t good = at;
    while (at < size && store->done < store->task->doc_count) {
        const char *end = memchr(text + at, '\n', size - at);
        if (!end || !read_line(store, text + at, (size_t)(end - text) - at)) break;
        at = (size_t)(end - text) + 1;
        if (!block_is_whole(store)) continue;
        store->done = lt_task_block_end(store->task, store->done);
        good = at;
    }
    drop_block(store);
    store->resumed = store->done;
    return good;
}

/* Samples of another evaluation get another name; they may have taken long. */
static lt_status put_aside(const lt_sample_store *store, const char *directory,
                           const char *differences, lt_buffer *notice, lt_err *err)
{
    char ending[LT_DATE_SIZE + 16], date[LT_DATE_SIZE];
    lt_buffer path = {0};
    lt_evaluation_date_name(store->date, date);
    snprintf(ending, sizeof ending, "_%s.stale.jsonl", date);
    lt_status status =
        lt_evaluation_task_path(directory, "samples_", store->task->name, ending, &path, err);
    if (status == LT_OK && rename(store->path, path.data) != 0)
        status =
            lt_fail(err, LT_ERR_IO, "%s: can not be renamed: %s", store->path, strerror(errno));
    if (status == LT_OK)
        status = lt_buffer_printf(notice, err,
                                  "%s: the samples in %s are of another evaluation (%s); they are "
                                  "now in %s, and the task starts anew\n",
                                  store->task->name, store->path, differences, path.data);
    lt_buffer_free(&path);
    return status;
}

/* *good: bytes of the file that are kept; 0: there is nothing to go on from. */
static lt_status read_partial(lt_sample_store *store, const char *directory, const json_t *identity,
                              size_t *good, lt_buffer *notice, lt_err *err)
{
    lt_mapped_file file = {0};
    lt_buffer differences = {0};
    lt_status status = LT_OK;
    *good = 0;
    if (!lt_path_exists(store->path)) return LT_OK;
    LT_TRY(lt_map_file(store->path, &file, err));
    const char *text = file.size > 0 ? (const char *)file.data : "";
    const char *end = memchr(text, '\n', file.size);
    size_t header = end ? (size_t)(end - text) : 0; /* a line has an end */
    LT_TRY_GOTO(status, read_header(store, text, header, identity, &differences, err), done);
    if (differences.size > 0)
        status = put_aside(store, directory, lt_buffer_text(&differences), notice, err);
    else
        *good = read_blocks(store, text, file.size, header + 1);
done:
    lt_buffer_free(&differences);
    lt_unmap_file(&file);
    return status;
}

/* --- Writing ---------------------------------------------------------------------------------- */

static lt_status fail_write(const lt_sample_store *store, lt_err *err)
{
    return lt_fail(err, LT_ERR_IO,
                   "%s: can not be written: %s; what is there stays, and the same command goes on "
                   "from it",
                   store->path, strerror(errno));
}

/* All of it, or none. */
static lt_status append(lt_sample_store *store, const lt_buffer *text, lt_err *err)
{
    off_t before = lseek(store->fd, 0, SEEK_END);
    size_t done = 0;
    while (before >= 0 && done < text->size) {
        ssize_t n = write(store->fd, text->data + done, text->size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        done += (size_t)n;
    }
    if (before >= 0 && done == text->size) return LT_OK;
    lt_status status = fail_write(store, err);
    /* half a line that can not be taken back is recognised by who reads it */
    if (before >= 0 && done > 0 && ftruncate(store->fd, before) != 0) return status;
    return status;
}

static lt_status open_partial(lt_sample_store *store, const json_t *identity, size_t good,
                              lt_err *err)
{
    if (good == 0) {
        lt_buffer header = {0};
        lt_status status = make_header(identity, store->date, &header, err);
        if (status == LT_OK) status = lt_write_file(store->path, header.data, header.size, err);
        good = header.size;
        lt_buffer_free(&header);
        LT_TRY(status);
    }
    store->fd = open(store->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    return store->fd < 0 || ftruncate(store->fd, (off_t)good) != 0 ? fail_write(store, err) : LT_OK;
}

lt_status lt_sample_store_open(const lt_task *task, const char *directory, const json_t *identity,
                               const char *date, lt_sample_store *out, lt_buffer *notice,
                               lt_err *err)
{
    size_t good = 0;
    lt_buffer path = {0};
    lt_status status;
    LT_TRY_GOTO(status, allocate(task, out, err), done);
    if (strlen(date) >= LT_DATE_SIZE)
        LT_TRY_GOTO(status, lt_fail(err, LT_ERR_USAGE, "\"%s\" is not a date", date), done);
    snprintf(out->date, sizeof out->date, "%s", date);
    if (!directory) return LT_OK;
    LT_TRY_GOTO(
        status,
        lt_evaluation_task_path(directory, "samples_", task->name, ".partial.jsonl", &path, err),
        done);
    out->path = path.data; /* taken over */
    path = (lt_buffer){0};
    LT_TRY_GOTO(status, read_partial(out, directory, identity, &good, notice, err), done);
    status = open_partial(out, identity, good, err);
done:
    lt_buffer_free(&path);
    if (status != LT_OK) lt_sample_store_close(out);
    return status;
}

void lt_sample_store_close(lt_sample_store *store)
{
    if (store->fd >= 0 && store->task) close(store->fd);
    for (int64_t i = 0; store->samples && i < store->task->doc_count * store->filters; i++)
        json_decref(store->samples[i]);
    free(store->samples);
    free(store->cut);
    free(store->path);
    lt_buffer_free(&store->line);
    *store = (lt_sample_store){.fd = -1};
}

lt_status lt_sample_store_add(lt_sample_store *store, int64_t doc, json_t *sample, int64_t cut,
                              lt_err *err)
{
    lt_buffer *line = &store->line;
    if (!put(store, sample, cut))
        return lt_fail(err, LT_ERR_FORMAT, "task %s: the sample of document %lld is out of place",
                       store->task->name, (long long)doc);
    if (!store->path) return LT_OK;
    lt_buffer_clear(line);
    LT_TRY(lt_buffer_printf(line, err, "{\"cut\":%lld,\"sample\":", (long long)cut));
    LT_TRY(lt_json_dump(sample, 0, line, err));
    LT_TRY(lt_buffer_append_text(line, "}\n", err));
    return append(store, line, err);
}

lt_status lt_sample_store_end_block(lt_sample_store *store, lt_err *err)
{
    if (!block_is_whole(store))
        return lt_fail(err, LT_ERR_FORMAT, "task %s: documents were left without a sample",
                       store->task->name);
    if (store->path && fdatasync(store->fd) != 0) return fail_write(store, err);
    store->done = lt_task_block_end(store->task, store->done);
    return LT_OK;
}

int64_t lt_sample_store_cut_documents(const lt_sample_store *store)
{
    int64_t count = 0;
    for (int64_t i = 0; i < store->task->doc_count; i++)
        count += store->cut[i];
    return count;
}

lt_status lt_sample_store_remove(lt_sample_store *store, lt_err *err)
{
    if (!store->path || unlink(store->path) == 0 || errno == ENOENT) return LT_OK;
    return lt_fail(err, LT_ERR_IO, "%s: can not be removed: %s", store->path, strerror(errno));
}
