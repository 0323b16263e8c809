/* What this build and this machine have of GPUs. Answered by the driver's library (cuda/driver.c),
 * with no CUDA toolkit and also in a build without CUDA kernels. */
#ifndef LT_KERNELS_DEVICES_H
#define LT_KERNELS_DEVICES_H

#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Versions as CUDA writes them: 12050 is 12.5. Capabilities times ten: 90 is 9.0. */
typedef struct lt_cuda_build {
    int runtime;      /* version of the CUDA runtime; 0: built without CUDA kernels */
    const char *code; /* what the kernels were compiled to: "sm_80,sm_90a,compute_80", or "" */
} lt_cuda_build;

lt_cuda_build lt_cuda_this_build(void);

enum { LT_CUDA_MAX_GPUS = 64, LT_CUDA_MIN_CAPABILITY = 80 /* bf16 tensor cores */ };

typedef struct lt_cuda_gpu {
    char name[128];
    int capability;
    uint64_t memory; /* bytes */
} lt_cuda_gpu;

typedef struct lt_cuda_machine {
    int driver; /* the newest CUDA version that the driver runs; 0: no driver */
    int gpu_count;
    lt_cuda_gpu gpus[LT_CUDA_MAX_GPUS];
} lt_cuda_machine;

/* Fills `out` as far as it gets. LT_ERR_UNSUPPORTED: no driver, no GPU, or a driver that fails, and
 * what to do about it. */
lt_status lt_cuda_probe(lt_cuda_machine *out, lt_err *err);

/* LT_OK when `build` can compute on GPU `index` of the machine; else LT_ERR_UNSUPPORTED and why: no
 * CUDA kernels, a driver too old for the runtime, no kernels for this capability; or LT_ERR_USAGE
 * when there is no such GPU. */
lt_status lt_cuda_usable(lt_cuda_build build, const lt_cuda_machine *machine, int index,
                         lt_err *err);

/* What "--device auto" means: the first GPU that this build can use. LT_ERR_UNSUPPORTED: none, and
 * why not. */
lt_status lt_cuda_choose(int *index, lt_err *err);

/* Opens the first of the NULL-terminated `names` that the loader finds by itself, in
 * $CUDA_HOME/lib64, or in /usr/local/cuda/lib64. NULL: none. *found: which name. */
void *lt_cuda_open_library(const char *const names[], const char **found);
extern const char *const lt_cublas_names[], *const lt_nccl_names[];

#ifdef __cplusplus
}
#endif

#endif
