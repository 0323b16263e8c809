/* The messages of a conversation, and the files they are kept in. */
#ifndef LT_CLI_CHAT_HISTORY_H
#define LT_CLI_CHAT_HISTORY_H

#include <jansson.h>
#include <stdbool.h>

#include "base/status.h"

/* A JSON array of {"role", "content"}; the caller frees it with json_decref. */
typedef struct lt_chat_history {
    json_t *messages;
} lt_chat_history;

lt_status lt_chat_history_start(lt_chat_history *history, lt_err *err);
/* LT_ERR_FORMAT when the text is not UTF-8 or has a NUL byte. */
lt_status lt_chat_history_add(lt_chat_history *history, const char *role, const char *text,
                              size_t size, lt_err *err);
void lt_chat_history_drop_last(lt_chat_history *history);
/* Puts the system message in front, in place of the one there; an empty text takes it away. */
lt_status lt_chat_history_set_system(lt_chat_history *history, const char *text, lt_err *err);
/* Forgets all but the system message. */
void lt_chat_history_reset(lt_chat_history *history);

/* LT_ERR_USAGE when the file exists and `replace` is not given. Durable once it returns. */
lt_status lt_chat_history_save(const lt_chat_history *history, const char *path, bool replace,
                               lt_err *err);
/* An array of messages, or an object with one under "messages". The history stays as it was when it
 * fails. */
lt_status lt_chat_history_load(lt_chat_history *history, const char *path, lt_err *err);

/* The array of messages in such a file. *out: caller owns. */
lt_status lt_chat_read_messages(const char *path, json_t **out, lt_err *err);

#endif
