/* Backends on a GPU: making one, its memory, waiting, recording; and what CUDA's errors mean here.
 *
 * Everything a backend does goes into one stream, so it happens in the order of the calls, and the
 * host waits only in download, synchronize and freeing. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/matmul_dispatch.cuh"
#include "kernels/cuda/staging.cuh"

#ifdef LT_EMULATOR
#define LT_CUDA_CODE "compute_80"
#endif
#ifndef LT_CUDA_CODE
#define LT_CUDA_CODE "" /* the build says: "sm_80,sm_90a,compute_80" */
#endif

/* --- Errors ----------------------------------------------------------------------------------- */

/* These leave the process unable to use its GPU, and are reported by whatever call comes next. */
static bool is_fatal(cudaError_t error)
{
    const int ecc_uncorrectable = 214, launch_timeout = 702, hardware_stack_error = 714;
    return error == ecc_uncorrectable || error == cudaErrorIllegalAddress ||
           error == launch_timeout ||
           (error >= hardware_stack_error && error <= cudaErrorLaunchFailure);
}

lt_status lt_cuda_check(cudaError_t error, const char *operation, lt_err *err)
{
    if (error == cudaSuccess) return LT_OK;
    (void)cudaGetLastError(); /* else the next call would report it once more */
    if (error == cudaErrorMemoryAllocation)
        return lt_fail(err, LT_ERR_NOMEM, "%s: the GPU is out of memory (%s)", operation,
                       cudaGetErrorName(error));
    return lt_fail(err, LT_ERR_IO, "%s: %s: %s%s", operation, cudaGetErrorName(error),
                   cudaGetErrorString(error),
                   is_fatal(error) ? "; an operation before it may be the cause (run again with "
                                     "CUDA_LAUNCH_BLOCKING=1 to see which)"
                                   : "");
}

/* --- Memory ----------------------------------------------------------------------------------- */

/* Zero-filled, as arenas are. */
static void *allocate(void *context, size_t bytes)
{
    const lt_cuda *cuda = (const lt_cuda *)context;
    void *base = NULL;
    if (cudaMalloc(&base, bytes) == cudaSuccess &&
        cudaMemsetAsync(base, 0, bytes, cuda->stream) == cudaSuccess)
        return base;
    (void)cudaGetLastError();
    if (base) cudaFree(base);
    return NULL;
}

static void release(void *context, void *base, size_t bytes)
{
    (void)context;
    (void)bytes;
    cudaFree(base); /* waits for what still uses it */
}

static uint64_t available_memory(const lt_backend *backend)
{
    size_t available = 0, total = 0;
    (void)backend;
    if (cudaMemGetInfo(&available, &total) == cudaSuccess) return available;
    (void)cudaGetLastError();
    return UINT64_MAX;
}

static lt_status synchronize(const lt_backend *backend, lt_err *err)
{
    return lt_cuda_check(cudaStreamSynchronize(cuda_of(backend)->stream), "synchronize", err);
}

/* --- Recording: a CUDA graph ------------------------------------------------------------------ */

struct lt_recording {
    cudaGraphExec_t graph;
};

static lt_status record_begin(const lt_backend *backend, lt_err *err)
{
    lt_cuda *cuda = cuda_of(backend);
    LT_TRY(lt_cuda_check(cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal),
                         "record", err));
    cuda->recording = true;
    return LT_OK;
}

/* Ends the recording in any case: also when an operation in it has failed. */
static lt_status record_end(const lt_backend *backend, lt_recording **out, lt_err *err)
{
    lt_cuda *cuda = cuda_of(backend);
    cudaGraph_t graph = NULL;
    *out = NULL;
    cuda->recording = false;
    LT_TRY(lt_cuda_check(cudaStreamEndCapture(cuda->stream, &graph), "record", err));
    lt_recording *recording = (lt_recording *)calloc(1, sizeof *recording);
    lt_status status =
        recording ? lt_cuda_check(cudaGraphInstantiate(&recording->graph, graph, 0), "record", err)
                  : lt_fail_nomem(err, sizeof *recording, "a recording");
    cudaGraphDestroy(graph);
    if (status == LT_OK)
        *out = recording;
    else
        free(recording);
    return status;
}

static lt_status replay(const lt_backend *backend, const lt_recording *recording, lt_err *err)
{
    return lt_cuda_check(cudaGraphLaunch(recording->graph, cuda_of(backend)->stream), "replay",
                         err);
}

static void recording_free(const lt_backend *backend, lt_recording *recording)
{
    (void)backend;
    if (!recording) return;
    cudaGraphExecDestroy(recording->graph);
    free(recording);
}

/* --- Creation --------------------------------------------------------------------------------- */

lt_cuda_build lt_cuda_this_build(void)
{
    lt_cuda_build build = {CUDART_VERSION, LT_CUDA_CODE};
    return build;
}

/* The driver is asked before the runtime, whose errors say less. The emulated GPU has none. */
static lt_status check_machine(int index, lt_err *err)
{
#ifdef LT_EMULATOR
    int count = 0;
    LT_TRY(lt_cuda_check(cudaGetDeviceCount(&count), "emulator", err));
    if (index < 0 || index >= count) return lt_fail(err, LT_ERR_USAGE, "there is no GPU %d", index);
    return LT_OK;
#else
    lt_cuda_machine machine;
    LT_TRY(lt_cuda_probe(&machine, err));
    return lt_cuda_usable(lt_cuda_this_build(), &machine, index, err);
#endif
}

static lt_status read_attributes(lt_cuda *cuda, lt_err *err)
{
    int major = 0, minor = 0, shared = 0;
    const struct {
        int *value;
        cudaDeviceAttr attribute;
    } wanted[] = {
        {&major, cudaDevAttrComputeCapabilityMajor},
        {&minor, cudaDevAttrComputeCapabilityMinor},
        {&cuda->multiprocessors, cudaDevAttrMultiProcessorCount},
        {&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin},
    };
    for (const auto &w : wanted)
        LT_TRY(lt_cuda_check(cudaDeviceGetAttribute(w.value, w.attribute, cuda->device),
                             "reading the GPU's properties", err));
    cuda->capability = 10 * major + minor;
    cuda->shared_per_block = (size_t)shared;
    return LT_OK;
}

static lt_status set_up(lt_cuda *cuda, const lt_backend_settings *settings, lt_err *err)
{
    cuda->device = settings->index;
    cuda->matmul = settings->matmul;
    LT_TRY(check_machine(cuda->device, err));
    LT_TRY(lt_cuda_check(cudaSetDevice(cuda->device), "choosing the GPU", err));
    LT_TRY(read_attributes(cuda, err));
    snprintf(cuda->name, sizeof cuda->name, "cuda-sm%d-%s", cuda->capability,
             settings->half ? "bf16" : "f32");
    LT_TRY(lt_cuda_check(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking),
                         "making a stream", err));
    LT_TRY(lt_cuda_check(cudaMalloc(&cuda->scratch, LT_CUDA_SCRATCH), "scratch memory", err));
    LT_TRY(staging_create(cuda, err));
    lt_dtype real = settings->half ? LT_BF16 : LT_F32;
    LT_TRY(matmul_set_up(cuda, real, err));
    matmul_describe(cuda, real);
    return LT_OK;
}

/* Everything but the state. */
static void fill(lt_backend *backend, lt_cuda *cuda, const lt_backend_settings *settings)
{
    backend->name = cuda->name;
    backend->device = LT_DEVICE_CUDA;
    backend->real = settings->half ? LT_BF16 : LT_F32;
    backend->statistics = LT_F32;
    backend->threads = 1;
    backend->memory = {allocate, release, cuda};
    backend->own_memory = LT_CUDA_SCRATCH;
    backend->matmul = cuda->products;
    backend->available_memory = available_memory;
    backend->upload = staging_upload;
    backend->download = staging_download;
    backend->synchronize = synchronize;
    backend->record_begin = record_begin;
    backend->record_end = record_end;
    backend->replay = replay;
    backend->recording_free = recording_free;
    backend->state = cuda;
#define LT_FILL(name, args) backend->ops.name = lt_cuda_##name;
    LT_OPERATIONS(LT_FILL)
#undef LT_FILL
}

lt_status lt_cuda_backend_create(const lt_backend_settings *settings, lt_backend **out, lt_err *err)
{
    lt_backend *backend = (lt_backend *)calloc(1, sizeof *backend);
    lt_cuda *cuda = (lt_cuda *)calloc(1, sizeof *cuda);
    *out = NULL;
    if (!backend || !cuda) {
        free(backend);
        free(cuda);
        return lt_fail_nomem(err, sizeof *backend + sizeof *cuda, "a CUDA backend");
    }
    fill(backend, cuda, settings);
    lt_status status = set_up(cuda, settings, err);
    if (status == LT_OK)
        *out = backend;
    else
        lt_cuda_backend_free(backend);
    return status;
}

void lt_cuda_backend_free(lt_backend *backend)
{
    if (!backend) return;
    lt_cuda *cuda = cuda_of(backend);
    if (cuda->stream) cudaStreamSynchronize(cuda->stream);
    matmul_tear_down(cuda);
    staging_free(cuda);
    if (cuda->scratch) cudaFree(cuda->scratch);
    if (cuda->stream) cudaStreamDestroy(cuda->stream);
    (void)cudaGetLastError();
    free(cuda);
    free(backend);
}
