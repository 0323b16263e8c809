#include "cli/interrupt.h"

#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

volatile sig_atomic_t lt_interrupted;

/* Calls only what a handler may. */
void lt_say_stopping(int signal, const char *piece)
{
    char text[96] = "\nlathe: stopping after this ";
    strcat(strcat(text, piece), signal == SIGINT ? "; again to stop at once\n" : "\n");
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
}

void lt_handle_signals(const int *signals, int count, int flags, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < count; i++)
        sigaction(signals[i], &action, NULL);
}

static void set_flag(int signal)
{
    (void)signal;
    lt_interrupted = 1;
}

static void set_flag_or_leave(int signal)
{
    if (lt_interrupted) _exit(LT_EXIT_INTERRUPTED);
    lt_interrupted = 1;
    lt_say_stopping(signal, "batch");
}

static const int stopping[] = {SIGINT, SIGTERM};

void lt_interrupt_on_ctrl_c(void)
{
    lt_handle_signals(stopping, 1, 0, set_flag);
}

void lt_interrupt_once(void)
{
    lt_handle_signals(stopping, 2, SA_RESETHAND, set_flag);
}

void lt_interrupt_between_batches(void)
{
    lt_handle_signals(stopping, 2, SA_RESTART, set_flag_or_leave);
}
