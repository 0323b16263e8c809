/* Rows of the parameter table as tensors of a GGUF file: names, shapes, order of rows. Private to
 * model/formats/. */
#ifndef LT_MODEL_FORMATS_GGUF_LAYOUT_H
#define LT_MODEL_FORMATS_GGUF_LAYOUT_H

#include "model/families/families.h"
#include "model/formats/gguf.h"
#include "model/gguf_model.h"

/* --- Names and rows (gguf_names.c) -------------------------------------------------------------
 */

/* "llama" for Mistral too. */
const char *lt_gguf_architecture(const lt_family *family);
/* The family that reads an architecture; NULL: none. */
const lt_family *lt_gguf_family(const char *architecture);

/* One tensor, and the canonical rows it is made of. A vector counts as a matrix of one column. */
typedef struct lt_gguf_part {
    char name[LT_GGUF_NAME_SIZE];
    const lt_param *param;
    int64_t first_row, rows, columns;
    int64_t turned; /* head_dim, where llama.cpp turns neighbours instead of halves: the first half
                       of a head's rows are its even ones, the second half its odd ones; else 0 */
} lt_gguf_part;

/* The tensors of a row of the model's own; returns how many (1 to LT_MAX_PARTS). */
int lt_gguf_parts_of(const lt_model_config *config, const lt_param *param,
                     lt_gguf_part out[LT_MAX_PARTS]);
/* Row of the part, counted from its first -> row of the tensor. */
int64_t lt_gguf_file_row(const lt_gguf_part *part, int64_t row);

/* Rows [first, first + count) of the tensor, as f32 from the model's memory. */
lt_status lt_gguf_gather(const lt_backend *backend, const lt_gguf_part *part, int64_t first,
                         int64_t count, float *out, lt_err *err);

/* --- Types (gguf_types.c) ----------------------------------------------------------------------
 */

uint32_t lt_gguf_file_type(lt_gguf_format format); /* general.file_type */
/* What llama-quantize makes of a tensor; where its shape does not allow that, what it falls back
 * to, with a line in `notes` (or NULL). `tied`: the file has no output.weight. */
lt_status lt_gguf_choose_type(const lt_model_config *config, lt_gguf_format format,
                              const lt_gguf_part *part, bool tied, lt_gguf_type *out,
                              lt_buffer *notes, lt_err *err);

/* --- Configuration (gguf_config.c) -------------------------------------------------------------
 */

#define LT_GGUF_ROPE_FREQS "rope_freqs.weight"

/* LT_ERR_UNSUPPORTED, saying which, for what llama.cpp does not compute. Notes on what it computes
 * otherwise. */
lt_status lt_gguf_check_supported(const lt_model_config *config, lt_buffer *notes, lt_err *err);
/* general.architecture and all keys below it. */
lt_status lt_gguf_add_config(const lt_model_config *config, lt_gguf_keys *keys, lt_err *err);
/* Llama 3's rope_freqs.weight: what frequency i of rotary_dim / 2 is divided by. */
double lt_gguf_rope_divisor(const lt_model_config *config, int64_t i);
/* The configuration a file's key-values and tensors mean. */
lt_status lt_gguf_read_config(const lt_gguf *file, lt_model_config *out, lt_err *err);

/* --- Models ------------------------------------------------------------------------------------
 */

/* The keys under "general.", and export_->more. `type`: "model" or "adapter". (gguf_model_save.c)
 */
lt_status lt_gguf_add_general(const lt_model_config *config, const char *type,
                              const lt_gguf_export *export_, lt_gguf_keys *keys, lt_err *err);
/* All the checks of lt_model_load_gguf, without memory for the weights. *config: owned by the
 * caller. (gguf_model_load.c) */
lt_status lt_gguf_check_model(const lt_gguf *file, lt_model_config *config, int64_t *parameters,
                              lt_err *err);

#endif
