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
    lt_buffer *notes; /* a line for each kind of tensor whose shape its type does not allow, and
                         what it became; or NULL */
} lt_gguf_export;

/* A model without adapters (merge first). LT_ERR_UNSUPPORTED, saying which, for what llama.cpp does
 * not compute (biases or scaling that its architecture lacks). */
lt_status lt_model_save_gguf(const lt_model *model, const char *path, const lt_gguf_export *export_,
                             lt_err *err);
/* The model's one LoRA adapter as an adapter file (F32, F16 or BF16). DoRA, saved modules and what
 * else llama.cpp does not take are LT_ERR_UNSUPPORTED. */
lt_status lt_adapter_save_gguf(const lt_model *model, const lt_adapter *adapter, const char *path,
                               const lt_gguf_export *export_, lt_err *err);

/* Weights decoded to the backend's real. lt_model_load does this by itself for a file that is GGUF.
 */
lt_status lt_model_load_gguf(const char *path, const lt_backend *backend, lt_dtype matrices,
                             lt_model **out, lt_err *err);

/* The largest relative rounding error of a weight that a format makes is not small: what a
 * comparison of logits may show. Relative to the logits' size (root of squares), for lathe export
 * --verify. */
double lt_gguf_logit_bound(lt_gguf_format format);

#endif
