/* Rotary embedding in place. Each thread turns a chunk of pairs (x[i], x[i + half]) of one head. */
#include "kernels/cuda/rows.cuh"

struct rotary {
    row_view x, cos, sin;
    const int32_t *positions; /* of each token: `heads` rows of x */
    int64_t heads;
    bool inverse;
};

/* (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); the inverse turns by the negative angle. The
 * grid's columns are pairs. */
template <typename T, int N> static __global__ void rotary_kernel(chunk_grid grid, rotary p)
{
    int64_t row, i;
    float x1[N], x2[N], c[N], s[N];
    if (!chunk_of<N>(grid, &row, &i)) return;
    int64_t position = p.positions[row / p.heads];
    T *x = row_of<T>(p.x, row) + i;
    load(x, x1);
    load(x + grid.columns, x2);
    load(row_of<float>(p.cos, position) + i, c);
    load(row_of<float>(p.sin, position) + i, s);
    LT_UNROLL
    for (int k = 0; k < N; k++) {
        float sine = p.inverse ? -s[k] : s[k], first = x1[k];
        x1[k] = first * c[k] - x2[k] * sine;
        x2[k] = x2[k] * c[k] + first * sine;
    }
    store(x, x1);
    store(x + grid.columns, x2);
}

extern "C" lt_status lt_cuda_rotary(const lt_backend *backend, const lt_rotary_args *a, lt_err *err)
{
    chunk_grid grid =
        chunk_grid_of(backend, lt_row_count(&a->x), a->cos.shape[1], {&a->x, &a->cos, &a->sin});
    rotary p = {row_view_of(&a->x),   row_view_of(&a->cos),
                row_view_of(&a->sin), static_cast<const int32_t *>(a->positions.data),
                a->x.shape[2],        a->inverse};
    return LAUNCH_CHUNKS(backend, "rotary", err, rotary_kernel, grid, p);
}
