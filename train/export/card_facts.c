/* Finds what a directory and the run it lies in know of the training. */
#include "train/export/card.h"

#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "train/trainer.h"

#define MAX_CONFIG ((size_t)1 << 20)

static const char *trained_directory(const lt_export_settings *s)
{
    if (s->adapter_directory) return s->adapter_directory;
    return lt_is_directory(s->model_directory) ? s->model_directory : NULL;
}

static lt_status load_object(const char *path, json_t **out, lt_err *err)
{
    LT_TRY(lt_json_load(path, out, err));
    if (json_is_object(*out)) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT, "%s: is not a JSON object", path);
}

/* DIRECTORY/NAME, else, for a directory of a run, DIRECTORY/../NAME. Empty: neither. */
static lt_status find_file(const char *directory, bool of_a_run, const char *name, lt_buffer *path,
                           lt_err *err)
{
    LT_TRY(lt_path_join(path, directory, name, err));
    if (lt_path_exists(path->data)) return LT_OK;
    lt_buffer_clear(path);
    if (!of_a_run) return LT_OK;
    LT_TRY(lt_buffer_printf(path, err, "%s/../%s", directory, name));
    if (!lt_path_exists(path->data)) lt_buffer_clear(path);
    return LT_OK;
}

/* --- Evaluations ------------------------------------------------------------------------------ */

static bool is_results(const char *name)
{
    size_t size = strlen(name), end = strlen(".json");
    return strncmp(name, "results", 7) == 0 && size > end &&
           strcmp(name + size - end, ".json") == 0;
}

/* Their names hold the date, so the last is the newest. */
static lt_status newest_results(const char *directory, lt_buffer *path, lt_err *err)
{
    lt_name_list names = {0};
    lt_status status = lt_list_directory(directory, &names, err);
    for (size_t i = names.count; i > 0 && status == LT_OK; i--) {
        if (!is_results(names.names[i - 1])) continue;
        status = lt_path_join(path, directory, names.names[i - 1], err);
        break;
    }
    lt_name_list_free(&names);
    return status;
}

static lt_status check_results(const json_t *file, const char *path, lt_err *err)
{
    if (!json_is_object(json_object_get(file, "results")))
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: has no \"results\"; give a results_*.json of lathe eval", path);
    if (!json_object_get(file, "comparison")) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT,
                   "%s: compares two models; give the results_*.json of this one, which lies in "
                   "the directory of its name beside it",
                   path);
}

static lt_status find_evaluation(const lt_export_settings *s, lt_card_facts *out, lt_err *err)
{
    const char *directory = trained_directory(s);
    lt_buffer path = {0};
    lt_status status = LT_OK;
    if (s->evaluation)
        status = lt_buffer_append_text(&path, s->evaluation, err);
    else if (directory)
        status = newest_results(directory, &path, err);
    if (status == LT_OK && path.size > 0) status = load_object(path.data, &out->evaluation, err);
    if (status == LT_OK && out->evaluation) status = check_results(out->evaluation, path.data, err);
    lt_buffer_free(&path);
    return status;
}

/* --- Training --------------------------------------------------------------------------------- */

static lt_status find_training(const lt_export_settings *s, lt_card_facts *out, lt_err *err)
{
    const char *directory = trained_directory(s);
    lt_buffer path = {0};
    lt_status status;
    if (!directory) return LT_OK;
    LT_TRY_GOTO(status, find_file(directory, false, LT_TRAINER_STATE_FILE, &path, err), done);
    if (path.size == 0) goto done;
    LT_TRY_GOTO(status, load_object(path.data, &out->state, err), done);
    LT_TRY_GOTO(status, find_file(directory, true, LT_TRAIN_CONFIG_FILE, &path, err), done);
    if (path.size > 0) status = lt_read_file(path.data, MAX_CONFIG, &out->config, err);
done:
    lt_buffer_free(&path);
    return status;
}

bool lt_card_setting(const lt_card_facts *facts, const char *key, lt_buffer *out)
{
    size_t size = strlen(key);
    lt_buffer_clear(out);
    for (const char *line = lt_buffer_text(&facts->config); *line;) {
        size_t length = strcspn(line, "\n");
        if (length > size + 2 && strncmp(line, key, size) == 0 && line[size] == ':') {
            const char *value = line + size + 2;
            size_t value_size = length - size - 2;
            if (value_size > 1 && value[0] == '"' && value[value_size - 1] == '"')
                value++, value_size -= 2;
            return value_size > 0 && strncmp(value, "null", 4) != 0 &&
                   lt_buffer_append(out, value, value_size, NULL) == LT_OK;
        }
        line += length + (line[length] == '\n');
    }
    return false;
}

/* "org/name" as the Hub has them; a path that is here is none. */
static bool is_hub_name(const char *name)
{
    size_t slashes = 0;
    for (const char *c = name; *c; c++) {
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                     (*c >= '0' && *c <= '9') || strchr("-_.", *c);
        if (*c == '/')
            slashes++;
        else if (!plain)
            return false;
    }
    return slashes == 1 && name[0] != '.' && name[0] != '/' && !strstr(name, "..") &&
           !lt_path_exists(name);
}

static lt_status take_base(const char *name, lt_card_facts *out, lt_err *err)
{
    if (out->base.size > 0 || !name || !is_hub_name(name)) return LT_OK;
    return lt_buffer_append_text(&out->base, name, err);
}

static lt_status find_base(const lt_opened_model *opened, const lt_export_settings *s,
                           lt_card_facts *out, lt_err *err)
{
    const lt_model *model = opened->model;
    lt_buffer setting = {0};
    lt_status status = LT_OK;
    if (model->adapter_count > 0)
        status = take_base(lt_adapter_config_of(model->adapters[0])->base_model, out, err);
    if (status == LT_OK && lt_card_setting(out, "model", &setting))
        status = take_base(setting.data, out, err);
    if (status == LT_OK) status = take_base(s->model_name, out, err);
    lt_buffer_free(&setting);
    return status;
}

lt_status lt_card_facts_find(const lt_opened_model *opened, const lt_export_settings *settings,
                             lt_card_facts *out, lt_err *err)
{
    *out = (lt_card_facts){0};
    lt_status status = find_training(settings, out, err);
    if (status == LT_OK) status = find_evaluation(settings, out, err);
    if (status == LT_OK) status = find_base(opened, settings, out, err);
    if (status != LT_OK) lt_card_facts_free(out);
    return status;
}

void lt_card_facts_free(lt_card_facts *facts)
{
    json_decref(facts->state);
    json_decref(facts->evaluation);
    lt_buffer_free(&facts->config);
    lt_buffer_free(&facts->base);
    *facts = (lt_card_facts){0};
}
