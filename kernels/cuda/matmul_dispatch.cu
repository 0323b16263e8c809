/* lt_matmul on a GPU: which products go to cuBLAS, and what is done around those. */
#include <stdio.h>

#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/matmul_dispatch.cuh"
#include "kernels/cuda/matmul_table.h"

/* --- Choosing --------------------------------------------------------------------------------- */

static bool fits_capability(const matmul_rule *rule, int capability)
{
    return rule->capability <= capability && rule->capability / 10 == capability / 10;
}

/* The line of the table for a product; NULL: native. */
static const matmul_rule *rule_for(int capability, int layout, double multiply_adds)
{
    const matmul_rule *found = NULL;
    for (const matmul_rule &rule : matmul_rules)
        if (fits_capability(&rule, capability) &&
            (rule.layout == ANY_LAYOUT || rule.layout == layout) &&
            multiply_adds >= rule.multiply_adds)
            found = &rule;
    return found;
}

/* The first line that sends something to cuBLAS on this GPU; NULL: none does. */
static const matmul_rule *first_cublas_rule(int capability)
{
    for (const matmul_rule &rule : matmul_rules)
        if (fits_capability(&rule, capability) && rule.choice == LT_MATMUL_CUBLAS) return &rule;
    return NULL;
}

lt_status matmul_set_up(lt_cuda *cuda, lt_dtype real, lt_err *err)
{
    lt_err why = {};
    if (cuda->matmul == LT_MATMUL_CUBLAS) return cublas_create(cuda, err);
    if (cuda->matmul == LT_MATMUL_AUTO && real == LT_BF16 && first_cublas_rule(cuda->capability) &&
        cublas_create(cuda, &why) != LT_OK)
        cublas_free(cuda);
    return LT_OK;
}

void matmul_tear_down(lt_cuda *cuda)
{
    cublas_free(cuda);
}

void matmul_describe(lt_cuda *cuda, lt_dtype real)
{
    char *text = cuda->products;
    size_t size = sizeof cuda->products;
    const matmul_rule *rule = first_cublas_rule(cuda->capability);
    if (cuda->matmul == LT_MATMUL_CUBLAS)
        snprintf(text, size, "cublas (%s); native where it can not", cublas_name(cuda));
    else if (cuda->matmul == LT_MATMUL_NATIVE)
        snprintf(text, size, "native");
    else if (!rule || real != LT_BF16)
        snprintf(text, size, "auto: native");
    else if (!cuda->cublas)
        snprintf(text, size,
                 "auto: native; cuBLAS, likely %.1f times as fast for large products "
                 "on sm_%d, is not here",
                 rule->ratio, cuda->capability);
    else
        snprintf(text, size,
                 "auto: native; cublas (%s) for products of %.2g multiply-adds and more on sm_%d, "
                 "by %s figures",
                 cublas_name(cuda), rule->multiply_adds, cuda->capability,
                 strcmp(rule->source, "measured") == 0 ? "measured" : "published (not measured)");
}

static bool any_dimension_is_zero(const lt_matmul_args *a)
{
    return lt_tensor_count(a->c) == 0 || lt_tensor_count(a->a) == 0;
}

/* cuBLAS adds to what is there; so bias and residual are there first. What needs v itself, or
 * factors of two types, is native. */
static bool cublas_can(const lt_matmul_args *a)
{
    return a->activation == LT_ACTIVATION_NONE && !a->preactivation.data &&
           a->a.dtype == a->b.dtype && (!a->b_extra.data || a->b_extra.dtype == a->a.dtype) &&
           !(a->residual.data && a->accumulate) && !any_dimension_is_zero(a);
}

static bool cublas_should(const lt_cuda *cuda, const lt_matmul_args *a)
{
    if (!cuda->cublas || !cublas_can(a)) return false;
    if (cuda->matmul == LT_MATMUL_CUBLAS) return true;
    double k = (double)a->a.shape[a->layout == LT_MATMUL_TN ? 0 : 1];
    const matmul_rule *rule =
        rule_for(cuda->capability, a->layout, (double)a->c.shape[0] * (double)a->c.shape[1] * k);
    return a->a.dtype == LT_BF16 && rule && rule->choice == LT_MATMUL_CUBLAS;
}

/* --- What is there before cuBLAS adds to it -----------------------------------------------------
 */

enum { PREPARE_THREADS = 256, PREPARE_WIDTH = 4 };

/* c = bias + start, where `start` is c itself, the residual, or absent. */
template <typename C, typename T> struct prepare_args {
    C *c;
    const T *bias, *residual;
    int64_t rows, columns, c_stride, residual_stride;
    bool accumulate, vector;
};

/* One thread: PREPARE_WIDTH neighbours. blockIdx.x goes over the columns' groups row by row. */
template <typename C, typename T> __global__ void matmul_prepare_kernel(prepare_args<C, T> p)
{
    int64_t groups = (p.columns + PREPARE_WIDTH - 1) / PREPARE_WIDTH;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t row = i / groups, column = i % groups * PREPARE_WIDTH;
    if (row >= p.rows) return;
    int count = (int)min((int64_t)PREPARE_WIDTH, p.columns - column);
    C *c = p.c + row * p.c_stride + column;
    float v[PREPARE_WIDTH] = {0, 0, 0, 0};
    if (p.bias) add_values<PREPARE_WIDTH>(v, p.bias + column, count, p.vector);
    if (p.residual)
        add_values<PREPARE_WIDTH>(v, p.residual + row * p.residual_stride + column, count,
                                  p.vector);
    if (p.accumulate) add_values<PREPARE_WIDTH>(v, c, count, p.vector);
    store_values<PREPARE_WIDTH>(c, v, count, p.vector);
}

static bool is_vector(const lt_tensor *t)
{
    size_t bytes = PREPARE_WIDTH * lt_dtype_size(t->dtype);
    bool rows = t->ndim < 2 || t->stride[0] % PREPARE_WIDTH == 0;
    return !t->data || ((uintptr_t)t->data % bytes == 0 && rows);
}

template <typename C, typename T>
static lt_status prepare(const lt_backend *backend, const lt_matmul_args *a, lt_err *err)
{
    prepare_args<C, T> p = {};
    p.c = (C *)a->c.data;
    p.bias = (const T *)a->bias.data;
    p.residual = (const T *)a->residual.data;
    p.rows = a->c.shape[0];
    p.columns = a->c.shape[1];
    p.c_stride = a->c.stride[0];
    p.residual_stride = a->residual.stride[0];
    p.accumulate = a->accumulate;
    p.vector = is_vector(&a->c) && is_vector(&a->bias) && is_vector(&a->residual);
    int64_t threads = p.rows * ((p.columns + PREPARE_WIDTH - 1) / PREPARE_WIDTH);
    return lt_launch(backend, "matmul", err, matmul_prepare_kernel<C, T>,
                     dim3(ceil_div(threads, PREPARE_THREADS)), dim3(PREPARE_THREADS), 0, p);
}

/* Does cuBLAS add to c? Then that has been made ready, unless it is as it has to be. */
static lt_status prepare_c(const lt_backend *backend, const lt_matmul_args *a, bool *add,
                           lt_err *err)
{
    bool in_place = a->residual.data == a->c.data && a->residual.stride[0] == a->c.stride[0];
    *add = a->bias.data || a->residual.data || a->accumulate;
    if (!a->bias.data && (!a->residual.data || in_place)) return LT_OK;
    if (backend->real == LT_F32) return prepare<float, float>(backend, a, err);
    if (a->c.dtype == LT_F32) return prepare<float, bf16>(backend, a, err);
    return prepare<bf16, bf16>(backend, a, err);
}

static lt_status matmul_cublas(const lt_backend *backend, const lt_matmul_args *a, lt_err *err)
{
    bool add = false;
    LT_TRY(prepare_c(backend, a, &add, err));
    LT_TRY(cublas_product(backend, a->layout, &a->c, &a->a, &a->b, add, err));
    if (lt_tensor_count(a->a_extra) == 0) return LT_OK;
    return cublas_product(backend, a->layout, &a->c, &a->a_extra, &a->b_extra, true, err);
}

lt_status lt_cuda_matmul(const lt_backend *backend, const lt_matmul_args *a, lt_err *err)
{
    if (cublas_should(cuda_of(backend), a)) return matmul_cublas(backend, a, err);
    return lt_cuda_matmul_native(backend, a, err);
}
