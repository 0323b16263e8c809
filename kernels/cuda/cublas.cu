/* Matrix products by NVIDIA's cuBLAS, loaded when it is wanted; with neither its headers nor itself
 * the build works. cuBLAS counts columns first: our row-major c = a b is its c^T = b^T a^T, with
 * the same memory and the factors swapped.
 *
 * Repeats are bit-identical: no atomics, one stream, and a workspace of our own, which also keeps
 * it from allocating while a graph is recorded. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/matmul_dispatch.cuh"

/* The part of cublas_api.h and library_types.h that is needed, under names of our own. */
enum { OPERATION_N = 0, OPERATION_T = 1 };
enum { TYPE_F32 = 0, TYPE_BF16 = 14 };
enum { COMPUTE_F32 = 68, ALGORITHM_DEFAULT = -1, ATOMICS_NOT_ALLOWED = 0 };
enum { MATH_NO_REDUCED_PRECISION_REDUCTION = 16 }; /* and no TF32: that would be asked for */

struct lt_cublas {
    const char *name;
    void *handle;
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, cudaStream_t stream);
    int (*set_workspace)(void *handle, void *workspace, size_t bytes);
    int (*set_math_mode)(void *handle, int mode);
    int (*set_atomics_mode)(void *handle, int mode);
    int (*gemm)(void *handle, int a_operation, int b_operation, int64_t m, int64_t n, int64_t k,
                const void *alpha, const void *a, int a_type, int64_t a_stride, const void *b,
                int b_type, int64_t b_stride, const void *beta, void *c, int c_type,
                int64_t c_stride, int compute_type, int algorithm);
    const char *(*status_name)(int status);
};

#ifdef LT_EMULATOR
static const char *const library_names[] = {"libcublas_emulated.so", NULL};
#else
#define library_names lt_cublas_names
#endif

static lt_status check(const lt_cublas *cublas, int status, const char *call, lt_err *err)
{
    if (status == 0) return LT_OK;
    return lt_fail(err, LT_ERR_IO, "matmul: %s of %s: %s", call, cublas->name,
                   cublas->status_name(status));
}

static lt_status load(lt_cublas *cublas, lt_err *err)
{
    const struct {
        void *slot;
        const char *name;
    } symbols[] = {
        {&cublas->create, "cublasCreate_v2"},
        {&cublas->destroy, "cublasDestroy_v2"},
        {&cublas->set_stream, "cublasSetStream_v2"},
        {&cublas->set_workspace, "cublasSetWorkspace_v2"},
        {&cublas->set_math_mode, "cublasSetMathMode"},
        {&cublas->set_atomics_mode, "cublasSetAtomicsMode"},
        {&cublas->gemm, "cublasGemmEx_64"},
        {&cublas->status_name, "cublasGetStatusName"},
    };
    void *library = lt_cuda_open_library(library_names, &cublas->name);
    if (!library)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "cuBLAS is not here (libcublas.so.12 or .13, of the CUDA toolkit): use "
                       "--matmul native, or add its folder to LD_LIBRARY_PATH");
    for (const auto &s : symbols) {
        void *symbol = dlsym(library, s.name);
        if (!symbol)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "%s lacks %s: it is too old; use --matmul "
                           "native",
                           cublas->name, s.name);
        memcpy(s.slot, &symbol, sizeof symbol);
    }
    return LT_OK;
}

lt_status cublas_create(lt_cuda *cuda, lt_err *err)
{
    lt_cublas *cublas = (lt_cublas *)calloc(1, sizeof *cublas);
    if (!cublas) return lt_fail_nomem(err, sizeof *cublas, "cuBLAS");
    lt_status status = load(cublas, err);
    if (status == LT_OK) status = check(cublas, cublas->create(&cublas->handle), "creation", err);
    if (status != LT_OK) {
        free(cublas);
        return status;
    }
    cuda->cublas = cublas;
    /* the stream first: setting it takes the workspace away */
    LT_TRY(check(cublas, cublas->set_stream(cublas->handle, cuda->stream), "setting up", err));
    LT_TRY(check(cublas, cublas->set_workspace(cublas->handle, cuda->scratch, LT_CUDA_SCRATCH),
                 "setting up", err));
    LT_TRY(check(cublas, cublas->set_atomics_mode(cublas->handle, ATOMICS_NOT_ALLOWED),
                 "setting up", err));
    return check(cublas, cublas->set_math_mode(cublas->handle, MATH_NO_REDUCED_PRECISION_REDUCTION),
                 "setting up", err);
}

void cublas_free(lt_cuda *cuda)
{
    if (!cuda->cublas) return;
    cuda->cublas->destroy(cuda->cublas->handle);
    free(cuda->cublas);
    cuda->cublas = NULL;
}

const char *cublas_name(const lt_cuda *cuda)
{
    return cuda->cublas->name;
}

static int type_of(const lt_tensor *t)
{
    return t->dtype == LT_BF16 ? TYPE_BF16 : TYPE_F32;
}

/* cuBLAS wants the distance of rows to be at least their length, also where there is one row. */
static int64_t row_stride(const lt_tensor *t)
{
    return t->shape[0] > 1 ? t->stride[0] : t->shape[1];
}

lt_status cublas_product(const lt_backend *backend, lt_matmul_layout layout, const lt_tensor *c,
                         const lt_tensor *a, const lt_tensor *b, bool accumulate, lt_err *err)
{
    const lt_cublas *cublas = cuda_of(backend)->cublas;
    const float one = 1, beta = accumulate ? 1 : 0;
    int64_t k = a->shape[layout == LT_MATMUL_TN ? 0 : 1];
    return check(cublas,
                 cublas->gemm(cublas->handle, layout == LT_MATMUL_NT ? OPERATION_T : OPERATION_N,
                              layout == LT_MATMUL_TN ? OPERATION_T : OPERATION_N, c->shape[1],
                              c->shape[0], k, &one, b->data, type_of(b), row_stride(b), a->data,
                              type_of(a), row_stride(a), &beta, c->data, type_of(c), row_stride(c),
                              COMPUTE_F32, ALGORITHM_DEFAULT),
                 "the product", err);
}
