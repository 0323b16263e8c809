/* A file that several processes write together, see fsio.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/fsio_internal.h"

lt_status lt_group_agree(const lt_file_group *group, lt_status mine, lt_err *err)
{
    return group ? group->agree(group->context, mine, err) : mine;
}

bool lt_group_leads(const lt_file_group *group)
{
    return !group || group->rank == 0;
}

/* Not posix_fallocate: where the file system can not reserve, that writes to every block. */
static int reserve(int fd, uint64_t size)
{
    int result;
    if (size > INT64_MAX) {
        errno = EFBIG;
        return -1;
    }
    do
        result = fallocate(fd, 0, 0, (off_t)size);
    while (result != 0 && errno == EINTR);
    if (result == 0 || (errno != EOPNOTSUPP && errno != ENOSYS)) return result;
    do
        result = ftruncate(fd, (off_t)size);
    while (result != 0 && errno == EINTR);
    return result;
}

/* Only ever for writing: an NFS client that may read completes its pages from the server, and would
 * write back old bytes of others. */
static lt_status open_shared(lt_shared_file *file, const char *path, int flags, lt_err *err)
{
    *file = (lt_shared_file){.fd = -1, .path = strdup(path)};
    if (!file->path) return lt_fail_nomem(err, strlen(path), "a path");
    file->fd = lt_open(path, O_WRONLY | O_NOFOLLOW | flags);
    if (file->fd >= 0) return LT_OK;
    lt_status status =
        lt_fail_errno(err, path, flags & O_CREAT ? "cannot be created" : "cannot be opened");
    lt_shared_file_abort(file);
    return status;
}

lt_status lt_shared_file_create(lt_shared_file *file, const char *path, uint64_t size, lt_err *err)
{
    LT_TRY(open_shared(file, path, O_CREAT | O_EXCL, err));
    if (size == 0 || reserve(file->fd, size) == 0) return LT_OK;
    lt_status status = lt_fail_errno(err, path, "cannot be given its size");
    lt_shared_file_abort(file);
    return status;
}

lt_status lt_shared_file_open(lt_shared_file *file, const char *path, lt_err *err)
{
    return open_shared(file, path, 0, err);
}

lt_status lt_shared_file_write(lt_shared_file *file, uint64_t offset, const void *data, size_t size,
                               lt_err *err)
{
    return lt_write_all_at(file->fd, offset, data, size, file->path, err);
}

lt_status lt_shared_file_finish(lt_shared_file *file, lt_err *err)
{
    lt_status status = lt_sync_and_close(file->fd, file->path, err);
    file->fd = -1;
    lt_shared_file_abort(file);
    return status;
}

void lt_shared_file_abort(lt_shared_file *file)
{
    if (file->path && file->fd >= 0) close(file->fd);
    free(file->path);
    *file = (lt_shared_file){.fd = -1};
}
