/* A run that was stopped goes on to the very bits of one that was not; a checkpoint of another run
 * is refused. */
#include "train_fixture.h"

#include "train/checkpoint.h"
#include "train/trainer.h"

/* Dropout, accumulation, two epochs, evaluations between: all that could have a memory. */
#define RUN                                                                                     \
    "--max-steps 12 --learning-rate 5e-3 --micro-batch-size 3 --gradient-accumulation-steps 2 " \
    "--eval-steps 4 --save-steps 5 --logging-steps 5 --resid-pdrop 0.1 --attn-pdrop 0.1 "       \
    "--embd-pdrop 0.1 --packing off --save-total-limit 0 "

static int64_t stop_at;

static void stop_there(void *context, const lt_progress_info *info)
{
    (void)context;
    if (info->step == stop_at) lt_train_request_stop();
}

static const lt_train_observer stopper = {.progress = stop_there};

static void compare_with(const char *whole, const char *output)
{
    static const char *const files[] = {"final/model.safetensors", "best/model.safetensors",
                                        "checkpoint-12/optimizer.safetensors",
                                        "checkpoint-12/model.safetensors"};
    for (int i = 0; i < 4; i++)
        assert_same_file(at("%s/%s", whole, files[i]), at("%s/%s", output, files[i]));
}

static void compare_with_whole(const char *output)
{
    compare_with("whole", output);
}

/* trainer_state.json without what tells the time or the place. */
static char *history_of(const char *output)
{
    lt_err err = {0};
    json_t *document = NULL, *entry;
    size_t i;
    must(lt_json_load(at("%s/final/trainer_state.json", output), &document, &err), &err);
    json_object_del(document, "best_model_checkpoint");
    json_object_del(json_object_get(document, "lathe"), "seconds");
    json_array_foreach(json_object_get(document, "log_history"), i, entry)
    {
        json_object_del(entry, "eval_runtime");
        json_object_del(entry, "eval_samples_per_second");
        json_object_del(entry, "eval_steps_per_second");
    }
    char *text = json_dumps(document, JSON_SORT_KEYS);
    json_decref(document);
    return text;
}

static void interrupted_anywhere_gives_the_same_bits(void **state)
{
    (void)state;
    lt_train_result result;
    train_well("whole", RUN, NULL, &result);
    assert_false(result.interrupted);
    char *expected = history_of("whole");
    for (stop_at = 1; stop_at < 12; stop_at++) {
        char name[32];
        snprintf(name, sizeof name, "stopped-%d", (int)stop_at);
        train_well(name, RUN, &stopper, &result);
        assert_true(result.interrupted);
        assert_true(lt_is_checkpoint(at("%s/checkpoint-%d", name, (int)stop_at)));
        assert_false(lt_path_exists(at("%s/final", name)));
        train_well(name, RUN, NULL, &result);
        assert_false(result.interrupted);
        assert_int_equal(result.steps, 12);
        compare_with_whole(name);
        char *history = history_of(name);
        assert_string_equal(history, expected);
        free(history);
        lt_remove_tree(at("%s", name), NULL);
    }
    free(expected);
}

/* Stopped after every single step. */
static void many_interruptions_give_the_same_bits(void **state)
{
    (void)state;
    lt_train_result result;
    for (stop_at = 1; stop_at <= 11; stop_at++)
        train_well("steps", RUN, &stopper, &result);
    train_well("steps", RUN, NULL, &result);
    compare_with_whole("steps");
}

/* Short state is on file as it is in memory, and rounding knows its step. */
static void short_state_gives_the_same_bits(void **state)
{
    (void)state;
    static const char *const kinds[] = {"adamw-bf16", "adamw-8bit"};
    lt_train_result result;
    char words[1024], name[32];
    for (int k = 0; k < 2; k++) {
        snprintf(words, sizeof words, RUN "--optimizer %s", kinds[k]);
        train_well(kinds[k], words, NULL, NULL);
        for (stop_at = 2; stop_at < 12; stop_at += 3) {
            snprintf(name, sizeof name, "%s-%d", kinds[k], (int)stop_at);
            train_well(name, words, &stopper, &result);
            assert_true(result.interrupted);
            train_well(name, words, NULL, &result);
            compare_with(kinds[k], name);
            lt_remove_tree(at("%s", name), NULL);
        }
    }
}

/* The machine may change, with a warning; the number type may not. A file of before there was a
 * choice is one of float32. */
static void number_types_are_compared(void **state)
{
    (void)state;
    static const struct {
        const char *written, *differences;
    } cases[] = {{"", ""},
                 {"dtype: float32\n", ""},
                 {"dtype: bfloat16\n", "dtype was \"bfloat16\", is \"float32\""},
                 {"gradient_dtype: bfloat16\n", "gradient_dtype was \"bfloat16\", is \"float32\""},
                 {"optimizer: adamw-8bit\n", "optimizer was \"adamw-8bit\", is \"adamw\""},
                 {"device: cuda\nmatmul: native\noffload_optimizer: true\n", ""}};
    json_t *resolved = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "dtype", "float32", "optimizer",
                                 "adamw", "gradient_dtype", "float32", "device", "cpu", "matmul",
                                 "auto", "offload_optimizer", 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_buffer text = {0}, differences = {0};
        lt_err err = {0};
        must(lt_buffer_printf(&text, &err, "model: m\n%s", cases[i].written), &err);
        must(lt_write_file(at("old.yaml"), text.data, text.size, &err), &err);
        must(lt_settings_differences(resolved, at("old.yaml"), &differences, &err), &err);
        assert_string_equal(lt_buffer_text(&differences), cases[i].differences);
        lt_buffer_free(&text);
        lt_buffer_free(&differences);
    }
    json_decref(resolved);
}

static void request_stop(void *context, const lt_run_info *info)
{
    (void)context;
    (void)info;
    lt_train_request_stop();
}

static void stopped_before_the_first_step_starts_again(void **state)
{
    (void)state;
    lt_train_result result;
    const lt_train_observer at_once = {.start = request_stop};
    train_well("early", RUN, &at_once, &result);
    assert_true(result.interrupted);
    assert_int_equal(result.steps, 0);
    train_well("early", RUN, NULL, &result);
    compare_with_whole("early");
}

static void refuse_in(const char *output, const char *words, const char *reason)
{
    lt_err err = {0};
    assert_int_equal(train(output, words, NULL, NULL, &err), LT_ERR_USAGE);
    assert_message(&err, reason);
}

static void refuse(const char *words, const char *reason)
{
    refuse_in("refused", words, reason);
}

/* Nothing of a run that has not come to a checkpoint is worth keeping, whatever is other now, but
 * for a model and what is not the run's. */
static void other_settings_start_again_before_the_first_checkpoint(void **state)
{
    (void)state;
    lt_train_result result;
    lt_err err = {0};
    const lt_train_observer at_once = {.start = request_stop};
    train_well("anew", RUN "--seed 4", &at_once, &result);
    assert_true(lt_path_exists(at("anew/" LT_TRAIN_CONFIG_FILE)));
    train_well("anew", RUN "--micro-batch-size 2", &at_once, &result);
    must(lt_write_file(at("anew/mine.txt"), "x", 1, &err), &err);
    refuse_in("anew", RUN, "is not empty");
    assert_int_equal(unlink(at("anew/mine.txt")), 0);
    must(lt_make_directories(at("anew/best"), &err), &err);
    refuse_in("anew", RUN, "is not empty");
    train_well("anew", RUN "--micro-batch-size 2", &at_once, &result);
    must(lt_make_directories(at("anew/final"), &err), &err);
    refuse_in("anew", RUN "--micro-batch-size 2", "is not empty");
    assert_int_equal(rmdir(at("anew/final")), 0);
    assert_int_equal(rmdir(at("anew/best")), 0);
    assert_int_equal(unlink(at("anew/" LT_TRAIN_CONFIG_FILE)), 0);
    refuse_in("anew", RUN, "is not empty");
}

static void a_finished_run_stays_as_it_is(void **state)
{
    (void)state;
    lt_train_result result;
    train_well("steps", RUN, NULL, &result);
    assert_int_equal(result.steps, 12);
    compare_with_whole("steps");
}

/* What trades memory for time or only watches may change. */
static void free_settings_may_change(void **state)
{
    (void)state;
    lt_train_result result;
    stop_at = 7;
    train_well("free", RUN, &stopper, &result);
    train_well("free", RUN "--recompute block --logging-steps 1 --save-steps 2", NULL, &result);
    assert_same_file(at("whole/final/model.safetensors"), at("free/final/model.safetensors"));
    stop_at = 7;
    train_well("none", RUN "--recompute none", &stopper, &result);
    train_well("none", RUN "--recompute selective", NULL, &result);
    assert_same_file(at("whole/final/model.safetensors"), at("none/final/model.safetensors"));
}

/* The rows of a step may be split in another way: the run goes on at the same row. */
static void micro_batches_may_change(void **state)
{
    (void)state;
    const char *six = "--max-steps 12 --learning-rate 1e-3 --packing off --micro-batch-size 6 ";
    lt_train_result whole, result;
    train_well("by-six", six, NULL, &whole);
    stop_at = 5;
    train_well("by-two", six, &stopper, &result);
    assert_true(result.interrupted);
    train_well("by-two",
               "--max-steps 12 --learning-rate 1e-3 --packing off --micro-batch-size 2 "
               "--gradient-accumulation-steps 3 ",
               NULL, &result);
    assert_int_equal(result.steps, 12);
    assert_float_equal(result.train_loss, whole.train_loss, 1e-5);
    assert_float_equal(result.eval_loss, whole.eval_loss, 1e-5);
}

static void a_damaged_checkpoint_is_passed_over(void **state)
{
    (void)state;
    lt_train_result result;
    stop_at = 8;
    train_well("damaged", RUN, &stopper, &result);
    FILE *file = fopen(at("damaged/checkpoint-8/model.safetensors"), "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, -5, SEEK_END), 0);
    int byte = fgetc(file);
    fseek(file, -5, SEEK_END);
    fputc(byte ^ 4, file);
    fclose(file);
    train_well("damaged", RUN, NULL, &result); /* from checkpoint-5 */
    compare_with_whole("damaged");
}

static void another_run_is_refused(void **state)
{
    (void)state;
    lt_train_result result;
    stop_at = 3;
    train_well("refused", RUN, &stopper, &result);
    fixture_model("other-model", "gpt2", 2, NULL);
    fixture_data("other-data", 40);
    char words[1024];
    refuse(RUN "--seed 4", "seed was 42, is 4");
    refuse(RUN "--learning-rate 0.1", "learning_rate was 0.005, is 0.1.");
    refuse(RUN "--max-steps 13", "12 steps, now 13");
    refuse(RUN "--micro-batch-size 2", "the global batch was ");
    refuse(RUN "--freeze-layers 1", "freeze_layers was 0, is 1");
    refuse(RUN "--packing on", "packing was false, is true");
    refuse(RUN "--optimizer adamw-8bit", "optimizer was \"adamw\", is \"adamw-8bit\"");
    snprintf(words, sizeof words, RUN "--model %s", at("other-model"));
    refuse(words, "is not the one it started from");
    snprintf(words, sizeof words, RUN "--data %s", at("other-data.h5"));
    refuse(words, "is not what it was trained on");
    refuse(RUN "--resume never", "is not empty");
    refuse(RUN "--resume /nowhere", "there is no such checkpoint directory");
    /* and nothing of this has touched it */
    train_well("refused", RUN, NULL, &result);
    compare_with_whole("refused");
}

static void one_checkpoint_of_choice(void **state)
{
    (void)state;
    lt_train_result result;
    char words[1024];
    snprintf(words, sizeof words, RUN "--resume %s", at("whole/checkpoint-5"));
    train_well("elsewhere", words, NULL, &result);
    compare_with_whole("elsewhere");
    train_well("whole", words, NULL, &result); /* back to step 5 in its own directory */
    compare_with_whole("elsewhere");
}

static void force_starts_anew(void **state)
{
    (void)state;
    lt_train_result result;
    lt_err err = {0};
    must(lt_write_file(at("steps/mine.txt"), "x", 1, &err), &err);
    train_well("steps", RUN "--resume never --force --max-steps 2 --seed 9", NULL, &result);
    assert_int_equal(result.steps, 2);
    assert_true(lt_path_exists(at("steps/mine.txt")));
    assert_true(lt_is_checkpoint(at("steps/checkpoint-2")));
    assert_false(lt_path_exists(at("steps/checkpoint-5")));
    assert_false(lt_path_exists(at("steps/checkpoint-12")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interrupted_anywhere_gives_the_same_bits),
        cmocka_unit_test(many_interruptions_give_the_same_bits),
        cmocka_unit_test(short_state_gives_the_same_bits),
        cmocka_unit_test(number_types_are_compared),
        cmocka_unit_test(stopped_before_the_first_step_starts_again),
        cmocka_unit_test(other_settings_start_again_before_the_first_checkpoint),
        cmocka_unit_test(a_finished_run_stays_as_it_is),
        cmocka_unit_test(free_settings_may_change),
        cmocka_unit_test(micro_batches_may_change),
        cmocka_unit_test(a_damaged_checkpoint_is_passed_over),
        cmocka_unit_test(another_run_is_refused),
        cmocka_unit_test(one_checkpoint_of_choice),
        cmocka_unit_test(force_starts_anew),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
