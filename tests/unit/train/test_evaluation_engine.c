/* Samples against those of lm-evaluation-harness on the same models
 * (tests/golden/make_evaluation_golden.py). */
#include "evaluation_fixture.h"

#include <unistd.h>

#include "base/fsio.h"
#include "train/evaluation/engine.h"
#include "train/evaluation/engine_internal.h"

enum { MAX_SAMPLES = 64, MAX_DOCS = 32 };

/* --- What comes out --------------------------------------------------------------------------- */

typedef struct collected {
    json_t *samples[MAX_SAMPLES];
    int64_t cut[MAX_SAMPLES];
    int64_t count, progress, total;
    int64_t cancel_after; /* samples; 0: never */
    volatile sig_atomic_t cancelled;
} collected;

static lt_status on_sample(void *context, int64_t doc, json_t *sample, int64_t cut, lt_err *err)
{
    collected *c = context;
    (void)err;
    assert_true(c->count < MAX_SAMPLES);
    assert_int_equal(json_integer_value(json_object_get(sample, "doc_id")), doc);
    c->samples[c->count] = json_incref(sample);
    c->cut[c->count++] = cut;
    if (c->cancel_after && c->count >= c->cancel_after) c->cancelled = 1;
    return LT_OK;
}

static void on_progress(void *context, int64_t done, int64_t total)
{
    collected *c = context;
    assert_true(done > c->progress && done <= total);
    c->progress = done;
    c->total = total;
}

static void drop(collected *c)
{
    for (int64_t i = 0; i < c->count; i++)
        json_decref(c->samples[i]);
    *c = (collected){0};
}

static json_t *sample_of(const collected *c, int64_t doc, const char *filter)
{
    for (int64_t i = 0; i < c->count; i++)
        if (json_integer_value(json_object_get(c->samples[i], "doc_id")) == doc &&
            strcmp(json_string_value(json_object_get(c->samples[i], "filter")), filter) == 0)
            return c->samples[i];
    fail_msg("there is no sample of document %d, filter %s", (int)doc, filter);
    return NULL;
}

static double metric_of(const json_t *sample, const char *name)
{
    const json_t *value = json_object_get(sample, name), *listed;
    size_t i;
    bool found = false;
    json_array_foreach(json_object_get(sample, "metrics"), i, listed)
    {
        found = found || strcmp(json_string_value(listed), name) == 0;
    }
    if (!found || !json_is_number(value)) fail_msg("the sample has no number \"%s\"", name);
    return json_number_value(value);
}

static const char *text_of(const json_t *sample, const char *key)
{
    return json_string_value(json_object_get(sample, key));
}

/* --- Tasks ------------------------------------------------------------------------------------ */

static lt_task new_task(lt_task_output output, int64_t docs)
{
    lt_task task = {.name = strdup("made"),
                    .path = strdup("made.jsonl"),
                    .format = "made",
                    .output = output,
                    .doc_count = docs,
                    .filters = {{.name = "none"}},
                    .filter_count = 1};
    task.docs = calloc((size_t)docs, sizeof *task.docs);
    for (int64_t i = 0; i < docs; i++) {
        task.docs[i].record = -1;
        snprintf(task.docs[i].where, sizeof task.docs[i].where, "made.jsonl:%d", (int)i + 1);
    }
    return task;
}

static void set_metrics(lt_task *task, int count, const lt_metric *metrics)
{
    task->metric_count = count;
    memcpy(task->metrics, metrics, (size_t)count * sizeof *metrics);
}
#define METRICS(task, ...)                                                           \
    set_metrics(task, (int)(sizeof((lt_metric[]){__VA_ARGS__}) / sizeof(lt_metric)), \
                (lt_metric[]){__VA_ARGS__})

static char *joined(const char *a, const char *b)
{
    char *text = malloc(strlen(a) + strlen(b) + 1);
    strcpy(text, a);
    strcat(text, b);
    return text;
}

static void fill_question(lt_task_doc *doc, const json_t *question)
{
    const json_t *choices = json_array_get(question, 1);
    size_t count = json_array_size(choices);
    doc->source = json_pack("{s:O, s:O}", "query", json_array_get(question, 0), "choices", choices);
    doc->choice_count = count;
    doc->choices = calloc(count, sizeof *doc->choices);
    doc->pairs = calloc(count, sizeof *doc->pairs);
    doc->gold = calloc(2, sizeof *doc->gold);
    doc->gold[0] = (int64_t)number_at(question, 2);
    doc->gold_count = 1;
    for (size_t i = 0; i < count; i++) {
        doc->choices[i] = strdup(text_at(choices, i));
        doc->pairs[i].context = i ? doc->pairs[0].context : strdup(text_at(question, 0));
        doc->pairs[i].continuation = joined(" ", doc->choices[i]);
    }
}

static lt_task choice_task(void)
{
    json_t *questions = NULL;
    OK(lt_json_load(golden_path("questions.json", NULL), &questions, err));
    size_t count = json_array_size(questions);
    lt_task task = new_task(LT_TASK_MULTIPLE_CHOICE, (int64_t)count);
    METRICS(&task, LT_METRIC_ACC, LT_METRIC_ACC_NORM, LT_METRIC_ACC_BYTES,
            LT_METRIC_ACC_MUTUAL_INFO);
    for (size_t i = 0; i < count; i++)
        fill_question(&task.docs[i], json_array_get(questions, i));
    json_decref(questions);
    return task;
}

static void evaluate(golden_model *m, const lt_task *task, const lt_engine_settings *settings,
                     collected *c)
{
    int64_t docs[MAX_DOCS];
    *c = (collected){0};
    for (int64_t i = 0; i < task->doc_count; i++)
        docs[i] = i;
    OK(lt_evaluate_task(&m->assistant, task, docs, task->doc_count, settings, on_sample,
                        on_progress, c, err));
    assert_int_equal(c->progress, c->total);
}

/* --- Multiple choice -------------------------------------------------------------------------- */

/* Arguments, responses and metrics of every sample are lm-eval's. */
static void check_choices(const collected *c, const json_t *expected)
{
    static const char *const names[] = {"acc", "acc_norm", "acc_bytes", "acc_mutual_info"};
    size_t i, k;
    const json_t *wanted, *pair;
    assert_int_equal(c->count, (int64_t)json_array_size(expected));
    json_array_foreach(expected, i, wanted)
    {
        const json_t *sample = sample_of(c, (int64_t)i, "none");
        const json_t *arguments = json_object_get(sample, "arguments");
        const json_t *pairs = json_object_get(wanted, "arguments");
        assert_int_equal(json_object_size(arguments), json_array_size(pairs));
        json_array_foreach(pairs, k, pair)
        {
            char key[32];
            snprintf(key, sizeof key, "gen_args_%zu", k);
            const json_t *given = json_object_get(arguments, key);
            assert_string_equal(text_of(given, "arg_0"), text_at(pair, 0));
            assert_string_equal(text_of(given, "arg_1"), text_at(pair, 1));
            const json_t *response =
                json_array_get(json_array_get(json_object_get(sample, "resps"), k), 0);
            assert_true(
                json_equal(response, json_array_get(json_object_get(sample, "filtered_resps"), k)));
            double ll = strtod(text_at(response, 0), NULL),
                   wanted_ll = number_at(json_object_get(wanted, "lls"), k);
            if (fabs(ll - wanted_ll) > 1e-4)
                fail_msg("document %zu, request %zu: %.6f instead of %.6f", i, k, ll, wanted_ll);
        }
        for (size_t n = 0; n < sizeof names / sizeof *names; n++)
            if (metric_of(sample, names[n]) != json_number_value(json_object_get(wanted, names[n])))
                fail_msg("document %zu: %s", i, names[n]);
    }
}

static void test_choices(void **state)
{
    (void)state;
    lt_task task = choice_task();
    for (int which = 0; which < MODEL_COUNT; which++) {
        golden_model m = open_golden(which);
        collected c;
        evaluate(&m, &task, &(lt_engine_settings){0}, &c);
        check_choices(&c, json_object_get(m.expected, "choices"));
        assert_int_equal(c.total, 2 * 31);
        for (int64_t i = 0; i < c.count; i++) {
            bool is_long = json_integer_value(json_object_get(c.samples[i], "doc_id")) == 8;
            assert_int_equal(c.cut[i] > 0, is_long);
        }
        assert_string_equal(text_of(sample_of(&c, 2, "none"), "target"), "2");
        drop(&c);
        close_golden(&m);
    }
    lt_task_free(&task);
}

static void test_choices_as_chat(void **state)
{
    (void)state;
    lt_task task = choice_task();
    golden_model m = open_golden(LLAMA_WORDS);
    collected c;
    evaluate(&m, &task, &(lt_engine_settings){.apply_chat_template = true}, &c);
    check_choices(&c, json_object_get(m.expected, "chat"));
    drop(&c);

    /* what the model was trained with counts more than what the tokenizer has */
    m.assistant.notes = (lt_model_notes){.has_template = true, .template_ = LT_TEMPLATE_ALPACA};
    task.docs[2].turns = json_pack("[{s:s, s:s}, {s:s, s:s}]", "role", "system", "content", "Be.",
                                   "role", "user", "content", "An example");
    evaluate(&m, &task, &(lt_engine_settings){.apply_chat_template = true}, &c);
    const json_t *arguments =
        json_object_get(json_object_get(sample_of(&c, 1, "none"), "arguments"), "gen_args_1");
    assert_string_equal(text_of(arguments, "arg_0"),
                        "<s>Below is an instruction that describes a task. Write a response that "
                        "appropriately completes the request.\n\n### Instruction:\nThe grass "
                        "is\n\n### Response:\n");
    assert_string_equal(text_of(arguments, "arg_1"), "blue");
    arguments =
        json_object_get(json_object_get(sample_of(&c, 2, "none"), "arguments"), "gen_args_0");
    assert_string_equal(text_of(arguments, "arg_0"),
                        "<s>Be.\n\n### Instruction:\nAn example\n\n### Instruction:\nA cat "
                        "says\n\n### Response:\n");
    drop(&c);
    close_golden(&m);
    lt_task_free(&task);
}

/* Several right choices, and the share of probability on them. */
static void test_several_gold(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    lt_task task = choice_task();
    collected c;
    METRICS(&task, LT_METRIC_ACC_NORM, LT_METRIC_MC2);
    lt_task_doc *doc = &task.docs[7];
    doc->gold[0] = 2;
    doc->gold[1] = 3;
    doc->gold_count = 2;
    doc->category = strdup("sums");
    evaluate(&m, &task, &(lt_engine_settings){.batch_size = 1}, &c);
    const json_t *sample = sample_of(&c, 7, "none");
    double right = 0, all = 0;
    for (size_t i = 0; i < doc->choice_count; i++) {
        double p = exp(
            strtod(text_at(json_array_get(json_object_get(sample, "filtered_resps"), i), 0), NULL));
        all += p;
        right += i == 2 || i == 3 ? p : 0;
    }
    assert_true(metric_of(sample, "acc_norm") == 1);
    assert_true(fabs(metric_of(sample, "acc") - right / all) < 1e-9);
    assert_true(right / all > 0.01 && right / all < 0.9999);
    assert_string_equal(text_of(sample, "target"), "[2, 3]");
    assert_string_equal(text_of(sample, "category"), "sums");
    assert_null(json_object_get(sample_of(&c, 1, "none"), "category"));
    assert_int_equal(json_array_size(json_object_get(sample, "resps")), 4);
    drop(&c);
    close_golden(&m);
    lt_task_free(&task);
}

/* --- Cloze and rolling ------------------------------------------------------------------------ */

static void test_cloze(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    const json_t *list = json_object_get(m.expected, "loglikelihood");
    lt_task task = new_task(LT_TASK_LOGLIKELIHOOD, 12);
    METRICS(&task, LT_METRIC_PERPLEXITY, LT_METRIC_ACC);
    for (size_t i = 0; i < 12; i++) {
        lt_task_pair *pair = task.docs[i].pairs = calloc(1, sizeof *pair);
        pair->context = strdup(text_at(json_array_get(list, i), 0));
        pair->continuation = strdup(text_at(json_array_get(list, i), 1));
        task.docs[i].source = json_object();
    }
    collected c;
    evaluate(&m, &task, &(lt_engine_settings){0}, &c);
    assert_int_equal(c.count, 12);
    for (size_t i = 0; i < 12; i++) {
        const json_t *sample = sample_of(&c, (int64_t)i, "none"), *row = json_array_get(list, i);
        bool greedy = json_is_true(json_array_get(row, 3));
        assert_true(fabs(metric_of(sample, "perplexity") - number_at(row, 2)) < 1e-4);
        assert_true(metric_of(sample, "acc") == greedy);
        assert_string_equal(
            text_at(json_array_get(json_object_get(sample, "filtered_resps"), 0), 1),
            greedy ? "True" : "False");
        assert_string_equal(text_of(sample, "target"), text_at(row, 1));
    }
    drop(&c);
    close_golden(&m);
    lt_task_free(&task);
}

static void test_rolling(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    const json_t *row = json_array_get(json_object_get(m.expected, "loglikelihood_rolling"), 6);
    lt_task task = new_task(LT_TASK_ROLLING, 1);
    METRICS(&task, LT_METRIC_WORD_PERPLEXITY, LT_METRIC_BYTE_PERPLEXITY, LT_METRIC_BITS_PER_BYTE);
    task.docs[0].pairs = calloc(1, sizeof *task.docs[0].pairs);
    task.docs[0].pairs->context = strdup("");
    task.docs[0].pairs->continuation = strdup(text_at(row, 0));
    task.docs[0].words = 7;
    task.docs[0].bytes = 40;
    collected c;
    /* without a chat template: it has no part in it */
    evaluate(&m, &task, &(lt_engine_settings){.apply_chat_template = true}, &c);
    static const struct {
        const char *name;
        double size;
    } metrics[] = {{"word_perplexity", 7}, {"byte_perplexity", 40}, {"bits_per_byte", 40}};
    for (size_t i = 0; i < 3; i++) {
        const json_t *value = json_object_get(c.samples[0], metrics[i].name);
        assert_int_equal(json_array_size(value), 2);
        assert_true(fabs(number_at(value, 0) - number_at(row, 1)) < 0.01);
        assert_true(number_at(value, 1) == metrics[i].size);
    }
    drop(&c);
    close_golden(&m);
    lt_task_free(&task);
}

/* --- Answers ---------------------------------------------------------------------------------- */

static lt_task answer_task(const char *prompt, const json_t *stops, int64_t max_new_tokens)
{
    lt_task task = new_task(LT_TASK_GENERATE, 1);
    METRICS(&task, LT_METRIC_EXACT_MATCH, LT_METRIC_STOPPED);
    task.docs[0].prompt = strdup(prompt);
    task.docs[0].source = json_object();
    task.docs[0].references = calloc(2, sizeof *task.docs[0].references);
    task.docs[0].reference_count = 1;
    task.docs[0].references[0] = strdup("Paris");
    task.max_new_tokens = max_new_tokens;
    task.stop_text_count = json_array_size(stops);
    task.stop_texts = calloc(task.stop_text_count + 1, sizeof *task.stop_texts);
    for (size_t i = 0; i < task.stop_text_count; i++)
        task.stop_texts[i] = strdup(text_at(stops, i));
    return task;
}

static void test_generate_until(void **state)
{
    (void)state;
    for (int which = 0; which < MODEL_COUNT; which++) {
        golden_model m = open_golden(which);
        const json_t *row;
        size_t i;
        json_array_foreach(json_object_get(m.expected, "generate_until"), i, row)
        {
            lt_task task =
                answer_task(text_at(row, 0), json_array_get(row, 1), (int64_t)number_at(row, 2));
            collected c;
            evaluate(&m, &task, &(lt_engine_settings){0}, &c);
            const json_t *sample = sample_of(&c, 0, "none");
            if (strcmp(text_of(sample, "answer"), text_at(row, 3)) != 0)
                fail_msg("%s: \"%s\" is answered by \"%s\" instead of \"%s\"", model_names[which],
                         text_at(row, 0), text_of(sample, "answer"), text_at(row, 3));
            assert_int_equal(c.cut[0] > 0, strlen(text_at(row, 0)) > 200);
            drop(&c);
            lt_task_free(&task);
        }
        close_golden(&m);
    }
}

/* Two filters make two samples; metrics look at what each leaves. */
static void test_filters_of_a_task(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    json_t *stops = json_pack("[s]", "\n");
    lt_task task = answer_task("The capital of France is", stops, 8);
    task.docs[0].context = strdup("Paris is large");
    task.filters[0] = (lt_task_filter){.name = "strict", .pattern = "is (.*)"};
    task.filters[1] = (lt_task_filter){.name = "flexible", .pattern = "(P[a-z]*)", .last = true};
    task.filter_count = 2;
    METRICS(&task, LT_METRIC_EXACT_MATCH, LT_METRIC_F1, LT_METRIC_ROUGEL, LT_METRIC_BLEU,
            LT_METRIC_REPETITION, LT_METRIC_LENGTH, LT_METRIC_STOPPED, LT_METRIC_GROUNDED);
    collected c;
    evaluate(&m, &task, &(lt_engine_settings){0}, &c);
    assert_int_equal(c.count, 2);
    const json_t *strict = sample_of(&c, 0, "strict"), *flexible = sample_of(&c, 0, "flexible");
    assert_string_equal(text_of(strict, "answer"), " Paris.");
    assert_string_equal(text_at(json_object_get(strict, "filtered_resps"), 0), "[invalid]");
    assert_string_equal(text_at(json_object_get(flexible, "filtered_resps"), 0), "Paris");
    assert_string_equal(text_at(json_array_get(json_object_get(flexible, "resps"), 0), 0),
                        " Paris.");
    assert_true(metric_of(strict, "exact_match") == 0 && metric_of(strict, "f1") == 0);
    assert_true(metric_of(flexible, "exact_match") == 1 && metric_of(flexible, "f1") == 1);
    assert_true(metric_of(flexible, "rougeL") == 1);
    assert_int_equal(json_array_size(json_object_get(flexible, "bleu")), 10);
    assert_true(metric_of(flexible, "length") == 1 && metric_of(flexible, "stopped") == 1);
    assert_true(metric_of(flexible, "grounded") == 1 && metric_of(flexible, "repetition") == 0);
    assert_string_equal(text_of(flexible, "finish_reason"), "stop");
    assert_string_equal(text_of(flexible, "context"), "Paris is large");
    drop(&c);

    /* without context or references there is nothing to be told */
    free(task.docs[0].context);
    free(task.docs[0].references[0]);
    task.docs[0].context = NULL;
    task.docs[0].reference_count = 0;
    task.max_new_tokens = 1;
    evaluate(&m, &task, &(lt_engine_settings){0}, &c);
    strict = sample_of(&c, 0, "strict");
    assert_int_equal(json_array_size(json_object_get(strict, "metrics")), 3);
    assert_null(json_object_get(strict, "grounded"));
    assert_null(json_object_get(strict, "exact_match"));
    assert_true(metric_of(strict, "stopped") == 0);
    assert_string_equal(text_of(strict, "finish_reason"), "length");
    drop(&c);
    lt_task_free(&task);
    json_decref(stops);
    close_golden(&m);
}

static void test_chat_prompts(void **state)
{
    (void)state;
    golden_model m = open_golden(LLAMA_WORDS);
    lt_task task = answer_task("unused", NULL, 4);
    free(task.docs[0].prompt);
    task.docs[0].prompt = NULL;
    task.docs[0].messages =
        json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "role", "user", "content", "Hi", "role",
                  "assistant", "content", "Yes", "role", "user", "content", "The sky is");
    collected c;
    evaluate(&m, &task, &(lt_engine_settings){0}, &c);
    const json_t *arguments =
        json_object_get(json_object_get(sample_of(&c, 0, "none"), "arguments"), "gen_args_0");
    assert_string_equal(text_of(arguments, "arg_0"),
                        "<s>[user] Hi\n[assistant] Yes\n</s>[user] The sky is\n[assistant] ");
    drop(&c);
    lt_task_free(&task);
    close_golden(&m);
}

static void test_filter_rules(void **state)
{
    (void)state;
    json_t *cases = NULL;
    const json_t *row;
    size_t i, k;
    OK(lt_json_load(golden_path("filters.json", NULL), &cases, err));
    json_array_foreach(json_object_get(cases, "filtered"), i, row)
    {
        lt_task task = {.name = "made", .filter_count = 1};
        lt_answer_rules *rules = NULL;
        lt_buffer out = {0};
        task.filters[0] = (lt_task_filter){.name = "made",
                                           .pattern = text_at(row, 0),
                                           .last = json_is_true(json_array_get(row, 1))};
        OK(lt_answer_rules_create(&task, &rules, err));
        OK(lt_answer_filter(rules, 0, text_at(row, 2), &out, err));
        if (strcmp(lt_buffer_text(&out), text_at(row, 3)) != 0)
            fail_msg("%s of \"%s\": \"%s\" instead of \"%s\"", text_at(row, 0), text_at(row, 2),
                     lt_buffer_text(&out), text_at(row, 3));
        lt_buffer_free(&out);
        lt_answer_rules_free(rules);
    }
    json_array_foreach(json_object_get(cases, "matched"), i, row)
    {
        const json_t *options = json_array_get(row, 0), *pattern;
        lt_task task = {.name = "made",
                        .ignore_case = json_is_true(json_object_get(options, "ignore_case")),
                        .ignore_punctuation =
                            json_is_true(json_object_get(options, "ignore_punctuation"))};
        lt_answer_rules *rules = NULL;
        double matches = -1;
        const char *reference = text_at(row, 2);
        json_array_foreach(json_object_get(options, "regexes_to_ignore"), k, pattern)
        {
            task.ignored_patterns[k] = json_string_value(pattern);
        }
        OK(lt_answer_rules_create(&task, &rules, err));
        OK(lt_answer_matches(rules, text_at(row, 1), &reference, 1, &matches, err));
        if (matches != number_at(row, 3))
            fail_msg("\"%s\" and \"%s\": %g", text_at(row, 1), reference, matches);
        lt_answer_rules_free(rules);
    }
    json_decref(cases);
}

/* --- A judge ---------------------------------------------------------------------------------- */

static void test_judge(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS), other = open_golden(LLAMA_WORDS);
    json_t *stops = json_pack("[s]", "\n");
    lt_task task = answer_task("The sky is", stops, 8);
    METRICS(&task, LT_METRIC_JUDGE);
    const lt_judge judge = {.assistant = &other.assistant,
                            .rubric = "{context}{x}{instruction}{answer} {reference} A cat says",
                            .good = " meow.",
                            .bad = " moo."};
    collected c;
    evaluate(&m, &task, &(lt_engine_settings){.judge = &judge}, &c);

    lt_score_request asked[2] = {
        {.context = "{x}The sky is blue. Paris A cat says", .continuation = " meow."},
        {.context = "{x}The sky is blue. Paris A cat says", .continuation = " moo."}};
    lt_task cloze = new_task(LT_TASK_LOGLIKELIHOOD, 2);
    METRICS(&cloze, LT_METRIC_PERPLEXITY);
    for (int i = 0; i < 2; i++) {
        cloze.docs[i].pairs = calloc(1, sizeof *cloze.docs[i].pairs);
        cloze.docs[i].pairs->context = strdup(asked[i].context);
        cloze.docs[i].pairs->continuation = strdup(asked[i].continuation);
        cloze.docs[i].source = json_object();
    }
    collected scored;
    evaluate(&other, &cloze, &(lt_engine_settings){0}, &scored);
    double good = exp(metric_of(sample_of(&scored, 0, "none"), "perplexity")),
           bad = exp(metric_of(sample_of(&scored, 1, "none"), "perplexity"));
    double value = metric_of(sample_of(&c, 0, "none"), "judge");
    assert_true(fabs(value - good / (good + bad)) < 1e-6);
    assert_true(value > 1e-6 && value < 1 - 1e-9);
    drop(&scored);
    drop(&c);

    lt_err err = {0};
    const int64_t doc = 0;
    assert_int_equal(lt_evaluate_task(&m.assistant, &task, &doc, 1, &(lt_engine_settings){0},
                                      on_sample, NULL, &c, &err),
                     LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "judge"));
    lt_task_free(&task);
    lt_task_free(&cloze);
    json_decref(stops);
    close_golden(&m);
    close_golden(&other);
}

/* --- Stopping and failing --------------------------------------------------------------------- */

static void test_cancel(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    const int64_t docs[] = {0, 1, 2, 3, 4, 5, 6};
    lt_err err = {0};
    collected c = {.cancel_after = 2};
    lt_task task = choice_task();
    const lt_engine_settings settings = {.batch_size = 1, .cancelled = &c.cancelled};
    assert_int_equal(
        lt_evaluate_task(&m.assistant, &task, docs, 7, &settings, on_sample, on_progress, &c, &err),
        LT_ERR_INTERRUPTED);
    assert_int_equal(c.count, 2);
    lt_task_free(&task);
    drop(&c);

    task = new_task(LT_TASK_GENERATE, 7);
    METRICS(&task, LT_METRIC_STOPPED);
    task.max_new_tokens = 4;
    for (int i = 0; i < 7; i++) {
        task.docs[i].prompt = strdup("The sky is");
        task.docs[i].source = json_object();
    }
    c.cancel_after = 2;
    assert_int_equal(
        lt_evaluate_task(&m.assistant, &task, docs, 7, &settings, on_sample, on_progress, &c, &err),
        LT_ERR_INTERRUPTED);
    assert_int_equal(c.count, 2);
    lt_task_free(&task);
    drop(&c);
    close_golden(&m);
}

static void check_refusal(golden_model *m, const lt_task *task, lt_status code, const char *part)
{
    lt_err err = {0};
    collected c = {0};
    const int64_t doc = 0;
    lt_status status = lt_evaluate_task(&m->assistant, task, &doc, 1, &(lt_engine_settings){0},
                                        on_sample, NULL, &c, &err);
    assert_int_equal(status, code);
    if (!strstr(err.message, part)) fail_msg("\"%s\" is not in \"%s\"", part, err.message);
    assert_int_equal(c.count, 0);
}

static void test_refusals(void **state)
{
    (void)state;
    golden_model m = open_golden(GPT2_WORDS);
    lt_task task = choice_task();
    METRICS(&task, LT_METRIC_BLEU);
    check_refusal(&m, &task, LT_ERR_USAGE, "\"bleu\" does not suit");
    METRICS(&task, LT_METRIC_ACC);
    free(task.docs[0].pairs[1].continuation);
    task.docs[0].pairs[1].continuation = strdup("");
    check_refusal(&m, &task, LT_ERR_FORMAT, "made.jsonl:1: the continuation");
    lt_task_free(&task);

    task = answer_task("x", NULL, 64);
    check_refusal(&m, &task, LT_ERR_USAGE, "leave no room");
    task.max_new_tokens = 4;
    task.filters[0].pattern = "(";
    check_refusal(&m, &task, LT_ERR_USAGE, "regular expression");
    task.filters[0].pattern = NULL;
    task.docs[0].prompt[0] = '\0';
    check_refusal(&m, &task, LT_ERR_USAGE, "made.jsonl:1: the prompt is empty");
    task.docs[0].record = 0;
    check_refusal(&m, &task, LT_ERR_USAGE, "dataset");
    lt_task_free(&task);
    close_golden(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_choices_as_chat),
        cmocka_unit_test(test_several_gold),
        cmocka_unit_test(test_cloze),
        cmocka_unit_test(test_rolling),
        cmocka_unit_test(test_generate_until),
        cmocka_unit_test(test_filters_of_a_task),
        cmocka_unit_test(test_chat_prompts),
        cmocka_unit_test(test_filter_rules),
        cmocka_unit_test(test_judge),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
