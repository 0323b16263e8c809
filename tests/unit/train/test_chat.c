/* A conversation that keeps its keys and values, against answering each whole prompt anew. */
#include "../check.h"

#include "base/json.h"
#include "train/chat_session.h"

enum { POSITIONS = 256 };

typedef struct fixture {
    lt_backend *backend;
    lt_tokenizer *tokenizer;
    lt_model *model;
    lt_assistant assistant;
    lt_chat_session *session;
} fixture;

static fixture *make_fixture(const char *tokenizer, const lt_model_notes *notes)
{
    char path[512];
    fixture *f = calloc(1, sizeof *f);
    lt_err err = {0};
    snprintf(path, sizeof path, LATHE_TEST_DIR "/golden/%s", tokenizer);
    must(lt_tokenizer_load(path, &f->tokenizer, &err), &err);
    lt_backend_settings machine = {.device = LT_DEVICE_CPU, .threads = 1};
    must(lt_backend_create(&machine, &f->backend, &err), &err);
    lt_model_shape shape = {.family = "gpt2",
                            .layers = 2,
                            .hidden_size = 16,
                            .heads = 2,
                            .max_position = POSITIONS,
                            .vocab_size = lt_tokenizer_vocab_size(f->tokenizer),
                            .bos_token_id = -1,
                            .eos_token_id = -1,
                            .pad_token_id = -1};
    lt_model_config config;
    must(lt_model_config_make(&shape, &config, &err), &err);
    config.initializer_range = 0.5; /* answers that are not one token over and over */
    must(lt_model_create(&config, f->backend, 7, &f->model, &err), &err);
    must(lt_assistant_wrap(f->model, f->tokenizer, notes, &f->assistant, &err), &err);
    must(lt_chat_session_create(&f->assistant, NULL, &f->session, &err), &err);
    return f;
}

static void free_fixture(fixture *f)
{
    lt_chat_session_free(f->session);
    lt_assistant_close(&f->assistant);
    lt_model_free(f->model);
    lt_backend_free(f->backend);
    lt_tokenizer_free(f->tokenizer);
    free(f);
}

static void say(json_t *messages, const char *role, const char *content)
{
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", role, "content", content));
}

static lt_chat_reply answer(fixture *f, const json_t *messages, const lt_answer_settings *settings)
{
    const lt_conversation conversation = {.messages = messages};
    lt_chat_reply reply = {0};
    lt_err err = {0};
    must(lt_chat_session_answer(f->session, &conversation, settings, NULL, NULL, &reply, &err),
         &err);
    return reply;
}

/* The same question to an assistant that knows of no session. */
static lt_answer answer_anew(fixture *f, const json_t *messages, const lt_answer_settings *settings)
{
    lt_record record;
    lt_answer out = {0};
    lt_err err = {0};
    json_t *list = json_copy((json_t *)messages), *json = json_pack("{s:o}", "messages", list);
    say(list, "assistant", "an answer, which no prompt has");
    must(lt_record_from_json(json, LT_FORMAT_MESSAGES, "here:1", &record, &err), &err);
    lt_prompt prompt = {.record = &record};
    must(lt_assistant_answer(&f->assistant, &prompt, 1, settings, NULL, NULL, &out, &err), &err);
    lt_record_free(&record);
    json_decref(json);
    return out;
}

static void assert_same(const lt_answer *a, const lt_answer *b)
{
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
    assert_int_equal(a->ids.count, b->ids.count);
    assert_memory_equal(a->ids.data, b->ids.data, a->ids.count * sizeof *a->ids.data);
    assert_string_equal(lt_buffer_text(&a->text), lt_buffer_text(&b->text));
    assert_int_equal(a->finish, b->finish);
}

/* --- Answers ---------------------------------------------------------------------------------- */

static void answers_equal_those_of_whole_prompts(void **state)
{
    (void)state;
    static const char *const questions[] = {"Hi", "How tall is it?", "And wide?"};
    fixture *f = make_fixture("chat/qwen", &(lt_model_notes){0});
    for (int sampled = 0; sampled < 2; sampled++) {
        lt_answer_settings settings = {.max_new_tokens = 12,
                                       .sampling = {.temperature = sampled, .seed = 5}};
        json_t *messages = json_array();
        int64_t before = 0;
        for (int i = 0; i < 3; i++) {
            say(messages, "user", questions[i]);
            lt_chat_reply reply = answer(f, messages, &settings);
            lt_answer anew = answer_anew(f, messages, &settings);
            assert_same(&reply.answer, &anew);
            assert_int_equal(reply.left_out, 0);
            /* the question before and its answer's first ids were not read again */
            if (i > 0) assert_true(reply.reused >= before);
            before = reply.answer.prompt_tokens;
            say(messages, "assistant", i == 1 ? "Said otherwise" : lt_buffer_text(&anew.text));
            if (json_string_length(json_object_get(json_array_get(messages, 1), "content")) == 0)
                fail_msg("the test's model answers nothing");
            lt_answer_free(&reply.answer);
            lt_answer_free(&anew);
        }
        json_decref(messages);
    }
    free_fixture(f);
}

static void a_question_asked_again_reads_one_token(void **state)
{
    (void)state;
    fixture *f = make_fixture("chat/qwen", &(lt_model_notes){0});
    lt_answer_settings settings = {.max_new_tokens = 6};
    json_t *messages = json_array();
    say(messages, "user", "Once upon a time");
    lt_chat_reply first = answer(f, messages, &settings);
    lt_chat_reply again = answer(f, messages, &settings);
    assert_int_equal(first.reused, 0);
    assert_int_equal(again.reused, again.answer.prompt_tokens - 1);
    assert_same(&first.answer, &again.answer);
    lt_answer_free(&first.answer);
    lt_answer_free(&again.answer);
    json_decref(messages);
    free_fixture(f);
}

/* A template for single questions goes on in the same form. */
static void native_templates_hold_conversations(void **state)
{
    (void)state;
    fixture *f = make_fixture(
        "chat/llama3", &(lt_model_notes){.has_template = true, .template_ = LT_TEMPLATE_ALPACA});
    lt_answer_settings settings = {.max_new_tokens = 5};
    json_t *messages = json_array();
    say(messages, "user", "Hi");
    lt_chat_reply reply = answer(f, messages, &settings);
    lt_answer anew = answer_anew(f, messages, &settings);
    assert_same(&reply.answer, &anew);
    int64_t before = reply.answer.prompt_tokens;
    lt_answer_free(&reply.answer);
    lt_answer_free(&anew);
    say(messages, "assistant", "Hello");
    say(messages, "user", "Bye");
    reply = answer(f, messages, &settings);
    assert_true(reply.reused >= before);
    lt_answer_free(&reply.answer);
    json_decref(messages);
    free_fixture(f);
}

static void an_answer_ends_with_its_stop_token(void **state)
{
    (void)state;
    fixture *f = make_fixture("chat/qwen", &(lt_model_notes){0});
    lt_answer_settings settings = {.max_new_tokens = 12};
    json_t *messages = json_array();
    lt_err err = {0};
    say(messages, "user", "Hi");
    lt_chat_reply whole = answer(f, messages, &settings);
    int32_t stop = whole.answer.ids.data[4];
    int64_t first = 0;
    while (whole.answer.ids.data[first] != stop)
        first++;
    lt_chat_session_free(f->session);
    f->model->config.eos_token_ids[0] = stop;
    f->model->config.eos_token_count = 1;
    must(lt_chat_session_create(&f->assistant, NULL, &f->session, &err), &err);
    lt_chat_reply stopped = answer(f, messages, &settings);
    lt_answer anew = answer_anew(f, messages, &settings);
    assert_same(&stopped.answer, &anew);
    assert_int_equal(stopped.answer.ids.count, first + 1);
    assert_int_equal(stopped.answer.finish, LT_FINISH_STOP);
    lt_answer_free(&whole.answer);
    lt_answer_free(&stopped.answer);
    lt_answer_free(&anew);
    json_decref(messages);
    free_fixture(f);
}

/* --- What does not fit ------------------------------------------------------------------------ */

static void the_oldest_exchanges_are_left_out(void **state)
{
    (void)state;
    fixture *f = make_fixture("chat/llama3", &(lt_model_notes){0});
    lt_answer_settings settings = {.max_new_tokens = 4};
    json_t *messages = json_array(), *rest = json_array();
    say(messages, "system", "Be brief.");
    for (int i = 0; i < 12; i++) {
        say(messages, "user", "How tall is the old water tower?");
        say(messages, "assistant", "It is 41 metres tall.");
    }
    say(messages, "user", "And wide?");
    lt_chat_reply reply = answer(f, messages, &settings);
    assert_true(reply.left_out > 0 && reply.left_out % 2 == 0 && reply.left_out < 24);
    assert_true(reply.answer.prompt_tokens + 4 <= POSITIONS);
    /* what is left is the system message and the newest */
    json_array_append(rest, json_array_get(messages, 0));
    for (size_t i = 1 + (size_t)reply.left_out; i < json_array_size(messages); i++)
        json_array_append(rest, json_array_get(messages, i));
    lt_answer anew = answer_anew(f, rest, &settings);
    assert_same(&reply.answer, &anew);
    assert_int_equal(json_array_size(messages), 26);
    /* an answer of any length is left a quarter of what the model sees */
    settings.max_new_tokens = 0;
    lt_chat_reply long_reply = answer(f, messages, &settings);
    assert_true(long_reply.left_out > reply.left_out);
    assert_true(long_reply.answer.prompt_tokens <= POSITIONS - POSITIONS / 4);
    lt_answer_free(&long_reply.answer);
    lt_answer_free(&reply.answer);
    lt_answer_free(&anew);
    json_decref(messages);
    json_decref(rest);
    free_fixture(f);
}

static void a_message_too_long_is_refused_and_the_session_lives(void **state)
{
    (void)state;
    fixture *f = make_fixture("chat/qwen", &(lt_model_notes){0});
    lt_answer_settings settings = {.max_new_tokens = 4};
    char text[4 * POSITIONS];
    for (size_t i = 0; i + 1 < sizeof text; i++)
        text[i] = (char)('0' + i % 10);
    text[sizeof text - 1] = '\0';
    json_t *messages = json_array(), *wanted = json_array();
    say(messages, "user", text);
    const lt_conversation conversation = {.messages = messages};
    lt_chat_reply reply = {0};
    lt_err err = {0};
    assert_int_equal(
        lt_chat_session_answer(f->session, &conversation, &settings, NULL, NULL, &reply, &err),
        LT_ERR_LIMIT);
    assert_non_null(strstr(err.message, "does not fit"));
    lt_answer_free(&reply.answer);
    say(wanted, "user", "Hi");
    reply = answer(f, wanted, &settings);
    assert_true(reply.answer.ids.count > 0);
    lt_answer_free(&reply.answer);
    json_decref(messages);
    json_decref(wanted);
    free_fixture(f);
}

/* --- Stopping --------------------------------------------------------------------------------- */

static volatile sig_atomic_t cancelled;

static void cancel(void *context, int64_t index, const char *text, size_t size)
{
    lt_buffer *seen = context;
    (void)index;
    lt_buffer_append(seen, text, size, NULL);
    cancelled = 1;
}

static void an_answer_can_be_stopped(void **state)
{
    (void)state;
    fixture *f = make_fixture("chat/qwen", &(lt_model_notes){0});
    lt_answer_settings settings = {.max_new_tokens = 40, .cancelled = &cancelled};
    json_t *messages = json_array();
    lt_buffer seen = {0};
    lt_chat_reply reply = {0};
    lt_err err = {0};
    say(messages, "user", "Hi");
    const lt_conversation conversation = {.messages = messages};
    cancelled = 0;
    assert_int_equal(
        lt_chat_session_answer(f->session, &conversation, &settings, cancel, &seen, &reply, &err),
        LT_ERR_INTERRUPTED);
    assert_true(reply.answer.ids.count < 40 && reply.answer.text.size > 0);
    assert_string_equal(lt_buffer_text(&seen), lt_buffer_text(&reply.answer.text));
    lt_answer_free(&reply.answer);
    settings.cancelled = NULL;
    reply = answer(f, messages, &settings);
    lt_answer anew = answer_anew(f, messages, &settings);
    assert_same(&reply.answer, &anew);
    lt_answer_free(&reply.answer);
    lt_answer_free(&anew);
    lt_buffer_free(&seen);
    json_decref(messages);
    free_fixture(f);
}

/* --- Which template --------------------------------------------------------------------------- */

static void the_trained_template_comes_before_the_tokenizers(void **state)
{
    (void)state;
    lt_model_notes trained = {.has_template = true, .template_ = LT_TEMPLATE_PLAIN};
    fixture *f = make_fixture("chat/llama3", &trained);
    assert_int_equal(f->assistant.notes.template_, LT_TEMPLATE_PLAIN);
    assert_false(f->assistant.untrained_template);
    free_fixture(f);
    f = make_fixture("chat/llama3", &(lt_model_notes){0});
    assert_int_equal(f->assistant.notes.template_, LT_TEMPLATE_CHAT);
    assert_true(f->assistant.untrained_template);
    free_fixture(f);
}

static void without_a_template_there_is_no_conversation(void **state)
{
    (void)state;
    fixture *f = make_fixture("chat/llama3", &(lt_model_notes){0});
    lt_chat_session *session = NULL;
    lt_err err = {0};
    f->assistant.notes.has_template = false;
    assert_int_equal(lt_chat_session_create(&f->assistant, NULL, &session, &err), LT_ERR_USAGE);
    assert_null(session);
    assert_non_null(strstr(err.message, "--template"));
    free_fixture(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_equal_those_of_whole_prompts),
        cmocka_unit_test(a_question_asked_again_reads_one_token),
        cmocka_unit_test(native_templates_hold_conversations),
        cmocka_unit_test(an_answer_ends_with_its_stop_token),
        cmocka_unit_test(the_oldest_exchanges_are_left_out),
        cmocka_unit_test(a_message_too_long_is_refused_and_the_session_lives),
        cmocka_unit_test(an_answer_can_be_stopped),
        cmocka_unit_test(the_trained_template_comes_before_the_tokenizers),
        cmocka_unit_test(without_a_template_there_is_no_conversation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
