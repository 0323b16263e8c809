/* The GGUF reader: counts, lengths and offsets of untrusted bytes over data that is used in place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "model/formats/quants.h"

enum {
    MAX_KEYS = 1 << 16,
    MAX_TENSORS = 1 << 20,
    MAX_KEY = (1 << 16) - 1,
    MIN_KEY_BYTES = 8 + 1 + 4 + 1,            /* of a key-value: length, key, type, value */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8, /* of a tensor's entry, with one dimension */
    MAX_ALIGNMENT = 1 << 20,
    DEFAULT_ALIGNMENT = 32,
};

static const char magic[4] = "GGUF";

/* What is left of the header, and where we are for messages. */
typedef struct cursor {
    const unsigned char *at;
    size_t left;
    const char *where;
} cursor;

/* --- Bytes -------------------------------------------------------------------------------------
 */

static uint64_t load_uint(const unsigned char *at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;)
        value = value << 8 | at[i];
    return value;
}

static lt_status cut_short(const cursor *c, const char *what, lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: the file ends within %s: cut short, or damaged",
                   c->where, what);
}

static lt_status take(cursor *c, uint64_t size, const unsigned char **out, const char *what,
                      lt_err *err)
{
    if (size > c->left) return cut_short(c, what, err);
    *out = c->at;
    c->at += size;
    c->left -= (size_t)size;
    return LT_OK;
}

static lt_status take_uint(cursor *c, size_t bytes, uint64_t *out, const char *what, lt_err *err)
{
    const unsigned char *at = NULL;
    LT_TRY(take(c, bytes, &at, what, err));
    *out = load_uint(at, bytes);
    return LT_OK;
}

static lt_status take_string(cursor *c, const unsigned char **text, size_t *size, const char *what,
                             lt_err *err)
{
    uint64_t length = 0;
    LT_TRY(take_uint(c, 8, &length, what, err));
    LT_TRY(take(c, length, text, what, err));
    *size = (size_t)length;
    return LT_OK;
}

/* --- Key-values --------------------------------------------------------------------------------
 */

/* 0: a type without a size of its own, or none at all. */
static size_t value_bytes(uint64_t type)
{
    static const unsigned char bytes[] = {
        [LT_GGUF_U8] = 1,  [LT_GGUF_I8] = 1,  [LT_GGUF_U16] = 2,     [LT_GGUF_I16] = 2,
        [LT_GGUF_U32] = 4, [LT_GGUF_I32] = 4, [LT_GGUF_FLOAT32] = 4, [LT_GGUF_BOOL] = 1,
        [LT_GGUF_U64] = 8, [LT_GGUF_I64] = 8, [LT_GGUF_FLOAT64] = 8,
    };
    return type < sizeof bytes ? bytes[type] : 0;
}

static lt_status key_error(const cursor *c, const lt_gguf_value *value, const char *what,
                           lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: key \"%.100s\" %s", c->where, value->key, what);
}

static lt_status take_elements(cursor *c, lt_gguf_value_type type, lt_gguf_value *value,
                               lt_err *err)
{
    const unsigned char *at = NULL;
    size_t size = value_bytes(type), bytes;
    if (type == LT_GGUF_STRING) {
        for (uint64_t i = 0; i < value->count; i++) {
            size_t length = 0;
            LT_TRY(take_string(c, &at, &length, "a string", err));
        }
        return LT_OK;
    }
    if (size == 0) return key_error(c, value, "has a type that is not known", err);
    if (!lt_mul_size(size, (size_t)value->count, &bytes)) return cut_short(c, "an array", err);
    LT_TRY(take(c, bytes, &at, "a value", err));
    if (type != LT_GGUF_BOOL) return LT_OK;
    for (size_t i = 0; i < bytes; i++)
        if (at[i] > 1) return key_error(c, value, "is a bool that is neither 0 nor 1", err);
    return LT_OK;
}

static lt_status take_value(cursor *c, lt_gguf_value *value, lt_err *err)
{
    uint64_t type = 0;
    LT_TRY(take_uint(c, 4, &type, "a type", err));
    if (type > LT_GGUF_FLOAT64) return key_error(c, value, "has a type that is not known", err);
    value->type = value->element_type = (lt_gguf_value_type)type;
    value->count = 1;
    if (type == LT_GGUF_ARRAY) {
        LT_TRY(take_uint(c, 4, &type, "a type", err));
        if (type == LT_GGUF_ARRAY) return key_error(c, value, "is an array of arrays", err);
        if (type > LT_GGUF_FLOAT64)
            return key_error(c, value, "is an array of a type that is not known", err);
        value->element_type = (lt_gguf_value_type)type;
        LT_TRY(take_uint(c, 8, &value->count, "an array's length", err));
    }
    value->data = c->at;
    LT_TRY(take_elements(c, value->element_type, value, err));
    value->size = (size_t)(c->at - value->data);
    return LT_OK;
}

static lt_status take_key(cursor *c, lt_gguf_value *value, lt_err *err)
{
    const unsigned char *text = NULL;
    size_t size = 0;
    LT_TRY(take_string(c, &text, &size, "a key", err));
    if (size == 0 || size > MAX_KEY || memchr(text, 0, size))
        return lt_fail(err, LT_ERR_FORMAT, "%s: a key must have 1 to %d bytes, none of them 0",
                       c->where, MAX_KEY);
    value->key = strndup((const char *)text, size);
    return value->key ? LT_OK : lt_fail_nomem(err, size, "a key");
}

static int compare_keys(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static lt_status check_unique_keys(const lt_gguf *file, const char *where, lt_err *err)
{
    const char **keys = calloc(file->value_count + 1, sizeof *keys);
    if (!keys) return lt_fail_nomem(err, file->value_count * sizeof *keys, "the list of keys");
    lt_status status = LT_OK;
    for (size_t i = 0; i < file->value_count; i++)
        keys[i] = file->values[i].key;
    qsort(keys, file->value_count, sizeof *keys, compare_keys);
    for (size_t i = 1; status == LT_OK && i < file->value_count; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            status =
                lt_fail(err, LT_ERR_FORMAT, "%s: key \"%.100s\" is there twice", where, keys[i]);
    free(keys);
    return status;
}

static lt_status take_values(cursor *c, uint64_t count, lt_gguf *out, lt_err *err)
{
    if (count > MAX_KEYS)
        return lt_fail(err, LT_ERR_LIMIT, "%s: %llu keys; at most %d are supported", c->where,
                       (unsigned long long)count, MAX_KEYS);
    if (count > c->left / MIN_KEY_BYTES) return cut_short(c, "the keys", err);
    out->values = calloc((size_t)count + 1, sizeof *out->values);
    if (!out->values) return lt_fail_nomem(err, count * sizeof *out->values, "the list of keys");
    for (uint64_t i = 0; i < count; i++) {
        lt_gguf_value *value = &out->values[out->value_count++];
        LT_TRY(take_key(c, value, err));
        LT_TRY(take_value(c, value, err));
    }
    return check_unique_keys(out, c->where, err);
}

/* --- Tensors -----------------------------------------------------------------------------------
 */

static lt_status tensor_error(const cursor *c, const lt_gguf_tensor *tensor, const char *what,
                              lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: tensor \"%s\" %s", c->where, tensor->name, what);
}

static lt_status take_name(cursor *c, lt_gguf_tensor *tensor, lt_err *err)
{
    const unsigned char *text = NULL;
    size_t size = 0;
    LT_TRY(take_string(c, &text, &size, "a tensor's name", err));
    if (size == 0 || size >= LT_GGUF_NAME_SIZE || memchr(text, 0, size))
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: a tensor's name must have 1 to %d bytes, none of them 0", c->where,
                       LT_GGUF_NAME_SIZE - 1);
    memcpy(tensor->name, text, size);
    return LT_OK;
}

static lt_status take_shape(cursor *c, lt_gguf_tensor *tensor, lt_err *err)
{
    uint64_t dims = 0, extent = 0, elements = 1;
    LT_TRY(take_uint(c, 4, &dims, "a tensor's shape", err));
    if (dims < 1 || dims > LT_GGUF_MAX_DIMS)
        return tensor_error(c, tensor, "does not have 1 to 4 dimensions", err);
    tensor->ndim = (int)dims;
    for (int i = tensor->ndim; i-- > 0;) {
        LT_TRY(take_uint(c, 8, &extent, "a tensor's shape", err));
        if (extent == 0 || __builtin_mul_overflow(elements, extent, &elements) ||
            elements > INT64_MAX / 8)
            return tensor_error(c, tensor, "has a dimension of 0, or is larger than any file", err);
        tensor->shape[i] = (int64_t)extent;
    }
    return LT_OK;
}

/* Bytes that shape and type ask for; 0 where the type is not one of Lathe's. */
static lt_status measure(const cursor *c, lt_gguf_tensor *tensor, lt_err *err)
{
    int64_t columns = tensor->shape[tensor->ndim - 1];
    if (!lt_gguf_type_name(tensor->type)) return LT_OK;
    if (columns % lt_gguf_block_values(tensor->type) != 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: tensor \"%s\": rows of %lld are not whole blocks of %s", c->where,
                       tensor->name, (long long)columns, lt_gguf_type_name(tensor->type));
    tensor->size = lt_gguf_row_bytes(tensor->type, columns);
    for (int i = 0; i < tensor->ndim - 1; i++)
        tensor->size *= (size_t)tensor->shape[i]; /* at most 4 bytes an element: no overflow */
    return LT_OK;
}

/* *offset: where its data begins, counted from the data's start. */
static lt_status take_tensor(cursor *c, uint64_t alignment, lt_gguf_tensor *tensor,
                             uint64_t *offset, lt_err *err)
{
    uint64_t type = 0;
    LT_TRY(take_name(c, tensor, err));
    LT_TRY(take_shape(c, tensor, err));
    LT_TRY(take_uint(c, 4, &type, "a tensor's type", err));
    LT_TRY(take_uint(c, 8, offset, "a tensor's offset", err));
    tensor->type = (lt_gguf_type)type;
    LT_TRY(measure(c, tensor, err));
    if (*offset % alignment != 0)
        return tensor_error(c, tensor, "does not begin at a multiple of the alignment", err);
    return LT_OK;
}

static lt_status place_tensor(const cursor *data, lt_gguf_tensor *tensor, uint64_t offset,
                              lt_err *err)
{
    if (offset > data->left || tensor->size > data->left - offset)
        return tensor_error(data, tensor, "ends behind the end of the file: cut short", err);
    tensor->data = data->at + offset;
    return LT_OK;
}

static int compare_names(const void *a, const void *b, void *tensors)
{
    const lt_gguf_tensor *list = tensors;
    return strcmp(list[*(const size_t *)a].name, list[*(const size_t *)b].name);
}

static int compare_places(const void *a, const void *b, void *tensors)
{
    const lt_gguf_tensor *list = tensors;
    const lt_gguf_tensor *x = &list[*(const size_t *)a], *y = &list[*(const size_t *)b];
    return x->data != y->data ? (x->data < y->data ? -1 : 1) : 0;
}

/* In order of their data no tensor begins before the one before it ends. */
static lt_status check_overlap(const cursor *c, const lt_gguf *file, lt_err *err)
{
    for (size_t i = 1; i < file->tensor_count; i++) {
        const lt_gguf_tensor *before = &file->tensors[file->by_name[i - 1]];
        const lt_gguf_tensor *tensor = &file->tensors[file->by_name[i]];
        if (tensor->data < before->data + before->size || tensor->data == before->data)
            return lt_fail(err, LT_ERR_FORMAT, "%s: tensors \"%s\" and \"%s\" overlap", c->where,
                           before->name, tensor->name);
    }
    return LT_OK;
}

static lt_status check_unique_names(const cursor *c, const lt_gguf *file, lt_err *err)
{
    for (size_t i = 1; i < file->tensor_count; i++) {
        const char *name = file->tensors[file->by_name[i]].name;
        if (strcmp(file->tensors[file->by_name[i - 1]].name, name) == 0)
            return lt_fail(err, LT_ERR_FORMAT, "%s: tensor \"%s\" is there twice", c->where, name);
    }
    return LT_OK;
}

static lt_status take_tensors(cursor *c, const unsigned char *start, uint64_t count,
                              uint64_t alignment, lt_gguf *out, lt_err *err)
{
    if (count > MAX_TENSORS)
        return lt_fail(err, LT_ERR_LIMIT, "%s: %llu tensors; at most %d are supported", c->where,
                       (unsigned long long)count, MAX_TENSORS);
    if (count > c->left / MIN_TENSOR_BYTES) return cut_short(c, "the tensors' names", err);
    lt_status status = LT_OK;
    uint64_t *offsets = calloc((size_t)count + 1, sizeof *offsets);
    out->tensors = calloc((size_t)count + 1, sizeof *out->tensors);
    out->by_name = calloc((size_t)count + 1, sizeof *out->by_name);
    if (!offsets || !out->tensors || !out->by_name) {
        status = lt_fail_nomem(err, count * sizeof *out->tensors, "the list of tensors");
        goto done;
    }
    for (; out->tensor_count < count; out->tensor_count++) {
        size_t i = out->tensor_count;
        out->by_name[i] = i;
        LT_TRY_GOTO(status, take_tensor(c, alignment, &out->tensors[i], &offsets[i], err), done);
    }
    /* the data begins at the next multiple of the alignment; a file without tensors may end here */
    size_t padding = (size_t)(-(uint64_t)(c->at - start) % alignment);
    const unsigned char *skipped = NULL;
    if (count > 0) LT_TRY_GOTO(status, take(c, padding, &skipped, "its header", err), done);
    for (size_t i = 0; i < count; i++)
        LT_TRY_GOTO(status, place_tensor(c, &out->tensors[i], offsets[i], err), done);
    qsort_r(out->by_name, count, sizeof *out->by_name, compare_places, out->tensors);
    LT_TRY_GOTO(status, check_overlap(c, out, err), done);
    qsort_r(out->by_name, count, sizeof *out->by_name, compare_names, out->tensors);
    status = check_unique_names(c, out, err);

done:
    free(offsets);
    return status;
}

/* --- Files -------------------------------------------------------------------------------------
 */

static lt_status take_version(cursor *c, lt_err *err)
{
    uint64_t version = 0;
    const unsigned char *start = NULL;
    LT_TRY(take(c, sizeof magic, &start, "its first bytes", err));
    if (memcmp(start, magic, sizeof magic) != 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: not a GGUF file", c->where);
    LT_TRY(take_uint(c, 4, &version, "its first bytes", err));
    if (version != 0 && (version & 0xffff) == 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: a big-endian GGUF file is not supported",
                       c->where);
    /* 2 has the same layout */
    if (version != 2 && version != 3)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: version %llu of GGUF is not supported (2 and 3 are)", c->where,
                       (unsigned long long)version);
    return LT_OK;
}

static lt_status read_alignment(const lt_gguf *file, uint64_t *out, lt_err *err)
{
    int64_t alignment = DEFAULT_ALIGNMENT;
    LT_TRY(lt_gguf_get_int(file, "general.alignment", 1, MAX_ALIGNMENT, &alignment, err));
    if ((alignment & (alignment - 1)) != 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: general.alignment %lld is not a power of two",
                       file->path, (long long)alignment);
    *out = (uint64_t)alignment;
    return LT_OK;
}

lt_status lt_gguf_parse(const unsigned char *data, size_t size, const char *where, lt_gguf *out,
                        lt_err *err)
{
    memset(out, 0, sizeof *out);
    lt_status status = LT_OK;
    cursor c = {data, size, where};
    uint64_t tensors = 0, keys = 0, alignment = DEFAULT_ALIGNMENT;
    out->path = strdup(where);
    if (!out->path) return lt_fail_nomem(err, strlen(where) + 1, "a file's name");
    LT_TRY_GOTO(status, take_version(&c, err), done);
    LT_TRY_GOTO(status, take_uint(&c, 8, &tensors, "its first bytes", err), done);
    LT_TRY_GOTO(status, take_uint(&c, 8, &keys, "its first bytes", err), done);
    LT_TRY_GOTO(status, take_values(&c, keys, out, err), done);
    LT_TRY_GOTO(status, read_alignment(out, &alignment, err), done);
    status = take_tensors(&c, data, tensors, alignment, out, err);

done:
    if (status != LT_OK) lt_gguf_close(out);
    return status;
}

bool lt_is_gguf_file(const char *path)
{
    char start[sizeof magic] = {0};
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) return false;
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    size_t got = fread(start, 1, sizeof start, file);
    fclose(file);
    return got == sizeof start && memcmp(start, magic, sizeof start) == 0;
}

lt_status lt_gguf_open(const char *path, lt_gguf *out, lt_err *err)
{
    memset(out, 0, sizeof *out);
    lt_mapped_file map = {0};
    LT_TRY(lt_map_file(path, &map, err));
    lt_status status = lt_gguf_parse(map.data, map.size, path, out, err);
    if (status == LT_OK)
        out->map = map;
    else
        lt_unmap_file(&map);
    return status;
}

void lt_gguf_close(lt_gguf *file)
{
    for (size_t i = 0; i < file->value_count; i++)
        free(file->values[i].key);
    free(file->values);
    free(file->tensors);
    free(file->by_name);
    free(file->path);
    if (file->map.data) lt_unmap_file(&file->map);
    memset(file, 0, sizeof *file);
}

/* --- Looking up --------------------------------------------------------------------------------
 */

const lt_gguf_tensor *lt_gguf_find(const lt_gguf *file, const char *name)
{
    size_t low = 0, high = file->tensor_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const lt_gguf_tensor *tensor = &file->tensors[file->by_name[middle]];
        int order = strcmp(tensor->name, name);
        if (order == 0) return tensor;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const lt_gguf_value *lt_gguf_value_of(const lt_gguf *file, const char *key)
{
    for (size_t i = 0; i < file->value_count; i++)
        if (strcmp(file->values[i].key, key) == 0) return &file->values[i];
    return NULL;
}

static lt_status wrong_type(const lt_gguf *file, const char *key, const char *wanted, lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: key \"%s\" is not %s", file->path, key, wanted);
}

lt_status lt_gguf_get_int(const lt_gguf *file, const char *key, int64_t min, int64_t max,
                          int64_t *out, lt_err *err)
{
    const lt_gguf_value *value = lt_gguf_value_of(file, key);
    if (!value) return LT_OK;
    uint64_t bits = value->type <= LT_GGUF_FLOAT64 && value->size <= 8
                        ? load_uint(value->data, value->size)
                        : 0;
    int64_t number;
    switch (value->type) {
    case LT_GGUF_U8:
    case LT_GGUF_U16:
    case LT_GGUF_U32:
    case LT_GGUF_U64:
        number = bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
        break;
    case LT_GGUF_I8:
        number = (int8_t)bits;
        break;
    case LT_GGUF_I16:
        number = (int16_t)bits;
        break;
    case LT_GGUF_I32:
        number = (int32_t)bits;
        break;
    case LT_GGUF_I64:
        number = (int64_t)bits;
        break;
    default:
        return wrong_type(file, key, "an integer", err);
    }
    if (number < min || number > max)
        return lt_fail(err, LT_ERR_FORMAT, "%s: key \"%s\" is %lld; it must be %lld to %lld",
                       file->path, key, (long long)number, (long long)min, (long long)max);
    *out = number;
    return LT_OK;
}

lt_status lt_gguf_get_number(const lt_gguf *file, const char *key, double *out, lt_err *err)
{
    const lt_gguf_value *value = lt_gguf_value_of(file, key);
    if (!value) return LT_OK;
    if (value->type == LT_GGUF_FLOAT32) {
        uint32_t bits = (uint32_t)load_uint(value->data, 4);
        float number;
        memcpy(&number, &bits, sizeof number);
        *out = (double)number;
        return LT_OK;
    }
    if (value->type != LT_GGUF_FLOAT64) return wrong_type(file, key, "a number", err);
    uint64_t bits = load_uint(value->data, 8);
    memcpy(out, &bits, sizeof *out);
    return LT_OK;
}

lt_status lt_gguf_get_bool(const lt_gguf *file, const char *key, bool *out, lt_err *err)
{
    const lt_gguf_value *value = lt_gguf_value_of(file, key);
    if (!value) return LT_OK;
    if (value->type != LT_GGUF_BOOL) return wrong_type(file, key, "a bool", err);
    *out = *value->data != 0;
    return LT_OK;
}

lt_status lt_gguf_get_string(const lt_gguf *file, const char *key, const char **text, size_t *size,
                             lt_err *err)
{
    const lt_gguf_value *value = lt_gguf_value_of(file, key);
    if (!value) return LT_OK;
    if (value->type != LT_GGUF_STRING) return wrong_type(file, key, "a string", err);
    const unsigned char *at = value->data;
    lt_gguf_next_string(value, &at, text, size);
    return LT_OK;
}

bool lt_gguf_next_string(const lt_gguf_value *value, const unsigned char **at, const char **text,
                         size_t *size)
{
    if (value->element_type != LT_GGUF_STRING || *at >= value->data + value->size) return false;
    *size = (size_t)load_uint(*at, 8);
    *text = (const char *)*at + 8;
    *at += 8 + *size;
    return true;
}
