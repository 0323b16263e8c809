/* What an adapter is inside model/: its rows, and the places where it takes part in a pass.
 *
 * A method is one file with one lt_adapter_method; the passes call its hooks and know none by name.
 * Adding a method: that file, its line in the list of adapter.c, its kind in model/adapter.h. */
#ifndef LT_MODEL_ADAPTERS_INTERNAL_H
#define LT_MODEL_ADAPTERS_INTERNAL_H

#include "model/adapter.h"
#include "model/families/families.h"
#include "model/linear.h"

/* --- LoRA's shape ------------------------------------------------------------------------------
 */

/* One Hugging Face module of a block's matrix: all of it (c_attn), or some rows (q_proj). */
typedef struct lt_lora_part {
    int64_t first_row, rows;
    int64_t first_rank, rank; /* rows of the stacked A; rank 0: not adapted */
    double scaling;
    int a, b, magnitude;   /* rows of the parameter table; -1: none */
    lt_tensor norm, scale; /* DoRA: [rows], made anew in each pass; in the adapter's arena */
} lt_lora_part;

/* The parts' A lie under each other: x A^T is one product for all of them. */
typedef struct lt_lora_linear {
    int64_t rank; /* of all parts together; 0: not adapted */
    int part_count;
    lt_lora_part parts[LT_MAX_PARTS];
} lt_lora_linear;

/* --- The network a prompt comes from -----------------------------------------------------------
 */

enum { LT_ENCODER_STAGES = 3 };

/* table = embedding through linear stages with an activation between them. */
typedef struct lt_prompt_encoder {
    int embedding, weight[LT_ENCODER_STAGES], bias[LT_ENCODER_STAGES]; /* rows */
    int stages; /* 0: the table is a row of its own, `embedding` */
    lt_activation activation;
    int64_t widest; /* of the stages' inputs and outputs */
} lt_prompt_encoder;

/* --- Adapters ----------------------------------------------------------------------------------
 */

typedef struct lt_adapter_method {
    lt_adapter_kind kind;
    const char *name, *peft_type;
    bool runs_tokens; /* virtual tokens go through the blocks; else they are keys and values */

    /* Checks the configuration against the model and appends the rows. */
    lt_status (*attach)(lt_model *model, lt_adapter *adapter, lt_err *err);
    /* What a fresh one has beyond its rows' own initialisation; may be NULL. */
    lt_status (*initialise)(lt_model *model, lt_adapter *adapter, uint64_t seed, lt_err *err);
    /* After its rows have been read from a file; may be NULL. */
    lt_status (*loaded)(lt_model *model, lt_adapter *adapter, lt_err *err);
    /* Device memory beside the rows; may be NULL. */
    void (*carve)(lt_model *model, lt_adapter *adapter, lt_arena *arena);
    /* Before the embedding (layer -1) and before each block; may be NULL. */
    lt_status (*begin)(const lt_pass *pass, const lt_adapter *adapter, int64_t layer, lt_err *err);
    /* After the last block of backward; may be NULL. */
    lt_status (*end)(const lt_pass *pass, const lt_adapter *adapter, lt_err *err);
    /* In place of the plain product, for all tokens of `args`; NULL: linear modules stay plain.
     * *done false: this one does. */
    lt_status (*linear_forward)(const lt_pass *pass, const lt_adapter *adapter,
                                const lt_linear_args *args, bool *done, lt_err *err);
    lt_status (*linear_backward)(const lt_pass *pass, const lt_adapter *adapter,
                                 const lt_linear_backward_args *args, bool *done, lt_err *err);
    /* Into the model's own rows; NULL: can not be merged. */
    lt_status (*merge)(lt_model *model, const lt_adapter *adapter, lt_err *err);

    lt_status (*read_config)(const json_t *json, const char *where, lt_adapter_config *out,
                             lt_err *err);
    lt_status (*write_config)(const lt_model *model, const lt_adapter *adapter, json_t *out,
                              lt_err *err);
} lt_adapter_method;

extern const lt_adapter_method lt_method_lora, lt_method_prefix, lt_method_prompt,
    lt_method_p_tuning;

struct lt_adapter {
    char *name;
    const lt_adapter_method *method;
    lt_adapter_config config;
    int index;                    /* in model->adapters */
    int first_param, param_count; /* its rows */
    int64_t weight_count;         /* elements, padding included */
    lt_arena weights;             /* rows and what carve asks for */
    int embed, head;              /* rows that stand in for the model's; -1: none */
    lt_dtype file_dtype;
    lt_lora_linear *linears;  /* [layers, LT_LINEAR_COUNT]; NULL unless LoRA */
    int64_t rank, dora_width; /* widest of a linear module: stacked rank; output, with DoRA */
    int64_t input_width;      /* widest input, with dropout */
    int64_t virtual_tokens, table_width; /* 0 unless prefix or prompt */
    lt_prompt_encoder encoder;
};

/* --- adapter.c: life of an adapter -------------------------------------------------------------
 */

const lt_adapter_method *lt_adapter_method_of(lt_adapter_kind kind);
const lt_adapter_method *lt_adapter_method_by_peft_type(const char *peft_type);
/* Rows and sizes, no memory: copies `config`. The adapter is model->adapters' last. */
lt_status lt_adapter_attach(lt_model *model, const lt_adapter_config *config, const char *name,
                            lt_err *err);
/* The model's own rows frozen, the adapter's trained. */
lt_status lt_adapter_train(lt_model *model, lt_adapter *adapter, lt_err *err);
void lt_adapter_carve(lt_model *model, lt_adapter *adapter, lt_arena *arena);
void lt_adapters_free(lt_model *model);
/* The adapter, when it takes part in products and embeddings; a prefix or prompt does not. */
const lt_adapter *lt_adapter_in_products(const lt_adapter *adapter);
/* Appends the rows of an adapter, and notes which they are. */
lt_status lt_adapter_add_rows(lt_model *model, lt_adapter *adapter, lt_param *rows, int row_count,
                              lt_err *err);

/* The tensor that PEFT's file has for an adapter's table, read or written. */
#define LT_PROMPT_TENSOR  "prompt_embeddings"
#define LT_ADAPTER_CONFIG "adapter_config.json"
#define LT_ADAPTER_FILE   "adapter_model.safetensors"
#define LT_ENCODER_FILE   "prompt_encoder.safetensors"

/* --- config.c ----------------------------------------------------------------------------------
 */

lt_status lt_adapter_config_copy(const lt_adapter_config *from, lt_adapter_config *to, lt_err *err);
lt_status lt_string_list_add(lt_string_list *list, const char *item, lt_err *err);
lt_status lt_read_string_list(const json_t *json, const char *key, const char *where,
                              lt_string_list *out, lt_err *err);
lt_status lt_copy_string(const char *from, char **to, lt_err *err);

/* --- targets.c: which Hugging Face modules a configuration means -------------------------------
 */

enum { LT_MODULE_SIZE = 72 }; /* bytes of a module's path */

/* The row of the parameter table that a linear module of a block is, '#' for the block's number. */
const char *lt_linear_row(bool gated, lt_linear which);

/* The module that a family calls a part of a block's matrix, with '#' for the number of the block:
 * "model.layers.#.self_attn.q_proj". False when there is no such part. */
bool lt_module_pattern(const lt_family *family, bool gated, lt_linear which, int part, char *out,
                       size_t size);
/* Does the configuration mean the module of this block? And its rank and alpha. */
lt_status lt_target_matches(const lt_adapter_config *config, const char *module, int64_t layer,
                            bool *matches, lt_err *err);
lt_status lt_target_rank(const lt_adapter_config *config, const char *module, int64_t *r,
                         double *alpha, lt_err *err);

/* Embedding and head, which can be trained whole. */
typedef struct lt_saved_module {
    const char *alias;         /* "embed", "lm_head" */
    char path[LT_MODULE_SIZE]; /* what the Hugging Face class calls it: "transformer.wte" */
    char file[LT_MODULE_SIZE]; /* what files of older versions call it; mostly the same */
} lt_saved_module;

void lt_saved_modules(const lt_family *family, lt_saved_module out[2]);
/* Does the name, as modules_to_save has it, mean this one? */
bool lt_saved_module_is(const lt_saved_module *module, const char *name);

/* --- prompt_encoder.c --------------------------------------------------------------------------
 */

/* Rows of the network `names` (embedding, then weight and bias of each stage), or with no stages of
 * the table alone. */
lt_status lt_prompt_rows(lt_model *model, lt_adapter *adapter, int stages, const int64_t *widths,
                         const char *const *names, lt_activation activation, lt_err *err);
/* The table [virtual tokens, width] of this pass: the row, or what `begin` has made of the network.
 */
lt_tensor lt_prompt_table(const lt_pass *pass, const lt_adapter *adapter);
/* Where its gradient is summed; absent when it is frozen. */
lt_tensor lt_prompt_table_gradient(const lt_pass *pass, const lt_adapter *adapter);
lt_status lt_prompt_begin(const lt_pass *pass, const lt_adapter *adapter, int64_t layer,
                          lt_err *err);
lt_status lt_prompt_end(const lt_pass *pass, const lt_adapter *adapter, lt_err *err);
lt_status lt_prompt_check(const lt_model *model, const lt_adapter *adapter, lt_err *err);
/* The keys that all three methods share in adapter_config.json. */
lt_status lt_prompt_read_config(const json_t *json, const char *where, lt_adapter_config *out,
                                lt_err *err);
lt_status lt_prompt_write_config(const lt_model *model, const lt_adapter *adapter, json_t *out,
                                 lt_err *err);

#endif
