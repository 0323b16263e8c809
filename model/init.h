/* Private to model/. */
#ifndef LT_MODEL_INIT_H
#define LT_MODEL_INIT_H

#include "model/model.h"

/* Gives row `index` of the table its initial values, a pure function of seed and index. */
lt_status lt_fill_param(const lt_model *model, int index, uint64_t seed, lt_err *err);
/* Rows of a matrix from old_rows on become the mean of those before. */
lt_status lt_fill_new_rows(const lt_backend *backend, lt_tensor matrix, int64_t old_rows,
                           lt_err *err);
lt_status lt_check_vocab_growth(int64_t old, int64_t vocab_size, lt_err *err);

#endif
