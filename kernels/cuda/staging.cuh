/* Pinned host memory between the caller's and the GPU's: the hardware copies only from pages that
 * can not move, and the caller wants his memory back at once. Private to kernels/cuda. */
#ifndef LT_CUDA_STAGING_CUH
#define LT_CUDA_STAGING_CUH

#include "kernels/cuda/device.cuh"

lt_status staging_create(lt_cuda *cuda, lt_err *err);
void staging_free(lt_cuda *cuda);

/* lt_backend.upload and .download. */
lt_status staging_upload(const lt_backend *backend, void *to, const void *from, size_t bytes,
                         lt_err *err);
lt_status staging_download(const lt_backend *backend, void *to, const void *from, size_t bytes,
                           lt_err *err);

#endif
