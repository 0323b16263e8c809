/* Few rows of a times a large weight b[n,k]: what decoding does. The time is that of reading b, so
 * b is read once, 16 bytes or more at a time, for all rows of a.
 *
 * A block of 4 warps makes COLUMNS columns of v for all rows. Its threads take turns in chunks of 8
 * elements of k; a comes from the caches. The threads' sums are added within each warp, and the
 * warps' in order. With SWIGLU half of the columns are the gate's, the others are theirs of `up`.
 */
#include "kernels/cuda/matmul.cuh"

enum { CHUNK = 8, WARPS = 4, THREADS = WARPS * WARP };

LT_DEVICE void load_8(float v[8], const float *from)
{
    load_4(v, from);
    load_4(v + 4, from + 4);
}

LT_DEVICE void load_8(float v[8], const bf16 *from)
{
    uint4 x = *reinterpret_cast<const uint4 *>(from);
    unpack_bf16(v, x.x);
    unpack_bf16(v + 2, x.y);
    unpack_bf16(v + 4, x.z);
    unpack_bf16(v + 6, x.w);
}

/* A chunk of a row of which `left` elements exist; zeros beyond. */
template <typename T> LT_DEVICE void load_chunk(float v[CHUNK], const T *from, int left)
{
    if (left >= CHUNK)
        load_8(v, from);
    else
        load_values<CHUNK>(v, from, left, false);
}

/* Column c of the block's, in v. */
template <int COLUMNS> LT_DEVICE int column_of(const matmul_product &p, int c)
{
    if (!p.swiglu) return blockIdx.x * COLUMNS + c;
    int gate = blockIdx.x * (COLUMNS / 2) + c % (COLUMNS / 2);
    return c < COLUMNS / 2 ? gate : p.columns / 2 + gate;
}

/* sums += the thread's share of a pair. */
template <typename A, typename B, int ROWS, int COLUMNS>
LT_DEVICE void multiply(float sums[ROWS][COLUMNS], const matmul_product &p, const matmul_pair &pair)
{
    const A *a = static_cast<const A *>(pair.a);
    const B *b = static_cast<const B *>(pair.b);
    for (int k = threadIdx.x * CHUNK; k < pair.k; k += THREADS * CHUNK) {
        float x[CHUNK], w[COLUMNS][CHUNK];
        LT_UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            int column = column_of<COLUMNS>(p, c);
            load_chunk(w[c], b + column * pair.b_stride + k, column < p.columns ? pair.k - k : 0);
        }
        LT_UNROLL
        for (int r = 0; r < ROWS; r++) {
            load_chunk(x, a + r * pair.a_stride + k, r < p.rows ? pair.k - k : 0);
            LT_UNROLL
            for (int c = 0; c < COLUMNS; c++) {
                LT_UNROLL
                for (int i = 0; i < CHUNK; i++)
                    sums[r][c] += x[i] * w[c][i];
            }
        }
    }
}

template <int ROWS, int COLUMNS> LT_DEVICE float total(const float *partial, int row, int column)
{
    float sum = 0;
    LT_UNROLL
    for (int warp = 0; warp < WARPS; warp++)
        sum += partial[(warp * ROWS + row) * COLUMNS + column];
    return sum;
}

/* T is `real`, W the type of b; the second pair is of `real`. Grid: n / COLUMNS. */
template <typename T, typename W, int ROWS, int COLUMNS>
__global__ void __launch_bounds__(THREADS, 4)
    matmul_skinny_kernel(matmul_product p, matmul_epilogue<T> e)
{
    float *partial = shared_memory<float>(); /* [WARPS][ROWS][COLUMNS] */
    float sums[ROWS][COLUMNS] = {};
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    multiply<T, W, ROWS, COLUMNS>(sums, p, p.main);
    multiply<T, T, ROWS, COLUMNS>(sums, p, p.extra);
    LT_UNROLL
    for (int r = 0; r < ROWS; r++) {
        LT_UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            float sum = warp_sum(sums[r][c]);
            if (lane == 0) partial[(warp * ROWS + r) * COLUMNS + c] = sum;
        }
    }
    __syncthreads();

    int columns = p.swiglu ? COLUMNS / 2 : COLUMNS;
    if ((int)threadIdx.x >= ROWS * columns) return;
    int row = threadIdx.x / columns, c = threadIdx.x % columns;
    float v[1] = {total<ROWS, COLUMNS>(partial, row, c)};
    if (p.swiglu) {
        float up[1] = {total<ROWS, COLUMNS>(partial, row, c + columns)};
        matmul_finish_swiglu<1>(e, row, column_of<COLUMNS>(p, c), v, up);
    } else {
        matmul_finish<1>(e, 0, row, column_of<COLUMNS>(p, c), v);
    }
}

template <typename T, typename W, int ROWS, int COLUMNS>
static lt_status launch(const lt_backend *backend, const matmul_product &p,
                        const matmul_epilogue<T> &e, lt_err *err)
{
    dim3 grid(ceil_div(p.columns, COLUMNS));
    if (p.swiglu) grid = dim3(ceil_div(p.columns / 2, COLUMNS / 2));
    return lt_launch(backend, "matmul", err, matmul_skinny_kernel<T, W, ROWS, COLUMNS>, grid,
                     dim3(THREADS), WARPS * ROWS * COLUMNS * sizeof(float), p, e);
}

/* Fewer columns in a block where there would be too few blocks to keep the memory busy. */
template <typename T, typename W, int ROWS>
static lt_status launch_rows(const lt_backend *backend, const matmul_product &p,
                             const matmul_epilogue<T> &e, lt_err *err)
{
    if (p.columns >= 4 * 8 * cuda_of(backend)->multiprocessors)
        return launch<T, W, ROWS, 4>(backend, p, e, err);
    return launch<T, W, ROWS, 2>(backend, p, e, err);
}

template <typename T, typename W>
static lt_status launch_type(const lt_backend *backend, const matmul_product &p,
                             const matmul_epilogue<T> &e, lt_err *err)
{
    if (p.rows == 1) return launch_rows<T, W, 1>(backend, p, e, err);
    if (p.rows == 2) return launch_rows<T, W, 2>(backend, p, e, err);
    if (p.rows <= 4) return launch_rows<T, W, 4>(backend, p, e, err);
    return launch_rows<T, W, MATMUL_SKINNY_ROWS>(backend, p, e, err);
}

lt_status matmul_skinny_bf16(const lt_backend *backend, matmul_product p, matmul_epilogue<bf16> e,
                             lt_err *err)
{
    return launch_type<bf16, bf16>(backend, p, e, err);
}

lt_status matmul_skinny_f32(const lt_backend *backend, bool b_is_bf16, matmul_product p,
                            matmul_epilogue<float> e, lt_err *err)
{
    if (b_is_bf16) return launch_type<float, bf16>(backend, p, e, err);
    return launch_type<float, float>(backend, p, e, err);
}
