/* The GPU's own instructions, each behind one small function, so that kernels say what they mean
 * and the host emulator (tests/emulator) can stand in for the hardware. Nothing else in
 * kernels/cuda contains PTX.
 *
 * Fragments of mma.sync.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"), g = lane / 4,
 * t = lane % 4, each register two bf16, the lower k (or column) in the lower half:
 *   A[16 x 16]: a0 = (g, 2t..), a1 = (g + 8, 2t..), a2 = (g, 2t + 8..), a3 = (g + 8, 2t + 8..)
 *   B[16 x 8]:  b0 = (k = 2t.., n = g), b1 = (k = 2t + 8.., n = g)
 *   C[16 x 8]:  c0, c1 = (g, 2t), (g, 2t + 1); c2, c3 = (g + 8, 2t), (g + 8, 2t + 1), f32
 * ldmatrix: lane 8i + r gives the shared address of row r (8 bf16, 16-byte aligned) of matrix i;
 * register i of lane l gets elements 2 (l % 4), + 1 of row l / 4 of matrix i; transposed: of
 * column l / 4. */
#ifndef LT_CUDA_PTX_CUH
#define LT_CUDA_PTX_CUH

#include <stdint.h>

#ifdef LT_EMULATOR
#include "tests/emulator/ptx.h"
#else

#define LT_DEVICE static __device__ __forceinline__

extern __shared__ __align__(1024) unsigned char lt_dynamic_shared[];

/* The block's dynamic shared memory, 1024-byte aligned: as large as the launch asked for. All
 * shared memory is taken this way (a struct, or a carved array), never by a __shared__ variable:
 * the emulator checks its bounds and fills it with NaN before each block. */
template <typename T> LT_DEVICE T *shared_memory()
{
    return reinterpret_cast<T *>(lt_dynamic_shared);
}

LT_DEVICE uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* --- Asynchronous copies from global to shared memory --------------------------------------- */

/* 16 bytes, of which the first `valid` (0 .. 16) are read and the others are zero. Both addresses
 * are 16-byte aligned. `from` must be a valid address even when valid is 0. */
LT_DEVICE void copy_async_16(void *to, const void *from, int valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid)
                 : "memory");
}

LT_DEVICE void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most `Pending` of this thread's groups are under way. Others' copies are visible
 * after the __syncthreads that follows. */
template <int Pending> LT_DEVICE void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/* --- Tensor cores ---------------------------------------------------------------------------- */

LT_DEVICE void load_matrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

LT_DEVICE void load_matrix_x4_transposed(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* Lanes 0 .. 15 give addresses; those of the others are ignored but must be in shared memory. */
LT_DEVICE void load_matrix_x2(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

LT_DEVICE void load_matrix_x2_transposed(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

/* c += A B, with the whole warp. */
LT_DEVICE void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Two f32 to bf16, to nearest even; `low` to the lower half. */
LT_DEVICE uint32_t pack_bf16(float low, float high)
{
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

/* 2^x to about 2 units in the last place; 2^-inf = 0. */
LT_DEVICE float fast_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* --- Stores ------------------------------------------------------------------------------------
 */

/* 16 or 8 bytes to global memory by one instruction: the compiler likes to take an assignment of a
 * uint4 apart. The address is a multiple of the size. */
LT_DEVICE void store_16(void *to, uint4 x)
{
    __stwb(static_cast<uint4 *>(to), x);
}

LT_DEVICE void store_8(void *to, uint2 x)
{
    __stwb(static_cast<uint2 *>(to), x);
}

/* --- Barriers -------------------------------------------------------------------------------- */

/* Waits for `threads` threads (a multiple of 32) of the block at named barrier `id`, 1 .. 15. */
LT_DEVICE void barrier_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#endif
#endif
