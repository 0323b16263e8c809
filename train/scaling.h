/* How long a step takes on many devices, before there are any: compute, reduce-scatter, all-gather,
 * what of them hides behind the compute, and the links they go over. Pure arithmetic.
 *
 * Collectives are NCCL's rings. Reduce-scatter and all-gather of b bytes among n devices take
 * (n - 1) / n * b / bandwidth and n - 1 hops' latency, all-reduce twice that (Thakur et al., 2005).
 * With several hosts every network card has a ring of its own, which leaves the host once: the
 * rings together are as fast as a device's link, or as all cards of a host, whichever is less. A
 * hop is within a host, or one of (hosts - 1) between them. An all-reduce's latency is that of a
 * tree over the hosts where that is less.
 *
 * Two streams, each in its own order, as train/shard.c uses them: the passes, unit by unit, and the
 * collectives; a pass waits for the collective whose result it reads or whose room it writes. */
#ifndef LT_TRAIN_SCALING_H
#define LT_TRAIN_SCALING_H

#include "base/buffer.h"
#include "model/model.h"

/* All rates are per second, of one device and direction; all times in seconds. */
typedef struct lt_cluster {
    const char *name; /* "8xH100", "64xH100", "512xH100": what --cluster takes */
    const char *text; /* what it is made of, one line */
    int devices, devices_per_host;
    double flops;              /* dense bf16 peak */
    double compute_efficiency; /* share of it that a device alone reaches in training */
    double memory_bandwidth;   /* bytes, as reached */
    double link_bandwidth;     /* bytes within a host, as reached by collectives */
    double host_bandwidth;     /* bytes between hosts, of the device's share of network cards */
    double call_latency;       /* of any collective, before its first hop */
    double link_latency, host_latency; /* of a hop */
    bool overlaps;   /* collectives run beside the passes; false: the same processor does both */
    uint64_t memory; /* bytes of one device */
} lt_cluster;

/* Ends with a NULL name. */
extern const lt_cluster lt_clusters[];
const lt_cluster *lt_cluster_by_name(const char *name); /* NULL: none */

/* A unit of the model: embeddings, a block, final norm and head. */
typedef struct lt_unit_work {
    double forward, backward; /* floating-point operations of a micro-batch; recomputing is part of
                                 backward */
    double weight_bytes;      /* exchanged when gathered */
    double gradient_bytes;    /* exchanged when reduced; 0: frozen */
} lt_unit_work;

/* What one step of one process does. */
typedef struct lt_step_work {
    lt_shard shard;
    int64_t micro_batches; /* gradient_accumulation_steps */
    int64_t layers;
    int64_t first_trained;                /* block that backward ends with; 0: embeddings too */
    lt_unit_work embeddings, block, head; /* blocks below first_trained have no backward */
    bool tied; /* the head's matrix is the embeddings', whose weights then stay all step long */
    double adapter_bytes;   /* gradients of an adapter: one all-reduce */
    double optimizer_bytes; /* read and written */
    double tokens;          /* input tokens */
    uint64_t memory;        /* bytes on the device */
} lt_step_work;

typedef struct lt_step_time {
    double compute;       /* of the passes */
    double communication; /* of all collectives */
    double exposed;       /* of them, what the passes wait for: never more */
    double optimizer;
    double total;      /* compute + exposed + optimizer */
    double efficiency; /* 1 - exposed / total: what it would be with links of no cost is 1 */
    const char *limit; /* "compute", "memory", "link", "network" or "latency": the one which, made
                          twice as good, shortens the step most */
} lt_step_time;

lt_step_time lt_predict_step(const lt_cluster *cluster, const lt_step_work *work);

/* One line of the table that --dry-run prints. */
typedef struct lt_scaling_row {
    const lt_cluster *cluster;
    lt_step_work work; /* with that many processes */
    char advice[160];  /* a line of its own below the table; "": none */
} lt_scaling_row;

/* Appended to *out. */
lt_status lt_describe_scaling(const lt_scaling_row *rows, int count, lt_buffer *out, lt_err *err);

#endif
