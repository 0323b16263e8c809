/* Collectives of MPI on memory of the host, for the one thread that may call MPI. Private to
 * train/comm. */
#ifndef LT_TRAIN_COMM_MPI_COLLECTIVES_H
#define LT_TRAIN_COMM_MPI_COLLECTIVES_H

#include <mpi.h>

#include "train/comm/internal.h"

typedef struct lt_mpi {
    int rank, size;
    MPI_Op sum_bf16;
    int *counts; /* [size] */
    void *scratch;
    size_t scratch_bytes;
} lt_mpi;

/* Between MPI_Init and MPI_Finalize. */
lt_status lt_mpi_prepare(lt_mpi *mpi, lt_err *err);
void lt_mpi_clear(lt_mpi *mpi);

enum { LT_MPI_PIECE_BYTES = 512 << 10 /* for each rank */ };

/* Waits for the other ranks without keeping a core busy, then does it, in pieces of `piece_bytes`
 * in all. */
lt_status lt_mpi_collective(lt_mpi *mpi, const lt_collective *collective, size_t piece_bytes,
                            lt_err *err);

#endif
