/* The product of a few rows and a few columns, held in registers: what matmul and attention are
 * made of. The accumulators, two vectors of b and one broadcast of a fill the register file: 14 x
 * 32 with the 32 registers of AVX-512, 6 x 16 with the 16 of AVX2. */
#ifndef LT_KERNELS_TILE_H
#define LT_KERNELS_TILE_H

#include "kernels/cpu/vec.h"

#if LANES == 16
#define TILE_ROWS 14
#else
#define TILE_ROWS 6
#endif
#define TILE_COLUMNS (2 * LANES)

/* tile[i][j] = sum over p of a[i * a_i + p * a_p] b[p * b_p + j], i < rows, j < vectors * LANES, p
 * ascending; or += with `add`. Calls with constant rows, vectors and strides become straight code.
 * The sum of one element does not depend on how many rows there are beside it. */
INLINE void tile_product(int rows, int vectors, int64_t depth, const float *a, int64_t a_i,
                         int64_t a_p, const float *b, int64_t b_p, float *tile, int64_t tile_i,
                         bool add)
{
    vec sum[TILE_ROWS][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[i][v] = add ? vec_load(tile + i * tile_i + v * LANES) : vec_zero();
    for (int64_t p = 0; p < depth; p++) {
        vec right[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            right[v] = vec_load(b + p * b_p + v * LANES);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            vec left = vec_set(a[i * a_i + p * a_p]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                sum[i][v] = vec_fma(left, right[v], sum[i][v]);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            vec_store(tile + i * tile_i + v * LANES, sum[i][v]);
}

#endif
