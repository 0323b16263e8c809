/* Strided rows and 16-byte vectors, as the memory-bound kernels use them: where row r of a tensor
 * of any rank starts, loading and storing several neighbours at once, and the grid of a kernel
 * whose threads each take one chunk (N neighbours) of every tensor. */
#ifndef LT_CUDA_ROWS_CUH
#define LT_CUDA_ROWS_CUH

#include <initializer_list>

#include "kernels/cuda/device.cuh"

/* --- Rows ------------------------------------------------------------------------------------ */

/* lt_row_offset for kernels. Dimensions that lie behind each other as one are merged, so that most
 * tensors have a single level. */
struct row_view {
    void *data;
    int64_t stride[3]; /* of each level, innermost first */
    int64_t count[2];  /* rows in the levels below the outermost; 0: there are no more levels */
};

static inline row_view row_view_of(const lt_tensor *t)
{
    row_view view = {t->data, {0, 0, 0}, {0, 0}};
    int64_t merged = 1; /* rows in the level under construction */
    int level = 0;
    for (int d = t->ndim - 2; d >= 0; d--) {
        if (t->shape[d] == 1) continue;
        if (merged == 1) {
            view.stride[level] = t->stride[d];
        } else if (t->stride[d] != merged * view.stride[level]) {
            view.count[level++] = merged;
            view.stride[level] = t->stride[d];
            merged = 1;
        }
        merged *= t->shape[d];
    }
    return view;
}

LT_DEVICE int64_t row_offset(const row_view &view, int64_t row)
{
    if (view.count[0] == 0) return row * view.stride[0];
    int64_t offset = row % view.count[0] * view.stride[0];
    row /= view.count[0];
    if (view.count[1] == 0) return offset + row * view.stride[1];
    offset += row % view.count[1] * view.stride[1];
    return offset + row / view.count[1] * view.stride[2];
}

template <typename T> LT_DEVICE T *row_of(const row_view &view, int64_t row)
{
    return static_cast<T *>(view.data) + row_offset(view, row);
}

/* --- Vectors --------------------------------------------------------------------------------- */

/* BYTES of memory in registers. */
template <int BYTES> struct words {
    uint32_t at[BYTES / 4];
};

/* 16 bytes at a time, or 8 or 4 where there are no more, each by one instruction. */
template <int BYTES> LT_DEVICE words<BYTES> load_words(const void *from)
{
    words<BYTES> w;
    if constexpr (BYTES % 16 == 0) {
        LT_UNROLL
        for (int i = 0; i < BYTES / 16; i++) {
            uint4 x = static_cast<const uint4 *>(from)[i];
            w.at[4 * i] = x.x;
            w.at[4 * i + 1] = x.y;
            w.at[4 * i + 2] = x.z;
            w.at[4 * i + 3] = x.w;
        }
    } else if constexpr (BYTES == 8) {
        uint2 x = *static_cast<const uint2 *>(from);
        w.at[0] = x.x;
        w.at[1] = x.y;
    } else {
        static_assert(BYTES == 4, "4, 8 or a multiple of 16 bytes");
        w.at[0] = *static_cast<const uint32_t *>(from);
    }
    return w;
}

template <int BYTES> LT_DEVICE void store_words(void *to, const words<BYTES> &w)
{
    if constexpr (BYTES % 16 == 0) {
        LT_UNROLL
        for (int i = 0; i < BYTES / 16; i++) {
            uint4 x = {w.at[4 * i], w.at[4 * i + 1], w.at[4 * i + 2], w.at[4 * i + 3]};
            store_16(static_cast<uint4 *>(to) + i, x);
        }
    } else if constexpr (BYTES == 8) {
        uint2 x = {w.at[0], w.at[1]};
        store_8(to, x);
    } else {
        static_assert(BYTES == 4, "4, 8 or a multiple of 16 bytes");
        *static_cast<uint32_t *>(to) = w.at[0];
    }
}

/* N neighbours as f32. N > 1: the address is a multiple of N numbers, or of 16 bytes. */
template <int N> LT_DEVICE void load(const float *from, float (&x)[N])
{
    if constexpr (N == 1) {
        x[0] = *from;
    } else {
        words<4 *N> raw = load_words<4 * N>(from);
        LT_UNROLL
        for (int i = 0; i < N; i++)
            x[i] = float_of_bits(raw.at[i]);
    }
}

template <int N> LT_DEVICE void load(const bf16 *from, float (&x)[N])
{
    if constexpr (N == 1) {
        x[0] = to_float(*from);
    } else {
        words<2 *N> raw = load_words<2 * N>(from);
        LT_UNROLL
        for (int i = 0; i < N; i += 2) {
            x[i] = float_of_bits(raw.at[i / 2] << 16);
            x[i + 1] = float_of_bits(raw.at[i / 2] & 0xffff0000u);
        }
    }
}

template <int N> LT_DEVICE void store(float *to, const float (&x)[N])
{
    if constexpr (N == 1) {
        *to = x[0];
    } else {
        words<4 * N> raw;
        LT_UNROLL
        for (int i = 0; i < N; i++)
            raw.at[i] = bits_of_float(x[i]);
        store_words(to, raw);
    }
}

template <int N> LT_DEVICE void store(bf16 *to, const float (&x)[N])
{
    if constexpr (N == 1) {
        store(to, x[0]);
    } else {
        words<2 * N> raw;
        LT_UNROLL
        for (int i = 0; i < N; i += 2)
            raw.at[i / 2] = pack_bf16(x[i], x[i + 1]);
        store_words(to, raw);
    }
}

/* The same bits. */
template <int N, typename T> LT_DEVICE void copy(T *to, const T *from)
{
    if constexpr (N == 1)
        *to = *from;
    else
        store_words(to, load_words<(int)sizeof(T) * N>(from));
}

/* x as it will be read after store. */
LT_DEVICE float rounded(const float *, float x)
{
    return x;
}

LT_DEVICE float rounded(const bf16 *, float x)
{
    return float_of_bits(pack_bf16(x, 0) << 16);
}

/* Numbers of this type in 16 bytes. */
template <typename T> constexpr int VECTOR = 16 / sizeof(T);

/* May chunks of `chunk` numbers be loaded at once: do all rows start at a multiple of them? */
static inline bool rows_are_aligned(const lt_tensor *t, int chunk)
{
    int64_t size = (int64_t)lt_dtype_size(t->dtype), bytes = chunk * size;
    if (bytes > 16) bytes = 16;
    if (!t->data) return true;
    bool aligned = (uintptr_t)t->data % (uintptr_t)bytes == 0;
    for (int d = 0; d < t->ndim - 1; d++)
        aligned = aligned && (t->shape[d] <= 1 || t->stride[d] * size % bytes == 0);
    return aligned;
}

static inline int vector_of(lt_dtype real)
{
    return real == LT_BF16 ? VECTOR<bf16> : VECTOR<float>;
}

/* Can a kernel take VECTOR numbers at a time of rows of `columns`? */
static inline bool is_wide(const lt_backend *backend, int64_t columns,
                           std::initializer_list<const lt_tensor *> tensors)
{
    int chunk = vector_of(backend->real);
    bool wide = columns % chunk == 0;
    for (const lt_tensor *t : tensors)
        wide = wide && rows_are_aligned(t, chunk);
    return wide;
}

/* --- One thread, one chunk ---------------------------------------------------------------------
 */

enum { CHUNK_THREADS = 256 };

/* Rows of `columns` numbers, taken in chunks that are counted row by row. */
struct chunk_grid {
    int64_t rows, columns;
    bool wide;
};

static inline chunk_grid chunk_grid_of(const lt_backend *backend, int64_t rows, int64_t columns,
                                       std::initializer_list<const lt_tensor *> tensors)
{
    return chunk_grid{rows, columns, is_wide(backend, columns, tensors)};
}

/* This thread's row and first column; false: nothing is left for it. */
template <int N> LT_DEVICE bool chunk_of(chunk_grid grid, int64_t *row, int64_t *column)
{
    int64_t chunk = (int64_t)blockIdx.x * CHUNK_THREADS + threadIdx.x, chunks = grid.columns / N;
    if (chunk >= grid.rows * chunks) return false;
    *row = grid.rows == 1 ? 0 : chunk / chunks;
    *column = (chunk - *row * chunks) * N;
    return true;
}

/* Launches kernel<T, N>(grid, ...): T the backend's real type, N a vector of them or 1. The same
 * for another type: a grid that is wide for bf16 is so for f32. */
#define LAUNCH_CHUNKS(backend, operation, err, kernel, grid, ...) \
    LAUNCH_CHUNKS_AS((backend)->real, backend, operation, err, kernel, grid, __VA_ARGS__)
#define LAUNCH_CHUNKS_AS(dtype, backend, operation, err, kernel, grid, ...)                   \
    ((dtype) == LT_BF16 ? (grid).wide                                                         \
                              ? LAUNCH_CHUNKS_OF(backend, operation, err, VECTOR<bf16>, grid, \
                                                 (kernel<bf16, VECTOR<bf16>>), __VA_ARGS__)   \
                              : LAUNCH_CHUNKS_OF(backend, operation, err, 1, grid,            \
                                                 (kernel<bf16, 1>), __VA_ARGS__)              \
     : (grid).wide                                                                            \
         ? LAUNCH_CHUNKS_OF(backend, operation, err, VECTOR<float>, grid,                     \
                            (kernel<float, VECTOR<float>>), __VA_ARGS__)                      \
         : LAUNCH_CHUNKS_OF(backend, operation, err, 1, grid, (kernel<float, 1>), __VA_ARGS__))
#define LAUNCH_CHUNKS_OF(backend, operation, err, n, grid, kernel, ...)                       \
    lt_launch(backend, operation, err, kernel,                                                \
              ceil_div((grid).rows *((grid).columns / (n)), CHUNK_THREADS), CHUNK_THREADS, 0, \
              grid, __VA_ARGS__)

#endif
