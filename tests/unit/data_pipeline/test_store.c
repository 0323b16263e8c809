/* The dataset file: what is written comes back, and a file that was damaged anywhere is refused. */
#include "../folder.h"

#include <signal.h>
#include <sys/resource.h>

#include "base/rng.h"
#include "data_pipeline/store.h"

static void *copy_of(const void *data, size_t size)
{
    return memcpy(malloc(size), data, size);
}

/* Four training documents and one or no validation document. */
static lt_dataset *make_dataset(int validation)
{
    lt_dataset *dataset = calloc(1, sizeof *dataset);
    lt_err err = {0};
    if (lt_tokenizer_load(LATHE_TEST_DIR "/golden/dolly", &dataset->tokenizer, &err) != LT_OK)
        fail_msg("%s", err.message);
    static const int32_t tokens[] = {5, 6, 7, 8, 9, 10, 11, 12, 13, 599};
    static const uint8_t mask[] = {0, 1, 0, 1, 1, 0, 0, 1, 0, 1};
    static const uint64_t offsets[] = {0, 2, 5, 8, 10}, record_offsets[] = {0, 20};
    static const uint32_t category[] = {0, 1, LT_NO_CATEGORY, 0};
    lt_split_data *train = &dataset->splits[LT_SPLIT_TRAIN];
    lt_split_data *held = &dataset->splits[LT_SPLIT_VALIDATION];
    *train = (lt_split_data){.count = 4,
                             .token_count = 10,
                             .tokens = copy_of(tokens, sizeof tokens),
                             .mask = copy_of(mask, sizeof mask),
                             .offsets = copy_of(offsets, sizeof offsets),
                             .category = copy_of(category, sizeof category)};
    *held = (lt_split_data){.count = validation,
                            .token_count = validation ? 2 : 0,
                            .tokens = copy_of(tokens, 2 * sizeof *tokens),
                            .mask = copy_of(mask, 2),
                            .offsets = copy_of(offsets, 2 * sizeof *offsets),
                            .category = copy_of(category, sizeof *category),
                            .records = strdup("{\"text\":\"caf\u00e9 &c.\"}"),
                            .record_offsets = copy_of(record_offsets, sizeof record_offsets)};
    dataset->category_count = 2;
    dataset->categories = calloc(2, sizeof *dataset->categories);
    dataset->categories[0] = strdup("first");
    dataset->categories[1] = strdup("zweite \u00e4");
    dataset->report = (lt_prepare_report){.read = 9,
                                          .train = 4,
                                          .validation = validation,
                                          .dropped_too_long = 4,
                                          .tokens = 12,
                                          .trained_tokens = 6,
                                          .longest = 3,
                                          .format = LT_FORMAT_TEXT,
                                          .template_ = LT_TEMPLATE_PLAIN};
    dataset->max_length = 77;
    dataset->seed = UINT64_MAX - 1;
    strcpy(dataset->source_hash, "0123456789abcdef0123456789abcdef");
    return dataset;
}

static void write_dataset(const char *path, int validation)
{
    lt_err err = {0};
    lt_dataset *dataset = make_dataset(validation);
    if (lt_store_write(dataset, path, &err) != LT_OK) fail_msg("%s", err.message);
    lt_dataset_close(dataset);
}

static void what_is_written_comes_back(void **state)
{
    (void)state;
    for (int validation = 0; validation < 2; validation++) {
        write_dataset(at("a.h5"), validation);
        lt_dataset *dataset = NULL, *same = make_dataset(validation);
        lt_err err = {0};
        if (lt_dataset_open(at("a.h5"), &dataset, &err) != LT_OK) fail_msg("%s", err.message);
        for (int s = 0; s < 2; s++) {
            assert_int_equal(lt_dataset_count(dataset, s), same->splits[s].count);
            assert_int_equal(lt_dataset_longest(dataset, s), s ? 2 * validation : 3);
            for (int64_t i = 0; i < same->splits[s].count; i++) {
                lt_document a = lt_dataset_document(dataset, s, i);
                lt_document b = lt_dataset_document(same, s, i);
                assert_int_equal(a.length, b.length);
                assert_memory_equal(a.tokens, b.tokens, (size_t)b.length * sizeof *b.tokens);
                assert_memory_equal(a.mask, b.mask, (size_t)b.length);
                if (b.category)
                    assert_string_equal(a.category, b.category);
                else
                    assert_null(a.category);
            }
        }
        assert_memory_equal(lt_dataset_report(dataset), &same->report, sizeof same->report);
        assert_int_equal(lt_dataset_max_length(dataset), 77);
        assert_int_equal(dataset->seed, UINT64_MAX - 1);
        assert_string_equal(dataset->source_hash, same->source_hash);
        assert_string_equal(lt_tokenizer_hash(lt_dataset_tokenizer(dataset)),
                            lt_tokenizer_hash(same->tokenizer));
        assert_int_equal(lt_dataset_template(dataset), LT_TEMPLATE_PLAIN);
        assert_int_equal(lt_dataset_format(dataset), LT_FORMAT_TEXT);
        assert_int_equal(strlen(lt_dataset_hash(dataset)), 32);
        lt_record record;
        assert_int_equal(lt_dataset_record(dataset, LT_SPLIT_TRAIN, 0, &record, &err),
                         LT_ERR_USAGE);
        assert_int_equal(lt_dataset_record(dataset, LT_SPLIT_VALIDATION, validation, &record, &err),
                         LT_ERR_USAGE);
        if (validation) {
            assert_int_equal(lt_dataset_record(dataset, LT_SPLIT_VALIDATION, 0, &record, &err),
                             LT_OK);
            assert_string_equal(record.text, "caf\u00e9 &c.");
            lt_record_free(&record);
        }
        lt_dataset_close(dataset);
        lt_dataset_close(same);
    }
}

static unsigned char *read_bytes(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *data = malloc(*size + 1);
    assert_int_equal(fread(data, 1, *size, file), *size);
    fclose(file);
    return data;
}

static void assert_refused(const unsigned char *data, size_t size)
{
    const char *path = at("bad.h5");
    FILE *file = fopen(path, "wb");
    assert_int_equal(fwrite(data, 1, size, file), size);
    fclose(file);
    lt_dataset *dataset = NULL;
    lt_err err = {0};
    assert_int_equal(lt_dataset_open(path, &dataset, &err), LT_ERR_FORMAT);
    assert_null(dataset);
    assert_non_null(strstr(err.message, path));
}

static int tries(void)
{
    const char *many = getenv("LATHE_LONG_TESTS");
    return many && *many == '1' ? 20000 : 800;
}

static void damage_is_refused(void **state)
{
    (void)state;
    size_t size;
    write_dataset(at("a.h5"), 1);
    unsigned char *data = read_bytes(at("a.h5"), &size);
    /* every bit of the header's text and every tenth byte of the rest of it */
    for (size_t i = 0; i < 512; i += i < 96 ? 1 : 10) {
        data[i] ^= (unsigned char)(1 << i % 8);
        assert_refused(data, size);
        data[i] ^= (unsigned char)(1 << i % 8);
    }
    for (int i = 0; i < tries(); i++) {
        uint64_t at = lt_random_below(1, 1, (uint64_t)i, size);
        unsigned char bit = (unsigned char)(1 << lt_random_below(1, 2, (uint64_t)i, 8));
        data[at] ^= bit;
        assert_refused(data, size);
        data[at] ^= bit;
    }
    for (int i = 0; i < tries() / 2; i++)
        assert_refused(data, lt_random_below(1, 3, (uint64_t)i, size));
    data[size] = 0;
    assert_refused(data, size + 1);
    assert_refused((const unsigned char *)"\x89HDF\r\n\x1a\n", 8);
    free(data);
    lt_dataset *dataset = NULL;
    assert_int_equal(lt_dataset_open(at("missing.h5"), &dataset, NULL), LT_ERR_IO);
}

/* Changes to the content under a right hash: what checks the numbers themselves. */
static void wrong_numbers_are_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 9; i++) {
        lt_dataset *bad = make_dataset(1), *dataset = NULL;
        lt_split_data *train = &bad->splits[LT_SPLIT_TRAIN];
        lt_split_data *held = &bad->splits[LT_SPLIT_VALIDATION];
        if (i == 0) train->tokens[3] = 600; /* the vocabulary has 600 */
        if (i == 1) train->mask[4] = 2;
        if (i == 2) train->offsets[0] = 1;
        if (i == 3) train->offsets[2] = 9;
        if (i == 4) train->offsets[4] = 9;
        if (i == 5) train->offsets[2] = train->offsets[1];
        if (i == 6) train->category[1] = 2;
        if (i == 7) bad->report.train = 5;
        if (i == 8) held->offsets[1] = UINT64_MAX;
        lt_err err = {0};
        assert_int_equal(lt_store_write(bad, at("n.h5"), NULL), LT_OK);
        assert_int_equal(lt_dataset_open(at("n.h5"), &dataset, &err), LT_ERR_FORMAT);
        assert_non_null(strstr(err.message, "lathe prepare"));
        lt_dataset_close(bad);
    }
}

static void a_full_disk_leaves_nothing(void **state)
{
    (void)state;
    struct rlimit old, small;
    write_dataset(at("a.h5"), 1);
    size_t size, after;
    unsigned char *before = read_bytes(at("a.h5"), &size);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    for (rlim_t limit = 0; limit < size; limit += 1500) {
        small = old;
        small.rlim_cur = limit;
        lt_dataset *dataset = make_dataset(1);
        lt_err err = {0};
        setrlimit(RLIMIT_FSIZE, &small);
        lt_status status = lt_store_write(dataset, at("a.h5"), &err);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(status, LT_ERR_IO);
        assert_true(err.message[0]);
        lt_dataset_close(dataset);
        unsigned char *data = read_bytes(at("a.h5"), &after);
        assert_int_equal(size, after);
        assert_memory_equal(data, before, size);
        free(data);
        lt_name_list names = {0};
        assert_int_equal(lt_list_directory(folder, &names, NULL), LT_OK);
        for (size_t i = 0; i < names.count; i++)
            assert_false(lt_is_temporary_name(names.names[i]));
        lt_name_list_free(&names);
    }
    free(before);
}

/* The same content gives the same bytes. */
static void writing_is_deterministic(void **state)
{
    (void)state;
    size_t sizes[2];
    write_dataset(at("a.h5"), 1);
    unsigned char *a = read_bytes(at("a.h5"), &sizes[0]);
    sleep(1); /* no time stamps either */
    write_dataset(at("b.h5"), 1);
    unsigned char *b = read_bytes(at("b.h5"), &sizes[1]);
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(a, b, sizes[0]);
    free(a);
    free(b);
}

static void inspection_shows_everything(void **state)
{
    (void)state;
    write_dataset(at("a.h5"), 1);
    char *text = NULL;
    size_t size = 0;
    FILE *out = tmpfile();
    lt_err err = {0};
    if (lt_inspect_dataset(at("a.h5"), 2, out, &err) != LT_OK) fail_msg("%s", err.message);
    size = (size_t)ftell(out);
    rewind(out);
    text = calloc(1, size + 1);
    assert_int_equal(fread(text, 1, size, out), size);
    fclose(out);
    const char *const words[] = {"template         plain",
                                 "<|endoftext|>",
                                 "train            4",
                                 "validation       1",
                                 "too long (77",
                                 "      2 - 3",
                                 "zweite",
                                 "--- train 1",
                                 "[[",
                                 "--- validation 0",
                                 "records read     9"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strstr(text, words[i])) fail_msg("'%s' is not in:\n%s", words[i], text);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_comes_back), cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(wrong_numbers_are_refused),  cmocka_unit_test(a_full_disk_leaves_nothing),
        cmocka_unit_test(writing_is_deterministic),   cmocka_unit_test(inspection_shows_everything),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
