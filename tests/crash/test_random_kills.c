/* Kills a program that saves one generation after the other at random moments. Afterwards the
 * target must be one whole generation, no older than the last that was reported as saved, and
 * lt_remove_stale_temporaries must leave nothing else. LATHE_LONG_TESTS: many more kills. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/rng.h"
#include "content.h"

static char folder[] = "/tmp/lathe-kills-XXXXXX";

/* Checks that `path` is file `number` of some generation and returns which. */
static int read_generation(const char *path, int number)
{
    static unsigned char expected[CONTENT_MAX];
    lt_buffer text = {0};
    int generation = -1;
    assert_int_equal(lt_read_file(path, CONTENT_MAX, &text, NULL), LT_OK);
    assert_int_equal(sscanf(lt_buffer_text(&text), "generation %d", &generation), 1);
    fill_content(generation, number, expected);
    assert_int_equal(text.size, CONTENT_SIZE(number));
    assert_memory_equal(text.data, expected, text.size);
    lt_buffer_free(&text);
    return generation;
}

/* The generation of the target, 0 when it is not there. */
static int target_generation(const char *target, bool directory)
{
    if (!lt_path_exists(target)) return 0;
    if (!directory) return read_generation(target, 0);
    int generation = 0;
    for (int i = 0; i < FILE_COUNT; i++) {
        char path[100];
        snprintf(path, sizeof path, "%s/file%d", target, i);
        int one = read_generation(path, i);
        if (i) assert_int_equal(one, generation);
        generation = one;
    }
    return generation;
}

/* Lets it save from generation `first` on, kills it after `delay` microseconds, and returns the
 * last generation that it reported. */
static int save_and_kill(const char *mode, const char *target, int first, useconds_t delay)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", first);
        dup2(ends[1], 1);
        close(ends[0]);
        execl(SAVE_VICTIM, SAVE_VICTIM, mode, target, number, (char *)NULL);
        _exit(99);
    }
    close(ends[1]);
    usleep(delay);
    kill(child, SIGKILL);
    int status, last = first - 1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    FILE *reports = fdopen(ends[0], "r");
    assert_non_null(reports);
    while (fscanf(reports, "%d", &last) == 1)
        ;
    fclose(reports);
    return last;
}

static void kill_repeatedly(const char *mode, bool directory)
{
    char target[64];
    snprintf(target, sizeof target, "%s/%s", folder, directory ? "directory" : "file");
    int kills = getenv("LATHE_LONG_TESTS") ? 3000 : 60, generation = 0;
    uint64_t range = 10000; /* microseconds */
    for (int i = 0; i < kills; i++) {
        uint64_t delay = 500 + lt_random_below(7, (uint64_t)directory, (uint64_t)i, range);
        int saved = save_and_kill(mode, target, generation + 1, (useconds_t)delay);
        lt_name_list names;
        assert_int_equal(lt_remove_stale_temporaries(folder, NULL), LT_OK);
        assert_int_equal(lt_list_directory(folder, &names, NULL), LT_OK);
        for (size_t n = 0; n < names.count; n++)
            assert_false(lt_is_temporary_name(names.names[n]));
        lt_name_list_free(&names);
        int found = target_generation(target, directory);
        assert_true(found == saved || found == saved + 1);
        assert_true(found >= generation);
        /* about every second save shall succeed, however fast the machine and its disk are */
        if (found > generation)
            range -= range / 8;
        else if (range < 1000000)
            range += range / 4;
        generation = found;
    }
    print_message("%d kills, %d generations saved\n", kills, generation);
    assert_true(generation > 0);
}

static void killed_while_saving_a_file(void **state)
{
    (void)state;
    kill_repeatedly("loop-file", false);
}

static void killed_while_replacing_a_directory(void **state)
{
    (void)state;
    kill_repeatedly("loop-replace", true);
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return lt_remove_tree(folder, NULL) == LT_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_while_saving_a_file),
        cmocka_unit_test(killed_while_replacing_a_directory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
