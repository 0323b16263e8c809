/* Attention of a few queries to many keys: flash-decoding (Dao et al., 2023), limited by how fast
 * keys and values can be read.
 *
 * Keys are cut into chunks of fixed length, a block for each. What a block has of its chunk, the
 * largest score, the sum of exponentials and the weighted sum of values, goes to scratch memory; a
 * second kernel adds the chunks up in order. Chunks that nobody sees are never looked at: a result
 * does not depend on kv_len, and a recorded launch is right for any offset.
 *
 * Rows are the queries of all heads that share a key/value head, so keys are read once for them. */
#include "kernels/cuda/attention.cuh"

enum { CHUNK = 128, DECODE_THREADS = 128, DECODE_WARPS = DECODE_THREADS / WARP, IN_FLIGHT = 4 };

/* A task is a pair (b, key/value head) and `ROWS` of its rows. Rows of head_dim are padded to
 * `width` in `sums` [task, ROWS, chunks, width]; numbers [task, ROWS, chunks]: maximum, sum. */
struct decode_call {
    attention_call c;
    float *sums;
    float2 *numbers;
    int64_t first_task;
    int chunks, tasks_per_pair;
};

/* Where row r of a task is; i < 0: there is none. */
struct decode_row {
    int64_t b;
    int h, i;
};

LT_DEVICE decode_row row_of(const decode_call &p, int64_t local_task, int rows, int r)
{
    const attention_call &c = p.c;
    int64_t task = p.first_task + local_task, pair = task / p.tasks_per_pair;
    int group = c.heads / c.kv_heads, row = (int)(task % p.tasks_per_pair) * rows + r;
    decode_row place = {pair / c.kv_heads, (int)(pair % c.kv_heads) * group + row / c.q_len,
                        row < group * c.q_len ? row % c.q_len : -1};
    return place;
}

LT_DEVICE key_ranges keys_of_row(const decode_call &p, int64_t local_task, int rows, int r)
{
    decode_row place = row_of(p, local_task, rows, r);
    return place.i < 0 ? no_keys() : keys_of(p.c, place.b, place.i);
}

/* 8 elements of a row, as they are in memory. */
template <typename T> struct eight {
    uint4 words[sizeof(T) / 2];
};

LT_DEVICE void unpack(float x[8], const eight<float> &from)
{
    for (int half = 0; half < 2; half++) {
        uint4 w = from.words[half];
        x[4 * half] = __uint_as_float(w.x);
        x[4 * half + 1] = __uint_as_float(w.y);
        x[4 * half + 2] = __uint_as_float(w.z);
        x[4 * half + 3] = __uint_as_float(w.w);
    }
}

LT_DEVICE void unpack(float x[8], const eight<bf16> &from)
{
    uint32_t words[4] = {from.words[0].x, from.words[0].y, from.words[0].z, from.words[0].w};
    LT_UNROLL
    for (int pair = 0; pair < 4; pair++) {
        x[2 * pair] = __uint_as_float(words[pair] << 16);
        x[2 * pair + 1] = __uint_as_float(words[pair] & 0xffff0000u);
    }
}

/* The word that starts with element d; 0 behind head_dim. */
LT_DEVICE uint32_t word_at(const float *row, int d, int head_dim)
{
    return d < head_dim ? __float_as_uint(row[d]) : 0;
}

LT_DEVICE uint32_t word_at(const bf16 *row, int d, int head_dim)
{
    uint32_t low = d < head_dim ? row[d].bits : 0, high = d + 1 < head_dim ? row[d + 1].bits : 0;
    return low | high << 16;
}

/* row[d .. d + 8); 0 behind head_dim, and everywhere unless `wanted`. */
template <typename T>
LT_DEVICE eight<T> read_eight(const T *row, int d, const attention_call &c, bool wanted)
{
    constexpr int PER_WORD = (int)(4 / sizeof(T));
    eight<T> x;
    LT_UNROLL
    for (int i = 0; i < (int)sizeof(T) / 2; i++) {
        int at = d + 4 * PER_WORD * i;
        x.words[i] = make_uint4(0, 0, 0, 0);
        if (!wanted || at >= c.head_dim) continue;
        if (c.vectors)
            x.words[i] = *reinterpret_cast<const uint4 *>(row + at);
        else
            x.words[i] =
                make_uint4(word_at(row, at, c.head_dim), word_at(row, at + PER_WORD, c.head_dim),
                           word_at(row, at + 2 * PER_WORD, c.head_dim),
                           word_at(row, at + 3 * PER_WORD, c.head_dim));
    }
    return x;
}

/* scores[r][key of the chunk]: LANES threads have a key, 8 elements each. */
template <typename T, int LANES, int ROWS>
LT_DEVICE void chunk_scores(const decode_call &p, int64_t task, int first_key,
                            const key_ranges &seen, const key_ranges *ranges, float *scores)
{
    const attention_call &c = p.c;
    int d = (int)threadIdx.x % LANES * 8, position = (int)threadIdx.x / LANES;
    decode_row place = row_of(p, task, ROWS, 0);
    const T *k = head_of<T>(c.k, place.b, place.h / (c.heads / c.kv_heads));
    float q[ROWS][8];
    LT_UNROLL
    for (int r = 0; r < ROWS; r++) {
        place = row_of(p, task, ROWS, r);
        const T *head = head_of<T>(c.q, place.b, place.i < 0 ? 0 : place.h);
        const T *row = head + max(place.i, 0) * c.q.row_stride;
        unpack(q[r], read_eight(row, d, c, place.i >= 0));
    }
    for (; position < CHUNK; position += IN_FLIGHT * (DECODE_THREADS / LANES)) {
        eight<T> keys[IN_FLIGHT];
        LT_UNROLL
        for (int x = 0; x < IN_FLIGHT; x++) {
            int key = first_key + position + x * (DECODE_THREADS / LANES);
            keys[x] = read_eight(k + key * c.k.row_stride, d, c, sees(seen, key));
        }
        LT_UNROLL
        for (int x = 0; x < IN_FLIGHT; x++) {
            int at = position + x * (DECODE_THREADS / LANES);
            float key[8];
            unpack(key, keys[x]);
            LT_UNROLL
            for (int r = 0; r < ROWS; r++) {
                float sum = 0;
                LT_UNROLL
                for (int e = 0; e < 8; e++)
                    sum += q[r][e] * key[e];
                LT_UNROLL
                for (int by = LANES / 2; by > 0; by /= 2)
                    sum += __shfl_xor_sync(FULL_MASK, sum, by);
                if (d == 0)
                    scores[r * CHUNK + at] =
                        sees(ranges[r], first_key + at) ? sum * (c.scale * LOG2_E) : -INFINITY;
            }
        }
    }
}

/* Scores become exponentials relative to the chunk's maximum. A warp has a row. */
template <int ROWS> LT_DEVICE void chunk_softmax(float *scores, float2 *numbers, int chunks)
{
    int lane = (int)threadIdx.x % WARP;
    for (int r = (int)threadIdx.x / WARP; r < ROWS; r += DECODE_WARPS) {
        float maximum = -INFINITY, sum = 0;
        for (int key = lane; key < CHUNK; key += WARP)
            maximum = fmaxf(maximum, scores[r * CHUNK + key]);
        maximum = warp_max(maximum);
        for (int key = lane; key < CHUNK; key += WARP) {
            float e = fast_exp2(scores[r * CHUNK + key] - softmax_base(maximum));
            scores[r * CHUNK + key] = e;
            sum += e;
        }
        sum = warp_sum(sum);
        if (lane == 0) numbers[r * chunks] = make_float2(maximum, sum);
    }
}

/* sums[r] = the chunk's values weighted by scores[r]: first over this thread's keys, then over the
 * threads of a warp with the same elements, then over warps. */
template <typename T, int LANES, int ROWS>
LT_DEVICE void chunk_values(const decode_call &p, int64_t task, int first_key,
                            const key_ranges &seen, const float *scores, float *partial,
                            float *sums)
{
    const attention_call &c = p.c;
    int d = (int)threadIdx.x % LANES * 8, warp = (int)threadIdx.x / WARP;
    decode_row place = row_of(p, task, ROWS, 0);
    const T *v = head_of<T>(c.v, place.b, place.h / (c.heads / c.kv_heads));
    float sum[ROWS][8] = {};
    for (int position = (int)threadIdx.x / LANES; position < CHUNK;
         position += IN_FLIGHT * (DECODE_THREADS / LANES)) {
        eight<T> values[IN_FLIGHT];
        LT_UNROLL
        for (int x = 0; x < IN_FLIGHT; x++) {
            int key = first_key + position + x * (DECODE_THREADS / LANES);
            values[x] = read_eight(v + key * c.v.row_stride, d, c, sees(seen, key));
        }
        LT_UNROLL
        for (int x = 0; x < IN_FLIGHT; x++) {
            float value[8];
            unpack(value, values[x]);
            LT_UNROLL
            for (int r = 0; r < ROWS; r++) {
                LT_UNROLL
                for (int e = 0; e < 8; e++)
                    sum[r][e] +=
                        scores[r * CHUNK + position + x * (DECODE_THREADS / LANES)] * value[e];
            }
        }
    }
    LT_UNROLL
    for (int r = 0; r < ROWS; r++) {
        LT_UNROLL
        for (int e = 0; e < 8; e++) {
            LT_UNROLL
            for (int by = LANES; by < WARP; by *= 2)
                sum[r][e] += __shfl_xor_sync(FULL_MASK, sum[r][e], by);
            if ((int)threadIdx.x % WARP < LANES)
                partial[(warp * ROWS + r) * LANES * 8 + d + e] = sum[r][e];
        }
    }
    __syncthreads();
    for (int x = (int)threadIdx.x; x < ROWS * LANES * 8; x += DECODE_THREADS) {
        float total = 0;
        for (int w = 0; w < DECODE_WARPS; w++)
            total += partial[w * ROWS * LANES * 8 + x];
        sums[(int64_t)(x / (LANES * 8)) * p.chunks * LANES * 8 + x % (LANES * 8)] = total;
    }
}

template <int LANES, int ROWS> struct decode_block {
    static constexpr size_t SHARED = ROWS * sizeof(key_ranges) + ROWS * CHUNK * sizeof(float) +
                                     DECODE_WARPS * ROWS * LANES * 8 * sizeof(float);
};

template <typename T, int LANES, int ROWS>
__global__ void __launch_bounds__(DECODE_THREADS) decode_chunk_kernel(const decode_call p)
{
    key_ranges *ranges = shared_memory<key_ranges>();
    float *scores = reinterpret_cast<float *>(ranges + ROWS), *partial = scores + ROWS * CHUNK;
    int chunk = (int)(blockIdx.x % p.chunks), first_key = chunk * CHUNK;
    int64_t task = blockIdx.x / p.chunks, place = task * ROWS * p.chunks + chunk;
    if (threadIdx.x < ROWS) ranges[threadIdx.x] = keys_of_row(p, task, ROWS, (int)threadIdx.x);
    __syncthreads();
    key_ranges seen = ranges[0];
    for (int r = 1; r < ROWS; r++)
        unite(&seen, ranges[r]);
    if (!sees_any(seen, first_key, first_key + CHUNK)) return;
    chunk_scores<T, LANES, ROWS>(p, task, first_key, seen, ranges, scores);
    __syncthreads();
    chunk_softmax<ROWS>(scores, p.numbers + place, p.chunks);
    __syncthreads();
    chunk_values<T, LANES, ROWS>(p, task, first_key, seen, scores, partial,
                                 p.sums + place * LANES * 8);
}

/* A block for each row, whose warps take every DECODE_WARPS-th chunk. */
template <typename T, int LANES, int ROWS>
__global__ void __launch_bounds__(DECODE_THREADS) decode_combine_kernel(const decode_call p)
{
    constexpr int WIDTH = LANES * 8;
    const attention_call &c = p.c;
    float *totals =
        shared_memory<float>(); /* [warp, WIDTH + 1], the last the sum of exponentials */
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    decode_row place = row_of(p, blockIdx.x / ROWS, ROWS, (int)(blockIdx.x % ROWS));
    if (place.i < 0) return;
    key_ranges seen = keys_of(c, place.b, place.i);
    const float2 *numbers = p.numbers + (int64_t)blockIdx.x * p.chunks;
    const float *sums = p.sums + (int64_t)blockIdx.x * p.chunks * WIDTH;
    int chunks = (max(seen.last[0], seen.last[1]) + CHUNK - 1) / CHUNK;

    float maximum = -INFINITY, sum = 0, total[WIDTH / WARP] = {};
    for (int chunk = lane; chunk < chunks; chunk += WARP)
        if (sees_any(seen, chunk * CHUNK, (chunk + 1) * CHUNK))
            maximum = fmaxf(maximum, numbers[chunk].x);
    maximum = warp_max(maximum);
    for (int chunk = warp; chunk < chunks; chunk += DECODE_WARPS) {
        if (!sees_any(seen, chunk * CHUNK, (chunk + 1) * CHUNK)) continue;
        float weight = fast_exp2(numbers[chunk].x - softmax_base(maximum));
        sum += weight * numbers[chunk].y;
        LT_UNROLL
        for (int x = 0; x < WIDTH / WARP; x++)
            total[x] += weight * sums[(int64_t)chunk * WIDTH + lane + WARP * x];
    }
    LT_UNROLL
    for (int x = 0; x < WIDTH / WARP; x++)
        totals[warp * (WIDTH + 1) + lane + WARP * x] = total[x];
    if (lane == 0) totals[warp * (WIDTH + 1) + WIDTH] = sum;
    __syncthreads();

    sum = 0;
    for (int w = 0; w < DECODE_WARPS; w++)
        sum += totals[w * (WIDTH + 1) + WIDTH];
    T *out = head_of<T>(c.out, place.b, place.h) + place.i * c.out.row_stride;
    for (int d = (int)threadIdx.x; d < c.head_dim; d += DECODE_THREADS) {
        float x = 0;
        for (int w = 0; w < DECODE_WARPS; w++)
            x += totals[w * (WIDTH + 1) + d];
        store(out + d, sees_none(seen) ? 0 : x / sum);
    }
    if (c.lse && threadIdx.x == 0)
        c.lse[(place.b * c.heads + place.h) * c.q_len + place.i] =
            sees_none(seen) ? -INFINITY : (maximum + log2f(sum)) * LN_2;
}

/* As many tasks at once as scratch memory has room for. */
template <typename T, int LANES, int ROWS>
static lt_status decode_tasks(const lt_backend *backend, decode_call *p, int64_t tasks, lt_err *err)
{
    const char *operation = "attention_forward";
    constexpr int WIDTH = LANES * 8;
    int64_t rows_room = (int64_t)(LT_CUDA_SCRATCH / ((WIDTH + 2) * sizeof(float)));
    int64_t at_once = p->chunks ? rows_room / ((int64_t)ROWS * p->chunks) : tasks;
    p->sums = static_cast<float *>(cuda_of(backend)->scratch);
    p->numbers = reinterpret_cast<float2 *>(p->sums + at_once * ROWS * p->chunks * WIDTH);
    for (p->first_task = 0; p->first_task < tasks; p->first_task += at_once) {
        int64_t count = tasks - p->first_task < at_once ? tasks - p->first_task : at_once;
        LT_TRY(lt_launch(backend, operation, err, decode_chunk_kernel<T, LANES, ROWS>,
                         dim3((unsigned)(count * p->chunks)), dim3(DECODE_THREADS),
                         decode_block<LANES, ROWS>::SHARED, *p));
        LT_TRY(lt_launch(backend, operation, err, decode_combine_kernel<T, LANES, ROWS>,
                         dim3((unsigned)(count * ROWS)), dim3(DECODE_THREADS),
                         DECODE_WARPS * (WIDTH + 1) * sizeof(float), *p));
    }
    return LT_OK;
}

/* The rows of a task: as many as a pair has, or as scratch memory has room for. */
template <typename T, int LANES>
static lt_status decode(const lt_backend *backend, const lt_attention_args *a, lt_err *err)
{
    decode_call p = {};
    p.c = attention_call_of(a);
    p.chunks = (int)ceil_div(p.c.kv_len, CHUNK);
    int rows = p.c.heads / p.c.kv_heads * p.c.q_len;
    int64_t pairs = a->k.shape[2] * a->q.shape[0];
    int64_t room = (int64_t)(LT_CUDA_SCRATCH / ((LANES * 8 + 2) * sizeof(float)));
    if (p.chunks > room)
        return lt_fail(err, LT_ERR_LIMIT, "attention_forward: %d keys are too many", p.c.kv_len);
    int height = rows == 1 || 4 * (int64_t)p.chunks > room   ? 1
                 : rows <= 4 || 8 * (int64_t)p.chunks > room ? 4
                                                             : 8;
    p.tasks_per_pair = (int)ceil_div(rows, height);
    int64_t tasks = pairs * p.tasks_per_pair;
    if (height == 1) return decode_tasks<T, LANES, 1>(backend, &p, tasks, err);
    if (height == 4) return decode_tasks<T, LANES, 4>(backend, &p, tasks, err);
    return decode_tasks<T, LANES, 8>(backend, &p, tasks, err);
}

template <typename T>
static lt_status decode_of(const lt_backend *backend, const lt_attention_args *a, lt_err *err)
{
    if (a->q.shape[3] <= 64) return decode<T, 8>(backend, a, err);
    if (a->q.shape[3] <= 128) return decode<T, 16>(backend, a, err);
    return decode<T, 32>(backend, a, err);
}

lt_status attention_decode(const lt_backend *backend, const lt_attention_args *a, lt_err *err)
{
    return backend->real == LT_F32 ? decode_of<float>(backend, a, err)
                                   : decode_of<bf16>(backend, a, err);
}
