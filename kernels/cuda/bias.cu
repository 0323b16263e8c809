/* bias_backward, and the column sums it shares with others (columns.cuh). */
#include "base/checked.h"
#include "kernels/cuda/columns.cuh"

/* --- First step: partial sums ------------------------------------------------------------------
 */

/* A block of 8 warps takes 32 N columns, lane by lane N neighbours, of `rows_per_part` rows, warp
 * by warp every eighth. */
enum { SUM_WARPS = 8, SUM_THREADS = SUM_WARPS * WARP };

struct column_sums {
    row_view dy, z;
    const float *mean, *rstd;
    float *products, *sums; /* [parts, columns]; NULL: not asked for */
    int64_t rows, rows_per_part, columns;
};

/* to[column ...] = the warps' `sum` in order. `shared`: [SUM_WARPS][32 N]. */
template <int N>
LT_DEVICE void store_partial(float *to, int64_t columns, const float (&sum)[N], float *shared)
{
    int width = WARP * N, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    __syncthreads();
    LT_UNROLL
    for (int i = 0; i < N; i++)
        shared[warp * width + i * WARP + lane] = sum[i];
    __syncthreads();
    for (int c = threadIdx.x; c < width; c += SUM_THREADS) {
        int64_t column = (int64_t)blockIdx.x * width + c;
        float total = 0;
        for (int w = 0; w < SUM_WARPS; w++)
            total += shared[w * width + c % N * WARP + c / N];
        if (column < columns) to[blockIdx.y * columns + column] = total;
    }
}

template <typename T, int N> static __global__ void column_sums_kernel(column_sums p)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t column = ((int64_t)blockIdx.x * WARP + lane) * N;
    int64_t start = blockIdx.y * p.rows_per_part, end = start + p.rows_per_part;
    float products[N] = {}, sums[N] = {}, dy[N], z[N];
    if (end > p.rows) end = p.rows;
    for (int64_t row = start + warp; row < end && column < p.columns; row += SUM_WARPS) {
        load(row_of<T>(p.dy, row) + column, dy);
        LT_UNROLL
        for (int i = 0; i < N; i++)
            sums[i] += dy[i];
        if (!p.products) continue;
        float mean = p.mean ? p.mean[row] : 0, rstd = p.rstd ? p.rstd[row] : 1;
        load(row_of<T>(p.z, row) + column, z);
        LT_UNROLL
        for (int i = 0; i < N; i++)
            products[i] += dy[i] * ((z[i] - mean) * rstd);
    }
    if (p.products) store_partial(p.products, p.columns, products, shared_memory<float>());
    if (p.sums) store_partial(p.sums, p.columns, sums, shared_memory<float>());
}

/* --- Second step: their sum --------------------------------------------------------------------
 */

/* A block takes 32 columns, warp by warp every eighth part. */
template <typename G>
static __global__ void partial_sums_kernel(int64_t columns, int64_t parts, const float *partial,
                                           const float *divisor, G *gradient)
{
    float *shared = shared_memory<float>(); /* [SUM_WARPS][32] */
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t column = (int64_t)blockIdx.x * WARP + lane;
    float sum = 0;
    if (column < columns)
        for (int64_t part = warp; part < parts; part += SUM_WARPS)
            sum += partial[part * columns + column];
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (warp != 0 || column >= columns) return;
    for (int w = 1; w < SUM_WARPS; w++)
        sum += shared[w * WARP + lane];
    if (divisor && divisor[column] == 0) return;
    if (divisor) sum /= divisor[column];
    store(&gradient[column], to_float(gradient[column]) + sum);
}

lt_status add_partial_sums(const lt_backend *backend, const char *operation,
                           const lt_tensor *gradient, const float *partial, int64_t parts,
                           const float *divisor, lt_err *err)
{
    int64_t columns = gradient->shape[0];
    size_t shared = SUM_THREADS * sizeof(float);
    if (gradient->dtype == LT_BF16)
        return lt_launch(backend, operation, err, partial_sums_kernel<bf16>,
                         ceil_div(columns, WARP), SUM_THREADS, shared, columns, parts, partial,
                         divisor, static_cast<bf16 *>(gradient->data));
    return lt_launch(backend, operation, err, partial_sums_kernel<float>, ceil_div(columns, WARP),
                     SUM_THREADS, shared, columns, parts, partial, divisor,
                     static_cast<float *>(gradient->data));
}

/* --- Both --------------------------------------------------------------------------------------
 */

template <typename T, int N>
static lt_status launch_column_sums(const lt_backend *backend, const char *operation, column_sums p,
                                    int64_t parts, lt_err *err)
{
    dim3 grid(ceil_div(p.columns, WARP * N), (unsigned)parts);
    return lt_launch(backend, operation, err, column_sums_kernel<T, N>, grid, SUM_THREADS,
                     SUM_THREADS * N * sizeof(float), p);
}

/* Enough parts to fill the GPU, but each of at least 8 rows for every warp, and no more than
 * scratch memory holds. */
static int64_t parts_of(const lt_backend *backend, int64_t rows, int64_t columns, int width)
{
    int64_t column_blocks = ceil_div(columns, width);
    int64_t parts = lt_max_i64(1, 8 * cuda_of(backend)->multiprocessors / column_blocks);
    parts = lt_min_i64(parts, ceil_div(rows, 8 * SUM_WARPS));
    return lt_min_i64(parts, (int64_t)(LT_CUDA_SCRATCH / (2 * sizeof(float))) / columns);
}

lt_status add_column_sums(const lt_backend *backend, const char *operation,
                          const column_sums_args *a, lt_err *err)
{
    int64_t rows = lt_row_count(&a->dy), columns = lt_row_length(&a->dy);
    bool half = backend->real == LT_BF16, wide = is_wide(backend, columns, {&a->dy, &a->z});
    if (rows == 0 || columns == 0) return LT_OK;
    int64_t parts = parts_of(backend, rows, columns, WARP * (wide ? vector_of(backend->real) : 1));
    float *scratch = static_cast<float *>(cuda_of(backend)->scratch);
    const float *divisor = static_cast<const float *>(a->divisor.data);
    column_sums p = {row_view_of(&a->dy),
                     row_view_of(&a->z),
                     static_cast<const float *>(a->mean.data),
                     static_cast<const float *>(a->rstd.data),
                     a->products.data ? scratch : nullptr,
                     a->sums.data ? scratch + parts * columns : nullptr,
                     rows,
                     ceil_div(rows, parts),
                     columns};
    if (half && wide)
        LT_TRY((launch_column_sums<bf16, VECTOR<bf16>>(backend, operation, p, parts, err)));
    else if (half)
        LT_TRY((launch_column_sums<bf16, 1>(backend, operation, p, parts, err)));
    else if (wide)
        LT_TRY((launch_column_sums<float, VECTOR<float>>(backend, operation, p, parts, err)));
    else
        LT_TRY((launch_column_sums<float, 1>(backend, operation, p, parts, err)));
    if (p.products)
        LT_TRY(add_partial_sums(backend, operation, &a->products, p.products, parts, divisor, err));
    if (p.sums) LT_TRY(add_partial_sums(backend, operation, &a->sums, p.sums, parts, divisor, err));
    return LT_OK;
}

extern "C" lt_status lt_cuda_bias_backward(const lt_backend *backend,
                                           const lt_bias_backward_args *a, lt_err *err)
{
    column_sums_args sums = {};
    sums.dy = a->dy;
    sums.sums = a->dbias;
    return add_column_sums(backend, "bias_backward", &sums, err);
}
