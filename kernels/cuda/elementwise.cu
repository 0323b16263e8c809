/* Operations in which every element goes its own way: activations, SwiGLU, sums, scalings, dropout,
 * zeros, conversions. Each thread takes one chunk: 16 bytes of every tensor where they are aligned,
 * else one element. It has loaded the chunk before it stores, so outputs may alias inputs. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/convert.cuh"

/* --- Tensors of one shape ----------------------------------------------------------------------
 */

/* Up to 3 tensors of one shape, as a single row when all of them are contiguous. */
struct elements {
    chunk_grid grid;
    row_view view[3];
};

static elements elements_of(const lt_backend *backend,
                            std::initializer_list<const lt_tensor *> tensors)
{
    const lt_tensor *like = *tensors.begin();
    int64_t rows = lt_row_count(like), columns = lt_row_length(like);
    bool flat = true;
    elements e = {};
    for (const lt_tensor *t : tensors)
        flat = flat && lt_tensor_is_contiguous(*t);
    if (flat) {
        columns *= rows;
        rows = 1;
    }
    e.grid = chunk_grid_of(backend, rows, columns, tensors);
    int i = 0;
    for (const lt_tensor *t : tensors)
        e.view[i++] = row_view_of(t);
    return e;
}

/* --- Activations -------------------------------------------------------------------------------
 */

template <typename T, int N>
static __global__ void activation_forward_kernel(chunk_grid grid, lt_activation activation,
                                                 row_view x_rows, row_view y_rows)
{
    int64_t row, column;
    float x[N];
    if (!chunk_of<N>(grid, &row, &column)) return;
    load(row_of<T>(x_rows, row) + column, x);
    LT_UNROLL
    for (int i = 0; i < N; i++)
        x[i] = activate(activation, x[i]);
    store(row_of<T>(y_rows, row) + column, x);
}

template <typename T, int N>
static __global__ void activation_backward_kernel(chunk_grid grid, lt_activation activation,
                                                  row_view x_rows, row_view dy_rows,
                                                  row_view dx_rows)
{
    int64_t row, column;
    float x[N], d[N];
    if (!chunk_of<N>(grid, &row, &column)) return;
    load(row_of<T>(x_rows, row) + column, x);
    load(row_of<T>(dy_rows, row) + column, d);
    LT_UNROLL
    for (int i = 0; i < N; i++)
        d[i] *= activation_derivative(activation, x[i]);
    store(row_of<T>(dx_rows, row) + column, d);
}

extern "C" lt_status lt_cuda_activation_forward(const lt_backend *backend,
                                                const lt_activation_args *a, lt_err *err)
{
    elements e = elements_of(backend, {&a->x, &a->y});
    return LAUNCH_CHUNKS(backend, "activation_forward", err, activation_forward_kernel, e.grid,
                         a->activation, e.view[0], e.view[1]);
}

extern "C" lt_status lt_cuda_activation_backward(const lt_backend *backend,
                                                 const lt_activation_backward_args *a, lt_err *err)
{
    elements e = elements_of(backend, {&a->x, &a->dy, &a->dx});
    return LAUNCH_CHUNKS(backend, "activation_backward", err, activation_backward_kernel, e.grid,
                         a->activation, e.view[0], e.view[1], e.view[2]);
}

/* --- SwiGLU: the up half of a row lies `grid.columns` behind the gate half ---------------------
 */

template <typename T, int N>
static __global__ void swiglu_forward_kernel(chunk_grid grid, row_view gate_up_rows,
                                             row_view y_rows)
{
    int64_t row, column;
    float gate[N], up[N];
    if (!chunk_of<N>(grid, &row, &column)) return;
    const T *gate_up = row_of<T>(gate_up_rows, row) + column;
    load(gate_up, gate);
    load(gate_up + grid.columns, up);
    LT_UNROLL
    for (int i = 0; i < N; i++)
        up[i] *= silu(gate[i]);
    store(row_of<T>(y_rows, row) + column, up);
}

/* dgate = dy up silu'(gate);  dup = dy silu(gate) */
template <typename T, int N>
static __global__ void swiglu_backward_kernel(chunk_grid grid, row_view gate_up_rows,
                                              row_view dy_rows, row_view dgate_up_rows)
{
    int64_t row, column;
    float gate[N], up[N], d[N];
    if (!chunk_of<N>(grid, &row, &column)) return;
    const T *gate_up = row_of<T>(gate_up_rows, row) + column;
    T *dgate_up = row_of<T>(dgate_up_rows, row) + column;
    load(gate_up, gate);
    load(gate_up + grid.columns, up);
    load(row_of<T>(dy_rows, row) + column, d);
    LT_UNROLL
    for (int i = 0; i < N; i++) {
        float dgate = d[i] * up[i] * silu_derivative(gate[i]);
        up[i] = d[i] * silu(gate[i]);
        gate[i] = dgate;
    }
    store(dgate_up, gate);
    store(dgate_up + grid.columns, up);
}

extern "C" lt_status lt_cuda_swiglu_forward(const lt_backend *backend, const lt_swiglu_args *a,
                                            lt_err *err)
{
    chunk_grid grid = chunk_grid_of(backend, a->y.shape[0], a->y.shape[1], {&a->gate_up, &a->y});
    return LAUNCH_CHUNKS(backend, "swiglu_forward", err, swiglu_forward_kernel, grid,
                         row_view_of(&a->gate_up), row_view_of(&a->y));
}

extern "C" lt_status lt_cuda_swiglu_backward(const lt_backend *backend,
                                             const lt_swiglu_backward_args *a, lt_err *err)
{
    chunk_grid grid =
        chunk_grid_of(backend, a->dy.shape[0], a->dy.shape[1], {&a->gate_up, &a->dy, &a->dgate_up});
    return LAUNCH_CHUNKS(backend, "swiglu_backward", err, swiglu_backward_kernel, grid,
                         row_view_of(&a->gate_up), row_view_of(&a->dy), row_view_of(&a->dgate_up));
}

/* --- Sums and scalings -------------------------------------------------------------------------
 */

template <typename T, int N>
static __global__ void add_kernel(chunk_grid grid, row_view a_rows, row_view b_rows,
                                  row_view y_rows)
{
    int64_t row, column;
    float a[N], b[N];
    if (!chunk_of<N>(grid, &row, &column)) return;
    load(row_of<T>(a_rows, row) + column, a);
    load(row_of<T>(b_rows, row) + column, b);
    LT_UNROLL
    for (int i = 0; i < N; i++)
        a[i] += b[i];
    store(row_of<T>(y_rows, row) + column, a);
}

template <typename T, int N>
static __global__ void scale_kernel(chunk_grid grid, float factor, row_view x_rows, row_view y_rows)
{
    int64_t row, column;
    float x[N];
    if (!chunk_of<N>(grid, &row, &column)) return;
    load(row_of<T>(x_rows, row) + column, x);
    LT_UNROLL
    for (int i = 0; i < N; i++)
        x[i] *= factor;
    store(row_of<T>(y_rows, row) + column, x);
}

struct scale_columns {
    row_view x, y, residual; /* residual.data NULL: none */
    const float *scale;
    const void *bias; /* or NULL */
    float shift;
    bool accumulate;
};

template <typename T, int N>
static __global__ void scale_columns_kernel(chunk_grid grid, scale_columns p)
{
    int64_t row, column;
    float v[N], scale[N], other[N];
    if (!chunk_of<N>(grid, &row, &column)) return;
    T *y = row_of<T>(p.y, row) + column;
    load(row_of<T>(p.x, row) + column, v);
    load(p.scale + column, scale);
    LT_UNROLL
    for (int i = 0; i < N; i++)
        v[i] *= scale[i] + p.shift;
    const T *added[] = {p.bias ? static_cast<const T *>(p.bias) + column : nullptr,
                        p.residual.data ? row_of<T>(p.residual, row) + column : nullptr,
                        p.accumulate ? y : nullptr};
    LT_UNROLL
    for (int k = 0; k < 3; k++) {
        if (!added[k]) continue;
        load(added[k], other);
        LT_UNROLL
        for (int i = 0; i < N; i++)
            v[i] += other[i];
    }
    store(y, v);
}

extern "C" lt_status lt_cuda_add(const lt_backend *backend, const lt_add_args *a, lt_err *err)
{
    elements e = elements_of(backend, {&a->a, &a->b, &a->y});
    return LAUNCH_CHUNKS_AS(a->y.dtype, backend, "add", err, add_kernel, e.grid, e.view[0],
                            e.view[1], e.view[2]);
}

extern "C" lt_status lt_cuda_scale(const lt_backend *backend, const lt_scale_args *a, lt_err *err)
{
    elements e = elements_of(backend, {&a->x, &a->y});
    return LAUNCH_CHUNKS(backend, "scale", err, scale_kernel, e.grid, (float)a->factor, e.view[0],
                         e.view[1]);
}

extern "C" lt_status lt_cuda_scale_columns(const lt_backend *backend,
                                           const lt_scale_columns_args *a, lt_err *err)
{
    chunk_grid grid = chunk_grid_of(backend, a->x.shape[0], a->x.shape[1],
                                    {&a->x, &a->y, &a->scale, &a->bias, &a->residual});
    scale_columns p = {row_view_of(&a->x),
                       row_view_of(&a->y),
                       row_view_of(&a->residual),
                       static_cast<const float *>(a->scale.data),
                       a->bias.data,
                       (float)a->shift,
                       a->accumulate};
    return LAUNCH_CHUNKS(backend, "scale_columns", err, scale_columns_kernel, grid, p);
}

/* --- Dropout -----------------------------------------------------------------------------------
 */

/* Four elements to a thread, which share a Philox block. A dropped infinity is 0, not NaN. */
template <typename T>
static __global__ void dropout_kernel(int64_t count, bool wide, dropout_key key, const T *x, T *y)
{
    int64_t start = ((int64_t)blockIdx.x * CHUNK_THREADS + threadIdx.x) * 4;
    uint32_t drawn[4];
    if (start >= count) return;
    philox(key.seed, key.stream, (uint64_t)start / 4, drawn);
    if (wide && start + 4 <= count) {
        float v[4];
        load(x + start, v);
        LT_UNROLL
        for (int i = 0; i < 4; i++)
            v[i] = drawn[i] >= key.threshold ? v[i] * key.scale : 0;
        store(y + start, v);
        return;
    }
    LT_UNROLL
    for (int i = 0; i < 4; i++)
        if (start + i < count)
            store(y + start + i,
                  drawn[i] >= key.threshold ? to_float(x[start + i]) * key.scale : 0);
}

template <typename T>
static lt_status dropout(const lt_backend *backend, const lt_dropout_args *a, lt_err *err)
{
    int64_t count = lt_tensor_count(a->x);
    bool wide = rows_are_aligned(&a->x, 4) && rows_are_aligned(&a->y, 4);
    return lt_launch(backend, "dropout", err, dropout_kernel<T>, ceil_div(count, 4 * CHUNK_THREADS),
                     CHUNK_THREADS, 0, count, wide, dropout_key_of(&a->dropout),
                     static_cast<const T *>(a->x.data), static_cast<T *>(a->y.data));
}

extern "C" lt_status lt_cuda_dropout(const lt_backend *backend, const lt_dropout_args *a,
                                     lt_err *err)
{
    return backend->real == LT_BF16 ? dropout<bf16>(backend, a, err)
                                    : dropout<float>(backend, a, err);
}

/* --- Zeros and conversions ---------------------------------------------------------------------
 */

extern "C" lt_status lt_cuda_zero(const lt_backend *backend, const lt_zero_args *a, lt_err *err)
{
    size_t bytes = (size_t)lt_tensor_count(a->y) * lt_dtype_size(a->y.dtype);
    if (!bytes) return LT_OK;
    return lt_cuda_check(cudaMemsetAsync(a->y.data, 0, bytes, cuda_of(backend)->stream), "zero",
                         err);
}

/* What one thread converts: 16 bytes of the smallest type. */
enum { CONVERTED = 8 };
template <typename T> struct alignas(16) converted {
    T at[CONVERTED];
};

template <typename To, typename From>
static __global__ void convert_kernel(int64_t count, bool wide, const From *x, To *y)
{
    int64_t start = ((int64_t)blockIdx.x * CHUNK_THREADS + threadIdx.x) * CONVERTED;
    if (wide && start + CONVERTED <= count) {
        converted<From> from = *reinterpret_cast<const converted<From> *>(x + start);
        converted<To> to;
        LT_UNROLL
        for (int i = 0; i < CONVERTED; i++)
            convert_number(&to.at[i], from.at[i]);
        *reinterpret_cast<converted<To> *>(y + start) = to;
        return;
    }
    for (int64_t i = start; i < start + CONVERTED && i < count; i++)
        convert_number(&y[i], x[i]);
}

template <typename To, typename From>
static lt_status convert_both(const lt_backend *backend, const lt_convert_args *a, lt_err *err)
{
    int64_t count = lt_tensor_count(a->x);
    bool wide = ((uintptr_t)a->x.data | (uintptr_t)a->y.data) % 16 == 0;
    return lt_launch(backend, "convert", err, convert_kernel<To, From>,
                     ceil_div(count, CONVERTED * CHUNK_THREADS), CHUNK_THREADS, 0, count, wide,
                     static_cast<const From *>(a->x.data), static_cast<To *>(a->y.data));
}

template <typename From>
static lt_status convert_from(const lt_backend *backend, const lt_convert_args *a, lt_err *err)
{
    switch (a->y.dtype) {
    case LT_F32:
        return convert_both<float, From>(backend, a, err);
    case LT_F64:
        return convert_both<double, From>(backend, a, err);
    case LT_BF16:
        return convert_both<bf16, From>(backend, a, err);
    default:
        return convert_both<f16, From>(backend, a, err);
    }
}

extern "C" lt_status lt_cuda_convert(const lt_backend *backend, const lt_convert_args *a,
                                     lt_err *err)
{
    size_t bytes = (size_t)lt_tensor_count(a->x) * lt_dtype_size(a->x.dtype);
    if (a->x.dtype == a->y.dtype) { /* bit for bit, NaN payloads too */
        if (!bytes || a->x.data == a->y.data) return LT_OK;
        return lt_cuda_check(cudaMemcpyAsync(a->y.data, a->x.data, bytes, cudaMemcpyDeviceToDevice,
                                             cuda_of(backend)->stream),
                             "convert", err);
    }
    switch (a->x.dtype) {
    case LT_F32:
        return convert_from<float>(backend, a, err);
    case LT_F64:
        return convert_from<double>(backend, a, err);
    case LT_BF16:
        return convert_from<bf16>(backend, a, err);
    default:
        return convert_from<f16>(backend, a, err);
    }
}
