/* How processes that were started with torchrun's variables find each other, with neither MPI nor
 * Python: rank 0 listens on MASTER_PORT, the others connect to MASTER_ADDR:MASTER_PORT over TCP,
 * rank 0 compares what all of them are, and sends one small payload (the id of an NCCL
 * communicator). It carries nothing else. The connections stay open: one that closes without a
 * good-bye is a process that has died.
 *
 * As with NCCL and MPI, whoever reaches the port is trusted to be no attacker, but not to be sane:
 * what strangers send is bounded, timed and ignored. */
#ifndef LT_TRAIN_COMM_RENDEZVOUS_H
#define LT_TRAIN_COMM_RENDEZVOUS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct lt_rendezvous lt_rendezvous;

typedef struct lt_rendezvous_settings {
    int rank, world_size;
    const char *host;    /* this one's name, for messages */
    const char *address; /* MASTER_ADDR: name, IPv4 or IPv6 address of rank 0's host; rank 0 itself
                            listens on all interfaces */
    int port;            /* MASTER_PORT, or one beside it (train/launch.h) */
    const char *port_name; /* which, for messages: "MASTER_PORT + 1000"; NULL: "MASTER_PORT" */
    const char *version;   /* of Lathe; must be the same on all ranks */
    const char *identity;  /* text that must be the same, lines "name: value"; at most 1 MiB */
    double deadline;       /* seconds until all have to be there; 0: 120 */
    /* Asked while waiting for the others; true: no longer. NULL: never. */
    bool (*stopped)(void);
    /* A rank is gone, or said lt_rendezvous_fail: called once, by a thread of the rendezvous, with
     * "rank 3 (host) is gone: ...". All ranks get the same text. */
    void (*lost)(void *context, const char *message);
    void *context;
} lt_rendezvous_settings;

/* The largest payload, in bytes. */
enum { LT_RENDEZVOUS_PAYLOAD = 4096 };

/* Collective. `payload` [bytes]: rank 0's is sent, the others receive it; the size is the same on
 * all. Fails on every rank with the same message when the ranks do not fit together: LT_ERR_USAGE;
 * also for variables that are missing or make no sense, and a port that is taken. LT_ERR_IO: not
 * all were there at the deadline; the ranks that were missing, or the address where rank 0 is not
 * reached, are named. LT_ERR_INTERRUPTED: `stopped`, here or on rank 0. */
lt_status lt_rendezvous_open(const lt_rendezvous_settings *settings, void *payload, size_t bytes,
                             lt_rendezvous **out, lt_err *err);

/* Says good-bye, so that the others do not take it for a death. NULL is fine. */
void lt_rendezvous_close(lt_rendezvous *rendezvous);

/* This rank is about to end with an error: the others' `lost` is called with `message`. From any
 * thread; does not wait. */
void lt_rendezvous_fail(lt_rendezvous *rendezvous, const char *message);

/* Connections to rank 0 that were no rank of ours while it waited: port scanners and the like. */
int lt_rendezvous_strangers(const lt_rendezvous *rendezvous);

#endif
