/* Task files that are wrong, and what settings and kinds of files do. */
#include "task_fixture.h"

#include <zlib.h>
#include <zstd.h>

/* --- Which format ----------------------------------------------------------------------------- */

static void test_format_by_keys(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"choices.jsonl", "multiple_choice", "choices"},
        {"cloze.jsonl", "loglikelihood", "cloze"},
        {"answers.jsonl", "generation", "answers"},
        {"messages.jsonl", "generation", "messages"},
        {"texts.jsonl", "perplexity", "texts"},
        {"arc.jsonl", "arc", "arc"},
        {"boolq_answer.jsonl", "boolq", "boolq"},
        {"mmlu.jsonl", "mmlu", "mmlu"},
        {"gsm8k.jsonl", "gsm8k", "gsm8k"},
        {"triviaqa.jsonl", "triviaqa", "triviaqa"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_task task = load_golden(cases[i][0]);
        assert_string_equal(task.format, cases[i][1]);
        assert_string_equal(task.name, cases[i][2]);
        lt_task_free(&task);
    }
}

static void test_boolq_of_both_kinds_is_one_task(void **state)
{
    (void)state;
    lt_task a = load_golden("boolq.jsonl"), b = load_golden("boolq_answer.jsonl");
    assert_string_equal(a.hash, b.hash);
    lt_task_free(&a);
    lt_task_free(&b);
}

static void expect_failure(const char *word, const lt_task_settings *settings, lt_status wanted,
                           const char *says)
{
    lt_task task;
    lt_err err = {0};
    lt_status status = lt_task_load(word, settings, &task, &err);
    if (status == LT_OK) fail_msg("%s: was loaded; expected: %s", word, says);
    if (!strstr(err.message, says)) fail_msg("\"%s\" does not say \"%s\"", err.message, says);
    assert_int_equal(status, wanted);
}

static void test_format_that_can_not_be_told(void **state)
{
    (void)state;
    const char *path = write_as("odd.jsonl", "{\"question\": \"a\", \"reply\": \"b\"}\n", 31);
    char word[256];
    expect_failure(path, &plain, LT_ERR_USAGE, "has the keys question, reply; name one, as");
    expect_failure(path, &plain, LT_ERR_USAGE, "multiple_choice, loglikelihood, generation");
    expect_failure(TASKS "truthfulqa.jsonl", &plain, LT_ERR_USAGE,
                   "those of truthfulqa_mc1 and of truthfulqa_mc2");
    snprintf(word, sizeof word, "hellaswags=%s", path);
    expect_failure(word, &plain, LT_ERR_USAGE, "no format \"hellaswags\"");
    static const char both[] =
        "{\"question\": \"q\", \"mc1_targets\": {\"choices\": 1, \"labels\": 1},"
        " \"mc2_targets\": {\"choices\": 1, \"labels\": 1}, \"page\": \"p\"}";
    expect_failure(write_as("both.jsonl", both, sizeof both - 1), &plain, LT_ERR_USAGE,
                   "those of truthfulqa_mc1 and of truthfulqa_mc2");
    lt_task_settings named = plain;
    named.format = "piqa";
    path = write_as("odd.jsonl", "{\"question\": \"a\", \"reply\": \"b\"}\n", 31);
    expect_failure(path, &named, LT_ERR_FORMAT,
                   "odd.jsonl:1: \"goal\" is missing: each record of "
                   "a piqa file has goal sol1 sol2 label");
    snprintf(word, sizeof word, "arc=%s", path);
    expect_failure(word, &named, LT_ERR_USAGE, "to be piqa");
    expect_failure("/no/such/file.jsonl", &plain, LT_ERR_IO, "No such file");
}

static void test_name_with_an_equals_sign(void **state)
{
    (void)state;
    const char *text = "{\"text\": \"x\"}";
    lt_task task = load_with(write_as("a=b.jsonl", text, strlen(text)), &plain);
    assert_string_equal(task.name, "a=b");
    lt_task_free(&task);
}

/* --- Wrong files ------------------------------------------------------------------------------ */

static void test_wrong_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "has no records"},
        {"\n \n", "has no records"},
        {"[]", "has no records"},
        {"{\"text\": \"a\"}\n{\"text\": 3}", ":2: \"text\" must be a string"},
        {"{\"text\": \"a\"}\n\n{\"context\": \"a\", \"continuation\": \"b\"}",
         ":3: \"text\" is missing: each record of a perplexity file has text"},
        {"{\"text\": NaN}", ":1: \"text\" must be a string"},
        {"{\"text\": \"a\\u0000b\"}", ":1: "},
        {"{\"text\": \"\xff\"}", ":1: invalid UTF-8 at byte 11"},
        {"{\"text\": \"a\"", ":1: "},
        {"{\"text\": \"a\"}\n\"text\"", ":2: a record must be a JSON object"},
        {"{\"text\": \"a\", \"category\": 1}", ":1: \"category\" must be a string"},
        {"{\"context\": \"a\", \"continuation\": \"\"}", ":1: \"continuation\" is empty"},
        {"{\"query\": \"q\", \"choices\": [], \"gold\": 0}", ":1: \"choices\" has 0 strings"},
        {"{\"query\": \"q\", \"choices\": [\"a\"], \"gold\": 0}", ":1: \"choices\" has 1 strings"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"\"], \"gold\": 0}",
         ":1: entry 2 of \"choices\" is empty"},
        {"{\"query\": \"q\", \"choices\": [\"a\", 1], \"gold\": 0}",
         ":1: entry 2 of \"choices\" must be a string"},
        {"{\"query\": \"q\", \"choices\": \"ab\", \"gold\": 0}", "must be an array of strings"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 2}",
         ":1: \"gold\" is 2, but the choices are 0 to 1"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": -1}", "\"gold\" is -1"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0.5}", "number of a choice"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": \"99999999999999999999\"}",
         "\"gold\" is 9223372036854775807"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": \"b\"}", "number of a choice"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": []}", "\"gold\" has 0 entries"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": [1, 1]}",
         "\"gold\" has 1 twice"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": [0, 2]}", "\"gold\" is 2"},
        {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": [0, null]}",
         "number of a choice"},
        {"{\"prompt\": \"p\", \"reference\": \"r\", \"references\": [\"r\"]}",
         "both \"references\" and \"reference\""},
        {"{\"prompt\": \"p\", \"messages\": [], \"reference\": \"r\"}",
         "both \"prompt\" and \"messages\""},
        {"{\"prompt\": \"p\", \"references\": []}", "\"references\" has 0 strings"},
        {"{\"messages\": 1, \"reference\": \"r\"}", "\"messages\" must be an array"},
        {"{\"messages\": [{\"role\": \"king\", \"content\": \"c\"}], \"reference\": \"r\"}",
         ":1: message 1 needs a \"role\""},
        {"{\"messages\": [{\"role\": \"user\"}], \"reference\": \"r\"}", "message 1 needs"},
        {"{\"messages\": [{\"role\": \"assistant\", \"content\": \"c\"}], \"reference\": \"r\"}",
         "the last message is the assistant's"},
        {"{\"prompt\": \"p\", \"reference\": \"r\", \"stop\": [\"\"]}",
         "entry 1 of \"stop\" is empty"},
        {"{\"prompt\": \"p\", \"reference\": \"r\", \"max_new_tokens\": 0}",
         "\"max_new_tokens\" is 0"},
        {"{\"prompt\": \"p\", \"reference\": \"r\"}\n"
         "{\"prompt\": \"p\", \"reference\": \"r\", \"stop\": [\".\"]}",
         ":2: \"stop\" is not what the first record has"},
        {"{\"prompt\": \"p\", \"reference\": \"r\"}\n"
         "{\"messages\": [{\"role\": \"user\", \"content\": \"c\"}], \"reference\": \"r\"}",
         ":2: the first record has a prompt, this one has not"},
        {"{\"prompt\": \"p\", \"reference\": \"r\"}\n{\"prompt\": \"p\"}",
         ":2: the first record has references, this one has not"},
        {"{\"activity_label\": \"a\", \"ctx_a\": \"a\", \"ctx_b\": \"b\", \"endings\": [\"a\", "
         "\"b\"],"
         " \"label\": \"\"}",
         "\"label\" must be the number of a choice"},
        {"{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\", \"B\"]},"
         " \"answerKey\": \"C\"}",
         "\"answerKey\" is \"C\", which is no label"},
        {"{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\", \"c\"], \"label\": [\"A\", "
         "\"B\"]}, \"answerKey\": \"A\"}",
         "3 choices have 2 labels"},
        {"{\"sentence\": \"no blank\", \"option1\": \"a\", \"option2\": \"b\", \"answer\": \"1\"}",
         "has no blank"},
        {"{\"sentence\": \"_\", \"option1\": \"a\", \"option2\": \"b\", \"answer\": \"3\"}",
         "must be \"1\" or \"2\""},
        {"{\"passage\": \"p\", \"question\": \"q\", \"answer\": \"yes\"}", "must be true or false"},
        {"{\"question\": \"q\", \"choices\": [\"a\", \"b\", \"c\", \"d\", \"e\"], \"answer\": 4, "
         "\"subject\": \"s\"}",
         "MMLU has 4"},
        {"{\"question\": \"q\", \"mc1_targets\": {\"choices\": [\"a\", \"b\"], \"labels\": [0, "
         "1]}}",
         "must be 1 for the first choice"},
        {"{\"question\": \"q\", \"mc2_targets\": {\"choices\": [\"a\", \"b\"], \"labels\": [0, "
         "0]}}",
         "marks no choice as right"},
        {"{\"question\": \"q\", \"mc2_targets\": {\"choices\": [\"a\", \"b\"], \"labels\": [1]}}",
         "must be an array of 2 labels"},
        {"{\"question\": \"q\", \"answer\": \"yes\"}", "\"answer\" has no \"#### NUMBER\""},
        {"{\"question\": \"q\", \"answer\": 3}", "\"answer\" must be a string"},
        {"{\"question\": \"q\", \"answer\": {\"aliases\": []}}", "\"answer.aliases\" has 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = write_as("wrong.jsonl", cases[i].text, strlen(cases[i].text));
        expect_failure(path, &plain, LT_ERR_FORMAT, cases[i].says);
        expect_failure(path, &plain, LT_ERR_FORMAT, "wrong.jsonl");
    }
}

static void test_nul_byte(void **state)
{
    (void)state;
    static const char text[] = "{\"text\": \"a\"}\n{\"text\": \"\0\"}";
    expect_failure(write_as("nul.jsonl", text, sizeof text - 1), &plain, LT_ERR_FORMAT,
                   "nul.jsonl:2: a NUL at byte 11");
}

static void test_too_many_choices(void **state)
{
    (void)state;
    lt_buffer text = {0};
    append(&text, "{\"query\": \"q\", \"gold\": 0, \"choices\": [\"a\"");
    for (int i = 1; i < 256; i++)
        append(&text, ", \"a\"");
    size_t most = text.size;
    append(&text, "]}");
    lt_task task = load_with(write_as("many.jsonl", text.data, text.size), &plain);
    assert_int_equal(task.docs[0].choice_count, 256);
    lt_task_free(&task);
    text.size = most;
    append(&text, ", \"a\"]}");
    expect_failure(write_as("many.jsonl", text.data, text.size), &plain, LT_ERR_LIMIT,
                   "has 257 strings; at most 256");
    lt_buffer_free(&text);
}

/* --- Settings --------------------------------------------------------------------------------- */

static void test_examples_of_the_task_itself(void **state)
{
    (void)state;
    lt_task_settings own = {.num_fewshot = -1, .fewshot_seed = 1234};
    lt_task task = load_with(TASKS "gsm8k.jsonl", &own);
    assert_int_equal(task.num_fewshot, 5);
    assert_int_equal(task.max_new_tokens, 256);
    for (int64_t i = 0; i < task.doc_count; i++) { /* never itself */
        json_t *question = json_object_get(task.docs[i].source, "question");
        const char *asked = strstr(task.docs[i].prompt, json_string_value(question));
        assert_null(strstr(asked + 1, json_string_value(question)));
    }
    lt_task_free(&task);
    own.num_fewshot = 3; /* fixed in lm-eval, which ignores the number, too */
    task = load_with("truthfulqa_mc1=" TASKS "truthfulqa.jsonl", &own);
    assert_int_equal(task.num_fewshot, 0);
    lt_task_free(&task);
    task = load_with(TASKS "texts.jsonl", &own);
    assert_int_equal(task.num_fewshot, 0);
    lt_task_free(&task);
}

static void test_too_few_examples(void **state)
{
    (void)state;
    lt_task_settings many = plain;
    many.num_fewshot = 6;
    expect_failure(TASKS "cloze.jsonl", &many, LT_ERR_USAGE,
                   "6 examples were asked for, which takes 7 records, but");
    many.num_fewshot = 4; /* of 7 records 4 are the same */
    expect_failure(TASKS "copies.jsonl", &many, LT_ERR_USAGE, "which takes 4 records");
    many.fewshot_path = TASKS "mmlu_dev.jsonl";
    many.num_fewshot = 7; /* there are six of each subject */
    expect_failure(TASKS "mmlu.jsonl", &many, LT_ERR_USAGE, "mmlu_dev.jsonl has 6 to show");
    many.fewshot_path = TASKS "arc_train.jsonl";
    expect_failure(TASKS "mmlu.jsonl", &many, LT_ERR_FORMAT, "arc_train.jsonl:1: ");
    many.fewshot_path = NULL;
    many.num_fewshot = 1;
    expect_failure(TASKS "messages.jsonl", &many, LT_ERR_USAGE, "in front of messages");
}

static void test_first_examples(void **state)
{
    (void)state;
    lt_task_settings first = {.num_fewshot = 2, .fewshot_first = true};
    lt_task task = load_with(TASKS "cloze.jsonl", &first);
    assert_string_equal(task.docs[0].pairs[0].context,
                        "The sky is green.\n\nA cow says moo.\n\nThe sky is");
    assert_string_equal(task.docs[2].pairs[0].context,
                        "The sky is blue.\n\nThe sky is green.\n\nA cow says");
    lt_task_free(&task);
}

static void test_examples_of_the_same_file_by_its_path(void **state)
{
    (void)state;
    lt_task_settings settings = {.num_fewshot = 3, .fewshot_seed = 1234};
    lt_task a = load_with(TASKS "arc.jsonl", &settings);
    settings.fewshot_path = TASKS "../tasks/arc.jsonl";
    lt_task b = load_with(TASKS "arc.jsonl", &settings);
    assert_string_equal(a.hash, b.hash);
    assert_null(b.fewshot_path);
    lt_task_free(&b);
    settings.fewshot_path = TASKS "arc_train.jsonl";
    b = load_with(TASKS "arc.jsonl", &settings);
    assert_string_equal(b.fewshot_path, TASKS "arc_train.jsonl");
    assert_string_not_equal(a.hash, b.hash);
    lt_task_free(&b);
    lt_task_free(&a);
    settings.chat = true; /* the examples are no part of the contexts then */
    b = load_with(TASKS "arc.jsonl", &settings);
    settings.fewshot_path = NULL;
    a = load_with(TASKS "arc.jsonl", &settings);
    assert_string_not_equal(a.hash, b.hash);
    lt_task_free(&b);
    lt_task_free(&a);
}

static void test_limit(void **state)
{
    (void)state;
    lt_task_settings settings = {.num_fewshot = 2, .fewshot_seed = 1234};
    lt_task all = load_with(TASKS "hellaswag.jsonl", &settings);
    settings.limit = 3;
    lt_task some = load_with(TASKS "hellaswag.jsonl", &settings);
    assert_int_equal(some.doc_count, 3);
    assert_int_equal(some.original_count, 8);
    for (int i = 0; i < 3; i++)
        assert_string_equal(some.docs[i].pairs[0].context, all.docs[i].pairs[0].context);
    assert_string_not_equal(some.hash, all.hash);
    lt_task_free(&some);
    settings.limit = 100;
    some = load_with(TASKS "hellaswag.jsonl", &settings);
    assert_string_equal(some.hash, all.hash);
    lt_task_free(&some);
    lt_task_free(&all);
}

static void test_answers_of_a_generic_file(void **state)
{
    (void)state;
    lt_task task = load_golden("answers.jsonl");
    assert_int_equal(task.max_new_tokens, 12);
    assert_int_equal(task.stop_text_count, 2);
    assert_string_equal(task.stop_texts[1], ".");
    assert_string_equal(task.docs[1].category, "capitals");
    assert_string_equal(task.docs[1].where, TASKS "answers.jsonl:2");
    assert_int_equal(task.docs[1].record, -1);
    assert_int_equal(task.metric_count, 10); /* nothing to be grounded in */
    lt_task_free(&task);

    task = load_golden("grounded.jsonl");
    assert_int_equal(task.metric_count, 11);
    assert_int_equal(task.metrics[10], LT_METRIC_GROUNDED);
    assert_string_equal(task.docs[0].context, "The snow is white.");
    assert_int_equal(task.stop_text_count, 0);
    lt_task_free(&task);

    lt_task_settings settings = plain;
    settings.num_fewshot = 1; /* an answer ends where an example does */
    settings.max_new_tokens = 7;
    task = load_with(TASKS "grounded.jsonl", &settings);
    assert_int_equal(task.stop_text_count, 1);
    assert_string_equal(task.stop_texts[0], "\n\n");
    assert_int_equal(task.max_new_tokens, 7);
    lt_task_free(&task);

    task = load_golden("messages.jsonl");
    assert_int_equal(json_array_size(task.docs[1].messages), 3);
    assert_null(task.docs[1].prompt);
    lt_task_free(&task);
}

static void test_answers_without_references(void **state)
{
    (void)state;
    static const lt_metric metrics[] = {LT_METRIC_REPETITION, LT_METRIC_LENGTH, LT_METRIC_STOPPED};
    char word[256];
    snprintf(word, sizeof word, "generation=%s", write_as("bare.jsonl", "{\"prompt\": \"p\"}", 15));
    lt_task task = load_with(word, &plain);
    assert_int_equal(task.metric_count, 3);
    assert_memory_equal(task.metrics, metrics, sizeof metrics);
    lt_task_free(&task);
    expect_failure(word + strlen("generation="), &plain, LT_ERR_USAGE, "no format of task files");
    lt_task_settings one = plain;
    one.num_fewshot = 1;
    expect_failure(word, &one, LT_ERR_USAGE, "which takes 2 records");
}

/* --- Files of other kinds --------------------------------------------------------------------- */

static void test_compressed_and_array(void **state)
{
    (void)state;
    static const char text[] = "{\"text\": \"one two\"}\n{\"text\": \"three\"}\n";
    static const char array[] = "[{\"text\": \"one two\"},\n {\"text\": \"three\"}]";
    unsigned char packed[512];
    size_t size = ZSTD_compress(packed, sizeof packed, text, sizeof text - 1, 3);
    lt_task zstd = load_with(write_as("t.jsonl.zst", (char *)packed, size), &plain);
    char path[128];
    snprintf(path, sizeof path, "%s/t.jsonl.gz", folder);
    gzFile file = gzopen(path, "wb");
    gzwrite(file, text, sizeof text - 1);
    gzclose(file);
    lt_task gzip = load_with(path, &plain);
    lt_task json = load_with(write_as("t.json", array, sizeof array - 1), &plain);
    assert_string_equal(zstd.name, "t");
    assert_int_equal(zstd.doc_count, 2);
    assert_string_equal(zstd.hash, gzip.hash);
    assert_string_equal(zstd.hash, json.hash);
    assert_non_null(strstr(json.docs[1].where, "t.json:2"));
    lt_task_free(&zstd);
    lt_task_free(&gzip);
    lt_task_free(&json);
}

static void test_plain_text(void **state)
{
    (void)state;
    static const char text[] = "\xEF\xBB\xBF"
                               " The sky\u00a0is\n\nblue.\n";
    lt_task task;
    lt_err err = {0};
    assert_int_equal(lt_task_from_text(write_as("sky.txt", text, sizeof text - 1), &task, &err),
                     LT_OK);
    assert_string_equal(task.name, "sky");
    assert_int_equal(task.output, LT_TASK_ROLLING);
    assert_int_equal(task.doc_count, 1);
    assert_string_equal(task.docs[0].pairs[0].continuation, text + 3);
    assert_int_equal(task.docs[0].words, 6); /* with the empty ones at both ends, as re.split */
    assert_int_equal(task.docs[0].bytes, sizeof text - 1 - 3);
    assert_null(task.docs[0].source);
    assert_int_equal(strlen(task.hash), 32);
    lt_task_free(&task);
    assert_int_equal(lt_task_from_text(write_as("empty.txt", "", 0), &task, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "is empty"));
    assert_int_equal(lt_task_from_text(write_as("bad.txt", "a\n\xc0", 3), &task, &err),
                     LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "bad.txt:2: invalid UTF-8"));
}

static void test_long_path_keeps_its_line(void **state)
{
    (void)state;
    char path[512];
    size_t at = (size_t)snprintf(path, sizeof path, "%s", folder);
    while (at < 400)
        at += (size_t)snprintf(path + at, sizeof path - at, "/.");
    snprintf(path + at, sizeof path - at, "/long.jsonl");
    write_as("long.jsonl", "\n{\"text\": \"x\"}", 14);
    lt_task task = load_with(path, &plain);
    assert_int_equal(strlen(task.docs[0].where), 255);
    assert_string_equal(task.docs[0].where + 255 - 13, "/long.jsonl:2");
    lt_task_free(&task);
}

/* --- Hashes ----------------------------------------------------------------------------------- */

static void hash_of(const char *text, char out[33])
{
    lt_task task = load_with(write_as("hashed.jsonl", text, strlen(text)), &plain);
    strcpy(out, task.hash);
    lt_task_free(&task);
}

/* Whatever is asked, and whatever decides what an answer is worth, is in the hash. */
static void test_hash_sees_every_change(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}",
        "{\"query\": \"q \", \"choices\": [\"a\", \"b\"], \"gold\": 0}",
        "{\"query\": \"q\", \"choices\": [\"a\", \"c\"], \"gold\": 0}",
        "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 1}",
        "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": [0, 1]}",
        "{\"query\": \"q\", \"choices\": [\"a\", \"b\", \"b\"], \"gold\": 0}",
        "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0, \"delimiter\": \"\"}",
        "{\"query\": \"q\", \"choices\": [\" a\", \" b\"], \"gold\": 0, \"delimiter\": \"\"}",
        "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0, \"category\": \"c\"}",
        "{\"prompt\": \"p\", \"references\": [\"a\"]}",
        "{\"prompt\": \"p\", \"references\": [\"b\"]}",
        "{\"prompt\": \"p\", \"references\": [\"a\", \"b\"]}",
        "{\"prompt\": \"p\", \"references\": [\"a\"], \"context\": \"c\"}",
        "{\"prompt\": \"p\", \"references\": [\"a\"], \"stop\": [\"x\"]}",
        "{\"prompt\": \"p\", \"references\": [\"a\"], \"max_new_tokens\": 5}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"p\"}], \"references\": [\"a\"]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], \"references\": [\"a\"]}",
        "{\"text\": \"p\"}",
        "{\"page\": \"p\"}",
        "{\"page\": \" p\"}",
    };
    enum { COUNT = sizeof texts / sizeof *texts };
    char hashes[COUNT][33], again[33];
    for (int i = 0; i < COUNT; i++) {
        hash_of(texts[i], hashes[i]);
        for (int j = 0; j < i; j++)
            if (strcmp(hashes[i], hashes[j]) == 0) fail_msg("%s is %s", texts[i], texts[j]);
    }
    hash_of("{\"gold\": 0, \"note\": 1, \"choices\": [\"a\", \"b\"], \"query\": \"q\"}", again);
    assert_string_equal(hashes[0], again); /* what is not asked is not in it */
    hash_of("{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0, \"category\": \"\"}",
            again);
    assert_string_equal(hashes[0], again); /* a category without a name is none */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_by_keys),
        cmocka_unit_test(test_boolq_of_both_kinds_is_one_task),
        cmocka_unit_test(test_format_that_can_not_be_told),
        cmocka_unit_test(test_name_with_an_equals_sign),
        cmocka_unit_test(test_wrong_files),
        cmocka_unit_test(test_nul_byte),
        cmocka_unit_test(test_too_many_choices),
        cmocka_unit_test(test_examples_of_the_task_itself),
        cmocka_unit_test(test_too_few_examples),
        cmocka_unit_test(test_first_examples),
        cmocka_unit_test(test_examples_of_the_same_file_by_its_path),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_answers_of_a_generic_file),
        cmocka_unit_test(test_answers_without_references),
        cmocka_unit_test(test_compressed_and_array),
        cmocka_unit_test(test_plain_text),
        cmocka_unit_test(test_long_path_keeps_its_line),
        cmocka_unit_test(test_hash_sees_every_change),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
