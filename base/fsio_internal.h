/* What fsio.c and fsio_commit.c share. */
#ifndef LT_BASE_FSIO_INTERNAL_H
#define LT_BASE_FSIO_INTERNAL_H

#include <stddef.h>

#include "base/status.h"

/* LT_ERR_IO (or LT_ERR_NOMEM) "path: what: reason", with the reason from errno. */
lt_status lt_fail_errno(lt_err *err, const char *path, const char *what);

int lt_open(const char *path, int flags); /* close-on-exec, goes on after EINTR */
int lt_close(int fd);                     /* -1 and errno when data may not have arrived */
lt_status lt_write_all(int fd, const void *data, size_t size, const char *path, lt_err *err);

/* Makes the names in the directory that holds `path` durable. */
lt_status lt_sync_parent(const char *path, lt_err *err);

#endif
