/* Reading files, paths and directories. The atomic commit of files and directories is in
 * fsio_commit.c, files of several writers are in fsio_shared.c, the hashes in hash.c. */
#include "base/fsio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fsio_internal.h"

#define CHUNK_BYTES ((size_t)1 << 20)

/* --- Shared with the other two ------------------------------------------------------------------
 */

lt_status lt_fail_errno(lt_err *err, const char *path, const char *what)
{
    int code = errno;
    if (code == ENOMEM) return lt_fail(err, LT_ERR_NOMEM, "%s: %s: out of memory", path, what);
    return lt_fail(err, LT_ERR_IO, "%s: %s: %s", path, what, strerror(code));
}

int lt_open(const char *path, int flags)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

int lt_close(int fd)
{
    /* Linux closes the descriptor even when it says EINTR: closing again could hit another file. */
    return close(fd) == 0 || errno == EINTR ? 0 : -1;
}

lt_status lt_write_all(int fd, const void *data, size_t size, const char *path, lt_err *err)
{
    const char *at = data;
    while (size) {
        ssize_t put = write(fd, at, size);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            if (put == 0) errno = EIO;
            return lt_fail_errno(err, path, "cannot be written");
        }
        at += put;
        size -= (size_t)put;
    }
    return LT_OK;
}

lt_status lt_write_all_at(int fd, uint64_t offset, const void *data, size_t size, const char *path,
                          lt_err *err)
{
    const char *at = data;
    while (size) {
        ssize_t put = pwrite(fd, at, size, (off_t)offset);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            if (put == 0) errno = EIO;
            return lt_fail_errno(err, path, "cannot be written");
        }
        at += put;
        offset += (uint64_t)put;
        size -= (size_t)put;
    }
    return LT_OK;
}

lt_status lt_sync_and_close(int fd, const char *path, lt_err *err)
{
    lt_status status = LT_OK;
    if (fsync(fd) != 0) status = lt_fail_errno(err, path, "cannot be made durable (fsync)");
    if (lt_close(fd) != 0 && status == LT_OK)
        status = lt_fail_errno(err, path, "cannot be written");
    return status;
}

/* --- Reading ------------------------------------------------------------------------------------
 */

/* Reads up to `size` bytes; less only at the end of the file, -1 on error. */
static ssize_t read_full(int fd, char *data, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(fd, data + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

lt_status lt_read_file(const char *path, size_t max_bytes, lt_buffer *out, lt_err *err)
{
    lt_status status = LT_OK;
    const size_t start = out->size;
    int fd = lt_open(path, O_RDONLY);
    if (fd < 0) return lt_fail_errno(err, path, "cannot be opened");

    /* The size is only a hint: a pipe has none, and the file may be growing. */
    struct stat info;
    size_t step = CHUNK_BYTES;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 &&
        (uint64_t)info.st_size < max_bytes)
        step = (size_t)info.st_size + 1;
    for (;;) {
        LT_TRY_GOTO(status, lt_buffer_reserve(out, step, err), done);
        ssize_t got = read_full(fd, out->data + out->size, step);
        if (got < 0) {
            status = lt_fail_errno(err, path, "cannot be read");
            goto done;
        }
        out->size += (size_t)got;
        out->data[out->size] = '\0';
        if (out->size - start > max_bytes) {
            status = lt_fail(err, LT_ERR_LIMIT, "%s: has more than the %zu bytes that are allowed",
                             path, max_bytes);
            goto done;
        }
        if ((size_t)got < step) break;
        step = CHUNK_BYTES;
    }
done:
    if (status != LT_OK && out->data) {
        out->size = start;
        out->data[start] = '\0';
    }
    close(fd);
    return status;
}

lt_status lt_map_file(const char *path, lt_mapped_file *out, lt_err *err)
{
    *out = (lt_mapped_file){0};
    /* O_NONBLOCK: opening a pipe must not wait for its other end */
    int fd = lt_open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return lt_fail_errno(err, path, "cannot be opened");
    lt_status status = LT_OK;
    struct stat info;
    if (fstat(fd, &info) != 0) {
        status = lt_fail_errno(err, path, "cannot be read");
    } else if (!S_ISREG(info.st_mode)) {
        status = lt_fail(err, LT_ERR_IO, "%s: is not a regular file", path);
    } else if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED)
            status = lt_fail_errno(err, path, "cannot be mapped");
        else
            *out = (lt_mapped_file){.data = data, .size = (size_t)info.st_size};
    }
    close(fd);
    return status;
}

void lt_unmap_file(lt_mapped_file *file)
{
    if (file->data) munmap((void *)file->data, file->size);
    *file = (lt_mapped_file){0};
}

/* --- Paths --------------------------------------------------------------------------------------
 */

lt_status lt_path_join(lt_buffer *out, const char *directory, const char *name, lt_err *err)
{
    size_t length = strlen(directory);
    bool slash = length > 0 && directory[length - 1] != '/';
    lt_buffer_clear(out);
    return lt_buffer_printf(out, err, "%s%s%s", directory, slash ? "/" : "", name);
}

bool lt_path_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool lt_is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool lt_is_plain_file_name(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

bool lt_is_temporary_name(const char *name)
{
    if (strncmp(name, ".trash-", 7) == 0) return true;
    const char *mark = NULL;
    for (const char *at = name; (at = strstr(at, ".tmp-")) != NULL; at += 5)
        mark = at;
    if (!mark) return false;
    /* PID, or PID-N */
    const char *at = mark + 5;
    size_t digits = strspn(at, "0123456789");
    if (digits == 0) return false;
    at += digits;
    if (*at == '-') {
        digits = strspn(++at, "0123456789");
        if (digits == 0) return false;
        at += digits;
    }
    return *at == '\0';
}

/* Makes one directory and its name in the parent durable. Having it already is fine. */
static lt_status make_directory(const char *path, lt_err *err)
{
    if (mkdir(path, 0777) == 0) return lt_sync_parent(path, err);
    int code = errno;
    if (code == EEXIST && lt_is_directory(path)) return LT_OK;
    errno = code;
    return lt_fail_errno(err, path, "cannot be created as a directory");
}

lt_status lt_make_directories(const char *path, lt_err *err)
{
    if (!*path) return lt_fail(err, LT_ERR_USAGE, "the name of a directory is empty");
    char *copy = strdup(path);
    if (!copy) return lt_fail_nomem(err, strlen(path), "a path");
    lt_status status = LT_OK;
    for (char *at = copy + 1; status == LT_OK && *at; at++) {
        if (*at != '/' || at[-1] == '/') continue;
        *at = '\0';
        if (!lt_is_directory(copy)) status = make_directory(copy, err);
        *at = '/';
    }
    if (status == LT_OK && !lt_is_directory(copy)) status = make_directory(copy, err);
    free(copy);
    return status;
}

lt_status lt_make_parent_directories(const char *path, lt_err *err)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        size--;
    while (size > 0 && path[size - 1] != '/')
        size--;
    if (size == 0) return LT_OK;
    char *parent = strndup(path, size);
    if (!parent) return lt_fail_nomem(err, size, "a path");
    lt_status status = lt_make_directories(parent, err);
    free(parent);
    return status;
}

lt_status lt_require_new_directory(const char *path, lt_err *err)
{
    if (!lt_path_exists(path)) return LT_OK;
    if (!lt_is_directory(path))
        return lt_fail(err, LT_ERR_USAGE, "%s: exists and is not a directory", path);
    lt_name_list names = {0};
    LT_TRY(lt_list_directory(path, &names, err));
    size_t count = names.count;
    lt_name_list_free(&names);
    if (count == 0) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "%s: the output directory is not empty; choose another",
                   path);
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

lt_status lt_remove_tree(const char *path, lt_err *err)
{
    /* depth first, links not followed */
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT) return LT_OK;
    return lt_fail_errno(err, path, "cannot be removed");
}

char *lt_path_last_name(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    return strndup(path + start, end - start);
}

lt_status lt_lock_directory(const char *path, int *lock, bool *busy, lt_err *err)
{
    *lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*lock < 0)
        return lt_fail(err, LT_ERR_IO, "%s can not be opened: %s", path, strerror(errno));
    *busy = flock(*lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    return LT_OK;
}

lt_status lt_free_space(const char *path, uint64_t *bytes, lt_err *err)
{
    struct statvfs info;
    if (statvfs(path, &info) != 0) return lt_fail_errno(err, path, "free space cannot be read");
    *bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return LT_OK;
}

lt_status lt_copy_file(const char *from, const char *to, lt_err *err)
{
    lt_status status = LT_OK;
    int output = -1;
    bool created = false;
    char *chunk = malloc(CHUNK_BYTES);
    int input = lt_open(from, O_RDONLY);
    if (input < 0) {
        status = lt_fail_errno(err, from, "cannot be opened");
        goto done;
    }
    if (!chunk) {
        status = lt_fail_nomem(err, CHUNK_BYTES, "copying a file");
        goto done;
    }
    struct stat source, target;
    if (fstat(input, &source) == 0 && stat(to, &target) == 0 && source.st_dev == target.st_dev &&
        source.st_ino == target.st_ino) {
        status = lt_fail(err, LT_ERR_IO, "%s: cannot be copied onto itself", from);
        goto done;
    }
    output = lt_open(to, O_WRONLY | O_CREAT | O_TRUNC);
    if (output < 0) {
        status = lt_fail_errno(err, to, "cannot be created");
        goto done;
    }
    created = true;
    for (;;) {
        ssize_t got = read_full(input, chunk, CHUNK_BYTES);
        if (got < 0) status = lt_fail_errno(err, from, "cannot be read");
        if (got <= 0) break;
        LT_TRY_GOTO(status, lt_write_all(output, chunk, (size_t)got, to, err), done);
    }
done:
    if (output >= 0 && lt_close(output) != 0 && status == LT_OK)
        status = lt_fail_errno(err, to, "cannot be written");
    if (created && status != LT_OK) unlink(to);
    if (input >= 0) close(input);
    free(chunk);
    return status;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

lt_status lt_list_directory(const char *path, lt_name_list *out, lt_err *err)
{
    *out = (lt_name_list){0};
    lt_status status = LT_OK;
    size_t capacity = 0;
    DIR *directory = opendir(path);
    if (!directory) return lt_fail_errno(err, path, "cannot be listed");
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (!entry) {
            if (errno) status = lt_fail_errno(err, path, "cannot be listed");
            break;
        }
        if (!lt_is_plain_file_name(entry->d_name)) continue;
        if (out->count == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            char **larger = realloc(out->names, capacity * sizeof *larger);
            if (!larger) {
                status = lt_fail_nomem(err, capacity * sizeof *larger, "a directory listing");
                break;
            }
            out->names = larger;
        }
        out->names[out->count] = strdup(entry->d_name);
        if (!out->names[out->count]) {
            status = lt_fail_nomem(err, strlen(entry->d_name), "a directory listing");
            break;
        }
        out->count++;
    }
    closedir(directory);
    if (status != LT_OK)
        lt_name_list_free(out);
    else if (out->count)
        qsort(out->names, out->count, sizeof *out->names, compare_names);
    return status;
}

void lt_name_list_free(lt_name_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->names[i]);
    free(list->names);
    *list = (lt_name_list){0};
}
