/* lathe train: the console's side of a training run. */
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cli/bar.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/launch.h"
#include "train/train.h"

typedef struct console {
    bool terminal; /* a bar on its last line */
    lt_bar bar;
    double bar_drawn; /* elapsed seconds */
    double loss;      /* the last one known */
    int64_t first_step;
    bool is_adapter;
    char output[512], model[512];
} console;

/* --- Signals -----------------------------------------------------------------------------------
 */

static volatile sig_atomic_t interrupts, tells_of_signals;

static void on_signal(int number)
{
    if (number == SIGINT && interrupts++ > 0) _exit(LT_EXIT_INTERRUPTED);
    lt_train_request_stop();
    if (tells_of_signals) lt_say_stopping(number, "step");
}

/* Of several processes one tells that it was asked to stop, or the one that has started them. */
static void handle_signals(const lt_launch_place *place)
{
    tells_of_signals = place->rank == 0 && !place->supervised;
    const int stopping[] = {SIGINT, SIGTERM, SIGUSR1};
    lt_handle_signals(stopping, 3, SA_RESTART, on_signal);
    signal(SIGPIPE, SIG_IGN); /* a closed console is no reason to lose a run */
}

/* --- The bar -----------------------------------------------------------------------------------
 */

static double remaining_seconds(const console *c, const lt_progress_info *info)
{
    double done = (double)(info->step - c->first_step);
    return done > 0 ? info->elapsed_seconds / done * (double)(info->total_steps - info->step) : 0;
}

static void draw_bar(console *c, const lt_progress_info *info)
{
    if (!c->terminal) return;
    bool last = info->step == info->total_steps;
    if (!last && c->bar.shown && info->elapsed_seconds - c->bar_drawn < LT_BAR_INTERVAL) return;
    char eta[32], text[256];
    lt_cli_format_duration(remaining_seconds(c, info), eta);
    snprintf(text, sizeof text, "step %" PRId64 "/%" PRId64 "  loss %.4f  ETA %s", info->step,
             info->total_steps, c->loss, eta);
    lt_bar_draw(&c->bar, (double)info->step / (double)info->total_steps, text);
    c->bar_drawn = info->elapsed_seconds;
}

/* --- Events ------------------------------------------------------------------------------------
 */

static void on_start(void *context, const lt_run_info *info)
{
    console *c = context;
    c->first_step = info->first_step;
    c->is_adapter = info->is_adapter;
    snprintf(c->output, sizeof c->output, "%s", info->output);
    snprintf(c->model, sizeof c->model, "%s", info->model);
    fputs(info->setup, stdout);
    fputc('\n', stdout);
    fflush(stdout);
}

static void on_message(void *context, const char *text)
{
    console *c = context;
    lt_bar_clear(&c->bar);
    puts(text);
    fflush(stdout);
}

static double per_second(double count, double seconds)
{
    return seconds > 0 ? count / seconds : 0;
}

static void on_step(void *context, const lt_step_info *info)
{
    console *c = context;
    if (info->logging || !info->taken) {
        lt_bar_clear(&c->bar);
        int width = snprintf(NULL, 0, "%" PRId64, info->total_steps);
        printf("step %*" PRId64 "/%" PRId64 "  epoch %6.3f  loss %8.4f  accuracy %5.1f%%  norm "
               "%8.3f  lr %9.3e  %8.0f tok/s  %7.1f GFLOP/s  %7.0f ms",
               width, info->step, info->total_steps, info->epoch, info->loss, 100 * info->accuracy,
               info->gradient_norm, info->learning_rate,
               per_second((double)info->input_tokens, info->seconds),
               per_second(info->flops, info->seconds) / 1e9, 1e3 * info->seconds);
        if (info->skipped_steps > 0) printf("  skipped %" PRId64, info->skipped_steps);
        if (!info->taken) fputs("  NOT TAKEN: not finite", stdout);
        fputc('\n', stdout);
        fflush(stdout);
    }
    c->loss = info->loss;
}

static void on_progress(void *context, const lt_progress_info *info)
{
    draw_bar(context, info);
}

static void on_evaluation(void *context, const lt_eval_info *info)
{
    console *c = context;
    lt_bar_clear(&c->bar);
    printf("held out, step %" PRId64 ": loss %.4f  perplexity %.3f  accuracy %.1f%%  %" PRId64
           " tokens  %.1f s%s\n",
           info->step, info->loss, info->perplexity, 100 * info->accuracy, info->tokens,
           info->seconds, info->is_best ? "  best so far" : "");
    fflush(stdout);
}

static void on_save(void *context, const lt_save_info *info)
{
    console *c = context;
    lt_bar_clear(&c->bar);
    if (info->error)
        printf("warning: %s was not saved: %s; training goes on, what was saved before stays\n",
               info->path, info->error);
    else
        printf("saved %s\n", info->path);
    fflush(stdout);
}

static void print_result(const console *c, const lt_train_result *result)
{
    char duration[32];
    lt_cli_format_duration(result->seconds, duration);
    printf("\n%s after %" PRId64 " steps, %s; training loss %.4f",
           result->interrupted     ? "stopped"
           : result->stopped_early ? "stopped early, for want of a better held-out loss,"
                                   : "done",
           result->steps, duration, result->train_loss);
    if (!isnan(result->eval_loss)) printf(", held-out loss %.4f", result->eval_loss);
    if (isfinite(result->best_eval_loss))
        printf(", best %.4f at step %" PRId64, result->best_eval_loss, result->best_step);
    if (result->peak_memory > 0) printf("; peak memory %.0f MB", (double)result->peak_memory / 1e6);
    puts("");
    if (result->interrupted) {
        puts("the same command goes on from here");
        return;
    }
    const char *what = c->is_adapter ? "adapter" : "model";
    printf("%-13s%s/final\n", c->is_adapter ? "adapter" : "final model", c->output);
    if (isfinite(result->best_eval_loss)) printf("best %-8s%s/best\n", what, c->output);
    printf("report       %s/report.html\n", c->output);
    if (c->is_adapter)
        printf("try          lathe generate --model %s --adapter %s/final --instruction \"...\"\n",
               c->model, c->output);
    else
        printf("try          lathe generate --model %s/final --instruction \"...\"\n", c->output);
}

/* --- The command -------------------------------------------------------------------------------
 */

/* mpirun makes the standard output of its processes a terminal, wherever it goes then. */
static bool has_terminal(const lt_launch_place *place)
{
    return isatty(STDOUT_FILENO) && place->launcher != LT_LAUNCHER_MPI;
}

static volatile sig_atomic_t own_code;

static void end_with_own_code(int signal)
{
    (void)signal;
    _exit(own_code);
}

/* What is wrong for all of them rank 0 says, and then the others are ended, with its exit code: of
 * several that differ srun tells the highest. What rank 0 did not find wrong this one says itself.
 */
static void leave_it_to_rank_0(const lt_launch_place *place, lt_status status)
{
    enum { PATIENCE = 5 }; /* seconds; mpirun takes 3 to end those on other hosts */
    if (place->rank == 0) return;
    own_code = lt_cli_exit_code(status);
    signal(SIGTERM, end_with_own_code);
    sleep(PATIENCE);
}

static int run(const lt_train_settings *settings, const lt_launch_place *place)
{
    console c = {.terminal = has_terminal(place), .bar = {.out = stdout}, .loss = NAN};
    const lt_train_observer observer = {.context = &c,
                                        .start = on_start,
                                        .message = on_message,
                                        .progress = on_progress,
                                        .step = on_step,
                                        .evaluation = on_evaluation,
                                        .save = on_save};
    lt_train_result result;
    lt_err err = {0};
    handle_signals(place);
    lt_status status = lt_train(settings, &observer, 1, &result, &err);
    tells_of_signals = 0; /* mpirun ends those that are late with one */
    lt_bar_clear(&c.bar);
    if (status != LT_OK) {
        leave_it_to_rank_0(place, status);
        return result.is_main ? lt_cli_fail(status, &err) : lt_cli_exit_code(status);
    }
    if (settings->dry_run) return LT_EXIT_OK;
    if (result.is_main) print_result(&c, &result);
    fflush(stdout);
    if (result.last_save_failed) {
        if (result.is_main)
            fputs("lathe: error: the last save failed; see the warnings above\n", stderr);
        return LT_EXIT_FAILURE;
    }
    return result.interrupted ? LT_EXIT_INTERRUPTED : LT_EXIT_OK;
}

/* One that lathe has started ends with it, also where mpirun stands between. */
static void end_with_parent(const lt_launch_place *place)
{
    if (place->supervised) prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static int start(lt_train_settings *settings, const lt_launch_place *place, int argc, char **argv)
{
    lt_launch_plan plan;
    lt_err err = {0};
    lt_status status = lt_launch_make_plan(settings, place, &plan, &err);
    if (status == LT_OK) status = lt_launch_take_device(place, settings, &err);
    if (status == LT_OK)
        return plan.count > 0 ? lt_launch_run(&plan, settings, argc, argv) : run(settings, place);
    leave_it_to_rank_0(place, status);
    return lt_cli_fail(status, &err);
}

int lt_cmd_train(int argc, char **argv)
{
    const lt_option_table *table = &lt_train_options;
    lt_train_settings settings = {0};
    lt_option_result options = {0};
    lt_launch_place place;
    lt_err err = {0};
    int code = LT_EXIT_OK;
    lt_status status = lt_launch_find_place(&place, &err);
    if (status != LT_OK) return lt_cli_fail(status, &err);
    end_with_parent(&place);
    status = lt_options_parse(table, argc, argv, &settings, &options, &err);
    if (status != LT_OK) {
        leave_it_to_rank_0(&place, status);
        code = lt_cli_refuse_options(table, status, &err);
    } else if (options.help) {
        if (place.rank == 0) code = lt_cli_print_help(table);
    } else {
        code = start(&settings, &place, argc, argv);
    }
    lt_options_free(table, &settings, &options);
    return code;
}
