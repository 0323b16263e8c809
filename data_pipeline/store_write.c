/* Writing a dataset's HDF5 file: built in memory, hashed, and written under a temporary name that
 * is made visible when it is whole. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "data_pipeline/store.h"

/* Elements in a chunk: small enough to check and read in pieces, large enough to stay few. */
enum { CHUNK = 1 << 18 };
/* Bytes by which the file in memory grows. */
enum { MEMORY_INCREMENT = 1 << 24 };

const lt_store_count lt_store_counts[LT_STORE_COUNTS] = {
    {"records_read", offsetof(lt_prepare_report, read)},
    {"train_documents", offsetof(lt_prepare_report, train)},
    {"validation_documents", offsetof(lt_prepare_report, validation)},
    {"dropped_too_long", offsetof(lt_prepare_report, dropped_too_long)},
    {"dropped_duplicates", offsetof(lt_prepare_report, dropped_duplicates)},
    {"dropped_near_duplicates", offsetof(lt_prepare_report, dropped_near_duplicates)},
    {"tokens", offsetof(lt_prepare_report, tokens)},
    {"trained_tokens", offsetof(lt_prepare_report, trained_tokens)},
    {"added_special_tokens", offsetof(lt_prepare_report, added_special_tokens)},
    {"longest_document", offsetof(lt_prepare_report, longest)},
};

void lt_store_make_block(char block[LT_STORE_BLOCK_SIZE], uint64_t length, const char *hash)
{
    memset(block, 0, LT_STORE_BLOCK_SIZE);
    snprintf(block, LT_STORE_BLOCK_SIZE, LT_STORE_MAGIC "length %llu\nxxh3-128 %s\n",
             (unsigned long long)length, hash);
}

void lt_hdf5_prepare(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
}

static herr_t first_reason(unsigned n, const H5E_error2_t *error, void *reason)
{
    (void)n;
    snprintf(reason, 256, "%s", error->desc ? error->desc : "");
    return 1; /* the innermost one says most */
}

lt_status lt_hdf5_fail(lt_err *err, lt_status code, const char *path, const char *what)
{
    char reason[256] = "no reason given";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_reason, reason);
    H5Eclear2(H5E_DEFAULT);
    return lt_fail(err, code, "%s: %s: HDF5: %s", path, what, reason);
}

/* --- Pieces: each makes one object and closes all it opened --- */

static bool write_dataset(hid_t parent, const char *name, hid_t file_type, hid_t memory_type,
                          const void *data, size_t count)
{
    /* An empty dataset still needs room for one element to be chunked, as the checksum asks. */
    hsize_t dims = count, max_dims = count ? count : 1;
    hsize_t chunk = max_dims < CHUNK ? max_dims : CHUNK;
    hid_t space = H5Screate_simple(1, &dims, &max_dims);
    hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    bool ok = space >= 0 && properties >= 0 && H5Pset_chunk(properties, 1, &chunk) >= 0 &&
              H5Pset_fletcher32(properties) >= 0 &&
              H5Pset_obj_track_times(properties, false) >= 0; /* same input, same bytes */
    hid_t dataset =
        ok ? H5Dcreate2(parent, name, file_type, space, H5P_DEFAULT, properties, H5P_DEFAULT)
           : H5I_INVALID_HID;
    ok = dataset >= 0;
    if (ok && count) ok = H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    if (dataset >= 0) ok = H5Dclose(dataset) >= 0 && ok;
    if (properties >= 0) H5Pclose(properties);
    if (space >= 0) H5Sclose(space);
    return ok;
}

static bool write_bytes(hid_t parent, const char *name, const char *data, size_t size)
{
    return write_dataset(parent, name, H5T_STD_U8LE, H5T_NATIVE_UINT8, data, size);
}

static bool write_attribute(hid_t object, const char *name, hid_t file_type, hid_t memory_type,
                            const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = space >= 0
                          ? H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT)
                          : H5I_INVALID_HID;
    bool ok = attribute >= 0 && H5Awrite(attribute, memory_type, value) >= 0;
    if (attribute >= 0) ok = H5Aclose(attribute) >= 0 && ok;
    if (space >= 0) H5Sclose(space);
    return ok;
}

static bool write_integer(hid_t object, const char *name, int64_t value)
{
    return write_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

static bool write_text(hid_t object, const char *name, const char *value)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    bool ok = type >= 0 && H5Tset_size(type, strlen(value) + 1) >= 0 &&
              H5Tset_cset(type, H5T_CSET_UTF8) >= 0 &&
              write_attribute(object, name, type, type, value);
    if (type >= 0) H5Tclose(type);
    return ok;
}

static hid_t create_group(hid_t parent, const char *name)
{
    hid_t group = H5I_INVALID_HID, properties = H5Pcreate(H5P_GROUP_CREATE);
    if (properties >= 0 && H5Pset_obj_track_times(properties, false) >= 0)
        group = H5Gcreate2(parent, name, H5P_DEFAULT, properties, H5P_DEFAULT);
    if (properties >= 0) H5Pclose(properties);
    return group;
}

/* --- The parts of the file --- */

static bool write_split(hid_t file, const char *name, const lt_split_data *split, bool wide)
{
    hid_t group = create_group(file, name);
    if (group < 0) return false;
    size_t documents = (size_t)split->count, tokens = (size_t)split->token_count;
    bool ok = write_dataset(group, "tokens", wide ? H5T_STD_U32LE : H5T_STD_U16LE, H5T_NATIVE_INT32,
                            split->tokens, tokens) &&
              write_bytes(group, "loss_mask", (const char *)split->mask, tokens) &&
              write_dataset(group, "offsets", H5T_STD_U64LE, H5T_NATIVE_UINT64, split->offsets,
                            documents + 1) &&
              write_dataset(group, "category", H5T_STD_U32LE, H5T_NATIVE_UINT32, split->category,
                            documents);
    if (ok && split->record_offsets)
        ok = write_bytes(group, "records", split->records, split->record_offsets[documents]) &&
             write_dataset(group, "record_offsets", H5T_STD_U64LE, H5T_NATIVE_UINT64,
                           split->record_offsets, documents + 1);
    return H5Gclose(group) >= 0 && ok;
}

static bool write_attributes(hid_t root, const lt_dataset *dataset)
{
    const lt_prepare_report *report = &dataset->report;
    int32_t stop_id = lt_template_stop_id(report->template_, dataset->tokenizer);
    const char *stop = lt_tokenizer_token(dataset->tokenizer, stop_id);
    bool ok = write_text(root, "format", LT_STORE_FORMAT) &&
              write_integer(root, "version", LT_STORE_VERSION) &&
              write_text(root, "tokenizer_hash", lt_tokenizer_hash(dataset->tokenizer)) &&
              write_text(root, "source_hash", dataset->source_hash) &&
              write_text(root, "template", lt_template_name(report->template_)) &&
              write_text(root, "record_format", lt_record_format_name(report->format)) &&
              write_text(root, "stop_token", stop ? stop : "") &&
              write_integer(root, "max_length", dataset->max_length) &&
              write_integer(root, "seed", (int64_t)dataset->seed);
    for (int i = 0; i < LT_STORE_COUNTS && ok; i++) {
        const char *field = (const char *)report + lt_store_counts[i].offset;
        ok = write_integer(root, lt_store_counts[i].name, *(const int64_t *)field);
    }
    return ok;
}

static bool write_tokenizer(hid_t file, const lt_buffer *json, const lt_buffer *config)
{
    hid_t group = create_group(file, "tokenizer");
    if (group < 0) return false;
    bool ok = write_bytes(group, "tokenizer.json", json->data, json->size) &&
              write_bytes(group, "tokenizer_config.json", config->data, config->size);
    return H5Gclose(group) >= 0 && ok;
}

static lt_status categories_to_json(const lt_dataset *dataset, lt_buffer *out, lt_err *err)
{
    json_t *list = json_array();
    for (size_t i = 0; i < dataset->category_count; i++)
        json_array_append_new(list, json_string(dataset->categories[i]));
    char *text = json_dumps(list, JSON_COMPACT);
    lt_status status =
        text ? lt_buffer_append_text(out, text, err) : lt_fail_nomem(err, 0, "the category names");
    free(text);
    json_decref(list);
    return status;
}

/* --- The file in memory ---
 *
 * HDF5 works in memory and the bytes are written here: when a disk is full HDF5 1.10 does not say
 * so before the close, and can then neither close the file nor give its memory back. The file is
 * only right once it is closed, so the callbacks below keep its memory beyond that.
 * (H5Fget_file_image, of an open file, leaves a wrong checksum behind in the latest format.) */

typedef struct memory_image {
    char *data; /* owned once the file is closed */
} memory_image;

static void *image_allocate(size_t size, H5FD_file_image_op_t operation, void *context)
{
    (void)operation, (void)context;
    return malloc(size);
}

static void *image_copy(void *to, const void *from, size_t size, H5FD_file_image_op_t operation,
                        void *context)
{
    (void)operation, (void)context;
    return memcpy(to, from, size);
}

static void *image_resize(void *data, size_t size, H5FD_file_image_op_t operation, void *context)
{
    (void)operation, (void)context;
    return realloc(data, size);
}

static herr_t image_release(void *data, H5FD_file_image_op_t operation, void *context)
{
    memory_image *image = context;
    if (operation == H5FD_FILE_IMAGE_OP_FILE_CLOSE)
        image->data = data;
    else
        free(data);
    return 0;
}

static void *image_context_copy(void *context)
{
    return context;
}

static herr_t image_context_free(void *context)
{
    (void)context;
    return 0;
}

/* A new file behind a user block that is still zero. When it is closed *image has its bytes. */
static hid_t create_in_memory(memory_image *image)
{
    H5FD_file_image_callbacks_t callbacks = {image_allocate, image_copy,         image_resize,
                                             image_release,  image_context_copy, image_context_free,
                                             image};
    hid_t file = H5I_INVALID_HID;
    hid_t creation = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
    bool ok = creation >= 0 && access >= 0 &&
              H5Pset_userblock(creation, LT_STORE_BLOCK_SIZE) >= 0 &&
              H5Pset_obj_track_times(creation, false) >= 0 &&
              H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST) >= 0 &&
              H5Pset_fapl_core(access, MEMORY_INCREMENT, false) >= 0 &&
              H5Pset_file_image_callbacks(access, &callbacks) >= 0;
    if (ok) file = H5Fcreate("lathe-dataset", H5F_ACC_TRUNC, creation, access);
    if (access >= 0) H5Pclose(access);
    if (creation >= 0) H5Pclose(creation);
    return file;
}

/* Where the file ends: its memory is larger. Version 3 of the superblock has it at byte 28. */
static uint64_t image_end(const char *data)
{
    uint64_t end = 0;
    const unsigned char *field = (const unsigned char *)data + LT_STORE_BLOCK_SIZE + 28;
    for (int i = 7; i >= 0; i--)
        end = end << 8 | field[i];
    return end;
}

static lt_status fill_file(hid_t file, const lt_dataset *dataset, const char *path, lt_err *err)
{
    lt_buffer json = {0}, config = {0}, categories = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_tokenizer_to_json(dataset->tokenizer, &json, &config, err), done);
    LT_TRY_GOTO(status, categories_to_json(dataset, &categories, err), done);
    bool wide = lt_tokenizer_vocab_size(dataset->tokenizer) > UINT16_MAX + 1;
    bool ok = write_attributes(file, dataset) && write_tokenizer(file, &json, &config) &&
              write_bytes(file, "categories", categories.data, categories.size) &&
              write_split(file, "train", &dataset->splits[LT_SPLIT_TRAIN], wide) &&
              write_split(file, "validation", &dataset->splits[LT_SPLIT_VALIDATION], wide);
    if (!ok) status = lt_hdf5_fail(err, LT_ERR_NOMEM, path, "can not be put together");
done:
    lt_buffer_free(&categories);
    lt_buffer_free(&config);
    lt_buffer_free(&json);
    return status;
}

static lt_status write_image(const char *path, char *image, lt_err *err)
{
    char hash[LT_HASH_TEXT_SIZE];
    uint64_t size = image_end(image), length = size - LT_STORE_BLOCK_SIZE;
    lt_new_file out = {0};
    lt_hash_bytes(image + LT_STORE_BLOCK_SIZE, length, hash);
    lt_store_make_block(image, length, hash);
    LT_TRY(lt_new_file_begin(&out, path, err));
    lt_status status = lt_new_file_write(&out, image, size, err);
    if (status == LT_OK) return lt_new_file_commit(&out, err);
    lt_new_file_abort(&out);
    return status;
}

lt_status lt_store_write(const lt_dataset *dataset, const char *path, lt_err *err)
{
    memory_image image = {0};
    lt_hdf5_prepare();
    hid_t file = create_in_memory(&image);
    if (file < 0) return lt_hdf5_fail(err, LT_ERR_NOMEM, path, "can not be put together");
    lt_status status = fill_file(file, dataset, path, err);
    if ((H5Fclose(file) < 0 || !image.data) && status == LT_OK)
        status = lt_hdf5_fail(err, LT_ERR_NOMEM, path, "can not be put together");
    if (status == LT_OK) status = write_image(path, image.data, err);
    free(image.data);
    return status;
}
