/* Matrix products of our own: what their tiers share. Private to kernels/cuda.
 *
 *   matmul.cu         which tier, tile and number of splits; adding up splits
 *   matmul_tensor.cu  bf16 on tensor cores (mma.sync: every GPU since sm_80)
 *   matmul_f32.cu     f32 in ordinary arithmetic
 *   matmul_skinny.cu  few rows times a large weight: decoding, bound by reading the weight
 *
 * All of them hand their sums v to the epilogue below, a few neighbouring columns at a time, and it
 * does the rest of the contract (lt_matmul_args). */
#ifndef LT_CUDA_MATMUL_CUH
#define LT_CUDA_MATMUL_CUH

#include "kernels/cuda/activation.cuh"

extern "C" lt_status lt_cuda_matmul_native(const lt_backend *backend, const lt_matmul_args *a,
                                           lt_err *err);

/* --- The product ------------------------------------------------------------------------------ */

/* Two factors as they are stored, with the distance of their rows. Which of the dimensions is k,
 * the layout says. */
struct matmul_pair {
    const void *a, *b;
    int64_t a_stride, b_stride;
    int k;
};

/* v[rows, columns] = the product of `main` + that of `extra`, whose k is 0 where there is none. */
struct matmul_product {
    int rows, columns;
    matmul_pair main, extra;
    bool vector; /* 16 bytes at a time may be read from the start of any row of the factors */
    bool swiglu; /* column j of the gate (first half of v) goes with j of `up` */
};

/* By value: an index into an array of them would put that array on the stack. */
LT_DEVICE matmul_pair matmul_pair_of(const matmul_product &p, bool extra)
{
    matmul_pair pair = {extra ? p.extra.a : p.main.a, extra ? p.extra.b : p.main.b,
                        extra ? p.extra.a_stride : p.main.a_stride,
                        extra ? p.extra.b_stride : p.main.b_stride, extra ? p.extra.k : p.main.k};
    return pair;
}

/* A block takes tiles in groups of this many rows of tiles, down their columns: blocks that run at
 * the same time share what they read, and the L2 cache holds it. */
#define MATMUL_TILE_GROUP 8

struct matmul_tile {
    int row;
    int column[2]; /* where the left and the right half of the tile's columns start in v */
};

/* The two halves are neighbours, or the same columns of gate and `up`. */
LT_DEVICE matmul_tile matmul_tile_of(const matmul_product &p, int block, int height, int width)
{
    int columns = p.swiglu ? p.columns / 2 : p.columns, step = p.swiglu ? width / 2 : width;
    int tiles_down = (p.rows + height - 1) / height, tiles_across = (columns + step - 1) / step;
    int group = block / (MATMUL_TILE_GROUP * tiles_across);
    int inside = block % (MATMUL_TILE_GROUP * tiles_across);
    int first = group * MATMUL_TILE_GROUP,
        group_height = min(MATMUL_TILE_GROUP, tiles_down - first);
    matmul_tile tile;
    tile.row = (first + inside % group_height) * height;
    tile.column[0] = inside / group_height * step;
    tile.column[1] = tile.column[0] + (p.swiglu ? columns : width / 2);
    return tile;
}

static inline int64_t matmul_tile_count(const matmul_product *p, int height, int width)
{
    int columns = p->swiglu ? p->columns / 2 : p->columns, step = p->swiglu ? width / 2 : width;
    return (int64_t)ceil_div(p->rows, height) * ceil_div(columns, step);
}

/* k is walked in steps: those of the pair, then those of the extra pair. */
template <int DEPTH> LT_DEVICE int matmul_first_steps(const matmul_product &p)
{
    return (p.main.k + DEPTH - 1) / DEPTH;
}

template <int DEPTH> LT_DEVICE int matmul_steps(const matmul_product &p)
{
    return matmul_first_steps<DEPTH>(p) + (p.extra.k + DEPTH - 1) / DEPTH;
}

/* --- Several values at a time ------------------------------------------------------------------
 */

LT_DEVICE void unpack_bf16(float v[2], uint32_t packed)
{
    v[0] = float_of_bits(packed << 16);
    v[1] = float_of_bits(packed & 0xffff0000u);
}

LT_DEVICE void load_4(float v[4], const float *from)
{
    float4 x = *reinterpret_cast<const float4 *>(from);
    v[0] = x.x;
    v[1] = x.y;
    v[2] = x.z;
    v[3] = x.w;
}

LT_DEVICE void load_4(float v[4], const bf16 *from)
{
    uint2 x = *reinterpret_cast<const uint2 *>(from);
    unpack_bf16(v, x.x);
    unpack_bf16(v + 2, x.y);
}

LT_DEVICE void store_4(float *to, const float v[4])
{
    float4 x = {v[0], v[1], v[2], v[3]};
    *reinterpret_cast<float4 *>(to) = x;
}

/* To global memory. */
LT_DEVICE void write_4(float *to, const float v[4])
{
    uint4 x = {bits_of_float(v[0]), bits_of_float(v[1]), bits_of_float(v[2]), bits_of_float(v[3])};
    store_16(to, x);
}

LT_DEVICE void write_4(bf16 *to, const float v[4])
{
    uint2 x = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])};
    store_8(to, x);
}

/* The first `count` of WIDTH values, the others 0; `vector`: four at a time may be read. */
template <int WIDTH, typename T>
LT_DEVICE void load_values(float v[WIDTH], const T *from, int count, bool vector)
{
    if (WIDTH == 4 && vector && count == WIDTH) {
        load_4(v, from);
        return;
    }
    LT_UNROLL
    for (int i = 0; i < WIDTH; i++)
        v[i] = i < count ? to_float(from[i]) : 0;
}

template <int WIDTH, typename T>
LT_DEVICE void store_values(T *to, const float v[WIDTH], int count, bool vector)
{
    if (WIDTH == 4 && vector && count == WIDTH) {
        write_4(to, v);
        return;
    }
    LT_UNROLL
    for (int i = 0; i < WIDTH; i++)
        if (i < count) store(to + i, v[i]);
}

template <int WIDTH, typename T>
LT_DEVICE void add_values(float v[WIDTH], const T *from, int count, bool vector)
{
    float x[WIDTH];
    load_values<WIDTH>(x, from, count, vector);
    LT_UNROLL
    for (int i = 0; i < WIDTH; i++)
        v[i] += x[i];
}

/* --- The epilogue ------------------------------------------------------------------------------
 */

/* T is `real`. Absent tensors are NULL. */
template <typename T> struct matmul_epilogue {
    int rows, columns; /* of c */
    void *c;           /* T, or f32 */
    const T *bias, *residual;
    T *preactivation;
    int64_t c_stride, residual_stride, preactivation_stride;
    int64_t split_stride; /* from one split's c to the next's */
    lt_activation activation;
    bool accumulate, c_f32;
    bool vector; /* all of them can be read and written four at a time */
};

template <int WIDTH, typename T>
LT_DEVICE void matmul_write(const matmul_epilogue<T> &e, int split, int row, int column, int count,
                            float v[WIDTH])
{
    int64_t offset = split * e.split_stride + row * e.c_stride + column;
    if (e.residual)
        add_values<WIDTH>(v, e.residual + row * e.residual_stride + column, count, e.vector);
    if (e.c_f32) {
        float *c = static_cast<float *>(e.c) + offset;
        if (e.accumulate) add_values<WIDTH>(v, c, count, e.vector);
        store_values<WIDTH>(c, v, count, e.vector);
    } else {
        T *c = static_cast<T *>(e.c) + offset;
        if (e.accumulate) add_values<WIDTH>(v, c, count, e.vector);
        store_values<WIDTH>(c, v, count, e.vector);
    }
}

/* Bias and preactivation of WIDTH columns of v. Where an activation follows, v is rounded first
 * whether it is stored or not. */
template <int WIDTH, typename T>
LT_DEVICE void matmul_preactivate(const matmul_epilogue<T> &e, int row, int column, int count,
                                  float v[WIDTH])
{
    if (e.bias) add_values<WIDTH>(v, e.bias + column, count, e.vector);
    if (e.preactivation)
        store_values<WIDTH>(e.preactivation + row * e.preactivation_stride + column, v, count,
                            e.vector);
    if (e.activation == LT_ACTIVATION_NONE) return;
    T rounded;
    LT_UNROLL
    for (int i = 0; i < WIDTH; i++) {
        store(&rounded, v[i]);
        v[i] = to_float(rounded);
    }
}

/* The sums v of WIDTH columns of a row become c. Outside of c nothing happens. */
template <int WIDTH, typename T>
LT_DEVICE void matmul_finish(const matmul_epilogue<T> &e, int split, int row, int column,
                             float v[WIDTH])
{
    int count = min(WIDTH, e.columns - column);
    if (row >= e.rows || count <= 0) return;
    matmul_preactivate<WIDTH>(e, row, column, count, v);
    if (e.activation != LT_ACTIVATION_NONE) {
        LT_UNROLL
        for (int i = 0; i < WIDTH; i++)
            v[i] = activate(e.activation, v[i]);
    }
    matmul_write<WIDTH>(e, split, row, column, count, v);
}

/* SWIGLU: `column` of the gate and of `up` become that column of c. */
template <int WIDTH, typename T>
LT_DEVICE void matmul_finish_swiglu(const matmul_epilogue<T> &e, int row, int column,
                                    float gate[WIDTH], float up[WIDTH])
{
    int count = min(WIDTH, e.columns - column);
    if (row >= e.rows || count <= 0) return;
    matmul_preactivate<WIDTH>(e, row, column, count, gate);
    matmul_preactivate<WIDTH>(e, row, e.columns + column, count, up);
    LT_UNROLL
    for (int i = 0; i < WIDTH; i++)
        gate[i] = silu(gate[i]) * up[i];
    matmul_write<WIDTH>(e, 0, row, column, count, gate);
}

/* --- The tiers ---------------------------------------------------------------------------------
 */

/* A tile that a tier offers: v in tiles of height x width, k in steps of depth. */
struct matmul_shape {
    int height, width, depth;
    double speed;  /* multiply-adds that one SM does with it in a clock cycle, about */
    size_t shared; /* bytes of shared memory it needs */
};

enum { MATMUL_TENSOR_SHAPES = 3, MATMUL_F32_SHAPES = 2 };
extern const matmul_shape matmul_tensor_shapes[MATMUL_TENSOR_SHAPES];
extern const matmul_shape matmul_f32_shapes[MATMUL_F32_SHAPES];

/* `shape`: which of the tier's. With splits > 1, split s does its share of the steps of k and c is
 * that of split 0. */
lt_status matmul_tensor(const lt_backend *backend, lt_matmul_layout layout, int shape, int splits,
                        matmul_product p, matmul_epilogue<bf16> e, lt_err *err);
lt_status matmul_f32(const lt_backend *backend, lt_matmul_layout layout, bool b_is_bf16, int shape,
                     int splits, matmul_product p, matmul_epilogue<float> e, lt_err *err);

/* NT, with at most this many rows, a and b readable 16 bytes at a time. */
enum { MATMUL_SKINNY_ROWS = 8 };
lt_status matmul_skinny_bf16(const lt_backend *backend, matmul_product p, matmul_epilogue<bf16> e,
                             lt_err *err);
lt_status matmul_skinny_f32(const lt_backend *backend, bool b_is_bf16, matmul_product p,
                            matmul_epilogue<float> e, lt_err *err);

#endif
