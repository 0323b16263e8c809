/* Do the arguments of an operation fit together? One function per operation, run before every call
 * on every backend: some dozens of integer comparisons, next to nothing beside the work they guard.
 *
 * A tensor that is required may have data == NULL only when it has no elements. */
#include <stdio.h>

#include "kernels/internal.h"

#define ANY (-1) /* a dimension or dtype that the operation does not fix */

static void describe(char *text, size_t size, int dtype, int ndim, const int64_t *shape)
{
    int used = snprintf(text, size, "%s [", dtype == ANY ? "any" : lt_dtype_name(dtype));
    for (int d = 0; d < ndim && used > 0 && (size_t)used < size; d++)
        used += snprintf(text + used, size - (size_t)used, shape[d] == ANY ? "%s*" : "%s%lld",
                         d ? ", " : "", (long long)shape[d]);
    if (used > 0 && (size_t)used < size) snprintf(text + used, size - (size_t)used, "]");
}

static bool fits(const lt_tensor *t, int dtype, int ndim, const int64_t *shape)
{
    bool empty = false;
    if ((dtype != ANY && t->dtype != (lt_dtype)dtype) || t->ndim != ndim) return false;
    for (int d = 0; d < ndim; d++) {
        if (t->shape[d] < 0 || (shape[d] != ANY && t->shape[d] != shape[d])) return false;
        empty = empty || t->shape[d] == 0;
    }
    if (ndim > 0 && t->shape[ndim - 1] > 1 && t->stride[ndim - 1] != 1) return false;
    return t->data || empty;
}

static lt_status expect(lt_err *err, const char *operation, const char *name, const lt_tensor *t,
                        int dtype, int ndim, const int64_t *shape)
{
    char have[128], want[128];
    if (fits(t, dtype, ndim, shape)) return LT_OK;
    describe(have, sizeof have, (int)t->dtype, t->ndim, t->shape);
    describe(want, sizeof want, dtype, ndim, shape);
    return lt_fail(err, LT_ERR_USAGE, "%s: %s is %s%s, expected %s with the last stride 1",
                   operation, name, t->data ? "" : "absent ", have, want);
}

/* WANT(a->x, dtype, dimensions...): required. MAY: the same, or absent. &(#t)[3] skips the "a->".
 */
#define COUNT_OF(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))
#define WANT(t, dtype, ...)                                                            \
    LT_TRY(expect(err, operation, &(#t)[3], &(t), (int)(dtype), COUNT_OF(__VA_ARGS__), \
                  (const int64_t[]){__VA_ARGS__}))
#define MAY(t, dtype, ...) \
    if ((t).data) WANT(t, dtype, __VA_ARGS__)
#define WANT_LIKE(t, other) \
    LT_TRY(expect(err, operation, &(#t)[3], &(t), (int)(other).dtype, (other).ndim, (other).shape))
#define MAY_LIKE(t, other) \
    if ((t).data) WANT_LIKE(t, other)
#define REFUSE_IF(condition, what) \
    if (condition) return lt_fail(err, LT_ERR_USAGE, "%s: %s", operation, what)

/* Weights may be bf16 where they stand for `real`. */
static int weight_dtype(const lt_backend *backend, const lt_tensor *weight)
{
    return weight->dtype == LT_BF16 ? LT_BF16 : (int)backend->real;
}

/* Gradients of parameters may be f32 where real is bf16. */
static int gradient_dtype(const lt_backend *backend, const lt_tensor *gradient)
{
    return gradient->dtype == LT_F32 ? (int)backend->statistics : (int)backend->real;
}

static lt_status check_extra(const lt_matmul_args *a, int64_t n, lt_dtype real, lt_err *err)
{
    const char *operation = "matmul";
    bool b_transposed = a->layout == LT_MATMUL_NT, added = a->residual.data || a->accumulate;
    int64_t m = a->c.shape[0], k = a->a_extra.shape[1];
    if (!a->a_extra.data && !a->b_extra.data) return LT_OK;
    REFUSE_IF(a->layout == LT_MATMUL_TN, "a_extra and b_extra are not for TN");
    WANT(a->a_extra, real, m, ANY);
    WANT(a->b_extra, real, b_transposed ? n : k, b_transposed ? k : n);
    REFUSE_IF(a->activation != LT_ACTIVATION_NONE && added && !a->preactivation.data,
              "a_extra with an activation and a residual or accumulate needs preactivation");
    return LT_OK;
}

static lt_status check_swiglu_product(const lt_matmul_args *a, lt_err *err)
{
    const char *operation = "matmul";
    REFUSE_IF(a->layout != LT_MATMUL_NT || a->residual.data || a->accumulate,
              "SWIGLU is for NT without residual and accumulate");
    REFUSE_IF(lt_tensor_count(a->c) > 0 && !a->preactivation.data, "SWIGLU needs preactivation");
    return LT_OK;
}

lt_status lt_check_matmul(const lt_backend *backend, const lt_matmul_args *a, lt_err *err)
{
    const char *operation = "matmul";
    lt_dtype real = backend->real;
    int64_t m = a->c.shape[0], n = a->c.shape[1];
    bool longer = a->c.dtype != real; /* f32 where real is bf16 */
    bool a_transposed = a->layout == LT_MATMUL_TN, b_transposed = a->layout == LT_MATMUL_NT;
    int64_t k = a->a.shape[a_transposed ? 0 : 1];
    WANT(a->c, gradient_dtype(backend, &a->c), ANY, ANY);
    REFUSE_IF(longer && (a->residual.data || a->preactivation.data ||
                         a->activation != LT_ACTIVATION_NONE),
              "a c that is longer than real takes bias and accumulate at most");
    if (a->activation == LT_ACTIVATION_SWIGLU) {
        LT_TRY(check_swiglu_product(a, err));
        n *= 2;
    }
    WANT(a->a, real, a_transposed ? k : m, a_transposed ? m : k);
    WANT(a->b, a_transposed ? (int)real : weight_dtype(backend, &a->b), b_transposed ? n : k,
         b_transposed ? k : n);
    MAY(a->bias, real, n);
    MAY(a->residual, real, m, n);
    MAY(a->preactivation, real, m, n);
    return check_extra(a, n, real, err);
}

lt_status lt_check_bias_backward(const lt_backend *backend, const lt_bias_backward_args *a,
                                 lt_err *err)
{
    const char *operation = "bias_backward";
    WANT(a->dy, backend->real, ANY, ANY);
    WANT(a->dbias, gradient_dtype(backend, &a->dbias), a->dy.shape[1]);
    return LT_OK;
}

static lt_status check_dropout(const char *operation, const lt_dropout_mask *mask, lt_err *err)
{
    REFUSE_IF(!(mask->rate >= 0 && mask->rate < 1), "the dropout rate must be in [0, 1)");
    return LT_OK;
}

static lt_status check_attention(const lt_backend *backend, const char *operation,
                                 const lt_attention_args *a, lt_err *err)
{
    const int64_t *q = a->q.shape, *k = a->k.shape;
    WANT(a->q, backend->real, ANY, ANY, ANY, ANY);
    WANT(a->k, backend->real, q[0], ANY, ANY, q[3]);
    WANT_LIKE(a->v, a->k);
    WANT_LIKE(a->out, a->q);
    REFUSE_IF(k[2] == 0 ? q[2] != 0 : q[2] % k[2] != 0, "heads must be a multiple of kv_heads");
    MAY(a->lse, backend->statistics, q[0], q[2], q[1]);
    MAY(a->offset, LT_I32, q[0]);
    MAY(a->first_key, LT_I32, q[0], q[1]);
    REFUSE_IF(a->lse.data && !lt_tensor_is_contiguous(a->lse), "lse must be contiguous");
    REFUSE_IF(a->first_key.data && !lt_tensor_is_contiguous(a->first_key),
              "first_key must be contiguous");
    REFUSE_IF(a->window < 0, "window must not be negative");
    REFUSE_IF(a->prefix < 0 || a->prefix > k[1], "prefix must be in [0, kv_len]");
    return check_dropout(operation, &a->dropout, err);
}

lt_status lt_check_attention_forward(const lt_backend *backend, const lt_attention_args *a,
                                     lt_err *err)
{
    return check_attention(backend, "attention_forward", a, err);
}

lt_status lt_check_attention_backward(const lt_backend *backend,
                                      const lt_attention_backward_args *a, lt_err *err)
{
    const char *operation = "attention_backward";
    const lt_attention_args *f = &a->forward;
    LT_TRY(check_attention(backend, operation, f, err));
    WANT(a->forward.lse, backend->statistics, f->q.shape[0], f->q.shape[2], f->q.shape[1]);
    WANT_LIKE(a->dout, f->out);
    WANT_LIKE(a->dq, f->q);
    WANT_LIKE(a->dk, f->k);
    WANT_LIKE(a->dv, f->v);
    return LT_OK;
}

static lt_status check_rows_as(const char *operation, lt_dtype dtype, const char *name,
                               const lt_tensor *x, lt_err *err)
{
    bool right = x->ndim >= 1 && x->ndim <= LT_MAX_DIMS && x->dtype == dtype;
    right = right && (x->shape[x->ndim - 1] <= 1 || x->stride[x->ndim - 1] == 1);
    if (right) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "%s: %s must be %s rows with the last stride 1", operation,
                   name, lt_dtype_name(dtype));
}

/* x is [rows, dim] or [rows, groups, dim]; returns rows * groups. */
static lt_status check_rows(const char *operation, const lt_backend *backend, const lt_tensor *x,
                            int64_t *rows, lt_err *err)
{
    LT_TRY(check_rows_as(operation, backend->real, "x", x, err));
    *rows = lt_row_count(x);
    return LT_OK;
}

static lt_status check_norm(const lt_backend *backend, const char *operation, const lt_norm_args *a,
                            bool layer, lt_err *err)
{
    int64_t rows = 0, dim = lt_row_length(&a->x);
    LT_TRY(check_rows(operation, backend, &a->x, &rows, err));
    WANT_LIKE(a->y, a->x);
    MAY_LIKE(a->residual, a->x);
    MAY_LIKE(a->sum, a->x);
    REFUSE_IF(rows * dim > 0 && !a->residual.data != !a->sum.data,
              "residual and sum come together");
    WANT(a->weight, backend->real, dim);
    MAY(a->bias, backend->real, dim);
    MAY(a->mean, backend->statistics, rows);
    MAY(a->rstd, backend->statistics, rows);
    REFUSE_IF(!layer && (a->bias.data || a->mean.data), "RMS norm has neither bias nor mean");
    return LT_OK;
}

lt_status lt_check_layer_norm_forward(const lt_backend *backend, const lt_norm_args *a, lt_err *err)
{
    return check_norm(backend, "layer_norm_forward", a, true, err);
}

lt_status lt_check_rms_norm_forward(const lt_backend *backend, const lt_norm_args *a, lt_err *err)
{
    return check_norm(backend, "rms_norm_forward", a, false, err);
}

static lt_status check_norm_backward(const lt_backend *backend, const char *operation,
                                     const lt_norm_backward_args *a, bool layer, lt_err *err)
{
    int64_t rows = 0, dim = lt_row_length(&a->x);
    LT_TRY(check_rows(operation, backend, &a->x, &rows, err));
    WANT(a->weight, backend->real, dim);
    if (layer) WANT(a->mean, backend->statistics, rows);
    WANT(a->rstd, backend->statistics, rows);
    WANT_LIKE(a->dy, a->x);
    WANT_LIKE(a->dx, a->x);
    MAY(a->dweight, gradient_dtype(backend, &a->dweight), dim);
    MAY(a->dbias, gradient_dtype(backend, &a->dbias), dim);
    REFUSE_IF(!layer && (a->dbias.data || a->mean.data), "RMS norm has neither bias nor mean");
    return LT_OK;
}

lt_status lt_check_layer_norm_backward(const lt_backend *backend, const lt_norm_backward_args *a,
                                       lt_err *err)
{
    return check_norm_backward(backend, "layer_norm_backward", a, true, err);
}

lt_status lt_check_rms_norm_backward(const lt_backend *backend, const lt_norm_backward_args *a,
                                     lt_err *err)
{
    return check_norm_backward(backend, "rms_norm_backward", a, false, err);
}

lt_status lt_check_rotary(const lt_backend *backend, const lt_rotary_args *a, lt_err *err)
{
    const char *operation = "rotary";
    WANT(a->x, backend->real, ANY, ANY, ANY, ANY);
    WANT(a->positions, LT_I32, a->x.shape[0] * a->x.shape[1]);
    WANT(a->cos, backend->statistics, ANY, ANY);
    WANT_LIKE(a->sin, a->cos);
    REFUSE_IF(2 * a->cos.shape[1] > a->x.shape[3], "rotary_dim is larger than head_dim");
    return LT_OK;
}

lt_status lt_check_activation_forward(const lt_backend *backend, const lt_activation_args *a,
                                      lt_err *err)
{
    const char *operation = "activation_forward";
    int64_t rows = 0;
    REFUSE_IF(a->activation == LT_ACTIVATION_SWIGLU, "SWIGLU is an operation of its own");
    LT_TRY(check_rows(operation, backend, &a->x, &rows, err));
    WANT_LIKE(a->y, a->x);
    return LT_OK;
}

lt_status lt_check_activation_backward(const lt_backend *backend,
                                       const lt_activation_backward_args *a, lt_err *err)
{
    const char *operation = "activation_backward";
    int64_t rows = 0;
    REFUSE_IF(a->activation == LT_ACTIVATION_SWIGLU, "SWIGLU is an operation of its own");
    LT_TRY(check_rows(operation, backend, &a->x, &rows, err));
    WANT_LIKE(a->dy, a->x);
    WANT_LIKE(a->dx, a->x);
    return LT_OK;
}

lt_status lt_check_swiglu_forward(const lt_backend *backend, const lt_swiglu_args *a, lt_err *err)
{
    const char *operation = "swiglu_forward";
    WANT(a->y, backend->real, ANY, ANY);
    WANT(a->gate_up, backend->real, a->y.shape[0], 2 * a->y.shape[1]);
    return LT_OK;
}

lt_status lt_check_swiglu_backward(const lt_backend *backend, const lt_swiglu_backward_args *a,
                                   lt_err *err)
{
    const char *operation = "swiglu_backward";
    WANT(a->dy, backend->real, ANY, ANY);
    WANT(a->gate_up, backend->real, a->dy.shape[0], 2 * a->dy.shape[1]);
    WANT_LIKE(a->dgate_up, a->gate_up);
    return LT_OK;
}

lt_status lt_check_embedding_forward(const lt_backend *backend, const lt_embedding_args *a,
                                     lt_err *err)
{
    const char *operation = "embedding_forward";
    int64_t rows = a->y.shape[0], dim = a->y.shape[1];
    WANT(a->y, backend->real, ANY, ANY);
    WANT(a->ids, LT_I32, rows);
    WANT(a->token_table, weight_dtype(backend, &a->token_table), ANY, dim);
    MAY(a->positions, LT_I32, rows);
    MAY(a->position_table, backend->real, ANY, dim);
    REFUSE_IF(rows > 0 && a->position_table.data && !a->positions.data,
              "a position table needs positions");
    return LT_OK;
}

lt_status lt_check_embedding_backward(const lt_backend *backend,
                                      const lt_embedding_backward_args *a, lt_err *err)
{
    const char *operation = "embedding_backward";
    int64_t rows = a->dy.shape[0], dim = a->dy.shape[1];
    WANT(a->dy, backend->real, ANY, ANY);
    WANT(a->ids, LT_I32, rows);
    MAY(a->positions, LT_I32, rows);
    MAY(a->dtoken_table, gradient_dtype(backend, &a->dtoken_table), ANY, dim);
    MAY(a->dposition_table, gradient_dtype(backend, &a->dposition_table), ANY, dim);
    REFUSE_IF(rows > 0 && a->dposition_table.data && !a->positions.data,
              "a position table needs positions");
    return LT_OK;
}

/* The rows that `index` counts are those of `indexed`. */
static lt_status check_index(const lt_backend *backend, const char *operation,
                             const lt_rows_args *a, int64_t rows, lt_err *err)
{
    WANT(a->x, backend->real, ANY, ANY);
    WANT(a->y, backend->real, ANY, a->x.shape[1]);
    WANT(a->index, LT_I32, rows);
    return LT_OK;
}

lt_status lt_check_gather_rows(const lt_backend *backend, const lt_rows_args *a, lt_err *err)
{
    return check_index(backend, "gather_rows", a, a->y.shape[0], err);
}

lt_status lt_check_scatter_rows(const lt_backend *backend, const lt_rows_args *a, lt_err *err)
{
    return check_index(backend, "scatter_rows", a, a->x.shape[0], err);
}

lt_status lt_check_cache_append(const lt_backend *backend, const lt_cache_append_args *a,
                                lt_err *err)
{
    const char *operation = "cache_append";
    const int64_t *k = a->k.shape;
    WANT(a->k, backend->real, ANY, ANY, ANY, ANY);
    WANT_LIKE(a->v, a->k);
    WANT(a->k_cache, backend->real, k[0], ANY, k[2], k[3]);
    WANT_LIKE(a->v_cache, a->k_cache);
    WANT(a->offset, LT_I32, k[0]);
    REFUSE_IF(k[1] > a->k_cache.shape[1], "more rows than the cache holds");
    return LT_OK;
}

lt_status lt_check_cross_entropy(const lt_backend *backend, const lt_cross_entropy_args *a,
                                 lt_err *err)
{
    const char *operation = "cross_entropy";
    int64_t rows = a->logits.shape[0];
    WANT(a->logits, backend->statistics, ANY, ANY);
    WANT(a->targets, LT_I32, rows);
    WANT(a->loss, backend->statistics, rows);
    MAY(a->correct, LT_I32, rows);
    MAY(a->gradient, backend->real, rows, a->logits.shape[1]);
    return LT_OK;
}

lt_status lt_check_sum_losses(const lt_backend *backend, const lt_sum_losses_args *a, lt_err *err)
{
    const char *operation = "sum_losses";
    int64_t rows = a->loss.shape[0];
    WANT(a->loss, backend->statistics, ANY);
    WANT(a->targets, LT_I32, rows);
    WANT(a->correct, LT_I32, rows);
    WANT(a->totals, LT_F64, 3);
    return LT_OK;
}

lt_status lt_check_sample_tokens(const lt_backend *backend, const lt_sample_tokens_args *a,
                                 lt_err *err)
{
    const char *operation = "sample_tokens";
    int64_t rows = a->logits.shape[0];
    (void)backend;
    WANT(a->logits, LT_F32, ANY, ANY);
    MAY(a->history, LT_I32, rows, ANY);
    WANT(a->history_count, LT_I32, rows);
    WANT(a->sequence, LT_I32, rows);
    WANT(a->ids, LT_I32, rows);
    REFUSE_IF(rows > 0 && a->logits.shape[1] == 0, "there is nothing to choose from");
    return LT_OK;
}

static lt_status check_flat(const char *operation, const lt_tensor *t, lt_err *err)
{
    REFUSE_IF(!lt_tensor_is_contiguous(*t), "the tensors must be contiguous");
    return LT_OK;
}

lt_status lt_check_dropout(const lt_backend *backend, const lt_dropout_args *a, lt_err *err)
{
    const char *operation = "dropout";
    int64_t rows = 0;
    LT_TRY(check_rows(operation, backend, &a->x, &rows, err));
    WANT_LIKE(a->y, a->x);
    LT_TRY(check_flat(operation, &a->x, err));
    LT_TRY(check_flat(operation, &a->y, err));
    return check_dropout(operation, &a->dropout, err);
}

lt_status lt_check_add(const lt_backend *backend, const lt_add_args *a, lt_err *err)
{
    const char *operation = "add";
    lt_dtype dtype = (lt_dtype)gradient_dtype(backend, &a->a);
    LT_TRY(check_rows_as(operation, dtype, "a", &a->a, err));
    WANT_LIKE(a->b, a->a);
    WANT_LIKE(a->y, a->a);
    return LT_OK;
}

lt_status lt_check_scale(const lt_backend *backend, const lt_scale_args *a, lt_err *err)
{
    const char *operation = "scale";
    int64_t rows = 0;
    LT_TRY(check_rows(operation, backend, &a->x, &rows, err));
    WANT_LIKE(a->y, a->x);
    return LT_OK;
}

lt_status lt_check_scale_columns(const lt_backend *backend, const lt_scale_columns_args *a,
                                 lt_err *err)
{
    const char *operation = "scale_columns";
    int64_t n = a->x.shape[1];
    WANT(a->x, backend->real, ANY, ANY);
    WANT_LIKE(a->y, a->x);
    WANT(a->scale, backend->statistics, n);
    MAY(a->bias, backend->real, n);
    MAY_LIKE(a->residual, a->x);
    return LT_OK;
}

lt_status lt_check_dora_norm(const lt_backend *backend, const lt_dora_norm_args *a, lt_err *err)
{
    const char *operation = "dora_norm";
    int64_t out = a->weight.shape[0], in = a->weight.shape[1], rank = a->a.shape[0];
    WANT(a->weight, weight_dtype(backend, &a->weight), ANY, ANY);
    WANT(a->a, backend->real, ANY, in);
    WANT(a->b, backend->real, out, rank);
    WANT(a->norm, backend->statistics, out);
    MAY(a->magnitude, backend->real, out);
    MAY(a->scale, backend->statistics, out);
    REFUSE_IF(out > 0 && !a->magnitude.data != !a->scale.data, "magnitude and scale come together");
    return LT_OK;
}

lt_status lt_check_dora_backward(const lt_backend *backend, const lt_dora_backward_args *a,
                                 lt_err *err)
{
    const char *operation = "dora_backward";
    int64_t n = a->dy.shape[1];
    WANT(a->dy, backend->real, ANY, ANY);
    WANT_LIKE(a->z, a->dy);
    WANT(a->norm, backend->statistics, n);
    WANT(a->dmagnitude, gradient_dtype(backend, &a->dmagnitude), n);
    return LT_OK;
}

lt_status lt_check_zero(const lt_backend *backend, const lt_zero_args *a, lt_err *err)
{
    (void)backend;
    return check_flat("zero", &a->y, err);
}

lt_status lt_check_convert(const lt_backend *backend, const lt_convert_args *a, lt_err *err)
{
    const char *operation = "convert";
    (void)backend;
    LT_TRY(check_flat(operation, &a->x, err));
    LT_TRY(check_flat(operation, &a->y, err));
    REFUSE_IF(lt_tensor_count(a->x) != lt_tensor_count(a->y), "x and y differ in size");
    REFUSE_IF(a->x.dtype > LT_F16 || a->y.dtype > LT_F16, "only f32, f64, bf16 and f16 convert");
    return LT_OK;
}

lt_status lt_check_sum_squares(const lt_backend *backend, const lt_sum_squares_args *a, lt_err *err)
{
    const char *operation = "sum_squares";
    WANT(a->x, gradient_dtype(backend, &a->x), ANY);
    WANT(a->result, LT_F64, 1);
    return LT_OK;
}

lt_status lt_check_clip_scale(const lt_backend *backend, const lt_clip_scale_args *a, lt_err *err)
{
    const char *operation = "clip_scale";
    (void)backend;
    WANT(a->sum_squares, LT_F64, 1);
    WANT(a->norm, LT_F32, 1);
    WANT(a->scale, LT_F32, 1);
    MAY(a->loss, LT_F64, 1);
    MAY(a->tokens, LT_F64, 1);
    return LT_OK;
}

static lt_status check_moment(const lt_backend *backend, const lt_adamw_args *a, lt_err *err)
{
    const char *operation = "adamw";
    int64_t n = a->weight.shape[0];
    int64_t blocks = (n + LT_QUANTISED_BLOCK - 1) / LT_QUANTISED_BLOCK;
    bool quantised = a->m.dtype == LT_U8, half = a->m.dtype == LT_BF16;
    lt_dtype dtype = quantised || half ? a->m.dtype : backend->statistics;
    WANT(a->m, dtype, n);
    WANT(a->v, dtype, n);
    if (!quantised) return LT_OK;
    WANT(a->m_scale, LT_F32, blocks);
    WANT(a->v_scale, LT_F32, blocks);
    return LT_OK;
}

lt_status lt_check_adamw(const lt_backend *backend, const lt_adamw_args *a, lt_err *err)
{
    const char *operation = "adamw";
    int64_t n = a->weight.shape[0];
    WANT(a->weight, backend->statistics, ANY);
    WANT(a->gradient, a->gradient.dtype == LT_BF16 ? LT_BF16 : backend->statistics, n);
    MAY(a->rounded, LT_BF16, n);
    LT_TRY(check_moment(backend, a, err));
    WANT(a->scale, LT_F32, 1);
    REFUSE_IF(a->step < 1, "step counts from 1");
    return LT_OK;
}
