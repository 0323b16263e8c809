#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/options.h"

typedef struct settings {
    char *config;
    int64_t epochs;
    double learning_rate;
    bool dry_run;
    char *scheduler;
    lt_string_list input;
    char *text;
} settings;

enum { CONFIG, EPOCHS, LEARNING_RATE, DRY_RUN, SCHEDULER, INPUT, TEXT, COUNT };

static const lt_option options[COUNT] = {
    [CONFIG] = {"config", LT_OPTION_STRING, offsetof(settings, config), .command_line_only = true},
    [EPOCHS] = {"epochs", LT_OPTION_INT, offsetof(settings, epochs), .default_text = "3", .min = 0,
                .max = 100, .aliases = "num-train-epochs"},
    [LEARNING_RATE] = {"learning-rate", LT_OPTION_NUMBER, offsetof(settings, learning_rate),
                       .default_text = "1e-4"},
    [DRY_RUN] = {"dry-run", LT_OPTION_FLAG, offsetof(settings, dry_run), .help = "Only plan."},
    [SCHEDULER] = {"lr-scheduler", LT_OPTION_CHOICE, offsetof(settings, scheduler),
                   .default_text = "cosine", .choices = "cosine|linear"},
    [INPUT] = {"input", LT_OPTION_LIST, offsetof(settings, input), .default_text = "standard"},
    [TEXT] = {"text", LT_OPTION_STRING, offsetof(settings, text), .default_text = "usual"},
};
static const lt_option_table table = {
    .command = "lathe test", .options = options, .count = COUNT, .positional = &options[INPUT]};

static lt_err err;
static settings set;
static lt_option_result result;
static char path[] = "/tmp/lathe-options.yaml.XXXXXX";

static int set_up(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd >= 0 && close(fd) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

/* Parses a file with this text, then up to two words of the command line. */
static lt_status parse(const char *text, size_t size, const char *word, const char *second)
{
    assert_int_equal(lt_write_file(path, text, size, NULL), LT_OK);
    char *words[] = {"--config", path, (char *)word, (char *)second};
    set = (settings){0};
    err = (lt_err){0};
    return lt_options_parse(&table, 2 + !!word + !!second, words, &set, &result, &err);
}

static void done(void)
{
    lt_options_free(&table, &set, &result);
}

static void accepted(const char *text)
{
    lt_status status = parse(text, strlen(text), NULL, NULL);
    if (status != LT_OK) fail_msg("%s", err.message);
}

static void refused(const char *text, const char *line, const char *part)
{
    assert_int_equal(parse(text, strlen(text), NULL, NULL), LT_ERR_USAGE);
    char start[sizeof path + 20];
    snprintf(start, sizeof start, "%s:%s:", path, line);
    if (strncmp(err.message, start, strlen(start)) != 0 || !strstr(err.message, part))
        fail_msg("no \"%s … %s\" in: %s", start, part, err.message);
}

static void the_file_sets_what_no_flag_sets(void **state)
{
    (void)state;
    const char *text = "# a comment\nlearning_rate: 3e-4\nnum_train_epochs: 7\ndry-run: true\n"
                       "lr_scheduler: \"linear\"\n";
    accepted(text);
    assert_true(set.learning_rate == 3e-4);
    assert_int_equal(set.epochs, 7);
    assert_true(set.dry_run);
    assert_string_equal(set.scheduler, "linear");
    assert_string_equal(set.text, "usual");
    assert_true(lt_option_was_set(&table, &result, "learning-rate"));
    assert_false(lt_option_was_set(&table, &result, "text"));
    done();
    assert_int_equal(parse(text, strlen(text), "--epochs=9", "--no-dry-run"), LT_OK);
    assert_int_equal(set.epochs, 9); /* the flag wins */
    assert_false(set.dry_run);
    assert_true(set.learning_rate == 3e-4);
    done();
    static const char *const empty[] = {"", "\n", "# nothing\n", "---\n", "--- ~\n", "{}\n"};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        accepted(empty[i]);
        assert_int_equal(set.epochs, 3);
        done();
    }
}

static void strings_stay_strings(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"text: no\n", "no"},
                                           {"text: 012\n", "012"},
                                           {"text: 1e5\n", "1e5"},
                                           {"text: 2026-01-01\n", "2026-01-01"},
                                           {"text: 'null'\n", "null"},
                                           {"text: ''\n", ""},
                                           {"text: |\n  a\n  b\n", "a\nb\n"},
                                           {"text: \"\\u263a\"\n", "\xE2\x98\xBA"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        accepted(cases[i][0]);
        assert_string_equal(set.text, cases[i][1]);
        done();
    }
    static const char *const nulls[] = {"text:\n", "text: null\n", "text: ~\n"};
    for (size_t i = 0; i < sizeof nulls / sizeof *nulls; i++) {
        accepted(nulls[i]);
        assert_string_equal(set.text, "usual");
        assert_false(lt_option_was_set(&table, &result, "text"));
        done();
    }
}

static void lists(void **state)
{
    (void)state;
    accepted("epochs: 1\n");
    assert_int_equal(set.input.count, 1);
    assert_string_equal(set.input.items[0], "standard");
    done();
    static const char *const two[] = {"input: [a, b]\n", "input:\n  - a\n  - b\n",
                                      "input:\n- 'a'\n- \"b\"\n"};
    for (size_t i = 0; i < 3; i++) {
        accepted(two[i]);
        assert_int_equal(set.input.count, 2);
        assert_string_equal(set.input.items[0], "a");
        assert_string_equal(set.input.items[1], "b");
        done();
    }
    accepted("input: one word\n");
    assert_int_equal(set.input.count, 1);
    assert_string_equal(set.input.items[0], "one word");
    done();
    accepted("input: []\n");
    assert_int_equal(set.input.count, 0);
    done();
    assert_int_equal(parse(two[0], strlen(two[0]), "c", NULL), LT_OK);
    assert_int_equal(set.input.count, 1); /* a word replaces the file's list */
    assert_string_equal(set.input.items[0], "c");
    done();
}

static void what_no_setting_needs_is_refused(void **state)
{
    (void)state;
    refused("epochs: 1\nepoch: 2\n", "2", "did you mean 'epochs'?");
    refused("\n\nlearning_rat: 1\n", "3", "did you mean 'learning-rate'?");
    refused("epochs: 1\nepochs: 2\n", "2", "twice");
    refused("epochs: 1\nnum-train-epochs: 2\n", "2", "twice");
    refused("epochs: 1.5\n", "1", "whole number");
    refused("epochs: 101\n", "1", "0 to 100");
    refused("learning_rate: 1_000\n", "1", "not a number");
    refused("learning_rate: .nan\n", "1", "not a number");
    refused("lr_scheduler: step\n", "1", "cosine|linear");
    refused("config: other.yaml\n", "1", "command line");
    refused("text: &a x\n", "1", "anchors");
    refused("text: &a x\ninput: [*a]\n", "1", "anchors");
    refused("text: *a\n", "1", "aliases");
    refused("text: !!str x\n", "1", "tags");
    refused("epochs: ! 1\n", "1", "tags");
    refused("text:\n  a: b\n", "2", "nested");
    refused("training: {epochs: 1}\n", "1", "unknown option");
    refused("input: [[a]]\n", "1", "plain values");
    refused("input:\n- a: b\n", "2", "plain values");
    refused("text: [a]\n", "1", "one value");
    refused("[a, b]\n", "1", "name: value");
    refused("just words\n", "1", "name: value");
    refused("? [a]\n: b\n", "1", "plain text");
    refused("epochs: 1\n---\nepochs: 2\n", "2", "more than one document");
    refused("epochs: 1\ntext: b: c\n", "2", "not valid YAML");
    refused("text: \"open\n", "2", "not valid YAML");
    refused("text: \xff\n", "1", "not valid YAML");
    refused("text: \"a\\0b\"\n", "1", "NUL");
    refused("\"epochs\\0\": 1\n", "1", "unknown option");
    assert_int_equal(parse("text: a\0b\n", 10, NULL, NULL), LT_ERR_USAGE);
    char *large = calloc(300000, 1);
    assert_non_null(large);
    memset(large, '\n', 300000);
    assert_int_equal(parse(large, 300000, NULL, NULL), LT_ERR_LIMIT);
    free(large);
    char *words[] = {"--config", "/no/such/file.yaml"};
    set = (settings){0};
    assert_int_equal(lt_options_parse(&table, 2, words, &set, &result, &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, "/no/such/file.yaml"));
}

/* The saved settings read back as the same settings, whatever is in the strings. */
static void resolved_settings_round_trip(void **state)
{
    (void)state;
    static const char *const texts[] = {"plain",
                                        "",
                                        "null",
                                        "~",
                                        "a: b # c",
                                        "\"'\\",
                                        "line\nbreak\ttab\r",
                                        "- x",
                                        "&a *b !c",
                                        "\x01\x1f\x7f",
                                        "\xC2\x80\xC2\x85\xC2\x9F\xC2\xA0",
                                        "\xE2\x80\xA8\xE2\x80\xA9",
                                        "\xEF\xBB\xBF\xEF\xBF\xBE\xEF\xBF\xBF",
                                        "\xF0\x9F\x98\x80",
                                        "  spaces  ",
                                        "{[%@`"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char *words[] = {"--learning-rate", "0.1",     "--epochs",       "5",     "--text",
                         (char *)texts[i],  "--input", (char *)texts[i], "second"};
        char whole[100]; /* as one word, so that "- x" is no flag */
        snprintf(whole, sizeof whole, "--text=%s", texts[i]);
        words[4] = whole;
        words[5] = "--dry-run";
        set = (settings){0};
        assert_int_equal(lt_options_parse(&table, 9, words, &set, &result, &err), LT_OK);
        settings first = set;
        lt_option_result first_result = result;
        char *yaml = NULL, *again = NULL;
        assert_int_equal(lt_options_to_yaml(&table, &first, &yaml, &err), LT_OK);
        accepted(yaml);
        assert_string_equal(set.text, texts[i]);
        assert_int_equal(set.input.count, 2);
        assert_string_equal(set.input.items[0], texts[i]);
        assert_string_equal(set.input.items[1], "second");
        assert_true(set.learning_rate == 0.1);
        assert_int_equal(lt_options_to_yaml(&table, &set, &again, &err), LT_OK);
        assert_string_equal(yaml, again);
        free(yaml);
        free(again);
        done();
        lt_options_free(&table, &first, &first_result);
    }
}

static void settings_as_json_and_yaml(void **state)
{
    (void)state;
    accepted("learning_rate: 0.0003\ndry_run: on\n");
    char *yaml = NULL;
    assert_int_equal(lt_options_to_yaml(&table, &set, &yaml, &err), LT_OK);
    assert_string_equal(yaml, "epochs: 3\nlearning_rate: 0.0003\ndry_run: true\n"
                              "lr_scheduler: \"cosine\"\ninput: [\"standard\"]\n"
                              "text: \"usual\"\n");
    free(yaml);
    json_t *object = NULL;
    assert_int_equal(lt_options_to_json(&table, &set, &object, &err), LT_OK);
    char *text = json_dumps(object, JSON_COMPACT);
    assert_string_equal(text, "{\"epochs\":3,\"learning_rate\":0.00029999999999999997,"
                              "\"dry_run\":true,\"lr_scheduler\":\"cosine\","
                              "\"input\":[\"standard\"],\"text\":\"usual\"}");
    free(text);
    json_decref(object);
    done();

    char *words[] = {"--text", "\xff"};
    set = (settings){0};
    assert_int_equal(lt_options_parse(&table, 2, words, &set, &result, &err), LT_OK);
    assert_int_not_equal(lt_options_to_json(&table, &set, &object, &err), LT_OK);
    assert_non_null(strstr(err.message, "text"));
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_sets_what_no_flag_sets),
        cmocka_unit_test(strings_stay_strings),
        cmocka_unit_test(lists),
        cmocka_unit_test(what_no_setting_needs_is_refused),
        cmocka_unit_test(resolved_settings_round_trip),
        cmocka_unit_test(settings_as_json_and_yaml),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
