/* Where the rows of a canonical matrix lie in the tensors of a file, for reading and for writing.
 * Private to model/formats/. */
#ifndef LT_MODEL_FORMATS_LAYOUT_H
#define LT_MODEL_FORMATS_LAYOUT_H

#include "model/families/families.h"
#include "model/formats/safetensors.h"

/* A vector counts as a matrix of one column. */
typedef struct lt_param_layout {
    const lt_family_row *row;
    int layer;
    int64_t rows, columns;           /* canonical: out, in */
    int parts;                       /* tensors in the file */
    int64_t part_rows[LT_MAX_PARTS]; /* canonical rows in each */
    int64_t heads, head_dim;         /* of LT_LAYOUT_PER_HEAD */
} lt_param_layout;

/* NULL rows can not happen for a table that lt_params_build made. */
lt_param_layout lt_param_layout_of(const lt_model_config *config, const lt_param *param);

/* Name and shape of part `part` in files; `name` holds LT_FILE_NAME_SIZE bytes. */
#define LT_FILE_NAME_SIZE 128
void lt_layout_file_name(const lt_param_layout *layout, int part, char *name);
int lt_layout_file_shape(const lt_param_layout *layout, const lt_param *param, int part,
                         int64_t shape[2]);

/* Canonical row -> part, and row within that part's tensor. */
void lt_layout_place(const lt_param_layout *layout, int64_t row, int *part, int64_t *file_row);

/* Rows to convert at a time, so that they stay in the cache. */
int64_t lt_layout_chunk_rows(const lt_param_layout *layout);

/* Canonical rows [first, first + count) as f32 from the parts' entries. */
lt_status lt_layout_read(const lt_param_layout *layout, const lt_safetensors *const *files,
                         const lt_safetensors_entry *const *entries, int64_t first, int64_t count,
                         float *out, lt_err *err);

/* Where the canonical rows from `first` on lie in a file just as they are wanted in memory, and how
 * many of them together (*run, at most `count`). NULL: they have to be converted or turned. */
const void *lt_layout_in_place(const lt_param_layout *layout,
                               const lt_safetensors_entry *const *entries, lt_dtype dtype,
                               int64_t first, int64_t count, int64_t *run);

/* Puts canonical rows [first, first + count), which all belong to one part, into that part's whole
 * tensor `out` of `dtype`. */
void lt_layout_write(const lt_param_layout *layout, int64_t first, int64_t count,
                     const float *values, lt_dtype dtype, void *out);

#endif
