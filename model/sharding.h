/* Units of a model, and which part of them is this process's. Private to model/. */
#ifndef LT_MODEL_SHARDING_H
#define LT_MODEL_SHARDING_H

#include "model/model.h"

lt_status lt_sharding_check(const lt_sharding *sharding, lt_err *err);
/* Are units' counts multiples of what can be divided, and gradients laid out as weights? */
bool lt_is_divided(const lt_model *model);
/* Are wholes only in rooms? Gradients are not where no unit has any. */
bool lt_has_weight_rooms(const lt_model *model);
bool lt_has_gradient_rooms(const lt_model *model);

/* LT_ERR_USAGE, with what that means, for a model whose weights are in parts. */
lt_status lt_check_whole(const lt_model *model, const char *consequence, lt_err *err);

/* `count` with the padding behind a unit. */
int64_t lt_unit_padded(const lt_model *model, int64_t count);
const lt_unit *lt_unit_of(const lt_model *model, int layer);
/* Elements of all units' gradients, in front of those of adapters. */
int64_t lt_units_gradient_count(const lt_model *model);

/* Tells the model's observer, if there is one. */
lt_status lt_tell_unit(const lt_model *model, int64_t layer, lt_unit_point point, lt_err *err);

#endif
