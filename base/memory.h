/* How much memory the machine can still give: asked before anything large is allocated, since Linux
 * hands out more than it has and kills the process later. */
#ifndef LT_BASE_MEMORY_H
#define LT_BASE_MEMORY_H

#include <stdint.h>

/* Bytes that can be had now: the smaller of /proc/meminfo's MemAvailable and what is left of the
 * control groups' limits. UINT64_MAX when the system does not say. */
uint64_t lt_available_memory(void);

/* The control groups' part of it: `membership` as /proc/self/cgroup, `mount` as /sys/fs/cgroup. */
uint64_t lt_group_memory(const char *membership, const char *mount);

#endif
