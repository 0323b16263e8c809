/* Where a process stands among those that train together: what mpirun, srun, torchrun or Lathe's
 * own launcher left in its environment. */
#ifndef LT_TRAIN_LAUNCH_H
#define LT_TRAIN_LAUNCH_H

#include <stdbool.h>

#include "base/status.h"

typedef enum lt_launcher {
    LT_LAUNCHER_NONE,     /* a process by itself */
    LT_LAUNCHER_TORCHRUN, /* RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: ours too */
    LT_LAUNCHER_MPI,      /* Open MPI's or MPICH's mpirun */
    LT_LAUNCHER_SLURM,    /* srun: MPI where it was built with it, else as torchrun */
} lt_launcher;

/* The exit code of a process that its watchdog ended. */
enum { LT_EXIT_WATCHDOG = 76 };

typedef struct lt_launch_place {
    lt_launcher launcher;
    int rank, world_size;       /* 0 of 1 alone */
    int local_rank, local_size; /* on this host; local_size 0: not known */
    char host[64];
    char master_address[256];     /* where rank 0 listens; "" when not given */
    int master_port;              /* the port there; 0 when not given */
    const char *master_port_name; /* what it is, for messages; NULL: MASTER_PORT */
    bool supervised;              /* lathe's own launcher is the parent */
    int restart_count;            /* how often the launcher has started it again */
} lt_launch_place;

/* From the environment, in this order: RANK and WORLD_SIZE; OMPI_COMM_WORLD_RANK, _SIZE,
 * _LOCAL_RANK, _LOCAL_SIZE; PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS; SLURM_PROCID,
 * SLURM_STEP_NUM_TASKS, SLURM_LOCALID (only inside a step of several tasks). MASTER_ADDR and
 * MASTER_PORT wherever they are; where torchrun itself listens on that port, as it does by default
 * and says in TORCHELASTIC_USE_AGENT_STORE, the port is MASTER_PORT + 1000 (- 1000 where there is
 * none). LT_ERR_USAGE for values that make no sense, naming the variable. */
lt_status lt_launch_find_place(lt_launch_place *out, lt_err *err);

/* The words of --gpus: "4" is the first four GPUs, "0,2,3" these, where one may stand twice. Fills
 * indices[0..*count). LT_ERR_USAGE for other text, or more than LT_LAUNCH_MAX_GPUS. */
enum { LT_LAUNCH_MAX_GPUS = 64 };
lt_status lt_launch_parse_gpus(const char *text, int indices[LT_LAUNCH_MAX_GPUS], int *count,
                               lt_err *err);

/* "torchrun variables", "mpirun", "srun", "alone" */
const char *lt_launcher_name(lt_launcher launcher);

#endif
