/* tests/emulator/emulated_test.h on a GPU: what it takes from the emulator elsewhere. There are no
 * orders of threads to choose from; the runs that would differ in it are repeats here, and have to
 * give the same bits all the same. */
#ifndef LT_TESTS_HARDWARE_H
#define LT_TESTS_HARDWARE_H

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/device.cuh"

typedef enum emulator_order { EMULATOR_FORWARD, EMULATOR_REVERSE, EMULATOR_RANDOM } emulator_order;

static inline void emulator_set_order(int order)
{
    (void)order;
}

/* What the kernels are told of the GPU: the truth. */
static inline void hardware_describe(lt_cuda *cuda)
{
    int major = 0, minor = 0, shared = 0;
    cudaGetDevice(&cuda->device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, cuda->device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, cuda->device);
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, cuda->device);
    cudaError_t error = cudaDeviceGetAttribute(&cuda->multiprocessors,
                                               cudaDevAttrMultiProcessorCount, cuda->device);
    if (error != cudaSuccess) {
        fprintf(stderr, "no GPU to test on: %s\n", cudaGetErrorString(error));
        exit(77);
    }
    cuda->capability = 10 * major + minor;
    cuda->shared_per_block = (size_t)shared;
}

#endif
