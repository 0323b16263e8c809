/* Records by chat templates: the native templates in Jinja against their native walk, the template
 * "chat" by a tokenizer's own template, and what is refused. */
#include "chat_fixture.h"

/* --- Native templates in Jinja ---------------------------------------------------------------- */

static void add(json_t *list, const char *role, const char *content)
{
    json_array_append_new(list, json_pack("{s:s, s:s}", "role", role, "content", content));
}

/* The record as a server's user would send it: a context is part of the question. */
static json_t *messages_of(const lt_record *record, lt_template template_)
{
    json_t *list = json_array();
    lt_buffer question = {0};
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    if (record->system) add(list, "system", record->system);
    for (size_t i = 0; i < record->message_count; i++)
        add(list, roles[record->messages[i].role], record->messages[i].content);
    if (record->messages) return list;
    lt_buffer_append_text(&question, record->instruction, NULL);
    if (*record->context)
        lt_buffer_printf(&question, NULL, "%s%s",
                         template_ == LT_TEMPLATE_DOLLY ? "\n\nInput:\n" : "\n\n", record->context);
    add(list, "user", lt_buffer_text(&question));
    add(list, "assistant", record->response);
    lt_buffer_free(&question);
    return list;
}

static void compare_with_native(setup *s, lt_template template_, const lt_record *record)
{
    lt_ids ids = {0};
    lt_buffer mask = {0};
    lt_err err = {0};
    json_t *messages = messages_of(record, template_);
    must(lt_template_encode(template_, s->encoder, s->tokenizer, record, &ids, &mask, &err), &err);
    must(encode(s, messages, false, &err), &err);
    assert_int_equal(s->ids.count, ids.count);
    assert_memory_equal(s->ids.data, ids.data, ids.count * sizeof *ids.data);
    assert_memory_equal(s->mask.data, mask.data, mask.size);
    if (lt_record_answer(record)) { /* and the prompt */
        json_array_remove(messages, json_array_size(messages) - 1);
        ids.count = 0;
        must(lt_template_encode_prompt(template_, s->encoder, s->tokenizer, record, &ids, &err),
             &err);
        must(encode(s, messages, true, &err), &err);
        assert_int_equal(s->ids.count, ids.count);
        assert_memory_equal(s->ids.data, ids.data, ids.count * sizeof *ids.data);
    }
    json_decref(messages);
    lt_ids_free(&ids);
    lt_buffer_free(&mask);
}

static setup open_native(lt_template template_, const char *tokenizer)
{
    setup s = {0};
    lt_err err = {0};
    size_t count = 0, added;
    const char *const *tokens = lt_template_special_tokens(template_);
    must(lt_tokenizer_load(tokenizer, &s.tokenizer, &err), &err);
    while (tokens[count])
        count++;
    if (count)
        must(lt_tokenizer_add_special_tokens(s.tokenizer, tokens, count, &added, &err), &err);
    must(lt_encoder_create(s.tokenizer, &s.encoder, &err), &err);
    must(lt_chat_template_of(template_, s.tokenizer, &s.chat, &err), &err);
    return s;
}

static void compare_file(lt_template template_, const char *tokenizer, const char *records)
{
    setup s = open_native(template_, tokenizer);
    lt_record_reader *reader = NULL;
    lt_err err = {0};
    int compared = 0;
    must(lt_record_reader_open(records, LT_FORMAT_AUTO, NULL, &reader, &err), &err);
    for (bool more = true; more;) {
        lt_record record;
        must(lt_record_reader_next(reader, &record, &more, &err), &err);
        if (!more) break;
        /* with a context Alpaca's preamble is another one, which a chat has no place for */
        if (template_ != LT_TEMPLATE_ALPACA || !*record.context) {
            compare_with_native(&s, template_, &record);
            compared++;
        }
        lt_record_free(&record);
    }
    assert_true(compared > 2);
    lt_record_reader_close(reader);
    close_setup(&s);
}

static void native_templates_in_jinja_give_the_same_ids(void **state)
{
    (void)state;
    static const char *const tokenizers[] = {GOLDEN "dolly", GOLDEN "chat/llama3"};
    for (int i = 0; i < 2; i++) { /* the second puts tokens in front of a text */
        compare_file(LT_TEMPLATE_DOLLY, tokenizers[i], GOLDEN "dolly/records.jsonl");
        compare_file(LT_TEMPLATE_ALPACA, tokenizers[i], GOLDEN "dolly/records.jsonl");
        compare_file(LT_TEMPLATE_PLAIN, tokenizers[i], GOLDEN "dolly/records.jsonl");
        compare_file(LT_TEMPLATE_CHATML, tokenizers[i], GOLDEN "dolly/records.jsonl");
        compare_file(LT_TEMPLATE_CHATML, tokenizers[i], GOLDEN "dolly/messages.jsonl");
    }
}

/* --- The template "chat" ---------------------------------------------------------------------- */

static void records_go_through_the_tokenizers_template(void **state)
{
    (void)state;
    static const struct {
        const char *record, *text;
    } cases[] = {
        {"{\"instruction\":\"I\",\"context\":\"C\",\"response\":\"R\"}",
         "<s>[INST] I\n\nC [/INST] R</s>"},
        {"{\"instruction\":\"I\",\"input\":\"\",\"output\":\"R\",\"system\":\"S\"}",
         "<s>[INST] S\n\nI [/INST] R</s>"},
        {"{\"prompt\":\"P\",\"completion\":\"R\"}", "<s>[INST] P [/INST] R</s>"},
        {"{\"messages\":[{\"role\":\"human\",\"content\":\"a\"},{\"role\":\"gpt\",\"content\":"
         "\"b\"}"
         "]}",
         "<s>[INST] a [/INST] b</s>"},
        {"{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"gpt\",\"value\":"
         "\"b\"}],\"system\":\"S\"}",
         "<s>[INST] S\n\na [/INST] b</s>"},
    };
    setup s = open_golden("mistral");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_record record;
        lt_err err = {0};
        lt_ids prompt = {0};
        json_t *json = parse(cases[i].record);
        must(lt_record_from_json(json, LT_FORMAT_AUTO, "here:1", &record, &err), &err);
        lt_buffer_clear(&s.text);
        must(lt_template_render(LT_TEMPLATE_CHAT, s.tokenizer, &record, &s.text, &err), &err);
        assert_string_equal(lt_buffer_text(&s.text), cases[i].text);
        s.ids.count = 0;
        lt_buffer_clear(&s.mask);
        must(lt_template_encode(LT_TEMPLATE_CHAT, s.encoder, s.tokenizer, &record, &s.ids, &s.mask,
                                &err),
             &err);
        must(lt_template_encode_prompt(LT_TEMPLATE_CHAT, s.encoder, s.tokenizer, &record, &prompt,
                                       &err),
             &err);
        assert_true(prompt.count < s.ids.count);
        assert_memory_equal(prompt.data, s.ids.data, prompt.count * sizeof *prompt.data);
        for (size_t k = 0; k < s.ids.count; k++)
            assert_int_equal(s.mask.data[k], k >= prompt.count);
        lt_ids_free(&prompt);
        lt_record_free(&record);
        json_decref(json);
    }
    close_setup(&s);
}

static void tools_reach_the_template(void **state)
{
    (void)state;
    setup s = open_with("qwen", "{% for t in tools or [] %}{{ t.name }}<|im_end|>{% endfor %}"
                                "{% for m in messages %}{{ m.content }}{% endfor %}");
    json_t *messages = parse(one_turn), *tools = parse("[{\"name\":\"<|im_end|>\"}]");
    lt_conversation conversation = {.messages = messages, .tools = tools};
    lt_err err = {0};
    must(lt_chat_template_encode(s.chat, s.encoder, &conversation, "c", &s.ids, NULL, &err), &err);
    assert_int_equal(count_id(&s, "<|im_end|>"), 1); /* a tool's name is from outside too */
    json_decref(messages);
    json_decref(tools);
    close_setup(&s);
}

static void a_stored_tokenizer_keeps_its_template(void **state)
{
    (void)state;
    setup s = open_golden("qwen"); /* chat_template.jinja */
    lt_buffer json = {0}, config = {0};
    lt_tokenizer *again = NULL;
    lt_err err = {0};
    must(lt_tokenizer_to_json(s.tokenizer, &json, &config, &err), &err);
    must(lt_tokenizer_parse(json.data, json.size, config.data, config.size, "stored", &again, &err),
         &err);
    assert_string_equal(lt_tokenizer_chat_template(again), lt_tokenizer_chat_template(s.tokenizer));
    assert_non_null(strstr(lt_tokenizer_chat_template(again), "careful helper"));
    lt_tokenizer_free(again);
    lt_buffer_free(&json);
    lt_buffer_free(&config);
    close_setup(&s);
}

/* --- What is refused -------------------------------------------------------------------------- */

static void refuses_messages(setup *s, const char *messages, const char *words)
{
    lt_err err = {0};
    json_t *json = parse(messages);
    s->ids.count = 0;
    assert_int_equal(encode(s, json, false, &err), LT_ERR_FORMAT);
    if (!strstr(err.message, words)) fail_msg("'%s' does not say '%s'", err.message, words);
    assert_memory_equal(err.message, "c:1", 3);
    assert_int_equal(s->ids.count, 0);
    json_decref(json);
}

static void broken_conversations_are_named(void **state)
{
    (void)state;
    setup s = open_golden("mistral");
    refuses_messages(&s, "[]", "at least one message");
    refuses_messages(&s, "{}", "at least one message");
    refuses_messages(&s, "[1]", "message 1 is not an object");
    refuses_messages(&s, "[{\"content\":\"x\"}]", "message 1 has no \"role\"");
    refuses_messages(&s, "[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\"}]",
                     "message 2 has no \"content\"");
    refuses_messages(&s, "[{\"role\":\"user\",\"content\":5}]", "neither a text nor a list");
    refuses_messages(&s, "[{\"role\":\"judge\",\"content\":\"x\"}]", "roles must alternate");
    close_setup(&s);
}

static void refuses_tokenizer(const char *config, lt_status code, const char *words)
{
    setup s = open_golden("qwen");
    lt_buffer json = {0}, own = {0};
    lt_tokenizer *tokenizer = NULL;
    lt_chat_template *chat = NULL;
    lt_err err = {0};
    must(lt_tokenizer_to_json(s.tokenizer, &json, &own, &err), &err);
    must(lt_tokenizer_parse(json.data, json.size, config, strlen(config), "t", &tokenizer, &err),
         &err);
    assert_int_equal(lt_chat_template_create(tokenizer, &chat, &err), code);
    assert_null(chat);
    if (!strstr(err.message, words)) fail_msg("'%s' does not say '%s'", err.message, words);
    lt_tokenizer_free(tokenizer);
    lt_buffer_free(&json);
    lt_buffer_free(&own);
    close_setup(&s);
}

static void missing_and_broken_templates_are_named(void **state)
{
    (void)state;
    refuses_tokenizer("{}", LT_ERR_USAGE, "has no chat template");
    refuses_tokenizer("{\"chat_template\": null}", LT_ERR_USAGE, "has no chat template");
    refuses_tokenizer("{\"chat_template\": 5}", LT_ERR_FORMAT, "must be a text");
    refuses_tokenizer("{\"chat_template\": [{\"name\": \"rag\", \"template\": \"x\"}]}",
                      LT_ERR_FORMAT, "\"default\"");
    refuses_tokenizer("{\"chat_template\": \"{% for x in %}\"}", LT_ERR_FORMAT,
                      "tokenizer_config.json: chat_template");
}

static void tokens_in_normalised_text_are_refused(void **state)
{
    (void)state;
    lt_tokenizer *tokenizer = NULL;
    lt_chat_template *chat = NULL;
    lt_err err = {0};
    lt_buffer json = {0}, config = {0};
    setup s = open_golden("mistral_prepend");
    must(lt_tokenizer_to_json(s.tokenizer, &json, &config, &err), &err);
    json_t *changed = parse(json.data);
    json_t *first = json_array_get(json_object_get(changed, "added_tokens"), 1);
    json_object_set_new(first, "normalized", json_true());
    lt_buffer_clear(&json);
    must(lt_json_dump(changed, 0, &json, &err), &err);
    must(lt_tokenizer_parse(json.data, json.size, config.data, config.size, "t", &tokenizer, &err),
         &err);
    assert_int_equal(lt_chat_template_compile(tokenizer, "x", "t", &chat, &err),
                     LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "normalised"));
    json_decref(changed);
    lt_tokenizer_free(tokenizer);
    lt_buffer_free(&json);
    lt_buffer_free(&config);
    close_setup(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(native_templates_in_jinja_give_the_same_ids),
        cmocka_unit_test(records_go_through_the_tokenizers_template),
        cmocka_unit_test(tools_reach_the_template),
        cmocka_unit_test(a_stored_tokenizer_keeps_its_template),
        cmocka_unit_test(broken_conversations_are_named),
        cmocka_unit_test(missing_and_broken_templates_are_named),
        cmocka_unit_test(tokens_in_normalised_text_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
