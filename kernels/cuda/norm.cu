/* Layer norm and RMS norm. A row is worked on by one warp up to 1024 columns, by a block of 8 warps
 * beyond: a thread of WIDTH takes chunk after chunk of N columns, WIDTH N columns apart.
 *
 * With n = (z - mean) rstd and g = dy weight:
 *   y = n weight + bias
 *   dz = rstd (g - mean(g) - n mean(g n)), without mean(g) for RMS norm
 *   dweight += dy n,  dbias += dy */
#include "base/checked.h"
#include "kernels/cuda/columns.cuh"

enum {
    THREADS = 256,
    HELD = 32, /* columns that a thread keeps in registers */
    WARP_COLUMNS = WARP * HELD,
    BLOCK_COLUMNS = THREADS * HELD,
};

/* The sum over the threads of a row. */
template <int WIDTH> LT_DEVICE float row_sum(float x)
{
    if constexpr (WIDTH == WARP)
        return warp_sum(x);
    else
        return block_sum(x, shared_memory<float>());
}

/* Grid and shared memory: a block has THREADS / WIDTH rows; block_sum takes 32 floats. */
template <int WIDTH> constexpr int ROWS = THREADS / WIDTH;
template <int WIDTH> constexpr size_t SUM_BYTES = WIDTH == WARP ? 0 : WARP * sizeof(float);

/* --- Forward -----------------------------------------------------------------------------------
 */

struct norm_forward {
    row_view x, y, residual, sum; /* residual.data NULL: none */
    const void *weight, *bias;    /* bias NULL: none */
    float *mean, *rstd;           /* or NULL */
    int64_t rows;
    int columns;
    float inverse; /* 1 / columns */
    float eps;
    bool layer;
};

/* One row of each tensor. */
template <typename T> struct forward_row {
    const T *x, *residual; /* residual NULL: none */
    T *sum, *y;
};

template <typename T> LT_DEVICE forward_row<T> forward_row_of(const norm_forward &p, int64_t row)
{
    forward_row<T> r = {row_of<T>(p.x, row), nullptr, nullptr, row_of<T>(p.y, row)};
    if (p.residual.data) {
        r.residual = row_of<T>(p.residual, row);
        r.sum = row_of<T>(p.sum, row);
    }
    return r;
}

/* z = x + residual as it is rounded to `sum`, so that backward sees the same; or x. */
template <typename T, int N>
LT_DEVICE void load_input(const forward_row<T> &r, int column, float (&z)[N])
{
    float residual[N];
    load(r.x + column, z);
    if (!r.residual) return;
    load(r.residual + column, residual);
    LT_UNROLL
    for (int i = 0; i < N; i++)
        z[i] = rounded(r.sum, z[i] + residual[i]);
    store(r.sum + column, z);
}

template <typename T, int N>
LT_DEVICE void store_output(const norm_forward &p, T *y, int column, float (&z)[N], float mean,
                            float rstd)
{
    float weight[N], bias[N] = {};
    load(static_cast<const T *>(p.weight) + column, weight);
    if (p.bias) load(static_cast<const T *>(p.bias) + column, bias);
    LT_UNROLL
    for (int i = 0; i < N; i++)
        z[i] = (z[i] - mean) * rstd * weight[i] + bias[i];
    store(y + column, z);
}

template <int N> LT_DEVICE float sum_of(const float (&z)[N])
{
    float sum = 0;
    LT_UNROLL
    for (int i = 0; i < N; i++)
        sum += z[i];
    return sum;
}

template <int N> LT_DEVICE float squares_of(const float (&z)[N], float mean)
{
    float sum = 0;
    LT_UNROLL
    for (int i = 0; i < N; i++)
        sum += (z[i] - mean) * (z[i] - mean);
    return sum;
}

LT_DEVICE void store_statistics(const norm_forward &p, int64_t row, float mean, float rstd)
{
    if (p.mean) p.mean[row] = mean;
    if (p.rstd) p.rstd[row] = rstd;
}

/* The row stays in registers between the statistics and the output. */
template <typename T, int N, int WIDTH>
static __global__ void __launch_bounds__(THREADS) norm_forward_kernel(norm_forward p)
{
    int thread = threadIdx.x % WIDTH;
    int64_t row = (int64_t)blockIdx.x * ROWS<WIDTH> + threadIdx.x / WIDTH;
    float z[HELD / N][N], mean = 0, squares = 0;
    if (row >= p.rows) return;
    const forward_row<T> r = forward_row_of<T>(p, row);
    LT_UNROLL
    for (int s = 0; s < HELD / N; s++) {
        int column = (s * WIDTH + thread) * N;
        if (column >= p.columns) break;
        load_input(r, column, z[s]);
        mean += sum_of(z[s]);
    }
    mean = p.layer ? row_sum<WIDTH>(mean) * p.inverse : 0;
    LT_UNROLL
    for (int s = 0; s < HELD / N; s++) {
        if ((s * WIDTH + thread) * N >= p.columns) break;
        squares += squares_of(z[s], mean);
    }
    float rstd = rsqrtf(row_sum<WIDTH>(squares) * p.inverse + p.eps);
    LT_UNROLL
    for (int s = 0; s < HELD / N; s++) {
        int column = (s * WIDTH + thread) * N;
        if (column >= p.columns) break;
        store_output(p, r.y, column, z[s], mean, rstd);
    }
    if (thread == 0) store_statistics(p, row, mean, rstd);
}

/* Longer rows: a block reads its row three times. */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS) norm_forward_long_kernel(norm_forward p)
{
    int64_t row = blockIdx.x;
    const forward_row<T> r = forward_row_of<T>(p, row);
    const T *input = r.residual ? r.sum : r.x;
    float z[N], mean = 0, squares = 0;
    for (int column = threadIdx.x * N; column < p.columns; column += THREADS * N) {
        load_input(r, column, z);
        mean += sum_of(z);
    }
    mean = p.layer ? row_sum<THREADS>(mean) * p.inverse : 0;
    for (int column = threadIdx.x * N; column < p.columns; column += THREADS * N) {
        load(input + column, z);
        squares += squares_of(z, mean);
    }
    float rstd = rsqrtf(row_sum<THREADS>(squares) * p.inverse + p.eps);
    for (int column = threadIdx.x * N; column < p.columns; column += THREADS * N) {
        load(input + column, z);
        store_output(p, r.y, column, z, mean, rstd);
    }
    if (threadIdx.x == 0) store_statistics(p, row, mean, rstd);
}

template <typename T, int N>
static lt_status launch_forward(const lt_backend *backend, const char *operation,
                                const norm_forward &p, lt_err *err)
{
    if (p.columns <= WARP_COLUMNS)
        return lt_launch(backend, operation, err, norm_forward_kernel<T, N, WARP>,
                         ceil_div(p.rows, ROWS<WARP>), THREADS, SUM_BYTES<WARP>, p);
    if (p.columns <= BLOCK_COLUMNS)
        return lt_launch(backend, operation, err, norm_forward_kernel<T, N, THREADS>,
                         (unsigned)p.rows, THREADS, SUM_BYTES<THREADS>, p);
    return lt_launch(backend, operation, err, norm_forward_long_kernel<T, N>, (unsigned)p.rows,
                     THREADS, SUM_BYTES<THREADS>, p);
}

static lt_status forward(const lt_backend *backend, const char *operation, const lt_norm_args *a,
                         bool layer, lt_err *err)
{
    int64_t rows = lt_row_count(&a->x), columns = lt_row_length(&a->x);
    bool wide =
        is_wide(backend, columns, {&a->x, &a->y, &a->residual, &a->sum, &a->weight, &a->bias});
    if (columns == 0) return LT_OK;
    norm_forward p = {row_view_of(&a->x),
                      row_view_of(&a->y),
                      row_view_of(&a->residual),
                      row_view_of(&a->sum),
                      a->weight.data,
                      a->bias.data,
                      static_cast<float *>(a->mean.data),
                      static_cast<float *>(a->rstd.data),
                      rows,
                      (int)columns,
                      (float)(1 / (double)columns),
                      (float)a->eps,
                      layer};
    if (backend->real == LT_BF16)
        return wide ? launch_forward<bf16, VECTOR<bf16>>(backend, operation, p, err)
                    : launch_forward<bf16, 1>(backend, operation, p, err);
    return wide ? launch_forward<float, VECTOR<float>>(backend, operation, p, err)
                : launch_forward<float, 1>(backend, operation, p, err);
}

extern "C" lt_status lt_cuda_layer_norm_forward(const lt_backend *backend, const lt_norm_args *a,
                                                lt_err *err)
{
    return forward(backend, "layer_norm_forward", a, true, err);
}

extern "C" lt_status lt_cuda_rms_norm_forward(const lt_backend *backend, const lt_norm_args *a,
                                              lt_err *err)
{
    return forward(backend, "rms_norm_forward", a, false, err);
}

/* --- Backward ----------------------------------------------------------------------------------
 */

struct norm_backward {
    row_view x, dy, dx;
    const void *weight;
    const float *mean, *rstd;      /* mean NULL: RMS norm */
    float *partial, *partial_bias; /* [blocks, columns]; NULL: frozen, or summed elsewhere */
    int64_t rows;
    int columns;
    float inverse; /* 1 / columns */
    bool accumulate;
};

/* One row of each tensor, and its statistics. */
template <typename T> struct backward_row {
    const T *x, *dy, *weight;
    float mean, rstd;
};

/* n and g of a chunk, and dy. */
template <typename T, int N>
LT_DEVICE void load_gradient(const backward_row<T> &r, int column, float (&n)[N], float (&g)[N],
                             float (&dy)[N])
{
    float weight[N];
    load(r.x + column, n);
    load(r.dy + column, dy);
    load(r.weight + column, weight);
    LT_UNROLL
    for (int i = 0; i < N; i++) {
        n[i] = (n[i] - r.mean) * r.rstd;
        g[i] = dy[i] * weight[i];
    }
}

/* to[block, columns] = what the block's threads have summed; warps that had rows of their own are
 * added in order. `shared`: [ROWS][columns]. */
template <int N, int WIDTH>
LT_DEVICE void store_partial(float *to, int columns, const float (&sum)[HELD / N][N], float *shared)
{
    int thread = threadIdx.x % WIDTH;
    float *own =
        WIDTH == WARP ? shared + threadIdx.x / WIDTH * columns : to + (int64_t)blockIdx.x * columns;
    __syncthreads();
    LT_UNROLL
    for (int s = 0; s < HELD / N; s++) {
        int column = (s * WIDTH + thread) * N;
        if (column >= columns) break;
        LT_UNROLL
        for (int i = 0; i < N; i++)
            own[column + i] = sum[s][i];
    }
    if (WIDTH != WARP) return;
    __syncthreads();
    for (int column = threadIdx.x; column < columns; column += THREADS) {
        float total = 0;
        for (int w = 0; w < ROWS<WIDTH>; w++)
            total += shared[w * columns + column];
        to[(int64_t)blockIdx.x * columns + column] = total;
    }
}

/* Each block goes over every gridDim-th group of rows. With SUMS (at most HELD WIDTH columns) it
 * keeps the sums of its rows for dweight and dbias in registers. A row is read twice: the second
 * time it is in the cache, and the registers are free for the sums. */
template <typename T, int N, int WIDTH, bool SUMS>
static __global__ void __launch_bounds__(THREADS, SUMS ? 2 : 4)
    norm_backward_kernel(norm_backward p)
{
    constexpr int STEPS = HELD / N;
    int thread = threadIdx.x % WIDTH;
    int64_t row = (int64_t)blockIdx.x * ROWS<WIDTH> + threadIdx.x / WIDTH;
    float dweight[STEPS][N] = {}, dbias[STEPS][N] = {}, n[N], g[N], dy[N];
    for (; row < p.rows; row += (int64_t)gridDim.x * ROWS<WIDTH>) {
        const backward_row<T> r = {row_of<T>(p.x, row), row_of<T>(p.dy, row),
                                   static_cast<const T *>(p.weight), p.mean ? p.mean[row] : 0,
                                   p.rstd[row]};
        T *dx_row = row_of<T>(p.dx, row);
        float mean_g = 0, mean_gn = 0;
        for (int column = thread * N; column < p.columns; column += WIDTH * N) {
            load_gradient(r, column, n, g, dy);
            LT_UNROLL
            for (int i = 0; i < N; i++) {
                mean_g += g[i];
                mean_gn += g[i] * n[i];
            }
        }
        mean_g = p.mean ? row_sum<WIDTH>(mean_g) * p.inverse : 0;
        mean_gn = row_sum<WIDTH>(mean_gn) * p.inverse;
        for (int base = 0; base < (SUMS ? 1 : p.columns); base += STEPS * WIDTH * N) {
            LT_UNROLL
            for (int s = 0; s < STEPS; s++) {
                int column = base + (s * WIDTH + thread) * N;
                if (column >= p.columns) break;
                T *dx = dx_row + column;
                float before[N] = {};
                load_gradient(r, column, n, g, dy);
                if (p.accumulate) load(dx, before);
                LT_UNROLL
                for (int i = 0; i < N; i++) {
                    dweight[s][i] += dy[i] * n[i];
                    dbias[s][i] += dy[i];
                    g[i] = before[i] + r.rstd * (g[i] - mean_g - n[i] * mean_gn);
                }
                store(dx, g);
            }
        }
    }
    if constexpr (SUMS) {
        if (p.partial)
            store_partial<N, WIDTH>(p.partial, p.columns, dweight, shared_memory<float>());
        if (p.partial_bias)
            store_partial<N, WIDTH>(p.partial_bias, p.columns, dbias, shared_memory<float>());
    }
}

template <typename T, int N, int WIDTH>
static lt_status launch_backward(const lt_backend *backend, const char *operation,
                                 const norm_backward &p, unsigned blocks, lt_err *err)
{
    size_t warps = WIDTH == WARP ? ROWS<WIDTH> * (size_t)p.columns * sizeof(float) : 0;
    if (p.partial || p.partial_bias)
        return lt_launch(backend, operation, err, norm_backward_kernel<T, N, WIDTH, true>, blocks,
                         THREADS, warps + SUM_BYTES<WIDTH>, p);
    return lt_launch(backend, operation, err, norm_backward_kernel<T, N, WIDTH, false>, blocks,
                     THREADS, SUM_BYTES<WIDTH>, p);
}

template <typename T, int N>
static lt_status launch_backward_of(const lt_backend *backend, const char *operation,
                                    const norm_backward &p, unsigned blocks, lt_err *err)
{
    if (p.columns <= WARP_COLUMNS)
        return launch_backward<T, N, WARP>(backend, operation, p, blocks, err);
    return launch_backward<T, N, THREADS>(backend, operation, p, blocks, err);
}

/* dweight and dbias of rows too long for registers, before dx may take the place of dy. */
static lt_status sum_long_rows(const lt_backend *backend, const char *operation,
                               const lt_norm_backward_args *a, lt_err *err)
{
    column_sums_args sums = {};
    sums.dy = a->dy;
    sums.z = a->x;
    sums.mean = a->mean;
    sums.rstd = a->rstd;
    sums.products = a->dweight;
    sums.sums = a->dbias;
    return add_column_sums(backend, operation, &sums, err);
}

static lt_status backward(const lt_backend *backend, const char *operation,
                          const lt_norm_backward_args *a, bool layer, lt_err *err)
{
    int64_t rows = lt_row_count(&a->x), columns = lt_row_length(&a->x);
    int64_t blocks = ceil_div(rows, columns <= WARP_COLUMNS ? ROWS<WARP> : ROWS<THREADS>);
    bool wide = is_wide(backend, columns, {&a->x, &a->dy, &a->dx, &a->weight});
    bool sums = columns <= BLOCK_COLUMNS && (a->dweight.data || a->dbias.data);
    float *scratch = static_cast<float *>(cuda_of(backend)->scratch);
    if (rows == 0 || columns == 0) return LT_OK;
    if (columns > BLOCK_COLUMNS && (a->dweight.data || a->dbias.data))
        LT_TRY(sum_long_rows(backend, operation, a, err));
    if (sums) blocks = lt_min_i64(blocks, 2 * cuda_of(backend)->multiprocessors);
    norm_backward p = {row_view_of(&a->x),
                       row_view_of(&a->dy),
                       row_view_of(&a->dx),
                       a->weight.data,
                       layer ? static_cast<const float *>(a->mean.data) : nullptr,
                       static_cast<const float *>(a->rstd.data),
                       sums && a->dweight.data ? scratch : nullptr,
                       sums && a->dbias.data ? scratch + blocks * columns : nullptr,
                       rows,
                       (int)columns,
                       (float)(1 / (double)columns),
                       a->accumulate};
    unsigned grid = (unsigned)blocks;
    if (backend->real == LT_BF16)
        LT_TRY((wide ? launch_backward_of<bf16, VECTOR<bf16>>(backend, operation, p, grid, err)
                     : launch_backward_of<bf16, 1>(backend, operation, p, grid, err)));
    else
        LT_TRY((wide ? launch_backward_of<float, VECTOR<float>>(backend, operation, p, grid, err)
                     : launch_backward_of<float, 1>(backend, operation, p, grid, err)));
    if (p.partial)
        LT_TRY(add_partial_sums(backend, operation, &a->dweight, p.partial, blocks, nullptr, err));
    if (p.partial_bias)
        LT_TRY(
            add_partial_sums(backend, operation, &a->dbias, p.partial_bias, blocks, nullptr, err));
    return LT_OK;
}

extern "C" lt_status lt_cuda_layer_norm_backward(const lt_backend *backend,
                                                 const lt_norm_backward_args *a, lt_err *err)
{
    return backward(backend, "layer_norm_backward", a, true, err);
}

extern "C" lt_status lt_cuda_rms_norm_backward(const lt_backend *backend,
                                               const lt_norm_backward_args *a, lt_err *err)
{
    return backward(backend, "rms_norm_backward", a, false, err);
}
