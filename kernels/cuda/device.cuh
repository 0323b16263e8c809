/* What every .cu file starts with: number types, the backend's state, launching. Private to
 * kernels/cuda.
 *
 * The same sources are compiled twice: by nvcc for GPUs, and by a C++17 compiler with
 * LT_EMULATOR for tests/emulator, which brings a <cuda_runtime.h> of its own. Hence the rules:
 * kernels are launched with lt_launch, PTX stays in ptx.cuh, shared memory comes from
 * shared_memory<T>(), warps are never assumed to run in step (say __syncwarp), sums have a fixed
 * order and there are no float atomics. */
#ifndef LT_CUDA_DEVICE_CUH
#define LT_CUDA_DEVICE_CUH

#include <cuda_runtime.h>

extern "C" {
#include "kernels/cuda/cuda.h"
#include "kernels/internal.h"
}
#include "kernels/cuda/ptx.cuh"

enum { WARP = 32 };
#define FULL_MASK 0xffffffffu

/* In front of a loop: copies of its body, as registers want it; four; or none, to keep code small.
 */
#ifdef LT_EMULATOR
#define LT_UNROLL
#define LT_UNROLL_4
#define LT_NO_UNROLL
#else
#define LT_UNROLL    _Pragma("unroll")
#define LT_UNROLL_4  _Pragma("unroll 4")
#define LT_NO_UNROLL _Pragma("unroll 1")
#endif

/* --- Numbers --------------------------------------------------------------------------------- */

struct bf16 {
    uint16_t bits;
};

/* Like to_float for tests too, which run on the host. */
__host__ LT_DEVICE float float_of_bits(uint32_t bits)
{
    union {
        uint32_t bits;
        float value;
    } u = {bits};
    return u.value;
}

LT_DEVICE uint32_t bits_of_float(float value)
{
    union {
        float value;
        uint32_t bits;
    } u = {value};
    return u.bits;
}

__host__ LT_DEVICE float to_float(float x)
{
    return x;
}

__host__ LT_DEVICE float to_float(bf16 x)
{
    return float_of_bits((uint32_t)x.bits << 16);
}

LT_DEVICE void store(float *to, float x)
{
    *to = x;
}

/* Rounds to nearest even. */
LT_DEVICE void store(bf16 *to, float x)
{
    to->bits = (uint16_t)pack_bf16(x, 0);
}

/* --- Sums over a warp and a block, in a fixed order; every thread gets the result ------------- */

template <typename T> LT_DEVICE T warp_sum(T x)
{
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(FULL_MASK, x, offset);
    return x;
}

LT_DEVICE float warp_max(float x)
{
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, offset));
    return x;
}

/* `shared`: 32 numbers that nobody else uses. Every thread of the block calls it. */
template <typename T> LT_DEVICE T block_sum(T x, T *shared)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP,
        warps = (blockDim.x + WARP - 1) / WARP;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    x = lane < warps ? shared[lane] : 0;
    return warp_sum(x);
}

LT_DEVICE float block_max(float x, float *shared)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP,
        warps = (blockDim.x + WARP - 1) / WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    x = lane < warps ? shared[lane] : shared[0];
    return warp_max(x);
}

/* --- The backend's state and launching ---------------------------------------------------------
 */

/* lt_backend.state of a CUDA backend. */
struct lt_cuda {
    int device;                 /* the GPU's number */
    int capability;             /* 80, 90, 120: ten times the compute capability */
    int multiprocessors;        /* SMs */
    size_t shared_per_block;    /* bytes of shared memory that a block may ask for */
    cudaStream_t stream;        /* everything runs on it, in order */
    void *scratch;              /* LT_CUDA_SCRATCH bytes: valid inside one operation */
    bool recording;             /* between record_begin and record_end */
    lt_matmul_choice matmul;    /* auto, native, cublas */
    struct lt_cublas *cublas;   /* NULL: not wanted or not there */
    struct lt_staging *staging; /* pinned host memory that uploads and downloads go through */
    char name[32];              /* lt_backend.name */
    char products[256];         /* lt_backend.matmul */
};

static inline lt_cuda *cuda_of(const lt_backend *backend)
{
    return static_cast<lt_cuda *>(backend->state);
}

/* LT_OK, or LT_ERR_IO "OPERATION: NAME OF THE CUDA ERROR: what it means". (backend.cu) */
extern "C" lt_status lt_cuda_check(cudaError_t error, const char *operation, lt_err *err);

/* Runs kernel<<<grid, block, shared>>>(arguments) on the backend's stream. An empty grid does
 * nothing. `shared`: bytes of dynamic shared memory, raised above 48 KB as needed. */
template <typename... P, typename... A>
static lt_status lt_launch(const lt_backend *backend, const char *operation, lt_err *err,
                           void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                           A... arguments)
{
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return LT_OK;
#ifdef LT_EMULATOR
    return lt_cuda_check(emulator_launch(grid, block, shared, cuda_of(backend)->stream, operation,
                                         [=] { kernel(static_cast<P>(arguments)...); }),
                         operation, err);
#else
    if (shared > 48 * 1024)
        LT_TRY(lt_cuda_check(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  (int)shared),
                             operation, err));
    return [&](P... converted) {
        void *pointers[] = {(void *)&converted...};
        return lt_cuda_check(cudaLaunchKernel(reinterpret_cast<const void *>(kernel), grid, block,
                                              pointers, shared, cuda_of(backend)->stream),
                             operation, err);
    }(static_cast<P>(arguments)...);
#endif
}

static inline unsigned ceil_div(int64_t n, int64_t by)
{
    return (unsigned)((n + by - 1) / by);
}

/* --- Random numbers ----------------------------------------------------------------------------
 */

/* lt_philox of base/rng.h, on the device: the same words. */
LT_DEVICE void philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* A dropout mask as kernels take it. */
struct dropout_key {
    uint64_t seed, stream, threshold; /* kept when word >= threshold; 0: no dropout */
    float scale;                      /* of what is kept */
};

static inline dropout_key dropout_key_of(const lt_dropout_mask *mask)
{
    dropout_key key = {mask->seed, mask->stream, 0, 1};
    if (mask->rate > 0) {
        key.threshold = lt_dropout_threshold(mask);
        key.scale = (float)(1 / (1 - mask->rate));
    }
    return key;
}

#endif
