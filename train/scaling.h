/* How long a step takes on many devices, before there are any: compute, reduce-scatter, all-gather,
 * what of them hides behind the compute, and the links they go over. Pure arithmetic.
 *
 * Collectives on a ring of n: reduce-scatter and all-gather of b bytes take (n - 1) / n * b /
 * bandwidth + (n - 1) * latency (Thakur et al., 2005); on several hosts the slowest link of the
 * ring counts: a host's share of the network, divided among its devices' rings as NCCL does. */
#ifndef LT_TRAIN_SCALING_H
#define LT_TRAIN_SCALING_H

#include "base/buffer.h"
#include "model/model.h"

typedef struct lt_cluster {
    const char *name; /* "8xH100", "64xH100", "512xH100": what --cluster takes */
    const char
        *text; /* "8 hosts of 8 H100 SXM, NVLink inside, 400 Gb/s InfiniBand per GPU between" */
    int devices, devices_per_host;
    double flops;              /* of one device, dense bf16 peak, per second */
    double compute_efficiency; /* share of it that one device alone reaches */
    double link_bandwidth;     /* bytes/s per device and direction within a host */
    double host_bandwidth;     /* bytes/s per device and direction between hosts */
    double latency;            /* seconds per ring step */
    uint64_t memory;           /* bytes of one device */
} lt_cluster;

/* Ends with a NULL name. */
extern const lt_cluster lt_clusters[];
const lt_cluster *lt_cluster_by_name(const char *name); /* NULL: none */

/* What one step of one process does. Bytes: of a whole unit, all blocks alike. */
typedef struct lt_step_work {
    lt_shard shard;
    bool is_adapter; /* one all-reduce of gradient_bytes at the end, no unit traffic */
    int64_t layers;
    int micro_batches;                    /* gradient_accumulation_steps */
    double flops_forward, flops_backward; /* of one micro-batch, all blocks, recompute included */
    double block_weight_bytes, ends_weight_bytes;     /* exchanged when gathered */
    double block_gradient_bytes, ends_gradient_bytes; /* exchanged when reduced */
    double optimizer_bytes;  /* read and written by this process's optimizer */
    double memory_bandwidth; /* bytes/s; 0: the optimizer takes no time */
} lt_step_work;

typedef struct lt_step_time {
    double compute, communication, exposed, optimizer, total; /* seconds; exposed: not hidden */
    double efficiency; /* total of one device doing the same work / total */
    const char *limit; /* "compute", "link", "network", "latency": what more of would help most */
} lt_step_time;

lt_step_time lt_predict_step(const lt_cluster *cluster, const lt_step_work *work);

/* The table that --dry-run prints: a line per cluster. Appended. */
lt_status lt_describe_scaling(const lt_step_work *work, const lt_cluster *const *clusters,
                              int count, double tokens_per_step_and_device, lt_buffer *out,
                              lt_err *err);

#endif
