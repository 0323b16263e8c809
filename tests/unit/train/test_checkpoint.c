/* The training state, manifests, and finding and pruning checkpoints. */
#include "train_fixture.h"

#include <inttypes.h>
#include <math.h>

#include "train/checkpoint.h"
#include "train/state.h"

/* --- State -------------------------------------------------------------------------------------
 */

/* A different value in every field. */
static lt_train_state distinct_state(void)
{
    lt_train_state s;
    int64_t n = 1000000000000007;
#define FILL_INTEGER(name, start) s.name = n++;
#define FILL_NUMBER(name, start)  s.name = (double)n++ / 3.0;
#define FILL_TEXT(name)           snprintf(s.name, sizeof s.name, "text %" PRId64 " \xC3\xA9", n++);
    memset(&s, 0, sizeof s);
    LT_TRAIN_STATE(FILL_INTEGER, FILL_NUMBER, FILL_TEXT)
    return s;
}

static json_t *to_json(const lt_train_state *state)
{
    json_t *object = NULL;
    lt_err err = {0};
    must(lt_train_state_to_json(state, &object, &err), &err);
    return object;
}

/* Through text, as in a file. */
static lt_train_state there_and_back(const lt_train_state *state)
{
    lt_train_state back;
    lt_err err = {0};
    lt_buffer text = {0};
    json_t *object = to_json(state), *again = NULL;
    must(lt_json_dump(object, 2, &text, &err), &err);
    must(lt_json_parse(text.data, text.size, "test", &again, &err), &err);
    must(lt_train_state_from_json(again, "test", &back, &err), &err);
    json_decref(object);
    json_decref(again);
    lt_buffer_free(&text);
    return back;
}

static void every_field_comes_back(void **state)
{
    (void)state;
    lt_train_state s = distinct_state(), back = there_and_back(&s);
#define SAME_INTEGER(name, start) assert_int_equal(s.name, back.name);
#define SAME_NUMBER(name, start)  assert_memory_equal(&s.name, &back.name, sizeof(double));
#define SAME_TEXT(name)           assert_string_equal(s.name, back.name);
    LT_TRAIN_STATE(SAME_INTEGER, SAME_NUMBER, SAME_TEXT)
}

static void numbers_that_are_not_finite_come_back(void **state)
{
    (void)state;
    lt_train_state s;
    lt_train_state_init(&s);
    assert_true(isinf(s.best_loss) && isnan(s.eval_loss));
    s.train_loss = -INFINITY;
    lt_train_state back = there_and_back(&s);
    assert_true(isinf(back.best_loss) && back.best_loss > 0);
    assert_true(isinf(back.train_loss) && back.train_loss < 0);
    assert_true(isnan(back.eval_loss));
}

static void a_missing_field_is_named(void **state)
{
    (void)state;
    lt_train_state s = distinct_state(), back;
    json_t *object = to_json(&s);
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        lt_err err = {0};
        json_t *without = json_copy(object), *wrong = json_copy(object);
        json_object_del(without, name);
        assert_int_equal(lt_train_state_from_json(without, "file", &back, &err), LT_ERR_FORMAT);
        assert_message(&err, name);
        json_object_set_new(wrong, name, json_true());
        assert_int_equal(lt_train_state_from_json(wrong, "file", &back, &err), LT_ERR_FORMAT);
        json_decref(without);
        json_decref(wrong);
    }
    json_decref(object);
}

/* --- Manifests ---------------------------------------------------------------------------------
 */

static const char *const files[] = {"config.json", LT_OPTIMIZER_FILE, LT_TRAINER_STATE_FILE,
                                    LT_TRAIN_CONFIG_FILE, "model.safetensors"};
enum { FILES = sizeof files / sizeof *files };

static void put(const char *path, const char *text)
{
    lt_err err = {0};
    must(lt_write_file(path, text, strlen(text), &err), &err);
}

/* A checkpoint in form, with a line of text for each file. */
static void make_checkpoint(const char *output, int64_t step)
{
    lt_err err = {0};
    char path[512], text[64];
    snprintf(path, sizeof path, "%s", at("%s/checkpoint-%" PRId64, output, step));
    must(lt_remove_tree(path, &err), &err); /* a manifest left there would be described as well */
    must(lt_make_directories(path, &err), &err);
    for (int i = 0; i < FILES; i++) {
        char file[600];
        snprintf(file, sizeof file, "%s/%s", path, files[i]);
        snprintf(text, sizeof text, "%s of step %" PRId64, files[i], step);
        put(file, text);
    }
    const lt_manifest manifest = {step, 2, 1, "cpu-test", "0.0"};
    must(lt_manifest_write(path, &manifest, NULL, &err), &err);
}

static void a_whole_checkpoint_verifies(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_manifest manifest;
    make_checkpoint("whole", 17);
    must(lt_checkpoint_verify(at("whole/checkpoint-17"), NULL, &manifest, &err), &err);
    assert_int_equal(manifest.step, 17);
    assert_int_equal(manifest.threads, 2);
    assert_string_equal(manifest.backend, "cpu-test");
    assert_true(lt_is_checkpoint(at("whole/checkpoint-17")));
    assert_false(lt_is_checkpoint(at("whole")));
}

static void expect_damaged(const char *path, const char *named)
{
    lt_err err = {0};
    lt_manifest manifest;
    assert_int_equal(lt_checkpoint_verify(path, NULL, &manifest, &err), LT_ERR_FORMAT);
    assert_message(&err, named);
}

static void any_change_is_found(void **state)
{
    (void)state;
    char path[512], file[600];
    snprintf(path, sizeof path, "%s", at("changed/checkpoint-5"));
    for (int i = 0; i < FILES; i++) {
        lt_buffer text = {0};
        lt_err err = {0};
        make_checkpoint("changed", 5);
        snprintf(file, sizeof file, "%s/%s", path, files[i]);
        must(lt_read_file(file, 1 << 20, &text, &err), &err);
        text.data[text.size / 2] ^= 1; /* one bit */
        must(lt_write_file(file, text.data, text.size, &err), &err);
        expect_damaged(path, files[i]);
        must(lt_write_file(file, text.data, text.size - 1, &err), &err);
        expect_damaged(path, files[i]);
        assert_int_equal(unlink(file), 0);
        expect_damaged(path, files[i]);
        lt_buffer_free(&text);
    }
}

static void a_damaged_manifest_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{}",
        "[1]",
        "{\"format\": \"lathe-checkpoint\", \"version\": 1, \"step\": 3, \"files\": []}",
        "{\"format\": \"other\", \"version\": 1}",
        "{\"format\": \"lathe-checkpoint\", \"version\": 99}",
        "{\"format\": \"lathe-checkpoint\", \"version\": 1, \"step\": \"x\"}"};
    make_checkpoint("bad", 3);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lt_manifest manifest;
        lt_err err = {0};
        put(at("bad/checkpoint-3/manifest.json"), bad[i]);
        assert_int_not_equal(lt_checkpoint_verify(at("bad/checkpoint-3"), NULL, &manifest, &err),
                             LT_OK);
        assert_message(&err, "manifest.json");
    }
}

/* Large states are in several files. */
static void the_optimizer_may_be_in_several_files(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_manifest manifest;
    char path[512];
    make_checkpoint("several", 3);
    snprintf(path, sizeof path, "%s", at("several/checkpoint-3"));
    must(lt_checkpoint_verify(path, NULL, &manifest, &err), &err);
    assert_int_equal(unlink(at("several/checkpoint-3/manifest.json")), 0);
    assert_int_equal(unlink(at("several/checkpoint-3/" LT_OPTIMIZER_FILE)), 0);
    put(at("several/checkpoint-3/optimizer-00002-of-00002.safetensors"), "two");
    must(lt_manifest_write(path, &manifest, NULL, &err), &err);
    expect_damaged(path, "does not name " LT_OPTIMIZER_FILE);
    assert_int_equal(unlink(at("several/checkpoint-3/manifest.json")), 0);
    put(at("several/checkpoint-3/optimizer-00001-of-00002.safetensors"), "one");
    must(lt_manifest_write(path, &manifest, NULL, &err), &err);
    must(lt_checkpoint_verify(path, NULL, &manifest, &err), &err);
}

/* A manifest may not lead out of its directory, nor leave a file unchecked. */
static void entries_are_checked(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{\"name\": \"../../model/config.json\", \"size\": 1, \"xxh3_128\": \"0\"}",
        "{\"name\": \"config.json\", \"size\": 1}",
        "{\"name\": \"config.json\", \"size\": -1, \"xxh3_128\": \"0\"}",
        "{\"size\": 1, \"xxh3_128\": \"0\"}", "7"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lt_err err = {0};
        json_t *manifest = NULL;
        char path[512];
        make_checkpoint("foreign", 3);
        snprintf(path, sizeof path, "%s", at("foreign/checkpoint-3/manifest.json"));
        must(lt_json_load(path, &manifest, &err), &err);
        json_array_append_new(json_object_get(manifest, "files"),
                              json_loads(bad[i], JSON_DECODE_ANY, NULL));
        must(lt_json_write_file(path, manifest, &err), &err);
        expect_damaged(at("foreign/checkpoint-3"), "an entry of \"files\" is damaged");
        json_decref(manifest);
    }
}

/* --- Finding and pruning -----------------------------------------------------------------------
 */

static void expect_latest(const char *output, int64_t step, int problems_wanted)
{
    lt_buffer path = {0}, problems = {0};
    lt_err err = {0};
    must(lt_checkpoint_latest(at("%s", output), NULL, &path, &problems, &err), &err);
    if (step < 0)
        assert_int_equal(path.size, 0);
    else
        assert_string_equal(lt_buffer_text(&path), at("%s/checkpoint-%" PRId64, output, step));
    int lines = 0;
    for (const char *c = lt_buffer_text(&problems); *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, problems_wanted);
    lt_buffer_free(&path);
    lt_buffer_free(&problems);
}

static void the_latest_whole_one_is_found(void **state)
{
    (void)state;
    lt_err err = {0};
    must(lt_make_directories(at("find/checkpoint-abc"), &err), &err);
    must(lt_make_directories(at("find/checkpoint-007"), &err), &err);
    must(lt_make_directories(at("find/checkpoint-900.tmp-12-0"), &err), &err);
    expect_latest("find", -1, 0);
    make_checkpoint("find", 9);
    make_checkpoint("find", 10); /* as a number more, as text less */
    make_checkpoint("find", 100);
    expect_latest("find", 100, 0);
    put(at("find/checkpoint-100/config.json"), "other");
    expect_latest("find", 10, 1);
    must(lt_make_directories(at("find/checkpoint-2000"), &err), &err); /* no manifest */
    expect_latest("find", 10, 2);
}

static void expect_steps(const char *output, const char *expected)
{
    lt_err err = {0};
    int64_t *steps;
    size_t count;
    char text[256] = "";
    must(lt_checkpoint_steps(at("%s", output), &steps, &count, &err), &err);
    for (size_t i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%" PRId64 " ", steps[i]);
    free(steps);
    assert_string_equal(text, expected);
}

static void pruning_keeps_the_newest_and_the_best(void **state)
{
    (void)state;
    lt_err err = {0};
    for (int64_t step = 10; step <= 60; step += 10)
        make_checkpoint("prune", step);
    must(lt_checkpoint_prune(at("prune"), 60, 20, 0, &err), &err);
    expect_steps("prune", "60 50 40 30 20 10 ");
    must(lt_checkpoint_prune(at("prune"), 50, 20, 2, &err), &err);
    expect_steps("prune", "60 50 40 20 "); /* 60 is beyond the newest: not ours to judge */
    must(lt_checkpoint_prune(at("prune"), 60, 60, 1, &err), &err);
    expect_steps("prune", "60 ");
}

/* A directory of somebody else with such a name is never removed. */
static void pruning_leaves_what_is_not_ours(void **state)
{
    (void)state;
    lt_err err = {0};
    make_checkpoint("others", 30);
    must(lt_make_directories(at("others/checkpoint-10"), &err), &err);
    must(lt_checkpoint_prune(at("others"), 30, 30, 1, &err), &err);
    expect_steps("others", "30 10 ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_comes_back),
        cmocka_unit_test(numbers_that_are_not_finite_come_back),
        cmocka_unit_test(a_missing_field_is_named),
        cmocka_unit_test(a_whole_checkpoint_verifies),
        cmocka_unit_test(any_change_is_found),
        cmocka_unit_test(a_damaged_manifest_is_refused),
        cmocka_unit_test(the_optimizer_may_be_in_several_files),
        cmocka_unit_test(entries_are_checked),
        cmocka_unit_test(the_latest_whole_one_is_found),
        cmocka_unit_test(pruning_keeps_the_newest_and_the_best),
        cmocka_unit_test(pruning_leaves_what_is_not_ours),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
