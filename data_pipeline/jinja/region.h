/* Memory of one lifetime with a limit: blocks are handed out and all freed at once. */
#ifndef LT_DATA_PIPELINE_JINJA_REGION_H
#define LT_DATA_PIPELINE_JINJA_REGION_H

#include <stddef.h>

#include "base/status.h"

/* Zero with a limit is empty and ready. Under AddressSanitizer each block is an allocation of its
 * own, so that running over its end is seen. */
typedef struct jinja_region {
    struct jinja_chunk *chunks;
    size_t used, capacity; /* of the newest chunk */
    size_t total, limit;   /* bytes */
} jinja_region;

/* `count` * `size` bytes, zeroed and aligned for any type. LT_ERR_LIMIT, LT_ERR_NOMEM. */
lt_status lt_jinja_region_alloc(jinja_region *region, size_t count, size_t size, void *out,
                                lt_err *err);
void lt_jinja_region_free(jinja_region *region);

#endif
