/* The hardware half of kernels/cuda/ptx.cuh, played by the emulator: the same functions with the
 * same meaning. What PTX leaves undefined (alignment, bounds, lanes that are not there) fails. */
#ifndef LT_EMULATOR_PTX_H
#define LT_EMULATOR_PTX_H

#include <float.h>
#include <math.h>
#include <string.h>

#include "tests/emulator/machine.h"

#define LT_DEVICE static inline

template <typename T> LT_DEVICE T *shared_memory()
{
    return reinterpret_cast<T *>(emulator_shared);
}

LT_DEVICE uint32_t shared_address(const void *p)
{
    return emulator_check_shared("shared_address", p, 0, 1);
}

LT_DEVICE void copy_async_16(void *to, const void *from, int valid)
{
    emulator_copy_async(to, from, valid);
}

LT_DEVICE void copy_async_commit()
{
    emulator_copy_async_commit();
}

template <int Pending> LT_DEVICE void copy_async_wait()
{
    emulator_copy_async_wait(Pending);
}

LT_DEVICE void load_matrix_x4(uint32_t r[4], const void *row)
{
    emulator_load_matrix(r, row, 4, false);
}

LT_DEVICE void load_matrix_x4_transposed(uint32_t r[4], const void *row)
{
    emulator_load_matrix(r, row, 4, true);
}

LT_DEVICE void load_matrix_x2(uint32_t r[2], const void *row)
{
    emulator_load_matrix(r, row, 2, false);
}

LT_DEVICE void load_matrix_x2_transposed(uint32_t r[2], const void *row)
{
    emulator_load_matrix(r, row, 2, true);
}

LT_DEVICE void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulator_mma_bf16(c, a, b);
}

LT_DEVICE uint32_t emulator_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0x7fff; /* the one NaN that the instruction makes */
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

LT_DEVICE uint32_t pack_bf16(float low, float high)
{
    return emulator_bf16(low) | emulator_bf16(high) << 16;
}

LT_DEVICE float fast_exp2(float x)
{
    float y = exp2f(x);
    return y < FLT_MIN ? 0 : y; /* .ftz: no subnormal numbers */
}

LT_DEVICE void store_16(void *to, uint4 x)
{
    if ((uintptr_t)to % sizeof x) emulator_fail("store_16: %p is not a multiple of 16", to);
    memcpy(to, &x, sizeof x);
}

LT_DEVICE void store_8(void *to, uint2 x)
{
    if ((uintptr_t)to % sizeof x) emulator_fail("store_8: %p is not a multiple of 8", to);
    memcpy(to, &x, sizeof x);
}

LT_DEVICE void barrier_sync(int id, int threads)
{
    if (id < 1 || id > 15) emulator_fail("barrier_sync: barrier %d is not in 1 .. 15", id);
    if (threads < 32 || threads % 32)
        emulator_fail("barrier_sync: %d threads are not whole warps", threads);
    emulator_barrier(id, threads, false);
}

#endif
