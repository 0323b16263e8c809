/* Contexts as conversations, the way lm-eval's --apply_chat_template has it: rendered as text,
 * which is then read as any other. */
#include <string.h>

#include "train/evaluation/engine_internal.h"

/* The template that the model was trained with, else the tokenizer's own. */
static lt_status need_chat(lt_engine *e)
{
    const lt_assistant *a = e->assistant;
    lt_buffer source = {0};
    if (e->chat) return LT_OK;
    if (!a->notes.has_template && !lt_tokenizer_chat_template(a->tokenizer))
        return lt_fail(
            e->err, LT_ERR_USAGE,
            "the model has no chat template: it was trained with none, and its tokenizer "
            "has none");
    if (!a->notes.has_template) return lt_chat_template_create(a->tokenizer, &e->chat, e->err);
    lt_status status = lt_template_to_jinja(a->notes.template_, a->tokenizer, &source, e->err);
    if (status == LT_OK)
        status = lt_chat_template_compile(a->tokenizer, lt_buffer_text(&source),
                                          lt_template_name(a->notes.template_), &e->chat, e->err);
    lt_buffer_free(&source);
    return status;
}

lt_status lt_engine_render(lt_engine *e, const json_t *messages, const char *where, lt_buffer *out)
{
    const lt_conversation conversation = {.messages = messages, .add_generation_prompt = true};
    LT_TRY(need_chat(e));
    return lt_chat_template_render(e->chat, &conversation, where, out, e->err);
}

lt_status lt_engine_render_user(lt_engine *e, const lt_task_doc *doc, const char *message,
                                lt_buffer *out)
{
    json_t *messages = doc->turns ? json_copy(doc->turns) : json_array();
    json_t *last = json_pack("{s:s, s:s}", "role", "user", "content", message);
    lt_status status = json_array_append_new(messages, last) == 0
                           ? lt_engine_render(e, messages, doc->where, out)
                           : lt_fail_nomem(e->err, strlen(message), "a message");
    json_decref(messages);
    return status;
}

int32_t lt_engine_stop_of_template(const lt_engine *e)
{
    const lt_assistant *a = e->assistant;
    if (a->notes.has_template) return lt_template_stop_id(a->notes.template_, a->tokenizer);
    return e->chat ? lt_chat_template_stop_id(e->chat) : -1;
}
