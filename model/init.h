/* Private to model/. */
#ifndef LT_MODEL_INIT_H
#define LT_MODEL_INIT_H

#include "model/model.h"

/* Gives row `index` of the table its initial values, a pure function of seed and index. */
lt_status lt_fill_param(const lt_model *model, int index, uint64_t seed, lt_err *err);

#endif
