#include "model/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number a control group's file holds; false for "max", or when there is no such file. */
static bool read_number(const char *path, uint64_t *out)
{
    FILE *file = fopen(path, "r");
    if (!file) return false;
    bool ok = fscanf(file, "%" SCNu64, out) == 1;
    fclose(file);
    return ok;
}

static uint64_t meminfo_available(void)
{
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) return UINT64_MAX;
    uint64_t kilobytes, available = UINT64_MAX;
    char line[256];
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kilobytes) == 1)
            available = kilobytes * 1024;
    fclose(file);
    return available;
}

/* The value of a "name value" line of memory.stat, or 0. */
static uint64_t stat_value(const char *path, const char *name)
{
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    uint64_t value = 0;
    char line[256], key[64];
    uint64_t number;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%63s %" SCNu64, key, &number) == 2 && strcmp(key, name) == 0)
            value = number;
    fclose(file);
    return value;
}

/* Inside a container the group's own files are at the root of the mount. Pages of the file cache
 * count as used there, but are given up when memory is wanted. */
static uint64_t group_available(void)
{
    static const struct {
        const char *limit, *used, *stat, *cache;
    } versions[] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat",
         "inactive_file"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
         "/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat",
         "total_inactive_file"},
    };
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        uint64_t limit, used;
        if (!read_number(versions[i].limit, &limit) || !read_number(versions[i].used, &used))
            continue;
        uint64_t cache = stat_value(versions[i].stat, versions[i].cache);
        used -= cache < used ? cache : used;
        return limit > used ? limit - used : 0;
    }
    return UINT64_MAX;
}

uint64_t lt_available_memory(void)
{
    uint64_t machine = meminfo_available(), group = group_available();
    return machine < group ? machine : group;
}

lt_status lt_check_memory(const lt_backend *backend, uint64_t bytes, const char *what, lt_err *err)
{
    if (backend->device != LT_DEVICE_CPU) return LT_OK;
    uint64_t available = lt_available_memory();
    if (bytes <= available) return LT_OK;
    return lt_fail(err, LT_ERR_NOMEM,
                   "not enough memory: %.2f GB wanted for %s, %.2f GB available; use a smaller "
                   "model or batch, or free memory",
                   (double)bytes / 1e9, what, (double)available / 1e9);
}
