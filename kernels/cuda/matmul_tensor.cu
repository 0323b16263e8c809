/* bf16 matrix products on tensor cores with mma.sync, for every GPU since sm_80.
 *
 * A block makes a tile of HEIGHT x WIDTH of v. k goes by in steps of 32: while the warps multiply
 * one step from shared memory, cp.async brings the next three (STAGES - 1). Each warp owns
 * WARP_HEIGHT rows and two strips of WARP_WIDTH / 2 columns, one in each half of the tile: with
 * SWIGLU these are gate and `up`, and meet in one warp.
 *
 * In the end a warp's sums go through shared memory, 16 rows at a time, so that lanes get
 * neighbouring columns and the epilogue reads and writes whole vectors. */
#include "kernels/cuda/matmul_tensor.cuh"

enum { DEPTH = 32, STAGES = 4, FRAGMENT = 16, STAGING_PAD = 8 };

/* Bytes of shared memory: the pipeline's stages; afterwards the warps' staging rows lie there. */
static constexpr int pipeline_bytes(int height, int width)
{
    return STAGES * (height + width) * DEPTH * (int)sizeof(bf16);
}

const matmul_shape matmul_tensor_shapes[MATMUL_TENSOR_SHAPES] = {
    {128, 256, DEPTH, 900, pipeline_bytes(128, 256)},
    {128, 128, DEPTH, 820, pipeline_bytes(128, 128)},
    {64, 64, DEPTH, 500, pipeline_bytes(64, 64)},
};

/* What a block works on; the numbers that its types are made of. */
template <int HEIGHT_, int WIDTH_, int WARP_HEIGHT_, int WARP_WIDTH_, lt_matmul_layout LAYOUT,
          bool VECTOR_>
struct tensor_tile {
    static const int HEIGHT = HEIGHT_, WIDTH = WIDTH_, HALF = WIDTH_ / 2;
    static const int WARP_HEIGHT = WARP_HEIGHT_, WARP_WIDTH = WARP_WIDTH_, STRIP = WARP_WIDTH_ / 2;
    static const int WARPS_DOWN = HEIGHT / WARP_HEIGHT, WARPS_ACROSS = WIDTH / WARP_WIDTH;
    static const int THREADS = WARPS_DOWN * WARPS_ACROSS * WARP;
    static const int BLOCKS_PER_SM = WIDTH == 256 ? 1 : WIDTH == 128 ? 2 : 4;
    static const int ROWS = WARP_HEIGHT / FRAGMENT, COLUMNS = WARP_WIDTH / 8; /* fragments of c */
    static const bool A_K_INNER = LAYOUT != LT_MATMUL_TN, B_K_INNER = LAYOUT == LT_MATMUL_NT;
    static const bool VECTOR = VECTOR_;
    /* rows and columns of a's tile and of each half of b's, as stored */
    static const int A_OUTER = A_K_INNER ? HEIGHT : DEPTH, A_INNER = A_K_INNER ? DEPTH : HEIGHT;
    static const int B_OUTER = B_K_INNER ? HALF : DEPTH, B_INNER = B_K_INNER ? DEPTH : HALF;
    static const int A_SIZE = HEIGHT * DEPTH, B_SIZE = HALF * DEPTH;
    static const int STAGE = A_SIZE + 2 * B_SIZE;
};

/* Starts the copies of step `step` into `stage`. */
template <typename TILE>
LT_DEVICE void load_stage(bf16 *stage, const matmul_product &p, const matmul_tile &tile, int step)
{
    int first_steps = matmul_first_steps<DEPTH>(p);
    bool extra = step >= first_steps;
    matmul_pair pair = matmul_pair_of(p, extra);
    int k = (extra ? step - first_steps : step) * DEPTH;
    matmul_source a = {static_cast<const bf16 *>(pair.a), pair.a_stride,
                       TILE::A_K_INNER ? p.rows : pair.k, TILE::A_K_INNER ? pair.k : p.rows};
    matmul_source b = {static_cast<const bf16 *>(pair.b), pair.b_stride,
                       TILE::B_K_INNER ? p.columns : pair.k, TILE::B_K_INNER ? pair.k : p.columns};
    load_tile<TILE::A_OUTER, TILE::A_INNER, TILE::THREADS, TILE::VECTOR>(
        stage, a, TILE::A_K_INNER ? tile.row : k, TILE::A_K_INNER ? k : tile.row);
    LT_UNROLL
    for (int half = 0; half < 2; half++)
        load_tile<TILE::B_OUTER, TILE::B_INNER, TILE::THREADS, TILE::VECTOR>(
            stage + TILE::A_SIZE + half * TILE::B_SIZE, b, TILE::B_K_INNER ? tile.column[half] : k,
            TILE::B_K_INNER ? k : tile.column[half]);
}

/* sums += the warp's part of one step. Column fragments go strip by strip, in pairs. */
template <typename TILE>
LT_DEVICE void multiply_stage(float sums[TILE::ROWS][TILE::COLUMNS][4], const bf16 *stage,
                              int warp_row, int warp_column)
{
    const int pairs_per_strip = TILE::STRIP / FRAGMENT;
    LT_UNROLL
    for (int k = 0; k < DEPTH; k += FRAGMENT) {
        uint32_t a[TILE::ROWS][4], b[TILE::COLUMNS / 2][4];
        LT_UNROLL
        for (int i = 0; i < TILE::ROWS; i++)
            load_a<TILE::A_INNER, TILE::A_K_INNER>(a[i], stage, warp_row + i * FRAGMENT, k);
        LT_UNROLL
        for (int j = 0; j < TILE::COLUMNS / 2; j++) {
            const bf16 *half = stage + TILE::A_SIZE + j / pairs_per_strip * TILE::B_SIZE;
            load_b<TILE::B_INNER, TILE::B_K_INNER>(b[j], half,
                                                   warp_column + j % pairs_per_strip * FRAGMENT, k);
        }
        LT_UNROLL
        for (int i = 0; i < TILE::ROWS; i++) {
            LT_UNROLL
            for (int j = 0; j < TILE::COLUMNS; j++)
                mma_bf16(sums[i][j], a[i], b[j / 2] + j % 2 * 2);
        }
    }
}

/* Fragment row `chosen` of the sums, [16][WARP_WIDTH] in the order of the columns' fragments. The
 * loop is over constants, so that the sums stay in registers. */
template <typename TILE>
LT_DEVICE void stage_rows(float *staging, const float sums[TILE::ROWS][TILE::COLUMNS][4],
                          int chosen)
{
    const int stride = TILE::WARP_WIDTH + STAGING_PAD;
    int lane = threadIdx.x % WARP, row = lane / 4, column = lane % 4 * 2;
    LT_UNROLL
    for (int i = 0; i < TILE::ROWS; i++) {
        if (i != chosen) continue;
        LT_UNROLL
        for (int j = 0; j < TILE::COLUMNS; j++) {
            float2 low = {sums[i][j][0], sums[i][j][1]}, high = {sums[i][j][2], sums[i][j][3]};
            float *to = staging + row * stride + j * 8 + column;
            *reinterpret_cast<float2 *>(to) = low;
            *reinterpret_cast<float2 *>(to + 8 * stride) = high;
        }
    }
}

/* The epilogue of 16 staged rows; `column`: of the warp's strips in v. */
template <typename TILE>
LT_DEVICE void finish_rows(const float *staging, const matmul_product &p,
                           const matmul_epilogue<bf16> &e, int split, int row, const int column[2])
{
    const int stride = TILE::WARP_WIDTH + STAGING_PAD, quads = TILE::STRIP / 4;
    int lane = threadIdx.x % WARP;
    float v[4], up[4];
    if (p.swiglu) {
        LT_NO_UNROLL
        for (int i = lane; i < FRAGMENT * quads; i += WARP) {
            const float *from = staging + i / quads * stride + i % quads * 4;
            load_4(v, from);
            load_4(up, from + TILE::STRIP);
            matmul_finish_swiglu<4>(e, row + i / quads, column[0] + i % quads * 4, v, up);
        }
        return;
    }
    LT_NO_UNROLL
    for (int i = lane; i < FRAGMENT * 2 * quads; i += WARP) {
        int r = i / (2 * quads), q = i % (2 * quads);
        load_4(v, staging + r * stride + q * 4);
        matmul_finish<4>(e, split, row + r, (q < quads ? column[0] : column[1]) + q % quads * 4, v);
    }
}

/* Grid: tiles x splits. */
template <typename TILE>
__global__ void __launch_bounds__(TILE::THREADS, TILE::BLOCKS_PER_SM)
    matmul_tensor_kernel(matmul_product p, matmul_epilogue<bf16> e)
{
    bf16 *shared = shared_memory<bf16>();
    int warp = threadIdx.x / WARP, split = blockIdx.y;
    int warp_row = warp % TILE::WARPS_DOWN * TILE::WARP_HEIGHT;
    int warp_column = warp / TILE::WARPS_DOWN * TILE::STRIP; /* in each half of the tile */
    matmul_tile tile = matmul_tile_of(p, blockIdx.x, TILE::HEIGHT, TILE::WIDTH);
    int64_t steps = matmul_steps<DEPTH>(p);
    int first = (int)(steps * split / gridDim.y), end = (int)(steps * (split + 1) / gridDim.y);
    float sums[TILE::ROWS][TILE::COLUMNS][4] = {};

    for (int step = first; step < first + STAGES - 1; step++) {
        if (step < end) load_stage<TILE>(shared + (step - first) * TILE::STAGE, p, tile, step);
        copy_async_commit();
    }
    int stage = 0, free_stage = STAGES - 1;
    LT_NO_UNROLL
    for (int step = first; step < end; step++) {
        copy_async_wait<STAGES - 2>(); /* this step is there ... */
        __syncthreads();               /* ... for all, and all are done with the step before */
        if (step + STAGES - 1 < end)
            load_stage<TILE>(shared + free_stage * TILE::STAGE, p, tile, step + STAGES - 1);
        copy_async_commit();
        multiply_stage<TILE>(sums, shared + stage * TILE::STAGE, warp_row, warp_column);
        free_stage = stage;
        stage = stage + 1 < STAGES ? stage + 1 : 0;
    }
    copy_async_wait<0>();
    __syncthreads(); /* the stages are free for staging */

    float *staging = reinterpret_cast<float *>(shared);
    staging += warp * FRAGMENT * (TILE::WARP_WIDTH + STAGING_PAD);
    int column[2] = {tile.column[0] + warp_column, tile.column[1] + warp_column};
    LT_NO_UNROLL
    for (int i = 0; i < TILE::ROWS; i++) {
        stage_rows<TILE>(staging, sums, i);
        __syncwarp();
        finish_rows<TILE>(staging, p, e, split, tile.row + warp_row + i * FRAGMENT, column);
        __syncwarp();
    }
}

template <int HEIGHT, int WIDTH, int WARP_HEIGHT, int WARP_WIDTH, lt_matmul_layout LAYOUT,
          bool VECTOR>
static lt_status launch(const lt_backend *backend, int splits, const matmul_product &p,
                        const matmul_epilogue<bf16> &e, lt_err *err)
{
    typedef tensor_tile<HEIGHT, WIDTH, WARP_HEIGHT, WARP_WIDTH, LAYOUT, VECTOR> tile;
    dim3 grid((unsigned)matmul_tile_count(&p, HEIGHT, WIDTH), (unsigned)splits);
    return lt_launch(backend, "matmul", err, matmul_tensor_kernel<tile>, grid, dim3(tile::THREADS),
                     (size_t)pipeline_bytes(HEIGHT, WIDTH), p, e);
}

template <lt_matmul_layout LAYOUT>
static lt_status launch_shape(const lt_backend *backend, int shape, int splits,
                              const matmul_product &p, const matmul_epilogue<bf16> &e, lt_err *err)
{
    if (!p.vector) return launch<64, 64, 32, 32, LAYOUT, false>(backend, splits, p, e, err);
    if (shape == 0) return launch<128, 256, 64, 64, LAYOUT, true>(backend, splits, p, e, err);
    if (shape == 1) return launch<128, 128, 64, 32, LAYOUT, true>(backend, splits, p, e, err);
    return launch<64, 64, 32, 32, LAYOUT, true>(backend, splits, p, e, err);
}

lt_status matmul_tensor(const lt_backend *backend, lt_matmul_layout layout, int shape, int splits,
                        matmul_product p, matmul_epilogue<bf16> e, lt_err *err)
{
    switch (layout) {
    case LT_MATMUL_NT:
        return launch_shape<LT_MATMUL_NT>(backend, shape, splits, p, e, err);
    case LT_MATMUL_NN:
        return launch_shape<LT_MATMUL_NN>(backend, shape, splits, p, e, err);
    case LT_MATMUL_TN:
        break;
    }
    return launch_shape<LT_MATMUL_TN>(backend, shape, splits, p, e, err);
}
