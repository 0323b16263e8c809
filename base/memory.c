#include "base/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
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

/* What one group has left. Pages of the file cache count as used there, but are given up when
 * memory is wanted. */
static uint64_t group_left(const char *group, bool v2)
{
    char path[PATH_MAX + 64];
    uint64_t limit, used;
    snprintf(path, sizeof path, "%s/%s", group, v2 ? "memory.max" : "memory.limit_in_bytes");
    if (!read_number(path, &limit)) return UINT64_MAX;
    snprintf(path, sizeof path, "%s/%s", group, v2 ? "memory.current" : "memory.usage_in_bytes");
    if (!read_number(path, &used)) return UINT64_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", group);
    uint64_t cache = stat_value(path, v2 ? "inactive_file" : "total_inactive_file");
    used -= cache < used ? cache : used;
    return limit > used ? limit - used : 0;
}

/* The least that `below` (a path that begins with '/') under `mount`, or a group above it, has
 * left: each of them may have a limit. */
static uint64_t least_left(const char *mount, const char *below, bool v2)
{
    char group[PATH_MAX];
    int length = snprintf(group, sizeof group, "%s%s", mount, below);
    if (length < 0 || (size_t)length >= sizeof group) return UINT64_MAX;
    size_t root = strlen(mount);
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t left = group_left(group, v2);
        least = left < least ? left : least;
        char *slash = strrchr(group + root, '/');
        if (!slash) return least;
        *slash = '\0';
    }
}

uint64_t lt_group_memory(const char *membership, const char *mount)
{
    char line[PATH_MAX + 64], controller_mount[PATH_MAX];
    uint64_t least = least_left(mount, "", true); /* inside a container its own group is the root */
    snprintf(controller_mount, sizeof controller_mount, "%s/memory", mount);
    uint64_t v1 = least_left(controller_mount, "", false);
    least = v1 < least ? v1 : least;
    FILE *file = fopen(membership, "r");
    if (!file) return least;
    while (fgets(line, sizeof line, file)) {
        /* "0::/path" in version 2, "9:memory:/path" in version 1 */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path) continue;
        *path++ = '\0';
        uint64_t left = UINT64_MAX;
        if (controllers[1] == '\0')
            left = least_left(mount, path, true);
        else if (strcmp(controllers + 1, "memory") == 0)
            left = least_left(controller_mount, path, false);
        least = left < least ? left : least;
    }
    fclose(file);
    return least;
}

uint64_t lt_available_memory(void)
{
    uint64_t machine = meminfo_available(),
             group = lt_group_memory("/proc/self/cgroup", "/sys/fs/cgroup");
    return machine < group ? machine : group;
}
