/* The C face of kernels/cuda, for the rest of kernels/: making a backend, and the operations, one
 * function each, named lt_cuda_<operation>. */
#ifndef LT_CUDA_CUDA_H
#define LT_CUDA_CUDA_H

#include "kernels/devices.h"
#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device memory every CUDA backend takes for itself: partial sums of the operations. An operation
 * that could use more splits its work less. */
#ifndef LT_CUDA_SCRATCH /* a test makes it small */
#define LT_CUDA_SCRATCH ((size_t)64 << 20)
#endif

/* --- The backend (backend.cu; no_cuda.c in a build without CUDA) ------------------------------ */

/* LT_ERR_UNSUPPORTED, LT_ERR_NOMEM or LT_ERR_USAGE say why the GPU can not be used. A backend is
 * used by the thread that made it. */
lt_status lt_cuda_backend_create(const lt_backend_settings *settings, lt_backend **out,
                                 lt_err *err);
void lt_cuda_backend_free(lt_backend *backend);

#define LT_DECLARE(name, args) \
    lt_status lt_cuda_##name(const lt_backend *backend, const args *a, lt_err *err);
LT_OPERATIONS(LT_DECLARE)
#undef LT_DECLARE

#ifdef __cplusplus
}
#endif

#endif
