/* LoRA's part in the passes (lora_linear.c). Private to model/adapters/. */
#ifndef LT_MODEL_ADAPTERS_LORA_H
#define LT_MODEL_ADAPTERS_LORA_H

#include "model/adapters/internal.h"

lt_status lt_lora_begin(const lt_pass *pass, const lt_adapter *adapter, int64_t layer, lt_err *err);
lt_status lt_lora_forward(const lt_pass *pass, const lt_adapter *adapter,
                          const lt_linear_args *args, bool *done, lt_err *err);
lt_status lt_lora_backward(const lt_pass *pass, const lt_adapter *adapter,
                           const lt_linear_backward_args *args, bool *done, lt_err *err);

/* DoRA: the lengths of all rows of W + s B A, and magnitude over length. With `into_magnitudes` the
 * lengths become the magnitudes first. Nothing to do without DoRA. */
lt_status lt_dora_refresh(const lt_model *model, const lt_adapter *adapter, bool into_magnitudes,
                          lt_err *err);

#endif
