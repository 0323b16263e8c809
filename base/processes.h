/* Programs that run together and end together: when one fails, the others are ended, and none lives
 * on when the process that started them dies, however it dies. What a child leaves behind is
 * killed.
 *
 * Each child has a process group of its own, so that Ctrl-C in a terminal reaches only the process
 * that started them, which passes it on. While they run, that process takes SIGINT, SIGTERM,
 * SIGUSR1 and SIGCHLD as lt_processes_run says; it must have no other threads. */
#ifndef LT_BASE_PROCESSES_H
#define LT_BASE_PROCESSES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/status.h"

/* Both lists end with NULL and are borrowed. */
typedef struct lt_process {
    char *const *arguments;   /* the first is the program's path */
    char *const *environment; /* on top of this process's: "NAME=value"; "NAME" takes it away */
} lt_process;

typedef struct lt_processes_settings {
    const lt_process *processes;
    int count;
    int stop_signal;  /* what they get for the first signal that asks this process to stop; 0:
                         the same one. A second SIGINT is passed on, and what is still there
                         after `grace` is killed */
    int orderly_code; /* an exit code after which the others are given `patience` to end by
                         themselves; 0: there is none but success, which all may take time for */
    double grace;     /* seconds from SIGTERM, after a failure, to SIGKILL */
    double patience;  /* seconds */
    double stuck_limit;
    void *context;                               /* of the functions, which may be NULL */
    void (*stopping)(void *context, int signal); /* this process was asked to stop */
    /* Asked each second: whether a child can not go on, nor end. One that is so for `stuck_limit`
     * seconds is killed, and counts as failed. */
    bool (*is_stuck)(void *context, pid_t pid);
    /* A whole line of a child's standard output (1) or error (2), with its line feed and a NUL
     * after it. NULL: the children write to where this process does. */
    void (*line)(void *context, int stream, const char *text, size_t size);
} lt_processes_settings;

typedef struct lt_processes_end {
    int first;     /* which one failed first; -1: none, all ended with 0 */
    int exit_code; /* of that one; 0 when a signal ended it */
    int signal;    /* that ended it, or 0 */
    int stopped;   /* the signal that asked this process to stop; 0: none did */
    bool at_once;  /* a second SIGINT came */
} lt_processes_end;

/* Returns when all have ended. LT_ERR_IO when one can not be started: then none runs. */
lt_status lt_processes_run(const lt_processes_settings *settings, lt_processes_end *end,
                           lt_err *err);

/* Waits so long, or until a signal asks this process to stop: that one, else 0. */
int lt_processes_pause(double seconds);

#endif
