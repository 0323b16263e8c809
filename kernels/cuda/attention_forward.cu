/* Attention, forward, on tensor cores: FlashAttention-2 (Dao, 2023).
 *
 * A block has a tile of queries of one head, each warp 16 or 32 of them with all their keys, so
 * that softmax needs no other warp. Tiles of keys and values take turns: while one is multiplied,
 * the other is on its way. The scores of a tile become, in the registers where the product left
 * them, the left operand of the product with the values. */
#include "kernels/cuda/attention.cuh"

/* Tile sizes by head size: as many queries for a warp as its registers have room for, since what is
 * read of keys and values then serves them all. */
template <int D> struct forward_tiles {
    static constexpr int WARPS = 4, M_TILES = 2, KEYS = 64;
};
template <> struct forward_tiles<80> {
    static constexpr int WARPS = 4, M_TILES = 2, KEYS = 48;
};
template <> struct forward_tiles<96> {
    static constexpr int WARPS = 4, M_TILES = 2, KEYS = 32;
};
template <> struct forward_tiles<128> {
    static constexpr int WARPS = 8, M_TILES = 1, KEYS = 64;
};
template <> struct forward_tiles<256> {
    static constexpr int WARPS = 4, M_TILES = 1, KEYS = 32;
};

template <int D> struct forward_block {
    static constexpr int THREADS = forward_tiles<D>::WARPS * WARP;
    static constexpr int QUERIES = forward_tiles<D>::WARPS * forward_tiles<D>::M_TILES * 16;
    static constexpr int ROWS = QUERIES + 2 * forward_tiles<D>::KEYS;
    static constexpr size_t SHARED =
        ROWS * tile_row<D>::SIZE * sizeof(bf16) + sizeof(shared_ranges<forward_tiles<D>::WARPS>);
};

/* Softmax so far of this thread's rows (of each m-tile lane / 4 and that + 8), in powers of 2. The
 * sum is only over this thread's columns. */
template <int M_TILES> struct running_softmax {
    float maximum[M_TILES][2], sum[M_TILES][2];
};

/* Scores become scaled; those of unseen keys -inf. `rows`: lane l's are those of row l of the
 * warp. */
template <int M_TILES, int N_TILES>
LT_DEVICE void scale_and_mask(float (&s)[M_TILES][N_TILES][4], float scale, bool masked,
                              const key_ranges &rows, int first_key)
{
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int half = 0; half < 2; half++) {
            key_ranges r = rows;
            if (masked)
                for (int part = 0; part < 2; part++) {
                    int from = fragment_row(m, 2 * half);
                    r.first[part] = __shfl_sync(FULL_MASK, rows.first[part], from);
                    r.last[part] = __shfl_sync(FULL_MASK, rows.last[part], from);
                }
            LT_UNROLL
            for (int n = 0; n < N_TILES; n++) {
                LT_UNROLL
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    s[m][n][e] *= scale;
                    if (masked && !sees(r, first_key + fragment_column(n, e)))
                        s[m][n][e] = -INFINITY;
                }
            }
        }
    }
}

/* Scores become probabilities relative to the largest score so far, to which the sums so far are
 * brought too. A NaN passes the maximum by but not the exponential. */
template <int M_TILES, int N_TILES, int X_TILES>
LT_DEVICE void update_softmax(float (&s)[M_TILES][N_TILES][4], running_softmax<M_TILES> &softmax,
                              float (&out)[M_TILES][X_TILES][4])
{
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int half = 0; half < 2; half++) {
            float maximum = softmax.maximum[m][half];
            LT_UNROLL
            for (int n = 0; n < N_TILES; n++)
                maximum = fmaxf(maximum, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
            maximum = fmaxf(maximum, __shfl_xor_sync(FULL_MASK, maximum, 1));
            maximum = fmaxf(maximum, __shfl_xor_sync(FULL_MASK, maximum, 2));
            float base = softmax_base(maximum);
            float shrink = fast_exp2(softmax.maximum[m][half] - base), sum = 0;
            LT_UNROLL
            for (int n = 0; n < N_TILES; n++) {
                LT_UNROLL
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    s[m][n][e] = fast_exp2(s[m][n][e] - base);
                    sum += s[m][n][e];
                }
            }
            LT_UNROLL
            for (int n = 0; n < X_TILES; n++) {
                LT_UNROLL
                for (int e = 2 * half; e < 2 * half + 2; e++)
                    out[m][n][e] *= shrink;
            }
            softmax.sum[m][half] = softmax.sum[m][half] * shrink + sum;
            softmax.maximum[m][half] = maximum;
        }
    }
}

/* `first`: number of the dropout element of the warp's first query and the tile's first key. */
template <int M_TILES, int N_TILES>
LT_DEVICE void drop(float (&p)[M_TILES][N_TILES][4], const attention_call &c, uint64_t first)
{
    uint64_t kept = kept_scores<M_TILES, N_TILES, false>(c, first);
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int n = 0; n < N_TILES; n++) {
            LT_UNROLL
            for (int e = 0; e < 4; e++)
                p[m][n][e] *= dropout_of<N_TILES>(c, kept, m, n, e);
        }
    }
}

/* Sums over the four threads of a row, the division, the log-sum-exp. `lse`: of the head, or NULL;
 * `my_row_sees_none`: of the row that keys_of was asked for with this lane. */
template <int M_TILES, int X_TILES>
LT_DEVICE void finish(float (&out)[M_TILES][X_TILES][4], running_softmax<M_TILES> &softmax,
                      const attention_call &c, float *lse, int first, bool my_row_sees_none)
{
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int half = 0; half < 2; half++) {
            float sum = softmax.sum[m][half];
            sum += __shfl_xor_sync(FULL_MASK, sum, 1);
            sum += __shfl_xor_sync(FULL_MASK, sum, 2);
            int i = first + fragment_row(m, 2 * half);
            bool nothing = __shfl_sync(FULL_MASK, my_row_sees_none, fragment_row(m, 2 * half));
            float inverse = nothing ? 0 : 1 / sum;
            LT_UNROLL
            for (int n = 0; n < X_TILES; n++) {
                LT_UNROLL
                for (int e = 2 * half; e < 2 * half + 2; e++)
                    out[m][n][e] *= inverse;
            }
            if (lse && i < c.q_len && threadIdx.x % 4 == 0)
                lse[i] = nothing ? -INFINITY : (softmax.maximum[m][half] + log2f(sum)) * LN_2;
        }
    }
}

template <int D, bool DROPOUT>
__global__ void __launch_bounds__(forward_block<D>::THREADS)
    attention_forward_kernel(const attention_call c, int tiles)
{
    constexpr int M_TILES = forward_tiles<D>::M_TILES, KEYS = forward_tiles<D>::KEYS;
    constexpr int QUERIES = forward_block<D>::QUERIES, THREADS = forward_block<D>::THREADS;
    bf16 *q_tile = shared_memory<bf16>(), *k_tile = q_tile + QUERIES * tile_row<D>::SIZE;
    bf16 *v_tile = k_tile + KEYS * tile_row<D>::SIZE;
    auto ranges = reinterpret_cast<shared_ranges<forward_tiles<D>::WARPS> *>(
        v_tile + KEYS * tile_row<D>::SIZE);

    /* the last queries have most keys: they start first */
    int first = (tiles - 1 - (int)(blockIdx.x % tiles)) * QUERIES;
    int h = (int)(blockIdx.x / tiles % c.heads), g = h / (c.heads / c.kv_heads);
    int64_t b = blockIdx.x / tiles / c.heads;
    const bf16 *k = head_of<bf16>(c.k, b, g), *v = head_of<bf16>(c.v, b, g);
    int row = (int)threadIdx.x / WARP * M_TILES * 16; /* of this warp, in the tile */
    key_ranges mine = keys_of(c, b, first + row + (int)threadIdx.x % (16 * M_TILES));
    const key_ranges &seen = united(mine, ranges);

    float out[M_TILES][D / 8][4];
    running_softmax<M_TILES> softmax;
    clear_fragments(out);
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int half = 0; half < 2; half++) {
            softmax.maximum[m][half] = -INFINITY;
            softmax.sum[m][half] = 0;
        }
    }

    int tile = next_tile(seen, 0, KEYS);
    load_tile<D, QUERIES, THREADS>(q_tile, head_of<bf16>(c.q, b, h), c.q.row_stride, first,
                                   all_rows(c.q_len), c);
    if (tile >= 0) load_tile<D, KEYS, THREADS>(k_tile, k, c.k.row_stride, tile * KEYS, seen, c);
    copy_async_commit();
    while (tile >= 0) {
        int first_key = tile * KEYS, next = next_tile(seen, tile + 1, KEYS);
        bool any = __any_sync(FULL_MASK, sees_any(mine, first_key, first_key + KEYS));
        bool all = __all_sync(FULL_MASK, sees_all(mine, first_key, first_key + KEYS));
        float s[M_TILES][KEYS / 8][4];
        copy_async_wait<0>();
        __syncthreads(); /* the keys are here, and nobody reads the values before any more */
        load_tile<D, KEYS, THREADS>(v_tile, v, c.v.row_stride, first_key, seen, c);
        copy_async_commit();
        if (any) multiply_rows<D>(s, q_tile, row, k_tile);
        copy_async_wait<0>();
        __syncthreads(); /* the values are here, and nobody reads the keys any more */
        if (next >= 0) load_tile<D, KEYS, THREADS>(k_tile, k, c.k.row_stride, next * KEYS, seen, c);
        copy_async_commit();
        if (any) {
            scale_and_mask(s, c.scale * LOG2_E, !all, mine, first_key);
            update_softmax(s, softmax, out);
            if (DROPOUT) drop(s, c, dropout_row(c, b, h, first + row) + (uint64_t)first_key);
            multiply_add<D>(out, s, v_tile, 0);
        }
        tile = next;
    }

    copy_async_wait<0>();
    __syncthreads();
    finish(out, softmax, c, c.lse ? c.lse + (b * c.heads + h) * c.q_len : nullptr, first + row,
           sees_none(mine));
    put_fragments<D>(q_tile, row, 0, out); /* these rows are nobody else's */
    __syncwarp();
    store_tile_rows<D>(head_of<bf16>(c.out, b, h), c.out.row_stride, q_tile, row, 16 * M_TILES,
                       first + row, c.q_len, c);
}

template <int D, bool DROPOUT>
static lt_status launch_forward(const lt_backend *backend, const lt_attention_args *a, lt_err *err)
{
    unsigned tiles = ceil_div(a->q.shape[1], forward_block<D>::QUERIES);
    dim3 grid((unsigned)(tiles * a->q.shape[0] * a->q.shape[2]));
    return lt_launch(backend, "attention_forward", err, attention_forward_kernel<D, DROPOUT>, grid,
                     dim3(forward_block<D>::THREADS), forward_block<D>::SHARED,
                     attention_call_of(a), (int)tiles);
}

template <int D>
static lt_status forward(const lt_backend *backend, const lt_attention_args *a, lt_err *err)
{
    return a->dropout.rate > 0 ? launch_forward<D, true>(backend, a, err)
                               : launch_forward<D, false>(backend, a, err);
}

extern "C" lt_status lt_cuda_attention_forward(const lt_backend *backend,
                                               const lt_attention_args *a, lt_err *err)
{
    int64_t head_dim = a->q.shape[3];
    LT_TRY(attention_limits(a, err));
    if (a->q.shape[0] * a->q.shape[1] * a->q.shape[2] == 0) return LT_OK;
    if (a->q.shape[1] <= ATTENTION_DECODE_QUERIES && a->dropout.rate == 0)
        return attention_decode(backend, a, err);
    if (backend->real == LT_F32) return attention_forward_f32(backend, a, err);
    if (head_dim <= 64) return forward<64>(backend, a, err);
    if (head_dim <= 80) return forward<80>(backend, a, err);
    if (head_dim <= 96) return forward<96>(backend, a, err);
    if (head_dim <= 128) return forward<128>(backend, a, err);
    return forward<256>(backend, a, err);
}
