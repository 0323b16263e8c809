/* What the files of train/comm share: the communicator, and the table that a backend (single.c,
 * mpi.c, nccl.c) fills. Nothing outside train/comm includes this.
 *
 * comm.c checks arguments, numbers every collective, keeps the flight record and the hash, and asks
 * the backend. A backend moves bytes; it never checks what is said here to be checked, and never
 * prints. Collectives come from one thread, in the same order on all ranks. */
#ifndef LT_TRAIN_COMM_INTERNAL_H
#define LT_TRAIN_COMM_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/buffer.h"
#include "train/comm/comm.h"
#include "train/comm/rendezvous.h"

typedef struct lt_comm_vote lt_comm_vote;

/* --- One collective ----------------------------------------------------------------------------
 */

typedef enum lt_comm_operation {
    LT_COMM_ALL_REDUCE, /* sum */
    LT_COMM_MAX,        /* all-reduce with the maximum; host values only */
    LT_COMM_REDUCE_SCATTER,
    LT_COMM_ALL_GATHER,
    LT_COMM_BROADCAST,
    LT_COMM_OPERATION_COUNT,
} lt_comm_operation;

/* Memory is borrowed, contiguous, and of the kind the slot says. In place means: `to` of a
 * reduce_scatter, or `from` of an all_gather, are this rank's elements of the whole; or from == to.
 */
typedef struct lt_collective {
    uint64_t sequence; /* 1, 2, 3...: the same on all ranks */
    lt_comm_operation operation;
    lt_dtype dtype;
    int root;         /* broadcast */
    int64_t count;    /* elements, at least 1: of a rank's part in reduce_scatter and all_gather, of
                         the    tensor elsewhere */
    const void *from; /* reduce_scatter: the whole; all_gather: the part; else == to */
    void *to;         /* reduce_scatter: the part; all_gather: the whole */
} lt_collective;

/* --- A backend ---------------------------------------------------------------------------------
 */

typedef struct lt_comm_ops {
    /* On memory of comm->backend: all_reduce and reduce_scatter of f32, f64, bf16; all_gather and
     * broadcast of anything. Starts it, in the order of the calls, after what the device's
     * operations have written so far; does not wait for it. */
    lt_status (*begin)(lt_comm *comm, const lt_collective *collective, lt_err *err);
    /* The device's operations from now on come after collective `sequence`, and so after all before
     * it. Called once for each that began, in any order. */
    lt_status (*wait)(lt_comm *comm, uint64_t sequence, lt_err *err);
    /* On memory of the host, after all that began before; done on return. all_reduce and max of f64
     * in place, all_gather and broadcast of u8. */
    lt_status (*host)(lt_comm *comm, const lt_collective *collective, lt_err *err);
    /* Called now and then by the watchdog's thread: reports to lt_comm_ended what has ended, and
     * returns what went wrong where the caller does not see it (ncclCommGetAsyncError). NULL:
     * `begin` and `wait` see to both. Takes no lock that the caller's thread holds while it waits.
     */
    lt_status (*poll)(lt_comm *comm, lt_err *err);
    /* Takes the other ranks down, from any thread, while another one may be stuck in this table; it
     * may hang or end the process: its caller has a time limit, and ends the process after it. */
    void (*abort)(lt_comm *comm, int exit_code);
    /* Frees what the backend has. After a failure (comm->failed) it waits for no other rank. */
    void (*close)(lt_comm *comm);
} lt_comm_ops;

/* A backend opens: comm has place, rank, size and backend; it sets ops, state and name. Collective;
 * when it fails it leaves nothing behind, ops NULL. */
lt_status lt_comm_single_open(lt_comm *comm, const lt_comm_settings *settings, lt_err *err);
lt_status lt_comm_mpi_open(lt_comm *comm, const lt_comm_settings *settings, lt_err *err);
lt_status lt_comm_nccl_open(lt_comm *comm, const lt_comm_settings *settings, lt_err *err);

/* All ranks meet at MASTER_ADDR (rendezvous.h), get rank 0's payload, and from then on abort when
 * another one dies. *out: the backend closes it. */
lt_status lt_comm_meet(lt_comm *comm, const lt_comm_settings *settings, void *payload, size_t bytes,
                       lt_rendezvous **out, lt_err *err);
/* To the others, where they have met: this rank ends with that code; it leaves after a failure. */
void lt_comm_tell_end(const lt_comm *comm, lt_rendezvous *rendezvous, int exit_code);
void lt_comm_tell_leaving(lt_rendezvous *rendezvous);

/* Whether this build and this machine have it, and if not, what to do: LT_ERR_UNSUPPORTED. */
lt_status lt_comm_mpi_available(lt_err *err);
lt_status lt_comm_nccl_available(lt_err *err);

/* --- Flight record: the last collectives, readable by the watchdog while they go on ------------
 */

enum { LT_FLIGHT_LENGTH = 64, LT_FLIGHT_TEXT = LT_FLIGHT_LENGTH * 128 };

/* Atomic, since the watchdog reads without a lock: the thread that holds one may be stuck. */
typedef struct lt_flight_entry {
    _Atomic uint64_t sequence; /* 0: none yet */
    _Atomic int operation, dtype;
    _Atomic bool host;
    _Atomic int64_t count;
    _Atomic int64_t begun, ended; /* nanoseconds of lt_comm_clock; 0: not yet */
} lt_flight_entry;

typedef struct lt_flight {
    lt_flight_entry entries[LT_FLIGHT_LENGTH]; /* by sequence % length */
    _Atomic uint64_t begun, ended;             /* sequence of the last that did */
    uint64_t hash;                             /* of operation, dtype, count of all so far */
} lt_flight;

int64_t lt_comm_clock(void); /* CLOCK_MONOTONIC in nanoseconds */
/* Gives the collective its number. */
void lt_flight_begin(lt_flight *flight, lt_collective *collective, bool host);
/* This collective and all before it have ended. From any thread. */
void lt_comm_ended(lt_comm *comm, uint64_t sequence);
/* One line each, newest last, NUL-terminated; no allocation, no lock. Returns its length. */
size_t lt_flight_format(const lt_flight *flight, char *out, size_t size);

/* --- Watchdog, and other ways to fail
 * ----------------------------------------------------------------------------------
 */

typedef struct lt_watchdog {
    pthread_t thread;
    bool running;
    pthread_mutex_t lock; /* of `stop` alone */
    pthread_cond_t stopped;
    bool stop;
    double timeout, opening; /* seconds: without progress, and while it opens */
    _Atomic int64_t step;
    _Atomic(const char *) phase;
    _Atomic uint64_t beats;   /* heartbeats so far */
    _Atomic double allowance; /* seconds, until the next of them */
    atomic_int steps_begun;
} lt_watchdog;

/* One thread per communicator; none for a world of one or without a timeout. */
lt_status lt_watchdog_start(lt_comm *comm, double timeout, lt_err *err);
void lt_watchdog_stop(lt_comm *comm);
/* "rank 3 (host): message" and the flight record, appended to the log, or without one to standard
 * error. */
void lt_comm_write_record(const lt_comm *comm, const char *message);

/* --- The communicator --------------------------------------------------------------------------
 */

struct lt_comm {
    lt_comm_kind kind;
    int rank, size;
    lt_launch_place place;
    const lt_backend *backend; /* the device */
    char name[64];
    const lt_comm_ops *ops;
    void *state;         /* the backend's own */
    atomic_bool opened;  /* `ops` and `state` can be used by the watchdog's thread */
    size_t piece_bytes;  /* MPI: a longer collective is done in pieces of so many bytes in all */
    bool failed;         /* a collective failed here: the others may be stuck in it */
    char (*hosts)[64];   /* [size] */
    lt_comm_vote *votes; /* [size]: what the ranks say when they agree or compare */
    char *log_path;      /* or NULL */
    lt_flight flight;
    lt_watchdog watchdog;
};

/* What a rank says of itself: its status, or where it is in the sequence of collectives. */
struct lt_comm_vote {
    uint64_t hash, begun;
    int64_t status;
};

/* "rank 3 (host)" */
void lt_comm_rank_text(const lt_comm *comm, int rank, char *out, size_t size);
/* Compares `identity` with rank 0's. Collective; the same answer on all ranks. */
lt_status lt_comm_compare_identity(lt_comm *comm, const char *identity, lt_err *err);

#endif
