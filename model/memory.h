/* How much memory the machine can still give: asked before anything large is allocated, since Linux
 * hands out more than it has and kills the process later. */
#ifndef LT_MODEL_MEMORY_H
#define LT_MODEL_MEMORY_H

#include "base/status.h"
#include "model/model.h"

/* The control groups' part of it: `membership` as /proc/self/cgroup, `mount` as /sys/fs/cgroup. */
uint64_t lt_group_memory(const char *membership, const char *mount);

/* LT_ERR_NOMEM with both figures when `bytes` on this backend's device are more than can be had.
 * Only host memory is checked. */
lt_status lt_check_memory(const lt_backend *backend, uint64_t bytes, const char *what, lt_err *err);

#endif
