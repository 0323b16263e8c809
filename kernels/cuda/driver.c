/* Which GPUs the machine has and whether this build can use them, asked from the driver library.
 *
 * The library is opened at run time, so this file is part of every build and one binary starts
 * everywhere. It is asked before the CUDA runtime is: the runtime's own errors do not tell a
 * missing driver from a missing GPU or a driver too old. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

#define DRIVER_LIBRARY "libcuda.so.1"

/* The part of cuda.h that is needed, under names of our own. */
enum { DRIVER_SUCCESS = 0, DRIVER_CAPABILITY_MAJOR = 75, DRIVER_CAPABILITY_MINOR = 76 };

typedef struct driver {
    void *library;
    int (*init)(unsigned flags);
    int (*get_version)(int *version);
    int (*get_count)(int *count);
    int (*get_device)(int *device, int index);
    int (*get_name)(char *name, int size, int device);
    int (*get_memory)(size_t *bytes, int device);
    int (*get_attribute)(int *value, int attribute, int device);
    int (*error_name)(int error, const char **name);
    int (*error_text)(int error, const char **text);
} driver;

/* --- The driver library ----------------------------------------------------------------------- */

static lt_status open_driver(driver *d, lt_err *err)
{
    const struct {
        void *slot;
        const char *name;
    } symbols[] = {
        {&d->init, "cuInit"},
        {&d->get_version, "cuDriverGetVersion"},
        {&d->get_count, "cuDeviceGetCount"},
        {&d->get_device, "cuDeviceGet"},
        {&d->get_name, "cuDeviceGetName"},
        {&d->get_memory, "cuDeviceTotalMem_v2"},
        {&d->get_attribute, "cuDeviceGetAttribute"},
        {&d->error_name, "cuGetErrorName"},
        {&d->error_text, "cuGetErrorString"},
    };
    /* never closed: the CUDA runtime goes on using it */
    d->library = dlopen(DRIVER_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!d->library)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "no NVIDIA driver here (%s is not found); install the driver, or use "
                       "--device cpu",
                       DRIVER_LIBRARY);
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *symbol = dlsym(d->library, symbols[i].name);
        if (!symbol)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "the NVIDIA driver is too old: its %s lacks %s; update the driver",
                           DRIVER_LIBRARY, symbols[i].name);
        memcpy(symbols[i].slot, &symbol, sizeof symbol);
    }
    return LT_OK;
}

/* What can be done about an error of cuInit. */
static const char *advice_for(int error)
{
    switch (error) {
    case 34: /* CUDA_ERROR_STUB_LIBRARY */
        return "the CUDA toolkit's stub was loaded in place of the driver's library; take the "
               "stubs folder out of LD_LIBRARY_PATH";
    case 802: /* CUDA_ERROR_SYSTEM_NOT_READY */
        return "the machine is still starting; machines with NVSwitch need nvidia-fabricmanager";
    case 803: /* CUDA_ERROR_SYSTEM_DRIVER_MISMATCH */
        return "the driver was updated while its old kernel module is loaded; restart the machine";
    default:
        return "nvidia-smi may say more; --device cpu does without";
    }
}

static lt_status driver_failed(const driver *d, const char *call, int error, lt_err *err)
{
    const char *name = NULL, *text = NULL;
    d->error_name(error, &name);
    d->error_text(error, &text);
    return lt_fail(err, LT_ERR_UNSUPPORTED, "the NVIDIA driver fails: %s: %s (%d): %s; %s", call,
                   name ? name : "unknown error", error, text ? text : "no description",
                   advice_for(error));
}

static lt_status no_gpu(lt_err *err)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "the NVIDIA driver shows no GPU: CUDA_VISIBLE_DEVICES is \"%s\"; unset it, "
                       "or use --device cpu",
                       visible);
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "there is an NVIDIA driver but no GPU; in a container, start it with access to "
                   "GPUs (--gpus all), or use --device cpu");
}

/* --- Probing ---------------------------------------------------------------------------------- */

#define DRIVER_TRY(d, call, ...)                                                  \
    do {                                                                          \
        int error_ = (d)->__VA_ARGS__;                                            \
        if (error_ != DRIVER_SUCCESS) return driver_failed(d, call, error_, err); \
    } while (0)

static lt_status probe_gpu(const driver *d, int index, lt_cuda_gpu *gpu, lt_err *err)
{
    int device = 0, major = 0, minor = 0;
    size_t bytes = 0;
    DRIVER_TRY(d, "cuDeviceGet", get_device(&device, index));
    DRIVER_TRY(d, "cuDeviceGetName", get_name(gpu->name, (int)sizeof gpu->name, device));
    DRIVER_TRY(d, "cuDeviceTotalMem", get_memory(&bytes, device));
    DRIVER_TRY(d, "cuDeviceGetAttribute", get_attribute(&major, DRIVER_CAPABILITY_MAJOR, device));
    DRIVER_TRY(d, "cuDeviceGetAttribute", get_attribute(&minor, DRIVER_CAPABILITY_MINOR, device));
    gpu->name[sizeof gpu->name - 1] = '\0';
    gpu->memory = bytes;
    gpu->capability = 10 * major + minor;
    return LT_OK;
}

lt_status lt_cuda_probe(lt_cuda_machine *out, lt_err *err)
{
    enum { NO_DEVICE = 100 }; /* CUDA_ERROR_NO_DEVICE */
    driver d = {0};
    int count = 0;
    *out = (lt_cuda_machine){0};
    LT_TRY(open_driver(&d, err));
    DRIVER_TRY(&d, "cuDriverGetVersion", get_version(&out->driver));
    int error = d.init(0);
    if (error == NO_DEVICE) return no_gpu(err);
    if (error != DRIVER_SUCCESS) return driver_failed(&d, "cuInit", error, err);
    DRIVER_TRY(&d, "cuDeviceGetCount", get_count(&count));
    if (count == 0) return no_gpu(err);
    for (int i = 0; i < count && i < LT_CUDA_MAX_GPUS; i++) {
        LT_TRY(probe_gpu(&d, i, &out->gpus[i], err));
        out->gpu_count = i + 1;
    }
    return LT_OK;
}

/* --- Does this build fit? --------------------------------------------------------------------- */

/* One "sm_80", "sm_90a" or "compute_80". Machine code runs on its capability and later ones of the
 * same major version, PTX on all later ones; with a suffix (wgmma and its like) only on its own. */
static bool code_runs_on(const char *code, int capability)
{
    int of = 0;
    char suffix = 0;
    bool ptx = strncmp(code, "compute_", 8) == 0;
    if (sscanf(code, ptx ? "compute_%d%c" : "sm_%d%c", &of, &suffix) < 1) return false;
    if (suffix && suffix != ',') return of == capability;
    return of <= capability && (ptx || of / 10 == capability / 10);
}

static bool build_runs_on(lt_cuda_build build, int capability)
{
    for (const char *code = build.code; code; code = strchr(code, ',')) {
        if (*code == ',') code++;
        if (code_runs_on(code, capability)) return true;
    }
    return false;
}

#define VERSION_FORMAT "%d.%d"
#define VERSION(v)     (v) / 1000, (v) % 1000 / 10
#define CAPABILITY(c)  (c) / 10, (c) % 10

/* A driver runs every runtime of its own major version and of older ones. */
static lt_status check_driver(lt_cuda_build build, const lt_cuda_machine *machine, lt_err *err)
{
    if (machine->driver / 1000 >= build.runtime / 1000) return LT_OK;
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "the NVIDIA driver is too old: it runs CUDA " VERSION_FORMAT
                   " and this build of lathe needs " VERSION_FORMAT
                   "; update the driver, or build lathe with a CUDA toolkit %d.x",
                   VERSION(machine->driver), VERSION(build.runtime), machine->driver / 1000);
}

lt_status lt_cuda_usable(lt_cuda_build build, const lt_cuda_machine *machine, int index,
                         lt_err *err)
{
    if (build.runtime == 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "this build of lathe has no CUDA kernels; build it where the CUDA toolkit "
                       "(12.5 or newer) and the GPU are, or with -DLATHE_CUDA_ARCHS=all");
    if (index < 0 || index >= machine->gpu_count)
        return lt_fail(err, LT_ERR_USAGE, "there is no GPU %d: this machine has %d (0 to %d)",
                       index, machine->gpu_count, machine->gpu_count - 1);
    const lt_cuda_gpu *gpu = &machine->gpus[index];
    if (gpu->capability < LT_CUDA_MIN_CAPABILITY)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "GPU %d (%s) has compute capability " VERSION_FORMAT
                       "; lathe needs " VERSION_FORMAT " (Ampere) or newer",
                       index, gpu->name, CAPABILITY(gpu->capability),
                       CAPABILITY(LT_CUDA_MIN_CAPABILITY));
    LT_TRY(check_driver(build, machine, err));
    if (!build_runs_on(build, gpu->capability))
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "GPU %d (%s) has compute capability " VERSION_FORMAT
                       ", and this build of lathe has kernels for %s; build it on this machine, or "
                       "with -DLATHE_CUDA_ARCHS=all",
                       index, gpu->name, CAPABILITY(gpu->capability), build.code);
    return LT_OK;
}

lt_status lt_cuda_choose(int *index, lt_err *err)
{
    lt_cuda_machine machine;
    lt_cuda_build build = lt_cuda_this_build();
    lt_err first = {0};
    LT_TRY(lt_cuda_probe(&machine, err));
    for (int i = 0; i < machine.gpu_count; i++) {
        if (lt_cuda_usable(build, &machine, i, i == 0 ? &first : NULL) != LT_OK) continue;
        *index = i;
        return LT_OK;
    }
    if (err) *err = first;
    return first.code;
}

/* --- Other libraries -------------------------------------------------------------------------- */

const char *const lt_cublas_names[] = {"libcublas.so.13", "libcublas.so.12", NULL};
const char *const lt_nccl_names[] = {"libnccl.so.2", NULL};

static void *open_in(const char *folder, const char *name)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/lib64/%s", folder, name);
    return length > 0 && (size_t)length < sizeof path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
}

void *lt_cuda_open_library(const char *const names[], const char **found)
{
    const char *home = getenv("CUDA_HOME");
    for (int i = 0; names[i]; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!library && home) library = open_in(home, names[i]);
        if (!library) library = open_in("/usr/local/cuda", names[i]);
        *found = library ? names[i] : NULL;
        if (library) return library;
    }
    return NULL;
}
