#include "train/monitor/append_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

lt_status lt_append_file_open(lt_append_file *file, const char *path, bool truncate, lt_err *err)
{
    *file = (lt_append_file){.fd = -1};
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (truncate ? O_TRUNC : 0);
    file->fd = open(path, flags, 0666);
    if (file->fd < 0)
        return lt_fail(err, LT_ERR_IO, "%s: can not be opened for writing: %s", path,
                       strerror(errno));
    return LT_OK;
}

/* All of `size` bytes, or false with the file as long as it was before. */
static bool write_whole(int fd, const char *data, size_t size)
{
    struct stat before;
    if (fstat(fd, &before) != 0) return false;
    size_t done = 0;
    while (done < size) {
        ssize_t n = write(fd, data + done, size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        done += (size_t)n;
    }
    if (done == size) return true;
    /* Half a record would make the rest of the file unreadable. Should taking it back fail too, a
     * reader meets one torn record; nothing more can be done. */
    if (done > 0 && ftruncate(fd, before.st_size) != 0) return false;
    return false;
}

static void flush_pending(lt_append_file *file)
{
    if (file->pending.size == 0) return;
    if (write_whole(file->fd, file->pending.data, file->pending.size))
        lt_buffer_clear(&file->pending);
}

void lt_append_file_write(lt_append_file *file, const void *data, size_t size)
{
    if (file->fd < 0) return;
    if (lt_buffer_append(&file->pending, data, size, NULL) != LT_OK) return;
    flush_pending(file);
}

lt_status lt_append_file_close(lt_append_file *file, lt_err *err)
{
    if (file->fd < 0) return LT_OK;
    flush_pending(file);
    lt_status status = LT_OK;
    if (file->pending.size > 0)
        status =
            lt_fail(err, LT_ERR_IO, "the last %zu bytes could not be written", file->pending.size);
    if (close(file->fd) != 0 && status == LT_OK)
        status = lt_fail(err, LT_ERR_IO, "closing failed: %s", strerror(errno));
    file->fd = -1;
    lt_buffer_free(&file->pending);
    return status;
}
