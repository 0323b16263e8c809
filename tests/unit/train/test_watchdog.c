/* Processes that stand still, die, or can not go on: the others are gone soon, with the exit status
 * and the words that say why. Once with a backend that does nothing, and under mpirun. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/stat.h>

#include "mpi_run.h"

static char folder[] = "/tmp/lathe_test_watchdog_XXXXXX";

static void path_of(const char *name, char *out, size_t size)
{
    const char *where = getenv("LATHE_TEST_FOLDER");
    snprintf(out, size, "%s/%s", where ? where : folder, name);
}

static void read_file(const char *name, char *out, size_t size)
{
    char path[256];
    path_of(name, path, sizeof path);
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(out, 1, size - 1, file) : 0;
    out[length] = '\0';
    if (file) fclose(file);
    unlink(path);
}

static void expect_text(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("\"%s\" is not in:\n%s", part, text);
}

/* --- A backend that does nothing ---------------------------------------------------------------
 */

static lt_status poll_fine(lt_comm *comm, lt_err *err)
{
    (void)comm;
    (void)err;
    return LT_OK;
}

static lt_status poll_fails(lt_comm *comm, lt_err *err)
{
    (void)comm;
    return lt_fail(err, LT_ERR_IO, "the network is down");
}

static void abort_at_once(lt_comm *comm, int exit_code)
{
    (void)comm;
    (void)exit_code;
}

static void abort_hangs(lt_comm *comm, int exit_code)
{
    (void)comm;
    (void)exit_code;
    for (;;)
        pause();
}

static lt_comm_ops idle_ops = {.poll = poll_fine, .abort = abort_at_once};
static char log_path[256];

/* Rank 1 of 2. */
static lt_comm *idle_comm(double timeout)
{
    static char hosts[2][64] = {"north", "south"};
    lt_comm *comm = calloc(1, sizeof *comm);
    lt_err err = {0};
    path_of("idle.log", log_path, sizeof log_path);
    unlink(log_path);
    comm->rank = 1;
    comm->size = 2;
    snprintf(comm->place.host, sizeof comm->place.host, "south");
    comm->hosts = hosts;
    comm->ops = &idle_ops;
    comm->opened = true;
    comm->log_path = log_path;
    if (lt_watchdog_start(comm, timeout, &err) != LT_OK) _exit(99);
    return comm;
}

/* In a child: what `act` does with a communicator of this timeout; 55 when it returns. Standard
 * error is the file err.txt. */
static pid_t start_child(void (*act)(lt_comm *comm), double timeout)
{
    char path[256];
    path_of("err.txt", path, sizeof path);
    fflush(NULL);
    pid_t child = fork();
    if (child) return child;
    if (!freopen(path, "w", stderr)) _exit(99);
    lt_comm *comm = idle_comm(timeout);
    act(comm);
    lt_watchdog_stop(comm);
    _exit(55);
}

static int end_of(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void stand_still(lt_comm *comm)
{
    lt_comm_heartbeat(comm, 41, "forward");
    lt_comm_heartbeat(comm, 42, "backward");
    for (int i = 0; i < 70; i++) {
        lt_collective c = {.operation = LT_COMM_ALL_REDUCE, .dtype = LT_BF16, .count = 1000 + i};
        lt_flight_begin(&comm->flight, &c, false);
        if (i == 67) usleep(100000);
        if (i < 68) lt_comm_ended(comm, c.sequence);
    }
    usleep(5000000);
}

static double milliseconds_of(const char *record, const char *number)
{
    const char *line = strstr(record, number);
    const char *took = line ? strstr(line, "took ") : NULL;
    assert_non_null(took);
    return atof(took + strlen("took "));
}

static void standing_still_ends_it(void **state)
{
    (void)state;
    char text[16384];
    double start = seconds_now();
    assert_int_equal(end_of(start_child(stand_still, 0.2)), LT_EXIT_WATCHDOG);
    assert_true(seconds_now() - start < 3);
    read_file("idle.log", text, sizeof text);
    expect_text(text, "rank 1 (south): no progress for ");
    expect_text(text, " s in step 42, phase backward; the last collectives:\n#7 all_reduce bf16 x "
                      "1006, begun ");
    expect_text(text, "#68 all_reduce bf16 x 1067, begun ");
    expect_text(text, "#69 all_reduce bf16 x 1068, begun ");
    const char *last_ended = strstr(text, "#68 "), *first_open = strstr(text, "#69 ");
    assert_true(strstr(last_ended, "took ") < first_open);
    assert_true(milliseconds_of(text, "#67 ") < 90);
    assert_true(milliseconds_of(text, "#68 ") >= 100);
    expect_text(first_open, "s ago, not ended\n#70 all_reduce bf16 x 1069, begun ");
    char on_screen[16384];
    read_file("err.txt", on_screen, sizeof on_screen);
    assert_string_equal(on_screen, text);
}

/* Three timeouts, until the second step has begun. */
static void first_step(lt_comm *comm)
{
    lt_comm_heartbeat(comm, 1, "forward");
    usleep(5000000);
}

static void the_first_step_has_more_time(void **state)
{
    (void)state;
    double start = seconds_now();
    assert_int_equal(end_of(start_child(first_step, 0.2)), LT_EXIT_WATCHDOG);
    assert_true(seconds_now() - start >= 0.6);
    assert_true(seconds_now() - start < 4);
}

static void save_for_long(lt_comm *comm)
{
    lt_comm_heartbeat(comm, 1, "forward");
    lt_comm_heartbeat(comm, 2, "saving");
    lt_comm_allow(comm, 60);
    usleep(600000);
    fputs("saved\n", stderr);
    fflush(stderr);
    lt_comm_heartbeat(comm, 2, "saved");
    usleep(5000000);
}

/* And only until the next heartbeat. */
static void an_allowance_is_no_standing_still(void **state)
{
    (void)state;
    char text[16384];
    double start = seconds_now();
    assert_int_equal(end_of(start_child(save_for_long, 0.2)), LT_EXIT_WATCHDOG);
    assert_true(seconds_now() - start < 4);
    read_file("err.txt", text, sizeof text);
    expect_text(text, "saved\n");
    expect_text(text, "phase saved");
}

/* Each longer than the timeout, with one kind of progress. */
enum { TIMES = 5 };

static void go_on_beating(lt_comm *comm)
{
    lt_comm_heartbeat(comm, 1, "forward");
    for (int i = 0; i < TIMES; i++, usleep(100000))
        lt_comm_heartbeat(comm, 2, "forward");
}

static void begin_collectives(lt_comm *comm)
{
    lt_collective c = {.operation = LT_COMM_ALL_REDUCE, .dtype = LT_F32, .count = 1};
    lt_comm_heartbeat(comm, 1, "forward");
    lt_comm_heartbeat(comm, 2, "forward");
    for (int i = 0; i < TIMES; i++, usleep(100000))
        lt_flight_begin(&comm->flight, &c, false);
}

static void end_collectives(lt_comm *comm)
{
    lt_collective c = {.operation = LT_COMM_ALL_REDUCE, .dtype = LT_F32, .count = 1};
    lt_comm_heartbeat(comm, 1, "forward");
    lt_comm_heartbeat(comm, 2, "forward");
    for (int i = 0; i < TIMES; i++)
        lt_flight_begin(&comm->flight, &c, false);
    for (uint64_t i = 1; i <= TIMES; i++, usleep(100000))
        lt_comm_ended(comm, i);
}

static void progress_is_left_alone(void **state)
{
    (void)state;
    pid_t children[] = {start_child(go_on_beating, 0.4), start_child(begin_collectives, 0.4),
                        start_child(end_collectives, 0.4)};
    for (int i = 0; i < 3; i++)
        assert_int_equal(end_of(children[i]), 55);
}

static void go_on_after_a_stop(lt_comm *comm)
{
    lt_comm_heartbeat(comm, 1, "forward");
    lt_comm_heartbeat(comm, 2, "forward");
    usleep(100000);
    raise(SIGSTOP);
    for (int i = 0; i < 3; i++) {
        usleep(100000);
        lt_comm_heartbeat(comm, 2, "backward");
    }
}

static void never_open(lt_comm *comm)
{
    comm->watchdog.opening = 0.2;
    comm->opened = false;
    usleep(5000000);
}

/* A backend that waits for another process while it opens has no functions to call yet. */
static void opening_is_watched(void **state)
{
    (void)state;
    char text[4096];
    idle_ops.abort = abort_hangs;
    double start = seconds_now();
    assert_int_equal(end_of(start_child(never_open, 0.2)), LT_EXIT_WATCHDOG);
    assert_true(seconds_now() - start < 4);
    idle_ops.abort = abort_at_once;
    read_file("idle.log", text, sizeof text);
    expect_text(text, "phase opening");
}

/* The time for which a process was stopped is not time in which it got nowhere. */
static void a_stopped_process_goes_on(void **state)
{
    (void)state;
    int status;
    pid_t child = start_child(go_on_after_a_stop, 0.4);
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    usleep(600000);
    kill(child, SIGCONT);
    assert_int_equal(end_of(child), 55);
}

static void broken_network_ends_it(void **state)
{
    (void)state;
    char text[4096];
    idle_ops.poll = poll_fails;
    assert_int_equal(end_of(start_child(first_step, 0.4)), 1);
    idle_ops.poll = poll_fine;
    read_file("idle.log", text, sizeof text);
    assert_string_equal(text, "rank 1 (south): the network is down\n");
}

static void give_up(lt_comm *comm)
{
    lt_comm_abort(comm, "disk full", 7);
}

static void abort_says_why(void **state)
{
    (void)state;
    char text[4096];
    assert_int_equal(end_of(start_child(give_up, 0.4)), 7);
    read_file("idle.log", text, sizeof text);
    assert_string_equal(text, "rank 1 (south): disk full\n");
    read_file("err.txt", text, sizeof text);
    assert_string_equal(text, "rank 1 (south): disk full\n");
}

/* Whatever hangs while it ends. */
static void the_end_has_a_limit(void **state)
{
    (void)state;
    if (!getenv("LATHE_LONG_TESTS")) skip();
    idle_ops.abort = abort_hangs;
    double start = seconds_now();
    assert_int_equal(end_of(start_child(give_up, 0.4)), 7);
    assert_int_equal(end_of(start_child(stand_still, 0.2)), LT_EXIT_WATCHDOG);
    assert_true(seconds_now() - start < 26);
    idle_ops.abort = abort_at_once;
}

/* --- Under mpirun --------------------------------------------------------------------------------
 */

static void leave_pid(int rank)
{
    char name[32], path[256];
    snprintf(name, sizeof name, "pid.%d", rank);
    path_of(name, path, sizeof path);
    FILE *file = fopen(path, "w");
    CHECK(file && fprintf(file, "%d", (int)getpid()) > 0 && fclose(file) == 0);
}

/* Sums until something happens to rank 1. */
static int be_a_rank(const char *part)
{
    enum { COUNT = 1000 };
    static float data[COUNT];
    lt_backend *backend = NULL;
    char name[32], log[256];
    int rank =
        atoi(getenv("OMPI_COMM_WORLD_RANK") ? getenv("OMPI_COMM_WORLD_RANK") : getenv("PMI_RANK"));
    snprintf(name, sizeof name, "rank-%d.log", rank);
    path_of(name, log, sizeof log);
    leave_pid(rank);
    CHECK_OK(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, err));
    lt_comm *comm = open_rank(backend, 1, "", log);
    for (int step = 1;; step++) {
        lt_comm_ticket ticket;
        lt_comm_heartbeat(comm, step, "forward");
        CHECK_OK(lt_comm_all_reduce(comm, lt_tensor_1d(data, LT_F32, COUNT), &ticket, err));
        CHECK_OK(lt_comm_wait(comm, &ticket, err));
        if (rank != 1 || step < 5) continue;
        if (strcmp(part, "stop") == 0) raise(SIGSTOP);
        if (strcmp(part, "kill") == 0) raise(SIGKILL);
        if (strcmp(part, "abort") == 0) lt_comm_abort(comm, "disk full", 7);
    }
}

/* All processes of the run have ended. */
static void expect_gone(int ranks, double end)
{
    for (int rank = 0; rank < ranks; rank++) {
        char name[32], text[32];
        snprintf(name, sizeof name, "pid.%d", rank);
        read_file(name, text, sizeof text);
        int pid = atoi(text);
        CHECK(pid > 0);
        while (kill(pid, 0) == 0) {
            CHECK(seconds_now() < end);
            usleep(10000);
        }
    }
}

/* One run with a fault, in a folder of its own. They go on beside the other tests: mpirun takes its
 * time to end what is left. */
typedef struct fault {
    const char *part;
    int ranks;
    pid_t child;
} fault;

static fault faults[] = {{"stop", 3, 0}, {"kill", 3, 0}, {"abort", 3, 0}};
enum { STOP, KILL, ABORT, FAULTS };

static void enter_folder_of(const char *part)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, part);
    setenv("LATHE_TEST_FOLDER", path, 1);
}

static void start_faults(void)
{
    for (fault *f = faults; f < faults + FAULTS; f++) {
        fflush(NULL);
        f->child = fork();
        if (f->child) continue;
        char output[256], path[256];
        double start = seconds_now();
        snprintf(path, sizeof path, "%s/%s", folder, f->part);
        CHECK(mkdir(path, 0777) == 0);
        enter_folder_of(f->part);
        path_of("output.txt", output, sizeof output);
        int code = run_part(f->part, f->ranks, output);
        expect_gone(f->ranks, start + 10);
        _exit(code);
    }
}

/* The exit status of mpirun, and the log of the rank that wrote one: standard error may not get out
 * of mpirun in time. */
static int end_of_fault(int which, char *log, size_t size)
{
    int code = end_of(faults[which].child);
    enter_folder_of(faults[which].part);
    log[0] = '\0';
    for (int rank = 0; rank < faults[which].ranks && !log[0]; rank++) {
        char name[32];
        snprintf(name, sizeof name, "rank-%d.log", rank);
        read_file(name, log, size);
    }
    setenv("LATHE_TEST_FOLDER", folder, 1);
    return code;
}

static void a_stopped_rank_ends_all(void **state)
{
    (void)state;
    char log[16384];
    if (mpi_is_missing()) skip();
    assert_int_equal(end_of_fault(STOP, log, sizeof log), LT_EXIT_WATCHDOG);
    expect_text(log, "): no progress for ");
    expect_text(log, " all_reduce f32 x 1000, begun ");
    expect_text(log, "not ended");
}

static void a_killed_rank_ends_all(void **state)
{
    (void)state;
    char log[16384];
    if (mpi_is_missing()) skip();
    assert_int_not_equal(end_of_fault(KILL, log, sizeof log), 0);
}

static void an_aborting_rank_ends_all(void **state)
{
    (void)state;
    char log[16384];
    if (mpi_is_missing()) skip();
    assert_int_equal(end_of_fault(ABORT, log, sizeof log), 7);
    expect_text(log, "rank 1 (");
    expect_text(log, "): disk full\n");
}

/* --------------------------------------------------------------------------------------------- */

int main(void)
{
    const char *part = getenv("LATHE_TEST_PART");
    if (part) return be_a_rank(part);
    if (!mkdtemp(folder)) return 1;
    setenv("LATHE_TEST_FOLDER", folder, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(standing_still_ends_it),
        cmocka_unit_test(the_first_step_has_more_time),
        cmocka_unit_test(an_allowance_is_no_standing_still),
        cmocka_unit_test(progress_is_left_alone),
        cmocka_unit_test(opening_is_watched),
        cmocka_unit_test(a_stopped_process_goes_on),
        cmocka_unit_test(broken_network_ends_it),
        cmocka_unit_test(abort_says_why),
        cmocka_unit_test(the_end_has_a_limit),
        cmocka_unit_test(a_stopped_rank_ends_all),
        cmocka_unit_test(a_killed_rank_ends_all),
        cmocka_unit_test(an_aborting_rank_ends_all),
    };
    bool missing = mpi_is_missing();
    if (!missing) start_faults();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0) return 1;
    return failed ? failed : missing ? 77 : 0;
}
