/* manifest.json: what it says, and whether the files are what it says. To hash them all of a
 * checkpoint is read: every process reads its share, and several files at a time. Rank 0 alone
 * lists them and has the manifest. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "train/checkpoint.h"
#include "train/comm/comm.h"

#define MANIFEST_FILE   "manifest.json"
#define MANIFEST_FORMAT "lathe-checkpoint"
enum { MANIFEST_VERSION = 1 };

/* What a checkpoint can not do without; the weights are a model's, in one file or several, or an
 * adapter's. */
static const char *const required_files[] = {LT_OPTIMIZER_FILE, LT_TRAINER_STATE_FILE,
                                             LT_TRAIN_CONFIG_FILE};
static const char *const weights_configs[] = {"config.json", "adapter_config.json"};
static const char first_of_several[] = "optimizer-00001-of-"; /* in place of LT_OPTIMIZER_FILE */
enum { REQUIRED_FILES = sizeof required_files / sizeof *required_files };

/* --- Readers -----------------------------------------------------------------------------------
 */

static int count_of(const lt_readers *readers)
{
    return readers && readers->comm ? lt_comm_size(readers->comm) : 1;
}

static int rank_of(const lt_readers *readers)
{
    return readers && readers->comm ? lt_comm_rank(readers->comm) : 0;
}

bool lt_readers_lead(const lt_readers *readers)
{
    return rank_of(readers) == 0;
}

lt_status lt_readers_agree(const lt_readers *readers, lt_status mine, lt_err *err)
{
    return count_of(readers) > 1 ? lt_comm_agree(readers->comm, mine, err) : mine;
}

lt_status lt_readers_share(const lt_readers *readers, lt_buffer *text, lt_err *err)
{
    char *shared = NULL;
    if (count_of(readers) == 1) return LT_OK;
    LT_TRY(lt_comm_share_text(readers->comm, lt_buffer_text(text), &shared, err));
    lt_buffer_clear(text);
    lt_status status = lt_buffer_append_text(text, shared, err);
    free(shared);
    return lt_comm_agree(readers->comm, status, err);
}

/* --- Files, and who reads which ----------------------------------------------------------------
 */

typedef struct listed_file {
    const char *name;
    int64_t size;
    const char *expected; /* hash; NULL: not known yet */
    int rank;             /* of the process that reads it */
    bool good;            /* it has been read, and is what is expected */
} listed_file;

typedef struct file_list {
    json_t *document; /* [{"name", "size", "xxh3_128"}]; names and hashes are borrowed from it */
    listed_file *files;
    size_t *largest_first; /* indices */
    char (*hashes)[LT_HASH_TEXT_SIZE];
    size_t count;
} file_list;

static void free_list(file_list *list)
{
    json_decref(list->document);
    free(list->files);
    free(list->largest_first);
    free(list->hashes);
}

static int by_size(const void *a, const void *b, void *files)
{
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    int64_t x = ((const listed_file *)files)[i].size, y = ((const listed_file *)files)[j].size;
    if (x != y) return x < y ? 1 : -1;
    return (i > j) - (i < j);
}

/* The largest first, each to whoever has the least to read so far. */
static lt_status deal(file_list *list, int readers, lt_err *err)
{
    uint64_t *loads = calloc((size_t)readers, sizeof *loads);
    if (!loads) return lt_fail_nomem(err, (size_t)readers * sizeof *loads, "dealing out files");
    for (size_t i = 0; i < list->count; i++)
        list->largest_first[i] = i;
    qsort_r(list->largest_first, list->count, sizeof *list->largest_first, by_size, list->files);
    for (size_t k = 0; k < list->count; k++) {
        listed_file *file = &list->files[list->largest_first[k]];
        for (int rank = 1; rank < readers; rank++)
            if (loads[rank] < loads[file->rank]) file->rank = rank;
        loads[file->rank] += (uint64_t)file->size;
    }
    free(loads);
    return LT_OK;
}

static lt_status take_entry(const json_t *entry, bool hashed, const char *directory,
                            listed_file *out, lt_err *err)
{
    const json_t *size = json_object_get(entry, "size");
    *out = (listed_file){.name = json_string_value(json_object_get(entry, "name")),
                         .size = json_integer_value(size),
                         .expected = json_string_value(json_object_get(entry, "xxh3_128"))};
    if (out->name && lt_is_plain_file_name(out->name) && json_is_integer(size) && out->size >= 0 &&
        (out->expected || !hashed))
        return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT, "%s/" MANIFEST_FILE ": an entry of \"files\" is damaged",
                   directory);
}

static lt_status make_list(json_t *document, bool hashed, const char *directory, int readers,
                           file_list *out, lt_err *err)
{
    size_t count = json_array_size(document);
    *out = (file_list){.document = json_incref(document), .count = count};
    out->files = calloc(count + 1, sizeof *out->files);
    out->largest_first = calloc(count + 1, sizeof *out->largest_first);
    out->hashes = calloc(count + 1, sizeof *out->hashes);
    if (!out->files || !out->largest_first || !out->hashes)
        return lt_fail_nomem(err, count * sizeof *out->files, "the files of a checkpoint");
    for (size_t i = 0; i < count; i++)
        LT_TRY(take_entry(json_array_get(document, i), hashed, directory, &out->files[i], err));
    return deal(out, readers, err);
}

/* Rank 0's list, or why it has none, for all. Takes over `document`, which the others have not.
 * `hashed`: with the hash of each file. */
static lt_status share_list(json_t *document, lt_status mine, bool hashed, const char *directory,
                            const lt_readers *readers, file_list *out, lt_err *err)
{
    lt_buffer text = {0};
    lt_status status = mine;
    if (status == LT_OK && document) status = lt_json_dump(document, 0, &text, err);
    LT_TRY_GOTO(status, lt_readers_agree(readers, status, err), done);
    LT_TRY_GOTO(status, lt_readers_share(readers, &text, err), done);
    if (!document) status = lt_json_parse(text.data, text.size, directory, &document, err);
    if (status == LT_OK)
        status = make_list(document, hashed, directory, count_of(readers), out, err);
    status = lt_readers_agree(readers, status, err);
done:
    json_decref(document);
    lt_buffer_free(&text);
    return status;
}

/* --- Reading -----------------------------------------------------------------------------------
 */

static lt_status file_size(const char *path, int64_t *out, lt_err *err)
{
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return lt_fail(err, LT_ERR_FORMAT, "%s is missing or not a file", path);
    *out = (int64_t)info.st_size;
    return LT_OK;
}

/* Fills `hash`, and compares what is known. */
static lt_status read_file(const char *directory, listed_file *file, char *hash, lt_err *err)
{
    lt_buffer path = {0};
    int64_t size = 0;
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, directory, file->name, err), done);
    LT_TRY_GOTO(status, file_size(path.data, &size, err), done);
    if (size != file->size) {
        status =
            lt_fail(err, LT_ERR_FORMAT, "%s has %" PRId64 " bytes; %s %" PRId64, path.data, size,
                    file->expected ? "the manifest says" : "rank 0 has found", file->size);
        goto done;
    }
    LT_TRY_GOTO(status, lt_hash_file(path.data, 0, hash, err), done);
    if (file->expected && strcmp(hash, file->expected) != 0)
        status =
            lt_fail(err, LT_ERR_FORMAT, "%s is damaged: its hash is not the manifest's", path.data);
    file->good = status == LT_OK;
done:
    lt_buffer_free(&path);
    return status;
}

/* This process's share. Of several failures the message is that of the first file. */
static lt_status read_share(file_list *list, const char *directory, const lt_readers *readers,
                            lt_err *err)
{
    int rank = rank_of(readers), threads = readers ? readers->threads : 1;
    size_t first = list->count;
    lt_status status = LT_OK;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t k = 0; k < list->count; k++) {
        size_t i = list->largest_first[k];
        lt_err own = {0};
        if (list->files[i].rank != rank) continue;
        lt_status result = read_file(directory, &list->files[i], list->hashes[i], &own);
        if (result == LT_OK) continue;
#pragma omp critical
        if (i < first) {
            first = i;
            status = result;
            if (err) *err = own;
        }
    }
    return status;
}

/* Every hash from the process that has read the file. */
static lt_status gather_hashes(file_list *list, const lt_readers *readers, lt_err *err)
{
    int processes = count_of(readers);
    size_t bytes = list->count * sizeof *list->hashes;
    if (processes == 1) return LT_OK;
    char(*all)[LT_HASH_TEXT_SIZE] = calloc((size_t)processes, bytes + 1);
    lt_status status = all ? LT_OK : lt_fail_nomem(err, (size_t)processes * bytes, "hashes");
    LT_TRY_GOTO(status, lt_comm_agree(readers->comm, status, err), done);
    LT_TRY_GOTO(status, lt_comm_gather_bytes(readers->comm, list->hashes, bytes, all, err), done);
    for (size_t i = 0; i < list->count; i++)
        memcpy(list->hashes[i], all[(size_t)list->files[i].rank * list->count + i],
               sizeof *list->hashes);
done:
    free(all);
    return status;
}

/* --- Writing -----------------------------------------------------------------------------------
 */

static lt_status describe_file(const char *directory, const char *name, json_t *files, lt_err *err)
{
    lt_buffer path = {0};
    int64_t size = 0;
    lt_status status = lt_path_join(&path, directory, name, err);
    if (status == LT_OK) status = file_size(path.data, &size, err);
    lt_buffer_free(&path);
    if (status != LT_OK) return status;
    json_t *entry = json_pack("{s:s, s:I}", "name", name, "size", (json_int_t)size);
    return json_array_append_new(files, entry) == 0 ? LT_OK : lt_fail_nomem(err, 256, "a manifest");
}

/* Names and sizes of what is there. *out: caller owns. */
static lt_status describe_files(const char *directory, json_t **out, lt_err *err)
{
    lt_name_list names = {0};
    lt_status status = LT_OK;
    *out = json_array();
    if (!*out) return lt_fail_nomem(err, 256, "a manifest");
    LT_TRY_GOTO(status, lt_list_directory(directory, &names, err), done);
    for (size_t i = 0; i < names.count; i++)
        LT_TRY_GOTO(status, describe_file(directory, names.names[i], *out, err), done);
done:
    lt_name_list_free(&names);
    return status;
}

static lt_status write_manifest(const char *directory, const lt_manifest *manifest,
                                const file_list *list, lt_err *err)
{
    lt_buffer path = {0};
    bool complete = true;
    for (size_t i = 0; i < list->count; i++)
        complete = complete && json_object_set_new(json_array_get(list->document, i), "xxh3_128",
                                                   json_string(list->hashes[i])) == 0;
    json_t *object =
        json_pack("{s:s, s:i, s:I, s:s, s:s, s:I, s:I, s:O}", "format", MANIFEST_FORMAT, "version",
                  MANIFEST_VERSION, "step", (json_int_t)manifest->step, "lathe_version",
                  manifest->lathe_version, "backend", manifest->backend, "threads",
                  (json_int_t)manifest->threads, "world_size", (json_int_t)manifest->world_size,
                  "files", list->document);
    lt_status status = object && complete ? lt_path_join(&path, directory, MANIFEST_FILE, err)
                                          : lt_fail_nomem(err, 256 * list->count, "a manifest");
    if (status == LT_OK) status = lt_json_write_file(path.data, object, err);
    lt_buffer_free(&path);
    json_decref(object);
    return status;
}

lt_status lt_manifest_write(const char *directory, const lt_manifest *manifest,
                            const lt_readers *readers, lt_err *err)
{
    file_list list = {0};
    json_t *files = NULL;
    bool leads = lt_readers_lead(readers);
    lt_status status = leads ? describe_files(directory, &files, err) : LT_OK;
    LT_TRY_GOTO(status, share_list(files, status, false, directory, readers, &list, err), done);
    status = read_share(&list, directory, readers, err);
    LT_TRY_GOTO(status, lt_readers_agree(readers, status, err), done);
    LT_TRY_GOTO(status, gather_hashes(&list, readers, err), done);
    if (leads) status = write_manifest(directory, manifest, &list, err);
    status = lt_readers_agree(readers, status, err);
done:
    free_list(&list);
    return status;
}

/* --- Verifying --------------------------------------------------------------------------------
 */

static lt_status load_manifest(const char *path, json_t **out, lt_manifest *manifest, lt_err *err)
{
    lt_buffer file = {0};
    const char *format = "", *backend = "", *version_text = "";
    int64_t version = 0;
    lt_status status;
    *manifest = (lt_manifest){.step = -1};
    LT_TRY_GOTO(status, lt_path_join(&file, path, MANIFEST_FILE, err), done);
    LT_TRY_GOTO(status, lt_json_load(file.data, out, err), done);
    LT_TRY_GOTO(status, lt_json_get_string(*out, "format", file.data, &format, err), done);
    LT_TRY_GOTO(status, lt_json_get_int(*out, "version", 0, INT32_MAX, file.data, &version, err),
                done);
    if (strcmp(format, MANIFEST_FORMAT) != 0) {
        status =
            lt_fail(err, LT_ERR_FORMAT, "%s is not the manifest of a Lathe checkpoint", file.data);
        goto done;
    }
    if (version != MANIFEST_VERSION) {
        status = lt_fail(err, LT_ERR_UNSUPPORTED,
                         "%s has version %" PRId64 "; this is Lathe %s, "
                         "which reads version %d",
                         file.data, version, LATHE_VERSION, MANIFEST_VERSION);
        goto done;
    }
    LT_TRY_GOTO(status,
                lt_json_get_int(*out, "step", 0, INT64_MAX, file.data, &manifest->step, err), done);
    LT_TRY_GOTO(status,
                lt_json_get_int(*out, "threads", 0, INT32_MAX, file.data, &manifest->threads, err),
                done);
    LT_TRY_GOTO(
        status,
        lt_json_get_int(*out, "world_size", 1, INT32_MAX, file.data, &manifest->world_size, err),
        done);
    LT_TRY_GOTO(status, lt_json_get_string(*out, "backend", file.data, &backend, err), done);
    LT_TRY_GOTO(status, lt_json_get_string(*out, "lathe_version", file.data, &version_text, err),
                done);
    snprintf(manifest->backend, sizeof manifest->backend, "%s", backend);
    snprintf(manifest->lathe_version, sizeof manifest->lathe_version, "%s", version_text);
done:
    lt_buffer_free(&file);
    return status;
}

static bool manifest_names(const json_t *files, const char *name)
{
    size_t i;
    json_t *entry;
    json_array_foreach(files, i, entry)
    {
        const char *has = json_string_value(json_object_get(entry, "name"));
        if (!has) continue;
        if (strcmp(has, name) == 0) return true;
        if (strcmp(name, LT_OPTIMIZER_FILE) == 0 &&
            strncmp(has, first_of_several, sizeof first_of_several - 1) == 0)
            return true;
    }
    return false;
}

static lt_status check_required(const char *path, const json_t *files, lt_err *err)
{
    for (int i = 0; i < REQUIRED_FILES; i++)
        if (!manifest_names(files, required_files[i]))
            return lt_fail(err, LT_ERR_FORMAT, "%s/" MANIFEST_FILE " does not name %s", path,
                           required_files[i]);
    if (manifest_names(files, weights_configs[0]) || manifest_names(files, weights_configs[1]))
        return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT, "%s/" MANIFEST_FILE " names neither %s nor %s", path,
                   weights_configs[0], weights_configs[1]);
}

static lt_status load_files(const char *path, json_t **files, lt_manifest *manifest, lt_err *err)
{
    json_t *object = NULL;
    lt_status status = load_manifest(path, &object, manifest, err);
    if (status == LT_OK) status = check_required(path, json_object_get(object, "files"), err);
    if (status == LT_OK) *files = json_incref(json_object_get(object, "files"));
    json_decref(object);
    return status;
}

/* Fills `list` as far as it comes. */
static lt_status verify(const char *path, const lt_readers *readers, lt_manifest *out,
                        file_list *list, lt_err *err)
{
    json_t *files = NULL;
    lt_status status = lt_readers_lead(readers) ? load_files(path, &files, out, err) : LT_OK;
    LT_TRY(share_list(files, status, true, path, readers, list, err));
    status = read_share(list, path, readers, err);
    return lt_readers_agree(readers, status, err);
}

lt_status lt_checkpoint_verify(const char *path, const lt_readers *readers, lt_manifest *out,
                               lt_err *err)
{
    file_list list = {0};
    lt_status status = verify(path, readers, out, &list, err);
    free_list(&list);
    return status;
}

lt_status lt_checkpoint_report(const char *path, const lt_readers *readers, lt_manifest *manifest,
                               FILE *out, lt_err *err)
{
    file_list list = {0};
    lt_status status = verify(path, readers, manifest, &list, err);
    for (size_t i = 0; i < list.count; i++)
        fprintf(out, "  %-28s %14" PRId64 "  %s\n", list.files[i].name, list.files[i].size,
                list.files[i].good ? "ok" : "DAMAGED");
    fprintf(out, "manifest     %s\n",
            status == LT_OK ? "every file is as it was written"
                            : "DAMAGED: this checkpoint is not used");
    free_list(&list);
    return status;
}

lt_status lt_manifest_read(const char *directory, lt_manifest *out, lt_err *err)
{
    json_t *object = NULL;
    lt_status status = load_manifest(directory, &object, out, err);
    json_decref(object);
    return status;
}

bool lt_is_checkpoint(const char *path)
{
    json_t *object = NULL;
    lt_buffer file = {0};
    bool ours = false;
    if (lt_path_join(&file, path, MANIFEST_FILE, NULL) == LT_OK && lt_path_exists(file.data) &&
        lt_json_load(file.data, &object, NULL) == LT_OK) {
        const char *format = json_string_value(json_object_get(object, "format"));
        ours = format && strcmp(format, MANIFEST_FORMAT) == 0;
    }
    json_decref(object);
    lt_buffer_free(&file);
    return ours;
}
