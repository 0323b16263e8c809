/* From a rendered conversation to ids and what is trained of them. Where each byte is from is known
 * (data_pipeline/jinja.h), so nothing is searched for but special tokens, and those only where the
 * template wrote. */
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/chat_internal.h"

typedef struct span {
    size_t begin, end;
} span;

typedef struct rendering {
    lt_jinja_text text;
    unsigned char *barred; /* [text size] not 0: from outside, no special token */
    lt_special_place *places;
    size_t place_count;
    span *answers; /* what is trained, in order and apart from each other */
    size_t answer_count, answer_capacity;
} rendering;

static void free_rendering(rendering *r)
{
    lt_jinja_text_free(&r->text);
    free(r->barred);
    free(r->places);
    free(r->answers);
}

static int origin_at(const rendering *r, size_t at)
{
    return (unsigned char)r->text.origin.data[at] & ~LT_JINJA_GENERATION;
}

static lt_status render(const lt_chat_template *chat, const lt_conversation *conversation,
                        const char *where, rendering *r, lt_err *err)
{
    LT_TRY(lt_conversation_check(conversation, where, err));
    size_t count = json_array_size(conversation->messages);
    if (lt_chat_render_first(chat, conversation, count, conversation->add_generation_prompt,
                             &r->text, err) != LT_OK)
        return lt_fail_context(err, "%s", where);
    size_t size = r->text.text.size;
    r->barred = malloc(size + 1);
    if (!r->barred) return lt_fail_nomem(err, size, "a conversation");
    for (size_t i = 0; i < size; i++)
        r->barred[i] = origin_at(r, i) != LT_JINJA_TEMPLATE;
    return lt_find_special(chat->tokenizer, lt_buffer_text(&r->text.text), size, r->barred,
                           &r->places, &r->place_count, err);
}

/* --- What is trained -------------------------------------------------------------------------- */

static lt_status add_answer(rendering *r, size_t begin, size_t end, lt_err *err)
{
    if (r->answer_count == r->answer_capacity) {
        size_t larger = r->answer_capacity ? 2 * r->answer_capacity : 8;
        span *moved = realloc(r->answers, larger * sizeof *moved);
        if (!moved) return lt_fail_nomem(err, larger * sizeof *moved, "the answers");
        r->answers = moved;
        r->answer_capacity = larger;
    }
    r->answers[r->answer_count++] = (span){begin, end};
    return LT_OK;
}

static lt_status take_generation_blocks(rendering *r, lt_err *err)
{
    const char *origin = r->text.origin.data;
    size_t size = r->text.text.size;
    for (size_t at = 0, begin; at < size;) {
        while (at < size && !(origin[at] & LT_JINJA_GENERATION))
            at++;
        begin = at;
        while (at < size && (origin[at] & LT_JINJA_GENERATION))
            at++;
        if (at > begin) LT_TRY(add_answer(r, begin, at, err));
    }
    return LT_OK;
}

/* Where the text of a message begins, or the text's size: nothing of it was written. */
static size_t first_of_message(const rendering *r, size_t index, size_t from)
{
    int own = LT_JINJA_INPUT + lt_chat_source_of_message(index);
    while (from < r->text.text.size && origin_at(r, from) != own)
        from++;
    return from;
}

/* Where it ends: before anything that is from another message. */
static size_t end_of_message(const rendering *r, size_t index, size_t begin)
{
    int own = LT_JINJA_INPUT + lt_chat_source_of_message(index);
    size_t end = begin;
    for (size_t at = begin; at < r->text.text.size; at++) {
        int origin = origin_at(r, at);
        if (origin == own)
            end = at + 1;
        else if (origin != LT_JINJA_TEMPLATE)
            break;
    }
    return end;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* The special token that closes a message which ends at `end`, or NULL. Only white space may be
 * between them; behind tool calls, which templates wrap, any text of the template. */
static const lt_special_place *closing_token(const rendering *r, size_t end, bool has_calls)
{
    size_t i = 0;
    while (i < r->place_count && r->places[i].begin < end)
        i++;
    if (i == r->place_count) return NULL;
    for (size_t at = end; at < r->places[i].begin; at++) {
        bool from_template = origin_at(r, at) == LT_JINJA_TEMPLATE;
        if (!from_template || !(has_calls || is_space(r->text.text.data[at]))) return NULL;
    }
    return &r->places[i];
}

/* Where the model takes over: at the end of the conversation so far with the generation prompt, if
 * that is how the text begins. A template may refuse a conversation that ends there. */
static lt_status find_takeover(const lt_chat_template *chat, const lt_conversation *conversation,
                               const rendering *r, size_t index, size_t from, size_t *begin,
                               lt_err *err)
{
    lt_jinja_text prompt = {0};
    lt_status status = lt_chat_render_first(chat, conversation, index, true, &prompt, err);
    size_t size = prompt.text.size;
    bool begins = status == LT_OK && size >= from && size <= r->text.text.size && size > 0 &&
                  memcmp(prompt.text.data, r->text.text.data, size) == 0;
    *begin = begins ? size : first_of_message(r, index, from);
    lt_jinja_text_free(&prompt);
    return status == LT_ERR_NOMEM || status == LT_ERR_LIMIT ? status : LT_OK;
}

static lt_status take_answers(const lt_chat_template *chat, const lt_conversation *conversation,
                              rendering *r, lt_err *err)
{
    size_t from = 0;
    for (size_t i = 0; i < json_array_size(conversation->messages); i++) {
        const json_t *message = json_array_get(conversation->messages, i);
        const char *role = json_string_value(json_object_get(message, "role"));
        if (strcmp(role, "assistant") != 0) continue;
        size_t begin;
        LT_TRY(find_takeover(chat, conversation, r, i, from, &begin, err));
        if (begin == r->text.text.size) continue;
        size_t end = end_of_message(r, i, begin);
        bool has_calls = json_array_size(json_object_get(message, "tool_calls")) > 0;
        const lt_special_place *closing = closing_token(r, end, has_calls);
        if (closing) end = closing->end;
        if (end > begin) LT_TRY(add_answer(r, begin, end, err));
        from = end;
    }
    return LT_OK;
}

lt_status lt_chat_find_stop_id(const lt_chat_template *chat, int32_t *out, lt_err *err)
{
    json_t *messages = json_pack("[{s:s, s:s}, {s:s, s:s}]", "role", "user", "content", "Question",
                                 "role", "assistant", "content", "Answer");
    rendering r = {0};
    *out = -1;
    if (!messages) return lt_fail_nomem(err, 256, "a conversation");
    const lt_conversation conversation = {.messages = messages};
    lt_err refusal = {0};
    lt_status status = render(chat, &conversation, "a question and its answer", &r, &refusal);
    size_t begin = status == LT_OK ? first_of_message(&r, 1, 0) : 0;
    if (status == LT_OK && begin < r.text.text.size) {
        const lt_special_place *closing = closing_token(&r, end_of_message(&r, 1, begin), false);
        if (closing) *out = closing->id;
    }
    free_rendering(&r);
    json_decref(messages);
    if (status != LT_ERR_NOMEM) return LT_OK;
    if (err) *err = refusal;
    return status;
}

/* --- Ids -------------------------------------------------------------------------------------- */

typedef struct writer {
    const rendering *r;
    lt_encoder *encoder;
    lt_ids *ids;
    lt_buffer *mask; /* or NULL */
    size_t answer;   /* the first that does not end before what is being written */
    lt_err *err;
} writer;

/* Whether text[begin..end) is trained, in whole or in part; *cut: the next edge behind `begin`. */
static bool is_trained(writer *w, size_t begin, size_t end, size_t *cut)
{
    const rendering *r = w->r;
    while (w->answer < r->answer_count && r->answers[w->answer].end <= begin)
        w->answer++;
    *cut = end;
    if (w->answer == r->answer_count) return false;
    span answer = r->answers[w->answer];
    if (answer.begin > begin && answer.begin < end) *cut = answer.begin;
    if (answer.begin <= begin && answer.end < end) *cut = answer.end;
    return answer.begin < end;
}

/* Marks the ids that were appended since there were `before`. */
static lt_status mark(writer *w, size_t before, bool trained)
{
    char value = trained;
    for (; w->mask && before < w->ids->count; before++)
        LT_TRY(lt_buffer_append(w->mask, &value, 1, w->err));
    return LT_OK;
}

/* Text between special tokens, cut at the edges of what is trained. */
static lt_status write_text(writer *w, size_t begin, size_t end)
{
    lt_text_place place = begin == 0 ? LT_TEXT_FIRST : LT_TEXT_AFTER_TOKEN;
    while (begin < end) {
        size_t cut, before = w->ids->count;
        bool trained = is_trained(w, begin, end, &cut) && w->r->answers[w->answer].begin <= begin;
        LT_TRY(lt_encode_part(w->encoder, w->r->text.text.data + begin, cut - begin, place, w->ids,
                              w->err));
        LT_TRY(mark(w, before, trained));
        place = LT_TEXT_CONTINUED;
        begin = cut;
    }
    return LT_OK;
}

static lt_status write_ids(writer *w)
{
    size_t at = 0, cut;
    for (size_t i = 0; i < w->r->place_count; i++) {
        const lt_special_place *place = &w->r->places[i];
        LT_TRY(write_text(w, at, place->outer_begin));
        size_t before = w->ids->count;
        LT_TRY(lt_ids_push(w->ids, place->id, w->err));
        LT_TRY(mark(w, before, is_trained(w, place->begin, place->end, &cut)));
        at = place->outer_end;
    }
    return write_text(w, at, w->r->text.text.size);
}

lt_status lt_chat_template_encode(const lt_chat_template *chat, lt_encoder *encoder,
                                  const lt_conversation *conversation, const char *where,
                                  lt_ids *ids, lt_buffer *mask, lt_err *err)
{
    rendering r = {0};
    writer w = {.r = &r, .encoder = encoder, .ids = ids, .mask = mask, .err = err};
    size_t ids_before = ids->count, mask_before = mask ? mask->size : 0;
    lt_status status;
    LT_TRY_GOTO(status, render(chat, conversation, where, &r, err), done);
    LT_TRY_GOTO(status,
                r.text.has_generation ? take_generation_blocks(&r, err)
                                      : take_answers(chat, conversation, &r, err),
                done);
    status = write_ids(&w);
    if (status != LT_OK) lt_fail_context(err, "%s", where);
done:
    if (status != LT_OK) {
        ids->count = ids_before;
        if (mask) mask->size = mask_before;
    }
    free_rendering(&r);
    return status;
}
