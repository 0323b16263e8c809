/* Checkpoints as files: OUTPUT/checkpoint-STEP and its manifest. Private to train/ but for
 * lt_inspect_checkpoint and lt_is_checkpoint (train/train.h).
 *
 * A checkpoint is a directory that came into being whole (base/fsio.h). manifest.json, written
 * last, names every file with its size and XXH3-128, so that damage is found before anything is
 * read. There is no pointer to "the latest": it is found by looking. */
#ifndef LT_TRAIN_CHECKPOINT_H
#define LT_TRAIN_CHECKPOINT_H

#include <stdio.h>

#include "base/fsio.h"
#include "train/comm/comm.h"

#define LT_OPTIMIZER_FILE     "optimizer.safetensors"
#define LT_TRAINER_STATE_FILE "trainer_state.json"
#define LT_TRAIN_CONFIG_FILE  "train_config.yaml"

typedef struct lt_manifest {
    int64_t step, threads, world_size;
    char backend[96], lathe_version[64];
} lt_manifest;

/* --- Manifests (manifest.c) --------------------------------------------------------------------
 */

/* Who reads the files of a checkpoint to hash them: the processes deal them out, and each reads
 * several of its own at a time. What takes readers is called by all of them, and all get the same
 * answer. NULL: one process, one file at a time. */
typedef struct lt_readers {
    lt_comm *comm; /* NULL: one process */
    int threads;   /* of this process */
} lt_readers;

bool lt_readers_lead(const lt_readers *readers); /* is this rank 0? */
lt_status lt_readers_agree(const lt_readers *readers, lt_status mine, lt_err *err);
/* Rank 0's text for all; replaces theirs. */
lt_status lt_readers_share(const lt_readers *readers, lt_buffer *text, lt_err *err);

/* Hashes every file of `directory` and writes manifest.json. */
lt_status lt_manifest_write(const char *directory, const lt_manifest *manifest,
                            const lt_readers *readers, lt_err *err);
lt_status lt_manifest_read(const char *directory, lt_manifest *out, lt_err *err);
/* LT_ERR_FORMAT naming a file that is missing, of another size or changed. Fills *out on rank 0. */
lt_status lt_checkpoint_verify(const char *path, const lt_readers *readers, lt_manifest *out,
                               lt_err *err);
/* The same, with a line for each file and one for all of them. */
lt_status lt_checkpoint_report(const char *path, const lt_readers *readers, lt_manifest *manifest,
                               FILE *out, lt_err *err);

/* --- Checkpoints (checkpoint.c) ----------------------------------------------------------------
 */

/* Steps of the directories called checkpoint-STEP in `output`, highest first. Caller frees. */
lt_status lt_checkpoint_steps(const char *output, int64_t **steps, size_t *count, lt_err *err);
/* OUTPUT/checkpoint-STEP; replaces `path`. */
lt_status lt_checkpoint_path(const char *output, int64_t step, lt_buffer *path, lt_err *err);
/* The newest that holds what its manifest says; `path` stays empty when there is none. Those that
 * were passed over are named in `problems`, one line each. */
lt_status lt_checkpoint_latest(const char *output, const lt_readers *readers, lt_buffer *path,
                               lt_buffer *problems, lt_err *err);
/* Removes the oldest up to `newest` but for `limit` of them and the one of step `best`. */
lt_status lt_checkpoint_prune(const char *output, int64_t newest, int64_t best, int64_t limit,
                              lt_err *err);

#endif
