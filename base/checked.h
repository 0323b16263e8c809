/* Checked arithmetic for sizes that come from files or flags. Each returns false on overflow and
 * leaves *out alone. */
#ifndef LT_BASE_CHECKED_H
#define LT_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool lt_add_size(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

static inline bool lt_mul_size(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

static inline bool lt_mul_i64(int64_t a, int64_t b, int64_t *out)
{
    int64_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

static inline size_t lt_align_up(size_t value, size_t alignment)
{
    return (value + alignment - 1) / alignment * alignment;
}

static inline int64_t lt_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t lt_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
