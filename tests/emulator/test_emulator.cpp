/* The emulator tested with small kernels of its own, written like those of kernels/cuda: correct
 * ones pass in every order, and each kind of mistake is caught. */
#include "kernels/cuda/device.cuh"

#include <functional>
#include <string>
#include <vector>

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/emulator/sanitizer.h"

/* Where kernels/cuda/backend.cu is not linked. */
__attribute__((weak)) lt_status lt_cuda_check(cudaError_t error, const char *, lt_err *)
{
    return error ? LT_ERR_IO : LT_OK;
}

static lt_cuda state;
static lt_backend backend;
static int failures;
static std::string message; /* of the emulator, since the last launch() */

static void check(bool condition, const char *what, int line)
{
    if (condition) return;
    failures++;
    printf("test_emulator.cpp:%d: FAILED: %s (last message: %s)\n", line, what, message.c_str());
}
#define CHECK(condition) check(condition, #condition, __LINE__)

static void remember(const char *text)
{
    message = text;
}

/* Runs the kernel; message is empty when it did nothing wrong. */
template <typename... P, typename... A>
static void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... arguments)
{
    cudaStreamSynchronize(state.stream);
    message = "";
    lt_launch(&backend, "test", nullptr, kernel, grid, block, shared, arguments...);
    cudaError_t error = cudaStreamSynchronize(state.stream);
    CHECK((error == cudaErrorLaunchFailure) == (message != ""));
    emulator_reset();
}

static bool said(const char *text)
{
    return message.find(text) != std::string::npos;
}

/* Does it kill the process? */
static bool dies(const std::function<void()> &run)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(0);
        emulator_on_error(nullptr);
        run();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

template <typename T> static T *to_device(const std::vector<T> &values)
{
    T *device;
    cudaMalloc(&device, values.size() * sizeof(T));
    cudaMemcpyAsync(device, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice,
                    state.stream);
    return device;
}

template <typename T> static std::vector<T> to_host(const T *device, size_t count)
{
    std::vector<T> values(count);
    cudaMemcpyAsync(values.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost, state.stream);
    return values;
}

template <typename T> static std::vector<T> counting(size_t count)
{
    std::vector<T> values(count);
    for (size_t i = 0; i < count; i++)
        values[i] = (T)i;
    return values;
}

/* Random bf16 in [-1, 1). */
static std::vector<uint16_t> random_bf16(size_t count, unsigned seed)
{
    std::vector<uint16_t> values(count);
    for (size_t i = 0; i < count; i++) {
        uint32_t words[4];
        philox(seed, 0, i, words);
        values[i] = (uint16_t)pack_bf16((float)(int32_t)words[0] * 0x1p-31f, 0);
    }
    return values;
}

/* In every order, eager and late. */
static void in_all_orders(void (*test)())
{
    for (int order = 0; order < EMULATOR_ORDERS; order++)
        for (int late = 0; late < 2; late++) {
            emulator_set_order(order);
            emulator_set_late(late);
            test();
        }
    emulator_set_order(EMULATOR_FORWARD);
    emulator_set_late(-1);
}

/* --- Shared memory and barriers ---------------------------------------------------------- */

enum reverse_mistake { NONE, NO_BARRIER, NO_SECOND_BARRIER };

/* Each block turns its part of x round, twice. */
template <int Mistake> static __global__ void turn_round(float *y, const float *x)
{
    float *shared = shared_memory<float>();
    int t = threadIdx.x, other = blockDim.x - 1 - t;
    int64_t first = (int64_t)blockIdx.x * blockDim.x;
    float value = x[first + t];
    for (int pass = 0; pass < 2; pass++) {
        shared[t] = value + pass;
        if (Mistake != NO_BARRIER) __syncthreads();
        value = shared[other];
        if (Mistake != NO_SECOND_BARRIER) __syncthreads();
    }
    y[first + t] = value;
}

/* How many of the results are wrong. */
static int count_wrong(void (*kernel)(float *, const float *))
{
    enum { BLOCKS = 5, THREADS = 96, N = BLOCKS * THREADS };
    float *x = to_device(counting<float>(N)), *y = to_device(std::vector<float>(N));
    launch(kernel, BLOCKS, THREADS, THREADS * sizeof(float), y, (const float *)x);
    std::vector<float> result = to_host(y, N);
    int wrong = 0;
    for (int i = 0; i < N; i++)
        wrong += result[(size_t)i] != (float)(i + 1);
    cudaFree(x);
    cudaFree(y);
    return wrong;
}

static void test_barriers()
{
    CHECK(count_wrong(turn_round<NONE>) == 0 && message == "");
    CHECK(count_wrong(turn_round<NO_BARRIER>) > 0);
    CHECK(count_wrong(turn_round<NO_SECOND_BARRIER>) > 0);
}

static __global__ void divergent_syncthreads()
{
    if (threadIdx.x < 32) __syncthreads();
}

static __global__ void early_return()
{
    if (threadIdx.x == 70) return;
    __syncthreads();
}

static __global__ void half_a_warp()
{
    if (threadIdx.x % 32 < 16)
        barrier_sync(1, 64);
    else
        barrier_sync(2, 64);
}

/* 64 threads come, but not as whole warps. */
static __global__ void ragged_barrier()
{
    if (threadIdx.x % 32 < 16)
        barrier_sync(1, 64);
    else
        __syncwarp(0xffff0000u);
}

static __global__ void crossed_barriers()
{
    bool first = threadIdx.x < 64;
    barrier_sync(first ? 1 : 2, 96);
    barrier_sync(first ? 2 : 1, 96);
}

static __global__ void disagreeing_counts()
{
    barrier_sync(1, threadIdx.x < 32 ? 64 : 96);
}

/* Two halves of the block that meet on their own; then all. */
static __global__ void named_barriers(int *y)
{
    int *shared = shared_memory<int>(), t = threadIdx.x, half = t / 64;
    for (int i = 0; i < 3; i++) {
        shared[t] = t + i;
        barrier_sync(1 + half, 64);
        int neighbour = shared[half * 64 + (t + 1) % 64];
        barrier_sync(1 + half, 64);
        if (i == 2) y[t] = neighbour;
    }
    int odd = __syncthreads_count(t % 2);
    if (odd != 64 || !__syncthreads_or(t == 5) || __syncthreads_and(t != 5)) y[t] = -1;
}

static void test_divergence()
{
    launch(divergent_syncthreads, 1, 96, 0);
    CHECK(said("__syncthreads"));
    launch(early_return, 1, 96, 0);
    CHECK(said("__syncthreads") && said("exit"));
    launch(half_a_warp, 1, 128, 0);
    CHECK(said("divergence"));
    launch(ragged_barrier, 1, 128, 0);
    CHECK(said("barrier 1") || said("exits"));
    launch(crossed_barriers, 1, 128, 0);
    CHECK(said("deadlock"));
    launch(disagreeing_counts, 1, 96, 0);
    CHECK(said("expects"));

    int *y = to_device(std::vector<int>(128));
    launch(named_barriers, 1, 128, 128 * sizeof(int), y);
    std::vector<int> result = to_host(y, 128);
    for (int t = 0; t < 128; t++)
        CHECK(result[(size_t)t] == t / 64 * 64 + (t + 1) % 64 + 2);
    CHECK(message == "");
    cudaFree(y);
}

static __global__ void write_shared(int index)
{
    volatile char *shared = shared_memory<char>();
    if (threadIdx.x == 0) shared[index] = 1;
}

static __global__ void fresh_shared_is_nan(int *y)
{
    float *shared = shared_memory<float>();
    y[blockIdx.x] = isnan(shared[0]) && isnan(shared[9]);
    shared[0] = shared[9] = 1;
}

static void test_shared_bounds()
{
    launch(write_shared, 1, 32, 100, 99);
    CHECK(message == "");
    CHECK(dies([] { launch(write_shared, 1, 32, 100, 100); }));
    CHECK(dies([] { launch(write_shared, 1, 32, 100, -1); }));
    if (!EMULATOR_ASAN) {
        launch(write_shared, 1, 32, 100, 100);
        CHECK(said("behind its 100 bytes"));
        launch(write_shared, 1, 32, 100, -1);
        CHECK(said("in front of"));
    }
    int *y = to_device(std::vector<int>(3));
    launch(fresh_shared_is_nan, 3, 1, 40, y);
    std::vector<int> result = to_host(y, 3);
    CHECK(result[0] && result[1] && result[2]);
    cudaFree(y);
}

/* --- Warps ------------------------------------------------------------------------------- */

static __global__ void warp_operations(int *wrong)
{
    int lane = threadIdx.x % 32, bad = 0;
    unsigned bit = 1u << lane;
    bad += __shfl_sync(FULL_MASK, lane, 7) != 7;
    bad += __shfl_sync(FULL_MASK, lane, 3, 8) != (lane / 8 * 8 + 3);
    bad += __shfl_xor_sync(FULL_MASK, (double)lane, 5) != (lane ^ 5);
    bad += __shfl_xor_sync(FULL_MASK, lane, 16, 16) != (lane < 16 ? lane : lane ^ 16);
    bad += __shfl_down_sync(FULL_MASK, (float)lane, 4) != (lane + 4 < 32 ? lane + 4 : lane);
    bad += __shfl_up_sync(FULL_MASK, (long long)lane, 4, 8) != (lane % 8 < 4 ? lane : lane - 4);
    bad += __ballot_sync(FULL_MASK, lane % 3 == 0) != 0x49249249u;
    bad += __any_sync(FULL_MASK, lane == 40) || !__any_sync(FULL_MASK, lane == 4);
    bad += !__all_sync(FULL_MASK, lane < 32) || __all_sync(FULL_MASK, lane != 4);
    bad +=
        __reduce_add_sync(FULL_MASK, lane) != 496 || __reduce_max_sync(FULL_MASK, bit) != 1u << 31;
    bad += warp_sum((float)lane) != 496 || warp_max((float)-lane) != 0;
    /* the halves apart */
    unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    bad += __shfl_xor_sync(half, lane, 1) != (lane ^ 1);
    __syncwarp(half);
    float *shared = shared_memory<float>();
    bad += block_sum(1.0f, shared) != (float)blockDim.x;
    bad += block_max((float)threadIdx.x, shared) != (float)(blockDim.x - 1);
    wrong[threadIdx.x] = bad;
}

static __global__ void exited_lane()
{
    if (threadIdx.x == 9) return;
    __shfl_xor_sync(FULL_MASK, 1, 1);
}

static __global__ void missing_lane()
{
    if (threadIdx.x % 32 < 16)
        __syncwarp();
    else
        barrier_sync(1, 32);
}

static __global__ void different_operations()
{
    if (threadIdx.x % 2)
        __syncwarp();
    else
        __shfl_sync(FULL_MASK, 1, 0);
}

static __global__ void reads_outside_mask()
{
    if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 20);
}

static __global__ void partial_warp()
{
    __syncwarp();
}

/* Lanes hand a value on through shared memory, without saying so. */
static __global__ void lockstep(float *y)
{
    float *shared = shared_memory<float>();
    shared[threadIdx.x] = 1;
    y[threadIdx.x] = shared[(threadIdx.x + 1) % 32];
}

static void test_warps()
{
    int *wrong = to_device(std::vector<int>(96));
    launch(warp_operations, 2, 96, 32 * sizeof(float), wrong);
    CHECK(message == "");
    for (int bad : to_host(wrong, 96))
        CHECK(bad == 0);
    cudaFree(wrong);
    launch(exited_lane, 1, 64, 0);
    CHECK(said("exit"));
    launch(missing_lane, 1, 64, 0);
    CHECK(said("deadlock") || said("only lanes"));
    launch(different_operations, 1, 32, 0);
    CHECK(said("divergence"));
    launch(reads_outside_mask, 1, 32, 0);
    CHECK(said("reads lane 20"));
    launch(partial_warp, 1, 48, 0);
    CHECK(said("not in the block"));

    float *y = to_device(std::vector<float>(32));
    launch(lockstep, 1, 32, 32 * sizeof(float), y);
    int unwritten = 0;
    for (float value : to_host(y, 32))
        unwritten += isnan(value);
    CHECK(unwritten > 0);
    cudaFree(y);
}

/* --- Asynchronous copies ----------------------------------------------------------------- */

enum pipeline_mistake { NO_MISTAKE, WAITS_TOO_LITTLE, OVERWRITES, FORGETS_THE_LAST };

/* y[t] = sum over steps of what the neighbour copied, two stages in flight. */
template <int Mistake> static __global__ void pipeline(float *y, const float *x, int steps)
{
    float *shared = shared_memory<float>();
    int t = threadIdx.x, threads = blockDim.x;
    float total = 0;
    copy_async_16(shared + 4 * t, x + 4 * t, 16);
    copy_async_commit();
    for (int step = 0; step < steps; step++) {
        float *stage = shared + step % 2 * 4 * threads,
              *next = shared + (step + 1) % 2 * 4 * threads;
        if (step + 1 < steps)
            copy_async_16(next + 4 * t, x + (step + 1) * 4 * threads + 4 * t, t == 0 ? 8 : 16);
        copy_async_commit();
        if (Mistake != WAITS_TOO_LITTLE)
            copy_async_wait<1>();
        else
            copy_async_wait<2>();
        __syncthreads();
        for (int i = 0; i < 4; i++)
            total += stage[(4 * t + 4 + i) % (4 * threads)];
        if (Mistake != OVERWRITES) __syncthreads();
    }
    if (Mistake == FORGETS_THE_LAST)
        copy_async_16(shared + 4 * t, x, 0);
    else
        copy_async_wait<0>();
    y[t] = total;
}

static bool pipeline_is_right(void (*kernel)(float *, const float *, int))
{
    enum { THREADS = 64, STEPS = 5 };
    std::vector<float> values = counting<float>(4 * THREADS * STEPS);
    float *x = to_device(values), *y = to_device(std::vector<float>(THREADS));
    launch(kernel, 1, THREADS, 2 * THREADS * 16, y, (const float *)x, (int)STEPS);
    std::vector<float> result = to_host(y, THREADS);
    bool right = true;
    for (int t = 0; t < THREADS; t++) {
        float expected = 0;
        for (int step = 0; step < STEPS; step++)
            for (int i = 0; i < 4; i++) {
                int at = (4 * t + 4 + i) % (4 * THREADS);
                if (step == 0 || at < 2 || at > 3)
                    expected += values[(size_t)(step * 4 * THREADS + at)];
            }
        right = right && result[(size_t)t] == expected;
    }
    cudaFree(x);
    cudaFree(y);
    return right;
}

static __global__ void copies_to(int offset, const float *from, int shift)
{
    copy_async_16(shared_memory<char>() + offset, (const char *)from + shift, 16);
    copy_async_wait<0>();
}

static void test_asynchronous_copies()
{
    CHECK(pipeline_is_right(pipeline<NO_MISTAKE>) && message == "");
    CHECK(!pipeline_is_right(pipeline<FORGETS_THE_LAST>) || said("has not waited"));
    if (emulator_is_late()) {
        CHECK(!pipeline_is_right(pipeline<WAITS_TOO_LITTLE>));
        CHECK(!pipeline_is_right(pipeline<OVERWRITES>));
    }
    float *x = to_device(std::vector<float>(64));
    launch(copies_to, 1, 1, 64, 8, (const float *)x, 0);
    CHECK(said("multiple of 16"));
    launch(copies_to, 1, 1, 64, 64, (const float *)x, 0);
    CHECK(said("not in the 64 bytes"));
    launch(copies_to, 1, 1, 64, 0, (const float *)x, 4);
    CHECK(said("global address"));
    launch(copies_to, 1, 1, 64, 0, (const float *)x, 256);
    CHECK(said("not in device memory"));
    /* nothing is waited for that is not committed */
    launch(copies_to, 1, 1, 64, 0, (const float *)x, 0);
    CHECK(said("has not waited"));
    cudaFree(x);
}

/* --- Tensor cores ------------------------------------------------------------------------ */

static __global__ void misaligned_matrix(int offset)
{
    uint32_t r[4];
    load_matrix_x4(r, shared_memory<char>() + threadIdx.x * 16 + offset);
}

/* c[16, 8] = a[16, 16] b[16, 8], with b read as [k, n] and transposed on the way, or as [n, k];
 * one warp. Rows of shared memory are 8 numbers longer than needed. */
static __global__ void one_product(float *c, const uint16_t *a, const uint16_t *b, bool transposed)
{
    enum { PITCH = 24 };
    uint16_t *shared_a = shared_memory<uint16_t>(), *shared_b = shared_a + 16 * PITCH;
    int lane = threadIdx.x, rows = transposed ? 16 : 8, columns = transposed ? 8 : 16;
    for (int i = lane; i < 256; i += 32)
        shared_a[i / 16 * PITCH + i % 16] = a[i];
    for (int i = lane; i < 128; i += 32)
        shared_b[i / columns * PITCH + i % columns] = b[i];
    __syncwarp();
    uint32_t fragment_a[4], fragment_b[2];
    float fragment_c[4] = {};
    load_matrix_x4(fragment_a, shared_a + lane % 16 * PITCH + lane / 16 * 8);
    if (transposed)
        load_matrix_x2_transposed(fragment_b, shared_b + lane % rows * PITCH);
    else
        load_matrix_x2(fragment_b, shared_b + lane % 8 * PITCH + lane / 8 % 2 * 8);
    mma_bf16(fragment_c, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++)
        c[(lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + i % 2] = fragment_c[i];
}

/* As one_product, the fragments taken from global memory number by number, as ptx.cuh has it. */
static __global__ void product_by_layout(float *c, const uint16_t *a, const uint16_t *b)
{
    int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t fragment_a[4], fragment_b[2];
    float fragment_c[4] = {};
    for (int i = 0; i < 4; i++) {
        const uint16_t *from = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
        fragment_a[i] = from[0] | (uint32_t)from[1] << 16;
    }
    for (int i = 0; i < 2; i++) {
        int k = 2 * t + 8 * i;
        fragment_b[i] = b[k * 8 + g] | (uint32_t)b[(k + 1) * 8 + g] << 16;
    }
    mma_bf16(fragment_c, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++)
        c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fragment_c[i];
}

/* y = the fragments of 32 x 8 numbers, four matrices below one another. */
static __global__ void load_four(uint32_t *y, const uint16_t *x, bool transposed)
{
    uint16_t *shared = shared_memory<uint16_t>();
    for (int i = threadIdx.x; i < 256; i += 32)
        shared[i] = x[i];
    __syncwarp();
    if (transposed)
        load_matrix_x4_transposed(y + 4 * threadIdx.x, shared + 8 * threadIdx.x);
    else
        load_matrix_x4(y + 4 * threadIdx.x, shared + 8 * threadIdx.x);
}

static void test_load_matrix()
{
    launch(misaligned_matrix, 1, 32, 1024, 8);
    CHECK(said("multiple of 16"));
    launch(misaligned_matrix, 1, 32, 512, 16);
    CHECK(said("not in the 512 bytes"));
    uint16_t *x = to_device(counting<uint16_t>(256));
    uint32_t *y = to_device(std::vector<uint32_t>(128));
    for (int transposed = 0; transposed < 2; transposed++) {
        launch(load_four, 1, 32, 512, y, (const uint16_t *)x, transposed != 0);
        std::vector<uint32_t> result = to_host(y, 128);
        for (uint32_t lane = 0; lane < 32; lane++)
            for (uint32_t i = 0; i < 4; i++) {
                uint32_t row = lane / 4, column = 2 * (lane % 4), first = 64 * i;
                uint32_t low = first + (transposed ? column * 8 + row : row * 8 + column);
                CHECK(result[4 * lane + i] == (low | (low + (transposed ? 8 : 1)) << 16));
            }
    }
    cudaFree(x);
    cudaFree(y);
}

static void test_products()
{
    std::vector<uint16_t> a = random_bf16(256, 1), b = random_bf16(128, 2), b_by_column(128);
    std::vector<double> expected(128);
    for (size_t m = 0; m < 16; m++)
        for (size_t n = 0; n < 8; n++)
            for (size_t k = 0; k < 16; k++) {
                expected[m * 8 + n] +=
                    (double)to_float(bf16{a[m * 16 + k]}) * to_float(bf16{b[k * 8 + n]});
                b_by_column[n * 16 + k] = b[k * 8 + n];
            }
    uint16_t *device_a = to_device(a), *device_b = to_device(b),
             *by_column = to_device(b_by_column);
    float *c = to_device(std::vector<float>(128));
    for (int way = 0; way < 3; way++) {
        const uint16_t *const_a = device_a, *const_b = way == 1 ? by_column : device_b;
        if (way == 2)
            launch(product_by_layout, 1, 32, 0, c, const_a, const_b);
        else
            launch(one_product, 1, 32, 32 * 24 * 2, c, const_a, const_b, way == 0);
        CHECK(message == "");
        std::vector<float> result = to_host(c, 128);
        for (size_t i = 0; i < 128; i++)
            CHECK(fabs(result[i] - expected[i]) < 1e-5);
    }
    for (void *p : {(void *)device_a, (void *)device_b, (void *)by_column, (void *)c})
        cudaFree(p);
}

static void test_numbers()
{
    CHECK(pack_bf16(1, -2) == 0xc0003f80u);
    CHECK(pack_bf16(1 + 0x1p-8f, 1 + 0x3p-8f) == 0x3f823f80u); /* ties to even */
    CHECK(pack_bf16(1 + 0x1.02p-8f, 3.4e38f) == 0x7f803f81u);
    CHECK(pack_bf16(NAN, -0.0f) == 0x80007fffu);
    CHECK(fast_exp2(-INFINITY) == 0 && fast_exp2(3) == 8 && fast_exp2(-130) == 0);
    CHECK(__float2int_rn(2.5f) == 2 && __float2int_rn(1e20f) == 0x7fffffff);
    CHECK(__float2int_rz(-1e20f) == (int)0x80000000 && __float2uint_rn(-1) == 0);
    CHECK(__clz(0) == 32 && __ffs(8) == 4 && __popc(255) == 8 && __brev(1) == 0x80000000u);
    CHECK(__umulhi(0x80000000u, 6) == 3 &&
          __byte_perm(0x33221100, 0x77665544, 0x7410) == 0x77441100);
}

/* --- Blocks, device memory --------------------------------------------------------------- */

/* The last block to finish adds up what the others left. */
static __global__ void last_block_sums(int *sum, int *parts, unsigned *finished)
{
    if (threadIdx.x == 0) {
        parts[blockIdx.y * gridDim.x + blockIdx.x] = (int)(blockIdx.y * gridDim.x + blockIdx.x);
        __threadfence();
    }
    bool last = threadIdx.x == 0 && atomicAdd(finished, 1u) + 1 == gridDim.x * gridDim.y;
    if (!__syncthreads_or(last) || threadIdx.x) return;
    int total = 0;
    for (unsigned i = 0; i < gridDim.x * gridDim.y; i++)
        total += parts[i];
    *sum = total;
}

static __global__ void write_float(float *p, int64_t index)
{
    p[index] = 1;
}

static void test_blocks()
{
    int *sum = to_device(std::vector<int>(1)), *parts = to_device(std::vector<int>(21));
    unsigned *finished = to_device(std::vector<unsigned>(1));
    launch(last_block_sums, dim3(7, 3), 64, 0, sum, parts, finished);
    CHECK(to_host(sum, 1)[0] == 210 && message == "");
    for (void *p : {(void *)sum, (void *)parts, (void *)finished})
        cudaFree(p);
}

static void test_device_memory()
{
    float *p;
    CHECK(cudaMalloc(&p, 16384) == cudaSuccess && (uintptr_t)p % 256 == 0);
    CHECK(isnan(to_host(p, 1)[0]));
    CHECK(dies([=] { printf("%g", *(volatile float *)p); }));
    CHECK(dies([=] { launch(write_float, 1, 1, 0, p, (int64_t)4096); }));
    CHECK(dies([=] { launch(write_float, 1, 1, 0, p, (int64_t)-1); }));
    launch(write_float, 1, 1, 0, p, (int64_t)4095);
    CHECK(message == "" && to_host(p, 4096)[4095] == 1);
    CHECK(cudaMemcpy(p, p, 16385, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue);
    float host[2];
    CHECK(cudaMemcpy(p, host, 8, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaSuccess);
    CHECK(cudaFree((char *)p + 4) == cudaErrorInvalidValue);
    CHECK(cudaFree(p) == cudaSuccess);

    /* behind the end, but within the rounding to 256 bytes */
    CHECK(dies([] {
        float *small;
        cudaMalloc(&small, 12);
        launch(write_float, 1, 1, 0, small, (int64_t)3);
        cudaFree(small);
    }));
    void *huge;
    size_t available, total;
    CHECK(cudaMemGetInfo(&available, &total) == cudaSuccess && available <= total);
    CHECK(cudaMalloc(&huge, available + 1) == cudaErrorMemoryAllocation && !huge);
    CHECK(std::string(cudaGetErrorName(cudaGetLastError())) == "cudaErrorMemoryAllocation");
}

static void test_limits()
{
    float *p = to_device(std::vector<float>(4));
    const struct {
        dim3 grid, block;
        size_t shared;
        cudaError_t error;
    } cases[] = {
        {1, 1024, 163 << 10, cudaSuccess},
        {1, 1056, 0, cudaErrorInvalidConfiguration},
        {dim3(1, 65536), 32, 0, cudaErrorInvalidConfiguration},
        {1, dim3(16, 16, 8), 0, cudaErrorInvalidConfiguration},
        {1, 32, (163 << 10) + 1, cudaErrorInvalidValue},
    };
    for (const auto &c : cases) {
        cudaError_t error = emulator_launch(c.grid, c.block, c.shared, state.stream, "limits",
                                            [=] { write_float(p, 0); });
        CHECK(error == c.error);
    }
    setenv("EMULATOR_CAPABILITY", "120", 1);
    int limit = 0;
    cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
    CHECK(limit == 99 << 10);
    setenv("EMULATOR_CAPABILITY", "80", 1);
    cudaFree(p);
    cudaGetLastError();
}

static __global__ void always_fails()
{
    __trap();
}

static void test_failures_stick()
{
    lt_launch(&backend, "trap", nullptr, always_fails, 2, 64, 0);
    CHECK(cudaStreamSynchronize(state.stream) == cudaErrorLaunchFailure);
    CHECK(said("trap: block (") && said("thread (") && said("__trap"));
    void *p;
    CHECK(cudaMalloc(&p, 4) == cudaErrorLaunchFailure);
    CHECK(lt_launch(&backend, "next", nullptr, always_fails, 2, 64, 0) != LT_OK);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure && cudaDeviceSynchronize() != cudaSuccess);
    emulator_reset();
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(dies([] {
        lt_launch(&backend, "trap", nullptr, always_fails, 1, 1, 0);
        cudaDeviceSynchronize();
    }));
}

/* --- Streams, events, graphs ------------------------------------------------------------- */

static __global__ void add_to(int *p, int amount)
{
    *p += amount;
}

static void test_streams()
{
    int *pinned, *device, pageable = 1;
    cudaMallocHost(&pinned, sizeof *pinned);
    cudaMalloc(&device, sizeof *device);

    /* pinned memory that is changed too early: whether the copy sees it is anybody's guess */
    *pinned = 1;
    cudaMemcpyAsync(device, pinned, sizeof *pinned, cudaMemcpyHostToDevice, state.stream);
    *pinned = 2;
    CHECK(to_host(device, 1)[0] == (emulator_is_late() ? 2 : 1));
    /* pageable memory is free at once */
    cudaMemcpyAsync(device, &pageable, sizeof pageable, cudaMemcpyHostToDevice, state.stream);
    pageable = 2;
    CHECK(to_host(device, 1)[0] == 1);

    /* one stream waits for another */
    cudaStream_t other;
    cudaEvent_t event;
    cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    CHECK(cudaEventQuery(event) == cudaSuccess);
    lt_launch(&backend, "add", nullptr, add_to, 1, 1, 0, device, 10);
    cudaEventRecord(event, state.stream);
    lt_launch(&backend, "add", nullptr, add_to, 1, 1, 0, device, 100);
    cudaStreamWaitEvent(other, event);
    cudaMemcpyAsync(pinned, device, sizeof *pinned, cudaMemcpyDeviceToHost, other);
    CHECK(cudaStreamSynchronize(other) == cudaSuccess);
    CHECK(*pinned == (emulator_is_late() ? 11 : 111));
    CHECK(cudaEventSynchronize(event) == cudaSuccess && cudaEventQuery(event) == cudaSuccess);
    cudaStreamDestroy(other);
    cudaEventDestroy(event);
    CHECK(to_host(device, 1)[0] == 111);
    cudaFree(device);
    cudaFreeHost(pinned);
}

static void test_graphs()
{
    int *device;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaMalloc(&device, sizeof *device);
    cudaMemsetAsync(device, 0, sizeof *device, state.stream);
    CHECK(cudaStreamBeginCapture(state.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    lt_launch(&backend, "add", nullptr, add_to, 1, 1, 0, device, 1);
    lt_launch(&backend, "add", nullptr, add_to, 1, 1, 0, device, 10);
    CHECK(cudaStreamEndCapture(state.stream, &graph) == cudaSuccess);
    CHECK(to_host(device, 1)[0] == 0);
    CHECK(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    cudaGraphDestroy(graph);
    emulator_counts before = emulator_counters();
    for (int i = 0; i < 3; i++)
        CHECK(cudaGraphLaunch(executable, state.stream) == cudaSuccess);
    CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
    emulator_counts after = emulator_counters();
    CHECK(after.synchronisations == before.synchronisations && after.launches == before.launches);
    CHECK(after.allocations == before.allocations);
    CHECK(after.graph_launches == before.graph_launches + 3);
    CHECK(to_host(device, 1)[0] == 33);
    CHECK(emulator_counters().kernels_run >= before.kernels_run + 6);

    /* waiting spoils a capture */
    CHECK(cudaStreamBeginCapture(state.stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(cudaStreamSynchronize(state.stream) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(state.stream, &graph) == cudaErrorStreamCaptureInvalidated);
    cudaGetLastError();
    cudaFree(device);
}

int main()
{
    setenv("EMULATOR_CAPABILITY", "80", 1);
    setenv("EMULATOR_PROTECT", "1", 1);
    backend.state = &state;
    emulator_on_error(remember);
    cudaStreamCreateWithFlags(&state.stream, cudaStreamNonBlocking);
    in_all_orders(test_barriers);
    in_all_orders(test_divergence);
    in_all_orders(test_shared_bounds);
    in_all_orders(test_warps);
    in_all_orders(test_asynchronous_copies);
    in_all_orders(test_load_matrix);
    in_all_orders(test_products);
    in_all_orders(test_blocks);
    in_all_orders(test_device_memory);
    in_all_orders(test_limits);
    in_all_orders(test_failures_stick);
    in_all_orders(test_streams);
    in_all_orders(test_graphs);
    test_numbers();
    cudaStreamDestroy(state.stream);
    CHECK(emulator_counters().live_bytes == 0);
    printf("emulator: %s\n", failures ? "FAILED" : "all tests passed");
    return failures != 0;
}
