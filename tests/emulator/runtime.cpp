/* The host's side of the emulator: errors, streams, events, graphs, the device, with CUDA's rules
 * about what is done when. One host thread, which others may only ask about events. */
#include "tests/emulator/runtime.h"

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <set>
#include <vector>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

emulator_counts emulator_count;
static thread_local cudaError_t last_error; /* what cudaGetLastError returns, once */
static cudaError_t sticky_error;            /* of a kernel: nothing works any more */

emulator_counts emulator_counters()
{
    emulator_count.kernels_run = emulator_kernels_run;
    emulator_count.blocks_run = emulator_blocks_run;
    return emulator_count;
}

/* --- Errors ------------------------------------------------------------------------------ */

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define EMULATOR_CASE(name, value, meaning) \
    case name:                              \
        return #name;
        EMULATOR_ERRORS(EMULATOR_CASE)
#undef EMULATOR_CASE
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define EMULATOR_CASE(name, value, meaning) \
    case name:                              \
        return meaning;
        EMULATOR_ERRORS(EMULATOR_CASE)
#undef EMULATOR_CASE
    }
    return "unrecognized error code";
}

cudaError_t emulator_result(cudaError_t error)
{
    emulator_protect();
    if (sticky_error) error = sticky_error;
    if (error && error != cudaErrorNotReady) last_error = error;
    return error;
}

void emulator_break(cudaError_t error)
{
    sticky_error = error;
}

cudaError_t cudaGetLastError()
{
    cudaError_t error = sticky_error ? sticky_error : last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError()
{
    return sticky_error ? sticky_error : last_error;
}

/* --- Streams: what is asked for is done later, in order ---------------------------------- */

struct task {
    std::function<bool()> run; /* false: a kernel failed */
};

struct CUgraph_st {
    std::vector<task> tasks;
};

struct CUgraphExec_st {
    std::shared_ptr<const CUgraph_st> graph;
};

struct CUstream_st {
    std::deque<task> queue;
    bool blocking = true; /* waits for the default stream and is waited for by it */
    CUgraph_st *capture = nullptr;
    bool capture_invalid = false;
};

/* One cudaEventRecord. */
struct event_record {
    cudaStream_t stream;
    std::atomic<bool> done{false};
    std::chrono::steady_clock::time_point time;
};

struct CUevent_st {
    std::shared_ptr<event_record> record;
};

static CUstream_st default_stream;
static std::set<cudaStream_t> streams;

static cudaStream_t stream_of(cudaStream_t stream)
{
    return stream ? stream : &default_stream;
}

static void drop_queues()
{
    default_stream.queue.clear();
    for (cudaStream_t stream : streams)
        stream->queue.clear();
}

/* Does the oldest task of the stream. */
static void run_one(cudaStream_t stream)
{
    task next = std::move(stream->queue.front());
    stream->queue.pop_front();
    emulator_device_work_begin();
    bool well = next.run();
    emulator_device_work_end();
    if (!well) {
        emulator_break(cudaErrorLaunchFailure);
        drop_queues();
    }
}

void emulator_run_stream(cudaStream_t stream)
{
    stream = stream_of(stream);
    emulator_device_work_begin();
    while (!stream->queue.empty())
        run_one(stream);
    emulator_device_work_end();
}

void emulator_run_everything()
{
    emulator_run_stream(&default_stream);
    for (cudaStream_t stream : streams)
        emulator_run_stream(stream);
}

/* The default stream and the blocking ones do not overlap. */
static void order_with_default_stream(cudaStream_t stream)
{
    if (stream != &default_stream) {
        if (stream->blocking) emulator_run_stream(&default_stream);
        return;
    }
    for (cudaStream_t other : streams)
        if (other->blocking) emulator_run_stream(other);
}

cudaError_t emulator_enqueue(cudaStream_t stream, std::function<bool()> run)
{
    stream = stream_of(stream);
    if (stream->capture) {
        stream->capture->tasks.push_back({std::move(run)});
        return emulator_result(cudaSuccess);
    }
    if (sticky_error) return emulator_result(sticky_error);
    order_with_default_stream(stream);
    stream->queue.push_back({std::move(run)});
    if (!emulator_is_late()) emulator_run_stream(stream);
    return cudaSuccess; /* of the call; what happens in the work is reported later */
}

bool emulator_captures(cudaStream_t stream)
{
    return stream_of(stream)->capture != nullptr;
}

bool emulator_captures_anywhere()
{
    for (cudaStream_t stream : streams)
        if (stream->capture) return true;
    return false;
}

cudaError_t emulator_refuse_in_capture()
{
    for (cudaStream_t stream : streams)
        if (stream->capture) stream->capture_invalid = true;
    return emulator_result(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    *stream = new CUstream_st();
    (*stream)->blocking = !(flags & cudaStreamNonBlocking);
    streams.insert(*stream);
    return emulator_result(cudaSuccess);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

/* Priorities of an A100; which stream's turn it is does not depend on them. */
cudaError_t cudaDeviceGetStreamPriorityRange(int *lowest, int *highest)
{
    *lowest = 0;
    *highest = -5;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    if (priority > 0 || priority < -5) return emulator_result(cudaErrorInvalidValue);
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (!streams.count(stream)) return emulator_result(cudaErrorInvalidResourceHandle);
    emulator_run_stream(stream);
    streams.erase(stream);
    delete stream->capture;
    delete stream;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (emulator_captures_anywhere()) return emulator_refuse_in_capture();
    emulator_count.synchronisations++;
    order_with_default_stream(stream_of(stream));
    emulator_run_stream(stream_of(stream));
    return emulator_result(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    stream = stream_of(stream);
    if (!stream->queue.empty()) run_one(stream); /* who asks often gets there */
    return emulator_result(stream->queue.empty() ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaDeviceSynchronize()
{
    if (emulator_captures_anywhere()) return emulator_refuse_in_capture();
    emulator_count.synchronisations++;
    emulator_run_everything();
    return emulator_result(cudaSuccess);
}

/* --- Events ------------------------------------------------------------------------------ */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new CUevent_st();
    return emulator_result(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    auto record = std::make_shared<event_record>();
    record->stream = stream_of(stream);
    std::atomic_store(&event->record, record);
    return emulator_enqueue(stream, [record] {
        record->time = std::chrono::steady_clock::now();
        record->done = true;
        return true;
    });
}

static void run_until(const std::shared_ptr<event_record> &record)
{
    while (record && !record->done && !record->stream->queue.empty())
        run_one(record->stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    auto record = event->record;
    if (!record) return emulator_result(cudaSuccess);
    return emulator_enqueue(stream, [record] {
        run_until(record);
        return true;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (emulator_captures_anywhere()) return emulator_refuse_in_capture();
    emulator_count.synchronisations++;
    run_until(event->record);
    return emulator_result(cudaSuccess);
}

/* The one call that other host threads make too: they look, and do none of the work. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    auto record = std::atomic_load(&event->record);
    if (gettid() != getpid()) return !record || record->done ? cudaSuccess : cudaErrorNotReady;
    if (record && !record->done && !record->stream->queue.empty()) run_one(record->stream);
    return emulator_result(!record || record->done ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to)
{
    if (!from->record || !to->record) return emulator_result(cudaErrorInvalidResourceHandle);
    if (!from->record->done || !to->record->done) return emulator_result(cudaErrorNotReady);
    std::chrono::duration<float, std::milli> passed = to->record->time - from->record->time;
    *milliseconds = passed.count();
    return emulator_result(cudaSuccess);
}

/* --- Graphs ------------------------------------------------------------------------------ */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    stream = stream_of(stream);
    if (stream == &default_stream) return emulator_result(cudaErrorStreamCaptureUnsupported);
    if (stream->capture) return emulator_result(cudaErrorIllegalState);
    stream->capture = new CUgraph_st();
    stream->capture_invalid = false;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    stream = stream_of(stream);
    *graph = nullptr;
    if (!stream->capture) return emulator_result(cudaErrorIllegalState);
    cudaGraph_t captured = stream->capture;
    stream->capture = nullptr;
    if (stream->capture_invalid) {
        delete captured;
        return emulator_result(cudaErrorStreamCaptureInvalidated);
    }
    *graph = captured;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    stream = stream_of(stream);
    *status = !stream->capture          ? cudaStreamCaptureStatusNone
              : stream->capture_invalid ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
    return emulator_result(cudaSuccess);
}

/* How many; the nodes themselves are not shown. */
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    if (nodes) return emulator_result(cudaErrorNotSupported);
    *count = graph->tasks.size();
    return emulator_result(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long)
{
    *executable = new CUgraphExec_st{std::make_shared<const CUgraph_st>(*graph)};
    return emulator_result(cudaSuccess);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    return emulator_result(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    emulator_count.graph_launches++;
    auto graph = executable->graph;
    return emulator_enqueue(stream, [graph] {
        for (const task &t : graph->tasks)
            if (!t.run()) return false;
        return true;
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    delete executable;
    return emulator_result(cudaSuccess);
}

/* --- The device -------------------------------------------------------------------------- */

/* As many GPUs as wished, all alike; those of different processes have nothing to do with each
 * other, and a process uses one. */
static int device_count()
{
    return (int)emulator_setting("EMULATOR_GPUS", 1);
}

static std::atomic<int> device_in_use;

static int capability()
{
    return (int)emulator_setting("EMULATOR_CAPABILITY", 80);
}

/* Of shared memory a block may ask for (CUDA programming guide, "Compute Capabilities"). */
static size_t shared_limit()
{
    int c = capability();
    if (c == 86 || c == 89 || c >= 120) return 99 << 10;
    return (c < 90 ? 163 : 227) << 10;
}

static cudaError_t get_attribute(int *value, cudaDeviceAttr attribute)
{
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = 1024;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 48 << 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)shared_limit();
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)shared_limit() + 1024;
        break;
    case cudaDevAttrWarpSize:
        *value = 32;
        break;
    case cudaDevAttrMaxRegistersPerBlock:
        *value = 65536;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = (int)emulator_setting("EMULATOR_MULTIPROCESSORS", 6);
        break;
    case cudaDevAttrL2CacheSize:
        *value = 32 << 20;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = capability() == 80 || capability() == 90 ? 2048 : 1536;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = capability() / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = capability() % 10;
        break;
    case cudaDevAttrIntegrated:
    case cudaDevAttrConcurrentManagedAccess:
        *value = 0;
        break;
    default:
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

static int attribute_value(cudaDeviceAttr attribute)
{
    int value = 0;
    get_attribute(&value, attribute);
    return value;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    if (device < 0 || device >= device_count()) return emulator_result(cudaErrorInvalidDevice);
    return emulator_result(get_attribute(value, attribute));
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    if (device < 0 || device >= device_count()) return emulator_result(cudaErrorInvalidDevice);
    *p = cudaDeviceProp();
    snprintf(p->name, sizeof p->name, "emulator");
    p->totalGlobalMem = (size_t)emulator_total_memory();
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = shared_limit();
    p->sharedMemPerMultiprocessor = shared_limit() + 1024;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = attribute_value(cudaDevAttrMaxThreadsPerMultiProcessor);
    const int threads[3] = {1024, 1024, 64}, blocks[3] = {0x7fffffff, 65535, 65535};
    memcpy(p->maxThreadsDim, threads, sizeof threads);
    memcpy(p->maxGridSize, blocks, sizeof blocks);
    p->major = capability() / 10;
    p->minor = capability() % 10;
    p->multiProcessorCount = attribute_value(cudaDevAttrMultiProcessorCount);
    p->l2CacheSize = attribute_value(cudaDevAttrL2CacheSize);
    return emulator_result(cudaSuccess);
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = device_count();
    return emulator_result(cudaSuccess);
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= device_count()) return emulator_result(cudaErrorInvalidDevice);
    device_in_use = device;
    return cudaSuccess; /* not by emulator_result: other threads choose their GPU too */
}

cudaError_t cudaGetDevice(int *device)
{
    *device = device_in_use;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return emulator_result(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return emulator_result(cudaSuccess);
}

void emulator_reset()
{
    drop_queues();
    for (cudaStream_t stream : streams) {
        delete stream->capture;
        stream->capture = nullptr;
    }
    sticky_error = last_error = cudaSuccess;
}

/* --- Launching --------------------------------------------------------------------------- */

cudaError_t emulator_set_attribute(cudaFuncAttribute attribute, int value)
{
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize &&
        (value < 0 || (size_t)value > shared_limit()))
        return emulator_result(cudaErrorInvalidValue);
    return emulator_result(cudaSuccess);
}

cudaError_t emulator_occupancy(int *blocks, int threads, size_t shared)
{
    *blocks = 0;
    if (threads < 1 || threads > 1024 || shared > shared_limit())
        return emulator_result(cudaErrorInvalidValue);
    int by_threads = attribute_value(cudaDevAttrMaxThreadsPerMultiProcessor) / threads;
    int by_shared = (int)((shared_limit() + 1024) / (shared + 1024));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    return emulator_result(cudaSuccess);
}

cudaError_t emulator_launch_kernel(emulator_kernel kernel, cudaStream_t stream)
{
    const dim3 &g = kernel.grid, &b = kernel.block;
    if (sticky_error) return emulator_result(sticky_error);
    if (g.x < 1 || g.y < 1 || g.z < 1 || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535)
        return emulator_result(cudaErrorInvalidConfiguration);
    if (b.x < 1 || b.y < 1 || b.z < 1 || b.x > 1024 || b.y > 1024 || b.z > 64 ||
        (uint64_t)b.x * b.y * b.z > 1024)
        return emulator_result(cudaErrorInvalidConfiguration);
    if (kernel.shared > shared_limit()) return emulator_result(cudaErrorInvalidValue);
    emulator_count.launches++;
    static const uint64_t fails = emulator_setting("EMULATOR_FAIL_LAUNCH", 0);
    if (emulator_count.launches == fails)
        return emulator_enqueue(stream, [] { return sticky_error = cudaErrorIllegalAddress; });
    return emulator_enqueue(stream, [kernel = std::move(kernel)] { return emulator_run(kernel); });
}
