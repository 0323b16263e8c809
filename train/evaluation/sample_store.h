/* The samples of one model on one task, on disk as they come, so that a killed run goes on.
 *
 * samples_TASK.partial.jsonl: a header, then a line {"cut": tokens, "sample": {...}} for each
 * sample. The header says what was evaluated; samples of anything else are never taken for it: such
 * a file is put aside under another name. Documents are scored in blocks whose borders follow from
 * the task alone. A run goes on behind the last whole block: what a model says may differ in its
 * last bits with the batch that it says it in, and batches never reach across blocks, so a resumed
 * run ends with the same bits as one that was left alone. */
#ifndef LT_TRAIN_EVALUATION_SAMPLE_STORE_H
#define LT_TRAIN_EVALUATION_SAMPLE_STORE_H

#include "train/evaluation/task.h"

enum { LT_DATE_SIZE = 40 };

typedef struct lt_sample_store {
    const lt_task *task; /* borrowed */
    int64_t filters;     /* samples of a document */
    json_t **samples;    /* [doc_count, filters]; owned references, NULL where there is none yet */
    bool *cut;           /* [doc_count]: did not fit the context whole */
    int64_t done, resumed;   /* documents from the first on, in whole blocks; those found on disk */
    char date[LT_DATE_SIZE]; /* when the evaluation of this task began */
    char *path;              /* of the partial file; NULL: in memory only */
    int fd;
    lt_buffer line;
} lt_sample_store;

/* The document behind the block that begins at `begin`. */
int64_t lt_task_block_end(const lt_task *task, int64_t begin);

/* `directory`: where the partial file is or will be; NULL: samples are in memory only. `identity`:
 * an object of texts and numbers under names a user understands; samples of another identity are
 * put aside, which is appended to `notice`, a line each. `date`: now, for a new file. */
lt_status lt_sample_store_open(const lt_task *task, const char *directory, const json_t *identity,
                               const char *date, lt_sample_store *out, lt_buffer *notice,
                               lt_err *err);
void lt_sample_store_close(lt_sample_store *store); /* what is on disk stays */

/* Keeps a sample of a document of the block that begins at `done`. A line that does not fit the
 * disk is taken back, and LT_ERR_IO. */
lt_status lt_sample_store_add(lt_sample_store *store, int64_t doc, json_t *sample, int64_t cut,
                              lt_err *err);
/* The block that begins at `done` is there, whole and durable. LT_ERR_FORMAT when it is not. */
lt_status lt_sample_store_end_block(lt_sample_store *store, lt_err *err);
int64_t lt_sample_store_cut_documents(const lt_sample_store *store);
/* Removes the partial file: all is written elsewhere. */
lt_status lt_sample_store_remove(lt_sample_store *store, lt_err *err);

#endif
