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

/* Writing: tensors are declared, then the file is written in the reference writer's order (dtype,
 * then name) by asking for each tensor's data in turn, so that no second copy of the weights is
 * held. */
typedef lt_status (*lt_safetensors_source)(void *context, const char *name, void *out, lt_err *err);

typedef struct lt_safetensors_declaration {
    const char *name;
    lt_dtype dtype; /* LT_F32, LT_BF16, LT_F16, LT_I32, LT_U8, LT_F64 */
    int ndim;
    int64_t shape[LT_SAFETENSORS_MAX_DIMS];
} lt_safetensors_declaration;

/* `metadata`: JSON object of strings or NULL; "format": "pt" is always there. `source` fills shape
 * * dtype bytes. Atomic and durable. */
lt_status lt_safetensors_write(const char *path, const lt_safetensors_declaration *tensors,
                               size_t count, const json_t *metadata, lt_safetensors_source source,
                               void *context, lt_err *err);

#endif
