#include "model/formats/layout.h"

#include <string.h>

#include "base/checked.h"
#include "model/formats/numbers.h"

lt_param_layout lt_param_layout_of(const lt_model_config *config, const lt_param *param)
{
    lt_param_layout layout = {.row = lt_family_find_row(config->family, param->name),
                              .layer = param->layer,
                              .rows = param->shape[0],
                              .columns = param->ndim == 2 ? param->shape[1] : 1,
                              .parts = 1,
                              .part_rows = {param->shape[0]},
                              .heads = config->num_attention_heads,
                              .head_dim = config->head_dim};
    if (layout.row->layout != LT_LAYOUT_PARTS) return layout;

    int64_t heads = config->num_attention_heads, kv_heads = config->num_key_value_heads;
    bool is_qkv = layout.row->files[2] != NULL; /* else gate and up */
    const int64_t qkv[] = {heads * config->head_dim, kv_heads * config->head_dim,
                           kv_heads * config->head_dim};
    const int64_t gate_up[] = {config->intermediate_size, config->intermediate_size, 0};
    layout.parts = is_qkv ? 3 : 2;
    memcpy(layout.part_rows, is_qkv ? qkv : gate_up, sizeof layout.part_rows);
    return layout;
}

void lt_layout_file_name(const lt_param_layout *layout, int part, char *name)
{
    lt_family_expand(layout->row->files[part], layout->layer, name, LT_FILE_NAME_SIZE);
}

int lt_layout_file_shape(const lt_param_layout *layout, const lt_param *param, int part,
                         int64_t shape[2])
{
    bool transposed = layout->row->layout == LT_LAYOUT_TRANSPOSED;
    shape[0] = transposed ? layout->columns : layout->part_rows[part];
    shape[1] = transposed ? layout->rows : layout->columns;
    return param->ndim;
}

void lt_layout_place(const lt_param_layout *layout, int64_t row, int *part, int64_t *file_row)
{
    *part = 0;
    *file_row = row;
    if (layout->row->layout == LT_LAYOUT_PER_HEAD) {
        /* [q; k; v] x heads x head_dim -> heads x [q; k; v] x head_dim */
        int64_t width = layout->heads * layout->head_dim;
        int64_t which = row / width, head = row % width / layout->head_dim;
        *file_row = (head * 3 + which) * layout->head_dim + row % layout->head_dim;
        return;
    }
    while (*file_row >= layout->part_rows[*part])
        *file_row -= layout->part_rows[(*part)++];
}

int64_t lt_layout_chunk_rows(const lt_param_layout *layout)
{
    enum { ELEMENTS = 1 << 18 }; /* 1 MiB of f32 */
    return lt_max_i64(1, ELEMENTS / layout->columns);
}

/* Rows from `row` on, at most `count`, that lie together in one part. */
static int64_t run_length(const lt_param_layout *layout, int64_t row, int64_t count)
{
    int part, next_part;
    int64_t place, next_place, run = 1;
    lt_layout_place(layout, row, &part, &place);
    for (; run < count; run++) {
        lt_layout_place(layout, row + run, &next_part, &next_place);
        if (next_part != part || next_place != place + run) break;
    }
    return run;
}

/* File rows are the columns here: read a strip of each and turn it. */
static lt_status read_transposed(const lt_param_layout *layout, const lt_safetensors *file,
                                 const lt_safetensors_entry *entry, int64_t first, int64_t count,
                                 float *out, lt_err *err)
{
    enum { STRIP = 256, TILE = 16 }; /* of so many columns, for the same cache lines of `out` */
    float strips[TILE][STRIP];
    int64_t columns = layout->columns;
    for (int64_t start = 0; start < count; start += STRIP) {
        int64_t width = lt_min_i64(STRIP, count - start);
        for (int64_t column = 0; column < columns; column += TILE) {
            int64_t height = lt_min_i64(TILE, columns - column);
            for (int64_t k = 0; k < height; k++)
                LT_TRY(lt_safetensors_read_f32(file, entry,
                                               (column + k) * layout->rows + first + start, width,
                                               strips[k], err));
            for (int64_t i = 0; i < width; i++)
                for (int64_t k = 0; k < height; k++)
                    out[(start + i) * columns + column + k] = strips[k][i];
        }
    }
    return LT_OK;
}

lt_status lt_layout_read(const lt_param_layout *layout, const lt_safetensors *const *files,
                         const lt_safetensors_entry *const *entries, int64_t first, int64_t count,
                         float *out, lt_err *err)
{
    if (layout->row->layout == LT_LAYOUT_TRANSPOSED)
        return read_transposed(layout, files[0], entries[0], first, count, out, err);
    int64_t columns = layout->columns;
    for (int64_t done = 0; done < count;) {
        int part;
        int64_t place, run = run_length(layout, first + done, count - done);
        lt_layout_place(layout, first + done, &part, &place);
        LT_TRY(lt_safetensors_read_f32(files[part], entries[part], place * columns, run * columns,
                                       out + done * columns, err));
        done += run;
    }
    return LT_OK;
}

const void *lt_layout_in_place(const lt_param_layout *layout,
                               const lt_safetensors_entry *const *entries, lt_dtype dtype,
                               int64_t first, int64_t count, int64_t *run)
{
    int part;
    int64_t place;
    if (layout->row->layout == LT_LAYOUT_TRANSPOSED) return NULL;
    *run = run_length(layout, first, count);
    lt_layout_place(layout, first, &part, &place);
    const char *stored = entries[part]->dtype;
    bool same = (dtype == LT_F32 && strcmp(stored, "F32") == 0) ||
                (dtype == LT_BF16 && strcmp(stored, "BF16") == 0);
    size_t offset = (size_t)(place * layout->columns) * lt_dtype_size(dtype);
    return same ? entries[part]->data + offset : NULL;
}

void lt_layout_write(const lt_param_layout *layout, int64_t first, int64_t count,
                     const float *values, lt_dtype dtype, void *out)
{
    size_t size = lt_dtype_size(dtype);
    int64_t columns = layout->columns;
    if (layout->row->layout == LT_LAYOUT_TRANSPOSED) {
        enum { STRIP = 256 };
        float strip[STRIP];
        for (int64_t start = 0; start < count; start += STRIP) {
            int64_t width = lt_min_i64(STRIP, count - start);
            for (int64_t column = 0; column < columns; column++) {
                for (int64_t i = 0; i < width; i++)
                    strip[i] = values[(start + i) * columns + column];
                int64_t place = column * layout->rows + first + start;
                lt_numbers_from_f32(strip, width, dtype, (char *)out + (size_t)place * size);
            }
        }
        return;
    }
    for (int64_t done = 0; done < count;) {
        int part;
        int64_t place, run = run_length(layout, first + done, count - done);
        lt_layout_place(layout, first + done, &part, &place);
        lt_numbers_from_f32(values + done * columns, run * columns, dtype,
                            (char *)out + (size_t)(place * columns) * size);
        done += run;
    }
}
