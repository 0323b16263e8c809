/* Files that are either wholly there or not there at all.
 *
 * The protocol for a directory (a checkpoint, a model) is: make a sibling `NAME.tmp-PID`, write the
 * files, fsync each, fsync the directory, rename it over nothing, fsync the parent. Each of the
 * four fsyncs is load-bearing: leaving one out loses or corrupts data at a power cut. A failed
 * fsync is final for that commit; it is never retried. Single files follow the same steps with one
 * file. Readers must ignore names for which lt_is_temporary_name is true. The parent directory has
 * to be there (lt_make_directories). */
#ifndef LT_BASE_FSIO_H
#define LT_BASE_FSIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

/* --- Reading ------------------------------------------------------------------------------------
 */

/* Appends the whole file to `out`. LT_ERR_LIMIT when it has more than `max_bytes`. */
lt_status lt_read_file(const char *path, size_t max_bytes, lt_buffer *out, lt_err *err);

/* A read-only memory map of a regular file. `data` is NULL for an empty file. */
typedef struct lt_mapped_file {
    const unsigned char *data;
    size_t size;
} lt_mapped_file;

lt_status lt_map_file(const char *path, lt_mapped_file *out, lt_err *err);
void lt_unmap_file(lt_mapped_file *file);

/* --- Paths --------------------------------------------------------------------------------------
 */

lt_status lt_path_join(lt_buffer *out, const char *directory, const char *name,
                       lt_err *err); /* replaces out */
/* The last name of a path, without slashes at its end. Caller frees; NULL: no memory. */
char *lt_path_last_name(const char *path);
bool lt_path_exists(const char *path);
bool lt_is_directory(const char *path);
bool lt_is_temporary_name(
    const char *name); /* "x.tmp-123" or ".trash-x": left by a killed process */
bool lt_is_plain_file_name(const char *name); /* no '/', not "." or "..", not empty */
lt_status lt_make_directories(const char *path, lt_err *err);        /* mkdir -p, durable */
lt_status lt_make_parent_directories(const char *path, lt_err *err); /* all but the last name */
/* LT_ERR_USAGE unless nothing is there, or an empty directory: asked before long work begins. */
lt_status lt_require_new_directory(const char *path, lt_err *err);
lt_status lt_remove_tree(const char *path, lt_err *err); /* rm -r; a missing path is fine */
/* Removes what killed processes left in `directory`; what a live process is writing is kept, and so
 * is (under its own name) a ".trash-PID-NAME" whose NAME is missing. */
lt_status lt_remove_stale_temporaries(const char *directory, lt_err *err);
/* Locks a directory against other processes for as long as *lock (a file descriptor) is open, or
 * its process lives. *busy: another one holds it. A file system without locks is taken as free. */
lt_status lt_lock_directory(const char *path, int *lock, bool *busy, lt_err *err);
lt_status lt_free_space(const char *path, uint64_t *bytes, lt_err *err);
lt_status lt_copy_file(const char *from, const char *to,
                       lt_err *err); /* not durable: use inside a commit */

/* Names in a directory, sorted bytewise, without "." and "..". Owns `names`. */
typedef struct lt_name_list {
    char **names;
    size_t count;
} lt_name_list;
lt_status lt_list_directory(const char *path, lt_name_list *out, lt_err *err);
void lt_name_list_free(lt_name_list *list);

/* --- One file, atomically -----------------------------------------------------------------------
 */

typedef struct lt_new_file {
    int fd;
    char *path;      /* final name */
    char *temporary; /* name while it is being written */
    uint64_t written;
} lt_new_file;

lt_status lt_new_file_begin(lt_new_file *file, const char *path, lt_err *err);
lt_status lt_new_file_write(lt_new_file *file, const void *data, size_t size, lt_err *err);
/* At `offset` bytes from the start, in any order; neither seen nor counted by lt_new_file_write. */
lt_status lt_new_file_write_at(lt_new_file *file, uint64_t offset, const void *data, size_t size,
                               lt_err *err);
/* Makes the file visible and durable. Replaces an existing file. Ends the lt_new_file, also on
 * failure. */
lt_status lt_new_file_commit(lt_new_file *file, lt_err *err);
void lt_new_file_abort(
    lt_new_file *file); /* no trace is left; harmless after commit and on a zeroed one */

/* The three steps in one, for small files. */
lt_status lt_write_file(const char *path, const void *data, size_t size, lt_err *err);

/* --- One directory, atomically
 * -------------------------------------------------------------------- */

typedef struct lt_new_directory {
    char *path;      /* final name; must not exist at commit, or be an empty directory */
    char *temporary; /* write the files in here, by lt_write_file or otherwise */
    int lock;        /* open on the temporary and locked: its maker lives */
} lt_new_directory;

lt_status lt_new_directory_begin(lt_new_directory *directory, const char *path, lt_err *err);
/* fsyncs every file and directory below, renames, fsyncs the parent. With `replace` it changes
 * places with an existing directory in one step, which is then removed; a file system that can not
 * do so holds the old one as ".trash-…" for a moment, and lt_remove_stale_temporaries brings it
 * back when the process is killed just then. Ends it, also on failure, and then the old one is in
 * place, unless the message says that the new one is written. */
lt_status lt_new_directory_commit(lt_new_directory *directory, bool replace, lt_err *err);
/* For one file that is to be looked at before it is seen: the file `name` in the directory takes
 * the final name, in place of a file there only with `replace`; the rest of the directory goes. */
lt_status lt_new_directory_commit_file(lt_new_directory *directory, const char *name, bool replace,
                                       lt_err *err);
void lt_new_directory_abort(lt_new_directory *directory); /* as lt_new_file_abort */

/* --- One file by several processes
 * -------------------------------------------------------------------- */

/* How several processes write the same files. NULL wherever one is taken: one process. */
typedef struct lt_file_group {
    int rank, world_size;
    void *context;
    /* Waits for all; all get the same answer, the first failure there was. */
    lt_status (*agree)(void *context, lt_status mine, lt_err *err);
} lt_file_group;

/* `mine` when alone. */
lt_status lt_group_agree(const lt_file_group *group, lt_status mine, lt_err *err);
/* Is this the one that writes what one alone can write? */
bool lt_group_leads(const lt_file_group *group);

/* A file in a directory that is being made, of which every process writes other bytes: one creates
 * it, then all agree, then the others open it. Bytes that nobody writes are 0. All have finished it
 * before anybody reads it: on NFS only a close shows to other hosts what was written. */
typedef struct lt_shared_file {
    int fd;
    char *path;
} lt_shared_file;

/* With its full size; LT_ERR_IO already here when the disk has not that much room, where the file
 * system can tell. */
lt_status lt_shared_file_create(lt_shared_file *file, const char *path, uint64_t size, lt_err *err);
lt_status lt_shared_file_open(lt_shared_file *file, const char *path, lt_err *err);
lt_status lt_shared_file_write(lt_shared_file *file, uint64_t offset, const void *data, size_t size,
                               lt_err *err);
/* Makes durable what this process has written. Ends it, also on failure. */
lt_status lt_shared_file_finish(lt_shared_file *file, lt_err *err);
/* Closes it; the file stays, and goes with its directory. Harmless after finish and on a zeroed
 * one. */
void lt_shared_file_abort(lt_shared_file *file);

/* --- Hashes
 * ---------------------------------------------------------------------------------------- */

#define LT_HASH_TEXT_SIZE 33 /* 32 hexadecimal digits of XXH3-128, and a NUL */

void lt_hash_bytes(const void *data, size_t size, char out[LT_HASH_TEXT_SIZE]);
lt_status lt_hash_file(const char *path, uint64_t skip_bytes, char out[LT_HASH_TEXT_SIZE],
                       lt_err *err);

#endif
