/* Private to data_pipeline/: what a dataset is in memory, and the two ends of its file. */
#ifndef LT_STORE_H
#define LT_STORE_H

#include <hdf5.h>

#include "base/buffer.h"
#include "base/fsio.h"
#include "data_pipeline/dataset.h"

/* One split. Documents lie end to end; document i is [offsets[i], offsets[i + 1]). */
typedef struct lt_split_data {
    int64_t count;            /* documents, N */
    int64_t token_count;      /* T */
    int32_t *tokens;          /* [T] */
    uint8_t *mask;            /* [T] */
    uint64_t *offsets;        /* [N + 1] */
    uint32_t *category;       /* [N], index of a name or LT_NO_CATEGORY */
    char *records;            /* JSON texts end to end; NULL in the training split */
    uint64_t *record_offsets; /* [N + 1], or NULL */
} lt_split_data;

#define LT_NO_CATEGORY UINT32_MAX

struct lt_dataset {
    lt_split_data splits[2]; /* by lt_split; owned */
    char **categories;       /* [category_count], owned */
    size_t category_count;
    lt_tokenizer *tokenizer; /* owned */
    lt_prepare_report report;
    int64_t max_length;
    uint64_t seed;
    char source_hash[LT_HASH_TEXT_SIZE]; /* of the input files */
    char hash[LT_HASH_TEXT_SIZE];        /* of this file */
};

/* --- The user block: "LATHE DATASET 1", length and hash of the rest, as text --- */

#define LT_STORE_BLOCK_SIZE 512
#define LT_STORE_MAGIC      "LATHE DATASET 1\n"

void lt_store_make_block(char block[LT_STORE_BLOCK_SIZE], uint64_t length, const char *hash);

/* --- The schema, shared by both ends --- */

#define LT_STORE_FORMAT  "lathe-dataset"
#define LT_STORE_VERSION 1

/* One integer attribute of the root and where it lives. */
typedef struct lt_store_count {
    const char *name;
    size_t offset; /* of an int64_t in lt_prepare_report */
} lt_store_count;

#define LT_STORE_COUNTS 10
extern const lt_store_count lt_store_counts[LT_STORE_COUNTS];

/* HDF5 prints its errors and loads plug-ins by default; neither is wanted. */
void lt_hdf5_prepare(void);
/* Turns the top of HDF5's error stack into a message: "PATH: what: HDF5's reason". */
lt_status lt_hdf5_fail(lt_err *err, lt_status code, const char *path, const char *what);

/* Writes the dataset (whose `hash` is not looked at) under a temporary name, then renames it. */
lt_status lt_store_write(const lt_dataset *dataset, const char *path, lt_err *err);

#endif
