/* Sequences that begin alike: which of them share a row, and that they score as they do alone. */
#include "evaluation_fixture.h"

#include <signal.h>

#include "base/checked.h"
#include "base/rng.h"
#include "train/evaluation/scorer_internal.h"

/* --- Which share a row ------------------------------------------------------------------------ */

enum { MOST_ITEMS = 8, LONGEST = 24 };

typedef struct plan {
    lt_score_run run;
    lt_score_item items[MOST_ITEMS];
    int32_t tokens[MOST_ITEMS][LONGEST];
} plan;

static void make_rows(plan *p)
{
    lt_err err = {0};
    p->run.err = &err;
    p->run.items = p->items;
    if (lt_make_score_rows(&p->run) != LT_OK) fail_msg("%s", err.message);
}

static void free_rows(plan *p)
{
    free(p->run.order);
    free(p->run.sequences);
    free(p->run.rows);
}

/* As letters; the last one is predicted. */
static void add_word(plan *p, const char *letters)
{
    int64_t at = p->run.item_count++;
    int32_t *tokens = p->tokens[at];
    p->items[at] = (lt_score_item){.tokens = tokens, .count = (int64_t)strlen(letters)};
    p->items[at].scored = 1;
    for (int64_t i = 0; letters[i]; i++)
        tokens[i] = letters[i];
}

static void check_words(const char *const words[], lt_batch_limits limits,
                        const lt_score_row expected[], int64_t count)
{
    plan p = {.run.limits = limits};
    for (; *words; words++)
        add_word(&p, *words);
    make_rows(&p);
    assert_int_equal(p.run.row_count, count);
    for (int64_t i = 0; i < count; i++) {
        const lt_score_row *row = &p.run.rows[i];
        assert_int_equal(row->end - row->begin, expected[i].end);
        assert_int_equal(row->shared, expected[i].shared);
        assert_int_equal(row->length, expected[i].length);
        assert_int_equal(row->targets, expected[i].targets);
    }
    free_rows(&p);
}

static void test_words(void **state)
{
    (void)state;
    const lt_batch_limits wide = {99, 99, 99, 99}, two = {99, 99, 2, 99}, few = {99, 99, 99, 2};
    const lt_score_row together = {.end = 3, .shared = 6, .length = 10, .targets = 4};
    /* three sequences of one context; two of four endings differ in what is predicted alone */
    const char *endings[] = {"contexa.", "contexbb.", "contexa,", "contexc.", NULL};
    check_words(endings, wide, &together, 1);
    /* as a beginning that is no longer than another's whole */
    const char *beginning[] = {"context.", "context of it.", NULL};
    check_words(beginning, wide, &(lt_score_row){0, 2, 7, 13, 2}, 1);
    /* pairs share more than all of them do */
    const char *questions[] = {"few AA one.", "few BB one.", "few AA two.", "few BB two.", NULL};
    const lt_score_row pairs[] = {{0, 2, 7, 13, 2}, {0, 2, 7, 13, 2}};
    check_words(questions, wide, pairs, 2);
    /* examples in front of all questions */
    const char *examples[] = {"examples A?", "examples B?", "examples C?", "examples D?", NULL};
    check_words(examples, wide, &(lt_score_row){0, 4, 9, 13, 4}, 1);
    /* an eighth is saved, or nothing is shared */
    const char *enough[] = {"ab3456789.", "abcdefghi.", NULL},
               *less[] = {"a23456789.", "abcdefghi.", NULL};
    check_words(enough, wide, &(lt_score_row){0, 2, 2, 16, 2}, 1);
    const lt_score_row alone[] = {{0, 1, 0, 9, 1}, {0, 1, 0, 9, 1}};
    check_words(less, wide, alone, 2);
    /* limits */
    const lt_score_row halves[] = {{0, 2, 9, 11, 2}, {0, 2, 9, 11, 2}};
    check_words(examples, two, halves, 2);
    check_words(examples, few, halves, 2);
    const char *predicted[] = {"context.", "context,", "context;", NULL};
    check_words(predicted, few, (const lt_score_row[]){{0, 1, 0, 7, 2}, {0, 1, 0, 7, 1}}, 2);
    const char *longer[] = {"one context, A?", "one context, B?", "one context, C?", NULL};
    const lt_score_row parts[] = {{0, 1, 0, 14, 1}, {0, 1, 0, 14, 1}, {0, 1, 0, 14, 1}};
    check_words(longer, wide, &(lt_score_row){0, 3, 13, 16, 3}, 1);
    check_words(longer, (lt_batch_limits){14, 14, 99, 99}, parts, 3);
}

/* The tokens of sequences [begin, end) in one row; -1: they may not share it. */
static int64_t cost_of(const lt_score_run *r, int64_t begin, int64_t end)
{
    const lt_batch_limits *most = &r->limits;
    int64_t shared = INT64_MAX, whole = 0, targets = 0, count = end - begin;
    for (int64_t i = begin; i < end; i++) {
        const lt_score_sequence *s = &r->sequences[i];
        if (i > begin) shared = lt_min_i64(shared, s->common);
        whole += s->length;
        targets += s->targets;
    }
    if (count == 1) return whole;
    int64_t cost = whole - (count - 1) * shared;
    bool may = cost <= most->row_tokens && count <= most->sequences && targets <= most->targets;
    return may && shared > 0 && (count - 1) * shared >= whole / 8 ? cost : -1;
}

/* Of all ways to cut the sequences into rows. */
static int64_t least_cost(const lt_score_run *r)
{
    int64_t least = INT64_MAX, n = r->sequence_count;
    for (int64_t cuts = 0; cuts < 1 << (n - 1); cuts++) {
        int64_t total = 0, begin = 0;
        for (int64_t i = 1; i <= n && total >= 0; i++) {
            if (i < n && !(cuts >> (i - 1) & 1)) continue;
            int64_t cost = cost_of(r, begin, i);
            total = cost < 0 ? -1 : total + cost;
            begin = i;
        }
        if (total >= 0) least = lt_min_i64(least, total);
    }
    return least;
}

static const int32_t *tokens_of(const lt_score_run *r, int64_t sequence)
{
    return r->order[r->sequences[sequence].begin]->tokens;
}

/* Every sequence is in one row, whose beginning is its own; and rows cost what they say. */
static int64_t check_rows(const lt_score_run *r)
{
    int64_t total = 0, seen[MOST_ITEMS] = {0};
    for (int64_t i = 0; i < r->row_count; i++) {
        const lt_score_row *row = &r->rows[i];
        assert_int_equal(row->length, cost_of(r, row->begin, row->end));
        assert_true(i == 0 || r->rows[i - 1].length >= row->length);
        for (int64_t k = row->begin; k < row->end; k++) {
            assert_true(row->shared <= r->sequences[k].length);
            assert_memory_equal(tokens_of(r, k), tokens_of(r, row->begin), row->shared * 4);
            seen[k]++;
        }
        total += row->length;
    }
    for (int64_t k = 0; k < r->sequence_count; k++)
        assert_int_equal(seen[k], 1);
    return total;
}

/* Random texts of two letters, against every other way to share. */
static void test_least(void **state)
{
    (void)state;
    int64_t shared = 0;
    for (uint64_t round = 0; round < 300; round++) {
        plan p = {.run.limits = {.row_tokens = 8 + (int64_t)lt_random_below(1, round, 1, 60),
                                 .sequences = 1 + (int64_t)lt_random_below(1, round, 2, 8),
                                 .targets = 4 + (int64_t)lt_random_below(1, round, 3, 12)}};
        for (uint64_t i = 0; i < MOST_ITEMS; i++) {
            char word[LONGEST] = "";
            int64_t length = 2 + (int64_t)lt_random_below(2, round, i, LONGEST - 3);
            for (int64_t k = 0; k < length; k++) /* alike in the beginning, mostly */
                word[k] = "ab"[lt_random_below(3 + i, round, (uint64_t)k, 12) == 0];
            add_word(&p, word);
            p.items[i].scored = lt_min_i64(1 + (int64_t)i % 3, length - 1);
        }
        make_rows(&p);
        assert_int_equal(check_rows(&p.run), least_cost(&p.run));
        shared += p.run.row_count < p.run.sequence_count;
        free_rows(&p);
    }
    assert_true(shared > 100);
}

/* --- The same scores as alone ----------------------------------------------------------------- */

enum { REQUESTS = 26, MOST_TOKENS = 28 };

typedef struct asked {
    lt_score_ids requests[REQUESTS];
    int32_t tokens[REQUESTS][MOST_TOKENS];
    uint8_t mask[REQUESTS][MOST_TOKENS];
    int64_t count;
} asked;

/* `context` tokens of the kind `seed`, and an ending of the kind `ending`, which is predicted. */
static void ask(asked *a, uint64_t seed, int64_t context, uint64_t ending, int64_t length)
{
    int64_t at = a->count++, count = context + length;
    for (int64_t i = 0; i < count; i++) {
        uint64_t kind = i < context ? seed : 100 + ending;
        a->tokens[at][i] = (int32_t)lt_random_below(kind, 1, (uint64_t)i, 45);
        a->mask[at][i] = i >= context;
    }
    a->requests[at] = (lt_score_ids){.tokens = a->tokens[at], .mask = a->mask[at], .count = count};
}

static void ask_all(asked *a)
{
    *a = (asked){0};
    for (uint64_t i = 0; i < 4; i++) /* ragged endings */
        ask(a, 1, 12, i, 1 + (int64_t)(i * 3) % 5);
    for (uint64_t i = 0; i < 3; i++)
        ask(a, 2, 9, i, 2);
    ask(a, 2, 9, 1, 2); /* asked before */
    ask(a, 2, 10, 1, 2);
    a->tokens[8][11] ^= 1; /* its last token alone differs */
    ask(a, 3, 15, 1, 4);   /* alone */
    ask(a, 4, 1, 1, 4);    /* no context but a first token */
    ask(a, 4, 1, 2, 6);
    for (uint64_t i = 0; i < 3; i++) /* too long for some models: other beginnings when cut */
        ask(a, 5, 20, i, 2 + 2 * (int64_t)i);
    ask(a, 6, 10, 1, 1); /* reads what the next ones begin with */
    ask(a, 6, 10, 1, 6);
    ask(a, 6, 11, 2, 6);
    for (uint64_t i = 0; i < 3; i++) { /* what they share is predicted too */
        ask(a, 7, 8, i, 3 + (int64_t)i);
        a->requests[a->count - 1].mask = NULL;
    }
    ask(a, 7, 8, 4, 5);
    memset(a->mask[a->count - 1] + 3, 1, 2); /* and some of it */
    assert_true(a->count <= REQUESTS);
}

static lt_status keep(void *context, int64_t index, const lt_score *score, lt_err *err)
{
    (void)err;
    ((lt_score *)context)[index] = *score;
    return LT_OK;
}

static void score_all(const golden_model *m, const asked *a, int64_t batch_size, lt_score *scores)
{
    lt_scorer *scorer = NULL;
    const lt_scorer_settings settings = {.batch_size = batch_size};
    OK(lt_scorer_create(&m->assistant, &settings, &scorer, err));
    OK(lt_scorer_run_ids(scorer, a->requests, a->count, keep, scores, err));
    lt_scorer_free(scorer);
}

/* One sequence a batch shares nothing. */
static void compare_sizes(const golden_model *m, const char *what)
{
    asked a;
    lt_score alone[REQUESTS] = {{0}}, scores[REQUESTS] = {{0}}, again[REQUESTS] = {{0}};
    static const int64_t sizes[] = {0, 2, 3, 5, 64};
    ask_all(&a);
    score_all(m, &a, 1, alone);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        score_all(m, &a, sizes[k], scores);
        for (int64_t i = 0; i < a.count; i++) {
            const lt_score *x = &alone[i], *y = &scores[i];
            assert_int_equal(y->tokens, x->tokens);
            assert_int_equal(y->correct, x->correct);
            assert_int_equal(y->cut, x->cut);
            if (!(fabs(y->log_likelihood - x->log_likelihood) <= 1e-5 * fabs(x->log_likelihood)))
                fail_msg("%s, batch size %d, request %d: %.9g, alone %.9g", what, (int)sizes[k],
                         (int)i, y->log_likelihood, x->log_likelihood);
        }
        score_all(m, &a, sizes[k], again);
        assert_memory_equal(scores, again, sizeof scores);
    }
}

static void test_scores(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"gpt2", NULL},
                                           {"gpt_neox", NULL},
                                           {"llama", NULL},
                                           {"mistral", NULL},
                                           {"qwen2", NULL},
                                           {"qwen3_sharded", NULL},
                                           {"gpt2", "gpt2_lora"},
                                           {"llama", "llama_lora_saved"},
                                           {"gpt2", "gpt2_prefix"},
                                           {"llama", "llama_prompt"},
                                           {"gpt_neox", "gpt_neox_p_tuning"}};
    golden_model m = open_golden(GPT2_WORDS);
    const lt_assistant plain = m.assistant;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[1024];
        lt_adapter *adapter = NULL;
        snprintf(path, sizeof path, "%s/golden/models/%s", LATHE_TEST_DIR, cases[i][0]);
        OK(lt_model_load(path, m.backend, &m.assistant.model, err));
        snprintf(path, sizeof path, "%s/golden/adapters/%s", LATHE_TEST_DIR,
                 cases[i][1] ? cases[i][1] : "");
        if (cases[i][1]) OK(lt_adapter_load(m.assistant.model, path, "tried", &adapter, err));
        compare_sizes(&m, cases[i][1] ? cases[i][1] : cases[i][0]);
        lt_model_free(m.assistant.model);
    }
    m.assistant = plain;
    close_golden(&m);
}

/* Short ones do not make up for a long one before them: a batch has `batch_size` sequences. */
typedef struct stopping {
    int64_t done;
    volatile sig_atomic_t cancelled;
} stopping;

static lt_status stop_at_second(void *context, int64_t index, const lt_score *score, lt_err *err)
{
    stopping *s = context;
    (void)index, (void)score, (void)err;
    s->cancelled = ++s->done >= 2;
    return LT_OK;
}

static void test_batch_size(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    asked a = {0};
    stopping s = {0};
    lt_scorer *scorer = NULL;
    lt_err err = {0};
    const lt_scorer_settings settings = {.batch_size = 1, .cancelled = &s.cancelled};
    ask(&a, 1, 20, 1, 4);
    for (uint64_t i = 0; i < 4; i++)
        ask(&a, 10 + i, 3, i, 2);
    OK(lt_scorer_create(&m.assistant, &settings, &scorer, err));
    assert_int_equal(lt_scorer_run_ids(scorer, a.requests, a.count, stop_at_second, &s, &err),
                     LT_ERR_INTERRUPTED);
    assert_int_equal(s.done, 2);
    lt_scorer_free(scorer);
    close_golden(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_words), cmocka_unit_test(test_least),
                                       cmocka_unit_test(test_scores),
                                       cmocka_unit_test(test_batch_size)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
