#include "train/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "train/state.h"
#include "train/train.h"

#define MANIFEST_FILE   "manifest.json"
#define MANIFEST_FORMAT "lathe-checkpoint"
enum { MANIFEST_VERSION = 1 };

/* What a checkpoint can not do without; the weights are a model's, in one file or several, or an
 * adapter's. */
static const char *const required_files[] = {LT_OPTIMIZER_FILE, LT_TRAINER_STATE_FILE,
                                             LT_TRAIN_CONFIG_FILE};
static const char *const weights_configs[] = {"config.json", "adapter_config.json"};
enum { REQUIRED_FILES = sizeof required_files / sizeof *required_files };

/* --- Manifest: writing -------------------------------------------------------------------------
 */

static lt_status file_size(const char *path, int64_t *out, lt_err *err)
{
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return lt_fail(err, LT_ERR_FORMAT, "%s is missing or not a file", path);
    *out = (int64_t)info.st_size;
    return LT_OK;
}

static lt_status describe_file(const char *directory, const char *name, json_t *files, lt_err *err)
{
    lt_buffer path = {0};
    char hash[LT_HASH_TEXT_SIZE];
    int64_t size = 0;
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, directory, name, err), done);
    LT_TRY_GOTO(status, file_size(path.data, &size, err), done);
    LT_TRY_GOTO(status, lt_hash_file(path.data, 0, hash, err), done);
    json_t *entry =
        json_pack("{s:s, s:I, s:s}", "name", name, "size", (json_int_t)size, "xxh3_128", hash);
    if (!entry || json_array_append_new(files, entry) != 0)
        status = lt_fail_nomem(err, 256, "a manifest");
done:
    lt_buffer_free(&path);
    return status;
}

lt_status lt_manifest_write(const char *directory, const lt_manifest *manifest, lt_err *err)
{
    lt_name_list names = {0};
    lt_buffer path = {0};
    json_t *object = NULL, *files = json_array();
    lt_status status;
    LT_TRY_GOTO(status, lt_list_directory(directory, &names, err), done);
    for (size_t i = 0; i < names.count; i++)
        LT_TRY_GOTO(status, describe_file(directory, names.names[i], files, err), done);
    object = json_pack("{s:s, s:i, s:I, s:s, s:s, s:I, s:I, s:O}", "format", MANIFEST_FORMAT,
                       "version", MANIFEST_VERSION, "step", (json_int_t)manifest->step,
                       "lathe_version", manifest->lathe_version, "backend", manifest->backend,
                       "threads", (json_int_t)manifest->threads, "world_size",
                       (json_int_t)manifest->world_size, "files", files);
    if (!object) {
        status = lt_fail_nomem(err, 256 * names.count, "a manifest");
        goto done;
    }
    LT_TRY_GOTO(status, lt_path_join(&path, directory, MANIFEST_FILE, err), done);
    status = lt_json_write_file(path.data, object, err);
done:
    lt_buffer_free(&path);
    json_decref(object);
    json_decref(files);
    lt_name_list_free(&names);
    return status;
}

/* --- Manifest: reading -------------------------------------------------------------------------
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

static lt_status verify_file(const char *directory, const json_t *entry, lt_err *err)
{
    const char *name = json_string_value(json_object_get(entry, "name"));
    const char *expected = json_string_value(json_object_get(entry, "xxh3_128"));
    const json_t *size = json_object_get(entry, "size");
    if (!name || !lt_is_plain_file_name(name) || !expected || !json_is_integer(size))
        return lt_fail(err, LT_ERR_FORMAT, "%s/" MANIFEST_FILE ": an entry of \"files\" is damaged",
                       directory);
    lt_buffer path = {0};
    char hash[LT_HASH_TEXT_SIZE];
    int64_t actual = 0;
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, directory, name, err), done);
    LT_TRY_GOTO(status, file_size(path.data, &actual, err), done);
    if (actual != (int64_t)json_integer_value(size)) {
        status = lt_fail(err, LT_ERR_FORMAT,
                         "%s has %" PRId64 " bytes; the manifest says %" JSON_INTEGER_FORMAT,
                         path.data, actual, json_integer_value(size));
        goto done;
    }
    LT_TRY_GOTO(status, lt_hash_file(path.data, 0, hash, err), done);
    if (strcmp(hash, expected) != 0)
        status =
            lt_fail(err, LT_ERR_FORMAT, "%s is damaged: its hash is not the manifest's", path.data);
done:
    lt_buffer_free(&path);
    return status;
}

static bool manifest_names(const json_t *files, const char *name)
{
    size_t i;
    json_t *entry;
    json_array_foreach(files, i, entry)
    {
        const char *has = json_string_value(json_object_get(entry, "name"));
        if (has && strcmp(has, name) == 0) return true;
    }
    return false;
}

lt_status lt_checkpoint_verify(const char *path, lt_manifest *out, lt_err *err)
{
    json_t *object = NULL;
    lt_status status;
    LT_TRY_GOTO(status, load_manifest(path, &object, out, err), done);
    const json_t *files = json_object_get(object, "files");
    for (int i = 0; i < REQUIRED_FILES; i++) {
        if (manifest_names(files, required_files[i])) continue;
        status = lt_fail(err, LT_ERR_FORMAT, "%s/" MANIFEST_FILE " does not name %s", path,
                         required_files[i]);
        goto done;
    }
    if (!manifest_names(files, weights_configs[0]) && !manifest_names(files, weights_configs[1])) {
        status = lt_fail(err, LT_ERR_FORMAT, "%s/" MANIFEST_FILE " names neither %s nor %s", path,
                         weights_configs[0], weights_configs[1]);
        goto done;
    }
    size_t i;
    json_t *entry;
    json_array_foreach(files, i, entry) LT_TRY_GOTO(status, verify_file(path, entry, err), done);
done:
    json_decref(object);
    return status;
}

/* --- Finding and pruning -----------------------------------------------------------------------
 */

/* The step of a name "checkpoint-STEP", or -1. */
static int64_t step_of_name(const char *name)
{
    static const char prefix[] = "checkpoint-";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return -1;
    const char *digits = name + sizeof prefix - 1;
    size_t length = strspn(digits, "0123456789");
    bool plain = length > 0 && length < 19 && !digits[length] && (digits[0] != '0' || length == 1);
    return plain ? strtoll(digits, NULL, 10) : -1;
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

lt_status lt_checkpoint_steps(const char *output, int64_t **steps, size_t *count, lt_err *err)
{
    lt_name_list names = {0};
    *steps = NULL;
    *count = 0;
    LT_TRY(lt_list_directory(output, &names, err));
    *steps = calloc(names.count + 1, sizeof **steps);
    for (size_t i = 0; i < names.count && *steps; i++) {
        int64_t step = step_of_name(names.names[i]);
        if (step >= 0) (*steps)[(*count)++] = step;
    }
    lt_name_list_free(&names);
    if (!*steps) return lt_fail_nomem(err, names.count * sizeof **steps, "a list of checkpoints");
    qsort(*steps, *count, sizeof **steps, descending);
    return LT_OK;
}

lt_status lt_checkpoint_path(const char *output, int64_t step, lt_buffer *path, lt_err *err)
{
    char name[40];
    snprintf(name, sizeof name, "checkpoint-%" PRId64, step);
    return lt_path_join(path, output, name, err);
}

lt_status lt_checkpoint_latest(const char *output, lt_buffer *path, lt_buffer *problems,
                               lt_err *err)
{
    int64_t *steps;
    size_t count;
    lt_manifest manifest;
    lt_status status = lt_checkpoint_steps(output, &steps, &count, err);
    for (size_t i = 0; i < count && status == LT_OK; i++) {
        lt_err why = {0};
        LT_TRY_GOTO(status, lt_checkpoint_path(output, steps[i], path, err), done);
        if (lt_checkpoint_verify(path->data, &manifest, &why) == LT_OK) goto done;
        LT_TRY_GOTO(status, lt_buffer_printf(problems, err, "%s\n", why.message), done);
        lt_buffer_clear(path);
    }
done:
    free(steps);
    return status;
}

/* Under a temporary name first, so that a process killed half-way leaves no damaged checkpoint but
 * something that the next run clears away. */
static lt_status remove_checkpoint(const char *path, lt_err *err)
{
    lt_buffer temporary = {0};
    lt_status status = lt_buffer_printf(&temporary, err, "%s.tmp-%ld-0", path, (long)getpid());
    if (status == LT_OK)
        status = rename(path, temporary.data) == 0
                     ? lt_remove_tree(temporary.data, err)
                     : lt_fail(err, LT_ERR_IO, "%s can not be removed: %s", path, strerror(errno));
    lt_buffer_free(&temporary);
    return status;
}

lt_status lt_checkpoint_prune(const char *output, int64_t newest, int64_t best, int64_t limit,
                              lt_err *err)
{
    int64_t *steps, kept = 0;
    size_t count;
    lt_buffer path = {0};
    lt_status status = lt_checkpoint_steps(output, &steps, &count, err);
    for (size_t i = 0; i < count && status == LT_OK && limit > 0; i++) {
        /* those beyond `newest` are of a run that was taken back to an earlier step: it will come
         * by them again */
        if (steps[i] > newest || ++kept <= limit || steps[i] == best) continue;
        LT_TRY_GOTO(status, lt_checkpoint_path(output, steps[i], &path, err), done);
        if (lt_is_checkpoint(path.data)) status = remove_checkpoint(path.data, err);
    }
done:
    lt_buffer_free(&path);
    free(steps);
    return status;
}

/* --- lathe inspect -----------------------------------------------------------------------------
 */

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

static void print_files(const char *path, FILE *out)
{
    json_t *object = NULL, *entry;
    lt_manifest manifest;
    size_t i;
    if (load_manifest(path, &object, &manifest, NULL) == LT_OK) {
        json_array_foreach(json_object_get(object, "files"), i, entry)
        {
            lt_err why = {0};
            bool good = verify_file(path, entry, &why) == LT_OK;
            const char *name = json_string_value(json_object_get(entry, "name"));
            fprintf(out, "  %-28s %14" JSON_INTEGER_FORMAT "  %s\n", name ? name : "?",
                    json_integer_value(json_object_get(entry, "size")), good ? "ok" : "DAMAGED");
        }
    }
    json_decref(object);
}

static void print_state(const char *path, const lt_train_state *s, const lt_manifest *m, FILE *out)
{
    fprintf(out, "checkpoint   %s\n", path);
    fprintf(out, "step         %" PRId64 " of %" PRId64 "\n", s->step, s->total_steps);
    fprintf(out, "train loss   %.4f\n", s->train_loss);
    fprintf(out, "eval loss    %.4f (best %.4f at step %" PRId64 ")\n", s->eval_loss, s->best_loss,
            s->best_step);
    fprintf(out, "tokens       %" PRId64 " read, %" PRId64 " trained on\n", s->input_tokens,
            s->trained_tokens);
    fprintf(out, "skipped      %" PRId64 " steps whose loss or gradient was not finite\n",
            s->skipped_steps);
    fprintf(out, "written by   lathe %s, %s, %" PRId64 " threads, %" PRId64 " process(es)\n",
            m->lathe_version, m->backend, m->threads, m->world_size);
}

lt_status lt_inspect_checkpoint(const char *path, FILE *out, lt_err *err)
{
    lt_buffer file = {0};
    json_t *document = NULL, *object = NULL;
    lt_train_state state;
    lt_manifest manifest;
    lt_status status;
    LT_TRY_GOTO(status, load_manifest(path, &object, &manifest, err), done);
    LT_TRY_GOTO(status, lt_path_join(&file, path, LT_TRAINER_STATE_FILE, err), done);
    LT_TRY_GOTO(status, lt_json_load(file.data, &document, err), done);
    LT_TRY_GOTO(
        status,
        lt_train_state_from_json(json_object_get(document, "lathe"), file.data, &state, err), done);
    print_state(path, &state, &manifest, out);
    print_files(path, out);
    status = lt_checkpoint_verify(path, &manifest, err);
    fprintf(out, "manifest     %s\n",
            status == LT_OK ? "every file is as it was written"
                            : "DAMAGED: this checkpoint is not used");
done:
    json_decref(document);
    json_decref(object);
    lt_buffer_free(&file);
    return status;
}
