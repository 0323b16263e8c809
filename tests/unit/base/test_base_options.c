/* Flags, defaults, ranges, names and help; the YAML side is in test_options_yaml.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"

typedef struct settings {
    char *model;
    int64_t epochs;
    double learning_rate;
    bool dry_run;
    bool shuffle;
    char *scheduler;
    lt_string_list input;
    char *stop;
    int64_t seed;
} settings;

enum { MODEL, EPOCHS, LEARNING_RATE, DRY_RUN, SHUFFLE, SCHEDULER, INPUT, STOP, SEED, COUNT };

static const lt_option options[COUNT] = {
    [MODEL] = {"model", LT_OPTION_STRING, offsetof(settings, model), .required = true,
               .metavar = "DIR", .group = "Input", .help = "The model to start from."},
    [EPOCHS] = {"epochs", LT_OPTION_INT, offsetof(settings, epochs), .default_text = "3", .min = 0,
                .max = 1000000, .aliases = "num-train-epochs passes", .group = "Training",
                .help = "How often all of the data are seen, which is a sentence that is long "
                        "enough to need a second line."},
    [LEARNING_RATE] = {"learning-rate", LT_OPTION_NUMBER, offsetof(settings, learning_rate),
                       .default_text = "1e-4", .min = 0, .max = 1, .help = "Peak rate."},
    [DRY_RUN] = {"dry-run", LT_OPTION_FLAG, offsetof(settings, dry_run), .help = "Only plan."},
    [SHUFFLE] = {"shuffle", LT_OPTION_FLAG, offsetof(settings, shuffle), .default_text = "true",
                 .help = "Mix the rows."},
    [SCHEDULER] = {"lr-scheduler", LT_OPTION_CHOICE, offsetof(settings, scheduler),
                   .default_text = "cosine", .choices = "cosine|linear|constant",
                   .help = "Shape of the schedule."},
    [INPUT] = {"input", LT_OPTION_LIST, offsetof(settings, input), .metavar = "FILE...",
               .help = "Files."},
    [STOP] = {"stop", LT_OPTION_STRING, offsetof(settings, stop), .help = "Text that ends it."},
    [SEED] = {"seed", LT_OPTION_INT, offsetof(settings, seed), .default_text = "-1",
              .help = "Any number."},
};
static const lt_option_table table = {.command = "lathe test",
                                      .synopsis = "lathe test --model DIR [FILE...]",
                                      .description =
                                          "Tests the options.\n\nexamples:\n  lathe test --model a",
                                      .options = options,
                                      .count = COUNT,
                                      .positional = &options[INPUT]};

static lt_err err;
static settings set;
static lt_option_result result;

/* Parses the words, all of them separate arguments, up to a NULL. */
static lt_status parse(const char *const *words)
{
    int count = 0;
    while (words[count])
        count++;
    set = (settings){0};
    err = (lt_err){0};
    return lt_options_parse(&table, count, (char **)words, &set, &result, &err);
}

#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void done(void)
{
    lt_options_free(&table, &set, &result);
}

static void refused(lt_status status, const char *part)
{
    assert_int_equal(status, LT_ERR_USAGE);
    if (!strstr(err.message, part)) fail_msg("no \"%s\" in: %s", part, err.message);
    assert_null(set.model); /* a failed parse owns nothing */
    assert_null(set.input.items);
    assert_null(result.was_set);
}

static void defaults_stand(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--model", "m"), LT_OK);
    assert_string_equal(set.model, "m");
    assert_int_equal(set.epochs, 3);
    assert_true(set.learning_rate == 1e-4);
    assert_false(set.dry_run);
    assert_true(set.shuffle);
    assert_string_equal(set.scheduler, "cosine");
    assert_int_equal(set.input.count, 0);
    assert_null(set.stop);
    assert_int_equal(set.seed, -1);
    assert_int_equal(result.was_set[MODEL], 1);
    assert_int_equal(result.was_set[EPOCHS], 0);
    assert_true(lt_option_was_set(&table, &result, "model"));
    assert_false(lt_option_was_set(&table, &result, "num_train_epochs"));
    done();
}

static void every_spelling_is_the_same(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--model=m", "--learning_rate", "0.5", "--num_train_epochs=7",
                           "--dry-run", "--no-shuffle"),
                     LT_OK);
    assert_true(set.learning_rate == 0.5);
    assert_int_equal(set.epochs, 7);
    assert_true(set.dry_run);
    assert_false(set.shuffle);
    assert_true(lt_option_was_set(&table, &result, "epochs"));
    done();
    assert_int_equal(PARSE("--model", "m", "--passes", "8", "--dry_run=on", "--shuffle=0",
                           "--lr_scheduler", "linear", "--learning-rate=1e-4", "--seed", "-5"),
                     LT_OK);
    assert_int_equal(set.epochs, 8);
    assert_true(set.dry_run);
    assert_false(set.shuffle);
    assert_string_equal(set.scheduler, "linear");
    assert_true(set.learning_rate == 1e-4);
    assert_int_equal(set.seed, -5);
    done();
    assert_int_equal(PARSE("--model", "m", "--epochs", "1", "--epochs", "2", "--model", "n",
                           "--no_dry_run", "--seed=9223372036854775807"),
                     LT_OK);
    assert_int_equal(set.epochs, 2); /* the last one wins */
    assert_string_equal(set.model, "n");
    assert_true(set.seed == INT64_MAX);
    done();
}

static void lists_take_words(void **state)
{
    (void)state;
    assert_int_equal(
        PARSE("a", "--input", "b", "c", "--model", "m", "d", "--input", "-", "--", "--model", "-x"),
        LT_OK);
    static const char *const expected[] = {"a", "b", "c", "d", "-", "--model", "-x"};
    assert_int_equal(set.input.count, 7);
    for (size_t i = 0; i < 7; i++)
        assert_string_equal(set.input.items[i], expected[i]);
    assert_string_equal(set.model, "m");
    done();
    refused(PARSE("--model", "m", "--input", "--dry-run"), "--input needs a value");
}

static void values_may_begin_with_a_hyphen(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--model", "m", "--stop", "- one", "--learning-rate", "1e-3"), LT_OK);
    assert_string_equal(set.stop, "- one");
    done();
    assert_int_equal(PARSE("--model", "m", "--stop=--dry-run"), LT_OK);
    assert_string_equal(set.stop, "--dry-run");
    assert_false(set.dry_run);
    done();
    assert_int_equal(PARSE("--model", "m", "--stop", ""), LT_OK);
    assert_string_equal(set.stop, "");
    done();
    refused(PARSE("--model", "m", "--stop", "--dry-run"), "--stop needs a value");
    refused(PARSE("--model", "m", "--stop"), "--stop needs a value");
}

static void bad_values_are_refused(void **state)
{
    (void)state;
    static const char *const bad_ints[] = {"1.5", "1_000", "1e3", "", " 1", "1 ", "0x10", "ten"};
    for (size_t i = 0; i < sizeof bad_ints / sizeof *bad_ints; i++) {
        refused(PARSE("--model", "m", "--epochs", bad_ints[i]), "whole number");
        assert_non_null(strstr(err.message, "--epochs"));
    }
    static const char *const bad_numbers[] = {"1_000", "nan",   "inf", "1e999",
                                              "",      "0x1p3", "1,5", " 1"};
    for (size_t i = 0; i < sizeof bad_numbers / sizeof *bad_numbers; i++)
        refused(PARSE("--model", "m", "--learning-rate", bad_numbers[i]), "not a number");
    refused(PARSE("--model", "m", "--epochs", "99999999999999999999"), "too large");
    refused(PARSE("--model", "m", "--epochs", "-1"), "0 to 1000000");
    refused(PARSE("--model", "m", "--epochs", "1000001"), "0 to 1000000");
    refused(PARSE("--model", "m", "--learning_rate", "1.1"), "0 to 1");
    refused(PARSE("--model", "m", "--dry-run=maybe"), "--dry-run");
    refused(PARSE("--model", "m", "--lr-scheduler", "cos"), "cosine|linear|constant");
    refused(PARSE("--model", "m", "--lr-scheduler", "cosine|linear"), "cosine|linear|constant");
    refused(PARSE("--model", "m", "--lr-scheduler", ""), "cosine|linear|constant");
    refused(PARSE("--epochs", "1"), "--model is required");
}

static void unknown_names_get_a_suggestion(void **state)
{
    (void)state;
    refused(PARSE("--modle", "m"), "did you mean 'model'?");
    refused(PARSE("--learning-rte=1"), "did you mean 'learning-rate'?");
    refused(PARSE("--num_train_epoch", "1"), "did you mean 'num-train-epochs'?");
    refused(PARSE("--no-dry-rum"), "unknown option");
    refused(PARSE("--no-epochs"), "unknown option");
    refused(PARSE("--no-dry-run=true"), "unknown option");
    refused(PARSE("--xyzzy"), "unknown option 'xyzzy'");
    assert_null(strstr(err.message, "did you mean"));
    refused(PARSE("-e", "1"), "begin with --");
    refused(PARSE("--="), "unknown option ''");
}

static void nearest_names(void **state)
{
    (void)state;
    static const char *const names[] = {"alpha", "beta", "learning-rate"};
    assert_string_equal(lt_nearest_name("alhpa", names, 3), "alpha");
    assert_string_equal(lt_nearest_name("learningrates", names, 3), "learning-rate");
    assert_null(lt_nearest_name("gamma-ray", names, 3));
    assert_null(lt_nearest_name("alpha", names, 0));
    char word[200];
    memset(word, 'a', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    assert_null(lt_nearest_name(word, names, 3));
    refused(PARSE(word,
                  "--aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            "unknown option");
}

static void help(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--epochs", "nonsense", "--help"), LT_OK);
    assert_true(result.help);
    done();
    assert_int_equal(PARSE("-h"), LT_OK);
    assert_true(result.help);
    done();
    assert_int_equal(PARSE("--model", "m", "--", "--help"), LT_OK);
    assert_false(result.help);
    done();

    char *text = NULL;
    assert_int_equal(lt_options_help(&table, &text, &err), LT_OK);
    static const char *const wanted[] = {
        "usage: lathe test --model DIR [FILE...]\n",
        "\nTests the options.\n",
        "\nInput:\n  --model DIR                     The model to start from. (required)\n",
        "\nTraining:\n  --epochs N                      How often",
        "  --learning-rate X               Peak rate. (default 1e-4; 0 to 1)\n",
        "  --dry-run                       Only plan.\n",
        "  --shuffle                       Mix the rows. (default true)\n",
        "  --lr-scheduler cosine|linear|constant\n                                  Shape of the",
        "  FILE...                         Files.\n",
        "\nexamples:\n  lathe test --model a\n",
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!strstr(text, wanted[i])) fail_msg("no \"%s\" in:\n%s", wanted[i], text);
    for (char *line = text; *line; line += strcspn(line, "\n") + 1)
        assert_true(strcspn(line, "\n") <= 100);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_stand),         cmocka_unit_test(every_spelling_is_the_same),
        cmocka_unit_test(lists_take_words),       cmocka_unit_test(values_may_begin_with_a_hyphen),
        cmocka_unit_test(bad_values_are_refused), cmocka_unit_test(unknown_names_get_a_suggestion),
        cmocka_unit_test(nearest_names),          cmocka_unit_test(help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
