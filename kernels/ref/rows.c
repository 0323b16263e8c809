#include <string.h>

#include "kernels/ref/ref.h"

/* y[r] = tokens[ids[r]] + positions_table[positions[r]] */
REFERENCE(embedding_forward, lt_embedding_args)
{
    for (int64_t r = 0; r < a->y.shape[0]; r++) {
        int64_t token = lt_row_offset(&a->token_table, integers(&a->ids)[r]);
        const real *position = NULL;
        real *y = row(&a->y, r);
        if (a->position_table.data) position = row(&a->position_table, integers(&a->positions)[r]);
        for (int64_t i = 0; i < a->y.shape[1]; i++)
            y[i] = (real)(weight_at(&a->token_table, token + i) + (position ? position[i] : 0));
    }
    return LT_OK;
}

static void add_row(const lt_tensor *table, int64_t to, const real *dy)
{
    real *d = row(table, to);
    for (int64_t i = 0; i < table->shape[1]; i++)
        d[i] += dy[i];
}

REFERENCE(embedding_backward, lt_embedding_backward_args)
{
    for (int64_t r = 0; r < a->dy.shape[0]; r++) {
        const real *dy = row(&a->dy, r);
        if (a->dtoken_table.data) add_row(&a->dtoken_table, integers(&a->ids)[r], dy);
        if (a->dposition_table.data) add_row(&a->dposition_table, integers(&a->positions)[r], dy);
    }
    return LT_OK;
}

/* y[i] = x[index[i]] */
REFERENCE(gather_rows, lt_rows_args)
{
    size_t bytes = (size_t)a->x.shape[1] * sizeof(real);
    for (int64_t i = 0; i < a->index.shape[0]; i++)
        if (bytes) memcpy(row(&a->y, i), row(&a->x, integers(&a->index)[i]), bytes);
    return LT_OK;
}

/* y = 0, then y[index[i]] = x[i] */
REFERENCE(scatter_rows, lt_rows_args)
{
    size_t bytes = (size_t)a->x.shape[1] * sizeof(real);
    for (int64_t r = 0; r < a->y.shape[0]; r++)
        if (bytes) memset(row(&a->y, r), 0, bytes);
    for (int64_t i = 0; i < a->index.shape[0]; i++)
        if (bytes) memcpy(row(&a->y, integers(&a->index)[i]), row(&a->x, i), bytes);
    return LT_OK;
}

static void append(const lt_tensor *kv, const lt_tensor *cache, const int32_t *offset)
{
    size_t bytes = (size_t)kv->shape[3] * sizeof(real);
    for (int64_t r = 0; bytes && r < lt_row_count(kv); r++) { /* batch * length * heads */
        int64_t h = r % kv->shape[2], i = r / kv->shape[2] % kv->shape[1];
        int64_t b = r / kv->shape[2] / kv->shape[1];
        real *to = values(cache) + b * cache->stride[0] + (offset[b] + i) * cache->stride[1];
        memcpy(to + h * cache->stride[2], row(kv, r), bytes);
    }
}

/* cache[b, offset[b] + i] = kv[b, i] */
REFERENCE(cache_append, lt_cache_append_args)
{
    append(&a->k, &a->k_cache, integers(&a->offset));
    append(&a->v, &a->v_cache, integers(&a->offset));
    return LT_OK;
}
