/* What the parts of bench_gpu share: backends, random device memory, time by CUDA events, and how a
 * figure is printed: one line, SECTION NAME WHO VALUE UNIT, with tabs between. */
#ifndef LT_BENCH_GPU_CUH
#define LT_BENCH_GPU_CUH

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/device.cuh"

struct bench_gpu {
    lt_backend *native, *cublas; /* bf16; cublas: NULL where it is not found */
    cudaDeviceProp card;
    double copy; /* bytes a second, read and written: the most that anything reached */
};

void bench_copy(bench_gpu *b);
void bench_matmul(bench_gpu *b);
void bench_attention(bench_gpu *b);
void bench_memory(bench_gpu *b);

static inline void bench_must(lt_status status, const lt_err *err)
{
    if (status == LT_OK) return;
    fprintf(stderr, "bench_gpu: %s\n", err->message);
    exit(1);
}

static inline void bench_must(cudaError_t error, const char *what)
{
    if (error == cudaSuccess) return;
    fprintf(stderr, "bench_gpu: %s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}

/* What every part needs at hand. */
struct bench_globals {
    const lt_backend *backend;  /* whose stream fills memory */
    std::vector<void *> blocks; /* memory of the case that is being measured */
    bool tiny;                  /* LATHE_BENCH_TINY: sizes of nothing, to try the program out */
};
extern bench_globals bench_state;

/* A size in elements, rows or columns. */
static inline int64_t bench_size(int64_t n)
{
    return bench_state.tiny ? std::min<int64_t>(n, 40) : n;
}

static inline void bench_row(const char *section, const char *name, const char *who, double value,
                             const char *unit)
{
    printf("%s\t%s\t%s\t%.6g\t%s\n", section, name, who, value, unit);
    fflush(stdout);
}

/* --- Time --------------------------------------------------------------------------------------
 */

/* Seconds of one run(): the median of samples that each last about 20 ms, after warming up. */
template <typename F> static double bench_seconds(const lt_backend *backend, F run)
{
    const int SAMPLES = bench_state.tiny ? 1 : 9;
    cudaStream_t stream = cuda_of(backend)->stream;
    cudaEvent_t from, to;
    std::vector<double> seconds;
    bench_must(cudaEventCreate(&from), "event");
    bench_must(cudaEventCreate(&to), "event");
    int runs = 1;
    for (int i = -2; i < SAMPLES; i++) {
        float milliseconds = 0;
        bench_must(cudaEventRecord(from, stream), "event");
        for (int r = 0; r < runs; r++)
            run();
        bench_must(cudaEventRecord(to, stream), "event");
        bench_must(cudaEventSynchronize(to), "the operation");
        bench_must(cudaEventElapsedTime(&milliseconds, from, to), "event");
        if (i >= 0) seconds.push_back(1e-3 * milliseconds / runs);
        if (i == -1 && !bench_state.tiny)
            runs = (int)fmin(500, fmax(1, 20 / fmax(milliseconds, 0.01f)));
    }
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    std::sort(seconds.begin(), seconds.end());
    return seconds[SAMPLES / 2];
}

/* --- Memory: never zeros, which spare the hardware power and so make it faster ------------------
 */

template <typename T>
__global__ void bench_fill_kernel(T *x, int64_t n, uint64_t stream, float scale)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x * 4;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < n; i += step) {
        uint32_t words[4];
        philox(1, stream, (uint64_t)i, words);
        for (int64_t k = 0; k < 4 && i + k < n; k++)
            store(x + i + k, scale * ((float)words[k] * 0x1p-32f - 0.5f));
    }
}

template <typename T> static void bench_fill(T *x, int64_t n, uint64_t stream, float scale)
{
    lt_err err = {};
    bench_must(lt_launch(bench_state.backend, "random numbers", &err, bench_fill_kernel<T>,
                         dim3(std::min<int64_t>(1024, n / 1024 + 1)), dim3(256), 0, x, n, stream,
                         scale),
               &err);
}

static inline void *bench_allocate(size_t bytes)
{
    void *p = nullptr;
    bench_must(cudaMalloc(&p, bytes ? bytes : 1), "memory");
    bench_state.blocks.push_back(p);
    return p;
}

static inline void bench_release()
{
    cudaDeviceSynchronize();
    for (void *p : bench_state.blocks)
        cudaFree(p);
    bench_state.blocks.clear();
}

/* Random numbers of variance `scale`^2 (f32, bf16); other types are 0. */
static inline lt_tensor bench_tensor(lt_dtype dtype, int64_t rows, int64_t columns,
                                     double scale = 1)
{
    static uint64_t stream;
    int64_t n = rows * columns;
    void *p = bench_allocate((size_t)n * lt_dtype_size(dtype));
    float width = (float)(scale * sqrt(12.0));
    stream++;
    if (dtype == LT_F32)
        bench_fill((float *)p, n, stream, width);
    else if (dtype == LT_BF16)
        bench_fill((bf16 *)p, n, stream, width);
    else
        bench_must(cudaMemset(p, 0, (size_t)n * lt_dtype_size(dtype)), "memory");
    bench_must(cudaDeviceSynchronize(), "random numbers");
    return lt_tensor_2d(p, dtype, rows, columns);
}

static inline lt_tensor bench_vector(lt_dtype dtype, int64_t n, double scale = 1)
{
    lt_tensor t = bench_tensor(dtype, 1, n, scale);
    return lt_tensor_1d(t.data, dtype, n);
}

static inline lt_tensor bench_integers(int64_t n, int64_t bound)
{
    std::vector<int32_t> values((size_t)n);
    for (int64_t i = 0; i < n; i++)
        values[(size_t)i] = (int32_t)lt_random_below(1, 9, (uint64_t)i, (uint64_t)bound);
    lt_tensor t = bench_vector(LT_I32, n);
    bench_must(cudaMemcpy(t.data, values.data(), values.size() * 4, cudaMemcpyHostToDevice),
               "memory");
    return t;
}

#define BENCH_MUST(call)                 \
    do {                                 \
        lt_err bench_err_ = {};          \
        lt_err *err = &bench_err_;       \
        bench_must((call), &bench_err_); \
    } while (0)

#endif
