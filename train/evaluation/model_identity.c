#include "train/evaluation/model_identity.h"

#include <string.h>

static bool ends_with(const char *name, const char *ending)
{
    size_t size = strlen(name), tail = strlen(ending);
    return size >= tail && strcmp(name + size - tail, ending) == 0;
}

/* Optimizer states are large, and logs change without the model. */
static bool decides(const char *name)
{
    static const char *const endings[] = {".safetensors", ".json", ".jinja", ".model",
                                          "merges.txt"};
    static const char *const others[] = {"optimizer.safetensors", "prompt_encoder.safetensors",
                                         "trainer_state.json", "manifest.json"};
    if (lt_is_temporary_name(name) || strncmp(name, "optimizer-", 10) == 0) return false;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i]) == 0) return false;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(name, endings[i])) return true;
    return false;
}

static lt_status append_file(const char *directory, const char *name, lt_buffer *all, lt_err *err)
{
    char hash[LT_HASH_TEXT_SIZE];
    lt_buffer path = {0};
    lt_status status = lt_path_join(&path, directory, name, err);
    if (status == LT_OK) status = lt_hash_file(path.data, 0, hash, err);
    if (status == LT_OK) status = lt_buffer_printf(all, err, "%s %s\n", name, hash);
    lt_buffer_free(&path);
    return status;
}

lt_status lt_model_identity(const char *path, char out[LT_HASH_TEXT_SIZE], lt_err *err)
{
    lt_name_list names = {0};
    lt_buffer all = {0};
    lt_status status;
    if (!lt_is_directory(path)) return lt_hash_file(path, 0, out, err);
    LT_TRY_GOTO(status, lt_list_directory(path, &names, err), done);
    for (size_t i = 0; i < names.count; i++)
        if (decides(names.names[i]))
            LT_TRY_GOTO(status, append_file(path, names.names[i], &all, err), done);
    lt_hash_bytes(lt_buffer_text(&all), all.size, out);
done:
    lt_buffer_free(&all);
    lt_name_list_free(&names);
    return status;
}
