/* The safetensors writer: byte for byte what the reference's writer makes of the same tensors, also
 * when several processes write it. */
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

/* The JSON text, padded with spaces to a multiple of 8. w->offsets are of the data alone. */
static lt_status make_text(lt_safetensors_writer *w, const char *path, const json_t *metadata,
                           lt_buffer *out, lt_err *err)
{
    const lt_safetensors_declaration *const *tensors = w->tensors;
    const size_t count = w->count;
    lt_status status = LT_OK;
    char *text = NULL;
    json_t *header = json_object();
    size_t offset = 0;
    bool ok = header && json_object_set_new(header, "__metadata__", metadata_object(metadata)) == 0;
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
        w->offsets[i + 1] = end;
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

/* The length of the text, and the text. */
static lt_status make_header(lt_safetensors_writer *w, const char *path, const json_t *metadata,
                             lt_buffer *out, lt_err *err)
{
    lt_buffer text = {0};
    lt_status status;
    unsigned char length[8];
    LT_TRY_GOTO(status, make_text(w, path, metadata, &text, err), done);
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)text.size >> (8 * i));
    LT_TRY_GOTO(status, lt_buffer_append(out, length, sizeof length, err), done);
    LT_TRY_GOTO(status, lt_buffer_append(out, text.data, text.size, err), done);
    for (size_t i = 0; i <= w->count; i++)
        w->offsets[i] += out->size;
done:
    lt_buffer_free(&text);
    return status;
}

/* --- What the file is to be --------------------------------------------------------------------
 */

static size_t bytes_of(const lt_safetensors_writer *w, size_t index)
{
    return (size_t)(w->offsets[index + 1] - w->offsets[index]);
}

/* Each tensor in turn to the process that has the fewest bytes so far: as all go through the file
 * side by side, all have something to write all the time. */
static lt_status deal(lt_safetensors_writer *w, lt_err *err)
{
    int processes = w->group ? w->group->world_size : 1;
    uint64_t *loads = calloc((size_t)processes, sizeof *loads);
    if (!loads) return lt_fail_nomem(err, (size_t)processes * sizeof *loads, "sharing out tensors");
    for (size_t i = 0; i < w->count; i++) {
        int least = 0;
        for (int rank = 1; rank < processes; rank++)
            if (loads[rank] < loads[least]) least = rank;
        w->dealt[i] = least;
        loads[least] += bytes_of(w, i);
    }
    free(loads);
    return LT_OK;
}

static lt_status plan(lt_safetensors_writer *w, const char *path,
                      const lt_safetensors_declaration *tensors, const json_t *metadata,
                      lt_buffer *header, lt_err *err)
{
    w->tensors = calloc(w->count + 1, sizeof *w->tensors);
    w->offsets = calloc(w->count + 1, sizeof *w->offsets);
    w->dealt = calloc(w->count + 1, sizeof *w->dealt);
    if (!w->tensors || !w->offsets || !w->dealt)
        return lt_fail_nomem(err, w->count * sizeof *w->tensors, "the list of tensors");
    for (size_t i = 0; i < w->count; i++)
        w->tensors[i] = &tensors[i];
    qsort(w->tensors, w->count, sizeof *w->tensors, compare_declarations);
    LT_TRY(make_header(w, path, metadata, header, err));
    return deal(w, err);
}

/* --- Pieces ------------------------------------------------------------------------------------
 */

static lt_status write_at(lt_safetensors_writer *w, uint64_t offset, const void *data, size_t size,
                          lt_err *err)
{
    return w->group ? lt_shared_file_write(&w->shared, offset, data, size, err)
                    : lt_new_file_write_at(&w->file, offset, data, size, err);
}

static lt_status create(lt_safetensors_writer *w, const char *path, const lt_buffer *header,
                        lt_err *err)
{
    if (w->group)
        LT_TRY(lt_shared_file_create(&w->shared, path, w->offsets[w->count], err));
    else
        LT_TRY(lt_new_file_begin(&w->file, path, err));
    return write_at(w, 0, header->data, header->size, err);
}

static void release(lt_safetensors_writer *w)
{
    lt_new_file_abort(&w->file);
    lt_shared_file_abort(&w->shared);
    free(w->tensors);
    free(w->offsets);
    free(w->dealt);
    *w = (lt_safetensors_writer){0};
}

lt_status lt_safetensors_begin(lt_safetensors_writer *writer, const char *path,
                               const lt_safetensors_declaration *tensors, size_t count,
                               const json_t *metadata, const lt_file_group *group, lt_err *err)
{
    lt_buffer header = {0};
    *writer = (lt_safetensors_writer){.group = group, .count = count};
    lt_status status = plan(writer, path, tensors, metadata, &header, err);
    if (status == LT_OK && lt_group_leads(group)) status = create(writer, path, &header, err);
    lt_buffer_free(&header);
    status = lt_group_agree(group, status, err);
    if (status != LT_OK) {
        release(writer);
        return status;
    }
    lt_err why = {0};
    if (!lt_group_leads(group))
        lt_safetensors_note(writer, lt_shared_file_open(&writer->shared, path, &why), &why);
    return LT_OK;
}

void lt_safetensors_note(lt_safetensors_writer *writer, lt_status status, const lt_err *err)
{
    if (status == LT_OK || writer->status != LT_OK) return;
    writer->status = status;
    writer->err = *err;
}

void lt_safetensors_put(lt_safetensors_writer *writer, size_t index, uint64_t first,
                        const void *data, size_t size)
{
    lt_err why = {0};
    if (writer->status != LT_OK) return;
    uint64_t offset = writer->offsets[index] + first;
    lt_safetensors_note(writer, write_at(writer, offset, data, size, &why), &why);
}

lt_status lt_safetensors_end(lt_safetensors_writer *writer, lt_err *err)
{
    lt_err why = {0};
    if (writer->status == LT_OK)
        lt_safetensors_note(writer,
                            writer->group ? lt_shared_file_finish(&writer->shared, &why)
                                          : lt_new_file_commit(&writer->file, &why),
                            &why);
    lt_status status = writer->status;
    if (status != LT_OK && err) *err = writer->err;
    status = lt_group_agree(writer->group, status, err);
    release(writer);
    return status;
}

/* --- Whole tensors -----------------------------------------------------------------------------
 */

static bool is_mine(const lt_safetensors_writer *w, size_t index)
{
    return w->status == LT_OK && (!w->group || w->dealt[index] == w->group->rank);
}

static unsigned char *room_for_largest(lt_safetensors_writer *w)
{
    size_t largest = 0;
    lt_err why = {0};
    for (size_t i = 0; i < w->count; i++)
        if (is_mine(w, i) && bytes_of(w, i) > largest) largest = bytes_of(w, i);
    unsigned char *data = malloc(largest + 1);
    if (!data) lt_safetensors_note(w, lt_fail_nomem(&why, largest, "a tensor to be written"), &why);
    return data;
}

lt_status lt_safetensors_write_together(const char *path, const lt_safetensors_declaration *tensors,
                                        size_t count, const json_t *metadata,
                                        lt_safetensors_source source, void *context,
                                        const lt_file_group *group, lt_err *err)
{
    lt_safetensors_writer w;
    LT_TRY(lt_safetensors_begin(&w, path, tensors, count, metadata, group, err));
    unsigned char *data = room_for_largest(&w);
    for (size_t i = 0; i < count && (group || w.status == LT_OK); i++) {
        lt_err why = {0};
        if (bytes_of(&w, i) == 0) continue;
        bool mine = is_mine(&w, i);
        lt_safetensors_note(&w, source(context, w.tensors[i]->name, mine ? data : NULL, &why),
                            &why);
        if (mine) lt_safetensors_put(&w, i, 0, data, bytes_of(&w, i));
    }
    free(data);
    return lt_safetensors_end(&w, err);
}

lt_status lt_safetensors_write(const char *path, const lt_safetensors_declaration *tensors,
                               size_t count, const json_t *metadata, lt_safetensors_source source,
                               void *context, lt_err *err)
{
    return lt_safetensors_write_together(path, tensors, count, metadata, source, context, NULL,
                                         err);
}
