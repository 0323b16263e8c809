/* llama.cpp's names for the rows of the parameter table, and where their rows lie: gguf-py's
 * tensor_mapping.py and the conversions of convert_hf_to_gguf.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/formats/gguf_layout.h"
#include "model/formats/layout.h"
#include "model/formats/numbers.h"

/* --- Architectures -----------------------------------------------------------------------------
 */

static const struct architecture {
    const lt_family *family;
    const char *name;
} architectures[] = {
    /* the first family of a name is the one that reads it */
    {&lt_family_gpt2, "gpt2"},     {&lt_family_gpt_neox, "gptneox"}, {&lt_family_llama, "llama"},
    {&lt_family_mistral, "llama"}, {&lt_family_qwen2, "qwen2"},      {&lt_family_qwen3, "qwen3"},
};

const char *lt_gguf_architecture(const lt_family *family)
{
    for (size_t i = 0; i < LT_COUNT_OF(architectures); i++)
        if (architectures[i].family == family) return architectures[i].name;
    return NULL;
}

const lt_family *lt_gguf_family(const char *architecture)
{
    for (size_t i = 0; i < LT_COUNT_OF(architectures); i++)
        if (strcmp(architectures[i].name, architecture) == 0) return architectures[i].family;
    return NULL;
}

/* --- Names -------------------------------------------------------------------------------------
 */

/* Rows without their ".weight" or ".bias"; the tensors of those that lie in one, or in several. */
static const struct tensor_name {
    const char *row, *whole, *parts[LT_MAX_PARTS];
} tensor_names[] = {
    {"embed_tokens", "token_embd", {0}},
    {"embed_positions", "position_embd", {0}},
    {"layers.#.attention.qkv", "blk.#.attn_qkv", {"blk.#.attn_q", "blk.#.attn_k", "blk.#.attn_v"}},
    {"layers.#.attention.out", "blk.#.attn_output", {0}},
    {"layers.#.attention.q_norm", "blk.#.attn_q_norm", {0}},
    {"layers.#.attention.k_norm", "blk.#.attn_k_norm", {0}},
    {"layers.#.mlp.gate_up", NULL, {"blk.#.ffn_gate", "blk.#.ffn_up"}},
    {"layers.#.mlp.up", "blk.#.ffn_up", {0}},
    {"layers.#.mlp.down", "blk.#.ffn_down", {0}},
    {"layers.#.attention_norm", "blk.#.attn_norm", {0}},
    {"layers.#.mlp_norm", "blk.#.ffn_norm", {0}},
    {"final_norm", "output_norm", {0}},
    {"lm_head", "output", {0}},
};

static const struct tensor_name *find_name(const char *row)
{
    const char *end = strrchr(row, '.');
    for (size_t i = 0; i < LT_COUNT_OF(tensor_names); i++)
        if (strlen(tensor_names[i].row) == (size_t)(end - row) &&
            strncmp(tensor_names[i].row, row, (size_t)(end - row)) == 0)
            return &tensor_names[i];
    return NULL;
}

/* q and k of the architecture whose rotary embedding turns neighbours. */
static bool turns_neighbours(const lt_model_config *config, const char *row, int part)
{
    return strncmp(row, "layers.#.attention.qkv", strlen("layers.#.attention.qkv")) == 0 &&
           part < 2 && strcmp(lt_gguf_architecture(config->family), "llama") == 0;
}

int lt_gguf_parts_of(const lt_model_config *config, const lt_param *param,
                     lt_gguf_part out[LT_MAX_PARTS])
{
    lt_param_layout layout = lt_param_layout_of(config, param);
    const char *row = layout.row->row;
    const struct tensor_name *names = find_name(row);
    int64_t first_row = 0;
    for (int part = 0; part < layout.parts; part++) {
        char pattern[LT_GGUF_NAME_SIZE];
        snprintf(pattern, sizeof pattern, "%s%s",
                 layout.parts > 1 ? names->parts[part] : names->whole, strrchr(row, '.'));
        out[part] = (lt_gguf_part){.param = param,
                                   .first_row = first_row,
                                   .rows = layout.part_rows[part],
                                   .columns = layout.columns};
        if (turns_neighbours(config, row, part)) out[part].turned = config->head_dim;
        lt_family_expand(pattern, param->layer, out[part].name, sizeof out[part].name);
        first_row += layout.part_rows[part];
    }
    return layout.parts;
}

/* --- Rows --------------------------------------------------------------------------------------
 */

int64_t lt_gguf_file_row(const lt_gguf_part *part, int64_t row)
{
    if (part->turned == 0) return row;
    int64_t half = part->turned / 2, within = row % part->turned;
    return row - within + within % half * 2 + within / half;
}

/* Canonical rows [first, first + count) of the part, as they are. */
static lt_status download_rows(const lt_backend *backend, const lt_gguf_part *part, int64_t first,
                               int64_t count, float *out, lt_err *err)
{
    lt_dtype dtype = part->param->dtype;
    size_t size = lt_dtype_size(dtype);
    int64_t elements = count * part->columns;
    size_t bytes = (size_t)elements * size;
    const char *from = (const char *)part->param->weight.data +
                       (size_t)((part->first_row + first) * part->columns) * size;
    if (dtype == LT_F32) return backend->download(backend, out, from, bytes, err);
    void *staged = malloc(bytes + 1);
    if (!staged) return lt_fail_nomem(err, bytes, "converting weights");
    lt_status status = backend->download(backend, staged, from, bytes, err);
    if (status == LT_OK) lt_numbers_to_f32(staged, elements, dtype, out);
    free(staged);
    return status;
}

/* Whole heads are fetched, and their rows put where the file wants them. */
static lt_status gather_turned(const lt_backend *backend, const lt_gguf_part *part, int64_t first,
                               int64_t count, float *out, lt_err *err)
{
    int64_t head = part->turned, columns = part->columns;
    int64_t start = first / head * head, end = (first + count + head - 1) / head * head;
    size_t bytes = (size_t)((end - start) * columns) * sizeof *out;
    float *heads = malloc(bytes + 1);
    if (!heads) return lt_fail_nomem(err, bytes, "converting weights");
    lt_status status = download_rows(backend, part, start, end - start, heads, err);
    for (int64_t row = start; status == LT_OK && row < end; row++) {
        int64_t place = lt_gguf_file_row(part, row) - first;
        if (place >= 0 && place < count)
            memcpy(out + place * columns, heads + (row - start) * columns,
                   (size_t)columns * sizeof *out);
    }
    free(heads);
    return status;
}

lt_status lt_gguf_gather(const lt_backend *backend, const lt_gguf_part *part, int64_t first,
                         int64_t count, float *out, lt_err *err)
{
    return part->turned > 0 ? gather_turned(backend, part, first, count, out, err)
                            : download_rows(backend, part, first, count, out, err);
}
