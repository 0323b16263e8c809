/* Tiles of bf16 in shared memory and the fragments that mma.sync wants of them.
 *
 * A tile is OUTER rows of INNER elements as they stand in global memory, cut into chunks of 8
 * elements (16 bytes, what cp.async and ldmatrix move). Within its row a chunk's place is XORed
 * with the row's number, so that the 8 rows ldmatrix reads at once lie in 8 different groups of 4
 * banks. The same address function serves the writing and both ways of reading. */
#ifndef LT_CUDA_MATMUL_TENSOR_CUH
#define LT_CUDA_MATMUL_TENSOR_CUH

#include "kernels/cuda/matmul.cuh"

enum { CHUNK = 8 };

/* Where chunk `chunk` of row `row` starts. Rows of 32 elements share 128 bytes (a round over all
 * banks) in pairs; hence they swizzle by pair. */
template <int INNER> LT_DEVICE int chunk_offset(int row, int chunk)
{
    const int chunks = INNER / CHUNK;
    int swizzled = chunks >= 8 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3);
    return row * INNER + swizzled * CHUNK;
}

/* Rows outer .. and columns inner .. of a stored matrix of outer_count x inner_count; zeros beyond
 * it. All threads of the block take part. */
struct matmul_source {
    const bf16 *data;
    int64_t stride;
    int outer_count, inner_count;
};

/* The same as copy_async_16 for rows that start anywhere. */
LT_DEVICE void copy_elements(bf16 *to, const bf16 *from, int count)
{
    uint32_t words[CHUNK / 2];
    LT_UNROLL
    for (int i = 0; i < CHUNK / 2; i++) {
        uint32_t low = 2 * i < count ? from[2 * i].bits : 0;
        uint32_t high = 2 * i + 1 < count ? from[2 * i + 1].bits : 0;
        words[i] = low | high << 16;
    }
    uint4 chunk = {words[0], words[1], words[2], words[3]};
    *reinterpret_cast<uint4 *>(to) = chunk;
}

template <int OUTER, int INNER, int THREADS, bool VECTOR>
LT_DEVICE void load_tile(bf16 *tile, matmul_source source, int outer, int inner)
{
    const int chunks = INNER / CHUNK;
    LT_UNROLL
    for (int i = 0; i < (OUTER * chunks + THREADS - 1) / THREADS; i++) {
        int index = i * THREADS + threadIdx.x;
        if (OUTER * chunks % THREADS != 0 && index >= OUTER * chunks) break;
        int row = index / chunks, chunk = index % chunks;
        int left = source.inner_count - (inner + chunk * CHUNK);
        int valid = outer + row < source.outer_count ? max(0, min(CHUNK, left)) : 0;
        const bf16 *from = source.data;
        if (valid > 0) from += (outer + row) * source.stride + inner + chunk * CHUNK;
        bf16 *to = tile + chunk_offset<INNER>(row, chunk);
        if (VECTOR)
            copy_async_16(to, from, valid * (int)sizeof(bf16));
        else
            copy_elements(to, from, valid);
    }
}

/* Fragments of 16 rows (of a) or 16 columns (of b) by 16 of k, at (place, k) of a tile. Which 8 x 8
 * matrix goes into which register: see ptx.cuh. K_INNER: k runs along the tile's rows; otherwise
 * they are transposed on the way. */
template <int INNER, bool K_INNER>
LT_DEVICE void load_a(uint32_t r[4], const bf16 *tile, int m, int k)
{
    int lane = threadIdx.x % WARP, in_matrix = lane % 8;
    int m_high = lane / 8 % 2, k_high = lane / 16;
    if (K_INNER)
        load_matrix_x4(r,
                       tile + chunk_offset<INNER>(m + 8 * m_high + in_matrix, k / CHUNK + k_high));
    else
        load_matrix_x4_transposed(
            r, tile + chunk_offset<INNER>(k + 8 * k_high + in_matrix, m / CHUNK + m_high));
}

/* r[0], r[1] for columns n .. n + 7; r[2], r[3] for the next 8. */
template <int INNER, bool K_INNER>
LT_DEVICE void load_b(uint32_t r[4], const bf16 *tile, int n, int k)
{
    int lane = threadIdx.x % WARP, in_matrix = lane % 8;
    int k_high = lane / 8 % 2, n_high = lane / 16;
    if (K_INNER)
        load_matrix_x4(r,
                       tile + chunk_offset<INNER>(n + 8 * n_high + in_matrix, k / CHUNK + k_high));
    else
        load_matrix_x4_transposed(
            r, tile + chunk_offset<INNER>(k + 8 * k_high + in_matrix, n / CHUNK + n_high));
}

#endif
