/* Records to a dataset: read in batches, encoded in parallel, taken up in order. What a record
 * becomes depends on nothing but itself, so the number of threads changes nothing. */
#include "data_pipeline/prepare.h"

#include <limits.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/json.h"
#include "base/rng.h"
#include "data_pipeline/chat_template.h"
#include "data_pipeline/dedup.h"
#include "data_pipeline/record_fields.h"

enum { BATCH_RECORDS = 1024, DEFAULT_MAX_LENGTH = 1024, MOST_THREADS = 256 };
/* A batch is also full when it has this much text: files of plain text are large. */
static const size_t batch_bytes = (size_t)64 << 20;
/* tokenizer_config.json says 1e30 or the like where there is no limit. */
static const int64_t sensible_max_length = 1 << 20;

/* One record and what becomes of it. */
typedef struct job {
    lt_record record;
    lt_side side;
    lt_ids ids;
    lt_buffer mask, json;
    lt_fingerprint fingerprint;
    lt_status status;
    lt_err err;
} job;

typedef struct preparation {
    const lt_prepare_settings *settings;
    lt_prepare_report report;
    lt_record_format format; /* AUTO until the first record */
    int64_t max_length;
    lt_tokenizer *tokenizer;
    lt_encoder *encoders[MOST_THREADS];
    int threads; /* with an encoder; 0 before the first record */
    job *jobs;   /* [BATCH_RECORDS] */
    int job_count;
    size_t job_bytes;
    lt_dedup *dedup; /* or NULL */
    lt_collection collection;
} preparation;

/* --- Settings --- */

static lt_status check_output(const lt_prepare_settings *settings, lt_err *err)
{
    const char *output = settings->output;
    struct stat out, in;
    if (lt_is_directory(output))
        return lt_fail(err, LT_ERR_USAGE, "--output %s is a directory; give a file name in it",
                       output);
    const char *slash = strrchr(output, '/');
    lt_buffer directory = {0};
    LT_TRY(lt_buffer_append(&directory, output, slash ? (size_t)(slash - output) + 1 : 0, err));
    bool missing = slash && !lt_is_directory(directory.data);
    lt_status status = !missing
                           ? LT_OK
                           : lt_fail(err, LT_ERR_USAGE, "--output %s: there is no directory %s",
                                     output, directory.data);
    lt_buffer_free(&directory);
    if (status != LT_OK || stat(output, &out) != 0) return status;
    for (size_t i = 0; i < settings->inputs.count; i++) {
        if (stat(settings->inputs.items[i], &in) == 0 && in.st_dev == out.st_dev &&
            in.st_ino == out.st_ino)
            return lt_fail(err, LT_ERR_USAGE, "--output %s is one of the inputs", output);
    }
    if (settings->force) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "%s exists; give --force to replace it, or another --output",
                   output);
}

static lt_status check_settings(const lt_prepare_settings *settings, lt_err *err)
{
    double v = settings->validation;
    if (settings->inputs.count == 0) return lt_fail(err, LT_ERR_USAGE, "--input names no file");
    if (!(v >= 0) || isinf(v) || (v >= 1 && v != floor(v)))
        return lt_fail(
            err, LT_ERR_USAGE,
            "--validation %g is neither a fraction below 1 nor a whole number of records", v);
    if (settings->max_length < 0 || settings->max_length == 1 || settings->max_length > INT32_MAX)
        return lt_fail(err, LT_ERR_USAGE, "--max-length %lld must be at least 2",
                       (long long)settings->max_length);
    return check_output(settings, err);
}

/* model_max_length of tokenizer_config.json, when it is a real limit. */
static lt_status default_max_length(const lt_tokenizer *tokenizer, int64_t *out, lt_err *err)
{
    lt_buffer json = {0}, config = {0};
    json_t *object = NULL;
    *out = DEFAULT_MAX_LENGTH;
    lt_status status = lt_tokenizer_to_json(tokenizer, &json, &config, err);
    if (status == LT_OK && config.size > 0)
        status = lt_json_parse(config.data, config.size, "tokenizer_config.json", &object, err);
    const json_t *length = json_object_get(object, "model_max_length");
    if (status == LT_OK && json_is_integer(length)) {
        int64_t value = json_integer_value(length);
        if (value >= 2 && value <= sensible_max_length) *out = value;
    }
    json_decref(object);
    lt_buffer_free(&config);
    lt_buffer_free(&json);
    return status;
}

static lt_status hash_inputs(const lt_string_list *inputs, char out[LT_HASH_TEXT_SIZE], lt_err *err)
{
    lt_buffer hashes = {0};
    lt_status status = LT_OK;
    for (size_t i = 0; i < inputs->count && status == LT_OK; i++) {
        char hash[LT_HASH_TEXT_SIZE];
        status = lt_hash_file(inputs->items[i], 0, hash, err);
        if (status == LT_OK) status = lt_buffer_printf(&hashes, err, "%s\n", hash);
    }
    if (status == LT_OK) lt_hash_bytes(hashes.data, hashes.size, out);
    lt_buffer_free(&hashes);
    return status;
}

/* --- The first record decides --- */

/* Template, special tokens and encoders, once the format is known. */
static lt_status start_encoding(preparation *p, lt_err *err)
{
    const lt_prepare_settings *settings = p->settings;
    p->report.format = p->format;
    p->report.template_ =
        settings->has_template ? settings->template_ : lt_template_default(p->format);
    const char *const *tokens = lt_template_special_tokens(p->report.template_);
    size_t count = 0, added = 0;
    while (tokens[count])
        count++;
    if (count) LT_TRY(lt_tokenizer_add_special_tokens(p->tokenizer, tokens, count, &added, err));
    p->report.added_special_tokens = (int64_t)added;
    int threads = settings->threads > 0 ? settings->threads : omp_get_max_threads();
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    while (p->threads < threads) {
        LT_TRY(lt_encoder_create(p->tokenizer, &p->encoders[p->threads], err));
        p->threads++;
    }
    /* a template that is broken is so for every record */
    const lt_chat_template *chat;
    if (p->report.template_ != LT_TEMPLATE_CHAT) return LT_OK;
    return lt_encoder_chat_template(p->encoders[0], &chat, err);
}

/* --- One batch --- */

static void free_job(job *j)
{
    lt_record_free(&j->record);
    lt_ids_free(&j->ids);
    lt_buffer_free(&j->mask);
    lt_buffer_free(&j->json);
    lt_fingerprint_free(&j->fingerprint);
    *j = (job){0};
}

static lt_status encode_job(const preparation *p, lt_encoder *encoder, job *j)
{
    LT_TRY(lt_template_encode(p->report.template_, encoder, p->tokenizer, &j->record, &j->ids,
                              &j->mask, &j->err));
    if (p->dedup) LT_TRY(lt_fingerprint_make(&j->record, &j->fingerprint, &j->err));
    return LT_OK;
}

static lt_status category_index(lt_collection *collection, const char *name, uint32_t *out,
                                lt_err *err)
{
    *out = LT_NO_CATEGORY;
    if (!name || !*name) return LT_OK;
    const json_t *known = json_object_get(collection->categories, name);
    size_t count = json_object_size(collection->categories);
    *out = known ? (uint32_t)json_integer_value(known) : (uint32_t)count;
    if (known) return LT_OK;
    if (json_object_set_new(collection->categories, name, json_integer((json_int_t)count)) != 0)
        return lt_fail_nomem(err, strlen(name), "a category");
    return LT_OK;
}

static lt_status collect(preparation *p, const job *j, lt_err *err)
{
    lt_collection *c = &p->collection;
    if (c->count == c->capacity) {
        size_t larger = c->capacity ? c->capacity * 2 : 1024;
        void *moved = realloc(c->documents, larger * sizeof *c->documents);
        if (!moved) return lt_fail_nomem(err, larger * sizeof *c->documents, "documents");
        c->documents = moved;
        c->capacity = larger;
    }
    lt_collected_document *d = &c->documents[c->count];
    *d = (lt_collected_document){
        .begin = c->tokens.count,
        .length = j->ids.count,
        .record_begin = c->records.size,
        .record_length = j->json.size,
        .side = j->side,
        .rank = lt_random_u64(p->settings->seed, lt_rng_stream(LT_RNG_SPLIT, 0, 0), c->count),
    };
    LT_TRY(category_index(c, j->record.category, &d->category, err));
    LT_TRY(lt_ids_append(&c->tokens, j->ids.data, j->ids.count, err));
    LT_TRY(lt_buffer_append(&c->mask, j->mask.data, j->mask.size, err));
    LT_TRY(lt_buffer_append(&c->records, j->json.data, j->json.size, err));
    c->count++;
    return LT_OK;
}

/* Keeps the record or counts why not. */
static lt_status take_up(preparation *p, job *j, lt_err *err)
{
    if (j->status != LT_OK) {
        if (err) *err = j->err;
        return j->status;
    }
    /* As the Dolly recipe has it: cut at max_length, then all that have that length are dropped. */
    if (p->format != LT_FORMAT_TEXT && (int64_t)j->ids.count >= p->max_length) {
        p->report.dropped_too_long++;
        return LT_OK;
    }
    if (p->dedup) {
        lt_novelty novelty;
        LT_TRY(lt_dedup_add(p->dedup, &j->fingerprint, &novelty, err));
        p->report.dropped_duplicates += novelty == LT_DUPLICATE;
        p->report.dropped_near_duplicates += novelty == LT_NEAR_DUPLICATE;
        if (novelty != LT_NEW) return LT_OK;
    }
    return collect(p, j, err);
}

static lt_status finish_batch(preparation *p, lt_err *err)
{
    if (p->threads == 0 && p->job_count > 0) LT_TRY(start_encoding(p, err));
#pragma omp parallel for schedule(dynamic, 8) num_threads(p->threads ? p->threads : 1)
    for (int i = 0; i < p->job_count; i++) {
        job *j = &p->jobs[i];
        j->status = encode_job(p, p->encoders[omp_get_thread_num()], j);
    }
    lt_status status = LT_OK;
    for (int i = 0; i < p->job_count; i++) {
        if (status == LT_OK) status = take_up(p, &p->jobs[i], err);
        free_job(&p->jobs[i]);
    }
    p->job_count = 0;
    p->job_bytes = 0;
    return status;
}

/* --- Reading --- */

static size_t text_size(const lt_record *record)
{
    const char *const texts[] = {record->instruction, record->context, record->response,
                                 record->text};
    size_t size = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        size += texts[i] ? strlen(texts[i]) : 0;
    for (size_t i = 0; i < record->message_count; i++)
        size += strlen(record->messages[i].content);
    return size;
}

/* Takes the record over, also on failure. */
static lt_status add_job(preparation *p, lt_record *record, const lt_columns *columns, lt_side side,
                         lt_err *err)
{
    job *j = &p->jobs[p->job_count++];
    p->job_bytes += text_size(record);
    j->record = *record;
    j->side = side;
    *record = (lt_record){0};
    bool may_be_held_out = p->settings->validation > 0 && side != LT_SIDE_TRAIN;
    if (may_be_held_out) LT_TRY(lt_record_to_json(&j->record, columns, &j->json, err));
    bool full = p->job_count == BATCH_RECORDS || p->job_bytes >= batch_bytes;
    return full ? finish_batch(p, err) : LT_OK;
}

static lt_status part_of_text(const lt_record *whole, const char *begin, size_t size,
                              lt_record *out, lt_err *err)
{
    json_t *json = json_pack("{s:s%}", "text", begin, size);
    if (!json) return lt_fail_nomem(err, size, "a part of a text file");
    lt_status status = lt_record_from_json(json, LT_FORMAT_TEXT, whole->where, out, err);
    json_decref(json);
    return status;
}

/* A plain-text file is one document, so a fraction of it is held out by cutting it in two, after a
 * line where there is one. */
static lt_status add_text_file(preparation *p, lt_record *record, lt_err *err)
{
    size_t size = strlen(record->text);
    size_t at = (size_t)((double)size * (1.0 - p->settings->validation));
    size_t cut = at;
    while (cut > 0 && record->text[cut - 1] != '\n')
        cut--;
    if (cut == 0) cut = at;
    while (cut > 0 && ((unsigned char)record->text[cut] & 0xC0) == 0x80)
        cut--; /* not inside a character */
    lt_record front = {0}, back = {0};
    lt_status status = part_of_text(record, record->text, cut, &front, err);
    if (status == LT_OK) status = part_of_text(record, record->text + cut, size - cut, &back, err);
    if (status == LT_OK) status = add_job(p, &front, NULL, LT_SIDE_TRAIN, err);
    if (status == LT_OK)
        status = add_job(p, &back, NULL, LT_SIDE_VALIDATION, err);
    else if (status == LT_ERR_FORMAT)
        lt_fail_context(err, "--validation %g cuts a text file in two", p->settings->validation);
    lt_record_free(&front);
    lt_record_free(&back);
    lt_record_free(record);
    return status;
}

static lt_status read_records(preparation *p, lt_record_reader *reader, lt_err *err)
{
    double validation = p->settings->validation;
    for (;;) {
        lt_record record;
        bool more;
        LT_TRY(lt_record_reader_next(reader, &record, &more, err));
        p->format = lt_record_reader_format(reader);
        if (!more) return LT_OK;
        p->report.read++;
        if (record.whole_file && validation > 0 && validation < 1)
            LT_TRY(add_text_file(p, &record, err));
        else
            LT_TRY(add_job(p, &record, lt_record_reader_columns(reader), LT_SIDE_ANY, err));
    }
}

static lt_status read_inputs(preparation *p, lt_err *err)
{
    const lt_string_list *inputs = &p->settings->inputs;
    for (size_t i = 0; i < inputs->count; i++) {
        lt_record_reader *reader = NULL;
        LT_TRY(
            lt_record_reader_open(inputs->items[i], p->format, p->settings->columns, &reader, err));
        lt_status status = read_records(p, reader, err);
        lt_record_reader_close(reader);
        if (status != LT_OK) return status;
    }
    LT_TRY(finish_batch(p, err));
    const lt_prepare_report *r = &p->report;
    if (r->read == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: there is no record in it", inputs->items[0]);
    if (p->collection.count > 0) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT,
                   "none of the %lld records is left: all have %lld tokens or more; give a larger "
                   "--max-length",
                   (long long)r->read, (long long)p->max_length);
}

/* --- All of it --- */

static lt_status write_dataset(preparation *p, lt_err *err)
{
    lt_dataset *dataset = calloc(1, sizeof *dataset);
    if (!dataset) return lt_fail_nomem(err, sizeof *dataset, "a dataset");
    lt_status status;
    dataset->report = p->report;
    dataset->max_length = p->max_length;
    dataset->seed = p->settings->seed;
    LT_TRY_GOTO(status, hash_inputs(&p->settings->inputs, dataset->source_hash, err), done);
    LT_TRY_GOTO(status, lt_collection_deal(&p->collection, p->settings->validation, dataset, err),
                done);
    lt_collection_free(&p->collection); /* before HDF5 wants memory too */
    dataset->tokenizer = p->tokenizer;
    p->tokenizer = NULL;
    status = lt_store_write(dataset, p->settings->output, err);
    p->report = dataset->report;
done:
    lt_dataset_close(dataset);
    return status;
}

static void free_encoders(preparation *p)
{
    while (p->threads > 0)
        lt_encoder_free(p->encoders[--p->threads]);
}

static lt_status run(preparation *p, lt_err *err)
{
    const lt_prepare_settings *settings = p->settings;
    LT_TRY(lt_tokenizer_load(settings->tokenizer, &p->tokenizer, err));
    p->max_length = settings->max_length;
    if (p->max_length == 0) LT_TRY(default_max_length(p->tokenizer, &p->max_length, err));
    p->jobs = calloc(BATCH_RECORDS, sizeof *p->jobs);
    p->collection.categories = json_object();
    if (!p->jobs || !p->collection.categories)
        return lt_fail_nomem(err, BATCH_RECORDS * sizeof *p->jobs, "a batch of records");
    if (settings->dedup) LT_TRY(lt_dedup_create(&p->dedup, err));
    LT_TRY(read_inputs(p, err));
    free_encoders(p); /* they borrow the tokenizer, which goes into the dataset */
    return write_dataset(p, err);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

lt_status lt_prepare(const lt_prepare_settings *settings, lt_prepare_report *report, lt_err *err)
{
    double start = seconds();
    LT_TRY(check_settings(settings, err));
    preparation p = {.settings = settings, .format = settings->format};
    lt_status status = run(&p, err);
    for (int i = 0; p.jobs && i < BATCH_RECORDS; i++)
        free_job(&p.jobs[i]);
    free(p.jobs);
    free_encoders(&p);
    lt_dedup_free(p.dedup);
    lt_collection_free(&p.collection);
    lt_tokenizer_free(p.tokenizer);
    p.report.seconds = seconds() - start;
    if (status == LT_OK && report) *report = p.report;
    return status;
}
