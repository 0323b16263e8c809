/* NVIDIA's libnccl, opened at run time: the functions that are used, typed as its header has them.
 * Private to train/comm. */
#ifndef LT_TRAIN_COMM_NCCL_LIBRARY_H
#define LT_TRAIN_COMM_NCCL_LIBRARY_H

#include <nccl.h>

#include "base/status.h"

/* X(our name, its name) */
#define LT_NCCL_FUNCTIONS(X)                    \
    X(get_version, ncclGetVersion)              \
    X(get_unique_id, ncclGetUniqueId)           \
    X(init_rank_config, ncclCommInitRankConfig) \
    X(get_async_error, ncclCommGetAsyncError)   \
    X(get_error_string, ncclGetErrorString)     \
    X(get_last_error, ncclGetLastError)         \
    X(finalize, ncclCommFinalize)               \
    X(destroy, ncclCommDestroy)                 \
    X(abort, ncclCommAbort)                     \
    X(all_reduce, ncclAllReduce)                \
    X(reduce_scatter, ncclReduceScatter)        \
    X(all_gather, ncclAllGather)                \
    X(broadcast, ncclBroadcast)

typedef struct lt_nccl {
#define LT_NCCL_MEMBER(ours, its) __typeof__(its) *ours;
    LT_NCCL_FUNCTIONS(LT_NCCL_MEMBER)
#undef LT_NCCL_MEMBER
    int version; /* 22809 is 2.28.9 */
} lt_nccl;

/* Opens it once; it is never closed. LT_ERR_UNSUPPORTED: not there, or too old, and what to do. */
lt_status lt_nccl_load(const lt_nccl **out, lt_err *err);

#endif
