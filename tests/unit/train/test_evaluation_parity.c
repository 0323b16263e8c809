/* Whole evaluations against what lm-evaluation-harness 0.4.13 made of the same models and task
 * files (tests/golden/make_task_golden.py): every log-likelihood, answer, result and standard
 * error. */
#include "../check.h"

#include <math.h>

#include "base/fsio.h"
#include "base/json.h"
#include "train/evaluation.h"

#define GOLDEN          LATHE_TEST_DIR "/golden/"
#define LOG_TOLERANCE   1e-4
#define ERROR_TOLERANCE 1e-6

static char output[64];

/* What is compared, for messages: "gpt2_words, arc.jsonl, 2-shot". */
static char where[256];

/* --- Numbers ---------------------------------------------------------------------------------- */

static void assert_near(const char *what, double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%s: %s is %.9g, not %.9g", where, what, value, expected);
}

/* A perplexity is an exponential, so a small error of its logarithm is one relative to it; the
 * spread of resampled perplexities doubles that. */
static double tolerance_of(const char *key, double expected)
{
    bool is_error = strstr(key, "_stderr") != NULL;
    if (strstr(key, "perplexity")) return fabs(expected) * (is_error ? 2 : 1) * LOG_TOLERANCE;
    if (strstr(key, "bits_per_byte")) return LOG_TOLERANCE;
    return is_error ? ERROR_TOLERANCE : 1e-12;
}

/* The results under lm-eval's names. TruthfulQA's second "acc" is a share of probability. */
static void compare_results(const json_t *values, const json_t *golden)
{
    const char *key;
    json_t *expected;
    bool is_mc2 = strstr(where, "mc2") != NULL;
    assert_true(json_object_size(golden) > 0);
    json_object_foreach((json_t *)golden, key, expected)
    {
        double number = json_number_value(expected);
        const json_t *value = json_object_get(values, key);
        if (!json_is_number(value)) fail_msg("%s: there is no %s", where, key);
        assert_near(key, json_number_value(value), number,
                    is_mc2 ? LOG_TOLERANCE : tolerance_of(key, number));
    }
}

/* --- Samples ---------------------------------------------------------------------------------- */

/* Answers are equal but for white space around them, which Lathe takes away only to compare. */
static void compare_texts(const char *ours, const char *golden)
{
    static const char space[] = " \t\n";
    ours += strspn(ours, space);
    golden += strspn(golden, space);
    size_t a = strlen(ours), b = strlen(golden);
    while (a > 0 && strchr(space, ours[a - 1]))
        a--;
    while (b > 0 && strchr(space, golden[b - 1]))
        b--;
    if (a != b || memcmp(ours, golden, a) != 0)
        fail_msg("%s: the answer is \"%s\", not \"%s\"", where, ours, golden);
}

/* Ours are texts, as in lm-eval's own files: "-1.5" and "True". */
static void compare_response(const json_t *ours, const json_t *golden)
{
    if (json_is_string(golden)) {
        compare_texts(json_string_value(ours), json_string_value(golden));
        return;
    }
    if (!json_is_array(golden)) {
        assert_near("a log-likelihood", strtod(json_string_value(ours), NULL),
                    json_number_value(golden), LOG_TOLERANCE);
        return;
    }
    assert_near("a log-likelihood", strtod(json_string_value(json_array_get(ours, 0)), NULL),
                json_number_value(json_array_get(golden, 0)), LOG_TOLERANCE);
    assert_string_equal(json_string_value(json_array_get(ours, 1)),
                        json_is_true(json_array_get(golden, 1)) ? "True" : "False");
}

/* Of several right choices Lathe also has the mutual information, whose likelihoods stand behind
 * the others. */
static void assert_size(const json_t *ours, const json_t *golden)
{
    size_t size = json_array_size(ours), wanted = json_array_size(golden);
    bool more = strstr(where, "several_right") && size == 2 * wanted;
    if (size != wanted && !more) fail_msg("%s: %zu responses, not %zu", where, size, wanted);
}

static void compare_sample(const json_t *ours, const json_t *golden)
{
    const json_t *a = json_object_get(ours, "filtered_resps");
    const json_t *b = json_object_get(golden, "filtered_resps");
    assert_size(a, b);
    for (size_t i = 0; i < json_array_size(b); i++)
        compare_response(json_array_get(a, i), json_array_get(b, i));
    a = json_object_get(ours, "resps");
    b = json_object_get(golden, "resps");
    assert_size(a, b);
    for (size_t i = 0; i < json_array_size(b); i++)
        compare_response(json_array_get(json_array_get(a, i), 0),
                         json_array_get(json_array_get(b, i), 0));
}

static json_t *read_samples(void)
{
    lt_name_list models = {0}, names = {0};
    lt_buffer path = {0}, file = {0}, text = {0};
    json_t *samples = json_array();
    OK(lt_list_directory(output, &models, err));
    for (size_t i = 0; i < models.count; i++) {
        OK(lt_path_join(&path, output, models.names[i], err));
        if (!lt_is_directory(path.data)) continue;
        OK(lt_list_directory(path.data, &names, err));
        for (size_t k = 0; k < names.count; k++) {
            if (strncmp(names.names[k], "samples_", 8) != 0) continue;
            OK(lt_path_join(&file, path.data, names.names[k], err));
            OK(lt_read_file(file.data, 1 << 24, &text, err));
        }
        lt_name_list_free(&names);
    }
    for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *sample;
        OK(lt_json_parse(line, strlen(line), "samples", &sample, err));
        json_array_append_new(samples, sample);
    }
    lt_name_list_free(&models);
    lt_buffer_free(&path);
    lt_buffer_free(&file);
    lt_buffer_free(&text);
    return samples;
}

static const json_t *find_sample(const json_t *samples, const json_t *golden)
{
    const json_t *doc = json_object_get(golden, "doc_id"),
                 *filter = json_object_get(golden, "filter");
    size_t i;
    json_t *sample;
    json_array_foreach((json_t *)samples, i, sample)
    {
        if (json_equal(json_object_get(sample, "doc_id"), (json_t *)doc) &&
            json_equal(json_object_get(sample, "filter"), (json_t *)filter))
            return sample;
    }
    fail_msg("%s: there is no sample of document %lld", where, (long long)json_integer_value(doc));
    return NULL;
}

static void compare_samples(const json_t *golden)
{
    json_t *samples = read_samples(), *expected;
    size_t i;
    assert_int_equal(json_array_size(samples), json_array_size(golden));
    json_array_foreach((json_t *)golden, i, expected)
        compare_sample(find_sample(samples, expected), expected);
    json_decref(samples);
}

/* --- Runs ------------------------------------------------------------------------------------- */

/* "FORMAT=FILE" of the golden folder. */
static void golden_word(const char *word, char *out, size_t size)
{
    const char *equals = strchr(word, '=');
    int format = equals ? (int)(equals + 1 - word) : 0;
    snprintf(out, size, "%.*s" GOLDEN "tasks/%s", format, word, word + format);
}

static void compare_categories(const json_t *results, const char *task, const json_t *golden)
{
    const char *name;
    json_t *expected;
    json_object_foreach((json_t *)golden, name, expected)
    {
        char key[256];
        snprintf(key, sizeof key, "%s/%s", task, name);
        compare_results(json_object_get(results, key), expected);
    }
}

static void compare_run(const char *model, const json_t *golden)
{
    const char *word = json_string_value(json_object_get(golden, "word"));
    const char *examples = json_string_value(json_object_get(golden, "fewshot_path"));
    int64_t shots = json_integer_value(json_object_get(golden, "num_fewshot"));
    char path[512], word_path[512], examples_path[512];
    lt_evaluation_result result;
    snprintf(where, sizeof where, "%s, %s, %d-shot", model, word, (int)shots);
    snprintf(path, sizeof path, GOLDEN "evaluation/%s", model);
    golden_word(word, word_path, sizeof word_path);
    snprintf(examples_path, sizeof examples_path, GOLDEN "tasks/%s", examples ? examples : "");
    char *words[] = {word_path};
    const lt_evaluation_settings settings = {
        .model = {path, NULL},
        .tasks = {words, 1},
        .num_fewshot = shots,
        .fewshot_data = examples ? examples_path : NULL,
        .max_new_tokens = 16,
        .resamples = 1000,
        .output = output,
        .machine = {.device = "cpu", .threads = 1},
    };
    lt_err err = {0};
    if (lt_evaluation_run(&settings, NULL, &result, &err) != LT_OK)
        fail_msg("%s: %s", where, err.message);
    const json_t *results = json_object_get(result.json, "results");
    const char *task = json_object_iter_key(json_object_iter((json_t *)results));
    compare_results(json_object_get(results, task), json_object_get(golden, "results"));
    compare_categories(results, task, json_object_get(golden, "categories"));
    compare_samples(json_object_get(golden, "samples"));
    lt_evaluation_result_free(&result);
    OK(lt_remove_tree(output, err));
}

static void compare_model(const char *model)
{
    json_t *golden, *run;
    size_t i;
    bool memory = access("/dev/shm", W_OK) == 0;
    snprintf(output, sizeof output, "%s/lathe-parity-%ld", memory ? "/dev/shm" : "/tmp",
             (long)getpid());
    OK(lt_remove_tree(output, err));
    OK(lt_json_load(GOLDEN "tasks/results.json", &golden, err));
    assert_true(json_array_size(json_object_get(golden, model)) > 20);
    json_array_foreach(json_object_get(golden, model), i, run) compare_run(model, run);
    json_decref(golden);
}

static void test_gpt2(void **state)
{
    (void)state;
    compare_model("gpt2_words");
}

static void test_llama(void **state)
{
    (void)state;
    compare_model("llama_words");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gpt2), cmocka_unit_test(test_llama)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
