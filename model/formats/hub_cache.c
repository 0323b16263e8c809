/* The local Hugging Face cache: HUB/models--org--name/snapshots/REVISION, where refs/main holds the
 * revision. Nothing is downloaded. */
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"
#include "model/formats/gguf.h"
#include "model/model.h"

/* HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or
 * ~/.cache/huggingface/hub, as huggingface_hub looks. */
static lt_status cache_directory(lt_buffer *out, lt_err *err)
{
    static const struct {
        const char *variable, *below;
    } places[] = {
        {"HF_HUB_CACHE", ""},
        {"HUGGINGFACE_HUB_CACHE", ""},
        {"HF_HOME", "/hub"},
        {"XDG_CACHE_HOME", "/huggingface/hub"},
        {"HOME", "/.cache/huggingface/hub"},
    };
    lt_buffer_clear(out);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *value = getenv(places[i].variable);
        if (value && *value) return lt_buffer_printf(out, err, "%s%s", value, places[i].below);
    }
    return lt_buffer_append_text(out, ".cache/huggingface/hub", err);
}

/* "org/name" or "name": letters, digits, '-', '_' and '.', no ".." and nothing hidden. */
static bool is_repository_name(const char *name)
{
    size_t slashes = 0;
    bool start = true;
    for (const char *c = name; *c; c++) {
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                     (*c >= '0' && *c <= '9') || strchr("-_.", *c);
        if (*c == '/')
            slashes++;
        else if (!plain)
            return false;
        if (start && (*c == '.' || *c == '/')) return false;
        start = *c == '/';
    }
    return *name && !start && slashes <= 1 && !strstr(name, "..");
}

/* CACHE/models--org--name */
static lt_status repository_directory(const char *cache, const char *name, lt_buffer *out,
                                      lt_err *err)
{
    lt_buffer_clear(out);
    LT_TRY(lt_buffer_printf(out, err, "%s/models--", cache));
    const char *slash = strchr(name, '/');
    if (!slash) return lt_buffer_append_text(out, name, err);
    return lt_buffer_printf(out, err, "%.*s--%s", (int)(slash - name), name, slash + 1);
}

/* The snapshot that refs/main names. */
static lt_status find_snapshot(const char *repository, lt_buffer *out, lt_err *err)
{
    enum { MAX_REVISION = 256 };
    lt_status status;
    lt_buffer path = {0}, revision = {0};
    LT_TRY_GOTO(status, lt_path_join(&path, repository, "refs/main", err), done);
    LT_TRY_GOTO(status, lt_read_file(path.data, MAX_REVISION, &revision, err), done);
    char *text = revision.data ? revision.data : "";
    size_t length = strcspn(text, " \r\n\t");
    if (revision.data) revision.data[length] = '\0';
    if (!lt_is_plain_file_name(text)) {
        status = lt_fail(err, LT_ERR_FORMAT, "%s: does not hold a revision", path.data);
        goto done;
    }
    lt_buffer_clear(out);
    LT_TRY_GOTO(status, lt_buffer_printf(out, err, "%s/snapshots/%s", repository, text), done);
    if (!lt_is_directory(out->data))
        status = lt_fail(err, LT_ERR_IO, "%s: there is no such snapshot (%s names it)", out->data,
                         path.data);

done:
    lt_buffer_free(&path);
    lt_buffer_free(&revision);
    return status;
}

lt_status lt_model_resolve(const char *name, lt_buffer *directory, lt_err *err)
{
    lt_buffer_clear(directory);
    if (lt_is_directory(name) || lt_is_gguf_file(name))
        return lt_buffer_append_text(directory, name, err);
    if (lt_path_exists(name))
        return lt_fail(err, LT_ERR_IO,
                       "%s: neither a directory nor a GGUF file; give the model's directory", name);
    if (!is_repository_name(name))
        return lt_fail(err, LT_ERR_IO, "%s: there is no such directory", name);

    lt_status status;
    lt_buffer cache = {0}, repository = {0};
    LT_TRY_GOTO(status, cache_directory(&cache, err), done);
    LT_TRY_GOTO(status, repository_directory(cache.data, name, &repository, err), done);
    if (!lt_is_directory(repository.data)) {
        status = lt_fail(err, LT_ERR_IO,
                         "%s: neither a directory nor a model in the local Hugging Face cache "
                         "(looked for %s)",
                         name, repository.data);
        goto done;
    }
    status = find_snapshot(repository.data, directory, err);

done:
    lt_buffer_free(&cache);
    lt_buffer_free(&repository);
    return status;
}
