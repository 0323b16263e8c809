/* Models and LoRA adapters as GGUF, the files of llama.cpp: names, key-values and layouts of its
 * convert_hf_to_gguf.py and convert_lora_to_gguf.py, in both directions.
 *
 * What is text (tokenizer, chat template) is not known here: the caller adds those key-values. */
#ifndef LT_GGUF_MODEL_H
#define LT_GGUF_MODEL_H

#include "model/formats/gguf.h"
#include "model/model.h"

/* llama.cpp's names for what a whole file is quantised to. */
typedef enum lt_gguf_format {
    LT_GGUF_FILE_F32,
    LT_GGUF_FILE_F16,
    LT_GGUF_FILE_BF16,
    LT_GGUF_FILE_Q8_0,
    LT_GGUF_FILE_Q5_0,
    LT_GGUF_FILE_Q4_0,
    LT_GGUF_FILE_Q4_K_M, /* Q4_K, with Q6_K for some of attn_v, ffn_down and for the output, as
                            llama-quantize chooses */
    LT_GGUF_FILE_Q6_K,
} lt_gguf_format;

lt_status lt_gguf_format_parse(const char *name, lt_gguf_format *out, lt_err *err); /* "q4_k_m" */
const char *lt_gguf_format_name(lt_gguf_format format);

typedef struct lt_gguf_export {
    lt_gguf_format format;
    const char *name;         /* general.name */
    const lt_gguf_keys *more; /* key-values of the tokenizer and the like; or NULL */
    lt_buffer *notes; /* a line for each thing that the file has otherwise than was asked for: a
                         kind of tensor whose shape its type does not allow, a sliding window that
                         becomes the context's length, ...; or NULL */
} lt_gguf_export;

/* A model without adapters (merge first). LT_ERR_UNSUPPORTED, saying which, for what llama.cpp does
 * not compute (biases or scaling that its architecture lacks). */
lt_status lt_model_save_gguf(const lt_model *model, const char *path, const lt_gguf_export *export_,
                             lt_err *err);
/* The model's one LoRA adapter as an adapter file (F32, F16 or BF16). DoRA, saved modules and what
 * else llama.cpp does not take are LT_ERR_UNSUPPORTED. */
lt_status lt_adapter_save_gguf(const lt_model *model, const lt_adapter *adapter, const char *path,
                               const lt_gguf_export *export_, lt_err *err);

/* Reads such a file back: every product of the adapter is in it, with its scale, within the type's
 * rounding, and nothing else; LT_ERR_NUMERIC or LT_ERR_FORMAT naming the tensor. */
lt_status lt_adapter_check_gguf(const lt_model *model, const lt_adapter *adapter, const char *path,
                                lt_err *err);

/* Weights decoded to the backend's real. lt_model_load_with does this by itself for a file that is
 * GGUF. */
lt_status lt_model_load_gguf(const char *path, const lt_backend *backend,
                             const lt_model_load_settings *settings, lt_model **out, lt_err *err);

/* The configuration alone; lt_model_config_load does this by itself for a file that is GGUF. */
lt_status lt_gguf_config_load(const char *path, lt_model_config *out, lt_err *err);

/* `lathe inspect` on a GGUF file: its key-values and tensors; of a model that Lathe can load also
 * what lt_inspect_model shows. */
lt_status lt_inspect_gguf(const char *path, bool stats, FILE *out, lt_err *err);

/* How far the logits of a model that is read back from a format may be from the original's: root of
 * the mean squared difference, divided by that of the logits. Trained models stay well below (Q8_0
 * 0.01, Q4_0 0.1); the bound lets models of random weights pass, which amplify rounding, and is
 * still below what any mistake in names or order makes (about 1.4). For lathe export --verify. */
double lt_gguf_logit_bound(lt_gguf_format format);

#endif
