#include "cli/adapters.h"

#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"

static lt_status add(lt_cli_adapters *out, const char *word, lt_err *err)
{
    const char *equals = strchr(word, '='), *slash = strchr(word, '/');
    bool named = equals && equals > word && (!slash || equals < slash);
    if (out->count == LT_CLI_MAX_ADAPTERS)
        return lt_fail(err, LT_ERR_USAGE, "--adapter: %d adapters at most", LT_CLI_MAX_ADAPTERS);
    if (!*word || (named && !equals[1]))
        return lt_fail(err, LT_ERR_USAGE, "--adapter \"%s\" names no directory", word);
    char *name = named ? strndup(word, (size_t)(equals - word)) : lt_path_last_name(word);
    if (!name) return lt_fail_nomem(err, strlen(word), "an adapter's name");
    out->names[out->count] = name;
    out->sources[out->count++] =
        (lt_adapter_source){.name = name, .directory = named ? equals + 1 : word};
    if (strcmp(name, "base") == 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "--adapter %s: \"base\" means the model without an adapter; give another "
                       "name: --adapter NAME=DIR",
                       word);
    for (int64_t i = 0; i + 1 < out->count; i++)
        if (strcmp(out->names[i], name) == 0)
            return lt_fail(err, LT_ERR_USAGE,
                           "--adapter: two adapters are called \"%s\"; give them names: --adapter "
                           "NAME=DIR",
                           name);
    return LT_OK;
}

lt_status lt_cli_read_adapters(const lt_string_list *words, lt_cli_adapters *out, lt_err *err)
{
    *out = (lt_cli_adapters){0};
    for (size_t i = 0; i < words->count; i++) {
        lt_status status = add(out, words->items[i], err);
        if (status == LT_OK) continue;
        lt_cli_free_adapters(out);
        return status;
    }
    return LT_OK;
}

void lt_cli_free_adapters(lt_cli_adapters *adapters)
{
    for (int64_t i = 0; i < adapters->count; i++)
        free(adapters->names[i]);
    *adapters = (lt_cli_adapters){0};
}

lt_status lt_cli_open_assistant(const char *model, const lt_string_list *adapters,
                                const char *template_, const lt_backend *backend, lt_assistant *out,
                                lt_err *err)
{
    lt_buffer directory = {0};
    lt_cli_adapters read = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_cli_read_adapters(adapters, &read, err), done);
    LT_TRY_GOTO(status, lt_model_resolve(model, &directory, err), done);
    LT_TRY_GOTO(
        status,
        lt_assistant_open(lt_buffer_text(&directory), read.sources, read.count, backend, out, err),
        done);
    if (template_) {
        out->notes.has_template = true;
        out->untrained_template = false;
        status = lt_template_parse(template_, &out->notes.template_, err);
    }
done:
    lt_cli_free_adapters(&read);
    lt_buffer_free(&directory);
    return status;
}

lt_status lt_cli_find_adapter(const lt_model *model, const char *name, const char *where,
                              const lt_adapter **out, lt_err *err)
{
    *out = NULL;
    if (strcmp(name, "base") == 0) return LT_OK;
    *out = lt_adapter_find(model, name);
    if (*out) return LT_OK;
    lt_buffer names = {0};
    lt_status status = LT_OK;
    for (int i = 0; i < model->adapter_count && status == LT_OK; i++)
        status = lt_buffer_printf(&names, NULL, ", %s", lt_adapter_name(model->adapters[i]));
    lt_fail(err, LT_ERR_USAGE, "%s: there is no adapter \"%.80s\"; there are base%s", where, name,
            lt_buffer_text(&names));
    lt_buffer_free(&names);
    return LT_ERR_USAGE;
}
