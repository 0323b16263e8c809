/* What fsio.c, fsio_commit.c and fsio_shared.c share. */
#ifndef LT_BASE_FSIO_INTERNAL_H
#define LT_BASE_FSIO_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* LT_ERR_IO (or LT_ERR_NOMEM) "path: what: reason", with the reason from errno. */
lt_status lt_fail_errno(lt_err *err, const char *path, const char *what);

int lt_open(const char *path, int flags); /* close-on-exec, goes on after EINTR */
int lt_close(int fd);                     /* -1 and errno when data may not have arrived */
lt_status lt_write_all(int fd, const void *data, size_t size, const char *path, lt_err *err);
lt_status lt_write_all_at(int fd, uint64_t offset, const void *data, size_t size, const char *path,
                          lt_err *err);
/* The fsync is never tried again: after a failure the kernel may have dropped the data, and a
 * second one would report success. */
lt_status lt_sync_and_close(int fd, const char *path, lt_err *err);

/* Makes the names in the directory that holds `path` durable. */
lt_status lt_sync_parent(const char *path, lt_err *err);

#endif
