/* The golden tokenizers with their chat templates, and a conversation's ids and mask by them.
 * Included by the tests of chat templates, each of which is one program. */
#ifndef LT_CHAT_FIXTURE_H
#define LT_CHAT_FIXTURE_H

#include "base/json.h"
#include "data_pipeline/chat_template.h"
#include "data_pipeline/data_pipeline.h"
#include "../check.h"

#define GOLDEN LATHE_TEST_DIR "/golden/"

static json_t *parse(const char *text)
{
    json_t *json = NULL;
    lt_err err = {0};
    must(lt_json_parse(text, strlen(text), "the test", &json, &err), &err);
    return json;
}

typedef struct setup {
    lt_tokenizer *tokenizer;
    lt_encoder *encoder;
    lt_chat_template *chat;
    lt_ids ids;
    lt_buffer mask, text;
} setup;

static void close_setup(setup *s)
{
    lt_chat_template_free(s->chat);
    lt_encoder_free(s->encoder);
    lt_tokenizer_free(s->tokenizer);
    lt_ids_free(&s->ids);
    lt_buffer_free(&s->mask);
    lt_buffer_free(&s->text);
}

static setup open_golden(const char *name)
{
    char path[512];
    setup s = {0};
    lt_err err = {0};
    snprintf(path, sizeof path, GOLDEN "chat/%s", name);
    must(lt_tokenizer_load(path, &s.tokenizer, &err), &err);
    must(lt_encoder_create(s.tokenizer, &s.encoder, &err), &err);
    must(lt_chat_template_create(s.tokenizer, &s.chat, &err), &err);
    return s;
}

/* A golden tokenizer with another template. */
static setup open_with(const char *name, const char *source)
{
    setup s = open_golden(name);
    lt_err err = {0};
    lt_chat_template_free(s.chat);
    s.chat = NULL;
    must(lt_chat_template_compile(s.tokenizer, source, "t", &s.chat, &err), &err);
    return s;
}

static lt_status encode(setup *s, const json_t *messages, bool prompt, lt_err *err)
{
    lt_conversation conversation = {.messages = messages, .add_generation_prompt = prompt};
    s->ids.count = 0;
    lt_buffer_clear(&s->mask);
    return lt_chat_template_encode(s->chat, s->encoder, &conversation, "c:1", &s->ids, &s->mask,
                                   err);
}

static size_t count_id(const setup *s, const char *token)
{
    int32_t id = lt_tokenizer_token_id(s->tokenizer, token);
    size_t count = 0;
    assert_true(id >= 0);
    for (size_t i = 0; i < s->ids.count; i++)
        count += s->ids.data[i] == id;
    return count;
}

static const char one_turn[] = "[{\"role\":\"user\",\"content\":\"Hi\"},"
                               "{\"role\":\"assistant\",\"content\":\"Hello\"}]";

#endif
