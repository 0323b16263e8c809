/* The mpirun of this machine: its flags for processes on one host, and what it prints when a job
 * ends badly, which is kept apart from what the processes print. */
#ifndef LT_CLI_MPIRUN_H
#define LT_CLI_MPIRUN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/buffer.h"

typedef enum lt_mpi { LT_MPI_OPEN, LT_MPI_HYDRA /* MPICH's and Intel's */ } lt_mpi;

/* $LATHE_MPIRUN, or mpirun from $PATH. *path: caller frees. LT_ERR_UNSUPPORTED, with what to
 * install, when there is none. */
lt_status lt_mpirun_find(char **path, lt_mpi *which, lt_err *err);
/* The flags for processes that may be more than there are cores, NULL at the end. */
const char *const *lt_mpirun_flags(lt_mpi which);

/* What mpirun has said itself, while a job ran. A zeroed one is empty; free `own`. */
typedef struct lt_mpirun_report {
    bool in_frame;       /* between two of Open MPI's dashed lines */
    bool cause_was_told; /* a process has written "lathe: error" or "rank N ..." */
    lt_buffer own;       /* mpirun's lines */
    bool rank_is_known;
    int rank;       /* of the first process that failed */
    int signal;     /* which ended it; 0: none, or not told */
    int abort_code; /* with which a process ended the others (MPI_Abort); 0: none, or not told */
    bool is_stuck;
} lt_mpirun_report;

/* Passes a line of a process on to standard output (1) or error (2), or keeps one of mpirun. */
void lt_mpirun_take_line(lt_mpirun_report *report, int stream, const char *text, size_t size);

/* Whether a process that the mpirun of this id has started has ended, and it takes no notice: Open
 * MPI 4.1's stands still for ever when one is killed in the middle of saying hello. The signal that
 * ended it goes into the report. */
bool lt_mpirun_is_stuck(lt_mpirun_report *report, pid_t pid);

#endif
