/* Which model it was: a hash of the files that decide what it says, so that samples are not taken
 * for those of a model that was trained further in between. */
#ifndef LT_TRAIN_EVALUATION_MODEL_IDENTITY_H
#define LT_TRAIN_EVALUATION_MODEL_IDENTITY_H

#include "base/fsio.h"

/* `path`: a model or adapter directory, or one file. Configuration, weights and tokenizer; not what
 * a training run keeps beside them. The same files elsewhere give the same hash. */
lt_status lt_model_identity(const char *path, char out[LT_HASH_TEXT_SIZE], lt_err *err);

#endif
