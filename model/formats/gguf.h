/* GGUF files, version 3 (https://github.com/ggml-org/ggml, docs/gguf.md): a strict reader over a
 * memory map, and a writer. Little-endian; version 2, which has the same layout, is read too. Of
 * key-value types all are read; tensors of the types below.
 *
 * Files come from anywhere: every count, length and offset is checked before it is used; names are
 * unique, 1 to 63 bytes; data lies inside the file and does not overlap. */
#ifndef LT_MODEL_FORMATS_GGUF_H
#define LT_MODEL_FORMATS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/fsio.h"
#include "base/status.h"

#define LT_GGUF_MAX_DIMS  4
#define LT_GGUF_NAME_SIZE 64

/* ggml's numbers for tensor types. */
typedef enum lt_gguf_type {
    LT_GGUF_F32 = 0,
    LT_GGUF_F16 = 1,
    LT_GGUF_Q4_0 = 2,
    LT_GGUF_Q5_0 = 6,
    LT_GGUF_Q8_0 = 8,
    LT_GGUF_Q4_K = 12,
    LT_GGUF_Q6_K = 14,
    LT_GGUF_BF16 = 30,
} lt_gguf_type;

/* GGUF's numbers for value types. */
typedef enum lt_gguf_value_type {
    LT_GGUF_U8,
    LT_GGUF_I8,
    LT_GGUF_U16,
    LT_GGUF_I16,
    LT_GGUF_U32,
    LT_GGUF_I32,
    LT_GGUF_FLOAT32,
    LT_GGUF_BOOL,
    LT_GGUF_STRING,
    LT_GGUF_ARRAY,
    LT_GGUF_U64,
    LT_GGUF_I64,
    LT_GGUF_FLOAT64,
} lt_gguf_value_type;

/* --- Reading ---------------------------------------------------------------------------------- */

typedef struct lt_gguf_value {
    char *key; /* NUL-terminated; owned by the file */
    lt_gguf_value_type type;
    lt_gguf_value_type element_type; /* of an array, else the type; no arrays of arrays */
    uint64_t count;                  /* elements of an array, else 1 */
    const unsigned char
        *data; /* in the map, not aligned; of a string or strings: u64 length, bytes, ... */
    size_t size;
} lt_gguf_value;

typedef struct lt_gguf_tensor {
    char name[LT_GGUF_NAME_SIZE];
    int ndim;
    int64_t shape[LT_GGUF_MAX_DIMS]; /* outermost first, as everywhere in Lathe (files have them
                                        innermost first) */
    lt_gguf_type type; /* as written: lt_gguf_type_name is NULL for one that Lathe does not have */
    const unsigned char *data;
    size_t size; /* bytes; 0 for such a type */
} lt_gguf_tensor;

typedef struct lt_gguf {
    char *path;
    lt_mapped_file map;
    lt_gguf_value *values;
    size_t value_count;
    lt_gguf_tensor *tensors;
    size_t tensor_count;
    size_t *by_name; /* places in `tensors`, in bytewise order of the names */
} lt_gguf;

bool lt_is_gguf_file(const char *path); /* a regular file that begins with the magic */
lt_status lt_gguf_open(const char *path, lt_gguf *out, lt_err *err);
/* A whole file in memory, for tests and fuzzing; `data` outlives it. */
lt_status lt_gguf_parse(const unsigned char *data, size_t size, const char *where, lt_gguf *out,
                        lt_err *err);
void lt_gguf_close(lt_gguf *file);
const lt_gguf_tensor *lt_gguf_find(const lt_gguf *file, const char *name);
const lt_gguf_value *lt_gguf_value_of(const lt_gguf *file, const char *key);

/* Typed look-up, as base/json.h: a missing key leaves *out alone; another type is LT_ERR_FORMAT
 * naming file and key. Integers of any width are taken when they fit. */
lt_status lt_gguf_get_int(const lt_gguf *file, const char *key, int64_t min, int64_t max,
                          int64_t *out, lt_err *err);
lt_status lt_gguf_get_number(const lt_gguf *file, const char *key, double *out, lt_err *err);
lt_status lt_gguf_get_bool(const lt_gguf *file, const char *key, bool *out, lt_err *err);
/* Borrowed, not NUL-terminated. */
lt_status lt_gguf_get_string(const lt_gguf *file, const char *key, const char **text, size_t *size,
                             lt_err *err);
/* Strings of an array one after the other: *at starts at value->data. False behind the last. */
bool lt_gguf_next_string(const lt_gguf_value *value, const unsigned char **at, const char **text,
                         size_t *size);

/* --- Writing ---------------------------------------------------------------------------------- */

/* Key-values in the order they are added; a zeroed one is empty. */
typedef struct lt_gguf_keys {
    lt_buffer bytes;
    uint64_t count;
} lt_gguf_keys;

lt_status lt_gguf_add_u32(lt_gguf_keys *keys, const char *key, uint32_t value, lt_err *err);
lt_status lt_gguf_add_f32(lt_gguf_keys *keys, const char *key, float value, lt_err *err);
lt_status lt_gguf_add_bool(lt_gguf_keys *keys, const char *key, bool value, lt_err *err);
lt_status lt_gguf_add_string(lt_gguf_keys *keys, const char *key, const char *text, size_t size,
                             lt_err *err);
lt_status lt_gguf_add_i32s(lt_gguf_keys *keys, const char *key, const int32_t *values, size_t count,
                           lt_err *err);
lt_status lt_gguf_add_f32s(lt_gguf_keys *keys, const char *key, const float *values, size_t count,
                           lt_err *err);
/* An array of strings: begin with the number of them, then add each. */
lt_status lt_gguf_begin_strings(lt_gguf_keys *keys, const char *key, uint64_t count, lt_err *err);
lt_status lt_gguf_push_string(lt_gguf_keys *keys, const char *text, size_t size, lt_err *err);
void lt_gguf_keys_free(lt_gguf_keys *keys);

typedef struct lt_gguf_declaration {
    char name[LT_GGUF_NAME_SIZE];
    lt_gguf_type type;
    int ndim;
    int64_t shape[LT_GGUF_MAX_DIMS]; /* outermost first */
} lt_gguf_declaration;

/* Fills f32 values of rows [first, first + count) of tensor `index`; a row is what the last
 * dimension has. Called from several threads at once, for different rows. */
typedef lt_status (*lt_gguf_source)(void *context, size_t index, int64_t first, int64_t count,
                                    float *out, lt_err *err);

/* Tensors in the order given, each aligned to 32 bytes, encoded as its type
 * (model/formats/quants.h) piece by piece, so that no second copy of the weights is held. Atomic
 * and durable. */
lt_status lt_gguf_write(const char *path, const lt_gguf_keys *keys,
                        const lt_gguf_declaration *tensors, size_t count, lt_gguf_source source,
                        void *context, int threads, lt_err *err);

#endif
