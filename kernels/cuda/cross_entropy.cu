/* Cross-entropy of logits, its gradient, and the sums of losses.
 *
 * One block takes one row, twice: first for the largest logit and the sum of exponentials, each
 * thread keeping its own running pair, then for the gradient. A step of the block is
 * ROW_THREADS * N logits, thread t taking N neighbours.
 *
 * The gradient may lie on the logits, starting where they start. A number of it is no longer than a
 * logit, so what a step writes lies at or before what the block has read by then, once all its
 * threads have: hence the __syncthreads between reading and writing. */
extern "C" {
#include "base/batch.h"
}
#include "kernels/cuda/rows.cuh"

enum { ROW_THREADS = 512, ROW_VECTOR = 8, SUM_THREADS = 1024 };

static const float LOG2_E = 1.44269504088896341f;

/* N logits from column j on; those beyond the row are -inf, which no sum and no maximum notices. */
template <int N>
LT_DEVICE void load_logits(const float *row, int64_t j, int64_t vocab, float (&x)[N])
{
    if (j + N <= vocab) {
        load(row + j, x);
        return;
    }
    LT_UNROLL
    for (int i = 0; i < N; i++)
        x[i] = j + i < vocab ? row[j + i] : -INFINITY;
}

template <typename T, int N>
LT_DEVICE void store_gradient(T *row, int64_t j, int64_t vocab, const float (&x)[N])
{
    if (j + N <= vocab) {
        store(row + j, x);
        return;
    }
    LT_UNROLL
    for (int i = 0; i < N; i++)
        if (j + i < vocab) store(row + j + i, x[i]);
}

/* What exponents are taken relative to: the maximum, but so that a row of -inf does not become NaN
 * before all of it is known. */
LT_DEVICE float shift_of(float maximum)
{
    return maximum == -INFINITY ? 0 : maximum;
}

/* Of some logits: the largest, NaN left out; the sum of exp(x - largest); is there one before the
 * target that is at least as large? */
struct row_part {
    float maximum, sum;
    bool preceded;
};

template <int N>
LT_DEVICE row_part part_of_row(const float *row, int64_t vocab, int64_t target, float target_logit)
{
    row_part part = {-INFINITY, 0, false};
    for (int64_t j = threadIdx.x * N; j < vocab; j += ROW_THREADS * N) {
        float x[N], maximum = part.maximum;
        load_logits(row, j, vocab, x);
        LT_UNROLL
        for (int i = 0; i < N; i++) {
            maximum = fmaxf(maximum, x[i]);
            part.preceded |= x[i] >= target_logit && j + i < target;
        }
        float shift = shift_of(maximum);
        part.sum *= fast_exp2((part.maximum - shift) * LOG2_E);
        LT_UNROLL
        for (int i = 0; i < N; i++)
            part.sum += fast_exp2((x[i] - shift) * LOG2_E);
        part.maximum = maximum;
    }
    return part;
}

/* The row's, from those of all threads. */
LT_DEVICE row_part join_parts(row_part part, float *shared)
{
    float maximum = block_max(part.maximum, shared);
    float sum = part.sum * fast_exp2((part.maximum - shift_of(maximum)) * LOG2_E);
    return row_part{maximum, block_sum(sum, shared),
                    block_max(part.preceded ? 1.0f : 0.0f, shared) > 0};
}

/* exp(x - maximum) / sum - onehot. The next step's logits are read ahead of this step's writes. */
template <typename T, int N>
LT_DEVICE void write_gradient(const float *row, int64_t vocab, int64_t target, row_part whole,
                              T *gradient)
{
    float next[N], scale = 1 / whole.sum;
    int64_t first = threadIdx.x * N;
    load_logits(row, first, vocab, next);
    for (int64_t start = 0; start < vocab; start += ROW_THREADS * N) {
        int64_t j = start + first;
        float d[N];
        LT_UNROLL
        for (int i = 0; i < N; i++) {
            d[i] = fast_exp2((next[i] - whole.maximum) * LOG2_E) * scale;
            if (j + i == target) d[i] -= 1;
        }
        load_logits(row, j + ROW_THREADS * N, vocab, next);
        __syncthreads();
        store_gradient(gradient, j, vocab, d);
    }
}

struct cross_entropy_params {
    const float *logits;
    const int32_t *targets;
    float *loss;
    int32_t *correct; /* or NULL */
    void *gradient;   /* or NULL */
    int64_t vocab, logits_stride, gradient_stride;
};

template <typename T, int N>
static __global__ void __launch_bounds__(ROW_THREADS) cross_entropy_kernel(cross_entropy_params p)
{
    float *shared = shared_memory<float>();
    int64_t r = blockIdx.x, target = p.targets[r];
    const float *row = p.logits + r * p.logits_stride;
    T *gradient = p.gradient ? static_cast<T *>(p.gradient) + r * p.gradient_stride : nullptr;
    if (target == LT_IGNORE) {
        const float zeros[N] = {};
        for (int64_t j = threadIdx.x * N; gradient && j < p.vocab; j += ROW_THREADS * N)
            store_gradient(gradient, j, p.vocab, zeros);
        if (threadIdx.x == 0) {
            p.loss[r] = 0;
            if (p.correct) p.correct[r] = 0;
        }
        return;
    }
    float target_logit = row[target], first_logit = row[0];
    row_part whole = join_parts(part_of_row<N>(row, p.vocab, target, target_logit), shared);
    if (threadIdx.x == 0) {
        /* a NaN is the largest only in front, where nothing is larger than it */
        bool largest = !whole.preceded && !(whole.maximum > target_logit);
        bool comparable = !isnan(first_logit) && !isnan(target_logit);
        if (p.correct)
            p.correct[r] = target == 0 ? comparable ? largest : 1 : comparable && largest;
        p.loss[r] = whole.maximum - target_logit + logf(whole.sum);
    }
    if (gradient) write_gradient<T, N>(row, p.vocab, target, whole, gradient);
}

template <typename T>
static lt_status launch_cross_entropy(const lt_backend *backend, const lt_cross_entropy_args *a,
                                      lt_err *err)
{
    bool wide =
        rows_are_aligned(&a->logits, ROW_VECTOR) && rows_are_aligned(&a->gradient, ROW_VECTOR);
    cross_entropy_params p = {static_cast<const float *>(a->logits.data),
                              static_cast<const int32_t *>(a->targets.data),
                              static_cast<float *>(a->loss.data),
                              static_cast<int32_t *>(a->correct.data),
                              a->gradient.data,
                              a->logits.shape[1],
                              a->logits.stride[0],
                              a->gradient.stride[0]};
    return lt_launch(backend, "cross_entropy", err,
                     wide ? cross_entropy_kernel<T, ROW_VECTOR> : cross_entropy_kernel<T, 1>,
                     (unsigned)a->logits.shape[0], ROW_THREADS, WARP * sizeof(float), p);
}

extern "C" lt_status lt_cuda_cross_entropy(const lt_backend *backend,
                                           const lt_cross_entropy_args *a, lt_err *err)
{
    return a->gradient.data && a->gradient.dtype == LT_BF16
               ? launch_cross_entropy<bf16>(backend, a, err)
               : launch_cross_entropy<float>(backend, a, err);
}

/* --- Sums of losses ------------------------------------------------------------------------------
 */

/* One block: thread t adds rows t, t + SUM_THREADS, ..., then the threads are added. */
static __global__ void __launch_bounds__(SUM_THREADS)
    sum_losses_kernel(const float *loss, const int32_t *targets, const int32_t *correct,
                      int64_t rows, double *totals)
{
    double *shared = shared_memory<double>(), sums[3] = {0, 0, 0};
    for (int64_t r = threadIdx.x; r < rows; r += SUM_THREADS) {
        sums[0] += loss[r];
        sums[1] += targets[r] != LT_IGNORE;
        sums[2] += correct[r];
    }
    LT_UNROLL
    for (int i = 0; i < 3; i++) {
        double total = block_sum(sums[i], shared);
        if (threadIdx.x == 0) totals[i] += total;
    }
}

extern "C" lt_status lt_cuda_sum_losses(const lt_backend *backend, const lt_sum_losses_args *a,
                                        lt_err *err)
{
    int64_t rows = a->loss.shape[0];
    return lt_launch(backend, "sum_losses", err, sum_losses_kernel, rows > 0 ? 1 : 0, SUM_THREADS,
                     WARP * sizeof(double), static_cast<const float *>(a->loss.data),
                     static_cast<const int32_t *>(a->targets.data),
                     static_cast<const int32_t *>(a->correct.data), rows,
                     static_cast<double *>(a->totals.data));
}
