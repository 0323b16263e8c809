/* adapter_config.json, read and written: the keys that all methods share. */
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "model/adapters/internal.h"

/* --- Lists and strings ------------------------------------------------------------------------ */

lt_status lt_copy_string(const char *from, char **to, lt_err *err)
{
    *to = from ? strdup(from) : NULL;
    return !from || *to ? LT_OK : lt_fail_nomem(err, strlen(from), "a name");
}

lt_status lt_string_list_add(lt_string_list *list, const char *item, lt_err *err)
{
    char *copy = NULL, **items = realloc(list->items, (list->count + 1) * sizeof *items);
    if (!items) return lt_fail_nomem(err, (list->count + 1) * sizeof *items, "a list");
    list->items = items;
    LT_TRY(lt_copy_string(item, &copy, err));
    items[list->count++] = copy;
    return LT_OK;
}

static void free_list(lt_string_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->items[i]);
    free(list->items);
}

static lt_status copy_list(const lt_string_list *from, lt_string_list *to, lt_err *err)
{
    *to = (lt_string_list){0};
    for (size_t i = 0; i < from->count; i++)
        LT_TRY(lt_string_list_add(to, from->items[i], err));
    return LT_OK;
}

lt_status lt_read_string_list(const json_t *json, const char *key, const char *where,
                              lt_string_list *out, lt_err *err)
{
    const json_t *list = json_object_get(json, key);
    size_t i;
    json_t *item;
    if (!list || json_is_null(list)) return LT_OK;
    if (!json_is_array(list))
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" is not a list of names", where, key);
    json_array_foreach(list, i, item)
    {
        if (!json_is_string(item))
            return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" is not a list of names", where, key);
        LT_TRY(lt_string_list_add(out, json_string_value(item), err));
    }
    return LT_OK;
}

void lt_adapter_config_free(lt_adapter_config *config)
{
    free(config->base_model);
    free_list(&config->target_modules);
    free_list(&config->exclude_modules);
    free_list(&config->modules_to_save);
    free(config->target_pattern);
    free(config->layers_to_transform);
    json_decref(config->rank_pattern);
    json_decref(config->alpha_pattern);
    free(config->prompt_init_text);
    free(config->tokenizer_name);
    lt_ids_free(&config->prompt_init_ids);
    *config = (lt_adapter_config){0};
}

lt_status lt_adapter_config_copy(const lt_adapter_config *from, lt_adapter_config *to, lt_err *err)
{
    size_t bytes = from->layers_to_transform_count * sizeof *from->layers_to_transform;
    lt_status status;
    *to = *from;
    to->base_model = to->target_pattern = to->prompt_init_text = to->tokenizer_name = NULL;
    to->target_modules = to->exclude_modules = to->modules_to_save = (lt_string_list){0};
    to->layers_to_transform = NULL;
    to->prompt_init_ids = (lt_ids){0};
    to->rank_pattern = json_incref(from->rank_pattern);
    to->alpha_pattern = json_incref(from->alpha_pattern);
    LT_TRY_GOTO(status, lt_copy_string(from->base_model, &to->base_model, err), done);
    LT_TRY_GOTO(status, lt_copy_string(from->target_pattern, &to->target_pattern, err), done);
    LT_TRY_GOTO(status, lt_copy_string(from->prompt_init_text, &to->prompt_init_text, err), done);
    LT_TRY_GOTO(status, lt_copy_string(from->tokenizer_name, &to->tokenizer_name, err), done);
    LT_TRY_GOTO(status, copy_list(&from->target_modules, &to->target_modules, err), done);
    LT_TRY_GOTO(status, copy_list(&from->exclude_modules, &to->exclude_modules, err), done);
    LT_TRY_GOTO(status, copy_list(&from->modules_to_save, &to->modules_to_save, err), done);
    LT_TRY_GOTO(status,
                lt_ids_append(&to->prompt_init_ids, from->prompt_init_ids.data,
                              from->prompt_init_ids.count, err),
                done);
    if (bytes > 0) {
        to->layers_to_transform = malloc(bytes);
        if (to->layers_to_transform)
            memcpy(to->layers_to_transform, from->layers_to_transform, bytes);
        else
            status = lt_fail_nomem(err, bytes, "a list of layers");
    }
done:
    if (status != LT_OK) lt_adapter_config_free(to);
    return status;
}

/* --- Reading ---------------------------------------------------------------------------------- */

static lt_status read_config(const json_t *json, const char *where, lt_adapter_config *out,
                             lt_err *err)
{
    const char *type = NULL, *base = NULL;
    if (!json_is_object(json))
        return lt_fail(err, LT_ERR_FORMAT, "%s: is not a JSON object", where);
    LT_TRY(lt_json_get_string(json, "peft_type", where, &type, err));
    if (!type)
        return lt_fail(err, LT_ERR_FORMAT, "%s: has no \"peft_type\": it is no adapter of PEFT",
                       where);
    const lt_adapter_method *method = lt_adapter_method_by_peft_type(type);
    if (!method)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: adapters of type %.40s are not supported; LORA, PREFIX_TUNING, "
                       "PROMPT_TUNING and P_TUNING are",
                       where, type);
    LT_TRY(lt_json_get_string(json, "base_model_name_or_path", where, &base, err));
    LT_TRY(lt_copy_string(base, &out->base_model, err));
    out->kind = method->kind;
    out->trained = true;
    return method->read_config(json, where, out, err);
}

bool lt_is_adapter_directory(const char *path)
{
    lt_buffer file = {0};
    bool found = lt_path_join(&file, path, LT_ADAPTER_CONFIG, NULL) == LT_OK &&
                 lt_path_exists(lt_buffer_text(&file));
    lt_buffer_free(&file);
    return found;
}

lt_status lt_adapter_config_load(const char *directory, lt_adapter_config *out, lt_err *err)
{
    lt_buffer path = {0};
    json_t *json = NULL;
    lt_status status;
    *out = (lt_adapter_config){0};
    LT_TRY_GOTO(status, lt_path_join(&path, directory, LT_ADAPTER_CONFIG, err), done);
    if (!lt_path_exists(path.data)) {
        status = lt_fail(err, LT_ERR_IO,
                         "%s holds no adapter: there is no " LT_ADAPTER_CONFIG " in it", directory);
        goto done;
    }
    LT_TRY_GOTO(status, lt_json_load(path.data, &json, err), done);
    status = read_config(json, path.data, out, err);
done:
    if (status != LT_OK) lt_adapter_config_free(out);
    json_decref(json);
    lt_buffer_free(&path);
    return status;
}
