/* The safetensors reader: a header of untrusted JSON over data that is used in place. */
#include "model/formats/safetensors.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/formats/numbers.h"

enum {
    MAX_HEADER = 100000000,
    MAX_TENSORS = 1000000,
    MAX_NAME = 512,
    PREFIX = 8, /* bytes of the header's length */
};

/* Types in the reference's order, which is also the order of tensors in written files. */
static const struct element_type {
    const char *name;
    unsigned bits;
} element_types[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
};

static unsigned element_bits(const char *dtype)
{
    for (size_t i = 0; i < sizeof element_types / sizeof *element_types; i++)
        if (strcmp(element_types[i].name, dtype) == 0) return element_types[i].bits;
    return 0;
}

/* --- The header --------------------------------------------------------------------------------
 */

static lt_status parse_header(const unsigned char *data, size_t size, const char *where,
                              json_t **header, size_t *header_end, lt_err *err)
{
    if (size < PREFIX)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: %zu bytes are too few for a safetensors file (cut short?)", where,
                       size);
    uint64_t length = 0;
    for (int i = PREFIX; i-- > 0;)
        length = length << 8 | data[i];
    if (length > MAX_HEADER)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: a header of %llu bytes is beyond the limit of %d; not a safetensors "
                       "file, or damaged",
                       where, (unsigned long long)length, MAX_HEADER);
    if (length > size - PREFIX)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: the header should have %llu bytes, but the file ends after %zu: cut "
                       "short",
                       where, (unsigned long long)length, size - PREFIX);
    json_error_t error;
    /* strict: no duplicate keys, no NUL in strings, UTF-8, nothing after the object, bounded depth
     */
    *header =
        json_loadb((const char *)data + PREFIX, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!*header)
        return lt_fail(err, LT_ERR_FORMAT, "%s: the header is not valid JSON: %s (byte %d)", where,
                       error.text, error.position);
    if (!json_is_object(*header))
        return lt_fail(err, LT_ERR_FORMAT, "%s: the header is not a JSON object", where);
    *header_end = PREFIX + (size_t)length;
    return LT_OK;
}

static lt_status check_metadata(const json_t *metadata, const char *where, lt_err *err)
{
    if (!metadata || json_is_null(metadata)) return LT_OK;
    if (!json_is_object(metadata))
        return lt_fail(err, LT_ERR_FORMAT, "%s: __metadata__ is not an object", where);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)metadata, key, value)
    {
        if (!json_is_string(value))
            return lt_fail(err, LT_ERR_FORMAT, "%s: __metadata__ \"%.80s\" is not a string", where,
                           key);
    }
    return LT_OK;
}

/* --- One tensor --------------------------------------------------------------------------------
 */

static lt_status tensor_error(lt_err *err, lt_status code, const char *where, const char *name,
                              const char *what)
{
    return lt_fail(err, code, "%s: tensor \"%.200s\": %s", where, name, what);
}

static lt_status parse_shape(const json_t *shape, const char *where, lt_safetensors_entry *entry,
                             lt_err *err)
{
    if (!json_is_array(shape))
        return tensor_error(err, LT_ERR_FORMAT, where, entry->name, "has no list \"shape\"");
    if (json_array_size(shape) > LT_SAFETENSORS_MAX_DIMS)
        return tensor_error(err, LT_ERR_LIMIT, where, entry->name, "has more than 8 dimensions");
    entry->ndim = (int)json_array_size(shape);
    for (int i = 0; i < entry->ndim; i++) {
        const json_t *extent = json_array_get(shape, (size_t)i);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0)
            return tensor_error(err, LT_ERR_FORMAT, where, entry->name,
                                "its shape is not a list of non-negative integers");
        entry->shape[i] = json_integer_value(extent);
    }
    return LT_OK;
}

/* Bytes that shape and type ask for. */
static lt_status shape_bytes(const lt_safetensors_entry *entry, const char *where, size_t *out,
                             lt_err *err)
{
    size_t bits = element_bits(entry->dtype);
    for (int i = 0; i < entry->ndim; i++)
        if (!lt_mul_size(bits, (size_t)entry->shape[i], &bits))
            return tensor_error(err, LT_ERR_FORMAT, where, entry->name,
                                "its shape overflows any size");
    if (bits % 8 != 0)
        return tensor_error(err, LT_ERR_FORMAT, where, entry->name,
                            "its elements do not fill whole bytes");
    *out = bits / 8;
    return LT_OK;
}

static lt_status parse_entry(const char *name, const json_t *value, const char *where,
                             const unsigned char *data, size_t data_size,
                             lt_safetensors_entry *entry, lt_err *err)
{
    entry->name = name;
    if (!*name || strlen(name) > MAX_NAME)
        return tensor_error(err, LT_ERR_FORMAT, where, name, "a name must have 1 to 512 bytes");
    entry->dtype = json_string_value(json_object_get(value, "dtype"));
    if (!entry->dtype)
        return tensor_error(err, LT_ERR_FORMAT, where, name, "has no string \"dtype\"");
    if (element_bits(entry->dtype) == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor \"%.200s\": dtype \"%.40s\" is not known",
                       where, name, entry->dtype);
    LT_TRY(parse_shape(json_object_get(value, "shape"), where, entry, err));

    const json_t *offsets = json_object_get(value, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0 || json_integer_value(last) < json_integer_value(first))
        return tensor_error(err, LT_ERR_FORMAT, where, name,
                            "data_offsets are not two increasing non-negative integers");
    size_t begin = (size_t)json_integer_value(first), end = (size_t)json_integer_value(last);
    if (end > data_size)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: tensor \"%.200s\" should end at byte %zu of the data, but there are "
                       "only %zu: cut short",
                       where, name, end, data_size);
    size_t wanted = 0;
    LT_TRY(shape_bytes(entry, where, &wanted, err));
    if (wanted != end - begin)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: tensor \"%.200s\": shape and dtype ask for %zu bytes, data_offsets "
                       "give %zu",
                       where, name, wanted, end - begin);
    entry->data = data + begin;
    entry->size = wanted;
    return LT_OK;
}

/* --- All of them together ----------------------------------------------------------------------
 */

/* By place; where empty tensors share one, they come before the tensor that fills it. */
static int compare_place(const void *a, const void *b)
{
    const lt_safetensors_entry *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    if (x->size != y->size) return x->size < y->size ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_name(const void *a, const void *b, void *entries)
{
    const lt_safetensors_entry *list = entries;
    return strcmp(list[*(const size_t *)a].name, list[*(const size_t *)b].name);
}

/* Tensors lie one after the other and cover the data exactly: no hole, no overlap, no tail. */
static lt_status check_cover(const lt_safetensors *file, const unsigned char *data,
                             size_t data_size, const char *where, lt_err *err)
{
    const unsigned char *expected = data;
    for (size_t i = 0; i < file->count; i++) {
        const lt_safetensors_entry *entry = &file->entries[i];
        if (entry->data != expected)
            return tensor_error(err, LT_ERR_FORMAT, where, entry->name,
                                entry->data < expected ? "overlaps the tensor before it"
                                                       : "leaves a hole before it");
        expected += entry->size;
    }
    if (expected != data + data_size)
        return lt_fail(err, LT_ERR_FORMAT, "%s: %zu bytes follow the last tensor", where,
                       (size_t)(data + data_size - expected));
    return LT_OK;
}

static lt_status collect_entries(const unsigned char *data, size_t data_size, const char *where,
                                 lt_safetensors *out, lt_err *err)
{
    size_t keys = json_object_size(out->header);
    if (keys > MAX_TENSORS)
        return lt_fail(err, LT_ERR_LIMIT, "%s: %zu tensors; at most %d are supported", where, keys,
                       MAX_TENSORS);
    out->entries = calloc(keys + 1, sizeof *out->entries);
    out->by_name = calloc(keys + 1, sizeof *out->by_name);
    if (!out->entries || !out->by_name)
        return lt_fail_nomem(err, keys * sizeof *out->entries, "the list of tensors");

    const char *key;
    json_t *value;
    json_object_foreach(out->header, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) continue;
        LT_TRY(parse_entry(key, value, where, data, data_size, &out->entries[out->count], err));
        out->count++;
    }
    qsort(out->entries, out->count, sizeof *out->entries, compare_place);
    for (size_t i = 0; i < out->count; i++)
        out->by_name[i] = i;
    qsort_r(out->by_name, out->count, sizeof *out->by_name, compare_name, out->entries);
    return LT_OK;
}

lt_status lt_safetensors_parse(const unsigned char *data, size_t size, const char *where,
                               lt_safetensors *out, lt_err *err)
{
    memset(out, 0, sizeof *out);
    lt_status status;
    size_t header_end = 0;
    LT_TRY_GOTO(status, parse_header(data, size, where, &out->header, &header_end, err), done);
    LT_TRY_GOTO(status, check_metadata(json_object_get(out->header, "__metadata__"), where, err),
                done);
    const unsigned char *body = data + header_end;
    LT_TRY_GOTO(status, collect_entries(body, size - header_end, where, out, err), done);
    LT_TRY_GOTO(status, check_cover(out, body, size - header_end, where, err), done);
    out->path = strdup(where);
    if (!out->path) status = lt_fail_nomem(err, strlen(where) + 1, "a file's name");

done:
    if (status != LT_OK) lt_safetensors_close(out);
    return status;
}

lt_status lt_safetensors_open(const char *path, lt_safetensors *out, lt_err *err)
{
    memset(out, 0, sizeof *out);
    lt_mapped_file map = {0};
    LT_TRY(lt_map_file(path, &map, err));
    lt_status status = lt_safetensors_parse(map.data, map.size, path, out, err);
    if (status == LT_OK)
        out->map = map;
    else
        lt_unmap_file(&map);
    return status;
}

void lt_safetensors_close(lt_safetensors *file)
{
    free(file->path);
    free(file->entries);
    free(file->by_name);
    json_decref(file->header);
    if (file->map.data) lt_unmap_file(&file->map);
    memset(file, 0, sizeof *file);
}

const lt_safetensors_entry *lt_safetensors_find(const lt_safetensors *file, const char *name)
{
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const lt_safetensors_entry *entry = &file->entries[file->by_name[middle]];
        int order = strcmp(entry->name, name);
        if (order == 0) return entry;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const char *lt_safetensors_metadata(const lt_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

/* --- Numbers -----------------------------------------------------------------------------------
 */

lt_status lt_safetensors_read_f32(const lt_safetensors *file, const lt_safetensors_entry *entry,
                                  int64_t first, int64_t count, float *out, lt_err *err)
{
    size_t size = element_bits(entry->dtype) / 8;
    const char *dtype = entry->dtype;
    bool f32 = strcmp(dtype, "F32") == 0, f16 = strcmp(dtype, "F16") == 0;
    bool bf16 = strcmp(dtype, "BF16") == 0, f64 = strcmp(dtype, "F64") == 0;
    if (!f32 && !f16 && !bf16 && !f64)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: tensor \"%.200s\" is of type %s; F32, F16, BF16 and F64 are supported",
                       file->path, entry->name, dtype);
    int64_t total = (int64_t)(entry->size / size);
    if (first < 0 || count < 0 || first > total || count > total - first)
        return tensor_error(err, LT_ERR_USAGE, file->path, entry->name,
                            "elements beyond its end were asked for");
    const unsigned char *from = entry->data + (size_t)first * size;
    if (f32) {
        if (count > 0) memcpy(out, from, (size_t)count * sizeof *out);
        return LT_OK;
    }
    /* the data may lie at any address: memcpy each element */
    for (int64_t i = 0; i < count; i++) {
        if (f64) {
            double wide;
            memcpy(&wide, from + (size_t)i * sizeof wide, sizeof wide);
            out[i] = (float)wide;
        } else {
            uint16_t half;
            memcpy(&half, from + (size_t)i * sizeof half, sizeof half);
            out[i] = f16 ? lt_f16_to_f32(half) : lt_bf16_to_f32(half);
        }
    }
    return LT_OK;
}

void lt_shape_text(int ndim, const int64_t *shape, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < ndim && used < size; i++)
        used +=
            (size_t)snprintf(out + used, size - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (used < size) snprintf(out + used, size - used, "]");
}
