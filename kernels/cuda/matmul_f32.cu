/* f32 matrix products in ordinary arithmetic; b may be bf16, its sums are f32 all the same.
 *
 * A block of 16 x 16 threads makes a square tile of v; each thread 2 strips of rows by 2 strips of
 * columns of it, one in each half of the tile (with SWIGLU the halves are gate and `up`). k goes by
 * in steps of 16, which lie in shared memory as [k][row of a or column of b]. The next step is
 * fetched into registers while this one is multiplied, and deposited in the other buffer. */
#include "kernels/cuda/matmul.cuh"

enum { DEPTH = 16, ACROSS = 16, THREADS = ACROSS * ACROSS, PAD = 4 };

/* Two buffers for each factor. */
static constexpr size_t shared_bytes(int side)
{
    return 4 * DEPTH * (side + PAD) * sizeof(float);
}

const matmul_shape matmul_f32_shapes[MATMUL_F32_SHAPES] = {
    {128, 128, DEPTH, 100, shared_bytes(128)},
    {64, 64, DEPTH, 60, shared_bytes(64)},
};

/* A factor: `count` rows of a or columns of b, by k_count of k. */
template <typename T> struct f32_factor {
    const T *data;
    int64_t stride;
    int count, k_count;
    bool vector;
};

/* The thread's share of a step, in fours along the stored rows. The halves of the tile start at
 * rows of a or columns of b first_low and first_high. */
template <int SIDE, bool K_INNER, typename T>
LT_DEVICE void fetch(float next[][4], f32_factor<T> factor, int first_low, int first_high, int k)
{
    const int fours = K_INNER ? DEPTH / 4 : SIDE / 4; /* in a row of the tile as stored */
    LT_UNROLL
    for (int i = 0; i < SIDE * DEPTH / 4 / THREADS; i++) {
        int index = i * THREADS + threadIdx.x, outer = index / fours, inner = index % fours * 4;
        int place = K_INNER ? outer : inner, at_k = k + (K_INNER ? inner : outer);
        place += place < SIDE / 2 ? first_low : first_high - SIDE / 2;
        int row = K_INNER ? place : at_k, row_count = K_INNER ? factor.count : factor.k_count;
        int column = K_INNER ? at_k : place, left = K_INNER ? factor.k_count : factor.count;
        int valid = row < row_count ? left - column : 0;
        if (valid >= 4 && factor.vector)
            load_4(next[i], factor.data + row * factor.stride + column);
        else
            load_values<4>(next[i], factor.data + row * factor.stride + column, valid, false);
    }
}

template <int SIDE, bool K_INNER> LT_DEVICE void deposit(float *tile, const float next[][4])
{
    const int fours = K_INNER ? DEPTH / 4 : SIDE / 4;
    LT_UNROLL
    for (int i = 0; i < SIDE * DEPTH / 4 / THREADS; i++) {
        int index = i * THREADS + threadIdx.x, outer = index / fours, inner = index % fours * 4;
        if (K_INNER) {
            LT_UNROLL
            for (int j = 0; j < 4; j++)
                tile[(inner + j) * (SIDE + PAD) + outer] = next[i][j];
        } else {
            store_4(tile + outer * (SIDE + PAD) + inner, next[i]);
        }
    }
}

/* Fetches step `step` of both factors. The second pair is always f32. */
template <typename B, int SIDE, lt_matmul_layout LAYOUT>
LT_DEVICE void fetch_step(float next_a[][4], float next_b[][4], const matmul_product &p,
                          const matmul_tile &tile, int step)
{
    const bool a_k_inner = LAYOUT != LT_MATMUL_TN, b_k_inner = LAYOUT == LT_MATMUL_NT;
    int first_steps = matmul_first_steps<DEPTH>(p);
    bool extra = step >= first_steps;
    matmul_pair pair = matmul_pair_of(p, extra);
    int k = (extra ? step - first_steps : step) * DEPTH;
    f32_factor<float> a = {static_cast<const float *>(pair.a), pair.a_stride, p.rows, pair.k,
                           p.vector};
    fetch<SIDE, a_k_inner>(next_a, a, tile.row, tile.row + SIDE / 2, k);
    if (extra) {
        f32_factor<float> b = {static_cast<const float *>(pair.b), pair.b_stride, p.columns, pair.k,
                               p.vector};
        fetch<SIDE, b_k_inner>(next_b, b, tile.column[0], tile.column[1], k);
    } else {
        f32_factor<B> b = {static_cast<const B *>(pair.b), pair.b_stride, p.columns, pair.k,
                           p.vector};
        fetch<SIDE, b_k_inner>(next_b, b, tile.column[0], tile.column[1], k);
    }
}

/* The strips at `place` and half a tile further. */
template <int SIDE> LT_DEVICE void load_strips(float v[SIDE / ACROSS], const float *row, int place)
{
    const int strip = SIDE / ACROSS / 2;
    LT_UNROLL
    for (int half = 0; half < 2; half++) {
        const float *from = row + half * SIDE / 2 + place;
        if (strip == 4) {
            load_4(v + half * strip, from);
        } else {
            float2 x = *reinterpret_cast<const float2 *>(from);
            v[half * strip] = x.x;
            v[half * strip + 1] = x.y;
        }
    }
}

template <int SIDE>
LT_DEVICE void multiply_step(float sums[SIDE / ACROSS][SIDE / ACROSS], const float *a,
                             const float *b)
{
    const int each = SIDE / ACROSS, strip = each / 2;
    int x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS;
    LT_UNROLL
    for (int k = 0; k < DEPTH; k++) {
        float rows[each], columns[each];
        load_strips<SIDE>(rows, a + k * (SIDE + PAD), y * strip);
        load_strips<SIDE>(columns, b + k * (SIDE + PAD), x * strip);
        LT_UNROLL
        for (int i = 0; i < each; i++) {
            LT_UNROLL
            for (int j = 0; j < each; j++)
                sums[i][j] += rows[i] * columns[j];
        }
    }
}

/* Row by row. The row is chosen in a loop over constants, so that the sums stay in registers. */
template <int SIDE>
LT_DEVICE void finish_tile(const float sums[SIDE / ACROSS][SIDE / ACROSS], const matmul_product &p,
                           const matmul_epilogue<float> &e, int split, const matmul_tile &tile)
{
    const int each = SIDE / ACROSS, strip = each / 2;
    int x = threadIdx.x % ACROSS * strip, y = threadIdx.x / ACROSS * strip;
    LT_NO_UNROLL
    for (int i = 0; i < each; i++) {
        int row = tile.row + i / strip * (SIDE / 2) + y + i % strip;
        float v[each];
        LT_UNROLL
        for (int r = 0; r < each; r++) {
            LT_UNROLL
            for (int j = 0; j < each; j++)
                if (r == 0 || r == i) v[j] = sums[r][j];
        }
        if (p.swiglu) {
            matmul_finish_swiglu<strip>(e, row, tile.column[0] + x, v, v + strip);
        } else {
            matmul_finish<strip>(e, split, row, tile.column[0] + x, v);
            matmul_finish<strip>(e, split, row, tile.column[1] + x, v + strip);
        }
    }
}

/* Grid: tiles x splits. */
template <typename B, int SIDE, lt_matmul_layout LAYOUT>
__global__ void __launch_bounds__(THREADS, 2)
    matmul_f32_kernel(matmul_product p, matmul_epilogue<float> e)
{
    const bool a_k_inner = LAYOUT != LT_MATMUL_TN, b_k_inner = LAYOUT == LT_MATMUL_NT;
    const int floats = DEPTH * (SIDE + PAD); /* of one tile */
    float *shared = shared_memory<float>();  /* a, b; a, b */
    float next_a[SIDE * DEPTH / 4 / THREADS][4], next_b[SIDE * DEPTH / 4 / THREADS][4];
    float sums[SIDE / ACROSS][SIDE / ACROSS] = {};
    matmul_tile tile = matmul_tile_of(p, blockIdx.x, SIDE, SIDE);
    int split = blockIdx.y;
    int64_t steps = matmul_steps<DEPTH>(p);
    int first = (int)(steps * split / gridDim.y), end = (int)(steps * (split + 1) / gridDim.y);

    if (first < end) {
        fetch_step<B, SIDE, LAYOUT>(next_a, next_b, p, tile, first);
        deposit<SIDE, a_k_inner>(shared, next_a);
        deposit<SIDE, b_k_inner>(shared + floats, next_b);
    }
    LT_NO_UNROLL
    for (int step = first; step < end; step++) {
        float *now = shared + (step - first) % 2 * 2 * floats;
        float *other = shared + (step - first + 1) % 2 * 2 * floats;
        __syncthreads(); /* this step is there, and nobody reads the other buffer any more */
        if (step + 1 < end) fetch_step<B, SIDE, LAYOUT>(next_a, next_b, p, tile, step + 1);
        multiply_step<SIDE>(sums, now, now + floats);
        if (step + 1 < end) {
            deposit<SIDE, a_k_inner>(other, next_a);
            deposit<SIDE, b_k_inner>(other + floats, next_b);
        }
    }
    finish_tile<SIDE>(sums, p, e, split, tile);
}

template <typename B, lt_matmul_layout LAYOUT>
static lt_status launch(const lt_backend *backend, int shape, int splits, const matmul_product &p,
                        const matmul_epilogue<float> &e, lt_err *err)
{
    int side = matmul_f32_shapes[shape].height;
    dim3 grid((unsigned)matmul_tile_count(&p, side, side), (unsigned)splits);
    if (shape == 0)
        return lt_launch(backend, "matmul", err, matmul_f32_kernel<B, 128, LAYOUT>, grid,
                         dim3(THREADS), shared_bytes(128), p, e);
    return lt_launch(backend, "matmul", err, matmul_f32_kernel<B, 64, LAYOUT>, grid, dim3(THREADS),
                     shared_bytes(64), p, e);
}

lt_status matmul_f32(const lt_backend *backend, lt_matmul_layout layout, bool b_is_bf16, int shape,
                     int splits, matmul_product p, matmul_epilogue<float> e, lt_err *err)
{
    switch (layout) {
    case LT_MATMUL_NT:
        if (b_is_bf16) return launch<bf16, LT_MATMUL_NT>(backend, shape, splits, p, e, err);
        return launch<float, LT_MATMUL_NT>(backend, shape, splits, p, e, err);
    case LT_MATMUL_NN:
        if (b_is_bf16) return launch<bf16, LT_MATMUL_NN>(backend, shape, splits, p, e, err);
        return launch<float, LT_MATMUL_NN>(backend, shape, splits, p, e, err);
    case LT_MATMUL_TN:
        break;
    }
    return launch<float, LT_MATMUL_TN>(backend, shape, splits, p, e, err);
}
