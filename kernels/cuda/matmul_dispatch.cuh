/* Whose matrix products: ours or cuBLAS's. Private to kernels/cuda. */
#ifndef LT_CUDA_MATMUL_DISPATCH_CUH
#define LT_CUDA_MATMUL_DISPATCH_CUH

#include "kernels/cuda/device.cuh"

/* Loads cuBLAS where cuda->matmul asks for it or the table would use it. In the first case
 * LT_ERR_UNSUPPORTED when it can not be had; in the second, native does without. */
lt_status matmul_set_up(lt_cuda *cuda, lt_dtype real, lt_err *err);
void matmul_tear_down(lt_cuda *cuda);
/* cuda->products: whose products it uses, for the log. */
void matmul_describe(lt_cuda *cuda, lt_dtype real);

/* --- cublas.cu -------------------------------------------------------------------------------- */

/* The library is opened at run time; it may be any 12.x or 13.x. */
lt_status cublas_create(lt_cuda *cuda, lt_err *err);
void cublas_free(lt_cuda *cuda);
const char *cublas_name(const lt_cuda *cuda); /* "libcublas.so.13" */

/* c = a b, or c += a b, by layout; a and b of one dtype, no dimension 0. */
lt_status cublas_product(const lt_backend *backend, lt_matmul_layout layout, const lt_tensor *c,
                         const lt_tensor *a, const lt_tensor *b, bool accumulate, lt_err *err);

#endif
