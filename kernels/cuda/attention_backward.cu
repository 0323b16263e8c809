/* Attention, backward, on tensor cores, in a fixed order and without atomics:
 *
 *   delta    delta_i = dout_i . out_i, into scratch memory
 *   dk, dv   a block has a tile of keys and walks over the queries that see one of them
 *   dq       a block has a tile of queries and walks over the keys that they see
 *
 * Both compute the probabilities again: p_ij = exp(s_ij - lse_i), f_ij the dropout factor,
 *   dp_ij = f_ij dout_i . v_j,  ds_ij = p_ij (dp_ij - delta_i)
 *   dv_j = sum_i f_ij p_ij dout_i,  dk_j = scale sum_i ds_ij q_i,  dq_i = scale sum_j ds_ij k_j
 * A warp has 16 or 32 rows of its block's tile, so the scores are in registers the left operand of
 * what follows: for dk and dv they are computed transposed, keys as rows. Tiles of the other side
 * are double-buffered. */
#include "kernels/cuda/attention.cuh"

extern "C" {
#include "base/checked.h"
}

/* Warps in rows and columns, rows of a warp / 16, rows of a streamed tile. Several columns of warps
 * (for dk and dv) compute the same scores and share the sums over head_dim. */
template <int D> struct key_tiles {
    static constexpr int WARPS = 8, SPLIT = 1, M_TILES = 1, STREAM = 32;
};
template <> struct key_tiles<256> {
    static constexpr int WARPS = 8, SPLIT = 2, M_TILES = 1, STREAM = 16;
};
template <int D> struct query_tiles {
    static constexpr int WARPS = 8, SPLIT = 1, M_TILES = 1, STREAM = 32;
};
template <> struct query_tiles<64> {
    static constexpr int WARPS = 4, SPLIT = 1, M_TILES = 2, STREAM = 32;
};
template <> struct query_tiles<256> {
    static constexpr int WARPS = 4, SPLIT = 1, M_TILES = 1, STREAM = 16;
};

/* Shared memory: two tiles of the block's own rows, two stages of two streamed tiles, the numbers
 * of the queries of two stages, room for a reduction. */
template <int D, typename TILES> struct backward_block {
    static constexpr int THREADS = TILES::WARPS * WARP;
    static constexpr int ROWS = TILES::WARPS / TILES::SPLIT * TILES::M_TILES * 16;
    static constexpr int OWN = ROWS * tile_row<D>::SIZE;
    static constexpr int STREAMED = TILES::STREAM * tile_row<D>::SIZE;
    static constexpr size_t SHARED = (2 * OWN + 4 * STREAMED) * sizeof(bf16) +
                                     2 * TILES::STREAM * sizeof(query_numbers) +
                                     sizeof(shared_ranges<TILES::WARPS>);
    static_assert(SHARED <= 99 * 1024, "what every GPU has");
    static_assert(TILES::STREAM <= WARP, "a lane for each streamed query");
};

/* --- delta -------------------------------------------------------------------------------------
 */

/* A warp for each row. */
template <typename T> __global__ void delta_kernel(const backward_call p, int64_t rows)
{
    const attention_call &c = p.forward;
    int64_t r = (int64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (r >= rows) return;
    int64_t row = p.first_pair * p.group * c.q_len + r, b = row / c.q_len / c.heads;
    int i = (int)(row % c.q_len), h = (int)(row / c.q_len % c.heads);
    const T *dout = head_of<T>(p.dout, b, h) + i * p.dout.row_stride;
    const T *out = head_of<T>(c.out, b, h) + i * c.out.row_stride;
    float sum = 0;
    for (int d = (int)threadIdx.x % WARP; d < c.head_dim; d += WARP)
        sum += to_float(dout[d]) * to_float(out[d]);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) p.delta[row] = sum;
}

/* --- dk and dv ---------------------------------------------------------------------------------
 */

/* s and dp, keys by queries, become f p and ds. `queries`: lane l has the keys that query l of the
 * tile sees; the warp's keys start at first_key. */
template <bool DROPOUT, int M_TILES, int N_TILES>
LT_DEVICE void key_gradients(float (&s)[M_TILES][N_TILES][4], float (&dp)[M_TILES][N_TILES][4],
                             const attention_call &c, const query_numbers *numbers, bool masked,
                             const key_ranges &queries, int first_key, uint64_t first_dropout)
{
    uint64_t kept = DROPOUT ? kept_scores<M_TILES, N_TILES, true>(c, first_dropout) : 0;
    float scale = c.scale * LOG2_E;
    LT_UNROLL
    for (int n = 0; n < N_TILES; n++) {
        LT_UNROLL
        for (int odd = 0; odd < 2; odd++) {
            int column = fragment_column(n, odd);
            float lse = numbers[column].lse, delta = numbers[column].delta;
            key_ranges seen = queries;
            if (masked)
                for (int part = 0; part < 2; part++) {
                    seen.first[part] = __shfl_sync(FULL_MASK, queries.first[part], column);
                    seen.last[part] = __shfl_sync(FULL_MASK, queries.last[part], column);
                }
            LT_UNROLL
            for (int m = 0; m < M_TILES; m++) {
                LT_UNROLL
                for (int e = odd; e < 4; e += 2) {
                    bool hidden = masked && !sees(seen, first_key + fragment_row(m, e));
                    float factor = DROPOUT ? dropout_of<N_TILES>(c, kept, m, n, e) : 1;
                    float probability = fast_exp2(s[m][n][e] * scale - lse);
                    float ds = probability * (factor * dp[m][n][e] - delta);
                    s[m][n][e] = hidden ? 0 : factor * probability;
                    dp[m][n][e] = hidden ? 0 : ds;
                }
            }
        }
    }
}

/* The sums times `factor`, through the rows `row` .. of a tile. */
template <int D, int M_TILES, int X_TILES>
LT_DEVICE void put_scaled(bf16 *tile, int row, int column, float (&x)[M_TILES][X_TILES][4],
                          float factor)
{
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int n = 0; n < X_TILES; n++) {
            LT_UNROLL
            for (int e = 0; e < 4; e++)
                x[m][n][e] *= factor;
        }
    }
    put_fragments<D>(tile, row, column, x);
}

template <int D, bool DROPOUT>
__global__ void __launch_bounds__(backward_block<D, key_tiles<D>>::THREADS, 1)
    attention_dkdv_kernel(const backward_call p, int tiles)
{
    typedef key_tiles<D> shape;
    typedef backward_block<D, shape> block;
    constexpr int M_TILES = shape::M_TILES, N_TILES = shape::STREAM / 8, SPLIT = shape::SPLIT;
    constexpr int QUERIES = shape::STREAM, THREADS = block::THREADS;
    const attention_call &c = p.forward;
    bf16 *k_tile = shared_memory<bf16>(), *v_tile = k_tile + block::OWN;
    bf16 *streamed = v_tile + block::OWN; /* stage 0: q, dout; stage 1: q, dout */
    query_numbers *numbers = reinterpret_cast<query_numbers *>(streamed + 4 * block::STREAMED);
    auto ranges = reinterpret_cast<shared_ranges<shape::WARPS> *>(numbers + 2 * QUERIES);

    int first = (int)(blockIdx.x % tiles) * block::ROWS;
    int64_t pair = p.first_pair + blockIdx.x / tiles, b = pair / c.kv_heads;
    int g = (int)(pair % c.kv_heads), thread = (int)threadIdx.x, lane = thread % WARP;
    int warp = thread / WARP, row = warp / SPLIT * M_TILES * 16;
    int column = warp % SPLIT * (D / SPLIT);
    const key_ranges &some = queries_of(c, b, first, min(first + block::ROWS, c.kv_len), ranges);
    int first_tile = some.last[1] > 0 ? some.first[1] / QUERIES : 0;
    int per_head = (some.last[1] + QUERIES - 1) / QUERIES - first_tile, steps = per_head * p.group;

    float dk[M_TILES][D / SPLIT / 8][4], dv[M_TILES][D / SPLIT / 8][4];
    query_numbers fetched = {0, 0, 0};
    clear_fragments(dk);
    clear_fragments(dv);
    load_tile<D, block::ROWS, THREADS>(k_tile, head_of<bf16>(c.k, b, g), c.k.row_stride, first,
                                       all_rows(c.kv_len), c);
    load_tile<D, block::ROWS, THREADS>(v_tile, head_of<bf16>(c.v, b, g), c.v.row_stride, first,
                                       all_rows(c.kv_len), c);
    /* `step` is what is loaded; what was loaded before is worked on */
    for (int step = 0; step <= steps; step++) {
        int stage = (step + 1) % 2; /* of what is worked on */
        const query_numbers *now = numbers + stage * QUERIES;
        const bf16 *q_tile = streamed + 2 * stage * block::STREAMED;
        if (step > 0) {
            if (thread < QUERIES) numbers[stage * QUERIES + thread] = fetched;
            copy_async_wait<0>();
            __syncthreads(); /* it is here, and the other stage is free */
        }
        if (step < steps) {
            int h = g * p.group + step / per_head, i = (first_tile + step % per_head) * QUERIES;
            bf16 *to = streamed + 2 * (step % 2) * block::STREAMED;
            load_tile<D, QUERIES, THREADS>(to, head_of<bf16>(c.q, b, h), c.q.row_stride, i,
                                           all_rows(c.q_len), c);
            load_tile<D, QUERIES, THREADS>(to + block::STREAMED, head_of<bf16>(p.dout, b, h),
                                           p.dout.row_stride, i, all_rows(c.q_len), c);
            if (thread < QUERIES) fetched = numbers_of(p, b, h, i + thread);
        }
        copy_async_commit();
        if (step == 0) continue;

        int h = g * p.group + (step - 1) / per_head;
        int i = (first_tile + (step - 1) % per_head) * QUERIES, mine = lane % QUERIES;
        key_ranges seen = keys_at(c, offset_of(c, b) + i + mine, now[mine].first_key);
        int key = first + row, last_key = key + 16 * M_TILES;
        if (!__any_sync(FULL_MASK, sees_any(seen, key, last_key))) continue;
        bool all = __all_sync(FULL_MASK, sees_all(seen, key, last_key));
        float s[M_TILES][N_TILES][4], dp[M_TILES][N_TILES][4];
        multiply_rows<D>(s, k_tile, row, q_tile);
        multiply_rows<D>(dp, v_tile, row, q_tile + block::STREAMED);
        key_gradients<DROPOUT>(s, dp, c, now, !all, seen, key,
                               dropout_row(c, b, h, i) + (uint64_t)key);
        multiply_add<D>(dv, s, q_tile + block::STREAMED, column);
        multiply_add<D>(dk, dp, q_tile, column);
    }

    copy_async_wait<0>();
    __syncthreads(); /* nobody reads keys and values any more */
    put_scaled<D>(k_tile, row, column, dk, c.scale);
    put_scaled<D>(v_tile, row, column, dv, 1);
    __syncthreads();
    row += warp % SPLIT * (M_TILES * 16 / SPLIT);
    store_tile_rows<D>(head_of<bf16>(p.dk, b, g), p.dk.row_stride, k_tile, row,
                       M_TILES * 16 / SPLIT, first + row, c.kv_len, c);
    store_tile_rows<D>(head_of<bf16>(p.dv, b, g), p.dv.row_stride, v_tile, row,
                       M_TILES * 16 / SPLIT, first + row, c.kv_len, c);
}

/* --- dq ----------------------------------------------------------------------------------------
 */

/* dp, queries by keys, becomes ds. `lse`, `delta`: of this thread's rows; `rows`: lane l has the
 * keys that row l of the warp sees. */
template <bool DROPOUT, int M_TILES, int N_TILES>
LT_DEVICE void query_gradients(const float (&s)[M_TILES][N_TILES][4],
                               float (&dp)[M_TILES][N_TILES][4], const attention_call &c,
                               const float (&lse)[M_TILES][2], const float (&delta)[M_TILES][2],
                               bool masked, const key_ranges &rows, int first_key,
                               uint64_t first_dropout)
{
    uint64_t kept = DROPOUT ? kept_scores<M_TILES, N_TILES, false>(c, first_dropout) : 0;
    float scale = c.scale * LOG2_E;
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int half = 0; half < 2; half++) {
            key_ranges seen = rows;
            if (masked)
                for (int part = 0; part < 2; part++) {
                    int from = fragment_row(m, 2 * half);
                    seen.first[part] = __shfl_sync(FULL_MASK, rows.first[part], from);
                    seen.last[part] = __shfl_sync(FULL_MASK, rows.last[part], from);
                }
            LT_UNROLL
            for (int n = 0; n < N_TILES; n++) {
                LT_UNROLL
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    bool hidden = masked && !sees(seen, first_key + fragment_column(n, e));
                    float factor = DROPOUT ? dropout_of<N_TILES>(c, kept, m, n, e) : 1;
                    float probability = fast_exp2(s[m][n][e] * scale - lse[m][half]);
                    float ds = probability * (factor * dp[m][n][e] - delta[m][half]);
                    dp[m][n][e] = hidden ? 0 : ds;
                }
            }
        }
    }
}

template <int D, bool DROPOUT>
__global__ void __launch_bounds__(backward_block<D, query_tiles<D>>::THREADS, 1)
    attention_dq_kernel(const backward_call p, int tiles)
{
    typedef query_tiles<D> shape;
    typedef backward_block<D, shape> block;
    constexpr int M_TILES = shape::M_TILES, KEYS = shape::STREAM, THREADS = block::THREADS;
    const attention_call &c = p.forward;
    bf16 *q_tile = shared_memory<bf16>(), *dout_tile = q_tile + block::OWN;
    bf16 *streamed = dout_tile + block::OWN; /* stage 0: k, v; stage 1: k, v */
    auto ranges = reinterpret_cast<shared_ranges<shape::WARPS> *>(streamed + 4 * block::STREAMED);

    /* the last queries have most keys: they start first */
    int first = (tiles - 1 - (int)(blockIdx.x % tiles)) * block::ROWS;
    int64_t head = p.first_pair * p.group + blockIdx.x / tiles, b = head / c.heads;
    int h = (int)(head % c.heads), g = h / p.group;
    int row = (int)threadIdx.x / WARP * M_TILES * 16;
    const bf16 *k = head_of<bf16>(c.k, b, g), *v = head_of<bf16>(c.v, b, g);
    key_ranges mine = keys_of(c, b, first + row + (int)threadIdx.x % (16 * M_TILES));
    const key_ranges &seen = united(mine, ranges);

    float dq[M_TILES][D / 8][4], lse[M_TILES][2], delta[M_TILES][2];
    clear_fragments(dq);
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int half = 0; half < 2; half++) {
            query_numbers x = numbers_of(p, b, h, first + row + fragment_row(m, 2 * half));
            lse[m][half] = x.lse;
            delta[m][half] = x.delta;
        }
    }
    load_tile<D, block::ROWS, THREADS>(q_tile, head_of<bf16>(c.q, b, h), c.q.row_stride, first,
                                       all_rows(c.q_len), c);
    load_tile<D, block::ROWS, THREADS>(dout_tile, head_of<bf16>(p.dout, b, h), p.dout.row_stride,
                                       first, all_rows(c.q_len), c);
    int tile = -1, next = next_tile(seen, 0, KEYS), stage = 1; /* next: what is loaded */
    do {
        if (tile >= 0) {
            copy_async_wait<0>();
            __syncthreads(); /* it is here, and the other stage is free */
        }
        if (next >= 0) {
            bf16 *to = streamed + 2 * (stage ^ 1) * block::STREAMED;
            load_tile<D, KEYS, THREADS>(to, k, c.k.row_stride, next * KEYS, seen, c);
            load_tile<D, KEYS, THREADS>(to + block::STREAMED, v, c.v.row_stride, next * KEYS, seen,
                                        c);
        }
        copy_async_commit();
        int key = tile * KEYS;
        if (tile >= 0 && __any_sync(FULL_MASK, sees_any(mine, key, key + KEYS))) {
            bool all = __all_sync(FULL_MASK, sees_all(mine, key, key + KEYS));
            const bf16 *k_tile = streamed + 2 * stage * block::STREAMED;
            float s[M_TILES][KEYS / 8][4], dp[M_TILES][KEYS / 8][4];
            multiply_rows<D>(s, q_tile, row, k_tile);
            multiply_rows<D>(dp, dout_tile, row, k_tile + block::STREAMED);
            query_gradients<DROPOUT>(s, dp, c, lse, delta, !all, mine, key,
                                     dropout_row(c, b, h, first + row) + (uint64_t)key);
            multiply_add<D>(dq, dp, k_tile, 0);
        }
        tile = next;
        next = tile >= 0 ? next_tile(seen, tile + 1, KEYS) : -1;
        stage ^= 1;
    } while (tile >= 0);

    copy_async_wait<0>();
    __syncthreads();
    put_scaled<D>(q_tile, row, 0, dq, c.scale); /* these rows are nobody else's */
    __syncwarp();
    store_tile_rows<D>(head_of<bf16>(p.dq, b, h), p.dq.row_stride, q_tile, row, 16 * M_TILES,
                       first + row, c.q_len, c);
}

/* --- Launching ---------------------------------------------------------------------------------
 */

static backward_call backward_call_of(const lt_attention_backward_args *a)
{
    backward_call p = {};
    p.forward = attention_call_of(&a->forward);
    p.dout = head_rows_of(&a->dout);
    p.dq = head_rows_of(&a->dq);
    p.dk = head_rows_of(&a->dk);
    p.dv = head_rows_of(&a->dv);
    p.forward.vectors = p.forward.vectors && attention_rows_are_vectors(&a->dout) &&
                        attention_rows_are_vectors(&a->dq) && attention_rows_are_vectors(&a->dk) &&
                        attention_rows_are_vectors(&a->dv);
    p.group = p.forward.heads / p.forward.kv_heads;
    return p;
}

template <typename T>
static lt_status launch_delta(const lt_backend *backend, const backward_call *p, int64_t count,
                              lt_err *err)
{
    const int warps = 8;
    int64_t rows = count * p->group * p->forward.q_len;
    return lt_launch(backend, "attention_backward", err, delta_kernel<T>,
                     dim3(ceil_div(rows, warps)), dim3(warps * WARP), 0, *p, rows);
}

template <int D, bool DROPOUT>
static lt_status launch_backward(const lt_backend *backend, const backward_call *p, int64_t count,
                                 lt_err *err)
{
    typedef backward_block<D, key_tiles<D>> keys;
    typedef backward_block<D, query_tiles<D>> queries;
    const char *operation = "attention_backward";
    unsigned key_tile_count = ceil_div(p->forward.kv_len, keys::ROWS);
    unsigned query_tile_count = ceil_div(p->forward.q_len, queries::ROWS);
    LT_TRY(lt_launch(backend, operation, err, attention_dkdv_kernel<D, DROPOUT>,
                     dim3((unsigned)(key_tile_count * count)), dim3(keys::THREADS), keys::SHARED,
                     *p, (int)key_tile_count));
    return lt_launch(backend, operation, err, attention_dq_kernel<D, DROPOUT>,
                     dim3((unsigned)(query_tile_count * count * p->group)), dim3(queries::THREADS),
                     queries::SHARED, *p, (int)query_tile_count);
}

template <int D>
static lt_status backward(const lt_backend *backend, const backward_call *p, int64_t count,
                          lt_err *err)
{
    return p->forward.dropout.threshold ? launch_backward<D, true>(backend, p, count, err)
                                        : launch_backward<D, false>(backend, p, count, err);
}

static lt_status backward_pairs(const lt_backend *backend, const backward_call *p, int64_t count,
                                lt_err *err)
{
    int head_dim = p->forward.head_dim;
    if (backend->real == LT_F32) {
        LT_TRY(launch_delta<float>(backend, p, count, err));
        return attention_backward_f32(backend, p, count, err);
    }
    LT_TRY(launch_delta<bf16>(backend, p, count, err));
    if (head_dim <= 64) return backward<64>(backend, p, count, err);
    if (head_dim <= 80) return backward<80>(backend, p, count, err);
    if (head_dim <= 96) return backward<96>(backend, p, count, err);
    if (head_dim <= 128) return backward<128>(backend, p, count, err);
    return backward<256>(backend, p, count, err);
}

/* As many pairs at once as scratch memory has room for the deltas of. */
extern "C" lt_status lt_cuda_attention_backward(const lt_backend *backend,
                                                const lt_attention_backward_args *a, lt_err *err)
{
    const lt_attention_args *f = &a->forward;
    int64_t pairs = f->q.shape[0] * f->k.shape[2];
    LT_TRY(attention_limits(f, err));
    if (pairs == 0 || f->q.shape[3] == 0) return LT_OK;
    int64_t rows = f->q.shape[2] / f->k.shape[2] * f->q.shape[1]; /* of a pair */
    int64_t room = (int64_t)(LT_CUDA_SCRATCH / sizeof(float));
    if (rows > room)
        return lt_fail(err, LT_ERR_LIMIT, "attention_backward: %lld queries are too many",
                       (long long)f->q.shape[1]);
    int64_t at_once = rows ? room / rows : pairs;
    backward_call p = backward_call_of(a);
    for (; p.first_pair < pairs; p.first_pair += at_once) {
        p.delta = static_cast<float *>(cuda_of(backend)->scratch) - p.first_pair * rows;
        LT_TRY(backward_pairs(backend, &p, lt_min_i64(at_once, pairs - p.first_pair), err));
    }
    return LT_OK;
}
