/* The atomic commit without faults; tests/crash/ runs it with faults and kills. */
#include "../folder.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static lt_err err;

static void assert_holds(const char *path, const char *expected)
{
    lt_buffer text = {0};
    assert_int_equal(lt_read_file(path, 1000, &text, &err), LT_OK);
    assert_string_equal(lt_buffer_text(&text), expected);
    lt_buffer_free(&text);
}

static void assert_names(const char *expected)
{
    lt_name_list names;
    lt_buffer all = {0};
    assert_int_equal(lt_list_directory(folder, &names, &err), LT_OK);
    for (size_t i = 0; i < names.count; i++)
        lt_buffer_printf(&all, NULL, "%s%s", i ? " " : "", names.names[i]);
    assert_string_equal(lt_buffer_text(&all), expected);
    lt_name_list_free(&names);
    lt_buffer_free(&all);
}

static void a_file_appears_whole(void **state)
{
    (void)state;
    lt_new_file file = {0};
    lt_new_file_abort(&file); /* harmless on a zeroed one */
    assert_int_equal(lt_new_file_begin(&file, at("a"), &err), LT_OK);
    assert_int_equal(lt_new_file_write(&file, "12", 2, &err), LT_OK);
    assert_int_equal(lt_new_file_write(&file, "345", 3, &err), LT_OK);
    assert_int_equal(file.written, 5);
    assert_false(lt_path_exists(at("a")));
    assert_true(lt_is_temporary_name(strrchr(file.temporary, '/') + 1));
    assert_int_equal(lt_new_file_commit(&file, &err), LT_OK);
    assert_holds(at("a"), "12345");
    lt_new_file_abort(&file); /* and after a commit */
    assert_holds(at("a"), "12345");

    assert_int_equal(lt_write_file(at("a"), "new", 3, &err), LT_OK);
    assert_holds(at("a"), "new");
    assert_int_equal(lt_write_file(at("empty"), NULL, 0, &err), LT_OK);
    assert_holds(at("empty"), "");
    assert_int_equal(lt_new_file_begin(&file, at("a"), &err), LT_OK);
    lt_new_file_abort(&file);
    assert_names("a empty");
}

static void odd_targets_are_refused(void **state)
{
    (void)state;
    assert_int_equal(lt_write_file(folder, "x", 1, &err), LT_ERR_IO);
    assert_int_equal(lt_write_file("/dev/null", "x", 1, &err), LT_ERR_IO);
    assert_int_equal(lt_write_file("", "x", 1, &err), LT_ERR_IO);
    assert_int_equal(lt_write_file("/", "x", 1, &err), LT_ERR_IO);
    assert_int_equal(lt_write_file(at(".."), "x", 1, &err), LT_ERR_IO);
    assert_int_equal(lt_write_file(at("no/such/folder"), "x", 1, &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, "no/such/folder"));
    lt_new_directory directory;
    assert_int_equal(lt_new_directory_begin(&directory, ".", &err), LT_ERR_IO);
    assert_int_equal(lt_new_directory_begin(&directory, at("no/such"), &err), LT_ERR_IO);
    lt_new_directory_abort(&directory);
    assert_names("");
}

/* Puts a directory with one file at `path`. */
static lt_status put_directory(const char *path, const char *text, bool replace)
{
    lt_new_directory directory;
    lt_buffer name = {0};
    assert_int_equal(lt_new_directory_begin(&directory, path, &err), LT_OK);
    assert_int_equal(lt_path_join(&name, directory.temporary, "file", &err), LT_OK);
    assert_int_equal(lt_write_file(name.data, text, strlen(text), &err), LT_OK);
    lt_buffer_free(&name);
    return lt_new_directory_commit(&directory, replace, &err);
}

static void a_directory_appears_whole(void **state)
{
    (void)state;
    lt_new_directory directory = {0};
    lt_new_directory_abort(&directory); /* harmless on a zeroed one */
    assert_int_equal(put_directory(at("d/"), "one", false), LT_OK);
    assert_holds(at("d/file"), "one");
    assert_int_equal(put_directory(at("d"), "two", false), LT_ERR_IO);
    assert_non_null(strstr(err.message, "not empty"));
    assert_holds(at("d/file"), "one");
    assert_int_equal(put_directory(at("d"), "three", true), LT_OK);
    assert_holds(at("d/file"), "three");
    assert_int_equal(mkdir(at("empty"), 0700), 0);
    assert_int_equal(put_directory(at("empty"), "four", false), LT_OK);
    assert_holds(at("empty/file"), "four");
    assert_int_equal(put_directory(at("fresh"), "five", true), LT_OK);
    assert_holds(at("fresh/file"), "five");

    assert_int_equal(lt_write_file(at("plain"), "six", 3, &err), LT_OK);
    assert_int_equal(put_directory(at("plain"), "seven", true), LT_ERR_IO);
    assert_int_equal(put_directory(at("plain"), "seven", false), LT_ERR_IO);
    assert_holds(at("plain"), "six");
    assert_int_equal(symlink(at("d"), at("link")), 0);
    assert_int_equal(put_directory(at("link"), "eight", true), LT_ERR_IO);
    assert_holds(at("d/file"), "three");

    assert_int_equal(lt_new_directory_begin(&directory, at("never"), &err), LT_OK);
    lt_new_directory_abort(&directory);
    assert_names("d empty fresh link plain");
}

static void deep_directories_are_committed(void **state)
{
    (void)state;
    lt_new_directory directory;
    lt_buffer name = {0};
    assert_int_equal(lt_new_directory_begin(&directory, at("d"), &err), LT_OK);
    assert_int_equal(lt_path_join(&name, directory.temporary, "a/b", &err), LT_OK);
    assert_int_equal(lt_make_directories(name.data, &err), LT_OK);
    assert_int_equal(lt_path_join(&name, directory.temporary, "a/b/c", &err), LT_OK);
    assert_int_equal(lt_write_file(name.data, "deep", 4, &err), LT_OK);
    lt_buffer_free(&name);
    assert_int_equal(lt_new_directory_commit(&directory, false, &err), LT_OK);
    assert_holds(at("d/a/b/c"), "deep");
    assert_names("d");
}

/* A child that has a file and a directory in the making, until it is killed. */
static pid_t start_writer(void)
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        lt_new_file file;
        lt_new_directory directory;
        if (lt_new_file_begin(&file, at("file"), NULL) != LT_OK ||
            lt_new_directory_begin(&directory, at("directory"), NULL) != LT_OK ||
            write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char byte;
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
}

static size_t count_temporaries(void)
{
    lt_name_list names;
    size_t count = 0;
    assert_int_equal(lt_list_directory(folder, &names, &err), LT_OK);
    for (size_t i = 0; i < names.count; i++)
        count += lt_is_temporary_name(names.names[i]);
    lt_name_list_free(&names);
    return count;
}

static void leftovers_go_and_live_work_stays(void **state)
{
    (void)state;
    pid_t child = start_writer();
    assert_int_equal(count_temporaries(), 2);
    assert_int_equal(lt_remove_stale_temporaries(folder, &err), LT_OK);
    assert_int_equal(count_temporaries(), 2);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);

    lt_new_file own; /* our own work in progress is live too */
    assert_int_equal(lt_new_file_begin(&own, at("own"), &err), LT_OK);
    assert_int_equal(lt_remove_stale_temporaries(folder, &err), LT_OK);
    assert_int_equal(count_temporaries(), 1);
    assert_int_equal(lt_new_file_commit(&own, &err), LT_OK);
    assert_names("own");
    assert_int_equal(lt_remove_stale_temporaries(at("missing"), &err), LT_ERR_IO);
}

/* After a restart in a container the PID is often the same as that of the killed process. */
static void leftovers_of_the_same_pid_are_no_obstacle(void **state)
{
    (void)state;
    char name[64];
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "a.tmp-%ld-%d", (long)getpid(), i);
        assert_int_equal(mkdir(at(name), 0700), 0);
    }
    assert_int_equal(lt_write_file(at("a"), "new", 3, &err), LT_OK);
    assert_holds(at("a"), "new");
    assert_int_equal(lt_remove_stale_temporaries(folder, &err), LT_OK);
    assert_names("a");
}

static void trash_is_restored_when_it_is_the_only_version(void **state)
{
    (void)state;
    assert_int_equal(mkdir(at(".trash-12-a"), 0700), 0);
    assert_int_equal(mkdir(at(".trash-12-b"), 0700), 0);
    assert_int_equal(mkdir(at("b"), 0700), 0);
    assert_int_equal(mkdir(at(".trash-checkpoint"), 0700), 0);
    assert_int_equal(lt_write_file(at(".trash-12-a/file"), "old", 3, &err), LT_OK);
    assert_int_equal(lt_remove_stale_temporaries(folder, &err), LT_OK);
    assert_names("a b");
    assert_holds(at("a/file"), "old");
}

/* A file made in a directory of its own, then put in place; the status of that. */
static lt_status place_file(const char *text, const char *name, bool replace)
{
    lt_new_directory directory;
    lt_buffer path = {0};
    assert_int_equal(lt_new_directory_begin(&directory, at("one"), &err), LT_OK);
    assert_int_equal(lt_path_join(&path, directory.temporary, "inside", &err), LT_OK);
    assert_int_equal(lt_write_file(path.data, text, strlen(text), &err), LT_OK);
    lt_buffer_free(&path);
    return lt_new_directory_commit_file(&directory, name, replace, &err);
}

static void one_file_takes_the_directorys_name(void **state)
{
    (void)state;
    lt_buffer text = {0};
    lt_name_list names;
    assert_int_equal(place_file("first", "inside", false), LT_OK);
    assert_int_equal(place_file("second", "inside", false), LT_ERR_IO);
    assert_non_null(strstr(err.message, at("one")));
    assert_int_equal(lt_read_file(at("one"), 99, &text, &err), LT_OK);
    assert_string_equal(text.data, "first");
    assert_int_equal(place_file("third", "absent", true), LT_ERR_IO);
    assert_int_equal(place_file("third", "inside", true), LT_OK);
    lt_buffer_clear(&text);
    assert_int_equal(lt_read_file(at("one"), 99, &text, &err), LT_OK);
    assert_string_equal(text.data, "third");
    lt_buffer_free(&text);
    assert_int_equal(lt_list_directory(folder, &names, &err), LT_OK);
    assert_int_equal(names.count, 1); /* no temporary is left */
    lt_name_list_free(&names);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_file_takes_the_directorys_name),
        TEST(a_file_appears_whole),
        TEST(odd_targets_are_refused),
        TEST(a_directory_appears_whole),
        TEST(deep_directories_are_committed),
        TEST(leftovers_go_and_live_work_stays),
        TEST(leftovers_of_the_same_pid_are_no_obstacle),
        TEST(trash_is_restored_when_it_is_the_only_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
