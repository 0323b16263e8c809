/* Shells as processes that run together: who failed first, what happens to the others, signals,
 * output, and that nobody is left. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/processes.h"

enum { MOST = 4 };

/* Each shell has its number in $N. */
typedef struct shells {
    const char *script[MOST];
    int count;
} shells;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static lt_status run(const shells *s, lt_processes_settings settings, lt_processes_end *end,
                     lt_err *err)
{
    char *arguments[MOST][4], names[MOST][16], *environment[MOST][3];
    lt_process processes[MOST];
    for (int i = 0; i < s->count; i++) {
        char *const words[] = {"/bin/sh", "-c", (char *)(uintptr_t)s->script[i], NULL};
        memcpy(arguments[i], words, sizeof words);
        snprintf(names[i], sizeof names[i], "N=%d", i);
        environment[i][0] = names[i];
        environment[i][1] = "LT_TEST_TAKEN_AWAY";
        environment[i][2] = NULL;
        processes[i] = (lt_process){arguments[i], environment[i]};
    }
    settings.processes = processes;
    settings.count = s->count;
    *err = (lt_err){0};
    return lt_processes_run(&settings, end, err);
}

static lt_processes_end run_well(const shells *s, lt_processes_settings settings)
{
    lt_processes_end end;
    lt_err err;
    if (run(s, settings, &end, &err) != LT_OK) fail_msg("%s", err.message);
    return end;
}

static const lt_processes_settings quick = {.grace = 0.3, .patience = 0.3, .orderly_code = 130};

static void collect(void *context, int stream, const char *text, size_t size)
{
    lt_buffer *out = context;
    assert_int_equal(text[size - 1], '\n');
    assert_int_equal(lt_buffer_printf(out, NULL, "%d:%.*s", stream, (int)size, text), LT_OK);
}

static void all_succeed(void **state)
{
    (void)state;
    const shells s = {{"exit 0", "sleep 0.1", ":"}, 3};
    lt_processes_end end = run_well(&s, quick);
    assert_int_equal(end.first, -1);
    assert_int_equal(end.exit_code, 0);
    assert_int_equal(end.signal, 0);
    assert_int_equal(end.stopped, 0);
}

static void the_first_failure_is_the_cause(void **state)
{
    (void)state;
    const shells codes = {{"sleep 20", "exit 7", "trap 'exit 3' TERM; sleep 20 & wait"}, 3};
    double begin = now();
    lt_processes_end end = run_well(&codes, quick);
    assert_true(now() - begin < 5);
    assert_int_equal(end.first, 1);
    assert_int_equal(end.exit_code, 7);
    assert_int_equal(end.signal, 0);
    const shells signals = {{"sleep 20", "sleep 20", "kill -9 $$"}, 3};
    end = run_well(&signals, quick);
    assert_int_equal(end.first, 2);
    assert_int_equal(end.exit_code, 0);
    assert_int_equal(end.signal, SIGKILL);
}

/* Found at one time, the one that a signal ended is the cause. */
static void a_signal_comes_before_a_code(void **state)
{
    (void)state;
    /* this process is stopped while both end */
    const shells s = {{"sleep 0.3; exit 1", "sleep 0.3; kill -11 $$",
                       "sleep 0.1; kill -STOP $PPID; sleep 0.8; kill -CONT $PPID"},
                      3};
    lt_processes_end end = run_well(&s, quick);
    assert_int_equal(end.first, 1);
    assert_int_equal(end.signal, SIGSEGV);
}

/* Gone, or waiting for init to take its remains. */
static void expect_ended(pid_t pid)
{
    char status[64], line[256] = "";
    for (int i = 0; i < 50 && kill(pid, 0) == 0; i++)
        usleep(10000);
    snprintf(status, sizeof status, "/proc/%d/stat", (int)pid);
    FILE *left = fopen(status, "r");
    if (left && fgets(line, sizeof line, left) && !strstr(line, ") Z"))
        fail_msg("process %d is left: %s", (int)pid, line);
    if (left) fclose(left);
}

/* Also what ignores SIGTERM, is stopped, or has started others. */
static void the_others_are_ended(void **state)
{
    (void)state;
    char path[] = "/tmp/lathe-processes-XXXXXX", text[256] = {0};
    close(mkstemp(path));
    setenv("PIDS", path, 1);
    const shells s = {{"trap '' TERM; echo $$ >>$PIDS; (trap '' TERM; echo x; sleep 20) & "
                       "echo $! >>$PIDS; wait",
                       "echo $$ >>$PIDS; kill -STOP $$", "echo $$ >>$PIDS; sleep 20",
                       "while [ $(wc -l <$PIDS) -lt 4 ]; do sleep 0.02; done; exit 1"},
                      4};
    double begin = now();
    lt_processes_end end = run_well(&s, quick);
    assert_true(now() - begin < 5);
    assert_int_equal(end.first, 3);
    FILE *file = fopen(path, "r");
    int pids = 0;
    while (fgets(text, sizeof text, file)) {
        pid_t pid = atoi(text);
        expect_ended(pid);
        pids++;
    }
    fclose(file);
    unlink(path);
    assert_int_equal(pids, 4);
}

static void what_is_left_behind_is_ended(void **state)
{
    (void)state;
    char path[] = "/tmp/lathe-processes-XXXXXX", text[256] = {0};
    close(mkstemp(path));
    setenv("PIDS", path, 1);
    const shells s = {{"sleep 20 & echo $! >>$PIDS; exit 0"}, 1};
    assert_int_equal(run_well(&s, quick).first, -1);
    FILE *file = fopen(path, "r");
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    unlink(path);
    pid_t pid = atoi(text);
    expect_ended(pid);
}

static void an_orderly_end_leaves_time(void **state)
{
    (void)state;
    lt_processes_settings patient = quick;
    patient.patience = patient.grace = 20;
    lt_buffer out = {0};
    patient.line = collect;
    patient.context = &out;
    const shells saving = {{"sleep 0.2; exit 130", "trap 'echo hurried' TERM; sleep 0.8; exit 130"},
                           2};
    lt_processes_end end = run_well(&saving, patient);
    assert_int_equal(end.first, 0);
    assert_int_equal(end.exit_code, 130);
    assert_string_equal(lt_buffer_text(&out), "");
    lt_buffer_free(&out);
    const shells hanging = {{"exit 130", "sleep 20"}, 2};
    double begin = now();
    end = run_well(&hanging, quick);
    assert_true(now() - begin < 5);
    assert_int_equal(end.exit_code, 130);
}

static int stopping_calls;

static void count_stopping(void *context, int signal)
{
    assert_ptr_equal(context, &stopping_calls);
    stopping_calls += signal;
}

/* A signal to this process reaches each of them once, and is waited for. */
static void stop_signals_are_passed_on_once(void **state)
{
    (void)state;
    lt_processes_settings settings = quick;
    settings.stopping = count_stopping;
    settings.context = &stopping_calls;
    static const char worker[] = "n=0; trap 'n=$((n+1))' USR1 INT TERM; [ $N = 0 ] && "
                                 "{ sleep 0.2; kill -TERM $PPID; sleep 0.1; kill -TERM $PPID; }; "
                                 "i=0; while [ $i -lt 25 ]; do sleep 0.02; i=$((i+1)); done; "
                                 "exit $((130 + n - 1))";
    const shells s = {{worker, worker, worker}, 3};
    stopping_calls = 0;
    lt_processes_end end = run_well(&s, settings);
    assert_int_equal(end.stopped, SIGTERM);
    assert_int_equal(end.exit_code, 130);
    assert_int_equal(stopping_calls, SIGTERM);
}

static void another_signal_can_stand_for_it(void **state)
{
    (void)state;
    lt_processes_settings settings = quick;
    settings.stop_signal = SIGUSR1;
    const shells s = {{"trap 'exit 130' USR1; trap 'exit 4' INT; kill -INT $PPID; sleep 9 & wait"},
                      1};
    lt_processes_end end = run_well(&s, settings);
    assert_int_equal(end.stopped, SIGINT);
    assert_int_equal(end.exit_code, 130);
    assert_false(end.at_once);
    /* the second SIGINT is passed on, and then there is an end to waiting */
    const shells again = {{"trap '' USR1; trap 'exit 4' INT; kill -INT $PPID; sleep 0.2; "
                           "kill -INT $PPID; sleep 9 & wait"},
                          1};
    end = run_well(&again, settings);
    assert_int_equal(end.exit_code, 4);
    assert_true(end.at_once);
    const shells deaf = {{"trap '' USR1 INT; kill -INT $PPID; sleep 0.2; kill -INT $PPID; "
                          "sleep 20 & wait"},
                         1};
    double begin = now();
    end = run_well(&deaf, settings);
    assert_true(now() - begin < 5);
    assert_int_equal(end.signal, SIGKILL);
}

static bool is_the_second(void *context, pid_t pid)
{
    pid_t *seen = context; /* the first that it was asked of: they are asked in order */
    if (!*seen) *seen = pid;
    return pid != *seen;
}

static void one_that_is_stuck_is_killed(void **state)
{
    (void)state;
    pid_t seen = 0;
    lt_processes_settings settings = quick;
    settings.is_stuck = is_the_second;
    settings.stuck_limit = 0.5;
    settings.context = &seen;
    const shells s = {{"exec sleep 20", "trap '' TERM; exec sleep 20"}, 2};
    double begin = now();
    lt_processes_end end = run_well(&s, settings);
    assert_true(now() - begin < 5);
    assert_int_equal(end.first, 1);
    assert_int_equal(end.signal, SIGKILL);
}

static void lines_are_told_whole(void **state)
{
    (void)state;
    lt_buffer out = {0};
    lt_processes_settings settings = quick;
    settings.line = collect;
    settings.context = &out;
    setenv("LT_TEST_TAKEN_AWAY", "x", 1);
    int typed[2]; /* what is typed is not for them */
    assert_int_equal(pipe(typed), 0);
    assert_int_equal(write(typed[1], "typed\n", 6), 6);
    dup2(typed[0], STDIN_FILENO);
    close(typed[0]);
    close(typed[1]);
    const shells s = {{"printf 'a%s' \"$LT_TEST_TAKEN_AWAY\"; sleep 0.1; printf 'b\\n\\nlast'; "
                       "sleep 0.1; echo error >&2; sleep 0.1; cat"},
                      1};
    lt_processes_end end = run_well(&s, settings);
    assert_int_equal(end.first, -1);
    assert_string_equal(lt_buffer_text(&out), "1:ab\n1:\n2:error\n1:last\n");
    lt_buffer_free(&out);
}

static void all_lines_of_a_long_output(void **state)
{
    (void)state;
    lt_buffer out = {0};
    lt_processes_settings settings = quick;
    settings.line = collect;
    settings.context = &out;
    const shells s = {{"i=0; while [ $i -lt 5000 ]; do echo $i-------------------------; "
                       "i=$((i+1)); done; head -c 300000 /dev/zero | tr '\\0' z"},
                      1};
    run_well(&s, settings);
    int lines = 0;
    for (size_t i = 0; i < out.size; i++)
        lines += out.data[i] == '\n';
    assert_int_equal(lines, 5001);
    lt_buffer_free(&out);
}

static void what_can_not_start(void **state)
{
    (void)state;
    char *const good[] = {"/bin/sleep", "20", NULL}, *const bad[] = {"/no/such/program", NULL};
    const lt_process processes[] = {{good, NULL}, {bad, NULL}};
    lt_processes_settings settings = quick;
    settings.processes = processes;
    settings.count = 2;
    lt_processes_end end;
    lt_err err = {0};
    double begin = now();
    assert_int_equal(lt_processes_run(&settings, &end, &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, "can not start /no/such/program: No such file"));
    assert_true(now() - begin < 5);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* and no child is left */
    assert_int_equal(errno, ECHILD);
}

/* The process that started them is killed. */
static void none_lives_on_alone(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t starter = fork();
    if (starter == 0) {
        const shells s = {{"trap '' TERM; echo up; exec sleep 20", "echo up; exec sleep 20"}, 2};
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        run_well(&s, quick);
        _exit(0);
    }
    close(ends[1]);
    char text[16];
    for (size_t got = 0; got < 6;) {
        ssize_t more = read(ends[0], text, sizeof text);
        assert_true(more > 0);
        got += (size_t)more;
    }
    double begin = now();
    kill(starter, SIGKILL);
    waitpid(starter, NULL, 0);
    /* the pipe ends when the last that could write to it is gone */
    assert_int_equal(read(ends[0], text, sizeof text), 0);
    assert_true(now() - begin < 5);
    close(ends[0]);
}

static void pauses(void **state)
{
    (void)state;
    double begin = now();
    assert_int_equal(lt_processes_pause(0.05), 0);
    assert_true(now() - begin >= 0.05);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        usleep(200000);
        kill(parent, SIGTERM);
        _exit(0);
    }
    assert_int_equal(lt_processes_pause(20), SIGTERM);
    waitpid(pid, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_succeed),
        cmocka_unit_test(the_first_failure_is_the_cause),
        cmocka_unit_test(a_signal_comes_before_a_code),
        cmocka_unit_test(the_others_are_ended),
        cmocka_unit_test(what_is_left_behind_is_ended),
        cmocka_unit_test(an_orderly_end_leaves_time),
        cmocka_unit_test(stop_signals_are_passed_on_once),
        cmocka_unit_test(another_signal_can_stand_for_it),
        cmocka_unit_test(one_that_is_stuck_is_killed),
        cmocka_unit_test(lines_are_told_whole),
        cmocka_unit_test(all_lines_of_a_long_output),
        cmocka_unit_test(what_can_not_start),
        cmocka_unit_test(none_lives_on_alone),
        cmocka_unit_test(pauses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
