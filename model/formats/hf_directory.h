/* Private to model/. */
#ifndef LT_MODEL_FORMATS_HF_DIRECTORY_H
#define LT_MODEL_FORMATS_HF_DIRECTORY_H

#include "model/model.h"

/* All the checks of lt_model_load, without memory for the weights. *parameters: how many there are,
 * tied ones once. */
lt_status lt_model_check_directory(const char *directory, int64_t *parameters, lt_err *err);

#endif
