/* What a decoder is: its configuration, its parameters, its passes, its files.
 *
 * One block implementation serves every family (gpt2, gpt_neox, llama and mistral, qwen2, qwen3)
 * and every use (training, evaluation, prefill, single-token decoding). What differs between
 * families is data: fields of lt_model_config, and the name and layout table of model/families/.
 * Nothing here knows text: ids in, ids out. */
#ifndef LT_MODEL_H
#define LT_MODEL_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/batch.h"
#include "base/buffer.h"
#include "base/fsio.h"
#include "base/memory.h"
#include "base/status.h"
#include "kernels/kernels.h"

/* --- Configuration
 * -------------------------------------------------------------------------------------- */

typedef struct lt_family lt_family; /* model/families/families.h */

typedef enum lt_norm_kind { LT_NORM_LAYER, LT_NORM_RMS } lt_norm_kind;

typedef enum lt_rope_type {
    LT_ROPE_NONE,
    LT_ROPE_DEFAULT,
    LT_ROPE_LINEAR,
    LT_ROPE_LLAMA3
} lt_rope_type;

#define LT_MAX_EOS 8

/* Everything the passes need, in one place; the same for all families. */
typedef struct lt_model_config {
    const lt_family *family;
    int64_t vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads;
    int64_t head_dim, intermediate_size, max_position_embeddings;
    lt_norm_kind norm;
    double norm_eps;
    lt_activation activation;
    bool gated_mlp;         /* SwiGLU: down(silu(gate x) * up x); else down(activation(up x)) */
    bool parallel_residual; /* x + attn(norm1 x) + mlp(norm2 x), as GPT-NeoX */
    bool learned_positions; /* GPT-2's wpe */
    bool qk_norm;           /* RMS norm of each head of q and k before rotary (Qwen3) */
    bool attention_bias;    /* on q, k, v */
    bool attention_out_bias, mlp_bias;
    bool tie_word_embeddings;          /* lm_head is embed_tokens */
    int64_t sliding_window;            /* 0: none */
    int64_t sliding_window_from_layer; /* first layer that slides (Qwen2's max_window_layers) */
    double attention_scale;            /* 1 / sqrt(head_dim) */
    bool scale_by_inverse_layer; /* GPT-2's scale_attn_by_inverse_layer_idx: layer i divides scores
                                    by i + 1 */
    lt_rope_type rope_type;
    int64_t rotary_dim; /* dimensions of a head that are turned; <= head_dim, even */
    double rope_theta, rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_max_position;
    double initializer_range;
    double embd_pdrop, resid_pdrop,
        attn_pdrop;                     /* as the file has them; training uses its own setting */
    int32_t bos_token_id, pad_token_id; /* -1: none */
    int32_t eos_token_ids[LT_MAX_EOS];  /* generation_config.json wins over config.json */
    int eos_token_count;
    json_t *source; /* the config.json this came from, kept so that saving changes only what
                       changed; owned */
    json_t *generation_source; /* generation_config.json or NULL; owned */
} lt_model_config;

/* Reads and checks config.json (and generation_config.json beside it). Sizes are bounded (layers <=
 * 1024, vocab <= 4 M, heads consistent); an unsupported architecture, activation, rope type or
 * quantisation is LT_ERR_UNSUPPORTED and named. */
lt_status lt_model_config_load(const char *directory, lt_model_config *out, lt_err *err);
lt_status lt_model_config_parse(const json_t *config, const char *where, lt_model_config *out,
                                lt_err *err);
void lt_model_config_free(lt_model_config *config);

/* A fresh model's shape: what `lathe init` asks for. Zero or NULL: the family's default. */
typedef struct lt_model_shape {
    const char *family; /* "gpt2", "gpt_neox", "llama", "qwen2", "qwen3" */
    const char *preset; /* "gpt2-124m", "pythia-70m", ...: fills the rest */
    int64_t layers, hidden_size, heads, kv_heads, intermediate_size, max_position;
    double initializer_range; /* standard deviation of fresh matrices */
    int64_t vocab_size;
    int32_t bos_token_id, eos_token_id, pad_token_id; /* -1: none */
} lt_model_shape;

lt_status lt_model_config_make(const lt_model_shape *shape, lt_model_config *out, lt_err *err);
/* The presets' names, NULL-terminated, and the families' names. */
const char *const *lt_model_presets(void);
/* Rows of the published model's vocabulary; 0: there is no preset of that name. */
int64_t lt_model_preset_vocab(const char *name);
const char *const *lt_model_families(void);

/* --- Parameters
 * ----------------------------------------------------------------------------------------- */

typedef enum lt_init_kind {
    LT_INIT_ZERO,
    LT_INIT_ONE,
    LT_INIT_NORMAL,
    LT_INIT_UNIFORM
} lt_init_kind;

/* One row of the descriptor table: it drives allocation, initialisation, the optimizer, files,
 * tests and the inventory. */
typedef struct lt_param {
    char name[96];  /* "layers.3.attention.qkv.weight"; the files' names come from the family. An
                       adapter's rows have the names of its own file */
    int adapter;    /* whose row it is: a place in lt_model.adapters, or -1: the model's own */
    lt_dtype dtype; /* the backend's real; bf16 for matrices of a frozen base that is held so */
    int ndim;
    int64_t
        shape[2]; /* canonical: matrices are [out, in]; qkv is [q; k; v], gate_up is [gate; up] */
    int layer;    /* 0 .. layers - 1; -1: embeddings; layers: final norm and head */
    lt_init_kind init;
    double init_scale;       /* NORMAL: standard deviation; UNIFORM: bound */
    bool decay;              /* matrices: weight decay applies */
    bool trainable;          /* false: no gradient, no optimizer state */
    bool summed;             /* backward adds to its gradient in several places, so it starts at 0;
                                others are written whole, by one product */
    bool joined;             /* the next row follows without a gap: both are one matrix too */
    bool per_head;           /* an adapter's row that lies in files as GPT-NeoX's q, k and v do */
    int64_t offset;          /* elements from the start of its block of weights */
    int64_t gradient_offset; /* elements from the start of the gradients; -1 when frozen */
    lt_tensor weight;        /* view into the weights of the model or adapter; absent in a plan */
    lt_tensor gradient;      /* view into lt_model.gradients, or absent */
} lt_param;

/* A run of trainable parameters that lie together and share `decay`: one AdamW call, where it is
 * not divided. Offsets and counts in elements, padding (zeros) included. */
typedef struct lt_segment {
    int first_param;
    int64_t offset, gradient_offset, count;
    int layer;
    bool decay;
} lt_segment;

/* --- Sharding
 * -------------------------------------------------------------------------------------------- */

/* What several processes that train one model divide among themselves (ZeRO; train/shard.h). */
typedef enum lt_shard {
    LT_SHARD_NONE,
    LT_SHARD_OPTIMIZER,
    LT_SHARD_GRADIENTS,
    LT_SHARD_PARAMETERS,
    LT_SHARD_LEVELS
} lt_shard;

/* The zero value: one process, nothing divided. */
typedef struct lt_sharding {
    lt_shard level;
    int rank, world_size;
} lt_sharding;

/* The embeddings (layer -1), a block, or final norm and head (layer num_hidden_layers): a run of
 * the model's own rows, exchanged as one. Rows of adapters are in none, and whole everywhere.
 *
 * Offsets and counts in elements, padding included. Divided counts are multiples of world_size *
 * LT_QUANTISED_BLOCK, and process r's part is the r-th: count / world_size elements from
 * offset + r * count / world_size on. Gradients of a divided unit lie as its weights do, those of
 * frozen rows left out but for their place. So all parts together lie, in their order, at offset /
 * world_size: parts of weights, of gradients, and the optimizer's state. */
typedef struct lt_unit {
    int layer;
    int first_param, param_count;
    int64_t weight_offset, weight_count;     /* among the weights in real */
    int64_t half_offset, half_count;         /* among those in bf16 */
    int64_t gradient_offset, gradient_count; /* among the gradients; 0: none of it is trained */
} lt_unit;

/* Where a pass is. Forward goes up from layer -1, backward down to the lowest trained one, and to
 * -1 when that is 0. In training the head's forward and backward are one: both of its BEFOREs, then
 * both AFTERs. */
typedef enum lt_unit_point {
    LT_BEFORE_FORWARD,  /* weights are about to be read */
    LT_AFTER_FORWARD,   /* have been */
    LT_BEFORE_BACKWARD, /* weights (not the embeddings') are about to be read, gradients written */
    LT_AFTER_BACKWARD   /* the unit's gradients of this batch are complete */
} lt_unit_point;

/* Told by every pass, in the same order whatever is in the batch, so that collectives can hang on
 * it. A tied embedding is also the head's, whose pass reads its weights and begins its gradients;
 * these are complete at its own place. */
typedef struct lt_unit_observer {
    void *context;
    lt_status (*at)(void *context, const lt_unit *unit, lt_unit_point point, lt_err *err);
} lt_unit_observer;

typedef struct lt_adapter lt_adapter; /* model/adapter.h */

typedef struct lt_model {
    lt_model_config config;
    const lt_backend *backend; /* borrowed */
    lt_dtype matrix_dtype;     /* of the model's own matrices and embeddings: real, or bf16 */
    lt_dtype gradient_dtype;   /* statistics; real may be set before gradients are allocated */
    lt_param *params;          /* the model's own rows, then those of its adapters */
    int param_count, own_param_count;
    lt_segment *segments; /* of trainable parameters, in order */
    int segment_count;
    int64_t weight_count, half_count, gradient_count; /* elements, padding included: own rows in
                                                         real, own rows in bf16, gradients */
    lt_adapter **adapters;                            /* owned */
    int adapter_count;
    const lt_adapter *active; /* the adapter that passes over batches use; NULL: none */
    lt_arena weights, gradients;
    lt_tensor rope_cos,
        rope_sin; /* statistics [max_position, rotary_dim / 2]; in the weights arena */

    lt_sharding sharding;
    lt_unit *units; /* [num_hidden_layers + 2]: that of layer i at i + 1 */
    lt_unit_observer observer;
    /* Parts, where there is no whole: [elements / world_size], else absent. Rows' views are then of
     * rooms that units share: two for the blocks by turns, and the ends' own. */
    lt_tensor weight_parts, half_parts; /* LT_SHARD_PARAMETERS */
    lt_tensor gradient_parts;           /* from LT_SHARD_GRADIENTS on */
} lt_model;

/* A unit as a whole and this process's part of it, as one-dimensional tensors: in its own place or
 * in its room. Without sharding the part is the whole. Absent where there is nothing: no rows in
 * bf16, nothing trained. */
lt_tensor lt_unit_weights(const lt_model *model, const lt_unit *unit);
lt_tensor lt_unit_weight_part(const lt_model *model, const lt_unit *unit);
lt_tensor lt_unit_half_weights(const lt_model *model, const lt_unit *unit);
lt_tensor lt_unit_half_part(const lt_model *model, const lt_unit *unit);
lt_tensor lt_unit_gradients(const lt_model *model, const lt_unit *unit);
lt_tensor lt_unit_gradient_part(const lt_model *model, const lt_unit *unit);
/* Units that can be in the same room: only one of them is there at a time. -1: a place of its own.
 */
int lt_unit_room(const lt_model *model, const lt_unit *unit);

/* A run of trained elements of one row, or of several with the same `decay`, that this process
 * steps, and where in the optimizer's state they are. */
typedef struct lt_own_piece {
    int param;            /* the row it begins in */
    int64_t first;        /* elements of that row before it */
    int64_t count;        /* padding included */
    int64_t state_offset; /* among the elements that this process steps */
    int64_t element;      /* of the undivided gradient: the same for any world_size */
    lt_tensor weights;    /* [count] */
    lt_tensor gradient;   /* [count] */
    bool decay;
} lt_own_piece;

/* All of them, in order. Caller frees. After gradients have been allocated. */
lt_status lt_model_own_pieces(const lt_model *model, lt_own_piece **out, int *count, lt_err *err);
/* Elements that this process steps, padding included: the size of the optimizer's state. */
int64_t lt_model_own_count(const lt_model *model);
/* The part of one row that this process steps: `*count` elements from `*first` of the row on, at
 * `*state_offset`. A count of 0: none. */
void lt_model_own_range(const lt_model *model, const lt_param *param, int64_t *first,
                        int64_t *count, int64_t *state_offset);

/* Tells the observer that a unit's weights are about to be read outside a pass: by the start of an
 * adapter, or by saving. On all ranks alike. */
lt_status lt_model_need_unit(const lt_model *model, int layer, lt_err *err);

/* Weights from a Hugging Face directory: model.safetensors or a sharded index; f32, f16, bf16;
 * memory-mapped and converted to the backend's real. Or from a GGUF file (model/gguf_model.h).
 * Missing, unexpected or misshapen tensors are errors naming file and tensor. */
lt_status lt_model_load(const char *directory, const lt_backend *backend, lt_model **out,
                        lt_err *err);
/* The same with matrices and embeddings held as `matrices`: the backend's real, or LT_BF16 at half
 * the memory (rounded once, exact when the file is bf16). A bf16 model can only be frozen. */
lt_status lt_model_load_as(const char *directory, const lt_backend *backend, lt_dtype matrices,
                           lt_model **out, lt_err *err);

typedef struct lt_model_load_settings {
    lt_dtype matrices;    /* as for lt_model_load_as */
    int64_t vocab_size;   /* grown to, as by lt_model_grow_vocab; 0: as it is */
    lt_sharding sharding; /* each process keeps what is its own, and never holds more than that and
                             a unit's room */
} lt_model_load_settings;

lt_status lt_model_load_with(const char *directory, const lt_backend *backend,
                             const lt_model_load_settings *settings, lt_model **out, lt_err *err);
/* Fresh weights: the family's standard initialisation, a pure function of the seed. Takes over
 * `config` (zeroes it). */
lt_status lt_model_create(lt_model_config *config, const lt_backend *backend, uint64_t seed,
                          lt_model **out, lt_err *err);
void lt_model_free(lt_model *model);

const lt_param *lt_model_param(const lt_model *model, const char *name); /* NULL: no such row */
int64_t lt_model_parameter_count(const lt_model *model, bool trainable_only);

/* Grows the embedding and, when untied, the head to `vocab_size` rows; new rows start as the mean
 * of the old ones. A smaller size is LT_ERR_USAGE: nothing ever shrinks. Before gradients are
 * allocated. */
lt_status lt_model_grow_vocab(lt_model *model, int64_t vocab_size, lt_err *err);

/* Gives embedding and head memory of their own: a tied model becomes an untied one that computes
 * the same. Nothing to do for an untied one. */
lt_status lt_model_untie(lt_model *model, lt_err *err);

/* Which rows of a model without adapters are trained; the zero value: all. Patterns are regular
 * expressions, found anywhere in a row's name or in its Hugging Face names; one that finds nothing
 * is LT_ERR_USAGE. */
typedef struct lt_trainable {
    int64_t freeze_layers; /* embeddings (when above 0) and the first blocks stay as they are */
    const char *train;     /* only rows that match are trained; NULL: all */
    const char *freeze;    /* rows that match are not; NULL: none */
} lt_trainable;

/* Before gradients are allocated. */
lt_status lt_model_set_trainable(lt_model *model, const lt_trainable *what, lt_err *err);

/* "layers.0-11.attention.qkv.weight   [2304, 768]   21233664": a line for each kind of trained row,
 * with the elements of all blocks. */
lt_status lt_model_describe_trainable(const lt_model *model, lt_buffer *out, lt_err *err);
/* Memory for gradients of trainable rows, zeroed; fixes the segments. */
lt_status lt_model_allocate_gradients(lt_model *model, lt_err *err);

/* lt_model_save by all processes at once: each writes some of the tensors into the same files,
 * which are byte for byte those that one process writes. Weights of other processes come through
 * the model's observer. The directory is one that is being made (base/fsio.h). */
lt_status lt_model_save_together(const lt_model *model, const char *directory, lt_dtype dtype,
                                 const lt_file_group *group, lt_err *err);

/* Writes config.json, generation_config.json and model.safetensors (shards of at most 5 GB and an
 * index when larger) into an existing directory, in the names and layouts of Hugging Face, as
 * `dtype` (LT_F32, LT_BF16, LT_F16). The eos and pad ids of the config go into both JSON files. The
 * caller makes the directory durable (base/fsio.h). */
lt_status lt_model_save(const lt_model *model, const char *directory, lt_dtype dtype, lt_err *err);
/* The `dtype` of such a name: PyTorch's ("bfloat16"), as config.json has it, or lt_dtype_name's
 * ("bf16"). LT_F32 for any other, and NULL. */
lt_dtype lt_file_dtype(const char *name);

/* Resolves what a user types after --model: a directory, a GGUF file, or org/name in the local
 * Hugging Face cache (HF_HOME, HF_HUB_CACHE, refs/main). LT_ERR_IO with where it looked. */
lt_status lt_model_resolve(const char *name, lt_buffer *directory, lt_err *err);

/* `lathe inspect` on a model directory (family, configuration, inventory; the weights are checked
 * against the configuration) or on one safetensors file. `stats`: smallest, largest and mean value
 * of each tensor too. */
lt_status lt_inspect_model(const char *directory, bool stats, FILE *out, lt_err *err);
lt_status lt_inspect_safetensors(const char *path, bool stats, FILE *out, lt_err *err);

/* --- Memory plan
 * ------------------------------------------------------------------------------------------ */

typedef enum lt_recompute {
    LT_RECOMPUTE_NONE,      /* keep every activation */
    LT_RECOMPUTE_SELECTIVE, /* norms and MLP activations are computed again in backward */
    LT_RECOMPUTE_BLOCK,     /* only each block's input is kept */
} lt_recompute;

typedef struct lt_workspace_settings {
    int64_t rows, length; /* the largest batch that will be passed */
    bool training;        /* backward will be run */
    lt_recompute recompute;
    double embd_pdrop, resid_pdrop, attn_pdrop; /* rates in use: 0 unless asked for */
    int64_t head_chunk; /* rows of logits held at a time; 0: chosen from the vocabulary's size */
} lt_workspace_settings;

/* What is trained, for a plan. The zero value: every parameter. */
typedef struct lt_plan_settings {
    lt_workspace_settings workspace;
    lt_trainable trainable;                  /* without an adapter */
    const struct lt_adapter_config *adapter; /* with one, the model itself is frozen; or NULL */
    bool half_base;                          /* frozen matrices in bf16 */
    bool half_gradients;                     /* gradients in real where that is bf16 */
    lt_sharding sharding;                    /* of any rank: all take the same */
    lt_buffer *inventory;                    /* lt_model_describe_trainable is appended; or NULL */
} lt_plan_settings;

/* Bytes, exact, with no device and no allocation. */
typedef struct lt_memory_plan {
    size_t weights, adapter, gradients, activations;
    int64_t parameters, trainable_parameters; /* the adapter's included */
    int64_t gradient_count;                   /* elements, padding included */
    int64_t own_count;                        /* of them, that one process steps */
    int64_t block_elements, ends_elements;    /* of one block, of both ends: what is exchanged */
    size_t largest_gradient_part; /* one process's, of the unit that has the most of them */
} lt_memory_plan;

lt_status lt_model_plan(const lt_model_config *config, const lt_backend *backend,
                        const lt_plan_settings *settings, lt_memory_plan *out, lt_err *err);

/* --- Passes
 * ------------------------------------------------------------------------------------------------
 */

/* Activations and scratch for batches up to a size. Reused for every step; one per thread of
 * control. */
typedef struct lt_workspace lt_workspace;
lt_status lt_workspace_create(const lt_model *model, const lt_workspace_settings *settings,
                              lt_workspace **out, lt_err *err);
void lt_workspace_free(lt_workspace *workspace);

typedef struct lt_loss {
    double sum;      /* of -log p(target) over trained tokens, in nats */
    int64_t tokens;  /* trained tokens */
    int64_t correct; /* of them, predicted exactly by argmax */
} lt_loss;

/* A batch of 0 rows goes by with nothing computed: gradients are zeroed unless `accumulate`, and
 * the model's observer is told of everything.
 *
 * The gradient of the SUM of the batch's losses, for trainable rows: with `accumulate` it is added
 * to their gradients (so that micro-batches simply add up; the division by the global token count
 * happens once, in the clip scale), else it replaces them, which spares the first micro-batch of a
 * step clearing and reading them. Adds to *loss; where that is NULL the loss stays on the device,
 * and nothing waits, until lt_workspace_take_loss. `dropout` keys the masks: a different `stream`
 * for each micro-batch; its rate is not used. */
lt_status lt_model_forward_backward(lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                                    lt_dropout_mask dropout, bool accumulate, lt_loss *loss,
                                    lt_err *err);

/* Adds the losses that were left on the device to *loss, and forgets them there. */
lt_status lt_workspace_take_loss(lt_workspace *workspace, lt_loss *loss, lt_err *err);
/* The same with no wait: they go to `totals`, f64 [3] on the device: the sum of losses, trained
 * tokens, correct ones. */
lt_status lt_workspace_move_loss(lt_workspace *workspace, lt_tensor totals, lt_err *err);

/* Forward only. token_loss: [rows * length] or NULL; 0 where the target is LT_IGNORE. */
lt_status lt_model_evaluate(const lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                            lt_loss *loss, double *token_loss, lt_err *err);

/* Ids that may come after places of a batch. */
typedef struct lt_targets {
    const int32_t *places; /* [count]: row * length + column of the id before. A place may be listed
                              several times, with other ids */
    const int32_t *ids;    /* [count] */
    int64_t count;         /* at most rows * length of the workspace */
} lt_targets;

/* How likely each of them is: natural logarithm, and whether the model finds it the likeliest of
 * all. Forward only; the batch's own targets are not used. Both results: [count]. */
lt_status lt_model_score(const lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                         const lt_targets *targets, double *log_probability, uint8_t *is_likeliest,
                         lt_err *err);

/* All passes over batches, and this one, use model->active; its virtual tokens stand in front of
 * every document, and are no part of what is returned.
 *
 * Logits of every position of a batch (targets are not used): logits is host memory [rows, length,
 * vocab], f32. */
lt_status lt_model_logits(const lt_model *model, lt_workspace *workspace, const lt_batch *batch,
                          float *logits, lt_err *err);

/* --- Decoding with a cache
 * ------------------------------------------------------------------------------------ */

/* Keys and values of everything read so far, for `rows` sequences of at most `capacity` tokens. */
typedef struct lt_kv_cache lt_kv_cache;
lt_status lt_kv_cache_create(const lt_model *model, int64_t rows, int64_t capacity,
                             lt_kv_cache **out, lt_err *err);
void lt_kv_cache_free(lt_kv_cache *cache);
int64_t lt_kv_cache_length(const lt_kv_cache *cache, int64_t row); /* tokens held for a row */
void lt_kv_cache_truncate(lt_kv_cache *cache, int64_t row, int64_t length);
/* Empties a row for a new sequence that uses `adapter` (one of the model's, or NULL). The virtual
 * tokens of a prefix or prompt are put in front, and count as tokens. Rows may use different
 * adapters. */
lt_status lt_kv_cache_start(lt_kv_cache *cache, int64_t row, const lt_adapter *adapter,
                            lt_err *err);

/* Reads counts[r] (0 to length) new ids of each row r through the same block code as training and
 * appends them to the cache. ids: [rows, length], right-padded. logits: host f32 [rows, vocab],
 * after each row's last new id; rows with no new id keep what they had. The workspace is for at
 * least rows x length, not training. More than the capacity or the model's max_position_embeddings
 * is LT_ERR_LIMIT. */
lt_status lt_model_decode(const lt_model *model, lt_workspace *workspace, lt_kv_cache *cache,
                          const int32_t *ids, const int64_t *counts, int64_t length, float *logits,
                          lt_err *err);

/* What the choice of a row's next id depends on beside its logits. */
typedef struct lt_decode_row {
    const int32_t *history; /* the row's ids, the new ones included */
    int64_t history_count;
    int64_t
        sequence; /* which random numbers: an answer does not depend on what it is batched with */
} lt_decode_row;

/* lt_model_decode, then the choice of the next id of each row with new ids (lt_sample_tokens) on
 * the device: next[r], one number a row instead of its logits. rows: [rows]. */
lt_status lt_model_decode_next(const lt_model *model, lt_workspace *workspace, lt_kv_cache *cache,
                               const int32_t *ids, const int64_t *counts, int64_t length,
                               const lt_decode_row *rows, const lt_sampling *sampling,
                               int32_t *next, lt_err *err);

/* Called with each new id of each sequence, in order. `is_stop`: the id is one of the stop ids, and
 * the answer ends with it. Return false to end this sequence. */
typedef bool (*lt_on_token)(void *context, int64_t sequence, int32_t id, bool is_stop);

typedef struct lt_generate_settings {
    int64_t max_new_tokens;
    lt_sampling sampling;
    const int32_t *stop_ids; /* generation of a sequence ends with one of these */
    int64_t stop_id_count;
    int64_t max_rows; /* sequences decoded side by side; the rest wait their turn */
    const lt_adapter *const *adapters; /* [prompt_count], entries may be NULL; or NULL: none. One
                                          batch may mix them; prompts of one adapter side by side
                                          are faster */
    const volatile sig_atomic_t *cancelled; /* may be NULL; not 0: LT_ERR_INTERRUPTED before the
                                               next step */
} lt_generate_settings;

/* Continues every prompt; batched, with a key/value cache. A prompt that leaves no room within
 * max_position_embeddings is LT_ERR_LIMIT naming it; an answer that reaches that bound ends there.
 */
lt_status lt_model_generate(const lt_model *model, const lt_ids *prompts, int64_t prompt_count,
                            const lt_generate_settings *settings, lt_on_token on_token,
                            void *context, lt_err *err);

#endif
