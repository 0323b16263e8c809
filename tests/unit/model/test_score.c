/* The probabilities of single ids against the logits they come from, with and without adapters. */
#include "adapters.h"

#include "base/checked.h"

static double log_softmax(const float *logits, int64_t vocab, int32_t id, bool *likeliest)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < vocab; i++)
        largest = fmax(largest, (double)logits[i]);
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - largest);
    *likeliest = (double)logits[id] == largest;
    return (double)logits[id] - largest - log(sum);
}

/* Every third place thrice, each time with another id, in no order: more targets than tokens. */
enum { ROWS = 3, LENGTH = 5, TARGETS = 40 };

static void list_targets(int64_t vocab, int32_t *places, int32_t *ids)
{
    for (int i = 0; i < TARGETS; i++) {
        places[i] = (int32_t)lt_random_below(9, 1, (uint64_t)i, ROWS * LENGTH);
        ids[i] = (int32_t)lt_random_below(9, 2, (uint64_t)i, (uint64_t)vocab);
    }
}

static void check_scores(const lt_model *model, const char *what)
{
    int64_t vocab = model->config.vocab_size;
    int32_t places[TARGETS], ids[TARGETS];
    double scores[TARGETS];
    uint8_t likeliest[TARGETS];
    test_batch b = random_batch(ROWS, LENGTH, vocab, 3);
    float *logits = calloc((size_t)(ROWS * LENGTH * vocab), sizeof *logits);
    /* room for the targets, which are more than the batch's tokens */
    lt_workspace *w = new_workspace(model, &(lt_workspace_settings){.rows = 4, .length = 10});
    split_rows(&b, 2);
    list_targets(vocab, places, ids);
    OK(lt_model_logits(model, w, &b.batch, logits, err));
    for (int i = 0; i < 6; i++) { /* some that are the likeliest */
        const float *row = logits + places[i] * vocab;
        for (int32_t id = 0; id < vocab; id++)
            if (row[id] > row[ids[i]]) ids[i] = id;
    }
    b.batch.targets = NULL;
    OK(lt_model_score(model, w, &b.batch, &(lt_targets){places, ids, TARGETS}, scores, likeliest,
                      err));
    for (int i = 0; i < TARGETS; i++) {
        bool is_likeliest;
        double expected = log_softmax(logits + places[i] * vocab, vocab, ids[i], &is_likeliest);
        if (fabs(scores[i] - expected) > 2e-5 * (1 + fabs(expected)) ||
            likeliest[i] != is_likeliest)
            fail_msg("%s, target %d: %g instead of %g", what, i, scores[i], expected);
    }
    lt_workspace_free(w);
    free(logits);
    free_batch(&b);
}

static void test_models(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        lt_model *model = load_golden(golden_names[i], NULL, backend);
        check_scores(model, golden_names[i]);
        lt_model_free(model);
    }
    lt_backend_free(backend);
}

static void test_adapters(void **state)
{
    (void)state;
    static const char *const cases[] = {"lora", "saved lm_head", "prefix", "prompt", "p-tuning"};
    lt_backend *backend = make_backend(NULL);
    for (int i = 0; i < 5; i++) {
        lt_model *model = load_golden("llama", NULL, backend);
        random_adapter(model, case_named(cases[i]), "tried", 2);
        check_scores(model, cases[i]);
        lt_model_free(model);
    }
    lt_backend_free(backend);
}

/* --- Documents that share their beginning ----------------------------------------------------- */

/* Equal and unequal shares side by side, none at all, and nothing behind it. */
enum { SHARED_ROWS = 5, SHARED_LENGTH = 14, START = 9 };
static const int32_t shares[SHARED_ROWS] = {6, 6, 0, 14, 3};

/* Logits of columns [from, to), whose document goes on from the row's first `shared` tokens, by a
 * row of their own. */
static void compare_alone(const lt_model *model, const test_batch *b, const float *logits,
                          int64_t row, int64_t from, int64_t to, const char *what)
{
    int64_t shared = shares[row], vocab = model->config.vocab_size, length = shared + to - from;
    const int32_t *ids = b->ids + row * SHARED_LENGTH;
    if (from > to) return;
    test_batch alone = new_batch(1, length);
    memcpy(alone.ids, ids, (size_t)shared * sizeof *ids);
    memcpy(alone.ids + shared, ids + from, (size_t)(to - from) * sizeof *ids);
    float *expected = logits_of(model, &alone.batch);
    double first = 0, behind, largest = 0;
    for (int64_t i = 0; i < length * vocab; i++)
        largest = fmax(largest, fabs((double)expected[i]));
    first = largest_difference(expected, logits + row * SHARED_LENGTH * vocab, shared * vocab);
    behind = largest_difference(expected + shared * vocab,
                                logits + (row * SHARED_LENGTH + from) * vocab, (to - from) * vocab);
    if (!(fmax(first, behind) <= 1e-5 * largest))
        fail_msg("%s, row %d, columns %d to %d: off by %g, and %g in what is shared", what,
                 (int)row, (int)from, (int)to, behind, first);
    free(expected);
    free_batch(&alone);
}

static void check_shared(const lt_model *model, const char *what)
{
    test_batch b = random_batch(SHARED_ROWS, SHARED_LENGTH, model->config.vocab_size, 8);
    share_rows(&b, shares, START);
    float *logits = logits_of(model, &b.batch);
    for (int64_t row = 0; row < SHARED_ROWS; row++) {
        compare_alone(model, &b, logits, row, shares[row], START, what);
        compare_alone(model, &b, logits, row, lt_max_i64(START, shares[row]), SHARED_LENGTH, what);
    }
    free(logits);
    free_batch(&b);
}

static void test_shared_beginnings(void **state)
{
    (void)state;
    static const char *const isas[] = {NULL, "ref", "double"};
    for (int k = 0; k < 3; k++) {
        lt_backend *backend = make_backend(isas[k]);
        for (int i = 0; i < GOLDEN_COUNT; i++) {
            if (k > 0 && strcmp(golden_names[i], "mistral") != 0) continue;
            lt_model *model = load_golden(golden_names[i], NULL, backend);
            check_shared(model, golden_names[i]);
            lt_model_free(model);
        }
        lt_backend_free(backend);
    }
}

static void test_shared_with_adapters(void **state)
{
    (void)state;
    static const char *const bases[] = {"gpt2", "mistral"};
    lt_backend *backend = make_backend(NULL);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < ADAPTER_CASES; i++) {
            char what[64];
            if (k > 0 && !has_virtual_tokens(&adapter_cases[i])) continue;
            lt_model *model = load_golden(bases[k], NULL, backend);
            random_adapter(model, &adapter_cases[i], "tried", 2);
            snprintf(what, sizeof what, "%s, %s", bases[k], adapter_cases[i].name);
            check_shared(model, what);
            lt_model_free(model);
        }
    lt_backend_free(backend);
}

static void test_shared_refusals(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_golden("gpt2", NULL, backend);
    test_batch b = random_batch(1, 4, model->config.vocab_size, 3);
    lt_workspace *w =
        new_workspace(model, &(lt_workspace_settings){.rows = 1, .length = 4, .training = true});
    static const struct {
        int32_t shared, first_key;
        const char *part;
    } cases[] = {{-1, 0, "share -1"}, {5, 0, "share 5"}, {2, 1, "first key 1"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_err err = {0};
        lt_loss loss = {0};
        share_rows(&b, &cases[i].shared, 4);
        b.first_key[3] = cases[i].first_key;
        assert_int_equal(lt_model_evaluate(model, w, &b.batch, &loss, NULL, &err), LT_ERR_USAGE);
        if (!strstr(err.message, cases[i].part)) fail_msg("%s", err.message);
    }
    OK(lt_model_allocate_gradients(model, err));
    lt_err err = {0};
    share_rows(&b, (const int32_t[]){2}, 4);
    assert_int_equal(
        lt_model_forward_backward(model, w, &b.batch, (lt_dropout_mask){0}, false, NULL, &err),
        LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "share their beginning"));
    lt_workspace_free(w);
    free_batch(&b);
    lt_model_free(model);
    lt_backend_free(backend);
}

static void test_refusals(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_golden("gpt2", NULL, backend);
    test_batch b = random_batch(1, 3, model->config.vocab_size, 3);
    lt_workspace *w = new_workspace(model, &(lt_workspace_settings){.rows = 1, .length = 4});
    static const struct {
        int32_t place, id;
        int64_t count;
        lt_status status;
        const char *part;
    } cases[] = {{3, 0, 1, LT_ERR_USAGE, "place 3"},
                 {-1, 0, 1, LT_ERR_USAGE, "place -1"},
                 {0, 53, 1, LT_ERR_USAGE, "vocabulary of 53"},
                 {0, -1, 1, LT_ERR_USAGE, "token id -1"},
                 {0, 0, 5, LT_ERR_LIMIT, "5 targets"},
                 {0, 0, 4, LT_OK, ""},
                 {0, 0, 0, LT_OK, ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_err err = {0};
        int32_t places[5], ids[5];
        double scores[5];
        uint8_t likeliest[5];
        for (int k = 0; k < 5; k++) {
            places[k] = cases[i].place;
            ids[k] = cases[i].id;
        }
        const lt_targets targets = {places, ids, cases[i].count};
        assert_int_equal(lt_model_score(model, w, &b.batch, &targets, scores, likeliest, &err),
                         cases[i].status);
        if (!strstr(err.message, cases[i].part)) fail_msg("%s", err.message);
    }
    lt_workspace_free(w);
    free_batch(&b);
    lt_model_free(model);
    lt_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models),
                                       cmocka_unit_test(test_adapters),
                                       cmocka_unit_test(test_shared_beginnings),
                                       cmocka_unit_test(test_shared_with_adapters),
                                       cmocka_unit_test(test_shared_refusals),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
