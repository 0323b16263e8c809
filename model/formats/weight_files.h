/* The safetensors files of a model directory, seen as one set of tensors. Private to
 * model/formats/. */
#ifndef LT_MODEL_FORMATS_WEIGHT_FILES_H
#define LT_MODEL_FORMATS_WEIGHT_FILES_H

#include <stdbool.h>

#include "model/formats/safetensors.h"

typedef struct lt_weight_files {
    lt_safetensors *files;
    bool **used; /* one flag for each tensor of each file */
    size_t count;
} lt_weight_files;

/* Opens model.safetensors, or what model.safetensors.index.json names. */
lt_status lt_weight_files_open(const char *directory, lt_weight_files *out, lt_err *err);
void lt_weight_files_close(lt_weight_files *files);

/* Finds a tensor and marks it used. False when there is none. */
bool lt_weight_files_take(lt_weight_files *files, const char *name, const lt_safetensors **file,
                          const lt_safetensors_entry **entry);

#endif
