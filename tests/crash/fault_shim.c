/* A library for LD_PRELOAD that makes chosen file operations of a program fail, so that tests can
 * try every point at which a disk may let it down. Settings come from the environment:
 *
 *   LATHE_FAULT_UNDER=PATH   only operations on names that start with PATH count (default: all, but
 *                            for descriptors 0 to 2)
 *   LATHE_FAULT_AT=N         the N-th counted operation, from 0, goes wrong (default: none)
 *   LATHE_FAULT_COUNT=N      and so do the N-1 after it; -1: all (default: 1)
 *   LATHE_FAULT_KIND=KIND    how: enospc, eio, eintr (they fail with that errno), short (a write
 *                            stops half-way, other operations succeed), kill (the process dies; a
 *                            write has then got half-way)
 *   LATHE_FAULT_NO_EXCHANGE  when set, renameat2 can not exchange, as on simple file systems
 *   LATHE_FAULT_TRACE=FILE   appends a line "operation result path [new path]" for each one
 *
 * Operations are open, write, pwrite, fallocate, fsync, fdatasync, close, rename, renameat2 and
 * mkdir. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEXT(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

typedef enum action { PASS, FAIL, SHORT, KILL } action;

static atomic_long counter;

static long setting(const char *name, long missing)
{
    const char *text = getenv(name);
    return text ? atol(text) : missing;
}

/* What shall happen to the operation on `path` that is about to start; errno is set for FAIL. */
static action next_action(const char *path)
{
    const char *under = getenv("LATHE_FAULT_UNDER"), *kind = getenv("LATHE_FAULT_KIND");
    if (under && strncmp(path, under, strlen(under)) != 0) return PASS;
    long at = setting("LATHE_FAULT_AT", -1), count = setting("LATHE_FAULT_COUNT", 1);
    long index = atomic_fetch_add(&counter, 1);
    if (at < 0 || index < at || (count >= 0 && index >= at + count) || !kind) return PASS;
    if (strcmp(kind, "short") == 0) return SHORT;
    if (strcmp(kind, "kill") == 0) return KILL;
    errno = strcmp(kind, "enospc") == 0 ? ENOSPC : strcmp(kind, "eintr") == 0 ? EINTR : EIO;
    return FAIL;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Writes the trace with plain system calls, which are not operations of the program. */
static int traced(const char *operation, long result, const char *path, const char *other)
{
    int code = errno;
    const char *file = getenv("LATHE_FAULT_TRACE"), *under = getenv("LATHE_FAULT_UNDER");
    if (file && (!under || strncmp(path, under, strlen(under)) == 0)) {
        char line[2 * PATH_MAX + 64];
        int size = snprintf(line, sizeof line, "%s %ld %s %s\n", operation, result, path, other);
        long fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (fd >= 0) {
            if (syscall(SYS_write, fd, line, size) != size) die();
            syscall(SYS_close, fd);
        }
    }
    errno = code;
    return (int)result;
}

/* The absolute form of a name given to an operation. */
static const char *absolute(const char *name, char path[PATH_MAX])
{
    if (name[0] == '/') return name;
    char here[PATH_MAX / 2];
    if (!getcwd(here, sizeof here)) return name;
    snprintf(path, PATH_MAX, "%s/%.2000s", here, name);
    return path;
}

static const char *name_of(int fd, char path[PATH_MAX])
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size > 0 ? size : 0] = '\0';
    return path;
}

int open(const char *name, int flags, ...)
{
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    char buffer[PATH_MAX];
    const char *path = absolute(name, buffer);
    action what = next_action(path);
    if (what == KILL) die();
    return traced(flags & O_CREAT ? "create" : "open",
                  what == FAIL ? -1 : NEXT(open)(name, flags, mode), path, "");
}

ssize_t write(int fd, const void *data, size_t size)
{
    char path[PATH_MAX];
    if (fd <= 2) return NEXT(write)(fd, data, size);
    name_of(fd, path);
    action what = next_action(path);
    if (what == KILL) {
        if (NEXT(write)(fd, data, size / 2) >= 0) die();
        die();
    }
    if (what == SHORT && size > 1) size /= 2;
    ssize_t result = what == FAIL ? -1 : NEXT(write)(fd, data, size);
    traced("write", result < 0 ? -1 : 0, path, "");
    return result;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    char path[PATH_MAX];
    action what = next_action(name_of(fd, path));
    if (what == KILL) {
        if (NEXT(pwrite)(fd, data, size / 2, offset) >= 0) die();
        die();
    }
    if (what == SHORT && size > 1) size /= 2;
    ssize_t result = what == FAIL ? -1 : NEXT(pwrite)(fd, data, size, offset);
    traced("write", result < 0 ? -1 : 0, path, "");
    return result;
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
    char path[PATH_MAX];
    action what = next_action(name_of(fd, path));
    if (what == KILL) die();
    int result = what == FAIL ? -1 : NEXT(fallocate)(fd, mode, offset, size);
    return traced("reserve", result, path, "");
}

/* fsync and fdatasync. */
static int sync_with(int (*function)(int), const char *operation, int fd)
{
    char path[PATH_MAX];
    action what = next_action(name_of(fd, path));
    if (what == KILL) die();
    return traced(operation, what == FAIL ? -1 : function(fd), path, "");
}

int fsync(int fd)
{
    return sync_with(NEXT(fsync), "fsync", fd);
}

int fdatasync(int fd)
{
    return sync_with(NEXT(fdatasync), "fdatasync", fd);
}

int close(int fd)
{
    char path[PATH_MAX];
    if (fd <= 2) return NEXT(close)(fd);
    action what = next_action(name_of(fd, path));
    int code = errno;
    if (what == KILL) die();
    int result = NEXT(close)(fd); /* a close that fails has closed all the same */
    if (what == FAIL) {
        errno = code;
        result = -1;
    }
    return traced("close", result, path, "");
}

int mkdir(const char *name, mode_t mode)
{
    char buffer[PATH_MAX];
    const char *path = absolute(name, buffer);
    action what = next_action(path);
    if (what == KILL) die();
    return traced("mkdir", what == FAIL ? -1 : NEXT(mkdir)(name, mode), path, "");
}

int rename(const char *from, const char *to)
{
    char from_buffer[PATH_MAX], to_buffer[PATH_MAX];
    const char *from_path = absolute(from, from_buffer), *to_path = absolute(to, to_buffer);
    action what = next_action(from_path);
    if (what == KILL) die();
    return traced("rename", what == FAIL ? -1 : NEXT(rename)(from, to), from_path, to_path);
}

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    char from_buffer[PATH_MAX], to_buffer[PATH_MAX];
    const char *from_path = absolute(from, from_buffer), *to_path = absolute(to, to_buffer);
    if (flags & RENAME_EXCHANGE && getenv("LATHE_FAULT_NO_EXCHANGE")) {
        errno = EINVAL;
        return -1;
    }
    action what = next_action(from_path);
    if (what == KILL) die();
    return traced(flags & RENAME_EXCHANGE ? "exchange" : "rename",
                  what == FAIL ? -1 : NEXT(renameat2)(from_at, from, to_at, to, flags), from_path,
                  to_path);
}
