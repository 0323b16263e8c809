/* GGUF files: the reader, the numbers, and the configuration and names of the model they may hold.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/checked.h"
#include "model/formats/gguf_layout.h"
#include "model/formats/quants.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const lt_gguf_tensor *tensor)
{
    enum { CHUNK = 256 };
    float values[CHUNK];
    if (!lt_gguf_type_name(tensor->type)) return;
    int64_t block = lt_gguf_block_values(tensor->type), count = 1;
    for (int i = 0; i < tensor->ndim; i++)
        count *= tensor->shape[i];
    for (int64_t first = 0; first < count; first += CHUNK)
        lt_gguf_decode(tensor->type,
                       tensor->data + (size_t)(first / block) * lt_gguf_block_bytes(tensor->type),
                       lt_min_i64(CHUNK, count - first), values);
}

static void check_value(const lt_gguf *file, const lt_gguf_value *value)
{
    const unsigned char *at = value->data;
    const char *text;
    size_t size;
    int64_t integer;
    uint64_t strings = 0;
    if (lt_gguf_value_of(file, value->key) != value) abort();
    lt_gguf_get_int(file, value->key, INT64_MIN, INT64_MAX, &integer, NULL);
    while (lt_gguf_next_string(value, &at, &text, &size))
        strings++;
    if (value->element_type == LT_GGUF_STRING &&
        (strings != value->count || at != value->data + value->size))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lt_gguf file;
    lt_err err = {0};
    lt_model_config config;
    int64_t parameters;
    if (lt_gguf_parse(data, size, "fuzz", &file, &err) != LT_OK) {
        if (!err.message[0]) abort(); /* a refusal says why */
        return 0;
    }
    for (size_t i = 0; i < file.value_count; i++)
        check_value(&file, &file.values[i]);
    for (size_t i = 0; i < file.tensor_count; i++) {
        const lt_gguf_tensor *tensor = &file.tensors[i];
        if (lt_gguf_find(&file, tensor->name) != tensor) abort();
        if (tensor->data < data || tensor->data + tensor->size > data + size) abort();
        read_all(tensor);
    }
    if (lt_gguf_check_model(&file, &config, &parameters, &err) == LT_OK)
        lt_model_config_free(&config);
    else if (!err.message[0])
        abort();
    lt_gguf_close(&file);
    return 0;
}
