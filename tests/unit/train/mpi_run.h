/* Tests of several processes: the test program starts itself again under mpirun, and each rank
 * finds in LATHE_TEST_PART what to do. LATHE_MPIRUN: another mpirun than the one on the path. */
#ifndef TEST_MPI_RUN_H
#define TEST_MPI_RUN_H

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "train/comm/internal.h"

enum { MPI_RUN_LIMIT = 60 /* seconds; sanitized and on a busy machine */ };

static const char *mpirun_program(void)
{
    const char *chosen = getenv("LATHE_MPIRUN");
    return chosen && *chosen ? chosen : "mpirun";
}

/* What it says of itself; "" where there is none. */
static inline void mpirun_version(char *out, size_t size)
{
    char command[512];
    snprintf(command, sizeof command, "%s --version 2>/dev/null", mpirun_program());
    FILE *pipe = popen(command, "r");
    size_t length = pipe ? fread(out, 1, size - 1, pipe) : 0;
    out[length] = '\0';
    if (pipe) pclose(pipe);
}

/* Says why tests of several processes can not be run here. */
static inline bool mpi_is_missing(void)
{
    char version[512];
    lt_err err = {0};
    mpirun_version(version, sizeof version);
    bool built = lt_comm_mpi_available(&err) == LT_OK;
    if (built && version[0]) return false;
    printf("skipped: %s\n", built ? "there is no mpirun" : err.message);
    return true;
}

static inline double seconds_now(void)
{
    return (double)lt_comm_clock() * 1e-9;
}

/* Ends a run that takes too long, and says so by the exit status: 124. */
static inline int wait_with_limit(pid_t child)
{
    double end = seconds_now() + MPI_RUN_LIMIT;
    int status;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (seconds_now() > end) {
            kill(-child, SIGKILL);
            waitpid(child, &status, 0);
            return 124;
        }
        usleep(2000);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* This program as `ranks` processes doing `part`; 0 ranks: one, without mpirun. Output goes to
 * `output`, when not NULL. Returns the exit status. */
static inline int run_part(const char *part, int ranks, const char *output)
{
    char version[512] = "", count[16];
    const char *argv[16];
    int argc = 0;
    snprintf(count, sizeof count, "%d", ranks);
    if (ranks) {
        mpirun_version(version, sizeof version);
        argv[argc++] = mpirun_program();
        if (strstr(version, "open-mpi.org")) {
            argv[argc++] = "--allow-run-as-root";
            argv[argc++] = "--oversubscribe";
            argv[argc++] = "--bind-to";
            argv[argc++] = "none";
        }
        argv[argc++] = "-n";
        argv[argc++] = count;
    }
    argv[argc++] = "/proc/self/exe";
    argv[argc] = NULL;
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0) return 127;
    self[length] = '\0';
    argv[argc - 1] = self;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        setenv("LATHE_TEST_PART", part, 1);
        setenv("OMP_NUM_THREADS", "1", 1);
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* MPI's */
        if (output && !freopen(output, "w", stdout)) _exit(127);
        if (output) dup2(STDOUT_FILENO, STDERR_FILENO);
        execvp(argv[0], (char **)(uintptr_t)argv);
        _exit(127);
    }
    return child < 0 ? 127 : wait_with_limit(child);
}

/* In a rank: what is not so ends all of them. */
#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)
#define CHECK_OK(call)                                                                         \
    do {                                                                                       \
        lt_err check_err_ = {0}, *err = &check_err_;                                           \
        if ((call) != LT_OK) {                                                                 \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, check_err_.message); \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

/* Opens as `lathe train` does, and fails as it does: the message on standard error, exit status 1.
 */
static inline lt_comm *open_rank(const lt_backend *backend, double timeout, const char *identity,
                                 const char *log_path)
{
    lt_comm_settings settings = {
        .backend = backend, .identity = identity, .timeout = timeout, .log_path = log_path};
    lt_comm *comm = NULL;
    lt_err err = {0};
    alarm(MPI_RUN_LIMIT);
    if (lt_launch_find_place(&settings.place, &err) != LT_OK ||
        lt_comm_choose(&settings.place, backend, &settings.kind, &err) != LT_OK ||
        lt_comm_open(&settings, &comm, &err) != LT_OK) {
        fprintf(stderr, "error: %s\n", err.message);
        exit(1);
    }
    return comm;
}

#endif
