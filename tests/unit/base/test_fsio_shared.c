/* A file that several processes write, and what it comes to when one of them fails;
 * tests/crash/ lets every operation of it go wrong. */
#include "../folder.h"
#include "../message.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char path[100];

static int set_up(void **state)
{
    if (make_folder(state) != 0) return -1;
    snprintf(path, sizeof path, "%s/file", folder);
    return 0;
}

static void pieces_of_several_make_one_file(void **state)
{
    (void)state;
    lt_shared_file files[3] = {0};
    ok(lt_shared_file_create(&files[0], path, 10, &err));
    ok(lt_shared_file_open(&files[1], path, &err));
    ok(lt_shared_file_open(&files[2], path, &err));
    ok(lt_shared_file_write(&files[2], 7, "ghi", 3, &err));
    ok(lt_shared_file_write(&files[0], 0, "abc", 3, &err));
    ok(lt_shared_file_finish(&files[0], &err));
    ok(lt_shared_file_write(&files[1], 4, "ef", 2, &err));
    ok(lt_shared_file_write(&files[1], 3, "d", 1, &err));
    ok(lt_shared_file_finish(&files[1], &err));
    ok(lt_shared_file_finish(&files[2], &err));
    lt_buffer text = {0};
    ok(lt_read_file(path, 100, &text, &err));
    assert_int_equal(text.size, 10);
    assert_memory_equal(text.data, "abcdef\0ghi", 10); /* nobody wrote byte 6 */
    lt_buffer_free(&text);
    for (int i = 0; i < 3; i++)
        lt_shared_file_abort(&files[i]); /* harmless now */
}

/* The room is there, or the lack of it is known, before anything is written. */
static void it_has_its_size_at_once(void **state)
{
    (void)state;
    lt_shared_file file;
    struct stat info;
    ok(lt_shared_file_create(&file, path, 1 << 20, &err));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 1 << 20);
    lt_shared_file_abort(&file);
    assert_true(lt_path_exists(path)); /* it goes with its directory */
    assert_int_equal(unlink(path), 0);
    ok(lt_shared_file_create(&file, path, 0, &err));
    ok(lt_shared_file_finish(&file, &err));
}

static void failures_name_the_file(void **state)
{
    (void)state;
    lt_shared_file file;
    assert_int_equal(lt_shared_file_open(&file, path, &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, path));
    ok(lt_shared_file_create(&file, path, 4, &err));
    ok(lt_shared_file_finish(&file, &err));
    assert_int_equal(lt_shared_file_create(&file, path, 4, &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(lt_shared_file_create(&file, path, UINT64_MAX, &err), LT_ERR_IO);
    lt_shared_file_abort(&file);
}

static void a_file_beyond_the_limit_is_refused(void **state)
{
    (void)state;
    struct rlimit before, small;
    lt_shared_file file;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 1000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    lt_status created = lt_shared_file_create(&file, path, 2000, &err);
    lt_status within = unlink(path) == 0 ? lt_shared_file_create(&file, path, 900, NULL) : created;
    lt_status beyond = lt_shared_file_write(&file, 999, "ab", 2, NULL);
    lt_shared_file_abort(&file);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(created, LT_ERR_IO);
    assert_non_null(strstr(err.message, "cannot be given its size"));
    assert_int_equal(within, LT_OK);
    assert_int_equal(beyond, LT_ERR_IO);
}

static lt_status refuse(void *context, lt_status mine, lt_err *why)
{
    assert_int_equal(mine, *(const lt_status *)context);
    return lt_fail(why, LT_ERR_LIMIT, "another one");
}

static void one_process_agrees_with_itself(void **state)
{
    (void)state;
    lt_status mine = LT_ERR_IO;
    const lt_file_group group = {.rank = 1, .world_size = 2, .context = &mine, .agree = refuse};
    assert_int_equal(lt_group_agree(NULL, LT_ERR_IO, &err), LT_ERR_IO);
    assert_int_equal(lt_group_agree(NULL, LT_OK, &err), LT_OK);
    assert_true(lt_group_leads(NULL));
    assert_int_equal(lt_group_agree(&group, mine, &err), LT_ERR_LIMIT);
    assert_false(lt_group_leads(&group));
    assert_true(lt_group_leads(&(lt_file_group){.world_size = 2}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pieces_of_several_make_one_file, set_up, remove_folder),
        cmocka_unit_test_setup_teardown(it_has_its_size_at_once, set_up, remove_folder),
        cmocka_unit_test_setup_teardown(failures_name_the_file, set_up, remove_folder),
        cmocka_unit_test_setup_teardown(a_file_beyond_the_limit_is_refused, set_up, remove_folder),
        cmocka_unit_test(one_process_agrees_with_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
