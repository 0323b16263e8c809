/* Templates: a record becomes a sequence of texts and special tokens, each trained or not. One walk
 * serves ids, prompts and rendering, so they can not differ. */
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/chat_template.h"

static const char *const dolly_tokens[] = {"### End", "### Instruction:", "### Response:\n", NULL};
static const char *const chatml_tokens[] = {"<|im_start|>", "<|im_end|>", NULL};
static const char *const no_tokens[] = {NULL};

static const struct {
    const char *name;
    const char *const *special_tokens;
    const char *stop_token;
} templates[] = {
    [LT_TEMPLATE_DOLLY] = {"dolly", dolly_tokens, "### End"},
    [LT_TEMPLATE_ALPACA] = {"alpaca", no_tokens, NULL},
    [LT_TEMPLATE_CHATML] = {"chatml", chatml_tokens, "<|im_end|>"},
    [LT_TEMPLATE_PLAIN] = {"plain", no_tokens, NULL},
    [LT_TEMPLATE_CHAT] = {"chat", no_tokens, NULL},
};
enum { TEMPLATE_COUNT = sizeof templates / sizeof *templates };

/* Alpaca's preamble names the input when there is one; Dolly's never does. */
static const char preamble[] = "Below is an instruction that describes a task. Write a response "
                               "that appropriately completes the request.";
static const char preamble_with_input[] =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.";

const char *lt_template_name(lt_template template_)
{
    return templates[template_].name;
}

lt_status lt_template_parse(const char *name, lt_template *out, lt_err *err)
{
    for (int i = 0; i < TEMPLATE_COUNT; i++) {
        if (strcmp(name, templates[i].name) == 0) {
            *out = (lt_template)i;
            return LT_OK;
        }
    }
    return lt_fail(err, LT_ERR_USAGE,
                   "'%s' is no template; there are dolly, alpaca, chatml, plain, chat", name);
}

lt_template lt_template_default(lt_record_format format)
{
    switch (format) {
    case LT_FORMAT_DOLLY:
        return LT_TEMPLATE_DOLLY;
    case LT_FORMAT_ALPACA:
        return LT_TEMPLATE_ALPACA;
    case LT_FORMAT_MESSAGES:
    case LT_FORMAT_SHAREGPT:
        return LT_TEMPLATE_CHATML;
    default:
        return LT_TEMPLATE_PLAIN;
    }
}

const char *const *lt_template_special_tokens(lt_template template_)
{
    return templates[template_].special_tokens;
}

int32_t lt_template_stop_id(lt_template template_, const lt_tokenizer *tokenizer)
{
    const char *token = templates[template_].stop_token;
    lt_chat_template *chat = NULL;
    int32_t id = -1;
    if (token) return lt_tokenizer_token_id(tokenizer, token);
    if (template_ == LT_TEMPLATE_CHAT && lt_chat_template_create(tokenizer, &chat, NULL) == LT_OK)
        id = lt_chat_template_stop_id(chat);
    lt_chat_template_free(chat);
    return id >= 0 ? id : lt_tokenizer_eos_id(tokenizer);
}

/* --- Where a walk goes: ids and mask, or text --- */

typedef struct writer {
    const lt_tokenizer *tokenizer;
    const lt_record *record; /* for messages */
    lt_encoder *encoder;     /* NULL when rendering */
    lt_ids *ids;
    lt_buffer *mask;   /* or NULL: only ids are wanted */
    lt_buffer *out;    /* rendering */
    lt_buffer pending; /* text not yet encoded, all of it trained or none */
    bool pending_trained;
    bool prompt_only; /* stop where the answer begins */
    lt_err *err;
} writer;

/* Marks the ids that were appended since there were `before`. */
static lt_status mark(writer *w, size_t before, bool trained)
{
    size_t count = w->ids->count - before;
    if (!w->mask || count == 0) return LT_OK;
    LT_TRY(lt_buffer_reserve(w->mask, count, w->err));
    memset(w->mask->data + w->mask->size, trained, count);
    w->mask->size += count;
    w->mask->data[w->mask->size] = '\0';
    return LT_OK;
}

static lt_status flush(writer *w)
{
    if (w->pending.size == 0) return LT_OK;
    size_t before = w->ids->count;
    lt_status status =
        lt_encode(w->encoder, w->pending.data, w->pending.size, LT_ENCODE_PLAIN, w->ids, w->err);
    if (status != LT_OK) return lt_fail_context(w->err, "%s", w->record->where);
    lt_buffer_clear(&w->pending);
    return mark(w, before, w->pending_trained);
}

/* Text is encoded as late as possible, so that neighbours are joined. */
static lt_status add_text(writer *w, const char *text, bool trained)
{
    if (w->out) return lt_buffer_append_text(w->out, text, w->err);
    if (trained != w->pending_trained) LT_TRY(flush(w));
    w->pending_trained = trained;
    return lt_buffer_append_text(&w->pending, text, w->err);
}

static lt_status add_id(writer *w, int32_t id, bool trained)
{
    if (w->out) return lt_buffer_append_text(w->out, lt_tokenizer_token(w->tokenizer, id), w->err);
    LT_TRY(flush(w));
    size_t before = w->ids->count;
    LT_TRY(lt_ids_push(w->ids, id, w->err));
    return mark(w, before, trained);
}

static lt_status add_special(writer *w, const char *token, bool trained)
{
    int32_t id = lt_tokenizer_token_id(w->tokenizer, token);
    if (id < 0)
        return lt_fail(w->err, LT_ERR_USAGE,
                       "the tokenizer has no token '%s', which the template needs", token);
    return add_id(w, id, trained);
}

static lt_status add_eos(writer *w, bool trained)
{
    int32_t id = lt_tokenizer_eos_id(w->tokenizer);
    if (id < 0)
        return lt_fail(w->err, LT_ERR_USAGE,
                       "the tokenizer has no end-of-text token (eos_token in "
                       "tokenizer_config.json), which the template needs");
    return add_id(w, id, trained);
}

/* The ids that the post-processor puts in front of a text (BOS), by encoding one. Returns how many.
 */
static lt_status add_prefix(writer *w, size_t *count)
{
    lt_ids plain = {0}, whole = {0};
    *count = 0;
    if (w->out) return LT_OK;
    lt_status status;
    LT_TRY_GOTO(status, lt_encode(w->encoder, "a", 1, LT_ENCODE_PLAIN, &plain, w->err), done);
    LT_TRY_GOTO(status, lt_encode(w->encoder, "a", 1, LT_ENCODE_ADD_SPECIAL, &whole, w->err), done);
    for (; plain.count > 0 && *count + plain.count <= whole.count; (*count)++) {
        if (memcmp(whole.data + *count, plain.data, plain.count * sizeof *plain.data) == 0) break;
        LT_TRY_GOTO(status, add_id(w, whole.data[*count], false), done);
    }
done:
    lt_ids_free(&whole);
    lt_ids_free(&plain);
    return status;
}

/* --- Single-turn templates --- */

/* One question and its answer, whatever the format of the record. */
typedef struct turn {
    const char *system, *instruction, *context, *response;
} turn;

static lt_status turn_of_messages(const lt_record *record, lt_template template_, turn *out,
                                  lt_err *err)
{
    size_t at = 0, count = record->message_count;
    const lt_message *messages = record->messages;
    out->system = record->system;
    if (count && messages[0].role == LT_ROLE_SYSTEM) out->system = messages[at++].content;
    bool fits = at < count && messages[at].role == LT_ROLE_USER;
    if (fits) out->instruction = messages[at++].content;
    if (fits && at < count && messages[at].role == LT_ROLE_ASSISTANT)
        out->response = messages[at++].content;
    if (!fits || at != count)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: the template %s holds one question and its answer; for conversations "
                       "give --template chatml",
                       record->where, templates[template_].name);
    return LT_OK;
}

static lt_status turn_of(const lt_record *record, lt_template template_, turn *out, lt_err *err)
{
    *out = (turn){.context = "", .response = ""};
    if (record->messages) return turn_of_messages(record, template_, out, err);
    if (!record->instruction)
        return lt_fail(
            err, LT_ERR_FORMAT,
            "%s: plain text has no instruction and answer; only --template plain suits it",
            record->where);
    out->system = record->system;
    out->instruction = record->instruction;
    if (record->context) out->context = record->context;
    if (record->response) out->response = record->response;
    return LT_OK;
}

/* A system text takes the place of the preamble. */
static const char *opening(const turn *t, const char *otherwise)
{
    return t->system && *t->system ? t->system : otherwise;
}

static lt_status walk_dolly(writer *w, const turn *t)
{
    LT_TRY(add_text(w, opening(t, preamble), false));
    LT_TRY(add_text(w, "\n\n", false));
    LT_TRY(add_special(w, "### Instruction:", false));
    LT_TRY(add_text(w, "\n", false));
    LT_TRY(add_text(w, t->instruction, false));
    if (*t->context) {
        LT_TRY(add_text(w, "\n\nInput:\n", false));
        LT_TRY(add_text(w, t->context, false));
    }
    LT_TRY(add_text(w, "\n\n", false));
    LT_TRY(add_special(w, "### Response:\n", false));
    if (w->prompt_only) return LT_OK;
    LT_TRY(add_text(w, t->response, true));
    LT_TRY(add_text(w, "\n\n", true));
    return add_special(w, "### End", true);
}

static lt_status walk_alpaca(writer *w, const turn *t)
{
    bool input = *t->context != '\0';
    LT_TRY(add_text(w, opening(t, input ? preamble_with_input : preamble), false));
    LT_TRY(add_text(w, "\n\n### Instruction:\n", false));
    LT_TRY(add_text(w, t->instruction, false));
    if (input) {
        LT_TRY(add_text(w, "\n\n### Input:\n", false));
        LT_TRY(add_text(w, t->context, false));
    }
    LT_TRY(add_text(w, "\n\n### Response:\n", false));
    if (w->prompt_only) return LT_OK;
    LT_TRY(add_text(w, t->response, true));
    return add_eos(w, true);
}

/* Prompt and answer with nothing added between them. */
static lt_status walk_plain(writer *w, const turn *t)
{
    if (t->system && *t->system) {
        LT_TRY(add_text(w, t->system, false));
        LT_TRY(add_text(w, "\n\n", false));
    }
    LT_TRY(add_text(w, t->instruction, false));
    if (*t->context) {
        LT_TRY(add_text(w, "\n\n", false));
        LT_TRY(add_text(w, t->context, false));
    }
    if (w->prompt_only) return LT_OK;
    LT_TRY(add_text(w, t->response, true));
    return add_eos(w, true);
}

/* Plain text: a token that says "here a text begins", so that the first word is learnt too; the
 * text; the end. */
static lt_status walk_text(writer *w, const char *text, bool has_prefix)
{
    if (!has_prefix) LT_TRY(add_eos(w, false));
    LT_TRY(add_text(w, text, true));
    return w->prompt_only ? LT_OK : add_eos(w, true);
}

/* --- ChatML --- */

static const char *const role_names[] = {"system", "user", "assistant", "tool"};

static lt_status add_chatml_message(writer *w, lt_role role, const char *text, const char *more,
                                    bool first)
{
    bool trained = role == LT_ROLE_ASSISTANT;
    /* The line feed after the message before belongs to no one, so nobody has to learn it. */
    if (!first) LT_TRY(add_text(w, "\n", false));
    LT_TRY(add_special(w, "<|im_start|>", false));
    LT_TRY(add_text(w, role_names[role], false));
    LT_TRY(add_text(w, "\n", false));
    if (!text) return LT_OK; /* the model goes on from here */
    LT_TRY(add_text(w, text, trained));
    if (more && *more) {
        LT_TRY(add_text(w, "\n\n", trained));
        LT_TRY(add_text(w, more, trained));
    }
    return add_special(w, "<|im_end|>", trained);
}

static lt_status walk_chatml_messages(writer *w)
{
    const lt_record *record = w->record;
    size_t count = record->message_count;
    bool first = true;
    if (record->system) {
        LT_TRY(add_chatml_message(w, LT_ROLE_SYSTEM, record->system, NULL, true));
        first = false;
    }
    if (w->prompt_only && count && record->messages[count - 1].role == LT_ROLE_ASSISTANT) count--;
    for (size_t i = 0; i < count; i++) {
        const lt_message *message = &record->messages[i];
        LT_TRY(add_chatml_message(w, message->role, message->content, NULL, first));
        first = false;
    }
    return w->prompt_only ? add_chatml_message(w, LT_ROLE_ASSISTANT, NULL, NULL, first) : LT_OK;
}

static lt_status walk_chatml(writer *w)
{
    if (w->record->messages) return walk_chatml_messages(w);
    turn t;
    LT_TRY(turn_of(w->record, LT_TEMPLATE_CHATML, &t, w->err));
    bool system = t.system && *t.system;
    if (system) LT_TRY(add_chatml_message(w, LT_ROLE_SYSTEM, t.system, NULL, true));
    LT_TRY(add_chatml_message(w, LT_ROLE_USER, t.instruction, t.context, !system));
    const char *answer = w->prompt_only ? NULL : t.response;
    return add_chatml_message(w, LT_ROLE_ASSISTANT, answer, NULL, false);
}

/* --- The tokenizer's own template --- */

/* `more`: an object whose further keys the message has too, or NULL. */
static lt_status add_message(json_t *list, const json_t *more, const char *role,
                             const char *content, lt_err *err)
{
    json_t *message = more ? json_copy((json_t *)more) : json_object();
    if (json_object_set_new(message, "role", json_string(role)) == 0 &&
        json_object_set_new(message, "content", json_string(content)) == 0 &&
        json_array_append(list, message) == 0) {
        json_decref(message);
        return LT_OK;
    }
    json_decref(message);
    return lt_fail_nomem(err, strlen(content), "a message");
}

static lt_status add_turn(json_t *list, const turn *t, bool prompt_only, lt_err *err)
{
    lt_buffer question = {0};
    lt_status status = LT_OK;
    if (t->system && *t->system)
        LT_TRY_GOTO(status, add_message(list, NULL, "system", t->system, err), done);
    LT_TRY_GOTO(status, lt_buffer_append_text(&question, t->instruction, err), done);
    if (*t->context)
        LT_TRY_GOTO(status, lt_buffer_printf(&question, err, "\n\n%s", t->context), done);
    LT_TRY_GOTO(status, add_message(list, NULL, "user", lt_buffer_text(&question), err), done);
    if (!prompt_only) status = add_message(list, NULL, "assistant", t->response, err);
done:
    lt_buffer_free(&question);
    return status;
}

/* The record as messages; a prompt's without the answer. */
static lt_status add_messages(json_t *list, const lt_record *record, bool prompt_only, lt_err *err)
{
    size_t count = record->message_count;
    turn t;
    if (!record->messages) {
        LT_TRY(turn_of(record, LT_TEMPLATE_CHAT, &t, err));
        return add_turn(list, &t, prompt_only, err);
    }
    if (record->system) LT_TRY(add_message(list, NULL, "system", record->system, err));
    if (prompt_only && count && record->messages[count - 1].role == LT_ROLE_ASSISTANT) count--;
    for (size_t i = 0; i < count; i++) {
        const lt_message *message = &record->messages[i];
        const json_t *more = record->format == LT_FORMAT_MESSAGES ? message->json : NULL;
        LT_TRY(add_message(list, more, role_names[message->role], message->content, err));
    }
    return LT_OK;
}

static lt_status walk_chat(const writer *w, const lt_chat_template *chat)
{
    lt_conversation conversation = {.messages = json_array(),
                                    .tools = w->record->tools,
                                    .add_generation_prompt = w->prompt_only};
    json_t *messages = (json_t *)conversation.messages;
    if (!messages) return lt_fail_nomem(w->err, 64, "a conversation");
    const char *where = w->record->where;
    lt_status status = add_messages(messages, w->record, w->prompt_only, w->err);
    if (status == LT_OK && w->out)
        status = lt_chat_template_render(chat, &conversation, where, w->out, w->err);
    else if (status == LT_OK)
        status = lt_chat_template_encode(chat, w->encoder, &conversation, where, w->ids, w->mask,
                                         w->err);
    json_decref(messages);
    return status;
}

static lt_status run_chat(const writer *w)
{
    const lt_chat_template *chat;
    lt_chat_template *own = NULL;
    lt_status status;
    if (w->encoder) {
        LT_TRY(lt_encoder_chat_template(w->encoder, &chat, w->err));
        return walk_chat(w, chat);
    }
    LT_TRY(lt_chat_template_create(w->tokenizer, &own, w->err));
    status = walk_chat(w, own);
    lt_chat_template_free(own);
    return status;
}

/* --- The walk --- */

static lt_status walk(writer *w, lt_template template_)
{
    size_t prefix = 0;
    turn t;
    LT_TRY(add_prefix(w, &prefix));
    if (template_ == LT_TEMPLATE_CHATML) return walk_chatml(w);
    if (template_ == LT_TEMPLATE_PLAIN && w->record->text)
        return walk_text(w, w->record->text, prefix > 0);
    LT_TRY(turn_of(w->record, template_, &t, w->err));
    if (template_ == LT_TEMPLATE_DOLLY) return walk_dolly(w, &t);
    return template_ == LT_TEMPLATE_ALPACA ? walk_alpaca(w, &t) : walk_plain(w, &t);
}

static lt_status run(writer *w, lt_template template_)
{
    if (template_ == LT_TEMPLATE_CHAT) return run_chat(w);
    lt_status status = walk(w, template_);
    if (status == LT_OK && w->encoder) status = flush(w);
    lt_buffer_free(&w->pending);
    return status;
}

lt_status lt_template_encode(lt_template template_, lt_encoder *encoder,
                             const lt_tokenizer *tokenizer, const lt_record *record, lt_ids *ids,
                             lt_buffer *mask, lt_err *err)
{
    writer w = {.tokenizer = tokenizer,
                .record = record,
                .encoder = encoder,
                .ids = ids,
                .mask = mask,
                .err = err};
    size_t first = mask->size;
    LT_TRY(run(&w, template_));
    /* The first token is predicted from nothing, so it is never a target. */
    if (mask->size > first + 1 && memchr(mask->data + first + 1, 1, mask->size - first - 1))
        return LT_OK;
    return lt_fail(err, LT_ERR_FORMAT,
                   "%s: no token of this record would be trained; remove it or fill in its answer",
                   record->where);
}

lt_status lt_template_encode_prompt(lt_template template_, lt_encoder *encoder,
                                    const lt_tokenizer *tokenizer, const lt_record *record,
                                    lt_ids *ids, lt_err *err)
{
    writer w = {.tokenizer = tokenizer,
                .record = record,
                .encoder = encoder,
                .ids = ids,
                .prompt_only = true,
                .err = err};
    return run(&w, template_);
}

lt_status lt_template_render(lt_template template_, const lt_tokenizer *tokenizer,
                             const lt_record *record, lt_buffer *out, lt_err *err)
{
    writer w = {.tokenizer = tokenizer, .record = record, .out = out, .err = err};
    return run(&w, template_);
}
