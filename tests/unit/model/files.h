/* Directories in the test's folder, and safetensors files with something changed in them: shared by
 * the tests of files. */
#ifndef LT_TEST_FILES_H
#define LT_TEST_FILES_H

#include <sys/stat.h>

#include "../folder.h"
#include "golden.h"

/* For groups of tests that want both: this machine's backend and a folder. */
static UNUSED int set_up_files(void **state)
{
    backend = make_backend(NULL);
    return make_folder(state);
}

static UNUSED int tear_down_files(void **state)
{
    free_backend(state);
    return remove_folder(state);
}

/* FOLDER/name, or a file's path in it. One of four static buffers. */
static UNUSED const char *scratch_path(const char *name, const char *file)
{
    static char paths[4][1024];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s%s%s", folder, name, file ? "/" : "", file ? file : "");
    return path;
}

/* FOLDER/name, empty. */
static UNUSED const char *new_directory(const char *name)
{
    const char *path = scratch_path(name, NULL);
    OK(lt_remove_tree(path, err));
    assert_int_equal(mkdir(path, 0777), 0);
    return path;
}

static UNUSED void write_text(const char *name, const char *file, const char *text)
{
    OK(lt_write_file(scratch_path(name, file), text, strlen(text), err));
}

/* --- Edited tensors --------------------------------------------------------------------------- */

/* A copy of a file's tensors, to be edited: names, shapes and data, f32 unless changed. */
typedef struct edited {
    lt_safetensors file;
    lt_safetensors_declaration tensors[64];
    const unsigned char *data[64];
    size_t count;
} edited;

static UNUSED edited edit_file(const char *path)
{
    edited e = {0};
    OK(lt_safetensors_open(path, &e.file, err));
    for (size_t i = 0; i < e.file.count; i++) {
        const lt_safetensors_entry *entry = &e.file.entries[i];
        lt_safetensors_declaration *tensor = &e.tensors[e.count];
        *tensor = (lt_safetensors_declaration){.name = entry->name, .ndim = entry->ndim};
        memcpy(tensor->shape, entry->shape, sizeof tensor->shape);
        e.data[e.count++] = entry->data;
    }
    return e;
}

static UNUSED size_t find_edited(const edited *e, const char *name)
{
    for (size_t i = 0; i < e->count; i++)
        if (strcmp(e->tensors[i].name, name) == 0) return i;
    fail_msg("no tensor %s", name);
    return 0;
}

static UNUSED void add_edited(edited *e, lt_safetensors_declaration tensor, const void *data)
{
    e->tensors[e->count] = tensor;
    e->data[e->count++] = data;
}

static UNUSED void drop_edited(edited *e, const char *name)
{
    size_t i = find_edited(e, name);
    e->count--;
    e->tensors[i] = e->tensors[e->count];
    e->data[i] = e->data[e->count];
}

static UNUSED lt_status give_edited(void *context, const char *name, void *out, lt_err *err)
{
    edited *e = context;
    const lt_safetensors_declaration *tensor = &e->tensors[find_edited(e, name)];
    size_t bytes = lt_dtype_size(tensor->dtype);
    (void)err;
    for (int d = 0; d < tensor->ndim; d++)
        bytes *= (size_t)tensor->shape[d];
    memcpy(out, e->data[tensor - e->tensors], bytes);
    return LT_OK;
}

/* Ends `e`. */
static UNUSED void write_edited(edited *e, const char *path)
{
    OK(lt_safetensors_write(path, e->tensors, e->count, NULL, give_edited, e, err));
    lt_safetensors_close(&e->file);
}

/* Every tensor of one file is in the other, with the same type, shape and bytes. */
static UNUSED void check_same_file(const char *a, const char *b)
{
    lt_safetensors x, y;
    OK(lt_safetensors_open(a, &x, err));
    OK(lt_safetensors_open(b, &y, err));
    assert_int_equal(x.count, y.count);
    for (size_t i = 0; i < x.count; i++) {
        const lt_safetensors_entry *entry = &x.entries[i];
        const lt_safetensors_entry *found = lt_safetensors_find(&y, entry->name);
        if (!found) fail_msg("%s of %s is not in %s", entry->name, a, b);
        assert_string_equal(entry->dtype, found->dtype);
        assert_int_equal(entry->ndim, found->ndim);
        assert_memory_equal(entry->shape, found->shape, sizeof entry->shape);
        if (memcmp(entry->data, found->data, entry->size) != 0)
            fail_msg("%s differs between %s and %s", entry->name, a, b);
    }
    lt_safetensors_close(&x);
    lt_safetensors_close(&y);
}

#endif
