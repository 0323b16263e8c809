/* A file that grows record by record (log.jsonl, TensorBoard events).
 *
 * Every record reaches the file whole, at once, or not yet: a write that the disk cuts short is
 * taken back, and the record waits in memory until there is room again. Observers never stop a run,
 * so failing to write is remembered, not returned, until the file is closed. */
#ifndef LT_TRAIN_MONITOR_APPEND_FILE_H
#define LT_TRAIN_MONITOR_APPEND_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/status.h"

typedef struct lt_append_file {
    int fd;
    lt_buffer pending; /* records not yet in the file; owned */
} lt_append_file;

/* Opens `path` for appending, creating it; `truncate` empties it first. */
lt_status lt_append_file_open(lt_append_file *file, const char *path, bool truncate, lt_err *err);
/* Adds one record and writes all that waits. */
void lt_append_file_write(lt_append_file *file, const void *data, size_t size);
/* Tries once more, then closes. LT_ERR_IO when records are lost. Harmless on a closed file. */
lt_status lt_append_file_close(lt_append_file *file, lt_err *err);

#endif
