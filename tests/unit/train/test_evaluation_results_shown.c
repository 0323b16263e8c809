/* Results shown: as tables, as lm-eval's JSON, as a page. */
#include "results_fixture.h"

/* --- Tables ----------------------------------------------------------------------------------- */

static size_t count_text(const lt_buffer *page, const char *what)
{
    size_t count = 0;
    for (const char *at = lt_buffer_text(page); (at = strstr(at, what)); at++)
        count++;
    return count;
}

/* A column number of the terminal for each byte that is no continuation of a character. */
static size_t columns_until(const char *line, const char *word)
{
    const char *found = strstr(line, word);
    assert_non_null(found);
    size_t columns = 0;
    for (const char *at = line; at < found + strlen(word); at++)
        columns += (*at & 0xC0) != 0x80;
    return columns;
}

static void tables_are_aligned(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results a = make_results(&task, acc_a), b = make_results(&task, acc_b);
    lt_task_comparison comparison;
    lt_buffer table = {0};
    a.cut_documents = 2;
    OK(lt_results_table(&a, 1, &table, err));
    assert_non_null(strstr(table.data, "\n  earth\n    acc \xE2\x86\x91"));
    assert_non_null(strstr(table.data, "\n  sky & moon\n"));
    assert_int_equal(count_text(&table, "\n  earth\n"), 1);
    assert_non_null(strstr(table.data, "2 longer than the model's context"));
    const char *acc = strstr(table.data, "\n  acc") + 1, *bits = strstr(table.data, "\n  bits") + 1;
    assert_int_equal(columns_until(table.data, "value"), columns_until(acc, "50.0 %"));
    assert_int_equal(columns_until(table.data, "value"), columns_until(bits, "1.443"));
    assert_int_equal(columns_until(table.data, "n\n"), columns_until(acc, "6\n"));
    lt_buffer_clear(&table);

    OK(lt_results_compare(&a, &b, 200, 1, &comparison, err));
    OK(lt_comparison_table(&comparison, 1, &table, err));
    assert_non_null(strstr(table.data, "+33.3"));
    assert_non_null(strstr(table.data, "no clear difference"));
    acc = strstr(table.data, "\n  acc") + 1;
    assert_int_equal(columns_until(table.data, "b - a"), columns_until(acc, "+33.3"));
    for (char *line = strtok(table.data, "\n"); line; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 125);
    lt_buffer_free(&table);
    lt_comparison_free(&comparison);
    lt_results_free_task(&a);
    lt_results_free_task(&b);
}

static void names_can_not_drive_the_terminal(void **state)
{
    (void)state;
    static char hostile[] = "a\x1b[31mred\nline\x7f";
    lt_task task = choice_task();
    task.docs[0].category = hostile;
    lt_task_results results = make_results(&task, acc_a);
    lt_buffer table = {0};
    OK(lt_results_table(&results, 1, &table, err));
    assert_null(strchr(table.data, 0x1b));
    assert_null(strchr(table.data, 0x7f));
    assert_non_null(strstr(table.data, "  a [31mred line \n"));
    lt_buffer_free(&table);
    lt_results_free_task(&results);
}

static const char *verdict_of(bool lower_is_better, double low, double high)
{
    static char text[512];
    lt_task task = choice_task();
    lt_task_results results = {.task = &task};
    lt_comparison_row row = {.metric = lower_is_better ? LT_METRIC_LOSS : LT_METRIC_ACC,
                             .filter = "none",
                             .result = {.low = low, .high = high}};
    lt_task_comparison comparison = {.a = &results, .b = &results, .rows = &row, .row_count = 1};
    lt_buffer table = {0};
    OK(lt_comparison_table(&comparison, 1, &table, err));
    snprintf(text, sizeof text, "%s", strstr(table.data, "\n  ") + 1);
    lt_buffer_free(&table);
    return text;
}

static void verdicts_follow_the_interval(void **state)
{
    (void)state;
    assert_non_null(strstr(verdict_of(false, 0.01, 0.02), "  better"));
    assert_non_null(strstr(verdict_of(false, -0.02, -0.01), "  worse"));
    assert_non_null(strstr(verdict_of(true, 0.01, 0.02), "  worse"));
    assert_non_null(strstr(verdict_of(true, -0.02, -0.01), "  better"));
    assert_non_null(strstr(verdict_of(true, -0.02, 0.01), "no clear difference"));
    assert_non_null(strstr(verdict_of(false, 0, 0.01), "no clear difference"));
    assert_non_null(strstr(verdict_of(false, NAN, NAN), "no clear difference"));
}

/* --- JSON ------------------------------------------------------------------------------------- */

static const lt_evaluation_facts facts = {.model = "models/base: 1",
                                          .compared_model = "models/other",
                                          .date = "2026-05-01T10:20:30.500000",
                                          .device = "cpu",
                                          .dtype = "f32",
                                          .batch_size = 8,
                                          .max_length = 512,
                                          .eot_token = "</s>",
                                          .seconds = 1.5};

static json_t *at(json_t *object, const char *a, const char *b)
{
    json_t *inner = json_object_get(object, a);
    assert_non_null(inner);
    return b ? json_object_get(inner, b) : inner;
}

static void json_is_that_of_lm_eval(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results results = make_results(&task, acc_a);
    json_t *root;
    OK(lt_results_to_json(&results, 1, NULL, &facts, &root, err));
    json_t *values = at(root, "results", "quiz");
    assert_string_equal(json_string_value(json_object_get(values, "alias")), "quiz");
    assert_int_equal(json_integer_value(json_object_get(values, "sample_len")), 6);
    assert_true(json_real_value(json_object_get(values, "acc,none")) == 0.5);
    assert_true(json_real_value(json_object_get(values, "acc_stderr,none")) > 0.2);
    values = at(root, "results", "quiz/earth");
    assert_true(json_real_value(json_object_get(values, "acc,none")) == 1);
    /* one sample has no standard error */
    assert_string_equal(json_string_value(json_object_get(values, "bits_per_byte_stderr,none")),
                        "N/A");
    assert_int_equal(json_array_size(at(root, "group_subtasks", "quiz")), 2);
    assert_string_equal(json_string_value(at(at(root, "configs", "quiz"), "output_type", NULL)),
                        "multiple_choice");
    assert_int_equal(json_integer_value(at(at(root, "n-samples", "quiz"), "original", NULL)), 10);
    assert_true(json_is_false(at(at(root, "higher_is_better", "quiz"), "bits_per_byte", NULL)));
    assert_int_equal(json_integer_value(at(root, "n-shot", "quiz/earth")), 0);
    assert_true(json_number_value(at(root, "date", NULL)) == 1777630830.5);
    assert_int_equal(json_integer_value(at(root, "max_length", NULL)), 512);
    assert_true(json_is_null(at(root, "config", "limit")));
    assert_string_equal(json_string_value(at(root, "model_name_sanitized", NULL)),
                        "models__base__ 1");
    assert_int_equal(json_integer_value(at(root, "config", "batch_size")), 8);
    assert_true(json_is_false(at(root, "fewshot_as_multiturn", NULL)));
    assert_null(json_object_get(root, "comparison"));
    json_decref(root);
    lt_evaluation_facts chosen = facts;
    chosen.batch_size = 0;
    chosen.chat = true;
    OK(lt_results_to_json(&results, 1, NULL, &chosen, &root, err));
    assert_string_equal(json_string_value(at(root, "config", "batch_size")), "auto");
    assert_true(json_is_true(at(root, "fewshot_as_multiturn", NULL)));
    json_decref(root);
    lt_results_free_task(&results);
}

static void json_holds_the_comparison(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results a = make_results(&task, acc_a), b = make_results(&task, acc_b);
    lt_task_comparison comparison;
    json_t *root;
    OK(lt_results_compare(&a, &b, 200, 1, &comparison, err));
    OK(lt_results_to_json(&a, 1, &comparison, &facts, &root, err));
    json_t *row = at(at(root, "comparison", "quiz"), "acc,none", NULL);
    assert_int_equal(json_integer_value(json_object_get(row, "better")), 3);
    assert_string_equal(json_string_value(json_object_get(row, "verdict")), "no clear difference");
    row = at(at(root, "comparison", "quiz/earth"), "bits_per_byte,none", NULL);
    /* one sample has no interval */
    assert_string_equal(json_string_value(json_object_get(row, "low")),
                        LT_JSON_LITERAL_PREFIX "NaN");
    json_t *second = at(at(root, "compared", "results"), "quiz", NULL);
    assert_true(json_real_value(json_object_get(second, "acc,none")) == 5.0 / 6);
    json_decref(root);
    lt_comparison_free(&comparison);
    lt_results_free_task(&a);
    lt_results_free_task(&b);
}

static void tasks_of_one_name_are_refused(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results results[] = {make_results(&task, acc_a), make_results(&task, acc_b)};
    json_t *root;
    lt_err err = {0};
    assert_int_equal(lt_results_to_json(results, 2, NULL, &facts, &root, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "quiz"));
    assert_null(root);
    lt_results_free_task(&results[0]);
    lt_results_free_task(&results[1]);
}

static void json_of_what_is_no_text_is_refused(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results results = make_results(&task, acc_a);
    lt_evaluation_facts broken = facts;
    broken.model = "models/\xFF";
    json_t *root;
    lt_err err = {0};
    assert_int_equal(lt_results_to_json(&results, 1, NULL, &broken, &root, &err), LT_ERR_FORMAT);
    assert_null(root);
    lt_results_free_task(&results);
}

/* --- Page ------------------------------------------------------------------------------------- */

static void page_shows_both_models(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results a = make_results(&task, acc_a), b = make_results(&task, acc_b);
    lt_task_comparison comparison;
    lt_buffer page = {0};
    OK(lt_results_compare(&a, &b, 200, 1, &comparison, err));
    OK(lt_evaluation_report(&a, 1, &comparison, &facts, &page, err));
    assert_non_null(strstr(page.data, "models/base: 1"));
    assert_non_null(strstr(page.data, "models/other"));
    assert_non_null(strstr(page.data, "2026-05-01 10:20 UTC"));
    assert_non_null(strstr(page.data, "50.0 %"));
    assert_non_null(strstr(page.data, "+33.3"));
    assert_non_null(strstr(page.data, "By category: acc"));
    assert_int_equal(count_text(&page, "<div class=\"interval"), a.row_count);
    assert_int_equal(count_text(&page, "Is the earth flat?"), DOCUMENTS);
    assert_int_equal(count_text(&page, "no &lt;b&gt;way&lt;/b&gt;"), DOCUMENTS);
    /* the one that became worse comes first, then those that became better */
    const char *worse = strstr(page.data, "<b class=\"bad\">worse</b>"),
               *better = strstr(strstr(page.data, "<h3>Samples"), "<b class=\"good\">better</b>");
    assert_true(worse && better && worse < better);
    assert_non_null(strstr(worse - 100, "<span class=\"tag\">3</span>"));
    /* one sample has no interval */
    assert_non_null(strstr(page.data, "<div class=\"marks\">N/A</div>"));
    assert_null(strstr(page.data, "http"));
    assert_null(strstr(page.data, "<script"));
    lt_buffer_free(&page);
    lt_comparison_free(&comparison);
    lt_results_free_task(&a);
    lt_results_free_task(&b);
}

static void page_of_one_model_has_no_comparison(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results results = make_results(&task, acc_a);
    lt_buffer page = {0};
    OK(lt_evaluation_report(&results, 1, NULL, &facts, &page, err));
    assert_null(strstr(page.data, "Comparison"));
    assert_int_equal(count_text(&page, "Is the earth flat?"), DOCUMENTS);
    lt_buffer_free(&page);
    lt_results_free_task(&results);
}

/* Every text from outside at once: nothing of it becomes markup. */
static void page_escapes_hostile_text(void **state)
{
    (void)state;
    static char hostile[] = "</td><script>alert('x')</script>\"&\x1b\x07 \xE2\x80\xAE done";
    static char *references[] = {hostile};
    static lt_task_doc docs[2] = {
        {.prompt = hostile, .references = references, .reference_count = 1, .category = hostile},
        {.category = hostile}};
    lt_task task = answer_task(docs, 2);
    task.name = task.path = hostile;
    docs[1].messages = json_pack("[{s:s, s:s}]", "role", "user", "content", hostile);
    json_t *samples[] = {answer_sample(0, "strict-match", 0, hostile),
                         answer_sample(1, "strict-match", 1, hostile)};
    json_object_set_new(samples[1], "target", json_string(hostile));
    json_array_append_new(json_object_get(samples[0], "metrics"), json_string(hostile));
    json_object_set_new(samples[0], hostile, json_integer(1));
    json_object_set_new(samples[0], "filtered_resps", json_pack("[s+]", hostile, "!"));
    lt_task_results results;
    lt_task_comparison comparison;
    lt_evaluation_facts bad = {hostile, hostile, hostile, hostile, hostile, hostile, hostile,
                               1,       1,       1,       hostile, 1,       true};
    lt_buffer page = {0};
    OK(lt_results_make(&task, samples, 2, 100, &results, err));
    OK(lt_results_compare(&results, &results, 100, 1, &comparison, err));
    OK(lt_evaluation_report(&results, 1, &comparison, &bad, &page, err));
    assert_null(strstr(page.data, "<script"));
    assert_null(strstr(page.data, "alert('"));
    assert_true(count_text(&page, "&lt;/td&gt;&lt;script&gt;") >= 15);
    assert_int_equal(count_text(&page, "compared: &lt;/td&gt;"), 2);
    for (size_t i = 0; i < page.size; i++)
        assert_true((unsigned char)page.data[i] >= 0x20 || page.data[i] == '\n');
    lt_buffer_free(&page);
    lt_comparison_free(&comparison);
    lt_results_free_task(&results);
    free_samples(samples, 2);
    json_decref(docs[1].messages);
}

/* Few-shot examples and what is beyond a page's measure are left out, and the page says so. */
static void page_says_what_it_leaves_out(void **state)
{
    (void)state;
    enum { COUNT = 60 };
    static lt_task_doc docs[COUNT];
    static char prompt[] = "Q: one\nA: two\n\nQ: the question", longest[9001];
    json_t *samples[COUNT];
    lt_task task = answer_task(docs, COUNT);
    memset(longest, 'x', sizeof longest - 1);
    for (int i = 0; i < COUNT; i++) {
        docs[i].prompt = i ? prompt : longest;
        docs[i].turns = i == 1 ? json_array() : NULL; /* its examples are no part of its prompt */
        samples[i] = answer_sample(i, "strict-match", i % 2, "an answer");
    }
    lt_task_results results;
    lt_buffer page = {0};
    OK(lt_results_make(&task, samples, COUNT, 100, &results, err));
    OK(lt_evaluation_report(&results, 1, NULL, &facts, &page, err));
    assert_int_equal(count_text(&page, "an answer"), 50);
    assert_non_null(strstr(page.data, "50 of 60 documents; 10 are not shown"));
    assert_int_equal(count_text(&page, "Q: the question"), 49);
    assert_int_equal(count_text(&page, "Q: one"), 1);
    assert_non_null(strstr(page.data, "5000 bytes before it are not shown"));
    assert_non_null(strstr(page.data, "2-shot"));
    lt_buffer_free(&page);
    lt_results_free_task(&results);
    free_samples(samples, COUNT);
    json_decref(docs[1].turns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_aligned),
        cmocka_unit_test(names_can_not_drive_the_terminal),
        cmocka_unit_test(verdicts_follow_the_interval),
        cmocka_unit_test(json_is_that_of_lm_eval),
        cmocka_unit_test(json_holds_the_comparison),
        cmocka_unit_test(tasks_of_one_name_are_refused),
        cmocka_unit_test(json_of_what_is_no_text_is_refused),
        cmocka_unit_test(page_shows_both_models),
        cmocka_unit_test(page_of_one_model_has_no_comparison),
        cmocka_unit_test(page_escapes_hostile_text),
        cmocka_unit_test(page_says_what_it_leaves_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
