/* The real tokenizers of GPT-2, GPT-NeoX and Llama-2, where LATHE_TEST_ASSETS has them: conformance
 * vectors, golden ids, and round trips of whole corpora. */
#include "../message.h"

#include "base/fsio.h"
#include "base/json.h"
#include "data_pipeline/tokenizer.h"

static const char *assets;

static void read_asset(const char *name, lt_buffer *out)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", assets, name);
    ok(lt_read_file(path, (size_t)1 << 30, out, &err));
}

typedef struct fixture {
    lt_tokenizer *tokenizer;
    lt_encoder *encoder;
    lt_ids ids;
    lt_buffer text;
} fixture;

static void open_fixture(fixture *f, const char *name)
{
    char path[512];
    *f = (fixture){0};
    snprintf(path, sizeof path, "%s/%s", assets, name);
    ok(lt_tokenizer_load(path, &f->tokenizer, &err));
    ok(lt_encoder_create(f->tokenizer, &f->encoder, &err));
}

static void close_fixture(fixture *f)
{
    lt_ids_free(&f->ids);
    lt_buffer_free(&f->text);
    lt_encoder_free(f->encoder);
    lt_tokenizer_free(f->tokenizer);
}

/* `want`: ids separated by spaces. */
static void check_ids(fixture *f, const char *text, size_t size, const char *want)
{
    lt_buffer got = {0};
    f->ids.count = 0;
    ok(lt_encode(f->encoder, text, size, LT_ENCODE_PARSE_SPECIAL, &f->ids, &err));
    for (size_t i = 0; i < f->ids.count; i++)
        ok(lt_buffer_printf(&got, &err, "%s%d", i ? " " : "", f->ids.data[i]));
    size_t length = strspn(want, " ");
    want += length;
    length = strlen(want);
    while (length > 0 && want[length - 1] == ' ')
        length--;
    if (got.size != length || memcmp(lt_buffer_text(&got), want, length) != 0)
        fail_msg("\"%.*s\": expected %s, got %s", (int)size, text, want, lt_buffer_text(&got));
    lt_buffer_free(&got);
}

/* --- Vectors ----------------------------------------------------------------------------------
 */

static void check_vectors(const char *name)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char path[128];
    lt_buffer texts = {0}, ids = {0};
    fixture f;
    snprintf(path, sizeof path, "tokenizers/%s/tokenizer.json", name);
    open_fixture(&f, path);
    snprintf(path, sizeof path, "tokenizers/vectors/%s.inp", name);
    read_asset(path, &texts);
    snprintf(path, sizeof path, "tokenizers/vectors/%s.out", name);
    read_asset(path, &ids);
    size_t count = 0;
    char *line = ids.data;
    for (const char *text = texts.data; *text; count++) { /* a separator ends each */
        const char *next = strstr(text, separator);
        assert_non_null(next);
        size_t size = (size_t)(next - text);
        assert_true(line < ids.data + ids.size);
        char *end = line + strcspn(line, "\n"); /* the last one may lack it */
        *end = '\0';
        check_ids(&f, text, size, line);
        line = end + 1;
        text = next + sizeof separator - 1;
    }
    assert_int_equal(count, 46);
    lt_buffer_free(&texts);
    lt_buffer_free(&ids);
    close_fixture(&f);
}

static void test_vectors(void **state)
{
    (void)state;
    check_vectors("gpt2");
    check_vectors("gpt-neox-20b");
    check_vectors("llama2");
}

/* --- Golden ids -------------------------------------------------------------------------------
 */

typedef struct golden_text {
    const char *text, *ids;
} golden_text;

static void check_golden(fixture *f, const golden_text *golden, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check_ids(f, golden[i].text, strlen(golden[i].text), golden[i].ids);
}

#define CHECK_GOLDEN(f, golden) check_golden(f, golden, sizeof(golden) / sizeof *(golden))

static void test_neox_golden(void **state)
{
    (void)state;
    static const golden_text golden[] = {
        {"Hello, world!", "12092 13 1533 2"},
        {"  two  spaces\n\n\tTab", "50276 9389 50276 31748 535 186 10297"},
        {"na\u00efve caf\u00e9 \u2014 \u6f22\u5b57 \U0001f642",
         "2072 30180 36241 1905 209 45387 97 30886 42908"},
        {"I'll won't 's \u017f 12345", "42 1833 1912 626 686 84 6078 125 1249 16767"},
        {"def f(x):\n    return x  # ok\n",
         "1545 269 9 89 2262 187 50274 2309 1269 50276 4 8718 187"},
        {"<|endoftext|>a<|padding|>", "0 66 1"},
    };
    fixture f;
    open_fixture(&f, "tokenizers/gpt-neox-20b");
    CHECK_GOLDEN(&f, golden);
    close_fixture(&f);
}

/* The Dolly recipe's special tokens on top of GPT-NeoX. */
static void test_dolly_golden(void **state)
{
    (void)state;
    static const char *const special[] = {"### End", "### Instruction:", "### Response:\n"};
    static const golden_text golden[] = {
        {"Below is an instruction that describes a task. Write a response that appropriately "
         "completes the request.\n\n### Instruction:\nWhat is 2+2?\n\n### Response:\n4\n\n### End",
         "30003 310 271 9775 326 8631 247 4836 15 19566 247 2380 326 20420 29141 253 2748 15 535 "
         "50278 187 1276 310 374 12 19 32 535 50279 21 535 50277"},
    };
    fixture f;
    size_t added;
    open_fixture(&f, "tokenizers/gpt-neox-20b");
    lt_encoder_free(f.encoder);
    ok(lt_tokenizer_add_special_tokens(f.tokenizer, special, 3, &added, &err));
    ok(lt_encoder_create(f.tokenizer, &f.encoder, &err));
    assert_int_equal(added, 3);
    assert_int_equal(lt_tokenizer_vocab_size(f.tokenizer), 50280);
    CHECK_GOLDEN(&f, golden);
    close_fixture(&f);
}

static const golden_text gpt2_golden[] = {
    {"Hello, world!", "15496 11 995 0"},
    {"I'LL can't", "40 6 3069 460 470"},
    {"  two  spaces\n\n\tTab\r\n", "220 734 220 9029 628 197 33349 201 198"},
    {"na\u00efve cafe\u0301 \u2014 \u6f22\u5b57 \U0001f642",
     "2616 38776 26725 136 223 851 10545 120 95 27764 245 32485"},
    {"x=12345;y=6.78", "87 28 10163 2231 26 88 28 21 13 3695"},
    {"a<|endoftext|>b", "64 50256 65"},
    {"   ", "220 220 220"},
    {"\n\n \n", "628 220 198"},
};

/* All four spellings of the same tokenizer. */
static void test_gpt2_golden(void **state)
{
    (void)state;
    static const char *const paths[] = {"tokenizers/gpt2",
                                        "tokenizers/gpt2/tokenizer.legacy-merges.json",
                                        "tokenizers/gpt2/vocab.json", "models/tiny-gpt2-medical"};
    for (size_t i = 0; i < 4; i++) {
        fixture f;
        open_fixture(&f, paths[i]);
        CHECK_GOLDEN(&f, gpt2_golden);
        assert_int_equal(lt_tokenizer_eos_id(f.tokenizer), 50256);
        close_fixture(&f);
    }
}

/* GPT-2's vocabulary behind the other splitters. */
static void check_splitter(const char *regex, bool nfc, const golden_text *golden, size_t count)
{
    fixture f = {0};
    json_t *json;
    lt_buffer text = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizers/gpt2/tokenizer.json", assets);
    ok(lt_json_load(path, &json, &err));
    json_object_set_new(json, "pre_tokenizer",
                        json_pack("{s:s,s:[{s:s,s:{s:s},s:s,s:b},{s:s,s:b,s:b,s:b}]}", "type",
                                  "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex",
                                  regex, "behavior", "Isolated", "invert", 0, "type", "ByteLevel",
                                  "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0));
    if (nfc) json_object_set_new(json, "normalizer", json_pack("{s:s}", "type", "NFC"));
    ok(lt_json_dump(json, 0, &text, &err));
    json_decref(json);
    ok(lt_tokenizer_parse(text.data, text.size, NULL, 0, "gpt2", &f.tokenizer, &err));
    ok(lt_encoder_create(f.tokenizer, &f.encoder, &err));
    check_golden(&f, golden, count);
    lt_buffer_free(&text);
    close_fixture(&f);
}

static void test_other_splitters(void **state)
{
    (void)state;
    check_splitter("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                   "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                   false, gpt2_golden, sizeof gpt2_golden / sizeof *gpt2_golden);
    golden_text qwen2[sizeof gpt2_golden / sizeof *gpt2_golden];
    memcpy(qwen2, gpt2_golden, sizeof gpt2_golden);
    qwen2[3].ids = "2616 38776 40304 851 10545 120 95 27764 245 32485";
    qwen2[4].ids = "87 28 16 17 18 19 20 26 88 28 21 13 22 23";
    check_splitter("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                   "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                   true, qwen2, sizeof qwen2 / sizeof *qwen2);
}

/* --- Round trips ------------------------------------------------------------------------------
 */

static void check_round_trip(fixture *f, const char *text, size_t size)
{
    f->ids.count = 0;
    lt_buffer_clear(&f->text);
    ok(lt_encode(f->encoder, text, size, LT_ENCODE_PLAIN, &f->ids, &err));
    ok(lt_decode(f->tokenizer, f->ids.data, f->ids.count, false, &f->text, &err));
    if (f->text.size != size || memcmp(lt_buffer_text(&f->text), text, size) != 0)
        fail_msg("does not come back: \"%.200s\"", text);
}

/* Under AddressSanitizer the whole of it takes minutes; its first lines go through the same code.
 */
static void shorten_when_sanitized(lt_buffer *text)
{
#ifdef __SANITIZE_ADDRESS__
    size_t size = (size_t)1 << 20;
    while (size < text->size && text->data[size - 1] != '\n')
        size++;
    if (size < text->size) text->size = size;
#else
    (void)text;
#endif
}

static void test_round_trips(void **state)
{
    (void)state;
    static const char *const names[] = {"tokenizers/gpt2", "tokenizers/llama2",
                                        "tokenizers/gpt-neox-20b"};
    lt_buffer shakespeare = {0}, dolly = {0};
    read_asset("data/tinyshakespeare.txt", &shakespeare);
    read_asset("data/databricks-dolly-15k.jsonl", &dolly);
    shorten_when_sanitized(&dolly);
    for (size_t i = 0; i < 2; i++) { /* NFC may change a text; these two must not */
        fixture f;
        open_fixture(&f, names[i]);
        check_round_trip(&f, shakespeare.data, shakespeare.size);
        check_round_trip(&f, dolly.data, dolly.size); /* as it is, in one piece */
        close_fixture(&f);
    }
    fixture f;
    open_fixture(&f, names[2]);
    check_round_trip(&f, shakespeare.data, shakespeare.size);
    close_fixture(&f);
    lt_buffer_free(&shakespeare);
    lt_buffer_free(&dolly);
}

int main(void)
{
    assets = getenv("LATHE_TEST_ASSETS");
    if (!assets) {
        puts("skipped: LATHE_TEST_ASSETS is not set (a directory with real tokenizers and data)");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),         cmocka_unit_test(test_neox_golden),
        cmocka_unit_test(test_dolly_golden),    cmocka_unit_test(test_gpt2_golden),
        cmocka_unit_test(test_other_splitters), cmocka_unit_test(test_round_trips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
