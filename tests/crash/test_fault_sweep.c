/* Lets every single file operation of a save go wrong in every way (fault_shim.c) and checks after
 * each: the old version is whole or the new one is; the exit status is 0 exactly when the new one
 * is durable; nothing else is left behind, or, after a kill, nothing that
 * lt_remove_stale_temporaries does not remove.
 *
 * Durable is judged from the trace of operations by the rules of a disk that keeps only what was
 * fsynced, not from what the program says. With LATHE_LONG_TESTS also runs of several faults. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsio.h"
#include "content.h"

enum { NAME_MAX_BYTES = 200, ENTRY_MAX = 64, OLD = 1, NEW = 2 };

/* What is at the target: a generation number, or one of these. */
enum { ABSENT = -1, EMPTY = 0, DAMAGED = -2 };

typedef struct scenario {
    const char *name, *mode;
    int before; /* ABSENT, EMPTY or OLD */
    bool no_exchange;
} scenario;

typedef struct fault {
    const char *kind; /* NULL: none */
    long at, count;
} fault;

static char folder[64], target[100], trace[100], messages[100];

static bool is_file(const scenario *s)
{
    return strcmp(s->mode, "file") == 0;
}

/* --- A disk that keeps only what was fsynced ----------------------------------------------------
 */

typedef struct entry {
    char path[NAME_MAX_BYTES];
    bool dirty; /* written, or given new names, since its last fsync */
    bool lost;  /* its fsync failed: the data may be gone, whatever a second one says */
} entry;

typedef struct disk {
    entry entries[ENTRY_MAX];
    size_t count;
} disk;

static bool is_under(const char *path, const char *top)
{
    size_t size = strlen(top);
    return strncmp(path, top, size) == 0 && (path[size] == '\0' || path[size] == '/');
}

static void set_dirty(disk *d, const char *path, bool dirty, bool create)
{
    for (size_t i = 0; i < d->count; i++) {
        if (strcmp(d->entries[i].path, path) == 0) {
            d->entries[i].dirty = dirty || d->entries[i].lost;
            return;
        }
    }
    if (!create) return;
    assert_true(d->count < ENTRY_MAX);
    entry *e = &d->entries[d->count++];
    snprintf(e->path, sizeof e->path, "%s", path);
    e->dirty = dirty;
}

static void lose(disk *d, const char *path)
{
    for (size_t i = 0; i < d->count; i++)
        if (strcmp(d->entries[i].path, path) == 0) d->entries[i].lost = d->entries[i].dirty = true;
}

static void touch_parent(disk *d, const char *path)
{
    char parent[NAME_MAX_BYTES];
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = '\0';
    set_dirty(d, parent, true, true);
}

/* Moves everything at and below `from` to `to`, and the other way round for an exchange. */
static void move_entries(disk *d, const char *from, const char *to, bool exchange)
{
    size_t kept = 0;
    for (size_t i = 0; i < d->count; i++) {
        entry e = d->entries[i];
        bool moves = is_under(e.path, from), meets = is_under(e.path, to);
        if (meets && !exchange) continue; /* replaced */
        if (moves || meets) {
            char rest[NAME_MAX_BYTES];
            snprintf(rest, sizeof rest, "%s", e.path + strlen(moves ? from : to));
            int size = snprintf(e.path, sizeof e.path, "%s%s", moves ? to : from, rest);
            assert_true(size < NAME_MAX_BYTES);
        }
        d->entries[kept++] = e;
    }
    d->count = kept;
    touch_parent(d, from);
    touch_parent(d, to);
}

typedef struct outcome {
    long operations;
    bool durable;     /* the target, as made by this run, has reached the disk */
    char faulted[20]; /* what the operation at the fault was */
} outcome;

/* Plays the trace. */
static outcome judge(long fault_at)
{
    disk d = {0};
    outcome out = {0};
    FILE *file = fopen(trace, "r");
    char line[1000], operation[20], path[NAME_MAX_BYTES], other[NAME_MAX_BYTES];
    long result;
    while (file && fgets(line, sizeof line, file)) {
        other[0] = '\0';
        assert_true(sscanf(line, "%19s %ld %199s %199s", operation, &result, path, other) >= 3);
        if (out.operations++ == fault_at) strcpy(out.faulted, operation);
        if (result < 0 && strcmp(operation, "fsync") == 0) lose(&d, path);
        if (result < 0) continue;
        if (strcmp(operation, "create") == 0 || strcmp(operation, "mkdir") == 0) {
            set_dirty(&d, path, true, true);
            touch_parent(&d, path);
        } else if (strcmp(operation, "write") == 0 || strcmp(operation, "reserve") == 0) {
            set_dirty(&d, path, true, true);
        } else if (strcmp(operation, "fsync") == 0) {
            set_dirty(&d, path, false, false);
        } else if (strcmp(operation, "rename") == 0 || strcmp(operation, "exchange") == 0) {
            move_entries(&d, path, other, operation[0] == 'e');
        }
    }
    if (file) fclose(file);
    bool made = false, dirty = false;
    for (size_t i = 0; i < d.count; i++) {
        const entry *e = &d.entries[i];
        made = made || strcmp(e->path, target) == 0;
        dirty = dirty || (e->dirty && (is_under(e->path, target) || strcmp(e->path, folder) == 0));
    }
    out.durable = made && !dirty;
    return out;
}

/* --- The target ---------------------------------------------------------------------------------
 */

/* The generation whose file `number` is at `path`, or DAMAGED. */
static int generation_of(const char *path, int number)
{
    static unsigned char expected[CONTENT_MAX];
    lt_buffer text = {0};
    int generation = DAMAGED;
    if (lt_read_file(path, CONTENT_MAX, &text, NULL) == LT_OK) {
        for (int g = OLD; g <= NEW; g++) {
            fill_content(g, number, expected);
            if (text.size == CONTENT_SIZE(number) && memcmp(text.data, expected, text.size) == 0)
                generation = g;
        }
    }
    lt_buffer_free(&text);
    return generation;
}

static int target_state(const scenario *s)
{
    if (!lt_path_exists(target)) return ABSENT;
    if (is_file(s)) return generation_of(target, 0);
    lt_name_list names;
    assert_int_equal(lt_list_directory(target, &names, NULL), LT_OK);
    size_t count = names.count;
    lt_name_list_free(&names);
    if (count == 0) return EMPTY;
    int generation = 0;
    for (int i = 0; i < FILE_COUNT; i++) {
        char path[150];
        snprintf(path, sizeof path, "%s/file%d", target, i);
        int one = generation_of(path, i);
        if (one == DAMAGED || (i && one != generation)) return DAMAGED;
        generation = one;
    }
    return count == FILE_COUNT ? generation : DAMAGED;
}

static void prepare(const scenario *s)
{
    static unsigned char content[CONTENT_MAX];
    assert_int_equal(lt_remove_tree(target, NULL), LT_OK);
    assert_int_equal(lt_remove_tree(trace, NULL), LT_OK);
    if (s->before == ABSENT) return;
    if (!is_file(s)) assert_int_equal(mkdir(target, 0700), 0);
    for (int i = 0; s->before == OLD && i < (is_file(s) ? 1 : FILE_COUNT); i++) {
        char path[150];
        snprintf(path, sizeof path, is_file(s) ? "%s" : "%s/file%d", target, i);
        fill_content(OLD, i, content);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        assert_int_equal(fwrite(content, 1, CONTENT_SIZE(i), file), CONTENT_SIZE(i));
        assert_int_equal(fclose(file), 0);
    }
}

/* Is anything but the target in the folder? */
static bool has_leftovers(void)
{
    lt_name_list names;
    bool any = false;
    assert_int_equal(lt_list_directory(folder, &names, NULL), LT_OK);
    for (size_t i = 0; i < names.count; i++)
        any = any || strcmp(names.names[i], "target") != 0;
    lt_name_list_free(&names);
    return any;
}

/* --- One run ------------------------------------------------------------------------------------
 */

static void set_number(const char *name, long value)
{
    char text[24];
    snprintf(text, sizeof text, "%ld", value);
    setenv(name, text, 1);
}

/* The exit status of a save under this fault, or -1 when it was killed. */
static int run_victim(const scenario *s, fault f)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int output = open(messages, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(output, 2);
        setenv("LD_PRELOAD", FAULT_SHIM, 1);
        setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
        setenv("LATHE_FAULT_UNDER", folder, 1);
        setenv("LATHE_FAULT_TRACE", trace, 1);
        if (s->no_exchange) setenv("LATHE_FAULT_NO_EXCHANGE", "1", 1);
        if (f.kind) {
            setenv("LATHE_FAULT_KIND", f.kind, 1);
            set_number("LATHE_FAULT_AT", f.at);
            set_number("LATHE_FAULT_COUNT", f.count);
        }
        execl(SAVE_VICTIM, SAVE_VICTIM, s->mode, target, "2", (char *)NULL);
        _exit(99);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return -1;
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* A short write goes on, and so does what a signal interrupted, but for fsync and the changes of
 * names, whose outcome is then unknown. */
static bool is_harmless(fault f, const outcome *run)
{
    static const char *const repeatable[] = {"write", "reserve", "open", "create", "close"};
    if (strcmp(f.kind, "short") == 0) return true;
    for (size_t i = 0; i < sizeof repeatable / sizeof *repeatable; i++)
        if (strcmp(f.kind, "eintr") == 0 && strcmp(run->faulted, repeatable[i]) == 0) return true;
    return false;
}

static void check(const scenario *s, fault f)
{
    prepare(s);
    int status = run_victim(s, f);
    outcome run = judge(f.at);
    bool leftovers = has_leftovers();
    const char *wrong = NULL;
    if (status == -1) {
        if (strcmp(f.kind, "kill") != 0) wrong = "it was killed";
    } else if (status > 1) {
        wrong = "it crashed";
    } else if (status != 0 && is_harmless(f, &run)) {
        wrong = "failure was reported where trying again is right";
    } else if ((status == 0) != run.durable) {
        wrong = run.durable ? "it is durable, but failure was reported"
                            : "it is not durable, but success was reported";
    } else if (leftovers && f.count == 1) {
        wrong = "temporaries are left behind";
    }
    lt_err err = {0};
    if (lt_remove_stale_temporaries(folder, &err) != LT_OK)
        wrong = err.message;
    else if (has_leftovers())
        wrong = "the clean-up leaves temporaries";
    int after = target_state(s);
    if (after == ABSENT && s->before == EMPTY) after = EMPTY; /* nothing is lost with it */
    if (after != NEW && after != s->before) wrong = "neither the old nor the new version is there";
    if (status == 0 && after != NEW) wrong = "success, but the new version is not there";
    if (status == 1) { /* one clear message that names the file */
        lt_buffer text = {0};
        if (lt_read_file(messages, 4096, &text, NULL) != LT_OK || !strstr(text.data, target))
            wrong = "the message does not name the target";
        lt_buffer_free(&text);
    }
    if (wrong)
        fail_msg("%s, %s at operation %ld (%ld in a row): %s [exit %d, found %d; trace in %s]",
                 s->name, f.kind, f.at, f.count, wrong, status, after, trace);
}

/* --- The sweep ----------------------------------------------------------------------------------
 */

static const scenario scenarios[] = {
    {"new file", "file", ABSENT, false},
    {"replaced file", "file", OLD, false},
    {"new directory", "directory", ABSENT, false},
    {"new directory, by several", "together", ABSENT, false},
    {"directory for an empty one", "directory", EMPTY, false},
    {"replaced directory", "replace", OLD, false},
    {"replaced directory without exchange", "replace", OLD, true},
};
enum { SCENARIO_COUNT = sizeof scenarios / sizeof *scenarios };

/* The number of operations of a save that nothing disturbs. */
static long count_operations(const scenario *s)
{
    prepare(s);
    assert_int_equal(run_victim(s, (fault){0}), 0);
    outcome run = judge(-1);
    assert_true(run.durable);
    assert_int_equal(target_state(s), NEW);
    assert_false(has_leftovers());
    return run.operations;
}

static void every_single_fault(void **state)
{
    (void)state;
    static const char *const kinds[] = {"enospc", "eio", "short", "eintr", "kill"};
    long cases = 0;
    for (size_t i = 0; i < SCENARIO_COUNT; i++) {
        long operations = count_operations(&scenarios[i]);
        for (size_t kind = 0; kind < 5; kind++)
            for (long at = 0; at < operations; at++, cases++)
                check(&scenarios[i], (fault){kinds[kind], at, 1});
    }
    print_message("%ld cases\n", cases);
}

/* A disk that stays full or broken from some point on, or is so for a while. */
static void lasting_faults(void **state)
{
    (void)state;
    if (!getenv("LATHE_LONG_TESTS")) {
        print_message("skipped: set LATHE_LONG_TESTS=1\n");
        skip();
    }
    static const char *const kinds[] = {"enospc", "eio"};
    static const long counts[] = {2, 3, 5, -1};
    long cases = 0;
    for (size_t i = 0; i < SCENARIO_COUNT; i++) {
        long operations = count_operations(&scenarios[i]);
        for (size_t kind = 0; kind < 2; kind++)
            for (size_t c = 0; c < 4; c++)
                for (long at = 0; at < operations; at++, cases++)
                    check(&scenarios[i], (fault){kinds[kind], at, counts[c]});
    }
    print_message("%ld cases\n", cases);
}

static int set_up(void **state)
{
    (void)state;
    /* In memory where possible: what reaches the disk is judged from the trace anyway. */
    char made[64];
    snprintf(made, sizeof made, "%s/lathe-sweep-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(made) || !realpath(made, folder)) return -1;
    snprintf(target, sizeof target, "%s/target", folder);
    snprintf(trace, sizeof trace, "%s-trace", folder);
    snprintf(messages, sizeof messages, "%s-messages", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lt_remove_tree(folder, NULL);
    lt_remove_tree(trace, NULL);
    lt_remove_tree(messages, NULL);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_single_fault),
        cmocka_unit_test(lasting_faults),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
