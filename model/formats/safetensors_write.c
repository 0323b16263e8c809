/* The safetensors writer: byte for byte what the reference's writer makes of the same tensors. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/formats/safetensors.h"

enum { MAX_HEADER = 100000000 };

/* Place in the reference's list of types; it writes the last first, so that every tensor starts
 * aligned. */
static const struct written_type {
    const char *name;
    int rank;
} written_types[LT_DTYPE_COUNT] = {
    [LT_U8] = {"U8", 0},   [LT_F16] = {"F16", 1}, [LT_BF16] = {"BF16", 2},
    [LT_I32] = {"I32", 3}, [LT_F32] = {"F32", 4}, [LT_F64] = {"F64", 5},
};

static int compare_declarations(const void *a, const void *b)
{
    const lt_safetensors_declaration *x = *(const lt_safetensors_declaration *const *)a;
    const lt_safetensors_declaration *y = *(const lt_safetensors_declaration *const *)b;
    int rank = written_types[y->dtype].rank - written_types[x->dtype].rank;
    return rank != 0 ? rank : strcmp(x->name, y->name);
}

static bool tensor_bytes(const lt_safetensors_declaration *tensor, size_t *out)
{
    size_t bytes = lt_dtype_size(tensor->dtype);
    for (int i = 0; i < tensor->ndim; i++)
        if (tensor->shape[i] < 0 || !lt_mul_size(bytes, (size_t)tensor->shape[i], &bytes))
            return false;
    *out = bytes;
    return true;
}

/* jansson frees what it is given also when it fails, so a chain of _new calls needs one check. */
static bool add_tensor(json_t *header, const lt_safetensors_declaration *tensor, size_t begin,
                       size_t end)
{
    json_t *entry = json_object(), *shape = json_array(), *offsets = json_array();
    bool ok = entry && shape && offsets;
    for (int i = 0; ok && i < tensor->ndim; i++)
        ok = json_array_append_new(shape, json_integer(tensor->shape[i])) == 0;
    ok = ok && json_array_append_new(offsets, json_integer((json_int_t)begin)) == 0 &&
         json_array_append_new(offsets, json_integer((json_int_t)end)) == 0 &&
         json_object_set_new(entry, "dtype", json_string(written_types[tensor->dtype].name)) == 0 &&
         json_object_set(entry, "shape", shape) == 0 &&
         json_object_set(entry, "data_offsets", offsets) == 0 &&
         json_object_set(header, tensor->name, entry) == 0;
    json_decref(entry);
    json_decref(shape);
    json_decref(offsets);
    return ok;
}

static json_t *metadata_object(const json_t *metadata)
{
    json_t *object = json_object();
    if (!object || json_object_set_new(object, "format", json_string("pt")) != 0 ||
        (metadata && json_object_update_missing(object, (json_t *)metadata) != 0)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* The JSON text, padded with spaces to a multiple of 8. *largest: bytes of the largest tensor. */
static lt_status make_header(const char *path, const lt_safetensors_declaration *const *tensors,
                             size_t count, const json_t *metadata, lt_buffer *out, size_t *largest,
                             lt_err *err)
{
    lt_status status = LT_OK;
    char *text = NULL;
    json_t *header = json_object();
    size_t offset = 0;
    bool ok = header && json_object_set_new(header, "__metadata__", metadata_object(metadata)) == 0;
    *largest = 0;
    for (size_t i = 0; ok && i < count; i++) {
        size_t bytes, end;
        if (i > 0 && strcmp(tensors[i - 1]->name, tensors[i]->name) == 0) {
            status = lt_fail(err, LT_ERR_USAGE, "%s: tensor \"%s\" is declared twice", path,
                             tensors[i]->name);
            goto done;
        }
        if (!tensor_bytes(tensors[i], &bytes) || !lt_add_size(offset, bytes, &end) ||
            end > INT64_MAX) {
            status = lt_fail(err, LT_ERR_LIMIT, "%s: tensor \"%s\" has an impossible size", path,
                             tensors[i]->name);
            goto done;
        }
        ok = add_tensor(header, tensors[i], offset, end);
        offset = end;
        *largest = bytes > *largest ? bytes : *largest;
    }
    if (ok) text = json_dumps(header, JSON_COMPACT);
    if (!text) {
        status = lt_fail_nomem(err, count * 100, "the header of a safetensors file");
        goto done;
    }
    LT_TRY_GOTO(status, lt_buffer_append_text(out, text, err), done);
    LT_TRY_GOTO(status,
                lt_buffer_append(out, "        ", lt_align_up(out->size, 8) - out->size, err),
                done);
    if (out->size > MAX_HEADER)
        status = lt_fail(err, LT_ERR_LIMIT, "%s: a header of %zu bytes is beyond the format's %d",
                         path, out->size, MAX_HEADER);

done:
    free(text);
    json_decref(header);
    return status;
}

static lt_status write_body(lt_new_file *file, const lt_safetensors_declaration *const *tensors,
                            size_t count, size_t largest, lt_safetensors_source source,
                            void *context, lt_err *err)
{
    lt_status status = LT_OK;
    unsigned char *data = malloc(largest + 1);
    if (!data) return lt_fail_nomem(err, largest, "a tensor to be written");
    for (size_t i = 0; i < count; i++) {
        size_t bytes = 0;
        tensor_bytes(tensors[i], &bytes);
        if (bytes == 0) continue;
        LT_TRY_GOTO(status, source(context, tensors[i]->name, data, err), done);
        LT_TRY_GOTO(status, lt_new_file_write(file, data, bytes, err), done);
    }

done:
    free(data);
    return status;
}

lt_status lt_safetensors_write(const char *path, const lt_safetensors_declaration *tensors,
                               size_t count, const json_t *metadata, lt_safetensors_source source,
                               void *context, lt_err *err)
{
    lt_status status;
    lt_buffer header = {0};
    lt_new_file file = {0};
    size_t largest = 0;
    const lt_safetensors_declaration **sorted = calloc(count + 1, sizeof *sorted);
    if (!sorted) return lt_fail_nomem(err, count * sizeof *sorted, "the list of tensors");
    for (size_t i = 0; i < count; i++)
        sorted[i] = &tensors[i];
    qsort(sorted, count, sizeof *sorted, compare_declarations);

    LT_TRY_GOTO(status, make_header(path, sorted, count, metadata, &header, &largest, err), done);
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)header.size >> (8 * i));
    LT_TRY_GOTO(status, lt_new_file_begin(&file, path, err), done);
    LT_TRY_GOTO(status, lt_new_file_write(&file, length, sizeof length, err), done);
    LT_TRY_GOTO(status, lt_new_file_write(&file, header.data, header.size, err), done);
    LT_TRY_GOTO(status, write_body(&file, sorted, count, largest, source, context, err), done);
    status = lt_new_file_commit(&file, err);

done:
    lt_new_file_abort(&file);
    lt_buffer_free(&header);
    free(sorted);
    return status;
}
