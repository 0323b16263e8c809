/* Stands in for kernels/cuda where it is not compiled: the same entry points, which say so. */
#include "kernels/cuda/cuda.h"

lt_cuda_build lt_cuda_this_build(void)
{
    return (lt_cuda_build){.code = ""};
}

lt_status lt_cuda_backend_create(const lt_backend_settings *settings, lt_backend **out, lt_err *err)
{
    lt_cuda_machine none = {0};
    *out = NULL;
    return lt_cuda_usable(lt_cuda_this_build(), &none, settings->index, err);
}

void lt_cuda_backend_free(lt_backend *backend)
{
    (void)backend;
}
