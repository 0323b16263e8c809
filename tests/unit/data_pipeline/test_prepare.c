/* Files to a dataset: what is kept, dropped and held out, that threads change nothing, and that a
 * failure leaves nothing behind. */
#include "../folder.h"

#include "data_pipeline/data_pipeline.h"

#define TOKENIZER LATHE_TEST_DIR "/golden/dolly"

static char input[256], output[256];

static void put(const char *name, const char *text)
{
    snprintf(input, sizeof input, "%s/%s", folder, name);
    assert_int_equal(lt_write_file(input, text, strlen(text), NULL), LT_OK);
}

/* 200 records; every tenth is long, every twentieth repeats the one before. */
static void put_records(void)
{
    static const char *const words[] = {"amber", "birch", "cedar", "dune",
                                        "ember", "fjord", "grove"};
    lt_buffer text = {0};
    for (int i = 0; i < 200; i++) {
        int n = i % 20 == 19 ? i - 1 : i;
        lt_buffer_printf(&text, NULL,
                         "{\"instruction\":\"Which %s is number %d of %s?\",\"context\":\"\","
                         "\"response\":\"%s %d\",\"category\":\"%s\"}\n",
                         words[n % 7], n * n, words[n * 3 % 5],
                         n % 10 == 5 ? "a very long answer that goes on and on and on and on until "
                                       "it has far more tokens than the others have, which is what "
                                       "it is here for, and so it says a little more, and more"
                                     : "It is",
                         n * 37, n % 2 ? "odd" : "even");
    }
    put("records.jsonl", text.data);
    lt_buffer_free(&text);
}

static char *inputs[2];

static lt_prepare_settings settings_of(void)
{
    inputs[0] = input;
    snprintf(output, sizeof output, "%s/data.h5", folder);
    return (lt_prepare_settings){
        .inputs = {inputs, 1}, .tokenizer = TOKENIZER, .output = output, .seed = 1, .force = true};
}

static lt_prepare_report prepare(const lt_prepare_settings *settings)
{
    lt_prepare_report report;
    lt_err err = {0};
    if (lt_prepare(settings, &report, &err) != LT_OK) fail_msg("%s", err.message);
    return report;
}

static lt_dataset *open_output(void)
{
    lt_dataset *dataset = NULL;
    lt_err err = {0};
    if (lt_dataset_open(output, &dataset, &err) != LT_OK) fail_msg("%s", err.message);
    return dataset;
}

static void records_become_documents(void **state)
{
    (void)state;
    put_records();
    lt_prepare_settings settings = settings_of();
    settings.validation = 0.1;
    settings.max_length = 120;
    lt_prepare_report report = prepare(&settings);
    assert_int_equal(report.read, 200);
    assert_int_equal(report.dropped_too_long, 20);
    assert_int_equal(report.validation, 18);
    assert_int_equal(report.train, 162);
    assert_int_equal(report.added_special_tokens, 3);
    assert_true(report.longest < 120);
    lt_dataset *dataset = open_output();
    const lt_tokenizer *tokenizer = lt_dataset_tokenizer(dataset);
    assert_int_equal(lt_tokenizer_token_id(tokenizer, "### End"), 600);
    assert_int_equal(lt_tokenizer_token_id(tokenizer, "### Response:\n"), 602);
    lt_encoder *encoder = NULL;
    assert_int_equal(lt_encoder_create(tokenizer, &encoder, NULL), LT_OK);
    for (int64_t i = 0; i < lt_dataset_count(dataset, LT_SPLIT_VALIDATION); i++) {
        lt_document document = lt_dataset_document(dataset, LT_SPLIT_VALIDATION, i);
        assert_int_equal(document.tokens[document.length - 1], 600);
        assert_true(document.mask[document.length - 1]);
        /* its record gives the same tokens again */
        lt_record record;
        lt_ids ids = {0};
        lt_buffer mask = {0};
        assert_int_equal(lt_dataset_record(dataset, LT_SPLIT_VALIDATION, i, &record, NULL), LT_OK);
        assert_int_equal(lt_template_encode(lt_dataset_template(dataset), encoder, tokenizer,
                                            &record, &ids, &mask, NULL),
                         LT_OK);
        assert_int_equal(ids.count, document.length);
        assert_memory_equal(ids.data, document.tokens, ids.count * sizeof *ids.data);
        assert_string_equal(document.category, record.category);
        lt_record_free(&record);
        lt_ids_free(&ids);
        lt_buffer_free(&mask);
    }
    lt_encoder_free(encoder);
    lt_dataset_close(dataset);
    settings.dedup = true;
    report = prepare(&settings);
    assert_int_equal(report.dropped_duplicates, 10);
    assert_int_equal(report.dropped_near_duplicates, 0);
    assert_int_equal(report.train + report.validation, 170);
    settings.validation = 7;
    assert_int_equal(prepare(&settings).validation, 7);
}

static void hash_of_output(char out[LT_HASH_TEXT_SIZE])
{
    assert_int_equal(lt_hash_file(output, 0, out, NULL), LT_OK);
}

static void threads_change_nothing_and_the_seed_does(void **state)
{
    (void)state;
    put_records();
    char hashes[4][LT_HASH_TEXT_SIZE];
    for (int i = 0; i < 4; i++) {
        lt_prepare_settings settings = settings_of();
        settings.validation = 0.2;
        settings.dedup = true;
        settings.threads = i < 3 ? 1 + 2 * i : 1;
        settings.seed = i == 3 ? 2 : 1;
        prepare(&settings);
        hash_of_output(hashes[i]);
    }
    assert_string_equal(hashes[0], hashes[1]);
    assert_string_equal(hashes[0], hashes[2]);
    assert_string_not_equal(hashes[0], hashes[3]);
}

static void plain_text_is_cut_for_validation(void **state)
{
    (void)state;
    put("book.txt", "One line.\nAnother line.\nThe third line is h\u00e9ld \u6f22out.\nLast.\n");
    lt_prepare_settings settings = settings_of();
    settings.validation = 0.4;
    lt_prepare_report report = prepare(&settings);
    assert_int_equal(report.format, LT_FORMAT_TEXT);
    assert_int_equal(report.read, 1);
    assert_int_equal(report.train, 1);
    assert_int_equal(report.validation, 1);
    assert_int_equal(report.trained_tokens, report.tokens - 2); /* all but the first of each */
    lt_dataset *dataset = open_output();
    lt_document train = lt_dataset_document(dataset, LT_SPLIT_TRAIN, 0);
    lt_buffer text = {0};
    assert_int_equal(lt_decode(lt_dataset_tokenizer(dataset), train.tokens, (size_t)train.length,
                               false, &text, NULL),
                     LT_OK);
    assert_string_equal(text.data, "<|endoftext|>One line.\nAnother line.\n<|endoftext|>");
    lt_buffer_free(&text);
    lt_record record;
    assert_int_equal(lt_dataset_record(dataset, LT_SPLIT_VALIDATION, 0, &record, NULL), LT_OK);
    assert_string_equal(record.text, "The third line is h\u00e9ld \u6f22out.\nLast.\n");
    lt_record_free(&record);
    lt_dataset_close(dataset);
    /* no line to cut after: between two characters */
    put("book.txt", "\u6f22\u6f22\u6f22\u6f22\u6f22");
    settings.validation = 0.5;
    report = prepare(&settings);
    assert_int_equal(report.train, 1);
    assert_int_equal(report.validation, 1);
}

static void assert_refuses(lt_prepare_settings settings, lt_status status, const char *word)
{
    lt_prepare_report report;
    lt_err err = {0};
    lt_name_list names = {0};
    unlink(output);
    assert_int_equal(lt_prepare(&settings, &report, &err), status);
    if (!strstr(err.message, word)) fail_msg("'%s' is not in: %s", word, err.message);
    assert_int_equal(lt_list_directory(folder, &names, NULL), LT_OK);
    for (size_t i = 0; i < names.count; i++)
        assert_null(strstr(names.names[i], "data.h5")); /* nor a temporary of it */
    lt_name_list_free(&names);
}

static void failures_leave_nothing(void **state)
{
    (void)state;
    put_records();
    lt_prepare_settings s = settings_of(), good = s;
    s.max_length = 20;
    assert_refuses(s, LT_ERR_FORMAT, "none of the 200 records is left");
    s = good, s.validation = 200;
    assert_refuses(s, LT_ERR_USAGE, "leave none to train on");
    s = good, s.validation = 1.5;
    assert_refuses(s, LT_ERR_USAGE, "--validation");
    s = good, s.columns = "foo=bar";
    assert_refuses(s, LT_ERR_USAGE, "'foo'");
    s = good, s.format = LT_FORMAT_ALPACA;
    assert_refuses(s, LT_ERR_FORMAT, "records.jsonl:1: the field 'output'");
    s = good, s.tokenizer = "/nonexistent";
    assert_refuses(s, LT_ERR_IO, "/nonexistent");
    s = good, s.output = input;
    assert_refuses(s, LT_ERR_USAGE, "one of the inputs");
    s = good, s.output = folder;
    assert_refuses(s, LT_ERR_USAGE, "is a directory");
    s = good, s.output = "/nonexistent/data.h5";
    assert_refuses(s, LT_ERR_USAGE, "/nonexistent");
    prepare(&good);
    char before[LT_HASH_TEXT_SIZE], after[LT_HASH_TEXT_SIZE];
    hash_of_output(before);
    s = good, s.force = false;
    lt_err err = {0};
    assert_int_equal(lt_prepare(&s, NULL, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "--force"));
    /* an error late in the file: what was there before stays */
    lt_buffer text = {0};
    assert_int_equal(lt_read_file(input, 1 << 20, &text, NULL), LT_OK);
    lt_buffer_append_text(&text, "{\"instruction\":\"i\"}\n", NULL);
    put("broken.jsonl", text.data);
    lt_buffer_free(&text);
    assert_int_equal(lt_prepare(&good, NULL, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "broken.jsonl:201:"));
    hash_of_output(after);
    assert_string_equal(before, after);
    put("empty.jsonl", "\n");
    assert_refuses(good, LT_ERR_FORMAT, "no record");
}

/* All of databricks-dolly-15k with Pythia's tokenizer. */
static void the_whole_of_dolly(void **state)
{
    (void)state;
    const char *assets = getenv("LATHE_TEST_ASSETS");
    if (!assets) {
        print_message("LATHE_TEST_ASSETS is not set: the real Dolly file is not tried\n");
        skip();
    }
    char tokenizer[512];
    snprintf(input, sizeof input, "%s/data/databricks-dolly-15k.jsonl", assets);
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizers/gpt-neox-20b", assets);
    lt_prepare_settings settings = settings_of();
    settings.tokenizer = tokenizer;
    settings.validation = 1000;
    lt_prepare_report report = prepare(&settings);
    print_message("%lld records in %.2f s\n", (long long)report.read, report.seconds);
    assert_int_equal(report.read, 15011);
    assert_int_equal(report.validation, 1000);
    assert_int_equal(report.train + report.validation + report.dropped_too_long, 15011);
    assert_true(report.seconds < 10);
    lt_dataset *dataset = open_output();
    assert_int_equal(lt_tokenizer_vocab_size(lt_dataset_tokenizer(dataset)), 50280);
    assert_int_equal(lt_tokenizer_token_id(lt_dataset_tokenizer(dataset), "### Response:\n"),
                     50279);
    lt_dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_become_documents),
        cmocka_unit_test(threads_change_nothing_and_the_seed_does),
        cmocka_unit_test(plain_text_is_cut_for_validation),
        cmocka_unit_test(failures_leave_nothing),
        cmocka_unit_test(the_whole_of_dolly),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
