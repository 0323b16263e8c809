/* Attention in f32, without tensor cores: the same walks over tiles as attention_forward.cu and
 * attention_backward.cu.
 *
 * 16 x 16 threads have a TILE x TILE tile of scores: thread (y, x) rows y + 16 r, columns x + 16 c.
 * Of sums over rows it has, for its rows, the elements 4 (x + 16 n) .. + 4. Rows in shared memory
 * are 4 floats apart more than D, so that 8 neighbouring rows are in different banks. */
#include "kernels/cuda/attention.cuh"

enum { SIDE = 16, F32_THREADS = SIDE * SIDE };

template <int D, int TILE> struct f32_block {
    static constexpr int R = TILE / SIDE, ROW = D + 4, ROWS = TILE * ROW;
    static constexpr int WEIGHTS = TILE * (TILE + 4); /* a tile of scores */
    static constexpr size_t RANGES = sizeof(shared_ranges<F32_THREADS / WARP>);
    static constexpr size_t FORWARD = (2 * ROWS + WEIGHTS) * sizeof(float) + RANGES;
    static constexpr size_t BACKWARD = (4 * ROWS + 2 * WEIGHTS) * sizeof(float) + RANGES;
};

/* The rows first .. first + TILE of a head; 0 where they are not in `seen`, and behind head_dim. */
template <int D, int TILE>
LT_DEVICE void load_rows(float *tile, const float *head, int64_t row_stride, int first,
                         const key_ranges &seen, const attention_call &c)
{
    for (int i = (int)threadIdx.x; i < TILE * D / 4; i += F32_THREADS) {
        int row = i / (D / 4), d = i % (D / 4) * 4;
        const float *from = head + (first + row) * row_stride + d;
        float4 x = make_float4(0, 0, 0, 0);
        if (sees(seen, first + row) && d < c.head_dim) {
            if (c.vectors)
                x = *reinterpret_cast<const float4 *>(from);
            else
                x = make_float4(from[0], d + 1 < c.head_dim ? from[1] : 0,
                                d + 2 < c.head_dim ? from[2] : 0, d + 3 < c.head_dim ? from[3] : 0);
        }
        *reinterpret_cast<float4 *>(tile + row * (D + 4) + d) = x;
    }
}

template <int D, int R>
LT_DEVICE void store_sums(float *head, int64_t row_stride, const float (&x)[R][D / 16], int first,
                          int count, float factor, const attention_call &c)
{
    for (int r = 0; r < R; r++) {
        int i = first + (int)threadIdx.x / SIDE + SIDE * r;
        LT_UNROLL
        for (int n = 0; n < D / 16; n++) {
            int d = 4 * ((int)threadIdx.x % SIDE + SIDE * (n / 4)) + n % 4;
            if (i < count && d < c.head_dim) head[i * row_stride + d] = factor * x[r][n];
        }
    }
}

/* s[r][c] = left row . right row, both over D. */
template <int D, int R>
LT_DEVICE void multiply_tiles(float (&s)[R][R], const float *left, const float *right)
{
    int y = (int)threadIdx.x / SIDE, x = (int)threadIdx.x % SIDE;
    LT_UNROLL
    for (int r = 0; r < R; r++) {
        LT_UNROLL
        for (int c = 0; c < R; c++)
            s[r][c] = 0;
    }
    for (int d = 0; d < D; d += 4) {
        float4 a[R], b[R];
        LT_UNROLL
        for (int r = 0; r < R; r++) {
            a[r] = *reinterpret_cast<const float4 *>(left + (y + SIDE * r) * (D + 4) + d);
            b[r] = *reinterpret_cast<const float4 *>(right + (x + SIDE * r) * (D + 4) + d);
        }
        LT_UNROLL
        for (int r = 0; r < R; r++) {
            LT_UNROLL
            for (int c = 0; c < R; c++) {
                s[r][c] += a[r].x * b[c].x;
                s[r][c] += a[r].y * b[c].y;
                s[r][c] += a[r].z * b[c].z;
                s[r][c] += a[r].w * b[c].w;
            }
        }
    }
}

/* sums[row] += weights[row][j] right[j], over the TILE rows j. */
template <int D, int TILE, int R>
LT_DEVICE void add_weighted(float (&sums)[R][D / 16], const float *weights, const float *right)
{
    int y = (int)threadIdx.x / SIDE, x = (int)threadIdx.x % SIDE;
    for (int j = 0; j < TILE; j++) {
        float w[R];
        LT_UNROLL
        for (int r = 0; r < R; r++)
            w[r] = weights[(y + SIDE * r) * (TILE + 4) + j];
        LT_UNROLL
        for (int n = 0; n < D / 64; n++) {
            float4 v = *reinterpret_cast<const float4 *>(right + j * (D + 4) + 4 * (x + SIDE * n));
            LT_UNROLL
            for (int r = 0; r < R; r++) {
                sums[r][4 * n] += w[r] * v.x;
                sums[r][4 * n + 1] += w[r] * v.y;
                sums[r][4 * n + 2] += w[r] * v.z;
                sums[r][4 * n + 3] += w[r] * v.w;
            }
        }
    }
}

/* Over the 16 threads of a row. */
LT_DEVICE float row_maximum(float x)
{
    for (int by = SIDE / 2; by > 0; by /= 2)
        x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, by));
    return x;
}

LT_DEVICE float row_sum(float x)
{
    for (int by = SIDE / 2; by > 0; by /= 2)
        x += __shfl_xor_sync(FULL_MASK, x, by);
    return x;
}

LT_DEVICE float dropout_at(dropout_key key, uint64_t index)
{
    uint32_t words[4] = {0, 0, 0, 0};
    uint64_t drawn = ~(uint64_t)0;
    if (key.threshold == 0) return 1;
    return dropout_keeps(key, index, words, &drawn) ? key.scale : 0;
}

/* --- Forward -----------------------------------------------------------------------------------
 */

template <int R> struct row_state {
    key_ranges keys[R];
    float maximum[R], sum[R];
};

/* The tile's scores become weights in shared memory, of which a row is written and read by the same
 * half of a warp; the sums so far are brought to the new maximum. */
template <int D, int TILE, int R>
LT_DEVICE void weigh(float (&s)[R][R], row_state<R> &state, float (&sums)[R][D / 16],
                     float *weights, const attention_call &c, uint64_t first_dropout, int first_key)
{
    int y = (int)threadIdx.x / SIDE, x = (int)threadIdx.x % SIDE;
    LT_UNROLL
    for (int r = 0; r < R; r++) {
        float maximum = state.maximum[r], sum = 0;
        LT_UNROLL
        for (int k = 0; k < R; k++) {
            bool seen = sees(state.keys[r], first_key + x + SIDE * k);
            s[r][k] = seen ? s[r][k] * (c.scale * LOG2_E) : -INFINITY;
            maximum = fmaxf(maximum, s[r][k]);
        }
        maximum = row_maximum(maximum);
        float base = softmax_base(maximum), shrink = fast_exp2(state.maximum[r] - base);
        LT_UNROLL
        for (int k = 0; k < R; k++) {
            int row = y + SIDE * r, column = x + SIDE * k;
            float p = fast_exp2(s[r][k] - base);
            sum += p;
            weights[row * (TILE + 4) + column] =
                p * dropout_at(c.dropout, first_dropout + (uint64_t)row * (uint64_t)c.kv_len +
                                              (uint64_t)(first_key + column));
        }
        LT_UNROLL
        for (int n = 0; n < D / 16; n++)
            sums[r][n] *= shrink;
        state.sum[r] = state.sum[r] * shrink + sum;
        state.maximum[r] = maximum;
    }
}

template <int D, int TILE>
__global__ void __launch_bounds__(F32_THREADS, 1)
    attention_forward_f32_kernel(const attention_call c, int tiles)
{
    typedef f32_block<D, TILE> block;
    constexpr int R = block::R;
    float *q_tile = shared_memory<float>(), *kv_tile = q_tile + block::ROWS;
    float *weights = kv_tile + block::ROWS;
    auto ranges = reinterpret_cast<shared_ranges<F32_THREADS / WARP> *>(weights + block::WEIGHTS);

    int first = (tiles - 1 - (int)(blockIdx.x % tiles)) * TILE;
    int h = (int)(blockIdx.x / tiles % c.heads), g = h / (c.heads / c.kv_heads);
    int64_t b = blockIdx.x / tiles / c.heads;
    row_state<R> state;
    key_ranges mine = no_keys();
    LT_UNROLL
    for (int r = 0; r < R; r++) {
        state.keys[r] = keys_of(c, b, first + (int)threadIdx.x / SIDE + SIDE * r);
        state.maximum[r] = -INFINITY;
        state.sum[r] = 0;
        unite(&mine, state.keys[r]);
    }
    const key_ranges &seen = united(mine, ranges);

    float s[R][R], sums[R][D / 16] = {};
    load_rows<D, TILE>(q_tile, head_of<float>(c.q, b, h), c.q.row_stride, first, all_rows(c.q_len),
                       c);
    for (int tile = next_tile(seen, 0, TILE); tile >= 0; tile = next_tile(seen, tile + 1, TILE)) {
        int key = tile * TILE;
        load_rows<D, TILE>(kv_tile, head_of<float>(c.k, b, g), c.k.row_stride, key, seen, c);
        __syncthreads();
        multiply_tiles<D>(s, q_tile, kv_tile);
        __syncthreads();
        load_rows<D, TILE>(kv_tile, head_of<float>(c.v, b, g), c.v.row_stride, key, seen, c);
        weigh<D, TILE>(s, state, sums, weights, c, dropout_row(c, b, h, first), key);
        __syncthreads();
        add_weighted<D, TILE>(sums, weights, kv_tile);
        __syncthreads();
    }

    LT_UNROLL
    for (int r = 0; r < R; r++) {
        int i = first + (int)threadIdx.x / SIDE + SIDE * r;
        float sum = row_sum(state.sum[r]);
        bool nothing = sees_none(state.keys[r]);
        LT_UNROLL
        for (int n = 0; n < D / 16; n++)
            sums[r][n] = nothing ? 0 : sums[r][n] / sum;
        if (c.lse && i < c.q_len && threadIdx.x % SIDE == 0)
            c.lse[(b * c.heads + h) * c.q_len + i] =
                nothing ? -INFINITY : (state.maximum[r] + log2f(sum)) * LN_2;
    }
    store_sums<D>(head_of<float>(c.out, b, h), c.out.row_stride, sums, first, c.q_len, 1, c);
}

template <int D, int TILE>
static lt_status forward(const lt_backend *backend, const lt_attention_args *a, lt_err *err)
{
    unsigned tiles = ceil_div(a->q.shape[1], TILE);
    return lt_launch(backend, "attention_forward", err, attention_forward_f32_kernel<D, TILE>,
                     dim3((unsigned)(tiles * a->q.shape[0] * a->q.shape[2])), dim3(F32_THREADS),
                     f32_block<D, TILE>::FORWARD, attention_call_of(a), (int)tiles);
}

lt_status attention_forward_f32(const lt_backend *backend, const lt_attention_args *a, lt_err *err)
{
    if (a->q.shape[3] <= 64) return forward<64, 64>(backend, a, err);
    if (a->q.shape[3] <= 128) return forward<128, 64>(backend, a, err);
    return forward<256, 32>(backend, a, err);
}

/* --- Backward ----------------------------------------------------------------------------------
 */

/* s and dp of a tile become f p and ds in shared memory. Rows are keys and columns queries, or the
 * other way round. */
template <int TILE, bool KEY_ROWS, int R>
LT_DEVICE void weigh_gradients(const float (&s)[R][R], const float (&dp)[R][R], float *weights,
                               float *ds, const backward_call &p, int64_t b, int h, int first_query,
                               int first_key)
{
    const attention_call &c = p.forward;
    int y = (int)threadIdx.x / SIDE, x = (int)threadIdx.x % SIDE;
    LT_UNROLL
    for (int q = 0; q < R; q++) {
        int i = first_query + (KEY_ROWS ? x : y) + SIDE * q;
        query_numbers numbers = numbers_of(p, b, h, i);
        key_ranges seen = keys_at(c, offset_of(c, b) + i, numbers.first_key);
        LT_UNROLL
        for (int k = 0; k < R; k++) {
            int j = first_key + (KEY_ROWS ? y : x) + SIDE * k;
            int r = KEY_ROWS ? k : q, column = KEY_ROWS ? q : k;
            int to = (y + SIDE * r) * (TILE + 4) + x + SIDE * column;
            bool visible = sees(seen, j);
            float factor = dropout_at(c.dropout, dropout_row(c, b, h, i) + (uint64_t)j);
            float probability = fast_exp2(s[r][column] * (c.scale * LOG2_E) - numbers.lse);
            float gradient = probability * (factor * dp[r][column] - numbers.delta);
            weights[to] = visible ? factor * probability : 0;
            ds[to] = visible ? gradient : 0;
        }
    }
}

template <int D, int TILE>
__global__ void __launch_bounds__(F32_THREADS, 1)
    attention_dkdv_f32_kernel(const backward_call p, int tiles)
{
    typedef f32_block<D, TILE> block;
    constexpr int R = block::R;
    const attention_call &c = p.forward;
    float *k_tile = shared_memory<float>(), *v_tile = k_tile + block::ROWS;
    float *q_tile = v_tile + block::ROWS, *dout_tile = q_tile + block::ROWS;
    float *weights = dout_tile + block::ROWS, *ds = weights + block::WEIGHTS;
    auto ranges = reinterpret_cast<shared_ranges<F32_THREADS / WARP> *>(ds + block::WEIGHTS);

    int first = (int)(blockIdx.x % tiles) * TILE;
    int64_t pair = p.first_pair + blockIdx.x / tiles, b = pair / c.kv_heads;
    int g = (int)(pair % c.kv_heads);
    const key_ranges &some = queries_of(c, b, first, min(first + TILE, c.kv_len), ranges);
    float s[R][R], dp[R][R], dk[R][D / 16] = {}, dv[R][D / 16] = {};
    load_rows<D, TILE>(k_tile, head_of<float>(c.k, b, g), c.k.row_stride, first, all_rows(c.kv_len),
                       c);
    load_rows<D, TILE>(v_tile, head_of<float>(c.v, b, g), c.v.row_stride, first, all_rows(c.kv_len),
                       c);
    for (int h = g * p.group; h < (g + 1) * p.group; h++)
        for (int tile = next_tile(some, 0, TILE); tile >= 0;
             tile = next_tile(some, tile + 1, TILE)) {
            int i = tile * TILE;
            load_rows<D, TILE>(q_tile, head_of<float>(c.q, b, h), c.q.row_stride, i,
                               all_rows(c.q_len), c);
            load_rows<D, TILE>(dout_tile, head_of<float>(p.dout, b, h), p.dout.row_stride, i,
                               all_rows(c.q_len), c);
            __syncthreads();
            multiply_tiles<D>(s, k_tile, q_tile);
            multiply_tiles<D>(dp, v_tile, dout_tile);
            weigh_gradients<TILE, true>(s, dp, weights, ds, p, b, h, i, first);
            __syncwarp();
            add_weighted<D, TILE>(dv, weights, dout_tile);
            add_weighted<D, TILE>(dk, ds, q_tile);
            __syncthreads();
        }
    store_sums<D>(head_of<float>(p.dk, b, g), p.dk.row_stride, dk, first, c.kv_len, c.scale, c);
    store_sums<D>(head_of<float>(p.dv, b, g), p.dv.row_stride, dv, first, c.kv_len, 1, c);
}

template <int D, int TILE>
__global__ void __launch_bounds__(F32_THREADS, 1)
    attention_dq_f32_kernel(const backward_call p, int tiles)
{
    typedef f32_block<D, TILE> block;
    constexpr int R = block::R;
    const attention_call &c = p.forward;
    float *q_tile = shared_memory<float>(), *dout_tile = q_tile + block::ROWS;
    float *k_tile = dout_tile + block::ROWS, *v_tile = k_tile + block::ROWS;
    float *weights = v_tile + block::ROWS, *ds = weights + block::WEIGHTS;
    auto ranges = reinterpret_cast<shared_ranges<F32_THREADS / WARP> *>(ds + block::WEIGHTS);

    int first = (tiles - 1 - (int)(blockIdx.x % tiles)) * TILE;
    int64_t head = p.first_pair * p.group + blockIdx.x / tiles, b = head / c.heads;
    int h = (int)(head % c.heads), g = h / p.group;
    key_ranges mine = keys_of(c, b, first + (int)threadIdx.x % TILE);
    const key_ranges &seen = united(mine, ranges);
    float s[R][R], dp[R][R], dq[R][D / 16] = {};
    load_rows<D, TILE>(q_tile, head_of<float>(c.q, b, h), c.q.row_stride, first, all_rows(c.q_len),
                       c);
    load_rows<D, TILE>(dout_tile, head_of<float>(p.dout, b, h), p.dout.row_stride, first,
                       all_rows(c.q_len), c);
    for (int tile = next_tile(seen, 0, TILE); tile >= 0; tile = next_tile(seen, tile + 1, TILE)) {
        int key = tile * TILE;
        load_rows<D, TILE>(k_tile, head_of<float>(c.k, b, g), c.k.row_stride, key, seen, c);
        load_rows<D, TILE>(v_tile, head_of<float>(c.v, b, g), c.v.row_stride, key, seen, c);
        __syncthreads();
        multiply_tiles<D>(s, q_tile, k_tile);
        multiply_tiles<D>(dp, dout_tile, v_tile);
        weigh_gradients<TILE, false>(s, dp, weights, ds, p, b, h, first, key);
        __syncwarp();
        add_weighted<D, TILE>(dq, ds, k_tile);
        __syncthreads();
    }
    store_sums<D>(head_of<float>(p.dq, b, h), p.dq.row_stride, dq, first, c.q_len, c.scale, c);
}

template <int D, int TILE>
static lt_status backward(const lt_backend *backend, const backward_call *p, int64_t count,
                          lt_err *err)
{
    const char *operation = "attention_backward";
    size_t shared = f32_block<D, TILE>::BACKWARD;
    unsigned key_tiles = ceil_div(p->forward.kv_len, TILE);
    unsigned query_tiles = ceil_div(p->forward.q_len, TILE);
    LT_TRY(lt_launch(backend, operation, err, attention_dkdv_f32_kernel<D, TILE>,
                     dim3((unsigned)(key_tiles * count)), dim3(F32_THREADS), shared, *p,
                     (int)key_tiles));
    return lt_launch(backend, operation, err, attention_dq_f32_kernel<D, TILE>,
                     dim3((unsigned)(query_tiles * count * p->group)), dim3(F32_THREADS), shared,
                     *p, (int)query_tiles);
}

lt_status attention_backward_f32(const lt_backend *backend, const backward_call *p, int64_t count,
                                 lt_err *err)
{
    if (p->forward.head_dim <= 64) return backward<64, 32>(backend, p, count, err);
    if (p->forward.head_dim <= 128) return backward<128, 32>(backend, p, count, err);
    return backward<256, 16>(backend, p, count, err);
}
