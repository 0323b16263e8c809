/* What the attention kernels share: the shape of a call, which keys a query sees, tiles of rows in
 * shared memory and the products of tiles on the tensor cores.
 *
 * Nobody ever stores scores. A block owns a tile of rows (queries, or keys for dk and dv) and walks
 * over tiles of the other side, those that it has something to do with. */
#ifndef LT_CUDA_ATTENTION_CUH
#define LT_CUDA_ATTENTION_CUH

#include <limits.h>

#include "kernels/cuda/device.cuh"

#define LOG2_E 1.4426950408889634f
#define LN_2   0.6931471805599453f

enum { ATTENTION_MAX_HEAD_DIM = 256 };

/* --- A call ---------------------------------------------------------------------------------- */

/* [batch, rows, heads, head_dim]; strides in elements. */
struct head_rows {
    void *data;
    int64_t batch_stride, row_stride, head_stride;
};

struct attention_call {
    head_rows q, k, v, out;
    float *lse;           /* [batch, heads, q_len] or NULL */
    const int *offset;    /* [batch] or NULL */
    const int *first_key; /* [batch, q_len] or NULL */
    int q_len, kv_len, heads, kv_heads, head_dim;
    int window, prefix;
    float scale;
    dropout_key dropout;
    bool vectors; /* rows can be read and written 16 bytes at a time */
};

/* Row 0 of a head, and row 0 as T. */
template <typename T> LT_DEVICE T *head_of(const head_rows &rows, int64_t b, int h)
{
    return static_cast<T *>(rows.data) + b * rows.batch_stride + h * rows.head_stride;
}

static inline head_rows head_rows_of(const lt_tensor *t)
{
    head_rows rows = {t->data, t->stride[0], t->stride[1], t->stride[2]};
    return rows;
}

/* Whether every row of every head starts at a multiple of 16 bytes and is whole vectors long. */
static inline bool attention_rows_are_vectors(const lt_tensor *t)
{
    size_t size = lt_dtype_size(t->dtype);
    bool right = (uintptr_t)t->data % 16 == 0 && t->shape[3] % 8 == 0;
    for (int d = 0; d < 3; d++)
        right = right && (t->shape[d] <= 1 || (size_t)t->stride[d] * size % 16 == 0);
    return right;
}

/* Windows are cut to FAR_KEY, which is behind every key, so that sums of positions fit an int. */
enum { FAR_KEY = 1 << 29 };

static inline attention_call attention_call_of(const lt_attention_args *a)
{
    attention_call c = {};
    c.q = head_rows_of(&a->q);
    c.k = head_rows_of(&a->k);
    c.v = head_rows_of(&a->v);
    c.out = head_rows_of(&a->out);
    c.lse = static_cast<float *>(a->lse.data);
    c.offset = static_cast<const int *>(a->offset.data);
    c.first_key = static_cast<const int *>(a->first_key.data);
    c.q_len = (int)a->q.shape[1];
    c.kv_len = (int)a->k.shape[1];
    c.heads = (int)a->q.shape[2];
    c.kv_heads = (int)a->k.shape[2];
    c.head_dim = (int)a->q.shape[3];
    c.window = (int)(a->window < FAR_KEY ? a->window : (int64_t)FAR_KEY);
    c.prefix = (int)a->prefix;
    c.scale = (float)a->scale;
    c.dropout = dropout_key_of(&a->dropout);
    c.vectors = attention_rows_are_vectors(&a->q) && attention_rows_are_vectors(&a->k) &&
                attention_rows_are_vectors(&a->v) && attention_rows_are_vectors(&a->out);
    return c;
}

/* One pair (b, key/value head) has `group` heads. A launch is for the pairs from first_pair on. */
struct backward_call {
    attention_call forward;
    head_rows dout, dq, dk, dv;
    float *delta; /* [batch, heads, q_len]: dout . out; only those of the pairs have memory */
    int64_t first_pair;
    int group;
};

static inline lt_status attention_limits(const lt_attention_args *a, lt_err *err)
{
    if (a->q.shape[3] > ATTENTION_MAX_HEAD_DIM)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "attention: heads of %lld; a GPU can do at most %d",
                       (long long)a->q.shape[3], ATTENTION_MAX_HEAD_DIM);
    if (a->q.shape[1] >= FAR_KEY || a->k.shape[1] >= FAR_KEY)
        return lt_fail(err, LT_ERR_LIMIT, "attention: %lld queries and %lld keys are too many",
                       (long long)a->q.shape[1], (long long)a->k.shape[1]);
    return LT_OK;
}

/* attention_decode.cu: a few queries for many keys. Chosen by q_len alone, never by kv_len, so that
 * a longer view of the cache does not change the result. */
enum { ATTENTION_DECODE_QUERIES = 8 };
lt_status attention_decode(const lt_backend *backend, const lt_attention_args *a, lt_err *err);

/* attention_f32.cu: the same without tensor cores. Backward: dq, dk, dv of `count` pairs. */
lt_status attention_forward_f32(const lt_backend *backend, const lt_attention_args *a, lt_err *err);
lt_status attention_backward_f32(const lt_backend *backend, const backward_call *p, int64_t count,
                                 lt_err *err);

/* --- Which keys a query sees ----------------------------------------------------------------- */

/* The keys [first[0], last[0]) of the prefix and [first[1], last[1]) behind it. An empty part is
 * [INT_MAX, 0), so that ranges can be united by minimum and maximum. */
struct key_ranges {
    int first[2], last[2];
};

LT_DEVICE key_ranges no_keys()
{
    key_ranges r = {{INT_MAX, INT_MAX}, {0, 0}};
    return r;
}

/* Those of the query at key index `position`; first_key FAR_KEY: none. */
LT_DEVICE key_ranges keys_at(const attention_call &c, int position, int first_key)
{
    key_ranges r;
    r.first[1] = max(first_key, c.prefix);
    r.last[1] = min(position + 1, c.kv_len);
    /* where the query would be if its document followed the prefix directly */
    int nearer = position - (r.first[1] - c.prefix);
    r.first[0] = 0;
    r.last[0] = min(nearer + 1, c.prefix);
    if (c.window > 0) {
        r.first[0] = max(nearer - c.window + 1, 0);
        r.first[1] = max(position - c.window + 1, r.first[1]);
    }
    for (int part = 0; part < 2; part++)
        if (r.first[part] >= r.last[part]) {
            r.first[part] = INT_MAX;
            r.last[part] = 0;
        }
    return r;
}

LT_DEVICE int offset_of(const attention_call &c, int64_t b)
{
    return c.offset ? c.offset[b] : 0;
}

/* FAR_KEY, which lets it see nothing, for a query that does not exist. */
LT_DEVICE int first_key_of(const attention_call &c, int64_t b, int i)
{
    if (i >= c.q_len) return FAR_KEY;
    return c.first_key ? c.first_key[b * c.q_len + i] : 0;
}

LT_DEVICE key_ranges keys_of(const attention_call &c, int64_t b, int i)
{
    return keys_at(c, offset_of(c, b) + i, first_key_of(c, b, i));
}

LT_DEVICE bool sees(const key_ranges &r, int j)
{
    return (j >= r.first[0] && j < r.last[0]) || (j >= r.first[1] && j < r.last[1]);
}

LT_DEVICE bool sees_none(const key_ranges &r)
{
    return r.last[0] == 0 && r.last[1] == 0;
}

/* Any of the keys [first, last). */
LT_DEVICE bool sees_any(const key_ranges &r, int first, int last)
{
    return (first < r.last[0] && last > r.first[0]) || (first < r.last[1] && last > r.first[1]);
}

/* All of them; may say no for keys of both parts. */
LT_DEVICE bool sees_all(const key_ranges &r, int first, int last)
{
    return (first >= r.first[0] && last <= r.last[0]) || (first >= r.first[1] && last <= r.last[1]);
}

/* The first tile, from number `tile` on, with a key of the ranges; -1: there is none. */
LT_DEVICE int next_tile(const key_ranges &r, int tile, int tile_keys)
{
    for (int part = 0; part < 2; part++) {
        int candidate = max(tile, r.first[part] / tile_keys);
        if (candidate * tile_keys < r.last[part]) return candidate;
    }
    return -1;
}

LT_DEVICE int warp_min(int x)
{
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x = min(x, __shfl_xor_sync(FULL_MASK, x, offset));
    return x;
}

LT_DEVICE int warp_max_int(int x)
{
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x = max(x, __shfl_xor_sync(FULL_MASK, x, offset));
    return x;
}

/* r becomes the keys that r or `other` holds, as one range for each part. */
LT_DEVICE void unite(key_ranges *r, const key_ranges &other)
{
    for (int part = 0; part < 2; part++) {
        r->first[part] = min(r->first[part], other.first[part]);
        r->last[part] = max(r->last[part], other.last[part]);
    }
}

/* Room for it in shared memory. */
template <int WARPS> struct shared_ranges {
    key_ranges all, of_warp[WARPS];
};

/* The keys that any thread's ranges hold. It stays in shared memory, since the loops that ask for
 * it need their registers for more. Every thread of the block calls it. */
template <int WARPS> LT_DEVICE const key_ranges &united(key_ranges r, shared_ranges<WARPS> *shared)
{
    for (int part = 0; part < 2; part++) {
        r.first[part] = warp_min(r.first[part]);
        r.last[part] = warp_max_int(r.last[part]);
    }
    if (threadIdx.x % WARP == 0) shared->of_warp[threadIdx.x / WARP] = r;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 0; w < WARPS; w++)
            unite(&r, shared->of_warp[w]);
        shared->all = r;
    }
    __syncthreads();
    return shared->all;
}

/* The queries [first, last) of sequence b among which are all that see one of the keys [first_key,
 * last_key): part 1 of the result. Every thread of the block calls it. */
template <int WARPS>
LT_DEVICE const key_ranges &queries_of(const attention_call &c, int64_t b, int first_key,
                                       int last_key, shared_ranges<WARPS> *shared)
{
    key_ranges r = no_keys();
    for (int i = (int)threadIdx.x; i < c.q_len; i += WARPS * WARP)
        if (sees_any(keys_of(c, b, i), first_key, last_key)) {
            r.first[1] = min(r.first[1], i);
            r.last[1] = i + 1;
        }
    return united(r, shared);
}

/* All of `count` rows, where rows are asked for by ranges. */
LT_DEVICE key_ranges all_rows(int count)
{
    key_ranges r = no_keys();
    r.first[1] = 0;
    r.last[1] = count;
    return r;
}

/* --- Numbers of the softmax ------------------------------------------------------------------ */

/* What is subtracted from scores whose maximum is `maximum`: with no score yet, nothing. */
LT_DEVICE float softmax_base(float maximum)
{
    return maximum == -INFINITY ? 0 : maximum;
}

/* From the log-sum-exp in a tensor to the exponent of 2 that p = 2^(score - it) wants: a query that
 * sees nothing has p = 0. */
LT_DEVICE float lse_exponent(float lse)
{
    return lse == -INFINITY ? INFINITY : lse * LOG2_E;
}

/* What the gradients need of a query besides its rows. */
struct query_numbers {
    float lse, delta; /* lse as lse_exponent gives it */
    int first_key;
};

/* Of query i; one that does not exist sees nothing. */
LT_DEVICE query_numbers numbers_of(const backward_call &p, int64_t b, int h, int i)
{
    const attention_call &c = p.forward;
    query_numbers x = {INFINITY, 0, first_key_of(c, b, i)};
    if (i < c.q_len) {
        int64_t row = (b * c.heads + h) * c.q_len + i;
        x.lse = lse_exponent(c.lse[row]);
        x.delta = p.delta[row];
    }
    return x;
}

/* --- Dropout -----------------------------------------------------------------------------------
 */

/* Number of the first dropout element of a query's row of scores. */
LT_DEVICE uint64_t dropout_row(const attention_call &c, int64_t b, int h, int i)
{
    return (uint64_t)(((b * c.heads + h) * c.q_len + i) * c.kv_len);
}

LT_DEVICE uint32_t word_of(const uint32_t words[4], uint64_t i)
{
    uint32_t low = i & 1 ? words[1] : words[0], high = i & 1 ? words[3] : words[2];
    return i & 2 ? high : low;
}

/* Draws the words of the block that `index` is in, unless they are those of block `drawn`, and says
 * whether the element is kept. */
LT_DEVICE bool dropout_keeps(dropout_key key, uint64_t index, uint32_t words[4], uint64_t *drawn)
{
    if (index / 4 != *drawn) philox(key.seed, key.stream, index / 4, words);
    *drawn = index / 4;
    return word_of(words, index) >= key.threshold;
}

/* --- Tiles of rows in shared memory, bf16 ------------------------------------------------------
 *
 * A row is D elements in chunks of 8 (16 bytes). ldmatrix reads one chunk of 8 rows at a time: they
 * are in different banks because chunk c of row r stands at c ^ (r & 7) where rows are a multiple
 * of 128 bytes, else because the number of chunks from row to row is odd. */

template <int D> struct tile_row {
    static constexpr bool XOR = D / 8 % 8 == 0;
    static constexpr int CHUNKS = XOR ? D / 8 : D / 8 + 1;
    static constexpr int SIZE = CHUNKS * 8;
};

/* Element 0 of chunk `chunk` + `more` of a row. In the inner loops `chunk` is an even constant and
 * `more` a lane's 0 or 1: written like this, few different addresses remain to be kept. */
template <int D> LT_DEVICE int tile_at(int row, int chunk, int more = 0)
{
    if (!tile_row<D>::XOR) return row * tile_row<D>::SIZE + (chunk + more) * 8;
    return row * tile_row<D>::SIZE + chunk / 8 * 64 + (chunk % 8 ^ (more ^ (row & 7))) * 8;
}

/* Starts to fill a tile with the rows first .. first + ROWS of a head. Rows that are not in `seen`
 * are 0, whatever is in memory there, and so is what lies behind head_dim. The copies are on their
 * way until copy_async_wait. */
template <int D, int ROWS, int THREADS>
LT_DEVICE void load_tile(bf16 *tile, const bf16 *head, int64_t row_stride, int first,
                         const key_ranges &seen, const attention_call &c)
{
    if (c.vectors) {
        constexpr int STEP = THREADS / (D / 8); /* rows at once; a few threads may be left over */
        int row = (int)threadIdx.x / (D / 8), chunk = (int)threadIdx.x % (D / 8);
        bool exists = chunk * 8 < c.head_dim;
        const bf16 *from = head + (first + row) * row_stride + chunk * 8;
        LT_UNROLL_4
        for (int step = 0; step < (ROWS + STEP - 1) / STEP; step++) {
            bool valid = exists && sees(seen, first + row);
            if (row < ROWS && (int)threadIdx.x < STEP * (D / 8))
                copy_async_16(tile + tile_at<D>(row, chunk), valid ? from : head, valid ? 16 : 0);
            row += STEP;
            from += STEP * row_stride;
        }
        return;
    }
    LT_NO_UNROLL
    for (int i = (int)threadIdx.x; i < ROWS * D; i += THREADS) {
        int row = i / D, d = i % D;
        bool valid = sees(seen, first + row) && d < c.head_dim;
        bf16 zero = {0};
        tile[tile_at<D>(row, d / 8) + d % 8] = valid ? head[(first + row) * row_stride + d] : zero;
    }
}

/* Writes rows of a tile to the rows first .. of a head that exist, with one warp. */
template <int D>
LT_DEVICE void store_tile_rows(bf16 *head, int64_t row_stride, const bf16 *tile, int tile_row,
                               int rows, int first, int count, const attention_call &c)
{
    int lane = (int)threadIdx.x % WARP, step = c.vectors ? 8 : 1;
    int row_steps = c.head_dim / step;
    for (int i = lane; i < rows * row_steps; i += WARP) {
        int row = i / row_steps, d = i % row_steps * step;
        if (first + row >= count) continue;
        bf16 *to = head + (first + row) * row_stride + d;
        const bf16 *from = tile + tile_at<D>(tile_row + row, d / 8) + d % 8;
        if (c.vectors)
            store_16(to, *reinterpret_cast<const uint4 *>(from));
        else
            *to = *from;
    }
}

/* --- Products of tiles on the tensor cores -----------------------------------------------------
 *
 * A warp works on M_TILES * 16 rows. x[m][n] are the accumulators of rows 16 m .. and columns 8 n
 * .. in the layout of mma_bf16: this thread's lie in rows 16 m + lane / 4 + 8 (e / 2) and columns
 * 8 n + 2 (lane % 4) + e % 2. */

LT_DEVICE int fragment_row(int m, int e)
{
    return 16 * m + (int)threadIdx.x % WARP / 4 + 8 * (e / 2);
}

LT_DEVICE int fragment_column(int n, int e)
{
    return 8 * n + 2 * ((int)threadIdx.x % 4) + e % 2;
}

/* Which of a thread's scores dropout keeps: bit 4 (m N_TILES + n) + e. `first`: number of the
 * dropout element of row and column 0. Rows are queries, or keys. A loop, since the 10 rounds would
 * be a lot of code many times. */
template <int M_TILES, int N_TILES, bool KEY_ROWS>
LT_DEVICE uint64_t kept_scores(const attention_call &c, uint64_t first)
{
    static_assert(M_TILES * N_TILES * 4 <= 64, "a bit for each");
    uint64_t kept = 0, drawn = ~(uint64_t)0;
    uint32_t words[4] = {0, 0, 0, 0};
    LT_NO_UNROLL
    for (int x = 0; x < M_TILES * N_TILES * 4; x++) {
        int row = fragment_row(x / (N_TILES * 4), x % 4);
        int column = fragment_column(x / 4 % N_TILES, x % 4);
        int query = KEY_ROWS ? column : row, key = KEY_ROWS ? row : column;
        uint64_t index = first + (uint64_t)query * (uint64_t)c.kv_len + (uint64_t)key;
        kept |= (uint64_t)dropout_keeps(c.dropout, index, words, &drawn) << x;
    }
    return kept;
}

/* What dropout multiplies score e of tile m, n by. */
template <int N_TILES>
LT_DEVICE float dropout_of(const attention_call &c, uint64_t kept, int m, int n, int e)
{
    return kept >> (4 * (m * N_TILES + n) + e) & 1 ? c.dropout.scale : 0;
}

template <int M_TILES, int N_TILES> LT_DEVICE void clear_fragments(float (&x)[M_TILES][N_TILES][4])
{
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int n = 0; n < N_TILES; n++) {
            LT_UNROLL
            for (int e = 0; e < 4; e++)
                x[m][n][e] = 0;
        }
    }
}

/* The 16 rows from `row` on and the 16 columns of step `step`, as the left operand. */
template <int D> LT_DEVICE void load_left(uint32_t a[4], const bf16 *tile, int row, int step)
{
    int lane = (int)threadIdx.x % WARP;
    load_matrix_x4(a, tile + tile_at<D>(row + lane % 16, 2 * step, lane / 16));
}

/* Two right operands whose columns are the rows row .. row + 16 of a tile, for step `step` over its
 * columns: scores. */
template <int D> LT_DEVICE void load_right_rows(uint32_t b[4], const bf16 *tile, int row, int step)
{
    int lane = (int)threadIdx.x % WARP;
    load_matrix_x4(b, tile + tile_at<D>(row + lane % 8 + lane / 16 * 8, 2 * step, lane / 8 % 2));
}

/* Two right operands whose rows are the rows row .. row + 16 of a tile and whose columns are its
 * columns column .. column + 16: weighted sums of rows. */
template <int D>
LT_DEVICE void load_right_columns(uint32_t b[4], const bf16 *tile, int row, int column)
{
    int lane = (int)threadIdx.x % WARP;
    load_matrix_x4_transposed(b, tile + tile_at<D>(row + lane % 16, column / 8, lane / 16));
}

/* x = A B^T over all of D: A are the rows from `row` on of `left`, B the first 8 N_TILES rows of
 * `right`. */
template <int D, int M_TILES, int N_TILES>
LT_DEVICE void multiply_rows(float (&x)[M_TILES][N_TILES][4], const bf16 *left, int row,
                             const bf16 *right)
{
    clear_fragments(x);
    LT_UNROLL_4
    for (int step = 0; step < D / 16; step++) {
        uint32_t a[M_TILES][4];
        LT_UNROLL
        for (int m = 0; m < M_TILES; m++)
            load_left<D>(a[m], left, row + 16 * m, step);
        LT_UNROLL
        for (int n = 0; n < N_TILES; n += 2) {
            uint32_t b[4];
            load_right_rows<D>(b, right, 8 * n, step);
            LT_UNROLL
            for (int m = 0; m < M_TILES; m++) {
                mma_bf16(x[m][n], a[m], b);
                mma_bf16(x[m][n + 1], a[m], b + 2);
            }
        }
    }
}

/* x += P B with P rounded to bf16 in registers, as accumulators hold it; B are the first 8 N_TILES
 * rows of `right`, of them the columns from `column` on. */
template <int D, int M_TILES, int N_TILES, int X_TILES>
LT_DEVICE void multiply_add(float (&x)[M_TILES][X_TILES][4], const float (&p)[M_TILES][N_TILES][4],
                            const bf16 *right, int column)
{
    LT_UNROLL
    for (int step = 0; step < N_TILES / 2; step++) {
        uint32_t a[M_TILES][4];
        LT_UNROLL
        for (int m = 0; m < M_TILES; m++) {
            const float(&low)[4] = p[m][2 * step], (&high)[4] = p[m][2 * step + 1];
            a[m][0] = pack_bf16(low[0], low[1]);
            a[m][1] = pack_bf16(low[2], low[3]);
            a[m][2] = pack_bf16(high[0], high[1]);
            a[m][3] = pack_bf16(high[2], high[3]);
        }
        LT_UNROLL
        for (int n = 0; n < X_TILES; n += 2) {
            uint32_t b[4];
            load_right_columns<D>(b, right, 16 * step, column + 8 * n);
            LT_UNROLL
            for (int m = 0; m < M_TILES; m++) {
                mma_bf16(x[m][n], a[m], b);
                mma_bf16(x[m][n + 1], a[m], b + 2);
            }
        }
    }
}

/* Accumulators, rounded, into rows of a tile. */
template <int D, int M_TILES, int X_TILES>
LT_DEVICE void put_fragments(bf16 *tile, int row, int column, const float (&x)[M_TILES][X_TILES][4])
{
    LT_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        LT_UNROLL
        for (int n = 0; n < X_TILES; n++) {
            LT_UNROLL
            for (int e = 0; e < 4; e += 2) {
                int c = column + fragment_column(n, 0);
                bf16 *to = tile + tile_at<D>(row + fragment_row(m, e), c / 8) + c % 8;
                *reinterpret_cast<uint32_t *>(to) = pack_bf16(x[m][n][e], x[m][n][e + 1]);
            }
        }
    }
}

#endif
