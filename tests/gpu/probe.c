/* The GPU that the scripts use: its capability, name, memory and driver, on a line each; or why
 * there is none, and 3. Needs a C compiler and nothing else. */
#include <stdio.h>

#include "kernels/cuda/cuda.h"

/* This program has no kernels. */
lt_cuda_build lt_cuda_this_build(void)
{
    return (lt_cuda_build){.code = ""};
}

int main(void)
{
    static lt_cuda_machine machine;
    lt_err err = {0};
    if (lt_cuda_probe(&machine, &err) != LT_OK) {
        puts(err.message);
        return 3;
    }
    const lt_cuda_gpu *gpu = &machine.gpus[0];
    printf("%d\n%s\n%.1f\n%d.%d\n", gpu->capability, gpu->name, (double)gpu->memory / 1e9,
           machine.driver / 1000, machine.driver % 1000 / 10);
    return gpu->capability >= LT_CUDA_MIN_CAPABILITY ? 0 : 3;
}
