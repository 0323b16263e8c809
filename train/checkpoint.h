/* Checkpoints as files: OUTPUT/checkpoint-STEP and its manifest. Private to train/ but for
 * lt_inspect_checkpoint and lt_is_checkpoint (train/train.h).
 *
 * A checkpoint is a directory that came into being whole (base/fsio.h). manifest.json, written
 * last, names every file with its size and XXH3-128, so that damage is found before anything is
 * read. There is no pointer to "the latest": it is found by looking. */
#ifndef LT_TRAIN_CHECKPOINT_H
#define LT_TRAIN_CHECKPOINT_H

#include <jansson.h>

#include "base/fsio.h"

#define LT_OPTIMIZER_FILE     "optimizer.safetensors"
#define LT_TRAINER_STATE_FILE "trainer_state.json"
#define LT_TRAIN_CONFIG_FILE  "train_config.yaml"

typedef struct lt_manifest {
    int64_t step, threads, world_size;
    char backend[96], lathe_version[64];
} lt_manifest;

/* Hashes every file of `directory` and writes manifest.json. */
lt_status lt_manifest_write(const char *directory, const lt_manifest *manifest, lt_err *err);
/* LT_ERR_FORMAT naming the first file that is missing, of another size or changed. */
lt_status lt_checkpoint_verify(const char *path, lt_manifest *out, lt_err *err);

/* Steps of the directories called checkpoint-STEP in `output`, highest first. Caller frees. */
lt_status lt_checkpoint_steps(const char *output, int64_t **steps, size_t *count, lt_err *err);
/* OUTPUT/checkpoint-STEP; replaces `path`. */
lt_status lt_checkpoint_path(const char *output, int64_t step, lt_buffer *path, lt_err *err);
/* The newest that holds what its manifest says; `path` stays empty when there is none. Those that
 * were passed over are named in `problems`, one line each. */
lt_status lt_checkpoint_latest(const char *output, lt_buffer *path, lt_buffer *problems,
                               lt_err *err);
/* Removes the oldest up to `newest` but for `limit` of them and the one of step `best`. */
lt_status lt_checkpoint_prune(const char *output, int64_t newest, int64_t best, int64_t limit,
                              lt_err *err);

#endif
