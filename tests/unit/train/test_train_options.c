/* The option table of lathe train: defaults, ranges, the names that other trainers use, and the
 * file that is saved with a run. */
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
#include "train/train.h"

enum { MAX_WORDS = 40 };

static char *required[] = {"--model", "m", "--data", "d.h5", "--output", "o"};

/* Parses the required options and `words` (separated by spaces). */
static lt_status parse(const char *words, lt_train_settings *settings, lt_err *err)
{
    static char copy[1024];
    char *argv[MAX_WORDS];
    int argc = 0;
    for (int i = 0; i < 6; i++)
        argv[argc++] = required[i];
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    lt_option_result result = {0};
    *settings = (lt_train_settings){0};
    lt_status status = lt_options_parse(&lt_train_options, argc, argv, settings, &result, err);
    free(result.was_set);
    return status;
}

static void release(lt_train_settings *settings)
{
    lt_option_result none = {0};
    lt_options_free(&lt_train_options, settings, &none);
}

static void defaults_are_as_documented(void **state)
{
    (void)state;
    lt_train_settings s;
    lt_err err = {0};
    assert_int_equal(parse("", &s, &err), LT_OK);
    assert_string_equal(s.method, "full");
    assert_string_equal(s.resume, "auto");
    assert_string_equal(s.lr_scheduler, "cosine");
    assert_true(s.packing);
    assert_true(s.epochs == 3 && s.max_steps == 0 && s.seed == 42);
    assert_true(s.embd_pdrop == 0 && s.resid_pdrop == 0 && s.attn_pdrop == 0);
    assert_true(s.adam_beta1 == 0.9 && s.adam_epsilon == 1e-8 && s.max_grad_norm == 1);
    release(&s);
}

static void other_names_are_known(void **state)
{
    (void)state;
    lt_train_settings s;
    lt_err err = {0};
    lt_status status =
        parse("--per_device_train_batch_size 3 --num_train_epochs 1.5 --lr_scheduler_type linear "
              "--max_seq_length 77 --gradient_accumulation_steps 2 --adam_beta2 0.95 "
              "--resume_from_checkpoint never --lr 0.5 --overwrite_output_dir --packing off "
              "--model_name_or_path other --output_dir there",
              &s, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, LT_OK);
    assert_int_equal(s.micro_batch_size, 3);
    assert_true(s.epochs == 1.5 && s.learning_rate == 0.5 && s.adam_beta2 == 0.95);
    assert_string_equal(s.lr_scheduler, "linear");
    assert_int_equal(s.max_length, 77);
    assert_int_equal(s.gradient_accumulation_steps, 2);
    assert_string_equal(s.resume, "never");
    assert_string_equal(s.model, "other");
    assert_string_equal(s.output, "there");
    assert_true(s.force);
    assert_false(s.packing);
    release(&s);
}

static void ranges_are_kept(void **state)
{
    (void)state;
    static const char *const bad[] = {"--epochs 0",           "--epochs -1",
                                      "--learning-rate 11",   "--learning-rate x",
                                      "--learning-rate nan",  "--learning-rate inf",
                                      "--micro-batch-size 0", "--max-length -1",
                                      "--warmup-ratio 1.5",   "--adam-beta1 1",
                                      "--min-lr-ratio 2",     "--resid-pdrop 1",
                                      "--logging-steps 0",    "--lr-scheduler cosin",
                                      "--method adapter",     "--recompute all",
                                      "--max-steps 1.5",      "--seed -1",
                                      "--freeze-layers -1",   "--weight-decay -0.1",
                                      "--packing maybe",      "--max-steps 99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lt_train_settings s;
        lt_err err = {0};
        if (parse(bad[i], &s, &err) != LT_ERR_USAGE) fail_msg("accepted: %s", bad[i]);
        assert_true(strlen(err.message) > 0);
        release(&s);
    }
}

static void a_near_miss_gets_a_hint(void **state)
{
    (void)state;
    lt_train_settings s;
    lt_err err = {0};
    assert_int_equal(parse("--learning-rat 1", &s, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "learning-rate"));
    release(&s);
}

/* What is saved with a run, read again, gives the same settings. */
static void saved_settings_read_back(void **state)
{
    (void)state;
    char path[] = "/tmp/lathe_options_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    lt_train_settings s, again = {0};
    lt_option_result result = {0};
    lt_err err = {0};
    char *yaml = NULL;
    json_t *before = NULL, *after = NULL;
    assert_int_equal(parse("--learning-rate 0.1234567890123456789 --epochs 0.3 --no-packing "
                           "--adam-epsilon 3e-11 --max-steps 1000000000000",
                           &s, &err),
                     LT_OK);
    assert_int_equal(lt_options_to_yaml(&lt_train_options, &s, &yaml, &err), LT_OK);
    assert_int_equal(lt_write_file(path, yaml, strlen(yaml), &err), LT_OK);
    char *arguments[] = {"--config", path};
    assert_int_equal(lt_options_parse(&lt_train_options, 2, arguments, &again, &result, &err),
                     LT_OK);
    assert_int_equal(lt_options_to_json(&lt_train_options, &s, &before, &err), LT_OK);
    assert_int_equal(lt_options_to_json(&lt_train_options, &again, &after, &err), LT_OK);
    assert_true(json_equal(before, after));
    assert_true(again.learning_rate == s.learning_rate);
    json_decref(before);
    json_decref(after);
    free(yaml);
    release(&s);
    lt_options_free(&lt_train_options, &again, &result);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_as_documented),
        cmocka_unit_test(other_names_are_known),
        cmocka_unit_test(ranges_are_kept),
        cmocka_unit_test(a_near_miss_gets_a_hint),
        cmocka_unit_test(saved_settings_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
