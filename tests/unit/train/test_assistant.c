/* Answering, all of it, around a tiny fresh model. */
#include "../check.h"

#include "base/fsio.h"
#include "train/assistant.h"

/* --- A tiny model ----------------------------------------------------------------------------- */

enum { POSITIONS = 192 };

typedef struct fixture {
    char directory[64];
    lt_backend *backend;
    lt_tokenizer *tokenizer;
    lt_model *model;
    lt_assistant assistant;
} fixture;

static void make_tokenizer(fixture *f)
{
    lt_err err = {0};
    static const char text[] = "the cat sat on the mat, the cat sat on the hat, caf\xC3\xA9\n";
    static const char *const specials[] = {"<|endoftext|>"};
    char path[96];
    const char *files[] = {path};
    snprintf(path, sizeof path, "%s/text.txt", f->directory);
    must(lt_write_file(path, text, sizeof text - 1, &err), &err);
    lt_bpe_train_settings settings = {.vocab_size = 270,
                                      .min_frequency = 2,
                                      .special_tokens = specials,
                                      .special_token_count = 1,
                                      .threads = 1};
    must(lt_tokenizer_train(files, 1, &settings, &f->tokenizer, &err), &err);
    size_t added;
    must(lt_tokenizer_add_special_tokens(
             f->tokenizer, lt_template_special_tokens(LT_TEMPLATE_DOLLY), 3, &added, &err),
         &err);
}

static int make_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    lt_err err = {0};
    strcpy(f->directory, "/tmp/lathe_assistant_XXXXXX");
    if (!mkdtemp(f->directory)) return -1;
    make_tokenizer(f);
    lt_backend_settings machine = {.device = LT_DEVICE_CPU, .threads = 1};
    must(lt_backend_create(&machine, &f->backend, &err), &err);
    lt_model_shape shape = {.family = "gpt2",
                            .layers = 2,
                            .hidden_size = 16,
                            .heads = 2,
                            .max_position = POSITIONS,
                            .vocab_size = lt_tokenizer_vocab_size(f->tokenizer),
                            .bos_token_id = -1,
                            .eos_token_id = 0,
                            .pad_token_id = -1};
    lt_model_config config;
    must(lt_model_config_make(&shape, &config, &err), &err);
    config.initializer_range = 0.5; /* answers that are not one token over and over */
    must(lt_model_create(&config, f->backend, 7, &f->model, &err), &err);
    lt_model_notes notes = {.has_template = true, .template_ = LT_TEMPLATE_DOLLY};
    must(lt_assistant_wrap(f->model, f->tokenizer, &notes, &f->assistant, &err), &err);
    *state = f;
    return 0;
}

static int free_fixture(void **state)
{
    fixture *f = *state;
    lt_assistant_close(&f->assistant);
    lt_model_free(f->model);
    lt_backend_free(f->backend);
    lt_tokenizer_free(f->tokenizer);
    lt_remove_tree(f->directory, NULL);
    free(f);
    return 0;
}

static lt_answer ask(fixture *f, const lt_prompt *prompt, const lt_answer_settings *settings)
{
    lt_answer answer = {0};
    lt_err err = {0};
    must(lt_assistant_answer(&f->assistant, prompt, 1, settings, NULL, NULL, &answer, &err), &err);
    return answer;
}

static void collect(void *context, int64_t index, const char *text, size_t size)
{
    lt_buffer *pieces = context;
    lt_buffer_append(&pieces[index], text, size, NULL);
}

static void batched_answers_equal_single_ones(void **state)
{
    fixture *f = *state;
    static const lt_prompt prompts[] = {{.text = "the cat"},
                                        {.instruction = "sat on the mat", .context = "hat"},
                                        {.text = "on"},
                                        {.instruction = "the"},
                                        {.text = "caf\xC3\xA9 the cat sat on"}};
    lt_answer_settings settings = {
        .max_new_tokens = 12, .max_rows = 2, .sampling = {.temperature = 0.9, .seed = 3}};
    lt_answer answers[5] = {0};
    lt_buffer pieces[5] = {0};
    lt_err err = {0};
    must(lt_assistant_answer(&f->assistant, prompts, 5, &settings, collect, pieces, answers, &err),
         &err);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(lt_buffer_text(&pieces[i]), lt_buffer_text(&answers[i].text));
        assert_true(answers[i].ids.count > 0 && answers[i].ids.count <= 12);
        assert_true(answers[i].prompt_tokens > 0);
    }
    settings.max_rows = 5;
    for (int i = 0; i < 5; i++) {
        lt_answer again[5] = {0};
        must(lt_assistant_answer(&f->assistant, prompts, i + 1, &settings, NULL, NULL, again, &err),
             &err);
        assert_int_equal(again[i].ids.count, answers[i].ids.count);
        assert_memory_equal(again[i].ids.data, answers[i].ids.data,
                            again[i].ids.count * sizeof(int32_t));
        for (int j = 0; j <= i; j++)
            lt_answer_free(&again[j]);
    }
    for (int i = 0; i < 5; i++) {
        lt_answer_free(&answers[i]);
        lt_buffer_free(&pieces[i]);
    }
}

static void the_answer_ends_before_a_stop_text(void **state)
{
    fixture *f = *state;
    static const lt_prompt prompt = {.text = "the cat sat"};
    lt_answer_settings settings = {.max_new_tokens = 40, .sampling = {.temperature = 1, .seed = 5}};
    lt_answer whole = ask(f, &prompt, &settings);
    assert_true(whole.text.size > 12);

    /* a few whole characters out of the middle of the answer */
    size_t from = whole.text.size / 2, to;
    while (((unsigned char)whole.text.data[from] & 0xC0) == 0x80)
        from++;
    for (to = from + 3; ((unsigned char)whole.text.data[to] & 0xC0) == 0x80; to++) {
    }
    char stop[32];
    snprintf(stop, sizeof stop, "%.*s", (int)(to - from), whole.text.data + from);
    const char *stops[] = {stop};
    settings.stop_texts = stops;
    settings.stop_text_count = 1;
    lt_answer cut = ask(f, &prompt, &settings);
    size_t expected = (size_t)(strstr(whole.text.data, stop) - whole.text.data);
    assert_int_equal(cut.text.size, expected);
    assert_memory_equal(lt_buffer_text(&cut.text), whole.text.data, expected);
    assert_true(cut.ids.count < whole.ids.count);
    assert_int_equal(cut.finish, LT_FINISH_STOP);
    lt_answer_free(&whole);
    lt_answer_free(&cut);
}

/* Makes `id` the answer's third token by making it a stop id: the model does not know the
 * difference. */
static void a_stop_id_ends_the_answer_and_is_not_shown(void **state)
{
    fixture *f = *state;
    static const lt_prompt prompt = {.text = "the cat"};
    lt_answer_settings settings = {.max_new_tokens = 10};
    lt_answer whole = ask(f, &prompt, &settings);
    assert_int_equal(whole.finish, LT_FINISH_LENGTH);
    assert_int_equal(whole.ids.count, 10);
    size_t first = 0; /* where the third id occurs first */
    while (whole.ids.data[first] != whole.ids.data[2])
        first++;

    f->model->config.eos_token_ids[0] = whole.ids.data[2];
    lt_answer cut = ask(f, &prompt, &settings);
    assert_int_equal(cut.finish, LT_FINISH_STOP);
    assert_int_equal(cut.ids.count, first + 1);
    lt_buffer expected = {0};
    lt_err err = {0};
    must(lt_decode(f->tokenizer, whole.ids.data, first, true, &expected, &err), &err);
    assert_string_equal(lt_buffer_text(&cut.text), lt_buffer_text(&expected));
    lt_buffer_free(&expected);
    lt_answer_free(&whole);
    lt_answer_free(&cut);
}

static void the_text_is_that_of_the_ids(void **state)
{
    fixture *f = *state;
    static const lt_prompt prompt = {.text = "sat on"};
    for (uint64_t seed = 0; seed < 10; seed++) {
        lt_answer_settings settings = {.max_new_tokens = 0,
                                       .sampling = {.temperature = 2, .seed = seed}};
        lt_answer answer = ask(f, &prompt, &settings);
        lt_buffer expected = {0};
        lt_err err = {0};
        size_t count = answer.ids.count - (answer.finish == LT_FINISH_STOP);
        must(lt_decode(f->tokenizer, answer.ids.data, count, true, &expected, &err), &err);
        assert_string_equal(lt_buffer_text(&answer.text), lt_buffer_text(&expected));
        /* without a limit the answer ends where the model's positions do */
        if (answer.finish == LT_FINISH_LENGTH)
            assert_int_equal(answer.prompt_tokens + (int64_t)answer.ids.count, POSITIONS);
        lt_buffer_free(&expected);
        lt_answer_free(&answer);
    }
}

static void later_pieces_of_a_list_draw_differently(void **state)
{
    fixture *f = *state;
    static const lt_prompt prompt = {.text = "the cat"};
    lt_answer_settings settings = {.max_new_tokens = 20, .sampling = {.temperature = 2, .seed = 1}};
    lt_answer first = ask(f, &prompt, &settings);
    settings.first_index = 64;
    lt_answer later = ask(f, &prompt, &settings), again = ask(f, &prompt, &settings);
    assert_string_not_equal(lt_buffer_text(&first.text), lt_buffer_text(&later.text));
    assert_string_equal(lt_buffer_text(&later.text), lt_buffer_text(&again.text));
    lt_answer_free(&first);
    lt_answer_free(&later);
    lt_answer_free(&again);
}

static void expect_error(fixture *f, const lt_prompt *prompts, int64_t count,
                         const lt_answer_settings *settings, lt_status code, const char *words)
{
    lt_answer answers[2] = {0};
    lt_err err = {0};
    assert_int_equal(
        lt_assistant_answer(&f->assistant, prompts, count, settings, NULL, NULL, answers, &err),
        code);
    if (!strstr(err.message, words)) fail_msg("'%s' lacks '%s'", err.message, words);
    lt_answer_free(&answers[0]);
    lt_answer_free(&answers[1]);
}

static void bad_prompts_are_named(void **state)
{
    fixture *f = *state;
    lt_answer_settings settings = {.max_new_tokens = 4};
    lt_prompt two[2] = {{.text = "the"}, {.text = ""}};
    expect_error(f, two, 2, &settings, LT_ERR_USAGE, "prompt 2: the prompt is empty");
    expect_error(f, two + 1, 1, &settings, LT_ERR_USAGE, "the prompt is empty");
    two[1] = (lt_prompt){.instruction = " \n"};
    expect_error(f, two, 2, &settings, LT_ERR_USAGE, "the instruction is empty");
    two[1] = (lt_prompt){.text = "\xFF\xFE"};
    expect_error(f, two, 2, &settings, LT_ERR_FORMAT, "UTF-8");

    char text[2 * POSITIONS + 1] = "";
    for (int i = 0; i < POSITIONS; i++)
        strcat(text, "z ");
    two[1] = (lt_prompt){.text = text};
    expect_error(f, two, 2, &settings, LT_ERR_LIMIT, "no room for an answer");

    static const char *const stops[] = {""};
    settings.stop_texts = stops;
    settings.stop_text_count = 1;
    expect_error(f, two, 1, &settings, LT_ERR_USAGE, "stop text is empty");
    settings.stop_text_count = 0;
    f->assistant.notes.has_template = false;
    two[0] = (lt_prompt){.instruction = "sat"};
    expect_error(f, two, 1, &settings, LT_ERR_USAGE, "--template");
}

static volatile sig_atomic_t cancelled;

static void cancel(void *context, int64_t index, const char *text, size_t size)
{
    (void)context, (void)index, (void)text, (void)size;
    cancelled = 1;
}

static void cancelling_keeps_what_there_is(void **state)
{
    fixture *f = *state;
    static const lt_prompt prompt = {.text = "the cat"};
    lt_answer_settings settings = {.max_new_tokens = 40, .cancelled = &cancelled};
    lt_answer answer = {0};
    cancelled = 0;
    lt_answer whole = ask(f, &prompt, &settings);
    assert_int_equal(
        lt_assistant_answer(&f->assistant, &prompt, 1, &settings, cancel, NULL, &answer, NULL),
        LT_ERR_INTERRUPTED);
    assert_true(answer.ids.count > 0 && answer.ids.count < whole.ids.count);
    assert_true(answer.text.size > 0);
    lt_answer_free(&whole);
    lt_answer_free(&answer);
}

/* --- Directories ------------------------------------------------------------------------------ */

static void notes_come_back(void **state)
{
    fixture *f = *state;
    lt_err err = {0};
    lt_model_notes notes = {
        .has_template = true, .template_ = LT_TEMPLATE_CHATML, .max_length = 99};
    lt_model_notes back = {.max_length = 5};
    must(lt_model_notes_load(f->directory, &back, &err), &err);
    assert_false(back.has_template);
    assert_int_equal(back.max_length, 0);
    must(lt_model_notes_save(&notes, f->directory, &err), &err);
    must(lt_model_notes_load(f->directory, &back, &err), &err);
    assert_true(back.has_template);
    assert_int_equal(back.template_, LT_TEMPLATE_CHATML);
    assert_int_equal(back.max_length, 99);
}

static void broken_notes_are_refused(void **state)
{
    fixture *f = *state;
    static const char *const broken[] = {"{\"template\": \"haiku\"}", "[1]", "{\"template\": 3}",
                                         "{\"max_length\": -4}", "{\"template\": "};
    char path[96];
    snprintf(path, sizeof path, "%s/lathe.json", f->directory);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        lt_err err = {0};
        lt_model_notes notes;
        must(lt_write_file(path, broken[i], strlen(broken[i]), &err), &err);
        assert_int_not_equal(lt_model_notes_load(f->directory, &notes, &err), LT_OK);
        assert_non_null(strstr(err.message, "lathe.json"));
    }
}

static void a_saved_model_answers_the_same(void **state)
{
    fixture *f = *state;
    static const lt_prompt prompt = {.instruction = "the cat"};
    lt_answer_settings settings = {.max_new_tokens = 10};
    lt_err err = {0};
    lt_answer before = ask(f, &prompt, &settings);
    must(lt_model_save(f->model, f->directory, LT_F32, &err), &err);
    must(lt_tokenizer_save(f->tokenizer, f->directory, &err), &err);
    must(lt_model_notes_save(&f->assistant.notes, f->directory, &err), &err);

    lt_assistant opened;
    lt_answer after = {0};
    must(lt_assistant_open(f->directory, NULL, 0, f->backend, &opened, &err), &err);
    must(lt_assistant_answer(&opened, &prompt, 1, &settings, NULL, NULL, &after, &err), &err);
    assert_int_equal(before.ids.count, after.ids.count);
    assert_memory_equal(before.ids.data, after.ids.data, after.ids.count * sizeof(int32_t));
    assert_string_equal(lt_buffer_text(&before.text), lt_buffer_text(&after.text));
    lt_assistant_close(&opened);

    /* one token more than the model has rows */
    static const char *const more[] = {"<|more|>"};
    size_t added;
    must(lt_tokenizer_add_special_tokens(f->tokenizer, more, 1, &added, &err), &err);
    must(lt_tokenizer_save(f->tokenizer, f->directory, &err), &err);
    assert_int_equal(lt_assistant_open(f->directory, NULL, 0, f->backend, &opened, &err),
                     LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "do not match"));
    lt_answer_free(&before);
    lt_answer_free(&after);
}

int main(void)
{
#define WITH_MODEL(test) cmocka_unit_test_setup_teardown(test, make_fixture, free_fixture)
    const struct CMUnitTest tests[] = {
        WITH_MODEL(batched_answers_equal_single_ones),
        WITH_MODEL(the_answer_ends_before_a_stop_text),
        WITH_MODEL(a_stop_id_ends_the_answer_and_is_not_shown),
        WITH_MODEL(the_text_is_that_of_the_ids),
        WITH_MODEL(later_pieces_of_a_list_draw_differently),
        WITH_MODEL(bad_prompts_are_named),
        WITH_MODEL(cancelling_keeps_what_there_is),
        WITH_MODEL(notes_come_back),
        WITH_MODEL(broken_notes_are_refused),
        WITH_MODEL(a_saved_model_answers_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
