/* Task files against what lm-evaluation-harness 0.4.13 asks of the same files
 * (tests/golden/make_task_golden.py), and the YAML that it is told of them. */
#include "task_fixture.h"

#include "base/json.h"
#include "train/evaluation/task_text.h"

static json_t *load_json(const char *name)
{
    json_t *out;
    char path[512];
    lt_err err = {0};
    snprintf(path, sizeof path, TASKS "%s", name);
    if (lt_json_load(path, &out, &err) != LT_OK) fail_msg("%s", err.message);
    return out;
}

/* --- Against lm-evaluation-harness ------------------------------------------------------------ */

/* A document's requests as [[text, ...], ...], the shape of the golden file. */
static json_t *requests_of(const lt_task *task, const lt_task_doc *doc, bool mutual_info)
{
    json_t *out = json_array();
    size_t count = task->output == LT_TASK_MULTIPLE_CHOICE ? doc->choice_count : 1;
    for (size_t i = 0; i < count; i++) {
        const lt_task_pair *pair = doc->pairs ? &doc->pairs[i] : NULL;
        if (task->output == LT_TASK_GENERATE)
            json_array_append_new(out, json_pack("[s]", doc->prompt));
        else if (task->output == LT_TASK_ROLLING)
            json_array_append_new(out, json_pack("[s]", pair->continuation));
        else
            json_array_append_new(out, json_pack("[ss]", pair->context, pair->continuation));
    }
    for (size_t i = 0; mutual_info && i < count; i++)
        json_array_append_new(out, json_pack("[ss]", "", doc->pairs[i].continuation));
    return out;
}

static void assert_same_json(const json_t *got, const json_t *wanted, const char *where)
{
    if (json_equal(got, wanted)) return;
    char *a = json_dumps(got, JSON_INDENT(1) | JSON_ENCODE_ANY);
    char *b = json_dumps(wanted, JSON_INDENT(1) | JSON_ENCODE_ANY);
    fail_msg("%s: got\n%s\nwanted\n%s", where, a, b);
}

/* acc_mutual_info takes further requests; lm-eval has it not for lists of right choices. */
static bool has_mutual_info(const json_t *facts)
{
    size_t i;
    json_t *metric;
    json_array_foreach(json_object_get(facts, "metrics"), i,
                       metric) if (strcmp(json_string_value(metric), "acc_mutual_info") ==
                                   0) return true;
    return false;
}

static void check_requests(const lt_task *task, const json_t *facts)
{
    const json_t *wanted = json_object_get(facts, "requests");
    assert_int_equal(task->doc_count, json_array_size(wanted));
    for (int64_t i = 0; i < task->doc_count; i++) {
        json_t *got = requests_of(task, &task->docs[i], has_mutual_info(facts));
        assert_same_json(got, json_array_get(wanted, (size_t)i), task->docs[i].where);
        json_decref(got);
    }
}

static void check_shots(const lt_task *task, const json_t *facts, const json_t *wanted)
{
    assert_int_equal(task->doc_count, json_array_size(wanted));
    for (int64_t i = 0; i < task->doc_count; i++) {
        char hash[LT_HASH_TEXT_SIZE];
        lt_buffer joined = {0};
        json_t *requests = requests_of(task, &task->docs[i], has_mutual_info(facts)), *request,
               *text;
        size_t at, of;
        json_array_foreach(requests, at, request) json_array_foreach(request, of, text)
        {
            append(&joined, at || of ? "\n" : "");
            append(&joined, json_string_value(text));
        }
        lt_hash_bytes(joined.data, joined.size, hash);
        if (strcmp(hash, json_string_value(json_array_get(wanted, (size_t)i))) != 0)
            fail_msg("%s with %lld examples: another prompt:\n%s", task->docs[i].where,
                     (long long)task->num_fewshot, joined.data);
        json_decref(requests);
        lt_buffer_free(&joined);
    }
}

static void check_metrics(const lt_task *task, const json_t *facts)
{
    const json_t *wanted = json_object_get(facts, "metrics");
    int lm_eval_has = 0;
    for (int i = 0; i < task->metric_count; i++) {
        const char *name = lt_metric_of(task->metrics[i])->name;
        if (task->output == LT_TASK_GENERATE && task->metrics[i] != LT_METRIC_EXACT_MATCH) continue;
        if (task->metrics[i] == LT_METRIC_ACC_MUTUAL_INFO && !has_mutual_info(facts)) continue;
        assert_string_equal(name, json_string_value(json_array_get(wanted, (size_t)lm_eval_has)));
        lm_eval_has++;
    }
    assert_int_equal(lm_eval_has, json_array_size(wanted));
}

/* The target: a choice's number or numbers, a text, or several. */
static json_t *target_of(const lt_task *task, const lt_task_doc *doc, const json_t *wanted)
{
    json_t *out = json_array();
    for (size_t i = 0; i < doc->gold_count; i++)
        json_array_append_new(out, json_integer(doc->gold[i]));
    for (size_t i = 0; i < doc->reference_count; i++)
        json_array_append_new(out, json_string(doc->references[i]));
    if (doc->pairs && !doc->choices)
        json_array_append_new(out, json_string(doc->pairs[0].continuation));
    /* TruthfulQA's second task says 0, and reads the labels later. */
    bool first = task->metrics[0] == LT_METRIC_MC2 || !json_is_array(wanted);
    if (first) {
        json_t *only = json_incref(json_array_get(out, 0));
        json_decref(out);
        out = only;
    }
    return out;
}

static void check_docs(const lt_task *task, const json_t *facts)
{
    for (int64_t i = 0; i < task->doc_count; i++) {
        const lt_task_doc *doc = &task->docs[i];
        const json_t *target = json_array_get(json_object_get(facts, "targets"), (size_t)i);
        const json_t *choices = json_array_get(json_object_get(facts, "choices"), (size_t)i);
        json_t *got = target_of(task, doc, target);
        assert_same_json(got, target, doc->where);
        json_decref(got);
        assert_int_equal(doc->choice_count, json_array_size(choices));
        for (size_t c = 0; c < doc->choice_count; c++)
            assert_string_equal(doc->choices[c], json_string_value(json_array_get(choices, c)));
        const json_t *counts = json_array_get(json_object_get(facts, "counts"), (size_t)i);
        if (!counts) continue;
        assert_int_equal(doc->words, json_integer_value(json_array_get(counts, 0)));
        assert_int_equal(doc->bytes, json_integer_value(json_array_get(counts, 1)));
    }
}

static void check_filters(const lt_task *task, const json_t *facts)
{
    const json_t *names = json_object_get(facts, "filters"), *filter;
    size_t i, at;
    assert_int_equal(task->filter_count, json_array_size(names));
    json_array_foreach(json_object_get(facts, "filter_list"), i, filter)
    {
        const json_t *step = json_array_get(json_object_get(filter, "filter"), 0);
        const char *pattern = json_string_value(json_object_get(step, "regex_pattern"));
        assert_string_equal(task->filters[i].name, json_string_value(json_array_get(names, i)));
        if (pattern) assert_string_equal(task->filters[i].pattern, pattern);
        assert_int_equal(task->filters[i].last,
                         json_integer_value(json_object_get(step, "group_select")) == -1);
    }
    const json_t *options = json_object_get(facts, "exact_match"), *pattern;
    assert_int_equal(task->ignore_case, json_is_true(json_object_get(options, "ignore_case")));
    assert_int_equal(task->ignore_punctuation,
                     json_is_true(json_object_get(options, "ignore_punctuation")));
    json_array_foreach(json_object_get(options, "regexes_to_ignore"), at, pattern)
        assert_string_equal(task->ignored_patterns[at], json_string_value(pattern));
    if (!json_object_get(options, "regexes_to_ignore")) at = 0;
    assert_null(task->ignored_patterns[at]);
}

static void check_generation(const lt_task *task, const json_t *facts)
{
    const json_t *until = json_object_get(facts, "until");
    if (task->output != LT_TASK_GENERATE) return;
    assert_int_equal(task->stop_text_count, json_array_size(until));
    for (size_t i = 0; i < task->stop_text_count; i++)
        assert_string_equal(task->stop_texts[i], json_string_value(json_array_get(until, i)));
    check_filters(task, facts);
}

static void check_facts(const lt_task *task, const json_t *facts)
{
    static const char *const outputs[] = {"multiple_choice", "loglikelihood",
                                          "loglikelihood_rolling", "generate_until"};
    assert_string_equal(outputs[task->output],
                        json_string_value(json_object_get(facts, "output_type")));
    check_metrics(task, facts);
    check_docs(task, facts);
    check_generation(task, facts);
}

/* key: "FILE:NUMBER", FILE may be empty */
static void check_with_examples(const json_t *facts, const char *key, const json_t *wanted)
{
    char examples[256];
    const char *word = json_string_value(json_object_get(facts, "word"));
    const char *colon = strrchr(key, ':');
    snprintf(examples, sizeof examples, TASKS "%.*s", (int)(colon - key), key);
    lt_task_settings settings = plain;
    settings.num_fewshot = atoi(colon + 1);
    if (colon > key) settings.fewshot_path = examples;
    lt_task task = load_with(golden_word(word), &settings);
    check_shots(&task, facts, wanted);
    assert_int_equal(task.num_fewshot, settings.num_fewshot);
    lt_task_free(&task);
}

/* The contexts of a document's requests, as conversations that end with the question. */
static void append_conversations(const lt_task *task, const lt_task_doc *doc, lt_buffer *out)
{
    json_t *requests = requests_of(task, doc, false), *request;
    size_t i;
    json_array_foreach(requests, i, request)
    {
        json_t *messages = json_copy(doc->turns);
        json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "user", "content",
                                                  json_array_get(request, 0)));
        append(out, i ? "\n" : "");
        assert_int_equal(lt_json_dump(messages, 0, out, NULL), LT_OK);
        json_decref(messages);
    }
    json_decref(requests);
}

/* key: ":NUMBER" of examples, from the file itself */
static void check_turns(const json_t *facts, const char *key, const json_t *wanted)
{
    lt_task_settings settings = plain;
    settings.num_fewshot = atoi(key + 1);
    settings.chat = true;
    lt_task task =
        load_with(golden_word(json_string_value(json_object_get(facts, "word"))), &settings);
    assert_int_equal(task.doc_count, json_array_size(wanted));
    for (int64_t i = 0; i < task.doc_count; i++) {
        char hash[LT_HASH_TEXT_SIZE];
        lt_buffer text = {0};
        append_conversations(&task, &task.docs[i], &text);
        lt_hash_bytes(text.data, text.size, hash);
        if (strcmp(hash, json_string_value(json_array_get(wanted, (size_t)i))) != 0)
            fail_msg("%s, %s: another conversation:\n%s", task.docs[i].where, key, text.data);
        lt_buffer_free(&text);
    }
    lt_task_free(&task);
}

static void test_published_prompts(void **state)
{
    (void)state;
    json_t *golden = load_json("requests.json"), *facts, *hashes;
    const char *name, *key;
    json_object_foreach(golden, name, facts)
    {
        const char *word = json_string_value(json_object_get(facts, "word"));
        lt_task task = load_golden(word);
        assert_string_equal(task.name, name);
        check_facts(&task, facts);
        check_requests(&task, facts);
        lt_task_free(&task);
        json_object_foreach(json_object_get(facts, "shots"), key, hashes)
            check_with_examples(facts, key, hashes);
        json_object_foreach(json_object_get(facts, "turns"), key, hashes)
            check_turns(facts, key, hashes);
    }
    json_decref(golden);
}

static void test_python_capitalize(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"NASA and THE rest", "Nasa and the rest"},
        {"1ST élan ÉLAN", "1st élan élan"},
        {"élan ÉLAN", "Élan élan"},
        {"ǆ Ǆ", "ǅ ǆ"},
        {"İSTANBUL İİ", "İstanbul i̇i̇"},
        {"ΌΔΟΣ ΜΕΣΗ", "Όδος μεση"}, /* a sigma that ends a word, and one that does not */
        {"ΜΕΣΗ Α'Σ Σ.Α", "Μεση α'ς σ.α"},
        {"'ΣΑ ΑΣ", "'σα ας"},
        {"A\u00ADΣ", "A\u00ADς"},
        {"AΣ\u0301B A1Σ", "Aσ\u0301b a1σ"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_buffer out = {0};
        assert_int_equal(lt_python_capitalize(cases[i][0], &out, NULL), LT_OK);
        assert_string_equal(lt_buffer_text(&out), cases[i][1]);
        lt_buffer_free(&out);
    }
}

/* --- The YAML --------------------------------------------------------------------------------- */

static void test_lm_eval_yaml(void **state)
{
    (void)state;
    static const char *const names[] = {"choices", "several_right", "copies",  "cloze",
                                        "texts",   "answers",       "grounded"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lt_buffer out = {0}, wanted = {0};
        char path[512], name[64];
        snprintf(name, sizeof name, "%s.jsonl", names[i]);
        snprintf(path, sizeof path, TASKS "%s.yaml", names[i]);
        lt_task task = load_golden(name);
        free(task.path); /* the golden files are of no machine */
        snprintf(name, sizeof name, "PATH/%s.jsonl", names[i]);
        task.path = strdup(name);
        assert_int_equal(lt_task_to_lm_eval(&task, &out, NULL), LT_OK);
        assert_int_equal(lt_read_file(path, 4096, &wanted, NULL), LT_OK);
        assert_string_equal(out.data, wanted.data);
        lt_task_free(&task);
        lt_buffer_free(&out);
        lt_buffer_free(&wanted);
    }
}

static void test_lm_eval_yaml_with_examples(void **state)
{
    (void)state;
    lt_buffer out = {0};
    lt_task_settings settings = plain;
    settings.num_fewshot = 2;
    settings.fewshot_path = TASKS "answers_train.jsonl";
    settings.fewshot_first = true;
    lt_task task = load_with(TASKS "answers.jsonl", &settings);
    assert_int_equal(lt_task_to_lm_eval(&task, &out, NULL), LT_OK);
    assert_non_null(strstr(out.data, "\n    train: \"" TASKS "answers_train.jsonl\"\n"));
    assert_non_null(strstr(out.data, "\nnum_fewshot: 2\nfewshot_split: train\nfewshot_config:\n"
                                     "  sampler: first_n\n"));
    lt_buffer_free(&out);
    lt_task_free(&task);
}

static void test_no_yaml_for(void **state)
{
    (void)state;
    static const char delimiters[] =
        "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n"
        "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0, \"delimiter\": \"\"}\n";
    static const char golds[] = "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n"
                                "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": [0]}\n";
    const char *const cases[][2] = {
        {write_as("delimiters.jsonl", delimiters, sizeof delimiters - 1),
         "delimiters.jsonl:2: lm-evaluation-harness has no task for this: \"delimiter\""},
        {write_as("golds.jsonl", golds, sizeof golds - 1), "golds.jsonl:2: lm-evaluation-harness "
                                                           "has no task for this: \"gold\""},
        {"arc.jsonl", "has tasks of its own for arc"},
        {"messages.jsonl", "messages.jsonl:1: lm-evaluation-harness has no task for this"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_buffer out = {0};
        lt_err err = {0};
        lt_task task =
            *cases[i][0] == '/' ? load_with(cases[i][0], &plain) : load_golden(cases[i][0]);
        assert_int_equal(lt_task_to_lm_eval(&task, &out, &err), LT_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, cases[i][1]));
        lt_task_free(&task);
        lt_buffer_free(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_prompts), cmocka_unit_test(test_python_capitalize),
        cmocka_unit_test(test_lm_eval_yaml),      cmocka_unit_test(test_lm_eval_yaml_with_examples),
        cmocka_unit_test(test_no_yaml_for),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
