/* Ways to end a process that can not go on: a thread that sees that training stands still, and
 * lt_comm_abort. What ends it must not stand still itself: it takes no lock, allocates nothing, and
 * an alarm ends the process where telling the others hangs. */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"
#include "train/comm/internal.h"

#define ABORT_LIMIT   10 /* seconds to tell the others */
#define WARM_UP       3  /* as many timeouts for the first step: reading, planning, connecting */
#define OPENING       10 /* seconds at least until all have found each other */
#define SHORTEST_TICK 0.01
#define LONGEST_TICK  1.0

/* --- Ending ------------------------------------------------------------------------------------
 */

static atomic_bool ending; /* by the watchdog or by lt_comm_abort: the first one does it */
static volatile sig_atomic_t ending_code;
static char report[LT_FLIGHT_TEXT + 2048];

static void end_now(int signal)
{
    (void)signal;
    _exit(ending_code);
}

/* From here the process ends within ABORT_LIMIT, whatever hangs: a file system, NCCL, MPI. */
static void begin_ending(int exit_code)
{
    sigset_t alarm_only;
    if (atomic_exchange(&ending, true))
        for (;;)
            pause(); /* another thread is at it */
    ending_code = exit_code;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = end_now}, NULL);
    pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL);
    alarm(ABORT_LIMIT);
}

_Noreturn static void take_down(lt_comm *comm, int exit_code)
{
    if (atomic_load(&comm->opened)) comm->ops->abort(comm, exit_code);
    _exit(exit_code);
}

static void write_all(int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, text, size);
        if (written <= 0) return; /* there is nobody left to tell */
        text += written;
        size -= (size_t)written;
    }
}

static void append_to_log(const lt_comm *comm, const char *text, size_t size)
{
    int fd = open(comm->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return;
    write_all(fd, text, size);
    close(fd);
}

/* "rank 3 (host): message" and, with `record`, the last collectives. Returns the length. */
static size_t format_report(const lt_comm *comm, const char *message, bool record, char *out,
                            size_t size)
{
    char who[96];
    lt_comm_rank_text(comm, comm->rank, who, sizeof who);
    snprintf(out, size, "%s: %s%s\n", who, message, record ? "; the last collectives:" : "");
    size_t length = strlen(out);
    return record ? length + lt_flight_format(&comm->flight, out + length, size - length) : length;
}

void lt_comm_write_record(const lt_comm *comm, const char *message)
{
    char text[sizeof report];
    size_t length = format_report(comm, message, true, text, sizeof text);
    if (comm->log_path)
        append_to_log(comm, text, length);
    else
        write_all(STDERR_FILENO, text, length);
}

_Noreturn void lt_comm_abort(lt_comm *comm, const char *message, int exit_code)
{
    begin_ending(exit_code);
    size_t length = format_report(comm, message, false, report, sizeof report);
    write_all(STDERR_FILENO, report, length);
    if (comm->log_path) append_to_log(comm, report, length);
    fflush(NULL);
    take_down(comm, exit_code);
}

/* --- Watching ----------------------------------------------------------------------------------
 */

typedef struct progress {
    uint64_t beats, begun, ended;
} progress;

static progress progress_of(lt_comm *comm)
{
    return (progress){atomic_load(&comm->watchdog.beats), atomic_load(&comm->flight.begun),
                      atomic_load(&comm->flight.ended)};
}

static bool same_progress(progress a, progress b)
{
    return a.beats == b.beats && a.begun == b.begun && a.ended == b.ended;
}

_Noreturn static void end_for_standing_still(lt_comm *comm, double idle)
{
    char message[256];
    const lt_watchdog *w = &comm->watchdog;
    begin_ending(LT_EXIT_WATCHDOG);
    snprintf(message, sizeof message, "no progress for %.0f s in step %" PRId64 ", phase %s", idle,
             atomic_load(&w->step), atomic_load(&w->phase));
    size_t length = format_report(comm, message, true, report, sizeof report);
    write_all(STDERR_FILENO, report, length);
    if (comm->log_path) append_to_log(comm, report, length);
    take_down(comm, LT_EXIT_WATCHDOG);
}

/* Waits for `seconds`, or less when told to stop. */
static bool told_to_stop(lt_watchdog *w, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t nanoseconds = until.tv_nsec + (int64_t)(seconds * 1e9);
    until.tv_sec += nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;
    pthread_mutex_lock(&w->lock);
    while (!w->stop && pthread_cond_timedwait(&w->stopped, &w->lock, &until) == 0)
        ;
    bool stop = w->stop;
    pthread_mutex_unlock(&w->lock);
    return stop;
}

static double limit_of(const lt_comm *comm)
{
    const lt_watchdog *w = &comm->watchdog;
    if (!atomic_load(&comm->opened)) return w->opening;
    double usual = atomic_load(&w->steps_begun) < 2 ? WARM_UP * w->timeout : w->timeout;
    return usual + atomic_load(&w->allowance);
}

static void *watch(void *argument)
{
    lt_comm *comm = argument;
    lt_watchdog *w = &comm->watchdog;
    double tick = w->timeout / 20, idle = 0;
    if (tick > LONGEST_TICK) tick = LONGEST_TICK;
    if (tick < SHORTEST_TICK) tick = SHORTEST_TICK;
    progress last = progress_of(comm);
    int64_t before = lt_comm_clock();
    while (!told_to_stop(w, tick)) {
        lt_err err = {0};
        bool polled = atomic_load(&comm->opened) && comm->ops->poll;
        if (polled && comm->ops->poll(comm, &err) != LT_OK) lt_comm_abort(comm, err.message, 1);
        int64_t now = lt_comm_clock();
        double elapsed = (double)(now - before) * 1e-9;
        before = now;
        progress current = progress_of(comm);
        /* much more than a tick: the process was stopped, which is no fault of the others */
        idle = same_progress(current, last) ? idle + (elapsed < 2 * tick ? elapsed : tick) : 0;
        last = current;
        if (idle > limit_of(comm)) end_for_standing_still(comm, idle);
    }
    return NULL;
}

lt_status lt_watchdog_start(lt_comm *comm, double timeout, lt_err *err)
{
    lt_watchdog *w = &comm->watchdog;
    pthread_condattr_t monotonic;
    atomic_store(&w->phase, "opening");
    if (comm->size == 1 || timeout <= 0) return LT_OK;
    w->timeout = timeout;
    w->opening = WARM_UP * timeout > OPENING ? WARM_UP * timeout : OPENING;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->stopped, &monotonic);
    pthread_condattr_destroy(&monotonic);
    LT_TRY(lt_thread_start(&w->thread, watch, comm, "the watchdog's thread", err));
    w->running = true;
    return LT_OK;
}

void lt_watchdog_stop(lt_comm *comm)
{
    lt_watchdog *w = &comm->watchdog;
    if (!w->running) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->stopped);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->stopped);
    pthread_mutex_destroy(&w->lock);
    w->running = false;
}

void lt_comm_heartbeat(lt_comm *comm, int64_t step, const char *phase)
{
    lt_watchdog *w = &comm->watchdog;
    if (step > 0 && step != atomic_load(&w->step)) atomic_fetch_add(&w->steps_begun, 1);
    atomic_store(&w->step, step);
    atomic_store(&w->phase, phase);
    atomic_store(&w->allowance, 0);
    atomic_fetch_add(&w->beats, 1);
}

void lt_comm_allow(lt_comm *comm, double seconds)
{
    atomic_store(&comm->watchdog.allowance, seconds);
}
