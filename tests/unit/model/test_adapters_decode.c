/* Decoding with adapters: a cache gives what a full forward gives, whatever the neighbouring rows
 * use; an answer does not depend on what it was batched with. */
#include "adapters.h"

enum { LENGTH = 14, MOST_ROWS = 9, STEPS = 6 };

/* Feeds of STEPS steps: what row r takes is plan[step][r % 3]; 14 ids in all. */
static const int64_t plans[][STEPS][3] = {
    {{1, 9, 3}, {1, 0, 3}, {7, 1, 1}, {0, 0, 0}, {1, 1, 1}, {4, 3, 6}},
    {{5, 5, 5}, {5, 5, 5}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}},
    {{2, 2, 2}, {1, 1, 1}, {1, 1, 1}, {0, 4, 0}, {9, 1, 9}, {1, 5, 1}},
};
enum { PLANS = sizeof plans / sizeof *plans };

static void compare(const char *what, int64_t row, const float *expected, const float *actual,
                    int64_t vocab)
{
    double largest = 0, off = largest_difference(expected, actual, vocab);
    for (int64_t i = 0; i < vocab; i++)
        largest = fmax(largest, fabs((double)expected[i]));
    if (!(off <= 1e-5 * largest))
        fail_msg("%s, row %lld: a logit is off by %g with the cache, the largest is %g", what,
                 (long long)row, off, largest);
}

/* Logits of one row by a full forward with `adapter`: [LENGTH, vocab]. */
static float *full_logits(lt_model *model, const test_batch *b, int64_t row,
                          const lt_adapter *adapter)
{
    int64_t at = row * LENGTH;
    lt_batch one = {.rows = 1,
                    .length = LENGTH,
                    .input_ids = b->ids + at,
                    .positions = b->positions + at,
                    .first_key = b->first_key + at};
    const lt_adapter *active = model->active;
    model->active = adapter;
    float *logits = logits_of(model, &one);
    model->active = active;
    return logits;
}

typedef struct feeding {
    const char *what;
    lt_model *model;
    int64_t rows;
    const lt_adapter *adapters[MOST_ROWS];
    test_batch batch;
    float *full[MOST_ROWS];
    lt_workspace *workspace;
    lt_kv_cache *cache;
} feeding;

/* Every row starts anew, is fed by the plan and compared after each step. */
static void feed(feeding *f, const int64_t plan[STEPS][3])
{
    int64_t vocab = f->model->config.vocab_size, fed[MOST_ROWS] = {0}, counts[MOST_ROWS];
    int32_t ids[MOST_ROWS * LENGTH];
    float *logits = calloc((size_t)(f->rows * vocab), sizeof *logits);
    for (int64_t r = 0; r < f->rows; r++)
        OK(lt_kv_cache_start(f->cache, r, f->adapters[r], err));
    for (int s = 0; s < STEPS; s++) {
        memset(ids, 0x7f, sizeof ids); /* padding that must not be looked at */
        for (int64_t r = 0; r < f->rows; r++) {
            counts[r] = plan[s][r % 3];
            memcpy(ids + r * LENGTH, f->batch.ids + r * LENGTH + fed[r], (size_t)counts[r] * 4);
        }
        OK(lt_model_decode(f->model, f->workspace, f->cache, ids, counts, LENGTH, logits, err));
        for (int64_t r = 0; r < f->rows; r++) {
            fed[r] += counts[r];
            assert_int_equal(lt_kv_cache_length(f->cache, r),
                             fed[r] + lt_adapter_virtual_tokens(f->adapters[r]));
            if (fed[r] > 0)
                compare(f->what, r, f->full[r] + (fed[r] - 1) * vocab, logits + r * vocab, vocab);
        }
    }
    free(logits);
}

/* By every plan, one after the other in the same cache. */
static void check_feeding(feeding *f)
{
    int64_t capacity = LENGTH;
    f->batch = random_batch(f->rows, LENGTH, f->model->config.vocab_size, 31);
    for (int64_t r = 0; r < f->rows; r++) {
        int64_t count = lt_adapter_virtual_tokens(f->adapters[r]);
        capacity = capacity < LENGTH + count ? LENGTH + count : capacity;
        f->full[r] = full_logits(f->model, &f->batch, r, f->adapters[r]);
    }
    f->workspace = new_workspace(
        f->model, &(lt_workspace_settings){.rows = f->rows, .length = LENGTH, .head_chunk = 2});
    OK(lt_kv_cache_create(f->model, f->rows, capacity, &f->cache, err));
    for (int p = 0; p < PLANS; p++)
        feed(f, plans[p]);
    lt_kv_cache_free(f->cache);
    lt_workspace_free(f->workspace);
    for (int64_t r = 0; r < f->rows; r++)
        free(f->full[r]);
    free_batch(&f->batch);
}

/* --- One adapter ------------------------------------------------------------------------------ */

static void check_cached(const char *base, const adapter_case *c, const lt_backend *backend)
{
    char what[128];
    snprintf(what, sizeof what, "%s, %s, %s", base, c->name, backend->name);
    feeding f = {.what = what, .model = load_golden(base, NULL, backend), .rows = 3};
    const lt_adapter *adapter = random_adapter(f.model, c, "used", 6);
    for (int64_t r = 0; r < f.rows; r++)
        f.adapters[r] = adapter;
    check_feeding(&f);
    lt_model_free(f.model);
}

static void test_cached_equals_full(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", NULL, "double"};
    for (int k = 0; k < 3; k++) {
        lt_backend *backend = make_backend(isas[k]);
        for (int m = 0; m < ADAPTER_BASES; m++)
            for (int i = 0; i < ADAPTER_CASES; i++)
                check_cached(adapter_bases[m], &adapter_cases[i], backend);
        lt_backend_free(backend);
    }
}

/* In training, rows change between answers: DoRA's lengths and a prompt's network follow. */
static void test_while_training(void **state)
{
    (void)state;
    static const char *const cases[] = {"dora", "dora, some", "prefix, projection", "p-tuning"};
    lt_backend *backend = make_backend(NULL);
    for (int i = 0; i < 4; i++) {
        lt_model *model = load_golden("llama", NULL, backend);
        const lt_adapter *adapter = random_adapter(model, case_named(cases[i]), "trained", 6);
        int64_t vocab = model->config.vocab_size;
        test_batch b = random_batch(1, LENGTH, vocab, 31);
        float *logits = calloc((size_t)vocab, sizeof *logits);
        lt_workspace *w =
            new_workspace(model, &(lt_workspace_settings){.rows = 1, .length = LENGTH});
        for (int step = 0; step < 2; step++) {
            lt_kv_cache *cache = NULL;
            const lt_param *row = &model->params[adapter->first_param];
            for (int64_t k = 0; k < lt_tensor_count(row->weight); k++)
                set_element(row->weight, k, 2 * element(row->weight, k));
            OK(lt_kv_cache_create(model, 1, LENGTH + VIRTUAL, &cache, err));
            OK(lt_kv_cache_start(cache, 0, adapter, err));
            OK(lt_model_decode(model, w, cache, b.ids, (int64_t[]){LENGTH}, LENGTH, logits, err));
            float *full = logits_of(model, &b.batch);
            compare(cases[i], 0, full + (LENGTH - 1) * vocab, logits, vocab);
            free(full);
            lt_kv_cache_free(cache);
        }
        lt_workspace_free(w);
        free(logits);
        free_batch(&b);
        lt_model_free(model);
    }
    lt_backend_free(backend);
}

/* --- Mixed ------------------------------------------------------------------------------------ */

static const char *const mixed_cases[] = {"lora",   "dora, some", "prefix, projection",
                                          "prompt", "p-tuning",   "saved both",
                                          "prefix", "lora"};
enum { MIXED = sizeof mixed_cases / sizeof *mixed_cases };

/* All of mixed_cases; NULL is the last. */
static void add_mixed(lt_model *model, const lt_adapter *out[MIXED + 1])
{
    for (int i = 0; i < MIXED; i++) {
        char name[16];
        snprintf(name, sizeof name, "adapter %d", i);
        out[i] = random_adapter(model, case_named(mixed_cases[i]), name, (uint64_t)i + 40);
    }
    out[MIXED] = NULL;
}

/* Which adapter (MIXED: none) prompt or row i uses: apart, in pairs, all the same but one, turns.
 */
static const int orders[][MOST_ROWS] = {{0, 1, 2, 3, 4, 5, 6, 7, 8},
                                        {8, 0, 7, 0, 7, 0, 8, 8, 7},
                                        {2, 2, 3, 3, 2, 8, 1, 1, 2},
                                        {5, 8, 5, 8, 4, 4, 5, 1, 0}};
enum { ORDERS = sizeof orders / sizeof *orders };

static void check_mixed(const char *base, const lt_backend *backend)
{
    const lt_adapter *adapters[MIXED + 1];
    feeding f = {.what = base, .model = load_golden(base, NULL, backend), .rows = MOST_ROWS};
    add_mixed(f.model, adapters);
    for (int o = 0; o < ORDERS; o++) {
        for (int64_t r = 0; r < f.rows; r++)
            f.adapters[r] = adapters[orders[o][r]];
        check_feeding(&f);
    }
    lt_model_free(f.model);
}

static void test_mixed_rows(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", NULL};
    for (int k = 0; k < 2; k++) {
        lt_backend *backend = make_backend(isas[k]);
        for (int m = 0; m < ADAPTER_BASES; m++)
            check_mixed(adapter_bases[m], backend);
        lt_backend_free(backend);
    }
}

/* --- Generation ------------------------------------------------------------------------------- */

enum { PROMPTS = MOST_ROWS, NEW = 6 };

typedef struct answers {
    int32_t ids[PROMPTS][NEW];
    int64_t counts[PROMPTS];
} answers;

static bool collect(void *context, int64_t sequence, int32_t id, bool is_stop)
{
    answers *a = context;
    (void)is_stop;
    assert_true(sequence >= 0 && sequence < PROMPTS && a->counts[sequence] < NEW);
    a->ids[sequence][a->counts[sequence]++] = id;
    return true;
}

static void make_prompts(lt_ids prompts[PROMPTS], int64_t vocab)
{
    for (int p = 0; p < PROMPTS; p++)
        for (int i = 0; i < 1 + p * 3 % 11; i++)
            OK(lt_ids_push(&prompts[p],
                           (int32_t)lt_random_below(4, (uint64_t)p, (uint64_t)i, (uint64_t)vocab),
                           err));
}

/* Answers of prompts with their adapters do not depend on the batch; greedy, in double, so that
 * rounding can not tip a choice. */
static void check_generation(const char *base, const int order[PROMPTS])
{
    lt_backend *backend = make_backend("double");
    lt_model *model = load_golden(base, NULL, backend);
    const lt_adapter *adapters[MIXED + 1], *used[PROMPTS];
    lt_ids prompts[PROMPTS] = {{0}};
    answers alone = {0};
    lt_generate_settings s = {.max_new_tokens = NEW, .max_rows = 1};
    add_mixed(model, adapters);
    make_prompts(prompts, model->config.vocab_size);
    for (int p = 0; p < PROMPTS; p++) {
        answers one = {0};
        used[p] = adapters[order[p]];
        s.adapters = &used[p];
        OK(lt_model_generate(model, &prompts[p], 1, &s, collect, &one, err));
        memcpy(alone.ids[p], one.ids[0], sizeof one.ids[0]);
        assert_int_equal(one.counts[0], NEW);
    }
    s.adapters = used;
    for (s.max_rows = 2; s.max_rows <= PROMPTS; s.max_rows += 2) {
        answers together = {0};
        OK(lt_model_generate(model, prompts, PROMPTS, &s, collect, &together, err));
        for (int p = 0; p < PROMPTS; p++)
            if (memcmp(alone.ids[p], together.ids[p], sizeof alone.ids[p]) != 0)
                fail_msg("%s: prompt %d with %lld rows side by side gets another answer", base, p,
                         (long long)s.max_rows);
    }
    for (int p = 0; p < PROMPTS; p++)
        lt_ids_free(&prompts[p]);
    lt_model_free(model);
    lt_backend_free(backend);
}

static void test_generation(void **state)
{
    (void)state;
    for (int m = 0; m < ADAPTER_BASES; m++)
        for (int o = 0; o < ORDERS; o++)
            check_generation(adapter_bases[m], orders[o]);
}

/* Virtual tokens take positions from the answer. */
static void test_generation_ends(void **state)
{
    (void)state;
    static const char *const cases[] = {"prefix", "prompt", "lora"};
    lt_backend *backend = make_backend(NULL);
    for (int i = 0; i < 3; i++) {
        lt_model *model = load_golden("gpt2", NULL, backend);
        const lt_adapter *adapter = random_adapter(model, case_named(cases[i]), "used", 6);
        int64_t room = model->config.max_position_embeddings - lt_adapter_virtual_tokens(adapter);
        answers a = {0};
        lt_err err = {0};
        lt_ids prompt = {0};
        lt_generate_settings s = {.max_new_tokens = 100, .adapters = &adapter};
        while ((int64_t)prompt.count < room - 5)
            OK(lt_ids_push(&prompt, 1, err));
        OK(lt_model_generate(model, &prompt, 1, &s, collect, &a, err));
        assert_int_equal(a.counts[0], 5);
        while ((int64_t)prompt.count < room)
            OK(lt_ids_push(&prompt, 1, err));
        assert_int_equal(lt_model_generate(model, &prompt, 1, &s, collect, &a, &err), LT_ERR_LIMIT);
        bool behind = strstr(err.message, "behind the adapter's virtual tokens") != NULL;
        assert_int_equal(behind, i < 2);
        lt_ids_free(&prompt);
        lt_model_free(model);
    }
    lt_backend_free(backend);
}

/* --- What does not fit ------------------------------------------------------------------------ */

/* Adapters that came after a cache or a workspace have no place in it. */
static void test_late_adapters(void **state)
{
    (void)state;
    lt_backend *backend = make_backend(NULL);
    lt_model *model = load_golden("gpt2", NULL, backend);
    lt_workspace *w = new_workspace(model, &(lt_workspace_settings){.rows = 1, .length = 8});
    lt_kv_cache *cache = NULL;
    lt_err err = {0};
    int32_t ids[1] = {1};
    float *logits = calloc((size_t)model->config.vocab_size, sizeof *logits);
    OK(lt_kv_cache_create(model, 1, 8, &cache, err));
    random_adapter(model, case_named("lora"), "one", 1);
    const lt_adapter *late = random_adapter(model, case_named("prefix"), "two", 1);
    assert_int_equal(lt_kv_cache_start(cache, 0, late, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "before adapter two"));
    assert_int_equal(lt_model_decode(model, w, cache, ids, (int64_t[]){1}, 1, logits, &err),
                     LT_ERR_USAGE);
    lt_kv_cache_free(cache);
    OK(lt_kv_cache_create(model, 1, VIRTUAL - 1, &cache, err));
    assert_int_equal(lt_kv_cache_start(cache, 0, late, &err), LT_ERR_LIMIT);
    lt_kv_cache_free(cache);
    lt_workspace_free(w);
    free(logits);
    lt_model_free(model);
    lt_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cached_equals_full), cmocka_unit_test(test_while_training),
        cmocka_unit_test(test_mixed_rows),         cmocka_unit_test(test_generation),
        cmocka_unit_test(test_generation_ends),    cmocka_unit_test(test_late_adapters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
