/* Our own matrix products: which tier, which tile, and how many splits of k. All of that follows
 * from shapes, number types, alignment and the device alone, so that the same call always adds in
 * the same order. */
#include "kernels/cuda/matmul.cuh"

#include <limits.h>

/* --- What is to be done ------------------------------------------------------------------------
 */

/* May rows be read or written `bytes` at a time? */
static bool rows_aligned(const void *data, int64_t stride, lt_dtype dtype, size_t bytes)
{
    return (uintptr_t)data % bytes == 0 && (size_t)stride * lt_dtype_size(dtype) % bytes == 0;
}

static bool quads_aligned(const lt_tensor *t)
{
    return !t->data || rows_aligned(t->data, t->ndim == 2 ? t->stride[0] : 0, t->dtype,
                                    4 * lt_dtype_size(t->dtype));
}

static matmul_pair pair_of(const lt_tensor *a, const lt_tensor *b, bool a_transposed)
{
    matmul_pair pair = {a->data, b->data, a->stride[0], b->stride[0],
                        (int)a->shape[a_transposed ? 0 : 1]};
    return pair;
}

static bool pair_aligned(const lt_tensor *a, const lt_tensor *b)
{
    return rows_aligned(a->data, a->stride[0], a->dtype, 16) &&
           rows_aligned(b->data, b->stride[0], b->dtype, 16);
}

static matmul_product product_of(const lt_matmul_args *a)
{
    matmul_product p = {};
    p.swiglu = a->activation == LT_ACTIVATION_SWIGLU;
    p.rows = (int)a->c.shape[0];
    p.columns = (int)a->c.shape[1] * (p.swiglu ? 2 : 1);
    p.main = pair_of(&a->a, &a->b, a->layout == LT_MATMUL_TN);
    p.vector = pair_aligned(&a->a, &a->b);
    if (a->a_extra.data && a->b_extra.data) {
        p.extra = pair_of(&a->a_extra, &a->b_extra, false);
        p.vector = p.vector && pair_aligned(&a->a_extra, &a->b_extra);
    }
    return p;
}

template <typename T> static matmul_epilogue<T> epilogue_of(const lt_matmul_args *a)
{
    matmul_epilogue<T> e = {};
    e.rows = (int)a->c.shape[0];
    e.columns = (int)a->c.shape[1];
    e.c = a->c.data;
    e.c_stride = a->c.stride[0];
    e.c_f32 = a->c.dtype == LT_F32;
    e.bias = static_cast<const T *>(a->bias.data);
    e.residual = static_cast<const T *>(a->residual.data);
    e.residual_stride = a->residual.stride[0];
    e.preactivation = static_cast<T *>(a->preactivation.data);
    e.preactivation_stride = a->preactivation.stride[0];
    e.activation = a->activation;
    e.accumulate = a->accumulate;
    e.vector = quads_aligned(&a->c) && quads_aligned(&a->bias) && quads_aligned(&a->residual) &&
               quads_aligned(&a->preactivation);
    /* `up` starts at column n of bias and preactivation */
    if (a->activation == LT_ACTIVATION_SWIGLU) e.vector = e.vector && e.columns % 4 == 0;
    return e;
}

/* --- Tile and splits ---------------------------------------------------------------------------
 */

/* Guesses that only have to order the choices, in clock cycles. */
#define TILE_START_STEPS      10     /* filling the pipeline and the epilogue, in steps of k */
#define SECOND_KERNEL         4000.0 /* launching the addition of splits */
#define BYTES_PER_SM_CYCLE    12.0   /* of memory, for each SM */
#define LEAST_STEPS_PER_SPLIT 4
#define MOST_SPLITS           32

typedef struct matmul_plan {
    int shape, splits;
} matmul_plan;

/* Rows of partial sums start at multiples of 16 bytes. */
static int64_t partial_stride(const matmul_product *p)
{
    return ((int64_t)p->columns + 3) / 4 * 4;
}

/* About how long it takes: whole tiles on the SM that gets the most of them. */
static double cycles_of(const lt_cuda *cuda, const matmul_product *p, const matmul_shape *shape,
                        int64_t steps, int splits)
{
    int64_t tiles = matmul_tile_count(p, shape->height, shape->width) * splits;
    int64_t tiles_per_sm = (tiles + cuda->multiprocessors - 1) / cuda->multiprocessors;
    int64_t steps_per_tile = (steps + splits - 1) / splits + TILE_START_STEPS;
    double step = (double)shape->height * shape->width * shape->depth / shape->speed;
    double cycles = (double)(tiles_per_sm * steps_per_tile) * step;
    if (splits > 1) { /* partial sums are written and read */
        double bytes = 2.0 * sizeof(float) * splits * p->rows * p->columns;
        cycles += SECOND_KERNEL + bytes / (BYTES_PER_SM_CYCLE * cuda->multiprocessors);
    }
    return cycles;
}

static matmul_plan plan_of(const lt_cuda *cuda, const matmul_product *p, const matmul_shape *shapes,
                           int shape_count)
{
    matmul_plan best = {shape_count - 1, 1};
    double best_cycles = -1;
    int64_t partial_bytes = p->rows * partial_stride(p) * (int64_t)sizeof(float);
    for (int s = 0; s < shape_count; s++) {
        int64_t steps =
            (int64_t)ceil_div(p->main.k, shapes[s].depth) + ceil_div(p->extra.k, shapes[s].depth);
        if (shapes[s].shared > cuda->shared_per_block) continue;
        for (int splits = 1; splits <= MOST_SPLITS; splits++) {
            bool possible = steps >= (int64_t)splits * LEAST_STEPS_PER_SPLIT &&
                            splits * partial_bytes <= (int64_t)LT_CUDA_SCRATCH;
            if (splits > 1 && !possible) break;
            double cycles = cycles_of(cuda, p, &shapes[s], steps, splits);
            if (best_cycles >= 0 && cycles >= best_cycles) continue;
            best_cycles = cycles;
            best.shape = s;
            best.splits = splits;
        }
    }
    return best;
}

/* --- Adding up splits --------------------------------------------------------------------------
 */

/* What a product with splits writes: v in f32, nothing else done to it. */
template <typename T>
static matmul_epilogue<T> partial_epilogue(const lt_cuda *cuda, const matmul_product *p)
{
    matmul_epilogue<T> e = {};
    e.rows = p->rows;
    e.columns = p->columns;
    e.c = cuda->scratch;
    e.c_stride = partial_stride(p);
    e.split_stride = e.rows * e.c_stride;
    e.c_f32 = e.vector = true;
    return e;
}

LT_DEVICE void sum_splits(float v[4], const float *partial, int64_t split_stride, int splits,
                          int count, bool vector)
{
    load_values<4>(v, partial, count, vector);
    for (int split = 1; split < splits; split++)
        add_values<4>(v, partial + split * split_stride, count, vector);
}

enum { SUM_THREADS = 256 };

/* Each thread four columns of a row of c. */
template <typename T>
__global__ void __launch_bounds__(SUM_THREADS)
    matmul_sum_splits(const float *partial, int64_t stride, int64_t split_stride, int splits,
                      bool swiglu, matmul_epilogue<T> e)
{
    int64_t index = (int64_t)blockIdx.x * SUM_THREADS + threadIdx.x;
    int quads = (e.columns + 3) / 4, row = (int)(index / quads), column = (int)(index % quads) * 4;
    if (row >= e.rows) return;
    int count = min(4, e.columns - column);
    float v[4], up[4];
    partial += row * stride + column;
    if (swiglu) {
        bool vector = e.columns % 4 == 0;
        sum_splits(v, partial, split_stride, splits, count, vector);
        sum_splits(up, partial + e.columns, split_stride, splits, count, vector);
        matmul_finish_swiglu<4>(e, row, column, v, up);
    } else {
        sum_splits(v, partial, split_stride, splits, count, true);
        matmul_finish<4>(e, 0, row, column, v);
    }
}

template <typename T>
static lt_status add_splits(const lt_backend *backend, int splits, bool swiglu,
                            const matmul_epilogue<T> &partial, const matmul_epilogue<T> &e,
                            lt_err *err)
{
    int64_t quads = (int64_t)e.rows * ceil_div(e.columns, 4);
    return lt_launch(backend, "matmul", err, matmul_sum_splits<T>,
                     dim3(ceil_div(quads, SUM_THREADS)), dim3(SUM_THREADS), 0,
                     static_cast<const float *>(partial.c), partial.c_stride, partial.split_stride,
                     splits, swiglu, e);
}

/* --- The entry ---------------------------------------------------------------------------------
 */

static matmul_plan plan(const lt_cuda *cuda, const matmul_product &p, const matmul_epilogue<bf16> &)
{
    if (p.vector) return plan_of(cuda, &p, matmul_tensor_shapes, MATMUL_TENSOR_SHAPES);
    /* rows that start anywhere: there is but the smallest tile, the last */
    matmul_plan last = plan_of(cuda, &p, &matmul_tensor_shapes[MATMUL_TENSOR_SHAPES - 1], 1);
    last.shape = MATMUL_TENSOR_SHAPES - 1;
    return last;
}

static matmul_plan plan(const lt_cuda *cuda, const matmul_product &p,
                        const matmul_epilogue<float> &)
{
    return plan_of(cuda, &p, matmul_f32_shapes, MATMUL_F32_SHAPES);
}

static lt_status tiles(const lt_backend *backend, const lt_matmul_args *a, matmul_plan plan,
                       const matmul_product &p, const matmul_epilogue<bf16> &e, lt_err *err)
{
    return matmul_tensor(backend, a->layout, plan.shape, plan.splits, p, e, err);
}

static lt_status tiles(const lt_backend *backend, const lt_matmul_args *a, matmul_plan plan,
                       const matmul_product &p, const matmul_epilogue<float> &e, lt_err *err)
{
    return matmul_f32(backend, a->layout, a->b.dtype == LT_BF16, plan.shape, plan.splits, p, e,
                      err);
}

static lt_status skinny(const lt_backend *backend, const lt_matmul_args *, const matmul_product &p,
                        const matmul_epilogue<bf16> &e, lt_err *err)
{
    return matmul_skinny_bf16(backend, p, e, err);
}

static lt_status skinny(const lt_backend *backend, const lt_matmul_args *a, const matmul_product &p,
                        const matmul_epilogue<float> &e, lt_err *err)
{
    return matmul_skinny_f32(backend, a->b.dtype == LT_BF16, p, e, err);
}

template <typename T>
static lt_status matmul(const lt_backend *backend, const lt_matmul_args *a, lt_err *err)
{
    const lt_cuda *cuda = cuda_of(backend);
    matmul_product p = product_of(a);
    matmul_epilogue<T> e = epilogue_of<T>(a);
    if (a->layout == LT_MATMUL_NT && p.rows <= MATMUL_SKINNY_ROWS && p.vector)
        return skinny(backend, a, p, e, err);
    matmul_plan chosen = plan(cuda, p, e);
    if (chosen.splits == 1) return tiles(backend, a, chosen, p, e, err);

    matmul_epilogue<T> partial = partial_epilogue<T>(cuda, &p);
    bool swiglu = p.swiglu;
    p.swiglu = false; /* the tiles only make v */
    LT_TRY(tiles(backend, a, chosen, p, partial, err));
    return add_splits(backend, chosen.splits, swiglu, partial, e, err);
}

extern "C" lt_status lt_cuda_matmul_native(const lt_backend *backend, const lt_matmul_args *a,
                                           lt_err *err)
{
    const int64_t limit = INT_MAX / 4; /* counts fit into int with room for a tile */
    int64_t m = a->c.shape[0], n = a->c.shape[1];
    int64_t k = a->a.shape[a->layout == LT_MATMUL_TN ? 0 : 1];
    if (m == 0 || n == 0) return LT_OK;
    if (m > limit || n > limit || k > limit || (a->a_extra.data && a->a_extra.shape[1] > limit))
        return lt_fail(err, LT_ERR_LIMIT, "matmul: a dimension is larger than %lld",
                       (long long)limit);
    return backend->real == LT_BF16 ? matmul<bf16>(backend, a, err)
                                    : matmul<float>(backend, a, err);
}
