/* Private to data_pipeline/: which pieces of which documents lie in which row. */
#ifndef LT_PACKING_H
#define LT_PACKING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data_pipeline/dataset.h"

/* A stretch of a document that is put into a row whole. Its targets are the tokens
 * [start + 1, start + length], as far as the document has them. */
typedef struct lt_piece {
    int64_t document;
    int64_t start;  /* 0 but in windows of plain text */
    int64_t length; /* input tokens */
} lt_piece;

/* Row r holds the pieces order[row_begin[r]] .. order[row_begin[r + 1] - 1], in that order. Owns
 * its arrays; a zeroed one is empty. */
typedef struct lt_row_plan {
    lt_piece *pieces; /* [piece_count], in file order */
    int64_t piece_count;
    int64_t *order;     /* [piece_count] */
    int64_t *row_begin; /* [row_count + 1] */
    int64_t row_count;
    int64_t left_out; /* documents that are in no row */
} lt_row_plan;

void lt_row_plan_free(lt_row_plan *plan);

/* Deterministic: the same settings give the same rows. */
lt_status lt_row_plan_make(const lt_dataset *dataset, const lt_loader_settings *settings,
                           lt_row_plan *out, lt_err *err);

/* Fills order[count] with a random permutation of 0 .. count - 1 that depends on seed and epoch
 * only. */
void lt_permutation(uint64_t seed, int64_t epoch, int64_t count, int64_t *order);

#endif
