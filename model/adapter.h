/* Adapters: small trained additions to a frozen model, in the files of PEFT
 * (https://github.com/huggingface/peft).
 *
 *   lora       W x + s B A x for chosen linear modules (Hu et al., 2021), s = alpha / r or, with
 *              rslora, alpha / sqrt(r) (Kalajdzievski, 2023); with dora the rows of the sum have
 *              trained lengths (Liu et al., 2024)
 *   prefix     keys and values of virtual tokens in every layer (Li and Liang, 2021)
 *   prompt     embeddings of virtual tokens in front of the text (Lester et al., 2021)
 *   p-tuning   the same, made by a small network while training (Liu et al., 2021)
 *
 * An adapter's tensors are further rows of its model's parameter table. A model can have several;
 * passes over batches use the active one, decoding chooses for each row of the cache. */
#ifndef LT_ADAPTER_H
#define LT_ADAPTER_H

#include "base/options.h"
#include "model/model.h"

typedef enum lt_adapter_kind {
    LT_ADAPTER_LORA,
    LT_ADAPTER_PREFIX,
    LT_ADAPTER_PROMPT,
    LT_ADAPTER_P_TUNING
} lt_adapter_kind;

typedef enum lt_prompt_init {
    LT_PROMPT_RANDOM, /* normal, variance 1 */
    LT_PROMPT_VOCAB,  /* embeddings of tokens drawn at random */
    LT_PROMPT_TEXT,   /* embeddings of prompt_init_ids, repeated or cut to the number of tokens */
} lt_prompt_init;

/* What adapter_config.json says, and what a fresh adapter needs to know. Fields of other kinds are
 * not looked at. Everything in it is owned. */
typedef struct lt_adapter_config {
    lt_adapter_kind kind;
    char *base_model; /* base_model_name_or_path */

    /* LoRA. A module is adapted when a name of `target_modules` is its path's end ("q_proj",
     * "attn.c_proj"), or when `target_pattern` matches the whole path; and, with
     * `layers_to_transform`, when its block is listed. */
    int64_t r;
    double lora_alpha, lora_dropout;
    bool use_rslora, use_dora;
    lt_string_list target_modules, exclude_modules, modules_to_save;
    char *target_pattern; /* or NULL */
    int64_t *layers_to_transform;
    size_t layers_to_transform_count;
    json_t *rank_pattern, *alpha_pattern; /* objects, or NULL: r and alpha of single modules */

    /* Prefix, prompt and p-tuning. */
    int64_t num_virtual_tokens;
    bool prefix_projection;      /* prefix: the table comes from a network while training */
    int64_t encoder_hidden_size; /* of that network, and of p-tuning's; 0: PEFT's default */
    lt_prompt_init prompt_init;
    char *prompt_init_text, *tokenizer_name; /* for the record; may be NULL */
    lt_ids prompt_init_ids;

    bool trained; /* read from a file: its networks have been flattened to their result */
} lt_adapter_config;

void lt_adapter_config_free(lt_adapter_config *config);
/* adapter_config.json of a PEFT directory, older and newer spellings. What Lathe does not have
 * (other methods, biases, LoRA on embeddings, layer replication, ...) is LT_ERR_UNSUPPORTED and
 * named. */
lt_status lt_adapter_config_load(const char *directory, lt_adapter_config *out, lt_err *err);
bool lt_is_adapter_directory(const char *path);

/* Fills target_modules from what a user writes: "all-linear", "attention", or names separated by
 * commas, which must be modules of this family (else LT_ERR_USAGE with a did-you-mean). The same
 * for modules_to_save: "embed", "lm_head" or the family's names for them. */
lt_status lt_adapter_choose_targets(const lt_family *family, const char *text,
                                    lt_adapter_config *config, lt_err *err);
lt_status lt_adapter_choose_saved(const lt_family *family, const char *text,
                                  lt_adapter_config *config, lt_err *err);

/* A fresh adapter, its model frozen and it alone trained: initialised as PEFT does (LoRA: A uniform
 * within 1 / sqrt(in), B zero), a pure function of the seed. Copies `config`. It becomes the active
 * one. LT_ERR_USAGE: a target that finds nothing, a rank larger than the matrix, no virtual token,
 * more of them than the model sees. */
lt_status lt_adapter_create(lt_model *model, const lt_adapter_config *config, const char *name,
                            uint64_t seed, lt_adapter **out, lt_err *err);
/* One from a PEFT directory, frozen as all else. Every tensor must be there, fit and belong. Two of
 * one name are LT_ERR_USAGE. The first one becomes the active one. */
lt_status lt_adapter_load(lt_model *model, const char *directory, const char *name,
                          lt_adapter **out, lt_err *err);
/* Reads an adapter's trained state back into a fresh one of the same shape: lt_adapter_save's files
 * with `state`. */
lt_status lt_adapter_restore(lt_model *model, lt_adapter *adapter, const char *directory,
                             lt_err *err);

/* adapter_config.json and adapter_model.safetensors (as `dtype`) into an existing directory.
 * `state`: also prompt_encoder.safetensors, the network that a prefix or prompt comes from, which
 * PEFT's format leaves out and training needs to go on. */
lt_status lt_adapter_save(const lt_model *model, const lt_adapter *adapter, const char *directory,
                          lt_dtype dtype, bool state, lt_err *err);

/* Puts the adapter into the model's weights: f32 sums, one rounding. A model that it makes unlike
 * its embedding's twin is untied. The adapter is gone afterwards, and must be the only one. A
 * prefix or prompt can not be merged: LT_ERR_UNSUPPORTED with what to do instead. */
lt_status lt_adapter_merge(lt_model *model, lt_adapter *adapter, lt_err *err);

const char *lt_adapter_name(const lt_adapter *adapter);
const char *lt_adapter_kind_name(lt_adapter_kind kind); /* "lora", ...: what --method takes */
const lt_adapter_config *lt_adapter_config_of(const lt_adapter *adapter);
lt_adapter *lt_adapter_find(const lt_model *model, const char *name); /* NULL: none */
int64_t lt_adapter_virtual_tokens(const lt_adapter *adapter);         /* NULL: 0 */
/* The number type that most of the loaded file's tensors have. */
lt_dtype lt_adapter_file_dtype(const lt_adapter *adapter);

/* Appends a line for each reason why vLLM or llama.cpp would not serve the adapter as it is. */
lt_status lt_adapter_serving_notes(const lt_adapter_config *config, lt_buffer *out, lt_err *err);

/* `lathe inspect` on a PEFT directory. */
lt_status lt_inspect_adapter(const char *directory, bool stats, FILE *out, lt_err *err);

#endif
