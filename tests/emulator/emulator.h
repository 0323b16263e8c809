/* A GPU on the host, for tests of kernels/cuda where there is none. The unchanged .cu files are
 * compiled as C++17 against the <cuda_runtime.h> and ptx.h of this folder; every CUDA thread is a
 * fiber. This header is what tests see.
 *
 * It is stricter than hardware: threads run in an order that is chosen to be unpleasant, whatever
 * may happen late happens as late as it may, fresh memory is NaN, and device memory can not be
 * touched by the host. What CUDA leaves undefined is an error.
 *
 * It does not see: a kernel that reads ordinary host memory, the same warp operation reached from
 * two branches, blocks that wait for each other (they run one after another), registers, time.
 *
 * Environment: EMULATOR_ORDER=forward|reverse|random, EMULATOR_SEED=number,
 * EMULATOR_ASYNC=eager|late, EMULATOR_CAPABILITY=80, EMULATOR_MULTIPROCESSORS=6,
 * EMULATOR_MEMORY=bytes, EMULATOR_PROTECT=0|1, EMULATOR_FAIL_LAUNCH=N: the N-th launch is the GPU's
 * last, as if it had met an illegal address. */
#ifndef LT_EMULATOR_H
#define LT_EMULATOR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In which order threads, warps and blocks go ahead. A thread runs until it has to wait. */
typedef enum emulator_order {
    EMULATOR_FORWARD,
    EMULATOR_REVERSE,
    EMULATOR_RANDOM,
    EMULATOR_ORDERS
} emulator_order;
void emulator_set_order(int order);
void emulator_set_seed(uint64_t seed); /* of EMULATOR_RANDOM */

/* When asynchronous work is done: 0 at once; 1 as late as it may (cp.async: when the thread waits
 * for its group; streams: when the host waits for them); -1, the default: late unless forward. */
void emulator_set_late(int late);

/* A kernel that does what it must not ends its launch with cudaErrorLaunchFailure, which every
 * later call reports. Without a handler (NULL, the default) the message is printed and the program
 * aborts, inside the offending thread. */
void emulator_on_error(void (*handler)(const char *message));
/* Drops pending work, the failure, and open captures; memory and streams stay. */
void emulator_reset(void);

/* Since the program started. */
typedef struct emulator_counts {
    uint64_t launches; /* kernels launched by the host, not by graphs */
    uint64_t graph_launches;
    uint64_t copies, fills;    /* cudaMemcpy*, cudaMemset* */
    uint64_t synchronisations; /* of the host with the device, implicit ones too */
    uint64_t allocations;      /* device or pinned memory */
    uint64_t frees;
    uint64_t kernels_run; /* by graphs too */
    uint64_t blocks_run;
    uint64_t live_bytes; /* device memory now */
} emulator_counts;
emulator_counts emulator_counters(void);

#ifdef __cplusplus
}
#endif

#endif
