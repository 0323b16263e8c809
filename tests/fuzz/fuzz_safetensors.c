/* Any bytes as a safetensors file: refused, or every tensor can be found and read.
 *
 * The first byte says how to take the rest: 0, it is the whole file; n, it is the header's JSON,
 * and its length goes in front and n bytes of data behind. So mutations need not guess the length.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const lt_safetensors *file, const lt_safetensors_entry *entry)
{
    enum { CHUNK = 64 };
    float values[CHUNK];
    int64_t count = 1;
    for (int i = 0; i < entry->ndim; i++)
        count *= entry->shape[i];
    for (int64_t first = 0; first < count; first += CHUNK)
        if (lt_safetensors_read_f32(file, entry, first, lt_min_i64(CHUNK, count - first), values,
                                    NULL) != LT_OK)
            return;
}

static void check_file(const uint8_t *data, size_t size)
{
    lt_safetensors file;
    lt_err err = {0};
    lt_status status = lt_safetensors_parse(data, size, "fuzz", &file, &err);
    if (status != LT_OK) {
        if (!err.message[0]) abort(); /* a refusal says why */
        return;
    }
    const unsigned char *end = NULL;
    size_t total = 0;
    for (size_t i = 0; i < file.count; i++) {
        const lt_safetensors_entry *entry = &file.entries[i];
        if (lt_safetensors_find(&file, entry->name) != entry) abort();
        read_all(&file, entry);
        total += entry->size;
        end = entry->data + entry->size;
    }
    if ((end && end != data + size) || total > size) abort();
    lt_safetensors_metadata(&file, "format");
    lt_safetensors_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    size_t body = data[0], length = 8 + size - 1 + body;
    if (body == 0) {
        check_file(data + 1, size - 1);
        return 0;
    }
    uint8_t *file = calloc(length, 1);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)(size - 1) >> (8 * i));
    memcpy(file + 8, data + 1, size - 1);
    check_file(file, length);
    free(file);
    return 0;
}
