/* Tokenizers in GGUF files: written and read back they give the same ids, for tokenizers of every
 * kind (tests/golden/tokenizer) and for files without Lathe's own key; what llama.cpp has no
 * counterpart of is refused or noted, and so are files that lie. */
#include "../data_pipeline/tokenizers.h"

#include "base/json.h"
#include "data_pipeline/tokenizer_parts.h"
#include "train/export.h"

/* --- Files in memory -------------------------------------------------------------------------- */

static void put(lt_buffer *out, uint64_t value, size_t size)
{
    ok(lt_buffer_append(out, &value, size, &err));
}

/* A GGUF file of key-values only. */
static lt_buffer file_of(const lt_gguf_keys *keys)
{
    lt_buffer out = {0};
    ok(lt_buffer_append(&out, "GGUF", 4, &err));
    put(&out, 3, 4);
    put(&out, 0, 8);
    put(&out, keys->count, 8);
    ok(lt_buffer_append(&out, lt_buffer_text(&keys->bytes), keys->bytes.size, &err));
    while (out.size % 32)
        put(&out, 0, 1);
    return out;
}

static lt_status read_keys(const lt_gguf_keys *keys, lt_tokenizer **out)
{
    lt_buffer bytes = file_of(keys);
    lt_gguf file;
    memset(&err, 0, sizeof err);
    ok(lt_gguf_parse((const unsigned char *)bytes.data, bytes.size, "t.gguf", &file, &err));
    lt_status status = lt_tokenizer_from_gguf(&file, out, &err);
    lt_gguf_close(&file);
    lt_buffer_free(&bytes);
    return status;
}

/* Copies keys, leaving out one; the value is found by parsing. */
static lt_gguf_keys without(const lt_gguf_keys *keys, const char *left_out)
{
    lt_buffer bytes = file_of(keys);
    lt_gguf file;
    lt_gguf_keys out = {0};
    ok(lt_gguf_parse((const unsigned char *)bytes.data, bytes.size, "t.gguf", &file, &err));
    for (size_t i = 0; i < file.value_count; i++) {
        const lt_gguf_value *v = &file.values[i];
        if (strcmp(v->key, left_out) == 0) continue;
        put(&out.bytes, strlen(v->key), 8);
        ok(lt_buffer_append(&out.bytes, v->key, strlen(v->key), &err));
        put(&out.bytes, v->type, 4);
        if (v->type == LT_GGUF_ARRAY) {
            put(&out.bytes, v->element_type, 4);
            put(&out.bytes, v->count, 8);
        }
        ok(lt_buffer_append(&out.bytes, v->data, v->size, &err));
        out.count++;
    }
    lt_gguf_close(&file);
    lt_buffer_free(&bytes);
    return out;
}

static lt_tokenizer *there_and_back(const lt_tokenizer *tokenizer, int64_t rows,
                                    const char *without_key)
{
    lt_gguf_keys keys = {0};
    lt_tokenizer *again = NULL;
    ok(lt_tokenizer_to_gguf(tokenizer, rows, NULL, -1, &keys, NULL, &err));
    if (without_key) {
        lt_gguf_keys fewer = without(&keys, without_key);
        assert_int_equal(fewer.count + 1, keys.count);
        lt_gguf_keys_free(&keys);
        keys = fewer;
    }
    ok(read_keys(&keys, &again));
    lt_gguf_keys_free(&keys);
    return again;
}

/* --- The same ids ----------------------------------------------------------------------------- */

static void assert_same_on(const lt_tokenizer *a, const lt_tokenizer *b, const char *text,
                           size_t size, const char *what)
{
    const lt_tokenizer *both[] = {a, b};
    lt_ids ids[2] = {{0}, {0}};
    lt_buffer decoded[2] = {{0}, {0}};
    for (unsigned flags = 0; flags < 4; flags++) {
        for (int i = 0; i < 2; i++) {
            lt_encoder *encoder;
            ids[i].count = 0;
            lt_buffer_clear(&decoded[i]);
            ok(lt_encoder_create(both[i], &encoder, &err));
            ok(lt_encode(encoder, text, size, flags, &ids[i], &err));
            ok(lt_decode(both[i], ids[i].data, ids[i].count, false, &decoded[i], &err));
            lt_encoder_free(encoder);
        }
        bool same = ids[0].count == ids[1].count &&
                    (ids[0].count == 0 ||
                     memcmp(ids[0].data, ids[1].data, ids[0].count * sizeof *ids[0].data) == 0);
        if (!same) fail_msg("%s, flags %u: other ids for \"%s\"", what, flags, text);
        assert_string_equal(lt_buffer_text(&decoded[0]), lt_buffer_text(&decoded[1]));
    }
    for (int i = 0; i < 2; i++) {
        lt_ids_free(&ids[i]);
        lt_buffer_free(&decoded[i]);
    }
}

static void assert_same_on_texts(const lt_tokenizer *a, const lt_tokenizer *b, const char *what)
{
    json_t *golden = NULL;
    lt_buffer text = {0};
    size_t i;
    json_t *entry;
    ok(lt_json_load(GOLDEN "golden.json", &golden, &err));
    assert_true(json_array_size(json_object_get(golden, "texts")) > 30);
    json_array_foreach(json_object_get(golden, "texts"), i, entry)
    {
        append_text(entry, &text);
        assert_same_on(a, b, lt_buffer_text(&text), text.size, what);
    }
    lt_buffer_free(&text);
    json_decref(golden);
}

static void test_every_kind_comes_back(void **state)
{
    (void)state;
    static const char *const names[] = {
        "gpt2.json",   "neox.json",         "llama3.json",    "qwen2.json",
        "llama2.json", "llama2_added.json", "metaspace.json", "metaspace_split.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lt_tokenizer *tokenizer = load_golden(names[i]);
        int64_t size = lt_tokenizer_vocab_size(tokenizer);
        lt_tokenizer *again = there_and_back(tokenizer, size + 3, NULL);
        assert_string_equal(lt_tokenizer_hash(tokenizer), lt_tokenizer_hash(again));
        assert_int_equal(lt_tokenizer_vocab_size(again), size); /* the filling is no token */
        if (lt_tokenizer_eos_id(tokenizer) >= 0)
            assert_int_equal(lt_tokenizer_eos_id(tokenizer), lt_tokenizer_eos_id(again));
        assert_same_on_texts(tokenizer, again, names[i]);
        lt_tokenizer_free(again);
        lt_tokenizer_free(tokenizer);
    }
}

/* As files of llama.cpp are read. The golden tokenizers that have nothing which GGUF lacks. */
static void test_files_of_others(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2.json", "llama2.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lt_tokenizer *tokenizer = load_golden(names[i]);
        int64_t size = lt_tokenizer_vocab_size(tokenizer);
        lt_tokenizer *again = there_and_back(tokenizer, size + 2, "lathe.tokenizer.rules");
        assert_int_equal(lt_tokenizer_vocab_size(again), size); /* the filling is no token */
        assert_same_on_texts(tokenizer, again, names[i]);
        lt_tokenizer_free(again);
        lt_tokenizer_free(tokenizer);
    }
}

/* --- By hand ---------------------------------------------------------------------------------- */

typedef struct by_hand {
    const char *model, *pre;
    const char *const *tokens;
    const int32_t *types;
    size_t count, type_count;
    const float *scores;
    const char *const *merges;
    size_t merge_count;
    int64_t bos;
} by_hand;

static lt_gguf_keys keys_of(const by_hand *h)
{
    lt_gguf_keys keys = {0};
    ok(lt_gguf_add_string(&keys, "tokenizer.ggml.model", h->model, strlen(h->model), &err));
    if (h->pre) ok(lt_gguf_add_string(&keys, "tokenizer.ggml.pre", h->pre, strlen(h->pre), &err));
    ok(lt_gguf_begin_strings(&keys, "tokenizer.ggml.tokens", h->count, &err));
    for (size_t i = 0; i < h->count; i++)
        ok(lt_gguf_push_string(&keys, h->tokens[i], strlen(h->tokens[i]), &err));
    if (h->types)
        ok(lt_gguf_add_i32s(&keys, "tokenizer.ggml.token_type", h->types, h->type_count, &err));
    if (h->scores) ok(lt_gguf_add_f32s(&keys, "tokenizer.ggml.scores", h->scores, h->count, &err));
    if (h->merges) {
        ok(lt_gguf_begin_strings(&keys, "tokenizer.ggml.merges", h->merge_count, &err));
        for (size_t i = 0; i < h->merge_count; i++)
            ok(lt_gguf_push_string(&keys, h->merges[i], strlen(h->merges[i]), &err));
    }
    if (h->bos >= 0)
        ok(lt_gguf_add_u32(&keys, "tokenizer.ggml.bos_token_id", (uint32_t)h->bos, &err));
    return keys;
}

static lt_status read_by_hand(const by_hand *h, lt_tokenizer **out)
{
    lt_gguf_keys keys = keys_of(h);
    *out = NULL;
    lt_status status = read_keys(&keys, out);
    lt_gguf_keys_free(&keys);
    return status;
}

#define MARK "\xE2\x96\x81"

/* A SentencePiece vocabulary without merges: they follow from the scores, so that "abc" is a + bc
 * and not ab + c. */
static void test_merges_from_scores(void **state)
{
    (void)state;
    static const char *const tokens[] = {"<unk>", "<s>", "<0x61>", MARK,  "a",     "b",
                                         "c",     "ab",  "bc",     "abc", MARK "a"};
    static const int32_t types[] = {2, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1};
    static const float scores[] = {0, 0, 0, -9, -9, -9, -9, -3, -2, -4, -5};
    by_hand h = {.model = "llama",
                 .tokens = tokens,
                 .types = types,
                 .count = 11,
                 .type_count = 11,
                 .scores = scores,
                 .bos = 1};
    lt_tokenizer *tokenizer;
    lt_encoder *encoder;
    lt_ids ids = {0};
    ok(read_by_hand(&h, &tokenizer));
    ok(lt_encoder_create(tokenizer, &encoder, &err));
    ok(lt_encode(encoder, "abca b", 6, LT_ENCODE_ADD_SPECIAL, &ids, &err));
    /* "▁abca▁b": bc first, then a + bc, and "▁a" can no longer be */
    static const int32_t expected[] = {1, 3, 9, 4, 3, 5};
    assert_int_equal(ids.count, 6);
    assert_memory_equal(ids.data, expected, sizeof expected);
    lt_ids_free(&ids);
    lt_encoder_free(encoder);
    lt_tokenizer_free(tokenizer);
}

static void test_special_tokens_and_template(void **state)
{
    (void)state;
    lt_tokenizer *tokenizer = load_golden("llama3.json"), *again;
    int64_t rows = lt_tokenizer_vocab_size(tokenizer);
    lt_gguf_keys keys = {0};
    lt_buffer notes = {0};
    const char *template = "{{ messages[0]['content'] }}\xC3\xA9";
    ok(lt_tokenizer_to_gguf(tokenizer, rows, template, 405, &keys, &notes, &err));
    assert_non_null(strstr(lt_buffer_text(&notes), "puts at most"));
    assert_null(strstr(lt_buffer_text(&notes), "lstrip"));
    ok(read_keys(&keys, &again));
    assert_string_equal(lt_tokenizer_chat_template(again), template);
    assert_true(lt_tokenizer_is_special(again, 405));
    lt_buffer bytes = file_of(&keys);
    lt_gguf file;
    int64_t id = -1;
    bool begins = false;
    ok(lt_gguf_parse((const unsigned char *)bytes.data, bytes.size, "t.gguf", &file, &err));
    ok(lt_gguf_get_int(&file, "tokenizer.ggml.bos_token_id", 0, 999, &id, &err));
    assert_int_equal(id, 404); /* what the post-processor puts in front */
    ok(lt_gguf_get_bool(&file, "tokenizer.ggml.add_bos_token", &begins, &err));
    assert_true(begins);
    lt_gguf_close(&file);
    lt_buffer_free(&bytes);
    lt_buffer_free(&notes);
    lt_gguf_keys_free(&keys);
    lt_tokenizer_free(again);
    lt_tokenizer_free(tokenizer);
}

/* --- Refused ---------------------------------------------------------------------------------- */

static void test_no_counterpart(void **state)
{
    (void)state;
    static const struct {
        const char *name, *words;
    } cases[] = {{"prefix.json", "add_prefix_space"},
                 {"bytes_missing.json", "some bytes"},
                 {"unknown.json", "cuts text into words"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_tokenizer *tokenizer = load_golden(cases[i].name);
        lt_gguf_keys keys = {0};
        refused(lt_tokenizer_to_gguf(tokenizer, lt_tokenizer_vocab_size(tokenizer), NULL, -1, &keys,
                                     NULL, &err),
                LT_ERR_UNSUPPORTED, cases[i].words);
        lt_gguf_keys_free(&keys);
        lt_tokenizer_free(tokenizer);
    }
    lt_tokenizer *tokenizer = load_golden("gpt2.json");
    lt_gguf_keys keys = {0};
    refused(lt_tokenizer_to_gguf(tokenizer, 9, NULL, -1, &keys, NULL, &err), LT_ERR_USAGE,
            "the model 9 rows");
    lt_tokenizer_free(tokenizer);
}

static void test_differences_are_noted(void **state)
{
    (void)state;
    static const struct {
        const char *name, *words;
    } cases[] = {{"gpt2.json", NULL},
                 {"llama2_added.json", "rstrip"},
                 {"metaspace.json", "that do not begin with one"},
                 {"llama2.json", "joins tokens by scores"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_tokenizer *tokenizer = load_golden(cases[i].name);
        lt_gguf_keys keys = {0};
        lt_buffer notes = {0};
        ok(lt_tokenizer_to_gguf(tokenizer, lt_tokenizer_vocab_size(tokenizer), NULL, -1, &keys,
                                &notes, &err));
        if (!cases[i].words)
            assert_int_equal(notes.size, 0);
        else
            assert_non_null(strstr(notes.data, cases[i].words));
        lt_buffer_free(&notes);
        lt_gguf_keys_free(&keys);
        lt_tokenizer_free(tokenizer);
    }
}

static void test_files_that_lie(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "b", "ab"}, *const twice[] = {"a", "b", "a"},
                             *const broken[] = {"a", "\xFF", "ab"},
                             *const empty[] = {"a", "", "ab"}, *const merges[] = {"a b"},
                             *const stranger[] = {"a x"}, *const single[] = {"ab"},
                             *const spaces[] = {"a b c"};
    static const int32_t types[] = {1, 1, 1}, strange[] = {1, 7, 1};
    const by_hand sound = {.model = "gpt2",
                           .pre = "gpt-2",
                           .tokens = good,
                           .types = types,
                           .count = 3,
                           .type_count = 3,
                           .merges = merges,
                           .merge_count = 1,
                           .bos = -1};
    lt_tokenizer *tokenizer;
    by_hand h = sound;
    ok(read_by_hand(&h, &tokenizer));
    lt_tokenizer_free(tokenizer);
#define REFUSED(code, words, ...)                           \
    do {                                                    \
        h = sound;                                          \
        __VA_ARGS__;                                        \
        refused(read_by_hand(&h, &tokenizer), code, words); \
        assert_null(tokenizer);                             \
    } while (0)
    REFUSED(LT_ERR_UNSUPPORTED, "tokenizer.ggml.model \"bert\"", h.model = "bert");
    REFUSED(LT_ERR_UNSUPPORTED, "tokenizer.ggml.pre \"tekken\"", h.pre = "tekken");
    REFUSED(LT_ERR_UNSUPPORTED, "tokenizer.ggml.pre \"\"", h.pre = NULL);
    REFUSED(LT_ERR_FORMAT, "tokens 0 and 2 are both \"a\"", h.tokens = twice);
    REFUSED(LT_ERR_FORMAT, "token 1 is empty or not UTF-8", h.tokens = broken);
    REFUSED(LT_ERR_FORMAT, "token 1 is empty or not UTF-8", h.tokens = empty);
    REFUSED(LT_ERR_FORMAT, "has 2 entries for 3 tokens", h.type_count = 2);
    REFUSED(LT_ERR_FORMAT, "token 1 is of type 7", h.types = strange);
    REFUSED(LT_ERR_LIMIT, "0 tokens", h.count = h.type_count = 0);
    REFUSED(LT_ERR_FORMAT, "\"x\" is not in the vocabulary", h.merges = stranger);
    REFUSED(LT_ERR_FORMAT, "merge 1 is not two tokens", h.merges = single);
    REFUSED(LT_ERR_FORMAT, "\"b c\" is not in the vocabulary", h.merges = spaces);
    REFUSED(LT_ERR_FORMAT, "has no tokenizer.ggml.merges", h.merges = NULL);
    REFUSED(LT_ERR_FORMAT, "bos_token_id", h.bos = 3);
    REFUSED(LT_ERR_FORMAT, "neither tokenizer.ggml.merges nor", h.model = "llama"; h.merges = NULL);
    static const char *const filled[] = {"a", "[PAD1]", "b", "ab"};
    static const int32_t filled_types[] = {1, 5, 1, 1};
    h = sound;
    h.tokens = filled, h.types = filled_types, h.count = h.type_count = 4;
    ok(read_by_hand(&h, &tokenizer));
    assert_null(lt_tokenizer_token(tokenizer, 1));
    assert_int_equal(lt_tokenizer_token_id(tokenizer, "[PAD1]"), -1);
    assert_int_equal(lt_tokenizer_token_id(tokenizer, "ab"), 3);
    lt_tokenizer_free(tokenizer);
    h = sound;
    h.model = "none";
    ok(read_by_hand(&h, &tokenizer));
    assert_null(tokenizer);
}

/* --- Real ones -------------------------------------------------------------------------------- */

static void check_asset(const char *assets, const char *name)
{
    static const char *const texts[] = {
        "Hello, world!",
        "  two  spaces\n\n\tTab\r\n",
        "na\xC3\xAFve cafe\xCC\x81 \xE6\xBC\xA2\xE5\xAD\x97 \xF0\x9F\x99\x82",
        "I'll won't x=12345;y=6.78",
        "a<|endoftext|>b</s><s>c",
        ""};
    char path[600];
    snprintf(path, sizeof path, "%s/%s", assets, name);
    if (access(path, R_OK) != 0) return;
    lt_tokenizer *tokenizer = load(path);
    int64_t size = lt_tokenizer_vocab_size(tokenizer);
    lt_tokenizer *again = there_and_back(tokenizer, size + 100, NULL);
    assert_string_equal(lt_tokenizer_hash(tokenizer), lt_tokenizer_hash(again));
    lt_tokenizer *others = there_and_back(tokenizer, size + 100, "lathe.tokenizer.rules");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_same_on(tokenizer, again, texts[i], strlen(texts[i]), name);
        bool nfc = strstr(name, "neox") && i == 2; /* the architecture would tell */
        if (!nfc) assert_same_on(tokenizer, others, texts[i], strlen(texts[i]), name);
    }
    lt_tokenizer_free(others);
    lt_tokenizer_free(again);
    lt_tokenizer_free(tokenizer);
}

static void test_assets(void **state)
{
    (void)state;
    const char *assets = getenv("LATHE_TEST_ASSETS");
    if (!assets) {
        print_message("skipped: LATHE_TEST_ASSETS is not set\n");
        return;
    }
    check_asset(assets, "tokenizers/gpt2");
    check_asset(assets, "tokenizers/gpt-neox-20b");
    check_asset(assets, "tokenizers/llama2");
    check_asset(assets, "models/stories260K");
    check_asset(assets, "models/tiny-gpt2-medical");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_comes_back),
        cmocka_unit_test(test_files_of_others),
        cmocka_unit_test(test_merges_from_scores),
        cmocka_unit_test(test_special_tokens_and_template),
        cmocka_unit_test(test_no_counterpart),
        cmocka_unit_test(test_differences_are_noted),
        cmocka_unit_test(test_files_that_lie),
        cmocka_unit_test(test_assets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
