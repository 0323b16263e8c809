/* Private to data_pipeline/: what the two files of chat templates share. */
#ifndef LT_CHAT_INTERNAL_H
#define LT_CHAT_INTERNAL_H

#include "data_pipeline/chat_template.h"
#include "data_pipeline/jinja.h"
#include "data_pipeline/tokenizer_internal.h"

struct lt_chat_template {
    const lt_tokenizer *tokenizer;
    lt_jinja *jinja;
    json_t *tokens; /* bos_token, eos_token, ... */
    int32_t stop_id;
};

/* Which number the strings of a message have in lt_jinja_text.origin. Neighbours differ; 0 is that
 * of the tools. */
static inline int lt_chat_source_of_message(size_t index)
{
    return 1 + (int)(index % (LT_JINJA_MAX_SOURCES - 1));
}

/* LT_ERR_FORMAT, beginning with `where`, when it is not of the shape that templates see. */
lt_status lt_conversation_check(const lt_conversation *conversation, const char *where,
                                lt_err *err);
/* Renders the first `count` messages of a conversation that has been checked. */
lt_status lt_chat_render_first(const lt_chat_template *chat, const lt_conversation *conversation,
                               size_t count, bool generation_prompt, lt_jinja_text *out,
                               lt_err *err);

/* chat_encode.c. The token that closes the answer to one question, or -1; also when the template
 * refuses such a conversation. */
lt_status lt_chat_find_stop_id(const lt_chat_template *chat, int32_t *out, lt_err *err);

#endif
