/* Stop texts in a stream, and exact match: no model, no tokenizer. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "train/answer_text.h"

/* Feeds `text` in pieces of `piece` bytes. What comes out before the end goes to `early`, all of it
 * to `out`. */
static lt_stop_scanner scan(const char *text, size_t piece, const char *const *stops,
                            int64_t stop_count, bool trim_end, lt_buffer *out, lt_buffer *early)
{
    lt_stop_scanner scanner = {
        .stop_texts = stops, .stop_text_count = stop_count, .trim_end = trim_end};
    size_t size = strlen(text);
    for (size_t at = 0; at < size; at += piece) {
        size_t length = size - at < piece ? size - at : piece;
        assert_int_equal(lt_stop_scanner_feed(&scanner, text + at, length, out, NULL), LT_OK);
    }
    if (early) lt_buffer_append(early, lt_buffer_text(out), out->size, NULL);
    return scanner;
}

static void stop_text_is_never_shown(void **state)
{
    (void)state;
    static const char *const stops[] = {"END", "\n\n"};
    static const struct {
        const char *text, *shown;
        bool stopped;
    } cases[] = {
        {"hello END world", "hello ", true},
        {"helloEEND", "helloE", true},
        {"ENDhello", "", true},
        {"one\n\ntwo END", "one", true},
        {"one\ntwo", "one\ntwo", false},
        {"almost EN", "almost EN", false},
        {"E.EN.EEN", "E.EN.EEN", false},
        {"", "", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t piece = 1; piece < 12; piece++) {
            lt_buffer out = {0};
            lt_stop_scanner scanner = scan(cases[i].text, piece, stops, 2, false, &out, NULL);
            assert_int_equal(scanner.stopped, cases[i].stopped);
            assert_int_equal(lt_stop_scanner_finish(&scanner, &out, NULL), LT_OK);
            assert_string_equal(lt_buffer_text(&out), cases[i].shown);
            lt_stop_scanner_free(&scanner);
            lt_buffer_free(&out);
        }
    }
}

static void only_what_may_be_a_stop_is_held_back(void **state)
{
    (void)state;
    static const char *const stops[] = {"ababc"};
    lt_buffer out = {0}, early = {0};
    lt_stop_scanner scanner = scan("x abab", 1, stops, 1, false, &out, &early);
    assert_string_equal(lt_buffer_text(&early), "x ");
    lt_stop_scanner_feed(&scanner, "a", 1, &out, NULL); /* "aba" may still become one */
    assert_string_equal(lt_buffer_text(&out), "x ab");
    lt_stop_scanner_feed(&scanner, "!", 1, &out, NULL);
    assert_string_equal(lt_buffer_text(&out), "x ababa!");
    lt_stop_scanner_feed(&scanner, "ababc more", 10, &out, NULL);
    lt_stop_scanner_feed(&scanner, "and more", 8, &out, NULL);
    lt_stop_scanner_finish(&scanner, &out, NULL);
    assert_string_equal(lt_buffer_text(&out), "x ababa!");
    lt_stop_scanner_free(&scanner);
    lt_buffer_free(&out);
    lt_buffer_free(&early);
}

static void the_earliest_of_several_stops_counts(void **state)
{
    (void)state;
    static const char *const stops[] = {"world", "hello w"};
    lt_buffer out = {0};
    lt_stop_scanner scanner = scan("say hello world", 100, stops, 2, false, &out, NULL);
    assert_string_equal(lt_buffer_text(&out), "say ");
    lt_stop_scanner_free(&scanner);
    lt_buffer_free(&out);
}

static void space_at_the_end_is_left_out_on_demand(void **state)
{
    (void)state;
    static const char *const stops[] = {"###"};
    lt_buffer out = {0}, early = {0};
    lt_stop_scanner scanner = scan("two words \n\n", 1, stops, 1, true, &out, &early);
    assert_string_equal(lt_buffer_text(&early), "two words");
    lt_stop_scanner_finish(&scanner, &out, NULL);
    assert_string_equal(lt_buffer_text(&out), "two words");
    lt_stop_scanner_free(&scanner);
    lt_buffer_clear(&out);
    scanner = scan("two\n\nparts\n###", 3, stops, 1, true, &out, NULL);
    assert_true(scanner.stopped);
    assert_string_equal(lt_buffer_text(&out), "two\n\nparts");
    lt_stop_scanner_free(&scanner);
    lt_buffer_free(&out);
    lt_buffer_free(&early);
}

static void answers_are_compared_without_outer_space(void **state)
{
    (void)state;
    assert_true(lt_same_answer("Oslo.", "  Oslo.\n\n"));
    assert_true(lt_same_answer("", " \n"));
    assert_true(lt_same_answer("a  b", "a  b"));
    assert_false(lt_same_answer("a  b", "a b"));
    assert_false(lt_same_answer("Oslo.", "Oslo"));
    assert_false(lt_same_answer("Oslo", "oslo"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_text_is_never_shown),
        cmocka_unit_test(only_what_may_be_a_stop_is_held_back),
        cmocka_unit_test(the_earliest_of_several_stops_counts),
        cmocka_unit_test(space_at_the_end_is_left_out_on_demand),
        cmocka_unit_test(answers_are_compared_without_outer_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
