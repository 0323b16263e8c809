/* Growable buffers: bytes (lt_buffer, always NUL-terminated, so also a string) and token ids. */
#ifndef LT_BASE_BUFFER_H
#define LT_BASE_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Owns `data`; a zeroed one is empty. `data` is NULL until something is appended. */
typedef struct lt_buffer {
    char *data;
    size_t size; /* bytes, without the terminating NUL */
    size_t capacity;
} lt_buffer;

void lt_buffer_free(lt_buffer *buffer);  /* frees and zeroes */
void lt_buffer_clear(lt_buffer *buffer); /* keeps the memory */
lt_status lt_buffer_reserve(lt_buffer *buffer, size_t extra, lt_err *err);
lt_status lt_buffer_append(lt_buffer *buffer, const void *data, size_t size, lt_err *err);
lt_status lt_buffer_append_text(lt_buffer *buffer, const char *text, lt_err *err);
lt_status lt_buffer_printf(lt_buffer *buffer, lt_err *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* With as few digits, 15 to 17, as read back as the same number: 0.1, not 0.10000000000000001. */
lt_status lt_buffer_append_number(lt_buffer *buffer, double value, lt_err *err);
const char *lt_buffer_text(const lt_buffer *buffer); /* "" when empty, never NULL */

/* Token ids. Owns `data`; a zeroed one is empty. */
typedef struct lt_ids {
    int32_t *data;
    size_t count;
    size_t capacity;
} lt_ids;

void lt_ids_free(lt_ids *ids);
lt_status lt_ids_reserve(lt_ids *ids, size_t extra, lt_err *err);
lt_status lt_ids_push(lt_ids *ids, int32_t id, lt_err *err);
lt_status lt_ids_append(lt_ids *ids, const int32_t *data, size_t count, lt_err *err);

#endif
