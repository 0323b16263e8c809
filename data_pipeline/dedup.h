/* Private to data_pipeline/: finding records that say the same as an earlier one. */
#ifndef LT_DEDUP_H
#define LT_DEDUP_H

#include <stdint.h>

#include "data_pipeline/records.h"

enum { LT_MINHASH_BANDS = 20, LT_MINHASH_ROWS = 6 };
enum { LT_MINHASH_SIZE = LT_MINHASH_BANDS * LT_MINHASH_ROWS };

/* A sorted set of hashes of word shingles. Owns `hashes`. */
typedef struct lt_shingles {
    uint64_t *hashes;
    size_t count;
} lt_shingles;

/* What is compared of a record. `said` is the question and the answer (or the text), `context` what
 * they are about: two questions about one long passage are not the same record. */
typedef struct lt_fingerprint {
    uint64_t exact[2]; /* XXH3-128 of the normalised words */
    lt_shingles said, context;
    uint32_t minhash[LT_MINHASH_SIZE]; /* of `said` */
} lt_fingerprint;

/* A function of the record's text alone; may run in several threads at once. */
lt_status lt_fingerprint_make(const lt_record *record, lt_fingerprint *out, lt_err *err);
void lt_fingerprint_free(lt_fingerprint *fingerprint);

typedef enum lt_novelty { LT_NEW, LT_DUPLICATE, LT_NEAR_DUPLICATE } lt_novelty;

typedef struct lt_dedup lt_dedup;
lt_status lt_dedup_create(lt_dedup **out, lt_err *err);
void lt_dedup_free(lt_dedup *dedup);
/* Compares with all that were new so far. Takes the fingerprint over (and zeroes it) when it is new
 * too. */
lt_status lt_dedup_add(lt_dedup *dedup, lt_fingerprint *fingerprint, lt_novelty *out, lt_err *err);

#endif
