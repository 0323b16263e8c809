/* Writing GGUF: key-values are collected as the bytes they will be, tensors are declared, and their
 * data is asked for, encoded and written piece by piece. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/formats/quants.h"

enum {
    ALIGNMENT = 32,
    VERSION = 3,
    CHUNK_VALUES = 1 << 16, /* what a thread encodes at a time */
    CHUNKS = 16,            /* what is encoded before it is written */
};

/* --- Key-values --------------------------------------------------------------------------------
 */

static lt_status put_uint(lt_buffer *out, uint64_t value, size_t bytes, lt_err *err)
{
    unsigned char text[8];
    for (size_t i = 0; i < bytes; i++)
        text[i] = (unsigned char)(value >> (8 * i));
    return lt_buffer_append(out, text, bytes, err);
}

static lt_status put_string(lt_buffer *out, const char *text, size_t size, lt_err *err)
{
    LT_TRY(put_uint(out, size, 8, err));
    return lt_buffer_append(out, text, size, err);
}

static lt_status put_float(lt_buffer *out, float value, lt_err *err)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return put_uint(out, bits, sizeof bits, err);
}

static lt_status begin_key(lt_gguf_keys *keys, const char *key, lt_gguf_value_type type,
                           lt_err *err)
{
    LT_TRY(put_string(&keys->bytes, key, strlen(key), err));
    LT_TRY(put_uint(&keys->bytes, type, 4, err));
    keys->count++;
    return LT_OK;
}

static lt_status begin_array(lt_gguf_keys *keys, const char *key, lt_gguf_value_type type,
                             uint64_t count, lt_err *err)
{
    LT_TRY(begin_key(keys, key, LT_GGUF_ARRAY, err));
    LT_TRY(put_uint(&keys->bytes, type, 4, err));
    return put_uint(&keys->bytes, count, 8, err);
}

lt_status lt_gguf_add_u32(lt_gguf_keys *keys, const char *key, uint32_t value, lt_err *err)
{
    LT_TRY(begin_key(keys, key, LT_GGUF_U32, err));
    return put_uint(&keys->bytes, value, sizeof value, err);
}

lt_status lt_gguf_add_f32(lt_gguf_keys *keys, const char *key, float value, lt_err *err)
{
    LT_TRY(begin_key(keys, key, LT_GGUF_FLOAT32, err));
    return put_float(&keys->bytes, value, err);
}

lt_status lt_gguf_add_bool(lt_gguf_keys *keys, const char *key, bool value, lt_err *err)
{
    LT_TRY(begin_key(keys, key, LT_GGUF_BOOL, err));
    return put_uint(&keys->bytes, value, 1, err);
}

lt_status lt_gguf_add_string(lt_gguf_keys *keys, const char *key, const char *text, size_t size,
                             lt_err *err)
{
    LT_TRY(begin_key(keys, key, LT_GGUF_STRING, err));
    return put_string(&keys->bytes, text, size, err);
}

lt_status lt_gguf_add_i32s(lt_gguf_keys *keys, const char *key, const int32_t *values, size_t count,
                           lt_err *err)
{
    LT_TRY(begin_array(keys, key, LT_GGUF_I32, count, err));
    for (size_t i = 0; i < count; i++)
        LT_TRY(put_uint(&keys->bytes, (uint32_t)values[i], sizeof values[i], err));
    return LT_OK;
}

lt_status lt_gguf_add_f32s(lt_gguf_keys *keys, const char *key, const float *values, size_t count,
                           lt_err *err)
{
    LT_TRY(begin_array(keys, key, LT_GGUF_FLOAT32, count, err));
    for (size_t i = 0; i < count; i++)
        LT_TRY(put_float(&keys->bytes, values[i], err));
    return LT_OK;
}

lt_status lt_gguf_begin_strings(lt_gguf_keys *keys, const char *key, uint64_t count, lt_err *err)
{
    return begin_array(keys, key, LT_GGUF_STRING, count, err);
}

lt_status lt_gguf_push_string(lt_gguf_keys *keys, const char *text, size_t size, lt_err *err)
{
    return put_string(&keys->bytes, text, size, err);
}

void lt_gguf_keys_free(lt_gguf_keys *keys)
{
    lt_buffer_free(&keys->bytes);
    keys->count = 0;
}

/* --- The header --------------------------------------------------------------------------------
 */

static int64_t columns_of(const lt_gguf_declaration *t)
{
    return t->shape[t->ndim - 1];
}

static int64_t rows_of(const lt_gguf_declaration *t)
{
    int64_t rows = 1;
    for (int i = 0; i < t->ndim - 1; i++)
        rows *= t->shape[i];
    return rows;
}

static size_t bytes_of(const lt_gguf_declaration *t)
{
    return lt_gguf_row_bytes(t->type, columns_of(t)) * (size_t)rows_of(t);
}

/* Name, shape (innermost first), type and place. */
static lt_status put_info(lt_buffer *out, const lt_gguf_declaration *t, uint64_t offset,
                          lt_err *err)
{
    LT_TRY(put_string(out, t->name, strlen(t->name), err));
    LT_TRY(put_uint(out, (uint64_t)t->ndim, 4, err));
    for (int i = t->ndim; i-- > 0;)
        LT_TRY(put_uint(out, (uint64_t)t->shape[i], 8, err));
    LT_TRY(put_uint(out, t->type, 4, err));
    return put_uint(out, offset, 8, err);
}

static lt_status make_header(const lt_gguf_keys *keys, const lt_gguf_declaration *tensors,
                             size_t count, lt_buffer *out, lt_err *err)
{
    LT_TRY(lt_buffer_append(out, "GGUF", 4, err));
    LT_TRY(put_uint(out, VERSION, 4, err));
    LT_TRY(put_uint(out, count, 8, err));
    LT_TRY(put_uint(out, keys->count, 8, err));
    LT_TRY(lt_buffer_append(out, keys->bytes.data, keys->bytes.size, err));
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        LT_TRY(put_info(out, &tensors[i], offset, err));
        offset += lt_align_up(bytes_of(&tensors[i]), ALIGNMENT);
    }
    static const char zeros[ALIGNMENT];
    return lt_buffer_append(out, zeros, lt_align_up(out->size, ALIGNMENT) - out->size, err);
}

/* --- The data ----------------------------------------------------------------------------------
 */

typedef struct writer {
    const lt_gguf_declaration *tensors;
    lt_gguf_source source;
    void *context;
    int threads;
    float *values;
    unsigned char *encoded;
} writer;

/* Rows of a chunk: the unit of parallel work. */
static int64_t chunk_rows(const lt_gguf_declaration *t)
{
    return lt_max_i64(1, CHUNK_VALUES / columns_of(t));
}

static lt_status encode_chunk(const writer *w, size_t index, int64_t first, int64_t count,
                              int64_t at, lt_err *err)
{
    const lt_gguf_declaration *t = &w->tensors[index];
    int64_t columns = columns_of(t);
    float *values = w->values + at * columns;
    LT_TRY(w->source(w->context, index, first, count, values, err));
    lt_status status =
        lt_gguf_encode(t->type, values, count * columns,
                       w->encoded + (size_t)at * lt_gguf_row_bytes(t->type, columns), err);
    return status == LT_OK ? LT_OK : lt_fail_context(err, "tensor \"%s\"", t->name);
}

/* Rows [first, first + count), a chunk for each thread. Which one fails first does not matter for
 * the bytes; that there is one message does. */
static lt_status encode_rows(const writer *w, size_t index, int64_t first, int64_t count,
                             lt_err *err)
{
    int64_t step = chunk_rows(&w->tensors[index]);
    lt_status status = LT_OK;
#pragma omp parallel for schedule(dynamic) num_threads(w->threads)
    for (int64_t at = 0; at < count; at += step) {
        lt_err own = {0};
        lt_status result =
            encode_chunk(w, index, first + at, lt_min_i64(step, count - at), at, &own);
        if (result == LT_OK) continue;
#pragma omp critical
        {
            status = result;
            if (err) *err = own;
        }
    }
    return status;
}

static lt_status write_tensor(const writer *w, size_t index, lt_new_file *file, lt_err *err)
{
    static const char zeros[ALIGNMENT];
    const lt_gguf_declaration *t = &w->tensors[index];
    int64_t rows = rows_of(t), step = chunk_rows(t) * CHUNKS;
    size_t row_bytes = lt_gguf_row_bytes(t->type, columns_of(t)), bytes = bytes_of(t);
    for (int64_t first = 0; first < rows; first += step) {
        int64_t count = lt_min_i64(step, rows - first);
        LT_TRY(encode_rows(w, index, first, count, err));
        LT_TRY(lt_new_file_write(file, w->encoded, (size_t)count * row_bytes, err));
    }
    return lt_new_file_write(file, zeros, lt_align_up(bytes, ALIGNMENT) - bytes, err);
}

/* The widest tensor decides: values of a piece, which in no type take more than 4 bytes each. */
static lt_status make_room(writer *w, size_t count, lt_err *err)
{
    int64_t most = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t rows = lt_min_i64(rows_of(&w->tensors[i]), chunk_rows(&w->tensors[i]) * CHUNKS);
        most = lt_max_i64(most, rows * columns_of(&w->tensors[i]));
    }
    size_t bytes = (size_t)most * sizeof(float);
    w->values = malloc(bytes + 1);
    w->encoded = malloc(bytes + 1);
    return w->values && w->encoded ? LT_OK : lt_fail_nomem(err, 2 * bytes, "encoding weights");
}

lt_status lt_gguf_write(const char *path, const lt_gguf_keys *keys,
                        const lt_gguf_declaration *tensors, size_t count, lt_gguf_source source,
                        void *context, int threads, lt_err *err)
{
    lt_status status;
    lt_buffer header = {0};
    lt_new_file file = {0};
    writer w = {.tensors = tensors,
                .source = source,
                .context = context,
                .threads = threads > 0 ? threads : 1};
    LT_TRY_GOTO(status, make_header(keys, tensors, count, &header, err), done);
    LT_TRY_GOTO(status, make_room(&w, count, err), done);
    LT_TRY_GOTO(status, lt_new_file_begin(&file, path, err), done);
    LT_TRY_GOTO(status, lt_new_file_write(&file, header.data, header.size, err), done);
    for (size_t i = 0; i < count; i++)
        LT_TRY_GOTO(status, write_tensor(&w, i, &file, err), done);
    status = lt_new_file_commit(&file, err);

done:
    lt_new_file_abort(&file);
    lt_buffer_free(&header);
    free(w.values);
    free(w.encoded);
    return status;
}
