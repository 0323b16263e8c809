/* safetensors files (https://github.com/huggingface/safetensors): a strict reader over a memory
 * map, and a writer.
 *
 * The reader accepts nothing that the reference refuses: header of at most 100 MB, strict JSON
 * without duplicate keys, offsets that cover the data exactly (no hole, no overlap, no tail), shape
 * times element size equal to the bytes, all in checked arithmetic. On top of that names have 1 to
 * 512 bytes and no NUL, tensors at most 8 dimensions, files at most a million tensors. Every
 * refusal names the file and, where there is one, the tensor. */
#ifndef LT_MODEL_FORMATS_SAFETENSORS_H
#define LT_MODEL_FORMATS_SAFETENSORS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/fsio.h"
#include "base/status.h"
#include "kernels/kernels.h"

#define LT_SAFETENSORS_MAX_DIMS 8

typedef struct lt_safetensors_entry {
    const char *name;  /* borrowed from the file */
    const char *dtype; /* as written: "F32", "BF16", "I64", ... */
    int ndim;
    int64_t shape[LT_SAFETENSORS_MAX_DIMS];
    const unsigned char *data; /* in the map; not necessarily aligned */
    size_t size;               /* bytes */
} lt_safetensors_entry;

typedef struct lt_safetensors {
    char *path;
    lt_mapped_file map;
    json_t *header;
    lt_safetensors_entry *entries; /* in order of their data */
    size_t *by_name;               /* places in `entries`, in bytewise order of the names */
    size_t count;
} lt_safetensors;

lt_status lt_safetensors_open(const char *path, lt_safetensors *out, lt_err *err);
void lt_safetensors_close(lt_safetensors *file);
const lt_safetensors_entry *lt_safetensors_find(const lt_safetensors *file, const char *name);
/* The string under __metadata__, or NULL. */
const char *lt_safetensors_metadata(const lt_safetensors *file, const char *key);

/* Checks a header in memory as lt_safetensors_open does (for tests and fuzzing). `data` is the
 * whole file. */
lt_status lt_safetensors_parse(const unsigned char *data, size_t size, const char *where,
                               lt_safetensors *out, lt_err *err);

/* Decodes `count` elements from `first` on of an F32, F16, BF16 or F64 entry to f32.
 * LT_ERR_UNSUPPORTED naming other types. */
lt_status lt_safetensors_read_f32(const lt_safetensors *file, const lt_safetensors_entry *entry,
                                  int64_t first, int64_t count, float *out, lt_err *err);

/* "[768, 2304]" for messages; cut when `size` is too small. */
void lt_shape_text(int ndim, const int64_t *shape, char *out, size_t size);

/* --- Writing -----------------------------------------------------------------------------------
 *
 * Tensors are declared, then the file is written in the reference writer's order (dtype, then name)
 * by asking for each tensor's data in turn, so that no second copy of the weights is held. */

/* Fills shape * dtype bytes. With `out` NULL another process writes that tensor: only what all
 * processes do together is to be done. */
typedef lt_status (*lt_safetensors_source)(void *context, const char *name, void *out, lt_err *err);

typedef struct lt_safetensors_declaration {
    const char *name;
    lt_dtype dtype; /* LT_F32, LT_BF16, LT_F16, LT_I32, LT_U8, LT_F64 */
    int ndim;
    int64_t shape[LT_SAFETENSORS_MAX_DIMS];
} lt_safetensors_declaration;

/* `metadata`: JSON object of strings or NULL; "format": "pt" is always there. Atomic and durable.
 */
lt_status lt_safetensors_write(const char *path, const lt_safetensors_declaration *tensors,
                               size_t count, const json_t *metadata, lt_safetensors_source source,
                               void *context, lt_err *err);

/* The same bytes by all processes of a group, which declare the same tensors and each write some of
 * them; every one of them calls `source` for every tensor, in the same order. Into a directory that
 * is being made (base/fsio.h). Fails on all when it fails on one. */
lt_status lt_safetensors_write_together(const char *path, const lt_safetensors_declaration *tensors,
                                        size_t count, const json_t *metadata,
                                        lt_safetensors_source source, void *context,
                                        const lt_file_group *group, lt_err *err);

/* What both are made of, for processes that have pieces of tensors. The first failure on a process
 * is kept until the end: others may wait for what it does meanwhile. */
typedef struct lt_safetensors_writer {
    const lt_file_group *group;                 /* borrowed */
    const lt_safetensors_declaration **tensors; /* [count], in the file's order; borrowed, but for
                                                   the list */
    uint64_t *offsets; /* [count + 1]: of their data, from the start of the file */
    int *dealt;        /* [count]: whose turn each is, where all have it */
    size_t count;
    lt_new_file file;      /* alone */
    lt_shared_file shared; /* in a group */
    lt_status status;
    lt_err err;
} lt_safetensors_writer;

/* Collective; ends it on all when it fails. The declarations and the path outlive the writer. */
lt_status lt_safetensors_begin(lt_safetensors_writer *writer, const char *path,
                               const lt_safetensors_declaration *tensors, size_t count,
                               const json_t *metadata, const lt_file_group *group, lt_err *err);
/* Bytes of tensor `index` of writer->tensors, from its byte `first` on. */
void lt_safetensors_put(lt_safetensors_writer *writer, size_t index, uint64_t first,
                        const void *data, size_t size);
/* Something else went wrong on this process; `status` LT_OK: nothing did. */
void lt_safetensors_note(lt_safetensors_writer *writer, lt_status status, const lt_err *err);
/* Collective. Ends it: LT_OK when all have put what they had, durably. */
lt_status lt_safetensors_end(lt_safetensors_writer *writer, lt_err *err);

#endif
