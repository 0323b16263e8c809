/* `lathe train --gpus` and `--processes`: this process starts those that train, watches them, and
 * starts them again when one fails. */
#ifndef LT_CLI_LAUNCH_H
#define LT_CLI_LAUNCH_H

#include "train/launch.h"
#include "train/train.h"

/* What is to be started, checked. */
typedef struct lt_launch_plan {
    int count;    /* processes; 0: none, this one trains */
    bool by_mpi;  /* through mpirun; else each for itself, with torchrun's variables */
    bool on_gpus; /* process i computes on gpus[i] */
    int gpus[LT_LAUNCH_MAX_GPUS];
} lt_launch_plan;

/* LT_ERR_USAGE for options that do not go together, or with how this process was started, and for
 * GPUs that are not there; LT_ERR_UNSUPPORTED when this build can not use them. */
lt_status lt_launch_make_plan(const lt_train_settings *settings, const lt_launch_place *place,
                              lt_launch_plan *out, lt_err *err);

/* Starts `lathe train` with the words argv[0..argc) so often, and stays until all have ended. Tells
 * on standard error what went wrong with them as a whole. Returns the exit code. */
int lt_launch_run(const lt_launch_plan *plan, const lt_train_settings *settings, int argc,
                  char **argv);

/* In a process that was started so: the device that is meant for it, in place of --device auto. */
lt_status lt_launch_take_device(const lt_launch_place *place, lt_train_settings *settings,
                                lt_err *err);

#endif
