/* Private to data_pipeline/: between reading records and writing a dataset. */
#ifndef LT_PREPARE_H
#define LT_PREPARE_H

#include "data_pipeline/store.h"

/* Which split a document may go to. */
typedef enum lt_side { LT_SIDE_ANY, LT_SIDE_TRAIN, LT_SIDE_VALIDATION } lt_side;

typedef struct lt_collected_document {
    size_t begin, length; /* in the tokens */
    size_t record_begin, record_length;
    uint32_t category;
    lt_side side;
    uint64_t rank; /* random; decides split and order */
} lt_collected_document;

/* All documents in the order they were read. Owns everything. */
typedef struct lt_collection {
    lt_collected_document *documents;
    size_t count, capacity;
    lt_ids tokens;
    lt_buffer mask;
    lt_buffer records;  /* JSON texts; empty when nothing is held out */
    json_t *categories; /* name -> index */
} lt_collection;

/* Deals the documents out to the splits of a zeroed dataset, in random order, and fills in what the
 * report says of documents and tokens. */
lt_status lt_collection_deal(lt_collection *collection, double validation, lt_dataset *dataset,
                             lt_err *err);
void lt_collection_free(lt_collection *collection);

#endif
