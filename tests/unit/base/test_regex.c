/* Patterns over names: whole and anywhere, what is wrong with one and where, and an end to those
 * that would run on for ever. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/regex.h"

static lt_err err;

static lt_status match(const char *pattern, bool whole, const char *text, bool *matches)
{
    lt_regex *regex = NULL;
    lt_status status = lt_regex_compile(pattern, whole, "--flag", &regex, &err);
    if (status == LT_OK) status = lt_regex_match(regex, text, matches, &err);
    lt_regex_free(regex);
    return status;
}

static void check(const char *pattern, const char *text, bool whole, bool anywhere)
{
    bool matches;
    assert_int_equal(match(pattern, true, text, &matches), LT_OK);
    if (matches != whole) fail_msg("\"%s\" and all of \"%s\": %d", pattern, text, matches);
    assert_int_equal(match(pattern, false, text, &matches), LT_OK);
    if (matches != anywhere) fail_msg("\"%s\" in \"%s\": %d", pattern, text, matches);
}

static void test_whole_and_anywhere(void **state)
{
    (void)state;
    check("q_proj", "q_proj", true, true);
    check("q_proj", "layers.0.q_proj", false, true);
    check("q_proj", "q_proj.weight", false, true);
    check("q_proj", "k_proj", false, false);
    check(".*\\.(q|v)_proj", "layers.0.v_proj", true, true);
    check(".*\\.(q|v)_proj", "layers.0.v_proj.lora_A", false, true);
    /* an alternative that ends too early is not the last word: fullmatch tries the others */
    check("q|q_proj", "q_proj", true, true);
    check("a|b", "ab", false, true);
    check("^layers", "layers.0", false, true);
    check("^layers", "my.layers.0", false, false);
    check("weight$", "a.weight", false, true);
    check(".*weight$", "a.weight", true, true);
    check("", "", true, true);
    check("", "x", false, true);
    check(".", "\xC3\xA4", true, true); /* a character, not a byte */
}

/* One regex is used for many names. */
static void test_reuse(void **state)
{
    (void)state;
    static const char *const names[] = {"h.0.attn", "h.10.attn", "h.1.mlp", "attn"};
    static const bool expected[] = {true, true, false, false};
    lt_regex *regex = NULL;
    assert_int_equal(lt_regex_compile("h\\.\\d+\\.attn", true, "x", &regex, &err), LT_OK);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 4; i++) {
            bool matches = !expected[i];
            assert_int_equal(lt_regex_match(regex, names[i], &matches, &err), LT_OK);
            assert_int_equal(matches, expected[i]);
        }
    lt_regex_free(regex);
    lt_regex_free(NULL);
}

static void check_broken(const char *pattern, const char *word)
{
    lt_regex *regex = (lt_regex *)&err;
    assert_int_equal(lt_regex_compile(pattern, false, "--freeze", &regex, &err), LT_ERR_USAGE);
    assert_null(regex);
    assert_true(strncmp(err.message, "--freeze: ", 10) == 0);
    if (!strstr(err.message, word)) fail_msg("'%s' should say '%s'", err.message, word);
}

static void test_broken_patterns(void **state)
{
    (void)state;
    check_broken("layers.(0", "\"layers.(0\" is wrong at character 10");
    check_broken("a)", "wrong at character 2");
    check_broken("*", "wrong at character 1: quantifier");
    check_broken("[a", "wrong at character 3");
    check_broken("\\", "wrong at character 2");
    check_broken("(?<x", "wrong at character");
    check_broken("a\\Cb", "wrong at character"); /* single bytes: not in UTF-8 */
    check_broken("\xFF", "UTF-8");
    char nested[4001];
    memset(nested, '(', 2000);
    memset(nested + 2000, ')', 2000);
    nested[4000] = '\0';
    check_broken(nested, "wrong at character"); /* and a message that is cut to fit */
    check_broken("((((a{1000}){1000}){1000}){1000})", "wrong at character");
}

/* Catastrophic patterns (nested repeats, recursion) end with an error at once. */
static void test_runaway_patterns(void **state)
{
    (void)state;
    static const char *const patterns[] = {"((.*)*)*[!?]", "(a+)+[!?]", "(a|a)*[!?]",
                                           "(.*)\\1(.*)\\2(.*)\\3[!?]", "(?R)?[!?]|(a(?R)?)+[!?]"};
    char text[201];
    bool matches = true;
    memset(text, 'a', 200);
    text[200] = '\0';
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        clock_t start = clock();
        lt_status status = match(patterns[i], true, text, &matches);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (status != LT_ERR_LIMIT) fail_msg("\"%s\": status %d", patterns[i], status);
        assert_false(matches);
        assert_non_null(strstr(err.message, "--flag: matching \"aaa"));
        if (!(seconds < 2)) fail_msg("\"%s\" takes %.1f s", patterns[i], seconds);
    }
}

/* Searching goes on behind a match, and gives what each group took. */
static void test_search(void **state)
{
    (void)state;
    static const char text[] = "caf\xC3\xA9 12, 345";
    lt_regex *regex = NULL;
    lt_text_span groups[3];
    bool found = false;
    assert_int_equal(lt_regex_compile("(\\d+)|(f.)", false, "--flag", &regex, &err), LT_OK);
    assert_int_equal(lt_regex_group_count(regex), 2);
    static const struct {
        size_t start, begin, end;
        int group;
    } expected[] = {{0, 2, 5, 2}, {5, 6, 8, 1}, {8, 10, 13, 1}};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(lt_regex_search(regex, text, sizeof text - 1, expected[i].start, false,
                                         groups, &found, &err),
                         LT_OK);
        const lt_text_span *group = &groups[expected[i].group];
        assert_true(found && groups[0].found && group->found);
        assert_false(groups[3 - expected[i].group].found);
        assert_int_equal(group->begin, expected[i].begin);
        assert_int_equal(group->end, expected[i].end);
        assert_int_equal(groups[0].end, expected[i].end);
    }
    assert_int_equal(lt_regex_search(regex, text, 10, 8, false, groups, &found, &err), LT_OK);
    assert_false(found); /* only text[0..size) counts */
    lt_regex_free(regex);
    assert_int_equal(lt_regex_compile("x*", false, "--flag", &regex, &err), LT_OK);
    assert_int_equal(lt_regex_search(regex, "ax", 2, 0, false, groups, &found, &err), LT_OK);
    assert_true(found && groups[0].begin == 0 && groups[0].end == 0);
    assert_int_equal(lt_regex_search(regex, "ax", 2, 0, true, groups, &found, &err), LT_OK);
    assert_true(found && groups[0].begin == 1 && groups[0].end == 2);
    lt_regex_free(regex);
    assert_int_equal(lt_regex_compile("(a+)+[!?]", false, "--flag", &regex, &err), LT_OK);
    assert_int_equal(lt_regex_search(regex, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 48,
                                     0, false, groups, &found, &err),
                     LT_ERR_LIMIT);
    assert_false(found);
    lt_regex_free(regex);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_and_anywhere), cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_broken_patterns), cmocka_unit_test(test_runaway_patterns),
        cmocka_unit_test(test_search)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
