/* What the files that read, make and write configurations share. Private to model/. */
#ifndef LT_MODEL_CONFIG_H
#define LT_MODEL_CONFIG_H

#include "base/fsio.h"
#include "model/model.h"

/* "gelu_new" and the like: how config.json spells it. */
const char *lt_activation_config_name(lt_activation activation);

/* bos_token_id, eos_token_id (a number or a list) and pad_token_id of config.json or
 * generation_config.json; keys that are missing leave the fields alone. */
lt_status lt_config_read_token_ids(const json_t *object, const char *where, lt_model_config *out,
                                   lt_err *err);

/* A setting as config.json has it. (model/presets.c) */
struct lt_config_key;
json_t *lt_config_key_json(const lt_model_config *config, const struct lt_config_key *key);

#endif
