/* Stands in for the driver's library, libcuda, where GPUs are emulated: what kernels/cuda/driver.c
 * asks it. EMULATOR_GPUS: how many GPUs there are; 1. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

enum { SUCCESS = 0, INVALID_DEVICE = 101, CAPABILITY_MAJOR = 75 };

static int gpu_count(void)
{
    const char *count = getenv("EMULATOR_GPUS");
    return count ? atoi(count) : 1;
}

int cuInit(unsigned flags)
{
    (void)flags;
    return SUCCESS;
}

int cuDriverGetVersion(int *version)
{
    *version = 99000; /* runs every runtime */
    return SUCCESS;
}

int cuDeviceGetCount(int *count)
{
    *count = gpu_count();
    return SUCCESS;
}

int cuDeviceGet(int *device, int index)
{
    *device = index;
    return index >= 0 && index < gpu_count() ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetName(char *name, int size, int device)
{
    snprintf(name, (size_t)size, "emulated GPU %d", device);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    (void)device;
    *bytes = (size_t)16 << 30;
    return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    *value = attribute == CAPABILITY_MAJOR ? 8 : 0;
    return SUCCESS;
}

int cuGetErrorName(int error, const char **name)
{
    (void)error;
    *name = "CUDA_ERROR_INVALID_DEVICE";
    return SUCCESS;
}

int cuGetErrorString(int error, const char **text)
{
    (void)error;
    *text = "invalid device ordinal";
    return SUCCESS;
}
