/* Chat templates: a conversation to ids by the Jinja template that a tokenizer carries, the same
 * code for datasets, chat and scoring.
 *
 * Only special tokens that the template itself wrote become their ids (the names of the usual roles
 * count as its own); a message that spells one stays text. What is trained is known from the
 * rendering, not searched for: the bytes inside {% generation %} blocks; where the template has
 * none, each answer from where the model would take over (the end of the same conversation rendered
 * up to there with add_generation_prompt, when that is how the text begins; else where the message
 * begins) to the special token that closes it. Text is cut at the edges of what is trained, so that
 * a prompt's ids are those that were trained with.
 */
#ifndef LT_DATA_PIPELINE_CHAT_TEMPLATE_H
#define LT_DATA_PIPELINE_CHAT_TEMPLATE_H

#include "data_pipeline/records.h"

typedef struct lt_chat_template lt_chat_template;

/* The tokenizer's chat_template (chat_template.jinja, or in tokenizer_config.json; of several named
 * ones "default"). LT_ERR_USAGE when it has none. The tokenizer outlives it. */
lt_status lt_chat_template_create(const lt_tokenizer *tokenizer, lt_chat_template **out,
                                  lt_err *err);
/* The same of any source; `where` starts the messages about it. */
lt_status lt_chat_template_compile(const lt_tokenizer *tokenizer, const char *source,
                                   const char *where, lt_chat_template **out, lt_err *err);
/* Of any template: the tokenizer's own for LT_TEMPLATE_CHAT, else what lt_template_to_jinja gives.
 */
lt_status lt_chat_template_of(lt_template template_, const lt_tokenizer *tokenizer,
                              lt_chat_template **out, lt_err *err);
void lt_chat_template_free(lt_chat_template *chat);
/* The one of the encoder's tokenizer, compiled when it is first asked for; borrowed from the
 * encoder. */
lt_status lt_encoder_chat_template(lt_encoder *encoder, const lt_chat_template **out, lt_err *err);

/* A conversation as templates see it: a JSON array of {"role", "content"}, any further keys kept.
 */
typedef struct lt_conversation {
    const json_t *messages;
    const json_t *tools;        /* or NULL */
    bool add_generation_prompt; /* the text ends where the assistant would begin */
    const json_t *variables;    /* further ones ("enable_thinking"), an object, or NULL */
} lt_conversation;

/* As tokenizer.apply_chat_template(tokenize=False). */
lt_status lt_chat_template_render(const lt_chat_template *chat, const lt_conversation *conversation,
                                  const char *where, lt_buffer *out, lt_err *err);
/* Appends ids, and to `mask` (may be NULL) 1 for each id the assistant has to write. No BOS is
 * added but the template's own. */
lt_status lt_chat_template_encode(const lt_chat_template *chat, lt_encoder *encoder,
                                  const lt_conversation *conversation, const char *where,
                                  lt_ids *ids, lt_buffer *mask, lt_err *err);
/* The token that closes an answer, or -1: the template writes none. */
int32_t lt_chat_template_stop_id(const lt_chat_template *chat);

#endif
