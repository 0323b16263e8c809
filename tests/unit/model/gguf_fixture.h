/* The golden files of tests/golden/gguf, and a file against a description of one there: shared by
 * the tests of models and of adapters in GGUF. */
#ifndef LT_TEST_GGUF_FIXTURE_H
#define LT_TEST_GGUF_FIXTURE_H

#include "base/json.h"
#include "files.h"
#include "model/formats/gguf.h"
#include "model/formats/quants.h"

static const char *golden_gguf(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/golden/gguf/%s", LATHE_TEST_DIR, name);
    return path;
}

static void check_key(const lt_gguf *file, const char *key, const json_t *wanted)
{
    if (json_is_string(wanted)) {
        const char *text = NULL;
        size_t size = 0;
        OK(lt_gguf_get_string(file, key, &text, &size, err));
        if (size != json_string_length(wanted) ||
            memcmp(text, json_string_value(wanted), size) != 0)
            fail_msg("%s: key %s is another text", file->path, key);
    } else if (json_is_boolean(wanted)) {
        bool value = !json_is_true(wanted);
        OK(lt_gguf_get_bool(file, key, &value, err));
        if (value != json_is_true(wanted)) fail_msg("%s: key %s", file->path, key);
    } else if (json_is_real(wanted)) {
        double value = NAN;
        OK(lt_gguf_get_number(file, key, &value, err));
        if (value != json_real_value(wanted)) fail_msg("%s: key %s is %g", file->path, key, value);
    } else {
        int64_t value = -1;
        OK(lt_gguf_get_int(file, key, 0, UINT32_MAX, &value, err));
        if (value != json_integer_value(wanted))
            fail_msg("%s: key %s is %lld", file->path, key, (long long)value);
    }
}

static void check_described(const char *path, const json_t *wanted, bool any_context)
{
    lt_gguf file;
    const char *name;
    json_t *value;
    OK(lt_gguf_open(path, &file, err));
    json_object_foreach(json_object_get(wanted, "keys"), name, value)
    {
        if (!(any_context && strstr(name, ".context_length"))) check_key(&file, name, value);
    }
    const json_t *tensors = json_object_get(wanted, "tensors");
    assert_int_equal(file.tensor_count, json_object_size(tensors));
    json_object_foreach((json_t *)(uintptr_t)tensors, name, value)
    {
        const lt_gguf_tensor *tensor = lt_gguf_find(&file, name);
        if (!tensor) fail_msg("%s: tensor %s is missing", path, name);
        const json_t *shape = json_array_get(value, 1);
        char hash[LT_HASH_TEXT_SIZE];
        lt_hash_bytes(tensor->data, tensor->size, hash);
        assert_string_equal(lt_gguf_type_name(tensor->type),
                            json_string_value(json_array_get(value, 0)));
        assert_int_equal(tensor->ndim, json_array_size(shape));
        for (int i = 0; i < tensor->ndim; i++)
            assert_int_equal(tensor->shape[i],
                             json_integer_value(json_array_get(shape, (size_t)i)));
        if (strcmp(hash, json_string_value(json_array_get(value, 2))) != 0)
            fail_msg("%s: tensor %s has other values", path, name);
    }
    lt_gguf_close(&file);
}

#endif
