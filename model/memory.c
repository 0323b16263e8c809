#include "model/memory.h"

lt_status lt_check_memory(const lt_backend *backend, uint64_t bytes, const char *what, lt_err *err)
{
    uint64_t available = backend->available_memory(backend);
    if (bytes <= available) return LT_OK;
    return lt_fail(err, LT_ERR_NOMEM,
                   "not enough memory%s: %.2f GB wanted for %s, %.2f GB available; use a smaller "
                   "model or batch, or free memory",
                   backend->device == LT_DEVICE_CUDA ? " on the GPU" : "", (double)bytes / 1e9,
                   what, (double)available / 1e9);
}
