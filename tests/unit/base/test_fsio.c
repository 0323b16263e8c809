/* Files: reading, mapping, copying; paths and directories. */
#include "../folder.h"

#include <fcntl.h>
#include <sys/stat.h>

static lt_err err;

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void reading_respects_the_limit(void **state)
{
    (void)state;
    put(at("a"), "12345");
    lt_buffer text = {0};
    assert_int_equal(lt_buffer_append_text(&text, ">", &err), LT_OK);
    assert_int_equal(lt_read_file(at("a"), 5, &text, &err), LT_OK);
    assert_string_equal(text.data, ">12345");
    assert_int_equal(lt_read_file(at("a"), 4, &text, &err), LT_ERR_LIMIT);
    assert_non_null(strstr(err.message, at("a")));
    assert_string_equal(text.data, ">12345"); /* nothing half-appended */
    assert_int_equal(lt_read_file(at("missing"), 5, &text, &err), LT_ERR_IO);
    assert_int_equal(lt_read_file(folder, 5, &text, &err), LT_ERR_IO);
    put(at("empty"), "");
    assert_int_equal(lt_read_file(at("empty"), 0, &text, &err), LT_OK);
    assert_int_equal(lt_read_file("/dev/zero", 3 << 20, &text, &err), LT_ERR_LIMIT);
    assert_string_equal(text.data, ">12345");
    lt_buffer_free(&text);
}

static void reading_takes_pipes_and_files_without_a_size(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "through a pipe", 14), 14);
    close(ends[1]);
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[0]);
    lt_buffer text = {0};
    assert_int_equal(lt_read_file(path, 100, &text, &err), LT_OK);
    assert_string_equal(text.data, "through a pipe");
    close(ends[0]);
    lt_buffer_clear(&text);
    assert_int_equal(lt_read_file("/proc/self/status", 1 << 20, &text, &err), LT_OK);
    assert_non_null(strstr(text.data, "Name:"));
    lt_buffer_free(&text);
}

static void mapping(void **state)
{
    (void)state;
    lt_mapped_file file;
    put(at("a"), "12345");
    assert_int_equal(lt_map_file(at("a"), &file, &err), LT_OK);
    assert_int_equal(file.size, 5);
    assert_memory_equal(file.data, "12345", 5);
    lt_unmap_file(&file);
    lt_unmap_file(&file); /* harmless */
    put(at("empty"), "");
    assert_int_equal(lt_map_file(at("empty"), &file, &err), LT_OK);
    assert_null(file.data);
    lt_unmap_file(&file);
    assert_int_equal(lt_map_file(folder, &file, &err), LT_ERR_IO);
    assert_int_equal(lt_map_file(at("missing"), &file, &err), LT_ERR_IO);
    assert_int_equal(mkfifo(at("fifo"), 0600), 0);
    assert_int_equal(lt_map_file(at("fifo"), &file, &err), LT_ERR_IO); /* and does not wait */
    assert_null(file.data);
}

static void paths(void **state)
{
    (void)state;
    lt_buffer path = {0};
    const char *cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(lt_path_join(&path, cases[i][0], cases[i][1], &err), LT_OK);
        assert_string_equal(path.data, cases[i][2]);
    }
    lt_buffer_free(&path);

    static const char *const temporary[] = {"x.tmp-1",  "x.tmp-123-4", ".tmp-1",
                                            ".trash-x", ".trash-1-x",  "a.tmp-x.tmp-3"};
    static const char *const lasting[] = {
        "x", "x.tmp-",   "x.tmp-a",     "x.tmp-1a", "x.tmp",         "trash-x",
        "",  "x.tmp-1-", "x.tmp-1-2-3", ".trash",   "checkpoint-10", "x.tmp-1.h5"};
    for (size_t i = 0; i < sizeof temporary / sizeof *temporary; i++)
        assert_true(lt_is_temporary_name(temporary[i]));
    for (size_t i = 0; i < sizeof lasting / sizeof *lasting; i++)
        assert_false(lt_is_temporary_name(lasting[i]));

    assert_true(lt_is_plain_file_name("model-00001-of-00002.safetensors"));
    assert_true(lt_is_plain_file_name("..."));
    static const char *const odd[] = {"", ".", "..", "a/b", "/", "../x"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        assert_false(lt_is_plain_file_name(odd[i]));
}

static void directories(void **state)
{
    (void)state;
    assert_int_equal(lt_make_directories(at("a//b/c/"), &err), LT_OK);
    assert_true(lt_is_directory(at("a/b/c")));
    assert_int_equal(lt_make_directories(at("a/b/c"), &err), LT_OK);
    put(at("a/b/file"), "x");
    assert_int_equal(lt_make_directories(at("a/b/file"), &err), LT_ERR_IO);
    assert_int_equal(lt_make_directories(at("a/b/file/d"), &err), LT_ERR_IO);
    assert_int_equal(lt_make_directories("", &err), LT_ERR_USAGE);
    assert_true(lt_path_exists(at("a/b/file")) && !lt_is_directory(at("a/b/file")));
    assert_false(lt_path_exists(at("a/b/none")));

    /* links are removed, not followed */
    put(at("outside"), "kept");
    assert_int_equal(symlink(at("outside"), at("a/link")), 0);
    assert_int_equal(mkdir(at("other"), 0700), 0);
    put(at("other/inside"), "kept");
    assert_int_equal(symlink(at("other"), at("a/directory-link")), 0);
    assert_int_equal(lt_remove_tree(at("a"), &err), LT_OK);
    assert_false(lt_path_exists(at("a")));
    assert_true(lt_path_exists(at("outside")) && lt_path_exists(at("other/inside")));
    assert_int_equal(lt_remove_tree(at("a"), &err), LT_OK);
    assert_int_equal(lt_remove_tree(at("outside"), &err), LT_OK);
    assert_false(lt_path_exists(at("outside")));

    uint64_t bytes = 0;
    assert_int_equal(lt_free_space(folder, &bytes, &err), LT_OK);
    assert_true(bytes > 0);
    assert_int_equal(lt_free_space(at("missing"), &bytes, &err), LT_ERR_IO);
}

static void listing_is_sorted(void **state)
{
    (void)state;
    lt_name_list names;
    assert_int_equal(lt_list_directory(folder, &names, &err), LT_OK);
    assert_int_equal(names.count, 0);
    lt_name_list_free(&names);
    for (int i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof name, "f%02d", (i * 7) % 40);
        put(at(name), "");
    }
    put(at(".hidden"), "");
    put(at("F"), "");
    assert_int_equal(lt_list_directory(folder, &names, &err), LT_OK);
    assert_int_equal(names.count, 42);
    assert_string_equal(names.names[0], ".hidden");
    assert_string_equal(names.names[1], "F");
    assert_string_equal(names.names[2], "f00");
    assert_string_equal(names.names[41], "f39");
    lt_name_list_free(&names);
    assert_int_equal(lt_list_directory(at("F"), &names, &err), LT_ERR_IO);
    assert_null(names.names);
}

static void copying(void **state)
{
    (void)state;
    put(at("a"), "12345");
    assert_int_equal(lt_copy_file(at("a"), at("b"), &err), LT_OK);
    lt_buffer text = {0};
    assert_int_equal(lt_read_file(at("b"), 100, &text, &err), LT_OK);
    assert_string_equal(text.data, "12345");
    assert_int_equal(lt_copy_file(at("a"), at("a"), &err), LT_ERR_IO);
    assert_int_equal(link(at("a"), at("same")), 0);
    assert_int_equal(lt_copy_file(at("a"), at("same"), &err), LT_ERR_IO);
    lt_buffer_clear(&text);
    assert_int_equal(lt_read_file(at("a"), 100, &text, &err), LT_OK);
    assert_string_equal(text.data, "12345");
    assert_int_equal(lt_copy_file(at("missing"), at("c"), &err), LT_ERR_IO);
    assert_int_equal(lt_copy_file(folder, at("c"), &err), LT_ERR_IO);
    assert_false(lt_path_exists(at("c")));
    lt_buffer_free(&text);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reading_respects_the_limit),
        TEST(reading_takes_pipes_and_files_without_a_size),
        TEST(mapping),
        TEST(paths),
        TEST(directories),
        TEST(listing_is_sorted),
        TEST(copying),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
