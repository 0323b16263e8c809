/* emulator_counters() on a GPU: the runtime's functions are counted on their way through, by way of
 * the linker (-Wl,--wrap=NAME). So a test can see that a step neither waits nor allocates, and that
 * text is generated from recordings, on hardware as on the emulator. */
#include <cuda_runtime_api.h>

#include "tests/emulator/emulator.h"

static emulator_counts counts;

emulator_counts emulator_counters(void)
{
    return counts;
}

/* COUNTED(function, what it counts as, parameters, arguments) */
#define COUNTED(name, counter, parameters, arguments) \
    cudaError_t __real_##name parameters;             \
    cudaError_t __wrap_##name parameters;             \
    cudaError_t __wrap_##name parameters              \
    {                                                 \
        counts.counter++;                             \
        return __real_##name arguments;               \
    }

COUNTED(cudaStreamSynchronize, synchronisations, (cudaStream_t s), (s))
COUNTED(cudaEventSynchronize, synchronisations, (cudaEvent_t e), (e))
COUNTED(cudaDeviceSynchronize, synchronisations, (void), ())
COUNTED(cudaMemcpy, synchronisations, (void *to, const void *from, size_t n, enum cudaMemcpyKind k),
        (to, from, n, k))
COUNTED(cudaMalloc, allocations, (void **out, size_t n), (out, n))
COUNTED(cudaMallocHost, allocations, (void **out, size_t n), (out, n))
COUNTED(cudaHostAlloc, allocations, (void **out, size_t n, unsigned flags), (out, n, flags))
COUNTED(cudaFree, frees, (void *p), (p))
COUNTED(cudaGraphLaunch, graph_launches, (cudaGraphExec_t graph, cudaStream_t s), (graph, s))
COUNTED(cudaLaunchKernel, launches,
        (const void *kernel, dim3 grid, dim3 block, void **a, size_t shared, cudaStream_t s),
        (kernel, grid, block, a, shared, s))
