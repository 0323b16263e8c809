/* From a configuration to a model with memory for its weights. Private to model/. */
#ifndef LT_MODEL_WEIGHTS_H
#define LT_MODEL_WEIGHTS_H

#include "model/model.h"

/* Takes over `config` (zeroes it, also on failure), its vocabulary grown to the settings'; builds
 * the parameter table, no memory yet. */
lt_status lt_model_new(lt_model_config *config, const lt_backend *backend,
                       const lt_model_load_settings *settings, lt_model **out, lt_err *err);
/* Asks whether there is enough memory, gets it (zeroed), lays it out and fills the rotary tables.
 */
lt_status lt_model_allocate_weights(lt_model *model, lt_err *err);

/* Embedding and head have a row for each token. */
bool lt_is_vocabulary_row(const lt_param *param);
/* `param` as it is in a file of a model of `vocab` tokens. */
lt_param lt_param_in_file(const lt_param *param, int64_t vocab);

/* Puts rows [first, first + count) of the table from a file into model memory. */
typedef lt_status (*lt_read_rows)(const void *context, int first, int count, lt_err *err);
/* Allocates weights and reads them: all at once or, where they are kept in parts, unit by unit
 * through the rooms. Rows that the file's vocabulary of `vocab` lacks become the mean of it. */
lt_status lt_model_read_weights(lt_model *model, int64_t vocab, lt_read_rows read,
                                const void *context, lt_err *err);

#endif
