/* Saving with a chosen shard size. Private to model/ and its tests. */
#ifndef LT_MODEL_FORMATS_HF_SAVE_H
#define LT_MODEL_FORMATS_HF_SAVE_H

#include "model/model.h"

/* As lt_model_save_together; files hold at most `shard_bytes` of tensors (a larger tensor has its
 * own). */
lt_status lt_model_save_sharded(const lt_model *model, const char *directory, lt_dtype dtype,
                                uint64_t shard_bytes, const lt_file_group *group, lt_err *err);

/* config.json's and generation_config.json's contents for a model saved as `dtype`. *config and
 * *generation: caller owns a reference. */
lt_status lt_config_to_json(const lt_model_config *config, lt_dtype dtype, json_t **out_config,
                            json_t **out_generation, lt_err *err);

#endif
