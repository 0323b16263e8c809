/* What a user types in a conversation, message by message. */
#ifndef LT_CLI_CHAT_INPUT_H
#define LT_CLI_CHAT_INPUT_H

#include <stdbool.h>
#include <stdio.h>

#include "base/buffer.h"

typedef struct lt_chat_input {
    FILE *file;
    bool terminal; /* somebody sits there: prompts are shown */
    char *line;    /* owned, as is the message */
    size_t capacity;
    lt_buffer message;
    bool cut; /* the terminal has kept the end of a line back */
} lt_chat_input;

typedef enum lt_input_kind {
    LT_INPUT_MESSAGE,
    LT_INPUT_END,
    LT_INPUT_INTERRUPTED, /* by a signal; what was typed of the message is forgotten */
    LT_INPUT_CUT,         /* a line was longer than terminals pass on: part of it is lost */
} lt_input_kind;

/* Reads one message: a line; lines that each end with a backslash, and the one after them; or all
 * between two """. Without the last line feed. */
lt_status lt_chat_input_read(lt_chat_input *input, lt_input_kind *kind, lt_err *err);
void lt_chat_input_free(lt_chat_input *input);

#endif
