/* Operations on whole rows by index: embedding, gathering, scattering, the key/value cache. Forward
 * and copies: each thread takes one chunk. Backward has to add rows with the same index in one
 * order: a stable radix sort brings them together, then one block adds up each index's rows. */
#include "base/checked.h"
#include "kernels/cuda/rows.cuh"

/* --- Embedding, forward ------------------------------------------------------------------------
 */

struct embedding {
    row_view y, tokens, positions_table; /* positions_table.data NULL: none */
    const int32_t *ids, *positions;
};

/* The token table is of type W. */
template <typename T, typename W, int N> LT_DEVICE void embed(chunk_grid grid, const embedding &p)
{
    int64_t row, column;
    float y[N], position[N];
    if (!chunk_of<N>(grid, &row, &column)) return;
    load(row_of<W>(p.tokens, p.ids[row]) + column, y);
    if (p.positions_table.data) {
        load(row_of<T>(p.positions_table, p.positions[row]) + column, position);
        LT_UNROLL
        for (int i = 0; i < N; i++)
            y[i] += position[i];
    }
    store(row_of<T>(p.y, row) + column, y);
}

template <typename T, int N>
static __global__ void embedding_forward_kernel(chunk_grid grid, embedding p)
{
    embed<T, T, N>(grid, p);
}

template <typename T, int N>
static __global__ void embedding_forward_bf16_kernel(chunk_grid grid, embedding p)
{
    embed<T, bf16, N>(grid, p);
}

extern "C" lt_status lt_cuda_embedding_forward(const lt_backend *backend,
                                               const lt_embedding_args *a, lt_err *err)
{
    chunk_grid grid = chunk_grid_of(backend, a->y.shape[0], a->y.shape[1],
                                    {&a->y, &a->token_table, &a->position_table});
    embedding p = {row_view_of(&a->y), row_view_of(&a->token_table),
                   row_view_of(&a->position_table), static_cast<const int32_t *>(a->ids.data),
                   static_cast<const int32_t *>(a->positions.data)};
    if (a->token_table.dtype == LT_BF16)
        return LAUNCH_CHUNKS(backend, "embedding_forward", err, embedding_forward_bf16_kernel, grid,
                             p);
    return LAUNCH_CHUNKS(backend, "embedding_forward", err, embedding_forward_kernel, grid, p);
}

/* --- Copies ------------------------------------------------------------------------------------
 */

template <typename T, int N>
static __global__ void gather_rows_kernel(chunk_grid grid, row_view x, row_view y,
                                          const int32_t *index)
{
    int64_t row, column;
    if (!chunk_of<N>(grid, &row, &column)) return;
    copy<N>(row_of<T>(y, row) + column, row_of<T>(x, index[row]) + column);
}

template <typename T, int N>
static __global__ void scatter_rows_kernel(chunk_grid grid, row_view x, row_view y,
                                           const int32_t *index)
{
    int64_t row, column;
    if (!chunk_of<N>(grid, &row, &column)) return;
    copy<N>(row_of<T>(y, index[row]) + column, row_of<T>(x, row) + column);
}

template <typename T, int N> static __global__ void zero_rows_kernel(chunk_grid grid, row_view y)
{
    int64_t row, column;
    const float zeros[N] = {};
    if (!chunk_of<N>(grid, &row, &column)) return;
    store(row_of<T>(y, row) + column, zeros);
}

extern "C" lt_status lt_cuda_gather_rows(const lt_backend *backend, const lt_rows_args *a,
                                         lt_err *err)
{
    chunk_grid grid = chunk_grid_of(backend, a->y.shape[0], a->y.shape[1], {&a->x, &a->y});
    return LAUNCH_CHUNKS(backend, "gather_rows", err, gather_rows_kernel, grid, row_view_of(&a->x),
                         row_view_of(&a->y), static_cast<const int32_t *>(a->index.data));
}

extern "C" lt_status lt_cuda_scatter_rows(const lt_backend *backend, const lt_rows_args *a,
                                          lt_err *err)
{
    chunk_grid all = chunk_grid_of(backend, a->y.shape[0], a->y.shape[1], {&a->y});
    chunk_grid grid = chunk_grid_of(backend, a->x.shape[0], a->x.shape[1], {&a->x, &a->y});
    LT_TRY(LAUNCH_CHUNKS(backend, "scatter_rows", err, zero_rows_kernel, all, row_view_of(&a->y)));
    return LAUNCH_CHUNKS(backend, "scatter_rows", err, scatter_rows_kernel, grid,
                         row_view_of(&a->x), row_view_of(&a->y),
                         static_cast<const int32_t *>(a->index.data));
}

struct cache_append {
    row_view k, v;
    void *k_cache, *v_cache;
    int64_t stride[3]; /* of both caches: sequence, key, head */
    int64_t length, heads;
    const int32_t *offset;
};

template <typename T, int N>
static __global__ void cache_append_kernel(chunk_grid grid, cache_append p)
{
    int64_t row, column; /* row: (sequence * length + i) * heads + head */
    if (!chunk_of<N>(grid, &row, &column)) return;
    int64_t head = row % p.heads, i = row / p.heads % p.length, sequence = row / p.heads / p.length;
    int64_t to = sequence * p.stride[0] + (p.offset[sequence] + i) * p.stride[1] +
                 head * p.stride[2] + column;
    copy<N>(static_cast<T *>(p.k_cache) + to, row_of<T>(p.k, row) + column);
    copy<N>(static_cast<T *>(p.v_cache) + to, row_of<T>(p.v, row) + column);
}

extern "C" lt_status lt_cuda_cache_append(const lt_backend *backend, const lt_cache_append_args *a,
                                          lt_err *err)
{
    const int64_t *stride = a->k_cache.stride;
    chunk_grid grid = chunk_grid_of(backend, lt_row_count(&a->k), a->k.shape[3],
                                    {&a->k, &a->v, &a->k_cache, &a->v_cache});
    cache_append p = {row_view_of(&a->k),
                      row_view_of(&a->v),
                      a->k_cache.data,
                      a->v_cache.data,
                      {stride[0], stride[1], stride[2]},
                      a->k.shape[1],
                      a->k.shape[2],
                      static_cast<const int32_t *>(a->offset.data)};
    return LAUNCH_CHUNKS(backend, "cache_append", err, cache_append_kernel, grid, p);
}

/* --- Sorting rows by index ---------------------------------------------------------------------
 */

/* Least significant digit first. A block takes a tile of TILE rows, thread by thread ITEMS that
 * follow each other. Each pass: count[digit][tile]; where each (digit, tile) starts; move. */
enum {
    DIGIT_BITS = 6,
    DIGITS = 1 << DIGIT_BITS,
    SORT_THREADS = 128,
    ITEMS = 8,
    TILE = SORT_THREADS * ITEMS,
    SCAN_THREADS = 1024,
};

struct sort_pass {
    const int32_t *ids;  /* [rows] */
    const int32_t *from; /* the order of rows before this pass; NULL: as they are */
    int32_t *to;         /* after it */
    int32_t *start;      /* [DIGITS, tiles] */
    int rows, tiles, shift;
};

LT_DEVICE int sort_row(const sort_pass &p, int at)
{
    return p.from ? p.from[at] : at;
}

LT_DEVICE int digit_of(const sort_pass &p, int row)
{
    return p.ids[row] >> p.shift & (DIGITS - 1);
}

/* The sum of x over the lanes before this one. */
LT_DEVICE int lanes_before(int x)
{
    int lane = threadIdx.x % WARP, sum = x;
    for (int offset = 1; offset < WARP; offset *= 2) {
        int other = __shfl_up_sync(FULL_MASK, sum, offset);
        if (lane >= offset) sum += other;
    }
    return sum - x;
}

/* counts[digit][thread]: how many items of earlier threads have the digit. With `totals`,
 * totals[digit * stride]: how many of the tile. */
LT_DEVICE void count_digits(const sort_pass &p, uint16_t *counts, int32_t *totals, int stride)
{
    constexpr int EACH = SORT_THREADS / WARP;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int first = blockIdx.x * TILE + threadIdx.x * ITEMS;
    for (int digit = 0; digit < DIGITS; digit++)
        counts[digit * SORT_THREADS + threadIdx.x] = 0;
    for (int at = first; at < first + ITEMS && at < p.rows; at++)
        counts[digit_of(p, sort_row(p, at)) * SORT_THREADS + threadIdx.x]++;
    __syncthreads();
    for (int digit = warp; digit < DIGITS; digit += SORT_THREADS / WARP) {
        uint16_t *count = &counts[digit * SORT_THREADS + lane * EACH];
        int sum = 0;
        for (int i = 0; i < EACH; i++)
            sum += count[i];
        sum = lanes_before(sum);
        for (int i = 0; i < EACH; i++) {
            int own = count[i];
            count[i] = (uint16_t)sum;
            sum += own;
        }
        if (totals && lane == WARP - 1) totals[digit * stride] = sum;
    }
    __syncthreads();
}

static __global__ void sort_count_kernel(sort_pass p)
{
    count_digits(p, shared_memory<uint16_t>(), p.start + blockIdx.x, p.tiles);
}

/* x[i] = the sum of x[0 .. i), with a single block. */
static __global__ void sort_scan_kernel(int32_t *x, int count)
{
    int *warps = shared_memory<int>(); /* [SCAN_THREADS / 32] */
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int each = (count + SCAN_THREADS - 1) / SCAN_THREADS, sum = 0;
    int first = threadIdx.x * each, end = first + each < count ? first + each : count;
    for (int i = first; i < end; i++)
        sum += x[i];
    int before = lanes_before(sum);
    if (lane == WARP - 1) warps[warp] = before + sum;
    __syncthreads();
    for (int w = 0; w < warp; w++)
        before += warps[w];
    for (int i = first; i < end; i++) {
        int own = x[i];
        x[i] = before;
        before += own;
    }
}

/* In each digit, threads in order, and each thread's items in order: the sort is stable. */
static __global__ void sort_move_kernel(sort_pass p)
{
    uint16_t *counts = shared_memory<uint16_t>();
    int first = blockIdx.x * TILE + threadIdx.x * ITEMS;
    count_digits(p, counts, nullptr, 0);
    for (int at = first; at < first + ITEMS && at < p.rows; at++) {
        int row = sort_row(p, at), digit = digit_of(p, row);
        int rank = counts[digit * SORT_THREADS + threadIdx.x]++;
        p.to[p.start[digit * p.tiles + blockIdx.x] + rank] = row;
    }
}

/* Sorts rows 0 .. rows-1 by ids[row], which are below `bound`. Scratch memory holds the order,
 * twice, and the counts. *order: NULL when they may stay as they are. */
static lt_status sort_rows(const lt_backend *backend, const int32_t *ids, int rows, int64_t bound,
                           const int32_t **order, lt_err *err)
{
    const char *operation = "embedding_backward";
    size_t shared = DIGITS * SORT_THREADS * sizeof(uint16_t);
    int32_t *memory = static_cast<int32_t *>(cuda_of(backend)->scratch);
    sort_pass p = {ids, nullptr, memory, memory + 2 * (int64_t)rows, rows, 0, 0};
    p.tiles = (int)ceil_div(rows, TILE);
    for (; (bound - 1) >> p.shift > 0; p.shift += DIGIT_BITS) {
        LT_TRY(lt_launch(backend, operation, err, sort_count_kernel, p.tiles, SORT_THREADS, shared,
                         p));
        LT_TRY(lt_launch(backend, operation, err, sort_scan_kernel, 1, SCAN_THREADS,
                         SCAN_THREADS / WARP * sizeof(int), p.start, DIGITS * p.tiles));
        LT_TRY(
            lt_launch(backend, operation, err, sort_move_kernel, p.tiles, SORT_THREADS, shared, p));
        p.from = p.to;
        p.to = p.to == memory ? memory + rows : memory;
    }
    *order = p.from;
    return LT_OK;
}

/* --- Embedding, backward -----------------------------------------------------------------------
 */

/* The order of rows, twice, and their counts fit into scratch memory. */
enum { SORTED_ROWS = 1 << 22, SUM_WARPS = 8, SUM_THREADS = SUM_WARPS * WARP, LONG_RUN = 64 };
static_assert((size_t)SORTED_ROWS * 9 <= LT_CUDA_SCRATCH, "scratch memory");

struct embedding_sum {
    row_view dy, table;
    const int32_t *ids, *order; /* order NULL: as they are */
    int rows;
    int64_t columns;
};

LT_DEVICE int sorted_row(const embedding_sum &p, int at)
{
    return p.order ? p.order[at] : at;
}

/* Behind the last of the rows, from `at` on, that have this id: in steps twice as long each time,
 * then halving. */
LT_DEVICE int end_of_run(const embedding_sum &p, int at, int32_t id)
{
    int step = 1;
    while (at + step < p.rows && p.ids[sorted_row(p, at + step)] == id) {
        at += step;
        step *= 2;
    }
    for (; step > 0; step /= 2)
        if (at + step < p.rows && p.ids[sorted_row(p, at + step)] == id) at += step;
    return at + 1;
}

/* The sum over the warps, in order, for warp 0. */
template <int N> LT_DEVICE void add_warps(float (&sum)[N], float *shared)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    LT_UNROLL
    for (int i = 0; i < N; i++)
        shared[(warp * N + i) * WARP + lane] = sum[i];
    __syncthreads();
    for (int w = 1; w < SUM_WARPS && warp == 0; w++) {
        LT_UNROLL
        for (int i = 0; i < N; i++)
            sum[i] += shared[(w * N + i) * WARP + lane];
    }
    __syncthreads();
}

/* table[id] += the sum of dy over the rows of one id: by the block where they begin. Its warps
 * share the columns, or, when the rows are many, the rows. */
template <typename T, typename G, int N>
static __global__ void embedding_sum_kernel(embedding_sum p)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, at = blockIdx.x;
    int32_t id = p.ids[sorted_row(p, at)];
    if (at > 0 && p.ids[sorted_row(p, at - 1)] == id) return;
    int length = end_of_run(p, at, id) - at, pieces = length < LONG_RUN ? 1 : SUM_WARPS;
    int piece = warp % pieces, each = (length + pieces - 1) / pieces;
    int first = at + piece * each, end = first + each < at + length ? first + each : at + length;
    for (int64_t base = warp / pieces * WARP * N; base < p.columns;
         base += SUM_WARPS / pieces * WARP * N) {
        int64_t column = base + lane * N;
        bool inside = column < p.columns;
        float sum[N] = {}, dy[N];
        for (int i = first; i < end && inside; i++) {
            load(row_of<T>(p.dy, sorted_row(p, i)) + column, dy);
            LT_UNROLL
            for (int k = 0; k < N; k++)
                sum[k] += dy[k];
        }
        if (pieces > 1) add_warps(sum, shared_memory<float>());
        if (piece > 0 || !inside) continue;
        G *to = row_of<G>(p.table, id) + column;
        load(to, dy);
        LT_UNROLL
        for (int k = 0; k < N; k++)
            dy[k] += sum[k];
        store(to, dy);
    }
}

template <typename T, typename G>
static lt_status launch_sum(const lt_backend *backend, const embedding_sum &p, bool wide,
                            lt_err *err)
{
    if (wide)
        return lt_launch(backend, "embedding_backward", err, embedding_sum_kernel<T, G, VECTOR<T>>,
                         p.rows, SUM_THREADS, SUM_THREADS * VECTOR<T> * sizeof(float), p);
    return lt_launch(backend, "embedding_backward", err, embedding_sum_kernel<T, G, 1>, p.rows,
                     SUM_THREADS, SUM_THREADS * sizeof(float), p);
}

/* table[ids[r]] += dy[r] */
static lt_status add_rows(const lt_backend *backend, const lt_tensor *dy, const lt_tensor *ids,
                          const lt_tensor *table, lt_err *err)
{
    bool wide = is_wide(backend, dy->shape[1], {dy, table});
    if (!table->data || dy->shape[1] == 0) return LT_OK;
    for (int64_t start = 0; start < dy->shape[0]; start += SORTED_ROWS) {
        int rows = (int)lt_min_i64(dy->shape[0] - start, SORTED_ROWS);
        lt_tensor part = lt_tensor_slice(*dy, 0, start, rows);
        embedding_sum p = {row_view_of(&part),
                           row_view_of(table),
                           static_cast<const int32_t *>(ids->data) + start,
                           nullptr,
                           rows,
                           dy->shape[1]};
        LT_TRY(sort_rows(backend, p.ids, rows, table->shape[0], &p.order, err));
        if (backend->real == LT_F32)
            LT_TRY((launch_sum<float, float>(backend, p, wide, err)));
        else if (table->dtype == LT_F32)
            LT_TRY((launch_sum<bf16, float>(backend, p, wide, err)));
        else
            LT_TRY((launch_sum<bf16, bf16>(backend, p, wide, err)));
    }
    return LT_OK;
}

extern "C" lt_status lt_cuda_embedding_backward(const lt_backend *backend,
                                                const lt_embedding_backward_args *a, lt_err *err)
{
    LT_TRY(add_rows(backend, &a->dy, &a->ids, &a->dtoken_table, err));
    return add_rows(backend, &a->dy, &a->positions, &a->dposition_table, err);
}
