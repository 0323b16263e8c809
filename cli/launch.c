#include "cli/launch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/processes.h"
#include "cli/cli.h"
#include "cli/mpirun.h"
#include "kernels/devices.h"
#include "train/restarts.h"

#define GRACE       5.0  /* seconds from SIGTERM to SIGKILL */
#define PATIENCE    30.0 /* seconds for all to leave once one has, after a checkpoint */
#define STUCK_LIMIT 3.0  /* seconds for mpirun to see that a process has ended */
#define BACKOFF     1.0  /* seconds before the first restart */

enum { SHELL_SIGNAL = 128 }; /* and the signal: the exit code of what a signal ended */

/* --- The plan ----------------------------------------------------------------------------------
 */

static bool is_device(const lt_train_settings *settings, const char *name)
{
    return strcmp(settings->device, name) == 0;
}

static lt_status plan_gpus(const lt_train_settings *settings, lt_launch_plan *out, lt_err *err)
{
    lt_cuda_machine machine;
    if (!is_device(settings, "auto") && !is_device(settings, "cuda"))
        return lt_fail(err, LT_ERR_USAGE,
                       "--gpus and --device %s do not go together: --gpus says which GPUs",
                       settings->device);
    LT_TRY(lt_launch_parse_gpus(settings->gpus, out->gpus, &out->count, err));
    if (lt_cuda_probe(&machine, err) != LT_OK)
        return lt_fail_context(err, "--gpus %s", settings->gpus);
    for (int i = 0; i < out->count; i++) {
        if (out->gpus[i] >= machine.gpu_count)
            return lt_fail(err, LT_ERR_USAGE,
                           "--gpus %s: this machine has %d GPU%s, numbered from 0 (lathe devices "
                           "lists them)",
                           settings->gpus, machine.gpu_count, machine.gpu_count == 1 ? "" : "s");
        if (lt_cuda_usable(lt_cuda_this_build(), &machine, out->gpus[i], err) != LT_OK)
            return lt_fail_context(err, "--gpus %s", settings->gpus);
        for (int other = 0; other < i; other++)
            out->by_mpi = out->by_mpi || out->gpus[other] == out->gpus[i];
    }
    out->on_gpus = true;
    return LT_OK;
}

static lt_status plan_cpu(const lt_train_settings *settings, lt_launch_plan *out, lt_err *err)
{
    if (!is_device(settings, "auto") && !is_device(settings, "cpu"))
        return lt_fail(err, LT_ERR_USAGE,
                       "--processes starts them on the CPU, which does not go with --device %s; "
                       "for GPUs there is --gpus",
                       settings->device);
    out->count = (int)settings->processes;
    out->by_mpi = out->count > 1;
    return LT_OK;
}

static lt_status refuse_restarts(const lt_launch_place *place, lt_err *err)
{
    static const char *const instead[] = {
        [LT_LAUNCHER_NONE] = "--processes 1 does that for a single one on the CPU",
        [LT_LAUNCHER_TORCHRUN] = "here torchrun does that (its own --max-restarts)",
        [LT_LAUNCHER_MPI] = "here mpirun started it: run the same command again",
        [LT_LAUNCHER_SLURM] = "here Slurm does that (sbatch --requeue)",
    };
    return lt_fail(err, LT_ERR_USAGE,
                   "--max-restarts is for processes that lathe itself starts, by --gpus or "
                   "--processes; %s",
                   instead[place->launcher]);
}

lt_status lt_launch_make_plan(const lt_train_settings *settings, const lt_launch_place *place,
                              lt_launch_plan *out, lt_err *err)
{
    bool gpus = settings->gpus != NULL, cpu = settings->processes > 0;
    *out = (lt_launch_plan){0};
    if (gpus && cpu)
        return lt_fail(err, LT_ERR_USAGE,
                       "--gpus and --processes do not go together: a process for each GPU, or so "
                       "many on the CPU");
    if (settings->dry_run || place->supervised) return LT_OK;
    if (!gpus && !cpu) return settings->max_restarts > 0 ? refuse_restarts(place, err) : LT_OK;
    if (place->world_size > 1 || place->launcher == LT_LAUNCHER_MPI)
        return lt_fail(err, LT_ERR_USAGE,
                       "--%s starts processes, and this one is one of %d that %s started; leave "
                       "it out",
                       gpus ? "gpus" : "processes", place->world_size,
                       lt_launcher_name(place->launcher));
    return gpus ? plan_gpus(settings, out, err) : plan_cpu(settings, out, err);
}

/* --- Words -------------------------------------------------------------------------------------
 */

/* Arguments or variables; NULL at the end. A zeroed one is empty. */
typedef struct words {
    char **items;
    size_t count;
} words;

__attribute__((format(printf, 3, 4))) static lt_status add(words *w, lt_err *err,
                                                           const char *format, ...)
{
    va_list values;
    char *text = NULL, **items = realloc(w->items, (w->count + 2) * sizeof *items);
    if (items) w->items = items;
    va_start(values, format);
    int size = items ? vasprintf(&text, format, values) : -1;
    va_end(values);
    if (size < 0) return lt_fail_nomem(err, (w->count + 2) * sizeof *items, "an argument");
    w->items[w->count++] = text;
    w->items[w->count] = NULL;
    return LT_OK;
}

static lt_status add_all(words *w, const char *const *texts, size_t count, lt_err *err)
{
    for (size_t i = 0; i < count; i++)
        LT_TRY(add(w, err, "%s", texts[i]));
    return LT_OK;
}

static void free_words(words *w)
{
    for (size_t i = 0; i < w->count; i++)
        free(w->items[i]);
    free(w->items);
    *w = (words){0};
}

/* --- What is started ---------------------------------------------------------------------------
 */

/* One start of all processes. */
typedef struct launch {
    const lt_launch_plan *plan;
    const lt_train_settings *settings;
    int argc;
    char **argv;
    char program[PATH_MAX];
    char *mpirun; /* NULL: none is needed */
    lt_mpi mpi;
    words arguments;
    words *environments; /* one for each program that is started */
    lt_process *programs;
    int program_count;
    lt_mpirun_report report;
} launch;

static lt_status find_program(launch *l, lt_err *err)
{
    ssize_t length = readlink("/proc/self/exe", l->program, sizeof l->program - 1);
    if (length < 0)
        return lt_fail(err, LT_ERR_IO, "can not find this program: /proc/self/exe: %s",
                       strerror(errno));
    l->program[length] = '\0';
    return l->plan->by_mpi ? lt_mpirun_find(&l->mpirun, &l->mpi, err) : LT_OK;
}

/* One that is free now. */
static lt_status find_port(int *port, lt_err *err)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool found = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
                 getsockname(fd, (struct sockaddr *)&address, &size) == 0;
    int code = errno;
    if (fd >= 0) close(fd);
    if (!found) return lt_fail(err, LT_ERR_IO, "no free TCP port: %s", strerror(code));
    *port = ntohs(address.sin_port);
    return LT_OK;
}

static lt_status add_arguments(launch *l, const lt_restart *again, lt_err *err)
{
    words *w = &l->arguments;
    if (l->mpirun) {
        LT_TRY(add(w, err, "%s", l->mpirun));
        for (const char *const *flag = lt_mpirun_flags(l->mpi); *flag; flag++)
            LT_TRY(add(w, err, "%s", *flag));
        LT_TRY(add(w, err, "-n"));
        LT_TRY(add(w, err, "%d", l->plan->count));
    }
    LT_TRY(add(w, err, "%s", l->program));
    LT_TRY(add(w, err, "train"));
    LT_TRY(add_all(w, (const char *const *)l->argv, (size_t)l->argc, err));
    if (again->resume) {
        LT_TRY(add(w, err, "--resume"));
        LT_TRY(add(w, err, "%s", again->resume));
    }
    return again->no_force ? add(w, err, "--no-force") : LT_OK;
}

static lt_status add_gpus(const lt_launch_plan *plan, words *w, lt_err *err)
{
    lt_buffer list = {0};
    lt_status status = LT_OK;
    for (int i = 0; i < plan->count && status == LT_OK; i++)
        status = lt_buffer_printf(&list, err, "%s%d", i ? "," : "", plan->gpus[i]);
    if (status == LT_OK) status = add(w, err, "LATHE_GPUS=%s", lt_buffer_text(&list));
    lt_buffer_free(&list);
    return status;
}

/* Where this process is one of one, its variables are not for the new ones. */
static lt_status add_place(const lt_launch_plan *plan, int index, int port, words *w, lt_err *err)
{
    static const char *const others[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
    LT_TRY(add(w, err, "TORCHELASTIC_USE_AGENT_STORE"));
    if (plan->by_mpi) return add_all(w, others, sizeof others / sizeof *others, err);
    LT_TRY(add(w, err, "RANK=%d", index));
    LT_TRY(add(w, err, "WORLD_SIZE=%d", plan->count));
    LT_TRY(add(w, err, "LOCAL_RANK=%d", index));
    LT_TRY(add(w, err, "LOCAL_WORLD_SIZE=%d", plan->count));
    LT_TRY(add(w, err, "MASTER_ADDR=127.0.0.1"));
    return add(w, err, "MASTER_PORT=%d", port);
}

static lt_status add_programs(launch *l, const lt_restarts *restarts, lt_err *err)
{
    int port = 0, count = l->plan->by_mpi ? 1 : l->plan->count;
    if (!l->plan->by_mpi) LT_TRY(find_port(&port, err));
    l->environments = calloc((size_t)count, sizeof *l->environments);
    l->programs = calloc((size_t)count, sizeof *l->programs);
    if (!l->environments || !l->programs)
        return lt_fail_nomem(err, (size_t)count * sizeof *l->programs, "processes");
    l->program_count = count;
    for (int i = 0; i < count; i++) {
        words *w = &l->environments[i];
        LT_TRY(add(w, err, "LATHE_SUPERVISED=1"));
        LT_TRY(add(w, err, "TORCHELASTIC_RESTART_COUNT=%lld", (long long)restarts->total));
        if (l->plan->on_gpus) LT_TRY(add_gpus(l->plan, w, err));
        LT_TRY(add_place(l->plan, i, port, w, err));
        l->programs[i] = (lt_process){l->arguments.items, w->items};
    }
    return LT_OK;
}

static void clear_launch(launch *l)
{
    for (int i = 0; i < l->program_count; i++)
        free_words(&l->environments[i]);
    free(l->environments);
    free(l->programs);
    free_words(&l->arguments);
    lt_buffer_free(&l->report.own);
    l->environments = NULL;
    l->programs = NULL;
    l->program_count = 0;
    l->report = (lt_mpirun_report){0};
}

/* --- Running -----------------------------------------------------------------------------------
 */

static void say_stopping(void *context, int signal)
{
    (void)context;
    fputs(signal == SIGINT ? "\nlathe: stopping after this step; again to stop at once\n"
                           : "\nlathe: stopping after this step\n",
          stderr);
}

static void take_line(void *context, int stream, const char *text, size_t size)
{
    launch *l = context;
    lt_mpirun_take_line(&l->report, stream, text, size);
}

static bool is_stuck(void *context, pid_t pid)
{
    launch *l = context;
    return lt_mpirun_is_stuck(&l->report, pid);
}

/* mpirun ends a job on SIGINT and SIGTERM, and passes SIGUSR1 on. */
static lt_status run_once(launch *l, const lt_restarts *restarts, const lt_restart *again,
                          lt_processes_end *end, lt_err *err)
{
    bool by_mpi = l->plan->by_mpi;
    clear_launch(l);
    LT_TRY(add_arguments(l, again, err));
    LT_TRY(add_programs(l, restarts, err));
    const lt_processes_settings settings = {.processes = l->programs,
                                            .count = l->program_count,
                                            .stop_signal = by_mpi ? SIGUSR1 : 0,
                                            .orderly_code = LT_EXIT_INTERRUPTED,
                                            .grace = GRACE,
                                            .patience = PATIENCE,
                                            .stuck_limit = STUCK_LIMIT,
                                            .context = l,
                                            .stopping = say_stopping,
                                            .is_stuck = by_mpi ? is_stuck : NULL,
                                            .line = by_mpi ? take_line : NULL};
    return lt_processes_run(&settings, end, err);
}

/* What happened to the process that failed first, whoever started it. */
typedef struct failure {
    int rank;   /* -1: not known */
    int signal; /* 0: none */
    int code;   /* the exit code of all of them */
} failure;

static failure find_cause(const launch *l, const lt_processes_end *end)
{
    const lt_mpirun_report *r = &l->report;
    int signal = l->plan->by_mpi ? r->signal : end->signal;
    /* of one that was killed as it began mpirun tells no more than a shell would */
    bool by_code = end->exit_code > SHELL_SIGNAL && end->exit_code != LT_EXIT_INTERRUPTED;
    if (l->plan->by_mpi && !signal && by_code) signal = end->exit_code - SHELL_SIGNAL;
    int rank = !l->plan->by_mpi ? end->first : r->rank_is_known ? r->rank : -1;
    /* the watchdog's word comes before the signals by which mpirun ended the others */
    if (r->abort_code == LT_EXIT_WATCHDOG) return (failure){rank, 0, LT_EXIT_WATCHDOG};
    bool ended_by_signal = signal || end->signal;
    return (failure){rank, signal, ended_by_signal ? LT_EXIT_FAILURE : end->exit_code};
}

static const char *name_process(const failure *f, char text[32])
{
    snprintf(text, 32, "rank %d", f->rank);
    return f->rank < 0 ? "a process" : text;
}

/* A process has told its own error; what it could not tell is told here. */
static void tell_failure(const launch *l, const lt_processes_end *end, const failure *f)
{
    const lt_mpirun_report *r = &l->report;
    char name[32];
    const char *who = name_process(f, name);
    if (f->signal)
        fprintf(stderr, "lathe: error: %s was killed by signal %d (%s); all processes were ended\n",
                who, f->signal, strsignal(f->signal));
    else if (f->code == LT_EXIT_WATCHDOG)
        fprintf(stderr,
                "lathe: error: %s made no progress or waited for one that made none; all processes "
                "were ended, and %s/logs has what each was doing\n",
                who, l->settings->output);
    else if (l->mpirun && r->is_stuck && end->signal == SIGKILL)
        fprintf(stderr,
                "lathe: error: %s did not notice that a process had ended, and was killed\n",
                l->mpirun);
    else if (l->mpirun && end->signal)
        fprintf(stderr, "lathe: error: %s was killed by signal %d (%s)\n", l->mpirun, end->signal,
                strsignal(end->signal));
    else if (l->mpirun && !r->cause_was_told && !r->rank_is_known)
        fprintf(stderr, "%slathe: error: %s ended with code %d\n", lt_buffer_text(&r->own),
                l->mpirun, end->exit_code);
    else if ((l->mpirun && !r->cause_was_told) ||
             (f->code != LT_EXIT_FAILURE && f->code != LT_EXIT_USAGE))
        fprintf(stderr, "lathe: error: %s ended with code %d; all processes were ended\n", who,
                f->code);
}

static void tell_restart(const lt_restarts *restarts, const lt_restart *again)
{
    char from[48] = "the beginning";
    if (again->step >= 0) snprintf(from, sizeof from, "checkpoint-%lld", (long long)again->step);
    fprintf(stderr, "lathe: starting again from %s in %g s (restart %lld of %lld)\n", from,
            again->delay, (long long)restarts->count, (long long)restarts->settings->max_restarts);
}

/* Whether there is to be another start, after the pause. Else *code is final. */
static lt_status start_again(launch *l, lt_restarts *restarts, const lt_processes_end *end,
                             lt_restart *again, int *code, lt_err *err)
{
    failure f = find_cause(l, end);
    *again = (lt_restart){0};
    *code = end->first < 0 ? LT_EXIT_OK : f.code;
    if (*code == LT_EXIT_OK || *code == LT_EXIT_INTERRUPTED) return LT_OK;
    /* as asked; or one had not begun to listen when it was asked to save and stop */
    if (end->at_once || (end->stopped && f.signal)) {
        *code = LT_EXIT_INTERRUPTED;
        return LT_OK;
    }
    tell_failure(l, end, &f);
    if (end->stopped || *code == LT_EXIT_USAGE || l->settings->max_restarts == 0) return LT_OK;
    LT_TRY(lt_restarts_next(restarts, again, err));
    if (!again->wanted) {
        fprintf(stderr,
                "lathe: error: given up after %lld restarts without a new checkpoint in %s\n",
                (long long)restarts->count, l->settings->output);
        return LT_OK;
    }
    tell_restart(restarts, again);
    again->wanted = lt_processes_pause(again->delay) == 0;
    if (!again->wanted) *code = LT_EXIT_INTERRUPTED;
    return LT_OK;
}

/* LATHE_RESTART_BACKOFF, in seconds, for those who can not wait. */
static double first_delay(void)
{
    const char *text = getenv("LATHE_RESTART_BACKOFF");
    char *end = NULL;
    double seconds = text ? strtod(text, &end) : BACKOFF;
    bool valid = !text || (end != text && !*end && seconds >= 0 && seconds <= 3600);
    return valid ? seconds : BACKOFF;
}

int lt_launch_run(const lt_launch_plan *plan, const lt_train_settings *settings, int argc,
                  char **argv)
{
    launch l = {.plan = plan, .settings = settings, .argc = argc, .argv = argv};
    lt_restart again = {0};
    lt_restarts restarts;
    lt_processes_end end;
    lt_err err = {0};
    lt_status status;
    int code = LT_EXIT_OK;
    LT_TRY_GOTO(status, find_program(&l, &err), done);
    LT_TRY_GOTO(status, lt_restarts_begin(&restarts, settings, first_delay(), &err), done);
    do {
        LT_TRY_GOTO(status, run_once(&l, &restarts, &again, &end, &err), done);
        LT_TRY_GOTO(status, start_again(&l, &restarts, &end, &again, &code, &err), done);
    } while (again.wanted);
done:
    clear_launch(&l);
    free(l.mpirun);
    return status == LT_OK ? code : lt_cli_fail(status, &err);
}

/* --- In a process that was started so ----------------------------------------------------------
 */

static lt_status set_device(lt_train_settings *settings, const char *device, lt_err *err)
{
    char *copy = strdup(device);
    if (!copy) return lt_fail_nomem(err, strlen(device) + 1, "an option");
    free(settings->device);
    settings->device = copy;
    return LT_OK;
}

lt_status lt_launch_take_device(const lt_launch_place *place, lt_train_settings *settings,
                                lt_err *err)
{
    const char *list = getenv("LATHE_GPUS");
    char device[24];
    if (!place->supervised) return LT_OK;
    if (settings->processes > 0) return set_device(settings, "cpu", err);
    for (int i = 0; list && i < place->local_rank; i++) {
        list = strchr(list, ',');
        if (list) list++;
    }
    if (!list) return LT_OK;
    snprintf(device, sizeof device, "cuda:%d", atoi(list));
    return set_device(settings, device, err);
}
