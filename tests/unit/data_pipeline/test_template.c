/* Templates against ids and labels that the real Hugging Face tokenizer gave
 * (tests/golden/make_dolly_golden.py), and what they refuse. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/batch.h"
#include "base/json.h"
#include "data_pipeline/data_pipeline.h"

#define GOLDEN LATHE_TEST_DIR "/golden/dolly/"

typedef struct setup {
    lt_tokenizer *tokenizer;
    lt_encoder *encoder;
} setup;

static setup open_tokenizer(const char *path, lt_template template_)
{
    setup s = {0};
    lt_err err = {0};
    size_t count = 0, added;
    const char *const *tokens = lt_template_special_tokens(template_);
    while (tokens[count])
        count++;
    if (lt_tokenizer_load(path, &s.tokenizer, &err) != LT_OK ||
        (count && lt_tokenizer_add_special_tokens(s.tokenizer, tokens, count, &added, &err)) ||
        lt_encoder_create(s.tokenizer, &s.encoder, &err) != LT_OK)
        fail_msg("%s", err.message);
    return s;
}

static void close_tokenizer(setup *s)
{
    lt_encoder_free(s->encoder);
    lt_tokenizer_free(s->tokenizer);
}

static void assert_encodes(const setup *s, lt_template template_, const lt_record *record,
                           const json_t *expected)
{
    lt_ids ids = {0}, prompt = {0};
    lt_buffer mask = {0};
    lt_err err = {0};
    const json_t *want_ids = json_object_get(expected, "ids");
    const json_t *want_labels = json_object_get(expected, "labels");
    if (lt_template_encode(template_, s->encoder, s->tokenizer, record, &ids, &mask, &err))
        fail_msg("%s", err.message);
    assert_int_equal(ids.count, json_array_size(want_ids));
    assert_int_equal(mask.size, ids.count);
    size_t last_untrained = 0;
    for (size_t i = 0; i < ids.count; i++) {
        int32_t label = mask.data[i] ? ids.data[i] : LT_IGNORE;
        assert_int_equal(ids.data[i], json_integer_value(json_array_get(want_ids, i)));
        assert_int_equal(label, json_integer_value(json_array_get(want_labels, i)));
        if (!mask.data[i]) last_untrained = i;
    }
    /* The prompt is all up to where the answer begins: the model is asked as it was trained. */
    assert_int_equal(
        lt_template_encode_prompt(template_, s->encoder, s->tokenizer, record, &prompt, NULL),
        LT_OK);
    assert_int_equal(prompt.count, last_untrained + 1);
    assert_memory_equal(prompt.data, ids.data, prompt.count * sizeof *prompt.data);
    lt_ids_free(&prompt);
    lt_ids_free(&ids);
    lt_buffer_free(&mask);
}

static void check_golden(lt_template template_, const char *records)
{
    json_t *expected = NULL;
    lt_err err = {0};
    if (lt_json_load(GOLDEN "expected.json", &expected, &err) != LT_OK) fail_msg("%s", err.message);
    const json_t *list = json_object_get(expected, lt_template_name(template_));
    assert_true(json_array_size(list) > 0);
    setup s = open_tokenizer(GOLDEN "tokenizer.json", template_);
    lt_record_reader *reader = NULL;
    if (lt_record_reader_open(records, LT_FORMAT_AUTO, NULL, &reader, &err) != LT_OK)
        fail_msg("%s", err.message);
    size_t count = 0;
    for (bool more = true; more;) {
        lt_record record;
        if (lt_record_reader_next(reader, &record, &more, &err) != LT_OK)
            fail_msg("%s", err.message);
        if (!more) break;
        assert_encodes(&s, template_, &record, json_array_get(list, count++));
        lt_record_free(&record);
    }
    assert_int_equal(count, json_array_size(list));
    lt_record_reader_close(reader);
    close_tokenizer(&s);
    json_decref(expected);
}

static void dolly_equals_the_recipe(void **state)
{
    (void)state;
    check_golden(LT_TEMPLATE_DOLLY, GOLDEN "records.jsonl");
}

static void alpaca_equals_the_reference(void **state)
{
    (void)state;
    check_golden(LT_TEMPLATE_ALPACA, GOLDEN "records.jsonl");
}

static void chatml_equals_the_reference(void **state)
{
    (void)state;
    check_golden(LT_TEMPLATE_CHATML, GOLDEN "messages.jsonl");
}

static lt_record record_of(const char *json)
{
    lt_record record;
    lt_err err = {0};
    json_t *object = json_loads(json, 0, NULL);
    if (lt_record_from_json(object, LT_FORMAT_AUTO, "here:1", &record, &err) != LT_OK)
        fail_msg("%s", err.message);
    json_decref(object);
    return record;
}

static void assert_renders(lt_template template_, const char *json, const char *expected)
{
    setup s = open_tokenizer(GOLDEN, template_);
    lt_record record = record_of(json);
    lt_buffer text = {0};
    lt_err err = {0};
    if (lt_template_render(template_, s.tokenizer, &record, &text, &err))
        fail_msg("%s", err.message);
    assert_string_equal(lt_buffer_text(&text), expected);
    lt_buffer_free(&text);
    lt_record_free(&record);
    close_tokenizer(&s);
}

static void records_are_rendered(void **state)
{
    (void)state;
    const char *preamble = "Below is an instruction that describes a task. Write a response that "
                           "appropriately completes the request.";
    char text[600];
    snprintf(text, sizeof text,
             "%s\n\n### Instruction:\nI\n\nInput:\nC\n\n### Response:\nR\n\n### End", preamble);
    assert_renders(LT_TEMPLATE_DOLLY,
                   "{\"instruction\":\"I\",\"context\":\"C\",\"response\":\"R\"}", text);
    snprintf(text, sizeof text, "%s\n\n### Instruction:\nI\n\n### Response:\nR\n\n### End",
             preamble);
    assert_renders(LT_TEMPLATE_DOLLY, "{\"prompt\":\"I\",\"completion\":\"R\"}", text);
    assert_renders(LT_TEMPLATE_ALPACA, "{\"instruction\":\"I\",\"output\":\"R\",\"system\":\"S\"}",
                   "S\n\n### Instruction:\nI\n\n### Response:\nR<|endoftext|>");
    assert_renders(LT_TEMPLATE_ALPACA,
                   "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\","
                   "\"content\":\"I\"},{\"role\":\"assistant\",\"content\":\"R\"}]}",
                   "S\n\n### Instruction:\nI\n\n### Response:\nR<|endoftext|>");
    assert_renders(LT_TEMPLATE_CHATML,
                   "{\"instruction\":\"I\",\"context\":\"C\",\"response\":\"R\"}",
                   "<|im_start|>user\nI\n\nC<|im_end|>\n<|im_start|>assistant\nR<|im_end|>");
    assert_renders(LT_TEMPLATE_PLAIN, "{\"prompt\":\"I \",\"completion\":\"R\"}",
                   "I R<|endoftext|>");
    assert_renders(LT_TEMPLATE_PLAIN, "{\"text\":\"T\"}", "<|endoftext|>T<|endoftext|>");
}

static void assert_refuses(lt_template template_, const char *json, const char *word)
{
    setup s = open_tokenizer(GOLDEN, template_);
    lt_record record = record_of(json);
    lt_ids ids = {0};
    lt_buffer mask = {0};
    lt_err err = {0};
    assert_int_equal(
        lt_template_encode(template_, s.encoder, s.tokenizer, &record, &ids, &mask, &err),
        LT_ERR_FORMAT);
    if (!strstr(err.message, word) || !strstr(err.message, "here:1")) fail_msg("%s", err.message);
    lt_ids_free(&ids);
    lt_buffer_free(&mask);
    lt_record_free(&record);
    close_tokenizer(&s);
}

static void records_that_do_not_suit_are_refused(void **state)
{
    (void)state;
    const char *two_turns =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":"
        "\"a\"},{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}";
    assert_refuses(LT_TEMPLATE_DOLLY, two_turns, "--template chatml");
    assert_refuses(LT_TEMPLATE_PLAIN, two_turns, "--template chatml");
    assert_refuses(LT_TEMPLATE_DOLLY, "{\"text\":\"t\"}", "--template plain");
    assert_refuses(LT_TEMPLATE_CHATML, "{\"text\":\"t\"}", "--template plain");
}

/* A template whose tokens the tokenizer lacks says which. */
static void missing_special_tokens_are_named(void **state)
{
    (void)state;
    setup s = open_tokenizer(GOLDEN, LT_TEMPLATE_PLAIN);
    lt_record record = record_of("{\"prompt\":\"I\",\"completion\":\"R\"}");
    lt_ids ids = {0};
    lt_buffer mask = {0};
    lt_err err = {0};
    assert_int_equal(
        lt_template_encode(LT_TEMPLATE_DOLLY, s.encoder, s.tokenizer, &record, &ids, &mask, &err),
        LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "### Instruction:"));
    lt_ids_free(&ids);
    lt_buffer_free(&mask);
    lt_record_free(&record);
    close_tokenizer(&s);
}

/* The ids that Pythia's tokenizer gives (formats known from databrickslabs/dolly). */
static void pythia_ids(void **state)
{
    (void)state;
    const char *assets = getenv("LATHE_TEST_ASSETS");
    if (!assets) {
        print_message("LATHE_TEST_ASSETS is not set: the real GPT-NeoX tokenizer is not tried\n");
        skip();
    }
    static const int32_t expected[] = {30003, 310,   271, 9775,  326,   8631,  247,   4836,
                                       15,    19566, 247, 2380,  326,   20420, 29141, 253,
                                       2748,  15,    535, 50278, 187,   1276,  310,   374,
                                       12,    19,    32,  535,   50279, 21,    535,   50277};
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizers/gpt-neox-20b", assets);
    setup s = open_tokenizer(path, LT_TEMPLATE_DOLLY);
    lt_record record = record_of("{\"instruction\":\"What is 2+2?\",\"response\":\"4\"}");
    lt_ids ids = {0};
    lt_buffer mask = {0};
    assert_int_equal(
        lt_template_encode(LT_TEMPLATE_DOLLY, s.encoder, s.tokenizer, &record, &ids, &mask, NULL),
        LT_OK);
    assert_int_equal(ids.count, sizeof expected / sizeof *expected);
    assert_memory_equal(ids.data, expected, sizeof expected);
    for (size_t i = 0; i < ids.count; i++)
        assert_int_equal(mask.data[i], i >= ids.count - 3);
    lt_ids_free(&ids);
    lt_buffer_free(&mask);
    lt_record_free(&record);
    close_tokenizer(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dolly_equals_the_recipe),
        cmocka_unit_test(alpaca_equals_the_reference),
        cmocka_unit_test(chatml_equals_the_reference),
        cmocka_unit_test(records_are_rendered),
        cmocka_unit_test(records_that_do_not_suit_are_refused),
        cmocka_unit_test(missing_special_tokens_are_named),
        cmocka_unit_test(pythia_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
