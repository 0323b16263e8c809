/* Results made of samples, and compared. */
#include "results_fixture.h"

/* --- Rows ------------------------------------------------------------------------------------- */

static const lt_result_row *find_row(const lt_task_results *results, lt_metric metric,
                                     const char *filter, const char *category)
{
    for (int64_t i = 0; i < results->row_count; i++) {
        const lt_result_row *row = &results->rows[i];
        bool same =
            category ? row->category && strcmp(row->category, category) == 0 : !row->category;
        if (row->metric == metric && strcmp(row->filter, filter) == 0 && same) return row;
    }
    return NULL;
}

static void assert_row(const lt_task_results *results, lt_metric metric, const char *category,
                       int64_t count, double value)
{
    const lt_result_row *row = find_row(results, metric, "none", category);
    assert_non_null(row);
    assert_int_equal(row->count, count);
    assert_true(fabs(row->value - value) < 1e-12);
}

static void rows_are_of_all_and_of_categories(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results results = make_results(&task, acc_a);
    assert_int_equal(results.sample_count, DOCUMENTS);
    assert_int_equal(results.row_count, 6);
    assert_row(&results, LT_METRIC_ACC, NULL, 6, 0.5);
    assert_row(&results, LT_METRIC_ACC, earth, 2, 1);
    assert_row(&results, LT_METRIC_ACC, sky, 2, 0);
    /* only the samples that have it */
    assert_row(&results, LT_METRIC_BITS_PER_BYTE, NULL, 3, 1 / M_LN2);
    assert_row(&results, LT_METRIC_BITS_PER_BYTE, earth, 1, 1 / M_LN2);
    assert_row(&results, LT_METRIC_BITS_PER_BYTE, sky, 1, 1.5 / M_LN2);
    assert_true(fabs(results.rows[0].stderr_ - sqrt(0.3 / 6)) < 1e-12);
    lt_results_free_task(&results);
}

/* What a resumed run gathers in another order comes to the same. */
static void order_of_samples_does_not_count(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results forward = make_results(&task, acc_a), backward;
    json_t *samples[DOCUMENTS];
    make_samples(acc_a, samples);
    for (int i = 0; i < DOCUMENTS / 2; i++) {
        json_t *swap = samples[i];
        samples[i] = samples[DOCUMENTS - 1 - i];
        samples[DOCUMENTS - 1 - i] = swap;
    }
    OK(lt_results_make(&task, samples, DOCUMENTS, 100, &backward, err));
    assert_int_equal(backward.row_count, forward.row_count);
    for (int64_t i = 0; i < forward.row_count; i++) {
        assert_true(backward.rows[i].value == forward.rows[i].value);
        assert_ptr_equal(backward.rows[i].category, forward.rows[i].category);
    }
    for (int64_t i = 0; i < DOCUMENTS; i++)
        assert_true(json_equal(backward.samples[i], forward.samples[i]));
    free_samples(samples, DOCUMENTS);
    lt_results_free_task(&forward);
    lt_results_free_task(&backward);
}

static void filters_have_rows_of_their_own(void **state)
{
    (void)state;
    static lt_task_doc docs[2];
    lt_task task = answer_task(docs, 2);
    json_t *samples[] = {
        answer_sample(1, "flexible-extract", 1, "b"), answer_sample(0, "flexible-extract", 1, "a"),
        answer_sample(0, "strict-match", 0, "a"), answer_sample(1, "strict-match", 1, "b")};
    lt_task_results results;
    OK(lt_results_make(&task, samples, 4, 100, &results, err));
    assert_int_equal(results.row_count, 4);
    const lt_result_row *strict = find_row(&results, LT_METRIC_EXACT_MATCH, "strict-match", NULL);
    const lt_result_row *loose =
        find_row(&results, LT_METRIC_EXACT_MATCH, "flexible-extract", NULL);
    assert_true(strict && loose && strict->value == 0.5 && loose->value == 1);
    /* by document, then filter */
    assert_ptr_equal(results.samples[0], samples[2]);
    assert_ptr_equal(results.samples[1], samples[1]);
    assert_ptr_equal(results.samples[3], samples[0]);
    free_samples(samples, 4);
    lt_results_free_task(&results);
}

static void nothing_comes_of_no_samples(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results results;
    lt_buffer table = {0};
    OK(lt_results_make(&task, NULL, 0, 100, &results, err));
    assert_int_equal(results.row_count, 0);
    OK(lt_results_table(&results, 1, &table, err));
    assert_non_null(strstr(table.data, "no samples"));
    lt_buffer_free(&table);
    lt_results_free_task(&results);
}

/* --- Bad samples ------------------------------------------------------------------------------ */

static void bad_samples_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *sample, *message;
    } cases[] = {
        {"{}", "doc_id"},
        {"{\"doc_id\": \"0\"}", "doc_id"},
        {"{\"doc_id\": -1, \"filter\": \"none\", \"metrics\": []}", "doc_id"},
        {"{\"doc_id\": 6, \"filter\": \"none\", \"metrics\": []}", "none of its 6 documents"},
        {"{\"doc_id\": 3, \"metrics\": []}", "document 3 has no \"filter\""},
        {"{\"doc_id\": 3, \"filter\": \"odd\", \"metrics\": []}", "\"odd\""},
        {"{\"doc_id\": 3, \"filter\": \"none\"}", "\"metrics\""},
        {"{\"doc_id\": 3, \"filter\": \"none\", \"metrics\": [\"acc\"]}", "document 3"},
        {"{\"doc_id\": 3, \"filter\": \"none\", \"metrics\": [\"acc\"], \"acc\": \"1\"}", "acc"},
        {"{\"doc_id\": 3, \"filter\": \"none\", \"metrics\": [\"acc\"], \"acc\": [1]}", "acc"},
        {"{\"doc_id\": 3, \"filter\": \"none\", \"metrics\": [\"acc\"], \"acc\": NaN}", "finite"},
        {"{\"doc_id\": 3, \"filter\": \"none\", \"metrics\": [\"bits_per_byte\"], "
         "\"bits_per_byte\": [1]}",
         "2 finite numbers"},
        {"{\"doc_id\": 3, \"filter\": \"none\", \"metrics\": [\"bits_per_byte\"], "
         "\"bits_per_byte\": [1, \"2\"]}",
         "2 finite numbers"},
    };
    lt_task task = choice_task();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *sample;
        lt_task_results results;
        lt_err failure = {0};
        OK(lt_json_parse(cases[i].sample, strlen(cases[i].sample), "test", &sample, err));
        assert_int_equal(lt_results_make(&task, &sample, 1, 100, &results, &failure),
                         LT_ERR_FORMAT);
        if (!strstr(failure.message, cases[i].message) || !strstr(failure.message, "quiz"))
            fail_msg("%s does not say %s", failure.message, cases[i].message);
        assert_null(results.samples);
        json_decref(sample);
    }
}

static void a_document_has_one_sample(void **state)
{
    (void)state;
    lt_task task = choice_task();
    json_t *samples[] = {choice_sample(2, 1, 0), choice_sample(0, 1, 0), choice_sample(2, 0, 0)};
    lt_task_results results;
    lt_err err = {0};
    assert_int_equal(lt_results_make(&task, samples, 3, 100, &results, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "document 2 has two samples"));
    free_samples(samples, 3);
}

/* Metrics of other tools in the file are theirs. */
static void unknown_metrics_are_passed_over(void **state)
{
    (void)state;
    lt_task task = choice_task();
    json_t *sample = choice_sample(0, 1, 0);
    json_array_append_new(json_object_get(sample, "metrics"), json_string("brier_score"));
    json_array_append_new(json_object_get(sample, "metrics"), json_integer(3));
    lt_task_results results;
    OK(lt_results_make(&task, &sample, 1, 100, &results, err));
    /* acc; its only category would say the same again */
    assert_int_equal(results.row_count, 1);
    assert_true(isnan(results.rows[0].stderr_));
    lt_results_free_task(&results);
    json_decref(sample);
}

/* --- Comparison ------------------------------------------------------------------------------- */

static void models_are_compared_document_by_document(void **state)
{
    (void)state;
    lt_task task = choice_task();
    lt_task_results a = make_results(&task, acc_a), b = make_results(&task, acc_b);
    lt_task_comparison comparison;
    OK(lt_results_compare(&a, &b, 200, 1, &comparison, err));
    assert_int_equal(comparison.row_count, a.row_count);
    const lt_comparison_row *first = &comparison.rows[0];
    assert_int_equal(first->metric, LT_METRIC_ACC);
    assert_null(first->category);
    assert_true(first->result.a == 0.5 && first->result.b == 5.0 / 6);
    assert_int_equal(first->result.better, 3);
    assert_int_equal(first->result.worse, 1);
    assert_int_equal(first->result.equal, 2);
    assert_int_equal(comparison.worst_count, 1);
    assert_int_equal(comparison.worst[0], 3);
    assert_int_equal(comparison.best_count, 3);
    for (int64_t i = 0; i < comparison.row_count; i++)
        if (comparison.rows[i].category && comparison.rows[i].metric == LT_METRIC_ACC)
            assert_int_equal(comparison.rows[i].result.count, 2);
    lt_comparison_free(&comparison);
    lt_results_free_task(&a);
    lt_results_free_task(&b);
}

static void only_the_same_can_be_compared(void **state)
{
    (void)state;
    lt_task task = choice_task(), other = choice_task();
    lt_task_results a = make_results(&task, acc_a), b, c, d;
    json_t *samples[DOCUMENTS];
    lt_task_comparison comparison;
    lt_err err = {0};
    make_samples(acc_b, samples);
    OK(lt_results_make(&task, samples, DOCUMENTS - 1, 100, &b, err));
    assert_int_equal(lt_results_compare(&a, &b, 200, 1, &comparison, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "document 5"));
    assert_int_equal(lt_results_compare(&b, &a, 200, 1, &comparison, &err), LT_ERR_USAGE);
    assert_null(comparison.rows);

    OK(lt_results_make(&task, samples, 1, 100, &c, err)); /* without bits_per_byte */
    assert_int_equal(lt_results_compare(&a, &c, 200, 1, &comparison, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "metrics"));

    strcpy(other.hash, "2");
    OK(lt_results_make(&other, samples, DOCUMENTS, 100, &d, err));
    assert_int_equal(lt_results_compare(&a, &d, 200, 1, &comparison, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "quiz"));
    free_samples(samples, DOCUMENTS);
    lt_results_free_task(&a);
    lt_results_free_task(&b);
    lt_results_free_task(&c);
    lt_results_free_task(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_of_all_and_of_categories),
        cmocka_unit_test(order_of_samples_does_not_count),
        cmocka_unit_test(filters_have_rows_of_their_own),
        cmocka_unit_test(nothing_comes_of_no_samples),
        cmocka_unit_test(bad_samples_are_named),
        cmocka_unit_test(a_document_has_one_sample),
        cmocka_unit_test(unknown_metrics_are_passed_over),
        cmocka_unit_test(models_are_compared_document_by_document),
        cmocka_unit_test(only_the_same_can_be_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
