/* Ctrl-C and its like, as a flag that long work looks at between two pieces. */
#ifndef LT_CLI_INTERRUPT_H
#define LT_CLI_INTERRUPT_H

#include <signal.h>

/* Not 0 once a signal was caught: the `cancelled` of what runs. Whoever goes on sets it to 0. */
extern volatile sig_atomic_t lt_interrupted;

/* Every SIGINT sets the flag; it ends reading a line too. */
void lt_interrupt_on_ctrl_c(void);
/* The first SIGINT or SIGTERM sets the flag, the second ends the process at once. */
void lt_interrupt_once(void);
/* The same, and told on standard error, as below. */
void lt_interrupt_between_batches(void);

/* For handlers of one's own. */
void lt_handle_signals(const int *signals, int count, int flags, void (*handler)(int));
/* "stopping after this batch", and after a Ctrl-C that another stops at once. */
void lt_say_stopping(int signal, const char *piece);

#endif
