/* Reading a dataset's HDF5 file.
 *
 * Three walls: the hash of the whole file is right before HDF5 sees it (1.10 returns wrong data or
 * crashes on flipped bits); the schema is fixed, and every object must have just the type, shape
 * and filter that lt_store_write gives it; every number read is checked before it is used. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "data_pipeline/store.h"

typedef struct reader {
    const char *path;
    hid_t file;
    uint64_t file_size;
} reader;

static lt_status bad(const reader *r, const char *name, const char *why, lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: %s: %s; make the dataset again with 'lathe prepare'",
                   r->path, name, why);
}

/* --- The user block --- */

static lt_status check_block(const char *path, uint64_t *file_size, char hash[LT_HASH_TEXT_SIZE],
                             lt_err *err)
{
    lt_mapped_file map = {0};
    LT_TRY(lt_map_file(path, &map, err));
    lt_status status = LT_OK;
    unsigned long long length = 0;
    char expected[LT_STORE_BLOCK_SIZE];
    const size_t magic = strlen(LT_STORE_MAGIC);
    if (map.size < LT_STORE_BLOCK_SIZE || memcmp(map.data, LT_STORE_MAGIC, magic) != 0) {
        status = lt_fail(err, LT_ERR_FORMAT,
                         "%s: not a dataset made by 'lathe prepare' (or one whose beginning was "
                         "damaged)",
                         path);
        goto done;
    }
    memcpy(expected, map.data, sizeof expected);
    expected[sizeof expected - 1] = '\0';
    if (sscanf(expected + magic, "length %llu", &length) != 1 ||
        length != map.size - LT_STORE_BLOCK_SIZE) {
        status =
            lt_fail(err, LT_ERR_FORMAT,
                    "%s: the file has %zu bytes after its header, which speaks of %llu: it was "
                    "cut short or added to; make or copy it again",
                    path, map.size - LT_STORE_BLOCK_SIZE, length);
        goto done;
    }
    lt_hash_bytes(map.data + LT_STORE_BLOCK_SIZE, (size_t)length, hash);
    lt_store_make_block(expected, length, hash);
    if (memcmp(expected, map.data, sizeof expected) != 0)
        status = lt_fail(err, LT_ERR_FORMAT,
                         "%s: its hash is not the one in its header: the file was changed or "
                         "damaged; make or copy it again",
                         path);
    *file_size = map.size;
done:
    lt_unmap_file(&map);
    return status;
}

/* --- Objects --- */

/* Only hard links: nothing in the file may point out of it. */
static bool is_hard_link(hid_t parent, const char *name)
{
    H5L_info_t info;
    return H5Lget_info(parent, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

/* One-dimensional, chunked, and no filter but the checksum. */
static bool has_our_layout(hid_t dataset, hsize_t *count)
{
    hid_t space = H5Dget_space(dataset), properties = H5Dget_create_plist(dataset);
    unsigned flags;
    bool ok =
        space >= 0 && properties >= 0 && H5Sget_simple_extent_type(space) == H5S_SIMPLE &&
        H5Sget_simple_extent_ndims(space) == 1 &&
        H5Sget_simple_extent_dims(space, count, NULL) == 1 &&
        H5Pget_layout(properties) == H5D_CHUNKED && H5Pget_nfilters(properties) == 1 &&
        H5Pget_filter2(properties, 0, &flags, NULL, NULL, 0, NULL, NULL) == H5Z_FILTER_FLETCHER32;
    if (properties >= 0) H5Pclose(properties);
    if (space >= 0) H5Sclose(space);
    return ok;
}

static bool has_type(hid_t dataset, hid_t wanted)
{
    hid_t type = H5Dget_type(dataset);
    bool same = type >= 0 && H5Tequal(type, wanted) > 0;
    if (type >= 0) H5Tclose(type);
    return same;
}

/* What an array may be in the file, and is in memory. */
typedef struct array_type {
    hid_t file, alternative; /* alternative: also fine; equal to `file` where there is none */
    hid_t memory;
    size_t size; /* of an element in memory */
} array_type;

/* Reads a whole array. *out: [count] and a zero element after it (text is NUL-terminated); the
 * caller frees it. `expected` is -1 or the count it must have. */
static lt_status read_array(const reader *r, const char *name, array_type type, int64_t expected,
                            void **out, int64_t *out_count, lt_err *err)
{
    lt_status status = LT_OK;
    hsize_t count = 0;
    size_t bytes;
    void *data = NULL;
    hid_t dataset =
        is_hard_link(r->file, name) ? H5Dopen2(r->file, name, H5P_DEFAULT) : H5I_INVALID_HID;
    if (dataset < 0) return bad(r, name, "is missing", err);
    if (!has_our_layout(dataset, &count) ||
        (!has_type(dataset, type.file) && !has_type(dataset, type.alternative))) {
        status = bad(r, name, "has another type or layout than it should", err);
    } else if (count > r->file_size || (expected >= 0 && count != (hsize_t)expected)) {
        /* uncompressed: an element can not be smaller than a byte of the file */
        status = bad(r, name, "has another size than it should", err);
    } else if (!lt_mul_size((size_t)count + 1, type.size, &bytes) || !(data = calloc(1, bytes))) {
        status = lt_fail_nomem(err, ((unsigned long long)count + 1) * type.size, name);
    } else if (count && H5Dread(dataset, type.memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
        status = lt_hdf5_fail(err, LT_ERR_FORMAT, r->path, name);
    }
    H5Dclose(dataset);
    if (status != LT_OK) {
        free(data);
        return status;
    }
    *out = data;
    *out_count = (int64_t)count;
    return LT_OK;
}

static array_type bytes_type(void)
{
    return (array_type){H5T_STD_U8LE, H5T_STD_U8LE, H5T_NATIVE_UINT8, 1};
}

static array_type offsets_type(void)
{
    return (array_type){H5T_STD_U64LE, H5T_STD_U64LE, H5T_NATIVE_UINT64, sizeof(uint64_t)};
}

static array_type category_type(void)
{
    return (array_type){H5T_STD_U32LE, H5T_STD_U32LE, H5T_NATIVE_UINT32, sizeof(uint32_t)};
}

static array_type tokens_type(void)
{
    return (array_type){H5T_STD_U16LE, H5T_STD_U32LE, H5T_NATIVE_INT32, sizeof(int32_t)};
}

/* --- Attributes of the root --- */

static bool is_scalar(hid_t attribute)
{
    hid_t space = H5Aget_space(attribute);
    bool scalar = space >= 0 && H5Sget_simple_extent_type(space) == H5S_SCALAR;
    if (space >= 0) H5Sclose(space);
    return scalar;
}

static lt_status read_integer(const reader *r, const char *name, int64_t *out, lt_err *err)
{
    hid_t attribute = H5Aopen(r->file, name, H5P_DEFAULT);
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : H5I_INVALID_HID;
    bool ok = type >= 0 && H5Tequal(type, H5T_STD_I64LE) > 0 && is_scalar(attribute) &&
              H5Aread(attribute, H5T_NATIVE_INT64, out) >= 0;
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return ok ? LT_OK : bad(r, name, "attribute is missing or not an integer", err);
}

/* Into out[size], NUL-terminated. */
static lt_status read_text(const reader *r, const char *name, char *out, size_t size, lt_err *err)
{
    hid_t attribute = H5Aopen(r->file, name, H5P_DEFAULT);
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : H5I_INVALID_HID;
    bool ok = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
              H5Tget_size(type) <= size && is_scalar(attribute);
    memset(out, 0, size);
    ok = ok && H5Aread(attribute, type, out) >= 0 && memchr(out, '\0', size);
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return ok ? LT_OK : bad(r, name, "attribute is missing or not a text", err);
}

static lt_status read_attributes(const reader *r, lt_dataset *dataset, char *tokenizer_hash,
                                 lt_err *err)
{
    char text[256];
    int64_t value = 0;
    lt_prepare_report *report = &dataset->report;
    LT_TRY(read_text(r, "format", text, sizeof text, err));
    LT_TRY(read_integer(r, "version", &value, err));
    if (strcmp(text, LT_STORE_FORMAT) != 0 || value != LT_STORE_VERSION)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: is '%s' version %lld; this program reads '%s' version %d", r->path,
                       text, (long long)value, LT_STORE_FORMAT, LT_STORE_VERSION);
    LT_TRY(read_text(r, "template", text, sizeof text, err));
    LT_TRY(lt_template_parse(text, &report->template_, err));
    LT_TRY(read_text(r, "record_format", text, sizeof text, err));
    LT_TRY(lt_record_format_parse(text, &report->format, err));
    if (report->format == LT_FORMAT_AUTO) return bad(r, "record_format", "is 'auto'", err);
    LT_TRY(read_text(r, "tokenizer_hash", tokenizer_hash, LT_HASH_TEXT_SIZE, err));
    LT_TRY(read_text(r, "source_hash", dataset->source_hash, LT_HASH_TEXT_SIZE, err));
    LT_TRY(read_integer(r, "max_length", &dataset->max_length, err));
    LT_TRY(read_integer(r, "seed", &value, err));
    dataset->seed = (uint64_t)value;
    for (int i = 0; i < LT_STORE_COUNTS; i++) {
        char *field = (char *)report + lt_store_counts[i].offset;
        LT_TRY(read_integer(r, lt_store_counts[i].name, (int64_t *)field, err));
    }
    return LT_OK;
}

/* --- The parts --- */

static lt_status read_tokenizer(const reader *r, lt_dataset *dataset, const char *tokenizer_hash,
                                lt_err *err)
{
    void *json = NULL, *config = NULL;
    int64_t json_size = 0, config_size = 0;
    lt_status status;
    LT_TRY_GOTO(
        status,
        read_array(r, "/tokenizer/tokenizer.json", bytes_type(), -1, &json, &json_size, err), done);
    LT_TRY_GOTO(status,
                read_array(r, "/tokenizer/tokenizer_config.json", bytes_type(), -1, &config,
                           &config_size, err),
                done);
    LT_TRY_GOTO(status,
                lt_tokenizer_parse(json, (size_t)json_size, config_size ? config : NULL,
                                   (size_t)config_size, r->path, &dataset->tokenizer, err),
                done);
    if (strcmp(tokenizer_hash, lt_tokenizer_hash(dataset->tokenizer)) != 0)
        status = bad(r, "tokenizer_hash", "is not that of the tokenizer in the file", err);
done:
    free(config);
    free(json);
    return status;
}

static lt_status read_categories(const reader *r, lt_dataset *dataset, lt_err *err)
{
    void *text = NULL;
    int64_t size = 0;
    json_t *list = NULL;
    LT_TRY(read_array(r, "/categories", bytes_type(), -1, &text, &size, err));
    lt_status status = lt_json_parse(text, (size_t)size, r->path, &list, err);
    free(text);
    if (status != LT_OK) return status;
    size_t count = json_array_size(list);
    dataset->categories = calloc(count + 1, sizeof *dataset->categories);
    if (!dataset->categories) status = lt_fail_nomem(err, count * sizeof(char *), "categories");
    for (size_t i = 0; i < count && status == LT_OK; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        dataset->categories[i] = name ? strdup(name) : NULL;
        if (!name)
            status = bad(r, "/categories", "is not a list of names", err);
        else if (!dataset->categories[i])
            status = lt_fail_nomem(err, strlen(name), "a category");
        else
            dataset->category_count++;
    }
    json_decref(list);
    return status;
}

/* offsets: [count + 1], must rise from 0 to `total`; by at least `smallest` each time. */
static bool offsets_are_right(const uint64_t *offsets, int64_t count, uint64_t total,
                              uint64_t smallest)
{
    if (offsets[0] != 0 || offsets[count] != total) return false;
    for (int64_t i = 0; i < count; i++) {
        if (offsets[i + 1] > total || offsets[i + 1] < offsets[i] ||
            offsets[i + 1] - offsets[i] < smallest)
            return false;
    }
    return true;
}

static lt_status check_split(const reader *r, const char *name, const lt_dataset *dataset,
                             const lt_split_data *split, lt_err *err)
{
    int64_t vocabulary = lt_tokenizer_vocab_size(dataset->tokenizer);
    if (!offsets_are_right(split->offsets, split->count, (uint64_t)split->token_count, 1))
        return bad(r, name, "offsets do not rise from 0 to the number of tokens", err);
    for (int64_t i = 0; i < split->token_count; i++) {
        if (split->tokens[i] < 0 || split->tokens[i] >= vocabulary)
            return bad(r, name, "holds a token that its tokenizer does not have", err);
        if (split->mask[i] > 1) return bad(r, name, "loss_mask is neither 0 nor 1", err);
    }
    for (int64_t i = 0; i < split->count; i++) {
        if (split->category[i] != LT_NO_CATEGORY && split->category[i] >= dataset->category_count)
            return bad(r, name, "names a category that is not in the list", err);
    }
    return LT_OK;
}

/* Reads `group`/`name` into *out. */
static lt_status read_member(const reader *r, const char *group, const char *name, array_type type,
                             int64_t expected, void **out, int64_t *count, lt_err *err)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%s", group, name);
    return read_array(r, path, type, expected, out, count, err);
}

static lt_status read_split(const reader *r, const char *group, lt_dataset *dataset,
                            lt_split_data *split, lt_err *err)
{
    void *data = NULL;
    int64_t count = 0;
    LT_TRY(read_member(r, group, "tokens", tokens_type(), -1, &data, &split->token_count, err));
    split->tokens = data;
    LT_TRY(
        read_member(r, group, "loss_mask", bytes_type(), split->token_count, &data, &count, err));
    split->mask = data;
    LT_TRY(read_member(r, group, "offsets", offsets_type(), -1, &data, &count, err));
    split->offsets = data;
    split->count = count - 1;
    if (split->count < 0) return bad(r, group, "offsets is empty", err);
    LT_TRY(read_member(r, group, "category", category_type(), split->count, &data, &count, err));
    split->category = data;
    return check_split(r, group, dataset, split, err);
}

static lt_status read_records(const reader *r, lt_split_data *split, lt_err *err)
{
    void *data = NULL;
    int64_t size = 0, count = 0;
    LT_TRY(read_array(r, "/validation/records", bytes_type(), -1, &data, &size, err));
    split->records = data;
    LT_TRY(read_array(r, "/validation/record_offsets", offsets_type(), split->count + 1, &data,
                      &count, err));
    split->record_offsets = data;
    if (!offsets_are_right(split->record_offsets, split->count, (uint64_t)size, 1))
        return bad(r, "/validation/record_offsets", "do not rise from 0 to the end", err);
    return LT_OK;
}

/* A group must be a hard link too; the arrays in it are checked when they are read. */
static lt_status check_groups(const reader *r, lt_err *err)
{
    const char *const groups[] = {"/train", "/validation", "/tokenizer"};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (!is_hard_link(r->file, groups[i])) return bad(r, groups[i], "is missing", err);
    }
    return LT_OK;
}

static lt_status read_everything(const reader *r, lt_dataset *dataset, lt_err *err)
{
    char tokenizer_hash[LT_HASH_TEXT_SIZE];
    lt_split_data *train = &dataset->splits[LT_SPLIT_TRAIN];
    lt_split_data *validation = &dataset->splits[LT_SPLIT_VALIDATION];
    LT_TRY(read_attributes(r, dataset, tokenizer_hash, err));
    LT_TRY(check_groups(r, err));
    LT_TRY(read_tokenizer(r, dataset, tokenizer_hash, err));
    LT_TRY(read_categories(r, dataset, err));
    LT_TRY(read_split(r, "/train", dataset, train, err));
    LT_TRY(read_split(r, "/validation", dataset, validation, err));
    LT_TRY(read_records(r, validation, err));
    if (dataset->report.train != train->count || dataset->report.validation != validation->count)
        return bad(r, "train_documents, validation_documents", "are not the documents there", err);
    return LT_OK;
}

lt_status lt_dataset_open(const char *path, lt_dataset **out, lt_err *err)
{
    reader r = {.path = path, .file = H5I_INVALID_HID};
    lt_dataset *dataset = calloc(1, sizeof *dataset);
    if (!dataset) return lt_fail_nomem(err, sizeof *dataset, "a dataset");
    lt_status status;
    hid_t access = H5I_INVALID_HID;
    LT_TRY_GOTO(status, check_block(path, &r.file_size, dataset->hash, err), done);
    lt_hdf5_prepare();
    access = H5Pcreate(H5P_FILE_ACCESS);
    /* The file never changes once it has its name, so locks, which some network file systems lack,
     * would only be in the way. */
    if (access < 0 || H5Pset_file_locking(access, false, true) < 0 ||
        (r.file = H5Fopen(path, H5F_ACC_RDONLY, access)) < 0) {
        status = lt_hdf5_fail(err, LT_ERR_FORMAT, path, "can not be opened");
        goto done;
    }
    status = read_everything(&r, dataset, err);
done:
    if (r.file >= 0) H5Fclose(r.file);
    if (access >= 0) H5Pclose(access);
    if (status != LT_OK) {
        lt_dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return LT_OK;
}
