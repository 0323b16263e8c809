/* A conversation with a model, whose keys and values are kept between its turns: of each prompt
 * only what differs from the last one is read. Knows no terminal and no history: the caller gives
 * the whole conversation each time, and may change it as it likes. */
#ifndef LT_TRAIN_CHAT_SESSION_H
#define LT_TRAIN_CHAT_SESSION_H

#include "data_pipeline/chat_template.h"
#include "train/assistant.h"

typedef struct lt_chat_session lt_chat_session;

/* `adapter`: of the model, or NULL. The assistant's template is used; the native ones in the form
 * that lt_template_to_jinja gives, so that single-question ones take further turns too.
 * LT_ERR_USAGE when there is no template. The assistant outlives the session. */
lt_status lt_chat_session_create(lt_assistant *assistant, const lt_adapter *adapter,
                                 lt_chat_session **out, lt_err *err);
void lt_chat_session_free(lt_chat_session *session);

/* Freed by lt_answer_free(&reply->answer). */
typedef struct lt_chat_reply {
    lt_answer answer;
    int64_t left_out; /* messages at the beginning that did not fit */
    int64_t reused;   /* of answer.prompt_tokens: not read again */
} lt_chat_reply;

/* Answers the conversation's last message (add_generation_prompt is taken as true). The same ids as
 * lt_assistant_answer on the whole prompt. Where it does not fit the model with an answer of
 * max_new_tokens, or of a quarter of what the model sees, the oldest questions and their answers
 * are left out, never system messages in front; a last question that does not fit by itself is
 * LT_ERR_LIMIT. When cancelled: LT_ERR_INTERRUPTED, with what was written so far. */
lt_status lt_chat_session_answer(lt_chat_session *session, const lt_conversation *conversation,
                                 const lt_answer_settings *settings, lt_on_text on_text,
                                 void *context, lt_chat_reply *reply, lt_err *err);

#endif
