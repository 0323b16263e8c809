/* Samples on disk: what is found again after a run was killed at any byte, and what is refused. */
#include "../folder.h"

#include <sys/stat.h>

#include "base/json.h"
#include "train/evaluation/model_identity.h"
#include "train/evaluation/output_names.h"
#include "train/evaluation/sample_store.h"

#define DATE  "2026-05-01T10:20:30.000001"
#define LATER "2026-05-02T10:20:30.000001"

#define PARTIAL at("samples_words.partial.jsonl")

/* --- A task and its samples ------------------------------------------------------------------- */

/* `count` documents whose texts have `bytes` bytes each. */
static lt_task make_task(lt_task_output output, int64_t count, size_t bytes)
{
    lt_task task = {.name = strdup("words"), .output = output, .doc_count = count};
    task.docs = calloc((size_t)count, sizeof *task.docs);
    for (int64_t i = 0; i < count; i++) {
        lt_task_pair *pair = calloc(1, sizeof *pair);
        pair->context = strdup("");
        pair->continuation = calloc(1, bytes + 1);
        memset(pair->continuation, 'x', bytes);
        task.docs[i] = (lt_task_doc){.pairs = pair, .record = -1};
        if (output == LT_TASK_MULTIPLE_CHOICE) task.docs[i].choice_count = 1;
    }
    return task;
}

static void free_task(lt_task *task)
{
    for (int64_t i = 0; i < task->doc_count; i++) {
        free(task->docs[i].pairs->context);
        free(task->docs[i].pairs->continuation);
        free(task->docs[i].pairs);
    }
    free(task->docs);
    free(task->name);
}

static json_t *make_sample(int64_t doc, const char *filter)
{
    json_t *out;
    char text[512];
    snprintf(text, sizeof text,
             "{\"doc_id\": %lld, \"filter\": \"%s\", \"acc\": %.17g, \"doc\": {\"size\": NaN, "
             "\"id\": 123456789012345678901234567890, \"text\": \"a\\nb \\u00e9\"}}",
             (long long)doc, filter, 1 / (double)(doc + 3));
    OK(lt_json_parse(text, strlen(text), "sample", &out, err));
    return out;
}

static lt_status add(lt_sample_store *store, int64_t doc, const char *filter, int64_t cut,
                     lt_err *err)
{
    json_t *sample = make_sample(doc, filter);
    lt_status status = lt_sample_store_add(store, doc, sample, cut, err);
    json_decref(sample);
    return status;
}

/* Scores whole blocks, their documents backwards, until `end`. */
static void fill(lt_sample_store *store, int64_t end)
{
    while (store->done < end) {
        for (int64_t i = lt_task_block_end(store->task, store->done) - 1; i >= store->done; i--)
            for (int64_t f = 0; f < store->filters; f++)
                OK(add(store, i,
                       store->task->filter_count > 0 ? store->task->filters[f].name : "none",
                       i % 3 == 0, err));
        OK(lt_sample_store_end_block(store, err));
    }
}

static json_t *identity_of(const char *model)
{
    return json_pack("{s:s, s:i, s:s}", "model", model, "batch size", 4, "task", "1234");
}

static lt_sample_store open_store(const lt_task *task, const char *model, const char *date,
                                  lt_buffer *notice)
{
    lt_sample_store store;
    lt_buffer ignored = {0};
    json_t *identity = identity_of(model);
    OK(lt_sample_store_open(task, folder, identity, date, &store, notice ? notice : &ignored, err));
    json_decref(identity);
    lt_buffer_free(&ignored);
    return store;
}

static void assert_samples(const lt_sample_store *store, int64_t count)
{
    for (int64_t i = 0; i < store->task->doc_count * store->filters; i++) {
        int64_t doc = i / store->filters;
        if (doc >= count) {
            assert_null(store->samples[i]);
            assert_false(store->cut[doc]);
            continue;
        }
        const char *filter =
            store->task->filter_count > 0 ? store->task->filters[i % store->filters].name : "none";
        json_t *expected = make_sample(doc, filter);
        assert_true(json_equal(store->samples[i], expected));
        assert_int_equal(store->cut[doc], doc % 3 == 0);
        json_decref(expected);
    }
}

static void put_file(const char *path, const char *text, size_t size)
{
    OK(lt_write_file(path, text, size, err));
}

static lt_buffer get_file(const char *path)
{
    lt_buffer out = {0};
    OK(lt_read_file(path, 1 << 24, &out, err));
    return out;
}

/* --- Blocks ----------------------------------------------------------------------------------- */

static void test_blocks(void **state)
{
    (void)state;
    lt_task task = make_task(LT_TASK_MULTIPLE_CHOICE, 600, 10);
    assert_int_equal(lt_task_block_end(&task, 0), 256);
    assert_int_equal(lt_task_block_end(&task, 256), 512);
    assert_int_equal(lt_task_block_end(&task, 512), 600);
    task.output = LT_TASK_GENERATE;
    assert_int_equal(lt_task_block_end(&task, 0), 32);
    assert_int_equal(lt_task_block_end(&task, 576), 600);
    free_task(&task);
    task = make_task(LT_TASK_ROLLING, 5, 90000);
    assert_int_equal(lt_task_block_end(&task, 0), 2);
    assert_int_equal(lt_task_block_end(&task, 4), 5);
    free_task(&task);
    task = make_task(LT_TASK_ROLLING, 2, 200000); /* a long one is a block of its own */
    assert_int_equal(lt_task_block_end(&task, 0), 1);
    free_task(&task);
}

/* --- Writing and reading ---------------------------------------------------------------------- */

static void test_in_memory(void **state)
{
    (void)state;
    lt_task task = make_task(LT_TASK_MULTIPLE_CHOICE, 300, 1);
    lt_sample_store store;
    OK(lt_sample_store_open(&task, NULL, NULL, DATE, &store, NULL, err));
    fill(&store, 300);
    assert_samples(&store, 300);
    assert_int_equal(lt_sample_store_cut_documents(&store), 100);
    OK(lt_sample_store_remove(&store, err));
    lt_sample_store_close(&store);
    free_task(&task);
}

/* Blocks of one document: the text of each is long. */
static lt_task small_blocks(int64_t count)
{
    return make_task(LT_TASK_ROLLING, count, 1 << 17);
}

static void test_going_on(void **state)
{
    (void)state;
    lt_task task = small_blocks(5);
    lt_sample_store store = open_store(&task, "m", DATE, NULL);
    assert_int_equal(store.resumed, 0);
    fill(&store, 3);
    lt_sample_store_close(&store);

    lt_buffer notice = {0};
    store = open_store(&task, "m", LATER, &notice);
    assert_int_equal(store.done, 3);
    assert_int_equal(store.resumed, 3);
    assert_string_equal(store.date, DATE); /* of the run that began it */
    assert_int_equal(notice.size, 0);
    assert_samples(&store, 3);
    fill(&store, 5);
    assert_samples(&store, 5);
    lt_sample_store_close(&store);

    store = open_store(&task, "m", LATER, NULL);
    assert_int_equal(store.done, 5);
    assert_int_equal(lt_sample_store_cut_documents(&store), 2);
    OK(lt_sample_store_remove(&store, err));
    lt_sample_store_close(&store);
    store = open_store(&task, "m", LATER, NULL);
    assert_int_equal(store.done, 0);
    assert_string_equal(store.date, LATER);
    lt_sample_store_close(&store);
    free_task(&task);
}

/* A block that was not finished is done again whole, and leaves nothing behind. */
static void test_half_block(void **state)
{
    (void)state;
    lt_task task = make_task(LT_TASK_MULTIPLE_CHOICE, 258, 1);
    lt_sample_store store = open_store(&task, "m", DATE, NULL);
    fill(&store, 256);
    OK(add(&store, 257, "none", 1, err));
    assert_int_equal(lt_sample_store_end_block(&store, &(lt_err){0}), LT_ERR_FORMAT);
    lt_sample_store_close(&store);
    store = open_store(&task, "m", DATE, NULL);
    assert_int_equal(store.done, 256);
    assert_samples(&store, 256);
    fill(&store, 258);
    lt_sample_store_close(&store);
    store = open_store(&task, "m", DATE, NULL);
    assert_samples(&store, 258);
    lt_sample_store_close(&store);
    free_task(&task);
}

/* Killed at any byte: what is found is a part of what was there, and the rest can follow. */
static void test_cut_anywhere(void **state)
{
    (void)state;
    lt_task task = small_blocks(4);
    lt_sample_store store = open_store(&task, "m", DATE, NULL);
    fill(&store, 4);
    lt_sample_store_close(&store);
    lt_buffer whole = get_file(PARTIAL);
    int64_t found[5] = {0};
    for (size_t size = 0; size <= whole.size; size++) {
        put_file(PARTIAL, whole.data, size);
        lt_buffer notice = {0};
        store = open_store(&task, "m", DATE, &notice);
        found[store.done]++;
        assert_samples(&store, store.done);
        fill(&store, 4);
        lt_sample_store_close(&store);
        lt_buffer again = get_file(PARTIAL);
        assert_int_equal(again.size, whole.size);
        assert_memory_equal(again.data, whole.data, whole.size);
        lt_buffer_free(&again);
        lt_buffer_free(&notice);
    }
    for (int i = 0; i < 4; i++)
        assert_true(found[i] > 50);
    assert_int_equal(found[4], 1);
    lt_buffer_free(&whole);
    free_task(&task);
}

/* A line that is damaged, of another document or there twice: on from the block before it. */
static void test_damaged_lines(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "\n",
        "{\"cut\":0}\n",
        "{\"cut\":0,\"sample\":{\"doc_id\":2}}\n",
        "{\"cut\":\"0\",\"sample\":{\"doc_id\":2,\"filter\":\"none\"}}\n",
        "{\"cut\":0,\"sample\":{\"doc_id\":2,\"filter\":\"strict\"}}\n",
        "{\"cut\":0,\"sample\":{\"doc_id\":1,\"filter\":\"none\"}}\n",
        "{\"cut\":0,\"sample\":{\"doc_id\":3,\"filter\":\"none\"}}\n",
        "{\"cut\":0,\"sample\":{\"doc_id\":-1,\"filter\":\"none\"}}\n",
        "{\"cut\":0,\"sample\":{\"doc_id\":99,\"filter\":\"none\"}}\n",
        "[]\n",
    };
    lt_task task = small_blocks(4);
    lt_sample_store store = open_store(&task, "m", DATE, NULL);
    fill(&store, 2);
    lt_sample_store_close(&store);
    lt_buffer good = get_file(PARTIAL);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        lt_buffer bad = {0};
        OK(lt_buffer_append(&bad, good.data, good.size, err));
        OK(lt_buffer_append_text(&bad, lines[i], err));
        put_file(PARTIAL, bad.data, bad.size);
        store = open_store(&task, "m", DATE, NULL);
        assert_int_equal(store.done, 2);
        assert_samples(&store, 2);
        lt_sample_store_close(&store);
        lt_buffer after = get_file(PARTIAL);
        assert_int_equal(after.size, good.size);
        lt_buffer_free(&after);
        lt_buffer_free(&bad);
    }
    lt_buffer_free(&good);
    free_task(&task);
}

static void test_two_filters(void **state)
{
    (void)state;
    lt_task task = make_task(LT_TASK_GENERATE, 40, 1);
    task.filters[0] = (lt_task_filter){.name = "strict"};
    task.filters[1] = (lt_task_filter){.name = "flexible"};
    task.filter_count = 2;
    lt_sample_store store = open_store(&task, "m", DATE, NULL);
    assert_int_equal(store.filters, 2);
    fill(&store, 32);
    for (int64_t i = 32; i < 40; i++)
        OK(add(&store, i, "strict", 0, err));
    assert_int_equal(lt_sample_store_end_block(&store, &(lt_err){0}), LT_ERR_FORMAT);
    lt_sample_store_close(&store);
    store = open_store(&task, "m", DATE, NULL);
    assert_int_equal(store.done, 32);
    assert_samples(&store, 32);
    lt_sample_store_close(&store);
    free_task(&task);
}

static void test_samples_out_of_place(void **state)
{
    (void)state;
    lt_task task = small_blocks(3);
    lt_sample_store store = open_store(&task, "m", DATE, NULL);
    lt_err err = {0};
    OK(add(&store, 0, "none", 0, err));
    assert_int_equal(add(&store, 0, "none", 0, &err), LT_ERR_FORMAT); /* twice */
    assert_int_equal(add(&store, 1, "none", 0, &err), LT_ERR_FORMAT); /* of the next block */
    assert_int_equal(add(&store, 3, "none", 0, &err), LT_ERR_FORMAT);
    assert_int_equal(add(&store, 0, "other", 0, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "words"));
    lt_sample_store_close(&store);
    free_task(&task);
}

/* --- Another evaluation ----------------------------------------------------------------------- */

static void test_put_aside(void **state)
{
    (void)state;
    lt_task task = small_blocks(3);
    lt_sample_store store = open_store(&task, "m", DATE, NULL);
    fill(&store, 2);
    lt_sample_store_close(&store);
    lt_buffer before = get_file(PARTIAL), notice = {0};

    store = open_store(&task, "other", LATER, &notice);
    assert_int_equal(store.done, 0);
    assert_string_equal(store.date, LATER);
    assert_samples(&store, 0);
    lt_sample_store_close(&store);
    assert_non_null(strstr(notice.data, "another model"));
    assert_null(strstr(notice.data, "batch size"));
    const char *kept = "samples_words_2026-05-02T10-20-30.000001.stale.jsonl";
    assert_non_null(strstr(notice.data, kept));
    lt_buffer aside = get_file(at(kept));
    assert_int_equal(aside.size, before.size);
    assert_memory_equal(aside.data, before.data, before.size);
    lt_buffer_free(&aside);
    lt_buffer_free(&before);
    lt_buffer_free(&notice);
    free_task(&task);
}

static void test_no_header(void **state)
{
    (void)state;
    static const char *const texts[] = {"hello\n",
                                        "",
                                        "{}\n",
                                        "{\"format\":\"lathe samples\"}\n",
                                        "{\"format\":\"lathe samples\",\"date\":\"../x\"}\n",
                                        "{\"format\":\"x\",\"date\":\"" DATE "\"}\n"};
    lt_task task = small_blocks(2);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        lt_buffer notice = {0};
        put_file(PARTIAL, texts[i], strlen(texts[i]));
        lt_sample_store store = open_store(&task, "m", DATE, &notice);
        assert_int_equal(store.done, 0);
        assert_non_null(strstr(notice.data, "no header"));
        fill(&store, 2);
        lt_sample_store_close(&store);
        lt_buffer_free(&notice);
    }
    free_task(&task);
}

static void test_unwritable(void **state)
{
    (void)state;
    lt_task task = small_blocks(2);
    lt_sample_store store;
    lt_err err = {0};
    json_t *identity = identity_of("m");
    assert_int_equal(lt_sample_store_open(&task, at("nowhere"), identity, DATE, &store, NULL, &err),
                     LT_ERR_IO);
    assert_non_null(strstr(err.message, "nowhere/samples_words.partial.jsonl"));
    json_decref(identity);
    free_task(&task);
}

/* --- Names and identities --------------------------------------------------------------------- */

static void assert_directory(const char *model, const char *adapter, const char *expected)
{
    lt_buffer out = {0};
    OK(lt_evaluation_model_directory("out", model, adapter, &out, err));
    assert_string_equal(out.data, expected);
    lt_buffer_free(&out);
}

static void test_names(void **state)
{
    (void)state;
    char longest[400] = "";
    lt_buffer out = {0};
    assert_directory("base", NULL, "out/base");
    assert_directory("run/final/", NULL, "out/run__final");
    assert_directory("/a//b:c", "x/y", "out/__a__b__c+x__y");
    assert_directory("../run", "./../../x/y", "out/run+x__y");
    assert_directory("../../", NULL, "out/.._");
    assert_directory(".", NULL, "out/._");
    assert_directory("..", NULL, "out/.._");
    assert_directory("caf\xC3\xA9\x1b[", NULL, "out/caf\xC3\xA9__");
    memset(longest, 'a', sizeof longest - 1);
    OK(lt_evaluation_model_directory("out", longest, NULL, &out, err));
    assert_int_equal(out.size, 4 + 33 + 126);
    OK(lt_evaluation_task_path("out", "samples_", "a/b", ".jsonl", &out, err));
    assert_string_equal(out.data, "out/samples_a__b.jsonl");
    lt_buffer_free(&out);
}

static void put_model(const char *name, const char *weights, const char *optimizer)
{
    char path[512];
    snprintf(path, sizeof path, "%s", at(name));
    OK(lt_make_directories(path, err));
    const struct {
        const char *file, *text;
    } files[] = {{"config.json", "{}"},
                 {"model.safetensors", weights},
                 {"optimizer.safetensors", optimizer},
                 {"notes.md", optimizer}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char file[640];
        snprintf(file, sizeof file, "%s/%s", path, files[i].file);
        put_file(file, files[i].text, strlen(files[i].text));
    }
}

static void test_identity(void **state)
{
    (void)state;
    char a[LT_HASH_TEXT_SIZE], b[LT_HASH_TEXT_SIZE];
    put_model("a", "weights", "state");
    put_model("b", "weights", "other");
    OK(lt_model_identity(at("a"), a, err));
    OK(lt_model_identity(at("b"), b, err));
    assert_string_equal(a, b);
    put_model("b", "weightz", "state");
    OK(lt_model_identity(at("b"), b, err));
    assert_string_not_equal(a, b);
    OK(lt_model_identity(at("b/model.safetensors"), a, err)); /* one file */
    assert_string_not_equal(a, b);
    assert_int_equal(lt_model_identity(at("nowhere"), a, &(lt_err){0}), LT_ERR_IO);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder_in_memory, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(test_blocks),       TEST(test_in_memory),
        TEST(test_going_on),     TEST(test_half_block),
        TEST(test_cut_anywhere), TEST(test_damaged_lines),
        TEST(test_two_filters),  TEST(test_samples_out_of_place),
        TEST(test_put_aside),    TEST(test_no_header),
        TEST(test_unwritable),   TEST(test_names),
        TEST(test_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
