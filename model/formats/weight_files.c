#include "model/formats/weight_files.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { MAX_SHARDS = 10000 };

static lt_status add_file(const char *path, lt_weight_files *out, lt_err *err)
{
    lt_safetensors *file = &out->files[out->count];
    LT_TRY(lt_safetensors_open(path, file, err));
    bool *used = calloc(file->count + 1, sizeof *used);
    if (!used) {
        lt_safetensors_close(file);
        return lt_fail_nomem(err, file->count, "the list of tensors");
    }
    out->used[out->count++] = used;
    return LT_OK;
}

static lt_status make_room(size_t files, lt_weight_files *out, lt_err *err)
{
    out->files = calloc(files, sizeof *out->files);
    out->used = calloc(files, sizeof *out->used);
    if (out->files && out->used) return LT_OK;
    return lt_fail_nomem(err, files * sizeof *out->files, "the list of weight files");
}

/* --- A sharded model ---------------------------------------------------------------------------
 */

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of the index, sorted. *names: borrowed strings, caller frees the list. */
static lt_status shard_names(const json_t *map, const char *where, const char ***names,
                             size_t *count, lt_err *err)
{
    *count = 0;
    size_t capacity = json_object_size(map);
    *names = calloc(capacity + 1, sizeof **names);
    if (!*names) return lt_fail_nomem(err, capacity * sizeof **names, "the list of weight files");
    const char *tensor;
    json_t *value;
    size_t found = 0;
    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *name = json_string_value(value);
        /* an index is untrusted: it must not lead out of its directory */
        if (!name || !lt_is_plain_file_name(name))
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: tensor \"%.200s\" is not mapped to a plain file name", where,
                           tensor);
        (*names)[found++] = name;
    }
    qsort(*names, found, sizeof **names, compare_text);
    for (size_t i = 0; i < found; i++)
        if (*count == 0 || strcmp((*names)[*count - 1], (*names)[i]) != 0)
            (*names)[(*count)++] = (*names)[i];
    if (*count == 0) return lt_fail(err, LT_ERR_FORMAT, "%s: weight_map is empty", where);
    if (*count > MAX_SHARDS)
        return lt_fail(err, LT_ERR_LIMIT, "%s: %zu files; at most %d are supported", where, *count,
                       MAX_SHARDS);
    return LT_OK;
}

/* Every tensor of the index is in the file it says. */
static lt_status check_index(const json_t *map, const char *const *names,
                             const lt_weight_files *files, const char *where, lt_err *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *name = json_string_value(value);
        const char *const *place = bsearch(&name, names, files->count, sizeof *names, compare_text);
        if (!lt_safetensors_find(&files->files[place - names], tensor))
            return lt_fail(err, LT_ERR_FORMAT, "%s: tensor \"%.200s\" is not in %s, where %s says",
                           files->files[place - names].path, tensor, name, where);
    }
    return LT_OK;
}

/* No tensor lies in two files. */
static lt_status check_distinct(const lt_weight_files *files, lt_err *err)
{
    for (size_t i = 0; i < files->count; i++) {
        for (size_t j = i + 1; j < files->count; j++) {
            for (size_t k = 0; k < files->files[j].count; k++) {
                const char *name = files->files[j].entries[k].name;
                if (lt_safetensors_find(&files->files[i], name))
                    return lt_fail(err, LT_ERR_FORMAT, "%s: tensor \"%.200s\" is also in %s",
                                   files->files[j].path, name, files->files[i].path);
            }
        }
    }
    return LT_OK;
}

static lt_status open_shards(const char *directory, const char *index_path, lt_weight_files *out,
                             lt_err *err)
{
    lt_status status;
    json_t *index = NULL;
    const char **names = NULL;
    size_t count = 0;
    lt_buffer path = {0};
    LT_TRY_GOTO(status, lt_json_load(index_path, &index, err), done);
    const json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map)) {
        status = lt_fail(err, LT_ERR_FORMAT, "%s: there is no object \"weight_map\"", index_path);
        goto done;
    }
    LT_TRY_GOTO(status, shard_names(map, index_path, &names, &count, err), done);
    LT_TRY_GOTO(status, make_room(count, out, err), done);
    for (size_t i = 0; i < count; i++) {
        LT_TRY_GOTO(status, lt_path_join(&path, directory, names[i], err), done);
        LT_TRY_GOTO(status, add_file(path.data, out, err), done);
    }
    LT_TRY_GOTO(status, check_index(map, names, out, index_path, err), done);
    status = check_distinct(out, err);

done:
    free(names);
    json_decref(index);
    lt_buffer_free(&path);
    return status;
}

/* --- Finding the weights -----------------------------------------------------------------------
 */

static lt_status no_weights(const char *directory, lt_err *err)
{
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
    lt_buffer path = {0};
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++) {
        if (lt_path_join(&path, directory, pickles[i], err) != LT_OK || !lt_path_exists(path.data))
            continue;
        lt_fail(err, LT_ERR_UNSUPPORTED,
                "%s: weights in pickle format are not read, since opening them can run code; "
                "convert them once: python -c \"from transformers import AutoModelForCausalLM as "
                "M; M.from_pretrained('%.200s').save_pretrained('%.200s')\"",
                path.data, directory, directory);
        lt_buffer_free(&path);
        return LT_ERR_UNSUPPORTED;
    }
    lt_buffer_free(&path);
    return lt_fail(err, LT_ERR_IO,
                   "%s: there is neither model.safetensors nor model.safetensors.index.json",
                   directory);
}

lt_status lt_weight_files_open(const char *directory, lt_weight_files *out, lt_err *err)
{
    memset(out, 0, sizeof *out);
    lt_status status;
    lt_buffer path = {0};
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "model.safetensors", err), done);
    if (lt_path_exists(path.data)) {
        LT_TRY_GOTO(status, make_room(1, out, err), done);
        status = add_file(path.data, out, err);
        goto done;
    }
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "model.safetensors.index.json", err), done);
    status = lt_path_exists(path.data) ? open_shards(directory, path.data, out, err)
                                       : no_weights(directory, err);

done:
    if (status != LT_OK) lt_weight_files_close(out);
    lt_buffer_free(&path);
    return status;
}

void lt_weight_files_close(lt_weight_files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        lt_safetensors_close(&files->files[i]);
        free(files->used[i]);
    }
    free(files->files);
    free(files->used);
    memset(files, 0, sizeof *files);
}

bool lt_weight_files_take(lt_weight_files *files, const char *name, const lt_safetensors **file,
                          const lt_safetensors_entry **entry)
{
    for (size_t i = 0; i < files->count; i++) {
        const lt_safetensors_entry *found = lt_safetensors_find(&files->files[i], name);
        if (!found) continue;
        files->used[i][found - files->files[i].entries] = true;
        *file = &files->files[i];
        *entry = found;
        return true;
    }
    return false;
}
