/* What a GGUF file is quantised to, and the type of each of its tensors: llama-quantize's choice
 * (llama.cpp, src/llama-quant.cpp), without importance matrix. */
#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "model/formats/gguf_layout.h"
#include "model/formats/quants.h"

/* --- File formats ------------------------------------------------------------------------------
 */

static const struct file_format {
    const char *name;
    lt_gguf_type type; /* of most tensors */
    uint32_t file_type;
    double logit_bound;
} file_formats[] = {
    [LT_GGUF_FILE_F32] = {"f32", LT_GGUF_F32, 0, 1e-5},
    [LT_GGUF_FILE_F16] = {"f16", LT_GGUF_F16, 1, 0.01},
    [LT_GGUF_FILE_BF16] = {"bf16", LT_GGUF_BF16, 32, 0.05},
    [LT_GGUF_FILE_Q8_0] = {"q8_0", LT_GGUF_Q8_0, 7, 0.1},
    [LT_GGUF_FILE_Q5_0] = {"q5_0", LT_GGUF_Q5_0, 8, 0.6},
    [LT_GGUF_FILE_Q4_0] = {"q4_0", LT_GGUF_Q4_0, 2, 0.9},
    [LT_GGUF_FILE_Q4_K_M] = {"q4_k_m", LT_GGUF_Q4_K, 15, 0.8},
    [LT_GGUF_FILE_Q6_K] = {"q6_k", LT_GGUF_Q6_K, 18, 0.3},
};

lt_status lt_gguf_format_parse(const char *name, lt_gguf_format *out, lt_err *err)
{
    const char *names[LT_COUNT_OF(file_formats)];
    for (size_t i = 0; i < LT_COUNT_OF(file_formats); i++) {
        names[i] = file_formats[i].name;
        if (strcmp(names[i], name) != 0) continue;
        *out = (lt_gguf_format)i;
        return LT_OK;
    }
    const char *nearest = lt_nearest_name(name, names, LT_COUNT_OF(names));
    return lt_fail(err, LT_ERR_USAGE,
                   "'%.40s' is not a format of GGUF files%s%s%s; there are f32, f16, bf16, q8_0, "
                   "q6_k, q5_0, q4_k_m and q4_0",
                   name, nearest ? "; did you mean '" : "", nearest ? nearest : "",
                   nearest ? "'?" : "");
}

const char *lt_gguf_format_name(lt_gguf_format format)
{
    return file_formats[format].name;
}

uint32_t lt_gguf_file_type(lt_gguf_format format)
{
    return file_formats[format].file_type;
}

double lt_gguf_logit_bound(lt_gguf_format format)
{
    return file_formats[format].logit_bound;
}

/* --- Types of tensors --------------------------------------------------------------------------
 */

static bool is_named(const lt_gguf_part *part, const char *name)
{
    const char *within =
        strncmp(part->name, "blk.", 4) == 0 ? strchr(part->name + 4, '.') + 1 : part->name;
    return strcmp(within, name) == 0;
}

/* Norms and vectors stay as they are, and so do positions: they are small. */
static bool stays_f32(const lt_gguf_part *part)
{
    return part->param->ndim < 2 || is_named(part, "position_embd.weight");
}

/* The first and the last eighth of the layers, and every third between. */
static bool uses_more_bits(int64_t layer, int64_t layers)
{
    return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

/* llama-quantize has Q5_K for v of models with 80 layers, which share it among many heads; Lathe
 * has no Q5_K and takes the next better. */
static bool is_shared_v(const lt_model_config *config)
{
    return config->num_hidden_layers == 80 &&
           config->num_key_value_heads != config->num_attention_heads;
}

/* Values and what leaves the MLP suffer most. */
static lt_gguf_type q4_k_m_type(const lt_model_config *config, const lt_gguf_part *part)
{
    bool is_v = is_named(part, "attn_v.weight") || is_named(part, "attn_qkv.weight");
    bool is_down = is_named(part, "ffn_down.weight");
    bool more = uses_more_bits(part->param->layer, config->num_hidden_layers);
    return ((is_v || is_down) && more) || (is_v && is_shared_v(config)) ? LT_GGUF_Q6_K
                                                                        : LT_GGUF_Q4_K;
}

static lt_gguf_type wanted_type(const lt_model_config *config, lt_gguf_format format,
                                const lt_gguf_part *part, bool tied)
{
    lt_gguf_type type = file_formats[format].type;
    if (stays_f32(part)) return LT_GGUF_F32;
    if (lt_gguf_block_values(type) == 1) return type;
    if (is_named(part, "output.weight") || (tied && is_named(part, "token_embd.weight"))) {
        if (part->columns % lt_gguf_block_values(type) != 0) return LT_GGUF_Q8_0;
        return type == LT_GGUF_Q8_0 ? type : LT_GGUF_Q6_K;
    }
    return format == LT_GGUF_FILE_Q4_K_M ? q4_k_m_type(config, part) : type;
}

/* Rows have to be whole blocks. */
static lt_gguf_type fall_back(lt_gguf_type type, int64_t columns)
{
    if (columns % lt_gguf_block_values(type) == 0) return type;
    if (type == LT_GGUF_Q4_K) type = LT_GGUF_Q5_0;
    if (type == LT_GGUF_Q6_K) type = LT_GGUF_Q8_0;
    return columns % lt_gguf_block_values(type) == 0 ? type : LT_GGUF_F16;
}

/* The same line for all blocks, once. */
static lt_status note_fall_back(const lt_gguf_part *part, lt_gguf_type wanted, lt_gguf_type taken,
                                lt_buffer *notes, lt_err *err)
{
    lt_status status;
    lt_buffer line = {0};
    bool in_block = strncmp(part->name, "blk.", 4) == 0;
    const char *end = in_block ? strchr(part->name + 4, '.') : part->name;
    LT_TRY_GOTO(status,
                lt_buffer_printf(&line, err,
                                 "%s%s: rows of %lld are not whole blocks of %s: stored as %s\n",
                                 in_block ? "blk.#" : "", end, (long long)part->columns,
                                 lt_gguf_type_name(wanted), lt_gguf_type_name(taken)),
                done);
    if (!strstr(lt_buffer_text(notes), line.data))
        status = lt_buffer_append(notes, line.data, line.size, err);

done:
    lt_buffer_free(&line);
    return status;
}

lt_status lt_gguf_choose_type(const lt_model_config *config, lt_gguf_format format,
                              const lt_gguf_part *part, bool tied, lt_gguf_type *out,
                              lt_buffer *notes, lt_err *err)
{
    lt_gguf_type wanted = wanted_type(config, format, part, tied);
    *out = fall_back(wanted, part->columns);
    return *out == wanted || !notes ? LT_OK : note_fall_back(part, wanted, *out, notes, err);
}
