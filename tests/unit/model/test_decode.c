/* Decoding with a cache gives what a full forward gives, however the ids are fed; generation gives
 * what decoding one at a time gives. With real assets: a trained model's known greedy answer. */
#include <jansson.h>

#include "golden.h"

enum { ROWS = 3, LENGTH = 16 };

static void compare(const char *what, const float *expected, const float *actual, int64_t vocab)
{
    double largest = 0;
    for (int64_t i = 0; i < vocab; i++)
        largest = fmax(largest, fabs((double)expected[i]));
    for (int64_t i = 0; i < vocab; i++)
        if (!(fabs((double)expected[i] - actual[i]) <= 1e-5 * largest))
            fail_msg("%s: logit %lld is %.8g with the cache, %.8g without", what, (long long)i,
                     (double)actual[i], (double)expected[i]);
}

/* Feeds the rows by the plan [steps][ROWS] of counts and compares after each step. */
static void check_plan(const char *name, const char *isa, const int64_t plan[][ROWS], int steps)
{
    lt_backend *backend = make_backend(isa);
    lt_model *model = load_golden(name, NULL, backend);
    int64_t vocab = model->config.vocab_size, fed[ROWS] = {0};
    test_batch b = random_batch(ROWS, LENGTH, vocab, 31);
    float *full = logits_of(model, &b.batch),
          *logits = calloc((size_t)(ROWS * vocab), sizeof *logits);
    lt_kv_cache *cache = NULL;
    int32_t ids[ROWS * LENGTH];
    lt_workspace *w =
        new_workspace(model, &(lt_workspace_settings){.rows = ROWS, .length = LENGTH});
    OK(lt_kv_cache_create(model, ROWS, LENGTH, &cache, err));
    for (int s = 0; s < steps; s++) {
        memset(ids, 0x7f, sizeof ids); /* padding that must not be looked at */
        for (int64_t r = 0; r < ROWS; r++)
            memcpy(ids + r * LENGTH, b.ids + r * LENGTH + fed[r], (size_t)plan[s][r] * 4);
        OK(lt_model_decode(model, w, cache, ids, plan[s], LENGTH, logits, err));
        for (int64_t r = 0; r < ROWS; r++) {
            fed[r] += plan[s][r];
            assert_int_equal(lt_kv_cache_length(cache, r), fed[r]);
            if (fed[r] > 0)
                compare(name, full + (r * LENGTH + fed[r] - 1) * vocab, logits + r * vocab, vocab);
        }
    }
    lt_kv_cache_free(cache);
    lt_workspace_free(w);
    free(full);
    free(logits);
    free_batch(&b);
    lt_model_free(model);
    lt_backend_free(backend);
}

static void test_cached_equals_full(void **state)
{
    (void)state;
    const int64_t single[][ROWS] = {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1},
                                    {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}};
    const int64_t chunked[][ROWS] = {{5, 5, 5}, {6, 6, 6}, {5, 5, 5}};
    const int64_t ragged[][ROWS] = {{1, 9, 3}, {1, 0, 3}, {7, 1, 1}, {0, 0, 0},
                                    {1, 1, 1}, {0, 1, 0}, {6, 4, 8}};
    const char *isas[] = {NULL, "ref", "double"};
    for (int m = 0; m < GOLDEN_COUNT; m++)
        for (int i = 0; i < 3; i++) {
            check_plan(golden_names[m], isas[i], single, 8);
            check_plan(golden_names[m], isas[i], chunked, 3);
            check_plan(golden_names[m], isas[i], ragged, 7);
        }
}

/* A shortened row forgets, and goes on as if it had never read more. */
static void test_truncate(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_golden("mistral", NULL, backend);
    int64_t vocab = model->config.vocab_size;
    test_batch a = random_batch(1, 10, vocab, 1), b = random_batch(1, 10, vocab, 2);
    float *logits = malloc((size_t)vocab * sizeof *logits);
    memcpy(b.ids, a.ids, 4 * 4); /* the same first four */
    float *full = logits_of(model, &b.batch);
    lt_kv_cache *cache = NULL;
    lt_workspace *w = new_workspace(model, &(lt_workspace_settings){.rows = 1, .length = 10});
    OK(lt_kv_cache_create(model, 1, 10, &cache, err));
    OK(lt_model_decode(model, w, cache, a.ids, (int64_t[]){10}, 10, logits, err));
    lt_kv_cache_truncate(cache, 0, 4);
    OK(lt_model_decode(model, w, cache, b.ids + 4, (int64_t[]){6}, 6, logits, err));
    compare("mistral", full + 9 * vocab, logits, vocab);
    lt_kv_cache_free(cache);
    lt_workspace_free(w);
    free(logits);
    free(full);
    free_batch(&a);
    free_batch(&b);
    lt_model_free(model);
    lt_backend_free(backend);
}

static void test_decode_refusals(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_golden("gpt2", NULL, backend);
    lt_kv_cache *cache = NULL;
    lt_err err;
    int32_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    float *logits = malloc((size_t)model->config.vocab_size * 2 * sizeof *logits);
    lt_workspace *w = new_workspace(model, &(lt_workspace_settings){.rows = 2, .length = 3});
    assert_int_equal(lt_kv_cache_create(model, 1, 25, &cache, &err), LT_ERR_LIMIT);
    assert_int_equal(lt_kv_cache_create(model, 0, 2, &cache, &err), LT_ERR_LIMIT);
    OK(lt_kv_cache_create(model, 2, 4, &cache, err));
#define DECODE(length, a, b) \
    lt_model_decode(model, w, cache, ids, (int64_t[]){(a), (b)}, (length), logits, &err)
    assert_int_equal(DECODE(4, 5, 0), LT_ERR_USAGE);
    assert_int_equal(DECODE(4, -1, 0), LT_ERR_USAGE);
    assert_int_equal(DECODE(4, 4, 4), LT_ERR_LIMIT); /* the workspace */
    assert_int_equal(DECODE(3, 3, 3), LT_OK);
    assert_int_equal(DECODE(2, 2, 1), LT_ERR_LIMIT); /* the cache */
    assert_int_equal(lt_kv_cache_length(cache, 1), 3);
    ids[0] = 53;
    assert_int_equal(DECODE(1, 1, 0), LT_ERR_USAGE);
    lt_kv_cache_free(cache);
    lt_workspace_free(w);
    free(logits);
    lt_model_free(model);
    lt_backend_free(backend);
}

/* --- Generation ------------------------------------------------------------------------------ */

enum { PROMPTS = 7, MOST = 32 };

typedef struct answers {
    int32_t ids[PROMPTS][MOST];
    int64_t counts[PROMPTS];
    bool stopped[PROMPTS];
    int64_t end_after; /* the callback ends an answer of this many ids; 0: never */
} answers;

static bool collect(void *context, int64_t sequence, int32_t id, bool is_stop)
{
    answers *a = context;
    assert_true(sequence >= 0 && sequence < PROMPTS && a->counts[sequence] < MOST);
    assert_false(a->stopped[sequence]);
    a->ids[sequence][a->counts[sequence]++] = id;
    a->stopped[sequence] = is_stop;
    return a->end_after == 0 || a->counts[sequence] < a->end_after;
}

static void make_prompts(lt_ids prompts[PROMPTS], int64_t vocab)
{
    for (int p = 0; p < PROMPTS; p++)
        for (int i = 0; i < 1 + p * 3 % 11; i++)
            OK(lt_ids_push(&prompts[p],
                           (int32_t)lt_random_below(4, (uint64_t)p, (uint64_t)i, (uint64_t)vocab),
                           err));
}

static int32_t choose(const lt_backend *backend, float *logits, int64_t vocab,
                      const lt_sampling *sampling, int32_t *history, int64_t count,
                      int64_t sequence)
{
    int32_t id = -1, count32 = (int32_t)count, sequence32 = (int32_t)sequence;
    lt_sample_tokens_args args = {.logits = lt_tensor_2d(logits, LT_F32, 1, vocab),
                                  .history = lt_tensor_2d(history, LT_I32, 1, count),
                                  .history_count = lt_tensor_1d(&count32, LT_I32, 1),
                                  .sequence = lt_tensor_1d(&sequence32, LT_I32, 1),
                                  .ids = lt_tensor_1d(&id, LT_I32, 1),
                                  .sampling = *sampling};
    OK(lt_sample_tokens(backend, &args, err));
    return id;
}

/* The answer of one prompt by full forwards only. */
static void slow_answer(const lt_model *model, const lt_ids *prompt, const lt_sampling *sampling,
                        uint64_t sequence, int64_t count, int32_t *out)
{
    int64_t length = (int64_t)prompt->count, vocab = model->config.vocab_size;
    test_batch b = new_batch(1, length + count);
    memcpy(b.ids, prompt->data, prompt->count * 4);
    for (int64_t i = 0; i < count; i++, length++) {
        b.batch.length = length;
        float *logits = logits_of(model, &b.batch);
        out[i] = choose(model->backend, logits + (length - 1) * vocab, vocab, sampling, b.ids,
                        length, (int64_t)sequence);
        b.ids[length] = out[i];
        free(logits);
    }
    free_batch(&b);
}

static void check_generation(const char *name, lt_sampling sampling)
{
    lt_backend *backend = make_backend("double"); /* so that batching can not tip a choice */
    lt_model *model = load_golden(name, NULL, backend);
    lt_ids prompts[PROMPTS] = {{0}};
    int32_t slow[MOST];
    make_prompts(prompts, model->config.vocab_size);
    for (int64_t rows = 1; rows <= PROMPTS; rows += 3) {
        answers a = {0};
        lt_generate_settings settings = {
            .max_new_tokens = 6, .sampling = sampling, .max_rows = rows};
        OK(lt_model_generate(model, prompts, PROMPTS, &settings, collect, &a, err));
        for (int p = 0; p < PROMPTS; p++) {
            assert_int_equal(a.counts[p], 6);
            slow_answer(model, &prompts[p], &sampling, (uint64_t)p, 6, slow);
            assert_memory_equal(a.ids[p], slow, 6 * sizeof *slow);
        }
    }
    for (int p = 0; p < PROMPTS; p++)
        lt_ids_free(&prompts[p]);
    lt_model_free(model);
    lt_backend_free(backend);
}

static void test_generation(void **state)
{
    (void)state;
    check_generation("gpt2", (lt_sampling){0});
    check_generation("llama", (lt_sampling){.temperature = 1, .top_k = 20, .seed = 3});
    check_generation("mistral", (lt_sampling){.temperature = 2, .top_p = 0.9, .seed = 4});
    check_generation("qwen3_sharded", (lt_sampling){.repetition_penalty = 1.3, .min_p = 0.1});
}

static void test_generation_ends(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_golden("gpt2", NULL, backend);
    lt_ids prompts[PROMPTS] = {{0}};
    answers open = {0}, stopped = {0}, ended = {.end_after = 2};
    lt_generate_settings s = {.max_new_tokens = 100, .max_rows = 3};
    make_prompts(prompts, model->config.vocab_size);
    /* to the end of the model's 24 positions */
    OK(lt_model_generate(model, prompts, PROMPTS, &s, collect, &open, err));
    for (int p = 0; p < PROMPTS; p++) {
        assert_int_equal(open.counts[p] + (int64_t)prompts[p].count, 24);
        assert_false(open.stopped[p]);
    }
    /* a stop id ends an answer where the open one first has it */
    s.stop_ids = &open.ids[2][3];
    s.stop_id_count = 1;
    OK(lt_model_generate(model, prompts, PROMPTS, &s, collect, &stopped, err));
    for (int p = 0; p < PROMPTS; p++) {
        int64_t n = 0;
        while (n < open.counts[p] && open.ids[p][n] != s.stop_ids[0])
            n++;
        assert_int_equal(stopped.counts[p], n < open.counts[p] ? n + 1 : n);
        assert_int_equal(stopped.stopped[p], n < open.counts[p]);
        assert_memory_equal(stopped.ids[p], open.ids[p], (size_t)stopped.counts[p] * 4);
    }
    s.stop_id_count = 0;
    OK(lt_model_generate(model, prompts, PROMPTS, &s, collect, &ended, err));
    for (int p = 0; p < PROMPTS; p++)
        assert_int_equal(ended.counts[p], 2);
    lt_err err;
    lt_ids none = {0};
    assert_int_equal(lt_model_generate(model, &none, 1, &s, collect, &ended, &err), LT_ERR_USAGE);
    while (prompts[1].count < 24)
        OK(lt_ids_push(&prompts[1], 1, err));
    assert_int_equal(lt_model_generate(model, prompts, 2, &s, collect, &ended, &err), LT_ERR_LIMIT);
    assert_non_null(strstr(err.message, "prompt 2"));
    for (int p = 0; p < PROMPTS; p++)
        lt_ids_free(&prompts[p]);
    lt_model_free(model);
    lt_backend_free(backend);
}

/* --- A trained model ------------------------------------------------------------------------- */

static bool append(void *context, int64_t sequence, int32_t id, bool is_stop)
{
    lt_ids *ids = context;
    (void)sequence;
    (void)is_stop;
    OK(lt_ids_push(ids, id, err));
    return true;
}

static void check_first_logits(const lt_model *model, const lt_ids *ids, int64_t position,
                               const json_t *expected)
{
    test_batch b = new_batch(1, position + 1);
    memcpy(b.ids, ids->data, (size_t)(position + 1) * 4);
    float *logits = logits_of(model, &b.batch);
    for (size_t i = 0; i < json_array_size(expected); i++) {
        double want = json_real_value(json_array_get(expected, i));
        assert_true(fabs((double)logits[position * model->config.vocab_size + (int64_t)i] - want) <=
                    2e-4);
    }
    free(logits);
    free_batch(&b);
}

static void test_stories(void **state)
{
    (void)state;
    const char *assets = getenv("LATHE_TEST_ASSETS");
    char path[1024];
    if (!assets) {
        printf("LATHE_TEST_ASSETS is not set: the trained model is not tried\n");
        skip();
    }
    snprintf(path, sizeof path, "%s/models/stories260K/expected_greedy.json", assets);
    json_t *expected = json_load_file(path, 0, NULL);
    assert_non_null(expected);
    json_t *prompt = json_object_get(expected, "prompt_ids");
    json_t *greedy = json_object_get(expected, "greedy_new_ids");
    lt_ids all = {0}, start = {0};
    for (size_t i = 0; i < json_array_size(prompt); i++)
        OK(lt_ids_push(&start, (int32_t)json_integer_value(json_array_get(prompt, i)), err));
    OK(lt_ids_append(&all, start.data, start.count, err));
    lt_backend *backend = make_backend(NULL);
    lt_model *model = NULL;
    snprintf(path, sizeof path, "%s/models/stories260K", assets);
    OK(lt_model_load(path, backend, &model, err));
    lt_generate_settings s = {.max_new_tokens = (int64_t)json_array_size(greedy), .max_rows = 1};
    OK(lt_model_generate(model, &start, 1, &s, append, &all, err));
    assert_int_equal(all.count, start.count + json_array_size(greedy));
    for (size_t i = 0; i < json_array_size(greedy); i++)
        assert_int_equal(all.data[start.count + i], json_integer_value(json_array_get(greedy, i)));
    check_first_logits(model, &all, 0, json_object_get(expected, "logits_pos0_first16"));
    check_first_logits(model, &all, 199, json_object_get(expected, "logits_pos199_first16"));
    json_decref(expected);
    lt_ids_free(&all);
    lt_ids_free(&start);
    lt_model_free(model);
    lt_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cached_equals_full), cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_decode_refusals),    cmocka_unit_test(test_generation),
        cmocka_unit_test(test_generation_ends),    cmocka_unit_test(test_stories)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
