#include "cli/mpirun.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/processes.h"

/* --- Which mpirun ------------------------------------------------------------------------------
 */

static bool is_program(const char *path)
{
    return strchr(path, '/') && access(path, X_OK) == 0;
}

/* As a shell looks for it. *out stays NULL when it is nowhere. */
static lt_status search_path(const char *name, char **out, lt_err *err)
{
    const char *at = getenv("PATH");
    lt_buffer path = {0};
    lt_status status = LT_OK;
    while (at && *at && !*out && status == LT_OK) {
        int length = (int)strcspn(at, ":");
        lt_buffer_clear(&path);
        status = lt_buffer_printf(&path, err, "%.*s/%s", length, at, name);
        if (status == LT_OK && length > 0 && is_program(path.data)) {
            *out = path.data;
            return LT_OK;
        }
        at += length + (at[length] == ':');
    }
    lt_buffer_free(&path);
    return status;
}

static void note_kind(void *context, int stream, const char *text, size_t size)
{
    lt_mpi *which = context;
    (void)stream;
    if (memmem(text, size, "Open MPI", 8) || memmem(text, size, "OpenRTE", 7)) *which = LT_MPI_OPEN;
}

/* What is not Open MPI's knows no flag but -n for sure. */
static lt_status ask_version(const char *path, lt_mpi *which, lt_err *err)
{
    char *const arguments[] = {(char *)(uintptr_t)path, "--version", NULL};
    const lt_process process = {.arguments = arguments};
    const lt_processes_settings settings = {
        .processes = &process, .count = 1, .context = which, .line = note_kind, .grace = 5};
    lt_processes_end end;
    *which = LT_MPI_HYDRA;
    LT_TRY(lt_processes_run(&settings, &end, err));
    if (end.first < 0) return LT_OK;
    return lt_fail(err, LT_ERR_UNSUPPORTED, "%s --version fails (code %d): is it an mpirun?", path,
                   end.exit_code);
}

lt_status lt_mpirun_find(char **path, lt_mpi *which, lt_err *err)
{
    const char *chosen = getenv("LATHE_MPIRUN");
    *path = NULL;
    if (chosen && is_program(chosen)) {
        *path = strdup(chosen);
        if (!*path) return lt_fail_nomem(err, strlen(chosen) + 1, "a path");
    } else {
        LT_TRY(search_path(chosen ? chosen : "mpirun", path, err));
    }
    if (!*path)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "several processes on the CPU, or on one GPU, need %s, which is not on "
                       "PATH: install Open MPI (openmpi-bin on Debian and Ubuntu) or MPICH, or "
                       "name it in LATHE_MPIRUN",
                       chosen ? chosen : "mpirun");
    lt_status status = ask_version(*path, which, err);
    if (status == LT_OK) return LT_OK;
    free(*path);
    *path = NULL;
    return status;
}

const char *const *lt_mpirun_flags(lt_mpi which)
{
    /* each process has its share of the cores' threads, which its scheduler places better than a
     * binding to one core */
    static const char *const open_mpi[] = {"--oversubscribe", "--bind-to", "none", NULL};
    static const char *const open_mpi_as_root[] = {"--allow-run-as-root", "--oversubscribe",
                                                   "--bind-to", "none", NULL};
    static const char *const none[] = {NULL};
    if (which == LT_MPI_HYDRA) return none;
    return geteuid() == 0 ? open_mpi_as_root : open_mpi;
}

/* --- What it prints ----------------------------------------------------------------------------
 */

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* A line of 60 or more of one sign. */
static bool is_rule(const char *text, char sign)
{
    const char set[] = {sign, '\0'};
    size_t length = strspn(text, set);
    return length >= 60 && (text[length] == '\n' || !text[length]);
}

static bool is_of_mpirun(lt_mpirun_report *report, const char *text)
{
    static const char *const starts[] = {"mpirun: ",
                                         "mpiexec: ",
                                         "[mpiexec@",
                                         "[proxy:",
                                         "=   ",
                                         "Abort(",
                                         "YOUR APPLICATION TERMINATED WITH",
                                         "This typically refers to a problem with your",
                                         "Please see the FAQ page for debugging"};
    if (is_rule(text, '-')) {
        report->in_frame = !report->in_frame;
        return true;
    }
    if (starts_with(text, "lathe: ")) return false;
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (starts_with(text, starts[i])) return true;
    return report->in_frame || is_rule(text, '=') || strstr(text, "sent help message help-") ||
           strstr(text, "orte_base_help_aggregate");
}

/* The first process that failed, as Open MPI and Hydra tell it. */
static void note_cause(lt_mpirun_report *report, const char *text)
{
    int rank, signal, code;
    const char *at;
    if ((at = strstr(text, "process rank ")) &&
        sscanf(at, "process rank %d with PID %*d on node %*s exited on signal %d", &rank,
               &signal) == 2) {
        report->rank_is_known = true;
        report->rank = rank;
        report->signal = signal;
    }
    if ((at = strstr(text, "Process name: [[")) &&
        sscanf(at, "Process name: [[%*d,%*d],%d", &rank) == 1) {
        report->rank_is_known = true;
        report->rank = rank;
    }
    if (starts_with(text, "with errorcode ") && sscanf(text, "with errorcode %d", &code) == 1)
        report->abort_code = code;
    if (starts_with(text, "YOUR APPLICATION TERMINATED WITH") && (at = strstr(text, "(signal ")) &&
        sscanf(at, "(signal %d)", &signal) == 1)
        report->signal = signal;
}

void lt_mpirun_take_line(lt_mpirun_report *report, int stream, const char *text, size_t size)
{
    FILE *out = stream == STDOUT_FILENO ? stdout : stderr;
    if (is_of_mpirun(report, text)) {
        note_cause(report, text);
        /* without memory for it there is less to read, and nothing else changes */
        (void)lt_buffer_append(&report->own, text, size, NULL);
        return;
    }
    if (starts_with(text, "lathe: error") || starts_with(text, "rank "))
        report->cause_was_told = true;
    fwrite(text, 1, size, out);
    fflush(out);
}

/* --- Whether it still looks after them ---------------------------------------------------------
 */

/* Not waited for since it ended: *status is then as waitpid would have it. */
static bool is_zombie(int pid, int *status)
{
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    bool read = file && fgets(line, sizeof line, file);
    if (file) fclose(file);
    /* PID (NAME) STATE ...; the exit status is the last of its numbers */
    const char *state = read ? strrchr(line, ')') : NULL;
    if (!state || strncmp(state, ") Z", 3) != 0) return false;
    *status = atoi(strrchr(line, ' '));
    return true;
}

static bool has_zombie(const char *children_path, int *status)
{
    FILE *file = fopen(children_path, "r");
    int pid;
    bool found = false;
    while (file && !found && fscanf(file, "%d", &pid) == 1)
        found = is_zombie(pid, status);
    if (file) fclose(file);
    return found;
}

bool lt_mpirun_is_stuck(lt_mpirun_report *report, pid_t pid)
{
    char pattern[64];
    glob_t threads; /* each has its own children */
    int status = 0;
    snprintf(pattern, sizeof pattern, "/proc/%d/task/*/children", (int)pid);
    report->is_stuck = false;
    if (glob(pattern, GLOB_NOSORT, NULL, &threads) != 0) return false;
    for (size_t i = 0; i < threads.gl_pathc && !report->is_stuck; i++)
        report->is_stuck = has_zombie(threads.gl_pathv[i], &status);
    globfree(&threads);
    if (report->is_stuck && WIFSIGNALED(status)) report->signal = WTERMSIG(status);
    return report->is_stuck;
}
