/* From a configuration to a model with memory for its weights. Private to model/. */
#ifndef LT_MODEL_WEIGHTS_H
#define LT_MODEL_WEIGHTS_H

#include "model/model.h"

/* Takes over `config` (zeroes it, also on failure); builds the parameter table, no memory yet.
 * `matrices`: as for lt_model_load_as. */
lt_status lt_model_new(lt_model_config *config, const lt_backend *backend, lt_dtype matrices,
                       lt_model **out, lt_err *err);
/* Asks whether there is enough memory, gets it (zeroed), lays it out and fills the rotary tables.
 */
lt_status lt_model_allocate_weights(lt_model *model, lt_err *err);

#endif
