/* The families: what each calls its settings in config.json and its tensors in files, and how those
 * tensors are laid out. Tables only; model/config.c and model/formats/hf_directory.c read them, in
 * both directions.
 *
 * In names of rows and of files '#' stands for the number of the block. */
#ifndef LT_MODEL_FAMILIES_H
#define LT_MODEL_FAMILIES_H

#include <stddef.h>

#include "model/model.h"

/* One setting of config.json and the field of lt_model_config it fills. Two rows may share a key.
 */
typedef enum lt_key_kind {
    LT_KEY_INT,
    LT_KEY_NUMBER,
    LT_KEY_BOOL,
    LT_KEY_ACTIVATION,
    LT_KEY_UNIT_SCALE, /* bool; false: attention_scale is 1 instead of 1 / sqrt(head_dim) */
} lt_key_kind;

typedef struct lt_config_key {
    const char *key;
    lt_key_kind kind;
    size_t offset; /* into lt_model_config */
    bool required;
} lt_config_key;

/* How a row of the parameter table lies in files. Canonical matrices are [out, in], qkv is [q; k;
 * v]. */
typedef enum lt_layout {
    LT_LAYOUT_SAME,       /* one tensor, as it is */
    LT_LAYOUT_TRANSPOSED, /* one tensor, [in, out]: GPT-2's Conv1D */
    LT_LAYOUT_PER_HEAD,   /* one tensor, [q; k; v] of head 0, then of head 1, ...: GPT-NeoX */
    LT_LAYOUT_PARTS,      /* several tensors that lie under each other: q, k, v or gate, up */
} lt_layout;

#define LT_MAX_PARTS 3

typedef struct lt_family_row {
    const char *row;                 /* "layers.#.attention.qkv.weight" */
    const char *files[LT_MAX_PARTS]; /* "model.layers.#.self_attn.q_proj.weight", ... */
    lt_layout layout;
} lt_family_row;

typedef enum lt_sliding_rule {
    LT_SLIDING_NONE,  /* `sliding_window` means nothing in this family */
    LT_SLIDING_ALL,   /* every layer (Mistral) */
    LT_SLIDING_UPPER, /* with use_sliding_window, from max_window_layers on (Qwen) */
} lt_sliding_rule;

struct lt_family {
    const char *name;         /* what --family takes; also config.json's model_type */
    const char *architecture; /* class that saves and loads it */
    const char *base_class;   /* the same without head: its files lack `prefix` */
    const char *prefix;       /* "model.": may be missing in front of every name but the head's */
    const lt_family_row *rows;
    size_t row_count;
    const char *head_module; /* what the class calls its head, where files say otherwise; or NULL */
    const char *const *ignored; /* endings of names that are buffers; NULL-terminated */
    const lt_config_key *keys;
    size_t key_count;
    lt_model_config defaults; /* where config.json is silent, and what can not be set there */
    const char *theta_key;    /* older spellings of rope_parameters' rope_theta ... */
    const char *partial_key;  /* ... and partial_rotary_factor; NULL: heads turn whole */
    double partial_default;
    lt_sliding_rule sliding;
    bool scaled_residual_init; /* out and down projections: std / sqrt(2 layers) */
    const char *preset;        /* the shape when nothing is asked for */
};

#define LT_FAMILY_KEY(key, kind, field)                    \
    {                                                      \
        key, kind, offsetof(lt_model_config, field), false \
    }
#define LT_FAMILY_KEY_REQUIRED(key, kind, field)          \
    {                                                     \
        key, kind, offsetof(lt_model_config, field), true \
    }
#define LT_COUNT_OF(array) (sizeof(array) / sizeof *(array))

extern const lt_family lt_family_gpt2, lt_family_gpt_neox, lt_family_llama, lt_family_mistral,
    lt_family_qwen2, lt_family_qwen3;

/* llama, mistral, qwen2 and qwen3 name their settings and tensors alike (llama.c). The keys of
 * biases are the last ones, so that a family without them has the first so many. */
enum {
    LT_LLAMA_ROWS = 15,
    LT_LLAMA_KEYS = 13,
    LT_LLAMA_KEYS_ATTENTION_BIAS = LT_LLAMA_KEYS + 2,
    LT_LLAMA_KEYS_MLP_BIAS = LT_LLAMA_KEYS_ATTENTION_BIAS + 1,
};
extern const lt_family_row lt_llama_rows[LT_LLAMA_ROWS];
extern const lt_config_key lt_llama_keys[LT_LLAMA_KEYS_MLP_BIAS];
extern const char *const lt_llama_ignored[];

/* What these have in common of lt_family, and of its defaults. */
#define LT_LLAMA_FAMILY(keys_it_has)                                                \
    .prefix = "model.", .rows = lt_llama_rows, .row_count = LT_LLAMA_ROWS,          \
    .ignored = lt_llama_ignored, .keys = lt_llama_keys, .key_count = (keys_it_has), \
    .theta_key = "rope_theta", .partial_default = 1
#define LT_LLAMA_DEFAULTS                                                                       \
    .norm = LT_NORM_RMS, .norm_eps = 1e-6, .activation = LT_ACTIVATION_SILU, .gated_mlp = true, \
    .initializer_range = 0.02, .rope_type = LT_ROPE_DEFAULT, .rope_theta = 10000,               \
    .pad_token_id = -1

/* NULL when there is none. */
const lt_family *lt_family_by_name(const char *name);
const lt_family *lt_family_by_architecture(const char *architecture);
const lt_family_row *lt_family_find_row(const lt_family *family, const char *row);

/* Puts the block's number in place of '#'. `out` holds at least `size` bytes; false when it is too
 * small. */
bool lt_family_expand(const char *pattern, int layer, char *out, size_t size);

#endif
