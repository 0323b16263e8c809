#include "base/processes.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"

enum { STREAMS = 2, SIGNAL_FD = 0, FIRST_STREAM_FD = 1, FD_COUNT = 3, CHUNK = 1 << 14 };
#define NEVER       (-1.0) /* as a time */
#define STUCK_CHECK 1.0    /* seconds */

typedef struct child {
    pid_t pid;
    bool running;
    double stuck_since; /* NEVER: it is not */
} child;

typedef struct group {
    const lt_processes_settings *settings;
    lt_processes_end *end;
    child *children; /* [count] */
    int running;
    int interrupts;           /* SIGINTs so far */
    double ask_at, kill_at;   /* when the rest gets SIGTERM, SIGKILL; NEVER */
    double check_at;          /* when it is asked next who is stuck */
    sigset_t old_mask;        /* which the children get back */
    int fds[FD_COUNT];        /* of signals, then the reading ends of the streams; -1: none */
    int write_ends[STREAMS];  /* which the children get */
    lt_buffer rests[STREAMS]; /* a line whose end has not come yet */
} group;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static sigset_t stop_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    return set;
}

/* --- Starting ----------------------------------------------------------------------------------
 */

static lt_status open_group(group *g, lt_err *err)
{
    sigset_t watched = stop_signals();
    sigaddset(&watched, SIGCHLD);
    sigprocmask(SIG_BLOCK, &watched, &g->old_mask);
    g->fds[SIGNAL_FD] = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    if (g->fds[SIGNAL_FD] < 0)
        return lt_fail(err, LT_ERR_IO, "can not watch signals: %s", strerror(errno));
    g->children = calloc((size_t)g->settings->count, sizeof *g->children);
    if (!g->children)
        return lt_fail_nomem(err, (size_t)g->settings->count * sizeof *g->children, "processes");
    for (int i = 0; i < STREAMS && g->settings->line; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0)
            return lt_fail(err, LT_ERR_IO, "can not open a pipe: %s", strerror(errno));
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        g->fds[FIRST_STREAM_FD + i] = ends[0];
        g->write_ends[i] = ends[1];
    }
    return LT_OK;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static void close_group(group *g)
{
    for (int i = 0; i < FD_COUNT; i++)
        close_fd(&g->fds[i]);
    for (int i = 0; i < STREAMS; i++) {
        close_fd(&g->write_ends[i]);
        lt_buffer_free(&g->rests[i]);
    }
    free(g->children);
    sigprocmask(SIG_SETMASK, &g->old_mask, NULL);
}

static void set_environment(char *const *variables)
{
    for (; variables && *variables; variables++) {
        if (strchr(*variables, '='))
            putenv(*variables);
        else
            unsetenv(*variables);
    }
}

/* In the child. What goes wrong is told through `report`, which a program that starts closes. */
_Noreturn static void become(const group *g, const lt_process *process, pid_t parent, int report)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) raise(SIGKILL); /* it died before it could be watched */
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0) dup2(null, STDIN_FILENO); /* a terminal stops who reads in the background */
    for (int i = 0; i < STREAMS; i++)
        if (g->write_ends[i] >= 0) dup2(g->write_ends[i], STDOUT_FILENO + i);
    set_environment(process->environment);
    sigprocmask(SIG_SETMASK, &g->old_mask, NULL);
    execv(process->arguments[0], process->arguments);
    int code = errno;
    ssize_t ignored = write(report, &code, sizeof code);
    (void)ignored;
    _exit(127);
}

static lt_status start(group *g, int index, lt_err *err)
{
    const lt_process *process = &g->settings->processes[index];
    int report[2], code = 0;
    if (pipe2(report, O_CLOEXEC) != 0)
        return lt_fail(err, LT_ERR_IO, "can not open a pipe: %s", strerror(errno));
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) become(g, process, parent, report[1]);
    close(report[1]);
    if (pid < 0) code = errno;
    while (pid > 0 && read(report[0], &code, sizeof code) < 0 && errno == EINTR)
        ;
    close(report[0]);
    if (pid > 0 && code) waitpid(pid, NULL, 0);
    if (code)
        return lt_fail(err, LT_ERR_IO, "can not start %s: %s", process->arguments[0],
                       strerror(code));
    g->children[index] = (child){pid, true, NEVER};
    g->running++;
    return LT_OK;
}

/* --- Ending ------------------------------------------------------------------------------------
 */

static void send_all(const group *g, int signal)
{
    for (int i = 0; i < g->settings->count; i++) {
        const child *c = &g->children[i];
        if (!c->running) continue;
        /* SIGKILL is for what the child has started too; it tells nobody itself */
        kill(signal == SIGKILL ? -c->pid : c->pid, signal);
    }
}

static void end_rest_now(group *g)
{
    if (g->kill_at == NEVER) g->kill_at = now() + g->settings->grace;
    g->ask_at = NEVER;
    send_all(g, SIGTERM);
}

static void kill_stuck(group *g, double t)
{
    if (!g->settings->is_stuck || t < g->check_at) return;
    g->check_at = t + STUCK_CHECK;
    for (int i = 0; i < g->settings->count; i++) {
        child *c = &g->children[i];
        if (!c->running || !g->settings->is_stuck(g->settings->context, c->pid))
            c->stuck_since = NEVER;
        else if (c->stuck_since == NEVER)
            c->stuck_since = t;
        else if (t - c->stuck_since >= g->settings->stuck_limit)
            kill(-c->pid, SIGKILL);
    }
}

static void keep_deadlines(group *g)
{
    double t = now();
    kill_stuck(g, t);
    if (g->ask_at != NEVER && t >= g->ask_at) end_rest_now(g);
    if (g->kill_at != NEVER && t >= g->kill_at) {
        g->kill_at = NEVER;
        send_all(g, SIGKILL);
    }
}

static int milliseconds_left(const group *g)
{
    double at = g->ask_at != NEVER ? g->ask_at : g->kill_at;
    if (g->settings->is_stuck && (at == NEVER || g->check_at < at)) at = g->check_at;
    if (at == NEVER) return -1;
    double left = at - now();
    return left > 0 ? (int)(1e3 * left) + 1 : 0;
}

/* The first failure counts. Of those found together one that a signal ended is likelier to be the
 * cause of the others. */
static void note_end(group *g, int index, int status, bool found_together)
{
    lt_processes_end *end = g->end;
    int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (status == 0) return;
    if (end->first >= 0 && (!found_together || end->signal || !signal)) return;
    end->first = index;
    end->signal = signal;
    end->exit_code = signal ? 0 : WEXITSTATUS(status);
}

/* What it has started and left behind goes with it, while its number is still its own. */
static bool has_ended(const child *c, int *status)
{
    siginfo_t info = {0};
    int code = waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG | WNOWAIT);
    if (code != 0 || info.si_pid != c->pid) return false;
    kill(-c->pid, SIGKILL);
    return waitpid(c->pid, status, 0) == c->pid;
}

static void reap(group *g)
{
    bool none_before = g->end->first < 0, failed = false, orderly = false;
    for (int i = 0; i < g->settings->count; i++) {
        child *c = &g->children[i];
        int status;
        if (!c->running || !has_ended(c, &status)) continue;
        c->running = false;
        g->running--;
        note_end(g, i, status, none_before);
        if (WIFEXITED(status) && WEXITSTATUS(status) == g->settings->orderly_code)
            orderly = status != 0;
        else if (status != 0)
            failed = true;
    }
    if (failed && g->kill_at == NEVER) end_rest_now(g);
    if (orderly && g->kill_at == NEVER && g->ask_at == NEVER)
        g->ask_at = now() + g->settings->patience;
}

/* --- Signals -----------------------------------------------------------------------------------
 */

static void take_stop_signal(group *g, int signal)
{
    bool first = g->end->stopped == 0;
    if (signal == SIGINT && g->interrupts++ > 0) {
        g->end->at_once = true;
        send_all(g, SIGINT);
        if (g->kill_at == NEVER) g->kill_at = now() + g->settings->grace;
        return;
    }
    if (!first) return;
    g->end->stopped = signal;
    send_all(g, g->settings->stop_signal ? g->settings->stop_signal : signal);
    if (g->settings->stopping) g->settings->stopping(g->settings->context, signal);
}

static void take_signals(group *g)
{
    struct signalfd_siginfo info;
    while (read(g->fds[SIGNAL_FD], &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo != SIGCHLD) take_stop_signal(g, (int)info.ssi_signo);
    reap(g); /* several SIGCHLDs may have come as one */
}

/* --- What they print ---------------------------------------------------------------------------
 */

static void tell_line(const group *g, int stream, const char *text, size_t size)
{
    g->settings->line(g->settings->context, STDOUT_FILENO + stream, text, size);
}

static lt_status take_text(group *g, int stream, const char *text, size_t size, lt_err *err)
{
    lt_buffer *rest = &g->rests[stream];
    const char *line_feed;
    while ((line_feed = memchr(text, '\n', size))) {
        size_t length = (size_t)(line_feed - text) + 1;
        LT_TRY(lt_buffer_append(rest, text, length, err));
        tell_line(g, stream, rest->data, rest->size);
        lt_buffer_clear(rest);
        text += length;
        size -= length;
    }
    return lt_buffer_append(rest, text, size, err);
}

static lt_status take_output(group *g, lt_err *err)
{
    char chunk[CHUNK];
    for (int i = 0; i < STREAMS; i++) {
        int *fd = &g->fds[FIRST_STREAM_FD + i];
        ssize_t size = -1;
        while (*fd >= 0 && (size = read(*fd, chunk, sizeof chunk)) > 0)
            LT_TRY(take_text(g, i, chunk, (size_t)size, err));
        if (size == 0) close_fd(fd);
    }
    return LT_OK;
}

/* A last line without a line feed gets one. */
static lt_status finish_output(group *g, lt_err *err)
{
    for (int i = 0; i < STREAMS; i++)
        close_fd(&g->write_ends[i]);
    LT_TRY(take_output(g, err));
    for (int i = 0; i < STREAMS; i++)
        if (g->rests[i].size > 0) LT_TRY(take_text(g, i, "\n", 1, err));
    return LT_OK;
}

/* --- Running -----------------------------------------------------------------------------------
 */

static lt_status watch(group *g, lt_err *err)
{
    while (g->running > 0) {
        struct pollfd polled[FD_COUNT];
        for (int i = 0; i < FD_COUNT; i++)
            polled[i] = (struct pollfd){.fd = g->fds[i], .events = POLLIN};
        if (poll(polled, FD_COUNT, milliseconds_left(g)) < 0 && errno != EINTR)
            return lt_fail(err, LT_ERR_IO, "can not wait for processes: %s", strerror(errno));
        take_signals(g);
        LT_TRY(take_output(g, err));
        keep_deadlines(g);
    }
    return finish_output(g, err);
}

static void kill_all(group *g)
{
    send_all(g, SIGKILL);
    for (int i = 0; i < g->settings->count; i++)
        if (g->children && g->children[i].running) waitpid(g->children[i].pid, NULL, 0);
}

lt_status lt_processes_run(const lt_processes_settings *settings, lt_processes_end *end,
                           lt_err *err)
{
    group g = {.settings = settings,
               .end = end,
               .ask_at = NEVER,
               .kill_at = NEVER,
               .fds = {-1, -1, -1},
               .write_ends = {-1, -1}};
    *end = (lt_processes_end){.first = -1};
    lt_status status = open_group(&g, err);
    for (int i = 0; i < settings->count && status == LT_OK; i++)
        status = start(&g, i, err);
    if (status == LT_OK) status = watch(&g, err);
    if (status != LT_OK && g.children) kill_all(&g);
    close_group(&g);
    return status;
}

int lt_processes_pause(double seconds)
{
    sigset_t set = stop_signals(), old;
    struct timespec time = {.tv_sec = (time_t)seconds};
    time.tv_nsec = (long)(1e9 * (seconds - (double)time.tv_sec));
    sigprocmask(SIG_BLOCK, &set, &old);
    int signal = sigtimedwait(&set, NULL, &time);
    sigprocmask(SIG_SETMASK, &old, NULL);
    return signal > 0 ? signal : 0;
}
