/* Training: the merges are those of a slow and obvious trainer, whatever the number of threads; the
 * result says back any text exactly. */
#include "../folder.h"
#include "../message.h"

#include "base/rng.h"
#include "data_pipeline/tokenizer.h"

static char text_path[96], records_path[96];

/* Sentences from a small stock of words, some of them not ASCII: long enough for several threads.
 */
static void make_text(lt_buffer *out, size_t size)
{
    static const char *const words[] = {"the",
                                        "water",
                                        "waters",
                                        "mill",
                                        "miller",
                                        "milling",
                                        "stone",
                                        "a",
                                        "and",
                                        "an",
                                        "42",
                                        "na\xC3\xAFve",
                                        "\xE6\xBC\xA2\xE5\xAD\x97",
                                        "isn't",
                                        "over",
                                        "aaaa",
                                        "aaa",
                                        "\n",
                                        "  ",
                                        "x=1;",
                                        "\xF0\x9F\x99\x82"};
    for (uint64_t i = 0; out->size < size; i++) {
        const char *word = words[lt_random_below(7, 1, i, sizeof words / sizeof *words)];
        ok(lt_buffer_append_text(out, word, &err));
        ok(lt_buffer_append_text(out, i % 9 == 8 ? ".\n" : " ", &err));
    }
}

static int make_files(void **state)
{
    lt_buffer text = {0};
    if (make_folder(state) != 0) return -1;
    snprintf(text_path, sizeof text_path, "%s/text.txt", folder);
    snprintf(records_path, sizeof records_path, "%s/text.jsonl", folder);
    make_text(&text, 3 << 20);
    ok(lt_write_file(text_path, text.data, text.size, &err));
    lt_buffer_free(&text);
    static const char records[] = "{\"a\": \"mill mill\", \"b\": [\"mill\", {\"c\": \"mill\"}]}\n"
                                  "\n{\"n\": 3, \"t\": \"mill\"}\n";
    ok(lt_write_file(records_path, records, sizeof records - 1, &err));
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    return lt_remove_tree(folder, &err) == LT_OK ? 0 : -1;
}

static const char *const specials[] = {"<|endoftext|>", "<|pad|>"};

static lt_tokenizer *train(const char *path, int64_t vocab_size, int64_t min_frequency, int threads)
{
    lt_bpe_train_settings settings = {.vocab_size = vocab_size,
                                      .min_frequency = min_frequency,
                                      .special_tokens = specials,
                                      .special_token_count = 2,
                                      .threads = threads};
    lt_tokenizer *tokenizer = NULL;
    ok(lt_tokenizer_train(&path, 1, &settings, &tokenizer, &err));
    return tokenizer;
}

static void test_threads_do_not_matter(void **state)
{
    (void)state;
    lt_tokenizer *one = train(text_path, 340, 2, 1);
    for (int threads = 2; threads <= 5; threads++) {
        lt_tokenizer *many = train(text_path, 340, 2, threads);
        assert_string_equal(lt_tokenizer_hash(one), lt_tokenizer_hash(many));
        lt_tokenizer_free(many);
    }
    lt_tokenizer_free(one);
}

/* Text is counted in parts of 1 MiB; a word that lies over the place must not be cut. */
static void test_parts_end_between_words(void **state)
{
    (void)state;
    char path[96];
    const size_t part = 1 << 20;
    lt_buffer text = {0};
    while (text.size < part - 16)
        ok(lt_buffer_append_text(&text, "a b ", &err));
    ok(lt_buffer_append_text(&text, "c                                 d", &err)); /* 33 spaces */
    while (text.size < 2 * part)
        ok(lt_buffer_append_text(&text, " a b", &err));
    snprintf(path, sizeof path, "%s/parts.txt", folder);
    ok(lt_write_file(path, text.data, text.size, &err));
    lt_buffer_free(&text);
    lt_tokenizer *tokenizer = train(path, 300, 1, 2);
    ok(lt_buffer_append_text(&text, "", &err));
    for (int i = 0; i < 32; i++) /* the last space goes with the letter */
        ok(lt_buffer_append_text(&text, "\xC4\xA0", &err));
    assert_true(lt_tokenizer_token_id(tokenizer, text.data) > 0);
    lt_buffer_free(&text);
    lt_tokenizer_free(tokenizer);
}

/* --- The obvious trainer ----------------------------------------------------------------------
 * Words are kept as lists of ids; all pairs are counted anew before every merge. The words come
 * from a tokenizer that has no merges: it gives a byte at a time, and a word begins where a space
 * does in the simple text that is used. */

enum { MAX_IDS = 4096, MAX_TOKENS = 400 };

typedef struct slow_trainer {
    int32_t ids[MAX_IDS]; /* -1 between words */
    size_t count;
    char spelling[MAX_TOKENS][64];
    int32_t tokens;
} slow_trainer;

/* Overlapping occurrences count too, as in "aaa", though only one of them can be merged. */
static int64_t count_pair(const slow_trainer *t, int32_t left, int32_t right)
{
    int64_t count = 0;
    for (size_t i = 0; i + 1 < t->count; i++)
        count += t->ids[i] == left && t->ids[i + 1] == right;
    return count;
}

static int64_t best_pair(const slow_trainer *t, int32_t *left, int32_t *right)
{
    int64_t best = 0;
    for (int32_t a = 0; a < t->tokens; a++) { /* ascending: ties go to the lower ids */
        for (int32_t b = 0; b < t->tokens; b++) {
            int64_t count = count_pair(t, a, b);
            if (count > best) {
                best = count;
                *left = a;
                *right = b;
            }
        }
    }
    return best;
}

static void merge(slow_trainer *t, int32_t left, int32_t right)
{
    size_t out = 0;
    char joined[64];
    snprintf(joined, sizeof joined, "%.31s%.31s", t->spelling[left], t->spelling[right]);
    memcpy(t->spelling[t->tokens], joined, sizeof joined);
    for (size_t i = 0; i < t->count; i++) {
        bool here = t->ids[i] == left && i + 1 < t->count && t->ids[i + 1] == right;
        t->ids[out++] = here ? t->tokens : t->ids[i];
        i += here;
    }
    t->count = out;
    t->tokens++;
}

static void test_merges_are_the_obvious_ones(void **state)
{
    (void)state;
    static const char text[] = "low lower lowest newer newest wider widest low low newest widest "
                               "slow slower slowest lowlow newnew onion onions union unions";
    char path[96];
    snprintf(path, sizeof path, "%s/small.txt", folder);
    ok(lt_write_file(path, text, sizeof text - 1, &err));
    const int32_t first = 258, wanted = 30;
    lt_tokenizer *tokenizer = train(path, first + wanted, 1, 2);
    assert_int_equal(lt_tokenizer_vocab_size(tokenizer), first + wanted);

    static slow_trainer slow;
    slow = (slow_trainer){.tokens = first};
    for (int32_t id = 0; id < first; id++)
        snprintf(slow.spelling[id], 64, "%s", lt_tokenizer_token(tokenizer, id));
    for (const char *p = text; *p; p++) {
        char letter[3] = {*p, '\0', '\0'};
        if (*p == ' ') {
            slow.ids[slow.count++] = -1;
            memcpy(letter, "\xC4\xA0", 3);
        }
        slow.ids[slow.count++] = lt_tokenizer_token_id(tokenizer, letter);
    }
    for (int32_t i = 0; i < wanted; i++) {
        int32_t left = 0, right = 0;
        assert_true(best_pair(&slow, &left, &right) >= 1);
        merge(&slow, left, right);
        assert_string_equal(lt_tokenizer_token(tokenizer, first + i), slow.spelling[first + i]);
    }
    lt_tokenizer_free(tokenizer);
}

/* --- What comes out ---------------------------------------------------------------------------
 */

static void check_round_trip(const lt_tokenizer *tokenizer, const char *text, size_t size)
{
    lt_encoder *encoder;
    lt_ids ids = {0};
    lt_buffer back = {0};
    ok(lt_encoder_create(tokenizer, &encoder, &err));
    ok(lt_encode(encoder, text, size, LT_ENCODE_PLAIN, &ids, &err));
    ok(lt_decode(tokenizer, ids.data, ids.count, false, &back, &err));
    assert_int_equal(back.size, size);
    assert_memory_equal(back.data, text, size);
    lt_buffer_free(&back);
    lt_ids_free(&ids);
    lt_encoder_free(encoder);
}

static void test_any_text_comes_back(void **state)
{
    (void)state;
    lt_tokenizer *tokenizer = train(text_path, 400, 2, 0);
    assert_int_equal(lt_tokenizer_token_id(tokenizer, "<|endoftext|>"), 0);
    assert_int_equal(lt_tokenizer_token_id(tokenizer, "<|pad|>"), 1);
    assert_int_equal(lt_tokenizer_eos_id(tokenizer), 0);
    assert_true(lt_tokenizer_is_special(tokenizer, 0));
    static const char odd[] = "water <|endoftext|> \xC5\xBF\xF4\x8F\xBF\xBF\x01\x7F\xC2\x80\r\n\t ";
    check_round_trip(tokenizer, odd, sizeof odd - 1);
    lt_buffer text = {0};
    ok(lt_read_file(text_path, (size_t)1 << 30, &text, &err));
    check_round_trip(tokenizer, text.data, text.size);
    lt_buffer_free(&text);
    lt_tokenizer_free(tokenizer);
}

static void test_records(void **state)
{
    (void)state;
    lt_tokenizer *tokenizer = train(records_path, 300, 2, 2);
    assert_true(lt_tokenizer_token_id(tokenizer, "mill") > 0);
    assert_int_equal(lt_tokenizer_token_id(tokenizer, "a\""), -1);
    assert_true(lt_tokenizer_vocab_size(tokenizer) < 300); /* no more pairs occur twice */
    lt_tokenizer_free(tokenizer);
}

static void test_refuses(void **state)
{
    (void)state;
    char path[96];
    const char *file = path;
    lt_tokenizer *tokenizer = NULL;
    lt_bpe_train_settings settings = {.vocab_size = 300, .min_frequency = 2};
    snprintf(path, sizeof path, "%s/bad.txt", folder);
    ok(lt_write_file(path, "fine \xC3(", 7, &err));
    assert_int_equal(lt_tokenizer_train(&file, 1, &settings, &tokenizer, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "bad.txt: not UTF-8 at byte 5"));
    snprintf(path, sizeof path, "%s/bad.jsonl", folder);
    ok(lt_write_file(path, "{\"a\": \"b\"}\n{\"a\": \n", 19, &err));
    assert_int_equal(lt_tokenizer_train(&file, 1, &settings, &tokenizer, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "bad.jsonl:2"));
    snprintf(path, sizeof path, "%s/none.txt", folder);
    assert_int_equal(lt_tokenizer_train(&file, 1, &settings, &tokenizer, &err), LT_ERR_IO);
    file = text_path;
    settings.vocab_size = 255;
    assert_int_equal(lt_tokenizer_train(&file, 1, &settings, &tokenizer, &err), LT_ERR_USAGE);
    assert_null(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_parts_end_between_words),
        cmocka_unit_test(test_merges_are_the_obvious_ones),
        cmocka_unit_test(test_any_text_comes_back),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
