#include "base/thread.h"

#include <signal.h>
#include <string.h>

lt_status lt_thread_start(pthread_t *thread, void *(*run)(void *argument), void *argument,
                          const char *what, lt_err *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed) return LT_OK;
    return lt_fail(err, LT_ERR_IO, "%s can not be started: %s", what, strerror(failed));
}
