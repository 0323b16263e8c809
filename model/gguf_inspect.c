/* What is in a GGUF file, for people to read. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/formats/gguf_layout.h"
#include "model/formats/quants.h"
#include "model/formats/safetensors.h"
#include "model/inspect.h"

/* --- Key-values --------------------------------------------------------------------------------
 */

/* Long texts (a chat template) and lists (a vocabulary) are only begun. */
enum { MAX_TEXT = 60, MAX_ITEMS = 6 };

static void print_text(const char *text, size_t size, FILE *out)
{
    char start[MAX_TEXT + 1];
    size_t shown = size < MAX_TEXT ? size : MAX_TEXT;
    memcpy(start, text, shown);
    start[shown] = '\0';
    fputc('"', out);
    lt_print_name(start, 0, out);
    fputs(shown < size ? "...\"" : "\"", out);
}

/* Element `i` of a value that is not text. */
static void print_number(const lt_gguf_value *value, uint64_t i, FILE *out)
{
    size_t size = value->size / (size_t)value->count;
    uint64_t bits = 0;
    for (size_t k = size; k-- > 0;)
        bits = bits << 8 | value->data[(size_t)i * size + k];
    int shift = 64 - 8 * (int)size;
    float f32;
    double f64;
    switch (value->element_type) {
    case LT_GGUF_FLOAT32:
        lt_gguf_decode(LT_GGUF_F32, value->data + (size_t)i * size, 1, &f32);
        fprintf(out, "%g", (double)f32);
        return;
    case LT_GGUF_FLOAT64:
        memcpy(&f64, &bits, sizeof f64);
        fprintf(out, "%g", f64);
        return;
    case LT_GGUF_BOOL:
        fputs(bits ? "true" : "false", out);
        return;
    case LT_GGUF_I8:
    case LT_GGUF_I16:
    case LT_GGUF_I32:
    case LT_GGUF_I64:
        fprintf(out, "%" PRId64, (int64_t)(bits << shift) >> shift);
        return;
    default:
        fprintf(out, "%" PRIu64, bits);
    }
}

static void print_value(const lt_gguf_value *value, FILE *out)
{
    const unsigned char *at = value->data;
    const char *text;
    size_t size;
    bool list = value->type == LT_GGUF_ARRAY;
    if (list) fprintf(out, "%" PRIu64 " of [", value->count);
    for (uint64_t i = 0; i < value->count; i++) {
        if (i > 0) fputs(", ", out);
        if (i == MAX_ITEMS) {
            fputs("...", out);
            break;
        }
        if (value->element_type != LT_GGUF_STRING)
            print_number(value, i, out);
        else if (lt_gguf_next_string(value, &at, &text, &size))
            print_text(text, size, out);
    }
    if (list) fputc(']', out);
}

static void print_values(const lt_gguf *file, FILE *out)
{
    for (size_t i = 0; i < file->value_count; i++) {
        fputs("  ", out);
        lt_print_name(file->values[i].key, 40, out);
        fputs("  ", out);
        print_value(&file->values[i], out);
        fputc('\n', out);
    }
}

/* --- Tensors -----------------------------------------------------------------------------------
 */

static int64_t element_count(const lt_gguf_tensor *tensor)
{
    int64_t count = 1;
    for (int i = 0; i < tensor->ndim; i++)
        count *= tensor->shape[i];
    return count;
}

/* Smallest, largest and mean of the values as they are decoded. */
static lt_status print_stats(const lt_gguf_tensor *tensor, FILE *out, lt_err *err)
{
    int64_t columns = tensor->shape[tensor->ndim - 1], rows = element_count(tensor) / columns;
    size_t row_bytes = lt_gguf_row_bytes(tensor->type, columns);
    double low = INFINITY, high = -INFINITY, sum = 0;
    int64_t finite = 0;
    float *row = malloc((size_t)columns * sizeof *row);
    if (!row) return lt_fail_nomem(err, (size_t)columns * sizeof *row, "a row of a tensor");
    for (int64_t r = 0; r < rows; r++) {
        lt_gguf_decode(tensor->type, tensor->data + (size_t)r * row_bytes, columns, row);
        for (int64_t i = 0; i < columns; i++) {
            if (!isfinite(row[i])) continue;
            low = fmin(low, row[i]);
            high = fmax(high, row[i]);
            sum += row[i];
            finite++;
        }
    }
    free(row);
    if (finite > 0)
        fprintf(out, "  min %-12.6g max %-12.6g mean %-12.6g", low, high, sum / (double)finite);
    if (finite < rows * columns) fprintf(out, "  %" PRId64 " not finite", rows * columns - finite);
    return LT_OK;
}

static void print_type(const lt_gguf_tensor *tensor, FILE *out)
{
    const char *name = lt_gguf_type_name(tensor->type);
    if (name)
        fprintf(out, "  %-5s", name);
    else
        fprintf(out, "  #%-4u", (unsigned)tensor->type);
}

static lt_status print_tensors(const lt_gguf *file, bool stats, FILE *out, lt_err *err)
{
    uint64_t elements = 0, bytes = 0;
    int width = 6;
    for (size_t i = 0; i < file->tensor_count; i++)
        width = (int)lt_max_i64(width, (int64_t)strlen(file->tensors[i].name));
    fprintf(out, "  %-*s  %-5s %-16s %12s\n", width, "tensor", "dtype", "shape", "bytes");
    for (size_t i = 0; i < file->tensor_count; i++) {
        const lt_gguf_tensor *tensor = &file->tensors[file->by_name[i]];
        char shape[100];
        lt_shape_text(tensor->ndim, tensor->shape, shape, sizeof shape);
        fputs("  ", out);
        lt_print_name(tensor->name, width, out);
        print_type(tensor, out);
        fprintf(out, " %-16s %12zu", shape, tensor->size);
        if (stats && lt_gguf_type_name(tensor->type)) LT_TRY(print_stats(tensor, out, err));
        fputc('\n', out);
        elements += (uint64_t)element_count(tensor);
        bytes += tensor->size;
    }
    fprintf(out, "  %zu tensors, %" PRIu64 " elements, %" PRIu64 " bytes\n", file->tensor_count,
            elements, bytes);
    return LT_OK;
}

/* --- Files -------------------------------------------------------------------------------------
 */

/* Of what Lathe can not load the file's own words are shown, and why. */
static void print_model(const lt_gguf *file, FILE *out)
{
    lt_err why = {0};
    lt_model_config config;
    int64_t parameters;
    if (lt_gguf_check_model(file, &config, &parameters, &why) != LT_OK) {
        fprintf(out, "not loadable ");
        lt_print_name(why.message, 0, out);
        fputc('\n', out);
        return;
    }
    lt_print_config(&config, out);
    fprintf(out, "parameters   %" PRId64 "\n", parameters);
    lt_model_config_free(&config);
}

lt_status lt_inspect_gguf(const char *path, bool stats, FILE *out, lt_err *err)
{
    lt_gguf file;
    LT_TRY(lt_gguf_open(path, &file, err));
    fprintf(out, "gguf         %s\n", path);
    print_model(&file, out);
    print_values(&file, out);
    lt_status status = print_tensors(&file, stats, out, err);
    lt_gguf_close(&file);
    return status;
}
