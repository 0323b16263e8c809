/* A tokenizer's chat template: compiled, given its variables, rendered. What becomes of the text is
 * in chat_encode.c. */
#include "data_pipeline/chat_internal.h"

#include <stdlib.h>
#include <string.h>

/* --- Compiling -------------------------------------------------------------------------------- */

/* bos_token and the like, as the reference library hands them to templates. */
static lt_status add_named_tokens(lt_chat_template *chat, lt_err *err)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
    const lt_tokenizer *tokenizer = chat->tokenizer;
    chat->tokens = json_object();
    bool ok = chat->tokens != NULL;
    for (size_t i = 0; ok && i < sizeof keys / sizeof *keys; i++) {
        const char *token = lt_tokenizer_named_token(tokenizer, keys[i]);
        ok = !token || json_object_set_new(chat->tokens, keys[i], json_string(token)) == 0;
    }
    int32_t eos = lt_tokenizer_eos_id(tokenizer);
    if (ok && eos >= 0 && !json_object_get(chat->tokens, "eos_token"))
        ok = json_object_set_new(chat->tokens, "eos_token",
                                 json_string(lt_tokenizer_token(tokenizer, eos))) == 0;
    return ok ? LT_OK : lt_fail_nomem(err, 256, "the chat template's variables");
}

/* Such a token is looked for in normalised text, where it is no longer known who wrote what. */
static lt_status check_special_tokens(const lt_tokenizer *tokenizer, lt_err *err)
{
    const lt_normalizer *normalizer = &tokenizer->normalizer;
    bool changes = false;
    for (size_t i = 0; i < normalizer->count; i++)
        changes = changes || normalizer->steps[i].kind != LT_NORMALIZER_NFC;
    for (size_t i = 0; changes && i < tokenizer->added.count; i++) {
        const lt_added_token *token = &tokenizer->added.tokens[i];
        if (token->special && token->normalized)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "%s: the special token \"%.100s\" is looked for in normalised text "
                           "(\"normalized\": true), which chat templates do not support",
                           tokenizer->where, token->content);
    }
    return LT_OK;
}

lt_status lt_chat_template_compile(const lt_tokenizer *tokenizer, const char *source,
                                   const char *where, lt_chat_template **out, lt_err *err)
{
    *out = NULL;
    LT_TRY(check_special_tokens(tokenizer, err));
    lt_chat_template *chat = calloc(1, sizeof *chat);
    if (!chat) return lt_fail_nomem(err, sizeof *chat, "a chat template");
    chat->tokenizer = tokenizer;
    lt_status status;
    LT_TRY_GOTO(status, add_named_tokens(chat, err), done);
    LT_TRY_GOTO(status, lt_jinja_compile(source, strlen(source), where, &chat->jinja, err), done);
    LT_TRY_GOTO(status, lt_chat_find_stop_id(chat, &chat->stop_id, err), done);
    *out = chat;
    chat = NULL;
done:
    lt_chat_template_free(chat);
    return status;
}

lt_status lt_chat_template_create(const lt_tokenizer *tokenizer, lt_chat_template **out,
                                  lt_err *err)
{
    const char *source = lt_tokenizer_chat_template(tokenizer);
    const json_t *entry = json_object_get(tokenizer->config, "chat_template");
    *out = NULL;
    if (source)
        return lt_chat_template_compile(tokenizer, source,
                                        tokenizer->chat_template
                                            ? "chat_template.jinja"
                                            : "tokenizer_config.json: chat_template",
                                        out, err);
    if (!entry || json_is_null(entry))
        return lt_fail(err, LT_ERR_USAGE,
                       "the tokenizer has no chat template (chat_template.jinja, or "
                       "\"chat_template\" in tokenizer_config.json); give --template chatml or "
                       "another that needs none");
    return lt_fail(err, LT_ERR_FORMAT,
                   "tokenizer_config.json: \"chat_template\" must be a text, or a list of objects "
                   "with \"name\" and \"template\", one of them named \"default\"");
}

lt_status lt_chat_template_of(lt_template template_, const lt_tokenizer *tokenizer,
                              lt_chat_template **out, lt_err *err)
{
    lt_buffer source = {0};
    *out = NULL;
    if (template_ == LT_TEMPLATE_CHAT) return lt_chat_template_create(tokenizer, out, err);
    lt_status status = lt_template_to_jinja(template_, tokenizer, &source, err);
    if (status == LT_OK)
        status = lt_chat_template_compile(tokenizer, lt_buffer_text(&source),
                                          lt_template_name(template_), out, err);
    lt_buffer_free(&source);
    return status;
}

void lt_chat_template_free(lt_chat_template *chat)
{
    if (!chat) return;
    lt_jinja_free(chat->jinja);
    json_decref(chat->tokens);
    free(chat);
}

static void free_guest(void *value)
{
    lt_chat_template_free(value);
}

lt_status lt_encoder_chat_template(lt_encoder *encoder, const lt_chat_template **out, lt_err *err)
{
    lt_encoder_guest *guest = lt_encoder_guest_of(encoder);
    lt_chat_template *chat = guest->value;
    lt_status status = LT_OK;
    if (!chat) status = lt_chat_template_create(lt_encoder_tokenizer(encoder), &chat, err);
    *guest = (lt_encoder_guest){.value = chat, .free = free_guest};
    *out = chat;
    return status;
}

int32_t lt_chat_template_stop_id(const lt_chat_template *chat)
{
    return chat->stop_id;
}

/* --- Variables -------------------------------------------------------------------------------- */

static lt_status check_message(const json_t *message, size_t index, const char *where, lt_err *err)
{
    const json_t *content = json_object_get(message, "content");
    if (!json_is_object(message))
        return lt_fail(err, LT_ERR_FORMAT, "%s: message %zu is not an object", where, index + 1);
    if (!json_is_string(json_object_get(message, "role")))
        return lt_fail(err, LT_ERR_FORMAT, "%s: message %zu has no \"role\" that is a text", where,
                       index + 1);
    if (content && !json_is_string(content) && !json_is_array(content) && !json_is_null(content))
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: message %zu: the \"content\" is neither a text nor a list of parts",
                       where, index + 1);
    if (!content && !json_object_get(message, "tool_calls"))
        return lt_fail(err, LT_ERR_FORMAT, "%s: message %zu has no \"content\"", where, index + 1);
    return LT_OK;
}

lt_status lt_conversation_check(const lt_conversation *conversation, const char *where, lt_err *err)
{
    const json_t *messages = conversation->messages;
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: a conversation is a list of at least one message",
                       where);
    for (size_t i = 0; i < json_array_size(messages); i++)
        LT_TRY(check_message(json_array_get(messages, i), i, where, err));
    if (conversation->tools && !json_is_array(conversation->tools))
        return lt_fail(err, LT_ERR_FORMAT, "%s: the tools are not a list", where);
    if (conversation->variables && !json_is_object(conversation->variables))
        return lt_fail(err, LT_ERR_FORMAT, "%s: the template's variables are not an object", where);
    return LT_OK;
}

/* Templates handle a key that is missing, but hardly ever a null; so the reference library leaves
 * those out too. */
static json_t *without_nulls(const json_t *message)
{
    json_t *copy = json_object();
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)message, key, value)
    {
        if (!json_is_null(value) && json_object_set(copy, key, value) != 0) {
            json_decref(copy);
            return NULL;
        }
    }
    return copy;
}

static json_t *first_messages(const json_t *messages, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < count; i++) {
        if (json_array_append_new(list, without_nulls(json_array_get(messages, i))) == 0) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}

static json_t *variables_of(const lt_chat_template *chat, const lt_conversation *conversation,
                            size_t count, bool generation_prompt)
{
    json_t *variables = json_copy(chat->tokens);
    json_t *tools = conversation->tools ? json_incref((json_t *)conversation->tools) : json_null();
    bool ok = variables &&
              json_object_set_new(variables, "messages",
                                  first_messages(conversation->messages, count)) == 0 &&
              json_object_set_new(variables, "tools", json_incref(tools)) == 0 &&
              json_object_set_new(variables, "documents", json_null()) == 0 &&
              json_object_set_new(variables, "add_generation_prompt",
                                  json_boolean(generation_prompt)) == 0 &&
              (!conversation->variables ||
               json_object_update(variables, (json_t *)conversation->variables) == 0);
    json_decref(tools);
    if (ok) return variables;
    json_decref(variables);
    return NULL;
}

/* --- Rendering -------------------------------------------------------------------------------- */

static int source_of_message(void *context, size_t element)
{
    (void)context;
    return lt_chat_source_of_message(element);
}

lt_status lt_chat_render_first(const lt_chat_template *chat, const lt_conversation *conversation,
                               size_t count, bool generation_prompt, lt_jinja_text *out,
                               lt_err *err)
{
    /* templates write "<|" + role + "|>"; what else is called a role is text like any other */
    static const char *const roles[] = {"system", "developer", "user", "assistant",
                                        "tool",   "function",  NULL};
    const lt_jinja_mark marks[] = {
        {.variable = "messages", .source = source_of_message, .key = "role", .words = roles},
        {.variable = "tools"}};
    json_t *variables = variables_of(chat, conversation, count, generation_prompt);
    if (!variables) return lt_fail_nomem(err, count * 128, "the chat template's variables");
    lt_status status = lt_jinja_render(chat->jinja, variables, marks, 2, NULL, out, err);
    json_decref(variables);
    return status;
}

lt_status lt_chat_template_render(const lt_chat_template *chat, const lt_conversation *conversation,
                                  const char *where, lt_buffer *out, lt_err *err)
{
    lt_jinja_text text = {0};
    LT_TRY(lt_conversation_check(conversation, where, err));
    lt_status status =
        lt_chat_render_first(chat, conversation, json_array_size(conversation->messages),
                             conversation->add_generation_prompt, &text, err);
    if (status != LT_OK)
        lt_fail_context(err, "%s", where);
    else
        status = lt_buffer_append(out, text.text.data, text.text.size, err);
    lt_jinja_text_free(&text);
    return status;
}
