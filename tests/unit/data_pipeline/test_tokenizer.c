/* The tokenizer against the real library's results on made-up tokenizers of every kind
 * (tests/golden/tokenizer), and the rules of the interface: streaming, saving, refusing. */
#include "../folder.h"
#include "tokenizers.h"

#include "base/json.h"

static lt_status parse(const char *json, lt_tokenizer **out)
{
    memset(&err, 0, sizeof err);
    return lt_tokenizer_parse(json, strlen(json), NULL, 0, "test.json", out, &err);
}

static void assert_same_ids(const lt_ids *got, const json_t *want, const char *what, size_t index)
{
    bool same = got->count == json_array_size(want);
    for (size_t i = 0; same && i < got->count; i++)
        same = got->data[i] == json_integer_value(json_array_get(want, i));
    if (same) return;
    char *text = json_dumps(want, JSON_COMPACT);
    print_error("%s, text %zu: expected %s, got", what, index, text);
    for (size_t i = 0; i < got->count; i++)
        print_error(" %d", got->data[i]);
    print_error("\n");
    free(text);
    fail();
}

static void assert_same_text(const lt_buffer *got, const lt_buffer *want, const char *what,
                             size_t index)
{
    if (got->size != want->size || memcmp(lt_buffer_text(got), lt_buffer_text(want), got->size))
        fail_msg("%s, text %zu: expected \"%s\", got \"%s\"", what, index, lt_buffer_text(want),
                 lt_buffer_text(got));
}

/* Decodes at once and as a stream; what the stream gives must be whole characters. */
static void check_decode(const lt_tokenizer *tokenizer, const lt_ids *ids, bool skip,
                         const json_t *want, const char *what, size_t index)
{
    lt_buffer got = {0}, expected = {0}, streamed = {0};
    lt_stream_decoder decoder;
    append_text(want, &expected);
    ok(lt_decode(tokenizer, ids->data, ids->count, skip, &got, &err));
    assert_same_text(&got, &expected, what, index);
    lt_stream_decoder_init(&decoder, tokenizer, skip);
    for (size_t i = 0; i < ids->count; i++) {
        size_t before = streamed.size;
        ok(lt_stream_decoder_push(&decoder, ids->data[i], &streamed, &err));
        if (streamed.size > before) {
            unsigned char first = (unsigned char)streamed.data[before];
            assert_true((first & 0xC0) != 0x80);
        }
    }
    ok(lt_stream_decoder_finish(&decoder, &streamed, &err));
    assert_same_text(&streamed, &expected, what, index);
    lt_buffer_free(&got);
    lt_buffer_free(&expected);
    lt_buffer_free(&streamed);
}

static void check_case(const json_t *golden_case, const json_t *texts)
{
    const char *name = json_string_value(json_object_get(golden_case, "tokenizer"));
    unsigned flags = 0;
    if (json_is_true(json_object_get(golden_case, "special"))) flags |= LT_ENCODE_PARSE_SPECIAL;
    if (json_is_true(json_object_get(golden_case, "add"))) flags |= LT_ENCODE_ADD_SPECIAL;
    const json_t *decoded = json_object_get(golden_case, "decoded");
    const json_t *skipped = json_object_get(golden_case, "skipped");
    lt_tokenizer *tokenizer = load_golden(name);
    lt_encoder *encoder;
    lt_buffer text = {0};
    lt_ids ids = {0};
    ok(lt_encoder_create(tokenizer, &encoder, &err));
    for (int round = 0; round < 2; round++) { /* the second time out of the cache */
        for (size_t i = 0; i < json_array_size(texts); i++) {
            append_text(json_array_get(texts, i), &text);
            ids.count = 0;
            ok(lt_encode(encoder, lt_buffer_text(&text), text.size, flags, &ids, &err));
            assert_same_ids(&ids, json_array_get(json_object_get(golden_case, "ids"), i), name, i);
            if (!decoded) continue;
            check_decode(tokenizer, &ids, false, json_array_get(decoded, i), name, i);
            check_decode(tokenizer, &ids, true, json_array_get(skipped, i), name, i);
        }
    }
    lt_ids_free(&ids);
    lt_buffer_free(&text);
    lt_encoder_free(encoder);
    lt_tokenizer_free(tokenizer);
}

static void test_golden(void **state)
{
    (void)state;
    json_t *golden = NULL;
    ok(lt_json_load(GOLDEN "golden.json", &golden, &err));
    const json_t *cases = json_object_get(golden, "cases");
    assert_true(json_array_size(cases) >= 24);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(json_array_get(cases, i), json_object_get(golden, "texts"));
    json_decref(golden);
}

/* What both write and read back must stay: ids, hash, bytes of the next writing. */
static void check_same_after_parse(const lt_tokenizer *tokenizer)
{
    lt_buffer json = {0}, config = {0}, json_again = {0}, config_again = {0};
    lt_tokenizer *again = NULL;
    ok(lt_tokenizer_to_json(tokenizer, &json, &config, &err));
    ok(lt_tokenizer_parse(json.data, json.size, config.data, config.size, "memory", &again, &err));
    assert_string_equal(lt_tokenizer_hash(tokenizer), lt_tokenizer_hash(again));
    assert_int_equal(lt_tokenizer_vocab_size(tokenizer), lt_tokenizer_vocab_size(again));
    assert_int_equal(lt_tokenizer_eos_id(tokenizer), lt_tokenizer_eos_id(again));
    assert_int_equal(lt_tokenizer_bos_id(tokenizer), lt_tokenizer_bos_id(again));
    ok(lt_tokenizer_to_json(again, &json_again, &config_again, &err));
    assert_string_equal(json.data, json_again.data);
    assert_string_equal(config.data, config_again.data);
    lt_tokenizer_free(again);
    lt_buffer_free(&json);
    lt_buffer_free(&config);
    lt_buffer_free(&json_again);
    lt_buffer_free(&config_again);
}

static void test_writing_round_trips(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2.json",   "neox.json",    "llama3.json",
                                        "qwen2.json",  "llama2.json",  "metaspace.json",
                                        "prefix.json", "unknown.json", "bytes_missing.json"};
    char hashes[9][40];
    for (size_t i = 0; i < 9; i++) {
        lt_tokenizer *tokenizer = load_golden(names[i]);
        check_same_after_parse(tokenizer);
        snprintf(hashes[i], sizeof hashes[i], "%s", lt_tokenizer_hash(tokenizer));
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(hashes[i], hashes[k]);
        lt_tokenizer_free(tokenizer);
    }
}

/* --- Adding special tokens --------------------------------------------------------------------
 */

static const char *const dolly[] = {"### End", "### Instruction:", "### Response:\n"};

static void test_add_special_tokens(void **state)
{
    (void)state;
    lt_tokenizer *tokenizer = load_golden("neox.json");
    char before[40];
    snprintf(before, sizeof before, "%s", lt_tokenizer_hash(tokenizer));
    int64_t size = lt_tokenizer_vocab_size(tokenizer);
    size_t added;
    ok(lt_tokenizer_add_special_tokens(tokenizer, dolly, 3, &added, &err));
    assert_int_equal(added, 3);
    assert_int_equal(lt_tokenizer_vocab_size(tokenizer), size + 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(lt_tokenizer_token_id(tokenizer, dolly[i]), size + i);
        assert_true(lt_tokenizer_is_special(tokenizer, (int32_t)size + i));
        assert_string_equal(lt_tokenizer_token(tokenizer, (int32_t)size + i), dolly[i]);
    }
    assert_string_not_equal(before, lt_tokenizer_hash(tokenizer));
    ok(lt_tokenizer_add_special_tokens(tokenizer, dolly, 3, &added, &err));
    assert_int_equal(added, 0);
    assert_int_equal(lt_tokenizer_vocab_size(tokenizer), size + 3);
    check_same_after_parse(tokenizer);

    lt_encoder *encoder;
    lt_ids ids = {0};
    ok(lt_encoder_create(tokenizer, &encoder, &err));
    ok(lt_encode(encoder, dolly[2], strlen(dolly[2]), LT_ENCODE_PARSE_SPECIAL, &ids, &err));
    assert_int_equal(ids.count, 1);
    ids.count = 0; /* in user text it stays text */
    ok(lt_encode(encoder, dolly[2], strlen(dolly[2]), LT_ENCODE_PLAIN, &ids, &err));
    assert_true(ids.count > 1);
    for (size_t i = 0; i < ids.count; i++)
        assert_true(ids.data[i] < size);
    lt_ids_free(&ids);
    lt_encoder_free(encoder);
    lt_tokenizer_free(tokenizer);
}

/* A token of the vocabulary keeps its id and becomes special; nothing is new. */
static void test_add_known_token(void **state)
{
    (void)state;
    lt_tokenizer *tokenizer = load_golden("gpt2.json");
    const char *const contents[] = {"mill"};
    int32_t id = lt_tokenizer_token_id(tokenizer, "mill");
    int64_t size = lt_tokenizer_vocab_size(tokenizer);
    size_t added = 9;
    assert_true(id > 0);
    ok(lt_tokenizer_add_special_tokens(tokenizer, contents, 1, &added, &err));
    assert_int_equal(added, 0);
    assert_int_equal(lt_tokenizer_token_id(tokenizer, "mill"), id);
    assert_int_equal(lt_tokenizer_vocab_size(tokenizer), size);
    assert_true(lt_tokenizer_is_special(tokenizer, id));
    lt_tokenizer_free(tokenizer);
}

/* --- Files ------------------------------------------------------------------------------------
 */

static void write_file(const char *name, const char *text)
{
    lt_buffer path = {0};
    ok(lt_path_join(&path, folder, name, &err));
    ok(lt_write_file(path.data, text, strlen(text), &err));
    lt_buffer_free(&path);
}

/* 256 bytes, two merges, one named special token. */
static void write_pair(void)
{
    lt_tokenizer *golden = load_golden("gpt2.json");
    lt_buffer vocab = {0};
    ok(lt_buffer_append_text(&vocab, "{", &err));
    for (int32_t id = 0; id < 256; id++) { /* the alphabet comes first in the golden file */
        json_t *spelling = json_string(lt_tokenizer_token(golden, id));
        char *quoted = json_dumps(spelling, JSON_ENCODE_ANY);
        ok(lt_buffer_printf(&vocab, &err, "%s: %d,\n", quoted, id));
        free(quoted);
        json_decref(spelling);
    }
    ok(lt_buffer_append_text(&vocab, "\"ab\": 256, \"\\u0120ab\": 257, \"<end>\": 258}", &err));
    write_file("vocab.json", vocab.data);
    write_file("merges.txt", "#version: 0.2\na b\r\n\xC4\xA0 ab\n");
    lt_buffer_free(&vocab);
    lt_tokenizer_free(golden);
}

static void check_pair(const char *path, const char *text, size_t count, const int32_t *want)
{
    lt_tokenizer *tokenizer = load(path);
    lt_encoder *encoder;
    lt_ids ids = {0};
    ok(lt_encoder_create(tokenizer, &encoder, &err));
    ok(lt_encode(encoder, text, strlen(text), LT_ENCODE_PARSE_SPECIAL | LT_ENCODE_ADD_SPECIAL, &ids,
                 &err));
    assert_int_equal(ids.count, count);
    assert_memory_equal(ids.data, want, count * sizeof *want);
    lt_ids_free(&ids);
    lt_encoder_free(encoder);
    lt_tokenizer_free(tokenizer);
}

static void test_vocab_and_merges(void **state)
{
    (void)state;
    char path[128];
    write_pair();
    check_pair(folder, "ab ab", 2, (const int32_t[]){256, 257});
    snprintf(path, sizeof path, "%s/vocab.json", folder);
    check_pair(path, "ab", 1, (const int32_t[]){256});
    snprintf(path, sizeof path, "%s/merges.txt", folder);
    check_pair(path, "ab", 1, (const int32_t[]){256});
    write_file("tokenizer_config.json",
               "{\"eos_token\": \"<end>\", \"bos_token\": {\"content\": \"<end>\"}, "
               "\"model_max_length\": 1000000000000000019884624838656}");
    check_pair(folder, "ab<end>", 2, (const int32_t[]){256, 258});
    write_file("tokenizer_config.json",
               "{\"bos_token\": {\"content\": \"<end>\"}, \"add_bos_token\": true, "
               "\"add_prefix_space\": true}");
    check_pair(folder, "ab", 2, (const int32_t[]){258, 257});
    write_file("tokenizer_config.json", "{\"eos_token\": \"<end>\", \"add_eos_token\": true}");
    check_pair(folder, " ab", 2, (const int32_t[]){257, 258});
}

/* Everything beside the tokenizer survives, unknown keys and huge integers too. */
static void test_save_carries_along(void **state)
{
    (void)state;
    char out[128], path[160];
    write_pair();
    write_file("tokenizer_config.json",
               "{\"model_max_length\": 1000000000000000019884624838656, \"strange\": [1, {}], "
               "\"eos_token\": \"<end>\", \"chat_template\": \"{{ x }}\"}");
    write_file("special_tokens_map.json", "{\"eos_token\": \"<end>\", \"kept\": 1}");
    write_file("chat_template.jinja", "{{ messages }}\n");
    lt_tokenizer *tokenizer = load(folder);
    ok(lt_tokenizer_add_special_tokens(tokenizer, dolly, 3, NULL, &err));
    snprintf(out, sizeof out, "%s/out", folder);
    ok(lt_make_directories(out, &err));
    ok(lt_tokenizer_save(tokenizer, out, &err));
    lt_tokenizer *again = load(out);
    assert_string_equal(lt_tokenizer_hash(tokenizer), lt_tokenizer_hash(again));
    assert_int_equal(lt_tokenizer_eos_id(again), 258);
    assert_int_equal(lt_tokenizer_token_id(again, "### End"), 259);
    static const char *const kept[][2] = {
        {"tokenizer_config.json", "1000000000000000019884624838656"},
        {"tokenizer_config.json", "\"strange\""},
        {"tokenizer_config.json", "\"{{ x }}\""},
        {"tokenizer_config.json", "\"261\""},
        {"tokenizer_config.json", "additional_special_tokens"},
        {"special_tokens_map.json", "\"kept\""},
        {"special_tokens_map.json", "### Instruction:"},
        {"chat_template.jinja", "{{ messages }}\n"},
        {"tokenizer.json", "### Response:\\n"},
    };
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        lt_buffer text = {0};
        snprintf(path, sizeof path, "%s/%s", out, kept[i][0]);
        ok(lt_read_file(path, 1 << 20, &text, &err));
        if (!strstr(lt_buffer_text(&text), kept[i][1]))
            fail_msg("%s lacks %s:\n%s", kept[i][0], kept[i][1], lt_buffer_text(&text));
        lt_buffer_free(&text);
    }
    lt_tokenizer_free(again);
    lt_tokenizer_free(tokenizer);
}

/* --- Refusing ---------------------------------------------------------------------------------
 */

#define MODEL                                                                                      \
    "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a " \
    "b\"]}"
#define ADDED(id, content)                                                                      \
    "{\"id\": " id ", \"content\": \"" content                                                  \
    "\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, " \
    "\"special\": true}"

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        lt_status status;
        const char *named; /* in the message */
    } cases[] = {
        {"[]", LT_ERR_FORMAT, "object"},
        {"{}", LT_ERR_FORMAT, "model"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}", LT_ERR_FORMAT, "empty"},
        {"{\"model\": {\"type\": \"Unigram\"}}", LT_ERR_UNSUPPORTED, "Unigram"},
        {"{\"version\": \"2.0\", " MODEL "}", LT_ERR_UNSUPPORTED, "2.0"},
        {"{\"normalizer\": {\"type\": \"Lowercase\"}, " MODEL "}", LT_ERR_UNSUPPORTED, "Lowercase"},
        {"{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": "
         "\"NFKC\"}]}, " MODEL "}",
         LT_ERR_UNSUPPORTED, "NFKC"},
        {"{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a+\"}, \"content\": "
         "\"b\"}, " MODEL "}",
         LT_ERR_UNSUPPORTED, "a+"},
        {"{\"pre_tokenizer\": {\"type\": \"Whitespace\"}, " MODEL "}", LT_ERR_UNSUPPORTED,
         "Whitespace"},
        {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"[ab]+\"}, "
         "\"behavior\": \"Isolated\", \"invert\": false}, " MODEL "}",
         LT_ERR_UNSUPPORTED, "[ab]+"},
        {"{\"decoder\": {\"type\": \"WordPiece\"}, " MODEL "}", LT_ERR_UNSUPPORTED, "WordPiece"},
        {"{\"post_processor\": {\"type\": \"BertProcessing\"}, " MODEL "}", LT_ERR_UNSUPPORTED,
         "BertProcessing"},
        {"{\"model\": {\"type\": \"BPE\", \"dropout\": 0.1, \"vocab\": {\"a\": 0}, \"merges\": "
         "[]}}",
         LT_ERR_UNSUPPORTED, "dropout"},
        {"{\"model\": {\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\", \"vocab\": {\"a\": 0}, "
         "\"merges\": []}}",
         LT_ERR_UNSUPPORTED, "</w>"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}}",
         LT_ERR_FORMAT, "two tokens"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}}", LT_ERR_FORMAT,
         "\"a\""},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 4294967296}, \"merges\": []}}",
         LT_ERR_LIMIT, "4294967296"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a b\"]}}",
         LT_ERR_FORMAT, "\"ab\""},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\", \"c\"]]}}",
         LT_ERR_FORMAT, "\"c\""},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b c\"]}}",
         LT_ERR_FORMAT, "merge 1"},
        {"{\"model\": {\"type\": \"BPE\", \"unk_token\": \"?\", \"vocab\": {\"a\": 0}, \"merges\": "
         "[]}}",
         LT_ERR_FORMAT, "\"?\""},
        {"{\"added_tokens\": [" ADDED("7", "<x>") "], " MODEL "}", LT_ERR_FORMAT, "<x>"},
        {"{\"added_tokens\": [" ADDED("1", "a") "], " MODEL "}", LT_ERR_FORMAT, "\"a\""},
        {"{\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
         "{\"id\": \"q\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
         "\"special_tokens\": {\"q\": {\"id\": \"q\", \"ids\": [9], \"tokens\": [\"q\"]}}}, " MODEL
         "}",
         LT_ERR_FORMAT, "9"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_tokenizer *tokenizer = NULL;
        lt_status status = parse(cases[i].json, &tokenizer);
        if (status != cases[i].status || !strstr(err.message, cases[i].named) ||
            strncmp(err.message, "test.json: ", 11) != 0)
            fail_msg("case %zu: status %d, message \"%s\", wanted %d and \"%s\"", i, status,
                     err.message, cases[i].status, cases[i].named);
        assert_null(tokenizer);
    }
}

static void test_text_and_ids_are_checked(void **state)
{
    (void)state;
    lt_tokenizer *tokenizer;
    lt_encoder *encoder;
    lt_ids ids = {0};
    lt_buffer text = {0};
    ok(parse("{" MODEL "}", &tokenizer));
    ok(lt_encoder_create(tokenizer, &encoder, &err));
    static const char *const bad[] = {"ab\xff", "ab\xc3", "ab\xed\xa0\x80", "ab\xc0\x80",
                                      "ab\xf4\x90\x80\x80"};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(lt_encode(encoder, bad[i], strlen(bad[i]), 0, &ids, &err), LT_ERR_FORMAT);
        assert_non_null(strstr(err.message, "byte 2"));
        assert_int_equal(ids.count, 0);
    }
    /* what the vocabulary can not say is an error, not a gap in the text */
    assert_int_equal(lt_encode(encoder, "abz", 3, 0, &ids, &err), LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "U+007A"));
    assert_int_equal(ids.count, 0);
    const int32_t wrong[] = {0, 3, -1};
    assert_int_equal(lt_decode(tokenizer, wrong, 2, false, &text, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_decode(tokenizer, wrong + 2, 1, false, &text, &err), LT_ERR_FORMAT);
    lt_buffer_free(&text);
    lt_ids_free(&ids);
    lt_encoder_free(encoder);
    lt_tokenizer_free(tokenizer);
}

/* In "qabc", b c goes first; then a b, which was next, is no more, and its place must not be taken
 * by a bc: q a comes before that. Short words and long ones are merged in different ways. */
static void test_order_of_merges(void **state)
{
    (void)state;
    lt_tokenizer *tokenizer;
    lt_encoder *encoder;
    lt_ids ids = {0};
    lt_buffer word = {0};
    ok(parse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"q\": 0, \"a\": 1, \"b\": 2, \"c\": 3, "
             "\"bc\": 4, \"ab\": 5, \"qa\": 6, \"abc\": 7}, \"merges\": [\"b c\", \"a b\", "
             "\"q a\", \"a bc\"]}}",
             &tokenizer));
    ok(lt_encoder_create(tokenizer, &encoder, &err));
    for (size_t times = 1; times < 40; times++) {
        ok(lt_buffer_append_text(&word, "qabc", &err));
        ids.count = 0;
        ok(lt_encode(encoder, word.data, word.size, 0, &ids, &err));
        assert_int_equal(ids.count, 2 * times);
        for (size_t i = 0; i < ids.count; i++)
            assert_int_equal(ids.data[i], i % 2 ? 4 : 6);
    }
    lt_buffer_free(&word);
    lt_ids_free(&ids);
    lt_encoder_free(encoder);
    lt_tokenizer_free(tokenizer);
}

static void test_facts(void **state)
{
    (void)state;
    static const char json[] = "{\"added_tokens\": [" ADDED(
        "3", "</s>") "], \"model\": {\"type\": \"BPE\", \"vocab\": "
                     "{\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [[\"a\", \"b\"]]}}";
    static const char config[] =
        "{\"eos_token\": {\"__type\": \"AddedToken\", \"content\": \"a\"}, "
        "\"pad_token\": \"</s>\", \"bos_token\": null}";
    lt_tokenizer *plain, *named;
    ok(parse(json, &plain));
    ok(lt_tokenizer_parse(json, sizeof json - 1, config, sizeof config - 1, "x", &named, &err));
    assert_int_equal(lt_tokenizer_vocab_size(plain), 4);
    assert_int_equal(lt_tokenizer_eos_id(plain), 3); /* guessed */
    assert_int_equal(lt_tokenizer_bos_id(plain), -1);
    assert_int_equal(lt_tokenizer_eos_id(named), 0);
    assert_int_equal(lt_tokenizer_pad_id(named), 3);
    assert_int_equal(lt_tokenizer_bos_id(named), -1);
    assert_int_equal(lt_tokenizer_token_id(plain, "ab"), 2);
    assert_int_equal(lt_tokenizer_token_id(plain, "c"), -1);
    assert_null(lt_tokenizer_token(plain, 4));
    assert_null(lt_tokenizer_token(plain, -1));
    assert_true(lt_tokenizer_is_special(plain, 3));
    assert_false(lt_tokenizer_is_special(plain, 0));
    /* names are no part of the rules */
    assert_string_equal(lt_tokenizer_hash(plain), lt_tokenizer_hash(named));
    lt_tokenizer_free(plain);
    lt_tokenizer_free(named);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_writing_round_trips),
        cmocka_unit_test(test_add_special_tokens),
        cmocka_unit_test(test_add_known_token),
        cmocka_unit_test_setup_teardown(test_vocab_and_merges, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_save_carries_along, make_folder, remove_folder),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_text_and_ids_are_checked),
        cmocka_unit_test(test_order_of_merges),
        cmocka_unit_test(test_facts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
