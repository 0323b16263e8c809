/* The atomic commit of single files and of directories, see fsio.h.
 *
 * A temporary is `NAME.tmp-PID-N` beside its final name. Its maker holds an flock on it for as long
 * as it lives: that, and not the PID, tells a running writer from a killed one, since containers
 * give the same PID to every start, and a shared disk is seen from machines with other PIDs.
 *
 * Whatever fails, no temporary is left and the old version is in place, with one exception: when
 * the last step fails (fsync of the parent after the rename), and for a directory taking it back
 * fails too, the new version is in place, whole, but may not survive a power cut, and the status
 * says so. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/fsio_internal.h"

#define NAME_TRIES 1000 /* leftovers of the same PID that are stepped over */

/* --- Making names durable -----------------------------------------------------------------------
 */

/* The directory that holds `path`; caller frees. NULL when memory is out. */
static char *parent_of(const char *path)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        size--;
    while (size && path[size - 1] != '/')
        size--;
    while (size > 1 && path[size - 1] == '/')
        size--;
    return size ? strndup(path, size) : strdup(".");
}

/* A directory fsync that the file system does not know (EINVAL) can not be had any other way. */
static int sync_directory_fd(int fd)
{
    return fsync(fd) == 0 || errno == EINVAL ? 0 : -1;
}

static lt_status open_parent(const char *path, int *fd, lt_err *err)
{
    char *parent = parent_of(path);
    if (!parent) return lt_fail_nomem(err, strlen(path), "a path");
    *fd = lt_open(parent, O_RDONLY | O_DIRECTORY);
    lt_status status = *fd < 0 ? lt_fail_errno(err, path, "its directory cannot be opened") : LT_OK;
    free(parent);
    return status;
}

lt_status lt_sync_parent(const char *path, lt_err *err)
{
    int fd;
    LT_TRY(open_parent(path, &fd, err));
    lt_status status = LT_OK;
    if (sync_directory_fd(fd) != 0)
        status = lt_fail_errno(err, path, "its directory cannot be made durable");
    close(fd);
    return status;
}

/* fsyncs a file, or everything in a directory and then the directory itself. */
static lt_status sync_tree(const char *path, lt_err *err)
{
    struct stat info;
    if (lstat(path, &info) != 0) return lt_fail_errno(err, path, "cannot be read");
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) return LT_OK; /* a link: just a name */
    if (S_ISDIR(info.st_mode)) {
        lt_name_list names;
        LT_TRY(lt_list_directory(path, &names, err));
        lt_buffer child = {0};
        lt_status status = LT_OK;
        for (size_t i = 0; i < names.count && status == LT_OK; i++) {
            status = lt_path_join(&child, path, names.names[i], err);
            if (status == LT_OK) status = sync_tree(child.data, err);
        }
        lt_buffer_free(&child);
        lt_name_list_free(&names);
        LT_TRY(status);
    }
    int fd = lt_open(path, O_RDONLY | O_NOFOLLOW);
    if (fd < 0) return lt_fail_errno(err, path, "cannot be opened");
    if (!S_ISDIR(info.st_mode)) return lt_sync_and_close(fd, path, err);
    lt_status status = LT_OK;
    if (sync_directory_fd(fd) != 0)
        status = lt_fail_errno(err, path, "cannot be made durable (fsync)");
    close(fd);
    return status;
}

/* --- Temporary names ----------------------------------------------------------------------------
 */

/* Copies `path` without trailing slashes; refuses what has no plain last component. */
static lt_status final_name(const char *path, char **out, lt_err *err)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        size--;
    *out = strndup(path, size);
    if (!*out) return lt_fail_nomem(err, size, "a path");
    const char *slash = strrchr(*out, '/');
    if (lt_is_plain_file_name(slash ? slash + 1 : *out)) return LT_OK;
    free(*out);
    *out = NULL;
    return lt_fail(err, LT_ERR_IO, "\"%s\" is not a name that a new file or directory can have",
                   path);
}

/* Creates the next free temporary beside `path`, as a file or a directory, and locks it. */
static lt_status create_temporary(const char *path, bool directory, char **name, int *fd,
                                  lt_err *err)
{
    static atomic_uint counter;
    for (int tries = 0; tries < NAME_TRIES; tries++) {
        unsigned number = atomic_fetch_add(&counter, 1);
        if (asprintf(name, "%s.tmp-%ld-%u", path, (long)getpid(), number) < 0) {
            *name = NULL;
            return lt_fail_nomem(err, strlen(path), "a path");
        }
        int made = directory ? mkdir(*name, 0777) : 0;
        *fd = -1;
        if (made == 0)
            *fd = directory ? lt_open(*name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
                            : lt_open(*name, O_WRONLY | O_CREAT | O_EXCL);
        int code = errno;
        struct stat info;
        /* Between creation and lock somebody may have taken it for a leftover and removed it. */
        bool taken = *fd >= 0 && ((flock(*fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) ||
                                  fstat(*fd, &info) != 0 || info.st_nlink == 0);
        if (*fd >= 0 && !taken) return LT_OK;
        if (*fd >= 0) close(*fd);
        *fd = -1;
        if (directory && made == 0 && !taken) rmdir(*name);
        free(*name);
        *name = NULL;
        if (!taken && code != EEXIST) {
            errno = code;
            return lt_fail_errno(err, path, "cannot be created");
        }
    }
    return lt_fail(err, LT_ERR_IO, "%s: cannot be created: too many leftovers \"%s.tmp-…\"", path,
                   path);
}

/* --- One file -----------------------------------------------------------------------------------
 */

lt_status lt_new_file_begin(lt_new_file *file, const char *path, lt_err *err)
{
    *file = (lt_new_file){.fd = -1};
    LT_TRY(final_name(path, &file->path, err));
    struct stat info;
    lt_status status = LT_OK;
    /* Renaming over /dev/null or a socket would destroy it. */
    if (stat(file->path, &info) == 0 && !S_ISREG(info.st_mode))
        status = lt_fail(err, LT_ERR_IO, "%s: is %s, not a regular file", path,
                         S_ISDIR(info.st_mode) ? "a directory" : "a device or pipe");
    if (status == LT_OK)
        status = create_temporary(file->path, false, &file->temporary, &file->fd, err);
    if (status != LT_OK) lt_new_file_abort(file);
    return status;
}

lt_status lt_new_file_write(lt_new_file *file, const void *data, size_t size, lt_err *err)
{
    LT_TRY(lt_write_all(file->fd, data, size, file->path, err));
    file->written += size;
    return LT_OK;
}

lt_status lt_new_file_write_at(lt_new_file *file, uint64_t offset, const void *data, size_t size,
                               lt_err *err)
{
    return lt_write_all_at(file->fd, offset, data, size, file->path, err);
}

lt_status lt_new_file_commit(lt_new_file *file, lt_err *err)
{
    int parent = -1;
    lt_status status = open_parent(file->path, &parent, err);
    if (status != LT_OK) goto done;
    status = lt_sync_and_close(file->fd, file->path, err);
    file->fd = -1;
    if (status != LT_OK) goto done;
    if (rename(file->temporary, file->path) != 0) {
        status = lt_fail_errno(err, file->path, "cannot be put in place");
        goto done;
    }
    free(file->temporary);
    file->temporary = NULL;
    if (sync_directory_fd(parent) != 0)
        status =
            lt_fail_errno(err, file->path,
                          "is written, but may not survive a power cut (fsync of its directory)");
done:
    if (parent >= 0) close(parent);
    lt_new_file_abort(file);
    return status;
}

void lt_new_file_abort(lt_new_file *file)
{
    if (file->temporary) {
        unlink(file->temporary);
        if (file->fd >= 0) close(file->fd);
    }
    free(file->temporary);
    free(file->path);
    *file = (lt_new_file){.fd = -1};
}

lt_status lt_write_file(const char *path, const void *data, size_t size, lt_err *err)
{
    lt_new_file file;
    LT_TRY(lt_new_file_begin(&file, path, err));
    lt_status status = lt_new_file_write(&file, data, size, err);
    if (status == LT_OK) return lt_new_file_commit(&file, err);
    lt_new_file_abort(&file);
    return status;
}

/* --- One directory ------------------------------------------------------------------------------
 */

lt_status lt_new_directory_begin(lt_new_directory *directory, const char *path, lt_err *err)
{
    *directory = (lt_new_directory){.lock = -1};
    lt_status status = final_name(path, &directory->path, err);
    if (status == LT_OK)
        status =
            create_temporary(directory->path, true, &directory->temporary, &directory->lock, err);
    if (status != LT_OK) lt_new_directory_abort(directory);
    return status;
}

/* ".trash-PID-NAME" beside NAME. Until the new version is in place it holds the old one, which
 * lt_remove_stale_temporaries puts back. Caller frees; NULL when memory is out. */
static char *trash_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    int parent = slash ? (int)(slash + 1 - path) : 0;
    char *name;
    if (asprintf(&name, "%.*s.trash-%ld-%s", parent, path, (long)getpid(), path + parent) < 0)
        return NULL;
    return name;
}

/* Puts the temporary in place of the existing directory. After it, *old names the one that was
 * replaced (owned by the caller), or is NULL when there was none. */
static lt_status swap_in(const lt_new_directory *directory, char **old, lt_err *err)
{
    const char *path = directory->path, *temporary = directory->temporary;
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) == 0) {
        *old = strdup(temporary);
        if (*old) return LT_OK;
        renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE);
        return lt_fail_nomem(err, strlen(temporary), "a path");
    }
    if (errno != EINVAL && errno != ENOSYS)
        return lt_fail_errno(err, path, "cannot be put in place");

    /* A file system that can not exchange: for a moment there is only ".trash-…". */
    *old = trash_name(path);
    if (!*old) return lt_fail_nomem(err, strlen(path), "a path");
    lt_status status = lt_remove_tree(*old, err);
    if (status == LT_OK && rename(path, *old) != 0)
        status = lt_fail_errno(err, path, "cannot be moved aside");
    else if (status == LT_OK && rename(temporary, path) != 0) {
        status = lt_fail_errno(err, path, "cannot be put in place");
        rename(*old, path);
    }
    if (status != LT_OK) {
        free(*old);
        *old = NULL;
    }
    return status;
}

/* The parent's fsync failed: brings back what was there before, so that a failed commit changes
 * nothing. False: that failed too, and the new version is in place. */
static bool swap_out(const lt_new_directory *directory, const char *old)
{
    const char *path = directory->path, *temporary = directory->temporary;
    if (!old) return rename(path, temporary) == 0;
    if (strcmp(old, temporary) == 0)
        return renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) == 0;
    if (rename(path, temporary) != 0) return false;
    rename(old, path); /* or lt_remove_stale_temporaries does it */
    return true;
}

static lt_status take_back(const lt_new_directory *directory, const char *old, lt_err *err)
{
    int code = errno;
    bool is_back = swap_out(directory, old);
    errno = code;
    return lt_fail_errno(
        err, directory->path,
        is_back ? "cannot be made durable (fsync of its directory)"
                : "is written, but may not survive a power cut (fsync of its directory)");
}

lt_status lt_new_directory_commit(lt_new_directory *directory, bool replace, lt_err *err)
{
    const char *path = directory->path;
    char *old = NULL;
    int parent = -1;
    lt_status status = open_parent(path, &parent, err);
    if (status == LT_OK) status = sync_tree(directory->temporary, err);
    if (status != LT_OK) goto done;

    struct stat info;
    bool exists = lstat(path, &info) == 0;
    if (exists && !S_ISDIR(info.st_mode)) {
        status = lt_fail(err, LT_ERR_IO, "%s: exists and is not a directory", path);
        goto done;
    }
    if (exists && replace) {
        LT_TRY_GOTO(status, swap_in(directory, &old, err), done);
    } else if (rename(directory->temporary, path) != 0) {
        /* rename() takes the place of nothing or of an empty directory, and of nothing else: no
         * check beforehand could be as safe. */
        if (errno == ENOTEMPTY || errno == EEXIST)
            status = lt_fail(err, LT_ERR_IO, "%s: exists and is not empty", path);
        else
            status = lt_fail_errno(err, path, "cannot be put in place");
        goto done;
    }
    if (sync_directory_fd(parent) != 0) {
        status = take_back(directory, old, err);
        goto done;
    }
    /* The new one is in place for good. What can not be removed of the old one now has a temporary
     * name and goes at the next clean-up. */
    if (old) lt_remove_tree(old, NULL);
    free(directory->temporary);
    directory->temporary = NULL;
done:
    free(old);
    if (parent >= 0) close(parent);
    lt_new_directory_abort(directory);
    return status;
}

/* A file system that can not rename over nothing only has the check before it. */
static int rename_over_nothing(const char *from, const char *to)
{
    struct stat info;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    if (lstat(to, &info) != 0) return rename(from, to);
    errno = EEXIST;
    return -1;
}

lt_status lt_new_directory_commit_file(lt_new_directory *directory, const char *name, bool replace,
                                       lt_err *err)
{
    const char *path = directory->path;
    lt_buffer file = {0};
    int parent = -1;
    lt_status status = open_parent(path, &parent, err);
    if (status == LT_OK) status = lt_path_join(&file, directory->temporary, name, err);
    if (status == LT_OK) status = sync_tree(file.data, err);
    if (status != LT_OK) goto done;
    if ((replace ? rename(file.data, path) : rename_over_nothing(file.data, path)) != 0)
        status = lt_fail_errno(err, path, "cannot be put in place");
    else if (sync_directory_fd(parent) != 0)
        status = lt_fail_errno(
            err, path, "is written, but may not survive a power cut (fsync of its directory)");
done:
    if (parent >= 0) close(parent);
    lt_buffer_free(&file);
    lt_new_directory_abort(directory);
    return status;
}

void lt_new_directory_abort(lt_new_directory *directory)
{
    if (directory->path) {
        if (directory->temporary) lt_remove_tree(directory->temporary, NULL);
        if (directory->lock >= 0) close(directory->lock);
    }
    free(directory->temporary);
    free(directory->path);
    *directory = (lt_new_directory){.lock = -1};
}

/* --- Leftovers ----------------------------------------------------------------------------------
 */

/* Is the maker of this temporary still at work? Where locks do not exist, its PID decides. */
static bool is_live(int fd, const char *name)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return false;
    if (errno == EWOULDBLOCK) return true;
    const char *mark = strstr(name, ".tmp-");
    for (const char *next = mark; next && (next = strstr(next + 1, ".tmp-")) != NULL;)
        mark = next;
    long pid = mark ? strtol(mark + 5, NULL, 10) : 0;
    return pid > 0 && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}

/* For ".trash-PID-NAME" whose NAME is gone: the process was killed between the two renames, and
 * this is the only version. */
static bool restore_trash(const char *directory, const char *name, const char *path, lt_err *err,
                          lt_status *status)
{
    size_t digits = strspn(name + 7, "0123456789");
    if (digits == 0 || name[7 + digits] != '-') return false;
    lt_buffer final = {0};
    *status = lt_path_join(&final, directory, name + 7 + digits + 1, err);
    struct stat info;
    bool gone = *status == LT_OK && lstat(final.data, &info) != 0 && errno == ENOENT;
    if (gone && rename(path, final.data) != 0)
        *status = lt_fail_errno(err, path, "cannot be put back");
    lt_buffer_free(&final);
    return gone || *status != LT_OK;
}

static lt_status remove_stale(const char *directory, const char *name, lt_err *err)
{
    lt_buffer path = {0};
    lt_status status = lt_path_join(&path, directory, name, err);
    int fd = -1;
    if (status != LT_OK) goto done;
    if (strncmp(name, ".trash-", 7) == 0) {
        if (!restore_trash(directory, name, path.data, err, &status))
            status = lt_remove_tree(path.data, err);
        goto done;
    }
    fd = lt_open(path.data, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno != ENOENT && errno != ELOOP)
        status = lt_fail_errno(err, path.data, "a leftover cannot be opened");
    else if (fd >= 0 && !is_live(fd, name))
        status = lt_remove_tree(path.data, err);
done:
    if (fd >= 0) close(fd);
    lt_buffer_free(&path);
    return status;
}

lt_status lt_remove_stale_temporaries(const char *directory, lt_err *err)
{
    lt_name_list names;
    LT_TRY(lt_list_directory(directory, &names, err));
    lt_status status = LT_OK;
    for (size_t i = 0; i < names.count && status == LT_OK; i++)
        if (lt_is_temporary_name(names.names[i]))
            status = remove_stale(directory, names.names[i], err);
    lt_name_list_free(&names);
    return status;
}
