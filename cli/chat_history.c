#include "cli/chat_history.h"

#include <string.h>

#include "base/fsio.h"
#include "base/json.h"

lt_status lt_chat_history_start(lt_chat_history *history, lt_err *err)
{
    history->messages = json_array();
    return history->messages ? LT_OK : lt_fail_nomem(err, 64, "the conversation");
}

static lt_status make_message(const char *role, const char *text, size_t size, json_t **out,
                              lt_err *err)
{
    json_t *content = memchr(text, '\0', size) ? NULL : json_stringn(text, size);
    *out = content ? json_pack("{s:s, s:o}", "role", role, "content", content) : NULL;
    if (*out) return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT, "the %s's message is not UTF-8 text without NUL bytes",
                   role);
}

lt_status lt_chat_history_add(lt_chat_history *history, const char *role, const char *text,
                              size_t size, lt_err *err)
{
    json_t *message;
    LT_TRY(make_message(role, text, size, &message, err));
    if (json_array_append_new(history->messages, message) == 0) return LT_OK;
    return lt_fail_nomem(err, size, "the conversation");
}

void lt_chat_history_drop_last(lt_chat_history *history)
{
    json_array_remove(history->messages, json_array_size(history->messages) - 1);
}

static bool has_system(const lt_chat_history *history)
{
    const json_t *first = json_array_get(history->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    return role && strcmp(role, "system") == 0;
}

lt_status lt_chat_history_set_system(lt_chat_history *history, const char *text, lt_err *err)
{
    json_t *message = NULL;
    if (*text) LT_TRY(make_message("system", text, strlen(text), &message, err));
    if (has_system(history)) json_array_remove(history->messages, 0);
    if (!message || json_array_insert_new(history->messages, 0, message) == 0) return LT_OK;
    return lt_fail_nomem(err, strlen(text), "the conversation");
}

void lt_chat_history_reset(lt_chat_history *history)
{
    size_t keep = has_system(history);
    while (json_array_size(history->messages) > keep)
        lt_chat_history_drop_last(history);
}

/* --- Files ------------------------------------------------------------------------------------ */

lt_status lt_chat_history_save(const lt_chat_history *history, const char *path, bool replace,
                               lt_err *err)
{
    if (!replace && lt_path_exists(path))
        return lt_fail(err, LT_ERR_USAGE, "%s exists; /save! %s replaces it", path, path);
    return lt_json_write_file(path, history->messages, err);
}

static lt_status check_messages(const json_t *messages, const char *path, lt_err *err)
{
    if (!json_is_array(messages))
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: holds neither a list of messages nor an object with one under "
                       "\"messages\"",
                       path);
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        if (!json_is_string(json_object_get(message, "role")) ||
            !json_is_string(json_object_get(message, "content")))
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: message %zu is not an object with \"role\" and \"content\", both "
                           "texts",
                           path, i + 1);
    }
    return LT_OK;
}

lt_status lt_chat_read_messages(const char *path, json_t **out, lt_err *err)
{
    json_t *json = NULL;
    *out = NULL;
    LT_TRY(lt_json_load(path, &json, err));
    json_t *messages = json_is_object(json) ? json_object_get(json, "messages") : json;
    lt_status status = check_messages(messages, path, err);
    if (status == LT_OK) *out = json_incref(messages);
    json_decref(json);
    return status;
}

lt_status lt_chat_history_load(lt_chat_history *history, const char *path, lt_err *err)
{
    json_t *messages;
    LT_TRY(lt_chat_read_messages(path, &messages, err));
    json_decref(history->messages);
    history->messages = messages;
    return LT_OK;
}
