/* DoRA: lengths of the rows of W + scaling B A, and the gradient of the learned lengths. */
#include "kernels/cuda/columns.cuh"

/* Each warp takes 4 rows of W, so that what it loads of A serves 4 of them; its lanes take chunks
 * of N columns. */
enum { NORM_WARPS = 8, NORM_ROWS = 4 };

struct dora_norm {
    row_view weight, a, b;
    const void *magnitude; /* real [out] or NULL */
    float *norm, *scale;
    int64_t out, in, rank;
    float scaling;
};

/* scale[j] = magnitude[j] / norm[j] */
template <typename T> LT_DEVICE void store_norm(const dora_norm &p, int64_t j, float norm)
{
    p.norm[j] = norm;
    if (p.magnitude)
        p.scale[j] = norm == 0 ? 0 : to_float(static_cast<const T *>(p.magnitude)[j]) / norm;
}

/* W is of type W, the others of type T. A row beyond the last is worked on as if it were the last,
 * and not stored. */
template <typename T, typename W, int N> static __global__ void dora_norm_kernel(dora_norm p)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t first = ((int64_t)blockIdx.x * NORM_WARPS + warp) * NORM_ROWS;
    float squares[NORM_ROWS] = {};
    const W *weight[NORM_ROWS];
    const T *b[NORM_ROWS];
    if (first >= p.out) return;
    LT_UNROLL
    for (int r = 0; r < NORM_ROWS; r++) {
        int64_t row = first + r < p.out ? first + r : p.out - 1;
        weight[r] = row_of<W>(p.weight, row);
        b[r] = row_of<T>(p.b, row);
    }
    for (int64_t column = lane * N; column < p.in; column += WARP * N) {
        float update[NORM_ROWS][N] = {}, a[N], w[N];
        for (int64_t k = 0; k < p.rank; k++) {
            load(row_of<T>(p.a, k) + column, a);
            LT_UNROLL
            for (int r = 0; r < NORM_ROWS; r++) {
                float factor = to_float(b[r][k]);
                LT_UNROLL
                for (int i = 0; i < N; i++)
                    update[r][i] += factor * a[i];
            }
        }
        LT_UNROLL
        for (int r = 0; r < NORM_ROWS; r++) {
            load(weight[r] + column, w);
            LT_UNROLL
            for (int i = 0; i < N; i++) {
                float v = w[i] + p.scaling * update[r][i];
                squares[r] += v * v;
            }
        }
    }
    LT_UNROLL
    for (int r = 0; r < NORM_ROWS; r++) {
        float norm = sqrtf(warp_sum(squares[r]));
        if (lane == 0 && first + r < p.out) store_norm<T>(p, first + r, norm);
    }
}

template <typename T, typename W>
static lt_status launch_dora_norm(const lt_backend *backend, const dora_norm &p, bool wide,
                                  lt_err *err)
{
    unsigned grid = ceil_div(p.out, NORM_WARPS * NORM_ROWS), block = NORM_WARPS * WARP;
    if (wide)
        return lt_launch(backend, "dora_norm", err, dora_norm_kernel<T, W, VECTOR<T>>, grid, block,
                         0, p);
    return lt_launch(backend, "dora_norm", err, dora_norm_kernel<T, W, 1>, grid, block, 0, p);
}

extern "C" lt_status lt_cuda_dora_norm(const lt_backend *backend, const lt_dora_norm_args *a,
                                       lt_err *err)
{
    bool wide = is_wide(backend, a->weight.shape[1], {&a->weight, &a->a});
    dora_norm p = {row_view_of(&a->weight),
                   row_view_of(&a->a),
                   row_view_of(&a->b),
                   a->magnitude.data,
                   static_cast<float *>(a->norm.data),
                   static_cast<float *>(a->scale.data),
                   a->weight.shape[0],
                   a->weight.shape[1],
                   a->a.shape[0],
                   (float)a->scaling};
    if (backend->real == LT_BF16) return launch_dora_norm<bf16, bf16>(backend, p, wide, err);
    if (a->weight.dtype == LT_BF16) return launch_dora_norm<float, bf16>(backend, p, wide, err);
    return launch_dora_norm<float, float>(backend, p, wide, err);
}

/* dmagnitude[j] += sum over i of dy[i,j] z[i,j] / norm[j] */
extern "C" lt_status lt_cuda_dora_backward(const lt_backend *backend,
                                           const lt_dora_backward_args *a, lt_err *err)
{
    column_sums_args sums = {};
    sums.dy = a->dy;
    sums.z = a->z;
    sums.products = a->dmagnitude;
    sums.divisor = a->norm;
    return add_column_sums(backend, "dora_backward", &sums, err);
}
