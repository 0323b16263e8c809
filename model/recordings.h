/* Decoding steps that a device has recorded. Private to model/. */
#ifndef LT_MODEL_RECORDINGS_H
#define LT_MODEL_RECORDINGS_H

#include "model/workspace.h"

/* The shape of a step: everything that decides which operations it runs on which tensors. */
typedef struct lt_recorded_step {
    void *key; /* bytes; owned */
    size_t key_size;
    uint64_t last_used;
    bool seen; /* it has been run once */
    lt_recording *recording;
} lt_recorded_step;

/* The entry for steps of this shape, made when there is none (then the one that was not used for
 * longest goes). Groups of the pass get a kv_length that is rounded up, so that the shape does not
 * change with every token. NULL when there is no memory: then the step is simply run. */
lt_recorded_step *lt_recordings_find(lt_kv_cache *cache, const lt_pass *pass,
                                     const lt_sampling *sampling);
void lt_recordings_free(lt_kv_cache *cache);

#endif
