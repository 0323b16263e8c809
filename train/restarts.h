/* Whether, when and how a run of several processes that failed is started again: from its last good
 * checkpoint, later each time, until it has failed too often without getting any further. */
#ifndef LT_TRAIN_RESTARTS_H
#define LT_TRAIN_RESTARTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "train/train.h"

/* Which checkpoint is the newest: one of the same step that is made again is another one. */
typedef struct lt_newest_checkpoint {
    int64_t step; /* -1: there is none */
    ino_t inode;
    struct timespec made;
} lt_newest_checkpoint;

typedef struct lt_restarts {
    const lt_train_settings *settings; /* borrowed */
    double backoff;                    /* seconds before the first; doubled each time, up to 60 */
    int64_t count;                     /* without a new checkpoint between */
    int64_t total;                     /* in this run */
    lt_newest_checkpoint at_start, at_failure;
} lt_restarts;

/* Before the first start. */
lt_status lt_restarts_begin(lt_restarts *restarts, const lt_train_settings *settings,
                            double backoff, lt_err *err);

typedef struct lt_restart {
    bool wanted;        /* false: --max-restarts are used up */
    double delay;       /* seconds to wait before */
    int64_t step;       /* of the checkpoint that it goes on from, -1: none */
    const char *resume; /* for --resume on top of the user's options; NULL: as they are */
    bool no_force;      /* for --no-force too */
} lt_restart;

/* After each failure. */
lt_status lt_restarts_next(lt_restarts *restarts, lt_restart *out, lt_err *err);

#endif
