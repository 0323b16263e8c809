/* The tasks of a prepared dataset: their samples come to what the loader and the assistant give. */
#include "evaluation_fixture.h"

#include <unistd.h>

#include "base/fsio.h"
#include "train/evaluation/engine.h"

enum { MAX_SAMPLES = 32 };

typedef struct fixture {
    char directory[64], path[96];
    golden_model model;
    lt_dataset *dataset;
} fixture;

typedef struct collected {
    json_t *samples[MAX_SAMPLES]; /* by document */
    int64_t cut[MAX_SAMPLES];
    int64_t count;
} collected;

static lt_status on_sample(void *context, int64_t doc, json_t *sample, int64_t cut, lt_err *err)
{
    collected *c = context;
    (void)err;
    assert_null(c->samples[doc]);
    c->samples[doc] = json_incref(sample);
    c->cut[doc] = cut;
    c->count++;
    return LT_OK;
}

static void drop(collected *c)
{
    for (int i = 0; i < MAX_SAMPLES; i++)
        json_decref(c->samples[i]);
    *c = (collected){0};
}

static void write_records(const char *path)
{
    static const char *const colors[] = {"blue", "green", "white", "black"};
    lt_buffer text = {0};
    for (int i = 0; i < 40; i++)
        OK(lt_buffer_printf(&text, err,
                            "{\"instruction\":\"The %s is%s\",\"context\":\"%s\","
                            "\"response\":\" %s and %d\",\"category\":\"%s\"}\n",
                            i % 2 ? "sky" : "grass",
                            i % 5 ? "" : " green and the grass is green and the sky is green",
                            i % 3 ? "" : "The coal is black.", colors[i % 4], i,
                            i % 2 ? "above" : "below"));
    OK(lt_write_file(path, text.data, text.size, err));
    lt_buffer_free(&text);
}

static int make_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    char input[96], *inputs[] = {input};
    strcpy(f->directory, "/tmp/lathe_evaluation_XXXXXX");
    if (!mkdtemp(f->directory)) return -1;
    snprintf(input, sizeof input, "%s/records.jsonl", f->directory);
    snprintf(f->path, sizeof f->path, "%s/data.h5", f->directory);
    write_records(input);
    const lt_prepare_settings settings = {.inputs = {inputs, 1},
                                          .tokenizer = golden_path("gpt2_words", NULL),
                                          .output = f->path,
                                          .format = LT_FORMAT_DOLLY,
                                          .has_template = true,
                                          .template_ = LT_TEMPLATE_PLAIN,
                                          .max_length = 64,
                                          .validation = 15,
                                          .threads = 1};
    lt_prepare_report report;
    OK(lt_prepare(&settings, &report, err));
    OK(lt_dataset_open(f->path, &f->dataset, err));
    f->model = open_golden(GPT2_WORDS);
    OK(lt_assistant_use_dataset(&f->model.assistant, f->dataset, err));
    *state = f;
    return 0;
}

static int free_fixture(void **state)
{
    fixture *f = *state;
    char path[96];
    close_golden(&f->model);
    lt_dataset_close(f->dataset);
    snprintf(path, sizeof path, "%s/records.jsonl", f->directory);
    unlink(path);
    unlink(f->path);
    rmdir(f->directory);
    free(f);
    return 0;
}

static void evaluate(fixture *f, const lt_task *task, int64_t max_length, collected *c)
{
    int64_t docs[MAX_SAMPLES];
    const lt_engine_settings settings = {.dataset = f->dataset, .max_length = max_length};
    *c = (collected){0};
    for (int64_t i = 0; i < task->doc_count; i++)
        docs[i] = i;
    OK(lt_evaluate_task(&f->model.assistant, task, docs, task->doc_count, &settings, on_sample,
                        NULL, c, err));
    assert_int_equal(c->count, task->doc_count);
}

static lt_loss loss_by_loader(const fixture *f)
{
    lt_loader *loader = NULL;
    lt_workspace *workspace = NULL;
    lt_loss loss = {0};
    const lt_loader_settings settings = {
        .split = LT_SPLIT_VALIDATION, .rows = 4, .max_length = 64, .world_size = 1};
    OK(lt_loader_create(f->dataset, &settings, &loader, err));
    OK(lt_workspace_create(f->model.assistant.model,
                           &(lt_workspace_settings){.rows = 4, .length = 64}, &workspace, err));
    for (int64_t i = 0; i < lt_loader_batches_per_epoch(loader); i++) {
        lt_batch batch;
        OK(lt_loader_next(loader, &batch, err));
        OK(lt_model_evaluate(f->model.assistant.model, workspace, &batch, &loss, NULL, err));
    }
    lt_workspace_free(workspace);
    lt_loader_free(loader);
    return loss;
}

static void test_held_out_loss(void **state)
{
    fixture *f = *state;
    lt_task task = {0};
    collected c;
    OK(lt_task_from_dataset(f->dataset, f->path, 0, &task, err));
    assert_int_equal(task.doc_count, 15);
    evaluate(f, &task, 0, &c);
    lt_loss expected = loss_by_loader(f), got = {0};
    for (int64_t i = 0; i < c.count; i++) {
        const json_t *loss = json_object_get(c.samples[i], "loss"),
                     *perplexity = json_object_get(c.samples[i], "token_perplexity"),
                     *correct = json_object_get(c.samples[i], "token_accuracy");
        got.sum += number_at(loss, 0);
        got.tokens += (int64_t)number_at(loss, 1);
        got.correct += (int64_t)number_at(correct, 0);
        assert_true(json_equal(loss, perplexity));
        assert_true(number_at(correct, 1) == number_at(loss, 1));
        const char *category = json_string_value(json_object_get(c.samples[i], "category"));
        assert_true(category && (strcmp(category, "above") == 0 || strcmp(category, "below") == 0));
        assert_int_equal(c.cut[i], 0);
    }
    assert_int_equal(got.tokens, expected.tokens);
    assert_int_equal(got.correct, expected.correct);
    assert_true(fabs(got.sum - expected.sum) < 1e-4 * expected.sum);
    drop(&c);

    /* what the model does not see is counted */
    evaluate(f, &task, 8, &c);
    for (int64_t i = 0; i < c.count; i++)
        assert_int_equal(c.cut[i],
                         lt_dataset_document(f->dataset, LT_SPLIT_VALIDATION, i).length - 9);
    drop(&c);
    lt_task_free(&task);
}

static void test_answers(void **state)
{
    fixture *f = *state;
    lt_task task = {0}, whole = {0};
    collected c;
    bool has_answers = false;
    OK(lt_task_of_answers(f->dataset, f->path, 6, 5, &task, &has_answers, err));
    assert_true(has_answers);
    assert_int_equal(task.doc_count, 6);
    assert_int_equal(task.original_count, 15);
    evaluate(f, &task, 0, &c);
    int grounded = 0;
    for (int64_t i = 0; i < c.count; i++) {
        lt_record record = {0};
        lt_answer answer = {0};
        const json_t *sample = c.samples[i];
        OK(lt_dataset_record(f->dataset, LT_SPLIT_VALIDATION, i, &record, err));
        const lt_prompt prompt = {.record = &record};
        OK(lt_assistant_answer(&f->model.assistant, &prompt, 1,
                               &(lt_answer_settings){.max_new_tokens = 5}, NULL, NULL, &answer,
                               err));
        assert_string_equal(json_string_value(json_object_get(sample, "answer")),
                            lt_buffer_text(&answer.text));
        assert_string_equal(json_string_value(json_object_get(sample, "target")), record.response);
        assert_string_equal(text_at(json_object_get(sample, "references"), 0), record.response);
        assert_true(json_number_value(json_object_get(sample, "stopped")) ==
                    (answer.finish == LT_FINISH_STOP));
        assert_non_null(json_object_get(sample, "rougeL"));
        assert_non_null(json_object_get(sample, "category"));
        bool has_context = record.context && *record.context;
        assert_int_equal(json_object_get(sample, "grounded") != NULL, has_context);
        grounded += has_context;
        lt_answer_free(&answer);
        lt_record_free(&record);
    }
    assert_true(grounded > 0 && grounded < 6);
    drop(&c);

    /* a task of fewer documents is another one */
    OK(lt_task_of_answers(f->dataset, f->path, 0, 5, &whole, &has_answers, err));
    assert_int_equal(whole.doc_count, 15);
    assert_string_not_equal(task.hash, whole.hash);
    lt_task_free(&whole);
    lt_task_free(&task);
}

static void test_dataset_is_needed(void **state)
{
    fixture *f = *state;
    lt_task task = {0};
    lt_err err = {0};
    const int64_t doc = 0;
    OK(lt_task_from_dataset(f->dataset, f->path, 1, &task, err));
    assert_int_equal(task.doc_count, 1);
    assert_int_equal(lt_evaluate_task(&f->model.assistant, &task, &doc, 1, &(lt_engine_settings){0},
                                      on_sample, NULL, NULL, &err),
                     LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "dataset"));
    lt_task_free(&task);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_held_out_loss),
                                       cmocka_unit_test(test_answers),
                                       cmocka_unit_test(test_dataset_is_needed)};
    return cmocka_run_group_tests(tests, make_fixture, free_fixture);
}
