/* Log-likelihoods against those of lm-evaluation-harness on the same models
 * (tests/golden/make_evaluation_golden.py). */
#include "evaluation_fixture.h"

#include "train/evaluation/scorer.h"

enum { MAX_REQUESTS = 128 };

typedef struct collected {
    lt_score scores[MAX_REQUESTS];
    int seen[MAX_REQUESTS];
    int64_t count;
    volatile sig_atomic_t *cancel; /* set by the first score */
} collected;

static lt_status collect(void *context, int64_t index, const lt_score *score, lt_err *err)
{
    collected *c = context;
    (void)err;
    c->scores[index] = *score;
    c->seen[index]++;
    c->count++;
    if (c->cancel) *c->cancel = 1;
    return LT_OK;
}

static lt_scorer *make_scorer(const golden_model *m, int64_t batch_size, int64_t max_length)
{
    lt_scorer *scorer = NULL;
    const lt_scorer_settings settings = {.batch_size = batch_size, .max_length = max_length};
    OK(lt_scorer_create(&m->assistant, &settings, &scorer, err));
    return scorer;
}

/* The requests that lm-eval answers. */
static int64_t golden_requests(const golden_model *m, lt_score_request *requests,
                               const json_t **rows)
{
    const json_t *list = json_object_get(m->expected, "loglikelihood");
    int64_t count = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        if (json_is_null(json_array_get(row, 2))) continue;
        rows[count] = row;
        requests[count++] =
            (lt_score_request){.context = text_at(row, 0), .continuation = text_at(row, 1)};
    }
    assert_true(count > 60);
    return count;
}

static void check_golden(const golden_model *m, int64_t batch_size)
{
    lt_score_request requests[MAX_REQUESTS];
    const json_t *rows[MAX_REQUESTS];
    collected got = {0};
    int64_t count = golden_requests(m, requests, rows), cut = 0;
    lt_scorer *scorer = make_scorer(m, batch_size, 0);
    OK(lt_scorer_run(scorer, requests, count, collect, &got, err));
    assert_int_equal(got.count, count);
    for (int64_t i = 0; i < count; i++) {
        const lt_score *score = &got.scores[i];
        double expected = number_at(rows[i], 2);
        bool is_greedy = json_is_true(json_array_get(rows[i], 3));
        assert_int_equal(got.seen[i], 1);
        if (fabs(score->log_likelihood - expected) > 1e-4)
            fail_msg("\"%s\" + \"%s\": %.6f instead of %.6f", requests[i].context,
                     requests[i].continuation, score->log_likelihood, expected);
        if ((score->correct == score->tokens) != is_greedy)
            fail_msg("\"%s\" + \"%s\": greedy", requests[i].context, requests[i].continuation);
        cut += score->cut > 0;
    }
    assert_int_equal(cut, 2);
    lt_scorer_free(scorer);
}

static void test_loglikelihood(void **state)
{
    const int64_t batch_sizes[] = {0, 1, 3, 64};
    (void)state;
    for (int which = 0; which < MODEL_COUNT; which++) {
        golden_model m = open_golden(which);
        for (size_t i = 0; i < sizeof batch_sizes / sizeof batch_sizes[0]; i++)
            check_golden(&m, batch_sizes[i]);
        close_golden(&m);
    }
}

static void test_rolling(void **state)
{
    (void)state;
    for (int which = 0; which < MODEL_COUNT; which++) {
        golden_model m = open_golden(which);
        const json_t *list = json_object_get(m.expected, "loglikelihood_rolling");
        int64_t count = (int64_t)json_array_size(list);
        lt_score_request requests[MAX_REQUESTS] = {0};
        collected got = {0};
        for (int64_t i = 0; i < count; i++)
            requests[i] = (lt_score_request){
                .continuation = text_at(json_array_get(list, (size_t)i), 0), .rolling = true};
        lt_scorer *scorer = make_scorer(&m, 2, 0);
        OK(lt_scorer_run(scorer, requests, count, collect, &got, err));
        for (int64_t i = 0; i < count; i++) {
            double expected = number_at(json_array_get(list, (size_t)i), 1);
            if (fabs(got.scores[i].log_likelihood - expected) > 1e-5 * fabs(expected) + 1e-4)
                fail_msg("\"%s\": %.6f instead of %.6f", requests[i].continuation,
                         got.scores[i].log_likelihood, expected);
            assert_int_equal(got.scores[i].cut, 0);
        }
        lt_scorer_free(scorer);
        close_golden(&m);
    }
}

static void check_ids(const json_t *expected, int64_t begin, int64_t end)
{
    assert_int_equal((int64_t)json_array_size(expected), end - begin);
    for (int64_t i = begin; i < end; i++)
        assert_int_equal((int64_t)number_at(expected, (size_t)(i - begin)), i);
}

static void test_windows(void **state)
{
    json_t *cases = NULL;
    size_t i, k;
    const json_t *one, *window;
    (void)state;
    OK(lt_json_load(golden_path("windows.json", NULL), &cases, err));
    assert_true(json_array_size(cases) > 50);
    json_array_foreach(cases, i, one)
    {
        int64_t n = (int64_t)number_at(one, 0), longest = (int64_t)number_at(one, 1);
        const json_t *windows = json_array_get(one, 2);
        assert_int_equal(lt_rolling_window_count(n, longest), (int64_t)json_array_size(windows));
        json_array_foreach(windows, k, window)
        {
            lt_rolling_window w = lt_rolling_window_at(n, longest, (int64_t)k);
            check_ids(json_array_get(window, 0), w.begin, w.end - w.predicted);
            check_ids(json_array_get(window, 1), w.end - w.predicted, w.end);
        }
    }
    json_decref(cases);
}

/* Masked ids are the pair's score, token by token. */
static void test_ids(void **state)
{
    (void)state;
    golden_model m = open_golden(LLAMA_WORDS);
    const int32_t tokens[] = {0, 40, 41, 42, 43, 44};
    const uint8_t second_and_last[] = {1, 0, 1, 0, 0, 1}, second[] = {0, 0, 1, 0, 0, 0};
    const uint8_t last[] = {0, 0, 0, 0, 0, 1}, none[6] = {1};
    const lt_score_ids requests[] = {
        {.tokens = tokens, .mask = second_and_last, .count = 6},
        {.tokens = tokens, .mask = second, .count = 6},
        {.tokens = tokens, .mask = last, .count = 6},
        {.tokens = tokens, .mask = none, .count = 6},
        {.tokens = tokens, .mask = second, .count = 3},
    };
    collected got = {0};
    lt_scorer *scorer = make_scorer(&m, 0, 0);
    OK(lt_scorer_run_ids(scorer, requests, 5, collect, &got, err));
    assert_int_equal(got.count, 5);
    assert_int_equal(got.scores[0].tokens, 2);
    assert_int_equal(got.scores[1].tokens, 1);
    assert_int_equal(got.scores[3].tokens, 0);
    assert_true(got.scores[1].log_likelihood < -0.01 && got.scores[2].log_likelihood < -0.01);
    assert_true(fabs(got.scores[1].log_likelihood - got.scores[2].log_likelihood) > 0.01);
    assert_float_equal(got.scores[0].log_likelihood,
                       got.scores[1].log_likelihood + got.scores[2].log_likelihood, 1e-5);
    assert_float_equal(got.scores[4].log_likelihood, got.scores[1].log_likelihood, 1e-5);
    lt_scorer_free(scorer);

    /* a length of 3: the beginning of what is longer is lost, and what it had to predict */
    got = (collected){0};
    scorer = make_scorer(&m, 0, 3);
    OK(lt_scorer_run_ids(scorer, requests, 5, collect, &got, err));
    assert_int_equal(got.scores[0].cut, 2);
    assert_int_equal(got.scores[0].tokens, 1);
    assert_int_equal(got.scores[1].tokens, 0);
    assert_int_equal(got.scores[4].cut, 0);
    lt_scorer_free(scorer);
    close_golden(&m);
}

static void check_refusal(lt_scorer *scorer, const lt_score_request *request, lt_status code,
                          const char *part)
{
    lt_err err = {0};
    collected got = {0};
    assert_int_equal(lt_scorer_run(scorer, request, 1, collect, &got, &err), code);
    if (!strstr(err.message, part)) fail_msg("\"%s\" is not in \"%s\"", part, err.message);
    assert_int_equal(got.count, 0);
}

static void test_refusals(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    const json_t *list = json_object_get(m.expected, "loglikelihood"), *row;
    lt_scorer *scorer = make_scorer(&m, 0, 0);
    size_t i;
    int refused = 0;
    /* what lm-eval refuses is refused, and named */
    json_array_foreach(list, i, row)
    {
        if (!json_is_null(json_array_get(row, 2))) continue;
        lt_score_request request = {.context = text_at(row, 0), .continuation = text_at(row, 1)};
        check_refusal(scorer, &request, LT_ERR_FORMAT, "request 1: the continuation");
        request.where = "arc.jsonl:17";
        check_refusal(scorer, &request, LT_ERR_FORMAT, "arc.jsonl:17: the continuation");
        refused++;
    }
    assert_int_equal(refused, 1);
    check_refusal(scorer, &(lt_score_request){.context = "a", .continuation = ""}, LT_ERR_FORMAT,
                  "adds no token");
    check_refusal(scorer, &(lt_score_request){.context = "", .continuation = "<|endoftext|>"},
                  LT_ERR_FORMAT, "adds no token");
    check_refusal(scorer, &(lt_score_request){.context = "a", .continuation = "\xff"},
                  LT_ERR_FORMAT, "UTF-8");
    lt_scorer_free(scorer);

    lt_err err = {0};
    scorer = NULL;
    const lt_scorer_settings longer = {.max_length = 65};
    assert_int_equal(lt_scorer_create(&m.assistant, &longer, &scorer, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "65"));
    assert_null(scorer);
    close_golden(&m);
}

static void test_broken_weights(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    const lt_param *param = lt_model_param(m.assistant.model, "layers.0.mlp.down.bias");
    if (!param) param = &m.assistant.model->params[m.assistant.model->own_param_count - 1];
    const float nan = NAN;
    memcpy(param->weight.data, &nan, sizeof nan);
    lt_scorer *scorer = make_scorer(&m, 0, 0);
    check_refusal(scorer,
                  &(lt_score_request){.context = "a", .continuation = "b c", .where = "x.jsonl:3"},
                  LT_ERR_NUMERIC, "x.jsonl:3: the log-likelihood is not finite");
    lt_scorer_free(scorer);
    close_golden(&m);
}

static void test_cancel(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    volatile sig_atomic_t cancelled = 0;
    lt_score_request requests[MAX_REQUESTS];
    const json_t *rows[MAX_REQUESTS];
    collected got = {.cancel = &cancelled};
    lt_err err = {0};
    lt_scorer *scorer = NULL;
    int64_t count = golden_requests(&m, requests, rows);
    const lt_scorer_settings settings = {.batch_size = 1, .cancelled = &cancelled};
    OK(lt_scorer_create(&m.assistant, &settings, &scorer, err));
    assert_int_equal(lt_scorer_run(scorer, requests, count, collect, &got, &err),
                     LT_ERR_INTERRUPTED);
    assert_int_equal(got.count, 1);
    lt_scorer_free(scorer);
    close_golden(&m);
}

/* A context of white space alone is none; a continuation that is too long is scored as far as it
 * fits, and the rest counted. */
static void test_beyond_lm_eval(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    char longer[200];
    memset(longer, 'z', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    const lt_score_request requests[] = {{.context = " ", .continuation = "blue"},
                                         {.context = "", .continuation = " blue"},
                                         {.context = "a", .continuation = longer}};
    collected got = {0};
    lt_scorer *scorer = make_scorer(&m, 0, 0);
    OK(lt_scorer_run(scorer, requests, 3, collect, &got, err));
    assert_float_equal(got.scores[0].log_likelihood, got.scores[1].log_likelihood, 1e-6);
    assert_int_equal(got.scores[2].tokens, 64);
    assert_int_equal(got.scores[2].cut, 200 - 65);
    lt_scorer_free(scorer);
    close_golden(&m);
}

/* What an adapter puts in front is no part of a text, but takes room. */
static void test_virtual_tokens(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    const lt_assistant plain = m.assistant;
    lt_adapter *adapter = NULL;
    int32_t tokens[30];
    collected got = {0}, without = {0};
    for (int i = 0; i < 30; i++)
        tokens[i] = (i * 7 + 3) % 53;
    const lt_score_ids requests[] = {{.tokens = tokens, .count = 30},
                                     {.tokens = tokens + 10, .count = 20},
                                     {.tokens = tokens, .count = 4}};
    char directory[1024];
    snprintf(directory, sizeof directory, "%s/golden/models/gpt2", LATHE_TEST_DIR);
    OK(lt_model_load(directory, m.backend, &m.assistant.model, err));
    snprintf(directory, sizeof directory, "%s/golden/adapters/gpt2_prompt", LATHE_TEST_DIR);
    OK(lt_adapter_load(m.assistant.model, directory, "prompt", &adapter, err));
    int64_t room = 24 - lt_adapter_virtual_tokens(adapter);
    assert_true(room < 24);
    lt_scorer *scorer = make_scorer(&m, 0, 0);
    OK(lt_scorer_run_ids(scorer, requests, 3, collect, &got, err));
    assert_int_equal(got.scores[0].cut, 30 - room - 1);
    assert_int_equal(got.scores[0].tokens, room);
    assert_int_equal(got.scores[1].tokens, room); /* what is left of the first one */
    assert_float_equal(got.scores[0].log_likelihood, got.scores[1].log_likelihood, 1e-4);
    lt_scorer_free(scorer);

    m.assistant.model->active = NULL;
    scorer = make_scorer(&m, 0, 0);
    OK(lt_scorer_run_ids(scorer, requests, 3, collect, &without, err));
    assert_int_equal(without.scores[0].tokens, 24);
    assert_true(fabs(got.scores[2].log_likelihood - without.scores[2].log_likelihood) > 0.01);
    lt_scorer_free(scorer);
    lt_model_free(m.assistant.model);
    m.assistant = plain;
    close_golden(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loglikelihood),  cmocka_unit_test(test_rolling),
        cmocka_unit_test(test_windows),        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_broken_weights),
        cmocka_unit_test(test_cancel),         cmocka_unit_test(test_beyond_lm_eval),
        cmocka_unit_test(test_virtual_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
