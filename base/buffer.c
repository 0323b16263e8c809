#include "base/buffer.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

/* Doubles `*capacity` until `needed` elements of `size` bytes fit. */
static lt_status grow(void **data, size_t *capacity, size_t needed, size_t size, const char *what,
                      lt_err *err)
{
    if (needed <= *capacity) return LT_OK;
    size_t larger = *capacity ? *capacity : 64;
    while (larger < needed) {
        if (!lt_mul_size(larger, 2, &larger)) return lt_fail_nomem(err, needed, what);
    }
    size_t bytes;
    if (!lt_mul_size(larger, size, &bytes)) return lt_fail_nomem(err, needed, what);
    void *moved = realloc(*data, bytes);
    if (!moved) return lt_fail_nomem(err, bytes, what);
    *data = moved;
    *capacity = larger;
    return LT_OK;
}

void lt_buffer_free(lt_buffer *buffer)
{
    free(buffer->data);
    *buffer = (lt_buffer){0};
}

void lt_buffer_clear(lt_buffer *buffer)
{
    buffer->size = 0;
    if (buffer->data) buffer->data[0] = '\0';
}

lt_status lt_buffer_reserve(lt_buffer *buffer, size_t extra, lt_err *err)
{
    size_t needed;
    if (!lt_add_size(buffer->size, extra, &needed) || !lt_add_size(needed, 1, &needed))
        return lt_fail_nomem(err, extra, "a text buffer");
    bool fresh = buffer->data == NULL;
    void *data = buffer->data;
    LT_TRY(grow(&data, &buffer->capacity, needed, 1, "a text buffer", err));
    buffer->data = data;
    if (fresh) buffer->data[0] = '\0';
    return LT_OK;
}

lt_status lt_buffer_append(lt_buffer *buffer, const void *data, size_t size, lt_err *err)
{
    LT_TRY(lt_buffer_reserve(buffer, size, err));
    if (size) memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    buffer->data[buffer->size] = '\0';
    return LT_OK;
}

lt_status lt_buffer_append_text(lt_buffer *buffer, const char *text, lt_err *err)
{
    return lt_buffer_append(buffer, text, strlen(text), err);
}

lt_status lt_buffer_printf(lt_buffer *buffer, lt_err *err, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    lt_status status = length < 0 ? lt_fail(err, LT_ERR_USAGE, "bad format string: %s", format)
                                  : lt_buffer_reserve(buffer, (size_t)length, err);
    if (status == LT_OK) {
        vsnprintf(buffer->data + buffer->size, (size_t)length + 1, format, again);
        buffer->size += (size_t)length;
    }
    va_end(again);
    return status;
}

lt_status lt_buffer_append_number(lt_buffer *buffer, double value, lt_err *err)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return lt_buffer_append_text(buffer, text, err);
}

const char *lt_buffer_text(const lt_buffer *buffer)
{
    return buffer->data ? buffer->data : "";
}

void lt_ids_free(lt_ids *ids)
{
    free(ids->data);
    *ids = (lt_ids){0};
}

lt_status lt_ids_reserve(lt_ids *ids, size_t extra, lt_err *err)
{
    size_t needed;
    if (!lt_add_size(ids->count, extra, &needed)) return lt_fail_nomem(err, extra, "token ids");
    void *data = ids->data;
    LT_TRY(grow(&data, &ids->capacity, needed, sizeof *ids->data, "token ids", err));
    ids->data = data;
    return LT_OK;
}

lt_status lt_ids_push(lt_ids *ids, int32_t id, lt_err *err)
{
    if (ids->count == ids->capacity) LT_TRY(lt_ids_reserve(ids, 1, err));
    ids->data[ids->count++] = id;
    return LT_OK;
}

lt_status lt_ids_append(lt_ids *ids, const int32_t *data, size_t count, lt_err *err)
{
    LT_TRY(lt_ids_reserve(ids, count, err));
    if (count) memcpy(ids->data + ids->count, data, count * sizeof *data);
    ids->count += count;
    return LT_OK;
}
