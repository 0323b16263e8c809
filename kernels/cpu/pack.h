/* Packing: operands of a product are copied into panels, so that the inner loop reads memory in
 * order. A panel of `width` lines (rows of a, columns of b) and depth `depth` is [depth][width]. */
#ifndef LT_KERNELS_PACK_H
#define LT_KERNELS_PACK_H

#include "kernels/cpu/vec.h"

/* A matrix of lines that run along the depth of the product: element p of line i is
 * data[i * line + p * depth]; one of the strides is 1. f32, or bf16, which packing widens. */
typedef struct operand {
    const void *data;
    int64_t line, depth;
    bool bf16;
} operand;

/* LANES lines at most, from element `at` on: blocks of LANES x LANES are turned in registers. Whole
 * vectors are stored, so that lines from `count` on become 0 up to `width`, and what spills past
 * `width` is overwritten by the next row: dst needs room for LANES floats after its end. */
INLINE void pack_turned(float *dst, int64_t width, const operand *x, int64_t at, int64_t count,
                        int64_t depth)
{
    for (int64_t p = 0; p < depth; p += LANES) {
        vec block[LANES];
        int64_t left = depth - p;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i >= count)
                block[i] = vec_zero();
            else if (left >= LANES)
                block[i] = vec_load_weight(x->data, x->bf16, at + i * x->line + p, LANES);
            else
                block[i] = vec_load_weight(x->data, x->bf16, at + i * x->line + p, left);
        }
        vec_transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (i < left) vec_store(dst + (p + i) * width, block[i]);
    }
}

/* Lines [first, first + count) and depth [p0, p0 + depth) to a panel of width <= LANES or 2 LANES;
 * lines past `count` are 0. dst needs room for LANES floats after its end. */
INLINE void pack_panel(float *dst, int64_t width, const operand *x, int64_t first, int64_t count,
                       int64_t p0, int64_t depth)
{
    int64_t at = first * x->line + p0 * x->depth;
    if (x->depth == 1 && x->line != 1) {
        if (width > LANES) { /* then it is 2 LANES, and nothing spills */
            for (int64_t half = 0; half < 2; half++) {
                int64_t lines = count - half * LANES;
                pack_turned(dst + half * LANES, width, x, at + half * LANES * x->line,
                            lines < LANES ? lines : LANES, depth);
            }
        } else {
            pack_turned(dst, width, x, at, count, depth);
        }
        return;
    }
    bool whole = count >= width && width % LANES == 0;
    for (int64_t p = 0; p < depth; p++, at += x->depth)
        for (int64_t i = 0; i < width; i += LANES)
            vec_store(dst + p * width + i,
                      vec_load_weight(x->data, x->bf16, at + i, whole ? LANES : count - i));
}

#endif
