/* lathe devices: what this machine can compute on, and what --device auto would choose. */
#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "cli/cli.h"
#include "kernels/devices.h"
#include "kernels/kernels.h"

static const lt_option_table table = {
    .command = "lathe devices",
    .synopsis = "lathe devices",
    .description = "Lists what this machine can compute on (CPU and GPUs), what of NVIDIA's "
                   "software is here, and what --device auto chooses.",
    .options = NULL,
    .count = 0};

static void print_line(const char *name, const char *text)
{
    printf("  %-8s  %s\n", name, text);
}

static void print_memory(uint64_t bytes)
{
    if (bytes != UINT64_MAX) printf(", %.1f GB available", (double)bytes / 1e9);
    putchar('\n');
}

static lt_status print_cpu(lt_err *err)
{
    lt_backend *backend = NULL;
    LT_TRY(lt_backend_create(NULL, &backend, err));
    printf("  %-8s  %s, %d thread%s", "cpu", backend->name, backend->threads,
           backend->threads == 1 ? "" : "s");
    print_memory(backend->available_memory(backend));
    lt_backend_free(backend);
    return LT_OK;
}

static void print_gpu(const lt_cuda_machine *machine, int index)
{
    const lt_cuda_gpu *gpu = &machine->gpus[index];
    lt_err why = {0};
    char name[32];
    snprintf(name, sizeof name, "cuda:%d", index);
    printf("  %-8s  %s, compute capability %d.%d, %.1f GB\n", name, gpu->name, gpu->capability / 10,
           gpu->capability % 10, (double)gpu->memory / 1e9);
    if (lt_cuda_usable(lt_cuda_this_build(), machine, index, &why) != LT_OK)
        printf("  %-8s  can not be used: %s\n", "", why.message);
}

static void print_build(void)
{
    lt_cuda_build build = lt_cuda_this_build();
    if (build.runtime)
        printf("  %-8s  CUDA kernels for %s, with the runtime of CUDA %d.%d\n", "build", build.code,
               build.runtime / 1000, build.runtime % 1000 / 10);
    else
        print_line("build", "no CUDA kernels");
}

static void print_driver(const lt_cuda_machine *machine)
{
    if (machine->driver)
        printf("  %-8s  runs CUDA %d.%d and older\n", "driver", machine->driver / 1000,
               machine->driver % 1000 / 10);
    else
        print_line("driver", "no NVIDIA driver");
}

static void print_library(const char *name, const char *const names[])
{
    const char *found = NULL;
    lt_cuda_open_library(names, &found);
    print_line(name, found ? found : "not found");
}

static lt_status print_devices(const void *no_options, lt_err *err)
{
    (void)no_options;
    lt_cuda_machine machine;
    lt_err no_gpu = {0}, why = {0};
    int index = 0;
    lt_status probed = lt_cuda_probe(&machine, &no_gpu);
    puts("devices");
    LT_TRY(print_cpu(err));
    for (int i = 0; i < machine.gpu_count; i++)
        print_gpu(&machine, i);
    if (probed != LT_OK) print_line("cuda", no_gpu.message);
    puts("software");
    print_build();
    print_driver(&machine);
    print_library("cublas", lt_cublas_names);
    print_library("nccl", lt_nccl_names);
    if (lt_cuda_choose(&index, &why) == LT_OK)
        printf("--device auto chooses cuda:%d, the first GPU that this build can use\n", index);
    else
        printf("--device auto chooses cpu: %s\n", why.message);
    return LT_OK;
}

int lt_cmd_devices(int argc, char **argv)
{
    return lt_cli_run(&table, argc, argv, NULL, print_devices);
}
