/* Tokenised datasets: preparing them from records, the HDF5 store, and the loader that makes
 * batches.
 *
 * The file (docs/FORMATS.md) begins with a 512-byte user block: a magic line, the length and the
 * XXH3-128 of all that follows, checked before HDF5 opens the file. Then HDF5 in its latest format,
 * fletcher32 on every dataset:
 *
 *     /train, /validation   tokens (u16 or u32) [T], loss_mask (u8) [T], offsets (u64) [N + 1],
 *                           category (u32) [N]
 *     /validation           also records (u8) [R], record_offsets (u64) [N + 1]: the JSON they
 *                           were made from
 *     /tokenizer            tokenizer.json, tokenizer_config.json (u8)
 *     /categories           JSON list of names (u8)
 *     attributes of /       format, version, tokenizer_hash, source_hash, template, record_format,
 *                           stop_token, max_length, seed, counts, drops by reason
 *
 * Put together in memory, hashed, written under a temporary name, fsynced, renamed; never changed
 * afterwards. */
#ifndef LT_DATA_PIPELINE_DATASET_H
#define LT_DATA_PIPELINE_DATASET_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/batch.h"
#include "base/options.h"
#include "base/status.h"
#include "data_pipeline/records.h"
#include "data_pipeline/tokenizer.h"

/* --- Preparing
 * ------------------------------------------------------------------------------------------ */

typedef struct lt_prepare_settings {
    lt_string_list inputs;
    const char *tokenizer; /* path */
    const char *output;    /* DATA.h5; replaced when it exists only with `force` */
    lt_record_format format;
    bool has_template; /* else the format's default */
    lt_template template_;
    int64_t max_length; /* 0: the tokenizer's model_max_length when sensible, else 1024. Records of
                           at least that many tokens are dropped */
    double validation;  /* < 1: fraction of the records; >= 1: count; 0: none. Whole plain-text
                           files are cut instead: the fraction at the end of each is held out */
    const char *columns;
    bool dedup;
    uint64_t seed;
    int threads; /* 0: all; the result does not depend on it */
    bool force;
} lt_prepare_settings;

/* What happened to the records, stored in the file too. read = train + validation + dropped, but
 * for whole plain-text files that were cut in two. */
typedef struct lt_prepare_report {
    int64_t read, train, validation; /* records read; documents written */
    int64_t dropped_too_long, dropped_duplicates, dropped_near_duplicates;
    int64_t tokens, trained_tokens;
    int64_t added_special_tokens;
    int64_t longest;
    lt_record_format format;
    lt_template template_;
    double seconds;
} lt_prepare_report;

lt_status lt_prepare(const lt_prepare_settings *settings, lt_prepare_report *report, lt_err *err);

/* --- Reading
 * ---------------------------------------------------------------------------------------------- */

typedef struct lt_dataset lt_dataset;

/* A document's tokens and mask, borrowed from the dataset. */
typedef struct lt_document {
    const int32_t *tokens;
    const uint8_t *mask;
    int64_t length;
    const char *category; /* or NULL */
} lt_document;

typedef enum lt_split { LT_SPLIT_TRAIN, LT_SPLIT_VALIDATION } lt_split;

/* Checks the hash, then reads everything into memory. LT_ERR_FORMAT for a file that was cut short
 * or changed. */
lt_status lt_dataset_open(const char *path, lt_dataset **out, lt_err *err);
void lt_dataset_close(lt_dataset *dataset);
int64_t lt_dataset_count(const lt_dataset *dataset, lt_split split);
lt_document lt_dataset_document(const lt_dataset *dataset, lt_split split, int64_t index);
lt_template lt_dataset_template(const lt_dataset *dataset);
lt_record_format lt_dataset_format(const lt_dataset *dataset);
const char *lt_dataset_hash(const lt_dataset *dataset); /* of the file, hexadecimal */
const lt_tokenizer *lt_dataset_tokenizer(const lt_dataset *dataset);
int64_t lt_dataset_longest(const lt_dataset *dataset, lt_split split);
int64_t lt_dataset_max_length(const lt_dataset *dataset); /* the limit it was prepared with */
const lt_prepare_report *lt_dataset_report(const lt_dataset *dataset);
/* The record that a validation document was made from (lt_record_free): its prompt can be asked
 * again and the answer compared with lt_record_answer. LT_ERR_USAGE for the training split. */
lt_status lt_dataset_record(const lt_dataset *dataset, lt_split split, int64_t index,
                            lt_record *out, lt_err *err);

/* `lathe inspect DATA.h5`: counts, length histogram, drops and reasons, and `samples` decoded
 * documents with the trained tokens marked. */
lt_status lt_inspect_dataset(const char *path, int64_t samples, FILE *out, lt_err *err);

/* --- Batches
 * ---------------------------------------------------------------------------------------------- */

typedef struct lt_loader_settings {
    lt_split split;
    int64_t rows;       /* micro-batch size */
    int64_t max_length; /* tokens in a row. Instruction documents that are longer are left out and
                         * counted; plain text is cut into windows in which every token is a target
                         * once */
    bool packing;       /* several documents in one row, each seeing only itself */
    bool shuffle;       /* a keyed permutation per epoch; else file order */
    uint64_t seed;
    int64_t rank, world_size; /* 0 and 1 alone. The micro-batches of an epoch are the same for any
                               * number of ranks: number i is rank i % world_size's */
} lt_loader_settings;

/* Where the next batch comes from. Saved in checkpoints; restoring it continues with just the batch
 * that would have come. */
typedef struct lt_loader_position {
    int64_t epoch;
    int64_t batch; /* micro-batches of this epoch already given out */
} lt_loader_position;

typedef struct lt_loader lt_loader;

/* LT_ERR_USAGE when there is nothing to give out: an empty split, or every document left out. The
 * dataset outlives the loader. */
lt_status lt_loader_create(const lt_dataset *dataset, const lt_loader_settings *settings,
                           lt_loader **out, lt_err *err);
void lt_loader_free(lt_loader *loader);
/* The same in every epoch and on every rank; the last may have fewer rows. */
int64_t lt_loader_batches_per_epoch(const lt_loader *loader);
/* Documents that are in no batch: longer than max_length, or without a single target. */
int64_t lt_loader_left_out(const lt_loader *loader);
int64_t lt_loader_rows_per_epoch(const lt_loader *loader); /* over all ranks */
/* The next micro-batch, prefetched by one background thread; goes on into the next epoch by itself.
 * Valid until the next call. A batch of an epoch's end may have fewer rows, or none on some ranks:
 * then rows is 0. Rows are as long as the longest in the batch, rounded up to 8 but never beyond
 * max_length. Each padding token sees only itself. */
lt_status lt_loader_next(lt_loader *loader, lt_batch *out, lt_err *err);
lt_loader_position
lt_loader_tell(const lt_loader *loader); /* of the batch that lt_loader_next will return */
lt_status lt_loader_seek(lt_loader *loader, lt_loader_position position, lt_err *err);

#endif
