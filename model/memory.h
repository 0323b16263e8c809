/* Is there room? Private to model/. */
#ifndef LT_MODEL_MEMORY_H
#define LT_MODEL_MEMORY_H

#include "model/model.h"

/* LT_ERR_NOMEM with both figures when `bytes` on this backend's device are more than can be had. */
lt_status lt_check_memory(const lt_backend *backend, uint64_t bytes, const char *what, lt_err *err);

#endif
