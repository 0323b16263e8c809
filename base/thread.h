/* Threads beside the one that the program began with. */
#ifndef LT_BASE_THREAD_H
#define LT_BASE_THREAD_H

#include <pthread.h>

#include "base/status.h"

/* Starts one that takes no signals: they are for the main thread. `what`, as in "the watchdog's
 * thread", begins the message of LT_ERR_IO. */
lt_status lt_thread_start(pthread_t *thread, void *(*run)(void *argument), void *argument,
                          const char *what, lt_err *err);

#endif
